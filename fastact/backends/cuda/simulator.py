"""Kernels without a GPU (``NUMBA_ENABLE_CUDASIM=1``): in Python, on memory of the host.

What `memory` and libdevice are on a GPU is NumPy here. numba-cuda's own simulator has a Python thread for each thread
of a block, and no shuffles: a kernel of 64 rows with two sums each took it 50 s. Here a thread is a generator, which
stops where it waits for others; that takes 1 s. Its arrays, `numba.cuda.to_device` and so on, are numba-cuda's.
"""

from __future__ import annotations

import ctypes
import math
import re
import threading
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastact.backends.cuda.compile import Kernel
from fastact.backends.cuda.dtypes import FLOATS, INTEGERS, SIZES, numpy_dtype
from fastact.backends.cuda.trace import ARITHMETIC, INTEGER
from fastact.runtime import _driver


def copy(to: int, source: int, count: int) -> None:
    """Copy bytes."""
    ctypes.memmove(to, source, count)


class Divergence(RuntimeError):
    """Threads of a warp, or of a block, that wait for each other at different places."""


class _Cuda:
    """What a kernel knows as ``cuda``."""

    def __init__(self) -> None:
        self.threadIdx, self.blockIdx = SimpleNamespace(x=0), SimpleNamespace(x=0, y=0)
        self.blockDim = SimpleNamespace(x=0)
        self.shared, self.const = SimpleNamespace(array=self._array), SimpleNamespace(array_like=lambda array: array)
        self.memory: dict[Any, Any] = {}
        self.dynamic = 0

    @staticmethod
    def selp(c: Any, a: Any, b: Any) -> Any:
        return a if c else b

    def _array(self, length: int, dtype: Any) -> Any:
        # what is asked for with the length 0 is one memory, seen in several dtypes
        key = (length, dtype) if length else 0
        if key not in self.memory:
            # NaN and large numbers: nothing counts on what was there
            self.memory[key] = bytearray(b"\xff" * (length * dtype.itemsize if length else self.dynamic))
        return np.frombuffer(self.memory[key], dtype)


def run(kernel: Kernel, grid: tuple[int, int], block: int, shared: int, slots: tuple[float, ...]) -> None:
    """Run a kernel, one block after another."""
    if block > kernel.block:
        raise ValueError(f"{kernel.name}: {block} threads, and it is compiled for {kernel.block}")
    with _lock, np.errstate(all="ignore"):
        function, cuda, waits = _compiled(kernel)
        args = [np.int64(s) if slot == "q" else np.float64(s) for slot, s in zip(kernel.slots, slots, strict=True)]
        for number in range(grid[0] * grid[1]):
            cuda.blockIdx.x, cuda.blockIdx.y = number % grid[0], number // grid[0]
            cuda.memory, cuda.dynamic, cuda.blockDim.x = {}, shared, block
            if waits:
                _together(cuda, [function(*args) for _ in range(block)])
            else:
                for cuda.threadIdx.x in range(block):
                    function(*args)


def _together(cuda: _Cuda, threads: list[Any]) -> None:
    """Runs the threads of a block from one place where they wait to the next."""
    running: dict[int, Any] = dict(enumerate(threads))
    waiting: dict[int, tuple[Any, int] | None] = {}
    answers: dict[int, Any] = dict.fromkeys(running)
    while running:
        for t, answer in answers.items():
            cuda.threadIdx.x = t
            try:
                waiting[t] = running[t].send(answer)
            except StopIteration:
                del running[t]
                waiting.pop(t, None)
        answers = _shuffled(waiting)
        if not answers:
            if any(waiting.values()) or len(waiting) != len(running):
                raise Divergence("threads of a block wait at different places")
            answers = dict.fromkeys(waiting)
        for t in answers:
            del waiting[t]


def _shuffled(waiting: dict[int, tuple[Any, int] | None]) -> dict[int, Any]:
    """Of warps whose threads all wait for a shuffle, the values that they get."""
    found = {}
    for t, request in waiting.items():
        if request is None:
            continue
        other = waiting.get(t ^ request[1])
        if other is None or other[1] != request[1]:
            raise Divergence(f"thread {t} shuffles with thread {t ^ request[1]}, which does something else")
        found[t] = other[0]
    return found


# one kernel at a time
_lock = threading.RLock()
_WAITS = re.compile(r"(\w+) = cuda\.shfl_xor_sync\(\w+, (\w+), (\d+)\)")


@cache
def _compiled(kernel: Kernel) -> tuple[Callable[..., Any], _Cuda, bool]:
    """The kernel as a function or, if threads wait for each other, a generator."""
    text = _WAITS.sub(r"\1 = yield \2, \3", kernel.text).replace("cuda.syncthreads()", "yield")
    cuda = _Cuda()
    dtypes = SimpleNamespace(**{name: np.dtype(name) for name in ("float32", "float64", "uint16", "uint32")})
    scope: dict[str, Any] = {**_functions(kernel.compute), **kernel.constants, "cuda": cuda, "types": dtypes}
    exec(compile(text, f"<fastact {kernel.name}>", "exec"), scope)
    return scope["kernel"], cuda, "yield" in text


