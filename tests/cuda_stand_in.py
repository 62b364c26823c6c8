"""The stand-in for the CUDA driver (fake_cuda.c): compiled once, and Python run with it in a process of its own.

The driver is opened once in a process, so tests that need it in another state have to start others.
"""

from __future__ import annotations

import atexit
import functools
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from subprocesses import python

SOURCE = Path(__file__).with_name("fake_cuda.c")

PRELUDE = """
import ctypes, gc, os, re
import pytest
from fastact.backends.cuda import _launch as L

fake = ctypes.CDLL(os.environ["FASTACT_LIBCUDA"])
fake.fake_log.restype = fake.fake_context.restype = ctypes.c_char_p
fake.fake_consume.restype = ctypes.c_double
fake.fake_consume.argtypes = ctypes.c_void_p, ctypes.c_int
fake.fake_capture.argtypes = (ctypes.c_int64,)


def log(*calls):
    "Lines since the last time; only those of the calls named, if any are."
    lines = fake.fake_log().decode().splitlines()
    fake.fake_clear()
    return [line for line in lines if not calls or line.split()[0] in calls]


def launches():
    return log("cuLaunchKernel")


def kernel(name="nothing", parameters=0):
    return L.load(f"{name} {parameters}".encode(), name)
"""


@functools.cache
def compiled() -> Path:
    """The shared library; the test is skipped where there is no C compiler."""
    folder = Path(tempfile.mkdtemp(prefix="fastact-fake-cuda-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = folder / "libfakecuda.so"
    flags = ["-O1", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
    command = [*shlex.split(os.environ.get("CC") or "gcc"), *flags, str(SOURCE), "-o", str(library)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no C compiler: {error}")
    assert done.returncode == 0, done.stderr
    return library


def run(code: str, **environment: object) -> str:
    """Run `code` after PRELUDE; stdout. `library` is another file than the stand-in, other names are its variables."""
    library = environment.pop("library", None) or compiled()
    variables = {f"FAKE_CUDA_{name.upper()}": str(value) for name, value in environment.items()}
    variables["PYTHONPATH"] = str(SOURCE.parent)  # cuda_arrays
    return python(PRELUDE + textwrap.dedent(code), FASTACT_LIBCUDA=str(library), **variables)


def skip_reason() -> str | None:
    """Why the stand-in cannot be used on this platform."""
    return None if sys.platform.startswith("linux") else "the stand-in is for Linux"
