"""softmax_cross_entropy, nll_loss and sigmoid_cross_entropy: values, gradients, options, bits, bad input."""

import re

import numpy as np
import pytest
import rows_oracle as truth
from cases import BACKENDS, DTYPES, agreed, same
from ulp import BFLOAT16, poisoned

import fastact as fa
from fastact.tools.verify_rows import CASES

FLOATS = (np.float32, np.float64)
LENGTHS = (1, 2, 7, 8, 9, 10, 16, 17, 64, 65, 100, 1000, 1025)

each_float = pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.__name__)
softmax_ce, sigmoid_ce, nll = fa.softmax_cross_entropy, fa.sigmoid_cross_entropy, fa.nll_loss
VALUE, GRADIENT = CASES["softmax_cross_entropy"].limits


def logits_and_labels(dtype, shape, seed=0, spread=3):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * spread).astype(dtype), rng.integers(0, shape[-1], shape[:-1])


def close(got, want, dtype, factor=GRADIENT):
    return np.allclose(got, want, rtol=factor * np.finfo(dtype).eps, atol=factor * np.finfo(dtype).eps)


def shares(shape, dtype, seed=0):
    p = np.random.default_rng(seed).random(shape) + 1e-3
    return (p / p.sum(-1, keepdims=True)).astype(dtype)


OPTIONS = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "weight": {"weight": True},
    "weight none": {"weight": True, "reduction": "none"},
    "ignore": {"ignore_index": 0},
    "ignore weight sum": {"ignore_index": 0, "weight": True, "reduction": "sum"},
    "ignore outside": {"ignore_index": -100},
    "smoothing": {"label_smoothing": 0.1},
    "everything": {"label_smoothing": 0.3, "weight": True, "ignore_index": 0},
    "all smoothed": {"label_smoothing": 1.0, "reduction": "none"},
    "z_loss": {"z_loss": 0.1, "reduction": "none"},
    "all": {"z_loss": 0.01, "label_smoothing": 0.1, "weight": True, "ignore_index": 0, "reduction": "none"},
}


OPTIONS_OF_PROBABILITIES = (
    {},
    {"weight": True},
    {"label_smoothing": 0.2},
    {"reduction": "none"},
    {"weight": True, "label_smoothing": 0.2, "reduction": "sum"},
    {"weight": True, "z_loss": 0.1, "reduction": "none"},
)


def given(options, classes, dtype):
    options = dict(options)
    if options.pop("weight", False):
        options["weight"] = np.random.default_rng(99).random(classes).astype(dtype) + dtype(0.1)
    return options


@each_float
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_labels(options, dtype, backend):
    for n in LENGTHS:
        x, labels = logits_and_labels(dtype, (11, n), n)
        if "ignore_index" in options:
            labels[::3] = options["ignore_index"]
            labels[1] = n - 1
        keywords = given(options, n, dtype)
        value, grad = softmax_ce.value_and_grad(x, labels, **keywords)
        with np.errstate(invalid="ignore"):
            want, want_grad = truth.softmax_cross_entropy(x, labels, **keywords)
        if n == 1 and options.get("ignore_index") == 0:
            assert np.all(np.isnan(value)) if options.get("reduction", "mean") == "mean" else np.all(value == 0)
            continue
        assert np.asarray(value).dtype == grad.dtype == dtype
        assert close(value, want, dtype, VALUE)
        assert close(grad, want_grad, dtype)
        assert same(softmax_ce(x, labels, **keywords), value)
        if keywords.get("reduction") == "none":
            assert value.shape == (11,)


@each_float
@pytest.mark.parametrize("options", OPTIONS_OF_PROBABILITIES, ids=str)
def test_probabilities(options, dtype, backend):
    for n in LENGTHS:
        x, _ = logits_and_labels(dtype, (7, n), n)
        p = np.random.default_rng(n).random((7, n))
        p[:, ::3] = 0
        p[0] = 0
        p = (p / np.maximum(p.sum(-1, keepdims=True), 1e-30)).astype(dtype)
        keywords = given(options, n, dtype)
        # a row of zeros is none of probabilities
        value, grad = softmax_ce.value_and_grad(x, p, **keywords, check=False)
        want, want_grad = truth.softmax_cross_entropy(x, p, **keywords)
        assert close(value, want, dtype, VALUE)
        assert close(grad, want_grad, dtype)
        assert same(softmax_ce(x, p, **keywords, check=False), value)


@each_float
def test_small_losses_keep_their_digits(dtype, backend):
    # the label is the maximum: the loss is log(1 + rest), and its gradient -rest/(1 + rest)
    gaps = np.array([1, 5, 20, 40, 80], dtype)
    for n in (2, 3, 40, 200):
        x = np.full((5, n), -np.inf, dtype)
        x[:, 0] = gaps
        x[:, 1] = 0
        loss, grad = softmax_ce.value_and_grad(x, np.zeros(5, int), reduction="none")
        rest = np.exp(-gaps.astype(np.float64))
        eps = np.finfo(dtype).eps
        assert np.allclose(loss, np.log1p(rest), rtol=4 * eps, atol=0)
        assert np.allclose(grad[:, 0], -rest / (1 + rest), rtol=6 * eps, atol=0)
        assert np.allclose(grad[:, 1], rest / (1 + rest), rtol=6 * eps, atol=0)
        # as probabilities
        p = np.zeros((5, n), dtype)
        p[:, 0] = 1
        assert np.allclose(softmax_ce(x, p, reduction="none"), np.log1p(rest), rtol=4 * eps, atol=0)


