"""The functions that fuse an activation with the arithmetic next to it, for ``fastact bench``.

``FUSIONS`` is the one list: what each computes as a formula, as steps into existing memory, and as nodes of a graph.
The formula is also the textbook value. Nothing here knows an activation: a fused function is any activation's name and
a key of ``FUSIONS``, as in ``gelu.biased``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastact.tools.peers import Form, FusedCell

Node = tuple[str, str, str, dict[str, Any]]


@dataclass(frozen=True)
class Fusion:
    """One way to fuse; f is the activation of x, g its gradient of (dy, x, y)."""

    # f, x, second -> y
    forward: Callable[..., Any]
    # f, g, x, second, dy -> y and the gradients of x and second
    step: Callable[..., tuple[Any, Any, Any]]
    # lib, cell, f, g -> calls that leave what cell.kind asks for in cell.results; lib is NumPy or PyTorch, and f and g
    # make such calls, their last argument the memory to write to. cell.y may be the memory of a result that is written
    # later (cell.in_place)
    calls: Callable[[Any, FusedCell, Callable[..., Form], Callable[..., Form]], list[Form]]
    # nodes from "x" to "y" of the activation -> nodes from "x" and "second" to "y"
    nodes: Callable[[list[Node]], list[Node]]
    # the second argument has one number for each column, and its gradient is a sum over rows
    per_column: bool = False
    # both arguments are halves of one array, and so are their gradients
    packed: bool = False


def biased_step(f: Callable, g: Callable, x: Any, bias: Any, dy: Any) -> tuple[Any, Any, Any]:
    z = x + bias
    y = f(z)
    dx = g(dy, z, y)
    return y, dx, dx.sum(0)


def biased_calls(lib: Any, cell: FusedCell, f: Callable[..., Form], g: Callable[..., Form]) -> list[Form]:
    calls: list[Form] = [partial(lib.add, cell.x, cell.second, out=cell.y), f(cell.y, cell.out)]
    if cell.kind == "step":
        calls += [g(cell.dy, cell.y, cell.out, cell.dx), partial(lib.sum, cell.dx, 0, out=cell.dsecond)]
    return calls


def gated_step(f: Callable, g: Callable, gate: Any, up: Any, dy: Any) -> tuple[Any, Any, Any]:
    s = f(gate)
    return s * up, g(dy * up, gate, s), dy * s


def gated_calls(lib: Any, cell: FusedCell, f: Callable[..., Form], g: Callable[..., Form]) -> list[Form]:
    if cell.kind == "forward":
        return [f(cell.x, cell.out), partial(lib.multiply, cell.out, cell.second, out=cell.out)]
    s = cell.dsecond
    return [
        f(cell.x, s),
        partial(lib.multiply, s, cell.second, out=cell.out),
        partial(lib.multiply, cell.dy, cell.second, out=cell.y),
        g(cell.y, cell.x, s, cell.dx),
        partial(lib.multiply, s, cell.dy, out=s),
    ]


def renamed(names: str, old: str, new: str) -> str:
    return " ".join(new if name == old else name for name in names.split())


GATED = Fusion(
    forward=lambda f, gate, up: f(gate) * up,
    step=gated_step,
    calls=gated_calls,
    nodes=lambda nodes: [
        *((op, ins, renamed(outs, "y", "f"), attrs) for op, ins, outs, attrs in nodes),
        ("Mul", "f second", "y", {}),
    ],
)

FUSIONS: dict[str, Fusion] = {
    "biased": Fusion(
        forward=lambda f, x, bias: f(x + bias),
        step=biased_step,
        calls=biased_calls,
        nodes=lambda nodes: [
            ("Add", "x second", "z", {}),
            *((op, renamed(ins, "x", "z"), outs, attrs) for op, ins, outs, attrs in nodes),
        ],
        per_column=True,
    ),
    "gated": GATED,
    "packed": replace(GATED, packed=True),
}
