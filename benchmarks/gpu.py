"""Builds, checks and times fastact on one NVIDIA GPU, against PyTorch, torch.compile and Liger-Kernel.

    python benchmarks/gpu.py --out benchmarks/results/gpu-NAME.json [--seconds 480]
    python benchmarks/gpu.py --report benchmarks/results/gpu-*.json > docs/performance-gpu.md

Needs a GPU of compute capability 8.0 or later, a C compiler, Cython, NumPy, numba-cuda and PyTorch, and no network;
Liger-Kernel if it is there. What there is no time for is left out, and said. Times are medians of device events, of all
candidates in turns, on arrays larger than the second-level cache.
"""

# ruff: noqa: B023
# functions that are timed are called in the iteration that makes them

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ROWS, COLUMNS = 65536, 4096
ELEMENTS = 1 << 28
# rows and classes of the cross-entropy
VOCABULARIES = ((8192, 50257), (8192, 32000), (4096, 128256))
# cycles, 0.6 ms
QUEUE = 1_000_000
DIGESTS = ROOT / "benchmarks/results/bits-float32.json"


class Run:
    """Results, and the time that is left."""

    def __init__(self, out: Path | None, seconds: float, compiles: bool) -> None:
        self.out, self.end, self.compiles = out, time.monotonic() + seconds, compiles
        self.results: dict[str, Any] = {"times": {}, "bits": {}, "errors": {}, "left out": []}

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def save(self) -> None:
        if self.out is not None:
            self.out.write_text(json.dumps(self.results, indent=1) + "\n")

    def phase(self, name: str, function: Callable[[], None], needs: float = 5.0) -> None:
        """One part; an error in it is noted, and the next one goes on."""
        if self.left < needs:
            self.results["left out"].append(name)
            return
        start = time.monotonic()
        try:
            function()
        except Exception:
            self.results["errors"][name] = traceback.format_exc()[-2000:]
            print(traceback.format_exc()[-800:], file=sys.stderr)
        print(f"{name}: {time.monotonic() - start:.1f} s, {self.left:.0f} s left", flush=True)
        self.save()


def build() -> None:
    """The extensions in this folder, without kernels ahead of time, if they are not there."""
    try:
        import fastact  # noqa: F401
    except ImportError:
        environment = {**os.environ, "FASTACT_NO_AOT": "1"}
        command = [sys.executable, "setup.py", "build_ext", "--inplace"]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)


