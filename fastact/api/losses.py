"""Losses that give their gradient in the same pass."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastact import dispatch
from fastact.api.arguments import (
    FILLED,
    broadcast,
    check_out,
    contiguous,
    delivered,
    dtypes_of,
    integer,
    refuse_masked,
    result_buffer,
    row_plan,
)
from fastact.api.replay import replayed
from fastact.api.shown import shown_names
from fastact.runtime import _driver
from fastact.spec.call import VALUE_ONLY
from fastact.spec.kernel import KernelSpec, compute_dtype, itemsize, row_kernels_of
from fastact.spec.messages import at, first, shown
from fastact.spec.rows import ROWS

# elements whose losses are summed in one vector before they go to the sum over all
LOSS_ROW = 2048
# probabilities of a row add up to 1 so nearly: those that were rounded to bfloat16 do
SUM_TOLERANCE = 0.01
REDUCTIONS = ("mean", "sum", "none")


def _loss_dtype(name: str, x: NDArray[Any], t: NDArray[Any]) -> tuple[str, str]:
    # class indices, and probabilities given as 0 and 1 or False and True, have no say
    return dtypes_of(name, *((x,) if t.dtype.kind in "iub" else (x, t)))


def _numpy_dtype(name: str, *arrays: NDArray[Any]) -> np.dtype[Any]:
    if name != "bfloat16":
        return np.dtype(name)
    return next(a.dtype for a in arrays if a.dtype.name == name)


class Loss:
    """What the losses have in common: reductions, and where results go."""

    name: str
    arrays: tuple[str, str]  # the names of its first two arguments
    kernel_names: tuple[str, ...]

    def __init__(self) -> None:
        self.__name__ = self.__qualname__ = self.name
        self._made: dict[str, _driver.Function] = {}

    def _function(self, kernel: str) -> _driver.Function:
        if kernel not in self._made:
            self._made[kernel] = dispatch.make_rows(kernel)
        return self._made[kernel]

    def kernels(self, kind: str, dtype: str) -> list[KernelSpec]:
        """The kernels behind a kind."""
        names = self.kernel_names if kind in ("forward", "value_and_grad") else ()
        return [spec for name in names for spec in row_kernels_of(name, compute_dtype(dtype))]

    def _check_given(self, arrays: Iterable[Any], reduction: str, check: Any = False) -> None:
        """What is said of arguments before arrays are looked at."""
        if reduction not in REDUCTIONS:
            raise ValueError(
                f"{self.name}: reduction must be one of {', '.join(map(repr, REDUCTIONS))}, not {reduction!r}"
            )
        if not isinstance(check, (bool, np.bool_)):
            raise TypeError(f"{self.name}: check must be True or False, not {shown(check)}")
        refuse_masked(self.name, arrays, FILLED)

    def _placed(self, arrays: tuple[Any, ...], given: tuple[Any, ...]) -> tuple[Any, Any]:
        """The call with its arguments, where its arrays are."""
        call: Any = self._on_device if _driver.elsewhere(arrays) else self._on_host  # type: ignore[attr-defined]
        return call(*given)  # type: ignore[no-any-return]

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
        refuse_masked(self.name, given.values(), FILLED)
        x, t = (None if given.get(name) is None else np.asarray(given[name]) for name in self.arrays)
        dtype = "float32" if x is None else _loss_dtype(self.name, x, x if t is None else t)[0]
        elements, rows = (0, 0) if x is None else (x.size, self._rows(x, given))
        return row_plan(f"{self.name} {kind}", self._kernel(t, given), dtype, elements, rows)

    def _kernel(self, t: NDArray[Any] | None, given: Mapping[str, Any]) -> str:
        # the kernel of a call with these targets and keywords
        raise NotImplementedError

    def _rows(self, x: NDArray[Any], given: Mapping[str, Any]) -> int | None:
        # None: every element by itself
        raise NotImplementedError

    __dir__ = shown_names

    def __repr__(self) -> str:
        return f"<fastact.{self.name}>"

    def __reduce__(self) -> Any:
        return _unpickle, (self.name,)


class LabelError(ValueError, IndexError):
    """A label that is not among the classes."""


class LabelLoss(Loss):
    """A loss of rows that have a label each."""

    def _axis(self, axis: Any, x: NDArray[Any]) -> int:
        return int(np.lib.array_utils.normalize_axis_index(integer(f"{self.name}: axis", axis), x.ndim))

    def _rows(self, x: NDArray[Any], given: Mapping[str, Any]) -> int:
        axis = np.lib.array_utils.normalize_axis_index(given.get("axis", -1), x.ndim)
        return math.prod(n for i, n in enumerate(x.shape) if i != axis)

    def _weight(self, weight: Any, classes: int, compute: str) -> NDArray[Any] | None:
        if weight is None:
            return None
        weight = np.asarray(weight)
        dtypes_of(f"{self.name}: weight", weight)
        if weight.shape != (classes,):
            raise ValueError(f"{self.name}: weight has shape {weight.shape}, and there are {classes} classes")
        return contiguous(weight, compute)

    def _checked_labels(
        self, labels: NDArray[Any], classes: int, ignore_index: int | None, weight: NDArray[Any] | None
    ) -> tuple[NDArray[np.int64], NDArray[Any] | None, float]:
        """Labels, -1 for those to be ignored; the weight of each; what a mean divides by: the rows that count, or the
        sum of their labels' weights."""
        ignored = ignore_index if ignore_index is not None and -(1 << 63) <= ignore_index < 1 << 63 else None
        if labels.dtype.itemsize == 8 and labels.dtype.kind == "u" and labels.size and labels.max() >= 1 << 63:
            self._refuse_label(labels, classes, ignore_index)
        # a copy: the gradient may be written over the labels
        found = np.array(labels, np.int64, order="C")
        count: float = _driver.check_labels(found, classes, ignored is not None, ignored or 0)
        if count < 0:
            self._refuse_label(labels, classes, ignore_index)
        if weight is None or not weight.size:
            return found, None, float(count)
        weights = np.asarray(weight.take(found, mode="wrap"))
        if count < found.size:
            weights[found < 0] = 0
        return found, weights, _driver.pairwise(weights)

    def _refuse_label(self, labels: NDArray[Any], classes: int, ignore_index: int | None) -> None:
        bad = (labels < 0) | (labels >= classes)
        if ignore_index is not None:
            bad &= labels != ignore_index
        index = first(bad)
        raise LabelError(f"{self.name}: label {int(labels[index])}{at(index)} is out of range for {classes} classes")


