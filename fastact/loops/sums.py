"""Sums over a row, and what several rows have one of each; greatest elements, last passes."""

# ruff: noqa: F821
# mypy: ignore-errors
# names that are not defined here are of the other modules of this folder, or bound by the backend

from __future__ import annotations

from fastact.spec.call import DATA, ROW_STEP, SEGMENT, STEP

# quads whose terms `total` adds plainly before their sum goes to a compensated one: the error does not grow with a row
BLOCK_QUADS = 8
# shares are summed plainly in groups of two quads: 3 roundings; a compensated sum of each would cost 4 additions more.
# After so many groups the errors of the sum of groups, among which are shares below an ULP of it, are added up
CHUNK_GROUPS = 16
# what the compensated sum of groups starts at: above the sum of a group, for no share is above 1.5
BIAS = 16.0
# bytes of a row up to which LANES rows are computed together: what a row has one of is computed for all at once
TOGETHER = 2048
# bytes of a row up to which its shares are kept in memory of the kernel, those of LANES rows
NARROW = 512
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


def step(call: Address, j: Int) -> Int:
    # bytes from element to element of argument j
    return load_int(call + STEP + 8 * j)


def least(a: Int, b: Int) -> Int:
    return a if a < b else b


def greatest_lanes(x: Address, q: Address, n: Int, s: Vec, scaled: Int) -> Vec:
    # of each(x, q, s); `scaled`: that is not x. NaN is passed over: it comes back in the sums
    b: Vec = splat(-INF)
    i: Int = 0
    if n >= QUAD:
        a: Quad = splat4(-INF)
        while i + QUAD <= n:
            a = greater(each(signed4(x + i * SIZE, VECTOR), load4(q + i * SIZE, VECTOR), s), a)
            i += QUAD
        b = greatest4(a)
    while i < n:
        v: Vec = each(signed_some(x + i * SIZE, n - i), load_some(q + i * SIZE, n - i, 0.0), s)
        if scaled:
            v = only(first_lanes(splat(1.0), n - i), v, splat(-INF))
        b = greater(v, b)
        i += LANES
    return b


def greatest(x: Address, n: Int) -> Vec:
    return max_lanes(greatest_lanes__logit(x, x, n, splat(1.0), 0))


def counted_of_row(n: Int, first: Int, row: Int) -> Int:
    # how many elements count of a row that comes so many after the row `first` of a causal mask; all if that is below 0
    return least(n, first + row + 1) if first >= 0 else n


def zeros(y: Address, own: Int, n: Int, past: Int) -> None:
    # what comes after the elements that count
    if own < n:
        zero: Vec = splat(0.0)
        at: Address = y + own * SIZE
        finish__filled(at, at, at, n - own, zero, zero, zero, zero, past)


def shares(
    x: Address,
    q: Address,
    e: Address,
    room: Int,
    n: Int,
    s: Vec,
    m: Vec,
    k: Vec,
    scaled: Int,
    label: Int,
    tie: Int,
    far: Address,
    stride: Int,
    width: Int,
    lane: Int,
) -> tuple[Vec, Vec, Vec]:
    # The sum, lane by lane and in two parts, of shares each(x, q, s, m, k) but that at label, or with `tie` those of
    # x = m, and how many these are. `scaled`: not of x itself. Shares go to e, if there is one; of the last vector
    # `room` more lanes than there are elements. Elements are `width` bytes apart: SIZE, or VECTOR for chain `lane` of
    # rows side by side. Element i of what is prefetched is at far + i·stride
    high: Vec = splat(0.0)
    low: Vec = splat(0.0)
    ties: Vec = splat(0.0)
    apart: Int = LANES * width
    start: Int = 0
    while start < n:
        stop: Int = least(n, start + CHUNK_GROUPS * GROUP)
        t: Vec = splat(BIAS)
        r: Vec = splat(0.0)
        i: Int = start
        while i + GROUP <= stop:
            at: Address = x + i * width
            prefetch(far + i * stride)
            prefetch(far + (i + LANES) * stride)
            prefetch(far + (i + 2 * LANES) * stride)
            prefetch(far + (i + 3 * LANES) * stride)
            v: Quad = signed4(at, apart)
            a: Quad = each(v, load4(q + i * width, apart), s, m, k)
            if e:
                store4(e + i * width, a, apart)
            at += QUAD * width
            prefetch(far + (i + QUAD) * stride)
            prefetch(far + (i + QUAD + LANES) * stride)
            prefetch(far + (i + QUAD + 2 * LANES) * stride)
            prefetch(far + (i + QUAD + 3 * LANES) * stride)
            w: Quad = signed4(at, apart)
            b: Quad = each(w, load4(q + (i + QUAD) * width, apart), s, m, k)
            if e:
                store4(e + (i + QUAD) * width, b, apart)
            g: Vec = plus(gather4(a), gather4(b))
            if tie:
                # most groups are without the greatest element
                if meets(greater(greatest4(v), greatest4(w)), m):
                    g = plus(gather4(unless_equal(a, v, m)), gather4(unless_equal(b, w, m)))
                    ties = plus(ties, plus(gather4(equal(v, m)), gather4(equal(w, m))))
            if label >= 0:
                if (label >= i) & (label < i + GROUP):
                    g = plus(gather4(without4(a, label - i)), gather4(without4(b, label - i - QUAD)))
            t, r = add_share(t, r, g)
            i += GROUP
        after: Int = label - i if label >= 0 else -1
        kept: Address = e + i * width if e else 0
        rest, count = some_shares__each(
            x + i * width, q + i * width, kept, room, stop - i, s, m, k, scaled, after, tie, width, lane
        )
        ties = plus(ties, count)
        if i > start:
            t, r = add_share(t, r, rest)
            t = unbiased(t)
        else:
            t = rest
        if start:
            high, low = pair_add(high, low, t, r)
        else:
            high = t
            low = r
        start = stop
    return high, low, ties


