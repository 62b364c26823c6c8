"""``fastact verify NAME``: every number of a type through an activation, and a verdict for each bound.

The reference is ``fastact.tools.truth``: textbook definitions in float64 that share nothing with the formulas. The
error is counted in units in the last place (ULP) of the type in the binade of the true value, which is not rounded: a
correctly rounded result is at most 0.5 ULP off.

float64 has too many numbers for that: SAMPLES of them are looked at, and the reference is ``fastact.tools.exact``.
Functions over rows and losses are tried on rows of random numbers: ``fastact.tools.verify_rows``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

import fastact as fa
from fastact.spec.table import OPS
from fastact.tools.arguments import natural, parameter, positive
from fastact.tools.truth import TRUTH

KINDS = ("forward", "backward")
# spec of the library: docs/accuracy.md
LINEAR_ULP, FORWARD_ULP, DERIVATIVE_ULP = 0.5, 2.0, 4.0
HALF_ULP, HALF_MISROUNDED = 1.0, 1e-3

# stored bits of the fraction, smallest normal exponent, exponent that overflows
FORMATS = {
    "float32": (23, -126, 128),
    "float16": (10, -14, 16),
    "bfloat16": (7, -126, 128),
    "float64": (52, -1022, 1024),
}
PATTERNS = {"float32": 2**32, "float16": 2**16, "bfloat16": 2**16}
SAMPLES = 2000  # of float64
# of float64, beside the sampled ones
SPECIAL = (math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, -5e-324, np.finfo(float).max, np.finfo(float).min)
CHUNK = 2**22  # patterns between two movements of the progress bar
BLOCK = 2**15  # float64 temporaries of this length stay in the L2 cache
_EXPONENT_BITS = np.uint64(0x7FF << 52)


def numpy_type(dtype: str) -> np.dtype:
    if dtype == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(dtype)


@dataclass
class Worst:
    """The largest error seen, and the input where."""

    error: float = -1.0
    pattern: int = 0
    got: float = 0.0
    true: float = 0.0

    def see(self, errors: np.ndarray, patterns: np.ndarray, got: np.ndarray, true: np.ndarray) -> None:
        i = int(np.argmax(errors))
        if errors[i] > self.error:
            self.error, self.pattern = float(errors[i]), int(patterns[i])
            self.got, self.true = float(got[i]), float(true[i])

    def join(self, other: Worst) -> Worst:
        return max(self, other, key=lambda w: w.error)


@dataclass
class Found:
    """What a sweep found, one figure for each bound."""

    count: int = 0
    ulp: Worst = field(default_factory=Worst)  # normal results
    tiny: Worst = field(default_factory=Worst)  # results below the smallest normal number, in smallest normals
    excused: Worst = field(default_factory=Worst)  # near a zero of the derivative, in epsilons
    special: Worst = field(
        default_factory=Worst
    )  # 1 for a NaN or an infinity where none belongs, or none where one does
    misrounded: int = 0

    def join(self, other: Found) -> Found:
        return Found(
            self.count + other.count,
            self.ulp.join(other.ulp),
            self.tiny.join(other.tiny),
            self.excused.join(other.excused),
            self.special.join(other.special),
            self.misrounded + other.misrounded,
        )


@dataclass
class Check:
    """One activation, kind and type to verify, with parameters."""

    name: str
    kind: str
    dtype: str
    params: Mapping[str, float]

    def __post_init__(self) -> None:
        self.numpy_type = numpy_type(self.dtype)
        self.unsigned = np.dtype(f"u{self.numpy_type.itemsize}")
        # left out where they are the defaults, which may have a kernel of their own
        defaults = {p.name: p.default for p in OPS[self.name].params}
        self.given = {k: v for k, v in self.params.items() if v != defaults[k]}
        # what a kernel gets: the parameter rounded to the type it computes in
        compute = np.float64 if self.dtype == "float64" else np.float32
        self.rounded = {k: float(compute(v)) for k, v in self.params.items()}
        truth = TRUTH[self.name]
        self.true: Callable[..., np.ndarray] = truth.value if self.kind == "forward" else truth.derivative
        self.linear = truth.linear
        scale = next((abs(v) for k, v in self.rounded.items() if k == "beta" and self.name == "silu"), 1.0)
        self.zeros = tuple(z / scale for z in truth.zeros) if self.kind == "backward" and scale else ()
        self.ones = np.ones(BLOCK, self.numpy_type)

    def compute(self, x: np.ndarray) -> np.ndarray:
        f = fa.activations[self.name]
        if self.kind == "forward":
            return f(x, **self.given)
        backward: Any = f.backward
        dx = backward(self.ones[: x.size], x, **self.given)
        return dx[0] if isinstance(dx, tuple) else dx

    def sweep(self, first: int, last: int, stride: int = 1) -> Found:
        """All patterns of range(first, last, stride)."""
        found = Found()
        steps = np.arange(0, BLOCK * stride, stride, dtype=np.uint64).astype(self.unsigned)
        with np.errstate(all="ignore"):
            for start in range(first, last, BLOCK * stride):
                count = min(BLOCK, -(-(last - start) // stride))
                self.look(steps[:count] + self.unsigned.type(start), found)
        return found

    def look(self, patterns: np.ndarray, found: Found) -> None:
        x = patterns.view(self.numpy_type)
        result = self.compute(x)
        x64, got = x.astype(np.float64), result.astype(np.float64)
        true = np.broadcast_to(self.true(x64, **self.rounded), x64.shape)
        found.count += x.size
        if self.dtype == "float32" and not self.worse(got, true, found):
            return

        fraction, low, high = FORMATS[self.dtype]
        # NaN in, NaN out; else NaN and infinity only where the truth has them, but the truth may round to infinity
        true = np.where(np.isnan(x64), np.nan, true)
        limit = 2.0**high
        bounded, got_bounded = np.clip(true, -limit, limit), np.clip(got, -limit, limit)
        special = (np.isnan(got) != np.isnan(true)) | (np.isinf(true) & (got != true))
        found.special.see(special.astype(np.float64), patterns, got, true)

        absolute = np.where(special | np.isnan(true), 0.0, np.abs(got_bounded - bounded))
        smallest = 2.0**low
        ulp = absolute / (np.clip(binade(bounded), smallest, 2.0 ** (high - 1)) * 2.0**-fraction)
        normal = np.abs(bounded) >= smallest
        found.tiny.see(np.where(normal, -1.0, absolute / smallest), patterns, got, true)
        near = np.zeros(x.shape, bool)
        for zero in self.zeros:
            near |= np.abs(x64 - zero) <= 1
        if near.any():
            near &= (ulp > DERIVATIVE_ULP) & (absolute <= 2.0**-fraction)
            found.excused.see(np.where(near, absolute * 2.0**fraction, -1.0), patterns, got, true)
        found.ulp.see(np.where(normal & ~near, ulp, -1.0), patterns, got, true)
        if self.dtype != "float32":
            rounded = true.astype(self.numpy_type).astype(np.float64)
            found.misrounded += int(np.count_nonzero(~np.isnan(true) & (got != rounded)))

    def worse(self, got: np.ndarray, true: np.ndarray, found: Found) -> bool:
        """Whether a block needs a closer look; most are exact, or normal numbers with smaller errors than before."""
        absolute = np.abs(got - true)
        largest = absolute.max()
        if largest == 0:
            return False
        fraction, low, _ = FORMATS[self.dtype]
        units = binade(true)
        # false for NaN
        return not (units.min() >= 2.0**low and (absolute / units).max() * 2.0**fraction <= found.ulp.error)


def sampled(check: Check, samples: int, seed: int, progress: Callable[[int], object]) -> Found:
    """Numbers of float64 against `exact`: random bit patterns, as many normally distributed, and special ones."""
    import mpmath

    from fastact.tools import exact

    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 2**64, samples // 2, dtype=np.uint64).view(np.float64)
    near = rng.standard_normal(samples - samples // 2) * rng.choice([0.01, 1.0, 5.0, 40.0], samples - samples // 2)
    x = np.concatenate([SPECIAL, patterns, near])
    found = Found(count=x.size)
    fraction, low, high = FORMATS["float64"]
    value = exact.value if check.kind == "forward" else exact.derivative
    with np.errstate(all="ignore"):
        results = check.compute(x)
        # at NaN and at infinities the definitions of `truth` give limits
        limits = np.broadcast_to(check.true(x, **check.rounded), x.shape)
    with mpmath.workdps(exact.DIGITS):
        two = mpmath.mpf(2)
        for one, pattern, got, limit in zip(x, x.view(np.uint64), results, limits, strict=True):
            progress(1)
            at = np.array([pattern]), np.array([got])
            if not np.isfinite(one):
                true = np.nan if np.isnan(one) else limit
                wrong = np.isnan(got) != np.isnan(true) or (np.isinf(true) and got != true)
                found.special.see(np.array([float(wrong)]), *at, np.array([true]))
                continue
            true = value(check.name, mpmath.mpf(float(one)), check.rounded)
            if true is None:  # a kink, or a jump
                continue
            # the first power of two that overflows stands for infinity
            bounded = max(-(two**high), min(two**high, true))
            shown = np.array([float(bounded) if abs(bounded) < two**high else math.copysign(math.inf, bounded)])
            found.special.see(np.array([float(np.isnan(got))]), *at, shown)
            if np.isnan(got):
                continue
            absolute = abs((mpmath.mpf(float(got)) if np.isfinite(got) else two**high * int(np.sign(got))) - bounded)
            if abs(bounded) < two**low:
                found.tiny.see(np.array([float(absolute / two**low)]), *at, shown)
                continue
            exponent = min(mpmath.frexp(bounded)[1] - 1, high - 1)
            ulp = float(absolute / two ** (exponent - fraction))
            close = any(abs(one - zero) <= 1 for zero in check.zeros)
            if close and ulp > DERIVATIVE_ULP and absolute <= two**-fraction:
                found.excused.see(np.array([float(absolute * two**fraction)]), *at, shown)
            else:
                found.ulp.see(np.array([ulp]), *at, shown)
    return found


def binade(a: np.ndarray) -> np.ndarray:
    """2^floor(log2 |a|): the float64 with the fraction bits and the sign cleared; 0 for 0 and subnormal a."""
    return (np.ascontiguousarray(a).view(np.uint64) & _EXPONENT_BITS).view(np.float64)


@dataclass
class Verdict:
    """One bound and what was found."""

    bound: str
    limit: float
    measured: float
    input: str | None = None
    got: float | None = None
    true: float | None = None

    @property
    def holds(self) -> bool:
        return self.measured <= self.limit


def verdicts(check: Check, found: Found) -> list[Verdict]:
    digits = check.numpy_type.itemsize * 2

    def verdict(bound: str, limit: float, worst: Worst) -> Verdict:
        if worst.error <= 0:
            return Verdict(bound, limit, 0.0)
        value = float(np.array(worst.pattern, check.unsigned).view(check.numpy_type))
        return Verdict(bound, limit, worst.error, f"0x{worst.pattern:0{digits}x} ({value:.9g})", worst.got, worst.true)

    half = check.numpy_type.itemsize == 2
    if half:
        limit = HALF_ULP
    elif check.kind == "backward":
        limit = DERIVATIVE_ULP
    else:
        limit = LINEAR_ULP if check.linear else FORWARD_ULP
    made = [
        verdict("error, ULP", limit, found.ulp),
        verdict("subnormal results, smallest normals", 1.0, found.tiny),
        verdict("NaN or infinity out of place", 0.0, found.special),
    ]
    if check.zeros:
        made.insert(1, verdict("else near f' = 0: error, epsilons", 1.0, found.excused))
    if half:
        made.append(Verdict("share not correctly rounded", HALF_MISROUNDED, found.misrounded / max(1, found.count)))
    return made


def verify(
    name: str,
    kind: str = "forward",
    dtype: str = "float32",
    params: Mapping[str, float] | None = None,
    stride: int = 1,
    threads: int | None = None,
    progress: Callable[[int], object] = lambda count: None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> tuple[Found, list[Verdict]]:
    """Sweep every `stride`-th bit pattern of `dtype`; `progress` gets the number of patterns just done.

    Of float64 `samples` numbers are looked at, which follow from `seed`.

    Examples
    --------
    >>> found, bounds = verify("relu", stride=2**16 + 1)
    >>> found.count, all(b.holds for b in bounds)
    (65536, True)
    """
    op = OPS[name]
    values = {p.name: p.default for p in op.params} | dict(params or {})
    check = Check(name, kind, dtype, values)  # type: ignore[arg-type]
    if dtype == "float64":
        found = sampled(check, samples, seed, progress)
        return found, verdicts(check, found)
    total = PATTERNS[dtype]
    chunk = CHUNK * stride
    threads = threads or fa.get_num_threads()
    found = Found()
    # the sweep has its own threads; each call stays in one
    before = fa.get_num_threads()
    fa.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            for part in pool.map(
                lambda first: check.sweep(first, min(total, first + chunk), stride), range(0, total, chunk)
            ):
                found = found.join(part)
                progress(part.count)
    finally:
        fa.set_num_threads(before)
    return found, verdicts(check, found)


# the command


def _name(text: str) -> str:
    from fastact.tools.verify_rows import CASES

    if text in CASES:
        return text
    try:
        return fa.get(text).name
    except ValueError as error:
        more = f"; functions over rows and losses: {', '.join(CASES)}" if "there are " in str(error) else ""
        raise argparse.ArgumentTypeError(f"{error}{more}") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", type=_name, metavar="NAME", help="an activation, softmax or a relative, or a loss")
    parser.add_argument(
        "--dtype",
        choices=tuple(FORMATS),
        default="float32",
        help="float64 is sampled, the others are looked at as a whole; functions over rows: float32, float64",
    )
    parser.add_argument("--kind", choices=KINDS, help="default: both")
    parser.add_argument(
        "--stride", type=positive, default=1, help="look at every N-th bit pattern only (default: 1, all)"
    )
    parser.add_argument(
        "--samples",
        type=positive,
        metavar="N",
        help=f"numbers of float64 (default: {SAMPLES}); of functions over rows, for each length and spread",
    )
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="of what is sampled, default: 0")
    parser.add_argument(
        "--param", type=parameter, action="append", default=[], metavar="NAME=NUMBER", help="e.g. alpha=0.5"
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="cuda: compare the results of a GPU with those of the CPU, bit by bit",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(error=parser.error)


# (advance) -> what was found: a verification of one kind, and the number of its steps
Job = tuple[str, int, Callable[[Callable[[int], object]], tuple[Found, list[Verdict]]]]


def jobs_of_activation(args: argparse.Namespace) -> list[Job]:
    params, op, sample = dict(args.param), OPS[args.name], args.dtype == "float64"
    unknown = sorted(params.keys() - {p.name for p in op.params})
    if unknown:
        args.error(
            f"{op.name} has no parameter {', '.join(unknown)}; it has {', '.join(p.name for p in op.params) or 'none'}"
        )
    absent = [p.name for p in op.params if p.default is None and p.name not in params]
    if absent:
        args.error(f"{op.name} needs {', '.join(f'--param {name}=NUMBER' for name in absent)}")
    needed = {"bfloat16": "ml_dtypes", "float64": "mpmath"}.get(args.dtype)
    if needed and importlib.util.find_spec(needed) is None:
        args.error(f"{args.dtype} needs {needed}, which is not installed: pip install {needed}")
    if sample and args.stride != 1:
        args.error("float64 is sampled: --samples N says how many numbers, and --stride does not apply")
    if not sample and args.samples:
        args.error(
            f"--samples is for float64; of {args.dtype} all numbers are looked at, or every N-th with --stride N"
        )
    try:
        fa.activations[op.name](np.float32(0.5), **params)
    except ValueError as error:
        args.error(str(error))
    if args.device == "cuda":
        return jobs_on_gpu(args, params)
    samples = args.samples or SAMPLES
    total = len(SPECIAL) + samples if sample else -(-PATTERNS[args.dtype] // args.stride)

    def job(kind: str) -> Job:
        return kind, total, lambda advance: verify(
            op.name, kind, args.dtype, params, args.stride, progress=advance, samples=samples, seed=args.seed
        )  # fmt: skip

    return [job(kind) for kind in ((args.kind,) if args.kind else KINDS)]


def jobs_on_gpu(args: argparse.Namespace, params: Mapping[str, float]) -> list[Job]:
    from fastact.tools import device

    why_not = device.missing()
    if why_not is not None:
        args.error(f"no GPU to compute on: {why_not}")
    if args.dtype == "float64":
        args.error("results of a GPU are compared for float32, float16 and bfloat16, of which all numbers can be tried")
    total = -(-PATTERNS[args.dtype] // args.stride)
    # all that have no default are given
    values = {p.name: params.get(p.name, p.default or 0.0) for p in OPS[args.name].params}

    def compared(kind: str, advance: Callable[[int], object]) -> tuple[Found, list[Verdict]]:
        check = Check(args.name, kind, args.dtype, values)
        check.ones = np.ones(device.CHUNK, check.numpy_type)
        patterns = device.patterns_of(check.numpy_type, PATTERNS[args.dtype], args.stride)
        count, bad, first = device.differing(check.compute, patterns, advance)
        verdict = Verdict("results unlike the CPU's", 0.0, float(bad))
        if first is not None:
            x, got, want = first
            verdict.input, verdict.got, verdict.true = f"{x!r}", float(got), float(want)
        return Found(count), [verdict]

    return [(kind, total, partial(compared, kind)) for kind in ((args.kind,) if args.kind else KINDS)]


def jobs_over_rows(args: argparse.Namespace) -> list[Job]:
    from fastact.tools import verify_rows as rows

    if args.device == "cuda":
        args.error(f"{args.name} has another order of additions on a GPU: only activations are compared bit by bit")

    if args.param:
        args.error(f"{args.name} is tried with its defaults: it takes no --param here")
    if args.stride != 1:
        args.error(
            f"{args.name} is tried on random rows: --samples N says on how many numbers, and --stride does not apply"
        )
    if args.dtype not in rows.WIDE:
        args.error(f"{args.name} can be verified for {' and '.join(rows.WIDE)}, not for {args.dtype}")
    if not rows.is_wider(args.dtype):
        args.error(f"this machine has no type that is wider than {args.dtype}")
    kinds = rows.kinds_of(args.name)
    if args.kind and args.kind not in kinds:
        args.error(f"{args.name} has no {args.kind}: its gradient is dy·softmax(x)")
    elements = args.samples or rows.ELEMENTS
    total = len(rows.LENGTHS) * len(rows.CASES[args.name].spreads)

    def job(kind: str) -> Job:
        return kind, total, lambda advance: rows.verify(args.name, kind, args.dtype, elements, args.seed, advance)

    return [job(kind) for kind in ((args.kind,) if args.kind else kinds)]


def run(args: argparse.Namespace) -> int:
    over_rows = args.name not in OPS
    jobs = jobs_over_rows(args) if over_rows else jobs_of_activation(args)
    sample = over_rows or args.dtype == "float64"
    results = []
    start = time.perf_counter()
    if args.json:
        results = [(kind, *job(lambda count: None)) for kind, _, job in jobs]
    else:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            MofNCompleteColumn(),
        )
        with Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()) as bar:
            for kind, total, job in jobs:
                task = bar.add_task(f"{args.name} {kind}", total=total)
                results.append((kind, *job(partial(bar.advance, task))))
    seconds = time.perf_counter() - start
    missed = [v for _, _, made in results for v in made if not v.holds]
    if args.json:
        print(
            json.dumps(
                {
                    "name": args.name,
                    "dtype": args.dtype,
                    "params": dict(args.param),
                    "stride": args.stride,
                    "sampled": sample,
                    "seconds": seconds,
                    "kinds": {
                        kind: {"count": found.count, "bounds": [{**asdict(v), "holds": v.holds} for v in made]}
                        for kind, found, made in results
                    },
                    "holds": not missed,
                },
                indent=1,
            )
        )
    else:
        show(args.name, args.dtype, results, seconds, sample)
    return 1 if missed else 0


def show(
    name: str, dtype: str, results: list[tuple[str, Found, list[Verdict]]], seconds: float, sample: bool = False
) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    count = sum(found.count for _, found, _ in results)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    what = f"a sample of {count:,} results" if sample else f"{count:,} inputs"
    table = Table(title=f"{name}, {dtype}: {what} in {seconds:.0f} s on {cpus} CPUs", title_justify="left")
    for column in ("", "bound", "limit", "found", "worst input", ""):
        table.add_column(column, justify="right" if column in ("limit", "found") else "left")
    for kind, _, made in results:
        for v in made:
            mark = "[green]holds[/]" if v.holds else "[red]missed[/]"
            table.add_row(kind, v.bound, f"{v.limit:g}", f"{v.measured:.4g}", v.input, mark)
        table.add_section()
    console.print(table)
    for kind, _, made in results:
        for v in made:
            if not v.holds and v.input:
                console.print(f"{kind} missed {v.bound}: at {v.input} got {v.got:.9g}, true value {v.true:.9g}")
