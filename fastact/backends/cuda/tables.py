"""Results of functions of one 16-bit input, of which there are 65,536: computed once for each device and parameters."""

from __future__ import annotations

import struct
import threading

from fastact.backends.cuda import elementwise, launch, simulated
from fastact.backends.cuda.array import DeviceArray
from fastact.backends.cuda.launch import Launch
from fastact.spec.kernel import KernelSpec

COUNT = 65536
_lock = threading.Lock()


class Table:
    """The results of a function, in the order of the bits of its input."""

    def __init__(self, spec: KernelSpec, params: tuple[float, ...], device: int, stream: int) -> None:
        self.results = launch.memory((COUNT,), spec.dtype, device, stream)
        inputs = launch.memory((COUNT,), spec.dtype, device, stream)
        launch.run(("patterns",), elementwise.patterns, Launch(device, stream, (COUNT // 256, 1), 256),
                   (inputs.address,))  # fmt: skip
        per = elementwise.BLOCK * elementwise.per_thread(spec.dtype)
        slots = inputs.address, self.results.address, COUNT, *params
        where = Launch(device, stream, (COUNT // per, 1), elementwise.BLOCK)
        launch.run((spec, "vector"), lambda: elementwise.vector(spec), where, slots)
        self._made_on = stream
        self._known = {stream}

    def wait(self, device: int, stream: int) -> None:
        """Let a stream wait until it is made."""
        if stream not in self._known:
            from fastact.backends.cuda import _launch

            _launch.wait_for(device, stream, self._made_on)
            self._known.add(stream)


_tables: dict[tuple[KernelSpec, bytes, int], Table] = {}


def can_make(device: int, stream: int) -> bool:
    """Whether a table fits, and can be made now: while a stream is captured, memory is not to be had."""
    fits = launch.shared_bytes(device) >= elementwise.TABLE_BYTES
    return fits and (launch.planning() or not launch.capturing(device, stream))


def run(spec: KernelSpec, params: tuple[float, ...], x: DeviceArray, y: DeviceArray, stream: int) -> None:
    """Look up the results of contiguous elements."""
    # by their bits: -0 and NaN have tables of their own
    key = spec, struct.pack(f"{len(params)}d", *params), x.device
    with _lock:
        table = _tables.get(key)
        if table is None and not launch.planning():
            table = _tables[key] = Table(spec, params, x.device, stream)
        if table is not None:
            table.wait(x.device, stream)
    blocks = multiprocessors(x.device)
    where = Launch(x.device, stream, (blocks, 1), elementwise.TABLE_BLOCK, elementwise.TABLE_BYTES)
    slots = x.address, table.results.address if table is not None else 0, y.address, x.size, blocks
    launch.run(("table",), elementwise.table, where, slots)


def multiprocessors(device: int) -> int:
    """How many blocks run at once that fill a multiprocessor each."""
    if simulated():
        return 2
    from fastact.backends.cuda import _launch

    return _launch.device(device).multiprocessors
