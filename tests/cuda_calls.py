"""Calls on arrays of the simulator of kernels (fastact/backends/cuda/simulator.py), against those on the host.

In a process that imports this, ``numba.cuda`` is numba-cuda's simulator.
"""

from __future__ import annotations

import ctypes
import os

import numpy as np
import pytest

_before = os.environ.get("NUMBA_ENABLE_CUDASIM")
os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
try:
    cuda = pytest.importorskip("numba.cuda", reason="numba-cuda is not installed", exc_type=ImportError)
finally:
    if _before is None:
        del os.environ["NUMBA_ENABLE_CUDASIM"]
    else:
        os.environ["NUMBA_ENABLE_CUDASIM"] = _before

import cases  # noqa: E402
from cuda_memory import filed  # noqa: E402
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray  # noqa: E402

GUARD = 64


@pytest.fixture(autouse=True)
def simulated(monkeypatch):
    """Kernels run in the simulator, and have a file for a real device."""
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    filed(monkeypatch)


class Guarded:
    """Poisoned memory for an array of a shape, between guards; `offset` elements past a multiple of 64 bytes."""

    def __init__(self, shape, dtype, offset=0):
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        self.raw = np.full(size + 3 * GUARD + offset * dtype.itemsize, 0xA5, np.uint8)
        self.start = GUARD - self.raw.ctypes.data % GUARD + offset * dtype.itemsize
        self.start += GUARD if self.start < GUARD else 0
        self.stop = self.start + size
        self.raw[self.start : self.stop] = 0xFF  # NaN
        self.array = self.raw[self.start : self.stop].view(dtype).reshape(shape)

    @property
    def whole(self):
        """Whether nobody wrote beside it."""
        return bool((self.raw[: self.start] == 0xA5).all() and (self.raw[self.stop :] == 0xA5).all())


def placed(array, offset=0):
    """A copy of an array `offset` elements past a multiple of 64 bytes."""
    found = Guarded(array.shape, array.dtype, offset).array
    found[...] = array
    return found


def twin(a):
    """A copy of an array in memory of its own, with the same strides and as far past a multiple of 64 bytes."""
    low, high = np.lib.array_utils.byte_bounds(a)
    raw = np.zeros(high - low + 128, np.uint8)
    start = (low - raw.ctypes.data) % 64
    raw[start : start + high - low] = np.frombuffer((ctypes.c_byte * (high - low)).from_address(low), np.uint8)
    return np.ndarray(a.shape, a.dtype, raw, start + a.ctypes.data - low, a.strides)


def on_device(a):
    """Arrays of the host as arrays of a device, with their strides and alignment."""
    if isinstance(a, tuple):
        return tuple(map(on_device, a))
    return FakeCUDAArray(twin(a)) if isinstance(a, np.ndarray) else a


def host(a):
    """What lies on the device."""
    if isinstance(a, tuple):
        return tuple(map(host, a))
    return a.copy_to_host() if hasattr(a, "copy_to_host") else a


def assert_same(got, want):
    """Results on the device have the bits of those on the host."""
    cases.assert_same(host(got), want)


def check(function, *arrays, **keywords):
    """Call a function with arrays on the host and on the device; results must have the same bits."""
    want = function(*arrays, **keywords)
    got = function(*map(on_device, arrays), **{k: on_device(v) for k, v in keywords.items()})
    assert_same(got, want)
    return want


def error_of(function, *arrays, **keywords):
    """The type and the words of the error that a call ends with."""
    try:
        function(*arrays, **keywords)
    except Exception as e:
        return type(e), str(e)
    raise AssertionError("no error")
