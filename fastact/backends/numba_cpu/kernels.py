"""Elementwise kernels: one loop, compiled by Numba for the host, over any formula of the table."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from types import FunctionType
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target

from fastact.backends.numba_cpu import simd
from fastact.backends.numba_cpu.emit import BITS, Emitter, Target, Value, select_lanes
from fastact.backends.numba_cpu.simd import I64
from fastact.maths.grammar import bind
from fastact.spec.call import AHEAD_BYTES, COLS, DATA, FLAGS, ROW_STEP, ROWS, STEP, STREAM
from fastact.spec.kernel import KernelSpec

# stand-ins: `compile_kernel` gives the loop its own
length = fixed = store_wide = stream_wide = store_one = stream_one = None
ONE = WIDE = 0


def row_loop(call, starts, past):  # type: ignore[no-untyped-def]
    n = length(call)
    whole = n - n % WIDE if fixed(call) else 0
    if past:
        for i in range(0, whole, WIDE):
            stream_wide(call, starts, i)
        for i in range(whole, n, ONE):
            stream_one(call, starts, i)
    else:
        for i in range(0, whole, WIDE):
            store_wide(call, starts, i)
        for i in range(whole, n, ONE):
            store_one(call, starts, i)


def stored_row_loop(call, starts):  # type: ignore[no-untyped-def]
    n = length(call)
    whole = n - n % WIDE
    for i in range(0, whole, WIDE):
        store_wide(call, starts, i)
    for i in range(whole, n, ONE):
        store_one(call, starts, i)


# Formulas are long chains of dependent operations, and a processor looks only so far ahead (on Zen 4 as far as it has
# vector registers to rename: 192, five vectors of sigmoid), so several vectors go side by side. Measured on Zen 4,
# AVX-512, data in the first-level cache: against one vector 4 to 16 % less time with four for formulas of LONG
# operations or more, where two give half of that; for shorter ones two are enough, four lost 2 % at 2^20 elements.
# Prefetching cost the short ones, which wait for memory, 3 to 9 % at 2^20 elements.
# Formulas by tables are short chains, and their rare side is a branch for each vector: one at a time lost nothing with
# AVX-512 and gained 5 % with AVX2 (Intel Xeon).
LONG = 12


def operations(spec: KernelSpec, lanes: int, target: Target) -> tuple[int, bool]:
    """How many instructions the formula of a kernel is, and whether it has tables."""
    nothing = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), ()), "counted")
    builder = ir.IRBuilder(nothing.append_basic_block())
    emit = Emitter(builder, spec.compute, lanes, target)
    taken = len(spec.inputs) + len(spec.params)
    _outputs(spec, emit, [Value(emit, ir.Constant(emit.float, ir.Undefined))] * taken)
    return sum(len(block.instructions) for block in nothing.blocks), emit.tables


def _outputs(spec: KernelSpec, emit: Emitter, values: list[Value]) -> list[ir.Value]:
    outputs = spec.body(bind(emit.primitives(), spec.compute))(*values)
    return [emit.value(output).ir for output in outputs]


def _field(builder: ir.IRBuilder, call: ir.Value, offset: int) -> ir.Value:
    return simd.constant(builder, simd.load_int(builder, builder.add(call, ir.Constant(I64, offset))))


def row_function(spec: KernelSpec, loop: Any = row_loop) -> FunctionType:
    """`row_loop` of a kernel, or another loop: `stored_row_loop`, for parameters that are numbers."""
    target = simd.host_target()
    lanes = simd.lanes_for(spec.compute, target)
    count, tables = operations(spec, lanes, target)
    long = count >= LONG
    wide = lanes * (1 if tables else 4 if long and target.isa == "avx512" else 2)
    size = BITS[spec.dtype] // 8
    inputs = range(len(spec.inputs))
    params = range(len(inputs), len(inputs) + len(spec.params))
    outputs = range(params.stop, spec.narg)

    def length(builder: ir.IRBuilder, call: ir.Value) -> ir.Value:
        if long:
            # their constants do not fit in registers: without, most loads of those from the stack cross cache lines
            builder.function.attributes.alignstack = 64
            builder.function.attributes.add("nounwind")  # or llvmlite prints none
        return _field(builder, call, COLS)

    def fixed(builder: ir.IRBuilder, call: ir.Value) -> ir.Value:
        # whether every parameter is one value along a row
        steps: ir.Value = ir.Constant(I64, 0)
        for j in params:
            steps = builder.or_(steps, _field(builder, call, STEP + 8 * j))
        return builder.icmp_unsigned("==", steps, ir.Constant(I64, 0))

    def elements(width: int, store: Callable[..., Any], one_value: bool) -> Callable[..., None]:
        # computes `width` elements of a row, from element i on; parameters are one value along the row, or arrays
        def emitted(builder: ir.IRBuilder, call: ir.Value, starts: ir.Value, i: ir.Value) -> None:
            offset = builder.mul(i, ir.Constant(I64, size))
            emit = Emitter(builder, spec.compute, width, target)

            def start(j: int) -> ir.Value:
                return builder.extract_value(starts, j)

            def load(address: ir.Value) -> ir.Value:
                loaded = simd.load(builder, spec.dtype, width, address)
                return simd.convert(builder, spec.dtype, spec.compute, loaded)

            def load_fixed(address: ir.Value) -> ir.Value:
                # a block of its own, which no output overlaps
                one = simd.constant(builder, simd.load(builder, spec.dtype, lanes, address))
                one = simd.convert(builder, spec.dtype, spec.compute, one)
                while one.type.count < width:
                    one = select_lanes(builder, one, one, 0, 2 * one.type.count)
                return one

            sources = [builder.add(start(j), offset) for j in inputs]
            if long:
                for source, k in product(sources, range(0, width * size, 64)):
                    simd.prefetch(builder, builder.add(source, ir.Constant(I64, AHEAD_BYTES + k)), 3)
            values = [load(source) for source in sources]
            for j in params:
                if one_value:
                    values.append(load_fixed(start(j)))
                else:
                    step = _field(builder, call, STEP + 8 * j)
                    values.append(load(builder.add(start(j), builder.mul(step, i))))
            found = _outputs(spec, emit, [Value(emit, v) for v in values])
            for j, argument, value in zip(outputs, spec.outputs, found, strict=True):
                packed = simd.convert(builder, spec.compute, spec.dtype, value)
                # what is summed next stays in the cache
                kept = simd.store if argument.role == "sum_rows" else store
                kept(builder, spec.dtype, builder.add(start(j), offset), packed)

        return emitted

    emitters: dict[str, tuple[Any, int, Callable[..., Any]]] = {
        "length": (types.int64, 1, length),
        "fixed": (types.boolean, 1, fixed),
        "store_wide": (types.void, 3, elements(wide, simd.store, True)),
        "stream_wide": (types.void, 3, elements(wide, simd.stream, True)),
        "store_one": (types.void, 3, elements(lanes, simd.store, False)),
        "stream_one": (types.void, 3, elements(lanes, simd.stream, False)),
    }
    intrinsics = {name: _intrinsic(name, *rest) for name, rest in emitters.items()}
    return FunctionType(loop.__code__, {**globals(), **intrinsics, "ONE": lanes, "WIDE": wide}, spec.symbol)


def _intrinsic(name: str, result: Any, arity: int, emitted: Callable[..., Any]) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        value = emitted(builder, *args)
        return context.get_dummy_value() if result == types.void else value

    return simd.intrinsic_of(name, arity, lambda *args: (result(*args), codegen))


def _over_rows(row: Any) -> ir.Module:
    """The C function: the compiled `row_loop` for each row.

    A call, so that a loop over rows is none around the others: before it LLVM would load the constants of all of them
    (gelu of 16 elements took 34 ns instead of 13).
    """
    context = cpu_target.target_context
    module = context.create_module("rows")
    callee = context.declare_function(module, row)
    kernel = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64]), f"cfunc.{row.llvm_func_name}")
    builder = ir.IRBuilder(kernel.append_basic_block())
    call = kernel.args[0]
    past = builder.and_(_field(builder, call, FLAGS), ir.Constant(I64, STREAM))
    with cgutils.for_range(builder, _field(builder, call, ROWS)) as loop:
        starts = []
        for j in range(row.argtypes[1].count):
            step = builder.mul(loop.index, _field(builder, call, ROW_STEP + 8 * j))
            starts.append(builder.add(_field(builder, call, DATA + 8 * j), step))
        packed = context.make_tuple(builder, row.argtypes[1], starts)
        context.call_conv.call_function(builder, callee, row.restype, row.argtypes, [call, packed, past])
    with builder.if_then(builder.trunc(past, ir.IntType(1))):
        simd.fence(builder)
    builder.ret_void()
    return module


def compile_kernel(spec: KernelSpec) -> llvm.ModuleRef:
    """The optimised LLVM IR of a kernel; the C function's name begins with ``cfunc.``."""
    signature = types.void(types.intp, types.UniTuple(types.intp, spec.narg), types.int64)
    compiled = njit(signature, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(row_function(spec))
    (row,) = compiled.overloads.values()
    module = llvm.parse_assembly(row.library.get_llvm_str())
    module.link_in(llvm.parse_assembly(str(_over_rows(row.fndesc))))
    return module
