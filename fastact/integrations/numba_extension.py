"""fastact inside other people's ``@njit`` functions (docs/embedding.md, 'Numba').

Numba calls `init` before it compiles for the first time (entry point ``numba_extensions``), so that importing fastact
imports no Numba and still suffices. A call on scalars leaves its straight-line IR in the caller's own loop, which LLVM
then vectorises: as chains of `@njit` functions the bodies were beyond LLVM's inlining threshold. A call on arrays runs
fastact's own kernel, compiled into the caller, on contiguous arrays: those given, or copies.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, errors, types
from numba.core.imputils import impl_ret_new_ref
from numba.core.targetconfig import ConfigStack
from numba.core.typing.templates import AbstractTemplate, AttributeTemplate, Signature, infer_getattr, signature
from numba.extending import (
    NativeValue,
    intrinsic,
    lower_builtin,
    lower_getattr_generic,
    models,
    register_jitable,
    register_model,
    typeof_impl,
    unbox,
)

from fastact.api.activation import Activation, Method, activations
from fastact.api.dropout import RandomFunction
from fastact.api.functions import FUNCTIONS
from fastact.api.fused import Fused
from fastact.api.fused_step import FusedStep
from fastact.api.gated_units import GatedMethod
from fastact.api.over_axis import RowFunction, RowMethod
from fastact.backends.numba_cpu import kernels
from fastact.backends.numba_cpu import rows as row_kernels
from fastact.backends.numba_cpu.emit import I32, Emitter, Mask, Value
from fastact.backends.numba_cpu.simd import I64, host_target, lanes_for, splat
from fastact.backends.numba_cpu.simd import vector as vector_of
from fastact.dispatch import FUSED_STEPS
from fastact.maths.grammar import bind
from fastact.spec.call import BYTES, COLS, DATA, FLAGS, ROW_STEP, ROWS
from fastact.spec.kernel import KernelSpec, kernel_of, row_kernel_of
from fastact.spec.kinds import ALL, FUSED, KINDS, body, kinds_of


class _NoFlags(list):  # type: ignore[type-arg]
    """The fast-math flags of an instruction, which stay none."""

    def append(self, flag: Any) -> None:
        pass

    add = append


class _Exact(Emitter):
    """Emits scalars that ``@njit(fastmath=True)`` leaves alone.

    It gives its flags to every instruction of the caller's module; reassociated, the elementary functions lose their
    split constants (measured: other bits for 2,539 of 20,011 values of mish, 36 of tanh, 24 of gelu).
    """

    def binary(self, op: str, a: Value | float, b: Value | float) -> Value:
        value = super().binary(op, a, b)
        value.ir.flags = _NoFlags()
        return value

    def compare(self, op: str, a: Value | float, b: Value | float) -> Mask:
        mask = super().compare(op, a, b)
        mask.ir.flags = _NoFlags()
        return mask

    def intrinsic(self, name: str, *args: ir.Value, result: ir.Type | None = None, overload: bool = True) -> ir.Value:
        call = super().intrinsic(name, *args, result=result, overload=overload)
        call.fastmath = _NoFlags()
        return call


# ---- types


class MethodType(types.Function):
    """Numba's type of one `Method`; it has that one value."""

    def __init__(self, method: Method) -> None:
        self.method = method
        super().__init__(type("Template", (_Template,), {"key": method, "method": method}))

    def __reduce__(self) -> Any:
        return numba_type, (self.method,)


@cache
def numba_type(method: Method) -> MethodType:
    """Numba's type of a `Method`."""
    return MethodType(method)


def _element(type_: types.Type) -> str | None:
    """'float32', 'float64', 'integer', or None for what no activation takes."""
    if isinstance(type_, types.Array):
        type_ = type_.dtype
    if type_ in (types.float32, types.float64):
        return str(type_)
    return "integer" if isinstance(type_, (types.Integer, types.Boolean)) else None


def _computing(given: list[types.Type]) -> types.Type | None:
    """The dtype of a call: as in NumPy scalars follow the arrays, if there are any; integers are float64."""
    elements = [_element(t) for t in given]
    if None in elements:
        return None
    arrays = [_element(t) for t in given if isinstance(t, types.Array)]
    return types.float32 if set(arrays or elements) == {"float32"} else types.float64


