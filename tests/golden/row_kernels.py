"""What the language of row kernels has, for the renderer's golden file."""

# ruff: noqa: F821

from __future__ import annotations

VECTOR = 64
STREAM = 1


def scaled_sum(p: Address, n: Int, a: Vec) -> tuple[Vec, Vec]:
    # each(x, a), summed
    s: Quad = splat4(0.0)
    i: Int = 0
    while i + QUAD <= n:
        s = add(s, each(signed4(p + i * SIZE), a))
        i += QUAD
    high: Vec = gather4(s)
    low: Vec = s[0]
    while i < n:
        high, low = pair_sum(high, each(signed_some(p + i * SIZE, n - i), a))
        i += LANES
    return sum_lanes(high), low


def kernel(args: Address, strides: Address, rows: Int, n: Int, params: Address, flags: Int) -> None:
    """x -> one value a row"""
    x: Address = load_int(args)
    y: Address = load_int(args + 8)
    start: Int = (-y % VECTOR) // SIZE
    if not flags & STREAM:
        start = 0
    else:
        if SIGN > 0:
            start += 1
    factor: Vec = load_param(params)
    while start < rows:
        high, low = scaled_sum__minimum_of(x if start else y, n, factor)
        if less(high, splat(-INF)):
            high = low
        store_some(y, high, 1)
        y += load_int(strides + 8)
        start += 1
