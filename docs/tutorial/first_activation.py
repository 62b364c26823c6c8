"""
A first activation
==================

An activation is a function of one number, applied to each element of an array. This page calls one, looks at its
derivative, and sends a gradient back through it.
"""

# %%
# Install it with ``pip install .`` in its source folder, then import it next to NumPy.

import matplotlib.pyplot as plt
import numpy as np

import fastact as fa

# %%
# Values
# ------
# ELU is ``x`` where x is above 0, and ``alpha·(exp(x) - 1)`` below. It takes whatever NumPy can make an array of. The
# result has the shape and the dtype of the input.

x = np.linspace(-4, 4, 9, dtype=np.float32)
print(fa.elu(x))

# %%
# A parameter is a keyword. Here the curve flattens out at -0.5 and not at -1.

print(fa.elu(x, alpha=0.5))

# %%
# ``fa.elu`` behaves as a NumPy ufunc: it broadcasts, casts, and takes ``out=`` and ``where=``. With ``out=x`` it
# writes into its own input, which saves memory.

y = x.copy()
fa.elu(y, out=y)
print(y)

# %%
# The derivative
# --------------
# Training needs the derivative as well. ``value_and_grad`` computes both in one pass over the array.

x = np.linspace(-4, 4, 401, dtype=np.float32)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained", sharex=True)
for alpha in (0.5, 1.0, 1.5):
    value, slope = fa.elu.value_and_grad(x, alpha=alpha)
    axes[0].plot(x, value, label=f"alpha = {alpha}")
    axes[1].plot(x, slope)
axes[0].set_title("elu")
axes[1].set_title("derivative of elu")
axes[0].legend()

# %%
# With ``alpha = 1``, the default, the derivative has no jump at 0. With any other value it jumps there.
#
# A gradient goes back
# --------------------
# Let a loss L depend on ``y = elu(x)``. If ``dy`` is the gradient of L by y, then the gradient by x is
# ``dx = dy·elu'(x)``. That is what ``backward`` computes. As an example take ``L = sum(y²)``, so that ``dy = 2·y``.

x = np.array([-2.0, -0.5, 0.5, 2.0])
y = fa.elu(x)
dx = fa.elu.backward(2 * y, x)
print(dx)

# %%
# A test that works for every gradient: move one input by a little and see how much the loss changes.

step = 1e-6
for i in range(x.size):
    moved = x.copy()
    moved[i] += step
    difference = (np.sum(fa.elu(moved) ** 2) - np.sum(y**2)) / step
    print(f"{dx[i]: .6f}  {difference: .6f}")

# %%
# ELU's derivative can be computed from its output alone. Then the input need not be kept until the way back.

print(fa.elu.backward_from_output(2 * y, y))

# %%
# A bias in the same pass
# -----------------------
# A dense layer adds a bias before the activation. ``biased`` does both in one pass, and its gradient sums the bias's
# gradient over the rows.

rng = np.random.default_rng(0)
z = rng.standard_normal((5, 3))
bias = np.array([0.1, 0.0, -0.1])
y = fa.elu.biased(z, bias)
dz, dbias = fa.elu.biased_backward(np.ones_like(y), z, bias)
print(y.shape, dz.shape, dbias.shape)

# %%
# The next page, :doc:`training_a_network`, builds a network from this.
