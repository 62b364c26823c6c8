"""Norms over rows and over groups of channels, with the statistics that their gradients need."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastact import dispatch
from fastact.api.arguments import (
    FILLED,
    check_out,
    contiguous,
    delivered,
    dtypes_of,
    integer,
    memory_dtype,
    refuse_masked,
    row_plan,
)
from fastact.api.replay import replayed
from fastact.api.shown import shown_names
from fastact.runtime import _driver
from fastact.spec.kernel import KernelSpec, compute_dtype, row_kernels_of
from fastact.spec.messages import shown

if TYPE_CHECKING:
    from fastact.spec.table import Op

Array = NDArray[Any]

# rows whose sums of gradients are taken by one thread
BLOCK = 64


# ---- an activation after the norm


class Then(NamedTuple):
    """An activation with numbers for its parameters, as a norm runs it."""

    op: Op
    values: tuple[float, ...]

    def call(self, kind: str) -> tuple[Any, ...]:
        """Its ufunc of a kind, over y or dy and y, and parameters."""
        return _elementwise(self.op, kind), *self.values


@cache
def _elementwise(op: Op, kind: str) -> _driver.Function:
    return dispatch.make_ufunc(op, kind)


@cache
def _named(name: str, given: str) -> Then:
    from fastact.api.activation import get

    return activation_of(name, get(given))  # type: ignore[return-value]


def activation_of(name: str, given: Any) -> Then | None:
    """What `activation=` means: None, an activation, its name, or one of these and its parameters."""
    if given is None or isinstance(given, Then):
        return given
    if isinstance(given, str):
        return _named(name, given)
    from fastact.api.activation import Activation, get

    params: Any = {}
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping):
        given, params = given[0], dict(given[1])
    if isinstance(given, str):
        given = get(given)
    if not isinstance(given, Activation):
        raise TypeError(
            f"{name}: activation must be an activation, its name, or (activation, {{parameters}}), not {shown(given)}"
        )
    if given.variants is not None and given.variants[0] in params:
        given = given.variant(params.pop(given.variants[0]))
    op = given.op
    known = {p.name: p.default for p in op.params}
    for what, value in params.items():
        if what not in known:
            raise TypeError(f"{name}: activation {op.name} has no parameter {what!r}")
        if np.ndim(value):
            raise TypeError(f"{name}: activation {op.name}: {what} must be a number, not an array")
    if params:
        known |= given.check(params)
    elif op.at_default is not None:
        op, known = op.at_default, {}
    for what, value in known.items():
        if value is None:
            raise TypeError(f"{name}: activation {op.name}: {what} must be given")
    return Then(op, tuple(map(float, known.values())))


# ---- how arrays are seen: (rows, groups, n), each group with weights and biases of its own


class Along:
    """Rows along an axis; all have the same weight and bias."""

    groups = 1

    def __init__(self, name: str, x: Array, axis: Any) -> None:
        self.axis = np.lib.array_utils.normalize_axis_index(integer(f"{name}: axis", axis), x.ndim)
        self.length = self.n = x.shape[self.axis]
        self.what = f"axis {self.axis}"
        self.rows_shape = x.shape[: self.axis] + x.shape[self.axis + 1 :]

    def seen(self, a: Array) -> Array:
        """A view of it, or a copy where there is none."""
        return np.moveaxis(a, self.axis, -1).reshape(math.prod(self.rows_shape), 1, self.n)

    def back(self, a: Array) -> Array:
        """The array of which this was seen."""
        return np.moveaxis(a.reshape(*self.rows_shape, self.n), -1, self.axis)

    def spread(self, column: Array) -> Array:
        """A column for each group."""
        return column.reshape(1, self.n)

    def gathered(self, sums: Array) -> Array:
        """And back: what was summed for each element of a column."""
        return sums.reshape(self.n)


class Grouped:
    """The channels of each sample in groups."""

    def __init__(self, name: str, x: Array, channel_axis: Any, groups: Any) -> None:
        if x.ndim < 2:
            raise ValueError(f"{name}: x of shape {x.shape} has no axis of channels beside that of samples")
        axis = np.lib.array_utils.normalize_axis_index(integer(f"{name}: channel_axis", channel_axis), x.ndim)
        if axis == 0:
            raise ValueError(f"{name}: channel_axis must not be 0, the axis of samples")
        self.axis, self.groups = axis, integer(f"{name}: groups", groups)
        self.length = x.shape[axis]
        self.what = f"channel_axis {axis}"
        if self.groups < 1 or self.length % self.groups:
            raise ValueError(f"{name}: groups must divide the {self.length} channels, not {self.groups}")
        self.moved = (x.shape[0], self.length, *(n for i, n in enumerate(x.shape) if i not in (0, axis)))
        self.inner = math.prod(self.moved[2:])
        self.n = self.length // self.groups * self.inner
        self.rows_shape = (self.groups, x.shape[0])

    def seen(self, a: Array) -> Array:
        """A view of it, or a copy where there is none."""
        return np.moveaxis(a, self.axis, 1).reshape(a.shape[0], self.groups, self.n)

    def back(self, a: Array) -> Array:
        """The array of which this was seen."""
        return np.moveaxis(a.reshape(self.moved), 1, self.axis)

    def spread(self, column: Array) -> Array:
        """A column for each group: the value of a channel for all its elements."""
        return np.repeat(column, self.inner).reshape(self.groups, self.n)

    def gathered(self, sums: Array) -> Array:
        """And back: the sum over the elements of each channel."""
        sums = sums.reshape(self.length, self.inner)
        return sums[:, 0] if self.inner == 1 else sums.sum(-1, dtype=np.float64).astype(sums.dtype)


class Norm:
    """What norms have in common whose statistics are those of rows."""

    name: str
    columns: tuple[str, ...]  # arrays with a value for each position along the axis
    nstat: int  # values of each row that the gradient needs
    loop = ""  # whose kernels it runs, if not its own

    def __init__(self) -> None:
        self.__name__ = self.__qualname__ = self.name
        self._made: dict[str, _driver.Function] = {}
        loop = self.loop or self.name
        self._kernels = {"forward": loop, "backward": f"{loop}_backward", "apply": f"{loop}_apply"}

    def _function(self, kind: str) -> _driver.Function:
        if kind not in self._made:
            self._made[kind] = dispatch.make_rows(self._kernels[kind])
        return self._made[kind]

    def kernels(self, kind: str, dtype: str) -> list[KernelSpec]:
        """The kernels behind a kind."""
        kinds = {"forward": ["forward"], "backward": ["backward", "apply"]}.get(kind, [])
        return [spec for k in kinds for spec in row_kernels_of(self._kernels[k], compute_dtype(dtype))]

    def _layout(self, name: str, x: Array, where: tuple[Any, ...]) -> Along | Grouped:
        return Along(name, x, *where)

    def _forward(
        self, x: Any, columns: tuple[Any, ...], where: tuple[Any, ...], eps: Any, offset: Any, activation: Any,
        residual: Any, out: Any, keep: bool,
    ) -> Any:  # fmt: skip
        if _driver.elsewhere((x, *columns, residual, out)):
            return self._values_on_device(x, columns, where, eps, offset, activation, residual, out, keep)
        call = _Call(self, {"x": x, "residual": residual}, columns, where, offset, activation, out)
        return call.forward(self._eps(eps, call), keep)

    @replayed
    def _values_on_device(
        self, x: Any, columns: tuple[Any, ...], where: tuple[Any, ...], eps: Any, offset: Any, activation: Any,
        residual: Any, out: Any, keep: bool,
    ) -> Any:  # fmt: skip
        arrays = {"x": x} if residual is None else {"x": x, "residual": residual}
        call = self._on_device(self.name, arrays, columns, where, offset, activation)
        eps = _finfo_eps_of(call.dtype) if eps is None else positive_eps(self.name, eps, call.compute)
        return call.forward(eps, self.nstat, residual is not None, out, keep)

    def _on_device(
        self, name: str, arrays: Mapping[str, Any], columns: tuple[Any, ...], where: tuple[Any, ...], offset: Any,
        activation: Any, stats: Any = None,
    ) -> Any:  # fmt: skip
        """The call for arrays on a GPU."""
        from fastact.api.device_norms import Call

        axis, groups = (*where, None)[:2]
        axis_name = "axis" if groups is None else "channel_axis"
        named = dict(zip(self.columns, columns))
        loop, then = self.loop or self.name, activation_of(name, activation)
        return Call(name, loop, arrays, named, axis, axis_name, groups, offset, then, stats)

    @replayed
    def _gradients_on_device(
        self, dy: Any, x: Any, stats: Any, columns: tuple[Any, ...], where: tuple[Any, ...], offset: Any,
        activation: Any, out: Any,
    ) -> Any:  # fmt: skip
        """(dx, dweight, dbias), None for those of columns that are not given."""
        name = f"{self.name}.backward"
        call = self._on_device(name, {"dy": dy, "x": x}, columns, where, offset, activation, stats)
        return call.backward(self.nstat, out)

    def _eps(self, eps: Any, call: _Call) -> float:
        if eps is None:
            return _finfo_eps(call.dtype)
        return positive_eps(self.name, eps, call.compute)

    def _plan(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], kind: str = "forward") -> dispatch.Plan:
        method: Any = getattr(self, kind) if kind == "backward" else self
        given = inspect.signature(method).bind_partial(*args, **kwargs).arguments
        dtype, elements, rows = "float32", 0, 0
        if "x" in given:
            arrays: dict[str, Any] = {name: given[name] for name in ("dy", "x") if name in given}
            columns = tuple(given.get(name) for name in self.columns)
            call = _Call(self, arrays, columns, self._where(given), None, given.get("activation"), None)
            dtype, elements, rows = call.dtype.name, call.x.size, math.prod(call.layout.rows_shape)
        plan = row_plan(f"{self.name} {kind}", self._kernels[kind], dtype, elements, rows, "x" in given)
        if kind == "backward" and rows <= BLOCK:
            plan = replace(plan, alone=f"up to {BLOCK} rows are one block of the sums")
        return plan

    def _where(self, given: Mapping[str, Any]) -> tuple[Any, ...]:
        return (given.get("axis", -1),)

    __dir__ = shown_names

    def __repr__(self) -> str:
        return f"<fastact.{self.name}>"

    def __reduce__(self) -> Any:
        return _unpickle, (self.name,)


def is_plain_eps(eps: Any) -> bool:
    """Whether it needs no further check."""
    return type(eps) is float and 1e-30 < eps < 1e30


def positive_eps(name: str, eps: Any, compute: np.dtype[Any] | str) -> float:
    """`eps` as a number that the computing dtype has."""
    if is_plain_eps(eps):
        return eps  # type: ignore[no-any-return]
    if isinstance(eps, (bool, np.bool_)) or not isinstance(eps, numbers.Real):
        raise TypeError(f"{name}: eps must be a number, not {shown(eps)}")
    eps = float(eps)
    with np.errstate(all="ignore"):
        rounded = np.dtype(compute).type(eps)
    if not (0.0 < rounded < np.inf):
        raise ValueError(f"{name}: eps must be positive and finite in {compute}, not {eps}")
    return eps


# dtypes that are computed in, as arrays that NumPy makes have them
PLAIN: dict[Any, str] = {np.dtype(name): name for name in ("float32", "float64")}


def arrays_of(
    name: str, arrays: Mapping[str, Any], columns: Mapping[str, Any], out: Any
) -> tuple[dict[str, Array], dict[str, Array], str, np.dtype[Any]]:
    """Arrays and columns that are given, and the dtype that they have in common; only x may be of integers.

    Statistics have the dtype that is computed in, which the result has not for that.
    """
    found = {what: a for what, a in {**arrays, **columns}.items() if a is not None}
    outs = out if isinstance(out, tuple) else (out,)
    first = getattr(found["x"], "dtype", None)
    if first in PLAIN and all(type(a) is np.ndarray and a.dtype is first for a in found.values()):
        # nothing to bring together; other ways take 20 us to find that out
        dtype, memory = PLAIN[first], np.dtype(first)
        refuse_masked(name, outs, FILLED)
    else:
        refuse_masked(name, (*found.values(), *outs), FILLED)
        found = {what: np.asarray(a) for what, a in found.items()}
        for what, a in found.items():
            dtypes_of(f"{name}: {what}", a)
            if what != "x" and a.dtype.kind in "iub":
                raise TypeError(f"{name}: {what} must be of floats, not {a.dtype}")
        dtype, memory = memory_dtype(name, [a.dtype for what, a in found.items() if what not in ("mean", "var")])
    x = found["x"]
    for what in arrays:
        if what in found and found[what].shape != x.shape:
            raise ValueError(f"{name}: {what} has shape {found[what].shape}, x {x.shape}")
    return found, {what: found[what] for what in columns if what in found}, dtype, memory


def columns_of(
    name: str, given: Mapping[str, Array], length: int, where: str, compute: np.dtype[Any]
) -> dict[str, Array]:
    """Columns as kernels take them, one value for each of `length` positions or channels."""
    for what, column in given.items():
        if column.shape != (length,):
            raise ValueError(f"{name}: {what} has shape {column.shape}, {where} needs {(length,)}")
    return {what: contiguous(column, compute) for what, column in given.items()}


def stats_of(name: str, stats: Any, shape: tuple[int, ...], of: tuple[int, ...], compute: np.dtype[Any]) -> Array:
    """Statistics that `forward` returned, as kernels take them; `of` is the shape of x."""
    refuse_masked(name, (stats,), FILLED)
    stats = np.asarray(stats)
    dtypes_of(f"{name}: stats", stats)
    if stats.dtype.kind in "iub":
        raise TypeError(f"{name}: stats must be of floats, not {stats.dtype}")
    if stats.shape != shape:
        raise ValueError(f"{name}: stats have shape {stats.shape}, x of {of} needs {shape}")
    return contiguous(stats, compute)


def outs_of(name: str, out: Any, residual: bool, shape: tuple[int, ...], dtype: np.dtype[Any]) -> list[Any]:
    """Where results of x's shape go: y and, with a residual, the sum."""
    if not residual:
        outs = [out]
    elif out is None:
        outs = [None, None]
    elif isinstance(out, tuple) and len(out) == 2:
        outs = list(out)
    else:
        raise TypeError(f"{name}: with a residual, out must be a tuple of two arrays or None, not {shown(out)}")
    for a in outs:
        if a is not None:
            check_out(name, a, shape, dtype)
    if residual and all(a is not None for a in outs) and np.may_share_memory(*outs):
        raise ValueError(f"{name}: the arrays of out share memory")
    return outs


