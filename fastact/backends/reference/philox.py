"""Random numbers by their index, in NumPy: Philox 4x32-10 (Salmon et al., Parallel Random Numbers, SC 2011)."""

from __future__ import annotations

from typing import Any

import numpy as np

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_STEPS = 0x9E3779B9, 0xBB67AE85
_WORD = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def words(seed: int, offset: int, n: int) -> Any:
    """The first n words under the key `seed`, from the counter `offset` on.

    Examples
    --------
    >>> [hex(w) for w in words(0, 0, 4)]  # the first test vector of Random123
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    low = np.uint64(offset) + np.arange(-(-n // 4), dtype=np.uint64)
    high = (low < np.uint64(offset)).astype(np.uint64)  # beyond 2^64 blocks the counter has a second half
    c = [low & _WORD, low >> _32, high, np.zeros_like(high)]
    keys = seed & 0xFFFFFFFF, seed >> 32
    for r in range(10):
        k0, k1 = (np.uint64((key + r * step) & 0xFFFFFFFF) for key, step in zip(keys, _STEPS))
        a, b = _MULTIPLIERS[0] * c[0], _MULTIPLIERS[1] * c[2]
        c = [(b >> _32) ^ c[1] ^ k0, b & _WORD, (a >> _32) ^ c[3] ^ k1, a & _WORD]
    return np.stack(c, axis=-1).reshape(-1)[:n]


def keep(random: tuple[float, float, int, int], n: int, dtype: Any) -> Any:
    """The factors of a dropout: 0 where a number is below p, else the scale. `random` is (p·2^24 rounded up, scale,
    seed, offset)."""
    threshold, scale, seed, offset = random
    kept = words(seed, offset, n) >> np.uint64(8) >= np.uint64(threshold)
    return np.where(kept, np.dtype(dtype).type(scale), np.dtype(dtype).type(0))


def numbers(random: tuple[float, float, int, int], n: int, dtype: Any) -> Any:
    """Numbers in [low, low + range); `random` is (low, range, seed, offset)."""
    low, width, seed, offset = random
    cast = np.dtype(dtype).type
    u = (words(seed, offset, n) >> np.uint64(8)).astype(dtype) * cast(2.0**-24)
    return cast(low) + cast(width) * u
