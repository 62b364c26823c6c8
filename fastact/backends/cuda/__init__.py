"""Kernels for arrays on an NVIDIA GPU, compiled by numba-cuda; the data decides, so `ORDER` has not this one.

Importing this package imports neither numba-cuda nor CUDA's driver. A name of this file must not be one of its modules.
"""

from __future__ import annotations

import functools
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fastact.backends import COMPILES, READY, State, absent

if TYPE_CHECKING:
    from fastact.spec.kernel import KernelSpec
    from fastact.spec.table import Op

# of NumPy: numba-cuda up to this version asks for a name that it has no more
ROW_STACK_GONE = (2, 5)
ASKS_FOR_ROW_STACK = (0, 30, 4)


def simulated() -> bool:
    """Whether kernels run in the simulator, on memory of the host."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


def _numbers(version: str) -> tuple[int, ...]:
    found = []
    for part in version.split(".")[:3]:
        digits = part[: next((i for i, c in enumerate(part) if not c.isdigit()), len(part))]
        found.append(int(digits or 0))
    return tuple(found)


def compiler_version() -> str | None:
    """The version of numba-cuda, which is not imported; None where it is missing."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("numba-cuda")
    except PackageNotFoundError:
        return None


def no_compiler() -> str | None:
    """None, or why kernels cannot be compiled here."""
    import numpy as np

    own = compiler_version()
    if own is None or find_spec("numba_cuda") is None:
        return "numba-cuda is not installed (pip install fastact[cuda])"
    if _numbers(np.__version__) >= ROW_STACK_GONE and _numbers(own) <= ASKS_FOR_ROW_STACK:
        return f"numba-cuda {own} does not import with NumPy {np.__version__}: it asks for numpy.row_stack"
    if simulated():
        return None
    from fastact.backends.cuda.compile import ptxas

    if ptxas() is None:
        return "no ptxas: pip install nvidia-cuda-nvcc, or have a CUDA toolkit's on PATH"
    return None


def _any_on_disk() -> bool:
    from fastact.backends.folder import folder

    try:
        return any(name.endswith(".cubin") for name in os.listdir(folder()))
    except OSError:
        return False


def available() -> str | None:
    """None, or why arrays on a GPU cannot be computed here."""
    if simulated():
        return no_compiler()
    try:
        from fastact.backends.cuda import _launch
    except ImportError as error:
        return f"not built: {error}"
    why_not = _launch.why_not()
    if why_not is not None:
        return str(why_not)
    why_not = no_compiler()
    return None if why_not is None or _any_on_disk() else f"{why_not}, and no kernel is on disk"


def isa() -> str:
    """What kernels are compiled for: the compute capabilities of the devices."""
    if simulated():
        return "Numba's simulator (NUMBA_ENABLE_CUDASIM): Python on memory of the host"
    from fastact.backends.cuda import _launch

    return ", ".join(
        dict.fromkeys("sm_{}{}".format(*_launch.device(i).capability) for i in range(_launch.device_count()))
    )


def device_name(index: int) -> str:
    """A device, for people."""
    if simulated():
        return "Numba's simulator"
    from fastact.backends.cuda import _launch

    found = _launch.device(index)
    major, minor = found.capability
    return f"{found.name}, compute capability {major}.{minor}, {found.multiprocessors} multiprocessors"


def info() -> dict[str, Any]:
    """What is here of CUDA, by name; why not, the reasons of `fastact.dispatch` say."""
    own = compiler_version()
    found: dict[str, Any] = {"numba-cuda": own or "not installed"}
    why_not = no_compiler()
    if why_not is not None:
        found["compiler"] = why_not
    if simulated():
        return found | {"devices": {"0": device_name(0)}}
    toolkit = _toolkit()
    if toolkit is not None:
        found["toolkit"] = toolkit
    try:
        from fastact.backends.cuda import _launch
    except ImportError:
        return found
    if _launch.why_not() is None:
        found["driver"] = "CUDA {}.{}".format(*_launch.driver_version())
        found["devices"] = {str(i): device_name(i) for i in range(_launch.device_count())}
    return found


@functools.cache
def _toolkit() -> str | None:
    """The version of ptxas."""
    import re
    import subprocess

    from fastact.backends.cuda.compile import ptxas

    program = ptxas()
    if program is None:
        return None
    try:
        text = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError as error:
        return f"cannot be run: {error}"
    version = re.search(r"release ([\d.]+)", text)
    return f"{version[1] if version else 'unknown version'} ({program})"


def state(spec: KernelSpec) -> State:
    """Whether a kernel for arrays of the host is on disk, can be compiled, or is absent and why."""
    from fastact.backends.cuda import host

    missing = host.missing(spec)
    if missing is not None:
        return absent(missing)
    why_not = available()
    if why_not is not None:
        return absent(why_not)
    if simulated():
        return READY
    from fastact.backends import folder

    if folder.has_any(spec.symbol):
        return READY
    why_not = no_compiler()
    return COMPILES if why_not is None else absent(why_not)


def kernel(spec: KernelSpec) -> Any:
    """A callable over arrays of the host, which copies them to device 0 and back."""
    from fastact.backends.cuda import host

    return host.kernel(spec)


def fused_over_arrays(op: Op, kind: str, dtype: str) -> Any:
    """The same of a fused kind, with the arguments of ``_driver.Function.run_fused``."""
    from fastact.backends.cuda import host

    return host.fused_kind(op, kind, dtype)
