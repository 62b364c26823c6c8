"""Fused functions: with a bias, as a gate, with the gradient of a weight that is learnt.

Values have the bits of the plain function and NumPy's arithmetic in the computing dtype; sums are held against
math.fsum of the terms that they add.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import oracle
import pytest
from cases import (
    BACKENDS,
    agreed,
    backward,
    batch,
    difference,
    each_case,
    each_dtype,
    each_name,
    parameters,
    same,
    slack,
)
from oracle import DERIVATIVE_ULP, FORWARD_ULP, TRUTH
from subprocesses import python
from ulp import BFLOAT16, measure, misaligned, poisoned, ulp_of

import fastact as fa
from fastact.runtime import _driver
from fastact.spec.kinds import ALL, outputs_of

F16, F32, F64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
COMPUTE = {F16: F32, BFLOAT16: F32, F32: F32, F64: F64}
METHODS = ("biased", "biased_backward", "gated", "gated_backward")
# of a sum, in ULP of the sum of magnitudes
SUM_ULP = 4.0

each_float = pytest.mark.parametrize("dtype", [F32, F64], ids=lambda d: d.name)
each_method = pytest.mark.parametrize("method", METHODS)


def results(returned):
    return returned if isinstance(returned, tuple) else (returned,)


def of(name, method):
    """A function by its name; `prelu.backward` is one, too."""
    return getattr(fa.activations[name], method)


def called(name, method, arrays, **given):
    """The results of every backend, which must be the same bits."""
    return agreed(lambda: results(of(name, method)(*arrays, **given)))


def assert_same(got, want):
    assert len(got) == len(want)
    for i, (a, b) in enumerate(zip(got, want)):
        assert same(a, b), f"result {i}{difference(a, b) if np.shape(a) == np.shape(b) else ': ' + str(np.shape(a))}"


def inputs(method, shape, dtype, axis=-1, seed=0):
    """Ordinary numbers: the arrays of a method."""
    rng = np.random.default_rng(seed)
    full = [(rng.standard_normal(shape) * 2).astype(dtype) for _ in range(3)]
    if method == "gated":
        return full[:2]
    if method == "backward":
        return full[:2]
    if method == "gated_backward":
        return full
    bias = rng.standard_normal(shape[axis]).astype(dtype)
    return [*full[: 1 + (method == "biased_backward")], bias]


def composed(name, method, arrays, axis=-1, **given):
    """The same by the plain function and NumPy, in the computing dtype; for a sum its terms."""
    f = fa.activations[name]
    wide = [np.asarray(a).astype(COMPUTE[np.asarray(a).dtype]) for a in arrays]
    with np.errstate(all="ignore"):
        if method.startswith("biased"):
            *dy, x, bias = wide
            x = x + bias.reshape(-1, *[1] * (x.ndim - 1 - axis % x.ndim))
            if not dy:
                return (f(x, **given),)
            dx = backward(name, *dy, x, **given)
            terms = (dx, dx)
            dy = dy[0]
        elif method == "gated":
            gate, up = wide
            return (f(gate, **given) * up,)
        else:
            dy, x, up = wide
            dy, value = dy * up, dy * f(x, **given)
            terms = (dy * f.value_and_grad(x, **given)[1], value)
        # prelu has the terms of one more sum
        return terms + ((dy * np.where(x > 0, np.float32(0), x),) if name == "prelu" else ())


def narrowed(array, dtype):
    with np.errstate(all="ignore"):
        return array.astype(dtype)


def sum_error(terms, got, dtype):
    """The error of a sum of the columns of `terms`, in ULP of the sum of magnitudes."""
    terms = np.asarray(terms, np.float64)
    worst = 0.0
    for column, value in zip(terms.T, np.ravel(got).astype(np.float64), strict=True):
        unit = ulp_of(np.abs(column).sum(), dtype)
        worst = max(worst, abs(math.fsum([*column.tolist(), -float(value)])) / float(unit))
    return worst


def flattened(terms, axis):
    """Terms as rows of the channels along `axis`."""
    return np.moveaxis(terms, axis, -1).reshape(-1, terms.shape[axis])


def assert_sums(terms, got, dtype, bound=SUM_ULP, what=""):
    error = sum_error(terms, got, dtype)
    print(f"{what or 'sum'} of {len(terms)} rows, {np.dtype(dtype).name}: {error:.3f} ULP, bound {bound:g}")
    assert error <= bound


# ---- values


@each_case()
@each_dtype
def test_bits_of_the_plain_functions(name, case, dtype):
    shape = (23, 37)
    given = parameters(name, case)
    full = [np.resize(batch(dtype, 1009, seed), shape) for seed in range(3)]
    for method in METHODS:
        arrays = [full[i] if a.role == "map" else batch(dtype, shape[1], 7) for i, a in enumerate(ALL[method].inputs)]
        got = called(name, method, arrays, **given)
        want = composed(name, method, arrays, **given)
        roles = [a.role for a in outputs_of(fa.activations[name].op, method)]
        for role, g, w in zip(roles, got, want, strict=True):
            # sums have tests of their own
            assert role == "sum_rows" or same(g, narrowed(w, dtype)), method


@pytest.mark.parametrize("name", ["relu", "gelu", "elu", "softplus", "tanh", "mish"])
@each_float
def test_against_the_oracle(name, dtype):
    """dy and up are powers of two, so that the errors are those of f and f'."""
    truth = TRUTH[name]
    count = 4000 if dtype == F32 else 120
    rng = np.random.default_rng(1)
    x, bias = (rng.standard_normal((count // 20, 20)) * 3).astype(dtype), rng.standard_normal(20).astype(dtype)
    dy, up = (np.exp2(rng.integers(-3, 4, x.shape)).astype(dtype) * rng.choice([-1, 1], x.shape).astype(dtype)
              for _ in range(2))  # fmt: skip
    z = x + bias
    case = oracle.parameters_as(dtype, truth.cases[0])
    exact = oracle.fast if dtype == F32 else oracle.exact
    value, slope = exact(truth.value, z, case), exact(truth.derivative, z, case)
    near = truth.near_zero(z, **case)
    (y,) = called(name, "biased", [x, bias])
    (gated,) = called(name, "gated", [z, up])
    dx = called(name, "biased_backward", [dy, x, bias])[0]
    dgate, dup = called(name, "gated_backward", [dy, z, up])
    for what, got, want, bound, excused in (
        ("biased", y, value, FORWARD_ULP, None),
        ("gated", gated / up, value, FORWARD_ULP, None),
        ("dx", dx / dy, slope, DERIVATIVE_ULP, near),
        ("dgate", dgate / (dy * up), slope, DERIVATIVE_ULP, near),
        ("dup", dup / dy, value, FORWARD_ULP, None),
    ):
        measured = measure(got, want, z, excused)
        print(f"{name} {what} {dtype.name}: {measured}; bound {bound:g}")
        assert measured.ulp <= bound + slack(dtype), (what, str(measured))


def slope_of(function, at, step=2.0**-17):
    """Central difference; the third derivative leaves 1e-10."""
    return (function(at + step) - function(at - step)) / (2 * step)


@pytest.mark.parametrize("name", ["gelu", "tanh", "softplus", "mish", "elu", "prelu"])
def test_gradients_are_slopes(name):
    """Of a loss sum(dy·result), by every input and by prelu's weight."""
    rng = np.random.default_rng(2)
    dy, x, up = rng.standard_normal((3, 9, 5))
    bias, weight = rng.standard_normal((2, 5))
    x[np.abs(x) < 0.01] += 0.1
    x[np.abs(x + bias) < 0.01] += 0.1
    given = {"weight": weight} if name == "prelu" else {}
    f = fa.activations[name]
    found = list(zip(called(name, "biased_backward", [dy, x, bias], **given), ("x", "bias", "weight")))
    found = [(f.biased, {"x": x, "bias": bias}, *pair) for pair in found]
    for pair in zip(called(name, "gated_backward", [dy, x, up], **given), ("x", "up", "weight")):
        found.append((f.gated, {"x": x, "up": up}, *pair))
    if name == "prelu":
        found += [(f, {"x": x}, *p) for p in zip(called(name, "backward", [dy, x, weight]), ("x", "weight"))]
    assert len(found) == (9 - 1 if name == "prelu" else 4)
    for function, arrays, got, by in found:
        arrays = {**arrays, **given}

        def value(moved, function=function, arrays=arrays, by=by):
            changed = {**arrays, by: moved}
            keywords = {k: changed.pop(k) for k in given}
            return dy * function(*changed.values(), **keywords)

        want = slope_of(value, arrays[by])
        want = want if want.shape == np.shape(got) else want.sum(axis=0)
        assert np.abs(got - want).max() <= 2e-9, (function, by)


def test_gelu_approximate():
    for method in METHODS:
        arrays = inputs(method, (7, 5), F32)
        got = called("gelu", method, arrays, approximate="tanh")
        assert_same(got, results(of("gelu_tanh", method)(*arrays)))
        assert_same(called("gelu", method, arrays, approximate="none"), results(of("gelu", method)(*arrays)))
        assert not same(got[0], results(of("gelu", method)(*arrays))[0])


# ---- sums


ROWS = [0, 1, 2, 3, 4, 5, 63, 64, 65, 127, 128, 129, 1000]
COLUMNS = [1, 2, 3, 7, 15, 16, 17, 63, 64, 65, 100, 511, 512, 513, 1000, 1024, 1030, 4097]
INNER = [2, 3, 16, 49, 63, 64, 65, 4095, 4096, 4097, 65535, 65536, 65537]


def spread(shape, dtype, seed=0):
    """Numbers of many magnitudes and both signs."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * np.exp(2 * rng.standard_normal(shape))).astype(dtype)


def check_sums(name, shape, dtype, axis=-1, **given):
    """Every sum of a call with a bias, against its terms."""
    dy, (x, bias) = spread(shape, dtype), inputs("biased", shape, dtype, axis)
    dx, *sums = called(name, "biased_backward", [dy, x, bias], axis=axis, **given)
    _, *terms = composed(name, "biased_backward", [dy, x, bias], axis, **given)
    assert same(dx, narrowed(terms[0], dtype))
    for total, term in zip(sums, terms, strict=True):
        assert total.shape == (shape[axis],) and total.dtype == dtype
        assert_sums(flattened(term, axis), total, dtype, what=f"{name} {shape}")


@each_float
@pytest.mark.parametrize("rows", ROWS)
def test_sums_of_so_many_rows(rows, dtype):
    for columns in (1, 3, 70):
        check_sums("gelu", (rows, columns), dtype)
        check_sums("identity", (rows, columns), dtype)


@each_float
@pytest.mark.parametrize("columns", COLUMNS)
def test_sums_of_so_many_columns(columns, dtype):
    check_sums("gelu", (70, columns), dtype)


@each_float
@pytest.mark.parametrize("inner", INNER)
def test_sums_over_a_middle_axis(inner, dtype):
    shape = (2, 3, inner) if inner % 2 or inner == 2 else (2, 3, inner // 2, 2)
    check_sums("relu" if inner > 1000 else "gelu", shape, dtype, axis=1)


def test_sums_over_a_long_middle_axis():
    check_sums("relu", (2, 2, 200_000), F32, axis=1)


@each_dtype
@pytest.mark.parametrize("shape", [(130, 5), (5, 130), (300,), (4, 3, 2, 5), (1, 1), (2, 1, 700)])
def test_sums_over_every_axis(shape, dtype):
    for axis in range(len(shape)):
        dy, x, bias = inputs("biased_backward", shape, dtype, axis)
        got = called("gelu", "biased_backward", [dy, x, bias], axis=axis)
        assert_same(got, called("gelu", "biased_backward", [dy, x, bias], axis=axis - len(shape)))
        terms = composed("gelu", "biased_backward", [dy, x, bias], axis)[1]
        # a result of 16 bits is rounded once more
        assert_sums(flattened(terms, axis), got[1], dtype, bound=SUM_ULP if dtype.itemsize > 2 else 0.51)
        (y,) = called("gelu", "biased", [x, bias], axis=axis)
        assert same(y, narrowed(composed("gelu", "biased", [x, bias], axis)[0], dtype))


def dbias(dy):
    """The sums of the columns of an array: those of the identity's gradient."""
    dx, total = called("identity", "biased_backward", [dy, np.zeros_like(dy), np.zeros(dy.shape[1], dy.dtype)])
    assert same(dx, dy)
    return total


def test_a_sum_of_four_million_rows():
    dy = np.random.default_rng(3).random((1 << 22, 2), np.float32)
    dy[:, 1] -= np.float32(0.5)
    total = dbias(dy)
    assert_sums(dy, total, F32)
    # nothing cancels in the first
    assert sum_error(dy[:, :1], total[:1], F32) <= 1


@each_float
@pytest.mark.parametrize("rows", [1000, 100_000])
def test_sums_of_equal_rows(rows, dtype):
    dy = np.resize(np.array([0.1, 1 / 3, -7.7, 1.0], dtype), (rows, 4))
    total = dbias(dy)
    want = dy[0].astype(np.longdouble) * rows
    assert (np.abs(total - want) <= np.spacing(np.abs(total))).all()
    assert total[3] == rows


@each_float
def test_sums_that_cancel(dtype):
    big = dtype.type(2.0 ** (30 if dtype == F32 else 60))
    dy = np.ones((1003, 3), dtype)
    dy[::2, 0], dy[1::2, 0] = big, -big  # one more of the former
    dy[:500, 1], dy[501:1001, 1] = big, -big
    dy[:, 2] = spread(1003, dtype)
    dy = np.concatenate([dy, -dy[::-1]])
    dy[-1, 1] += dtype.type(3)
    assert_sums(dy, dbias(dy), dtype, bound=0.5)


@each_float
@pytest.mark.parametrize("columns", [7, 16, 512, 600])
@pytest.mark.parametrize("at", [0, 3, 66, 129])
def test_what_is_not_finite_stays_in_its_column(columns, at, dtype):
    rows = 130
    dy = np.ones((rows, columns), dtype)
    want = np.full(columns, rows, dtype)
    largest = np.finfo(dtype).max
    for column, values in enumerate(([np.inf], [-np.inf], [np.nan], [np.inf, -np.inf], [largest] * 9, [-0.0] * rows)):
        dy[(at + np.arange(len(values))) % rows, column] = values
        want[column] = (np.inf, -np.inf, np.nan, np.nan, np.inf, 0.0)[column]
    total = dbias(dy)
    assert same(total, want), total[:6]
    # and where a channel is a row
    shape = (2, columns, rows // 2)
    middle = np.ascontiguousarray(dy.reshape(2, -1, columns).swapaxes(1, 2))
    zeros = np.zeros(shape, dtype)
    assert same(called("identity", "biased_backward", [middle, zeros, zeros[0, :, 0]], axis=1)[1], want)


def test_a_sum_of_16_bits_beyond_their_range_in_between():
    dy = np.zeros((400, 3), F16)
    dy[:200], dy[200:] = 60000, -60000
    dy[0, 1], dy[:200, 2] = 60032, 60032
    assert dbias(dy).tolist() == [0.0, 32.0, 6400.0]


# ---- prelu


@each_dtype
@pytest.mark.parametrize(
    ("shape", "weight"),
    [((70, 5), ()), ((70, 5), (1,)), ((70, 5), (5,)), ((70, 5), (70, 1)), ((4, 3, 6, 5), (3, 1, 1)), ((70, 5), (70, 5)),
     ((4, 3, 6, 5), (6, 5)), ((4, 3, 6, 5), (3, 1, 5)), ((4, 3, 6, 5), (4, 1, 6, 1)), ((4, 3, 6, 5), (4, 1, 1, 1)),
     ((4, 3, 6, 5), (1, 1, 1)), ((130,), (130,)), ((1, 5), (5,)), ((5, 1), (5, 1)), ((), ())],
)  # fmt: skip
def test_prelu_weight(shape, weight, dtype):
    rng = np.random.default_rng(4)
    dy, x = (rng.standard_normal((2, *shape)) * 2).astype(dtype)
    w = rng.standard_normal(weight).astype(dtype)
    dx, dweight = called("prelu", "backward", [dy, x], weight=w)
    wide_dy, wide_x, wide_w = (np.asarray(a).astype(COMPUTE[dtype]) for a in (dy, x, w))
    assert same(dx, narrowed(np.where(wide_x > 0, wide_dy, wide_dy * wide_w), dtype))
    assert np.shape(dweight) == weight and dweight.dtype == dtype
    terms = wide_dy * np.where(wide_x > 0, 0, wide_x)
    lead = len(shape) - len(weight)
    kept = [lead + i for i, n in enumerate(weight) if n != 1]
    rest = [i for i in range(len(shape)) if i not in kept]
    terms = terms.transpose(*rest, *kept).reshape(-1, dweight.size)
    assert_sums(terms, dweight, dtype, bound=SUM_ULP if dtype.itemsize > 2 else 0.51)
    # weight by position, and the axis that a vector lies along
    assert_same(called("prelu", "backward", [dy, x, w]), (dx, dweight))
    if len(weight) > 1 and len(kept) == 1:
        by_axis = called("prelu", "backward", [dy, x, w.ravel()], axis=kept[0])
        assert_same(by_axis, (dx, dweight.ravel()))


@each_float
@pytest.mark.parametrize("columns", [1, 3, 64, 1030])
def test_prelu_weight_of_every_fused_function(columns, dtype):
    """Its gradient by the weight, one for each column or one for all."""
    shape = (70, columns)
    for w in (np.linspace(-1, 1, columns).astype(dtype), dtype.type(0.25)):
        check = {"weight": w}
        for method in ("biased_backward", "gated_backward"):
            arrays = inputs(method, shape, dtype)
            got = called("prelu", method, arrays, **check)
            want = composed("prelu", method, arrays, **check)
            assert same(got[0], want[0])
            terms = want[-1].reshape(-1, np.size(w))
            assert np.shape(got[-1]) == np.shape(w) and got[-1].dtype == dtype
            assert_sums(terms, got[-1], dtype, what=method)


# ---- parameters


@pytest.mark.parametrize("method", METHODS)
@each_dtype
def test_numbers_do_not_change_the_dtype(method, dtype):
    arrays = inputs(method, (6, 5), dtype)
    want = called("elu", method, arrays, alpha=0.5)
    assert all(w.dtype == dtype for w in want)
    for alpha in (np.float64(0.5), np.float32(0.5), np.array(0.5), np.float16(0.5)):
        assert_same(called("elu", method, arrays, alpha=alpha), want)
    one = called("elu", method, arrays, alpha=1)
    assert_same(one, called("elu", method, arrays))
    assert_same(one, called("elu", method, arrays, alpha=np.int8(1)))


@each_method
@each_dtype
@pytest.mark.parametrize(("shape", "axis"), [((6, 5), -1), ((6, 5), 0), ((3, 4, 50), 1)])
def test_parameters_that_are_arrays(method, dtype, shape, axis):
    """One value for each channel, and one for each element."""
    arrays = inputs(method, shape, dtype, axis)
    by_axis = {"axis": axis} if method.startswith("biased") else {}
    bias_axis = {"axis": axis} if by_axis else {}
    channels = np.linspace(0.5, 2, shape[axis]).astype(dtype)
    channels = channels.reshape(-1, *[1] * (len(shape) - 1 - axis % len(shape)))
    full = np.linspace(0.5, 2, math.prod(shape)).reshape(shape).astype(dtype)
    for alpha in (channels, full, full[..., :1], full[:1], full[..., :1, :1], np.full((1,), 0.5, dtype)):
        got = called("elu", method, arrays, alpha=alpha, **by_axis)
        want = composed("elu", method, arrays, alpha=alpha.astype(COMPUTE[dtype]), **bias_axis)
        for i, (g, w) in enumerate(zip(got, want, strict=True)):
            if np.shape(g) == shape:
                assert same(g, narrowed(w, dtype)), i
            else:
                terms = flattened(w, axis)
                assert_sums(terms, g, dtype, bound=SUM_ULP if dtype.itemsize > 2 else 0.51)


def test_parameters_by_position():
    x = np.linspace(-2, 2, 12, dtype=F32).reshape(4, 3)
    (want,) = called("threshold", "gated", [x, x], threshold=0.5, value=-1.0)
    assert_same(called("threshold", "gated", [x, x, 0.5, -1.0]), (want,))
    assert_same(called("threshold", "gated", [x, x, 0.5], value=-1.0), (want,))


# ---- layouts


def layouts(a):
    """The same values otherwise laid out in memory."""

    def embedded(shape, where, dtype=a.dtype):
        whole = np.zeros(shape, dtype)
        whole[where] = a
        return whole[where]

    twice = tuple(2 * n for n in a.shape)
    yield "strided", embedded(twice, tuple(slice(None, None, 2) for _ in twice))
    yield "reversed", np.flip(np.flip(a).copy())
    yield "Fortran", np.asfortranarray(a)
    yield "transposed", np.ascontiguousarray(a.T).T
    if a.ndim == 2:
        yield "columns of a wider one", embedded((a.shape[0], a.shape[1] + 3), (slice(None), slice(1, -2)))
    frozen = a.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    raw[...] = a
    yield "unaligned", raw
    if a.dtype != BFLOAT16:
        yield "of the other order of bytes", a.astype(a.dtype.newbyteorder())
    yield "of a subclass", a.view(type("Sub", (np.ndarray,), {}))


@pytest.mark.parametrize("method", [*METHODS, "backward"])
@each_dtype
def test_layouts(method, dtype):
    name = "prelu" if method == "backward" else "gelu"
    given = {"weight": np.linspace(-1, 1, 33).astype(dtype)} if name == "prelu" else {}
    arrays = inputs(method, (70, 33), dtype)
    want = called(name, method, arrays, **given)
    made = [list(layouts(a)) for a in arrays]
    for k in range(max(map(len, made))):
        several = [m[k % len(m)][1] for m in made]
        got = called(name, method, several, **given)
        assert_same(got, want)
        assert all(g.dtype.isnative and type(g) in (np.ndarray, type(want[0])) for g in got)
    for i, variants in enumerate(made):
        for what, a in variants:
            got = called(name, method, [*arrays[:i], a, *arrays[i + 1 :]], **given)
            assert all(map(same, got, want)), what


def whole_of(a, shape):
    return np.ascontiguousarray(np.broadcast_to(a, shape))


@each_dtype
def test_shapes_that_broadcast(dtype):
    dy, gate, up = (np.random.default_rng(0).standard_normal((3, 6, 5))).astype(dtype)
    for g, u in ((gate, up[0]), (gate[:, :1], up), (gate[0], up[:, :1]), (gate[0, 0], up)):
        shape = np.broadcast_shapes(g.shape, u.shape)
        whole = [whole_of(a, shape) for a in (g, u)]
        assert_same(called("gelu", "gated", [g, u]), called("gelu", "gated", whole))
        got = called("gelu", "gated_backward", [dy, g, u])
        assert_same(got, called("gelu", "gated_backward", [dy, *(whole_of(a, dy.shape) for a in (g, u))]))
    bias = up[0]
    assert_same(
        called("gelu", "biased_backward", [dy[0], gate, bias]),
        called("gelu", "biased_backward", [whole_of(dy[0], dy.shape), gate, bias]),
    )


@each_dtype
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0,), (0, 0), (3, 0, 4)])
def test_empty(shape, dtype):
    for axis in range(len(shape)):
        zeros, bias = np.zeros(shape, dtype), np.ones(shape[axis], dtype)
        assert_same(called("gelu", "biased", [zeros, bias], axis=axis), (zeros,))
        out = poisoned(shape, dtype), poisoned(bias.shape, dtype)
        want = zeros, np.zeros_like(bias)
        assert_same(called("gelu", "biased_backward", [zeros, zeros, bias], axis=axis), want)
        assert_same(called("gelu", "biased_backward", [zeros, zeros, bias], axis=axis, out=out), want)
        dweight = np.zeros(shape[axis], dtype)
        assert_same(called("prelu", "backward", [zeros, zeros, dweight + 1], axis=axis), (zeros, dweight))
    assert_same(called("gelu", "gated", [zeros, zeros]), (zeros,))
    assert_same(called("gelu", "gated_backward", [zeros] * 3), (zeros, zeros))
    assert_same(called("prelu", "backward", [zeros, zeros, 0.5]), (zeros, dtype.type(0)))


@each_dtype
def test_numbers_as_arrays(dtype):
    dy, gate, up = (dtype.type(v) for v in (0.5, 1.25, -2.0))
    one = [np.array([v]) for v in (dy, gate, up)]
    for method, count in (("gated", 2), ("gated_backward", 3)):
        want = [w[0] for w in called("gelu", method, one[3 - count :])]
        for make in (lambda v: v, np.array):
            got = called("gelu", method, [make(v) for v in (dy, gate, up)][3 - count :])
            assert_same(got, want)
            assert all(np.ndim(g) == 0 and isinstance(g, np.generic) for g in got)
    got = called("prelu", "backward", [dy, gate, dtype.type(0.5)])
    assert_same(got, (dy, dtype.type(0)))
    with pytest.raises(np.exceptions.AxisError):
        fa.gelu.biased(gate, up)


# ---- out


def shapes_of(want):
    return [(np.shape(w), w.dtype) for w in want]


def outs(want, tail):
    """Tuples of outputs of every form, and what they are."""
    made = [poisoned(*s) for s in shapes_of(want)]
    yield "contiguous", made
    if tail > 0:
        for i in range(len(want)):
            yield f"None at {i}", [None if i == j else poisoned(*s) for j, s in enumerate(shapes_of(want))]
    yield "strided", [poisoned((*s, 2), d)[..., 0] for s, d in shapes_of(want)]
    yield "reversed", [np.flip(poisoned(s, d)) for s, d in shapes_of(want)]
    yield "Fortran", [poisoned(s, d, "F") for s, d in shapes_of(want)]
    yield "wider", [poisoned(s, F64) for s, _ in shapes_of(want)]
    if want[0].dtype != BFLOAT16:
        yield "narrower", [poisoned(s, F16) for s, _ in shapes_of(want)]
    yield "complex", [poisoned(s, np.complex128) for s, _ in shapes_of(want)]
    yield "other order of bytes", [poisoned(s, F32.newbyteorder()) for s, _ in shapes_of(want)]
    yield "unaligned", [unaligned(*s) for s in shapes_of(want)]


def unaligned(shape, dtype):
    a = np.zeros(math.prod(shape) * dtype.itemsize + 1, np.uint8)[1:].view(dtype).reshape(shape)
    a[...] = np.nan
    return a


@pytest.mark.parametrize("method", [*METHODS, "backward"])
@each_dtype
def test_out(method, dtype):
    name = "prelu" if method == "backward" else "gelu"
    given = {"weight": np.linspace(-1, 1, 33).astype(dtype)} if name == "prelu" else {}
    arrays = inputs(method, (70, 33), dtype)
    want = called(name, method, arrays, **given)
    function = of(name, method)
    for i, (what, _) in enumerate(outs(want, len(want) - 1)):

        def run(i=i):
            given_out = list(outs(want, len(want) - 1))[i][1]
            got = results(function(*arrays, **given, out=tuple(given_out)))
            assert len(got) == len(given_out)
            assert all(a is None or a is b for a, b in zip(given_out, got))
            assert not any(np.any(np.imag(g)) for g in got)
            return [g.real for g in got]

        for got, w in zip(agreed(run), want, strict=True):
            if dtype.itemsize == 2 and np.shape(w) == (33,):
                # sums go to a wider array as they are
                got = got.astype(dtype)
            with np.errstate(over="ignore"):
                expected = w.astype(got.dtype).astype(got.dtype.newbyteorder("="))
            assert same(got.astype(expected.dtype), expected), what
    if method != "gated_backward":
        alone = poisoned(want[0].shape, dtype)
        got = results(function(*arrays, **given, out=alone))
        assert got[0] is alone
        assert_same(got, want)


@pytest.mark.parametrize(
    ("name", "method"), [*itertools.product(("relu", "gelu", "prelu"), METHODS), ("prelu", "backward")]
)
@each_dtype
@pytest.mark.parametrize("shape", [(70, 33), (3, 1030), (4, 5, 130)])
def test_in_place(name, method, dtype, shape):
    axis = 1 if method.startswith("biased") else None
    arrays = inputs(method, shape, dtype, axis=1)
    given = {} if axis is None else {"axis": axis}
    if name == "prelu":
        w = np.linspace(-1, 1, shape[1]).astype(dtype)
        given |= {"weight": w.reshape(-1, *[1] * (len(shape) - 2))}
    want = called(name, method, arrays, **given)
    large = [j for j, a in enumerate(arrays) if a.shape == shape]
    count = sum(w.shape == shape for w in want)
    # every output over every input, and over none
    for places in itertools.product([None, *large], repeat=count):
        over = [p for p in places if p is not None]
        if len(set(over)) < len(over):
            continue

        def run(places=places):
            mine = [a.copy() for a in arrays]
            out = [poisoned(w.shape, dtype) for w in want]
            for k, p in enumerate(places):
                out[k] = out[k] if p is None else mine[p]
            return results(of(name, method)(*mine, **given, out=tuple(out)))

        assert_same(agreed(run), want)


@pytest.mark.parametrize("method", [*METHODS, "backward"])
@pytest.mark.parametrize("shift", [1, 7, 33, 330])
@each_dtype
def test_out_that_overlaps_an_input(method, shift, dtype):
    """Each output a little before or after each input in memory: the result is as if it did not."""
    name = "prelu" if method == "backward" else "gelu"
    given = {"weight": 0.25} if name == "prelu" else {}
    shape = (70, 33)
    arrays = inputs(method, shape, dtype)
    want = called(name, method, arrays, **given)
    size = math.prod(shape)
    for i, k in itertools.product(range(len(arrays)), range(len(want))):
        if arrays[i].shape != want[k].shape or np.ndim(want[k]) != 2:
            continue
        for before in (False, True):

            def run(i=i, k=k, before=before):
                whole = np.zeros(size + shift, dtype)
                first, second = whole[:size].reshape(shape), whole[shift:].reshape(shape)
                mine, out = list(arrays), [poisoned(w.shape, dtype) for w in want]
                mine[i], out[k] = (second, first) if before else (first, second)
                mine[i][...] = arrays[i]
                return results(of(name, method)(*mine, **given, out=tuple(out)))

            assert_same(agreed(run), want)


def test_sums_over_inputs():
    """dbias in the memory of the bias, of dy or of x; dx in that of the bias."""
    for shape in ((70, 33), (1, 700)):
        arrays = inputs("biased_backward", shape, F32)
        want = called("gelu", "biased_backward", arrays)
        for i in range(3):

            def run(i=i, arrays=arrays):
                mine = [a.copy() for a in arrays]
                return fa.gelu.biased_backward(*mine, out=(None, mine[i].reshape(-1)[: arrays[2].size]))

            assert_same(agreed(run), want)
    dy, x, bias = inputs("biased_backward", (700,), F32)
    want = called("gelu", "biased_backward", [dy, x, bias])

    def over_bias():
        mine = bias.copy()
        return fa.gelu.biased_backward(dy, x, mine, out=mine)

    assert_same(agreed(over_bias), want)


# ---- lengths and places


LENGTHS = [*range(68), *(k + i for k in (256, 512, 1024, 2048) for i in (-1, 0, 1))]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["relu", "gelu", "prelu"])
@each_dtype
def test_lengths(name, method, dtype):
    given = {"weight": 0.25} if name == "prelu" else {}
    arrays = inputs(method, (LENGTHS[-1],), dtype)
    want = composed(name, method, arrays, **given)
    roles = [a.role for a in outputs_of(fa.activations[name].op, method)]
    for n in LENGTHS:
        got = called(name, method, [a[:n] for a in arrays], **given)
        for role, g, w in zip(roles, got, want):
            if np.shape(g) == (n,):
                # a sum of one row is the row, and never -0
                assert same(g, narrowed(w[:n] + 0.0 if role == "sum_rows" else w[:n], dtype)), n
            else:
                assert_sums(w[:n].reshape(-1, 1), g, dtype, bound=SUM_ULP if dtype.itemsize > 2 else 0.51)


