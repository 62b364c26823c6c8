"""Distance in units in the last place, sampling by bit pattern, poisoned buffers.

One ULP at a real number r is the spacing of the floating-point numbers in r's binade, 2^(floor(log2 |r|) - p + 1), p
the precision with the hidden bit. The reference is never rounded to the type under test, so a correctly rounded result
is at most 0.5 ULP off. A reference for float64 is a pair (hi, lo) of float64 arrays whose sum is the value; for
narrower types a float64 array does.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

# precision with the hidden bit, exponents of the smallest normal number and of the first power of two that overflows
FORMATS = {
    np.dtype(np.float16): (11, -14, 16),
    BFLOAT16: (8, -126, 128),
    np.dtype(np.float32): (24, -126, 128),
    np.dtype(np.float64): (53, -1022, 1024),
}


def smallest_normal(dtype) -> float:
    return 2.0 ** FORMATS[np.dtype(dtype)][1]


def epsilon(dtype) -> float:
    return 2.0 ** (1 - FORMATS[np.dtype(dtype)][0])


def ulp_of(reference, dtype):
    """Spacing of `dtype` in the binade of each reference (float64 array); below the normal range that of subnormals."""
    precision, low, _ = FORMATS[np.dtype(dtype)]
    exponent = np.frexp(np.abs(reference))[1] - 1
    exponent = np.where(reference == 0, low, np.maximum(exponent, low))
    return np.ldexp(1.0, exponent - precision + 1)


def errors(got, reference, dtype=None):
    """Error of each element: in ULP where the reference is normal, in smallest normals where it is not, absolute.

    The first is 0 where the second applies, and the other way round. A NaN or an infinity is right only where the
    reference is the same, except that infinity stands for the first power of two that overflows: a reference within a
    few ULP of overflow may round to it.
    """
    got = np.asarray(got)
    dtype = np.dtype(dtype or got.dtype)
    hi, lo = reference if isinstance(reference, tuple) else (reference, 0.0)
    hi, got = np.broadcast_arrays(np.asarray(hi, np.float64), got)
    _, low, overflow = FORMATS[dtype]
    same = (np.isnan(got) & np.isnan(hi)) | (np.isinf(hi) & (got == hi))
    value = got.astype(np.float64)
    # a quarter keeps float64's overflow finite; exact, for only numbers near overflow are scaled
    big = np.isinf(value) | (np.abs(hi) > 2.0 ** (overflow - 3))
    scale = np.where(big, 0.25, 1.0)
    value = np.where(np.isinf(value), np.copysign(2.0 ** (overflow - 2), value), value * scale)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.clip(hi * scale, -(2.0 ** (overflow - 2)), 2.0 ** (overflow - 2))
        absolute = np.abs((value - scaled) - np.where(np.isfinite(hi), lo * scale, 0.0))
        unit = ulp_of(np.where(np.isfinite(scaled), scaled, 1.0), dtype)
        ulp = absolute / unit
        absolute = absolute / scale
    wrong = (np.isnan(got) != np.isnan(hi)) | np.isnan(ulp)
    ulp = np.where(same, 0.0, np.where(wrong, np.inf, ulp))
    absolute = np.where(same, 0.0, np.where(wrong, np.inf, absolute))
    tiny = np.abs(hi) < 2.0**low
    return np.where(tiny, 0.0, ulp), np.where(tiny, absolute, 0.0) / 2.0**low, absolute


@dataclass
class Measured:
    """The worst case of a sweep."""

    ulp: float
    at: float
    got: float
    want: float
    below_normal: float  # largest error below the smallest normal number, in smallest normals
    absolute: float  # largest absolute error among the excused
    count: int

    def __str__(self):
        return f"{self.ulp:.4f} ULP at x={self.at!r} (got {self.got!r}, true {self.want!r}), {self.count} points"


def measure(got, reference, x, near_zero=None, excused_above=0.0) -> Measured:
    """Worst error over a sweep.

    Where the mask `near_zero` holds, more than `excused_above` ULP are excused if the error is at most one epsilon.
    """
    got, x = np.asarray(got).ravel(), np.asarray(x).ravel()
    reference = tuple(np.ravel(r) for r in reference) if isinstance(reference, tuple) else np.ravel(reference)
    ulp, below, absolute = errors(got, reference)
    excused = np.zeros(ulp.shape, bool)
    if near_zero is not None:
        excused = np.ravel(near_zero) & (ulp > excused_above) & (absolute <= epsilon(got.dtype))
    ulp = np.where(excused, 0.0, ulp)
    worst = int(np.argmax(ulp)) if ulp.size else 0
    want = reference[0] if isinstance(reference, tuple) else reference
    return Measured(
        ulp=float(ulp.max(initial=0.0)),
        at=float(x[worst]) if x.size else 0.0,
        got=float(got[worst]) if got.size else 0.0,
        want=float(want[worst]) if got.size else 0.0,
        below_normal=float(below.max(initial=0.0)),
        absolute=float(absolute[excused].max(initial=0.0)),
        count=int(got.size),
    )


RECORDS: list[dict] = []


def record(what: dict, measured: Measured, bound: float) -> None:
    """Print the measured maximum next to the bound and keep it for the accuracy report (FASTACT_ACCURACY_JSON)."""
    name = " ".join(str(v) for v in what.values() if v not in ("", None))
    print(f"{name}: {measured}; bound {bound:g} ULP; below normal {measured.below_normal:.3g} of 1 smallest normal")
    RECORDS.append({**what, "bound": bound, **asdict(measured)})


def write_records(path: str) -> None:
    """Merge this run's records into the JSON file: the worst case of each (everything but the measurement) is kept."""
    merged: dict[str, dict] = {}
    old = json.loads(Path(path).read_text()) if Path(path).exists() else []
    for row in old + RECORDS:
        key = json.dumps([row.get(k) for k in ("op", "kind", "dtype", "backend", "domain")])
        before = merged.get(key)
        most = {k: max(row[k], before[k] if before else 0) for k in ("count", "absolute")}
        merged[key] = {**(row if before is None or row["ulp"] >= before["ulp"] else before), **most}
    Path(path).write_text(json.dumps([merged[key] for key in sorted(merged)], indent=1) + "\n")


