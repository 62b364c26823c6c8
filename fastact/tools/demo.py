"""``fastact demo``: a network on real handwritten digits, once with plain NumPy activations and once with fastact.

    Dense(64, ELU) -> Dense(64, ELU) -> Dense(10, softmax)

He-normal initialisation, batch normalisation on request, Adam, categorical cross-entropy; every constant is Keras'. The
two runs share all code except what is in class `Functions`: the activation with its bias, their gradients, the loss,
Adam's step, and batch normalisation.
"""

from __future__ import annotations

import copy
import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import isfinite, prod, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastact import dispatch
from fastact.tools.data import load_digits

Array = NDArray[np.float32]
CLASSES = 10


class Functions(NamedTuple):
    """What a run computes with."""

    name: str
    source: str  # how the activation is computed
    # (z, bias or None, y): y = f(z + bias); z may be overwritten, and stays so for `backward`
    forward: Callable[[Array, Array | None, Array], Any]
    # (dy, z, bias or None, y, dbias): dy *= f'(z + bias), dbias its sum over rows; z and y may be overwritten
    backward: Callable[[Array, Array, Array | None, Array, Array | None], Any]
    loss: Callable[[Array, NDArray[np.intp]], float]  # (logits, labels): mean cross-entropy; logits become its gradient
    optimiser: Callable[[Array], Callable[[Array], Any]]  # of parameters: a step, of their gradient
    batch_norm: Callable[[int, int], BatchNormalization]  # of units and batch size: a layer


def fastact_functions(name: str) -> Functions:
    """The functions of a run with fastact."""
    import fastact as fa

    f = fa.get(name)

    def forward(z: Array, bias: Array | None, y: Array) -> None:
        if bias is None:
            f(z, out=y)
        else:
            f.biased(z, bias, out=y)

    def backward(dy: Array, z: Array, bias: Array | None, y: Array, dbias: Array | None) -> None:
        if bias is not None:
            f.biased_backward(dy, z, bias, out=(dy, dbias))
        elif hasattr(f, "backward_from_output"):
            f.backward_from_output(dy, y, out=dy)
        else:
            f.backward(dy, z, out=dy)

    def loss(logits: Array, labels: NDArray[np.intp]) -> float:
        value, _ = fa.softmax_cross_entropy.value_and_grad(logits, labels, out=logits)
        return float(value)

    def optimiser(parameters: Array) -> Callable[[Array], Any]:
        adam = fa.optim.Adam([parameters], lr=Adam.learning_rate, keras=True)
        return lambda gradient: adam.step([gradient])

    return Functions(f.name, "fastact", forward, backward, loss, optimiser, FusedBatchNormalization)


def relu(z: Array, y: Array) -> None:
    np.maximum(z, 0, out=y)


def relu_backward(dy: Array, z: Array, y: Array) -> None:
    np.copyto(dy, 0, where=y <= 0)


def leaky_relu(z: Array, y: Array) -> None:
    np.multiply(z, 0.01, out=y)
    np.maximum(z, y, out=y)


def leaky_relu_backward(dy: Array, z: Array, y: Array) -> None:
    np.multiply(dy, 0.01, out=dy, where=y <= 0)


def elu(z: Array, y: Array) -> None:
    np.minimum(z, 0, out=y)
    np.expm1(y, out=y)
    np.maximum(z, y, out=y)  # expm1(z) >= z


def elu_backward(dy: Array, z: Array, y: Array) -> None:
    np.minimum(y, 0, out=y)
    y += 1
    dy *= y


def sigmoid(z: Array, y: Array) -> None:
    np.multiply(z, 0.5, out=y)  # 1/(1 + exp(-z)) overflows below -88 and was no faster
    np.tanh(y, out=y)
    y += 1
    y *= 0.5


def sigmoid_backward(dy: Array, z: Array, y: Array) -> None:
    dy *= y
    np.subtract(1, y, out=y)
    dy *= y


def tanh(z: Array, y: Array) -> None:
    np.tanh(z, out=y)


def tanh_backward(dy: Array, z: Array, y: Array) -> None:
    np.square(y, out=y)
    np.subtract(1, y, out=y)
    dy *= y


def silu(z: Array, y: Array) -> None:
    sigmoid(z, y)
    y *= z


def silu_backward(dy: Array, z: Array, y: Array) -> None:
    s = np.empty_like(z)
    sigmoid(z, s)
    np.multiply(y, s, out=z)  # s + y·(1 - s)
    y += s
    y -= z
    dy *= y


