"""
Training a network
==================

A network that reads handwritten digits, in NumPy and fastact, with nothing hidden. It has three layers::

    Dense(64, ELU) -> Dense(64, ELU) -> Dense(10, softmax)

It is trained with Adam on the categorical cross-entropy, and its accuracy is measured on images that it has not seen.
Then we change three things and look at what happens: the initialisation, the learning rate, and batch normalisation.
The command ``fastact demo`` trains the same network.
"""

# %%
# The data
# --------
# 8 × 8 images of the digits 0 to 9 come with the package. An image is a row of 64 numbers, its label an integer.

import time
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np

import fastact as fa
from fastact.tools.data import load_digits

(images, labels), (test_images, test_labels) = load_digits()
print(images.shape, images.dtype, labels[:10])

figure, axes = plt.subplots(1, 8, figsize=(9, 1.5))
for axis, image, label in zip(axes, images, labels, strict=False):
    axis.imshow(image.reshape(8, 8), cmap="gray_r")
    axis.set_title(label)
    axis.axis("off")

# %%
# The weights
# -----------
# A dense layer computes ``z = x @ weight + bias``. Before training, weights are random numbers. Their variance
# matters: a sum over ``n`` inputs has ``n`` times the variance of one of its terms. If the weights are too small, the
# signal fades from layer to layer; if they are too large, it explodes. **He initialisation** takes the variance
# ``2/n``, where ``n`` is the number of inputs. It fits ELU, ReLU and their relatives. Biases start at 0.


def he_initialised(sizes, rng, gain=2.0):
    parameters = []
    for inputs, outputs in pairwise(sizes):
        weight = rng.standard_normal((inputs, outputs), dtype=np.float32)
        weight *= np.float32(np.sqrt(gain / inputs))
        parameters += [weight, np.zeros(outputs, np.float32)]
    return parameters


parameters = he_initialised([64, 64, 64, 10], np.random.default_rng(0))
print([p.shape for p in parameters], sum(p.size for p in parameters), "numbers")

# %%
# Forward
# -------
# Each hidden layer is a matrix product and then ``elu(z + bias)`` in one pass. The last layer gives ten numbers for an
# image, the logits. We keep what the way back needs: what went into each layer, and each ``z``.


def forward(parameters, x):
    kept = []
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        z = x @ weight
        kept.append((x, z))
        x = fa.elu.biased(z, bias)
    logits = x @ parameters[-2] + parameters[-1]
    return logits, [*kept, (x, None)]


logits, kept = forward(parameters, images)

# %%
# Softmax makes probabilities of logits: positive numbers with the sum 1.

print(fa.softmax(logits[:1]).round(2))

# %%
# The loss
# --------
# The categorical cross-entropy is ``-log(p)``, where ``p`` is the probability that the network gives to the right
# digit; its mean over the images is the loss. A network that gives 1/10 to each digit has the loss
# ``log(10) = 2.3``; a random one has a little more. Softmax and loss belong together: one call gives the loss and its
# gradient by the logits, and stays right where a probability would underflow to 0.

loss, dlogits = fa.softmax_cross_entropy.value_and_grad(logits, labels)
print(f"{loss:.3f}", dlogits.shape)

# %%
# Backward
# --------
# The gradient goes from the last layer to the first. Of a product ``z = x @ weight`` the gradients are
# ``x.T @ dz`` by the weight and ``dz @ weight.T`` by the input.


def backward(parameters, kept, dlogits):
    gradients = [None] * len(parameters)
    dz, dbias = dlogits, dlogits.sum(axis=0)
    for layer in reversed(range(len(kept))):
        x, _ = kept[layer]
        gradients[2 * layer] = x.T @ dz
        gradients[2 * layer + 1] = dbias
        if layer:
            dy = dz @ parameters[2 * layer].T
            dz, dbias = fa.elu.biased_backward(dy, kept[layer - 1][1], parameters[2 * layer - 1])
    return gradients


gradients = backward(parameters, kept, dlogits)

# %%
# Test it, as on the page before: change one weight by a little.

moved = [p.astype(np.float64) for p in parameters]
moved[0][20, 30] += 1e-5
higher = fa.softmax_cross_entropy(forward(moved, images)[0], labels)
moved[0][20, 30] -= 2e-5
lower = fa.softmax_cross_entropy(forward(moved, images)[0], labels)
print(f"{gradients[0][20, 30]:.6f}  {(higher - lower) / 2e-5:.6f}")

# %%
# Training
# --------
# An epoch takes all images once, in random order, in batches of 64. After each batch Adam changes all parameters a
# little. ``keras=True`` takes Adam's epsilon as Keras does.


def accuracy(logits, labels):
    return float(np.mean(logits.argmax(axis=1) == labels))


def train(parameters, epochs=40, learning_rate=1e-3, batch=64):
    rng = np.random.default_rng(1)
    adam = fa.optim.Adam(parameters, lr=learning_rate, keras=True)
    losses = []
    for _ in range(epochs):
        total = 0.0
        order = rng.permutation(len(images))
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            logits, kept = forward(parameters, images[chosen])
            loss, dlogits = fa.softmax_cross_entropy.value_and_grad(logits, labels[chosen])
            adam.step(backward(parameters, kept, dlogits))
            total += loss * len(chosen)
        losses.append(total / len(images))
    return losses


start = time.perf_counter()
losses = train(parameters)
print(f"{time.perf_counter() - start:.1f} s")
print(f"loss {losses[0]:.3f} after the first epoch, {losses[-1]:.3f} after the last")
print(f"accuracy {accuracy(forward(parameters, test_images)[0], test_labels):.3f} on images not seen in training")

