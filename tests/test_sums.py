"""Sums over rows: their accuracy, and the order of additions spelt out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastact.backends.reference.sums import column_sums, fold
from fastact.maths.rows import pair_add, two_sum

each_float = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def rounded(high, low):
    """`low` is NaN where a part of a sum is infinite."""
    with np.errstate(all="ignore"):
        return np.where(np.isfinite(high), high + low, high)


def spelt_out(v):
    """`column_sums` of one column, a number at a time."""
    zero = v.dtype.type(0)
    parts = []
    for start in range(0, len(v), 64):
        s = c = zero
        for i in range(start, min(start + 64, len(v)), 4):
            a, b, d, e = [*v[i : min(i + 4, start + 64)], zero, zero, zero][:4]
            s, error = two_sum(s, (a + b) + (d + e))
            c = c + error
        parts.append((s, c))
    high, low = parts[0] if parts else (zero, zero)
    for s, c in parts[1:]:
        high, low = pair_add(high, low, s, c)
    return high, low


@each_float
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 5, 7, 8, 63, 64, 65, 68, 127, 128, 129, 1000])
def test_order(rows, dtype):
    v = np.random.default_rng(rows).standard_normal((rows, 3)).astype(dtype)
    high, low = column_sums(v)
    assert high.dtype == low.dtype == dtype and high.shape == low.shape == (3,)
    assert [(h, e) for h, e in zip(high, low)] == [spelt_out(column) for column in v.T]


@each_float
@pytest.mark.parametrize("spread", [0.0, 4.0])
def test_accuracy(spread, dtype):
    rng = np.random.default_rng(0)
    v = (rng.standard_normal((1 << 16, 4)) * np.exp(spread * rng.standard_normal((1 << 16, 4)))).astype(dtype)
    got = rounded(*column_sums(v))
    for column, value in zip(v.T.astype(np.float64), got):
        magnitude = math.fsum(np.abs(column))
        assert abs(math.fsum([*column, -float(value)])) <= 4 * np.finfo(dtype).eps * magnitude
        # of the sum itself, where nothing cancels
    positive = np.abs(v)
    for column, value in zip(positive.T.astype(np.float64), rounded(*column_sums(positive))):
        assert abs(math.fsum([*column, -float(value)])) <= np.spacing(value)


@each_float
def test_what_plain_sums_lose(dtype):
    v = np.ones((1 << 12, 1), dtype)
    v[0], v[1:4] = 2 / np.finfo(dtype).eps ** 1.5, 0
    high, low = column_sums(v)
    assert high[0] == v[0, 0] and low[0] == 4092


@each_float
def test_special_values(dtype):
    rows = 130
    v = np.ones((rows, 7), dtype)
    v[:, 0] = -0.0
    v[77, 1] = np.inf
    v[5, 2] = -np.inf
    v[100, 3] = np.nan
    v[3, 4], v[99, 4] = np.inf, -np.inf
    v[:, 5] = np.finfo(dtype).max
    total = rounded(*column_sums(v))
    np.testing.assert_array_equal(total, np.array([0, np.inf, -np.inf, np.nan, np.nan, np.inf, rows], dtype))
    assert not np.signbit(total[0])
    assert not np.signbit(rounded(*column_sums(np.full((4, 1), -0.0, dtype)))[0])


@each_float
def test_fold(dtype):
    rng = np.random.default_rng(1)
    high, low = rng.standard_normal((3, 64)).astype(dtype), (rng.standard_normal((3, 64)) * 1e-9).astype(dtype)
    got = fold(high, low)
    parts = [list(zip(h, e)) for h, e in zip(high, low)]
    for i, part in enumerate(parts):
        while len(part) > 1:
            half = len(part) // 2
            part = [pair_add(*part[j], *part[j + half]) for j in range(half)]
        assert (got[0][i], got[1][i]) == part[0]
        exact = math.fsum([*high[i].astype(np.float64), *low[i].astype(np.float64)])
        assert rounded(*got)[i] == pytest.approx(exact, rel=float(4 * np.finfo(dtype).eps))
    one = fold(high[:, :1], low[:, :1])
    assert (one[0] == high[:, 0]).all() and (one[1] == low[:, 0]).all()


def test_fold_of_infinities():
    high = np.array([1.0, np.inf, 2.0, 3.0])
    assert rounded(*fold(high, np.zeros(4))) == np.inf
