"""From a kernel to its launch: on a device from a cubin, which the disk has from the second process on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from fastact.backends.cuda import simulated, simulator
from fastact.backends.cuda.array import DeviceArray
from fastact.backends.cuda.compile import Kernel
from fastact.backends.cuda.dtypes import numpy_dtype
from fastact.backends.cuda.recording import Launched, Recording, current


class Launch(NamedTuple):
    """Where and on how much a kernel runs."""

    device: int
    stream: int
    grid: tuple[int, int]
    block: int
    shared: int = 0


class Planned(NamedTuple):
    """A launch that was not made."""

    key: Any
    kernel: Kernel
    where: Launch


_log: ContextVar[list[Planned] | None] = ContextVar("log", default=None)


@contextmanager
def planned() -> Iterator[list[Planned]]:
    """Collects the launches of calls in this context instead of making them: nothing is computed or written."""
    log: list[Planned] = []
    token, other = _log.set(log), current.set(Recording())
    try:
        yield log
    finally:
        _log.reset(token)
        current.reset(other)


def planning() -> bool:
    """Whether launches are collected: what they would leave in memory must not be counted on."""
    return _log.get() is not None


_lock = threading.RLock()
_made: dict[Any, Kernel] = {}


def made(key: Any, make: Callable[[], Kernel]) -> Kernel:
    """The text of a kernel, written once."""
    found = _made.get(key)
    if found is None:
        with _lock:
            found = _made.get(key)
            if found is None:
                found = _made[key] = make()
    return found


def run(key: Any, make: Callable[[], Kernel], where: Launch, slots: tuple[float, ...]) -> None:
    """Launch a kernel.

    Parameters
    ----------
    key : hashable
        Of the kernel: equal keys are one kernel.
    make : callable
        Writes its text, where it is in no cache.
    where : Launch
    slots : tuple of int and float
        Its arguments.
    """
    log = _log.get()
    if log is not None:
        log.append(Planned(key, made(key, make), where))
        return
    kernel: Any
    if simulated():
        kernel = made(key, make)
    else:
        from fastact.backends.cuda import cache

        kernel = cache.handle(key, make, where.device, where.shared)
    launcher()(kernel, where.device, where.stream, *where.grid, where.block, where.shared, slots)
    recording = current.get()
    if recording is not None:
        recording.launches.append(Launched(kernel, where, slots))


def launcher() -> Callable[..., None]:
    """What launches a `Launched.kernel`: on a device and a stream, over a grid, with slots (`_launch.launch`)."""
    if simulated():
        return _simulate
    from fastact.backends.cuda import _launch

    return _launch.launch


def _simulate(
    kernel: Kernel, device: int, stream: int, grid_x: int, grid_y: int, block: int, shared: int,
    slots: tuple[float, ...],
) -> None:  # fmt: skip
    simulator.run(kernel, (grid_x, grid_y), block, shared, slots)


# of a block of an H100, which the simulator stands for
SHARED_OF_H100 = 227 * 1024


def shared_bytes(device: int) -> int:
    """The most shared memory that a block can have."""
    if simulated():
        return SHARED_OF_H100
    from fastact.backends.cuda import _launch

    return _launch.device(device).shared_bytes


def capturing(device: int, stream: int) -> bool:
    """Whether work on a stream is not done now: it goes into a CUDA graph, or is planned only."""
    if planning():
        return True
    if simulated():
        return False
    from fastact.backends.cuda import _launch

    return bool(_launch.capturing(device, stream))


def to_host(array: DeviceArray, stream: int) -> Any:
    """The elements of a contiguous array as an array of NumPy; the stream has done its work then."""
    found = np.empty(array.shape, numpy_dtype(array.dtype))
    if simulated():
        simulator.copy(found.ctypes.data, array.address, found.nbytes)
        return found
    from fastact.backends.cuda import _launch

    _launch.to_host(array.address, found.reshape(-1).view(np.uint8), stream, array.device)
    return found


def to_device(source: Any, array: DeviceArray, stream: int) -> None:
    """Copy an array of NumPy to a contiguous array of its shape and dtype; the stream has done its work then."""
    source = np.ascontiguousarray(source, numpy_dtype(array.dtype))
    if simulated():
        simulator.copy(array.address, source.ctypes.data, source.nbytes)
        return
    from fastact.backends.cuda import _launch

    _launch.to_device(array.address, source.reshape(-1).view(np.uint8), stream, array.device)


def memory(shape: tuple[int, ...], dtype: str, device: int, stream: int) -> DeviceArray:
    """A new array on a device, given back in the order of the stream."""
    recording = current.get()
    if recording is not None:
        recording.once = True  # it may outlive the call, and is there in the next one
    if simulated():
        array = simulator.FAMILY.empty(shape, dtype, device)
        return DeviceArray(*simulator.FAMILY.view(array)[:4], device, array)
    from fastact.backends.cuda import _launch

    own = _launch.DeviceMemory(shape, dtype, device, stream)
    return DeviceArray(own.address, shape, None, dtype, device, own)