@each_float
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 1e-3}], ids=["plain", "general"])
def test_in_place_far_from_zero(options, dtype, backend):
    # rows of maxima beyond 2048 are shifted first, to where the gradient goes
    for n in (3, 40, 700):
        x, labels = logits_and_labels(dtype, (20, n), n)
        x[::3] += 30000
        value, grad = softmax_ce.value_and_grad(x, labels, **options)
        want, want_grad = truth.softmax_cross_entropy(x, labels, **options)
        assert close(value, want, dtype, VALUE) and close(grad, want_grad, dtype)
        z = x.copy()
        v, g = softmax_ce.value_and_grad(z, labels, out=z, **options)
        assert g is z and same(v, value) and same(g, grad)


@each_float
def test_special_logits(dtype, backend):
    inf = np.inf
    x = np.array([[0, 1, -inf], [-inf, -inf, -inf], [0, inf, 0], [0, np.nan, 0], [-inf, 0, 0]], dtype)
    labels = np.array([0, 0, 1, 0, 0])
    loss, grad = softmax_ce.value_and_grad(x, labels, reduction="none")
    assert np.isclose(loss[0], np.log1p(np.exp(1.0)))
    assert np.isnan(loss[1:4]).all()
    assert np.isnan(grad[1:4]).all()
    assert loss[4] == inf
    assert np.allclose(grad[4], [-1, 0.5, 0.5])
    assert grad[0, 2] == 0
    # a target of 0 at -inf does not count
    p = np.array([[0.5, 0.5, 0.0]], dtype)
    assert np.isfinite(softmax_ce(x[:1], p))
    # large logits
    big = dtype(3e38 if dtype == np.float32 else 1e308)
    loss, grad = softmax_ce.value_and_grad(np.array([[big, -big], [-big, big]], dtype), [0, 1], reduction="none")
    assert (loss == 0).all()
    assert (grad == 0).all()


@each_float
def test_axes_layouts_and_in_place(dtype, backend):
    x, labels = logits_and_labels(dtype, (4, 5, 6), 1)
    value, grad = softmax_ce.value_and_grad(x, labels)
    for axis in (0, 1, -2, -3):
        moved = np.moveaxis(x, -1, axis)
        v, g = softmax_ce.value_and_grad(moved, labels, axis=axis)
        assert same(v, value)
        assert same(np.moveaxis(g, axis, -1), grad)
        copy = np.ascontiguousarray(moved)
        v, g = softmax_ce.value_and_grad(copy, labels, axis=axis, out=copy)
        assert g is copy
        assert same(np.moveaxis(copy, axis, -1), grad)
    for z in (np.asfortranarray(x), np.repeat(x, 2, 0)[::2], x[::-1, :, ::-1].copy()[::-1, :, ::-1]):
        v, g = softmax_ce.value_and_grad(z, labels)
        assert same(v, value)
        assert same(g, grad)
    for kind in (np.int8, np.int32, np.uint8, np.uint64):
        assert same(softmax_ce(x, labels.astype(kind)), value)
    assert same(softmax_ce(x, labels.tolist()), value)
    z = x.copy()
    v, g = softmax_ce.value_and_grad(z, labels, out=z)
    assert g is z
    assert same(v, value)
    assert same(z, grad)
    p = shares(x.shape, dtype, 2)
    v0, g0 = softmax_ce.value_and_grad(x, p)
    z, q = x.copy(), p.copy()
    v, g = softmax_ce.value_and_grad(z, q, out=q)
    assert g is q
    assert same(v, v0)
    assert same(q, g0)
    for axis in (0, 1):
        z, q = (np.ascontiguousarray(np.moveaxis(a, -1, axis)) for a in (x, p))
        v, g = softmax_ce.value_and_grad(z, q, axis=axis)
        assert same(v, v0)
        assert same(np.moveaxis(g, axis, -1), g0)
    out = poisoned(x.shape, dtype, "F")
    assert softmax_ce.value_and_grad(x, labels, out=out)[1] is out
    assert same(out, grad)
    wide = poisoned((4, 5, 12), dtype)
    softmax_ce.value_and_grad(x, labels, out=wide[..., ::2])
    assert same(wide[..., ::2], grad)
    assert np.isnan(wide[..., 1::2]).all()
    # out that overlaps the logits
    buffer = np.zeros(200, dtype)
    buffer[:120] = x.ravel()
    shifted = buffer[7:127].reshape(x.shape)
    softmax_ce.value_and_grad(buffer[:120].reshape(x.shape), labels, out=shifted)
    assert same(shifted, grad)
    # out that holds the labels
    pattern = np.ascontiguousarray(labels.astype(np.int64))
    memory = np.zeros(x.nbytes, np.uint8)
    memory[: pattern.nbytes] = pattern.view(np.uint8).ravel()
    inside = memory[: pattern.nbytes].view(np.int64).reshape(labels.shape)
    over = memory.view(dtype).reshape(x.shape)
    softmax_ce.value_and_grad(x, inside, out=over)
    assert same(over, grad)
    # one row, one number of classes
    assert same(softmax_ce(x[0, 0], labels[0, 0]), softmax_ce(x[:1, 0], labels[:1, 0]))
    assert isinstance(softmax_ce(x, labels), dtype)


