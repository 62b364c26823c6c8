"""Calls with arrays on a GPU that are like an earlier one: the same launches, with other addresses.

On the host of an H100 a launch takes 4 us and new memory 2, and all that decides what is launched 50 to 250. It
depends on the arguments, but not on the addresses of arrays, apart from a few bits of them and which of the arrays are
one memory, and not on seed and offset of random numbers. So the first call of a kind is recorded
(`fastact.backends.cuda.recording`); later ones allocate what it allocated and launch what it launched.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np

from fastact.backends.cuda.dtypes import SIZES
from fastact.backends.cuda.families import Family, family_of
from fastact.backends.cuda.recording import ALIGNMENT, MADE, Recording, Slot, current
from fastact.runtime import _driver
from fastact.spec.table import Op

F = TypeVar("F", bound=Callable[..., Any])
Pair = tuple[int, int, int, int, int, int]

# kinds of calls that are remembered, if any
MOST = 1024
# bytes between the parts of the scratch memory of a call
APART = 256

_ITSELF, _TYPED, _FLOAT, _TUPLE, _DICT, _OTHER, _MISSED = (object() for _ in range(7))
# how an argument of a type gets into a key: a family's by `Family.describe`
_types: dict[type, Any] = {
    type(None): _ITSELF, str: _ITSELF, bool: _TYPED, int: _TYPED, float: _FLOAT, tuple: _TUPLE, dict: _DICT
}  # fmt: skip
# arguments that never change
OBJECTS = (Op, _driver.Callable, type, np.dtype)

_plans: dict[tuple[Any, ...], Plan | None] = {}
_lock = threading.Lock()


def replayed(method: F) -> F:
    """Of a method that computes with arrays on a GPU: what calls that are alike launch is found out once.

    What the method does must depend on its arguments alone. They are arrays, numbers and strings, in any tuples and
    dicts; a keyword `random` is a tuple of two numbers, and seed and offset of random numbers.
    """

    @functools.wraps(method)
    def call(self: Any, *args: Any, **more: Any) -> Any:
        if current.get() is not None:
            return method(self, *args, **more)
        key: list[Any] = [method, self, len(args)]
        items, random = list(args), None
        if more:
            key += more
            random = more.get("random")
            items += [value for name, value in more.items() if name != "random"]
        arrays: list[Any] = []
        values: list[int] = []
        device, family = -1, None
        for value in items:
            kind = type(value)
            how = _types.get(kind) or _how(kind)
            if how is _ITSELF:
                key.append(value)
            elif how is _TUPLE:
                key += kind, len(value)
                items += value
            elif how is _DICT:
                key += kind, len(value), *value
                items += value.values()
            elif how is _TYPED:
                key += kind, value
            elif how is _FLOAT:
                key += kind, value or repr(value)  # 0 and -0 are two
            elif how is _OTHER:
                if isinstance(value, np.generic):
                    value = value.tobytes()
                elif not isinstance(value, OBJECTS):
                    return method(self, *args, **more)
                key += kind, value
            else:
                device = how.describe(value, key, values)
                if device < 0:
                    return method(self, *args, **more)
                family = how
                arrays.append(value)
        if family is None:
            return method(self, *args, **more)
        if len(values) > 1 and len(set(values)) < len(values):
            # which are one memory, and which are one object: one of them may be returned
            key += map(values.index, values)
            same = list(map(id, arrays))
            key += map(same.index, same)
        if random is not None:
            first, second, seed, offset = random
            key += type(first), first, type(second), second, seed >> 63, offset >> 63
            values += seed, offset
        stream = family.stream(device)
        key.append(stream)
        found = tuple(key)
        plan: Any = _plans.get(found, _OTHER)
        if plan is _OTHER:
            if random is not None:
                n = len(arrays)
                more["random"] = first, second, Slot(seed, n), Slot(offset, n + 1)
            return _recorded(found, family, device, arrays, values, functools.partial(method, self, *args, **more))
        if plan is not None:
            result = plan.run(arrays, values, stream)
            if result is not _MISSED:
                return result
        return method(self, *args, **more)

    return call  # type: ignore[return-value]


def _how(kind: type) -> Any:
    family = family_of(kind)
    found = _TUPLE if issubclass(kind, tuple) else _OTHER
    _types[kind] = found = family if family is not None and family.replays else found
    return found


def _recorded(
    key: tuple[Any, ...], family: Family, device: int, arrays: list[Any], values: list[int], call: Callable[[], Any]
) -> Any:
    recording = Recording(arrays)
    token = current.set(recording)
    try:
        result = call()
    finally:
        current.reset(token)
    plan = Plan(recording, family, device, arrays, values, result) if recording.understood else None
    if not recording.once:
        _keep(key, plan if recording.understood else None)
    return result


def _keep(key: tuple[Any, ...], plan: Plan | None) -> None:
    with _lock:
        while _plans and len(_plans) >= MOST:
            del _plans[next(iter(_plans))]
        if MOST:
            _plans[key] = plan


class Plan:
    """What a call does, for other arrays of the same kind.

    Values are numbered: addresses of the caller's arrays, seed and offset, addresses of what is made. A recording whose
    slots or results cannot all be told is not `understood` afterwards.
    """

    def __init__(
        self, recording: Recording, family: Family, device: int, arrays: Sequence[Any], values: Sequence[int],
        result: Any,
    ) -> None:  # fmt: skip
        from fastact.backends.cuda import launch  # not to be loaded without a GPU

        self.family, self.device = family, device
        self.launch, self.address = launch.launcher(), family.address
        self.written = recording.written
        self.apart = _pairs(recording, values)
        returned: list[int] = []
        sources = _sources(recording, result, returned)
        # value and distance of each array that is made; what is not returned lies in one piece of memory
        places: dict[int, tuple[int, int]] = {}
        first, scratch = len(values), 0
        self.makers: list[tuple[Callable[..., Any], int]] = []
        for i in returned:
            places[i] = first + len(self.makers), 0
            self.makers.append(family.maker(*recording.made[i - MADE], device, arrays))
        for i, (shape, dtype) in enumerate(recording.made, MADE):
            if i not in places:
                places[i] = first + len(self.makers), scratch
                scratch += -(-math.prod(shape) * SIZES[dtype] // APART) * APART
        if scratch:
            self.makers.append(family.maker((scratch,), "uint8", device, ()))
        if any(recording.spans.get(i, (0, 0))[0] % ALIGNMENT for i in places):
            recording.understood = False
        # arrays of the caller, those that are made, None
        self.result = _numbered(sources, {i: at - first + len(arrays) for i, (at, _) in places.items()})
        self._slots(recording, places, first, len(arrays))

    def _slots(self, recording: Recording, places: dict[int, tuple[int, int]], first: int, narrays: int) -> None:
        """Where the slots of launches come from: values, sums of a value and a number, numbers."""
        self.sums: list[tuple[int, int]] = []
        self.numbers: list[float] = []
        found: list[list[tuple[int, int]]] = []
        used = set()
        for one in recording.launches:
            own = []
            for slot in one.slots:
                if type(slot) is Slot:
                    at, offset = places.get(slot.source, (slot.source, 0))
                    used.add(at)
                    offset += slot.offset
                    if offset and (at, offset) not in self.sums:
                        self.sums.append((at, offset))
                    own.append((1, self.sums.index((at, offset))) if offset else (0, at))
                    continue
                if not isinstance(slot, (int, float)) or _lies_in(slot, recording):
                    recording.understood = False
                own.append((2, len(self.numbers)))
                self.numbers.append(slot)
            found.append(own)
        if recording.launches and not used.issuperset(range(narrays, first)):
            recording.understood = False  # random numbers that are none of the slots
        starts = 0, first + len(self.makers), first + len(self.makers) + len(self.sums)
        self.launches = [
            (one.kernel, *one.where.grid, one.where.block, one.where.shared, _picker([starts[of] + i for of, i in own]))
            for one, own in zip(recording.launches, found)
        ]

    def run(self, arrays: list[Any], values: list[int], stream: int) -> Any:
        """The call with other arrays, or `_MISSED`: nothing has been done then."""
        for pair in self.apart:
            if not _is_apart(values, pair):
                return _MISSED
        found = arrays.copy()
        for make, like in self.makers:
            array = make() if like < 0 else make(arrays[like])
            address = self.address(array)
            if address % ALIGNMENT:
                return _MISSED
            found.append(array)
            values.append(address)
        if self.sums:
            values += [values[at] + offset for at, offset in self.sums]
        values += self.numbers  # type: ignore[arg-type]
        launch, device = self.launch, self.device
        for kernel, grid_x, grid_y, block, shared, pick in self.launches:
            launch(kernel, device, stream, grid_x, grid_y, block, shared, pick(values))
        for i in self.written:
            self.family.written(arrays[i])
        found.append(None)
        return _picked(self.result, found)


def _pairs(recording: Recording, values: Sequence[int]) -> list[Pair]:
    """Arrays of which one is written, at two addresses, with the bytes from there that they have: none in common."""
    around = {i: (low - values[i], high - values[i]) for i, (low, high) in recording.spans.items() if i < MADE}
    found = [
        (i, *around[i], j, *around[j])
        for i in dict.fromkeys(recording.written)
        for j in around
        if values[i] != values[j]
    ]
    if not all(_is_apart(values, pair) for pair in found):
        recording.once = True
    return found


def _is_apart(values: Sequence[int], pair: Pair) -> bool:
    i, low, high, j, below, above = pair
    a, b = values[i], values[j]
    return a + high <= b + below or b + above <= a + low


def _lies_in(slot: float, recording: Recording) -> bool:
    """Whether a number could be an address."""
    return isinstance(slot, int) and any(low <= slot <= high for low, high in recording.spans.values() if low < high)


def _sources(recording: Recording, result: Any, returned: list[int]) -> Any:
    """A result with sources in the place of arrays; those that were made get into `returned`."""
    if type(result) is tuple:
        return tuple([_sources(recording, a, returned) for a in result])
    if result is None:
        return None
    source = recording.source(result)
    if source is None:
        recording.understood = False
    elif source >= MADE and source not in returned:
        returned.append(source)
    return source


def _numbered(sources: Any, places: dict[int, int]) -> Any:
    if type(sources) is tuple:
        return tuple([_numbered(a, places) for a in sources])
    return -1 if sources is None else places.get(sources, sources)


def _picked(result: Any, found: Sequence[Any]) -> Any:
    if type(result) is int:
        return found[result]
    return tuple([found[i] if type(i) is int else _picked(i, found) for i in result])


def _picker(places: list[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: tuple([values[i] for i in places])
