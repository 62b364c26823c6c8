"""Runs kernels of a ``map`` over (outer, channel, inner), in the form that arrays allow, and combines their sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastact.backends.cuda import columns, launch, maps, sums
from fastact.backends.cuda.array import DeviceArray
from fastact.backends.cuda.columns import CHAINS, PIECE, ROWS, SEGMENT
from fastact.backends.cuda.dtypes import SIZES
from fastact.backends.cuda.launch import Launch
from fastact.backends.cuda.maps import Random
from fastact.runtime._driver import side_by_side
from fastact.spec.kernel import KernelSpec

Value = float | DeviceArray
# (shape, dtype) to memory of the call
Scratch = Callable[[tuple[int, ...], str], DeviceArray]


@dataclass
class Job:
    """One call.

    Attributes
    ----------
    spec : KernelSpec
    values : sequence of float or DeviceArray
        Of inputs, without random ones, and parameters.
    roles : str
        Of each: ``a`` an array of the shape of the outputs; ``c`` a view of that shape of `channel` values in the dtype
        of the kernel that lie side by side; ``v`` a number, or one value in memory of the device in that dtype.
    outputs : sequence of DeviceArray
        In the dtype of the kernel; not what another argument has at another place.
    shape : tuple of int
        (outer, channel, inner), a view of the outputs' shape.
    scratch : callable
    stream : int
    sums : sequence of DeviceArray
        Where sums go: contiguous, of `channel` elements.
    random : tuple, optional
        What random numbers need.
    """

    spec: KernelSpec
    values: Sequence[Value]
    roles: str
    outputs: Sequence[DeviceArray]
    shape: tuple[int, int, int]
    scratch: Scratch
    stream: int
    sums: Sequence[DeviceArray] = ()
    random: Random | None = None

    @property
    def device(self) -> int:
        """Where it runs."""
        return (self.outputs or self.sums or self.arrays)[0].device

    @property
    def arrays(self) -> list[DeviceArray]:
        """The inputs and parameters of role ``a``."""
        return [a for a, role in zip(self.values, self.roles) if role == "a" and isinstance(a, DeviceArray)]


def run(job: Job) -> None:
    """Run a kernel of a ``map``; nothing lies in an array of no elements, and its sums are 0."""
    outer, channel, inner = job.shape
    size = outer * channel * inner
    if job.sums:
        if not size:
            work = job.scratch((2,), job.spec.compute)
            _combined(job, work.address, 0, 0, 0, 0, channel)
        elif inner == 1:
            _column_sums(_straightened(job, side_by_side(channel) > 1))
        else:
            _segment_sums(_straightened(job, False))
        return
    if size and not _is_plain(job):
        steps = _row_steps(job)
        if steps is not None:
            _columns(job, steps)
            return
    nin = len(job.values) - len(job.spec.params)
    shape = job.outputs[0].shape
    values = [v.broadcast_to(shape) if isinstance(v, DeviceArray) else v for v in job.values]
    maps.run(job.spec, values[:nin], values[nin:], job.outputs, job.stream, random=job.random)


def form(job: Job) -> str:
    """The form that serves a job."""
    if job.sums:
        return "column_sums" if job.shape[2] == 1 else "segment_sums"
    if not _is_plain(job):
        return "columns" if _row_steps(job) is not None else "strided"
    return "vector"


def _is_plain(job: Job) -> bool:
    """Whether the form ``vector`` takes it."""
    alone = all(isinstance(v, DeviceArray) == (role == "a") for v, role in zip(job.values, job.roles))
    return alone and maps.is_plain([*job.arrays, *job.outputs], job.spec.dtype)


def _row_step(a: DeviceArray, shape: tuple[int, int, int]) -> int | None:
    """The bytes from row to row of an array, whose rows must be contiguous; None where there is no such step."""
    outer, channel, inner = shape
    view = a.reshape(shape)
    if view is None:
        return None
    high, middle, low = view.strides
    if inner == 1:
        return high if channel == 1 or middle == a.itemsize else None
    if low != a.itemsize:
        return None
    if outer == 1:
        return middle
    return high if channel == 1 else middle if high == channel * middle else None


def _row_steps(job: Job) -> list[int] | None:
    """Those of all arrays, inputs before outputs; None where one of them does not lie so."""
    found = []
    for a in (*job.arrays, *job.outputs):
        step = _row_step(a, job.shape) if a.dtype == job.spec.dtype else None
        if step is None:
            return None
        found.append(step)
    return found


def _straightened(job: Job, flat: bool) -> tuple[Job, list[int], list[tuple[DeviceArray, DeviceArray]]]:
    """The job with copies of what does not lie in rows, `flat` not contiguous; its steps; what to copy afterwards."""

    def straight(a: DeviceArray) -> bool:
        lies = a.is_contiguous if flat else _row_step(a, job.shape) is not None
        return a.dtype == job.spec.dtype and lies

    values: list[Value] = []
    for a, role in zip(job.values, job.roles):
        if role == "a" and isinstance(a, DeviceArray) and not straight(a):
            copied = job.scratch(a.shape, job.spec.dtype)
            maps.copy(a, copied, job.stream)
            a = copied
        values.append(a)
    outputs = [y if straight(y) else job.scratch(y.shape, job.spec.dtype) for y in job.outputs]
    after = [(own, y) for own, y in zip(outputs, job.outputs) if own is not y]
    made = Job(job.spec, values, job.roles, outputs, job.shape, job.scratch, job.stream, job.sums, job.random)
    steps = _row_steps(made)
    assert steps is not None
    return made, steps, after


def _word(job: Job, width: int, steps: Sequence[int], rows: int) -> int:
    """The elements of a word of rows of so many: 16 bytes where addresses and lengths allow it."""
    size = SIZES[job.spec.dtype]
    full = 16 // size
    counts = [c for c in (8, 4, 2, 1) if c <= full]
    if job.random is not None:
        # blocks of random numbers are not divided
        counts = [max(full, 4), *([4] if full > 4 else []), 1]
    arrays = [*job.arrays, *job.outputs]
    for count in counts:
        step = min(16, count * size)
        aligned = all(a.address % step == 0 and (rows == 1 or s % step == 0) for a, s in zip(arrays, steps))
        if aligned and width % count == 0:
            return count
    return 1


def _letters(job: Job, count: int, along: bool, repeated: bool) -> str:
    """The roles of arguments as `columns` has them; `along`: values of the axis lie along a row."""
    found = []
    aligned = min(16, count * SIZES[job.spec.dtype])
    for a, role in zip(job.values, job.roles):
        if role == "c" and isinstance(a, DeviceArray):
            whole = count > 1 and not repeated and a.address % aligned == 0
            role = "h" if not along else "C" if whole else "c"
            if job.shape[1] == 1:
                role = "o"
        elif role == "v" and isinstance(a, DeviceArray):
            role = "o"
        elif role == "a" and not isinstance(a, DeviceArray):
            role = "v"
        found.append(role)
    return "".join(found)


def _slots(job: Job, steps: Sequence[int], sizes: Sequence[int]) -> tuple[float, ...]:
    pointers = [a.address for a in job.values if isinstance(a, DeviceArray)] + [y.address for y in job.outputs]
    numbers = [float(a) for a in job.values if not isinstance(a, DeviceArray)]
    return (*pointers, *steps, *sizes, *numbers, *maps.random_slots(job.spec, job.random))


def _launch(job: Job, blocks: int, block: int, side: int = 1) -> Launch:
    return Launch(job.device, job.stream, (blocks, side), block)


def _columns(job: Job, steps: list[int]) -> None:
    outer, channel, inner = job.shape
    along = inner == 1
    total, width, copies = outer * channel * inner, channel if along else inner, 1
    if along and all(a.is_contiguous for a in (*job.arrays, *job.outputs)):
        # as many rows side by side as make whole words, and enough of them for a warp
        copies = side_by_side(channel)
        copies *= 16 // math.gcd(copies * channel, 16)
        width *= copies
        steps = [width * SIZES[job.spec.dtype]] * len(steps)
    rows = -(-total // width)
    count = _word(job, width, steps, rows)
    letters = _letters(job, count, along, copies > 1)
    pieces = width // count
    threads = -(-rows // columns.rows_of(count)) * pieces
    key = job.spec, "columns", letters, count, copies > 1
    slots = _slots(job, steps, (width, pieces, total, channel))
    where = _launch(job, -(-threads // columns.BLOCK), columns.BLOCK)
    launch.run(key, lambda: columns.columns(job.spec, letters, count, copies > 1), where, slots)


def _column_sums(straight: tuple[Job, list[int], list[tuple[DeviceArray, DeviceArray]]]) -> None:
    job, steps, after = straight
    outer, channel, _ = job.shape
    copies, nsum, size = side_by_side(channel), len(job.sums), SIZES[job.spec.compute]
    total, width = outer * channel, channel * copies
    rows = -(-total // width)
    if copies > 1:
        steps = [width * SIZES[job.spec.dtype]] * len(steps)
    count = _word(job, width, steps, rows)
    letters = _letters(job, count, True, copies > 1)
    strips, blocks = -(-width // (columns.sums_lanes(count) * count)), -(-rows // ROWS)
    work = job.scratch((blocks * nsum * 2 * width,), job.spec.compute)
    slots = _slots(job, steps, (width, strips, total, channel, work.address))
    where = _launch(job, blocks * strips, columns.sums_lanes(count) * columns.QUADS)
    key = job.spec, "column_sums", letters, count, copies > 1
    launch.run(key, lambda: columns.column_sums(job.spec, letters, count, copies > 1), where, slots)
    low, between = width * size, 2 * width * size
    if copies == 1:
        _combined(job, work.address, low, between, blocks, nsum * between, channel)
    else:
        if blocks > 1:
            _combined(job, work.address, low, between, blocks, nsum * between, width, pairs=True)
        _combined(job, work.address, low, between, copies, channel * size, channel)
    _copied(job, after)


def _segment_sums(straight: tuple[Job, list[int], list[tuple[DeviceArray, DeviceArray]]]) -> None:
    job, steps, after = straight
    outer, channel, inner = job.shape
    nsum, size, compute = len(job.sums), SIZES[job.spec.compute], job.spec.compute
    rows, total, pieces = outer * channel, outer * channel * inner, -(-inner // PIECE)
    count, quads = _word(job, inner, steps, rows), columns.segment_quads(inner)
    letters = _letters(job, count, False, False)
    lanes, folded = columns.segment_lanes(count, quads), columns.folds(inner, count)
    units = rows * pieces * (CHAINS // (lanes * count))
    side = columns.SEGMENT_BLOCK // (lanes * quads)
    work = job.scratch((nsum * 2 * rows * (1 if folded else pieces * CHAINS),), compute)
    slots = _slots(job, steps, (inner, pieces, units, channel, total, work.address))
    key = job.spec, "segment_sums", letters, count, quads, folded
    where = _launch(job, -(-units // side), columns.SEGMENT_BLOCK)
    launch.run(key, lambda: columns.segment_sums(job.spec, letters, count, quads, folded), where, slots)
    segments = -(-inner // SEGMENT)
    if not folded:
        found = job.scratch((nsum * 2 * rows * segments,), compute)
        side = sums.FOLD_BLOCK // CHAINS
        where = _launch(job, -(-rows * segments // side), sums.FOLD_BLOCK, nsum)
        given = (work.address, pieces, segments, rows * segments, rows * pieces, channel, found.address)
        launch.run(("fold", compute), lambda: sums.fold_segments(compute), where, given)
        work = found
    low = rows * segments * size
    _combined(job, work.address, low, 2 * low, outer * segments, channel * size, channel)
    _copied(job, after)


def _combined(job: Job, work: int, low: int, between: int, blocks: int, step: int, n: int, pairs: bool = False) -> None:
    """Pairs to the sums of the job, or to one pair for each column in the place of the first."""
    if not n:
        return
    dtypes = () if pairs else tuple(y.dtype for y in job.sums)
    to = [work] if pairs else [y.address for y in job.sums]
    where = _launch(job, -(-n // sums.COMBINE_COLUMNS), sums.COMBINE_BLOCK, len(job.sums))
    key = "combine", job.spec.compute, dtypes
    launch.run(key, lambda: sums.combine(key[1], dtypes), where, (work, low, between, blocks, step, n, *to))


def _copied(job: Job, after: list[tuple[DeviceArray, DeviceArray]]) -> None:
    for source, target in after:
        maps.copy(source, target, job.stream)


def total(values: DeviceArray, to: DeviceArray, scratch: Scratch, stream: int) -> None:
    """The sum of a contiguous array, pairwise in float64, to one element."""
    depth = sums.levels(values.size)
    work = scratch((2 << depth,), "float64")
    where = Launch(to.device, stream, (1, 1), sums.PAIRWISE_BLOCK)
    key = "pairwise", values.dtype, to.dtype
    slots = values.address, values.size, depth, work.address, to.address
    launch.run(key, lambda: sums.pairwise(key[1], key[2]), where, slots)
