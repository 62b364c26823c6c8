"""Kernels that combine pairs of partial sums, in the order of blocks (docs/design.md, 'Sums')."""

from __future__ import annotations

from fastact.backends.cuda.columns import CHAINS, PIECE, SEGMENT, fold, share
from fastact.backends.cuda.compile import Kernel
from fastact.backends.cuda.dtypes import SIZES
from fastact.backends.cuda.elementwise import stored
from fastact.backends.cuda.trace import Trace
from fastact.maths.rows import pair_add

# columns of a block of threads, groups of threads for each, and pairs that a thread loads at a time
COMBINE_COLUMNS, GROUPS, EACH = 32, 8, 8
COMBINE_BLOCK = COMBINE_COLUMNS * GROUPS
FOLD_BLOCK = 256
PAIRWISE_BLOCK = 256
# elements that are added one after the other in a pairwise sum
LEAF = 128


def combine(compute: str, dtypes: tuple[str, ...]) -> Kernel:
    """Pairs to sums in these dtypes, or, without any, to pairs; column by column, in order.

    Threads of a block load GROUPS·EACH pairs of COMBINE_COLUMNS columns into shared memory; the first warp adds them
    while the next ones are on their way.

    Arguments: `work`; `low`, the bytes from a high part to its low part; `between`, from one sum to the next; `blocks`,
    how many pairs are added; `step`, the bytes from one to the next; `n` columns; where sums go, an address for each;
    of pairs that of the first high parts, from which the others are as far as in `work`. A grid of (columns, sums).
    """
    t, size, wide = Trace(compute), SIZES[compute], COMBINE_COLUMNS
    results = [f"y{j}" for j in range(max(1, len(dtypes)))]
    zero = t.value(0.0).name
    shared = share(t, GROUPS * EACH * wide, GROUPS * EACH * wide)
    t.line("thread = int64(cuda.threadIdx.x)")
    t.line(f"lane = thread % {wide}")
    t.line(f"group = thread // {wide}")
    t.line(f"i = int64(cuda.blockIdx.x) * {wide} + lane")
    t.line("s = int64(cuda.blockIdx.y)")
    t.line(f"at = work + s * between + i * {size} + group * {EACH} * step")
    t.line(f"b = group * {EACH}")
    t.line(f"own = (group * {EACH}) * {wide} + lane")
    high, low = t.fresh(zero), t.fresh(zero)
    loaded = [(t.name(), t.name()) for _ in range(EACH)]
    _load_pairs(t, loaded, zero)
    t.line("done = int64(0)")
    with t.block("while done < blocks:"):
        for k, pair in enumerate(loaded):
            for part, value in zip(shared, pair):
                t.line(f"{part.at(f'own + {k * wide}')} = {value}")
        t.line("cuda.syncthreads()")
        t.line(f"at += {GROUPS * EACH} * step")
        t.line(f"b += {GROUPS * EACH}")
        _load_pairs(t, loaded, zero)
        with t.block("if group == 0:"):
            t.line("k = int64(0)")
            with t.block(f"while k < {GROUPS * EACH} and done + k < blocks:"):
                t.line(f"place = lane + k * {wide}")
                # a pair of zeros changes nothing: a high part is never -0
                for k in range(EACH):
                    other, less = (t.fresh(part.at(f"place + {k * wide}")) for part in shared)
                    total, rest = pair_add(high, low, other, less)
                    t.assign(low, rest)
                    t.assign(high, total)
                t.line(f"k += {EACH}")
        t.line("cuda.syncthreads()")
        t.line(f"done += {GROUPS * EACH}")
    with t.block("if group == 0 and i < n:"):
        if dtypes:
            found = t.where(t.compare("==", high - high, 0.0), high + low, high).name
            for j, (y, dtype) in enumerate(zip(results, dtypes)):
                with t.block(f"if s == {j}:"):
                    t.line(stored(f"{y} + i * {SIZES[dtype]}", found, dtype, compute))
        else:
            t.line(f"y = y0 + s * between + i * {size}")
            t.line(f"store_{compute}(y, {high.name})")
            t.line(f"store_{compute}(y + low, {low.name})")
    arguments = ["work", "low", "between", "blocks", "step", "n", *results]
    name = "_".join(["combine", compute, *(dtypes or ("pairs",))])
    return t.kernel(name, arguments, "q" * len(arguments), COMBINE_BLOCK)


def _load_pairs(t: Trace, loaded: list[tuple[str, str]], zero: str) -> None:
    """Lines that load the pairs of a thread, zeros where there are none."""
    with t.block(f"if i < n and b + {EACH} <= blocks:"):
        for k, (high, low) in enumerate(loaded):
            t.line(f"{high} = load_{t.dtype}(at + {k} * step)")
            t.line(f"{low} = load_{t.dtype}(at + {k} * step + low)")
    with t.block("else:"):
        for k, (high, low) in enumerate(loaded):
            t.line(f"{high} = {low} = {zero}")
            with t.block(f"if i < n and b + {k} < blocks:"):
                t.line(f"{high} = load_{t.dtype}(at + {k} * step)")
                t.line(f"{low} = load_{t.dtype}(at + {k} * step + low)")


