"""The same bits for an element, wherever it lies and however it is computed."""

import numpy as np
import oracle
import pytest
from cases import BACKENDS, batch, call, each_case, each_dtype, each_name, kinds, outputs, parameters, same
from oracle import TRUTH
from ulp import misaligned, poisoned

import fastact as fa

SIZE = 4099


@each_name
@each_dtype
def test_position_length_alignment_and_stride(name, dtype, backend):
    case = TRUTH[name].cases[0]
    x = batch(dtype, SIZE)
    for kind in kinds(name, case):
        whole = call(name, kind, x, case)

        def agrees(got, index, whole=whole, kind=kind):
            for a, b in zip(got, whole, strict=True):
                assert same(a, b[index]), (kind, index)

        for index in (
            slice(1, None),
            slice(3, 4001),
            slice(0, 17),
            slice(31, 32),
            slice(None, None, 2),
            slice(5, None, 3),
            slice(None, None, -1),
        ):
            agrees(call(name, kind, x[index], case), index)
        for offset in (0, 1, 2, 3, 5, 8):
            source = misaligned(SIZE, dtype, offset)
            source[...] = x
            agrees(call(name, kind, source, case), slice(None))
            target = tuple(misaligned(SIZE, dtype, 9 - offset) for _ in whole)
            agrees(call(name, kind, x, case, out=target if kind == "value_and_grad" else target[0]), slice(None))
        # an address that is not even a multiple of the element's size
        raw = np.empty(SIZE * dtype.itemsize + 1, np.uint8)[1:].view(dtype)
        raw[...] = x
        agrees(call(name, kind, raw, case), slice(None))
        # two dimensions in Fortran order, rows of a wider array, a broadcast row
        table = np.asfortranarray(x[:4080].reshape(60, 68))
        agrees([r.ravel() for r in call(name, kind, table, case)], slice(0, 4080))
        agrees(
            [r.ravel() for r in call(name, kind, np.resize(x, (50, 80))[:, :7], case)],
            (np.arange(50)[:, None] * 80 + np.arange(7)).ravel(),
        )
        agrees([r[3] for r in call(name, kind, np.broadcast_to(x, (5, SIZE)), case)], slice(None))


@each_name
@each_dtype
def test_in_place(name, dtype, backend):
    case = TRUTH[name].cases[0]
    x = batch(dtype, SIZE)
    given = parameters(name, case)
    activation = fa.activations[name]
    for n in (1, 15, 16, 1000, SIZE):
        (want,) = call(name, "forward", x[:n], case)
        buffer = x[:n].copy()
        assert activation(buffer, **given, out=buffer) is buffer
        assert same(buffer, want)
        if name == "prelu":
            continue
        dy = batch(dtype, n, 5)
        want = activation.backward(dy, x[:n], **given)
        for over in ("dy", "x"):
            arrays = {"dy": dy.copy(), "x": x[:n].copy()}
            activation.backward(arrays["dy"], arrays["x"], **given, out=arrays[over])
            assert same(arrays[over], want), over


@each_name
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_and_streaming_stores(name, dtype, backend, threads):
    """From one thread to more than there are cores; sizes beyond every threshold, and multiples of nothing."""
    case = TRUTH[name].cases[0]
    dtype = np.dtype(dtype)
    for kind in kinds(name, case):
        size = 3_000_017 if backend != "reference" else 70_001
        if kind != "forward":
            size //= 8
        x = np.resize(batch(dtype, 50_021), size)
        small = [np.resize(r, size) for r in call(name, kind, x[:50_021], case)]
        for count in (1, 2, 5):
            threads(count)
            for result, want in zip(call(name, kind, x, case, out=outputs(kind, size, dtype)), small, strict=True):
                assert same(result, want), (kind, count)
            for result, want in zip(call(name, kind, x[3:], case), small, strict=True):
                assert same(result, want[3:]), (kind, count)


@pytest.mark.parametrize("name", ["relu", "sigmoid", "gelu"])
@pytest.mark.parametrize("offset", [0, 1, 4, 15])
def test_streaming_stores_at_every_alignment(name, offset, backend, threads):
    """Large enough to go past the cache."""
    size = (1 << 23) + 77
    if backend == "reference":
        pytest.skip("the reference has no stores past the cache")
    x = np.resize(batch(np.dtype(np.float32), 30_011), size)
    want = np.resize(fa.activations[name](x[:30_011]), size)
    for count in (1, 2):
        threads(count)
        out = misaligned(size, np.float32, offset)
        fa.activations[name](x, out=out)
        assert same(out, want), count


@each_name
@each_dtype
def test_arrays_and_scalars_as_parameters(name, dtype, backend):
    """A parameter as an array of equal values, or one per row, gives what the scalar gives."""
    x = batch(dtype, 1001)
    for case in TRUTH[name].cases:
        if not case:
            continue
        rounded = oracle.parameters_as(dtype, case)
        for kind in kinds(name, case):
            if name == "prelu" and kind == "backward":
                continue
            # numbers that are given, not left out, also where they are the defaults
            scalar = call(name, kind, x, {k: np.array(v) for k, v in case.items()})
            if (name, case) != ("hard_sigmoid", TRUTH["hard_sigmoid"].cases[0]):
                # whose default is 1/6 itself, which no type has
                for a, b in zip(call(name, kind, x, case), scalar, strict=True):
                    assert same(a, b), (kind, case)
            for shape in ((1001,), (1,), (3, 1)):
                arrays = {k: np.full(shape, v, dtype) for k, v in rounded.items()}
                for a, b in zip(call(name, kind, x, arrays), scalar, strict=True):
                    assert same(a, np.broadcast_to(b, a.shape)), (kind, case, shape)


@each_case()
@each_dtype
def test_backends_agree(name, case, dtype):
    """Formulas mean the same on every backend, to the last bit."""
    known = fa.dispatch.reasons()
    present = [b for b in BACKENDS if known[b] is None]
    if len(present) < 2:
        pytest.skip(f"one backend alone: {known}")
    x = np.concatenate([batch(dtype, 5003), np.linspace(-30, 30, 20_001).astype(dtype), poisoned(1, dtype)])
    results = {}
    for b in present:
        with fa.use_backend(b):
            results[b] = {kind: call(name, kind, x, case) for kind in kinds(name, case)}
    for b in present[1:]:
        for kind, want in results[present[0]].items():
            for got, expected in zip(results[b][kind], want, strict=True):
                differ = np.flatnonzero((got != expected) & ~(np.isnan(got) & np.isnan(expected)))
                assert same(got, expected), (b, kind, [(x[i], got[i], expected[i]) for i in differ[:3]])
