"""Kernels over rows: the loops, once, for every backend (docs/design.md, 'Kernels over rows').

Numba compiles these functions as they stand, with the names below bound for a dtype; the annotations are the types that
a renderer to a typed language needs. A `Vec` is 64 bytes wide on every machine and a `Quad` four of them, so that a sum
has the same order of additions everywhere; a row value (a maximum, a sum) is a `Vec` with the value in all lanes.

``LANES`` elements of ``SIZE`` bytes make a vector, ``QUAD`` elements four, ``GROUP`` elements two quads. ``SIGN`` is -1
for softmin, else 1. A function called ``total__NAME`` is `total` with the formula NAME for ``each``; ``block__each`` in
it is `block` with the same formula.
Formulas of ``fastact.maths.rows`` take `Vec` and `Quad` alike; beside them there are

==========================================  ============================================================================
``load(p)``, ``load4(p)``                   a `Vec`, a `Quad`
``load_some(p, count, fill)``               the first `count` lanes, `fill` in the others; no byte more is read
``signed(p)``, ``signed4(p)``               the same times SIGN
``signed_some(p, count)``                   the first `count` lanes times SIGN, -inf in the others
``store``, ``store4``, ``store_some``       ``(p, v)``, ``(p, v)``, ``(p, v, count)``
``store_value(p, v)``                       the first lane alone
``stream(p, v)``, ``fence()``               past the cache to an aligned p; after the last one
``prefetch(p)``                             into the L2 cache, if p can be read
``stack()``                                 STACK bytes of the kernel's own memory, aligned to a vector
``splat(s)``, ``splat4(s)``                 a number in all lanes
``load_int(p)``, ``load_value(p)``          an int64; an element, in all lanes
``load_param(p)``                           a double, rounded to the dtype, in all lanes
``gather4(v)``                              the sum of a quad's vectors: (0 + 1) + (2 + 3)
``greatest4(v)``                            the maximum of a quad's vectors
``max_lanes(v)``, ``sum_lanes(v)``          over the lanes: i with i ^ LANES/2, then i ^ LANES/4, …; in all lanes
``sum_lanes_pair(high, low)``               likewise to twice the precision, in two parts: float64 by ``pair_add``;
                                            float32 in float64, high + low, then lanes i, i + 8, then i ^ 4, 2, 1
``across_max(p)``, ``across_sum(p)``        in lane i ``max_lanes``, ``sum_lanes`` of vector i of the LANES at p
``across_sum_pair(p)``                      likewise ``sum_lanes_pair`` of vector i and 0
``without(v, i)``, ``without4(v, i)``       0 in lane i, where there is such a lane
``first_lanes(v, count)``                   0 in the lanes from count on
``less(a, b)``                              whether a < b in lane 0
``meets(a, b)``                             whether a = b in some lane
==========================================  ============================================================================
"""

# ruff: noqa: F821
# mypy: ignore-errors
# every name that is not defined here is bound by the backend

from __future__ import annotations

from fastact.spec.call import COLS, DATA, FLAGS, ROW_STEP, ROWS, SCALARS, STREAM, VALUE_ONLY

# bytes of a vector
VECTOR = 64
# quads whose terms `total` adds plainly before their sum goes to a compensated one: the error does not grow with a row
BLOCK_QUADS = 8
# shares are summed plainly in groups of two quads: 3 roundings; a compensated sum of each would cost 4 additions more.
# After so many groups the errors of the sum of groups, among which are shares below an ULP of it, are added up
CHUNK_GROUPS = 16
# what the compensated sum of groups starts at: above the sum of a group, for no share is above 1.5
BIAS = 16.0
# bytes of a row up to which LANES rows are computed side by side: what a row has one of is computed for all at once
SIDE = 2048
# bytes of a row up to which its shares are kept in memory of the kernel, those of LANES rows
NARROW = 512
# elements of a segment: longer rows are the sum of segments
SEGMENT = 65536
# the kernel's own memory: vectors to be combined over their lanes, what rows have one of, shares
STACK = 36864
LOW = 1024
TIES = 2048
VALUES = 3072
SHARES = 4096
# bytes of a row from which on it is worth going past the cache
WIDE = 256
# how far ahead of the sums to prefetch, at least; what is summed before the next pass over maxima is the other bound.
# 2^24 float32 on 2 cores of a Zen 4: rows of 1024 3.1 ms (3.3 without, 3.5 at 4096), of 4096 3.5 ms (4.5 at 8192)
AHEAD = 8192
FARTHEST = 65536


