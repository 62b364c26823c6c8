"""Which kernel runs: backend, instruction set, number of threads, and why.

The choice is made once per ufunc and dtype, when its first call needs a kernel, and again after `use_backend`.
"""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from fastact import backends
from fastact.runtime import _driver
from fastact.spec.kernel import KernelSpec, compute_dtype, itemsize, kernel_of, row_kernel_of, rule_kernel_of
from fastact.spec.kinds import ALL, FUSED, KINDS, outputs_of
from fastact.spec.rows import FORMS, ROWS
from fastact.spec.stages import program_of

if TYPE_CHECKING:
    from fastact.spec.optimisers import Rule
    from fastact.spec.table import Op

# methods that are several kinds, by what surrounds the activation
FUSED_STEPS = ("fused", "fused_backward")
# softmax with a scale, a bias or a causal mask, and its gradient
SCALED = ("scaled", "scaled_backward")

_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    # no fork while a kernel is compiled: the child would find half of it
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock._at_fork_reinit)  # type: ignore[attr-defined]
_functions: list[_driver.Function] = []
_asked = "auto"


def reason(name: str) -> str | None:
    """None where a backend is available, else the reason why it is not. Imports no other backend."""
    try:
        return backends.get(name).available()
    except ImportError as error:
        return f"not built: {error}"


def reasons() -> dict[str, str | None]:
    """`reason` of every backend."""
    return {name: reason(name) for name in backends.MODULES}


def _checked(name: str) -> str:
    if name == "auto":
        return name
    known = backends.MODULES
    if name not in known:
        raise ValueError(f"unknown backend {name!r}; there are {', '.join(map(repr, [*known, 'auto']))}")
    why_not = reason(name)
    if why_not is not None:
        raise RuntimeError(f"backend {name!r} is not available: {why_not}")
    return name


def selected() -> str:
    """The backend that was asked for: by `use_backend`, else by `FASTACT_BACKEND`, else 'auto'."""
    return _asked


def backend() -> str:
    """The backend in use: the one asked for, or the first available one.

    Examples
    --------
    >>> import fastact as fa
    >>> with fa.use_backend("reference"):
    ...     fa.dispatch.backend()
    'reference'
    """
    if _asked != "auto":
        # FASTACT_BACKEND is looked at here and not at import, so that `fastact info` can say what is wrong with it
        return _checked(_asked)
    return next(name for name in backends.ORDER if reason(name) is None)


class use_backend:
    """Choose the backend for all calls of this process; as a context manager, until its end.

    Parameters
    ----------
    name : {"auto", "numba", "cython", "reference", "cuda"}
        ``"auto"`` takes the first one available, in the order numba, cython, reference. ``"cuda"`` copies arrays of
        NumPy to a GPU for each call, and the results back. Arrays that are on a GPU are computed there whatever the
        backend is.

    Raises
    ------
    ValueError
        For a name that no backend has.
    RuntimeError
        If the backend is not available; the message says why.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> with fa.use_backend("reference"):
    ...     fa.relu(np.float32([-1.0, 2.0]))
    array([0., 2.], dtype=float32)
    """

    def __init__(self, name: str) -> None:
        self._previous = _asked
        _select(_checked(name))

    def __enter__(self) -> use_backend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _select(self._previous)


def _select(name: str) -> None:
    global _asked
    with _lock:
        if name != _asked:
            _asked = name
            for function in _functions:
                function.reset()


# ---- threads


def _default_threads() -> tuple[int, str]:
    for variable in ("FASTACT_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(variable, "").split(",")[0].strip()
        if text:
            try:
                n = int(text)
            except ValueError:
                n = 0
            if n >= 1:
                return min(n, MAX_THREADS), variable
            warnings.warn(f"{variable}={text!r} is not a positive number of threads; ignored", stacklevel=3)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)), "CPU affinity"
    return os.cpu_count() or 1, "number of CPUs"


_threads_source = ""
MAX_THREADS = 256  # of the pool, as in runtime/pool.h