@each_float
def test_out_that_shares_memory_with_any_input(dtype, backend):
    x, labels = logits_and_labels(dtype, (5, 4), 12)
    rng = np.random.default_rng(12)
    p, w = shares((5, 4), dtype, 12), rng.random(4).astype(dtype)
    for f, targets, keywords in (
        (softmax_ce, p, {}),
        (softmax_ce, labels, {"weight": w}),
        (softmax_ce, p, {"weight": w, "label_smoothing": 0.1}),
        (sigmoid_ce, p, {"weight": w, "pos_weight": w}),
    ):
        want, want_grad = f.value_and_grad(x, targets, **keywords)
        for shared in ("logits", "targets", *keywords):
            original = {"logits": x, "targets": targets, **keywords}[shared]
            if not isinstance(original, np.ndarray) or original.dtype != dtype:
                continue
            for offset in (0, 1, 4, 7):
                memory = np.zeros(40, dtype)
                out = memory[10:30].reshape(5, 4)
                place = memory[10 - offset :][: original.size].reshape(original.shape)
                place[...] = original
                arrays = {"logits": x, "targets": targets, **keywords, shared: place}
                value, grad = f.value_and_grad(arrays.pop("logits"), arrays.pop("targets"), **arrays, out=out)
                assert grad is out
                assert same(value, want)
                assert same(grad, want_grad)


@each_float
def test_other_byte_order_and_alignment(dtype, backend):
    x, labels = logits_and_labels(dtype, (6, 5), 13)
    p = shares((6, 5), dtype, 13)
    swapped = np.dtype(dtype).newbyteorder()

    def unaligned(a):
        memory = np.zeros(a.nbytes + 1, np.uint8)[1:]
        copy = memory.view(a.dtype).reshape(a.shape)
        copy[...] = a
        return copy

    for f, targets in ((softmax_ce, labels), (softmax_ce, p), (sigmoid_ce, p)):
        value, grad = f.value_and_grad(x, targets)
        for change in (unaligned, lambda a: a.astype(a.dtype.newbyteorder())):
            got, g = f.value_and_grad(change(x), change(targets))
            assert same(got, value)
            assert same(g, grad)
        for out in (unaligned(x), x.astype(swapped)):
            assert f.value_and_grad(x, targets, out=out)[1] is out
            assert same(out.astype(grad.dtype), grad)


@each_float
def test_labels_of_ones_and_zeros_do_not_change_the_dtype(dtype, backend):
    x, labels = logits_and_labels(dtype, (6, 5), 14)
    one_hot = np.eye(5, dtype=bool)[labels]
    for f, targets in ((softmax_ce, one_hot), (sigmoid_ce, one_hot), (sigmoid_ce, one_hot.astype(np.int8))):
        value, grad = f.value_and_grad(x, targets)
        want, want_grad = f.value_and_grad(x, one_hot.astype(dtype))
        assert same(value, want)
        assert same(grad, want_grad)


def test_one_row(backend):
    """Logits of one axis, the label a number."""
    x, _ = logits_and_labels(np.float64, (1, 6), 15)
    for keywords in (
        {},
        {"label_smoothing": 0.1},
        {"weight": np.arange(1.0, 7)},
        {"label_smoothing": 0.1, "ignore_index": 0},
    ):
        for reduction in ("mean", "sum", "none"):
            value, grad = softmax_ce.value_and_grad(x, [2], reduction=reduction, **keywords)
            for label in (2, np.int32(2), np.array(2, np.uint8)):
                got, g = softmax_ce.value_and_grad(x[0], label, reduction=reduction, **keywords)
                assert isinstance(got, np.float64)
                assert same(got, value.item() if reduction == "none" else value)
                assert same(g, grad[0])
    for smoothing in (0.0, 0.1):
        value, grad = softmax_ce.value_and_grad(x[0], 2, ignore_index=2, reduction="sum", label_smoothing=smoothing)
        assert value == 0
        assert (grad == 0).all()
    value, grad = sigmoid_ce.value_and_grad(np.float32(1), 1)
    assert isinstance(value, np.float32)
    assert grad.shape == ()


