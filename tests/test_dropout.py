"""Dropout and rrelu: the numbers of Philox, the same on every backend, thread count, instruction set and layout."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import random_oracle
from cases import BACKENDS, agreed, batch, difference, each_dtype, same, unavailable
from ulp import BFLOAT16, misaligned, poisoned

import fastact as fa
from fastact.runtime import _driver

F16, F32, F64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
COMPUTE = {F16: F32, BFLOAT16: F32, F32: F32, F64: F64}
LENGTHS = [*range(68), 127, 128, 129, 255, 257, 511, 512, 513, 1023, 2047, 2048, 2049, 4111, 8191, 8192, 8193]
SEED = 0x0123456789ABCDEF

each_float = pytest.mark.parametrize("dtype", [F32, F64], ids=lambda d: d.name)


def dropped(x, p, seed=SEED, offset=0):
    """Dropout by the oracle, in the computing dtype, rounded once."""
    compute = COMPUTE[x.dtype]
    with np.errstate(all="ignore"):
        return (x.astype(compute) * random_oracle.factors(x.shape, p, seed, offset, compute)).astype(x.dtype)


def assert_same(got, want):
    assert same(got, want), difference(got, want)


def test_vectors_of_the_paper():
    """Random123, kat_vectors, philox4x32 10."""
    ones = (1 << 64) - 1
    for counter, key, words in (
        (0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((1 << 128) - 1, ones, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (0x03707344_13198A2E_85A308D3_243F6A88, 0x299F31D0_A4093822, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ):
        assert tuple(random_oracle.philox(counter, key)) == words
    assert (random_oracle.numbers(SEED, 77, 50) == random_oracle.many_numbers(SEED, 77, 50)).all()


def numbers_of(n, seed, offset, dtype=F64):
    """The numbers themselves: rrelu's slopes between 0 and 1."""
    (y,) = agreed(lambda: (fa.rrelu(np.full(n, -1, dtype), 0.0, 1.0, training=True, seed=seed, offset=offset),))
    return -y


@each_float
@pytest.mark.parametrize("seed", [0, 1, SEED, (1 << 64) - 1])
@pytest.mark.parametrize("offset", [0, 5, (1 << 32) - 3, (1 << 64) - 1, (1 << 64) - 4, (1 << 64) - 9])
def test_numbers_are_those_of_philox(seed, offset, dtype, driver_isa):
    """Also where the lower half of the counter, or a quarter, overflows."""
    n = 150
    assert_same(numbers_of(n, seed, offset, dtype), random_oracle.numbers(seed, offset, n).astype(dtype))


@each_dtype
def test_every_length(dtype, driver_isa):
    whole = batch(dtype, max(LENGTHS))
    for n in LENGTHS:
        x = whole[:n]
        want = dropped(x, 0.3, offset=n)
        out = poisoned(n, dtype)
        assert fa.dropout(x, 0.3, seed=SEED, offset=n, out=out) is out
        assert_same(out, want)
        assert_same(fa.dropout.backward(x, 0.3, seed=SEED, offset=n), want)


@each_dtype
@pytest.mark.parametrize("p", [0, 0.0, 1e-9, 0.1, 0.5, 2.0**-24, 1 - 2.0**-24, 1 - 2.0**-30, np.float32(0.25)])
def test_probabilities(p, dtype):
    x = batch(dtype, 3001)
    for function in (fa.dropout, fa.dropout.backward):
        (got,) = agreed(lambda function=function: (function(x, p, seed=SEED, offset=3),))
        if p == 1 - 2.0**-30:  # above every number
            assert not np.isfinite(got).all() and (got[np.isfinite(got)] == 0).all()
        else:
            assert_same(got, dropped(x, float(p), offset=3))


@each_dtype
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_threads(count, threads, dtype):
    threads(count)
    x = batch(dtype, (1 << 18) + 5)
    want = dropped(x, 0.5)
    for _ in range(3):
        assert_same(fa.dropout(x, 0.5, seed=SEED), want)
    assert_same(fa.rrelu(x, training=True, seed=SEED), slopes(x, 1 / 8, 1 / 3))


