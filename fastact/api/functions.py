"""What is not an activation, by name."""

from __future__ import annotations

from fastact.api.dropout import Dropout, RReLU, dropout, rrelu
from fastact.api.gated_units import GATED_UNITS, GatedUnit
from fastact.api.losses import Loss, sigmoid_cross_entropy, softmax_cross_entropy
from fastact.api.over_axis import RowMethod, log_softmax, logsumexp, softmax, softmin, sparsemax

FUNCTIONS: dict[str, RowMethod | Loss | GatedUnit | Dropout | RReLU] = {
    **{f.name: f for f in (softmax, log_softmax, softmin, sparsemax, logsumexp)},
    **{f.name: f for f in (softmax_cross_entropy, sigmoid_cross_entropy)},
    **GATED_UNITS,
    **{f.name: f for f in (dropout, rrelu)},
}
