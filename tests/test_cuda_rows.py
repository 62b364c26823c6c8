"""Functions over rows of arrays on a GPU: accuracy in every form of the kernels, masks, axes, memory, labels."""

import itertools
from functools import cache

import cuda_memory
import norms_oracle
import numpy as np
import pytest
import rows_oracle as truth
import test_norms
import test_rows
import ulp
from cases import DTYPES, difference, same
from cuda_memory import Guarded, device, host, on_device, outcome, simulator  # noqa: F401
from test_rows_losses import OPTIONS, OPTIONS_OF_PROBABILITIES, VALUE, close, shares
from test_rows_losses import given as options_as_arrays
from ulp import BFLOAT16

import fastact as fa
from fastact.backends.cuda import row_runs
from fastact.tools.verify_rows import CASES

pytestmark = cuda_memory.needs_cuda

F32, F64, F16 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16)
NAMES = ("softmax", "log_softmax", "softmin", "sparsemax")
# what decides the form, so that short rows take those of long ones
FORMS = {
    "warp": {"FEW": 0},
    "words": {"FEW": 0, "LARGEST": 32, "COMFORT": 1},
    "warps": {"FEW": 0, "LARGEST": 64, "COMFORT": 0},
    "shared": {"FEW": 0, "MOST_WORDS": 0, "TEAM_OF_SHARED": 64, "LARGEST": 64},
    "again": {"FEW": 0, "MOST_WORDS": 0, "EXCHANGED": 1 << 30, "TEAM_OF_LONG": 64, "LARGEST": 64},
    "parts": {"FEW": 1 << 30, "PART": 16, "TEAM_OF_PART": 32},
}
LENGTHS = (1, 2, 3, 5, 8, 9, 17, 33, 64, 67)

each_form = pytest.mark.parametrize("form", FORMS)
each_float = pytest.mark.parametrize("dtype", (F32, F64), ids=lambda d: d.name)


def form_and_dtype(dtypes, quick):
    """Every form in float32, and those (form, dtype) besides; all others are slow."""
    return pytest.mark.parametrize(("form", "dtype"), [
        pytest.param(form, d, marks=[] if d == F32 or (form, d) in quick else pytest.mark.slow, id=f"{d.name}-{form}")
        for form in FORMS for d in dtypes
    ])  # fmt: skip


def form_and_name(names):
    """Every second pair of a form and a name; all others are slow."""
    return pytest.mark.parametrize(("form", "name"), [
        pytest.param(form, name, marks=pytest.mark.slow if (i + j) % 2 else [], id=f"{name}-{form}")
        for i, form in enumerate(FORMS) for j, name in enumerate(names)
    ])  # fmt: skip


each_form_float = form_and_dtype((F32, F64), [("warps", F64)])
each_form_dtype = form_and_dtype(DTYPES, [("parts", F64), ("warps", BFLOAT16), ("again", F16)])
each_half = pytest.mark.parametrize("dtype", (F16, BFLOAT16), ids=lambda d: d.name)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)


@pytest.fixture
def forms(monkeypatch):
    """Sets a form; the list of forms that were used."""
    used = []
    launch = row_runs.launch_rows

    def launched(spec, form, *args, **keywords):
        used.append(form)
        return launch(spec, form, *args, **keywords)

    monkeypatch.setattr(row_runs, "launch_rows", launched)

    def choose(name):
        for what, value in FORMS[name].items():
            monkeypatch.setattr(row_runs, what, value)
        used.clear()
        return used

    return choose


def memories(used):
    return {f.memory for f in used}


@cache
def softmax_samples(dtype):
    """Rows of each length, of several spreads and levels, one of each."""
    return {n: np.concatenate(list(test_rows.samples(dtype, n, 1, n))) for n in LENGTHS}


@cache
def softmax_truth(name, dtype, n):
    x = softmax_samples(dtype)[n]
    x = x if dtype.itemsize == 8 else x.astype(np.float32)
    return truth.log_softmax(x) if name == "log_softmax" else truth.softmax(-x if name == "softmin" else x)


def near(got, want, dtype, factor=16, whole=False):
    """NaN and infinities alike, other numbers within a few epsilon of the greatest of their row, or of all."""
    got, want = (np.asarray(a).astype(np.float64) for a in (got, want))
    assert got.shape == want.shape
    assert np.array_equal(np.isnan(got), np.isnan(want))
    finite = np.isfinite(want)
    assert np.array_equal(got[~finite], want[~finite], equal_nan=True)
    size = np.abs(np.where(finite, want, 0))
    size = np.maximum(size, size.max(-1, keepdims=True, initial=0)) if size.ndim else size
    size = size.max(initial=0) if whole else size
    off = np.abs(np.where(finite, got - np.where(finite, want, 0), 0))
    worst = (off / (ulp.epsilon(dtype) * size + ulp.smallest_normal(dtype))).max(initial=0)
    assert worst <= factor, worst


# accuracy


