"""What `help` says of an activation and of its methods: made from the table, when somebody asks."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastact.spec.kernel import kernel_of
from fastact.spec.kinds import ALL, outputs_of

if TYPE_CHECKING:
    from fastact.api.activation import Method
    from fastact.api.fused import Fused
    from fastact.api.fused_step import FusedStep
    from fastact.spec.table import Op

MEANING = {
    "dy": "The gradient by the output y = f(x).",
    "x": "Of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64.",
    "y": "What the function gave, with the same parameters.",
    "bias": "One value for each position along `axis`.",
    "gate": "What the activation is applied to.",
    "up": "What it is multiplied with.",
}
VALUE = {
    "forward": ("ndarray or scalar", "f(x), of the shape and dtype that the inputs broadcast to."),
    "backward": ("ndarray or scalar", "dy·f'(x), of the shape and dtype that the inputs broadcast to."),
    "backward_from_output": ("ndarray or scalar", "dy·f'(x), from y = f(x) alone."),
    "value_and_grad": ("tuple of two ndarrays or scalars", "f(x) and f'(x), computed in one pass."),
}
FUSED = {
    "backward_with_param": "The gradients of f, by x and by its parameter, in one pass.",
    "biased": "f(x + bias), in one pass.",
    "biased_backward": "The gradients of f(x + bias), in one pass.",
    "gated": "f(gate)·up, in one pass.",
    "gated_backward": "The gradients of f(gate)·up, in one pass.",
}
# inputs of the examples; a parameter without a default is 0.5
POINTS = (-1.0, 0.5, 3.0)


def documentation(method: Method) -> str:
    """The docstring of one kind of an activation."""
    op, kind = method.op, method.kind
    keywords = _named(method)
    arguments = [*_arrays(kind), "/", *(["*", *keywords] if keywords else []), "**kwargs"]
    lines = [f"{method.__name__}({', '.join(arguments)})", "", f"f(x) = {op.formula}", ""]
    lines += _section("Parameters", [*_described(_arrays(kind)), *_parameters(method), *KEYWORDS])
    lines += _section("Returns", [VALUE[kind][0], f"    {VALUE[kind][1]}"])
    lines += _section("Raises", _errors(method))
    lines += _section("Notes", _notes(op))
    lines += _section("Examples", _examples(op, kind))
    return "\n".join(lines)


def of_fused(fused: Fused) -> str:
    """The docstring of a fused kind of an activation."""
    names, outputs = _arrays(fused.kind), outputs_of(fused.op, fused.kind)
    axis = ["axis=-1"] if fused.along else ["axis=None"] if fused.takes_axis else []
    shown = _by_position(names, fused.op)
    head = ", ".join([*shown, "*", *axis, "out=None", *_named(fused.activation)])
    lines = [f"{fused.__name__}({head})", "", FUSED[fused.kind], "", f"f(x) = {fused.op.formula}", ""]
    parameters = _described(shown)
    if fused.along:
        parameters += ["axis : int", "    The axis of the bias."]
    elif fused.takes_axis:
        learnt = outputs[-1].name.removeprefix("d")
        along = f"    The axis along which a {learnt} of one dimension lies; by default it broadcasts."
        parameters += ["axis : int, optional", along]
    one = len(outputs) == 1
    several = "For the result" if one else "A tuple of arrays or None, in the order of the results"
    parameters += [f"out : {'ndarray' if one else 'tuple'}, optional", f"    {several}; also in the place of an input."]
    lines += _section("Parameters", parameters + _parameters(fused.activation))
    returns = []
    for argument in outputs:
        of = argument.name.removeprefix("d")
        text = "The value." if argument.name == "y" else f"The gradient by {of}."
        if argument.role == "sum_rows":
            text = f"The gradient by {of}, summed over all that share a value of it."
        returns += [f"{argument.name} : ndarray", f"    {text}"]
    lines += _section("Returns", returns)
    wrong = "an array is masked, complex or of objects, strings or dates, or ``out`` cannot hold the result"
    unfit = (
        "shapes do not fit, ``axis`` is out of range, a parameter is outside its domain, or ``out`` cannot be written"
    )
    errors = ["TypeError", *_wrapped(f"If {wrong}."), "AxisError, ValueError", *_wrapped(f"If {unfit}; nothing is.")]
    lines += _section("Raises", errors)
    if any(a.role == "sum_rows" for a in outputs):
        lines += _section("Notes", _wrapped("Sums are compensated, in an order that depends on the shape alone.", ""))
    lines += _section("Examples", _fused_examples(fused, names))
    return "\n".join(lines)


def _named(activation: Method) -> list[str]:
    """Parameters as a signature has them."""
    found = [p.name if p.default is None else f"{p.name}={p.default:g}" for p in activation.op.params]
    return found + ([] if activation.variants is None else [f'{activation.variants[0]}="none"'])


# what the arrays of examples are
VALUES = {"dy": "np.ones((2, 2))", "bias": "[0.5, -0.5]", "up": "[[2.0, 2.0], [0.5, 1.0]]"}
VALUES["x"] = VALUES["gate"] = "[[-1.0, 0.5], [3.0, -2.0]]"


def _fused_examples(fused: Fused, names: tuple[str, ...]) -> list[str]:
    required = [p.name for p in fused.op.params if p.default is None]
    numbers: dict[str, Any] = dict.fromkeys(required, 0.5)
    results = fused(*(eval(VALUES[name], {"np": np}) for name in names), **numbers)
    given = "".join(f", {name}=0.5" for name in required)
    lines = [">>> import numpy as np, fastact as fa"]
    lines += [f">>> {name} = {VALUES[name]}" for name in names]
    call = f"fa.{fused.__name__}({', '.join(names)}{given})"
    if not isinstance(results, tuple):
        return [*lines, f">>> {call}", *repr(results).split("\n")]
    outputs = [a.name for a in fused.outputs]
    lines.append(f">>> {', '.join(outputs)} = {call}")
    return [*lines, *(line for name, r in zip(outputs, results) for line in (f">>> {name}", *repr(r).split("\n")))]


def _arrays(kind: str) -> tuple[str, ...]:
    return tuple(a.name for a in ALL[kind].inputs)


def _section(title: str, body: list[str]) -> list[str]:
    return [title, "-" * len(title), *body, ""] if body else []


def _described(names: tuple[str, ...]) -> list[str]:
    return [line for n in names for line in (f"{n} : array_like", f"    {MEANING[n.removesuffix('_')]}")]


def _by_position(names: tuple[str, ...], op: Op) -> tuple[str, ...]:
    """Arrays as a signature has them: one that has the name of a parameter is given by position alone."""
    return tuple(name + "_" * any(name == p.name for p in op.params) for name in names)


def _parameters(activation: Method) -> list[str]:
    lines = []
    for p in activation.op.params:
        default = "" if p.default is None else f", default {p.default:g}"
        text = p.domain.text
        text = f"    {text[0].upper()}{text[1:]}; broadcasts. Values of an array on a GPU are not checked."
        lines += [f"{p.name} : float or array_like{default}", text]
    if activation.variants is not None:
        choices = ", ".join(f'"{v}"' for v in activation.variants[1])
        lines += [f'{activation.variants[0]} : {{{choices}}}, default "none"', "    Which form of the function."]
    return lines


KEYWORDS = [
    "**kwargs",
    "    The keywords of a ufunc: ``out``, ``where``, ``dtype``, ``casting``, ``order``, ``subok``.",
]


def _errors(method: Method) -> list[str]:
    op = method.op
    wrong = ["an array is complex or of objects, strings or dates"]
    unfit = ["shapes do not broadcast", "``out`` cannot be written"]
    if op.params:
        wrong.append("a parameter is masked or no number")
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
    required = [p.name for p in op.params if p.default is None]
    of_defaults = " with the default parameters" if op.params and not required else ""
    if op.limits is not None:
        lines.append(f"f is {op.limits[0]:g} at -inf and {op.limits[1]:g} at inf{of_defaults}.")
        if (least := _least(op)) is not None:
            lines.append(f"Its least value is {least[1]:.6g}, at {least[0]:.6g}{of_defaults}.")
    if op.kinks:
        at = _and(op.kinks)
        before, slopes, after = (_evaluated(op, "value_and_grad", np.array(op.kinks) + e)[1] for e in (-1e-9, 0, 1e-9))
        if np.allclose(before, after, rtol=0, atol=1e-6):
            lines.append(f"f' jumps at {at}, but not{of_defaults}.")
        else:
            given = "".join(f" where {name} = 0.5" for name in required)
            lines.append(f"f' jumps at {at}{of_defaults}; there it is taken as {_and(slopes)}{given}.")
    return [line for text in lines for line in _wrapped(text, "")]


def _and(values: Iterable[float]) -> str:
    return " and ".join(f"{v:g}" for v in values)


def _least(op: Op) -> tuple[float, float] | None:
    """Where f is least, and its value there, if that is below its limits."""
    assert op.limits is not None
    x = np.linspace(-8.0, 8.0, 1601)
    for _ in range(3):
        (y,) = _evaluated(op, "forward", x)
        at = x[np.argmin(y)]
        x = np.linspace(at - (x[1] - x[0]), at + (x[1] - x[0]), 401)
    return (float(at), float(y.min())) if y.min() < min(op.limits) - 1e-6 else None


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


STEP = {
    "fused": "residual + dropout(f(x + bias)), in one pass.",
    "fused_backward": "The gradients of residual + dropout(f(x + bias)), in one pass.",
}


def of_step(step: FusedStep) -> str:
    """The docstring of ``fused`` or ``fused_backward`` of an activation."""
    op, backward = step.op, step.method == "fused_backward"
    (bias,) = _by_position(("bias",), op)
    head = [*step.names[:-1], f"{bias}=None", "*", *([] if backward else ["residual=None"]), "dropout=0.0", "seed=None"]
    head += [f"{step.offset_name}=0", "axis=-1", "out=None", *_named(step.activation)]
    signature = textwrap.wrap(f"{step.__name__}({', '.join(head)})", 120, subsequent_indent="    ")
    lines = [*signature, "", STEP[step.method], "", f"f(x) = {op.formula}", ""]
    parameters = _described(step.names[:-1])
    parameters += [f"{bias} : array_like, optional", f"    {MEANING['bias']}"]
    if "bias" not in step.by_name:
        parameters[-1] += " By position: the keyword is the parameter."
    if not backward:
        parameters += ["residual : array_like, optional", "    What is added last; it broadcasts to the shape of `x`."]
    parameters += [
        "dropout : float",
        "    The probability of an element to be dropped, in [0, 1), before the residual is added.",
        "seed : int",
        "    Which stream of random numbers, in [0, 2**64); it must be given where `dropout` is not 0.",
        f"{step.offset_name} : int",
        "    Where in it, in [0, 2**64), in blocks of four numbers; see `dropout`.",
        "axis : int",
        "    The axis of the bias.",
        f"out : {'tuple' if backward else 'ndarray'}, optional",
        f"    {'Arrays or None, in the order of results' if backward else 'For the result'}; also in an input's place.",
    ]
    lines += _section("Parameters", parameters + _parameters(step.activation))
    if backward:
        returns = ["dx : ndarray", "    The gradient by x.", "dbias : ndarray or None"]
        returns += ["    The gradient by bias, summed over all other axes; None without a bias."]
        if op.param_grad is not None:
            (learnt,) = (p.name for p in op.params)
            shared = f"    The gradient by {learnt}, summed over all that share a value of it."
            returns += [f"d{learnt} : ndarray", shared]
    else:
        returns = ["y : ndarray", "    The value."]
    lines += _section("Returns", returns)
    wrong = (
        "an array is masked, complex or of objects, strings or dates, ``dropout`` is no number, ``seed`` is missing "
    )
    wrong += "or no integer, or ``out`` cannot hold the result"
    unfit = "shapes do not fit, ``axis`` is out of range, ``dropout``, ``seed`` or a parameter is outside its domain, "
    unfit += "or ``out`` cannot be written"
    errors = ["TypeError", *_wrapped(f"If {wrong}."), "AxisError, ValueError", *_wrapped(f"If {unfit}; nothing is.")]
    lines += _section("Raises", errors)
    notes = ["The residual's gradient is dy."] if backward else []
    notes += ["The random numbers are those of `dropout`, and never stored: the gradient makes them again."]
    lines += _section("Notes", [line for text in notes for line in _wrapped(text, "")])
    lines += _section("Examples", _step_examples(step, backward))
    return "\n".join(lines)


def _step_examples(step: FusedStep, backward: bool) -> list[str]:
    required: dict[str, Any] = {p.name: 0.5 for p in step.op.params if p.default is None}
    names = [*step.names[:-1], "bias"]
    values = [eval(VALUES[name], {"np": np}) for name in names]
    given = "".join(f", {name}=0.5" for name in required)
    lines = [">>> import numpy as np, fastact as fa", *(f">>> {name} = {VALUES[name]}" for name in names)]
    call = f"fa.{step.__name__}({', '.join(names)}, dropout=0.5, seed=1{given})"
    result = step(*values, dropout=0.5, seed=1, **required)
    if not backward:
        return [*lines, f">>> {call}", *repr(result).split("\n")]
    outputs = ["dx", "dbias", *(f"d{p.name}" for p in step.op.params if step.op.param_grad is not None)]
    lines.append(f">>> {', '.join(outputs)} = {call}")
    return [*lines, *(line for name, r in zip(outputs, result) for line in (f">>> {name}", *repr(r).split("\n")))]
