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
class Domain:
    """An interval without NaN, and perhaps without 0, as data: C code checks parameters by it.

    Attributes
    ----------
    text : str
        As messages say it: "must be ...".
    low, high : float
    low_in, high_in : bool
        Whether they belong to it.
    nonzero : bool
        Whether 0 does not.
    """

    text: str
    low: float = -math.inf
    high: float = math.inf
    low_in: bool = True
    high_in: bool = True
    nonzero: bool = False

    def holds(self, v: Any) -> Any:
        """Whether a number, or each number of an array, is in it."""
        above = v >= self.low if self.low_in else v > self.low
        below = v <= self.high if self.high_in else v < self.high
        return above & below & (v != 0.0) if self.nonzero else above & below

    def __and__(self, other: Domain) -> Domain:
        """Both at once, under the name of this one."""
        low, low_out = max((self.low, not self.low_in), (other.low, not other.low_in))
        high, high_in = min((self.high, self.high_in), (other.high, other.high_in))
        return Domain(self.text, low, high, not low_out, high_in, self.nonzero or other.nonzero)


NUMBER = Domain("a number")
FINITE = Domain("finite", low_in=False, high_in=False)
POSITIVE = Domain("positive and finite", low=0.0, low_in=False, high_in=False)
NONNEGATIVE = Domain("nonnegative and finite", low=0.0, high_in=False)
NONZERO = Domain("finite and not 0", low_in=False, high_in=False, nonzero=True)


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter of an activation: its default (None: it must be given) and its domain."""

    name: str
    default: float | None
    domain: Domain = NUMBER


@dataclass(frozen=True, eq=False)
class Op:
    """An activation.

    Attributes
    ----------
    forward, grad, grad_from_output
        Formulas of x (of y) and the parameters; the last is None where f' is no function of the output.
    aliases
        Other names: PyTorch's, Keras', JAX's, ONNX's, in any case and with or without underscores between words.
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
    variants
        A keyword, and for each of its values the name of the activation that it means; None for this one.
    at_default
        The same with the parameters at their defaults, where formulas without them are faster or closer.
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
    output_needs: Mapping[str, Domain] | None = None
    param_grad: Formula | None = None
    at_default: Op | None = None
    variants: tuple[str, Mapping[str, str | None]] | None = None

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
        for name, domain in (self.output_needs or {}).items():
            if not _all(domain.holds(values[name])):
                given = shown(values[name])
                raise ValueError(
                    f"{self.name}.backward_from_output: {name} must be {domain.text}, not {given}; use backward"
                )


def _all(condition: Any) -> bool:
    return bool(condition.all()) if hasattr(condition, "all") else bool(condition)


# for the derivative to be a function of the output
_NONNEGATIVE = Domain("nonnegative", low=0.0)
_POSITIVE = Domain("positive", low=0.0, low_in=False)
_NONZERO = Domain("other than 0", nonzero=True)
_INF = math.inf
_SELU_LOW = -1.7580993408473768

