"""What a kernel computes, by kind, in terms of a row's formulas: the same on every backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastact.spec.table import Op

# arrays in and arrays out, parameters apart
KINDS: dict[str, tuple[int, int]] = {
    "forward": (1, 1),
    "backward": (2, 1),
    "backward_from_output": (2, 1),
    "value_and_grad": (1, 2),
}


def kinds_of(op: Op) -> tuple[str, ...]:
    """The kinds an activation has."""
    return tuple(k for k in KINDS if k != "backward_from_output" or op.grad_from_output is not None)


def body(env: Mapping[str, Callable[..., Any]], op: Op, kind: str) -> Callable[..., tuple[Any, ...]]:
    """Inputs and parameters to a tuple of outputs, over the bound formulas `env`."""
    forward, grad = env[op.forward.__name__], env[op.grad.__name__]
    if kind == "forward":
        return lambda x, *params: (forward(x, *params),)
    if kind == "backward":
        return lambda dy, x, *params: (dy * grad(x, *params),)
    if kind == "value_and_grad":
        return lambda x, *params: (forward(x, *params), grad(x, *params))
    if kind == "backward_from_output" and op.grad_from_output is not None:
        from_output = env[op.grad_from_output.__name__]
        return lambda dy, y, *params: (dy * from_output(y, *params),)
    raise ValueError(f"{op.name} has no kind {kind!r}")
