"""The object a user holds: ``fa.elu(x)``, ``fa.elu.backward(dy, x)``, ``fa.elu.value_and_grad(x)``."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fastact import dispatch
from fastact.api.arguments import FILLED, no_attribute, outs_of, refuse_lazy, refuse_masked
from fastact.api.device import any_on_device, is_on_device
from fastact.api.functions import FUNCTIONS
from fastact.api.fused import Fused
from fastact.api.fused_step import KINDS_OF, FusedStep, FusedStepBackward
from fastact.api.losses import Loss
from fastact.api.over_axis import RowMethod
from fastact.api.replay import replayed
from fastact.api.shown import Signature, of_method, shown_names
from fastact.runtime import _driver
from fastact.spec.kernel import KernelSpec, compute_dtype, itemsize, kernel_of
from fastact.spec.kinds import ALL, FUSED, has, kinds_of
from fastact.spec.messages import at, first, shown, unsupported
from fastact.spec.table import OPS, Op, Param, resolve

if TYPE_CHECKING:
    import inspect
    from collections.abc import Mapping


def checked(op: Op, param: Param, value: Any) -> Any:
    """The value as a float, or as an array of one dimension or more.

    Raises
    ------
    TypeError
        For a masked array and what is no real number.
    ValueError
        Outside its domain.
    """
    given = value
    if type(value) is not float:
        if is_on_device(value):
            # its values are not looked at: that would make the host wait
            return value
        refuse_masked(f"{op.name}: {param.name}", (value,), FILLED, lazy=True)
        array = np.asarray(value)
        if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
            raise TypeError(f"{op.name}: {param.name} must be a number or an array of numbers, not {shown(value)}")
        # a number does not choose the dtype of the result, whatever its own
        value = array if array.ndim else float(array)
    good = param.domain.holds(value)
    if good is not True and not np.all(good):
        bad = first(~np.asarray(good))
        raise ValueError(f"{op.name}: {param.name} must be {param.domain.text}, not {np.asarray(given)[bad]}{at(bad)}")
    return value


class _Documentation:
    """The ``__doc__`` of a class, and another one of each of its instances, made when asked for."""

    def __init__(self, of_class: str | None) -> None:
        self.of_class = of_class

    def __get__(self, method: Method | None, cls: type) -> str | None:
        if method is None:
            return self.of_class
        from fastact.api.docstrings import documentation

        return documentation(method)


@_driver.enable_vectorcall
class Method(_driver.Callable):
    """One kind of an activation: arrays by position, parameters and every ufunc keyword by name."""

    def __init__(self, op: Op, kind: str, variants: tuple[str, Mapping[str, Any]] | None = None) -> None:
        self.op = op
        self.kind = kind
        name = op.name if kind == "forward" else f"{op.name}.{kind}"
        self.__name__ = self.__qualname__ = name
        needs = (op.output_needs or {}) if kind == "backward_from_output" else {}
        domains = [p.domain & needs.get(p.name, p.domain) for p in op.params]
        names = tuple(p.name for p in op.params)
        super().__init__(
            name,
            lambda: dispatch.make_ufunc(op, kind),
            len(ALL[kind].inputs),
            names,
            tuple(p.default for p in op.params),
            tuple((d.low, d.high, d.low_in, d.high_in, d.nonzero) for d in domains),
            self.check,
            variants,
            Method(op.at_default, kind) if op.at_default is not None and has(op.at_default, kind) else None,
            None if op.ordered is None else tuple(map(names.index, op.ordered)),
        )

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters as floats or arrays.

        Raises
        ------
        TypeError, ValueError
            For what is no number, is outside its domain, or does not fit another parameter.
        """
        found = {p.name: checked(self.op, p, given[p.name]) for p in self.op.params if p.name in given}
        values = {p.name: found.get(p.name, p.default) for p in self.op.params}
        if any_on_device(values.values()):
            return found
        self.op.check_together(values)
        if self.kind == "backward_from_output":
            self.op.check_from_output(values)
        return found

    @replayed
    def on_device(self, arrays: tuple[Any, ...], given: Mapping[str, Any], keywords: Mapping[str, Any]) -> Any:
        """The call for arrays on a GPU."""
        from fastact.api import device_maps

        op = self.at_default.op if isinstance(self.at_default, Method) and not given else self.op
        params = {p.name: given.get(p.name, p.default) for p in op.params}
        return device_maps.call(self.__name__, op, self.kind, arrays, params, keywords)

    def blame(
        self, error: Exception, arrays: tuple[Any, ...], given: Mapping[str, Any], keywords: Mapping[str, Any]
    ) -> None:
        """An error that says what is wrong with a call that the ufunc refused, if that is `out` or a lazy array."""
        name, outputs = self.__name__, ALL[self.kind].outputs
        if len(outputs) > 1:
            for a in arrays:
                refuse_lazy(name, a)
        outs = outs_of(name, keywords.get("out"), outputs)
        try:
            shape = np.broadcast_shapes(*map(np.shape, (*arrays, *given.values())))
        except ValueError:
            return
        for what, a in outs:
            if a is None:
                continue
            if not isinstance(a, np.ndarray):
                raise TypeError(f"{name}: {what} must be an array, not {type(a).__name__}")
            if isinstance(error, TypeError):
                continue  # of dtypes
            try:
                # a result may be repeated along new axes
                fits = np.broadcast_shapes(shape, a.shape) == a.shape
            except ValueError:
                fits = False
            if not fits:
                raise ValueError(f"{name}: {what} has shape {a.shape}, the result {shape}")

    @property
    def ufunc(self) -> np.ufunc:
        """The `numpy.ufunc` itself: arrays, then parameters, all by position; it checks no parameter's domain."""
        return self.function.ufunc

    def _plan(self, arrays: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dispatch.Plan:
        if self.variants is not None and self.variants[0] in kwargs:
            chosen = self.variants[1].get(kwargs[self.variants[0]])
            if chosen is not None:
                return chosen._plan(arrays, kwargs)
        given = [kwargs[p.name] for p in self.op.params if p.name in kwargs]
        op = self.at_default.op if isinstance(self.at_default, Method) and not given else self.op
        inputs = (*arrays, *given)
        # numbers take the dtype of the arrays, and parameters that are numbers have none, as in the call
        dtypes = [
            np.asarray(a).dtype
            for i, a in enumerate(inputs)
            if np.ndim(a) or not (i >= len(ALL[self.kind].inputs) or isinstance(a, (int, float, np.generic)))
        ]
        dtype = _driver.computing_dtype(dtypes) if arrays else "float32"
        if dtype is None:
            raise TypeError(unsupported(self.__name__, map(type, dtypes)))
        n = math.prod(np.broadcast_shapes(*map(np.shape, inputs))) if arrays else 0
        spec = kernel_of(op, self.kind, dtype)
        return dispatch.Plan(
            call=f"{self.op.name} {self.kind}",
            size=f"{n} elements of {dtype}",
            elements=n,
            specs=(spec,),
            parallel_min=dispatch.limits(spec)[0],
            written=itemsize(dtype) * len(spec.outputs) * n,
        )

    __signature__ = Signature()
    __dir__ = shown_names

    def _signature(self) -> inspect.Signature:
        return of_method(self.op, self.kind, self.variants)

    def __repr__(self) -> str:
        return f"<fastact.{self.__name__}>"

    def __reduce__(self) -> Any:
        return _unpickle, (self.op.name, self.kind)


@_driver.enable_vectorcall
class Activation(Method):
    """An elementwise activation: call it for the value, its methods for gradients.

    Parameters are keywords with the defaults of `params`; every keyword of a ufunc (``out``, ``where``, ``dtype``,
    ``casting``, ``order``, ``subok``) works as in NumPy. Arrays of float16, bfloat16 (ml_dtypes), float32 and float64
    keep their dtype, integers and booleans become float64; other dtypes are a `TypeError`.

    Attributes
    ----------
    name : str
    params : dict
        Parameter names and defaults; None for one that must be given.
    formula : str
        The definition as text.
    backward, backward_from_output, value_and_grad
        ``backward(dy, x)`` is dy·f'(x); ``backward_from_output(dy, y)`` is the same from y = f(x), where f' is a
        function of y; ``value_and_grad(x)`` is (f(x), f'(x)) in one pass. They take the same keywords.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> x = np.float32([-2.0, 0.0, 3.0])
    >>> fa.leaky_relu(x, negative_slope=0.5)
    array([-1.,  0.,  3.], dtype=float32)
    >>> fa.leaky_relu.backward(np.ones_like(x), x, negative_slope=0.5)
    array([0.5, 0.5, 1. ], dtype=float32)
    """

    def __init__(self, op: Op, variants: tuple[str, Mapping[str, Activation | None]] | None = None) -> None:
        def methods(kind: str) -> tuple[str, Mapping[str, Any]] | None:
            if variants is None:
                return None
            return variants[0], {k: v and getattr(v, kind, None) for k, v in variants[1].items()}

        super().__init__(op, "forward", variants)
        self.name = op.name
        self.params = {p.name: p.default for p in op.params}
        self.formula = op.formula
        self.value_and_grad = Method(op, "value_and_grad", methods("value_and_grad"))
        self.backward: Method | Fused = Method(op, "backward", methods("backward"))
        if op.param_grad is not None:
            self.backward = Fused(self, "backward_with_param", "backward")
        if op.grad_from_output is not None:
            self._backward_from_output = Method(op, "backward_from_output")

    # made when first asked for
    @cached_property
    def biased(self) -> Fused:
        """``biased(x, bias, axis=-1)``: f(x + bias)."""
        return Fused(self, "biased")

    @cached_property
    def biased_backward(self) -> Fused:
        """``biased_backward(dy, x, bias, axis=-1)``: (dx, dbias)."""
        return Fused(self, "biased_backward")

    @cached_property
    def gated(self) -> Fused:
        """``gated(gate, up)``: f(gate)·up."""
        return Fused(self, "gated")

    @cached_property
    def gated_backward(self) -> Fused:
        """``gated_backward(dy, gate, up)``: (dgate, dup)."""
        return Fused(self, "gated_backward")

    @cached_property
    def fused(self) -> FusedStep:
        """``fused(x, bias=None, residual=None, dropout=0.0, seed=None)``: residual + dropout(f(x + bias))."""
        return FusedStep(self)

    @cached_property
    def fused_backward(self) -> FusedStepBackward:
        """``fused_backward(dy, x, bias=None, dropout=0.0, seed=None)``: (dx, dbias or None)."""
        return FusedStepBackward(self)

    def variant(self, value: Any) -> Activation:
        """The activation that a value of the keyword of `variants` means."""
        assert self.variants is not None
        keyword, choices = self.variants
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{self.name}: {keyword} must be one of {', '.join(map(repr, choices))}, not {value!r}")
        return choices[value] or self

    def kernels(self, kind: str, dtype: str) -> list[KernelSpec]:
        """The kernels behind a kind; those of a fused kind work in the dtype that it computes in."""
        if kind in KINDS_OF:
            return [spec for k in KINDS_OF[kind] for spec in self.kernels(k, dtype)]
        dtype = compute_dtype(dtype) if kind in FUSED else dtype
        kinds = (kind, "param_backward") if kind == "backward" else (kind,)
        ops = [op for op in (self.op, self.op.at_default) if op is not None and kind in ALL]
        return [kernel_of(op, k, dtype) for op in ops for k in kinds if has(op, k)]

    @property
    def backward_from_output(self) -> Method:
        """``backward_from_output(dy, y)``; `AttributeError` where the derivative is no function of the output."""
        return self._backward_from_output

    def __getattr__(self, name: str) -> Any:
        if name == "_backward_from_output":
            raise AttributeError("absent")  # Python asks for the property's name next
        if name == "backward_from_output":
            raise AttributeError(
                f"{self.name} has no backward_from_output: its derivative is not a function of its output; "
                f"use {self.name}.backward(dy, x)"
            )
        if name == "forward":
            raise AttributeError(f"{self.name} has no attribute 'forward'; call it: {self.name}(x)")
        public = [known for known in (*self.__dict__, *dir(type(self))) if not known.startswith("_")]
        raise AttributeError(no_attribute(self.__dict__.get("name", "Activation"), name, public))

    def address(self, kind: str, dtype: str) -> int:
        """The address of a C function for other programs, such as ``fastact_elu_f32(x, y, n, alpha)`` of ``fastact.h``.

        Parameters
        ----------
        kind : {"forward", "backward", "backward_from_output", "value_and_grad"}
        dtype : {"float32", "float64"}

        Raises
        ------
        ValueError
            If the activation has no such kind, or for another dtype.
        RuntimeError
            If the ahead-of-time kernels are not available; the message says why.

        Examples
        --------
        >>> import ctypes, numpy as np, fastact as fa
        >>> signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_float)
        >>> elu = signature(fa.elu.address("forward", "float32"))  # doctest: +SKIP
        >>> x = np.float32([-1.0, 2.0])
        >>> elu(x.ctypes.data, x.ctypes.data, x.size, 1.0)  # doctest: +SKIP
        """
        if kind not in kinds_of(self.op) or dtype not in ("float32", "float64"):
            raise ValueError(f"{self.name} has no function for {kind!r} of {dtype!r}")
        from fastact.backends import cython_aot

        return cython_aot.embedded(kernel_of(self.op, kind, dtype))


for _class in (Method, Activation):
    _class.__doc__ = _Documentation(_class.__doc__)  # type: ignore[assignment]


def _unpickle(name: str, kind: str) -> Method:
    if name not in activations:
        # the form at default parameters
        of = next(op.name for op in OPS.values() if op.at_default is not None and op.at_default.name == name)
        return _unpickle(of, kind).at_default  # type: ignore[return-value]
    activation = activations[name]
    return activation if kind == "forward" else getattr(activation, kind)


def _make() -> dict[str, Activation]:
    made: dict[str, Activation] = {}
    # those that are a variant of another come before it
    for op in sorted(OPS.values(), key=lambda op: op.variants is not None):
        variants = None
        if op.variants is not None:
            keyword, names = op.variants
            variants = (keyword, {value: made[name] if name else None for value, name in names.items()})
        made[op.name] = Activation(op, variants)
    return {name: made[name] for name in OPS}


activations: dict[str, Activation] = _make()


_NAMES = {name for op in OPS.values() for name in (op.name, *op.aliases)}


def get(name: str) -> Activation:
    """The activation of a name, also in the spelling of PyTorch, Keras or ONNX.

    Parameters
    ----------
    name : str
        ``"elu"``, ``"hardtanh"``, ``"LeakyRelu"``, ``"swish"``, …

    Raises
    ------
    TypeError
        If `name` is not a string.
    ValueError
        For an unknown name; the message has the nearest ones. Also for what is no activation, such as softmax or glu.

    Examples
    --------
    >>> import fastact as fa
    >>> fa.get("LeakyRelu")
    <fastact.leaky_relu>
    """
    if isinstance(name, str) and name.endswith("_") and name[:-1] in _NAMES:
        raise ValueError(f"unknown activation {name!r}; in place it is fastact.{name[:-1]}(x, out=x)")
    found = resolve(name, FUNCTIONS)
    if found in FUNCTIONS:
        over_axis = isinstance(FUNCTIONS[found], (RowMethod, Loss))
        what = "works over an axis, not on each element" if over_axis else "is no activation"
        raise ValueError(f"{found} {what}; it is fastact.{found}")
    return activations[found]