class _Template(AbstractTemplate):
    method: Method

    def generic(self, args: tuple[types.Type, ...], kws: dict[str, types.Type]) -> Signature | None:
        method = self.method
        pysig = _python_signature(method)
        try:
            bound = pysig.bind(*args, **kws).arguments
        except TypeError as error:
            raise errors.TypingError(f"{method.__name__}: {error}") from error
        if method.at_default is not None and not any(name in bound for name in method.names):
            method = method.at_default
            pysig = _python_signature(method)
        given = [bound[name] for name in _arrays(method)]
        dtype = _computing(given)
        if dtype is None:
            raise errors.TypingError(
                f"{method.__name__} takes float32, float64, integers and booleans, scalars or arrays of them, "
                f"not ({', '.join(map(str, given))})"
            )
        for name in method.names:
            if name in bound and (_element(bound[name]) is None or isinstance(bound[name], types.Array)):
                raise errors.TypingError(
                    f"{method.__name__}: in nopython mode {name} must be a number, not {bound[name]}; "
                    "loop over the elements where it is an array"
                )
        full = [t if isinstance(t, types.Array) else dtype for t in given] + [dtype] * len(method.names)
        if method.variants is not None:
            keyword, choices = method.variants
            chosen = bound.get(keyword, types.literal(pysig.parameters[keyword].default))
            if not isinstance(chosen, types.StringLiteral):
                raise errors.RequireLiteralValue(f"{method.__name__}: {keyword} must be a literal string")
            if chosen.literal_value not in choices:
                raise errors.TypingError(f"{method.__name__}: {keyword} must be one of {', '.join(map(repr, choices))}")
            full.append(chosen)
        result = _result(dtype, [t for t in given if isinstance(t, types.Array)])
        if _is_pair(method):
            result = types.UniTuple(result, 2)
        return signature(result, *full).replace(pysig=pysig)


def _arrays(method: Method) -> tuple[str, ...]:
    return tuple(argument.name for argument in ALL[method.kind].inputs)


def _is_pair(method: Method) -> bool:
    return len(ALL[method.kind].outputs) == 2


def _result(dtype: types.Type, arrays: list[types.Array]) -> types.Type:
    if not arrays:
        return dtype
    ndim = max(a.ndim for a in arrays)
    fortran = ndim > 1 and all(a.layout == "F" and a.ndim == ndim for a in arrays)
    return types.Array(dtype, ndim, "F" if fortran else "C")


@cache
def _python_signature(method: Method) -> inspect.Signature:
    P = inspect.Parameter
    parameters = [P(name, P.POSITIONAL_ONLY) for name in _arrays(method)]
    for name, default in zip(method.names, method.defaults):
        parameters.append(P(name, P.POSITIONAL_OR_KEYWORD, default=P.empty if default is None else default))
    if method.variants is not None:
        keyword, choices = method.variants
        default = next(value for value, other in choices.items() if other is None)
        parameters.append(P(keyword, P.POSITIONAL_OR_KEYWORD, default=default))
    return inspect.Signature(parameters)


# ---- lowering


# LLVM vectorises loops for Intel's CPUs with 256 bits, whatever they have, unless the function says otherwise: a loop
# over gelu then takes 2.0 times as long (compiled for Sapphire Rapids, measured on Zen 5). llvmlite knows no such
# attribute, and refuses in its own `add` those that it does not know.
WIDTH = '"prefer-vector-width"="512"'
# A call keeps no vector register in C's calling convention, but half of those of AVX-512 in this one; from LLVM 21 on
# the vectoriser calls variants as they are declared (llvm-project pull request 136122), before as in C. ns for 16
# float32 (Intel Emerald Rapids), C's and this one's: exponential 4.6, 4.2; elu 4.9, 4.6; gelu 5.5 to 5.9, 5.6
CONVENTION = "intel_ocl_bicc" if binding.llvm_version_info >= (21,) else ""