@each_form_float
@pytest.mark.parametrize("name", test_rows.BOUNDS)
def test_accuracy(name, dtype, form, forms):
    used = forms(form)
    worst = 0.0
    for n, x in softmax_samples(dtype).items():
        out = Guarded(x.shape, dtype)
        getattr(fa, name)(device(x), out=out.array)
        out.check()
        error, below, _ = ulp.errors(out.values, softmax_truth(name, dtype, n))
        assert below.max() <= 1.0, n
        worst = max(worst, error.max())
    print(f"{name} {dtype.name} {form}: {worst:.3f} ULP, bound {test_rows.BOUNDS[name]}")
    assert worst <= test_rows.BOUNDS[name]
    wanted = {"warp": "registers", "words": "registers", "warps": "registers"}.get(form, form)
    assert wanted in memories(used)
    if form == "words":
        assert max(f.words for f in used) >= (1 if dtype == F32 else 2)
    if form == "warps":
        assert max(f.team for f in used) == 64
    assert {f.edges for f in used} == {True, False}


@each_half
@pytest.mark.parametrize("name", test_rows.BOUNDS)
def test_accuracy_of_16_bits(name, dtype, forms):
    """The rounding of the result, and next to nothing besides."""
    worst = 0.0
    for form in FORMS:
        forms(form)
        for n in (1, 5, 8, 9, 33):
            x = softmax_samples(F32)[n].astype(dtype)
            wide = x.astype(np.float32)
            want = (
                truth.log_softmax(wide)
                if name == "log_softmax"
                else truth.softmax(-wide if name == "softmin" else wide)
            )
            error, below, _ = ulp.errors(host(getattr(fa, name)(device(x))), want)
            assert below.max() <= 1.0, n
            worst = max(worst, error.max())
    print(f"{name} {dtype.name}: {worst:.3f} ULP, bound 0.52")
    assert worst <= 0.52


@each_float
def test_logsumexp_accuracy(dtype, forms):
    worst = 0.0
    for form in FORMS:
        forms(form)
        for n in (1, 5, 8, 33):
            x = softmax_samples(dtype)[n]
            want = truth.logsumexp(x)
            hi, lo = want if isinstance(want, tuple) else (want, 0.0)
            m = x.max(-1).astype(np.float64)
            unit = ulp.ulp_of(np.maximum(np.maximum(np.abs(m), np.abs(hi - m)), np.abs(hi)), dtype)
            y = host(fa.logsumexp(device(x))).astype(np.float64)
            worst = max(worst, (np.abs(y - hi - lo) / unit).max())
    print(f"logsumexp {dtype.name}: {worst:.3f} ULP, bound {CASES['logsumexp'].limits[0]}")
    assert worst <= CASES["logsumexp"].limits[0]


@each_float
def test_sparsemax_accuracy(dtype, forms):
    eps = np.finfo(dtype).eps
    worst = 0.0
    for form in FORMS:
        forms(form)
        for n in (1, 3, 8, 33, 67):
            x = softmax_samples(dtype)[n]
            y = host(fa.sparsemax(device(x)))
            worst = max(worst, np.abs(y - truth.sparsemax(x)).max() / eps)
            assert np.abs(y.sum(-1, dtype=np.float64) - 1).max() <= eps * n
    print(f"sparsemax {dtype.name}: {worst:.3f} epsilon, bound {CASES['sparsemax'].limits[0]}")
    assert worst <= CASES["sparsemax"].limits[0]


@each_float
@pytest.mark.parametrize("name", NAMES)
def test_backward_accuracy(name, dtype, forms):
    eps = np.finfo(dtype).eps
    worst = 0.0
    for form in FORMS:
        forms(form)
        for n in (1, 3, 8, 33, 67):
            x = softmax_samples(dtype)[n]
            y = getattr(fa, name)(x)
            dy = np.random.default_rng(n).standard_normal(y.shape).astype(dtype)
            got = host(getattr(fa, name).backward(device(dy), device(y)))
            want = getattr(truth, f"{name}_backward")(dy, y)
            scale = truth.backward_scale(name, dy, y)
            worst = max(worst, (np.abs(got - want) / (eps * scale + np.finfo(dtype).tiny)).max())
    print(f"{name}.backward {dtype.name}: {worst:.3f} epsilon of what is added, bound {CASES[name].limits[1]}")
    assert worst <= CASES[name].limits[1]


def test_every_length():
    """Rows that begin and end at any place of a word: each against what it is alone."""
    for dtype in (F32, BFLOAT16):
        for n in range(1, 68):
            x = softmax_samples(F32)[67][:2, :n].astype(dtype)
            out = Guarded(x.shape, dtype)
            fa.softmax(device(x), out=out.array)
            out.check()
            near(out.values, fa.softmax(x), dtype, 1.01 if dtype == BFLOAT16 else 8)


# where lengths change the form by themselves: of a warp's words, of teams, of registers
@pytest.mark.parametrize("n", [511, 512, 513, 1025, 4099, 32_769])
def test_borders_of_forms(n, forms):
    used = forms("warp") if n < 32_769 else None
    x = np.concatenate(list(itertools.islice(test_rows.samples(np.float32, n, 1), 2)))[: 2 if n < 4096 else 1]
    out = Guarded(x.shape, F32)
    fa.softmax(device(x), out=out.array)
    out.check()
    error, below, _ = ulp.errors(out.values, truth.softmax(x))
    assert error.max() <= test_rows.BOUNDS["softmax"] and below.max() <= 1
    assert used is None or memories(used) == {"registers"}


