"""The code of README and docs runs: every fenced block, each in the way of its language, and every command."""

from __future__ import annotations

import ctypes
import doctest
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from cases import same
from subprocesses import PACKAGE, copied, python

import fastact as fa
from fastact.tools import cli

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="the documentation is not here")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "benchmarks").glob("*.md"), *DOCS.glob("*.md")])
# Julia is not there to be run
LANGUAGES = {"python", "cython", "c", "fortran", "julia"}


class Block(NamedTuple):
    """Fenced code of a page."""

    page: str
    line: int
    language: str
    code: str

    @property
    def is_session(self) -> bool:
        return self.language == "python" and ">>>" in self.code


def blocks_of(path):
    text = path.read_text(encoding="utf-8")
    for found in re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if not found[1].startswith("{"):  # a directive of the site, such as its tree of pages
            line = text.count("\n", 0, found.start()) + 1
            yield Block(path.relative_to(ROOT).as_posix(), line, found[1], found[2])


BLOCKS = [block for path in PAGES for block in blocks_of(path)]
CHANGES = [block for block in BLOCKS if block.page == "docs/adding.md"]
SESSIONS = sorted({block.page for block in BLOCKS if block.is_session and block not in CHANGES})
PROGRAMS = [b for b in BLOCKS if b.language == "python" and not b.is_session and b not in CHANGES]


def named(block):
    return f"{block.page}:{block.line}"


def of_language(language):
    """The blocks of another language, which are all in one page."""
    found = [block for block in BLOCKS if block.language == language]
    assert {block.page for block in found} == {"docs/embedding.md"}
    return found


def need_kernels_of_the_build():
    if fa.dispatch.reasons()["cython"] is not None:
        pytest.skip(fa.dispatch.reasons()["cython"])


def test_every_block_is_run():
    assert {block.language for block in BLOCKS} <= LANGUAGES
    assert len(PROGRAMS) >= 4 and len(SESSIONS) >= 5 and len(CHANGES) == 22
    for language in LANGUAGES - {"python"}:
        assert len(of_language(language)) == 1, language
    count = {language: sum(b.language == language for b in BLOCKS) for language in sorted(LANGUAGES)}
    print(f"{len(BLOCKS)} blocks of code: {count}")


