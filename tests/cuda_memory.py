"""Calls with arrays on a GPU, by default that of the simulator (fastact/backends/cuda/simulator.py).

In a process of tests numba.cuda is the simulator's: numba-cuda decides that when it is imported. With
FASTACT_TEST_GPU=1 it is the machine's GPU instead, and the same tests run there.
"""

from __future__ import annotations

import importlib.util
import math
import os

import numpy as np
import pytest
from ulp import BFLOAT16

ON_GPU = os.environ.get("FASTACT_TEST_GPU", "0") not in ("", "0")
SWITCH = "NUMBA_ENABLE_CUDASIM"


def _cuda():
    if importlib.util.find_spec("numba_cuda") is None:
        return None
    if ON_GPU:
        from numba import cuda

        return cuda
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "1"
    try:
        from numba import cuda

        cuda.to_device(np.zeros(1))
        return cuda
    finally:
        # processes that other tests start are to have the real one
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before


cuda = _cuda()
needs_cuda = pytest.mark.skipif(cuda is None, reason="numba-cuda is not installed")


@pytest.fixture(autouse=True)
def simulator(monkeypatch):
    """Kernels run in the simulator, and have a file for a real device. Test files import this fixture."""
    if not ON_GPU:
        monkeypatch.setenv(SWITCH, "1")
        filed(monkeypatch)


def filed(monkeypatch):
    """Every kernel that is made must have a place on disk, which the simulator does not ask for.

    And no call is repeated from an earlier one (fastact/api/replay.py): tests set what decides the form of a kernel.
    With FASTACT_TEST_REPLAY=1 each is repeated at once, and must give the same.
    """
    from fastact.api import replay
    from fastact.backends.cuda import cache, launch

    monkeypatch.setattr(replay, "MOST", 0)
    if os.environ.get("FASTACT_TEST_REPLAY", "0") not in ("", "0"):
        import cuda_replay

        monkeypatch.setattr(replay, "_recorded", cuda_replay.repeated)

    made = launch.made

    def asked(key, make):
        cache.entry(key, (9, 0))
        return made(key, make)

    monkeypatch.setattr(launch, "made", asked)


class Guarded:
    """Memory on the device with bytes before and after it, which stay as they are.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype
    offset : int
        Bytes from an address aligned to 256.
    strides : tuple of int, optional
    """

    # NaN in every dtype, and what no result is
    FILL = 0xFF
    MARGIN = 256

    def __init__(self, shape, dtype, offset=0, strides=None):
        dtype = np.dtype(dtype)
        if strides is None:
            strides = tuple(np.empty(shape, np.uint8).strides[i] * dtype.itemsize for i in range(len(shape)))
        steps = [(n - 1) * s for n, s in zip(shape, strides)] if math.prod(shape) else [0]
        low, high = sum(min(s, 0) for s in steps), sum(max(s, 0) for s in steps)
        start = self.MARGIN + offset - low
        raw = np.full(start + high + dtype.itemsize + 2 * self.MARGIN, self.FILL, np.uint8)
        self._skip = 0
        if not ON_GPU:
            self._skip = -raw.ctypes.data % 256
            self._raw = raw[self._skip :]
        else:
            self._raw = cuda.to_device(raw)
        self._at, self._shape, self._strides, self._dtype = start, shape, strides, dtype
        self.array = self._view()

    def _view(self):
        if not ON_GPU:
            from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

            return FakeCUDAArray(self._seen(self._raw))
        if self._dtype == BFLOAT16:
            pytest.skip("numba-cuda has no arrays of bfloat16")
        from numba.cuda.cudadrv.devicearray import DeviceNDArray

        pointer = self._raw.gpu_data.view(self._at)
        return DeviceNDArray(self._shape, self._strides, self._dtype, gpu_data=pointer)

    def _seen(self, raw):
        return np.ndarray(self._shape, self._dtype, raw, self._at, self._strides)

    def _bytes(self):
        return self._raw if not ON_GPU else self._raw.copy_to_host()

    def fill(self, values):
        """Writes elements."""
        raw = self._bytes()
        self._seen(raw)[...] = values
        if ON_GPU:
            self._raw.copy_to_device(raw)
        return self

    @property
    def values(self):
        """The elements, on the host."""
        return self._seen(self._bytes()).copy()

    def check(self):
        """That no byte beside the elements was written."""
        raw = self._bytes().copy()
        self._seen(raw.view())[...] = np.full(1, self.FILL, np.uint8).repeat(self._dtype.itemsize).view(self._dtype)[0]
        wrong = np.flatnonzero(raw != self.FILL)
        assert not wrong.size, f"byte {wrong[0] - self._at} of an array of {self._shape} {self._dtype} was written"


def device(x, offset=None):
    """A copy of an array on the device, of the same shape and strides, `offset` bytes after a border of 256."""
    x = np.asarray(x)
    offset = x.ctypes.data % 16 if offset is None and x.size else offset or 0
    if x.flags.c_contiguous and not offset and not ON_GPU:
        return cuda.to_device(x)
    return Guarded(x.shape, x.dtype, offset, x.strides).fill(x).array


def host(d):
    """An array of the device on the host; of a tuple all of them."""
    if isinstance(d, tuple):
        return tuple(host(a) for a in d)
    if hasattr(d, "gpu_data") and any(s < 0 for s in d.strides):
        # numba-cuda copies none backwards: from its lowest address on, then turned round
        from numba.cuda.cudadrv.devicearray import DeviceNDArray

        back = [s < 0 for s in d.strides]
        low = sum((n - 1) * s for n, s, turned in zip(d.shape, d.strides, back) if turned)
        memory = d.gpu_data.view(low) if d.size else d.gpu_data
        d = DeviceNDArray(d.shape, tuple(map(abs, d.strides)), d.dtype, gpu_data=memory)
        return d.copy_to_host()[tuple(slice(None, None, -1 if turned else 1) for turned in back)]
    return np.asarray(d.copy_to_host()) if hasattr(d, "copy_to_host") else d


def outcome(function):
    """What a call gives, or its exception's type and message."""
    try:
        return host(function())
    except Exception as error:
        return type(error).__name__, str(error)


def on_device(keywords):
    """Keywords with arrays on the device."""
    return {k: device(v) if isinstance(v, np.ndarray) and v.ndim else v for k, v in keywords.items()}
