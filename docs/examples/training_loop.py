"""A training loop of your own: fit a curve with two hidden GELU layers and gradient descent with momentum.

Run: python training_loop.py
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

import fastact as fa

Array = NDArray[np.float32]

rng = np.random.default_rng(0)
x = np.linspace(-3, 3, 256, dtype=np.float32)[:, np.newaxis]
target = np.sin(2 * x) + 0.3 * x

# He initialisation: variance 2/fan_in keeps the signal's size from layer to layer
sizes = [1, 32, 32, 1]
weights = [rng.standard_normal((m, n), np.float32) * np.sqrt(2 / m, dtype=np.float32) for m, n in pairwise(sizes)]
biases = [np.zeros(n, np.float32) for n in sizes[1:]]
velocity = [np.zeros_like(p) for p in (*weights, *biases)]


def mean_squared_error_and_gradient() -> tuple[float, tuple[Array, ...]]:
    # forward: z is what goes into an activation, a what comes out; GELU's derivative needs z
    a, z = [x], []
    for w, b in zip(weights[:-1], biases[:-1]):
        z.append(a[-1] @ w + b)
        a.append(fa.gelu(z[-1]))
    error = a[-1] @ weights[-1] + biases[-1] - target

    # backward, layer by layer: delta is the gradient of the loss by what went into the layer's activation
    delta = 2 * error / len(x)
    dweights: list[Array] = []
    dbiases: list[Array] = []
    for layer in reversed(range(len(weights))):
        dweights.insert(0, a[layer].T @ delta)
        dbiases.insert(0, delta.sum(axis=0))
        if layer > 0:
            delta = delta @ weights[layer].T
            fa.gelu.backward(delta, z[layer - 1], out=delta)
    return float(np.mean(error**2)), (*dweights, *dbiases)


for step in range(4001):
    loss, gradients = mean_squared_error_and_gradient()
    for p, v, g in zip((*weights, *biases), velocity, gradients):
        v *= 0.9
        v -= 0.01 * g
        p += v
    if step % 1000 == 0:
        print(f"step {step:4}  mean squared error {loss:.5f}")
