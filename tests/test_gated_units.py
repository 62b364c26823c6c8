"""glu, swiglu, geglu, geglu_tanh, reglu: of two arrays, and of one that holds both halves."""

from __future__ import annotations

import inspect
import pickle

import numpy as np
import pytest
from cases import BACKENDS, agreed, batch, difference, each_dtype, same, unavailable
from oracle import TRUTH, exact, fast
from ulp import BFLOAT16, measure, misaligned, poisoned

import fastact as fa
from fastact.runtime import _driver
from fastact.spec.units import UNITS

F16, F32, F64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
COMPUTE = {F16: F32, BFLOAT16: F32, F32: F32, F64: F64}
# from the papers: activation, and where PyTorch or Liger have the gate
ORACLE = {
    "glu": ("sigmoid", "gate_last"),
    "swiglu": ("silu", "gate_first"),
    "geglu": ("gelu", "gate_first"),
    "geglu_tanh": ("gelu_tanh", "gate_first"),
    "reglu": ("relu", "gate_first"),
}
NAMES = list(ORACLE)
HALVES = ("gate_first", "gate_last")
WIDTHS = [*range(1, 36), 63, 64, 65, 100, 127, 128, 255, 256, 257, 511, 513, 1023, 1024, 1040]

each_name = pytest.mark.parametrize("name", NAMES)
each_halves = pytest.mark.parametrize("halves", HALVES)


def results(found):
    return found if isinstance(found, tuple) else (found,)


def called(function, *arrays, **given):
    found = agreed(lambda: results(function(*arrays, **given)))
    return found[0] if len(found) == 1 else found


def split(x, halves, axis=-1):
    """Gate and up as arrays of their own."""
    first, second = (np.ascontiguousarray(half) for half in np.split(x, 2, axis))
    return (first, second) if halves == "gate_first" else (second, first)


def joined(gate, up, halves, axis=-1):
    return np.concatenate([gate, up] if halves == "gate_first" else [up, gate], axis)


def assert_same(got, want):
    assert same(got, want), difference(got, want)


def test_every_row_has_an_oracle():
    assert sorted(UNITS) == sorted(ORACLE)
    for name, (activation, halves) in ORACLE.items():
        assert (UNITS[name].activation, UNITS[name].halves) == (activation, halves)
        assert getattr(fa, name).name == name
        assert UNITS[name].source in inspect.getdoc(getattr(fa, name))


@each_name
@pytest.mark.parametrize("dtype", [F32, F64], ids=lambda d: d.name)
def test_against_the_oracle(name, dtype):
    """dy and up are powers of two, so that the errors are those of f and f'."""
    activation = ORACLE[name][0]
    truth, x = TRUTH[activation], (np.random.default_rng(1).standard_normal((30, 6)) * 3).astype(dtype)
    rng = np.random.default_rng(2)
    dy, up = (np.exp2(rng.integers(-3, 4, x.shape)).astype(dtype) for _ in range(2))
    reference = fast if dtype == F32 else exact
    value, slope = (reference(getattr(truth, what), x, truth.cases[0]) for what in ("value", "derivative"))
    f = getattr(fa, name)
    packed = joined(x, up, ORACLE[name][1])
    dgate, dup = split(called(f.backward, dy, packed), ORACLE[name][1])
    for what, got, want, bound, near in (
        ("value", called(f, packed) / up, value, 2.1, None),
        ("dup", dup / dy, value, 2.1, None),
        ("dgate", dgate / (dy * up), slope, 4.1, truth.near_zero(x, **truth.cases[0])),
    ):
        measured = measure(got, want, x, near)
        assert measured.ulp <= bound, (what, str(measured))


@each_name
def test_gradients_are_central_differences(name):
    rng = np.random.default_rng(3)
    x, dy = rng.standard_normal((7, 12)), rng.standard_normal((7, 6))
    x[np.abs(x) < 0.01] = 0.1
    f, step = getattr(fa, name), 2.0**-17
    got = called(f.backward, dy, x)
    for i in range(12):
        e = np.zeros(12)
        e[i] = step
        want = (dy * (f(x + e) - f(x - e))).sum(1) / (2 * step)
        assert np.abs(got[:, i] - want).max() < 1e-8


