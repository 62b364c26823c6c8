"""Runs the C code under the sanitizers of the compiler: `address` or `thread`.

    python tools/sanitize.py address   # extensions under AddressSanitizer and UndefinedBehaviorSanitizer, and the tests
    python tools/sanitize.py thread    # the thread pool under ThreadSanitizer

Both need gcc with its sanitizers (Debian, Ubuntu: part of gcc); CC names another one. Everything is built in
build/sanitize: the ordinary build is left alone. The first finding ends the run, and its report names the line.

`address` copies the checkout, builds all that setup.py builds, and runs the tests without Numba, whose compiled code is
not instrumented. It needs what setup.py and the tests need, and about 10 minutes on two cores. Arguments after it go to
pytest in the place of the selection here. Leaks are not looked for: CPython itself leaves memory to the system.

`thread` compiles and runs tests/pool_stress.c, which takes seconds. It runs with the addresses of memory not randomised
(`setarch -R`) where that is possible: ThreadSanitizer keeps parts of the address space for itself, and older ones
stop at once where a newer Linux puts a library there.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "sanitize"
STRESS = ROOT / "tests" / "pool_stress.c"

# After the flags of setup.py, so that they win: its -g0 would leave no lines in reports (-g1 has just them), its -O3
# takes long, CPython's -fwrapv hides overflows of signed integers, and a fortified memcpy is not seen.
ADDRESS_FLAGS = [
    *("-O1", "-g1", "-fno-omit-frame-pointer", "-fno-wrapv", "-U_FORTIFY_SOURCE"),
    *("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"),
]
THREAD_FLAGS = ["-O1", "-g", "-std=gnu11", "-Wall", "-Wextra", "-pthread", "-fsanitize=thread"]

# These call no kernel, or start compilers, MPI and other programs that the sanitizers have no say in, or sweep the
# accuracy of calls that other tests make as well, where the oracle takes nearly all the time
LEFT_OUT = (
    *("backward", "bench", "bind", "cache", "cli", "demo", "docstrings", "elementary", "embedding_docs"),
    *("embedding_mpi", "exhaustive", "forward", "grammar", "import", "install", "lowprecision", "numba_embedding"),
    *("oracle", "render", "sanitize", "table", "ulp"),
)
LEFT_OUT_OF_OTHERS = "not accuracy and not primitives"


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC") or "gcc")


def runtime(name: str) -> str:
    """The path of a library of the compiler, to load before Python, which is not linked to it."""
    command = [*compiler(), f"-print-file-name={name}"]
    path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(path):
        sys.exit(f"{shlex.join(compiler())} has no {name}")
    return path


def run(command: list[str], **arguments: Any) -> str:
    """What it wrote to a piped stderr. Ends this process where it fails."""
    print("+", shlex.join(command), file=sys.stderr, flush=True)
    done = subprocess.run(command, **arguments)
    if done.returncode:
        print(done.stderr or "", file=sys.stderr)
        sys.exit(done.returncode)
    return done.stderr or ""


def address(pytest_arguments: list[str]) -> None:
    libraries = [runtime(name) for name in ("libasan.so", "libubsan.so")]
    shutil.rmtree(FOLDER, ignore_errors=True)
    copy = FOLDER / "checkout"
    left = shutil.ignore_patterns("build", "dist", ".*", "*.so", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, copy, ignore=left)
    wrapper = FOLDER / "cc"
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(compiler())} "$@" {shlex.join(ADDRESS_FLAGS)}\n')
    wrapper.chmod(0o755)
    build = [sys.executable, "setup.py", "build_ext", "--inplace"]
    said = run(build, cwd=copy, env=os.environ | {"CC": shlex.quote(str(wrapper))}, stderr=subprocess.PIPE, text=True)
    if "NOT BUILT" in said:  # setup.py goes on without kernels that the compiler does not take
        sys.exit(said)

    environment = {k: v for k, v in os.environ.items() if not k.startswith("FASTACT_")} | {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # one allocation each: Python's own pools would hide what lies beside an object
        "PYTHONPATH": os.pathsep.join([str(copy), str(copy / "tests" / "without_numba")]),
        "FASTACT_TEST_BACKENDS": "cython reference",
    }
    selection = ["-k", LEFT_OUT_OF_OTHERS, *(f"--ignore=tests/test_{name}.py" for name in LEFT_OUT)]
    run([sys.executable, "-m", "pytest", "-q", *(pytest_arguments or selection)], cwd=copy, env=environment)


def thread() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    program = FOLDER / "pool_stress"
    headers = f"-I{ROOT / 'fastact' / 'runtime'}"
    run([*compiler(), *THREAD_FLAGS, headers, str(STRESS), "-o", str(program)])
    plain = ["setarch", "-R"]
    if not shutil.which("setarch") or subprocess.run([*plain, "true"], capture_output=True).returncode:
        plain = []
    # children forked among threads start threads of their own, which is refused by default
    run([*plain, str(program)], env=os.environ | {"TSAN_OPTIONS": "die_after_fork=0"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sanitizer", choices=("address", "thread"))
    parser.add_argument("pytest", nargs=argparse.REMAINDER, help="arguments of pytest, after `address`")
    asked = parser.parse_args()
    if asked.sanitizer == "address":
        address(asked.pytest)
    elif asked.pytest:
        parser.error("`thread` takes no arguments")
    else:
        thread()


if __name__ == "__main__":
    main()
