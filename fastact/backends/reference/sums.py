"""Sums over rows, in the order of additions that every backend keeps (docs/design.md, 'Sums').

Four rows are added plainly; the sums of quads are compensated within a block (Knuth's two-sum), the blocks combined as
pairs. The order depends on the number of rows alone.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from fastact.maths.rows import pair_add, two_sum

# quads of a block, which starts afresh
BLOCK_QUADS = 16
# of a row along which a channel lies
SEGMENT, CHAINS = 65536, 64


def column_sums(v: Any) -> tuple[Any, Any]:
    """The sums over the rows of v[rows, n] in two parts (high, low) of length n.

    Where a part of a sum overflows or is infinite, `low` is NaN, and `high` alone counts.

    Examples
    --------
    >>> high, low = column_sums(np.float32([[1e8], [0], [0], [0], [1]]))
    >>> float(high[0]), float(low[0])
    (100000000.0, 1.0)
    """
    rows, n = v.shape
    blocks = max(1, -(-rows // (4 * BLOCK_QUADS)))
    quads = np.zeros((blocks * 4 * BLOCK_QUADS, n), v.dtype)
    # a quad of zeros changes nothing: s is never -0
    quads[:rows] = v
    quads = quads.reshape(blocks, BLOCK_QUADS, 4, n)
    with np.errstate(all="ignore"):
        t = (quads[:, :, 0] + quads[:, :, 1]) + (quads[:, :, 2] + quads[:, :, 3])
        s = c = np.zeros((blocks, n), v.dtype)
        for i in range(BLOCK_QUADS):
            s, e = two_sum(s, t[:, i])
            c = c + e
        high, low = reduce(lambda a, b: pair_add(*a, *b), zip(s, c))
    return high, low


def fold(high: Any, low: Any) -> tuple[Any, Any]:
    """The sum over the last axis, whose length is a power of two: halves are added until one is left."""
    with np.errstate(all="ignore"):
        while (half := high.shape[-1] // 2) > 0:
            high, low = pair_add(high[..., :half], low[..., :half], high[..., half:], low[..., half:])
    return high[..., 0], low[..., 0]


def channel_sums(v: Any, side_by_side: int) -> tuple[Any, Any]:
    """The sums of v[outer, channel, inner] over all but the channels, in two parts.

    With inner = 1 so many rows are taken as one. Else a row is cut into segments, each summed as rows of `CHAINS`
    columns.
    """
    outer, channel, inner = v.shape
    if inner == 1:
        width = channel * side_by_side
        rows = np.zeros((-(-outer // side_by_side), width), v.dtype)
        rows.reshape(-1)[: v.size] = v.reshape(-1)
        parts = tuple(p.reshape(side_by_side, channel) for p in column_sums(rows))
        return reduce(lambda a, b: pair_add(*a, *b), zip(*parts))
    segments = -(-inner // SEGMENT)
    padded = min(inner, SEGMENT) if segments == 1 else SEGMENT
    padded = -(-padded // CHAINS) * CHAINS
    rows = np.zeros((outer, channel, segments * padded), v.dtype)
    rows[..., :inner] = v
    rows = rows.reshape(outer * channel * segments, padded // CHAINS, CHAINS)
    parts = column_sums(np.ascontiguousarray(rows.swapaxes(0, 1)).reshape(padded // CHAINS, -1))
    folded = (p.reshape(outer, channel, segments) for p in fold(*(p.reshape(-1, CHAINS) for p in parts)))
    ordered = (np.moveaxis(p, 1, -1).reshape(-1, channel) for p in folded)
    with np.errstate(all="ignore"):
        return reduce(lambda a, b: pair_add(*a, *b), zip(*ordered))


def total(high: Any, low: Any) -> Any:
    """high + low; `high` where it is not finite."""
    with np.errstate(all="ignore"):
        return np.where(np.isfinite(high), high + low, high)
