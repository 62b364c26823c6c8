"""Functions over an axis: the softmax family, and losses that give their gradient in the same pass."""

from __future__ import annotations

import inspect
import math
import numbers
import operator
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastact import dispatch
from fastact.runtime import _driver, _rows
from fastact.spec.messages import at, first, shown, unsupported

Axis = int | tuple[int, ...] | None

# CPython has one object for it; any other -1 takes the general way
LAST = -1
# elements whose losses are summed in one vector before they go to the sum over all
LOSS_ROW = 2048


def make_slots(
    name: str, doc: str = "", nin: int = 0, reduces: bool = False, fill_in: float = 0.0, fill: float = 0.0
) -> _rows.RowSlots:
    """The gufuncs of a row function, its kernels found when first needed; with ``nin=0`` the kernels alone."""

    def resolver(dtype: str) -> tuple[int | None, Callable[..., Any] | None, int, int, int]:
        compute = dispatch.row_dtype(dtype)
        stream_min = _driver.status()["stream_min"] if nin else sys.maxsize
        return (*dispatch.find_row_kernel(name, compute), *dispatch.row_limits(compute), stream_min)

    slots = _rows.RowSlots(name, doc, nin, reduces, fill_in, fill, resolver, dispatch._lock)
    dispatch.register(slots)
    return slots


def _integer(what: str, value: Any, kinds: str = "an integer") -> int:
    # NumPy's axes take no booleans either
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"{what} must be {kinds}, not {type(value).__name__}")


def _broadcast(what: str, array: NDArray[Any], shape: tuple[int, ...], to: str) -> NDArray[Any]:
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(f"{what} of shape {array.shape} does not broadcast to {to} of {shape}") from None


def _check_out(name: str, out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], casting: Any = "same_kind") -> None:
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name}: out must be an array, not {type(out).__name__}")
    if out.shape != shape:
        raise ValueError(f"{name}: out has shape {out.shape}, the result {shape}")
    if not np.can_cast(dtype, out.dtype, casting):
        raise TypeError(f"{name}: cannot write a result of {dtype} to out of {out.dtype} with casting {casting!r}")
    if not out.flags.writeable:
        raise ValueError(f"{name}: out is read-only")


def _row_plan(
    call: str, kernel: str, dtype: str, elements: int, rows: int | None, streams: bool = False
) -> dispatch.Plan:
    compute = dispatch.row_dtype(dtype)
    return dispatch.Plan(
        call=call,
        size=f"{elements} elements of {dtype}" + (f" in {rows} row{'s' * (rows != 1)}" if rows is not None else ""),
        elements=elements,
        ready=lambda numba: numba.row_ready(kernel, compute),
        parallel_min=dispatch.row_limits(compute)[0],
        written=dispatch.itemsize(dtype) * elements if streams else None,
        alone="a row is not divided" if rows == 1 else "",
    )