# special values


@form_and_name([*NAMES, "logsumexp"])
def test_special_values(name, form, forms):
    forms(form)
    for dtype in (F32, BFLOAT16):
        for n in (1, 5, 17):
            x = np.random.default_rng(n).standard_normal((8, n)).astype(dtype)
            big = float(np.finfo(np.float32).max if dtype == F32 else 3.3895e38)
            for i, value in enumerate((np.nan, np.inf, -np.inf, big, -big)):
                x[i, (3 * i) % n] = value
            x[5], x[6] = -np.inf, np.inf
            x[7, ::2] = big
            with np.errstate(all="ignore"):
                want = getattr(fa, name)(x)
            near(host(getattr(fa, name)(device(x))), want, dtype)
            if name != "logsumexp":
                y = getattr(fa, name)(x)
                dy = np.resize(np.array([1, np.nan, 2, np.inf, -1, 0, 3], np.float32), x.shape).astype(dtype)
                near(
                    host(getattr(fa, name).backward(device(dy[::-1]), device(y))),
                    getattr(fa, name).backward(dy[::-1], y),
                    dtype,
                )


# masks


@form_and_name([*NAMES, "logsumexp"])
def test_masks(name, form, forms):
    forms(form)
    rng = np.random.default_rng(3)
    for dtype, n in ((F32, 1), (F32, 37), (BFLOAT16, 24)):
        x = rng.standard_normal((2, 4, n)).astype(dtype)
        mask = rng.random((2, 4, n)) < 0.6
        mask[0, 1], mask[0, 2] = False, True
        x[1, 1, 0], mask[1, 1, 0] = np.nan, False
        x[1, 2, -1], mask[1, 2, -1] = np.inf, False
        f = getattr(fa, name)
        for m in (mask, mask[:1], mask[..., :1], mask[1, 0]):
            near(host(f(device(x), where=device(m))), f(x, where=m), dtype)
        y = f(x, where=mask)
        if name != "logsumexp":
            dy = rng.standard_normal(x.shape).astype(dtype)
            got = host(f.backward(device(dy), device(y), where=device(mask)))
            assert (got[~mask] == 0).all()
            near(got, f.backward(dy, y, where=mask), dtype)
            d = device(x)
            assert f(d, where=device(mask), out=d) is d
            near(host(d), y, dtype)


@each_form_float
def test_scale_bias_causal(form, dtype, forms):
    forms(form)
    rng = np.random.default_rng(5)
    worst = 0.0

    def measured(x, **keywords):
        nonlocal worst
        y = host(fa.softmax(device(x), **on_device(keywords)))
        keywords["mask"] = keywords.pop("where", None)
        want = truth.scaled_softmax(x, **keywords)
        error, below, _ = ulp.errors(y, want)
        assert below.max() <= 1.0
        worst = max(worst, error.max())

    for shape in ((2, 3, 37), (5, 8), (3, 1)):
        x = (rng.standard_normal(shape) * 4).astype(dtype)
        bias = rng.standard_normal(shape).astype(dtype)
        bias[..., 0, :] = -np.inf
        bias[..., -1, ::3] = -np.inf
        mask = rng.random(shape) < 0.6
        for keywords in (
            {"scale": 0.3},
            {"causal": True},
            {"bias": bias, "scale": 0.125},
            {"scale": 0.7, "causal": True, "bias": bias},
            {"scale": 2.0, "where": mask, "causal": True},
        ):
            measured(x, **keywords)
        y = fa.softmax(x, scale=0.5, causal=True)
        dy = rng.standard_normal(shape).astype(dtype)
        near(
            host(fa.softmax.backward(device(dy), device(y), scale=0.5, causal=True)),
            fa.softmax.backward(dy, y, scale=0.5, causal=True),
            dtype,
        )
    print(f"softmax with scale and bias {dtype.name} {form}: {worst:.3f} ULP, bound {CASES['softmax'].limits[0]}")
    assert worst <= CASES["softmax"].limits[0]
    # of keys more than of queries and fewer, along the other axis, a bias that broadcasts
    for shape in ((2, 3, 9), (2, 9, 3)):
        x = rng.standard_normal(shape).astype(dtype)
        for keywords in ({"axis": 1, "causal": True}, {"causal": True}, {"bias": x[0, 0], "scale": 0.1}):
            near(host(fa.softmax(device(x), **on_device(keywords))), fa.softmax(x, **keywords), dtype, whole=True)


# axes, layouts, memory


