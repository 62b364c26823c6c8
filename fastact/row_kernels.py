"""Kernels over rows: the loops, once, for every backend (docs/design.md, 'Row kernels').

Numba compiles these functions as they stand, with the names below bound for a dtype; the annotations are the types that
a renderer to a typed language needs. A `Vec` is 64 bytes wide on every machine and a `Quad` four of them, so that a sum
has the same order of additions everywhere; a row value (a maximum, a sum) is a `Vec` with the value in all lanes.

``LANES`` elements of ``SIZE`` bytes make a vector, ``QUAD`` elements four, ``GROUP`` elements two quads. ``SIGN`` is -1 for softmin, else 1.
A function called ``total__NAME`` is `total` with the formula NAME for ``each``; ``block__each`` in it is `block` with the
same formula.
Formulas of ``row_formulas`` take `Vec` and `Quad` alike; beside them there are

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
==========================================  ============================================================================
"""

# ruff: noqa: F821
# mypy: ignore-errors
# every name that is not defined here is bound by the backend

from __future__ import annotations

# bytes of a vector
VECTOR = 64
# quads whose terms `total` adds plainly before their sum goes to a compensated one: the error does not grow with a row
BLOCK_QUADS = 8
# shares are summed plainly in groups of two quads: 3 roundings; a compensated sum of each would cost 4 additions more.
# After so many groups the errors of the sum of groups, among which are shares below an ULP of it, are added up
CHUNK_GROUPS = 16
# what the compensated sum of groups starts at: above the sum of a group, for no share is above 1.5
BIAS = 16.0
# rows of at most so many vectors are computed LANES at a time: what a row has one of is then computed for all at once
FEW = 8
# elements of a segment: longer rows are the sum of segments, which threads share
SEGMENT = 65536
# the kernel's own memory: vectors to be summed across, what rows have one of, shares
STACK = 20480
VALUES = 2048
SHARES = 4096
# how far ahead of the sums to prefetch: two rows of 1024 float32 (2^24 of them on 2 cores of a Zen 4: 3.3 ms, one row 3.8)
AHEAD = 8192
# flags; STREAM: the last pass goes past the cache
STREAM = 1
VALUE_ONLY = 2


def greatest(x: Address, n: Int) -> Vec:
    # NaN is passed over: it comes back in the sums
    a: Quad = splat4(-INF)
    i: Int = 0
    while i + QUAD <= n:
        a = greater(signed4(x + i * SIZE), a)
        i += QUAD
    b: Vec = greatest4(a)
    while i + LANES <= n:
        b = greater(signed(x + i * SIZE), b)
        i += LANES
    if i < n:
        b = greater(signed_some(x + i * SIZE, n - i), b)
    return max_lanes(b)


def shares(x: Address, e: Address, n: Int, m: Vec, c: Vec, k: Vec, label: Int, keep: Int, tie: Int) -> tuple[Vec, Vec, Vec]:
    # the sum, lane by lane and in two parts, of the shares each(x, m, c, k) but that at label, kept at e; how many are m
    high: Vec = splat(0.0)
    low: Vec = splat(0.0)
    ties: Vec = splat(0.0)
    start: Int = 0
    while start < n:
        stop: Int = start + CHUNK_GROUPS * GROUP
        if stop > n:
            stop = n
        s: Vec = splat(BIAS)
        r: Vec = splat(0.0)
        i: Int = start
        while i + GROUP <= stop:
            at: Address = x + i * SIZE
            prefetch(at + AHEAD)
            prefetch(at + AHEAD + VECTOR)
            prefetch(at + AHEAD + 2 * VECTOR)
            prefetch(at + AHEAD + 3 * VECTOR)
            v: Quad = signed4(at)
            a: Quad = each(v, m, c, k)
            if keep:
                store4(e + i * SIZE, a)
            if tie:
                ties = plus(ties, gather4(equal(v, m)))
            at += QUAD * SIZE
            prefetch(at + AHEAD)
            prefetch(at + AHEAD + VECTOR)
            prefetch(at + AHEAD + 2 * VECTOR)
            prefetch(at + AHEAD + 3 * VECTOR)
            v = signed4(at)
            b: Quad = each(v, m, c, k)
            if keep:
                store4(e + (i + QUAD) * SIZE, b)
            if tie:
                ties = plus(ties, gather4(equal(v, m)))
            g: Vec = plus(gather4(a), gather4(b))
            if label >= i:
                if label < i + GROUP:
                    g = plus(gather4(without4(a, label - i)), gather4(without4(b, label - i - QUAD)))
            s, r = add_share(s, r, g)
            i += GROUP
        t, count = some_shares__each(x + i * SIZE, e + i * SIZE, stop - i, m, c, k, label - i, keep, tie)
        ties = plus(ties, count)
        s, r = add_share(s, r, t)
        if start:
            high, low = pair_add(high, low, unbiased(s), r)
        else:
            high = unbiased(s)
            low = r
        start = stop
    return high, low, ties


