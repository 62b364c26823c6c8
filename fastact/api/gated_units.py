"""Gated units: ``fa.swiglu(gate, up)``, or of one array that holds both halves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastact import dispatch
from fastact.api.arguments import (
    FILLED,
    check_out,
    contiguous,
    delivered,
    integer,
    memory_dtype,
    refuse_masked,
    result_buffer,
    single_out,
)
from fastact.api.device import any_on_device
from fastact.api.fused import Fused
from fastact.api.replay import replayed
from fastact.api.shown import shown_names
from fastact.runtime import _driver
from fastact.spec.kernel import KernelSpec, compute_dtype, itemsize, kernel_of
from fastact.spec.messages import unsupported
from fastact.spec.stages import program_of
from fastact.spec.units import HALVES, UNITS, Unit

if TYPE_CHECKING:
    from fastact.spec.table import Op

Array = NDArray[Any]

FORWARD = """{name}(gate, up=None, *, axis=-1, halves="{halves}", out=None)

f(gate)·up, where f(x) = {formula}

Parameters
----------
gate : array_like
    What the activation is applied to. Without `up`, an array that holds gate and up side by side.
up : array_like, optional
    What it is multiplied with.
axis : int
    Along which an array that holds both is split.
halves : {{"gate_first", "gate_last"}}, default "{halves}"
    Which half of it is the gate.
out : ndarray, optional
    For the result; also in the place of `gate` or `up`.

Returns
-------
y : ndarray
    Of the shape of `gate`; along `axis` half as long, if that holds both.

Raises
------
TypeError
    If an array is masked, complex or of objects, strings or dates, ``out`` cannot hold the result, or `axis` or
    `halves` come with `up`.
AxisError, ValueError
    If shapes do not fit, ``axis`` is out of range or of odd length, `halves` is something else, or ``out`` cannot be
    written; nothing is.

Notes
-----
{source}
PyTorch, JAX and Keras have the gate last, Liger and TransformerEngine first.

Examples
--------
>>> import numpy as np, fastact as fa
>>> x = np.array([[-1.0, 0.5, 2.0, 4.0]])
{examples}"""

BACKWARD = """{name}.backward(dy, gate, up=None, *, axis=-1, halves="{halves}", out=None)

The gradients of f(gate)·up, where f(x) = {formula}

Parameters
----------
dy : array_like
    The gradient by the output.
gate, up : array_like
    As for the value; without `up`, `gate` holds both.
axis : int
    Along which it is split then.
halves : {{"gate_first", "gate_last"}}, default "{halves}"
    Which half is the gate.
out : ndarray, or tuple of two ndarrays or None
    For the result; also in the place of an input.

Returns
-------
dgate, dup : ndarray
    The gradients by both; without `up` one array, laid out as `gate`.

Raises
------
TypeError
    If an array is masked, complex or of objects, strings or dates, ``out`` cannot hold the result, or `axis` or
    `halves` come with `up`.
AxisError, ValueError
    If shapes do not fit, ``axis`` is out of range or of odd length, `halves` is something else, or ``out`` cannot be
    written; nothing is.

