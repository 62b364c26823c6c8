"""The grammar of formulas (docs/design.md): its parser and checker, and formulas as functions of one backend.

`parse` reads a module of formulas and refuses what ``render.py`` and the tracers could not translate; `bind` puts a
backend's primitives in the place of names. This runs in the build, too: only `bind_numpy` needs more than the standard
library.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from fastact.maths import primitives

MATHS = Path(__file__).parent
# where formulas are, by the dtype they compute in, callees first
_ELEMENTARY = {
    "float32": ("elementary.float32_tables", "elementary.logistic", "elementary.float32"),
    "float64": ("elementary.logistic", "elementary.float64"),
}
_MODULES = {dtype: (*modules, "activations", "optimisers") for dtype, modules in _ELEMENTARY.items()}
# name: number of arguments, of `lookup` at least, of `rarely` without those of its formula
PRIMITIVES = {name: len(inspect.signature(getattr(primitives, name)).parameters) for name in primitives.__all__}
PRIMITIVES |= {"lookup": 1 + min(primitives.ENTRIES), "rarely": 3}
# those whose first argument is a comparison
MASKED = ("where", "rarely")
OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
COMPARISONS = {ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge", ast.Eq: "eq", ast.NotEq: "ne"}
# what is imported is for readers and linters: a formula sees what `parse` and `bind` give it
_IMPORTS = ("__future__", "fastact.maths.primitives", *(f"fastact.maths.{m}" for m in _ELEMENTARY["float32"]))


class GrammarError(ValueError):
    """What is outside the grammar: ``file:line: what``, one line for each of `violations`."""

    def __init__(self, *violations: str) -> None:
        super().__init__("\n".join(violations))
        self.violations = violations


@dataclass(frozen=True, eq=False)
class Formula:
    """A ``def`` that keeps to the grammar.

    Attributes
    ----------
    node : ast.FunctionDef
    prefix : str
        Of `symbol`, which tells formulas of one name apart.
    masks : set of str
        The local names of comparisons.
    calls : dict
        The formulas it calls, by the names it calls them.
    uses : set of str
        The primitives it calls.
    """

    node: ast.FunctionDef
    prefix: str = ""
    masks: set[str] = field(default_factory=set)
    calls: dict[str, Formula] = field(default_factory=dict)
    uses: set[str] = field(default_factory=set)

    @property
    def symbol(self) -> str:
        return self.prefix + self.node.name

    @property
    def parameters(self) -> list[str]:
        return [a.arg for a in self.node.args.args]

    @property
    def body(self) -> list[ast.stmt]:
        """The statements after the docstring."""
        return self.node.body[ast.get_docstring(self.node) is not None :]

    def reaches(self, primitive: str) -> bool:
        """Whether it, or what it calls, calls a primitive."""
        return primitive in self.uses or any(callee.reaches(primitive) for callee in self.calls.values())

    @property
    def operations(self) -> int:
        """How many operations it is, with those of what it calls."""
        found = 0
        for node in (node for statement in self.body for node in ast.walk(statement)):
            match node:
                case ast.BinOp() | ast.Compare():
                    found += 1
                case ast.UnaryOp(operand=operand):
                    found += not isinstance(operand, ast.Constant)
                case ast.Call(func=ast.Name(id=name)):
                    found += self.calls[name].operations if name in self.calls else 1
        return found

    @property
    def results(self) -> int:
        """How many values it returns."""
        last = self.node.body[-1]
        return len(last.value.elts) if isinstance(last, ast.Return) and isinstance(last.value, ast.Tuple) else 1


def parse(path: str | Path, others: Mapping[str, Formula] | None = None, *, prefix: str = "") -> dict[str, Formula]:
    """The formulas of a source file by name, in its order.

    Parameters
    ----------
    path : path
        A module of the formula grammar.
    others : mapping, optional
        The formulas of other files that it may call.
    prefix : str, optional
        Of the formulas' symbols.

    Raises
    ------
    GrammarError
        With every violation of the grammar.

    Examples
    --------
    >>> list(parse(MATHS / "rows.py", read("float32")))[:3]
    ['plus', 'minus', 'scale']
    """
    tree = ast.parse(Path(path).read_text(encoding="utf-8"), str(path))
    check = _Check(str(path), dict(others or {}))
    own: dict[str, Formula] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            if node.name in own:
                check.refuse(node, f"{node.name} is defined twice")
            own[node.name] = Formula(node, prefix)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            if not isinstance(node, ast.ImportFrom) or node.module not in _IMPORTS:
                check.refuse(node, f"{ast.unparse(node)!r}: formulas import only formulas and primitives")
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            check.refuse(node, f"{type(node).__name__} is not part of the grammar at module level")
    check.known |= own
    for formula in own.values():
        check.visit(formula)
    for formula in own.values():
        check.recursion(formula, ())
    if check.violations:
        raise GrammarError(*(f"{path}:{line}: {what}" for line, what in sorted(check.violations)))
    return own


def _is_literal(node: ast.expr) -> bool:
    return isinstance(node.operand if isinstance(node, ast.UnaryOp) else node, ast.Constant)


class _Check:
    """Looks through formulas, which may call the `known` ones; notes their masks and calls, and violations."""

    def __init__(self, path: str, known: dict[str, Formula]) -> None:
        self.path = path
        self.known = known
        self.violations: list[tuple[int, str]] = []
        # the value of the statement that is being checked
        self.whole: ast.expr | None = None
        self.done: set[Formula] = set()

    def refuse(self, node: ast.AST, what: str) -> None:
        self.violations.append((getattr(node, "lineno", 0), what))

    def visit(self, formula: Formula) -> None:
        self.formula, self.locals = formula, set(formula.parameters)
        node, a = formula.node, formula.node.args
        if a.posonlyargs or a.vararg or a.kwonlyargs or a.kwarg or a.defaults or node.decorator_list:
            self.refuse(node, "a formula takes plain positional arguments and has no decorator")
        if any(arg.annotation for arg in a.args) or node.returns:
            self.refuse(node, "a formula has no annotations")
        if ast.get_docstring(node) is None:
            self.refuse(node, f"{node.name} has no docstring")
        for statement in formula.body[:-1]:
            if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
                self.whole = statement.value
                self.assignment(statement.targets[0], statement.value)
            else:
                self.refuse(statement, f"{type(statement).__name__} is not part of the grammar here")
        match formula.body[-1:]:
            case [ast.Return(value=ast.Tuple(elts=[_, _, *_] as values))]:
                for value in values:
                    self.expression(value)
            case [ast.Return(value=ast.expr() as value)]:
                self.whole = value
                self.expression(value)
            case _:
                self.refuse(node.body[-1], f"{node.name} does not end in the return of a value")

    def recursion(self, formula: Formula, stack: tuple[Formula, ...]) -> None:
        if formula in stack:
            names = " -> ".join(f.node.name for f in (*stack, formula))
            self.refuse(formula.node, f"{names}: a formula calls itself")
        elif formula not in self.done:
            for callee in formula.calls.values():
                self.recursion(callee, (*stack, formula))
            self.done.add(formula)

    def assignment(self, target: ast.expr, value: ast.expr) -> None:
        mask = isinstance(value, ast.Compare)
        targets = target.elts if isinstance(target, ast.Tuple) else [target]
        if not isinstance(target, ast.Tuple):
            self.expression(value, mask=mask)
        elif isinstance(value, ast.Call):
            self.call(value, results=len(targets))
        else:
            self.refuse(value, f"{len(targets)} names take the values of a formula that returns as many")
        for name in targets:
            if not isinstance(name, ast.Name):
                self.refuse(name, "only a name can be assigned to")
                continue
            if name.id in self.locals and (name.id in self.formula.masks) != mask:
                self.refuse(name, f"{name.id} is a value in one place and a mask in another")
            self.locals.add(name.id)
            if mask:
                self.formula.masks.add(name.id)

    def expression(self, node: ast.expr, *, mask: bool = False) -> None:
        """A number, or with `mask` what a comparison gives."""
        is_mask = isinstance(node, ast.Compare) or (isinstance(node, ast.Name) and node.id in self.formula.masks)
        if mask and not is_mask:
            return self.refuse(
                node, f"the first argument of {' or '.join(MASKED)} is one comparison or the name of one"
            )
        if is_mask and not mask:
            what = f"a comparison is no number: it may only be named, or be the first argument of {' or '.join(MASKED)}"
            return self.refuse(node, what)
        match node:
            case ast.Constant(value=value):
                if type(value) is not float:
                    self.refuse(node, f"literal {value!r} is not a float")
            case ast.Name(id=name):
                if name not in self.locals:
                    self.refuse(node, f"name {name!r} is not a local value")
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                self.expression(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                if _is_literal(left) and _is_literal(right):
                    self.refuse(node, "two literals: Python would compute them in double precision")
                self.expression(left)
                self.expression(right)
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
                self.expression(left)
                self.expression(right)
            case ast.Compare():
                self.refuse(node, "one comparison < <= > >= == != at a time")
            case ast.Call():
                self.call(node)
            case _:
                self.refuse(node, f"{type(getattr(node, 'op', node)).__name__} is not part of the grammar")

    def call(self, node: ast.Call, *, results: int = 1) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) and node.func.id not in self.locals else ""
        callee = self.known.get(name)
        if callee is None and name not in PRIMITIVES:
            self.refuse(node, f"{ast.unparse(node.func)} is neither a formula nor a primitive")
        else:
            takes, gives = (len(callee.parameters), callee.results) if callee else (PRIMITIVES[name], 1)
            if name == "rarely":
                if node is not self.whole:
                    self.refuse(node, "rarely is all that is assigned or returned")
                if len(node.args) > 1:
                    takes += self.formula_argument(node.args[1])
            if name == "lookup" and len(node.args) - 1 in primitives.ENTRIES:
                takes = len(node.args)
            if takes != len(node.args):
                self.refuse(node, f"{name} takes {takes} arguments, not {len(node.args)}")
            if gives != results:
                self.refuse(node, f"{name} returns {gives} values, not {results}")
        if callee:
            self.formula.calls[name] = callee
        else:
            self.formula.uses.add(name)
        if node.keywords:
            self.refuse(node, "no keyword arguments")
        for i, argument in enumerate(node.args):
            if name == "rarely" and i == 1:
                continue
            self.expression(argument, mask=name in MASKED and i == 0)
            if name == "lookup" and i > 0 and not _is_literal(argument):
                self.refuse(argument, "the entries of lookup are literals")

    def formula_argument(self, node: ast.expr) -> int:
        """The formula that `rarely` may skip: how many arguments it takes."""
        callee = self.known.get(node.id) if isinstance(node, ast.Name) and node.id not in self.locals else None
        if callee is None or callee.results != 1:
            self.refuse(node, "the second argument of rarely is the name of a formula of one value")
            return 0
        self.formula.calls[callee.node.name] = callee
        return len(callee.parameters)


@cache
def read(dtype: str) -> dict[str, Formula]:
    """The sources of the elementary functions of float32 or float64, of activations and of optimisers over them."""
    formulas: dict[str, Formula] = {}
    for module in _MODULES[dtype]:
        formulas |= parse(MATHS / f"{module.replace('.', '/')}.py", formulas)
    return formulas


@cache
def read_rows(dtype: str) -> dict[str, Formula]:
    """The sources of the row formulas over those of `read`."""
    return parse(MATHS / "rows.py", read(dtype), prefix="row_")


@cache
def row_results() -> dict[str, int]:
    """How many values each row formula returns; without checks, for a backend that is in a hurry."""
    tree = ast.parse((MATHS / "rows.py").read_text(encoding="utf-8"))
    return {node.name: Formula(node).results for node in tree.body if isinstance(node, ast.FunctionDef)}


def _functions(module: ModuleType) -> dict[str, FunctionType]:
    """The formulas that a module defines itself, in the order of their definition."""
    return {n: f for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__}


@cache
def formulas(dtype: str) -> dict[str, FunctionType]:
    """The formulas that `read` reads, as functions."""
    modules = (import_module(f"fastact.maths.{name}") for name in _MODULES[dtype])
    return {name: function for module in modules for name, function in _functions(module).items()}


@cache
def row_formulas() -> dict[str, FunctionType]:
    """The formulas of ``fastact.maths.rows``."""
    return _functions(import_module("fastact.maths.rows"))


def bind(implementations: Mapping[str, Callable[..., Any]], dtype: str) -> dict[str, Callable[..., Any]]:
    """Every elementary function and formula of an activation or an optimiser, over one backend's primitives.

    Parameters
    ----------
    implementations : mapping
        One for each name in `PRIMITIVES`.
    dtype : str
        Whose elementary functions to take: ``"float32"`` or ``"float64"``.

    Returns
    -------
    dict
        Name to function, the primitives included.
    """
    env: dict[str, Any] = {"__builtins__": {}, "__name__": __name__, **implementations}
    for name, function in formulas(dtype).items():
        env[name] = FunctionType(function.__code__, env, name)
    return env


def bind_rows(implementations: Mapping[str, Callable[..., Any]], dtype: str) -> dict[str, Callable[..., Any]]:
    """`bind`, and every row formula. The others do not see the names of row formulas."""
    env: dict[str, Any] = dict(bind(implementations, dtype))
    for name, function in row_formulas().items():
        env[name] = FunctionType(function.__code__, env, name)
    return env


def bind_numpy(dtype: Any) -> dict[str, Callable[..., Any]]:
    """Every formula over whole NumPy arrays of float32 or float64.

    The arithmetic is the backends' own to the last bit, so this is a reference for them; it is not independent
    of the formulas (the tests' oracle is).
    """
    import numpy as np

    from fastact.backends import reference

    name = np.dtype(dtype).name
    return bind(reference.primitives(name), name)