def set_num_threads(n: int) -> None:
    """Use at most `n` threads, the calling one among them, in every call of this process.

    Parameters
    ----------
    n : int
        At least 1; more than the 256 that the pool can have is 256, as `get_num_threads` then tells.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an integer, or below 1.

    Notes
    -----
    The default is ``FASTACT_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the CPUs this process may run on. A limit
    set by `threadpoolctl` or ``omp_set_num_threads`` holds as well.

    Examples
    --------
    >>> import fastact as fa
    >>> fa.set_num_threads(fa.get_num_threads())
    """
    global _threads_source
    import operator

    try:
        n = operator.index(n)
    except TypeError:
        raise TypeError(f"the number of threads must be an integer, not {type(n).__name__}") from None
    if n < 1:
        raise ValueError(f"the number of threads must be at least 1, not {n}")
    _driver.configure(threads=min(n, MAX_THREADS))
    _threads_source = "set_num_threads"


def get_num_threads() -> int:
    """How many threads a call may use now.

    Examples
    --------
    >>> import fastact as fa
    >>> fa.get_num_threads() >= 1
    True
    """
    return int(_driver.status()["threads_now"])


# ---- thresholds

# bytes of inputs and outputs from which on threads pay while the workers are awake, by the cost of the mathematics; how
# many times as many pay for waking one, and how many do whatever the mathematics; bytes of output from which on stores
# go past the cache. Measured by `python -m benchmarks.tune` for each kind of CPU; see docs/design.md
_thresholds = json.loads(Path(__file__).with_name("thresholds.json").read_text(encoding="utf-8"))
# of CPUs that nobody has measured
OTHER = "AuthenticAMD 25"


def kinds_of_cpu() -> tuple[str, ...]:
    """What this CPU is, the most exact first: vendor, family and model, vendor and family."""
    kind = _driver.cpu_kind()
    return () if kind is None else (f"{kind[0]} {kind[1]} {kind[2]}", f"{kind[0]} {kind[1]}")


def nearest_measured(kinds: tuple[str, ...]) -> str:
    """Of the CPUs in thresholds.json the same one, else one of its vendor, else `OTHER`."""
    vendors = {kind.split()[0] for kind in kinds}
    alike = (known for known in _thresholds if known.split()[0] in vendors)
    return next((kind for kind in kinds if kind in _thresholds), next(alike, OTHER))


THRESHOLDS_OF = nearest_measured(kinds_of_cpu())
_measured = _thresholds[THRESHOLDS_OF]
PARALLEL_MIN_BYTES: dict[str, int] = _measured["parallel_min_bytes"]
ASLEEP_FACTOR: int = _measured["asleep_factor"]
STREAM_MIN_BYTES: int = _measured["stream_min_bytes"]
# a task: short enough that a late thread does not matter, and long, because each start in memory costs 0.3 us
# (2^20 float32, 2 threads: relu 59 us with 128 KiB, 49 with 512 KiB, 48 with 1 MiB)
CHUNK_BYTES = 512 * 1024
# of them, how many pay for waking a worker
ASLEEP_CHUNKS: int = _measured["asleep_most_bytes"] // CHUNK_BYTES


def limits(spec: KernelSpec) -> tuple[int, int]:
    """Elements from which on threads are used, and elements of a task, of a kernel."""
    cost = "cheap" if spec.op is not None and spec.op.piecewise_linear else "costly"
    arrays = sum(a.role == "map" for a in (*spec.inputs, *spec.outputs))
    per_element = itemsize(spec.dtype) * max(arrays, 2)
    return PARALLEL_MIN_BYTES[cost] // per_element, CHUNK_BYTES // per_element


# ---- kernels


