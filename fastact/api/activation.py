"""The object a user holds: ``fa.elu(x)``, ``fa.elu.backward(dy, x)``, ``fa.elu.value_and_grad(x)``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fastact import dispatch
from fastact.api.rows import FUNCTIONS
from fastact.runtime import _driver
from fastact.spec.kinds import KINDS, kinds_of
from fastact.spec.messages import at, first, shown, unsupported
from fastact.spec.table import OPS, Op, Param, resolve

if TYPE_CHECKING:
    from collections.abc import Mapping


def checked(op: Op, param: Param, value: Any) -> Any:
    """The value as a float or an array; `TypeError` for what is no real number, `ValueError` outside its domain."""
    if type(value) is float:
        if param.valid(value):
            return value
    else:
        array = np.asarray(value)
        if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
            raise TypeError(f"{op.name}: {param.name} must be a number or an array of numbers, not {shown(value)}")
        value = array
    good = param.valid(value)
    if not np.all(good):
        bad = first(~np.asarray(good))
        raise ValueError(f"{op.name}: {param.name} must be {param.domain}, not {np.asarray(value)[bad]}{at(bad)}")
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
        super().__init__(
            name,
            lambda: dispatch.make_slots(op, kind),
            KINDS[kind][0],
            tuple(p.name for p in op.params),
            tuple(p.default for p in op.params),
            self._check,
            variants,
            Method(op.at_default, kind) if op.at_default is not None and kind in kinds_of(op.at_default) else None,
        )

    def _check(self, given: Mapping[str, Any]) -> None:
        values = {p.name: checked(self.op, p, given[p.name]) if p.name in given else p.default for p in self.op.params}
        self.op.check_together(values)
        if self.kind == "backward_from_output":
            self.op.check_from_output(values)

    @property
    def ufunc(self) -> np.ufunc:
        """The `numpy.ufunc` itself: arrays, then parameters, all by position; it checks no parameter's domain."""
        return self.slots.ufunc

    def _plan(self, arrays: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dispatch.Plan:
        if self.variants is not None and self.variants[0] in kwargs:
            chosen = self.variants[1].get(kwargs[self.variants[0]])
            if chosen is not None:
                return chosen._plan(arrays, kwargs)
        given = [kwargs[p.name] for p in self.op.params if p.name in kwargs]
        op = self.at_default.op if isinstance(self.at_default, Method) and not given else self.op
        inputs = (*arrays, *given)
        # Python numbers take the dtype of the arrays
        dtypes = [np.asarray(a).dtype for a in inputs if type(a) not in (int, float)]
        dtype = _driver.computing_dtype(dtypes) if arrays else "float32"
        if dtype is None:
            raise TypeError(unsupported(self.__name__, map(type, dtypes)))
        n = math.prod(np.broadcast_shapes(*map(np.shape, inputs))) if arrays else 0
        return dispatch.Plan(
            call=f"{self.op.name} {self.kind}",
            size=f"{n} elements of {dtype}",
            elements=n,
            ready=lambda numba: numba.ready(op, self.kind, dtype),
            parallel_min=dispatch.limits(op, self.kind, dtype)[0],
            written=dispatch.itemsize(dtype) * KINDS[self.kind][1] * n,
        )

    def __repr__(self) -> str:
        return f"<fastact.{self.__name__}>"

    def __reduce__(self) -> Any:
        return _unpickle, (self.op.name, self.kind)


class PreluBackward(Method):
    """prelu.backward(dy, x, /, weight, *, out=None)

    The gradients of f(x) = x if x > 0 else weight·x.

    Parameters
    ----------
    dy : array_like
        The gradient by the output y = f(x).
    x : array_like
        Of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64.
    weight : float or array_like
        Broadcasts against x.
    out : ndarray, optional
        For dx; also `dy` or `x`.

    Returns
    -------
    dx : ndarray or scalar
        dy·f'(x).
    dweight : ndarray
        The gradient by `weight`, summed to its shape.

    Raises
    ------
    TypeError
        If an array is complex or of objects, strings or dates, or ``weight`` is no number.
    ValueError
        If shapes do not broadcast, or ``out`` cannot be written. Nothing is.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> x = np.array([[-1.0, 2.0], [-3.0, -4.0]])
    >>> dx, dweight = fa.prelu.backward(np.ones((2, 2)), x, np.array([0.5, 0.25]))
    >>> dx
    array([[0.5 , 1.  ],
           [0.5 , 0.25]])
    >>> dweight
    array([-4., -4.])
    """

    def __call__(self, dy: Any, x: Any, /, weight: Any, *, out: Any = None) -> tuple[Any, Any]:
        dx = super().__call__(dy, x, weight=weight, out=out)
        from fastact.maths import activations as formulas
        from fastact.maths.grammar import bind_numpy

        x, dy, weight = np.asarray(x), np.asarray(dy), np.asarray(weight)
        dtype = "float64" if dx.dtype == np.float64 else "float32"
        slope_grad = bind_numpy(dtype)[formulas.prelu_weight_grad.__name__]
        with np.errstate(all="ignore"):
            full = np.broadcast_to(dy * slope_grad(x.astype(dtype, copy=False), weight), dx.shape)
        lead = full.ndim - weight.ndim
        axes = (*range(lead), *(lead + i for i, n in enumerate(weight.shape) if n == 1 and full.shape[lead + i] != 1))
        dweight = full.sum(axis=axes, dtype=np.promote_types(dtype, full.dtype)).reshape(weight.shape)
        return dx, dweight.astype(dx.dtype, copy=False)


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

    backward: Method
    value_and_grad: Method

    def __init__(self, op: Op, variants: tuple[str, Mapping[str, Activation | None]] | None = None) -> None:
        def methods(kind: str) -> tuple[str, Mapping[str, Any]] | None:
            if variants is None:
                return None
            return variants[0], {k: v and getattr(v, kind, None) for k, v in variants[1].items()}

        super().__init__(op, "forward", variants)
        self.backward = (PreluBackward if op.name == "prelu" else Method)(op, "backward", methods("backward"))
        self.value_and_grad = Method(op, "value_and_grad", methods("value_and_grad"))
        if op.grad_from_output is not None:
            self._backward_from_output = Method(op, "backward_from_output")
        self.name = op.name
        self.params = {p.name: p.default for p in op.params}
        self.formula = op.formula

    @property
    def backward_from_output(self) -> Method:
        """``backward_from_output(dy, y)``; `AttributeError` where the derivative is no function of the output."""
        if self.op.grad_from_output is None:
            raise AttributeError(
                f"{self.name} has no backward_from_output: its derivative is not a function of its output; "
                f"use {self.name}.backward(dy, x)"
            )
        return self._backward_from_output

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

        return cython_aot.embedded(self.name, kind, dtype)


for _class in (Method, Activation):
    _class.__doc__ = _Documentation(_class.__doc__)  # type: ignore[assignment]


def _unpickle(name: str, kind: str) -> Method:
    activation = activations[name]
    return activation if kind == "forward" else getattr(activation, kind)


def _make() -> dict[str, Activation]:
    made: dict[str, Activation] = {}
    for op in reversed(OPS.values()):
        # gelu(approximate="tanh") is gelu_tanh
        variants = ("approximate", {"none": None, "tanh": made["gelu_tanh"]}) if op.name == "gelu" else None
        made[op.name] = Activation(op, variants)
    return {name: made[name] for name in OPS}


activations: dict[str, Activation] = _make()


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
        For an unknown name; the message has the nearest ones. Also for a function over an axis, such as softmax.

    Examples
    --------
    >>> import fastact as fa
    >>> fa.get("LeakyRelu")
    <fastact.leaky_relu>
    """
    found = resolve(name, FUNCTIONS)
    if found in FUNCTIONS:
        raise ValueError(f"{found} works over an axis, not on each element; it is fastact.{found}")
    return activations[found]
