"""What is not an activation, by name."""

from __future__ import annotations

from fastact.api.losses import Loss, sigmoid_cross_entropy, softmax_cross_entropy
from fastact.api.norms import Norm, layer_norm, rms_norm
from fastact.api.over_axis import RowMethod, log_softmax, logsumexp, softmax, softmin, sparsemax

FUNCTIONS: dict[str, RowMethod | Loss | Norm] = {
    f.name: f
    for f in (
        *(softmax, log_softmax, softmin, sparsemax, logsumexp, softmax_cross_entropy, sigmoid_cross_entropy),
        *(layer_norm, rms_norm),
    )
}
