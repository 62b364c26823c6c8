"""Vectors in memory: their LLVM IR, and a Numba type for what loops hand on.

Addresses are integers (`intp`). LLVM legalises any number of lanes for the host, so code written for 64 bytes runs
everywhere; `lanes_for` gives the width at which it needs no splitting.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import cgutils, config, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, register_model

from fastact.backends.numba_cpu.emit import BITS, FLOAT, I32, Target

I64 = ir.IntType(64)


@cache
def host_target() -> Target:
    """The features that Numba compiles for (`NUMBA_CPU_FEATURES` respected)."""
    text = config.CPU_FEATURES
    return Target.of(cpu_target.target_context.codegen()._get_host_cpu_features() if text is None else text)


def lanes_for(dtype: str, target: Target) -> int:
    """How many elements of `dtype` a vector register of the host holds."""
    return 8 * target.bytes // BITS[dtype]


def vector(dtype: str, lanes: int) -> ir.VectorType:
    """A bfloat16 is 16 bits to LLVM here."""
    return ir.VectorType(FLOAT.get(dtype, ir.IntType(16)), lanes)


class VecType(types.Type):
    """Numba's type of a vector of floats."""

    def __init__(self, dtype: str, lanes: int) -> None:
        self.dtype = dtype
        self.lanes = lanes
        super().__init__(f"Vec({dtype}, {lanes})")


@register_model(VecType)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: VecType) -> None:
        super().__init__(dmm, fe_type, vector(fe_type.dtype, fe_type.lanes))


def intrinsic_of(name: str, arity: int, typed: Callable[..., Any]) -> Any:
    """A Numba intrinsic: `typed` takes the types of `arity` arguments and gives a signature and its code generator."""
    # Numba counts the arguments in the code
    names = "".join(f", a{i}" for i in range(arity))
    env: dict[str, Any] = {"typed": typed}
    exec(f"def {name}(typingctx{names}): return typed({names[2:]})", env)
    return intrinsic(env[name])


# ---- LLVM IR


def splat(builder: ir.IRBuilder, scalar: ir.Value, lanes: int) -> ir.Value:
    """A scalar in all lanes."""
    undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def pointer(builder: ir.IRBuilder, address: ir.Value, type_: ir.Type) -> ir.Value:
    """An address as a pointer to a type."""
    return builder.inttoptr(address, type_.as_pointer())


def load(builder: ir.IRBuilder, dtype: str, lanes: int, address: ir.Value) -> ir.Value:
    """The lanes at an address, which is aligned to an element."""
    return builder.load(pointer(builder, address, vector(dtype, lanes)), align=BITS[dtype] // 8)


def load_int(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """The int64 at an address."""
    return builder.load(pointer(builder, address, I64))


def constant(builder: ir.IRBuilder, loaded: ir.Value) -> ir.Value:
    """What was loaded from memory that nobody writes while the kernel runs: LLVM loads it once, before the loop."""
    loaded.set_metadata("invariant.load", builder.module.add_metadata([]))
    return loaded


def store(builder: ir.IRBuilder, dtype: str, address: ir.Value, value: ir.Value) -> ir.Value:
    """Write lanes to an address."""
    return builder.store(value, pointer(builder, address, value.type), align=BITS[dtype] // 8)


def stream(builder: ir.IRBuilder, dtype: str, address: ir.Value, value: ir.Value) -> None:
    """Write lanes past the cache to an address aligned to the register, of which `value` may be several."""
    instruction = store(builder, dtype, address, value)
    instruction.align = min(value.type.count * BITS[dtype] // 8, host_target().bytes)
    instruction.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(I32, 1)]))


def fence(builder: ir.IRBuilder) -> None:
    """Make what was streamed visible to other threads before what follows."""
    if "sse2" in host_target().features:
        call(builder, "llvm.x86.sse.sfence", ir.VoidType())
    else:
        builder.fence("seq_cst")


def prefetch(builder: ir.IRBuilder, address: ir.Value, level: int) -> None:
    """Data to read, from `level` 3: into all caches, to 1: into the last one."""
    numbers = (ir.Constant(I32, k) for k in (0, level, 1))
    call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer(builder, address, ir.IntType(8)), *numbers)


def call(builder: ir.IRBuilder, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
    """A call of one of LLVM's own functions."""
    type_ = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, type_, name), args)


def convert(builder: ir.IRBuilder, source: str, target: str, value: ir.Value) -> ir.Value:
    """A vector as another dtype: exact when widening, else rounded once to nearest even."""
    lanes = value.type.count
    wide = ir.VectorType(I32, lanes)

    def number(k: int) -> ir.Constant:
        return ir.Constant(wide, [k] * lanes)

    if source == target:
        return value
    if source == "bfloat16":
        assert target == "float32"
        return builder.bitcast(builder.shl(builder.zext(value, wide), number(16)), vector(target, lanes))
    if target == "bfloat16":
        assert source == "float32", "it would round twice"
        pattern = builder.bitcast(value, wide)
        upper = builder.lshr(pattern, number(16))
        odd = builder.and_(upper, number(1))
        rounded = builder.lshr(builder.add(pattern, builder.add(odd, number(0x7FFF))), number(16))
        nan = builder.fcmp_unordered("uno", value, value)
        quiet = builder.or_(upper, number(0x40))
        return builder.trunc(builder.select(nan, quiet, rounded), vector(target, lanes))
    cast = builder.fpext if BITS[source] < BITS[target] else builder.fptrunc
    return cast(value, vector(target, lanes))
