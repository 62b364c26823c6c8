"""Layer norm and RMS norm, and their gradients."""

# ruff: noqa: F821
# mypy: ignore-errors
# names that are not defined here are of the other modules of this folder, or bound by the backend

from __future__ import annotations

from fastact.spec.call import COLS, FLAGS, ROWS, SCALARS, SEGMENT, STREAM

# what a row has one of, in memory of the kernel: mean, 1/std, shift, and two factors of its gradient
ROW_VALUES = 320
FIRST_FACTOR = 192
SECOND_FACTOR = 256
# rows of a gradient that are computed together; their terms are added plainly before they go to sums over rows
QUAD_ROWS = 4
# bytes of a row up to which the next one is read before the results of this one are written
EARLY = 8192


def block_of_two(
    dy: Address, x: Address, w: Address, n: Int, m: Vec, r: Vec, shift: Vec, grad: Int, far: Int
) -> tuple[Vec, Vec]:
    # sums added plainly, lane by lane: of g = dy·w and of g times the normalised x with `grad`, else of the differences
    # d from m and of d². What of x is `far` bytes away is prefetched
    s: Quad = splat4(0.0)
    t: Quad = splat4(0.0)
    i: Int = 0
    while i + QUAD <= n:
        at: Int = i * SIZE
        prefetch(x + far + at)
        prefetch(x + far + at + VECTOR)
        prefetch(x + far + at + 2 * VECTOR)
        prefetch(x + far + at + 3 * VECTOR)
        v: Quad = load4(x + at, VECTOR)
        if grad:
            g: Quad = scale(load4(dy + at, VECTOR), load4(w + at, VECTOR))
            s = plus(s, g)
            t = plus(t, scale(g, normalised(v, m, r, shift)))
        else:
            v = minus(v, m)
            s = plus(s, v)
            t = plus(t, scale(v, v))
        i += QUAD
    a: Vec = gather4(s)
    b: Vec = gather4(t)
    while i < n:
        some: Int = n - i
        u: Vec = load_some(x + i * SIZE, some, 0.0)
        if grad:
            h: Vec = scale(load_some(dy + i * SIZE, some, 0.0), load_some(w + i * SIZE, some, 0.0))
            a = plus(a, first_lanes(h, some))
            b = plus(b, first_lanes(scale(h, normalised(u, m, r, shift)), some))
        else:
            u = minus(u, m)
            a = plus(a, first_lanes(u, some))
            b = plus(b, first_lanes(scale(u, u), some))
        i += LANES
    return a, b


def two_of_segment(
    dy: Address, x: Address, w: Address, n: Int, m: Vec, r: Vec, shift: Vec, grad: Int, far: Int
) -> tuple[Vec, Vec]:
    # the same for both sums as `total_lanes`
    a: Vec = splat(0.0)
    b: Vec = splat(0.0)
    da: Vec = splat(0.0)
    db: Vec = splat(0.0)
    i: Int = 0
    while i < n:
        at: Int = i * SIZE
        some: Int = least(n - i, BLOCK_QUADS * QUAD)
        s, t = block_of_two(dy + at, x + at, w + at, some, m, r, shift, grad, far)
        if i:
            a, e = two_sum(a, s)
            b, f = two_sum(b, t)
            da = plus(da, e)
            db = plus(db, f)
        else:
            a = s
            b = t
        i += BLOCK_QUADS * QUAD
    return plus(a, da), plus(b, db)


def two_totals(
    dy: Address, x: Address, w: Address, n: Int, m: Vec, r: Vec, shift: Vec, grad: Int, far: Int
) -> tuple[Vec, Vec]:
    # and as `total`
    a: Vec = splat(0.0)
    b: Vec = splat(0.0)
    da: Vec = splat(0.0)
    db: Vec = splat(0.0)
    i: Int = 0
    while i < n:
        at: Int = i * SIZE
        s, t = two_of_segment(dy + at, x + at, w + at, least(n - i, SEGMENT), m, r, shift, grad, far)
        s = sum_lanes(s)
        t = sum_lanes(t)
        if i:
            a, e = two_sum(a, s)
            b, f = two_sum(b, t)
            da = plus(da, e)
            db = plus(db, f)
        else:
            a = s
            b = t
        i += SEGMENT
    return plus(a, da), plus(b, db)


