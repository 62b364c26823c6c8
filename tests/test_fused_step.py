"""`fused` and `fused_backward`: residual + dropout(f(x + bias)) and its gradients, with any part of it absent."""

from __future__ import annotations

import itertools
import math
import pickle
from functools import partial

import numpy as np
import pytest
import random_oracle
from cases import BACKENDS, NAMES, agreed, batch, difference, each_dtype, parameters, same, unavailable
from oracle import TRUTH
from test_fused import layouts
from ulp import BFLOAT16, poisoned

import fastact as fa
from fastact.api.fused_step import BACKWARD, FORWARD
from fastact.runtime import _driver
from fastact.spec.kinds import ALL

F16, F32, F64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
COMPUTE = {F16: F32, BFLOAT16: F32, F32: F32, F64: F64}
SEED = 0xFEDCBA9876543210
SHAPES = [((7,), -1), ((64, 37), -1), ((64, 37), 0), ((5, 3, 40), 1), ((130, 1030), -1), ((2, 3, 2500), 1)]
COMPILED = ("elu", "prelu", "relu", "threshold", "clipped_linear")
PARTS = list(itertools.product((False, True), repeat=3))

each_part = pytest.mark.parametrize(("biased", "dropped", "added"), PARTS)
each_float = pytest.mark.parametrize("dtype", [F32, F64], ids=lambda d: d.name)


def assert_same(got, want):
    assert same(got, want), difference(got, want)


def arrays(shape, axis, dtype, seed=0):
    x, dy, residual = (batch(dtype, math.prod(shape), seed + i).reshape(shape) for i in range(3))
    return x, dy, residual, batch(dtype, shape[axis], seed + 3)


def composed(name, x, bias, residual, p, offset, axis, case):
    """By the plain function, NumPy and the oracle's numbers, in the computing dtype."""
    compute = COMPUTE[x.dtype]
    z = shifted(x, bias, axis)
    with np.errstate(all="ignore"):
        y = fa.activations[name](z, **case)
        if p:
            y = y * random_oracle.factors(x.shape, p, SEED, offset, compute)
        if residual is not None:
            y = y + residual.astype(compute)
        return y.astype(x.dtype)


def shifted(x, bias, axis):
    z = x.astype(COMPUTE[x.dtype])
    if bias is None:
        return z
    with np.errstate(all="ignore"):
        return z + bias.astype(z.dtype).reshape(-1, *[1] * (x.ndim - 1 - axis % x.ndim))


def gradient(name, dy, x, bias, p, offset, axis, case):
    """dx and dbias by `backward` or `biased_backward`, from a dy that went through the dropout."""
    f, compute = fa.activations[name], COMPUTE[x.dtype]
    dy = dy.astype(compute)
    with np.errstate(all="ignore"):
        if p:
            dy = dy * random_oracle.factors(x.shape, p, SEED, offset, compute)
        wide = x.astype(compute)
        if bias is None:
            found = f.backward(dy, wide, **case)
            found = (found[0], None, *found[1:]) if isinstance(found, tuple) else (found, None)
        else:
            found = f.biased_backward(dy, wide, bias.astype(compute), axis=axis, **case)
        return tuple(a if a is None else np.asarray(a).astype(x.dtype) for a in found)


def test_kinds_are_those_of_the_table():
    assert set(FORWARD.values()) | set(BACKWARD.values()) <= set(ALL)
    for (biased, dropped, added), kind in FORWARD.items():
        if kind != "forward":
            roles = {a.name for a in ALL[kind].inputs}
            assert roles == {"x", *["bias"] * biased, *["keep"] * dropped, *["residual"] * added}
    for (biased, dropped), kind in BACKWARD.items():
        roles = {a.name for a in ALL[kind].inputs}
        assert roles == {"dy", "x", *["bias"] * biased, *["keep"] * dropped}


