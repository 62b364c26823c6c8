"""docs/embedding.md: its table is that of the tests, its tests exist, and its programs run."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import same
from subprocesses import python

import fastact as fa
from fastact.spec.optimisers import rules
from fastact.spec.rows import ROWS

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docs" / "embedding.md"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="the documentation is not here")
TEXT = FILE.read_text(encoding="utf-8") if FILE.exists() else ""


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_table_is_up_to_date():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import embedding_report
    finally:
        sys.path.pop(0)
    assert embedding_report.updated(TEXT) == TEXT, "run python tools/embedding_report.py"


def test_named_tests_exist():
    sources = "".join(p.read_text(encoding="utf-8") for p in Path(__file__).parent.glob("test_*.py"))
    named = set(re.findall(r"\b(test_\w+)(?:\[|`)", TEXT))
    assert named
    missing = [n for n in named if f"def {n}(" not in sources and not (Path(__file__).parent / f"{n}.py").exists()]
    assert not missing


def test_every_step_and_gradient_of_a_norm_has_its_row():
    for rule in rules():
        arrays, numbers = ", ".join(a.name for a in rule.inputs), ", ".join(rule.params)
        assert f"| `{rule.name}` | `{arrays}` | `{numbers}` |" in TEXT
    for name, row in ROWS.items():
        if any(a.role == "pair" for a in row.outputs):
            arrays = ", ".join([*(a.name for a in (*row.inputs, *row.outputs)), "work"])
            assert f"| `{name}` | `{arrays}` | `{', '.join(['rows', 'n', *row.scalars])}` |" in TEXT


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python(number):
    code = blocks("python")[number]
    for module in re.findall(r"^import (\w+)", code, re.MULTILINE):
        pytest.importorskip(module)
    if "numba" in code:
        if fa.dispatch.reasons()["numba"] is not None:
            pytest.skip(fa.dispatch.reasons()["numba"])
        # found by its entry point where fastact is installed
        code = "from fastact.integrations import numba_extension; numba_extension.init()\n" + code
    if ".address(" in code and fa.dispatch.reasons()["cython"] is not None:
        pytest.skip(fa.dispatch.reasons()["cython"])
    python(code)


def test_fortran(tmp_path):
    if shutil.which("gfortran") is None:
        pytest.skip("no gfortran")
    if fa.dispatch.reasons()["cython"] is not None:
        pytest.skip(fa.dispatch.reasons()["cython"])
    (tmp_path / "elu.f90").write_text(blocks("fortran")[0])
    command = ["gfortran", "-shared", "-fPIC", "-Wall", "-o", "elu.so", "elu.f90"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    apply_elu = ctypes.CDLL(str(tmp_path / "elu.so")).apply_elu
    apply_elu.argtypes = [ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_float]
    x = np.linspace(-3, 3, 1001, dtype=np.float32)
    y = np.full_like(x, np.nan)
    apply_elu(fa.elu.address("forward", "float32"), x.ctypes.data, y.ctypes.data, x.size, 0.5)
    assert same(y, fa.elu(x, alpha=0.5))