@pytest.mark.parametrize("page", SESSIONS)
def test_sessions(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for module in set(re.findall(r"^>>> import ([a-z]\w*)", text, re.MULTILINE)):
        pytest.importorskip(module)
    failed, tried = doctest.testfile(str(ROOT / page), module_relative=False, encoding="utf-8")
    assert failed == 0 and tried > 0


@pytest.mark.parametrize("block", PROGRAMS, ids=named)
def test_programs(block):
    code = block.code
    for module in re.findall(r"^import (\w+)", code, re.MULTILINE):
        pytest.importorskip(module)
    if "NUMBA_ENABLE_CUDASIM" in code:
        pytest.importorskip("numba_cuda")
    elif "numba" in code:
        if fa.dispatch.reasons()["numba"] is not None:
            pytest.skip(fa.dispatch.reasons()["numba"])
        # found by its entry point where fastact is installed
        code = "from fastact.integrations import numba_extension; numba_extension.init()\n" + code
    if ".address(" in code:
        need_kernels_of_the_build()
    python(code)


def test_fortran(tmp_path):
    if shutil.which("gfortran") is None:
        pytest.skip("no gfortran")
    need_kernels_of_the_build()
    (block,) = of_language("fortran")
    (tmp_path / "elu.f90").write_text(block.code)
    command = ["gfortran", "-shared", "-fPIC", "-Wall", "-o", "elu.so", "elu.f90"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    apply_elu = ctypes.CDLL(str(tmp_path / "elu.so")).apply_elu
    apply_elu.argtypes = [ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_float]
    x = np.linspace(-3, 3, 1001, dtype=np.float32)
    y = np.full_like(x, np.nan)
    apply_elu(fa.elu.address("forward", "float32"), x.ctypes.data, y.ctypes.data, x.size, 0.5)
    assert same(y, fa.elu(x, alpha=0.5))


def test_c(tmp_path):
    """The lines of the page in a function of a shared library, called from Python."""
    need_kernels_of_the_build()
    compiler = shutil.which("cc") or shutil.which("gcc") or pytest.skip("no C compiler")
    (block,) = of_language("c")
    includes, _, body = block.code.partition("\n\n")
    arguments = (
        "const float *x, float *y, ptrdiff_t n, ptrdiff_t rows, const int64_t *labels, float *loss, "
        "uint64_t seed, uint64_t offset, float *p, const float *g"
    )
    program = f"{includes}\nstatic PyObject *done(void) {{ Py_RETURN_NONE; }}\n"
    program += f"PyObject *page({arguments}) {{\n{body}\nreturn done();\n}}\n"
    (tmp_path / "page.c").write_text(program)
    include = [f"-I{sysconfig.get_path('include')}", f"-I{fa.get_include()}"]
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", *include, "page.c", "-o", "page.so"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    page = ctypes.PyDLL(str(tmp_path / "page.so")).page
    page.restype = ctypes.py_object
    x = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
    y, loss, labels = np.empty((3, 4), np.float32), np.empty(3, np.float32), np.array([0, 3, -1])
    p, g = np.ones(4, np.float32), np.full(4, 2, np.float32)
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (x, y, labels, loss, p, g)]
    n, rows, seed = ctypes.c_ssize_t(4), ctypes.c_ssize_t(3), ctypes.c_uint64(5)
    page(*pointers[:2], n, rows, *pointers[2:4], seed, ctypes.c_uint64(0), *pointers[4:])
    assert same(y[0], fa.dropout(x[0], 0.1, seed=5))
    assert same(y[1:], fa.softmax(x)[1:])
    assert same(loss, fa.softmax_cross_entropy(x, labels, reduction="none", ignore_index=-1))
    assert np.allclose(p, 1 - 0.01 * 2)


def test_cython(tmp_path):
    need_kernels_of_the_build()
    pytest.importorskip("Cython")
    (block,) = of_language("cython")
    (tmp_path / "page.pyx").write_text(block.code)
    (tmp_path / "setup.py").write_text(
        "from Cython.Build import cythonize\nfrom setuptools import Extension, setup\n"
        f"path = [{str(PACKAGE.parent)!r}]\n"
        "setup(name='page', ext_modules=cythonize([Extension('page', ['page.pyx'])], include_path=path))\n"
    )
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=200, env=os.environ | {"CFLAGS": "-O0"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    python(f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import numpy as np, page, fastact as fa
x = np.linspace(-2, 2, 12, dtype=np.float32)
y, dx = np.empty_like(x), np.empty_like(x)
page.both(x, y, dx, 0.5)
assert (y == fa.elu(x, alpha=0.5)).all() and (dx == fa.elu.backward(y, x, alpha=0.5)).all()
x, dx, losses, labels = x.reshape(3, 4), dx.reshape(3, 4), np.empty(3, np.float32), np.array([0, 3, 2])
page.loss(x, labels, losses, dx)
assert (losses == fa.softmax_cross_entropy(x, labels, reduction="none")).all()
""")


def test_commands():
    """Every `fastact …` of the pages is one that the program takes."""
    pytest.importorskip("matplotlib")  # for --plot
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    found = re.findall(
        r"(?:^    |`)(?:\.venv/bin/)?fastact ((?:info|demo|bench|verify|plot|warmup)[^`\n#]*)", text, re.M
    )
    assert len(found) >= 10
    for given in found:
        words = shlex.split(given.split(" && ")[0])
        names = [n for n in words if n not in ("NAME", "FILE", "FILE.png", "hard_mish")]
        if len(names) < len(words) or len(words) == 1 or any(word.endswith(".json") for word in words):
            continue  # a pattern, a name alone, or a file in a folder
        try:
            cli.build_parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"fastact {given}")


# docs/adding.md: where each of its blocks goes


def at_the_end(text, code):
    return f"{text}\n\n{code}"


def in_table(opening):
    """As the first entry of a table."""
    return lambda text, code: put_after(text, opening, f"    {code.rstrip().rstrip(',')},\n")


def put_after(text, line, code):
    assert text.count(line) == 1, line
    return text.replace(line, line + code)


def put_before(line, indented=""):
    def place(text, code):
        assert text.count(line) == 1, line
        return text.replace(line, "".join(f"{indented}{part}\n" for part in [*code.splitlines(), ""]) + line)

    return place


METHOD = put_before("    def softmax(self, x: Any) -> Any:\n", "    ")
PLACES = [
    ("fastact/maths/activations.py", at_the_end),
    ("fastact/spec/table.py", put_before(")  # fmt: skip\n\nOPS: dict[str, Op]")),
    ("tests/oracle.py", in_table("TRUTH: dict[str, Truth] = {\n")),
    ("fastact/tools/truth.py", in_table("TRUTH: dict[str, Truth] = {\n")),
    ("fastact/spec/kinds.py", in_table("_FUSED = (\n")),
    ("fastact/api/activation.py", put_before("    # made when first asked for\n", "    ")),
    ("fastact/api/docstrings.py", at_the_end),
    ("fastact/spec/units.py", in_table("    for unit in (\n")),
    ("fastact/maths/rows.py", at_the_end),
    ("fastact/loops/softmax.py", at_the_end),
    ("fastact/spec/rows.py", in_table("ROWS: dict[str, RowKernel] = {\n")),
    ("fastact/backends/reference/rows.py", METHOD),
    ("fastact/api/over_axis.py", at_the_end),
    ("tests/rows_oracle.py", at_the_end),
    ("fastact/maths/rows.py", at_the_end),
    ("fastact/loops/losses.py", at_the_end),
    ("fastact/spec/rows.py", in_table("ROWS: dict[str, RowKernel] = {\n")),
    ("fastact/backends/reference/rows.py", METHOD),
    ("fastact/api/losses.py", at_the_end),
    ("fastact/maths/optimisers.py", at_the_end),
    ("fastact/spec/optimisers.py", in_table("    for row in (\n")),
    ("fastact/spec/optimisers.py", put_before("ROWS: dict[str, Row] = {\n")),
]
# what the page says in words
IN_WORDS = [
    ("fastact/api/functions.py", "log_softmax, logsumexp, softmin", "hardmax, log_softmax, logsumexp, softmin"),
    ("fastact/api/functions.py", "= (softmax, log_softmax,", "= (softmax, hardmax, log_softmax,"),
    ("fastact/api/functions.py", "import Loss, nll_loss,", "import Loss, squared_error, nll_loss,"),
    ("fastact/api/functions.py", "= (softmax_cross_entropy,", "= (squared_error, softmax_cross_entropy,"),
]

TRIED = """
import numpy as np
import fastact as fa
from fastact.tools import verify

rng = np.random.default_rng(0)
x = rng.standard_normal((5, 7)).astype(np.float32)
other, dy = rng.standard_normal((2, 5, 7)).astype(np.float32)
for backend in BACKENDS:
    with fa.use_backend(backend):
        assert np.allclose(fa.hard_mish(x), x * np.clip(x + 2, 0, 2) / 2, rtol=1e-6)
        found, bounds = verify.verify("hard_mish", "backward", stride=2**18 + 1)
        assert found.count == 16384 and all(b.holds for b in bounds)
        assert np.allclose(fa.gelu.affine(x, other, dy), fa.gelu(x) * other + dy, rtol=1e-5, atol=1e-6)
        assert np.array_equal(fa.miglu(x, other), fa.mish.gated(x, other))
        dgate, dup = fa.miglu.backward(dy, x, other)
        assert np.allclose(dup, dy * fa.mish(x), rtol=1e-5, atol=1e-6)
        assert np.array_equal(fa.hardmax(x), x == x.max(axis=1, keepdims=True))
        assert not fa.hardmax.backward(dy, fa.hardmax(x)).any()
        loss, dx = fa.squared_error.value_and_grad(x, other)
        assert np.isclose(loss, np.square(x - other).sum(1).mean(), rtol=1e-5)
        assert np.allclose(dx, 2 * (x - other) / 5, rtol=1e-5, atol=1e-6)
        p = x.astype(np.float64)
        optimiser = fa.optim.Yogi([p])
        m = v = 0.0
        want = p.copy()
        for t in range(1, 4):
            g = rng.standard_normal(p.shape)
            optimiser.step([g])
            m = 0.9 * m + 0.1 * g
            v = v + 0.001 * np.sign(g * g - v) * g * g
            want -= 0.01 * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-3)
        assert np.allclose(p, want, rtol=1e-12)
"""


def test_what_is_added(tmp_path):
    """Every change of docs/adding.md, all in one copy of the package."""
    copied(tmp_path)
    (tmp_path / "tests").mkdir()
    for name in ("oracle.py", "rows_oracle.py", "ulp.py", "cases.py"):
        shutil.copy(Path(__file__).parent / name, tmp_path / "tests" / name)
    assert len(CHANGES) == len(PLACES)
    for block, (name, place) in zip(CHANGES, PLACES, strict=True):
        path = tmp_path / name
        path.write_text(place(path.read_text(encoding="utf-8"), block.code), encoding="utf-8")
    for name, old, new in IN_WORDS:
        path = tmp_path / name
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, old
        path.write_text(text.replace(old, new), encoding="utf-8")
    backends = [name for name in ("numba", "reference") if fa.dispatch.reasons()[name] is None]
    python(TRIED.replace("BACKENDS", repr(backends)), path=tmp_path, FASTACT_CACHE_DIR=str(tmp_path / "cache"))
    # the textbook's definitions for the tests
    python(
        f"import sys; sys.path.insert(0, {str(tmp_path / 'tests')!r})\n"
        "import numpy as np, fastact as fa, oracle, rows_oracle\n"
        "x = np.linspace(-4, 4, 97)\n"
        "assert np.allclose(fa.hard_mish(x), oracle.TRUTH['hard_mish'].value(np, x), rtol=1e-14)\n"
        "x = x[:96].reshape(8, 12)\n"
        "assert np.array_equal(fa.hardmax(x), rows_oracle.hardmax(x))\n",
        path=tmp_path,
        FASTACT_BACKEND="reference",
    )


def test_places_are_as_the_page_says():
    text = inspect.cleandoc((DOCS / "adding.md").read_text(encoding="utf-8"))
    for name, _ in PLACES:
        assert f"`{name}`" in text, name
