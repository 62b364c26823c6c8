"""Softmax, log_softmax, softmin, sparsemax, logsumexp: accuracy, bits, axes, masks, layouts, dtypes, errors."""

import pickle
import textwrap
import threading

import numpy as np
import pytest
import rows_oracle as truth
import ulp
from cases import BACKENDS, agreed, same
from subprocesses import python
from ulp import BFLOAT16, errors, misaligned, poisoned

import fastact as fa
from fastact.tools.verify_rows import CASES

NAMES = ("softmax", "log_softmax", "softmin", "sparsemax")
EVERY = (*NAMES, "logsumexp")
FLOATS = (np.float32, np.float64)
# largest errors in ULP against the oracle, whatever the length of the row
BOUNDS = {name: CASES[name].limits[0] for name in ("softmax", "softmin", "log_softmax")}
LENGTHS = (1, 2, 3, 7, 8, 9, 10, 15, 16, 17, 31, 33, 63, 64, 65, 100, 129, 1000, 1025)

each_name = pytest.mark.parametrize("name", NAMES)
each_function = pytest.mark.parametrize("name", EVERY)
each_float = pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.__name__)


def function(name):
    return getattr(fa, name)


def samples(dtype, n, count, seed=0):
    """Rows of several spreads and levels: shares of all sizes, ties, levels where float32 has no fraction."""
    rng = np.random.default_rng(seed)
    for spread, level in ((1, 0), (5, 0), (30, 0), (100, 50), (5, 1e4), (1e-3, -300), (2, -2047), (0, 1.234)):
        yield (rng.standard_normal((count, n)) * spread + level).astype(dtype)


# accuracy


