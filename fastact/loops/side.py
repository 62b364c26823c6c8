"""Rows side by side: LANES of them in lanes; those after the last one hold anything."""

# ruff: noqa: F821
# mypy: ignore-errors
# names that are not defined here are of the other modules of this folder, or bound by the backend

from __future__ import annotations

from fastact.spec.call import COLS, FLAGS, ROWS, SCALARS, STREAM

# bytes of an array from which on four groups of rows are brought together at once, for lines from beyond the L2 cache
# (Emerald Rapids, 4 MiB, 4096 bytes apart: 2.6 ns a line, one by one 4.7); and bytes of a row up to which
CACHED = 1048576
NARROW_SIDE = 65536


def bring(
    x: Address, apart: Int, e: Address, far: Int, n: Int, rows: Int, groups: Int, tops: Address, q: Address, s: Vec
) -> None:
    # to e, `far` bytes from group to group, VECTOR bytes from element to element; what is at q lies so, too. Of a row
    # the greatest each(x, q, s) goes to tops, if that is not 0
    i: Int = 0
    a: Quad = splat4(-INF)
    if groups == 4:
        while i < n:
            store4(e + i * VECTOR, load4(x + i * apart, VECTOR), far)
            a = greater(each(signed4(x + i * apart, VECTOR), load4(q + i * VECTOR, far), s), a)
            i += 1
        if tops:
            store4(tops, a, VECTOR)
    else:
        m: Vec = splat(-INF)
        if rows >= LANES:
            while i + 4 <= n:
                store4(e + i * VECTOR, load4(x + i * apart, apart), VECTOR)
                a = greater(each(signed4(x + i * apart, apart), load4(q + i * VECTOR, VECTOR), s), a)
                i += 4
            m = greatest4(a)
        while i < n:
            store(e + i * VECTOR, load_some(x + i * apart, rows, 0.0))
            m = greater(each(signed_some(x + i * apart, rows), load(q + i * VECTOR), s), m)
            i += 1
        if tops:
            store(tops, m)


def shares_side_by_side(
    e: Address, q: Address, to: Address, n: Int, s: Vec, m: Vec, k: Vec, tie: Int, far: Address, stride: Int,
    work: Address
) -> tuple[Vec, Vec, Vec]:  # fmt: skip
    # rows of at most a segment
    high: Vec = splat(0.0)
    low: Vec = splat(0.0)
    ties: Vec = splat(0.0)
    lane: Int = 0
    while lane < LANES:
        at: Int = lane * VECTOR
        kept: Address = to + at if to else 0
        if n <= GROUP:
            high, ties = some_shares__each(e + at, q + at, kept, 0, n, s, m, k, 0, -1, tie, VECTOR, lane)
        else:
            high, low, ties = shares__each(
                e + at, q + at, kept, 0, n, s, m, k, 0, -1, tie, far + lane * stride, stride, VECTOR, lane
            )
        store(work + at, high)
        store(work + LOW + at, low)
        if tie:
            store(work + TIES + at, ties)
        lane += 1
    high, low = down_sum_pair(work, work + LOW)
    if tie:
        ties = down_sum(work + TIES)
    return high, low, ties


def counted_side(q: Address, n: Int) -> Vec:
    # how many elements that count, of a bias, each row has
    t: Vec = splat(0.0)
    i: Int = 0
    while i < n:
        w: Vec = load(q + i * VECTOR)
        t = plus(t, counted(w, w, splat(-INF), splat(-INF)))
        i += 1
    return t


def finish_side(
    p: Address,
    q: Address,
    far: Int,
    out: Address,
    apart: Int,
    n: Int,
    rows: Int,
    groups: Int,
    values: Address,
    past: Int,
) -> None:
    # out = each(p, q, a, b), of each group its own a and b in values
    i: Int = 0
    if (past != 0) & (groups == 4) & (out % VECTOR == 0):
        while i < n:
            g: Int = 0
            while g < groups:
                v: Vec = load(p + i * VECTOR + g * far)
                w: Vec = load(q + i * VECTOR + g * far)
                a: Vec = load(values + g * VECTOR)
                b: Vec = load(values + (4 + g) * VECTOR)
                stream(out + i * apart + g * VECTOR, each(v, w, a, b, a, a))
                g += 1
            i += 1
    elif groups == 4:
        a4: Quad = load4(values, VECTOR)
        b4: Quad = load4(values + 4 * VECTOR, VECTOR)
        while i < n:
            v4: Quad = each(load4(p + i * VECTOR, far), load4(q + i * VECTOR, far), a4, b4, a4, a4)
            store4(out + i * apart, v4, VECTOR)
            i += 1
    else:
        a = load(values)
        b = load(values + 4 * VECTOR)
        if rows >= LANES:
            while i + 4 <= n:
                v4 = each(load4(p + i * VECTOR, VECTOR), load4(q + i * VECTOR, VECTOR), a, b, a, a)
                store4(out + i * apart, v4, apart)
                i += 4
        while i < n:
            store_some(out + i * apart, each(load(p + i * VECTOR), load(q + i * VECTOR), a, b, a, a), rows)
            i += 1


