"""The renderer: its output for a fixed set of formulas, and what it refuses."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import fastact as fa
from fastact.backends.cython_aot import render, render_rows

GOLDEN = Path(__file__).parent / "golden"
PRIMITIVES = render.arities(Path(fa.__file__).parent / "maths" / "primitives.py")


def kernel(op, kind, inputs, params, outputs, body):
    """A kernel whose `body` is a function of the environment and the inputs and parameters."""
    return render.Kernel(op, kind, inputs, params, outputs, lambda env: lambda *args: body(env, *args))


SOFT_STEP = [
    kernel("soft_step", "forward", ("x",), ("w",), ("y",), lambda f, x, w: (f["soft_step"](x, w),)),
    kernel("soft_step", "backward", ("dy", "x"), ("w",), ("dx",), lambda f, dy, *x: (dy * f["soft_step_grad"](*x),)),
    kernel("sum", "value_and_grad", ("a", "b"), (), ("s", "e"), lambda f, *x: (f["add"](*x), f["two_sum_error"](*x))),
]


def test_golden():
    """To accept a change of the renderer: python tests/test_render.py"""
    assert golden() == (GOLDEN / "formulas.pyx").read_text(encoding="utf-8")


def golden() -> str:
    formulas = render.parse(GOLDEN / "formulas.py", relative_to=GOLDEN)
    return render.render_module(SOFT_STEP, {"f32": formulas, "f64": formulas}, PRIMITIVES, ["float32", "bfloat16"])


def test_golden_rows():
    assert golden_rows() == (GOLDEN / "row_kernels.pyx").read_text(encoding="utf-8")


def golden_rows() -> str:
    formulas = render.parse(GOLDEN / "formulas.py", relative_to=GOLDEN)
    module = render_rows.parse(GOLDEN / "row_kernels.py", relative_to=GOLDEN)
    rows = render_rows.render_rows({"sums": ("kernel", 1), "negated": ("kernel", -1)}, module, formulas)
    return "\n".join([rows.texts["f32"], *map(str, rows.roots["f32"]), *map(str, rows.table)]) + "\n"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("v = x", "v has no type"),
        ("v: Vec = x", "Address in the place of Vec"),
        ("v: Float = 1.0", "not a type"),
        ("v: Vec = load(x) + load(x)", "Vec in the place of Int"),
        ("v: Vec = -load(x)", "business of formulas"),
        ("v: Vec = load4(x)", "Quad in the place of Vec"),
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
    path.write_text(f"VECTOR = 64\n\n\ndef kernel(x: Address, n: Int) -> None:\n    {line}\n", encoding="utf-8")
    formulas = render.parse(GOLDEN / "formulas.py")
    with pytest.raises(render.GrammarError, match=rf"^{path}:5: ") as caught:
        render_rows.render_rows({"kernel": ("kernel", 1)}, render_rows.parse(path), formulas)
    assert what in str(caught.value)


def test_primitives_are_those_of_the_grammar():
    from fastact.maths import grammar as bind
    from fastact.maths import primitives

    assert set(PRIMITIVES) == set(bind.PRIMITIVES) == set(primitives.__all__)
    assert PRIMITIVES == bind._ARITY


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_formula_renders(dtype):
    package = Path(fa.__file__).parent
    formulas = render.parse(package / "maths" / "elementary" / f"{dtype}.py") | render.parse(
        package / "maths" / "activations.py"
    )
    text = render.render_functions(formulas, formulas, PRIMITIVES, "f32")
    assert text.count("cdef inline") == len(formulas)


def refused(tmp_path, source, line, what):
    path = tmp_path / "formulas.py"
    path.write_text(source, encoding="utf-8")
    with pytest.raises(render.GrammarError) as caught:
        formulas = render.parse(path)
        render.render_functions(formulas, formulas, PRIMITIVES, "f32")
    assert str(caught.value).startswith(f"{path}:{line}: "), caught.value
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("y = x ** 2.0", "Pow"),
        ("y = x % 2.0", "Mod"),
        ("y = +x", "UAdd"),
        ("y = not x", "Not"),
        ("y = 2 * x", "literal 2 is not a float"),
        ("y = True", "literal True"),
        ("y = 2.0 / 3.0", "two literals"),
        ("y = -2.0 * 3.0", "two literals"),
        ("y = z", "'z' is not a local value"),
        ("y = x.real", "Attribute"),
        ("y = x[0.0]", "Subscript"),
        ("y = sin(x)", "sin is neither a formula nor a primitive"),
        ("y = math.exp(x)", "math.exp is neither"),
        ("y = fma(x, x)", "fma takes 3 arguments, not 2"),
        ("y = f(x, x)", "f takes 1 arguments, not 2"),
        ("y = sqrt(x=x)", "no keyword arguments"),
        ("y = sqrt(*x)", "Starred"),
        ("y = x < 1.0 < 2.0", "one comparison at a time"),
        ("y = 1.0 + (x < 2.0)", "first argument of where"),
        ("y = where(x is x, x, x)", "comparison Is"),
        ("y = where(x, x, x)", "first argument of where"),
        ("y = where(x < 1.0 and x > 0.0, x, x)", "first argument of where"),
        ("y = x if x else x", "IfExp"),
        ("y = (lambda: x)", "Lambda"),
        ("y = two(x)", "two returns 2 values, not 1"),
        ("y, z = f(x)", "returns as many"),
        ("y, z = x, x", "returns as many"),
        ("y = z = x", "Assign"),
        ("y += x", "AugAssign"),
        ("y: float = x", "AnnAssign"),
        ("x.y = x", "only a name"),
        ("if x: y = x", "If"),
        ("for y in x: pass", "For"),
        ("import math", "Import"),
        ("return x", "Return"),
        ("sqrt(x)", "Expr"),
    ],
)
def test_refuses_in_a_body(tmp_path, line, what):
    before = 'def f(x):\n    """f"""\n    return x\n\n\ndef two(x):\n    """two"""\n    return x, x\n\n\n'
    refused(tmp_path, f'{before}def g(x):\n    """g"""\n    {line}\n    return x\n', 13, what)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("x = 1.0\n", "Assign"),
        ("import math\n", "Import"),
        ("from math import exp\n", "import only formulas and primitives"),
        ("class A:\n    pass\n", "ClassDef"),
        ("def f(x, y=1.0):\n    return x\n", "plain positional"),
        ("def f(*x):\n    return x\n", "plain positional"),
        ("def f(x, *, y):\n    return x\n", "plain positional"),
        ("def f(x):\n    return\n", "does not end in the return"),
        ("def f(x):\n    y = x\n", "does not end in the return"),
        ("def f(x):\n    '''f'''\n", "does not end in the return"),
        ("def f(x):\n    return f(x)\n", "f -> f: a formula calls itself"),
        ("def f(x):\n    return x\ndef f(x):\n    return x\n", "defined twice"),
        ("def f(x):\n    return x < x\n", "first argument of where"),
        ("async def f(x):\n    return x\n", "AsyncFunctionDef"),
    ],
)
def test_refuses_a_module(tmp_path, source, what):
    path = tmp_path / "formulas.py"
    path.write_text(source, encoding="utf-8")
    with pytest.raises(render.GrammarError, match=rf"^{path}:\d+: ") as caught:
        formulas = render.parse(path)
        render.render_functions(formulas, formulas, PRIMITIVES, "f32")
    assert what in str(caught.value)


def test_refuses_a_name_that_is_value_and_mask(tmp_path):
    refused(tmp_path, "def f(x):\n    c = x < 0.0\n    c = x\n    return x\n", 3, "a value in one place and a mask")
    refused(tmp_path, "def f(x):\n    c = x < 0.0\n    return c\n", 3, "c is a mask")


def test_needs_only_the_standard_library():
    tree = ast.parse(Path(render.__file__).read_text(encoding="utf-8"))
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imported |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert imported <= {"__future__", "ast", "hashlib", "math", "collections.abc", "dataclasses", "pathlib"}


if __name__ == "__main__":
    (GOLDEN / "formulas.pyx").write_text(golden(), encoding="utf-8")
    (GOLDEN / "row_kernels.pyx").write_text(golden_rows(), encoding="utf-8")
