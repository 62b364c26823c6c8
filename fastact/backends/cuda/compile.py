"""Kernels as text, and what NVVM and ptxas make of them; no GPU is needed for that."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Kernel:
    """The text of a kernel.

    Attributes
    ----------
    name : str
        An identifier.
    compute : str
        The dtype in which it computes.
    slots : str
        Of each argument, 8 bytes wide: ``q`` an integer or an address, ``d`` a double.
    text : str
        ``def kernel(...):``, in plain Python over libdevice and the functions of `memory`.
    constants : dict
        What the text names besides.
    block : int
        The most threads of a block that it is launched with.
    """

    name: str
    compute: str
    slots: str
    text: str
    constants: dict[str, Any] = field(repr=False)
    block: int


class CompilationError(RuntimeError):
    """What NVVM or ptxas says of a kernel."""


@cache
def _environment() -> dict[str, Any]:
    from numba import cuda
    from numba.cuda import libdevice, types

    from fastact.backends.cuda import memory

    casts = {name: getattr(np, name) for name in ("int32", "int64", "uint32", "uint64", "float32", "float64")}
    return {**casts, **memory.functions(), "cuda": cuda, "ld": libdevice, "types": types, "range": range}


def ptx(kernel: Kernel, capability: tuple[int, int]) -> str:
    """The PTX of a kernel."""
    from numba import cuda
    from numba.cuda import types

    scope = {**_environment(), **kernel.constants, "__name__": f"fastact_{kernel.name}"}
    exec(compile(kernel.text, f"<fastact {kernel.name}>", "exec"), scope)
    signature = types.void(*({"q": types.int64, "d": types.float64}[slot] for slot in kernel.slots))
    text, _ = cuda.compile(
        scope["kernel"], signature, device=False, cc=capability, abi="numba", output="ptx",
        launch_bounds=(kernel.block,), fastmath=False,
    )  # fmt: skip
    return str(text)


def entry(text: str) -> str:
    """The name of the kernel in its PTX."""
    found = re.search(r"\.entry\s+(\w+)", text)
    assert found is not None
    return found[1]


@cache
def ptxas() -> str | None:
    """The path of ptxas: of NVIDIA's package ``nvidia-cuda-nvcc``, else of an installed toolkit."""
    try:
        import nvidia
    except ImportError:
        pass
    else:
        for folder in nvidia.__path__:
            for found in sorted(Path(folder).glob("*/bin/ptxas")):
                return str(found)
    return shutil.which("ptxas") or shutil.which("/usr/local/cuda/bin/ptxas")


def assemble(text: str, capability: tuple[int, int]) -> tuple[bytes, str]:
    """The cubin of a PTX and what ptxas reports of it.

    Raises
    ------
    CompilationError
        If ptxas is missing or refuses.
    """
    program = ptxas()
    if program is None:
        raise CompilationError("no ptxas: pip install nvidia-cuda-nvcc, or have a CUDA toolkit's on PATH")
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(text)
        arch = f"sm_{capability[0]}{capability[1]}"
        done = subprocess.run(
            [program, "-v", "-O3", f"-arch={arch}", str(source), "-o", str(result)], capture_output=True, text=True
        )
        if done.returncode:
            raise CompilationError(f"ptxas refused a kernel for {arch}: {done.stderr.strip()}")
        return result.read_bytes(), done.stderr + done.stdout
