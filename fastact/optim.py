"""Optimisers over lists of arrays, each step one parallel pass; functions for one array, and clipping.

>>> import numpy as np, fastact as fa
>>> weights = [np.ones((2, 2), np.float32), np.zeros(2, np.float32)]
>>> optimiser = fa.optim.AdamW(weights, lr=0.1)
>>> optimiser.step([np.full((2, 2), 2, np.float32), np.ones(2, np.float32)])
>>> weights[1]
array([-0.09999999, -0.09999999], dtype=float32)

Conventions, defaults and results are PyTorch's. The names come from the table of ``fastact/spec/optimisers.py``.
"""

from typing import Any

from fastact.api.optimisers import CLASSES, UPDATES, Optimiser, clip_grad_norm_

_NAMES: dict[str, Any] = {**CLASSES, **{update.__name__: update for update in UPDATES.values()}}

__all__ = ["Optimiser", "clip_grad_norm_", *sorted(_NAMES)]

globals().update(_NAMES)


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    from fastact.api.arguments import no_attribute

    raise AttributeError(no_attribute("module 'fastact.optim'", name, __all__))
