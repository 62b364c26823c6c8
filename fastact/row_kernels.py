"""Kernels over rows: the loops, once, for every backend (docs/design.md, 'Row kernels').

Numba compiles these functions as they stand, with the names below bound for a dtype; the annotations are the types that
a renderer to a typed language needs. A `Vec` is 64 bytes wide on every machine and a `Quad` four of them, so that a sum
has the same order of additions everywhere; a row value (a maximum, a sum) is a `Vec` with the value in all lanes.

``LANES`` elements of ``SIZE`` bytes make a vector, ``QUAD`` elements four. ``SIGN`` is -1 for softmin, else 1.
A function called ``total__NAME`` or ``finish__NAME`` is `total` or `finish` with the formula NAME for ``each``.
Formulas of ``row_formulas`` take `Vec` and `Quad` alike; beside them there are

==========================================  ============================================================================
``load(p)``, ``load4(p)``                   a `Vec`, a `Quad`
``load_some(p, count, fill)``               the first `count` lanes, `fill` in the others; no byte more is read
``signed(p)``, ``signed4(p)``               the same times SIGN
``signed_some(p, count)``                   the first `count` lanes times SIGN, -inf in the others
``store``, ``store4``, ``store_some``       ``(p, v)``, ``(p, v)``, ``(p, v, count)``
``stream(p, v)``, ``fence()``               past the cache to an aligned p; after the last one
``splat(s)``, ``splat4(s)``                 a number in all lanes
``load_int(p)``, ``load_value(p)``          an int64; an element, in all lanes
``load_param(p)``                           a double, rounded to the dtype, in all lanes
``gather4(v)``                              the sum of a quad's vectors: (0 + 1) + (2 + 3)
``greatest4(v)``                            the maximum of a quad's vectors
``max_lanes(v)``, ``sum_lanes(v)``          over the lanes: i with i ^ LANES/2, then i ^ LANES/4, …; in all lanes
``sum_lanes_pair(high, low)``               likewise to twice the precision, in two parts: float64 by ``pair_add``;
                                            float32 in float64, high + low, then lanes i, i + 8, then i ^ 4, 2, 1
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
# quads of shares that are summed plainly: 3 roundings; a compensated sum of each would cost 2 additions more
GROUP_QUADS = 4
# quads until the errors of those sums, among which are shares below an ULP of the sum, go to a compensated sum
SHARE_QUADS = 32
# what a compensated sum of shares starts at: above the sum of a group, for no share is above 1.5
BIAS = 8.0
# rows up to here keep their exponentials for the last pass, longer ones compute them twice and write once
KEEP = 65536
# flags; STREAM: the last pass goes past the cache. Of gradients only: the softmax family computes more than it stores,
# and waits for such stores (2^24 float32 on 2 cores of a Zen 4: 5.0 ms with, 3.5 without; gradient of softmax 5.8, 5.9)
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


def exponentials(x: Address, e: Address, n: Int, c: Vec, k: Vec, keep: Int) -> tuple[Vec, Vec]:
    # the sum of shares, in two parts; the shares go to e
    high: Vec = splat(0.0)
    low: Vec = splat(0.0)
    i: Int = 0
    if n > GROUP_QUADS * QUAD:
        s: Quad = splat4(BIAS)
        r: Quad = splat4(0.0)
        d: Quad = splat4(0.0)
        while i + QUAD <= n:
            stop: Int = i + SHARE_QUADS * QUAD
            if stop > n:
                stop = n
            q: Quad = splat4(0.0)
            while i + QUAD <= stop:
                group: Int = i + GROUP_QUADS * QUAD
                if group > stop:
                    group = stop
                g: Quad = splat4(0.0)
                while i + QUAD <= group:
                    v: Quad = exp_scaled(signed4(x + i * SIZE), c, k)
                    if keep:
                        store4(e + i * SIZE, v)
                    g = plus(g, v)
                    i += QUAD
                s, q = add_share(s, q, g)
            r, error = two_sum(r, q)
            d = plus(d, error)
        high, low = gather_shares(s, plus(r, d))
    elif n >= QUAD:
        g = splat4(0.0)
        while i + QUAD <= n:
            v = exp_scaled(signed4(x + i * SIZE), c, k)
            if keep:
                store4(e + i * SIZE, v)
            g = plus(g, v)
            i += QUAD
        high, low = gather_group(g)
    while i < n:
        w: Vec = exp_scaled(signed_some(x + i * SIZE, n - i), c, k)
        if keep:
            store_some(e + i * SIZE, w, n - i)
        high, low = pair_add(high, low, w, splat(0.0))
        i += LANES
    return sum_lanes_pair(high, low)


def gather_shares(s: Quad, r: Quad) -> tuple[Vec, Vec]:
    h: Quad = unbiased(s)
    h0, r0 = pair_add(h[0], r[0], h[1], r[1])
    h1, r1 = pair_add(h[2], r[2], h[3], r[3])
    return pair_add(h0, r0, h1, r1)


def gather_group(g: Quad) -> tuple[Vec, Vec]:
    h0, r0 = two_sum(g[0], g[1])
    h1, r1 = two_sum(g[2], g[3])
    return pair_add(h0, r0, h1, r1)


def shares_below(x: Address, n: Int, m: Vec, c: Vec, k: Vec) -> tuple[Vec, Vec]:
    # the sum of the shares of elements below the greatest one, m, and how many equal it
    high: Vec = splat(0.0)
    low: Vec = splat(0.0)
    ties: Vec = splat(0.0)
    i: Int = 0
    if n > GROUP_QUADS * QUAD:
        s: Quad = splat4(BIAS)
        r: Quad = splat4(0.0)
        d: Quad = splat4(0.0)
        t: Quad = splat4(0.0)
        while i + QUAD <= n:
            stop: Int = i + SHARE_QUADS * QUAD
            if stop > n:
                stop = n
            q: Quad = splat4(0.0)
            while i + QUAD <= stop:
                group: Int = i + GROUP_QUADS * QUAD
                if group > stop:
                    group = stop
                g: Quad = splat4(0.0)
                while i + QUAD <= group:
                    v: Quad = load4(x + i * SIZE)
                    g = plus(g, share_below(v, m, c, k))
                    t = plus(t, equal(v, m))
                    i += QUAD
                s, q = add_share(s, q, g)
            r, error = two_sum(r, q)
            d = plus(d, error)
        high, low = gather_shares(s, plus(r, d))
        ties = gather4(t)
    elif n >= QUAD:
        t = splat4(0.0)
        g = splat4(0.0)
        while i + QUAD <= n:
            v = load4(x + i * SIZE)
            g = plus(g, share_below(v, m, c, k))
            t = plus(t, equal(v, m))
            i += QUAD
        high, low = gather_group(g)
        ties = gather4(t)
    while i < n:
        w: Vec = load_some(x + i * SIZE, n - i, -INF)
        high, low = pair_add(high, low, share_below(w, m, c, k), splat(0.0))
        ties = plus(ties, equal(w, m))
        i += LANES
    high, low = sum_lanes_pair(high, low)
    return plus(high, low), sum_lanes(ties)


def shares_without(x: Address, e: Address, n: Int, label: Int, c: Vec, k: Vec) -> Vec:
    # the sum of all shares but the label's; the shares, the label's too, go to e
    high: Vec = splat(0.0)
    low: Vec = splat(0.0)
    i: Int = 0
    if n > GROUP_QUADS * QUAD:
        s: Quad = splat4(BIAS)
        r: Quad = splat4(0.0)
        d: Quad = splat4(0.0)
        while i + QUAD <= n:
            stop: Int = i + SHARE_QUADS * QUAD
            if stop > n:
                stop = n
            q: Quad = splat4(0.0)
            while i + QUAD <= stop:
                group: Int = i + GROUP_QUADS * QUAD
                if group > stop:
                    group = stop
                g: Quad = splat4(0.0)
                while i + QUAD <= group:
                    v: Quad = exp_scaled(load4(x + i * SIZE), c, k)
                    store4(e + i * SIZE, v)
                    g = plus(g, without4(v, label - i))
                    i += QUAD
                s, q = add_share(s, q, g)
            r, error = two_sum(r, q)
            d = plus(d, error)
        high, low = gather_shares(s, plus(r, d))
    elif n >= QUAD:
        g = splat4(0.0)
        while i + QUAD <= n:
            v = exp_scaled(load4(x + i * SIZE), c, k)
            store4(e + i * SIZE, v)
            g = plus(g, without4(v, label - i))
            i += QUAD
        high, low = gather_group(g)
    while i < n:
        w: Vec = exp_scaled(load_some(x + i * SIZE, n - i, -INF), c, k)
        store_some(e + i * SIZE, w, n - i)
        high, low = pair_add(high, low, without(w, label - i), splat(0.0))
        i += LANES
    high, low = sum_lanes_pair(high, low)
    return plus(high, low)


def total(p: Address, q: Address, n: Int, a: Vec, b: Vec) -> Vec:
    # the sum of each(p, q, a, b)
    high: Vec = splat(0.0)
    low: Vec = splat(0.0)
    i: Int = 0
    while i < n:
        stop: Int = i + BLOCK_QUADS * QUAD
        if stop > n:
            stop = n
        s: Quad = splat4(0.0)
        while i + QUAD <= stop:
            s = plus(s, each(load4(p + i * SIZE), load4(q + i * SIZE), a, b))
            i += QUAD
        t: Vec = gather4(s)
        while i + LANES <= stop:
            t = plus(t, each(load(p + i * SIZE), load(q + i * SIZE), a, b))
            i += LANES
        if i < stop:
            v: Vec = each(load_some(p + i * SIZE, stop - i, 0.0), load_some(q + i * SIZE, stop - i, 0.0), a, b)
            t = plus(t, first_lanes(v, stop - i))
            i = stop
        high, error = two_sum(high, t)
        low = plus(low, error)
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


def softmax(args: Address, strides: Address, rows: Int, n: Int, params: Address, flags: Int) -> None:
    """x -> y"""
    x: Address = load_int(args)
    y: Address = load_int(args + 8)
    row: Int = 0
    m: Vec = splat(0.0)
    if n > LANES:
        m = greatest(x, n)
    while row < rows:
        if n <= LANES:
            v: Vec = signed_some(x, n)
            c, k = row_shift(max_lanes(greater(v, splat(-INF))))
            e: Vec = exp_scaled(v, c, k)
            high, low = sum_lanes_pair(e, splat(0.0))
            inverse, rest = reciprocal(high, low)
            store_some(y, scaled(e, e, inverse, rest, rest, rest), n)
        else:
            c, k = row_shift(m)
            high, low = exponentials(x, y, n, c, k, n <= KEEP)
            inverse, rest = reciprocal(high, low)
            if row + 1 < rows:
                # of the next row: work for the time that the sum takes to become a factor
                m = greatest(x + load_int(strides), n)
            if n <= KEEP:
                finish__scaled(y, y, y, n, inverse, rest, c, k, 0)
            else:
                if SIGN > 0:
                    finish__again(x, x, y, n, inverse, rest, c, k, 0)
                else:
                    finish__again_negative(x, x, y, n, inverse, rest, c, k, 0)
        x += load_int(strides)
        y += load_int(strides + 8)
        row += 1


def log_softmax(args: Address, strides: Address, rows: Int, n: Int, params: Address, flags: Int) -> None:
    """x -> y"""
    x: Address = load_int(args)
    y: Address = load_int(args + 8)
    row: Int = 0
    m: Vec = splat(0.0)
    if n > LANES:
        m = greatest(x, n)
    while row < rows:
        if n <= LANES:
            v: Vec = load_some(x, n, -INF)
            m = max_lanes(greater(v, splat(-INF)))
            c, k = row_shift(m)
            high, low = sum_lanes_pair(share_below(v, m, c, k), splat(0.0))
            s: Vec = log_sum_over(plus(high, low), sum_lanes(equal(v, m)), exp_scaled(m, c, k))
            store_some(y, log_share(v, v, m, s, s, s), n)
        else:
            c, k = row_shift(m)
            rest, ties = shares_below(x, n, m, c, k)
            s = log_sum_over(rest, ties, exp_scaled(m, c, k))
            top: Vec = m
            if row + 1 < rows:
                m = greatest(x + load_int(strides), n)
            finish__log_share(x, x, y, n, top, s, s, s, 0)
        x += load_int(strides)
        y += load_int(strides + 8)
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
            rest, ties = shares_below(x, n, m, c, k)
            result = plus(m, log_sum_over(rest, ties, exp_scaled(m, c, k)))
        store_some(y, result, 1)
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
    row: Int = 0
    while row < rows:
        label: Int = load_int(labels)
        if label < 0:
            store_some(loss, splat(0.0), 1)
            if not flags & VALUE_ONLY:
                zero: Vec = splat(0.0)
                finish__filled(x, x, dx, n, zero, zero, zero, zero, 0)
        else:
            chosen: Vec = load_value(x + label * SIZE)
            v: Vec = splat(0.0)
            if n <= LANES:
                v = load_some(x, n, -INF)
                m: Vec = max_lanes(greater(v, splat(-INF)))
                c, k = row_shift(m)
                v = exp_scaled(v, c, k)
                high, low = sum_lanes_pair(without(v, label), splat(0.0))
                rest: Vec = plus(high, low)
            else:
                m = greatest(x, n)
                c, k = row_shift(m)
                rest = shares_without(x, dx, n, label, c, k)
            share: Vec = exp_scaled(chosen, c, k)
            weight: Vec = splat(1.0)
            if weights:
                weight = load_value(weights + label * SIZE)
            store_some(loss, scale(weight, label_loss(chosen, m, rest, share, exp_scaled(m, c, k))), 1)
            if not flags & VALUE_ONLY:
                inverse: Vec = quotient(scale(weight, factor), plus(rest, share))
                if n <= LANES:
                    store_some(dx, scale(v, inverse), n)
                else:
                    finish__scaled(dx, dx, dx, n, inverse, splat(0.0), c, k, 0)
                store_some(dx + label * SIZE, negative_product(rest, inverse), 1)
        x += load_int(strides)
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
        rest, ties = shares_below(x, n, m, c, k)
        top: Vec = exp_scaled(m, c, k)
        weight: Vec = total__first(q, q, n, zero, zero)
        far: Vec = total__distance(x, q, n, m, zero)
        store_some(loss, target_loss(far, weight, log_sum_over(rest, ties, top)), 1)
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
        store_some(sums, sum_lanes(plus(high, low)), 1)
        x += load_int(strides)
        t += load_int(strides + 8)
        weights += load_int(strides + 16)
        positive += load_int(strides + 24)
        sums += load_int(strides + 32)
        dx += load_int(strides + 40)
        losses += load_int(strides + 48)
        row += 1