def some_shares(
    x: Address, q: Address, e: Address, room: Int, n: Int, s: Vec, m: Vec, k: Vec, scaled: Int, label: Int,
    tie: Int, width: Int, lane: Int
) -> tuple[Vec, Vec]:  # fmt: skip
    # the same for less than a group, added plainly
    t: Vec = splat(0.0)
    ties: Vec = splat(0.0)
    apart: Int = LANES * width
    i: Int = 0
    while i + QUAD <= n:
        v: Quad = signed4(x + i * width, apart)
        a: Quad = each(v, load4(q + i * width, apart), s, m, k)
        if e:
            store4(e + i * width, a, apart)
        if tie:
            a = unless_equal(a, v, m)
            ties = plus(ties, gather4(equal(v, m)))
        if label >= 0:
            a = without4(a, label - i)
        t = plus(t, gather4(a))
        i += QUAD
    while i + lane < n:
        some: Int = n - i if width == SIZE else LANES
        u: Vec = signed_some(x + i * width, some)
        w: Vec = each(u, load_some(q + i * width, some, 0.0), s, m, k)
        if scaled:
            w = first_lanes(w, some)
        if e:
            store_some(e + i * width, w, some + room)
        if tie:
            w = unless_equal(w, u, m)
            ties = plus(ties, equal(u, m))
        if label >= 0:
            w = without(w, label - i)
        t = plus(t, w)
        i += LANES
    return t, ties


def shares_of_row(
    x: Address,
    q: Address,
    e: Address,
    room: Int,
    n: Int,
    s: Vec,
    m: Vec,
    k: Vec,
    scaled: Int,
    label: Int,
    tie: Int,
    far: Address,
    stride: Int,
    width: Int,
    lane: Int,
) -> tuple[Vec, Vec, Vec]:
    # the same for any n; the sums of segments are added without their lanes
    high: Vec = splat(0.0)
    low: Vec = splat(0.0)
    ties: Vec = splat(0.0)
    if n <= GROUP:
        high, ties = some_shares__each(x, q, e, room, n, s, m, k, scaled, label, tie, width, lane)
    else:
        i: Int = 0
        while i < n:
            kept: Address = e + i * width if e else 0
            after: Int = label - i if label >= 0 else -1
            t, r, count = shares__each(
                x + i * width,
                q + i * width,
                kept,
                room,
                least(n - i, SEGMENT),
                s,
                m,
                k,
                scaled,
                after,
                tie,
                far + i * stride,
                stride,
                width,
                lane,
            )
            ties = plus(ties, count)
            if n > SEGMENT:
                t, r = sum_lanes_pair(t, r)
                t = first_lanes(t, 1)
                r = first_lanes(r, 1)
            if i:
                high, low = pair_add(high, low, t, r)
            else:
                high = t
                low = r
            i += SEGMENT
    return high, low, ties


def block(p: Address, q: Address, n: Int, a: Vec, b: Vec, width: Int, lane: Int) -> Vec:
    # the sum of each(p, q, a, b), lane by lane, added plainly
    s: Quad = splat4(0.0)
    apart: Int = LANES * width
    i: Int = 0
    while i + QUAD <= n:
        s = plus(s, each(load4(p + i * width, apart), load4(q + i * width, apart), a, b))
        i += QUAD
    t: Vec = gather4(s)
    while (i + LANES <= n) | ((width != SIZE) & (i + lane < n)):
        t = plus(t, each(load(p + i * width), load(q + i * width), a, b))
        i += LANES
    if (i < n) & (width == SIZE):
        v: Vec = each(load_some(p + i * SIZE, n - i, 0.0), load_some(q + i * SIZE, n - i, 0.0), a, b)
        t = plus(t, first_lanes(v, n - i))
    return t


