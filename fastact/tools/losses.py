"""Losses for ``fastact bench``: how each library computes them and their gradient, in its best form.

``cross_entropy`` is the mean softmax cross-entropy of rows with a label each, with label smoothing; those of
ELEMENTWISE are the mean over all elements, with a target each. Kind "step" is the loss and its gradient by the first
array.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

import fastact as fa
from fastact.tools import norms
from fastact.tools.peers import BLOCK, Cell, Form, Peer, in_turn
from fastact.tools.verify_rows import CASES

SMOOTHING = 0.1


def np_mse(x: np.ndarray, t: np.ndarray, out: np.ndarray, scratch: np.ndarray) -> None:
    np.subtract(x, t, out=out)
    np.multiply(out, out, out=scratch)
    out *= 2


def np_l1(x: np.ndarray, t: np.ndarray, out: np.ndarray, scratch: np.ndarray) -> None:
    np.subtract(x, t, out=out)
    np.abs(out, out=scratch)
    np.sign(out, out=out)


def np_huber(x: np.ndarray, t: np.ndarray, out: np.ndarray, scratch: np.ndarray) -> None:
    # c·(d - c/2) with c = d, cut off at -1 and 1: d²/2 within, |d| - 1/2 beyond
    np.subtract(x, t, out=scratch)
    np.clip(scratch, -1, 1, out=out)
    scratch -= 0.5 * out
    scratch *= out


def np_kl(x: np.ndarray, t: np.ndarray, out: np.ndarray, scratch: np.ndarray) -> None:
    np.log(t, out=scratch)
    scratch -= x
    scratch *= t
    np.negative(t, out=out)


def np_sigmoid_cross_entropy(x: np.ndarray, t: np.ndarray, out: np.ndarray, scratch: np.ndarray) -> None:
    # log(1 + e^-|x|) + max(x, 0) - t·x, and (1 + tanh(x/2))/2 - t
    np.abs(x, out=scratch)
    np.negative(scratch, out=scratch)
    np.exp(scratch, out=scratch)
    np.log1p(scratch, out=scratch)
    scratch += np.maximum(x, 0, out=out)
    scratch -= np.multiply(t, x, out=out)
    np.multiply(x, 0.5, out=out)
    np.tanh(out, out=out)
    out *= 0.5
    out += 0.5
    out -= t


@dataclass(frozen=True)
class Elementwise:
    """How others compute a loss of elements.

    Attributes
    ----------
    steps : callable
        NumPy's: of x, targets, memory for the gradient of the sum, and for the losses.
    torch : str
        PyTorch's function.
    define : callable
        The loss of an element, of a namespace such as jax.numpy, x and the target.
    """

    steps: Callable[..., None]
    torch: str
    define: Callable[[Any, Any, Any], Any]


ELEMENTWISE: dict[str, Elementwise] = {
    "mse_loss": Elementwise(np_mse, "mse_loss", lambda m, x, t: m.square(x - t)),
    "l1_loss": Elementwise(np_l1, "l1_loss", lambda m, x, t: m.abs(x - t)),
    "huber_loss": Elementwise(
        np_huber,
        "huber_loss",
        lambda m, x, t: m.where(m.abs(x - t) <= 1, m.square(x - t) / 2, m.abs(x - t) - 0.5),
    ),
    "kl_div": Elementwise(np_kl, "kl_div", lambda m, x, t: t * (m.log(t) - x)),
    "sigmoid_cross_entropy": Elementwise(
        np_sigmoid_cross_entropy,
        "binary_cross_entropy_with_logits",
        lambda m, x, t: m.maximum(x, 0) - t * x + m.log1p(m.exp(-m.abs(x))),
    ),
}
OPS = ("cross_entropy", *ELEMENTWISE)


@dataclass
class LossCell(Cell):
    """The loss of the rows of x, in `value`; its gradient goes to `out`. Labels, or targets of the shape of x."""

    labels: np.ndarray
    value: np.ndarray
    expected: tuple[np.ndarray, ...] = ()  # in float64; of the gradient the first rows

    @property
    def results(self) -> tuple[np.ndarray, ...]:
        return (self.value,) if self.kind == "forward" else (self.value, self.out)

    @property
    def streams(self) -> int:
        """How many arrays of the size of x must be read or written."""
        return (1 if self.kind == "forward" else 2) + (self.labels.size == self.x.size)


def loss_cell(op: str, kind: str, arrays: list[np.ndarray], rng: np.random.Generator) -> LossCell:
    """Of x, dy, y, out, scratch."""
    x, dy, y, out, scratch, *_ = arrays
    labels = rng.integers(0, x.shape[1], len(x))
    if op in ELEMENTWISE:
        labels = y
        # within (0, 1): kl_div takes their logarithm
        np.clip(rng.random(x.shape), 2**-10, 1 - 2**-10, out=labels, casting="unsafe")
    cell = LossCell(op, kind, x, dy, y, out, scratch, labels, np.empty((), x.dtype))
    return replace(cell, expected=(textbook_of_elements if op in ELEMENTWISE else textbook)(cell))


def textbook_of_elements(cell: LossCell) -> tuple[np.ndarray, ...]:
    """In float64: the loss, and the first rows of the gradient."""
    rows = max(1, BLOCK // cell.x.shape[1])
    total, first = 0.0, None
    for start in range(0, len(cell.x), rows):
        x, t = (a[start : start + rows].astype(np.float64) for a in (cell.x, cell.labels))
        found = CASES[cell.op].truth(x, t, x, 0.0)
        total += float(found["forward"][0].sum())
        if first is None:
            first = found["backward"][0] / cell.x.size
    loss = np.array(total / cell.x.size)
    return (loss,) if cell.kind == "forward" else (loss, first)  # type: ignore[return-value]


def textbook(cell: LossCell) -> tuple[np.ndarray, ...]:
    """In float64: the loss, and the first rows of the gradient."""
    rows, classes = max(1, BLOCK // cell.x.shape[1]), cell.x.shape[1]
    total, first = 0.0, None
    for start in range(0, len(cell.x), rows):
        x, labels = cell.x[start : start + rows].astype(np.float64), cell.labels[start : start + rows]
        x -= x.max(-1, keepdims=True)
        logs = x - np.log(np.exp(x).sum(-1, keepdims=True))
        targets = np.full_like(x, SMOOTHING / classes)
        targets[np.arange(len(x)), labels] += 1 - SMOOTHING
        total -= (targets * logs).sum()
        if first is None:
            first = (np.exp(logs) - targets) / len(cell.x)
    loss = np.array(total / len(cell.x))
    return (loss,) if cell.kind == "forward" else (loss, first)  # type: ignore[return-value]


def fastact(library: Peer, cell: LossCell) -> dict[str, Form]:
    if cell.op in ELEMENTWISE:
        of = getattr(fa, cell.op)
        if cell.kind == "forward":
            return {"call": partial(of, cell.x, cell.labels)}
        return {"out=": partial(of.value_and_grad, cell.x, cell.labels, out=cell.out)}
    f = fa.softmax_cross_entropy
    if cell.kind == "forward":
        return {"call": partial(f, cell.x, cell.labels, label_smoothing=SMOOTHING)}
    return {"out=": partial(f.value_and_grad, cell.x, cell.labels, label_smoothing=SMOOTHING, out=cell.out)}


def numpy_of_elements(cell: LossCell) -> dict[str, Form]:
    steps, size = ELEMENTWISE[cell.op].steps, cell.x.size

    def over(rows: int) -> Form:
        cuts = [slice(i, i + rows) for i in range(0, len(cell.x), rows)]
        # a block's losses stay in the cache, and its gradient is written once
        scratch = cell.scratch[:rows]

        def call() -> tuple[np.ndarray, ...]:
            total = 0.0
            for cut in cuts:
                x, t, out = (a[cut] for a in (cell.x, cell.labels, cell.out))
                losses = scratch[: len(x)]
                steps(x, t, out, losses)
                if cell.kind == "step":
                    out /= size
                total += float(losses.sum())
            cell.value[...] = total / size
            return cell.results

        return call

    rows = max(1, BLOCK // cell.x.shape[1])
    found = {"ufuncs": over(len(cell.x))}
    return found | ({"ufuncs, in blocks": over(rows)} if rows < len(cell.x) else {})


def numpy(library: Peer, cell: LossCell) -> dict[str, Form]:
    if cell.op in ELEMENTWISE:
        return numpy_of_elements(cell)
    # -log p = log(sum) - x + max; what is spread over all classes needs the mean of x alone
    classes, count = cell.x.shape[1], len(cell.x)
    losses = np.empty(count, cell.x.dtype)

    def part(x: np.ndarray, out: np.ndarray, labels: np.ndarray, losses: np.ndarray) -> None:
        at = np.arange(len(x)), labels
        np.subtract(x, x.max(-1, keepdims=True), out=out)
        np.mean(out, -1, out=losses)
        losses *= -SMOOTHING
        losses -= (1 - SMOOTHING) * out[at]
        np.exp(out, out=out)
        total = out.sum(-1, keepdims=True)
        losses += np.log(total[:, 0])
        if cell.kind == "step":
            total *= count
            out /= total
            out -= SMOOTHING / classes / count
            out[at] -= (1 - SMOOTHING) / count

    def over(rows: int) -> Form:
        cuts = [slice(i, i + rows) for i in range(0, count, rows)]
        arrays = cell.x, cell.out, cell.labels, losses
        calls: list[Form] = [partial(part, *(a[cut] for a in arrays)) for cut in cuts]
        return in_turn([*calls, partial(np.mean, losses, out=cell.value)], cell.results)

    rows = max(1, BLOCK // classes)
    return {"ufuncs": over(count)} | ({"ufuncs, in blocks": over(rows)} if rows < count else {})


def torch(library: Any, cell: LossCell, compiled: Callable[[Callable], Callable] = lambda f: f) -> dict[str, Form]:
    t = library.torch
    x, labels = t.from_numpy(cell.x), t.from_numpy(cell.labels)
    if cell.op in ELEMENTWISE:
        function = getattr(t.nn.functional, ELEMENTWISE[cell.op].torch)

        def of_batch(x: Any, targets: Any) -> Any:
            # what kl_div's "mean" divides by will change
            return function(x, targets, reduction="sum") / x.numel()

        f = compiled(of_batch if cell.op == "kl_div" else partial(function, reduction="mean"))
    else:
        f = compiled(partial(t.nn.functional.cross_entropy, label_smoothing=SMOOTHING))
    if cell.kind == "forward":
        return {"functional": partial(f, x, labels)}
    leaf = x.clone().requires_grad_()

    def step() -> tuple[Any, ...]:
        loss = f(leaf, labels)
        return loss, *t.autograd.grad(loss, leaf)

    return {"autograd": step}


def torch_compile(library: Any, cell: LossCell) -> dict[str, Form]:
    return torch(library, cell, partial(library.torch.compile, dynamic=False))


def jax(library: Any, cell: LossCell) -> dict[str, Form]:
    jax, jnp = library.jax, library.jax.numpy
    if cell.x.dtype == np.float64:
        jax.config.update("jax_enable_x64", True)

    def forward(x: Any, labels: Any) -> Any:
        of_label = jnp.take_along_axis(x, labels[:, None], 1)[:, 0]
        total = jax.nn.logsumexp(x, axis=-1)
        return (total - (1 - SMOOTHING) * of_label - SMOOTHING * x.mean(-1)).mean()

    def of_elements(x: Any, t: Any) -> Any:
        return ELEMENTWISE[cell.op].define(jnp, x, t).mean()

    loss = of_elements if cell.op in ELEMENTWISE else forward
    f = loss if cell.kind == "forward" else jax.value_and_grad(loss)
    return dict(library.jitted("jit", f, tuple(map(jax.device_put, (cell.x, cell.labels))), cell.results))


def tensorflow(library: Any, cell: LossCell) -> dict[str, Form]:
    if cell.op in ELEMENTWISE:
        return {}
    tf = library.tf
    classes = cell.x.shape[1]

    def sparse(x: Any, labels: Any) -> Any:
        # the loss of the label, and what its logit lacks to the mean of all
        each = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, x)
        gap = tf.gather(x, labels, batch_dims=1) - tf.reduce_mean(x, -1)
        return tf.reduce_mean(each + SMOOTHING * gap)

    def dense(x: Any, labels: Any) -> Any:
        # as Keras does it
        targets = tf.one_hot(labels, classes, 1 - SMOOTHING + SMOOTHING / classes, SMOOTHING / classes, dtype=x.dtype)
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, x))

    def step(forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Any, labels: Any) -> tuple[Any, Any]:
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = forward(x, labels)
            return loss, tape.gradient(loss, x)

        return call

    found: dict[str, Form] = {}
    for forward in (sparse, dense):
        fn = forward if cell.kind == "forward" else step(forward)
        ways = library.ways(fn, (cell.x, cell.labels))
        found |= {f"{forward.__name__}, {name}": form for name, form in ways.items()}
    return found


def onnxruntime(library: Any, cell: LossCell) -> dict[str, Form]:
    if cell.kind != "forward" or cell.op in ELEMENTWISE:
        return {}
    constant = {"value_float": SMOOTHING}, {"value_float": 1 - SMOOTHING}
    nodes: list[tuple] = [
        ("LogSoftmax", "x", "logs", {"axis": -1}),
        ("NegativeLogLikelihoodLoss", "logs labels", "loss", {"reduction": "mean"}),
        ("ReduceMean", "logs", "mean", {"keepdims": 0}),
        ("Constant", "", "spread", constant[0]),
        ("Constant", "", "rest", constant[1]),
        ("Mul", "loss rest", "a", {}),
        ("Mul", "mean spread", "b", {}),
        ("Sub", "a b", "y", {}),
    ]
    inputs = {"x": cell.x, "labels": cell.labels}
    return dict(library.models([("NegativeLogLikelihoodLoss", nodes)], cell, inputs))


FORMS: Mapping[str, Callable[[Any, LossCell], dict[str, Form]]] = {
    "fastact": fastact,
    "numpy": numpy,
    "torch": torch,
    "torch.compile": torch_compile,
    "jax": jax,
    "tensorflow": tensorflow,
    "onnxruntime": onnxruntime,
}


def forms_of(library: Peer, cell: Cell) -> dict[str, Form]:
    """A library's ways to compute a cell, whatever it is of."""
    if not isinstance(cell, LossCell):
        return norms.forms_of(library, cell)
    if library.name == "stream":
        return library.forms(cell)
    return FORMS.get(library.name, lambda *_: {})(library, cell)
