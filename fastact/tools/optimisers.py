"""Steps of Adam for ``fastact bench``: how each library takes one, in its best form.

``adam`` is one array of each size, ``adam_mlp`` the twenty arrays of a perceptron with the layers of ``MLP``. Every
form works on the same parameters, gradient and state in place; its first step is compared with the textbook's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

import fastact as fa
from fastact.tools.peers import BLOCK, Cell, Form, Peer, in_turn

OPS = ("adam", "adam_mlp")
MLP = (784, *(64,) * 9, 10)
SHAPES = [shape for rows, columns in pairwise(MLP) for shape in ((rows, columns), (columns,))]
MLP_SIZE = sum(map(math.prod, SHAPES))
LR, BETAS, EPS = 1e-3, (0.9, 0.999), 1e-8

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # p, g, m, v


@dataclass
class UpdateCell(Cell):
    """A step: x is the parameter, dy its gradient, y and scratch are its state. Kind "update"."""

    begin: np.ndarray = field(repr=False)  # the parameter before the first step

    @property
    def results(self) -> tuple[np.ndarray, ...]:
        return ()

    @property
    def streams(self) -> int:
        """How many arrays of the size of x must be read or written."""
        return 7

    @property
    def parts(self) -> list[Arrays]:
        """The arrays that the optimiser has."""
        whole = self.x, self.dy, self.y, self.scratch
        if self.op == "adam":
            return [whole]
        ends = np.cumsum([math.prod(shape) for shape in SHAPES])
        cut = [np.split(a, ends[:-1]) for a in whole]
        return [tuple(a.reshape(s) for a in arrays) for *arrays, s in zip(*cut, SHAPES, strict=True)]  # type: ignore[misc]

    def reset(self) -> None:
        """Back to before the first step."""
        self.x[:] = self.begin
        self.y[:] = self.scratch[:] = 0

    def expected(self, count: int) -> tuple[np.ndarray, ...]:
        """The textbook's p, m and v after the first step, the first `count` elements of them, in float64."""
        p, g = self.begin[:count].astype(np.float64), self.dy[:count].astype(np.float64)
        m, v = (1 - BETAS[0]) * g, (1 - BETAS[1]) * g * g
        step = m / (1 - BETAS[0]) / (np.sqrt(v / (1 - BETAS[1])) + EPS)
        return p - LR * step, m, v

    def wrong(self, count: int) -> str | None:
        """What is wrong with what the first step left behind, or None."""
        for name, got, want in zip("pmv", (self.x, self.y, self.scratch), self.expected(count), strict=True):
            error = float(np.max(np.abs(got[:count] - want) / (np.abs(want) + 1e-30)))
            # of p, in units of the change
            error = float(np.max(np.abs(got[:count] - want))) / LR if name == "p" else error
            if not error < 1e-3:
                return f"{name}: relative error {error:.1e}"
        return None


def update_cell(op: str, arrays: list[np.ndarray]) -> UpdateCell:
    """Of flat arrays: parameter, gradient, state, memory for a copy, state."""
    p, g, m, out, v = (a if op == "adam" else a[:MLP_SIZE] for a in arrays[:5])
    cell = UpdateCell(op, "update", p, g, m, out, v, p.copy())
    cell.reset()
    return cell


def counted(step: Callable[[int], Any]) -> Form:
    """A form of a step that takes its number."""
    count = 0

    def call() -> None:
        nonlocal count
        count += 1
        step(count)

    return call


def fastact(library: Peer, cell: UpdateCell) -> dict[str, Form]:
    p, g, m, v = map(list, zip(*cell.parts, strict=True))
    optimiser: Any = fa.optim.Adam(p, LR, BETAS, EPS)
    # on the cell's memory
    optimiser.state["m"], optimiser.state["v"] = m, v
    optimiser._build()
    return {"step": lambda: optimiser.step(g)}


