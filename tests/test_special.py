"""NaN, infinities, zeros and subnormals: the right value, at every position of every length from 0 to 67."""

import warnings

import numpy as np
import oracle
import pytest
from cases import NAMES, agreed, backward, call, each_case, each_dtype, each_name, kinds, parameters, same
from oracle import TRUTH
from ulp import FORMATS, errors, poisoned, smallest_normal

import fastact as fa


def slopes(name, case):
    """The derivative at -inf and +inf."""
    found = []
    for x in (-1e300, 1e300):
        value = float(oracle.settle(TRUTH[name].derivative, x, case))
        found.append(np.copysign(np.inf, value) if abs(value) > 1e200 else 0.0 if abs(value) < 1e-200 else value)
    return found


@each_case()
@each_dtype
def test_nan_in_nan_out(name, case, dtype, backend):
    x = np.full(67, np.nan, dtype)
    given = parameters(name, case)
    with np.errstate(all="raise"):
        for kind in kinds(name, case):
            for result in call(name, kind, x, case):
                assert np.isnan(result).all(), kind
        # a gradient that is NaN stays NaN, also where the derivative is 0
        for at in (-200.0, -1.0, 0.0, 1.0, 200.0):
            assert np.isnan(backward(name, x, np.full(67, at, dtype), **given)).all(), at
        negative_nan = np.copysign(x, -1)
        assert np.isnan(call(name, "forward", negative_nan, case)[0]).all()


@each_case()
@each_dtype
def test_limits(name, case, dtype):
    rounded = oracle.parameters_as(dtype, case)
    with np.errstate(all="raise"):
        for x, limit, slope in zip(
            (-np.inf, np.inf), TRUTH[name].limits(**rounded), slopes(name, rounded), strict=True
        ):
            x = np.full(19, x, dtype)
            y, value, derivative, dx = agreed(
                lambda x=x: [r for k in ("forward", "value_and_grad", "backward") for r in call(name, k, x, case)]
            )
            allowed = 0.5 if TRUTH[name].linear or limit in (0, 1, -1) or np.isinf(limit) else 1.0
            assert errors(y, np.float64(limit))[0].max() <= allowed, (x[0], y[0], limit)
            if limit == 0:
                assert (y == 0).all()
                # the specification's -0.0 is what x/(1 + exp(-x)) goes to
                assert (np.signbit(y) == np.signbit(limit)).all(), (y[0], limit)
            assert same(value, y)
            assert errors(derivative, np.float64(slope))[0].max() <= (1.0 if name == "selu" else 0.5), (
                x[0],
                derivative[0],
                slope,
            )
            assert same(dx, derivative)


@each_case()
@each_dtype
def test_zeros(name, case, dtype):
    for zero in (0.0, -0.0):
        x = np.full(33, zero, dtype)
        (y,) = agreed(lambda x=x: call(name, "forward", x, case))
        want = float(oracle.settle(TRUTH[name].value, 0.0, oracle.parameters_as(dtype, case)))
        assert errors(y, np.float64(want))[0].max() <= (0.5 if want == 0 else 2.0)
        odd = TRUTH[name].odd_zero
        if odd:
            assert (y == 0).all()
            sign = np.signbit(zero) ^ np.signbit(case[odd] if isinstance(odd, str) else 1.0)
            assert (np.signbit(y) == sign).all(), zero


@each_case()
@each_dtype
def test_subnormals(name, case, dtype):
    tiny = smallest_normal(dtype)
    precision = FORMATS[np.dtype(dtype)][0]
    x = np.concatenate([tiny * np.arange(1, 33) / 32, tiny * 2.0 ** -np.arange(1, precision)])
    x = np.concatenate([x, -x]).astype(dtype)
    rounded = oracle.parameters_as(dtype, case)
    bound = (0.5 if TRUTH[name].linear else 2.0) if dtype.itemsize > 2 else 1.0
    with np.errstate(all="raise"):
        y, _, slope = agreed(lambda: (*call(name, "forward", x, case), *call(name, "value_and_grad", x, case)))
    ulp, below, _ = errors(y, oracle.exact(TRUTH[name].value, x, rounded))
    assert ulp.max() <= bound
    assert below.max() <= 1.0
    ulp, below, _ = errors(slope, oracle.exact(TRUTH[name].derivative, x, rounded))
    assert ulp.max() <= (4.0 if dtype.itemsize > 2 else 1.0)
    assert below.max() <= 1.0