def machine() -> dict[str, Any]:
    """What this was measured on."""
    import importlib.metadata as metadata

    import torch

    found: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "python": platform.python_version()}
    found["gpu"] = torch.cuda.get_device_name(0)
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,clocks.max.mem", "--format=csv,noheader"]
    found["driver, clocks"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    for package in ("torch", "triton", "numba-cuda", "numba", "llvmlite", "numpy", "liger-kernel", "nvidia-cuda-nvcc"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def timed(functions: dict[str, Callable[[], Any]], rounds: int = 9) -> dict[str, float]:
    """Medians in milliseconds of functions that are run in turns.

    The device is kept busy for QUEUE cycles first, so that what the host needs for a call is no part of it.
    """
    import torch

    for f in functions.values():
        f()
        f()
    torch.cuda.synchronize()
    spans: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, f in functions.items():
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(QUEUE)
            before.record()
            f()
            after.record()
            torch.cuda.synchronize()
            spans[name].append(before.elapsed_time(after))
    return {name: round(statistics.median(s), 4) for name, s in spans.items()}


# ---- bits


def defaults() -> list[tuple[str, Any]]:
    """Activations that need no array for a parameter."""
    import fastact as fa

    return [(name, f) for name, f in fa.activations.items() if all(p.default is not None for p in f.op.params)]


def different(a: Any, b: Any, kind: Any) -> Any:
    """Where bits differ, but for NaN beside NaN."""
    return (a.view(kind) != b.view(kind)) & ~(a.isnan() & b.isnan())


def bits_of_float32(run: Run) -> None:
    """Values and gradients of all float32, against the digests of a CPU's (tools/bits.py)."""
    import torch

    import fastact as fa

    committed = json.loads(DIGESTS.read_text())
    block, dy = (1 << 32) // committed["blocks"], committed["dy"]
    odd = torch.arange(1, block, 2, device="cuda")
    patterns = torch.arange(block, device="cuda", dtype=torch.int32)
    upstream = torch.full((block,), dy, device="cuda")

    def inputs(number: int) -> Any:
        first = number * block
        return (patterns + (first if first < 1 << 31 else first - (1 << 32))).view(torch.float32)

    for key, expected in committed["digests"].items():
        if run.left < 10:
            run.results["left out"].append(f"bits of {key} and after it")
            return
        name, _, kind = key.partition(" ")
        f, bad = fa.activations[name], None
        call = f if kind == "forward" else lambda x, f=f: f.backward(upstream, x)
        for number, digest in enumerate(expected):
            x = inputs(number)
            y = call(x)
            words = y.masked_fill_(y.isnan(), torch.nan).view(torch.int64)
            found = int(words.mul_(odd).sum())
            if f"{found & (1 << 64) - 1:016x}" != digest:
                # the first such block alone is looked at
                bad = bad or _unlike(f, kind, x, call(x), dy)
        run.results["bits"].setdefault(key.removesuffix(" forward"), {})["float32"] = {
            "inputs": 1 << 32, "different": bad[0] if bad else 0, "examples": bad[1] if bad else []
        }  # fmt: skip


def _unlike(f: Any, kind: str, x: Any, y: Any, dy: float) -> tuple[int, list[tuple[float, ...]]]:
    """How many results of a block differ from this machine's CPU, and some: input, GPU's, CPU's."""
    import numpy as np
    import torch

    there = x.cpu().numpy()
    own = torch.from_numpy(f(there) if kind == "forward" else f.backward(np.float32(dy), there)).cuda()
    wrong = different(own, y, torch.int32).nonzero()[:, 0]
    return wrong.numel(), [tuple(float(t[i]) for t in (x, y, own)) for i in wrong[:5].tolist()]


def bits_of_halves(run: Run) -> None:
    """The same for all 65,536 elements of float16 and bfloat16, also through the table of results."""
    import numpy as np
    import torch

    patterns = np.arange(1 << 16, dtype=np.uint16)
    kinds = {"float16": (np.float16, torch.float16)}
    try:
        import ml_dtypes

        kinds["bfloat16"] = (ml_dtypes.bfloat16, torch.bfloat16)
    except ImportError:
        run.results["left out"].append("bits of bfloat16: no ml_dtypes")
    for dtype, (host, device) in kinds.items():
        x = patterns.view(host)
        d = torch.from_numpy(patterns.view(np.int16)).cuda().view(device)
        for name, f in defaults():
            expected = torch.from_numpy(f(x).view(np.int16)).cuda().view(device)
            bad = int(different(f(d), expected, torch.int16).sum())
            # so many that results are looked up
            many = d.repeat(32)
            bad += int(different(f(many), expected.repeat(32), torch.int16).sum())
            run.results["bits"].setdefault(name, {})[dtype] = {"inputs": 1 << 16, "different": bad}


# ---- times


def elementwise(run: Run) -> None:
    """Activations of 2^28 elements, beside a copy and a sum of two arrays."""
    import torch
    import torch.nn.functional as F

    theirs = {
        "relu": F.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "gelu": F.gelu, "silu": F.silu, "elu": F.elu,
        "gelu_tanh": lambda t: F.gelu(t, approximate="tanh"), "mish": F.mish, "softplus": F.softplus,
    }  # fmt: skip
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(ELEMENTS, device="cuda").to(dtype)
        dy, y = torch.randn(ELEMENTS, device="cuda").to(dtype), torch.empty_like(x)
        for name, f in defaults():
            if run.left < 10:
                run.results["left out"].append(f"times of {name} and after it")
                return
            candidates: dict[str, Callable[[], Any]] = {"floor": lambda: y.copy_(x)}
            candidates["fastact"] = lambda f=f: f(x, out=y)
            if name in theirs:
                candidates["torch"] = lambda name=name: theirs[name](x)
            record(run, f"{name} {short(dtype)}", candidates, 7)
            candidates = {"floor": lambda: torch.add(x, dy, out=y), "fastact": lambda f=f: f.backward(dy, x, out=y)}
            if name in theirs:
                candidates["torch"] = backward_of(theirs[name], x, dy)
            record(run, f"{name} backward {short(dtype)}", candidates, 7)


def short(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def record(run: Run, name: str, candidates: dict[str, Callable[[], Any]], rounds: int = 9) -> None:
    run.results["times"][name] = found = timed(candidates, rounds)
    print(name, found, flush=True)


def backward_of(f: Callable[..., Any], x: Any, dy: Any, *others: Any) -> Callable[[], Any]:
    """The gradient alone of a function of PyTorch."""
    import torch

    inputs = [x.detach().requires_grad_(), *others]
    y = f(inputs[0])
    return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)


def rows(run: Run, dtype: Any) -> None:
    """Softmax, norms, gated and biased activations of 65536 x 4096 elements."""
    import torch
    import torch.nn.functional as F

    import fastact as fa

    make = lambda: torch.randn(ROWS, COLUMNS, device="cuda").to(dtype)  # noqa: E731
    x, dy, y = make(), make(), make()
    w = torch.randn(COLUMNS, device="cuda").to(dtype)
    b = torch.randn(COLUMNS, device="cuda").to(dtype)
    wg, bg = w.detach().requires_grad_(), b.detach().requires_grad_()
    peers = liger()
    cases: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...], Any]] = {
        "softmax": (lambda t: F.softmax(t, -1), lambda: fa.softmax(x, out=y), (), peers.get("softmax")),
        "rms_norm": (
            lambda t: F.rms_norm(t, (COLUMNS,), wg, 1e-6), lambda: fa.rms_norm.forward(x, w, eps=1e-6, out=y), (wg,),
            peers.get("rms_norm"),
        ),
        "layer_norm": (
            lambda t: F.layer_norm(t, (COLUMNS,), wg, bg), lambda: fa.layer_norm.forward(x, w, b, out=y), (wg, bg),
            peers.get("layer_norm"),
        ),
        "bias+gelu": (lambda t: F.gelu(t + bg), lambda: fa.gelu.biased(x, b, out=y), (bg,), None),
    }  # fmt: skip
    s = fa.softmax(x)
    stats = {"rms_norm": fa.rms_norm.forward(x, w, eps=1e-6)[1], "layer_norm": fa.layer_norm.forward(x, w, b)[1]}
    ours_back: dict[str, Callable[[], Any]] = {
        "softmax": lambda: fa.softmax.backward(dy, s, out=y),
        "rms_norm": lambda: fa.rms_norm.backward(dy, x, stats["rms_norm"], w, out=y),
        "layer_norm": lambda: fa.layer_norm.backward(dy, x, stats["layer_norm"], w, b, out=y),
        "bias+gelu": lambda: fa.gelu.biased_backward(dy, x, b, out=y),
    }
    for name, (theirs, ours, learnt, peer) in cases.items():
        if run.left < 15:
            run.results["left out"].append(f"{name} {short(dtype)}")
            continue
        candidates = {"floor": lambda: y.copy_(x), "fastact": ours, "torch": lambda f=theirs: f(x)}
        backward = {"fastact": ours_back[name], "torch": backward_of(theirs, x, dy, *learnt)}
        if run.compiles:
            compiled = torch.compile(theirs, dynamic=False)
            candidates["torch.compile"] = lambda f=compiled: f(x)
            backward["torch.compile"] = backward_of(compiled, x, dy, *learnt)
        if peer is not None:
            bound = {
                "softmax": peer,
                "rms_norm": lambda t, p=peer: p(t, wg),
                "layer_norm": lambda t, p=peer: p(t, wg, bg),
            }
            candidates["liger"] = lambda f=bound[name]: f(x)
            backward["liger"] = backward_of(bound[name], x, dy, *learnt)
        record(run, f"{name} {ROWS}x{COLUMNS} {short(dtype)}", candidates, 7)
        record(run, f"{name} backward {ROWS}x{COLUMNS} {short(dtype)}", backward, 7)
    up = make().requires_grad_()
    swiglu = lambda t: F.silu(t) * up  # noqa: E731
    dgate, dup = torch.empty_like(x), torch.empty_like(x)
    candidates = {"fastact": lambda: fa.swiglu(x, up.detach(), out=y), "torch": lambda: swiglu(x)}
    backward = {
        "fastact": lambda: fa.swiglu.backward(dy, x, up.detach(), out=(dgate, dup)),
        "torch": backward_of(swiglu, x, dy, up),
    }  # fmt: skip
    if run.compiles:
        compiled = torch.compile(swiglu, dynamic=False)
        candidates["torch.compile"] = lambda: compiled(x)
        backward["torch.compile"] = backward_of(compiled, x, dy, up)
    if "swiglu" in peers:
        candidates["liger"] = lambda: peers["swiglu"](x, up)
        backward["liger"] = backward_of(lambda t: peers["swiglu"](t, up), x, dy, up)
    record(run, f"swiglu {ROWS}x{COLUMNS} {short(dtype)}", candidates, 7)
    record(run, f"swiglu backward {ROWS}x{COLUMNS} {short(dtype)}", backward, 7)


