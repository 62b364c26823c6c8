"""Functions over an axis: the softmax family, and losses that give their gradient in the same pass."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastact import _driver, _rows, dispatch

Axis = int | tuple[int, ...] | None

# elements whose losses are summed in one vector before they go to the sum over all
LOSS_ROW = 2048


def make_slots(
    name: str, doc: str = "", nin: int = 0, reduces: bool = False, fill_in: float = 0.0, fill: float = 0.0
) -> Any:
    """The gufuncs of a row function, its kernels found when first needed; with ``nin=0`` the kernels alone."""

    def resolver(dtype: str) -> tuple[int | None, Callable[..., Any] | None, int, int, int]:
        compute = "float64" if dtype == "float64" else "float32"
        size = np.dtype(compute).itemsize * 2
        return (
            *dispatch.find_row_kernel(name, compute),
            dispatch.PARALLEL_MIN_BYTES["costly"] // size,
            dispatch.CHUNK_BYTES // size,
            _driver.status()["stream_min"] if nin else sys.maxsize,
        )

    slots = _rows.RowSlots(name, doc, nin, reduces, fill_in, fill, resolver, dispatch._lock)
    dispatch.register(slots)
    if nin and "ml_dtypes" in sys.modules:
        add_bfloat16(slots)
    return slots


def add_bfloat16(slots: Any) -> None:
    """Give the gufuncs their loops for ml_dtypes.bfloat16."""
    import ml_dtypes

    dtype = np.dtype(ml_dtypes.bfloat16)
    with dispatch._lock:
        _driver.register_bfloat16(dtype)
        slots.add_bfloat16(dtype)


class RowMethod:
    """A function of arrays along an axis: a NumPy gufunc, and what its signature cannot say."""

    def __init__(self, name: str, nin: int, *, reduces: bool = False, fill_in: float = 0.0, fill: float = 0.0) -> None:
        self.__name__ = self.__qualname__ = self.name = name
        self._kernel = name.replace(".", "_")
        self._nin, self._reduces, self._fill_in, self._fill = nin, reduces, fill_in, fill
        self._slots: Any = None

    @property
    def slots(self) -> Any:
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
        if where is True and not kwargs and axis == -1:
            result = slots.direct(arrays, out)
            if result is not None:
                return result
        where = None if where is True or where is None else self._mask(arrays[0], where)
        if not (axis is None or isinstance(axis, tuple)):
            return slots.call(arrays, axis, where, out, kwargs)
        return self._along_many(arrays, axis, where, out, kwargs)

    def _mask(self, x: Any, where: Any) -> Any:
        if not hasattr(where, "dtype"):
            where = np.asarray(where)
        if where.dtype != np.bool_:
            raise TypeError(f"{self.name}: where must be a mask of booleans, not {where.dtype}")
        shape = np.shape(x)
        return np.broadcast_to(where, shape) if isinstance(where, np.ndarray) and where.shape != shape else where

    def _along_many(self, arrays: tuple[Any, ...], axis: Axis, where: Any, out: Any, kwargs: dict[str, Any]) -> Any:
        # the axes go last, as one
        keepdims = kwargs.pop("keepdims", False)
        arrays = tuple(np.asanyarray(a) for a in arrays)
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
            result = result.reshape(*lead, *(shape[i] for i in axes)).transpose(np.argsort(order))
        if out is None:
            return result
        out = out[0] if isinstance(out, tuple) else out
        if np.shape(out) != np.shape(result):
            raise ValueError(f"{self.name}: out has shape {np.shape(out)}, the result {np.shape(result)}")
        np.copyto(out, result, casting=kwargs.get("casting", "same_kind"))
        return out

    def __repr__(self) -> str:
        return f"<fastact.{self.name}>"

    def __reduce__(self) -> Any:
        return _unpickle, (self.name,)


class Backward(RowMethod):
    """The gradient of a row function, from its output."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name}.backward", 2)

    def __call__(
        self, dy: Any, y: Any, /, axis: Axis = -1, *, where: Any = True, out: Any = None, **kwargs: Any
    ) -> Any:
        """The gradient by x, from the gradient `dy` by y and the output y itself; 0 where a mask does not hold.

        Parameters
        ----------
        dy, y : array_like
            Of one shape.
        axis : int or tuple of int
            As for the function itself.
        where : array_like of bool
            As for the function itself.
        out : ndarray, optional
            Also `dy` or `y`.
        """
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

    def __init__(self, name: str, formula: str, example: str, *, fill: float = 0.0) -> None:
        super().__init__(name, 1, fill_in=-math.inf if name != "softmin" else math.inf, fill=fill)
        self.formula = formula
        self.backward = Backward(name)
        masked = "-inf" if fill else "0"
        self.__doc__ = f"""{name}(x, axis=-1) = {formula}

        Parameters
        ----------
        x : array_like
            Of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64.
        axis : int, tuple of int or None
            The axis or axes that a row lies along; None: all.
        where : array_like of bool
            Broadcasts to x: only the elements where it holds count; the others are {masked}.
        out : ndarray, optional
            Also x itself.
        **kwargs
            ``dtype`` and ``casting``, as of a `numpy.ufunc`.

        Returns
        -------
        ndarray
            Of x's shape. A row that the mask leaves empty is {masked}; a row of -inf alone, or with +inf or NaN where
            it counts, is NaN; an empty axis gives an empty result.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        {example}
        """

    def __call__(self, x: Any, /, axis: Axis = -1, *, where: Any = True, out: Any = None, **kwargs: Any) -> Any:
        return self._along((x,), axis, where, out, kwargs)


