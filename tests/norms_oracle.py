"""Independent truth for norms: textbook definitions, in float64 for float32 and in mpmath for float64.

Arrays are (rows, n), the axis the last one. Nothing comes from fastact.
"""

from __future__ import annotations

import mpmath
import numpy as np

mpmath.mp.dps = 60


def exact(x):
    """As float64, or as mpmath numbers."""
    if x.dtype != np.float64:
        return x.astype(np.float64)
    return np.array([mpmath.mpf(float(v)) for v in x.ravel()], object).reshape(x.shape)


def _sqrt(v):
    return np.sqrt(v) if v.dtype == np.float64 else np.array([mpmath.sqrt(t) for t in v.ravel()]).reshape(v.shape)


def _mean(v):
    return v.sum(-1, keepdims=True) / v.shape[-1]


def normalised_exactly(x, eps, centre=True):
    """(x - mean)/sqrt(var + eps), or x/sqrt(mean(x²) + eps), and that divisor; x as `exact` gives it."""
    d = x - _mean(x) if centre else x
    s = _sqrt(_mean(d * d) + eps)
    return d / s, s


def normalised(x, eps, centre):
    return normalised_exactly(exact(x), eps, centre)


def forward(x, weight, bias, eps, centre):
    h, _ = normalised(x, eps, centre)
    y = h if weight is None else h * exact(weight)
    return y if bias is None else y + exact(bias)


def through_statistics(g, h, s, centre=True):
    """The gradient by x from that by h, and the sizes of what is added up."""
    dx = (g - _mean(g) * centre - h * _mean(g * h)) / s
    return dx, (abs(g) + _mean(abs(g)) + abs(h) * _mean(abs(g * h))) / s


def backward(dy, x, weight, eps, centre):
    """dx, dweight, dbias, by the chain rule; and for each the sizes of what is added up."""
    h, s = normalised(x, eps, centre)
    dy = exact(dy)
    dx, size = through_statistics(dy if weight is None else dy * exact(weight), h, s, centre)
    sizes = size, (abs(dy) * (1 + abs(h))).sum(0), abs(dy).sum(0)
    return (dx, (dy * h).sum(0), dy.sum(0)), sizes