def serving(*specs: KernelSpec) -> tuple[str, str]:
    """The backend that serves kernels, and why.

    Numba is the first choice. Where its kernels would have to be compiled first and there are some ahead of time for
    all that this CPU has, those serve: both give the same bits at about the same speed (docs/design.md), so nobody
    should wait 0.1 to 0.9 s. `warmup` compiles Numba's, which then serve from disk.
    """
    if _asked != "auto":
        return _checked(_asked), "asked for"

    def has(name: str) -> bool:
        return reason(name) is None and all(backends.get(name).state(spec).ready for spec in specs)

    if has("numba"):
        return "numba", "compiled for this CPU, from disk"
    ahead = has("cython")
    if ahead and (reason("numba") is not None or backends.get("cython").best()):
        if reason("numba") is None:
            return "cython", "Numba's kernel is not compiled yet, this one is about as fast; `fastact warmup` does that"
        return "cython", f"first available; numba: {reason('numba')}"
    if reason("numba") is None:
        why = reason("cython") or ("no kernels for all that this CPU has" if ahead else "it lacks this kernel")
        return "numba", f"compiled when first needed; cython: {why}"
    missed = [
        f"{b}: {reason(b) or 'it lacks this kernel'}" for b in backends.ORDER[: backends.ORDER.index("reference")]
    ]
    return "reference", "; ".join(["first available", *missed])


def kernel(spec: KernelSpec) -> tuple[str, Any]:
    """The backend that serves a kernel, and its address or, of the reference, a callable.

    Raises
    ------
    RuntimeError
        If the backend that was asked for has no such kernel; the message says why.
    """
    name, _ = serving(spec)
    return name, _having(name, spec).kernel(spec)


def _having(name: str, spec: KernelSpec) -> ModuleType:
    """The module of a backend, if it has the kernel; `RuntimeError` with the reason if not."""
    module = backends.get(name)
    state = module.state(spec)
    if not (state.ready or state.compiles):
        raise RuntimeError(f"backend {name!r} has no kernel {spec.symbol}: {state.why_not}")
    return module


Resolver = Callable[[str, int], tuple[Any, Any, int, int]]


def _resolver(spec_of: Callable[[str, int], KernelSpec]) -> Resolver:
    """What a function of one kernel asks for it; by dtype and form."""

    def resolve(dtype: str, form: int) -> tuple[Any, Any, int, int]:
        spec = spec_of(dtype, form)
        _, found = kernel(spec)
        if isinstance(found, int):
            return [(found, tuple(range(spec.narg)))], None, *limits(spec)
        return None, found, *limits(spec)

    return resolve


def make_ufunc(op: Op, kind: str) -> _driver.Function:
    """The ufunc of a kind of an activation, its kernels found when first needed."""
    name = op.name if kind == "forward" else f"{op.name}_{kind}"
    inputs, outputs = ALL[kind].inputs, ALL[kind].outputs
    resolver = _resolver(lambda dtype, _: kernel_of(op, kind, dtype))
    doc = f"{op.formula}\n\nThe ufunc of kind '{kind}'."
    return register(_driver.Function(name, doc, len(inputs), len(op.params), len(outputs), resolver, _lock))


def make_rows(name: str, doc: str = "", nin: int = 0, loop: str = "rows", **traits: Any) -> _driver.Function:
    """The gufuncs of a kernel over rows; none with ``nin=0``, for `run_rows`, nor of the loop "led", for `run_led`."""
    row = ROWS[name]
    resolver = _resolver(lambda dtype, form: row_kernel_of(name, compute_dtype(dtype), FORMS[form]))
    if not nin:
        traits["roles"] = "".join(_ROLE[a.name if a.name == "labels" else a.role] for a in (*row.inputs, *row.outputs))
    traits |= {"phases": row.phases, "side": row.side}
    return register(_driver.Function(name, doc, nin, 0, 1 if nin else 0, resolver, _lock, loop, **traits))


_ROLE = {"map": "m", "row": "r", "col": "c", "labels": "i", "pair": "p"}


