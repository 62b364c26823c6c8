"""Formulas as typed Cython, ahead of time.

Reads the sources of formula modules (docs/design.md, 'The grammar of formulas') and writes ``cdef inline`` functions
over the vectors of ``simd.h``, and around them the loops of the kernel ABI. Runs while fastact is being built,
when fastact cannot be imported: it uses the standard library alone and takes paths.
"""

from __future__ import annotations

import ast
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


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


@dataclass(frozen=True)
class Kernel:
    """One loop.

    `body` maps names to functions and gives the function from inputs and parameters to outputs (see ``kinds.body``).
    """

    op: str
    kind: str
    inputs: tuple[str, ...]
    params: tuple[str, ...]
    outputs: tuple[str, ...]
    body: Callable[[Mapping[str, Callable[..., Term]]], Callable[..., tuple[Term, ...]]]

    @property
    def arguments(self) -> tuple[str, ...]:
        return self.inputs + self.params + self.outputs

    def name(self, dtype: Dtype) -> str:
        return f"{self.op}_{self.kind}_{dtype.suffix}"

    def render(self, dtype: Dtype) -> str:
        """A function of the elementwise ABI (docs/design.md): loads all, computes all, then stores.

        Parameters that are one value are loaded once, in a loop of their own, so that the compiler takes what depends
        on them alone out of it.
        """
        s, c = dtype.suffix, dtype.compute
        lines = []
        for i, name in enumerate(self.arguments):
            element = dtype.element if name in self.outputs else f"const {dtype.element}"
            lines.append(f"cdef {element} *p_{name} = <{element} *>args[{i}]")
        lines += [
            f"cdef tile_{s} {', '.join(f't_{name}' for name in self.outputs)}",
            f"cdef v{c} {', '.join(f'v_{name}' for name in self.arguments)}",
            "cdef int64_t i, j",
            "cdef int k, stream = <int>(flags & 1)",
        ]
        values = self.values(c)

        def loop(elementwise: bool) -> list[str]:
            body = [f"j = i + k * LANES_{c}"]
            body += [f"v_{name} = load_{s}(p_{name} + j)" for name in self.inputs]
            if elementwise:
                body += [f"v_{name} = load_{s}(p_{name} + j * psteps[{i}])" for i, name in enumerate(self.params)]
            body += [f"v_{name} = {value}" for name, value in zip(self.outputs, values, strict=True)]
            body += [f"store_{s}(SLOT_{s}(t_{o}, p_{o} + i) + k * LANES_{c}, v_{o}, stream)" for o in self.outputs]
            return [
                "i = 0",
                "while i < n:",
                f"    for k in range(PARTS_{c}):",
                *(f"        {line}" for line in body),
                *(f"    FLUSH(p_{name} + i, t_{name})" for name in self.outputs),
                f"    i += STEP_{c}",
            ]

        if self.params:
            lines.append(f"if {' and '.join(f'psteps[{i}] == 0' for i in range(len(self.params)))}:")
            lines += [f"    v_{name} = load_{s}(p_{name})" for name in self.params]
            lines += [f"    {line}" for line in loop(False)]
            lines.append("else:")
            lines += [f"    {line}" for line in loop(True)]
        else:
            lines += loop(False)
        lines.append("streamed(stream)")
        head = f"cdef void {self.name(dtype)}({KERNEL_ARGUMENTS}) noexcept nogil:"
        return "\n    ".join([head, *lines]) + "\n"

    def values(self, compute: str) -> list[str]:
        """The expressions of the outputs."""
        function = self.body(_Calls(compute, []))
        return [term.code for term in function(*(Term(f"v_{name}") for name in self.inputs + self.params))]

    def roots(self) -> list[str]:
        """The formulas that the outputs are made of."""
        called: list[str] = []
        self.body(_Calls("", called))(*map(Term, self.inputs + self.params))
        return called


KERNEL_ARGUMENTS = "void *const *args, int64_t n, const int64_t *psteps, int64_t flags"


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
    """Row kernels (see ``render_rows``): by ``"f32"`` and ``"f64"``, the formulas they call and their source."""

    declarations: str
    roots: Mapping[str, Sequence[str]]
    texts: Mapping[str, str]
    table: Sequence[tuple[str, str, str]]  # kernel, dtype, function


def render_table(kernels: Sequence[tuple[Kernel, Dtype]], rows: Rows | None) -> str:
    """The tables of addresses and the functions that look them up."""
    lines = ["cdef dict _ADDRESSES = {"]
    lines += [f'    ("{k.op}", "{k.kind}", "{d.name}"): <size_t>&{k.name(d)},' for k, d in kernels]
    lines += ["}", "cdef dict _ROW_ADDRESSES = {"]
    lines += [
        f'    ("{name}", "{dtype}"): <size_t>&{function},' for name, dtype, function in (rows.table if rows else ())
    ]
    lines += [
        "}",
        "",
        "",
        "def isa():",
        '    """The instruction set this module was compiled for."""',
        "    return FASTACT_ISA.decode()",
        "",
        "",
        "def address(op, kind, dtype):",
        '    """The address of a kernel, or None where there is none."""',
        "    return _ADDRESSES.get((op, kind, dtype))",
        "",
        "",
        "def row_address(name, dtype):",
        '    """The address of a row kernel, or None where there is none."""',
        "    return _ROW_ADDRESSES.get((name, dtype))",
    ]
    return "\n".join(lines) + "\n"


