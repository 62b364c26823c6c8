"""What fastact is to reach on a GPU, and what other libraries do there."""

from __future__ import annotations

from typing import NamedTuple

PEERS_MEASURED = "one H100 80GB HBM3, driver 580.159, PyTorch 2.11, Liger-Kernel 0.8.5, 2026-11-26"


class Goal(NamedTuple):
    """A case of benchmarks/gpu.py: the time to reach in milliseconds, None for that of the best other library."""

    name: str
    limit: float | None
    peer: float | None


def _rows(name: str, float32: tuple[float, float], bfloat16: tuple[float, float]) -> list[Goal]:
    size = "65536x4096"
    return [
        Goal(f"{name} {size} bfloat16", None, bfloat16[0]), Goal(f"{name} backward {size} bfloat16", None, bfloat16[1]),
        Goal(f"{name} {size} float32", None, float32[0]), Goal(f"{name} backward {size} float32", None, float32[1]),
    ]  # fmt: skip


# milliseconds of a device copy and of a sum of two arrays, 2^28 float32
COPY, SUM = 0.7236, 1.0662
GOALS = [
    *(Goal(f"{name} float32", round(COPY / 0.98, 3), peer) for name, peer in
      (("relu", 0.762), ("sigmoid", 0.731), ("tanh", 0.724), ("elu", 0.722), ("silu", 0.731), ("softplus", 0.724))),
    *(Goal(f"{name} float32", round(COPY / 0.95, 3), peer) for name, peer in
      (("gelu", 0.734), ("gelu_tanh", 0.727), ("mish", 0.722))),
    *(Goal(f"{name} backward float32", round(SUM / 0.97, 3), peer) for name, peer in
      (("relu", 1.175), ("sigmoid", 1.123), ("gelu", 1.153), ("silu", 1.167), ("mish", 1.193))),
    *(Goal(f"{name} bfloat16", round(0.3672 / 0.95, 3), peer) for name, peer in
      (("relu", 0.373), ("gelu", 0.396), ("silu", 0.365), ("mish", 0.502), ("softplus", 0.521))),
    *(Goal(f"{name} backward bfloat16", round(SUM / 2 / 0.90, 3), peer) for name, peer in
      (("relu", 0.633), ("gelu", 0.653), ("silu", 0.632), ("mish", 0.859))),
    *_rows("softmax", (0.747, 1.150), (0.395, 0.615)),
    *_rows("rms_norm", (0.783, 1.290), (0.419, 0.718)),
    *_rows("layer_norm", (0.778, 1.298), (0.415, 0.772)),
    *_rows("swiglu", (1.109, 1.890), (0.587, 0.984)),
    *_rows("bias+gelu", (0.772, 1.476), (0.497, 0.790)),
    Goal("cross-entropy step 8192x50257 bfloat16", round(1.432 / 2.0, 3), 1.432),
    Goal("cross-entropy step 8192x50257 float32", round(1.636 / 1.2, 3), 1.636),
    Goal("cross-entropy step 8192x32000 bfloat16", round(1.385 / 2.5, 3), 1.385),
    Goal("cross-entropy step 4096x128256 bfloat16", 1.269, 1.269),
    Goal("AdamW 8x2^24 float32", 1.35, 1.512),
]  # fmt: skip
