"""Optimisers over arrays on a device, in the simulator of kernels: the bits and the words of the host."""

from __future__ import annotations

import copy
import inspect
import pickle

import numpy as np
import pytest
from cases import DTYPES
from cuda_calls import assert_same, error_of, host, on_device, placed, simulated  # noqa: F401
from cuda_stand_in import run as run_with_stand_in
from cuda_stand_in import skip_reason

import fastact as fa
from fastact.backends.cuda import launch, lists
from fastact.backends.cuda.array import DeviceArray
from fastact.spec.optimisers import ROWS

PIECE = lists.piece_of("float32")
# none, one, an odd number, no elements, and what goes over a piece
SHAPES = [(), (3, 5), (0, 4), (PIECE + 37,), (1,)]
# hyperparameters that make another rule, by what an optimiser has
CASES = [(name, {}) for name in ROWS] + [
    (name, {"momentum": 0.9, "weight_decay": 0.1}) for name in ROWS if "momentum" in {h.name for h in ROWS[name].hypers}
]  # fmt: skip
STEPS = ({}, {"max_norm": 1.0}, {"max_norm": 1e9, "scale": 3.0}, {"lr": 0.3, "scale": 0.5})

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
each_case = pytest.mark.parametrize(("name", "given"), CASES, ids=[n + "".join(g) for n, g in CASES])


