"""Lists of arrays on a GPU that a rule updates in place: checked as those on the host, by the same functions.

Those look at where arrays lie, not at their elements. So they are given arrays of NumPy that lie where those of the
device do (`_where`), which nobody reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastact.api.device import Operands, is_on_device, view_of
from fastact.api.optimisers import NORM_EPS, check_apart, check_disjoint, check_writeable, listed
from fastact.backends.cuda import families, launch, lists, maps
from fastact.backends.cuda.array import DeviceArray
from fastact.backends.cuda.dtypes import FLOATS
from fastact.spec.kernel import compute_dtype
from fastact.spec.optimisers import Rule

assert lists.NORM_EPS == NORM_EPS

Given = list[tuple[families.Family, Any]]
# what decides whether checks hold still: address, shape, strides, dtype, device
Key = tuple[Any, ...]


def _family(array: Any) -> families.Family:
    found = families.family_of(type(array))
    assert found is not None
    return found


def floating(name: str, what: str, array: Any) -> str:
    """The name of the dtype of an array that can be updated or read; `TypeError` for another one."""
    dtype = view_of(array).dtype
    if dtype not in FLOATS:
        raise TypeError(f"{name}: {what} is of {dtype}, which is none of {', '.join(FLOATS)}")
    return dtype


class _Where:
    def __init__(self, view: DeviceArray) -> None:
        self.__array_interface__ = {
            "version": 3, "shape": view.shape, "typestr": f"|V{view.itemsize}", "strides": view.strides,
            "data": (view.address, not view.writeable),
        }  # fmt: skip


def _where(view: DeviceArray) -> Any:
    """An array of NumPy that lies where an array of the device does; its elements must not be touched."""
    return np.asarray(_Where(view))


def _key(view: DeviceArray) -> Key:
    return view.address, view.shape, view.strides, view.dtype, view.device


class _Space:
    """A device as a list of arrays has it: its family, and memory like theirs."""

    def __init__(self, like: Any) -> None:
        self.like, self.family = like, _family(like)
        self.device = view_of(like).device

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return self.family.empty(shape, dtype, self.device, self.like)

    def scratch(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        return view_of(self.empty(shape, dtype))


def full(like: Any, value: float, dtype: str) -> Any:
    """A new array of the shape and family of another one."""
    space, shape = _Space(like), view_of(like).shape
    found = space.empty(shape, dtype)
    given: Given = [(space.family, like), (_family(found), found)]
    stream = families.begin(space.device, given)
    maps.fill(view_of(found), value, stream)
    families.end(space.device, stream, given)
    return found


def copied(source: Any, dtype: str) -> Any:
    """A contiguous copy on the device."""
    space, view = _Space(source), view_of(source)
    found = space.empty(view.shape, dtype)
    given: Given = [(space.family, source), (_family(found), found)]
    stream = families.begin(space.device, given)
    maps.copy(view, view_of(found), stream)
    families.end(space.device, stream, given)
    return found


def to_host(array: Any) -> Any:
    """A contiguous array as one of NumPy; waits for it."""
    view, given = view_of(array), [(_family(array), array)]
    stream = families.begin(view.device, given)
    found = launch.to_host(view, stream)
    families.end(view.device, stream, given)
    return found


def from_host(array: Any, source: Any) -> None:
    """Write an array of NumPy to a contiguous one; waits until that is done."""
    view, given = view_of(array), [(_family(array), array)]
    stream = families.begin(view.device, given)
    launch.to_device(source, view, stream)
    families.end(view.device, stream, given, given)


class DeviceLists:
    """Arrays on a device that a rule updates in place.

    Parameters are those of `fastact.api.optimisers.Lists`, which does the same on the host.
    """

    def __init__(
        self, name: str, rule: Rule, dtype: str, columns: Sequence[tuple[str, list[Any]]], *, master: bool
    ) -> None:
        self.name, self.rule, self.dtype, self.master = name, rule, dtype, master
        self.columns = list(columns)
        self.label, self.params = columns[-1 if master else 0]
        self._build()

    def _build(self) -> None:
        labelled = {label.format(i): a for label, column in self.columns for i, a in enumerate(column)}
        views = list(placed(self.name, labelled).values())
        where = list(zip(labelled, map(_where, views)))
        for what, a in where:
            check_writeable(self.name, what, a)
        check_disjoint(self.name, where)
        self.space = _Space(self.params[0])
        self._written = where
        self._given: Given = [(_family(a), a) for a in labelled.values()]
        self._copied: list[tuple[DeviceArray, DeviceArray]] = []
        of = iter(views)
        lying = [[next(of) for _ in column] for _, column in self.columns]
        self._shapes = [view.shape for view in lying[-1 if self.master else 0]]
        self._keys = [_key(view) for view in lying[-1 if self.master else 0]]
        laid = [[self._laid(view) for view in column] for column in lying]
        copies = laid.pop() if self.master else None
        self.lists = lists.Lists(self.rule, self.dtype, laid, copies, self.space.scratch)
        self._checked: list[Key] | None = None

    def _laid(self, view: DeviceArray) -> DeviceArray:
        if view.is_contiguous:
            return view
        copy = self.space.scratch(view.shape, view.dtype)
        self._copied.append((view, copy))
        return copy

    def _stay(self) -> None:
        """Find parameters again whose memory is another one by now."""
        views = [view_of(p) for p in self.params]
        if [_key(view) for view in views] != self._keys:
            for i, (view, shape) in enumerate(zip(views, self._shapes)):
                if view.shape != shape:
                    what = self.label.format(i)
                    raise ValueError(f"{self.name}: {what} has shape {view.shape}, and had {shape} before")
                if view.dtype != self.dtype:
                    raise TypeError(f"{self.name}: {self.label.format(i)} is of {view.dtype}, and was of {self.dtype}")
            self._build()

    def _gradients(self, label: str, grads: Any) -> tuple[list[Any], list[DeviceArray]]:
        """Gradients and their views; an error that says what is wrong with them."""
        name = self.name
        grads = listed(f"{name}: {label.partition('[')[0]}", grads)
        if len(grads) != len(self.params):
            raise ValueError(f"{name}: {len(grads)} gradients for {len(self.params)} parameters")
        if self._checked is not None and all(families.family_of(type(g)) for g in grads):
            views = [view_of(g) for g in grads if _family(g).on_device(g)]
            if [_key(view) for view in views] == self._checked:
                return grads, views
        labelled = {self.label.format(0): self.params[0]}
        labelled |= {label.format(i): g for i, g in enumerate(grads)}
        views = list(placed(name, labelled).values())[1:]
        for i, (view, shape) in enumerate(zip(views, self._shapes)):
            what = label.format(i)
            if view.dtype not in FLOATS:
                raise TypeError(f"{name}: {what} is of {view.dtype}, which is none of {', '.join(FLOATS)}")
            if view.dtype not in (self.dtype, compute_dtype(self.dtype)):
                raise TypeError(f"{name}: {what} is of {view.dtype}, {self.label.format(i)} of {self.dtype}")
            if view.shape != shape:
                raise ValueError(f"{name}: {what} has shape {view.shape}, {self.label.format(i)} {shape}")
        where = [(label.format(i), _where(view)) for i, view in enumerate(views)]
        check_apart(name, [(what, a) for what, a in self._written if a.size], where)
        self._checked = [_key(view) for view in views]
        return grads, views

    def _even(self, views: list[DeviceArray], stream: int) -> list[DeviceArray]:
        """Gradients as kernels take them: contiguous, of one dtype; to widen is exact."""
        dtype = next((v.dtype for v in views if v.dtype == compute_dtype(v.dtype)), views[0].dtype)
        found = []
        for view in views:
            if view.dtype != dtype or not view.is_contiguous:
                copy = self.space.scratch(view.shape, dtype)
                maps.copy(view, copy, stream)
                view = copy
            found.append(view)
        return found

    def update(
        self, label: str, grads: Any, numbers: tuple[float, ...], scale: float = 1.0, max_norm: float | None = None
    ) -> Any:
        """A step, as `fastact.api.optimisers.Lists.update`; the norm is an array on the device."""
        self._stay()
        grads, views = self._gradients(label, grads)
        return self._run([(_family(g), g) for g in grads], views, numbers, scale, max_norm)

    def clip(self, max_norm: float) -> Any:
        """Shrink the first column; gives its norm."""
        return self._run([], [], (), 1.0, max_norm)

    def _run(
        self, read: Given, views: list[DeviceArray], numbers: tuple[float, ...], scale: float, max_norm: float | None
    ) -> Any:
        device, norm = self.space.device, None
        if max_norm is not None:
            norm = self.space.empty((), "float64")
            read = [*read, (_family(norm), norm)]
        given = [*self._given, *read]
        stream = families.begin(device, given)
        even = self._even(views, stream) if views else []
        for view, copy in self._copied:
            maps.copy(view, copy, stream)
        clips = (view_of(norm), max_norm, scale) if norm is not None and max_norm is not None else ()
        self.lists.update(even, (1.0 / scale, *numbers), stream, *clips)
        for view, copy in self._copied:
            maps.copy(copy, view, stream)
        families.end(device, stream, given, self._given)
        return None if norm is None else self.space.family.finish(norm)


def placed(name: str, labelled: dict[str, Any]) -> dict[str, DeviceArray]:
    """Views of arrays that are all on one device; an error that says which is where."""
    given = {}
    for what, a in labelled.items():
        if not isinstance(a, np.ndarray) and not is_on_device(a):
            raise TypeError(f"{name}: {what} must be an array, not {type(a).__name__}")
        # an array of NumPy without dimensions is no number here
        given[what] = np.atleast_1d(a) if isinstance(a, np.ndarray) else a
    return Operands(name, given).views
