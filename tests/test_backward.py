"""Derivatives against the oracle: value_and_grad, backward, backward_from_output, and the conventions at kinks."""

import numpy as np
import oracle
import pytest
from cases import DTYPES, NAMES, agreed, backward, call, each_case, each_name, parameters, same, slack, truth
from oracle import DERIVATIVE_ULP, EXACT_ULP, TRUTH
from test_forward import COUNT, case_text
from ulp import assert_within, epsilon, errors, measure, neighbours, outputs_like, poisoned

import fastact as fa


def bound(name):
    # of piecewise linear functions the derivative is a constant: exact, as its parameters are
    return EXACT_ULP if TRUTH[name].linear else DERIVATIVE_ULP


def sweep(name, case, dtype, what):
    count = COUNT if dtype == np.float32 else (600 if case == TRUTH[name].cases[0] else 120)
    x, reference = truth(name, what, case, dtype, count)
    if what == "derivative":
        sure = ~TRUTH[name].unsure(x, epsilon(dtype), **oracle.parameters_as(dtype, case))
        x = x[sure]
        reference = tuple(r[sure] for r in reference) if isinstance(reference, tuple) else reference[sure]
    return x, reference


@each_case()
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_derivative(name, case, dtype):
    dtype = np.dtype(dtype)
    x, reference = sweep(name, case, dtype, "derivative")

    def results():
        with np.errstate(all="raise"):
            return (
                *call(name, "value_and_grad", x, case, out=outputs_like(x, 2)),
                *call(name, "backward", x, case),
                *call(name, "forward", x, case),
            )

    y, slope, dx, plain = agreed(results)
    what = {"op": name, "kind": "derivative", "dtype": dtype.name, "backend": "", "domain": case_text(name, case)}
    near_zero = TRUTH[name].near_zero(x, **oracle.parameters_as(dtype, case))
    assert_within(measure(slope, reference, x, near_zero, bound(name)), bound(name), what, slack(dtype))
    # one times the derivative is the derivative, and the value is the forward's
    assert same(dx, slope)
    assert same(y, plain)


@each_case()
def test_backward_multiplies(name, case):
    dtype = np.dtype(np.float32)
    x, _ = sweep(name, case, dtype, "derivative")
    rng = np.random.default_rng(3)
    dy = (rng.standard_normal(x.size) * np.exp2(rng.integers(-8, 8, x.size))).astype(dtype)
    (dx,) = agreed(lambda: (backward(name, dy, x, **parameters(name, case)),))
    (slope,) = call(name, "value_and_grad", x, case)[1:]
    # the product of two numbers of the type, rounded once
    ulp, below, _ = errors(dx, dy.astype(np.float64) * slope.astype(np.float64))
    assert ulp.max() <= 0.5
    assert below.max() <= 1.0


@each_case(from_output=True)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_from_output(name, case, dtype):
    dtype = np.dtype(dtype)
    y, reference = sweep(name, case, dtype, "from_output")

    def results():
        out = poisoned(y.shape, dtype)
        with np.errstate(all="raise"):
            (dx,) = call(name, "backward_from_output", y, case, out=out)
        assert dx is out
        return (dx,)

    (dx,) = agreed(results)
    what = {"op": name, "kind": "from output", "dtype": dtype.name, "backend": "", "domain": case_text(name, case)}
    near_zero = TRUTH[name].output_near_zero(y, **oracle.parameters_as(dtype, case))
    assert_within(measure(dx, reference, y, near_zero, bound(name)), bound(name), what, slack(dtype))


@each_case()
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kinks(name, case, dtype, backend):
    rounded = oracle.parameters_as(dtype, case)
    for x, slope in TRUTH[name].kinks(**rounded).items():
        x = np.full(37, x, dtype)
        want = np.full(37, slope, np.float64)
        for got in (call(name, "value_and_grad", x, case)[1], *call(name, "backward", x, case)):
            ulp, _, _ = errors(got, want)
            assert ulp.max() <= (1.0 if name == "selu" else 0.5), (x[0], got[0], slope)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_hard_sigmoid_at_its_kinks(dtype):
    """0 at and beyond -3 and 3, 1/6 at the numbers next to them; the same from the output."""
    x = neighbours([-3.0, 3.0], dtype, reach=1)
    inside = dtype.type(1 / 6)
    want = np.array([0, 0, inside, inside, 0, 0], dtype)
    y, value, slope, dx, from_output = agreed(
        lambda: (
            fa.hard_sigmoid(x),
            *fa.hard_sigmoid.value_and_grad(x),
            fa.hard_sigmoid.backward(np.ones_like(x), x),
            fa.hard_sigmoid.backward_from_output(np.ones_like(x), fa.hard_sigmoid(x)),
        )
    )
    assert y.astype(float)[[0, 1, 4, 5]].tolist() == [0, 0, 1, 1]
    assert same(value, y)
    for got in (slope, dx, from_output):
        assert same(got, want), got


@each_name
def test_from_output_exists_where_the_specification_says(name):
    assert hasattr(fa.activations[name], "backward_from_output") == (TRUTH[name].from_output is not None)


@pytest.mark.parametrize("name", [n for n in NAMES if TRUTH[n].from_output is None])
def test_missing_from_output_says_why(name):
    with pytest.raises(AttributeError, match=name):
        fa.activations[name].backward_from_output  # noqa: B018


@pytest.mark.parametrize("name", [n for n in NAMES if TRUTH[n].not_from_output])
def test_from_output_refuses_parameters_without_an_inverse(name):
    y = np.ones(5, np.float32)
    for case in TRUTH[name].not_from_output:
        out = poisoned(5, np.float32)
        with pytest.raises(ValueError, match="|".join(case)):
            fa.activations[name].backward_from_output(y, y, out=out, **case)
        assert np.isnan(out).all()


def test_prelu_backward_sums_the_weight_gradient(backend):
    rng = np.random.default_rng(5)
    for shape, weight_shape, axes in (
        ((4, 7, 5), (5,), (0, 1)),
        ((4, 7, 5), (7, 1), (0, 2)),
        ((4, 7, 5), (), (0, 1, 2)),
    ):
        x = rng.standard_normal(shape)
        dy = rng.standard_normal(shape)
        weight = rng.standard_normal(weight_shape)
        dx, dweight = fa.prelu.backward(dy, x, weight=weight)
        contribution = np.where(x > 0, 0.0, dy * x)
        assert dx.shape == shape
        assert np.shape(dweight) == weight_shape
        np.testing.assert_array_equal(dx, np.where(x > 0, dy, dy * weight))
        summed = contribution.sum(axis=axes).reshape(weight_shape)
        # any order of summation: n/2 epsilon of the sum of magnitudes
        allowed = np.abs(contribution).sum(axis=axes).reshape(weight_shape) * x.size * 2.0**-53
        assert (np.abs(dweight - summed) <= allowed).all()
