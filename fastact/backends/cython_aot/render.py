"""Formulas as typed Cython, ahead of time.

Reads the sources of formula modules (docs/design.md, 'The grammar of formulas') and writes ``cdef inline`` functions
over the vectors of ``simd.h``, and around them loops that keep the calling convention (``fastact/spec/call.py``). Runs
while fastact is being built: it needs the standard library alone.
"""

from __future__ import annotations

import ast
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastact.spec import call as convention
from fastact.spec import kinds
from fastact.spec.kernel import KernelSpec


@dataclass(frozen=True)
class Dtype:
    """How a dtype is held in memory and which vectors compute it."""

    name: str
    suffix: str
    element: str
    compute: str


DTYPES = {
    d.name: d
    for d in (
        Dtype("float32", "f32", "float", "f32"),
        Dtype("float64", "f64", "double", "f64"),
        Dtype("float16", "f16", "uint16_t", "f32"),
        Dtype("bfloat16", "bf16", "uint16_t", "f32"),
    )
}

_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_COMPARISONS = {ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge", ast.Eq: "eq", ast.NotEq: "ne"}


class GrammarError(ValueError):
    """Something outside the grammar of formulas; the message begins with ``file:line``."""


@dataclass(frozen=True)
class Formula:
    """A parsed ``def`` of a formula module."""

    path: str
    node: ast.FunctionDef

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def parameters(self) -> list[str]:
        return [a.arg for a in self.node.args.args]

    @property
    def results(self) -> int:
        """How many values the final return has."""
        last = self.node.body[-1]
        return len(last.value.elts) if isinstance(last, ast.Return) and isinstance(last.value, ast.Tuple) else 1

    def error(self, node: ast.AST, what: str) -> GrammarError:
        return GrammarError(f"{self.path}:{getattr(node, 'lineno', self.node.lineno)}: {what}")


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def parse(path: str | Path, *, relative_to: str | Path | None = None) -> dict[str, Formula]:
    """The formulas of a source file by name, in its order.

    Parameters
    ----------
    path : path
        A module of the formula grammar.
    relative_to : path, optional
        Folder that error messages leave out of the file's name.

    Raises
    ------
    GrammarError
        Where the module holds something other than formulas, a docstring and imports from fastact.
    """
    path = Path(path)
    name = str(path.relative_to(relative_to) if relative_to else path)
    formulas: dict[str, Formula] = {}
    for node in ast.parse(path.read_text(encoding="utf-8"), name).body:
        if isinstance(node, ast.FunctionDef):
            if node.name in formulas:
                raise formulas[node.name].error(node, f"{node.name} is defined twice")
            formulas[node.name] = Formula(name, node)
        elif isinstance(node, ast.ImportFrom):
            if not (node.module == "__future__" or (node.module or "").split(".")[0] == "fastact"):
                raise GrammarError(f"{name}:{node.lineno}: formulas import only formulas and primitives")
        elif not _is_text(node):
            what = type(node).__name__
            raise GrammarError(f"{name}:{node.lineno}: {what} is not part of the grammar at module level")
    return formulas


def arities(path: str | Path) -> dict[str, int]:
    """The number of arguments of each function that a module of primitives defines or assigns from `math`."""
    found: dict[str, int] = {}
    for node in ast.parse(Path(path).read_text(encoding="utf-8"), str(path)).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = len(node.args.args)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute):
            found[node.value.attr] = {"copysign": 2, "fabs": 1}[node.value.attr]
    return found


