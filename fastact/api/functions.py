"""What is not an activation, by name."""

from __future__ import annotations

from fastact.api.losses import Loss, sigmoid_cross_entropy, softmax_cross_entropy
from fastact.api.over_axis import RowMethod, log_softmax, logsumexp, softmax, softmin, sparsemax
from fastact.api.pointwise import POINTWISE

_METHODS: tuple[RowMethod, ...] = (softmax, log_softmax, softmin, sparsemax, logsumexp)
_LOSSES: tuple[Loss, ...] = (softmax_cross_entropy, sigmoid_cross_entropy, *POINTWISE.values())
_ALL: tuple[RowMethod | Loss, ...] = (*_METHODS, *_LOSSES)
FUNCTIONS: dict[str, RowMethod | Loss] = {f.name: f for f in _ALL}
