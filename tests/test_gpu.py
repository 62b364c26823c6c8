"""Arrays of PyTorch, CuPy, JAX and Numba on the machine's GPU against the same calls on the host, in all dtypes.

Run with FASTACT_TEST_GPU=1 and PyTorch; test_cuda_maps.py and test_cuda_rows.py run on the GPU then, too.
"""

from __future__ import annotations

import threading

import cases
import cuda_memory
import cuda_replay
import numpy as np
import pytest
import test_cuda_replay
import ulp
from cases import DTYPES, flat, same
from ulp import BFLOAT16

import fastact as fa
from fastact.api import replay
from fastact.spec.kinds import ALL
from fastact.spec.optimisers import ROWS

pytestmark = pytest.mark.skipif(not cuda_memory.ON_GPU, reason="needs a GPU, and FASTACT_TEST_GPU=1")
torch = pytest.importorskip("torch") if cuda_memory.ON_GPU else None

F32 = np.dtype(np.float32)
# whole words and warps, what is left of them, one element, more rows than a block of sums has
SHAPES = ((3, 8), (257, 129), (1, 1), (70, 4100))
OPS = [name for name, f in fa.activations.items() if all(p.default is not None for p in f.op.params)]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)


def numbers(shape, dtype=F32, seed=0):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape) * 3, dtype)


def on_gpu(a):
    """A tensor with the elements of an array; everything else as it is."""
    if isinstance(a, (list, tuple)):
        return type(a)(map(on_gpu, a))
    if not isinstance(a, np.ndarray) or not a.ndim:
        return a
    if a.dtype == BFLOAT16:
        return torch.from_numpy(a.view(np.int16)).cuda().view(torch.bfloat16)
    return torch.from_numpy(a).cuda()


def on_host(t):
    if isinstance(t, (list, tuple)):
        return tuple(map(on_host, t))
    if not isinstance(t, torch.Tensor):
        return t
    if t.dtype == torch.bfloat16:
        return t.cpu().view(torch.int16).numpy().view(BFLOAT16)
    return t.cpu().numpy()


def assert_same(got, want):
    """Results on the device have the bits of those on the host."""
    cases.assert_same(on_host(got), want)


def check(function, *arrays, **keywords):
    """Results must have the bits of the host's."""
    assert_same(
        function(*map(on_gpu, arrays), **{k: on_gpu(v) for k, v in keywords.items()}), function(*arrays, **keywords)
    )