def liger() -> dict[str, Callable[..., Any]]:
    """Liger-Kernel's functions, if it is installed."""
    try:
        from liger_kernel.ops.layer_norm import LigerLayerNormFunction
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction
        from liger_kernel.ops.softmax import LigerSoftmaxFunction
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction
    except ImportError:
        return {}
    return {
        "softmax": LigerSoftmaxFunction.apply,
        "rms_norm": lambda t, w: LigerRMSNormFunction.apply(t, w, 1e-6, 0.0, "llama", False),
        "layer_norm": lambda t, w, b: LigerLayerNormFunction.apply(t, w, b, 1e-5),
        "swiglu": LigerSiLUMulFunction.apply,
    }


def cross_entropy(run: Run, dtype: Any) -> None:
    """The loss and its gradient in the place of the logits."""
    import torch
    import torch.nn.functional as F

    import fastact as fa

    for count, classes in VOCABULARIES:
        if run.left < 15:
            run.results["left out"].append(f"cross-entropy {count}x{classes} {short(dtype)}")
            continue
        x = torch.randn(count, classes, device="cuda").to(dtype)
        y = torch.empty_like(x)
        labels = torch.randint(0, classes, (count,), device="cuda")

        def torch_step(x: Any = x, labels: Any = labels) -> Any:
            t = x.detach().requires_grad_()
            return torch.autograd.grad(F.cross_entropy(t, labels), t)

        candidates: dict[str, Callable[[], Any]] = {
            "floor": lambda x=x, y=y: y.copy_(x),
            "fastact": lambda x=x, y=y, labels=labels: fa.softmax_cross_entropy.value_and_grad(y, labels, out=y),
            "torch": torch_step,
        }
        try:
            from liger_kernel.ops.cross_entropy import LigerCrossEntropyFunction

            def liger_step(x: Any = x, labels: Any = labels) -> Any:
                t = x.detach().requires_grad_()
                return LigerCrossEntropyFunction.apply(t, labels, None, -100, 0.0, 0.0, "mean", None, False)

            candidates["liger"] = liger_step
        except ImportError:
            pass
        record(run, f"cross-entropy step {count}x{classes} {short(dtype)}", candidates, 7)
        del x, y, candidates
        torch.cuda.empty_cache()