class LogSumExp(RowMethod):
    """log(sum(exp(x))) along an axis.

    Parameters
    ----------
    x : array_like
        Of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64.
    axis : int, tuple of int or None
        None: all axes.
    keepdims : bool
        Keep the axis, with length 1.
    where : array_like of bool
        Broadcasts to x: only the elements where it holds count.
    out : ndarray, optional

    Returns
    -------
    ndarray or scalar
        -inf for a row of which nothing counts, or -inf alone; inf for one with +inf; NaN for one with NaN.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> fa.logsumexp(np.array([[1000.0, 1000.0], [0.0, -np.inf]]))
    array([1000.69314718,    0.        ])
    """

    def __init__(self) -> None:
        super().__init__("logsumexp", 1, reduces=True, fill_in=-math.inf, fill=-math.inf)
        self.formula = "log(sum(exp(x)))"

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
    if dtype is None and all(a.dtype.name in (*_driver.DTYPES,) or a.dtype.kind in "iub" for a in arrays):
        import ml_dtypes

        _driver.register_bfloat16(np.dtype(ml_dtypes.bfloat16))
        dtype = _driver.computing_dtype([a.dtype for a in arrays])
    if dtype is None:
        kinds = ", ".join(str(a.dtype) for a in arrays)
        raise TypeError(
            f"{name} is not supported for the input types ({kinds}): it takes real floating-point arrays "
            "(float16, bfloat16, float32, float64), and integers and booleans as float64"
        )
    return dtype, "float64" if dtype == "float64" else "float32"


