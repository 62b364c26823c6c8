"""Losses of rows, with their gradients."""

# ruff: noqa: F821
# mypy: ignore-errors
# names that are not defined here are of the other modules of this folder, or bound by the backend

from __future__ import annotations

from fastact.spec.call import COLS, FLAGS, ROWS, SCALARS, VALUE_ONLY


def cross_entropy(call: Address) -> None:
    """x, labels (int64; -1: not counted), weights of classes (0: none) -> loss of each row, dx; work takes dx's place
    where VALUE_ONLY is among the flags. Scalars: factor of dx, label smoothing, factor of log(sum(exp(x)))^2."""
    rows: Int = load_int(call + ROWS)
    n: Int = load_int(call + COLS)
    x: Address = data(call, 0)
    labels: Address = data(call, 1)
    weights: Address = data(call, 2)
    loss: Address = data(call, 3)
    dx: Address = data(call, 4)
    sx: Int = row_step(call, 0)
    factor: Vec = load_param(load_int(call + SCALARS))
    smoothing: Vec = load_param(load_int(call + SCALARS) + 8)
    z: Vec = load_param(load_int(call + SCALARS) + 16)
    zero: Vec = splat(0.0)
    # the share of a target that each class has
    each: Vec = quotient(smoothing, number(n))
    general: Int = less(zero, smoothing) | less(zero, z)
    whole: Vec = number(n)
    if (weights != 0) & general:
        whole = total__first(weights, weights, n, zero, zero)
    far: Vec = zero
    many: Int = at_once(n, 0)
    ahead: Int = ahead_of(many * n)
    work: Address = stack()
    values: Address = work + VALUES
    inside: Int = n * SIZE <= NARROW
    stop: Int = least(many, rows)
    m: Vec = greatest_of_rows__logit(x, sx, x, sx, stop, n, -1, zero, 0, work)
    row: Int = 0
    while row < rows:
        c, k = row_shift(m)
        source: Address = x
        alone: Int = any_far(m)
        if alone:
            stop = 1
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
        if alone:
            c = first_value(c, values)
            k = first_value(k, values)
            # dx may be x: what is chosen is kept already
            finish__below(x, x, dx, n, c, c, c, c, 0)
            source = dx
        if less(zero, smoothing):
            far = gaps_of_rows(source, sx, weights, stop, n, minus(m, c), work)
        e: Address = dx
        de: Int = row_step(call, 4)
        room: Int = 0
        if inside:
            e = work + SHARES
            de = NARROW
            room = LANES
        high, low, _ties = shares_of_rows__near(
            source, sx, source, sx, e, de, room, stop, n, -1, k, k, k, 0, labels, row_step(call, 1), 0, ahead, work
        )
        x += stop * sx
        rest: Vec = plus(high, low)
        chosen: Vec = load(values + 2 * VECTOR)
        weight: Vec = load(values + 3 * VECTOR)
        lost, inverse, here = loss_of_label(
            chosen, m, rest, c, k, weight, factor, general, smoothing, each, whole, far, z
        )
        row += stop
        done: Int = stop
        if row < rows:
            stop = least(many, rows - row)
            m = greatest_of_rows__logit(x, sx, x, sx, stop, n, -1, zero, 0, work)
        store(values, lost)
        store(values + VECTOR, inverse)
        store(values + 2 * VECTOR, here)
        every: Vec = scale(each, factor)
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
                    cross_entropy_gradient(e, weights, dx, n, load_value(at + VECTOR), every)
                    store_value(dx + label * SIZE, load_value(at + 2 * VECTOR))
            labels += row_step(call, 1)
            loss += row_step(call, 3)
            dx += row_step(call, 4)
            e += de
            i += 1


def loss_of_label(
    chosen: Vec, m: Vec, rest: Vec, c: Vec, k: Vec, weight: Vec, factor: Vec, general: Int, smoothing: Vec, each: Vec,
    whole: Vec, far: Vec, z: Vec
) -> tuple[Vec, Vec, Vec]:  # fmt: skip
    # The loss, what shares are multiplied with for dx, and dx at the label, from the logit there, the greatest one and
    # the sum of the other shares. `general`: with label smoothing or the square of the logarithm
    share: Vec = exp_scaled(chosen, c, k)
    s: Vec = log_total(chosen, m, rest, share, exp_scaled(m, c, k))
    lost: Vec = plus(minus(m, chosen), s)
    mass: Vec = weight
    here: Vec = weight
    if general:
        own: Vec = scale(weight, minus(splat(1.0), smoothing))
        lost = with_square(smoothed_loss(lost, s, far, whole, own, each), z, plus(m, s))
        here = with_slope(scale(each, whole), z, plus(m, s))
        mass = plus(own, here)
        here = smoothed_label(own, here, rest, share, scale(weight, each), factor)
    else:
        lost = scale(weight, lost)
    inverse: Vec = quotient(scale(mass, factor), plus(rest, share))
    if not general:
        here = negative_product(rest, inverse)
    return lost, inverse, here


def gaps_of_rows(x: Address, dx: Int, weights: Address, count: Int, n: Int, m: Vec, work: Address) -> Vec:
    # the sum of w·(m - x) of each
    values: Address = work + VALUES
    store(values, m)
    t: Vec = m
    i: Int = 0
    while i < count:
        t = gap_of_row(x, weights, n, load_value(values + i * SIZE))
        store_value(work + i * SIZE, t)
        x += dx
        i += 1
    if count > 1:
        t = load(work)
    return t


