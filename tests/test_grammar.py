"""The grammar of formulas: the package keeps to it, and each way of leaving it is refused with file and line."""

import pytest

from fastact.maths import activations as formulas
from fastact.maths import grammar as bind

HEAD = '"""A module of formulas."""\n\nfrom fastact.maths.primitives import fma, sqrt, where\n\n\n'


def check(tmp_path, source):
    file = tmp_path / "sample.py"
    file.write_text(HEAD + source)
    return file, bind.check_grammar(file)


def test_the_formulas_keep_to_it():
    assert bind.check_grammar(formulas) == []


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_elementary_functions_keep_to_it(dtype):
    assert bind.check_grammar(bind.elementary(dtype)) == []


GOOD = '''def f(x, alpha):
    """alpha·x where x > 0, else a root"""
    t = fma(x, alpha, -0.5)
    r = where(x > 0.0, t, sqrt(t * t + 1.0))
    return -r / (x + 2.0)


def g(x):
    """f with alpha 1"""
    return f(x, 1.0)
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
}


@pytest.mark.parametrize("rule", BROKEN)
def test_each_violation_is_refused_where_it_stands(rule, tmp_path):
    file, found = check(tmp_path, f'def f(x):\n    """x"""\n{BROKEN[rule]}\n')
    assert found, rule
    first = HEAD.count("\n") + 3
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
}


@pytest.mark.parametrize("rule", BROKEN_DEFINITIONS)
def test_each_broken_definition_is_refused(rule, tmp_path):
    file, found = check(tmp_path, BROKEN_DEFINITIONS[rule])
    assert found, rule
    assert all(v.startswith(f"{file}:") for v in found)


def test_several_violations_are_all_reported(tmp_path):
    _, found = check(tmp_path, 'def f(x):\n    """x"""\n    t = x ** 2.0\n    u = x % 2.0\n    return t + u + 1\n')
    assert len({v.split(":")[1] for v in found}) == 3


def test_python_that_does_not_parse_is_a_syntax_error(tmp_path):
    file = tmp_path / "sample.py"
    file.write_text("def f(x:\n")
    with pytest.raises(SyntaxError):
        bind.check_grammar(file)