def test_no_warning(backend):
    big = np.array([[-60000, 60000, 0]], np.float16)
    x = np.array([[-80, 80, 0], [3e38, -3e38, 0], [np.inf, 0, np.nan]], np.float32)
    t = np.full((3, 3), 1e-30, np.float32)
    with np.errstate(all="raise"):
        for reduction in ("mean", "sum", "none"):
            value, _ = softmax_ce.value_and_grad(big, [0], reduction=reduction)
            assert np.all(np.isinf(value))
            softmax_ce.value_and_grad(x, [0, 1, 2], reduction=reduction, label_smoothing=1e-40)
            softmax_ce.value_and_grad(x, [0, 1, 2], weight=[1e300, 1e-300, 1], reduction=reduction)
            out = np.zeros((3, 3), np.float16)
            softmax_ce.value_and_grad(x, t, weight=t[0], reduction=reduction, check=False, out=out)
            sigmoid_ce.value_and_grad(big, [[1, 0, 0]], reduction=reduction)
            sigmoid_ce.value_and_grad(x, t, weight=t[0], pos_weight=t, reduction=reduction)
            softmax_ce(x, [1, 1, 1], ignore_index=1, reduction=reduction)


def test_read_only_logits():
    x, labels = logits_and_labels(np.float32, (6, 5), 3)
    x.flags.writeable = labels.flags.writeable = False
    value, grad = softmax_ce.value_and_grad(x, labels)
    assert np.isfinite(grad).all()
    assert same(softmax_ce(x, labels), value)
    before = x.copy()
    with pytest.raises(ValueError, match="read-only"):
        softmax_ce.value_and_grad(x, labels, out=x)
    assert same(x, before)


def test_dtypes(backend):
    x, labels = logits_and_labels(np.float64, (9, 10), 4)
    whole = np.rint(x).astype(np.int32)
    assert same(softmax_ce(whole, labels), softmax_ce(whole.astype(np.float64), labels))
    t = np.random.default_rng(4).random(x.shape)
    for dtype in (np.float16, BFLOAT16):
        h = x.astype(dtype)
        wide = h.astype(np.float32)
        for f, targets in ((softmax_ce, labels), (sigmoid_ce, t.astype(dtype))):
            exact = targets if targets is labels else targets.astype(np.float32)
            v, g = f.value_and_grad(h, targets)
            v32, g32 = f.value_and_grad(wide, exact)
            assert g.dtype == dtype
            assert same(g, g32.astype(dtype))
            assert v.dtype == dtype
            assert v == v32.astype(dtype)
            z = h.copy()
            assert f.value_and_grad(z, targets, out=z)[1] is z
            assert same(z, g)
    for bad in (x.astype(complex), x.astype(str), x.astype(object)):
        with pytest.raises(TypeError):
            softmax_ce(bad, labels)
        with pytest.raises(TypeError):
            sigmoid_ce(bad, t)
    with pytest.raises(TypeError):
        softmax_ce(x, labels.astype(bool).astype(object))


def test_bad_labels_name_their_position_and_nothing_is_written(backend):
    x, labels = logits_and_labels(np.float32, (4, 5, 6), 5)
    for bad, kind in ((6, np.int64), (-1, np.int64), (200, np.uint8), (2**64 - 1, np.uint64)):
        wrong = labels.astype(kind)
        wrong[2, 3] = bad
        wrong[3, 1] = bad
        z = x.copy()
        with pytest.raises(IndexError, match=rf"label {bad} at position \(2, 3\) is out of range for 6 classes"):
            softmax_ce.value_and_grad(z, wrong, out=z)
        assert same(z, x)
        with pytest.raises(IndexError, match="position"):
            softmax_ce(z, wrong)
    with pytest.raises(IndexError, match="label 7 at position 1 is"):
        softmax_ce(x[0, :2], [0, 7])
    with pytest.raises(IndexError, match="label -1"):
        softmax_ce(x[0, :2], [0, -1], ignore_index=-100)
    assert np.isfinite(softmax_ce(x[0, :2], [0, -1], ignore_index=-1))


def test_empty(backend):
    x = np.empty((0, 5), np.float32)
    value, grad = softmax_ce.value_and_grad(x, np.empty(0, int))
    assert np.isnan(value)
    assert grad.shape == (0, 5)
    assert softmax_ce(x, np.empty(0, int), reduction="sum") == 0
    assert softmax_ce(x, np.empty(0, int), reduction="none").shape == (0,)
    x = np.empty((3, 0), np.float32)
    with pytest.raises(IndexError):
        softmax_ce(x, np.zeros(3, int))
    value, grad = softmax_ce.value_and_grad(x, x)
    assert value == 0
    assert grad.shape == (3, 0)
    assert np.isnan(sigmoid_ce(x, x))
    assert sigmoid_ce(x, x, reduction="sum") == 0