@pytest.mark.parametrize("method", METHODS)
@each_dtype
@pytest.mark.parametrize("shape", [(19,), (3, 5)])
def test_what_is_special_stays_in_its_place(method, dtype, shape):
    arrays = inputs(method, shape, dtype)
    want = called("gelu", method, arrays)
    roles = [a.role for a in ALL[method].outputs]
    subnormal = np.ldexp(1.0, {F16: -24, BFLOAT16: -133, F32: -149, F64: -1074}[dtype])
    for value in (np.nan, np.inf, -np.inf, -0.0, subnormal):
        for j, where in itertools.product(range(len(arrays)), range(math.prod(shape))):
            if arrays[j].shape != shape:
                continue
            changed = [a.copy() for a in arrays]
            changed[j].reshape(-1)[where] = value
            with fa.use_backend("cython" if fa.dispatch.reasons()["cython"] is None else fa.dispatch.backend()):
                got = results(of("gelu", method)(*changed))
            expected = composed("gelu", method, changed)
            others = np.arange(math.prod(shape)) != where
            for role, g, w, e in zip(roles, got, want, expected):
                if role == "sum_rows":
                    columns = np.arange(shape[-1]) != where % shape[-1]
                    assert same(g[columns], w[columns]), (value, where)
                else:
                    assert same(g.ravel()[others], w.ravel()[others]), (value, where)
                    assert same(g, narrowed(e, dtype)), (value, where)


