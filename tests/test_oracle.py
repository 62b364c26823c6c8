"""The oracle itself: its two forms agree, its derivatives are derivatives, its conventions are the specification's."""

import numpy as np
import pytest
from mpmath import mp
from oracle import ELEMENTARY, FAST, FAST_ERROR, MP, TRUTH, exact, fast, parameters_as, settle
from ulp import neighbours, sample

from fastact.tools import truth as _truth

CASES = [pytest.param(name, case, id=f"{name}-{i}") for name, t in TRUTH.items() for i, case in enumerate(t.cases)]
SMALLEST = 2.0**-149


def points(count):
    largest = float(np.finfo(np.float32).max)
    edges = neighbours([0.0, -1.0, 1.0, -3.0, 3.0, -87.34, 88.73], np.float32)
    return np.concatenate(
        [edges, *(sample(np.float32, a, b, count) for a, b in [(-largest, largest), (-110, -0.01), (0.01, 110)])]
    )


@pytest.mark.parametrize(
    ("name", "case", "what"),
    [
        pytest.param(*c.values, what, id=f"{c.id}-{what}")
        for c in CASES
        for what in ("value", "derivative", "from_output")
        if getattr(TRUTH[c.values[0]], what)
    ],
)
def test_float64_oracle_is_good_enough_for_float32(name, case, what):
    truth = TRUTH[name]
    function = getattr(truth, what)
    case = parameters_as(np.float32, case)
    x = points(40)
    if what == "from_output":
        with np.errstate(over="ignore"):
            x = np.unique(fast(truth.value, x, case).astype(np.float32))
        x = x[np.isfinite(x)]
    hi, lo = exact(function, x, case)
    got = fast(function, x, case)
    with np.errstate(invalid="ignore"):
        error = np.abs((got - hi) - lo)
    # an overflow beyond float64 or a value below float32's subnormals is nothing a float32 can show
    fine = (
        (np.abs(hi) > 1e300) & (np.abs(got) > 1e300)
        | (error <= SMALLEST * 2.0**-20)
        | (error <= FAST_ERROR * np.abs(hi))
    )
    if what == "derivative":
        fine |= truth.near_zero(x, **case) & (error <= FAST_ERROR)
    if what == "from_output":
        fine |= truth.output_near_zero(x, **case) & (error <= FAST_ERROR)
    assert fine.all(), [(float(x[i]), float(got[i]), float(hi[i])) for i in np.flatnonzero(~fine)[:5]]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_derivative_is_the_derivative(name, case):
    truth = TRUTH[name]
    kinks = [float(k) for k in truth.kinks(**case)] + [0.0]
    for x in (-40.3, -7.1, -2.9, -1.31, -0.62, -0.21, 1e-4, 0.13, 0.41, 0.77, 1.9, 4.4, 8.2, 31.7):
        if min(abs(x - k) for k in kinks) < 1e-5 or truth.unsure(x, 1e-5, **case):
            continue
        with mp.workprec(900):
            parameters = {k: mp.mpf(v) for k, v in case.items()}
            numeric = mp.diff(
                lambda v, parameters=parameters: truth.value(MP, v, **parameters), mp.mpf(x), h=mp.mpf(2) ** -300
            )
            want = mp.mpf(truth.derivative(MP, mp.mpf(x), **parameters))
            assert abs(numeric - want) <= mp.mpf(2) ** -100 * max(abs(want), mp.mpf(2) ** -150), (x, numeric, want)


