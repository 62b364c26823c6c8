"""Kernels over rows on whole NumPy arrays: the formulas and the order of additions of ``fastact.loops``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fastact.backends import reference
from fastact.backends.reference import sums as sums_over_rows
from fastact.loops import VECTOR, sums
from fastact.maths.grammar import bind_rows
from fastact.spec.call import SEGMENT


class Rows:
    """The row functions of one dtype."""

    def __init__(self, dtype: str, sign: int) -> None:
        self.dtype = np.dtype(dtype).type
        self.lanes = VECTOR // np.dtype(dtype).itemsize
        self.sign = self.dtype(sign)
        self.formulas: dict[str, Callable[..., Any]] = bind_rows(reference.primitives(dtype), dtype)

    def call(self, name: str, *args: Any) -> Any:
        return self.formulas[name](*args)

    def constant(self, value: float) -> Any:
        return self.dtype(value)

    def vectors(self, terms: Any) -> Any:
        """Rows as vectors, the last one filled up with zeros, and how many quads have all their elements."""
        rows, n = terms.shape[:-1], terms.shape[-1]
        count = -(-n // self.lanes)
        padded = np.zeros((*rows, count * self.lanes), self.dtype)
        padded[..., :n] = terms
        return padded.reshape(*rows, count, self.lanes), n // (4 * self.lanes)

    def total(self, terms: Any) -> Any:
        """The sum over the last axis, kept; of segments, compensated."""
        n = terms.shape[-1]
        high = self.total_of_segment(terms[..., :SEGMENT])
        low = np.zeros_like(high)
        for i in range(SEGMENT, n, SEGMENT):
            high, error = self.call("two_sum", high, self.total_of_segment(terms[..., i : i + SEGMENT]))
            low = low + error
        return high + low

    def total_of_segment(self, terms: Any) -> Any:
        """Four chains over a block, blocks compensated, then the tree over lanes."""
        vectors, quads = self.vectors(terms)
        zero = np.zeros((*terms.shape[:-1], self.lanes), self.dtype)
        high, low = zero, zero
        block = sums.BLOCK_QUADS * 4
        for start in range(0, vectors.shape[-2], block):
            stop = min(start + block, vectors.shape[-2])
            chains = [zero] * 4
            last = start + min(4 * quads - start, block)
            for i in range(start, last, 4):
                chains = [c + vectors[..., i + j, :] for j, c in enumerate(chains)]
            total = (chains[0] + chains[1]) + (chains[2] + chains[3])
            for i in range(last, stop):
                total = total + vectors[..., i, :]
            if start:
                high, error = self.call("two_sum", high, total)
                low = low + error
            else:
                high = total
        lanes = high + low
        while lanes.shape[-1] > 1:
            half = lanes.shape[-1] // 2
            lanes = lanes[..., :half] + lanes[..., half:]
        return lanes

    def total_of_shares(self, shares: Any) -> tuple[Any, Any]:
        """The sum of shares over the last axis, kept, in two parts."""
        n = shares.shape[-1]
        if n <= 8 * self.lanes:
            t = self.some(*self.vectors(shares))
            return self.lanes_pair(t, np.zeros_like(t))
        parts = []
        for i in range(0, n, SEGMENT):
            parts.append(self.lanes_pair(*self.segment(shares[..., i : i + SEGMENT])))
        if len(parts) > 1:
            # without the lanes
            high, low = functools.reduce(lambda a, b: self.call("pair_add", *a, *b), parts)
            zeros = np.zeros((*high.shape[:-1], self.lanes - 1), self.dtype)
            parts = [self.lanes_pair(*(np.concatenate([v, zeros], -1) for v in (high, low)))]
        return parts[0]

    def segment(self, shares: Any) -> Any:
        vectors, quads = self.vectors(shares)
        chunk = sums.CHUNK_GROUPS * 8
        parts = []
        for start in range(0, vectors.shape[-2], chunk):
            stop = min(start + chunk, vectors.shape[-2])
            s = np.full((*shares.shape[:-1], self.lanes), sums.BIAS, self.dtype)
            r = np.zeros_like(s)
            last = start + min(4 * quads - start, chunk) // 8 * 8
            for i in range(start, last, 8):
                group = self.gathered(vectors[..., i : i + 4, :]) + self.gathered(vectors[..., i + 4 : i + 8, :])
                s, r = self.call("add_share", s, r, group)
            rest = vectors[..., last:stop, :]
            t = self.some(rest, (min(4 * quads, stop) - last) // 4)
            if last > start:
                s, r = self.call("add_share", s, r, t)
                t = self.call("unbiased", s)
            parts.append((t, r))
        return functools.reduce(lambda a, b: self.call("pair_add", *a, *b), parts)

    def gathered(self, quad: Any) -> Any:
        return (quad[..., 0, :] + quad[..., 1, :]) + (quad[..., 2, :] + quad[..., 3, :])

    def some(self, vectors: Any, quads: int) -> Any:
        t = np.zeros((*vectors.shape[:-2], self.lanes), self.dtype)
        for i in range(0, 4 * quads, 4):
            t = t + self.gathered(vectors[..., i : i + 4, :])
        for i in range(4 * quads, vectors.shape[-2]):
            t = t + vectors[..., i, :]
        return t

    def lanes_pair(self, high: Any, low: Any) -> tuple[Any, Any]:
        if self.dtype == np.float32:
            wide = high.astype(np.float64) + low.astype(np.float64)
            while wide.shape[-1] > 1:
                half = wide.shape[-1] // 2
                wide = wide[..., :half] + wide[..., half:]
            upper = wide.astype(np.float32)
            return upper, (wide - upper.astype(np.float64)).astype(np.float32)
        while high.shape[-1] > 1:
            half = high.shape[-1] // 2
            halves = (v[..., part] for part in (np.s_[:half], np.s_[half:]) for v in (high, low))
            high, low = self.call("pair_add", *halves)
        return high, low

    def greatest(self, x: Any) -> Any:
        return np.fmax.reduce(x, axis=-1, keepdims=True, initial=-np.inf).astype(self.dtype, copy=False)

    def log_sum(self, x: Any, m: Any) -> tuple[Any, Any, Any, Any, Any, Any]:
        c, k = self.call("row_shift", m)
        high, low = self.total_of_shares(self.call("unless_equal", self.call("share", x, None, None, m, k), x, m))
        rest, ties = high + low, self.total(self.call("equal", x, m))
        top = self.call("exp_scaled", m, c, k)
        return self.call("log_sum_over", rest, ties, top), c, k, rest, ties, top

    def softmax(self, x: Any) -> Any:
        x = self.sign * x
        c, k = self.call("row_shift", self.greatest(x))
        shares = self.call("exp_scaled", x, c, k)
        high, low = self.total_of_shares(shares)
        inverse, rest = self.call("reciprocal", high, low)
        return self.call("scaled", shares, None, inverse, rest, None, None)

    def scaled_softmax(self, x: Any, scale: float, causal: bool = False) -> Any:
        return self.prefixes(x.shape, causal, lambda i: self.shares_of_logits("scaled", x[i], None, scale))

    def biased_softmax(self, x: Any, bias: Any, scale: float, causal: bool = False) -> Any:
        return self.prefixes(x.shape, causal, lambda i: self.shares_of_logits("biased", x[i], bias[i], scale))

    def prefixes(self, shape: tuple[int, ...], causal: bool, function: Callable[..., Any]) -> Any:
        """The function of all rows, or of their elements that a causal mask lets count, by the second last axis."""
        if not causal:
            return function(...)
        y = np.zeros(shape, self.dtype)
        for i in range(shape[-2]):
            at = (..., i, slice(i + 1))
            y[at] = function(at)
        return y

    def shares_of_logits(self, kind: str, x: Any, bias: Any, scale: float) -> Any:
        a = self.constant(scale)
        live = np.ones((), bool) if bias is None else (bias != -np.inf).any(-1, keepdims=True)
        m = np.where(live, self.greatest(self.call(f"logit_{kind}", x, bias, a)), self.constant(0))
        _, k = self.call("row_shift", m)
        shares = self.call(f"share_{kind}", x, bias, a, m, k)
        high, low = self.total_of_shares(shares)
        inverse, rest = self.call("reciprocal", high, low)
        zero = self.constant(0)
        return self.call(
            "scaled", shares, None, np.where(live, inverse, high * zero), np.where(live, rest, zero), None, None
        )

    def log_softmax(self, x: Any) -> Any:
        m = self.greatest(x)
        s, *_ = self.log_sum(x, m)
        return self.call("log_share", x, None, m, s, None, None)

    def logsumexp(self, x: Any) -> Any:
        m = self.greatest(x)
        s, *_ = self.log_sum(x, m)
        infinite = m + self.total(self.call("poison", x, None, None, None))
        return np.where(np.isfinite(m), m + s, infinite)[..., 0]

    def sparsemax(self, x: Any) -> Any:
        m = self.greatest(x)
        t = np.full_like(m, -1)
        count = self.total(self.call("above_count", x, None, m, t))
        live = np.ones(m.shape, bool)
        while live.any():
            new = self.call("threshold_of", self.total(self.call("above", x, None, m, t)), count)
            t = np.where(live, new, t)
            fewer = self.total(self.call("above_count", x, None, m, t))
            again = live & (fewer < count)
            count = np.where(live, fewer, count)
            live = again
        return self.call("positive_part", x, None, m, t, None, None)

    def softmax_backward(self, dy: Any, y: Any) -> Any:
        s = self.total(self.call("product", dy, y, None, None))
        return self.call("softmax_grad", dy, y, s, self.sign, None, None)

    def scaled_softmax_backward(self, dy: Any, y: Any, scale: float, causal: bool = False) -> Any:
        def part(at: Any) -> Any:
            s = self.total(self.call("product", dy[at], y[at], None, None))
            return self.call("softmax_grad", dy[at], y[at], s, self.constant(scale), None, None)

        return self.prefixes(y.shape, causal, part)

    def log_softmax_backward(self, dy: Any, y: Any) -> Any:
        return self.call("log_softmax_grad", dy, y, self.total(dy), None, None, None)

    def sparsemax_backward(self, dy: Any, y: Any) -> Any:
        count = self.total(self.call("support", dy, y, None, None))
        mean = self.call("quotient", self.total(self.call("supported", dy, y, None, None)), count)
        return self.call("sparsemax_grad", dy, y, mean, None, None, None)

    def cross_entropy(
        self, x: Any, labels: Any, weights: Any, loss: Any, dx: Any, factor: float, smoothing: float, z: float
    ) -> None:
        n = x.shape[-1]
        factor, smoothing, z = (self.constant(value) for value in (factor, smoothing, z))
        each = smoothing / self.constant(n)
        rows, flat = x.reshape(-1, n), labels.reshape(-1)
        counted = flat >= 0
        at = np.where(counted, flat, 0)[:, None]
        with np.errstate(all="ignore"):
            m = self.greatest(rows)
            c, k = self.call("row_shift", m)
            shares = self.call("exp_scaled", rows, c, k)
            chosen, share = np.take_along_axis(rows, at, -1), np.take_along_axis(shares, at, -1)
            others = shares.copy()
            np.put_along_axis(others, at, 0, -1)
            high, low = self.total_of_shares(others)
            rest = high + low
            weight = self.constant(1) if weights is None else weights[at]
            s = self.call("log_total", chosen, m, rest, share, self.call("exp_scaled", m, c, k))
            value = (m - chosen) + s
            if smoothing > 0 or z > 0:
                whole = self.constant(n) if weights is None else self.total(weights[None])
                far = 0 * m
                if smoothing > 0:
                    gaps = self.call("gap", rows, None, m, None)
                    far = self.total(gaps if weights is None else self.call("distance", rows, weights[None], m, None))
                own = weight * (self.constant(1) - smoothing)
                value = self.call("with_square", self.call("smoothed_loss", value, s, far, whole, own, each), z, m + s)
                extra = self.call("with_slope", each * whole, z, m + s)
                here = self.call("smoothed_label", own, extra, rest, share, weight * each, factor)
                inverse = (own + extra) * factor / (rest + share)
            else:
                value = weight * value
                inverse = weight * factor / (rest + share)
                here = self.call("negative_product", rest, inverse)
            loss.reshape(-1)[...] = np.where(counted[:, None], value, 0)[:, 0]
            if dx is not None:
                if each * factor == 0:
                    grad = self.call("scaled", shares, None, inverse, self.constant(0), None, None)
                elif weights is None:
                    grad = self.call("less_each", shares, None, inverse, each * factor, None, None)
                else:
                    grad = self.call("less_weights", shares, weights[None], inverse, each * factor, None, None)
                np.put_along_axis(grad, at, here, -1)
                dx.reshape(-1, n)[...] = np.where(counted[:, None], grad, 0)

    def cross_entropy_of_shares(self, x: Any, targets: Any, loss: Any, dx: Any, factor: float, z: float) -> None:
        n, z = x.shape[-1], self.constant(z)
        x, q = x.reshape(-1, n), targets.reshape(-1, n)
        with np.errstate(all="ignore"):
            m = self.greatest(x)
            s, c, k, rest, ties, top = self.log_sum(x, m)
            weight = self.total(q)
            far = self.total(self.call("distance", x, q, m, None))
            loss.reshape(-1)[...] = self.call("with_square", self.call("target_loss", far, weight, s), z, m + s)[:, 0]
            if dx is not None:
                share = self.call("target_factor", self.call("with_slope", weight, z, m + s), rest, ties, top)
                dx.reshape(-1, n)[...] = self.call("target_grad", x, q, share, self.constant(factor), c, k)

    def sigmoid_cross_entropy(
        self, x: Any, targets: Any, weights: Any, positive: Any, sums: Any, dx: Any, losses: Any, factor: float
    ) -> None:
        self.pointwise("sigmoid_loss", (x, targets, weights, positive), sums, dx, losses, factor)

    def mse_loss(self, x: Any, t: Any, weights: Any, sums: Any, dx: Any, losses: Any, factor: float) -> None:
        self.pointwise("squared_error", (x, t, weights, None), sums, dx, losses, factor)

    def l1_loss(self, x: Any, t: Any, weights: Any, sums: Any, dx: Any, losses: Any, factor: float) -> None:
        self.pointwise("absolute_error", (x, t, weights, None), sums, dx, losses, factor)

    def huber_loss(
        self, x: Any, t: Any, weights: Any, sums: Any, dx: Any, losses: Any, factor: float, delta: float
    ) -> None:
        self.pointwise("huber_error", (x, t, weights, self.constant(delta)), sums, dx, losses, factor)

    def kl_div(self, x: Any, t: Any, weights: Any, sums: Any, dx: Any, losses: Any, factor: float) -> None:
        self.pointwise("divergence", (x, t, weights, None), sums, dx, losses, factor)

    def pointwise(self, name: str, given: tuple[Any, ...], sums: Any, dx: Any, losses: Any, factor: float) -> None:
        x, one = given[0], self.constant(1)
        args, n = [one if a is None else a.ravel() if np.ndim(a) else a for a in given], x.size // sums.size
        with np.errstate(all="ignore"):
            value = self.call(name, *args)
            for row in range(sums.size):
                part = value[row * n : (row + 1) * n]
                high = low = np.zeros(self.lanes, self.dtype)
                for i in range(0, part.size, self.lanes):
                    lanes = np.zeros(self.lanes, self.dtype)
                    lanes[: part[i : i + self.lanes].size] = part[i : i + self.lanes]
                    high, error = self.call("two_sum", high, lanes)
                    low = low + error
                sums[row] = self.total((high + low)[None])[0, 0]
            if losses is not None:
                losses.reshape(-1)[...] = value
            if dx is not None:
                dx.reshape(-1)[...] = self.call(f"{name}_grad", *args) * self.constant(factor)

    def total_of_rows(self, terms: Any) -> Any:
        """The sum over all rows, for each column."""
        return sums_over_rows.total(*sums_over_rows.column_sums(terms))

    def layer_norm(self, x: Any, weight: Any, bias: Any, y: Any, mean: Any, low: Any, rstd: Any, eps: float) -> None:
        n = x.shape[-1]
        count = self.constant(n)
        rows, out = x.reshape(-1, n), y.reshape(-1, n)
        with np.errstate(all="ignore"):
            first = rows[:, :1]
            guess = self.call("mean_from", first, self.total(rows - first), count)
            d = rows - guess
            rest = self.total(d)
            r = self.call("spread_scale", self.total(d * d), rest, count, self.constant(eps))
            m, lost = self.call("two_sum", guess, rest / count)
            out[...] = self.call("affine", self.centred(rows, m, lost, r), weight, bias)
        for to, value in ((mean, m), (low, lost), (rstd, r)):
            if to is not None:
                to.reshape(-1)[...] = value[:, 0]

    def rms_norm(self, x: Any, weight: Any, y: Any, rstd: Any, eps: float) -> None:
        n = x.shape[-1]
        rows = x.reshape(-1, n)
        with np.errstate(all="ignore"):
            squares = self.total(rows * rows)
            r = self.call("square_scale", squares, self.constant(n), self.constant(eps))
            if rstd is not None:
                rstd.reshape(-1)[...] = r[:, 0]
            y.reshape(-1, n)[...] = rows * r * weight

    def centred(self, rows: Any, mean: Any, low: Any, rstd: Any) -> Any:
        return self.call("normalised", rows, mean, rstd, -(low * rstd))

    def layer_norm_apply(self, x: Any, weight: Any, bias: Any, mean: Any, low: Any, rstd: Any, y: Any) -> None:
        n = x.shape[-1]
        with np.errstate(all="ignore"):
            h = self.centred(x.reshape(-1, n), *(a.reshape(-1, 1) for a in (mean, low, rstd)))
            y.reshape(-1, n)[...] = self.call("affine", h, weight, bias)

    def rms_norm_apply(self, x: Any, weight: Any, rstd: Any, y: Any) -> None:
        n = x.shape[-1]
        with np.errstate(all="ignore"):
            y.reshape(-1, n)[...] = x.reshape(-1, n) * rstd.reshape(-1, 1) * weight

    def layer_norm_backward(
        self, dy: Any, x: Any, weight: Any, mean: Any, low: Any, rstd: Any, dx: Any, dweight: Any, dbias: Any
    ) -> None:
        n = x.shape[-1]
        m, lost, r = (a.reshape(-1, 1) for a in (mean, low, rstd))
        rows, terms = x.reshape(-1, n), dy.reshape(-1, n)
        with np.errstate(all="ignore"):
            h = self.centred(rows, m, lost, r)
            self.norm_gradients(terms, h, weight, r, True, dx.reshape(-1, n), dweight, dbias)

    def rms_norm_backward(self, dy: Any, x: Any, weight: Any, rstd: Any, dx: Any, dweight: Any) -> None:
        n = x.shape[-1]
        r = rstd.reshape(-1, 1)
        with np.errstate(all="ignore"):
            h = x.reshape(-1, n) * r
            self.norm_gradients(dy.reshape(-1, n), h, weight, r, False, dx.reshape(-1, n), dweight, None)

    def norm_gradients(
        self, dy: Any, h: Any, weight: Any, r: Any, centre: bool, dx: Any, dweight: Any, dbias: Any
    ) -> None:
        count = self.constant(dy.shape[-1])
        g = dy * weight
        a = self.total(g) / count * r if centre else np.zeros_like(r)
        b = self.total(g * h) / count * r
        # dx may take the place of dy
        dweight[...] = self.total_of_rows(dy * h)
        if dbias is not None:
            dbias[...] = self.total_of_rows(dy)
        dx[...] = self.call("norm_grad", g, h, r, a, b)
