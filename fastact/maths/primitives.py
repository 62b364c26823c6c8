"""The primitives of formulas on Python floats: what each of them means, as executable definitions.

Every backend has its own (docs/design.md, 'The grammar of formulas'); ``bind`` puts them in the place of these. With
these, a formula of ``fastact.maths.activations`` over ``fastact.maths.elementary.float64`` runs in plain Python.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

__all__ = [
    "copysign", "fabs", "fma", "logb", "lookup", "maximum", "minimum", "rarely", "rint", "scalb", "sqrt", "where",
]  # fmt: skip
# how many entries a table of `lookup` has
ENTRIES = (8, 16)

copysign = math.copysign
fabs = math.fabs


def where(c: bool, a: float, b: float) -> float:
    """`a` where the comparison `c` holds, else `b`."""
    return a if c else b


def rarely(c: bool, f: Callable[..., float], b: float, *args: float) -> float:
    """`where(c, f(*args), b)` for a `c` that seldom holds: a backend may skip the formula `f` where not needed."""
    return f(*args) if c else b


def lookup(m: float, *entries: float) -> float:
    """The entry, of 8 or 16, whose number the lowest bits of `m` are: the k-th for m = 1.5·2^52 + k.

    In float32 that is 1.5·2^23 + k.

    Examples
    --------
    >>> lookup(1.5 * 2.0**52 + 3.0, *map(float, range(8)))
    3.0
    """
    (bits,) = struct.unpack("<Q", struct.pack("<d", m))
    return entries[bits % len(entries)]


def minimum(a: float, b: float) -> float:
    """`a` if a < b, else `b`: `b` if either is NaN."""
    return a if a < b else b


def maximum(a: float, b: float) -> float:
    """`a` if a > b, else `b`: `b` if either is NaN."""
    return a if a > b else b


def sqrt(x: float) -> float:
    """The square root; NaN for x < 0."""
    return math.sqrt(x) if not x < 0.0 else math.nan


def fma(a: float, b: float, c: float) -> float:
    """a·b + c, rounded once.

    Examples
    --------
    >>> fma(0.1, 10.0, -1.0)
    5.551115123125783e-17
    """
    if not (math.isfinite(a) and math.isfinite(b) and math.isfinite(c)):
        return a * b + c
    from fractions import Fraction

    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return a * b + c
    try:
        return float(exact)
    except OverflowError:
        return math.copysign(math.inf, exact)


def rint(x: float) -> float:
    """The nearest integer as a float, ties to even, with the sign of x."""
    return math.copysign(float(round(x)), x) if math.isfinite(x) else x


def scalb(x: float, n: float) -> float:
    """x·2^n, rounded once, for an integral n of any magnitude."""
    if math.isnan(x) or math.isnan(n):
        return math.nan
    try:
        return math.ldexp(x, int(max(-5000.0, min(5000.0, n))))
    except OverflowError:
        return math.copysign(math.inf, x)


def logb(x: float) -> float:
    """floor(log2(x)) for finite x > 0."""
    return float(math.frexp(x)[1] - 1)
