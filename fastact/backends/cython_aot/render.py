"""Formulas as typed Cython, ahead of time.

Translates formulas (``fastact.maths.grammar``) to ``cdef inline`` functions over the vectors of ``simd.h``, and writes
around them loops that keep the calling convention (``fastact/spec/call.py``). Runs while fastact is being built: it
needs the standard library alone.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastact.maths.grammar import COMPARISONS, OPERATORS, PRIMITIVES, Formula
from fastact.maths.primitives import ENTRIES
from fastact.spec import call as convention
from fastact.spec import kinds
from fastact.spec.kernel import KernelSpec
from fastact.spec.kinds import Argument
from fastact.spec.rows import ROWS
from fastact.spec.stages import ARITHMETIC, program_of
from fastact.spec.table import Op


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


# vectors by what they compute: the C type of a lane
ELEMENTS = {d.compute: d.element for d in DTYPES.values() if d.suffix == d.compute}


@dataclass(frozen=True)
class _Translator:
    """The expressions of a formula over the vectors of `compute`."""

    formula: Formula
    compute: str
    tables: dict[tuple[str, ...], str]  # of `lookup`: the entries, and the name in C

    def expression(self, node: ast.expr) -> str:
        match node:
            case ast.Name(id=name):
                return name
            case ast.Constant(value=float() as value):
                return self.literal(value)
            case ast.UnaryOp(operand=ast.Constant(value=float() as value)):
                return self.literal(-value)
            case ast.UnaryOp(operand=operand):
                return f"(-{self.expression(operand)})"
            case ast.BinOp(left=left, op=op, right=right):
                return f"({self.expression(left)} {OPERATORS[type(op)]} {self.expression(right)})"
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return f"{COMPARISONS[type(op)]}_{self.compute}({self.expression(left)}, {self.expression(right)})"
            case ast.Call(func=ast.Name(id=name), args=args):
                return self.call(name, args)
        raise AssertionError(f"{ast.unparse(node)} was not checked")

    def literal(self, value: float) -> str:
        return f"lit_{self.compute}({str(value).replace('inf', 'INFINITY')})"

    def call(self, name: str, args: Sequence[ast.expr], outs: Sequence[str] = ()) -> str:
        if name == "lookup":
            entries = tuple(ast.unparse(entry) for entry in args[1:])
            table = self.tables.setdefault(entries, f"fastact_table_{self.compute}_{len(self.tables)}")
            return f"lookup{len(entries)}_{self.compute}({self.expression(args[0])}, {table})"
        symbol = self.formula.calls[name].symbol if name in self.formula.calls else name
        return f"{symbol}_{self.compute}({', '.join([*map(self.expression, args), *outs])})"

    def value(self, node: ast.expr, lines: list[str]) -> str:
        """What a statement assigns or returns, after `lines`."""
        match node:
            case ast.Call(func=ast.Name(id="rarely"), args=[c, ast.Name(id=skipped), b, *args]):
                lines += [
                    f"rarely_c = {self.expression(c)}",
                    f"rarely_b = {self.expression(b)}",
                    f"if any_{self.compute}(rarely_c):",
                    f"    rarely_b = where_{self.compute}(rarely_c, {self.call(skipped, args)}, rarely_b)",
                ]
                return "rarely_b"
        return self.expression(node)

    def function(self) -> str:
        """The formula; one of several values has pointers to them as its last arguments."""
        formula, vector = self.formula, f"v{self.compute}"
        result, arguments = vector, [f"{vector} {p}" for p in formula.parameters]
        lines: list[str] = []
        names: list[str] = []
        for statement in formula.body:
            match statement:
                case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Call(func=ast.Name(id=name), args=args)):
                    found = [ast.unparse(target) for target in targets]
                    lines.append(self.call(name, args, [f"&{target}" for target in found]))
                    names += found
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    lines.append(f"{name} = {self.value(value, lines)}")
                    names.append(name)
                case ast.Return(value=ast.Tuple(elts=values)):
                    result = "void"
                    arguments += [f"{vector} *out{i}" for i in range(len(values))]
                    lines += [f"out{i}[0] = {self.expression(value)}" for i, value in enumerate(values)]
                case ast.Return(value=ast.expr() as value):
                    lines.append(f"return {self.value(value, lines)}")
        new = [name for name in dict.fromkeys(names) if name not in formula.parameters]
        masks = [name for name in new if name in formula.masks]
        others = [name for name in new if name not in formula.masks]
        if "rarely" in formula.uses:
            masks, others = [*masks, "rarely_c"], [*others, "rarely_b"]
        types = (f"mask{self.compute[1:]}", masks), (vector, others)
        declared = [f"cdef {kind} {', '.join(found)}" for kind, found in types if found]
        head = f"cdef inline {result} {formula.symbol}_{self.compute}({', '.join(arguments)}) noexcept nogil:"
        return "\n    ".join([head, *declared, *lines]) + "\n"


def render_functions(roots: Iterable[Formula], compute: str) -> str:
    """The formulas `roots` and all they call, callees first, over the vectors of `compute` (``"f32"`` or ``"f64"``)."""
    done: dict[Formula, str] = {}
    tables: dict[tuple[str, ...], str] = {}

    def visit(formula: Formula) -> None:
        if formula not in done:
            for callee in formula.calls.values():
                visit(callee)
            done[formula] = _Translator(formula, compute, tables).function()

    for root in roots:
        visit(root)
    return "\n".join([*_declared(tables, ELEMENTS[compute]), *done.values()])


def _declared(tables: Mapping[tuple[str, ...], str], element: str) -> list[str]:
    """The declarations of the tables of `lookup`."""
    if not tables:
        return []
    return [
        'cdef extern from *:\n    """',
        *(f"FASTACT_TABLE{len(e)}({element}, {name}, {', '.join(e)});" for e, name in tables.items()),
        '    """',
        *(f"    const {element} *{name}" for name in tables.values()),
        "",
    ]


