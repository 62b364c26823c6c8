"""Loads and stores of kernels, as extensions of numba-cuda that emit LLVM: the one place that depends on them.

``load_DTYPE(address)`` gives an element, ``load_DTYPE_COUNT`` so many as a tuple, from an address aligned to all of
them; 16-bit elements come as float32. ``store_DTYPE(address, value)`` and ``store_DTYPE_COUNT(address, values...)``
are the way back, rounded to nearest; ``store_float16_double`` rounds a float64 once. Integers and booleans come as
float64, but ``load_word`` gives an int64 itself, and ``store_word`` takes one. ``load_words`` gives 16 bytes as they
are, and ``unpack_DTYPE`` what elements are in them. A bfloat16 is stored by the instruction of compute capability 8.0
and later. ``exp2`` is the GPU's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from fastact.backends.cuda.dtypes import SIZES

HALF, FLOAT, DOUBLE = ir.HalfType(), ir.FloatType(), ir.DoubleType()
I16, I32, I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)

# of a dtype: what lies in memory, what a kernel computes with
MEMORY = {"float32": FLOAT, "float64": DOUBLE, "float16": HALF, "bfloat16": I16}
COMPUTED = {"float32": types.float32, "float64": types.float64, "float16": types.float32, "bfloat16": types.float32}
INTEGERS = {f"{sign}int{bits}": (bits, sign == "") for sign in ("", "u") for bits in (8, 16, 32, 64)}
INTEGERS["bool"] = (8, False)
COUNTS = (2, 4, 8)


def _pointer(builder: ir.IRBuilder, address: ir.Value, to: ir.Type) -> ir.Value:
    return builder.inttoptr(address, ir.PointerType(to, 1))


def _widened(builder: ir.IRBuilder, v: ir.Value, dtype: str) -> ir.Value:
    if dtype == "float16":
        return builder.fpext(v, FLOAT)
    if dtype == "bfloat16":
        return builder.bitcast(builder.shl(builder.zext(v, I32), ir.Constant(I32, 16)), FLOAT)
    return v


def _two_bfloat16(builder: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    kind = ir.FunctionType(I32, [FLOAT, FLOAT])
    return builder.call(ir.InlineAsm(kind, "cvt.rn.bf16x2.f32 $0, $1, $2;", "=r,f,f"), [high, low])


def _narrowed(builder: ir.IRBuilder, v: ir.Value, dtype: str) -> ir.Value:
    if dtype == "float16":
        return builder.fptrunc(v, HALF)
    if dtype == "bfloat16":
        return builder.trunc(_two_bfloat16(builder, v, ir.Constant(FLOAT, 0.0)), I16)
    return v


def _load(dtype: str) -> Any:
    def load(typingctx: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _widened(builder, builder.load(_pointer(builder, args[0], MEMORY[dtype])), dtype)

        return COMPUTED[dtype](types.int64), emit

    return intrinsic(load)


def _store(dtype: str) -> Any:
    def store(typingctx: Any, address: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.store(_narrowed(builder, args[1], dtype), _pointer(builder, args[0], MEMORY[dtype]))
            return context.get_dummy_value()

        return types.void(types.int64, COMPUTED[dtype]), emit

    return intrinsic(store)


def _integer(name: str) -> Any:
    bits, signed = INTEGERS[name]

    def load(typingctx: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            v = builder.load(_pointer(builder, args[0], ir.IntType(bits)))
            return (builder.sitofp if signed else builder.uitofp)(v, DOUBLE)

        return types.float64(types.int64), emit

    return intrinsic(load)


def _words_of(dtype: str, count: int) -> tuple[ir.Type, int]:
    """What so many elements lie in: a vector of at most 16 bytes, and how many of them."""
    size = SIZES[dtype]
    per = min(count, 16 // size)
    if dtype == "bfloat16":
        return ir.VectorType(I32, per // 2), count // per
    return ir.VectorType(MEMORY[dtype], per), count // per


def _two_floats(builder: Any, word: Any) -> list[Any]:
    """The two bfloat16 of a word of 32 bits, the lower one first."""
    low, high = builder.shl(word, ir.Constant(I32, 16)), builder.and_(word, ir.Constant(I32, 0xFFFF0000))
    return [builder.bitcast(low, FLOAT), builder.bitcast(high, FLOAT)]


def _load_vector(dtype: str, count: int) -> Any:
    def load(typingctx: Any, address: Any) -> Any:
        result = types.UniTuple(COMPUTED[dtype], count)

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind, parts = _words_of(dtype, count)
            size = min(16, count * SIZES[dtype])
            found = []
            for part in range(parts):
                address = builder.add(args[0], ir.Constant(I64, 16 * part))
                v = builder.load(_pointer(builder, address, kind))
                v.align = size
                for k in range(kind.count):
                    e = builder.extract_element(v, ir.Constant(I32, k))
                    if dtype == "bfloat16":
                        found += _two_floats(builder, e)
                    else:
                        found.append(_widened(builder, e, dtype))
            return context.make_tuple(builder, signature.return_type, found)

        return result(types.int64), emit

    return intrinsic(load)


def _store_vector(dtype: str, count: int) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind, parts = _words_of(dtype, count)
        size = min(16, count * SIZES[dtype])
        values = list(args[1:])
        if dtype == "bfloat16":
            values = [_two_bfloat16(builder, low, high) for low, high in zip(values[::2], values[1::2])]
        else:
            values = [_narrowed(builder, v, dtype) for v in values]
        for part in range(parts):
            v = ir.Constant(kind, ir.Undefined)
            for k in range(kind.count):
                v = builder.insert_element(v, values[part * kind.count + k], ir.Constant(I32, k))
            address = builder.add(args[0], ir.Constant(I64, 16 * part))
            builder.store(v, _pointer(builder, address, kind)).align = size
        return context.get_dummy_value()

    signature = types.void(types.int64, *[COMPUTED[dtype]] * count)
    # an intrinsic takes as many arguments as its Python function
    names = ", ".join(f"v{k}" for k in range(count))
    scope: dict[str, Any] = {"signature": signature, "emit": emit}
    exec(f"def store(typingctx, address, {names}):\n    return signature, emit", scope)
    return intrinsic(scope["store"])


@intrinsic
def load_word(typingctx, address):  # type: ignore[no-untyped-def]
    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.load(_pointer(builder, args[0], I64))

    return types.int64(types.int64), emit


@intrinsic
def store_word(typingctx, address, value):  # type: ignore[no-untyped-def]
    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.store(args[1], _pointer(builder, args[0], I64))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


@intrinsic
def load_byte(typingctx, address):  # type: ignore[no-untyped-def]
    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.zext(builder.load(_pointer(builder, args[0], ir.IntType(8))), I64)

    return types.int64(types.int64), emit


@intrinsic
def store_float16_double(typingctx, address, value):  # type: ignore[no-untyped-def]
    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.store(builder.fptrunc(args[1], HALF), _pointer(builder, args[0], HALF))
        return context.get_dummy_value()

    return types.void(types.int64, types.float64), emit


@intrinsic
def load_words(typingctx, address):  # type: ignore[no-untyped-def]
    """Four words of 32 bits from an address aligned to 16 bytes."""
    kind = ir.VectorType(I32, 4)

    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        v = builder.load(_pointer(builder, args[0], kind))
        v.align = 16
        words = [builder.extract_element(v, ir.Constant(I32, k)) for k in range(4)]
        return context.make_tuple(builder, signature.return_type, words)

    return types.UniTuple(types.uint32, 4)(types.int64), emit


@intrinsic
def load_bits(typingctx, address):  # type: ignore[no-untyped-def]
    """16 bits as an integer."""

    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.zext(builder.load(_pointer(builder, args[0], I16)), I32)

    return types.uint32(types.int64), emit


@intrinsic
def store_bits(typingctx, address, value):  # type: ignore[no-untyped-def]
    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.store(builder.trunc(args[1], I16), _pointer(builder, args[0], I16))
        return context.get_dummy_value()

    return types.void(types.int64, types.uint32), emit


@intrinsic
def store_words(typingctx, address, a, b, c, d):  # type: ignore[no-untyped-def]
    """Four words of 32 bits to an address aligned to 16 bytes."""

    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        kind = ir.VectorType(I32, 4)
        v = ir.Constant(kind, ir.Undefined)
        for k in range(4):
            v = builder.insert_element(v, args[1 + k], ir.Constant(I32, k))
        builder.store(v, _pointer(builder, args[0], kind)).align = 16
        return context.get_dummy_value()

    return types.void(types.int64, *[types.uint32] * 4), emit


def _round(dtype: str) -> Any:
    def rounded(typingctx: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _widened(builder, _narrowed(builder, args[0], dtype), dtype)

        return types.float32(types.float32), emit

    return intrinsic(rounded)


def _unpack(dtype: str) -> Any:
    def unpack(typingctx: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            found = []
            if dtype == "float64":
                for low, high in (args[:2], args[2:]):
                    wide = builder.shl(builder.zext(high, I64), ir.Constant(I64, 32))
                    found.append(builder.bitcast(builder.or_(wide, builder.zext(low, I64)), DOUBLE))
            for word in args if dtype != "float64" else ():
                if dtype == "float32":
                    found.append(builder.bitcast(word, FLOAT))
                elif dtype == "bfloat16":
                    found += _two_floats(builder, word)
                else:
                    for part in (word, builder.lshr(word, ir.Constant(I32, 16))):
                        half = builder.bitcast(builder.trunc(part, I16), HALF)
                        found.append(builder.fpext(half, FLOAT))
            return context.make_tuple(builder, signature.return_type, found)

        return types.UniTuple(COMPUTED[dtype], 16 // SIZES[dtype])(*[types.uint32] * 4), emit

    return intrinsic(unpack)


@intrinsic
def exp2(typingctx, x):  # type: ignore[no-untyped-def]
    """The GPU's own 2^x, to 2 ULP (PTX ISA, ex2); subnormal results are 0."""

    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        kind = ir.FunctionType(FLOAT, [FLOAT])
        return builder.call(ir.InlineAsm(kind, "ex2.approx.ftz.f32 $0, $1;", "=f,f"), [args[0]])

    return types.float32(types.float32), emit


