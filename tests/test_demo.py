"""The demo: its data, its network, both sets of functions, and what it promises about accuracy."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastact.spec.table import OPS
from fastact.tools import demo
from fastact.tools.data import load_digits

DOCS = Path(__file__).parents[1] / "docs"
# mpi_data_parallel.py needs mpiexec
EXAMPLES = sorted(p for p in (DOCS / "examples").glob("*.py") if p.stem in ("sklearn_mlp", "training_loop"))
# activations whose parameters all have defaults
NAMES = [name for name, op in OPS.items() if all(p.default is not None for p in op.params)]
BOTH = pytest.mark.parametrize("functions", [demo.numpy_functions, demo.fastact_functions], ids=["numpy", "fastact"])


@pytest.fixture(autouse=True, scope="module")
def one_blas_thread():
    """Two threads on small matrices wait for each other for ages when the machine is busy."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    with threadpoolctl.threadpool_limits(1, "blas"):
        yield


def small_network(functions, *, batch_norm=False, batch_size=32):
    return demo.Network([64, 16, 8, 10], functions, batch_norm=batch_norm, batch_size=batch_size, seed=3)


# data


def test_digits_are_scaled_and_split_alike_for_each_digit():
    (x, labels), (test_x, test_labels) = load_digits()
    assert x.shape == (1347, 64) and test_x.shape == (450, 64)
    assert x.dtype == test_x.dtype == np.float32 and x.min() == 0.0 and x.max() == 1.0
    for digit in range(10):
        train, test = (labels == digit).sum(), (test_labels == digit).sum()
        assert abs(test - 0.25 * (train + test)) <= 0.5


def test_digits_split_depends_on_the_seed_only():
    first, again, other = load_digits(), load_digits(), load_digits(seed=2)
    assert np.array_equal(first[1][0], again[1][0])
    assert not np.array_equal(first[1][0], other[1][0])


def test_digits_are_those_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    original = datasets.load_digits()
    (x, labels), (test_x, test_labels) = load_digits()
    ours = np.column_stack([np.concatenate([x, test_x]) * 16, np.concatenate([labels, test_labels])])
    theirs = np.column_stack([original.data, original.target])
    assert np.array_equal(np.unique(ours, axis=0), np.unique(theirs, axis=0)) and len(ours) == len(theirs)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_digits_refuse_a_share_outside_0_and_1(share):
    with pytest.raises(ValueError, match="test_share"):
        load_digits(share)


# parts


@pytest.mark.parametrize("name", NAMES)
def test_plain_numpy_and_fastact_compute_the_same(name):
    z = np.linspace(-6, 6, 64 * 30, dtype=np.float32).reshape(-1, 64) + np.float32(0.001)
    found = []
    for functions in (demo.numpy_functions(name), demo.fastact_functions(name)):
        y, dy = np.full_like(z, np.nan), np.full_like(z, 0.5)
        with np.errstate(over="ignore"):  # textbook definitions have float64 in mind
            functions.forward(z, None, y)
            value = y.copy()
            functions.backward(dy, z.copy(), None, y, None)
        found.append((value, dy))
    for plain, fast in zip(*found, strict=True):
        np.testing.assert_allclose(plain, fast, rtol=2e-5, atol=1e-6)


@BOTH
def test_loss_and_its_gradient(functions):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 10)).astype(np.float32) * 5
    labels = rng.integers(0, 10, 50)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    expected = -np.log(p[np.arange(50), labels]).mean()
    p[np.arange(50), labels] -= 1
    loss = functions("elu").loss(logits, labels)
    assert loss == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(logits, p / 50, rtol=1e-5, atol=1e-8)