@each_float
@pytest.mark.parametrize("name", BOUNDS)
def test_accuracy(name, dtype):
    worst = 0.0
    for n in LENGTHS:
        for x in samples(dtype, n, max(2, (30_000 if dtype == np.float32 else 600) // n), n):
            (y,) = agreed(lambda x=x: (function(name)(x),))
            want = truth.log_softmax(x) if name == "log_softmax" else truth.softmax(-x if name == "softmin" else x)
            error, below, _ = errors(y, want)
            assert below.max() <= 1.0
            worst = max(worst, error.max())
    print(f"{name} {dtype.__name__}: {worst:.3f} ULP, bound {BOUNDS[name]}")
    assert worst <= BOUNDS[name]


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("n", [65_536, 65_537, 1_000_000])
def test_accuracy_of_long_rows(name, n):
    for x in samples(np.float32, n, 1):
        want = truth.log_softmax(x) if name == "log_softmax" else truth.softmax(-x if name == "softmin" else x)
        assert errors(function(name)(x), want)[0].max() <= BOUNDS[name]


@each_float
def test_logsumexp_accuracy(dtype):
    # the sum of maximum and logarithm may cancel: the error is in ULP of the larger of the two
    worst = 0.0
    for n in LENGTHS:
        for x in samples(dtype, n, max(2, (30_000 if dtype == np.float32 else 600) // n), n):
            want = truth.logsumexp(x)
            hi, lo = want if isinstance(want, tuple) else (want, 0.0)
            m = x.max(-1).astype(np.float64)
            unit = ulp.ulp_of(np.maximum(np.maximum(np.abs(m), np.abs(hi - m)), np.abs(hi)), dtype)
            (y,) = agreed(lambda x=x: (fa.logsumexp(x),))
            worst = max(worst, (np.abs(y.astype(np.float64) - hi - lo) / unit).max())
    print(f"logsumexp {dtype.__name__}: {worst:.3f} ULP")
    assert worst <= CASES["logsumexp"].limits[0]


@each_float
def test_sparsemax_accuracy(dtype):
    eps = np.finfo(dtype).eps
    for n in LENGTHS:
        for x in samples(dtype, n, max(2, 300 // n), n):
            (y,) = agreed(lambda x=x: (fa.sparsemax(x),))
            assert np.abs(y - truth.sparsemax(x)).max() <= CASES["sparsemax"].limits[0] * eps
            assert np.abs(y.sum(-1, dtype=np.float64) - 1).max() <= eps * n


@each_float
@each_name
def test_backward_accuracy(name, dtype):
    eps = np.finfo(dtype).eps
    rng = np.random.default_rng(1)
    for n in LENGTHS:
        for x in samples(dtype, n, 20, n):
            y = function(name)(x)
            dy = rng.standard_normal(y.shape).astype(dtype)
            (got,) = agreed(lambda dy=dy, y=y: (function(name).backward(dy, y),))
            want = getattr(truth, f"{name}_backward")(dy, y)
            scale = truth.backward_scale(name, dy, y)
            assert (np.abs(got - want) <= CASES[name].limits[1] * eps * scale + np.finfo(dtype).tiny).all()


@each_name
def test_backward_against_differences(name):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((6, 9))
    dy, v = rng.standard_normal((2, 6, 9))
    f = function(name)
    h = 1e-6
    numeric = (dy * (f(x + h * v) - f(x - h * v))).sum() / (2 * h)
    assert np.isclose((f.backward(dy, f(x)) * v).sum(), numeric, rtol=1e-7, atol=1e-9)


def test_log_softmax_keeps_its_accuracy_at_the_maximum(backend):
    y = fa.log_softmax(np.array([[0.0, 60.0], [80.0, 0.0]], np.float32))
    assert np.isclose(y[0, 1], -np.exp(-60.0), rtol=1e-6, atol=0)
    assert np.isclose(y[1, 0], -np.exp(-80.0), rtol=1e-6, atol=0)
    y = fa.log_softmax(np.array([0.0, 600.0]))
    assert np.isclose(y[1], -np.exp(-600.0), rtol=1e-14, atol=0)
    # three of the maximum
    assert np.allclose(fa.log_softmax(np.full(3, 7.0)), -np.log(3.0), rtol=1e-15)


# special values


@each_float
@each_function
def test_special_values_at_every_position(name, dtype, backend):
    f = function(name)
    eps = np.finfo(dtype).eps
    for n in range(1, 68):
        x = np.random.default_rng(n).standard_normal((n, n)).astype(dtype)
        diagonal = np.eye(n, dtype=bool)
        shorter = f(x[~diagonal].reshape(n, n - 1))
        for special in (np.nan, np.inf, -np.inf):
            y = f(np.where(diagonal, dtype(special), x))
            if special == (np.inf if name == "softmin" else -np.inf) and n > 1:
                # as if it were not there
                if name == "logsumexp":
                    assert np.allclose(y, shorter, rtol=8 * eps, atol=8 * eps)
                else:
                    assert (y[diagonal] == (-np.inf if name == "log_softmax" else 0)).all()
                    assert np.allclose(y[~diagonal], shorter.ravel(), rtol=8 * eps, atol=8 * eps)
            else:
                want = special if name == "logsumexp" else np.nan
                assert np.array_equal(y, np.full(y.shape, want), equal_nan=True)
        # the rows around are left alone
        z = x.copy()
        z[n // 2] = np.nan
        y = f(z)
        assert np.isnan(y[n // 2]).all()
        assert same(np.delete(y, n // 2, 0), np.delete(f(x), n // 2, 0))


@each_float
@each_name
@pytest.mark.parametrize("n", [1, 5, 16, 17, 67, 300])
def test_backward_nan_fills_the_row(name, dtype, n, backend):
    f = function(name)
    x = np.random.default_rng(n).standard_normal((n, n)).astype(dtype)
    y, dy = f(x), np.ones((n, n), dtype)
    for bad in (0, 1):
        arrays = [dy.copy(), y.copy()]
        arrays[bad][np.arange(n), np.arange(n)] = np.nan
        dx = f.backward(*arrays)
        where = np.eye(n, dtype=bool)
        if name == "log_softmax" and bad == 1:
            assert np.isnan(dx[where]).all()
        elif name == "sparsemax":
            # outside the support the derivative is 0
            assert np.isnan(dx[where & (y > 0)]).all()
        else:
            assert np.isnan(dx).all()


@each_float
def test_rows_of_infinity(dtype, backend):
    x = np.full((2, 5), -np.inf, dtype)
    for name in NAMES:
        assert np.isnan(function(name)(-x if name == "softmin" else x)).all()
    assert (fa.logsumexp(x) == -np.inf).all()
    assert (fa.logsumexp(np.array([[np.inf, -np.inf], [np.inf, 1]], dtype)) == np.inf).all()
    assert np.isnan(fa.logsumexp(np.array([[np.inf, np.nan], [-np.inf, np.nan], [0, np.nan]], dtype))).all()
    big = np.finfo(dtype).max
    y = fa.softmax(np.array([[big, big, -big], [-big, -big, -big]], dtype))
    assert np.allclose(y, [[0.5, 0.5, 0], [1 / 3] * 3])
    assert fa.logsumexp(np.array([big, -big], dtype)) == big


def test_no_warning(backend):
    x = np.array([[np.nan, 1, np.inf], [-np.inf, -np.inf, -np.inf], [1e38, -1e38, 0]], np.float32)
    with np.errstate(all="raise"):
        for name in EVERY:
            function(name)(x)
            function(name)(x, axis=0)


# masks


@each_float
@each_function
def test_mask(name, dtype, backend):
    f = function(name)
    rng = np.random.default_rng(3)
    for n in (1, 4, 16, 17, 67, 200):
        x = rng.standard_normal((12, n)).astype(dtype)
        mask = rng.random((12, n)) < 0.6
        mask[3] = False
        mask[4] = True
        x[5, 0], mask[5, 0] = np.nan, False
        x[6, 0], mask[6, 0] = np.inf, False
        y = f(x, where=mask)
        fill = -np.inf if name in ("log_softmax", "logsumexp") else 0
        for i in range(12):
            live = x[i][mask[i]]
            want = f(live) if live.size else np.full(live.shape if name != "logsumexp" else (), fill, dtype)
            eps = np.finfo(dtype).eps
            if name == "logsumexp":
                assert np.isclose(y[i], want, rtol=4 * eps, atol=8 * eps)
                continue
            assert (y[i][~mask[i]] == fill).all()
            assert np.allclose(y[i][mask[i]], want, rtol=16 * eps, atol=16 * eps)
        assert same(y[4], f(x[4]))
        # by columns, in place, and as a mask that broadcasts
        assert same(f(x.T, axis=0, where=mask.T), y.T)
        if name != "logsumexp":
            z = x.copy()
            assert f(z, where=mask, out=z) is z
            assert same(z, y)
        row = mask[:1].copy()
        row[0, 0] = True
        assert same(f(x, where=row), f(x, where=np.repeat(row, 12, 0)))
        assert same(f(x, where=True), f(x))
        assert same(f(x, where=None), f(x))


@each_float
@each_name
def test_backward_with_a_mask(name, dtype, backend):
    f = function(name)
    rng = np.random.default_rng(4)
    x, dy = rng.standard_normal((2, 8, 21)).astype(dtype)
    mask = rng.random((8, 21)) < 0.5
    mask[2] = False
    y = f(x, where=mask)
    dx = f.backward(dy, y, where=mask)
    assert (dx[~mask] == 0).all()
    for i in range(8):
        if mask[i].any():
            want = f.backward(dy[i][mask[i]], y[i][mask[i]])
            assert np.allclose(dx[i][mask[i]], want, rtol=1e-5, atol=1e-5)


@each_function
def test_shapes_and_kinds_of_masks(name, backend):
    f = function(name)
    x = np.random.default_rng(20).standard_normal((4, 3)).astype(np.float32)
    assert same(f(x, where=np.True_), f(x))
    assert same(f(x, where=None), f(x))
    row = [True, False, True]
    for axis in (-1, 0, None, (0, 1)):
        want = f(x, axis=axis, where=np.broadcast_to(row, x.shape).copy())
        assert same(f(x, axis=axis, where=row), want)
        assert same(f(x, axis=axis, where=np.array([row])), want)
        # what the mask leaves out is not looked at
        z = np.where(row, x, np.nan)
        assert same(f(z, axis=axis, where=row), want)
        out = poisoned(want.shape, np.float32)
        assert f(x, axis=axis, where=row, out=out) is out
        assert same(out, np.asarray(want))
    assert (f(x, where=False) == (-np.inf if name.startswith("log") else 0)).all()
    if name != "logsumexp":
        y = f(x, where=row)
        full = np.broadcast_to(np.float32([1, 2, 3]), x.shape).copy()
        # dy broadcasts, and so does the mask to both
        assert same(f.backward(full[0], y, where=np.broadcast_to(row, x.shape)), f.backward(full, y, where=row))


def test_a_live_row_of_minus_infinity_under_a_mask_is_nan(backend):
    x = np.array([[-np.inf, -np.inf, 1.0]])
    y = fa.softmax(x, where=[[True, True, False]])
    assert np.isnan(y[0, :2]).all()
    assert y[0, 2] == 0


# axes and layouts


@each_float
@each_function
def test_axes(name, dtype, backend):
    f = function(name)
    x = np.random.default_rng(5).standard_normal((3, 20, 4, 17)).astype(dtype)
    for axis in (0, 1, 2, 3, -1, -2, -3, -4):
        moved = f(np.ascontiguousarray(np.moveaxis(x, axis, -1)))
        got = f(x, axis=axis)
        assert same(got, moved if name == "logsumexp" else np.moveaxis(moved, -1, axis))
    for axes in ((0,), (1, 3), (3, 1), (0, 1, 2, 3), (-1, 0), None):
        given = range(4) if axes is None else axes
        some = tuple(a % 4 for a in given)
        rest = [a for a in range(4) if a not in some]
        flat = np.ascontiguousarray(x.transpose(*rest, *some)).reshape(*(x.shape[a] for a in rest), -1)
        want = f(flat)
        got = f(x, axis=axes)
        if name == "logsumexp":
            assert same(np.asarray(got), np.asarray(want))
            kept = f(x, axis=axes, keepdims=True)
            assert kept.shape == tuple(1 if a in some else n for a, n in enumerate(x.shape))
        else:
            back = want.reshape(*(x.shape[a] for a in rest), *(x.shape[a] for a in some))
            assert same(got, back.transpose(np.argsort([*rest, *some])))
            dy = x[::-1]
            dx = f.backward(dy, got, axis=axes)
            assert np.allclose(dx.sum(some), 0, atol=1e-4) or name == "log_softmax"
            out = poisoned(x.shape, dtype)
            assert f(x, axis=axes, out=out) is out
            assert same(out, got)
    with pytest.raises(np.exceptions.AxisError):
        f(x, axis=4)
    with pytest.raises((np.exceptions.AxisError, ValueError)):
        f(x, axis=(0, 0))


def test_keepdims(backend):
    x = np.arange(12.0).reshape(3, 4)
    assert fa.logsumexp(x, keepdims=True).shape == (3, 1)
    assert fa.logsumexp(x, 0, True).shape == (1, 4)
    assert isinstance(fa.logsumexp(x[0]), np.float64)
    assert isinstance(fa.logsumexp(x, axis=None), np.float64)
    out = np.empty(3)
    assert fa.logsumexp(x, out=out) is out
    assert same(out, fa.logsumexp(x))


@each_float
@each_name
def test_layouts_give_the_same_bits(name, dtype, backend):
    f = function(name)
    rng = np.random.default_rng(6)
    for rows_, n in ((5, 3), (40, 19), (33, 128), (3, 1024)):
        x = rng.standard_normal((rows_, n)).astype(dtype)
        dy = rng.standard_normal((rows_, n)).astype(dtype)
        y = f(x)
        dx = f.backward(dy, y)
        wide = np.full((2 * rows_, 3 * n + 1), np.nan, dtype)
        wide[::2, 1::3] = x
        layouts = {
            "fortran": np.asfortranarray(x),
            "strided": wide[::2, 1::3],
            "reversed": x[::-1, ::-1].copy()[::-1, ::-1],
            "read-only": x.copy(),
        }
        layouts["read-only"].flags.writeable = False
        for z in layouts.values():
            assert same(f(z), y)
            assert same(f.backward(np.asfortranarray(dy), np.asfortranarray(y)), dx)
        lanes = 64 // np.dtype(dtype).itemsize
        for offset in range(0, lanes, 3):
            z, out = misaligned(x.shape, dtype, offset), misaligned(x.shape, dtype, (offset + 5) % lanes)
            z[...] = x
            assert f(z, out=out) is out
            assert same(out, y)
            assert same(f(z, out=z), y)
        for order in "CF":
            out = poisoned((rows_, n), dtype, order)
            f(x, out=out)
            assert same(out, y)
        out = np.full((rows_, 2 * n), np.nan, dtype)
        f(x, out=out[:, ::2])
        assert same(out[:, ::2], y)
        assert np.isnan(out[:, 1::2]).all()
        # one row at a time
        assert same(np.stack([f(row) for row in x]), y)
        assert same(f(x[:, None, :])[:, 0], y)
        for target in (dy.copy(), None):
            ys = y.copy()
            place = ys if target is None else target
            got = f.backward(dy if target is None else target, ys, out=place)
            assert got is place
            assert same(got, dx)


def test_overlap(backend):
    buffer = np.random.default_rng(7).standard_normal(1000).astype(np.float32)
    x, out = buffer[:900].reshape(30, 30), buffer[10:910].reshape(30, 30)
    want = fa.softmax(x.copy())
    assert fa.softmax(x, out=out) is out
    assert same(out, want)
    square = np.random.default_rng(8).standard_normal((40, 40)).astype(np.float32)
    want = fa.softmax(square.copy())
    fa.softmax(square, out=square.T)
    assert same(square.T.copy(), want)


@each_function
def test_empty(name, backend):
    f = function(name)
    for shape in ((0,), (0, 5), (5, 0), (2, 0, 3), (0, 0)):
        for axis in (0, -1):
            y = f(np.ones(shape, np.float32), axis=axis)
            if name == "logsumexp":
                rest = np.delete(shape, axis)
                assert y.shape == tuple(rest)
                assert (y == -np.inf).all()
            else:
                assert y.shape == shape
                assert f.backward(y, y, axis=axis).shape == shape
            assert y.dtype == np.float32


def test_a_number_has_no_axis(backend):
    with pytest.raises((np.exceptions.AxisError, ValueError)):
        fa.softmax(3.0)
    # all of its axes are none
    for axis in (None, ()):
        for name, want in (
            ("softmax", 1.0),
            ("log_softmax", 0.0),
            ("softmin", 1.0),
            ("sparsemax", 1.0),
            ("logsumexp", 3.0),
        ):
            y = function(name)(np.float32(3), axis=axis)
            assert isinstance(y, np.float32)
            assert y == want
            assert function(name)(np.float32(3), axis=axis, where=False) == (-np.inf if name.startswith("log") else 0)
    x = np.arange(6.0).reshape(2, 3)
    assert (fa.softmax(x, axis=()) == 1).all()
    assert (fa.logsumexp(x, axis=()) == x).all()


def test_logsumexp_has_no_gradient_from_its_output():
    assert not hasattr(fa.logsumexp, "backward")
    with pytest.raises(AttributeError, match="softmax"):
        fa.logsumexp.backward  # noqa: B018


# dtypes


@each_function
def test_dtypes(name, backend):
    f = function(name)
    for dtype in (np.int8, np.uint16, np.int64, np.uint64, bool):
        x = np.array([[0, 1, 1], [1, 0, 1]], dtype)
        assert same(f(x), f(x.astype(np.float64)))
    assert f([[0, 1], [2, 3]]).dtype == np.float64
    for dtype in (np.float16, BFLOAT16):
        x = np.random.default_rng(9).standard_normal((20, 33)).astype(dtype)
        y = f(x)
        assert y.dtype == dtype
        # through float32, rounded once
        assert same(y, f(x.astype(np.float32)).astype(dtype))
        assert same(f(x, axis=0), f(x.T.copy()) if name == "logsumexp" else f(x.T.copy()).T)
        z = x.copy()
        z[0, 0] = np.inf
        z[1, 0] = np.nan
        assert same(f(z).astype(np.float32), f(z.astype(np.float32)).astype(dtype).astype(np.float32))
        if name != "logsumexp":
            assert same(f.backward(x, y), f.backward(x.astype(np.float32), y.astype(np.float32)).astype(dtype))
            assert f(x, out=poisoned(x.shape, np.float32)).dtype == np.float32
    for bad in (np.array([1j]), np.array(["a"]), np.array([None]), np.array([1], "M8[s]")):
        with pytest.raises(TypeError):
            f(bad)
    x = np.ones((2, 3), np.float32)
    assert f(x, dtype=np.float64).dtype == np.float64
    with pytest.raises(TypeError):
        f(x.astype(np.float64), dtype=np.float32, casting="safe")


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16], ids=["float16", "bfloat16"])
def test_conversions_of_half_precision(dtype):
    # logsumexp of a row of one number is that number, and 0 for -0, whose exponential is 1
    every = np.arange(65536, dtype=np.uint16).view(dtype)[:, None]
    with np.errstate(invalid="ignore"):
        assert same(fa.logsumexp(every).astype(np.float64), every[:, 0].astype(np.float64) + 0.0)
    # products, of which many round, some to subnormal numbers
    dy = sum(np.meshgrid(*[np.arange(-20, 20, 0.37).astype(dtype).astype(np.float32)] * 2), start=np.float32(0))
    dy = dy.astype(dtype)
    y = np.exp2(np.arange(-30, 1, dtype=np.float32)).astype(dtype)
    rows_ = np.zeros((dy.size, y.size, 2), dtype)
    rows_[..., 0] = dy.reshape(-1, 1)
    shares = np.zeros((dy.size, y.size, 2), dtype)
    shares[..., 0] = y
    got = fa.softmax.backward(rows_, shares)
    want = fa.softmax.backward(rows_.astype(np.float32), shares.astype(np.float32)).astype(dtype)
    assert same(got.view(np.uint16), want.view(np.uint16))


# threads


@each_float
@each_function
def test_threads_give_the_same_bits(name, dtype, threads, backend):
    f = function(name)
    for shape, axis in (((700, 67), -1), ((64, 1024), -1), ((300, 500), 0)):
        x = np.random.default_rng(10).standard_normal(shape).astype(dtype)
        threads(1)
        y = f(x, axis=axis)
        dx = f.backward(x, y, axis=axis) if name != "logsumexp" else None
        for n in (2, 3):
            threads(n)
            assert same(f(x, axis=axis), y)
            assert dx is None or same(f.backward(x, y, axis=axis), dx)


@each_float
@each_name
def test_stores_past_the_cache_give_the_same_bits(name, dtype, threads):
    f = function(name)
    x = np.random.default_rng(11).standard_normal((300, 211)).astype(dtype)
    y = f(x)
    dx = f.backward(x, y)
    before = fa.runtime._driver.status()["stream_min"]
    try:
        fa.runtime._driver.configure(stream_min=0)
        f.function.reset()
        f.backward.function.reset()
        for offset in range(0, 8, 3):
            out = misaligned(x.shape, dtype, offset)
            assert same(f(x, out=out), y)
            assert same(f.backward(x, y, out=out), dx)
        z = x.copy()
        assert same(f(z, out=z), y)
    finally:
        fa.runtime._driver.configure(stream_min=before)
        f.function.reset()
        f.backward.function.reset()


@each_float
def test_backends_give_the_same_bits(dtype):
    available = [name for name in BACKENDS if fa.dispatch.reasons()[name] is None]
    rng = np.random.default_rng(12)
    for n in (*LENGTHS, 4097):
        x, dy = rng.standard_normal((2, 7, n)).astype(dtype) * 4
        for name in EVERY:
            f = function(name)
            found = []
            for chosen in available:
                with fa.use_backend(chosen):
                    y = f(x)
                    found.append((y, f.backward(dy, y) if name != "logsumexp" else y))
            for other in found[1:]:
                assert same(other[0], found[0][0])
                assert same(other[1], found[0][1])


def test_several_threads_at_once(threads):
    threads(2)
    x = np.random.default_rng(13).standard_normal((200, 333)).astype(np.float32)
    want = {name: function(name)(x) for name in EVERY}
    columns = fa.softmax(x, axis=0)
    wrong = []

    def work():
        for _ in range(30):
            for name in EVERY:
                if not same(function(name)(x), want[name]):
                    wrong.append(name)
            if not same(fa.softmax(x, axis=0), columns):
                wrong.append("columns")

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_forked_child():
    code = """
        import os, numpy as np, fastact as fa
        fa.set_num_threads(2)
        x = np.random.default_rng(0).standard_normal((500, 400)).astype(np.float32)
        y, columns = fa.softmax(x), fa.softmax(x, axis=0)
        child = os.fork()
        if child == 0:
            ok = fa.softmax(x).tobytes() == y.tobytes() and fa.softmax(x, axis=0).tobytes() == columns.tobytes()
            os._exit(0 if ok else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """
    python(textwrap.dedent(code))


# the objects


@each_function
def test_gufunc(name):
    ufunc = function(name).ufunc
    assert isinstance(ufunc, np.ufunc)
    assert ufunc.signature == ("(n)->()" if name == "logsumexp" else "(n)->(n)")
    x = np.random.default_rng(14).standard_normal((3, 4, 5)).astype(np.float32)
    assert same(ufunc(x), function(name)(x))
    assert same(ufunc(x, axis=1), function(name)(x, axis=1))


def test_backward_broadcasts():
    y = fa.softmax(np.random.default_rng(15).standard_normal((4, 6)))
    dy = np.arange(6.0)
    assert same(fa.softmax.backward(dy, y), fa.softmax.backward(np.tile(dy, (4, 1)), y))
    with pytest.raises(ValueError, match=r"mismatch|broadcast"):
        fa.softmax.backward(np.ones((4, 5)), y)


def test_other_array_types():
    dask = pytest.importorskip("dask.array")
    pandas = pytest.importorskip("pandas")
    xarray = pytest.importorskip("xarray")
    x = np.random.default_rng(16).standard_normal((6, 5))
    for name in EVERY:
        f = function(name)
        lazy = f(dask.from_array(x, chunks=(2, 5)))
        assert isinstance(lazy, dask.Array)
        assert np.allclose(lazy.compute(), f(x), rtol=1e-15)
    lazy = fa.softmax(dask.from_array(x, chunks=(6, 2)), axis=0)
    assert same(lazy.compute(), fa.softmax(x, axis=0))
    assert same(fa.softmax(pandas.DataFrame(x)), fa.softmax(x))
    wrapped = xarray.apply_ufunc(
        fa.softmax, xarray.DataArray(x, dims=("a", "b")), input_core_dims=[["b"]], output_core_dims=[["b"]]
    )
    assert same(wrapped.values, fa.softmax(x))


@pytest.mark.parametrize("axis", [0, -1, (0, 1)])
@pytest.mark.parametrize("name", EVERY)
def test_xarray(name, axis):
    xarray = pytest.importorskip("xarray")
    x = np.random.default_rng(17).standard_normal((3, 4)).astype(np.float32)
    coords = {"a": [10, 20, 30], "of_b": ("b", list("wxyz")), "one": 1}
    data = xarray.DataArray(x, coords, ("a", "b"), "logits", {"unit": "nat"})
    f = function(name)
    result = f(data, axis=axis)
    assert isinstance(result, xarray.DataArray) and result.name == "logits" and result.attrs == data.attrs
    assert same(result.values, f(x, axis=axis))
    if name != "logsumexp":
        assert result.dims == data.dims and set(result.coords) == {"a", "of_b", "one"}
        mask = data > 0
        assert same(f(data, axis=axis, where=mask).values, f(x, axis=axis, where=mask.values))
        gradient = f.backward(result, result, axis=axis)
        assert gradient.dims == data.dims and same(gradient.values, f.backward(*[result.values] * 2, axis=axis))
        out = np.empty_like(x)
        assert f(data, axis=axis, out=out) is out
        with pytest.raises(ValueError, match="same dimensions"):
            f.backward(data, data.T)
    else:
        assert result.dims == {0: ("b",), -1: ("a",), (0, 1): ()}[axis]
        assert set(result.coords) == {0: {"of_b", "one"}, -1: {"a", "one"}, (0, 1): {"one"}}[axis]
        kept = f(data, axis=axis, keepdims=True)
        assert kept.dims == data.dims and same(kept.values, f(x, axis=axis, keepdims=True))


def test_xarray_in_attention():
    xarray = pytest.importorskip("xarray")
    x = np.random.default_rng(18).standard_normal((3, 3)).astype(np.float32)
    result = fa.softmax(xarray.DataArray(x, dims=("a", "b")), scale=0.5, causal=True, bias=x)
    assert result.dims == ("a", "b") and same(result.values, fa.softmax(x, scale=0.5, causal=True, bias=x))


def test_xarray_that_holds_dask():
    xarray, dask = pytest.importorskip("xarray"), pytest.importorskip("dask.array")
    x = np.random.default_rng(19).standard_normal((6, 5))
    result = fa.softmax(xarray.DataArray(dask.from_array(x, chunks=(2, 5)), dims=("a", "b")))
    assert isinstance(result.data, dask.Array) and same(result.values, fa.softmax(x))


DASK = {
    "softmax along several axes": lambda x: fa.softmax(x, axis=(0, 1)),
    "softmax": lambda x: fa.softmax(x, scale=2.0),
    "softmax_cross_entropy": lambda x: fa.softmax_cross_entropy(x, np.arange(3)),
    "nll_loss": lambda x: fa.nll_loss.value_and_grad(x, np.arange(3)),
    "sigmoid_cross_entropy": lambda x: fa.sigmoid_cross_entropy(np.ones((3, 4)), x),
    "mse_loss": lambda x: fa.mse_loss(x, np.ones((3, 4))),
    "layer_norm": fa.layer_norm,
    "swiglu": fa.swiglu,
    "dropout": lambda x: fa.dropout(x, 0.1, seed=0),
    "gelu.biased": lambda x: fa.gelu.biased(x, np.ones(4)),
    "gelu.fused": lambda x: fa.gelu.fused(x, np.ones(4)),
    "prelu.backward": lambda x: fa.prelu.backward(x, x, 0.5),
}


@pytest.mark.parametrize("name", DASK)
def test_what_would_compute_a_dask_array_at_once_refuses_it(name):
    dask = pytest.importorskip("dask.array")

    def computed(block):
        raise AssertionError("computed")

    lazy = dask.ones((3, 4), chunks=(3, 4)).map_blocks(computed, dtype=float, meta=np.empty((0, 0)))
    with pytest.raises(TypeError, match=rf"^{name}: arrays of Dask are not taken; pass x.compute\(\)"):
        DASK[name](lazy)


@pytest.mark.parametrize("name", [*EVERY, "softmax_cross_entropy", "nll_loss", "sigmoid_cross_entropy"])
def test_pickle_and_repr(name):
    value = function(name)
    for method in [value, *([value.backward] if name in NAMES else [])]:
        assert pickle.loads(pickle.dumps(method)) is method
        assert repr(method) == f"<fastact.{method.name}>"