NLL_OPTIONS = {
    name: options for name, options in OPTIONS.items() if options.keys() <= {"weight", "ignore_index", "reduction"}
}


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("options", NLL_OPTIONS.values(), ids=NLL_OPTIONS)
def test_nll_loss(options, dtype):
    eps = 2.0**-7 if dtype == BFLOAT16 else float(np.finfo(dtype).eps)
    for shape in ((1, 1), (5, 2), (11, 7), (3, 4, 1000), (2, 40_000), (5000, 3)):
        x, labels = logits_and_labels(np.float64, shape, shape[-1])
        x = -np.abs(x).astype(dtype)
        if "ignore_index" in options:
            labels[..., ::3] = options["ignore_index"]
        keywords = given(options, shape[-1], dtype.type)

        def compute(x=x, labels=labels, keywords=keywords):
            return nll.value_and_grad(x, labels, **keywords)

        value, grad = agreed(compute)
        want, want_grad = truth.nll_loss(x, labels, **keywords)
        assert np.asarray(value).dtype == grad.dtype == dtype
        assert np.shape(value) == np.shape(want)
        assert np.allclose(np.asarray(value, float), want, rtol=4 * eps, atol=4 * eps, equal_nan=True)
        assert np.allclose(grad.astype(float), want_grad, rtol=4 * eps, atol=0, equal_nan=True)
        assert same(np.asarray(nll(x, labels, **keywords)), np.asarray(value))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
# planes of less than a piece, of some pieces, of many classes
@pytest.mark.parametrize("shape", [(4, 5, 6), (3, 100, 501), (2, 3000, 300), (1, 7, 60_000)])
def test_nll_loss_axes_layouts_and_in_place(shape, dtype, threads):
    x, labels = logits_and_labels(np.float64, shape, 1)
    x = x.astype(dtype)
    threads(1)
    value, grad = nll.value_and_grad(x, labels, ignore_index=2)
    each = nll(x, labels, ignore_index=2, reduction="none")
    for n in (1, 3):
        threads(n)
        for axis in (0, 1, -1):
            moved = np.moveaxis(x, -1, axis)
            for z in (moved, np.ascontiguousarray(moved), np.asfortranarray(moved), moved[::-1][::-1]):
                v, g = nll.value_and_grad(z, labels, axis=axis, ignore_index=2)
                assert same(v, value) and same(np.moveaxis(g, axis, -1), grad)
                assert same(nll(z, labels, axis=axis, ignore_index=2, reduction="none"), each)
                assert g.strides == z.strides or 1 in shape
            spread = np.zeros((*moved.shape[:-1], 2 * moved.shape[-1]), dtype)[..., ::2]
            spread[...] = moved
            assert same(nll(spread, labels, axis=axis, ignore_index=2, reduction="none"), each)
            for out in (moved.copy("C"), moved.copy("F"), spread):
                assert nll.value_and_grad(out, labels, axis=axis, ignore_index=2, out=out)[1] is out
                assert same(np.moveaxis(np.ascontiguousarray(out), axis, -1), grad)
            out = poisoned(moved.shape, np.float32 if dtype == np.float64 else dtype)
            nll.value_and_grad(moved, labels, axis=axis, ignore_index=2, out=out)
            assert same(np.moveaxis(out, axis, -1), grad.astype(out.dtype))


def test_nll_loss_special_values_and_memory(backend):
    inf = np.inf
    x = np.array([[0, -inf, -1], [np.nan, 0, -2], [inf, -3, 0]], np.float32)
    loss, grad = nll.value_and_grad(x, [1, 0, 1], reduction="none")
    assert same(loss, np.float32([inf, np.nan, 3])) and same(grad, 0 - np.eye(3, dtype=np.float32)[[1, 0, 1]])
    # what is not at the label does not count
    assert nll(x, [0, 1, 2]) == 0 and not np.signbit(nll(x, [0, 1, 2], reduction="none")).any()
    # what does not count may be NaN
    assert nll(x, [0, 0, 1], ignore_index=0) == 3
    # the mean over no row; weights of 0
    for keywords in ({"ignore_index": 1}, {"weight": [1.0, 0.0, 1.0]}):
        with np.errstate(all="raise"):
            value, grad = nll.value_and_grad(np.float64([[0, -1, -2]]), [1], **keywords)
        assert np.isnan(value)
        assert same(grad, np.zeros((1, 3))) if "ignore_index" in keywords else np.isnan(grad[0, 1])
    # the gradient over labels and weights
    p = np.log(np.random.default_rng(0).dirichlet(np.ones(8), 4))
    weight = np.arange(1.0, 9)
    value, want = nll.value_and_grad(p, [3, 1, 7, 0], weight=weight)
    memory = np.zeros(32)
    labels = memory[4:8].view(np.int64)
    labels[:] = [3, 1, 7, 0]
    memory[16:24] = weight
    got, grad = nll.value_and_grad(p, labels, weight=memory[16:24], out=memory.reshape(4, 8))
    assert same(got, value) and same(grad, want)
    swapped = p.astype(p.dtype.newbyteorder())
    assert same(nll(swapped, [3, 1, 7, 0], weight=weight), value)
    assert nll.value_and_grad(swapped, [3, 1, 7, 0], weight=weight, out=swapped)[1] is swapped
    assert same(swapped.astype(np.float64), want)
    whole = np.array([[-1, -2], [-3, -4]])
    assert nll(whole, [1, 0]) == 2.5 and nll.value_and_grad(whole, [1, 0])[1].dtype == np.float64
    # one row; no row; no class
    assert nll(p[0], 3) == nll(p[:1], [3]) and isinstance(nll(p[0], 3), np.float64)
    value, grad = nll.value_and_grad(p[:0], np.zeros(0, int))
    assert np.isnan(value) and grad.shape == (0, 8) and nll(p[:0], np.zeros(0, int), reduction="sum") == 0
    with pytest.raises(ValueError, match="label 0 at position 0 is out of range for 0 classes"):
        nll(p[:, :0], np.zeros(4, int))
    value, grad = nll.value_and_grad(p[:, :0], np.zeros(4, int), ignore_index=0, weight=np.zeros(0))
    assert np.isnan(value) and grad.shape == (4, 0)


