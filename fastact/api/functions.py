"""What is not an activation, by name."""

from __future__ import annotations

from fastact.api.batch_norm import BatchNorm, batch_norm
from fastact.api.dropout import Dropout, RReLU, dropout, rrelu
from fastact.api.gated_units import GATED_UNITS, GatedUnit
from fastact.api.losses import Loss, nll_loss, sigmoid_cross_entropy, softmax_cross_entropy
from fastact.api.norms import Norm, group_norm, layer_norm, rms_norm
from fastact.api.over_axis import RowMethod, log_softmax, logsumexp, softmin, sparsemax
from fastact.api.pointwise import POINTWISE
from fastact.api.softmax import softmax

_METHODS: tuple[RowMethod, ...] = (softmax, log_softmax, softmin, sparsemax, logsumexp)
_LOSSES: tuple[Loss, ...] = (softmax_cross_entropy, nll_loss, sigmoid_cross_entropy, *POINTWISE.values())
_NORMS: tuple[Norm | BatchNorm, ...] = (layer_norm, rms_norm, group_norm, batch_norm)
_RANDOM: tuple[Dropout | RReLU, ...] = (dropout, rrelu)
_ALL: tuple[RowMethod | Loss | Norm | BatchNorm | GatedUnit | Dropout | RReLU, ...] = (
    *_METHODS,
    *_LOSSES,
    *_NORMS,
    *GATED_UNITS.values(),
    *_RANDOM,
)
FUNCTIONS: dict[str, RowMethod | Loss | Norm | BatchNorm | GatedUnit | Dropout | RReLU] = {f.name: f for f in _ALL}
