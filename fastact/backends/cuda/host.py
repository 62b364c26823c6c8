"""Kernels as callables over arrays of NumPy, as the reference has them: copied to a device and back.

For ``use_backend("cuda")``. Where the data is on a device already, it stays there and none of this runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fastact.backends.cuda import fused, launch, maps, row_runs, simulated
from fastact.backends.cuda.array import DeviceArray
from fastact.backends.cuda.dtypes import numpy_dtype
from fastact.backends.cuda.row_functions import FUNCTIONS, GENERAL
from fastact.spec.kernel import KernelSpec, kernel_of
from fastact.spec.kinds import ALL, outputs_of
from fastact.spec.rows import ROWS

if TYPE_CHECKING:
    from fastact.spec.table import Op

# where arrays of the host go
DEVICE = 0


def _stream() -> int:
    if simulated():
        return 0
    from fastact.backends.cuda import _launch

    return int(_launch.own_stream(DEVICE))


def _memory(shape: tuple[int, ...], dtype: str) -> DeviceArray:
    return launch.memory(shape, dtype, DEVICE, _stream())


def _up(array: Any) -> DeviceArray:
    found = _memory(array.shape, array.dtype.name)
    launch.to_device(array, found, _stream())
    return found


def _down(array: DeviceArray) -> Any:
    return launch.to_host(array, _stream())


def missing(spec: KernelSpec) -> str | None:
    """None, or why there is no such callable."""
    if spec.loop == "map":
        return None
    if spec.loop.removesuffix(f"_{spec.form}" if spec.form else "") not in FUNCTIONS:
        return "this function of arrays of the host is not copied to a device; pass arrays that are there"
    return None


@cache
def kernel(spec: KernelSpec) -> Callable[..., Any]:
    """A callable over arrays, with the arguments and results of the reference's."""
    return _map(spec) if spec.loop == "map" else _rows(spec)


def _map(spec: KernelSpec) -> Callable[..., tuple[Any, ...]]:
    first = len(spec.inputs)

    def run(*given: Any) -> tuple[Any, ...]:
        dtype = numpy_dtype(spec.dtype)
        arrays = [np.asarray(a).astype(dtype, copy=False) for a in given]
        shape = np.broadcast_shapes(*(a.shape for a in arrays))
        # one value for all goes along as a number
        values = [
            float(a.flat[0]) if a.size and not any(s for s, n in zip(a.strides, a.shape) if n > 1) else a
            for a in arrays
        ]
        sent = [v if isinstance(v, float) else _up(v).broadcast_to(shape) for v in values]
        outputs = [_memory(shape, spec.dtype) for _ in spec.outputs]
        maps.run(spec, sent[:first], sent[first:], outputs, _stream())
        return tuple(map(_down, outputs))

    return run


@cache
def fused_kind(op: Op, kind: str, dtype: str) -> Callable[..., list[Any]]:
    """A fused kind over arrays, with the arguments and the result of ``_driver.Function.run_fused``."""
    spec = kernel_of(op, kind, dtype)
    inputs = [a.role for a in ALL[kind].inputs]
    nin = len(inputs) + len(op.params)
    sums = sum(a.role != "map" for a in outputs_of(op, kind))

    def run(arrays: Any, roles: str, outer: int, channel: int, inner: int, random: Any = None) -> list[Any]:
        shape = outer, channel, inner
        places = {"a": shape, "c": (1, channel, 1), "v": ()}
        values: list[DeviceArray | float] = []
        for a, role in zip(arrays[:nin], roles):
            if role == "v":
                values.append(float(np.asarray(a).reshape(())))
            elif role != "r":
                a = np.ascontiguousarray(a, numpy_dtype(dtype)).reshape(places[role])
                values.append(_up(a).broadcast_to(shape))
        targets = [a for a, role in zip(arrays[nin:], roles[nin:]) if role != "s"]
        outputs = [_memory(shape, dtype) for _ in targets]
        totals = [_memory((channel,), spec.compute) for _ in range(sums)]
        letters = "".join(role for role in roles[:nin] if role != "r")
        fused.run(fused.Job(spec, values, letters, outputs, shape, _memory, _stream(), totals, random))
        for target, output in zip(targets, outputs):
            target.reshape(shape)[...] = _down(output)
        return [_down(total) for total in totals]

    return run


def _rows(spec: KernelSpec) -> Callable[..., Any]:
    row = ROWS[spec.name.removesuffix(f"_{spec.form}" if spec.form else "")]
    spec = KernelSpec(
        spec.name, spec.dtype, row.loop, spec.inputs, (), spec.outputs, sign=spec.sign
    )  # one form serves rows of any length
    arguments = [*row.inputs, *row.outputs]
    # as the driver calls them: gufuncs, and functions with numbers that give their result
    gives = len(row.outputs) == 1 and all(a.role == "map" for a in row.inputs)

    def run(*given: Any) -> Any:
        arrays: list[Any] = list(given[: len(row.inputs) if gives else len(arguments)])
        numbers = given[len(arrays) :]
        x = arrays[0]
        n = x.shape[-1]
        lead = x.shape[:-1] if gives else (math.prod(x.shape[:-1]),)
        shapes = {"map": (*lead, n), "row": lead, "col": (n,), "pair": (n,)}
        if gives:
            arrays.append(np.empty(shapes[row.outputs[0].role], x.dtype))
        sent: dict[str, dict[str, DeviceArray]] = {role: {} for role in shapes}
        for a, array in zip(arguments, arrays):
            if array is not None:
                # a label lies with its row, and is an integer
                laid = np.broadcast_to(array, shapes[a.role]) if array.ndim > 1 and gives else array
                sent[a.role][a.name] = _up(np.ascontiguousarray(laid).reshape(shapes[a.role]))
        scalars = dict(zip(row.scalars, map(float, numbers)))
        causal = len(numbers) > len(row.scalars) and numbers[-1]
        if x.size:
            common = spec, sent["map"], sent["row"], sent["col"]
            traits = ["causal"] if causal else []
            for a, array in zip(arguments, arrays):
                if a.name == "labels":
                    # -1: does not count
                    traits += [f"labels_{array.dtype}", "ignores"]
                    scalars["ignored"] = -1.0
            if any(scalars.get(name) for name in GENERAL):
                traits.append("general")
            if sent["pair"]:
                row_runs.run_with_sums(*common, sent["pair"], scalars, _stream(), _memory)
            else:
                queries = lead[-1] if causal else 1
                row_runs.run(*common, scalars, _stream(), _memory, frozenset(traits), queries)
        for a, array in zip(row.outputs, arrays[len(row.inputs) :]):
            if array is not None:
                # the logarithm of a sum of nothing
                nothing = -math.inf if gives else 0.0
                array[...] = _down(sent[a.role][a.name]).reshape(array.shape) if x.size else nothing
        return arrays[-1] if gives else None

    return run