def make_fused(op: Op, kind: str) -> _driver.Function:
    """A fused kind of an activation, its kernels found when first needed: one of its own, or stages."""
    program = program_of(op, kind)

    def resolver(dtype: str, form: int) -> tuple[Any, Any, int, int]:
        compute = compute_dtype(dtype)
        spec = kernel_of(op, kind, compute)
        name, _ = serving(spec)
        backend = _having(name, spec)
        if name == "reference":
            return None, backend.fused(op, kind, dtype), *limits(spec)
        if name == "cuda":
            return None, backend.fused_over_arrays(op, kind, dtype), *limits(spec)
        if name == "cython":
            address = {s.what: backend.kernel(kernel_of(op, s.what, compute)) for s in program.kernels}
            stages = [(address.get(s.what) or _driver.ARITHMETIC[s.what, compute], s.places) for s in program.stages]
            return stages, None, *limits(spec)
        first = [(_driver.ARITHMETIC["keep", compute], (program.random - 1,))] if program.random else []
        return [*first, (backend.kernel(spec), tuple(range(spec.narg)))], None, *limits(spec)

    nin, nout = len(ALL[kind].inputs), len(outputs_of(op, kind))
    name = f"{op.name}_{kind}"
    return register(
        _driver.Function(
            name, "", nin, len(op.params), nout, resolver, _lock, "fused", like=program.like, random=program.random
        )
    )


@cache
def make_rule(rule: Rule) -> _driver.Function:
    """A step of an optimiser, its kernels found when first needed; for `_driver.Lists`."""
    resolver = _resolver(lambda dtype, _: rule_kernel_of(rule, compute_dtype(dtype)))
    numbers = len(rule.inputs), len(rule.params), len(rule.outputs)
    return register(_driver.Function(rule.name, "", *numbers, resolver, _lock, "list"))


def register(function: _driver.Function) -> _driver.Function:
    """Have the function forget its kernels when another backend is chosen."""
    with _lock:
        _functions.append(function)
    return function


def _function(name: str) -> Any:
    from fastact.api.activation import activations
    from fastact.api.functions import FUNCTIONS
    from fastact.api.optimisers import UPDATES
    from fastact.spec.table import resolve

    found = resolve(name, (*FUNCTIONS, *UPDATES))
    return FUNCTIONS.get(found) or UPDATES.get(found) or activations[found]


def _some(given: str | Iterable[str] | None, known: Iterable[str], what: str) -> list[str]:
    known = list(known)
    found = known if given is None else [given] if isinstance(given, str) else list(given)
    for name in found:
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}; there are {', '.join(known)}")
    return found


def warmup(
    names: str | Iterable[str] | None = None,
    kinds: str | Iterable[str] | None = None,
    dtypes: str | Iterable[str] = ("float32",),
) -> int:
    """Compile kernels ahead, so that no later call waits for one.

    Parameters
    ----------
    names : str or iterable of str, optional
        Activations, functions over an axis, losses and optimisers; by default all.
    kinds : str or iterable of str, optional
        Of 'forward', 'backward', 'backward_from_output', 'value_and_grad', by default all of these that a function has,
        and 'biased', 'biased_backward', 'gated', 'gated_backward', 'fused', 'fused_backward', 'scaled',
        'scaled_backward': softmax with a scale, a bias or a causal mask. A step of an optimiser is of kind 'forward'.
    dtypes : str or iterable of str
        Of 'float32', 'float64', 'float16', 'bfloat16'. Functions over an axis compute the last two in float32.

    Returns
    -------
    int
        How many kernels are ready.

    Raises
    ------
    ValueError
        For an unknown name, kind or dtype.
    RuntimeError
        If the backend that was asked for has no such kernel.

    Examples
    --------
    >>> import fastact as fa
    >>> fa.warmup("relu", "forward")
    1
    >>> fa.warmup(["softmax", "softmax_cross_entropy"])  # in all forms: whole rows, side by side, in parts
    10
    """
    from fastact.api.activation import activations
    from fastact.api.functions import FUNCTIONS
    from fastact.api.optimisers import UPDATES

    if names is None:
        functions = [*activations.values(), *FUNCTIONS.values(), *UPDATES.values()]
    else:
        functions = [_function(n) for n in ([names] if isinstance(names, str) else names)]
    kinds = list(KINDS) if kinds is None else _some(kinds, [*KINDS, *FUSED, *FUSED_STEPS, *SCALED], "kind")
    dtypes = _some(dtypes, _driver.DTYPES, "dtype")
    name = backend()
    if name == "cuda":
        raise RuntimeError(
            "kernels of the backend 'cuda' depend on how arrays lie: they are compiled when a call first needs them, "
            "and kept on disk"
        )
    specs = {spec: None for f in functions for k in kinds for d in dtypes for spec in f.kernels(k, d)}
    with _lock:
        for spec in specs:
            chosen = _having(name, spec)
            for part in chosen.stages(spec) if name == "cython" else [spec]:
                chosen.kernel(part)
        for function in _functions:
            function.reset()
    return len(specs)


