"""Kernels of a ``map``: each element by itself, in the forms that the arrays allow; see also `columns`.

==============  ====================================================================================================
``vector``      contiguous arrays of one dtype at addresses aligned to 16 bytes: accesses of 16 bytes, one piece of
                `per_thread` elements per thread, a grid that just covers the array
``table``       of 16 bits and one input: the 65,536 results there are, in shared memory
``strided``     anything else: any strides, broadcast arrays, arrays of other dtypes, a mask
==============  ====================================================================================================

Measured on an H100, 2^28 float32, sigmoid: a device copy 0.727 ms, ``vector`` 0.730 with 512 threads a block, 0.736
with 256, 0.743 with 128; two accesses per thread 0.738, four 0.739; cache hints 0.745 to 0.748.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache

from fastact.backends.cuda.compile import Kernel
from fastact.backends.cuda.dtypes import SIZES, is_integer
from fastact.backends.cuda.trace import Trace, Value
from fastact.maths.grammar import bind
from fastact.spec.kernel import KernelSpec, compute_dtype

# threads of a block
BLOCK = 512
# of inputs by their role, arguments and their slots: of the factors of a dropout the least word that is kept, the
# factor of what is kept; of numbers in a range the least and the width of the range; key, counter
RANDOM = {
    "random": (("threshold", "factor", "seed", "offset"), "qdqq"),
    "numbers": (("low", "range_", "seed", "offset"), "ddqq"),
}


def per_thread(dtype: str) -> int:
    """Elements that a thread of the form ``vector`` computes: 16 bytes, and whole blocks of random numbers."""
    return max(4, 16 // SIZES[dtype])


class Writer:
    """What kernels of a spec have in common: their arguments, and the formula over values."""

    def __init__(self, spec: KernelSpec) -> None:
        self.spec = spec
        self.trace = Trace(spec.compute)
        self.inputs = [a for a in spec.inputs if a.role not in RANDOM]
        self.role = next((a.role for a in spec.inputs if a.role in RANDOM), "")
        self.random = bool(self.role)
        # what random numbers need, as arguments
        none: tuple[tuple[str, ...], str] = (), ""
        self.random_names, self.random_slots = RANDOM.get(self.role, none)
        self._formula = spec.body(bind(self.trace.primitives(), spec.compute))
        self.numbers: list[str] = []

    def parameters(self, names: list[str]) -> list[Value]:
        """Numbers for the whole call, in the dtype of the kernel."""
        return [self.trace.fresh(f"{self.spec.compute}({name})") for name in names]

    def outputs(self, inputs: list[Value], params: list[Value], keep: Value | None = None) -> list[Value]:
        """What the formula gives for one element; `keep` is what its random number makes."""
        given = iter(inputs)
        placed = [keep if a.role in RANDOM else next(given) for a in self.spec.inputs]
        return [self.trace.value(v) for v in self._formula(*placed, *params)]

    def keeps(self, count: int, index: str) -> list[Value]:
        """What random numbers make for `count` elements from `index` on, a multiple of `count`."""
        from fastact.backends.cuda.random import factors, numbers

        return (factors if self.role == "random" else numbers)(self.trace, count, index)

    def kernel(self, form: str, arguments: list[str], slots: str, block: int) -> Kernel:
        """The kernel, of the lines that were written."""
        return self.trace.kernel(f"{self.spec.symbol}_{form}", arguments, slots, block)


@cache
def operations(spec: KernelSpec) -> int:
    """How many operations a formula has, as it is written."""
    w = Writer(spec)
    params = w.parameters([f"p{j}" for j in range(len(spec.params))])
    before = len(w.trace.lines)
    w.outputs([Value(w.trace, a.name) for a in w.inputs], params)
    return len(w.trace.lines) - before


def vector(spec: KernelSpec) -> Kernel:
    """The form ``vector``. Arguments: addresses of inputs and outputs, n, numbers, what random numbers need."""
    w = Writer(spec)
    trace, dtype, count = w.trace, spec.dtype, per_thread(spec.dtype)
    size = SIZES[dtype]
    ins = [f"x{j}" for j in range(len(w.inputs))]
    outs = [f"y{j}" for j in range(len(spec.outputs))]
    params = [f"p{j}" for j in range(len(spec.params))]
    given = w.parameters(params)
    trace.line(f"i = (int64(cuda.blockIdx.x) * {BLOCK} + int64(cuda.threadIdx.x)) * {count}")
    with trace.block(f"if i + {count} <= n:"):
        loaded = []
        for x in ins:
            names = [trace.name() for _ in range(count)]
            trace.line(f"{', '.join(names)} = load_{dtype}_{count}({x} + i * {size})")
            loaded.append([Value(trace, name) for name in names])
        keeps = w.keeps(count, "i") if w.random else [None] * count
        results = [w.outputs([x[k] for x in loaded], given, keeps[k]) for k in range(count)]
        for j, y in enumerate(outs):
            stores = ", ".join(result[j].name for result in results)
            trace.line(f"store_{dtype}_{count}({y} + i * {size}, {stores})")
    with trace.block("else:"), trace.block("while i < n:"):
        values = [trace.fresh(f"load_{dtype}({x} + i * {size})") for x in ins]
        keep = w.keeps(1, "i")[0] if w.random else None
        for y, v in zip(outs, w.outputs(values, given, keep)):
            trace.line(f"store_{dtype}({y} + i * {size}, {v.name})")
        trace.line("i += 1")
    arguments = [*ins, *outs, "n", *params, *w.random_names]
    slots = "q" * (len(ins) + len(outs) + 1) + "d" * len(params) + w.random_slots
    return w.kernel("vector", arguments, slots, BLOCK)


# threads of a block that looks up results, and elements of a word
TABLE_BLOCK = 1024
HALVES = 8
TABLE_BYTES = 2 * 65536


def table() -> Kernel:
    """The form ``table``. Arguments: addresses of elements, results by the bits of an element, output; n; blocks.

    bfloat16 gelu is bound by its arithmetic: 2^28 elements on an H100 took 0.587 ms in the form ``vector``, 0.380 so, a
    copy 0.368; with one access per thread under way 0.385, with four 0.384, with blocks of 512 threads 0.403.
    """
    trace = Trace("float32")
    trace.line("words = cuda.shared.array(0, types.uint32)")
    trace.line("halves = cuda.shared.array(0, types.uint16)")
    trace.line("t = int64(cuda.threadIdx.x)")
    for k in range(TABLE_BYTES // 16 // TABLE_BLOCK):
        trace.line(f"q = t + {k * TABLE_BLOCK}")
        trace.line("a, b, c, d = load_words(results + q * 16)")
        for j, word in enumerate("abcd"):
            trace.line(f"words[q * 4 + {j}] = {word}")
    trace.line("cuda.syncthreads()")
    trace.line(f"step = blocks * {TABLE_BLOCK}")
    trace.line(f"i = int64(cuda.blockIdx.x) * {TABLE_BLOCK} + t")
    trace.line(f"count = n // {HALVES}")

    def look_up(places: tuple[str, ...]) -> None:
        for p, place in enumerate(places):
            trace.line(f"a{p}, b{p}, c{p}, d{p} = load_words(x + ({place}) * 16)")
        for p, place in enumerate(places):
            for word in "abcd":
                low, high = f"halves[{word}{p} & uint32(65535)]", f"halves[{word}{p} >> uint32(16)]"
                trace.line(f"{word}{p} = uint32({low}) | (uint32({high}) << uint32(16))")
            trace.line(f"store_words(y + ({place}) * 16, a{p}, b{p}, c{p}, d{p})")

    with trace.block("while i + step < count:"):
        look_up(("i", "i + step"))
        trace.line("i += 2 * step")
    with trace.block("if i < count:"):
        look_up(("i",))
    # the elements after the last word
    trace.line(f"i = count * {HALVES} + t")
    with trace.block("if cuda.blockIdx.x == 0 and i < n:"):
        trace.line("store_bits(y + i * 2, uint32(halves[load_bits(x + i * 2)]))")
    return trace.kernel("table", ["x", "results", "y", "n", "blocks"], "qqqqq", TABLE_BLOCK)


def patterns() -> Kernel:
    """All 65,536 elements of 16 bits, in the order of their bits."""
    lines = ["    i = int64(cuda.blockIdx.x) * 256 + int64(cuda.threadIdx.x)", "    store_bits(y + i * 2, uint32(i))"]
    return Kernel("patterns", "float32", "q", "\n".join(["def kernel(y):", *lines]), {}, 256)


def strided(spec: KernelSpec, ndim: int, dtypes: tuple[str, ...], masked: bool) -> Kernel:
    """The form ``strided``.

    Arguments: addresses of arrays, of inputs, parameters, outputs and the mask; n; the lengths of all dimensions but
    the first; the bytes from element to element of each array along each dimension; numbers.

    Parameters
    ----------
    spec : KernelSpec
    ndim : int
    dtypes : tuple of str
        Of inputs, parameters and outputs in memory; that of a number is "".
    masked : bool
        Whether there is a mask: where it does not hold nothing is written.
    """
    w = Writer(spec)
    trace = w.trace
    every = [f"x{j}" for j in range(len(w.inputs))] + [f"p{j}" for j in range(len(spec.params))]
    outs = [f"y{j}" for j in range(len(spec.outputs))]
    dtype_of = dict(zip([*every, *outs], dtypes))
    numbers = [name for name in every if not dtype_of[name]]
    arrays = [name for name in (*every, *outs) if dtype_of[name]] + (["mask"] if masked else [])
    values = dict(zip(numbers, w.parameters(numbers)))
    trace.line(f"i = int64(cuda.blockIdx.x) * {BLOCK} + int64(cuda.threadIdx.x)")
    with trace.block("if i < n:"):
        trace.line("rest = i")
        for name in arrays:
            trace.line(f"a_{name} = {name}")
        for d in reversed(range(ndim)):
            if d:
                trace.line(f"at = rest % n{d}")
                trace.line(f"rest = rest // n{d}")
            else:
                trace.line("at = rest")
            for name in arrays:
                trace.line(f"a_{name} += at * s_{name}_{d}")
        with trace.block("if load_byte(a_mask) != 0:") if masked else nullcontext():
            for name in every:
                if dtype_of[name]:
                    values[name] = trace.fresh(_converted(f"load_{dtype_of[name]}(a_{name})", dtype_of[name], spec))
            keep = w.keeps(1, "i")[0] if w.random else None
            given = [values[name] for name in every]
            for y, v in zip(outs, w.outputs(given[: len(w.inputs)], given[len(w.inputs) :], keep)):
                text = v.name
                if SIZES[spec.dtype] == 2 and dtype_of[y] != spec.dtype:
                    # as on the CPU, a result is of its own dtype before it is of another one
                    text = f"round_{spec.dtype}({text})"
                trace.line(stored(f"a_{y}", text, dtype_of[y], spec.compute))
    lengths = [f"n{d}" for d in range(1, ndim)]
    strides = [f"s_{name}_{d}" for name in arrays for d in range(ndim)]
    arguments = [*arrays, "n", *lengths, *strides, *numbers, *w.random_names]
    slots = "q" * (len(arrays) + 1 + len(lengths) + len(strides)) + "d" * len(numbers)
    form = "_".join(["strided", str(ndim), *(d or "number" for d in dtypes), *(["masked"] if masked else [])])
    return w.kernel(form, arguments, slots + w.random_slots, BLOCK)


def stored(address: str, value: str, dtype: str, compute: str) -> str:
    """The line that stores a value of the dtype that is computed in as one of another dtype, rounded as NumPy does."""
    if dtype == "float16" and compute == "float64":
        return f"store_float16_double({address}, {value})"
    to = _computed(dtype)
    return f"store_{dtype}({address}, {value if to == compute else f'{to}({value})'})"


def _converted(text: str, dtype: str, spec: KernelSpec) -> str:
    return text if _computed(dtype) == spec.compute else f"{spec.compute}({text})"


def _computed(dtype: str) -> str:
    # integers and booleans come and go as float64
    return "float64" if is_integer(dtype) else compute_dtype(dtype)
