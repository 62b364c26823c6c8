"""Losses of elements that differ in nothing but their formula: one row of the table each."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from numpy.typing import NDArray

from fastact.api.losses import PointwiseLoss
from fastact.spec.messages import shown


@dataclass(frozen=True)
class Row:
    """What makes such a loss.

    Parameters
    ----------
    formula, gradient : str
        Of an element, d = x - t.
    says : str
        What it is.
    x : str
        What the first array is.
    source : str
    example : str
        Of the loss and of ``value_and_grad``.
    parameter : tuple of str and float, optional
        A positive number's name, default.
    """

    formula: str
    gradient: str
    says: str
    x: str
    source: str
    example: tuple[str, str]
    parameter: tuple[str, float] | None = None


LOSSES = {
    "mse_loss": Row(
        "d**2", "2*d", "Squared error", "Predictions", "As `torch.nn.functional.mse_loss`, Keras' mean squared error.",
        (""">>> print(fa.mse_loss([1.0, 3.0], [1.0, 1.0]))
    2.0""", """>>> loss, grad = fa.mse_loss.value_and_grad([1.0, 3.0], [1.0, 1.0])
        >>> print(loss, grad)
        2.0 [0. 2.]"""),
    ),
    "l1_loss": Row(
        "abs(d)", "sign(d)", "Absolute error", "Predictions", "As `torch.nn.functional.l1_loss`.",
        (""">>> print(fa.l1_loss([1.0, 3.0], [1.0, 1.0], reduction="none"))
    [0. 2.]""", """>>> loss, grad = fa.l1_loss.value_and_grad([1.0, 3.0], [1.0, 1.0])
        >>> print(loss, grad)
        1.0 [0.  0.5]"""),
    ),
    "huber_loss": Row(
        "d**2/2 where abs(d) <= delta, else delta*(abs(d) - delta/2)", "min(max(d, -delta), delta)",
        "Squared error of what is near, absolute error of what is far", "Predictions",
        "Huber, Robust Estimation of a Location Parameter, Annals of Mathematical Statistics 35, 1964; as\n"
        "    `torch.nn.functional.huber_loss`.",
        (""">>> print(fa.huber_loss([1.5, 4.0], [1.0, 1.0], reduction="none"))
    [0.125 2.5  ]""", """>>> loss, grad = fa.huber_loss.value_and_grad([1.5, 4.0], [1.0, 1.0], delta=2.0)
        >>> print(loss, grad)
        2.0625 [0.25 1.  ]"""),
        ("delta", 1.0),
    ),
    "kl_div": Row(
        "t*(log(t) - x), 0 where t is 0", "-t",
        "Kullback-Leibler divergence of targets from what x gives the logarithms of", "Log-probabilities",
        "Kullback and Leibler, On Information and Sufficiency, Annals of Mathematical Statistics 22, 1951; as\n"
        "    `torch.nn.functional.kl_div`. The mean of a batch of rows is the sum divided by their number.",
        (""">>> print(fa.kl_div(np.log([0.5, 0.5]), [0.25, 0.75], reduction="sum").round(6))
    0.130812""", """>>> loss, grad = fa.kl_div.value_and_grad(np.log([0.5, 0.5]), [0.25, 0.75], reduction="sum")
        >>> print(grad)
        [-0.25 -0.75]"""),
    ),
}  # fmt: skip

_DOC = """{says}: {formula}, d = x - t.

    Parameters
    ----------
    x : array_like
        {x}, of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64.
    targets : array_like
        t, of the shape of `x`; integers and booleans have no say in the dtype of the result.
    {parameter}weight : array_like, optional
        Factors of the losses; broadcasts to `x`.
    reduction : {{"mean", "sum", "none"}}
        The mean is over all elements.

    Returns
    -------
    scalar or ndarray
        The loss; with ``reduction="none"`` one for each element. ``value_and_grad(...)`` gives the gradient by x as
        well, {gradient} times the factors.

    Raises
    ------
    TypeError
        If an array is masked, complex or of objects, strings or dates; nothing is written.
    ValueError
        If shapes do not fit, an option is none of those above, or `out` cannot be written; nothing is written.

    Notes
    -----
    {source}

    Examples
    --------
    >>> import numpy as np, fastact as fa
    {example}
    """
_GRADIENT_DOC = """The loss and its gradient by x, in one pass over them.

        Parameters
        ----------
        x, targets, **keywords
            As for the loss itself.
        out : ndarray, optional
            For the gradient, of the shape of `x`; also `x` itself.

        Returns
        -------
        loss : scalar or ndarray
            As the loss itself gives it.
        gradient : ndarray
            Of the reduced loss, with ``reduction="none"`` of the sum; `out` if given.

        Raises
        ------
        TypeError, ValueError
            As the loss itself, and for an `out` that cannot take the gradient; nothing is written.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        {example}
        """


class _Plain(PointwiseLoss):
    arrays = ("x", "targets")

    def __call__(self, x: Any, targets: Any, /, *, weight: Any = None, reduction: str = "mean") -> Any:
        return self._run(x, targets, {"weight": weight}, reduction, None, False)[0]

    def value_and_grad(
        self, x: Any, targets: Any, /, *, weight: Any = None, reduction: str = "mean", out: Any = None
    ) -> tuple[Any, NDArray[Any]]:
        return self._run(x, targets, {"weight": weight}, reduction, out, True)


class _WithDelta(PointwiseLoss):
    arrays = ("x", "targets")

    def _number(self, delta: Any) -> tuple[float, ...]:
        if isinstance(delta, bool) or not isinstance(delta, numbers.Real):
            raise TypeError(f"{self.name}: delta must be a number, not {shown(delta)}")
        value = float(delta)
        if not 0.0 < value < math.inf:
            raise ValueError(f"{self.name}: delta must be positive and finite, not {delta}")
        return (value,)

    def __call__(
        self, x: Any, targets: Any, /, *, delta: float = 1.0, weight: Any = None, reduction: str = "mean"
    ) -> Any:
        return self._run(x, targets, {"weight": weight}, reduction, None, False, self._number(delta))[0]

    def value_and_grad(
        self, x: Any, targets: Any, /, *, delta: float = 1.0, weight: Any = None, reduction: str = "mean",
        out: Any = None,
    ) -> tuple[Any, NDArray[Any]]:  # fmt: skip
        return self._run(x, targets, {"weight": weight}, reduction, out, True, self._number(delta))


def _made(name: str, row: Row) -> PointwiseLoss:
    base: Any = _Plain
    parameter = ""
    if row.parameter is not None:
        base = _WithDelta
        parameter = f"{row.parameter[0]} : float\n        Positive and finite, by default {row.parameter[1]}.\n    "
    method = base.value_and_grad
    own = FunctionType(method.__code__, method.__globals__, "value_and_grad", method.__defaults__, method.__closure__)
    own.__kwdefaults__, own.__annotations__ = method.__kwdefaults__, method.__annotations__
    own.__doc__ = _GRADIENT_DOC.format(example=row.example[1])
    words = {k: getattr(row, k) for k in ("formula", "gradient", "says", "x", "source")}
    doc = _DOC.format(parameter=parameter, example=row.example[0], **words)
    made = type(name, (base,), {"name": name, "kernel_names": (name,), "value_and_grad": own, "__doc__": doc})
    return made()


POINTWISE = {name: _made(name, row) for name, row in LOSSES.items()}
