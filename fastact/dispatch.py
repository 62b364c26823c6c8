"""Which kernel runs: backend, instruction set, number of threads, and why.

The choice is made once per ufunc and dtype, when its first call needs a kernel, and again after `use_backend`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fastact import _driver, backends
from fastact.kinds import KINDS, kinds_of

if TYPE_CHECKING:
    from fastact.table import Op

# not a kernel backend of this release, but a name that users may ask for
CUDA_REASON = "the CUDA backend is not part of this release; arrays on a GPU are not taken"

_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    # no fork while a kernel is compiled: the child would find half of it
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock._at_fork_reinit)  # type: ignore[attr-defined]
_slots: list[Any] = []  # what caches kernels and has a `reset()`
_asked = "auto"


def reason(name: str) -> str | None:
    """None where a backend is available, else the reason why it is not. Imports no other backend."""
    if name == "cuda":
        return CUDA_REASON
    try:
        return backends.get(name).available()
    except ImportError as error:
        return f"not built: {error}"


def reasons() -> dict[str, str | None]:
    """`reason` of every backend."""
    return {name: reason(name) for name in (*backends.ORDER, "cuda")}


def _checked(name: str) -> str:
    if name == "auto":
        return name
    known = (*backends.ORDER, "cuda")
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
        ``"auto"`` takes the first one available, in the order numba, cython, reference.

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
            for slots in _slots:
                slots.reset()


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
                return n, variable
            warnings.warn(f"{variable}={text!r} is not a positive number of threads; ignored", stacklevel=3)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)), "CPU affinity"
    return os.cpu_count() or 1, "number of CPUs"


_threads_source = ""


def set_num_threads(n: int) -> None:
    """Use at most `n` threads, the calling one among them, in every call of this process.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an integer, or below 1.

    Notes
    -----
    The default is ``FASTACT_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the CPUs this process may run on. A limit
    set by `threadpoolctl` or ``omp_set_num_threads`` holds as well.
    """
    global _threads_source
    import operator

    n = operator.index(n)
    if n < 1:
        raise ValueError(f"the number of threads must be at least 1, not {n}")
    _driver.configure(threads=n)
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
# many times as many pay for waking one; bytes of output from which on stores go past the cache. Measured by
# `python -m benchmarks.tune`; see docs/design.md
_measured = json.loads(Path(__file__).with_name("thresholds.json").read_text(encoding="utf-8"))
PARALLEL_MIN_BYTES: dict[str, int] = _measured["parallel_min_bytes"]
ASLEEP_FACTOR: int = _measured["asleep_factor"]
STREAM_MIN_BYTES: int = _measured["stream_min_bytes"]
# a task: long enough that taking one costs nothing, short enough that a late thread does not matter
CHUNK_BYTES = 128 * 1024


def cost(op: Op) -> str:
    """'cheap' where memory bounds it even in the cache, else 'costly'."""
    return "cheap" if op.piecewise_linear else "costly"


def limits(op: Op, kind: str, dtype: str) -> tuple[int, int]:
    """Elements from which on threads are used, and elements of a task."""
    size = {"float64": 8, "float32": 4}.get(dtype, 2)
    per_element = size * sum(KINDS[kind])
    return PARALLEL_MIN_BYTES[cost(op)] // per_element, CHUNK_BYTES // per_element


# ---- kernels


def serving(ready: Callable[[], bool]) -> tuple[str, str]:
    """The backend that serves a kernel, and why; `ready` says whether Numba's is on disk.

    Numba is the first choice. Where its kernel would have to be compiled first and there is one ahead of time for all
    that this CPU has, that one serves: both give the same bits at the same speed (docs/design.md), so nobody should
    wait 0.1 to 0.9 s. `warmup` compiles Numba's, which then serves from disk.
    """
    if _asked != "auto":
        return _checked(_asked), "asked for"
    if reason("numba") is None:
        if ready():
            return "numba", "compiled for this CPU, from disk"
        if reason("cython") is None and backends.get("cython").best():
            return "cython", "Numba's kernel is not compiled yet, and this one is as fast; `fastact warmup` compiles it"
    chosen = backend()
    missed = [f"{b}: {reason(b)}" for b in backends.ORDER[: backends.ORDER.index(chosen)]]
    return chosen, "; ".join(["first available", *missed])


def find_kernel(op: Op, kind: str, dtype: str) -> tuple[int | None, Callable[..., Any] | None]:
    """The address of a kernel of the backend that serves it, or a callable where it has none (the reference)."""
    name, _ = serving(lambda: backends.get("numba").ready(op, kind, dtype))
    found = backends.get(name).kernel(op, kind, dtype)
    return (found, None) if isinstance(found, int) else (None, found)


def find_row_kernel(name: str, dtype: str) -> tuple[int | None, Callable[..., Any] | None]:
    """Likewise for a row kernel of float32 or float64."""
    served, _ = serving(lambda: backends.get("numba").row_ready(name, dtype))
    found = backends.get(served).row_kernel(name, dtype)
    return (found, None) if isinstance(found, int) else (None, found)


def make_slots(op: Op, kind: str) -> Any:
    """The ufunc of an activation and a kind, its kernels found when first needed."""
    nin, nout = KINDS[kind]
    name = op.name if kind == "forward" else f"{op.name}_{kind}"

    def resolver(dtype: str) -> tuple[int | None, Callable[..., Any] | None, int, int]:
        return (*find_kernel(op, kind, dtype), *limits(op, kind, dtype))

    slots = _driver.UfuncSlots(
        name, f"{op.formula}\n\nThe ufunc of kind '{kind}'.", nin, len(op.params), nout, resolver, _lock
    )
    register(slots)
    if "ml_dtypes" in sys.modules:
        add_bfloat16(slots)
    return slots


def register(slots: Any) -> None:
    """Have `slots.reset()` called when another backend is chosen."""
    with _lock:
        _slots.append(slots)


def add_bfloat16(slots: Any) -> None:
    """Give a ufunc its loop for ml_dtypes.bfloat16."""
    import ml_dtypes
    import numpy as np

    dtype = np.dtype(ml_dtypes.bfloat16)
    with _lock:
        _driver.register_bfloat16(dtype)
        slots.add_bfloat16(dtype)


def warmup(
    names: Iterable[str] | None = None,
    kinds: Iterable[str] | None = None,
    dtypes: Iterable[str] = ("float32",),
) -> int:
    """Compile kernels ahead, so that no later call waits for one.

    Parameters
    ----------
    names : iterable of str, optional
        Activations; by default all.
    kinds : iterable of str, optional
        Of 'forward', 'backward', 'backward_from_output', 'value_and_grad'; by default all that an activation has.
    dtypes : iterable of str
        Of 'float32', 'float64', 'float16', 'bfloat16'.

    Returns
    -------
    int
        How many kernels are ready.

    Raises
    ------
    ValueError
        For an unknown name, kind or dtype.

    Examples
    --------
    >>> import fastact as fa
    >>> fa.warmup(["relu"], ["forward"])
    1
    """
    from fastact.table import OPS, resolve

    ops = list(OPS.values()) if names is None else [OPS[resolve(n)] for n in names]
    kinds = list(kinds) if kinds is not None else None
    dtypes = list(dtypes)
    for given, known, what in ((kinds or [], KINDS, "kind"), (dtypes, _driver.DTYPES, "dtype")):
        for value in given:
            if value not in known:
                raise ValueError(f"unknown {what} {value!r}; there are {', '.join(known)}")
    chosen = backends.get(backend())
    ready = 0
    with _lock:
        for op in ops:
            for row in (op, op.at_default):
                for kind in kinds_of(row) if row is not None else ():
                    if kinds is None or kind in kinds:
                        for dtype in dtypes:
                            chosen.kernel(row, kind, dtype)
                            ready += 1
        for slots in _slots:
            slots.reset()
    return ready


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
    """What fastact runs with here: version, backends and why not, ISA, threads, cache folder."""
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
        "isa": {name: backends.get(name).isa() for name in backends.ORDER if known[name] is None},
        "threads": status["threads_now"],
        "threads from": _threads_source,
        "threading": status["threading"],
        "limits of threadpoolctl": "seen" if status["openmp"] else "not seen: built without OpenMP",
        "stream from bytes": status["stream_min"],
    }
    if known["numba"] is None:
        from fastact.backends.numba_cpu import cache, folder

        folder.check()
        found["cache folder"] = str(folder.folder())
        found["cache problems"] = dict(folder.problems)
        found["kernels compiled"] = cache.statistics["compiled"]
        found["kernels from disk"] = cache.statistics["loaded"]
    return found


def explain(function: Any, *arrays: Any, **kwargs: Any) -> str:
    """Which kernel a call would run, on how many threads and which instruction set, and why.

    Parameters
    ----------
    function : Activation or one of its methods
        ``fa.elu`` or ``fa.elu.backward``.
    *arrays : array_like
        As for the call.

    Returns
    -------
    str

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> with fa.use_backend("reference"):
    ...     print(fa.explain(fa.elu, np.zeros(4, np.float32)))
    elu forward, 4 elements of float32
    backend: reference (asked for)
    isa: NumPy
    threads: 1 (the reference runs in the calling thread)
    """
    import numpy as np

    describe = getattr(function, "_describe", None)
    if describe is None:
        raise TypeError(f"explain takes an activation or one of its methods, not {type(function).__name__}")
    op, kind = describe()
    name = op.name
    broadcast = np.broadcast(*arrays) if arrays else None
    n = broadcast.size if broadcast is not None else 0
    dtype = _driver.computing_dtype([np.asarray(a).dtype for a in arrays]) if arrays else "float32"
    if dtype is None:
        raise TypeError(f"{name} takes no arrays of {', '.join(str(np.asarray(a).dtype) for a in arrays)}")
    chosen, why = serving(lambda: backends.get("numba").ready(op, kind, dtype))
    lines = [
        f"{name} {kind}, {n} elements of {dtype}",
        f"backend: {chosen} ({why})",
        f"isa: {backends.get(chosen).isa()}",
    ]
    if chosen == "reference":
        lines.append("threads: 1 (the reference runs in the calling thread)")
        return "\n".join(lines)
    parallel_min, _ = limits(op, kind, dtype)
    threads = get_num_threads()
    if n < parallel_min:
        lines.append(f"threads: 1 (below {parallel_min} elements a second thread costs more than it saves)")
    else:
        lines.append(f"threads: up to {threads} (from {_threads_source})")
        if n // ASLEEP_FACTOR < parallel_min and threads > 1:
            lines[-1] += f"; 1 after a pause, when waking a worker pays from {ASLEEP_FACTOR * parallel_min} elements on"
    size = {"float64": 8, "float32": 4}.get(dtype, 2) * KINDS[kind][1] * n
    stream = _driver.status()["stream_min"]
    past = size >= stream
    lines.append(
        f"stores: {'past the cache' if past else 'through the cache'} ({size} bytes of output, limit {stream})"
    )
    return "\n".join(lines)


def _start() -> None:
    global _threads_source, _asked
    threads, _threads_source = _default_threads()
    _driver.configure(threads=threads, stream_min=STREAM_MIN_BYTES, asleep_factor=ASLEEP_FACTOR)
    _asked = os.environ.get("FASTACT_BACKEND", "").strip() or "auto"


_start()
