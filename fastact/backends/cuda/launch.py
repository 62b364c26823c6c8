"""From a kernel to its launch: on a device from a cubin, which the disk has from the second process on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from fastact.backends.cuda import simulator
from fastact.backends.cuda.compile import Kernel


class Launch(NamedTuple):
    """Where and on how much a kernel runs."""

    device: int
    stream: int
    grid: tuple[int, int]
    block: int
    shared: int = 0


_lock = threading.RLock()
_made: dict[Any, Kernel] = {}


def made(key: Any, make: Callable[[], Kernel]) -> Kernel:
    """The text of a kernel, written once."""
    found = _made.get(key)
    if found is None:
        with _lock:
            found = _made.setdefault(key, make())
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
    if simulator.enabled():
        simulator.run(made(key, make), where.grid, where.block, where.shared, slots)
        return
    from fastact.backends.cuda import _launch, cache

    handle = cache.handle(key, make, where.device, where.shared)
    _launch.launch(handle, where.device, where.stream, *where.grid, where.block, where.shared, slots)
