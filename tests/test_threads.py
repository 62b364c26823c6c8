"""Threads and processes around and inside fastact, beside each threading layer of Numba and without Numba.

The situations are in embedding_programs.py and the table of docs/embedding.md; a layer's are run by one process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import embedding_programs
import numpy as np
import pytest
from cases import same
from subprocesses import PACKAGE, python

import fastact as fa
from fastact.runtime import _driver

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")

# a layer of Numba, or the ahead-of-time kernels in a process that Numba is not used in
LAYERS = ("omp", "tbb", "workqueue", "cython")
ASKED = 3
NEEDS = {"joblib_backends": "joblib", "dask_cluster": "distributed", "threadpoolctl_limits": "threadpoolctl"}
PROGRAMS = Path(embedding_programs.__file__)


def situations(layer):
    names = [f.__name__ for f in embedding_programs.SITUATIONS]
    return [n for n in names if layer != "cython" or not n.startswith("prange")]


def environment(**settings):
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("FASTACT_", "NUMBA_", "OMP_"))}
    if "FASTACT_CACHE_DIR" in os.environ:
        keep["FASTACT_CACHE_DIR"] = os.environ["FASTACT_CACHE_DIR"]
    path = [str(PACKAGE.parent), str(PROGRAMS.parent), *filter(None, [keep.get("PYTHONPATH")])]
    return {**keep, "PYTHONPATH": os.pathsep.join(path), **settings}


def run(*names, timeout=240, **settings):
    done = subprocess.run(
        [sys.executable, str(PROGRAMS), *names],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def layer_settings(layer):
    """The environment in which a layer is used; skips where it cannot be."""
    if layer == "cython":
        reason = fa.dispatch.reasons()["cython"]
        if reason is not None:
            pytest.skip(reason)
        return {"FASTACT_BACKEND": "cython"}
    reason = fa.dispatch.reasons()["numba"]
    if reason is not None:
        pytest.skip(reason)
    settings = {"FASTACT_BACKEND": "numba", "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"}
    if layer == "tbb":
        # the library of the tbb wheel, which the loader does not find by itself
        settings["LD_LIBRARY_PATH"] = str(Path(sys.prefix, "lib"))
    module = "workqueue" if layer == "workqueue" else f"{layer}pool"
    tried = python(f"from numba.np.ufunc import {module}", check=False, **settings)
    if tried.returncode:
        pytest.skip(f"threading layer {layer}: {tried.stderr.strip().splitlines()[-1]}")
    return settings


@pytest.fixture(scope="module", params=LAYERS)
def layer(request, tmp_path_factory):
    """A layer, and what its process said of every situation. What one compiles for itself serves the others."""
    cache = tmp_path_factory.getbasetemp() / "compiled by callers"
    settings = {**layer_settings(request.param), "NUMBA_CACHE_DIR": str(cache)}
    names = [n for n in situations(request.param) if n not in NEEDS or can_import(NEEDS[n])]
    done = run(*names, FASTACT_NUM_THREADS=str(ASKED), **settings)
    return request.param, json.loads(done.stdout.splitlines()[-1])


def can_import(name):
    from importlib.util import find_spec

    return find_spec(name) is not None


@pytest.mark.parametrize("situation", [f.__name__ for f in embedding_programs.SITUATIONS])
def test_situation(layer, situation):
    name, said = layer
    if situation not in situations(name):
        pytest.skip("needs Numba in the process")
    if situation not in said:
        pytest.skip(f"{NEEDS[situation]} is not installed")
    if situation == "threadpoolctl_limits" and not _driver.status()["openmp"]:
        pytest.skip("built without OpenMP")
    assert said[situation] is None


CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


@pytest.mark.parametrize(
    ("settings", "program", "used"),
    [
        ({"FASTACT_NUM_THREADS": "3"}, "threads_used", 3),
        ({"OMP_NUM_THREADS": "1"}, "threads_used", 1),
        ({"OMP_NUM_THREADS": "1", "FASTACT_NUM_THREADS": "2"}, "threads_used", 2),
        ({}, "threads_used", CPUS),
        ({}, "threads_used_in_loky", max(1, CPUS // 2)),
    ],
    ids=["FASTACT_NUM_THREADS", "OMP_NUM_THREADS", "FASTACT before OMP", "default", "joblib's share"],
)
def test_number_of_threads(settings, program, used):
    if "loky" in program:
        pytest.importorskip("joblib")
    assert int(run(program, **settings).stdout.split()[-1]) == used


def test_cpu_affinity():
    """A process bound to one CPU runs one thread."""
    code = f"""
import os, sys
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
sys.path.insert(0, {str(PROGRAMS.parent)!r})
import embedding_programs
print(embedding_programs.threads_used())
"""
    assert python(code).strip() == "1"


def test_two_threads_overlap(threads):
    """Kernels run without the GIL: a third thread, which the GIL would stop, sees both calls begun and not ended."""
    threads(1)
    x = np.linspace(-6, 6, 4_000_000, dtype=np.float32)
    fa.gelu.backward(x[:10], x[:10])
    for _ in range(100):
        outs = [np.full_like(x, np.nan) for _ in range(2)]
        barrier = threading.Barrier(3)

        def work(out, barrier=barrier):
            barrier.wait()
            fa.gelu.backward(x, x, out=out)

        workers = [threading.Thread(target=work, args=(out,)) for out in outs]
        for worker in workers:
            worker.start()
        barrier.wait()
        seen = False
        while not seen and any(worker.is_alive() for worker in workers):
            begun = [not np.isnan(out[0]) for out in outs]
            ended = [not np.isnan(out[-1]) for out in outs]
            seen = all(begun) and not any(ended)
            time.sleep(1e-4)
        for worker in workers:
            worker.join()
        assert all(same(out, outs[0]) for out in outs)
        if seen:
            return
    pytest.fail("never saw both calls at once")


COMPILING = """
import os, signal, threading, time
import numpy as np, fastact as fa
x = np.linspace(-5, 5, 1000, dtype=np.float32)
names = ("elu", "mish", "softplus", "silu", "gelu", "celu")
worker = threading.Thread(target=lambda: [fa.activations[n].value_and_grad(x) for n in names])
fa.relu(x)
worker.start()
for name in names[::-1]:
    time.sleep(0.05)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        fa.activations[name].backward(x, x)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
worker.join()
print("done")
"""


def test_fork_while_another_thread_compiles(tmp_path):
    if fa.dispatch.reasons()["numba"] is not None:
        pytest.skip(fa.dispatch.reasons()["numba"])
    assert python(COMPILING, FASTACT_BACKEND="numba", FASTACT_CACHE_DIR=str(tmp_path)).strip() == "done"


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_many_rounds(name):
    """The situations again and again, in one process."""
    settings = layer_settings(name)
    names = [n for n in situations(name) if n not in ("dask_cluster", "joblib_backends")]
    said = json.loads(
        run(*(names * 5), timeout=900, FASTACT_NUM_THREADS=str(ASKED), **settings).stdout.splitlines()[-1]
    )
    assert not any(said.values()), said
