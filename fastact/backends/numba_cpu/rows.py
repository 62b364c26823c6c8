"""Row kernels compiled by Numba: the functions of ``row_kernels`` over vectors of 64 bytes."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any

from llvmlite import ir
from numba import cfunc, njit, types

from fastact.backends.numba_cpu import simd
from fastact.backends.numba_cpu.emit import BITS, Emitter, Value
from fastact.backends.numba_cpu.simd import I32, I64
from fastact.loops import rows as loops
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


class Vectors:
    """The names that row kernels use, for one dtype and sign, as Numba intrinsics."""

    def __init__(self, dtype: str, sign: int) -> None:
        self.dtype = dtype
        self.sign = sign
        self.size = BITS[dtype] // 8
        self.lanes = loops.VECTOR // self.size
        self.vec = simd.VecType(dtype, self.lanes)
        self.quad = types.UniTuple(self.vec, PARTS)
        self.type = simd.vector(dtype, self.lanes)
        self.target = simd.host_target()

    def emitter(self, builder: ir.IRBuilder) -> Emitter:
        return Emitter(builder, self.dtype, self.lanes, self.target)

    def parts(self, builder: ir.IRBuilder, quad: ir.Value) -> list[ir.Value]:
        return [builder.extract_value(quad, j) for j in range(PARTS)]

    def at(self, builder: ir.IRBuilder, p: ir.Value, j: int) -> ir.Value:
        return builder.add(p, ir.Constant(p.type, j * loops.VECTOR)) if j else p

    def signed(self, builder: ir.IRBuilder, v: ir.Value) -> ir.Value:
        return builder.fneg(v) if self.sign < 0 else v

    def joined(self, builder: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
        if len(parts) == 1:
            return parts[0]
        return self.shuffled(builder, parts[0], range(2 * self.lanes), parts[1])

    def taken_apart(self, builder: ir.IRBuilder, v: ir.Value, parts: int) -> list[ir.Value]:
        if parts == 1:
            return [v]
        return [self.shuffled(builder, v, range(start, start + self.lanes)) for start in (0, self.lanes)]

    def first(self, builder: ir.IRBuilder, count: ir.Value) -> ir.Value:
        bits = ir.IntType(8 * self.size)
        most = ir.Constant(I64, self.lanes)
        count = builder.select(builder.icmp_signed("<", count, most), count, most)
        count = builder.trunc(count, bits) if bits.width < 64 else count
        numbers = ir.Constant(ir.VectorType(bits, self.lanes), list(range(self.lanes)))
        return builder.icmp_signed("<", numbers, simd.splat(builder, count, self.lanes))

    def load(self, builder: ir.IRBuilder, p: ir.Value) -> ir.Value:
        return simd.load(builder, self.dtype, self.lanes, p)

    def masked(self, name: str) -> str:
        return f"llvm.masked.{name}.v{self.lanes}f{8 * self.size}.p0"

    def load_some(self, builder: ir.IRBuilder, p: ir.Value, count: ir.Value, fill: ir.Value) -> ir.Value:
        align = ir.Constant(I32, self.size)
        args = simd.pointer(builder, p, self.type), align, self.first(builder, count), fill
        return simd.call(builder, self.masked("load"), self.type, *args)

    def without(self, builder: ir.IRBuilder, v: ir.Value, lane: ir.Value) -> ir.Value:
        bits = ir.IntType(8 * self.size)
        lane = builder.trunc(lane, bits) if bits.width < 64 else lane
        numbers = ir.Constant(ir.VectorType(bits, self.lanes), list(range(self.lanes)))
        mask = builder.icmp_signed("==", numbers, simd.splat(builder, lane, self.lanes))
        return builder.select(mask, ir.Constant(self.type, None), v)

    def across(self, builder: ir.IRBuilder, v: ir.Value, combine: Callable[[Value, Value], Value]) -> ir.Value:
        emit = self.emitter(builder)
        step = self.lanes // 2
        while step:
            v = combine(Value(emit, v), Value(emit, self.swapped(builder, v, step))).ir
            step //= 2
        return v

    def swapped(self, builder: ir.IRBuilder, v: ir.Value, step: int) -> ir.Value:
        order = ir.Constant(ir.VectorType(I32, self.lanes), [i ^ step for i in range(self.lanes)])
        return builder.shuffle_vector(v, ir.Constant(self.type, ir.Undefined), order)

    def across_pair(self, builder: ir.IRBuilder, high: ir.Value, low: ir.Value) -> list[ir.Value]:
        if self.dtype == "float32":
            return self.across_wide(builder, high, low)
        emit = self.emitter(builder)
        pair_add = bind_rows(emit.primitives(), self.dtype)["pair_add"]
        pair = [high, low]
        step = self.lanes // 2
        while step:
            both = [*pair, *(self.swapped(builder, v, step) for v in pair)]
            pair = [v.ir for v in pair_add(*(Value(emit, v) for v in both))]
            step //= 2
        return pair

    def across_wide(self, builder: ir.IRBuilder, high: ir.Value, low: ir.Value) -> list[ir.Value]:
        half = self.lanes // 2
        total = self.halves_added(builder, high, low)
        step = half // 2
        while step:
            total = builder.fadd(total, self.shuffled(builder, total, [i ^ step for i in range(half)]))
            step //= 2
        return [self.shuffled(builder, v, range(self.lanes)) for v in self.split(builder, total)]

    def fold(self, builder: ir.IRBuilder, rows: list[list[ir.Value]], combine: Callable[..., list[ir.Value]]) -> Any:
        """In lane i the combination over the lanes of row i, for as many rows as lanes; a row is one value or more."""
        step = len(rows) // 2
        while step:
            lanes = range(rows[0][0].type.count)
            first = [i if not i & step else i - step + len(lanes) for i in lanes]
            second = [i + step if not i & step else i + len(lanes) for i in lanes]

            def part(u: ir.Value, w: ir.Value, order: list[int]) -> ir.Value:
                return builder.shuffle_vector(u, w, ir.Constant(ir.VectorType(I32, len(order)), order))

            rows = [
                combine(*([part(u, w, order) for u, w in zip(rows[j], rows[j + step])] for order in (first, second)))
                for j in range(step)
            ]
            step //= 2
        return rows[0]

    def across_rows(self, builder: ir.IRBuilder, p: ir.Value, combine: Callable[[Value, Value], Value]) -> ir.Value:
        emit = self.emitter(builder)
        rows = [[self.load(builder, self.at(builder, p, j))] for j in range(self.lanes)]
        return self.fold(builder, rows, lambda u, w: [combine(Value(emit, u[0]), Value(emit, w[0])).ir])[0]

    def across_rows_pair(self, builder: ir.IRBuilder, p: ir.Value, q: ir.Value) -> list[ir.Value]:
        rows = [[self.load(builder, self.at(builder, a, j)) for a in (p, q)] for j in range(self.lanes)]
        if self.dtype == "float32":
            half = self.lanes // 2
            wide = [[self.halves_added(builder, *row)] for row in rows]

            def add(u: list[ir.Value], w: list[ir.Value]) -> list[ir.Value]:
                return [builder.fadd(u[0], w[0])]

            low, high = (self.fold(builder, wide[start : start + half], add)[0] for start in (0, half))
            return self.split(builder, self.shuffled(builder, low, range(self.lanes), high))
        emit = self.emitter(builder)
        pair_add = bind_rows(emit.primitives(), self.dtype)["pair_add"]

        def add_pairs(u: list[ir.Value], w: list[ir.Value]) -> list[ir.Value]:
            return [v.ir for v in pair_add(*(Value(emit, v) for v in [*u, *w]))]

        return self.fold(builder, rows, add_pairs)

    def shuffled(self, builder: ir.IRBuilder, v: ir.Value, order: Iterable[int], w: ir.Value | None = None) -> ir.Value:
        numbers = list(order) if w is not None else [i % v.type.count for i in order]
        mask = ir.Constant(ir.VectorType(I32, len(numbers)), numbers)
        return builder.shuffle_vector(v, ir.Constant(v.type, ir.Undefined) if w is None else w, mask)

    def halves_added(self, builder: ir.IRBuilder, *vectors: ir.Value) -> ir.Value:
        """The sum of the vectors in float64, then of lanes i and i + 8."""
        half = self.lanes // 2
        wide = ir.VectorType(ir.DoubleType(), half)
        sums = []
        for start in (0, half):
            parts = [builder.fpext(self.shuffled(builder, v, range(start, start + half)), wide) for v in vectors]
            sums.append(functools.reduce(builder.fadd, parts))
        return builder.fadd(*sums)

    def split(self, builder: ir.IRBuilder, wide: ir.Value) -> list[ir.Value]:
        """A float64 vector as the sum of two of float32."""
        narrow = ir.VectorType(ir.FloatType(), wide.type.count)
        upper = builder.fptrunc(wide, narrow)
        return [upper, builder.fptrunc(builder.fsub(wide, builder.fpext(upper, wide.type)), narrow)]

    def tree(self, builder: ir.IRBuilder, quad: ir.Value, combine: Callable[[Value, Value], Value]) -> ir.Value:
        emit = self.emitter(builder)
        a, b, c, d = (Value(emit, v) for v in self.parts(builder, quad))
        return combine(combine(a, b), combine(c, d)).ir

    def primitives(self) -> dict[str, Any]:
        """Everything but formulas, by name."""
        vec, quad, intp, i64 = self.vec, self.quad, types.intp, types.int64
        none = types.void
        scalar = getattr(types, self.dtype)

        def four(each: Callable[..., ir.Value]) -> Callable[..., list[ir.Value]]:
            return lambda b, p: [each(b, self.at(b, p, j)) for j in range(PARTS)]

        def store4(b: ir.IRBuilder, p: ir.Value, v: ir.Value) -> None:
            for j, part in enumerate(self.parts(b, v)):
                simd.store(b, self.dtype, self.at(b, p, j), part)

        def store_some(b: ir.IRBuilder, p: ir.Value, v: ir.Value, count: ir.Value) -> None:
            pointer = simd.pointer(b, p, self.type)
            args = v, pointer, ir.Constant(I32, self.size), self.first(b, count)
            simd.call(b, self.masked("store"), ir.VoidType(), *args)

        def signed_some(b: ir.IRBuilder, p: ir.Value, count: ir.Value) -> ir.Value:
            fill = ir.Constant(self.type, [-math.inf * self.sign] * self.lanes)
            return self.signed(b, self.load_some(b, p, count, fill))

        def store_value(b: ir.IRBuilder, p: ir.Value, v: ir.Value) -> None:
            first = b.extract_element(v, ir.Constant(I32, 0))
            b.store(first, simd.pointer(b, p, first.type), align=self.size)

        def stack(b: ir.IRBuilder) -> ir.Value:
            with b.goto_entry_block():
                memory = b.alloca(ir.ArrayType(ir.IntType(8), loops.STACK))
            memory.align = loops.VECTOR
            return b.ptrtoint(memory, I64)

        def load_scalar(b: ir.IRBuilder, p: ir.Value, type_: ir.Type) -> ir.Value:
            return b.load(simd.pointer(b, p, type_))

        def load_param(b: ir.IRBuilder, p: ir.Value) -> ir.Value:
            value = load_scalar(b, p, ir.DoubleType())
            return self.splat(b, value if self.dtype == "float64" else b.fptrunc(value, ir.FloatType()))

        def without4(b: ir.IRBuilder, v: ir.Value, lane: ir.Value) -> list[ir.Value]:
            return [self.without(b, part, b.sub(lane, ir.Constant(I64, j * self.lanes)))
                    for j, part in enumerate(self.parts(b, v))]  # fmt: skip

        def less(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
            zero = ir.Constant(I32, 0)
            return b.zext(b.fcmp_ordered("<", b.extract_element(x, zero), b.extract_element(y, zero)), I64)

        def meets(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
            mask = b.bitcast(b.fcmp_ordered("==", x, y), ir.IntType(self.lanes))
            return b.zext(b.icmp_unsigned("!=", mask, ir.Constant(mask.type, 0)), I64)

        def plus(x: Value, y: Value) -> Value:
            return x + y

        def greater(x: Value, y: Value) -> Value:
            return x.emitter.maximum(x, y)

        emitters: dict[str, tuple[Any, tuple[Any, ...], Callable[..., Any]]] = {
            "load": (vec, (intp,), self.load),
            "load4": (quad, (intp,), four(self.load)),
            "load_some": (vec, (intp, i64, scalar),
                          lambda b, p, n, fill: self.load_some(b, p, n, self.splat(b, fill))),
            "signed": (vec, (intp,), lambda b, p: self.signed(b, self.load(b, p))),
            "signed4": (quad, (intp,), four(lambda b, p: self.signed(b, self.load(b, p)))),
            "signed_some": (vec, (intp, i64), signed_some),
            "store": (none, (intp, vec), lambda b, p, v: simd.store(b, self.dtype, p, v)),
            "store4": (none, (intp, quad), store4),
            "store_some": (none, (intp, vec, i64), store_some),
            "store_value": (none, (intp, vec), store_value),
            "prefetch": (none, (intp,), lambda b, p: simd.prefetch(b, p, 2)),
            "stack": (intp, (), stack),
            "stream": (none, (intp, vec), lambda b, p, v: simd.stream(b, self.dtype, p, v)),
            "fence": (none, (), simd.fence),
            "splat": (vec, (scalar,), self.splat),
            "splat4": (quad, (scalar,), lambda b, s: [self.splat(b, s)] * PARTS),
            "load_int": (i64, (intp,), simd.load_int),
            "load_value": (vec, (intp,), lambda b, p: self.splat(b, load_scalar(b, p, self.type.element))),
            "load_param": (vec, (intp,), load_param),
            "gather4": (vec, (quad,), lambda b, v: self.tree(b, v, plus)),
            "greatest4": (vec, (quad,), lambda b, v: self.tree(b, v, greater)),
            "max_lanes": (vec, (vec,), lambda b, v: self.across(b, v, greater)),
            "sum_lanes": (vec, (vec,), lambda b, v: self.across(b, v, plus)),
            "sum_lanes_pair": (types.UniTuple(vec, 2), (vec, vec), self.across_pair),
            "across_max": (vec, (intp,), lambda b, p: self.across_rows(b, p, greater)),
            "across_sum": (vec, (intp,), lambda b, p: self.across_rows(b, p, plus)),
            "across_sum_pair": (types.UniTuple(vec, 2), (intp, intp), self.across_rows_pair),
            "without": (vec, (vec, i64), self.without),
            "without4": (quad, (quad, i64), without4),
            "first_lanes": (vec, (vec, i64),
                            lambda b, v, n: b.select(self.first(b, n), v, ir.Constant(self.type, None))),
            "less": (i64, (vec, vec), less),
            "meets": (i64, (vec, vec), meets),
        }  # fmt: skip
        return {name: _intrinsic(name, *rest) for name, rest in emitters.items()}

    def splat(self, builder: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
        return simd.splat(builder, scalar, self.lanes)

    def formula(self, formula: FunctionType) -> Any:
        """A row formula over vectors and quads; of a quad, as many parts at once as leave registers for all steps."""
        name, arity = formula.__name__, formula.__code__.co_argcount
        nout = row_results()[name]

        # two chains of operations side by side: 4 % (Zen 4, softmax of 1024 float32); four do not fit in 32 registers
        together = 2 if self.target.isa == "avx512" else 1

        def once(builder: ir.IRBuilder, args: list[ir.Value], parts: int = 1) -> list[ir.Value]:
            emit = Emitter(builder, self.dtype, parts * self.lanes, self.target)
            found = bind_rows(emit.primitives(), self.dtype)[name](*(Value(emit, a) for a in args))
            return [emit.value(v).ir for v in (found if isinstance(found, tuple) else (found,))]

        def typed(*args: Any) -> Any:
            if any(a not in (self.vec, self.quad) for a in args):
                return None
            is_quad = self.quad in args
            one = self.quad if is_quad else self.vec
            result = one if nout == 1 else types.UniTuple(one, nout)

            def codegen(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
                if is_quad:
                    pairs = zip(sig.args, values)
                    split = [self.parts(builder, v) if t == self.quad else [v] * PARTS for t, v in pairs]
                    found: list[list[ir.Value]] = [[] for _ in range(nout)]
                    for j in range(0, PARTS, together):
                        args = [self.joined(builder, s[j : j + together]) for s in split]
                        for column, wide in zip(found, once(builder, args, together)):
                            column += self.taken_apart(builder, wide, together)
                    made = [context.make_tuple(builder, self.quad, column) for column in found]
                else:
                    made = once(builder, list(values))
                return made[0] if nout == 1 else context.make_tuple(builder, result, made)

            return result(*args), codegen

        return simd.intrinsic_of(name, arity, typed)


def _intrinsic(name: str, result: Any, expected: tuple[Any, ...], emit: Callable[..., Any]) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
        made = emit(builder, *values)
        if result == types.void:
            return context.get_dummy_value()
        return context.make_tuple(builder, result, made) if isinstance(made, list) else made

    return simd.intrinsic_of(name, len(expected), lambda *_: (result(*expected), codegen))


def kernel_function(spec: KernelSpec) -> FunctionType:
    """A row kernel as a function for Numba to compile."""
    vectors = Vectors(spec.dtype, spec.sign)
    functions = {n: f for n, f in vars(loops).items() if inspect.isfunction(f)}
    formulas = row_formulas()
    env: dict[str, Any] = {n: v for n, v in vars(loops).items() if n.isupper()}
    env.update(
        __name__=__name__, __builtins__={}, INF=math.inf, SIGN=float(spec.sign), LANES=vectors.lanes,
        QUAD=PARTS * vectors.lanes, GROUP=2 * PARTS * vectors.lanes, SIZE=vectors.size, **vectors.primitives(),
    )  # fmt: skip
    traced: dict[str, Any] = {}

    def formula(used: str) -> Any:
        if used not in traced:
            traced[used] = vectors.formula(formulas[used])
        return traced[used]

    def build(called: str) -> FunctionType:
        template, *given = called.split("__")
        each = dict(zip(("each", "each2"), given))
        own = {**env, **{name: formula(used) for name, used in each.items()}}
        for used in functions[template].__code__.co_names:
            if used in own:
                continue
            if used in formulas:
                own[used] = env[used] = formula(used)
                continue
            callee = "__".join(each.get(part, part) for part in used.split("__"))
            if callee not in env:
                env[callee] = njit(**PART)(build(callee))
            own[used] = env[callee]
        return FunctionType(functions[template].__code__, own, called)

    main = build(spec.loop)
    main.__qualname__ = main.__name__ = spec.symbol
    return main


def compile_kernel(spec: KernelSpec) -> str:
    """The optimised LLVM IR of a row kernel, its only external symbol being the C function."""
    return cfunc(SIGNATURE, error_model="numpy", nogil=True)(kernel_function(spec)).inspect_llvm()
