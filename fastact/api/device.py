"""Calls with arrays on a GPU: whose they are, what of them does not fit, where results go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fastact.backends.cuda.array import DeviceArray
from fastact.backends.cuda.dtypes import SIZES, can_cast, common, is_integer, shown
from fastact.backends.cuda.families import Family, begin, end, family_of
from fastact.backends.cuda.recording import current
from fastact.spec.messages import unsupported_names

# types whose values a kernel takes as they are
NUMBERS = (int, float, np.generic)


def is_on_device(array: Any) -> bool:
    """Whether it is an array on a GPU."""
    family = family_of(type(array))
    return family is not None and family.on_device(array)


def any_on_device(arrays: Iterable[Any]) -> bool:
    """Whether one of them is; of tuples, one of their items."""
    for a in arrays:
        if type(a) is np.ndarray or a is None:
            continue
        if type(a) is tuple:
            if any_on_device(a):
                return True
        elif is_on_device(a):
            return True
    return False


class Operands:
    """The arrays of a call, all on one device.

    Parameters
    ----------
    name : str
        Of the function, for messages.
    given : mapping
        Arrays and numbers by name; None is left out.

    Raises
    ------
    TypeError
        If one of them is an array in the host's memory.
    ValueError
        If they are on several devices.

    Attributes
    ----------
    views : dict of str to DeviceArray
    numbers : dict of str to number
    ufunc : bool
        Whether errors have the words of NumPy's ufuncs, as on the host.
    """

    def __init__(self, name: str, given: Mapping[str, Any], ufunc: bool = False) -> None:
        self.name, self.ufunc = name, ufunc
        self.views: dict[str, DeviceArray] = {}
        self.numbers: dict[str, Any] = {}
        self._families: dict[str, tuple[Family, Any]] = {}
        self._made: list[Any] = []
        self._written: list[tuple[Family, Any]] = []
        self._stream: int | None = None
        host: list[tuple[str, Any]] = []
        for what, a in given.items():
            if a is None:
                continue
            family = family_of(type(a))
            if family is not None and family.on_device(a):
                self.views[what] = view_of(a, family)
                self._families[what] = family, a
            elif isinstance(a, NUMBERS) or (isinstance(a, np.ndarray) and a.ndim == 0):
                self.numbers[what] = a
            else:
                host.append((what, a))
        if not self.views:
            what, a = host[0] if host else next(iter(self.numbers.items()))
            raise TypeError(f"{name}: out is on a GPU, {what} is {_kind(a)} in the memory of the host")
        first = next(iter(self.views))
        self.family, like = self._families[first]
        self._like = like
        if host:
            what, a = host[0]
            kind = _kind(a)
            raise TypeError(
                f"{name}: {first} is {self.family.name_of(like)}, {what} is {kind} in the memory of the host; they "
                "must be on one device"
            )
        self.device = self.views[first].device
        for what, view in self.views.items():
            if view.device != self.device:
                family, a = self._families[what]
                raise ValueError(
                    f"{name}: {first} is {self.family.name_of(like)}, {what} is {family.name_of(a)}; they must be on "
                    "one device"
                )

    def floats(self, names: Iterable[str]) -> None:
        """`TypeError` for a number in the place of an array, and for integers in any array but x."""
        for what in names:
            if what in self.numbers:
                raise TypeError(f"{self.name}: {what} must be an array")
        for what, view in self.views.items():
            if view.dtype not in SIZES:
                raise TypeError(unsupported_names(f"{self.name}: {what}", [view.dtype]))
            if what != "x" and is_integer(view.dtype):
                raise TypeError(f"{self.name}: {what} must be of floats, not {view.dtype}")

    def of_shape(self, names: Iterable[str], shape: tuple[int, ...], needed_by: str) -> None:
        """`ValueError` for an array of another shape than what needs that."""
        for what in names:
            if what in self.views and self.views[what].shape != shape:
                raise ValueError(f"{self.name}: {what} has shape {self.views[what].shape}, {needed_by}")

    @property
    def stream(self) -> int:
        """The stream of the call, which waits for all arrays whose views have been taken."""
        if self._stream is None:
            self._stream = begin(self.device, list(self._families.values()))
        return self._stream

    def done(self, *results: Any) -> Any:
        """The results as the caller gets them, when all work is on the stream: one alone, several as a tuple."""
        end(self.device, self.stream, list(self._families.values()), self._written)
        recording = current.get()
        if recording is not None:
            for _, a in self._written:
                recording.write(a)
        given = tuple(self.family.finish(a) if any(a is m for m in self._made) else a for a in results)
        return given[0] if len(given) == 1 else given

    def written(self, what: str) -> None:
        """Notes that an array of the call is written."""
        self._written.append(self._families[what])

    def view(self, what: str, array: Any) -> DeviceArray:
        """The view of another array of the call, such as `out`."""
        family = family_of(type(array))
        if family is None or not family.on_device(array):
            first = next(iter(self.views))
            raise TypeError(
                f"{self.name}: {first} is {self.family.name_of(self._families[first][1])}, {what} must be an array on "
                f"that device, not {type(array).__name__}"
            )
        found = view_of(array, family)
        if found.device != self.device:
            raise ValueError(f"{self.name}: {what} is {family.name_of(array)}, the other arrays are on another device")
        self._families[what] = family, array
        return found

    def mask(self, where: Any) -> DeviceArray | None:
        """The view of a mask of booleans, None where everything counts."""
        if where is True or where is None:
            return None
        view = self.view("where", where)
        if view.dtype != "bool":
            raise TypeError(f"{self.name}: where must be a mask of booleans, not {view.dtype}")
        return view

    def dtype(self, names: Iterable[str] | None = None, given: Iterable[Any] = ()) -> str:
        """The dtype that arrays of these names, or all, have in common; of `given`, NumPy's numbers have one, too."""
        dtypes = [self.views[n].dtype for n in (self.views if names is None else names) if n in self.views]
        dtypes += [a.dtype.name for a in given if isinstance(a, (np.generic, np.ndarray))]
        if any(name not in SIZES for name in dtypes):
            raise TypeError(unsupported_names(f"ufunc {self.name!r}" if self.ufunc else self.name, dtypes))
        return common(dtypes)

    def empty(self, shape: tuple[int, ...], dtype: str) -> tuple[Any, DeviceArray]:
        """A new array of the caller's type, and its view."""
        array = self.family.empty(shape, dtype, self.device, self._like)
        self._made.append(array)
        recording = current.get()
        if recording is not None:
            recording.make(array, shape, dtype)
        # not of the caller's family yet where that makes its array of ours at the end
        return array, view_of(array)

    def scratch(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        """Memory of the call alone, which its view keeps."""
        return self.empty(shape, dtype)[1]

    def laid(self, view: DeviceArray, dtype: str, flat: bool = False) -> DeviceArray:
        """An array contiguous, at an address aligned to 16 bytes, of a dtype: itself, or a copy; `flat` in C order."""
        if not (view.is_contiguous and view.dtype == dtype and view.address % 16 == 0):
            from fastact.backends.cuda import maps  # 6 ms of `import fastact`, and of no use without a GPU

            copy = self.scratch(view.shape, dtype)
            maps.copy(view, copy, self.stream)
            view = copy
        return view if not flat else view.reshape((view.size,)) or view

    def place(self, target: DeviceArray, read: Iterable[DeviceArray], dtype: str) -> DeviceArray:
        """Where a contiguous result is computed: in its place, if nothing there is still to be read."""
        if target.is_contiguous and target.dtype == dtype:
            if safe_to_write(target.reshape((target.size,)) or target, read):
                return target
        return self.scratch(target.shape, dtype)

    def result(self, what: str, out: Any, shape: tuple[int, ...], dtype: str) -> tuple[Any, DeviceArray]:
        """Where a result goes: `out`, checked, or a new array."""
        if out is None:
            return self.empty(shape, dtype)
        view = self.view(what, out)
        self.check_out(what, view, shape, dtype)
        self._written.append(self._families[what])
        return out, view

    def check_out(self, what: str, view: DeviceArray, shape: tuple[int, ...], dtype: str) -> None:
        """An error where memory cannot take a result."""
        if view.shape != shape:
            raise ValueError(f"{self.name}: {what} has shape {view.shape}, the result {shape}")
        if not can_cast(dtype, view.dtype):
            if self.ufunc:
                dtypes = f"from {shown(dtype)} to {shown(view.dtype)}"
                raise TypeError(f"Cannot cast ufunc {self.name!r} output {dtypes} with casting rule 'same_kind'")
            raise TypeError(
                f"{self.name}: cannot write a result of {dtype} to {what} of {view.dtype} with casting 'same_kind'"
            )
        if not view.writeable:
            raise ValueError(f"{self.name}: {what} is read-only")


def _kind(array: Any) -> str:
    return "an array of NumPy" if isinstance(array, np.ndarray) else type(array).__name__


def view_of(array: Any, family: Family | None = None) -> DeviceArray:
    """The view of an array on a device; its family, if that is known."""
    if family is None:
        family = family_of(type(array))
        assert family is not None
    address, shape, strides, dtype, device, writeable = family.view(array)
    view = DeviceArray(address, shape, strides, dtype, device, array, writeable)
    recording = current.get()
    if recording is not None:
        recording.see(view)
    return view


def broadcast_shape(name: str, views: Mapping[str, DeviceArray]) -> tuple[int, ...]:
    """The shape that arrays broadcast to; `ValueError` as NumPy's where there is none."""
    try:
        return np.broadcast_shapes(*(v.shape for v in views.values()))
    except ValueError:
        shapes = " ".join(str(v.shape).replace(" ", "") for v in views.values())
        raise ValueError(f"{name}: operands could not be broadcast together with shapes {shapes}") from None


def safe_to_write(out: DeviceArray, read: Iterable[DeviceArray]) -> bool:
    """Whether it can be written while others are read: of these an element is read before the one in its place."""
    return all(out.same_elements(a) or not out.may_share_memory(a) for a in read)