# %%
# What happens with another initialisation
# ----------------------------------------
# He's variance is ``2/n``. We try a tenth of its standard deviation, and five times as much.

figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
for factor in (0.1, 1.0, 5.0):
    tried = he_initialised([64, 64, 64, 10], np.random.default_rng(0), gain=2.0 * factor**2)
    curve = train(tried, epochs=15)
    name = "He" if factor == 1 else f"{factor:g} times He"
    axis.semilogy(range(1, 16), curve, label=name)
axis.set(xlabel="epoch", ylabel="training loss")
figure.legend(loc="outside right upper")

# %%
# Small weights begin slowly: signal and gradient fade on their way through the layers. Large ones begin with a large
# loss, for large logits are wrong with great confidence.
#
# What happens with another learning rate
# ---------------------------------------
# The learning rate matters more than the choice of the activation. Begin at 1e-3 with Adam, and try factors of 3 to 10.

figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
for rate in (1e-4, 1e-3, 1e-2, 1e-1):
    curve = train(he_initialised([64, 64, 64, 10], np.random.default_rng(0)), epochs=15, learning_rate=rate)
    axis.semilogy(range(1, 16), curve, label=f"learning rate {rate:g}")
axis.set(xlabel="epoch", ylabel="training loss")
figure.legend(loc="outside right upper")

# %%
# A smooth and slow curve says that the rate is too small. A curve that jumps says that it is too large. Here 1e-2 goes
# furthest down in 15 epochs, but begins to jump. If a curve falls first and then only hovers, lower the rate from there
# on: ``adam.step(gradients, lr=...)``.
#
# Batch normalisation
# -------------------
# It gives each unit's input the mean 0 and the variance 1 over the batch. Then two learned numbers for each unit,
# gamma and beta, scale and shift it. So the inputs of the activation stay where it is not flat, and the initialisation
# matters less. The layer's own bias goes: beta does its work. ``activation="elu"`` puts the activation into the same
# pass. In training the statistics are those of the batch; running means of them are kept, for prediction.


class Normalised:
    def __init__(self, units):
        self.gamma, self.beta = np.ones(units, np.float32), np.zeros(units, np.float32)
        self.mean, self.var = np.zeros(units, np.float32), np.ones(units, np.float32)

    def train(self, z):
        running = {"running_mean": self.mean, "running_var": self.var, "momentum": 0.9}
        return fa.batch_norm.forward(z, self.gamma, self.beta, activation="elu", **running)

    def predict(self, z):
        return fa.batch_norm(z, self.mean, self.var, self.gamma, self.beta, activation="elu")

    def backward(self, dy, z, stats):
        return fa.batch_norm.backward(dy, z, stats, self.gamma, self.beta, activation="elu")


def train_normalised(gain, epochs=15, batch=64):
    rng = np.random.default_rng(1)
    parameters = he_initialised([64, 64, 64, 10], np.random.default_rng(0), gain)
    first, second, last, bias = (parameters[i] for i in (0, 2, 4, 5))
    norms = [Normalised(64), Normalised(64)]
    learned = [first, norms[0].gamma, norms[0].beta, second, norms[1].gamma, norms[1].beta, last, bias]
    adam = fa.optim.Adam(learned, lr=1e-3, keras=True)
    losses = []
    for _ in range(epochs):
        total = 0.0
        order = rng.permutation(len(images))
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            x = images[chosen]
            z1 = x @ first
            y1, stats1 = norms[0].train(z1)
            z2 = y1 @ second
            y2, stats2 = norms[1].train(z2)
            loss, dlogits = fa.softmax_cross_entropy.value_and_grad(y2 @ last + bias, labels[chosen])
            dz2, dgamma2, dbeta2 = norms[1].backward(dlogits @ last.T, z2, stats2)
            dz1, dgamma1, dbeta1 = norms[0].backward(dz2 @ second.T, z1, stats1)
            adam.step([x.T @ dz1, dgamma1, dbeta1, y1.T @ dz2, dgamma2, dbeta2, y2.T @ dlogits, dlogits.sum(axis=0)])
            total += loss * len(chosen)
        losses.append(total / len(images))
    y = test_images
    for weight, norm in zip((first, second), norms, strict=True):
        y = norm.predict(y @ weight)
    return losses, accuracy(y @ last + bias, test_labels)


figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
for factor, style in ((0.1, ":"), (1.0, "-"), (5.0, "--")):
    gain = 2.0 * factor**2
    name = "He" if factor == 1 else f"{factor:g} times He"
    plain = train(he_initialised([64, 64, 64, 10], np.random.default_rng(0), gain), epochs=15)
    normalised, right = train_normalised(gain)
    axis.semilogy(range(1, 16), plain, f"C0{style}", label=f"{name}")
    axis.semilogy(range(1, 16), normalised, f"C1{style}", label=f"{name}, batch normalisation")
    print(f"{name}: accuracy {right:.3f} with batch normalisation")
axis.set(xlabel="epoch", ylabel="training loss")
figure.legend(loc="outside right upper")

# %%
# With batch normalisation, weights that are too small do no harm, and those that are too large do less. The last layer
# has none, so its large weights still give a large loss.
#
# Where to go on
# --------------
# - :doc:`/activations` says what is good and bad about each activation, and which one to take.
# - :doc:`/norms` and :doc:`/optimisers` say more about the last two sections.
# - :doc:`/generated/examples` has whole programs, a transformer among them.
# - ``fastact demo --activation gelu --plot curves.png`` trains this network with another activation.