@each_name
@each_halves
@each_dtype
def test_packed_has_the_bits_of_two_arrays(name, halves, dtype):
    f, g = getattr(fa, name), fa.activations[ORACLE[name][0]]
    x, dy = batch(dtype, 2 * 5 * 6 * 8).reshape(5, 2 * 6, 8), batch(dtype, 5 * 6 * 8, 1)
    for axis in (-1, 1, 0, -2):
        if axis == 0:
            x, dy = x.reshape(2 * 5, 6, 8), dy.reshape(5, 6, 8)
        gate, up = split(x, halves, axis)
        dy = dy.reshape(gate.shape)
        y = called(f, x, axis=axis, halves=halves)
        assert_same(y, g.gated(gate, up))
        assert_same(called(f, gate, up), y)
        dx = called(f.backward, dy, x, axis=axis, halves=halves)
        want = g.gated_backward(dy, gate, up)
        assert_same(dx, joined(*want, halves, axis))
        for got, w in zip(called(f.backward, dy, gate, up), want):
            assert_same(got, w)
    assert_same(f(x, axis=0), f(x, axis=0, halves=ORACLE[name][1]))


@each_dtype
@each_halves
def test_every_width(halves, dtype, backend):
    """Through the cache and past it, aligned and not, on two threads."""
    limit = _driver.status()["stream_min"]
    try:
        for stream in (limit, 1):
            _driver.configure(stream_min=stream)
            for i, width in enumerate(WIDTHS):
                for rows in (1, 2, 67) if width < 200 else (3,):
                    x = misaligned((rows, 2 * width), dtype, i % 8)
                    x[...] = batch(dtype, x.size).reshape(x.shape)
                    gate, up = split(x, halves)
                    dy = batch(dtype, gate.size, 2).reshape(gate.shape)
                    y, dx = misaligned(gate.shape, dtype, (3 * i) % 8), misaligned(x.shape, dtype, (5 * i) % 8)
                    assert fa.swiglu(x, halves=halves, out=y) is y
                    assert_same(y, fa.silu.gated(gate, up))
                    assert fa.swiglu.backward(dy, x, halves=halves, out=dx) is dx
                    assert_same(dx, joined(*fa.silu.gated_backward(dy, gate, up), halves))
                    # in the place of the input
                    assert fa.swiglu.backward(dy, x, halves=halves, out=x) is x
                    assert_same(x, dx)
    finally:
        _driver.configure(stream_min=limit)