def check_labels_shape(name: str, y: Any, need: tuple[int, ...], other: tuple[int, ...], indices: bool) -> None:
    """`ValueError` where class indices or probabilities have not the shape that they need; `other` is the others'."""
    if y.shape == need:
        return
    what, others = ("class indices", "probabilities are floats")
    if not indices:
        what, others = ("probabilities", "class indices are integers")
    hint = f" ({others})" if y.shape == other else ""
    raise ValueError(f"{name}: labels of {y.dtype} are {what} and need the shape {need}, not {y.shape}{hint}")


def _gradient(dx: Any, scratch: int = -1) -> tuple[int, int]:
    """Flags of a kernel, and the argument in the place of which it needs memory, where there is no gradient."""
    return (0, -1) if dx is not None else (VALUE_ONLY, scratch)


def divided(total: float, count: float) -> float:
    """The mean of a sum, NaN of nothing."""
    return total / count if count else math.nan


class SoftmaxCrossEntropy(LabelLoss):
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
    z_loss : float
        At least 0: ``z_loss·log(sum(exp(logits)))**2`` is added to the loss of each row that counts.
    reduction : {"mean", "sum", "none"}
        The mean is over the rows that count; with `weight` and class indices it divides by the sum of their labels'
        weights (as PyTorch).
    check : bool
        Whether rows of probabilities must have no negative element and a sum of 1, to within 0.01. Class indices are
        looked at always.

    Returns
    -------
    scalar or ndarray
        The loss; with ``reduction="none"`` one for each row. ``value_and_grad(...)`` gives ``(loss, dlogits)``, the
        gradient of the reduced loss (of the sum for "none"), into ``out`` if given, which may be `logits`.

    Raises
    ------
    LabelError
        For a label out of range, naming the first position; it is a ValueError and an IndexError. Nothing is written.
    TypeError
        If an array is masked, complex or of objects, strings or dates, or a number is none; nothing is written.
    AxisError, ValueError
        If the axis is out of range, shapes do not fit, a row is none of probabilities, an option is none of those
        above, or `out` cannot be written; nothing is written.

    Notes
    -----
    As `torch.nn.functional.cross_entropy`, but for `ignore_index`, which is None by default. Label smoothing: Szegedy,
    Vanhoucke, Ioffe, Shlens and Wojna, Rethinking the Inception Architecture, CVPR 2016. z_loss: Chowdhery et al.,
    PaLM, JMLR 24, 2023, section 5.

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
    kernel_names = ("cross_entropy", "cross_entropy_of_shares")

    def _kernel(self, t: NDArray[Any] | None, given: Mapping[str, Any]) -> str:
        return "cross_entropy" if t is None or t.dtype.kind in "iu" else "cross_entropy_of_shares"

    def __call__(
        self, logits: Any, labels: Any, *, axis: int = -1, weight: Any = None, ignore_index: int | None = None,
        label_smoothing: float = 0.0, z_loss: float = 0.0, reduction: str = "mean", check: bool = True,
    ) -> Any:  # fmt: skip
        if self._plain(axis, weight, ignore_index, label_smoothing, z_loss, reduction, check):
            function = self._function("cross_entropy")
            done = _driver.mean_by_label(function, logits, labels, None, False, label_smoothing, z_loss)
            if done is not None:
                return done[0]
        given = axis, weight, ignore_index, label_smoothing, z_loss, reduction, check
        return self._general(logits, labels, *given, None, False)[0]

    def value_and_grad(
        self, logits: Any, labels: Any, *, axis: int = -1, weight: Any = None, ignore_index: int | None = None,
        label_smoothing: float = 0.0, z_loss: float = 0.0, reduction: str = "mean", check: bool = True,
        out: Any = None,
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
        if self._plain(axis, weight, ignore_index, label_smoothing, z_loss, reduction, check):
            function = self._function("cross_entropy")
            done = _driver.mean_by_label(function, logits, labels, out, True, label_smoothing, z_loss)
            if done is not None:
                return done
        given = axis, weight, ignore_index, label_smoothing, z_loss, reduction, check
        return self._general(logits, labels, *given, out, True)

    @staticmethod
    def _plain(
        axis: Any, weight: Any, ignore_index: Any, smoothing: Any, z_loss: Any, reduction: Any, check: Any
    ) -> bool:
        # numbers as the general way would take them
        return (
            axis == -1
            and weight is None
            and ignore_index is None
            and type(smoothing) is float
            and 0.0 <= smoothing <= 1.0
            and type(z_loss) is float
            and 0.0 <= z_loss < math.inf
            and reduction == "mean"
            and type(check) is bool
        )

    def _general(
        self, logits: Any, labels: Any, axis: int, weight: Any, ignore_index: int | None, smoothing: float,
        z_loss: float, reduction: str, check: bool, out: Any, grad: bool,
    ) -> tuple[Any, Any]:  # fmt: skip
        given = logits, labels, axis, weight, ignore_index, smoothing, z_loss, reduction, check, out, grad
        return self._placed((logits, labels, weight, out), given)

    def _check_arguments(
        self, arrays: tuple[Any, ...], smoothing: float, z_loss: float, reduction: str, check: bool
    ) -> None:
        self._check_given(arrays, reduction, check)
        if type(smoothing) is not float and not isinstance(smoothing, numbers.Real):
            raise TypeError(f"{self.name}: label_smoothing must be a number in [0, 1], not {shown(smoothing)}")
        if not 0.0 <= smoothing <= 1.0:
            raise ValueError(f"{self.name}: label_smoothing must be in [0, 1], not {smoothing}")
        if type(z_loss) is not float and not isinstance(z_loss, numbers.Real):
            raise TypeError(f"{self.name}: z_loss must be a number, not {shown(z_loss)}")
        if not 0.0 <= z_loss < math.inf:
            raise ValueError(f"{self.name}: z_loss must be finite and at least 0, not {z_loss}")

    # neither overflow nor underflow in what is rounded to the result's dtype is news
    @np.errstate(all="ignore")
    def _on_host(
        self, logits: Any, labels: Any, axis: int, weight: Any, ignore_index: int | None, smoothing: float,
        z_loss: float, reduction: str, check: bool, out: Any, grad: bool,
    ) -> tuple[Any, Any]:  # fmt: skip
        self._check_arguments((logits, labels, weight, out), smoothing, z_loss, reduction, check)
        x, y = np.asarray(logits), np.asarray(labels)
        indices = y.dtype.kind in "iu"
        name, compute = _loss_dtype(self.name, x, y)
        result_dtype = _numpy_dtype(name, x, y)
        axis = self._axis(axis, x)
        rows_shape = x.shape[:axis] + x.shape[axis + 1 :]
        classes = x.shape[axis]
        check_labels_shape(
            self.name, y, rows_shape if indices else x.shape, x.shape if indices else rows_shape, indices
        )
        if ignore_index is not None:
            ignore_index = integer(f"{self.name}: ignore_index", ignore_index)
            if not indices:
                raise ValueError(f"{self.name}: ignore_index needs labels that are class indices")
        weight = self._weight(weight, classes, compute)
        if out is not None:
            check_out(self.name, out, x.shape, result_dtype)
        if indices:
            y, _, count = self._checked_labels(y, classes, ignore_index, weight)

        rows = contiguous(np.moveaxis(x, axis, -1), compute)
        loss = np.zeros(rows_shape, compute)
        targets = None if indices else self._targets(y, axis, weight, smoothing, compute, check)
        dx = None
        if grad:
            dx = result_buffer(out if axis == x.ndim - 1 else None, rows.shape, rows.dtype, (rows, targets), (weight,))
        count = count if indices else float(loss.size)
        factor = divided(1.0, count) if reduction == "mean" else 1.0
        if classes and rows.size:
            size = loss.size, classes
            if targets is None:
                scalars = factor, float(smoothing), float(z_loss)
                by_label = self._function("cross_entropy")
                by_label.run_rows((rows, y, weight, loss, dx), *size, scalars, *_gradient(dx, scratch=4))
            else:
                by_target = self._function("cross_entropy_of_shares")
                by_target.run_rows((rows, targets, loss, dx), *size, (factor, float(z_loss)), *_gradient(dx))
        if reduction == "none":
            value = loss.astype(result_dtype, copy=False)[()]
        else:
            total = _driver.pairwise(loss)
            value = result_dtype.type(total if reduction == "sum" else divided(total, count))
        if dx is None:
            return value, None
        return value, self._delivered(np.moveaxis(dx, -1, axis), out, result_dtype)

    @replayed
    def _on_device(
        self, logits: Any, labels: Any, axis: int, weight: Any, ignore_index: int | None, smoothing: float,
        z_loss: float, reduction: str, check: bool, out: Any, grad: bool,
    ) -> tuple[Any, Any]:  # fmt: skip
        """The call for arrays on a GPU."""
        from fastact.api import device_losses

        self._check_arguments((logits, labels, weight, out), smoothing, z_loss, reduction, check)
        if ignore_index is not None:
            ignore_index = integer(f"{self.name}: ignore_index", ignore_index)
        kernel = "cross_entropy" if device_losses.has_indices(labels) else "cross_entropy_of_shares"
        scalars = {"label_smoothing": float(smoothing), "z_loss": float(z_loss)}
        return device_losses.by_label(
            self.name, kernel, logits, labels, self.arrays, integer(f"{self.name}: axis", axis), weight, ignore_index,
            scalars, reduction, out, grad,
        )  # fmt: skip

    def _targets(
        self, y: NDArray[Any], axis: int, weight: Any, smoothing: float, compute: str, check: bool
    ) -> NDArray[Any]:
        targets = contiguous(np.moveaxis(y, axis, -1), compute)
        if check and not _driver.are_probabilities(targets, SUM_TOLERANCE, dispatch.PARALLEL_MIN_BYTES["cheap"]):
            self._refuse_rows(targets)
        if smoothing:
            targets = targets * targets.dtype.type(1 - smoothing) + targets.dtype.type(smoothing / targets.shape[-1])
        return targets if weight is None else targets * weight

    def _refuse_rows(self, targets: NDArray[Any]) -> None:
        sums = targets.sum(-1, dtype=np.float64)
        negative = np.asarray((targets < 0).any(-1))
        row = first(negative | ~(np.abs(sums - 1) <= SUM_TOLERANCE))
        what = f"have {targets[row].min()} in" if negative[row] else f"sum to {sums[row]:.6g} in"
        raise ValueError(
            f"{self.name}: labels are probabilities and {what} the row{at(row)}; with check=False that is no error"
        )


class NLLLoss(LabelLoss):
    """Negative log-likelihood: -weight[label]*log_probabilities[label] of each row, and its gradient.

    Parameters
    ----------
    log_probabilities : array_like
        Of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64.
    labels : array_like
        Class indices, integers of the shape of `log_probabilities` without `axis`.
    axis : int
        The axis of the classes.
    weight : array_like, optional
        One factor for each class.
    ignore_index : int, optional
        Rows with this label count for nothing: their loss and gradient are 0.
    reduction : {"mean", "sum", "none"}
        The mean is over the rows that count; with `weight` it divides by the sum of their labels' weights (as PyTorch).

    Returns
    -------
    scalar or ndarray
        The loss; with ``reduction="none"`` one for each row. ``value_and_grad(...)`` gives the gradient by the
        log-probabilities as well: -weight[label] at the label, divided as the mean, and 0 elsewhere.

    Raises
    ------
    LabelError
        For a label out of range, naming the first position; it is a ValueError and an IndexError. Nothing is written.
    TypeError
        If an array is masked, complex or of objects, strings or dates, labels are no integers, or a number is none;
        nothing is written.
    AxisError, ValueError
        If the axis is out of range, shapes do not fit, an option is none of those above, or `out` cannot be written;
        nothing is written.

    Notes
    -----
    As `torch.nn.functional.nll_loss`, but for `ignore_index`, which is None by default. What `log_softmax` gives is
    what it takes; `softmax_cross_entropy` does both in one pass, from logits. Elements are copied, and one product for
    each row is computed, in float32 or float64, whichever backend is chosen.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> x = np.log([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]])
    >>> print(fa.nll_loss(x, [1, 0], reduction="none").round(6))
    [1.386294 2.079442]
    >>> print(fa.nll_loss(x, [1, 0], weight=[1.0, 3.0, 1.0]).round(6))
    1.559581
    """

    name = "nll_loss"
    arrays = ("log_probabilities", "labels")
    kernel_names = ()

    def __call__(
        self, log_probabilities: Any, labels: Any, *, axis: int = -1, weight: Any = None,
        ignore_index: int | None = None, reduction: str = "mean",
    ) -> Any:  # fmt: skip
        return self._run(log_probabilities, labels, axis, weight, ignore_index, reduction, None, False)[0]

    def value_and_grad(
        self, log_probabilities: Any, labels: Any, *, axis: int = -1, weight: Any = None,
        ignore_index: int | None = None, reduction: str = "mean", out: Any = None,
    ) -> tuple[Any, NDArray[Any]]:  # fmt: skip
        """The loss and its gradient by the log-probabilities, which is written in one pass.

        Parameters
        ----------
        log_probabilities, labels, **keywords
            As for the loss itself.
        out : ndarray, optional
            For the gradient, of the shape of `log_probabilities`; also `log_probabilities` itself.

        Returns
        -------
        loss : scalar or ndarray
            As the loss itself gives it.
        gradient : ndarray
            Of the reduced loss, with ``reduction="none"`` of the sum; `out` if given.

        Raises
        ------
        LabelError, TypeError, ValueError
            As the loss itself, and for an `out` that cannot take the gradient; nothing is written.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> loss, gradient = fa.nll_loss.value_and_grad(np.log([[0.5, 0.5], [0.25, 0.75]]), [0, 1])
        >>> print(loss.round(6), gradient)
        0.490415 [[-0.5  0. ]
         [ 0.  -0.5]]
        """
        return self._run(log_probabilities, labels, axis, weight, ignore_index, reduction, out, True)

    def _plan(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], kind: str = "forward") -> dispatch.Plan:
        function: Any = self if kind == "forward" else self.value_and_grad
        given = inspect.signature(function).bind_partial(*args, **kwargs).arguments
        refuse_masked(self.name, given.values(), FILLED)
        x = np.asarray(given.get("log_probabilities", np.zeros((0, 0), np.float32)))
        dtype, rows = dtypes_of(self.name, x)[0], self._rows(x, given)
        # the value takes a line of memory for each row
        elements, size = (rows, 64) if kind == "forward" else (x.size, itemsize(dtype))
        return dispatch.Plan(
            call=f"{self.name} {kind}",
            size=f"{x.size} elements of {dtype} in {rows} row{'s' * (rows != 1)}",
            elements=elements,
            specs=(),
            parallel_min=dispatch.PARALLEL_MIN_BYTES["cheap"] // size,
            written=None,
            moves=True,
        )

    def _run(
        self, given: Any, labels: Any, axis: int, weight: Any, ignore_index: int | None, reduction: str, out: Any,
        grad: bool,
    ) -> tuple[Any, Any]:  # fmt: skip
        if dispatch.selected() != "auto":
            dispatch.backend()  # an error if it is not available
        arguments = given, labels, axis, weight, ignore_index, reduction, out, grad
        return self._placed((given, labels, weight, out), arguments)

    @replayed
    def _on_device(
        self, given: Any, labels: Any, axis: int, weight: Any, ignore_index: int | None, reduction: str, out: Any,
        grad: bool,
    ) -> tuple[Any, Any]:  # fmt: skip
        from fastact.api import device_losses

        self._check_given((given, labels, weight, out), reduction)
        if ignore_index is not None:
            ignore_index = integer(f"{self.name}: ignore_index", ignore_index)
        if not device_losses.has_indices(labels):
            raise TypeError(f"{self.name}: labels are class indices and must be integers")
        return device_losses.by_label(
            self.name, self.name, given, labels, self.arrays, integer(f"{self.name}: axis", axis), weight,
            ignore_index, {}, reduction, out, grad,
        )  # fmt: skip

    @np.errstate(all="ignore")
    def _on_host(
        self, given: Any, labels: Any, axis: int, weight: Any, ignore_index: int | None, reduction: str, out: Any,
        grad: bool,
    ) -> tuple[Any, Any]:  # fmt: skip
        self._check_given((given, labels, weight, out), reduction)
        x, y = np.asarray(given), np.asarray(labels)
        if y.dtype.kind not in "iu":
            dtypes_of(f"{self.name}: labels", y)
            raise TypeError(f"{self.name}: labels are class indices and must be integers, not {y.dtype}")
        name, compute = _loss_dtype(self.name, x, y)
        dtype = _numpy_dtype(name, x).newbyteorder("=")
        axis = self._axis(axis, x)
        rows_shape, classes = x.shape[:axis] + x.shape[axis + 1 :], x.shape[axis]
        if y.shape != rows_shape:
            raise ValueError(f"{self.name}: labels need the shape {rows_shape}, not {y.shape}")
        if ignore_index is not None:
            ignore_index = integer(f"{self.name}: ignore_index", ignore_index)
        weight = self._weight(weight, classes, compute)
        if out is not None:
            check_out(self.name, out, x.shape, dtype)
        y, factors, count = self._checked_labels(y, classes, ignore_index, weight)

        found = np.zeros(rows_shape, x.dtype)
        if x.size and not _by_label(x, axis, y, found, put=False):
            there = np.expand_dims(np.maximum(y, 0), axis)
            np.copyto(found, np.take_along_axis(x, there, axis).reshape(rows_shape), where=y >= 0)
        losses = found.astype(compute, copy=False)
        if factors is not None:
            losses *= factors
        np.subtract(0, losses, out=losses)  # no loss is -0
        if reduction == "none":
            value = losses.astype(dtype, copy=False)[()]
        else:
            total = _driver.pairwise(losses)
            value = dtype.type(total if reduction == "sum" else divided(total, count))
        if not grad:
            return value, None
        by = count if reduction == "mean" else 1.0
        if factors is None:
            slopes = np.full(rows_shape, divided(-1.0, by), dtype)
        else:
            slopes = np.asarray(-factors.astype(np.float64) / by, dtype)
        if out is not None and out.dtype == dtype and _by_label(out, axis, y, slopes, put=True):
            return value, out
        gradient = np.empty_like(x, dtype)
        _by_label(gradient, axis, y, slopes, put=True)
        return value, delivered(out, gradient)


