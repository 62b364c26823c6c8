"""What `help` says of an optimiser and of its function for one array: made from the table, when somebody asks."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

import numpy as np

from fastact.api.optimisers import Optimiser, Update
from fastact.spec.optimisers import Hyper, Row

# of the examples: a parameter and its gradient
P, G = "np.array([1.0, -2.0])", "np.array([0.5, -0.5])"


def of_class(cls: type[Optimiser]) -> str:
    """The docstring of an optimiser."""
    row = cls._row
    lines = [f"{row.name}{_signature(cls)}", "", *_formula(row), ""]
    described = [
        "params : list of ndarray",
        "    What is updated in place: float16, bfloat16, float32 or float64, all of one dtype, sharing no memory.",
        *(line for h in row.hypers for line in _hyper(h, row)),
        "master : bool, default False",
        "    For float16 and bfloat16: keep a float32 copy of each parameter, of which the parameter is the rounding.",
    ]
    lines += _section("Parameters", described)
    lines += _section(
        "Attributes",
        [
            *(f"{h.name} : {_type(h)}" for h in row.hypers),
            "    May be set; counts from the next step on.",
            "params : list of ndarray",
            "state : dict of lists of ndarray",
            f"    {_kept(row)}",
            "steps : int",
            "    How many steps have been taken.",
        ],
    )
    lines += _section(
        "Raises",
        [
            "TypeError",
            "    If `params` is not a list of arrays of one such dtype, or an argument is no number.",
            "ValueError",
            "    If `params` is empty, an array is read-only or shares memory with another, or a number is outside its",
            "    domain.",
        ],
    )
    lines += _section("Notes", _notes(row))
    p, g = eval(P), eval(G)
    optimiser = cls([p], lr=0.1)
    optimiser.step([g])
    shown = repr(p).split("\n")
    lines += _section(
        "Examples",
        [
            ">>> import numpy as np, fastact as fa",
            f">>> p = {P}",
            f">>> optimiser = fa.optim.{row.name}([p], lr=0.1)",
            f">>> optimiser.step([{G}])",
            ">>> p",
            *shown,
        ],
    )
    return "\n".join(lines)


def of_function(update: Update) -> str:
    """The docstring of a function for one array."""
    row = update.row
    lines = [f"{update.__name__}{_signature(update)}", "", "One step in place, for one array.", "", *_formula(row), ""]
    states = [n for n in inspect.signature(update).parameters if any(n in r.state for r in row.rules)]
    described = [
        "p : ndarray",
        "    The parameter, updated in place: float16, bfloat16, float32 or float64.",
        "g : ndarray",
        "    Its gradient: of its shape, and of its dtype or of the one it is computed in.",
    ]
    always = min(len(r.state) for r in row.rules)
    for i, name in enumerate(states):
        optional = ", optional" if i >= always else ""
        begins = next((of for state, of in row.fill if state == name), "zeros")
        text = "State, updated in place, of p's shape and the dtype it is computed in (float32 for 16 bits); "
        text += f"{begins} at first." + (" Needed with momentum." if optional else "")
        described += [
            f"{name} : ndarray{optional}",
            *textwrap.wrap(text, 100, initial_indent="    ", subsequent_indent="    "),
        ]
    if row.counts:
        described += ["step : int", "    The number of this step, from 1."]
    for h in update._hypers.values():
        described += _hyper(h, row, required=h.name == "lr")
    lines += _section("Parameters", described)
    lines += _section("Returns", ["ndarray", "    `p`."])
    lines += _section(
        "Raises",
        [
            "TypeError",
            "    If an array is none, masked or of another dtype, or an argument is no number.",
            "ValueError",
            "    If shapes differ, an array that is written is read-only or shares memory with another, or a number is",
            "    outside its domain; nothing is written.",
        ],
    )
    lines += _section("Notes", _notes(row))
    arrays: dict[str, Any] = {"p": eval(P), "g": eval(G), **{n: np.zeros(2) for n in states[:always]}}
    update(*arrays.values(), **({"step": 1} if row.counts else {}), lr=0.1)
    call = ", ".join([*arrays, *(["step=1"] if row.counts else []), "lr=0.1"])
    shown = [">>> import numpy as np, fastact as fa", f">>> p, g = {P}, {G}"]
    if always:
        shown.append(f">>> {', '.join(states[:always])} = {', '.join(['np.zeros(2)'] * always)}")
    result = repr(arrays["p"]).split("\n")
    lines += _section("Examples", [*shown, f">>> fa.optim.{update.__name__}({call})", *result])
    return "\n".join(lines)


def _signature(of: Any) -> str:
    return str(inspect.signature(of))


def _formula(row: Row) -> list[str]:
    return textwrap.wrap(row.formula, 110)


def _section(title: str, body: list[str]) -> list[str]:
    return [title, "-" * len(title), *body, ""]


def _type(h: Hyper) -> str:
    return {bool: "bool", tuple: "pair of floats"}.get(type(h.default), "float")


def _hyper(h: Hyper, row: Row, *, required: bool = False) -> list[str]:
    text = h.meaning
    if not isinstance(h.default, bool):
        text += f" {h.domain.text[0].upper()}{h.domain.text[1:]}."
    if h.name == "eps" and row.keras_eps is not None:
        text += f" With keras=True {row.keras_eps:g} by default."
    default = h.default if not isinstance(h.default, float) else f"{h.default:g}"
    return [f"{h.name} : {_type(h)}" + ("" if required else f", default {default}"), f"    {text}"]


def _kept(row: Row) -> str:
    names = list(dict.fromkeys(name for rule in row.rules for name in rule.state))
    if not names:
        return "Nothing is kept."
    only = "" if all(rule.state for rule in row.rules) else ", with momentum alone"
    return f"By name ({', '.join(names)}{only}), an array for each parameter."


def _notes(row: Row) -> list[str]:
    lines = textwrap.wrap(row.source, 110)
    like = "Conventions and defaults are PyTorch's" if row.in_torch else "Conventions and defaults are the paper's"
    repeated = "its learning rate and its number: capture each step anew" if row.counts else "its learning rate"
    return [
        *lines,
        f"{like}; computed in float64 for float64, else in float32.",
        f"A CUDA graph repeats a step with {repeated}.",
    ]
