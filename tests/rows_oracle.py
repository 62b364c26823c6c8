"""Independent truth for functions over rows: textbook definitions, in float64 for float32 and in mpmath for float64.

Results are arrays, or pairs (hi, lo) of them for float64, as `ulp.errors` takes them. Nothing comes from fastact.
"""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np

mpmath.mp.dps = 60


def split(values, shape):
    hi = np.array([float(v) for v in values], np.float64).reshape(shape)
    lo = np.array([float(v - mpmath.mpf(float(v))) if mpmath.isfinite(v) else 0.0 for v in values]).reshape(shape)
    return hi, lo


def by_rows(function, *arrays):
    """`function` of lists of mpmath numbers, for each row."""
    found = []
    for rows in zip(*(a.reshape(-1, a.shape[-1]) for a in arrays), strict=True):
        result = function(*([mpmath.mpf(float(v)) for v in row] for row in rows))
        found.extend(result if isinstance(result, list) else [result])
    return found


def softmax(x):
    if x.dtype == np.float32:
        e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True).astype(np.float64))
        return e / e.sum(-1, keepdims=True)

    def row(v):
        e = [mpmath.exp(t) for t in v]
        s = mpmath.fsum(e)
        return [t / s for t in e]

    return split(by_rows(row, x), x.shape)


def counted(shape, bias=None, mask=None, causal=False):
    """Which elements count, for a causal mask over the last two axes."""
    live = np.ones(shape, bool)
    if causal:
        live &= np.arange(shape[-1]) <= np.arange(shape[-2])[:, None]
    if mask is not None:
        live &= mask
    return live if bias is None else live & (bias != -np.inf)


def logits(x, scale=1.0, bias=None):
    """scale·x + bias rounded once, the scale a number of x's dtype."""
    scale = x.dtype.type(scale)
    with np.errstate(all="ignore"):
        if x.dtype == np.float32:
            # the product is exact, and 64 bits of the sum are as good as all
            z = np.longdouble(scale) * x.astype(np.longdouble)
            return (z if bias is None else z + bias).astype(np.float32)
        if bias is None:
            return scale * x
    pairs = np.nditer([x, bias])
    exact = [mpmath.mpf(float(scale)) * float(v) + float(b) for v, b in pairs]
    return np.array([float(t) for t in exact]).reshape(np.broadcast_shapes(x.shape, np.shape(bias)))


def scaled_softmax(x, scale=1.0, bias=None, mask=None, causal=False):
    """softmax of `logits` over the last axis of what counts; 0 elsewhere. In float64, (hi, lo) for float64."""
    live = counted(x.shape, bias, mask, causal)
    z = np.where(live, logits(x, scale, bias), 0)
    if x.dtype == np.float32:
        z = z.astype(np.float64)
        m = np.where(live, z, -np.inf).max(-1, keepdims=True, initial=-1e300)
        e = np.where(live, np.exp(np.where(live, z - m, 0)), 0)
        total = e.sum(-1, keepdims=True)
        return e / np.where(total == 0, 1, total)

    def row(v, counts):
        e = [mpmath.exp(t) if c else mpmath.mpf(0) for t, c in zip(v, counts)]
        s = mpmath.fsum(e)
        return [t / s if s else t for t in e]

    return split(by_rows(row, z, live), x.shape)


def log_softmax(x):
    if x.dtype == np.float32:
        x = x.astype(np.float64)
        m = x.max(-1, keepdims=True)
        at = x.argmax(-1)[..., None]
        e = np.exp(x - m)
        np.put_along_axis(e, at, 0, -1)
        return (x - m) - np.log1p(e.sum(-1, keepdims=True))

    def row(v):
        m = max(v)
        rest = [mpmath.exp(t - m) for t in v]
        rest.remove(1)
        s = mpmath.log1p(mpmath.fsum(rest))
        return [t - m - s for t in v]

    return split(by_rows(row, x), x.shape)


def logsumexp(x):
    """In float64 for float32; (hi, lo) for float64."""
    if x.dtype == np.float32:
        x = x.astype(np.float64)
        m = x.max(-1)
        return m + np.log(np.exp(x - m[..., None]).sum(-1))
    return split(by_rows(lambda v: mpmath.log(mpmath.fsum(mpmath.exp(t) for t in v)), x), x.shape[:-1])


def sparsemax(x):
    """By sorting, in exact fractions (Martins and Astudillo, algorithm 1)."""

    def row(v):
        exact = [Fraction(float(t)) for t in v]
        ordered = sorted(exact, reverse=True)
        total, threshold = Fraction(0), None
        for k, t in enumerate(ordered, 1):
            total += t
            if 1 + k * t <= total:
                break
            threshold = (total - 1) / k
        return [float(max(t - threshold, 0)) for t in exact]

    return np.array([row(v) for v in x.reshape(-1, x.shape[-1])]).reshape(x.shape)


