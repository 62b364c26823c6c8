"""The formulas over whole NumPy arrays: always there, and the same bits as every other backend."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fastact.maths.grammar import bind
from fastact.runtime import _driver

if TYPE_CHECKING:
    from fastact.spec.table import Op


def available() -> None:
    """NumPy is all it needs."""
    return None


def isa() -> str:
    """The arithmetic is NumPy's."""
    return "NumPy"


@cache
def primitives(dtype: str) -> dict[str, Callable[..., Any]]:
    """The primitives of formulas over arrays of float32 or float64."""
    cast = np.dtype(dtype).type

    def where(c: Any, a: Any, b: Any) -> Any:
        return np.where(c, cast(a) if isinstance(a, float) else a, cast(b) if isinstance(b, float) else b)

    def typed(ufunc: Any) -> Callable[..., Any]:
        return lambda *args: ufunc(*args, dtype=dtype)

    def scalb(x: Any, n: Any) -> Any:
        exponent = np.nan_to_num(np.clip(n, -5000, 5000), nan=0.0).astype(np.int32)
        return np.ldexp(cast(x) if isinstance(x, float) else x, exponent)

    def logb(x: Any) -> Any:
        return (np.frexp(x)[1] - 1).astype(dtype)

    return {
        "where": where,
        "minimum": lambda a, b: where(a < b, a, b),
        "maximum": lambda a, b: where(a > b, a, b),
        "fabs": typed(np.fabs),
        "copysign": typed(np.copysign),
        "sqrt": typed(np.sqrt),
        "fma": typed(_driver.fma),
        "rint": typed(np.rint),
        "scalb": scalb,
        "logb": logb,
    }


@cache
def kernel(op: Op, kind: str, dtype: str) -> Callable[..., tuple[Any, ...]]:
    """A callable over arrays of `dtype` that returns a tuple of outputs."""
    from fastact.spec.kinds import body

    compute = "float64" if dtype == "float64" else "float32"
    formula = body(bind(primitives(compute), compute), op, kind)

    def run(*arrays: Any) -> tuple[Any, ...]:
        with np.errstate(all="ignore"):
            outputs = formula(*(np.asarray(a).astype(compute, copy=False) for a in arrays))
            if compute == dtype:
                return outputs
            return tuple(np.asarray(o).astype(arrays[0].dtype) for o in outputs)

    return run


def row_kernel(name: str, dtype: str) -> Callable[..., Any]:
    """A function over the last axis of arrays of `dtype`."""
    from fastact.backends.reference import rows

    return rows.kernel(name, dtype)