def softplus(z: Array, y: Array) -> None:
    np.abs(z, out=y)
    np.negative(y, out=y)
    np.exp(y, out=y)
    np.log1p(y, out=y)
    y += np.maximum(z, 0)


def softplus_backward(dy: Array, z: Array, y: Array) -> None:
    sigmoid(z, y)
    dy *= y


def gelu(z: Array, y: Array) -> None:
    from scipy.special import ndtr

    ndtr(z, out=y)
    y *= z


def gelu_backward(dy: Array, z: Array, y: Array) -> None:
    from scipy.special import ndtr

    np.square(z, out=y)  # Phi(z) + z·phi(z)
    y *= -0.5
    np.exp(y, out=y)
    y *= z
    y *= 0.3989422804014327
    ndtr(z, out=z)
    y += z
    dy *= y


def softmax_cross_entropy(logits: Array, labels: NDArray[np.intp]) -> float:
    rows = np.arange(len(labels))
    logits -= logits.max(axis=1, keepdims=True)
    correct = logits[rows, labels]
    np.exp(logits, out=logits)
    total = logits.sum(axis=1, keepdims=True)
    loss = np.log(total).mean() - correct.mean()
    logits /= total
    logits[rows, labels] -= 1
    logits /= len(labels)
    return float(loss)


PLAIN_NUMPY = {
    "relu": (relu, relu_backward),
    "leaky_relu": (leaky_relu, leaky_relu_backward),
    "elu": (elu, elu_backward),
    "sigmoid": (sigmoid, sigmoid_backward),
    "tanh": (tanh, tanh_backward),
    "silu": (silu, silu_backward),
    "softplus": (softplus, softplus_backward),
}


def numpy_functions(name: str) -> Functions:
    """The functions of a run with plain NumPy; where this file has none of its own, textbook definitions."""
    if name in PLAIN_NUMPY:
        return _numpy_functions(name, "whole-array steps, in place", *PLAIN_NUMPY[name])
    if name == "gelu" and importlib.util.find_spec("scipy") is not None:  # NumPy has no erf
        return _numpy_functions(name, "whole-array steps and SciPy's ndtr, in place", gelu, gelu_backward)
    from fastact.spec.table import OPS
    from fastact.tools.truth import TRUTH

    truth = TRUTH[name]
    parameters = {parameter.name: parameter.default for parameter in OPS[name].params}

    def forward(z: Array, y: Array) -> None:
        y[...] = truth.value(z, **parameters)

    def backward(dy: Array, z: Array, y: Array) -> None:
        dy *= truth.derivative(z, **parameters)

    return _numpy_functions(name, "its textbook formula on whole arrays", forward, backward)


def _numpy_functions(
    name: str, source: str, value: Callable[[Array, Array], Any], derivative: Callable[[Array, Array, Array], Any]
) -> Functions:
    def forward(z: Array, bias: Array | None, y: Array) -> None:
        if bias is not None:
            z += bias
        value(z, y)

    def backward(dy: Array, z: Array, bias: Array | None, y: Array, dbias: Array | None) -> None:
        derivative(dy, z, y)
        if dbias is not None:
            np.add.reduce(dy, axis=0, out=dbias)

    def optimiser(parameters: Array) -> Callable[[Array], Any]:
        adam = Adam(parameters.size)
        return lambda gradient: adam.step(parameters, gradient)

    return Functions(name, source, forward, backward, softmax_cross_entropy, optimiser, BatchNormalization)


