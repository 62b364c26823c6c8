"""Elementwise kernels: one loop, compiled by Numba for the host, over any formula of the table."""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic

from fastact.backends.numba_cpu import simd
from fastact.backends.numba_cpu.emit import Emitter, Value
from fastact.bind import bind
from fastact.kinds import KINDS, body

if TYPE_CHECKING:
    from fastact.table import Op

SIGNATURE = types.void(types.intp, types.int64, types.intp, types.int64)

# stand-ins: `_specialise` gives the template its own
pointers: Any = None
map_store: Any = None
map_stream: Any = None
STEP = 0


def loop(args, n, psteps, flags):  # type: ignore[no-untyped-def]
    p = pointers(args, psteps)
    if flags & 1:
        for i in range(0, n, STEP):
            map_stream(p, i)
        simd.fence()
    else:
        for i in range(0, n, STEP):
            map_store(p, i)


def _specialise(op: Op, kind: str, dtype: str) -> FunctionType:
    target = simd.host_target()
    compute = "float64" if dtype == "float64" else "float32"
    lanes = simd.lanes_for(compute, target)
    memory = simd.VecType(dtype, lanes)
    size = simd.element_bytes(memory)
    nin, nout = KINDS[kind]
    nparam = len(op.params)
    narg = nin + nparam + nout

    @intrinsic
    def pointers(typingctx: Any, args: Any, psteps: Any) -> Any:
        """Addresses of all arguments, then byte steps per element of the parameters, read once."""
        result = types.UniTuple(types.intp, narg + nparam)

        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
            intp = ir.IntType(64)
            found = []
            for base, count in ((values[0], narg), (values[1], nparam)):
                table = simd.pointer(builder, base, intp)
                found += [builder.load(builder.gep(table, [ir.Constant(intp, j)])) for j in range(count)]
            return context.make_tuple(builder, result, found)

        return result(types.intp, types.intp), codegen

    def mapper(stream: bool) -> Any:
        def typed(typingctx: Any, p: Any, i: Any) -> Any:
            def codegen(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
                table, index = values
                offset = builder.mul(index, ir.Constant(index.type, size))
                emit = Emitter(builder, compute, lanes, target)

                def address(j: int) -> ir.Value:
                    return builder.extract_value(table, j)

                def load(where: ir.Value) -> Value:
                    raw = simd.emit_load(builder, memory, where)
                    return Value(emit, simd.emit_convert(builder, dtype, compute, lanes, raw))

                loaded = [load(builder.add(address(j), offset)) for j in range(nin)]
                for j in range(nparam):
                    step = builder.mul(address(narg + j), offset)
                    loaded.append(load(builder.add(address(nin + j), step)))
                outputs = body(bind(emit.primitives(), compute), op, kind)(*loaded)
                for j, output in enumerate(outputs):
                    packed = simd.emit_convert(builder, compute, dtype, lanes, emit.value(output).ir)
                    where = builder.add(address(nin + nparam + j), offset)
                    simd.emit_store(builder, memory, where, packed, stream=stream)
                return context.get_dummy_value()

            return types.void(p, types.intp), codegen

        return intrinsic(typed)

    env = {"pointers": pointers, "map_store": mapper(False), "map_stream": mapper(True), "STEP": lanes, "simd": simd,
           "range": range, "__name__": __name__, "__builtins__": {}}  # fmt: skip
    return FunctionType(loop.__code__, env, f"{op.name}_{kind}_{dtype}")


def compile_kernel(op: Op, kind: str, dtype: str) -> str:
    """The optimised LLVM IR of a kernel, its only external symbol being the C function."""
    function = _specialise(op, kind, dtype)
    return cfunc(SIGNATURE, error_model="numpy", nogil=True)(function).inspect_llvm()
