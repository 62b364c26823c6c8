"""Activations of arrays on a GPU: the bits of the CPU, in every form of the kernels."""

import itertools

import cuda_memory
import numpy as np
import oracle
import pytest
from cases import DTYPES, FROM_OUTPUT, NAMES, difference, same
from cuda_memory import Guarded, device, host, on_device, outcome, simulator  # noqa: F401
from ulp import BFLOAT16

import fastact as fa
from fastact.backends.cuda import elementwise, maps
from fastact.spec.kernel import kernel_of
from fastact.spec.table import OPS

pytestmark = cuda_memory.needs_cuda

# of the forms: accesses of 4, 2, 8 and 8 elements
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
# an odd number of them, so that repeated they stand at every position of a word
SPECIAL = (
    np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, -1e-42, 1e-310, -6e-8, 1e30, -1e30, 3.4e38, -65504.0, 88.0, -87.5,
    -104.0, 0.5, -0.5, 3.0, -3.0, 17.3, -9.1, 1.0,
)  # fmt: skip
assert len(SPECIAL) % 2


def specials(dtype, seed=0):
    """Every special value at every position of a word, ordinary numbers between them."""
    count = 16 // dtype.itemsize
    with np.errstate(all="ignore"):
        x = np.resize(np.array(SPECIAL), len(SPECIAL) * count).astype(dtype)
    rest = (np.random.default_rng(seed).standard_normal(37) * 4).astype(dtype)
    return np.concatenate([x, rest])


def ordinary(shape, dtype, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) * 4).astype(dtype)


def check(got, want, what=""):
    got, want = (v if isinstance(v, tuple) else (v,) for v in (host(got), want))
    assert len(got) == len(want), what
    for g, w in zip(got, want):
        w = np.asarray(w)
        if w.ndim == 0:
            g = np.asarray(g)
        assert g.shape == w.shape and g.dtype == w.dtype, (what, g.shape, w.shape, g.dtype, w.dtype)
        assert same(g, w), f"{what}{difference(g, w)}"


def kinds_of(name, case):
    return ("forward", "backward", "value_and_grad", *(
        ["backward_from_output"] if name in FROM_OUTPUT and case not in oracle.TRUTH[name].not_from_output else []
    ))  # fmt: skip


def call(name, kind, arrays, **keywords):
    activation = fa.activations[name]
    function = activation if kind == "forward" else getattr(activation, kind)
    result = function(*arrays, **keywords)
    # the gradient by the weight of prelu is a sum over elements
    return result[0] if name == "prelu" and kind == "backward" else result


@each_dtype
@pytest.mark.parametrize("name", NAMES)
def test_every_kind(name, dtype):
    """Special values at every position of a word, by default parameters; others in float32."""
    x = specials(dtype)
    dy = np.resize(ordinary(30, dtype, 1), x.size)
    dy[::9] = np.resize(specials(dtype, 1), dy[::9].size)
    truth = oracle.TRUTH[name]
    cases = truth.cases if dtype == np.float32 else truth.cases[:1]
    for i, case in enumerate(cases):
        given = {} if not i and not truth.required else case
        if i:
            x, dy = x[-60:], dy[-60:]
        for kind in kinds_of(name, case):
            arrays = (dy, x) if kind.startswith("backward") else (x,)
            if kind == "backward_from_output":
                with np.errstate(all="ignore"):
                    arrays = dy, np.asarray(call(name, "forward", (x,), **given))
            outs = [Guarded(x.shape, dtype) for _ in range(2 if kind == "value_and_grad" else 1)]
            with np.errstate(all="ignore"):
                want = call(name, kind, arrays, **given)
            out = tuple(o.array for o in outs) if len(outs) > 1 else outs[0].array
            if name != "prelu" or kind != "backward":
                call(name, kind, [device(a) for a in arrays], **on_device(given), out=out)
                for o in outs:
                    o.check()
                got = tuple(o.values for o in outs)
            else:
                got = call(name, kind, [device(a) for a in arrays], **on_device(given))
            check(got, want, (kind, case))


@pytest.mark.parametrize("name", ["relu", "mish"])
@each_dtype
def test_lengths(name, dtype):
    block = elementwise.BLOCK * elementwise.per_thread(dtype.name)
    lengths = range(68) if name == "mish" and dtype == np.float32 else (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 63, 67)
    for n in (*lengths, *((block - 1, block, block + 1, 2 * block + 5) if name == "relu" else ())):
        x = ordinary(n, dtype, n)
        out = Guarded(x.shape, dtype)
        fa.activations[name](device(x), out=out.array)
        out.check()
        check((out.values,), fa.activations[name](x), n)


