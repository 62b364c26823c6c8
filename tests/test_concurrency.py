"""Several Python threads at once, forked children, and changes of settings in flight."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import batch, same
from subprocesses import python

import fastact as fa

NAMES = ("relu", "elu", "gelu", "tanh", "mish", "softplus")
BIG = 400_003


def expected(x):
    return {name: (fa.activations[name](x), fa.activations[name].backward(x, x)) for name in NAMES}


def test_threads_at_once(threads, backend):
    threads(2)
    x = batch(np.dtype(np.float32), BIG if backend != "reference" else 20_001)
    want = expected(x)
    small = [expected(x[:n]) for n in (1, 17, 1000)]

    def work(seed):
        rng = np.random.default_rng(seed)
        for i in range(25 if backend != "reference" else 5):
            name = NAMES[rng.integers(len(NAMES))]
            activation = fa.activations[name]
            if i % 2:
                assert same(activation(x), want[name][0])
                out = np.full_like(x, np.nan)
                assert same(activation.backward(x, x, out=out), want[name][1])
            else:
                for n, results in zip((1, 17, 1000), small, strict=True):
                    assert same(activation(x[:n]), results[name][0])
        return True

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))


def test_threads_race_for_the_first_call(tmp_path):
    code = """
import threading
import numpy as np, fastact as fa
x = np.linspace(-5, 5, 200_001, dtype=np.float32)
barrier = threading.Barrier(8)
results = [None] * 8
def work(i):
    barrier.wait()
    results[i] = [fa.silu(x), fa.silu.backward(x, x), fa.selu.value_and_grad(x)[1]]
workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for w in workers: w.start()
for w in workers: w.join()
print(all(a.tobytes() == b.tobytes() for r in results for a, b in zip(r, results[0])))
"""
    assert python(code, FASTACT_CACHE_DIR=str(tmp_path)).strip() == "True"


def test_settings_change_in_flight(threads):
    """Threads and backend change while others compute: the bits do not depend on either."""
    x = batch(np.dtype(np.float32), 50_001)
    want = {name: fa.activations[name](x) for name in NAMES}
    known = fa.dispatch.reasons()
    usable = [b for b in ("numba", "cython", "reference") if known[b] is None]
    stop = []

    def work(name):
        count = 0
        while not stop:
            assert same(fa.activations[name](x), want[name])
            count += 1
        return count

    before = fa.dispatch.selected()
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(work, name) for name in NAMES[:4]]
        try:
            for i in range(60):
                fa.set_num_threads(1 + i % 3)
                fa.use_backend(usable[i % len(usable)])
        finally:
            stop.append(True)
            fa.use_backend(before)
        assert all(r.result(60) >= 0 for r in running)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.parametrize("backend_name", ["numba", "cython", "reference"])
def test_forked_child_after_parallel_use(backend_name):
    if fa.dispatch.reasons()[backend_name] is not None:
        pytest.skip(fa.dispatch.reasons()[backend_name])
    code = """
import os, signal
import numpy as np, fastact as fa
fa.set_num_threads(2)
x = np.linspace(-5, 5, 2_000_003, dtype=np.float32)
y, dx = fa.gelu(x), fa.gelu.backward(x, x)
for generation in range(3):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        ok = fa.gelu(x).tobytes() == y.tobytes() and fa.gelu.backward(x, x).tobytes() == dx.tobytes()
        # an operation that the parent has not used yet
        ok = ok and abs(float(fa.mish(np.float32(1.0))) - 0.8650984) < 1e-6
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if fa.gelu(x).tobytes() == y.tobytes() else 1)
        ok = ok and os.waitpid(grandchild, 0)[1] == 0
        os._exit(0 if ok else 1)
    status = os.waitpid(child, 0)[1]
    assert status == 0, status
    # the parent goes on in parallel
    assert fa.gelu(x).tobytes() == y.tobytes()
print("done")
"""
    assert python(code, FASTACT_BACKEND=backend_name).strip() == "done"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_multiprocessing_pool_by_fork():
    code = """
import multiprocessing
import numpy as np, fastact as fa
fa.set_num_threads(2)
x = np.linspace(-5, 5, 1_000_003, dtype=np.float32)
def work(i):
    return float(fa.silu(x + i).sum(dtype=np.float64))
if __name__ == "__main__":
    want = [work(i) for i in range(6)]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        print(pool.map(work, range(6)) == want)
"""
    assert python(code).strip() == "True"


def test_fork_while_another_thread_computes():
    code = """
import os, threading
import numpy as np, fastact as fa
fa.set_num_threads(2)
x = np.linspace(-5, 5, 500_003, dtype=np.float32)
want = fa.gelu(x)
stop = []
def busy():
    while not stop:
        fa.gelu(x)
worker = threading.Thread(target=busy)
worker.start()
for i in range(20):
    child = os.fork()
    if child == 0:
        import signal
        signal.alarm(30)
        os._exit(0 if fa.gelu(x).tobytes() == want.tobytes() else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.append(1)
worker.join()
print("done")
"""
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this platform")
    assert python(code).strip() == "done"


def test_nested_in_a_parallel_callers_threads(threads):
    """A caller that splits its work over its own threads, each of which calls from further threads."""
    threads(2)
    x = batch(np.dtype(np.float32), 200_001)
    want = fa.gelu(x)

    def outer(_):
        with ThreadPoolExecutor(2) as pool:
            return all(same(r, want) for r in pool.map(fa.gelu, [x] * 4))

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(outer, range(3)))


def test_inside_numba_prange():
    """Called back from within another library's parallel region."""
    pytest.importorskip("numba")
    code = """
import numpy as np, numba, fastact as fa
fa.set_num_threads(2)
x = np.linspace(-5, 5, 300_001, dtype=np.float32)
want = fa.gelu(x)
@numba.njit(parallel=True)
def run(x, want):
    wrong = 0
    for i in numba.prange(8):
        with numba.objmode(bad="intp"):
            bad = int(fa.gelu(x).tobytes() != want.tobytes())
        wrong += bad
    return wrong
print(run(x, want))
"""
    assert python(code).strip() == "0"


def test_thread_limits_of_threadpoolctl():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = fa.get_num_threads()
    with threadpoolctl.threadpool_limits(1):
        assert fa.get_num_threads() in (1, before)
        x = batch(np.dtype(np.float32), 300_001)
        limited = fa.gelu(x)
    assert fa.get_num_threads() == before
    assert same(fa.gelu(x), limited)
