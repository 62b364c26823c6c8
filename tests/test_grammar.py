"""The grammar of formulas: the package keeps to it, and each way of leaving it is refused with file and line."""

import inspect

import pytest

from fastact.maths import grammar, primitives

HEAD = '"""A module of formulas."""\n\nfrom fastact.maths.primitives import fma, lookup, rarely, sqrt, where\n\n\n'


def check(tmp_path, source):
    file = tmp_path / "sample.py"
    file.write_text(HEAD + source, encoding="utf-8")
    return file, violations(file)


def violations(file, *others):
    try:
        grammar.parse(file, *others)
    except grammar.GrammarError as error:
        assert str(error).splitlines() == list(error.violations)
        return list(error.violations)
    return []


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_package_keeps_to_it(dtype):
    """What is read is what is bound, and calls nothing of the other dtype."""
    read, rows = grammar.read(dtype), grammar.read_rows(dtype)
    implementations = dict.fromkeys(grammar.PRIMITIVES)
    assert {*read, *implementations} == {n for n in grammar.bind(implementations, dtype) if not n.startswith("__")}
    assert rows.keys() == grammar.row_formulas().keys()
    for name, formula in (read | rows).items():
        assert all((callee is read.get(n)) or (callee is rows.get(n)) for n, callee in formula.calls.items()), name
    for name, function in grammar.row_formulas().items():
        assert rows[name].parameters == list(inspect.signature(function).parameters)
        result = function(*[0.5] * len(rows[name].parameters))
        assert rows[name].results == (len(result) if isinstance(result, tuple) else 1)
    assert grammar.row_results()["two_sum"] == 2


def test_primitives():
    assert set(grammar.PRIMITIVES) == set(primitives.__all__)
    # as the design's table has them
    assert grammar.PRIMITIVES == {"where": 3, "minimum": 2, "maximum": 2, "fabs": 1, "copysign": 2, "sqrt": 1, "fma": 3,
                                  "rint": 1, "scalb": 2, "logb": 1, "lookup": 9, "rarely": 3}  # fmt: skip


GOOD = '''def f(x, alpha):
    """alpha·x where x > 0, else a root"""
    t = fma(x, alpha, -0.5)
    r = where(x > 0.0, t, sqrt(t * t + 1.0))
    return -r / (x + 2.0)


def g(x):
    """f with alpha 1"""
    return f(x, 1.0)


def large(x, y):
    """f by a table, g in rare cases"""
    t = lookup(x, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, -6.0, 7.0)
    y = rarely(t >= 4.0, f, y - x, x, t)
    return rarely(x > y, g, lookup(y, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0), x)
'''


def test_what_is_in_it_passes(tmp_path):
    assert check(tmp_path, GOOD)[1] == []


