"""layer_norm and rms_norm: accuracy, gradients, bits, axes, layouts, dtypes, special values, errors."""

import itertools
import pickle

import norms_oracle as truth
import numpy as np
import pytest
from cases import BACKENDS, same, unavailable
from ulp import BFLOAT16, misaligned, poisoned

import fastact as fa
from fastact.runtime import _driver
from fastact.tools import bench

FLOATS = (np.float32, np.float64)
COMPILED = [name for name in BACKENDS if name != "reference"]
LENGTHS = (*range(1, 68), 1000, 1025)
# in units of the dtype's epsilon times the size of what is added: see `unit`
BOUND = 2.5

each_float = pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.__name__)
each_norm = pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])


@pytest.fixture
def streaming():
    before = _driver.status()["stream_min"]
    yield lambda bytes_: _driver.configure(stream_min=bytes_)
    _driver.configure(stream_min=before)


def samples(dtype, shape, seed=0, mean=0.0, spread=1.0):
    rng = np.random.default_rng((seed, *shape))
    x = (rng.standard_normal(shape) * spread + mean).astype(dtype)
    dy = rng.standard_normal(shape).astype(dtype)
    weight, bias = (rng.standard_normal(shape[-1:]) + 1).astype(dtype), rng.standard_normal(shape[-1:]).astype(dtype)
    return x, dy, weight, bias


def columns(name, weight, bias):
    return (weight, bias) if name == "layer_norm" else (weight,)


def step(name, x, dy, weight, bias, outs=(None, None), **keywords):
    """y, statistics, and the gradients that there are."""
    f, given = getattr(fa, name), columns(name, weight, bias)
    offset = {k: v for k, v in keywords.items() if k in ("axis", "offset")}
    y, stats = f.forward(x, *given, out=outs[0], **keywords)
    gradients = f.backward(dy, x, stats, *given, out=outs[1], **offset)
    return [y, stats, *(g for g in gradients if g is not None)]


def agree(compute, threads=(1, 2, 3, 7), backends=COMPILED):
    """What the reference computes, after every backend and number of threads gave the same bits."""
    with fa.use_backend("reference"):
        expected = compute()
    before = fa.get_num_threads()
    try:
        for name, count in itertools.product(backends, threads):
            if unavailable(name) is not None:
                continue
            fa.set_num_threads(count)
            with fa.use_backend(name):
                for i, (got, want) in enumerate(zip(compute(), expected, strict=True)):
                    assert same(np.asarray(got), np.asarray(want)), (name, count, i)
    finally:
        fa.set_num_threads(before)
    return expected


def worst(got, want, size, dtype):
    """The greatest error in units of epsilon·size."""
    unit = np.finfo(dtype).eps * size
    off = abs(truth.exact(np.asarray(got)) - want) / (unit + np.finfo(dtype).tiny)
    return float(np.max(off)) if off.size else 0.0


# accuracy


@each_float
@each_norm
def test_accuracy(name, dtype, backend):
    """y within BOUND epsilon·(abs(weight)·(1 + abs(h)) + abs(bias)), h the normalised x; gradients within BOUND epsilon
    times the sizes of their terms."""
    f, centre = getattr(fa, name), name == "layer_norm"
    most = {"y": 0.0, "dx": 0.0, "dweight": 0.0, "dbias": 0.0}
    levels = ((0, 1), (1e4, 1), (-3, 1e-3), (0, 1e6), (0.1, 1e-6))
    lengths = (1, 2, 3, 16, 67, 1000) if dtype == np.float32 else (1, 5, 33, 300)
    for n, (mean, spread), eps in itertools.product(lengths, levels, (1e-5, 1e-12)):
        rows = 9 if dtype == np.float32 else 2
        x, dy, weight, bias = samples(dtype, (rows, n), 1, mean, spread)
        eps = float(dtype(eps))
        y, _, dx, *sums = step(name, x, dy, weight, bias, eps=eps)
        h, _ = truth.normalised(x, eps, centre)
        size = abs(truth.exact(weight)) * (1 + abs(h)) + centre * abs(truth.exact(bias))
        most["y"] = max(
            most["y"], worst(y, truth.forward(x, *(weight, bias if centre else None), eps, centre), size, dtype)
        )
        wants, sizes = truth.backward(dy, x, weight, eps, centre)
        for what, got, want, size in zip(("dx", "dweight", "dbias"), (dx, *sums), wants, sizes):
            most[what] = max(most[what], worst(got, want, size, dtype))
        assert same(f(x, *columns(name, weight, bias), eps=eps), y)
    print(f"{name} {dtype.__name__} {backend}: " + ", ".join(f"{k} {v:.2f}" for k, v in most.items()), f"of {BOUND}")
    assert max(most.values()) <= BOUND