LAYOUTS = {
    "transposed": lambda x: x.T,
    "every other": lambda x: x[:, ::2],
    "reversed": lambda x: x[::-1, ::-1],
    "off a border": lambda x: x.ravel()[1:],
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "column": lambda x: np.broadcast_to(x[:, 1:2], x.shape),
    "three": lambda x: x[:, :20].reshape(-1, 4, 5).transpose(2, 0, 1)[::-2],
    "four": lambda x: x[:8, :20].reshape(2, 4, 5, 4).transpose(3, 1, 0, 2),
    "one": lambda x: x[3:4, 2:3],
    "scalar": lambda x: x[0, 0].reshape(()),
    "none": lambda x: x[:0],
    "none of many": lambda x: x[:, :0],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@each_dtype
def test_layouts(layout, dtype):
    x, dy = layout(ordinary((8, 31), dtype)), layout(ordinary((8, 31), dtype, 1))
    check(fa.elu(device(x), alpha=0.3), fa.elu(x, alpha=0.3))
    check(fa.tanh.value_and_grad(device(x)), fa.tanh.value_and_grad(x))
    check(fa.silu.backward(device(dy), device(x.copy())), fa.silu.backward(dy, x))
    # into memory that lies so
    if not layout.__code__.co_names.count("broadcast_to"):
        out = Guarded(x.shape, dtype, 2 * dtype.itemsize, x.strides)
        fa.relu(device(x), out=out.array)
        out.check()
        check((out.values,), fa.relu(x))
        plain = Guarded(x.shape, dtype)
        fa.relu(device(x), out=plain.array)
        plain.check()
        check((plain.values,), fa.relu(x))


@pytest.mark.parametrize("offset", range(0, 16, 2))
def test_addresses_off_a_border(offset):
    for dtype in DTYPES:
        if offset % dtype.itemsize:
            continue
        x = ordinary(77, dtype)
        for of_out in (0, offset):
            out = Guarded(x.shape, dtype, of_out)
            fa.relu(Guarded(x.shape, dtype, offset).fill(x).array, out=out.array)
            out.check()
            check((out.values,), fa.relu(x))


def test_dtypes_of_one_call():
    for a, b in itertools.combinations([*DTYPES, np.dtype(np.int32), np.dtype(np.uint8), np.dtype(bool)], 2):
        x, dy = (np.abs(ordinary((3, 13), np.float32, i)).astype(d) for i, d in enumerate((a, b)))
        check(fa.softplus.backward(device(dy), device(x)), fa.softplus.backward(dy, x), (a, b))


@pytest.mark.parametrize("dtype", ["bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))])
def test_integers(dtype):
    x = (np.arange(29) * 37 - 500).astype(dtype)
    if dtype.endswith("64"):
        x[:2] = np.iinfo(dtype).min, np.iinfo(dtype).max
    with np.errstate(all="ignore"):
        check(fa.sigmoid(device(x)), fa.sigmoid(x))
        check(fa.leaky_relu.value_and_grad(device(x)), fa.leaky_relu.value_and_grad(x))


def test_out_of_another_dtype():
    for source, to in itertools.permutations(DTYPES, 2):
        x = specials(source)
        out, want = Guarded(x.shape, to), np.zeros(x.shape, to)
        with np.errstate(all="ignore"):
            got, expected = (
                outcome(lambda d=d, o=o: fa.gelu(d, out=o)) for d, o in ((device(x), out.array), (x, want))
            )
        if isinstance(expected, tuple):
            assert isinstance(got, tuple) and got[1] == expected[1], (source, to, got, expected)
            continue
        out.check()
        check((out.values,), want, (source, to))


def test_out_is_larger():
    x, dy = ordinary(5, np.dtype(np.float32)), ordinary((3, 1), np.dtype(np.float32))
    out = Guarded((2, 3, 5), np.float32)
    fa.gelu(device(x), out=out.array)
    out.check()
    check((out.values,), np.broadcast_to(fa.gelu(x), (2, 3, 5)))
    fa.gelu.backward(device(dy), device(x), out=out.array)
    check((out.values,), np.broadcast_to(fa.gelu.backward(dy, x), (2, 3, 5)))


@each_dtype
def test_in_place(dtype):
    for layout in (lambda a: a, lambda a: a.T, lambda a: a[::2, 1:], lambda a: a[::-1]):
        x = ordinary((9, 21), dtype)
        want = fa.gelu(layout(x))
        d = device(x)
        view = layout(d)
        assert fa.gelu(view, out=view) is view
        check(view, want)
        x0, dy = layout(ordinary((9, 21), dtype)), layout(ordinary((9, 21), dtype, 1))
        for which in (0, 1):
            given = [device(dy), device(x0)]
            fa.mish.backward(*given, out=given[which])
            check(given[which], fa.mish.backward(dy, x0))
        d = device(x0)
        other = Guarded(x0.shape, dtype)
        fa.tanh.value_and_grad(d, out=(d, other.array))
        other.check()
        check((host(d), other.values), fa.tanh.value_and_grad(x0))


def test_memory_that_overlaps():
    for shift in (1, 3, 4, 16):
        for first in ("in", "out"):
            x = ordinary(4300, np.dtype(np.float32), shift)
            d, h = device(x), x.copy()
            for a in (d, h):
                low, high = a[:-shift], a[shift:]
                fa.relu(*((low,) if first == "in" else (high,)), out=high if first == "in" else low)
            check(d, h)
    x = ordinary((24, 24), np.dtype(np.float32))
    d, h = device(x), x.copy()
    for a in (d, h):
        fa.leaky_relu(a.T, out=a)
    check(d, h)
    # 16 bits into the memory of 32 bits that they are computed from
    x = ordinary(64, np.dtype(np.float32))
    space = Guarded((64,), np.float32).fill(x)
    if not cuda_memory.ON_GPU:
        half = type(space.array)(space.array._ary.view(np.float16)[:64])
        fa.relu(space.array, out=half)
        check((host(half),), fa.relu(x).astype(np.float16))


@each_dtype
def test_where(dtype):
    x = ordinary((7, 33), dtype)
    rng = np.random.default_rng(3)
    masks = (rng.random(x.shape) < 0.5, rng.random(33) < 0.5, rng.random((7, 1)) < 0.5, np.zeros(x.shape, bool))
    for mask in masks:
        out, want = Guarded(x.shape, dtype).fill(7), np.full(x.shape, 7, dtype)
        fa.gelu(device(x), out=out.array, where=device(mask))
        fa.gelu(x, out=want, where=mask)
        out.check()
        check((out.values,), want)
        # in place, and two results
        d, h, d2, h2 = device(x), x.copy(), device(x), x.copy()
        fa.sigmoid.value_and_grad(d, out=(d, d2), where=device(mask))
        fa.sigmoid.value_and_grad(h, out=(h, h2), where=mask)
        check((host(d), host(d2)), (h, h2))
    check(fa.relu(device(x), where=True), fa.relu(x))


def test_parameters():
    rng = np.random.default_rng(4)
    x = ordinary((5, 23), np.dtype(np.float32))
    arrays = [rng.random(23).astype(np.float32), rng.random((5, 1)).astype(np.float32), rng.random((5, 23)),
              rng.random(23).astype(np.float16)]  # fmt: skip
    for alpha in (0, 1, -0.0, 0.1, np.float32(0.1), np.float64(0.1), np.array(0.3), *arrays):
        given = on_device({"alpha": alpha})
        check(fa.elu(device(x), **given), fa.elu(x, alpha=alpha), alpha)
        check(fa.elu.value_and_grad(device(x), **given), fa.elu.value_and_grad(x, alpha=alpha), alpha)
    for dtype in DTYPES:
        y = ordinary(31, dtype)
        for alpha in (0.1, -0.0, 1e-9, 3e38, np.inf):
            with np.errstate(all="ignore"):
                check(
                    fa.leaky_relu(device(y), negative_slope=alpha),
                    fa.leaky_relu(y, negative_slope=alpha),
                    (dtype, alpha),
                )
    low = rng.standard_normal(23).astype(np.float32) - 3
    high = low + 2
    check(fa.hard_tanh(device(x), min_val=device(low), max_val=2.0), fa.hard_tanh(x, min_val=low, max_val=2.0))
    check(
        fa.hard_tanh(device(x), min_val=device(low), max_val=device(high)), fa.hard_tanh(x, min_val=low, max_val=high)
    )
    check(fa.gelu(device(x), approximate="tanh"), fa.gelu(x, approximate="tanh"))


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=lambda d: d.name)
def test_table(dtype, monkeypatch):
    """All 16-bit numbers, and lengths around a word; what is kept is told apart by the bits of parameters."""
    monkeypatch.setattr(maps, "TABLE_MIN", 3)
    monkeypatch.setattr(maps, "SHORT", 0)
    used = []
    found = maps.form
    monkeypatch.setattr(maps, "form", lambda *args: used.append(found(*args)) or used[-1])
    every = np.arange(65536).astype(np.uint16).view(dtype)
    with np.errstate(all="ignore"):
        for alpha in (-0.0, 0.0):
            check(fa.leaky_relu(device(every), negative_slope=alpha), fa.leaky_relu(every, negative_slope=alpha))
        for n in (3, 7, 8, 9, 16_383, 16_391, 40_001):
            x = np.resize(every[::-3], n)
            out = Guarded(x.shape, dtype)
            fa.leaky_relu(device(x), negative_slope=0.0, out=out.array)
            out.check()
            check((out.values,), fa.leaky_relu(x, negative_slope=0.0), n)
    assert set(used) == {"table"}
    d = device(every)
    fa.leaky_relu(d, negative_slope=0.0, out=d)
    with np.errstate(all="ignore"):
        check(d, fa.leaky_relu(every, negative_slope=0.0))
    # others have no table
    used.clear()
    x = ordinary(70, dtype)
    fa.relu.backward(device(x), device(x))
    fa.relu(device(x.astype(np.float32)))
    fa.relu(device(x)[::2])
    assert set(used) == {"vector", "strided"}
    # nor have short formulas
    monkeypatch.undo()
    assert maps.has_table(kernel_of(OPS["gelu"], "forward", dtype.name))
    assert not maps.has_table(kernel_of(OPS["relu"], "forward", dtype.name))


def test_results_are_the_same_in_every_run():
    x = ordinary((70, 33), np.dtype(np.float32))
    first = host(fa.mish.value_and_grad(device(x)))
    check(fa.mish.value_and_grad(device(x)), first)
    check(fa.mish.value_and_grad(device(x[::-1]))[0], first[0][::-1])


X = ordinary((4, 6), np.dtype(np.float32))
# where words must differ, a part that both have
ERRORS = {
    "complex": (lambda m: fa.gelu(m(X.astype(complex))), None),
    "no such keyword": (lambda m: fa.gelu(m(X), nothing=1), None),
    "shapes": (
        lambda m: fa.relu.backward(m(X), m(X[:, :5])),
        "could not be broadcast together with shapes (4,6) (4,5)",
    ),
    "too few": (lambda m: fa.relu.backward(m(X)), None),
    "approximate": (lambda m: fa.gelu(m(X), approximate="nothing"), None),
    "out of one": (lambda m: fa.gelu.value_and_grad(m(X), out=m(X)), "out must be a tuple of 2 arrays, not "),
    "out of three": (lambda m: fa.gelu.value_and_grad(m(X), out=(m(X),) * 3), None),
    "out of a shape": (lambda m: fa.gelu(m(X), out=m(X[:2])), None),
    "out of fewer": (lambda m: fa.gelu(m(X), out=m(X[:1])), None),
    "out of integers": (lambda m: fa.gelu(m(X), out=m(X.astype(np.int32))), "Cannot cast ufunc 'gelu' output from"),
    "mask of floats": (lambda m: fa.gelu(m(X), out=m(X), where=m(X)), ""),
    "parameter": (lambda m: fa.elu(m(X), alpha="1"), ""),
    "dtype": (lambda m: fa.gelu(m(X), dtype="int32"), ""),
}


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS)
def test_errors(case):
    function, part = case
    got, want = outcome(lambda: function(device)), outcome(lambda: function(lambda a: a.copy()))
    assert isinstance(got, tuple) and isinstance(want, tuple) and isinstance(got[0], str), (got, want)
    if part is None:
        assert got == want
    elif part:
        assert (got[0] == want[0] or "UFunc" in want[0]) and part in got[1] and part in want[1], (got, want)
    else:
        known = {"TypeError", "ValueError", "UFuncTypeError", "_UFuncOutputCastingError", "_UFuncNoLoopError"}
        assert got[0] in known and (got[0] == want[0] or "UFunc" in want[0] or "UFunc" in got[0]), (got, want)


def test_host_and_device_are_not_mixed():
    with pytest.raises(TypeError, match=r"relu.backward: x is .*, dy is an array of NumPy in the memory of the host"):
        fa.relu.backward(X, device(X))
    with pytest.raises(TypeError, match="out must be an array on that device, not ndarray"):
        fa.gelu(device(X), out=X.copy())
