"""Kernels of a ``map`` over rows: with values for a column or a row, rows that lie apart, sums over rows.

=================  =================================================================================================
``columns``        each element by itself; a thread takes a word of columns in two or four rows
``column_sums``    the same, and the sums over blocks of 64 rows: the quads of a block are computed by threads of one
                   block and added up in their order, in shared memory
``segment_sums``   the sums along rows, which are one channel's elements each: the same over 64 chains of a row
=================  =================================================================================================

The order of additions is that of every backend (docs/design.md, 'Sums'). What blocks sum up goes to memory as pairs;
`sums` has the kernels that combine it.

What an argument is, by a letter: ``a`` an element of each row and column; ``c`` one of each column, ``C`` the same at
addresses aligned for whole words; ``h`` one of each row, which rows take in turn; ``o`` one value in memory of the
device; ``v`` a number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fastact.backends.cuda.compile import Kernel
from fastact.backends.cuda.dtypes import SIZES
from fastact.backends.cuda.elementwise import Writer
from fastact.backends.cuda.trace import Trace, Value
from fastact.maths.rows import pair_add, two_sum
from fastact.spec.kernel import KernelSpec

# threads of a block, by form
BLOCK, SEGMENT_BLOCK = 256, 256
# rows that a thread takes: added plainly
QUAD = 4
# quads of a block of rows
QUADS = 16
ROWS = QUAD * QUADS
# of a row along which a channel lies: chains, and elements of a block and of a segment
CHAINS = 64
PIECE = ROWS * CHAINS
SEGMENT = 65536


@dataclass(frozen=True)
class Row:
    """One of the rows of a thread.

    Attributes
    ----------
    offset : callable
        The bytes to the word from the beginning of an array, as text, by the array's name.
    at : str
        Where the word begins, of what `limit` counts.
    index : str
        Of its first element, in C order.
    """

    offset: Callable[[str], str]
    at: str
    index: str


@dataclass(frozen=True)
class Shared:
    """A part of the shared memory of a kernel, from an element on."""

    start: int

    def at(self, index: str) -> str:
        """Its element of an index, as text."""
        return f"shared[{self.start} + {index}]"


class Rows:
    """What the kernels have in common: four rows of a thread, loaded together, computed one after the other.

    Parameters
    ----------
    spec : KernelSpec
    roles : str
        Of inputs, without random ones, and parameters.
    count : int
        Elements of a word.
    partial : bool
        Whether a word can end beyond the array.
    """

    def __init__(self, spec: KernelSpec, roles: str, count: int, partial: bool) -> None:
        self.w = Writer(spec)
        self.t: Trace = self.w.trace
        self.spec, self.roles, self.count, self.partial = spec, roles, count, partial and count > 1
        self.size, self.csize = SIZES[spec.dtype], SIZES[spec.compute]
        names = [f"x{j}" for j in range(len(self.w.inputs))] + [f"p{j}" for j in range(len(spec.params))]
        self.role = dict(zip(names, roles, strict=True))
        self.full = self.of("a")
        self.in_memory = [name for name in names if self.role[name] != "v"]
        self.numbers = self.of("v")
        self.outs = [f"y{j}" if a.role == "map" else None for j, a in enumerate(spec.outputs)]
        self.written = [y for y in self.outs if y is not None]
        self.nsum = len(self.outs) - len(self.written)
        # the values of an argument that all rows of the thread have, one for each of the word's columns
        self.values: dict[str, list[Value]] = {}

    def of(self, roles: str) -> list[str]:
        """The arguments of these roles."""
        return [name for name, role in self.role.items() if role in roles]

    @property
    def pointers(self) -> list[str]:
        """The addresses that a kernel takes: of inputs, parameters, outputs."""
        return [*self.in_memory, *self.written]

    @property
    def steps(self) -> list[str]:
        """The bytes from row to row that it takes."""
        return [f"s_{name}" for name in (*self.full, *self.written)]

    def load(self, name: str, text: str) -> Value:
        """An element."""
        return self.t.fresh(f"load_{self.spec.dtype}({name} + ({text}) * {self.size})")

    def prepare(self) -> None:
        """What is one value for all."""
        for name, value in zip(self.numbers, self.w.parameters(self.numbers)):
            self.values[name] = [value] * self.count
        for name in self.of("o"):
            self.values[name] = [self.load(name, "0")] * self.count

    def take_columns(self, repeated: bool) -> None:
        """The values of the columns from `col` on; `repeated`: there are several rows side by side."""
        names = self.of("cC")
        if not names:
            return
        places = [f"col + {m}" for m in range(self.count)]
        if repeated:
            quotient(self.t, "turn", "col", "channel")
            places = [self.t.name() for _ in range(self.count)]
            self.t.line(f"{places[0]} = col - turn * channel")
            for before, place in pairwise(places):
                self.t.line(f"{place} = {before} + 1 if {before} + 1 < channel else 0")
        for name in names:
            if self.role[name] == "C" and not repeated and self.count > 1:
                values = [self.t.name() for _ in range(self.count)]
                dtype = self.spec.dtype
                self.t.line(f"{', '.join(values)} = load_{dtype}_{self.count}({name} + col * {self.size})")
                self.values[name] = [Value(self.t, v) for v in values]
            else:
                self.values[name] = [self.load(name, place) for place in places]

    def _vector(self, text: str) -> str:
        return f"load_{self.spec.dtype}" + (f"_{self.count}" if self.count > 1 else "") + f"({text})"

    def _load_whole(self, row: Row, k: int, loaded: dict[tuple[str, int], list[str]]) -> None:
        for name in self.full:
            self.t.line(f"{', '.join(loaded[name, k])} = {self._vector(f'{name} + {row.offset(name)}')}")

    def _load_some(self, rows: Sequence[Row], limit: str, loaded: dict[tuple[str, int], list[str]]) -> None:
        zero = self.t.value(0.0).name
        for k, row in enumerate(rows):
            for name in self.full:
                self.t.line(f"{' = '.join(loaded[name, k])} = {zero}")
            with self.t.block(f"if {row.at} + {self.count} <= {limit}:"):
                self._load_whole(row, k, loaded)
            if self.partial:
                with self.t.block(f"elif {row.at} < {limit}:"):
                    for name in self.full:
                        for m, value in enumerate(loaded[name, k]):
                            with self.t.block(f"if {row.at} + {m} < {limit}:"):
                                address = f"{name} + {row.offset(name)} + {m * self.size}"
                                self.t.line(f"{value} = load_{self.spec.dtype}({address})")

    def _store(self, y: str, row: Row, limit: str, values: list[Value]) -> None:
        t, dtype, address = self.t, self.spec.dtype, f"{y} + {row.offset(y)}"
        if self.count == 1:
            t.line(f"store_{dtype}({address}, {values[0].name})")
            return
        text = f"store_{dtype}_{self.count}({address}, {', '.join(v.name for v in values)})"
        if not self.partial:
            t.line(text)
            return
        with t.block(f"if {row.at} + {self.count} <= {limit}:"):
            t.line(text)
        with t.block("else:"):
            for m, value in enumerate(values):
                with t.block(f"if {row.at} + {m} < {limit}:"):
                    t.line(f"store_{dtype}({address} + {m * self.size}, {value.name})")

    def compute(
        self, rows: Sequence[Row], limit: str, of_row: Callable[[int], dict[str, list[Value]]] = lambda k: {}
    ) -> list[list[Value]]:
        """Load some rows, compute and store each; the sums over them, for each sum one of each column.

        Parameters
        ----------
        rows : sequence of Row
            In ascending order; QUAD of them where there are sums.
        limit : str
            A word is there where it begins before it.
        of_row : callable
            The values that row k has by itself, by the argument's name.
        """
        t, count = self.t, self.count
        loaded = {(name, k): [t.name() for _ in range(count)] for k in range(len(rows)) for name in self.full}
        if self.full:
            with t.block(f"if {rows[-1].at} + {count} <= {limit}:"):
                for k, row in enumerate(rows):
                    self._load_whole(row, k, loaded)
            with t.block("else:"):
                self._load_some(rows, limit, loaded)
        zero = t.value(0.0)
        quads = [[t.fresh(zero.name) for _ in range(count)] for _ in range(self.nsum)]
        for k, row in enumerate(rows):
            if k % 2 == 0:
                terms = [[t.fresh(zero.name) for _ in range(count)] for _ in range(self.nsum)]
            with t.block(f"if {row.at} < {limit}:"):
                shared = {**self.values, **of_row(k)}
                keeps = self.w.keeps(count, row.index) if self.w.random else [None] * count
                results = []
                for m in range(count):
                    own = [
                        Value(t, loaded[name, k][m]) if role == "a" else shared[name][m]
                        for name, role in self.role.items()
                    ]
                    nin = len(self.w.inputs)
                    results.append(self.w.outputs(own[:nin], own[nin:], keeps[m]))
                sums = iter(terms)
                for j, y in enumerate(self.outs):
                    values = [result[j] for result in results]
                    if y is not None:
                        self._store(y, row, limit, values)
                        continue
                    for m, (term, value) in enumerate(zip(next(sums), values)):
                        if self.partial and m:
                            chosen = t.fresh(f"{value.name} if {row.at} + {m} < {limit} else {zero.name}")
                            t.assign(term, chosen if k % 2 == 0 else term + chosen)
                        else:
                            t.assign(term, value if k % 2 == 0 else term + value)
            if k % 2:
                for quad, two in zip(quads, terms):
                    for q, v in zip(quad, two):
                        t.assign(q, v if k == 1 else q + v)
        return quads

    def kernel(self, form: str, sizes: Sequence[str], block: int) -> Kernel:
        """The kernel, of the lines that were written."""
        arguments = [*self.pointers, *self.steps, *sizes, *self.numbers, *self.w.random_names]
        integers = len(self.pointers) + len(self.steps) + len(sizes)
        slots = "q" * integers + "d" * len(self.numbers) + self.w.random_slots
        return self.w.kernel("_".join([form, self.roles, str(self.count)]), arguments, slots, block)


def quotient(t: Trace, name: str, a: str, b: str) -> None:
    """Lines for a // b of integers that are not negative; in 32 bits where `total` fits, which is a short sequence."""
    with t.block("if total < 4294967296:"):
        t.line(f"{name} = int64(uint32({a}) // uint32({b}))")
    with t.block("else:"):
        t.line(f"{name} = {a} // {b}")


