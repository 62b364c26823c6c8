"""Norms of arrays on a GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastact.api.arguments import integer
from fastact.api.device import Operands
from fastact.api.device_rows import TOTAL, Layout, apart
from fastact.backends.cuda import maps, row_runs
from fastact.backends.cuda.array import DeviceArray
from fastact.spec.kernel import KernelSpec, compute_dtype, kernel_of
from fastact.spec.kinds import Argument
from fastact.spec.table import OPS

if TYPE_CHECKING:
    from fastact.api.norms import Then

# arguments of each function besides those of the CPU: a residual and the sum with it
SIGNATURES = {
    "layer_norm": ("x residual weight:col bias:col", "y total mean:row low:row rstd:row"),
    "rms_norm": ("x residual weight:col", "y total rstd:row"),
    "layer_norm_backward": ("dy x weight:col bias:col mean:row low:row rstd:row", "dx dweight:pair dbias:pair"),
    "rms_norm_backward": ("dy x weight:col rstd:row", "dx dweight:pair"),
}
STATISTICS = {3: ("mean", "low", "rstd"), 1: ("rstd",)}


def _spec(name: str, dtype: str) -> KernelSpec:
    inputs, outputs = (tuple(Argument(*word.split(":")) for word in side.split()) for side in SIGNATURES[name])
    return KernelSpec(name, dtype, name, inputs, (), outputs)


SPECS = {
    (name, dtype): _spec(name, dtype) for name in SIGNATURES for dtype in ("float32", "float64", "float16", "bfloat16")
}


class Call:
    """A call of a norm: everything is checked here, before anything is written.

    Parameters
    ----------
    name : str
        Of the function, for messages.
    loop : str
        Whose kernels it runs.
    arrays : mapping
        x, and dy or a residual.
    columns : mapping
    axis : int
        Along which the columns lie.
    groups : int or None
        Of channels; None where a row lies along the axis alone.
    """

    def __init__(
        self, name: str, loop: str, arrays: Mapping[str, Any], columns: Mapping[str, Any], axis: Any, axis_name: str,
        groups: Any, offset: Any, then: Then | None, stats: Any = None,
    ) -> None:  # fmt: skip
        self.name, self.loop, self.then = name, loop, then
        found = self.found = Operands(name, {**arrays, **columns, "stats": stats})
        found.floats((*arrays, *columns, "stats"))
        views = found.views
        self.dtype = found.dtype([w for w in views if w != "stats"])
        self.compute = compute_dtype(self.dtype)
        x = self.x = views["x"]
        found.of_shape(arrays, x.shape, f"x {x.shape}")
        self.axis = int(np.lib.array_utils.normalize_axis_index(integer(f"{name}: {axis_name}", axis), x.ndim))
        self.length = x.shape[self.axis]
        found.of_shape(columns, (self.length,), f"{axis_name} {self.axis} of {x.shape} needs {(self.length,)}")
        self.columns = {what: views[what] for what in columns if what in views}
        self._group(groups)
        self.offset = self._offset(offset)
        self.scalars = {f"then_{j}": v for j, v in enumerate(then.values)} if then is not None else {}

    def _group(self, groups: Any) -> None:
        x, name = self.x, self.name
        self.groups, self.inner = 1, 1
        if groups is None:
            self.rows_shape = x.shape[: self.axis] + x.shape[self.axis + 1 :]
            self.axes: tuple[int, ...] = (self.axis,)
            return
        if x.ndim < 2:
            raise ValueError(f"{name}: x of shape {x.shape} has no axis of channels beside that of samples")
        if self.axis == 0:
            raise ValueError(f"{name}: channel_axis must not be 0, the axis of samples")
        self.groups = integer(f"{name}: groups", groups)
        if self.groups < 1 or self.length % self.groups:
            raise ValueError(f"{name}: groups must divide the {self.length} channels, not {self.groups}")
        self.axes = (self.axis, *(i for i in range(x.ndim) if i not in (0, self.axis)))
        self.inner = math.prod(x.shape[i] for i in self.axes[1:])
        self.rows_shape = (self.groups, x.shape[0])

    def _offset(self, offset: Any) -> float:
        if offset is None:
            return 0.0
        if isinstance(offset, (bool, np.bool_)) or not isinstance(offset, (int, float, np.number)):
            raise TypeError(f"{self.name}: offset must be a number, not {offset!r}")
        if not math.isfinite(offset):
            raise ValueError(f"{self.name}: offset must be finite, not {offset}")
        if offset and "weight" not in self.columns:
            raise ValueError(f"{self.name}: offset {offset} is added to weight, and there is none")
        return float(offset)

    def _laid_columns(self, written: Sequence[DeviceArray]) -> dict[str, DeviceArray]:
        """Columns as kernels take them, apart from what is written: of the dtype of x or, if one must be, of the
        computing dtype."""
        found, wide = self.found, bool(self.offset) or any(c.dtype != self.dtype for c in self.columns.values())
        dtype = self.compute if wide or self.groups > 1 or self.inner > 1 else self.dtype
        laid = {}
        for what, column in self.columns.items():
            if self.offset and what == "weight":
                sum_ = found.scratch(column.shape, dtype)
                maps.run(kernel_of(OPS["identity"], "biased", self.compute), [column, self.offset], [], [sum_],
                         found.stream)  # fmt: skip
                column = sum_
            if self.inner > 1:
                # the value of a channel for all its elements
                spread = found.scratch((self.length, self.inner), dtype)
                maps.copy(column.reshape((self.length, 1)) or column, spread, found.stream)
                column = spread.reshape((self.length * self.inner,)) or spread
            laid[what] = apart(found, found.laid(column, dtype), written)
        self.traits = frozenset(["wide_columns"] if dtype != self.dtype else [])
        return laid

    def _statistics(self, stats: DeviceArray, nstat: int) -> dict[str, DeviceArray]:
        names = STATISTICS[nstat]
        if nstat == 1:
            return {names[0]: stats}
        return {name: _at(stats, i) for i, name in enumerate(names)}

    def stats_shape(self, nstat: int) -> tuple[int, ...]:
        return (nstat, *self.rows_shape) if nstat > 1 else self.rows_shape

    def _parts(
        self, given: Mapping[str, DeviceArray], results: Mapping[str, DeviceArray], rows: Mapping[str, DeviceArray],
        columns: Mapping[str, DeviceArray],
    ) -> Any:  # fmt: skip
        """For each group the arrays, what rows have one of, columns; and what is to be copied at the end."""
        layout = Layout(self.found, self.x.shape, self.axes)
        laid, back = layout.arrays(given, results, self.dtype)
        if self.groups == 1 and len(self.rows_shape) == len(layout.lead):
            return [(laid, rows, columns)], back
        n = layout.length // self.groups
        parts = []
        for g in range(self.groups):
            own = {what: a.part(a.ndim - 1, g * n, n) for what, a in laid.items()}
            stats = {what: _at(a, g) for what, a in rows.items()}
            parts.append((own, stats, {what: c.part(0, g * n, n) for what, c in columns.items()}))
        return parts, back

    def forward(self, eps: float, nstat: int, residual: bool, out: Any, keep: bool) -> Any:
        found, shape = self.found, self.x.shape
        outs = _outs(self.name, out, residual)
        results = [found.result(what, a, shape, self.dtype) for what, a in zip(("out", "out for the sum"), outs)]
        if len(results) == 2 and results[0][1].may_share_memory(results[1][1]) and shape:
            raise ValueError(f"{self.name}: the arrays of out share memory")
        columns = self._laid_columns([view for _, view in results])
        rows: dict[str, DeviceArray] = {}
        stats = None
        if keep:
            stats, view = found.empty(self.stats_shape(nstat), self.compute)
            rows = self._statistics(view, nstat)
            if not self.x.size:
                # of no elements
                maps.fill(view, math.nan, found.stream)
        given: dict[str, DeviceArray] = {w: found.views[w] for w in ("x", "residual") if w in found.views}
        written = dict(zip(("y", "total"), (view for _, view in results)))
        parts, back = self._parts(given, written, rows, columns)
        spec = SPECS[self.loop, self.dtype]
        op = None if self.then is None else self.then.op
        for own, of_rows, of_columns in parts:
            row_runs.run(
                spec, own, of_rows, of_columns, {"eps": eps, **self.scalars}, found.stream, found.scratch, self.traits,
                then=op,
            )  # fmt: skip
        for source, to in back.values():
            maps.copy(source, to, found.stream)
        y, *total = (array for array, _ in results)
        return found.done(y, stats, *total) if keep else found.done(y)

    def backward(self, nstat: int, out: Any) -> Any:
        found = self.found
        stats = found.views.get("stats")
        if stats is None:
            raise TypeError(f"{self.name}: stats must be an array")
        if stats.shape != self.stats_shape(nstat):
            raise ValueError(
                f"{self.name}: stats have shape {stats.shape}, x of {self.x.shape} needs {self.stats_shape(nstat)}"
            )
        dx, target = found.result("out", out, self.x.shape, self.dtype)
        columns = self._laid_columns([target])
        rows = self._statistics(apart(found, found.laid(stats, self.compute), [target]), nstat)
        given = {what: found.views[what] for what in ("dy", "x")}
        names = {"weight": "dweight", "bias": "dbias"}
        wanted = [what for what in names if what in self.columns]
        gradients = {what: found.empty((self.length,), self.dtype) for what in wanted}
        parts, back = self._parts(given, {"dx": target}, rows, columns)
        spec, n = SPECS[f"{self.loop}_backward", self.dtype], self.length * self.inner // self.groups
        op = None if self.then is None else self.then.op
        direct = self.inner == 1 and self.groups == 1
        if not self.x.size:
            for _, view in gradients.values():
                maps.fill(view, 0.0, found.stream)
            parts = []
        for g, (own, of_rows, of_columns) in enumerate(parts):
            dtype = self.dtype if direct else self.compute
            sums = {
                names[what]: view if direct else found.scratch((n,), dtype) for what, (_, view) in gradients.items()
            }
            row_runs.run_with_sums(
                spec, own, of_rows, of_columns, sums, self.scalars, found.stream, found.scratch, op, self.traits
            )
            if direct:
                continue
            for what, (_, view) in gradients.items():
                self._gathered(sums[names[what]], view.part(0, g * self.length // self.groups, n // self.inner))
        for source, to in back.values():
            maps.copy(source, to, found.stream)
        results = (dx, *(gradients[what][0] if what in gradients else None for what in names))
        return found.done(*results)

    def _gathered(self, sums: DeviceArray, to: DeviceArray) -> None:
        """The sum over the elements of each channel."""
        of_channels = sums.reshape((to.size, self.inner))
        value = self.found.scratch((to.size,), self.compute)
        row_runs.run(
            TOTAL[self.compute], {"x": of_channels}, {"y": value}, {}, {"factor": 1.0}, self.found.stream,  # type: ignore[dict-item]
            self.found.scratch,
        )  # fmt: skip
        maps.copy(value, to, self.found.stream)


def _at(a: DeviceArray, index: int) -> DeviceArray:
    part = a.part(0, index, 1)
    return part._view(part.shape[1:], part.strides[1:])


def _outs(name: str, out: Any, residual: bool) -> list[Any]:
    if not residual:
        return [out]
    if out is None:
        return [None, None]
    if isinstance(out, tuple) and len(out) == 2:
        return list(out)
    raise TypeError(f"{name}: with a residual, out must be a tuple of two arrays or None, not {type(out).__name__}")