@pytest.mark.parametrize("name", [*NAMES, "logsumexp"])
def test_axes(name):
    f = getattr(fa, name)
    x = np.random.default_rng(6).standard_normal((2, 5, 3, 4)).astype(np.float32)
    for axis in (0, 1, -2, -1, (1,), (1, 3), (3, 1), (0, 2, 3), (0, 1, 2, 3), None):
        near(host(f(device(x), axis=axis)), np.asarray(f(x, axis=axis)), F32, whole=True)
        mask = np.random.default_rng(7).random((5, 3, 4)) < 0.7
        near(
            host(f(device(x), axis=axis, where=device(mask))), np.asarray(f(x, axis=axis, where=mask)), F32, whole=True
        )
        if name != "logsumexp":
            y = f(x, axis=axis)
            near(host(f.backward(device(x), device(y), axis=axis)), f.backward(x, y, axis=axis), F32, whole=True)
        else:
            near(host(f(device(x), axis=axis, keepdims=True)), f(x, axis=axis, keepdims=True), F32, whole=True)
    for shape in ((0, 4), (4, 0), (0,), (2, 0, 3)):
        z = np.zeros(shape, np.float32)
        for axis in (-1, 0):
            got, want = (
                outcome(lambda z=z, axis=axis: f(device(z), axis=axis)),
                outcome(lambda z=z, a=axis: f(z, axis=a)),
            )
            assert same(got, np.asarray(want)) if isinstance(got, np.ndarray) else got == want, (shape, axis, got, want)


@each_form_dtype
def test_layouts(form, dtype, forms):
    forms(form)
    x = np.random.default_rng(8).standard_normal((3, 11, 19)).astype(dtype)
    factor = 8 if dtype.itemsize > 2 else 1.01
    layouts = (x, x.transpose(1, 0, 2), x[:, ::2], x[..., 1:], x[..., ::-1], x[..., ::3], x[::-1, :, :16],
               np.broadcast_to(x[:1], x.shape), x.ravel()[1:419].reshape(2, 11, 19))  # fmt: skip
    for a in layouts:
        want = fa.softmax(a)
        near(host(fa.softmax(device(a))), want, dtype, factor)
        out = Guarded(a.shape, dtype, 2 * dtype.itemsize)
        fa.softmax(device(a), out=out.array)
        out.check()
        near(out.values, want, dtype, factor)
        y = Guarded(a.shape, dtype, 3 * dtype.itemsize).fill(want).array
        near(
            host(fa.softmax.backward(device(a), y)), fa.softmax.backward(a, want), dtype, 8 if dtype.itemsize > 2 else 4
        )
    wide = Guarded((3, 11, 19), dtype, strides=(11 * 40 * dtype.itemsize, 40 * dtype.itemsize, 2 * dtype.itemsize))
    fa.softmax(device(x), out=wide.array)
    wide.check()
    near(wide.values, fa.softmax(x), dtype, factor)


@each_form
def test_in_place(form, forms):
    """The bits of a call that writes elsewhere."""
    forms(form)
    rng = np.random.default_rng(9)
    for dtype, shape in ((F32, (9, 37)), (BFLOAT16, (5, 24)), (F64, (3, 13))):
        x, dy, r = rng.standard_normal((3, *shape)).astype(dtype)
        w, b = rng.standard_normal((2, shape[1])).astype(dtype)
        labels = rng.integers(0, shape[1], shape[0])
        y = fa.softmax(x)
        _, stats = fa.layer_norm.forward(x, w, b)
        log_p = fa.log_softmax(x)
        calls = {
            "softmax": lambda o, i, x=x: fa.softmax(i[0], out=o),
            "causal": lambda o, i: fa.softmax(i[0], scale=0.5, causal=True, out=o),
            "softmax backward": lambda o, i: fa.softmax.backward(i[0], i[1], out=o),
            "cross-entropy": lambda o, i, t=labels: fa.softmax_cross_entropy.value_and_grad(i[0], device(t), out=o),
            "nll": lambda o, i, t=labels: fa.nll_loss.value_and_grad(i[0], device(t), out=o),
            "mse": lambda o, i: fa.mse_loss.value_and_grad(i[0], i[1], out=o),
            "layer_norm": lambda o, i, w=w, b=b: fa.layer_norm(i[0], device(w), device(b), out=o),
            "layer_norm backward": lambda o, i, w=w, b=b, s=stats: fa.layer_norm.backward(
                i[0], i[1], device(s), device(w), device(b), out=o
            ),
        }
        arrays = {"softmax backward": (dy, y), "nll": (log_p,), "mse": (x, r), "layer_norm backward": (dy, x)}
        for what, call in calls.items():
            inputs = arrays.get(what, (x,))
            apart = Guarded(shape, dtype)
            # addresses alike, so that sums have one order
            want = host(call(apart.array, [Guarded(shape, dtype).fill(a).array for a in inputs]))
            apart.check()
            for k in range(len(inputs)):
                moved = [Guarded(shape, dtype).fill(a) for a in inputs]
                got = host(call(moved[k].array, [m.array for m in moved]))
                for m in moved:
                    m.check()
                for g, e in zip(
                    got if isinstance(got, tuple) else (got,), want if isinstance(want, tuple) else (want,)
                ):
                    assert (g is None and e is None) or same(g, e), (what, k, difference(g, e))


