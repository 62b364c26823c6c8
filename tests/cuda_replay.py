"""Calls with arrays of the simulator that are repeated from their recordings (fastact/api/replay.py)."""

from __future__ import annotations

import atexit
import ctypes
import os

import numpy as np

from fastact.api import replay

# as it is, whatever tests put in its place
_recorded = replay._recorded
# what became of calls: repeated, not understood, missed
counts = {"repeated": 0, "refused": 0, "missed": 0}
if os.environ.get("FASTACT_TEST_REPLAY"):
    atexit.register(lambda: open(f"/tmp/hw/counts-{os.getpid()}", "w").write(repr(counts)))


def bits(a):
    return np.ascontiguousarray(a).reshape(-1).view(np.uint8)


def memory(a):
    """All bytes from the first to the last of an array of the simulator."""
    low, high = np.lib.array_utils.byte_bounds(a._ary)
    return np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low))


def flat(result):
    for a in result if isinstance(result, tuple) else (result,):
        if isinstance(a, tuple):
            yield from flat(a)
        elif a is not None:
            yield a


def repeated(key, family, device, arrays, values, call):
    """A call that is recorded, undone and repeated: results and arrays that are written must have the same bits."""
    numbers = values[:]
    before = [memory(a).copy() for a in arrays]
    plans = []
    keep = replay._keep
    replay._keep = lambda _, plan: plans.append(plan)
    try:
        result = _recorded(key, family, device, arrays, values, call)
    finally:
        replay._keep = keep
    (plan,) = plans
    if plan is None:
        counts["refused"] += 1
        open("/tmp/hw/refused", "a").write(f"{os.environ.get('PYTEST_CURRENT_TEST')} {key[1:2]}\n")
        return result
    wanted = [bits(a._ary).copy() for a in flat(result)]
    after = [memory(a).copy() for a in arrays]
    for a, old in zip(arrays, before):
        memory(a)[:] = old
    again = plan.run(arrays, numbers, family.stream(device))
    if again is replay._MISSED:
        counts["missed"] += 1
        for a, new in zip(arrays, after):
            memory(a)[:] = new
        return result
    counts["repeated"] += 1
    assert shape_of(again, arrays) == shape_of(result, arrays)
    for a, want in zip(flat(again), wanted):
        assert np.array_equal(bits(a._ary), want)
    for a, want in zip(arrays, after):
        assert np.array_equal(memory(a), want)
    return again


def shape_of(result, arrays):
    """What a result is made of: which of the arrays, or of what type and shape."""
    if isinstance(result, tuple):
        return tuple(shape_of(a, arrays) for a in result)
    if result is None:
        return None
    place = next((i for i, a in enumerate(arrays) if a is result), -1)
    return place, type(result), result.shape, result.dtype, result.strides
