"""Backends: where kernels come from.

A backend is a module with ``available() -> str | None`` (None, or the reason why not), ``isa() -> str`` and
``kernel(op, kind, dtype)``, which returns the address of a kernel (docs/design.md, 'Kernel ABI') or, for the
reference, a callable over arrays. Importing one loads nothing heavy; `ORDER` is the order of preference.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

# with fastact itself and not in the first call of a kernel, of which they would be a third
from fastact.backends import cython_aot, numba_cpu  # noqa: F401

MODULES = {
    "numba": "fastact.backends.numba_cpu",
    "cython": "fastact.backends.cython_aot",
    "reference": "fastact.backends.reference",
}
ORDER = tuple(MODULES)


def get(name: str) -> ModuleType:
    """The backend module `name`."""
    return import_module(MODULES[name])
