"""Softmax and its like, and their gradients from their outputs."""

# ruff: noqa: F821
# mypy: ignore-errors
# names that are not defined here are of the other modules of this folder, or bound by the backend

from __future__ import annotations

from fastact.spec.call import COLS, FLAGS, ROWS, STREAM


def softmax(call: Address) -> None:
    """x -> y"""
    rows: Int = load_int(call + ROWS)
    n: Int = load_int(call + COLS)
    x: Address = data(call, 0)
    y: Address = data(call, 1)
    dx: Int = row_step(call, 0)
    dy: Int = row_step(call, 1)
    past: Int = load_int(call + FLAGS) & STREAM if n * SIZE >= WIDE else 0
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
    m: Vec = greatest_of_rows(x, dx, stop, n, work)
    row: Int = 0
    while row < rows:
        c, k = row_shift(m)
        source: Address = x
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
        high, low, _ties = shares_of_rows__near(source, dx, e, de, room, stop, n, k, k, 0, 0, 0, ahead, work)
        inverse, rest = reciprocal(high, low)
        x += stop * dx
        row += stop
        done: Int = stop
        if row < rows:
            # of the next rows: work for the time that sums take to become factors
            stop = least(many, rows - row)
            m = greatest_of_rows(x, dx, stop, n, work)
        finish_rows__scaled(e, de, y, dy, done, n, inverse, rest, values, past)
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
    many: Int = at_once(n, 0)
    ahead: Int = ahead_of(many * n)
    work: Address = stack()
    values: Address = work + VALUES
    stop: Int = least(many, rows)
    m: Vec = greatest_of_rows(x, dx, stop, n, work)
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
        high, low, ties = shares_of_rows__near(source, dx, 0, 0, 0, stop, n, top, k, 0, 0, 1, ahead, work)
        s: Vec = log_sum_over(plus(high, low), ties, near(top, top, k))
        x += stop * dx
        row += stop
        done: Int = stop
        if row < rows:
            # of the next rows: work for the time that sums take to become logarithms
            stop = least(many, rows - row)
            m = greatest_of_rows(x, dx, stop, n, work)
        finish_rows__log_share(source, dx, y, dy, done, n, top, s, values, past)
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
            high, low, ties = shares_of_row__share(x, 0, 0, n, m, k, -1, 1, x + AHEAD, SIZE, SIZE, 0)
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
    gradient__product__softmax_grad(call)


def log_softmax_backward(call: Address) -> None:
    """dy, y -> dx"""
    gradient__first__log_softmax_grad(call)


def gradient(call: Address) -> None:
    # each2(dy, y, s) of s = the sum of each(dy, y)
    if load_int(call + COLS) <= LANES:
        gradient_of_short_rows__each__each2(call)
    else:
        gradient_of_rows__each__each2(call)


def gradient_of_rows(call: Address) -> None:
    rows: Int = load_int(call + ROWS)
    n: Int = load_int(call + COLS)
    dy: Address = data(call, 0)
    y: Address = data(call, 1)
    dx: Address = data(call, 2)
    past: Int = load_int(call + FLAGS) & STREAM
    sign: Vec = splat(SIGN)
    row: Int = 0
    while row < rows:
        s: Vec = total__each(dy, y, n, sign, sign)
        finish__each2(dy, y, dx, n, s, sign, sign, sign, past)
        dy += row_step(call, 0)
        y += row_step(call, 1)
        dx += row_step(call, 2)
        row += 1
    if past:
        fence()


def blocks_of_rows(p: Address, q: Address, dp: Int, dq: Int, count: Int, n: Int, work: Address) -> Vec:
    # in lane i the sum of each(p, q) over row i
    zero: Vec = splat(0.0)
    s: Vec = zero
    row: Int = 0
    while row < count:
        s = block__each(p, q, n, zero, zero, SIZE, 0)
        store(work + row * VECTOR, s)
        p += dp
        q += dq
        row += 1
    return sums(work, count, s)


def gradient_of_short_rows(call: Address) -> None:
    rows: Int = load_int(call + ROWS)
    n: Int = load_int(call + COLS)
    dy: Address = data(call, 0)
    y: Address = data(call, 1)
    dx: Address = data(call, 2)
    ddy: Int = row_step(call, 0)
    dyy: Int = row_step(call, 1)
    work: Address = stack()
    values: Address = work + VALUES
    sign: Vec = splat(SIGN)
    stop: Int = least(LANES, rows)
    s: Vec = blocks_of_rows__each(dy, y, ddy, dyy, stop, n, work)
    row: Int = 0
    while row < rows:
        store(values, s)
        row += stop
        done: Int = stop
        if row < rows:
            stop = least(LANES, rows - row)
            s = blocks_of_rows__each(dy + done * ddy, y + done * dyy, ddy, dyy, stop, n, work)
        i: Int = 0
        while i < done:
            finish__each2(dy, y, dx, n, load_value(values + i * SIZE), sign, sign, sign, 0)
            dy += ddy
            y += dyy
            dx += row_step(call, 2)
            i += 1


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
