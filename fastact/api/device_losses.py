"""Losses of arrays on a GPU.

The host never waits for the device. So what an array holds is not checked: a label that is none of the classes makes
its loss and gradient NaN, targets that are no probabilities are taken as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastact.api.device import Operands
from fastact.api.device_rows import Layout, apart, axes_of, fits, total
from fastact.api.losses import check_labels_shape, divided
from fastact.backends.cuda import maps, row_runs
from fastact.backends.cuda.array import DeviceArray
from fastact.backends.cuda.dtypes import SIZES, common, is_integer
from fastact.backends.cuda.families import family_of
from fastact.backends.cuda.row_functions import GENERAL
from fastact.spec.kernel import DTYPES, KernelSpec, row_kernel_of
from fastact.spec.kinds import Argument
from fastact.spec.messages import unsupported_names

# elements of a row of losses of elements: as many as a warp has in its registers
ROW = 512


def has_indices(labels: Any) -> bool:
    """Whether labels are class indices, not probabilities."""
    family = family_of(type(labels))
    if family is None or not family.on_device(labels):
        return True  # which is refused later
    dtype = family.view(labels)[3]
    return is_integer(dtype) and dtype != "bool"


def _dtype(found: Operands, x: str, t: str) -> str:
    # class indices, and probabilities given as 0 and 1 or False and True, have no say
    names = [found.views[x].dtype]
    if not is_integer(found.views[t].dtype):
        names.append(found.views[t].dtype)
    for what in found.views:
        if found.views[what].dtype not in SIZES:
            raise TypeError(unsupported_names(found.name, [found.views[what].dtype]))
    return common(names)


class _Reduced:
    """The loss of rows or elements, as asked for: one for each, or their sum over a number."""

    def __init__(self, found: Operands, reduction: str, dtype: str, shape: tuple[int, ...]) -> None:
        self.found, self.reduction, self.dtype = found, reduction, dtype
        self.array, self.target = found.empty(shape if reduction == "none" else (), dtype)

    def put(self, losses: DeviceArray, factor: float = 1.0, divisor: DeviceArray | None = None) -> None:
        """Takes losses of the computing dtype, contiguous."""
        if self.reduction == "none":
            maps.copy(losses.reshape(self.target.shape) or losses, self.target, self.found.stream)
        else:
            total(self.found, losses, factor, divisor, self.target)


def by_label(
    name: str, kernel: str, logits: Any, labels: Any, names: tuple[str, str], axis: int, weight: Any,
    ignore_index: int | None, scalars: Mapping[str, float], reduction: str, out: Any, grad: bool,
) -> tuple[Any, Any]:  # fmt: skip
    """A loss of rows with class indices, or with probabilities: its value and, with `grad`, its gradient."""
    x_name, t_name = names
    found = Operands(name, {x_name: logits, t_name: labels, "weight": weight})
    for what in (x_name, t_name):
        if what not in found.views:
            raise TypeError(f"{name}: {what} must be an array")
    x, t = found.views[x_name], found.views[t_name]
    dtype = _dtype(found, x_name, t_name)
    (along,) = axes_of(name, axis, x.ndim)
    indices = is_integer(t.dtype) and t.dtype != "bool"
    rows_shape = x.shape[:along] + x.shape[along + 1 :]
    need, other = (rows_shape, x.shape) if indices else (x.shape, rows_shape)
    check_labels_shape(name, t, need, other, indices)
    if ignore_index is not None and not indices:
        raise ValueError(f"{name}: ignore_index needs labels that are class indices")
    classes = x.shape[along]
    weights = found.views.get("weight")
    if weights is not None and weights.shape != (classes,):
        raise ValueError(f"{name}: weight has shape {weights.shape}, and there are {classes} classes")
    array = target = None
    if grad:
        array, target = found.result("out", out, x.shape, dtype)
    layout = Layout(found, x.shape, (along,))
    count = math.prod(rows_shape)
    spec = OWN[kernel][dtype] if kernel in OWN else row_kernel_of(kernel, dtype)
    result = _Reduced(found, reduction, dtype, rows_shape)
    loss = found.scratch(layout.lead, spec.compute)
    traits = {"general"} if any(scalars.get(s) for s in GENERAL) else set()
    given: dict[str, DeviceArray] = {"x": x}
    rows: dict[str, DeviceArray] = {"loss": loss}
    results = {"dx": target} if target is not None else {}
    divisor = None
    factor = divided(1.0, count) if reduction == "mean" else 1.0
    settings = {"factor": factor, **scalars}
    if indices:
        t = rows["labels"] = _laid_labels(found, t, list(results.values()))
        traits.add(f"labels_{t.dtype}")
        if ignore_index is not None:
            settings["ignored"] = float(ignore_index)
            traits.add("ignores")
        if reduction == "mean" and (ignore_index is not None or weights is not None):
            divisor = _count(found, t, classes, weights, settings, traits, spec.compute)
            settings["factor"], factor = 1.0, 1.0
    else:
        given["targets"] = t
    columns = {} if weights is None else {"weights": apart(found, found.laid(weights, dtype), results.values())}
    laid, back = layout.arrays(given, results, dtype)
    if count and classes:
        passes = [(laid, rows)]
        if kernel == "nll_loss" and target is not None and laid["dx"].may_share_memory(laid["x"]):
            # other threads than those that write at a label read there
            passes = [({"x": laid["x"]}, rows), ({"dx": laid["dx"]}, {"labels": rows["labels"]})]
        for arrays, of_rows in passes:
            row_runs.run(
                spec, arrays, of_rows, columns, settings, found.stream, found.scratch, frozenset(traits),
                divisor=divisor,
            )  # fmt: skip
    else:
        maps.fill(loss, 0.0, found.stream)
    for source, to in back.values():
        maps.copy(source, to, found.stream)
    result.put(loss, factor, divisor)
    return found.done(result.array, array) if grad else (found.done(result.array), None)


def _laid_labels(found: Operands, labels: DeviceArray, written: Sequence[DeviceArray]) -> DeviceArray:
    """Labels that kernels can go over, apart from what is written: themselves, or a copy of numbers."""
    if labels.is_contiguous and not any(labels.may_share_memory(a) for a in written):
        return labels
    copy = found.scratch(labels.shape, "float64")
    maps.copy(labels, copy, found.stream)
    return copy


def _count(
    found: Operands, labels: DeviceArray, classes: int, weights: DeviceArray | None, settings: Mapping[str, float],
    traits: set[str], compute: str,
) -> DeviceArray:  # fmt: skip
    """How many rows count, or the sum of the weights of their labels, on the device."""
    each = found.scratch(labels.shape, compute)
    scalars = {"classes": float(classes)}
    if "ignores" in traits:
        scalars["ignored"] = settings["ignored"]
    given = {"labels": labels, "counts": each}
    columns = {}
    if weights is not None:
        columns["weights"] = found.laid(weights, compute)
    own = frozenset(t for t in traits if t != "general")
    row_runs.run_of_rows(COUNT[compute], given, columns, scalars, found.stream, found.scratch, own)
    result = found.scratch((), compute)
    total(found, each, 1.0, None, result)
    return result


def of_elements(
    name: str, kernel: str, x: Any, t: Any, names: tuple[str, str], factors: Mapping[str, Any],
    scalars: Mapping[str, float], reduction: str, out: Any, grad: bool,
) -> tuple[Any, Any]:  # fmt: skip
    """A loss of elements, each by itself: its value and, with `grad`, its gradient."""
    x_name, t_name = names
    found = Operands(name, {x_name: x, t_name: t, **factors})
    for what in (x_name, t_name):
        if what not in found.views:
            raise TypeError(f"{name}: {what} must be an array")
    given, targets = found.views[x_name], found.views[t_name]
    dtype = _dtype(found, x_name, t_name)
    if targets.shape != given.shape:
        raise ValueError(f"{name}: {t_name} have shape {targets.shape}, {x_name} {given.shape}")
    shape, size = given.shape, given.size
    others = {}
    for what, factor in factors.items():
        if factor is not None:
            if what not in found.views:
                raise TypeError(f"{name}: {what} must be an array on the device of {x_name}")
            others[what] = fits(name, what, found.views[what], shape, x_name)
    array = target = None
    if grad:
        array, target = found.result("out", out, shape, dtype)
    result = _Reduced(found, reduction, dtype, shape)
    spec = row_kernel_of(kernel, dtype)
    argument = {a.name for a in spec.inputs}
    maps_given = {"x": given, "targets": targets}
    maps_given |= {what if what in argument else f"{what}s": a for what, a in others.items()}
    flat = {what: found.laid(a, dtype, flat=True) for what, a in maps_given.items()}
    by = divided(1.0, size) if reduction == "mean" else 1.0
    settings = {"factor": by, **scalars}
    if target is not None:
        dx = found.place(target, flat.values(), dtype)
        flat["dx"] = dx.reshape((size,)) or dx
    losses = found.scratch((size,), dtype) if reduction == "none" else None
    if losses is not None:
        flat["losses"] = losses
    whole = size // ROW
    sums = found.scratch((whole + (size % ROW > 0),), spec.compute)
    for first, count, n in ((0, whole, ROW), (whole * ROW, 1, size - whole * ROW)):
        if count and n:
            parts = {what: a.part(0, first, count * n).reshape((count, n)) for what, a in flat.items()}
            own = {"sums": sums.part(0, first // ROW, count)}
            row_runs.run(spec, parts, own, {}, settings, found.stream, found.scratch)  # type: ignore[arg-type]
    if target is not None:
        maps.copy(dx, target, found.stream)
    result.put(sums if losses is None else losses, by)
    return found.done(result.array, array) if grad else (found.done(result.array), None)


def _spec(name: str, dtype: str, inputs: str, outputs: str) -> KernelSpec:
    def side(text: str) -> tuple[Argument, ...]:
        return tuple(Argument(*word.split(":")) for word in text.split())

    return KernelSpec(name, dtype, name, side(inputs), (), side(outputs))


COUNT = {d: _spec("label_counts", d, "labels:row weights:col", "counts:row") for d in DTYPES}
# loops that the CPU has in another form, or not at all
OWN = {
    name: {d: _spec(name, d, inputs, "loss:row dx") for d in DTYPES}
    for name, inputs in (
        ("nll_loss", "x:row labels:row weights:col"),
        ("cross_entropy_of_shares", "x targets weights:col"),
    )
}
