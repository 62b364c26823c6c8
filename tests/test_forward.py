"""Every activation against the oracle, in ULP, over its whole range."""

from fractions import Fraction

import numpy as np
import pytest
from cases import DTYPES, agreed, call, each_case, slack, truth
from oracle import EXACT_ULP, FORWARD_ULP, TRUTH
from ulp import assert_within, measure, poisoned, sample

import fastact as fa

COUNT = 400_000  # points of a sweep over float32; float64 needs mpmath for each


def bound(name):
    return EXACT_ULP if TRUTH[name].linear else FORWARD_ULP


@each_case()
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_forward(name, case, dtype):
    dtype = np.dtype(dtype)
    count = COUNT if dtype == np.float32 else (800 if case == TRUTH[name].cases[0] else 160)
    x, reference = truth(name, "value", case, dtype, count)

    def results():
        out = poisoned(x.shape, dtype)
        with np.errstate(all="raise"):
            (y,) = call(name, "forward", x, case, out=out)
        assert y is out
        return (y,)

    (y,) = agreed(results)
    what = {"op": name, "kind": "forward", "dtype": dtype.name, "backend": "", "domain": case_text(name, case)}
    assert_within(measure(y, reference, x), bound(name), what, slack(dtype))


def case_text(name, case):
    return "" if case == TRUTH[name].cases[0] else ", ".join(f"{k}={v:g}" for k, v in case.items())


def misrounded_sixths(x, y):
    """Where y is not (x + 3)/6, rounded to nearest, ties to even; x of at most 24 bits, in (-3, 3)."""
    bits = y.view(f"u{y.itemsize}")
    below, above = (b.view(y.dtype).astype(np.float64) for b in (bits - np.uint8(1), bits + np.uint8(1)))
    # 6 times the midpoints next to y, and x + 3: exact but for a tiny x, whose result is 1/2
    x, y = x.astype(np.float64), y.astype(np.float64)
    low, exact, high = 3.0 * (below + y), x + 3.0, 3.0 * (y + above)
    even = (bits & np.uint8(1)) == 0
    right = (low < exact) & (exact < high) | ((exact == low) | (exact == high)) & even
    return ~np.where(np.abs(x) < 2.0**-27, y == 0.5, right)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_hard_sigmoid_is_rounded_once(dtype):
    """relu6(x + 3)/6: 0 up to -3, 1 from 3 on, between them correctly rounded, also where two numbers are as near."""
    outer = np.array([-np.inf, -1e4, -3.0, 3.0, 1e4, np.inf], dtype)
    (y,) = agreed(lambda: (fa.hard_sigmoid(outer),))
    assert y.astype(float).tolist() == [0, 0, 0, 1, 1, 1]
    assert not np.signbit(y).any()
    x = sample(dtype, -3.0, 3.0, 200_000 if dtype.itemsize < 8 else 2_000)
    if dtype.itemsize > 2:
        # 6m - 3 for midpoints m
        m = sample(dtype, 2.0**-9, 1.0, x.size)
        x = np.concatenate([x, (3 * (m.astype(np.longdouble) + np.nextafter(m, dtype.type(2))) - 3).astype(dtype)])
    x = x[np.abs(x.astype(np.float64)) < 3]
    (y,) = agreed(lambda: (fa.hard_sigmoid(x),))
    assert ((y.astype(np.float64) > 0) & (y.astype(np.float64) < 1)).all()
    if dtype.itemsize < 8:
        wrong = misrounded_sixths(x, y)
        assert not wrong.any(), (int(wrong.sum()), x[wrong][:3])
    else:
        below, above = np.nextafter(y, 0.0), np.nextafter(y, 1.0)
        even = y.view(np.uint64) & np.uint64(1) == 0
        for i, exact in enumerate(Fraction(v) + 3 for v in x.tolist()):
            low, high = (3 * (Fraction(v) + Fraction(float(y[i]))) for v in (below[i].item(), above[i].item()))
            assert low < exact < high or (even[i] and exact in (low, high)), float(x[i])