def test_nll_loss_is_that_of_log_softmax(backend):
    x, labels = logits_and_labels(np.float64, (20, 9), 2)
    for keywords in ({}, {"weight": np.arange(1.0, 10)}, {"ignore_index": 3, "reduction": "sum"}):
        value, grad = nll.value_and_grad(fa.log_softmax(x), labels, **keywords)
        want, want_grad = softmax_ce.value_and_grad(x, labels, **keywords)
        assert np.isclose(value, want, rtol=1e-14)
        assert np.allclose(fa.log_softmax.backward(grad, fa.log_softmax(x)), want_grad, atol=1e-15)


def test_nll_loss_errors_write_nothing(backend):
    x = logits_and_labels(np.float32, (3, 4), 3)[0]
    out = poisoned(x.shape, np.float32)
    for error, match, labels, keywords in (
        (ValueError, "label 4 at position 1 is out of range for 4 classes", [0, 4, 9], {}),
        (IndexError, "label -1 at position 2", [0, 1, -1], {"ignore_index": -100}),
        (TypeError, "must be integers, not float64", [0.0, 1.0, 2.0], {}),
        (TypeError, "must be integers, not bool", [True, False, True], {}),
        (ValueError, r"labels need the shape \(3,\), not \(4,\)", [0, 1, 2, 3], {}),
        (ValueError, "weight has shape", [0, 1, 2], {"weight": np.ones(3)}),
        (TypeError, "weight", [0, 1, 2], {"weight": np.ones(4, complex)}),
        (TypeError, "ignore_index", [0, 1, 2], {"ignore_index": 1.5}),
        (ValueError, "reduction must be one of", [0, 1, 2], {"reduction": "avg"}),
        (np.exceptions.AxisError, "axis 2", [0, 1, 2], {"axis": 2}),
        (TypeError, "label_smoothing", [0, 1, 2], {"label_smoothing": 0.1}),
    ):
        with pytest.raises(error, match=match):
            nll.value_and_grad(x, labels, out=out, **keywords)
        with pytest.raises(error, match=match):
            nll(x, labels, **keywords)
    assert np.isnan(out).all()
    out.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        nll.value_and_grad(x, [0, 1, 2], out=out)


@each_float
def test_sigmoid_cross_entropy(dtype, backend):
    rng = np.random.default_rng(7)
    of_value, of_gradient = CASES["sigmoid_cross_entropy"].limits
    for shape in ((1,), (17,), (5, 33), (3, 4, 700), (2049,)):
        x = (rng.standard_normal(shape) * 5).astype(dtype)
        for t in (rng.random(shape).astype(dtype), (rng.random(shape) < 0.5).astype(dtype)):
            weight = rng.random(shape[-1:]).astype(dtype)
            positive = (rng.random(shape[-1:]) * 3).astype(dtype)
            for keywords in (
                {},
                {"weight": weight},
                {"pos_weight": positive},
                {"weight": weight, "pos_weight": positive},
            ):
                for reduction in ("mean", "sum", "none"):
                    value, grad = sigmoid_ce.value_and_grad(x, t, **keywords, reduction=reduction)
                    want, want_grad = truth.sigmoid_cross_entropy(x, t, **keywords, reduction=reduction)
                    assert np.asarray(value).dtype == grad.dtype == dtype
                    assert np.allclose(value, want, rtol=of_value * np.finfo(dtype).eps, atol=1e-30)
                    assert close(grad, want_grad, dtype, of_gradient)
                    assert same(sigmoid_ce(x, t, **keywords, reduction=reduction), value)
                    z = x.copy()
                    got, g = sigmoid_ce.value_and_grad(z, t, **keywords, reduction=reduction, out=z)
                    assert g is z
                    assert same(z, grad)
                    assert same(got, value)
    # relative accuracy far from 0, with whole targets
    x = np.array([-80, -20, 20, 80], dtype)
    loss, grad = sigmoid_ce.value_and_grad(x, [0, 0, 1, 1], reduction="none")
    rest = np.exp(-np.abs(x.astype(np.float64)))
    assert np.allclose(loss, np.log1p(rest), rtol=4 * np.finfo(dtype).eps, atol=0)
    assert np.allclose(np.abs(grad), rest / (1 + rest), rtol=4 * np.finfo(dtype).eps, atol=0)
    loss = sigmoid_ce(np.array([np.inf, -np.inf, np.inf, np.nan], dtype), [1, 0, 0, 1], reduction="none")
    assert np.array_equal(loss, [0, 0, np.inf, np.nan], equal_nan=True)
    assert same(sigmoid_ce(x, np.array([True, False, True, True])), sigmoid_ce(x, np.array([1, 0, 1, 1], dtype)))
    for order in "CF":
        x = np.asarray(rng.standard_normal((40, 60)).astype(dtype), order=order)
        t = np.asfortranarray(rng.random((40, 60)).astype(dtype))
        value, grad = sigmoid_ce.value_and_grad(x, t)
        again, copy = sigmoid_ce.value_and_grad(np.ascontiguousarray(x), np.ascontiguousarray(t))
        assert same(value, again)
        assert same(grad, copy)