@each_float
@pytest.mark.parametrize("shift", [0, 1, 3, 4, 6, 7])
def test_past_the_cache(shift, dtype, threads, driver_isa):
    """Whatever the alignment of the result; numbers go by the index, not by the address."""
    limit = _driver.status()["stream_min"]
    threads(2)
    _driver.configure(stream_min=1)
    try:
        for n in (100, 5000, 70_001):
            x = misaligned(n, dtype, (shift * 5) % 8)
            x[...] = batch(dtype, n)
            out = misaligned(n, dtype, shift)
            fa.dropout(x, 0.3, seed=SEED, out=out)
            assert_same(out, dropped(x, 0.3))
            fa.rrelu(x, training=True, seed=SEED, out=out)
            assert_same(out, slopes(x, 1 / 8, 1 / 3))
    finally:
        _driver.configure(stream_min=limit)


@each_dtype
def test_layouts(dtype):
    """The index of an element is that in C order, however the array lies."""
    x = batch(dtype, 21 * 34).reshape(21, 34)
    want = dropped(x, 0.4, offset=9)
    wide = np.zeros((42, 68), dtype)
    wide[::2, ::2] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(dtype).reshape(x.shape)
    raw[...] = x
    made = [wide[::2, ::2], np.asfortranarray(x), np.flip(np.flip(x).copy()), frozen, raw, x.reshape(3, 7, 34)]
    if dtype != BFLOAT16:
        made.append(x.astype(dtype.newbyteorder()))
    for a in made:
        (got,) = agreed(lambda a=a: (fa.dropout(a, 0.4, seed=SEED, offset=9),))
        assert_same(got.reshape(x.shape), want)
        out = poisoned(a.shape, dtype, "F")
        assert fa.dropout(a, 0.4, seed=SEED, offset=9, out=out) is out
        assert_same(out.reshape(x.shape), want)
    # in place, and partly in the way of the result
    fa.dropout(raw, 0.4, seed=SEED, offset=9, out=raw)
    assert_same(raw, want)
    long = np.concatenate([x.ravel(), np.zeros(1, dtype)])
    fa.dropout(long[:-1], 0.4, seed=SEED, offset=9, out=long[1:])
    assert_same(long[1:], want.ravel())


