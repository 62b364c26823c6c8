"""Calls with arrays of the simulator that are repeated from their recordings (fastact/api/replay.py)."""

from __future__ import annotations

import ctypes

import numpy as np

from fastact.api import replay

_recorded = replay._recorded
# whether each call could be repeated, with the function
calls: list[tuple[bool, object]] = []


def memory(a):
    """All bytes from the first to the last of an array of the simulator."""
    low, high = np.lib.array_utils.byte_bounds(a._ary)
    return np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low))


def moved(arrays):
    """Copies in other memory, as far past a multiple of 64 bytes; what has memory in common has it there."""
    bounds = [np.lib.array_utils.byte_bounds(a._ary) for a in arrays]
    blocks: list[list[int]] = []
    for low, high in sorted(bounds):
        if blocks and low < blocks[-1][1]:
            blocks[-1][1] = max(high, blocks[-1][1])
        else:
            blocks.append([low, high])
    places = []
    for low, high in blocks:
        raw = np.zeros(high - low + 128, np.uint8)
        start = (low - raw.ctypes.data) % 64
        raw[start : start + high - low] = np.frombuffer((ctypes.c_byte * (high - low)).from_address(low), np.uint8)
        places.append((low, high, raw, start - low))
    found = []
    for i, (a, (low, high)) in enumerate(zip(arrays, bounds)):
        same = next(j for j, b in enumerate(arrays) if b is a)
        if same < i:
            found.append(found[same])
            continue
        raw, shift = next((raw, shift) for begin, end, raw, shift in places if begin <= low and high <= end)
        view = np.ndarray(a.shape, a.dtype, raw, a._ary.ctypes.data + shift, a.strides)
        view.flags.writeable = a._ary.flags.writeable
        found.append(type(a)(view))
    return found


def flat(result):
    """The parts of a result: arrays, or None."""
    if isinstance(result, tuple):
        return [a for part in result for a in flat(part)]
    return [result]


def watched():
    """A `Plan.run` that notes whether each call that has a plan could be repeated, and the list of that."""
    found, run = [], replay.Plan.run

    def counted(self, *args):
        result = run(self, *args)
        found.append(result is not replay._MISSED)
        return result

    return counted, found


def built(result, arrays):
    """What a result is made of: which of the arrays, or of what type, shape and strides."""
    if isinstance(result, tuple):
        return tuple(built(a, arrays) for a in result)
    if result is None:
        return None
    place = next((i for i, a in enumerate(arrays) if a is result), -1)
    return place, type(result), result.shape, result.dtype, result.strides


def repeated(key, family, device, arrays, values, call):
    """A call that is recorded, and repeated in copies of its arrays: the bits must be the same."""
    copies = moved(arrays)
    kept = []
    keep = replay._keep
    replay._keep = lambda key, plan: kept.append(plan)
    try:
        result = _recorded(key, family, device, arrays, values, call)
    finally:
        replay._keep = keep
    plan = kept[0] if kept else None
    calls.append((plan is not None, key[1]))
    if plan is None:
        return result
    numbers = [*(family.address(a) for a in copies), *values[len(arrays) :]]
    again = plan.run(copies, numbers, family.stream(device))
    assert again is not replay._MISSED
    assert built(again, copies) == built(result, arrays)
    for one, other in [*zip(flat(again), flat(result)), *zip(copies, arrays)]:
        assert other is None or np.array_equal(memory(one), memory(other))
    return result