@each_dtype
@each_part
def test_parts(biased, dropped, added, dtype):
    p, offset = 0.3 if dropped else 0.0, 11
    for name, (shape, axis) in itertools.product(("relu", "prelu"), SHAPES):
        case = {"weight": dtype.type(0.25)} if name == "prelu" else {}
        f = fa.activations[name]
        x, dy, residual, bias = arrays(shape, axis, dtype)
        bias, residual = bias if biased else None, residual if added else None
        given = {"dropout": p, "seed": SEED, "offset": offset, "axis": axis, **case}
        value = partial(f.fused, x, bias, residual=residual, **given)
        (y,) = agreed(lambda value=value: (value(),))
        assert_same(y, composed(name, x, bias, residual, p, offset, axis, case))
        out = poisoned(shape, dtype)
        assert f.fused(x, bias, residual=residual, out=out, **given) is out
        assert_same(out, y)
        if not added:
            found = agreed_tuple(partial(f.fused_backward, dy, x, bias, **given))
            want = gradient(name, dy, x, bias, p, offset, axis, case)
            assert len(found) == len(want) == (3 if name == "prelu" else 2)
            for g, w in zip(found, want):
                assert (g is None) == (w is None)
                if g is not None:
                    assert_same(g, w)


def agreed_tuple(function):
    """What `function` returns, a tuple with None in it; every backend must give the same."""
    agreed(lambda: tuple(np.zeros(0) if a is None else a for a in function()))
    return function()


@pytest.mark.parametrize("name", NAMES)
def test_every_activation(name):
    shape, axis = (21, 19), -1
    for dtype, case in itertools.product((F32, F16), TRUTH[name].cases[:1]):
        case = parameters(name, case)
        case = {k: (np.asarray(v, dtype) if np.ndim(v) else v) for k, v in case.items()}
        x, dy, residual, bias = arrays(shape, axis, dtype)
        f = fa.activations[name]
        offset = f.fused.offset_name
        given = {"dropout": 0.5, "seed": SEED, offset: 3, **case}
        want = composed(name, x, bias, residual, 0.5, 3, axis, case)
        slopes = gradient(name, dy, x, bias, 0.5, 3, axis, case)
        for backend in BACKENDS:
            # Numba takes 0.3 s to compile one, of which these are enough
            if unavailable(backend) is None and (backend != "numba" or name in COMPILED):
                with fa.use_backend(backend):
                    assert_same(f.fused(x, bias, residual=residual, **given), want)
                    for g, w in zip(f.fused_backward(dy, x, bias, **given), slopes, strict=True):
                        assert_same(g, w)


@pytest.mark.parametrize("name", ["gelu", "tanh", "softplus", "prelu"])
def test_gradients_are_central_differences(name):
    rng = np.random.default_rng(2)
    x, dy = rng.standard_normal((2, 9, 5))
    bias, step = rng.standard_normal(5), 2.0**-17
    x[np.abs(x + bias) < 0.01] += 0.1
    case = {"weight": 0.25} if name == "prelu" else {}
    f = fa.activations[name]
    given = {"dropout": 0.4, "seed": 7, "offset": 2, **case}

    def slope(by, e):
        args = [{"x": x, "bias": bias, by: {"x": x, "bias": bias}[by] + s * e} for s in (step, -step)]
        up, down = ((dy * f.fused(a["x"], a["bias"], **given)) for a in args)
        return (up - down) / (2 * step)

    dx, dbias, *rest = f.fused_backward(dy, x, bias, **given)
    assert np.abs(slope("x", 1.0) - dx).max() < 2e-9
    for j in range(5):
        assert abs(slope("bias", np.eye(5)[j]).sum() - dbias[j]) < 2e-9
    if rest:
        up, down = (
            (dy * f.fused(x, bias, **{**given, "weight": 0.25 + s})).sum() for s in (step, -step)
        )  # fmt: skip
        assert abs((up - down) / (2 * step) - rest[0]) < 2e-9
    # the residual's gradient is dy
    residual = rng.standard_normal((9, 5))
    up, down = ((dy * f.fused(x, bias, residual=residual + s, **given)) for s in (step, -step))
    assert np.abs((up - down) / (2 * step) - dy).max() < 1e-9


