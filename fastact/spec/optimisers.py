"""One row per optimiser: its hyperparameters, and which formula a step runs with which numbers.

Everything else follows from here: classes and functions of `fastact.optim`, kernels of every backend, docstrings.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fastact.maths import optimisers as f
from fastact.spec.kinds import Argument
from fastact.spec.table import NONNEGATIVE, POSITIVE, Domain

SHARE = Domain("in [0, 1)", low=0.0, high_in=False, high=1.0)
NOT_NEGATIVE_AND_NOT_NAN = Domain("nonnegative", low=0.0)

Value = float | bool | tuple[float, ...]
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Hyper:
    """A hyperparameter: its default, of whose type its values are (float, bool, or a pair of floats), and its domain.

    `by_name`: it is given by keyword alone.
    """

    name: str
    default: Value
    meaning: str
    domain: Domain = NONNEGATIVE
    by_name: bool = False


@dataclass(frozen=True, eq=False)
class Rule:
    """What a step does: a formula of ``fastact.maths.optimisers``, and the numbers that it takes after `factor`.

    Attributes
    ----------
    formula : callable
    numbers : callable
        Values of the hyperparameters and the number of the step, from 1, to the formula's numbers in its order.
    when : callable
        Whether it is the rule for these values.
    """

    formula: Callable[..., Any]
    numbers: Callable[[Values, int], tuple[float, ...]]
    when: Callable[[Values], bool] = lambda h: True

    @property
    def name(self) -> str:
        """Of its kernels."""
        return self.formula.__name__

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self.formula).parameters)

    @cached_property
    def inputs(self) -> tuple[Argument, ...]:
        """The arrays: a parameter, its gradient, its state."""
        return tuple(map(Argument, self._names[: self._names.index("factor")]))

    @cached_property
    def state(self) -> tuple[str, ...]:
        """What is kept of each parameter from step to step, by name."""
        return tuple(a.name for a in self.inputs[2:])

    @cached_property
    def params(self) -> tuple[str, ...]:
        """The numbers for the whole step, `factor` first."""
        return self._names[len(self.inputs) :]

    @cached_property
    def outputs(self) -> tuple[Argument, ...]:
        """What is written in the place of the parameter and of the state."""
        return tuple(Argument(f"new_{name}") for name in ("p", *self.state))


@dataclass(frozen=True, eq=False)
class Row:
    """An optimiser.

    Attributes
    ----------
    name : str
        Of its class. In lower case and with an underscore it is the function for one array.
    formula, source : str
    hypers : tuple of Hyper
    rules : tuple of Rule
        The first one serves whose condition holds.
    counts : bool
        Whether a step depends on its number.
    fill : tuple
        Pairs of a state and the hyperparameter that it begins with; others begin with 0.
    keras_eps : float, optional
        The default of `eps` with ``keras=True``.
    in_torch : bool
        Whether conventions and defaults are PyTorch's.
    """

    name: str
    formula: str
    source: str
    hypers: tuple[Hyper, ...]
    rules: tuple[Rule, ...]
    counts: bool = False
    fill: tuple[tuple[str, str], ...] = ()
    keras_eps: float | None = None
    in_torch: bool = True

    @property
    def function(self) -> str:
        """The name of the function for one array."""
        return f"{self.name.lower()}_"

    def rule(self, values: Values) -> Rule:
        """The rule for these hyperparameters."""
        return next(rule for rule in self.rules if rule.when(values))


def _corrected(h: Values, step: int) -> tuple[float, float]:
    """1 - beta^step for both betas: how far the averages, which began with 0, have come."""
    return 1.0 - h["betas"][0] ** step, 1.0 - h["betas"][1] ** step


def _shares(h: Values) -> tuple[float, float, float, float]:
    beta1, beta2 = h["betas"]
    return beta1, 1.0 - beta1, beta2, 1.0 - beta2


def _adam(decay: Callable[[Values], float]) -> Callable[[Values, int], tuple[float, ...]]:
    # the root of v's correction is taken out of the quotient: m/(sqrt(v)/c + eps) = c·m/(sqrt(v) + c·eps)
    def numbers(h: Values, step: int) -> tuple[float, ...]:
        first, second = _corrected(h, step)
        root = math.sqrt(second)
        eps = h["eps"] if h["keras"] else h["eps"] * root
        return (decay(h), *_shares(h), h["lr"] * root / first, eps)

    return numbers


def _nadam(h: Values, step: int) -> tuple[float, ...]:
    beta1, decay = h["betas"][0], h["momentum_decay"]

    def mu(t: int) -> float:
        return float(beta1 * (1.0 - 0.5 * 0.96 ** (t * decay)))

    product = 1.0
    for t in range(1, step + 1):
        product *= mu(t)
        if product < 2.0**-60:
            break  # 1 - product is 1 from here on
    root = math.sqrt(_corrected(h, step)[1])
    rate_g = h["lr"] * (1.0 - mu(step)) / (1.0 - product) * root
    rate_m = h["lr"] * mu(step + 1) / (1.0 - product * mu(step + 1)) * root
    return (h["weight_decay"], *_shares(h), rate_g, rate_m, h["eps"] * root)


def _placed(h: Values) -> tuple[float, float]:
    """Epsilon inside and outside the root: Keras adds it inside, PyTorch outside."""
    return (h["eps"], 0.0) if h["keras"] else (0.0, h["eps"])


def _adamax(h: Values, step: int) -> tuple[float, ...]:
    # PyTorch adds epsilon to abs(g), Keras to u
    outside, inside = _placed(h)
    return (h["weight_decay"], *_shares(h)[:3], h["lr"] / _corrected(h, step)[0], inside, outside)


def _rmsprop(h: Values, step: int) -> tuple[float, ...]:
    return (h["weight_decay"], h["alpha"], 1.0 - h["alpha"], h["lr"], *_placed(h))


def _adagrad(h: Values, step: int) -> tuple[float, ...]:
    return (h["weight_decay"], h["lr"] / (1.0 + (step - 1) * h["lr_decay"]), *_placed(h))


def _lr(default: float) -> Hyper:
    return Hyper("lr", default, "The learning rate.")


def _betas(first: float, second: float) -> Hyper:
    return Hyper("betas", (first, second), "The shares of the past in the running averages.", SHARE)


def _eps(default: float) -> Hyper:
    return Hyper("eps", default, "Added to the denominator.")


_PENALTY = Hyper("weight_decay", 0.0, "This times the parameter is added to its gradient.")
_KERAS = Hyper(
    "keras", False, "Whether epsilon is added where Keras adds it, and is by default Keras' 1e-7.", by_name=True
)
_MOMENTUM = Hyper("momentum", 0.0, "The share of past steps in the next.")


def _decoupled(default: float) -> Hyper:
    return Hyper("weight_decay", default, "The parameter shrinks by lr times this times itself, besides the step.")


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row("SGD", "p - lr·g; with momentum b = momentum·b + g, p - lr·b; with nesterov p - lr·(g + momentum·b)",
            "Robbins and Monro, Annals of Mathematical Statistics 22, 1951. Momentum: Sutskever, Martens, Dahl and "
            "Hinton, ICML 2013.",
            (_lr(1e-3), _MOMENTUM, Hyper("nesterov", False, "Nesterov's momentum; needs momentum."), _PENALTY),
            (Rule(f.sgd, lambda h, step: (h["weight_decay"], h["lr"]), lambda h: h["momentum"] == 0.0),
             Rule(f.sgd_momentum,
                  lambda h, step: (h["weight_decay"], h["lr"], h["momentum"], float(h["nesterov"]))))),
        Row("Adam", "m = β1·m + (1-β1)·g, v = β2·v + (1-β2)·g²; p - lr·m̂/(√v̂ + eps), m̂ = m/(1-β1^t), v̂ = v/(1-β2^t)",
            "Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015. Keras adds epsilon to √v instead of "
            "√v̂ (the paper's epsilon hat).",
            (_lr(1e-3), _betas(0.9, 0.999), _eps(1e-8), _PENALTY, _KERAS),
            (Rule(f.adam, _adam(lambda h: h["weight_decay"])),), counts=True, keras_eps=1e-7),
        Row("AdamW", "as Adam, from p - lr·weight_decay·p",
            "Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019. Keras adds epsilon to √v instead "
            "of √v̂.",
            (_lr(1e-3), _betas(0.9, 0.999), _eps(1e-8), _decoupled(0.01), _KERAS),
            (Rule(f.adamw, _adam(lambda h: h["lr"] * h["weight_decay"])),), counts=True, keras_eps=1e-7),
        Row("RMSprop",
            "v = alpha·v + (1-alpha)·g²; p - lr·g/(√v + eps); with momentum b = momentum·b + g/(√v + eps), p - lr·b",
            "Tieleman and Hinton, Coursera: Neural Networks for Machine Learning, lecture 6.5, 2012. Keras has "
            "√(v + eps) in the denominator; its rho is alpha, 0.9 by default.",
            (_lr(1e-2), Hyper("alpha", 0.99, "The share of the past in the running average.", SHARE), _eps(1e-8),
             _PENALTY, _MOMENTUM, _KERAS),
            (Rule(f.rmsprop, _rmsprop, lambda h: h["momentum"] == 0.0),
             Rule(f.rmsprop_momentum, lambda h, step: (*_rmsprop(h, step), h["momentum"]))), keras_eps=1e-7),
        Row("Adagrad", "s = s + g²; p - lr/(1 + (t-1)·lr_decay)·g/(√s + eps)",
            "Duchi, Hazan and Singer, Journal of Machine Learning Research 12, 2011. Keras has √(s + eps) in the "
            "denominator; its initial value is 0.1.",
            (_lr(1e-2), Hyper("lr_decay", 0.0, "How the learning rate decays with the number t of the step."), _PENALTY,
             Hyper("initial_accumulator_value", 0.0, "What s begins with."), _eps(1e-10), _KERAS),
            (Rule(f.adagrad, _adagrad),), counts=True, fill=(("s", "initial_accumulator_value"),), keras_eps=1e-7),
        Row("Lion", "c = β1·m + (1-β1)·g, m = β2·m + (1-β2)·g; p - lr·(sign(c) + weight_decay·p)",
            "Chen and others, Symbolic Discovery of Optimization Algorithms, NeurIPS 2023.",
            (_lr(1e-4), _betas(0.9, 0.99), _decoupled(0.0)),
            (Rule(f.lion, lambda h, step: (h["lr"] * h["weight_decay"], *_shares(h), h["lr"])),), in_torch=False),
        Row("Adamax", "m = β1·m + (1-β1)·g, u = max(β2·u, |g| + eps); p - lr/(1-β1^t)·m/u",
            "Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015. Keras has max(β2·u, |g|) and "
            "m/(u + eps).",
            (_lr(2e-3), _betas(0.9, 0.999), _eps(1e-8), _PENALTY, _KERAS),
            (Rule(f.adamax, _adamax),), counts=True, keras_eps=1e-7),
        Row("NAdam", "m, v, v̂ as Adam, μ(t) = β1·(1 - 0.96^(t·momentum_decay)/2), M(t) = μ(1)···μ(t); "
            "p - lr·(μ(t+1)·m/(1-M(t+1)) + (1-μ(t))·g/(1-M(t)))/(√v̂ + eps)",
            "Dozat, Incorporating Nesterov Momentum into Adam, ICLR 2016 workshop. Keras': momentum_decay=1, eps=1e-7.",
            (_lr(2e-3), _betas(0.9, 0.999), _eps(1e-8), _PENALTY,
             Hyper("momentum_decay", 4e-3, "How fast the momentum grows to β1.")),
            (Rule(f.nadam, _nadam),), counts=True),
    )
}  # fmt: skip

# arguments of a step; un-scaling divides by `scale`
STEP_DOMAINS: dict[str, Domain] = {
    "max_norm": NOT_NEGATIVE_AND_NOT_NAN,
    "scale": POSITIVE,
}


# what clipping does to gradients themselves
SCALED = Rule(f.scaled, lambda h, step: ())


def rules() -> list[Rule]:
    """All rules, which kernels are made for."""
    return [SCALED, *(rule for row in ROWS.values() for rule in row.rules)]