Examples
--------
>>> import numpy as np, fastact as fa
>>> x = np.array([[-1.0, 0.5, 2.0, 4.0]])
{examples}"""


class GatedMethod:
    """The value of a gated unit, or its gradients."""

    kind: str

    def __init__(self, unit: Unit, name: str) -> None:
        self.unit = unit
        self.__name__ = self.__qualname__ = self.name = name

    @property
    def op(self) -> Op:
        """The activation's row of the table, at its defaults."""
        op: Op = self._apart.op
        return op.at_default or op

    @cached_property
    def _apart(self) -> Fused:
        # of gate and up as two arrays
        from fastact.api.activation import activations

        fused = Fused(activations[self.unit.activation], self.kind)
        fused.__name__ = fused.__qualname__ = self.name
        return fused

    @cached_property
    def _plain(self) -> tuple[_driver.Function, tuple[float, ...]]:
        return self._apart.function(self.op), tuple(p.default for p in self.op.params if p.default is not None)

    def kernels(self, kind: str, dtype: str) -> list[KernelSpec]:
        """The kernels behind a kind."""
        fused = {"forward": "gated", "backward": "gated_backward"}.get(kind)
        return [kernel_of(self.op, fused, compute_dtype(dtype))] if fused else []

    def _packed(self, dy: Any, x: Any, axis: Any, halves: str | None, out: Any) -> Any:
        """Of one array: halves are read, and written, where they are."""
        if halves is None or (type(halves) is str and halves in HALVES):
            gate_first = (halves or self.unit.halves) == "gate_first"
            function, numbers = self._plain
            done = function.plain_packed(dy, x, gate_first, axis, numbers, out)
            if done is not None:
                return done
        if _driver.elsewhere((dy, x, out)):
            return self._on_device(dy, x, axis, halves, out)
        return self._prepared(dy, x, axis, halves, out).run(out)

    @replayed
    def _on_device(self, dy: Any, x: Any, axis: Any, halves: str | None, out: Any) -> Any:
        return self._prepared(dy, x, axis, halves, out).run(out)

    def _prepared(self, dy: Any, x: Any, axis: Any, halves: str | None, out: Any = None) -> _Packed:
        """A call with one array, checked; of arrays on a GPU, if one of them is."""
        if any_on_device((dy, x, out)):
            from fastact.api.device_fused import DevicePacked

            return DevicePacked(self, dy, x, axis, halves)
        return _Packed(self, dy, x, axis, halves)

    def _pair(self, arrays: tuple[Any, ...], axis: Any, halves: str | None, out: Any) -> Any:
        if halves is not None or axis != -1:
            what = "halves" if halves is not None else "axis"
            raise TypeError(f"{self.name}: {what} is for one array that holds gate and up, not for two")
        return self._apart(*arrays, out=out)

    def _plan(self, arrays: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dispatch.Plan:
        kwargs = {**kwargs, **dict(zip(self._names, arrays))}
        dy, gate, up = (kwargs.get(name) for name in ("dy", "gate", "up"))
        dtype, n, narrow = "float32", 0, False
        if gate is not None and up is not None:
            given = [dy, gate, up] if "dy" in self._names else [gate, up]
            dtypes = [np.asarray(a).dtype for a in given]
            found = _driver.computing_dtype(dtypes)
            if found is None:
                raise TypeError(unsupported(self.name, map(type, dtypes)))
            dtype, n = found, math.prod(np.broadcast_shapes(*map(np.shape, given)))
        elif gate is not None:
            call = self._prepared(dy, gate, kwargs.get("axis", -1), kwargs.get("halves"))
            dtype, n = call.dtype, call.rows * call.n
            narrow = call.n * itemsize(dtype) < _driver.NARROW_BYTES
        spec = kernel_of(self.op, self.kind, compute_dtype(dtype))
        written = itemsize(dtype) * n * len(spec.outputs)
        return dispatch.Plan(
            call=f"{self.unit.name} {'backward' if 'dy' in self._names else 'forward'}",
            size=f"{n} elements of {dtype}",
            elements=n,
            specs=(spec,),
            parallel_min=dispatch.limits(spec)[0],
            # 16-bit results are narrowed in tiles
            written=written if spec.dtype == dtype and not narrow else None,
            stages=tuple(s.what for s in program_of(self.op, self.kind).stages),
        )

    _names: tuple[str, ...] = ()

    __dir__ = shown_names

    def __repr__(self) -> str:
        return f"<fastact.{self.name}>"

    def __reduce__(self) -> Any:
        return _unpickle, (self.name,)

    def _documentation(self, template: str, calls: tuple[str, ...]) -> str:
        results = [eval(call, {"np": np, "x": np.array([[-1.0, 0.5, 2.0, 4.0]]), self.unit.name: _unit(self.unit.name)})
                   for call in calls]  # fmt: skip
        shown = [f">>> fa.{call}\n{result!r}" for call, result in zip(calls, results)]
        return template.format(
            name=self.unit.name,
            halves=self.unit.halves,
            formula=self.op.formula,
            source=self.unit.source,
            examples="\n".join(shown),
        )


def _unit(name: str) -> GatedUnit:
    return GATED_UNITS[name]


class GatedBackward(GatedMethod):
    """The gradients of a gated unit."""

    kind = "gated_backward"
    _names = ("dy", "gate", "up")

    def __call__(
        self, dy: Any, gate: Any, up: Any = None, *, axis: int = -1, halves: str | None = None, out: Any = None
    ) -> Any:
        """The gradients of f(gate)·up."""
        if up is None:
            return self._packed(dy, gate, axis, halves, out)
        return self._pair((dy, gate, up), axis, halves, out)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        name = self.unit.name
        both = f"{name}.backward(np.ones((1, 2)), x[:, :2], x[:, 2:])"
        return self._documentation(BACKWARD, (both, f"{name}.backward(np.ones((1, 2)), x)"))


class GatedUnit(GatedMethod):
    """A gated unit: ``fa.swiglu(gate, up)`` is silu(gate)·up, ``fa.swiglu(x)`` the same of the halves of x."""

    kind = "gated"
    _names = ("gate", "up")

    def __init__(self, unit: Unit) -> None:
        super().__init__(unit, unit.name)
        self.backward = GatedBackward(unit, f"{unit.name}.backward")

    def __call__(self, gate: Any, up: Any = None, *, axis: int = -1, halves: str | None = None, out: Any = None) -> Any:
        """f(gate)·up."""
        if up is None:
            return self._packed(None, gate, axis, halves, out)
        return self._pair((gate, up), axis, halves, out)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        name = self.unit.name
        return self._documentation(FORWARD, (f"{name}(x[:, :2], x[:, 2:])", f"{name}(x)"))


class _Packed:
    """A call with one array: rows of both halves. Everything is checked before anything is written."""

    def __init__(self, method: GatedMethod, dy: Any, x: Any, axis: Any, halves: str | None) -> None:
        name = self.name = method.name
        self.method = method
        given = {"x": x} if method.kind == "gated" else {"dy": dy, "x": x}
        refuse_masked(name, given.values(), FILLED)
        arrays = self._taken(given)
        self.x = arrays[-1]
        halves = method.unit.halves if halves is None else halves
        if not isinstance(halves, str) or halves not in HALVES:
            raise ValueError(f"{name}: halves must be one of {', '.join(map(repr, HALVES))}, not {halves!r}")
        self.gate_first = halves == "gate_first"
        shape = self.x.shape
        axis = np.lib.array_utils.normalize_axis_index(integer(f"{name}: axis", axis), len(shape))
        if shape[axis] % 2:
            raise ValueError(f"{name}: axis {axis} of {shape} is odd, and holds no two halves")
        self.shape = (*shape[:axis], shape[axis] // 2, *shape[axis + 1 :])
        self.dy = None
        if method.kind != "gated":
            if arrays[0].shape != self.shape:
                raise ValueError(f"{name}: dy has shape {arrays[0].shape}, the output {self.shape}")
            self.dy = arrays[0]
        self.axis, self.rows, self.n = axis, math.prod(shape[:axis]), math.prod(shape[axis + 1 :]) * self.shape[axis]

    def _taken(self, given: Mapping[str, Any]) -> list[Any]:
        """The arrays; finds the dtype."""
        arrays = [np.asarray(a) for a in given.values()]
        self.dtype, self.memory = memory_dtype(self.name, [a.dtype for a in arrays])
        return arrays

    def _halves(self, a: Array) -> tuple[Array, Array]:
        """Gate and up of an array that holds both, as rows."""
        a = a.reshape(self.rows, 2 * self.n)
        halves = a[:, : self.n], a[:, self.n :]
        return halves if self.gate_first else (halves[1], halves[0])

    def run(self, out: Any) -> Any:
        out = single_out(self.name, out)
        shape = self.shape if self.dy is None else self.x.shape
        if out is not None:
            refuse_masked(self.name, (out,), FILLED)
            check_out(self.name, out, shape, self.memory)
        op = self.method.op
        function = self.method._apart.function(op)
        x = contiguous(self.x, self.memory)
        inputs = [x] if self.dy is None else [contiguous(self.dy, self.memory), x]
        result = result_buffer(out, shape, self.memory, inputs)
        if result.size:
            arrays: list[Array] = [] if self.dy is None else [inputs[0].reshape(self.rows, self.n)]
            arrays += self._halves(x)
            parameters = [np.array([p.default], compute_dtype(self.dtype)) for p in op.params]
            first_out = len(arrays) + len(parameters)
            arrays += [*parameters, *([result.reshape(self.rows, self.n)] if self.dy is None else self._halves(result))]
            roles = "".join("v" if first_out - len(parameters) <= j < first_out else "a" for j in range(len(arrays)))
            python = function.python(self.dtype)
            if python is None:
                function.run_apart(self.dtype, tuple(arrays), roles, self.rows, self.n)
            else:
                python(tuple(arrays), roles, self.rows, self.n, 1)
        return delivered(out, result)


GATED_UNITS: dict[str, GatedUnit] = {name: GatedUnit(unit) for name, unit in UNITS.items()}


def _unpickle(name: str) -> Any:
    unit, _, method = name.partition(".")
    return getattr(GATED_UNITS[unit], method) if method else GATED_UNITS[unit]
