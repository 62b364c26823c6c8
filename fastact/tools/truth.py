"""Textbook values of every activation and its derivative in float64, for ``fastact verify``, with NumPy alone.

Nothing here comes from ``fastact.maths``. For numbers of float32 or narrower each value is accurate to 2^-16 of a
float32 ULP, tails and cancellation included, and each derivative to 2^-9 of one (worst next to its zeros). The tests
prove that against mpmath.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.polynomial import chebyshev

Array = np.ndarray


def _sigmoid(x: Array) -> Array:
    # e^-|x| cannot overflow; the quotient of two positive terms cannot cancel
    t = np.exp(-np.abs(x))
    return np.where(x < 0, t, 1.0) / (1 + t)


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _sech2(x: Array) -> Array:
    t = np.exp(-2 * np.abs(x))
    return 4 * t / (1 + t) ** 2


_ERFC_CENTRE, _ERFC_END = 3.75, 26.0


@cache
def _erfcx_series() -> tuple[Array, float, float]:
    """Chebyshev coefficients of (1 + 2x)·exp(x²)·erfc(x) over [0, 26] in t = (x - c)/(x + c), and the range of t."""
    low, high = -1.0, (_ERFC_END - _ERFC_CENTRE) / (_ERFC_END + _ERFC_CENTRE)

    def sample(u: Array) -> Array:
        t = (u * (high - low) + high + low) / 2
        x = _ERFC_CENTRE * (1 + t) / (1 - t)
        # x² in two parts, so that exp(x²) loses nothing
        head = np.round(x * 2**20) / 2**20
        return np.array(
            [
                (1 + 2 * v) * math.exp(h * h) * math.exp((v - h) * (v + h)) * math.erfc(v)
                for v, h in zip(x, head, strict=True)
            ]
        )

    return chebyshev.chebinterpolate(sample, 40), low, high


def _erfc(x: Array) -> Array:
    """erfc; 0 beyond 26, where it is below 1e-295."""
    series, low, high = _erfcx_series()
    a = np.minimum(np.abs(x), _ERFC_END)
    # most numbers of a binary type are tiny or huge: spare the series where a whole array is
    if np.min(a) == _ERFC_END:
        return np.where(x < 0, 2.0, 0.0)
    if np.max(a) < 2.0**-13:
        # the next term is below 2^-54
        return 1 - 2 / math.sqrt(math.pi) * (x - x * x * x / 3)
    t = (a - _ERFC_CENTRE) / (a + _ERFC_CENTRE)
    tail = np.exp(-a * a) * chebyshev.chebval((2 * t - high - low) / (high - low), series) / (1 + 2 * a)
    tail = np.where(np.abs(x) > _ERFC_END, 0.0, tail)
    return np.where(x < 0, 2 - tail, tail)


def _normal_cdf(x: Array) -> Array:
    return 0.5 * _erfc(x * -math.sqrt(0.5))


def _normal_pdf(x: Array) -> Array:
    return np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


@cache
def _tanh_coefficients() -> list[float]:
    """c[n] of tanh x = Σ c[n]·x^(2n+1), from tanh' = 1 - tanh²: (2n+1)·c[n] = -Σ c[i]·c[n-1-i]."""
    c = [1.0]
    for n in range(1, 32):
        c.append(-sum(c[i] * c[n - 1 - i] for i in range(n)) / (2 * n + 1))
    return c


def _x_minus_tanh(x: Array) -> Array:
    # the difference cancels near 0; 31 terms leave (2/π·0.6)^64 = 2^-88
    near = np.abs(x) < 0.6
    if not near.any():
        return x - np.tanh(x)
    z = np.where(near, x, 0.0)
    return np.where(near, -z * np.polyval([*_tanh_coefficients()[:0:-1], 0.0], z * z), x - np.tanh(x))


def _x_plus_root(x: Array, b: float) -> Array:
    root = np.sqrt(x * x + b)
    return np.where(x < 0, b / (root + np.abs(x)), x + root)


def _gated(gate: Callable[[Array], Array], x: Array) -> Array:
    """x·gate(x), 0 at -inf, where gate is 0."""
    return np.where(np.isneginf(x), 0.0, x) * gate(x)


def _silu_grad(x: Array) -> Array:
    x = np.clip(x, -1e4, 1e4)
    return _sigmoid(x) * (1 + x * _sigmoid(-x))


_K = 2 * math.sqrt(2 / math.pi)


