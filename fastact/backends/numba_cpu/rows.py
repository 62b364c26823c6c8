"""Row kernels compiled by Numba: the functions of ``fastact.loops`` over vectors of 64 bytes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType
from typing import Any, TypeAlias

import llvmlite.binding as llvm
from llvmlite import ir
from numba import cfunc, njit, types

from fastact import loops
from fastact.backends.numba_cpu import simd
from fastact.backends.numba_cpu.emit import BITS, I32, Emitter, Value
from fastact.backends.numba_cpu.simd import I64
from fastact.maths.grammar import bind_rows, row_formulas, row_results
from fastact.spec.kernel import KernelSpec

# the address of the call
SIGNATURE = types.void(types.intp)
# a function that kernels are made of: never called from Python
PART = {
    "error_model": "numpy",
    "nogil": True,
    "forceinline": True,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
PARTS = 4  # vectors of a quad

# the types in annotations of loops, here what they are in LLVM IR; a pair is the result of a few functions
Address: TypeAlias = ir.Value
Int: TypeAlias = ir.Value
Float: TypeAlias = ir.Value
Vec: TypeAlias = ir.Value
Quad: TypeAlias = list[ir.Value]
Pair: TypeAlias = list[ir.Value]
Combine = Callable[..., Any]


def lanes_of(dtype: str) -> int:
    """How many elements a `Vec` has."""
    return loops.VECTOR * 8 // BITS[dtype]


def numba_types(dtype: str) -> dict[str, Any]:
    """The same in Numba."""
    vec = simd.VecType(dtype, lanes_of(dtype))
    return {"Address": types.intp, "Int": types.int64, "Float": getattr(types, dtype), "Vec": vec,
            "Quad": types.UniTuple(vec, PARTS), "Pair": types.UniTuple(vec, 2), "None": types.void}  # fmt: skip


def parts_of(builder: ir.IRBuilder, quad: ir.Value) -> list[ir.Value]:
    """The vectors of a quad."""
    return [builder.extract_value(quad, j) for j in range(PARTS)]


def shuffled(builder: ir.IRBuilder, v: ir.Value, order: Iterable[int], w: ir.Value | None = None) -> ir.Value:
    """The lanes of v, or of v and then w, in some order."""
    other = ir.Constant(v.type, ir.Undefined) if w is None else w
    numbers = list(order)
    return builder.shuffle_vector(v, other, ir.Constant(ir.VectorType(I32, len(numbers)), numbers))


def _halves(lanes: int) -> Iterator[int]:
    while lanes > 1:
        lanes //= 2
        yield lanes


class Vectors:
    """The primitives of loops over rows, as LLVM IR that `builder` appends: a method for each, typed as there."""

    def __init__(self, builder: ir.IRBuilder, dtype: str, sign: int) -> None:
        self.builder, self.dtype, self.sign = builder, dtype, sign
        self.size, self.lanes = BITS[dtype] // 8, lanes_of(dtype)
        self.type = simd.vector(dtype, self.lanes)
        self.zero = ir.Constant(self.type, None)
        self.emit = Emitter(builder, dtype, self.lanes, simd.host_target())

    # memory

    def load(self, p: Address) -> Vec:
        return simd.load(self.builder, self.dtype, self.lanes, p)

    def load4(self, p: Address, apart: Int) -> Quad:
        return [self.load(q) for q in self._apart(p, apart)]

    def load_some(self, p: Address, count: Int, fill: Float) -> Vec:
        return self._load_first(p, count, self.splat(fill))

    def signed(self, p: Address) -> Vec:
        return self._signed(self.load(p))

    def signed4(self, p: Address, apart: Int) -> Quad:
        return [self._signed(v) for v in self.load4(p, apart)]

    def signed_some(self, p: Address, count: Int) -> Vec:
        return self._signed(self._load_first(p, count, ir.Constant(self.type, [-math.inf * self.sign] * self.lanes)))

    def store(self, p: Address, v: Vec) -> None:
        simd.store(self.builder, self.dtype, p, v)

    def store4(self, p: Address, quad: Quad, apart: Int) -> None:
        for q, v in zip(self._apart(p, apart), parts_of(self.builder, quad)):
            self.store(q, v)

    def store_some(self, p: Address, v: Vec, count: Int) -> None:
        pointer = simd.pointer(self.builder, p, self.type)
        self._masked("store", ir.VoidType(), v, pointer, ir.Constant(I32, self.size), self._first(count))

    def store_value(self, p: Address, v: Vec) -> None:
        value = self._lane0(v)
        self.builder.store(value, simd.pointer(self.builder, p, value.type), align=self.size)

    def stream(self, p: Address, v: Vec) -> None:
        simd.stream(self.builder, self.dtype, p, v)

    def fence(self) -> None:
        simd.fence(self.builder)

    def prefetch(self, p: Address) -> None:
        simd.prefetch(self.builder, p, 2)

    def stack(self) -> Address:
        with self.builder.goto_entry_block():
            memory = self.builder.alloca(ir.ArrayType(ir.IntType(8), loops.constants()["STACK"]))
        memory.align = loops.VECTOR
        return self.builder.ptrtoint(memory, I64)

    def splat(self, scalar: Float) -> Vec:
        return simd.splat(self.builder, scalar, self.lanes)

    def splat4(self, scalar: Float) -> Quad:
        return [self.splat(scalar)] * PARTS

    def load_int(self, p: Address) -> Int:
        return simd.load_int(self.builder, p)

    def load_value(self, p: Address) -> Vec:
        return self.splat(self._load_scalar(p, self.type.element))

    def number(self, i: Int) -> Vec:
        return self.splat(self.builder.sitofp(i, self.type.element))

    def load_param(self, p: Address) -> Vec:
        value = self._load_scalar(p, ir.DoubleType())
        return self.splat(value if self.dtype == "float64" else self.builder.fptrunc(value, ir.FloatType()))

    def _addresses(self, p: ir.Value, count: int) -> list[ir.Value]:
        return [self.builder.add(p, ir.Constant(p.type, j * loops.VECTOR)) for j in range(count)]

    def _apart(self, p: ir.Value, apart: ir.Value) -> list[ir.Value]:
        return [self.builder.add(p, self.builder.mul(apart, ir.Constant(I64, j))) for j in range(PARTS)]

    def _load_scalar(self, p: ir.Value, type_: ir.Type) -> ir.Value:
        return self.builder.load(simd.pointer(self.builder, p, type_))

    def _load_first(self, p: ir.Value, count: ir.Value, fill: ir.Value) -> ir.Value:
        pointer = simd.pointer(self.builder, p, self.type)
        return self._masked("load", self.type, pointer, ir.Constant(I32, self.size), self._first(count), fill)

    def _masked(self, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
        return simd.call(self.builder, f"llvm.masked.{name}.v{self.lanes}f{8 * self.size}.p0", result, *args)

    def _signed(self, v: ir.Value) -> ir.Value:
        return self.builder.fneg(v) if self.sign < 0 else v

    # lanes

    def without(self, v: Vec, lane: Int) -> Vec:
        return self.builder.select(self._numbers("==", lane), self.zero, v)

    def without4(self, quad: Quad, lane: Int) -> Quad:
        starts = (ir.Constant(I64, j * self.lanes) for j in range(PARTS))
        parts = parts_of(self.builder, quad)
        return [self.without(v, self.builder.sub(lane, start)) for v, start in zip(parts, starts)]

    def first_lanes(self, v: Vec, count: Int) -> Vec:
        return self.builder.select(self._first(count), v, self.zero)

    def less(self, a: Vec, b: Vec) -> Int:
        return self.builder.zext(self.builder.fcmp_ordered("<", self._lane0(a), self._lane0(b)), I64)

    def meets(self, a: Vec, b: Vec) -> Int:
        mask = self.builder.bitcast(self.builder.fcmp_ordered("==", a, b), ir.IntType(self.lanes))
        return self.builder.zext(self.builder.icmp_unsigned("!=", mask, ir.Constant(mask.type, 0)), I64)

    def _lane0(self, v: ir.Value) -> ir.Value:
        return self.builder.extract_element(v, ir.Constant(I32, 0))

    def _first(self, count: ir.Value) -> ir.Value:
        most = ir.Constant(I64, self.lanes)
        few = self.builder.icmp_signed("<", count, most)
        return self._numbers("<", self.builder.select(few, count, most))

    def _numbers(self, comparison: str, limit: ir.Value) -> ir.Value:
        # the number of each lane against a limit, in integers as wide as the lanes
        bits = ir.IntType(8 * self.size)
        limit = self.builder.trunc(limit, bits) if bits.width < 64 else limit
        numbers = ir.Constant(ir.VectorType(bits, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed(comparison, numbers, self.splat(limit))

    # combinations over lanes

    def gather4(self, quad: Quad) -> Vec:
        return self._tree(quad, self.builder.fadd)

    def greatest4(self, quad: Quad) -> Vec:
        return self._tree(quad, self._greater)

    def max_lanes(self, v: Vec) -> Vec:
        return self._over_lanes(self._greater, v)[0]

    def sum_lanes(self, v: Vec) -> Vec:
        return self._over_lanes(self.builder.fadd, v)[0]

    def sum_lanes_pair(self, high: Vec, low: Vec) -> Pair:
        if self.dtype == "float64":
            return self._over_lanes(self._pair_add, high, low)
        (total,) = self._over_lanes(self.builder.fadd, self._widened(high, low))
        lanes = [i % (self.lanes // 2) for i in range(self.lanes)]
        return [shuffled(self.builder, v, lanes) for v in self._narrowed(total)]

    def across_max(self, p: Address) -> Vec:
        return self._across(self._greater, self._rows(p))[0]

    def across_sum(self, p: Address) -> Vec:
        return self._across(self.builder.fadd, self._rows(p))[0]

    def across_sum_pair(self, p: Address, q: Address) -> Pair:
        if self.dtype == "float64":
            return self._across(self._pair_add, self._rows(p, q))
        rows = [[self._widened(*row)] for row in self._rows(p, q)]
        half = self.lanes // 2
        (low,), (high,) = (self._across(self.builder.fadd, part) for part in (rows[:half], rows[half:]))
        return self._narrowed(shuffled(self.builder, low, range(self.lanes), high))

    def down_sum(self, p: Address) -> Vec:
        return self._down(self.builder.fadd, self._rows(p))[0]

    def down_sum_pair(self, p: Address, q: Address) -> Pair:
        if self.dtype == "float64":
            return self._down(self._pair_add, self._rows(p, q))
        halves = []
        for start in (0, self.lanes // 2):
            wide = [[self._sum_of_halves(row, start)] for row in self._rows(p, q)]
            halves.append(self._narrowed(self._down(self.builder.fadd, wide)[0]))
        return [shuffled(self.builder, v, range(self.lanes), w) for v, w in zip(*halves)]

    def _greater(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.emit.maximum(Value(self.emit, a), Value(self.emit, b)).ir

    def _pair_add(self, *values: ir.Value) -> list[ir.Value]:
        pair_add = bind_rows(self.emit.primitives(), self.dtype)["pair_add"]
        return [v.ir for v in pair_add(*(Value(self.emit, v) for v in values))]

    def _tree(self, quad: ir.Value, combine: Combine) -> ir.Value:
        a, b, c, d = parts_of(self.builder, quad)
        return combine(combine(a, b), combine(c, d))

    def _over_lanes(self, combine: Combine, *values: ir.Value) -> list[ir.Value]:
        # of one value in a vector, or of one in two parts
        found = list(values)
        lanes = values[0].type.count
        for step in _halves(lanes):
            swapped = [shuffled(self.builder, v, [i ^ step for i in range(lanes)]) for v in found]
            found = _listed(combine(*found, *swapped))
        return found

    def _rows(self, *starts: ir.Value) -> list[list[ir.Value]]:
        # the vectors at p, and those at q
        return [[self.load(p) for p in row] for row in zip(*(self._addresses(p, self.lanes) for p in starts))]

    def _across(self, combine: Combine, rows: list[list[ir.Value]]) -> list[ir.Value]:
        # in lane i the combination over the lanes of row i, for as many rows as lanes
        lanes = range(len(rows))
        for step in _halves(len(rows)):
            first = [i if not i & step else i - step + len(lanes) for i in lanes]
            second = [i + step if not i & step else i + len(lanes) for i in lanes]
            pairs = [list(zip(rows[j], rows[j + step])) for j in range(step)]
            rows = [
                _listed(combine(*(shuffled(self.builder, u, order, w) for order in (first, second) for u, w in pair)))
                for pair in pairs
            ]
        return rows[0]

    def _down(self, combine: Combine, rows: list[list[ir.Value]]) -> list[ir.Value]:
        # the combination of rows, lane by lane, in the order in which `_across` combines lanes
        for step in _halves(len(rows)):
            rows = [_listed(combine(*rows[j], *rows[j + step])) for j in range(step)]
        return rows[0]

    def _widened(self, *vectors: ir.Value) -> ir.Value:
        # their sum in float64, then of lanes i and i + 8
        return self.builder.fadd(*(self._sum_of_halves(vectors, start) for start in (0, self.lanes // 2)))

    def _sum_of_halves(self, vectors: Iterable[ir.Value], start: int) -> ir.Value:
        # of half the lanes from `start` on, in float64
        half = self.lanes // 2
        wide = ir.VectorType(ir.DoubleType(), half)
        parts = (shuffled(self.builder, v, range(start, start + half)) for v in vectors)
        return functools.reduce(self.builder.fadd, [self.builder.fpext(part, wide) for part in parts])

    def _narrowed(self, wide: ir.Value) -> list[ir.Value]:
        # a float64 vector as the sum of two of float32
        narrow = ir.VectorType(ir.FloatType(), wide.type.count)
        upper = self.builder.fptrunc(wide, narrow)
        rest = self.builder.fsub(wide, self.builder.fpext(upper, wide.type))
        return [upper, self.builder.fptrunc(rest, narrow)]


def _listed(values: Any) -> list[ir.Value]:
    return values if isinstance(values, list) else [values]


def _primitive(name: str, dtype: str, sign: int) -> Any:
    """A primitive as a Numba intrinsic."""
    named = numba_types(dtype)
    *taken, result = (named[word] for word in getattr(Vectors, name).__annotations__.values())

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
        made = getattr(Vectors(builder, dtype, sign), name)(*values)
        if result == types.void:
            return context.get_dummy_value()
        return context.make_tuple(builder, result, made) if isinstance(made, list) else made

    return simd.intrinsic_of(name, len(taken), lambda *_: (result(*taken), codegen))


def _formula(formula: FunctionType, dtype: str) -> Any:
    """A row formula over vectors and quads; of a quad, as many parts at once as leave registers for all steps."""
    name, arity, results = formula.__name__, formula.__code__.co_argcount, row_results()[formula.__name__]
    vec, quad = (numba_types(dtype)[word] for word in ("Vec", "Quad"))
    lanes, target = lanes_of(dtype), simd.host_target()
    # two chains of operations side by side: 4 % (Zen 4, softmax of 1024 float32); four do not fit in 32 registers
    together = 2 if target.isa == "avx512" else 1

    def emitted(builder: ir.IRBuilder, values: list[ir.Value]) -> list[ir.Value]:
        emit = Emitter(builder, dtype, values[0].type.count, target)
        found = bind_rows(emit.primitives(), dtype)[name](*(Value(emit, v) for v in values))
        return [emit.value(v).ir for v in (found if isinstance(found, tuple) else (found,))]

    def over_quads(builder: ir.IRBuilder, columns: list[list[ir.Value]]) -> list[list[ir.Value]]:
        found: list[list[ir.Value]] = [[] for _ in range(results)]
        for j in range(0, PARTS, together):
            some = [column[j : j + together] for column in columns]
            if together == 1:
                wide = emitted(builder, [v for (v,) in some])
            else:
                wide = emitted(builder, [shuffled(builder, v, range(2 * lanes), w) for v, w in some])
            for column, value in zip(found, wide):
                for start in range(0, together * lanes, lanes):
                    column.append(shuffled(builder, value, range(start, start + lanes)))
        return found

    def typed(*args: Any) -> Any:
        if any(a not in (vec, quad) for a in args):
            return None
        one = quad if quad in args else vec
        result = one if results == 1 else types.UniTuple(one, results)

        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
            if one == quad:
                columns = [parts_of(builder, v) if t == quad else [v] * PARTS for t, v in zip(sig.args, values)]
                made = [context.make_tuple(builder, quad, column) for column in over_quads(builder, columns)]
            else:
                made = emitted(builder, list(values))
            return made[0] if results == 1 else context.make_tuple(builder, result, made)

        return result(*args), codegen

    return simd.intrinsic_of(name, arity, typed)


def kernel_function(spec: KernelSpec) -> FunctionType:
    """A row kernel as a function for Numba to compile."""
    functions, formulas = loops.functions(), row_formulas()
    lanes = lanes_of(spec.dtype)
    env: dict[str, Any] = dict(loops.constants())
    env.update(
        __name__=__name__, __builtins__={}, INF=math.inf, SIGN=float(spec.sign), LANES=lanes, QUAD=PARTS * lanes,
        GROUP=2 * PARTS * lanes, SIZE=loops.VECTOR // lanes,
        **{name: _primitive(name, spec.dtype, spec.sign) for name in vars(Vectors) if not name.startswith("_")},
    )  # fmt: skip

    @functools.cache
    def formula(used: str) -> Any:
        return _formula(formulas[used], spec.dtype)

    def build(called: str) -> FunctionType:
        template, *given = called.split("__")
        each = dict(zip(("each", "each2"), given))
        own = {**env, **{name: formula(used) for name, used in each.items()}}
        for used in functions[template].__code__.co_names:
            if used in own:
                continue
            if used in formulas:
                own[used] = formula(used)
                continue
            callee = "__".join(each.get(part, part) for part in used.split("__"))
            if callee not in env:
                env[callee] = njit(**PART)(build(callee))
            own[used] = env[callee]
        return FunctionType(functions[template].__code__, own, called)

    main = build(spec.loop)
    main.__qualname__ = main.__name__ = spec.symbol
    return main


def compile_kernel(spec: KernelSpec) -> llvm.ModuleRef:
    """The optimised LLVM IR of a row kernel; the C function's name begins with ``cfunc.``."""
    compiled = cfunc(SIGNATURE, error_model="numpy", nogil=True)(kernel_function(spec))
    return llvm.parse_assembly(compiled.inspect_llvm())
