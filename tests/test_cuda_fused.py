"""Fused functions, gated units, dropout and rrelu of arrays on a device, in the simulator: the bits of the host."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import random_oracle
from cases import DTYPES, flat, same
from cuda_calls import (  # noqa: F401
    Guarded,
    assert_same,
    check,
    error_of,
    host,
    on_device,
    placed,
    simulated,
    twin,
)
from ulp import BFLOAT16

import fastact as fa
from fastact.api.device_fused import DeviceCall
from fastact.backends import reference
from fastact.backends.cuda import columns, fused, launch, simulator, sums
from fastact.backends.cuda.array import DeviceArray
from fastact.backends.cuda.fused import Job
from fastact.backends.reference.sums import column_sums, fold
from fastact.maths.rows import pair_add
from fastact.runtime import _driver
from fastact.spec.kernel import compute_dtype, kernel_of
from fastact.spec.kinds import ALL, FUSED, has, outputs_of
from fastact.spec.table import OPS, kernel_rows
from fastact.spec.units import UNITS

F16, F32, F64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
RANDOM = float(0x500000), 1 / (1 - 0x500000 / 2**24), 0xDEADBEEF_12345678, 3


def numbers(shape, dtype, seed=0):
    """Ordinary numbers, and both zeros."""
    rng = np.random.default_rng([seed, *np.atleast_1d(shape)])
    a = np.asarray(rng.standard_normal(shape) * 2)
    a[rng.random(shape) < 0.1] = 0.0
    a[rng.random(shape) < 0.1] = -0.0
    return a.astype(dtype)


def view(a):
    return DeviceArray(a.ctypes.data, a.shape, a.strides, a.dtype.name, 0, a)


def scratch(shape, dtype):
    return view(Guarded(shape, BFLOAT16 if dtype == "bfloat16" else dtype).array)


class Called:
    """A kernel over (outer, channel, inner) on guarded memory, and what the reference gives."""

    def __init__(self, op, kind, dtype, shape, offset=0, params=None):
        spec = kernel_of(op, kind, dtype.name)
        outer, channel, inner = shape
        compute = np.dtype(compute_dtype(dtype.name))
        self.values, self.roles, given, roles = [], "", [], ""

        def column(seed):
            x = placed(numbers(channel, dtype, seed), offset)
            self.values.append(DeviceArray(x.ctypes.data, shape, (0, x.itemsize, 0), dtype.name, 0, x))
            self.roles += "c"
            given.append(x)
            return "c"

        for j, argument in enumerate(ALL[kind].inputs):
            if argument.role == "random":
                given.append(None)
                roles += "r"
            elif argument.role == "col":
                roles += column(j)
            else:
                x = placed(numbers(shape, dtype, j), offset)
                self.values.append(view(x))
                self.roles += "a"
                given.append(x)
                roles += "a"
        for p in op.params:
            if op.param_grad is not None:
                roles += column(9)
                continue
            value = p.default if params is None else params[p.name]
            self.values.append(float(value))
            self.roles += "v"
            given.append(np.array([value], compute))
            roles += "v"
        self.outputs, self.sums = [], []
        for argument in outputs_of(op, kind):
            if argument.role == "map":
                self.outputs.append(Guarded(shape, dtype, offset))
                given.append(np.zeros(shape, dtype))
                roles += "a"
            else:
                self.sums.append(Guarded(channel, compute))
                given.append(None)
                roles += "s"
        random = RANDOM if "r" in roles else None
        self.job = Job(
            spec, self.values, self.roles, [view(y.array) for y in self.outputs], shape, scratch, 0,
            [view(s.array) for s in self.sums], random,
        )  # fmt: skip
        fused.run(self.job)
        found = reference.fused(op, kind, dtype.name)(given, roles, outer, channel, inner, random)
        maps = [a for a, role in zip(given[len(self.values) + roles.count("r") :], roles[-len(outputs_of(op, kind)) :])
                if role == "a"]  # fmt: skip
        assert_same(tuple(y.array for y in self.outputs), tuple(maps))
        assert_same(tuple(s.array for s in self.sums), tuple(found))
        assert all(y.whole for y in (*self.outputs, *self.sums))

    @property
    def form(self):
        return fused.form(self.job)


def rows_of(kind):
    """Rows of the table with a kind; those of norms alone are of the identity."""
    if kind.startswith(("moments", "scaled")):
        return [OPS["identity"]]
    return [op for op in kernel_rows() if has(op, kind) and all(p.default is not None for p in op.params)]


@each_dtype
# param_backward, of prelu alone, is a part of backward_with_param
@pytest.mark.parametrize("kind", [kind for kind in ALL if kind != "param_backward"])
def test_every_kind(kind, dtype):
    """Of several activations, each in turn; of those with a learnt parameter all."""
    ops = rows_of(kind)
    start = list(ALL).index(kind) * 3 + DTYPES.index(dtype)
    chosen = {ops[(start + 5 * i) % len(ops)] for i in range(3)} if ops else set()
    chosen |= {op for op in kernel_rows() if op.param_grad is not None and has(op, kind) and kind in FUSED}
    assert chosen
    shapes = ((7, 6, 1), (2, 3, 5), (1, 16, 1), (2, 1, 8))
    for op, (i, shape) in itertools.product(sorted(chosen, key=lambda op: op.name), enumerate(shapes)):
        Called(op, kind, dtype, shape, offset=i % 2)


@pytest.mark.parametrize("op", [op for op in kernel_rows() if all(p.default is not None for p in op.params)],
                         ids=lambda op: op.name)  # fmt: skip
def test_every_activation(op):
    """With a bias and its gradient, with sums."""
    Called(op, "biased_backward", F32, (6, 4, 1))
    Called(op, "biased", F64, (2, 2, 6))


def test_parameters_that_are_numbers():
    for op in kernel_rows():
        if op.params and op.param_grad is None:
            values = {"min_val": -0.75, "max_val": 1.5}
            params = {p.name: values.get(p.name, 0.5) for p in op.params}
            Called(op, "biased_backward", F32, (5, 4, 1), params=params)


COLUMNS = (1, 3, 4, 5, 15, 16, 17, 511, 513, 520)
ROWS = (1, 2, 3, 4, 5, 63, 64, 65, 67, 129)


@each_dtype
def test_columns_across_borders(dtype):
    """Of several rows side by side, in words that end with the array or not."""
    for i, n in enumerate(COLUMNS):
        rows = 2 if n > 100 else 9
        Called(OPS["relu"], "biased", dtype, (rows, n, 1), offset=i % 3)
        if n < 100 or DTYPES.index(dtype) == i % 4:
            Called(OPS["prelu"], "biased_backward", dtype, (rows, n, 1), offset=i % 3)


@pytest.mark.parametrize("rows", ROWS)
def test_rows_across_borders(rows):
    """Of 512 columns, which no rows lie beside, and of 8, where many rows are taken as one."""
    Called(OPS["relu"], "biased_backward", F32, (rows, 512, 1))
    Called(OPS["relu"], "biased_backward", F16, (rows * 64, 8, 1))


@pytest.mark.parametrize("dtype", [F32, F64], ids=lambda d: d.name)
def test_wide_rows(dtype):
    """Beyond 4096 columns no rows lie side by side, however many there are."""
    for n, offset in ((4097, 0), (4104, 1)) if dtype == F32 else ((4100, 0),):
        Called(OPS["relu"], "biased_backward", dtype, (3, n, 1), offset=offset)


INNER = (2, 3, 8, 63, 64, 65, 255, 256, 257, 513, 1024, 1026, 2048, 4095, 4096)


@each_dtype
def test_segments_across_borders(dtype):
    for i, n in enumerate(INNER):
        Called(OPS["prelu"], "biased_backward", dtype, (2 if n < 300 else 1, 2, n), offset=i % 2)


@pytest.mark.parametrize("inner", [4097, 4100, 8193, 65535, 65536, 65537, 131080])
def test_segments_of_several_pieces(inner):
    Called(OPS["relu"], "biased_backward", F32, (1, 1 if inner > 9000 else 2, inner))
    if inner < 9000:
        Called(OPS["relu"], "biased_backward", F64, (2, 3, inner))


def test_sums_do_not_depend_on_how_memory_lies():
    """Other words, other grids: at each offset the bits are those of the host, and so of each other."""
    for offset in range(5):
        Called(OPS["relu"], "biased_backward", F16, (70, 16, 1), offset=offset)
        Called(OPS["relu"], "biased_backward", F16, (2, 2, 1024), offset=offset)


def test_sums_of_what_is_not_finite():
    x = numbers((70, 6), F32)
    x[3, 1], x[4, 2], x[5, 2], x[6, 3] = np.inf, np.inf, -np.inf, np.nan
    x[:, 4] = 3e38
    x[:, 5] = -0.0
    with np.errstate(all="ignore"):
        check(fa.identity.biased_backward, x, np.ones_like(x), np.zeros(6, np.float32))
        check(fa.identity.biased_backward, x.T.copy(), np.ones((6, 70), np.float32), np.zeros(6, np.float32), axis=0)


@pytest.mark.parametrize("blocks", [0, 1, 7, 8, 9, 63, 64, 65, 75, 128, 200])
def test_combined_pairs(blocks):
    """Blocks across what a thread and a group of threads loads, columns across what they take; several dtypes."""
    n = 37
    pairs = numbers((2, 2, blocks, n), F32)
    to = [Guarded(n, F32), Guarded(n, F64)]
    kernel = sums.combine("float32", ("float32", "float64"))
    part, grid = blocks * n * 4, (-(-n // sums.COMBINE_COLUMNS), 2)
    slots = pairs.ctypes.data, part, 2 * part, blocks, n * 4, n, *(t.array.ctypes.data for t in to)
    simulator.run(kernel, grid, sums.COMBINE_BLOCK, 0, slots)
    for s in range(2):
        high = low = np.zeros(n, np.float32)
        for b in range(blocks):
            high, low = pair_add(high, low, pairs[s, 0, b], pairs[s, 1, b])
        assert_same(to[s].array, (high + low).astype(to[s].array.dtype))
        assert to[s].whole


@pytest.mark.parametrize("n", [0, 1, 2, 127, 128, 129, 256, 257, 259, 1000, 4097])
def test_pairwise_sums(n):
    for dtype in (F32, F64):
        x, to = numbers(n, dtype), Guarded((), F64)
        fused.total(view(x), view(to.array), scratch, 0)
        assert_same(to.array, np.float64(_driver.pairwise(x)))
        assert to.whole


class Launched(list):
    """Records launches and does nothing else."""

    def __call__(self, key, make, where, slots):
        self.append((key, launch.made(key, make), where, slots))


def far_block(kernel, number, block, slots):
    """Run one block of threads of a grid."""
    function, cuda, waits = simulator._compiled(kernel)
    args = [np.int64(v) if slot == "q" else np.float64(v) for v, slot in zip(slots, kernel.slots, strict=True)]
    with np.errstate(all="ignore"):
        cuda.blockIdx.x, cuda.blockIdx.y, cuda.memory = number, 0, {}
        if waits:
            simulator._together(cuda, [function(*args) for _ in range(block)])
        else:
            for cuda.threadIdx.x in range(block):
                function(*args)


@pytest.mark.parametrize("form", ["columns", "column_sums", "segment_sums"])
def test_beyond_2_to_the_31(form, monkeypatch):
    """Arrays of 2^34 elements and 2^19 blocks of rows: the last blocks, on memory that ends where the arrays would."""
    launched = Launched()
    monkeypatch.setattr(launch, "run", launched)
    along = form != "segment_sums"
    shape = (1 << 25, 512, 1) if along else (1 << 13, 1 << 9, 1 << 12)
    total, rows, width = math.prod(shape), *((1 << 25, 512) if along else (1 << 22, 1 << 12))
    own = 64 if along else 1  # rows of memory that is there
    kind = "biased" if form == "columns" else "biased_backward"
    given = [numbers((own, width), F32, j) for j in range(1 if form == "columns" else 2)]
    bias, out = numbers(512, F32, 5), Guarded((own, width), F32)
    start = (total - own * width) * 4  # bytes before that

    def whole(a):
        return DeviceArray(a.ctypes.data - start, shape, None, "float32", 0, a)

    column = DeviceArray(bias.ctypes.data, shape, (0, 4, 0), "float32", 0, bias)
    work = np.full(1 << 12, np.nan, np.float32) if along else np.empty(2 * rows, np.float32)
    spec = kernel_of(OPS["relu"], kind, "float32")
    sum_of = view(np.zeros(512, np.float32))
    job = Job(spec, [*map(whole, given), column], "a" * len(given) + "c", [whole(out.array)], shape,
              lambda shape, dtype: view(work), 0, [] if form == "columns" else [sum_of])  # fmt: skip
    fused.run(job)
    key, kernel, where, slots = launched[0]
    assert key[1] == form
    assert where.grid[1] == 1
    assert where.grid[0] > 65535
    slots = list(slots)
    if form == "column_sums":
        # partial sums of the last block alone
        slots[slots.index(work.ctypes.data)] -= 2 * 512 * 4 * (rows // 64 - 1)
    blocks = {"columns": own // 4 * (width // 4) // columns.BLOCK, "column_sums": 512 // 64, "segment_sums": 1}[form]
    for number in range(where.grid[0] - blocks, where.grid[0]):
        far_block(kernel, number, where.block, slots)
    biases = bias if along else bias[-1]
    want = fa.relu(given[0] + biases) if form == "columns" else fa.relu.backward(given[0], given[1] + biases)
    assert out.whole
    assert_same(out.array, want)
    if form == "column_sums":
        assert_same((work[:512], work[512:1024]), column_sums(want))
    if form == "segment_sums":
        assert_same((work[rows - 1], work[-1]), fold(*column_sums(want.reshape(-1, 64))))


# ---- the public functions


@each_dtype
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_bias_along_any_axis(axis, dtype):
    shape = 3, 4, 5
    x, dy, b = numbers(shape, dtype), numbers(shape, dtype, 1), numbers(shape[axis], dtype, 2)
    check(fa.elu.biased, x, b, axis=axis, alpha=0.5)
    check(fa.relu.biased_backward, dy, x, b, axis=axis)
    check(fa.prelu.backward, dy, x, b, axis=axis)
    check(fa.prelu.biased_backward, dy, x, b, b.reshape([-1 if i == axis % 3 else 1 for i in range(3)]), axis=axis)
    check(fa.relu.fused, x, b, residual=dy, dropout=0.25, seed=7, axis=axis)
    check(fa.relu.fused_backward, dy, x, b, dropout=0.25, seed=7, offset=2**64 - 3, axis=axis)


@each_dtype
def test_weights_of_prelu(dtype):
    """A number, one value, values along axes apart; a weight that all channels share beside a bias."""
    x, dy = numbers((3, 4, 5), dtype), numbers((3, 4, 5), dtype, 1)
    for weight in (0.25, np.ones((), dtype), np.ones(1, dtype), numbers((3, 1, 5), dtype), numbers((4, 1), dtype)):
        check(fa.prelu.backward, dy, x, weight)
        check(fa.prelu.fused_backward, dy, x, weight=weight, dropout=0.5, seed=3)
    b = numbers(5, dtype, 2)
    for weight in (0.25, np.ones(1, dtype), numbers(5, dtype, 3)):
        check(fa.prelu.biased_backward, dy, x, b, weight)
        check(fa.prelu.biased, x, b, weight)
        check(fa.prelu.gated_backward, dy, x, x, weight)


def test_parameters_that_are_arrays():
    x, dy, b = (numbers((3, 4), F32, j) for j in range(3))
    for alpha in (np.float32([0.5]), np.float32([0.1, 0.2, 0.3, 0.4]), np.float32([[0.1], [0.2], [0.3]]), abs(b)):
        check(fa.elu.gated, x, dy, alpha=alpha)
        check(fa.elu.biased, x, b[0], alpha=alpha)
        check(fa.elu.biased_backward, dy, x, b[0], alpha=alpha)
    check(fa.hard_tanh.gated, x, dy, min_val=np.float32([-1, -2, -3, -4]), max_val=0.5)
    check(fa.shrink.biased, x, b[0], bias=0.25)


def layouts(shape, dtype, seed):
    """The same numbers, laid out in several ways."""
    a = numbers(shape, dtype, seed)
    wide = np.zeros((shape[0], 2, shape[1]), dtype)
    wide[:, 1] = a
    twice = np.repeat(a, 2, axis=1)
    return [a, np.asfortranarray(a), placed(a, 1), wide[:, 1], twice[:, ::2], a[:, ::-1], np.broadcast_to(a[:1], shape),
            np.broadcast_to(a[:, :1], shape)]  # fmt: skip


@each_dtype
def test_layouts(dtype):
    shape = 5, 8
    one, other = layouts(shape, dtype, 0), layouts(shape, dtype, 1)
    for i, x in enumerate(one):
        dy = other[(3 * i + 1) % len(other)]
        b = numbers(16, dtype, 3)[:: 2 if i % 2 else 1][:8]
        check(fa.relu.biased, x, b)
        check(fa.relu.biased_backward, dy, x, b)
        check(fa.relu.gated, x, dy)
        check(fa.relu.gated_backward, dy, x, other[i])
        check(fa.prelu.backward, dy, x, numbers(5, dtype, 4), axis=0)
        check(fa.dropout, x, 0.5, seed=3)
        check(fa.relu.fused, x, b, residual=dy, dropout=0.5, seed=3)
        check(fa.rrelu.backward, np.ascontiguousarray(dy), x, training=True, seed=5)


def test_numbers_in_the_place_of_arrays():
    for dtype in (F32, F16, BFLOAT16):
        x, b = numbers((3, 4), dtype), numbers(4, dtype)
        check(fa.relu.biased_backward, 1.1, x, b)
        check(fa.relu.gated, x, 0.1)
        check(fa.relu.gated, np.float64(0.1), x)
        check(fa.relu.fused, x, residual=0.1)
        check(fa.prelu.backward, 2, x, b)


def test_mixed_dtypes():
    x, b = numbers((3, 4), F16), numbers(4, F16)
    for other in (x.astype(BFLOAT16), x.astype(F32), x.astype(np.int32), x > 0):
        check(fa.relu.biased_backward, other, x, b)
        check(fa.relu.gated, x, other)
        check(fa.relu.biased, other, b)
        check(fa.dropout, other, 0.5, seed=1)
    check(fa.relu.biased, x, b.astype(F64))


SHAPES = {"rows": (0, 6), "columns": (3, 0), "middle": (2, 0, 3), "channels": (0, 4, 2)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_empty(shape):
    x, axis = numbers(shape, F32), 1
    b = numbers(shape[axis], F32)
    check(fa.relu.biased, x, b, axis=axis)
    check(fa.relu.biased_backward, x, x, b, axis=axis)
    check(fa.prelu.backward, x, x, 0.25)
    check(fa.prelu.biased_backward, x, x, b, np.float32([0.25]), axis=axis)
    check(fa.relu.gated_backward, x, x, x)
    check(fa.swiglu, x, axis=0) if shape[0] % 2 == 0 else None
    check(fa.dropout, x, 0.5, seed=1)


def written(function, arrays, outs, **keywords):
    """Call it on the host and on the device with these arrays as `out`; all must then hold the same."""
    device = [twin(a) for a in arrays]
    places = dict(zip(map(id, arrays), map(on_view, device)))
    mine = [places.get(id(a)) or on_view(twin(a)) if a is not None else None for a in outs]
    function(*arrays, out=outs[0] if len(outs) == 1 else tuple(outs), **keywords)
    got = function(*(places[id(a)] for a in arrays), out=mine[0] if len(mine) == 1 else tuple(mine), **keywords)
    for a, b, c in zip(outs, mine, flat(got)):
        if a is not None:
            assert c is b
            assert_same(host(b), a)
    for a in arrays:
        assert_same(host(places[id(a)]), a)


def on_view(a):
    """An array of the device over this memory."""
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

    return FakeCUDAArray(a)


@each_dtype
def test_out(dtype):
    """In place of each input, poisoned, strided, of another dtype."""
    shape = 5, 8
    poison = np.full(shape, np.nan, dtype)

    def arrays(n):
        return [numbers(shape, dtype, j) for j in range(n)]

    for place in range(2):
        x, dy = arrays(2)
        b = numbers(8, dtype, 5)
        written(fa.relu.biased_backward, [dy, x, b], [[dy, x][place], b])
        x, y = arrays(2)
        written(fa.relu.gated, [x, y], [[x, y][place]])
        x, y = arrays(2)
        written(fa.relu.gated_backward, [x, y, numbers(shape, dtype, 7)], [x, y] if place else [y, None])
    x, b = numbers(shape, dtype), numbers(8, dtype, 5)
    written(fa.relu.biased, [x, b], [poison.copy()])
    written(fa.relu.biased, [x, b], [np.full((8, 5), np.nan, dtype).T])
    written(
        fa.relu.biased_backward, [x, x.copy(), b], [np.full((5, 16), np.nan, dtype)[:, ::2], np.zeros((16), dtype)[::2]]
    )
    written(fa.relu.biased_backward, [x, x.copy(), b], [np.full(shape, np.nan, F64), np.full(8, np.nan, F32)])
    written(fa.relu.gated, [x, x.copy()], [np.full(shape, np.nan, BFLOAT16)])
    written(lambda x, out: fa.dropout(x, 0.5, seed=3, out=out), [x], [x])
    written(lambda x, out: fa.dropout(x.T, 0.5, seed=3, out=out), [x], [np.full((8, 5), np.nan, dtype)])
    written(lambda x, out: fa.rrelu(x, training=True, seed=3, out=out), [x], [x])
    written(lambda x, out: fa.rrelu(x, training=False, out=out), [x], [x])


def test_out_that_overlaps_by_a_part():
    """As if all inputs had been copied first."""
    for function in (
        lambda a, b, out: fa.relu.gated(a, b, out=out),
        lambda a, b, out: fa.relu.biased(a, b[0], out=out),
    ):
        base = numbers(64, F32)
        mine = twin(base)
        want = function(base[:32].reshape(4, 8), base[16:48].reshape(4, 8).copy(), np.empty((4, 8), np.float32))
        part = on_view(mine[:32].reshape(4, 8)), on_device(base[16:48].reshape(4, 8)), on_view(mine[4:36].reshape(4, 8))
        assert_same(function(*part), want)


@each_dtype
@pytest.mark.parametrize("name", UNITS)
def test_gated_units(name, dtype):
    unit = getattr(fa, name)
    pair, dy = [numbers((3, 8), dtype, j) for j in range(2)], numbers((3, 8), dtype, 2)
    check(unit, *pair)
    check(unit.backward, dy, *pair)
    for shape, axis in (((3, 16), -1), ((2, 6, 5), 1), ((4, 3), 0), ((5, 10), 1)):
        x = numbers(shape, dtype, 3)
        half = tuple(n // 2 if i == axis % len(shape) else n for i, n in enumerate(shape))
        for halves in (None, "gate_last"):
            check(unit, x, axis=axis, halves=halves)
            check(unit.backward, numbers(half, dtype, 4), x, axis=axis, halves=halves)
    x = numbers((3, 16), dtype, 3)
    written(lambda dy, x, out: unit.backward(dy, x, out=out), [dy, x], [x])
    written(lambda x, out: unit(x, out=out), [x], [np.full((3, 8), np.nan, dtype)])
    check(unit, x[:, ::-1])
    check(unit, np.asfortranarray(x))


def test_halves_of_rows_are_read_in_whole_words(monkeypatch):
    """Of a packed array each half lies in rows of its own, and goes to the form for rows that lie apart."""
    launched = Launched()
    monkeypatch.setattr(launch, "run", launched)
    for dtype, count in ((F32, 4), (F16, 8), (F64, 2)):
        fa.swiglu(on_device(placed(numbers((6, 32), dtype))))
        ((_, form, roles, words, _), *_) = launched.pop()
        assert (form, roles, words) == ("columns", "aa", count)


@each_dtype
def test_dropout(dtype):
    for shape in ((), (1,), (3,), (4,), (7, 9), (1, 130)):
        x = numbers(shape, dtype)
        for offset in (0, 2**32 - 1, 2**64 - 2):
            check(fa.dropout, x, 0.3, seed=2**64 - 1, offset=offset)
        check(fa.dropout.backward, x, 0.3, seed=5)
        check(fa.rrelu, x, 0.25, 0.75, training=True, seed=2**63, offset=2**64 - 1)
        check(fa.rrelu, x, training=False)
        check(fa.rrelu.backward, x, x, training=True, seed=1)
        check(fa.rrelu.backward, x, x, training=False)


def test_numbers_are_those_published():
    """Random123, kat_vectors, philox4x32 10: counter 0 under key 0; the slopes of rrelu are the numbers themselves."""
    words = np.array([0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8])
    got = host(fa.rrelu(on_device(np.full(4, -1.0)), 0.0, 1.0, training=True, seed=0))
    assert (got == -((words >> 8) * 2.0**-24)).all()
    for seed, offset in ((0, 0), (2**64 - 1, 2**64 - 3), (12345, 2**32 - 2)):
        got = host(fa.rrelu(on_device(np.full((5, 5), -1.0).T), 0.0, 1.0, training=True, seed=seed, offset=offset))
        assert (-got.ravel() == random_oracle.numbers(seed, offset, 25)).all()


def test_plain_activations_of_numbers_and_to_other_dtypes():
    """Results in 16 bits are rounded to them before they are written elsewhere; NumPy's numbers have a dtype."""
    for dtype in (F16, BFLOAT16, F32):
        x = numbers((5, 7), dtype)
        check(fa.elu, x, alpha=0.7)
        check(fa.relu.backward, 1.1, x)
        check(fa.relu.backward, np.float64(1.1), x)
        for other in (F32, F64):
            written(fa.gelu, [x], [np.full((5, 7), np.nan, other)])
            written(lambda x, m, out: fa.gelu(x, out=out, where=m), [x, x > 0], [np.full((5, 7), 0.1, other)])


