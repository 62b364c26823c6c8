"""Installations that lack something: Numba, its JIT, a compiler or part of one; and what is packed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from modules import load
from subprocesses import PACKAGE, python

import fastact as fa
from fastact.backends.cython_aot import render
from fastact.maths import grammar
from fastact.spec.kernel import kernel_of
from fastact.spec.table import OPS

HERE = Path(__file__).parent
ROOT = HERE.parent
posix = pytest.mark.skipif(os.name != "posix", reason="compilers are replaced by shell scripts")


# ---- without Numba


def without_numba(*arguments, **environment):
    """Run a module of Python where Numba cannot be imported; its stdout."""
    path = [str(HERE / "without_numba"), str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {k: v for k, v in os.environ.items() if not k.startswith("FASTACT_")}
    variables.update(environment, PYTHONPATH=os.pathsep.join(path))
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], env=variables, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def best_without_numba():
    return "cython" if fa.dispatch.reason("cython") is None else "reference"


@pytest.mark.parametrize(
    "tests",
    [
        ["test_dispatch.py", "test_import.py", "test_errors.py", "test_cache.py", "test_numba_embedding.py"],
        ["test_forward.py", "test_rows_losses.py", "-k", "float32 or losses"],
    ],
    ids=["choices", "values"],
)
def test_suite_without_numba(tests):
    """A part of it; ``PYTHONPATH=tests/without_numba pytest`` runs all."""
    files = [HERE / t if t.endswith(".py") else t for t in tests]
    settings = {"FASTACT_TEST_BACKENDS": f"{best_without_numba()} reference"}
    report = without_numba("pytest", "-q", "-rs", "-p", "no:cacheprovider", "--rootdir", ROOT, *files, **settings)
    assert " passed" in report
    # what needs Numba is left out, and says so; the fixture `backend` saw to it that nothing else is
    assert any(line.startswith("SKIPPED") and "numba" in line for line in report.splitlines())


def test_demo_without_numba():
    report = json.loads(without_numba("fastact", "demo", "--epochs", "3", "--json"))
    accuracy = {name: run["test_accuracy"] for name, run in report["runs"].items()}
    assert accuracy["fastact"] == accuracy["numpy"] > 0.8


def test_info_without_numba():
    report = json.loads(without_numba("fastact", "info", "--json"))
    assert report["backend"] == best_without_numba()
    assert report["backends"]["numba"] == "numba is not installed (pip install numba)"


def test_with_the_jit_of_numba_off():
    pytest.importorskip("numba")
    code = """
import numba, numpy as np, fastact as fa
from fastact.integrations import numba_extension
numba_extension.init()
x = np.linspace(-3, 3, 1001, dtype=np.float32)

@numba.njit
def both(x):
    return fa.elu(x), fa.elu.backward(x, x)

assert all(a.tobytes() == b.tobytes() for a, b in zip(both(x), (fa.elu(x), fa.elu.backward(x, x))))
assert abs(fa.softmax(x).sum() - 1) < 1e-5
print(fa.explain(fa.elu, x).splitlines()[1])
try:
    fa.use_backend("numba")
except RuntimeError as error:
    print(error)