def softmax_backward(dy, y):
    dy, y = dy.astype(np.longdouble), y.astype(np.longdouble)
    return y * (dy - (dy * y).sum(-1, keepdims=True))


def log_softmax_backward(dy, y):
    dy, y = dy.astype(np.longdouble), y.astype(np.longdouble)
    return dy - np.exp(y) * dy.sum(-1, keepdims=True)


def sparsemax_backward(dy, y):
    dy, live = dy.astype(np.longdouble), y > 0
    mean = np.where(live, dy, 0).sum(-1, keepdims=True) / live.sum(-1, keepdims=True)
    return np.where(live, dy - mean, 0)


def softmin_backward(dy, y):
    return -softmax_backward(dy, y)


def backward_scale(name, dy, y):
    """Of a gradient, the sizes of what is added: its sums cancel, so that its errors are bounded by these."""
    if name == "log_softmax":
        return np.abs(dy) + np.exp(y.astype(np.float64)) * np.abs(dy).sum(-1, keepdims=True)
    if name == "sparsemax":
        return np.abs(dy) + np.abs(dy).max(-1, keepdims=True)
    return y * (np.abs(dy) + (np.abs(dy) * y).sum(-1, keepdims=True))


def targets_of(labels, classes, weight, ignore_index, smoothing):
    """Weighted target rows, and what the mean divides by, as PyTorch defines them."""
    weight = np.ones(classes) if weight is None else np.asarray(weight, np.float64)
    labels = np.asarray(labels)
    if labels.dtype.kind == "f":
        t = labels.astype(np.float64) * (1 - smoothing) + smoothing / classes
        return t * weight, t[..., 0].size
    live = np.ones(labels.shape, bool) if ignore_index is None else labels != ignore_index
    safe = np.where(live, labels, 0)
    t = np.zeros((*labels.shape, classes))
    np.put_along_axis(t, safe[..., None], (1 - smoothing) * weight[safe][..., None], -1)
    t += smoothing / classes * weight
    return t * live[..., None], (weight[safe] * live).sum()


def softmax_cross_entropy(
    x, labels, *, weight=None, ignore_index=None, label_smoothing=0.0, z_loss=0.0, reduction="mean"
):
    """(loss, dlogits) over the last axis, in float64."""
    x = x.astype(np.float64)
    t, count = targets_of(labels, x.shape[-1], weight, ignore_index, label_smoothing)
    m = x.max(-1, keepdims=True)
    e = np.exp(x - m)
    at = x.argmax(-1)[..., None]
    rest = e.copy()
    np.put_along_axis(rest, at, 0, -1)
    log_p = (x - m) - np.log1p(rest.sum(-1, keepdims=True))
    loss = -np.where(t == 0, 0, t * log_p).sum(-1)
    grad = t.sum(-1, keepdims=True) * np.exp(log_p) - t
    if z_loss:
        log_sum = m + np.log(e.sum(-1, keepdims=True))
        live = 1.0 if ignore_index is None else (np.asarray(labels) != ignore_index)[..., None]
        loss = loss + (live * z_loss * log_sum**2)[..., 0]
        grad = grad + live * 2 * z_loss * log_sum * np.exp(log_p)
    if reduction == "none":
        return loss, grad
    if reduction == "sum":
        return loss.sum(), grad
    return loss.sum() / count, grad / count


def nll_loss(x, labels, *, weight=None, ignore_index=None, reduction="mean"):
    """(loss, gradient) over the last axis, in float64, row by row."""
    x, labels = x.astype(np.float64), np.asarray(labels)
    weight = np.ones(x.shape[-1]) if weight is None else np.asarray(weight, np.float64)
    loss, grad, weights = np.zeros(labels.shape), np.zeros(x.shape), []
    for row in np.ndindex(labels.shape):
        label = int(labels[row])
        if label != ignore_index:
            loss[row] = -weight[label] * x[row][label]
            grad[row][label] = -weight[label]
            weights.append(weight[label])
    if reduction == "none":
        return loss, grad
    total, count = math.fsum(loss.flat), np.float64(math.fsum(weights))
    if reduction == "sum":
        return total, grad
    with np.errstate(all="ignore"):
        return total / count, np.where(labels[..., None] == ignore_index, 0, grad / count)


def sigmoid_cross_entropy(x, t, *, weight=1.0, pos_weight=1.0, reduction="mean"):
    """(loss, dlogits), in float64."""
    x, t = x.astype(np.float64), np.asarray(t, np.float64)
    loss = weight * (pos_weight * t * np.logaddexp(0, -x) + (1 - t) * np.logaddexp(0, x))
    s, r = 0.5 * (1 + np.tanh(x / 2)), 0.5 * (1 - np.tanh(x / 2))
    grad = weight * ((1 - t) * s - pos_weight * t * r)
    if reduction == "none":
        return loss, grad
    count = x.size if reduction == "mean" else 1
    return loss.sum() / count, grad / count