class RowMethod:
    """A function of arrays along an axis: a NumPy gufunc, and what its signature cannot say."""

    def __init__(self, name: str, nin: int, *, reduces: bool = False, fill_in: float = 0.0, fill: float = 0.0) -> None:
        self.__name__ = self.__qualname__ = self.name = name
        self._kernel = name.replace(".", "_")
        self._nin, self._reduces, self._fill_in, self._fill = nin, reduces, fill_in, fill
        self._slots: _rows.RowSlots | None = None
        self.kernels: dict[str, tuple[str, ...]] = {"forward": (self._kernel,)}

    @property
    def slots(self) -> _rows.RowSlots:
        """The gufuncs and their kernels, made when first needed."""
        if self._slots is None:
            doc = f"{self.name} along the last axis; keyword axis chooses another."
            self._slots = make_slots(self._kernel, doc, self._nin, self._reduces, self._fill_in, self._fill)
        return self._slots

    @property
    def ufunc(self) -> np.ufunc:
        """The `numpy.ufunc` itself, with a signature over the axis."""
        return self.slots.ufunc

    def _along(self, arrays: tuple[Any, ...], axis: Axis, where: Any, out: Any, kwargs: dict[str, Any]) -> Any:
        slots = self._slots or self.slots
        if where is True and axis is LAST and not kwargs:
            result = slots.direct(arrays, out)
            if result is not None:
                return result
        axis = self._axis(axis)
        where = None if where is True or where is None else self._mask(arrays, where)
        if isinstance(axis, int):
            return slots.call(arrays, axis, where, out, kwargs)
        return self._along_many(arrays, axis, where, out, kwargs)

    def _axis(self, axis: Any) -> Axis:
        what, kinds = f"{self.name}: axis", "an integer, a tuple of integers or None"
        if isinstance(axis, tuple):
            return tuple(_integer(what, i, kinds) for i in axis)
        return None if axis is None else _integer(what, axis, kinds)

    def _mask(self, arrays: tuple[Any, ...], where: Any) -> Any:
        if not hasattr(where, "dtype") or isinstance(where, np.generic):
            where = np.asarray(where)
        if where.dtype != np.bool_:
            raise TypeError(f"{self.name}: where must be a mask of booleans, not {where.dtype}")
        shape = np.shape(arrays[0]) if len(arrays) == 1 else np.broadcast_shapes(*map(np.shape, arrays))
        if not isinstance(where, np.ndarray) or where.shape == shape:
            return where
        return _broadcast(f"{self.name}: where", where, shape, "arrays")

    def _along_many(self, arrays: tuple[Any, ...], axis: Axis, where: Any, out: Any, kwargs: dict[str, Any]) -> Any:
        # the axes go last, as one
        if isinstance(out, tuple):
            if len(out) != 1:
                raise ValueError(f"{self.name}: out must be one array, not {len(out)}")
            out = out[0]
        keepdims = kwargs.pop("keepdims", False) if self._reduces else False
        arrays = tuple(np.asanyarray(a) for a in arrays)
        _compute_dtype(self.name, *arrays)
        if where is not None:
            arrays += (where,)
        arrays = tuple(np.broadcast_arrays(*arrays, subok=True)) if len(arrays) > 1 else arrays
        ndim = arrays[0].ndim
        axes = tuple(range(ndim)) if axis is None else np.lib.array_utils.normalize_axis_tuple(axis, ndim)
        rest = tuple(i for i in range(ndim) if i not in axes)
        order = (*rest, *axes)
        shape = arrays[0].shape
        lead = tuple(shape[i] for i in rest)
        length = math.prod(shape[i] for i in axes)
        flat = [a.transpose(order).reshape(*lead, length) for a in arrays]
        mask = flat.pop() if where is not None else None
        result = self.slots.call(tuple(flat), -1, mask, None, kwargs)
        if self._reduces:
            if keepdims:
                result = np.reshape(result, tuple(1 if i in axes else n for i, n in enumerate(shape)))
        else:
            result = np.reshape(result, (*lead, *(shape[i] for i in axes))).transpose(np.argsort(order))
        if out is None:
            return result if ndim else result[()]
        casting = kwargs.get("casting", "same_kind")
        _check_out(self.name, out, np.shape(result), result.dtype, casting)
        np.copyto(out, result, casting=casting)
        return out

    def _plan(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dispatch.Plan:
        function: Any = self
        given = inspect.signature(function).bind_partial(*args, **kwargs).arguments
        arrays = [np.asarray(a) for a in args[: self._nin]]
        dtype = _compute_dtype(self.name, *arrays)[0] if arrays else "float32"
        shape = np.broadcast_shapes(*(a.shape for a in arrays)) if arrays else (0, 0)
        axis = given.get("axis", -1)
        axes = np.lib.array_utils.normalize_axis_tuple(range(len(shape)) if axis is None else axis, len(shape))
        rows = math.prod(n for i, n in enumerate(shape) if i not in axes)
        name, _, method = self.name.partition(".")
        call = f"{name} {method or 'forward'}"
        return _row_plan(call, self._kernel, dtype, math.prod(shape), rows, bool(self._nin))

    def __repr__(self) -> str:
        return f"<fastact.{self.name}>"

    def __reduce__(self) -> Any:
        return _unpickle, (self.name,)


# lines of docstrings
DTYPES = "Of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64."
KEYWORDS = "``dtype``, ``casting``, ``order`` and ``subok``, as of a `numpy.ufunc`."
ERRORS = """TypeError
            If an array is complex or of objects, strings or dates, or `where` is not of booleans.
        AxisError, ValueError
            If an axis is out of range or named twice, shapes do not fit, or `out` cannot be written; nothing is.\
"""


class Backward(RowMethod):
    """The gradient of a row function, from its output: ``backward(dy, y, axis=-1)``."""

    def __init__(self, name: str, formula: str, example: str) -> None:
        super().__init__(f"{name}.backward", 2)
        self.formula = formula
        self.__doc__ = f"""{name}.backward(dy, y, axis=-1) = {formula}

        The gradient by x, from the gradient `dy` by y and the output y = {name}(x) itself.

        Parameters
        ----------
        dy, y : array_like
            Of one shape, or broadcasting to one.
        axis : int, tuple of int or None
            As for {name}.
        where : array_like of bool
            As for {name}; the gradient is 0 where it does not hold.
        out : ndarray, optional
            Also `dy` or `y`.
        **kwargs
            {KEYWORDS}

        Returns
        -------
        ndarray
            Of the shape and dtype that `dy` and `y` broadcast to.

        Raises
        ------
        {ERRORS}

        Examples
        --------
        >>> import numpy as np, fastact as fa
        {example}
        """

    def __call__(
        self, dy: Any, y: Any, /, axis: Axis = -1, *, where: Any = True, out: Any = None, **kwargs: Any
    ) -> Any:
        return self._along((dy, y), axis, where, out, kwargs)


class RowFunction(RowMethod):
    """A function along an axis whose result has the shape of its input.

    Attributes
    ----------
    name : str
    formula : str
        The definition as text.
    ufunc : numpy.ufunc
        The gufunc, signature ``(n)->(n)``.
    backward : Backward
        ``backward(dy, y, axis=-1)``: the gradient from the output.
    """

    def __init__(
        self, name: str, formula: str, gradient: str, source: str, examples: tuple[str, str], *, fill: float = 0.0
    ) -> None:
        super().__init__(name, 1, fill_in=-math.inf if name != "softmin" else math.inf, fill=fill)
        self.formula = formula
        self.backward = Backward(name, gradient, examples[1])
        self.kernels["backward"] = (self.backward._kernel,)
        masked = "-inf" if fill else "0"
        self.__doc__ = f"""{name}(x, axis=-1) = {formula}

        Parameters
        ----------
        x : array_like
            {DTYPES}
        axis : int, tuple of int or None
            The axis or axes that a row lies along; None: all.
        where : array_like of bool
            Broadcasts to x: only the elements where it holds count; the others are {masked}.
        out : ndarray, optional
            Also x itself.
        **kwargs
            {KEYWORDS}

        Returns
        -------
        ndarray
            Of x's shape. A row that the mask leaves empty is {masked}; a row of -inf alone, or with +inf or NaN where
            it counts, is NaN; an empty axis gives an empty result.

        Raises
        ------
        {ERRORS}

        Notes
        -----
        {source}

        Examples
        --------
        >>> import numpy as np, fastact as fa
        {examples[0]}
        """

    def __call__(self, x: Any, /, axis: Axis = -1, *, where: Any = True, out: Any = None, **kwargs: Any) -> Any:
        return self._along((x,), axis, where, out, kwargs)


class LogSumExp(RowMethod):
    """logsumexp(x, axis=-1, keepdims=False) = log(sum(exp(x)))

    Parameters
    ----------
    x : array_like
        Of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64.
    axis : int, tuple of int or None
        The axis or axes that a row lies along; None: all.
    keepdims : bool
        Keep the axis, with length 1.
    where : array_like of bool
        Broadcasts to x: only the elements where it holds count.
    out : ndarray, optional
        Of the result's shape.
    **kwargs
        ``dtype``, ``casting``, ``order`` and ``subok``, as of a `numpy.ufunc`.

    Returns
    -------
    ndarray or scalar
        Of x's shape without the axis. -inf for a row of which nothing counts, or -inf alone; inf for one with +inf; NaN
        for one with NaN.

    Raises
    ------
    TypeError
        If x is complex or of objects, strings or dates, or `where` is not of booleans.
    AxisError, ValueError
        If an axis is out of range or named twice, shapes do not fit, or `out` cannot be written; nothing is.

    Notes
    -----
    No function of its output, the gradient is ``dy*fa.softmax(x, axis)``, dy with the axis kept.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> fa.logsumexp(np.array([[1000.0, 1000.0], [0.0, -np.inf]]))
    array([1000.69314718,    0.        ])
    """

    def __init__(self) -> None:
        super().__init__("logsumexp", 1, reduces=True, fill_in=-math.inf, fill=-math.inf)
        self.formula = "log(sum(exp(x)))"

    @property
    def backward(self) -> Backward:
        """`AttributeError`: the gradient is no function of the output."""
        raise AttributeError(
            "logsumexp has no backward: its gradient is not a function of its output; it is dy*softmax(x, axis), "
            "dy with the axis kept"
        )

    def __call__(
        self, x: Any, /, axis: Axis = -1, keepdims: bool = False, *, where: Any = True, out: Any = None, **kwargs: Any
    ) -> Any:
        if keepdims:
            kwargs["keepdims"] = True
        return self._along((x,), axis, where, out, kwargs)


REDUCTIONS = ("mean", "sum", "none")


def _compute_dtype(name: str, *arrays: Any) -> tuple[str, str]:
    """The dtype of a loss and its gradient, and the one it is computed in."""
    dtype = _driver.computing_dtype([a.dtype for a in arrays])
    if dtype is None:
        raise TypeError(unsupported(name, [type(a.dtype) for a in arrays]))
    return dtype, dispatch.row_dtype(dtype)


def _loss_dtype(name: str, x: NDArray[Any], t: NDArray[Any]) -> tuple[str, str]:
    # class indices, and probabilities given as 0 and 1 or False and True, have no say
    return _compute_dtype(name, *((x,) if t.dtype.kind in "iub" else (x, t)))


def _contiguous(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    array = np.asarray(array, dtype, order="C")
    return array if array.flags.aligned else array.copy()


def _numpy_dtype(name: str, *arrays: NDArray[Any]) -> np.dtype[Any]:
    if name != "bfloat16":
        return np.dtype(name)
    return next(a.dtype for a in arrays if a.dtype.name == name)


class Loss:
    """What the losses have in common: reductions, and where results go."""

    name: str
    arrays: tuple[str, str]  # the names of its first two arguments
    kernels: dict[str, tuple[str, ...]]

    def __init__(self) -> None:
        self.__name__ = self.__qualname__ = self.name
        self._made: dict[str, _rows.RowSlots] = {}

    def _slots(self, kernel: str) -> _rows.RowSlots:
        if kernel not in self._made:
            self._made[kernel] = make_slots(kernel)
        return self._made[kernel]

    def _check_reduction(self, reduction: str) -> None:
        if reduction not in REDUCTIONS:
            raise ValueError(
                f"{self.name}: reduction must be one of {', '.join(map(repr, REDUCTIONS))}, not {reduction!r}"
            )

    @staticmethod
    def _buffer(out: Any, like: NDArray[Any], same: tuple[Any, ...], others: tuple[Any, ...] = ()) -> NDArray[Any]:
        # where a kernel writes the gradient: to out, if that is laid out for it and nothing there is still to be read;
        # `same` are read element by element as it is written, `others` at any time
        def apart(a: Any) -> bool:
            return a is None or not np.may_share_memory(out, a)

        if (
            out is not None
            and out.dtype == like.dtype
            and out.flags.carray
            and all(apart(a) or a.ctypes.data == out.ctypes.data for a in same)
            and all(apart(a) for a in others)
        ):
            return out
        return np.empty(like.shape, like.dtype)

    @staticmethod
    def _delivered(dx: NDArray[Any], out: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
        if out is None:
            return dx.astype(dtype, copy=False)
        if not (out.ctypes.data == dx.ctypes.data and out.dtype == dx.dtype and out.strides == dx.strides):
            np.copyto(out, dx, casting="same_kind")
        return out

    def _plan(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], kind: str = "forward") -> dispatch.Plan:
        function: Any = self if kind == "forward" else getattr(self, kind)
        given = inspect.signature(function).bind_partial(*args, **kwargs).arguments
        x, t = (None if given.get(name) is None else np.asarray(given[name]) for name in self.arrays)
        dtype = "float32" if x is None else _loss_dtype(self.name, x, x if t is None else t)[0]
        elements, rows = (0, 0) if x is None else (x.size, self._rows(x, given))
        return _row_plan(f"{self.name} {kind}", self._kernel(t, given), dtype, elements, rows)

    def _kernel(self, t: NDArray[Any] | None, given: Mapping[str, Any]) -> str:
        # the kernel of a call with these targets and keywords
        raise NotImplementedError

    def _rows(self, x: NDArray[Any], given: Mapping[str, Any]) -> int | None:
        # None: every element by itself
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<fastact.{self.name}>"

    def __reduce__(self) -> Any:
        return _unpickle, (self.name,)


def _divided(total: float, count: float) -> float:
    return total / count if count else math.nan


class SoftmaxCrossEntropy(Loss):
    """Cross-entropy of softmax(logits), its gradient by the logits in the same pass.

    Parameters
    ----------
    logits : array_like
        Of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64.
    labels : array_like
        Class indices, integers of the shape of `logits` without `axis`; or probabilities, floats or booleans of its
        shape.
    axis : int
        The axis of the classes.
    weight : array_like, optional
        One factor for each class.
    ignore_index : int, optional
        Rows with this label count for nothing: their loss and gradient are 0.
    label_smoothing : float
        In [0, 1]: the share of the target that is spread over all classes.
    reduction : {"mean", "sum", "none"}
        The mean is over the rows that count; with `weight` and class indices it divides by the sum of their labels'
        weights (as PyTorch).

    Returns
    -------
    scalar or ndarray
        The loss; with ``reduction="none"`` one for each row. ``value_and_grad(...)`` gives ``(loss, dlogits)``, the
        gradient of the reduced loss (of the sum for "none"), into ``out`` if given, which may be `logits`.

    Raises
    ------
    IndexError
        For a label out of range, naming the first position; nothing is written.
    TypeError
        If an array is complex or of objects, strings or dates, or a number is none; nothing is written.
    AxisError, ValueError
        If the axis is out of range, shapes do not fit, an option is none of those above, or `out` cannot be written;
        nothing is written.

    Notes
    -----
    As `torch.nn.functional.cross_entropy`, but for `ignore_index`, which is None by default. Label smoothing: Szegedy,
    Vanhoucke, Ioffe, Shlens and Wojna, Rethinking the Inception Architecture, CVPR 2016.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> logits = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> print(f"{fa.softmax_cross_entropy(logits, [0, 1]):.6f}")
    0.395495
    >>> loss, dlogits = fa.softmax_cross_entropy.value_and_grad(logits, [0, 1])
    >>> print(dlogits.round(3))
    [[-0.107  0.053  0.053]
     [ 0.106 -0.212  0.106]]
    """

    name = "softmax_cross_entropy"
    arrays = ("logits", "labels")
    kernels = dict.fromkeys(("forward", "value_and_grad"), ("cross_entropy", "cross_entropy_of_shares"))

    def _kernel(self, t: NDArray[Any] | None, given: Mapping[str, Any]) -> str:
        of_labels = (t is None or t.dtype.kind in "iu") and not given.get("label_smoothing")
        return "cross_entropy" if of_labels else "cross_entropy_of_shares"

    def _rows(self, x: NDArray[Any], given: Mapping[str, Any]) -> int:
        axis = np.lib.array_utils.normalize_axis_index(given.get("axis", -1), x.ndim)
        return math.prod(n for i, n in enumerate(x.shape) if i != axis)

    def __call__(
        self, logits: Any, labels: Any, *, axis: int = -1, weight: Any = None, ignore_index: int | None = None,
        label_smoothing: float = 0.0, reduction: str = "mean",
    ) -> Any:  # fmt: skip
        if axis == -1 and weight is None and ignore_index is None and label_smoothing == 0.0 and reduction == "mean":
            done = _rows.fast_cross_entropy(self._slots("cross_entropy"), logits, labels, None, False)
            if done is not None:
                return done[0]
        return self._general(logits, labels, axis, weight, ignore_index, label_smoothing, reduction, None, False)[0]

    def value_and_grad(
        self, logits: Any, labels: Any, *, axis: int = -1, weight: Any = None, ignore_index: int | None = None,
        label_smoothing: float = 0.0, reduction: str = "mean", out: Any = None,
    ) -> tuple[Any, NDArray[Any]]:  # fmt: skip
        """The loss and its gradient by the logits, in one pass over them.

        Parameters
        ----------
        logits, labels, **keywords
            As for the loss itself.
        out : ndarray, optional
            For the gradient, of the shape of `logits`; also `logits` itself.

        Returns
        -------
        loss : scalar or ndarray
            As the loss itself gives it.
        dlogits : ndarray
            The gradient of the reduced loss, with ``reduction="none"`` of the sum; `out` if given.

        Raises
        ------
        IndexError, TypeError, ValueError
            As the loss itself, and for an `out` that cannot take the gradient; nothing is written.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> logits = np.array([[0.0, np.log(3.0)]])
        >>> loss, dlogits = fa.softmax_cross_entropy.value_and_grad(logits, [1], out=logits)
        >>> print(loss.round(6), dlogits, dlogits is logits)
        0.287682 [[ 0.25 -0.25]] True
        """
        if axis == -1 and weight is None and ignore_index is None and label_smoothing == 0.0 and reduction == "mean":
            done = _rows.fast_cross_entropy(self._slots("cross_entropy"), logits, labels, out, True)
            if done is not None:
                return done
        return self._general(logits, labels, axis, weight, ignore_index, label_smoothing, reduction, out, True)

    # neither overflow nor underflow in what is rounded to the result's dtype is news
    @np.errstate(all="ignore")
    def _general(
        self, logits: Any, labels: Any, axis: int, weight: Any, ignore_index: int | None, smoothing: float,
        reduction: str, out: Any, grad: bool,
    ) -> tuple[Any, Any]:  # fmt: skip
        self._check_reduction(reduction)
        if type(smoothing) is not float and not isinstance(smoothing, numbers.Real):
            raise TypeError(f"{self.name}: label_smoothing must be a number in [0, 1], not {shown(smoothing)}")
        if not 0.0 <= smoothing <= 1.0:
            raise ValueError(f"{self.name}: label_smoothing must be in [0, 1], not {smoothing}")
        x, y = np.asarray(logits), np.asarray(labels)
        indices = y.dtype.kind in "iu"
        name, compute = _loss_dtype(self.name, x, y)
        result_dtype = _numpy_dtype(name, x, y)
        axis = np.lib.array_utils.normalize_axis_index(_integer(f"{self.name}: axis", axis), x.ndim)
        rows_shape = x.shape[:axis] + x.shape[axis + 1 :]
        classes = x.shape[axis]
        self._check_labels_shape(y, rows_shape if indices else x.shape, x.shape if indices else rows_shape, indices)
        if ignore_index is not None:
            ignore_index = _integer(f"{self.name}: ignore_index", ignore_index)
            if not indices:
                raise ValueError(f"{self.name}: ignore_index needs labels that are class indices")
        if weight is not None:
            weight = np.asarray(weight)
            _compute_dtype(f"{self.name}: weight", weight)
            if weight.shape != (classes,):
                raise ValueError(f"{self.name}: weight has shape {weight.shape}, and there are {classes} classes")
            weight = _contiguous(weight, compute)
        if out is not None:
            _check_out(self.name, out, x.shape, result_dtype)
        if indices:
            y = self._checked_labels(y, classes, ignore_index)

        rows = _contiguous(np.moveaxis(x, axis, -1), compute)
        loss = np.zeros(rows_shape, compute)
        targets = None
        if smoothing or not indices:
            targets = self._targets(y, classes, weight, smoothing, compute, indices)
        dx = None
        if grad:
            dx = self._buffer(out if axis == x.ndim - 1 else None, rows, (rows, targets), (weight,))
        if indices:
            counted = y >= 0
            number = int(np.count_nonzero(counted))
            count = _rows.pairwise(np.where(counted, weight[np.where(counted, y, 0)], 0)) if (
                weight is not None and classes) else float(number)  # fmt: skip
        else:
            count = float(loss.size)
        factor = _divided(1.0, count) if reduction == "mean" else 1.0
        if classes and rows.size:
            if targets is None:
                _rows.cross_entropy(self._slots("cross_entropy"), rows, y, weight, loss, dx, factor)
            else:
                _rows.cross_entropy_of_shares(self._slots("cross_entropy_of_shares"), rows, targets, loss, dx, factor)
                if indices and number < y.size:
                    loss[~counted] = 0
                    if dx is not None:
                        dx[~counted] = 0
        if reduction == "none":
            value = loss.astype(result_dtype, copy=False)[()]
        else:
            total = _rows.pairwise(loss)
            value = result_dtype.type(total if reduction == "sum" else _divided(total, count))
        if dx is None:
            return value, None
        return value, self._delivered(np.moveaxis(dx, -1, axis), out, result_dtype)

    def _check_labels_shape(
        self, y: NDArray[Any], need: tuple[int, ...], other: tuple[int, ...], indices: bool
    ) -> None:
        if y.shape == need:
            return
        what, others = ("class indices", "probabilities are floats")
        if not indices:
            what, others = ("probabilities", "class indices are integers")
        hint = f" ({others})" if y.shape == other else ""
        raise ValueError(f"{self.name}: labels of {y.dtype} are {what} and need the shape {need}, not {y.shape}{hint}")

    def _checked_labels(self, labels: NDArray[Any], classes: int, ignore_index: int | None) -> NDArray[np.int64]:
        ignored = labels == ignore_index if ignore_index is not None else np.zeros(labels.shape, bool)
        bad = ((labels < 0) | (labels >= classes)) & ~ignored
        if bad.any():
            index = first(bad)
            raise IndexError(
                f"{self.name}: label {int(labels[index])}{at(index)} is out of range for {classes} classes"
            )
        # a copy: the gradient may be written over the labels
        return np.where(ignored, -1, labels).astype(np.int64, order="C")

    def _targets(
        self, y: NDArray[Any], classes: int, weight: Any, smoothing: float, compute: str, indices: bool
    ) -> NDArray[Any]:
        if indices:
            targets = np.zeros((*y.shape, classes), compute)
            np.put_along_axis(targets, np.where(y >= 0, y, 0)[..., None], 1, -1)
        else:
            targets = _contiguous(y, compute)
        if smoothing:
            targets = targets * targets.dtype.type(1 - smoothing) + targets.dtype.type(smoothing / classes)
        return targets if weight is None else targets * weight


class SigmoidCrossEntropy(Loss):
    """Binary cross-entropy of sigmoid(logits), its gradient by the logits in the same pass.

    Parameters
    ----------
    logits : array_like
        Of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64.
    targets : array_like
        Probabilities of class 1; integers and booleans are taken as 0 and 1. Of the shape of `logits`.
    weight : array_like, optional
        Factors of the losses; broadcasts to `logits`.
    pos_weight : array_like, optional
        Factors of the terms of class 1; broadcasts to `logits`.
    reduction : {"mean", "sum", "none"}
        The mean is over all elements.

    Returns
    -------
    scalar or ndarray
        The loss; with ``reduction="none"`` one for each element. ``value_and_grad(...)`` gives ``(loss, dlogits)``, the
        gradient of the reduced loss (of the sum for "none"), into ``out`` if given, which may be `logits`.

    Raises
    ------
    TypeError
        If an array is complex or of objects, strings or dates; nothing is written.
    ValueError
        If shapes do not fit, `reduction` is none of those above, or `out` cannot be written; nothing is written.

    Notes
    -----
    As `torch.nn.functional.binary_cross_entropy_with_logits`: -log(sigmoid(x)) for a target of 1, -log(sigmoid(-x)) for
    a target of 0.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> logits = np.array([2.0, -1.0])
    >>> print(f"{fa.sigmoid_cross_entropy(logits, [1, 0]):.6f}")
    0.220095
    >>> loss, dlogits = fa.sigmoid_cross_entropy.value_and_grad(logits, [1, 0])
    >>> print(dlogits.round(4))
    [-0.0596  0.1345]
    """

    name = "sigmoid_cross_entropy"
    arrays = ("logits", "targets")
    kernels = dict.fromkeys(("forward", "value_and_grad"), ("sigmoid_cross_entropy",))

    def _kernel(self, t: NDArray[Any] | None, given: Mapping[str, Any]) -> str:
        return "sigmoid_cross_entropy"

    def _rows(self, x: NDArray[Any], given: Mapping[str, Any]) -> None:
        return None

    def __call__(
        self, logits: Any, targets: Any, *, weight: Any = None, pos_weight: Any = None, reduction: str = "mean"
    ) -> Any:
        return self._run(logits, targets, weight, pos_weight, reduction, None, False)[0]

    def value_and_grad(
        self, logits: Any, targets: Any, *, weight: Any = None, pos_weight: Any = None, reduction: str = "mean",
        out: Any = None,
    ) -> tuple[Any, NDArray[Any]]:  # fmt: skip
        """The loss and its gradient by the logits, in one pass over them.

        Parameters
        ----------
        logits, targets, **keywords
            As for the loss itself.
        out : ndarray, optional
            For the gradient, of the shape of `logits`; also `logits` itself.

        Returns
        -------
        loss : scalar or ndarray
            As the loss itself gives it.
        dlogits : ndarray
            The gradient of the reduced loss, with ``reduction="none"`` of the sum; `out` if given.

        Raises
        ------
        TypeError, ValueError
            As the loss itself, and for an `out` that cannot take the gradient; nothing is written.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> loss, dlogits = fa.sigmoid_cross_entropy.value_and_grad([np.log(3.0), 0.0], [1, 0], reduction="sum")
        >>> print(loss.round(6), dlogits)
        0.980829 [-0.25  0.5 ]
        """
        return self._run(logits, targets, weight, pos_weight, reduction, out, True)

    def _factors(self, what: str, given: Any, shape: tuple[int, ...], compute: str) -> NDArray[Any] | None:
        if given is None:
            return None
        given = np.asarray(given)
        _compute_dtype(f"{self.name}: {what}", given)
        return _contiguous(_broadcast(f"{self.name}: {what}", given, shape, "logits"), compute)

    @np.errstate(all="ignore")
    def _run(
        self, logits: Any, targets: Any, weight: Any, pos_weight: Any, reduction: str, out: Any, grad: bool
    ) -> tuple[Any, Any]:
        self._check_reduction(reduction)
        x, t = np.asarray(logits), np.asarray(targets)
        name, compute = _loss_dtype(self.name, x, t)
        result_dtype = _numpy_dtype(name, x, t)
        if t.shape != x.shape:
            raise ValueError(f"{self.name}: targets have shape {t.shape}, logits {x.shape}")
        if out is not None:
            _check_out(self.name, out, x.shape, result_dtype)
        weights = self._factors("weight", weight, x.shape, compute)
        positive = self._factors("pos_weight", pos_weight, x.shape, compute)
        rows, t = _contiguous(x, compute), _contiguous(t, compute)
        dx = self._buffer(out, rows, (rows, t, weights, positive)) if grad else None
        losses = np.empty(x.shape, compute) if reduction == "none" else None
        sums = np.zeros(-(-x.size // LOSS_ROW), compute)
        factor = _divided(1.0, x.size) if reduction == "mean" else 1.0
        if x.size:
            slots = self._slots("sigmoid_cross_entropy")
            _rows.sigmoid_cross_entropy(slots, rows, t, weights, positive, sums, dx, losses, LOSS_ROW, factor)
        if losses is not None:
            value = losses.astype(result_dtype, copy=False)[()]
        else:
            total = _rows.pairwise(sums)
            value = result_dtype.type(total if reduction == "sum" else _divided(total, x.size))
        return value, None if dx is None else self._delivered(dx, out, result_dtype)


softmax = RowFunction(
    "softmax",
    "exp(x)/sum(exp(x))",
    "y·(dy - sum(dy·y))",
    "Bridle, Probabilistic Interpretation of Feedforward Classification Network Outputs, 1990.",
    (
        """>>> print(fa.softmax([[0.0, np.log(3.0)], [1.0, 1.0]]))
        [[0.25 0.75]
         [0.5  0.5 ]]
        >>> print(fa.softmax([0.0, 0.0, 100.0], where=[True, True, False]))
        [0.5 0.5 0. ]""",
        """>>> print(fa.softmax.backward([1.0, 0.0], [0.25, 0.75]))
        [ 0.1875 -0.1875]""",
    ),
)
log_softmax = RowFunction(
    "log_softmax",
    "x - log(sum(exp(x)))",
    "dy - exp(y)·sum(dy)",
    "Keeps its relative accuracy where x is the maximum and the result next to 0.",
    (
        """>>> print(fa.log_softmax([0.0, 100.0]))
        [-1.00000000e+02 -3.72007598e-44]""",
        """>>> print(fa.log_softmax.backward([1.0, 0.0], np.log([0.25, 0.75])))
        [ 0.75 -0.75]""",
    ),
    fill=-math.inf,
)
softmin = RowFunction(
    "softmin",
    "exp(-x)/sum(exp(-x))",
    "-y·(dy - sum(dy·y))",
    "softmax(-x).",
    (
        """>>> print(fa.softmin([0.0, -np.log(3.0)]))
        [0.25 0.75]""",
        """>>> print(fa.softmin.backward([1.0, 0.0], [0.25, 0.75]))
        [-0.1875  0.1875]""",
    ),
)
sparsemax = RowFunction(
    "sparsemax",
    "max(x - t, 0) with t such that its sum is 1",
    "dy - mean(dy where y > 0) where y > 0, else 0",
    "Martins and Astudillo, From Softmax to Sparsemax, ICML 2016.",
    (
        """>>> print(fa.sparsemax([1.0, 0.5, -1.0]))
        [0.75 0.25 0.  ]""",
        """>>> print(fa.sparsemax.backward([1.0, 0.0, 5.0], [0.75, 0.25, 0.0]))
        [ 0.5 -0.5  0. ]""",
    ),
)
logsumexp = LogSumExp()
softmax_cross_entropy = SoftmaxCrossEntropy()
sigmoid_cross_entropy = SigmoidCrossEntropy()

FUNCTIONS: dict[str, RowMethod | Loss] = {
    f.name: f
    for f in (softmax, log_softmax, softmin, sparsemax, logsumexp, softmax_cross_entropy, sigmoid_cross_entropy)
}


def _unpickle(name: str) -> Any:
    function, _, method = name.partition(".")
    return getattr(FUNCTIONS[function], method) if method else FUNCTIONS[function]