# rule -> a body whose third line (of the function) breaks it
BROKEN = {
    "if statement": "    if x > 0.0:\n        x = 0.0\n    return x",
    "conditional expression": "    return x if x > 0.0 else 0.0",
    "for loop": "    for i in (1.0, 2.0):\n        x = x * i\n    return x",
    "while loop": "    while x > 1.0:\n        x = x / 2.0\n    return x",
    "power": "    return x**2.0",
    "floor division": "    return x // 2.0",
    "modulo": "    return x % 2.0",
    "unary plus": "    return +x",
    "not": "    return where(not x > 0.0, x, 0.0)",
    "and": "    return where(x > 0.0 and x < 1.0, x, 0.0)",
    "integer literal": "    return x + 1",
    "boolean literal": "    return where(True, x, 0.0)",
    "string": '    return fma(x, "1", x)',
    "none": "    return fma(x, None, x)",
    "keyword argument": "    return fma(x, x, c=x)",
    "starred argument": "    return fma(*x)",
    "attribute": "    return x.real",
    "method call": "    return x.sum()",
    "subscript": "    return x[0]",
    "tuple": "    t = (x, x)\n    return x",
    "list": "    t = [x]\n    return x",
    "lambda": "    t = lambda v: v\n    return x",
    "comprehension": "    t = [v for v in x]\n    return x",
    "chained comparison": "    return where(0.0 < x < 1.0, x, 0.0)",
    "comparison is": "    return where(x is x, x, 0.0)",
    "comparison in": "    return where(x in x, x, 0.0)",
    "mask outside of where": "    return x + (x > 0.0)",
    "mask assigned and added": "    m = x > 0.0\n    return x + m",
    "number as a mask": "    return where(x, x, 0.0)",
    "unknown function": "    return exp10(x)",
    "builtin": "    return abs(x)",
    "unknown name": "    return x + y",
    "name before its assignment": "    return t\n    t = x",
    "wrong number of arguments": "    return sqrt(x, x)",
    "augmented assignment": "    x += 1.0\n    return x",
    "annotated assignment": "    t: float = x\n    return t",
    "walrus": "    return (t := x)",
    "nested function": "    def h(v):\n        return v\n    return x",
    "import": "    import math\n    return x",
    "global": "    global z\n    return x",
    "assertion": "    assert x\n    return x",
    "exception": "    raise ValueError\n    return x",
    "try": "    try:\n        t = x\n    finally:\n        t = x\n    return t",
    "with": "    with x:\n        t = x\n    return t",
    "deletion": "    del x\n    return 0.0",
    "expression statement": "    sqrt(x)\n    return x",
    "two literals": "    return x + (1.0 + 2.0)",
    "yield": "    yield x\n    return x",
    "await": "    return (yield)",
    "f-string": '    t = f"{x}"\n    return x',
    "chained assignment": "    a = b = x\n    return a",
    "pass": "    pass\n    return x",
    "formula of two values in an expression": "    t = two(x) + 1.0\n    return t",
    "two names of three values": "    a, b, c = two(x)\n    return a + b + c",
    "starred name": "    a, *b = two(x)\n    return a",
    "tuple of one": "    return (x,)",
    "value and then mask": "    a = x\n    a = x > 0.0\n    return where(a, x, x)",
    "mask and then value": "    a = x > 0.0\n    a = x\n    return a",
    "argument and then mask": "    x = x > 0.0\n    return where(x, 1.0, 2.0)",
    "mask of a mask": "    c = x < 0.0\n    d = c\n    return where(d, x, x)",
    "call of a local": "    sqrt = x\n    return sqrt(x)",
}
TWO = '''def two(x):
    """x twice"""
    return x, x


def h(x):
    """x/2"""
    return 0.5 * x


'''


@pytest.mark.parametrize("rule", BROKEN)
def test_each_violation_is_refused_where_it_stands(rule, tmp_path):
    file, found = check(tmp_path, f'{TWO}def f(x):\n    """x"""\n{BROKEN[rule]}\n')
    assert found, rule
    first = (HEAD + TWO).count("\n") + 3
    lines = {int(v.removeprefix(f"{file}:").split(":")[0]) for v in found}
    assert lines <= set(range(first - 2, first + 6)), found
    assert all(v.startswith(f"{file}:") for v in found)


# rule -> a definition broken in its head or its end
BROKEN_DEFINITIONS = {
    "no return": 'def f(x):\n    """x"""\n    t = x\n',
    "bare return": 'def f(x):\n    """x"""\n    return\n',
    "early return": 'def f(x):\n    """x"""\n    return x\n    return x\n',
    "no docstring": "def f(x):\n    return x\n",
    "default argument": 'def f(x, alpha=1.0):\n    """x"""\n    return x\n',
    "keyword-only argument": 'def f(x, *, alpha):\n    """x"""\n    return x\n',
    "variable arguments": 'def f(*x):\n    """x"""\n    return 0.0\n',
    "keyword arguments": 'def f(x, **rest):\n    """x"""\n    return x\n',
    "decorator": '@sqrt\ndef f(x):\n    """x"""\n    return x\n',
    "annotation": 'def f(x: float):\n    """x"""\n    return x\n',
    "return annotation": 'def f(x) -> float:\n    """x"""\n    return x\n',
    "class": "class F:\n    pass\n",
    "async function": 'async def f(x):\n    """x"""\n    return x\n',
    "constant at module level": "C = 1.0\n",
    "import of numpy": "import numpy\n",
    "import from elsewhere": "from math import sqrt\n",
    "statement at module level": "print(1.0)\n",
    "nothing but a docstring": 'def f(x):\n    """x"""\n',
    "formula that calls itself": 'def f(x):\n    """x"""\n    return f(x)\n',
    "formulas that call each other": 'def f(x):\n    """x"""\n    return g(x)\n\n\n'
    'def g(x):\n    """x"""\n    return f(x)\n',
    "one name twice": 'def f(x):\n    """x"""\n    return x\n\n\ndef f(x):\n    """x"""\n    return x\n',
}


@pytest.mark.parametrize("rule", BROKEN_DEFINITIONS)
def test_each_broken_definition_is_refused(rule, tmp_path):
    file, found = check(tmp_path, BROKEN_DEFINITIONS[rule])
    assert found, rule
    assert all(v.startswith(f"{file}:") for v in found)


