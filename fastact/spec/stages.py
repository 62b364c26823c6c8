"""Fused kinds as stages: kernels that there are already, and additions and multiplications between them.

A fused kind's body is run once over symbols, which leaves behind what it does. Over a tile in the cache a driver then
runs one kernel after the other, in the computing dtype: the same operations in the same order as in a kernel of its
own, so the same bits, and nothing more to compile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from fastact.spec.kinds import ALL, Formulas

if TYPE_CHECKING:
    from fastact.spec.table import Op

# what the driver has itself; `keep` makes the factors of a dropout
ARITHMETIC = ("add", "sub", "mul", "copy", "normed", "normed_grad", "keep")


@dataclass(frozen=True)
class Stage:
    """One step: `what` is of `ARITHMETIC` or a kind with a kernel, `places` its inputs, parameters and outputs."""

    what: str
    places: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """A fused kind of an activation.

    Places count inputs, parameters, outputs, then temporaries. ``like[j]`` is 1 + the place of the output whose values
    the sum at place j adds up, where they are computed once for both, else 0.
    """

    stages: tuple[Stage, ...]
    like: tuple[int, ...]

    @property
    def random(self) -> int:
        """1 + the place that the first stage fills with random numbers; 0 where none does."""
        return 1 + self.stages[0].places[0] if self.stages[0].what == "keep" else 0

    @property
    def kernels(self) -> list[Stage]:
        """The stages that are kernels."""
        return [stage for stage in self.stages if stage.what not in ARITHMETIC]


@dataclass(frozen=True)
class Symbol:
    """A value in the body of a kind: what made it, of which values."""

    what: str
    of: tuple[Any, ...]

    def __add__(self, other: Symbol) -> Symbol:
        return Symbol("add", (self, other))

    def __sub__(self, other: Symbol) -> Symbol:
        return Symbol("sub", (self, other))

    def __mul__(self, other: Symbol) -> Symbol:
        return Symbol("mul", (self, other))


class _Traced(Formulas):
    def __init__(self, op: Op) -> None:
        self.value = lambda x, *p: Symbol("value", (x,))
        self.grad = lambda x, *p: Symbol("grad", (x,))
        self.param_grad = None if op.param_grad is None else (lambda x, *p: Symbol("param_grad", (x,)))

    def normed(self, *given: Symbol) -> Symbol:
        return Symbol("normed", given)

    def normed_grad(self, *given: Symbol) -> Symbol:
        return Symbol("normed_grad", given)


@cache
def program_of(op: Op, kind: str) -> Program:
    """The stages of a fused kind.

    Examples
    --------
    >>> from fastact.spec.table import OPS
    >>> program_of(OPS["silu"], "gated").stages  # gate, up, beta, y and one temporary
    (Stage(what='forward', places=(0, 2, 4)), Stage(what='mul', places=(4, 1, 3)))
    """
    nin, nparam = len(ALL[kind].inputs), len(op.params)
    params = tuple(range(nin, nin + nparam))
    arguments = [Symbol("argument", (j,)) for j in range(nin + nparam)]
    # an argument is the memory of somebody else
    outputs = [
        Symbol("copy", (symbol,)) if symbol in arguments else symbol
        for symbol in ALL[kind].body(_Traced(op))(*arguments)
    ]
    places = {symbol: j for j, symbol in enumerate(arguments)}
    like = [0] * (nin + nparam + len(outputs))
    for j, symbol in enumerate(outputs, nin + nparam):
        like[j] = 1 + places[symbol] if symbol in places else 0
        places.setdefault(symbol, j)
    used = set(_all(outputs))
    stages = [Stage("keep", (j,)) for j, argument in enumerate(ALL[kind].inputs) if argument.role == "random"]
    done = set(arguments)
    fresh = len(like)

    def place(symbol: Symbol) -> int:
        nonlocal fresh
        if symbol not in places:
            places[symbol] = fresh
            fresh += 1
        return places[symbol]

    def both(x: Symbol) -> bool:
        # then one kernel gives the value and the gradient
        return {Symbol("value", (x,)), Symbol("grad", (x,))} <= used

    def visit(symbol: Symbol) -> int:
        if symbol in done:
            return places[symbol]
        last = symbol.of[-1]
        if symbol.what == "mul" and last.what == "grad" and not both(*last.of):
            what, of = "backward", (symbol.of[0], *last.of)
        elif symbol.what == "mul" and last.what == "param_grad":
            what, of = "param_backward", (symbol.of[0], *last.of)
        elif symbol.what in ("value", "grad") and both(last):
            pair = Symbol("value", (last,)), Symbol("grad", (last,))
            x = visit(last)
            stages.append(Stage("value_and_grad", (x, *params, *map(place, pair))))
            done.update(pair)
            return places[symbol]
        else:
            what, of = {"value": "forward"}.get(symbol.what, symbol.what), symbol.of
        inner = tuple(map(visit, of))
        stages.append(Stage(what, (*inner, *(() if what in ARITHMETIC else params), place(symbol))))
        done.add(symbol)
        return places[symbol]

    for symbol in outputs:
        visit(symbol)
    return Program(tuple(stages), tuple(like))


def _all(symbols: Iterable[Symbol]) -> Iterator[Symbol]:
    for symbol in symbols:
        yield symbol
        if symbol.what != "argument":
            yield from _all(symbol.of)
