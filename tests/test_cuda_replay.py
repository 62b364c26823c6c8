"""Calls on a GPU that are repeated from an earlier one (fastact/api/replay.py): the results of calls that are not."""

from __future__ import annotations

import threading

import cuda_memory
import numpy as np
import pytest
from cases import assert_same, same
from cuda_memory import Guarded, host, simulator  # noqa: F401
from cuda_replay import flat, watched
from cuda_stand_in import run as run_in_stand_in
from cuda_stand_in import skip_reason
from test_cuda_plain import SETUP

import fastact as fa
from fastact.api import replay
from fastact.backends.cuda import recording

simulated = pytest.mark.skipif(cuda_memory.cuda is None or cuda_memory.ON_GPU, reason="for the simulator")
stand_in = pytest.mark.skipif(skip_reason() is not None, reason=str(skip_reason()))


class Given:
    """Makes arrays on the device, filled by a seed; keeps them, as they are written as well."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.arrays = []

    def __call__(self, *shape, dtype="float32", offset=0, strides=None):
        found = Guarded(shape, dtype, offset, strides)
        found.fill((self.random.standard_normal(shape) * 2).astype(dtype))
        self.arrays.append(found)
        return found.array

    def integers(self, high, *shape):
        found = Guarded(shape, "int64").fill(self.random.integers(0, high, shape))
        self.arrays.append(found)
        return found.array

    def positive(self, *shape):
        found = Guarded(shape, "float32").fill(self.random.random(shape, np.float32) + np.float32(0.5))
        self.arrays.append(found)
        return found.array

    def mask(self, *shape):
        return Guarded(shape, "bool").fill(self.random.random(shape) < 0.5).array


def norm_backward(a, norm, *columns, **more):
    x, dy = a(5, 24), a(5, 24)
    columns = [a(24) for _ in columns]
    _, stats = norm.forward(x, *columns, **more)
    return norm.backward(dy, x, stats, *columns, **more)


def group_norm(a, **more):
    x, weight, bias = a(3, 8, 5), a(8), a(8)
    y, stats = fa.group_norm.forward(x, 4, weight, bias, **more)
    return y, stats, fa.group_norm.backward(a(3, 8, 5), x, stats, weight, bias, **more)


def batch_norm(a, **more):
    x, weight, bias, mean, var = a(6, 8), a(8), a(8), a(8), a.positive(8)
    moved = {"running_mean": mean, "running_var": var, "momentum": 0.5}
    y, stats = fa.batch_norm.forward(x, weight, bias, **moved, **more)
    back = fa.batch_norm.backward(a(6, 8), x, stats, weight, bias, **more)
    return y, stats, back, fa.batch_norm(x, mean, var, weight, bias, **more)


CASES = {
    "out": lambda a: fa.gelu(a(40), out=a(40)),
    "in place": lambda a: (lambda x: fa.gelu(x, out=x))(a(40)),
    "parameter": lambda a: fa.elu(a(40), alpha=0.3),
    "array of parameters": lambda a: fa.elu(a(3, 40), alpha=a.positive(40)),
    "learnt": lambda a: fa.prelu(a(3, 40), a(40)),
    "learnt, backward": lambda a: fa.prelu.backward(a(3, 40), a(3, 40), a(40)),
    "broadcast": lambda a: fa.gelu.backward(a(3, 40), a(40)),
    "strided": lambda a: fa.gelu(a(4, 6, strides=(4, 16))),
    "mask": lambda a: fa.gelu(a(40), where=a.mask(40), out=a(40)),
    "both": lambda a: fa.tanh.value_and_grad(a(40), out=(a(40), None)),
    "to another dtype": lambda a: fa.gelu(a(40, dtype="float16"), out=a(40)),
    "half": lambda a: fa.gelu(a(40, dtype="float16"), out=a(40, dtype="float16")),
    "off a border": lambda a: fa.gelu(a(40, offset=4), out=a(40, offset=4)),
    "dtype": lambda a: fa.gelu(a(40), dtype=np.float64),
    "softmax": lambda a: fa.softmax(a(5, 24)),
    "softmax, axis": lambda a: fa.log_softmax(a(5, 24), axis=0),
    "softmax, axes": lambda a: fa.softmax(a(5, 4, 6), axis=(0, 2)),
    "softmax, scaled": lambda a: fa.softmax(a(5, 24), scale=0.5, causal=True),
    "softmax, bias": lambda a: fa.softmax(a(5, 24), bias=a(1, 24), where=a.mask(5, 24)),
    "softmax, backward": lambda a: fa.softmax.backward(a(5, 24), a(5, 24)),
    "sparsemax": lambda a: fa.sparsemax(a(5, 24)),
    "sum": lambda a: fa.logsumexp(a(5, 24), keepdims=True),
    "layer_norm": lambda a: fa.layer_norm(a(5, 24), a(24), a(24)),
    "layer_norm, activation": lambda a: fa.layer_norm.forward(
        a(5, 24), a(24), a(24), activation=("elu", {"alpha": 0.5}), residual=a(5, 24)
    ),
    "layer_norm, backward": lambda a: norm_backward(a, fa.layer_norm, 1, 1),
    "layer_norm, backward, activation": lambda a: norm_backward(a, fa.layer_norm, 1, 1, activation="gelu"),
    "rms_norm, backward": lambda a: norm_backward(a, fa.rms_norm, 1),
    "rms_norm, offset": lambda a: fa.rms_norm(a(5, 24), a(24), offset=1.0, eps=1e-3),
    "group_norm": group_norm,
    "batch_norm": batch_norm,
    "batch_norm, activation": lambda a: batch_norm(a, activation="relu"),
    "labels": lambda a: fa.softmax_cross_entropy.value_and_grad(a(5, 24), a.integers(24, 5)),
    "labels, all": lambda a: fa.softmax_cross_entropy.value_and_grad(
        a(5, 24), a.integers(24, 5), weight=a.positive(24), label_smoothing=0.1, z_loss=0.1, ignore_index=3
    ),
    "labels, value": lambda a: fa.softmax_cross_entropy(a(5, 24), a.integers(24, 5), reduction="none"),
    "probabilities": lambda a: fa.softmax_cross_entropy(a(5, 24), a.positive(5, 24), check=False),
    "log-probabilities": lambda a: fa.nll_loss.value_and_grad(a(5, 24), a.integers(24, 5)),
    "loss of elements": lambda a: fa.mse_loss.value_and_grad(a(5, 24), a(5, 24), out=a(5, 24)),
    "loss of logits": lambda a: fa.sigmoid_cross_entropy(a(700), a.positive(700), check=False),
    "biased": lambda a: fa.gelu.biased(a(5, 24), a(24)),
    "biased, backward": lambda a: fa.gelu.biased_backward(a(5, 24), a(5, 24), a(24)),
    "biased, axis": lambda a: fa.silu.biased_backward(a(4, 6, 5), a(4, 6, 5), a(6), axis=1),
    "biased, parameter": lambda a: fa.elu.biased(a(5, 24), a(24), alpha=2.0),
    "gated": lambda a: fa.silu.gated_backward(a(5, 24), a(5, 24), a(5, 24)),
    "unit": lambda a: fa.swiglu(a(5, 24), a(5, 24)),
    "unit of halves": lambda a: fa.geglu(a(5, 24)),
    "unit of halves, backward": lambda a: fa.swiglu.backward(a(5, 12), a(5, 24)),
    "fused": lambda a: fa.gelu.fused(a(5, 24), a(24), residual=a(5, 24), dropout=0.3, seed=7),
    "fused, backward": lambda a: fa.gelu.fused_backward(a(5, 24), a(5, 24), a(24), dropout=0.3, seed=7),
    "dropout": lambda a: fa.dropout(a(5, 24), 0.3, seed=5, offset=2**64 - 2),
    "random slopes": lambda a: fa.rrelu(a(5, 24), training=True, seed=5),
    "one slope": lambda a: fa.rrelu(a(5, 24), training=False),
    "nothing": lambda a: (fa.gelu(a(0), out=a(0)), fa.logsumexp(a(5, 0)), fa.dropout(a(0), 0.3, seed=1)),
}


@pytest.fixture
def plans(simulator, monkeypatch):  # noqa: F811
    """What is remembered: nothing at first."""
    found = {}
    monkeypatch.setattr(replay, "_plans", found)
    monkeypatch.setattr(replay, "MOST", 1024)
    return found


@pytest.fixture
def repeats(monkeypatch):
    """Whether each call that had a plan could be repeated."""
    counted, found = watched()
    monkeypatch.setattr(replay.Plan, "run", counted)
    return found


def done(case, seed):
    """What a call gives, and all arrays after it."""
    a = Given(seed)
    result = flat(case(a))
    for guarded in a.arrays:
        guarded.check()
    return [None if r is None else host(r) for r in result] + [guarded.values for guarded in a.arrays]


def without(case, seed, done=done):
    """The same of a call that is not repeated."""
    token = recording.current.set(recording.Recording())
    try:
        return done(case, seed)
    finally:
        recording.current.reset(token)


@simulated
@pytest.mark.parametrize("name", CASES)
def test_with_other_arrays(name, plans, repeats):
    case = CASES[name]
    assert_same(done(case, 1), without(case, 1))
    assert plans and all(plan is not None for plan in plans.values())
    known = len(plans)
    kept = [done(case, 1)]  # so that memory is not the same again
    repeats.clear()
    kept.append(done(case, 2))
    assert repeats and all(repeats)
    assert len(plans) == known
    assert_same(kept[1], without(case, 2))


# calls that are nearly alike: what one of them launches is not what another needs
NEAR = {
    "as it is": lambda a: fa.elu(a(8, 40), out=a(8, 40)),
    "alpha": lambda a: fa.elu(a(8, 40), alpha=0.5, out=a(8, 40)),
    "alpha of 0": lambda a: fa.leaky_relu(a(8, 40), negative_slope=0.0, out=a(8, 40)),
    "alpha of -0": lambda a: fa.leaky_relu(a(8, 40), negative_slope=-0.0, out=a(8, 40)),
    "an integer": lambda a: fa.elu(a(8, 40), alpha=1, out=a(8, 40)),
    "a number of NumPy": lambda a: fa.elu(a(8, 40), alpha=np.float32(2), out=a(8, 40)),
    "an array": lambda a: fa.elu(a(8, 40), alpha=a.positive(40), out=a(8, 40)),
    "in place": lambda a: (lambda x: fa.elu(x, out=x))(a(8, 40)),
    "x off a border": lambda a: fa.elu(a(8, 40, offset=4), out=a(8, 40)),
    "out off a border": lambda a: fa.elu(a(8, 40), out=a(8, 40, offset=12)),
    "both off a border": lambda a: fa.elu(a(8, 40, offset=4), out=a(8, 40, offset=4)),
    "x turned": lambda a: fa.elu(a(8, 40, strides=(4, 32)), out=a(8, 40)),
    "out turned": lambda a: fa.elu(a(8, 40), out=a(8, 40, strides=(4, 32))),
    "with gaps": lambda a: fa.elu(a(8, 40, strides=(192, 4)), out=a(8, 40)),
    "backwards": lambda a: fa.elu(a(8, 40, strides=(160, -4)), out=a(8, 40)),
    "float64": lambda a: fa.elu(a(8, 40, dtype="float64"), out=a(8, 40, dtype="float64")),
    "from float64": lambda a: fa.elu(a(8, 40, dtype="float64"), out=a(8, 40)),
    "to float64": lambda a: fa.elu(a(8, 40), out=a(8, 40, dtype="float64")),
    "shape": lambda a: fa.elu(a(8, 44), out=a(8, 44)),
    "order": lambda a: fa.elu(a(40, 8), out=a(40, 8)),
    "broadcast": lambda a: fa.elu(a(40), out=a(8, 40)),
    "mask": lambda a: fa.elu(a(8, 40), where=a.mask(8, 40), out=a(8, 40)),
    "dtype": lambda a: fa.elu(a(8, 40), dtype="float64", out=a(8, 40, dtype="float64")),
    "apart": lambda a: fa.relu.backward(a(8, 40), a(8, 40), out=a(8, 40)),
    "twice the same": lambda a: (lambda x: fa.relu.backward(x, x, out=a(8, 40)))(a(8, 40)),
    "first in place": lambda a: (lambda x: fa.relu.backward(x, a(8, 40), out=x))(a(8, 40)),
    "second in place": lambda a: (lambda x: fa.relu.backward(a(8, 40), x, out=x))(a(8, 40)),
    "axis": lambda a: fa.softmax(a(8, 40), axis=0),
    "axis -1": lambda a: fa.softmax(a(8, 40), axis=-1),
    "axis 1": lambda a: fa.softmax(a(8, 40), axis=1),
    "axes": lambda a: fa.softmax(a(8, 40), axis=(0, 1)),
    "another function": lambda a: fa.log_softmax(a(8, 40)),
    "eps": lambda a: fa.rms_norm(a(8, 40), eps=1e-2),
    "eps left out": lambda a: fa.rms_norm(a(8, 40)),
    "weight": lambda a: fa.rms_norm(a(8, 40), a(40), eps=1e-2),
    "activation": lambda a: fa.layer_norm(a(8, 40), activation="relu"),
    "activation of a parameter": lambda a: fa.layer_norm(a(8, 40), activation=("leaky_relu", {"negative_slope": 0.5})),
    "another parameter": lambda a: fa.layer_norm(a(8, 40), activation=("leaky_relu", {"negative_slope": 0.25})),
    "seed": lambda a: fa.dropout(a(8, 40), 0.5, seed=1),
    "another seed": lambda a: fa.dropout(a(8, 40), 0.5, seed=2**64 - 1),
    "another offset": lambda a: fa.dropout(a(8, 40), 0.5, seed=1, offset=2**63),
    "another p": lambda a: fa.dropout(a(8, 40), 0.25, seed=1),
}


@simulated
def test_calls_that_are_nearly_alike(plans, repeats):
    for seed in range(3):
        for name, case in NEAR.items():
            print(name)
            assert_same(done(case, seed), without(case, seed))
    assert all(plan is not None for plan in plans.values())
    assert repeats and all(repeats)


@simulated
def test_memory_that_overlaps(plans, repeats):
    def shifted(by):
        def case(a):
            raw = a(60)
            x, y = (type(raw)(raw._ary[i : i + 40]) for i in (0, by))
            return fa.gelu.backward(a(40), x, out=y)

        return case

    for by in (20, 16, 4, 0, 20):
        for seed in range(2):
            assert_same(done(shifted(by), seed), without(shifted(by), seed))
    assert repeats == [True]  # of 0, in place
    apart = lambda a: fa.gelu.backward(a(40), a(40), out=a(40))  # noqa: E731
    for seed in range(2):
        assert_same(done(apart, seed), without(apart, seed))
    assert repeats == [True, True]
    assert_same(done(shifted(4), 0), without(shifted(4), 0))
    assert repeats == [True, True, False]


@simulated
def test_errors_stay(plans):
    x = Given(0)(8, 40)
    for _ in range(2):
        with pytest.raises(ValueError, match="out has shape"):
            fa.gelu(x, out=Given(0)(40))
        with pytest.raises(TypeError, match="in the memory of the host"):
            fa.gelu.biased(x, np.ones(40, np.float32))
        with pytest.raises(TypeError, match="is not taken with arrays on a GPU"):
            fa.gelu(x, order="C")
        with pytest.raises(ValueError, match="axis"):
            fa.softmax(x, axis=3)
        read_only = Guarded((8, 40), "float32").array
        fa.gelu(x, out=read_only)
        read_only._ary.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            fa.gelu(x, out=read_only)


@simulated
def test_what_is_remembered_has_an_end(plans, monkeypatch):
    monkeypatch.setattr(replay, "MOST", 3)
    for i in range(10):
        case = lambda a, i=i: fa.elu(a(8), alpha=1.0 + i)  # noqa: E731
        assert_same(done(case, i), without(case, i))
        assert len(plans) <= 3
    plans.clear()
    for i in range(10):
        case = lambda a, i=i: fa.dropout(a(2, 8), 0.5, seed=i * 1001, offset=i)  # noqa: E731
        assert_same(done(case, i), without(case, i))
    assert len(plans) == 1


@simulated
def test_explain_launches_nothing(plans):
    a = Given(0)
    x, y = a(8, 40), a(8, 40)
    for _ in range(2):
        fa.gelu.biased(x, a(40), out=y)
    before = host(y)
    assert "kernel" in fa.explain(fa.gelu.biased, x, a(40), out=y)
    assert same(host(y), before)


@simulated
def test_threads(plans):
    names = "out", "softmax", "layer_norm", "labels", "biased, backward", "dropout"
    wanted = {(name, seed): without(CASES[name], seed) for name in names for seed in range(3)}
    wrong = []

    def work(start):
        try:
            for i in range(12):
                name, seed = names[(start + i) % len(names)], (start + i) % 3
                assert_same(done(CASES[name], seed), wanted[name, seed])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


@simulated
@pytest.mark.parametrize(
    "operation",
    [
        lambda s: s * 2, lambda s: s // 4, lambda s: -s, lambda s: 1 - s, lambda s: s % 64, lambda s: s & 255,
        lambda s: s - s, lambda s: s + s, lambda s: s >> 1, float, lambda s: s % 24,
    ],
)  # fmt: skip
def test_what_is_not_understood(operation):
    recorded = recording.Recording()
    token = recording.current.set(recorded)
    try:
        operation(recording.Slot(4096, 0))
    finally:
        recording.current.reset(token)
    assert not recorded.understood


def test_sums_of_addresses_are_understood():
    recorded = recording.Recording()
    token = recording.current.set(recorded)
    try:
        slot = 8 + (recording.Slot(4096, 3) + 16) - 4
        assert (slot, slot.source, slot.offset, slot % 16, slot % 4) == (4116, 3, 20, 4, 0)
        assert slot > 4000
    finally:
        recording.current.reset(token)
    assert recorded.understood


# ---- tensors that look like PyTorch's, down to the driver


TORCH = (
    SETUP
    + """