# ---- threads, stores past the cache


def forget():
    """The driver asks for its kernels and limits again."""
    for function in fa.dispatch._functions:
        function.reset()


@pytest.fixture
def low(monkeypatch):
    """Threads from the first element on, in short tasks."""
    for cost in fa.dispatch.PARALLEL_MIN_BYTES:
        monkeypatch.setitem(fa.dispatch.PARALLEL_MIN_BYTES, cost, 1)
    monkeypatch.setattr(fa.dispatch, "CHUNK_BYTES", 8192)
    forget()
    _driver.configure(asleep_factor=1)
    yield
    _driver.configure(asleep_factor=fa.dispatch.ASLEEP_FACTOR)
    monkeypatch.undo()
    forget()


SHAPES = [((1000, 33), -1), ((3, 5000), -1), ((300, 1030), -1), ((2, 5, 4097), 1), ((70, 3, 49), 1), ((6, 5000), 0),
          ((2, 1, 140_000), 1), ((100_003,), 0), ((5000, 1), -1)]  # fmt: skip


@pytest.mark.parametrize("name", ["gelu", "prelu"])
@pytest.mark.parametrize("dtype", [F32, F64, F16], ids=lambda d: d.name)
def test_threads_give_the_same_bits(name, dtype, threads, low):
    for (shape, axis), method in itertools.product(SHAPES, METHODS):
        given = {"axis": axis} if method.startswith("biased") else {}
        if name == "prelu":
            given["weight"] = np.linspace(-1, 1, shape[axis]).astype(dtype)
            given["weight"] = given["weight"].reshape(-1, *[1] * (len(shape) - 1 - axis % len(shape)))
        arrays = inputs(method, shape, dtype, axis)
        threads(1)
        want = called(name, method, arrays, **given)
        for count in (2, 3, 7):
            threads(count)
            for backend in BACKENDS[1:]:
                if fa.dispatch.reasons()[backend] is None:
                    with fa.use_backend(backend):
                        assert_same(results(of(name, method)(*arrays, **given)), want)
            if fa.dispatch.backend() != "reference":
                # no more of them than the pool has
                assert _driver.status()["workers"] >= 1


