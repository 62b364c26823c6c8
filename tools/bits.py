"""Digests of what every activation gives over all 2^32 float32: whether a CPU, a backend or a GPU has the same bits.

    python -m tools.bits --write             # compute them here, with the backend that serves first
    python -m tools.bits                     # compare: with what, the environment says, as for users
    python -m tools.bits --all               # the same for every backend and instruction set, each in its own process
    python -m tools.bits gelu tanh           # the rows of some activations alone

They are in benchmarks/results/bits-float32.json, one for each activation with default parameters, kind and block of
2^28 inputs; a comparison adds itself to the file's list. All activations take two minutes on two cores.
benchmarks/gpu.py compares a GPU with the same digests. dy is `DY` in gradients. All NaN count as one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

import fastact as fa
from fastact import dispatch
from fastact.spec.kernel import kernel_of
from fastact.spec.table import OPS
from fastact.tools import bench
from fastact.tools.device import benchable

RESULT = Path(__file__).resolve().parent.parent / "benchmarks/results/bits-float32.json"
NAMES = benchable(tuple(OPS))
BLOCKS, BLOCK, PIECE = 16, 1 << 28, 1 << 18
DY = np.float32(1.5)
NAN = 0x7FC00000
KINDS = ("forward", "backward")


@njit(nogil=True)
def folded(bits: Any, first: int) -> Any:
    """Of 32-bit results from an even place on, two of them a word: the sum of words times 2 place + 1, modulo 2^64."""
    total = np.uint64(0)
    for i in range(0, bits.size, 2):
        word = np.uint64(0)
        for j in range(2):
            b = bits[i + j]
            if (b & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000):
                b = np.uint32(NAN)
            word |= np.uint64(b) << np.uint64(32 * j)
        total += word * np.uint64(first + i + 1)
    return total


def results(name: str, kind: str, x: np.ndarray, out: np.ndarray) -> np.ndarray:
    """What an activation gives for some inputs."""
    activation: Any = fa.activations[name]
    found: np.ndarray = activation(x, out=out) if kind == "forward" else activation.backward(DY, x, out=out)
    return found


def digest(name: str, kind: str, block: int) -> str:
    """The digest of the results of one block of inputs, in hexadecimal."""
    total = 0
    steps, out = np.arange(PIECE, dtype=np.uint32), np.empty(PIECE, np.float32)
    with np.errstate(all="ignore"):
        for first in range(0, BLOCK, PIECE):
            x = (steps + np.uint32(block * BLOCK + first)).view(np.float32)
            total += int(folded(results(name, kind, x, out).view(np.uint32), first))
    return f"{total & (1 << 64) - 1:016x}"


def digests(chosen: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Of each activation and kind, by "NAME KIND", the digests of all blocks."""
    threads = fa.get_num_threads()
    fa.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            for name, kind in itertools.product(chosen, KINDS):
                yield f"{name} {kind}", list(pool.map(digest, *zip(*((name, kind, b) for b in range(BLOCKS)))))
    finally:
        fa.set_num_threads(threads)


def here() -> dict[str, Any]:
    """What computes: machine, backend, instruction set, date."""
    found, (name, _) = bench.machine(), dispatch.serving(kernel_of(OPS["gelu"], "forward", "float32"))
    return {"machine": found["cpu"], "backend": name, "isa": fa.info()["isa"][name], "date": found["date"]}


# of processes of --all: what the environment says to each; x86-64-v2 has no fma, which takes hours
ENVIRONMENTS: tuple[dict[str, str], ...] = (
    {"FASTACT_BACKEND": "numba"},
    {"FASTACT_BACKEND": "numba", "NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": "+avx2,+fma,+f16c"},
    {"FASTACT_BACKEND": "numba", "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""},
    *({"FASTACT_BACKEND": "cython", "FASTACT_AOT_LEVEL": level} for level in ("x86-64-v3", "x86-64-v4")),
)


def compared(chosen: list[str]) -> int:
    """Compare with the file and note it there; 1 if a digest differs."""
    file = json.loads(RESULT.read_text())
    start, bad, count = time.monotonic(), [], 0
    for key, found in digests(chosen):
        wrong = [b for b in range(BLOCKS) if found[b] != file["digests"][key][b]]
        count += 1
        if wrong:
            bad.append(key)
            print(f"{key}: other bits in blocks {wrong} of {BLOCKS}", flush=True)
    note = {**here(), "compared": count, "different": bad}
    print(f"{note}, {time.monotonic() - start:.0f} s", flush=True)
    same_place = lambda other: all(other[k] == note[k] for k in ("machine", "backend", "isa"))  # noqa: E731
    if chosen == NAMES:
        file["compared"] = [c for c in file["compared"] if not same_place(c)] + [note]
        RESULT.write_text(json.dumps(file, indent=1) + "\n")
    return bool(bad)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="activations (default: all)")
    parser.add_argument("--write", action="store_true", help="write the digests of this machine")
    parser.add_argument("--all", action="store_true", help="compare every backend and instruction set")
    given = parser.parse_args()
    chosen = given.names or NAMES
    if given.write:
        made = {**here(), "blocks": BLOCKS, "dy": float(DY), "digests": dict(digests(NAMES)), "compared": []}
        RESULT.write_text(json.dumps(made, indent=1) + "\n")
        return 0
    if not given.all:
        return compared(chosen)
    command = [sys.executable, "-m", "tools.bits", *given.names]
    return max(subprocess.run(command, env={**os.environ, **e}).returncode for e in ENVIRONMENTS)


if __name__ == "__main__":
    sys.exit(main())
