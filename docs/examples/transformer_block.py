"""A pre-norm transformer block with SwiGLU, forward and backward, by hand on NumPy arrays.

    x = x + attention(rms_norm(x)),  x = x + swiglu(rms_norm(x) @ up) @ down

Touvron and others, LLaMA, arXiv:2302.13971, without rotary embeddings. Run it: gradients are compared with differences
of the loss, then a step is timed.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastact as fa

Array = NDArray[np.floating[Any]]


class Block:
    """One block on arrays of shape (batch, tokens, width); `parameters` and `gradients` are lists of arrays."""

    def __init__(
        self, width: int, heads: int, hidden: int, dtype: type[np.floating[Any]] = np.float32, seed: int = 0
    ) -> None:
        rng = np.random.default_rng(seed)

        def normal(*shape: int) -> Array:
            drawn: Array = (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(dtype)
            return drawn

        self.heads = heads
        self.norm1, self.norm2 = np.ones(width, dtype), np.ones(width, dtype)
        self.qkv, self.proj = normal(width, 3 * width), normal(width, width)
        # the gate's columns, then those it opens
        self.up, self.down = normal(width, 2 * hidden), normal(hidden, width)
        self.parameters = [self.norm1, self.qkv, self.proj, self.norm2, self.up, self.down]
        self.gradients = [np.zeros_like(p) for p in self.parameters]

    def split(self, x: Array) -> Array:
        """(batch, tokens, width) to (batch, heads, tokens, width/heads)."""
        batch, tokens, width = x.shape
        return x.reshape(batch, tokens, self.heads, width // self.heads).swapaxes(1, 2)

    def merge(self, x: Array) -> Array:
        """And back."""
        batch, heads, tokens, width = x.shape
        return x.swapaxes(1, 2).reshape(batch, tokens, heads * width)

    def forward(self, x: Array) -> Array:
        """The output of the block; what its gradient needs is kept."""
        self.x1 = x
        self.h1, self.stats1 = fa.rms_norm.forward(x, self.norm1)
        self.q, self.k, self.v = (self.split(part) for part in np.split(self.h1 @ self.qkv, 3, axis=-1))
        self.scale = self.q.shape[-1] ** -0.5
        scores = self.q @ self.k.swapaxes(-1, -2)
        self.p = fa.softmax(scores, scale=self.scale, causal=True, out=scores)
        self.mixed = self.merge(self.p @ self.v)
        # the norm of the sum, and that sum
        self.h2, self.stats2, self.x2 = fa.rms_norm.forward(self.mixed @ self.proj, self.norm2, residual=x)
        self.gate_and_up = self.h2 @ self.up
        self.gated = fa.swiglu(self.gate_and_up)
        return self.x2 + self.gated @ self.down

    def backward(self, dy: Array) -> Array:
        """The gradient by the input; those by the parameters are in `gradients`."""
        dnorm1, dqkv, dproj, dnorm2, dup, ddown = self.gradients
        product(self.gated, dy, ddown)
        dgate_and_up = fa.swiglu.backward(dy @ self.down.T, self.gate_and_up)
        product(self.h2, dgate_and_up, dup)
        dx2, weight = fa.rms_norm.backward(dgate_and_up @ self.up.T, self.x2, self.stats2, self.norm2)[:2]
        dnorm2[...] = weight
        dx2 += dy
        product(self.mixed, dx2, dproj)
        dmixed = self.split(dx2 @ self.proj.T)
        dp, dv = dmixed @ self.v.swapaxes(-1, -2), self.p.swapaxes(-1, -2) @ dmixed
        dscores = fa.softmax.backward(dp, self.p, scale=self.scale, causal=True, out=dp)
        dq, dk = dscores @ self.k, dscores.swapaxes(-1, -2) @ self.q
        dall = np.concatenate([self.merge(part) for part in (dq, dk, dv)], axis=-1)
        product(self.h1, dall, dqkv)
        dx, weight = fa.rms_norm.backward(dall @ self.qkv.T, self.x1, self.stats1, self.norm1)[:2]
        dnorm1[...] = weight
        dx += dx2
        return dx


def product(x: Array, dy: Array, out: Array) -> None:
    """The gradient by w of x @ w."""
    np.matmul(x.reshape(-1, x.shape[-1]).T, dy.reshape(-1, dy.shape[-1]), out=out)


def largest_difference(width: int = 16, heads: int = 2, hidden: int = 24, seed: int = 0) -> float:
    """The largest relative difference between a gradient and a central difference, in float64."""
    rng = np.random.default_rng(seed)
    block = Block(width, heads, hidden, np.float64)
    x, dy = rng.standard_normal((2, 2, 7, width))
    block.forward(x)
    dx = block.backward(dy)
    worst, h = 0.0, 1e-5
    for array, gradient in [(x, dx), *zip(block.parameters, block.gradients)]:
        gradient = gradient.copy()
        direction = rng.standard_normal(array.shape)
        start = array.copy()
        losses = []
        for sign in (h, -h):
            array[...] = start + sign * direction
            losses.append((block.forward(x) * dy).sum())
        array[...] = start
        want = (gradient * direction).sum()
        worst = max(worst, abs((losses[0] - losses[1]) / (2 * h) - want) / abs(want))
    return worst


if __name__ == "__main__":
    print(f"largest relative difference from central differences: {largest_difference():.1e}")
    block = Block(256, 4, 683)
    optimiser = fa.optim.AdamW(block.parameters, lr=1e-3)
    x = np.random.default_rng(1).standard_normal((8, 128, 256)).astype(np.float32)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        y = block.forward(x)
        block.backward(y / y.size)
        optimiser.step(block.gradients)
        times.append(time.perf_counter() - start)
    print(f"8 x 128 tokens of width 256: {1e3 * sorted(times)[len(times) // 2]:.1f} ms a step")
