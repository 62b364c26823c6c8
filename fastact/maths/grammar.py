"""Formulas as functions of one backend: names resolve to its primitives.

``bind`` is the only metaprogramming between the mathematics and the backends; ``check_grammar`` refuses what
``render.py`` and the tracers could not translate (docs/design.md, 'The grammar of formulas').
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

PRIMITIVES = (
    "where", "minimum", "maximum", "fabs", "copysign", "sqrt", "fma", "rint", "scalb", "logb",
)  # fmt: skip


def elementary(dtype: str) -> ModuleType:
    """The elementary functions of a dtype; float16 and bfloat16 compute in float32."""
    return import_module(f"fastact.maths.elementary.{'float64' if dtype == 'float64' else 'float32'}")


def _functions(module: ModuleType) -> dict[str, FunctionType]:
    """The formulas that a module defines itself, in the order of their definition."""
    return {n: f for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__}


def bind(primitives: Mapping[str, Callable[..., Any]], dtype: str) -> dict[str, Callable[..., Any]]:
    """Every elementary function and activation formula, over one backend's primitives.

    Parameters
    ----------
    primitives : mapping
        An implementation for each name in `PRIMITIVES`.
    dtype : str
        Whose elementary functions to take: ``"float32"`` or ``"float64"``.

    Returns
    -------
    dict
        Name to function, the primitives included.
    """
    env: dict[str, Any] = {"__builtins__": {}, "__name__": __name__, **primitives}
    for module in (elementary(dtype), import_module("fastact.maths.activations")):
        for name, function in _functions(module).items():
            env[name] = FunctionType(function.__code__, env, name)
    return env


def bind_numpy(dtype: Any) -> dict[str, Callable[..., Any]]:
    """Every formula over whole NumPy arrays of float32 or float64.

    The arithmetic is the backends' own to the last bit, so this is a reference for them; it is not independent
    of the formulas (the tests' oracle is).
    """
    from fastact.backends import reference

    name = np.dtype(dtype).name
    return bind(reference.primitives(name), name)


# row formulas that give more than one value
PAIRS = {"row_shift": 2, "two_sum": 2, "reciprocal": 2, "pair_add": 2, "add_share": 2}


def row_formulas() -> dict[str, FunctionType]:
    """The formulas of ``fastact.maths.rows``."""
    return _functions(import_module("fastact.maths.rows"))


def bind_rows(primitives: Mapping[str, Callable[..., Any]], dtype: str) -> dict[str, Callable[..., Any]]:
    """`bind`, and every row formula. The others do not see the names of row formulas."""
    env: dict[str, Any] = dict(bind(primitives, dtype))
    for name, function in row_formulas().items():
        env[name] = FunctionType(function.__code__, env, name)
    return env


_BINARY = (ast.Add, ast.Sub, ast.Mult, ast.Div)
_COMPARE = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)


class _Grammar(ast.NodeVisitor):
    def __init__(self, file: str, known: dict[str, int]) -> None:
        self.file = file
        self.known = known  # callable name -> number of arguments, or -1 where any
        self.masks: set[str] = set()
        self.violations: list[str] = []

    def refuse(self, node: ast.AST, what: str) -> None:
        self.violations.append(f"{self.file}:{getattr(node, 'lineno', 0)}: {what}")

    def function(self, node: ast.FunctionDef) -> None:
        a = node.args
        if a.kwonlyargs or a.vararg or a.kwarg or a.defaults or node.decorator_list:
            self.refuse(node, "a formula takes plain positional arguments and has no decorator")
        if any(arg.annotation for arg in a.args) or node.returns:
            self.refuse(node, "a formula has no annotations")
        body = list(node.body)
        if body and isinstance(body[0], ast.Expr) and isinstance(getattr(body[0], "value", None), ast.Constant):
            body = body[1:]
        else:
            self.refuse(node, f"{node.name} has no docstring")
        self.masks = set()
        local = {arg.arg for arg in a.args + a.posonlyargs}
        for i, statement in enumerate(body):
            last = i == len(body) - 1
            if isinstance(statement, ast.Return) and last and statement.value is not None:
                values = statement.value.elts if isinstance(statement.value, ast.Tuple) else [statement.value]
                for value in values:
                    self.expression(value, local)
            elif isinstance(statement, ast.Assign) and not last and len(statement.targets) == 1:
                mask = isinstance(statement.value, ast.Compare)
                self.expression(statement.value, local, mask=mask)
                target = statement.targets[0]
                names = target.elts if isinstance(target, ast.Tuple) else [target]
                for name in names:
                    if isinstance(name, ast.Name):
                        (self.masks if mask else local).add(name.id)
                        (local if mask else self.masks).discard(name.id)
                    else:
                        self.refuse(name, "only a name can be assigned to")
            else:
                self.refuse(statement, f"{type(statement).__name__} is not part of the grammar here")
        if not body or not isinstance(body[-1], ast.Return):
            self.refuse(node, f"{node.name} does not end in return")

    def expression(self, node: ast.expr, local: set[str], *, mask: bool = False) -> None:
        if mask:
            if isinstance(node, ast.Name) and node.id in self.masks:
                return
            if not isinstance(node, ast.Compare):
                self.refuse(node, "the first argument of where is one comparison or the name of one")
                return
        elif isinstance(node, ast.Compare) or (isinstance(node, ast.Name) and node.id in self.masks):
            self.refuse(node, "a comparison is no number: it may only be named, or be the first argument of where")
            return
        if isinstance(node, ast.Constant):
            if type(node.value) is not float:
                self.refuse(node, f"literal {node.value!r} is not a float")
        elif isinstance(node, ast.Name):
            if node.id not in local:
                self.refuse(node, f"name {node.id!r} is not a local value")
        elif isinstance(node, ast.BinOp):
            if not isinstance(node.op, _BINARY):
                self.refuse(node, f"operator {type(node.op).__name__} is not part of the grammar")
            if isinstance(node.left, ast.Constant) and isinstance(node.right, ast.Constant):
                self.refuse(node, "two literals: Python would compute them in double precision")
            self.expression(node.left, local)
            self.expression(node.right, local)
        elif isinstance(node, ast.UnaryOp):
            if not isinstance(node.op, ast.USub):
                self.refuse(node, f"operator {type(node.op).__name__} is not part of the grammar")
            self.expression(node.operand, local)
        elif isinstance(node, ast.Compare):
            if len(node.ops) != 1 or not isinstance(node.ops[0], _COMPARE):
                self.refuse(node, "one comparison < <= > >= == != at a time")
            self.expression(node.left, local)
            for right in node.comparators:
                self.expression(right, local)
        elif isinstance(node, ast.Call):
            self.call(node, local)
        else:
            self.refuse(node, f"{type(node).__name__} is not part of the grammar")

    def call(self, node: ast.Call, local: set[str]) -> None:
        if not isinstance(node.func, ast.Name) or node.func.id not in self.known:
            self.refuse(node, f"{ast.unparse(node.func)} is neither a formula nor a primitive")
        elif self.known[node.func.id] >= 0 and self.known[node.func.id] != len(node.args):
            self.refuse(node, f"{node.func.id} takes {self.known[node.func.id]} arguments, not {len(node.args)}")
        if node.keywords:
            self.refuse(node, "no keyword arguments")
        is_where = isinstance(node.func, ast.Name) and node.func.id == "where"
        for i, argument in enumerate(node.args):
            self.expression(argument, local, mask=is_where and i == 0)


# numbers of arguments
_ARITY = {"where": 3, "minimum": 2, "maximum": 2, "fabs": 1, "copysign": 2, "sqrt": 1, "fma": 3, "rint": 1, "scalb": 2,
          "logb": 1}  # fmt: skip


def check_grammar(module: ModuleType | str | Path, known: Mapping[str, int] | None = None) -> list[str]:
    """What in a module of formulas is outside the grammar.

    Parameters
    ----------
    module : module or path
        A module of formulas, or the path of its source file.
    known : mapping, optional
        Further callable names and their numbers of arguments (-1: any); by default the elementary functions of
        float32 and of float64.

    Returns
    -------
    list of str
        One line ``file:line: what`` for each violation; empty where the module keeps to the grammar.

    Examples
    --------
    >>> from fastact.maths import activations as formulas
    >>> check_grammar(formulas)
    []
    """
    path = Path(module if isinstance(module, (str, Path)) else str(module.__file__))
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    names: dict[str, int] = dict(_ARITY)
    if known is None:
        known = {
            n: f.__code__.co_argcount for t in ("float32", "float64") for n, f in _functions(elementary(t)).items()
        }
    names.update(known)
    names.update({n.name: len(n.args.args) for n in tree.body if isinstance(n, ast.FunctionDef)})
    check = _Grammar(str(path), names)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            check.function(node)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            origin = node.module if isinstance(node, ast.ImportFrom) else None
            if origin not in (
                "__future__",
                "fastact.maths.primitives",
                "fastact.maths.elementary",
                "fastact.maths.elementary.float32",
            ):
                check.refuse(node, f"import of {ast.unparse(node)!r}: formulas import only formulas and primitives")
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            check.refuse(node, f"{type(node).__name__} at module level is not part of the grammar")
    return check.violations
