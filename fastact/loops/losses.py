"""Losses of rows, with their gradients."""

# ruff: noqa: F821
# mypy: ignore-errors
# names that are not defined here are of the other modules of this folder, or bound by the backend

from __future__ import annotations

from fastact.spec.call import COLS, FLAGS, ROWS, SCALARS, VALUE_ONLY


def cross_entropy(call: Address) -> None:
    """x, labels (int64; -1: not counted), weights of classes (0: none) -> loss of each row, dx; work takes dx's place
    where VALUE_ONLY is among the flags. The scalar is the factor of dx."""
    rows: Int = load_int(call + ROWS)
    n: Int = load_int(call + COLS)
    x: Address = data(call, 0)
    labels: Address = data(call, 1)
    weights: Address = data(call, 2)
    loss: Address = data(call, 3)
    dx: Address = data(call, 4)
    sx: Int = row_step(call, 0)
    factor: Vec = load_param(load_int(call + SCALARS))
    zero: Vec = splat(0.0)
    many: Int = at_once(n, 0)
    ahead: Int = ahead_of(many * n)
    work: Address = stack()
    values: Address = work + VALUES
    inside: Int = n * SIZE <= NARROW
    stop: Int = least(many, rows)
    m: Vec = greatest_of_rows(x, sx, stop, n, work)
    row: Int = 0
    while row < rows:
        c, k = row_shift(m)
        source: Address = x
        if any_far(m):
            stop = 1
            c = first_value(c, values)
            k = first_value(k, values)
            finish__below(x, x, dx, n, c, c, c, c, 0)
            source = dx
        store(values + 3 * VECTOR, splat(1.0))
        i: Int = 0
        while i < stop:
            label: Int = load_int(labels + i * row_step(call, 1))
            label = label if label >= 0 else 0
            at: Address = i * SIZE
            store_value(values + 2 * VECTOR + at, load_value(x + i * sx + label * SIZE))
            if weights:
                store_value(values + 3 * VECTOR + at, load_value(weights + label * SIZE))
            i += 1
        e: Address = dx
        de: Int = row_step(call, 4)
        room: Int = 0
        if inside:
            e = work + SHARES
            de = NARROW
            room = LANES
        high, low, _ties = shares_of_rows__near(
            source, sx, e, de, room, stop, n, k, k, labels, row_step(call, 1), 0, ahead, work
        )
        x += stop * sx
        rest: Vec = plus(high, low)
        chosen: Vec = load(values + 2 * VECTOR)
        weight: Vec = load(values + 3 * VECTOR)
        share: Vec = exp_scaled(chosen, c, k)
        inverse: Vec = quotient(scale(weight, factor), plus(rest, share))
        top: Vec = m
        row += stop
        done: Int = stop
        if row < rows:
            stop = least(many, rows - row)
            m = greatest_of_rows(x, sx, stop, n, work)
        store(values, scale(weight, label_loss(chosen, top, rest, share, exp_scaled(top, c, k))))
        store(values + VECTOR, inverse)
        store(values + 2 * VECTOR, negative_product(rest, inverse))
        i = 0
        while i < done:
            label = load_int(labels)
            at = values + i * SIZE
            value: Vec = load_value(at)
            if label < 0:
                value = zero
            store_value(loss, value)
            if not load_int(call + FLAGS) & VALUE_ONLY:
                if label < 0:
                    finish__filled(dx, dx, dx, n, zero, zero, zero, zero, 0)
                else:
                    finish__scaled(e, e, dx, n, load_value(at + VECTOR), zero, zero, zero, 0)
                    store_value(dx + label * SIZE, load_value(at + 2 * VECTOR))
            labels += row_step(call, 1)
            loss += row_step(call, 3)
            dx += row_step(call, 4)
            e += de
            i += 1


def cross_entropy_of_shares(call: Address) -> None:
    """x, targets -> loss of each row, dx. The scalar is the factor of dx."""
    rows: Int = load_int(call + ROWS)
    n: Int = load_int(call + COLS)
    x: Address = data(call, 0)
    q: Address = data(call, 1)
    loss: Address = data(call, 2)
    dx: Address = data(call, 3)
    factor: Vec = load_param(load_int(call + SCALARS))
    row: Int = 0
    zero: Vec = splat(0.0)
    while row < rows:
        m: Vec = greatest(x, n)
        c, k = row_shift(m)
        high, low, ties = shares_of_row__share(x, 0, 0, n, m, k, -1, 1, x + AHEAD, SIZE, SIZE, 0)
        high, low = sum_lanes_pair(high, low)
        rest: Vec = plus(high, low)
        ties = sum_lanes(ties)
        top: Vec = exp_scaled(m, c, k)
        weight: Vec = total__first(q, q, n, zero, zero)
        far: Vec = total__distance(x, q, n, m, zero)
        store_value(loss, target_loss(far, weight, log_sum_over(rest, ties, top)))
        if not load_int(call + FLAGS) & VALUE_ONLY:
            share: Vec = target_factor(weight, rest, ties, top)
            finish__target_grad(x, q, dx, n, share, factor, c, k, 0)
        x += row_step(call, 0)
        q += row_step(call, 1)
        loss += row_step(call, 2)
        dx += row_step(call, 3)
        row += 1


def sigmoid_cross_entropy(call: Address) -> None:
    """x, targets, weights, positive weights (0: none) -> sum of the row's losses, dx, losses.
    dx is left alone where VALUE_ONLY is among the flags, losses where 0. The scalar is the factor of dx."""
    rows: Int = load_int(call + ROWS)
    n: Int = load_int(call + COLS)
    x: Address = data(call, 0)
    t: Address = data(call, 1)
    weights: Address = data(call, 2)
    positive: Address = data(call, 3)
    sums: Address = data(call, 4)
    dx: Address = data(call, 5)
    losses: Address = data(call, 6)
    factor: Vec = load_param(load_int(call + SCALARS))
    row: Int = 0
    while row < rows:
        high: Vec = splat(0.0)
        low: Vec = splat(0.0)
        i: Int = 0
        while i < n:
            at: Int = i * SIZE
            v: Vec = load_some(x + at, n - i, 0.0)
            target: Vec = load_some(t + at, n - i, 0.0)
            weight: Vec = splat(1.0)
            if weights:
                weight = load_some(weights + at, n - i, 0.0)
            pos: Vec = splat(1.0)
            if positive:
                pos = load_some(positive + at, n - i, 0.0)
            value: Vec = sigmoid_loss(v, target, weight, pos)
            if losses:
                store_some(losses + at, value, n - i)
            if not load_int(call + FLAGS) & VALUE_ONLY:
                store_some(dx + at, scale(sigmoid_loss_grad(v, target, weight, pos), factor), n - i)
            high, error = two_sum(high, first_lanes(value, n - i))
            low = plus(low, error)
            i += LANES
        store_value(sums, sum_lanes(plus(high, low)))
        x += row_step(call, 0)
        t += row_step(call, 1)
        weights += row_step(call, 2)
        positive += row_step(call, 3)
        sums += row_step(call, 4)
        dx += row_step(call, 5)
        losses += row_step(call, 6)
        row += 1