def test_offset_continues_a_stream():
    x = np.ones(4096, F32)
    whole = fa.dropout(x, 0.5, seed=3)
    for first in (4, 64, 1000):
        assert_same(fa.dropout(x[first:], 0.5, seed=3, offset=first // 4), whole[first:])


@each_float
def test_statistics(dtype):
    """The share of kept elements, in each of four words and of runs, within five standard deviations."""
    n = 1 << 20
    for p in (0.1, 0.5, 0.9):
        kept = fa.dropout(np.ones(n, dtype), p, seed=42) != 0
        for part in (kept, *(kept[i::4] for i in range(4)), kept[: n // 2], kept[1:] != kept[:-1]):
            mean = 2 * p * (1 - p) if part.size == n - 1 else 1 - p
            assert abs(part.mean() - mean) < 5 * math.sqrt(mean * (1 - mean) / part.size)
        other = fa.dropout(np.ones(n, dtype), p, seed=43) != 0
        assert abs((kept & other).mean() - (1 - p) ** 2) < 5 / math.sqrt(4 * n)
        # the mean is that of x
        assert abs(fa.dropout(np.ones(n, dtype), p, seed=42).mean() - 1) < 5 * math.sqrt(p / (1 - p) / n)


def slopes(x, lower, upper, seed=SEED, offset=0):
    compute = COMPUTE[x.dtype]
    u = random_oracle.many_numbers(seed, offset, x.size).reshape(x.shape).astype(compute)
    with np.errstate(all="ignore"):
        slope = compute.type(lower) + compute.type(upper - lower) * u
        wide = x.astype(compute)
        return np.where(wide > 0, wide, slope * wide).astype(x.dtype)


@each_dtype
def test_rrelu(dtype):
    x = batch(dtype, 5001)
    dy = batch(dtype, 5001, 1)
    (got,) = agreed(lambda: (fa.rrelu(x, 0.1, 0.4, training=True, seed=SEED, offset=2),))
    assert_same(got, slopes(x, 0.1, 0.4, offset=2))
    slope = slopes(np.full(x.shape, -1, COMPUTE[dtype]), 0.1, 0.4, offset=2)
    wide = dy.astype(COMPUTE[dtype])
    with np.errstate(all="ignore"):
        want = wide * np.where(x.astype(COMPUTE[dtype]) > 0, COMPUTE[dtype].type(1), -slope)
        (got,) = agreed(lambda: (fa.rrelu.backward(dy, x, 0.1, 0.4, training=True, seed=SEED, offset=2),))
        # prelu's convention at NaN
        number = ~np.isnan(x.astype(np.float64))
        assert_same(got[number], want.astype(dtype)[number])
    # one slope where it is not in training
    for given in ((), (0.1, 0.4)):
        lower, upper = given or (1 / 8, 1 / 3)
        mean = (lower + upper) / 2
        (got,) = agreed(lambda given=given: (fa.rrelu(x, *given, training=False),))
        assert_same(got, fa.leaky_relu(x, negative_slope=mean))
        (got,) = agreed(lambda given=given: (fa.rrelu.backward(dy, x, *given, training=False),))
        assert_same(got, fa.leaky_relu.backward(dy, x, negative_slope=mean))


def test_rrelu_of_central_differences():
    x = np.random.default_rng(0).standard_normal(400)
    x[np.abs(x) < 0.01] = 0.5
    step = 2.0**-20
    moved = [fa.rrelu(x + s, training=True, seed=5) for s in (step, -step)]
    got = fa.rrelu.backward(np.ones(400), x, training=True, seed=5)
    assert np.abs((moved[0] - moved[1]) / (2 * step) - got).max() < 1e-9


# ---- arguments


def untouched(function, error, match, *arrays, **given):
    out = given.pop("out", None)
    if out is None:
        out = poisoned(np.shape(arrays[0]), F32)
    before = out.copy()
    with pytest.raises(error, match=match):
        function(*arrays, out=out, **given)
    assert same(out, before)


@pytest.mark.parametrize(
    ("p", "given", "error", "match"),
    [
        (1.0, {"seed": 1}, ValueError, "p must be in"),
        (-0.1, {"seed": 1}, ValueError, "p must be in"),
        (math.nan, {"seed": 1}, ValueError, "p must be in"),
        (math.inf, {"seed": 1}, ValueError, "p must be in"),
        ("much", {"seed": 1}, TypeError, "p must be a number"),
        (1j, {"seed": 1}, TypeError, "p must be a number"),
        ([0.5], {"seed": 1}, TypeError, "p must be a number"),
        (True, {"seed": 1}, TypeError, "p must be a number"),
        (0.5, {}, TypeError, "seed"),
        (0.5, {"seed": None}, TypeError, "seed must be given"),
        (0.5, {"seed": 1.0}, TypeError, "seed must be an integer"),
        (0.5, {"seed": True}, TypeError, "seed must be an integer"),
        (0.5, {"seed": -1}, ValueError, "seed must be in"),
        (0.5, {"seed": 1 << 64}, ValueError, "seed must be in"),
        (0.5, {"seed": 1, "offset": -1}, ValueError, "offset must be in"),
        (0.5, {"seed": 1, "offset": 1 << 64}, ValueError, "offset must be in"),
        (0.5, {"seed": 1, "offset": 0.5}, TypeError, "offset must be an integer"),
        (0.5, {"seed": 1, "axis": 0}, TypeError, "axis"),
    ],
)
def test_bad_numbers(p, given, error, match):
    x = np.ones(7, F32)
    untouched(fa.dropout, error, match, x, p, **given)
    untouched(fa.dropout.backward, error, match, x, p, **given)


def test_bad_arrays():
    x = np.ones(7, F32)
    for function in (fa.dropout, fa.dropout.backward):
        for bad in (x.astype(complex), x.astype(object), np.array(["a"] * 7), x.astype("M8[s]")):
            untouched(function, TypeError, "not supported", bad, 0.5, seed=1)
        untouched(function, TypeError, "masked", np.ma.masked_array(x, x > 0), 0.5, seed=1)
        untouched(function, ValueError, "shape", x, 0.5, seed=1, out=np.zeros(8, F32))
        untouched(function, TypeError, "cannot write", x, 0.5, seed=1, out=np.zeros(7, np.int64))
        frozen = np.zeros(7, F32)
        frozen.flags.writeable = False
        untouched(function, ValueError, "read-only", x, 0.5, seed=1, out=frozen)
        with pytest.raises(TypeError, match="out must be an array"):
            function(x, 0.5, seed=1, out=[0.0] * 7)
    with pytest.raises(ValueError, match="dy has shape"):
        fa.rrelu.backward(np.ones(6), np.ones(7), training=True, seed=1)


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"training": True}, TypeError, "seed must be given"),
        ({}, TypeError, "training"),
        ({"training": 1, "seed": 1}, TypeError, "training must be"),
        ({"training": True, "seed": 1, "lower": 0.5, "upper": 0.25}, ValueError, "lower must not exceed"),
        ({"training": True, "seed": 1, "lower": math.nan}, ValueError, "lower must be finite"),
        ({"training": True, "seed": 1, "upper": math.inf}, ValueError, "upper must be finite"),
        ({"training": True, "seed": 1, "upper": [1.0]}, TypeError, "upper must be a number"),
        ({"training": True, "seed": -1}, ValueError, "seed must be in"),
    ],
)
def test_bad_arguments_of_rrelu(given, error, match):
    x = np.ones(7, F32)
    untouched(fa.rrelu, error, match, x, **given)
    with pytest.raises(error, match=match):
        fa.rrelu.backward(x, x, **given)


