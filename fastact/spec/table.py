"""One row per activation: its formulas, parameters, other names, kinks and limits.

Everything else follows from here: the objects that users hold, kernels of every backend, tests, benchmarks and docs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastact.maths import activations as f
from fastact.spec.messages import shown

Formula = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter of an activation: its default (None: it must be given) and its domain, as text and as a predicate.

    `valid` takes a Python float or a NumPy array and gives a bool or an array of bools.
    """

    name: str
    default: float | None
    domain: str = "a number"
    valid: Callable[[Any], Any] = lambda v: v == v


def positive(name: str, default: float) -> Param:
    return Param(name, default, "positive and finite", lambda v: (v > 0.0) & (v < math.inf))


def nonnegative(name: str, default: float) -> Param:
    return Param(name, default, "nonnegative and finite", lambda v: (v >= 0.0) & (v < math.inf))


def finite(name: str, default: float | None) -> Param:
    return Param(name, default, "finite", lambda v: (v > -math.inf) & (v < math.inf))


def nonzero(name: str, default: float) -> Param:
    return Param(name, default, "finite and not 0", lambda v: (v > -math.inf) & (v < math.inf) & (v != 0.0))


def number(name: str, default: float | None) -> Param:
    return Param(name, default)


@dataclass(frozen=True, eq=False)
class Op:
    """An activation.

    Attributes
    ----------
    forward, grad, grad_from_output
        Formulas of x (of y) and the parameters; the last is None where f' is no function of the output.
    aliases
        Other names: PyTorch's, Keras', JAX's, ONNX's, in any case and with or without underscores.
    kinks
        Where f' jumps, in terms of the defaults; the convention is the formula's.
    limits
        f at -inf and +inf with the default parameters; None where there are none.
    piecewise_linear
        Exactly rounded, and cheap.
    ordered
        Two parameters of which the first must be less than the second.
    output_needs
        Conditions under which f' is a function of the output, by parameter.
    param_grad
        The formula of df/dparameter, where the (only) parameter is learnt.
    at_default
        The same with the parameters at their defaults, where formulas without them are faster.
    """

    name: str
    forward: Formula
    grad: Formula
    grad_from_output: Formula | None = None
    params: tuple[Param, ...] = ()
    aliases: tuple[str, ...] = ()
    kinks: tuple[float, ...] = ()
    limits: tuple[float, float] | None = None
    piecewise_linear: bool = False
    ordered: tuple[str, str] | None = None
    output_needs: Mapping[str, tuple[str, Callable[[Any], Any]]] | None = None
    param_grad: Formula | None = None
    at_default: Op | None = None

    @property
    def formula(self) -> str:
        """The definition as text."""
        # the docstring of an elementary function goes on with its bound
        return (self.forward.__doc__ or "").strip().splitlines()[0].partition(". ")[0]

    @property
    def source(self) -> str:
        """Where it comes from."""
        return " ".join(line.strip() for line in (self.forward.__doc__ or "").strip().splitlines()[1:]).strip()

    def check_together(self, values: Mapping[str, Any]) -> None:
        """`ValueError` where parameters do not fit each other."""
        if self.ordered is not None:
            low, high = self.ordered
            if not _all(values[low] < values[high]):
                given = f"{shown(values[low])} and {shown(values[high])}"
                raise ValueError(f"{self.name}: {low} must be less than {high}, not {given}")

    def check_from_output(self, values: Mapping[str, Any]) -> None:
        """`ValueError` where, for these parameters, the derivative is no function of the output."""
        for name, (domain, valid) in (self.output_needs or {}).items():
            if not _all(valid(values[name])):
                given = shown(values[name])
                raise ValueError(
                    f"{self.name}.backward_from_output: {name} must be {domain}, not {given}; use backward"
                )


def _all(condition: Any) -> bool:
    return bool(condition.all()) if hasattr(condition, "all") else bool(condition)


_NONNEGATIVE = ("nonnegative", lambda v: v >= 0.0)
_POSITIVE = ("positive", lambda v: v > 0.0)
_NONZERO = ("other than 0", lambda v: v != 0.0)
_INF = math.inf
_SELU_LOW = -1.7580993408473768