@each_float
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_threads(count, threads, dtype):
    for shape, axis in (((700, 515), -1), ((3, 40_000), 0), ((360_001,), 0)):
        x, dy, residual, bias = arrays(shape, axis, dtype)
        bias = bias if len(shape) > 1 else None
        given = {"dropout": 0.5, "seed": SEED, "axis": axis}
        threads(1)
        want = fa.relu.fused(x, bias, residual=residual, **given), *fa.relu.fused_backward(dy, x, bias, **given)
        assert_same(want[0], composed("relu", x, bias, residual, 0.5, 0, axis, {}))
        threads(count)
        for backend in BACKENDS[1:]:
            if unavailable(backend) is None:
                with fa.use_backend(backend):
                    got = fa.relu.fused(x, bias, residual=residual, **given), *fa.relu.fused_backward(
                        dy, x, bias, **given
                    )  # fmt: skip
                for g, w in zip(got, want):
                    assert w is None or same(g, w)


@each_float
def test_past_the_cache(dtype, backend):
    limit = _driver.status()["stream_min"]
    try:
        for shape, axis in SHAPES:
            x, dy, residual, bias = arrays(shape, axis, dtype)
            given = {"dropout": 0.5, "seed": SEED, "axis": axis}
            for b, r in itertools.product((None, bias), (None, residual)):
                _driver.configure(stream_min=limit)
                want = fa.relu.fused(x, b, residual=r, **given), *fa.relu.fused_backward(dy, x, b, **given)
                _driver.configure(stream_min=1)
                got = fa.relu.fused(x, b, residual=r, **given), *fa.relu.fused_backward(dy, x, b, **given)
                for g, w in zip(got, want):
                    assert w is None or same(g, w)
    finally:
        _driver.configure(stream_min=limit)


@pytest.mark.parametrize("n", [*range(68), 127, 128, 129, 511, 512, 513, 2047, 2048, 2049, 8193])
def test_lengths(n):
    for dtype in (F32, F64, F16):
        x, residual = batch(dtype, n + 3)[3:], batch(dtype, n, 1)
        bias = batch(dtype, n, 2)
        got = fa.relu.fused(x, bias, residual=residual, dropout=0.3, seed=SEED, offset=n)
        assert_same(got, composed("relu", x, bias, residual, 0.3, n, -1, {}))
        got = fa.relu.fused(np.stack([x, x, x], 1), dropout=0.3, seed=SEED)
        assert_same(got, composed("relu", np.stack([x, x, x], 1), None, None, 0.3, 0, -1, {}))


@each_dtype
def test_layouts(dtype):
    shape, axis = (70, 33), -1
    x, dy, residual, bias = arrays(shape, axis, dtype)
    given = {"dropout": 0.5, "seed": SEED}
    want = composed("relu", x, bias, residual, 0.5, 0, axis, {})
    back = gradient("relu", dy, x, bias, 0.5, 0, axis, {})
    made = [list(layouts(a)) for a in (x, residual, dy, bias)]
    for k in range(max(map(len, made))):
        a, r, d, b = (m[k % len(m)][1] for m in made)
        (got,) = agreed(lambda a=a, r=r, b=b: (fa.relu.fused(a, b, residual=r, **given),))
        assert_same(got, want)
        found = agreed(lambda a=a, d=d, b=b: fa.relu.fused_backward(d, a, b, **given))
        for g, w in zip(found, back):
            assert_same(g, w)
    for place in (x, residual):
        a, r = x.copy(), residual.copy()
        over = a if place is x else r
        assert fa.relu.fused(a, bias, residual=r, out=over, **given) is over
        assert_same(over, want)
    out = poisoned((33, 70), dtype).T, poisoned(66, dtype)[::2]
    found = fa.relu.fused_backward(dy, x, bias, out=out, **given)
    assert found[0] is out[0] and found[1] is out[1]
    for g, w in zip(found, back):
        assert_same(g, w)
    # partly over an input
    long = np.concatenate([x.ravel(), np.zeros(1, dtype)])
    fa.relu.fused(long[:-1].reshape(shape), bias, residual=residual, out=long[1:].reshape(shape), **given)
    assert_same(long[1:].reshape(shape), want)


