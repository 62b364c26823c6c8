"""Fused functions, gated units and dropout of arrays on a GPU. Everything is checked before anything is written.

Parameters that are arrays on a GPU are not looked at for their domain: the host would have to wait for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastact.api.arguments import FILLED, refuse_masked, single_out
from fastact.api.device import Operands, any_on_device, safe_to_write
from fastact.api.dropout import dropout
from fastact.api.fused import _Call, shape_of
from fastact.api.gated_units import _Packed
from fastact.backends.cuda import fused, maps
from fastact.backends.cuda.array import DeviceArray
from fastact.backends.cuda.dtypes import can_cast, rounded
from fastact.backends.cuda.fused import Job
from fastact.spec.kernel import compute_dtype, kernel_of
from fastact.spec.kinds import ALL

if TYPE_CHECKING:
    from fastact.api.activation import Activation
    from fastact.api.dropout import Random, RandomFunction
    from fastact.api.fused import Fused
    from fastact.spec.table import Op

Given = DeviceArray | float


class DeviceCall(_Call):
    """A call of a fused function, on a device."""

    maps: dict[str, Given]  # type: ignore[assignment]
    cols: dict[str, DeviceArray]  # type: ignore[assignment]
    learnt: dict[str, DeviceArray]  # type: ignore[assignment]
    full: dict[str, DeviceArray]  # type: ignore[assignment]
    memory: str  # type: ignore[assignment]

    def __init__(
        self, fused: Fused, op: Op, arrays: tuple[Any, ...], values: dict[str, Any], axis: int | None, random: Any
    ) -> None:  # fmt: skip
        self.fused, self.op, self.random, self.given = fused, op, random, values
        inputs = [a for a in ALL[fused.kind].inputs if a.role != "random"]
        given = dict(zip((a.name for a in inputs), arrays))
        # an activation may have a parameter of the name of an input
        keys = {name: f"the parameter {name}" if name in given else name for name in values}
        self.operands = Operands(fused.__name__, {**given, **{keys[k]: v for k, v in values.items()}})
        self.dtype = self.memory = self.operands.dtype(given=given.values())
        self.compute = np.dtype(compute_dtype(self.dtype))
        views: dict[str, Any] = {**_numbers(given, self.dtype), **self.operands.views}
        self.maps = {a.name: views[a.name] for a in inputs if a.role == "map"}
        self.cols = {a.name: views[a.name] for a in inputs if a.role == "col"}
        self.values = {name: self.operands.views.get(keys[name], value) for name, value in values.items()}
        self.learnt = {k: v for k, v in self.values.items() if isinstance(v, DeviceArray) and v.ndim}
        self.numbers = {k: v for k, v in self.values.items() if k not in self.learnt}
        # views of `out`, by the identity of its arrays
        self.targets: dict[int, DeviceArray] = {}
        self.shape = self._shape()
        self._place_axis(axis)

    def _target(self, what: str, a: Any) -> tuple[Any, bool, bool, Callable[[Any, Any], bool]]:
        refuse_masked(self.fused.__name__, (a,), FILLED)
        view = self.targets[id(a)] = self.operands.view(what, a)
        self.operands.written(what)
        return view, can_cast(self.memory, view.dtype), view.writeable, DeviceArray.may_share_memory

    def _wide(self, a: DeviceArray) -> DeviceArray:
        """A view of the shape of the result, with its axes as they are taken."""
        a = a.broadcast_to(self.shape)
        return a if self.order is None else a.transpose(self.order)

    def _column(self, a: DeviceArray) -> DeviceArray:
        """Values along the axes in the middle, side by side, as a view of the shape of the result."""
        if a.dtype != self.memory or not a.is_contiguous:
            copied = self.operands.scratch(a.shape, self.memory)
            maps.copy(a, copied, self.operands.stream)
            a = copied
        return self._wide(a)

    def _placed(self) -> tuple[list[Given], str]:
        """Inputs and parameters with their roles (`fastact.backends.cuda.fused.Job`)."""
        values: list[Given] = []
        roles = ""
        for argument in ALL[self.fused.kind].inputs:
            if argument.role == "col":
                a = self.cols[argument.name]
                # along the axis of the result
                after = len(self.shape) - 1 - self.axis
                values.append(self._column(a._view((*a.shape, *[1] * after), (*a.strides, *[0] * after))))
                roles += "c"
            elif argument.role == "map":
                value = self.maps[argument.name]
                values.append(self._wide(value) if isinstance(value, DeviceArray) else value)
                roles += "a"
        for p in self.op.params:
            value = self.full.get(p.name, self.values[p.name])
            if p.name in self.full:
                values.append(self._wide(self.full[p.name]))
                roles += "a"
            elif p.name in self.learnt and self.learnt[p.name].size == self.channel != 1:
                values.append(self._column(self.learnt[p.name]))
                roles += "c"
            else:
                value = self.learnt.get(p.name, value)
                values.append(self._column(value) if isinstance(value, DeviceArray) else float(value))
                roles += "v"
        return values, roles

    def run(self, out: Any) -> Any:
        """The results."""
        return self.operands.done(*self.computed(self._outs(out)))

    def computed(self, outs: Sequence[Any]) -> list[Any]:
        """The results, in the arrays of `out`, which are checked, or in new ones."""
        found, outputs = self.operands, self.fused.outputs
        views = [None if a is None else self.targets[id(a)] for a in outs]
        values, roles = self._placed()
        read = [v for v in values if isinstance(v, DeviceArray)]
        results: list[Any] = list(outs)
        written: list[DeviceArray] = []
        sums: list[DeviceArray] = []
        after: list[Callable[[], None]] = []
        for i, (argument, view) in enumerate(zip(outputs, views)):
            shape = self.shape if argument.role == "map" else self._sum_shape(argument.name)
            if view is None:
                results[i], view = found.empty(shape, self.memory)
            if argument.role == "map":
                target = view if self.order is None else view.transpose(self.order)
                if view.dtype != self.memory or not safe_to_write(target, [*read, *written]):
                    own = found.scratch(self.laid, self.memory)
                    after.append(_later(maps.copy, own, target, found.stream))
                    target = own
                written.append(target)
            elif self.channel != math.prod(shape):
                # a parameter that all channels share has the sum over them
                parts = found.scratch((self.channel,), self.compute.name)
                after.append(_later(fused.total, parts, view, found.scratch, found.stream))
                sums.append(parts)
            elif view.is_contiguous:
                sums.append(view)
            else:
                sums.append(found.scratch((self.channel,), self.compute.name))
                after.append(_later(maps.copy, sums[-1].reshape(shape), view, found.stream))
        shape3 = self.outer, self.channel, self.inner
        if not sums and "c" not in roles and self.laid:
            shape3 = math.prod(self.laid[:-1]), self.laid[-1], 1
        spec = kernel_of(self.op, self.fused.kind, self.memory)
        fused.run(Job(spec, values, roles, written, shape3, found.scratch, found.stream, sums, self.random))
        for finish in after:
            finish()
        return results


def _later(function: Callable[..., None], *arguments: Any) -> Callable[[], None]:
    return lambda: function(*arguments)


def _numbers(given: Mapping[str, Any], dtype: str) -> dict[str, float]:
    """The numbers among inputs, as an array of this dtype would hold them."""
    return {name: rounded(float(a), dtype) for name, a in given.items() if not any_on_device((a,))}


def reordered(call: DeviceCall, activation: Activation, random: Random, out: Any) -> Any:
    """The gradients where learnt weights lie along axes apart, so that elements are not laid out in C order.

    The dropout goes first, in the computing dtype: the same operations, in two passes.
    """
    found, compute = call.operands, call.compute.name
    outs = call._outs(out)
    dropped, dy = found.empty(call.shape, compute)
    x, copied = found.empty(call.shape, compute)
    spec = dropout.device_kernel(compute)
    maps.run(spec, [_broadcast(call.maps["dy"], call.shape)], [], [dy], found.stream, random=random)
    maps.copy(call.maps["x"], copied, found.stream)  # type: ignore[arg-type]
    backward: Any = activation.backward
    inner = DeviceCall(backward, call.op, (dropped, x), call.given, None, None)
    inner.operands = found
    delivered = []
    for own, result in zip(outs, inner.computed([None] * len(outs))):
        view = found.view("the gradient", result)
        own, target = found.empty(view.shape, call.memory) if own is None else (own, call.targets[id(own)])
        maps.copy(view, target, found.stream)
        delivered.append(own)
    return found.done(*delivered)


def _broadcast(a: Given, shape: tuple[int, ...]) -> Given:
    return a.broadcast_to(shape) if isinstance(a, DeviceArray) else a


class DevicePacked(_Packed):
    """A call of a gated unit with one array that holds both halves, on a device."""

    memory: str  # type: ignore[assignment]

    def _taken(self, given: Mapping[str, Any]) -> list[Any]:
        self.operands = Operands(self.name, given)
        self.dtype = self.memory = self.operands.dtype(given=given.values())
        return [self.operands.views[what] for what in given]

    def _parts(self, a: DeviceArray) -> tuple[DeviceArray, DeviceArray]:
        """Gate and up of an array that holds both."""
        n = self.shape[self.axis]
        low, high = a.part(self.axis, 0, n), a.part(self.axis, n, n)
        return (low, high) if self.gate_first else (high, low)

    def run(self, out: Any) -> Any:
        """The result."""
        out, found = single_out(self.name, out), self.operands
        shape = self.shape if self.dy is None else self.x.shape
        refuse_masked(self.name, (out,), FILLED)
        result, view = found.result("out", out, shape, self.memory)
        inputs = [self.x] if self.dy is None else [self.dy, self.x]
        target = view
        if view.dtype != self.memory or not safe_to_write(view, inputs):
            target = found.scratch(shape, self.memory)
        op = self.method.op
        values: list[Given] = [*([] if self.dy is None else [self.dy]), *self._parts(self.x)]
        roles = "a" * len(values) + "v" * len(op.params)
        values += [float(p.default) for p in op.params if p.default is not None]
        outputs = [target] if self.dy is None else self._parts(target)
        spec = kernel_of(op, self.method.kind, self.memory)
        fused.run(Job(spec, values, roles, outputs, (self.rows, self.n, 1), found.scratch, found.stream))
        if target is not view:
            maps.copy(target, view, found.stream)
        return found.done(result)


def random_function(function: RandomFunction, given: Mapping[str, Any], random: Random, out: Any) -> Any:
    """A function of arrays of one shape and of random numbers."""
    name = function.name
    refuse_masked(name, given.values(), FILLED)
    found = Operands(name, given)
    dtype = found.dtype(given=given.values())
    numbers = _numbers(given, dtype)
    values = [found.views.get(what, numbers.get(what, 0.0)) for what in given]
    shape = shape_of(values[-1])
    for what, a in zip(given, values):
        if shape_of(a) != shape:
            raise ValueError(f"{name}: {what} has shape {shape_of(a)}, x {shape}")
    out = single_out(name, out)
    refuse_masked(name, (out,), FILLED)
    if function.function_takes_numbers and random[1] == 0:
        # all slopes are one
        if out is not None:
            found.check_out("out", found.view("out", out), shape, dtype)
        of_activation, slope = function.on_one_slope(random[0])
        return of_activation(*given.values(), **slope, out=out)
    result, view = found.result("out", out, shape, dtype)
    arrays = [a for a in values if isinstance(a, DeviceArray)]
    target = view if view.dtype == dtype and safe_to_write(view, arrays) else found.scratch(shape, dtype)
    shape3 = (math.prod(shape[:-1]), shape[-1], 1) if shape else (1, 1, 1)
    spec = function.device_kernel(dtype)
    fused.run(Job(spec, values, "a" * len(values), [target], shape3, found.scratch, found.stream, random=random))
    if target is not view:
        maps.copy(target, view, found.stream)
    return found.done(result)