@pytest.mark.parametrize("name", ["relu", "gelu", "prelu"])
@pytest.mark.parametrize("method", METHODS)
@each_float
def test_stores_past_the_cache_give_the_same_bits(name, method, dtype, threads):
    shapes = [((7, 33), -1), ((130, 512), -1), ((3, 1030), -1), ((2, 3, 4097), 1), ((2, 3, 49), 1), ((5003,), 0)]
    for shape, axis in shapes:
        given = {"axis": axis} if method.startswith("biased") else {}
        if name == "prelu":
            given["weight"] = 0.25
        arrays = inputs(method, shape, dtype, axis)
        threads(1)
        want = called(name, method, arrays, **given)
        before = _driver.status()["stream_min"]
        try:
            _driver.configure(stream_min=0)
            assert_same(called(name, method, arrays, **given), want)
            for offset in (0, 1, 3, 4, 7):
                out = tuple(
                    misaligned(w.shape, dtype, (offset + 3 * k) % 8) if w.shape == shape else None
                    for k, w in enumerate(want)
                )
                for backend in BACKENDS[1:]:
                    if fa.dispatch.reasons()[backend] is None:
                        with fa.use_backend(backend):
                            got = results(of(name, method)(*arrays, **given, out=out))
                        assert_same(got, want)
                        for o in out:
                            if o is not None:
                                o[...] = np.nan
            mine = [a.copy() for a in arrays]
            in_place = (mine[0], *[None] * (len(want) - 1))
            assert_same(results(of(name, method)(*mine, **given, out=in_place)), want)
        finally:
            _driver.configure(stream_min=before)