from cuda_replay import watched
from fastact.api import replay

os.environ.pop("NUMBA_ENABLE_CUDASIM", None)
replay.Plan.run, repeats = watched()


def lines(call):
    "Launches of a call, and whether it was repeated."
    log()
    repeats.clear()
    call()
    return launches(), repeats == [True]


def general(call):
    "Launches of a call that is never repeated."
    from fastact.backends.cuda.recording import Recording, current
    token = current.set(Recording())
    try:
        return lines(call)[0]
    finally:
        current.reset(token)
"""
)


@stand_in
def test_launches_of_tensors():
    run_in_stand_in(
        TORCH
        + """
def calls(device):
    x, dy, y, dx = (tensor((8, 64), device=device) for _ in range(4))
    w, b, m, v, db = (tensor((64,), device=device) for _ in range(5))
    return [
        lambda: fa.gelu(x, out=y), lambda: fa.elu(x, alpha=2.0, out=y), lambda: fa.softmax(x, out=y),
        lambda: fa.softmax(x, scale=2.0, out=x), lambda: fa.layer_norm(x, w, b, out=y), lambda: fa.swiglu(x, dy, out=y),
        lambda: fa.gelu.biased(x, b, out=y), lambda: fa.prelu(x, w, out=y), lambda: fa.dropout(x, 0.5, seed=3, out=y),
        lambda: fa.relu.backward(dy, x, out=dx), lambda: fa.tanh.value_and_grad(x, out=(y, dx)),
        lambda: fa.gelu.fused(x, b, residual=dy, dropout=0.5, seed=1, out=y),
    ]