_ROWS = (
    Op("identity", f.identity, f.identity_grad, f.identity_grad_from_output, aliases=("linear",), limits=(-_INF, _INF),
       piecewise_linear=True),
    Op("relu", f.relu, f.relu_grad, f.relu_grad_from_output, kinks=(0.0,), limits=(0.0, _INF), piecewise_linear=True),
    Op("relu6", f.relu6, f.relu6_grad, f.relu6_grad_from_output, kinks=(0.0, 6.0), limits=(0.0, 6.0),
       piecewise_linear=True),
    Op("leaky_relu", f.leaky_relu, f.leaky_relu_grad, f.leaky_relu_grad_from_output, (number("negative_slope", 0.01),),
       kinks=(0.0,), limits=(-_INF, _INF), piecewise_linear=True, output_needs={"negative_slope": _NONNEGATIVE}),
    Op("threshold", f.threshold, f.threshold_grad, None, (number("threshold", None), number("value", None)),
       piecewise_linear=True),
    Op("thresholded_relu", f.thresholded_relu, f.thresholded_relu_grad, None, (number("threshold", 1.0),), kinks=(1.0,),
       limits=(0.0, _INF), piecewise_linear=True),
    Op("elu", f.elu, f.elu_grad, f.elu_grad_from_output, (finite("alpha", 1.0),), kinks=(0.0,), limits=(-1.0, _INF),
       output_needs={"alpha": _NONNEGATIVE}),
    Op("selu", f.selu, f.selu_grad, f.selu_grad_from_output, kinks=(0.0,), limits=(_SELU_LOW, _INF)),
    Op("celu", f.celu, f.celu_grad, f.celu_grad_from_output, (nonzero("alpha", 1.0),), limits=(-1.0, _INF),
       output_needs={"alpha": _POSITIVE}),
    Op("sigmoid", f.sigmoid, f.sigmoid_grad, f.sigmoid_grad_from_output, aliases=("logistic", "expit"),
       limits=(0.0, 1.0)),
    Op("log_sigmoid", f.log_sigmoid, f.log_sigmoid_grad, f.log_sigmoid_grad_from_output, aliases=("log_expit",),
       limits=(-_INF, 0.0)),
    Op("hard_sigmoid", f.hard_sigmoid, f.hard_sigmoid_grad, f.hard_sigmoid_grad_from_output,
       (finite("alpha", 1.0 / 6.0), finite("beta", 0.5)), kinks=(-3.0, 3.0), limits=(0.0, 1.0), piecewise_linear=True,
       output_needs={"alpha": _POSITIVE}),
    Op("tanh", f.tanh, f.tanh_grad, f.tanh_grad_from_output, limits=(-1.0, 1.0)),
    Op("hard_tanh", f.hard_tanh, f.hard_tanh_grad, f.hard_tanh_grad_from_output,
       (number("min_val", -1.0), number("max_val", 1.0)), kinks=(-1.0, 1.0), limits=(-1.0, 1.0), piecewise_linear=True,
       ordered=("min_val", "max_val")),
    Op("tanh_shrink", f.tanh_shrink, f.tanh_shrink_grad, limits=(-_INF, _INF)),
    Op("softplus", f.softplus, f.softplus_grad, f.softplus_grad_from_output, (positive("beta", 1.0),),
       limits=(0.0, _INF), at_default=Op("softplus_default", f.softplus_default, f.softplus_default_grad)),
    Op("softsign", f.softsign, f.softsign_grad, f.softsign_grad_from_output, limits=(-1.0, 1.0)),
    Op("soft_shrink", f.soft_shrink, f.soft_shrink_grad, None, (nonnegative("lambd", 0.5),), kinks=(-0.5, 0.5),
       limits=(-_INF, _INF), piecewise_linear=True),
    Op("hard_shrink", f.hard_shrink, f.hard_shrink_grad, f.hard_shrink_grad_from_output, (nonnegative("lambd", 0.5),),
       kinks=(-0.5, 0.5), limits=(-_INF, _INF), piecewise_linear=True),
    Op("shrink", f.shrink, f.shrink_grad, None, (nonnegative("lambd", 0.5), finite("bias", 0.0)), kinks=(-0.5, 0.5),
       limits=(-_INF, _INF), piecewise_linear=True),
    Op("silu", f.silu, f.silu_grad, None, (finite("beta", 1.0),), aliases=("swish",), limits=(-0.0, _INF),
       at_default=Op("silu_default", f.silu_default, f.silu_default_grad)),
    Op("hard_silu", f.hard_silu, f.hard_silu_grad, aliases=("hard_swish",), kinks=(-3.0, 3.0), limits=(-0.0, _INF)),
    Op("gelu", f.gelu, f.gelu_grad, limits=(-0.0, _INF)),
    Op("gelu_tanh", f.gelu_tanh, f.gelu_tanh_grad, aliases=("fast_gelu",), limits=(-0.0, _INF)),
    Op("quick_gelu", f.quick_gelu, f.quick_gelu_grad, limits=(-0.0, _INF)),
    Op("mish", f.mish, f.mish_grad, limits=(-0.0, _INF)),
    Op("dish", f.dish, f.dish_grad, limits=(-0.0, _INF)),
    Op("squareplus", f.squareplus, f.squareplus_grad, None, (nonnegative("b", 4.0),), limits=(0.0, _INF)),
    Op("sparse_plus", f.sparse_plus, f.sparse_plus_grad, limits=(0.0, _INF)),
    Op("sparse_sigmoid", f.sparse_sigmoid, f.sparse_sigmoid_grad, kinks=(-1.0, 1.0), limits=(0.0, 1.0),
       piecewise_linear=True),
    Op("relu_squared", f.relu_squared, f.relu_squared_grad, f.relu_squared_grad_from_output, limits=(0.0, _INF)),
    Op("relu_k", f.relu_k, f.relu_k_grad, f.relu_k_grad_from_output, (positive("k", 6.0),), kinks=(0.0, 6.0),
       limits=(0.0, 6.0), piecewise_linear=True),
    Op("clipped_linear", f.clipped_linear, f.clipped_linear_grad, f.clipped_linear_grad_from_output,
       (finite("slope", 1.0), finite("offset", 0.0), number("min_val", 0.0), number("max_val", 1.0)), kinks=(0.0, 1.0),
       limits=(0.0, 1.0), piecewise_linear=True, ordered=("min_val", "max_val"), output_needs={"slope": _NONZERO}),
    Op("exponential", f.exponential, f.exponential_grad, f.exponential_grad_from_output, limits=(0.0, _INF)),
    Op("prelu", f.prelu, f.prelu_grad, None, (number("weight", None),), kinks=(0.0,), piecewise_linear=True,
       param_grad=f.prelu_weight_grad),
)  # fmt: skip

