"""Kernels in numba-cuda's simulator (``NUMBA_ENABLE_CUDASIM=1``): Python threads, and memory of the host.

What `memory` and libdevice are on a GPU is NumPy here, on addresses of the host.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastact.backends.cuda.compile import Kernel
from fastact.backends.cuda.dtypes import FLOATS, INTEGERS, SIZES
from fastact.backends.cuda.trace import ARITHMETIC, INTEGER
from fastact.runtime import _driver


def enabled() -> bool:
    """Whether the simulator was asked for."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


def run(kernel: Kernel, grid: tuple[int, int], block: int, shared: int, slots: tuple[float, ...]) -> None:
    """Run a kernel, one block after another."""
    typed = (np.int64(v) if slot == "q" else np.float64(v) for v, slot in zip(slots, kernel.slots, strict=True))
    _compiled(kernel)[grid, block, 0, shared](*typed)


# numba-cuda runs one kernel at a time
_lock = threading.Lock()


class _Locked:
    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, configuration: Any) -> Callable[..., None]:
        def launch(*args: Any) -> None:
            with _lock:
                self.kernel[configuration](*args)

        return launch


@cache
def _compiled(kernel: Kernel) -> _Locked:
    from numba import cuda

    scope = {**_functions(kernel.compute), **kernel.constants, "cuda": cuda, "quiet": _quiet}
    # in each thread: NumPy's warnings are switched off by thread
    text = f"{kernel.text}\n\ndef quietly(*args):\n    with quiet():\n        kernel(*args)\n"
    exec(compile(text, f"<fastact {kernel.name}>", "exec"), scope)
    return _Locked(cuda.jit(scope["quietly"]))


def _quiet() -> Any:
    return np.errstate(all="ignore")


def _bits_of(x: Any, integer: Any) -> Any:
    return x.view(integer)


@cache
def _functions(compute: str) -> dict[str, Callable[..., Any]]:
    cast, integer = np.dtype(compute).type, getattr(np, INTEGER[compute])
    arithmetic = {
        "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b,
        "fma": lambda a, b, c: _driver.fma(a, b, c), "sqrt": np.sqrt, "rint": np.rint, "fabs": np.fabs,
        "copysign": np.copysign,
        "to_int": lambda x: integer(0 if x != x else max(min(int(x), 2**30), -(2**30))),
        "from_int": cast, "to_bits": lambda x: _bits_of(x, integer),
        "from_bits": lambda i: integer(i).view(cast),
    }  # fmt: skip
    library = {of: arithmetic[name] for name, of in ARITHMETIC[compute].items()}
    found: dict[str, Any] = {
        "ld": SimpleNamespace(**library),
        "load_word": lambda address: np.int64(ctypes.c_int64.from_address(int(address)).value),
        "load_byte": lambda address: np.int64(ctypes.c_uint8.from_address(int(address)).value),
        "range": range,
    }
    found |= {name: getattr(np, name) for name in ("int32", "int64", "uint32", "uint64", "float32", "float64")}
    for name in FLOATS:
        found[f"load_{name}"], found[f"store_{name}"] = _load(name), _store(name)
        for count in (2, 4, 8):
            found[f"load_{name}_{count}"] = _load_many(name, count)
            found[f"store_{name}_{count}"] = _store_many(name, count)
    found["store_float16_double"] = found["store_float16"]
    for name in INTEGERS:
        found[f"load_{name}"] = _load_integer(name)
    return found


def _memory(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def _at(address: Any, count: int, dtype: np.dtype[Any]) -> Any:
    buffer = (ctypes.c_byte * (count * dtype.itemsize)).from_address(int(address))
    return np.frombuffer(buffer, dtype)


def _aligned(address: Any, size: int) -> None:
    if int(address) % size:
        raise ValueError(f"an access to {int(address):#x} is not aligned to {size} bytes")


def _load(name: str) -> Callable[..., Any]:
    memory, compute = _memory(name), np.dtype(name if name == "float64" else "float32").type

    def load(address: Any) -> Any:
        _aligned(address, memory.itemsize)
        return compute(_at(address, 1, memory)[0])

    return load


def _store(name: str) -> Callable[..., None]:
    memory = _memory(name)

    def store(address: Any, value: Any) -> None:
        _aligned(address, memory.itemsize)
        _at(address, 1, memory)[0] = value

    return store


def _load_many(name: str, count: int) -> Callable[..., Any]:
    memory, compute = _memory(name), np.dtype(name if name == "float64" else "float32")

    def load(address: Any) -> Any:
        _aligned(address, min(16, count * memory.itemsize))
        return tuple(_at(address, count, memory).astype(compute))

    return load


def _store_many(name: str, count: int) -> Callable[..., None]:
    memory = _memory(name)

    def store(address: Any, *values: Any) -> None:
        _aligned(address, min(16, count * memory.itemsize))
        _at(address, count, memory)[:] = values

    return store


def _load_integer(name: str) -> Callable[..., Any]:
    memory = np.dtype(name)
    return lambda address: np.float64(_at(address, 1, memory)[0])


class Arrays:
    """numba-cuda's arrays in the simulator (fastact.backends.cuda.families)."""

    name = "numba"

    def on_device(self, array: Any) -> bool:
        return True

    def view(self, array: Any) -> tuple[int, tuple[int, ...], tuple[int, ...], str, int, bool]:
        a = array._ary
        return a.ctypes.data, a.shape, a.strides, a.dtype.name, 0, a.flags.writeable

    def stream(self, device: int) -> int:
        return 0

    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        from numba import cuda

        # what is not written must not look right: NaN, and -1 of integers
        found = np.frombuffer(bytearray(b"\xff" * (math.prod(shape) * SIZES[dtype])), _memory(dtype)).reshape(shape)
        return cuda.to_device(found)

    def name_of(self, array: Any) -> str:
        return "an array of Numba's simulator"


FAMILY = Arrays()
