"""Batch norm of arrays on a GPU.

float16 and bfloat16 are computed in copies of float32. The statistics of a batch take two passes over it, the second
one around the mean that the first one found: whether one would do, only the device knows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fastact.api.arguments import integer
from fastact.api.device import Operands, safe_to_write
from fastact.api.device_norms import _outs
from fastact.backends.cuda import fused, maps, row_runs
from fastact.backends.cuda.array import DeviceArray
from fastact.backends.cuda.fused import Job
from fastact.spec.kernel import KernelSpec, compute_dtype, kernel_of
from fastact.spec.kinds import ALL, Argument
from fastact.spec.table import OPS

if TYPE_CHECKING:
    from fastact.api.norms import Then

# values of a channel from which a first guess of its mean is taken
SAMPLE = 16
# functions of what channels have one of each: inputs, outputs
SIGNATURES = {
    "channel_centre": ("guess d", "centre"),
    "channel_statistics": ("guess d squares", "mean low rstd var"),
    "channel_scale": ("var", "rstd"),
    "channel_columns": ("rstd low weight bias", "scale offset"),
    "channel_slopes": ("rstd low products sums weight", "dweight slope shift"),
    "channel_moved": ("running value", "moved"),
}


def _spec(name: str, dtype: str) -> KernelSpec:
    inputs, outputs = (tuple(Argument(word, "row") for word in side.split()) for side in SIGNATURES[name])
    return KernelSpec(name, dtype, name, inputs, (), outputs)


SPECS = {(name, dtype): _spec(name, dtype) for name in SIGNATURES for dtype in ("float32", "float64")}


class Call:
    """A call of batch norm: everything is checked here, before anything is written."""

    def __init__(
        self, name: str, arrays: Mapping[str, Any], columns: Mapping[str, Any], channel_axis: Any, then: Then | None,
        stats: Any = None, running: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.name, self.then, self.running = name, then, dict(running or {})
        found = self.found = Operands(name, {**arrays, **columns, "stats": stats, **self.running})
        found.floats((*arrays, *columns, "stats", *self.running))
        views = found.views
        self.dtype = found.dtype([w for w in views if w not in ("stats", "mean", "var", *self.running)])
        self.compute = compute_dtype(self.dtype)
        x = self.x = views["x"]
        found.of_shape(arrays, x.shape, f"x {x.shape}")
        axis = int(np.lib.array_utils.normalize_axis_index(integer(f"{name}: channel_axis", channel_axis), x.ndim))
        self.channel = x.shape[axis]
        found.of_shape(columns, (self.channel,), f"channel_axis {axis} of {x.shape} needs {(self.channel,)}")
        self.shape = math.prod(x.shape[:axis]), self.channel, math.prod(x.shape[axis + 1 :])
        self.count = self.shape[0] * self.shape[2]
        self.columns = {what: found.views[what] for what in columns if what in views}

    def _column(self) -> DeviceArray:
        return self.found.scratch((self.channel,), self.compute)

    def _of_channels(
        self, name: str, given: Mapping[str, DeviceArray], scalars: Mapping[str, float]
    ) -> list[DeviceArray]:
        spec = SPECS[name, self.compute]
        laid = {what: self.found.laid(a, self.compute) for what, a in given.items()}
        results = {a.name: self._column() for a in spec.outputs}
        row_runs.run_of_rows(spec, {**laid, **results}, {}, scalars, self.found.stream, self.found.scratch, frozenset())
        return list(results.values())

    def run(
        self, kind: str, arrays: list[DeviceArray], columns: list[DeviceArray], out: DeviceArray | None = None,
        shape: tuple[int, int, int] | None = None, then: Then | None = None,
    ) -> list[DeviceArray]:  # fmt: skip
        """A kind of arrays and columns of the computing dtype, contiguous; its result goes to `out`, sums come back."""
        op = OPS["identity"] if then is None else then.op
        values: list[Any] = [*arrays]
        whole = shape or self.shape
        for column in columns:
            values.append(column._view(whole, (0, column.itemsize, 0)))
        sums = [self._column() for a in ALL[kind].outputs if a.role == "sum_rows"]
        params = () if then is None else then.values
        roles = "a" * len(arrays) + "c" * len(columns) + "v" * len(params)
        outputs = [] if out is None else [out.reshape(whole) or out]
        laid = [a.reshape(whole) or a for a in arrays]
        spec = kernel_of(op, kind, self.compute)
        values = [*laid, *values[len(arrays) :], *map(float, params)]
        job = Job(spec, values, roles, outputs, whole, self.found.scratch, self.found.stream, sums)
        fused.run(job)
        return sums

    def normed(
        self, x: DeviceArray, mean: DeviceArray, rstd: DeviceArray, low: DeviceArray | None, target: DeviceArray
    ) -> None:
        """The norm by statistics of channels."""
        scale, offset = self._scaled(rstd, low)
        if not x.size:
            return
        result = target if self._takes(target, x) else self.found.scratch(x.shape, self.compute)
        kind = "scaled" if self.then is None else "normed"
        self.run(kind, [x], [mean, scale, offset], result, then=self.then)
        maps.copy(result, target, self.found.stream)

    def _scaled(self, rstd: DeviceArray, low: DeviceArray | None) -> list[DeviceArray]:
        given = {"rstd": rstd, **({} if low is None else {"low": low})}
        given |= {what: self.columns[what] for what in ("weight", "bias") if what in self.columns}
        return self._of_channels("channel_columns", given, {})

    def _takes(self, target: DeviceArray, *read: DeviceArray) -> bool:
        return target.dtype == self.compute and target.is_contiguous and safe_to_write(target, read)

    def inference(self, eps: float, out: Any) -> Any:
        array, target = self.found.result("out", out, self.x.shape, self.dtype)
        (rstd,) = self._of_channels("channel_scale", {"var": self.columns["var"]}, {"eps": eps})
        mean = self.found.laid(self.columns["mean"], self.compute)
        self.normed(self.found.laid(self.x, self.compute), mean, rstd, None, target)
        return self.found.done(array)

    def _summed(self, total: DeviceArray) -> DeviceArray:
        """x + residual, rounded as it is returned, in the computing dtype."""
        views = self.found.views
        spec = kernel_of(OPS["identity"], "residual", self.dtype)
        maps.run(spec, [views["x"], views["residual"]], [], [total], self.found.stream)
        return self.found.laid(total, self.compute)

    def forward(self, eps: float, momentum: float, unbiased: bool, residual: bool, out: Any) -> Any:
        found, shape = self.found, self.x.shape
        outs = _outs(self.name, out, residual)
        results = [found.result(what, a, shape, self.dtype) for what, a in zip(("out", "out for the sum"), outs)]
        if len(results) == 2 and results[0][1].may_share_memory(results[1][1]) and self.x.size:
            raise ValueError(f"{self.name}: the arrays of out share memory")
        self._check_running(unbiased, [view for _, view in results])
        stats, view = found.empty((3, self.channel), self.compute)
        rows = [view.part(0, i, 1).reshape((self.channel,)) or view for i in range(3)]
        if not self.x.size:
            maps.fill(view, math.nan, found.stream)
            return found.done(results[0][0], stats, *(array for array, _ in results[1:]))
        if residual:
            target = results[1][1]
            total = target
            if not safe_to_write(target, [found.views["x"], found.views["residual"]]) or target.dtype != self.dtype:
                total = found.scratch(shape, self.dtype)
            x = self._summed(total)
        else:
            x = found.laid(self.x, self.compute)
        mean, low, rstd, var = self._statistics(x, eps)
        self.normed(x, mean, rstd, low, results[0][1])
        if residual:
            maps.copy(total, results[1][1], found.stream)
        for value, row in zip((mean, low, rstd), rows):
            maps.copy(value, row, found.stream)
        factor = self.count / (self.count - 1) if unbiased else 1.0
        for what, value, by in (("running_mean", mean, 1.0), ("running_var", var, factor)):
            if what in self.running:
                to = found.views[what]
                scalars = {"momentum": momentum, "rest": 1 - momentum, "factor": by}
                (moved,) = self._of_channels("channel_moved", {"running": to, "value": value}, scalars)
                maps.copy(moved, to, found.stream)
                found.written(what)
        return found.done(results[0][0], stats, *(array for array, _ in results[1:]))

    def _check_running(self, unbiased: bool, outs: list[DeviceArray]) -> None:
        name, views = self.name, self.found.views
        for what in self.running:
            view = views[what]
            if view.shape != (self.channel,):
                raise ValueError(f"{name}: {what} has shape {view.shape}, not {(self.channel,)}")
            if not view.writeable:
                raise ValueError(f"{name}: {what} is read-only")
            others = [v for w, v in views.items() if w != what] + outs
            if view.size and any(view.may_share_memory(o) for o in others):
                raise ValueError(f"{name}: running_mean and running_var must have memory of their own")
        if self.running and unbiased and self.count == 1:
            raise ValueError(f"{name}: an unbiased variance needs more than 1 value of a channel")

    def _statistics(self, x: DeviceArray, eps: float) -> list[DeviceArray]:
        outer, channel, inner = self.shape
        whole = x.reshape(self.shape) or x
        positions = min(inner, SAMPLE)
        sample = whole.part(0, 0, min(outer, -(-SAMPLE // positions))).part(2, 0, positions)
        some = self.found.laid(sample, self.compute)
        first = whole.part(0, 0, 1).part(2, 0, 1)
        guess = self._column()
        maps.copy(first._view((channel,), (first.strides[1],)), guess, self.found.stream)
        d, _ = self.run("moments", [some], [guess], shape=(sample.shape[0], channel, positions))
        size = float(sample.shape[0] * positions)
        (guess,) = self._of_channels("channel_centre", {"guess": guess, "d": d}, {"count": size})
        d, _ = self.run("moments", [x], [guess])
        (guess,) = self._of_channels("channel_centre", {"guess": guess, "d": d}, {"count": float(self.count)})
        d, squares = self.run("moments", [x], [guess])
        scalars = {"count": float(self.count), "eps": eps}
        return self._of_channels("channel_statistics", {"guess": guess, "d": d, "squares": squares}, scalars)

    def backward(self, out: Any) -> Any:
        found, shape = self.found, self.x.shape
        stats = found.views.get("stats")
        if stats is None:
            raise TypeError(f"{self.name}: stats must be an array")
        if stats.shape != (3, self.channel):
            raise ValueError(f"{self.name}: stats have shape {stats.shape}, x of {shape} needs {(3, self.channel)}")
        dx, target = found.result("out", out, shape, self.dtype)
        wanted = {what: found.empty((self.channel,), self.dtype) for what in ("weight", "bias") if what in self.columns}
        laid = found.laid(stats, self.compute)
        mean, low, rstd = (laid.part(0, i, 1).reshape((self.channel,)) or laid for i in range(3))
        dy, x = (found.laid(found.views[what], self.compute) for what in ("dy", "x"))
        gradients = {}
        if x.size:
            scale, offset = self._scaled(rstd, low)
            kind = "scaled" if self.then is None else "normed"
            activated = [] if self.then is None else [scale, offset]
            products, sums = self.run(f"{kind}_sums", [dy, x], [mean, *activated], then=self.then)
            given = {"rstd": rstd, "low": low, "products": products, "sums": sums}
            given |= {"weight": self.columns["weight"]} if "weight" in self.columns else {}
            dweight, slope, shift = self._of_channels("channel_slopes", given, {"count": float(self.count)})
            result = target if self._takes(target, dy, x) else found.scratch(shape, self.compute)
            columns = [mean, *(activated or [scale]), slope, shift]
            self.run(f"{kind}_gradient", [dy, x], columns, result, then=self.then)
            maps.copy(result, target, found.stream)
            gradients = {"weight": dweight, "bias": sums}
        for what, (_, view) in wanted.items():
            if what in gradients:
                maps.copy(gradients[what], view, found.stream)
            else:
                maps.fill(view, 0.0, found.stream)
        return found.done(dx, *(wanted[what][0] if what in wanted else None for what in ("weight", "bias")))