@dataclass(frozen=True)
class Term:
    """A rendered expression; stands for a vector where a kernel's body is evaluated over names instead of arrays."""

    code: str

    def __mul__(self, other: Term) -> Term:
        return Term(f"({self.code} * {other.code})")


def statements(spec: KernelSpec, called: list[str] | None = None, part: int = 0) -> list[str]:
    """What computes a kernel's outputs; the formulas that are called are added to `called`.

    Variables of arrays are those of one of several vectors, of number `part`; a parameter is one for all.
    """
    env = _Calls(DTYPES[spec.dtype].compute, [] if called is None else called)
    names = [*(f"v{part}_{a.name}" for a in spec.inputs), *(f"v_{name}" for name in spec.params)]
    outputs = [f"v{part}_{a.name}" for a in spec.outputs]
    if spec.rule is not None and len(outputs) > 1:
        # one formula for all
        return [env[spec.rule.name](*map(Term, (*names, *(f"&{name}" for name in outputs)))).code]
    return [f"{name} = {term.code}" for name, term in zip(outputs, spec.body(env)(*map(Term, names)), strict=True)]


# vectors at a time: sigmoid to mish 0.97 of the speed of Numba's kernels, with two 0.92, with one 0.86 (Zen 5)
SIDE_BY_SIDE = 4


# operations of a formula from which on a kernel asks for its inputs beforehand; about those that are LONG to Numba's
LONG = 9


