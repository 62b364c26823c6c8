"""Kernels compiled ahead of time, one module per ISA level: for where Numba is missing or must not compile.

The level is chosen once, by NumPy's detection of CPU features; ``FASTACT_AOT_LEVEL`` (``x86-64-v2``, ``x86-64-v3``,
``x86-64-v4`` or ``generic``) forces one.
"""

from __future__ import annotations

import json
import os
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from fastact.backends import READY, State, absent

if TYPE_CHECKING:
    from fastact.spec.kernel import KernelSpec

# strings, not paths: a dozen stats of paths take 0.2 ms, of strings 0.05 ms
HERE = os.path.dirname(__file__)
PACKAGE = os.path.dirname(os.path.dirname(HERE))
# best first: module of a level, and the features it needs by the names of NumPy 2.0
LEVELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "x86-64-v4": ("fastact.backends.cython_aot._aot_v4", ("AVX512_SKX", "AVX2", "FMA3", "F16C")),
    "x86-64-v3": ("fastact.backends.cython_aot._aot_v3", ("AVX2", "FMA3", "F16C")),
    "x86-64-v2": ("fastact.backends.cython_aot._aot_v2", ("SSE42", "POPCNT")),
    "generic": ("fastact.backends.cython_aot._aot_generic", ()),
}


def _missing(level: str) -> list[str]:
    from numpy._core._multiarray_umath import __cpu_features__ as features

    return [name for name in LEVELS[level][1] if not features.get(name, False)]


def _stamped(module: ModuleType, built_from: str) -> bool:
    """Whether the stamp of the build (`build.write_stamp`) says that the sources are as they were."""
    try:
        with open(f"{HERE}/_aot_stamp.json", "rb") as file:
            stamp = json.load(file)
        if stamp["sources"] != built_from:
            return False
        # an installer writes a wheel's files in one go: one that is much younger than the module was edited since
        latest = os.stat(str(module.__file__)).st_mtime_ns + 5_000_000_000
        for name, (size, time) in stamp["files"].items():
            now = os.stat(f"{PACKAGE}/{name}")
            if now.st_size != size or (now.st_mtime_ns > latest if time is None else now.st_mtime_ns != time):
                return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _current(module: ModuleType) -> bool:
    """Whether a module was built from the sources that are here."""
    built_from = module.sources()
    if _stamped(module, built_from):
        return True
    from fastact.backends.cython_aot.render import source_hash  # imports and reads for 20 ms

    return bool(built_from == source_hash(Path(PACKAGE)))


@cache
def _choose() -> tuple[ModuleType | None, str]:
    """The module of kernels, or None and the reason."""
    forced = os.environ.get("FASTACT_AOT_LEVEL", "").strip()
    if forced and forced not in LEVELS:
        return None, f"FASTACT_AOT_LEVEL={forced!r} is none of {', '.join(LEVELS)}"
    reasons = []
    for level in [forced] if forced else LEVELS:
        missing = _missing(level)
        if missing:
            reasons.append(f"{level}: this CPU has no {', '.join(missing)}")
            continue
        try:
            module = import_module(LEVELS[level][0])
        except ModuleNotFoundError:
            reasons.append(f"{level}: not built")
            continue
        except ImportError as error:
            reasons.append(f"{level}: {error}")
            continue
        if not _current(module):
            return None, f"{level}: built from other formulas than those installed; build again"
        return module, ""
    if any("not built" in reason for reason in reasons):
        reasons.append("to have them, install fastact again with gcc or clang, without FASTACT_NO_AOT")
    return None, "; ".join(reasons)


def best() -> bool:
    """Whether the kernels were built for all that this CPU has."""
    module, _ = _choose()
    level = next(name for name in LEVELS if not _missing(name))
    return module is not None and module.__name__ == LEVELS[level][0]


def available() -> str | None:
    """None, or why there are no kernels here."""
    module, reason = _choose()
    return None if module is not None else reason


def isa() -> str:
    """The ISA level of the kernels in use."""
    return str(_module().isa())


def _module() -> ModuleType:
    module, reason = _choose()
    if module is None:
        raise RuntimeError(f"backend 'cython' is not available: {reason}")
    return module


def address(name: str, dtype: str) -> int | None:
    """The address of a kernel, or None where it was not built."""
    return _module().address(name, dtype)


def kernel(spec: KernelSpec) -> int:
    """The address of a kernel (fastact/spec/call.py).

    Raises
    ------
    KeyError
        If it was not built.
    """
    found = address(spec.name, spec.dtype)
    if found is None:
        raise KeyError(f"{spec.symbol} was not built ahead of time")
    return found


def state(spec: KernelSpec) -> State:
    """Whether a kernel was built."""
    module, reason = _choose()
    if module is None:
        return absent(reason)
    if all(module.address(stage.name, stage.dtype) for stage in stages(spec)):
        return READY
    return absent("not built ahead of time")


def stages(spec: KernelSpec) -> list[KernelSpec]:
    """The kernels that serve one: itself, or the stages of a fused kind."""
    from fastact.spec.kernel import kernel_of
    from fastact.spec.kinds import KERNELS
    from fastact.spec.stages import program_of

    if not spec.kind or spec.kind in KERNELS:
        return [spec]
    assert spec.op is not None
    return [kernel_of(spec.op, s.what, spec.dtype) for s in program_of(spec.op, spec.kind).kernels]


def embedded(spec: KernelSpec) -> int:
    """The address of a kernel's function in ``fastact.h``."""
    reason = available()
    if reason is not None:
        raise RuntimeError(f"there are no functions for other programs here: {reason}")
    from fastact.backends.cython_aot import _embed

    found = _embed.address(spec.name, spec.dtype)
    if found is None:
        raise KeyError(f"there is no function for other programs for {spec.symbol}")
    return found