def arrays(shapes, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return [placed(np.asarray(rng.standard_normal(s), dtype)) for s in shapes]


def twins(found):
    return [on_device(a) for a in found]


def of(name):
    return getattr(fa.optim, name)


def function(name):
    return getattr(fa.optim, ROWS[name].function)


def assert_alike(got, want):
    """Parameters and states of two optimisers."""
    assert_same(tuple(got.params), tuple(want.params))
    a, b = got.state_dict(), want.state_dict()
    assert a.keys() == b.keys()
    for key in a:
        assert type(a[key]) is np.ndarray
        assert_same(a[key], b[key])
    assert got.steps == want.steps


def assert_norm(got, want):
    """A norm is a number on the host, and an array without dimensions on the device."""
    assert (got is None) == (want is None)
    if want is not None:
        assert got.shape == ()
        assert_same(got, np.float64(want))


# ---- bits


@each_case
def test_steps_have_the_bits_of_the_host(name, given):
    params, grads = arrays(SHAPES, np.float32), arrays(SHAPES, np.float32, 1)
    theirs, g = twins(params), twins(grads)
    a, b = of(name)(params, **given), of(name)(theirs, **given)
    for keywords in STEPS:
        assert_norm(b.step(g, **keywords), a.step(grads, **keywords))
    assert_alike(b, a)


@pytest.mark.parametrize("wide", [False, True], ids=["narrow", "wide"])
@pytest.mark.parametrize("master", [False, True], ids=["plain", "master"])
@each_dtype
def test_dtypes(dtype, master, wide):
    compute = np.dtype(np.float64 if dtype == np.float64 else np.float32)
    if dtype == compute and (master or wide):
        pytest.skip("there is nothing wider")
    shapes = [(7, 3), (PIECE + 5,)]
    params, grads = arrays(shapes, dtype), arrays(shapes, compute if wide else dtype, 1)
    a, b = fa.optim.AdamW(params, 0.1, master=master), fa.optim.AdamW(twins(params), 0.1, master=master)
    for keywords in STEPS[:3]:
        assert_norm(b.step(twins(grads), **keywords), a.step(grads, **keywords))
    assert_alike(b, a)


def test_special_values():
    values = np.float32([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3e38, -1.0])
    params = [placed(np.repeat(values, 8)), placed(np.ones(3, np.float32))]
    grads = [placed(np.tile(values, 8)), placed(np.ones(3, np.float32))]
    for keywords in ({}, {"max_norm": 1.0}, {"max_norm": np.inf}):
        for name in ROWS:
            a, b = of(name)(copy.deepcopy(params)), of(name)(twins(params))
            assert_norm(b.step(twins(grads), **keywords), a.step(grads, **keywords))
            assert_alike(b, a)


def test_unaligned_and_strided_arrays():
    rng = np.random.default_rng(0)

    def some():
        whole = rng.standard_normal((40, 60)).astype(np.float32)
        return [
            placed(whole[0], 1),
            whole[::2, 1::3],
            whole[1::2, 1:].T,
            placed(rng.standard_normal(2 * PIECE, np.float32), 3),
        ]

    params, grads = some(), some()
    theirs = twins(params)
    a, b = fa.optim.RMSprop(params, momentum=0.5), fa.optim.RMSprop(theirs, momentum=0.5)
    for keywords in STEPS:
        assert_norm(b.step(twins(grads), **keywords), a.step(grads, **keywords))
    assert_alike(b, a)


def test_gradients_of_two_dtypes():
    params = arrays([(9,), (2, 3)], np.float16)
    grads = [arrays([(9,)], np.float16, 1)[0], arrays([(2, 3)], np.float32, 2)[0]]
    a, b = fa.optim.Adam(params), fa.optim.Adam(twins(params))
    assert_norm(b.step(twins(grads), max_norm=0.1), a.step(grads, max_norm=0.1))
    assert_alike(b, a)


@each_dtype
def test_the_norm_has_the_bits_of_the_host(dtype):
    """Over the borders of quads, blocks and lanes."""
    lengths = [1, 15, 16, 63, 64, 65, 255, 257, 0, lists.NORM_BLOCK - 1, lists.NORM_BLOCK, lists.NORM_BLOCK + 1]
    grads = arrays([(n,) for n in lengths], dtype)
    for some in (*([g] for g in grads), grads):
        assert_norm(fa.optim.clip_grad_norm_(twins(some), np.inf), fa.optim.clip_grad_norm_(some, np.inf))


def test_the_norm_of_more_blocks_than_lanes():
    grads = arrays([(1,)] * (lists.NORM_LANES * 9 + 3), np.float32)
    assert_norm(fa.optim.clip_grad_norm_(twins(grads), np.inf), fa.optim.clip_grad_norm_(grads, np.inf))


@each_dtype
def test_clipping(dtype):
    for most in (0.0, 0.7, 1e9, np.inf):
        grads = arrays(SHAPES, dtype)
        theirs = twins(grads)
        assert_norm(fa.optim.clip_grad_norm_(theirs, most), fa.optim.clip_grad_norm_(grads, most))
        assert_same(tuple(theirs), tuple(grads))
    one = arrays([(5,)], dtype)[0]
    theirs = on_device(one)
    assert_norm(fa.optim.clip_grad_norm_(theirs, 0.5), fa.optim.clip_grad_norm_(one, 0.5))
    assert_same(theirs, one)


@pytest.mark.parametrize("name", ROWS)
def test_functions(name):
    row = ROWS[name]
    for values in ({}, {"momentum": 0.9}):
        if values and "momentum" not in {h.name for h in row.hypers}:
            continue
        rule = row.rule({h.name: values.get(h.name, h.default) for h in row.hypers})
        found = arrays([(6, 7)] * (2 + len(rule.state)), np.float32)
        found[2:] = [np.abs(a) for a in found[2:]]
        theirs = twins(found)
        keywords = {"lr": 0.1, **values, **({"step": 3} if row.counts else {})}
        assert function(name)(*theirs, **keywords) is theirs[0]
        function(name)(*found, **keywords)
        assert_same(tuple(theirs), tuple(found))


# ---- state


def test_a_state_goes_from_the_device_to_the_host_and_back():
    params, grads = arrays([(3, 4), (5,)], np.float32), arrays([(3, 4), (5,)], np.float32, 1)
    a, b = fa.optim.NAdam(params), fa.optim.NAdam(twins(params))
    a.step(grads)
    b.step(twins(grads))
    c = fa.optim.NAdam(twins(params), lr=7.0)
    c.load_state_dict(a.state_dict())
    d = fa.optim.NAdam(copy.deepcopy(params))
    d.load_state_dict(b.state_dict())
    assert (c.lr, c.steps) == (a.lr, 1)
    for optimiser in (b, c):
        optimiser.step(twins(grads))
    for optimiser in (a, d):
        optimiser.step(grads)
    assert_alike(b, a)
    assert_alike(c, d)


def test_states_that_do_not_fit():
    params = arrays([(3, 4)], np.float16)
    a, b = fa.optim.Adam(params, master=True), fa.optim.Adam(twins(params), master=True)
    good = a.state_dict()
    for bad in ({"m.0": good["m.0"].astype(np.float64)}, {"m.0": good["m.0"][:2]}, {"step": np.array(-1)}, {"x": 1}):
        want = error_of(a.load_state_dict, {**good, **bad})
        assert error_of(b.load_state_dict, {**good, **bad}) == want
    assert_alike(b, a)


def test_what_pickles_hold():
    params, grads = arrays([(3, 4)], np.float32), arrays([(3, 4)], np.float32, 1)
    a, b = fa.optim.Adam(params), fa.optim.Adam(twins(params))
    a.step(grads)
    b.step(twins(grads))
    # arrays of the simulator cannot be pickled
    c = type(b).__new__(type(b))
    c.__setstate__(b.__getstate__())
    c.step(twins(grads))
    a.step(grads)
    assert_alike(c, a)
    assert pickle.loads(pickle.dumps(fa.optim.adam_)) is fa.optim.adam_


# ---- the table


def test_the_table_is_written_once_and_again_where_gradients_moved(monkeypatch):
    names = []
    run = launch.run

    def counted(key, make, where, slots):
        names.append(launch.made(key, make).name)
        run(key, make, where, slots)

    monkeypatch.setattr(launch, "run", counted)
    params, grads = arrays([(3,)] * 70, np.float32), twins(arrays([(3,)] * 70, np.float32, 1))
    optimiser = fa.optim.SGD(twins(params), 0.1)
    names.clear()
    step = "sgd_list_float32_float32"
    words = 2 * 71 + 70 + 2 * 70
    optimiser.step(grads)
    assert names == ["put"] * -(-words // lists.WORDS) + [step]
    names.clear()
    optimiser.step(grads)
    assert names == [step]
    names.clear()
    optimiser.step([on_device(host(g)) for g in grads])
    assert names == ["put"] * -(-70 // lists.WORDS) + [step]
    names.clear()
    optimiser.step(grads, max_norm=1.0)
    assert [n for n in names if n != "put"] == ["squares_float32", "norm", f"{step}_clipped"]


def test_a_step_that_a_graph_captures(monkeypatch):
    """It has all addresses in it, and steps outside write theirs anew: the graph may have run in between."""
    log, capturing = [], False
    run = launch.run

    def recorded(key, make, where, slots):
        log.append((key, make, where, slots))
        if not capturing:
            run(key, make, where, slots)

    monkeypatch.setattr(launch, "run", recorded)
    monkeypatch.setattr(launch, "capturing", lambda device, stream: capturing)
    params, first, second = (arrays([(5,), (3,)], np.float32, seed) for seed in range(3))
    want = copy.deepcopy(params)
    theirs, g, h = twins(params), twins(first), twins(second)
    a, b = fa.optim.SGD(want, 0.1, 0.9), fa.optim.SGD(theirs, 0.1, 0.9)
    capturing = True
    log.clear()
    b.step(g, max_norm=0.5)
    graph = list(log)
    capturing = False
    b.step(h)
    a.step(second)
    for _ in range(2):
        for one in graph:
            run(*one)
        a.step(first, max_norm=0.5)
        b.step(h)
        a.step(second)
    assert_same(tuple(theirs), tuple(want))


def test_parameters_whose_memory_is_another_one():
    params, grads = arrays([(4,), (6,)], np.float32), arrays([(4,), (6,)], np.float32, 1)
    theirs, g = twins(params), twins(grads)
    a, b = fa.optim.Adam(params), fa.optim.Adam(theirs)
    a.step(grads)
    b.step(g)
    theirs[0]._ary = host(theirs[0]).copy()
    a.step(grads)
    b.step(g)
    assert_alike(b, a)
    theirs[1]._ary = np.zeros(7, np.float32)
    assert error_of(b.step, g) == (ValueError, "Adam: params[1] has shape (7,), and had (6,) before")


def test_lists_without_elements():
    b = fa.optim.Adam(twins(arrays([(0,), (2, 0)], np.float32)))
    assert_norm(b.step(twins(arrays([(0,), (2, 0)], np.float32)), max_norm=1.0), 0.0)


# ---- bad input


F32, F16, F64 = np.float32, np.float16, np.float64


def overlapping():
    whole = np.ones(8, F32)
    return [whole, whole[2:6]]


def read_only(a):
    a.flags.writeable = False
    return a


ERRORS = {
    "empty": lambda w: fa.optim.Adam([]),
    "dtypes": lambda w: fa.optim.Adam([w(np.ones(2, F32)), w(np.ones(2, F64))]),
    "integers": lambda w: fa.optim.Adam([w(np.ones(2, int))]),
    "read-only": lambda w: fa.optim.Adam([w(read_only(np.ones(2, F32)))]),
    "shared": lambda w: fa.optim.Adam([w(a) for a in overlapping()]),
    "broadcast": lambda w: fa.optim.Adam([w(np.lib.stride_tricks.as_strided(np.ones(4, F32), (4,), (0,)))]),
    "master": lambda w: fa.optim.Adam([w(np.ones(2, F32))], master=True),
    "number": lambda w: fa.optim.Adam([w(np.ones(2, F32))], lr=-1.0),
    "one array": lambda w: fa.optim.Adam(w(np.ones(2, F32))),
    "count": lambda w: fa.optim.Adam([w(np.ones(2, F32))]).step([]),
    "grads no list": lambda w: fa.optim.Adam([w(np.ones(2, F32))]).step(w(np.ones(2, F32))),
    "grad none": lambda w: fa.optim.Adam([w(np.ones(2, F32))]).step([None]),
    "grad number": lambda w: fa.optim.Adam([w(np.ones((), F32))]).step([1.0]),
    "grad shape": lambda w: fa.optim.Adam([w(np.ones(2, F32))]).step([w(np.ones(3, F32))]),
    "grad dtype": lambda w: fa.optim.Adam([w(np.ones(2, F32))]).step([w(np.ones(2, F64))]),
    "grad integers": lambda w: fa.optim.Adam([w(np.ones(2, F32))]).step([w(np.ones(2, int))]),
    "grad shares": lambda w: (lambda a: fa.optim.Adam([w(a)]).step([w(a)]))(np.ones(3, F32)),
    "max_norm": lambda w: fa.optim.Adam([w(np.ones(2, F32))]).step([w(np.ones(2, F32))], max_norm=np.nan),
    "scale": lambda w: fa.optim.Adam([w(np.ones(2, F32))]).step([w(np.ones(2, F32))], scale=0),
    "lr": lambda w: fa.optim.Adam([w(np.ones(2, F32))]).step([w(np.ones(2, F32))], lr="much"),
    "state dtype": lambda w: fa.optim.sgd_(*[w(np.ones(2, d)) for d in (F16, F16, F16)], lr=1, momentum=0.5),
    "state shape": lambda w: fa.optim.sgd_(*[w(np.ones(n, F32)) for n in (2, 2, 3)], lr=1, momentum=0.5),
    "no state": lambda w: fa.optim.sgd_(w(np.ones(2, F32)), w(np.ones(2, F32)), lr=1, momentum=0.5),
    "clip dtypes": lambda w: fa.optim.clip_grad_norm_([w(np.ones(2, F32)), w(np.ones(2, F64))], 1.0),
    "clip read-only": lambda w: fa.optim.clip_grad_norm_([w(read_only(np.ones(2, F32)))], 1.0),
    "clip shared": lambda w: fa.optim.clip_grad_norm_([w(a) for a in overlapping()], 1.0),
    "clip nan": lambda w: fa.optim.clip_grad_norm_([w(np.ones(2, F32))], -1.0),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_have_the_words_of_the_host(case):
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

    want, got = error_of(ERRORS[case], lambda a: a), error_of(ERRORS[case], FakeCUDAArray)
    # only the type of what is no list is another one
    assert (got[0], got[1].replace("FakeCUDAArray", "ndarray")) == want


def test_arrays_of_the_host_among_those_of_a_device():
    where = "an array of Numba's simulator"
    device, here = on_device(np.ones(2, F32)), np.ones(2, F32)
    words = "Adam: {} is " + where + ", {} is an array of NumPy in the memory of the host; they must be on one device"
    assert error_of(fa.optim.Adam, [device, here]) == (TypeError, words.format("params[0]", "params[1]"))
    optimiser = fa.optim.Adam([device])
    assert error_of(optimiser.step, [here]) == (TypeError, words.format("params[0]", "grads[0]"))
    scalar = fa.optim.Adam([on_device(np.ones((), F32))])
    assert error_of(scalar.step, [np.ones((), F32)]) == (TypeError, words.format("params[0]", "grads[0]"))
    kind, text = error_of(fa.optim.Adam([here]).step, [device])
    assert kind is TypeError
    assert "grads[0] is " + where in text


def test_nothing_is_written_where_something_is_wrong():
    params = arrays([(3,), (4,)], np.float32)
    theirs = twins(params)
    optimiser = fa.optim.Adam(theirs)
    with pytest.raises(ValueError):
        optimiser.step([on_device(np.ones(3, F32)), on_device(np.ones(3, F32))], max_norm=1.0)
    assert_same(tuple(theirs), tuple(params))
    assert optimiser.steps == 0
    assert not optimiser.state_dict()["m.0"].any()


# ---- kernels


def test_the_catalogue_has_every_kernel_once():
    found = dict(lists.catalogue())
    assert len(found) == len(list(lists.catalogue()))
    for name, kernel in found.items():
        assert name == kernel.name
        assert len(kernel.slots) <= 64
        assert len(inspect.signature(_function(kernel)).parameters) == len(kernel.slots)


def _function(kernel):
    scope = {}
    exec(kernel.text, scope)
    return scope["kernel"]


def test_arrays_of_more_than_two_to_the_31_elements_are_placed_right():
    """The table alone: nobody has that much memory here."""
    many = 2**33 + 5
    views = [DeviceArray(4096, (many,), None, "float32", 0), DeviceArray(4096 + 4 * many, (3,), None, "float32", 0)]
    found = lists.Lists(ROWS["SGD"].rules[0], "float32", [views], None, lambda shape, dtype: views[1])
    assert found.pieces == -(-many // PIECE) + 1
    assert found.blocks == -(-many // lists.NORM_BLOCK) + 1


# ---- down to the launch, with the stand-in for the driver and for PyTorch

STAND_IN = """
import cuda_arrays as A
import fastact as fa
from fastact.backends.cuda import cache

names = []


def handle(key, make, device, shared=0):
    made = make()
    names.append(made.name)
    return kernel("nothing", len(made.slots))


cache.handle = handle
WAITS = "cuStreamSynchronize", "cuCtxSynchronize", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuMemcpyHtoD_v2"


def tensors(shapes, dtype="float32", device=0):
    return [A.Tensor(s, dtype, device) for s in shapes]


SHAPES = [(3, 700), (5,)]
A.torch.grad = False
A.CURRENT[0] = 0x77
params, grads = tensors(SHAPES), tensors(SHAPES)
optimiser = fa.optim.AdamW(params, lr=0.1)
assert all(type(a) is A.Tensor for own in optimiser.state.values() for a in own)
names.clear()
log()
"""


@pytest.mark.skipif(skip_reason() is not None, reason=str(skip_reason()))
@pytest.mark.parametrize(
    "code",
    [
        """
# a step is launches on the caller's stream and nothing that waits
versions = [p.version for p in params]
norm = optimiser.step(grads, max_norm=1.0, scale=2.0)
assert type(norm) is A.Tensor and norm.shape == () and norm.dtype.name == "float64"
assert names == ["put", "squares_float32", "norm", "adamw_list_float32_float32_clipped"], names
lines = log()
assert not [line for line in lines if line.split()[0] in WAITS], lines
run = [line for line in lines if line.split()[0] == "cuLaunchKernel"]
assert len(run) == 4 and all(" stream=119 " in line for line in run), run
assert [p.version for p in params] == [v + 1 for v in versions]
names.clear()
optimiser.step(grads)
assert names == ["adamw_list_float32_float32"], names
""",
        """
# while a graph is captured all addresses are written, and from then on those of gradients in each step
optimiser.step(grads)
names.clear()
fake.fake_capture(0x77)
optimiser.step(grads)
assert names == ["put", "adamw_list_float32_float32"], names
fake.fake_capture(-1)
names.clear()
optimiser.step(grads)
assert names == ["put", "adamw_list_float32_float32"], names
""",
        """
# devices and autograd
with pytest.raises(ValueError, match="they must be on one device"):
    optimiser.step(tensors(SHAPES, device=1))
with pytest.raises(ValueError, match="they must be on one device"):
    fa.optim.AdamW([*tensors(SHAPES), *tensors(SHAPES, device=1)])
with pytest.raises(TypeError, match="must be an array, not NoneType"):
    optimiser.step([None, grads[1]])
with pytest.raises(TypeError, match="is of float64"):
    optimiser.step(tensors(SHAPES, "float64"))
A.torch.grad = True
params[0].requires_grad = True
with pytest.raises(TypeError, match="pass x.detach"):
    optimiser.step(grads)
assert optimiser.steps == 0 and not [n for n in names if "list" in n]
""",
        """
# gradients of the computing dtype, master copies
params = tensors(SHAPES, "bfloat16")
optimiser = fa.optim.Adam(params, master=True)
names.clear()
optimiser.step(tensors(SHAPES))
optimiser.step(tensors(SHAPES, "bfloat16"), max_norm=1.0)
assert [n for n in names if "list" in n] == [
    "adam_list_bfloat16_float32_master", "adam_list_bfloat16_bfloat16_master_clipped"
], names
names.clear()
fa.optim.clip_grad_norm_(tensors(SHAPES, "float16"), 1.0)
assert names == ["put", "squares_float16", "norm", "scaled_list_float16_none_clipped"], names
""",
        """
# gradients of other libraries, on the legacy default stream; what cannot be written is no parameter
A.CURRENT[0] = 0
for kind in (A.CuPyArray, A.Interface, A.Exporter, A.ArrayImpl):
    norm = optimiser.step([kind(shape, "float32") for shape in SHAPES], max_norm=1.0)
    assert type(norm) is A.Tensor
    assert not [line for line in log() if line.split()[0] in WAITS]
for kind in (A.Exporter, A.ArrayImpl):
    with pytest.raises(ValueError, match=r"SGD: params\\[0\\] is read-only"):
        fa.optim.SGD([kind((3,), "float32")])
params = [A.Interface(shape, "float32") for shape in SHAPES]
norm = fa.optim.Lion(params).step([A.Interface(shape, "float32") for shape in SHAPES], max_norm=1.0)
assert type(norm).__name__ == "DeviceMemory"
""",
    ],
    ids=["launches", "capture", "errors", "dtypes", "libraries"],
)
def test_tensors_of_pytorch(code, monkeypatch):
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM")
    run_with_stand_in(STAND_IN + code, devices=2)