def _gelu_tanh(x: Array) -> Array:
    # (1 + tanh u)/2 = sigmoid(2u)
    return _gated(lambda v: _sigmoid(_K * (v + 0.044715 * v * v * v)), x)


def _gelu_tanh_grad(x: Array) -> Array:
    x = np.clip(x, -1e4, 1e4)
    u = _K * (x + 0.044715 * x * x * x)
    return _sigmoid(u) * (1 + x * _K * (1 + 3 * 0.044715 * x * x) * _sigmoid(-u))


def _gelu_grad(x: Array) -> Array:
    x = np.clip(x, -1e4, 1e4)
    return _normal_cdf(x) + x * _normal_pdf(x)


def _mish_gate(x: Array) -> Array:
    # tanh(log(1 + e)) = e(e + 2)/(e(e + 2) + 2)
    e = np.exp(np.minimum(x, 30.0))
    n = e * (e + 2)
    return n / (n + 2)


def _mish_grad(x: Array) -> Array:
    x = np.clip(x, -1e4, 1e4)
    return _mish_gate(x) + x * _sigmoid(x) * _sech2(_softplus(x))


def _one_plus_cosine(x: Array, b: float) -> Array:
    """1 + x/sqrt(x² + b) = (x + r)/r; beyond 1e100 it has long reached 0 or 2."""
    x = np.clip(x, -1e100, 1e100)
    return _x_plus_root(x, b) / np.sqrt(x * x + b)


def _dish_grad(x: Array) -> Array:
    x = np.clip(x, -1e100, 1e100)
    return _one_plus_cosine(x, 1.0) / 2 + x / (2 * np.sqrt(1 + x * x) ** 3)


def _inside(x: Array, low: float, high: float, slope: float = 1.0) -> Array:
    return np.where((x > low) & (x < high), slope, 0.0)


def _by_sixths(alpha: float, beta: float) -> bool:
    # the default alpha is 1/6 itself, also where it comes rounded
    return alpha in (1 / 6, float(np.float32(1 / 6))) and beta == 0.5


def _hard_sigmoid(x: Array, alpha: float, beta: float) -> Array:
    return np.clip((x + 3) / 6 if _by_sixths(alpha, beta) else alpha * x + beta, 0, 1)


def _hard_sigmoid_grad(x: Array, alpha: float, beta: float) -> Array:
    return _inside(x, -3, 3, 1 / 6) if _by_sixths(alpha, beta) else _inside(alpha * x + beta, 0, 1, alpha)


def _selu(x: Array) -> Array:
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x))


def _selu_grad(x: Array) -> Array:
    return 1.0507009873554805 * np.where(x > 0, 1.0, 1.6732632423543772 * np.exp(x))


def _step(c: Array) -> Array:
    return np.where(c, 1.0, 0.0)


@dataclass(frozen=True)
class Truth:
    """Value and derivative as functions of the variable and the parameters."""

    value: Callable[..., Array]
    derivative: Callable[..., Array]
    linear: bool = False  # piecewise linear: exactly rounded
    zeros: tuple[float, ...] = ()  # isolated zeros of the derivative


