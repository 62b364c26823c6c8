"""One case per function, kind, size and library: ``pytest benchmarks --benchmark-group-by=group``.

Activations come from ``fastact.spec.table.OPS``, libraries and their ways from ``fastact.tools.peers``: what is in the
table is measured here; of fused functions, those of ``bench.FUSED``, of optimisers Adam. A library without the
activation, or not installed, is a skip that says so.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from fastact.spec.table import OPS
from fastact.tools import attention, bench, optimisers
from fastact.tools.peers import HOW, PEERS, Cell, Peer

SIZES = (2**10, 2**20)
FUSED_SIZES = (2**16, 2**20)
CELLS = [
    (op, kind, size)
    for op in (
        *bench.ROWS,
        bench.DROPOUT,
        *(name for name, row in OPS.items() if all(p.default is not None for p in row.params)),
    )
    for kind in bench.KINDS
    for size in SIZES
] + list(itertools.product(bench.FUSED, bench.FUSED_KINDS, FUSED_SIZES))
CELLS += list(itertools.product(attention.OPS, bench.KINDS, FUSED_SIZES))
CELLS += [("adam", "update", size) for size in FUSED_SIZES] + [("adam_mlp", "update", optimisers.MLP_SIZE)]


@functools.cache
def library(name: str) -> Peer | str:
    """A library ready to run, or why it cannot."""
    if name == "fastact":
        return bench.FastAct(bench.THREADS)
    loaded, missing = bench.load_peers([name], bench.THREADS)
    return loaded[0] if loaded else missing[name]


@functools.lru_cache(maxsize=1)
def cell(op: str, kind: str, size: int) -> Cell:
    return next(bench.cells([op], [kind], [size], np.dtype("float32")))


@pytest.fixture(autouse=True)
def confined() -> Iterator[None]:
    with bench.confined(bench.THREADS), np.errstate(all="ignore"):
        yield


@pytest.mark.parametrize("name", ["fastact", *PEERS])
@pytest.mark.parametrize(("op", "kind", "size"), CELLS, ids=lambda value: str(value))
def test_speed(benchmark, op: str, kind: str, size: int, name: str) -> None:
    known = (
        optimisers.FORMS
        if kind == "update"
        else attention.FORMS
        if op in attention.OPS
        else HOW.get(op.partition(".")[0], {})
    )
    if name != "fastact" and not any(key.startswith(name) for key in known):
        pytest.skip(f"{name} has no {op}")
    found = library(name)
    if isinstance(found, str):
        pytest.skip(found)
    where = cell(op, kind, size)
    forms = attention.forms_of(found, where)
    timed = {form: bench.Timed(call, functools.partial(found.mode, form)) for form, call in forms.items()}
    if not timed:
        pytest.skip(f"{name} has no {op} {kind}")
    for form, t in timed.items():
        for memory in where.results:
            memory[...] = np.nan
        if isinstance(where, optimisers.UpdateCell):
            where.reset()
        with t.mode():
            problem = bench.wrong(t.call(), where)
        assert problem is None or name != "fastact", problem
        if problem is not None:
            pytest.skip(f"{form}: {problem}")
        t.trial()
    form = min(timed, key=lambda key: timed[key].seconds[0])
    benchmark.group = f"{op} {kind} {bench.size_text(size)}"
    benchmark.extra_info["form"] = form
    bench.settle()
    with timed[form].mode():
        benchmark(timed[form].call)
    found.finish()