def render_map(spec: KernelSpec, several: bool, ahead: bool) -> str:
    """A kernel of the loop ``map``: for each row it loads all, computes all, then stores; where simd.h says so,
    and `several`, first for several vectors side by side; with `ahead` it asks for what it needs next.

    Parameters that are one value are loaded once, before a loop of their own, so that the compiler takes what depends
    on them alone out of it.
    """
    d = DTYPES[spec.dtype]
    s, c = d.suffix, d.compute
    inputs, outputs = ([a.name for a in side] for side in (spec.inputs, spec.outputs))
    names = [*inputs, *spec.params, *outputs]
    types = {name: d.element if name in outputs else f"const {d.element}" for name in names}
    arrays = [name for name in names if name not in spec.params]
    lines = [f"cdef {types[name]} *p_{name} = <{types[name]} *>call.data[{i}]" for i, name in enumerate(names)]
    lines += [f"cdef int64_t e_{name} = call.step[{names.index(name)}] != 0" for name in spec.params]
    lines += [
        f"cdef tile_{s} {', '.join(f't_{name}' for name in outputs)}",
        f"cdef v{c} {', '.join(f'v{part}_{name}' for part in range(SIDE_BY_SIDE) for name in arrays)}",
        *([f"cdef v{c} {', '.join(f'v_{name}' for name in spec.params)}"] if spec.params else []),
        "cdef int64_t i, j, row = 0, n = call.n",
        "cdef int k, stream = <int>(call.flags & FASTACT_STREAM)",
    ]

    # two streams: what the call says, else the inputs
    asked = {f"ahead{k}": inputs[min(k, len(inputs) - 1)] for k in range(2 if ahead else 0)}
    pointer, beyond = f"const {d.element} *", convention.AHEAD_BYTES
    lines += [f"cdef {pointer}{a} = <{pointer}>(<const char *>p_{name} + {beyond})" for a, name in asked.items()]
    lines += [f"if call.ahead[{k}] != NULL: {a} = <{pointer}>call.ahead[{k}]" for k, a in enumerate(asked)]
    parts = range(SIDE_BY_SIDE)
    body = [f"PREFETCH({a} + i + {k} * LANES_{c})" for k in parts for a in asked]
    body += [f"v{k}_{name} = load_{s}(p_{name} + i + {k} * LANES_{c})" for k in parts for name in inputs]
    body += [line for k in parts for line in statements(spec, part=k)]
    body += [f"store_{s}(p_{o} + i + {k} * LANES_{c}, v{k}_{o}, stream)" for k in parts for o in outputs]
    side_by_side = [
        f"    while SIDE_BY_SIDE and i + {SIDE_BY_SIDE} * LANES_{c} <= n:",
        *(f"        {line}" for line in body),
        f"        i += {SIDE_BY_SIDE} * LANES_{c}",
    ]

    def loop(params: Sequence[str]) -> list[str]:
        body = [f"j = i + k * LANES_{c}"]
        body += [f"v0_{name} = load_{s}(p_{name} + j)" for name in inputs]
        body += [f"v_{name} = load_{s}(p_{name} + j * e_{name})" for name in params]
        body += statements(spec)
        body += [f"store_{s}(SLOT_{s}(t_{o}, p_{o} + i) + k * LANES_{c}, v0_{o}, stream)" for o in outputs]
        moved = [name for name in names if name not in spec.params or name in params]
        return [
            "while row < call.rows:",
            "    i = 0",
            *(side_by_side if several and not params else []),
            "    while i < n:",
            *(f"        PREFETCH({a} + i)" for a in asked),
            f"        for k in range(PARTS_{c}):",
            *(f"            {line}" for line in body),
            *(f"        FLUSH(p_{name} + i, t_{name})" for name in outputs),
            f"        i += STEP_{c}",
            *(f"    p_{x} = <{types[x]} *>(<const char *>p_{x} + call.row_step[{names.index(x)}])" for x in moved),
            *(f"    {a} = <{pointer}>(<const char *>{a} + call.row_step[{names.index(x)}])" for a, x in asked.items()),
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
        int64_t rows, n, row0, col0, flags
        uint64_t seed, offset
        const double *scalars
        const char *ahead[2]
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


def render_header() -> str:
    """Declarations of what ``simd.h`` defines, and of nothing it does not."""
    lines = ["cdef extern from 'simd.h' nogil:", "    const char *FASTACT_ISA", "    const double INFINITY"]
    lines += ["    enum: SIDE_BY_SIDE"]
    for c, element in ELEMENTS.items():
        mask = f"mask{c[1:]}"
        # to Cython these are numbers, so that operators pass through to C, where they are vectors
        lines += [f"    ctypedef {element} v{c}", f"    ctypedef int {mask}"]
        lines += [f"    enum: LANES_{c}, PARTS_{c}, STEP_{c}"]
        lines += [f"    v{c} lit_{c}(double c)"]
        lines += [f"    {mask} {name}_{c}(v{c} a, v{c} b)" for name in COMPARISONS.values()]
        for name, n in PRIMITIVES.items():
            if name not in ("lookup", "rarely"):
                arguments = [f"{mask if name == 'where' and i == 0 else f'v{c}'} a{i}" for i in range(n)]
                lines.append(f"    v{c} {name}_{c}({', '.join(arguments)})")
        lines += [f"    v{c} lookup{n}_{c}(v{c} m, const {element} *entries)" for n in ENTRIES]
        lines += [f"    bint any_{c}({mask} c)"]
    for d in DTYPES.values():
        s = d.suffix
        lines += [
            f"    ctypedef {d.element} tile_{s}[1]",
            f"    v{d.compute} load_{s}(const {d.element} *p)",
            f"    void store_{s}({d.element} *p, v{d.compute} v, int stream)",
            f'    {d.element} *SLOT_{s} "SLOT" (tile_{s} tile, {d.element} *p)',
        ]
    lines += [
        f"    void {f}" for f in ("PREFETCH(const void *p)", "FLUSH(void *p, void *tile)", "streamed(int stream)")
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Rows:
    """Kernels over rows (see ``render_rows``): by ``"f32"`` and ``"f64"``, the formulas they call and their source."""

    declarations: str
    roots: Mapping[str, Sequence[Formula]]
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
    specs: Sequence[KernelSpec], formulas: Mapping[str, Mapping[str, Formula]], rows: Rows | None = None
) -> str:
    """The source of a Cython module with kernels of the loop ``map``, and those over rows.

    Parameters
    ----------
    specs : sequence of KernelSpec
    formulas : mapping
        ``"f32"`` and ``"f64"`` to their formulas by name.
    rows : Rows, optional
    """
    parts = [
        "# cython: language_level=3, cdivision=True, freethreading_compatible=True, emit_code_comments=False\n"
        "# rendered by fastact/backends/cython_aot/render.py; not to be edited\n"
        "from libc.stdint cimport int64_t, intptr_t, uint16_t, uint64_t\n",
        CALL,
        render_header(),
    ]
    if rows:
        parts.append(rows.declarations)
    called: dict[str, list[str]] = {}
    maps = []
    for spec in specs:
        compute, own = DTYPES[spec.dtype].compute, list[str]()
        statements(spec, own)
        called.setdefault(compute, []).extend(own)
        # of several vectors GCC would look up all coefficients first, and put them on the stack: tanh took 5.2 ns for
        # 16 elements instead of 4.4. The branch of `rarely` keeps it from that
        reached = [formulas[compute][name] for name in own]
        several = not any(f.reaches("lookup") and not f.reaches("rarely") for f in reached)
        maps.append(render_map(spec, several, sum(f.operations for f in reached) >= LONG))
    for compute, names in called.items():
        roots = [*(formulas[compute][name] for name in names), *(rows.roots[compute] if rows else ())]
        parts.append(render_functions(roots, compute))
    parts += maps
    if rows:
        parts += rows.texts.values()
    addresses = {(spec.name, spec.dtype): spec.symbol for spec in specs}
    parts.append(render_table(addresses | dict(rows.table if rows else {})))
    return "\n".join(parts)


def _arguments(
    to: str, inputs: Sequence[Argument], params: Sequence[str], outputs: Sequence[Argument], d: Dtype
) -> list[str]:
    """Statements that make pointers, and parameters as kernels take them, the data of a struct."""
    blocks = [f"p_{name}" for name in params]
    lines = [f"cdef block_{d.suffix} {', '.join(blocks)}"] if blocks else []
    lines += [f"fill_{d.suffix}(p_{name}, {name})" for name in params]
    pointers = [*(a.name for a in inputs), *blocks, *(a.name for a in outputs)]
    return lines + [f"{to}.data[{i}] = <char *>{pointer}" for i, pointer in enumerate(pointers)]


@dataclass(frozen=True)
class Embedded:
    """A function for other people's compiled code: any length, any alignment of elements, numbers by value."""

    spec: KernelSpec

    @property
    def key(self) -> tuple[str, str]:
        return self.spec.name, self.spec.dtype

    @property
    def name(self) -> str:
        return f"{self.spec.name.removesuffix('_forward')}_{DTYPES[self.spec.dtype].suffix}"

    @property
    def scalars(self) -> tuple[str, ...]:
        return () if self.spec.loop == "map" else ROWS[self.spec.name].scalars

    @property
    def outputs(self) -> tuple[Argument, ...]:
        """Where results go; those of a step in the place of the parameter and the state, by their names."""
        rule = self.spec.rule
        return self.spec.outputs if rule is None else (rule.inputs[0], *map(Argument, rule.state))

    @property
    def sums(self) -> list[str]:
        """The outputs that are sums over all rows."""
        return [a.name for a in self.outputs if a.role == "pair"]

    def signature(self, count: str) -> str:
        """The arguments; `count` is the type of numbers of rows and elements."""
        spec, element, written = self.spec, DTYPES[self.spec.dtype].element, {a.name for a in self.outputs}
        arguments = [
            f"{'' if a.name in written else 'const '}{'int64_t' if a.name == 'labels' else element} *{a.name}"
            for a in spec.inputs
        ]
        arguments += [f"{element} *{a.name}" for a in self.outputs if a not in spec.inputs]
        arguments += [f"{element} *work"] if self.sums else []
        arguments += [f"{count} n"] if spec.loop == "map" else [f"{count} rows", f"{count} n"]
        arguments += [f"{element} {name}" for name in spec.params]
        return ", ".join([*arguments, *(f"double {name}" for name in self.scalars)])

    def render(self, index: int) -> str:
        lines = ["cdef fastact_call call", "memset(&call, 0, sizeof(call))"]
        lines += self.over_elements(index) if self.spec.loop == "map" else self.over_rows(index)
        head = f"cdef void {self.name}({self.signature('Py_ssize_t')}) noexcept nogil:"
        return "\n    ".join([head, *lines]) + "\n"

    def over_elements(self, index: int) -> list[str]:
        spec, d = self.spec, DTYPES[self.spec.dtype]
        lines = _arguments("call", spec.inputs, spec.params, self.outputs, d)
        numbers = f"{len(spec.inputs)}, {len(spec.params)}, {len(spec.outputs)}"
        return [*lines, f"run(KERNELS[{index}], &call, {numbers}, n, sizeof({d.element}))"]

    def over_rows(self, index: int) -> list[str]:
        """Arguments that are absent are null pointers, which stay so from row to row."""
        spec, size = self.spec, f"<Py_ssize_t>sizeof({DTYPES[self.spec.dtype].element})"
        lines = ["call.rows = rows", "call.n = n"]
        if self.scalars:
            lines.insert(0, f"cdef double[{len(self.scalars)}] scalars")
            lines += [f"scalars[{i}] = {name}" for i, name in enumerate(self.scalars)]
            lines.append("call.scalars = scalars")
        names = [a.name for a in (*spec.inputs, *spec.outputs)]
        for i, argument in enumerate((*spec.inputs, *spec.outputs)):
            name = argument.name
            if argument.role == "pair":
                continue
            step = {"map": f"n * {size} if {name} else 0", "row": "8" if name == "labels" else size, "col": "0"}
            lines.append(f"call.data[{i}] = <char *>{name}")
            lines.append(f"call.row_step[{i}] = {step[argument.role]}")
        if self.sums:
            first = len(names) - len(self.sums)
            lines.insert(0, f"cdef char *sums[{len(self.sums)}]")
            lines += [f"sums[{i}] = <char *>{name}" for i, name in enumerate(self.sums)]
            return [*lines, f"run_sums(KERNELS[{index}], &call, {first}, {len(self.sums)}, sums, <char *>work, {size})"]
        if "dx" in names and self.scalars:
            lines += ["if not dx:", "    call.flags = FASTACT_VALUE_ONLY"]
            if spec.loop == "cross_entropy":
                places = f"{names.index('loss')}, {names.index('dx')}"
                lines += [f"    value_only(KERNELS[{index}], &call, {places}, {size})", "    return"]
        return [*lines, f"KERNELS[{index}](&call)"]


@dataclass(frozen=True)
class EmbeddedFused:
    """The same for a fused kind: over rows where it has an argument for each column, else over elements."""

    op: Op
    kind: str
    dtype: str

    @property
    def key(self) -> tuple[str, str]:
        return f"{self.op.name}_{self.kind}", self.dtype

    @property
    def name(self) -> str:
        return f"{self.key[0]}_{DTYPES[self.dtype].suffix}"

    @property
    def along(self) -> bool:
        return any(a.role == "col" for a in kinds.ALL[self.kind].inputs)

    @property
    def params(self) -> list[str]:
        # shrink has a parameter named bias
        taken = [a.name for a in kinds.ALL[self.kind].inputs]
        return [f"{self.op.name}_{p.name}" if p.name in taken else p.name for p in self.op.params]

    def signature(self, count: str) -> str:
        kind, element = kinds.ALL[self.kind], DTYPES[self.dtype].element
        arguments = [f"const {element} *{a.name}" for a in kind.inputs] + [f"{element} *{a.name}" for a in kind.outputs]
        arguments += [f"{count} rows", f"{count} n"] if self.along else [f"{count} n"]
        return ", ".join([*arguments, *(f"{element} {name}" for name in self.params)])

    def render(self, index: int) -> str:
        kind = kinds.ALL[self.kind]
        lines = ["cdef fastact_fused f", "memset(&f, 0, sizeof(f))"]
        lines.append(f"f.outer, f.channel, f.inner = {'rows, n, 1' if self.along else '1, 1, n'}")
        lines += _arguments("f.job", kind.inputs, self.params, kind.outputs, DTYPES[self.dtype])
        head = f"cdef void {self.name}({self.signature('Py_ssize_t')}) noexcept nogil:"
        return "\n    ".join([head, *lines, f"run_fused(&f, {index})"]) + "\n"

    def program(self) -> list[Any]:
        """What `_load` makes a slot of the driver from."""
        kind, program = kinds.ALL[self.kind], program_of(self.op, self.kind)
        letters = {"map": "a", "col": "c", "sum_rows": "s"}
        roles = [letters[a.role] for a in kind.inputs] + ["v"] * len(self.params)
        roles += [letters[a.role] for a in kind.outputs]
        stages = [(s.what if s.what in ARITHMETIC else f"{self.op.name}_{s.what}", s.places) for s in program.stages]
        numbers = len(kind.inputs), len(self.params), len(kind.outputs)
        return [self.dtype, *numbers, "".join(roles), program.like, stages]


@dataclass(frozen=True)
class EmbeddedRandom:
    """The same for what depends on random numbers, by kernels of the driver (``philox.h``)."""

    what: str
    dtype: str

    @property
    def key(self) -> tuple[str, str]:
        return self.what, self.dtype

    @property
    def name(self) -> str:
        return f"{self.what}_{DTYPES[self.dtype].suffix}"

    def signature(self, count: str) -> str:
        element = DTYPES[self.dtype].element
        arrays, numbers = RANDOM[self.what][:2]
        arguments = [f"const {element} *{name}" for name in arrays[:-1]] + [f"{element} *{arrays[-1]}", f"{count} n"]
        arguments += [f"double {name}" for name in numbers]
        return ", ".join([*arguments, "uint64_t seed", "uint64_t offset", "int64_t index"])

    def render(self) -> str:
        arrays, _, kernel, scalars = RANDOM[self.what]
        places = ", ".join(f"<char *>{name}" for name in arrays) + (", NULL" if len(arrays) < 2 else "")
        call = f"run_random({kernel}_{DTYPES[self.dtype].suffix}, {places}, n, {scalars}, seed, offset, index)"
        head = f"cdef void {self.name}({self.signature('Py_ssize_t')}) noexcept nogil:"
        return "\n    ".join([head, call]) + "\n"


# name: arrays, the result last; numbers; kernel; what it takes as scalars
_FACTORS = "ceil(16777216.0 * p), 1.0 / (1.0 - p)"
RANDOM: dict[str, tuple[tuple[str, ...], tuple[str, ...], str, str]] = {
    "dropout": (("x", "y"), ("p",), "fastact_dropout", _FACTORS),
    "dropout_backward": (("dy", "dx"), ("p",), "fastact_dropout", _FACTORS),
    "random": (("y",), (), "fastact_numbers", "0.0, 1.0"),
}
AnyEmbedded = Embedded | EmbeddedFused | EmbeddedRandom


def random() -> list[EmbeddedRandom]:
    """What there is of random numbers."""
    return [EmbeddedRandom(what, dtype) for what in RANDOM for dtype in ("float32", "float64")]


def fused(ops: Iterable[Op]) -> list[EmbeddedFused]:
    """What there is with a bias and as a gate; not where a parameter has a gradient of its own."""
    return [
        EmbeddedFused(op, kind, dtype)
        for op in ops
        for kind in ("biased", "biased_backward", "gated", "gated_backward")
        for dtype in ("float32", "float64")
        if kinds.outputs_of(op, kind) == kinds.ALL[kind].outputs
    ]


def render_embed(
    functions: Sequence[Embedded], fused: Sequence[EmbeddedFused], random: Sequence[EmbeddedRandom], frame: str
) -> str:
    """The module that holds the embedded functions, after its fixed part `frame` (``embed.pyx.in``)."""
    every: list[AnyEmbedded] = [*functions, *fused, *random]
    numbers = {"COUNT": len(functions), "FUSED": len(fused), "EVERY": len(every), "CALL": CALL}
    for name, value in numbers.items():
        frame = frame.replace(f"@{name}@", str(value))
    lines = [frame, *(f.render(i) for i, f in enumerate(functions)), *(f.render(i) for i, f in enumerate(fused))]
    lines += [f.render() for f in random]
    # tables as text: as Python objects they would take the C compiler a minute
    lines.append("cdef void _fill() noexcept:")
    lines += [f"    ADDRESSES[{i}] = <void *>{f.name}" for i, f in enumerate(every)]
    tables = [[*f.key, f.name, f.signature("ptrdiff_t")] for f in every], [f.program() for f in fused]
    texts = ("[" + ",\n".join(map(json.dumps, table)) + "]" for table in tables)
    lines += ["", "_fill()", "_load(" + ", ".join(f'json.loads("""{text}""")' for text in texts) + ")", ""]
    return "\n".join(lines)


def render_embed_pxd(functions: Sequence[AnyEmbedded]) -> str:
    """Its declarations, for ``cimport``."""
    return "from libc.stdint cimport int64_t, uint64_t\n\n" + "".join(
        f"cdef void {f.name}({f.signature('Py_ssize_t')}) noexcept nogil\n" for f in functions
    )


def render_package_pxd(functions: Sequence[AnyEmbedded]) -> str:
    """``fastact/__init__.pxd``: the same names in ``cimport fastact``."""
    names = "".join(f"    {f.name},\n" for f in functions)
    return f"from fastact.backends.cython_aot._embed cimport (\n{names})\n"


def render_c_header(functions: Sequence[AnyEmbedded], frame: str) -> str:
    """``fastact.h`` from its fixed part `frame` (``fastact.h.in``)."""
    pointers = [f"FASTACT_POINTER void (*fastact_{f.name})({f.signature('ptrdiff_t')});" for f in functions]
    imports = [f'    FASTACT_IMPORT({f.name}, "{f.signature("ptrdiff_t")}");' for f in functions]
    return frame.replace("@POINTERS@", "\n".join(pointers)).replace("@IMPORTS@", "\n".join(imports))


def source_files(package: Path) -> list[Path]:
    """The files that decide what the ahead-of-time modules compute."""
    parts: tuple[str, ...] = ("maths/*.py", "maths/elementary/*.py", "spec/*.py", "loops/*.py", "runtime/call.h")
    parts += tuple(f"backends/cython_aot/{name}" for name in ("build.py", "render*.py", "*.h"))
    return [path for part in parts for path in sorted(package.glob(part))]


def source_hash(package: Path) -> str:
    """A hash of `source_files`."""
    digest = hashlib.sha256()
    for path in source_files(package):
        digest.update(path.read_bytes())
    return digest.hexdigest()
