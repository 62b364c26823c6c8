"""SIMD vectors as Numba values.

``Vec(dtype, lanes)`` is an LLVM vector in Numba code: it has ``+ - * /``, unary ``-``, comparisons (giving a
`MaskType`), and the functions below. LLVM legalises any number of lanes for the host, so code written for 64 bytes runs
everywhere; `lanes_for` gives the width at which it needs no splitting.

Addresses are plain integers (`intp`), as `numpy.ndarray.ctypes.data` gives them.

========================================================== ================================================
``load(like, address)``                                    lanes at an address, at the alignment of an element
``load_masked(like, address, count, fill)``                the first `count` lanes, nothing else read; the others `fill`
``store(address, v)``, ``store_masked(address, v, count)`` all lanes, the first `count` lanes
``stream(address, v)``                                     past the cache; `address` aligned to the vector
``broadcast(like, s)``                                     a scalar in all lanes
``where minimum maximum fabs copysign sqrt fma rint scalb logb`` as in formulas
``bits(v)``, ``from_bits(v)``                              the bit pattern as integers and back
``convert(like, v)``                                       to another dtype, lane by lane (widen, round to nearest even)
``reduce_add(v)``, ``reduce_max(v)``                       over the lanes, as a tree: lane i with lane i + lanes/2, …
``fence()``                                                after the last `stream`, before another thread may look
========================================================== ================================================

`like` is a vector value whose type says what to make; `zero(dtype, lanes)` is one at compile time.
"""

from __future__ import annotations

import operator
from itertools import product
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, Signature, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from fastact.backends.numba_cpu.emit import BITS, FLOAT, Emitter, Mask, Target, Value

SCALAR = {"float32": types.float32, "float64": types.float64}


def host_target() -> Target:
    """The features that Numba compiles for (`NUMBA_CPU_FEATURES` respected)."""
    from numba.core import config
    from numba.core.registry import cpu_target

    text = config.CPU_FEATURES
    if text is None:
        text = cpu_target.target_context.codegen()._get_host_cpu_features()
    return Target(frozenset(f[1:] for f in text.split(",") if f.startswith("+")))


def lanes_for(dtype: str, target: Target | None = None) -> int:
    """How many elements of `dtype` a vector register of the host holds."""
    return 8 * (target or host_target()).bytes // BITS[dtype]


class VecType(types.Type):
    """Numba's type of a SIMD vector: `dtype` in {float16, bfloat16, float32, float64, int16, int32, int64}."""

    def __init__(self, dtype: str, lanes: int) -> None:
        self.dtype = dtype
        self.lanes = lanes
        super().__init__(f"Vec({dtype}, {lanes})")


class MaskType(types.Type):
    """Numba's type of a comparison of vectors."""

    def __init__(self, dtype: str, lanes: int) -> None:
        self.dtype = dtype
        self.lanes = lanes
        super().__init__(f"Mask({dtype}, {lanes})")


def _element(dtype: str) -> ir.Type:
    if dtype in FLOAT:
        return FLOAT[dtype]
    return ir.IntType(16 if dtype == "bfloat16" else int(dtype.removeprefix("int")))


@register_model(VecType)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: VecType) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(_element(fe_type.dtype), fe_type.lanes))


@register_model(MaskType)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: MaskType) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(ir.IntType(1), fe_type.lanes))


def emitter(builder: ir.IRBuilder, vec: VecType | MaskType) -> Emitter:
    return Emitter(builder, vec.dtype, vec.lanes, host_target())


def _common(args: tuple[types.Type, ...]) -> VecType | None:
    vectors = {a for a in args if isinstance(a, VecType)}
    scalars = [a for a in args if not isinstance(a, VecType)]
    if len(vectors) != 1 or not all(isinstance(a, (types.Float, types.Integer)) for a in scalars):
        return None
    return vectors.pop()


def _values(context: Any, builder: ir.IRBuilder, vec: VecType, sig: Signature, args: Any) -> list[Value]:
    emit = emitter(builder, vec)
    values = []
    for type_, arg in zip(sig.args, args):
        if not isinstance(type_, VecType):
            arg = _splat(builder, context.cast(builder, arg, type_, SCALAR[vec.dtype]), vec.lanes)
        values.append(Value(emit, arg))
    return values