def get_include() -> str:
    """The folder of ``fastact.h``, for C and C++ compilers; Cython finds ``fastact/__init__.pxd`` by itself.

    Examples
    --------
    >>> import fastact as fa
    >>> fa.get_include().endswith("include")
    True
    """
    return str(Path(__file__).with_name("include"))


# ---- why


def info() -> dict[str, Any]:
    """What fastact runs with here: version, backends and why not, ISA, threads, cache folder.

    Returns
    -------
    dict
        By name, for people and bug reports; ``fastact info`` prints it.

    Examples
    --------
    >>> import fastact as fa
    >>> fa.info()["backends"]["reference"] is None  # available; else the reason why not
    True
    """
    import platform

    import numpy as np

    from fastact import __version__

    known = reasons()
    status = _driver.status()
    try:
        chosen = backend()
    except (ValueError, RuntimeError) as error:
        chosen = f"none: {error}"
    found: dict[str, Any] = {
        "version": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "backend": chosen,
        "asked for": _asked,
        "backends": known,
        "isa": {name: backends.get(name).isa() for name in backends.MODULES if known[name] is None},
        "threads": status["threads_now"],
        "threads from": _threads_source,
        "threading": status["threading"],
        "limits of threadpoolctl": "seen" if status["openmp"] else "not seen: built without OpenMP",
        "stream from bytes": status["stream_min"],
        "thresholds of": THRESHOLDS_OF + ("" if THRESHOLDS_OF in kinds_of_cpu() else ", this CPU was not measured"),
    }
    if known["numba"] is None:
        from fastact.backends import folder
        from fastact.backends.numba_cpu import cache

        folder.check()
        found["cache folder"] = str(folder.folder())
        found["cache problems"] = dict(folder.problems)
        found["kernels compiled"] = cache.statistics["compiled"]
        found["kernels from disk"] = cache.statistics["loaded"]
    found["cuda"] = backends.get("cuda").info()
    return found


@dataclass(frozen=True)
class Plan:
    """A call, as far as `explain` tells of it."""

    call: str  # such as "elu backward"
    size: str  # such as "4 elements of float32"
    elements: int
    specs: tuple[KernelSpec, ...]  # its kernels
    parallel_min: int  # elements from which on threads pay
    written: int | None  # bytes of output; None where they never go past the cache
    alone: str = ""  # why threads cannot share it
    stages: tuple[str, ...] = ()  # of a fused function, ahead of time
    moves: bool = False  # whether it has no kernel: the driver moves elements, NumPy computes a value for each row