class _Body:
    """Translates one formula; `names` are the other formulas it may call, `primitives` the arities of primitives."""

    def __init__(
        self, formula: Formula, names: Mapping[str, Formula], primitives: Mapping[str, int], suffix: str
    ) -> None:
        self.formula = formula
        self.names = names
        self.primitives = primitives
        self.suffix = suffix
        self.locals: dict[str, str] = {}
        self.calls: list[str] = []

    def error(self, node: ast.AST, what: str) -> GrammarError:
        return self.formula.error(node, what)

    def render(self) -> str:
        node = self.formula.node
        a = node.args
        if a.posonlyargs or a.vararg or a.kwonlyargs or a.kwarg or a.defaults or node.decorator_list:
            raise self.error(node, "a formula takes plain positional arguments and has no decorator")
        value = f"v{self.suffix}"
        self.locals = dict.fromkeys(self.formula.parameters, value)
        *body, last = node.body[1:] or node.body if _is_text(node.body[0]) else node.body
        lines = [line for statement in body for line in self.assignment(statement)]
        if not isinstance(last, ast.Return) or last.value is None:
            raise self.error(last, f"{node.name} does not end in the return of a value")
        arguments = [f"{value} {p}" for p in self.formula.parameters]
        if self.formula.results == 1:
            result = value
            lines.append(f"return {self.value(last.value)}")
        else:
            assert isinstance(last.value, ast.Tuple)
            result = "void"
            values = [self.value(e) for e in last.value.elts]
            arguments += [f"{value} *out{i}" for i in range(len(values))]
            lines += [f"out{i}[0] = {v}" for i, v in enumerate(values)]
        for kind in (value, f"mask{self.suffix[1:]}"):
            declared = [n for n, k in self.locals.items() if k == kind and n not in self.formula.parameters]
            if declared:
                lines.insert(0, f"cdef {kind} {', '.join(declared)}")
        head = f"cdef inline {result} {node.name}_{self.suffix}({', '.join(arguments)}) noexcept nogil:"
        return "\n    ".join([head, *lines]) + "\n"

    def assignment(self, node: ast.stmt) -> Iterator[str]:
        if not isinstance(node, ast.Assign) or len(node.targets) != 1:
            raise self.error(node, f"{type(node).__name__} is not part of the grammar here")
        target = node.targets[0]
        if isinstance(target, ast.Tuple):
            call = node.value
            name = call.func.id if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else ""
            callee = self.names.get(name)
            if not isinstance(call, ast.Call) or callee is None or callee.results != len(target.elts):
                raise self.error(node, f"{len(target.elts)} names take the values of a formula that returns as many")
            code = self.call(call, results=len(target.elts))
            outs = [f"&{self.declare(e, f'v{self.suffix}')}" for e in target.elts]
            yield f"{code[:-1]}{', ' if call.args else ''}{', '.join(outs)})"
        elif isinstance(node.value, ast.Compare):
            code = self.mask(node.value)
            yield f"{self.declare(target, f'mask{self.suffix[1:]}')} = {code}"
        else:
            code = self.value(node.value)
            yield f"{self.declare(target, f'v{self.suffix}')} = {code}"

    def declare(self, target: ast.expr, kind: str) -> str:
        if not isinstance(target, ast.Name):
            raise self.error(target, "only a name can be assigned to")
        if self.locals.setdefault(target.id, kind) != kind:
            raise self.error(target, f"{target.id} is a value in one place and a mask in another")
        return target.id

    def mask(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name) and self.locals.get(node.id, "").startswith("mask"):
            return node.id
        if not isinstance(node, ast.Compare):
            raise self.error(node, "the first argument of where is one comparison or a name of one")
        if len(node.ops) != 1:
            raise self.error(node, "one comparison at a time")
        name = _COMPARISONS.get(type(node.ops[0]))
        if name is None:
            raise self.error(node, f"comparison {type(node.ops[0]).__name__} is not part of the grammar")
        return f"{name}_{self.suffix}({self.value(node.left)}, {self.value(node.comparators[0])})"

    def value(self, node: ast.expr) -> str:
        """An expression whose value is a float."""
        if isinstance(node, ast.Constant):
            return self.literal(node, node.value)
        if isinstance(node, ast.Name):
            kind = self.locals.get(node.id)
            if kind is None:
                raise self.error(node, f"name {node.id!r} is not a local value")
            if kind.startswith("mask"):
                raise self.error(node, f"{node.id} is a mask: only where takes it, as its first argument")
            return node.id
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            if isinstance(node.operand, ast.Constant):
                return self.literal(node.operand, node.operand.value, "-")
            return f"(-{self.value(node.operand)})"
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            if _is_literal(node.left) and _is_literal(node.right):
                raise self.error(node, "two literals: Python would compute them in double precision")
            return f"({self.value(node.left)} {_OPERATORS[type(node.op)]} {self.value(node.right)})"
        if isinstance(node, ast.Call):
            return self.call(node, results=1)
        if isinstance(node, ast.Compare):
            raise self.error(node, "a comparison is only the first argument of where")
        what = type(node.op if isinstance(node, (ast.BinOp, ast.UnaryOp)) else node).__name__
        raise self.error(node, f"{what} is not part of the grammar")

    def literal(self, node: ast.AST, value: object, sign: str = "") -> str:
        if type(value) is not float:
            raise self.error(node, f"literal {value!r} is not a float")
        return f"lit_{self.suffix}({sign}{'INFINITY' if math.isinf(value) else repr(value)})"

    def call(self, node: ast.Call, *, results: int) -> str:
        name = node.func.id if isinstance(node.func, ast.Name) else None
        callee = self.names.get(name or "")
        if name is None or (callee is None and name not in self.primitives):
            raise self.error(node, f"{ast.unparse(node.func)} is neither a formula nor a primitive")
        if node.keywords:
            raise self.error(node, "no keyword arguments")
        expected = len(callee.parameters) if callee else self.primitives[name]
        if len(node.args) != expected:
            raise self.error(node, f"{name} takes {expected} arguments, not {len(node.args)}")
        if callee:
            if callee.results != results:
                raise self.error(node, f"{name} returns {callee.results} values, not {results}")
            self.calls.append(name)
        first = self.mask if name == "where" else self.value
        arguments = [first(a) if i == 0 else self.value(a) for i, a in enumerate(node.args)]
        return f"{name}_{self.suffix}({', '.join(arguments)})"


