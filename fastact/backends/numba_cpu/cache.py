"""Object code of kernels: emitted from LLVM IR, kept on disk, loaded without Numba.

Numba's own cache is not used: entries made by closures never hit it, and loading one needs Numba imported and its
contexts filled (0.5 s), where an object file needs llvmlite alone (measured in docs/design.md).

An entry is found by a hash of everything that decides its content: what the kernel is made of (`KernelSpec.digest`),
the sources of this backend and of the calling convention, the versions of Numba and llvmlite, the CPU and its features.
Whatever does not check out there is compiled anew and replaced.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import llvmlite.binding as llvm

from fastact.backends.folder import folder, has_any, read, write
from fastact.spec import call
from fastact.spec.kernel import KernelSpec

statistics = {"compiled": 0, "loaded": 0}
_addresses: dict[KernelSpec, int] = {}
_engines: list[llvm.ExecutionEngine] = []  # they own the code
_lock = threading.RLock()


@lru_cache(maxsize=1)
def host() -> tuple[str, str]:
    """Name and features of the CPU that Numba compiles for."""
    name = os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = llvm.get_host_cpu_features().flatten()
    return name, features


@lru_cache(maxsize=1)
def _backend_hash() -> str:
    digest = hashlib.sha256()
    for file in (*sorted(Path(__file__).parent.glob("*.py")), Path(call.__file__)):
        digest.update(file.read_bytes())
    for package in ("numba", "llvmlite"):
        digest.update(_version(package))
    digest.update("|".join(host()).encode())
    return digest.hexdigest()


def _version(package: str) -> bytes:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    file = Path(spec.origin).with_name("_version.py")
    if file.exists():
        return file.read_bytes()
    from importlib import metadata  # its import takes 15 ms

    return metadata.version(package).encode()


def machine() -> llvm.TargetMachine:
    """What makes machine code for the CPU of `host`."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name, features = host()
    # position-independent code: an object may be loaded anywhere
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=name, features=features, opt=3, reloc="pic", codemodel="jitdefault"
    )


def _engine() -> llvm.ExecutionEngine:
    # one per object: a second object in a finished engine crashed when called (llvmlite 0.50)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine())
    _engines.append(engine)
    return engine


def entry(spec: KernelSpec) -> Path:
    """The file of a kernel."""
    key = hashlib.sha256(f"{spec.digest}|{_backend_hash()}".encode()).hexdigest()
    return folder() / f"{spec.symbol}-{key[:24]}.o"


def ready(spec: KernelSpec) -> bool:
    """Whether a kernel is loaded or has an entry."""
    return spec in _addresses or (has_any(spec.symbol) and entry(spec).exists())


def emit_object(module: llvm.ModuleRef, symbol: str) -> bytes:
    """Machine code of the C callback in Numba's IR, as an object file that exports it as `symbol`."""
    for function in list(module.functions):
        if function.is_declaration:
            continue
        if function.name.startswith("cfunc."):
            function.name = symbol
        else:
            function.linkage = llvm.Linkage.internal
    return machine().emit_object(module)


def load(spec: KernelSpec, compiled: Callable[[KernelSpec], llvm.ModuleRef]) -> int:
    """The address of a kernel, from disk where possible; `compiled` is called only if the cache has no entry."""
    with _lock:
        if spec in _addresses:
            return _addresses[spec]
        path = entry(spec)
        symbol = f"fastact_{path.stem.replace('-', '_')}"
        engine = _engine()
        code = read(path)
        if code is None:
            code = emit_object(compiled(spec), symbol)
            statistics["compiled"] += 1
            write(path, code)
        else:
            statistics["loaded"] += 1
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        address = engine.get_function_address(symbol)
        if not address:
            raise RuntimeError(f"object code of {spec} lacks its symbol {symbol}")
        _addresses[spec] = address
    return address
