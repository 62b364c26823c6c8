"""Elementwise kernels: one loop, compiled by Numba for the host, over any formula of the table."""

from __future__ import annotations

from itertools import product
from types import FunctionType
from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic

from fastact.backends.numba_cpu import simd
from fastact.backends.numba_cpu.emit import Emitter, Value, select_lanes
from fastact.maths.grammar import bind
from fastact.spec.kinds import KINDS, body

if TYPE_CHECKING:
    from fastact.spec.table import Op

SIGNATURE = types.void(types.intp, types.int64, types.intp, types.int64)

# stand-ins: `_specialise` gives the template its own
pointers: Any = None
fixed: Any = None
store_wide: Any = None
stream_wide: Any = None
store_one: Any = None
stream_one: Any = None
STEP = WIDE = 0


def loop(args, n, psteps, flags):  # type: ignore[no-untyped-def]
    p = pointers(args, psteps)
    whole = n - n % WIDE if fixed(p) else 0
    if flags & 1:
        for i in range(0, whole, WIDE):
            stream_wide(p, i)
        for i in range(whole, n, STEP):
            stream_one(p, i)
        simd.fence()
    else:
        for i in range(0, whole, WIDE):
            store_wide(p, i)
        for i in range(whole, n, STEP):
            store_one(p, i)


# Formulas are long chains of dependent operations, and a processor looks only so far ahead (on Zen 4 as far as it has
# vector registers to rename: 192, five vectors of sigmoid), so several vectors go side by side. Measured on Zen 4,
# AVX-512, data in the first-level cache: against one vector 4 to 16 % less time with four for formulas of LONG
# operations or more, where two give half of that; for shorter ones two are enough, four lost 2 % at 2^20 elements.
# Prefetching gained the long ones 3 to 9 % at 2^20 elements and cost the short ones, which wait for memory, as much.
LONG = 12
PREFETCH_BYTES = 512


def _operations(op: Op, kind: str, dtype: str, lanes: int, target: simd.Target) -> int:
    """How many instructions the formula of a kernel is."""
    nothing = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), ()), "counted")
    builder = ir.IRBuilder(nothing.append_basic_block())
    emit = Emitter(builder, dtype, lanes, target)
    values = [Value(emit, ir.Constant(emit.float, ir.Undefined)) for _ in range(KINDS[kind][0] + len(op.params))]
    body(bind(emit.primitives(), dtype), op, kind)(*values)
    return len(builder.block.instructions)


def _specialise(op: Op, kind: str, dtype: str) -> FunctionType:
    target = simd.host_target()
    compute = "float64" if dtype == "float64" else "float32"
    lanes = simd.lanes_for(compute, target)
    nin, nout = KINDS[kind]
    nparam = len(op.params)
    narg = nin + nparam + nout
    long = _operations(op, kind, compute, lanes, target) >= LONG
    wide = lanes * (4 if long and target.isa == "avx512" else 2)
    size = simd.element_bytes(simd.VecType(dtype, lanes))
    intp = ir.IntType(64)

    @intrinsic
    def pointers(typingctx: Any, args: Any, psteps: Any) -> Any:
        """Addresses of all arguments, then byte steps per element of the parameters, read once."""
        result = types.UniTuple(types.intp, narg + nparam)

        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
            found = []
            for base, count in ((values[0], narg), (values[1], nparam)):
                table = simd.pointer(builder, base, intp)
                found += [builder.load(builder.gep(table, [ir.Constant(intp, j)])) for j in range(count)]
            return context.make_tuple(builder, result, found)

        return result(types.intp, types.intp), codegen

    @intrinsic
    def fixed(typingctx: Any, p: Any) -> Any:
        """Whether every parameter is one value."""

        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
            steps: ir.Value = ir.Constant(intp, 0)
            for j in range(nparam):
                steps = builder.or_(steps, builder.extract_value(values[0], narg + j))
            return builder.icmp_unsigned("==", steps, ir.Constant(intp, 0))

        return types.boolean(p), codegen

    def mapper(width: int, *, stream: bool) -> Any:
        memory = simd.VecType(dtype, width)

        def typed(typingctx: Any, p: Any, i: Any) -> Any:
            def codegen(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
                table, index = values
                offset = builder.mul(index, ir.Constant(index.type, size))
                emit = Emitter(builder, compute, width, target)

                def address(j: int) -> ir.Value:
                    return builder.extract_value(table, j)

                def load(where: ir.Value, like: simd.VecType = memory, *, constant: bool = False) -> Value:
                    raw = simd.emit_load(builder, like, where)
                    if constant:
                        raw.set_metadata("invariant.load", builder.module.add_metadata([]))
                    return Value(emit, simd.emit_convert(builder, dtype, compute, like.lanes, raw))

                starts = [builder.add(address(j), offset) for j in range(nin)]
                if long:
                    for start, k in product(starts, range(0, width * size, 64)):
                        simd.emit_prefetch(builder, builder.add(start, ir.Constant(intp, PREFETCH_BYTES + k)))
                loaded = [load(start) for start in starts]
                for j in range(nin, nin + nparam):
                    if width == wide:
                        # a block of its own, which no output overlaps: loaded once, before the loop
                        one = load(address(j), simd.VecType(dtype, lanes), constant=True).ir
                        while one.type.count < wide:
                            one = select_lanes(builder, one, one, 0, 2 * one.type.count)
                        loaded.append(Value(emit, one))
                    else:
                        step = builder.mul(address(nparam + nout + j), offset)
                        loaded.append(load(builder.add(address(j), step)))
                outputs = body(bind(emit.primitives(), compute), op, kind)(*loaded)
                for j, output in enumerate(outputs):
                    packed = simd.emit_convert(builder, compute, dtype, width, emit.value(output).ir)
                    where = builder.add(address(nin + nparam + j), offset)
                    simd.emit_store(builder, memory, where, packed, stream=stream)
                return context.get_dummy_value()

            return types.void(p, types.intp), codegen

        return intrinsic(typed)

    env = {
        "pointers": pointers,
        "fixed": fixed,
        "store_wide": mapper(wide, stream=False),
        "stream_wide": mapper(wide, stream=True),
        "store_one": mapper(lanes, stream=False),
        "stream_one": mapper(lanes, stream=True),
        "STEP": lanes,
        "WIDE": wide,
        "simd": simd,
        "range": range,
        "__name__": __name__,
        "__builtins__": {},
    }
    return FunctionType(loop.__code__, env, f"{op.name}_{kind}_{dtype}")


def compile_kernel(op: Op, kind: str, dtype: str) -> str:
    """The optimised LLVM IR of a kernel, its only external symbol being the C function."""
    function = _specialise(op, kind, dtype)
    return cfunc(SIGNATURE, error_model="numpy", nogil=True)(function).inspect_llvm()
