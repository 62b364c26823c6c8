"""The formulas over whole NumPy arrays: always there, and the same bits as every other backend."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fastact.backends import READY, State
from fastact.maths.grammar import bind
from fastact.runtime import _driver

if TYPE_CHECKING:
    from fastact.spec.kernel import KernelSpec
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

    def rarely(c: Any, f: Callable[..., Any], b: Any, *args: Any) -> Any:
        return where(c, f(*args), b) if np.any(c) else b

    def lookup(m: Any, *entries: float) -> Any:
        number = m.view(f"u{m.itemsize}") % len(entries)
        return np.array(entries, dtype)[number]

    def scalb(x: Any, n: Any) -> Any:
        exponent = np.nan_to_num(np.clip(n, -5000, 5000), nan=0.0).astype(np.int32)
        return np.ldexp(cast(x) if isinstance(x, float) else x, exponent)

    def logb(x: Any) -> Any:
        return (np.frexp(x)[1] - 1).astype(dtype)

    return {
        "where": where,
        "rarely": rarely,
        "lookup": lookup,
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


def state(spec: KernelSpec) -> State:
    """Every kernel is ready."""
    return READY


@cache
def kernel(spec: KernelSpec) -> Callable[..., Any]:
    """A callable over arrays: of a ``map`` it returns a tuple of outputs, one over rows works on the last axis."""
    if spec.loop != "map":
        from fastact.backends.reference.rows import Rows

        # whole arrays have no use for another form
        return getattr(Rows(spec.dtype, spec.sign), spec.loop.removesuffix(f"_{spec.form}" if spec.form else ""))
    formula = spec.body(bind(primitives(spec.compute), spec.compute))

    def run(*arrays: Any) -> tuple[Any, ...]:
        with np.errstate(all="ignore"):
            outputs = formula(*(np.asarray(a).astype(spec.compute, copy=False) for a in arrays))
            if spec.compute == spec.dtype:
                return outputs
            return tuple(np.asarray(o).astype(arrays[0].dtype) for o in outputs)

    return run


@cache
def fused(op: Op, kind: str, dtype: str) -> Callable[..., list[Any]]:
    """A fused kind over arrays, with the arguments and the result of ``_driver.Function.run_fused``."""
    from fastact.backends.reference.philox import keep
    from fastact.backends.reference.sums import channel_sums, total
    from fastact.spec.kernel import compute_dtype
    from fastact.spec.kinds import ALL, body

    compute = compute_dtype(dtype)
    formula = body(bind(primitives(compute), compute), op, kind)
    nin = len(ALL[kind].inputs) + len(op.params)

    def run(arrays: Any, roles: str, outer: int, channel: int, inner: int, random: Any = None) -> list[Any]:
        shapes: dict[str, tuple[int, ...]] = {"a": (outer, channel, inner), "c": (1, channel, 1), "v": ()}
        shapes["r"] = shapes["a"]
        size = outer * channel * inner
        arrays = [keep(random, size, compute) if r == "r" else a for a, r in zip(arrays, roles, strict=True)]
        inputs = [a.reshape(shapes[r]).astype(compute, copy=False) for a, r in zip(arrays[:nin], roles)]
        sums = []
        with np.errstate(all="ignore"):
            for value, out, role in zip(formula(*inputs), arrays[nin:], roles[nin:]):
                value = np.broadcast_to(value, shapes["a"])
                if role == "s":
                    sums.append(total(*channel_sums(value, _driver.side_by_side(channel))))
                else:
                    out.reshape(shapes["a"])[...] = value.astype(out.dtype, copy=False)
        return sums

    return run
