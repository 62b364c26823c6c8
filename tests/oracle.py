"""The truth about every activation, from textbook definitions; nothing here comes from the package under test.

Each definition is written once, over a namespace `m`: either mpmath (`MP`, where the naive textbook form is right,
because it is evaluated at doubling precision until it settles) or NumPy in float64 (`FAST`, for sweeps over float32;
the helpers of that namespace avoid the cancellation). test_oracle.py holds one against the other, and derivatives
against numerical ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import scipy.special
from mpmath import mp

# bounds of the specification, in ULP
EXACT_ULP = 0.5  # piecewise linear: exactly rounded
FORWARD_ULP = 2.0
DERIVATIVE_ULP = 4.0  # or one epsilon, absolute, near a zero of the derivative
HALF_ULP = 1.0  # float16 and bfloat16 ...
HALF_MISROUNDED = 1e-3  # ... and this share may differ from the correctly rounded result

# relative error allowed to the float64 oracle (test_oracle.py asserts it); 2^24 times this in ULP of float32
FAST_ERROR = 2.0**-42


# mpmath: definitions as printed in textbooks


def _exp(x):
    # to more than 600 bits mpmath takes whole powers of e by a thousand multiplications; half a unit on it does not
    return mp.exp(x + 0.5) / mp.exp(0.5) if abs(x) > 64 and mp.isint(x) else mp.exp(x)


def _erfc(x):
    # mpmath cannot take the square of a larger argument
    return mp.erfc(x) if abs(x) < 1e100 else mp.mpf(2 if x < 0 else 0)


def _sigmoid(x):
    # beyond 1e5 it is 0 or 1 to 144000 bits, and mpmath is slow
    return 1 / (1 + _exp(-x)) if abs(x) < 1e5 else mp.mpf(1 if x > 0 else 0)


def _softplus(x):
    return mp.log(1 + _exp(x)) if abs(x) < 1e5 else max(x, mp.mpf(0))


MP = SimpleNamespace(
    where=lambda c, a, b: a if c else b,
    minimum=min,
    maximum=max,
    exp=_exp,
    expm1=lambda x: _exp(x) - 1,
    log=mp.log,
    log1p=lambda x: mp.log(1 + x),
    tanh=mp.tanh,
    sqrt=mp.sqrt,
    number=mp.mpf,
    pi=mp.pi,
    sigmoid=_sigmoid,
    softplus=_softplus,
    sech=lambda x: 2 / (_exp(x) + _exp(-x)),
    erf=mp.erf,
    erfc=_erfc,
    Phi=lambda x: _erfc(-x / mp.sqrt(2)) / 2,
    phi=lambda x: _exp(-x * x / 2) / mp.sqrt(2 * mp.pi),
    x_minus_tanh=lambda x: x - mp.tanh(x),
    x_plus_root=lambda x, b: x + mp.sqrt(x * x + b),
    one_plus_cosine=lambda x, b: 1 + x / mp.sqrt(x * x + b),
)


# NumPy in float64: the same without cancellation

with mp.workprec(200):
    # tanh x = sum of c[n] x^(2n-1); 20 terms leave 1e-20 at |x| = 1/2
    _TANH_SERIES = [float(4**n * (4**n - 1) * mp.bernoulli(2 * n) / mp.factorial(2 * n)) for n in range(1, 21)]


def _x_minus_tanh(x):
    near = np.where(np.abs(x) < 0.5, x, 0.0)
    return np.where(np.abs(x) < 0.5, -near * np.polyval([*_TANH_SERIES[:0:-1], 0.0], near * near), x - np.tanh(x))


def _x_plus_root(x, b):
    root = np.sqrt(x * x + b)
    return np.where(x < 0, b / (root - np.minimum(x, 0)), x + root)


FAST = SimpleNamespace(
    where=np.where,
    minimum=np.minimum,
    maximum=np.maximum,
    exp=np.exp,
    expm1=np.expm1,
    log=np.log,
    log1p=np.log1p,
    tanh=np.tanh,
    sqrt=np.sqrt,
    number=float,
    pi=np.pi,
    sigmoid=scipy.special.expit,
    softplus=lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    sech=lambda x: 2 * np.exp(-np.abs(x)) / (1 + np.exp(-2 * np.abs(x))),
    erf=scipy.special.erf,
    erfc=scipy.special.erfc,
    Phi=scipy.special.ndtr,
    phi=lambda x: np.exp(-x * x / 2) / np.sqrt(2 * np.pi),
    x_minus_tanh=_x_minus_tanh,
    x_plus_root=_x_plus_root,
    one_plus_cosine=lambda x, b: _x_plus_root(x, b) / np.sqrt(x * x + b),
)


@dataclass(frozen=True)
class Truth:
    """One activation. Functions take the namespace, the variable and the parameters by keyword."""

    value: Callable
    derivative: Callable
    from_output: Callable | None = None  # the derivative as a function of y
    cases: tuple[dict, ...] = ({},)  # parameters to test; the first are the defaults
    outside: tuple[dict, ...] = ()  # parameters outside the domain
    not_from_output: tuple[dict, ...] = ()  # parameters in the domain, but not of the from-output form
    required: bool = False  # the parameters have no default
    kinks: Callable = lambda **p: {}  # x -> the derivative there, by convention
    limits: Callable = lambda **p: (-np.inf, np.inf)  # at -inf and +inf
    slopes: Callable | None = None  # the derivative at -inf and +inf; by default from the derivative at +-1e300
    near_zero: Callable = lambda x, **p: np.zeros(np.shape(x), bool)  # near an isolated zero of the derivative
    output_near_zero: Callable = lambda y, **p: np.zeros(np.shape(y), bool)  # the same of the from-output form
    unsure: Callable = lambda x, eps, **p: np.zeros(np.shape(x), bool)  # a kink that rounding moves lies within an ULP
    odd_zero: bool | str = False  # f(±0) is ±0, or that times the sign of the named parameter
    linear: bool = False  # piecewise linear: exactly rounded


def _within_one(*zeros):
    return lambda x, **p: np.any([np.abs(np.asarray(x, np.float64) - z) <= 1 for z in zeros], axis=0)


def _silu_grad(m, x):
    return m.sigmoid(x) + x * m.sigmoid(x) * m.sigmoid(-x)


def _gelu_tanh_argument(m, x):
    # (1 + tanh(u))/2 = s(2u); this is 2u
    return m.sqrt(8 / m.pi) * (x + m.number("0.044715") * x * x * x)


def _gelu_tanh_grad(m, x):
    u, slope = _gelu_tanh_argument(m, x), m.sqrt(8 / m.pi) * (1 + 3 * m.number("0.044715") * x * x)
    return m.sigmoid(u) + x * slope * m.sigmoid(u) * m.sigmoid(-u)


def _clipped(slope, offset, low, high, no_inverse=False, line=None, **rest):
    """clip(slope x + offset, low, high); the four are functions of the namespace and the parameters.

    `line` is slope x + offset in another form, `rounds` whether an edge may fall on no representable number.
    """
    line = line or (lambda m, x, p: slope(m, p) * x + offset(m, p))

    def inside(m, x, p):
        v = line(m, x, p)
        return m.where(low(m, p) < v, m.where(v < high(m, p), slope(m, p), 0 * x), 0 * x)

    def inside_output(m, y, p):
        return m.where(low(m, p) < y, m.where(y < high(m, p), slope(m, p) + 0 * y, 0 * y), 0 * y)

    def unsure(x, eps, **p):
        # rounding slope x + offset may put it on an edge
        if not rounds(p):
            return np.zeros(np.shape(x), bool)
        a, b, lo, hi = (g(FAST, p) for g in (slope, offset, low, high))
        v, margin = a * np.asarray(x, np.float64) + b, eps * (abs(lo) + abs(hi) + abs(b))
        return (np.abs(v - lo) <= margin) | (np.abs(v - hi) <= margin)

    rounds = rest.pop("rounds", lambda p: False)
    return Truth(
        lambda m, x, **p: m.minimum(m.maximum(line(m, x, p), low(m, p)), high(m, p)),
        lambda m, x, **p: inside(m, x, p),
        None if no_inverse else lambda m, y, **p: inside_output(m, y, p),
        limits=lambda **p: (low(FAST, p), high(FAST, p)) if slope(FAST, p) > 0 else (high(FAST, p), low(FAST, p)),
        linear=True,
        unsure=unsure,
        **rest,
    )


def _constant(value):
    return lambda m, p: m.number(value)


def _parameter(name):
    return lambda m, p: p[name]


ONE, ZERO = _constant(1), _constant(0)

# the default alpha of hard_sigmoid is 1/6 itself, however `parameters_as` rounds it
_SIXTHS = {float(np.asarray(1 / 6).astype(t)) for t in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)}


def _by_sixths(p):
    return float(p["alpha"]) in _SIXTHS and float(p["beta"]) == 0.5


TRUTH: dict[str, Truth] = {
    "identity": Truth(lambda m, x: x, lambda m, x: 0 * x + 1, lambda m, y: 0 * y + 1, odd_zero=True, linear=True),
    "relu": Truth(
        lambda m, x: m.maximum(x, 0 * x),
        lambda m, x: m.where(x > 0, 0 * x + 1, 0 * x),
        lambda m, y: m.where(y > 0, 0 * y + 1, 0 * y),
        kinks=lambda: {0: 0},
        limits=lambda: (0, np.inf),
        linear=True,
    ),
    "relu6": _clipped(ONE, ZERO, ZERO, _constant(6), kinks=lambda: {0: 0, 6: 0}),
    "leaky_relu": Truth(
        lambda m, x, negative_slope: m.where(x > 0, x, negative_slope * x),
        lambda m, x, negative_slope: m.where(x > 0, 0 * x + 1, 0 * x + negative_slope),
        lambda m, y, negative_slope: m.where(y > 0, 0 * y + 1, 0 * y + negative_slope),
        cases=({"negative_slope": 0.01}, {"negative_slope": 0.3}, {"negative_slope": -0.5}, {"negative_slope": 1.5}),
        not_from_output=({"negative_slope": -0.5},),
        kinks=lambda negative_slope: {0: negative_slope},
        limits=lambda negative_slope: (-np.inf * np.sign(negative_slope), np.inf),
        odd_zero="negative_slope",
        linear=True,
    ),
    "threshold": Truth(
        lambda m, x, threshold, value: m.where(x > threshold, x, 0 * x + value),
        lambda m, x, threshold, value: m.where(x > threshold, 0 * x + 1, 0 * x),
        cases=({"threshold": 0.5, "value": -1.0}, {"threshold": -2.0, "value": 3.0}, {"threshold": 1.0, "value": 0.0}),
        required=True,
        kinks=lambda threshold, value: {threshold: 0},
        limits=lambda threshold, value: (value, np.inf),
        linear=True,
    ),
    "thresholded_relu": Truth(
        lambda m, x, threshold: m.where(x > threshold, x, 0 * x),
        lambda m, x, threshold: m.where(x > threshold, 0 * x + 1, 0 * x),
        cases=({"threshold": 1.0}, {"threshold": -2.0}),
        kinks=lambda threshold: {threshold: 0},
        limits=lambda threshold: (0.0, np.inf),
        linear=True,
    ),
    "elu": Truth(
        lambda m, x, alpha: m.where(x > 0, x, alpha * m.expm1(x)),
        lambda m, x, alpha: m.where(x > 0, 0 * x + 1, alpha * m.exp(x)),
        lambda m, y, alpha: m.where(y > 0, 0 * y + 1, y + alpha),
        cases=({"alpha": 1.0}, {"alpha": 0.5}, {"alpha": 1.7}, {"alpha": -0.25}),
        not_from_output=({"alpha": -0.25},),
        kinks=lambda alpha: {0: alpha},
        limits=lambda alpha: (-alpha, np.inf),
        odd_zero="alpha",
    ),
    "selu": Truth(
        lambda m, x: m.number("1.0507009873554805") * m.where(x > 0, x, m.number("1.6732632423543772") * m.expm1(x)),
        lambda m, x: (
            m.number("1.0507009873554805") * m.where(x > 0, 0 * x + 1, m.number("1.6732632423543772") * m.exp(x))
        ),
        lambda m, y: m.where(
            y > 0,
            0 * y + m.number("1.0507009873554805"),
            y + m.number("1.0507009873554805") * m.number("1.6732632423543772"),
        ),
        kinks=lambda: {0: 1.0507009873554805 * 1.6732632423543772},
        limits=lambda: (-1.0507009873554805 * 1.6732632423543772, np.inf),
        output_near_zero=_within_one(-1.0507009873554805 * 1.6732632423543772),
        odd_zero=True,
    ),
    "celu": Truth(
        lambda m, x, alpha: m.where(x > 0, x, alpha * m.expm1(x / alpha)),
        lambda m, x, alpha: m.where(x > 0, 0 * x + 1, m.exp(x / alpha)),
        lambda m, y, alpha: m.where(y > 0, 0 * y + 1, (alpha + y) / alpha),
        cases=({"alpha": 1.0}, {"alpha": 0.5}, {"alpha": 1.7}, {"alpha": -0.75}),
        outside=({"alpha": 0.0},),
        not_from_output=({"alpha": -0.75},),
        kinks=lambda alpha: {0: 1},
        limits=lambda alpha: (-alpha if alpha > 0 else -np.inf, np.inf),
        odd_zero=True,
    ),
    "sigmoid": Truth(
        lambda m, x: m.sigmoid(x),
        lambda m, x: m.sigmoid(x) * m.sigmoid(-x),
        lambda m, y: y * (1 - y),
        limits=lambda: (0, 1),
    ),
    "log_sigmoid": Truth(
        lambda m, x: -m.softplus(-x),
        lambda m, x: m.sigmoid(-x),
        lambda m, y: -m.expm1(y),
        limits=lambda: (-np.inf, 0),
    ),
    "hard_sigmoid": _clipped(
        lambda m, p: m.number(1) / 6 if _by_sixths(p) else p["alpha"],
        _parameter("beta"),
        ZERO,
        ONE,
        line=lambda m, x, p: (x + 3) / 6 if _by_sixths(p) else p["alpha"] * x + p["beta"],
        kinks=lambda **p: {-3: 0, 3: 0} if _by_sixths(p) else {},
        cases=(
            {"alpha": 1 / 6, "beta": 0.5},
            {"alpha": 0.2, "beta": 0.5},
            {"alpha": 0.25, "beta": 0.25},
            {"alpha": -0.3, "beta": 0.4},
        ),
        not_from_output=({"alpha": -0.3, "beta": 0.4}, {"alpha": 0.0, "beta": 0.4}),
        rounds=lambda p: not _by_sixths(p),
    ),
    "tanh": Truth(
        lambda m, x: m.tanh(x),
        lambda m, x: m.sech(x) ** 2,
        lambda m, y: (1 - y) * (1 + y),
        limits=lambda: (-1, 1),
        odd_zero=True,
    ),
    "hard_tanh": _clipped(
        ONE,
        ZERO,
        _parameter("min_val"),
        _parameter("max_val"),
        cases=({"min_val": -1.0, "max_val": 1.0}, {"min_val": -0.3, "max_val": 2.5}, {"min_val": 1.0, "max_val": 2.0}),
        outside=({"min_val": 1.0, "max_val": 1.0}, {"min_val": 2.0, "max_val": 1.0}),
        kinks=lambda min_val, max_val: {min_val: 0, max_val: 0},
    ),
    "tanh_shrink": Truth(lambda m, x: m.x_minus_tanh(x), lambda m, x: m.tanh(x) ** 2, odd_zero=True),
    "softplus": Truth(
        lambda m, x, beta: m.softplus(beta * x) / beta,
        lambda m, x, beta: m.sigmoid(beta * x),
        lambda m, y, beta: -m.expm1(-beta * y),
        cases=({"beta": 1.0}, {"beta": 2.0}, {"beta": 0.7}, {"beta": 13.0}),
        outside=({"beta": 0.0}, {"beta": -1.0}),
        limits=lambda beta: (0, np.inf),
    ),
    "softsign": Truth(
        lambda m, x: x / (1 + abs(x)),
        lambda m, x: 1 / (1 + abs(x)) ** 2,
        lambda m, y: (1 - abs(y)) ** 2,
        limits=lambda: (-1, 1),
        odd_zero=True,
    ),
    "soft_shrink": Truth(
        lambda m, x, lambd: m.where(x > lambd, x - lambd, m.where(x < -lambd, x + lambd, 0 * x)),
        lambda m, x, lambd: m.where(abs(x) > lambd, 0 * x + 1, 0 * x),
        cases=({"lambd": 0.5}, {"lambd": 0.3}, {"lambd": 0.0}),
        outside=({"lambd": -0.5},),
        kinks=lambda lambd: {lambd: 0, -lambd: 0},
        linear=True,
    ),
    "hard_shrink": Truth(
        lambda m, x, lambd: m.where(abs(x) > lambd, x, 0 * x),
        lambda m, x, lambd: m.where(abs(x) > lambd, 0 * x + 1, 0 * x),
        lambda m, y, lambd: m.where(y != 0, 0 * y + 1, 0 * y),
        cases=({"lambd": 0.5}, {"lambd": 0.3}, {"lambd": 0.0}),
        outside=({"lambd": -0.5},),
        kinks=lambda lambd: {lambd: 0, -lambd: 0},
        linear=True,
    ),
    "shrink": Truth(
        lambda m, x, lambd, bias: m.where(x < -lambd, x + bias, m.where(x > lambd, x - bias, 0 * x)),
        lambda m, x, lambd, bias: m.where(abs(x) > lambd, 0 * x + 1, 0 * x),
        cases=({"lambd": 0.5, "bias": 0.0}, {"lambd": 1.5, "bias": 1.5}, {"lambd": 0.3, "bias": -0.7}),
        outside=({"lambd": -0.5, "bias": 0.0},),
        kinks=lambda lambd, bias: {lambd: 0, -lambd: 0},
        linear=True,
    ),
    "silu": Truth(
        lambda m, x, beta: x * m.sigmoid(beta * x),
        lambda m, x, beta: _silu_grad(m, beta * x),
        cases=({"beta": 1.0}, {"beta": 2.0}, {"beta": 1.702}, {"beta": 0.3}),
        limits=lambda beta: (-0.0, np.inf),
        near_zero=lambda x, beta: _within_one(-1.2784645427610738)(beta * np.asarray(x, np.float64)),
        odd_zero=True,
    ),
    "hard_silu": Truth(
        lambda m, x: x * m.minimum(m.maximum(x + 3, 0 * x), 0 * x + 6) / 6,
        lambda m, x: m.where(x <= -3, 0 * x, m.where(x >= 3, 0 * x + 1, (2 * x + 3) / 6)),
        kinks=lambda: {-3: 0, 3: 1},
        limits=lambda: (-0.0, np.inf),
        near_zero=_within_one(-1.5),
        odd_zero=True,
    ),
    "gelu": Truth(
        lambda m, x: x * m.Phi(x),
        lambda m, x: m.Phi(x) + x * m.phi(x),
        limits=lambda: (-0.0, np.inf),
        near_zero=_within_one(-0.7517915246935645),
        odd_zero=True,
    ),
    "gelu_tanh": Truth(
        lambda m, x: x * m.sigmoid(_gelu_tanh_argument(m, x)),
        _gelu_tanh_grad,
        limits=lambda: (-0.0, np.inf),
        near_zero=_within_one(-0.7524614220710163),
        odd_zero=True,
    ),
    "quick_gelu": Truth(
        lambda m, x: x * m.sigmoid(m.number("1.702") * x),
        lambda m, x: _silu_grad(m, m.number("1.702") * x),
        limits=lambda: (-0.0, np.inf),
        near_zero=_within_one(-1.2784645427610738 / 1.702),
        odd_zero=True,
    ),
    "mish": Truth(
        lambda m, x: x * m.tanh(m.softplus(x)),
        lambda m, x: m.tanh(m.softplus(x)) + x * m.sech(m.softplus(x)) ** 2 * m.sigmoid(x),
        limits=lambda: (-0.0, np.inf),
        near_zero=_within_one(-1.1924312145),
        odd_zero=True,
    ),
    "dish": Truth(
        lambda m, x: x / 2 * m.one_plus_cosine(x, 1),
        lambda m, x: m.one_plus_cosine(x, 1) / 2 + x / (2 * m.sqrt(1 + x * x) ** 3),
        limits=lambda: (-0.0, np.inf),
        near_zero=_within_one(-0.7861513777574233),
        odd_zero=True,
    ),
    "squareplus": Truth(
        lambda m, x, b: m.x_plus_root(x, b) / 2,
        lambda m, x, b: m.one_plus_cosine(x, b) / 2,
        cases=({"b": 4.0}, {"b": 1.0}, {"b": 0.3}),
        outside=({"b": -1.0},),
        limits=lambda b: (0, np.inf),
    ),
    "sparse_plus": Truth(
        lambda m, x: m.where(x <= -1, 0 * x, m.where(x >= 1, x, (x + 1) ** 2 / 4)),
        lambda m, x: m.where(x <= -1, 0 * x, m.where(x >= 1, 0 * x + 1, (x + 1) / 2)),
        kinks=lambda: {-1: 0, 1: 1},
        limits=lambda: (0, np.inf),
    ),
    "sparse_sigmoid": _clipped(
        _constant(0.5), _constant(0.5), ZERO, ONE, True, kinks=lambda: {-1: 0, 1: 0}, rounds=lambda p: True
    ),
    "relu_squared": Truth(
        lambda m, x: m.maximum(x, 0 * x) ** 2,
        lambda m, x: 2 * m.maximum(x, 0 * x),
        lambda m, y: 2 * m.sqrt(y),
        kinks=lambda: {0: 0},
        limits=lambda: (0, np.inf),
    ),
    "relu_k": _clipped(
        ONE,
        ZERO,
        ZERO,
        _parameter("k"),
        cases=({"k": 6.0}, {"k": 0.7}),
        outside=({"k": 0.0}, {"k": -1.0}),
        kinks=lambda k: {0: 0, k: 0},
    ),
    "clipped_linear": _clipped(
        _parameter("slope"),
        _parameter("offset"),
        _parameter("min_val"),
        _parameter("max_val"),
        cases=(
            {"slope": 1.0, "offset": 0.0, "min_val": 0.0, "max_val": 1.0},
            {"slope": 0.3, "offset": -0.7, "min_val": -1.0, "max_val": 2.0},
            {"slope": -2.0, "offset": 0.1, "min_val": -1.0, "max_val": 1.0},
        ),
        not_from_output=({"slope": 0.0, "offset": 0.0, "min_val": 0.0, "max_val": 1.0},),
        rounds=lambda p: True,
    ),
    "exponential": Truth(lambda m, x: m.exp(x), lambda m, x: m.exp(x), lambda m, y: y, limits=lambda: (0, np.inf)),
    "prelu": Truth(
        lambda m, x, weight: m.where(x > 0, x, weight * x),
        lambda m, x, weight: m.where(x > 0, 0 * x + 1, 0 * x + weight),
        cases=({"weight": 0.25}, {"weight": -0.3}),
        required=True,
        kinks=lambda weight: {0: weight},
        limits=lambda weight: (-np.inf * np.sign(weight), np.inf),
        odd_zero="weight",
        linear=True,
    ),
}

# spellings of spec section 2 and of the frameworks -> name
ALIASES = {
    "linear": "identity",
    "logistic": "sigmoid",
    "expit": "sigmoid",
    "swish": "silu",
    "hard_swish": "hard_silu",
    "hardtanh": "hard_tanh",
    "LeakyRelu": "leaky_relu",
    "LeakyReLU": "leaky_relu",
    "leaky-relu": "leaky_relu",
    "ReLU6": "relu6",
    "HardSigmoid": "hard_sigmoid",
    "LogSigmoid": "log_sigmoid",
}

# elementary function -> definition over the namespace
ELEMENTARY: dict[str, Callable] = {
    "exp": lambda m, x: m.exp(x),
    "expm1": lambda m, x: m.expm1(x),
    "log": lambda m, x: m.log(x),
    "log1p": lambda m, x: m.log1p(x),
    "tanh": lambda m, x: m.tanh(x),
    "erf": lambda m, x: m.erf(x),
    "erfc": lambda m, x: m.erfc(x),
    "erfc_tail": lambda m, x: m.erfc(x),
    "exp_nonpositive": lambda m, x: m.exp(x),
    "expm1_nonpositive": lambda m, x: m.expm1(x),
    "log1p_unit": lambda m, x: m.log1p(x),
    "x_minus_tanh": lambda m, x: m.x_minus_tanh(x),
    "gelu_tail": lambda m, x: -x * m.Phi(x),
    "gelu_tail_grad": lambda m, x: m.Phi(x) + x * m.phi(x),
    "logistic_tail": lambda m, x: m.exp(-x) / (1 + m.exp(-x)),
}

# elementary function of several results -> v, where e^v = p 2^n of the results (p, n), or (1 + u) 2^n of (u, n);
# with -n in the place of n where the docstring says so
EXPONENTS: dict[str, Callable] = {
    "exp_parts": lambda m, x: x,
    "exp_parts_sum": lambda m, x, dx: x + dx,
    "expm1_parts": lambda m, x: x,
    "expm1_parts_minus": lambda m, x: -x,
    "expm1_parts_sum": lambda m, x, dx: x + dx,
    "quick_gelu_parts": lambda m, x: -m.number("1.702") * x,
    "gelu_tanh_parts": lambda m, x: -_gelu_tanh_argument(m, x),
    "gelu_exp_parts": lambda m, x: -x * x / 2,
}


def parameters_as(dtype, parameters: dict) -> dict:
    """What a kernel of that type gets for a Python float: the parameter rounded to the type."""
    return {k: float(np.asarray(v).astype(dtype)) for k, v in parameters.items()}


# textbook forms cancel: log(1 + exp(x)) needs 1100 bits before float64 underflows, x + sqrt(x^2 + b) twice that
_PRECISIONS = (128, 256, 512, 1024, 2200, 4400)


def settle(function: Callable, x: float, parameters: dict):
    """function(MP, x) to a relative error below 2^-110, or to where it underflows in float64."""
    before = mp.mpf("nan")
    # below that a term may be lost at two precisions in turn, which then agree: exp(x) beside 1, 1/x^2 beside 1
    needed = 128 + 4 * abs(math.frexp(x)[1]) + 3 * min(abs(x), 800.0) if math.isfinite(x) else 0
    for precision in [p for p in _PRECISIONS[:-2] if p >= needed] + list(_PRECISIONS[-2:]):
        with mp.workprec(precision):
            now = mp.mpf(function(MP, mp.mpf(x), **{k: mp.mpf(v) for k, v in parameters.items()}))
            settled = now != 0 and abs(now - before) <= abs(now) * mp.mpf(2) ** -110
            underflows = precision >= 2200 and abs(now) < mp.mpf(2) ** -2000
            if settled or underflows:
                return now
            before = now
    raise ArithmeticError(f"no precision settles the value at {x!r}")


@cache
def _exact(function: Callable, x: float, parameters: tuple):
    value = settle(function, x, dict(parameters))
    hi = float(value)
    with mp.workprec(4400):
        return hi, float(value - mp.mpf(hi)) if math.isfinite(hi) else 0.0


def exact(function: Callable, x, parameters: dict):
    """(hi, lo) float64 arrays, whose sum is the value to more than twice float64's precision."""
    hi, lo = np.empty(np.size(x)), np.empty(np.size(x))
    given = tuple(parameters.items())
    for i, v in enumerate(np.ravel(x).astype(np.float64).tolist()):
        hi[i], lo[i] = _exact(function, v, given)
    return hi.reshape(np.shape(x)), lo.reshape(np.shape(x))


def fast(function: Callable, x, parameters: dict):
    """float64 values for inputs of at most float32's precision and range."""
    with np.errstate(all="ignore"):
        x = np.asarray(x).astype(np.float64)
        return np.broadcast_to(np.asarray(function(FAST, x, **parameters), np.float64), x.shape)
