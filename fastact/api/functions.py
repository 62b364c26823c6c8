"""What is not an activation, by name."""

from __future__ import annotations

from fastact.api.dropout import Dropout, RReLU, dropout, rrelu
from fastact.api.gated_units import GATED_UNITS, GatedUnit
from fastact.api.losses import Loss, sigmoid_cross_entropy, softmax_cross_entropy
from fastact.api.norms import Norm, layer_norm, rms_norm
from fastact.api.over_axis import RowMethod, log_softmax, logsumexp, softmin, sparsemax
from fastact.api.pointwise import POINTWISE
from fastact.api.softmax import softmax

_METHODS: tuple[RowMethod, ...] = (softmax, log_softmax, softmin, sparsemax, logsumexp)
_LOSSES: tuple[Loss, ...] = (softmax_cross_entropy, sigmoid_cross_entropy, *POINTWISE.values())
_NORMS: tuple[Norm, ...] = (layer_norm, rms_norm)
_RANDOM: tuple[Dropout | RReLU, ...] = (dropout, rrelu)
_ALL: tuple[RowMethod | Loss | Norm | GatedUnit | Dropout | RReLU, ...] = (
    *_METHODS,
    *_LOSSES,
    *_NORMS,
    *GATED_UNITS.values(),
    *_RANDOM,
)
FUNCTIONS: dict[str, RowMethod | Loss | Norm | GatedUnit | Dropout | RReLU] = {f.name: f for f in _ALL}