class _Call:
    """One call that is not plain: everything is checked here, before anything is written."""

    def __init__(
        self, norm: Norm, arrays: dict[str, Any], columns: tuple[Any, ...], where: tuple[Any, ...], offset: Any,
        activation: Any, out: Any,
    ) -> None:  # fmt: skip
        name = self.name = norm.name if "dy" not in arrays else f"{norm.name}.backward"
        self.norm = norm
        found, given, dtype, self.dtype = arrays_of(name, arrays, dict(zip(norm.columns, columns)), out)
        self.memory, self.compute = dtype, np.dtype(compute_dtype(dtype))
        self.x = found["x"]
        self.layout = norm._layout(name, self.x, where)
        given = columns_of(name, given, self.layout.length, f"{self.layout.what} of {self.x.shape}", self.compute)
        self.columns = [given.get(c) for c in norm.columns]
        if offset is not None:
            self._add(offset)
        self.then = activation_of(name, activation)
        self.dy, self.residual = found.get("dy"), found.get("residual")
        self.outs = outs_of(name, out, self.residual is not None, self.x.shape, self.dtype)

    def _add(self, offset: Any) -> None:
        if isinstance(offset, (bool, np.bool_)) or not isinstance(offset, numbers.Real):
            raise TypeError(f"{self.name}: offset must be a number, not {shown(offset)}")
        if not math.isfinite(offset):
            raise ValueError(f"{self.name}: offset must be finite, not {offset}")
        if offset:
            if self.columns[0] is None:
                raise ValueError(f"{self.name}: offset {offset} is added to weight, and there is none")
            with np.errstate(all="ignore"):
                self.columns[0] = self.columns[0] + self.compute.type(offset)

    def _stats_shape(self) -> tuple[int, ...]:
        nstat = self.norm.nstat
        return (nstat, *self.layout.rows_shape) if nstat > 1 else self.layout.rows_shape

    def _seen(self, a: Array) -> Array:
        """As the driver takes it: of the dtype that all have in common, aligned."""
        with np.errstate(all="ignore"):
            a = a.astype(self.dtype, copy=False)
        return self.layout.seen(a if a.flags.aligned else a.copy())

    def _spread(self) -> tuple[Array, ...]:
        """The columns; what changes nothing in the place of absent ones."""
        neutral = (1.0, -0.0)
        full = [np.full(self.layout.length, v, self.compute) if c is None else c for c, v in zip(self.columns, neutral)]
        return tuple(contiguous(self.layout.spread(c), self.compute) for c in full)

    def _result(self, out: Any, held: tuple[Any, ...], columns: tuple[Any, ...]) -> tuple[Array, Array | None]:
        """Memory for a result, as the driver sees it, and the array of x's shape that it is, if it is one.

        That is `out` where this does no harm: of `held` an element is read before the one in its place is written, of
        `columns` at any time.
        """
        if out is not None and out.dtype == self.dtype and out.flags.aligned:
            seen = self.layout.seen(out)

            def harmless(a: Any, same: bool) -> bool:
                if a is None or not np.may_share_memory(out, a):
                    return True
                return same and a.ctypes.data == seen.ctypes.data and a.strides == seen.strides

            if (
                np.may_share_memory(seen, out)
                and all(harmless(a, True) for a in held)
                and all(harmless(a, False) for a in columns)
            ):
                return seen, out
        result = np.empty_like(self.x, self.dtype, subok=False)
        seen = self.layout.seen(result)
        return seen, result if result.size == 0 or np.may_share_memory(seen, result) else None

    def _delivered(self, out: Any, seen: Array, result: Array | None) -> Array:
        if result is None:
            result = self.layout.back(seen)
            if out is None:
                return np.ascontiguousarray(result)
        return delivered(out, result)  # type: ignore[no-any-return]

    def forward(self, eps: float, keep: bool) -> Any:
        x = self._seen(self.x)
        inputs = (x,) if self.residual is None else (x, self._seen(self.residual))
        columns = self._spread()
        stats = np.full(self._stats_shape(), np.nan, self.compute) if keep else None
        results = [self._result(out, inputs, columns) for out in self.outs]
        self._run("forward", inputs, columns, stats, tuple(seen for seen, _ in results), eps)
        y, *total = (self._delivered(out, *result) for out, result in zip(self.outs, results))
        return (y, stats, *total) if keep else y

    def backward(self, stats: Any) -> tuple[Array, Array | None, Array | None]:
        stats = stats_of(self.name, stats, self._stats_shape(), self.x.shape, self.compute)
        inputs = self._seen(self.dy), self._seen(self.x)  # type: ignore[arg-type]
        columns = self._spread()
        result = self._result(self.outs[0], inputs, (*columns, stats))
        sums = [np.zeros((self.layout.groups, self.layout.n), self.compute) for _ in self.columns]
        self._run("backward", inputs, columns, stats, result[:1], 0.0, sums)
        dx = self._delivered(self.outs[0], *result)
        with np.errstate(all="ignore"):
            found = [
                None if c is None else self.layout.gathered(s).astype(self.dtype, copy=False)
                for c, s in zip(self.columns, sums)
            ]
        return dx, found[0], found[1] if len(found) > 1 else None

    def _run(
        self, kind: str, inputs: tuple[Array, ...], columns: tuple[Array, ...], stats: Array | None,
        outputs: tuple[Array, ...], eps: float, sums: list[Array] | None = None,
    ) -> None:  # fmt: skip
        if not self.x.size:
            return
        norm, then = self.norm, self.then
        function = norm._function(kind)
        again = norm._function("apply") if then is not None and sums is not None else None
        after = None if then is None else then.call(kind)
        if function.python(self.compute.name) is None:
            _driver.run_norm(
                function, again, after, self.memory, inputs, columns, stats, norm.nstat, outputs, eps, sums
            )
            return
        for group in range(self.layout.groups):
            rows: Any = [None] * norm.nstat
            if stats is not None:
                rows = list(stats.reshape(norm.nstat, self.layout.groups, -1)[:, group])
            some = [a[:, group] for a in (*inputs, *outputs)]
            own = [c[group] for c in columns]
            if sums is None:
                self._reference(function, after, some[: len(inputs)], own, rows, some[len(inputs) :], eps)
            else:
                parts = [s[group] for s in sums]
                self._reference_gradient(function, again, after, some, own, rows, parts)

    def _reference(
        self, function: Any, after: Any, inputs: list[Array], columns: list[Array], rows: list[Any],
        outputs: list[Array], eps: float,
    ) -> None:  # fmt: skip
        run = function.python(self.compute.name)
        x, *residual = (a.astype(self.compute) for a in inputs)
        with np.errstate(all="ignore"):
            if residual:
                # as it is after rounding
                outputs[1][...] = x + residual[0]
                x = outputs[1].astype(self.compute)
            y = np.empty_like(x)
            run(x, *columns, y, *rows, eps)
            outputs[0][...] = y if after is None else after[0].ufunc(y, *after[1:])

    def _reference_gradient(
        self, function: Any, again: Any, after: Any, arrays: list[Array], columns: list[Array], rows: list[Any],
        sums: list[Array],
    ) -> None:  # fmt: skip
        name = self.compute.name
        dy, x = (a.astype(self.compute) for a in arrays[:2])
        with np.errstate(all="ignore"):
            if after is not None:
                y = np.empty_like(x)
                again.python(name)(x, *columns, *rows, y)
                dy = after[0].ufunc(dy, y, *after[1:])
            result = np.empty_like(x)
            function.python(name)(dy, x, columns[0], *rows, result, *sums)
            arrays[2][...] = result