def test_a_mean_of_ten_thousand_and_a_variance_of_one(backend):
    for n in (10, 1000, 1024, 4096):
        x, _, weight, bias = samples(np.float32, (50, n), 2, 1e4)
        for given in ((), (weight, bias)):
            y = fa.layer_norm(x, *given)
            want = truth.forward(x, *(given or (None, None)), 1e-5, True)
            assert np.abs(y - want).max() <= 1e-5 * np.abs(want).max()
            if not given:
                # also next to 0, where the mean must be right to more digits than it has
                assert (np.abs(y - want) <= 1e-5 * np.maximum(np.abs(want), 0.1)).all()


def test_an_outlier_at_the_beginning(backend):
    x = np.full((2, 65536), 1.3, np.float32)
    x[0, 0], x[1, -1] = 1e8, 1e8
    want = truth.forward(x, None, None, 1e-5, True)
    assert (np.abs(fa.layer_norm(x) - want) <= 1e-6 * np.abs(want)).all()


@each_float
def test_rows_of_one_value_are_the_bias(dtype, backend):
    for n in (1, 3, 16, 100, 1000, 70_000):
        for value in (0.1, 1e4 + 0.1, -3e30, 1e-40, 0.0):
            x = np.full((3, n), value, dtype)
            bias = np.arange(n).astype(dtype)
            assert same(fa.layer_norm(x, None, bias), np.broadcast_to(bias, x.shape).copy())


@each_norm
def test_gradients_against_differences(name):
    f, rng, h = getattr(fa, name), np.random.default_rng(3), 1e-6
    x, dy, weight, bias = samples(np.float64, (6, 9), 3)
    given = columns(name, weight, bias)
    _, stats = f.forward(x, *given)
    gradients = f.backward(dy, x, stats, *given)
    for i, (a, gradient) in enumerate(zip((x, *given), gradients)):
        v = rng.standard_normal(a.shape)
        ends = []
        for sign in (1, -1):
            moved = [x, *given]
            moved[i] = a + sign * h * v
            ends.append((dy * f(*moved)).sum())
        assert np.isclose((gradient * v).sum(), (ends[0] - ends[1]) / (2 * h), rtol=1e-7, atol=1e-8)


# bits


@each_norm
def test_bits_of_every_length(name):
    for n in LENGTHS:
        x, dy, weight, bias = samples(np.float32, (3 + n % 9, n), 4)
        agree(lambda a=(x, dy, weight, bias): step(name, *a), (1,))


@each_float
@each_norm
def test_bits_of_any_number_of_threads(name, dtype):
    # blocks of 64 rows that are not whole, quads that are not whole, more blocks than are combined by one thread
    backends = COMPILED if dtype == np.float32 else ["cython"]
    for shape in ((64, 1024), (67, 1000), (129, 65), (1100, 130), (2000, 33), (5, 65537), (2, 131_073)):
        x, dy, weight, bias = samples(dtype, shape, 5, 3)
        agree(lambda a=(x, dy, weight, bias): step(name, *a), backends=backends)


@each_norm
def test_bits_with_special_values(name):
    x, dy, weight, bias = samples(np.float32, (70, 100), 6)
    x[3, 5], x[9, 0], x[20, 99], x[21] = np.nan, np.inf, -np.inf, 1e-42
    x[22, 50], x[23], x[24, :2] = 1e30, 3e38, (3e38, -3e38)
    dy[30, 7], dy[31, 9] = np.nan, np.inf
    y, _, dx, *_ = agree(lambda: step(name, x, dy, weight, bias), (1, 2))
    broken = [3, 9, 20, 22, 24, 23] if name == "rms_norm" else [3, 9, 20, 22, 24]
    assert np.isnan(y[broken]).all()
    assert np.isnan(dx[broken]).all()
    assert np.isfinite(np.delete(y, broken, 0)).all()
    assert not np.isfinite(dx[[30, 31]]).any()