def assert_within(measured: Measured, bound: float, what: dict, slack: float = 0.0) -> None:
    """`slack`: what the reference itself may be off, in ULP."""
    record(what, measured, bound)
    assert measured.ulp <= bound + slack, f"{what}: {measured}, bound {bound}"
    assert measured.below_normal <= 1.0, f"{what}: {measured.below_normal} smallest normals below the normal range"


# bit patterns


def bits(a):
    """The bit patterns of an array, for comparing results bit by bit."""
    a = np.asarray(a)
    return a.view(np.dtype(f"u{a.dtype.itemsize}"))


def ordered(value, dtype) -> int:
    """The place of a number in the order of all numbers of the type; -0 and +0 are both 0."""
    dtype = np.dtype(dtype)
    width = dtype.itemsize * 8
    pattern = int(np.array(value, dtype).reshape(1).view(f"u{dtype.itemsize}")[0])
    return pattern if pattern < 1 << (width - 1) else (1 << (width - 1)) - pattern


def from_ordered(place, dtype):
    """The inverse of `ordered` for an int64 array."""
    dtype = np.dtype(dtype)
    place = np.asarray(place, np.int64)
    sign = np.uint64(1) << np.uint64(dtype.itemsize * 8 - 1)
    pattern = np.where(place < 0, (-place).astype(np.uint64) | sign, place.astype(np.uint64))
    return pattern.astype(f"u{dtype.itemsize}").view(dtype)


def sample(dtype, low, high, count, seed=0):
    """About `count` numbers of [low, high], even in bit patterns: a random one from each stride, and the ends."""
    first, last = ordered(low, dtype), ordered(high, dtype)
    if last - first + 1 <= count:
        return from_ordered(np.arange(first, last + 1), dtype)
    rng = np.random.default_rng(seed)
    if (last - first) * count < 1 << 63:
        edges = first + (last - first) * np.arange(count + 1) // count
    else:
        # python integers: the span of float64 patterns exceeds int64
        edges = np.array([first + (last - first) * i // count for i in range(count + 1)], np.int64)
    places = edges[:-1] + (rng.random(count) * np.diff(edges)).astype(np.int64)
    return from_ordered(np.concatenate([[first], places, [last]]), dtype)


def neighbours(values, dtype, reach=2):
    """Each number with its nearest few on both sides."""
    places = np.array([ordered(v, dtype) for v in values], np.int64)[:, None] + np.arange(-reach, reach + 1)
    limit = ordered(np.inf, dtype)
    return from_ordered(np.clip(places.ravel(), -limit, limit), dtype)


def poisoned(shape, dtype, order="C"):
    """A buffer full of NaN, so that an element nobody wrote cannot pass."""
    return np.full(shape, np.nan, dtype, order)


def outputs_like(x, count):
    """A tuple of poisoned buffers like x."""
    return tuple(poisoned(np.shape(x), np.asarray(x).dtype) for _ in range(count))


def misaligned(shape, dtype, offset):
    """A poisoned buffer whose address is `offset` elements past a multiple of 64 bytes."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape))
    raw = np.zeros(size * dtype.itemsize + 128, np.uint8)
    start = -raw.ctypes.data % 64 + offset * dtype.itemsize
    a = raw[start : start + size * dtype.itemsize].view(dtype).reshape(shape)
    a[...] = np.nan
    return a
