"""LLVM IR for the primitives: values that emit an instruction per operation.

A formula called with `Value`s runs once, in Python, and leaves straight-line IR behind. So a kernel needs no type
inference for its mathematics: tracing gelu's derivative takes about a millisecond, where inferring and compiling it as
a chain of `@njit` functions took 0.3 s.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

I32 = ir.IntType(32)
FLOAT = {"float16": ir.HalfType(), "float32": ir.FloatType(), "float64": ir.DoubleType()}
BITS = {"float16": 16, "bfloat16": 16, "float32": 32, "float64": 64}
MANTISSA = {"float32": 23, "float64": 52}
SUFFIX = {"float16": "f16", "float32": "f32", "float64": "f64"}


@dataclass(frozen=True)
class Target:
    """What of the host the emitted instructions depend on."""

    features: frozenset[str]

    @classmethod
    def of(cls, features: str) -> Target:
        """Of LLVM's list: ``"+avx2,-avx512f"``."""
        return cls(frozenset(f[1:] for f in features.split(",") if f.startswith("+")))

    @property
    def isa(self) -> str:
        """The widest instruction set fastact uses here."""
        for isa, needed in (("avx512", {"avx512f", "avx512dq", "avx512vl", "avx512bw"}), ("avx2", {"avx2", "fma"}),
                            ("neon", {"neon"}), ("sse2", {"sse2"})):  # fmt: skip
            if needed <= self.features:
                return isa
        return "generic"

    @property
    def bytes(self) -> int:
        """The width of a vector register."""
        return {"avx512": 64, "avx2": 32}.get(self.isa, 16)


def select_lanes(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, start: int, lanes: int) -> ir.Value:
    """`lanes` lanes of the concatenation of two vectors, from `start` on."""
    numbers = ir.Constant(ir.VectorType(I32, lanes), list(range(start, start + lanes)))
    return builder.shuffle_vector(a, b, numbers)


def split(builder: ir.IRBuilder, value: ir.Value, lanes: int) -> list[ir.Value]:
    """A vector as vectors of `lanes`."""
    if value.type.count == lanes:
        return [value]
    return [select_lanes(builder, value, value, k, lanes) for k in range(0, value.type.count, lanes)]


