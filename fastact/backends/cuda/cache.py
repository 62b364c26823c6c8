"""Compiled kernels: on disk by compute capability and by what they are made of, loaded without numba-cuda.

An entry is found by a hash of everything that decides its content: the kernel's spec (`KernelSpec.digest`) and form,
the sources of this backend and of the formulas, the version of numba-cuda, the compute capability.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastact.backends.cuda import _launch, compile, no_compiler
from fastact.backends.cuda.launch import made
from fastact.backends.folder import folder, read, write
from fastact.maths import grammar as formulas
from fastact.spec.kernel import KernelSpec

statistics = {"compiled": 0, "loaded": 0}
_lock = threading.RLock()
_handles: dict[Any, int] = {}
_shared: set[tuple[int, int]] = set()


@cache
def _backend_hash() -> str:
    digest = hashlib.sha256()
    maths = Path(formulas.__file__).parent
    for file in (*sorted(Path(__file__).parent.glob("*.py")), *sorted(maths.rglob("*.py"))):
        digest.update(file.read_bytes())
    digest.update(_version("numba_cuda"))
    return digest.hexdigest()


def _version(package: str) -> bytes:
    # what is installed, without importing it
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return b""
    for name in ("VERSION", "_version.py"):
        file = Path(next(iter(spec.submodule_search_locations)), name)
        if file.exists():
            return file.read_bytes()
    return b""


@cache
def capability(device: int) -> tuple[int, int]:
    """The compute capability of a device."""
    return _launch.device(device).capability


def entry(key: tuple[Any, ...], capability: tuple[int, int]) -> Path:
    """The file of a kernel."""
    parts = [part.digest if isinstance(part, KernelSpec) else repr(part) for part in key]
    text = "|".join([*parts, _backend_hash(), repr(capability)])
    name = next((part.symbol for part in key if isinstance(part, KernelSpec)), str(key[0]))
    return folder() / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.cubin"


def handle(key: tuple[Any, ...], make: Callable[[], compile.Kernel], device: int, shared: int = 0) -> int:
    """The handle of a kernel for a device, compiled if it is nowhere yet; with room for so much shared memory."""
    cc = capability(device)
    found = _handles.get((key, cc))
    if found is None:
        with _lock:
            found = _handles.get((key, cc))
            if found is None:
                found = _handles[key, cc] = _loaded(key, make, cc)
    # what is above 48 KiB must be asked for
    if shared > 48 * 1024 and (found, device) not in _shared:
        own = _launch.attributes(found, device).shared_bytes
        _launch.allow_shared(found, device, _launch.device(device).shared_bytes - own)
        _shared.add((found, device))
    return found


def _loaded(key: tuple[Any, ...], make: Callable[[], compile.Kernel], cc: tuple[int, int]) -> int:
    path = entry(key, cc)
    image = read(path)
    if image is None:
        why_not = no_compiler()
        if why_not is not None:
            raise compile.CompilationError(why_not)
        text = compile.ptx(made(key, make), cc)
        # the name of the kernel goes in front of its code
        code, _ = compile.assemble(text, cc)
        image = compile.entry(text).encode() + b"\0" + code
        write(path, image)
        statistics["compiled"] += 1
    else:
        statistics["loaded"] += 1
    name, _, code = image.partition(b"\0")
    return int(_launch.load(code, name.decode()))
