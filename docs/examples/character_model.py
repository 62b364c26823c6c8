"""A small language model over characters, trained on a text that comes with Python.

Embedding, two blocks of transformer_block.py, RMS norm, a linear layer; AdamW with gradients clipped at norm 1. Trains
for about 20 seconds on two cores and prints what it writes.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastact as fa

sys.path.insert(0, str(Path(__file__).parent))
from transformer_block import Array, Block, product

TOKENS, BATCH, WIDTH = 64, 32, 96


def text() -> str:
    """Python's own manual of its language, as ``help("LAMBDAS")`` and the like show it."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


class Model:
    """Characters to logits of the next ones."""

    def __init__(self, characters: int, seed: int = 0, dtype: type[np.floating[Any]] = np.float32) -> None:
        rng = np.random.default_rng(seed)
        self.embedding = (0.02 * rng.standard_normal((characters, WIDTH))).astype(dtype)
        self.position = (0.02 * rng.standard_normal((TOKENS, WIDTH))).astype(dtype)
        self.blocks = [Block(WIDTH, 4, 256, dtype, seed + i) for i in range(2)]
        self.norm = np.ones(WIDTH, dtype)
        self.head = (rng.standard_normal((WIDTH, characters)) / np.sqrt(WIDTH)).astype(dtype)
        own = [self.embedding, self.position, self.norm, self.head]
        self.own_gradients = [np.zeros_like(p) for p in own]
        self.parameters = [*own, *(p for block in self.blocks for p in block.parameters)]
        self.gradients = [*self.own_gradients, *(g for block in self.blocks for g in block.gradients)]

    def forward(self, x: NDArray[np.int64]) -> Array:
        self.tokens = x
        h = self.embedding[x] + self.position[: x.shape[1]]
        for block in self.blocks:
            h = block.forward(h)
        self.last = h
        self.h, self.stats = fa.rms_norm.forward(h, self.norm)
        logits: Array = self.h @ self.head
        return logits

    def backward(self, dlogits: Array) -> None:
        dembedding, dposition, dnorm, dhead = self.own_gradients
        product(self.h, dlogits, dhead)
        dh, weight = fa.rms_norm.backward(dlogits @ self.head.T, self.last, self.stats, self.norm)[:2]
        dnorm[...] = weight
        for block in reversed(self.blocks):
            dh = block.backward(dh)
        dembedding[...] = 0
        np.add.at(dembedding, self.tokens, dh)
        dposition[...] = 0
        dposition[: dh.shape[1]] = dh.sum(0)

    def write(self, x: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """So many characters more, each drawn by its probability."""
        for _ in range(count):
            logits = self.forward(x[None, -TOKENS:])[0, -1]
            p = fa.softmax(logits.astype(np.float64) / 0.8)
            x = np.append(x, rng.choice(len(p), p=p))
        return x


def train(steps: int = 300, seed: int = 0) -> tuple[Model, list[str], list[float]]:
    """The model, its characters and the loss of each step, in nats a character."""
    data = text()
    characters = sorted(set(data))
    index = {c: i for i, c in enumerate(characters)}
    data = np.array([index[c] for c in data])
    rng = np.random.default_rng(seed)
    model, losses = Model(len(characters), seed), []
    optimiser = fa.optim.AdamW(model.parameters, lr=3e-3, weight_decay=0.1)
    for step in range(steps):
        starts = rng.integers(0, len(data) - TOKENS, BATCH)
        batch = data[starts[:, None] + np.arange(TOKENS + 1)]
        logits = model.forward(batch[:, :-1])
        loss, dlogits = fa.softmax_cross_entropy.value_and_grad(logits, batch[:, 1:], out=logits)
        model.backward(dlogits)
        warm = min(1.0, (step + 1) / 20) * (1 - step / steps)
        optimiser.step(model.gradients, lr=3e-3 * warm, max_norm=1.0)
        losses.append(float(loss))
    return model, characters, losses


if __name__ == "__main__":
    start = time.perf_counter()
    model, characters, losses = train(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
    seconds = time.perf_counter() - start
    print(
        f"{len(losses)} steps in {seconds:.0f} s; loss {losses[0]:.2f} -> {np.mean(losses[-20:]):.2f} nats a character"
    )
    prompt = np.array([characters.index(c) for c in "The "])
    print("".join(characters[i] for i in model.write(prompt, 200, np.random.default_rng(0))))
