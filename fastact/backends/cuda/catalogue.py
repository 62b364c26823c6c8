"""The kernels of `columns` and `sums` over the table, and what their machine code must show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fastact.backends.cuda import columns, sums
from fastact.backends.cuda.columns import CHAINS, QUAD
from fastact.backends.cuda.compile import Kernel
from fastact.backends.cuda.dtypes import FLOATS, SIZES
from fastact.backends.cuda.random import kernel_of_numbers
from fastact.spec.kernel import KernelSpec, kernel_of
from fastact.spec.kinds import ALL, FUSED, has, outputs_of
from fastact.spec.table import OPS, Op, kernel_rows


class Expected(NamedTuple):
    """How many loads and stores of 16 bytes there are at least."""

    loads: int = 0
    stores: int = 0


# kinds that norms of channels are made of
CHANNELS = tuple(name for name in ALL if name.startswith(("moments", "scaled", "normed")))


def roles_of(spec: KernelSpec, column: str) -> str:
    """The roles of inputs and parameters, those along the axis as `column`: of a parameter where it has a gradient."""
    assert spec.op is not None
    given = [a for a in spec.inputs if a.role in ("map", "col")]
    param = column if spec.op.param_grad is not None else "v"
    return "".join("a" if a.role == "map" else column for a in given) + param * len(spec.params)


def of_spec(spec: KernelSpec) -> Iterator[tuple[str, Kernel, Expected]]:
    """The forms of a kernel, in words of 16 bytes and of one element."""
    size = SIZES[spec.dtype]
    word = 16 // size
    random = any(a.role not in ("map", "col") for a in spec.inputs)
    word = max(word, 4) if random else word
    has_sums = any(a.role == "sum_rows" for a in spec.outputs)
    wide = word * size // 16
    for count in (word, 1):
        for column in ("C", "h") if count > 1 else ("c", "h"):
            roles = roles_of(spec, column)
            rows = QUAD if has_sums else columns.rows_of(count)
            each = rows * wide if count > 1 else 0
            written = sum(a.role == "map" for a in spec.outputs)
            expected = Expected(each * roles.count("a"), each * written)
            if not has_sums:
                made = columns.columns(spec, roles, count, False)
            elif column == "h":
                quads = 1 if count == 1 else columns.QUADS
                lanes = columns.segment_lanes(count, quads)
                made = columns.segment_sums(spec, roles, count, quads, lanes * count == CHAINS)
            else:
                made = columns.column_sums(spec, roles, count, False)
            yield made.name, made, expected
    if "C" in roles_of(spec, "C"):
        make = columns.column_sums if has_sums else columns.columns
        made = make(spec, roles_of(spec, "c"), word, True)
        yield made.name, made, Expected()


def specs() -> Iterator[KernelSpec]:
    """Kernels of fused kinds: all rows of the table, in all dtypes."""
    for kind in (*FUSED, *CHANNELS):
        for op in _rows(kind):
            for dtype in FLOATS:
                yield kernel_of(op, kind, dtype)


def _rows(kind: str) -> list[Op]:
    """The rows of the table with a kind; those of norms alone have no activation."""
    if kind in CHANNELS and not kind.startswith("normed"):
        return [OPS["identity"]]
    return [op for op in kernel_rows() if has(op, kind)]


def sample() -> Iterator[KernelSpec]:
    """Each kind in all dtypes, of one row of the table in turn; all rows with the kind that has most to hold."""
    turn = 0
    for kind in (*FUSED, *CHANNELS):
        rows = _rows(kind)
        for dtype in FLOATS:
            yield kernel_of(rows[turn % len(rows)], kind, dtype)
            turn += 1
    for i, op in enumerate(kernel_rows()):
        yield kernel_of(op, _heaviest(op), FLOATS[i % len(FLOATS)])


def _heaviest(op: Op) -> str:
    return max((kind for kind in FUSED if has(op, kind)), key=lambda kind: len(outputs_of(op, kind)))


def kernels(every: bool = False) -> Iterator[tuple[str, Kernel, Expected]]:
    """Kernels, each once: name, kernel, what it must show. Every one of them, or those of a `sample`."""
    seen = set()
    for name, kernel, expected in _all(every):
        if name not in seen:
            seen.add(name)
            yield name, kernel, expected


def _all(every: bool) -> Iterator[tuple[str, Kernel, Expected]]:
    for spec in specs() if every else sample():
        yield from of_spec(spec)
    for dtype in FLOATS:
        for kind in ("forward", "backward"):
            for op in kernel_rows():
                if op.param_grad is not None:
                    yield from of_spec(kernel_of_numbers(kernel_of(op, kind, dtype)))
    for compute in ("float32", "float64"):
        for kernel in (
            sums.combine(compute, ()),
            sums.combine(compute, (compute, compute)),
            *(sums.combine(compute, (dtype,)) for dtype in FLOATS),
            *(sums.pairwise(compute, dtype) for dtype in FLOATS),
            sums.fold_segments(compute),
        ):
            yield kernel.name, kernel, Expected()