first, second = calls(0), calls(0)
for a, b in zip(first, second):
    assert not lines(a)[1]
    found, repeated = lines(b)
    assert repeated and found == general(b), (found, general(b))
    A.CURRENT[0] = 0x77
    lines(a)
    found, repeated = lines(b)
    assert repeated and found == general(b) and all(" stream=119 " in line for line in found)
    A.CURRENT[0] = 0
# another device
A.CURRENT[1] = 0x99
for a, b in zip(calls(1), calls(1)):
    assert not lines(a)[1]
    found, repeated = lines(b)
    assert repeated and found == general(b) and all(" stream=153 " in line and "primary1" in line for line in found)
""",
        devices=2,
    )


@stand_in
def test_tensors_that_are_made_and_written():
    run_in_stand_in(
        TORCH
        + """
x, y = tensor((8, 64)), tensor((8, 64))
for i in range(1, 4):
    fa.gelu(x, out=y)
    assert y.version == i and x.version == 0
y.inference = True
fa.gelu(x, out=y)  # raises where a version is counted
y.inference = False
m, v = tensor((64,)), tensor((64,))
for i in range(1, 4):
    z, stats = fa.batch_norm.forward(x, running_mean=m, running_var=v)
    assert m.version == v.version == i and z.version == 0
assert repeats[-1]
labels = tensor((8,), "int64")
made = []
for _ in range(3):
    loss, dx = fa.softmax_cross_entropy.value_and_grad(x, labels)
    assert loss.shape == () and dx.shape == x.shape and dx.dtype is x.dtype and type(dx) is A.Tensor
    made += [loss, dx]