OPS: dict[str, Op] = {op.name: op for op in _ROWS}


def kernel_rows() -> list[Op]:
    """The rows that kernels are made for: all of `OPS` and their forms at default parameters."""
    return [row for op in _ROWS for row in (op, op.at_default) if row is not None]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


_NAMES: dict[str, str] = {_plain(n): op.name for op in _ROWS for n in (op.name, *op.aliases)}


def resolve(name: str, others: Iterable[str] = ()) -> str:
    """The name of the row that `name` means, in any spelling of PyTorch, JAX, Keras or ONNX; `others` are names, too.

    Raises
    ------
    TypeError
        If `name` is not a string.
    ValueError
        If nothing has that name; the message has the nearest ones.

    Examples
    --------
    >>> resolve("LeakyReLU"), resolve("hardswish"), resolve("LogSoftmax", ["log_softmax"])
    ('leaky_relu', 'hard_silu', 'log_softmax')
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of an activation is a string, not {type(name).__name__}")
    names = {**_NAMES, **{_plain(n): n for n in others}}
    found = names.get(_plain(name))
    if found is None:
        import difflib

        near = [names[n] for n in difflib.get_close_matches(_plain(name), names, n=3, cutoff=0.5)]
        hint = (
            f"the nearest are {', '.join(dict.fromkeys(near))}" if near else f"there are {', '.join((*OPS, *others))}"
        )
        raise ValueError(f"unknown activation {name!r}; {hint}")
    return found
