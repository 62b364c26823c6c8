"""Kernels compiled by Numba for the very CPU they run on.

Importing this package imports neither Numba nor llvmlite; a kernel found on disk needs llvmlite only.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastact.table import Op


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


def _named(op: Op, kind: str, dtype: str) -> tuple[str, str]:
    from fastact.bind import source_hash

    return f"{op.name}_{kind}_{dtype}", source_hash(dtype)


def _named_row(name: str, dtype: str) -> tuple[str, str]:
    from fastact.row_bind import row_source_hash

    return f"rows_{name}_{dtype}", row_source_hash(dtype)


def kernel(op: Op, kind: str, dtype: str) -> int:
    """The address of a kernel (docs/design.md, 'Kernel ABI'), compiled now unless it is on disk."""
    from fastact.backends.numba_cpu import cache

    def compile_ir() -> str:
        from fastact.backends.numba_cpu import kernels

        return kernels.compile_kernel(op, kind, dtype)

    return cache.load(*_named(op, kind, dtype), compile_ir)


def row_kernel(name: str, dtype: str) -> int:
    """The address of a row kernel (docs/design.md, 'Row kernels') for float32 or float64, likewise."""
    from fastact.backends.numba_cpu import cache

    def compile_ir() -> str:
        from fastact.backends.numba_cpu import rows

        return rows.compile_kernel(name, dtype)

    return cache.load(*_named_row(name, dtype), compile_ir)


def ready(op: Op, kind: str, dtype: str) -> bool:
    """Whether a kernel is on disk."""
    from fastact.backends.numba_cpu import cache

    return cache.ready(*_named(op, kind, dtype))


def row_ready(name: str, dtype: str) -> bool:
    """Whether a row kernel is on disk."""
    from fastact.backends.numba_cpu import cache

    return cache.ready(*_named_row(name, dtype))
