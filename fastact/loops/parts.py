"""Parts of a long row, of whole segments."""

# ruff: noqa: F821
# mypy: ignore-errors
# names that are not defined here are of the other modules of this folder, or bound by the backend

from __future__ import annotations

from fastact.spec.call import COL0, COLS, FLAGS, GREATEST, PHASES, ROWS, SCALARS, SEGMENT, STREAM, SUMS, VALUE_ONLY

# a segment's record: bytes, and what is where in it, in elements
RECORD = 64
TOP = 0
HIGH = 1
REST = 2
COUNT = 3
WEIGHT = 4
FAR = 5
WHOLE = 6
# segments of a row up to which its shares are kept in y, which then is in the L2 cache; else they are computed again
KEPT = 4


def record(call: Address, j: Int, what: Int) -> Address:
    # where the record of this part's first segment is, among those of the argument j
    return data(call, j) + load_int(call + COL0) // SEGMENT * RECORD + what * SIZE


def greatest_of_segments(call: Address, records: Int, q: Address, s: Vec, scaled: Int) -> None:
    x: Address = data(call, 0)
    n: Int = load_int(call + COLS)
    to: Address = record(call, records, TOP)
    i: Int = 0
    while i < n:
        m: Vec = max_lanes(greatest_lanes__each(x + i * SIZE, q + i * SIZE, least(n - i, SEGMENT), s, scaled))
        store_value(to, m)
        to += RECORD
        i += SEGMENT


def shares_of_segments(
    call: Address, records: Int, q: Address, e: Address, s: Vec, m: Vec, scaled: Int, label: Int, tie: Int
) -> None:
    x: Address = data(call, 0)
    n: Int = load_int(call + COLS)
    to: Address = record(call, records, 0)
    _c, k = row_shift(m)
    i: Int = 0
    while i < n:
        at: Address = x + i * SIZE
        kept: Address = e + i * SIZE if e else 0
        some: Int = least(n - i, SEGMENT)
        own: Int = label - i if (label >= i) & (label < i + some) else -1
        high, low, ties = shares__each(
            at, q + i * SIZE, kept, 0, some, s, m, k, scaled, own, tie, at + AHEAD, SIZE, SIZE, 0
        )
        high, low = sum_lanes_pair(high, low)
        store_value(to + HIGH * SIZE, high)
        store_value(to + REST * SIZE, low)
        if tie:
            store_value(to + COUNT * SIZE, sum_lanes(ties))
        to += RECORD
        i += SEGMENT


def totals_of_segments(call: Address, records: Int, what: Int, p: Address, q: Address, a: Vec, b: Vec) -> None:
    n: Int = load_int(call + COLS)
    to: Address = record(call, records, what)
    i: Int = 0
    while i < n:
        store_value(to, total__each(p + i * SIZE, q + i * SIZE, least(n - i, SEGMENT), a, b))
        to += RECORD
        i += SEGMENT


def sizes_of_segments(call: Address, records: Int) -> None:
    n: Int = load_int(call + COLS)
    to: Address = record(call, records, COUNT)
    i: Int = 0
    while i < n:
        store_value(to, number(least(n - i, SEGMENT)))
        to += RECORD
        i += SEGMENT


def greatest_of_records(call: Address, records: Int) -> Vec:
    at: Address = data(call, records) + TOP * SIZE
    m: Vec = load_value(at)
    i: Int = load_int(call + ROWS)
    while i > 1:
        at += RECORD
        m = greater(load_value(at), m)
        i -= 1
    return m


def pair_of_records(call: Address, records: Int) -> tuple[Vec, Vec]:
    at: Address = data(call, records)
    high: Vec = load_value(at + HIGH * SIZE)
    low: Vec = load_value(at + REST * SIZE)
    i: Int = load_int(call + ROWS)
    while i > 1:
        at += RECORD
        high, low = pair_add(high, low, load_value(at + HIGH * SIZE), load_value(at + REST * SIZE))
        i -= 1
    return sum_lanes_pair(first_lanes(high, 1), first_lanes(low, 1))


def total_of_records(call: Address, records: Int, what: Int) -> Vec:
    at: Address = data(call, records) + what * SIZE
    high: Vec = load_value(at)
    low: Vec = splat(0.0)
    i: Int = load_int(call + ROWS)
    while i > 1:
        at += RECORD
        high, error = two_sum(high, load_value(at))
        low = plus(low, error)
        i -= 1
    return plus(high, low)


def log_sum_of_records(call: Address, records: Int, m: Vec) -> Vec:
    # the log of the sum of shares over the greatest
    c, k = row_shift(m)
    high, low = pair_of_records(call, records)
    return log_sum_over(plus(high, low), total_of_records(call, records, COUNT), exp_scaled(m, c, k))