def rows_at_once(call: Address, n: Int, rows: Int, out: Address, apart: Int) -> Int:
    # first up to the alignment of out, where all its elements have that
    head: Int = (-out % VECTOR) // SIZE
    if (head > 0) & (apart % VECTOR == 0) & (rows >= 2 * QUAD):
        return head
    if (n * step(call, 0) > CACHED) & (n * SIZE <= NARROW_SIDE) & (rows >= QUAD):
        return QUAD
    return least(rows, LANES)


def groups_of(rows: Int) -> Int:
    # what is less than four groups goes one by one
    return 4 if rows == QUAD else 1


def softmax_side(call: Address) -> None:
    exponentials_side__share__logit(call, 0, 0, 0)


def scaled_softmax_side(call: Address) -> None:
    exponentials_side__share_scaled__logit_scaled(call, 0, 1, 0)


def biased_softmax_side(call: Address) -> None:
    exponentials_side__share_biased__logit_biased(call, 0, 1, 1)


def log_softmax_side(call: Address) -> None:
    exponentials_side__share__logit(call, 1, 0, 0)


def exponentials_side(call: Address, logarithms: Int, scaled: Int, last: Int) -> None:
    # each is what gives a share, each2 a logit; `last` is the argument of the bias, or of x where there is none
    n: Int = load_int(call + COLS)
    x: Address = data(call, 0)
    bias: Address = data(call, last)
    y: Address = data(call, last + 1)
    apart: Int = step(call, last + 1)
    e: Address = data(call, last + 2)
    far: Int = (n + 1) * VECTOR
    q: Address = e + last * 4 * far
    past: Int = load_int(call + FLAGS) & STREAM
    zero: Vec = splat(0.0)
    s: Vec = zero
    if scaled:
        s = load_param(load_int(call + SCALARS))
    work: Address = stack()
    values: Address = work + VALUES
    tops: Address = values + 8 * VECTOR
    rows: Int = load_int(call + ROWS)
    while rows > 0:
        count: Int = rows_at_once(call, n, rows, y, apart)
        groups: Int = groups_of(count)
        if last:
            bring__logit(bias, step(call, last), q, far, n, count, groups, 0, q, s)
        bring__each2(x, step(call, 0), e, far, n, count, groups, tops, q, s)
        g: Int = 0
        while g < groups:
            own: Address = e + g * far
            other: Address = q + g * far
            kept: Address = 0 if logarithms else own
            m: Vec = load(tops + g * VECTOR)
            live: Vec = m
            if last:
                # a row of which nothing counts is 0
                live = splat(1.0)
                if meets(m, splat(-INF)):
                    live = counted_side(other, n)
                m = only(live, m, zero)
            c, k = row_shift(m)
            high, low, ties = shares_side_by_side__each(
                own, other, kept, n, s, m, k, logarithms, y + g * VECTOR, apart, work
            )
            a: Vec = m
            b: Vec = m
            if logarithms:
                b = log_sum_over(plus(high, low), ties, exp_scaled(m, c, k))
            else:
                a, b = reciprocal(high, low)
            if last:
                a = only(live, a, scale(high, zero))
                b = only(live, b, zero)
            store(values + g * VECTOR, a)
            store(values + (4 + g) * VECTOR, b)
            g += 1
        if logarithms:
            finish_side__log_share(e, e, far, y, apart, n, count, groups, values, past)
        else:
            finish_side__scaled(e, e, far, y, apart, n, count, groups, values, past)
        x += count * SIZE
        bias += count * SIZE
        y += count * SIZE
        rows -= count
    if past:
        fence()


def softmax_backward_side(call: Address) -> None:
    gradient_side__product__softmax_grad(call, 0)


def scaled_softmax_backward_side(call: Address) -> None:
    gradient_side__product__softmax_grad(call, 1)


def log_softmax_backward_side(call: Address) -> None:
    gradient_side__first__log_softmax_grad(call, 0)


def gradient_side(call: Address, scaled: Int) -> None:
    n: Int = load_int(call + COLS)
    dy: Address = data(call, 0)
    y: Address = data(call, 1)
    dx: Address = data(call, 2)
    far: Int = (n + 1) * VECTOR
    p: Address = data(call, 3)
    q: Address = p + 4 * far
    past: Int = load_int(call + FLAGS) & STREAM
    work: Address = stack()
    values: Address = work + VALUES
    factor: Vec = factor_of(call, scaled)
    rows: Int = load_int(call + ROWS)
    while rows > 0:
        count: Int = rows_at_once(call, n, rows, dx, step(call, 2))
        groups: Int = groups_of(count)
        bring__logit(dy, step(call, 0), p, far, n, count, groups, 0, p, factor)
        bring__logit(y, step(call, 1), q, far, n, count, groups, 0, q, factor)
        g: Int = 0
        while g < groups:
            lane: Int = 0
            while lane < LANES:
                at: Int = g * far + lane * VECTOR
                store(work + lane * VECTOR, total_lanes__each(p + at, q + at, n, factor, factor, VECTOR, lane))
                lane += 1
            store(values + g * VECTOR, down_sum(work))
            store(values + (4 + g) * VECTOR, factor)
            g += 1
        finish_side__each2(p, q, far, dx, step(call, 2), n, count, groups, values, past)
        dy += count * SIZE
        y += count * SIZE
        dx += count * SIZE
        rows -= count
    if past:
        fence()
