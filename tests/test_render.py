"""The renderer: its output for a fixed set of formulas, and what it refuses in loops."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from modules import load

from fastact.backends.cython_aot import render, render_rows
from fastact.maths import grammar
from fastact.spec import call
from fastact.spec.kernel import KernelSpec, kernel_of
from fastact.spec.table import Op, Param

GOLDEN = Path(__file__).parent / "golden"


def row_spec(name, sign, loop="kernel"):
    return KernelSpec(name, "float32", loop, (), (), (), sign=sign)


def test_golden():
    """To accept a change of the renderer: python tests/test_render.py"""
    assert golden() == (GOLDEN / "formulas.pyx").read_text(encoding="utf-8")


def golden() -> str:
    formulas, f = grammar.parse(GOLDEN / "formulas.py"), load(GOLDEN / "formulas.py")
    step = Op("soft_step", f.soft_step, f.soft_step_grad, params=(Param("width", None),))
    total = Op("sum", f.add, f.two_sum_error, params=(Param("b", None),))
    tabled = Op("tabled", f.tabled, f.tabled)
    kinds = (step, "forward"), (step, "backward"), (total, "value_and_grad"), (tabled, "forward")
    specs = [kernel_of(op, kind, dtype) for op, kind in kinds for dtype in ("float32", "bfloat16")]
    return render.render_module(specs, {"f32": formulas})


def test_golden_rows():
    assert golden_rows() == (GOLDEN / "row_kernels.pyx").read_text(encoding="utf-8")


def golden_rows() -> str:
    formulas = grammar.parse(GOLDEN / "formulas.py", prefix="row_")
    module = render_rows.parse([GOLDEN / "row_kernels.py"], {})
    rows = render_rows.render_rows([row_spec("sums", 1), row_spec("negated", -1)], module, {"f32": formulas})
    roots = [formula.symbol for formula in rows.roots["f32"]]
    return "\n".join([rows.texts["f32"], *roots, *map(str, rows.table.items())]) + "\n"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("v = x", "v has no type"),
        ("v: Vec = x", "Address in the place of Vec"),
        ("v: Float = 1.0", "not a type"),
        ("v: Vec = load(x) + load(x)", "Vec in the place of Int"),
        ("v: Vec = -load(x)", "business of formulas"),
        ("v: Vec = load4(x, 64)", "Quad in the place of Vec"),
        ("v: Vec = load(x, n)", "load takes 1 arguments"),
        ("v: Vec = sine(x)", "sine is neither"),
        ("v: Vec = add(load(x))", "add takes 2"),
        ("v: Int = unknown", "'unknown' is not known"),
        ("for i in x: pass", "For is not part"),
        ("v: Int = x ** 2", "BinOp is not part"),
        ("x + 1", "not a call"),
        ("x = y = n", "names take"),
    ],
)
def test_refuses_in_a_row_kernel(tmp_path, line, what):
    path = tmp_path / "row_kernels.py"
    head = "VECTOR = 64\n\ndef kernel(x: Address) -> None:\n    n: Int = load_int(x)\n"
    path.write_text(f"{head}    {line}\n", encoding="utf-8")
    formulas = grammar.parse(GOLDEN / "formulas.py")
    with pytest.raises(grammar.GrammarError, match=rf"^{path}:5: ") as caught:
        render_rows.render_rows([row_spec("kernel", 1)], render_rows.parse([path], {}), {"f32": formulas})
    assert what in str(caught.value)


def test_a_kernel_takes_a_call():
    module = render_rows.parse([GOLDEN / "row_kernels.py"], {})
    assert module.constants["SCALARS"] == call.SCALARS
    with pytest.raises(grammar.GrammarError, match="takes the address of a call"):
        render_rows.render_rows([row_spec("data", 1, loop="data")], module, {"f32": {}})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_formula_renders(dtype):
    formulas = [*grammar.read(dtype).values(), *grammar.read_rows(dtype).values()]
    text = render.render_functions(formulas, "f32")
    assert text.count("cdef inline") == len(formulas)


@pytest.mark.parametrize("module", [render, render_rows, grammar])
def test_needs_only_the_standard_library(module):
    """At import: it runs while fastact is being built."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    imported = {n.module for n in tree.body if isinstance(n, ast.ImportFrom)}
    imported |= {a.name for n in tree.body if isinstance(n, ast.Import) for a in n.names}
    own = {name for name in imported if name.startswith("fastact.")}
    assert {name.partition(".")[0] for name in imported - own} <= {"__future__", *sys.stdlib_module_names}
    assert {".".join(name.split(".")[:2]) for name in own} <= {"fastact.maths", "fastact.spec", "fastact.backends"}


if __name__ == "__main__":
    (GOLDEN / "formulas.pyx").write_text(golden(), encoding="utf-8")
    (GOLDEN / "row_kernels.pyx").write_text(golden_rows(), encoding="utf-8")