def _finfo_eps(dtype: np.dtype[Any]) -> float:
    return _finfo_eps_of(dtype.name)


def _finfo_eps_of(dtype: str) -> float:
    # bfloat16 has 8 bits
    return 2.0**-7 if dtype == "bfloat16" else float(np.finfo(dtype).eps)


class RowNorm(Norm):
    """Norms of rows along an axis."""

    def _rows(
        self, x: Any, columns: tuple[Any, ...], axis: Any, eps: Any, offset: Any, activation: Any, residual: Any,
        out: Any, keep: bool,
    ) -> Any:  # fmt: skip
        then = activation_of(self.name, activation)
        if axis == -1 and offset is None and is_plain_eps(eps):
            after = None if then is None else then.call("forward")
            function = self._function("forward")
            done = _driver.plain_norm(function, x, columns, out, self.nstat, keep, eps, after, residual)
            if done is not None:
                return done
        return self._forward(x, columns, (axis,), eps, offset, then, residual, out, keep)

    def _gradients(
        self, dy: Any, x: Any, stats: Any, columns: tuple[Any, ...], axis: Any, offset: Any, activation: Any, out: Any
    ) -> tuple[Array, Array | None, Array | None]:
        then = activation_of(f"{self.name}.backward", activation)
        if axis == -1 and offset is None:
            function, again, after = self._function("backward"), None, None
            if then is not None:
                again, after = self._function("apply"), then.call("backward")
            done = _driver.plain_norm_backward(function, dy, x, stats, columns, out, self.nstat, again, after)
            if done is not None:
                return done  # type: ignore[no-any-return]
        if _driver.elsewhere((dy, x, stats, *columns, out)):
            return self._gradients_on_device(dy, x, stats, columns, (axis,), offset, then, out)  # type: ignore[no-any-return]
        return _Call(self, {"dy": dy, "x": x}, columns, (axis,), offset, then, out).backward(stats)


