"""Kernels compiled by Numba for the very CPU they run on.

Importing this package imports neither Numba nor llvmlite; a kernel found on disk needs llvmlite only.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastact.spec.table import Op


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

    _, features = cache.host()
    return emit.Target(frozenset(f[1:] for f in features.split(",") if f.startswith("+"))).isa


def _name(op: Op, kind: str, dtype: str) -> str:
    return f"{op.name}_{kind}_{dtype}"


def _row_name(name: str, dtype: str) -> str:
    return f"rows_{name}_{dtype}"


def kernel(op: Op, kind: str, dtype: str) -> int:
    """The address of a kernel (docs/design.md, 'Kernel ABI'), compiled now unless it is on disk."""
    from fastact.backends.numba_cpu import cache
    from fastact.maths.grammar import source_hash

    def compile_ir() -> str:
        from fastact.backends.numba_cpu import kernels

        return kernels.compile_kernel(op, kind, dtype)

    return cache.load(_name(op, kind, dtype), source_hash(dtype), compile_ir)


def row_kernel(name: str, dtype: str) -> int:
    """The address of a row kernel (docs/design.md, 'Row kernels') for float32 or float64, likewise."""
    from fastact.backends.numba_cpu import cache
    from fastact.spec.rows import row_source_hash

    def compile_ir() -> str:
        from fastact.backends.numba_cpu import rows

        return rows.compile_kernel(name, dtype)

    return cache.load(_row_name(name, dtype), row_source_hash(dtype), compile_ir)


def ready(op: Op, kind: str, dtype: str) -> bool:
    """Whether a kernel is on disk or loaded."""
    if not _may_be_ready(_name(op, kind, dtype)):
        return False
    from fastact.backends.numba_cpu import cache
    from fastact.maths.grammar import source_hash

    return cache.ready(_name(op, kind, dtype), source_hash(dtype))


def row_ready(name: str, dtype: str) -> bool:
    """Whether a row kernel is on disk or loaded."""
    if not _may_be_ready(_row_name(name, dtype)):
        return False
    from fastact.backends.numba_cpu import cache
    from fastact.spec.rows import row_source_hash

    return cache.ready(_row_name(name, dtype), row_source_hash(dtype))


def _may_be_ready(name: str) -> bool:
    """False where a kernel is neither on disk nor loaded; found out without importing llvmlite (20 ms)."""
    from fastact.backends.numba_cpu import folder

    return f"{__name__}.cache" in sys.modules or folder.has_any(name)