@each_norm
def test_past_the_cache_and_in_place(name, streaming, backend):
    for shape in ((70, 1024), (67, 1000), (130, 48), (65, 17)):
        x, dy, weight, bias = samples(np.float32, shape, 7)
        streaming(1 << 40)
        expected = step(name, x, dy, weight, bias)
        for offset, limit in itertools.product((0, 1, 5), (1, 1 << 40)):
            streaming(limit)
            outs = misaligned(shape, x.dtype, offset), misaligned(shape, x.dtype, offset)
            for out in outs:
                out[...] = np.nan
            for got, want in zip(step(name, x, dy, weight, bias, outs), expected, strict=True):
                assert same(got, want)
            f, given = getattr(fa, name), columns(name, weight, bias)
            for inputs in ((x.copy(), dy), (x, dy.copy())):
                out = inputs[0] if inputs[0] is not x else inputs[1]
                got = f.backward(inputs[1], inputs[0], expected[1], *given, out=out)
                assert got[0] is out
                assert all(same(a, b) for a, b in zip(got, expected[2:]))
            copy = x.copy()
            y, stats = f.forward(copy, *given, out=copy)
            assert y is copy and same(y, expected[0]) and same(stats, expected[1])


def test_weight_and_bias_may_be_absent(backend):
    x, dy, weight, bias = samples(np.float32, (6, 20), 8)
    one, zero = np.ones_like(weight), np.zeros_like(bias)
    y, stats = fa.layer_norm.forward(x)
    assert np.array_equal(y, fa.layer_norm(x, one, zero))
    assert same(fa.layer_norm(x, weight), fa.layer_norm(x, weight, -zero))
    assert np.array_equal(fa.layer_norm(x, bias=bias), fa.layer_norm(x, one, bias))
    dx, dweight, dbias = fa.layer_norm.backward(dy, x, stats, one, zero)
    for given, present in (((), (0, 0)), ((one,), (1, 0)), ((None, zero), (0, 1))):
        got = fa.layer_norm.backward(dy, x, stats, *given)
        assert same(got[0], dx)
        assert same(got[1], dweight) if present[0] else got[1] is None
        assert same(got[2], dbias) if present[1] else got[2] is None
    y, stats = fa.rms_norm.forward(x)
    assert same(y, fa.rms_norm(x, one))
    assert fa.rms_norm.backward(dy, x, stats)[1:] == (None, None)
    assert fa.rms_norm.backward(dy, x, stats, weight)[2] is None


def test_offset_is_added_to_the_weight(backend):
    x, dy, weight, _ = samples(np.float32, (6, 20), 9)
    for offset in (1.0, 1, -0.5, np.float64(2)):
        moved = weight + np.float32(offset)
        expected = step("rms_norm", x, dy, moved, None)
        for got, want in zip(step("rms_norm", x, dy, weight, None, offset=offset), expected, strict=True):
            assert same(got, want)
    with pytest.raises(ValueError, match="rms_norm: offset 1 is added to weight"):
        fa.rms_norm(x, offset=1)
    with pytest.raises(TypeError, match="offset must be a number"):
        fa.rms_norm(x, weight, offset="1")
    with pytest.raises(ValueError, match="offset must be finite"):
        fa.rms_norm(x, weight, offset=np.inf)


def test_the_default_eps_of_rms_norm(backend):
    x = np.full((2, 8), 0.01, np.float64)
    for dtype, eps in ((np.float16, 2.0**-10), (BFLOAT16, 2.0**-7), (np.float32, 2.0**-23), (np.float64, 2.0**-52)):
        assert same(fa.rms_norm(x.astype(dtype)), fa.rms_norm(x.astype(dtype), eps=eps))


# axes, layouts, dtypes