def gap_of_row(x: Address, weights: Address, n: Int, m: Vec) -> Vec:
    t: Vec = m
    if weights:
        t = total__distance(x, weights, n, m, m)
    else:
        t = total__gap(x, x, n, m, m)
    return t


def cross_entropy_gradient(e: Address, weights: Address, dx: Address, n: Int, a: Vec, each: Vec) -> None:
    # from shares; the label's element comes after
    if less(splat(0.0), each) | less(each, splat(0.0)):
        if weights:
            finish__less_weights(e, weights, dx, n, a, each, a, a, 0)
        else:
            finish__less_each(e, e, dx, n, a, each, a, a, 0)
    else:
        zero: Vec = splat(0.0)
        finish__scaled(e, e, dx, n, a, zero, zero, zero, 0)


def cross_entropy_of_shares(call: Address) -> None:
    """x, targets -> loss of each row, dx. Scalars: the factor of dx, the factor of log(sum(exp(x)))^2."""
    rows: Int = load_int(call + ROWS)
    n: Int = load_int(call + COLS)
    x: Address = data(call, 0)
    q: Address = data(call, 1)
    loss: Address = data(call, 2)
    dx: Address = data(call, 3)
    factor: Vec = load_param(load_int(call + SCALARS))
    z: Vec = load_param(load_int(call + SCALARS) + 8)
    row: Int = 0
    zero: Vec = splat(0.0)
    while row < rows:
        m: Vec = greatest(x, n)
        c, k = row_shift(m)
        high, low, ties = shares_of_row__share(x, x, 0, 0, n, k, m, k, 0, -1, 1, x + AHEAD, SIZE, SIZE, 0)
        high, low = sum_lanes_pair(high, low)
        rest: Vec = plus(high, low)
        ties = sum_lanes(ties)
        top: Vec = exp_scaled(m, c, k)
        weight: Vec = total__first(q, q, n, zero, zero)
        far: Vec = total__distance(x, q, n, m, zero)
        s: Vec = log_sum_over(rest, ties, top)
        store_value(loss, with_square(target_loss(far, weight, s), z, plus(m, s)))
        if not load_int(call + FLAGS) & VALUE_ONLY:
            share: Vec = target_factor(with_slope(weight, z, plus(m, s)), rest, ties, top)
            finish__target_grad(x, q, dx, n, share, factor, c, k, 0)
        x += row_step(call, 0)
        q += row_step(call, 1)
        loss += row_step(call, 2)
        dx += row_step(call, 3)
        row += 1


def sigmoid_cross_entropy(call: Address) -> None:
    """x, targets, weights, positive weights -> sums, dx, losses"""
    pointwise__sigmoid_loss__sigmoid_loss_grad(call, 1, 0)


def mse_loss(call: Address) -> None:
    """x, targets, weights -> sums, dx, losses"""
    pointwise__squared_error__squared_error_grad(call, 0, 0)


def l1_loss(call: Address) -> None:
    """x, targets, weights -> sums, dx, losses"""
    pointwise__absolute_error__absolute_error_grad(call, 0, 0)


def huber_loss(call: Address) -> None:
    """x, targets, weights -> sums, dx, losses. The second scalar is delta."""
    pointwise__huber_error__huber_error_grad(call, 0, 1)


def kl_div(call: Address) -> None:
    """x, targets, weights -> sums, dx, losses"""
    pointwise__divergence__divergence_grad(call, 0, 0)


def pointwise(call: Address, more: Int, given: Int) -> None:
    # The sum of the row's losses each(x, target, weight, p), dx = factor·each2(x, target, weight, p), losses. p is one
    # more array after the weights, or the second scalar, or 1. Weights and that array are 1 where there are none (0).
    # dx is not written where VALUE_ONLY is among the flags, losses where 0. The first scalar is the factor of dx.
    rows: Int = load_int(call + ROWS)
    n: Int = load_int(call + COLS)
    x: Address = data(call, 0)
    t: Address = data(call, 1)
    weights: Address = data(call, 2)
    others: Address = data(call, 3) if more else 0
    sums: Address = data(call, 3 + more)
    dx: Address = data(call, 4 + more)
    losses: Address = data(call, 5 + more)
    factor: Vec = load_param(load_int(call + SCALARS))
    one: Vec = splat(1.0)
    p: Vec = one
    if given:
        p = load_param(load_int(call + SCALARS) + 8)
    row: Int = 0
    while row < rows:
        high: Vec = splat(0.0)
        low: Vec = splat(0.0)
        i: Int = 0
        while i < n:
            at: Int = i * SIZE
            v: Vec = load_some(x + at, n - i, 0.0)
            target: Vec = load_some(t + at, n - i, 0.0)
            weight: Vec = one
            if weights:
                weight = load_some(weights + at, n - i, 0.0)
            if others:
                p = load_some(others + at, n - i, 0.0)
            value: Vec = each(v, target, weight, p)
            if losses:
                store_some(losses + at, value, n - i)
            if not load_int(call + FLAGS) & VALUE_ONLY:
                store_some(dx + at, scale(each2(v, target, weight, p), factor), n - i)
            high, error = two_sum(high, first_lanes(value, n - i))
            low = plus(low, error)
            i += LANES
        store_value(sums, sum_lanes(plus(high, low)))
        x += row_step(call, 0)
        t += row_step(call, 1)
        weights += row_step(call, 2)
        if more:
            others += row_step(call, 3)
        sums += row_step(call, 3 + more)
        dx += row_step(call, 4 + more)
        losses += row_step(call, 5 + more)
        row += 1