def test_dtypes_and_kinds_of_arrays():
    assert fa.dropout([1, 2, 3], 0.0, seed=1).tolist() == [1.0, 2.0, 3.0]
    assert fa.dropout(np.arange(5), 0.5, seed=1).dtype == F64
    assert fa.dropout(np.ones(5, bool), 0.5, seed=1).dtype == F64
    assert fa.dropout(np.zeros((0, 3), F32), 0.5, seed=1).shape == (0, 3)
    one = fa.dropout(np.float32(1.0), 0.0, seed=1)
    assert one.dtype == F32 and np.ndim(one) == 0
    assert fa.dropout(np.ones(5, F32), 0.5, seed=1, out=np.zeros(5, F64)).dtype == F64
    assert fa.dropout(np.ones(5), np.float64(0.5), seed=np.int64(1), offset=np.uint8(3)).dtype == F64


def test_what_is_told():
    text = fa.explain("dropout", np.ones(5, F32))
    assert text.startswith("dropout forward, 5 elements of float32\nbackend: driver")
    assert fa.explain(fa.dropout.backward, np.ones(5)).startswith("dropout backward, 5 elements of float64")
    assert "prelu" not in fa.explain("rrelu", np.ones(5)).splitlines()[0]
    for backend in BACKENDS:
        if unavailable(backend) is None:
            with fa.use_backend(backend):
                assert f"backend: {backend if backend == 'reference' else 'driver'}" in fa.explain("dropout", [1.0])
    for f in (fa.dropout, fa.dropout.backward, fa.rrelu, fa.rrelu.backward):
        assert pickle.loads(pickle.dumps(f)) is f
        assert repr(f) == f"<fastact.{f.__name__}>"
    assert fa.warmup("rrelu") >= 2
    with pytest.raises(ValueError, match=r"fastact\.dropout"):
        fa.get("dropout")