def _by_label(x: NDArray[Any], axis: int, labels: NDArray[np.int64], values: NDArray[Any], *, put: bool) -> bool:
    """`_driver.at_labels` where the axes of x lie in any order in memory; False if there is room between elements."""
    order = sorted(range(x.ndim), key=lambda i: -abs(x.strides[i]))
    laid, place = x.transpose(order), order.index(axis)
    if not (laid.flags.c_contiguous and laid.flags.aligned and laid.dtype.isnative):
        return False
    rows = [i - (i > axis) for i in order if i != axis]
    labels, there = np.asarray(labels.transpose(rows), order="C"), values.transpose(rows)
    ordered = np.asarray(there, order="C")
    parallel_min = dispatch.PARALLEL_MIN_BYTES["cheap"]
    _driver.at_labels(laid, place, labels, ordered, put, parallel_min, dispatch.CHUNK_BYTES)
    if not put and ordered is not there:
        there[...] = ordered
    return True


class PointwiseLoss(Loss):
    """A loss of elements, each by itself."""

    def _kernel(self, t: NDArray[Any] | None, given: Mapping[str, Any]) -> str:
        return self.name

    def _rows(self, x: NDArray[Any], given: Mapping[str, Any]) -> None:
        return None

    def _factors(self, what: str, given: Any, shape: tuple[int, ...], compute: str) -> NDArray[Any] | None:
        if given is None:
            return None
        given = np.asarray(given)
        dtypes_of(f"{self.name}: {what}", given)
        return contiguous(broadcast(f"{self.name}: {what}", given, shape, self.arrays[0]), compute)

    def _run(
        self,
        x: Any,
        t: Any,
        factors: Mapping[str, Any],
        reduction: str,
        out: Any,
        grad: bool,
        scalars: tuple[float, ...] = (),
        check: bool = False,
    ) -> tuple[Any, Any]:
        given = x, t, factors, reduction, out, grad, scalars, check
        return self._placed((x, t, *factors.values(), out), given)

    @replayed
    def _on_device(
        self, x: Any, t: Any, factors: Mapping[str, Any], reduction: str, out: Any, grad: bool,
        scalars: tuple[float, ...], check: bool,
    ) -> tuple[Any, Any]:  # fmt: skip
        from fastact.api import device_losses

        self._check_given((x, t, *factors.values(), out), reduction, check)
        named = dict(zip(ROWS[self.name].scalars[1:], scalars))
        return device_losses.of_elements(self.name, self.name, x, t, self.arrays, factors, named, reduction, out, grad)

    @np.errstate(all="ignore")
    def _on_host(
        self, x: Any, t: Any, factors: Mapping[str, Any], reduction: str, out: Any, grad: bool,
        scalars: tuple[float, ...], check: bool,
    ) -> tuple[Any, Any]:  # fmt: skip
        self._check_given((x, t, *factors.values(), out), reduction, check)
        x, t = np.asarray(x), np.asarray(t)
        name, compute = _loss_dtype(self.name, x, t)
        result_dtype = _numpy_dtype(name, x, t)
        if t.shape != x.shape:
            raise ValueError(f"{self.name}: {self.arrays[1]} have shape {t.shape}, {self.arrays[0]} {x.shape}")
        if out is not None:
            check_out(self.name, out, x.shape, result_dtype)
        others = [self._factors(what, given, x.shape, compute) for what, given in factors.items()]
        rows, t = contiguous(x, compute), contiguous(t, compute)
        if check and not _driver.are_probabilities(t, -1.0, dispatch.PARALLEL_MIN_BYTES["cheap"]):
            index = first(~((t >= 0) & (t <= 1)))
            raise ValueError(
                f"{self.name}: {self.arrays[1]} must be in [0, 1], and there is {t[index]}{at(index)}; "
                "with check=False that is no error"
            )
        dx = result_buffer(out, rows.shape, rows.dtype, (rows, t, *others)) if grad else None
        losses = np.empty(x.shape, compute) if reduction == "none" else None
        sums = np.zeros(-(-x.size // LOSS_ROW), compute)
        factor = divided(1.0, x.size) if reduction == "mean" else 1.0
        if x.size:
            flat = [None if a is None else a.reshape(-1) for a in (rows, t, *others, dx, losses)]
            whole = x.size // LOSS_ROW
            # the rest, as a shorter row
            for begin, n, stop in ((0, LOSS_ROW, whole), (whole, x.size - whole * LOSS_ROW, sums.size)):
                if stop > begin and n:
                    start = begin * LOSS_ROW
                    *inputs, d, each = (None if a is None else a[start : start + (stop - begin) * n] for a in flat)
                    arrays = (*inputs, sums[begin:stop], d, each)
                    numbers_of_call = factor, *scalars
                    self._function(self.name).run_rows(arrays, stop - begin, n, numbers_of_call, *_gradient(dx))
        if losses is not None:
            value = losses.astype(result_dtype, copy=False)[()]
        else:
            total = _driver.pairwise(sums)
            value = result_dtype.type(total if reduction == "sum" else divided(total, x.size))
        return value, None if dx is None else self._delivered(dx, out, result_dtype)


class SigmoidCrossEntropy(PointwiseLoss):
    """Binary cross-entropy of sigmoid(logits), its gradient by the logits in the same pass.

    Parameters
    ----------
    logits : array_like
        Of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64.
    targets : array_like
        Probabilities of class 1, in [0, 1]; integers and booleans are taken as 0 and 1. Of the shape of `logits`.
    weight : array_like, optional
        Factors of the losses; broadcasts to `logits`.
    pos_weight : array_like, optional
        Factors of the terms of class 1; broadcasts to `logits`.
    reduction : {"mean", "sum", "none"}
        The mean is over all elements.
    check : bool
        Whether `targets` must be in [0, 1].

    Returns
    -------
    scalar or ndarray
        The loss; with ``reduction="none"`` one for each element. ``value_and_grad(...)`` gives ``(loss, dlogits)``, the
        gradient of the reduced loss (of the sum for "none"), into ``out`` if given, which may be `logits`.

    Raises
    ------
    TypeError
        If an array is masked, complex or of objects, strings or dates; nothing is written.
    ValueError
        If shapes do not fit, a target is outside [0, 1] or NaN, `reduction` is none of those above, or `out` cannot be
        written; nothing is written.

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
    kernel_names = ("sigmoid_cross_entropy",)

    def __call__(
        self, logits: Any, targets: Any, *, weight: Any = None, pos_weight: Any = None, reduction: str = "mean",
        check: bool = True,
    ) -> Any:  # fmt: skip
        factors = {"weight": weight, "pos_weight": pos_weight}
        return self._run(logits, targets, factors, reduction, None, False, check=check)[0]

    def value_and_grad(
        self, logits: Any, targets: Any, *, weight: Any = None, pos_weight: Any = None, reduction: str = "mean",
        check: bool = True, out: Any = None,
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
        factors = {"weight": weight, "pos_weight": pos_weight}
        return self._run(logits, targets, factors, reduction, out, True, check=check)


softmax_cross_entropy = SoftmaxCrossEntropy()
nll_loss = NLLLoss()
sigmoid_cross_entropy = SigmoidCrossEntropy()


def _unpickle(name: str) -> Any:
    from fastact.api.functions import FUNCTIONS

    function, _, method = name.partition(".")
    return getattr(FUNCTIONS[function], method) if method else FUNCTIONS[function]
