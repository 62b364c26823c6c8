"""All 2^32 patterns of float32, for the activations of --exhaustive (minutes for each).

pytest -m slow tests/test_exhaustive.py --exhaustive gelu,mish
"""

import numpy as np
import oracle
import pytest
from cases import call, slack
from oracle import DERIVATIVE_ULP, EXACT_ULP, FORWARD_ULP, TRUTH
from ulp import assert_within, epsilon, measure

import fastact as fa

CHUNK = 1 << 22


def pytest_generate_tests(metafunc):
    if "exhaustive_name" in metafunc.fixturenames:
        metafunc.parametrize("exhaustive_name", metafunc.config.getoption("--exhaustive").split(","))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("what", ["value", "derivative"])
def test_every_float32(exhaustive_name, what):
    name = fa.get(exhaustive_name).name
    truth = TRUTH[name]
    case = truth.cases[0]
    rounded = oracle.parameters_as(np.float32, case)
    worst, below = None, 0.0
    for start in range(0, 1 << 32, CHUNK):
        x = np.arange(start, start + CHUNK, dtype=np.uint32).view(np.float32)
        got = call(name, "forward" if what == "value" else "value_and_grad", x, case)[-1]
        nan = np.isnan(x)
        assert np.isnan(got[nan]).all(), hex(start)
        finite = np.isfinite(x)
        x, got = x[finite], got[finite]
        if what == "derivative":
            sure = ~truth.unsure(x, epsilon(np.float32), **rounded)
            x, got = x[sure], got[sure]
        if not x.size:
            continue
        reference = oracle.fast(getattr(truth, what), x, rounded)
        measured = measure(got, reference, x, truth.near_zero(x, **rounded) if what == "derivative" else None)
        below = max(below, measured.below_normal)
        if worst is None or measured.ulp > worst.ulp:
            worst = measured
    worst.below_normal, worst.count = below, 1 << 32
    bound = EXACT_ULP if truth.linear else FORWARD_ULP if what == "value" else DERIVATIVE_ULP
    record = {
        "op": name,
        "kind": "forward" if what == "value" else what,
        "dtype": "float32",
        "backend": fa.dispatch.backend(),
        "domain": "",
    }
    assert_within(worst, bound, record, slack(np.float32))
