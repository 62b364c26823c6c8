"""Softmax as in attention for ``fastact bench``: scaled, with an additive mask or a causal one, and its gradient.

Scores are of shape (heads, queries, keys). Masks are additive, of 0 and -inf and of shape (queries, keys): NumPy and
PyTorch add them, the causal one as well, which they have ready.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

import fastact as fa
from fastact.tools import channels
from fastact.tools.peers import BLOCK, Cell, Form, Peer

OPS = ("softmax_masked", "softmax_causal")
SCALE = 0.125
MOST = 256  # keys


@dataclass
class AttentionCell(Cell):
    """Scores x, their weights y; `mask` is what is added to them."""

    mask: np.ndarray
    expected: tuple[np.ndarray, ...] = ()  # the first heads of the result in float64

    @property
    def causal(self) -> bool:
        return self.op == "softmax_causal"


def attention_cell(op: str, kind: str, arrays: list[np.ndarray], rng: np.random.Generator) -> AttentionCell:
    """Of x, dy, y, out, scratch: flat arrays."""
    keys = min(MOST, math.isqrt(arrays[0].size))
    x, dy, y, out, scratch = (a[: a.size // keys**2 * keys**2].reshape(-1, keys, keys) for a in arrays[:5])
    live = np.tri(keys, dtype=bool) if op == "softmax_causal" else rng.random((keys, keys)) < 0.9
    live[:, 0] = True
    mask = np.where(live, 0, -np.inf).astype(x.dtype)
    cell = AttentionCell(op, kind, x, dy, y, out, scratch, mask)
    step = max(1, BLOCK // keys**2)
    for i in range(0, len(x), step):
        y[i : i + step] = weights(cell, slice(i, i + step))
    first = slice(0, step)
    expected = weights(cell, first)
    if kind == "backward":
        g = dy[first].astype(np.float64)
        expected = SCALE * expected * (g - (g * expected).sum(-1, keepdims=True))
    return replace(cell, expected=(expected,))


def weights(cell: AttentionCell, heads: slice) -> np.ndarray:
    """In float64."""
    z = SCALE * cell.x[heads].astype(np.float64) + cell.mask
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)  # type: ignore[no-any-return]


def fastact(library: Peer, cell: AttentionCell) -> dict[str, Form]:
    given: dict[str, Any] = {"causal": True} if cell.causal else {}
    if cell.kind == "backward":
        return {
            "backward(dy, y, out=)": partial(fa.softmax.backward, cell.dy, cell.y, scale=SCALE, out=cell.out, **given)
        }
    if not cell.causal:
        given["bias"] = cell.mask
    return {"out=": partial(fa.softmax, cell.x, scale=SCALE, out=cell.out, **given)}


def numpy(library: Peer, cell: AttentionCell) -> dict[str, Form]:
    # every step with out=; in blocks they stay in the L2 cache
    scale = cell.x.dtype.type(SCALE)

    def forward(x: np.ndarray, dy: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
        np.multiply(x, scale, out=out)
        out += cell.mask
        out -= out.max(-1, keepdims=True)
        np.exp(out, out=out)
        out /= out.sum(-1, keepdims=True)

    def backward(x: np.ndarray, dy: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
        np.multiply(dy, y, out=out)
        np.subtract(dy, out.sum(-1, keepdims=True), out=out)
        out *= y
        out *= scale

    def over(heads: int) -> Form:
        def call() -> Any:
            for i in range(0, len(cell.x), heads):
                part = (a[i : i + heads] for a in (cell.x, cell.dy, cell.y, cell.out))
                (forward if cell.kind == "forward" else backward)(*part)
            return cell.out

        return call

    found = {"ufuncs": over(len(cell.x))}
    heads = max(1, BLOCK // cell.mask.size)
    return found | ({"ufuncs, in blocks": over(heads)} if heads < len(cell.x) else {})


def torch(library: Any, cell: AttentionCell) -> dict[str, Form]:
    t = library.torch
    x, dy, y, out, scratch, mask = map(t.from_numpy, (cell.x, cell.dy, cell.y, cell.out, cell.scratch, cell.mask))
    if cell.kind == "backward":
        into = partial(t.ops.aten._softmax_backward_data.out, dy, y, -1, dy.dtype, grad_input=out)
        return {"_softmax_backward_data.out, mul_": lambda: into().mul_(SCALE)}

    def added() -> Any:
        # mask + SCALE·x
        t.add(mask, x, alpha=SCALE, out=scratch)
        return t.softmax(scratch, -1, out=out)

    return {"add(alpha=), softmax": added}


FORMS: Mapping[str, Callable[[Any, AttentionCell], dict[str, Form]]] = {
    "fastact": fastact,
    "numpy": numpy,
    "torch": torch,
}


def forms_of(library: Peer, cell: Cell) -> dict[str, Form]:
    """A library's ways to compute a cell, whatever it is of."""
    if not isinstance(cell, AttentionCell):
        return channels.forms_of(library, cell)
    if library.name == "stream":
        return library.forms(cell)
    return FORMS.get(library.name, lambda *_: {})(library, cell)
