"""The gated units: an activation of a gate, times what it lets through."""

from __future__ import annotations

from dataclasses import dataclass

HALVES = ("gate_first", "gate_last")


@dataclass(frozen=True)
class Unit:
    """One gated unit.

    Attributes
    ----------
    name, activation : str
    halves : {"gate_first", "gate_last"}
        Where the gate is in an array that holds both, by default.
    source : str
    """

    name: str
    activation: str
    halves: str
    source: str


_SHAZEER = "Shazeer, GLU Variants Improve Transformer, arXiv:2002.05202."

UNITS: dict[str, Unit] = {
    unit.name: unit
    for unit in (
        Unit("glu", "sigmoid", "gate_last", "Dauphin et al., Language Modeling with Gated Convolutional Networks, "
             "ICML 2017, arXiv:1612.08083."),
        Unit("swiglu", "silu", "gate_first", _SHAZEER),
        Unit("geglu", "gelu", "gate_first", _SHAZEER),
        Unit("geglu_tanh", "gelu_tanh", "gate_first", _SHAZEER + " With the tanh form of gelu."),
        Unit("reglu", "relu", "gate_first", _SHAZEER),
    )
}  # fmt: skip