def _splat(builder: ir.IRBuilder, scalar: ir.Value, lanes: int) -> ir.Value:
    type_ = ir.VectorType(scalar.type, lanes)
    one = builder.insert_element(ir.Constant(type_, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(one, ir.Constant(type_, ir.Undefined), zeros)


def _register(function: Any, arity: int, method: str, *, mask: bool = False) -> None:
    """Type and lower `function` over vectors (scalars broadcast) by the `Emitter` or operator `method`."""

    class Template(AbstractTemplate):
        def generic(self, args: tuple[types.Type, ...], kws: Any) -> Signature | None:
            vec = _common(args)
            if vec is None or kws or len(args) != arity or vec.dtype not in SCALAR:
                return None
            full = [a if isinstance(a, VecType) else SCALAR[vec.dtype] for a in args]
            return signature(MaskType(vec.dtype, vec.lanes) if mask else vec, *full)

    infer_global(function)(Template)

    def lower(context: Any, builder: ir.IRBuilder, sig: Signature, args: Any) -> ir.Value:
        vec = _common(sig.args)
        assert vec is not None
        first, *rest = _values(context, builder, vec, sig, args)
        if method.startswith("__"):
            return getattr(first, method)(*rest).ir
        return getattr(first.emitter, method)(first, *rest).ir

    for pattern in product((VecType, types.Number), repeat=arity):
        if VecType in pattern:
            lower_builtin(function, *pattern)(lower)


for _op, _method in ((operator.add, "__add__"), (operator.sub, "__sub__"), (operator.mul, "__mul__"),
                     (operator.truediv, "__truediv__")):  # fmt: skip
    _register(_op, 2, _method)
_register(operator.neg, 1, "__neg__")
for _op, _method in ((operator.lt, "__lt__"), (operator.le, "__le__"), (operator.gt, "__gt__"),
                     (operator.ge, "__ge__"), (operator.eq, "__eq__"), (operator.ne, "__ne__")):  # fmt: skip
    _register(_op, 2, _method, mask=True)


def _outside(name: str) -> Any:
    def function(*args: Any) -> Any:
        raise TypeError(f"{name} works on SIMD vectors inside compiled code only")

    function.__name__ = function.__qualname__ = name
    return function


minimum, maximum, fabs, copysign = (_outside(n) for n in ("minimum", "maximum", "fabs", "copysign"))
sqrt, fma, rint, scalb, logb = (_outside(n) for n in ("sqrt", "fma", "rint", "scalb", "logb"))
for _function, _arity in ((minimum, 2), (maximum, 2), (fabs, 1), (copysign, 2), (sqrt, 1), (fma, 3), (rint, 1),
                          (scalb, 2), (logb, 1)):  # fmt: skip
    _register(_function, _arity, _function.__name__)


@intrinsic
def where(typingctx: Any, c: Any, a: Any, b: Any) -> Any:
    """`a` where the mask `c` holds, else `b`."""
    vec = _common((a, b))
    if not isinstance(c, MaskType) or vec is None:
        return None
    full = [x if isinstance(x, VecType) else SCALAR[vec.dtype] for x in (a, b)]

    def codegen(context: Any, builder: ir.IRBuilder, sig: Signature, args: Any) -> ir.Value:
        x, y = _values(context, builder, vec, signature(vec, *sig.args[1:]), args[1:])
        return builder.select(args[0], x.ir, y.ir)

    return vec(c, *full), codegen


@intrinsic
def zero(typingctx: Any, dtype: Any, lanes: Any) -> Any:
    """A vector of zeros; both arguments are compile-time constants."""
    if not (isinstance(dtype, types.StringLiteral) and isinstance(lanes, types.IntegerLiteral)):
        from numba.core.errors import RequireLiteralValue

        raise RequireLiteralValue("zero(dtype, lanes) takes literals")
    vec = VecType(dtype.literal_value, lanes.literal_value)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Signature, args: Any) -> ir.Value:
        return ir.Constant(context.get_value_type(vec), None)

    return vec(dtype, lanes), codegen


@intrinsic
def broadcast(typingctx: Any, like: Any, scalar: Any) -> Any:
    """A scalar in all lanes."""
    if not isinstance(like, VecType) or like.dtype not in SCALAR:
        return None

    def codegen(context: Any, builder: ir.IRBuilder, sig: Signature, args: Any) -> ir.Value:
        return _splat(builder, args[1], like.lanes)

    return like(like, SCALAR[like.dtype]), codegen


def pointer(builder: ir.IRBuilder, address: ir.Value, type_: ir.Type) -> ir.Value:
    return builder.inttoptr(address, type_.as_pointer())


def element_bytes(vec: VecType) -> int:
    return max(1, _bits(vec.dtype) // 8)


def _bits(dtype: str) -> int:
    return BITS[dtype] if dtype in BITS else int(dtype.removeprefix("int"))


def emit_load(builder: ir.IRBuilder, vec: VecType, address: ir.Value) -> ir.Value:
    type_ = ir.VectorType(_element(vec.dtype), vec.lanes)
    return builder.load(pointer(builder, address, type_), align=element_bytes(vec))


def emit_store(
    builder: ir.IRBuilder, vec: VecType, address: ir.Value, value: ir.Value, *, stream: bool = False
) -> None:
    # a stream is aligned to the register, of which `vec` may be several
    align = min(element_bytes(vec) * vec.lanes, host_target().bytes) if stream else element_bytes(vec)
    instruction = builder.store(value, pointer(builder, address, value.type), align=align)
    if stream:
        one = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        instruction.set_metadata("nontemporal", one)


def emit_prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    byte = ir.IntType(8).as_pointer()
    i32 = ir.IntType(32)
    signature = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
    function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    # to read, into all caches, data
    builder.call(function, [builder.inttoptr(address, byte), *(ir.Constant(i32, k) for k in (0, 3, 1))])


@intrinsic
def load(typingctx: Any, like: Any, address: Any) -> Any:
    """The lanes at an address."""
    if not isinstance(like, VecType):
        return None

    def codegen(context: Any, builder: ir.IRBuilder, sig: Signature, args: Any) -> ir.Value:
        return emit_load(builder, like, args[1])

    return like(like, types.intp), codegen


@intrinsic
def store(typingctx: Any, address: Any, v: Any) -> Any:
    """Write the lanes to an address."""
    if not isinstance(v, VecType):
        return None

    def codegen(context: Any, builder: ir.IRBuilder, sig: Signature, args: Any) -> Any:
        emit_store(builder, v, args[0], args[1])
        return context.get_dummy_value()

    return types.void(types.intp, v), codegen


@intrinsic
def stream(typingctx: Any, address: Any, v: Any) -> Any:
    """Write the lanes past the cache to an address aligned to the vector."""
    if not isinstance(v, VecType):
        return None

    def codegen(context: Any, builder: ir.IRBuilder, sig: Signature, args: Any) -> Any:
        emit_store(builder, v, args[0], args[1], stream=True)
        return context.get_dummy_value()

    return types.void(types.intp, v), codegen


def emit_fence(builder: ir.IRBuilder) -> None:
    if {"sse2"} <= host_target().features:
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse.sfence"
        )
        builder.call(function, [])
    else:
        builder.fence("seq_cst")


@intrinsic
def fence(typingctx: Any) -> Any:
    """Make `stream`ed lanes visible to other threads before what follows."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Signature, args: Any) -> Any:
        emit_fence(builder)
        return context.get_dummy_value()

    return types.void(), codegen


def _count_mask(builder: ir.IRBuilder, lanes: int, count: ir.Value) -> ir.Value:
    i64 = ir.IntType(64)
    index = ir.Constant(ir.VectorType(i64, lanes), list(range(lanes)))
    return builder.icmp_signed("<", index, _splat(builder, count, lanes))


def _masked(builder: ir.IRBuilder, name: str, type_: ir.VectorType, result: ir.Type, args: list[ir.Value]) -> ir.Value:
    element = {"half": "f16", "float": "f32", "double": "f64"}.get(str(type_.element), str(type_.element))
    full = f"llvm.masked.{name}.v{type_.count}{element}.p0"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, [a.type for a in args]), full)
    return builder.call(function, args)


@intrinsic
def load_masked(typingctx: Any, like: Any, address: Any, count: Any, fill: Any) -> Any:
    """The first `count` lanes at an address, `fill` in the others."""
    if not isinstance(like, VecType) or like.dtype not in SCALAR:
        return None

    def codegen(context: Any, builder: ir.IRBuilder, sig: Signature, args: Any) -> ir.Value:
        _, address, count, fill = args
        type_ = ir.VectorType(_element(like.dtype), like.lanes)
        align = ir.Constant(ir.IntType(32), element_bytes(like))
        mask = _count_mask(builder, like.lanes, count)
        other = _splat(builder, fill, like.lanes)
        return _masked(builder, "load", type_, type_, [pointer(builder, address, type_), align, mask, other])

    return like(like, types.intp, types.int64, SCALAR[like.dtype]), codegen


@intrinsic
def store_masked(typingctx: Any, address: Any, v: Any, count: Any) -> Any:
    """Write the first `count` lanes to an address."""
    if not isinstance(v, VecType) or v.dtype not in SCALAR:
        return None

    def codegen(context: Any, builder: ir.IRBuilder, sig: Signature, args: Any) -> Any:
        address, value, count = args
        align = ir.Constant(ir.IntType(32), element_bytes(v))
        mask = _count_mask(builder, v.lanes, count)
        _masked(
            builder, "store", value.type, ir.VoidType(), [value, pointer(builder, address, value.type), align, mask]
        )
        return context.get_dummy_value()

    return types.void(types.intp, v, types.int64), codegen


@intrinsic
def bits(typingctx: Any, v: Any) -> Any:
    """The bit patterns as a vector of integers of the same width."""
    if not isinstance(v, VecType):
        return None
    ints = VecType(f"int{_bits(v.dtype)}", v.lanes)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Signature, args: Any) -> ir.Value:
        return builder.bitcast(args[0], context.get_value_type(ints))

    return ints(v), codegen


@intrinsic
def from_bits(typingctx: Any, v: Any) -> Any:
    """Integers of 16, 32 or 64 bits as the floats they are the patterns of."""
    if not isinstance(v, VecType) or not v.dtype.startswith("int"):
        return None
    floats = VecType(v.dtype.replace("int", "float"), v.lanes)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Signature, args: Any) -> ir.Value:
        return builder.bitcast(args[0], context.get_value_type(floats))

    return floats(v), codegen


def emit_convert(builder: ir.IRBuilder, source: str, target: str, lanes: int, value: ir.Value) -> ir.Value:
    """`value` from dtype `source` to `target`: exact when widening, else rounded once to nearest even."""

    def vector(element: ir.Type) -> ir.VectorType:
        return ir.VectorType(element, lanes)

    if source == target:
        return value
    if source == "bfloat16":
        i32 = vector(ir.IntType(32))
        shifted = builder.shl(builder.zext(value, i32), ir.Constant(i32, [16] * lanes))
        return emit_convert(builder, "float32", target, lanes, builder.bitcast(shifted, vector(ir.FloatType())))
    if target == "bfloat16":
        if source != "float32":
            raise TypeError(f"no conversion from {source} to bfloat16: it would round twice")
        i32 = vector(ir.IntType(32))

        def constant(k: int) -> ir.Constant:
            return ir.Constant(i32, [k] * lanes)

        pattern = builder.bitcast(value, i32)
        upper = builder.lshr(pattern, constant(16))
        odd = builder.and_(upper, constant(1))
        rounded = builder.lshr(builder.add(pattern, builder.add(odd, constant(0x7FFF))), constant(16))
        nan = builder.fcmp_unordered("uno", value, value)
        quiet = builder.or_(upper, constant(0x40))
        return builder.trunc(builder.select(nan, quiet, rounded), vector(ir.IntType(16)))
    order = ["float16", "float32", "float64"]
    result = vector(FLOAT[target])
    if order.index(source) < order.index(target):
        return builder.fpext(value, result)
    return builder.fptrunc(value, result)


@intrinsic
def convert(typingctx: Any, like: Any, v: Any) -> Any:
    """The lanes of `v` as the dtype of `like`."""
    if not (isinstance(like, VecType) and isinstance(v, VecType) and like.lanes == v.lanes):
        return None

    def codegen(context: Any, builder: ir.IRBuilder, sig: Signature, args: Any) -> ir.Value:
        return emit_convert(builder, v.dtype, like.dtype, v.lanes, args[1])

    return like(like, v), codegen


def _reduction(method: str) -> Any:
    def typed(typingctx: Any, v: Any) -> Any:
        if not isinstance(v, VecType) or v.dtype not in SCALAR:
            return None

        def codegen(context: Any, builder: ir.IRBuilder, sig: Signature, args: Any) -> ir.Value:
            value, lanes = args[0], v.lanes
            while lanes > 1:
                lanes //= 2
                undefined = ir.Constant(value.type, ir.Undefined)
                halves = [
                    builder.shuffle_vector(value, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(r)))
                    for r in (range(lanes), range(lanes, 2 * lanes))
                ]
                emit = Emitter(builder, v.dtype, lanes, host_target())
                low, high = (Value(emit, h) for h in halves)
                if method == "add":
                    value = (low + high).ir
                else:
                    # a NaN in either half survives
                    nan_low = Mask(emit, builder.fcmp_unordered("uno", low.ir, low.ir))
                    value = emit.where(nan_low, low, emit.maximum(low, high)).ir
            return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

        return SCALAR[v.dtype](v), codegen

    typed.__name__ = f"reduce_{method}"
    typed.__doc__ = f"The {'sum' if method == 'add' else 'maximum (NaN if any lane is)'} of the lanes."
    return intrinsic(typed)


reduce_add = _reduction("add")
reduce_max = _reduction("max")