# ---- dtypes


@pytest.mark.parametrize(
    ("dtypes", "common"),
    [
        ((F32, F64), F64),
        ((F16, F32), F32),
        ((F16, F64), F64),
        ((BFLOAT16, F32), F32),
        ((np.int32, F32), F64),
        ((np.int8, np.int64), F64),
        ((bool, F16), F64),
    ],
    ids=str,
)
def test_mixed_dtypes(dtypes, common):
    for method in METHODS:
        arrays = inputs(method, (6, 5), F32)
        for order in itertools.product(dtypes, repeat=len(arrays)):
            if len(set(map(np.dtype, order))) < 2:
                continue
            mixed = [a.astype(d) for a, d in zip(arrays, order)]
            got = called("gelu", method, mixed)
            assert all(g.dtype == common for g in got), (method, order)
            assert_same(got, called("gelu", method, [a.astype(common) for a in mixed]))


def test_pythons_numbers_have_no_dtype():
    """As in NumPy; its own scalars have one."""
    x = np.linspace(-2, 2, 15, dtype=F32).reshape(3, 5)
    full = np.full_like(x, 0.5)
    for dtype in (F32, F16, BFLOAT16, F64):
        a, half, one = x.astype(dtype), full.astype(dtype), np.ones_like(x, dtype)
        assert_same(called("gelu", "gated", [a, 0.5]), called("gelu", "gated", [a, half]))
        assert_same(called("gelu", "gated_backward", [0.5, a, a]), called("gelu", "gated_backward", [half, a, a]))
        assert_same(called("gelu", "gated_backward", [1, a, 0.5]), called("gelu", "gated_backward", [one, a, half]))
        assert_same(called("prelu", "backward", [1, a, 0.5]), called("prelu", "backward", [one, a, 0.5]))
    assert called("gelu", "gated", [x, np.float64(0.5)])[0].dtype == F64
    assert called("gelu", "gated", [x, True])[0].dtype == F64
    assert called("gelu", "gated", [1.0, 2])[0].dtype == F64
    assert called("gelu", "gated", [x.tolist(), 2])[0].dtype == F64
    assert called("prelu", "backward", [1.0, x, np.full(5, 0.5)])[0].dtype == F64