def test_memory_that_overlaps():
    rng = np.random.default_rng(10)
    x = rng.standard_normal(400).astype(np.float32)
    for shift in (1, 4, 20):
        space = device(x)
        a, out = space[:200].reshape((10, 20)), space[shift : 200 + shift].reshape((10, 20))
        want = fa.softmax(x[:200].reshape(10, 20))
        fa.softmax(a, out=out)
        near(host(out), want, F32, 8)
    # the result lies over what there is one of for each column, or each row
    h = x.reshape(20, 20)
    for row in (0, 7):
        d = device(h)
        near(host(fa.rms_norm(d, d[row], out=d)), fa.rms_norm(h, h[row]), F32)
        d = device(h)
        near(host(fa.layer_norm(d, d[row], d[row], out=d)), fa.layer_norm(h, h[row], h[row]), F32)
        labels = rng.integers(0, 20, 20)
        w = np.abs(h)
        d = device(w)
        got = host(fa.softmax_cross_entropy.value_and_grad(d, device(labels), weight=d[row], out=d))
        want = fa.softmax_cross_entropy.value_and_grad(w, labels, weight=w[row])
        near(got[0], want[0], F32)
        near(got[1], want[1], F32)
    if not cuda_memory.ON_GPU:
        labels = rng.integers(0, 20, 20)
        space = Guarded((20, 20), F32, strides=(80, 4))
        inside = space.array._ary.view(np.int32)[3]
        inside[...] = labels
        loss, _ = fa.softmax_cross_entropy.value_and_grad(device(h), type(space.array)(inside), out=space.array)
        want = fa.softmax_cross_entropy.value_and_grad(h, labels)
        near(host(loss), want[0], F32)
        near(space.values, want[1], F32)


@each_form
def test_bits_do_not_depend_on_the_run_or_the_rows_beside(form, forms):
    forms(form)
    for dtype, n in ((F32, 67), (BFLOAT16, 40)):
        x = np.random.default_rng(11).standard_normal((11, n)).astype(dtype)
        d, out = device(x), device(np.zeros_like(x))
        first = host(fa.softmax(d))
        assert same(host(fa.softmax(d)), first)
        for i in range(0, 11, 3):
            fa.softmax(d[i : i + 2], out=out[i : i + 2])
            assert same(host(out)[i : i + 2], first[i : i + 2])


# losses


@each_form_float
def test_losses_by_labels(form, dtype, forms):
    forms(form)
    rng = np.random.default_rng(12)
    for n, options in itertools.product((2, 21), OPTIONS.values()):
        x = (rng.standard_normal((4, n)) * 3).astype(dtype)
        labels = rng.integers(0, n, 4)
        if "ignore_index" in options:
            labels[::3] = options["ignore_index"]
            labels[1] = n - 1
        keywords = options_as_arrays(options, n, dtype.type)
        value, grad = host(fa.softmax_cross_entropy.value_and_grad(device(x), device(labels), **on_device(keywords)))
        want, want_grad = truth.softmax_cross_entropy(x, labels, **keywords)
        assert value.dtype == grad.dtype == dtype
        assert close(value, want, dtype, VALUE) and close(grad, want_grad, dtype), (n, options)
        assert same(host(fa.softmax_cross_entropy(device(x), device(labels), **on_device(keywords))), value)
        if not {"label_smoothing", "z_loss"} & set(keywords):
            log_p = fa.log_softmax(x)
            got = host(fa.nll_loss.value_and_grad(device(log_p), device(labels), **on_device(keywords)))
            for g, w in zip(got, truth.nll_loss(log_p, labels, **keywords)):
                assert close(g, w, dtype), (n, options)


@each_form_float
def test_losses_by_probabilities(form, dtype, forms):
    forms(form)
    for n, options in itertools.product((1, 21), OPTIONS_OF_PROBABILITIES):
        x = (np.random.default_rng(n).standard_normal((5, n)) * 3).astype(dtype)
        p = shares((5, n), dtype, n)
        p[1, ::2] = 0
        keywords = options_as_arrays(options, n, dtype.type)
        value, grad = host(fa.softmax_cross_entropy.value_and_grad(device(x), device(p), **on_device(keywords)))
        want, want_grad = truth.softmax_cross_entropy(x, p, **keywords)
        assert close(value, want, dtype, VALUE) and close(grad, want_grad, dtype), (n, options)