def fold_segments(compute: str) -> Kernel:
    """The pairs of the pieces and chains of a segment to one, those of all rows in the order in which they are added.

    Arguments: `work`, as ``segment_sums`` leaves it; `pieces` of a row; `segments` of a row; `units`, all segments;
    `each`, all pieces; `channel`; `to`: for each sum the high parts of the segments by row of a channel, segment and
    channel, then the low parts. Blocks of threads in a grid of (segments, sums).
    """
    t, size, side, most = Trace(compute), SIZES[compute], FOLD_BLOCK // CHAINS, SEGMENT // PIECE
    t.line("thread = int64(cuda.threadIdx.x)")
    t.line("s = int64(cuda.blockIdx.y)")
    t.line(f"begin = int64(cuda.blockIdx.x) * {side}")
    high, low = share(t, FOLD_BLOCK, FOLD_BLOCK)
    t.line(f"unit = begin + thread // {CHAINS}")
    a, da = t.fresh(t.value(0.0).name), t.fresh(t.value(0.0).name)
    with t.block("if unit < units:"):
        t.line("row = unit // segments")
        t.line(f"piece = (unit - row * segments) * {most}")
        t.line("rest = pieces - piece")
        t.line(f"at = work + ((2 * s * each + row * pieces + piece) * {CHAINS} + thread % {CHAINS}) * {size}")
        pairs = []
        for k in range(most):
            pair = t.fresh(t.value(0.0).name), t.fresh(t.value(0.0).name)
            with t.block(f"if {k} < rest:"):
                t.line(f"{pair[0].name} = load_{compute}(at + {k * CHAINS * size})")
                t.line(f"{pair[1].name} = load_{compute}(at + {k * CHAINS * size} + each * {CHAINS * size})")
            pairs.append(pair)
        for other, less in pairs:
            total, rest = pair_add(a, da, other, less)
            t.assign(da, rest)
            t.assign(a, total)
    t.line(f"{high.at('thread')} = {a.name}")
    t.line(f"{low.at('thread')} = {da.name}")
    fold(t, [(high, low)], side, FOLD_BLOCK)
    with t.block(f"if thread < {side} and begin + thread < units:"):
        t.line("unit = begin + thread")
        t.line("row = unit // segments")
        t.line("outer = row // channel")
        t.line("place = (outer * segments + unit - row * segments) * channel + row - outer * channel")
        for k, part in enumerate((high, low)):
            value = part.at(f"thread * {CHAINS}")
            t.line(f"store_{compute}(to + ((2 * s + {k}) * units + place) * {size}, {value})")
    arguments = ["work", "pieces", "segments", "units", "each", "channel", "to"]
    return t.kernel(f"fold_{compute}", arguments, "q" * len(arguments), FOLD_BLOCK)


def levels(n: int) -> int:
    """How often halves of so many elements are halved again."""
    return max(0, (-(-n // LEAF) - 1).bit_length())


def pairwise(source: str, dtype: str) -> Kernel:
    """The sum of a contiguous array in float64, in halves of halves down to LEAF elements, in one block of threads.

    Arguments: `x`; `n`; `depth`, its `levels`; `work`, memory of 2·2^depth doubles; `y`, the address of the result.
    """
    t = Trace("float64")
    t.line("thread = int64(cuda.threadIdx.x)")
    t.line("leaves = int64(1) << depth")
    t.line("leaf = thread")
    with t.block("while leaf < leaves:"):
        t.line("start = int64(0)")
        t.line("length = n")
        t.line("d = depth")
        with t.block("while d > 0:"):
            t.line("d -= 1")
            t.line("right = (leaf >> d) & 1")
            with t.block(f"if length > {LEAF}:"):
                t.line("half = length // 2")
                t.line("start += half if right == 1 else 0")
                t.line("length = length - half if right == 1 else half")
            # short enough before others are: its left half is all of it
            with t.block("elif right == 1:"):
                t.line("length = int64(0)")
        s = t.fresh(t.value(0.0).name)
        t.line("k = int64(0)")
        with t.block("while k < length:"):
            t.assign(s, s + t.fresh(f"float64(load_{source}(x + (start + k) * {SIZES[source]}))"))
            t.line("k += 1")
        t.line(f"store_float64(work + leaf * 8, {s.name})")
        t.line(f"leaf += {PAIRWISE_BLOCK}")
    t.line("cuda.syncthreads()")
    t.line("source = work")
    t.line("to = work + leaves * 8")
    t.line("leaves = leaves >> 1")
    with t.block("while leaves > 0:"):
        t.line("k = thread")
        with t.block("while k < leaves:"):
            a, b = (t.fresh(f"load_float64(source + {place} * 8)") for place in ("2 * k", "(2 * k + 1)"))
            t.line(f"store_float64(to + k * 8, {(a + b).name})")
            t.line(f"k += {PAIRWISE_BLOCK}")
        t.line("cuda.syncthreads()")
        t.line("other = source")
        t.line("source = to")
        t.line("to = other")
        t.line("leaves = leaves >> 1")
    with t.block("if thread == 0:"):
        t.line(stored("y", t.fresh("load_float64(source)").name, dtype, "float64"))
    arguments = ["x", "n", "depth", "work", "y"]
    return t.kernel(f"pairwise_{source}_{dtype}", arguments, "q" * len(arguments), PAIRWISE_BLOCK)
