"""Softmax and its like, and their gradients from their outputs."""

# ruff: noqa: F821
# mypy: ignore-errors
# names that are not defined here are of the other modules of this folder, or bound by the backend

from __future__ import annotations

from fastact.spec.call import CAUSAL, COLS, FLAGS, ROW0, ROWS, SCALARS, STREAM


def softmax(call: Address) -> None:
    """x -> y"""
    softmax_of_rows__near__logit(call, 0, 0)


def scaled_softmax(call: Address) -> None:
    """x -> y. The scalar is the scale."""
    softmax_of_rows__share_scaled__logit_scaled(call, 1, 0)


def biased_softmax(call: Address) -> None:
    """x, bias -> y. The scalar is the scale."""
    softmax_of_rows__share_biased__logit_biased(call, 1, 1)


def first_row(call: Address) -> Int:
    # among those of a causal mask; below 0 where there is none
    return load_int(call + ROW0) if load_int(call + FLAGS) & CAUSAL else -1


def counted_of_rows(q: Address, dq: Int, count: Int, n: Int, first: Int, work: Address) -> Vec:
    # how many elements that count, of a bias, each row has
    row: Int = 0
    while row < count:
        own: Int = counted_of_row(n, first, row)
        store_value(work + row * SIZE, total__counted(q, q, own, splat(-INF), splat(-INF)))
        q += dq
        row += 1
    if count == 1:
        return load_value(work)
    return load(work)


def softmax_of_rows(call: Address, scaled: Int, last: Int) -> None:
    # each is what gives a share, each2 a logit; `last` is the argument of the bias, or of x where there is none
    rows: Int = load_int(call + ROWS)
    n: Int = load_int(call + COLS)
    x: Address = data(call, 0)
    q: Address = data(call, last)
    y: Address = data(call, last + 1)
    dx: Int = row_step(call, 0)
    dq: Int = row_step(call, last)
    dy: Int = row_step(call, last + 1)
    past: Int = load_int(call + FLAGS) & STREAM if n * SIZE >= WIDE else 0
    first: Int = -1
    zero: Vec = splat(0.0)
    s: Vec = zero
    if scaled:
        first = first_row(call)
        s = load_param(load_int(call + SCALARS))
    # shares are kept in memory of the kernel or in y
    inside: Int = n * SIZE <= NARROW
    if past:
        # not past the cache what lies in it
        inside = n * SIZE <= STACK - SHARES
        past = inside
    many: Int = at_once(n, past)
    ahead: Int = ahead_of(many * n)
    work: Address = stack()
    values: Address = work + VALUES
    stop: Int = least(many, rows)
    m: Vec = greatest_of_rows__each2(x, dx, q, dq, stop, n, first, s, scaled, work)
    row: Int = 0
    while row < rows:
        live: Vec = m
        if last:
            # a row of which nothing counts is 0
            live = splat(1.0)
            if meets(m, splat(-INF)):
                live = counted_of_rows(q, dq, stop, n, first, work)
            m = only(live, m, zero)
        c, k = row_shift(m)
        source: Address = x
        if scaled == 0:
            if any_far(m):
                stop = 1
                c = first_value(scale(splat(SIGN), c), values)
                k = first_value(k, values)
                finish__below(x, x, y, n, c, c, c, c, 0)
                source = y
        e: Address = y
        de: Int = dy
        room: Int = 0
        if inside:
            e = work + SHARES
            de = NARROW
            room = LANES
        high, low, _ties = shares_of_rows__each(
            source, dx, q, dq, e, de, room, stop, n, first, s, m, k, scaled, 0, 0, 0, ahead, work
        )
        inverse, rest = reciprocal(high, low)
        if last:
            inverse = only(live, inverse, scale(high, zero))
            rest = only(live, rest, zero)
        x += stop * dx
        q += stop * dq
        row += stop
        done: Int = stop
        after: Int = first + done if first >= 0 else first
        if row < rows:
            # of the next rows: work for the time that sums take to become factors
            stop = least(many, rows - row)
            m = greatest_of_rows__each2(x, dx, q, dq, stop, n, after, s, scaled, work)
        finish_rows__scaled(e, de, y, dy, done, n, first, inverse, rest, values, past)
        first = after
        y += done * dy
    if past:
        fence()


