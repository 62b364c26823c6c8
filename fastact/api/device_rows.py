"""Functions over an axis of arrays on a GPU."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fastact.api.device import Operands, broadcast_shape
from fastact.backends.cuda import maps, row_runs
from fastact.backends.cuda.array import DeviceArray
from fastact.spec.kernel import KernelSpec, compute_dtype, row_kernel_of

Axis = int | tuple[int, ...] | None


class Layout:
    """Arrays of one shape as rows along some axes: these go last, as one.

    Parameters
    ----------
    found : Operands
    shape : tuple of int
    axes : sequence of int
        Normalised; their order is that of elements of a row.
    """

    def __init__(self, found: Operands, shape: tuple[int, ...], axes: Sequence[int]) -> None:
        self.found, self.shape, self.axes = found, shape, tuple(axes)
        rest = [i for i in range(len(shape)) if i not in self.axes]
        self.order = (*rest, *self.axes)
        self.lead = tuple(shape[i] for i in rest)
        self.length = math.prod(shape[i] for i in self.axes)

    def _laid(self, view: DeviceArray) -> DeviceArray | None:
        """With rows last and contiguous, None where that is no view."""
        laid = view.broadcast_to(self.shape).transpose(self.order)
        if len(self.axes) != 1:
            last = laid._view(laid.shape[len(self.lead) :], laid.strides[len(self.lead) :]).reshape((self.length,))
            if last is None:
                return None
            laid = laid._view((*self.lead, self.length), (*laid.strides[: len(self.lead)], last.strides[0]))
        return laid if self.length == 1 or laid.strides[-1] == laid.itemsize else None

    def arrays(
        self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray], dtype: str
    ) -> tuple[dict[str, DeviceArray], dict[str, tuple[DeviceArray, DeviceArray]]]:
        """Arrays as kernels take them, and results that are to be copied from there to where they belong.

        Masks keep their dtype, other arrays get `dtype`. Of inputs that lie otherwise there are copies.
        """
        whole = (*self.lead, self.length)
        laid: dict[str, DeviceArray] = {}
        back: dict[str, tuple[DeviceArray, DeviceArray]] = {}
        every = {**inputs, **outputs}
        dtypes = {name: "bool" if name == "mask" else dtype for name in every}
        fits = {name: self._laid(a) if a.dtype == dtypes[name] else None for name, a in every.items()}
        # more than two dimensions of rows that do not lie in each other: all of them are copied
        given = {name: a for name, a in fits.items() if a is not None}
        if len(given) < len(fits) or row_runs.seen_as_rows(given, self.lead) is None:
            copied = {name: None for name, a in fits.items() if a is None or not a.is_contiguous}
            fits |= copied
        for name, a in inputs.items():
            fit = fits[name]
            if fit is None:
                fit = self.found.scratch(whole, dtypes[name])
                source = a.broadcast_to(self.shape).transpose(self.order)
                maps.copy(source, fit.reshape(source.shape) or fit, self.found.stream)
            laid[name] = fit
        for name, a in outputs.items():
            fit = fits[name]
            harmless = fit is not None and all(
                fit.same_elements(other) or not fit.may_share_memory(other)
                for what, other in laid.items()
                if what in inputs
            )
            if fit is None or not harmless:
                fit = self.found.scratch(whole, dtype)
                target = a.transpose(self.order)
                back[name] = fit.reshape(target.shape) or fit, target
            laid[name] = fit
        return laid, back


def axes_of(name: str, axis: Axis, ndim: int) -> tuple[int, ...]:
    """The axes of a row, normalised."""
    return tuple(range(ndim)) if axis is None else tuple(np.lib.array_utils.normalize_axis_tuple(axis, ndim))


def call(
    name: str,
    kernel: str,
    arrays: Mapping[str, Any],
    axis: Axis,
    where: Any,
    out: Any,
    *,
    fill_in: float = 0.0,
    reduces: bool = False,
    keepdims: bool = False,
    scalars: Mapping[str, float] | None = None,
    causal: bool = False,
    bias: Any = None,
) -> Any:
    """A row function of arrays on a GPU.

    Parameters
    ----------
    name : str
        Of the function, for messages.
    kernel : str
        Of `fastact.spec.rows.ROWS`.
    arrays : mapping
        By the names of the kernel.
    axis, where, out
        As of the function.
    fill_in : float
        What the mask leaves of a reduced row.
    reduces, keepdims : bool
        Whether a row gives one value, and whether its axes stay.
    scalars : mapping, optional
    causal : bool
    bias : array, optional
    """
    found = Operands(name, {**arrays, "bias": bias}, True)
    dtype = found.dtype()
    views = dict(found.views)
    shape = broadcast_shape(name, {k: v for k, v in views.items() if k != "bias"})
    axes = axes_of(name, axis, len(shape))
    if causal and (len(axes) != 1 or len(shape) < 2 or axes[0] < len(shape) - 2):
        raise ValueError(
            f"{name}: with causal, axis must be one of the last two axes, not {axis} of {len(shape)} dimension"
            + "s" * (len(shape) != 1)
        )
    mask = found.mask(where)
    for what, view in (("where", mask), ("bias", views.get("bias"))):
        if view is not None:
            fits(name, what, view, shape, "arrays" if what == "where" else "x")
    if mask is not None:
        views["mask"] = mask
    layout = Layout(found, shape, axes)
    result = shape
    if reduces:
        result = tuple(1 if i in axes else n for i, n in enumerate(shape)) if keepdims else layout.lead
    array, target = found.result("out", out, result, dtype)
    spec = row_kernel_of(kernel, dtype)
    traits = frozenset([*(["mask"] if mask is not None else []), *(["causal"] if causal else [])])
    queries = layout.lead[-1] if causal and layout.lead else 1
    settings = dict(scalars or {}), found.stream, found.scratch, traits, queries
    if not reduces:
        laid, back = layout.arrays(views, {spec.outputs[0].name: target}, dtype)
        row_runs.run(spec, laid, {}, {}, *settings)
        for source, to in back.values():
            maps.copy(source, to, found.stream)
        return found.done(array)
    laid, _ = layout.arrays(views, {}, dtype)
    value = found.scratch(layout.lead, spec.compute)
    if layout.length:
        row_runs.run(spec, laid, {spec.outputs[0].name: value}, {}, *settings)
    else:
        maps.fill(value, fill_in, found.stream)
    maps.copy(value.reshape(target.shape) or value, target, found.stream)
    return found.done(array)


def apart(found: Operands, view: DeviceArray, written: Iterable[DeviceArray]) -> DeviceArray:
    """An array that has no memory in common with what is written: itself, or a copy."""
    if not any(view.may_share_memory(a) for a in written):
        return view
    copy = found.scratch(view.shape, view.dtype)
    maps.copy(view, copy, found.stream)
    return copy


def fits(name: str, what: str, view: DeviceArray, shape: tuple[int, ...], to: str) -> DeviceArray:
    """The view broadcast to a shape; `ValueError` that names the array where it does not."""
    try:
        return view.broadcast_to(shape)
    except ValueError:
        raise ValueError(f"{name}: {what} of shape {view.shape} does not broadcast to {to} of {shape}") from None


def total(found: Operands, values: DeviceArray, factor: float, divisor: DeviceArray | None, out: DeviceArray) -> None:
    """The sum of a contiguous array, times a number and over one on the device."""
    spec = TOTAL[values.dtype]
    flat = values.reshape((1, values.size))
    assert flat is not None
    result = found.scratch((1,), spec.compute)
    if values.size:
        scalars = {"factor": factor}
        row_runs.run(spec, {"x": flat}, {"y": result}, {}, scalars, found.stream, found.scratch, divisor=divisor)
    else:
        maps.fill(result, 0.0 if divisor is None and math.isfinite(factor) else math.nan, found.stream)
    maps.copy(result.reshape(out.shape) or result, out, found.stream)


def _total(dtype: str) -> KernelSpec:
    from fastact.spec.kinds import Argument

    return KernelSpec("total", dtype, "total", (Argument("x"),), (), (Argument("y", "row"),))


TOTAL = {dtype: _total(dtype) for dtype in ("float32", "float64")}
assert all(compute_dtype(d) == d for d in TOTAL)