"""
    chosen, refused = python(code, NUMBA_DISABLE_JIT="1").splitlines()
    assert chosen.startswith(f"backend: {best_without_numba()} (") and "numba: NUMBA_DISABLE_JIT is set" in chosen
    assert refused == "backend 'numba' is not available: NUMBA_DISABLE_JIT is set"


# ---- compilers


@pytest.fixture
def setup_py():
    if not (ROOT / "setup.py").exists():
        pytest.skip("setup.py is not here")
    pytest.importorskip("Cython")
    return load(ROOT / "setup.py")


@pytest.fixture
def compiler_without(tmp_path, monkeypatch):
    """Makes CC a compiler that does not know an option."""
    cc = shutil.which("cc") or shutil.which("gcc") or pytest.skip("no C compiler")

    def choose(option):
        script = tmp_path / "cc"
        script.write_text(
            f'#!/bin/sh\nfor word; do case "$word" in {option}) echo "unknown option $word" >&2; exit 1;; esac; done\n'
            f'exec {cc} "$@"\n'
        )
        script.chmod(0o755)
        monkeypatch.setenv("CC", str(script))
        monkeypatch.delenv("LDSHARED", raising=False)

    return choose


@posix
def test_no_compiler(setup_py, monkeypatch):
    monkeypatch.setenv("CC", "/nonexistent/cc")
    with pytest.raises(setup_py.PlatformError, match=r"needs a C compiler.*apt install gcc.*or set CC"):
        setup_py.require_compiler()


@posix
def test_no_headers_of_python(setup_py, compiler_without, monkeypatch, tmp_path):
    compiler_without("nothing")
    monkeypatch.setattr(setup_py, "get_python_inc", lambda: str(tmp_path))
    if setup_py.try_compiler("#include <Python.h>\n", [], link=False) is None:
        pytest.skip("the compiler finds Python.h by itself")
    with pytest.raises(setup_py.PlatformError, match=r"needs the headers of Python.*apt install python3-dev"):
        setup_py.require_compiler()


@posix
def test_no_openmp(setup_py, compiler_without, capfd):
    compiler_without("-fopenmp")
    setup_py.require_compiler()
    assert setup_py.openmp_flag() == []
    assert "built without OpenMP" in capfd.readouterr().err


@posix
def test_a_level_that_the_compiler_does_not_know_is_left_out(compiler_without, monkeypatch, tmp_path, capfd):
    setuptools = pytest.importorskip("setuptools")
    pytest.importorskip("Cython")
    compiler_without("-mavx512*")
    monkeypatch.chdir(tmp_path)
    build_aot = load(PACKAGE / "backends" / "cython_aot" / "build.py")
    if "_aot_v4" not in build_aot.levels():
        pytest.skip("one level on this machine")
    relu = OPS["relu"]
    text = render.render_module([kernel_of(relu, "forward", "float32")], {"f32": grammar.read("float32")})
    (tmp_path / "_aot.pyx").write_text(text, encoding="utf-8")
    distribution = setuptools.Distribution({"ext_modules": build_aot.level_extensions(tmp_path, "")})
    command = build_aot.BuildExt(distribution)
    command.build_lib = command.build_temp = str(tmp_path)
    command.ensure_finalized()
    command.run()
    assert {p.name.split(".")[0] for p in tmp_path.glob("*.so")} == set(build_aot.levels()) - {"_aot_v4"}
    assert "fastact: _aot_v4 NOT BUILT: see the messages above" in capfd.readouterr().err


# ---- what is packed


def test_source_distribution(setup_py, tmp_path):
    """All that a build needs, and nothing that it makes, also from a tree where everything was built."""
    tree = tmp_path / "tree"
    made_before = (".*", "build", "dist", "generated", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*made_before))
    package = tree / "fastact"
    made = ["__init__.pxd", "include/fastact.h", "runtime/_driver.c", "runtime/_driver.cpython-311.so"]
    made += [f"backends/cython_aot/{name}" for name in ("_embed.pxd", "_aot_stamp.json")]
    for name in made:
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).touch()
    for folder in ("build", "generated"):  # of the documentation site
        (tree / "docs" / folder).mkdir()
        (tree / "docs" / folder / "page.md").touch()
    command = [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(tmp_path / "dist")]
    run = subprocess.run(
        command, cwd=tree, env=os.environ | {"FASTACT_NO_AOT": "1"}, capture_output=True, text=True, timeout=200
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (archive,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        packed = {member.name.split("/", 1)[1] for member in tar if member.isfile()}
    wanted = {
        path.relative_to(tree).as_posix()
        for folder in ("fastact", "tests", "docs", "tools", "benchmarks")
        for path in (tree / folder).rglob("*")
        if path.is_file() and path.suffix not in (".so", ".pyd", *([".c"] if folder == "fastact" else []))
    } - {*(f"fastact/{name}" for name in made), "docs/build/page.md", "docs/generated/page.md"}
    wanted |= {"setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md", "CONTRIBUTING.md"}
    wanted |= {"CITATION.cff", "SECURITY.md"}
    assert {name for name in packed if "egg-info" not in name} - {"PKG-INFO", "setup.cfg"} == wanted


def test_types_are_in_the_package(setup_py, tmp_path):
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    run = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"FASTACT_NO_AOT": "1"}, capture_output=True, text=True, timeout=200
    )
    assert run.returncode == 0, run.stdout + run.stderr
    stubs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "fastact").rglob("*.pyi")}
    packed = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.pyi")}
    assert "fastact/__init__.pyi" in stubs and packed == stubs
    assert (tmp_path / "fastact" / "py.typed").exists()
