"""What the language of row kernels has, for the renderer's golden file."""

# ruff: noqa: F821

from __future__ import annotations

from fastact.spec.call import COLS, DATA, FLAGS, ROW_STEP, ROWS, SCALARS, STREAM

VECTOR = 64


def scaled_sum(p: Address, n: Int, a: Vec) -> tuple[Vec, Vec]:
    # each(x, a), summed
    s: Quad = splat4(0.0)
    i: Int = 0
    while i + QUAD <= n:
        s = add(s, each(signed4(p + i * SIZE, VECTOR), a))
        i += QUAD
    high: Vec = gather4(s)
    low: Vec = s[0]
    while i < n:
        high, low = pair_sum(high, each(signed_some(p + i * SIZE, n - i), a))
        i += LANES
    return sum_lanes(high), low


def data(call: Address, j: Int) -> Address:
    return load_int(call + DATA + 8 * j)


def kernel(call: Address) -> None:
    """x -> one value a row"""
    n: Int = load_int(call + COLS)
    x: Address = data(call, 0)
    y: Address = data(call, 1)
    start: Int = (-y % VECTOR) // SIZE
    if not load_int(call + FLAGS) & STREAM:
        start = 0
    else:
        if SIGN > 0:
            start += 1
    factor: Vec = load_param(load_int(call + SCALARS))
    while start < load_int(call + ROWS):
        high, low = scaled_sum__minimum_of(x if start else y, n, factor)
        if less(high, splat(-INF)):
            high = low
        store_some(y, high, 1)
        y += load_int(call + ROW_STEP + 8)
        start += 1
