"""mse_loss, l1_loss, huber_loss, kl_div: values, gradients, bits, dtypes, errors."""

import numpy as np
import pytest
from cases import agreed, same
from ulp import BFLOAT16

import fastact as fa
from fastact.api.pointwise import LOSSES
from fastact.tools.verify_rows import CASES

# in float64, of x, t and delta: the loss and its gradient
TRUTH = {
    "mse_loss": lambda x, t, _: ((x - t) ** 2, 2 * (x - t)),
    "l1_loss": lambda x, t, _: (abs(x - t), np.sign(x - t)),
    "huber_loss": lambda x, t, d: (
        np.where(abs(x - t) <= d, (x - t) ** 2 / 2, d * (abs(x - t) - d / 2)), np.clip(x - t, -d, d)
    ),
    "kl_div": lambda x, t, _: (np.where(t == 0, 0, t * (np.log(np.where(t == 0, 1, t)) - x)), -t),
}  # fmt: skip
each_loss = pytest.mark.parametrize("name", LOSSES)
each_dtype = pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.float16, BFLOAT16], ids=lambda d: np.dtype(d).name
)


def arrays(n, dtype):
    rng = np.random.default_rng(n)
    x, t, w = rng.normal(0, 2, n), rng.random(n), rng.random(n) + 0.5
    t[::5] = 0
    return x.astype(dtype), t.astype(dtype), w.astype(dtype)


def keywords(name, value=0.7):
    return {"delta": value} if LOSSES[name].parameter else {}


def test_every_loss_has_an_oracle():
    assert set(TRUTH) == set(LOSSES)


@each_loss
@each_dtype
def test_values_and_gradients(name, dtype):
    loss, options, limits = getattr(fa, name), keywords(name), CASES[name].limits
    eps = float(np.finfo(dtype if np.dtype(dtype).kind == "f" else np.float32).eps)
    floor = 2.0**-24 if dtype == np.float16 else 1e-37  # half precision has subnormals within reach
    eps = 2**-7 if np.dtype(dtype) == BFLOAT16 else eps
    for n in (1, 2, 7, 16, 17, 63, 64, 67, 2047, 2048, 2049, 5000):
        x, t, w = arrays(n, dtype)
        value, grad = TRUTH[name](x.astype(float), t.astype(float), options.get("delta"))
        for reduction, weight in (("none", None), ("none", w), ("mean", w), ("sum", None)):
            factor = 1.0 if weight is None else weight.astype(float)
            want, want_grad = value * factor, grad * factor
            size = np.abs(want) + (np.abs(x.astype(float) * t.astype(float)) if name == "kl_div" else 0)
            if reduction == "mean":
                want, want_grad, size = want.mean(), want_grad / n, size.mean()
            elif reduction == "sum":
                want, size = want.sum(), size.sum()

            def compute(reduction=reduction, weight=weight, x=x, t=t):
                return loss.value_and_grad(x, t, weight=weight, reduction=reduction, **options)

            got, got_grad = agreed(compute)
            assert np.asarray(got).dtype == got_grad.dtype == np.dtype(dtype)
            assert (np.abs(np.asarray(got, float) - want) <= limits[0] * eps * size + floor).all()
            assert (np.abs(got_grad.astype(float) - want_grad) <= limits[1] * eps * np.abs(want_grad) + floor).all()
            assert same(np.asarray(loss(x, t, weight=weight, reduction=reduction, **options)), np.asarray(got))


@each_loss
def test_gradients_against_differences(name):
    loss, options, h = getattr(fa, name), keywords(name), 1e-6
    x, t, w = arrays(50, np.float64)
    far = np.abs(np.abs(x - t) - options.get("delta", 0)) > 1e-3
    _, grad = loss.value_and_grad(x, t, weight=w, reduction="sum", **options)
    up, down = (loss(x + s, t, weight=w, reduction="none", **options) for s in (h, -h))
    assert np.allclose(((up - down) / (2 * h))[far], grad[far], rtol=1e-6, atol=1e-8)


@each_loss
def test_special_values(name, backend):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, 1.0], np.float32)
    loss, grad = getattr(fa, name).value_and_grad(x, np.float32([0.5, 0.5, 0.5, 0.0, np.nan]), reduction="none")
    assert np.isnan(loss[[0, 4]]).all() and loss[3] == 0
    assert np.isinf(loss[1:3]).all()
    assert np.isnan(grad[4]) and grad[3] == 0


@each_loss
def test_in_place_layouts_and_shapes(name, backend):
    loss = getattr(fa, name)
    x, t, _ = arrays(600, np.float32)
    value, grad = loss.value_and_grad(x, t)
    shape = (20, 30)
    a, b = loss.value_and_grad(np.asfortranarray(x.reshape(shape)), t.reshape(shape))
    assert same(np.asarray(a), np.asarray(value)) and same(b.ravel(), grad)
    z = x.copy()
    assert loss.value_and_grad(z, t, out=z)[1] is z
    assert same(z, grad)
    empty = np.zeros((0, 3), np.float32)
    assert np.isnan(loss(empty, empty)) and loss(empty, empty, reduction="sum") == 0
    assert isinstance(loss(1.0, 1), float)


@each_loss
def test_bad_input(name):
    loss, x = getattr(fa, name), np.ones(3, np.float32)
    out = np.full(3, 7.0, np.float32)
    for error, match, given in (
        (ValueError, "targets have shape", (x, x[:2])),
        (TypeError, "complex", (x, x * 1j)),
        (TypeError, "masked", (np.ma.array(x), x)),
    ):
        with pytest.raises(error, match=match):
            loss.value_and_grad(*given, out=out)
    with pytest.raises(ValueError, match="reduction must be one of"):
        loss(x, x, reduction="avg")
    with pytest.raises(ValueError, match="weight of shape"):
        loss(x, x, weight=np.ones(2))
    with pytest.raises(ValueError, match="out has shape"):
        loss.value_and_grad(x, x, out=np.empty(2, np.float32))
    read_only = out.copy()
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        loss.value_and_grad(x, x, out=read_only)
    if LOSSES[name].parameter:
        for wrong in (0.0, -1.0, np.inf, np.nan):
            with pytest.raises(ValueError, match="delta must be positive and finite"):
                loss.value_and_grad(x, x, delta=wrong, out=out)
        with pytest.raises(TypeError, match="delta must be a number"):
            loss(x, x, delta="1")
    assert (out == 7).all()