TRUTH: dict[str, Truth] = {
    "identity": Truth(lambda x: x, lambda x: np.ones_like(x), linear=True),
    "relu": Truth(lambda x: np.maximum(x, 0), lambda x: _step(x > 0), linear=True),
    "relu6": Truth(lambda x: np.clip(x, 0, 6), lambda x: _inside(x, 0, 6), linear=True),
    "leaky_relu": Truth(
        lambda x, negative_slope: np.where(x > 0, x, negative_slope * x),
        lambda x, negative_slope: np.where(x > 0, 1.0, negative_slope),
        linear=True,
    ),
    "threshold": Truth(
        lambda x, threshold, value: np.where(x > threshold, x, np.float64(value)),
        lambda x, threshold, value: _step(x > threshold),
        linear=True,
    ),
    "thresholded_relu": Truth(
        lambda x, threshold: np.where(x > threshold, x, 0.0),
        lambda x, threshold: _step(x > threshold),
        linear=True,
    ),
    "elu": Truth(
        lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(x)),
        lambda x, alpha: np.where(x > 0, 1.0, alpha * np.exp(x)),
    ),
    "selu": Truth(_selu, _selu_grad),
    "celu": Truth(
        lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(x / alpha)),
        lambda x, alpha: np.where(x > 0, 1.0, np.exp(x / alpha)),
    ),
    "sigmoid": Truth(_sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x)),
    "log_sigmoid": Truth(lambda x: -_softplus(-x), lambda x: _sigmoid(-x)),
    "hard_sigmoid": Truth(_hard_sigmoid, _hard_sigmoid_grad, linear=True),
    "tanh": Truth(np.tanh, _sech2),
    "hard_tanh": Truth(
        lambda x, min_val, max_val: np.clip(x, min_val, max_val),
        lambda x, min_val, max_val: _inside(x, min_val, max_val),
        linear=True,
    ),
    "tanh_shrink": Truth(_x_minus_tanh, lambda x: np.tanh(x) ** 2),
    "softplus": Truth(lambda x, beta: _softplus(beta * x) / beta, lambda x, beta: _sigmoid(beta * x)),
    "softsign": Truth(
        lambda x: np.where(np.isinf(x), np.sign(x), x / (1 + np.abs(x))), lambda x: 1 / (1 + np.abs(x)) ** 2
    ),
    "soft_shrink": Truth(
        lambda x, lambd: np.where(x > lambd, x - lambd, np.where(x < -lambd, x + lambd, 0.0)),
        lambda x, lambd: _step(np.abs(x) > lambd),
        linear=True,
    ),
    "hard_shrink": Truth(
        lambda x, lambd: np.where(np.abs(x) > lambd, x, 0.0), lambda x, lambd: _step(np.abs(x) > lambd), linear=True
    ),
    "shrink": Truth(
        lambda x, lambd, bias: np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0.0)),
        lambda x, lambd, bias: _step(np.abs(x) > lambd),
        linear=True,
    ),
    "silu": Truth(
        lambda x, beta: _gated(lambda v: _sigmoid(beta * v), x),
        lambda x, beta: _silu_grad(beta * x),
        zeros=(-1.2784645427610738,),
    ),
    "hard_silu": Truth(
        lambda x: np.where(x <= -3, 0.0, np.where(x >= 3, x, x * (x + 3) / 6)),
        lambda x: np.where(x <= -3, 0.0, np.where(x >= 3, 1.0, (2 * x + 3) / 6)),
        zeros=(-1.5,),
    ),
    "gelu": Truth(lambda x: _gated(_normal_cdf, x), _gelu_grad, zeros=(-0.7517915246935645,)),
    "gelu_tanh": Truth(_gelu_tanh, _gelu_tanh_grad, zeros=(-0.7524614220710163,)),
    "quick_gelu": Truth(
        lambda x: _gated(lambda v: _sigmoid(1.702 * v), x),
        lambda x: _silu_grad(1.702 * x),
        zeros=(-1.2784645427610738 / 1.702,),
    ),
    "mish": Truth(lambda x: _gated(_mish_gate, x), _mish_grad, zeros=(-1.1924312145,)),
    "dish": Truth(
        lambda x: _gated(lambda v: _one_plus_cosine(v, 1.0) / 2, x), _dish_grad, zeros=(-0.7861513777574233,)
    ),
    "squareplus": Truth(
        lambda x, b: np.where(np.isinf(x), np.maximum(x, 0), _x_plus_root(x, b) / 2),
        lambda x, b: _one_plus_cosine(x, b) / 2,
    ),
    "sparse_plus": Truth(
        lambda x: np.where(x <= -1, 0.0, np.where(x >= 1, x, (x + 1) ** 2 / 4)),
        lambda x: np.where(x <= -1, 0.0, np.where(x >= 1, 1.0, (x + 1) / 2)),
    ),
    "sparse_sigmoid": Truth(lambda x: np.clip((x + 1) / 2, 0, 1), lambda x: _inside(x, -1, 1, 0.5), linear=True),
    "relu_squared": Truth(lambda x: np.maximum(x, 0) ** 2, lambda x: 2 * np.maximum(x, 0)),
    "relu_k": Truth(lambda x, k: np.clip(x, 0, k), lambda x, k: _inside(x, 0, k), linear=True),
    "clipped_linear": Truth(
        lambda x, slope, offset, min_val, max_val: np.clip(slope * x + offset, min_val, max_val),
        lambda x, slope, offset, min_val, max_val: _inside(slope * x + offset, min_val, max_val, slope),
        linear=True,
    ),
    "exponential": Truth(np.exp, np.exp),
    "prelu": Truth(
        lambda x, weight: np.where(x > 0, x, weight * x), lambda x, weight: np.where(x > 0, 1.0, weight), linear=True
    ),
}
