"""What `inspect.signature` and `dir` show of the objects that users hold."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fastact.dispatch import FUSED_STEPS
from fastact.spec.kinds import ALL
from fastact.spec.table import Op

if TYPE_CHECKING:
    from fastact.api.fused import Fused
    from fastact.api.fused_step import FusedStep

_EMPTY = inspect.Parameter.empty
_POSITIONAL = inspect.Parameter.POSITIONAL_ONLY
_BOTH = inspect.Parameter.POSITIONAL_OR_KEYWORD
_NAMED = inspect.Parameter.KEYWORD_ONLY

# with NumPy's defaults
UFUNC_KEYWORDS: dict[str, Any] = {
    "out": None,
    "where": True,
    "casting": "same_kind",
    "order": "K",
    "dtype": None,
    "subok": True,
}

# beside methods of the kinds
_ATTRIBUTES = ("address", "formula", "name", "params", "ufunc")


def shown_names(instance: Any) -> list[str]:
    """For ``__dir__``: attributes for users."""
    return sorted(name for name in {*ALL, *FUSED_STEPS, *_ATTRIBUTES} if hasattr(instance, name))


class Signature:
    """A ``__signature__`` that is made when asked for, by the method `_signature` of an instance."""

    def __get__(self, instance: Any, cls: type) -> inspect.Signature | None:
        # for the class itself, None: inspect goes on to its __init__
        return None if instance is None else instance._signature()


def _made(
    arrays: Iterable[tuple[str, Any]], op: Op, more: dict[str, Any], variants: Any, *, by_position: int
) -> inspect.Signature:
    """Arrays with their defaults, the first ones by position alone; parameters; then keywords."""
    names = {p.name for p in op.params}
    # a parameter may have the name of an array, which is then given by position alone
    found = [
        inspect.Parameter(name + "_" * (name in names), _POSITIONAL if i < by_position else _BOTH, default=default)
        for i, (name, default) in enumerate(arrays)
    ]
    optional = found[-1].default is not _EMPTY
    required = [p.name for p in op.params if p.default is None]
    found += [inspect.Parameter(name, _NAMED if optional else _BOTH) for name in required]
    keywords = {p.name: p.default for p in op.params if p.default is not None}
    if variants is not None:
        keyword, choices = variants
        keywords[keyword] = next(value for value, other in choices.items() if other is None)
    keywords |= more
    found += [inspect.Parameter(name, _NAMED, default=default) for name, default in keywords.items()]
    return inspect.Signature(found)


def of_method(op: Op, kind: str, variants: Any) -> inspect.Signature:
    """Of an activation or one of its elementwise kinds."""
    arrays = [(a.name, _EMPTY) for a in ALL[kind].inputs]
    more = dict(UFUNC_KEYWORDS)
    if len(ALL[kind].outputs) > 1:
        # NumPy takes no None for several
        more["out"] = (None,) * len(ALL[kind].outputs)
    return _made(arrays, op, more, variants, by_position=len(arrays))


def of_fused(fused: Fused) -> inspect.Signature:
    """Of a fused kind."""
    more = {"axis": fused.axis} if fused.takes_axis else {}
    by_position = max((i + 1 for i, name in enumerate(fused.inputs) if name not in fused.by_name), default=0)
    arrays = [(name, _EMPTY) for name in fused.inputs]
    return _made(arrays, fused.op, {**more, "out": None}, fused.activation.variants, by_position=by_position)


def of_step(step: FusedStep) -> inspect.Signature:
    """Of ``fused`` and ``fused_backward``."""
    more: dict[str, Any] = {}
    for p in inspect.signature(type(step).__call__).parameters.values():
        if p.kind is _NAMED:
            more[p.name] = p.default
        if p.name == "seed":
            more[step.offset_name] = 0
    by_position = max((i + 1 for i, name in enumerate(step.names) if name not in step.by_name), default=0)
    arrays = [(name, None if name == step.names[-1] else _EMPTY) for name in step.names]
    return _made(arrays, step.op, more, step.activation.variants, by_position=by_position)