def adamw(run: Run) -> None:
    """A step over 8 arrays of 2^24 float32."""
    import torch

    import fastact as fa

    ours = [torch.randn(1 << 24, device="cuda") for _ in range(8)]
    grads = [torch.randn_like(p) for p in ours]
    theirs = [p.clone().requires_grad_() for p in ours]
    for p, g in zip(theirs, grads):
        p.grad = g
    optimiser, other = fa.optim.AdamW(ours), torch.optim.AdamW(theirs, fused=True)
    record(run, "AdamW 8x2^24 float32", {"fastact": lambda: optimiser.step(grads), "torch": other.step})


def host(run: Run) -> None:
    """Host time of a call of 16 elements, in microseconds; the best of five means."""
    import torch
    import torch.nn.functional as F

    import fastact as fa

    x = torch.randn(16, device="cuda")
    y = torch.empty_like(x)

    def per_call(f: Callable[[], Any], n: int = 3000) -> float:
        for _ in range(300):
            f()
        best = float("inf")
        for _ in range(5):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(n):
                f()
            best = min(best, (time.perf_counter() - start) / n * 1e6)
        return round(best, 2)

    run.results["host us"] = {
        "fastact relu": per_call(lambda: fa.relu(x)), "torch relu": per_call(lambda: F.relu(x)),
        "fastact gelu": per_call(lambda: fa.gelu(x)), "torch gelu": per_call(lambda: F.gelu(x)),
        "fastact gelu out=": per_call(lambda: fa.gelu(x, out=y), 500),
        "fastact softmax": per_call(lambda: fa.softmax(x), 500), "torch softmax": per_call(lambda: F.softmax(x, -1)),
    }  # fmt: skip
    print(run.results["host us"], flush=True)


