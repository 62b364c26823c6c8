"""``fastact bench``: every cell (activation, kind, size) against every installed peer, in one process.

How it is measured, and why so:

- Each library runs in its best form (``fastact.tools.peers``): kernels called directly, results into memory that exists
  already where it can, its thread count set to ours. A library with several forms counts with its fastest.
- All libraries work on the same arrays, aligned to 64 bytes, which none of them can complain about.
- Rounds are interleaved: every library has its turn in each round, in rotating order, so that a slow minute of the
  machine hits all. A turn is a block of calls; its time is the mean, a cell's time is the median of the turns.
- Before a turn, ``settle`` sleeps until the process burns no CPU time: the threads of a library spin in wait for work
  (measured: OpenMP 8 ms, ONNX Runtime 42 ms after the last call) and would take a core from the next library. Then
  some calls go unmeasured: they wake this library's own threads and bring its data back into the cache.
- A turn in which the system took a core away from us (involuntary context switches) is repeated, ``RETRIES`` times in
  all; then the fastest of them is kept and counted as disturbed.
- Backward: a library may start from x or from y, whichever is faster for it; training has both.
- Large arrays: a streaming copy (forward) or triad (backward), the best of several implementations, races in the same
  rounds; ``stream_share`` is its time over ours.
- Fused functions, such as ``gelu.biased``, norms and losses run forward and as a step: the value, then every gradient.
  What memory bounds them to is the time of a copy by the number of arrays that must be read or written, over two. So
  for a step of an optimiser, kind ``update``.
- Every form's result is compared with the textbook value before it is timed.
- ``--layout strided`` takes every second element of longer arrays, ``broadcast`` one row for all rows of x. A library
  that cannot take arrays as they lie is left out, for it would be timed on a copy that nobody counts.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime
import gc
import json
import math
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import numpy as np

import fastact as fa
from fastact.spec.table import OPS as TABLE
from fastact.spec.units import UNITS
from fastact.tools import attention, channels, losses, norms, optimisers
from fastact.tools.arguments import file, memory_of_machine, picture, positive, without_required
from fastact.tools.attention import AttentionCell, attention_cell, forms_of
from fastact.tools.channels import channel_cell
from fastact.tools.fused import FUSIONS
from fastact.tools.losses import LossCell, loss_cell
from fastact.tools.norms import NormCell, norm_cell
from fastact.tools.optimisers import UpdateCell, update_cell
from fastact.tools.peers import DROPPED, PEERS, Cell, Form, FusedCell, Peer, Torch, in_turn, normal
from fastact.tools.truth import TRUTH

OPS = (
    "relu",
    "leaky_relu",
    "elu",
    "sigmoid",
    "tanh",
    "gelu",
    "gelu_tanh",
    "silu",
    "mish",
    "softplus",
    "softmax",
)
FUSED = ("gelu.biased", "silu.gated", "silu.packed")
KINDS = ("forward", "backward")
FUSED_KINDS = ("forward", "step")
ALL_KINDS = ("forward", "backward", "step", "update")
SIZES = (2**10, 2**16, 2**20, 2**24)
# torch.compile takes a second or more for each cell: only when asked for
AGAINST = tuple(name for name in PEERS if name != "torch.compile")
DTYPES = ("float32", "float64", "float16")
LAYOUTS = ("contiguous", "strided", "broadcast")
THREADS = 2
ROW = 1024  # softmax and fused functions work on rows of this length, or one shorter row
ARRAYS = 8  # of a cell, about
SMALL = 16  # elements of the call whose overhead is measured
ROUNDS = 15
BLOCK_SECONDS = 0.002
RETRIES = 4
# a form (a library) this much slower than the best after its trial gets no more turns: it cannot win
HOPELESS_FORM, HOPELESS_PEER = 1.3, 8.0
ROWS = ("softmax", "log_softmax")
DROPOUT = "dropout"
# with cells of their own, of rows, and with kind "step"
STEPPED: dict[str, Callable[..., Cell]] = {
    **dict.fromkeys(norms.OPS, norm_cell),
    **dict.fromkeys(losses.OPS, loss_cell),
    **dict.fromkeys(channels.OPS, channel_cell),
}
STREAM_SIZE = 2**24  # from here on arrays are larger than the caches of most machines
HEAD = 2**16  # elements of a result that are compared with the textbook value


def is_fused(op: str) -> bool:
    return "." in op


def kinds_of(op: str, kinds: Sequence[str] = ALL_KINDS) -> list[str]:
    """Those of `kinds` that the function has."""
    fused = is_fused(op) or op in STEPPED
    own = ("update",) if op in optimisers.OPS else FUSED_KINDS if fused else KINDS
    return [kind for kind in kinds if kind in own]


def sizes_of(op: str, sizes: Sequence[int]) -> Sequence[int]:
    """Those of `sizes` that are measured: a list of arrays has its own."""
    return (optimisers.MLP_SIZE,) if op == "adam_mlp" else sizes


class FastAct(Peer):
    name = "fastact"
    needs = ()
    takes_strides = True

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        fa.set_num_threads(threads)

    def version(self) -> str:
        return fa.__version__

    def forms(self, cell: Cell) -> dict[str, Form]:
        if isinstance(cell, FusedCell):
            return self.packed(cell) if cell.fusion.packed else self.fused(cell)
        if cell.op == DROPOUT:
            if cell.kind == "forward":
                return {"out=": partial(fa.dropout, cell.x, DROPPED, seed=0, out=cell.out)}
            return {"backward(dy, out=)": partial(fa.dropout.backward, cell.dy, DROPPED, seed=0, out=cell.out)}
        f = getattr(fa, cell.op) if cell.op in ROWS else fa.activations[cell.op]
        if cell.kind == "forward":
            return {"out=": partial(f, cell.x, out=cell.out)}
        if cell.op in ROWS:
            return {"backward(dy, y, out=)": partial(f.backward, cell.dy, cell.y, out=cell.out)}
        found: dict[str, Form] = {"backward(dy, x, out=)": partial(f.backward, cell.dy, cell.x, out=cell.out)}
        if TABLE[cell.op].grad_from_output is not None:
            found["backward_from_output(dy, y, out=)"] = partial(f.backward_from_output, cell.dy, cell.y, out=cell.out)
        return found

    def fused(self, cell: FusedCell) -> dict[str, Form]:
        name, _, fusion = cell.op.partition(".")
        f = fa.activations[name]
        missing = [method for method in (fusion, f"{fusion}_backward") if not hasattr(f, method)]
        if missing:
            raise RuntimeError(f"this fastact has no {name}.{missing[0]}")
        forward = partial(getattr(f, fusion), cell.x, cell.second, out=cell.out)
        if cell.kind == "forward":
            return {"out=": forward}
        gradients: tuple[Any, ...] = (cell.dx, cell.dsecond)
        backward = partial(getattr(f, f"{fusion}_backward"), cell.dy, cell.x, cell.second, out=gradients)

        def step():
            return forward(), *backward()

        return {"out=": step}

    def packed(self, cell: FusedCell) -> dict[str, Form]:
        names = [unit.name for unit in UNITS.values() if unit.activation == cell.activation]
        if not names:
            raise RuntimeError(f"fastact has no gated unit of {cell.activation}")
        unit = getattr(fa, names[0])
        forward = partial(unit, cell.packed, halves="gate_first", out=cell.out)
        if cell.kind == "forward":
            return {"out=": forward}
        backward = partial(unit.backward, cell.dy, cell.packed, halves="gate_first", out=cell.dpacked)

        def step():
            forward()
            backward()
            return cell.results

        return {"out=": step}


class Composed(Peer):
    """What fastact takes without fused functions, with NumPy for the arithmetic: to compare, not a peer."""

    name = "composed"

    def forms(self, cell: Cell) -> dict[str, Form]:
        if not isinstance(cell, FusedCell):
            return {}
        part, f = cell.in_place(), fa.activations[cell.activation]
        calls = part.fusion.calls(
            np,
            part,
            lambda x, out: partial(f, x, out=out),
            lambda dy, x, y, out: partial(f.backward, dy, x, out=out),
        )
        return {"out=": in_turn(calls, cell.results)}


# timing


def settle() -> None:
    """Sleep until threads that spin in wait for work have gone to sleep."""
    for _ in range(50):
        cpu, clock = time.process_time(), time.perf_counter()
        # the time of other threads is counted in ticks of up to 4 ms: a shorter sleep sees none of it half of the time
        time.sleep(0.01)
        if time.process_time() - cpu < 0.1 * (time.perf_counter() - clock):
            return


def mean_of(call: Form, number: int) -> float:
    turns = repeat(None, number)
    start = time.perf_counter()
    for _ in turns:
        call()
    return (time.perf_counter() - start) / number


def preempted() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


@dataclass
class Timed:
    """One form of one library in one cell."""

    call: Form
    mode: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    number: int = 1
    seconds: list[float] = field(default_factory=list)
    disturbed: int = 0

    def turn(self) -> float:
        found = []
        with self.mode():
            for _ in range(RETRIES):
                settle()
                mean_of(self.call, max(2, self.number // 8))
                before = preempted()
                found.append(mean_of(self.call, self.number))
                if preempted() == before:
                    return found[-1]
        self.disturbed += 1
        return min(found)

    def trial(self) -> None:
        with self.mode():
            self.call()
            once = mean_of(self.call, 1)
        self.number = 1 if once > 0.05 else int(min(5000, max(3, BLOCK_SECONDS / once)))
        self.seconds = [min(self.turn(), self.turn())]

    def summary(self) -> dict[str, Any]:
        return {
            "median": statistics.median(self.seconds),
            "min": min(self.seconds),
            "turns": len(self.seconds),
            "disturbed": self.disturbed,
        }


def compete(timed: dict[tuple[str, str], Timed], rounds: int) -> None:
    """Time all; keys are (library, form)."""
    for t in timed.values():
        t.trial()
    best: dict[str, float] = {}
    for (library, _), t in timed.items():
        best[library] = min(best.get(library, math.inf), t.seconds[0])
    fastest = min(best.values())
    racing = [
        t
        for (library, _), t in timed.items()
        if t.seconds[0] <= HOPELESS_FORM * best[library]
        and (best[library] <= HOPELESS_PEER * fastest or library in ("fastact", "composed", "stream"))
    ]
    for t in racing:
        # the trial chose who goes on: its luck does not count
        t.seconds.clear()
    for i in range(rounds):
        k = i % len(racing)
        for t in racing[k:] + racing[:k]:
            t.seconds.append(t.turn())


# arrays


def aligned(shape: tuple[int, ...], dtype: np.dtype, index: int = 0) -> np.ndarray:
    """An array that starts on a 64-byte boundary, each `index` at another offset in its page."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + 8192, np.uint8)
    start = -raw.ctypes.data % 4096 + 320 * index
    return raw[start : start + size].view(dtype).reshape(shape)