def some_shares(x: Address, e: Address, n: Int, m: Vec, c: Vec, k: Vec, label: Int, keep: Int, tie: Int) -> tuple[Vec, Vec]:
    # the same for at most FEW vectors, added plainly
    t: Vec = splat(0.0)
    ties: Vec = splat(0.0)
    i: Int = 0
    while i + QUAD <= n:
        v: Quad = signed4(x + i * SIZE)
        a: Quad = each(v, m, c, k)
        if keep:
            store4(e + i * SIZE, a)
        if tie:
            ties = plus(ties, gather4(equal(v, m)))
        if label >= i:
            a = without4(a, label - i)
        t = plus(t, gather4(a))
        i += QUAD
    while i < n:
        u: Vec = signed_some(x + i * SIZE, n - i)
        w: Vec = each(u, m, c, k)
        if keep:
            store_some(e + i * SIZE, w, n - i)
        if tie:
            ties = plus(ties, equal(u, m))
        if label >= i:
            w = without(w, label - i)
        t = plus(t, w)
        i += LANES
    return t, ties


def shares_of_row(x: Address, e: Address, n: Int, m: Vec, c: Vec, k: Vec, label: Int, keep: Int, tie: Int) -> tuple[Vec, Vec, Vec]:
    # the sum over a row, in two parts, in all lanes; and how many are m
    high: Vec = splat(0.0)
    low: Vec = splat(0.0)
    ties: Vec = splat(0.0)
    i: Int = 0
    while i < n:
        stop: Int = i + SEGMENT
        if stop > n:
            stop = n
        s, r, count = shares__each(x + i * SIZE, e + i * SIZE, stop - i, m, c, k, label - i, keep, tie)
        s, r = sum_lanes_pair(s, r)
        ties = plus(ties, count)
        if i:
            high, low = pair_add(high, low, s, r)
        else:
            high = s
            low = r
        i = stop
    return high, low, sum_lanes(ties)


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


def total(p: Address, q: Address, n: Int, a: Vec, b: Vec) -> Vec:
    # the sum of each(p, q, a, b)
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
    return sum_lanes(plus(high, low))


def finish(p: Address, q: Address, out: Address, n: Int, a: Vec, b: Vec, c: Vec, d: Vec, past: Int) -> None:
    # out = each(p, q, a, b, c, d)
    i: Int = 0
    if past:
        # up to the alignment of out
        i = (-out % VECTOR) // SIZE
        if i > n:
            i = n
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


def most(work: Address, count: Int) -> Vec:
    # the greatest lanes of vectors in work; of one vector alone without the others' cost
    if count == 1:
        return max_lanes(load(work))
    return across_max(work)


def sums(work: Address, count: Int) -> Vec:
    if count == 1:
        return sum_lanes(load(work))
    return across_sum(work)


def sum_pairs(work: Address, count: Int) -> tuple[Vec, Vec]:
    if count == 1:
        high, low = sum_lanes_pair(load(work), splat(0.0))
    else:
        high, low = across_sum_pair(work)
    return high, low


def greatest_of_rows(x: Address, stride: Int, count: Int, n: Int, work: Address) -> Vec:
    # in lane i that of row i, for rows of at most FEW vectors
    row: Int = 0
    while row < count:
        b: Vec = splat(-INF)
        i: Int = 0
        while i < n:
            b = greater(signed_some(x + i * SIZE, n - i), b)
            i += LANES
        store(work + row * VECTOR, b)
        x += stride
        row += 1
    return most(work, count)


