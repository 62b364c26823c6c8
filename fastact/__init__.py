"""The activation functions of deep learning for NumPy, at the speed of the hardware.

>>> import numpy as np, fastact as fa
>>> x = np.linspace(-2, 2, 5, dtype=np.float32)
>>> fa.relu(x)
array([0., 0., 0., 1., 2.], dtype=float32)
>>> fa.relu.backward(np.ones_like(x), x)
array([0., 0., 0., 1., 1.], dtype=float32)

`fastact.activations` maps names to objects; `help(fastact.elu)` says what each one computes, what it takes and what it
raises. `softmax`, `log_softmax`, `softmin`, `sparsemax` and `logsumexp` work over an axis, `softmax_cross_entropy`,
`nll_loss`, `sigmoid_cross_entropy`, `mse_loss`, `l1_loss`, `huber_loss` and `kl_div` are losses that give their
gradient in the same pass; `layer_norm`, `rms_norm`, `group_norm` and `batch_norm` are norms. `swiglu` and its relatives
are gated units; `dropout` and `rrelu` take their random numbers from a seed. `optim` has optimisers. `explain` tells
which kernel a call runs.

Importing this loads NumPy only; Numba is imported when a kernel is first needed and is not on disk yet.
"""

from importlib import import_module
from typing import Any

from fastact import dispatch, ufuncs  # noqa: F401 - pickle looks for ufuncs in loaded modules
from fastact._version import __version__
from fastact.api.activation import Activation, activations, get
from fastact.api.functions import FUNCTIONS
from fastact.dispatch import explain, get_include, get_num_threads, info, set_num_threads, use_backend, warmup

# activations by every name that is an identifier, and functions over an axis and losses: from the tables
_NAMES: dict[str, Any] = {
    **{name: activation for activation in activations.values() for name in (activation.name, *activation.op.aliases)},
    **FUNCTIONS,
}

__all__ = [
    "Activation",
    "__version__",
    "activations",
    "dispatch",
    "explain",
    "get",
    "get_include",
    "get_num_threads",
    "info",
    "optim",
    "set_num_threads",
    "use_backend",
    "warmup",
    *sorted(_NAMES),
]

# not by a module's __getattr__, which would cost each fa.relu 0.4 us
globals().update(_NAMES)


def __getattr__(name: str) -> Any:
    # imported when first asked for: a third of the time of `import fastact`
    if name == "optim":
        return import_module("fastact.optim")
    from fastact.api.arguments import no_attribute

    raise AttributeError(no_attribute("module 'fastact'", name, __all__))


def __dir__() -> list[str]:
    return sorted(__all__)