def total_lanes(p: Address, q: Address, n: Int, a: Vec, b: Vec, width: Int, lane: Int) -> Vec:
    high: Vec = splat(0.0)
    low: Vec = splat(0.0)
    i: Int = 0
    while i < n:
        stop: Int = least(n, i + BLOCK_QUADS * QUAD)
        t: Vec = block__each(p + i * width, q + i * width, stop - i, a, b, width, lane)
        if i:
            high, error = two_sum(high, t)
            low = plus(low, error)
        else:
            high = t
        i = stop
    return plus(high, low)


def total(p: Address, q: Address, n: Int, a: Vec, b: Vec) -> Vec:
    # the sum of each(p, q, a, b), segment by segment
    high: Vec = splat(0.0)
    low: Vec = splat(0.0)
    i: Int = 0
    while i < n:
        t: Vec = sum_lanes(total_lanes__each(p + i * SIZE, q + i * SIZE, least(n - i, SEGMENT), a, b, SIZE, 0))
        if i:
            high, error = two_sum(high, t)
            low = plus(low, error)
        else:
            high = t
        i += SEGMENT
    if n > SEGMENT:
        high = plus(high, low)
    return high


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
        v: Quad = each(load4(p + i * SIZE, VECTOR), load4(q + i * SIZE, VECTOR), a, b, c, d)
        store4(out + i * SIZE, v, VECTOR)
        i += QUAD
    while i < n:
        u: Vec = each(load_some(p + i * SIZE, n - i, 0.0), load_some(q + i * SIZE, n - i, 0.0), a, b, c, d)
        store_some(out + i * SIZE, u, n - i)
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


def greatest_of_rows(
    x: Address, stride: Int, q: Address, dq: Int, count: Int, n: Int, first: Int, s: Vec, scaled: Int, work: Address
) -> Vec:
    b: Vec = splat(-INF)
    row: Int = 0
    while row < count:
        b = greatest_lanes__each(x, q, counted_of_row(n, first, row), s, scaled)
        store(work + row * VECTOR, b)
        x += stride
        q += dq
        row += 1
    if count == 1:
        return max_lanes(b)
    return across_max(work)


def shares_of_rows(
    x: Address, dx: Int, q: Address, dq: Int, e: Address, de: Int, room: Int, count: Int, n: Int, first: Int, s: Vec,
    m: Vec, k: Vec, scaled: Int, labels: Address, dl: Int, tie: Int, ahead: Int, work: Address
) -> tuple[Vec, Vec, Vec]:  # fmt: skip
    # `shares_of_row` of each; an element with a label below 0 as with 0
    values: Address = work + VALUES
    store(values, m)
    store(values + VECTOR, k)
    high: Vec = m
    low: Vec = m
    ties: Vec = m
    top: Vec = m
    shift: Vec = k
    label: Int = -1
    i: Int = 0
    while i < count:
        if count > 1:
            top = load_value(values + i * SIZE)
            shift = load_value(values + VECTOR + i * SIZE)
        if labels:
            label = load_int(labels + i * dl)
            label = label if label >= 0 else 0
        at: Address = x + i * dx
        own: Int = counted_of_row(n, first, i)
        high, low, ties = shares_of_row__each(
            at, q + i * dq, e, room, own, s, top, shift, scaled, label, tie, at + ahead, SIZE, SIZE, 0
        )
        store(work + i * VECTOR, high)
        store(work + LOW + i * VECTOR, low)
        if tie:
            store(work + TIES + i * VECTOR, ties)
        if e:
            e += de
        i += 1
    high, low = sum_pairs(work, count, high, low)
    if tie:
        ties = sums(work + TIES, count, ties)
    return high, low, ties


def finish_rows(
    p: Address, dp: Int, out: Address, step: Int, count: Int, n: Int, first: Int, a: Vec, b: Vec, values: Address,
    past: Int
) -> None:  # fmt: skip
    # out = each(p, p, a, b)
    store(values, a)
    store(values + VECTOR, b)
    i: Int = 0
    while i < count:
        if count > 1:
            a = load_value(values + i * SIZE)
            b = load_value(values + VECTOR + i * SIZE)
        own: Int = counted_of_row(n, first, i)
        finish__each(p, p, out, own, a, b, a, a, past)
        zeros(out, own, n, past)
        p += dp
        out += step
        i += 1


def at_once(n: Int, past: Int) -> Int:
    # how many rows are computed together
    if n * SIZE <= NARROW:
        return LANES
    if (n * SIZE <= TOGETHER) & (past == 0):
        return LANES
    return 1


def ahead_of(count: Int) -> Int:
    return AHEAD if count * SIZE < AHEAD else least(count * SIZE, FARTHEST)


def any_far(m: Vec) -> Int:
    # whether a row has its origin elsewhere than at 0; such a row goes alone
    return less(splat(0.0), max_lanes(is_far(m)))


def first_value(v: Vec, values: Address) -> Vec:
    # the first row's, in all lanes
    store(values, v)
    return load_value(values)