def data(call: Address, j: Int) -> Address:
    # where argument j begins
    return load_int(call + DATA + 8 * j)


def row_step(call: Address, j: Int) -> Int:
    # its bytes from row to row
    return load_int(call + ROW_STEP + 8 * j)


def least(a: Int, b: Int) -> Int:
    return a if a < b else b


def greatest_lanes(x: Address, n: Int) -> Vec:
    # NaN is passed over: it comes back in the sums
    b: Vec = splat(-INF)
    i: Int = 0
    if n >= QUAD:
        a: Quad = splat4(-INF)
        while i + QUAD <= n:
            a = greater(signed4(x + i * SIZE), a)
            i += QUAD
        b = greatest4(a)
    while i < n:
        b = greater(signed_some(x + i * SIZE, n - i), b)
        i += LANES
    return b


def greatest(x: Address, n: Int) -> Vec:
    return max_lanes(greatest_lanes(x, n))


def shares(
    x: Address, e: Address, step: Int, room: Int, n: Int, m: Vec, k: Vec, label: Int, keep: Int, tie: Int, ahead: Int
) -> tuple[Vec, Vec, Vec]:
    # the sum, lane by lane and in two parts, of shares each(x, m, k) but that at label, or with `tie` those of x = m,
    # and how many these are.
    # With `keep` shares go to e: element i to e + i·step, of the last vector `room` more lanes than there are elements
    high: Vec = splat(0.0)
    low: Vec = splat(0.0)
    ties: Vec = splat(0.0)
    start: Int = 0
    while start < n:
        stop: Int = least(n, start + CHUNK_GROUPS * GROUP)
        s: Vec = splat(BIAS)
        r: Vec = splat(0.0)
        i: Int = start
        while i + GROUP <= stop:
            at: Address = x + i * SIZE
            prefetch(at + ahead)
            prefetch(at + ahead + VECTOR)
            prefetch(at + ahead + 2 * VECTOR)
            prefetch(at + ahead + 3 * VECTOR)
            v: Quad = signed4(at)
            a: Quad = each(v, m, k)
            if keep:
                store4(e + i * step, a)
            at += QUAD * SIZE
            prefetch(at + ahead)
            prefetch(at + ahead + VECTOR)
            prefetch(at + ahead + 2 * VECTOR)
            prefetch(at + ahead + 3 * VECTOR)
            w: Quad = signed4(at)
            b: Quad = each(w, m, k)
            if keep:
                store4(e + (i + QUAD) * step, b)
            g: Vec = plus(gather4(a), gather4(b))
            if tie:
                # most groups are without the greatest element
                if meets(greater(greatest4(v), greatest4(w)), m):
                    g = plus(gather4(unless_equal(a, v, m)), gather4(unless_equal(b, w, m)))
                    ties = plus(ties, plus(gather4(equal(v, m)), gather4(equal(w, m))))
            if label >= 0:
                if (label >= i) & (label < i + GROUP):
                    g = plus(gather4(without4(a, label - i)), gather4(without4(b, label - i - QUAD)))
            s, r = add_share(s, r, g)
            i += GROUP
        t, count = some_shares__each(
            x + i * SIZE, e + i * step, step, room, stop - i, m, k, label - i if label >= 0 else -1, keep, tie
        )
        ties = plus(ties, count)
        if i > start:
            s, r = add_share(s, r, t)
            s = unbiased(s)
        else:
            s = t
        if start:
            high, low = pair_add(high, low, s, r)
        else:
            high = s
            low = r
        start = stop
    return high, low, ties


def some_shares(
    x: Address, e: Address, step: Int, room: Int, n: Int, m: Vec, k: Vec, label: Int, keep: Int, tie: Int
) -> tuple[Vec, Vec]:
    # the same for less than a group, added plainly
    t: Vec = splat(0.0)
    ties: Vec = splat(0.0)
    i: Int = 0
    while i + QUAD <= n:
        v: Quad = signed4(x + i * SIZE)
        a: Quad = each(v, m, k)
        if keep:
            store4(e + i * step, a)
        if tie:
            a = unless_equal(a, v, m)
            ties = plus(ties, gather4(equal(v, m)))
        if label >= 0:
            a = without4(a, label - i)
        t = plus(t, gather4(a))
        i += QUAD
    while i < n:
        u: Vec = signed_some(x + i * SIZE, n - i)
        w: Vec = each(u, m, k)
        if keep:
            store_some(e + i * step, w, n - i + room)
        if tie:
            w = unless_equal(w, u, m)
            ties = plus(ties, equal(u, m))
        if label >= 0:
            w = without(w, label - i)
        t = plus(t, w)
        i += LANES
    return t, ties