def test_broadcasting():
    x, dy, residual, bias = arrays((6, 5), -1, F32)
    given = {"dropout": 0.5, "seed": SEED}
    for r in (residual[0], residual[:, :1], residual[0, 0], 1.0):
        want = composed("relu", x, bias, np.broadcast_to(np.float32(r), x.shape), 0.5, 0, -1, {})
        assert_same(fa.relu.fused(x, bias, residual=r, **given), want)
    got = fa.relu.fused_backward(dy[0], x, bias, **given)
    for g, w in zip(got, gradient("relu", np.broadcast_to(dy[0], x.shape), x, bias, 0.5, 0, -1, {})):
        assert_same(g, w)


@each_dtype
def test_weights_along_axes_apart(dtype):
    """Of prelu: elements are then laid out in another order than C order, and numbers still go by that."""
    x, dy = (batch(dtype, 240, i).reshape(4, 3, 4, 5) for i in range(2))
    weight = np.linspace(-1, 1, 16).reshape(4, 1, 4, 1).astype(dtype)
    found = agreed(
        lambda: tuple(a for a in fa.prelu.fused_backward(dy, x, weight=weight, dropout=0.5, seed=SEED) if a is not None)
    )
    want = gradient("prelu", dy, x, None, 0.5, 0, -1, {"weight": weight.astype(COMPUTE[dtype])})
    for g, w in zip(found, (want[0], want[2]), strict=True):
        assert_same(g, w)


def test_other_ways_to_give_arguments():
    x, dy, _, bias = arrays((6, 5), -1, F32)
    given = {"dropout": 0.5, "seed": SEED}
    want = fa.gelu.fused(x, bias, **given)
    assert_same(fa.gelu.fused(x=x, bias=bias, **given), want)
    assert_same(fa.gelu.fused(x, bias=bias, approximate="none", **given), want)
    assert_same(fa.gelu.fused(x, bias, approximate="tanh", **given), fa.gelu_tanh.fused(x, bias, **given))
    for g, w in zip(
        fa.gelu.fused_backward(dy, x, bias=bias, approximate="tanh", **given),
        fa.gelu_tanh.fused_backward(dy, x, bias, **given),
        strict=True,
    ):
        assert_same(g, w)
    w = np.linspace(0, 1, 5, dtype=F32)
    assert_same(fa.prelu.fused(x, bias, w, **given), fa.prelu.fused(x, bias, weight=w, **given))
    # names that are parameters, too
    got = fa.shrink.fused(x, bias, bias=0.5, **given)
    assert_same(got, composed("shrink", x, bias, None, 0.5, 0, -1, {"bias": 0.5}))
    got = fa.clipped_linear.fused(x, bias, offset=0.5, dropout_offset=3, **given)
    assert_same(got, composed("clipped_linear", x, bias, None, 0.5, 3, -1, {"offset": 0.5}))
    # without a dropout no seed is needed
    assert_same(fa.gelu.fused(x, bias, dropout=0), fa.gelu.biased(x, bias))
    assert_same(fa.gelu.fused(x), fa.gelu(x))
    dx, dbias = fa.gelu.fused_backward(dy, x)
    assert dbias is None
    assert_same(dx, fa.gelu.backward(dy, x))
    assert fa.relu.fused([[1, 2]], [3, 4]).dtype == F64
    for shape in ((0, 5), (5, 0)):
        empty = np.zeros(shape, F32)
        b = np.zeros(shape[1], F32)
        assert fa.gelu.fused(empty, b, residual=empty, **given).shape == shape
        dx, dbias = fa.gelu.fused_backward(empty, empty, b, **given)
        assert dx.shape == shape and (dbias == 0).all() and dbias.shape == b.shape


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"dropout": 1.0, "seed": 1}, ValueError, "dropout must be in"),
        ({"dropout": -0.5, "seed": 1}, ValueError, "dropout must be in"),
        ({"dropout": math.nan, "seed": 1}, ValueError, "dropout must be in"),
        ({"dropout": "x", "seed": 1}, TypeError, "dropout must be a number"),
        ({"dropout": 0.5}, TypeError, "seed must be given"),
        ({"dropout": 0.5, "seed": 0.5}, TypeError, "seed must be an integer"),
        ({"dropout": 0.5, "seed": -1}, ValueError, "seed must be in"),
        ({"dropout": 0.0, "seed": -1}, ValueError, "seed must be in"),
        ({"dropout": 0.5, "seed": 1, "offset": -1}, ValueError, "offset must be in"),
        ({"axis": 2}, np.exceptions.AxisError, "axis 2"),
        ({"axis": 0.5}, TypeError, "axis must be an integer"),
        ({"bias": np.ones(5, F32)}, ValueError, "bias has shape"),
        ({"bias": np.ones((3, 4), F32)}, ValueError, "bias has shape"),
        ({"bias": np.ones(4, complex)}, TypeError, "not supported"),
        ({"alpha": 1.0}, TypeError, "alpha"),
        ({"where": True}, TypeError, "where"),
    ],
)
def test_bad_arguments(given, error, match):
    x = np.ones((3, 4), F32)
    out = poisoned((3, 4), F32)
    for function, args in ((fa.gelu.fused, (x,)), (fa.gelu.fused_backward, (x, x))):
        with pytest.raises(error, match=match):
            function(*args, out=out if function is fa.gelu.fused else (out, None), **given)
        assert np.isnan(out).all()


