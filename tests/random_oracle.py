"""Philox 4x32-10 from the paper (Salmon et al., SC 2011, section 3.4), and what is made of it; imports no fastact."""

from __future__ import annotations

import math

import numpy as np

MASK = 0xFFFFFFFF


def philox(counter, key):
    """Four words of a counter of 128 bits under a key of 64 bits, in Python's integers."""
    c = [counter >> 32 * i & MASK for i in range(4)]
    k = [key & MASK, key >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & MASK, a >> 32 ^ c[3] ^ k[1], a & MASK]
        k = [k[0] + 0x9E3779B9 & MASK, k[1] + 0xBB67AE85 & MASK]
    return c


def numbers(seed, offset, n):
    """The first n numbers of a stream, in [0, 1)."""
    words = [word for i in range(-(-n // 4)) for word in philox(offset + i, seed)]
    return np.array([(word >> 8) * 2.0**-24 for word in words[:n]])


def many_numbers(seed, offset, n):
    """The same in NumPy, for offsets whose blocks stay below 2^64."""
    counters = np.arange(offset, offset + -(-n // 4), dtype=np.uint64)
    low, shift = np.uint64(MASK), np.uint64(32)
    c = [counters & low, counters >> shift, np.zeros_like(counters), np.zeros_like(counters)]
    k = [seed & MASK, seed >> 32]
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [b >> shift ^ c[1] ^ np.uint64(k[0]), b & low, a >> shift ^ c[3] ^ np.uint64(k[1]), a & low]
        k = [k[0] + 0x9E3779B9 & MASK, k[1] + 0xBB67AE85 & MASK]
    return (np.stack(c, -1).reshape(-1)[:n] >> np.uint64(8)) * 2.0**-24


def factors(shape, p, seed, offset, dtype):
    """What a dropout multiplies with: 0, or 1/(1 - p) rounded once to the computing dtype."""
    u = many_numbers(seed, offset, math.prod(shape)).reshape(shape)
    return np.where(u >= p, np.dtype(dtype).type(1 / (1 - p)), np.dtype(dtype).type(0))
