"""Activations and their derivatives to hundreds of digits, for ``fastact verify --dtype float64``.

What is computed is the formula that users read, ``Op.formula``, by mpmath; its derivative is a quotient of differences.
Nothing here comes from the formulas of the kernels. DIGITS are enough for what cancels: dish at -10^308 loses 616
digits, and the difference of two such values 368 more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from fastact.spec.table import OPS

DIGITS = 1200
STEP = 60  # a difference is taken over 10^-STEP of x, or of 1 if x is larger
# of both one-sided derivatives: more is a kink
SMOOTH = 20

_NAMES = ("exp", "log", "sqrt", "tanh", "erf")
_POWERS = {"²": "**2", "³": "**3"}
_CASES = re.compile(r"(.+) if (.+), (.+) if (.+), else (.+)")
_NUMBER = re.compile(r"(?<![\w.*])\d+(?:\.\d+)?(?![\w.])")


def expression(formula: str) -> tuple[str, str]:
    """A formula as an expression of Python, and that of the function Phi where it is defined beside.

    Examples
    --------
    >>> expression("x·Phi(x), Phi(x) = x²/2")
    ('x*Phi(x)', "x**2/number('2')")
    """
    first, _, beside = formula.partition(", Phi(x) = ")
    cases = _CASES.fullmatch(first)
    if cases:
        first = "({}) if ({}) else ({}) if ({}) else ({})".format(*cases.groups())

    def written(text: str) -> str:
        for power, operator in _POWERS.items():
            text = text.replace(power, operator)
        return _NUMBER.sub(lambda n: f"number('{n[0]}')", text.replace("·", "*"))

    return written(first), written(beside)


@cache
def _compiled(formula: str) -> tuple[Any, Any]:
    first, beside = expression(formula.removesuffix(", rounded once"))
    return compile(first, f"<{formula}>", "eval"), compile(beside or "None", f"<Phi of {formula}>", "eval")


def value(name: str, x: Any, params: Mapping[str, float]) -> Any:
    """f(x), x a number of mpmath, to DIGITS digits; within ``with mpmath.workdps(DIGITS)``."""
    import mpmath

    op = OPS[name]
    if op.at_default is not None and all(params[p.name] == p.default for p in op.params):
        op, params = op.at_default, {}
    first, beside = _compiled(op.formula)
    names: dict[str, Any] = {n: getattr(mpmath, n) for n in _NAMES}
    names |= {"pi": +mpmath.pi, "number": mpmath.mpf, "abs": abs, "min": min, "max": max, "__builtins__": {}}
    names |= {n: mpmath.mpf(v) for n, v in params.items()}
    names["Phi"] = lambda t: eval(beside, names | {"x": t})
    return eval(first, names | {"x": x})


def derivative(name: str, x: Any, params: Mapping[str, float]) -> Any | None:
    """f'(x), or None where f has a kink or jumps."""
    import mpmath

    # 10^-400 is less than any number of float64 but 0
    step = max(mpmath.mpf(10) ** -400, min(abs(x), 1)) * mpmath.mpf(10) ** -STEP
    f: Callable[[Any], Any] = lambda t: value(name, t, params)  # noqa: E731
    low, here, high = f(x - step), f(x), f(x + step)
    left, right = (here - low) / step, (high - here) / step
    if abs(right - left) > mpmath.mpf(10) ** -SMOOTH * max(abs(left), abs(right)):
        return None
    return (left + right) / 2