# ---- mistakes

A34, A4, A3, A36 = numbers((3, 4), F32), numbers(4, F32), numbers(3, F32), numbers((3, 6), F32)
WORDS = A34.astype(np.int64)
MISTAKES = {
    "bias of another length": lambda d: fa.relu.biased(d(A34), d(A3)),
    "bias of two dimensions": lambda d: fa.relu.biased(d(A34), d(A34)),
    "an axis that is not there": lambda d: fa.relu.biased(d(A34), d(A4), axis=2),
    "an axis that is no integer": lambda d: fa.relu.biased(d(A34), d(A4), axis=1.5),
    "shapes": lambda d: fa.relu.gated(d(A34), d(A3)),
    "shapes of a unit": lambda d: fa.swiglu(d(A34), d(A3)),
    "complex numbers": lambda d: fa.relu.gated(d(A34 * 1j), d(A34)),
    "complex numbers, packed": lambda d: fa.swiglu(d(A34 * 1j)),
    "complex numbers, dropped": lambda d: fa.dropout(d(A34 * 1j), 0.5, seed=1),
    "shape of out": lambda d: fa.relu.biased(d(A34), d(A4), out=d(A3)),
    "dtype of out": lambda d: fa.relu.biased(d(A34), d(A4), out=d(WORDS)),
    "a narrower out": lambda d: fa.relu.gated(d(A34.astype(BFLOAT16)), d(A34.astype(BFLOAT16)), out=d(A34.astype(F16))),
    "number of outs": lambda d: fa.relu.biased_backward(d(A34), d(A34), d(A4), out=(d(A34),)),
    "shape of a sum's out": lambda d: fa.relu.biased_backward(d(A34), d(A34), d(A4), out=(None, d(A3))),
    "no array": lambda d: fa.relu.biased(d(A34)),
    "an unknown keyword": lambda d: fa.relu.biased(d(A34), d(A4), alpha=1.0),
    "a parameter outside its domain": lambda d: fa.elu.biased(d(A34), d(A4), alpha=math.inf),
    "parameters out of order": lambda d: fa.hard_tanh.gated(d(A34), d(A34), min_val=2.0, max_val=1.0),
    "no weight": lambda d: fa.prelu.backward(d(A34), d(A34)),
    "shape of a weight": lambda d: fa.prelu.backward(d(A34), d(A34), d(A3)),
    "axis of a weight": lambda d: fa.prelu.backward(d(A34), d(A34), d(A4), axis=0),
    "weight along another axis": lambda d: fa.prelu.biased_backward(d(A34), d(A34), d(A4), d(A3[:, None])),
    "shape of a parameter": lambda d: fa.elu.gated(d(A34), d(A34), alpha=d(A3)),
    "more than x": lambda d: fa.relu.fused_backward(d(A34[None]), d(A34), d(A4)),
    "a residual of more than x": lambda d: fa.relu.fused(d(A34), d(A4), residual=d(A34[None])),
    "a gradient of more than x": lambda d: fa.relu.fused_backward(d(A34[None]), d(A34)),
    "dropout": lambda d: fa.relu.fused(d(A34), dropout=1.5, seed=1),
    "no seed": lambda d: fa.relu.fused(d(A34), dropout=0.5),
    "out for no bias": lambda d: fa.relu.fused_backward(d(A34), d(A34), out=(None, d(A4))),
    "p": lambda d: fa.dropout(d(A34), 2, seed=1),
    "shape of a dropout's out": lambda d: fa.dropout(d(A34), 0.5, seed=1, out=d(A3)),
    "dtype of a dropout's out": lambda d: fa.dropout(d(A34), 0.5, seed=1, out=d(WORDS)),
    "shapes of rrelu": lambda d: fa.rrelu.backward(d(A34), d(A4), training=True, seed=1),
    "no seed of rrelu": lambda d: fa.rrelu(d(A34), training=True),
    "shape of rrelu's out": lambda d: fa.rrelu(d(A34), training=False, out=d(A3)),
    "an odd length": lambda d: fa.swiglu(d(np.zeros((3, 5)))),
    "halves": lambda d: fa.swiglu(d(A34), halves="both"),
    "axis of a unit": lambda d: fa.swiglu(d(A34), axis=3),
    "axis with two arrays": lambda d: fa.swiglu(d(A34), d(A34), axis=0),
    "shape of a unit's gradient": lambda d: fa.swiglu.backward(d(A34), d(A34)),
    "shape of a unit's out": lambda d: fa.swiglu(d(A36), out=d(A34)),
    "dtype of a unit's out": lambda d: fa.swiglu(d(A36), out=d(np.zeros((3, 3), int))),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_the_words_of_the_host(mistake):
    call = MISTAKES[mistake]
    assert error_of(call, on_device) == error_of(call, lambda a: a)


def test_outs_that_share_memory():
    out = on_device(A34)
    with pytest.raises(ValueError, match=r"relu.biased_backward: the arrays of out share memory"):
        fa.relu.biased_backward(on_device(A34), on_device(A34), on_device(A4), out=(out, out[0]))


MIXED = {
    "bias": (lambda d, h: fa.relu.biased(d(A34), h(A4)), "relu.biased: x is an array of Numba's simulator, bias is"),
    "x": (lambda d, h: fa.relu.biased(h(A34), d(A4)), "relu.biased: bias is an array of Numba's simulator, x is"),
    "a list": (lambda d, h: fa.relu.biased(d(A34), [1.0] * 4), "bias is list in the memory of the host"),
    "a parameter": (lambda d, h: fa.elu.gated(d(A34), d(A34), alpha=h(A4)), "alpha is an array of NumPy in the memory"),
    "a residual": (lambda d, h: fa.relu.fused(d(A34), residual=h(A34)), "residual is an array of NumPy in the memory"),
    "dy": (lambda d, h: fa.swiglu.backward(h(A34[:, :2]), d(A34)), "dy is an array of NumPy in the memory of the host"),
    "out": (lambda d, h: fa.relu.biased(d(A34), d(A4), out=h(A34)), "out must be an array on that device"),
    "out of the device": (lambda d, h: fa.relu.biased(h(A34), h(A4), out=d(A34)), "out is on a GPU, x is an array of"),
    "a unit's out of the device": (lambda d, h: fa.swiglu(h(A34), out=d(A34)), "out is on a GPU, x is an array of"),
    "a dropout's out of the device": (
        lambda d, h: fa.dropout(h(A34), 0.5, seed=1, out=d(A34)),
        "out is on a GPU, x is",
    ),
    "a dropout's out": (lambda d, h: fa.dropout(d(A34), 0.5, seed=1, out=h(A34)), "out must be an array on that"),
    "rrelu": (lambda d, h: fa.rrelu.backward(h(A34), d(A34), training=True, seed=1), "dy is an array of NumPy"),
}


@pytest.mark.parametrize("what", MIXED)
def test_arrays_in_two_places(what):
    """An error that says which is where; nothing is written."""
    call, words = MIXED[what]
    kind, text = error_of(call, on_device, lambda a: a.copy())
    assert kind is TypeError
    assert words in text


def test_a_call_of_numpy_arrays_does_not_come_here(monkeypatch):
    def refuse(*args):
        raise AssertionError("a call of the device")

    monkeypatch.setattr(DeviceCall, "__init__", refuse)
    fa.relu.biased(A34.astype(F16), A4)
    assert same(fa.relu.biased(A34, A4), fa.relu(A34 + A4))
