"""All 2^32 patterns of float32, for the activations of --exhaustive (minutes for each), and many of float64 for all.

pytest -m slow tests/test_exhaustive.py --exhaustive gelu,mish
"""

import numpy as np
import oracle
import pytest
from cases import call, each_case, slack
from cases import truth as sweep_truth
from oracle import DERIVATIVE_ULP, EXACT_ULP, FORWARD_ULP, TRUTH
from test_forward import case_text, misrounded_sixths
from ulp import assert_within, epsilon, measure

import fastact as fa

CHUNK = 1 << 22


def bound_of(name, what):
    return EXACT_ULP if TRUTH[name].linear else FORWARD_ULP if what == "value" else DERIVATIVE_ULP


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
    worst, below, excused = None, 0.0, 0.0
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
        near_zero = truth.near_zero(x, **rounded) if what == "derivative" else None
        measured = measure(got, reference, x, near_zero, bound_of(name, what))
        excused = max(excused, measured.absolute)
        below = max(below, measured.below_normal)
        if worst is None or measured.ulp > worst.ulp:
            worst = measured
    worst.below_normal, worst.absolute, worst.count = below, excused, 1 << 32
    record = {
        "op": name,
        "kind": "forward" if what == "value" else what,
        "dtype": "float32",
        "backend": fa.dispatch.backend(),
        "domain": "",
    }
    assert_within(worst, bound_of(name, what), record, slack(np.float32))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@each_case()
@pytest.mark.parametrize("what", ["value", "derivative"])
def test_many_float64(name, case, what):
    """40000 points with mpmath each."""
    dtype = np.dtype(np.float64)
    x, (hi, lo) = sweep_truth(name, what, case, dtype, 40_000)
    rounded = oracle.parameters_as(dtype, case)
    got = call(name, "forward" if what == "value" else "value_and_grad", x, case)[-1]
    near_zero = None
    if what == "derivative":
        sure = ~TRUTH[name].unsure(x, epsilon(dtype), **rounded)
        x, hi, lo, got = x[sure], hi[sure], lo[sure], got[sure]
        near_zero = TRUTH[name].near_zero(x, **rounded)
    record = {
        "op": name,
        "kind": "forward" if what == "value" else what,
        "dtype": "float64",
        "backend": fa.dispatch.backend(),
        "domain": case_text(name, case),
    }
    assert_within(measure(got, (hi, lo), x, near_zero, bound_of(name, what)), bound_of(name, what), record)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_hard_sigmoid_is_rounded_once():
    """Every float32 in (-3, 3)."""
    end = int(np.float32(3.0).view(np.uint32))
    for start in range(0, end, CHUNK):
        x = np.arange(start, min(start + CHUNK, end), dtype=np.uint32).view(np.float32)
        for signed in (x, -x):
            wrong = misrounded_sixths(signed, fa.hard_sigmoid(signed))
            assert not wrong.any(), signed[wrong][:3]
