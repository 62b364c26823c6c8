"""group_norm and batch_norm, and what all norms have in common: an activation, a residual."""

import itertools
import pickle

import norms_oracle as truth
import numpy as np
import pytest
from cases import same
from test_norms import COMPILED, agree, each_float, samples, streaming, worst  # noqa: F401 - streaming is a fixture
from ulp import BFLOAT16, misaligned

import fastact as fa

BOUND = 2.5
NORMS = ("layer_norm", "rms_norm", "group_norm", "batch_norm")
# of short and long formulas, with and without parameters, by name and as they are
ACTIVATIONS = (
    "relu",
    fa.gelu,
    ("elu", {"alpha": 0.5}),
    (fa.gelu, {"approximate": "tanh"}),
    (fa.prelu, {"weight": 0.1}),
)

each_norm = pytest.mark.parametrize("name", NORMS)
each_channel_norm = pytest.mark.parametrize("name", ["group_norm", "batch_norm"])


def call(name, method=None):
    """A norm of arrays (samples, channels, positions), as a function of x, weight and bias; 2 groups."""
    f = getattr(fa, name) if method is None else getattr(getattr(fa, name), method)
    if name == "group_norm" and method != "backward":
        return lambda x, *columns, **kw: f(x, 2, *columns, **kw)
    if name == "group_norm":
        return f
    if name == "batch_norm":
        return lambda *given, **kw: f(*given, channel_axis=kw.pop("channel_axis", 1), **kw)
    axis = {"axis": 1}
    if name == "rms_norm":
        # it has no bias
        return lambda *given, **kw: f(*given[: 4 if method == "backward" else 2], **axis, **kw)
    return lambda *given, **kw: f(*given, **axis, **kw)


def forward(name, x, *columns, **keywords):
    """y, statistics, and the sum with a residual."""
    return call(name, "forward")(x, *columns, **keywords)


def step(name, x, dy, weight, bias, outs=(None, None), **keywords):
    y, stats = forward(name, x, weight, bias, out=outs[0], **keywords)
    keywords.pop("eps", None)
    gradients = call(name, "backward")(dy, x, stats, weight, bias, out=outs[1], **keywords)
    return [y, stats, *(g for g in gradients if g is not None)]


def arrays(dtype, shape=(6, 8, 33), seed=0, mean=0.5, spread=2.0):
    rng = np.random.default_rng((seed, *shape))
    x, dy, residual = (rng.standard_normal((3, *shape)) * spread + mean).astype(dtype)
    weight, bias = (rng.standard_normal((2, shape[1])) + 1).astype(dtype)
    return x, dy, weight, bias, residual


def textbook(name, x, dy, weight, bias, eps):
    """y, gradients, and the sizes of what is added up for each: rows of statistics as rows of arrays."""
    n, channels, m = x.shape
    spread = (n, channels, m)
    w, b = (np.broadcast_to(a[:, None], spread) for a in (weight, bias))

    def rows(a):
        return a.reshape(n * 2, -1) if name == "group_norm" else np.moveaxis(a, 1, 0).reshape(channels, -1)

    def back(a):
        if name == "group_norm":
            return a.reshape(spread)
        return np.moveaxis(a.reshape(channels, n, m), 0, 1)

    def over(a):
        return back(a).sum((0, 2))

    x, dy, w, b = (rows(truth.exact(np.ascontiguousarray(a))) for a in (x, dy, w, b))
    h, s = truth.normalised_exactly(x, eps)
    g = dy * w
    dx, size = truth.through_statistics(g, h, s)
    values = back(h * w + b), back(dx), over(dy * h), over(dy)
    sizes = back(abs(w) * (1 + abs(h)) + abs(b)), back(size), over(abs(dy) * (1 + abs(h))), over(abs(dy))
    return values, sizes


# accuracy