def shares_of_row(
    x: Address, e: Address, step: Int, room: Int, n: Int, m: Vec, k: Vec, label: Int, keep: Int, tie: Int, ahead: Int
) -> tuple[Vec, Vec, Vec]:
    # the same for any n; the sums of segments are added without their lanes
    high: Vec = splat(0.0)
    low: Vec = splat(0.0)
    ties: Vec = splat(0.0)
    if n <= GROUP:
        high, ties = some_shares__each(x, e, step, room, n, m, k, label, keep, tie)
    else:
        i: Int = 0
        while i < n:
            stop: Int = least(n, i + SEGMENT)
            after: Int = label - i if label >= 0 else -1
            at: Address = x + i * SIZE
            s, r, count = shares__each(at, e + i * step, step, room, stop - i, m, k, after, keep, tie, ahead)
            ties = plus(ties, count)
            if n > SEGMENT:
                s, r = sum_lanes_pair(s, r)
                s = first_lanes(s, 1)
                r = first_lanes(r, 1)
            if i:
                high, low = pair_add(high, low, s, r)
            else:
                high = s
                low = r
            i = stop
    return high, low, ties


def block(p: Address, q: Address, n: Int, a: Vec, b: Vec) -> Vec:
    # the sum of each(p, q, a, b), lane by lane, added plainly
    s: Quad = splat4(0.0)
    i: Int = 0
    while i + QUAD <= n:
        s = plus(s, each(load4(p + i * SIZE), load4(q + i * SIZE), a, b))
        i += QUAD
    t: Vec = gather4(s)
    while i + LANES <= n:
        t = plus(t, each(load(p + i * SIZE), load(q + i * SIZE), a, b))
        i += LANES
    if i < n:
        v: Vec = each(load_some(p + i * SIZE, n - i, 0.0), load_some(q + i * SIZE, n - i, 0.0), a, b)
        t = plus(t, first_lanes(v, n - i))
    return t


def total_lanes(p: Address, q: Address, n: Int, a: Vec, b: Vec) -> Vec:
    high: Vec = splat(0.0)
    low: Vec = splat(0.0)
    i: Int = 0
    while i < n:
        stop: Int = i + BLOCK_QUADS * QUAD
        if stop > n:
            stop = n
        t: Vec = block__each(p + i * SIZE, q + i * SIZE, stop - i, a, b)
        if i:
            high, error = two_sum(high, t)
            low = plus(low, error)
        else:
            high = t
        i = stop
    return plus(high, low)


def total(p: Address, q: Address, n: Int, a: Vec, b: Vec) -> Vec:
    # the sum of each(p, q, a, b)
    return sum_lanes(total_lanes__each(p, q, n, a, b))


def finish(p: Address, q: Address, out: Address, n: Int, a: Vec, b: Vec, c: Vec, d: Vec, past: Int) -> None:
    # out = each(p, q, a, b, c, d)
    i: Int = 0
    if past:
        # up to the alignment of out
        i = (-out % VECTOR) // SIZE
        if i:
            i = least(i, n)
            store_some(out, each(load_some(p, i, 0.0), load_some(q, i, 0.0), a, b, c, d), i)
        while i + LANES <= n:
            stream(out + i * SIZE, each(load(p + i * SIZE), load(q + i * SIZE), a, b, c, d))
            i += LANES
    while i + QUAD <= n:
        store4(out + i * SIZE, each(load4(p + i * SIZE), load4(q + i * SIZE), a, b, c, d))
        i += QUAD
    while i < n:
        v: Vec = each(load_some(p + i * SIZE, n - i, 0.0), load_some(q + i * SIZE, n - i, 0.0), a, b, c, d)
        store_some(out + i * SIZE, v, n - i)
        i += LANES


def sums(work: Address, count: Int, s: Vec) -> Vec:
    # of vectors in work; of one alone, s, without the way through memory and the cost of others
    if count == 1:
        return sum_lanes(s)
    return across_sum(work)