def softmax(args: Address, strides: Address, rows: Int, n: Int, params: Address, flags: Int) -> None:
    """x -> y"""
    x: Address = load_int(args)
    y: Address = load_int(args + 8)
    dx: Int = load_int(strides)
    dy: Int = load_int(strides + 8)
    past: Int = flags & STREAM
    work: Address = stack()
    row: Int = 0
    m: Vec = splat(0.0)
    if n > FEW * LANES:
        m = greatest(x, n)
    while row < rows:
        if n <= FEW * LANES:
            count: Int = rows - row
            if count > LANES:
                count = LANES
            few_softmax(x, y, dx, dy, count, n, work)
        else:
            count = 1
            source: Address = x
            if less(splat(0.0), is_far(m)):
                finish__below(x, x, y, n, scale(splat(SIGN), m), m, m, m, 0)
                source = y
                m = splat(0.0)
            c, k = row_shift(m)
            keep: Int = n <= SEGMENT
            at: Address = y
            if past:
                keep = SHARES + n * SIZE <= STACK
                at = work + SHARES
            high, low, ties = shares_of_row__near(source, at, n, m, c, k, -1, keep, 0)
            inverse, rest = reciprocal(high, low)
            if row + 1 < rows:
                # of the next row: work for the time that the sum takes to become a factor
                m = greatest(x + dx, n)
            if keep:
                finish__scaled(at, at, y, n, inverse, rest, c, k, past)
            else:
                if SIGN > 0:
                    finish__again(source, source, y, n, inverse, rest, c, k, past)
                else:
                    finish__again_negative(source, source, y, n, inverse, rest, c, k, past)
        x += count * dx
        y += count * dy
        row += count
    if past:
        fence()


def few_softmax(x: Address, y: Address, dx: Int, dy: Int, count: Int, n: Int, work: Address) -> None:
    values: Address = work + VALUES
    c, k = row_shift(greatest_of_rows(x, dx, count, n, work))
    store(values, c)
    store(values + VECTOR, k)
    row: Int = 0
    while row < count:
        at: Address = work + SHARES + row * FEW * VECTOR
        near: Vec = load_value(values + row * SIZE)
        shift: Vec = load_value(values + VECTOR + row * SIZE)
        t, ties = some_shares__share(x + row * dx, at, n, near, near, shift, -1, 1, 0)
        store(work + row * VECTOR, t)
        row += 1
    high, low = sum_pairs(work, count)
    inverse, rest = reciprocal(high, low)
    store(values, inverse)
    store(values + VECTOR, rest)
    row = 0
    while row < count:
        at = work + SHARES + row * FEW * VECTOR
        a: Vec = load_value(values + row * SIZE)
        b: Vec = load_value(values + VECTOR + row * SIZE)
        finish__scaled(at, at, y + row * dy, n, a, b, a, a, 0)
        row += 1


def log_softmax(args: Address, strides: Address, rows: Int, n: Int, params: Address, flags: Int) -> None:
    """x -> y"""
    x: Address = load_int(args)
    y: Address = load_int(args + 8)
    dx: Int = load_int(strides)
    dy: Int = load_int(strides + 8)
    past: Int = flags & STREAM
    work: Address = stack()
    row: Int = 0
    m: Vec = splat(0.0)
    if n > FEW * LANES:
        m = greatest(x, n)
    while row < rows:
        if n <= FEW * LANES:
            count: Int = rows - row
            if count > LANES:
                count = LANES
            few_log_softmax(x, y, dx, dy, count, n, work)
        else:
            count = 1
            source: Address = x
            if less(splat(0.0), is_far(m)):
                finish__below(x, x, y, n, m, m, m, m, 0)
                source = y
                m = splat(0.0)
            c, k = row_shift(m)
            high, low, ties = shares_of_row__near_below(source, y, n, m, c, k, -1, 0, 1)
            s: Vec = log_sum_over(plus(high, low), ties, exp_scaled(m, c, k))
            top: Vec = m
            if row + 1 < rows:
                m = greatest(x + dx, n)
            finish__log_share(source, source, y, n, top, s, s, s, past)
        x += count * dx
        y += count * dy
        row += count
    if past:
        fence()


