"""softmax(x, scale=, bias=, causal=, where=) and its gradient: accuracy, bits, prefixes, layouts, masks, errors."""

import itertools

import numpy as np
import pytest
import rows_oracle as truth
from cases import agreed, same
from ulp import BFLOAT16, errors, misaligned, poisoned

import fastact as fa
from fastact.runtime import _driver

FLOATS = (np.float32, np.float64)
each_float = pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.__name__)
# in ULP, as without a scale
BOUND = 4.0
LENGTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 128, 129, 300, 1000)


@pytest.fixture
def streaming():
    before = _driver.status()["stream_min"]
    yield lambda bytes_: _driver.configure(stream_min=bytes_)
    _driver.configure(stream_min=before)


def numbers(shape, dtype, seed=0, spread=3.0):
    return (np.random.default_rng(seed).standard_normal(shape) * spread).astype(dtype)


def holes(shape, seed=1, share=0.7):
    return np.random.default_rng(seed).random(shape) < share


def additive(mask, dtype):
    return np.where(mask, 0, -np.inf).astype(dtype)


def worst(got, want):
    error, below, _ = errors(got, want)
    assert below.max(initial=0.0) <= 1.0
    return error.max(initial=0.0)


# accuracy


@each_float
def test_accuracy(dtype):
    found = 0.0
    for n in LENGTHS if dtype == np.float32 else LENGTHS[::3]:
        rows = max(2, (2000 if dtype == np.float32 else 100) // n)
        for i, (spread, level, scale) in enumerate(
            ((3, 0, 0.125), (30, 0, 1 / np.sqrt(128)), (1, 20, -3.7), (100, 50, 0.3), (5, 1000, 1.9), (1e-3, -7, 100.0))
        ):
            x = numbers((rows, n), dtype, n + i, spread) + dtype(level)
            bias = numbers((rows, n), dtype, n + i + 50, 10.0)
            for given in ({}, {"bias": bias}, {"bias": bias, "causal": True}):
                (y,) = agreed(lambda x=x, scale=scale, given=given: (fa.softmax(x, scale=scale, **given),))
                found = max(found, worst(y, truth.scaled_softmax(x, scale, **given)))
    print(f"softmax with scale and bias, {dtype.__name__}: {found:.3f} ULP, bound {BOUND}")
    assert found <= BOUND


def test_accuracy_of_long_rows():
    for n in (65_537, 200_000):
        x, bias = numbers((1, n), np.float32, n, 10.0), numbers((n,), np.float32, n + 1, 10.0)
        for given in ({}, {"bias": bias}):
            assert worst(fa.softmax(x, scale=0.7, **given), truth.scaled_softmax(x, 0.7, **given)) <= BOUND


def test_accuracy_against_logits_that_are_not_rounded():
    # what the rounding of logits makes of it: half an ULP of the element's, and half one of the greatest
    for n in LENGTHS[1:]:
        x, bias = numbers((200, n), np.float32, n, 8.0), numbers((200, n), np.float32, n + 1, 8.0)
        z = np.float64(np.float32(0.3)) * x + bias
        e = np.exp(z - z.max(-1, keepdims=True))
        want = e / e.sum(-1, keepdims=True)
        allowed = np.finfo(np.float32).eps * BOUND + np.spacing(np.abs(z).max(-1, keepdims=True).astype(np.float32))
        assert (np.abs(fa.softmax(x, scale=0.3, bias=bias) - want) <= allowed * want + 1e-38).all()


@each_float
def test_bits_are_those_of_softmax_of_the_logits(dtype, backend):
    for n in (1, 5, 16, 17, 67, 300) if dtype == np.float32 else (5, 67):
        for spread, level in ((3, 0), (1, 1e4), (100, -2047), (30, 3e8)):
            x = numbers((20, n), dtype, n, spread) + dtype(level)
            bias = numbers((20, n), dtype, n + 1, spread) - dtype(level)
            for scale in (1.0, -1.0, 0.3, 7.0):
                assert same(fa.softmax(x, scale=scale), fa.softmax(dtype(scale) * x))
                assert same(fa.softmax(x, 0, scale=scale), fa.softmax(dtype(scale) * x, 0))
                want = truth.logits(x, scale, bias)
                assert same(fa.softmax(x, scale=scale, bias=bias), fa.softmax(want))
                assert same(fa.softmax(x, 0, scale=scale, bias=bias), fa.softmax(want, 0))
    x = numbers((3, 200_000), np.float32, 1)
    assert same(fa.softmax(x, scale=0.3), fa.softmax(np.float32(0.3) * x))
    assert same(fa.softmax(x, scale=-1.0), fa.softmin(x))


@each_float
def test_backward_accuracy(dtype):
    eps = np.finfo(dtype).eps
    for n in LENGTHS:
        x, dy = numbers((20, n), dtype, n), numbers((20, n), dtype, n + 1)
        for scale, causal in itertools.product((0.125, -2.7, 1.0), (False, True)):
            y = fa.softmax(x, scale=scale, causal=causal)
            (got,) = agreed(
                lambda dy=dy, y=y, scale=scale, causal=causal: (
                    fa.softmax.backward(dy, y, scale=scale, causal=causal, out=poisoned(y.shape, dtype)),
                )
            )
            want = scale * truth.softmax_backward(dy, y)
            terms = abs(scale) * y * (np.abs(dy) + (np.abs(dy) * y).sum(-1, keepdims=True))
            assert (np.abs(got - want) <= 4 * eps * terms + np.finfo(dtype).tiny).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("axis", [-1, -2])
def test_backward_against_differences(axis, causal, backend):
    x, dy, v, bias, w = np.random.default_rng(2).standard_normal((5, 3, 6, 9))
    mask, h = holes((3, 6, 9)), 1e-6
    more = {"axis": axis, "scale": 0.7, "causal": causal, "where": mask}

    def f(t):
        return fa.softmax(x + t * v, bias=bias + t * w, **more)

    numeric = (dy * (f(h) - f(-h))).sum() / (2 * h)
    dx = fa.softmax.backward(dy, f(0.0), **more)
    dbias = fa.softmax.backward(dy, f(0.0), **{**more, "scale": 1.0})
    assert np.isclose((dx * v).sum() + (dbias * w).sum(), numeric, rtol=1e-7, atol=1e-9)
    # of a bias that broadcasts: the sum
    h *= np.ones((1, 1, 9))
    numeric = (dy * (fa.softmax(x, bias=h, **more) - fa.softmax(x, bias=-h, **more))).sum() / 2e-6
    assert np.isclose(
        fa.softmax.backward(dy, fa.softmax(x, **more), **{**more, "scale": 1.0}).sum(), numeric, atol=1e-9
    )


# what counts


@each_float
def test_a_causal_row_is_its_beginning(dtype, backend):
    for rows, n in ((67, 67), (5, 40), (40, 5), (1, 9), (9, 1), (300, 300)):
        x, dy = numbers((2, rows, n), dtype, n), numbers((2, rows, n), dtype, n + 1)
        y = fa.softmax(x, causal=True, out=poisoned(x.shape, dtype))
        # beyond, nothing is looked at
        beyond = ~truth.counted(x.shape, causal=True)
        z, dz, shares = (np.where(beyond, np.nan, a) for a in (x, dy, y))
        assert same(fa.softmax(z, causal=True), y)
        dx = fa.softmax.backward(dz, shares, causal=True, out=poisoned(x.shape, dtype))
        assert (y[beyond] == 0).all() and (dx[beyond] == 0).all()
        assert not np.signbit(y[beyond]).any() and not np.signbit(dx[beyond]).any()
        for i in range(rows):
            assert same(y[:, i, : i + 1], fa.softmax(x[:, i, : i + 1]))
            assert same(dx[:, i, : i + 1], fa.softmax.backward(dy[:, i, : i + 1], y[:, i, : i + 1]))


@each_float
def test_every_length(dtype, backend):
    for n in range(68):
        x, bias = numbers((3, 19, n), dtype, n), numbers((19, n), dtype, n + 1)
        mask = holes((19, n), n)
        for causal, where in itertools.product((False, True), (None, mask)):
            more = {"scale": 0.3, "causal": causal}
            y = fa.softmax(x, bias=bias, where=where, **more, out=poisoned(x.shape, dtype))
            assert (y[~truth.counted(x.shape, None, where, causal)] == 0).all()
            if n and dtype == np.float32:
                assert worst(y, truth.scaled_softmax(x, 0.3, bias, where, causal)) <= BOUND
            turned = None if where is None else where.T
            z = fa.softmax(x.swapaxes(1, 2).copy(), -2, bias=bias.T.copy(), where=turned, **more)
            assert same(z.swapaxes(1, 2), y)


@each_float
def test_a_bias_of_minus_infinity_is_a_mask(dtype, backend):
    for n in (1, 5, 16, 17, 64, 67, 300):
        x, mask = numbers((40, n), dtype, n), holes((40, n), n)
        mask[3], mask[4] = False, True
        bias = additive(mask, dtype)
        for causal in (False, True):
            masked = fa.softmax(x, scale=0.5, where=mask, causal=causal)
            y = fa.softmax(x, scale=0.5, bias=bias, causal=causal, out=poisoned(x.shape, dtype))
            assert same(y, masked)
            assert same(fa.softmax(x, axis=1, scale=0.5, bias=bias, where=mask, causal=causal), masked)
            assert (y[3] == 0).all()
            y = fa.softmax(np.asfortranarray(x), scale=0.5, bias=np.asfortranarray(bias), causal=causal)
            assert same(y, masked)
            # under a mask nothing is looked at
            z = np.where(mask, x, np.nan)
            assert same(fa.softmax(z, scale=0.5, where=mask, causal=causal), masked)
            for b in (bias, np.where(mask, 0, np.nan).astype(dtype)):
                assert same(fa.softmax(z, scale=0.5, bias=b, where=mask, causal=causal), masked)
                assert same(fa.softmax(z, scale=0.5, bias=np.asfortranarray(b), where=mask, causal=causal), masked)
        side = fa.softmax(np.ascontiguousarray(x.T), axis=0, scale=0.5, bias=bias.T.copy())
        assert same(side.T, fa.softmax(x, scale=0.5, where=mask))
        assert (fa.softmax(x, bias=np.full(n, -np.inf, dtype)) == 0).all()
        assert (fa.softmax(x.T.copy(), axis=0, bias=np.full((n, 1), -np.inf, dtype)) == 0).all()
        assert (fa.softmax(x.T.copy(), axis=0, bias=np.full((n, 40), -np.inf, dtype)) == 0).all()
    # but inf and NaN are no numbers even so
    for special in (np.inf, np.nan):
        x = numbers((18, 33), dtype, 5)
        x[:, 4] = special
        for axis in (-1, 0):
            a = x if axis else x.T.copy()
            assert np.isnan(fa.softmax(a, axis, bias=np.full(a.shape, -np.inf, dtype))).all()


@each_float
@pytest.mark.parametrize("scale", [0.0, -0.0, -1.5, 1e-3])
def test_masks_and_signs_of_the_scale(scale, dtype, backend):
    x = numbers((9, 33), dtype, 4)
    mask = holes(x.shape)
    mask[2] = False
    for given in ({}, {"bias": numbers((33,), dtype, 5)}):
        y = fa.softmax(x, scale=scale, where=mask, **given)
        assert worst(y, truth.scaled_softmax(x, scale, mask=mask, **given)) <= BOUND
        assert same(
            fa.softmax(x.T, axis=0, scale=scale, where=mask.T, **{k: b[:, None] for k, b in given.items()}).T, y
        )
    assert same(fa.softmax(x, scale=-1.0), fa.softmin(x))


@each_float
def test_special_values(dtype, backend):
    x = numbers((8, 21), dtype, 6)
    x[0, 3], x[1, 20], x[2], x[3, 5] = np.nan, np.inf, -np.inf, -np.inf
    bias = np.zeros((8, 21), dtype)
    bias[4, 1], bias[5, 2], bias[6], bias[6, 4] = np.nan, np.inf, -np.inf, np.nan
    for given in ({"bias": bias}, {"bias": bias, "scale": 2.0}):
        for axis in (-1, 0):
            a, b = (x, bias) if axis else (x.T.copy(), bias.T.copy())
            y = fa.softmax(a, axis, **{**given, "bias": b})
            y = y if axis else y.T
            assert np.isnan(y[[0, 1, 2, 4, 5, 6]]).all()
            assert y[3, 5] == 0 and np.isfinite(y[[3, 7]]).all()
    # -inf becomes inf
    assert np.isnan(fa.softmax(x, scale=-1.0)[3]).all()
    assert np.isnan(fa.softmax(x, scale=0.0)[3]).all()
    with np.errstate(all="raise"):
        fa.softmax(x, scale=1e30, bias=bias)
        fa.softmax(x.astype(np.float16), scale=1e-30, bias=bias.astype(np.float16))


# shapes


SHAPES = ((33,), (20, 33), (3, 1, 33), (1, 1, 20, 33), (2, 1, 1, 33), (3, 20, 1), (1,), (2, 3, 20, 33), (2, 1, 20, 1))


@each_float
def test_a_bias_broadcasts(dtype, backend):
    x = numbers((2, 3, 20, 33), dtype, 7)
    mask = holes((2, 1, 1, 33))
    for shape in (
        (33,),
        (20, 33),
        (3, 1, 33),
        (1, 1, 20, 33),
        (2, 1, 1, 33),
        (3, 20, 1),
        (1,),
        (2, 3, 20, 33),
        (2, 1, 20, 1),
    ):
        bias = numbers(shape, dtype, 8)
        full = np.ascontiguousarray(np.broadcast_to(bias, x.shape))
        for causal, where in itertools.product((False, True), (True, mask)):
            want = fa.softmax(x, scale=0.25, bias=full, causal=causal, where=where)
            assert same(fa.softmax(x, scale=0.25, bias=bias, causal=causal, where=where), want)
            out = x.copy()
            assert fa.softmax(out, scale=0.25, bias=bias, causal=causal, where=where, out=out) is out
            assert same(out, want)
        for axis in (0, 1, 2):
            want = fa.softmax(np.moveaxis(x, axis, -1).copy(), scale=0.25, bias=np.moveaxis(full, axis, -1))
            assert same(np.moveaxis(fa.softmax(x, axis, scale=0.25, bias=bias), axis, -1), want)
        for axes in ((1, 3), (0, 1), None):
            want = fa.softmax(x, axes, scale=0.25, bias=full)
            assert same(fa.softmax(x, axes, scale=0.25, bias=bias), want)
            assert np.allclose(want.sum(axes), 1, rtol=1e-5)
    assert same(fa.softmax(x, bias=2.5), fa.softmax(x, bias=np.full(1, 2.5, dtype)))


@each_float
def test_layouts(dtype, backend):
    x, bias = numbers((3, 24, 40), dtype, 9), numbers((24, 40), dtype, 10)
    dy = numbers(x.shape, dtype, 11)
    for causal in (False, True):
        y = fa.softmax(x, scale=0.6, bias=bias, causal=causal)
        dx = fa.softmax.backward(dy, y, scale=0.6, causal=causal)
        wide = np.full((3, 48, 121), np.nan, dtype)
        wide[:, ::2, 1::3] = x
        views = [
            np.asfortranarray(x),
            wide[:, ::2, 1::3],
            x[:, ::-1, ::-1].copy()[:, ::-1, ::-1],
            x.transpose(1, 0, 2).copy().transpose(1, 0, 2),
        ]
        for z in views:
            assert same(fa.softmax(z, scale=0.6, bias=bias, causal=causal), y)
            assert same(fa.softmax(z, scale=0.6, bias=np.asfortranarray(bias), causal=causal), y)
            assert same(fa.softmax.backward(np.asfortranarray(dy), np.asfortranarray(y), scale=0.6, causal=causal), dx)
        for offset in (0, 1, 5):
            z, out = misaligned(x.shape, dtype, offset), misaligned(x.shape, dtype, offset + 2)
            z[...] = x
            assert fa.softmax(z, scale=0.6, bias=bias, causal=causal, out=out) is out
            assert same(out, y)
        odd = np.zeros(x.nbytes + 1, np.uint8)[1:].view(dtype).reshape(x.shape)
        odd[...] = x
        assert same(fa.softmax(odd, scale=0.6, bias=bias, causal=causal), y)
        assert same(fa.softmax(x.astype(np.dtype(dtype).newbyteorder()), scale=0.6, bias=bias, causal=causal), y)
        for place in (dy.copy(), None):
            shares = y.copy()
            target = shares if place is None else place
            assert (
                fa.softmax.backward(dy if place is None else place, shares, scale=0.6, causal=causal, out=target)
                is target
            )
            assert same(target, dx)
        for axis in (0, 1, 2):
            assert fa.softmax(np.asfortranarray(x), axis, scale=0.6).flags.f_contiguous


def test_overlap(backend):
    buffer = numbers((1000,), np.float32, 12)
    x, out = buffer[:900].reshape(30, 30), buffer[10:910].reshape(30, 30)
    want = fa.softmax(x.copy(), scale=0.5, causal=True)
    assert fa.softmax(x, scale=0.5, causal=True, out=out) is out
    assert same(out, want)
    # in the place of the bias, of its rows, and of a mask
    x, bias = numbers((30, 30), np.float32, 13), numbers((30, 30), np.float32, 14)
    want = fa.softmax(x, bias=bias)
    assert same(fa.softmax(x, bias=bias, out=bias), want)
    row = numbers((30, 30), np.float32, 15)
    want = fa.softmax(x, bias=row[4].copy())
    assert same(fa.softmax(x, bias=row[4], out=row), want)
    mask = np.zeros((30, 120), bool)
    mask[:, :30] = holes((30, 30))
    want = fa.softmax(x, scale=0.5, where=mask[:, :30].copy())
    assert same(fa.softmax(x, scale=0.5, where=mask[:, :30], out=mask.view(np.float32)), want)
    square = numbers((40, 40), np.float32, 16)
    want = fa.softmax(square.copy(), scale=0.5)
    fa.softmax(square, scale=0.5, out=square.T)
    assert same(square.T.copy(), want)
    dy, y = numbers((30, 30), np.float32, 17), fa.softmax(x)
    want = fa.softmax.backward(dy, y, scale=0.5)
    assert same(fa.softmax.backward(dy, y, scale=0.5, out=y.T).copy(), want)


@each_float
def test_empty(dtype, backend):
    for shape in ((0,), (0, 5), (5, 0), (2, 0, 3), (0, 0)):
        x = np.ones(shape, dtype)
        for given in ({"scale": 2.0}, {"bias": np.ones(1, dtype)}, {"causal": len(shape) > 1, "scale": 2.0}):
            y = fa.softmax(x, **given)
            assert y.shape == shape and y.dtype == dtype
            given.pop("bias", None)
            assert fa.softmax.backward(y, y, **given).shape == shape
    for axis in (None, ()):
        y = fa.softmax(dtype(3), axis, scale=2.0, bias=dtype(1))
        assert isinstance(y, dtype) and y == 1
    assert (fa.softmax(np.ones((2, 3), dtype), (), scale=2.0) == 1).all()


# dtypes, bits


def test_dtypes(backend):
    x, bias = numbers((20, 33), np.float32, 18), numbers((33,), np.float32, 19)
    for dtype in (np.float16, BFLOAT16):
        z, b = x.astype(dtype), bias.astype(dtype)
        for causal in (False, True):
            y = fa.softmax(z, scale=0.3, bias=b, causal=causal)
            assert y.dtype == dtype
            want = fa.softmax(z.astype(np.float32), scale=0.3, bias=b.astype(np.float32), causal=causal).astype(dtype)
            assert same(y, want)
            assert same(fa.softmax(z.T, 0, scale=0.3, bias=b[:, None]), fa.softmax(z, scale=0.3, bias=b).T)
            dx = fa.softmax.backward(z, y, scale=0.3, causal=causal)
            want = fa.softmax.backward(z.astype(np.float32), y.astype(np.float32), scale=0.3, causal=causal)
            assert same(dx, want.astype(dtype))
        mixed = fa.softmax(z, bias=bias)
        assert mixed.dtype == np.float32
        assert same(mixed, fa.softmax(z.astype(np.float32), bias=bias))
        assert same(fa.softmax(x, bias=b), fa.softmax(x, bias=b.astype(np.float32)))
        assert fa.softmax(z, bias=1.5).dtype == dtype
    assert fa.softmax(x, bias=bias.astype(np.float64)).dtype == np.float64
    assert fa.softmax(x, scale=np.float64(0.5)).dtype == np.float32
    assert fa.softmax([[0, 1], [2, 3]], scale=2).dtype == np.float64
    out = poisoned(x.shape, np.float64)
    assert fa.softmax(x, scale=0.3, out=(out,)) is out
    assert same(out, fa.softmax(x, scale=0.3).astype(np.float64))
    for one in (1, 1.0, np.float32(1), np.int8(1)):
        assert same(fa.softmax(x, scale=one, causal=np.False_), fa.softmax(x))


@each_float
def test_threads_and_backends(dtype):
    before = fa.get_num_threads()
    try:
        for shape, axis in (((3, 130, 130), -1), ((3, 130, 130), -2), ((2, 600, 64), -1), ((4, 1000, 20), 1)):
            x, bias = numbers(shape, dtype, 20), numbers(shape[1:], dtype, 21)
            mask = holes(shape[1:])
            for causal, where, b in itertools.product((False, True), (True, mask), (None, bias)):
                more = {"scale": 0.3, "causal": causal, "where": where}

                def compute(x=x, axis=axis, b=b, more=more):
                    y = fa.softmax(x, axis, bias=b, **more, out=poisoned(x.shape, x.dtype))
                    return y, fa.softmax.backward(x, y, axis, **more, out=poisoned(x.shape, x.dtype))

                fa.set_num_threads(1)
                want = agreed(compute)
                for count in (2, 3):
                    fa.set_num_threads(count)
                    assert all(same(a, b) for a, b in zip(compute(), want, strict=True))
    finally:
        fa.set_num_threads(before)


def test_long_rows():
    before = fa.get_num_threads()
    try:
        for shape in ((1, 3 * 65536 + 7), (9, 70000), (2, 5 * 65536)):
            x, bias = numbers(shape, np.float32, 22), numbers(shape[1:], np.float32, 23)
            bias[: 2 * 65536] = -np.inf
            for dtype, where, b in itertools.product(
                (np.float32, np.float16), (True, x < 1), (None, bias, bias * np.inf)
            ):
                z, b = x.astype(dtype), None if b is None else b.astype(dtype)
                b = b if b is None or not np.isnan(b).any() else np.full_like(b, -np.inf)

                def compute(z=z, b=b, where=where):
                    y = fa.softmax(z, scale=0.3, bias=b, where=where, out=poisoned(z.shape, z.dtype))
                    return y, fa.softmax.backward(z, y, scale=0.3, where=where)

                fa.set_num_threads(1)
                want = agreed(compute)
                for count in (2, 3):
                    fa.set_num_threads(count)
                    assert all(same(u, v) for u, v in zip(compute(), want, strict=True))
                if dtype == np.float32:
                    out = z.copy()
                    assert same(fa.softmax(out, scale=0.3, bias=b, where=where, out=out), want[0])
        # under a causal mask
        x = numbers((3, 70000), np.float32, 24)
        y = fa.softmax(x, scale=0.3, causal=True)
        assert same(y[:, :3], fa.softmax(x[:, :3], scale=0.3, causal=True))
        assert (y[:, 3:] == 0).all()
    finally:
        fa.set_num_threads(before)


@each_float
def test_past_the_cache(dtype, streaming):
    x, bias = numbers((2, 300, 211), dtype, 25), numbers((300, 211), dtype, 26)
    wide = numbers((2100, 144), dtype, 27)
    for causal in (False, True):
        y = fa.softmax(x, scale=0.3, bias=bias, causal=causal)
        dx = fa.softmax.backward(x, y, scale=0.3, causal=causal)
        streaming(1)
        for offset in (0, 3, 6):
            out = misaligned(x.shape, dtype, offset)
            assert same(fa.softmax(x, scale=0.3, bias=bias, causal=causal, out=out), y)
            assert same(fa.softmax.backward(x, y, scale=0.3, causal=causal, out=out), dx)
        side = fa.softmax(wide, 0, scale=0.3, bias=wide)
        streaming(1 << 40)
        assert same(fa.softmax(wide, 0, scale=0.3, bias=wide), side)


# errors


X = np.ones((4, 5), np.float32)
CASES = {
    "scale of text": (TypeError, "scale", {"scale": "much"}),
    "scale of booleans": (TypeError, "scale", {"scale": True}),
    "scale that is complex": (TypeError, "scale", {"scale": 1j}),
    "scales": (TypeError, "scale", {"scale": np.ones(5)}),
    "no scale": (TypeError, "scale", {"scale": None}),
    "infinite scale": (ValueError, "scale", {"scale": np.inf}),
    "scale NaN": (ValueError, "scale", {"scale": np.nan}),
    "scale too large": (ValueError, "scale must be finite in float32", {"scale": 1e300}),
    "causal of 1": (TypeError, "causal", {"causal": 1}),
    "causal of an array": (TypeError, "causal", {"causal": np.ones(2, bool)}),
    "causal along two axes": (ValueError, "causal", {"causal": True, "axis": (0, 1)}),
    "causal along all axes": (ValueError, "causal", {"causal": True, "axis": None}),
    "axis out of range": (np.exceptions.AxisError, "axis 2", {"axis": 2, "scale": 2.0}),
    "axis twice": (ValueError, "axis", {"axis": (0, 0), "scale": 2.0}),
    "axis 1.0": (TypeError, "axis", {"axis": 1.0, "scale": 2.0}),
    "mask of integers": (TypeError, "where", {"where": np.ones((4, 5), int), "scale": 2.0}),
    "mask of a wrong shape": (ValueError, "where", {"where": np.ones((3, 5), bool), "scale": 2.0}),
    "masked mask": (TypeError, "masked", {"where": np.ma.ones((4, 5), bool), "scale": 2.0}),
    "dtype": (TypeError, "dtype", {"dtype": np.float64, "scale": 2.0}),
    "unknown keyword": (TypeError, "temperature", {"temperature": 2.0, "scale": 2.0}),
    "out of a wrong shape": (ValueError, "out", {"out": np.ones((5, 5), np.float32), "scale": 2.0}),
    "out of integers": (TypeError, "out", {"out": np.ones((4, 5), int), "scale": 2.0}),
    "out of a narrower kind": (TypeError, "out", {"out": np.ones((4, 5), "M8[s]"), "scale": 2.0}),
    "two outs": (ValueError, "out", {"out": (X, X), "scale": 2.0}),
    "out that is no array": (TypeError, "out", {"out": [0.0], "scale": 2.0}),
}
BIASES = {
    "bias of integers": (TypeError, "bias", {"bias": np.zeros(5, int)}),
    "bias of booleans": (TypeError, "where", {"bias": np.zeros(5, bool)}),
    "bias that is complex": (TypeError, "complex", {"bias": np.zeros(5, complex)}),
    "bias of text": (TypeError, "str", {"bias": "much"}),
    "bias of a wrong length": (ValueError, "bias", {"bias": np.zeros(4)}),
    "bias of more axes": (ValueError, "bias", {"bias": np.zeros((2, 4, 5))}),
    "masked bias": (TypeError, "masked", {"bias": np.ma.zeros(5)}),
}


@pytest.mark.parametrize("case", [*CASES, *BIASES])
def test_errors(case):
    error, words, given = {**CASES, **BIASES}[case]
    methods = [lambda **k: fa.softmax(X, **k)]
    if case in CASES:
        methods.append(lambda **k: fa.softmax.backward(X, X, **k))
    out = given.get("out", np.full((4, 5), 7, np.float32))
    for method in methods:
        with pytest.raises(error, match=words) as caught:
            method(**{**given, "out": out})
        assert "softmax" in str(caught.value) or error is np.exceptions.AxisError or "axis" in str(caught.value)
        if isinstance(out, np.ndarray) and out.dtype == np.float32:
            assert (out == (7 if out[0, 0] == 7 else 1)).all()


def test_errors_of_arrays():
    for bad in (np.array([1j]), np.array(["a"]), np.array([None]), np.ma.ones(3)):
        with pytest.raises(TypeError):
            fa.softmax(bad, scale=2.0)
    with pytest.raises(ValueError, match=r"causal.*1 dimension$"):
        fa.softmax(np.ones(3), causal=True)
    with pytest.raises(ValueError, match="causal"):
        fa.softmax(np.ones((2, 3, 4)), 0, causal=True)
    with pytest.raises(ValueError, match=r"dy of shape .* y of shape"):
        fa.softmax.backward(np.ones(3), np.ones(4), scale=2.0)
    with pytest.raises(TypeError, match="bias"):
        fa.softmax.backward(X, X, bias=X)
    with pytest.raises(TypeError, match="scale"):
        fa.log_softmax(X, scale=2.0)
    X.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        fa.softmax(X.copy(), scale=2.0, out=X)
    X.flags.writeable = True


# the rest


def test_explain_and_warmup():
    with fa.use_backend("reference"):
        assert "reference" in fa.explain(fa.softmax, X, scale=2.0, causal=True)
    assert fa.explain(fa.softmax, X, bias=X).startswith("softmax forward, 20 elements of float32 in 4 rows")
    assert fa.explain(fa.softmax.backward, X, X, 0, scale=2.0).startswith(
        "softmax backward, 20 elements of float32 in 5"
    )
    assert fa.explain(fa.softmax, scale=2.0)
    with pytest.raises(ValueError, match="causal"):
        fa.explain(fa.softmax, X, None, causal=True)
    with fa.use_backend("reference"):
        assert fa.warmup("softmax", "scaled") == 6
        assert fa.warmup(kinds="scaled_backward") == 3


def test_a_backend_that_is_chosen_later():
    with fa.use_backend("reference"):
        want = fa.softmax(X, scale=0.3, bias=X)
    assert same(fa.softmax(X, scale=0.3, bias=X), want)