def sum_pairs(work: Address, count: Int, high: Vec, low: Vec) -> tuple[Vec, Vec]:
    if count == 1:
        high, low = sum_lanes_pair(high, low)
    else:
        high, low = across_sum_pair(work, work + LOW)
    return high, low


def greatest_of_rows(x: Address, stride: Int, count: Int, n: Int, work: Address) -> Vec:
    # in lane i that of row i
    b: Vec = splat(-INF)
    row: Int = 0
    while row < count:
        b = greatest_lanes(x, n)
        store(work + row * VECTOR, b)
        x += stride
        row += 1
    if count == 1:
        return max_lanes(b)
    return across_max(work)


def at_once(n: Int, past: Int) -> Int:
    # how many rows are computed side by side
    if n * SIZE <= NARROW:
        return LANES
    if (n * SIZE <= SIDE) & (past == 0):
        return LANES
    return 1


def ahead_of(count: Int) -> Int:
    return AHEAD if count * SIZE < AHEAD else least(count * SIZE, FARTHEST)


def softmax(call: Address) -> None:
    """x -> y"""
    rows: Int = load_int(call + ROWS)
    n: Int = load_int(call + COLS)
    x: Address = data(call, 0)
    y: Address = data(call, 1)
    dx: Int = row_step(call, 0)
    dy: Int = row_step(call, 1)
    past: Int = load_int(call + FLAGS) & STREAM if n * SIZE >= WIDE else 0
    # shares are kept in memory of the kernel or in y, or computed twice
    keep: Int = n <= SEGMENT
    inside: Int = n * SIZE <= NARROW
    if past & keep:
        # not past the cache what lies in it
        inside = n * SIZE <= STACK - SHARES
        past = inside
    many: Int = at_once(n, past)
    ahead: Int = ahead_of(many * n)
    work: Address = stack()
    values: Address = work + VALUES
    step: Int = SIZE if keep else 0
    stop: Int = least(many, rows)
    m: Vec = greatest_of_rows(x, dx, stop, n, work)
    row: Int = 0
    while row < rows:
        c, k = row_shift(m)
        source: Address = x
        if less(splat(0.0), max_lanes(is_far(m))):
            stop = 1
            store(values, scale(splat(SIGN), c))
            c = load_value(values)
            store(values, k)
            k = load_value(values)
            finish__below(x, x, y, n, c, c, c, c, 0)
            source = y
        store(values, k)
        e: Address = y
        de: Int = dy
        room: Int = 0
        if inside | (keep == 0):
            e = work + SHARES
            de = NARROW
            room = LANES
        high: Vec = m
        low: Vec = m
        shift: Vec = k
        i: Int = 0
        while i < stop:
            if stop > 1:
                shift = load_value(values + i * SIZE)
            high, low, _ties = shares_of_row__near(
                source + i * dx, e + i * de, step, room, n, shift, shift, -1, 1, 0, ahead
            )
            store(work + i * VECTOR, high)
            store(work + LOW + i * VECTOR, low)
            i += 1
        high, low = sum_pairs(work, stop, high, low)
        inverse, rest = reciprocal(high, low)
        a: Vec = inverse
        b: Vec = rest
        x += stop * dx
        row += stop
        done: Int = stop
        if row < rows:
            # of the next rows: work for the time that sums take to become factors
            stop = least(many, rows - row)
            m = greatest_of_rows(x, dx, stop, n, work)
        store(values, inverse)
        store(values + VECTOR, rest)
        if not keep:
            c = splat(0.0)
            if SIGN > 0:
                finish__again(source, source, y, n, inverse, rest, c, k, past)
            else:
                finish__again_negative(source, source, y, n, inverse, rest, c, k, past)
            y += dy
            done = 0
        i = 0
        while i < done:
            if done > 1:
                a = load_value(values + i * SIZE)
                b = load_value(values + VECTOR + i * SIZE)
            finish__scaled(e, e, y, n, a, b, a, a, past)
            e += de
            y += dy
            i += 1
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
        ds: Int = dx
        if less(splat(0.0), max_lanes(is_far(m))):
            stop = 1
            store(values, c)
            store(values + VECTOR, k)
            store(values + 2 * VECTOR, m)
            c = load_value(values)
            k = load_value(values + VECTOR)
            m = load_value(values + 2 * VECTOR)
            finish__below(x, x, y, n, c, c, c, c, 0)
            source = y
            ds = 0
        m = minus(m, c)
        store(values, m)
        store(values + VECTOR, k)
        high: Vec = m
        low: Vec = m
        ties: Vec = m
        top: Vec = m
        shift: Vec = k
        i: Int = 0
        while i < stop:
            at: Address = values + i * SIZE
            if stop > 1:
                top = load_value(at)
                shift = load_value(at + VECTOR)
            high, low, ties = shares_of_row__near(source + i * ds, y, 0, 0, n, top, shift, -1, 0, 1, ahead)
            store(work + i * VECTOR, high)
            store(work + LOW + i * VECTOR, low)
            store(work + TIES + i * VECTOR, ties)
            i += 1
        high, low = sum_pairs(work, stop, high, low)
        s: Vec = log_sum_over(plus(high, low), sums(work + TIES, stop, ties), near(m, m, k))
        x += stop * dx
        row += stop
        done: Int = stop
        if row < rows:
            # of the next rows: work for the time that sums take to become logarithms
            stop = least(many, rows - row)
            m = greatest_of_rows(x, dx, stop, n, work)
        store(values + VECTOR, s)
        i = 0
        while i < done:
            at = values + i * SIZE
            if done > 1:
                top = load_value(at)
                s = load_value(at + VECTOR)
            finish__log_share(source, source, y, n, top, s, s, s, past)
            source += ds
            y += dy
            i += 1
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
            high, low, ties = shares_of_row__share(x, x, 0, 0, n, m, k, -1, 0, 1, AHEAD)
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
    gradient__product__softmax_grad(call, load_int(call + FLAGS) & STREAM)