def few_log_softmax(x: Address, y: Address, dx: Int, dy: Int, count: Int, n: Int, work: Address) -> None:
    values: Address = work + VALUES
    m: Vec = greatest_of_rows(x, dx, count, n, work)
    c, k = row_shift(m)
    store(values, m)
    store(values + VECTOR, c)
    store(values + 2 * VECTOR, k)
    row: Int = 0
    while row < count:
        top: Vec = load_value(values + row * SIZE)
        near: Vec = load_value(values + VECTOR + row * SIZE)
        shift: Vec = load_value(values + 2 * VECTOR + row * SIZE)
        t, ties = some_shares__share_below(x + row * dx, x, n, top, near, shift, -1, 0, 1)
        store(work + row * VECTOR, t)
        store(work + SHARES + row * VECTOR, ties)
        row += 1
    high, low = sum_pairs(work, count)
    s: Vec = log_sum_over(plus(high, low), sums(work + SHARES, count), exp_scaled(m, c, k))
    store(values + VECTOR, s)
    row = 0
    while row < count:
        a: Vec = load_value(values + row * SIZE)
        b: Vec = load_value(values + VECTOR + row * SIZE)
        finish__log_share(x + row * dx, x + row * dx, y + row * dy, n, a, b, a, a, 0)
        row += 1


def logsumexp(args: Address, strides: Address, rows: Int, n: Int, params: Address, flags: Int) -> None:
    """x -> one value a row"""
    x: Address = load_int(args)
    y: Address = load_int(args + 8)
    row: Int = 0
    while row < rows:
        m: Vec = greatest(x, n)
        result: Vec = m
        if less(is_finite(m), splat(1.0)):
            # m, or NaN where the row has one
            result = plus(m, total__poison(x, x, n, m, m))
        else:
            c, k = row_shift(m)
            high, low, ties = shares_of_row__share_below(x, x, n, m, c, k, -1, 0, 1)
            result = plus(m, log_sum_over(plus(high, low), ties, exp_scaled(m, c, k)))
        store_value(y, result)
        x += load_int(strides)
        y += load_int(strides + 8)
        row += 1


def sparsemax(args: Address, strides: Address, rows: Int, n: Int, params: Address, flags: Int) -> None:
    """x -> y: Newton's method from the left for t with sum(max(x - m - t, 0)) = 1 (Michelot, JOTA 50, 1986)"""
    x: Address = load_int(args)
    y: Address = load_int(args + 8)
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
        x += load_int(strides)
        y += load_int(strides + 8)
        row += 1


def softmax_backward(args: Address, strides: Address, rows: Int, n: Int, params: Address, flags: Int) -> None:
    """dy, y -> dx"""
    dy: Address = load_int(args)
    y: Address = load_int(args + 8)
    dx: Address = load_int(args + 16)
    past: Int = flags & STREAM
    row: Int = 0
    zero: Vec = splat(0.0)
    while row < rows:
        s: Vec = total__product(dy, y, n, zero, zero)
        finish__softmax_grad(dy, y, dx, n, s, splat(SIGN), s, s, past)
        dy += load_int(strides)
        y += load_int(strides + 8)
        dx += load_int(strides + 16)
        row += 1
    if past:
        fence()


def log_softmax_backward(args: Address, strides: Address, rows: Int, n: Int, params: Address, flags: Int) -> None:
    """dy, y -> dx"""
    dy: Address = load_int(args)
    y: Address = load_int(args + 8)
    dx: Address = load_int(args + 16)
    past: Int = flags & STREAM
    row: Int = 0
    zero: Vec = splat(0.0)
    while row < rows:
        s: Vec = total__first(dy, dy, n, zero, zero)
        finish__log_softmax_grad(dy, y, dx, n, s, s, s, s, past)
        dy += load_int(strides)
        y += load_int(strides + 8)
        dx += load_int(strides + 16)
        row += 1
    if past:
        fence()


