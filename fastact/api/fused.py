"""Fused uses of an activation: with a bias, as a gate, with the gradient of a parameter that is learnt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastact import dispatch
from fastact.api.arguments import (
    FILLED,
    contiguous,
    delivered,
    integer,
    memory_dtype,
    refuse_masked,
    result_buffer,
    unexpected,
)
from fastact.api.device import any_on_device
from fastact.api.replay import replayed
from fastact.api.shown import Signature, of_fused, shown_names
from fastact.runtime import _driver
from fastact.spec.kernel import compute_dtype, itemsize, kernel_of
from fastact.spec.kinds import ALL, outputs_of
from fastact.spec.stages import program_of

if TYPE_CHECKING:
    from fastact.api.activation import Activation
    from fastact.spec.table import Op

Array = NDArray[Any]


@_driver.enable_vectorcall
class Fused(_driver.FusedCallable):
    """One fused kind of an activation, such as ``fa.gelu.biased``."""

    def __init__(self, activation: Activation, kind: str, name: str = "") -> None:
        self.activation, self.op, self.kind = activation, activation.op, kind
        self.method = name or kind
        self.__name__ = self.__qualname__ = f"{self.op.name}.{self.method}"
        self.inputs = tuple(a.name for a in ALL[kind].inputs if a.role != "random")
        # those that a keyword can mean; shrink has a parameter named bias
        self.by_name = tuple(name for name in self.inputs if all(name != p.name for p in self.op.params))
        self.along = any(a.role == "col" for a in ALL[kind].inputs)
        self.axis = -1 if self.along else None
        self.outputs = outputs_of(self.op, kind)
        self.takes_axis = self.along or len(self.outputs) > len(ALL[kind].outputs)
        self.required = any(p.default is None for p in self.op.params)
        roles = {"map": "a", "col": "c", "sum_rows": "s", "random": "r"}
        self.roles = "".join(roles[a.role] for a in (*ALL[kind].inputs, *self.outputs))
        self._functions: dict[Op, _driver.Function] = {}
        self._plain: tuple[_driver.Function, tuple[float, ...]] | None = None

    def function(self, op: Op) -> _driver.Function:
        """What runs it for one row of the table."""
        if op not in self._functions:
            self._functions[op] = dispatch.make_fused(op, self.kind)
        return self._functions[op]

    def _plainly(self) -> tuple[_driver.Function, tuple[float, ...]]:
        op = self.op.at_default or self.op
        self._plain = self.function(op), tuple(p.default for p in op.params if p.default is not None)
        self.plain(*self._plain, self.roles, len(self.inputs), self.axis)
        return self._plain

    def _call(self, *arrays: Any, axis: int | None = None, out: Any = None, **params: Any) -> Any:
        variants = self.activation.variants
        if variants is not None and variants[0] in params:
            chosen = self.activation.variant(params.pop(variants[0]))
            if chosen is not self.activation:
                return getattr(chosen, self.method)(*arrays, axis=axis, out=out, **params)
        if params:
            arrays = self._placed(arrays, params)
        if axis is not None and not self.takes_axis:
            raise TypeError(f"{self.__name__}() got an unexpected keyword argument 'axis'")
        if len(arrays) == len(self.inputs) and not params and not self.required:
            function, numbers = self._plain or self._plainly()
            done = function.plain_fused(arrays, numbers, self.roles, self.axis if axis is None else axis, out)
            if done is not None:
                return done
        if _driver.elsewhere((*arrays, *params.values(), out)):
            return self._on_device(arrays, params, axis, out)
        return self.prepared(arrays, params, axis, out=out).run(out)

    @replayed
    def _on_device(self, arrays: tuple[Any, ...], params: dict[str, Any], axis: int | None, out: Any) -> Any:
        return self.prepared(arrays, params, axis, out=out).run(out)

    def _placed(self, arrays: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]:
        """The arrays with those that were given by name, which leave `params`."""
        named = [name for name in self.by_name if name in params]
        if not named:
            return arrays
        rest = self.inputs[len(arrays) :]
        for name in named:
            if name not in rest:
                raise TypeError(f"{self.__name__}() got multiple values for argument {name!r}")
        for name in rest:
            if name not in named:
                how = "" if name in self.by_name else " by position"
                raise TypeError(f"{self.__name__}: {name} must be given{how}")
        return (*arrays, *(params.pop(name) for name in rest))

    def prepared(
        self, arrays: tuple[Any, ...], params: dict[str, Any], axis: int | None, random: Any = None, out: Any = None
    ) -> _Call:
        """A call whose arguments are checked; of arrays on a GPU, if one of them is."""
        op, given, values = self._arguments(arrays, params)
        if any_on_device((*given, *values.values(), out)):
            from fastact.api.device_fused import DeviceCall

            return DeviceCall(self, op, given, values, axis, random)
        return _Call(self, op, _arrays(given, values), values, axis, random)

    def _arguments(self, arrays: tuple[Any, ...], params: dict[str, Any]) -> tuple[Op, tuple[Any, ...], dict[str, Any]]:
        """The row of the table that serves, arrays, and values of its parameters."""
        op, n = self.op, len(self.inputs)
        required = [p.name for p in op.params if p.default is None]
        if not n <= len(arrays) <= n + len(required):
            raise TypeError(f"{self.__name__} takes {', '.join(self.inputs)} by position, not {len(arrays)} arguments")
        params.update(zip(required, arrays[n:]))
        for name in params:
            if all(name != p.name for p in op.params):
                own = [*(p.name for p in op.params), *self.by_name, *(["axis"] if self.takes_axis else []), "out"]
                raise TypeError(unexpected(self.__name__, name, own))
        for name in required:
            if name not in params:
                raise TypeError(f"{self.__name__}: {name} must be given")
        if params:
            params = self.activation.check(params)
        elif op.at_default is not None:
            op = op.at_default
        refuse_masked(self.__name__, arrays, FILLED)
        values = {p.name: params.get(p.name, p.default) for p in op.params}
        return op, arrays[:n], values

    def _plan(self, arrays: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dispatch.Plan:
        kwargs = {k: v for k, v in kwargs.items() if k != "out"}
        axis = kwargs.pop("axis", None)
        variants = self.activation.variants
        if variants is not None and variants[0] in kwargs:
            chosen = self.activation.variant(kwargs.pop(variants[0]))
            return getattr(chosen, self.method)._plan(arrays, {**kwargs, "axis": axis})
        arrays = self._placed(arrays, kwargs)
        op, dtype, n = self.op, "float32", 0
        if arrays:
            call = self.prepared(arrays, kwargs, axis)
            op, dtype, n = call.op, call.dtype, math.prod(call.shape)
        spec = kernel_of(op, self.kind, compute_dtype(dtype))
        written = itemsize(dtype) * n * sum(a.role == "map" for a in self.outputs)
        return dispatch.Plan(
            call=f"{self.op.name} {self.method}",
            size=f"{n} elements of {dtype}",
            elements=n,
            specs=(spec,),
            parallel_min=dispatch.limits(spec)[0],
            # 16-bit results are narrowed in tiles, and go through the cache
            written=written if spec.dtype == dtype else None,
            stages=tuple(s.what for s in program_of(op, self.kind).stages),
        )

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        from fastact.api.docstrings import of_fused

        return of_fused(self)

    __signature__ = Signature()
    __dir__ = shown_names
    _signature = of_fused

    def __repr__(self) -> str:
        return f"<fastact.{self.__name__}>"

    def __reduce__(self) -> Any:
        from fastact.api.activation import _unpickle

        return _unpickle, (self.op.name, self.method)


def _arrays(given: tuple[Any, ...], values: dict[str, Any]) -> list[Array]:
    """Inputs as arrays; Python's numbers take the dtype of the others, as in NumPy."""
    arrays = [np.asarray(a) for a in given]
    weak = [type(a) in (int, float) for a in given]
    if any(weak):
        own = [a.dtype for a, w in zip(arrays, weak) if not w]
        own += [v.dtype for v in values.values() if isinstance(v, np.ndarray)]
        name = _driver.computing_dtype(own) if own else None
        if name is not None:
            dtype = next((d for d in own if d.name == name), name)
            with np.errstate(over="ignore"):
                arrays = [a.astype(dtype) if w else a for a, w in zip(arrays, weak)]
    return arrays


