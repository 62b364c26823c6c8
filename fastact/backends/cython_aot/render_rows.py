"""Row kernels as typed Cython, ahead of time: the loops of ``fastact.loops`` over the vectors of ``rows.h``.

Their language is small: functions whose arguments and variables are annotated with `Address`, `Int`, `Vec` or `Quad`,
assignments, ``while``, ``if``, calls and integer arithmetic. Like ``render``, this runs while fastact is being built.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastact.backends.cython_aot.render import DTYPES, Rows
from fastact.maths.grammar import Formula, GrammarError
from fastact.spec import call as convention
from fastact.spec.kernel import KernelSpec

ADDRESS, INT, VEC, QUAD, FLOAT, NONE = "Address", "Int", "Vec", "Quad", "Float", "None"

# name: types of arguments, type of the result, name in C
PRIMITIVES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "load": ((ADDRESS,), VEC, "row_load"),
    "load4": ((ADDRESS, INT), QUAD, "row_load4"),
    "load_some": ((ADDRESS, INT, FLOAT), VEC, "load_some"),
    "store": ((ADDRESS, VEC), NONE, "row_store"),
    "store4": ((ADDRESS, QUAD, INT), NONE, "row_store4"),
    "store_some": ((ADDRESS, VEC, INT), NONE, "store_some"),
    "store_value": ((ADDRESS, VEC), NONE, "store_value"),
    "stream": ((ADDRESS, VEC), NONE, "row_stream"),
    "splat": ((FLOAT,), VEC, "splat"),
    "splat4": ((FLOAT,), QUAD, "splat4"),
    "load_value": ((ADDRESS,), VEC, "load_value"),
    "load_param": ((ADDRESS,), VEC, "load_param"),
    "number": ((INT,), VEC, "number"),
    "gather4": ((QUAD,), VEC, "gather4"),
    "greatest4": ((QUAD,), VEC, "greatest4"),
    "max_lanes": ((VEC,), VEC, "max_lanes"),
    "swap": ((VEC, INT), VEC, "swap"),
    "part": ((QUAD, INT), VEC, "part"),
    "sum_lanes": ((VEC,), VEC, "sum_lanes"),
    "across_max": ((ADDRESS,), VEC, "across_max"),
    "across_sum": ((ADDRESS,), VEC, "across_sum"),
    "down_sum": ((ADDRESS,), VEC, "down_sum"),
    "lower": ((VEC, VEC, INT), VEC, "lower"),
    "upper": ((VEC, VEC, INT), VEC, "upper"),
    "without": ((VEC, INT), VEC, "without"),
    "without4": ((QUAD, INT), QUAD, "without4"),
    "first_lanes": ((VEC, INT), VEC, "first_lanes"),
    "less": ((VEC, VEC), INT, "less"),
    "meets": ((VEC, VEC), INT, "meets"),
    # what `signed`, `signed4`, `signed_some` are for SIGN = -1; for 1 they are `load`, `load4`, `load_some`
    "load_negated": ((ADDRESS,), VEC, "row_load_negated"),
    "load4_negated": ((ADDRESS, INT), QUAD, "row_load4_negated"),
    "load_some_negated": ((ADDRESS, INT, FLOAT), VEC, "load_some_negated"),
}
# these give two values
PAIRS = {
    "sum_lanes_pair": ((VEC, VEC), VEC),
    "across_sum_pair": ((ADDRESS, ADDRESS), VEC),
    "down_sum_pair": ((ADDRESS, ADDRESS), VEC),
}
# the same for every dtype
UNTYPED = {
    "load_int": ((ADDRESS,), INT, "load_int"),
    "fence": ((), NONE, "fence"),
    "prefetch": ((ADDRESS,), NONE, "prefetch"),
    "stack": ((INT,), ADDRESS, "stack"),
}
SIGNED = {"signed": "load", "signed4": "load4", "signed_some": "load_some"}

SIZES = {"f32": 4, "f64": 8}

_COMPARISONS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.BitAnd: "&", ast.BitOr: "|"}


@dataclass(frozen=True)
class Module:
    """The sources of ``fastact.loops``; `where` is the file of each function."""

    constants: Mapping[str, int | float]
    functions: Mapping[str, ast.FunctionDef]
    where: Mapping[str, str]


def parse(paths: Iterable[Path], constants: Mapping[str, int | float]) -> Module:
    """The constants and functions of modules of row kernels, and what constants they are given."""
    constants = dict(constants)
    functions: dict[str, ast.FunctionDef] = {}
    where: dict[str, str] = {}
    for path in paths:
        for node in ast.parse(path.read_text(encoding="utf-8"), str(path)).body:
            if isinstance(node, ast.FunctionDef):
                functions[node.name] = node
                where[node.name] = str(path)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                constants[node.targets[0].id] = ast.literal_eval(node.value)
            elif isinstance(node, ast.ImportFrom) and node.module == convention.__name__:
                constants |= {alias.name: getattr(convention, alias.name) for alias in node.names}
            elif not (isinstance(node, ast.Expr) or (isinstance(node, ast.ImportFrom) and node.module == "__future__")):
                raise GrammarError(
                    f"{path}:{node.lineno}: {type(node).__name__} is not part of a module of row kernels"
                )
    return Module(constants, functions, where)


@dataclass(frozen=True)
class Instance:
    """A function of the module for a formula in the place of `each`, one in that of `each2`, and one sign."""

    function: str
    each: str
    sign: int

    def name(self, compute: str) -> str:
        each = f"__{self.each}" if self.each else ""
        return f"rows_{self.function}{each}{'_negated' if self.sign < 0 else ''}_{compute}"


class _Function:
    """Translates one instance."""

    def __init__(self, module: Module, formulas: Mapping[str, Formula], instance: Instance, compute: str) -> None:
        self.module = module
        self.formulas = formulas  # row formulas, by their own names
        self.instance = instance
        self.compute = compute
        self.each = dict(zip(("each", "each2"), instance.each.split("__"))) if instance.each else {}
        self.types: dict[str, str] = {}
        self.instances: list[Instance] = []
        self.maps: list[tuple[str, str]] = []  # formulas that are called, with Vec or Quad
        element = SIZES[compute]
        lanes = module.constants["VECTOR"] // element
        self.numbers: dict[str, tuple[str, str]] = {
            n: (repr(v), INT if type(v) is int else FLOAT) for n, v in module.constants.items()
        }
        self.numbers |= {"LANES": (str(lanes), INT), "QUAD": (str(4 * lanes), INT)}
        self.numbers |= {"GROUP": (str(8 * lanes), INT), "SIZE": (str(element), INT)}
        self.numbers |= {"INF": ("INFINITY", FLOAT), "SIGN": (f"{float(instance.sign)}", FLOAT)}

    def error(self, node: ast.AST, what: str) -> GrammarError:
        path = self.module.where[self.instance.function]
        return GrammarError(f"{path}:{getattr(node, 'lineno', 0)}: {what}")

    def c_type(self, kind: str) -> str:
        vectors = {VEC: f"vec_{self.compute}", QUAD: f"quad_{self.compute}"}
        return {ADDRESS: "intptr_t", INT: "int64_t", NONE: "void"}.get(kind) or vectors[kind]

    def annotation(self, node: ast.expr | None) -> str:
        if isinstance(node, ast.Constant) and node.value is None:
            return NONE
        if isinstance(node, ast.Name) and node.id in (ADDRESS, INT, VEC, QUAD):
            return node.id
        raise self.error(node or self.module.functions[self.instance.function], "not a type of row kernels")

    def results(self, node: ast.FunctionDef) -> list[str]:
        returns = node.returns
        if isinstance(returns, ast.Subscript) and isinstance(returns.slice, ast.Tuple):
            return [self.annotation(e) for e in returns.slice.elts]
        return [self.annotation(returns)]

    def render(self, kernel: bool) -> str:
        node = self.module.functions[self.instance.function]
        for argument in node.args.args:
            self.types[argument.arg] = self.annotation(argument.annotation)
        arguments = [f"{self.c_type(self.types[a.arg])} {a.arg}" for a in node.args.args]
        given = list(self.types)
        results = self.results(node)
        self.result = results[0]
        self.outs = len(results) if len(results) > 1 else 0
        arguments += [f"{self.c_type(t)} *out{i}" for i, t in enumerate(results) if self.outs]
        lines = [f"    {line}" for statement in node.body for line in self.statement(statement)]
        declared = [f"    cdef {self.c_type(t)} {n}" for n, t in self.types.items() if n not in given]
        result = "void" if self.outs else self.c_type(results[0])
        inline = "inline "
        if kernel:
            if [self.types[name] for name in given] != [ADDRESS]:
                raise self.error(node, "a kernel takes the address of a call")
            inline, arguments = "", ["const fastact_call *argument"]
            declared.insert(0, f"    cdef intptr_t {given[0]} = <intptr_t>argument")
        head = f"cdef {inline}{result} {self.instance.name(self.compute)}({', '.join(arguments)}) noexcept nogil:"
        return "\n".join([head, *declared, *lines]) + "\n"

    def statement(self, node: ast.stmt) -> Iterator[str]:
        if isinstance(node, ast.Expr):
            if isinstance(node.value, ast.Call):
                yield self.call(node.value)[0]
            elif not isinstance(node.value, ast.Constant):
                raise self.error(node, "an expression that is not a call")
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            kind = self.annotation(node.annotation)
            self.declare(node.target, kind)
            yield f"{node.target.id} = {self.expression(node.value, kind)}"
        elif isinstance(node, ast.Assign):
            yield self.assign(node)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and type(node.op) in _OPERATORS:
            kind = self.types[node.target.id]
            yield f"{node.target.id} {_OPERATORS[type(node.op)]}= {self.expression(node.value, kind)}"
        elif isinstance(node, ast.While) and not node.orelse:
            yield f"while {self.condition(node.test)}:"
            yield from self.block(node.body)
        elif isinstance(node, ast.If):
            yield f"if {self.condition(node.test)}:"
            yield from self.block(node.body)
            if node.orelse:
                yield "else:"
                yield from self.block(node.orelse)
        elif isinstance(node, ast.Return) and node.value is not None:
            if isinstance(node.value, ast.Tuple):
                for i, value in enumerate(node.value.elts):
                    yield f"out{i}[0] = {self.expression(value, VEC)}"
            elif self.outs and isinstance(node.value, ast.Call):
                yield self.call(node.value, [f"out{i}" for i in range(self.outs)])[0]
            else:
                yield f"return {self.expression(node.value, self.result)}"
        else:
            raise self.error(node, f"{type(node).__name__} is not part of the language of row kernels")

    def block(self, body: Sequence[ast.stmt]) -> Iterator[str]:
        for statement in body:
            for line in self.statement(statement):
                yield f"    {line}"

    def declare(self, target: ast.Name, kind: str) -> None:
        if self.types.setdefault(target.id, kind) != kind:
            raise self.error(target, f"{target.id} is both {self.types[target.id]} and {kind}")

    def assign(self, node: ast.Assign) -> str:
        target = node.targets[0]
        if len(node.targets) == 1 and isinstance(target, ast.Name):
            if target.id not in self.types:
                raise self.error(node, f"{target.id} has no type")
            return f"{target.id} = {self.expression(node.value, self.types[target.id])}"
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Call):
            names = [e for e in target.elts if isinstance(e, ast.Name)]
            if len(names) == len(target.elts):
                code, kind = self.call(node.value, [f"&{n.id}" for n in names])
                for name in names:
                    self.declare(name, kind)
                return code
        raise self.error(node, "names take a value, or a call's values")

    def condition(self, node: ast.expr) -> str:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return f"not {self.condition(node.operand)}"
        return self.typed(node, None)[0]

    def expression(self, node: ast.expr, kind: str) -> str:
        code, found = self.typed(node, kind)
        if found == VEC and kind == QUAD:
            return f"widen_{self.compute}({code})"
        # an address is an integer
        if found != kind and {found, kind} != {ADDRESS, INT}:
            raise self.error(node, f"{found} in the place of {kind}")
        return code

    def typed(self, node: ast.expr, kind: str | None) -> tuple[str, str]:
        """The expression and its type."""
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return repr(node.value), INT if type(node.value) is int else FLOAT
        if isinstance(node, ast.Name):
            if node.id in self.types:
                return node.id, self.types[node.id]
            if node.id in self.numbers:
                return self.numbers[node.id]
            raise self.error(node, f"name {node.id!r} is not known")
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            code, found = self.typed(node.operand, kind)
            if found in (VEC, QUAD):
                raise self.error(node, "vectors are the business of formulas")
            return f"(-{code})", found
        if isinstance(node, ast.BinOp):
            left, right = self.expression(node.left, INT), self.expression(node.right, INT)
            if isinstance(node.op, ast.Mod):
                return f"floor_mod({left}, {right})", INT
            if isinstance(node.op, ast.FloorDiv):
                # of what is not negative: floor_mod's value, an index
                return f"({left} // {right})", INT
            if type(node.op) in _OPERATORS:
                return f"({left} {_OPERATORS[type(node.op)]} {right})", INT
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS:
            (left, a), (right, b) = self.typed(node.left, INT), self.typed(node.comparators[0], INT)
            if {a, b} & {VEC, QUAD}:
                raise self.error(node, "vectors are the business of formulas")
            return f"({left} {_COMPARISONS[type(node.ops[0])]} {right})", INT
        if isinstance(node, ast.Subscript):
            return f"part_{self.compute}({self.expression(node.value, QUAD)}, {self.expression(node.slice, INT)})", VEC
        if isinstance(node, ast.IfExp):
            test = self.condition(node.test)
            return f"({self.expression(node.body, INT)} if {test} else {self.expression(node.orelse, INT)})", INT
        if isinstance(node, ast.Call):
            return self.call(node)
        raise self.error(node, f"{type(node).__name__} is not part of the language of row kernels")

    def call(self, node: ast.Call, outs: Sequence[str] = ()) -> tuple[str, str]:
        if not isinstance(node.func, ast.Name) or node.keywords:
            raise self.error(node, "a call names a function and gives arguments by position")
        name = node.func.id
        extra: list[str] = []
        if name in SIGNED:
            extra = ["-INFINITY"] if name == "signed_some" else []
            name = SIGNED[name] + ("_negated" if self.instance.sign < 0 else "")
        elif name in self.each:
            name = self.each[name]
        if name in self.formulas:
            return self.formula(node, name, outs)
        elif name == "stack":
            extra = [str(self.module.constants["STACK"])]
        if name in PAIRS and self.compute == "f64":
            self.maps.append(("pair_add", VEC))
        template, _, each = name.partition("__")
        if template in self.module.functions:
            callee = self.module.functions[template]
            each = "__".join(self.each.get(part, part) for part in each.split("__"))
            kinds = [self.annotation(a.annotation) for a in callee.args.args]
            instance = Instance(template, each, self.instance.sign)
            self.instances.append(instance)
            results = self.results(callee)
            code, result = instance.name(self.compute), results[0]
        elif name in PRIMITIVES:
            types, result, code = PRIMITIVES[name]
            kinds, code = list(types), f"{code}_{self.compute}"
        elif name in PAIRS:
            types, result = PAIRS[name]
            kinds, code = list(types), f"{name}_{self.compute}"
        elif name in UNTYPED:
            types, result, code = UNTYPED[name]
            kinds = list(types)
        else:
            raise self.error(node, f"{name} is neither a formula, a primitive nor a function")
        if len(node.args) + len(extra) != len(kinds):
            raise self.error(node, f"{name} takes {len(kinds)} arguments")
        arguments = [self.expression(a, k) for a, k in zip(node.args, kinds)]
        return f"{code}({', '.join([*arguments, *extra, *outs])})", result

    def formula(self, node: ast.Call, name: str, outs: Sequence[str]) -> tuple[str, str]:
        found = [self.typed(a, VEC)[1] for a in node.args]
        kind = QUAD if QUAD in found else VEC
        formula = self.formulas[name]
        if len(node.args) != len(formula.parameters) or formula.results != max(1, len(outs)):
            raise self.error(node, f"{name} takes {len(formula.parameters)} and gives {formula.results}")
        self.maps.append((name, kind))
        arguments = [self.expression(a, kind) for a in node.args]
        return f"each_{name}_{kind.lower()}_{self.compute}({', '.join([*arguments, *outs])})", kind


def render_maps(maps: Sequence[tuple[str, str]], formulas: Mapping[str, Formula], compute: str) -> Iterator[str]:
    """Row formulas over Vec and Quad, part by part."""
    for name, kind in dict.fromkeys(maps):
        formula = formulas[name]
        vector = f"{kind.lower()}_{compute}"
        names = formula.parameters
        arguments = [f"{vector} {a}" for a in names]
        inner = f"{formula.symbol}_{compute}"
        if formula.results == 1:
            head = f"cdef inline {vector} each_{name}_{vector}({', '.join(arguments)}) noexcept nogil:"
            yield f"{head}\n    return MAP{len(names)}_{vector}({inner}, {', '.join(names)})\n"
        else:
            outs = [f"out{i}" for i in range(formula.results)]
            arguments += [f"{vector} *{o}" for o in outs]
            head = f"cdef inline void each_{name}_{vector}({', '.join(arguments)}) noexcept nogil:"
            yield f"{head}\n    PAIR{len(names)}_{vector}({inner}, {', '.join(names + outs)})\n"


def _sum_pairs_f64(module: Module) -> str:
    """The sums of pairs by the formula `pair_add`; those of float32 are in ``rows.h``."""
    lanes = step = int(module.constants["VECTOR"]) // SIZES["f64"]
    lines = ["cdef inline void sum_lanes_pair_f64(vec_f64 a, vec_f64 b, vec_f64 *out0, vec_f64 *out1) noexcept nogil:"]
    while step := step // 2:
        lines.append(f"each_pair_add_vec_f64(a, b, swap_f64(a, {step}), swap_f64(b, {step}), &a, &b)")
    lines += ["out0[0] = a", "out1[0] = b"]
    texts = ["\n    ".join(lines)]
    for name in ("across", "down"):
        given = "intptr_t p, intptr_t q, vec_f64 *out0, vec_f64 *out1"
        lines = [f"cdef inline void {name}_sum_pair_f64({given}) noexcept nogil:"]
        lines.append(f"cdef vec_f64 {', '.join(f'a{i}, b{i}' for i in range(lanes))}")
        for i in range(lanes):
            lines += [f"{v}{i} = row_load_f64({p} + {i * module.constants['VECTOR']})" for v, p in ("ap", "bq")]
        step = lanes
        while step := step // 2:
            for i in range(step):
                parts = [f"{part}_f64({v}{i}, {v}{i + step}, {step})" for part in ("lower", "upper") for v in "ab"]
                if name == "down":
                    parts = [f"{v}{j}" for j in (i, i + step) for v in "ab"]
                lines.append(f"each_pair_add_vec_f64({', '.join(parts)}, &a{i}, &b{i})")
        lines += ["out0[0] = a0", "out1[0] = b0"]
        texts.append("\n    ".join(lines))
    return "\n\n".join(texts) + "\n"


def render_declarations() -> str:
    """Declarations of what ``rows.h`` defines."""
    lines = ["cdef extern from 'rows.h' nogil:", "    int64_t floor_mod(int64_t a, int64_t b)"]
    lines += ["    int64_t load_int(intptr_t p)", "    void fence()", "    void prefetch(intptr_t p)"]
    lines += ["    intptr_t stack(int64_t bytes)"]
    for c in ("f32", "f64"):
        types = {ADDRESS: "intptr_t", INT: "int64_t", FLOAT: "double", NONE: "void", VEC: f"vec_{c}", QUAD: f"quad_{c}"}
        lines += [f"    ctypedef struct {types[VEC]}: pass", f"    ctypedef struct {types[QUAD]}: pass"]
        lines.append(f"    {types[QUAD]} widen_{c}({types[VEC]} v)")
        for arguments, result, name in PRIMITIVES.values():
            lines.append(f"    {types[result]} {name}_{c}({', '.join(types[a] for a in arguments)})")
        # macros: their first argument is the name of a function
        for n in range(1, 7):
            values = ", ".join([f"v{c}"] * n)
            lines.append(f"    ctypedef v{c} (*map{n}_{c})({values}) noexcept nogil")
            for vector in (types[VEC], types[QUAD]):
                lines.append(f"    {vector} MAP{n}_{vector}(map{n}_{c} f, {', '.join([vector] * n)})")
        for n in range(1, 5):
            values = ", ".join([f"v{c}"] * n + [f"v{c} *"] * 2)
            lines.append(f"    ctypedef void (*pair{n}_{c})({values}) noexcept nogil")
            for vector in (types[VEC], types[QUAD]):
                vectors = ", ".join([vector] * n + [f"{vector} *"] * 2)
                lines.append(f"    void PAIR{n}_{vector}(pair{n}_{c} f, {vectors})")
    lines.append("    void sum_lanes_pair_f32(vec_f32 high, vec_f32 low, vec_f32 *upper, vec_f32 *lower)")
    for name in ("across", "down"):
        lines.append(f"    void {name}_sum_pair_f32(intptr_t p, intptr_t q, vec_f32 *upper, vec_f32 *lower)")
    return "\n".join(lines) + "\n"


def render_rows(specs: Sequence[KernelSpec], module: Module, formulas: Mapping[str, Mapping[str, Formula]]) -> Rows:
    """Kernels over rows, and what they need from `render.render_module`.

    Parameters
    ----------
    specs : sequence of KernelSpec
    module : Module
        The parsed ``fastact.loops``.
    formulas : mapping
        ``"f32"`` and ``"f64"`` to the formulas of ``fastact/maths/rows.py``.
    """
    done: dict[str, dict[Instance, str]] = {compute: {} for compute in formulas}
    maps: dict[str, list[tuple[str, str]]] = {compute: [] for compute in formulas}
    table = {}
    for spec in specs:
        compute = DTYPES[spec.dtype].compute
        instance = Instance(spec.loop, "", spec.sign)
        _visit(instance, module, formulas[compute], compute, done[compute], maps[compute], kernel=True)
        table[spec.name, spec.dtype] = instance.name(compute)
    across = {c: [_sum_pairs_f64(module)] if c == "f64" and ("pair_add", VEC) in maps[c] else [] for c in maps}
    return Rows(
        render_declarations(),
        {c: [formulas[c][name] for name, _ in called] for c, called in maps.items()},
        {c: "\n".join([*render_maps(maps[c], formulas[c], c), *across[c], *done[c].values()]) for c in maps},
        table,
    )


def _visit(
    instance: Instance,
    module: Module,
    formulas: Mapping[str, Formula],
    compute: str,
    done: dict[Instance, str],
    maps: list[tuple[str, str]],
    kernel: bool = False,
) -> None:
    """Renders an instance into `done`, after those it calls; notes the formulas it calls in `maps`."""
    if instance in done:
        return
    function = _Function(module, formulas, instance, compute)
    text = function.render(kernel)
    maps += function.maps
    for callee in function.instances:
        _visit(callee, module, formulas, compute, done, maps)
    done[instance] = text
