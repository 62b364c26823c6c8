"""What test_threads.py runs in processes of their own: `python embedding_programs.py SITUATION …` prints one JSON line.

A situation is a function that returns None, or a string that says what was wrong; its docstring is its row in
docs/embedding.md: situation, then what happens. Functions that other processes call are at the top level, for pickle.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np

import fastact as fa
from fastact.runtime import _driver

ASKED = int(os.environ.get("FASTACT_NUM_THREADS", "2"))
LAYER = os.environ.get("NUMBA_THREADING_LAYER", "")
BIG = np.linspace(-6, 6, 300_003, dtype=np.float32)


def system_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def results(x):
    return [fa.gelu(x), fa.elu.backward(x, x), *fa.silu.value_and_grad(x), fa.softmax(x.reshape(-1, 3))]


def differ(a, b) -> bool:
    return any(p.tobytes() != q.tobytes() for p, q in zip(a, b))


WANT: list[np.ndarray] = []


def check_here(parallel: bool = True) -> str | None:
    """Results in this process, and how many threads they took."""
    before, had = system_threads(), _driver.status()["workers"]
    mine = results(BIG)
    workers = _driver.status()["workers"]
    if WANT and differ(mine, WANT):
        return "wrong result"
    if workers > ASKED - 1 or system_threads() - before > ASKED - 1 - had:
        return f"{workers} workers and {system_threads()} threads, {before} before, {ASKED} asked for"
    if parallel and fa.dispatch.backend() != "reference" and workers != ASKED - 1:
        return f"ran on {workers} workers, {ASKED - 1} were to be had"
    return None


def check_sums(scale: float) -> tuple[list[float], str | None]:
    """As `check_here`, for results that a parent process compares."""
    sums = [float(r.sum(dtype=np.float64)) for r in results(BIG * np.float32(scale))]
    return sums, check_here()


def compare(found) -> str | None:
    for i, (sums, wrong) in enumerate(found):
        if wrong:
            return wrong
        if sums != check_sums(1 + i)[0]:
            return "wrong sum from another process"
    return None


def in_child(function) -> str | None:
    """Run a function in a forked child."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            said = function() or "right"
        except BaseException:
            said = traceback.format_exc()
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    return None if said == "right" and status == 0 else f"child ended with status {status}: {said}"


# ---- situations


def python_threads(calls: int = 2000) -> str | None:
    """8 Python threads, 2,000 calls each of 1 to 150,000 elements

    every result right; the threads share one set of workers
    """
    sizes = (1, 17, 1000, 30_000)
    want = {n: results(BIG[: n * 3]) for n in sizes}
    big = BIG[:150_000]
    want_big = fa.gelu(big)
    before = system_threads()
    most = [0]

    def work(seed: int) -> str | None:
        rng = np.random.default_rng(seed)
        for i in range(calls):
            n = sizes[rng.integers(3)] if i % 50 else sizes[3]
            x = BIG[: n * 3]
            kind = rng.integers(4)
            if i % 100 == 7:
                good = fa.gelu(big).tobytes() == want_big.tobytes()
            elif kind == 0:
                good = fa.gelu(x).tobytes() == want[n][0].tobytes()
            elif kind == 1:
                good = fa.elu.backward(x, x).tobytes() == want[n][1].tobytes()
            elif kind == 2:
                good = fa.silu.value_and_grad(x)[1].tobytes() == want[n][3].tobytes()
            else:
                good = fa.softmax(x.reshape(-1, 3)).tobytes() == want[n][4].tobytes()
            if not good:
                return f"thread {seed}: wrong result in call {i}"
            if i % 20 == 0:
                most[0] = max(most[0], system_threads())
        return None

    had = _driver.status()["workers"]
    with ThreadPoolExecutor(8) as pool:
        wrong = [w for w in pool.map(work, range(8)) if w]
    if wrong:
        return wrong[0]
    if most[0] - before > 8 + ASKED - 1 - had:
        return f"{most[0]} threads ran, {before} before, 8 of Python's"
    return None if _driver.status()["workers"] <= ASKED - 1 else f"{_driver.status()['workers']} workers"


def os_fork() -> str | None:
    """`os.fork` after parallel calls, and again in the child

    child, grandchild and parent compute in parallel; each forked process starts workers of its own
    """
    return check_here() or in_child(lambda: check_here() or in_child(check_here)) or check_here()


def multiprocessing_fork() -> str | None:
    """`multiprocessing`, start method fork, after parallel calls

    as `os.fork`
    """
    check_here()
    with get_context("fork").Pool(2) as pool:
        return compare(pool.map_async(check_sums, [1.0, 2.0, 3.0, 4.0]).get(60)) or check_here()


def futures_forkserver() -> str | None:
    """`concurrent.futures.ProcessPoolExecutor`, start method forkserver

    right; each process has workers of its own
    """
    check_here()
    with ProcessPoolExecutor(2, mp_context=get_context("forkserver")) as pool:
        return compare(pool.map(check_sums, [1.0, 2.0, 3.0, 4.0], timeout=60)) or check_here()


def joblib_backends() -> str | None:
    """joblib, backends loky and threading

    right; loky hands its processes `OMP_NUM_THREADS`, which holds unless `FASTACT_NUM_THREADS` is set
    """
    import joblib

    for backend in ("loky", "threading"):
        parallel = joblib.Parallel(n_jobs=2, backend=backend, timeout=60)
        wrong = compare(parallel(joblib.delayed(check_sums)(scale) for scale in (1.0, 2.0, 3.0, 4.0)))
        if wrong:
            return f"{backend}: {wrong}"
    return None