@each_float
@each_norm
def test_axes_and_layouts(name, dtype, backend):
    x, dy, weight, bias = samples(dtype, (4, 5, 18), 10)
    expected = step(name, x, dy, weight, bias)
    for axis in (0, 1, -2, -3, 2):
        a, b = (np.moveaxis(v, -1, axis) for v in (x, dy))
        for change in (np.asarray, np.ascontiguousarray, np.asfortranarray):
            outs = [np.full(a.shape, np.nan, dtype) for _ in range(2)]
            got = step(name, change(a), change(b), weight, bias, outs, axis=axis)
            assert got[0] is outs[0] and got[2] is outs[1]
            got[0], got[2] = (np.moveaxis(v, axis, -1) for v in (got[0], got[2]))
            assert all(same(v, w) for v, w in zip(got, expected, strict=True))
    wide = poisoned((4, 5, 36), dtype)
    getattr(fa, name)(x, *columns(name, weight, bias), out=wide[..., ::2])
    assert same(wide[..., ::2], expected[0])
    assert np.isnan(wide[..., 1::2]).all()
    swapped = x.dtype.newbyteorder()
    for a in (np.repeat(x, 2, -1)[..., ::2], x[::-1].copy()[::-1], misaligned(x.shape, dtype, 1), x.astype(swapped)):
        a[...] = x
        got = step(name, a, dy, weight, bias)
        assert all(same(v, w) for v, w in zip(got, expected, strict=True))
        assert got[0].dtype == dtype and got[0].dtype.isnative
    # one row
    assert same(getattr(fa, name)(x[0, 0]), getattr(fa, name)(x)[0, 0])
    # out over a part of an input
    for shift in (1, 7, 18):
        memory = np.zeros(x.size + 40, dtype)
        place = memory[: x.size].reshape(x.shape)
        place[...] = x
        out = memory[shift : shift + x.size].reshape(x.shape)
        assert getattr(fa, name)(place, *columns(name, weight, bias), out=out) is out
        assert same(out, expected[0])
    # out over the weight
    memory = np.zeros(x.shape, dtype)
    memory[0, 0] = weight
    getattr(fa, name)(x, *columns(name, memory[0, 0], bias), out=memory)
    assert same(memory, expected[0])


@each_norm
def test_dtypes(name, backend):
    x, dy, weight, bias = samples(np.float32, (7, 33), 11)
    for dtype in (np.float16, BFLOAT16):
        narrow = [a.astype(dtype) for a in (x, dy, weight, bias)]
        got = step(name, *narrow, eps=1e-3)
        want = step(name, *(a.astype(np.float32) for a in narrow), eps=1e-3)
        for i, (a, b) in enumerate(zip(got, want, strict=True)):
            assert a.dtype == (np.float32 if i == 1 else dtype)
            assert same(a, b.astype(a.dtype))
        mixed = getattr(fa, name)(narrow[0], *columns(name, weight, bias), eps=1e-3)
        assert mixed.dtype == np.float32
        assert same(mixed, getattr(fa, name)(narrow[0].astype(np.float32), *columns(name, weight, bias), eps=1e-3))
    whole = np.arange(12).reshape(3, 4)
    assert same(getattr(fa, name)(whole), getattr(fa, name)(whole.astype(np.float64)))
    assert same(getattr(fa, name)(whole.tolist()), getattr(fa, name)(whole.astype(np.float64)))
    wide = step(name, x, dy, weight.astype(np.float64), bias)
    assert all(a.dtype == np.float64 for a in wide)
    # an out of another float dtype takes the rounded result
    half = np.zeros(x.shape, np.float16)
    getattr(fa, name)(x, out=half)
    assert same(half, getattr(fa, name)(x).astype(np.float16))


@each_norm
def test_nothing_to_do(name, backend):
    for shape in ((0, 5), (3, 0), (0, 0), (0,), (2, 0, 4)):
        x = np.zeros(shape, np.float32)
        weight = np.ones(shape[-1], np.float32)
        y, stats, dx, *sums = step(name, x, x, weight, weight)
        assert y.shape == dx.shape == shape
        assert np.isnan(stats).all()
        assert all(s.shape == weight.shape and (s == 0).all() for s in sums)


def test_no_warning(backend):
    x = np.array([[1e30, -1e30, 1], [np.inf, np.nan, 0], [1e-42, 0, 0]], np.float32)
    with np.errstate(all="raise"):
        for name in ("layer_norm", "rms_norm"):
            step(name, x, x, x[0], x[0])
            step(name, x.astype(np.float64), x, x[0], x[0], eps=1e-300)
            step(name, np.array([[60000, -60000]], np.float16), np.ones((1, 2)), np.float16([6e4, 6e4]), np.ones(2))


# errors