@cache
def _functions(compute: str) -> dict[str, Callable[..., Any]]:
    cast, integer = np.dtype(compute).type, getattr(np, INTEGER[compute])
    arithmetic = {
        "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b,
        "fma": lambda a, b, c: _driver.fma(a, b, c), "sqrt": np.sqrt, "rint": np.rint, "fmax": np.fmax, "fabs": np.fabs,
        "copysign": np.copysign,
        "to_int": lambda x: integer(0 if x != x else max(min(int(x), 2**30), -(2**30))),
        "from_int": cast, "to_bits": lambda x: x.view(integer),
        "from_bits": lambda i: integer(i).view(cast),
    }  # fmt: skip
    library = {of: arithmetic[name] for name, of in ARITHMETIC[compute].items()}
    found: dict[str, Any] = {
        "ld": SimpleNamespace(**library),
        "load_word": lambda address: np.int64(ctypes.c_int64.from_address(int(address)).value),
        "store_word": _store_word,
        "load_byte": lambda address: np.int64(ctypes.c_uint8.from_address(int(address)).value),
        "range": range,
    }
    found |= {name: getattr(np, name) for name in ("int32", "int64", "uint32", "uint64", "float32", "float64")}
    found |= {"load_words": _load_words, "store_words": _store_words, "exp2": np.exp2, "store_bool": _store("bool")}
    found["load_bits"] = lambda address: np.uint32(_at(address, 1, np.dtype(np.uint16))[0])
    found["store_bits"] = _store("uint16")
    for name in FLOATS:
        found[f"unpack_{name}"] = _unpack(name)
        found[f"round_{name}"] = _round(name)
        found[f"load_{name}"], found[f"store_{name}"] = _load(name), _store(name)
        for count in (2, 4, 8):
            found[f"load_{name}_{count}"] = _load_many(name, count)
            found[f"store_{name}_{count}"] = _store_many(name, count)
    found["store_float16_double"] = found["store_float16"]
    for name in INTEGERS:
        found[f"load_{name}"] = _load_integer(name)
    return found


def _at(address: Any, count: int, dtype: np.dtype[Any]) -> Any:
    buffer = (ctypes.c_byte * (count * dtype.itemsize)).from_address(int(address))
    return np.frombuffer(memoryview(buffer), dtype)


def _aligned(address: Any, size: int) -> None:
    if int(address) % size:
        raise ValueError(f"an access to {int(address):#x} is not aligned to {size} bytes")


def _load(name: str) -> Callable[..., Any]:
    memory, compute = numpy_dtype(name), np.dtype(name if name == "float64" else "float32").type

    def load(address: Any) -> Any:
        _aligned(address, memory.itemsize)
        return compute(_at(address, 1, memory)[0])

    return load


def _store(name: str) -> Callable[..., None]:
    memory = numpy_dtype(name)

    def store(address: Any, value: Any) -> None:
        _aligned(address, memory.itemsize)
        _at(address, 1, memory)[0] = value

    return store


def _load_many(name: str, count: int) -> Callable[..., Any]:
    memory, compute = numpy_dtype(name), np.dtype(name if name == "float64" else "float32")

    def load(address: Any) -> Any:
        _aligned(address, min(16, count * memory.itemsize))
        return tuple(_at(address, count, memory).astype(compute))

    return load


def _store_many(name: str, count: int) -> Callable[..., None]:
    memory = numpy_dtype(name)

    def store(address: Any, *values: Any) -> None:
        _aligned(address, min(16, count * memory.itemsize))
        _at(address, count, memory)[:] = values

    return store


def _store_word(address: Any, value: Any) -> None:
    _aligned(address, 8)
    ctypes.c_int64.from_address(int(address)).value = int(value)


def _load_words(address: Any) -> Any:
    _aligned(address, 16)
    return tuple(_at(address, 4, np.dtype(np.uint32)))


def _round(name: str) -> Callable[..., Any]:
    memory, compute = numpy_dtype(name).type, np.dtype(name if name == "float64" else "float32").type
    return lambda value: compute(memory(value))


def _store_words(address: Any, *words: Any) -> None:
    _aligned(address, 16)
    _at(address, 4, np.dtype(np.uint32))[:] = words


def _unpack(name: str) -> Callable[..., Any]:
    memory, compute = numpy_dtype(name), np.dtype(name if name == "float64" else "float32")
    return lambda *words: tuple(np.array(words, np.uint32).view(memory).astype(compute))


def _load_integer(name: str) -> Callable[..., Any]:
    memory = np.dtype(name)
    return lambda address: np.float64(_at(address, 1, memory)[0])


class Arrays:
    """numba-cuda's arrays in the simulator (fastact.backends.cuda.families)."""

    def view(self, array: Any) -> tuple[int, tuple[int, ...], tuple[int, ...], str, int, bool]:
        a = array._ary
        return a.ctypes.data, a.shape, a.strides, a.dtype.name, 0, a.flags.writeable

    def stream(self, device: int) -> int:
        return 0

    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        from numba import cuda

        # what is not written must not look right: NaN, and -1 of integers
        found = np.frombuffer(bytearray(b"\xff" * (math.prod(shape) * SIZES[dtype])), numpy_dtype(dtype)).reshape(shape)
        return cuda.to_device(found)

    def name_of(self, array: Any) -> str:
        return "an array of Numba's simulator"


FAMILY = Arrays()