def log_softmax_backward(call: Address) -> None:
    """dy, y -> dx"""
    gradient__first__log_softmax_grad(call, load_int(call + FLAGS) & STREAM)


def gradient(call: Address, past: Int) -> None:
    # each2(dy, y, s) of s = the sum of each(dy, y)
    if load_int(call + COLS) <= LANES:
        side_gradient__each__each2(call)
    else:
        long_gradient__each__each2(call, past)
    if past:
        fence()


def long_gradient(call: Address, past: Int) -> None:
    rows: Int = load_int(call + ROWS)
    n: Int = load_int(call + COLS)
    dy: Address = data(call, 0)
    y: Address = data(call, 1)
    dx: Address = data(call, 2)
    sign: Vec = splat(SIGN)
    row: Int = 0
    while row < rows:
        s: Vec = total__each(dy, y, n, sign, sign)
        finish__each2(dy, y, dx, n, s, sign, sign, sign, past)
        dy += row_step(call, 0)
        y += row_step(call, 1)
        dx += row_step(call, 2)
        row += 1


def blocks_of_rows(p: Address, q: Address, dp: Int, dq: Int, count: Int, n: Int, work: Address) -> Vec:
    # in lane i the sum of each(p, q) over row i
    zero: Vec = splat(0.0)
    s: Vec = zero
    row: Int = 0
    while row < count:
        s = block__each(p, q, n, zero, zero)
        store(work + row * VECTOR, s)
        p += dp
        q += dq
        row += 1
    return sums(work, count, s)


def side_gradient(call: Address) -> None:
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
        if less(zero, max_lanes(is_far(m))):
            stop = 1
        store(values, k)
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
        if less(zero, max_lanes(is_far(m))):
            k = load_value(values)
            store(values + VECTOR, c)
            c = load_value(values + VECTOR)
            finish__below(x, x, dx, n, c, c, c, c, 0)
            source = dx
        e: Address = dx
        de: Int = row_step(call, 4)
        room: Int = 0
        if inside:
            e = work + SHARES
            de = NARROW
            room = LANES
        high: Vec = m
        low: Vec = m
        shift: Vec = k
        i = 0
        while i < stop:
            label = load_int(labels + i * row_step(call, 1))
            label = label if label >= 0 else 0
            if stop > 1:
                shift = load_value(values + i * SIZE)
            high, low, _ties = shares_of_row__near(
                source + i * sx, e + i * de, SIZE, room, n, shift, shift, label, 1, 0, ahead
            )
            store(work + i * VECTOR, high)
            store(work + LOW + i * VECTOR, low)
            i += 1
        x += stop * sx
        high, low = sum_pairs(work, stop, high, low)
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
        high, low, ties = shares_of_row__share(x, x, 0, 0, n, m, k, -1, 0, 1, AHEAD)
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