class Stopwatch:
    """Adds up the time spent in the functions called through it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        start = time.perf_counter()
        result = function(*args)
        self.seconds += time.perf_counter() - start
        return result


class Layer:
    """What all layers share; `Network` gives each its views of the parameters and of their gradients."""

    shapes: tuple[tuple[int, ...], ...] = ()  # of the trainable parameters
    fixed = 0  # number of parameters that are not trained
    parameters: list[Array]
    gradient: list[Array]

    def __init__(self, units: int) -> None:
        self.units = units

    def initialise(self, rng: np.random.Generator) -> None:
        """Set the parameters; they are zero before."""


class Dense(Layer):
    """x @ kernel + bias, He-normal initialised.

    With `deferred`, the activation that follows adds the bias in training, and gives its gradient.
    """

    def __init__(
        self, inputs: int, units: int, batch_size: int, *, use_bias: bool = True, deferred: bool = False,
        first: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(units)
        self.use_bias, self.deferred, self.first = use_bias, deferred, first
        self.shapes = ((inputs, units), (units,)) if use_bias else ((inputs, units),)
        self.z = np.empty((batch_size, units), np.float32)
        self.dx = np.empty((batch_size, inputs), np.float32)
        self.transposed = np.empty((units, inputs), np.float32)

    def initialise(self, rng: np.random.Generator) -> None:
        # the divisor is the standard deviation of a normal distribution cut off at two standard deviations
        kernel = self.parameters[0]
        kernel[...] = truncated_normal(rng, kernel.shape) * (sqrt(2.0 / kernel.shape[0]) / 0.87962566103423978)

    def predict(self, x: Array) -> Array:
        z = x @ self.parameters[0]
        return z + self.parameters[1] if self.use_bias else z

    def forward(self, x: Array) -> Array:
        self.x = x
        z = np.matmul(x, self.parameters[0], out=self.z[: len(x)])
        if self.use_bias and not self.deferred:
            z += self.parameters[1]
        return z

    def backward(self, dz: Array) -> Array | None:
        np.matmul(self.x.T, dz, out=self.gradient[0])
        if self.use_bias and not self.deferred:
            np.add.reduce(dz, axis=0, out=self.gradient[1])
        if self.first:
            return None  # nobody asks for the gradient of the images
        # as a view 64 × 64 weights take OpenBLAS 9.6 µs, with the copy it is 6.4
        np.copyto(self.transposed, self.parameters[0].T)
        return np.matmul(dz, self.transposed, out=self.dx[: len(dz)])


class BatchNormalization(Layer):
    """gamma · (x - mean) / sqrt(variance + 1e-3) + beta; Ioffe and Szegedy 2015, arXiv:1502.03167."""

    epsilon, momentum = 1e-3, 0.99

    def __init__(self, units: int, batch_size: int) -> None:
        super().__init__(units)
        self.shapes = ((units,), (units,))
        self.fixed = 2 * units
        self.batch = np.empty((2, units), np.float32)  # mean and variance
        self.moving = np.stack([np.zeros(units, np.float32), np.ones(units, np.float32)])
        self.centred = np.empty((batch_size, units), np.float32)
        self.y = np.empty((batch_size, units), np.float32)

    def initialise(self, rng: np.random.Generator) -> None:
        self.parameters[0][...] = 1.0

    def predict(self, x: Array) -> Array:
        gamma, beta = self.parameters
        mean, variance = self.moving
        return (x - mean) * (gamma / np.sqrt(variance + self.epsilon)) + beta

    def forward(self, x: Array) -> Array:
        gamma, beta = self.parameters
        mean, variance = self.batch
        np.add.reduce(x, axis=0, out=mean)
        mean /= len(x)
        centred = np.subtract(x, mean, out=self.centred[: len(x)])
        np.einsum("ij,ij->j", centred, centred, out=variance)
        variance /= len(x)
        self.moving += (1 - self.momentum) * (self.batch - self.moving)
        self.inverse_std = 1 / np.sqrt(variance + self.epsilon)
        y = np.multiply(centred, gamma * self.inverse_std, out=self.y[: len(x)])
        y += beta
        return y

    def backward(self, dy: Array) -> Array:
        # dx = gamma / std · (dy - mean(dy) - x_hat · mean(dy · x_hat)), x_hat = centred / std
        gamma, _ = self.parameters
        dgamma, dbeta = self.gradient
        centred = self.centred[: len(dy)]
        np.einsum("ij,ij->j", dy, centred, out=dgamma)
        dgamma *= self.inverse_std
        np.add.reduce(dy, axis=0, out=dbeta)
        centred *= dgamma * self.inverse_std / len(dy)
        dy -= centred
        dy -= dbeta / len(dy)
        dy *= gamma * self.inverse_std
        return dy


class FusedBatchNormalization(BatchNormalization):
    """The same by fastact."""

    def forward(self, x: Array) -> Array:
        import fastact as fa

        self.x, (mean, variance) = x, self.moving
        running: dict[str, Any] = {"running_mean": mean, "running_var": variance, "momentum": self.momentum}
        y, self.stats = fa.batch_norm.forward(x, *self.parameters, eps=self.epsilon, out=self.y[: len(x)], **running)
        return y

    def backward(self, dy: Array) -> Array:
        import fastact as fa

        _, *gradient = fa.batch_norm.backward(dy, self.x, self.stats, *self.parameters, out=dy)
        for to, value in zip(self.gradient, gradient):
            to[...] = value
        return dy


class Activation(Layer):
    """y = f(z), in training with the bias of the layer before, if that leaves it."""

    def __init__(
        self, units: int, batch_size: int, functions: Functions, stopwatch: Stopwatch, before: Dense | None
    ) -> None:
        super().__init__(units)
        self.functions, self.stopwatch, self.before = functions, stopwatch, before
        self.y = np.empty((batch_size, units), np.float32)

    def predict(self, z: Array) -> Array:
        y = np.empty_like(z)
        self.functions.forward(z, None, y)
        return y

    def forward(self, z: Array) -> Array:
        self.z = z
        y = self.y[: len(z)]
        bias = self.before.parameters[1] if self.before else None
        self.stopwatch(self.functions.forward, z, bias, y)
        return y

    def backward(self, dy: Array) -> Array:
        bias, dbias = (self.before.parameters[1], self.before.gradient[1]) if self.before else (None, None)
        self.stopwatch(self.functions.backward, dy, self.z, bias, self.y[: len(dy)], dbias)
        return dy


class Network:
    """A stack of layers with a softmax cross-entropy loss.

    All parameters lie in one flat array and their gradients in another, so that the optimiser needs one pass, not one
    per layer.
    """

    def __init__(
        self, sizes: Sequence[int], functions: Functions, *, batch_norm: bool, batch_size: int, seed: int
    ) -> None:
        self.functions = functions
        self.stopwatch = Stopwatch()
        self.layers: list[Any] = []
        for inputs, units in pairwise(sizes[:-1]):
            biased = not batch_norm
            dense = Dense(inputs, units, batch_size, use_bias=biased, deferred=biased, first=not self.layers)
            self.layers.append(dense)
            if batch_norm:
                self.layers.append(functions.batch_norm(units, batch_size))
            before = dense if biased else None
            self.layers.append(Activation(units, batch_size, functions, self.stopwatch, before))
        self.layers.append(Dense(sizes[-2], sizes[-1], batch_size))

        count = sum(prod(shape) for layer in self.layers for shape in layer.shapes)
        self.parameters = np.zeros(count, np.float32)
        self.gradient = np.zeros(count, np.float32)
        rng = np.random.default_rng(seed)
        end = 0
        for layer in self.layers:
            layer.parameters, layer.gradient = [], []
            for shape in layer.shapes:
                start, end = end, end + prod(shape)
                layer.parameters.append(self.parameters[start:end].reshape(shape))
                layer.gradient.append(self.gradient[start:end].reshape(shape))
            layer.initialise(rng)

    def predict(self, x: Array) -> Array:
        """The logits, with batch normalisation by its moving averages."""
        for layer in self.layers:
            x = layer.predict(x)
        return x

    def accuracy(self, x: Array, labels: NDArray[np.intp]) -> float:
        """The share of right answers."""
        return float((self.predict(x).argmax(axis=1) == labels).mean())

    def loss_and_gradient(self, x: Array, labels: NDArray[np.intp]) -> float:
        """The mean cross-entropy of a batch; its gradient is then in `gradient`."""
        for layer in self.layers:
            x = layer.forward(x)
        loss = self.stopwatch(self.functions.loss, x, labels)
        dx = x
        for layer in reversed(self.layers):
            dx = layer.backward(dx)
        return loss


class Adam:
    """Kingma and Ba 2014, arXiv:1412.6980, with Keras' constants and its placement of epsilon."""

    learning_rate, beta_1, beta_2, epsilon = 1e-3, 0.9, 0.999, 1e-7

    def __init__(self, count: int) -> None:
        self.momentum = np.zeros(count, np.float32)
        self.velocity = np.zeros(count, np.float32)
        self.scratch = np.empty(count, np.float32)
        self.iterations = 0

    def step(self, parameters: Array, gradient: Array) -> None:
        """parameters -= alpha · momentum / (sqrt(velocity) + epsilon), both averages corrected by alpha."""
        self.iterations += 1
        alpha = self.learning_rate * sqrt(1 - self.beta_2**self.iterations) / (1 - self.beta_1**self.iterations)
        m, v, t = self.momentum, self.velocity, self.scratch
        np.subtract(gradient, m, out=t)
        t *= 1 - self.beta_1
        m += t
        np.square(gradient, out=t)
        t -= v
        t *= 1 - self.beta_2
        v += t
        np.sqrt(v, out=t)
        t += self.epsilon
        np.divide(m, t, out=t)
        t *= alpha
        parameters -= t


def truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Standard normal values, those beyond ±2 drawn again."""
    values = rng.standard_normal(shape, np.float32)
    while (outside := np.abs(values) > 2.0).any():
        values[outside] = rng.standard_normal(int(outside.sum()), np.float32)
    return values


def train_epoch(
    network: Network, step: Callable[[Array], Any], x: Array, labels: NDArray[np.intp], batch_size: int,
    rng: np.random.Generator,
) -> float:  # fmt: skip
    """One pass over the data in a new order; returns the mean loss. `step` is the optimiser's."""
    order = rng.permutation(len(x))
    x, labels = x.take(order, 0), labels.take(order)
    total = 0.0
    for start in range(0, len(x), batch_size):
        batch = slice(start, start + batch_size)
        total += network.loss_and_gradient(x[batch], labels[batch]) * len(labels[batch])
        step(network.gradient)
    return total / len(x)


SATURATED, DEAD = 0.05, 1e-3


def statistics(network: Network, x: Array, labels: NDArray[np.intp], batch_size: int) -> list[dict[str, float]]:
    """How well gradients pass each activation.

    Over all images: an output is saturated where abs(f') < 0.05; a unit is dead where abs(f') < 0.001 for every image.
    The gradient norm is that of the layer's kernel for the first `batch_size` images.
    """
    probe = copy.deepcopy(network)  # a pass in training mode moves the averages of batch normalisation
    probe.loss_and_gradient(x[:batch_size], labels[:batch_size])
    report = []
    for layer in probe.layers:
        y = layer.predict(x)
        if isinstance(layer, Dense):
            report.append({"gradient_norm": float(np.linalg.norm(layer.gradient[0]))})
        if isinstance(layer, Activation):
            slope = np.ones_like(y)
            layer.functions.backward(slope, x.copy(), None, y.copy(), None)
            np.abs(slope, out=slope)
            report[-1]["dead"] = float((slope < DEAD).all(axis=0).mean())
            report[-1]["saturated"] = float((slope < SATURATED).mean())
        x = y
    return report