@pytest.mark.parametrize(
    ("name", "case"),
    [c for c in CASES if TRUTH[c.values[0]].from_output and c.values[1] not in TRUTH[c.values[0]].not_from_output],
)
def test_from_output_is_the_derivative_of_the_inverse_point(name, case):
    truth = TRUTH[name]
    for x in (-40.3, -7.1, -2.9, -1.31, -0.62, -0.21, 0.13, 0.41, 0.77, 1.9, 4.4, 8.2, 31.7):
        with mp.workprec(400):
            parameters = {k: mp.mpf(v) for k, v in case.items()}
            y = mp.mpf(truth.value(MP, mp.mpf(x), **parameters))
            want = truth.derivative(MP, mp.mpf(x), **parameters)
            assert abs(truth.from_output(MP, y, **parameters) - want) <= mp.mpf(2) ** -200 * (1 + abs(want)), x


@pytest.mark.parametrize(("name", "case"), CASES)
def test_kinks_and_limits(name, case):
    truth = TRUTH[name]
    for x, slope in truth.kinks(**case).items():
        assert float(settle(truth.derivative, x, case)) == pytest.approx(slope, abs=1e-15), x
        assert float(truth.derivative(FAST, np.float64(x), **case)) == pytest.approx(slope, abs=1e-15), x
    for x, limit in zip((-1e300, 1e300), truth.limits(**case), strict=True):
        value = float(settle(truth.value, x, case))
        if np.isinf(limit):
            assert abs(value) > 1e297
            assert np.sign(value) == np.sign(limit)
        else:
            assert value == pytest.approx(limit, abs=1e-12)


def test_zeros_of_derivatives_are_where_near_zero_says():
    """The excuse of an absolute error is given around true, isolated zeros only."""
    x = np.linspace(-60, 60, 480002)
    for name, truth in TRUTH.items():
        for case in truth.cases:
            slope = fast(truth.derivative, x, case)
            crossing = np.flatnonzero(np.sign(slope[:-1]) * np.sign(slope[1:]) < 0)
            jumps = np.abs(np.diff(slope))[crossing] > 0.1
            crossing = crossing[~jumps]
            excused = np.flatnonzero(truth.near_zero(x, **case))
            assert bool(crossing.size) == bool(excused.size), name
            if crossing.size:
                middle = (x[excused[0]] + x[excused[-1]]) / 2
                assert x[crossing].tolist() == pytest.approx([middle], abs=1e-3), name


def test_conventions_where_frameworks_disagree():
    """Spelled out again from the specification's table, value by value."""

    def slope(name, x, **case):
        return float(settle(TRUTH[name].derivative, x, case))

    assert slope("relu", 0.0) == 0
    assert [slope("relu6", v) for v in (0.0, 6.0)] == [0, 0]
    assert slope("leaky_relu", 0.0, negative_slope=0.25) == 0.25
    assert slope("elu", 0.0, alpha=0.5) == 0.5
    assert slope("celu", 0.0, alpha=0.5) == 1
    assert [slope("hard_tanh", v, min_val=-1.0, max_val=1.0) for v in (-1.0, 1.0)] == [0, 0]
    assert [slope("soft_shrink", v, lambd=0.5) for v in (-0.5, 0.0, 0.5)] == [0, 0, 0]
    assert [slope("hard_silu", v) for v in (-3.0, 3.0)] == [0, 1]
    assert [slope("hard_sigmoid", v, alpha=1 / 6, beta=0.5) for v in (-3.0, 3.0)] == [0, 0]
    assert slope("threshold", 0.5, threshold=0.5, value=1.0) == 0


