"""Kernels over lists of arrays: a step of an optimiser, in place, and the norm of gradients; one launch for all arrays.

Where arrays are is told by a table on the device: pieces before each array, blocks of the norm before each array,
lengths, the addresses of the columns (parameters, states), last those of gradients. A kernel (`put`) writes it from its
own arguments, WORDS at a time. So nothing is copied from the host, which would have to wait or to keep the source
alive, and a CUDA graph that captures a step has the addresses in it. What a step costs the host for that is nothing
while gradients stay where they are, and a launch for each WORDS gradients where they moved. Addresses as arguments of
the step itself would need no table, but a launch for every 11 arrays of AdamW.

A block of a step has one piece of one array: BLOCK threads, ROUNDS accesses of 16 bytes each, so that the search for
the array is made once for 4 of them.

The norm is the CPU's to the bit (fastact/runtime/lists.h): 16 threads have the 16 chains of a block of NORM_BLOCK
elements, and a warp the 32 chains of blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from fastact.backends.cuda import launch
from fastact.backends.cuda.array import DeviceArray
from fastact.backends.cuda.compile import Kernel
from fastact.backends.cuda.dtypes import FLOATS, SIZES
from fastact.backends.cuda.launch import Launch
from fastact.backends.cuda.rows import EVERY
from fastact.backends.cuda.trace import Trace, Value
from fastact.maths.grammar import bind, bind_rows
from fastact.spec.kernel import compute_dtype, rule_kernel_of
from fastact.spec.optimisers import SCALED, Rule, rules

BLOCK = 256
ROUNDS = 4
# of a launch of `put`, whose slots are at most 64
WORDS = 60
WORD = 8
# of the norm, as in fastact/runtime/lists.h
NORM_BLOCK = 16384
NORM_CHAINS = 16
NORM_QUAD = 4 * NORM_CHAINS
NORM_LANES = 32
NORM_THREADS = 64
# what is added to a norm before something is divided by it
NORM_EPS = 1e-6


def count_of(compute: str) -> int:
    """Elements of an access of 16 bytes."""
    return 16 // SIZES[compute]


def piece_of(compute: str) -> int:
    """Elements of a block of a step."""
    return BLOCK * ROUNDS * count_of(compute)


def _search(trace: Trace, first: str) -> None:
    # k: the last array before which there are at most `block` pieces; so it is never an empty one
    trace.line("k = int64(0)")
    trace.line("end = arrays")
    with trace.block("while end - k > 1:"):
        trace.line("middle = (k + end) >> 1")
        with trace.block(f"if load_word({first} + middle * {WORD}) <= block:"):
            trace.line("k = middle")
        with trace.block("else:"):
            trace.line("end = middle")


def step(rule: Rule, dtype: str, grads: str, master: bool, clipped: bool) -> Kernel:
    """The kernel of a step.

    Arguments: the table, the addresses of gradients in it, the number of arrays, the rule's numbers, of which `factor`
    is an address if it was computed on the device.

    Parameters
    ----------
    rule : Rule
    dtype : str
        Of parameters.
    grads : str
        The dtype of gradients; "" where the rule takes none.
    master : bool
        Whether the first column are master copies, and the last one the parameters.
    clipped : bool
        Whether `factor` is on the device.
    """
    compute = compute_dtype(dtype)
    spec = rule_kernel_of(rule, compute)
    trace = Trace(compute)
    formula = spec.body(bind(trace.primitives(), compute))
    names = [a.name for a in spec.inputs]
    written = [name for name in names if name != "g"]
    in_memory = dict.fromkeys(names, compute) | {"p": compute if master else dtype, "g": grads}
    columns = [*written, *(["copy"] if master else [])]
    if master:
        in_memory["copy"] = dtype
    count, piece = count_of(compute), piece_of(compute)
    if clipped:
        trace.line("whole = load_float64(factor)")
        if not grads:
            # nothing to shrink: as on the host, nothing is written
            with trace.block("if whole >= 1.0:"):
                trace.line("return")
    numbers = [trace.fresh(f"{compute}({'whole' if clipped and name == 'factor' else name})") for name in spec.params]
    trace.line("block = int64(cuda.blockIdx.x)")
    trace.line("t = int64(cuda.threadIdx.x)")
    _search(trace, "table")
    trace.line(f"begin = (block - load_word(table + k * {WORD})) * {piece}")
    trace.line(f"n = load_word(table + (2 * arrays + 2 + k) * {WORD})")
    for c, name in enumerate(columns):
        trace.line(f"a_{name} = load_word(table + ({3 + c} * arrays + 2 + k) * {WORD})")
    if grads:
        trace.line(f"a_g = load_word(grads + k * {WORD})")
    every = [*columns, *(["g"] if grads else [])]
    trace.line(f"stop = begin + {piece}")
    crooked = " | ".join(f"(a_{name} & {count * SIZES[in_memory[name]] - 1})" for name in every)

    def at(name: str) -> str:
        return f"a_{name} + i * {SIZES[in_memory[name]]}"

    def results(values: dict[str, Value]) -> list[Value]:
        return [trace.value(v) for v in formula(*(values[name] for name in names), *numbers)]

    with trace.block(f"if stop <= n and ({crooked}) == 0:"):
        trace.line(f"i = begin + t * {count}")
        with trace.block("while i < stop:"):
            loaded: dict[str, list[Value]] = {}
            for name in names:
                own = [trace.name() for _ in range(count)]
                trace.line(f"{', '.join(own)} = load_{in_memory[name]}_{count}({at(name)})")
                loaded[name] = [Value(trace, v) for v in own]
            found = [results({name: loaded[name][e] for name in names}) for e in range(count)]
            for j, name in enumerate(written):
                values = ", ".join(result[j].name for result in found)
                trace.line(f"store_{in_memory[name]}_{count}({at(name)}, {values})")
            if master:
                values = ", ".join(result[0].name for result in found)
                trace.line(f"store_{dtype}_{count}({at('copy')}, {values})")
            trace.line(f"i += {BLOCK * count}")
    with trace.block("else:"):
        trace.line("i = begin + t")
        trace.line("stop = min(stop, n)")
        with trace.block("while i < stop:"):
            one = results({name: trace.fresh(f"load_{in_memory[name]}({at(name)})") for name in names})
            for value, name in zip(one, written):
                trace.line(f"store_{in_memory[name]}({at(name)}, {value.name})")
            if master:
                trace.line(f"store_{dtype}({at('copy')}, {one[0].name})")
            trace.line(f"i += {BLOCK}")
    slots = "qqq" + "".join("q" if clipped and name == "factor" else "d" for name in spec.params)
    form = "_".join([dtype, grads or "none", *(["master"] if master else []), *(["clipped"] if clipped else [])])
    return trace.kernel(f"{spec.name}_list_{form}", ["table", "grads", "arrays", *spec.params], slots, BLOCK)


def put() -> Kernel:
    """The kernel that writes WORDS words of a table. Arguments: an address, and the words."""
    names = [f"w{i}" for i in range(WORDS)]
    lines = [f"    store_word(at + {WORD * i}, {name})" for i, name in enumerate(names)]
    text = "\n".join([f"def kernel({', '.join(['at', *names])}):", *lines])
    return Kernel("put", "float64", "q" * (1 + WORDS), text, {}, 1)


def _pair_from(trace: Trace, address: str) -> tuple[Value, Value]:
    return trace.fresh(f"load_float64({address})"), trace.fresh(f"load_float64({address} + 8)")


def _added(trace: Trace, to: tuple[Value, Value], other: tuple[Value, Value]) -> None:
    # into variables: what is added goes on in a loop
    found = bind_rows(trace.primitives(), "float64")["pair_add"](*to, *other)
    kept = [trace.fresh(v.name) for v in found]
    for variable, value in zip(to, kept):
        trace.assign(variable, value)


def _folded(trace: Trace, pair: tuple[Value, Value], lanes: int) -> None:
    while lanes > 1:
        lanes //= 2
        names = trace.name(), trace.name()
        for name, own in zip(names, pair):
            trace.line(f"{name} = cuda.shfl_xor_sync({EVERY}, {own.name}, {lanes})")
        _added(trace, pair, (Value(trace, names[0]), Value(trace, names[1])))


def squares(dtype: str) -> Kernel:
    """The kernel that sums the squares of each block of gradients.

    Arguments: the table, the addresses of gradients, the number of arrays, that of blocks, where their pairs go.
    """
    trace = Trace("float64")
    size = SIZES[dtype]
    two_sum = bind_rows(trace.primitives(), "float64")["two_sum"]
    trace.line("t = int64(cuda.threadIdx.x)")
    trace.line(f"own = int64(cuda.blockIdx.x) * {NORM_THREADS // NORM_CHAINS} + t // {NORM_CHAINS}")
    trace.line(f"chain = t % {NORM_CHAINS}")
    # threads without a block of their own do the last one again: shuffles need them
    trace.line("block = min(own, blocks - 1)")
    trace.line(f"first = table + (arrays + 1) * {WORD}")
    _search(trace, "first")
    trace.line(f"begin = (block - load_word(first + k * {WORD})) * {NORM_BLOCK}")
    trace.line(f"n = min(load_word(table + (2 * arrays + 2 + k) * {WORD}) - begin, {NORM_BLOCK})")
    trace.line(f"x = load_word(grads + k * {WORD}) + (begin + chain) * {size}")
    zero = trace.value(0.0)
    total = trace.fresh(zero.name), trace.fresh(zero.name)
    trace.line("i = int64(0)")

    def add(v: Sequence[Value]) -> None:
        s, e = two_sum(total[0], (v[0] * v[0] + v[1] * v[1]) + (v[2] * v[2] + v[3] * v[3]))
        lost = total[1] + e
        kept = trace.fresh(s.name), trace.fresh(lost.name)
        trace.assign(total[0], kept[0])
        trace.assign(total[1], kept[1])

    quads = 4
    with trace.block(f"while i + {quads * NORM_QUAD} <= n:"):
        # loads first, so that they are under way together
        loaded = [trace.fresh(f"float64(load_{dtype}(x + (i + {NORM_CHAINS * j}) * {size}))") for j in range(4 * quads)]
        for q in range(quads):
            add(loaded[4 * q : 4 * q + 4])
        trace.line(f"i += {quads * NORM_QUAD}")
    with trace.block("while i < n:"):
        rest = []
        for j in range(4):
            rest.append(trace.fresh(zero.name))
            with trace.block(f"if i + chain + {NORM_CHAINS * j} < n:"):
                trace.line(f"{rest[-1].name} = float64(load_{dtype}(x + (i + {NORM_CHAINS * j}) * {size}))")
        add(rest)
        trace.line(f"i += {NORM_QUAD}")
    _folded(trace, total, NORM_CHAINS)
    with trace.block("if chain == 0 and own < blocks:"):
        trace.line(f"store_float64(pairs + own * 16, {total[0].name})")
        trace.line(f"store_float64(pairs + own * 16 + 8, {total[1].name})")
    arguments = ["table", "grads", "arrays", "blocks", "pairs"]
    return trace.kernel(f"squares_{dtype}", arguments, "qqqqq", NORM_THREADS)


def whole() -> Kernel:
    """The kernel of the norm and of what gradients are multiplied by.

    Arguments: pairs of blocks, how many, where the norm goes, where the factor goes, the greatest norm, the scale.
    """
    trace = Trace("float64")
    trace.line("t = int64(cuda.threadIdx.x)")
    zero = trace.value(0.0)
    total = trace.fresh(zero.name), trace.fresh(zero.name)
    trace.line("b = t")
    together = 8
    with trace.block(f"while b + {NORM_LANES * (together - 1)} < blocks:"):
        for pair in [_pair_from(trace, f"pairs + (b + {NORM_LANES * j}) * 16") for j in range(together)]:
            _added(trace, total, pair)
        trace.line(f"b += {NORM_LANES * together}")
    with trace.block("while b < blocks:"):
        _added(trace, total, _pair_from(trace, "pairs + b * 16"))
        trace.line(f"b += {NORM_LANES}")
    _folded(trace, total, NORM_LANES)
    with trace.block("if t == 0:"):
        high, low = total
        # the low part of an infinite sum is no number
        found = trace.where(high - high == 0.0, high + low, high)
        divisor, most = trace.fresh("scale"), trace.fresh("max_norm")
        length = trace.call("sqrt", found) / divisor
        trace.line(f"store_float64(norm, {length.name})")
        ratio = most / (length + NORM_EPS)
        # a NaN stays
        factor_ = trace.where(trace.compare(">", ratio, 1.0), 1.0, ratio) / divisor
        trace.line(f"store_float64(factor, {factor_.name})")
    return trace.kernel("norm", ["pairs", "blocks", "norm", "factor", "max_norm", "scale"], "qqqqdd", NORM_LANES)


def catalogue() -> Iterator[tuple[str, Kernel]]:
    """Every kernel over lists, by name."""
    found = [put(), whole(), *(squares(dtype) for dtype in FLOATS)]
    for rule in rules():
        for dtype in FLOATS:
            grads = [""] if rule is SCALED else list(dict.fromkeys([dtype, compute_dtype(dtype)]))
            masters = [False, True] if rule is not SCALED and compute_dtype(dtype) != dtype else [False]
            clips = [True] if rule is SCALED else [False, True]
            found += [step(rule, dtype, g, master, clipped) for g in grads for master in masters for clipped in clips]
    for kernel in found:
        yield kernel.name, kernel


class Lists:
    """Columns of contiguous arrays on a device, which a rule updates in place.

    Parameters
    ----------
    rule : Rule
    dtype : str
        Of parameters.
    columns : sequence of sequences of DeviceArray
        Of each column an array for each parameter: parameters or master copies, then states.
    copies : sequence of DeviceArray or None
        Where new parameters go also, narrowed to `dtype`.
    scratch : callable
        Memory of a shape and dtype.
    """

    def __init__(
        self, rule: Rule, dtype: str, columns: Sequence[Sequence[DeviceArray]], copies: Sequence[DeviceArray] | None,
        scratch: Callable[[tuple[int, ...], str], DeviceArray],
    ) -> None:  # fmt: skip
        self.rule, self.dtype, self.master = rule, dtype, copies is not None
        first = columns[0]
        self.device = first[0].device
        self.arrays = len(first)
        piece = piece_of(compute_dtype(dtype))
        starts = list(accumulate((-(-a.size // piece) for a in first), initial=0))
        blocks = list(accumulate((-(-a.size // NORM_BLOCK) for a in first), initial=0))
        self.pieces, self.blocks = starts[-1], blocks[-1]
        every = [*columns, *([copies] if copies is not None else [])]
        self._words = [*starts, *blocks, *(a.size for a in first), *(a.address for own in every for a in own)]
        # the last launch of `put` may write more than there is
        self._table = scratch((len(self._words) + self.arrays + WORDS,), "int64")
        self._results = scratch((1 + 2 * self.blocks,), "float64")
        # addresses of gradients in the table; unknown while there are CUDA graphs that write them when they run
        self._known: tuple[int, ...] | None = None
        self._is_written = self._captured = False

    @property
    def _gradients(self) -> int:
        return self._table.address + WORD * len(self._words)

    @property
    def first_column(self) -> int:
        """Where the addresses of the first column are."""
        return self._table.address + WORD * (3 * self.arrays + 2)

    def _tell(self, grads: Sequence[DeviceArray], stream: int) -> None:
        """Bring the table up to date."""
        addresses = tuple(g.address for g in grads)
        captures = launch.capturing(self.device, stream)
        self._captured = self._captured or captures
        if not self._is_written or captures:
            self._put(self._table.address, (*self._words, *addresses), stream)
            # what a graph writes is there only when it has run
            self._is_written = self._is_written or not captures
        elif self._captured or addresses != self._known:
            self._put(self._gradients, addresses, stream)
        self._known = None if self._captured else addresses

    def _put(self, address: int, words: Sequence[int], stream: int) -> None:
        where = Launch(self.device, stream, (1, 1), 1)
        for i in range(0, len(words), WORDS):
            part = words[i : i + WORDS]
            launch.run("put", put, where, (address + WORD * i, *part, *[0] * (WORDS - len(part))))

    def _clip(self, dtype: str, addresses: int, norm: DeviceArray, max_norm: float, scale: float, stream: int) -> int:
        """Compute the norm of arrays and the factor from it; the address of that."""
        factor, pairs = self._results.address, self._results.address + 8
        if self.blocks:
            grid = -(-self.blocks // (NORM_THREADS // NORM_CHAINS))
            slots = self._table.address, addresses, self.arrays, self.blocks, pairs
            where = Launch(self.device, stream, (grid, 1), NORM_THREADS)
            launch.run(("squares", dtype), lambda: squares(dtype), where, slots)
        where = Launch(self.device, stream, (1, 1), NORM_LANES)
        launch.run("norm", whole, where, (pairs, self.blocks, norm.address, factor, float(max_norm), float(scale)))
        return factor

    def update(
        self, grads: Sequence[DeviceArray], numbers: Sequence[float], stream: int, norm: DeviceArray | None = None,
        max_norm: float = 0.0, scale: float = 1.0,
    ) -> None:  # fmt: skip
        """Make a step.

        Parameters
        ----------
        grads : sequence of DeviceArray
            Contiguous, of one dtype; none where the rule takes none: then what is updated is what is clipped.
        numbers : sequence of float
            For the rule, `factor` first.
        stream : int
        norm : DeviceArray, optional
            Where the norm of gradients goes, by which they are clipped; `factor` is then computed from it.
        max_norm, scale : float
        """
        self._tell(grads, stream)
        dtype = grads[0].dtype if grads else ""
        slots: list[float] = [self._table.address, self._gradients, self.arrays, *map(float, numbers)]
        if norm is not None:
            where = self._gradients if grads else self.first_column
            slots[3] = self._clip(dtype or self.dtype, where, norm, max_norm, scale, stream)
        if not self.pieces:
            return
        form = self.rule, self.dtype, dtype, self.master, norm is not None
        where_ = Launch(self.device, stream, (self.pieces, 1), BLOCK)
        spec = rule_kernel_of(self.rule, compute_dtype(self.dtype))
        launch.run((spec, "list", *form[1:]), lambda: step(*form), where_, tuple(slots))
