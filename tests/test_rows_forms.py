"""Rows side by side and parts of long rows: the bits of the reference on every backend, for any layout and threads."""

import numpy as np
import pytest
from cases import BACKENDS, same, unavailable
from ulp import misaligned, poisoned

import fastact as fa
from fastact.runtime import _driver

NAMES = ("softmax", "softmin", "log_softmax")
COMPILED = [name for name in BACKENDS if name != "reference"]
SEGMENT = 65536
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16], ids=lambda d: d.__name__)


@pytest.fixture(params=COMPILED)
def compiled(request):
    reason = unavailable(request.param)
    if reason is not None:
        pytest.skip(reason)
    with fa.use_backend(request.param):
        yield request.param


@pytest.fixture
def streaming():
    before = _driver.status()["stream_min"]
    yield lambda bytes_: _driver.configure(stream_min=bytes_)
    _driver.configure(stream_min=before)


def values(shape, dtype, axis):
    """Ordinary rows, and rows of one value, with NaN, inf, far from 0, of -inf alone."""
    rng = np.random.default_rng(sum(shape))
    x = np.moveaxis((rng.standard_normal(shape) * 3).astype(dtype), axis, -1)
    n, rows = x.shape[-1], x.reshape(-1, x.shape[-1]).view()
    rows[-1] = 0.5
    if len(rows) > 5:
        rows[0] = -np.inf
        rows[1, n // 2] = np.nan
        rows[2, n - 1] = np.inf
        rows[3, 0] = 30000
        rows[4, n // 3] = -np.inf
    return np.moveaxis(rows.reshape(x.shape), -1, axis)


def agree(compute, threads=(1, 2, 7), backends=COMPILED):
    """What the reference computes, after every backend and number of threads gave the same bits."""
    with fa.use_backend("reference"):
        expected = compute()
    before = fa.get_num_threads()
    try:
        for name in backends:
            if unavailable(name) is not None:
                continue
            for count in threads:
                fa.set_num_threads(count)
                with fa.use_backend(name):
                    for got, want in zip(compute(), expected, strict=True):
                        assert same(np.asarray(got), np.asarray(want)), (name, count)
    finally:
        fa.set_num_threads(before)
    return expected


def backends_for(name, dtype):
    # of Numba's kernels those of softmax alone in float64: each takes it 2 to 4 s, and all are made of the same loops
    return COMPILED if dtype != np.float64 or name == "softmax" else ["cython"]


LENGTHS = (2, 3, 15, 16, 17, 21, 63, 64, 65, 127, 128, 129, 300)


@each_dtype
@pytest.mark.parametrize("name", NAMES)
def test_along_the_first_axis(name, dtype):
    f, backends = getattr(fa, name), backends_for(name, dtype)
    for i, n in enumerate(LENGTHS):
        x = np.ascontiguousarray(values((n, (7, 8, 16, 33, 64, 70)[i % 6]), dtype, 0))
        dy = values(x.shape[::-1], dtype, 1).T.copy()
        (y,) = agree(lambda x=x, dy=dy: (f(x, axis=0, out=poisoned(x.shape, dtype)),), (1,), backends)
        agree(lambda dy=dy, y=y: (f.backward(dy, y, axis=0, out=poisoned(y.shape, dtype)),), (1,), backends)


@pytest.mark.parametrize("name", NAMES)
def test_threads_and_wide_arrays(name):
    # 2100·130 float32 are more than the bytes from which on four groups are taken at once
    f = getattr(fa, name)
    x = np.ascontiguousarray(values((2100, 130), np.float32, 0))
    (y,) = agree(lambda: (f(x, axis=0),))
    agree(lambda: (f.backward(x, y, axis=0),))


def test_past_the_cache(compiled, streaming):
    x = np.ascontiguousarray(values((2100, 144), np.float32, 0))
    expected = fa.softmax(x, axis=0)
    streaming(1)
    for offset in (0, 1, 5, 16):
        assert same(fa.softmax(x, axis=0, out=misaligned(x.shape, x.dtype, offset)), expected)


def test_layouts(compiled):
    x = np.ascontiguousarray(values((40, 70), np.float32, 0))
    mask = np.random.default_rng(0).random(x.shape) < 0.7
    y = fa.softmax(np.ascontiguousarray(x.T)).T
    masked = fa.softmax(np.ascontiguousarray(x.T), where=np.ascontiguousarray(mask.T)).T
    assert same(fa.softmax(x[::-1], axis=0), fa.softmax(np.ascontiguousarray(x[::-1].T)).T)
    shifted = misaligned(x.shape, x.dtype, 1)
    shifted[...] = x
    assert same(fa.softmax(shifted, axis=0), y)
    assert same(fa.softmax(np.stack([x, x], 1), axis=0)[:, 1], y)
    assert same(fa.softmax(x, axis=0, where=mask), masked)
    assert same(fa.softmax(x, axis=0, where=np.asfortranarray(mask)), masked)
    apart = np.full((80, 140), np.nan, np.float32)
    assert same(fa.softmax(x, axis=0, out=apart[::2, ::2]), y)
    assert np.isnan(apart[1::2]).all() and np.isnan(apart[:, 1::2]).all()
    copy = x.copy()
    assert fa.softmax(copy, axis=0, out=copy) is copy
    assert same(copy, y)


# long rows


@each_dtype
@pytest.mark.parametrize(
    ("n", "rows"), [(SEGMENT + 1, 1), (2 * SEGMENT, 2), (3 * SEGMENT - 1, 9), (5 * SEGMENT + 77, 1)]
)
def test_long_rows(n, rows, dtype):
    x = values((rows, n), dtype, 1)
    dy = np.random.default_rng(1).standard_normal(x.shape).astype(dtype)
    mask = dy < 1
    for name in (*NAMES, "logsumexp"):
        f, backends = getattr(fa, name), backends_for(name, dtype)
        (y,) = agree(lambda f=f: (f(x),), backends=backends)
        agree(lambda f=f: (f(x, where=mask),), (2,), backends)
        if name != "logsumexp":
            agree(lambda f=f, y=y: (f.backward(dy, y),), backends=backends)
    agree(lambda: (fa.softmax(np.asfortranarray(x).T, axis=0),), (2,))


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
@pytest.mark.parametrize("rows", [1, 9])
def test_losses_of_long_rows(rows, dtype):
    n = 2 * SEGMENT + 5
    rng = np.random.default_rng(2)
    x, weight = values((rows, n), dtype, 1), rng.random(n).astype(dtype)
    labels, targets = rng.integers(0, n, rows), rng.random((rows, n))
    labels[0] = n - 1
    targets = (targets / targets.sum(-1, keepdims=True)).astype(dtype)
    loss = fa.softmax_cross_entropy
    for t in (labels, targets):
        backends = backends_for("loss", dtype)
        both = agree(lambda t=t: loss.value_and_grad(x, t, reduction="none"), backends=backends)
        (value,) = agree(lambda t=t: (loss(x, t, reduction="none"),), backends=backends)
        assert same(value, both[0])
    agree(lambda: loss.value_and_grad(x, labels, weight=weight, reduction="none"), (2,), backends)


def test_a_long_row_in_place_and_past_the_cache(compiled, streaming):
    for n in (2 * SEGMENT + 3, 6 * SEGMENT):
        x = values((n,), np.float32, 0)
        for f in (fa.softmax, fa.softmin, fa.log_softmax):
            expected, copy = f(x), x.copy()
            assert same(f(copy, out=copy), expected)
            streaming(1)
            assert same(f(x, out=misaligned(x.shape, x.dtype, 5)), expected)
            streaming(1 << 40)


@pytest.mark.parametrize("order", ["C", "F"])
def test_results_are_laid_out_as_what_is_given(order, compiled):
    x = np.array(values((24, 40, 6), np.float32, 1), order=order)
    for axis in (0, 1, 2):
        y = fa.softmax(x, axis=axis)
        assert y.strides == x.strides
        assert fa.softmax(x, axis=axis, where=x < 1).strides == x.strides
        assert fa.softmax.backward(x, y, axis=axis).strides == x.strides
    assert fa.softmax(x.astype(np.float16), axis=0).strides == tuple(s // 2 for s in x.strides)
    mixed = fa.softmax.backward(x, x.astype(np.float64), axis=0)
    assert mixed.dtype == np.float64 and mixed.strides == tuple(2 * s for s in x.strides)