def explain(function: Any, *arrays: Any, **kwargs: Any) -> str:
    """Which kernel a call would run, on how many threads and which instruction set, and why.

    Parameters
    ----------
    function : activation, function over an axis, loss, one of their methods, optimiser, or a name
        ``fa.elu``, ``fa.softmax.backward``, ``"elu"``, ``"softmax.backward"``, ``fa.optim.Adam(params)``, ``"Adam"``.
    *arrays : array_like
        As for the call.
    **kwargs
        As for the call.

    Returns
    -------
    str

    Raises
    ------
    TypeError
        If `function` is none of these, or does not take such arrays.
    ValueError
        For an unknown name, or shapes that do not fit.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> with fa.use_backend("reference"):
    ...     print(fa.explain(fa.elu, np.zeros(4, np.float32)))
    elu forward, 4 elements of float32
    backend: reference (asked for)
    isa: NumPy
    threads: 1 (the reference runs in the calling thread)
    >>> print(fa.explain("softmax", np.zeros((3, 4))).splitlines()[0])
    softmax forward, 12 elements of float64 in 3 rows
    """
    if isinstance(function, str):
        function = _named(function)
    _owner(function)
    from fastact.api.device import any_on_device

    kept = getattr(function, "params", ())  # of an optimiser
    if any_on_device((*arrays, *kwargs.values(), *(kept if isinstance(kept, list) else ()))):
        from fastact.api import device_explain

        return device_explain.explain(function, arrays, kwargs)
    plan = _plan(function, arrays, kwargs)
    if plan.specs:
        chosen, why = serving(*plan.specs)
        isa = backends.get(chosen).isa()
    elif plan.moves:
        backend()  # an error if it is not available
        chosen, why, isa = "driver", "it moves elements for every backend, NumPy computes one a row", "NumPy"
    else:
        chosen, why = backend(), "asked for"
        isa = "NumPy"
        if chosen != "reference" or _asked == "auto":
            chosen, why, isa = "driver", "it has this kernel itself, for every backend", _driver.status()["driver_isa"]
    lines = [f"{plan.call}, {plan.size}", f"backend: {chosen} ({why})", f"isa: {isa}"]
    if chosen == "reference":
        lines.append("threads: 1 (the reference runs in the calling thread)")
        return "\n".join(lines)
    if chosen == "cuda":
        lines.append("copies: arrays of NumPy to device 0 and results back, in each call, which waits for them")
        return "\n".join(lines)
    if plan.stages and chosen == "cython":
        lines.append(f"stages: {', '.join(plan.stages)}")
    threads, n = get_num_threads(), plan.elements
    if n < plan.parallel_min:
        lines.append(f"threads: 1 (below {plan.parallel_min} elements a second thread costs more than it saves)")
    elif plan.alone:
        lines.append(f"threads: 1 ({plan.alone})")
    else:
        lines.append(f"threads: up to {threads} (from {_threads_source})")
        enough = min([ASLEEP_FACTOR * plan.parallel_min, *(ASLEEP_CHUNKS * limits(spec)[1] for spec in plan.specs[:1])])
        if n < enough and threads > 1:
            lines[-1] += f"; 1 after a pause, when waking a worker pays from {enough} elements on"
    if plan.written is None:
        lines.append("stores: through the cache (this function never stores past it)")
    else:
        stream = _driver.status()["stream_min"]
        way = "past the cache" if plan.written >= stream else "through the cache"
        lines.append(f"stores: {way} ({plan.written} bytes of output, limit {stream})")
    return "\n".join(lines)


def _named(text: str) -> Any:
    """The function of a name, or its method."""
    name, _, method = text.partition(".")
    function = _function(name)
    if method:
        known = [k for k in (*ALL, *FUSED_STEPS) if hasattr(function, k)]
        if method not in known:
            raise ValueError(f"{name} has no method {method!r}; it has {', '.join(known) or 'none'}")
        function = getattr(function, method)
    return function


def _plan(function: Any, arrays: tuple[Any, ...], kwargs: dict[str, Any]) -> Plan:
    owner = _owner(function)
    return owner._plan(arrays, kwargs) if owner is function else owner._plan(arrays, kwargs, function.__name__)


def _owner(function: Any) -> Any:
    """What tells the plan of a function: itself, or the loss or norm whose plain method it is."""
    owner = getattr(function, "__self__", None)
    if owner is not None and hasattr(owner, "_plan") and function.__name__ in ("value_and_grad", "forward", "backward"):
        return owner
    if not hasattr(function, "_plan"):
        raise TypeError(
            f"explain takes an activation, a row function, one of their methods or an optimiser, not {function!r}"
        )
    return function


def _start() -> None:
    global _threads_source, _asked
    threads, _threads_source = _default_threads()
    _driver.configure(
        threads=threads, stream_min=STREAM_MIN_BYTES, asleep_factor=ASLEEP_FACTOR, asleep_chunks=ASLEEP_CHUNKS
    )
    _asked = os.environ.get("FASTACT_BACKEND", "").strip() or "auto"


_start()