def test_labels(forms):
    """Of any integer dtype and layout; those that are no class make their row NaN, one that is ignored is 0."""
    rng = np.random.default_rng(13)
    x = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    labels = rng.integers(0, 5, (2, 3, 4))
    want = fa.softmax_cross_entropy.value_and_grad(x, labels)
    for kind in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"):
        for t in (labels.astype(kind), np.asfortranarray(labels.astype(kind))):
            got = host(fa.softmax_cross_entropy.value_and_grad(device(x), device(t)))
            near(got[0], want[0], F32)
            near(got[1], want[1], F32)
    for axis in (0, 1, 2):
        moved = np.moveaxis(x, -1, axis)
        got = host(fa.softmax_cross_entropy.value_and_grad(device(moved), device(labels), axis=axis))
        near(got[1], np.moveaxis(want[1], -1, axis), F32)
    x = rng.standard_normal((6, 5)).astype(np.float32)
    labels = np.array([0, 5, -1, -100, 1 << 40, 4])
    for f in (fa.softmax_cross_entropy, fa.nll_loss):
        for options in ({}, {"label_smoothing": 0.1}, {"weight": np.ones(5, np.float32)}):
            if f is fa.nll_loss and "label_smoothing" in options:
                continue
            given = on_device(options)
            loss, grad = host(f.value_and_grad(device(x), device(labels), reduction="none", **given))
            assert np.isnan(loss).tolist() == [False, True, True, True, True, False]
            assert np.isnan(grad).all(-1).tolist() == np.isnan(grad).any(-1).tolist() == np.isnan(loss).tolist()
            loss, grad = host(f.value_and_grad(device(x), device(labels), reduction="none", ignore_index=-100, **given))
            assert np.isnan(loss).tolist() == [False, True, True, False, True, False]
            assert loss[3] == 0 and (grad[3] == 0).all()
            near(loss[[0, 5]], f.value_and_grad(x[[0, 5]], labels[[0, 5]], reduction="none", **options)[0], F32)
            assert np.isnan(host(f(device(x), device(labels), **given)))
    # the ignored one may be a class; all rows may be ignored
    labels = np.array([1, 2, 1, 0, 4, 1])
    for ignored, t in ((1, labels), (3, np.full(6, 3))):
        for reduction in ("mean", "sum", "none"):
            keywords = {"ignore_index": ignored, "reduction": reduction}
            got = host(fa.softmax_cross_entropy.value_and_grad(device(x), device(t), **keywords))
            with np.errstate(all="ignore"):
                want = fa.softmax_cross_entropy.value_and_grad(x, t, **keywords)
            near(got[0], want[0], F32)
            near(got[1], want[1], F32)
    # more classes than the registers of a team take, and than are cut into parts
    for classes, rows in ((2100, 2), (8300, 1), (33_000, 1)):
        x = rng.standard_normal((rows, classes)).astype(np.float32)
        t = np.array([classes - 1, 7])[:rows]
        for out in (None, device(x)):
            got = host(fa.nll_loss.value_and_grad(device(x) if out is None else out, device(t), out=out))
            want = fa.nll_loss.value_and_grad(x, t)
            assert same(got[0], want[0]) and same(got[1], want[1])


ELEMENTS = {
    "sigmoid_cross_entropy": {"pos_weight": True},
    "mse_loss": {},
    "l1_loss": {},
    "huber_loss": {"delta": 0.5},
    "kl_div": {},
}


@each_dtype
@pytest.mark.parametrize("name", ELEMENTS)
def test_losses_of_elements(name, dtype):
    """Gradients and losses of elements have the bits of the CPU; sums are as near to the truth as the CPU's."""
    rng = np.random.default_rng(14)
    f = getattr(fa, name)
    for shape in ((3, 7), (1,), (0, 4), (2, 300), (5, 513)):
        x, t = (rng.standard_normal(shape).astype(dtype), rng.random(shape).astype(dtype))
        keywords = dict(ELEMENTS[name])
        if "pos_weight" in keywords:
            keywords["pos_weight"] = rng.random(shape[-1]).astype(dtype)
        for weight, reduction in itertools.product(
            (None, rng.random(shape[-1]).astype(dtype)), ("mean", "sum", "none")
        ):
            given = {**keywords, "reduction": reduction, **({} if weight is None else {"weight": weight})}
            with np.errstate(all="ignore"):
                want = f.value_and_grad(x, t, **given)
            got = host(f.value_and_grad(device(x), device(t), **on_device(given)))
            assert same(got[1], want[1]), (given, difference(got[1], want[1]))
            if reduction == "none":
                assert same(got[0], want[0])
            else:
                near(got[0], want[0], dtype, 4 if dtype.itemsize > 2 else 1.01)


# norms


LEVELS = ((0, 1), (1e4, 1), (-3, 1e-3), (0, 1e6))


@cache
def norm_truth(name, dtype, n, level, eps):
    rows = 5 if dtype == F32 else 2
    x, dy, weight, bias = test_norms.samples(dtype.type, (rows, n), 1, *level)
    centre = name == "layer_norm"
    h, _ = norms_oracle.normalised(x, eps, centre)
    size = abs(norms_oracle.exact(weight)) * (1 + abs(h)) + centre * abs(norms_oracle.exact(bias))
    y = norms_oracle.forward(x, *(weight, bias if centre else None), eps, centre)
    return (x, dy, weight, bias), y, size, norms_oracle.backward(dy, x, weight, eps, centre)


