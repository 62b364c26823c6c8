"""Importing fastact is light: NumPy and little else."""

import json

from subprocesses import copied, python

HEAVY = (
    "numba",
    "llvmlite",
    "matplotlib",
    "torch",
    "jax",
    "tensorflow",
    "scipy",
    "pandas",
    "rich",
    "ml_dtypes",
    "cupy",
)
LIMIT_MS = 50


def test_imports_nothing_heavy():
    loaded = json.loads(
        python("import json, sys, fastact; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))")
    )
    assert "numpy" in loaded
    assert [m for m in HEAVY if m in loaded] == []


def test_import_time_beyond_numpy(tmp_path):
    # the least of several runs, in time of this thread: not what else the machine does, nor the threads of NumPy's BLAS
    code = "import numpy, time; t = time.thread_time(); import fastact; print((time.thread_time() - t) * 1e3)"
    # with byte code, as installed
    settings = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    best = min(float(python(code, **settings)) for _ in range(7))
    print(f"import fastact: {best:.1f} ms beyond NumPy; bound {LIMIT_MS} ms")
    assert best <= LIMIT_MS


def test_reference_backend_runs_without_numba():
    code = """
import sys
sys.modules["numba"] = None
sys.modules["llvmlite"] = None
import numpy as np, fastact as fa
with fa.use_backend("reference"):
    print(float(fa.elu(np.float64(-1.0))))
"""
    assert abs(float(python(code)) - -0.6321205588285577) < 1e-15


def test_where_numba_is_missing_it_says_so():
    code = """
import sys
sys.modules["numba"] = None
import fastact as fa
print(fa.dispatch.reasons()["numba"])
try:
    fa.use_backend("numba")
except RuntimeError as error:
    print(error)
"""
    lines = python(code).splitlines()
    assert "numba" in lines[0]
    assert lines[0] in lines[1]


def test_environment_chooses_the_backend():
    code = "import fastact as fa; print(fa.dispatch.backend())"
    assert python(code, FASTACT_BACKEND="reference").strip() == "reference"
    done = python(code, FASTACT_BACKEND="nunba", check=False)
    assert done.returncode != 0
    assert "nunba" in done.stderr


def test_environment_chooses_the_threads():
    code = "import fastact as fa; print(fa.get_num_threads())"
    assert python(code, FASTACT_NUM_THREADS="3").strip() == "3"
    assert python(code, OMP_NUM_THREADS="1").strip() == "1"


def test_unbuilt_source_says_so(tmp_path):
    package = copied(tmp_path)
    for library in (package / "runtime").glob("_driver.*"):
        if library.suffix in (".so", ".pyd"):
            library.unlink()
    done = python("import fastact", path=package.parent, check=False)
    assert done.returncode != 0
    assert "was not built in place" in done.stderr and "pip install -e ." in done.stderr
