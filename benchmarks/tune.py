"""Measure from how many bytes on threads and streaming stores pay: ``python -m benchmarks.tune [--write NAME]``.

`--write` puts the thresholds of this kind of CPU into ``fastact/thresholds.json``, which ``fastact.dispatch`` reads,
and the measurement into ``benchmarks/results/thresholds-NAME.json``.

Threads: each size is timed on one thread and on all, called back to back (the workers still look for work) and after a
pause in which they have gone to sleep, as after a matrix product. Threads pay from the size on from which they win in
the geometric mean over activations, and at every larger size: one limit for either situation, the second as a multiple
of the first.

Streaming stores (past the cache): arrays are computed in turn, each from the one before, so that every call reads what
the last one has written, as layers do; timing a call alone would not charge it for a result that left the cache. Two,
four and eight arrays count alike: how many there are decides how many stay there. The stores pay from the size on from
which they win in the geometric mean, and at every larger size.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import fastact as fa
from fastact import dispatch
from fastact.runtime import _driver
from fastact.tools import bench

# activations that stand for a cost class (dispatch.limits)
SAMPLES = {"cheap": ("relu", "leaky_relu"), "costly": ("sigmoid", "gelu", "mish")}
PARALLEL_SIZES = [2**k for k in range(9, 21)]
LAYERS = (2, 4, 8)
STREAM_SIZES = [2**k for k in range(18, 26)]
NEVER = 2**62
SITUATIONS = ("back to back", "after a pause")
PAUSE = 300e-6  # longer than a worker looks for work
ROUNDS = 9
FILE = Path(dispatch.__file__).with_name("thresholds.json")
RESULTS = Path(__file__).with_name("results")


@contextlib.contextmanager
def forced(parallel_min: int | None = None, stream_min: int | None = None) -> Iterator[None]:
    """Calls run with these thresholds, in bytes."""
    before, stream = dict(dispatch.PARALLEL_MIN_BYTES), _driver.status()["stream_min"]
    _driver.configure(asleep_factor=1)
    if parallel_min is not None:
        dispatch.PARALLEL_MIN_BYTES.update(dict.fromkeys(before, parallel_min))
    if stream_min is not None:
        _driver.configure(stream_min=stream_min)
    reset()
    try:
        yield
    finally:
        dispatch.PARALLEL_MIN_BYTES.update(before)
        _driver.configure(stream_min=stream, asleep_factor=dispatch.ASLEEP_FACTOR)
        reset()


def reset() -> None:
    # kernels keep the limits they were resolved with
    for function in dispatch._functions:
        function.reset()


def after_pause(call: Callable[[], Any]) -> float:
    """Seconds of one call after the pause, the median of many."""
    found = []
    for _ in range(51):
        end = time.perf_counter() + PAUSE
        while time.perf_counter() < end:
            pass
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def back_to_back(call: Callable[[], Any]) -> float:
    timed = bench.Timed(call)
    timed.trial()
    return timed.seconds[0]


def calls(op: str, kind: str, n: int) -> tuple[Callable[[], Any], int]:
    """A call, and the bytes that it reads and writes."""
    cell = next(bench.cells([op], [kind], [n], np.dtype("float32")))
    f = fa.activations[op]
    if kind == "forward":
        return partial(f, cell.x, out=cell.out), 2 * cell.x.nbytes
    return partial(f.backward, cell.dy, cell.x, out=cell.out), 3 * cell.x.nbytes


def in_turn(op: str, n: int, count: int) -> Callable[[], Any]:
    """Computes each of `count` arrays from the one before."""
    f = fa.activations[op]
    arrays = [next(bench.cells([op], ["forward"], [n], np.dtype("float32"))).x for _ in range(count)]

    def round_trip() -> None:
        for i in range(count):
            f(arrays[i - 1], out=arrays[i])

    return round_trip


def break_even(gains: dict[int, float]) -> int:
    """The smallest key from which on every gain is above 1; NEVER if the last is not."""
    found = NEVER
    for size in sorted(gains, reverse=True):
        if gains[size] <= 1:
            break
        found = size
    return found


def measure_parallel(threads: int) -> tuple[dict[str, int], list[dict[str, Any]]]:
    rows = []
    for cost, ops in SAMPLES.items():
        for op in ops:
            for kind in bench.KINDS:
                for n in PARALLEL_SIZES:
                    call, size = calls(op, kind, n)
                    row: dict[str, Any] = {"cost": cost, "op": op, "kind": kind, "elements": n, "bytes": size}
                    times: dict[str, list[float]] = {}
                    for _ in range(ROUNDS):
                        for name, limit in (("one", NEVER), ("all", 0)):
                            with forced(parallel_min=limit):
                                call()
                                times.setdefault(f"{name}, back to back", []).append(back_to_back(call))
                                times.setdefault(f"{name}, after a pause", []).append(after_pause(call))
                    rows.append(row | {name: statistics.median(found) for name, found in times.items()})
    return {cost: parallel_limit(rows, cost, ("back to back",)) for cost in SAMPLES}, rows


def parallel_limit(rows: list[dict[str, Any]], cost: str, situations: tuple[str, ...]) -> int:
    gains: dict[int, list[float]] = {}
    for row in rows:
        if row["cost"] == cost:
            # sizes of forward and backward differ: a limit of a power of two takes in all up to the next
            size = 1 << (row["bytes"].bit_length() - 1)
            for when in situations:
                gains.setdefault(size, []).append(row[f"one, {when}"] / row[f"all, {when}"])
    return break_even({size: bench.geometric_mean(g) for size, g in gains.items()})


def measure_stream() -> tuple[int, list[dict[str, Any]]]:
    rows = []
    for op, count, n in product(("relu", "sigmoid"), LAYERS, STREAM_SIZES):
        call = in_turn(op, n, count)
        row: dict[str, Any] = {"op": op, "arrays": count, "elements": n, "bytes": 4 * n}
        times: dict[str, list[float]] = {"through": [], "past": []}
        for _ in range(ROUNDS):
            for name, limit in (("through", NEVER), ("past", 0)):
                with forced(stream_min=limit):
                    call()
                    times[name].append(back_to_back(call) / count)
        rows.append(row | {f"{name} the cache": statistics.median(t) for name, t in times.items()})
    gains: dict[int, list[float]] = {}
    for row in rows:
        gains.setdefault(row["bytes"], []).append(row["through the cache"] / row["past the cache"])
    return break_even({size: bench.geometric_mean(g) for size, g in gains.items()}), rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=bench.THREADS)
    parser.add_argument("--write", metavar="NAME", help=f"write {FILE.name} in the package, and the measurement beside")
    args = parser.parse_args()
    fa.set_num_threads(args.threads)
    parallel, parallel_rows = measure_parallel(args.threads)
    asleep_most = parallel_limit(parallel_rows, "cheap", ("after a pause",))
    asleep = parallel_limit(parallel_rows, "costly", ("after a pause",)) // parallel["costly"]
    stream, stream_rows = measure_stream()
    result = {
        "parallel_min_bytes": parallel,
        "asleep_factor": asleep,
        "asleep_most_bytes": asleep_most,
        "stream_min_bytes": stream,
        "measured": {
            "by": "python -m benchmarks.tune",
            "machine": bench.machine(),
            "threads": args.threads,
            "scheduler": bench.scheduler(),
            "break_even": {
                when: {cost: parallel_limit(parallel_rows, cost, (when,)) for cost in SAMPLES} for when in SITUATIONS
            },
            "parallel": parallel_rows,
            "stream": stream_rows,
        },
    }
    show(result)
    if args.write:
        if NEVER in (stream, *parallel.values()):
            parser.exit(1, "no break-even within the sizes measured: nothing written\n")
        RESULTS.joinpath(f"thresholds-{args.write}.json").write_text(json.dumps(result, indent=1) + "\n")
        result.pop("measured")
        known = json.loads(FILE.read_text(encoding="utf-8"))
        # the models of a family of AMD's have the same cores, of Intel's not
        exact, family = dispatch.kinds_of_cpu()
        known[exact if family.startswith("GenuineIntel") else family] = result
        FILE.write_text(json.dumps(known, indent=1) + "\n")


def show(result: dict[str, Any]) -> None:
    for row in result["measured"]["parallel"]:
        gains = ", ".join(f"{when} {row[f'one, {when}'] / row[f'all, {when}']:.2f}" for when in SITUATIONS)
        print(f"{row['op']} {row['kind']}, {row['bytes'] // 1024} KiB: threads gain {gains}")
    for row in result["measured"]["stream"]:
        gain = row["through the cache"] / row["past the cache"]
        print(f"{row['op']}, {row['arrays']} arrays, {row['bytes'] // 1024} KiB of output: streaming gains {gain:.2f}")
    print(
        json.dumps(
            {k: result[k] for k in ("parallel_min_bytes", "asleep_factor", "asleep_most_bytes", "stream_min_bytes")}
        )
    )


if __name__ == "__main__":
    main()