assert repeats[-1] and len({id(a) for a in made}) == 6
loss, own = fa.softmax_cross_entropy.value_and_grad(x, labels, out=y)
loss, own = fa.softmax_cross_entropy.value_and_grad(x, labels, out=y)
assert own is y and repeats[-1]
# results are where kernels write
log()
y = fa.softmax(x)
(line,) = launches()
log()
y = fa.softmax(x)
(line,) = launches()
assert repeats[-1] and str(x.data_ptr()) in line and str(y.data_ptr()) in line
# another type of tensors has plans of its own, and gets the library's
p = A.Parameter((8, 64), "float32")
for _ in range(2):
    assert type(fa.softmax(p)) is A.Tensor
assert repeats[-1]
""",
        devices=1,
    )


@stand_in
def test_tensors_that_are_not_taken():
    run_in_stand_in(
        TORCH
        + """
import numpy as np

x, y = tensor((8, 64)), tensor((8, 64))
for _ in range(2):
    fa.gelu(x, out=y)
    fa.gelu.biased(x, tensor((64,)))
    fa.softmax(x)
assert repeats == [True] * 3


def refused(call, error, match):
    repeats.clear()
    with pytest.raises(error, match=match):
        call()
    assert not repeats


for call in (lambda: fa.gelu(x, out=y), lambda: fa.softmax(x), lambda: fa.gelu.biased(x, tensor((64,)))):
    x.requires_grad = True
    refused(call, TypeError, "requires grad")
    A.torch.grad = False
    call()
    assert repeats == [True]
    A.torch.grad = True
    x.requires_grad = False
    x.negative = True
    refused(call, TypeError, "negative bit")
    x.negative = False
    x.layout = "torch.sparse_coo"
    refused(call, TypeError, "layout")
    x.layout = A.torch.strided