@dataclass(frozen=True)
class Settings:
    """What `fastact demo` lets a user choose."""

    activation: str = "elu"
    hidden: tuple[int, ...] = (64, 64)
    batch_norm: bool = False
    epochs: int = 100
    batch_size: int = 64
    seed: int = 0


class Run:
    """One of the two trainings, and what it recorded."""

    def __init__(self, functions: Functions, sizes: Sequence[int], settings: Settings) -> None:
        self.network = Network(
            sizes, functions, batch_norm=settings.batch_norm, batch_size=settings.batch_size, seed=settings.seed
        )
        self.optimiser = Stopwatch()
        self.step = functions.optimiser(self.network.parameters)
        self.rng = np.random.default_rng(settings.seed)
        self.batch_size = settings.batch_size
        self.whole_loop: list[float] = []  # seconds of each epoch
        self.activations_and_loss: list[float] = []
        self.optimiser_steps: list[float] = []
        self.loss: list[float] = []
        self.layers: list[list[dict[str, float]]] = []

    def epoch(self, x: Array, labels: NDArray[np.intp]) -> None:
        self.network.stopwatch.seconds = self.optimiser.seconds = 0.0

        def step(gradient: Array) -> None:
            self.optimiser(self.step, gradient)

        start = time.perf_counter()
        loss = train_epoch(self.network, step, x, labels, self.batch_size, self.rng)
        self.whole_loop.append(time.perf_counter() - start)
        self.activations_and_loss.append(self.network.stopwatch.seconds)
        self.optimiser_steps.append(self.optimiser.seconds)
        self.loss.append(loss)
        self.layers.append(statistics(self.network, x, labels, self.batch_size))