# ---- bad input


X = np.linspace(-2, 2, 21, dtype=F32).reshape(3, 7)
BIAS = np.linspace(-1, 1, 7, dtype=F32)
GOOD = {"biased": (X, BIAS), "biased_backward": (X, X, BIAS), "gated": (X, X), "gated_backward": (X, X, X),
        "backward": (X, X)}  # fmt: skip


@dataclass
class Bad:
    """A call that must be refused: what it says, and what may not be written."""

    error: type[Exception]
    match: str
    args: tuple
    keywords: dict
    out: Callable[[], Any] | None = None


def replaced(arrays, i, value):
    return (*arrays[:i], value, *arrays[i + 1 :])


def frozen(shape):
    a = poisoned(shape, F32)
    a.flags.writeable = False
    return a


def mistakes(name, method):
    arrays, label = GOOD[method], f"{name}.{method}"
    given = {"weight": 0.25} if name == "prelu" else {}
    shapes = [(3, 7)] * (2 if method == "gated_backward" else 1)
    shapes += [(7,)] if method == "biased_backward" else []
    shapes += [()] if name == "prelu" and method.endswith("backward") else []

    def make():
        return tuple(poisoned(s, F32) for s in shapes)

    def bad(error, match, *args, out=make, **keywords):
        return Bad(error, match, args, {**given, **keywords}, out)

    for i in range(len(arrays)):
        for code, word in (("F", "complex64"), ("O", "object"), ("U8", "str"), ("M8[s]", "datetime64")):
            yield bad(TypeError, word, *replaced(arrays, i, arrays[i].astype(code)))
        yield bad(TypeError, "object", *replaced(arrays, i, None))
        yield bad(ValueError, "inhomogeneous", *replaced(arrays, i, [[1.0], [2.0, 3.0]]))
    if method.startswith("biased"):
        last = len(arrays) - 1
        for wrong in (BIAS[:6], BIAS[:1], BIAS[0], BIAS[None], X, np.ones(8, F32)):
            match = rf"{label}: bias has shape .*, axis 1 of \(3, 7\) needs \(7,\)"
            yield bad(ValueError, match, *replaced(arrays, last, wrong))
        yield bad(ValueError, "axis 0 of", *arrays, axis=0)
        yield bad(ValueError, r"needs \(7,\)", *replaced(arrays, last, BIAS[:3]), axis=-1)
        for axis in (2, -3, 10**6):
            yield bad(np.exceptions.AxisError, "out of bounds", *arrays, axis=axis)
        for axis in (1.0, "rows", (1,), [1], True, X):
            yield bad(TypeError, f"{label}: axis must be an integer", *arrays, axis=axis)
    elif name != "prelu" or method == "gated":
        yield bad(TypeError, "unexpected keyword argument 'axis'", *arrays, axis=1)
    if method != "biased":
        yield bad(ValueError, rf"{label}: .* of \(2, 7\).* broadcast", *replaced(arrays, 0, X[:2]))
        yield bad(ValueError, rf"{label}: .* broadcast", *replaced(arrays, 1, X[:, :3]))
    for keyword in ("temperature", "where", "dtype", "keepdims", "casting"):
        yield bad(TypeError, f"unexpected keyword argument '{keyword}'", *arrays, **{keyword: None})
    yield bad(TypeError, f"{label} takes", out=make)
    yield bad(TypeError, f"{label} takes", *arrays[:-1])
    yield bad(TypeError, f"{label} takes", *arrays, *arrays, *arrays)
    yield from bad_outs(bad, arrays, label, shapes, make)
    if name == "prelu":
        yield Bad(TypeError, "weight must be given", arrays, {}, make)
        for wrong in ("much", X.astype(complex), None):
            yield bad(TypeError, "weight", *arrays, weight=wrong)
        yield bad(ValueError, "broadcast", *arrays, weight=np.ones((2, 3), F32))
        yield bad(ValueError, "weight", *arrays, weight=np.ones(6, F32))
    if name == "softplus":
        for wrong in (0.0, -1.0, np.nan, np.inf, np.where(X > 1, -1, 1)):
            yield bad(ValueError, "beta must be positive", *arrays, beta=wrong)
        yield bad(TypeError, "beta", *arrays, beta="much")
        yield bad(TypeError, "beta", *arrays, beta=None)
        yield bad(ValueError, "broadcast", *arrays, beta=np.ones((2, 3), F32))
        yield bad(ValueError, "broadcast", *arrays, beta=np.ones((2, 3, 7), F32))
    if name == "gelu":
        for wrong in ("erf", True, None, 1.0):
            yield bad(ValueError, "approximate", *arrays, approximate=wrong)