def norm_row(
    x: Address, w: Address, b: Address, y: Address, n: Int, m: Vec, r: Vec, shift: Vec, centre: Int, past: Int
) -> None:
    # y = the normalised x, times w and, with `centre`, plus b
    i: Int = 0
    if past:
        i = least((-y % VECTOR) // SIZE, n)
        if i:
            norm_vector(x, w, b, y, i, 0, 0, m, r, shift, centre)
        while i + LANES <= n:
            at: Int = i * SIZE
            norm_vector(x + at, w + at, b + at, y + at, LANES, 1, 1, m, r, shift, centre)
            i += LANES
    while i + QUAD <= n:
        at = i * SIZE
        v: Quad = load4(x + at, VECTOR)
        if centre:
            v = affine(normalised(v, m, r, shift), load4(w + at, VECTOR), load4(b + at, VECTOR))
        else:
            v = scale(scale(v, r), load4(w + at, VECTOR))
        store4(y + at, v, VECTOR)
        i += QUAD
    while i < n:
        at = i * SIZE
        norm_vector(x + at, w + at, b + at, y + at, n - i, 0, 0, m, r, shift, centre)
        i += LANES


def norm_vector(
    x: Address, w: Address, b: Address, y: Address, count: Int, whole: Int, past: Int, m: Vec, r: Vec, shift: Vec,
    centre: Int
) -> None:  # fmt: skip
    v: Vec = vector_at(x, count, whole)
    if centre:
        v = affine(normalised(v, m, r, shift), vector_at(w, count, whole), vector_at(b, count, whole))
    else:
        v = scale(scale(v, r), vector_at(w, count, whole))
    put_vector(y, v, count, whole, past)


def vector_at(p: Address, count: Int, whole: Int) -> Vec:
    v: Vec = splat(0.0)
    if whole:
        v = load(p)
    else:
        v = load_some(p, count, 0.0)
    return v


def put_vector(p: Address, v: Vec, count: Int, whole: Int, past: Int) -> None:
    if whole:
        if past:
            stream(p, v)
        else:
            store(p, v)
    else:
        store_some(p, v, count)


def layer_norm(call: Address) -> None:
    """x, weight, bias -> y, and of each row its mean, what that lost by rounding, 1/std (0: not wanted).
    The scalar is eps."""
    if load_int(call + COLS) * SIZE <= TOGETHER:
        norm_of_short_rows(call, 1)
    else:
        norm_of_rows(call, 1)


def rms_norm(call: Address) -> None:
    """x, weight -> y, and of each row 1/rms (0: not wanted). The scalar is eps."""
    if load_int(call + COLS) * SIZE <= TOGETHER:
        norm_of_short_rows(call, 0)
    else:
        norm_of_rows(call, 0)


def norm_of_rows(call: Address, centre: Int) -> None:
    rows: Int = load_int(call + ROWS)
    n: Int = load_int(call + COLS)
    x: Address = data(call, 0)
    w: Address = data(call, 1)
    b: Address = data(call, 2) if centre else w
    # the argument y; statistics come after it
    result: Int = 3 if centre else 2
    y: Address = data(call, result)
    stats: Address = data(call, result + 1)
    past: Int = load_int(call + FLAGS) & STREAM
    eps: Vec = load_param(load_int(call + SCALARS))
    count: Vec = number(n)
    far: Int = ahead_of(n)
    # the first sum of the next row: work for the time that other sums take to become factors, and reads from memory
    # while results are written (2^20 float32 in rows of 1024, one core of an Emerald Rapids: 0.38 ms, else 0.48)
    early: Int = n * SIZE <= EARLY
    s: Vec = eps
    row: Int = 0
    while row < rows:
        at: Int = row * SIZE
        if centre:
            if (row == 0) | (early == 0):
                s = sum_from_first(x, n)
            guess: Vec = mean_from(load_value(x), s, count)
            rest, squares = two_totals(x, x, x, n, guess, guess, guess, 0, far)
            r: Vec = spread_scale(squares, rest, count, eps)
            m, low = two_sum(guess, quotient(rest, count))
            if stats:
                store_value(stats + at, m)
                store_value(data(call, 5) + at, low)
                store_value(data(call, 6) + at, r)
            if early & (row + 1 < rows):
                s = sum_from_first(x + row_step(call, 0), n)
            norm_row(x, w, b, y, n, m, r, negative_product(low, r), 1, past)
        else:
            r = square_scale(total__product(x, x, n, eps, eps), count, eps)
            if stats:
                store_value(stats + at, r)
            norm_row(x, w, b, y, n, r, r, r, 0, past)
        x += row_step(call, 0)
        y += row_step(call, result)
        row += 1
    if past:
        fence()


def sum_from_first(x: Address, n: Int) -> Vec:
    # the sum of differences from an element: those of a row of one value are 0, those of values far from 0 have all
    # their digits
    first: Vec = load_value(x)
    return total__deviation(x, x, n, first, first)


def norm_of_short_rows(call: Address, centre: Int) -> None:
    # the same for LANES rows at a time: what they have one of each is computed for all of them at once
    n: Int = load_int(call + COLS)
    rows: Int = load_int(call + ROWS) if n else 0
    x: Address = data(call, 0)
    w: Address = data(call, 1)
    b: Address = data(call, 2) if centre else w
    result: Int = 3 if centre else 2
    y: Address = data(call, result)
    stats: Address = data(call, result + 1)
    past: Int = load_int(call + FLAGS) & STREAM
    eps: Vec = load_param(load_int(call + SCALARS))
    count: Vec = number(n)
    far: Int = ahead_of(LANES * n)
    work: Address = stack()
    values: Address = work + VALUES
    row: Int = 0
    while row < rows:
        some: Int = least(LANES, rows - row)
        at: Int = row * SIZE
        m: Vec = eps
        r: Vec = eps
        shift: Vec = eps
        i: Int = 0
        while i < some:
            p: Address = x + i * row_step(call, 0)
            if centre:
                m = load_value(p)
                store_value(values + i * SIZE, m)
                store(work + i * VECTOR, total_lanes__deviation(p, p, n, m, m, SIZE, 0))
            else:
                store(work + i * VECTOR, total_lanes__product(p, p, n, eps, eps, SIZE, 0))
            i += 1
        s: Vec = across_sum(work)
        if centre:
            guess: Vec = mean_from(load(values), s, count)
            store(values, guess)
            i = 0
            while i < some:
                m = load_value(values + i * SIZE)
                p = x + i * row_step(call, 0)
                d, squares = two_of_segment(p, p, p, n, m, m, m, 0, far)
                store(work + i * VECTOR, d)
                store(work + LOW + i * VECTOR, squares)
                i += 1
            rest: Vec = across_sum(work)
            r = spread_scale(across_sum(work + LOW), rest, count, eps)
            m, low = two_sum(guess, quotient(rest, count))
            shift = negative_product(low, r)
            if stats:
                store_some(stats + at, m, some)
                store_some(data(call, 5) + at, low, some)
                store_some(data(call, 6) + at, r, some)
        else:
            r = square_scale(s, count, eps)
            if stats:
                store_some(stats + at, r, some)
        store(values, m)
        store(values + VECTOR, r)
        store(values + 2 * VECTOR, shift)
        i = 0
        while i < some:
            p = values + i * SIZE
            r = load_value(p + VECTOR)
            norm_row(x, w, b, y, n, load_value(p), r, load_value(p + 2 * VECTOR), centre, past)
            x += row_step(call, 0)
            y += row_step(call, result)
            i += 1
        row += some
    if past:
        fence()


def layer_norm_apply(call: Address) -> None:
    """x, weight, bias, mean, its low part, 1/std -> y"""
    norm_from_statistics(call, 1)


def rms_norm_apply(call: Address) -> None:
    """x, weight, 1/rms -> y"""
    norm_from_statistics(call, 0)


def norm_from_statistics(call: Address, centre: Int) -> None:
    rows: Int = load_int(call + ROWS)
    n: Int = load_int(call + COLS)
    w: Address = data(call, 1)
    b: Address = data(call, 2) if centre else w
    # the argument of 1/std; y comes after it
    last: Int = 5 if centre else 2
    row: Int = 0
    while row < rows:
        r: Vec = load_value(data(call, last) + row * row_step(call, last))
        m: Vec = r
        shift: Vec = r
        if centre:
            m = load_value(data(call, 3) + row * row_step(call, 3))
            shift = negative_product(load_value(data(call, 4) + row * row_step(call, 4)), r)
        x: Address = data(call, 0) + row * row_step(call, 0)
        norm_row(x, w, b, data(call, last + 1) + row * row_step(call, last + 1), n, m, r, shift, centre, 0)
        row += 1


def layer_norm_backward(call: Address) -> None:
    """dy, x, weight, mean, its low part, 1/std -> dx; adds to the sums of the gradients of weight and bias"""
    norm_gradients(call, 1)


def rms_norm_backward(call: Address) -> None:
    """dy, x, weight, 1/rms -> dx; adds to the sums of the gradient of weight"""
    norm_gradients(call, 0)


def norm_gradients(call: Address, centre: Int) -> None:
    rows: Int = load_int(call + ROWS)
    n: Int = load_int(call + COLS)
    dy: Address = data(call, 0)
    x: Address = data(call, 1)
    w: Address = data(call, 2)
    # the argument of 1/std; dx and the sums come after it
    last: Int = 5 if centre else 3
    dx: Address = data(call, last + 1)
    dw: Address = data(call, last + 2)
    db: Address = data(call, last + 3) if centre else 0
    past: Int = load_int(call + FLAGS) & STREAM
    if row_step(call, last + 1) % VECTOR:
        past = 0
    count: Vec = number(n)
    zero: Vec = splat(0.0)
    values: Address = stack()
    far: Int = QUAD_ROWS * row_step(call, 1)
    row: Int = 0
    while row < rows:
        some: Int = least(QUAD_ROWS, rows - row)
        i: Int = 0
        while i < some:
            at: Int = row + i
            r: Vec = load_value(data(call, last) + at * row_step(call, last))
            m: Vec = zero
            shift: Vec = zero
            if centre:
                m = load_value(data(call, 3) + at * row_step(call, 3))
                shift = negative_product(load_value(data(call, 4) + at * row_step(call, 4)), r)
            s, t = two_totals(dy + i * row_step(call, 0), x + i * row_step(call, 1), w, n, m, r, shift, 1, far)
            to: Address = values + i * ROW_VALUES
            store(to, m)
            store(to + VECTOR, r)
            store(to + 2 * VECTOR, shift)
            if centre:
                store(to + FIRST_FACTOR, scale(quotient(s, count), r))
            else:
                store(to + FIRST_FACTOR, zero)
            store(to + SECOND_FACTOR, scale(quotient(t, count), r))
            i += 1
        if some == QUAD_ROWS:
            gradient_of_quad(call, dy, x, w, dx, dw, db, values, n, QUAD_ROWS, centre, past, last)
        else:
            gradient_of_quad(call, dy, x, w, dx, dw, db, values, n, some, centre, past, last)
        dy += some * row_step(call, 0)
        x += some * row_step(call, 1)
        dx += some * row_step(call, last + 1)
        row += some
    if past:
        fence()


def gradient_of_quad(
    call: Address, dy: Address, x: Address, w: Address, dx: Address, dw: Address, db: Address, values: Address, n: Int,
    some: Int, centre: Int, past: Int, last: Int
) -> None:  # fmt: skip
    ddy: Int = row_step(call, 0)
    dxx: Int = row_step(call, 1)
    ddx: Int = row_step(call, last + 1)
    i: Int = 0
    if past:
        # up to the alignment of dx
        i = least((-dx % VECTOR) // SIZE, n)
        if i:
            gradient_of_columns(dy, x, w, dx, dw, db, ddy, dxx, ddx, values, n, i, 0, some, centre, 0)
        while i + LANES <= n:
            at: Int = i * SIZE
            gradient_of_columns(
                dy + at, x + at, w + at, dx + at, dw + at, db + at, ddy, dxx, ddx, values, n, LANES, 1, some, centre, 1
            )
            i += LANES
    else:
        while i + LANES <= n:
            at = i * SIZE
            gradient_of_columns(
                dy + at, x + at, w + at, dx + at, dw + at, db + at, ddy, dxx, ddx, values, n, LANES, 1, some, centre, 0
            )
            i += LANES
    if i < n:
        at = i * SIZE
        gradient_of_columns(
            dy + at, x + at, w + at, dx + at, dw + at, db + at, ddy, dxx, ddx, values, n, n - i, 0, some, centre, 0
        )


def gradient_of_columns(
    dy: Address, x: Address, w: Address, dx: Address, dw: Address, db: Address, ddy: Int, dxx: Int, ddx: Int,
    values: Address, n: Int, count: Int, whole: Int, some: Int, centre: Int, past: Int
) -> None:  # fmt: skip
    # a vector of columns of up to QUAD_ROWS rows
    far: Int = QUAD_ROWS * ddy
    v: Vec = vector_at(w, count, whole)
    a0, b0 = gradient_of_vector(dy, x, v, dx, values, count, whole, centre, past, far)
    a1: Vec = splat(0.0)
    b1: Vec = splat(0.0)
    a2: Vec = splat(0.0)
    b2: Vec = splat(0.0)
    a3: Vec = splat(0.0)
    b3: Vec = splat(0.0)
    if some > 1:
        a1, b1 = gradient_of_vector(
            dy + ddy, x + dxx, v, dx + ddx, values + ROW_VALUES, count, whole, centre, past, far
        )
    if some > 2:
        a2, b2 = gradient_of_vector(
            dy + 2 * ddy, x + 2 * dxx, v, dx + 2 * ddx, values + 2 * ROW_VALUES, count, whole, centre, past, far
        )
    if some > 3:
        a3, b3 = gradient_of_vector(
            dy + 3 * ddy, x + 3 * dxx, v, dx + 3 * ddx, values + 3 * ROW_VALUES, count, whole, centre, past, far
        )
    add_to_pair(dw, n * SIZE, gathered(a0, a1, a2, a3), count, whole)
    if centre:
        add_to_pair(db, n * SIZE, gathered(b0, b1, b2, b3), count, whole)


def gradient_of_vector(
    dy: Address, x: Address, w: Vec, dx: Address, values: Address, count: Int, whole: Int, centre: Int, past: Int,
    far: Int
) -> tuple[Vec, Vec]:  # fmt: skip
    # dx, and the terms of the gradients of weight and bias. What of dy is `far` bytes away is prefetched, x while sums
    # were taken, so that memory is never idle (2^24 float32 in rows of 1024, one core of an Emerald Rapids: 12.4 ms;
    # with both while sums are taken 13.9, with neither 16)
    prefetch(dy + far)
    v: Vec = vector_at(dy, count, whole)
    h: Vec = vector_at(x, count, whole)
    r: Vec = load(values + VECTOR)
    if centre:
        h = normalised(h, load(values), r, load(values + 2 * VECTOR))
    else:
        h = scale(h, r)
    u: Vec = norm_grad(scale(v, w), h, r, load(values + FIRST_FACTOR), load(values + SECOND_FACTOR))
    put_vector(dx, u, count, whole, past)
    return scale(v, h), v


def add_to_pair(p: Address, apart: Int, t: Vec, count: Int, whole: Int) -> None:
    s, e = two_sum(vector_at(p, count, whole), t)
    put_vector(p, s, count, whole, 0)
    put_vector(p + apart, plus(vector_at(p + apart, count, whole), e), count, whole, 0)