def _is_literal(node: ast.expr) -> bool:
    return isinstance(node.operand if isinstance(node, ast.UnaryOp) else node, ast.Constant)


def render_functions(
    formulas: Mapping[str, Formula], roots: Iterable[str], primitives: Mapping[str, int], compute: str
) -> str:
    """The formulas `roots` and all they call, callees first, over the vectors of `compute` (``"f32"`` or ``"f64"``).

    Raises
    ------
    GrammarError
        At the first thing outside the grammar, with its file and line.
    """
    done: dict[str, str] = {}

    def visit(name: str, stack: tuple[str, ...]) -> None:
        if name in stack:
            raise formulas[name].error(formulas[name].node, f"{' -> '.join((*stack, name))}: a formula calls itself")
        if name in done:
            return
        body = _Body(formulas[name], formulas, primitives, compute)
        text = body.render()
        for callee in body.calls:
            visit(callee, (*stack, name))
        done[name] = text

    for root in roots:
        visit(root, ())
    return "\n".join(done.values())


@dataclass(frozen=True)
class Term:
    """A rendered expression; stands for a vector where a kernel's body is evaluated over names instead of arrays."""

    code: str

    def __mul__(self, other: Term) -> Term:
        return Term(f"({self.code} * {other.code})")


def terms(spec: KernelSpec, called: list[str] | None = None) -> list[str]:
    """The expressions of a kernel's outputs; the formulas that they call are added to `called`."""
    env = _Calls(DTYPES[spec.dtype].compute, [] if called is None else called)
    names = [a.name for a in spec.inputs] + list(spec.params)
    return [term.code for term in kinds.body(env, spec.op, spec.kind)(*(Term(f"v_{name}") for name in names))]