def bad_outs(bad, arrays, label, shapes, make):
    def with_one(i, wrong):
        return lambda: tuple(wrong() if i == j else a for j, a in enumerate(make()))

    for i, shape in enumerate(shapes):
        yield bad(ValueError, f"{label}: out.* is read-only", *arrays, out=with_one(i, lambda s=shape: frozen(s)))
        for wrong in ((*shape, 2), (*shape[:-1], 5)) if shape else ((1,),):
            match = rf"{label}: out.* has shape"
            yield bad(ValueError, match, *arrays, out=with_one(i, lambda s=wrong: poisoned(s, F32)))
        for dtype in (np.int64, bool, "M8[s]"):
            other = with_one(i, lambda s=shape, d=dtype: np.ones(s, d))
            yield bad(TypeError, "cannot write a result", *arrays, out=other)
        yield bad(TypeError, "must be an array, not list", *arrays, out=with_one(i, lambda: [0.0]))
    yield bad(ValueError, f"out must be {len(shapes)} arrays", *arrays, out=lambda: (*make(), None))
    if len(shapes) > 1:
        yield bad(ValueError, f"out must be {len(shapes)} arrays", *arrays, out=lambda: make()[:1])
        yield bad(ValueError, f"{label}: the arrays of out share memory", *arrays, out=lambda: sharing(shapes))
    if sum(s == (3, 7) for s in shapes) > 1:
        yield bad(TypeError, "must be a tuple", *arrays, out=lambda: make()[0])
    yield bad(TypeError, "must be", *arrays, out=lambda: "out")
    yield bad(TypeError, "must be", *arrays, out=lambda: list(make()))