@each_form_float
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_norm_accuracy(name, dtype, form, forms, monkeypatch):
    forms(form)
    if form in ("again", "parts"):
        # sums over rows by kernels of their own
        monkeypatch.setattr(row_runs, "MOST_COLUMNS", dict.fromkeys(row_runs.MOST_COLUMNS, 0))
    f = getattr(fa, name)
    most = dict.fromkeys(("y", "dx", "dweight", "dbias"), 0.0)
    for n, level in itertools.product((1, 3, 16, 67), LEVELS):
        eps = float(dtype.type(1e-5))
        (x, dy, weight, bias), want, size, (wants, sizes) = norm_truth(name, dtype, n, level, eps)
        columns = [device(c) for c in test_norms.columns(name, weight, bias)]
        y, stats = f.forward(device(x), *columns, eps=eps)
        most["y"] = max(most["y"], test_norms.worst(host(y), want, size, dtype))
        assert same(host(f(device(x), *columns, eps=eps)), host(y))
        gradients = host(f.backward(device(dy), device(x), stats, *columns))
        for what, got, w, s in zip(("dx", "dweight", "dbias"), gradients, wants, sizes):
            if got is not None:
                most[what] = max(most[what], test_norms.worst(got, w, s, dtype))
    print(f"{name} {dtype.name} {form}: " + ", ".join(f"{k} {v:.2f}" for k, v in most.items()) + " of 2.5")
    assert max(most.values()) <= test_norms.BOUND


@each_dtype
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_norms_against_the_cpu(name, dtype):
    """Residuals, activations, offsets, axes, missing weights, columns of another dtype, many rows."""
    f, rng = getattr(fa, name), np.random.default_rng(15)
    x, r, dy = rng.standard_normal((3, 4, 3, 21)).astype(dtype)
    w, b = (rng.standard_normal((2, 21)) + 1).astype(dtype)
    columns = test_norms.columns(name, w, b)
    wide = tuple(c.astype(np.float32) for c in columns)

    def compared(call):
        got, want = host(call(device)), call(lambda a: a)
        both = zip(got if isinstance(got, tuple) else (got,), want if isinstance(want, tuple) else (want,))
        for i, (g, e) in enumerate(both):
            assert (g is None) == (e is None)
            if g is not None:
                assert g.dtype == e.dtype
                # of statistics the second one is what the mean lacks
                near(g, e, e.dtype, 16 if e.dtype.itemsize > 2 else 2.1, whole=i == 1)

    for given in ((), columns, wide):
        compared(lambda m, g=given: f(m(x), *map(m, g)))
        compared(lambda m, g=given: f.forward(m(x), *map(m, g), residual=m(r), activation="gelu"))
        _, stats = f.forward(x, *given)
        for keywords in ({}, {"activation": "elu"}):
            compared(lambda m, g=given, s=stats, k=keywords: f.backward(m(dy), m(x), m(s), *map(m, g), **k))
    if name == "rms_norm":
        compared(lambda m: f(m(x), m(w), offset=1.0))
    for axis in (0, 1):
        moved = np.moveaxis(x, -1, axis)
        compared(lambda m, a=axis, z=moved: f(m(z), *map(m, columns), axis=a))
        _, stats = f.forward(moved, *columns, axis=axis)
        back = np.moveaxis(dy, -1, axis)
        compared(lambda m, a=axis, z=moved, s=stats, d=back: f.backward(m(d), m(z), m(s), *map(m, columns), axis=a))
    for shape in ((0, 21), (3, 0), (70, 21)):
        z = rng.standard_normal(shape).astype(dtype)
        given = tuple(c[: shape[1]] for c in columns)
        compared(lambda m, z=z, g=given: f.forward(m(z), *map(m, g)))
        _, stats = f.forward(z, *given)
        compared(lambda m, z=z, g=given, s=stats: f.backward(m(z), m(z), m(s), *map(m, g)))


def test_gradients_of_long_rows_in_place(monkeypatch):
    """Sums over rows are taken before the result is where they are taken from."""
    monkeypatch.setattr(row_runs, "MOST_COLUMNS", dict.fromkeys(row_runs.MOST_COLUMNS, 0))
    x, dy, weight, bias = test_norms.samples(np.float32, (9, 36), 3)
    for name in ("layer_norm", "rms_norm"):
        f, columns = getattr(fa, name), test_norms.columns(name, weight, bias)
        _, stats = f.forward(x, *columns)
        want = host(f.backward(*(device(a) for a in (dy, x, stats, *columns))))
        for k in (0, 1):
            arrays = [device(a) for a in (dy, x, stats, *columns)]
            got = host(f.backward(*arrays, out=arrays[k]))
            assert all((g is None and w is None) or same(g, w) for g, w in zip(got, want))


@each_dtype
def test_group_norm(dtype):
    factor = 16 if dtype.itemsize > 2 else 2.1
    rng = np.random.default_rng(16)
    for shape, groups, axis in (((2, 6, 5, 3), 3, 1), ((3, 4, 7), 1, 1), ((2, 5, 3, 6), 2, -1), ((2, 6), 6, 1)):
        x, dy = rng.standard_normal((2, *shape)).astype(dtype)
        w, b = (rng.standard_normal((2, shape[axis])) + 1).astype(dtype)
        for given in ((), (w, b)):
            got = host(fa.group_norm.forward(device(x), groups, *map(device, given), channel_axis=axis))
            want = fa.group_norm.forward(x, groups, *given, channel_axis=axis)
            near(got[0], want[0], dtype, factor)
            near(got[1], want[1], want[1].dtype, whole=True)
            stats = want[1]
            got = fa.group_norm.backward(device(dy), device(x), device(stats), *map(device, given), channel_axis=axis)
            got = host(got)
            want = fa.group_norm.backward(dy, x, stats, *given, channel_axis=axis)
            for g, e in zip(got, want):
                assert (g is None) == (e is None)
                if g is not None:
                    near(g, e, dtype, factor)


