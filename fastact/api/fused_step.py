"""What surrounds an activation in a network, in one pass: residual + dropout(f(x + bias)), and its gradients."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastact import dispatch
from fastact.api.arguments import integer, number, unexpected
from fastact.api.device import any_on_device
from fastact.api.dropout import Random, factors, stream
from fastact.api.dropout import dropout as dropout_function
from fastact.api.fused import Fused, _Call, shape_of
from fastact.api.replay import replayed
from fastact.api.shown import Signature, of_step, shown_names
from fastact.runtime import _driver

if TYPE_CHECKING:
    from fastact.api.activation import Activation

# the kind that computes it with (a bias, a dropout, a residual); a plain call without any
FORWARD: dict[tuple[bool, bool, bool], str] = {
    (False, False, False): "forward",
    (False, False, True): "residual",
    (False, True, False): "dropped",
    (False, True, True): "dropped_residual",
    (True, False, False): "biased",
    (True, False, True): "biased_residual",
    (True, True, False): "biased_dropped",
    (True, True, True): "biased_dropped_residual",
}
# with (a bias, a dropout); a plain call of `backward` without any
BACKWARD: dict[tuple[bool, bool], str] = {
    (False, False): "backward",
    (False, True): "dropped_backward",
    (True, False): "biased_backward",
    (True, True): "biased_dropped_backward",
}
# by the name of a method, as `warmup` takes it
KINDS_OF = {"fused": tuple(FORWARD.values()), "fused_backward": tuple(BACKWARD.values())}


class FusedStep:
    """``f.fused`` of an activation; of `FusedStepBackward` its gradients."""

    method = "fused"
    # by position; the last one may be absent
    names: tuple[str, ...] = ("x", "bias")

    def __init__(self, activation: Activation) -> None:
        self.activation, self.op = activation, activation.op
        self.__name__ = self.__qualname__ = f"{self.op.name}.{self.method}"
        taken = {p.name for p in self.op.params}
        self.by_name = tuple(name for name in self.names if name not in taken)
        # clipped_linear has a parameter named offset
        self.offset_name = "dropout_offset" if "offset" in taken else "offset"
        self._made: dict[str, Fused] = {}

    def of_kind(self, kind: str) -> Fused:
        """What runs one of the kinds that it is made of."""
        if kind not in self._made:
            fused = Fused(self.activation, kind, self.method)
            self._made[kind] = fused
        return self._made[kind]

    def _placed(self, arrays: tuple[Any, ...], params: dict[str, Any]) -> tuple[list[Any], tuple[Any, ...]]:
        """The arrays, by position or by name, with None for a bias that is absent; then parameters by position."""
        n = len(self.names)
        found, rest = [*arrays[:n], *[None] * (n - len(arrays))], arrays[n:]
        for i, name in enumerate(self.names):
            if name in self.by_name and name in params:
                if i < len(arrays):
                    raise TypeError(f"{self.__name__}() got multiple values for argument {name!r}")
                found[i] = params.pop(name)
        for name, value in zip(self.names[:-1], found):
            if value is None:
                raise TypeError(f"{self.__name__}: {name} must be given")
        for name in params:
            if all(name != p.name for p in self.op.params):
                own = [p.name for p in inspect.signature(self).parameters.values() if p.kind == p.KEYWORD_ONLY]
                raise TypeError(
                    unexpected(self.__name__, name, [*self.by_name, *(p.name for p in self.op.params), *own])
                )
        required = sum(p.default is None for p in self.op.params)
        if len(rest) > required:
            takes = n + required
            raise TypeError(f"{self.__name__} takes at most {takes} arguments by position, not {len(arrays)}")
        return found, rest

    def _random(self, p: Any, seed: Any, offset: Any) -> Random | None:
        """What the kernel of the dropout takes; None without one."""
        value = number(f"{self.__name__}: dropout", p)
        if value == 0:
            if seed is not None:
                stream(self.__name__, seed, offset, self.offset_name)
            return None
        return factors(self.__name__, value, seed, offset, "dropout", self.offset_name)

    def _axis(self, axis: Any, x: Any, fused: Fused) -> int | None:
        """The axis for `fused`; checked also where nothing lies along it."""
        found = None if axis is None else integer(f"{self.__name__}: axis", axis)
        if found is not None:
            np.lib.array_utils.normalize_axis_index(found, np.ndim(x))
        if fused.along:
            return -1 if found is None else found
        return found if fused.takes_axis else None

    def _run(
        self, kind: str, given: tuple[Any, ...], params: dict[str, Any], axis: Any, out: Any, random: Random | None
    ) -> Any:
        fused = self.of_kind(kind)
        axis = self._axis(axis, given[fused.inputs.index("x")], fused)
        if not params and not fused.required:
            function, numbers = fused._plain or fused._plainly()
            arrays = given if random is None else (*given, None)
            done = function.plain_fused(arrays, numbers, fused.roles, fused.axis if axis is None else axis, out, random)
            if done is not None:
                return done
        if _driver.elsewhere((*given, *params.values(), out)):
            return self._on_device(kind, given, params, axis, out, random=random)
        return self._generally(kind, given, params, axis, out, random)

    @replayed
    def _on_device(
        self, kind: str, given: tuple[Any, ...], params: dict[str, Any], axis: int | None, out: Any,
        random: Random | None = None,
    ) -> Any:  # fmt: skip
        return self._generally(kind, given, params, axis, out, random)

    def _generally(
        self, kind: str, given: tuple[Any, ...], params: dict[str, Any], axis: int | None, out: Any,
        random: Random | None,
    ) -> Any:  # fmt: skip
        call = self._call(kind, given, params, axis, random, out)
        if random is not None and call.order is not None:
            return self._reordered(call, given, random, out)
        return call.run(out)

    def _reordered(self, call: _Call, given: tuple[Any, ...], random: Random, out: Any) -> Any:
        """The gradients where prelu's weights lie along axes apart, so that elements are not laid out in C order.

        The dropout goes first, in the computing dtype: the same operations, in two passes.
        """
        if any_on_device((*given, *call.values.values())):
            from fastact.api.device_fused import reordered

            return reordered(call, self.activation, random, out)  # type: ignore[arg-type]
        outs = call._outs(out)
        dy, x = (np.asarray(a).astype(call.compute) for a in given)
        dy = _dropped(np.broadcast_to(dy, call.shape), random)
        params: dict[str, Any] = {k: np.asarray(v, call.compute) for k, v in call.values.items()}
        found = self.activation.backward(dy, x, **params)
        return tuple(call._delivered(given, result) for given, result in zip(outs, found))

    def _call(
        self, kind: str, given: tuple[Any, ...], params: dict[str, Any], axis: int | None, random: Random | None,
        out: Any,
    ) -> _Call:  # fmt: skip
        fused = self.of_kind(kind)
        call = fused.prepared(given, params, axis, random, out)
        x = shape_of(call.maps["x"])
        if call.shape != x:
            what = next(name for name, a in call.maps.items() if np.broadcast_shapes(shape_of(a), x) != x)
            own = shape_of(call.maps[what])
            raise ValueError(f"{fused.__name__}: {what} of shape {own} does not broadcast to x of {x}")
        return call

    def __call__(
        self, *arrays: Any, residual: Any = None, dropout: Any = 0.0, seed: Any = None, axis: int | None = None,
        out: Any = None, **params: Any,
    ) -> Any:  # fmt: skip
        """residual + dropout(f(x + bias))."""
        chosen = self._variant(params)
        offset = params.pop(self.offset_name, 0)
        (x, bias), rest = self._placed(arrays, params)
        random = self._random(dropout, seed, offset)
        kind = FORWARD[bias is not None, random is not None, residual is not None]
        if chosen is not self.activation:
            other = chosen.fused
            return other._forward(kind, x, bias, residual, rest, params, axis, out, random)
        return self._forward(kind, x, bias, residual, rest, params, axis, out, random)

    def _variant(self, params: dict[str, Any]) -> Activation:
        variants = self.activation.variants
        if variants is None or variants[0] not in params:
            return self.activation
        return self.activation.variant(params.pop(variants[0]))

    def _forward(
        self, kind: str, x: Any, bias: Any, residual: Any, rest: tuple[Any, ...], params: dict[str, Any], axis: Any,
        out: Any, random: Random | None,
    ) -> Any:  # fmt: skip
        given = tuple(a for a in (x, bias, residual) if a is not None)
        if kind == "forward":
            self._axis(axis, x, self.of_kind("residual"))
            return self.activation(x, *rest, out=out, **params)
        return self._run(kind, (*given, *rest), params, axis, out, random)

    def _plan(self, arrays: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dispatch.Plan:
        params = {k: v for k, v in kwargs.items() if k != "out"}
        axis = params.pop("axis", None)
        residual, p, seed = params.pop("residual", None), params.pop("dropout", 0.0), params.pop("seed", None)
        offset = params.pop(self.offset_name, 0)
        chosen = self._variant(params)
        if not arrays and not any(name in params for name in self.names):
            random, given, kind, rest = None, (), self._kind(None, None, None), ()
        else:
            found, rest = self._placed(arrays, params)
            random = self._random(p, seed, offset)
            kind = self._kind(found[-1], random, residual)
            given = tuple(a for a in (*found, residual) if a is not None)
        step = getattr(chosen, self.method)
        if kind in ("forward", "backward"):
            plain: Any = chosen.backward if kind == "backward" else chosen
            plan = plain._plan((*given, *rest), params)
        else:
            plan = step.of_kind(kind)._plan((*given, *rest), {**params, "axis": axis})
        return replace(plan, call=f"{chosen.op.name} {self.method}")

    def _kind(self, bias: Any, random: Any, residual: Any) -> str:
        return FORWARD[bias is not None, random is not None, residual is not None]

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        from fastact.api.docstrings import of_step

        return of_step(self)

    __signature__ = Signature()
    __dir__ = shown_names
    _signature = of_step

    def __repr__(self) -> str:
        return f"<fastact.{self.__name__}>"

    def __reduce__(self) -> Any:
        from fastact.api.activation import _unpickle

        return _unpickle, (self.op.name, self.method)


class FusedStepBackward(FusedStep):
    # a docstring here would be that of each instance
    __doc__ = FusedStep.__dict__["__doc__"]

    method = "fused_backward"
    names = ("dy", "x", "bias")

    def __call__(  # type: ignore[override]
        self, *arrays: Any, dropout: Any = 0.0, seed: Any = None, axis: int | None = None, out: Any = None,
        **params: Any,
    ) -> Any:  # fmt: skip
        """(dx, dbias or None); of an activation with a learnt parameter also its gradient."""
        chosen = self._variant(params)
        offset = params.pop(self.offset_name, 0)
        (dy, x, bias), rest = self._placed(arrays, params)
        random = self._random(dropout, seed, offset)
        step = self if chosen is self.activation else chosen.fused_backward
        return step._backward(dy, x, bias, rest, params, axis, out, random)

    def _backward(
        self, dy: Any, x: Any, bias: Any, rest: tuple[Any, ...], params: dict[str, Any], axis: Any, out: Any,
        random: Random | None,
    ) -> Any:  # fmt: skip
        kind = self._kind(bias, random, None)
        learnt = self.op.param_grad is not None
        if bias is not None:
            return self._run(kind, (dy, x, bias, *rest), params, axis, out, random)
        out = self._without_bias(out, learnt)
        if random is None and not learnt:
            self._axis(axis, x, self.of_kind("dropped_backward"))
            self._same_shape(dy, x)
            found = self.activation.backward(dy, x, *rest, out=out, **params)
        else:
            kind = kind if random is not None else "backward_with_param"
            found = self._run(kind, (dy, x, *rest), params, axis, out, random)
        return (found[0], None, *found[1:]) if learnt else (found, None)

    def _same_shape(self, dy: Any, x: Any) -> None:
        # as NumPy has it, but for a gradient that has more elements than x
        if np.broadcast_shapes(np.shape(dy), np.shape(x)) != np.shape(x):
            raise ValueError(f"{self.__name__}: dy of shape {np.shape(dy)} does not broadcast to x of {np.shape(x)}")

    def _without_bias(self, out: Any, learnt: bool) -> Any:
        """`out` without the place of dbias."""
        if not isinstance(out, tuple):
            return out
        n = 3 if learnt else 2
        if len(out) != n:
            raise ValueError(f"{self.__name__}: out must be {n} arrays, not {len(out)}")
        if out[1] is not None:
            raise ValueError(f"{self.__name__}: out for dbias is given, and there is no bias")
        return (out[0], *out[2:]) if learnt else out[0]

    def _kind(self, bias: Any, random: Any, residual: Any) -> str:
        return BACKWARD[bias is not None, random is not None]


def _dropped(dy: Any, random: Random) -> Any:
    return dropout_function.backward._run({"dy": dy}, random, None)