def shape_of(a: Any) -> tuple[int, ...]:
    """The shape of an array, on a device or not; of a number ()."""
    return tuple(getattr(a, "shape", ()))


class _Call:
    """One call: everything is checked here, before anything is written."""

    def __init__(
        self, fused: Fused, op: Op, arrays: list[Array], values: dict[str, Any], axis: int | None, random: Any = None
    ) -> None:
        self.fused, self.op, self.values, self.random = fused, op, values, random
        kind = ALL[fused.kind]
        # random numbers come last, and are nobody's to give
        inputs = dict(zip(kind.inputs, arrays))
        self.maps = {a.name: x for a, x in inputs.items() if a.role == "map"}
        self.cols = {a.name: x for a, x in inputs.items() if a.role == "col"}
        numbers = {k: v for k, v in values.items() if not isinstance(v, np.ndarray)}
        self.learnt = {k: v for k, v in values.items() if isinstance(v, np.ndarray)}
        dtypes = [a.dtype for a in (*arrays, *self.learnt.values())]
        self.dtype, self.memory = memory_dtype(fused.__name__, dtypes)
        self.compute = np.dtype(compute_dtype(self.dtype))
        self.numbers = numbers
        self.shape = self._shape()
        self._place_axis(axis)

    def _shape(self) -> tuple[int, ...]:
        try:
            return np.broadcast_shapes(*map(shape_of, self.maps.values()))
        except ValueError:
            shapes = ", ".join(f"{name} of {shape_of(a)}" for name, a in self.maps.items())
            raise ValueError(f"{self.fused.__name__}: {shapes} do not broadcast together") from None

    def _place_axis(self, axis: int | None) -> None:
        """Sees the arrays as (outer, channel, inner), the axis in the middle."""
        name = self.fused.__name__
        axes: tuple[int, ...] = ()
        if axis is None:
            axis = self.fused.axis
        if axis is not None:
            axis = np.lib.array_utils.normalize_axis_index(integer(f"{name}: axis", axis), len(self.shape))
            self.axis = axis
            need = (self.shape[axis],)
            axes = (axis,) if self.fused.along else ()
            for what, a in (self.cols or self.learnt).items():
                if shape_of(a) != need:
                    own = shape_of(a)
                    raise ValueError(f"{name}: {what} has shape {own}, axis {axis} of {self.shape} needs {need}")
                if not self.fused.along:
                    self.learnt[what] = a.reshape((*need, *[1] * (len(self.shape) - axis - 1)))
        self.full: dict[str, Array] = {}
        for what, a in self.learnt.items():
            lead = len(self.shape) - a.ndim
            if lead < 0 or any(m not in (1, n) for m, n in zip(a.shape, self.shape[lead:])):
                raise ValueError(f"{name}: {what} of shape {a.shape} does not broadcast to {self.shape}")
            own = tuple(lead + i for i, n in enumerate(a.shape) if n != 1)
            if not axes and self._sums_params:
                axes = own
            if own and own != axes:
                if self._sums_params:
                    raise ValueError(f"{name}: {what} of shape {a.shape} must lie along axis {axis} of {self.shape}")
                self.full[what] = a
        self.order: tuple[int, ...] | None = None
        if axes and axes != tuple(range(axes[0], axes[-1] + 1)):
            # axes apart from each other go last, side by side
            self.order = (*(i for i in range(len(self.shape)) if i not in axes), *axes)
            shape = tuple(self.shape[i] for i in self.order)
            axes = tuple(range(len(shape) - len(axes), len(shape)))
        else:
            shape = self.shape
        self.laid = shape
        if axes:
            self.outer, self.channel = math.prod(shape[: axes[0]]), math.prod(shape[axes[0] : axes[-1] + 1])
            self.inner = math.prod(shape[axes[-1] + 1 :])
        else:
            self.outer, self.channel, self.inner = 1, 1, math.prod(shape)

    @property
    def _sums_params(self) -> bool:
        return len(self.fused.outputs) > len(ALL[self.fused.kind].outputs)

    def _contiguous(self, a: Array) -> Array:
        a = np.broadcast_to(a, self.shape)
        if self.order is not None:
            a = a.transpose(self.order)
        return contiguous(a, self.memory)

    def _parameter(self, name: str) -> tuple[str, Array]:
        """The role of a parameter and its values."""
        if name in self.full:
            return "a", self._contiguous(self.full[name])
        if name not in self.learnt:
            return "v", np.array([self.numbers[name]], self.compute)
        value = np.array(self.learnt[name], self.compute).reshape(-1)
        return ("c" if value.size == self.channel and self.channel != 1 else "v"), value

    def run(self, out: Any) -> Any:
        fused = self.fused
        outs = self._outs(out)
        maps = {name: self._contiguous(a) for name, a in self.maps.items()}
        cols = {name: np.array(a, self.compute) for name, a in self.cols.items()}
        parameters = [self._parameter(p.name) for p in self.op.params]
        held = [*maps.values(), *(a for role, a in parameters if role == "a")]
        results: list[Array | None] = []
        for argument, given in zip(fused.outputs, outs):
            # arrays laid out in another order are not the memory of out
            own = given if self.order is None else None
            results.append(None if argument.role != "map" else result_buffer(own, self.laid, self.memory, held))
        inputs = [maps.get(a.name, cols.get(a.name)) for a in ALL[fused.kind].inputs]
        roles = list(fused.roles[: len(inputs)]) + [role for role, _ in parameters]
        arrays = (*inputs, *(a for _, a in parameters), *results)
        roles += ["s" if a.role == "sum_rows" else "a" for a in fused.outputs]
        sums = iter(self._computed(arrays, "".join(roles)))
        delivered = []
        for argument, given, result in zip(fused.outputs, outs, results):
            if result is None:
                result, shape = next(sums), self._sum_shape(argument.name)
                # a parameter that all channels share has the sum over them, be there none
                one = result.size != math.prod(shape)
                result = (np.array(_driver.pairwise(result)) if one else result).reshape(shape)
            elif self.order is not None:
                result = result.transpose(np.argsort(self.order))
            delivered.append(self._delivered(given, result))
        return delivered[0] if len(delivered) == 1 else tuple(delivered)

    def _computed(self, arrays: tuple[Any, ...], roles: str) -> list[Array]:
        """Runs; the sums, one value for each channel."""
        function = self.fused.function(self.op)
        python = function.python(self.dtype)
        if 0 in self.shape:
            return [np.zeros(self.channel, self.compute) for role in roles if role == "s"]
        if python is None:
            return function.run_fused(self.dtype, arrays, roles, self.outer, self.channel, self.inner, self.random)
        return python(arrays, roles, self.outer, self.channel, self.inner, self.random)

    def _outs(self, out: Any) -> Sequence[Array | None]:
        outputs, name = self.fused.outputs, self.fused.__name__
        if out is None:
            return [None] * len(outputs)
        # an array alone is for the one result that is no sum
        alone = sum(a.role == "map" for a in outputs) == 1
        given = out if isinstance(out, tuple) or not alone else (out, *[None] * (len(outputs) - 1))
        if not isinstance(given, tuple):
            raise TypeError(f"{name}: out must be a tuple of {len(outputs)} arrays, not {type(out).__name__}")
        if len(given) != len(outputs):
            raise ValueError(f"{name}: out must be {len(outputs)} arrays, not {len(given)}")
        targets: list[Any] = []
        for argument, own in zip(outputs, given):
            if own is None:
                continue
            what = "out" if len(outputs) == 1 else f"out for {argument.name}"
            a, castable, writeable, shares = self._target(what, own)
            shape = self.shape if argument.role == "map" else self._sum_shape(argument.name)
            if a.shape != shape:
                raise ValueError(f"{name}: {what} has shape {a.shape}, the result {shape}")
            if not castable:
                raise TypeError(f"{name}: cannot write a result of {self.memory} to {what} of {a.dtype}")
            if not writeable:
                raise ValueError(f"{name}: {what} is read-only")
            targets.append((a, shares))
        for i, (a, shares) in enumerate(targets):
            if any(shares(a, b) for b, _ in targets[:i]):
                raise ValueError(f"{name}: the arrays of out share memory")
        return given

    def _target(self, what: str, a: Any) -> tuple[Any, bool, bool, Callable[[Any, Any], bool]]:
        """An array of `out`; whether results can be cast to it, and written; what tells of shared memory."""
        name = self.fused.__name__
        refuse_masked(name, (a,), FILLED)
        if not isinstance(a, np.ndarray):
            raise TypeError(f"{name}: {what} must be an array, not {type(a).__name__}")
        return a, np.can_cast(self.memory, a.dtype, "same_kind"), a.flags.writeable, np.may_share_memory

    def _sum_shape(self, name: str) -> tuple[int, ...]:
        # of the argument that it is the gradient of
        of = name.removeprefix("d")
        return shape_of(self.cols[of] if of in self.cols else self.values[of])

    def _delivered(self, out: Any, result: Array) -> Any:
        if out is not None:
            return delivered(out, result)
        with np.errstate(all="ignore"):
            return result.astype(self.memory, copy=False)[()]