def numpy(library: Peer, cell: UpdateCell) -> dict[str, Form]:
    # every step with out=; in blocks they stay in the L2 cache
    scratch = np.empty((2, max(p.size for p, *_ in cell.parts)), cell.x.dtype)

    def update(p: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, count: int) -> None:
        t, d = (s[: p.size].reshape(p.shape) for s in scratch)
        first, second = 1 - BETAS[0] ** count, 1 - BETAS[1] ** count
        m *= BETAS[0]
        np.multiply(g, 1 - BETAS[0], out=t)
        m += t
        v *= BETAS[1]
        np.multiply(g, g, out=t)
        t *= 1 - BETAS[1]
        v += t
        np.sqrt(v, out=d)
        d /= math.sqrt(second)
        d += EPS
        np.divide(m, d, out=t)
        t *= LR / first
        p -= t

    def over(parts: list[Any]) -> Form:
        def steps(count: int) -> None:
            for p, g, m, v in parts:
                update(p, g, m, v, count)

        return counted(steps)

    found = {"ufuncs": over(cell.parts)}
    if cell.x.size > BLOCK and cell.op == "adam":
        blocks = [tuple(a[i : i + BLOCK] for a in cell.parts[0]) for i in range(0, cell.x.size, BLOCK)]
        found["ufuncs, in blocks"] = over(blocks)
    return found


def torch(library: Any, cell: UpdateCell) -> dict[str, Form]:
    t = library.torch
    found: dict[str, Form] = {}
    for form in ("fused", "foreach"):
        tensors = [tuple(map(t.from_numpy, part)) for part in cell.parts]
        params = [t.nn.Parameter(p) for p, *_ in tensors]
        optimiser = t.optim.Adam(params, LR, BETAS, EPS, **{form: True})
        for param, (_, g, m, v) in zip(params, tensors, strict=True):
            param.grad = g
            optimiser.state[param] = {"step": t.tensor(0.0), "exp_avg": m, "exp_avg_sq": v}
        found[f"optim.Adam({form}=True)"] = optimiser.step
    p, g, m, v = (list(map(t.from_numpy, column)) for column in zip(*cell.parts, strict=True))
    steps = [t.tensor(0.0) for _ in p]
    keywords = {"lr": LR, "beta1": BETAS[0], "beta2": BETAS[1], "weight_decay": 0.0, "eps": EPS}

    def direct() -> None:
        t._foreach_add_(steps, 1.0)
        t._fused_adam_(p, g, m, v, [], steps, **keywords, amsgrad=False, maximize=False)

    return found | {"_fused_adam_": direct}


def numba(library: Any, cell: UpdateCell) -> dict[str, Form]:
    f = cell.x.dtype.type
    one = f(1)
    beta1, beta2, eps = f(BETAS[0]), f(BETAS[1]), f(EPS)

    def of(kernel: Callable[..., None], part: Arrays) -> Form:
        flat = [a.reshape(-1) for a in part]

        def step(count: int) -> None:
            root = math.sqrt(1 - BETAS[1] ** count)
            rate = f(LR * root / (1 - BETAS[0] ** count))
            kernel(*flat, beta1, one - beta1, beta2, one - beta2, rate, f(eps * root))

        return counted(step)

    return {
        name: in_turn([of(kernel, part) for part in cell.parts], ()) for name, kernel in library.adam_kernels().items()
    }


FORMS: Mapping[str, Callable[[Any, UpdateCell], dict[str, Form]]] = {
    "fastact": fastact,
    "numpy": numpy,
    "torch": torch,
    "numba": numba,
}


def forms_of(library: Peer, cell: Cell) -> dict[str, Form]:
    """A library's ways to compute a cell, whatever it is of."""
    if not isinstance(cell, UpdateCell):
        return library.forms(cell)
    if library.name == "stream":
        return library.forms(cell)
    return FORMS.get(library.name, lambda *_: {})(library, cell)