@dataclass(frozen=True)
class Result:
    """What `compare` found."""

    settings: Settings
    runs: dict[str, Run]
    test_accuracy: dict[str, float]
    first_calls: float

    def fastest_epoch(self, name: str) -> dict[str, float]:
        """Seconds of a run's fastest epoch, split. Other programs only ever make an epoch slower; sums contain that."""
        run = self.runs[name]
        epochs = zip(run.whole_loop, run.activations_and_loss, run.optimiser_steps, strict=True)
        whole, activations, optimiser = min(epochs)
        rest = whole - activations - optimiser
        return {
            "activations_and_loss": activations,
            "optimiser": optimiser,
            "everything_else": rest,
            "whole_loop": whole,
        }

    def ratio(self) -> dict[str, float]:
        """NumPy's fastest epoch over fastact's."""
        plain, fast = self.fastest_epoch("numpy"), self.fastest_epoch("fastact")
        return {part: plain[part] / fast[part] for part in plain}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        from fastact import __version__

        return {
            "fastact": __version__,
            "numpy": np.__version__,
            "settings": asdict(self.settings),
            "runs": {
                name: {
                    "test_accuracy": self.test_accuracy[name],
                    "seconds": sum(run.whole_loop),
                    "fastest_epoch_seconds": self.fastest_epoch(name),
                    "loss": [loss if isfinite(loss) else None for loss in run.loss],
                    "layers": run.layers,
                }
                for name, run in self.runs.items()
            },
            "ratio": self.ratio(),
            "first_calls_seconds": self.first_calls,
        }


def compare(settings: Settings, progress: Callable[[str, Run], None] = lambda name, run: None) -> Result:
    """Train with plain NumPy and with fastact from the same seed.

    The runs take turns, epoch by epoch, so that a busy machine slows both alike. Each has a run to warm up before: for
    fastact, that compiles the kernels or loads them from the cache, and is reported as `first_calls`.

    Parameters
    ----------
    settings : Settings
        The network and its training.
    progress : callable
        Called after each epoch with the name of a run, and the run.

    Returns
    -------
    Result
        Accuracies, times, losses and statistics of both runs.

    Examples
    --------
    >>> result = compare(Settings(hidden=(16,), epochs=2))
    >>> sorted(result.runs)
    ['fastact', 'numpy']
    """
    (x, labels), (test_x, test_labels) = load_digits()
    sizes = (x.shape[1], *settings.hidden, CLASSES)

    with np.errstate(over="ignore", invalid="ignore"):  # an unbounded activation may diverge; the loss shows it
        functions = {"numpy": numpy_functions(settings.activation)}
        Run(functions["numpy"], sizes, settings).epoch(x, labels)
        start = time.perf_counter()
        functions["fastact"] = fastact_functions(settings.activation)
        Run(functions["fastact"], sizes, settings).epoch(x, labels)
        first_calls = time.perf_counter() - start

        runs = {name: Run(f, sizes, settings) for name, f in functions.items()}
        for epoch in range(settings.epochs):
            for name in sorted(runs, reverse=epoch % 2 == 0):
                runs[name].epoch(x, labels)
                progress(name, runs[name])
        accuracy = {name: run.network.accuracy(test_x, test_labels) for name, run in runs.items()}
    return Result(settings, runs, accuracy, first_calls)


def summary(network: Network) -> Any:
    """The layers of a network and their numbers of parameters, as a rich table."""
    from rich.table import Table

    table = Table(title="Model", title_justify="left", show_footer=True)
    rows = []
    for layer in network.layers:
        trained = sum(prod(shape) for shape in layer.shapes)
        kind = type(layer).__name__
        if isinstance(layer, Activation):
            kind += f" ({layer.functions.name})"
        rows.append((kind, f"(None, {layer.units})", trained, layer.fixed))
    rows.append(("Softmax", f"(None, {CLASSES})", 0, 0))
    trained, fixed = sum(row[2] for row in rows), sum(row[3] for row in rows)
    table.add_column("layer", footer="total")
    table.add_column("output shape")
    table.add_column("parameters", justify="right", footer=f"{trained + fixed:,}")
    if fixed:
        table.columns[0].footer = "total\ntrained\nmoving averages"
        table.columns[2].footer = f"{trained + fixed:,}\n{trained:,}\n{fixed:,}"
    for kind, shape, t, f in rows:
        table.add_row(kind, shape, f"{t + f:,}")
    return table


