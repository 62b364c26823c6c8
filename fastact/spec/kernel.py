"""What a kernel is: `KernelSpec`, the only thing that dispatch, caches, tools and backends pass around."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

from fastact._version import __version__
from fastact.spec import kinds
from fastact.spec.kinds import ALL, Argument
from fastact.spec.rows import ROWS

if TYPE_CHECKING:
    from fastact.spec.optimisers import Rule
    from fastact.spec.table import Op

DTYPES = ("float32", "float64", "float16", "bfloat16")


def compute_dtype(dtype: str) -> str:
    """What a dtype is computed in: itself, or float32."""
    return "float64" if dtype == "float64" else "float32"


def itemsize(dtype: str) -> int:
    """Bytes of an element."""
    return {"float64": 8, "float32": 4}.get(dtype, 2)


@dataclass(frozen=True, eq=False)
class KernelSpec:
    """One kernel: what it computes, on which dtype, in which loop. Made by `kernel_of` and its like, once each.

    Attributes
    ----------
    name : str
        Unique among the kernels of a dtype, and an identifier: ``"elu_backward"``, ``"softmax"``.
    dtype : str
        Of the arrays in memory.
    loop : str
        ``"map"``, each element by itself; else the function of ``fastact.loops``.
    inputs, outputs : tuple of Argument
    params : tuple of str
        What follows the inputs of a ``map``.
    op, kind
        The activation and the kind of a ``map``.
    rule
        What a ``map`` that is the step of an optimiser does.
    sign : int
        ``SIGN`` in a loop over rows.
    form : str
        Of a loop over rows, which is part of its name (`fastact.spec.rows.FORMS`).
    """

    name: str
    dtype: str
    loop: str
    inputs: tuple[Argument, ...]
    params: tuple[str, ...]
    outputs: tuple[Argument, ...]
    op: Op | None = None
    kind: str = ""
    sign: int = 1
    form: str = ""
    rule: Rule | None = None

    @property
    def compute(self) -> str:
        """The dtype in which it computes."""
        return compute_dtype(self.dtype)

    @property
    def symbol(self) -> str:
        """Its name in caches and object code."""
        return f"{self.name}_{self.dtype}"

    @property
    def narg(self) -> int:
        """How many arguments it takes."""
        return len(self.inputs) + len(self.params) + len(self.outputs)

    @cached_property
    def digest(self) -> str:
        """A hash of all it is made of: what its kind computes, every formula and loop it reaches, constants, version.

        Compiled code is hashed and not text, so that comments change nothing, and an edit of one formula only the
        kernels that reach it. What a backend adds (how it compiles, for which CPU) is the backend's to hash.
        """
        # not needed where kernels were built: hashlib is 3 ms of `import fastact`
        import hashlib

        from fastact.maths.grammar import formulas, row_formulas

        parts: list[Any] = [__version__, sys.version_info[:2], self.symbol]
        parts += [self.loop, self.inputs, self.params, self.outputs]
        if self.loop == "map":
            names = formulas(self.compute)
            computed, used = self._computed()
            reached = _reached([names[name] for name in used], names)
            parts.append(computed)
        else:
            loops = {**formulas(self.compute), **row_formulas(), **_loops()}
            # a loop that one backend alone has is that backend's to hash
            reached = _reached([loops[self.loop]] if self.loop in loops else [], loops)
            parts.append(self.sign)
        return hashlib.sha256(repr((parts, sorted(reached.items()))).encode()).hexdigest()

    def body(self, env: Mapping[str, Callable[..., Any]]) -> Callable[..., tuple[Any, ...]]:
        """Of a ``map``: inputs and parameters to a tuple of outputs, over the bound formulas `env`."""
        if self.rule is not None:
            formula = env[self.rule.name]
            return formula if len(self.outputs) > 1 else lambda *args: (formula(*args),)
        assert self.op is not None
        return kinds.body(env, self.op, self.kind)

    def _computed(self) -> tuple[str, list[str]]:
        """What a ``map`` computes, as text, and the formulas it calls."""
        used: list[str] = []

        class Calls(dict[str, Any]):
            def __missing__(self, name: str) -> Any:
                def call(*args: Any) -> _Term:
                    used.append(name)
                    return _Term(name, *args)

                return call

        names = (*(a.name for a in self.inputs), *self.params)
        return repr(self.body(Calls())(*map(_Term, names))), used

    def __repr__(self) -> str:
        return f"<kernel {self.symbol}>"


@cache
def kernel_of(op: Op, kind: str, dtype: str) -> KernelSpec:
    """The kernel of a kind of an activation.

    Raises
    ------
    ValueError
        If the activation has no kernel of that kind.
    """
    if not kinds.has(op, kind):
        raise ValueError(f"{op.name} has no kernel of kind {kind!r}")
    inputs, params, outputs = ALL[kind].inputs, tuple(p.name for p in op.params), kinds.outputs_of(op, kind)
    return KernelSpec(f"{op.name}_{kind}", dtype, "map", inputs, params, outputs, op, kind)


@cache
def row_kernel_of(name: str, dtype: str, form: str = "") -> KernelSpec:
    """The kernel over rows of a name in `ROWS`, for float32 or float64, in one of its forms."""
    row, suffix = ROWS[name], f"_{form}" if form else ""
    return KernelSpec(name + suffix, dtype, row.loop + suffix, row.inputs, (), row.outputs, sign=row.sign, form=form)


def row_kernels_of(name: str, dtype: str) -> list[KernelSpec]:
    """The same in all its forms."""
    return [row_kernel_of(name, dtype, form) for form in ROWS[name].forms]


@cache
def rule_kernel_of(rule: Rule, dtype: str) -> KernelSpec:
    """The kernel of a step of an optimiser, for float32 or float64."""
    return KernelSpec(rule.name, dtype, "map", rule.inputs, rule.params, rule.outputs, rule=rule)


# ---- what a kernel is made of


class _Term:
    """A value in the body of a kind: what was done, with which values."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __repr__(self) -> str:
        return f"({' '.join(map(str, self.parts))})"

    def __neg__(self) -> _Term:
        return _Term("-", self)


