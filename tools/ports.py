"""What bounds each elementwise kernel on which CPU: benchmarks/results/ports.json and docs/ports.md.

    python -m tools.ports              # everything: compile, model, measure, write both files (one minute)
    python -m tools.ports --page       # docs/ports.md alone, from the JSON file
    python -m tools.ports gelu tanh    # show the rows of some activations; write nothing

The last is for work on a formula: how many operations, how many cycles, and which part of the CPU is the busy one.
`--all` takes every activation of the table, `--no-measure` leaves the measurements out.

How it is made:

- Numba's backend compiles each kernel as it does for users (`kernels.compile_kernel`, `cache.machine`), for one CPU in
  a process of its own, because NUMBA_CPU_NAME and NUMBA_CPU_FEATURES are read once. The kernel is never run there.
- Of the assembly the loop over whole groups of vectors is taken (`wide_loop`): `store_wide` of `kernels.row_loop`.
  Kernels built ahead of time, by a C compiler, are not looked at.
- llvm-mca simulates that loop with LLVM's model of the CPU. It needs LLVM 19 or newer, the first that has a model of
  all four. A simulation of 100 iterations is subtracted from one of 300, so that what is left is the steady state.
- Measured is a call of the activation itself, with `out=`, on arrays that stay in the first-level cache. Before and
  after each measurement a chain of dependent additions is timed, one cycle each: so times become cycles at the clock of
  that moment, whatever it is.

It needs a machine with x86-64, and Linux for the measurements.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import importlib.metadata
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fastact as fa
from fastact.spec.kernel import KernelSpec, kernel_of
from fastact.spec.table import OPS, Op
from fastact.tools import bench

ROOT = Path(__file__).resolve().parent.parent
RESULT = Path("benchmarks/results/ports.json")
PAGE = Path("docs/ports.md")
COMMAND = "python -m tools.ports"

DTYPE = "float32"
KINDS = ("forward", "backward")
UNIT = 16  # elements that numbers are for: a vector of AVX-512, two of AVX2
ITERATIONS = (100, 300)
MCA_NEEDED = 19

AVX2 = ("sse2", "avx2", "fma")
AVX512 = (*AVX2, "avx512f", "avx512dq", "avx512vl", "avx512bw")


@dataclass(frozen=True)
class Cpu:
    """A CPU as LLVM names it.

    Attributes
    ----------
    title : str
    features : tuple of str
        What fastact asks about; LLVM knows the others by the name.
    shared : tuple of tuples of str
        Units that do the same arithmetic, so that a scheduler can share the work out between them.
    one_port : bool
        LLVM's model knows only the first of these units for arithmetic that both do, so its own bound is none.
    divider : mapping
        Instruction to cycles of the divider, where LLVM's model has none.
    """

    title: str
    features: tuple[str, ...]
    shared: tuple[tuple[str, ...], ...]
    one_port: bool = False
    divider: Mapping[str, float] = field(default_factory=dict)

    @property
    def lanes(self) -> int:
        """How many elements a vector register holds."""
        return 16 if "avx512f" in self.features else 8

    @property
    def environment(self) -> dict[str, str]:
        """What makes Numba compile for it, but for its name."""
        return {"NUMBA_CPU_FEATURES": ",".join(f"+{f}" for f in self.features)}


_ZEN = (("FP0", "FP1"), ("FP2", "FP3"))
# 512 bits wide: ports 0 and 1 are one then
_INTEL = (("port 0", "port 5"),)
CPUS = {
    "znver4": Cpu("Zen 4", AVX512, _ZEN),
    # a Xeon's second unit for 512 bits, on port 5, and the divider are not in LLVM 19's model; measured on such a CPU,
    # instruction by instruction: docs/ports.md
    "sapphirerapids": Cpu("Sapphire Rapids", AVX512, _INTEL, one_port=True, divider={"vdivps": 10.0, "vsqrtps": 12.0}),
    "skylake-avx512": Cpu("Skylake-X", AVX512, _INTEL),
    "znver3": Cpu("Zen 3", AVX2, _ZEN),
}


def chosen(everything: bool = False) -> list[Op]:
    """The activations whose kernels are looked at: those that `fastact bench` measures, and all that are smooth."""
    return [op for op in OPS.values() if everything or op.name in bench.OPS or not op.piecewise_linear]


def spec_of(op: Op, kind: str) -> KernelSpec:
    """The kernel that a call without parameters takes."""
    return kernel_of(op.at_default or op, kind, DTYPE)


# assembly


@dataclass(frozen=True)
class Loop:
    """The loop of a kernel over whole groups of vectors.

    Attributes
    ----------
    text : str
        Its instructions, a line each.
    vectors : int
        How many vectors of each array an iteration takes.
    reloads, spills : int
        Loads from the stack frame, of constants too, and stores to it.
    """

    text: str
    vectors: int
    reloads: int
    spills: int


_LABEL = re.compile(r"^(\.LBB\w+):")
_JUMP = re.compile(r"^\tj\w+\t(\.LBB\w+)")
_STORE = re.compile(r"^\tvmov\w+\t%[xyz]mm\d+, [^%]*\(")
_MEMORY = re.compile(r"^\tv[^#]*\(%(?!rip)")
_OF_FRAME = re.compile(r"# \d+-byte (Folded )?(Spill|Reload)")


def wide_loop(assembly: str, inputs: int, outputs: int, group: int) -> Loop:
    """The loop of the assembly of a kernel that takes several vectors in each step, and writes them to the cache.

    Parameters
    ----------
    assembly : str
        With LLVM's comments, which tell the stack frame from arrays.
    inputs, outputs : int
        Arrays of the kernel.
    group : int
        How many vectors of each it takes in a step; LLVM may take several such steps in an iteration.

    Raises
    ------
    ValueError
        If there is none.

    Notes
    -----
    A kernel has up to four loops, and LLVM unrolls some. Those past the cache have stores of their own
    (``vmovntps``). The loop for single vectors reads parameters that are arrays, too: so the right one is that with the
    fewest accesses to memory for each vector, and of these the one with the most vectors.
    """
    lines = assembly.splitlines()
    places = {found[1]: i for i, line in enumerate(lines) if (found := _LABEL.match(line))}
    best: tuple[tuple[float, int], Loop] | None = None
    for i, line in enumerate(lines):
        jump = _JUMP.match(line)
        if jump is None or places.get(jump[1], i) >= i:
            continue
        body = [text for text in lines[places[jump[1]] + 1 : i + 1] if text.startswith("\t")]
        # what lanes rarely need is elsewhere, and comes back to a label in here
        jumps = (_JUMP.match(text) for text in lines[places[jump[1]] + 1 : i])
        inside = any(other and places[jump[1]] <= places.get(other[1], -1) <= i for other in jumps)
        frame = Counter(found[2] for text in body if (found := _OF_FRAME.search(text)))
        arrays = [text for text in body if not _OF_FRAME.search(text)]
        stores = sum(_STORE.match(text) is not None for text in arrays)
        if inside or not stores or any("vmovnt" in text for text in body):
            continue
        accesses = sum(_MEMORY.match(text) is not None for text in arrays)
        # it writes whole groups and reads every input
        if stores % (outputs * group) or accesses * outputs < stores * (inputs + outputs):
            continue
        code = "\n".join(text.partition("#")[0].rstrip() for text in body if not text.startswith("\t.")) + "\n"
        found_loop = Loop(code, stores // outputs, frame["Reload"], frame["Spill"])
        key = (accesses / stores, -stores)
        if best is None or key < best[0]:
            best = (key, found_loop)
    if best is None:
        raise ValueError("the assembly has no loop over whole groups of vectors")
    return best[1]


def compile_loops(kernels: Iterable[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """The loops of kernels (activation, kind), for the CPU that Numba compiles for in this process."""
    from fastact.backends.numba_cpu import cache
    from fastact.backends.numba_cpu.kernels import compile_kernel, row_function

    machine, found = cache.machine(), {}
    machine.set_asm_verbosity(True)
    for name, kind in kernels:
        spec = spec_of(OPS[name], kind)
        assembly = machine.emit_assembly(compile_kernel(spec))
        step = row_function(spec).__globals__
        loop = wide_loop(assembly, len(spec.inputs), len(spec.outputs), step["WIDE"] // step["ONE"])
        found[f"{name} {kind}"] = asdict(loop)
    return found


def loops_for(cpu: str | None, kernels: Sequence[tuple[str, str]]) -> dict[str, Loop]:
    """The loops of kernels for a CPU of `CPUS`, or for this machine, compiled in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_CPU_")}
    if cpu is not None:
        environment |= {"NUMBA_CPU_NAME": cpu, **CPUS[cpu].environment}
    # the package that this process has
    paths = [str(Path(fa.__file__).parents[1]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    done = subprocess.run(
        [sys.executable, __file__, "--compile"],
        input=json.dumps(kernels),
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"compiling for {cpu or 'this machine'} failed:\n{done.stderr}")
    return {key: Loop(**loop) for key, loop in json.loads(done.stdout).items()}


# llvm-mca


def find_mca() -> tuple[str, str]:
    """The newest llvm-mca on the path, and its version.

    Raises
    ------
    RuntimeError
        If there is none that is new enough; the message says which one is needed.
    """
    folders = [Path(p) for p in os.environ.get("PATH", "").split(os.pathsep) if p]
    names = {"llvm-mca"} | {file.name for folder in folders for file in folder.glob("llvm-mca-*")}
    found: list[tuple[tuple[int, ...], str, str]] = []
    for name in sorted(names):
        path = shutil.which(name)
        if path is None or not re.fullmatch(r"llvm-mca(-\d+)?", name):
            continue
        said = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
        version = re.search(r"LLVM version ([\d.]+)", said)
        if version:
            found.append((tuple(map(int, version[1].strip(".").split("."))), path, version[1]))
    if not found or max(found)[0][0] < MCA_NEEDED:
        older = f"; the newest here is {max(found)[2]}" if found else ""
        raise RuntimeError(
            f"llvm-mca {MCA_NEEDED} or newer is needed, for its models of {', '.join(CPUS)}{older}. "
            f"Debian and Ubuntu have it in the package llvm-{MCA_NEEDED}."
        )
    _, path, text = max(found)
    return path, text


def simulate(mca: str, cpu: str, codes: Mapping[str, str], iterations: int) -> dict[str, dict[str, Any]]:
    """What llvm-mca says of pieces of assembly, by their names: its JSON, and the names of resources.

    Raises
    ------
    RuntimeError
        If it does not know an instruction.
    """
    text = "".join(f"# LLVM-MCA-BEGIN {i}\n{code}# LLVM-MCA-END\n" for i, code in enumerate(codes.values()))
    command = [mca, f"-mcpu={cpu}", "-mtriple=x86_64-unknown-linux-gnu", f"-iterations={iterations}", "-json"]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"llvm-mca for {cpu} failed:\n{done.stderr}")
    answer = json.loads(done.stdout)
    names = [unit_name(name) for name in answer["TargetInfo"]["Resources"]]
    regions = {int(region["Name"]): region for region in answer["CodeRegions"]}
    return {name: regions[i] | {"units": names} for i, name in enumerate(codes)}


def unit_name(resource: str) -> str:
    """A unit of a CPU in words: ``SPRPort05`` is port 5, ``Zn4FP1`` FP1, and what follows a dot counts copies."""
    name = re.sub(r"^(Zn\d|SPR|SKX)", "", resource.partition(".")[0])
    name = re.sub(r"^Port0*(\d+)$", r"port \1", name)
    return {"FPDivider": "divider", "Divider": "integer divider", "FP45": "FP4/5", "FPSt": "FP store"}.get(name, name)


def loads_of(region: Mapping[str, Any]) -> dict[str, float]:
    """For how many cycles of an iteration each unit is busy; of several copies the busiest one."""
    total = len(region["Instructions"])  # the line after those of the instructions
    loads: dict[str, float] = {}
    for entry in region["ResourcePressureView"]["ResourcePressureInfo"]:
        if entry["InstructionIndex"] == total:
            name = region["units"][entry["ResourceIndex"]]
            loads[name] = max(loads.get(name, 0.0), entry["ResourceUsage"])
    return loads


def shared_name(units: Sequence[str]) -> str:
    """Units that share work in a word: ports 0/5, FP0/1."""
    word = units[0].rstrip("0123456789")
    plural = "s " if word.endswith(" ") else ""
    return word.strip() + plural + "/".join(unit.removeprefix(word) for unit in units)


def bound_of(cpu: Cpu, loads: Mapping[str, float], front: float, block: float, code: str) -> tuple[float, str]:
    """The fewest cycles that an iteration can take, and the units that make it so.

    Parameters
    ----------
    cpu : Cpu
    loads : mapping
        Unit to cycles, as `loads_of` gives them.
    front : float
        Cycles in which the operations of an iteration enter the CPU.
    block : float
        llvm-mca's block throughput.
    code : str
        The instructions.

    Notes
    -----
    Units that share work count with their mean, because llvm-mca chooses among them operation by operation and so
    leaves one of them behind. Its block throughput is the greater where one unit has more than its share that no other
    can do; else it is less, for it looks at the operations of both units, and at those of one of them, apart.
    """
    bounds = {"front end": front, **loads}
    for units in cpu.shared:
        if all(unit in bounds for unit in units):
            bounds[shared_name(units)] = statistics.fmean(bounds.pop(unit) for unit in units)
    if cpu.divider:
        done = Counter(line.split()[0] for line in code.splitlines())
        bounds["divider"] = sum(done[name] * cycles for name, cycles in cpu.divider.items())
    name = max(bounds, key=bounds.__getitem__)
    if not cpu.one_port and block > bounds[name] + 0.01:
        return block, max(loads, key=loads.__getitem__)
    return bounds[name], name


def analyse(mca: str, cpu: str, loops: Mapping[str, Loop]) -> dict[str, dict[str, Any]]:
    """What llvm-mca says of each loop: a row of the result's `cpus`, all for one iteration."""
    codes = {name: loop.text for name, loop in loops.items()}
    few, many = (simulate(mca, cpu, codes, n) for n in ITERATIONS)
    rows = {}
    for name, loop in loops.items():
        summary = many[name]["SummaryView"]
        operations = summary["TotaluOps"] / summary["Iterations"]
        front = operations / summary["DispatchWidth"]
        loads = loads_of(many[name])
        bound, by = bound_of(CPUS[cpu], loads, front, summary["BlockRThroughput"], loop.text)
        cycles = summary["TotalCycles"] - few[name]["SummaryView"]["TotalCycles"]
        rows[name] = {
            "vectors": loop.vectors,
            "elements": loop.vectors * CPUS[cpu].lanes,
            "instructions": len(many[name]["Instructions"]),
            "operations": operations,
            "reloads": loop.reloads,
            "spills": loop.spills,
            "block_throughput": summary["BlockRThroughput"],
            "bound": round(bound, 2),
            "by": by,
            "simulated": round(cycles / (ITERATIONS[1] - ITERATIONS[0]), 2),
            "loads": {unit: load for unit, load in loads.items() if load >= 0.05},
        }
    return rows


# instructions one by one


# name, with AVX-512, with AVX2 (None: the same, "": there is none); {0} is where results go, {r} the kind of register;
# registers 14 and 15 hold ones
INSTRUCTIONS = (
    ("add", "vaddps %{r}14, %{r}15, %{r}{0}", None),
    ("multiply", "vmulps %{r}14, %{r}15, %{r}{0}", None),
    ("fma", "vfmadd213ps %{r}14, %{r}15, %{r}{0}", None),
    ("minimum", "vminps %{r}14, %{r}15, %{r}{0}", None),
    ("compare", "vcmpltps %{r}14, %{r}15, %k2", "vcmpltps %{r}14, %{r}15, %{r}{0}"),
    ("select", "vblendmps %{r}14, %{r}15, %{r}{0} {{%k1}}", "vblendvps %{r}13, %{r}14, %{r}15, %{r}{0}"),
    ("and", "vandps %{r}14, %{r}15, %{r}{0}", None),
    ("three-way logic", "vpternlogd $202, %{r}14, %{r}15, %{r}{0}", ""),
    ("shift", "vpslld $3, %{r}14, %{r}{0}", None),
    ("integer add", "vpaddd %{r}14, %{r}15, %{r}{0}", None),
    ("round", "vrndscaleps $8, %{r}14, %{r}{0}", "vroundps $8, %{r}14, %{r}{0}"),
    ("scalef", "vscalefps %{r}14, %{r}15, %{r}{0}", ""),
    ("getexp", "vgetexpps %{r}14, %{r}{0}", ""),
    ("divide", "vdivps %{r}14, %{r}15, %{r}{0}", None),
    ("square root", "vsqrtps %{r}14, %{r}{0}", None),
    ("move", "vmovaps %{r}14, %{r}{0}", None),
)


def instruction(lanes: int, forms: Sequence[str | None], target: int = 0) -> str:
    """An instruction of `INSTRUCTIONS` for registers of so many float32; empty where there is none."""
    wide, narrow = forms
    text = (wide if lanes == 16 or narrow is None else narrow) or ""
    return text.format(target, r="zmm" if lanes == 16 else "ymm")


def model_instructions(mca: str, cpu: str) -> dict[str, dict[str, float]]:
    """Operations and cycles of each instruction by LLVM's model, for one vector of the CPU."""
    codes = {name: f"\t{text}\n" for name, *forms in INSTRUCTIONS if (text := instruction(CPUS[cpu].lanes, forms))}
    found = {}
    for name, region in simulate(mca, cpu, codes, 100).items():
        (info,) = region["InstructionInfoView"]["InstructionList"]
        found[name] = {"operations": info["NumMicroOpcodes"], "cycles": info["RThroughput"]}
    return found


# measurements

TURNS = 61
TURN_SECONDS = 0.0004
RETRIES = 5
CHAIN = 100  # additions in an iteration of the chain
Repeated = Callable[[int], Any]  # runs something so many times


def compiled_asm(lines: Sequence[str], clobbered: Iterable[str]) -> Repeated:
    """A function that runs instructions as often as it is told to."""
    import llvmlite.binding as llvm

    from fastact.backends.numba_cpu import cache

    text = "\\0A".join(lines).replace("$", "$$")
    module = llvm.parse_assembly(f"""
    define void @repeat(i64 %times) {{
    entry:
      br label %again
    again:
      %i = phi i64 [ 0, %entry ], [ %next, %again ]
      call void asm sideeffect "{text}", "{",".join(f"~{{{name}}}" for name in clobbered)}"()
      %next = add i64 %i, 1
      %more = icmp ult i64 %next, %times
      br i1 %more, label %again, label %end
    end:
      ret void
    }}""")
    machine = cache.machine()
    llvm.initialize_native_asmparser()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    function = ctypes.CFUNCTYPE(None, ctypes.c_int64)(engine.get_function_address("repeat"))
    function.owner = engine  # type: ignore[attr-defined]
    return function


class Clock:
    """Tells how long a cycle is, by a chain of additions that depend on each other."""

    def __init__(self) -> None:
        # of registers: additions of constants are done by newer Intel CPUs while they rename registers
        self.chain = compiled_asm(["addq %rdx, %rcx"] * CHAIN, ("rcx", "rdx", "flags"))
        self.seen: list[float] = []

    def cycle(self) -> float:
        """Seconds of a cycle, now."""
        times = 1000
        start = time.perf_counter()
        self.chain(times)
        seconds = (time.perf_counter() - start) / (times * CHAIN)
        self.seen.append(seconds)
        return seconds

    def cycles(self, call: Callable[[], Any], number: int) -> float:
        """Cycles of a call, of `number` one after the other, undisturbed if possible."""
        found = []
        for _ in range(RETRIES):
            bench.mean_of(call, 2)
            switched = bench.preempted()
            before = self.cycle()
            seconds = bench.mean_of(call, number)
            found.append(2 * seconds / (before + self.cycle()))
            if bench.preempted() == switched:
                return found[-1]
        return min(found)


def measured_cycles(clock: Clock, calls: Mapping[Any, Callable[[], Any]]) -> dict[Any, float]:
    """The median of cycles of each call; calls take turns, so that a slow moment meets all of them."""
    numbers = {}
    for key, call in calls.items():
        call()
        numbers[key] = max(1, int(TURN_SECONDS / bench.mean_of(call, 3)))
    found: dict[Any, list[float]] = {key: [] for key in calls}
    for _ in range(TURNS):
        for key, call in calls.items():
            found[key].append(clock.cycles(call, numbers[key]))
    return {key: statistics.median(values) for key, values in found.items()}


def measure_instructions(clock: Clock, lanes: int) -> dict[str, float]:
    """Cycles of each instruction on this machine, where many that do not depend on each other run."""
    register = "zmm" if lanes == 16 else "ymm"
    ones = ["vpcmpeqd %ymm15, %ymm15, %ymm15", "vpsrld $25, %ymm15, %ymm15", "vpslld $23, %ymm15, %ymm15"]
    # results start from ones, too: operations on subnormal numbers may take a hundred cycles
    ones += [f"vbroadcastss %xmm15, %{register}{i}" for i in range(15)]
    ones += [f"vbroadcastss %xmm15, %{register}15"] + ["kxnorw %k1, %k1, %k1"] * (lanes == 16)
    clobbered = [f"{register}{i}" for i in range(16)] + ["k1", "k2"] * (lanes == 16)
    groups, targets, times = 100, 12, 20
    calls = {}
    for name, *forms in INSTRUCTIONS:
        if instruction(lanes, forms):
            lines = [instruction(lanes, forms, i) for i in range(targets)]
            calls[name] = partial(compiled_asm([*ones, f".rept {groups}", *lines, ".endr"], clobbered), times)
    cycles = measured_cycles(clock, calls)
    return {name: round(value / (times * groups * targets), 3) for name, value in cycles.items()}


def elements_for(arrays: int, cache_bytes: int) -> int:
    """How many elements are measured: 2^12, or fewer so that the arrays fill three quarters of the cache at most."""
    n = 2**12
    while 4 * n * arrays > 0.75 * cache_bytes:
        n //= 2
    return n


def call_of(op: Op, kind: str, n: int) -> Callable[[], Any]:
    """A call of an activation with default parameters, on arrays in the first-level cache."""
    rng = np.random.default_rng(0)
    x, dy, out = (bench.aligned((n,), np.dtype(DTYPE), i) for i in range(3))
    # both tails and the middle, as `fastact bench` has them
    x[:], dy[:] = 2 * rng.standard_normal(n), rng.standard_normal(n)
    f = fa.activations[op.name]
    return partial(f, x, out=out) if kind == "forward" else partial(f.backward, dy, x, out=out)


def nearest(name: str, features: Mapping[str, bool]) -> str | None:
    """The CPU of `CPUS` that comes nearest to this one: itself, else by features; None where it lacks AVX2.

    Parameters
    ----------
    name : str
        LLVM's name of this CPU.
    features : mapping
        LLVM's names of features to whether it has them.
    """
    if name in CPUS:
        return name

    def has(*wanted: str) -> bool:
        return all(features.get(feature, False) for feature in wanted)

    amd = has("sse4a")
    if has(*AVX512):
        return "znver4" if amd else "sapphirerapids" if has("avx512fp16") else "skylake-avx512"
    # the only one of the four with AVX2
    return "znver3" if has(*AVX2) else None


def measure(kernels: Sequence[tuple[str, str]], loops: Mapping[str, Mapping[str, Loop]]) -> dict[str, Any] | None:
    """What this machine takes; None where it is like none of the four.

    Parameters
    ----------
    kernels : sequence of (activation, kind)
    loops : mapping
        CPU to kernel to loop, as compiled for each.
    """
    import llvmlite.binding as llvm

    features = dict(llvm.get_host_cpu_features())
    name = llvm.get_host_cpu_name()
    like = nearest(name, features)
    if like is None:
        return None
    fa.use_backend("numba")
    fa.set_num_threads(1)
    machine = bench.machine()
    first = machine["caches"].get("L1", "32K")
    cache_bytes = int(first.rstrip("K")) * 1024
    clock = Clock()
    calls: dict[Any, Callable[[], Any]] = {}
    sizes = {kind: elements_for(2 if kind == "forward" else 3, cache_bytes) for kind in KINDS}
    for op_name, kind in kernels:
        if all(p.default is not None for p in OPS[op_name].params):
            for n in (sizes[kind], sizes[kind] // 2):
                calls[op_name, kind, n] = call_of(OPS[op_name], kind, n)
    cycles = measured_cycles(clock, calls)
    found = {}
    for op_name, kind, n in cycles:
        if n == sizes[kind]:
            whole, half = cycles[op_name, kind, n], cycles[op_name, kind, n // 2]
            found[f"{op_name} {kind}"] = {
                "call": round(UNIT * whole / n, 2),
                "loop": round(UNIT * (whole - half) / (n / 2), 2),
            }
    instructions = measure_instructions(clock, CPUS[like].lanes)
    host = loops_for(None, kernels)

    def mnemonics(loop: Loop) -> Counter[str]:
        return Counter(line.split()[0] for line in loop.text.splitlines())

    same = sum(mnemonics(host[key]) == mnemonics(loop) for key, loop in loops[like].items())
    low, middle, high = (1e-9 / s for s in reversed(statistics.quantiles(clock.seen, n=4)))
    return {
        "machine": machine,
        "llvm_name": name,
        "nearest": like,
        "same_instructions": same,
        "ghz": [round(g, 2) for g in (low, middle, high)],
        "elements": sizes,
        "turns": TURNS,
        "load": [round(v, 1) for v in os.getloadavg()],
        "instructions": instructions,
        "kernels": found,
    }


# the result


def collect(ops: Sequence[Op], measuring: bool) -> dict[str, Any]:
    """All that the page is made of."""
    import llvmlite
    import llvmlite.binding as llvm

    mca, version = find_mca()
    kernels = [(op.name, kind) for op in ops for kind in KINDS]
    loops = {}
    for cpu in CPUS:
        print(f"{CPUS[cpu].title}: {len(kernels)} kernels", file=sys.stderr, flush=True)
        loops[cpu] = loops_for(cpu, kernels)
    cpus = {cpu: analyse(mca, cpu, loops[cpu]) for cpu in CPUS}
    instructions = {cpu: model_instructions(mca, cpu) for cpu in CPUS}
    measured = None
    if measuring:
        print("measuring", file=sys.stderr, flush=True)
        measured = measure(kernels, loops)
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "versions": {
            "llvm-mca": version,
            "llvmlite": llvmlite.__version__,
            "LLVM of llvmlite": ".".join(map(str, llvm.llvm_version_info)),
            "numba": importlib.metadata.version("numba"),
            "fastact": fa.__version__,
        },
        "dtype": DTYPE,
        "kernels": [list(kernel) for kernel in kernels],
        "cpus": cpus,
        "instructions": instructions,
        "measured": measured,
    }


def per_unit(row: Mapping[str, Any], key: str) -> float:
    """What an iteration has of something, for `UNIT` elements."""
    return UNIT * row[key] / row["elements"]


def summary_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """A line for each kernel: operations, cycles and bound by CPU, then what was measured."""
    rows = []
    measured = result["measured"] and result["measured"]["kernels"]
    for name, kind in result["kernels"]:
        key = f"{name} {kind}"
        cells = [name, kind]
        for rows_of in result["cpus"].values():
            row = rows_of[key]
            bound, simulated = (f"{per_unit(row, what):.1f}" for what in ("bound", "simulated"))
            cells += [f"{per_unit(row, 'operations'):.0f}", f"{bound} / {simulated}", row["by"]]
        if measured is not None:
            cells += [f"{measured[key][what]:.1f}" if key in measured else "-" for what in ("loop", "call")]
        rows.append(cells)
    return rows


def summary(result: Mapping[str, Any]) -> str:
    """The table of all CPUs."""
    header, left = ["", ""], [0, 1]
    for cpu in result["cpus"]:
        header += [f"{CPUS[cpu].title}: operations", "cycles", "bound by"]
        left.append(len(header) - 1)
    if result["measured"] is not None:
        header += ["measured: loop", "call"]
    return bench.markdown_table(header, summary_rows(result), left)


def busiest(row: Mapping[str, Any]) -> str:
    """The units that are busy for at least half as long as the busiest one, with their cycles."""
    loads = sorted(row["loads"].items(), key=lambda pair: -pair[1])
    factor = UNIT / row["elements"]
    return ", ".join(f"{unit} {factor * load:.1f}" for unit, load in loads if load >= 0.5 * loads[0][1])


def details(result: Mapping[str, Any], cpu: str) -> str:
    """The table of one CPU."""
    header = ["", "", "vectors", "instructions", "operations", "reloads", "spills", "block throughput", "bound",
              "simulated", "busiest units"]  # fmt: skip
    rows = []
    for name, kind in result["kernels"]:
        row = result["cpus"][cpu][f"{name} {kind}"]
        numbers = [per_unit(row, key) for key in ("instructions", "operations", "reloads", "spills")]
        cycles = [per_unit(row, key) for key in ("block_throughput", "bound", "simulated")]
        cells = [f"{value:.1f}".removesuffix(".0") for value in numbers] + [f"{value:.1f}" for value in cycles]
        rows.append([name, kind, str(row["vectors"]), *cells, busiest(row)])
    return bench.markdown_table(header, rows, (0, 1, len(header) - 1))


def instruction_table(result: Mapping[str, Any]) -> str:
    """Cycles of each instruction, by the models and measured."""
    measured = result["measured"]
    header = ["", *(CPUS[cpu].title for cpu in result["instructions"]), *(["measured"] if measured else [])]
    rows = []
    for name, *_ in INSTRUCTIONS:
        cells = []
        for found in result["instructions"].values():
            one = found.get(name)
            cells.append("-" if one is None else f"{one['cycles']:.2f} ({one['operations']})")
        if measured:
            cells.append(f"{measured['instructions'][name]:.2f}" if name in measured["instructions"] else "-")
        rows.append([name, *cells])
    return bench.markdown_table(header, rows)


def measured_lines(result: Mapping[str, Any]) -> list[str]:
    """What the measured columns were measured on, and how."""
    measured = result["measured"]
    if measured is None:
        return ["Nothing was measured in this run."]
    machine, like = measured["machine"], CPUS[measured["nearest"]].title
    low, middle, high = measured["ghz"]
    itself = measured["llvm_name"] == measured["nearest"]
    said = f"LLVM takes it for `{measured['llvm_name']}`"
    kin = f"{said}: the column {like}." if itself else f"{said}, by its features {like} is the nearest of the four."
    sizes = measured["elements"]
    return [
        f"- Machine: {machine['cpu']}, {machine['cores']} cores seen by the process, first-level cache "
        f"{machine['caches'].get('L1', 'unknown')}, {machine['system']}, Python {machine['python']}. {kin} "
        f"Of the {len(result['kernels'])} loops that Numba compiles for it {measured['same_instructions']} are made of "
        f"the same instructions as those for {like}.",
        f"- Clock while measuring: {middle:.2f} GHz (quartiles {low:.2f} and {high:.2f}), by a chain of dependent "
        "additions timed before and after each measurement. It takes cycles out of seconds, so the clock may vary.",
        f"- One thread, {sizes['forward']} elements forward and {sizes['backward']} backward, which leaves room in the "
        f"first-level cache; median of {measured['turns']} turns. Load of the machine, other programs included: "
        f"{', '.join(f'{v:.1f}' for v in measured['load'])}.",
        "- 'call' is the whole call of `fa.NAME(x, out=y)` or `fa.NAME.backward(dy, x, out=dx)`, nothing subtracted. "
        "'loop' is what more elements take: the time of that many less the time of half as many, for the half.",
    ]


def page(result: Mapping[str, Any], source: str) -> str:
    """docs/ports.md."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parts = [
        "# What bounds what",
        f"Generated by `{COMMAND}` from `{source}`, which the same command writes; `{COMMAND} --page` makes the page "
        "alone. Do not edit.",
        f"{result['date']}; {versions}.",
        f"For each activation that is smooth, or that `fastact bench` measures, in {result['dtype']} and with default "
        f"parameters: what {UNIT} elements take, which is one vector with AVX-512 and two with AVX2 (Zen 3), so that "
        "columns can be compared. Numba's backend compiles each kernel for each CPU; llvm-mca simulates its inner loop "
        "with LLVM's model of the CPU. What this says of the formulas is in [design.md](design.md), 'What bounds "
        "what'.",
        "\n".join(
            [
                "- operations: what the instructions are split into (micro-operations), loads, stores and the loop's "
                "own included.",
                "- cycles: the bound / what llvm-mca simulates. The bound is the load of the busiest unit, or the mean "
                "load of units that share the same work. The simulation adds what dependences and the size of queues "
                "cost, and that operations are not shared out evenly.",
                "- Where a model is wrong, so are its cycles: see 'Instructions'. For Sapphire Rapids the bound counts "
                "the second 512-bit unit and the divider, which LLVM's model lacks. The simulation does not.",
                "- bound by: the busiest unit. 'ports 0/5': where Intel's CPUs compute 512 bits, ports 0 and 1 being "
                "one. 'FP0/1' and 'FP2/3': the pairs of AMD's pipes, on Zen 4 two cycles of one for 512 bits; 'FP1' "
                "alone divides. 'FP4/5' and 'port 4': stores. 'front end': the operations that can enter in a cycle.",
            ]
        ),
        "\n".join(measured_lines(result)),
        "## All CPUs",
        summary(result),
        "## Instructions, and where the models are wrong",
        "Cycles of one instruction where many run that do not depend on each other, and in parentheses its operations, "
        "by LLVM's models (512 bits, Zen 3 256)"
        + ("; then as measured on the machine above." if result["measured"] else "."),
        instruction_table(result),
        *model_notes(result),
    ]
    parts += [
        "## CPU by CPU",
        f"What {UNIT} elements take, once more. 'vectors' are those that an iteration takes side by side, 'reloads' "
        "loads from the stack (values and constants for which there was no register), 'spills' stores to it. 'block "
        "throughput' is llvm-mca's own bound, which takes units one by one.",
    ]
    for cpu in result["cpus"]:
        parts += [f"### {CPUS[cpu].title} (`{cpu}`)", details(result, cpu)]
    return "\n\n".join(parts) + "\n"


def model_notes(result: Mapping[str, Any]) -> list[str]:
    """A sentence for each instruction whose cycles by the model of the nearest CPU are not those measured."""
    measured = result["measured"]
    if measured is None:
        return []
    like, notes = measured["nearest"], []
    for name, cycles in measured["instructions"].items():
        model = result["instructions"][like][name]["cycles"]
        if not 0.7 * model < cycles < 1.4 * model and max(cycles, model) > 0.34:
            notes.append(f"{name} {model:.2f} and {cycles:.2f}")
    if not notes:
        return []
    return [f"LLVM's model of {CPUS[like].title} and the machine differ in cycles of: {', '.join(notes)}."]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="activations to show; nothing is written then")
    parser.add_argument("--all", action="store_true", help="every activation, not only those that are smooth or timed")
    parser.add_argument("--no-measure", action="store_true", help="do without measurements")
    parser.add_argument("--page", action="store_true", help=f"write {PAGE} from {RESULT}, compile nothing")
    parser.add_argument("--compile", action="store_true", help=argparse.SUPPRESS)  # `loops_for`
    given = parser.parse_args(arguments)
    if given.compile:
        json.dump(compile_loops(json.load(sys.stdin)), sys.stdout)
        return
    unknown = [name for name in given.names if name not in OPS]
    if unknown:
        parser.error(f"unknown activation {unknown[0]!r}; there are {', '.join(OPS)}")
    if not given.page:
        if platform.machine() not in ("x86_64", "AMD64"):
            parser.error("the CPUs are x86-64's, and LLVM compiles for them on such a machine only")
        ops = [OPS[name] for name in given.names] or chosen(given.all)
        try:
            result = collect(ops, not given.no_measure)
        except RuntimeError as error:
            parser.error(str(error))
        if given.names:
            print(summary(result))
            return
        (ROOT / RESULT).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    result = json.loads((ROOT / RESULT).read_text(encoding="utf-8"))
    (ROOT / PAGE).write_text(page(result, RESULT.as_posix()), encoding="utf-8")


if __name__ == "__main__":
    main()