class LayerNorm(RowNorm):
    """layer_norm(x, weight=None, bias=None, *, axis=-1, eps=1e-5) = (x - mean(x))/sqrt(var(x) + eps)*weight + bias

    With an activation f, f of that, in the same pass.

    Parameters
    ----------
    x : array_like
        Of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64.
    weight, bias : array_like of floats, optional
        One value for each position along the axis.
    axis : int
        The axis that a row lies along; mean and variance (of the whole row, not of a sample) are those of a row.
    eps : float
        Positive and finite.
    activation : activation, str or tuple, optional
        Of the result: an activation, its name, or ``(activation, {parameters})``, numbers.
    out : ndarray, optional
        Of x's shape, also x itself.

    Returns
    -------
    ndarray
        Of x's shape. A row of one value is `bias`. A row with NaN or an infinity, or whose variance is beyond the range
        of the dtype it is computed in, is NaN. ``layer_norm.forward(...)`` gives ``(y, stats)``, and
        ``layer_norm.backward(dy, x, stats, weight, bias)`` the gradients ``(dx, dweight, dbias)``.

    Raises
    ------
    TypeError
        If an array is masked, complex or of objects, strings or dates, `weight` or `bias` is of integers, a number is
        none, or `activation` is none; nothing is written.
    AxisError, ValueError
        If the axis is out of range, `weight` or `bias` is not as long as it, `eps` is not positive and finite, a
        parameter is outside its domain, or `out` cannot be written; nothing is.

    Notes
    -----
    Ba, Kiros and Hinton, Layer Normalization, arXiv:1607.06450. Two passes over each row: the mean, kept in two parts,
    then the squares of differences from it; so data of mean 10,000 and variance 1 lose no digits. float16 and bfloat16
    are computed in float32.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> x = np.array([[1.0, 3.0], [10001.0, 10003.0]])
    >>> print(fa.layer_norm(x, eps=1e-12).round(6))
    [[-1.  1.]
     [-1.  1.]]
    >>> print(fa.layer_norm(x[0], weight=np.array([1.0, 2.0]), bias=np.array([0.0, 0.5]), eps=1e-12).round(6))
    [-1.   2.5]
    """

    name = "layer_norm"
    columns = ("weight", "bias")
    nstat = 3

    def __call__(
        self, x: Any, weight: Any = None, bias: Any = None, *, axis: int = -1, eps: float = 1e-5,
        activation: Any = None, out: Any = None,
    ) -> Any:  # fmt: skip
        return self._rows(x, (weight, bias), axis, eps, None, activation, None, out, False)

    def forward(
        self, x: Any, weight: Any = None, bias: Any = None, *, axis: int = -1, eps: float = 1e-5,
        activation: Any = None, residual: Any = None, out: Any = None,
    ) -> tuple[Array, ...]:  # fmt: skip
        """The norm and what its gradient needs.

        Parameters
        ----------
        x, weight, bias, **keywords
            As for the norm itself.
        residual : array_like of floats, optional
            Of x's shape: the norm is that of x + residual, as it is after rounding. `out` is a tuple of two then.

        Returns
        -------
        y : ndarray
            As the norm itself gives it.
        stats : ndarray
            Of shape ``(3, rows)``, where `rows` is the shape of x without the axis: the mean of each row, what it
            lost by rounding, and 1/sqrt(var + eps). In the dtype that is computed in, float32 or float64.
        total : ndarray
            x + residual, where there is one; `backward` takes it for x, and the gradient by the residual is that by x.

        Raises
        ------
        TypeError, ValueError
            As the norm itself; nothing is written.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> y, stats = fa.layer_norm.forward(np.array([[1.0, 3.0], [4.0, 8.0]]), eps=1e-12)
        >>> print(stats.round(6))
        [[2.  6. ]
         [0.  0. ]
         [1.  0.5]]
        """
        return self._rows(x, (weight, bias), axis, eps, None, activation, residual, out, True)  # type: ignore[no-any-return]

    def backward(
        self, dy: Any, x: Any, stats: Any, weight: Any = None, bias: Any = None, *, axis: int = -1,
        activation: Any = None, out: Any = None,
    ) -> tuple[Array, Array | None, Array | None]:  # fmt: skip
        """The gradients by x, weight and bias, in one pass over dy and x.

        Parameters
        ----------
        dy : array_like of floats
            The gradient by y, of x's shape.
        x, weight, bias : array_like
            As given to `forward`; with a residual x is the sum. The values of `bias` matter to the activation alone.
        stats : array_like
            What `forward` returned.
        axis, activation
            As given to `forward`.
        out : ndarray, optional
            For dx, of x's shape; also `dy` or `x`.

        Returns
        -------
        dx : ndarray
            Of x's shape, and of the dtype that `dy`, `x`, `weight` and `bias` have in common.
        dweight, dbias : ndarray or None
            Sums over all rows, in an order that depends on the shape alone; None where there is no `weight` or `bias`.

        Raises
        ------
        TypeError
            If an array is masked, complex or of objects, strings or dates, or any but `x` is of integers; nothing is
            written.
        AxisError, ValueError
            If the axis is out of range, shapes do not fit, or `out` cannot be written; nothing is.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> x, weight = np.array([[1.0, 3.0, 2.0]]), np.ones(3)
        >>> y, stats = fa.layer_norm.forward(x, weight)
        >>> dx, dweight, dbias = fa.layer_norm.backward(np.array([[1.0, 0.0, 0.0]]), x, stats, weight)
        >>> print(dx.round(3), dweight.round(3), dbias)
        [[ 0.204  0.204 -0.408]] [-1.225  0.     0.   ] None
        """
        return self._gradients(dy, x, stats, (weight, bias), axis, None, activation, out)


