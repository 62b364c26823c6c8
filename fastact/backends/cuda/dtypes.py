"""Dtypes of arrays on a device, by name: NumPy has no bfloat16 of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

FLOATS = ("float32", "float64", "float16", "bfloat16")
# name: bytes
INTEGERS = {f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)} | {"bool": 1}
SIZES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, **INTEGERS}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The dtype of NumPy, or of ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def is_integer(name: str) -> bool:
    """Whether a dtype is of integers or booleans, which are computed in float64."""
    return name in INTEGERS


def common(names: Iterable[str]) -> str:
    """The dtype in which arrays of these are computed: as NumPy's arrays on the CPU.

    Examples
    --------
    >>> common(["float16", "float16"]), common(["float16", "bfloat16"]), common(["int32", "float16"])
    ('float16', 'float32', 'float64')
    """
    strong = {"float64" if is_integer(name) else name for name in names}
    if not strong or "float64" in strong:
        return "float64"
    return "float32" if len(strong) > 1 else strong.pop()


def rounded(value: float, name: str) -> float:
    """A number as an array of a dtype holds it.

    Examples
    --------
    >>> rounded(0.1, "float16"), rounded(0.1, "bfloat16")
    (0.0999755859375, 0.10009765625)
    """
    if name == "float64":
        return value
    with np.errstate(over="ignore"):
        if name != "bfloat16":
            return float(np.dtype(name).type(value))
        single = np.float32(value)
    bits = int(single.view(np.uint32))
    if np.isfinite(single):
        # to nearest, ties to even
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return float(np.uint32(bits).view(np.float32))


def can_cast(source: str, to: str) -> bool:
    """Whether a result of one dtype can be written to memory of another one, by NumPy's rule of the same kind.

    Examples
    --------
    >>> can_cast("float64", "float16"), can_cast("float32", "int64"), can_cast("bfloat16", "float16")
    (True, False, False)
    """
    # of ml_dtypes
    return to in FLOATS and (source, to) != ("bfloat16", "float16")


def shown(name: str) -> str:
    """A dtype as NumPy shows it."""
    return f"dtype({name if name == 'bfloat16' else repr(name)})"
