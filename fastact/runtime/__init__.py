"""Threads, the driver of kernels, ufuncs and gufuncs. It knows the calling convention of kernels and nothing else."""

from importlib.util import find_spec

if find_spec("fastact.runtime._driver") is None:
    raise ImportError(
        f"{__path__[0]} is source that was not built in place: start Python in another folder to have the fastact "
        "that is installed, or build it here with: pip install -e ."
    )