def _contiguous(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    return np.ascontiguousarray(array, dtype=dtype)


def _numpy_dtype(name: str, *arrays: NDArray[Any]) -> np.dtype[Any]:
    if name != "bfloat16":
        return np.dtype(name)
    return next(a.dtype for a in arrays if a.dtype.name == name)


class Loss:
    """What the losses have in common: reductions, and where results go."""

    name: str

    def __init__(self) -> None:
        self.__name__ = self.__qualname__ = self.name
        self._made: dict[str, Any] = {}

    def _slots(self, kernel: str) -> Any:
        if kernel not in self._made:
            self._made[kernel] = make_slots(kernel)
        return self._made[kernel]

    def _check_reduction(self, reduction: str) -> None:
        if reduction not in REDUCTIONS:
            raise ValueError(
                f"{self.name}: reduction must be one of {', '.join(map(repr, REDUCTIONS))}, not {reduction!r}"
            )

    def _check_out(self, out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if out is None:
            return
        if not isinstance(out, np.ndarray):
            raise TypeError(f"{self.name}: out must be an array, not {type(out).__name__}")
        if out.shape != shape:
            raise ValueError(f"{self.name}: out has shape {out.shape}, the gradient {shape}")
        if not np.can_cast(dtype, out.dtype, "same_kind"):
            raise TypeError(f"{self.name}: cannot write a gradient of {dtype} to out of {out.dtype}")
        if not out.flags.writeable:
            raise ValueError(f"{self.name}: out is read-only")

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
        Class indices, integers of the shape of `logits` without `axis`; or probabilities, floats of its shape.
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
    TypeError, ValueError
        For other input that does not fit; nothing is written.

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
        """The loss and its gradient by the logits, in one pass over them; in place if ``out=logits``."""
        if axis == -1 and weight is None and ignore_index is None and label_smoothing == 0.0 and reduction == "mean":
            done = _rows.fast_cross_entropy(self._slots("cross_entropy"), logits, labels, out, True)
            if done is not None:
                return done
        return self._general(logits, labels, axis, weight, ignore_index, label_smoothing, reduction, out, True)

    def _general(
        self, logits: Any, labels: Any, axis: int, weight: Any, ignore_index: int | None, smoothing: float,
        reduction: str, out: Any, grad: bool,
    ) -> tuple[Any, Any]:  # fmt: skip
        self._check_reduction(reduction)
        if not 0.0 <= smoothing <= 1.0:
            raise ValueError(f"{self.name}: label_smoothing must be in [0, 1], not {smoothing!r}")
        x, y = np.asarray(logits), np.asarray(labels)
        axis = np.lib.array_utils.normalize_axis_index(axis, x.ndim)
        indices = y.dtype.kind in "iu"
        rows_shape = x.shape[:axis] + x.shape[axis + 1 :]
        classes = x.shape[axis]
        name, compute = _compute_dtype(self.name, x) if indices else _compute_dtype(self.name, x, y)
        result_dtype = _numpy_dtype(name, x, y)
        if y.shape != (rows_shape if indices else x.shape):
            what = "class indices" if indices else "probabilities"
            raise ValueError(
                f"{self.name}: labels of {y.dtype} are {what} and need the shape {rows_shape if indices else x.shape}, "
                f"not {y.shape}"
            )
        if not indices and ignore_index is not None:
            raise ValueError(f"{self.name}: ignore_index needs labels that are class indices")
        if weight is not None:
            weight = np.asarray(weight)
            _compute_dtype(f"{self.name}: weight", weight)
            if weight.shape != (classes,):
                raise ValueError(f"{self.name}: weight has shape {weight.shape}, and there are {classes} classes")
            weight = _contiguous(weight, compute)
        self._check_out(out, x.shape, result_dtype)
        if indices:
            y = self._checked_labels(y, classes, ignore_index)

        rows = _contiguous(np.moveaxis(x, axis, -1), compute)
        loss = np.zeros(rows_shape, compute)
        dx = self._buffer(rows, x, out, axis) if grad else None
        if indices:
            counted = y >= 0
            number = int(np.count_nonzero(counted))
            count = _rows.pairwise(np.where(counted, weight[np.where(counted, y, 0)], 0)) if (
                weight is not None and classes) else float(number)  # fmt: skip
        else:
            count = float(loss.size)
        factor = _divided(1.0, count) if reduction == "mean" else 1.0
        if classes and rows.size:
            if indices and not smoothing:
                _rows.cross_entropy(self._slots("cross_entropy"), rows, y, weight, loss, dx, factor)
            else:
                targets = self._targets(y, classes, weight, smoothing, compute, indices)
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

    def _buffer(self, rows: NDArray[Any], x: NDArray[Any], out: Any, axis: int) -> NDArray[Any]:
        # the gradient is written where it belongs if it can be: to out, where that is laid out like the rows
        if out is None or axis != x.ndim - 1 or out.dtype != rows.dtype or not out.flags.c_contiguous:
            return np.empty_like(rows)
        if np.may_share_memory(out, rows) and out.ctypes.data != rows.ctypes.data:
            return np.empty_like(rows)
        return out

    @staticmethod
    def _delivered(dx: NDArray[Any], out: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
        if out is None:
            return dx.astype(dtype, copy=False)
        if not (out.ctypes.data == dx.ctypes.data and out.dtype == dx.dtype and out.strides == dx.strides):
            np.copyto(out, dx, casting="same_kind")
        return out

    def _checked_labels(self, labels: NDArray[Any], classes: int, ignore_index: int | None) -> NDArray[np.int64]:
        ignored = labels == ignore_index if ignore_index is not None else np.zeros(labels.shape, bool)
        bad = ((labels < 0) | (labels >= classes)) & ~ignored
        if bad.any():
            at = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))
            where = f" at position {at[0] if len(at) == 1 else at}" if at else ""
            raise IndexError(f"{self.name}: label {int(labels[at])}{where} is out of range for {classes} classes")
        return np.ascontiguousarray(np.where(ignored, -1, labels), dtype=np.int64)

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

    def __call__(
        self, logits: Any, targets: Any, *, weight: Any = None, pos_weight: Any = None, reduction: str = "mean"
    ) -> Any:
        return self._run(logits, targets, weight, pos_weight, reduction, None, False)[0]

    def value_and_grad(
        self, logits: Any, targets: Any, *, weight: Any = None, pos_weight: Any = None, reduction: str = "mean",
        out: Any = None,
    ) -> tuple[Any, NDArray[Any]]:  # fmt: skip
        """The loss and its gradient by the logits, in one pass over them; in place if ``out=logits``."""
        return self._run(logits, targets, weight, pos_weight, reduction, out, True)

    def _run(
        self, logits: Any, targets: Any, weight: Any, pos_weight: Any, reduction: str, out: Any, grad: bool
    ) -> tuple[Any, Any]:
        self._check_reduction(reduction)
        x, t = np.asarray(logits), np.asarray(targets)
        name, compute = _compute_dtype(self.name, *((x,) if t.dtype.kind in "iub" else (x, t)))
        result_dtype = _numpy_dtype(name, x, t)
        if t.shape != x.shape:
            raise ValueError(f"{self.name}: targets have shape {t.shape}, logits {x.shape}")
        self._check_out(out, x.shape, result_dtype)
        factors = []
        for what, given in (("weight", weight), ("pos_weight", pos_weight)):
            if given is not None:
                given = np.asarray(given)
                _compute_dtype(f"{self.name}: {what}", given)
                try:
                    given = _contiguous(np.broadcast_to(given, x.shape), compute)
                except ValueError:
                    message = f"{self.name}: {what} of shape {given.shape} does not broadcast to logits of {x.shape}"
                    raise ValueError(message) from None
            factors.append(given)
        rows, t = _contiguous(x, compute), _contiguous(t, compute)
        dx = None
        if grad:
            direct = out is not None and out.dtype == rows.dtype and out.flags.c_contiguous and not any(
                a is not None and a.ctypes.data != out.ctypes.data and np.may_share_memory(out, a)
                for a in (rows, t, *factors)
            )  # fmt: skip
            dx = out if direct else np.empty(x.shape, compute)
        losses = np.empty(x.shape, compute) if reduction == "none" else None
        sums = np.zeros(-(-x.size // LOSS_ROW), compute)
        factor = _divided(1.0, x.size) if reduction == "mean" else 1.0
        if x.size:
            slots = self._slots("sigmoid_cross_entropy")
            _rows.sigmoid_cross_entropy(slots, rows, t, *factors, sums, dx, losses, LOSS_ROW, factor)
        if losses is not None:
            value = losses.astype(result_dtype, copy=False)[()]
        else:
            total = _rows.pairwise(sums)
            value = result_dtype.type(total if reduction == "sum" else _divided(total, x.size))
        return value, None if dx is None else SoftmaxCrossEntropy._delivered(dx, out, result_dtype)


softmax = RowFunction(
    "softmax",
    "exp(x)/sum(exp(x))",
    """>>> print(fa.softmax([[0.0, np.log(3.0)], [1.0, 1.0]]))
        [[0.25 0.75]
         [0.5  0.5 ]]""",
)
log_softmax = RowFunction(
    "log_softmax",
    "x - log(sum(exp(x)))",
    """>>> print(fa.log_softmax([0.0, 100.0]))
        [-1.00000000e+02 -3.72007598e-44]""",
    fill=-math.inf,
)
softmin = RowFunction(
    "softmin",
    "exp(-x)/sum(exp(-x))",
    """>>> print(fa.softmin([0.0, -np.log(3.0)]))
        [0.25 0.75]""",
)
sparsemax = RowFunction(
    "sparsemax",
    "max(x - t, 0) with t such that its sum is 1",
    """>>> print(fa.sparsemax([1.0, 0.5, -1.0]))
        [0.75 0.25 0.  ]""",
)
logsumexp = LogSumExp()
softmax_cross_entropy = SoftmaxCrossEntropy()
sigmoid_cross_entropy = SigmoidCrossEntropy()


def _unpickle(name: str) -> Any:
    function, _, method = name.partition(".")
    return getattr(globals()[function], method) if method else globals()[function]