refused(lambda: fa.gelu(x, out=tensor((8, 64), device=1)), ValueError, "another device")
refused(lambda: fa.gelu.biased(x, tensor((64,), device=1)), ValueError, "one device")
refused(lambda: fa.gelu.biased(x, np.ones(64, "float32")), TypeError, "memory of the host")
refused(lambda: fa.gelu(x, out=np.ones((8, 64), "float32")), TypeError, "out must be an array on")
y.is_cuda = False
refused(lambda: fa.gelu(x, out=y), TypeError, "out must be an array on")
""",
        devices=2,
    )


@stand_in
def test_tables_are_waited_for_on_other_streams():
    found = run_in_stand_in(
        TORCH
        + """
x, y = tensor((1 << 20,), "float16"), tensor((1 << 20,), "float16")
for stream in (0, 0, 0, 0x77, 0x77, 0x77, 0):
    A.CURRENT[0] = stream
    log()
    repeats.clear()
    fa.gelu(x, out=y)
    calls = log("cuLaunchKernel", "cuStreamWaitEvent")
    print(len(calls), "wait" * calls[0].startswith("cuStreamWait"), f" stream={stream} " in calls[-1], repeats)
""",
        devices=1,
    )
    assert found.splitlines() == [
        "3  True []", "1  True []", "1  True [True]", "2 wait True []", "1  True [True]", "1  True [True]",
        "1  True [True]",
    ]  # fmt: skip