def render_map(spec: KernelSpec) -> str:
    """A kernel of the loop ``map``: for each row it loads all, computes all, then stores.

    Parameters that are one value are loaded once, before a loop of their own, so that the compiler takes what depends
    on them alone out of it.
    """
    d = DTYPES[spec.dtype]
    s, c = d.suffix, d.compute
    inputs, outputs = ([a.name for a in side] for side in (spec.inputs, spec.outputs))
    names = [*inputs, *spec.params, *outputs]
    types = {name: d.element if name in outputs else f"const {d.element}" for name in names}
    values = terms(spec)
    lines = [f"cdef {types[name]} *p_{name} = <{types[name]} *>call.data[{i}]" for i, name in enumerate(names)]
    lines += [f"cdef int64_t e_{name} = call.step[{names.index(name)}] != 0" for name in spec.params]
    lines += [
        f"cdef tile_{s} {', '.join(f't_{name}' for name in outputs)}",
        f"cdef v{c} {', '.join(f'v_{name}' for name in names)}",
        "cdef int64_t i, j, row = 0, n = call.n",
        "cdef int k, stream = <int>(call.flags & FASTACT_STREAM)",
    ]

    def loop(params: Sequence[str]) -> list[str]:
        body = [f"j = i + k * LANES_{c}"]
        body += [f"v_{name} = load_{s}(p_{name} + j)" for name in inputs]
        body += [f"v_{name} = load_{s}(p_{name} + j * e_{name})" for name in params]
        body += [f"v_{name} = {value}" for name, value in zip(outputs, values, strict=True)]
        body += [f"store_{s}(SLOT_{s}(t_{o}, p_{o} + i) + k * LANES_{c}, v_{o}, stream)" for o in outputs]
        moved = [name for name in names if name not in spec.params or name in params]
        return [
            "while row < call.rows:",
            "    i = 0",
            "    while i < n:",
            f"        for k in range(PARTS_{c}):",
            *(f"            {line}" for line in body),
            *(f"        FLUSH(p_{name} + i, t_{name})" for name in outputs),
            f"        i += STEP_{c}",
            *(f"    p_{x} = <{types[x]} *>(<const char *>p_{x} + call.row_step[{names.index(x)}])" for x in moved),
            "    row += 1",
        ]

    if spec.params:
        lines.append(f"if {' + '.join(f'e_{name}' for name in spec.params)} == 0:")
        lines += [f"    v_{name} = load_{s}(p_{name})" for name in spec.params]
        lines += [f"    {line}" for line in loop(())]
        lines.append("else:")
        lines += [f"    {line}" for line in loop(spec.params)]
    else:
        lines += loop(())
    lines.append("streamed(stream)")
    head = f"cdef void {spec.symbol}(const fastact_call *call) noexcept nogil:"
    return "\n    ".join([head, *lines]) + "\n"


# the declarations of call.h
CALL = f"""\
cdef extern from 'call.h' nogil:
    enum: FASTACT_ARGS, FASTACT_STREAM, FASTACT_VALUE_ONLY
    ctypedef struct fastact_call:
        char *data[{convention.ARGS}]
        int64_t row_step[{convention.ARGS}]
        int64_t step[{convention.ARGS}]
        int64_t rows, n, flags
        const double *scalars
    ctypedef void (*fastact_kernel)(const fastact_call *call) noexcept nogil
"""


class _Calls(dict[str, Callable[..., Term]]):
    """Every name as a function that renders its call, and notes it in `called`."""

    def __init__(self, suffix: str, called: list[str]) -> None:
        self.suffix = suffix
        self.called = called

    def __missing__(self, name: str) -> Callable[..., Term]:
        def call(*args: Term) -> Term:
            self.called.append(name)
            return Term(f"{name}_{self.suffix}({', '.join(a.code for a in args)})")

        return call