def _scalar(builder: ir.IRBuilder, method: Method, dtype: str, args: Any) -> list[ir.Value]:
    target = host_target()
    if target.isa == "avx512":
        set.add(builder.function.attributes, WIDTH)
    outputs = range(len(ALL[method.kind].outputs))
    spec = kernel_of(method.op, method.kind, dtype)
    if target.isa in ("avx512", "avx2") and kernels.operations(spec, 0, target)[0] >= kernels.LONG:
        calls = [builder.call(_vectorised(builder.module, method, spec, i, len(args)), args) for i in outputs]
        for call in calls:
            call.fastmath = _NoFlags()
        return calls
    return _emitted(builder, method, dtype, 0, args)


def _emitted(builder: ir.IRBuilder, method: Method, dtype: str, lanes: int, args: Any) -> list[ir.Value]:
    emit = _Exact(builder, dtype, lanes, host_target())
    values = [Value(emit, a) for a in args]
    outputs = body(bind(emit.primitives(), dtype), method.op, method.kind)(*values)
    return [emit.value(output).ir for output in outputs]


def _vectorised(module: ir.Module, method: Method, spec: KernelSpec, output: int, count: int) -> ir.Function:
    """A function of `count` numbers with a variant over vectors, which LLVM calls in loops that it vectorises.

    LLVM's own vectors of inlined formulas are slower: where a formula has tables, a gather for each coefficient. The
    names and attributes are those of LLVM's "Vector Function ABI variants".
    """
    dtype = spec.dtype
    lanes = lanes_for(dtype, host_target())
    # by the formulas, too: a process may hold code of two activations of one name
    name = f"fastact_{spec.symbol}_{spec.digest[:16]}_{output}"
    scalar, vector = f"{name}_one", f"{name}_x{lanes}"
    if scalar in module.globals:
        return module.globals[scalar]
    wide = vector_of(dtype, lanes)
    functions = []
    for name, type_ in ((vector, wide), (scalar, wide.element)):
        function = ir.Function(module, ir.FunctionType(type_, [type_] * count), name)
        function.linkage = "linkonce_odr"
        if name == vector and host_target().isa == "avx512":
            function.calling_convention = CONVENTION
        for attribute in ("noinline", "nounwind", "readnone", "willreturn"):
            set.add(function.attributes, attribute)
        functions.append((function, ir.IRBuilder(function.append_basic_block())))
    (vectors, builder), (one, scalar_builder) = functions
    builder.ret(_emitted(builder, method, dtype, lanes, vectors.args)[output])
    # through the variant, which is so in use before any loop is vectorised
    splats = [splat(scalar_builder, a, lanes) for a in one.args]
    call = scalar_builder.call(vectors, splats, cconv=vectors.calling_convention)
    call.fastmath = _NoFlags()
    scalar_builder.ret(scalar_builder.extract_element(call, ir.Constant(I32, 0)))
    variant = f"_ZGV_LLVM_N{lanes}{'v' * count}_{scalar}({vector})"
    set.add(one.attributes, f'"vector-function-abi-variant"="{variant}"')
    return one


def _lower(method: Method) -> Callable[..., Any]:
    narrays = len(_arrays(method))

    def lower(context: Any, builder: ir.IRBuilder, sig: Signature, args: Any) -> Any:
        chosen = method
        if method.at_default is not None and len(sig.args) == narrays:
            chosen = method.at_default
        nparams = len(chosen.names)
        if method.variants is not None:
            chosen = method.variants[1][sig.args[-1].literal_value] or method
        result = sig.return_type.dtype if isinstance(sig.return_type, types.UniTuple) else sig.return_type
        if not isinstance(result, types.Array):
            outputs = _scalar(builder, chosen, str(result), args[: narrays + nparams])
            return outputs[0] if len(outputs) == 1 else context.make_tuple(builder, sig.return_type, outputs)
        arrays = sig.args[:narrays]
        params = types.UniTuple(result.dtype, nparams) if nparams else types.Tuple(())
        loop = _loop(chosen, arrays, result, _is_pair(method))
        inner = signature(sig.return_type, *arrays, params)
        packed = context.make_tuple(builder, params, args[narrays : narrays + nparams])
        made = _compile(context, builder, loop, inner, (*args[:narrays], packed))
        return impl_ret_new_ref(context, builder, sig.return_type, made)

    return lower