@pytest.mark.torch
def test_agrees_with_frameworks_in_the_middle():
    """The definitions are those of PyTorch, where it has them."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    theirs = {
        "relu": functional.relu,
        "relu6": functional.relu6,
        "leaky_relu": functional.leaky_relu,
        "elu": functional.elu,
        "selu": functional.selu,
        "celu": functional.celu,
        "sigmoid": torch.sigmoid,
        "log_sigmoid": functional.logsigmoid,
        "hard_sigmoid": functional.hardsigmoid,
        "tanh": torch.tanh,
        "hard_tanh": functional.hardtanh,
        "tanh_shrink": functional.tanhshrink,
        "softplus": functional.softplus,
        "softsign": functional.softsign,
        "soft_shrink": functional.softshrink,
        "hard_shrink": functional.hardshrink,
        "silu": functional.silu,
        "hard_silu": functional.hardswish,
        "gelu": functional.gelu,
        "gelu_tanh": lambda v: functional.gelu(v, approximate="tanh"),
        "mish": functional.mish,
        "threshold": lambda v: functional.threshold(v, 0.5, -1.0),
        "prelu": lambda v: functional.prelu(v, torch.tensor([0.25], dtype=torch.float64)),
    }
    x = np.linspace(-12, 12, 1201)
    for name, function in theirs.items():
        case = TRUTH[name].cases[0]
        v = torch.tensor(x, requires_grad=True)
        y = function(v)
        y.sum().backward()
        np.testing.assert_allclose(
            fast(TRUTH[name].value, x, case), y.detach().numpy(), rtol=1e-7, atol=1e-8, err_msg=name
        )
        np.testing.assert_allclose(
            fast(TRUTH[name].derivative, x, case), v.grad.numpy(), rtol=1e-6, atol=1e-8, err_msg=name
        )


@pytest.mark.parametrize("name", sorted(ELEMENTARY))
def test_elementary_oracle(name):
    x = points(40)
    low = {"log": 0.0, "log1p": -1.0, "log1p_unit": 0.0, "logistic_tail": 0.0}
    high = {"gelu_tail": 0.0, "gelu_tail_grad": 0.0}
    x = x[(x > low.get(name, -np.inf)) & (x < high.get(name, np.inf))]
    hi, lo = exact(ELEMENTARY[name], x, {})
    got = fast(ELEMENTARY[name], x, {})
    with np.errstate(invalid="ignore"):
        error = np.abs((got - hi) - lo)
    fine = (
        (np.abs(hi) > 1e300) & (np.abs(got) > 1e300)
        | (error <= SMALLEST * 2.0**-20)
        | (error <= FAST_ERROR * np.abs(hi))
    )
    if name == "gelu_tail_grad":
        fine |= (np.abs(x + 0.7518) <= 1) & (error <= FAST_ERROR)
    assert fine.all(), [(float(x[i]), float(got[i]), float(hi[i])) for i in np.flatnonzero(~fine)[:5]]


@pytest.mark.parametrize("what", ["value", "derivative"])
@pytest.mark.parametrize(("name", "case"), CASES)
def test_truth_that_the_package_brings_along(name, case, what):
    """`fastact verify` measures against float64 definitions of its own; they are held to the same standard."""
    case = parameters_as(np.float32, case)
    x = points(40)
    hi, lo = exact(getattr(TRUTH[name], what), x, case)
    with np.errstate(all="ignore"):
        got = getattr(_truth.TRUTH[name], what)(x.astype(np.float64), **case)
        error = np.abs((got - hi) - lo)
    fine = (np.abs(hi) > 1e300) & (np.abs(got) > 1e300) | (error <= SMALLEST * 2.0**-16)
    fine |= error <= 2.0**-40 * np.abs(hi)
    if what == "derivative":
        fine |= TRUTH[name].near_zero(x, **case) & (error <= 2.0**-40)
    assert fine.all(), [(float(x[i]), float(got[i]), float(hi[i])) for i in np.flatnonzero(~fine)[:5]]


def test_the_package_knows_every_truth():
    assert sorted(_truth.TRUTH) == sorted(TRUTH)
    for name, truth in TRUTH.items():
        assert _truth.TRUTH[name].linear == truth.linear
        for case in truth.cases[:1]:
            x = np.linspace(-5, 5, 10001)
            excused = truth.near_zero(x, **case)
            middle = (x[excused][0] + x[excused][-1]) / 2 if excused.any() else None
            assert list(_truth.TRUTH[name].zeros) == ([] if middle is None else [pytest.approx(middle, abs=2e-3)])