def dask_cluster() -> str | None:
    """Dask `LocalCluster`, 2 workers × 2 threads: `fa.gelu`, its backward and the gufunc `fa.softmax` on a Dask array

    right; Dask hands its workers `OMP_NUM_THREADS=1`, which holds unless `FASTACT_NUM_THREADS` is set
    """
    import dask.array as da
    from distributed import Client, LocalCluster

    x = BIG[:300_000].reshape(-1, 100)
    lazy = da.from_array(x, chunks=(500, 100))
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        y, dx, share = (
            f.result(60) for f in client.compute([fa.gelu(lazy), fa.gelu.backward(lazy, lazy), fa.softmax(lazy)])
        )
        states = client.run(worker_state)
    if differ([y, dx, share], [fa.gelu(x), fa.gelu.backward(x, x), fa.softmax(x)]):
        return "wrong result from Dask"
    worst = max(states.values())
    return None if worst <= ASKED - 1 else f"{worst} workers in a process of Dask"


def worker_state() -> int:
    return int(_driver.status()["workers"])


def start_layer() -> None:
    """A parallel region of the program's own."""
    import numba

    @numba.njit(parallel=True)
    def squares(x):
        for i in numba.prange(x.size):
            x[i] *= x[i]
        return x

    assert squares(np.ones(1000)).sum() == 1000
    assert numba.threading_layer() == LAYER, f"{numba.threading_layer()}, not {LAYER}"


def prange_objmode() -> str | None:
    """In the caller's `prange`, in `objmode`

    right; a call uses the workers if they are free; in a region of OpenMP it stays in its thread
    """
    import numba

    x, want = BIG, fa.gelu(BIG)

    @numba.njit(parallel=True)
    def run(x, want):
        wrong, threads = 0, 0
        for _ in numba.prange(8):
            with numba.objmode(bad="intp", used="intp"):
                bad = int(fa.gelu(x).tobytes() != want.tobytes())
                used = fa.get_num_threads()
            wrong += bad
            threads += used
        return wrong, threads

    wrong, threads = run(x, want)
    if wrong:
        return f"{wrong} wrong results"
    if threads != 8 * (1 if LAYER == "omp" else ASKED):
        return f"{threads} threads in 8 iterations"
    return None if _driver.status()["workers"] <= ASKED - 1 else f"{_driver.status()['workers']} workers"


def prange_njit() -> str | None:
    """In the caller's `prange`, in nopython mode, on scalars and on arrays

    right; runs in Numba's threads and starts none
    """
    import numba

    from fastact.integrations import numba_extension

    numba_extension.init()
    x = BIG[:90_000].reshape(-1, 30)

    @numba.njit(parallel=True, cache="NUMBA_CACHE_DIR" in os.environ)
    def run(x):
        y, share = np.empty_like(x), np.empty_like(x)
        for i in numba.prange(x.shape[0]):
            for j in range(x.shape[1]):
                y[i, j] = fa.gelu(x[i, j])
            share[i] = fa.softmax(x[i])
        return y, share

    before = system_threads()
    found = run(x)
    if differ(found, [fa.gelu(x), fa.softmax(x)]):
        return "wrong result"
    more = system_threads() - before
    return None if more <= numba.config.NUMBA_NUM_THREADS else f"{more} more threads"


def threadpoolctl_limits() -> str | None:
    """`threadpoolctl.threadpool_limits(1)`

    calls run in the calling thread until the limit is lifted
    """
    from threadpoolctl import threadpool_limits

    before = fa.get_num_threads()
    want = fa.gelu(BIG)
    with threadpool_limits(1):
        if fa.get_num_threads() != 1:
            return f"{fa.get_num_threads()} threads under a limit of 1"
        time.sleep(0.05)  # others' threads stop looking for work
        whole, own = time.process_time(), time.thread_time()
        for _ in range(50):
            if fa.gelu(BIG).tobytes() != want.tobytes():
                return "wrong result"
        whole, own = time.process_time() - whole, time.thread_time() - own
        if whole > 1.2 * own:
            return f"{whole - own:.3f} s in other threads, {own:.3f} s in the calling one"
    return None if fa.get_num_threads() == before else f"{fa.get_num_threads()} threads after the limit was lifted"


def threads_used() -> int:
    """How many threads a process ends up with that has enough to do for more."""
    before = system_threads()
    for _ in range(20):
        results(BIG)
    assert system_threads() - before <= _driver.status()["workers"]
    return 1 + int(_driver.status()["workers"])


def threads_used_in_loky() -> int:
    import joblib

    return max(joblib.Parallel(n_jobs=2, backend="loky", timeout=60)(joblib.delayed(threads_used)() for _ in range(4)))


# the one that takes CPU time comes first: Dask leaves threads behind
SITUATIONS = (
    threadpoolctl_limits,
    python_threads,
    os_fork,
    multiprocessing_fork,
    futures_forkserver,
    joblib_backends,
    dask_cluster,
    prange_objmode,
    prange_njit,
)


if __name__ == "__main__":
    # a hang shows where it hangs
    faulthandler.dump_traceback_later(200, exit=True)
    if sys.argv[1].startswith("threads_used"):
        print(globals()[sys.argv[1]]())
        sys.exit()
    WANT = results(BIG)
    if LAYER:
        start_layer()
    said: dict[str, str | None] = {}
    for name in sys.argv[1:]:
        start = time.perf_counter()
        try:
            said[name] = said.get(name) or globals()[name]()
        except Exception:
            said[name] = traceback.format_exc()
        print(f"{name} {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    print(json.dumps(said))