def close(got, want, factor=8):
    """Results within some epsilons of the largest element of the host's."""
    for a, b in zip(flat(on_host(got)), flat(want), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        eps = ulp.epsilon(b.dtype)
        a, b = a.astype(np.float64), b.astype(np.float64)
        assert np.abs(a - b).max(initial=0) <= factor * eps * np.abs(b).max(initial=0)


def near(function, *arrays, **keywords):
    """`close` of the same call in both places."""
    close(function(*map(on_gpu, arrays), **keywords), function(*arrays, **keywords))


# ---- bits


@each_dtype
@pytest.mark.parametrize("kind", ("forward", "backward", "value_and_grad"))
def test_elementwise(kind, dtype):
    for i, name in enumerate(OPS):
        f = fa.activations[name] if kind == "forward" else getattr(fa.activations[name], kind)
        shape = SHAPES[i % len(SHAPES)]
        check(f, *(numbers(shape, dtype, j) for j in range(len(ALL[kind].inputs))))


@each_dtype
@pytest.mark.parametrize("kind", ("biased", "biased_backward", "gated", "gated_backward"))
def test_fused(kind, dtype):
    """Each shape with an activation in turn, gradients of biases are sums of columns."""
    for i, shape in enumerate(SHAPES):
        f = getattr(fa.activations[OPS[(i + 4 * DTYPES.index(dtype)) % len(OPS)]], kind)
        arrays = [numbers(shape, dtype, j) for j in range(2 if kind.startswith("gated") else 1)]
        if kind.endswith("backward"):
            arrays.insert(0, numbers(shape, dtype, 7))
        if kind.startswith("biased"):
            arrays.append(numbers(shape[-1], dtype, 8))
        check(f, *arrays)


@each_dtype
def test_sums_of_columns_and_segments(dtype):
    for shape, axis in (((1000, 33), -1), ((5, 7, 4099), 1), ((4097, 6, 10), 0), ((20_000, 8), 1)):
        x, dy = numbers(shape, dtype), numbers(shape, dtype, 1)
        check(fa.relu.biased_backward, dy, x, numbers(shape[axis], dtype, 2), axis=axis)
        check(fa.prelu.backward, dy, x, numbers(shape[axis], dtype, 2), axis=axis)


@each_dtype
def test_dropout(dtype):
    for shape in SHAPES:
        x = numbers(shape, dtype)
        check(fa.dropout, x, 0.3, seed=2**64 - 1, offset=2**32 - 1)
        check(fa.rrelu, x, training=True, seed=5)
        check(fa.gelu.fused, x, numbers(shape[-1], dtype, 1), dropout=0.5, seed=9, residual=numbers(shape, dtype, 2))


@each_dtype
def test_gated_units(dtype):
    for shape in SHAPES[:2]:
        pair, dy = [numbers(shape, dtype, j) for j in range(2)], numbers(shape, dtype, 2)
        check(fa.swiglu, *pair)
        check(fa.geglu.backward, dy, *pair)
        check(fa.swiglu, np.concatenate(pair, 1))


@pytest.mark.parametrize("name", ROWS)
def test_optimisers(name):
    shapes = [(3, 5), (100_000,), (1,), (0,)]
    params, grads = ([numbers(s, F32, j) for s in shapes] for j in range(2))
    theirs, g = on_gpu([p.copy() for p in params]), on_gpu(grads)
    a, b = getattr(fa.optim, name)(params), getattr(fa.optim, name)(theirs)
    for keywords in ({}, {"scale": 0.5, "lr": 0.3}):
        a.step(grads, **keywords)
        b.step(g, **keywords)
    assert_same(tuple(theirs), tuple(params))


@each_dtype
def test_optimisers_in_other_dtypes(dtype):
    params, grads = ([numbers(s, dtype, j) for s in ((7, 9), (20_000,))] for j in range(2))
    theirs = on_gpu([p.copy() for p in params])
    a, b = fa.optim.AdamW(params), fa.optim.AdamW(theirs)
    a.step(grads)
    b.step(on_gpu(grads))
    assert_same(tuple(theirs), tuple(params))


@each_dtype
def test_memory(dtype):
    """Strided, transposed, unaligned, broadcast tensors, and tensors without elements."""
    whole = numbers((40, 61), dtype)
    t = on_gpu(whole)
    for view in (
        lambda a: a[::2, 1::3], lambda a: a.T, lambda a: a[1:], lambda a: a[3, 1:], lambda a: a[:0],
        lambda a: a[:, None, :5], lambda a: a[7, 7],
    ):  # fmt: skip
        assert_same(fa.gelu(view(t)), np.asarray(fa.gelu(view(whole)))[()])
    close(fa.softmax(t[:, ::2]), fa.softmax(whole[:, ::2]))
    bias = on_gpu(whole[0])
    assert_same(fa.relu.gated(t, bias.expand(40, 61)), fa.relu.gated(whole, np.broadcast_to(whole[0], whole.shape)))
    y = t.clone()
    assert fa.mish(y, out=y) is y
    assert_same(y, fa.mish(whole))


def test_more_than_2_to_the_31_elements():
    n = 2**31 + 5
    x = torch.randint(-(2**15), 2**15, (n,), dtype=torch.int16, device="cuda").view(torch.bfloat16)
    y = fa.relu(x)
    assert torch.equal(y[-1000:].nan_to_num(0), torch.relu(x[-1000:]).nan_to_num(0))
    ends = slice(2**31 - 500, 2**31 + 5)
    assert torch.equal(fa.gelu.gated(x, x)[ends].nan_to_num(0), fa.gelu.gated(x[ends], x[ends]).nan_to_num(0))


# ---- rows


@each_dtype
def test_rows(dtype):
    for n in (5, 67, 1000, 4096, 50_257):
        x, dy = numbers((9, n), dtype), numbers((9, n), dtype, 1)
        for name in ("softmax", "log_softmax", "softmin"):
            f = getattr(fa, name)
            near(f, x)
            near(f.backward, dy, np.asarray(f(x)))
        w, b = numbers(n, dtype, 2), numbers(n, dtype, 3)
        near(fa.rms_norm, x, w)
        near(fa.layer_norm, x, w, b)
        near(fa.softmax_cross_entropy, x, np.arange(9) * 7 % n)
        near(fa.softmax_cross_entropy.value_and_grad, x, np.arange(9) * 7 % n)
    near(fa.softmax, numbers((2, 300_000), dtype))
    near(fa.logsumexp, numbers((3, 1000), dtype))


@each_dtype
def test_norms_of_channels(dtype):
    x = numbers((6, 8, 5, 7), dtype)
    w, b = numbers(8, dtype, 1), numbers(8, dtype, 2)
    near(fa.group_norm, x, 4, w, b)
    near(fa.batch_norm.forward, x, w, b, channel_axis=1)
    near(fa.batch_norm, x, w, np.abs(b), w, b, channel_axis=1)


# ---- how arrays come, and where calls run


def test_results_are_what_the_caller_has():
    x = numbers((5, 7))
    want = fa.gelu(x)
    t = fa.gelu(torch.nn.Parameter(on_gpu(x), requires_grad=False))
    assert type(t) is torch.Tensor and t.device.type == "cuda"
    cupy = pytest.importorskip("cupy")
    got = fa.gelu(cupy.asarray(x))
    assert type(got) is cupy.ndarray
    assert same(cupy.asnumpy(got), want)
    cuda = pytest.importorskip("numba.cuda", exc_type=ImportError)
    assert same(fa.gelu(cuda.to_device(x)).copy_to_host(), want)


def test_arrays_of_jax():
    jax = pytest.importorskip("jax")
    gpus = [d for d in jax.devices() if d.platform == "gpu"]
    if not gpus:
        pytest.skip("JAX has no GPU here")
    x = numbers((5, 7))
    got = fa.gelu(jax.device_put(x, gpus[0]))
    assert isinstance(got, jax.Array)
    assert same(np.asarray(got), fa.gelu(x))


def test_numpy_arrays_go_there_and_back():
    x = numbers((100, 33))
    want = fa.gelu(x), fa.relu.biased_backward(x, x, x[0])
    with fa.use_backend("cuda"):
        got = fa.gelu(x), fa.relu.biased_backward(x, x, x[0])
    assert type(got[0]) is np.ndarray
    assert same(got[0], want[0])
    assert same(got[1][1], want[1][1])


def test_streams_and_threads():
    x = numbers((512, 1024))
    want = fa.mish(x)
    found = {}

    def work(i):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            t = on_gpu(x)
            for _ in range(20):
                found[i] = fa.mish(t)
        stream.synchronize()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 4
    for got in found.values():
        assert_same(got, want)


def test_a_call_waits_for_the_stream_of_the_caller():
    """What is written on a stream before a call is read by it, without a synchronisation between them."""
    stream = torch.cuda.Stream()
    x = torch.zeros(1 << 26, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(20):
            x += 1
        y = fa.relu(x)
    stream.synchronize()
    assert bool((y == 20).all())


def test_capture_into_a_graph():
    x = torch.randn(64, 1000, device="cuda")
    w, b = torch.randn(1000, device="cuda"), torch.randn(1000, device="cuda")

    def chain():
        return fa.rms_norm(fa.softmax(fa.gelu.biased(x, b)), w), *fa.relu.biased_backward(x, x, b)

    chain()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = chain()
    x.copy_(torch.randn_like(x))
    graph.replay()
    torch.cuda.synchronize()
    for got, want in zip(results, chain()):
        assert torch.equal(got, want)


def test_mixed_host_and_device():
    x = numbers((3, 4))
    with pytest.raises(TypeError, match="cuda:0"):
        fa.relu.biased(on_gpu(x), x[0])


# ---- calls that are repeated from an earlier one (fastact/api/replay.py)


class Given:
    """Makes tensors that are filled by a seed; keeps them, as they are written as well."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.tensors = []

    def __call__(self, *shape, dtype="float32", offset=0, strides=None):
        values = torch.from_numpy(np.asarray(self.random.standard_normal(shape) * 2, dtype))
        size = values.element_size()
        strides = values.stride() if strides is None else tuple(s // size for s in strides)
        last = sum((n - 1) * s for n, s in zip(shape, strides)) if values.numel() else 0
        memory = torch.zeros(offset // size + last + 1, dtype=values.dtype, device="cuda")
        return self._kept(memory.as_strided(shape, strides, offset // size).copy_(values))

    def _kept(self, tensor):
        self.tensors.append(tensor)
        return tensor

    def integers(self, high, *shape):
        return self._kept(torch.from_numpy(self.random.integers(0, high, shape)).cuda())

    def positive(self, *shape):
        return self._kept(torch.from_numpy(self.random.random(shape, np.float32) + np.float32(0.5)).cuda())

    def mask(self, *shape):
        return self._kept(torch.from_numpy(self.random.random(shape) < 0.5).cuda())


def every(case, seed):
    """What a call gives, and all tensors after it."""
    given = Given(seed)
    result = cuda_replay.flat(case(given))
    return [None if t is None else on_host(t).copy() for t in (*result, *given.tensors)]


@pytest.mark.parametrize("name", test_cuda_replay.CASES)
def test_repeated_calls(name, monkeypatch):
    monkeypatch.setattr(replay, "_plans", {})
    case = test_cuda_replay.CASES[name]
    wanted = test_cuda_replay.without(case, 2, every)
    every(case, 1)
    assert replay._plans and all(replay._plans.values())
    known = len(replay._plans)
    for _ in range(2):
        cases.assert_same(every(case, 2), wanted)
    assert len(replay._plans) == known


def test_repeated_calls_in_a_graph():
    x, labels, y = on_gpu(numbers((64, 96))), torch.arange(64, device="cuda"), torch.empty(64, 96, device="cuda")

    def calls():
        loss, dx = fa.softmax_cross_entropy.value_and_grad(x, labels)
        return fa.softmax(x), fa.gelu(x, out=y), loss, dx, *fa.gelu.biased_backward(dx, x, x[0].clone())

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(2):
            calls()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        results = calls()
    for seed in (1, 2):
        x.copy_(on_gpu(numbers((64, 96), seed=seed)))
        graph.replay()
        torch.cuda.synchronize()
        found = [t.clone() for t in results]
        for a, b in zip(found, calls()):
            assert torch.equal(a, b)
