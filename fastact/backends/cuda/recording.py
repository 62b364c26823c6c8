"""What a call does on a device, written down while it is done, so that it can be done again with other memory.

An address that gets into the slots of a launch is a `Slot` while a call is recorded: an int that knows which memory it
is of. Nothing is guessed: a recording in which anything else happens with such a number is not `understood`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from fastact.backends.cuda.dtypes import SIZES

if TYPE_CHECKING:
    from fastact.backends.cuda.array import DeviceArray
    from fastact.backends.cuda.launch import Launch

# addresses count by their rest, in what kernel serves
ALIGNMENT = 16
# sources from here on are memory that the call made
MADE = 1 << 16


class Launched(NamedTuple):
    """A launch that was made: of a handle, in the simulator of a `Kernel`."""

    kernel: Any
    where: Launch
    slots: tuple[float, ...]


class Recording:
    """A call.

    Parameters
    ----------
    arrays : sequence
        Those of the caller.

    Attributes
    ----------
    understood : bool
        Whether launches with other addresses in their `Slot`s do the same.
    once : bool
        Whether the next call of the kind may do something else.
    spans : dict of int to (int, int)
        First byte of what has been seen, and the one after the last, by source: the place among `arrays`, or `MADE` and
        the place among `made`.
    made : list of (shape, dtype)
    launches : list of Launched
    written : list of int
        Sources whose library is to be told.
    """

    def __init__(self, arrays: Sequence[Any] = ()) -> None:
        self.understood, self.once = True, False
        self.spans: dict[int, tuple[int, int]] = {}
        self.made: list[tuple[tuple[int, ...], str]] = []
        self.launches: list[Launched] = []
        self.written: list[int] = []
        self._sources = {id(a): i for i, a in enumerate(arrays)}
        self._kept = list(arrays)  # so that no other has its id

    def source(self, array: Any) -> int | None:
        """Which array of the call this is."""
        return self._sources.get(id(array))

    def make(self, array: Any, shape: tuple[int, ...], dtype: str) -> None:
        """Notes new memory."""
        self._sources[id(array)] = MADE + len(self.made)
        self._kept.append(array)
        self.made.append((shape, dtype))

    def see(self, view: DeviceArray) -> None:
        """Marks the address of a view of an array."""
        source = self.source(view.owner)
        if source is None or view.dtype not in SIZES:
            self.understood = False
            return
        self.spans[source] = view.span()
        view.address = Slot(view.address, source)

    def write(self, array: Any) -> None:
        """Notes an array of the caller that is written."""
        source = self.source(array)
        if source is None or source >= MADE:
            self.understood = False
        else:
            self.written.append(source)


# the recording of the call under way; one that nobody asks for while launches are planned
current: ContextVar[Recording | None] = ContextVar("recording", default=None)


class Slot(int):
    """An int that is another one in the next call: where it came from, and how far it is from there.

    It stays one if an int is added or taken away. The rest of an address by what divides `ALIGNMENT` is the same in all
    calls that are alike, and comparisons are (`Plan.apart` in fastact.api.replay); with other operations a recording is
    not understood.
    """

    source: int
    offset: int

    def __new__(cls, value: int, source: int, offset: int = 0) -> Slot:
        self = super().__new__(cls, value)
        self.source, self.offset = source, offset
        return self

    def _moved(self, by: Any) -> Any:
        if type(by) is not int:
            _not_understood()
            return int(self) + by
        return Slot(int(self) + by, self.source, self.offset + by)

    __add__ = __radd__ = _moved

    def __sub__(self, by: Any) -> Any:
        if type(by) is not int:
            _not_understood()
            return int(self) - by
        return self._moved(-by)

    def __mod__(self, by: Any) -> Any:
        if ALIGNMENT % by:
            _not_understood()
        return int(self) % by


def _not_understood() -> None:
    recording = current.get()
    if recording is not None:
        recording.understood = False


def _refused(name: str) -> Any:
    operation = getattr(int, name)

    def refused(self: Slot, *args: Any) -> Any:
        _not_understood()
        return operation(self, *args)

    return refused


for _name in ("mul", "floordiv", "truediv", "divmod", "pow", "lshift", "rshift", "and", "or", "xor"):
    for _side in ("", "r"):
        setattr(Slot, f"__{_side}{_name}__", _refused(f"__{_side}{_name}__"))
for _name in ("rsub", "rmod", "neg", "abs", "invert", "float", "index"):
    setattr(Slot, f"__{_name}__", _refused(f"__{_name}__"))