def render_header(primitives: Mapping[str, int]) -> str:
    """Declarations of what ``simd.h`` defines, and of nothing it does not."""
    lines = ["cdef extern from 'simd.h' nogil:", "    const char *FASTACT_ISA", "    const double INFINITY"]
    for c, element in (("f32", "float"), ("f64", "double")):
        mask = f"mask{c[1:]}"
        # to Cython these are numbers, so that operators pass through to C, where they are vectors
        lines += [f"    ctypedef {element} v{c}", f"    ctypedef int {mask}"]
        lines += [f"    enum: LANES_{c}, PARTS_{c}, STEP_{c}"]
        lines += [f"    v{c} lit_{c}(double c)"]
        lines += [f"    {mask} {name}_{c}(v{c} a, v{c} b)" for name in _COMPARISONS.values()]
        for name, n in primitives.items():
            arguments = [f"{mask if name == 'where' and i == 0 else f'v{c}'} a{i}" for i in range(n)]
            lines.append(f"    v{c} {name}_{c}({', '.join(arguments)})")
    for d in DTYPES.values():
        s = d.suffix
        lines += [
            f"    ctypedef {d.element} tile_{s}[1]",
            f"    v{d.compute} load_{s}(const {d.element} *p)",
            f"    void store_{s}({d.element} *p, v{d.compute} v, int stream)",
            f'    {d.element} *SLOT_{s} "SLOT" (tile_{s} tile, {d.element} *p)',
        ]
    lines += ["    void FLUSH(void *p, void *tile)", "    void streamed(int stream)"]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Rows:
    """Kernels over rows (see ``render_rows``): by ``"f32"`` and ``"f64"``, the formulas they call and their source."""

    declarations: str
    roots: Mapping[str, Sequence[str]]
    texts: Mapping[str, str]
    table: Mapping[tuple[str, str], str]  # name and dtype to the function


def render_table(addresses: Mapping[tuple[str, str], str]) -> str:
    """The table of addresses and the function that looks one up."""
    rows = "".join(f"    {key!r}: <size_t>&{function},\n" for key, function in addresses.items())
    return f'''\
cdef dict _ADDRESSES = {{
{rows}}}


def isa():
    """The instruction set this module was compiled for."""
    return FASTACT_ISA.decode()


def address(name, dtype):
    """The address of a kernel, or None where there is none."""
    return _ADDRESSES.get((name, dtype))
'''


def render_module(
    specs: Sequence[KernelSpec],
    formulas: Mapping[str, Mapping[str, Formula]],
    primitives: Mapping[str, int],
    rows: Rows | None = None,
) -> str:
    """The source of a Cython module with kernels of the loop ``map``, and those over rows.

    Parameters
    ----------
    specs : sequence of KernelSpec
    formulas : mapping
        ``"f32"`` and ``"f64"`` to their formulas by name, elementary functions included.
    primitives : mapping
        Name of a primitive to its number of arguments.
    rows : Rows, optional
    """
    parts = [
        "# cython: language_level=3, cdivision=True, freethreading_compatible=True, emit_code_comments=False\n"
        "# rendered by fastact/backends/cython_aot/render.py; not to be edited\n"
        "from libc.stdint cimport int64_t, intptr_t, uint16_t\n",
        CALL,
        render_header(primitives),
    ]
    if rows:
        parts.append(rows.declarations)
    roots: dict[str, list[str]] = {}
    for spec in specs:
        terms(spec, roots.setdefault(DTYPES[spec.dtype].compute, []))
    for compute, names in roots.items():
        wanted = dict.fromkeys([*names, *(rows.roots[compute] if rows else ())])
        parts.append(render_functions(formulas[compute], wanted, primitives, compute))
    parts += map(render_map, specs)
    if rows:
        parts += rows.texts.values()
    addresses = {(spec.name, spec.dtype): spec.symbol for spec in specs}
    parts.append(render_table(addresses | dict(rows.table if rows else {})))
    return "\n".join(parts)