def truth(op: str, kind: str, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """The textbook result in float64."""
    x, dy = x.astype(np.float64), dy.astype(np.float64)
    if op == DROPOUT:
        # others drop other elements: see `wrong`
        kept = np.random.default_rng(0).random(x.shape) >= DROPPED
        return (x if kind == "forward" else dy) * kept / (1 - DROPPED)
    if op in ROWS:
        e = np.exp(x - x.max(-1, keepdims=True))
        s = e.sum(-1, keepdims=True)
        p = e / s
        if op == "softmax":
            return p if kind == "forward" else p * (dy - (dy * p).sum(-1, keepdims=True))
        return x - x.max(-1, keepdims=True) - np.log(s) if kind == "forward" else dy - p * dy.sum(-1, keepdims=True)
    params = {p.name: p.default for p in TABLE[op].params}
    return TRUTH[op].value(x, **params) if kind == "forward" else dy * TRUTH[op].derivative(x, **params)


def takes_layouts(op: str) -> bool:
    """Whether it is measured on other layouts than contiguous: activations, softmax and its relative."""
    return not is_fused(op) and op not in (DROPOUT, *optimisers.OPS, *STEPPED, *attention.OPS)


def cells(
    ops: Sequence[str], kinds: Sequence[str], sizes: Sequence[int], dtype: np.dtype, layout: str = "contiguous"
) -> Iterator[Cell]:
    for n in dict.fromkeys(n for op in ops for n in sizes_of(op, sizes)):
        many = any(is_fused(op) or op in STEPPED for op in ops)
        apart = 2 if layout == "strided" else 1
        flat = [aligned((apart * n,), dtype, i)[::apart] for i in range(8 if many else 5)]
        flat[4] = aligned((n,), dtype, 4)  # scratch memory is a library's own
        rng = np.random.default_rng(0)
        # both tails and the middle, as before normalisation
        flat[0][:] = 2 * normal(rng, n, dtype)
        flat[1][:] = normal(rng, n, dtype)
        for op in (op for op in ops if n in sizes_of(op, sizes)):
            if op in attention.OPS:
                for kind in kinds_of(op, kinds):
                    yield attention_cell(op, kind, flat, rng)
                continue
            if op in STEPPED:
                for kind in kinds_of(op, kinds):
                    yield STEPPED[op](op, kind, [a.reshape(-1, min(n, ROW)) for a in flat], rng)
                continue
            if op in optimisers.OPS:
                yield from (update_cell(op, flat) for _ in kinds_of(op, kinds))
                continue
            if is_fused(op):
                for kind in kinds_of(op, kinds):
                    yield fused_cell(op, kind, [a.reshape(-1, min(n, ROW)) for a in flat], rng)
                continue
            by_rows = op in ROWS or layout == "broadcast"
            x, dy, y, out, scratch = (a.reshape(-1, min(n, ROW)) if by_rows else a for a in flat[:5])
            if layout == "broadcast":
                x = np.broadcast_to(x[:1], x.shape)
            step = max(1, 2**20 * len(x) // n)
            for i in range(0, len(x), step):
                y[i : i + step] = truth(op, "forward", x[i : i + step], dy[i : i + step])
            for kind in kinds_of(op, kinds):
                yield Cell(op, kind, x, dy, y, out, scratch)


def fused_cell(op: str, kind: str, arrays: list[np.ndarray], rng: np.random.Generator) -> FusedCell:
    x, dy, y, out, scratch, second, dx, dsecond = arrays
    if FUSIONS[op.partition(".")[2]].per_column:
        second, dsecond = (aligned(a.shape[1:], a.dtype) for a in (second, dsecond))
    packed = dpacked = None
    if FUSIONS[op.partition(".")[2]].packed:
        packed, dpacked = (aligned((len(x), 2 * x.shape[1]), x.dtype, i) for i in (5, 6))
        packed[:, : x.shape[1]] = x
        x, second = np.split(packed, 2, 1)
        dx, dsecond = np.split(dpacked, 2, 1)
    second[...] = normal(rng, second.shape, x.dtype)
    cell = FusedCell(op, kind, x, dy, y, out, scratch, second, dx, dsecond, packed, dpacked)
    return replace(cell, expected=fused_truth(cell))


def fused_truth(cell: FusedCell) -> tuple[np.ndarray, ...]:
    """The textbook results in float64: the first rows, and all of what is a sum over rows."""
    params = {p.name: p.default for p in TABLE[cell.activation].params}
    f = partial(TRUTH[cell.activation].value, **params)
    first, *rest = cell.blocks(HEAD)[0]

    def gradient(dy: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return dy * TRUTH[cell.activation].derivative(x, **params)

    def step(part: FusedCell) -> tuple[np.ndarray, ...]:
        return cell.fusion.step(f, gradient, *(a.astype(np.float64) for a in (part.x, part.second, part.dy)))

    if cell.kind == "forward":
        return step(first)[:1]
    y, dx, dsecond = step(first)
    if cell.fusion.per_column:
        for part in rest:
            dsecond += step(part)[2]
    return y, dx, dsecond


def wrong(result: Any, cell: Cell) -> str | None:
    """What is wrong with a form's result, or None: a peer that computes something else is no peer."""
    if isinstance(cell, UpdateCell):
        return cell.wrong(HEAD)
    if isinstance(cell, (FusedCell, NormCell, LossCell, AttentionCell)):
        results = result if isinstance(result, (tuple, list)) else (result,)
        if len(results) != len(cell.expected):
            return f"{len(results)} results"
        problems = (error_of(got, true, cell) for got, true in zip(results, cell.expected, strict=True))
        return next((problem for problem in problems if problem), None)
    if cell.op == DROPOUT:
        return wrong_dropout(result, cell)
    head = slice(0, max(1, HEAD * len(cell.x) // cell.x.size))
    return error_of(result, truth(cell.op, cell.kind, cell.x[head], cell.dy[head]), cell)


def wrong_dropout(result: Any, cell: Cell) -> str | None:
    """Elements of a dropout are 0 or scaled, and about as many of each as there should be."""
    got = np.asarray(result[0] if isinstance(result, tuple) else result).astype(np.float64)
    given = (cell.x if cell.kind == "forward" else cell.dy).astype(np.float64)
    kept = got != 0
    if got.shape != given.shape or not np.allclose(got[kept], given[kept] / (1 - DROPPED)):
        return "other values"
    share, spread = kept.mean(), math.sqrt(DROPPED * (1 - DROPPED) / kept.size)
    return None if abs(share - (1 - DROPPED)) < 6 * spread else f"{share:.3f} of all kept"


def error_of(result: Any, expected: np.ndarray, cell: Cell) -> str | None:
    got = np.asarray(result.detach() if hasattr(result, "detach") else result).astype(np.float64)
    got = got[: len(expected)] if expected.ndim else got
    if got.shape != expected.shape:
        return f"shape {got.shape}"
    # loose: gelu by exp near 0 and the like are approximations that people use. Terms of a sum over rows may cancel
    slack = 1e-3 * (1 if expected.ndim == cell.x.ndim else math.sqrt(len(cell.x)))
    error = float(np.max(np.abs(got - expected) / (slack + np.abs(expected))))
    return None if error < 2e-2 else f"relative error {error:.1e}"


# the speed of memory


class Stream(Peer):
    """The fastest copy (forward, step: one read, one write) or triad (backward: two reads, one write) of several.

    It races with the libraries in each cell of STREAM_SIZE elements or more, because the bandwidth of a shared machine
    changes within minutes.
    """

    name = "stream"

    def __init__(self, threads: int, libraries: Sequence[Peer]) -> None:
        super().__init__(threads)
        self.torch: Any = next((library.torch for library in libraries if isinstance(library, Torch)), None)
        self.pool = ThreadPoolExecutor(threads)

    def forms(self, cell: Cell) -> dict[str, Form]:
        if cell.x.size < STREAM_SIZE or not cell.x.flags.c_contiguous:
            return {}
        x, dy, out = cell.x, cell.dy, cell.out
        tensors = [self.torch.from_numpy(a) for a in (x, dy, out)] if self.torch else []
        if cell.kind != "backward":
            copies: dict[str, Form] = {
                "numpy.copyto": partial(np.copyto, out, x),
                f"memmove in {self.threads} threads": partial(self.memmove, x, out),
                "fastact.identity": partial(fa.identity, x, out=out),
            }
            if tensors:
                copies["torch.copy_"] = partial(tensors[2].copy_, tensors[0])
            return copies
        triads: dict[str, Form] = {
            "numpy.add": partial(np.add, dy, x, out=out),
            "fastact.relu.backward": partial(fa.relu.backward, dy, x, out=out),
        }
        if tensors:
            triads["torch.add"] = partial(self.torch.add, tensors[1], tensors[0], out=tensors[2])
            triads["torch.mul"] = partial(self.torch.mul, tensors[1], tensors[0], out=tensors[2])
        return triads

    def memmove(self, source: np.ndarray, target: np.ndarray) -> None:
        # libc goes past the cache for large blocks; ctypes lets go of the GIL
        cuts = [source.nbytes * i // self.threads for i in range(self.threads + 1)]
        parts = pairwise(cuts)
        jobs = [
            self.pool.submit(ctypes.memmove, target.ctypes.data + i, source.ctypes.data + i, j - i) for i, j in parts
        ]
        for job in jobs:
            job.result()


def small_calls(libraries: Sequence[Peer], dtype: np.dtype) -> dict[str, dict[str, float]]:
    """Seconds of a forward call on SMALL elements, by activation and library: what a call costs beside arithmetic."""
    found: dict[str, dict[str, float]] = {}
    for cell in cells(("relu", "sigmoid", "gelu"), ("forward",), (SMALL,), dtype):
        timed = {}
        for library in libraries:
            for name, call in library.forms(cell).items():
                timed[library.name, name] = Timed(call, library.mode)
        compete(timed, rounds=9)
        row = found.setdefault(cell.op, {})
        for (name, _), t in timed.items():
            row[name] = min(row.get(name, math.inf), statistics.median(t.seconds))
        for library in libraries:
            library.finish()
    return found


# the machine


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    info: dict[str, Any] = {
        "cpu": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines: dict[str, str] = {}
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            lines[key.strip()] = value.strip()
        info["cpu"] = lines.get("model name", info["cpu"])
        family = f"family {lines.get('cpu family')}, model {lines.get('model')}"
        info["cpu"] += f" ({family})"
        flags = lines.get("flags", "").split()
        info["isa"] = [f for f in ("sse4_2", "avx2", "fma", "avx512f", "avx512_bf16", "amx_tile") if f in flags]
    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / leaf).read_text().strip() for leaf in ("level", "type", "size"))
        if kind != "Instruction":
            caches[f"L{level}"] = size
    info["caches"] = caches
    return info


def scheduler() -> str:
    """How the system schedules this process: FIFO (`chrt -f 10 fastact bench`) keeps other programs away."""
    if not hasattr(os, "sched_getscheduler"):
        return "unknown"
    policy = os.sched_getscheduler(0)
    names = ("OTHER", "FIFO", "RR", "BATCH", "IDLE")
    return next((name for name in names if getattr(os, f"SCHED_{name}", None) == policy), str(policy))


@contextlib.contextmanager
def confined(threads: int) -> Iterator[None]:
    """Run on `threads` CPUs, so that libraries which size their pools by the machine have as many as the others."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    # one CPU of each core first, its siblings last
    order = sorted(before, key=lambda cpu: (siblings(cpu).index(cpu) if cpu in siblings(cpu) else 0, cpu))
    os.sched_setaffinity(0, set(order[:threads]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def siblings(cpu: int) -> list[int]:
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    if not path.exists():
        return [cpu]
    found: list[int] = []
    for part in path.read_text().strip().split(","):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def load_peers(names: Sequence[str], threads: int) -> tuple[list[Peer], dict[str, str]]:
    """The libraries asked for, and why some are missing."""
    libraries, missing = [], {}
    for name in names:
        reason = PEERS[name].missing()
        if reason is None:
            with quiet_imports():
                libraries.append(PEERS[name](threads))
        else:
            missing[name] = reason
    return libraries, missing


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """TensorFlow writes to the error stream while it loads, whatever its log level."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


# a run


def measure(
    ops: Sequence[str] = OPS,
    kinds: Sequence[str] = ALL_KINDS,
    against: Sequence[str] = AGAINST,
    sizes: Sequence[int] = SIZES,
    dtype: str = "float32",
    threads: int = THREADS,
    rounds: int = ROUNDS,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
    layout: str = "contiguous",
) -> dict[str, Any]:
    """Measure all cells and return what ``--json`` writes. `report` gets each finished row.

    Examples
    --------
    >>> result = measure(["relu"], ["forward"], ["numpy"], [1024], rounds=1)
    >>> sorted(result["cells"][0]["libraries"])
    ['fastact', 'numpy']
    """
    kind_of = np.dtype(dtype)
    result: dict[str, Any] = {
        "machine": machine(),
        "settings": {"threads": threads, "dtype": dtype, "rounds": rounds, "row": ROW, "scheduler": scheduler()},
        "load_before": os.getloadavg()[0],
    }
    if layout != "contiguous":
        result["settings"]["layout"] = layout
    with confined(threads), np.errstate(all="ignore"):
        peers, result["missing"] = load_peers(against, threads)
        if layout != "contiguous":
            result["missing"] |= {p.name: "takes contiguous arrays only" for p in peers if not p.takes_strides}
            peers = [p for p in peers if p.takes_strides]
        libraries = [FastAct(threads), *peers]
        result["versions"] = {library.name: library.version() for library in libraries}
        elementwise = [op for op in ops if not is_fused(op) and op not in (*optimisers.OPS, *STEPPED, *attention.OPS)]
        small = elementwise and layout == "contiguous"
        result["small_calls"] = small_calls(libraries, kind_of) if small else {}
        libraries += [Composed(threads), Stream(threads, peers)]
        result["cells"] = []
        for cell in cells(ops, kinds, sizes, kind_of, layout):
            row = measure_cell(cell, libraries, rounds)
            result["cells"].append(row)
            report(row)
            gc.collect()
    result["load_after"] = os.getloadavg()[0]
    result["summary"] = summarise(result)
    return result


def measure_cell(cell: Cell, libraries: Sequence[Peer], rounds: int) -> dict[str, Any]:
    timed: dict[tuple[str, str], Timed] = {}
    rejected: dict[str, str] = {}
    for library in libraries:
        try:
            forms = forms_of(library, cell)
        except Exception as error:  # a type, say, for which it has no kernel
            if library.name == "fastact":
                raise
            library.refused["all"] = said(error)
            continue
        for name, call in forms.items():
            for memory in cell.results:
                memory[...] = np.nan
            if isinstance(cell, UpdateCell):
                cell.reset()
            mode = partial(library.mode, name)
            try:
                with mode():
                    got = call()
            except Exception as error:
                if library.name == "fastact":
                    raise
                library.refused[name] = said(error)
                continue
            problem = None if library.name == "stream" else wrong(got, cell)
            if problem is None:
                timed[library.name, name] = Timed(call, mode)
            elif library.name == "fastact":
                raise RuntimeError(f"fastact.{cell.op} {cell.kind}, {cell.x.size} elements: {problem}")
            else:
                rejected[f"{library.name} {name}"] = problem
    compete(timed, rounds)
    found: dict[str, Any] = {}
    for (library_name, form), t in timed.items():
        mine = found.setdefault(library_name, {"forms": {}})
        mine["forms"][form] = t.summary()
    for mine in found.values():
        mine["form"] = min(mine["forms"], key=lambda f: mine["forms"][f]["median"])
        mine["seconds"] = mine["forms"][mine["form"]]["median"]
    for library in libraries:
        rejected |= {f"{library.name} {form}": reason for form, reason in library.refused.items()}
        library.finish()
    stream = found.pop("stream", None)
    if stream and isinstance(cell, (FusedCell, NormCell, LossCell, UpdateCell)):
        stream["floor"] = stream["seconds"] * cell.streams / 2
    rivals = {name: mine["seconds"] for name, mine in found.items() if name not in ("fastact", "composed")}
    best = min(rivals, key=lambda name: rivals[name], default=None)
    seconds = found["fastact"]["seconds"]
    return {
        "op": cell.op,
        "kind": cell.kind,
        "size": cell.x.size,
        "fastact": seconds,
        "best_peer": best,
        "ratio": rivals[best] / seconds if best else None,
        "stream": stream,
        "stream_share": stream.get("floor", stream["seconds"]) / seconds if stream else None,
        "libraries": found,
        "rejected": rejected,
    }


def said(error: Exception) -> str:
    """The first line of an error."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def summarise(result: dict[str, Any]) -> dict[str, Any]:
    """Geometric mean, worst cell, by kind and size; share of the stream at the largest size."""
    rows = [r for r in result["cells"] if r["ratio"] is not None]
    if not rows:
        return {"cells": 0}
    worst = min(rows, key=lambda r: r["ratio"])
    groups: dict[str, list[float]] = {}
    for r in rows:
        groups.setdefault(f"{r['kind']} {r['size']}", []).append(r["ratio"])
    return {
        "cells": len(rows),
        "geometric_mean": geometric_mean(r["ratio"] for r in rows),
        "worst": {k: worst[k] for k in ("op", "kind", "size", "ratio", "best_peer")},
        "slower": [{k: r[k] for k in ("op", "kind", "size", "ratio", "best_peer")} for r in rows if r["ratio"] < 1],
        "by_kind_and_size": {k: geometric_mean(v) for k, v in groups.items()},
    }


def geometric_mean(values: Any) -> float:
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs))


# output


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], left: Iterable[int] = (0,)) -> str:
    """Rows as a table of a page, the columns `left` flush left and the others flush right."""
    flush = set(left)
    rule = [":---" if i in flush else "---:" for i in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def size_text(n: int) -> str:
    return f"2^{n.bit_length() - 1}" if n & (n - 1) == 0 and n >= 1024 else str(n)


def cell_name(row: dict[str, Any]) -> str:
    return f"{row['op']} {row['kind']}, {size_text(row['size'])}"


def time_text(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    micro = seconds * 1e6
    return f"{micro:.2f}" if micro < 10 else f"{micro:.1f}" if micro < 100 else f"{micro:.0f}"


def cell_table(result: dict[str, Any], width: int) -> Any:
    from rich.table import Table

    peers = [name for name in result["versions"] if name != "fastact"]
    if width < 64 + sum(len(name) + 3 for name in peers):
        peers = []
    settings = result["settings"]
    layout = f", {settings['layout']}" if "layout" in settings else ""
    table = Table(title=f"microseconds, median ({settings['dtype']}{layout})", title_justify="left")
    for name in ("activation", "kind", "size", "fastact", *peers, "best other", "ratio", "stream"):
        table.add_column(
            name, justify="left" if name in ("activation", "kind", "best other") else "right", no_wrap=True
        )
    for row in result["cells"]:
        times = {name: mine["seconds"] for name, mine in row["libraries"].items()}
        texts = [time_text(times.get(name)) for name in ("fastact", *peers)]
        best = row["best_peer"]
        texts.append("-" if best is None else best if peers else f"{time_text(times[best])} {best}")
        ratio = "-" if row["ratio"] is None else f"[{'green' if row['ratio'] >= 1 else 'red'}]{row['ratio']:.2f}[/]"
        table.add_row(row["op"], row["kind"], size_text(row["size"]), *texts, ratio, share_text(row))
    return table


def share_text(row: dict[str, Any]) -> str:
    """The share of the stream's speed, where the arrays are too large for the caches."""
    return f"{row['stream_share']:.0%}" if row["stream"] else ""


def show(result: dict[str, Any]) -> None:
    """Print the table and what follows from it."""
    from rich.console import Console

    console = Console()
    console.print(cell_table(result, console.width))
    for kind, moved in (("forward", 2), ("backward", 3), ("step", 2), ("update", 2)):
        rows = [r for r in result["cells"] if r["kind"] == kind and r["stream"]]
        if rows:
            rates = [
                moved * r["size"] * np.dtype(result["settings"]["dtype"]).itemsize / r["stream"]["seconds"] / 1e9
                for r in rows
            ]
            forms = ", ".join(sorted({r["stream"]["form"] for r in rows}))
            console.print(f"stream, {kind}: {min(rates):.1f} to {max(rates):.1f} GB/s ({forms})")
    for op, times in result["small_calls"].items():
        console.print(
            f"{op} on {SMALL} elements: " + ", ".join(f"{name} {time_text(t)} µs" for name, t in times.items())
        )
    for name, reason in result["missing"].items():
        console.print(f"{name}: {reason}")
    summary = result["summary"]
    if summary["cells"]:
        worst = summary["worst"]
        console.print(
            f"ratio to the fastest other library, {summary['cells']} measurements: "
            f"geometric mean {summary['geometric_mean']:.2f}, "
            f"worst {worst['ratio']:.2f} ({cell_name(worst)}, {worst['best_peer']})"
        )
    for row in result["cells"]:
        for form, problem in row["rejected"].items():
            console.print(f"not counted: {form}, {cell_name(row)}: {problem}")


def picture_of(result: dict[str, Any]) -> Any:
    """The ratio to the best peer, activation by size, one panel for each kind, as a figure of matplotlib."""
    from matplotlib import colormaps, colors
    from matplotlib.figure import Figure

    rows = result["cells"]
    kinds, ops, sizes = (list(dict.fromkeys(r[key] for r in rows)) for key in ("kind", "op", "size"))
    ratios = {(r["kind"], r["op"], r["size"]): r["ratio"] for r in rows}
    figure = Figure(figsize=(1.6 + len(kinds) * (1 + 0.8 * len(sizes)), 1.4 + 0.34 * len(ops)), layout="constrained")
    axes = figure.subplots(1, len(kinds), squeeze=False)[0]
    limit = max([2.0, *(max(v, 1 / v) for v in ratios.values() if v is not None)])
    norm, cmap = colors.LogNorm(1 / limit, limit), colormaps["RdYlGn"].with_extremes(bad="0.9")
    for axis, kind in zip(axes, kinds, strict=True):
        values = [[ratios.get((kind, op, n)) or math.nan for n in sizes] for op in ops]
        axis.imshow(values, norm=norm, cmap=cmap, aspect="auto")
        axis.set_xticks(range(len(sizes)), [size_text(n) for n in sizes])
        axis.set_yticks(range(len(ops)), ops if axis is axes[0] else [])
        axis.set_title(kind)
        axis.set_xlabel("elements")
        for i, line in enumerate(values):
            for j, value in enumerate(line):
                if not math.isnan(value):
                    red, green, blue, _ = cmap(norm(value))
                    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
                    axis.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if dark else "black")
                elif (kind, ops[i], sizes[j]) in ratios:
                    axis.text(j, i, "no other", ha="center", va="center", color="0.3", size="small")
    figure.suptitle("how many times faster than the fastest other library")
    return figure


# the command


def _op(text: str) -> str:
    if text in (*ROWS, DROPOUT) or text in (*optimisers.OPS, *STEPPED, *attention.OPS):
        return text
    name, dot, fusion = text.partition(".")
    if dot and fusion not in FUSIONS:
        raise argparse.ArgumentTypeError(f"{text!r}: {name} is fused as {' and '.join(FUSIONS)}")
    try:
        return without_required(TABLE[fa.get(name).name]).name + dot + fusion
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _size(text: str) -> int:
    base, _, power = text.partition("^")
    if not base.isdecimal() or int(base) < 1 or (power and not power.isdecimal()) or text.endswith("^"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer, nor a power such as 2^20")
    if int(power or 1) * math.log2(int(base)) > 62:
        raise argparse.ArgumentTypeError(f"{text!r} is more than the elements of any array")
    return int(base) ** int(power or 1)


def _list_of(convert: Callable[[str], Any], choices: Sequence[str] = ()) -> Callable[[str], tuple[Any, ...]]:
    def parse(text: str) -> tuple[Any, ...]:
        found = tuple(convert(part.strip()) for part in text.split(","))
        for part in found:
            if choices and part not in choices:
                raise argparse.ArgumentTypeError(f"{part!r} is not one of {', '.join(choices)}")
        return found

    return parse


def _threads(text: str) -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isdecimal() or not 1 <= int(text) <= available:
        raise argparse.ArgumentTypeError(f"{text!r}: this process may run on 1 to {available} CPUs")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(error=parser.error)
    parser.add_argument(
        "ops",
        nargs="*",
        type=_op,
        metavar="OP",
        help=f"activations or {DROPOUT} (default: {', '.join(OPS)}), "
        f"fused with {' or '.join(FUSIONS)} as in {', '.join(FUSED)}; "
        f"norms and losses: {', '.join(STEPPED)}; "
        f"in attention: {', '.join(attention.OPS)}; steps of optimisers: {', '.join(optimisers.OPS)}",
    )
    parser.add_argument(
        "--kinds",
        type=_list_of(str, ALL_KINDS),
        default=ALL_KINDS,
        help="forward,backward, of fused functions, norms and losses forward,step, of optimisers update (default: all)",
    )
    parser.add_argument(
        "--against",
        type=_list_of(str, tuple(PEERS)),
        default=AGAINST,
        help=f"of {','.join(PEERS)} (default: all but torch.compile)",
    )
    parser.add_argument("--sizes", type=_list_of(_size), default=SIZES, help="default: 2^10,2^16,2^20,2^24")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0])
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default=LAYOUTS[0],
        help="of activations and softmax: every second element of longer arrays, or one row of x for all rows",
    )
    parser.add_argument(
        "--threads", type=_threads, help=f"for every library (default: {THREADS}, if there are as many CPUs)"
    )
    parser.add_argument(
        "--rounds", type=positive, default=ROUNDS, help=f"how often each library is measured (default: {ROUNDS})"
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cuda: activations on a GPU, beside a copy"
    )
    parser.add_argument("--json", type=file, metavar="FILE", help="write every number")
    parser.add_argument("--plot", type=picture, metavar="FILE", help="draw the ratios to the fastest other library")


def run_on_gpu(args: argparse.Namespace, ops: tuple[str, ...]) -> int:
    """Activations on a GPU, in times of a copy."""
    from rich.console import Console
    from rich.table import Table

    from fastact.backends import cuda
    from fastact.tools import device

    why_not = "the simulator has no speed" if cuda.simulated() else device.missing()
    if why_not is not None:
        args.error(f"no GPU to measure: {why_not}")
    names = device.benchable(ops)
    kinds = tuple(kind for kind in ("forward", "backward") if kind in args.kinds)
    if not names or not kinds:
        args.error("--device cuda measures activations, forward and backward; benchmarks/gpu.py measures the rest")
    found = device.bench(names, kinds, args.sizes, args.dtype, args.rounds)
    title = f"{cuda.device_name(0)}, {args.dtype}: microseconds of the device"
    table = Table(title=title, title_justify="left")
    for column in ("", "", "elements", "µs", "GB/s", "of a copy's speed"):
        table.add_column(column, justify="left" if not column else "right")
    for cell in found:
        table.add_row(
            cell["op"], cell["kind"], size_text(cell["size"]), f"{cell['us']:.1f}", f"{cell['GB/s']:.0f}",
            f"{cell['of a copy']:.2f}",
        )  # fmt: skip
    Console().print(table)
    if args.json:
        Path(args.json).write_text(json.dumps({"device": cuda.device_name(0), "cells": found}, indent=1) + "\n")
    return 0


def run(args: argparse.Namespace) -> int:
    from rich.progress import Progress, TimeElapsedColumn, TimeRemainingColumn

    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = args.threads or min(THREADS, available)
    ops = tuple(dict.fromkeys(args.ops)) or OPS
    if args.device == "cuda":
        return run_on_gpu(args, ops)
    total = sum(len(kinds_of(op, args.kinds)) * len(sizes_of(op, args.sizes)) for op in ops)
    if not total:
        args.error(f"nothing to measure: {', '.join(ops)} cannot run {', '.join(args.kinds)}")
    fixed = [op for op in ops if not takes_layouts(op)]
    if args.layout != LAYOUTS[0] and fixed:
        args.error(f"{', '.join(fixed)}: --layout {args.layout} is for activations and softmax")
    # before minutes of measuring, not after
    largest = max(n for op in ops for n in sizes_of(op, args.sizes))
    arrays = 2 * ARRAYS if args.layout == "strided" else ARRAYS
    needed, there = arrays * largest * np.dtype(args.dtype).itemsize, memory_of_machine()
    if there is not None and needed > there:
        args.error(
            f"{size_text(largest)} elements are too many: the arrays of a cell need about {needed / 2**30:,.0f} GiB, "
            f"this machine has {there / 2**30:,.0f} GiB"
        )
    missing = {name: reason for name in args.against if (reason := PEERS[name].missing()) is not None}
    if len(missing) == len(args.against):
        args.error(f"nothing to compare with: {'; '.join(f'{k}: {v}' for k, v in missing.items())}")
    if missing and args.against is not AGAINST:
        print("\n".join(f"left out: {name}: {reason}" for name, reason in missing.items()), file=sys.stderr)
    before = fa.get_num_threads()
    try:
        with Progress(*Progress.get_default_columns()[:-1], TimeElapsedColumn(), TimeRemainingColumn()) as progress:
            task = progress.add_task("measuring", total=total)

            def report(row: dict[str, Any]) -> None:
                progress.update(task, advance=1, description=cell_name(row))

            result = measure(
                ops, args.kinds, args.against, args.sizes, args.dtype, threads, args.rounds, report, args.layout
            )
    finally:
        fa.set_num_threads(before)
    show(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    if args.plot:
        picture_of(result).savefig(args.plot, dpi=150)
    return 0
