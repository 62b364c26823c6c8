"""Kernels compiled by Numba for the very CPU they run on.

Importing this package imports neither Numba nor llvmlite; a kernel found on disk needs llvmlite only.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from fastact.backends import COMPILES, READY, State

if TYPE_CHECKING:
    from llvmlite.binding import ModuleRef

    from fastact.spec.kernel import KernelSpec


def available() -> str | None:
    """None, or why Numba kernels cannot be had here."""
    if find_spec("numba") is None:
        return "numba is not installed (pip install numba)"
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "NUMBA_DISABLE_JIT is set"
    return None


def isa() -> str:
    """The instruction set that kernels are compiled for."""
    from fastact.backends.numba_cpu import cache, emit

    return emit.Target.of(cache.host()[1]).isa


def state(spec: KernelSpec) -> State:
    """Whether a kernel is on disk or loaded, else that it can be compiled."""
    from fastact.backends import folder

    loaded = sys.modules.get(f"{__name__}.cache")
    if loaded is None and not folder.has_any(spec.symbol):
        return COMPILES  # found out without llvmlite, whose import takes 20 ms
    from fastact.backends.numba_cpu import cache

    return READY if cache.ready(spec) else COMPILES


def kernel(spec: KernelSpec) -> int:
    """The address of a kernel (fastact/spec/call.py), compiled now unless it is on disk."""
    from fastact.backends.numba_cpu import cache

    return cache.load(spec, _compiled)


def _compiled(spec: KernelSpec) -> ModuleRef:
    from fastact.backends.numba_cpu import kernels, rows

    return (kernels if spec.loop == "map" else rows).compile_kernel(spec)