@each_name
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_threads(name, count, threads):
    f, halves = getattr(fa, name), ORACLE[name][1]
    for shape in ((2, 400_000), (600, 1026), (40_000, 10)):
        x = batch(F32, shape[0] * shape[1]).reshape(shape)
        dy = batch(F32, x.size // 2, 1).reshape(shape[0], -1)
        threads(1)
        y, dx = f(x), f.backward(dy, x)
        threads(count)
        for backend in BACKENDS[1:]:
            if unavailable(backend) is None:
                with fa.use_backend(backend):
                    assert_same(f(x), y)
                    assert_same(f.backward(dy, x), dx)
        if name == "glu":
            assert_same(dx, joined(*fa.sigmoid.gated_backward(dy, *split(x, halves)), halves))


@each_dtype
def test_layouts(dtype):
    x = batch(dtype, 21 * 34).reshape(21, 34)
    dy = batch(dtype, 21 * 17, 1).reshape(21, 17)
    want, back = fa.geglu(x), fa.geglu.backward(dy, x)
    wide = np.zeros((42, 68), dtype)
    wide[::2, ::2] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(dtype).reshape(x.shape)
    raw[...] = x
    made = [wide[::2, ::2], np.asfortranarray(x), np.flip(np.flip(x).copy()), frozen, raw]
    if dtype != BFLOAT16:
        made.append(x.astype(dtype.newbyteorder()))
    for a in made:
        assert_same(called(fa.geglu, a), want)
        assert_same(called(fa.geglu.backward, np.asfortranarray(dy), a), back)
        out, dx = poisoned(want.shape, dtype, "F"), poisoned(x.shape, dtype, "F")
        assert fa.geglu(a, out=out) is out and fa.geglu.backward(dy, a, out=(dx,)) is dx
        assert_same(out, want)
        assert_same(dx, back)
    # results over a part of what they are made of
    a = x.copy()
    assert_same(fa.geglu(a, out=a[:, :17]), want)
    long = np.concatenate([x.ravel(), np.zeros(3, dtype)])
    fa.geglu.backward(dy, long[:-3].reshape(x.shape), out=long[3:].reshape(x.shape))
    assert_same(long[3:].reshape(x.shape), back)
    both = np.concatenate([dy.ravel(), np.zeros(x.size - 5, dtype)])
    fa.geglu.backward(both[: dy.size].reshape(dy.shape), x, out=both[-x.size :].reshape(x.shape))
    assert_same(both[-x.size :].reshape(x.shape), back)


def untouched(function, error, match, *arrays, shape=(3, 2), **given):
    out = given.pop("out", None)
    out = poisoned(shape, F32) if out is None else out
    before = out.copy()
    with pytest.raises(error, match=match):
        function(*arrays, out=out, **given)
    assert same(out, before)


@each_name
def test_bad_arguments(name):
    f, x, dy = getattr(fa, name), np.ones((3, 4), F32), np.ones((3, 2), F32)
    for function, arrays, shape in ((f, (), (3, 2)), (f.backward, (dy,), (3, 4))):
        for given, error, match in (
            ({"axis": 2}, np.exceptions.AxisError, "axis 2"),
            ({"axis": 0}, ValueError, "axis 0 .* is odd"),
            ({"axis": 1.0}, TypeError, "axis must be an integer"),
            ({"axis": True}, TypeError, "axis must be an integer"),
            ({"halves": "both"}, ValueError, "halves must be one of"),
            ({"halves": 1}, ValueError, "halves must be one of"),
            ({"beta": 1}, TypeError, "beta"),
        ):
            untouched(function, error, match, *arrays, x, shape=shape, **given)
        for bad in (x.astype(complex), x.astype(object), x.astype("U3")):
            untouched(function, TypeError, "not supported", *arrays, bad, shape=shape)
        untouched(function, TypeError, "masked", *arrays, np.ma.masked_array(x, x > 0), shape=shape)
        untouched(function, ValueError, "out has shape", *arrays, x, out=np.zeros((3, 5), F32))
        untouched(function, TypeError, "cannot write", *arrays, x, out=np.zeros(shape, np.int32))
        frozen = np.zeros(shape, F32)
        frozen.flags.writeable = False
        untouched(function, ValueError, "read-only", *arrays, x, out=frozen)
        with pytest.raises(TypeError, match="out must be an array"):
            function(*arrays, x, out=3)
        with pytest.raises(ValueError, match="one array, not 2"):
            function(*arrays, x, out=(frozen, frozen))
        with pytest.raises(np.exceptions.AxisError):
            function(*arrays, np.float32(1.0))
    untouched(f.backward, ValueError, "dy has shape", x, x, shape=(3, 4))
    untouched(f, TypeError, "halves is for one array", dy, dy, halves="gate_first")
    untouched(f, TypeError, "axis is for one array", dy, dy, axis=0)
    untouched(f, ValueError, f"{name}: gate .* broadcast", dy, np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"tuple|2 arrays"):
        f.backward(dy, dy, dy, out=(dy,))


def test_dtypes():
    assert fa.swiglu(np.arange(6)).dtype == F64
    assert fa.swiglu([[1, 2], [3, 4]]).shape == (2, 1)
    x = np.ones((2, 4), F32)
    assert fa.swiglu.backward(np.ones((2, 2)), x).dtype == F64
    assert fa.swiglu.backward(np.ones((2, 2), F16), x).dtype == F32
    assert fa.swiglu.backward(np.ones((2, 2), int), x).dtype == F64
    assert fa.swiglu(x, out=np.zeros((2, 2))).dtype == F64
    for shape in ((0, 4), (3, 0), (0,), (2, 0, 6)):
        empty = np.zeros(shape, F32)
        half = called(fa.swiglu, empty)
        assert half.shape == (*shape[:-1], shape[-1] // 2)
        assert called(fa.swiglu.backward, half, empty).shape == shape


@each_name
def test_what_is_told(name):
    f = getattr(fa, name)
    x = np.ones((3, 8), F32)
    assert fa.explain(f, x).startswith(f"{name} forward, 12 elements of float32")
    assert fa.explain(f, x, x).startswith(f"{name} forward, 24 elements of float32")
    assert fa.explain(f"{name}.backward", x[:, :4], x).startswith(f"{name} backward, 12 elements of float32")
    assert fa.warmup(name, ("forward", "backward")) == 2
    for method in (f, f.backward):
        assert pickle.loads(pickle.dumps(method)) is method
        assert repr(method) == f"<fastact.{method.__name__}>"
    with pytest.raises(ValueError, match=f"fastact.{name}"):
        fa.get(name)
