"""Runs row functions over arrays on a device, in the form that they allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache, partial

from fastact.backends.cuda import launch
from fastact.backends.cuda.array import DeviceArray, collapsed
from fastact.backends.cuda.compile import Kernel
from fastact.backends.cuda.dtypes import SIZES
from fastact.backends.cuda.launch import Launch
from fastact.backends.cuda.row_functions import FUNCTIONS
from fastact.backends.cuda.rows import BYTES, MOST_SUMS, MOST_WIDTH, WARP, Form, Rows
from fastact.backends.cuda.sums import COMBINE_BLOCK, COMBINE_COLUMNS
from fastact.backends.cuda.sums import combine as sums_of_pairs
from fastact.spec.kernel import KernelSpec, kernel_of
from fastact.spec.table import Op

# words of a thread, of all arrays, up to which a team is made larger instead: 65536 rows of 4096 on an H100, softmax of
# bfloat16 0.358 ms with 4 or 8 words (a copy 0.360), 0.371 with 2, 0.543 with 1; of float32 0.713 with 4, 0.786 with 2
COMFORT = 4
# of 16 bits, 8 in a word, twice that where a team puts so many numbers together: layer_norm 0.365 instead of 0.387 ms
MANY, HALVES = 5, 8
# the largest team whose registers hold a row: with 1024 threads there are 64 registers for each
LARGEST = 512
# words of a thread, of all arrays, that its registers hold. Cross-entropy with its gradient, 8192 rows, H100: of 50,257
# bfloat16 with 13 words 1.03 ms, one block on a multiprocessor; in shared memory, two blocks, 0.71; read anew 0.81. Of
# 32,000 float32 with 16 words 1.38, in shared memory, one block, 1.30, read anew 1.02
MOST_WORDS = 8
STEPS = (1, 2, 3, 4, 6, 8)
# threads for a row in shared memory, of which there are two on a multiprocessor; for one that is read anew, of a single
# array (512 read 32,000 float32 anew in 1.37 ms: two blocks are more than the second-level cache holds); for a part
TEAM_OF_SHARED = 512
TEAM_OF_LONG = 1024
TEAM_OF_PART = 256
# bytes of a block's shared memory that sums are exchanged through, and what CUDA takes
EXCHANGED = 4 * 1024
# rows that are fewer than this and longer than PART elements are cut into parts
FEW = 64
PART = 32768
# where no row is gone over
ROWS_ALONE = Form("registers", WARP)


def alignment(arrays: list[DeviceArray], n: int) -> tuple[int, bool] | None:
    """Elements of a word in which rows can be read, and whether rows begin or end within one; None: they cannot be."""
    size = arrays[0].itemsize
    count = BYTES // size
    offset = arrays[0].address % BYTES
    strides = [s for a in arrays for s in a.strides[:-1]]
    if any(a.address % BYTES != offset or a.address % size for a in arrays) or count == 1:
        return None
    lines = {tuple(s % BYTES for s in a.strides[:-1]) for a in arrays}
    if len(lines) > 1 or any(s % size for s in strides):
        return None
    return count, bool(offset or n % count or any(s % BYTES for s in strides))


def form_of(arrays: list[DeviceArray], rows: int, n: int, held: int, parts: bool = True, numbers: int = 1) -> Form:
    """The form in which rows are computed.

    Parameters
    ----------
    arrays : list of DeviceArray
        Whose elements are read and written, as (outer, inner, n).
    rows, n : int
    held : int
        How many arrays are read.
    parts : bool
        Whether rows may be cut into parts.
    numbers : int
        How many a team puts together from all its threads.
    """
    found = alignment(arrays, n)
    count, edges = found if found is not None else (1, False)
    words = max(1, -(-n // count))
    # rows that are only written are cut like those that are read
    reads, held = held > 0, max(1, held)
    if parts and rows <= FEW and n > PART:
        return Form("parts", TEAM_OF_PART, 0, count, edges)
    team, comfort = WARP, COMFORT * (2 if numbers >= MANY and count == HALVES else 1)
    while team < LARGEST and -(-words // team) * held > comfort:
        team *= 2
    per_thread = -(-words // team)
    if per_thread * held <= MOST_WORDS:
        return Form("registers", team, next(s for s in STEPS if s >= per_thread), count, edges)
    team = TEAM_OF_SHARED
    room = launch.shared_bytes(arrays[0].device) // 2 - EXCHANGED
    if reads and count > 1 and -(-words // team) * team * BYTES * held <= room:
        return Form("shared", team, 0, count, edges)
    return Form("again", TEAM_OF_LONG if held == 1 else LARGEST, 0, count, edges)


def seen_as_rows(arrays: Mapping[str, DeviceArray], lead: tuple[int, ...]) -> tuple[dict[str, DeviceArray], int] | None:
    """Arrays of dimensions `lead` and perhaps one more, with two dimensions in its place; None where they need more.

    Also how many rows the inner one of both has.
    """
    lengths, strides = collapsed(lead, [a.strides[: len(lead)] for a in arrays.values()])
    if len(lengths) > 2:
        return None
    if len(lengths) == 1:
        lengths, strides = [1, *lengths], [[0, *s] for s in strides]
    found = {}
    for (name, a), own in zip(arrays.items(), strides):
        shape, steps = (*lengths, *a.shape[len(lead) :]), (*own, *a.strides[len(lead) :])
        found[name] = DeviceArray(a.address, shape, steps, a.dtype, a.device, a.owner, a.writeable)
    return found, lengths[1]


def run(
    spec: KernelSpec,
    maps: Mapping[str, DeviceArray],
    rows: Mapping[str, DeviceArray],
    columns: Mapping[str, DeviceArray],
    scalars: Mapping[str, float],
    stream: int,
    scratch: Callable[[tuple[int, ...], str], DeviceArray],
    traits: frozenset[str] = frozenset(),
    queries: int = 0,
    divisor: DeviceArray | None = None,
    then: Op | None = None,
) -> None:
    """Run a row function.

    Parameters
    ----------
    spec : KernelSpec
        Of the dtype in memory.
    maps : mapping
        Inputs and outputs of one shape whose last dimension is contiguous, and ``mask``.
    rows : mapping
        Inputs and outputs with an element for each row, of that shape without the last dimension.
    columns : mapping
        Contiguous inputs with an element for each column.
    scalars : mapping
    stream : int
    scratch : callable
        Memory of a shape and dtype.
    traits : frozenset of str
        What the kernel heeds besides the arrays that there are.
    queries : int
        Of a causal mask: after so many rows it begins anew.
    divisor : DeviceArray, optional
        A number on the device that the factor is divided by.
    then : Op, optional
        An activation of the result; `scalars` has its parameters as ``then_0``, ``then_1``, …
    """
    first = next(iter(maps.values()))
    *lead, n = first.shape
    count = math.prod(lead)
    if not count or not n:
        return
    views, inner = _seen({**maps, **rows}, tuple(lead))
    elements = [views[a.name] for a in (*spec.inputs, *spec.outputs) if a.role == "map" and a.name in maps]
    held = sum(a.role == "map" and a.name in maps for a in spec.inputs)
    given = frozenset([*views, *columns, *traits, *(["divisor"] if divisor is not None else [])])
    if elements:
        # a part of a row is read when another one has been written
        apart = not any(a.may_share_memory(b) for i, a in enumerate(elements) for b in elements[:i])
        numbers = _numbers(spec, given, tuple(scalars), then)
        form = form_of(elements, count, n, held, apart and spec.loop != "sparsemax", numbers)
    else:
        form = ROWS_ALONE
    launch_rows(
        spec, form, given, views, columns, scalars, count, inner, n, stream, scratch, queries, divisor, None, then
    )  # fmt: skip


def run_of_rows(
    spec: KernelSpec,
    rows: Mapping[str, DeviceArray],
    columns: Mapping[str, DeviceArray],
    scalars: Mapping[str, float],
    stream: int,
    scratch: Callable[[tuple[int, ...], str], DeviceArray],
    traits: frozenset[str],
) -> None:
    """Run a function of what rows have one of, which goes over no row."""
    first = next(iter(rows.values()))
    if first.size:
        views, inner = _seen(rows, first.shape)
        given = frozenset([*views, *columns, *traits])
        launch_rows(spec, ROWS_ALONE, given, views, columns, scalars, first.size, inner, 0, stream, scratch, 0, None)


def run_with_sums(
    spec: KernelSpec,
    maps: Mapping[str, DeviceArray],
    rows: Mapping[str, DeviceArray],
    columns: Mapping[str, DeviceArray],
    sums: Mapping[str, DeviceArray],
    scalars: Mapping[str, float],
    stream: int,
    scratch: Callable[[tuple[int, ...], str], DeviceArray],
    then: Op | None = None,
    traits: frozenset[str] = frozenset(),
) -> None:
    """Run a row function that has sums over rows besides, one for each column.

    Parameters are those of `run`, and `sums`, contiguous, in any floating dtype.
    """
    if not sums:
        return run(spec, maps, rows, columns, scalars, stream, scratch, traits, then=then)
    first = next(iter(maps.values()))
    *lead, n = first.shape
    count = math.prod(lead)
    views, inner = _seen({**maps, **rows}, tuple(lead))
    elements = [views[a.name] for a in (*spec.inputs, *spec.outputs) if a.role == "map" and a.name in maps]
    held = sum(a.role == "map" and a.name in maps for a in spec.inputs)
    found = alignment(elements, n)
    # a thread stays in its columns: rows must begin alike
    per_word = found[0] if found is not None and not found[1] else 1
    words, most = -(-n // per_word), MOST_COLUMNS[spec.compute]
    down = rows_down(count)
    blocks = -(-count // down)
    given = frozenset([*views, *columns, *sums, *traits])
    pairs = scratch((blocks, len(sums), 2, n), spec.compute)
    team = WARP
    while team < LARGEST and -(-words // team) * per_word > most:
        team *= 2
    per_thread = -(-words // team)
    if per_thread * per_word <= most:
        form = Form("registers", team, per_thread, per_word, down=down)
        launch_rows(spec, form, given, views, columns, scalars, count, inner, n, stream, scratch, 0, None, pairs, then)
    else:
        # longer rows are read twice, and the second time written, perhaps in their place
        form = Form("registers", 128, 1, per_word, down=down, tiles=max(2, -(-words // 128)))
        launch_rows(spec, form, given, views, columns, scalars, count, inner, n, stream, scratch, 0, None, pairs, then)
        own = given - set(sums)
        form = form_of(elements, count, n, held, parts=False)
        launch_rows(spec, form, own, views, columns, scalars, count, inner, n, stream, scratch, 0, None, None, then)
    _combine(pairs, blocks, n, list(sums.values()), spec.compute, stream)


# rows that a block of sums goes down at most: with fewer rows, less, so that there are blocks for all multiprocessors
DOWN = 64
BLOCKS = 1024
# columns of a thread whose sums it keeps, two numbers for each of two sums, by the dtype it computes in. 65536 x 4096,
# H100, with 32 and with 16: gradients of layer_norm of float32 1.19 (24 bytes are spilled) and 1.42 ms, of bfloat16
# 0.94 and 1.31, of rms_norm 1.13 and 1.14, 0.68 and 0.75. With 16 of float32, weights from the cache and the next row
# read ahead: 1.79 and 1.30
MOST_COLUMNS = {"float32": 32, "float64": 8}


def rows_down(count: int) -> int:
    """Rows that a block of sums goes down: by their number alone, so that sums have the same bits on every device."""
    return max(4, min(DOWN, 1 << max(0, (count // BLOCKS).bit_length())))


def _combine(pairs: DeviceArray, blocks: int, n: int, outs: list[DeviceArray], compute: str, stream: int) -> None:
    """Adds the sums of blocks, in their order; `pairs` are (blocks, sums, 2, n)."""
    size, dtypes = SIZES[compute], tuple(a.dtype for a in outs)
    where = Launch(pairs.device, stream, (-(-n // COMBINE_COLUMNS), len(outs)), COMBINE_BLOCK)
    row = n * size
    slots = pairs.address, row, 2 * row, blocks, 2 * len(outs) * row, n, *(a.address for a in outs)
    launch.run(("combine", compute, dtypes), lambda: sums_of_pairs(compute, dtypes), where, slots)


def _seen(arrays: Mapping[str, DeviceArray], lead: tuple[int, ...]) -> tuple[dict[str, DeviceArray], int]:
    found = seen_as_rows(arrays, lead)
    if found is None:
        raise ValueError("rows of more than two dimensions")  # callers see to that
    return found


def launch_rows(
    spec: KernelSpec, form: Form, given: frozenset[str], views: Mapping[str, DeviceArray],
    columns: Mapping[str, DeviceArray], scalars: Mapping[str, float], count: int, inner: int, n: int, stream: int,
    scratch: Callable[[tuple[int, ...], str], DeviceArray], queries: int, divisor: DeviceArray | None,
    pairs: DeviceArray | None = None, then: Op | None = None,
) -> None:  # fmt: skip
    """Launches the kernel of a form, or one for each phase."""
    device = next(iter(views.values())).device
    names = tuple(scalars)
    parts, workspace, phases = 1, None, 0
    if form.memory == "parts":
        parts = -(-n // PART)
        workspace = scratch((count * parts * MOST_SUMS * MOST_WIDTH,), "float64")
        phases = _phases(spec, form, given, names, then)
    for phase in range(phases + 1):
        form = form._replace(phase=phase)
        writer = _writer(spec, form, given, names, then)
        grid = -(-count // (form.down or writer.rows_of_block)) * parts * form.tiles
        slots: list[float] = [count, inner, n]
        for name in writer.by_row():
            slots += [views[name].address, *views[name].strides[:2]]
        slots += [columns[name].address for name in writer.columns]
        if pairs is not None:
            slots.append(pairs.address)
        if writer.causal:
            slots.append(queries)
        if divisor is not None:
            slots.append(divisor.address)
        if workspace is not None:
            slots += [parts, workspace.address]
        slots += scalars.values()
        shared = 0
        if form.memory == "shared":
            words = -(-n // form.lanes)
            shared = -(-words // form.team) * form.team * BYTES * len(writer.maps)
        where = Launch(device, stream, (grid, 1), writer.block, shared)
        key = spec, form, tuple(sorted(given)), names, then and kernel_of(then, "value_and_grad", spec.compute)
        launch.run(key, partial(_written, spec, form, given, names, then), where, tuple(slots))


# what a kernel takes, asked of a writer that writes nothing: to make one took 0.1 ms of each launch, to count 1 ms
_writer = cache(Rows)


@cache
def _numbers(spec: KernelSpec, given: frozenset[str], scalars: tuple[str, ...], then: Op | None) -> int:
    writer = Rows(spec, ROWS_ALONE, given, scalars, then)
    writer.kernel(FUNCTIONS[spec.loop])
    return writer.numbers


@cache
def _phases(spec: KernelSpec, form: Form, given: frozenset[str], scalars: tuple[str, ...], then: Op | None) -> int:
    return Rows(spec, form, given, scalars, then).count_sums(FUNCTIONS[spec.loop])


def _written(spec: KernelSpec, form: Form, given: frozenset[str], scalars: tuple[str, ...], then: Op | None) -> Kernel:
    return Rows(spec, form, given, scalars, then).kernel(FUNCTIONS[spec.loop])