class RMSNorm(RowNorm):
    """rms_norm(x, weight=None, *, axis=-1, eps=None, offset=0.0) = x/sqrt(mean(x²) + eps)*(offset + weight)

    Parameters
    ----------
    x : array_like
        Of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64.
    weight : array_like of floats, optional
        One value for each position along the axis.
    axis : int
        The axis that a row lies along; the mean is that of a row.
    eps : float, optional
        Positive and finite; by default ``finfo(dtype).eps`` of the result's dtype, as in PyTorch.
    offset : float
        Added to `weight`; 1 for weights that are stored as differences from 1.
    activation : activation, str or tuple, optional
        Of the result: an activation, its name, or ``(activation, {parameters})``, numbers.
    out : ndarray, optional
        Of x's shape, also x itself.

    Returns
    -------
    ndarray
        Of x's shape. A row with NaN or an infinity, or whose mean square is beyond the range of the dtype it is
        computed in, is NaN. ``rms_norm.forward(...)`` gives ``(y, stats)``, and
        ``rms_norm.backward(dy, x, stats, weight)`` the gradients ``(dx, dweight, None)``.

    Raises
    ------
    TypeError
        If an array is masked, complex or of objects, strings or dates, `weight` is of integers, or a number is none;
        nothing is written.
    AxisError, ValueError
        If the axis is out of range, `weight` is not as long as it, `eps` is not positive and finite, there is an
        `offset` and no `weight`, or `out` cannot be written; nothing is.

    Notes
    -----
    Zhang and Sennrich, Root Mean Square Layer Normalization, NeurIPS 2019. float16 and bfloat16 are computed in
    float32.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> print(fa.rms_norm([[3.0, 4.0, 5.0, 0.0]], eps=1e-12).round(4))
    [[0.8485 1.1314 1.4142 0.    ]]
    >>> print(fa.rms_norm([1.0, -1.0], np.array([0.5, 0.0]), offset=1.0, eps=1e-12).round(6))
    [ 1.5 -1. ]
    """

    name = "rms_norm"
    columns = ("weight",)
    nstat = 1

    def __call__(
        self, x: Any, weight: Any = None, *, axis: int = -1, eps: float | None = None, offset: float = 0.0,
        activation: Any = None, out: Any = None,
    ) -> Any:  # fmt: skip
        eps = _default_eps(x, weight, eps)
        return self._rows(x, (weight,), axis, eps, _given(offset), activation, None, out, False)

    def forward(
        self, x: Any, weight: Any = None, *, axis: int = -1, eps: float | None = None, offset: float = 0.0,
        activation: Any = None, residual: Any = None, out: Any = None,
    ) -> tuple[Array, ...]:  # fmt: skip
        """The norm and what its gradient needs.

        Parameters
        ----------
        x, weight, **keywords
            As for the norm itself.
        residual : array_like of floats, optional
            Of x's shape: the norm is that of x + residual, as it is after rounding. `out` is a tuple of two then.

        Returns
        -------
        y : ndarray
            As the norm itself gives it.
        stats : ndarray
            1/sqrt(mean(x²) + eps) of each row, of x's shape without the axis, in the dtype that is computed in, float32
            or float64.
        total : ndarray
            x + residual, where there is one; `backward` takes it for x, and the gradient by the residual is that by x.

        Raises
        ------
        TypeError, ValueError
            As the norm itself; nothing is written.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> y, stats = fa.rms_norm.forward(np.array([[2.0, -2.0], [3.0, 4.0]]), eps=1e-12)
        >>> print(y.round(4), stats.round(4))
        [[ 1.     -1.    ]
         [ 0.8485  1.1314]] [0.5    0.2828]
        """
        eps = _default_eps(x, weight, eps)
        return self._rows(x, (weight,), axis, eps, _given(offset), activation, residual, out, True)  # type: ignore[no-any-return]

    def backward(
        self, dy: Any, x: Any, stats: Any, weight: Any = None, *, axis: int = -1, offset: float = 0.0,
        activation: Any = None, out: Any = None,
    ) -> tuple[Array, Array | None, None]:  # fmt: skip
        """The gradients by x and weight, in one pass over dy and x.

        Parameters
        ----------
        dy : array_like of floats
            The gradient by y, of x's shape.
        x, weight : array_like
            As given to `forward`.
        stats : array_like
            What `forward` returned.
        axis, offset, activation
            As given to `forward`; with a residual x is the sum.
        out : ndarray, optional
            For dx, of x's shape; also `dy` or `x`.

        Returns
        -------
        dx : ndarray
            Of x's shape, and of the dtype that `dy`, `x` and `weight` have in common.
        dweight : ndarray or None
            A sum over all rows, in an order that depends on the shape alone; None where there is no `weight`.
        dbias : None
            There is no bias.

        Raises
        ------
        TypeError
            If an array is masked, complex or of objects, strings or dates, or any but `x` is of integers; nothing is
            written.
        AxisError, ValueError
            If the axis is out of range, shapes do not fit, or `out` cannot be written; nothing is.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> x, weight = np.array([[1.0, -1.0]]), np.array([1.0, 2.0])
        >>> y, stats = fa.rms_norm.forward(x, weight)
        >>> dx, dweight, _ = fa.rms_norm.backward(np.array([[1.0, 0.0]]), x, stats, weight)
        >>> print(dx.round(6), dweight.round(6))
        [[0.5 0.5]] [1. 0.]
        """
        dx, dweight, _ = self._gradients(dy, x, stats, (weight,), axis, _given(offset), activation, out)
        return dx, dweight, None