def joined(builder: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    """A power of two of vectors as one."""
    while len(parts) > 1:
        lanes = 2 * parts[0].type.count
        parts = [select_lanes(builder, a, b, 0, lanes) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


class Emitter:
    """Emits operations on floats of one dtype, as vectors of `lanes` or (lanes = 0) scalars.

    With lanes for several registers (a power of two of them) LLVM splits each operation, so that the instructions of
    independent vectors come side by side.
    """

    def __init__(self, builder: ir.IRBuilder, dtype: str, lanes: int, target: Target) -> None:
        self.builder = builder
        self.dtype = dtype
        self.lanes = lanes
        self.target = target
        self.bits = BITS[dtype]
        self.mantissa = MANTISSA[dtype]
        self.bias = (1 << (self.bits - self.mantissa - 2)) - 1
        self.float = self.shape(FLOAT[dtype])
        self.int = self.shape(ir.IntType(self.bits))
        # whether `lookup` was called
        self.tables = False

    def shape(self, element: ir.Type) -> ir.Type:
        return ir.VectorType(element, self.lanes) if self.lanes else element

    def splat(self, type_: ir.Type, value: Any) -> ir.Constant:
        return ir.Constant(type_, [value] * self.lanes if self.lanes else value)

    def literal(self, value: float) -> Value:
        return Value(self, self.splat(self.float, self._rounded(value)))

    def _rounded(self, value: float) -> float:
        if self.dtype == "float32":
            import numpy as np

            value = float(np.float32(value))
        return value

    def value(self, x: Value | float) -> Value:
        return x if isinstance(x, Value) else self.literal(float(x))

    def integer(self, value: int) -> ir.Constant:
        return self.splat(self.int, value)

    def intrinsic(self, name: str, *args: ir.Value, result: ir.Type | None = None, overload: bool = True) -> ir.Value:
        result = result or self.float
        if overload:
            name += f".v{self.lanes}{SUFFIX[self.dtype]}" if self.lanes else f".{SUFFIX[self.dtype]}"
        module = self.builder.module
        function = module.globals.get(name)
        if function is None:
            function = ir.Function(module, ir.FunctionType(result, [a.type for a in args]), name)
        return self.builder.call(function, args)

    def binary(self, op: str, a: Value | float, b: Value | float) -> Value:
        return Value(self, getattr(self.builder, op)(self.value(a).ir, self.value(b).ir))

    def compare(self, op: str, a: Value | float, b: Value | float) -> Mask:
        # != holds for NaN, as in Python
        emit = self.builder.fcmp_unordered if op == "!=" else self.builder.fcmp_ordered
        return Mask(self, emit(op, self.value(a).ir, self.value(b).ir))

    # the primitives of docs/design.md

    def where(self, c: Mask, a: Value | float, b: Value | float) -> Value:
        return Value(self, self.builder.select(c.ir, self.value(a).ir, self.value(b).ir))

    def rarely(self, c: Mask, f: Callable[..., Value], b: Value | float, *args: Value | float) -> Value:
        def one(mask: ir.Value, other: ir.Value, *given: ir.Value) -> ir.Value:
            values = (Value(self, v) for v in given)
            return self._if_any(mask, other, lambda: self.builder.select(mask, f(*values).ir, other))

        every = [c.ir, *(self.value(v).ir for v in (b, *args))]
        register = 8 * self.target.bytes // self.bits
        if self.lanes <= register:
            return Value(self, one(*every))
        # one register after the other: a look at all of them first took gelu_tanh a quarter of its time, in branches
        # that were mispredicted, where 2 % of the elements are rare
        with self._lanes(register):
            found = [one(*some) for some in zip(*(split(self.builder, v, register) for v in every), strict=True)]
        return Value(self, joined(self.builder, found))

    @contextmanager
    def _lanes(self, lanes: int) -> Iterator[None]:
        """Other lanes for a while: formulas are bound to this object."""
        before = self.lanes, self.float, self.int
        self.lanes = lanes
        self.float, self.int = self.shape(FLOAT[self.dtype]), self.shape(ir.IntType(self.bits))
        yield
        self.lanes, self.float, self.int = before

    def _if_any(self, mask: ir.Value, b: ir.Value, then: Callable[[], ir.Value]) -> ir.Value:
        """What `then` emits where any lane of a mask is set, else b."""
        builder = self.builder
        vector = isinstance(mask.type, ir.VectorType)
        lanes = builder.bitcast(mask, ir.IntType(mask.type.count)) if vector else mask
        before = builder.block
        needed, after = builder.append_basic_block("rarely"), builder.append_basic_block()
        builder.cbranch(builder.icmp_unsigned("!=", lanes, lanes.type(0)), needed, after).set_weights([1, 1000])
        builder.position_at_end(needed)
        chosen = then()
        end = builder.block
        builder.branch(after)
        builder.position_at_end(after)
        result = builder.phi(b.type)
        result.add_incoming(b, before)
        result.add_incoming(chosen, end)
        return result

    def lookup(self, m: Value, *entries: float) -> Value:
        self.tables = True
        builder, one = self.builder, FLOAT[self.dtype]
        table = [self._rounded(entry) for entry in entries]
        number = builder.bitcast(self.value(m).ir, self.int)
        # registers of 8 floats, or of 16, in which a permutation is a look-up
        lanes = {"avx512": 16, "avx2": 8}.get(self.target.isa, 0) if self.dtype == "float32" else 0
        if lanes and self.lanes and self.lanes % lanes == 0:
            return Value(self, joined(builder, [self._permuted(table, part) for part in split(builder, number, lanes)]))
        array = ir.Constant(ir.ArrayType(one, len(table)), table)
        name = f"lookup.{self.dtype}.{zlib.crc32(repr(table).encode()):x}"
        held = builder.module.globals.get(name)
        if held is None:
            held = ir.GlobalVariable(builder.module, array.type, name)
            held.initializer, held.global_constant, held.linkage = array, True, "internal"
        index = builder.and_(number, self.integer(len(table) - 1))
        if not self.lanes:
            return Value(self, builder.load(builder.gep(held, [I32(0), index], inbounds=True)))
        result = ir.Constant(self.float, ir.Undefined)
        for lane in range(self.lanes):
            at = builder.gep(held, [I32(0), builder.extract_element(index, I32(lane))], inbounds=True)
            result = builder.insert_element(result, builder.load(at), I32(lane))
        return Value(self, result)

    def _permuted(self, table: list[float], number: ir.Value) -> ir.Value:
        """`lookup` of float32 in one register."""
        builder, lanes, integers = self.builder, number.type.count, number.type
        floats = ir.VectorType(FLOAT["float32"], lanes)
        if lanes == 16:
            name = "llvm.x86.avx512.permvar.sf.512"
            return self.intrinsic(
                name, ir.Constant(floats, table * (16 // len(table))), number, result=floats, overload=False
            )
        low = ir.Constant(floats, table[:8])
        found = self.intrinsic("llvm.x86.avx2.permps", low, number, result=floats, overload=False)
        if len(table) == 8:
            return found
        # not a blend, which is three operations on Intel's CPUs: gelu took 13.6 ns for 16 elements so, and 11.0 thus
        one, other = (struct.unpack("<8i", struct.pack("<8f", *half)) for half in (table[:8], table[8:]))
        apart = ir.Constant(integers, [a ^ b for a, b in zip(one, other)])
        changes = self.intrinsic("llvm.x86.avx2.permd", apart, number, result=integers, overload=False)
        upper = builder.shl(number, ir.Constant(integers, [28] * lanes))
        upper = builder.ashr(upper, ir.Constant(integers, [31] * lanes))
        return builder.bitcast(builder.xor(builder.bitcast(found, integers), builder.and_(changes, upper)), floats)

    def minimum(self, a: Value | float, b: Value | float) -> Value:
        return self.where(self.compare("<", a, b), a, b)

    def maximum(self, a: Value | float, b: Value | float) -> Value:
        return self.where(self.compare(">", a, b), a, b)

    def fabs(self, x: Value) -> Value:
        return Value(self, self.intrinsic("llvm.fabs", self.value(x).ir))

    def copysign(self, x: Value | float, s: Value | float) -> Value:
        return Value(self, self.intrinsic("llvm.copysign", self.value(x).ir, self.value(s).ir))

    def sqrt(self, x: Value) -> Value:
        return Value(self, self.intrinsic("llvm.sqrt", self.value(x).ir))

    def fma(self, a: Value | float, b: Value | float, c: Value | float) -> Value:
        return Value(self, self.intrinsic("llvm.fma", self.value(a).ir, self.value(b).ir, self.value(c).ir))

    def rint(self, x: Value) -> Value:
        return Value(self, self.intrinsic("llvm.roundeven", self.value(x).ir))

    def _avx512(self, name: str, *args: ir.Value) -> ir.Value:
        lanes = 512 // self.bits
        if self.lanes > lanes:
            register = Emitter(self.builder, self.dtype, lanes, self.target)
            registers = zip(*(split(self.builder, a, lanes) for a in args), strict=True)
            return joined(self.builder, [register._avx512(name, *parts) for parts in registers])
        # masked form with an all-ones mask, current rounding direction
        ones = ir.Constant(ir.IntType(max(8, lanes)), -1)
        kind = {"float32": "ps", "float64": "pd"}[self.dtype]
        rounding = ir.Constant(ir.IntType(32), 4)
        full = f"llvm.x86.avx512.mask.{name}.{kind}.512"
        return self.intrinsic(full, *args, ir.Constant(self.float, ir.Undefined), ones, rounding, overload=False)

    @property
    def _has_avx512(self) -> bool:
        return self.target.isa == "avx512" and self.lanes > 0 and self.lanes * self.bits % 512 == 0

    def scalb(self, x: Value | float, n: Value | float) -> Value:
        x, n = self.value(x), self.value(n)
        if self._has_avx512:
            return Value(self, self._avx512("scalef", x.ir, n.ir))
        if not self.lanes:
            return self._scaled_twice(x, n)
        # mostly one power of two will do, which is less than half the operations
        most = self.builder.fcmp_unordered(">", self.fabs(n).ir, self.literal(float(self.bias - 1)).ir)
        return Value(self, self._if_any(most, (x * self._power_of_two(n)).ir, lambda: self._scaled_twice(x, n).ir))

    def _scaled_twice(self, x: Value, n: Value) -> Value:
        # two exact powers of two: the first product stays normal, so only the second one rounds
        limit = float(2 * (self.bias - 1))
        n = self.minimum(limit + 2.0, self.maximum(-limit, n))
        half = self.rint(n * 0.5)
        return x * self._power_of_two(half) * self._power_of_two(n - half)

    def _power_of_two(self, n: Value) -> Value:
        # adding 1.5·2^mantissa leaves the integer in the low bits
        magic = 1.5 * 2.0**self.mantissa
        bits = self.builder.bitcast((n + (magic + self.bias)).ir, self.int)
        return Value(self, self.builder.bitcast(self.builder.shl(bits, self.integer(self.mantissa)), self.float))

    def logb(self, x: Value) -> Value:
        x = self.value(x)
        if self._has_avx512:
            return Value(self, self._avx512("getexp", x.ir))
        tiny = 2.0 ** (1 - self.bias)
        up = float(self.mantissa + 1)
        subnormal = self.compare("<", x, tiny)
        scaled = self.where(subnormal, x * 2.0**up, x)
        bits = self.builder.lshr(self.builder.bitcast(scaled.ir, self.int), self.integer(self.mantissa))
        exponent = Value(self, self.builder.sitofp(bits, self.float))
        return exponent - self.where(subnormal, self.bias + up, float(self.bias))

    def primitives(self) -> dict[str, Callable[..., Any]]:
        """What `fastact.maths.grammar.bind` resolves names to."""
        from fastact.maths.grammar import PRIMITIVES

        return {name: getattr(self, name) for name in PRIMITIVES}


class Mask:
    """The value of a comparison."""

    __slots__ = ("emitter", "ir")

    def __init__(self, emitter: Emitter, value: ir.Value) -> None:
        self.emitter = emitter
        self.ir = value


class Value:
    """A float vector or scalar in the function that is being emitted."""

    __slots__ = ("emitter", "ir")

    def __init__(self, emitter: Emitter, value: ir.Value) -> None:
        self.emitter = emitter
        self.ir = value

    def __add__(self, other: Value | float) -> Value:
        return self.emitter.binary("fadd", self, other)

    def __radd__(self, other: float) -> Value:
        return self.emitter.binary("fadd", other, self)

    def __sub__(self, other: Value | float) -> Value:
        return self.emitter.binary("fsub", self, other)

    def __rsub__(self, other: float) -> Value:
        return self.emitter.binary("fsub", other, self)

    def __mul__(self, other: Value | float) -> Value:
        return self.emitter.binary("fmul", self, other)

    def __rmul__(self, other: float) -> Value:
        return self.emitter.binary("fmul", other, self)

    def __truediv__(self, other: Value | float) -> Value:
        return self.emitter.binary("fdiv", self, other)

    def __rtruediv__(self, other: float) -> Value:
        return self.emitter.binary("fdiv", other, self)

    def __neg__(self) -> Value:
        return Value(self.emitter, self.emitter.builder.fneg(self.ir))

    def __lt__(self, other: Value | float) -> Mask:
        return self.emitter.compare("<", self, other)

    def __le__(self, other: Value | float) -> Mask:
        return self.emitter.compare("<=", self, other)

    def __gt__(self, other: Value | float) -> Mask:
        return self.emitter.compare(">", self, other)

    def __ge__(self, other: Value | float) -> Mask:
        return self.emitter.compare(">=", self, other)

    def __eq__(self, other: Value | float) -> Mask:  # type: ignore[override]
        return self.emitter.compare("==", self, other)

    def __ne__(self, other: Value | float) -> Mask:  # type: ignore[override]
        return self.emitter.compare("!=", self, other)

    __hash__ = None  # type: ignore[assignment]