def test_bad_arrays():
    x, b, given = np.ones((3, 4), F32), np.ones(4, F32), {"dropout": 0.5, "seed": 1}
    for residual, error, match in (
        (np.ones((3, 5), F32), ValueError, "residual of"),
        (np.ones((2, 3, 4), F32), ValueError, "residual of shape"),
        (np.ones((3, 4), complex), TypeError, "not supported"),
        (np.ma.masked_array(x, x > 0), TypeError, "masked"),
    ):
        for bias in (b, None):
            with pytest.raises(error, match=match):
                fa.gelu.fused(x, bias, residual=residual, **given)
    for bias in (b, None):
        with pytest.raises(ValueError, match="dy of shape"):
            fa.gelu.fused_backward(np.ones((2, 3, 4), F32), x, bias, **given)
        with pytest.raises(ValueError, match="dy of"):
            fa.gelu.fused_backward(np.ones((3, 3), F32), x, bias, **given)
        with pytest.raises(ValueError, match="out"):
            fa.gelu.fused(x, bias, out=np.zeros((4, 4), F32), **given)
        with pytest.raises(TypeError, match="cannot write"):
            fa.gelu.fused(x, bias, out=np.zeros((3, 4), int), **given)
        frozen = np.zeros((3, 4), F32)
        frozen.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            fa.gelu.fused(x, bias, out=frozen, **given)
    with pytest.raises(ValueError, match="there is no bias"):
        fa.gelu.fused_backward(x, x, out=(None, b), **given)
    with pytest.raises(ValueError, match="2 arrays"):
        fa.gelu.fused_backward(x, x, out=(None, None, None), **given)
    with pytest.raises(TypeError, match="x must be given"):
        fa.gelu.fused()
    with pytest.raises(TypeError, match="multiple values"):
        fa.gelu.fused(x, b, bias=b)
    with pytest.raises(TypeError, match="at most 2"):
        fa.gelu.fused(x, b, x)
    with pytest.raises(TypeError, match="weight must be given"):
        fa.prelu.fused(x, b, **given)


def test_what_is_told():
    x, b = np.ones((3, 4), F32), np.ones(4, F32)
    with fa.use_backend("reference"):
        assert fa.explain(fa.gelu.fused, x, b, dropout=0.5, seed=1).startswith("gelu fused, 12 elements of float32")
        assert fa.explain("gelu.fused_backward", x, x, b).startswith("gelu fused_backward, 12 elements of float32")
        assert fa.explain("gelu.fused", x).startswith("gelu fused, 12 elements of float32")
        assert fa.explain(fa.gelu.fused).startswith("gelu fused, 0 elements of float32")
    if unavailable("cython") is None:
        with fa.use_backend("cython"):
            text = fa.explain(fa.gelu.fused, x, b, residual=x, dropout=0.5, seed=1)
            assert "stages: keep, add, forward, mul, add" in text
    with fa.use_backend("reference"):
        assert fa.warmup("gelu", ("fused", "fused_backward")) == 12
    for f in (fa.gelu.fused, fa.gelu.fused_backward):
        assert pickle.loads(pickle.dumps(f)) is f
        assert repr(f) == f"<fastact.{f.__name__}>"