SPECIAL = (np.nan, np.inf, -np.inf, -0.0, 1e-42, -1e-42)


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in NAMES for kind in kinds(name, TRUTH[name].cases[0])]
)
def test_every_position_of_every_length(name, kind, backend):
    """A special value changes its own element and no other, wherever it stands.

    Row i of an n by n block has it at position i; the rows lie apart in memory, so each is one call of the inner loop
    on n elements.
    """
    case = TRUTH[name].cases[0]
    dtype = np.float32
    rng = np.random.default_rng(11)
    ordinary = (rng.standard_normal(67) * 3).astype(dtype)
    # the reference calls Python for every row: fewer lengths, all that a vector of 8 or 16 and a remainder can be
    lengths = range(68) if backend != "reference" else (0, 1, 2, 3, 15, 16, 17, 33, 67)
    alone = [[one[0] for one in call(name, kind, ordinary[i : i + 1], case)] for i in range(67)]
    for special in SPECIAL:
        here = [one[0] for one in call(name, kind, np.array([special], dtype), case)]
        for n in lengths:
            x = np.full((n, n + 3), 7.0, dtype)[:, :n]
            x[...] = ordinary[:n]
            x[np.arange(n), np.arange(n)] = special
            space = tuple(np.full((n, n + 5), np.nan, dtype) for _ in range(len(here)))
            out = tuple(s[:, :n] for s in space)
            results = call(name, kind, x, case, out=out if kind == "value_and_grad" else out[0])
            for j, result in enumerate(results):
                want = np.empty((n, n), dtype)
                want[...] = [a[j] for a in alone[:n]]
                want[np.arange(n), np.arange(n)] = here[j]
                assert same(result, want), (special, n)
                assert np.isnan(space[j][:, n:]).all(), "wrote past the end of a row"


@each_name
def test_no_warning_from_discarded_lanes(name, backend):
    case = TRUTH[name].cases[0]
    x = np.array([-np.inf, -1e38, -1000, -88, -1e-40, -0.0, 0, 1e-40, 88, 1000, 1e38, np.inf, np.nan] * 5, np.float32)
    with warnings.catch_warnings(), np.errstate(all="warn"):
        warnings.simplefilter("error")
        for kind in kinds(name, case):
            call(name, kind, x, case)


@each_name
def test_no_flags_where_numpy_looks_at_them(name, backend):
    """A cast of the result makes NumPy ask for the flags of the whole call; those of discarded lanes must not show."""
    case = TRUTH[name].cases[0]
    x = np.array([-1000.0, -5.0, -0.0, 0.5, 5.0, np.nan, -np.inf] * 9, np.float32)
    out = poisoned(x.shape, np.float16)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        call(name, "forward", x, case, out=out, casting="same_kind")
    with np.errstate(under="ignore"):
        assert same(out, call(name, "forward", x, case)[0].astype(np.float16))


def test_nan_does_not_leak_into_the_tail_buffer(backend):
    """A short call after one full of NaN: nothing of the earlier call remains in a tile."""
    out = poisoned(5, np.float32)
    fa.gelu(np.full(67, np.nan, np.float32))
    fa.gelu(np.float32([1, 2, 3, 4, 5]), out=out)
    assert np.isfinite(out).all()


@each_name
@each_dtype
def test_empty(name, dtype, backend):
    case = TRUTH[name].cases[0]
    for shape in ((0,), (0, 3), (5, 0)):
        for kind in kinds(name, case):
            for result in call(name, kind, np.zeros(shape, dtype), case):
                assert result.shape == shape
                assert result.dtype == dtype
