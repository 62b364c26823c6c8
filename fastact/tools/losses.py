"""Losses for ``fastact bench``: how each library computes them and their gradient, in its best form.

``cross_entropy`` is the mean softmax cross-entropy of rows with a label each, with label smoothing. Kind "step" is the
loss and its gradient by the logits.
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

OPS = ("cross_entropy",)
SMOOTHING = 0.1


@dataclass
class LossCell(Cell):
    """The loss of the rows of x, in `value`; its gradient goes to `out`."""

    labels: np.ndarray
    value: np.ndarray
    expected: tuple[np.ndarray, ...] = ()  # in float64; of the gradient the first rows

    @property
    def results(self) -> tuple[np.ndarray, ...]:
        return (self.value,) if self.kind == "forward" else (self.value, self.out)

    @property
    def streams(self) -> int:
        """How many arrays of the size of x must be read or written."""
        return 1 if self.kind == "forward" else 2


def loss_cell(op: str, kind: str, arrays: list[np.ndarray], rng: np.random.Generator) -> LossCell:
    """Of x, dy, y, out, scratch."""
    x, dy, y, out, scratch, *_ = arrays
    cell = LossCell(op, kind, x, dy, y, out, scratch, rng.integers(0, x.shape[1], len(x)), np.empty((), x.dtype))
    return replace(cell, expected=textbook(cell))


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
    f = fa.softmax_cross_entropy
    if cell.kind == "forward":
        return {"call": partial(f, cell.x, cell.labels, label_smoothing=SMOOTHING)}
    return {"out=": partial(f.value_and_grad, cell.x, cell.labels, label_smoothing=SMOOTHING, out=cell.out)}


def numpy(library: Peer, cell: LossCell) -> dict[str, Form]:
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

    f = forward if cell.kind == "forward" else jax.value_and_grad(forward)
    return dict(library.jitted("jit", f, tuple(map(jax.device_put, (cell.x, cell.labels))), cell.results))


def tensorflow(library: Any, cell: LossCell) -> dict[str, Form]:
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
    if cell.kind != "forward":
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