def _given(offset: Any) -> Any:
    # None where there is nothing to add
    return None if type(offset) is float and offset == 0.0 else offset


# of arrays that take the quick way, by the dtype of x
_EPS = {np.dtype(name): float(np.finfo(name).eps) for name in ("float32", "float64")}


def _default_eps(x: Any, weight: Any, eps: float | None) -> float | None:
    if eps is None and type(x) is np.ndarray and (weight is None or getattr(weight, "dtype", None) == x.dtype):
        return _EPS.get(x.dtype)
    return eps


class GroupNorm(Norm):
    """group_norm(x, groups, weight=None, bias=None, *, channel_axis=1, eps=1e-5): the channels of a sample in groups,
    each (x - mean(x))/sqrt(var(x) + eps)*weight + bias over its channels and all other axes but the first

    With an activation f, f of that, in the same pass.

    Parameters
    ----------
    x : array_like
        Of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64. The first axis is
        that of samples.
    groups : int
        How many; it divides the number of channels. 1 group: one mean for a sample; as many as channels: instance norm.
    weight, bias : array_like of floats, optional
        One value for each channel.
    channel_axis : int
        Not 0. Rows of a group are contiguous where it is 1; else the array is copied.
    eps : float
        Positive and finite.
    activation : activation, str or tuple, optional
        Of the result: an activation, its name, or ``(activation, {parameters})``, numbers.
    out : ndarray, optional
        Of x's shape, also x itself.

    Returns
    -------
    ndarray
        Of x's shape. ``group_norm.forward(...)`` gives ``(y, stats)``, and ``group_norm.backward(dy, x, stats, weight,
        bias)`` the gradients ``(dx, dweight, dbias)``. NaN and infinities as in `layer_norm`.

    Raises
    ------
    TypeError
        If an array is masked, complex or of objects, strings or dates, `weight` or `bias` is of integers, a number is
        none, or `activation` is none; nothing is written.
    AxisError, ValueError
        If `channel_axis` is out of range or 0, `groups` does not divide the channels, `weight` or `bias` has not one
        value for each, `eps` is not positive and finite, or `out` cannot be written; nothing is.

    Notes
    -----
    Wu and He, Group Normalization, ECCV 2018. The statistics are those of `layer_norm`.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> x = np.array([[[1.0, 3.0], [5.0, 7.0], [0.0, 0.0], [2.0, 2.0]]])  # a sample, 4 channels of 2 values
    >>> print(fa.group_norm(x, 2, eps=1e-12).round(4)[0])
    [[-1.3416 -0.4472]
     [ 0.4472  1.3416]
     [-1.     -1.    ]
     [ 1.      1.    ]]
    """

    name = "group_norm"
    columns = ("weight", "bias")
    nstat = 3
    loop = "layer_norm"

    def _layout(self, name: str, x: Array, where: tuple[Any, ...]) -> Grouped:
        return Grouped(name, x, *where)

    def _where(self, given: Mapping[str, Any]) -> tuple[Any, ...]:
        stats = given.get("stats")
        groups = given.get("groups", 1) if stats is None else np.shape(stats)[1]
        return given.get("channel_axis", 1), groups

    def __call__(
        self, x: Any, groups: int, weight: Any = None, bias: Any = None, *, channel_axis: int = 1, eps: float = 1e-5,
        activation: Any = None, out: Any = None,
    ) -> Any:  # fmt: skip
        return self._forward(x, (weight, bias), (channel_axis, groups), eps, None, activation, None, out, False)

    def forward(
        self, x: Any, groups: int, weight: Any = None, bias: Any = None, *, channel_axis: int = 1, eps: float = 1e-5,
        activation: Any = None, residual: Any = None, out: Any = None,
    ) -> tuple[Array, ...]:  # fmt: skip
        """The norm and what its gradient needs.

        Parameters
        ----------
        x, groups, weight, bias, **keywords
            As for the norm itself.
        residual : array_like of floats, optional
            Of x's shape: the norm is that of x + residual, as it is after rounding. `out` is a tuple of two then.

        Returns
        -------
        y : ndarray
            As the norm itself gives it.
        stats : ndarray
            Of shape ``(3, groups, samples)``: the mean of each group, what it lost by rounding, and 1/sqrt(var + eps).
            In the dtype that is computed in, float32 or float64.
        total : ndarray
            x + residual, where there is one; `backward` takes it for x, and the gradient by the residual is that by x.

        Raises
        ------
        TypeError, ValueError
            As the norm itself; nothing is written.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> y, stats = fa.group_norm.forward(np.array([[1.0, 3.0, 4.0, 8.0]]), 2, eps=1e-12)
        >>> print(stats[0], stats[2].round(4))
        [[2.]
         [6.]] [[1. ]
         [0.5]]
        """
        where = (channel_axis, groups)
        return self._forward(x, (weight, bias), where, eps, None, activation, residual, out, True)  # type: ignore[no-any-return]

    def backward(
        self, dy: Any, x: Any, stats: Any, weight: Any = None, bias: Any = None, *, channel_axis: int = 1,
        activation: Any = None, out: Any = None,
    ) -> tuple[Array, Array | None, Array | None]:  # fmt: skip
        """The gradients by x, weight and bias, in one pass over dy and x.

        Parameters
        ----------
        dy : array_like of floats
            The gradient by y, of x's shape.
        x, weight, bias : array_like
            As given to `forward`; with a residual x is the sum. The values of `bias` matter to the activation alone.
        stats : array_like
            What `forward` returned; the number of groups is that of its second axis.
        channel_axis, activation
            As given to `forward`.
        out : ndarray, optional
            For dx, of x's shape; also `dy` or `x`.

        Returns
        -------
        dx : ndarray
            Of x's shape, and of the dtype that `dy`, `x`, `weight` and `bias` have in common.
        dweight, dbias : ndarray or None
            Sums over samples and positions, in an order that depends on the shape alone; None where there is no
            `weight` or `bias`.

        Raises
        ------
        TypeError
            If an array is masked, complex or of objects, strings or dates, or any but `x` is of integers; nothing is
            written.
        AxisError, ValueError
            If `channel_axis` is out of range or 0, shapes do not fit, or `out` cannot be written; nothing is.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> x, weight = np.array([[1.0, 3.0, 2.0, 4.0, 8.0, 0.0]]), np.ones(6)
        >>> y, stats = fa.group_norm.forward(x, 2, weight)
        >>> dy = np.array([[1.0, 0.0, 0.0, 0.0, 2.0, 0.0]])
        >>> dx, dweight, dbias = fa.group_norm.backward(dy, x, stats, weight)
        >>> print(dx.round(3), dweight.round(3), dbias)
        [[ 0.204  0.204 -0.408 -0.204  0.102  0.102]] [-1.225  0.     0.     0.     2.449  0.   ] None
        """
        shape = np.shape(stats)
        if len(shape) != 3:
            raise ValueError(f"{self.name}.backward: stats have shape {shape}, not (3, groups, samples)")
        arrays = {"dy": dy, "x": x}
        if _driver.elsewhere((dy, x, stats, weight, bias, out)):
            where = channel_axis, shape[1]
            return self._gradients_on_device(dy, x, stats, (weight, bias), where, None, activation, out)  # type: ignore[no-any-return]
        return _Call(self, arrays, (weight, bias), (channel_axis, shape[1]), None, activation, out).backward(stats)


layer_norm = LayerNorm()
rms_norm = RMSNorm()
group_norm = GroupNorm()


def _unpickle(name: str) -> Any:
    from fastact.api.functions import FUNCTIONS

    return FUNCTIONS[name]