def _compile(context: Any, builder: ir.IRBuilder, function: Any, sig: Signature, args: Any) -> Any:
    # neither a parallel region of its own nor open to fast-math, which a context keeps whatever the flags say
    flags = ConfigStack().top().copy()
    flags.fastmath = False
    context = context.subtarget(fastmath=False)
    flags.auto_parallel = False
    flags.error_model = "numpy"
    compiled = context.compile_subroutine(builder, function, sig, flags=flags)
    return context.call_internal(builder, compiled.fndesc, sig, args)


@cache
def _loop(f: Method, arrays: tuple[types.Type, ...], result: types.Array, pair: bool) -> Callable[..., Any]:
    """The function over arrays that is compiled for these types; always the same one, for Numba compiles it once."""
    dtype = result.dtype
    run = _kernel(f, dtype)
    transpose = result.layout == "F" and all(isinstance(a, types.Array) and a.layout == "F" for a in arrays)

    filled = _filled(dtype, result.ndim)

    @register_jitable
    def given(x, shape):  # type: ignore[no-untyped-def]
        return x if x.shape == shape else filled(x, shape)

    plain = types.Array(dtype, result.ndim, result.layout)
    left, *rest = (given if isinstance(a, types.Array) and a.copy(readonly=False) == plain else filled for a in arrays)
    right = rest[0] if rest else left

    @register_jitable
    def over_one(x, params):  # type: ignore[no-untyped-def]
        out = np.empty(x.shape, dtype)
        run((left(x, x.shape), out), params)
        return out

    @register_jitable
    def over_two(dy, x, params):  # type: ignore[no-untyped-def]
        dy, x = np.asarray(dy), np.asarray(x)
        out = np.empty(np.broadcast_shapes(dy.shape, x.shape), dtype)
        run((left(dy, out.shape), right(x, out.shape), out), params)
        return out

    @register_jitable
    def pair_of(x, params):  # type: ignore[no-untyped-def]
        value, grad = np.empty(x.shape, dtype), np.empty(x.shape, dtype)
        run((left(x, x.shape), value, grad), params)
        return value, grad

    def pair_transposed(x, params):  # type: ignore[no-untyped-def]
        value, grad = pair_of(x.T, params)
        return value.T, grad.T

    if pair:
        return pair_transposed if transpose else pair_of
    if len(arrays) == 2:
        return (lambda dy, x, params: over_two(dy.T, x.T, params).T) if transpose else over_two
    return (lambda x, params: over_one(x.T, params).T) if transpose else over_one


def _filled(dtype: types.Type, ndim: int) -> Any:
    """A function for nopython mode: a contiguous copy of an array or number, of a dtype and shape."""

    @register_jitable
    def filled(x, shape):  # type: ignore[no-untyped-def]
        copy = np.empty(shape, dtype)
        copy[...] = np.broadcast_to(x, shape)
        return copy

    @register_jitable
    def filled_of_0d(x, shape):  # type: ignore[no-untyped-def]
        return np.full(shape, np.asarray(x).item(), dtype)

    return filled if ndim else filled_of_0d  # Numba does not broadcast to no dimensions


