"""``fastact plot NAME …``: curves of activations and of their derivatives, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import fastact as fa
from fastact.spec.table import Op

# the least step of a curve that is shown as a jump
JUMP = 1e-3
POINTS = 2001

# what is drawn: an activation, and the parameters that are not its defaults
Choice = tuple[Op, dict[str, float]]


def figure_of(choices: Sequence[Choice], low: float, high: float, figure: Any = None) -> Any:
    """A figure of one activation, or of several side by side.

    Parameters
    ----------
    choices : sequence of pairs
        Each an activation of the table and its parameters.
    low, high : float
        The ends of the axis of x.
    figure : matplotlib.figure.Figure, optional
        Where to draw; by default a new one.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from fastact.spec.table import OPS
    >>> figure = figure_of([(OPS["elu"], {"alpha": 0.5})], -4.0, 4.0)
    >>> figure.axes[0].get_title()
    'elu  (alpha = 0.5)'
    """
    if figure is None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 5) if len(choices) == 1 else (11, 5), layout="constrained")
    if len(choices) == 1:
        one(figure, *choices[0], low, high)
    else:
        several(figure, choices, low, high)
    return figure


def one(figure: Any, op: Op, given: dict[str, float], low: float, high: float) -> None:
    """f and f', with the limits of f and the kinks, where f' jumps."""
    f, derivative = functions(op, given)
    axis = figure.subplots()
    axis.set_title(name_of(op, given))
    with_zeros(axis, low, high)
    x = np.linspace(low, high, POINTS)
    curve(axis, f, x, "C0-", label=fa.get(op.name).formula)
    for kink in curve(axis, derivative, x, "C1--", label="derivative"):
        value = float(derivative(kink))
        axis.plot(kink, value, "C1o", label=f"kink at {kink:g}, derivative there {value:g}")
    for end, name in ((-np.inf, "-∞"), (np.inf, "∞")):
        limit = float(f(end)) + 0.0  # a limit of -0 is 0
        if np.isfinite(limit):
            axis.axhline(limit, color="C0", lw=0.8, ls=":", label=f"limit at {name}: {limit:g}")
    figure.legend(loc="outside lower center", ncols=2)  # below the curves, not over them


def several(figure: Any, choices: Sequence[Choice], low: float, high: float) -> None:
    """The values of all in one panel, their derivatives in another."""
    x = np.linspace(low, high, POINTS)
    for i, (axis, title) in enumerate(zip(figure.subplots(1, 2), ("values", "derivatives"), strict=True)):
        axis.set_title(title)
        with_zeros(axis, low, high)
        for j, (op, given) in enumerate(choices):
            # ten colours, then other lines
            style = f"C{j % 10}{('-', '--', '-.', ':')[j // 10 % 4]}"
            curve(axis, functions(op, given)[i], x, style, label=name_of(op, given) if i == 0 else None)
    figure.legend(loc="outside lower center", ncols=3)


def name_of(op: Op, given: dict[str, float]) -> str:
    """The name, and every parameter with its value."""
    named = ", ".join(f"{name} = {value:g}" for name, value in {**fa.get(op.name).params, **given}.items())
    return f"{op.name}{f'  ({named})' if named else ''}"


def functions(op: Op, given: dict[str, float]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """f and f' with these parameters."""
    f = fa.get(op.name)
    return lambda x: f(x, **given), lambda x: f.value_and_grad(x, **given)[1]


def with_zeros(axis: Any, low: float, high: float) -> None:
    """The axis of x, and faint lines through 0."""
    axis.axhline(0, color="0.8", lw=0.8)
    axis.axvline(0, color="0.8", lw=0.8)
    axis.set_xlabel("x")
    axis.set_xlim(low, high)


def curve(axis: Any, function: Callable[[Any], Any], x: Any, style: str, label: str | None) -> list[float]:
    """Draw a function with a gap at each jump; where these are."""
    y = function(x)
    at = jumps(function, x)
    for jump in at:
        y[np.abs(x - jump) < 1e-9] = np.nan
    where = np.searchsorted(x, at)
    axis.plot(np.insert(x, where, at), np.insert(y, where, np.nan), style, label=label)
    return at


def jumps(function: Callable[[Any], Any], x: Any) -> list[float]:
    """Where a function is discontinuous between neighbours in `x`: found from its values, so for any parameters."""
    y = function(x)
    found = []
    for i in range(len(x) - 1):
        if not abs(y[i + 1] - y[i]) > JUMP:
            continue
        a, b = x[i : i + 2]
        while b - a > 1e-12:
            middle = (a + b) / 2
            value = function(middle)
            a, b = (a, middle) if abs(value - function(a)) > abs(function(b) - value) else (middle, b)
            if not abs(function(b) - function(a)) > JUMP:
                break
        else:
            found.append(round(float(b), 9) + 0.0)
    return found