# dtypes and errors


def test_dtypes_of_one_call():
    rng = np.random.default_rng(17)
    for a, b in itertools.product([*DTYPES, np.dtype(np.int32), np.dtype(bool)], DTYPES):
        dy, y = (rng.standard_normal((3, 9)) * 2).astype(a), rng.random((3, 9)).astype(b)
        want = fa.softmax.backward(dy, y)
        near(host(fa.softmax.backward(device(dy), device(y))), want, want.dtype, 8)
    for a in (np.int32, np.uint8, bool):
        x = (rng.standard_normal((3, 9)) * 2).astype(a)
        for name in (*NAMES, "logsumexp"):
            near(host(getattr(fa, name)(device(x))), getattr(fa, name)(x), F64)
    x = rng.standard_normal((4, 6)).astype(np.float32)
    for t in (np.eye(4, 6) > 0, np.eye(4, 6)):
        want = fa.softmax_cross_entropy.value_and_grad(x, t)
        got = host(fa.softmax_cross_entropy.value_and_grad(device(x), device(t)))
        assert got[1].dtype == want[1].dtype
        near(got[0], want[0], F32)
        near(got[1], want[1], F32)


X, DY, LABELS = np.ones((6, 37), np.float32), np.ones((6, 37), np.float32), np.zeros(6, np.int64)
_, STATS = fa.layer_norm.forward(X)
ERRORS = {
    "weight": lambda m: fa.layer_norm(m(X), m(X[0, :3])),
    "eps": lambda m: fa.layer_norm(m(X), eps=-1.0),
    "axis of a norm": lambda m: fa.layer_norm(m(X), axis=5),
    "offset": lambda m: fa.rms_norm(m(X), offset=1.0),
    "stats": lambda m: fa.layer_norm.backward(m(DY), m(X), m(X[0])),
    "stats of rms": lambda m: fa.rms_norm.backward(m(DY), m(X), m(STATS)),
    "shape of labels": lambda m: fa.softmax_cross_entropy(m(X), m(LABELS[:5])),
    "shape of probabilities": lambda m: fa.softmax_cross_entropy(m(X), m(X[:, :5])),
    "shape of floats": lambda m: fa.softmax_cross_entropy(m(X), m(LABELS.astype(float))),
    "ignored of probabilities": lambda m: fa.softmax_cross_entropy(m(X), m(X), ignore_index=1),
    "weight of a loss": lambda m: fa.softmax_cross_entropy(m(X), m(LABELS), weight=m(X[0, :3])),
    "reduction": lambda m: fa.softmax_cross_entropy(m(X), m(LABELS), reduction="avg"),
    "smoothing": lambda m: fa.softmax_cross_entropy(m(X), m(LABELS), label_smoothing=2.0),
    "axis": lambda m: fa.softmax(m(X), axis=3),
    "axes twice": lambda m: fa.softmax(m(X), axis=(0, 0)),
    "keyword": lambda m: fa.softmax(m(X), dim=3),
    "causal": lambda m: fa.softmax(m(X[0]), causal=True),
    "causal axes": lambda m: fa.softmax(m(X), axis=(0, 1), causal=True),
    "bias": lambda m: fa.softmax(m(X), bias=m(X[:5])),
    "mask": lambda m: fa.softmax(m(X), where=m(X[:5] > 0)),
    "complex": lambda m: fa.softmax(m(X.astype(complex))),
    "complex norm": lambda m: fa.layer_norm(m(X.astype(complex))),
    "complex loss": lambda m: fa.softmax_cross_entropy(m(X.astype(complex)), m(LABELS)),
    "groups": lambda m: fa.group_norm(m(X), 5),
    "mse": lambda m: fa.mse_loss(m(X), m(X[0])),
    "activation": lambda m: fa.layer_norm.forward(m(X), activation="nothing"),
    "out of a norm": lambda m: fa.layer_norm(m(X), out=m(X.astype(np.int32))),
    "out of a loss": lambda m: fa.mse_loss.value_and_grad(m(X), m(X), out=m(X.astype(np.int32))),
    "out of integers": lambda m: fa.softmax(m(X), out=m(X.astype(np.int32))),
}


@pytest.mark.parametrize("call", ERRORS.values(), ids=ERRORS)
def test_errors(call):
    got, want = outcome(lambda: call(device)), outcome(lambda: call(lambda a: a.copy()))
    assert isinstance(want[0], str) and isinstance(got[0], str), (got, want)
    assert got[1] == want[1], (got, want)
    assert got[0] == want[0] or want[0] == "_UFuncOutputCastingError" or "UFunc" in want[0]