def _call(builder: ir.IRBuilder) -> tuple[ir.Value, Callable[[int, ir.Value], None]]:
    """The struct that a kernel is called with: its address, and what writes its fields (`fastact.spec.call`)."""
    call = cgutils.alloca_once(builder, ir.ArrayType(I64, BYTES // 8))

    def put(offset: int, value: ir.Value) -> None:
        builder.store(value, cgutils.gep_inbounds(builder, call, 0, offset // 8))

    return builder.ptrtoint(call, I64), put


@cache
def _kernel(f: Method, dtype: types.Type) -> Any:
    """An intrinsic: fastact's kernel of a function over the memory of whole arrays, inputs then outputs."""
    spec = kernel_of(f.op, f.kind, str(dtype))
    row = kernels.row_function(spec, kernels.stored_row_loop)
    # Numba tells compiled functions apart by their code, which all kernels share
    row.__code__ = row.__code__.replace(co_name=spec.symbol)
    ins, params = len(spec.inputs), len(spec.params)
    block = 64 // (dtype.bitwidth // 8)  # kernels take elements in multiples of it
    size = ir.Constant(I64, dtype.bitwidth // 8)
    starts_type = types.UniTuple(types.intp, spec.narg)

    @intrinsic
    def run(typingctx: Any, arrays: Any, values: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Signature, args: Any) -> Any:
            float_ = context.get_data_type(dtype)
            blocks = [cgutils.alloca_once(builder, ir.ArrayType(float_, block)) for _ in range(spec.narg)]
            structs = [
                context.make_array(t)(context, builder, a)
                for t, a in zip(sig.args[0].types, cgutils.unpack_tuple(builder, args[0]), strict=True)
            ]
            memory = [builder.ptrtoint(array.data, I64) for array in structs]
            for k, value in enumerate(cgutils.unpack_tuple(builder, args[1])):
                for lane in range(block):
                    builder.store(value, cgutils.gep_inbounds(builder, blocks[ins + k], 0, lane))
            given = [builder.ptrtoint(b, I64) for b in blocks]
            call, put = _call(builder)
            is_param = [ins <= j < ins + params for j in range(spec.narg)]

            def compute(n: ir.Value, starts: list[ir.Value]) -> None:
                put(COLS, n)
                packed = context.make_tuple(builder, starts_type, starts)
                _compile(context, builder, row, types.void(types.intp, starts_type), (call, packed))

            n = structs[0].nitems
            rest = builder.and_(n, ir.Constant(I64, block - 1))
            whole = builder.sub(n, rest)
            iterator = iter(memory)
            compute(whole, [given[j] if is_param[j] else next(iterator) for j in range(spec.narg)])
            with builder.if_then(builder.icmp_unsigned("!=", rest, ir.Constant(I64, 0)), likely=False):
                # the last elements by way of a block for each argument
                done, nbytes = builder.mul(whole, size), builder.mul(rest, size)
                byte = ir.IntType(8).as_pointer()
                tails = [builder.inttoptr(builder.add(address, done), byte) for address in memory]
                own = [builder.bitcast(b, byte) for b, param in zip(blocks, is_param, strict=True) if not param]
                for tail, buffer in zip(tails[:ins], own[:ins], strict=True):
                    cgutils.raw_memcpy(builder, buffer, tail, nbytes, 1)
                compute(ir.Constant(I64, block), given)
                for tail, buffer in zip(tails[ins:], own[ins:], strict=True):
                    cgutils.raw_memcpy(builder, tail, buffer, nbytes, 1)
            return context.get_dummy_value()

        return types.void(arrays, values), codegen

    return run


# ---- fused kinds, and other functions of whole arrays

WholeArrays = Fused | FusedStep | GatedMethod | RandomFunction


class FusedType(types.Function):
    """Numba's type of one `Fused` or the like, which has no implementation: a call says so."""

    def __init__(self, fused: WholeArrays) -> None:
        self.fused = fused
        super().__init__(type("Template", (_FusedTemplate,), {"key": fused, "fused": fused}))

    def __reduce__(self) -> Any:
        return fused_type, (self.fused,)


@cache
def fused_type(fused: WholeArrays) -> FusedType:
    """Numba's type of a `Fused` or the like."""
    return FusedType(fused)


class _FusedTemplate(AbstractTemplate):
    fused: WholeArrays

    def generic(self, args: tuple[types.Type, ...], kws: dict[str, types.Type]) -> Signature | None:
        raise errors.TypingError(_not_available(self.fused))


def _not_available(fused: WholeArrays) -> str:
    name = fused.__name__
    instead = "; dx alone is leaky_relu.backward(dy, x, weight)" if name == "prelu.backward" else ""
    return f"{name} takes whole arrays and is not available in nopython mode{instead}"


# ---- rows


class RowType(types.Function):
    """Numba's type of one `RowMethod`; it has that one value."""

    def __init__(self, method: RowMethod) -> None:
        self.method = method
        super().__init__(type("Template", (_RowTemplate,), {"key": method, "method": method}))

    def __reduce__(self) -> Any:
        return row_type, (self.method,)


@cache
def row_type(method: RowMethod) -> RowType:
    """Numba's type of a `RowMethod`."""
    return RowType(method)


class _RowTemplate(AbstractTemplate):
    method: RowMethod

    def generic(self, args: tuple[types.Type, ...], kws: dict[str, types.Type]) -> Signature | None:
        name = self.method.name
        try:
            bound = _row_signature(self.method).bind(*args, **kws).arguments
        except TypeError as error:
            raise errors.TypingError(f"{name}: {error}") from error
        axis = bound.pop("axis", None)
        given = list(bound.values())
        ndim = given[0].ndim if isinstance(given[0], types.Array) else 0
        dtype = _computing(given)
        if dtype is None or not ndim or any(not isinstance(t, types.Array) or t.ndim != ndim for t in given):
            raise errors.TypingError(
                f"{name} takes arrays of float32, float64, integers or booleans, of one or more dimensions, "
                f"not ({', '.join(map(str, given))})"
            )
        if axis is not None and not isinstance(axis, types.IntegerLiteral):
            raise errors.RequireLiteralValue(f"{name}: axis must be a literal")
        if axis is not None and axis.literal_value not in (-1, ndim - 1):
            raise errors.TypingError(f"{name}: in nopython mode the axis is the last one")
        if not self.method._reduces:
            result = types.Array(dtype, ndim, "C")
        else:
            result = types.Array(dtype, ndim - 1, "C") if ndim > 1 else dtype
        full = given if axis is None else [*given, axis]
        return signature(result, *full).replace(pysig=_row_signature(self.method) if axis is not None else None)


@cache
def _row_signature(method: RowMethod) -> inspect.Signature:
    P = inspect.Parameter
    arrays = ("x",) if method._nin == 1 else ("dy", "y")
    return inspect.Signature(
        [*(P(n, P.POSITIONAL_ONLY) for n in arrays), P("axis", P.POSITIONAL_OR_KEYWORD, default=-1)]
    )


def _lower_rows(method: RowMethod) -> Callable[..., Any]:
    def lower(context: Any, builder: ir.IRBuilder, sig: Signature, args: Any) -> Any:
        dtype = sig.return_type.dtype if isinstance(sig.return_type, types.Array) else sig.return_type
        arrays = sig.args[: method._nin]
        over = _rows(method, arrays, dtype)
        made = _compile(context, builder, over, signature(sig.return_type, *arrays), args[: method._nin])
        return impl_ret_new_ref(context, builder, sig.return_type, made)

    return lower


@cache
def _rows(method: RowMethod, arrays: tuple[types.Type, ...], dtype: types.Type) -> Callable[..., Any]:
    """The function over arrays of these types; always the same one, for Numba compiles it once."""
    kernel = row_kernels.kernel_function(row_kernel_of(method._kernel, str(dtype)))
    # Numba tells compiled functions apart by their code, which all dtypes share
    kernel.__code__ = kernel.__code__.replace(co_name=kernel.__name__)
    run = _row_intrinsic(kernel, dtype)
    dense = all(a.layout == "C" and a.dtype == dtype for a in arrays)
    shapes_differ = f"{method.name}: dy and y must have the same shape"

    filled = _filled(dtype, arrays[0].ndim)

    @register_jitable
    def contiguous(x):  # type: ignore[no-untyped-def]
        return x if dense else filled(x, x.shape)

    def forward(x):  # type: ignore[no-untyped-def]
        x = contiguous(x)
        out = np.empty(x.shape, dtype)
        if x.size:
            run(x, out, out)
        return out

    def backward(dy, y):  # type: ignore[no-untyped-def]
        if dy.shape != y.shape:
            raise ValueError(shapes_differ)
        dy, y = contiguous(dy), contiguous(y)
        out = np.empty(y.shape, dtype)
        if y.size:
            run(dy, y, out)
        return out

    @register_jitable
    def reduction(x):  # type: ignore[no-untyped-def]
        x = contiguous(x)
        out = np.full(x.shape[:-1], -np.inf, dtype)
        if x.size:
            run(x, out, out)
        return out

    def reduction_of_row(x):  # type: ignore[no-untyped-def]
        return reduction(contiguous(x).reshape(1, x.size))[0]

    if method._reduces:
        return reduction_of_row if arrays[0].ndim == 1 else reduction
    return forward if method._nin == 1 else backward


def _row_intrinsic(kernel: Any, dtype: types.Type) -> Any:
    @intrinsic
    def run(typingctx: Any, first: Any, second: Any, third: Any) -> Any:
        """Call a row kernel on contiguous arrays; the first one has its rows."""
        size = ir.Constant(I64, dtype.bitwidth // 8)

        def codegen(context: Any, builder: ir.IRBuilder, sig: Signature, args: Any) -> Any:
            arrays = [context.make_array(t)(context, builder, a) for t, a in zip(sig.args, args)]
            shape = cgutils.unpack_tuple(builder, arrays[0].shape)
            rows, n = ir.Constant(I64, 1), shape[-1]
            for extent in shape[:-1]:
                rows = builder.mul(rows, extent)
            call, put = _call(builder)
            for j, (type_, array) in enumerate(zip(sig.args, arrays)):
                put(DATA + 8 * j, builder.ptrtoint(array.data, I64))
                # a reduction's output has one element for a row
                put(ROW_STEP + 8 * j, builder.mul(size, n) if type_.ndim == first.ndim else size)
            put(ROWS, rows)
            put(COLS, n)
            put(FLAGS, ir.Constant(I64, 0))
            _compile(context, builder, kernel, row_kernels.SIGNATURE, (call,))
            return context.get_dummy_value()

        return types.void(first, second, third), codegen

    return run


# ---- registration


@register_model(MethodType)
class _MethodModel(models.OpaqueModel):
    pass


register_model(RowType)(_MethodModel)
register_model(FusedType)(_MethodModel)


@infer_getattr
class _MethodAttributes(AttributeTemplate):
    key = MethodType

    def generic_resolve(self, type_: MethodType, attr: str) -> types.Type | None:  # type: ignore[override]
        if attr not in (*KINDS, *FUSED, *FUSED_STEPS) or not isinstance(type_.method, Activation):
            return None
        try:
            method = getattr(type_.method, attr)
        except AttributeError as error:
            raise errors.TypingError(str(error)) from error
        if isinstance(method, Method):
            return numba_type(method)
        raise errors.TypingError(_not_available(method))


@infer_getattr
class _RowAttributes(AttributeTemplate):
    key = RowType

    def resolve_backward(self, type_: RowType) -> types.Type | None:
        return row_type(type_.method.backward) if isinstance(type_.method, RowFunction) else None


@lower_getattr_generic(RowType)
@lower_getattr_generic(MethodType)
def _get_method(context: Any, builder: ir.IRBuilder, type_: types.Type, value: Any, attr: str) -> Any:
    return context.get_dummy_value()


@unbox(FusedType)
@unbox(RowType)
@unbox(MethodType)
def _unbox_method(type_: types.Type, value: Any, c: Any) -> NativeValue:
    return NativeValue(c.context.get_dummy_value())


@cache
def init() -> None:
    """Teach Numba fastact's types; called by Numba."""

    @typeof_impl.register(Method)
    def typeof_method(method: Method, c: Any) -> MethodType:
        return numba_type(method)

    @typeof_impl.register(RowMethod)
    def typeof_row_method(method: RowMethod, c: Any) -> RowType:
        return row_type(method)

    def typeof_fused(fused: WholeArrays, c: Any) -> FusedType:
        return fused_type(fused)

    for cls in WholeArrays.__args__:
        typeof_impl.register(cls)(typeof_fused)

    for activation in activations.values():
        for kind in kinds_of(activation.op):
            method = activation if kind == "forward" else getattr(activation, kind)
            for form in (method, getattr(method, "at_default", None)):
                if isinstance(form, Method):
                    lower_builtin(form, types.VarArg(types.Any))(_lower(form))
    for function in FUNCTIONS.values():
        if isinstance(function, RowMethod):
            for each in (function, getattr(function, "backward", None)):
                if each is not None:
                    lower_builtin(each, types.VarArg(types.Any))(_lower_rows(each))