def graphs(run: Run) -> None:
    """Whether calls can be captured into a CUDA graph and replayed."""
    import torch

    import fastact as fa

    x = torch.randn(64, 1000, device="cuda")
    fa.gelu(x), fa.softmax(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = fa.softmax(fa.gelu(x))
    x.copy_(torch.randn_like(x))
    graph.replay()
    torch.cuda.synchronize()
    run.results["graph"] = bool(torch.equal(y, fa.softmax(fa.gelu(x))))


def measure(out: Path, seconds: float, compiles: bool) -> None:
    run = Run(out, seconds, compiles)
    build()
    sys.path.insert(0, str(ROOT))
    import torch
    import torch._functorch.config

    import fastact as fa

    # a gradient is taken more than once
    torch._functorch.config.donated_buffer = False
    run.results["machine"] = machine()
    run.results["cuda"] = fa.dispatch.reason("cuda")
    run.phase("host", lambda: host(run))
    run.phase("graphs", lambda: graphs(run))
    dtypes = torch.bfloat16, torch.float32
    for dtype in dtypes:
        run.phase(f"cross-entropy {short(dtype)}", lambda dtype=dtype: cross_entropy(run, dtype), 20)
    run.phase("AdamW", lambda: adamw(run))
    run.phase("elementwise", lambda: elementwise(run), 15)
    run.phase("bits of 16-bit dtypes", lambda: bits_of_halves(run))
    run.phase("bits of float32", lambda: bits_of_float32(run))
    # last: torch.compile takes most of the time
    for dtype in dtypes:
        run.phase(f"rows {short(dtype)}", lambda dtype=dtype: rows(run, dtype), 20)


# ---- the page


def page(results: list[dict[str, Any]]) -> str:
    """docs/performance-gpu.md, from results; without any, what is to be measured."""
    from gpu_goals import GOALS, PEERS_MEASURED

    lines = [
        "# Performance on a GPU", "",
        "This page is generated from committed results by `python benchmarks/gpu.py --report FILE...`.", "",
        "Times are medians of device events, with the queue of the device filled first: host time is apart, below. In "
        "brackets: the speed as a share of a device copy (gradients of activations: of a sum of two arrays), and over "
        "the fastest other library, both of the same run. Goals, and the other libraries' times in column three: "
        f"{PEERS_MEASURED}.", "",
    ]  # fmt: skip
    if not results:
        lines += [
            "**Nothing on this page has been measured yet.** The kernels run in a simulator on the CPU, which is how "
            "their results are checked, and are compiled and assembled for compute capability 8.0, 9.0 and 10.0. What "
            "their speed on a GPU is, no one has seen.", "",
        ]  # fmt: skip
    for number, found in enumerate(results):
        m = found["machine"]
        lines += [f"Results {number + 1}: {m['gpu']}, driver and clocks {m['driver, clocks']}, PyTorch {m['torch']}, "
                  f"numba-cuda {m['numba-cuda']}, {m['date']}.", ""]  # fmt: skip
    columns = "".join(f" results {i + 1}, ms |" for i in range(max(1, len(results))))
    lines.append(f"| what | goal, ms | best of the others, ms |{columns}")
    lines.append("|---|---|---|" + "---|" * max(1, len(results)))
    for goal in GOALS:
        cells = [_cell(found, goal.name) for found in results] or ["not measured"]
        peer = "" if goal.peer is None else f"{goal.peer:g}"
        limit = "no slower" if goal.limit is None else f"{goal.limit:g}"
        lines.append(f"| {goal.name} | {limit} | {peer} | {' | '.join(cells)} |")
    for number, found in enumerate(results):
        bits, host = found["bits"], found.get("host us", {})
        bad = {name: d for name, d in bits.items() if any(v["different"] for v in d.values())}
        whole = sum(d.get("float32", {}).get("inputs") == 1 << 32 for d in bits.values())
        halves = sum("bfloat16" in d for d in bits.values())
        lines += ["", f"Results {number + 1}: bits of {whole} values and gradients over all 2^32 float32, of {halves} "
                  "values over all float16 and bfloat16, against the CPU's: "
                  + (f"different: {bad}." if bad else "none differs.")]  # fmt: skip
        if host:
            calls = ", ".join(f"{name} {us:g}" for name, us in host.items())
            lines += ["", f"Host time of a call of 16 elements, microseconds: {calls}."]
        lines += [line for note in found.get("notes", ()) for line in ("", note)]
        if found["left out"] or found["errors"]:
            lines += ["", f"Left out: {', '.join([*found['left out'], *found['errors']])}."]
    return "\n".join(lines) + "\n"


def _cell(found: dict[str, Any], name: str) -> str:
    times = found["times"].get(name)
    if times is None or "fastact" not in times:
        return "not measured"
    ours = times["fastact"]
    beside = [f"{times['floor'] / ours:.2f} of the floor"] if "floor" in times else []
    others = {k: v for k, v in times.items() if k not in ("fastact", "floor")}
    if others:
        best = min(others, key=others.get)  # type: ignore[arg-type]
        beside.append(f"{others[best] / ours:.2f} times {best}")
    return f"{ours:g} ({', '.join(beside)})" if beside else f"{ours:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="where results go")
    parser.add_argument("--seconds", type=float, default=480.0, help="how long it may take (default: 480)")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile, which takes a minute or two")
    parser.add_argument("--report", nargs="*", type=Path, help="print the page of these results instead")
    given = parser.parse_args()
    if given.report is not None:
        sys.path.insert(0, str(Path(__file__).parent))
        print(page([json.loads(path.read_text()) for path in given.report]), end="")
    elif given.out is None:
        parser.error("--out or --report is needed")
    else:
        measure(given.out, given.seconds, not given.no_compile)


if __name__ == "__main__":
    main()