@each_norm
def test_bad_input_names_its_argument_and_writes_nothing(name):
    f = getattr(fa, name)
    x, dy, weight, bias = samples(np.float32, (4, 6), 12)
    given = columns(name, weight, bias)
    _, stats = f.forward(x, *given)
    out = poisoned(x.shape, np.float32)

    def refused(error, match, call, *args, **kwargs):
        with pytest.raises(error, match=match):
            call(*args, out=out, **kwargs)
        assert np.isnan(out).all()

    for eps in (0.0, -1e-5, np.inf, np.nan, 1e-60, -0.0):
        refused(ValueError, f"{name}: eps must be positive", f, x, *given, eps=eps)
    for eps in ("1", [1e-5], True, 1j):
        refused(TypeError, f"{name}: eps must be a number", f, x, *given, eps=eps)
    for axis in (2, -3):
        refused(np.exceptions.AxisError, "out of bounds", f, x, *given, axis=axis)
        refused(np.exceptions.AxisError, "out of bounds", f.backward, dy, x, stats, *given, axis=axis)
    refused(TypeError, f"{name}: axis must be an integer", f, x, *given, axis=1.5)
    refused(np.exceptions.AxisError, "out of bounds", f, np.float32(1))
    for i, what in enumerate(("weight", "bias")[: len(given)]):
        for bad in (weight[:-1], weight[:, None], np.ones((4, 6), np.float32), np.float32(1)):
            args = [*given]
            args[i] = bad
            refused(ValueError, f"{name}: {what} has shape", f, x, *args)
            refused(ValueError, f"{name}.backward: {what} has shape", f.backward, dy, x, stats, *args)
        for kind in (np.int32, bool, complex, str, object):
            args = [*given]
            args[i] = np.ones(6).astype(kind)
            refused(TypeError, what, f, x, *args)
            refused(TypeError, what, f.backward, dy, x, stats, *args)
    for kind in (complex, str, object):
        refused(TypeError, f"{name}: x", f, x.astype(kind), *given)
        refused(TypeError, f"{name}.backward: dy", f.backward, dy.astype(kind), x, stats, *given)
    refused(TypeError, "dy must be of floats, not int64", f.backward, np.ones((4, 6), np.int64), x, stats, *given)
    refused(ValueError, "dy has shape", f.backward, dy[:, :-1], x, stats, *given)
    for bad in (stats[..., :-1], stats[None], np.float32(1), stats.T.copy() if stats.ndim > 1 else stats[:, None]):
        refused(ValueError, f"{name}.backward: stats have shape", f.backward, dy, x, bad, *given)
    refused(TypeError, "stats must be of floats", f.backward, dy, x, stats.astype(int), *given)
    masked = np.ma.masked_array(x, np.zeros(x.shape, bool))
    refused(TypeError, f"{name}: masked arrays", f, masked, *given)
    refused(TypeError, "masked arrays", f, x, np.ma.masked_array(weight), *given[1:])
    refused(TypeError, "masked arrays", f.backward, np.ma.masked_array(dy), x, stats, *given)
    fixed = x.copy()
    fixed.flags.writeable = False
    for call in (f, f.forward):
        for bad, error, match in (
            (fixed, ValueError, "out is read-only"),
            (np.zeros((4, 5), np.float32), ValueError, "out has shape"),
            (np.zeros((4, 6), int), TypeError, "cannot write"),
            ([0.0], TypeError, "out must be an array"),
        ):
            with pytest.raises(error, match=f"{name}: {match}"):
                call(x, *given, out=bad)
            with pytest.raises(error, match=match):
                f.backward(dy, x, stats, *given, out=bad)
    assert same(fixed, x)


# the rest of the interface


@each_norm
def test_explain_warmup_pickle(name):
    f = getattr(fa, name)
    x = np.zeros((3, 4), np.float32)
    assert fa.explain(f, x).startswith(f"{name} forward, 12 elements of float32 in 3 rows")
    assert fa.explain(f.forward, x) == fa.explain(f"{name}.forward", x) == fa.explain(f, x)
    assert fa.explain(f.backward, x, x, None).startswith(f"{name} backward, 12 elements of float32 in 3 rows")
    assert fa.explain(f"{name}.backward", x, x, None) == fa.explain(f.backward, x, x, None)
    with fa.use_backend("reference"):
        assert fa.warmup(name) == 3  # the gradient has a second kernel, for an activation
        assert fa.warmup(name, "backward", ["float32", "float64"]) == 4
    assert pickle.loads(pickle.dumps(f)) is f
    assert repr(f) == f"<fastact.{name}>"
    assert fa.explain(name) == fa.explain(f)


def test_benchmark_cells():
    result = bench.measure(["layer_norm", "rms_norm"], ["forward", "step"], ["numpy", "torch"], [4096], rounds=1)
    found = {(row["op"], row["kind"]): row for row in result["cells"]}
    assert set(found) == set(itertools.product(("layer_norm", "rms_norm"), ("forward", "step")))
    for row in found.values():
        assert row["rejected"] == {}
        assert "numpy" in row["libraries"]