def rows_of(count: int) -> int:
    """The rows that a thread of ``columns`` takes: 16 elements, but no more than four."""
    return min(QUAD, 16 // count)


def columns(spec: KernelSpec, roles: str, count: int, repeated: bool) -> Kernel:
    """The form ``columns``.

    Arguments: addresses of inputs, parameters and outputs; bytes from row to row of those of role ``a``; `width`, the
    columns; `pieces`, the words of a row; `total`, the elements; `channel`, the values of an argument of the axis;
    numbers, what random numbers need.

    Parameters
    ----------
    spec : KernelSpec
    roles : str
    count : int
    repeated : bool
        Whether a row holds several rows of `channel` elements; the last row may then be cut off.
    """
    r = Rows(spec, roles, count, repeated)
    t, many = r.t, rows_of(count)
    t.line(f"i = int64(cuda.blockIdx.x) * {BLOCK} + int64(cuda.threadIdx.x)")
    quotient(t, "quad", "i", "pieces")
    t.line(f"col = (i - quad * pieces) * {count}")
    t.line(f"row = quad * {many}")
    t.line("e0 = row * width + col")
    with t.block("if e0 < total:"):
        for k in range(1, many):
            t.line(f"e{k} = e{k - 1} + width")
        r.prepare()
        r.take_columns(repeated)
        of_row: list[dict[str, list[Value]]] = [{} for _ in range(many)]
        names = r.of("h")
        if names:
            quotient(t, "turn", "row", "channel")
            t.line("h0 = row - turn * channel")
            for k in range(1, many):
                t.line(f"h{k} = h{k - 1} + 1 if h{k - 1} + 1 < channel else 0")
            of_row = [{name: [r.load(name, f"h{k}")] * count for name in names} for k in range(many)]
        rows = [_row_at(r, k) for k in range(many)]
        r.compute(rows, "total", lambda k: of_row[k])
    return r.kernel("columns" + ("_repeated" if repeated else ""), ("width", "pieces", "total", "channel"), BLOCK)


def _row_at(r: Rows, k: int) -> Row:
    return Row(lambda name: f"(row + {k}) * s_{name} + col * {r.size}", f"e{k}", f"e{k}")


def sums_lanes(count: int) -> int:
    """Words of columns that a block of ``column_sums`` takes side by side, 256 bytes, with a thread for each quad."""
    return 16 if count > 1 else 32


def column_sums(spec: KernelSpec, roles: str, count: int, repeated: bool) -> Kernel:
    """The form ``column_sums``. One block of threads takes 64 rows of some words of columns.

    Arguments: as of ``columns``, with `strips`, the blocks side by side, in the place of `pieces`; before the numbers
    `work`: for each block of rows and each sum `width` high parts, then the low ones.
    """
    r = Rows(spec, roles, count, repeated)
    t, lanes = r.t, sums_lanes(count)
    wide = lanes * count
    shared = share(t, *[QUADS * wide] * r.nsum)
    t.line("thread = int64(cuda.threadIdx.x)")
    t.line(f"lane = thread % {lanes}")
    t.line(f"q = thread // {lanes}")
    t.line("number = int64(cuda.blockIdx.x)")
    t.line("block = number // strips")
    t.line(f"first = (number - block * strips) * {wide}")
    t.line(f"col = first + lane * {count}")
    t.line(f"row = block * {ROWS} + q * {QUAD}")
    t.line("e0 = row * width + col")
    for k in range(1, QUAD):
        t.line(f"e{k} = e{k - 1} + width")
    # of a column that is not there nothing is read below
    with t.block("if col < width:"):
        r.prepare()
        r.take_columns(repeated)
        quads = r.compute([_row_at(r, k) for k in range(QUAD)], "total")
        _keep(t, shared, quads, f"q * {wide} + lane * {count}")
    t.line("cuda.syncthreads()")
    for s, values in enumerate(shared):
        with t.block(f"if thread < {wide} and first + thread < width:"):
            high, low = _chain(t, values, "thread", wide, QUADS)
            place = f"work + ((block * {r.nsum} + {s}) * 2 * width + first + thread) * {r.csize}"
            t.line(f"store_{spec.compute}({place}, {high.name})")
            t.line(f"store_{spec.compute}({place} + width * {r.csize}, {low.name})")
    sizes = ("width", "strips", "total", "channel", "work")
    return r.kernel("column_sums" + ("_repeated" if repeated else ""), sizes, lanes * QUADS)


def segment_quads(inner: int) -> int:
    """The quads of a piece of rows of so many elements, a power of two."""
    need = -(-min(inner, PIECE) // (QUAD * CHAINS))
    return 1 << (need - 1).bit_length()


def segment_lanes(count: int, quads: int) -> int:
    """The words of the chains that a block of threads takes side by side: all of them, or 1/2, 1/4 of them."""
    return min(CHAINS // count, SEGMENT_BLOCK // quads)


def folds(inner: int, count: int) -> bool:
    """Whether a block of threads has all that a row's sums are made of, so that only one pair is left of it."""
    return inner <= PIECE and segment_lanes(count, segment_quads(inner)) == CHAINS // count


def segment_sums(spec: KernelSpec, roles: str, count: int, quads: int, folded: bool) -> Kernel:
    """The form ``segment_sums``. Threads of a block take one piece of a row or, if that is short, several.

    Arguments: addresses of inputs, parameters and outputs; bytes from row to row of those of role ``a``; `inner`, the
    elements of a row, a multiple of `count`; `pieces` of a row; `units`, all pieces, each in parts of its chains;
    `channel`; `total`; `work`: for each sum a high part of each piece and chain, then the low parts; if folded, of each
    row.
    """
    r = Rows(spec, roles, count, False)
    t = r.t
    lanes = segment_lanes(count, quads)
    chains = lanes * count
    parts = CHAINS // chains
    side = SEGMENT_BLOCK // (lanes * quads)
    pairs = [side * CHAINS] * 2 * r.nsum if folded else []
    shared = share(t, *[side * quads * chains] * r.nsum, *pairs)
    sides = [(shared[k], shared[k + 1]) for k in range(r.nsum, len(shared), 2)]
    t.line("thread = int64(cuda.threadIdx.x)")
    t.line(f"own = thread // {lanes * quads}")
    t.line(f"lane = thread % {lanes}")
    t.line(f"q = thread // {lanes} % {quads}")
    t.line(f"begin = int64(cuda.blockIdx.x) * {side}")
    t.line("unit = begin + own")
    with t.block("if unit < units:"):
        t.line(f"piece = unit // {parts}")
        quotient(t, "row", "piece", "pieces")
        t.line(f"start = (piece - row * pieces) * {PIECE} + q * {QUAD * CHAINS}")
        t.line(f"at0 = start + (unit % {parts}) * {chains} + lane * {count}")
        for k in range(1, QUAD):
            t.line(f"at{k} = at{k - 1} + {CHAINS}")
        r.prepare()
        names = r.of("h")
        if names:
            quotient(t, "turn", "row", "channel")
            for name in names:
                r.values[name] = [r.load(name, "row - turn * channel")] * count
        for k in range(QUAD):
            t.line(f"e{k} = row * inner + at{k}")
        rows = [_chain_at(r, k) for k in range(QUAD)]
        _keep(t, shared, r.compute(rows, "inner"), f"(own * {quads} + q) * {chains} + lane * {count}")
    t.line("cuda.syncthreads()")
    for s, values in enumerate(shared[: r.nsum]):
        t.line("k = thread")
        with t.block(f"while k < {side * chains}:"):
            t.line(f"own = k // {chains}")
            with t.block("if begin + own < units:"):
                t.line(f"at = own * {quads * chains} + k % {chains}")
                high, low = _chain(t, values, "at", chains, quads)
                if folded:
                    for part, value in zip(sides[s], (high, low)):
                        t.line(f"{part.at('k')} = {value.name}")
                else:
                    place = f"(begin + own) // {parts} * {CHAINS} + (begin + own) % {parts} * {chains} + k % {chains}"
                    t.line(f"place = work + ({place}) * {r.csize}")
                    each = f"units // {parts} * {CHAINS * r.csize}"
                    t.line(f"store_{spec.compute}(place + {2 * s} * ({each}), {high.name})")
                    t.line(f"store_{spec.compute}(place + {2 * s + 1} * ({each}), {low.name})")
            t.line(f"k += {SEGMENT_BLOCK}")
    if folded:
        fold(t, sides, side, SEGMENT_BLOCK)
        with t.block(f"if thread < {side} and begin + thread < units:"):
            for s, pair in enumerate(sides):
                for k, part in enumerate(pair):
                    place = f"work + ({2 * s + k} * units + begin + thread) * {r.csize}"
                    t.line(f"store_{spec.compute}({place}, {part.at(f'thread * {CHAINS}')})")
    form = f"segment_sums_{quads}" + ("_folded" if folded else "")
    return r.kernel(form, ("inner", "pieces", "units", "channel", "total", "work"), SEGMENT_BLOCK)


def _chain_at(r: Rows, k: int) -> Row:
    return Row(lambda name: f"row * s_{name} + at{k} * {r.size}", f"at{k}", f"e{k}")


def share(t: Trace, *lengths: int) -> list[Shared]:
    """Parts of the shared memory of a kernel."""
    t.line(f"shared = cuda.shared.array({sum(lengths)}, types.{t.dtype})")
    return [Shared(sum(lengths[:k])) for k in range(len(lengths))]


def _keep(t: Trace, shared: Sequence[Shared], quads: list[list[Value]], at: str) -> None:
    for part, values in zip(shared, quads):
        for m, value in enumerate(values):
            t.line(f"{part.at(f'{at} + {m}')} = {value.name}")


def _chain(t: Trace, values: Shared, at: str, step: int, quads: int) -> tuple[Value, Value]:
    """The compensated sum of quads that lie `step` apart in shared memory."""
    high, low = t.fresh(t.value(0.0).name), t.fresh(t.value(0.0).name)
    for i in range(quads):
        s, e = two_sum(high, t.fresh(values.at(f"{at} + {i * step}")))
        t.assign(low, low + e)
        t.assign(high, s)
    return high, low


def fold(t: Trace, sides: Sequence[tuple[Shared, Shared]], units: int, block: int) -> None:
    """Pairs of CHAINS chains of some units, in shared memory, to the pair of the first chain."""
    half = CHAINS // 2
    while half:
        t.line("cuda.syncthreads()")
        t.line("k = thread")
        with t.block(f"while k < {units * half}:"):
            t.line(f"at = k // {half} * {CHAINS} + k % {half}")
            for high, low in sides:
                a, da, b, db = (t.fresh(part.at(place)) for place in ("at", f"at + {half}") for part in (high, low))
                s, e = pair_add(a, da, b, db)
                t.line(f"{high.at('at')} = {s.name}")
                t.line(f"{low.at('at')} = {e.name}")
            t.line(f"k += {block}")
        half //= 2
    t.line("cuda.syncthreads()")
