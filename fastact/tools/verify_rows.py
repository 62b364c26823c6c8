"""``fastact verify softmax``, ``… mse_loss`` and so on: functions over rows and losses, on rows of random numbers.

There are too many rows to try all. Rows of several lengths and spreads are drawn, and each result is compared with the
textbook definition in a wider type: float64 for float32, long double for float64. Errors are counted in the unit that
the function's row of CASES names, because sums of terms of both signs cancel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import fastact as fa
from fastact.tools.verify import KINDS, Found, Verdict, Worst

Array = np.ndarray
WIDE: dict[str, type[np.floating]] = {"float32": np.float64, "float64": np.longdouble}
LENGTHS = (1, 2, 3, 7, 16, 65, 1000, 20_000)
# of the numbers of a row, about which level
SPREADS = ((1.0, 0.0), (5.0, 0.0), (30.0, 0.0), (100.0, 50.0), (5.0, 1e4), (1e-3, -300.0))
ELEMENTS = 20_000  # of each length and spread


@dataclass(frozen=True)
class Case:
    """How a function is called, what is true, and the bounds.

    Attributes
    ----------
    second : callable
        The other array, of a generator of random numbers and x: dy, labels or targets.
    truth : callable
        Of x, the other array and y in the wide type, and the epsilon: for each kind the true result and the unit.
    limits : pair of float
        The bounds of the value and of the gradient, in these units.
    units : pair of str
        What the units are.
    spreads : sequence
        As SPREADS.
    """

    second: Callable[[np.random.Generator, Array], Array]
    truth: Callable[[Array, Array, Array, float], dict[str, tuple[Array, Array]]]
    limits: tuple[float, float]
    units: tuple[str, str]
    spreads: tuple[tuple[float, float], ...] = SPREADS
    is_loss: bool = False


def ulp(true: Array, eps: float) -> Array:
    """The unit in the last place, in the binade of each number."""
    tiny = np.finfo(np.float32 if eps > 1e-10 else np.float64).tiny
    exponent = np.frexp(np.maximum(np.abs(true), tiny))[1] - 1
    return np.ldexp(np.asarray(eps, true.dtype), exponent)


def shifted(x: Array) -> tuple[Array, Array, Array]:
    """x without its maximum, exp of that without the first maximum, and log(sum(exp)) of it."""
    z = x - x.max(-1, keepdims=True)
    rest = np.exp(z)
    np.put_along_axis(rest, x.argmax(-1)[..., None], 0, -1)
    return z, rest, np.log1p(rest.sum(-1, keepdims=True))


def _softmax(x: Array, dy: Array, y: Array, eps: float, sign: int = 1) -> dict[str, tuple[Array, Array]]:
    e = np.exp(shifted(sign * x)[0])
    true = e / e.sum(-1, keepdims=True)
    gradient = sign * y * (dy - (dy * y).sum(-1, keepdims=True))
    size = y * (np.abs(dy) + (np.abs(dy) * y).sum(-1, keepdims=True))
    return {"forward": (true, ulp(true, eps)), "backward": (gradient, eps * size)}


def _softmin(x: Array, dy: Array, y: Array, eps: float) -> dict[str, tuple[Array, Array]]:
    return _softmax(x, dy, y, eps, -1)


def _log_softmax(x: Array, dy: Array, y: Array, eps: float) -> dict[str, tuple[Array, Array]]:
    z, _, logs = shifted(x)
    gradient = dy - np.exp(y) * dy.sum(-1, keepdims=True)
    size = np.abs(dy) + np.exp(y) * np.abs(dy).sum(-1, keepdims=True)
    return {"forward": (z - logs, ulp(z - logs, eps)), "backward": (gradient, eps * size)}


def _logsumexp(x: Array, dy: Array, y: Array, eps: float) -> dict[str, tuple[Array, Array]]:
    m, logs = x.max(-1), shifted(x)[2][..., 0]
    return {"forward": (m + logs, ulp(np.maximum(np.maximum(np.abs(m), logs), np.abs(m + logs)), eps))}


def _sparsemax(x: Array, dy: Array, y: Array, eps: float) -> dict[str, tuple[Array, Array]]:
    # by sorting: Martins and Astudillo, algorithm 1
    ordered = -np.sort(-(x - x.max(-1, keepdims=True)), axis=-1)
    k = np.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    total = np.cumsum(ordered, -1)
    support = (1 + k * ordered > total).sum(-1, keepdims=True)
    threshold = (np.take_along_axis(total, support - 1, -1) - 1) / support
    true = np.maximum(x - x.max(-1, keepdims=True) - threshold, 0)
    live = y > 0
    gradient = np.where(live, dy - np.where(live, dy, 0).sum(-1, keepdims=True) / live.sum(-1, keepdims=True), 0)
    size = np.abs(dy) + np.abs(dy).max(-1, keepdims=True)
    return {"forward": (true, np.full_like(true, eps)), "backward": (gradient, eps * size)}


def _cross_entropy(x: Array, labels: Array, y: Array, eps: float) -> dict[str, tuple[Array, Array]]:
    z, _, logs = shifted(x)
    at = labels.astype(np.int64)[..., None]
    true = -(np.take_along_axis(z, at, -1) - logs)[..., 0]
    gradient = np.exp(z - logs)
    np.put_along_axis(gradient, at, np.take_along_axis(gradient, at, -1) - 1, -1)
    return {"forward": (true, eps * (1 + np.abs(true))), "backward": (gradient, eps * (1 + np.abs(gradient)))}


def _nll(x: Array, labels: Array, y: Array, eps: float) -> dict[str, tuple[Array, Array]]:
    at = labels.astype(np.int64)[..., None]
    true, gradient = -np.take_along_axis(x, at, -1)[..., 0], np.zeros_like(x)
    np.put_along_axis(gradient, at, -1, -1)
    return {"forward": (true, eps * (1 + np.abs(true))), "backward": (gradient, np.full_like(x, eps))}


def _sigmoid_cross_entropy(x: Array, t: Array, y: Array, eps: float) -> dict[str, tuple[Array, Array]]:
    # log(1 + e^x) - t·x, and with 1 - t where that cancels
    soft = np.log1p(np.exp(-np.abs(x)))
    true = np.where(x > 0, soft + (1 - t) * x, soft - t * x)
    gradient = np.where(x > 0, 1, np.exp(-np.abs(x))) / (1 + np.exp(-np.abs(x))) - t
    return {"forward": (true, eps * np.abs(true)), "backward": (gradient, eps * (1 + np.abs(gradient)))}


def _relative(value: Array, gradient: Array, eps: float, size: Array | None = None) -> dict[str, tuple[Array, Array]]:
    unit = np.abs(value) if size is None else size
    return {"forward": (value, eps * unit), "backward": (gradient, eps * np.abs(gradient))}


def _mse(x: Array, t: Array, y: Array, eps: float) -> dict[str, tuple[Array, Array]]:
    return _relative((x - t) ** 2, 2 * (x - t), eps)


def _l1(x: Array, t: Array, y: Array, eps: float) -> dict[str, tuple[Array, Array]]:
    return _relative(np.abs(x - t), np.sign(x - t), eps)


def _huber(x: Array, t: Array, y: Array, eps: float) -> dict[str, tuple[Array, Array]]:
    d = x - t
    return _relative(np.where(np.abs(d) <= 1, d * d / 2, np.abs(d) - 0.5), np.clip(d, -1, 1), eps)


def _kl(x: Array, t: Array, y: Array, eps: float) -> dict[str, tuple[Array, Array]]:
    value = np.where(t == 0, 0, t * (np.log(np.where(t == 0, 1, t)) - x))
    return _relative(value, -t, eps, np.abs(value) + np.abs(x * t))


def _gradient(rng: np.random.Generator, x: Array) -> Array:
    return rng.standard_normal(x.shape)


def _labels(rng: np.random.Generator, x: Array) -> Array:
    return rng.integers(0, x.shape[-1], x.shape[:-1])


def _shares(rng: np.random.Generator, x: Array) -> Array:
    return rng.random(x.shape)


_TERMS = "epsilons of the sizes of its terms"
_ULP, _RELATIVE, _ONE_MORE = "ULP", "epsilons of its size", "epsilons of 1 and its size"
_LOGITS = ((3.0, 0.0), (1.0, 0.0), (20.0, 0.0))
_OVER_ROWS = (_ULP, _TERMS)
CASES: dict[str, Case] = {
    "softmax": Case(_gradient, _softmax, (4.0, 4.0), _OVER_ROWS),
    "softmin": Case(_gradient, _softmin, (4.0, 4.0), _OVER_ROWS),
    "log_softmax": Case(_gradient, _log_softmax, (4.0, 4.0), _OVER_ROWS),
    "logsumexp": Case(_gradient, _logsumexp, (3.0, 0.0), ("ULP of the larger of maximum and logarithm", "")),
    "sparsemax": Case(_gradient, _sparsemax, (2.0, 4.0), ("epsilons", _TERMS)),
    "softmax_cross_entropy": Case(_labels, _cross_entropy, (16.0, 8.0), (_ONE_MORE, _ONE_MORE), _LOGITS, True),
    "nll_loss": Case(_labels, _nll, (4.0, 4.0), (_ONE_MORE, "epsilons"), _LOGITS, True),
    "sigmoid_cross_entropy": Case(_shares, _sigmoid_cross_entropy, (8.0, 4.0), (_RELATIVE, _ONE_MORE), _LOGITS, True),
    "mse_loss": Case(_shares, _mse, (4.0, 4.0), (_RELATIVE, _RELATIVE), _LOGITS, True),
    "l1_loss": Case(_shares, _l1, (4.0, 4.0), (_RELATIVE, _RELATIVE), _LOGITS, True),
    "huber_loss": Case(_shares, _huber, (4.0, 4.0), (_RELATIVE, _RELATIVE), _LOGITS, True),
    "kl_div": Case(_shares, _kl, (4.0, 4.0), (_TERMS, _RELATIVE), _LOGITS, True),
}


def is_wider(dtype: str) -> bool:
    """Whether this machine has a type in which results can be held against."""
    return bool(np.finfo(WIDE[dtype]).eps < np.finfo(dtype).eps)


def kinds_of(name: str) -> tuple[str, ...]:
    """The kinds that a function has: logsumexp has no gradient of its own."""
    return KINDS if CASES[name].limits[1] else KINDS[:1]


def verify(
    name: str,
    kind: str = "forward",
    dtype: str = "float32",
    elements: int = ELEMENTS,
    seed: int = 0,
    progress: Callable[[int], object] = lambda count: None,
) -> tuple[Found, list[Verdict]]:
    """Rows of every length and spread; `progress` gets how many of these pairs are done.

    Examples
    --------
    >>> found, bounds = verify("softmax", "backward", elements=100)
    >>> bounds[0].bound, bounds[0].holds
    ('error, epsilons of the sizes of its terms', True)
    """
    case, of, wide = CASES[name], getattr(fa, name), WIDE[dtype]
    which = KINDS.index(kind)
    info = np.finfo(dtype)
    rng = np.random.default_rng(seed)
    found, where = Found(), ""
    worst = Worst()
    for n in LENGTHS:
        for spread, level in case.spreads:
            shape = (max(1, elements // n), n)
            x = (rng.standard_normal(shape) * spread + level).astype(dtype)
            second = case.second(rng, x)
            if second.dtype.kind == "f":
                second = second.astype(dtype)
            y = x
            if case.is_loss:
                value, gradient = of.value_and_grad(x, second, reduction="none")
                got = (value, gradient)[which]
            else:
                y = of(x)
                got = y if kind == "forward" else of.backward(second, y)
            true, unit = case.truth(x.astype(wide), second.astype(wide), y.astype(wide), float(info.eps))[kind]
            # what is below the smallest normal number may be off by that
            error = np.maximum(np.abs(got.astype(wide) - true) - info.tiny, 0)
            with np.errstate(invalid="ignore", divide="ignore"):
                units = np.where(error == 0, 0, error / unit)
            units = np.where(np.isnan(units), np.inf, units).astype(np.float64)
            found.count += got.size
            i = int(np.argmax(units))
            if units.flat[i] > worst.error:
                worst.error = float(units.flat[i])
                worst.got, worst.true = float(got.flat[i]), float(true.flat[i])
                where = f"rows of {n}, numbers {level:g} ± {spread:g}, result {i}"
            progress(1)
    verdict = Verdict(f"error, {case.units[which]}", case.limits[which], worst.error)
    if worst.error > 0:
        verdict.input, verdict.got, verdict.true = where, worst.got, worst.true
    return found, [verdict]