def render_module(
    kernels: Sequence[Kernel],
    formulas: Mapping[str, Mapping[str, Formula]],
    primitives: Mapping[str, int],
    dtypes: Sequence[str] = tuple(DTYPES),
    rows: Rows | None = None,
) -> str:
    """The source of a Cython module with every kernel in every dtype.

    Parameters
    ----------
    kernels : sequence of Kernel
        What to render.
    formulas : mapping
        ``"f32"`` and ``"f64"`` to their formulas by name, elementary functions included.
    primitives : mapping
        Name of a primitive to its number of arguments.
    dtypes : sequence of str, optional
        Names in `DTYPES`.
    rows : Rows, optional
        Row kernels, in float32 and float64.
    """
    used = [DTYPES[name] for name in dtypes]
    roots = [root for kernel in kernels for root in kernel.roots()]
    parts = [
        "# cython: language_level=3, cdivision=True, freethreading_compatible=True, emit_code_comments=False\n"
        "# rendered by fastact/backends/cython_aot/render.py; not to be edited\n"
        "from libc.stdint cimport int64_t, intptr_t, uint16_t\n",
        render_header(primitives),
    ]
    if rows:
        parts.append(rows.declarations)
    for compute in dict.fromkeys(d.compute for d in used):
        wanted = dict.fromkeys([*roots, *(rows.roots[compute] if rows else ())])
        parts.append(render_functions(formulas[compute], wanted, primitives, compute))
    pairs = [(kernel, dtype) for kernel in kernels for dtype in used]
    parts += [kernel.render(dtype) for kernel, dtype in pairs]
    if rows:
        parts += rows.texts.values()
    parts.append(render_table(pairs, rows))
    return "\n".join(parts)


@dataclass(frozen=True)
class Embedded:
    """A function for other people's compiled code: any n >= 0, any alignment, parameters by value."""

    kernel: Kernel
    dtype: Dtype

    @property
    def name(self) -> str:
        kind = "" if self.kernel.kind == "forward" else f"_{self.kernel.kind}"
        return f"{self.kernel.op}{kind}_{self.dtype.suffix}"

    def signature(self, count: str) -> str:
        """The arguments; `count` is the type of the number of elements."""
        element = self.dtype.element
        pointers = [f"const {element} *{name}" for name in self.kernel.inputs]
        pointers += [f"{element} *{name}" for name in self.kernel.outputs]
        return ", ".join([*pointers, f"{count} n", *(f"{element} {name}" for name in self.kernel.params)])

    def render(self, index: int) -> str:
        k, element = self.kernel, self.dtype.element
        lines = [f"cdef void *args[{len(k.arguments)}]"]
        if k.params:
            lines.append(f"cdef block_{self.dtype.suffix} {', '.join(f'p_{name}' for name in k.params)}")
        for i, name in enumerate(k.arguments):
            if name in k.params:
                lines.append(f"fill_{self.dtype.suffix}(p_{name}, {name})")
                lines.append(f"args[{i}] = p_{name}")
            else:
                lines.append(f"args[{i}] = <void *>{name}")
        numbers = f"{len(k.inputs)}, {len(k.params)}, {len(k.outputs)}"
        lines.append(f"run(KERNELS[{index}], args, {numbers}, n, sizeof({element}))")
        head = f"cdef void {self.name}({self.signature('Py_ssize_t')}) noexcept nogil:"
        return "\n    ".join([head, *lines]) + "\n"


def embedded(kernels: Sequence[Kernel]) -> list[Embedded]:
    """What other people's code can call: every kernel in float32 and float64."""
    return [Embedded(kernel, DTYPES[dtype]) for kernel in kernels for dtype in ("float32", "float64")]


def render_embed(functions: Sequence[Embedded], loops: str) -> str:
    """The module that holds the embedded functions, after its fixed part `loops` (``embed.pyx.in``)."""
    lines = [loops.replace("@COUNT@", str(len(functions)))]
    lines += [function.render(i) for i, function in enumerate(functions)]
    rows = [
        f'    ("{f.kernel.op}", "{f.kernel.kind}", "{f.dtype.name}"): '
        f'("{f.name}", b"{f.signature("ptrdiff_t")}", <size_t>&{f.name}),'
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
    parts = ("maths/*.py", "maths/elementary/*.py", "spec/*.py", "loops/*.py")
    parts += ("backends/cython_aot/render*.py", "backends/cython_aot/*.h")
    return [path for part in parts for path in sorted(package.glob(part))]


def source_hash(package: Path) -> str:
    """A hash of `source_files`."""
    digest = hashlib.sha256()
    for path in source_files(package):
        digest.update(path.read_bytes())
    return digest.hexdigest()
