"""Softmax, with what surrounds it in attention: scale, bias and a causal mask, in the same pass."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastact import dispatch
from fastact.api.arguments import (
    broadcast,
    check_out,
    delivered,
    is_labelled,
    memory_dtype,
    number,
    refuse_masked,
    row_plan,
    single_out,
)
from fastact.api.over_axis import DTYPES, KEYWORDS, LAST, WHERE, Axis, Backward, RowFunction, RowMethod
from fastact.runtime import _driver
from fastact.spec.kernel import KernelSpec, compute_dtype, row_kernels_of
from fastact.spec.rows import ROWS

# types of scales that need no look at what they are
PLAIN = {int, np.float16, np.float32, np.float64}

# lines of docstrings
_SCALE = "A finite number, also 0 or negative, in the dtype of the arrays, which a Python float takes too."
_CAUSAL = """Along the other one of the last two axes, element i lets only elements 0 to i of its row count; what
            {arrays} there is not looked at, and the result is 0."""
_ERRORS = """TypeError
            If an array is masked, complex or of objects, strings or dates, `where` not of booleans, `scale` no number
            or `causal` no truth value{more}.
        AxisError, ValueError
            If an axis is out of range or named twice, shapes do not fit, `scale` is not finite, the axis is none of the
            last two with `causal`, or `out` cannot be written; nothing is."""


class _Run:
    """A call with a scale, a bias or a causal mask: its arrays as `_driver.Function.run_led` takes them.

    Every check is made before anything is written.
    """

    def __init__(
        self,
        name: str,
        given: Mapping[str, Any],
        axis: Axis,
        where: Any,
        scale: float,
        causal: bool,
        bias: Any,
        out: Any,
    ) -> None:
        refuse_masked(name, (*given.values(), where, bias, *(out if isinstance(out, tuple) else (out,))), WHERE)
        self.name, self.causal = name, causal
        self.out = single_out(name, out)
        arrays = {what: np.asarray(a) for what, a in given.items()}
        dtypes = [a.dtype for a in arrays.values()]
        self.bias = None
        if bias is not None:
            self.bias = np.asarray(bias)
            if self.bias.dtype.kind in "biu":
                hint = "; a mask is where=" if self.bias.dtype.kind == "b" else ""
                raise TypeError(f"{name}: bias must be of floating-point numbers, not {self.bias.dtype}{hint}")
            # a Python float takes the dtype of x
            dtypes += [] if type(bias) is float else [self.bias.dtype]
        self.dtype, self.memory = memory_dtype(name, dtypes)
        self.scale = self._scale(scale)
        self.shape = self._common(arrays)
        self.order, self.axes = self._axes(axis)
        self.mask = self._mask(where)
        if self.bias is not None:
            self.bias = broadcast(f"{name}: bias", self._laid(self.bias), self.shape, "x")
        elif self.mask is not None and self.scale <= 0 and len(arrays) == 1:
            # the mask fills it: a scaled -inf would not be left out
            self.bias = np.broadcast_to(np.zeros((), self.memory), self.shape)
        if self.out is not None:
            check_out(name, self.out, self.shape, self.memory)
        laid = map(self._laid, arrays.values())
        self.arrays = [a if a.shape == self.shape else np.broadcast_to(a, self.shape) for a in laid]

    def _scale(self, scale: float) -> float:
        # as kernels take it
        if compute_dtype(self.dtype) == "float32":
            with np.errstate(all="ignore"):
                rounded = float(np.float32(scale))
            if not math.isfinite(rounded):
                raise ValueError(f"{self.name}: scale must be finite in float32, not {scale}")
            return rounded
        return scale

    def _common(self, arrays: Mapping[str, NDArray[Any]]) -> tuple[int, ...]:
        try:
            return np.broadcast_shapes(*(a.shape for a in arrays.values()))
        except ValueError:
            shapes = " and ".join(f"{what} of shape {a.shape}" for what, a in arrays.items())
            raise ValueError(f"{self.name}: {shapes} do not broadcast to each other") from None

    def _axes(self, axis: Axis) -> tuple[tuple[int, ...], tuple[int, ...]]:
        # the order in which those of rows come last, and these
        ndim = len(self.shape)
        if axis is None:
            axes: tuple[int, ...] = tuple(range(ndim))
        else:
            axes = np.lib.array_utils.normalize_axis_tuple(axis, ndim)
        if self.causal and (not isinstance(axis, int) or ndim < 2 or axes[0] < ndim - 2):
            raise ValueError(
                f"{self.name}: with causal, axis must be one of the last two axes, not {axis} of {ndim} dimension"
                + "s" * (ndim != 1)
            )
        return (*(i for i in range(ndim) if i not in axes), *axes), axes

    def _mask(self, where: Any) -> NDArray[np.bool_] | None:
        if where is True or where is None:
            return None
        where = np.asarray(where)
        if where.dtype != np.bool_:
            raise TypeError(f"{self.name}: where must be a mask of booleans, not {where.dtype}")
        return broadcast(f"{self.name}: where", where, self.shape, "arrays")

    def _laid(self, a: NDArray[Any]) -> NDArray[Any]:
        # of the dtype in memory and aligned, as kernels read it where it is
        if a.dtype != self.memory:
            with np.errstate(all="ignore"):
                return a.astype(self.memory)
        return a if a.flags.aligned else a.copy()

    def _target(self) -> NDArray[Any]:
        # `out`, where nothing is written there that is still to be read
        out = self.out
        if out is None or out.dtype != self.memory or not out.flags.aligned:
            # laid out as what is given, but not as what broadcasts
            first = self.arrays[0]
            broadcast_from = any(step == 0 and n > 1 for step, n in zip(first.strides, first.shape))
            return (
                np.empty(self.shape, self.memory) if broadcast_from else np.empty_like(first, self.memory, subok=False)
            )
        same = (a.ctypes.data == out.ctypes.data and a.strides == out.strides for a in self.arrays)
        apart = (s or not np.may_share_memory(out, a) for s, a in zip(same, self.arrays))
        if all(apart) and not any(np.may_share_memory(out, a) for a in (self.bias, self.mask) if a is not None):
            return out
        return np.empty(self.shape, self.memory)

    def _last(self, a: NDArray[Any]) -> NDArray[Any]:
        # with the axes of rows last, as one
        a = a.transpose(self.order)
        if len(self.axes) == 1:
            return a
        lead = a.ndim - len(self.axes)
        return a.reshape(*a.shape[:lead], math.prod(a.shape[lead:]))

    def result(self, function: _driver.Function) -> Any:
        target = self._target()
        y = self._last(target)
        inputs = self.arrays if self.bias is None else [*self.arrays, self.bias]
        mask = None if self.mask is None else self._last(self.mask)
        function.run_led((*map(self._last, inputs), y), mask, (self.scale,), self.causal)
        if not np.may_share_memory(y, target):
            # several axes that cannot be seen as one
            target.transpose(self.order)[...] = y.reshape([self.shape[i] for i in self.order])
        result = delivered(self.out, target)
        return result[()] if result.ndim == 0 and self.out is None else result


def _signature(function: Any, **more: Any) -> inspect.Signature:
    """That of its call, with keywords more."""
    found = inspect.signature(type(function).__call__)
    _, *known, rest = found.parameters.values()
    keywords = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, value in more.items()]
    return found.replace(parameters=[*known, *keywords, rest])


class _Scaled(RowMethod):
    """What softmax and its gradient have in common."""

    _scaled: tuple[str, ...]  # kernels, the second one with a bias
    _names: tuple[str, ...]  # of the arrays
    _led_functions: dict[bool, _driver.Function]  # by whether there is a bias, made when first needed

    def _led(self, biased: bool) -> _driver.Function:
        function = self._led_functions.get(biased)
        if function is None:
            name, fill_in = self._scaled[biased], -math.inf if self._nin == 1 else 0.0
            function = dispatch.make_rows(
                name, nin=len(ROWS[name].inputs), loop="led", fill_in=fill_in, filled=int(biased)
            )
            self._led_functions[biased] = function
        return function

    def _run(self, given: tuple[Any, ...], axis: Axis, where: Any, out: Any, kwargs: dict[str, Any]) -> Any:
        scale, causal = kwargs.pop("scale", 1.0), kwargs.pop("causal", False)
        bias = kwargs.pop("bias", None) if self._nin == 1 else None
        if not kwargs:
            # 1/np.sqrt(64) is no float, but as good as one
            if type(scale) in PLAIN and abs(scale) < 2**53:
                scale = float(scale)
            mask = None if where is True else where
            result = self._led(bias is not None).plain_led(given, axis, bias, mask, out, scale, causal)
            if result is not None:
                return result
        scale, causal = self._numbers(scale, causal)
        if _driver.elsewhere((*given, out, bias)):
            if scale == 1.0 and not causal and bias is None:
                return self._on_device(given, axis, where, out, kwargs)
            kernel = self._scaled[bias is not None]
            more = {"scalars": {"scale": scale}, "causal": causal, "bias": bias}
            return self._on_device(given, axis, where, out, kwargs, kernel=kernel, **more)
        if scale == 1.0 and not causal and bias is None:
            return self._along(given, axis, where, out, kwargs)
        self._known(kwargs)
        if any(map(is_labelled, given)):
            if bias is not None:
                kwargs["bias"] = bias
            return self._labelled(given, axis, where, out, {"scale": scale, "causal": causal, **kwargs})
        if kwargs:
            raise TypeError(f"{self.name}: {next(iter(kwargs))} is not taken together with scale, causal or bias")
        named = dict(zip(self._names, given))
        run = _Run(self.name, named, self._axis(axis), where, scale, causal, bias, out)
        return run.result(self._led(run.bias is not None))

    def _numbers(self, scale: Any, causal: Any) -> tuple[float, bool]:
        scale = number(f"{self.name}: scale", scale)
        if not math.isfinite(scale):
            raise ValueError(f"{self.name}: scale must be finite, not {scale}")
        if not isinstance(causal, (bool, np.bool_)):
            raise TypeError(f"{self.name}: causal must be True or False, not {causal!r}")
        return scale, bool(causal)

    def _plan(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dispatch.Plan:
        plan = super()._plan(args, kwargs)
        given = {
            name: kwargs.get(name, default) for name, default in (("scale", 1.0), ("causal", False), ("bias", None))
        }
        scale, causal = self._numbers(given["scale"], given["causal"])
        if scale == 1.0 and not causal and given["bias"] is None:
            return plan
        if len(args) < self._nin:
            biased = given["bias"] is not None
            return row_plan(plan.call, self._scaled[biased], "float32", 0, 0, streams=True)
        axis = self._axis(args[self._nin] if len(args) > self._nin else kwargs.get("axis", -1))
        run = _Run(
            self.name, dict(zip(self._names, args)), axis, kwargs.get("where", True), scale, causal, given["bias"], None
        )
        rows = math.prod(n for i, n in enumerate(run.shape) if i not in run.axes)
        return row_plan(
            plan.call, self._scaled[run.bias is not None], run.dtype, math.prod(run.shape), rows, streams=True
        )


class SoftmaxBackward(_Scaled, Backward):
    """The gradient of softmax from its output."""

    _scaled = ("scaled_softmax_backward",)
    _names = ("dy", "y")

    def __init__(self) -> None:
        super().__init__("softmax", "y·(dy - sum(dy·y))", "", _BACKWARD)
        self._led_functions = {}
        self.__signature__ = _signature(self, scale=1.0, causal=False)

    if TYPE_CHECKING:

        def __call__(
            self,
            dy: Any,
            y: Any,
            /,
            axis: Axis = -1,
            *,
            where: Any = True,
            out: Any = None,
            scale: Any = 1.0,
            causal: Any = False,
            **kwargs: Any,
        ) -> Any: ...

    else:
        # three defaults more would cost a call of 16 elements a tenth of its time
        def __call__(self, dy, y, /, axis=-1, *, where=True, out=None, **kwargs):
            if kwargs:
                return self._run((dy, y), axis, where, out, kwargs)
            if where is True and axis is LAST and self._function is not None:
                result = self._function.direct((dy, y), out)
                if result is not None:
                    return result
            return self._along((dy, y), axis, where, out, kwargs)


class Softmax(_Scaled, RowFunction):
    """Softmax along an axis.

    Attributes
    ----------
    name : str
    formula : str
        The definition as text.
    ufunc : numpy.ufunc
        The gufunc, signature ``(n)->(n)``, without scale, causal mask and bias.
    backward : SoftmaxBackward
        ``backward(dy, y, axis=-1)``: the gradient from the output.
    """

    _scaled = ("scaled_softmax", "biased_softmax")
    _names = ("x",)

    def __init__(self) -> None:
        super().__init__("softmax", "exp(x)/sum(exp(x))", "", "", ("", ""), doc=_FORWARD, backward=SoftmaxBackward())
        self._led_functions = {}
        self.__signature__ = _signature(self, scale=1.0, causal=False, bias=None)

    def kernels(self, kind: str, dtype: str) -> list[KernelSpec]:
        """The kernels behind a kind."""
        names = {"scaled": self._scaled, "scaled_backward": SoftmaxBackward._scaled}.get(kind)
        if names is None:
            return super().kernels(kind, dtype)
        return [spec for name in names for spec in row_kernels_of(name, compute_dtype(dtype))]

    if TYPE_CHECKING:

        def __call__(
            self,
            x: Any,
            /,
            axis: Axis = -1,
            *,
            where: Any = True,
            out: Any = None,
            scale: Any = 1.0,
            causal: Any = False,
            bias: Any = None,
            **kwargs: Any,
        ) -> Any: ...

    else:

        def __call__(self, x, /, axis=-1, *, where=True, out=None, **kwargs):
            if kwargs:
                return self._run((x,), axis, where, out, kwargs)
            if where is True and axis is LAST and self._function is not None:
                result = self._function.direct((x,), out)
                if result is not None:
                    return result
            return self._along((x,), axis, where, out, kwargs)


_FORWARD = f"""softmax(x, axis=-1, *, scale=1, causal=False, bias=None) = exp(z)/sum(exp(z)), z = scale·x + bias

        Parameters
        ----------
        x : array_like
            {DTYPES}
        axis : int, tuple of int or None
            The axis or axes that a row lies along; None: all.
        where : array_like of bool
            Broadcasts to x: only the elements where it holds count; the others are 0.
        out : ndarray, optional
            Also x itself.
        scale : float
            {_SCALE}
        causal : bool
            {_CAUSAL.format(arrays="x is")}
        bias : array_like, optional
            Of floating-point numbers; broadcasts to x, and is read where it is. -inf is an element that does not count.
        **kwargs
            {KEYWORDS} None of them with scale, causal or bias.

        Returns
        -------
        ndarray
            Of x's shape, and of its dtype or the common one of x and bias. A row of which nothing counts is 0; a row of
            x of -inf alone, or one with +inf or NaN where it counts, is NaN; an empty axis gives an empty result.

        Raises
        ------
        {_ERRORS.format(more=", or `bias` is of integers or booleans")}

        Notes
        -----
        Bridle, Probabilistic Interpretation of Feedforward Classification Network Outputs, 1990. Scale, bias and causal
        mask are those of attention (Vaswani and others, Attention Is All You Need, 2017). z is rounded once, so the
        result has the bits of softmax(z). Both axes of the causal mask count from 0, whatever their lengths, as with
        ``is_causal`` in PyTorch's ``scaled_dot_product_attention`` and JAX's ``dot_product_attention``.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> print(fa.softmax([[0.0, np.log(3.0)], [1.0, 1.0]]))
        [[0.25 0.75]
         [0.5  0.5 ]]
        >>> print(fa.softmax([0.0, 0.0, 100.0], where=[True, True, False]))
        [0.5 0.5 0. ]
        >>> print(fa.softmax(np.zeros((3, 4)), causal=True).round(2))
        [[1.   0.   0.   0.  ]
         [0.5  0.5  0.   0.  ]
         [0.33 0.33 0.33 0.  ]]
        >>> print(fa.softmax([0.0, 8.0, 8.0], scale=np.log(3.0)/8, bias=[0.0, 0.0, -np.inf]))
        [0.25 0.75 0.  ]
        """

_BACKWARD = f"""softmax.backward(dy, y, axis=-1, *, scale=1, causal=False) = scale·y·(dy - sum(dy·y))

        The gradient by x, from the gradient `dy` by y and the output y = softmax(x, axis, scale=scale, ...) itself.

        Parameters
        ----------
        dy, y : array_like
            Of one shape, or broadcasting to one.
        axis : int, tuple of int or None
            As for softmax.
        where : array_like of bool
            As for softmax; the gradient is 0 where it does not hold.
        out : ndarray, optional
            Also `dy` or `y`.
        scale : float
            As for softmax.
        causal : bool
            {_CAUSAL.format(arrays="dy and y are")}
        **kwargs
            {KEYWORDS} None of them with scale or causal.

        Returns
        -------
        ndarray
            Of the shape and dtype that `dy` and `y` broadcast to.

        Raises
        ------
        {_ERRORS.format(more="")}

        Notes
        -----
        The gradient by a bias is that with ``scale=1``, summed over the axes along which the bias was broadcast.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> print(fa.softmax.backward([1.0, 0.0], [0.25, 0.75]))
        [ 0.1875 -0.1875]
        >>> print(fa.softmax.backward([1.0, 0.0], [0.25, 0.75], scale=2.0))
        [ 0.375 -0.375]
        """

softmax = Softmax()