_ROWS = (
    Op("identity", f.identity, f.identity_grad, f.identity_grad_from_output, aliases=("linear",), limits=(-_INF, _INF),
       piecewise_linear=True),
    Op("relu", f.relu, f.relu_grad, f.relu_grad_from_output, kinks=(0.0,), limits=(0.0, _INF), piecewise_linear=True),
    Op("relu6", f.relu6, f.relu6_grad, f.relu6_grad_from_output, kinks=(0.0, 6.0), limits=(0.0, 6.0),
       piecewise_linear=True),
    Op("leaky_relu", f.leaky_relu, f.leaky_relu_grad, f.leaky_relu_grad_from_output, (Param("negative_slope", 0.01),),
       kinks=(0.0,), limits=(-_INF, _INF), piecewise_linear=True, output_needs={"negative_slope": _NONNEGATIVE}),
    Op("threshold", f.threshold, f.threshold_grad, None, (Param("threshold", None), Param("value", None)),
       piecewise_linear=True),
    Op("thresholded_relu", f.thresholded_relu, f.thresholded_relu_grad, None, (Param("threshold", 1.0),), kinks=(1.0,),
       limits=(0.0, _INF), piecewise_linear=True),
    Op("elu", f.elu, f.elu_grad, f.elu_grad_from_output, (Param("alpha", 1.0, FINITE),), kinks=(0.0,),
       limits=(-1.0, _INF), output_needs={"alpha": _NONNEGATIVE}),
    Op("selu", f.selu, f.selu_grad, f.selu_grad_from_output, kinks=(0.0,), limits=(_SELU_LOW, _INF)),
    Op("celu", f.celu, f.celu_grad, f.celu_grad_from_output, (Param("alpha", 1.0, NONZERO),), limits=(-1.0, _INF),
       output_needs={"alpha": _POSITIVE}),
    Op("sigmoid", f.sigmoid, f.sigmoid_grad, f.sigmoid_grad_from_output, aliases=("logistic", "expit"),
       limits=(0.0, 1.0)),
    Op("log_sigmoid", f.log_sigmoid, f.log_sigmoid_grad, f.log_sigmoid_grad_from_output, aliases=("log_expit",),
       limits=(-_INF, 0.0)),
    Op("hard_sigmoid", f.hard_sigmoid, f.hard_sigmoid_grad, f.hard_sigmoid_grad_from_output,
       (Param("alpha", 1.0 / 6.0, FINITE), Param("beta", 0.5, FINITE)), kinks=(-3.0, 3.0), limits=(0.0, 1.0),
       piecewise_linear=True, output_needs={"alpha": _POSITIVE},
       at_default=Op("hard_sigmoid_default", f.hard_sigmoid_default, f.hard_sigmoid_default_grad,
                     f.hard_sigmoid_default_grad_from_output, piecewise_linear=True)),
    Op("tanh", f.tanh, f.tanh_grad, f.tanh_grad_from_output, limits=(-1.0, 1.0)),
    Op("hard_tanh", f.hard_tanh, f.hard_tanh_grad, f.hard_tanh_grad_from_output,
       (Param("min_val", -1.0), Param("max_val", 1.0)), kinks=(-1.0, 1.0), limits=(-1.0, 1.0), piecewise_linear=True,
       ordered=("min_val", "max_val")),
    Op("tanh_shrink", f.tanh_shrink, f.tanh_shrink_grad, limits=(-_INF, _INF)),
    Op("softplus", f.softplus, f.softplus_grad, f.softplus_grad_from_output, (Param("beta", 1.0, POSITIVE),),
       limits=(0.0, _INF), at_default=Op("softplus_default", f.softplus_default, f.softplus_default_grad)),
    Op("softsign", f.softsign, f.softsign_grad, f.softsign_grad_from_output, limits=(-1.0, 1.0)),
    Op("soft_shrink", f.soft_shrink, f.soft_shrink_grad, None, (Param("lambd", 0.5, NONNEGATIVE),), kinks=(-0.5, 0.5),
       limits=(-_INF, _INF), piecewise_linear=True),
    Op("hard_shrink", f.hard_shrink, f.hard_shrink_grad, f.hard_shrink_grad_from_output,
       (Param("lambd", 0.5, NONNEGATIVE),), kinks=(-0.5, 0.5), limits=(-_INF, _INF), piecewise_linear=True),
    Op("shrink", f.shrink, f.shrink_grad, None, (Param("lambd", 0.5, NONNEGATIVE), Param("bias", 0.0, FINITE)),
       kinks=(-0.5, 0.5), limits=(-_INF, _INF), piecewise_linear=True),
    Op("silu", f.silu, f.silu_grad, None, (Param("beta", 1.0, FINITE),), aliases=("swish",), limits=(-0.0, _INF),
       at_default=Op("silu_default", f.silu_default, f.silu_default_grad)),
    Op("hard_silu", f.hard_silu, f.hard_silu_grad, aliases=("hard_swish",), kinks=(-3.0, 3.0), limits=(-0.0, _INF)),
    Op("gelu", f.gelu, f.gelu_grad, limits=(-0.0, _INF), variants=("approximate", {"none": None, "tanh": "gelu_tanh"})),
    Op("gelu_tanh", f.gelu_tanh, f.gelu_tanh_grad, aliases=("fast_gelu",), limits=(-0.0, _INF)),
    Op("quick_gelu", f.quick_gelu, f.quick_gelu_grad, limits=(-0.0, _INF)),
    Op("mish", f.mish, f.mish_grad, limits=(-0.0, _INF)),
    Op("dish", f.dish, f.dish_grad, limits=(-0.0, _INF)),
    Op("squareplus", f.squareplus, f.squareplus_grad, None, (Param("b", 4.0, NONNEGATIVE),), limits=(0.0, _INF)),
    Op("sparse_plus", f.sparse_plus, f.sparse_plus_grad, limits=(0.0, _INF)),
    Op("sparse_sigmoid", f.sparse_sigmoid, f.sparse_sigmoid_grad, kinks=(-1.0, 1.0), limits=(0.0, 1.0),
       piecewise_linear=True),
    Op("relu_squared", f.relu_squared, f.relu_squared_grad, f.relu_squared_grad_from_output, limits=(0.0, _INF)),
    Op("relu_k", f.relu_k, f.relu_k_grad, f.relu_k_grad_from_output, (Param("k", 6.0, POSITIVE),), kinks=(0.0, 6.0),
       limits=(0.0, 6.0), piecewise_linear=True),
    Op("clipped_linear", f.clipped_linear, f.clipped_linear_grad, f.clipped_linear_grad_from_output,
       (Param("slope", 1.0, FINITE), Param("offset", 0.0, FINITE), Param("min_val", 0.0), Param("max_val", 1.0)),
       kinks=(0.0, 1.0), limits=(0.0, 1.0), piecewise_linear=True, ordered=("min_val", "max_val"),
       output_needs={"slope": _NONZERO}),
    Op("exponential", f.exponential, f.exponential_grad, f.exponential_grad_from_output, limits=(0.0, _INF)),
    Op("prelu", f.prelu, f.prelu_grad, None, (Param("weight", None),), kinks=(0.0,), piecewise_linear=True,
       param_grad=f.prelu_weight_grad),
)  # fmt: skip

OPS: dict[str, Op] = {op.name: op for op in _ROWS}


def kernel_rows() -> list[Op]:
    """The rows that kernels are made for: all of `OPS` and their forms at default parameters."""
    return [row for op in _ROWS for row in (op, op.at_default) if row is not None]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _is_name(name: str) -> bool:
    # relu_ is PyTorch's relu in place, which is another function
    return re.fullmatch(r"[A-Za-z0-9](.*[A-Za-z0-9])?", name) is not None


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
    found = names.get(_plain(name)) if _is_name(name) else None
    if found is None:
        import difflib

        near = [names[n] for n in difflib.get_close_matches(_plain(name), names, n=3, cutoff=0.5)]
        hint = (
            f"the nearest are {', '.join(dict.fromkeys(near))}" if near else f"there are {', '.join((*OPS, *others))}"
        )
        raise ValueError(f"unknown activation {name!r}; {hint}")
    return found
