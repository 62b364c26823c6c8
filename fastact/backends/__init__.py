"""Backends: where kernels come from.

A backend is a folder with four functions; importing it loads nothing heavy. `ORDER` is the order of preference.

- ``available() -> str | None``: None, or why it cannot be used here.
- ``isa() -> str``: the instruction set of its kernels.
- ``state(spec) -> State``: whether a kernel is ready, can be compiled, or is absent and why.
- ``kernel(spec)``: the address of a kernel (fastact/spec/call.py) or, for the reference, a callable over arrays.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import NamedTuple


class State(NamedTuple):
    """What a backend has of a kernel: `READY`, `COMPILES`, or neither and the reason why not."""

    ready: bool
    compiles: bool = False
    why_not: str = ""


READY, COMPILES = State(True), State(False, True)


def absent(why: str) -> State:
    """The state of a kernel that a backend has not and cannot make."""
    return State(False, False, why)


# with fastact itself and not in the first call of a kernel, of which they would be a third
from fastact.backends import cython_aot, numba_cpu  # noqa: E402, F401

MODULES = {
    "numba": "fastact.backends.numba_cpu",
    "cython": "fastact.backends.cython_aot",
    "reference": "fastact.backends.reference",
}
ORDER = tuple(MODULES)
# those that are asked for by name, and never the first one available: where the data lies decides on a GPU
MODULES["cuda"] = "fastact.backends.cuda"


def get(name: str) -> ModuleType:
    """The backend module `name`."""
    return import_module(MODULES[name])