def log_softmax(call: Address) -> None:
    """x -> y"""
    rows: Int = load_int(call + ROWS)
    n: Int = load_int(call + COLS)
    x: Address = data(call, 0)
    y: Address = data(call, 1)
    dx: Int = row_step(call, 0)
    dy: Int = row_step(call, 1)
    past: Int = load_int(call + FLAGS) & STREAM if n * SIZE >= WIDE else 0
    zero: Vec = splat(0.0)
    many: Int = at_once(n, 0)
    ahead: Int = ahead_of(many * n)
    work: Address = stack()
    values: Address = work + VALUES
    stop: Int = least(many, rows)
    m: Vec = greatest_of_rows__logit(x, dx, x, dx, stop, n, -1, zero, 0, work)
    row: Int = 0
    while row < rows:
        c, k = row_shift(m)
        source: Address = x
        if any_far(m):
            stop = 1
            c = first_value(c, values)
            k = first_value(k, values)
            m = first_value(m, values)
            finish__below(x, x, y, n, c, c, c, c, 0)
            source = y
        top: Vec = minus(m, c)
        high, low, ties = shares_of_rows__near(
            source, dx, source, dx, 0, 0, 0, stop, n, -1, k, top, k, 0, 0, 0, 1, ahead, work
        )
        s: Vec = log_sum_over(plus(high, low), ties, near(top, top, k, top, k))
        x += stop * dx
        row += stop
        done: Int = stop
        if row < rows:
            # of the next rows: work for the time that sums take to become logarithms
            stop = least(many, rows - row)
            m = greatest_of_rows__logit(x, dx, x, dx, stop, n, -1, zero, 0, work)
        finish_rows__log_share(source, dx, y, dy, done, n, -1, top, s, values, past)
        y += done * dy
    if past:
        fence()


def logsumexp(call: Address) -> None:
    """x -> one value a row"""
    rows: Int = load_int(call + ROWS)
    n: Int = load_int(call + COLS)
    x: Address = data(call, 0)
    y: Address = data(call, 1)
    row: Int = 0
    while row < rows:
        m: Vec = greatest(x, n)
        result: Vec = m
        if less(is_finite(m), splat(1.0)):
            # m, or NaN where the row has one
            result = plus(m, total__poison(x, x, n, m, m))
        else:
            c, k = row_shift(m)
            high, low, ties = shares_of_row__share(x, x, 0, 0, n, k, m, k, 0, -1, 1, x + AHEAD, SIZE, SIZE, 0)
            high, low = sum_lanes_pair(high, low)
            result = plus(m, log_sum_over(plus(high, low), sum_lanes(ties), exp_scaled(m, c, k)))
        store_value(y, result)
        x += row_step(call, 0)
        y += row_step(call, 1)
        row += 1


def sparsemax(call: Address) -> None:
    """x -> y: Newton's method from the left for t with sum(max(x - m - t, 0)) = 1 (Michelot, JOTA 50, 1986)"""
    rows: Int = load_int(call + ROWS)
    n: Int = load_int(call + COLS)
    x: Address = data(call, 0)
    y: Address = data(call, 1)
    row: Int = 0
    while row < rows:
        m: Vec = greatest(x, n)
        t: Vec = splat(-1.0)
        count: Vec = total__above_count(x, x, n, m, t)
        again: Int = 1
        while again:
            t = threshold_of(total__above(x, x, n, m, t), count)
            fewer: Vec = total__above_count(x, x, n, m, t)
            again = less(fewer, count)
            count = fewer
        finish__positive_part(x, x, y, n, m, t, t, t, 0)
        x += row_step(call, 0)
        y += row_step(call, 1)
        row += 1


def softmax_backward(call: Address) -> None:
    """dy, y -> dx"""
    gradient__product__softmax_grad(call, 0)


def scaled_softmax_backward(call: Address) -> None:
    """dy, y -> dx. The scalar is the scale."""
    gradient__product__softmax_grad(call, 1)