def sharing(shapes):
    """Outputs that begin at one address."""
    whole = poisoned(max(map(math.prod, shapes)), F32)
    return tuple(whole[: math.prod(s)].reshape(s) for s in shapes)


@pytest.mark.parametrize(
    ("name", "method"),
    [*itertools.product(("relu", "softplus", "gelu", "prelu"), METHODS), ("prelu", "backward")],
)
def test_bad_input(name, method):
    for bad in mistakes(name, method):

        def run(bad=bad):
            keywords = dict(bad.keywords)
            if bad.out is not None:
                keywords["out"] = bad.out()
            given = keywords.get("out")
            buffers = [a for a in results(given) if isinstance(a, np.ndarray)]
            before = [a.tobytes() for a in buffers]
            with pytest.raises(bad.error, match=bad.match) as caught:
                of(name, method)(*bad.args, **keywords)
            assert [a.tobytes() for a in buffers] == before, f"{caught.value}, but written"
            return caught.value

        found = {}
        for backend in BACKENDS:
            if fa.dispatch.reasons()[backend] is None:
                with fa.use_backend(backend):
                    found[backend] = run()
        assert len({(type(e), str(e)) for e in found.values()}) == 1


# ---- threads of the caller, and forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.parametrize("backend_name", BACKENDS)
def test_forked_child(backend_name):
    if fa.dispatch.reasons()[backend_name] is not None:
        pytest.skip(fa.dispatch.reasons()[backend_name])
    code = """
import os, signal
import numpy as np, fastact as fa
fa.set_num_threads(2)
x = np.linspace(-5, 5, 300_000, dtype=np.float32).reshape(1000, 300)
def bits():
    return [a.tobytes() for a in (*fa.gelu.biased_backward(x, x, x[0]), *fa.silu.gated_backward(x, x, x))]
want = bits()
for generation in range(3):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if bits() == want else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert bits() == want
print("done")
"""
    assert python(code, FASTACT_BACKEND=backend_name).strip() == "done"


def test_callers_at_once(threads, low):
    threads(2)
    shapes = ((700, 300), (40, 33), (3, 5, 4097))
    arrays = [inputs("biased_backward", s, F32, 1) for s in shapes]
    want = [fa.gelu.biased_backward(*a, axis=1) for a in arrays]

    def work(seed):
        for i in range(20):
            k = (i + seed) % len(arrays)
            assert_same(fa.gelu.biased_backward(*arrays[k], axis=1), want[k])
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


# ---- what they say of themselves


@each_name
def test_names(name):
    activation = fa.activations[name]
    for method in METHODS:
        f = getattr(activation, method)
        assert f.__name__ == f"{name}.{method}" and repr(f) == f"<fastact.{name}.{method}>"
        assert f.__doc__.startswith(f"{name}.{method}(")
        assert fa.explain(f)
