"""`fastact.explain` for arrays on a GPU: the call is made, but for its launches, and these are told."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from fastact.api.device import is_on_device, view_of
from fastact.backends import cuda
from fastact.backends.cuda import families, launch, lists
from fastact.spec.kernel import compute_dtype
from fastact.spec.optimisers import Rule

# of a form that a key of a kernel names: what it is, and when it serves
FORMS = {
    "vector": "contiguous arrays of one dtype, aligned to 16 bytes: accesses of 16 bytes",
    "columns": "rows of columns: a thread takes a word of columns in several rows",
    "column_sums": "rows of columns and sums over them: blocks of 64 rows",
    "segment_sums": "rows of a channel each and sums along them: blocks of 4096 elements",
    "fold": "adds the sums of the blocks and chains of each segment",
    "pairwise": "the sum over channels of a parameter that they share",
    "strided": "arrays of several dtypes or strides, broadcast, masked or not aligned: one element a thread",
    "table": "16-bit results of one input: read from a table of all 65536",
    "registers": "a row fits the registers of its threads: read once",
    "shared": "a row fits the shared memory of a block: read once",
    "again": "longer rows: read anew for each sum",
    "parts": "few long rows: blocks of their own for parts of a row",
    "list": "one launch for all arrays, which a table on the device places",
    "combine": "adds the sums of blocks in their order",
    "put": "writes the table of addresses; not while arrays stay where they are",
    "squares": "sums of squares of blocks of gradients, in the order of the CPU",
    "norm": "the norm and the factor, on the device",
}

NOTHING = "kernel: none, there is nothing to compute"


def explain(function: Any, arrays: tuple[Any, ...], keywords: Mapping[str, Any]) -> str:
    """Which kernels a call would launch, in which form, grid and block, and why."""
    from fastact.api.activation import Method
    from fastact.api.optimisers import Optimiser, Update

    if isinstance(function, Optimiser):
        step = function._lists.lists
        return _of_step(type(function).__name__, step.rule, step.master, function.params)
    if isinstance(function, Update):
        # its gradient and state need not be given
        (spec,) = function._plan(arrays, keywords).specs
        assert spec.rule is not None
        return _of_step(function.row.name, spec.rule, False, [arrays[0]])
    if isinstance(function, Method):
        # a call with a keyword is none of those that go straight to a launch (device_plain.py)
        keywords = {"out": None, **keywords}
    with launch.planned() as log:
        function(*arrays, **keywords)
    given = [a for a in _flat((*arrays, *keywords.values())) if is_on_device(a)]
    views = list(map(view_of, given))
    largest = max(views, key=lambda v: v.size)
    owner = getattr(function, "__self__", None)
    name = function.__name__ if owner is None else f"{owner.name}.{function.__name__}"
    head = f"{name}, {_count(largest.size)} of {largest.dtype}"
    return "\n".join([head, *_place(given[0]), *_launches(log)])


def _of_step(name: str, rule: Rule, master: bool, params: list[Any]) -> str:
    views = list(map(view_of, params))
    dtype, several = views[0].dtype, f" in {len(views)} arrays" if len(views) > 1 else ""
    head = f"{name} step, {_count(sum(v.size for v in views))} of {dtype}{several}"
    piece = lists.piece_of(compute_dtype(dtype))
    pieces = sum(-(-v.size // piece) for v in views)
    # gradients of the dtype of parameters, without clipping
    kernel = lists.step(rule, dtype, dtype, master, False)
    line = _line("list", kernel.name, (pieces, 1), lists.BLOCK, 0)
    return "\n".join([head, *_place(params[0]), line if pieces else NOTHING])


def _count(n: int) -> str:
    return f"{n} element" + "s" * (n != 1)


def _place(array: Any) -> list[str]:
    family = families.family_of(type(array))
    assert family is not None
    device = view_of(array).device
    return [
        f"backend: cuda (the data is there: {family.name_of(array)})",
        f"isa: {cuda.isa()}",
        f"device: {device}, {cuda.device_name(device)}",
    ]


def _launches(log: Iterable[launch.Planned]) -> list[str]:
    lines = [_line(_form(one.key), one.kernel.name, one.where.grid, one.where.block, one.where.shared) for one in log]
    # the same several times, such as pieces of a table
    found = []
    for line in dict.fromkeys(lines):
        times = lines.count(line)
        found.append(line if times == 1 else f"{line}; {times} times")
    return found or [NOTHING]


def _form(key: Any) -> str:
    for part in key if isinstance(key, tuple) else (key,):
        memory = getattr(part, "memory", part)
        if isinstance(memory, str) and memory in FORMS:
            return memory
    return ""


def _line(form: str, name: str, grid: tuple[int, int], block: int, shared: int) -> str:
    what = f"kernel: {name}"
    if form:
        what += f", form {form} ({FORMS[form]})"
    return f"{what}, grid {math.prod(grid)}, block {block}" + (f", {shared} bytes of shared memory" if shared else "")


def _flat(given: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for a in given:
        found += _flat(a) if isinstance(a, (tuple, list)) else [a]
    return found