def log_softmax_backward(call: Address) -> None:
    """dy, y -> dx"""
    gradient__first__log_softmax_grad(call, 0)


def gradient(call: Address, scaled: Int) -> None:
    # each2(dy, y, s, factor) of s = the sum of each(dy, y); the factor is a scale or SIGN
    if load_int(call + COLS) <= LANES:
        gradient_of_short_rows__each__each2(call, scaled)
    else:
        gradient_of_rows__each__each2(call, scaled)


def factor_of(call: Address, scaled: Int) -> Vec:
    if scaled:
        return load_param(load_int(call + SCALARS))
    return splat(SIGN)


def gradient_of_rows(call: Address, scaled: Int) -> None:
    rows: Int = load_int(call + ROWS)
    n: Int = load_int(call + COLS)
    dy: Address = data(call, 0)
    y: Address = data(call, 1)
    dx: Address = data(call, 2)
    past: Int = load_int(call + FLAGS) & STREAM
    factor: Vec = factor_of(call, scaled)
    first: Int = first_row(call) if scaled else -1
    row: Int = 0
    while row < rows:
        own: Int = counted_of_row(n, first, row)
        s: Vec = total__each(dy, y, own, factor, factor)
        finish__each2(dy, y, dx, own, s, factor, factor, factor, past)
        zeros(dx, own, n, past)
        dy += row_step(call, 0)
        y += row_step(call, 1)
        dx += row_step(call, 2)
        row += 1
    if past:
        fence()


def blocks_of_rows(p: Address, q: Address, dp: Int, dq: Int, count: Int, n: Int, first: Int, work: Address) -> Vec:
    # in lane i the sum of each(p, q) over row i
    zero: Vec = splat(0.0)
    s: Vec = zero
    row: Int = 0
    while row < count:
        s = block__each(p, q, counted_of_row(n, first, row), zero, zero, SIZE, 0)
        store(work + row * VECTOR, s)
        p += dp
        q += dq
        row += 1
    return sums(work, count, s)


def gradient_of_short_rows(call: Address, scaled: Int) -> None:
    rows: Int = load_int(call + ROWS)
    n: Int = load_int(call + COLS)
    dy: Address = data(call, 0)
    y: Address = data(call, 1)
    dx: Address = data(call, 2)
    ddy: Int = row_step(call, 0)
    dyy: Int = row_step(call, 1)
    work: Address = stack()
    values: Address = work + VALUES
    factor: Vec = factor_of(call, scaled)
    first: Int = first_row(call) if scaled else -1
    stop: Int = least(LANES, rows)
    s: Vec = blocks_of_rows__each(dy, y, ddy, dyy, stop, n, first, work)
    row: Int = 0
    while row < rows:
        store(values, s)
        row += stop
        done: Int = stop
        after: Int = first + done if first >= 0 else first
        if row < rows:
            stop = least(LANES, rows - row)
            s = blocks_of_rows__each(dy + done * ddy, y + done * dyy, ddy, dyy, stop, n, after, work)
        i: Int = 0
        while i < done:
            own: Int = counted_of_row(n, first, i)
            finish__each2(dy, y, dx, own, load_value(values + i * SIZE), factor, factor, factor, 0)
            zeros(dx, own, n, 0)
            dy += ddy
            y += dyy
            dx += row_step(call, 2)
            i += 1
        first = after


def sparsemax_backward(call: Address) -> None:
    """dy, y -> dx"""
    rows: Int = load_int(call + ROWS)
    n: Int = load_int(call + COLS)
    dy: Address = data(call, 0)
    y: Address = data(call, 1)
    dx: Address = data(call, 2)
    past: Int = load_int(call + FLAGS) & STREAM
    row: Int = 0
    zero: Vec = splat(0.0)
    while row < rows:
        count: Vec = total__support(dy, y, n, zero, zero)
        mean: Vec = quotient(total__supported(dy, y, n, zero, zero), count)
        finish__sparsemax_grad(dy, y, dx, n, mean, mean, mean, mean, past)
        dy += row_step(call, 0)
        y += row_step(call, 1)
        dx += row_step(call, 2)
        row += 1
    if past:
        fence()
