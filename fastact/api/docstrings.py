"""What `help` says of an activation and of its methods: made from the table, when somebody asks."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fastact.api.activation import Method
    from fastact.spec.table import Op

ARRAYS = {
    "forward": ("x",),
    "backward": ("dy", "x"),
    "backward_from_output": ("dy", "y"),
    "value_and_grad": ("x",),
}
MEANING = {
    "dy": "The gradient by the output y = f(x).",
    "x": "Of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64.",
    "y": "What the function gave, with the same parameters.",
}
VALUE = {
    "forward": ("ndarray or scalar", "f(x), of the shape and dtype that the inputs broadcast to."),
    "backward": ("ndarray or scalar", "dy·f'(x), of the shape and dtype that the inputs broadcast to."),
    "backward_from_output": ("ndarray or scalar", "dy·f'(x), from y = f(x) alone."),
    "value_and_grad": ("tuple of two ndarrays or scalars", "f(x) and f'(x), computed in one pass."),
}
# inputs of the examples; a parameter without a default is 0.5
POINTS = (-1.0, 0.5, 3.0)


def documentation(method: Method) -> str:
    """The docstring of one kind of an activation."""
    op, kind = method.op, method.kind
    keywords = [p.name if p.default is None else f"{p.name}={p.default:g}" for p in op.params]
    if method.variants is not None:
        keywords.append(f'{method.variants[0]}="none"')
    arguments = [*ARRAYS[kind], "/", *(["*", *keywords] if keywords else []), "**kwargs"]
    lines = [f"{method.__name__}({', '.join(arguments)})", "", f"f(x) = {op.formula}", ""]
    lines += _section("Parameters", _parameters(method))
    lines += _section("Returns", [VALUE[kind][0], f"    {VALUE[kind][1]}"])
    lines += _section("Raises", _errors(method))
    lines += _section("Notes", _notes(op))
    lines += _section("Examples", _examples(op, kind))
    return "\n".join(lines)


def _section(title: str, body: list[str]) -> list[str]:
    return [title, "-" * len(title), *body, ""] if body else []


def _parameters(method: Method) -> list[str]:
    lines = [line for name in ARRAYS[method.kind] for line in (f"{name} : array_like", f"    {MEANING[name]}")]
    for p in method.op.params:
        default = "" if p.default is None else f", default {p.default:g}"
        lines += [f"{p.name} : float or array_like{default}", f"    {p.domain.text[0].upper()}{p.domain.text[1:]}; broadcasts."]
    if method.variants is not None:
        choices = ", ".join(f'"{v}"' for v in method.variants[1])
        lines += [f'{method.variants[0]} : {{{choices}}}, default "none"', "    Which form of the function."]
    lines += [
        "**kwargs",
        "    The keywords of a ufunc: ``out``, ``where``, ``dtype``, ``casting``, ``order``, ``subok``.",
    ]
    return lines


def _errors(method: Method) -> list[str]:
    op = method.op
    wrong = ["an array is complex or of objects, strings or dates"]
    unfit = ["shapes do not broadcast", "``out`` cannot be written"]
    if op.params:
        wrong.append("a parameter is no number")
        unfit.append("a parameter is outside its domain")
    if op.ordered:
        unfit.append(f"{op.ordered[0]} is not less than {op.ordered[1]}")
    if method.variants is not None:
        unfit.append(f"{method.variants[0]} is something else")
    if method.kind == "backward_from_output":
        needs = (op.output_needs or {}).items()
        unfit += [f"f' is no function of y, as {name} is not {domain.text}" for name, domain in needs]
    return [
        "TypeError",
        *_wrapped(f"If {', or '.join(wrong)}."),
        "ValueError",
        *_wrapped(f"If {', or '.join(unfit)}; nothing is written."),
    ]


def _wrapped(text: str, indent: str = "    ") -> list[str]:
    return textwrap.wrap(text, 100, initial_indent=indent, subsequent_indent=indent)


def _notes(op: Op) -> list[str]:
    lines = [op.source] if op.source else []
    of_defaults = " with the default parameters" if op.params else ""
    if op.limits is not None:
        lines.append(f"f is {op.limits[0]:g} at -inf and {op.limits[1]:g} at inf{of_defaults}.")
    if op.kinks:
        slopes = _evaluated(op, "value_and_grad", np.array(op.kinks))[1]
        at, taken = (" and ".join(f"{v:g}" for v in values) for values in (op.kinks, slopes))
        lines.append(f"f' jumps at {at}{of_defaults}; there it is taken as {taken}.")
    return [line for text in lines for line in _wrapped(text, "")]


def _evaluated(op: Op, kind: str, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    from fastact.backends import reference

    params = [np.array(0.5 if p.default is None else p.default) for p in op.params]
    return reference.kernel(kernel_of(op, kind, "float64"))(*arrays, *params)


def _examples(op: Op, kind: str) -> list[str]:
    x = np.array(POINTS)
    given = "".join(f", {p.name}=0.5" for p in op.params if p.default is None)
    if kind == "backward_from_output":
        arrays, text = (np.ones(3), *_evaluated(op, "forward", x)), f"np.ones(3), fa.{op.name}(x)"
    elif kind == "backward":
        arrays, text = (np.ones(3), x), "np.ones(3), x"
    else:
        arrays, text = (x,), "x"
    results = _evaluated(op, kind, *arrays)
    shown = repr(results[0] if len(ALL[kind].outputs) == 1 else results)
    method = op.name if kind == "forward" else f"{op.name}.{kind}"
    return [
        ">>> import numpy as np, fastact as fa",
        f">>> x = np.array({list(POINTS)})",
        f">>> fa.{method}({text}{given})",
        *shown.split("\n"),
    ]