@intrinsic
def store_bool(typingctx, address, value):  # type: ignore[no-untyped-def]
    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.store(builder.fptoui(args[1], ir.IntType(8)), _pointer(builder, args[0], ir.IntType(8)))
        return context.get_dummy_value()

    return types.void(types.int64, types.float64), emit


def functions() -> dict[str, Callable[..., Any]]:
    """What kernels call, by name."""
    found: dict[str, Any] = {"load_word": load_word, "load_byte": load_byte, "load_words": load_words, "exp2": exp2}
    found["store_float16_double"] = store_float16_double
    for dtype in MEMORY:
        found[f"unpack_{dtype}"] = _unpack(dtype)
        if dtype in ("float16", "bfloat16"):
            found[f"round_{dtype}"] = _round(dtype)
        found[f"load_{dtype}"], found[f"store_{dtype}"] = _load(dtype), _store(dtype)
        for count in COUNTS:
            found[f"load_{dtype}_{count}"] = _load_vector(dtype, count)
            found[f"store_{dtype}_{count}"] = _store_vector(dtype, count)
    for name in INTEGERS:
        found[f"load_{name}"] = _integer(name)
    found |= {"store_bool": store_bool, "load_bits": load_bits, "store_bits": store_bits, "store_words": store_words}
    found["store_word"] = store_word
    return found
