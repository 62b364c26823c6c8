"""The activation functions of deep learning for NumPy, at the speed of the hardware.

>>> import numpy as np, fastact as fa
>>> x = np.linspace(-2, 2, 5, dtype=np.float32)
>>> fa.relu(x)
array([0., 0., 0., 1., 2.], dtype=float32)
>>> fa.relu.backward(np.ones_like(x), x)
array([0., 0., 0., 1., 1.], dtype=float32)

`fastact.activations` maps names to objects; `help(fastact.elu)` says what each one computes, what it takes and what it
raises. `softmax`, `log_softmax`, `softmin`, `sparsemax` and `logsumexp` work over an axis, `softmax_cross_entropy` and
`sigmoid_cross_entropy` are losses that give their gradient in the same pass. `explain` tells which kernel a call runs.

Importing this loads NumPy only; Numba is imported when a kernel is first needed and is not on disk yet.
"""

from fastact import dispatch, ufuncs  # noqa: F401 - pickle looks for ufuncs in loaded modules
from fastact._version import __version__
from fastact.api.activation import Activation, activations, get
from fastact.api.rows import (
    log_softmax,
    logsumexp,
    sigmoid_cross_entropy,
    softmax,
    softmax_cross_entropy,
    softmin,
    sparsemax,
)
from fastact.dispatch import explain, get_include, get_num_threads, info, set_num_threads, use_backend, warmup

identity = activations["identity"]
relu = activations["relu"]
relu6 = activations["relu6"]
leaky_relu = activations["leaky_relu"]
thresholded_relu = activations["thresholded_relu"]
threshold = activations["threshold"]
elu = activations["elu"]
selu = activations["selu"]
celu = activations["celu"]
sigmoid = activations["sigmoid"]
log_sigmoid = activations["log_sigmoid"]
hard_sigmoid = activations["hard_sigmoid"]
tanh = activations["tanh"]
hard_tanh = activations["hard_tanh"]
tanh_shrink = activations["tanh_shrink"]
softplus = activations["softplus"]
softsign = activations["softsign"]
soft_shrink = activations["soft_shrink"]
hard_shrink = activations["hard_shrink"]
shrink = activations["shrink"]
silu = activations["silu"]
hard_silu = activations["hard_silu"]
gelu = activations["gelu"]
gelu_tanh = activations["gelu_tanh"]
quick_gelu = activations["quick_gelu"]
mish = activations["mish"]
dish = activations["dish"]
squareplus = activations["squareplus"]
sparse_plus = activations["sparse_plus"]
sparse_sigmoid = activations["sparse_sigmoid"]
relu_squared = activations["relu_squared"]
relu_k = activations["relu_k"]
clipped_linear = activations["clipped_linear"]
exponential = activations["exponential"]
prelu = activations["prelu"]

# the same objects by their other names
linear = identity
logistic = sigmoid
expit = sigmoid
swish = silu
hard_swish = hard_silu

__all__ = [
    "Activation",
    "__version__",
    "activations",
    "celu",
    "clipped_linear",
    "dish",
    "dispatch",
    "elu",
    "expit",
    "explain",
    "exponential",
    "gelu",
    "gelu_tanh",
    "get",
    "get_include",
    "get_num_threads",
    "hard_shrink",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "identity",
    "info",
    "leaky_relu",
    "linear",
    "log_sigmoid",
    "log_softmax",
    "logistic",
    "logsumexp",
    "mish",
    "prelu",
    "quick_gelu",
    "relu",
    "relu6",
    "relu_k",
    "relu_squared",
    "selu",
    "set_num_threads",
    "shrink",
    "sigmoid",
    "sigmoid_cross_entropy",
    "silu",
    "soft_shrink",
    "softmax",
    "softmax_cross_entropy",
    "softmin",
    "softplus",
    "softsign",
    "sparse_plus",
    "sparse_sigmoid",
    "sparsemax",
    "squareplus",
    "swish",
    "tanh",
    "tanh_shrink",
    "threshold",
    "thresholded_relu",
    "use_backend",
    "warmup",
]