def _operator(sign: str, swapped: bool = False) -> Any:
    return lambda a, b: _Term(sign, b, a) if swapped else _Term(sign, a, b)


for _name, _sign in (("add", "+"), ("sub", "-"), ("mul", "*"), ("truediv", "/")):
    setattr(_Term, f"__{_name}__", _operator(_sign))
    setattr(_Term, f"__r{_name}__", _operator(_sign, swapped=True))


@cache
def _loops() -> dict[str, Any]:
    loops = import_module("fastact.loops")
    return {**loops.functions(), **loops.constants()}


def _reached(roots: Iterable[FunctionType], names: Mapping[str, Any]) -> dict[str, str]:
    """What functions use, directly or not, among `names`: name to code or value."""
    found: dict[str, str] = {}
    todo: list[tuple[str, Any]] = [(root.__name__, root) for root in roots]
    while todo:
        name, thing = todo.pop()
        if name in found:
            continue
        if not isinstance(thing, FunctionType):
            found[name] = repr(thing)
            continue
        found[name] = _text(thing.__code__)
        # `total__product` is the template `total` over the formula `product`
        used = {part for called in _names(thing.__code__) for part in called.split("__")}
        todo += [(n, names[n]) for n in sorted(used) if n in names]
    return found


def _code(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)


def _names(code: CodeType) -> set[str]:
    return {name for part in _code(code) for name in part.co_names}


def _text(code: CodeType) -> str:
    """What a function does, without its docstring and where it stands."""
    doc = code.co_consts[0] if code.co_consts and isinstance(code.co_consts[0], str) else None
    parts = []
    for part in _code(code):
        constants = [repr(c) for c in part.co_consts if not isinstance(c, CodeType) and (c is not doc or doc is None)]
        parts.append((part.co_code.hex(), constants, part.co_names, part.co_varnames, part.co_argcount))
    return repr(parts)