def refused(tmp_path, source, line, what):
    path = tmp_path / "formulas.py"
    path.write_text(source, encoding="utf-8")
    found = violations(path)
    assert any(v.startswith(f"{path}:{line}: ") and what in v for v in found), found


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
        ("y = 1.0 + rarely(x > 1.0, h, x, x)", "rarely is all that is assigned or returned"),
        ("y = rarely(x > 1.0, sqrt, x, x)", "the name of a formula of one value"),
        ("y = rarely(x > 1.0, two, x, x)", "the name of a formula of one value"),
        ("y = rarely(x > 1.0, h, x)", "rarely takes 4 arguments, not 3"),
        ("y = rarely(x, h, x, x)", "first argument of where or rarely"),
        ("y = lookup(x, 0.0, 1.0)", "lookup takes 9 arguments, not 3"),
        ("y = lookup(x, x, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)", "the entries of lookup are literals"),
        ("y = where(x < 1.0 < 2.0, x, x)", "one comparison < <= > >= == != at a time"),
        ("y = 1.0 + (x < 2.0)", "first argument of where"),
        ("y = where(x is x, x, x)", "one comparison < <= > >= == != at a time"),
        ("y = where(x, x, x)", "first argument of where"),
        ("y = where(x < 1.0 and x > 0.0, x, x)", "first argument of where"),
        ("y = x if x else x", "IfExp"),
        ("y = (lambda: x)", "Lambda"),
        ("y = two(x)", "two returns 2 values, not 1"),
        ("y, z = f(x)", "f returns 1 values, not 2"),
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
    before = f'{TWO}def f(x):\n    """f"""\n    return x\n\n\n'
    refused(tmp_path, f'{before}def g(x):\n    """g"""\n    {line}\n    return x\n', before.count("\n") + 3, what)


@pytest.mark.parametrize(
    ("source", "line", "what"),
    [
        ("x = 1.0\n", 1, "Assign"),
        ("import math\n", 1, "import only formulas and primitives"),
        ("from math import exp\n", 1, "import only formulas and primitives"),
        ("class A:\n    pass\n", 1, "ClassDef"),
        ("def f(x, y=1.0):\n    return x\n", 1, "plain positional"),
        ("def f(*x):\n    return x\n", 1, "plain positional"),
        ("def f(x, *, y):\n    return x\n", 1, "plain positional"),
        ("def f(x):\n    return\n", 2, "does not end in the return"),
        ("def f(x):\n    y = x\n", 2, "does not end in the return"),
        ("def f(x):\n    '''f'''\n", 2, "does not end in the return"),
        ("def f(x):\n    return f(x)\n", 1, "f -> f: a formula calls itself"),
        ("def f(x):\n    return x\ndef f(x):\n    return x\n", 3, "defined twice"),
        ("def f(x):\n    return x < x\n", 2, "first argument of where"),
        ("async def f(x):\n    return x\n", 1, "AsyncFunctionDef"),
    ],
)
def test_refuses_a_module(tmp_path, source, line, what):
    refused(tmp_path, source, line, what)


def test_refuses_a_name_that_is_value_and_mask(tmp_path):
    head = 'def f(x):\n    """f"""\n    c = x < 0.0\n'
    refused(tmp_path, f"{head}    c = x\n    return x\n", 4, "a value in one place and a mask")
    refused(tmp_path, f"{head}    return c\n", 4, "a comparison is no number")


def test_several_violations_are_all_reported(tmp_path):
    _, found = check(tmp_path, 'def f(x):\n    """x"""\n    t = x ** 2.0\n    u = x % 2.0\n    return t + u + 1\n')
    assert len({v.split(":")[1] for v in found}) == 3


def test_formulas_of_other_files(tmp_path):
    file, found = check(tmp_path, 'def f(x):\n    """e^x"""\n    return exp(x)\n')
    assert found == [f"{file}:8: exp is neither a formula nor a primitive"]
    (formula,) = grammar.parse(file, grammar.read("float64"), prefix="row_").values()
    assert formula.symbol == "row_f" and formula.calls == {"exp": grammar.read("float64")["exp"]}


def test_python_that_does_not_parse_is_a_syntax_error(tmp_path):
    file = tmp_path / "sample.py"
    file.write_text("def f(x:\n")
    with pytest.raises(SyntaxError):
        grammar.parse(file)