def report(result: Result) -> Any:
    """Accuracies, times and ratios, as a rich table."""
    from rich.table import Table

    table = Table(title="Result", title_justify="left")
    table.add_column("")
    for heading in ("plain NumPy", "fastact", "ratio"):
        table.add_column(heading, justify="right")
    names = ("numpy", "fastact")
    table.add_row("test accuracy", *(f"{100 * result.test_accuracy[name]:.1f} %" for name in names), "")
    totals = [sum(result.runs[name].whole_loop) for name in names]
    label = f"whole training, {result.settings.epochs} epochs"
    table.add_row(label, *(f"{t:.2f} s" for t in totals), f"{totals[0] / totals[1]:.2f}×", end_section=True)
    table.add_row("fastest epoch")
    for part, ratio in result.ratio().items():
        times = (f"{1e3 * result.fastest_epoch(name)[part]:.2f} ms" for name in names)
        note = " (same code)" if part == "everything_else" else ""
        table.add_row(f"  {part.replace('_', ' ')}{note}", *times, f"{ratio:.2f}×")
    return table


def picture(result: Result) -> Any:
    """The losses of both runs, and the statistics of fastact's, layer by layer, as a figure of matplotlib."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(12, 7), layout="constrained")
    figure.suptitle(f"{result.settings.activation}, hidden layers {', '.join(map(str, result.settings.hidden))}")
    axes = figure.subplots(2, 2)
    epochs = range(1, result.settings.epochs + 1)
    marker = "o" if len(epochs) == 1 else ""  # a line through one point is nothing
    for (name, run), style in zip(result.runs.items(), ("-", "--"), strict=True):
        axes[0, 0].plot(epochs, run.loss, style, marker=marker, label=name)
    scale = "log" if len(epochs) > 1 else "linear"
    axes[0, 0].set(title="training loss", yscale=scale)
    layers = result.runs["fastact"].layers
    panels = (
        (axes[0, 1], "gradient_norm", f"gradient norm (first {result.settings.batch_size} images)"),
        (axes[1, 0], "dead", f"share of dead units (|f'| < {DEAD} for every image)"),
        (axes[1, 1], "saturated", f"share of saturated outputs (|f'| < {SATURATED})"),
    )
    for axis, key, title in panels:
        for i in range(len(layers[0])):
            if key in layers[0][i]:
                label = "output layer" if i == len(layers[0]) - 1 else f"layer {i + 1}"
                axis.plot(epochs, [epoch[i][key] for epoch in layers], marker=marker, label=label)
        axis.set(title=title)
        if key == "gradient_norm":
            axis.set_yscale(scale)
        else:
            axis.set_ylim(-0.02, 1.02)
    for axis in axes.flat:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if axis.lines:
            axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))  # beside the lines, not over them
    return figure


def run(settings: Settings, plot_path: str | None = None, as_json: bool = False) -> int:
    """``fastact demo``: train, show progress, print the result."""
    import json

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=as_json)
    (x, _), (test_x, _) = load_digits()
    console.print(f"UCI handwritten digits: {len(x)} images to train, {len(test_x)} to test")
    sizes = (x.shape[1], *settings.hidden, CLASSES)
    plain = numpy_functions(settings.activation)
    console.print(summary(Run(plain, sizes, settings).network))
    columns = (
        TextColumn("{task.description:>11}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
    )
    # drawn between epochs, never by a thread beside them
    drawn = [0.0]
    with Progress(*columns, console=console, auto_refresh=False) as bars:
        tasks = {
            name: bars.add_task(label, total=settings.epochs, status="warming up")
            for name, label in (("numpy", "plain NumPy"), ("fastact", "fastact"))
        }

        def progress(name: str, run: Run) -> None:
            status = f"loss {run.loss[-1]:.4f}  {sum(run.whole_loop):.2f} s"
            bars.update(tasks[name], completed=len(run.loss), status=status)
            if bars.get_time() > drawn[0] + 0.05:
                bars.refresh()
                drawn[0] = bars.get_time()

        result = compare(settings, progress)
    console.print(report(result))
    console.print(f"plain NumPy computes {settings.activation} by {plain.source}")
    console.print(f"fastact's first calls, not in the times above: {result.first_calls:.2f} s")
    if dispatch.backend() == "reference":
        console.print("fastact ran on NumPy alone, its reference backend; `fastact info` says what kernels lack")
    if not all(isfinite(run.loss[-1]) for run in result.runs.values()):
        console.print(f"The training diverged: {settings.activation} does not fit this network and learning rate.")
    if plot_path is not None:
        picture(result).savefig(plot_path)
        console.print(f"plot: {plot_path}")
    if as_json:
        print(json.dumps(result.as_dict(), indent=2))
    return 0