def sparsemax_backward(args: Address, strides: Address, rows: Int, n: Int, params: Address, flags: Int) -> None:
    """dy, y -> dx"""
    dy: Address = load_int(args)
    y: Address = load_int(args + 8)
    dx: Address = load_int(args + 16)
    past: Int = flags & STREAM
    row: Int = 0
    zero: Vec = splat(0.0)
    while row < rows:
        count: Vec = total__support(dy, y, n, zero, zero)
        mean: Vec = quotient(total__supported(dy, y, n, zero, zero), count)
        finish__sparsemax_grad(dy, y, dx, n, mean, mean, mean, mean, past)
        dy += load_int(strides)
        y += load_int(strides + 8)
        dx += load_int(strides + 16)
        row += 1
    if past:
        fence()


def cross_entropy(args: Address, strides: Address, rows: Int, n: Int, params: Address, flags: Int) -> None:
    """x, labels (int64; -1: not counted), weights of classes (0: none) -> loss of each row, dx; work takes dx's place
    where `flags & VALUE_ONLY`. params: the factor of dx."""
    x: Address = load_int(args)
    labels: Address = load_int(args + 8)
    weights: Address = load_int(args + 16)
    loss: Address = load_int(args + 24)
    dx: Address = load_int(args + 32)
    factor: Vec = load_param(params)
    work: Address = stack()
    row: Int = 0
    while row < rows:
        count: Int = 1
        label: Int = load_int(labels)
        if n <= FEW * LANES:
            count = rows - row
            if count > LANES:
                count = LANES
            few_cross_entropy(args, strides, row, count, n, factor, flags, work)
        elif label < 0:
            store_value(loss, splat(0.0))
            if not flags & VALUE_ONLY:
                zero: Vec = splat(0.0)
                finish__filled(x, x, dx, n, zero, zero, zero, zero, 0)
        else:
            chosen: Vec = load_value(x + label * SIZE)
            m: Vec = greatest(x, n)
            c, k = row_shift(m)
            source: Address = x
            if less(splat(0.0), is_far(m)):
                finish__below(x, x, dx, n, m, m, m, m, 0)
                source = dx
            high, low, ties = shares_of_row__near(source, dx, n, m, c, k, label, 1, 0)
            rest: Vec = plus(high, low)
            share: Vec = exp_scaled(chosen, c, k)
            weight: Vec = splat(1.0)
            if weights:
                weight = load_value(weights + label * SIZE)
            store_value(loss, scale(weight, label_loss(chosen, m, rest, share, exp_scaled(m, c, k))))
            if not flags & VALUE_ONLY:
                inverse: Vec = quotient(scale(weight, factor), plus(rest, share))
                finish__scaled(dx, dx, dx, n, inverse, splat(0.0), c, k, 0)
                store_value(dx + label * SIZE, negative_product(rest, inverse))
        x += count * load_int(strides)
        labels += count * load_int(strides + 8)
        loss += count * load_int(strides + 24)
        dx += count * load_int(strides + 32)
        row += count