@BOTH
@pytest.mark.parametrize("name", ["elu", "tanh", "gelu", "softplus"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_gradient_against_a_difference_of_losses(functions, name, batch_norm):
    network = small_network(functions(name), batch_norm=batch_norm)
    (x, labels), _ = load_digits()
    x, labels = x[:32], labels[:32]
    network.loss_and_gradient(x, labels)
    start, gradient = network.parameters.copy(), network.gradient.astype(np.float64)
    rng = np.random.default_rng(1)
    for direction in (gradient / np.linalg.norm(gradient), *rng.normal(size=(3, start.size)) / np.sqrt(start.size)):
        losses = []
        for h in (1e-2, -1e-2):
            network.parameters[...] = start + h * direction
            losses.append(network.loss_and_gradient(x, labels))
        # a loss of about 2.5, rounded to float32, over 2h: 1e-5
        assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(gradient @ direction, rel=2e-3, abs=1e-4)


def test_a_short_last_batch():
    network = small_network(demo.numpy_functions("elu"))
    (x, labels), _ = load_digits()
    network.loss_and_gradient(x[:5], labels[:5])
    whole = network.gradient.copy()
    parts = []
    for i in range(5):
        network.loss_and_gradient(x[i : i + 1], labels[i : i + 1])
        parts.append(network.gradient.copy())
    np.testing.assert_allclose(np.mean(parts, axis=0), whole, rtol=1e-4, atol=1e-7)


def test_he_normal_is_cut_off_and_has_variance_2_over_fan_in():
    network = demo.Network([400, 500, 10], demo.numpy_functions("elu"), batch_norm=False, batch_size=1, seed=0)
    kernel, bias = network.layers[0].parameters
    sigma = np.sqrt(2 / 400)
    assert kernel.std() == pytest.approx(sigma, rel=5e-3)
    assert np.abs(kernel).max() <= 2 * sigma / 0.8796
    assert not bias.any()


@BOTH
def test_a_bias_and_its_gradient(functions):
    rng = np.random.default_rng(0)
    z, dy, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((20, 16), (20, 16), 16))
    y, slope, dbias = np.empty_like(z), dy.copy(), np.empty_like(bias)
    found, plain = functions("elu"), demo.numpy_functions("elu")
    x = z.copy()
    found.forward(x, bias, y)
    expected, gradient = np.empty_like(z), dy.copy()
    plain.forward(z + bias, None, expected)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    found.backward(slope, x, bias, y, dbias)
    plain.backward(gradient, z + bias, None, expected, None)
    np.testing.assert_allclose(slope, gradient, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dbias, gradient.sum(0), rtol=1e-5, atol=1e-5)


@BOTH
def test_adam_against_its_formula(functions):
    rng = np.random.default_rng(0)
    parameters = rng.normal(size=30).astype(np.float32)
    p, m, v = parameters.astype(np.float64), np.zeros(30), np.zeros(30)
    step = functions("elu").optimiser(parameters)
    for t in range(1, 21):
        gradient = rng.normal(size=30).astype(np.float32) * np.float32(10.0 ** rng.integers(-6, 2))
        step(gradient)
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient.astype(np.float64) ** 2
        p -= 1e-3 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-7)
    np.testing.assert_allclose(parameters, p, rtol=0, atol=2e-6)


