"""Every activation against the oracle, in ULP, over its whole range."""

import numpy as np
import pytest
from cases import agreed, call, each_case, slack, truth
from oracle import EXACT_ULP, FORWARD_ULP, TRUTH
from ulp import assert_within, measure, poisoned

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