def softmax_part(call: Address) -> None:
    phase: Int = load_int(call + FLAGS) & PHASES
    if phase == GREATEST:
        greatest_of_segments__logit(call, 2, data(call, 0), splat(0.0), 0)
    else:
        m: Vec = greatest_of_records(call, 2)
        x: Address = data(call, 0)
        y: Address = data(call, 1)
        keep: Int = (load_int(call + ROWS) <= KEPT) & (x != y)
        if phase == SUMS:
            shares_of_segments__share(call, 2, data(call, 0), y if keep else 0, m, m, 0, -1, 0)
        else:
            n: Int = load_int(call + COLS)
            past: Int = load_int(call + FLAGS) & STREAM
            c, k = row_shift(m)
            high, low = pair_of_records(call, 2)
            inverse, rest = reciprocal(high, low)
            if keep:
                finish__scaled(y, y, y, n, inverse, rest, c, k, 0)
            elif SIGN > 0:
                finish__again(x, x, y, n, inverse, rest, c, k, past)
            else:
                finish__again_negative(x, x, y, n, inverse, rest, c, k, past)
            if past:
                fence()


def scaled_softmax_part(call: Address) -> None:
    scaled_part__share_scaled__logit_scaled(call, 0)


def biased_softmax_part(call: Address) -> None:
    scaled_part__share_biased__logit_biased(call, 1)


def scaled_part(call: Address, last: Int) -> None:
    # each is what gives a share, each2 a logit; `last` is the argument of the bias, or of x where there is none
    phase: Int = load_int(call + FLAGS) & PHASES
    x: Address = data(call, 0)
    q: Address = data(call, last)
    y: Address = data(call, last + 1)
    records: Int = last + 2
    n: Int = load_int(call + COLS)
    s: Vec = load_param(load_int(call + SCALARS))
    zero: Vec = splat(0.0)
    if phase == GREATEST:
        greatest_of_segments__each2(call, records, q, s, 1)
        if last:
            totals_of_segments__counted(call, records, WEIGHT, q, q, splat(-INF), splat(-INF))
    else:
        m: Vec = greatest_of_records(call, records)
        live: Vec = m
        if last:
            # a row of which nothing counts is 0
            live = total_of_records(call, records, WEIGHT)
            m = only(live, m, zero)
        keep: Int = (load_int(call + ROWS) <= KEPT) & (x != y)
        if phase == SUMS:
            shares_of_segments__each(call, records, q, y if keep else 0, s, m, 1, -1, 0)
        else:
            _c, k = row_shift(m)
            high, low = pair_of_records(call, records)
            inverse, rest = reciprocal(high, low)
            if last:
                inverse = only(live, inverse, scale(high, zero))
                rest = only(live, rest, zero)
            i: Int = 0
            while i < n:
                at: Int = i * SIZE
                some: Int = least(n - i, SEGMENT)
                if keep == 0:
                    # once more; the sum is known
                    high, low, _ties = shares__each(
                        x + at, q + at, y + at, 0, some, s, m, k, 1, -1, 0, x + at + AHEAD, SIZE, SIZE, 0
                    )
                finish__scaled(y + at, y + at, y + at, some, inverse, rest, rest, rest, 0)
                i += SEGMENT


def log_softmax_part(call: Address) -> None:
    phase: Int = load_int(call + FLAGS) & PHASES
    if phase == GREATEST:
        greatest_of_segments__logit(call, 2, data(call, 0), splat(0.0), 0)
    else:
        m: Vec = greatest_of_records(call, 2)
        if phase == SUMS:
            shares_of_segments__share(call, 2, data(call, 0), 0, m, m, 0, -1, 1)
        else:
            x: Address = data(call, 0)
            s: Vec = log_sum_of_records(call, 2, m)
            past: Int = load_int(call + FLAGS) & STREAM
            finish__log_share(x, x, data(call, 1), load_int(call + COLS), m, s, s, s, past)
            if past:
                fence()


def logsumexp_part(call: Address) -> None:
    phase: Int = load_int(call + FLAGS) & PHASES
    if phase == GREATEST:
        greatest_of_segments__logit(call, 2, data(call, 0), splat(0.0), 0)
    else:
        m: Vec = greatest_of_records(call, 2)
        infinite: Int = less(is_finite(m), splat(1.0))
        if phase == SUMS:
            if infinite:
                x: Address = data(call, 0)
                totals_of_segments__poison(call, 2, FAR, x, x, m, m)
            else:
                shares_of_segments__share(call, 2, data(call, 0), 0, m, m, 0, -1, 1)
        elif load_int(call + COL0) == 0:
            result: Vec = m
            if infinite:
                result = plus(m, total_of_records(call, 2, FAR))
            else:
                result = plus(m, log_sum_of_records(call, 2, m))
            store_value(data(call, 1), result)


def softmax_backward_part(call: Address) -> None:
    gradient_part__product__softmax_grad(call, 0)


def scaled_softmax_backward_part(call: Address) -> None:
    gradient_part__product__softmax_grad(call, 1)


def log_softmax_backward_part(call: Address) -> None:
    gradient_part__first__log_softmax_grad(call, 0)