@each_float
def test_targets_are_probabilities(dtype, backend, threads):
    threads(2)
    eps, tiny = float(np.finfo(dtype).eps), np.finfo(dtype).tiny
    for shape in ((), (1,), (3,), (40,), (5, 7), (300, 1000)):
        x, t = np.zeros(shape, dtype), np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
        if t.size > 2:
            t.flat[1] = -0.0  # is 0
            assert same(sigmoid_ce(x, t), sigmoid_ce(x, np.abs(t)))
        for wrong in (-tiny, 1 + eps, np.nan, -np.nan, np.inf, -np.inf):
            bad = t.copy()
            bad.flat[-1] = wrong
            out = poisoned(shape, dtype)
            at = "" if not shape else rf" at position {re.escape(str(tuple(n - 1 for n in shape)).replace(',)', ')'))}"
            at = at.replace(r"\(", "").replace(r"\)", "") if len(shape) == 1 else at
            message = rf"sigmoid_cross_entropy: targets must be in \[0, 1\], and there is \S+{at}; with check=False"
            for given in (bad, bad.copy("F")):
                with pytest.raises(ValueError, match=message):
                    sigmoid_ce.value_and_grad(x, given, out=out)
                with pytest.raises(ValueError, match="targets"):
                    sigmoid_ce(x, given)
            assert np.isnan(out).all()
            sigmoid_ce(x, bad, check=False)
            got, g = sigmoid_ce.value_and_grad(x, t, check=False, out=out)
            assert same(np.asarray(got), np.asarray(sigmoid_ce(x, t))) and g is out
    with pytest.raises(ValueError, match=r"there is 2\.0 at position 1"):
        sigmoid_ce(np.zeros(3, dtype), [0, 2, 1])
    with pytest.raises(TypeError, match="check must be True or False"):
        sigmoid_ce(x, t, check=1)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_rows_of_labels_are_probabilities(dtype, threads):
    threads(2)
    for shape in ((1,), (3,), (40,), (6, 1), (5, 7), (4, 513), (3, 5, 16), (300, 1000), (2, 100_000)):
        x, p = np.zeros(shape, dtype), shares(shape, dtype)
        softmax_ce(x, p)
        row = tuple(n - 1 for n in shape[:-1])
        at = "" if not row else f" at position {row[0] if len(row) == 1 else row}"
        for what, change in (
            ("have -0.5 in", lambda q: np.put(q, q.size - 1, -0.5)),
            ("have -1.0 in", lambda q: np.put(q, [q.size - 2, q.size - 1], [2, -1]) if q.shape[-1] > 1 else None),
            (
                "sum to",
                lambda q: np.multiply(q, 2, out=q, where=np.arange(q.size).reshape(q.shape) >= q.size - q.shape[-1]),
            ),
            ("sum to nan in", lambda q: np.put(q, q.size - 1, np.nan)),
            ("sum to inf in", lambda q: np.put(q, q.size - 1, np.inf)),
        ):
            bad, out = p.copy(), poisoned(shape, dtype)
            if change(bad) is None and same(bad, p):
                continue
            with pytest.raises(ValueError, match=re.escape(what)) as caught:
                softmax_ce.value_and_grad(x, bad, out=out)
            assert f"the row{at}; with check=False" in str(caught.value)
            assert np.isnan(out.astype(float)).all()
            softmax_ce.value_and_grad(x, bad, check=False, out=out)
    # along another axis; as they round to 16 bits; one-hot
    x, p = np.zeros((5, 7), dtype), shares((5, 7), dtype)
    softmax_ce(x.T, p.T, axis=0)
    with pytest.raises(ValueError, match="row at position 0"):
        softmax_ce(x, p * dtype.type(0.5))
    with pytest.raises(ValueError, match="sum to"):
        softmax_ce(x, p.T.reshape(5, 7))
    softmax_ce(x, np.eye(7, dtype=bool)[:5])
    with pytest.raises(ValueError, match="sum to 0 in the row at position 4"):
        softmax_ce(x, np.eye(4, 7, dtype=bool)[[0, 1, 2, 3, 3]] & (np.arange(5) < 4)[:, None])
    with pytest.raises(TypeError, match="check must be True or False"):
        softmax_ce(x, [0] * 5, check=None)