@each_float
@each_channel_norm
def test_accuracy(name, dtype, backend):
    most = {"y": 0.0, "dx": 0.0, "dweight": 0.0, "dbias": 0.0}
    shapes = ((2, 4, 1), (1, 2, 5), (3, 6, 17), (70, 2, 3), (5, 4, 300)) if dtype == np.float32 else ((2, 2, 9),)
    levels = ((0, 1), (1e4, 1), (-3, 1e-3), (0, 1e6))
    for shape, (mean, spread), eps in itertools.product(shapes, levels, (1e-3, 1e-5)):
        x, dy, weight, bias, _ = arrays(dtype, shape, 1, mean, spread)
        eps = float(dtype(eps))
        y, _, *gradients = step(name, x, dy, weight, bias, eps=eps)
        for what, got, want, size in zip(most, (y, *gradients), *textbook(name, x, dy, weight, bias, eps), strict=True):
            most[what] = max(most[what], worst(got, want, size, dtype))
    print(f"{name} {dtype.__name__} {backend}: " + ", ".join(f"{k} {v:.2f}" for k, v in most.items()), f"of {BOUND}")
    assert max(most.values()) <= BOUND


@each_channel_norm
def test_a_mean_of_ten_thousand_and_a_variance_of_one(name, backend):
    x, dy, weight, bias, _ = arrays(np.float32, (50, 4, 400), 2, 1e4, 1.0)
    (want, *_), _ = textbook(name, x, dy, weight, bias, 1e-5)
    y = call(name, "forward")(x, weight, bias, eps=1e-5)[0]
    assert np.abs(y - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("shape", [(3000, 3, 1), (3, 3, 1000)])
def test_a_batch_that_begins_far_from_its_mean(shape, backend):
    """The guess from the first values is off by many standard deviations."""
    x, dy, weight, bias, _ = arrays(np.float32, shape, 3, 1e4, 1.0)
    x.reshape(-1, shape[1])[:300] = -1e6
    x[:2, :, :100] = -1e6
    (want, *_), _ = textbook("batch_norm", x, dy, weight, bias, 1e-5)
    y = forward("batch_norm", x, weight, bias, eps=1e-5)[0]
    assert np.abs(y - want).max() <= 1e-5 * np.abs(want).max()


def test_sums_over_many_rows_lose_nothing():
    """2^22 rows: within 4 ULP of the sum of magnitudes."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((1 << 22, 2), dtype=np.float32)
    x += np.float32(1)
    dy = rng.random(x.shape, dtype=np.float32)
    _y, stats = fa.batch_norm.forward(x)
    exact = x.astype(np.float64)
    mean, var = exact.mean(0), exact.var(0)
    eps = 2.0**-23
    assert (abs(stats[0] - mean) <= 4 * eps * abs(exact).mean(0)).all()
    assert (abs(1 / stats[2].astype(np.float64) ** 2 - (var + 1e-3)) <= 8 * eps * var).all()
    _, dweight, dbias = fa.batch_norm.backward(dy, x, stats, np.ones(2, np.float32), np.ones(2, np.float32))
    h = (exact - mean) / np.sqrt(var + 1e-3)
    off = abs(dbias - dy.sum(0, dtype=np.float64)) / (eps * dy.sum(0, dtype=np.float64))
    off_weight = abs(dweight - (dy * h).sum(0)) / (eps * abs(dy * h).sum(0))
    print(f"dbias {off.max():.2f}, dweight {off_weight.max():.2f} of 4 ULP of the sums of magnitudes")
    assert max(off.max(), off_weight.max()) <= 4


@each_float
@each_channel_norm
def test_channels_of_one_value_are_the_bias(name, dtype, backend):
    for shape, value in itertools.product(((1, 4, 1), (5, 4, 1), (70, 4, 9), (2, 4, 70_000)), (0.1, -3e30, 1e-40, 0.0)):
        x = np.full(shape, value, dtype)
        bias = np.arange(4).astype(dtype)
        assert same(forward(name, x, None, bias)[0], np.broadcast_to(bias[:, None], shape).copy())


@pytest.mark.parametrize("activation", [None, "gelu", ("elu", {"alpha": 0.7})])
@each_norm
def test_gradients_against_differences(name, activation):
    rng, h = np.random.default_rng(5), 1e-6
    x, dy, weight, bias, _ = arrays(np.float64, (4, 6, 5), 5)
    given = (weight,) if name == "rms_norm" else (weight, bias)
    _, _, *gradients = step(name, x, dy, weight, bias, activation=activation)
    for i, (a, gradient) in enumerate(zip((x, *given), gradients, strict=True)):
        v = rng.standard_normal(a.shape)
        ends = []
        for sign in (1, -1):
            moved = [x, *given]
            moved[i] = a + sign * h * v
            ends.append((dy * forward(name, *moved, activation=activation)[0]).sum())
        assert np.isclose((gradient * v).sum(), (ends[0] - ends[1]) / (2 * h), rtol=1e-7, atol=1e-8)


# bits


@each_channel_norm
def test_bits_of_every_length(name):
    for m in (*range(1, 68), 256, 257, 1025):
        x, dy, weight, bias, _ = arrays(np.float32, (1 + m % 5, 4, m), 6)
        agree(lambda a=(x, dy, weight, bias): step(name, *a), (1,))
    for channels in (*range(2, 68, 2), 510, 1026):
        x, dy, weight, bias, _ = arrays(np.float32, (67, channels, 1), 6)
        agree(lambda a=(x, dy, weight, bias): step(name, *a), (1,))


@each_float
@each_channel_norm
def test_bits_of_any_number_of_threads(name, dtype):
    backends = COMPILED if dtype == np.float32 else ["cython"]
    for shape in ((200, 6, 130), (1100, 130, 1), (2, 4, 70_001), (130, 256, 4), (3, 1024, 16)):
        x, dy, weight, bias, _ = arrays(dtype, shape, 7)
        agree(lambda a=(x, dy, weight, bias): step(name, *a), backends=backends)
        agree(lambda a=(x, dy, weight, bias): step(name, *a, activation="silu"), backends=backends)


@each_channel_norm
def test_bits_with_special_values(name):
    x, dy, weight, bias, _ = arrays(np.float32, (5, 24, 100), 8)
    x[0, 0, 5], x[1, 12, 0], x[2, 3, 99], x[3, 4], x[4, 20] = np.nan, np.inf, -np.inf, 1e-42, 1e30
    dy[0, 6, 7], dy[1, 15, 9] = np.nan, np.inf
    for activation in (None, "gelu"):
        y, _, dx, *_ = agree(lambda a=activation: step(name, x, dy, weight, bias, activation=a), (1, 2))
        for index in ((0, 0), (1, 12), (2, 3)):
            assert np.isnan(y[index]).all()
            assert np.isnan(dx[index]).all()


@each_norm
def test_an_activation_is_that_of_the_result(name, backend, streaming):  # noqa: F811
    for shape, activation in itertools.product(((6, 8, 33), (70, 6, 1), (3, 64, 100), (2, 2, 5000)), ACTIVATIONS):
        x, dy, weight, bias, _ = arrays(np.float32, shape, 9)
        f, params = activation if isinstance(activation, tuple) else (activation, {})
        f = fa.get(f) if isinstance(f, str) else f
        numbers = {k: np.float32(v) if k == "weight" else v for k, v in params.items()}
        z, stats = forward(name, x, weight, bias)
        through = f.backward(dy, z, **numbers)
        dz = through[0] if isinstance(through, tuple) else through
        want = [f(z, **numbers), *call(name, "backward")(dz, x, stats, weight, bias)]
        for limit in (1, 1 << 40):
            streaming(limit)
            outs = misaligned(shape, x.dtype, limit % 3), misaligned(shape, x.dtype, 1)
            got = step(name, x, dy, weight, bias, outs, activation=activation)
            assert got[0] is outs[0] and got[2] is outs[1]
            for a, b in zip((got[0], *got[2:]), (w for w in want if w is not None), strict=True):
                assert same(a, b), (shape, activation)
        copy, dcopy = x.copy(), dy.copy()
        y = forward(name, copy, weight, bias, activation=activation, out=copy)[0]
        dx = call(name, "backward")(dcopy, x, stats, weight, bias, activation=activation, out=dcopy)[0]
        assert y is copy and same(y, want[0])
        assert dx is dcopy and same(dx, want[1])


@each_norm
def test_a_residual_is_added_first(name, backend, streaming):  # noqa: F811
    for dtype, shape in itertools.product((np.float32, np.float64, np.float16, BFLOAT16), ((6, 8, 33), (2, 2, 5000))):
        x, _, weight, bias, residual = arrays(dtype, shape, 10)
        total = x + residual
        want = [*forward(name, total, weight, bias, activation="tanh"), total]
        for limit in (1, 1 << 40):
            streaming(limit)
            got = forward(name, x, weight, bias, residual=residual, activation="tanh")
            assert all(same(a, b) for a, b in zip(got, want, strict=True))
        y, place = misaligned(shape, x.dtype, 1), residual.copy()
        got = forward(name, x, weight, bias, residual=place, activation="tanh", out=(y, place))
        assert got[0] is y and got[2] is place
        assert all(same(a, b) for a, b in zip(got, want, strict=True))
        got = forward(name, x.copy(), weight, bias, residual=residual, activation="tanh", out=(None, place))
        assert all(same(a, b) for a, b in zip(got, want, strict=True))


# axes, layouts, dtypes


@each_float
@each_channel_norm
def test_axes_and_layouts(name, dtype, backend):
    x, dy, weight, bias, _ = arrays(dtype, (4, 6, 18), 11)
    expected = step(name, x, dy, weight, bias)
    shaped = step(name, x.reshape(4, 6, 3, 6), dy.reshape(4, 6, 3, 6), weight, bias)
    for got, want in zip(shaped, expected, strict=True):
        assert same(got.reshape(want.shape), want)
    for change in (
        np.asfortranarray,
        lambda a: np.repeat(a, 2, -1)[..., ::2],
        lambda a: a.astype(a.dtype.newbyteorder()),
    ):
        outs = [np.full(x.shape, np.nan, dtype, order="F") for _ in range(2)]
        got = step(name, change(x), change(dy), weight, bias, outs)
        assert got[0] is outs[0] and got[2] is outs[1]
        assert all(same(np.ascontiguousarray(a), b) for a, b in zip(got, expected, strict=True))
    last_x, last_dy = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy))
    given = (2,) if name == "group_norm" else ()
    y, stats = getattr(fa, name).forward(last_x, *given, weight, bias, channel_axis=-1)
    dx, *sums = getattr(fa, name).backward(last_dy, last_x, stats, weight, bias, channel_axis=-1)
    if name == "group_norm":
        got = [np.moveaxis(y, -1, 1), stats, np.moveaxis(dx, -1, 1), *sums]
        assert all(same(np.ascontiguousarray(a), b) for a, b in zip(got, expected, strict=True))
    else:
        # sums of another order
        assert np.allclose(np.moveaxis(y, -1, 1), expected[0], rtol=1e-5, atol=1e-5)


@each_channel_norm
def test_dtypes(name, backend):
    x, dy, weight, bias, _ = arrays(np.float32, (4, 6, 33), 12)
    for dtype, activation in itertools.product((np.float16, BFLOAT16), (None, "silu")):
        narrow = [a.astype(dtype) for a in (x, dy, weight, bias)]
        got = step(name, *narrow, activation=activation)
        want = step(name, *(a.astype(np.float32) for a in narrow), activation=activation)
        for i, (a, b) in enumerate(zip(got, want, strict=True)):
            assert a.dtype == (np.float32 if i == 1 else dtype)
            assert same(a, b.astype(a.dtype))
    whole = np.arange(24).reshape(2, 4, 3)
    assert same(forward(name, whole)[0], forward(name, whole.astype(np.float64))[0])
    assert all(a.dtype == np.float64 for a in step(name, x, dy, weight.astype(np.float64), bias))


@each_channel_norm
def test_nothing_to_do(name, backend):
    for shape in ((0, 4, 2), (3, 4, 0), (0, 2, 0)):
        x, weight = np.zeros(shape, np.float32), np.ones(shape[1], np.float32)
        y, stats, dx, *sums = step(name, x, x, weight, weight)
        assert y.shape == dx.shape == shape
        assert np.isnan(stats).all()
        assert all(s.shape == weight.shape and (s == 0).all() for s in sums)


# running statistics


def test_running_statistics(backend):
    x, _, weight, bias, _ = arrays(np.float32, (7, 5, 9), 13)
    exact = x.astype(np.float64)
    mean, var = exact.mean((0, 2)), exact.var((0, 2))
    for unbiased, dtype in itertools.product((False, True), (np.float32, np.float64)):
        running = np.full(5, 2.0, dtype), np.full(5, 3.0, dtype)
        given = {"running_mean": running[0], "running_var": running[1], "momentum": 0.75, "unbiased": unbiased}
        y, _stats = fa.batch_norm.forward(x, weight, bias, channel_axis=1, **given)
        factor = 63 / 62 if unbiased else 1.0
        assert np.allclose(running[0], 0.75 * 2 + 0.25 * mean, rtol=1e-6)
        assert np.allclose(running[1], 0.75 * 3 + 0.25 * var * factor, rtol=1e-6)
        assert same(y, fa.batch_norm.forward(x, weight, bias, channel_axis=1)[0])
    given = fa.batch_norm(x, mean, var, weight, bias, channel_axis=1)
    assert given.dtype == np.float32
    assert np.allclose(given, y, rtol=1e-5, atol=1e-5)


def test_the_default_is_the_last_axis_and_keras_epsilon(backend):
    x = np.array([[1.0, 2.0], [3.0, 2.0]])
    want = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3)
    assert np.allclose(fa.batch_norm.forward(x)[0], want, rtol=1e-14)
    assert np.allclose(fa.batch_norm(x, x.mean(0), x.var(0)), want, rtol=1e-14)


# errors


@each_norm
def test_bad_activations_and_residuals(name):
    x, _dy, weight, bias, residual = arrays(np.float32, (3, 4, 5), 14)
    f = call(name, "forward")
    before = x.copy()
    for bad, error, match in (
        ("no_such", ValueError, "no_such"),
        ("softmax", ValueError, "works over an axis"),
        (3, TypeError, "activation must be"),
        (("elu", {"beta": 1.0}), TypeError, "elu has no parameter 'beta'"),
        (("elu", {"alpha": "1"}), TypeError, "alpha"),
        (("elu", {"alpha": np.ones(3)}), TypeError, "alpha must be a number"),
        (("celu", {"alpha": 0.0}), ValueError, "alpha"),
        ("prelu", TypeError, "weight must be given"),
    ):
        with pytest.raises(error, match=match):
            f(x, weight, bias, activation=bad, out=x)
    for bad, error, match in (
        (residual[:-1], ValueError, "residual has shape"),
        (residual.astype(int), TypeError, "residual must be of floats"),
        (np.ma.masked_array(residual), TypeError, "masked arrays"),
    ):
        with pytest.raises(error, match=match):
            f(x, weight, bias, residual=bad, out=(x, None))
    with pytest.raises(TypeError, match="out must be a tuple of two"):
        f(x, weight, bias, residual=residual, out=x)
    with pytest.raises(ValueError, match="share memory"):
        f(x, weight, bias, residual=residual, out=(x, x))
    fixed = x.copy()
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        f(x, weight, bias, residual=residual, out=(x, fixed))
    assert same(x, before)


@each_channel_norm
def test_bad_input_names_its_argument_and_writes_nothing(name):
    x, dy, weight, bias, _ = arrays(np.float32, (3, 4, 5), 15)
    f, g = call(name, "forward"), call(name, "backward")
    stats = f(x, weight, bias)[1]
    out = x.copy()

    def refused(error, match, *args, **kw):
        with pytest.raises(error, match=match):
            f(*args, out=out, **kw)
        assert same(out, x)

    for i, what in ((1, "weight"), (2, "bias")):
        for bad, error in (
            (weight[:-1], ValueError),
            (weight[:, None], ValueError),
            (weight.astype(int), TypeError),
            (weight.astype(complex), TypeError),
            (np.ma.masked_array(weight), TypeError),
        ):
            args = [x, weight, bias]
            args[i] = bad
            refused(error, what if error is ValueError or bad.dtype.kind in "ic" else "masked", *args)
    for bad, error in (
        (0.0, ValueError),
        (-1.0, ValueError),
        (np.inf, ValueError),
        (np.nan, ValueError),
        ("1", TypeError),
    ):
        refused(error, "eps must be", x, weight, bias, eps=bad)
    refused(np.exceptions.AxisError, "out of bounds", x, weight, bias, channel_axis=3)
    refused(TypeError, "channel_axis must be an integer", x, weight, bias, channel_axis=1.0)
    for bad in (stats[:2], stats[..., :-1], stats[None]):
        with pytest.raises(ValueError, match="stats have shape"):
            g(dy, x, bad, weight, bias)
    with pytest.raises(ValueError, match="dy has shape"):
        g(dy[:-1], x, stats, weight, bias)
    with pytest.raises(TypeError, match="dy must be of floats"):
        g(dy.astype(int), x, stats, weight, bias)
    with pytest.raises(ValueError, match="out has shape"):
        g(dy, x, stats, weight, bias, out=np.empty((3, 4), np.float32))


def test_bad_groups():
    x = np.zeros((3, 4, 5), np.float32)
    for groups, error in ((0, ValueError), (3, ValueError), (8, ValueError), (-1, ValueError), (2.0, TypeError)):
        with pytest.raises(error, match="group_norm: groups must"):
            fa.group_norm(x, groups)
    with pytest.raises(ValueError, match="channel_axis must not be 0"):
        fa.group_norm(x, 1, channel_axis=0)
    with pytest.raises(ValueError, match="no axis of channels"):
        fa.group_norm(x[0, 0], 1)


def test_bad_running_statistics():
    x, _, weight, bias, _ = arrays(np.float32, (3, 4, 5), 16)
    mean, var = np.zeros(4, np.float32), np.ones(4, np.float32)
    fixed = var.copy()
    fixed.flags.writeable = False
    out = x.copy()
    for given, error, match in (
        ({"running_mean": mean}, TypeError, "running_var must be an array"),
        ({"running_mean": mean, "running_var": [1.0] * 4}, TypeError, "running_var must be an array"),
        ({"running_mean": mean, "running_var": var[:-1]}, ValueError, "running_var has shape"),
        ({"running_mean": mean, "running_var": var.astype(int)}, TypeError, "running_var must be"),
        ({"running_mean": mean, "running_var": fixed}, ValueError, "running_var is read-only"),
        ({"running_mean": mean, "running_var": mean}, ValueError, "memory of their own"),
        ({"running_mean": mean, "running_var": weight}, ValueError, "memory of their own"),
        ({"running_mean": mean, "running_var": var, "momentum": 1.5}, ValueError, "momentum must be within"),
        ({"running_mean": mean, "running_var": var, "momentum": "1"}, TypeError, "momentum must be a number"),
    ):
        with pytest.raises(error, match=match):
            fa.batch_norm.forward(x, weight, bias, channel_axis=1, out=out, **given)
        assert same(out, x) and (mean == 0).all() and (var == 1).all()
    with pytest.raises(ValueError, match="more than 1 value"):
        fa.batch_norm.forward(x[:1, :, 0], running_mean=mean, running_var=var, unbiased=True)
    with pytest.raises(TypeError, match="mean must be an array"):
        fa.batch_norm(x, None, var, channel_axis=1)


# the rest of the interface


@each_channel_norm
def test_explain_warmup_pickle(name):
    f, x = getattr(fa, name), np.zeros((3, 4), np.float32)
    more = (2,) if name == "group_norm" else ()
    assert fa.explain(f.forward, x, *more).startswith(f"{name} forward, 12 elements of float32")
    stats = np.zeros((3, 2, 3) if more else (3, 4))
    assert fa.explain(f.backward, x, x, stats).startswith(f"{name} backward, 12 elements of float32")
    with fa.use_backend("reference"):
        assert fa.warmup(name) >= 3
    assert pickle.loads(pickle.dumps(f)) is f
    assert repr(f) == f"<fastact.{name}>"