def gradient_part(call: Address, scaled: Int) -> None:
    phase: Int = load_int(call + FLAGS) & PHASES
    dy: Address = data(call, 0)
    y: Address = data(call, 1)
    factor: Vec = factor_of(call, scaled)
    if phase == SUMS:
        totals_of_segments__each(call, 3, WEIGHT, dy, y, factor, factor)
    else:
        s: Vec = total_of_records(call, 3, WEIGHT)
        past: Int = load_int(call + FLAGS) & STREAM
        finish__each2(dy, y, data(call, 2), load_int(call + COLS), s, factor, factor, factor, past)
        if past:
            fence()


def cross_entropy_part(call: Address) -> None:
    phase: Int = load_int(call + FLAGS) & PHASES
    x: Address = data(call, 0)
    weights: Address = data(call, 2)
    dx: Address = data(call, 4)
    n: Int = load_int(call + COLS)
    first: Int = load_int(call + COL0)
    given: Int = load_int(data(call, 1))
    label: Int = given if given >= 0 else 0
    grad: Int = 0 if load_int(call + FLAGS) & VALUE_ONLY else 1
    own: Int = label - first if (label >= first) & (label < first + n) else -1
    if phase == GREATEST:
        greatest_of_segments__logit(call, 5, data(call, 0), splat(0.0), 0)
        if own >= 0:
            store_value(data(call, 5) + label // SEGMENT * RECORD + FAR * SIZE, load_value(x + own * SIZE))
    else:
        m: Vec = greatest_of_records(call, 5)
        zero: Vec = splat(0.0)
        scalars: Address = load_int(call + SCALARS)
        smoothing: Vec = load_param(scalars + 8)
        z: Vec = load_param(scalars + 16)
        general: Int = less(zero, smoothing) | less(zero, z)
        if phase == SUMS:
            if general:
                sizes_of_segments(call, 5)
                if weights:
                    at: Address = weights + first * SIZE
                    totals_of_segments__first(call, 5, WHOLE, at, at, m, m)
                    totals_of_segments__distance(call, 5, WEIGHT, x, at, m, m)
                else:
                    totals_of_segments__gap(call, 5, WEIGHT, x, x, m, m)
            shares_of_segments__share(call, 5, data(call, 0), dx if grad else 0, m, m, 0, own, 0)
        else:
            c, k = row_shift(m)
            high, low = pair_of_records(call, 5)
            rest: Vec = plus(high, low)
            chosen: Vec = load_value(data(call, 5) + label // SEGMENT * RECORD + FAR * SIZE)
            weight: Vec = splat(1.0)
            if weights:
                weight = load_value(weights + label * SIZE)
            factor: Vec = load_param(scalars)
            each: Vec = zero
            whole: Vec = zero
            far: Vec = zero
            if general:
                size: Vec = total_of_records(call, 5, COUNT)
                each = quotient(smoothing, size)
                whole = size
                if weights:
                    whole = total_of_records(call, 5, WHOLE)
                far = total_of_records(call, 5, WEIGHT)
            value, inverse, here = loss_of_label(
                chosen, m, rest, c, k, weight, factor, general, smoothing, each, whole, far, z
            )
            if first == 0:
                if given < 0:
                    value = zero
                store_value(data(call, 3), value)
            if grad:
                if given < 0:
                    finish__filled(dx, dx, dx, n, zero, zero, zero, zero, 0)
                else:
                    at = weights + first * SIZE if weights else 0
                    cross_entropy_gradient(dx, at, dx, n, inverse, scale(each, factor))
                    if own >= 0:
                        store_value(dx + own * SIZE, here)


def cross_entropy_of_shares_part(call: Address) -> None:
    phase: Int = load_int(call + FLAGS) & PHASES
    x: Address = data(call, 0)
    q: Address = data(call, 1)
    zero: Vec = splat(0.0)
    if phase == GREATEST:
        greatest_of_segments__logit(call, 4, data(call, 0), splat(0.0), 0)
    else:
        m: Vec = greatest_of_records(call, 4)
        if phase == SUMS:
            shares_of_segments__share(call, 4, data(call, 0), 0, m, m, 0, -1, 1)
            totals_of_segments__first(call, 4, WEIGHT, q, q, zero, zero)
            totals_of_segments__distance(call, 4, FAR, x, q, m, zero)
        else:
            c, k = row_shift(m)
            weight: Vec = total_of_records(call, 4, WEIGHT)
            scalars: Address = load_int(call + SCALARS)
            z: Vec = load_param(scalars + 8)
            s: Vec = log_sum_of_records(call, 4, m)
            if load_int(call + COL0) == 0:
                far: Vec = total_of_records(call, 4, FAR)
                store_value(data(call, 2), with_square(target_loss(far, weight, s), z, plus(m, s)))
            if not load_int(call + FLAGS) & VALUE_ONLY:
                high, low = pair_of_records(call, 4)
                top: Vec = exp_scaled(m, c, k)
                ties: Vec = total_of_records(call, 4, COUNT)
                share: Vec = target_factor(with_slope(weight, z, plus(m, s)), plus(high, low), ties, top)
                factor: Vec = load_param(scalars)
                finish__target_grad(x, q, data(call, 3), load_int(call + COLS), share, factor, c, k, 0)