@each_float
def test_gradients_against_differences(dtype):
    rng = np.random.default_rng(8)
    x = rng.standard_normal((6, 7))
    labels, p, v = rng.integers(0, 7, 6), shares((6, 7), float, 8), rng.standard_normal((6, 7))
    w, h = rng.random(7) + 0.5, 1e-6
    for f in (
        lambda z: softmax_ce.value_and_grad(z, labels, weight=w, label_smoothing=0.1),
        lambda z: softmax_ce.value_and_grad(z, labels, weight=w, ignore_index=int(labels[0])),
        lambda z: softmax_ce.value_and_grad(z, p, weight=w),
        lambda z: sigmoid_ce.value_and_grad(z, p, weight=w, pos_weight=2 * w),
        lambda z: nll.value_and_grad(z, labels, weight=w),
        lambda z: nll.value_and_grad(z, labels, ignore_index=int(labels[0]), reduction="sum"),
    ):
        numeric = (f(x + h * v)[0] - f(x - h * v)[0]) / (2 * h)
        assert np.isclose((f(x)[1] * v).sum(), numeric, rtol=1e-7, atol=1e-9)


@pytest.mark.torch
def test_against_torch():
    torch = pytest.importorskip("torch")
    x, labels = logits_and_labels(np.float64, (20, 6), 9)
    w = np.random.default_rng(9).random(6)
    p = shares((20, 6), float, 10)
    labels[:4] = -100
    ignored = np.full(20, -100)
    for reduction in ("mean", "sum", "none"):
        for target, keywords in (
            (labels, {"ignore_index": -100, "weight": w, "label_smoothing": 0.2}),
            (labels, {"ignore_index": -100}),
            (ignored, {"ignore_index": -100}),
            (np.abs(labels) % 6, {"weight": 0 * w}),
            (p, {"weight": w, "label_smoothing": 0.2}),
            (p, {}),
        ):
            z = torch.tensor(x, requires_grad=True)
            given = {k: torch.tensor(v) if k == "weight" else v for k, v in keywords.items()}
            want = torch.nn.functional.cross_entropy(z, torch.tensor(target), reduction=reduction, **given)
            want.sum().backward()
            value, grad = softmax_ce.value_and_grad(x, target, reduction=reduction, **keywords)
            assert np.allclose(value, want.detach().numpy(), rtol=1e-13, equal_nan=True)
            assert np.allclose(grad, z.grad.numpy(), rtol=1e-12, atol=1e-15, equal_nan=True)
        for target, keywords in (
            (labels, {"ignore_index": -100, "weight": w}),
            (ignored, {"ignore_index": -100}),
            (np.abs(labels) % 6, {}),
            (np.abs(labels) % 6, {"weight": 0 * w}),
        ):
            z = torch.tensor(x, requires_grad=True)
            given = {k: torch.tensor(v) if k == "weight" else v for k, v in keywords.items()}
            want = torch.nn.functional.nll_loss(z, torch.tensor(target), reduction=reduction, **given)
            want.sum().backward()
            value, grad = nll.value_and_grad(x, target, reduction=reduction, **keywords)
            assert np.allclose(value, want.detach().numpy(), rtol=1e-13, equal_nan=True)
            assert np.allclose(grad, z.grad.numpy(), rtol=1e-15, equal_nan=True)
        z = torch.tensor(x, requires_grad=True)
        want = torch.nn.functional.binary_cross_entropy_with_logits(
            z, torch.tensor(p), weight=torch.tensor(w), pos_weight=torch.tensor(3 * w), reduction=reduction
        )
        want.sum().backward()
        value, grad = sigmoid_ce.value_and_grad(x, p, weight=w, pos_weight=3 * w, reduction=reduction)
        assert np.allclose(value, want.detach().numpy(), rtol=1e-13)
        assert np.allclose(grad, z.grad.numpy(), rtol=1e-12, atol=1e-15)


@each_float
def test_bits_depend_on_neither_threads_nor_backend(dtype, threads):
    x, labels = logits_and_labels(dtype, (300, 130), 11)
    t = shares(x.shape, dtype, 11)
    w = t[0]
    calls = (
        lambda: softmax_ce.value_and_grad(x, labels),
        lambda: softmax_ce.value_and_grad(x, labels, weight=w, ignore_index=3, reduction="none"),
        lambda: softmax_ce.value_and_grad(x, t, label_smoothing=0.1),
        lambda: sigmoid_ce.value_and_grad(x, t, pos_weight=w),
    )
    for call in calls:
        found = []
        for chosen in BACKENDS:
            if fa.dispatch.reasons()[chosen] is None:
                with fa.use_backend(chosen):
                    for n in (1, 2, 3):
                        threads(n)
                        found.append(call())
        for value, grad in found[1:]:
            assert same(value, found[0][0])
            assert same(grad, found[0][1])
