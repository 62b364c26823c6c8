"""The measuring tools themselves: each must catch what it is there to catch."""

import math

import numpy as np
import pytest
from mpmath import mp
from ulp import BFLOAT16, bits, errors, from_ordered, measure, misaligned, neighbours, ordered, poisoned, sample, ulp_of

DTYPES = [np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_order_is_the_order_of_the_numbers_and_inverts(dtype):
    x = from_ordered(np.arange(-300, 301), dtype)
    assert (np.diff(x.astype(np.float64)) > 0).all()
    for value in (0.0, 1.0, -1.0, float(x[7]), 3.5e-3, -(2.0**-10), np.inf):
        assert float(from_ordered([ordered(value, dtype)], dtype)[0]) == float(np.array(value, dtype))
    assert ordered(-0.0, dtype) == ordered(0.0, dtype) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ulp_is_the_spacing(dtype):
    x = np.concatenate([sample(dtype, 1e-44, np.finfo(dtype).max / 2, 3000), [1.0, 2.0, 0.5]]).astype(dtype)
    assert (ulp_of(x.astype(np.float64), dtype) == np.spacing(x).astype(np.float64)).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_neighbour_is_one_ulp_off_and_rounding_at_most_half(dtype):
    x = from_ordered(ordered(1.5, dtype) + np.arange(20), dtype)
    exact = x.astype(np.float64)
    up = from_ordered(ordered(1.5, dtype) + np.arange(20) + 1, dtype)
    assert (errors(x, exact)[0] == 0).all()
    assert (errors(up, exact)[0] == 1).all()
    spacing = ulp_of(exact, dtype)
    halfway = (exact, spacing / 2)
    assert (errors(x, halfway)[0] == 0.5).all()
    assert (errors(up, halfway)[0] == 0.5).all()


def test_float64_reference_is_not_rounded():
    with mp.workprec(300):
        third = mp.mpf(1) / 3
        hi = float(third)
        lo = float(third - hi)
    assert errors(np.array([hi]), (np.array([hi]), np.array([lo])))[0][0] == pytest.approx(
        abs(lo) / math.ulp(hi), rel=1e-12
    )
    assert errors(np.array([np.nextafter(hi, 1)]), (np.array([hi]), np.array([lo])))[0][0] > 0.6


def test_below_the_smallest_normal_number_the_error_is_absolute():
    tiny = 2.0**-126
    ulp, below, _ = errors(
        np.float32([0.0, tiny, -tiny, 0.0]), np.array([0.9 * tiny, 0.25 * tiny, 0.5 * tiny, 1.5 * tiny])
    )
    assert (ulp[:3] == 0).all()
    assert below[:3].tolist() == [0.9, 0.75, 1.5]
    # a normal number flushed to zero is not excused
    assert ulp[3] > 1e6
    assert below[3] == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_overflow_is_the_next_power_of_two(dtype):
    largest = float(np.finfo(dtype).max)
    step = largest - float(np.nextafter(dtype(largest), dtype(0)))
    assert errors(np.array([np.inf], dtype), np.array([largest]))[0][0] == 1
    assert errors(np.array([largest], dtype), (np.array([largest]), np.array([step / 4])))[0][0] == 0.25
    assert errors(np.array([np.inf], dtype), np.array([largest / 2]))[0][0] > 1e6
    assert errors(np.array([np.inf], dtype), np.array([np.inf]))[0][0] == 0
    assert errors(np.array([-np.inf], dtype), np.array([np.inf]))[0][0] > 1e6


def test_a_nan_is_wrong_unless_expected():
    got = np.float32([np.nan, 1.0, np.nan, np.nan])
    assert errors(got, np.array([1.0, np.nan, np.nan, np.inf]))[0].tolist() == [np.inf, np.inf, 0.0, np.inf]


def test_one_wrong_value_in_a_sweep_is_found_and_named():
    x = sample(np.float32, 0.5, 1.0, 1000)
    got = x.copy()
    got[617] = np.nextafter(np.nextafter(np.nextafter(got[617], np.float32(2)), np.float32(2)), np.float32(2))
    worst = measure(got, x.astype(np.float64), x)
    assert worst.ulp == 3
    assert worst.at == x[617]
    got[618] = np.nan
    assert measure(got, x.astype(np.float64), x).ulp == np.inf


def test_near_a_zero_of_the_derivative_one_epsilon_is_excused_and_no_more():
    x = np.float32([1.0, 1.0])
    reference = np.array([1e-9, 1e-9])
    everywhere = np.array([True, True])
    assert measure(np.float32([2.0**-24, 1e-9]), reference, x, everywhere).ulp < 1
    assert measure(np.float32([2.0**-22, 1e-9]), reference, x, everywhere).ulp > 1e6
    assert measure(np.float32([2.0**-24, 1e-9]), reference, x, ~everywhere).ulp > 1e6
    # what is within the bound counts there as everywhere
    got, three = np.float32([1 + 3 * 2.0**-23, 1.0]), np.array([1.0, 1.0])
    assert measure(got, three, x, everywhere, 4.0).ulp == 3
    excused = measure(np.float32([2.0**-24, 1e-9]), reference, x, everywhere, 4.0)
    assert excused.ulp < 1 and excused.absolute == pytest.approx(2.0**-24, rel=0.1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sampling_covers_the_interval(dtype):
    x = sample(dtype, -2.0, 100.0, 500).astype(np.float64)
    assert x[0] == -2
    assert x[-1] == 100
    assert (np.diff(x) >= 0).all()
    exponents = np.unique(np.floor(np.log2(np.abs(x[x != 0]))))
    low = -14 if dtype == np.float16 else -126
    assert exponents.min() <= low + 8
    assert np.array_equal(np.sort(sample(dtype, 1.0, 1.0, 10)), np.ones(1, dtype))
    assert sample(dtype, 1.0, float(from_ordered([ordered(1.0, dtype) + 9], dtype)[0]), 100).size == 10


def test_neighbours_stop_at_infinity():
    near = neighbours([0.0, np.inf, 1.0], np.float32)
    assert not np.isnan(near).any()
    assert np.float32(2.0**-149) in near
    assert np.nextafter(np.float32(1), np.float32(2)) in near


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_poison_is_nan_at_the_asked_address(dtype):
    assert np.isnan(poisoned((3, 4), dtype).astype(np.float64)).all()
    for offset in (0, 1, 3, 7):
        a = misaligned((5, 3), dtype, offset)
        assert a.ctypes.data % 64 == offset * dtype.itemsize
        assert np.isnan(a.astype(np.float64)).all()


def test_bits_tell_zeros_and_nans_apart():
    assert (bits(np.float32([0.0])) != bits(np.float32([-0.0]))).all()
    assert (bits(np.array([1.0], BFLOAT16)) == 0x3F80).all()