def test_batch_normalisation():
    layer = demo.BatchNormalization(4, batch_size=100)
    layer.parameters = [np.float32([1, 2, 3, 4]), np.float32([0, 0, 1, 1])]
    x = np.random.default_rng(0).normal(5, 3, (100, 4)).astype(np.float32)
    y = layer.forward(x.copy())
    np.testing.assert_allclose(y.mean(axis=0), [0, 0, 1, 1], atol=1e-5)
    np.testing.assert_allclose(y.std(axis=0), [1, 2, 3, 4], rtol=1e-3)
    np.testing.assert_allclose(layer.moving[0], 0.01 * x.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(layer.moving[1], 0.99 + 0.01 * x.var(axis=0), rtol=1e-5)
    layer.moving = np.stack([x.mean(axis=0), x.var(axis=0)])
    np.testing.assert_allclose(layer.predict(x), y, atol=1e-5)


def test_statistics_find_dead_and_saturated_units():
    network = small_network(demo.numpy_functions("relu"))
    (x, labels), _ = load_digits()
    network.layers[0].parameters[1][:4] = -100.0  # 4 of 16 units
    first, second, output = demo.statistics(network, x, labels, 32)
    assert first["dead"] >= 0.25 and first["saturated"] >= first["dead"] and second["saturated"] <= 1.0
    assert all(layer["gradient_norm"] > 0 for layer in (first, second, output))


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", [False, True])
def test_same_losses_as_keras(batch_norm):
    keras = pytest.importorskip("keras")
    network = demo.Network(
        [64, 64, 64, 10], demo.fastact_functions("elu"), batch_norm=batch_norm, batch_size=64, seed=0
    )
    layers = [keras.layers.Input((64,))]
    for _ in range(2):
        layers.append(keras.layers.Dense(64, use_bias=not batch_norm))
        if batch_norm:
            layers.append(keras.layers.BatchNormalization())
        layers.append(keras.layers.Activation("elu"))
    layers.append(keras.layers.Dense(10, activation="softmax"))
    model = keras.Sequential(layers)
    assert model.count_params() == sum(layer.fixed for layer in network.layers) + network.parameters.size
    dense = [layer for layer in network.layers if isinstance(layer, demo.Dense)]
    for theirs, ours in zip([m for m in model.layers if isinstance(m, keras.layers.Dense)], dense, strict=True):
        theirs.set_weights(ours.parameters)

    (x, labels), (test_x, test_labels) = load_digits()
    model.compile(optimizer=keras.optimizers.Adam(), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    theirs = model.fit(x, labels, batch_size=64, epochs=5, shuffle=False, verbose=0).history["loss"]
    step = network.functions.optimiser(network.parameters)
    ours = []
    for _ in range(5):
        losses = []
        for start in range(0, len(x), 64):
            batch = slice(start, start + 64)
            losses.append(network.loss_and_gradient(x[batch], labels[batch]) * len(labels[batch]))
            step(network.gradient)
        ours.append(sum(losses) / len(x))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert network.accuracy(test_x, test_labels) == pytest.approx(
        model.evaluate(test_x, test_labels, verbose=0)[1], abs=3e-3
    )


# the whole


@pytest.mark.parametrize("batch_norm", [False, True])
def test_both_runs_reach_96_percent(batch_norm):
    result = demo.compare(demo.Settings(batch_norm=batch_norm))
    assert min(result.test_accuracy.values()) >= 0.96
    assert abs(result.test_accuracy["numpy"] - result.test_accuracy["fastact"]) <= 0.01
    # the first epoch, before roundings have grown
    assert result.runs["numpy"].loss[0] == pytest.approx(result.runs["fastact"].loss[0], rel=1e-4)
    for name, run in result.runs.items():
        assert len(run.whole_loop) == len(run.activations_and_loss) == result.settings.epochs
        seconds = result.fastest_epoch(name)
        assert 0 < seconds["activations_and_loss"] < seconds["whole_loop"]
        assert 0 < seconds["optimiser"] < seconds["whole_loop"]
    json.dumps(result.as_dict())


def test_equal_seeds_give_equal_runs():
    settings = demo.Settings(hidden=(16,), epochs=3)
    first, again = demo.compare(settings), demo.compare(settings)
    for name in first.runs:
        assert first.runs[name].loss == again.runs[name].loss


@pytest.mark.parametrize("name", NAMES)
def test_every_activation_runs(name):
    result = demo.compare(demo.Settings(activation=name, hidden=(8,), epochs=1))
    assert set(result.runs) == {"numpy", "fastact"}


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "demo.png"
    for epochs in (1, 3):
        figure = demo.picture(demo.compare(demo.Settings(hidden=(8, 8), epochs=epochs)))
        figure.savefig(path)
        assert path.read_bytes().startswith(b"\x89PNG")
        for axis in figure.axes:
            assert axis.lines, axis.get_title()
            for line in axis.lines:
                assert len(line.get_xdata()) == epochs
                assert (line.get_marker() == "o") == (epochs == 1), "a line through one point is nothing"
            assert all(tick == int(tick) for tick in axis.get_xticks())
            beside = axis.get_legend().get_window_extent().x0
            assert beside >= axis.get_window_extent().x1, "the legend hides lines"


# documents


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example_runs(path):
    if "sklearn" in path.stem:
        pytest.importorskip("sklearn")
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    last = float(done.stdout.split()[-1])
    if "sklearn" in path.stem:
        assert last > 0.95
    if path.stem == "training_loop":
        assert last < 0.01