def few_cross_entropy(
    args: Address, strides: Address, start: Int, count: Int, n: Int, factor: Vec, flags: Int, work: Address
) -> None:
    weights: Address = load_int(args + 16)
    values: Address = work + VALUES
    sx: Int = load_int(strides)
    x: Address = load_int(args) + start * sx
    labels: Address = load_int(args + 8) + start * load_int(strides + 8)
    m: Vec = greatest_of_rows(x, sx, count, n, work)
    c, k = row_shift(m)
    store(values, c)
    store(values + VECTOR, k)
    store(values + 3 * VECTOR, splat(1.0))
    row: Int = 0
    while row < count:
        label: Int = load_int(labels + row * load_int(strides + 8))
        at: Address = row * SIZE
        near: Vec = load_value(values + at)
        shift: Vec = load_value(values + VECTOR + at)
        e: Address = work + SHARES + row * FEW * VECTOR
        t, ties = some_shares__share(x + row * sx, e, n, near, near, shift, label, 1, 0)
        store(work + row * VECTOR, t)
        if label < 0:
            label = 0
        store_value(values + 2 * VECTOR + at, load_value(x + row * sx + label * SIZE))
        if weights:
            store_value(values + 3 * VECTOR + at, load_value(weights + label * SIZE))
        row += 1
    high, low = sum_pairs(work, count)
    rest: Vec = plus(high, low)
    chosen: Vec = load(values + 2 * VECTOR)
    weight: Vec = load(values + 3 * VECTOR)
    share: Vec = exp_scaled(chosen, c, k)
    inverse: Vec = quotient(scale(weight, factor), plus(rest, share))
    store(values, scale(weight, label_loss(chosen, m, rest, share, exp_scaled(m, c, k))))
    store(values + VECTOR, inverse)
    store(values + 2 * VECTOR, negative_product(rest, inverse))
    loss: Address = load_int(args + 24) + start * load_int(strides + 24)
    dx: Address = load_int(args + 32) + start * load_int(strides + 32)
    zero: Vec = splat(0.0)
    row = 0
    while row < count:
        label = load_int(labels)
        at = row * SIZE
        value: Vec = load_value(values + at)
        if label < 0:
            value = zero
        store_value(loss, value)
        if not flags & VALUE_ONLY:
            if label < 0:
                finish__filled(dx, dx, dx, n, zero, zero, zero, zero, 0)
            else:
                e = work + SHARES + row * FEW * VECTOR
                finish__scaled(e, e, dx, n, load_value(values + VECTOR + at), zero, zero, zero, 0)
                store_value(dx + label * SIZE, load_value(values + 2 * VECTOR + at))
        labels += load_int(strides + 8)
        loss += load_int(strides + 24)
        dx += load_int(strides + 32)
        row += 1


def cross_entropy_of_shares(args: Address, strides: Address, rows: Int, n: Int, params: Address, flags: Int) -> None:
    """x, targets -> loss of each row, dx. params: the factor of dx."""
    x: Address = load_int(args)
    q: Address = load_int(args + 8)
    loss: Address = load_int(args + 16)
    dx: Address = load_int(args + 24)
    factor: Vec = load_param(params)
    row: Int = 0
    zero: Vec = splat(0.0)
    while row < rows:
        m: Vec = greatest(x, n)
        c, k = row_shift(m)
        high, low, ties = shares_of_row__share_below(x, x, n, m, c, k, -1, 0, 1)
        rest: Vec = plus(high, low)
        top: Vec = exp_scaled(m, c, k)
        weight: Vec = total__first(q, q, n, zero, zero)
        far: Vec = total__distance(x, q, n, m, zero)
        store_value(loss, target_loss(far, weight, log_sum_over(rest, ties, top)))
        if not flags & VALUE_ONLY:
            share: Vec = target_factor(weight, rest, ties, top)
            finish__target_grad(x, q, dx, n, share, factor, c, k, 0)
        x += load_int(strides)
        q += load_int(strides + 8)
        loss += load_int(strides + 16)
        dx += load_int(strides + 24)
        row += 1


def sigmoid_cross_entropy(args: Address, strides: Address, rows: Int, n: Int, params: Address, flags: Int) -> None:
    """x, targets, weights, positive weights (0: none) -> sum of the row's losses, dx, losses.
    dx is left alone where `flags & VALUE_ONLY`, losses where 0. params: the factor of dx."""
    x: Address = load_int(args)
    t: Address = load_int(args + 8)
    weights: Address = load_int(args + 16)
    positive: Address = load_int(args + 24)
    sums: Address = load_int(args + 32)
    dx: Address = load_int(args + 40)
    losses: Address = load_int(args + 48)
    factor: Vec = load_param(params)
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
            if not flags & VALUE_ONLY:
                store_some(dx + at, scale(sigmoid_loss_grad(v, target, weight, pos), factor), n - i)
            high, error = two_sum(high, first_lanes(value, n - i))
            low = plus(low, error)
            i += LANES
        store_value(sums, sum_lanes(plus(high, low)))
        x += load_int(strides)
        t += load_int(strides + 8)
        weights += load_int(strides + 16)
        positive += load_int(strides + 24)
        sums += load_int(strides + 32)
        dx += load_int(strides + 40)
        losses += load_int(strides + 48)
        row += 1