@dataclass(frozen=True)
class Embedded:
    """A function for other people's compiled code: any n >= 0, any alignment, parameters by value."""

    spec: KernelSpec

    @property
    def name(self) -> str:
        return f"{self.spec.name.removesuffix('_forward')}_{DTYPES[self.spec.dtype].suffix}"

    def signature(self, count: str) -> str:
        """The arguments; `count` is the type of the number of elements."""
        element = DTYPES[self.spec.dtype].element
        pointers = [f"const {element} *{a.name}" for a in self.spec.inputs]
        pointers += [f"{element} *{a.name}" for a in self.spec.outputs]
        return ", ".join([*pointers, f"{count} n", *(f"{element} {name}" for name in self.spec.params)])

    def render(self, index: int) -> str:
        spec, d = self.spec, DTYPES[self.spec.dtype]
        lines = ["cdef fastact_call call"]
        if spec.params:
            lines.append(f"cdef block_{d.suffix} {', '.join(f'p_{name}' for name in spec.params)}")
        lines += [f"fill_{d.suffix}(p_{name}, {name})" for name in spec.params]
        pointers = [*(a.name for a in spec.inputs), *(f"p_{name}" for name in spec.params)]
        pointers += [a.name for a in spec.outputs]
        lines += [f"call.data[{i}] = <char *>{pointer}" for i, pointer in enumerate(pointers)]
        lines.append(
            f"run(KERNELS[{index}], &call, {len(spec.inputs)}, {len(spec.params)}, {len(spec.outputs)}, n, "
            f"sizeof({d.element}))"
        )
        head = f"cdef void {self.name}({self.signature('Py_ssize_t')}) noexcept nogil:"
        return "\n    ".join([head, *lines]) + "\n"


def render_embed(functions: Sequence[Embedded], frame: str) -> str:
    """The module that holds the embedded functions, after its fixed part `frame` (``embed.pyx.in``)."""
    lines = [frame.replace("@COUNT@", str(len(functions))).replace("@CALL@", CALL)]
    lines += [function.render(i) for i, function in enumerate(functions)]
    rows = [
        f'    {(f.spec.name, f.spec.dtype)!r}: ("{f.name}", b"{f.signature("ptrdiff_t")}", <size_t>&{f.name}),'
        for f in functions
    ]
    lines.append("\n".join(["_FUNCTIONS.update({", *rows, "})", "_load()", ""]))
    return "\n".join(lines)


def render_embed_pxd(functions: Sequence[Embedded]) -> str:
    """Its declarations, for ``cimport``."""
    return "".join(f"cdef void {f.name}({f.signature('Py_ssize_t')}) noexcept nogil\n" for f in functions)


def render_package_pxd(functions: Sequence[Embedded]) -> str:
    """``fastact/__init__.pxd``: the same names in ``cimport fastact``."""
    names = "".join(f"    {f.name},\n" for f in functions)
    return f"from fastact.backends.cython_aot._embed cimport (\n{names})\n"


def render_c_header(functions: Sequence[Embedded], frame: str) -> str:
    """``fastact.h`` from its fixed part `frame` (``fastact.h.in``)."""
    pointers = [f"FASTACT_POINTER void (*fastact_{f.name})({f.signature('ptrdiff_t')});" for f in functions]
    imports = [f'    FASTACT_IMPORT({f.name}, "{f.signature("ptrdiff_t")}");' for f in functions]
    return frame.replace("@POINTERS@", "\n".join(pointers)).replace("@IMPORTS@", "\n".join(imports))


def source_files(package: Path) -> list[Path]:
    """The files that decide what the ahead-of-time modules compute."""
    parts = ("maths/*.py", "maths/elementary/*.py", "spec/*.py", "loops/*.py", "runtime/call.h")
    parts += tuple(f"backends/cython_aot/{name}" for name in ("build.py", "render*.py", "*.h"))
    return [path for part in parts for path in sorted(package.glob(part))]


def source_hash(package: Path) -> str:
    """A hash of `source_files`."""
    digest = hashlib.sha256()
    for path in source_files(package):
        digest.update(path.read_bytes())
    return digest.hexdigest()
