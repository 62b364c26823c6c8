"""Batch norm, then ELU, for ``fastact bench``: how each library computes them and their gradients, in its best form.

Kind "forward" takes the statistics of the batch; "step" is forward and backward: the value, then the gradients of x,
weight and bias.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

import fastact as fa
from fastact.tools import losses
from fastact.tools.norms import EPS, NormCell, norm_cell
from fastact.tools.peers import BLOCK, Cell, Form, Peer

OPS = ("batch_norm_elu",)


class ChannelCell(NormCell):
    """A norm over the first axis of x, then ELU."""

    @property
    def centred(self) -> bool:
        return True


def channel_cell(op: str, kind: str, arrays: list[np.ndarray], rng: np.random.Generator) -> ChannelCell:
    """Of x, dy, y, out, scratch, dx."""
    made = norm_cell("layer_norm", kind, arrays, rng)
    fields = {name: getattr(made, name) for name in made.__dataclass_fields__}
    cell = ChannelCell(**{**fields, "op": op, "expected": ()})
    return replace(cell, expected=textbook(cell))


def textbook(cell: ChannelCell) -> tuple[np.ndarray, ...]:
    """In float64: the first rows, and all of what is a sum over rows."""
    weight, bias = cell.weight.astype(np.float64), cell.bias.astype(np.float64)
    count, rows = len(cell.x), max(1, BLOCK // cell.x.shape[1])
    cuts = [slice(i, i + rows) for i in range(0, count, rows)]
    mean = sum(cell.x[cut].sum(0, dtype=np.float64) for cut in cuts) / count
    s = np.sqrt(sum(((cell.x[cut] - mean) ** 2).sum(0) for cut in cuts) / count + EPS)

    def of(cut: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        h = (cell.x[cut] - mean) / s
        z = h * weight + bias
        return (
            h,
            np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
            cell.dy[cut] * np.where(z > 0, 1.0, np.exp(np.minimum(z, 0))),
        )

    h, y, dz = of(cuts[0])
    if cell.kind == "forward":
        return (y,)
    parts = [of(cut) for cut in cuts]
    dweight, dbias = sum((d * n).sum(0) for n, _, d in parts), sum(d.sum(0) for _, _, d in parts)
    dx = weight / s * (dz - dbias / count - h * (dweight / count))
    return y, dx, dweight, dbias


def fastact(library: Peer, cell: ChannelCell) -> dict[str, Form]:
    f = fa.batch_norm
    given: dict[str, Any] = {"activation": "elu"}
    if cell.kind == "forward":
        return {"out=": lambda: f.forward(cell.x, *cell.columns, eps=EPS, out=cell.out, activation="elu")[0]}

    def step() -> tuple[Any, ...]:
        y, stats = f.forward(cell.x, *cell.columns, eps=EPS, out=cell.out, **given)
        return y, *f.backward(cell.dy, cell.x, stats, *cell.columns, out=cell.dx, **given)

    return {"out=": step}


def numpy(library: Peer, cell: ChannelCell) -> dict[str, Form]:
    # every step with out=
    z, negative = np.empty_like(cell.x), np.empty_like(cell.x)
    count = cell.x.dtype.type(len(cell.x))

    def call() -> Any:
        y, h = cell.out, cell.y
        np.subtract(cell.x, cell.x.mean(0), out=h)
        s = np.sqrt(np.einsum("ij,ij->j", h, h) / count + cell.x.dtype.type(EPS))
        h /= s
        np.multiply(h, cell.weight, out=z)
        np.add(z, cell.bias, out=z)
        np.minimum(z, 0, out=negative)
        np.expm1(negative, out=negative)
        np.maximum(z, 0, out=y)
        np.add(y, negative, out=y)
        if cell.kind == "step":
            # elu' is exp of the negative part
            dx = cell.dx
            np.add(negative, 1, out=negative)
            np.multiply(cell.dy, negative, out=dx)
            np.einsum("ij,ij->j", dx, h, out=cell.dweight)
            np.sum(dx, 0, out=cell.dbias)
            h *= cell.dweight / count
            dx -= h
            dx -= cell.dbias / count
            dx *= cell.weight / s
        return cell.results

    return {"ufuncs": call}


def torch(library: Any, cell: ChannelCell, compiled: Callable[[Callable], Callable] = lambda f: f) -> dict[str, Form]:
    t = library.torch
    x, dy, *columns = map(t.from_numpy, (cell.x, cell.dy, *cell.columns))

    def f(x: Any, weight: Any, bias: Any) -> Any:
        return t.nn.functional.elu(
            t.nn.functional.batch_norm(x, None, None, weight, bias, True, 0.1, EPS), inplace=True
        )

    f = compiled(f)
    if cell.kind == "forward":
        return {"functional": partial(f, x, *columns)}
    leaves = [a.clone().requires_grad_() for a in (x, *columns)]

    def step() -> tuple[Any, ...]:
        y = f(*leaves)
        return y, *t.autograd.grad(y, leaves, dy)

    return {"autograd": step}


def torch_compile(library: Any, cell: ChannelCell) -> dict[str, Form]:
    return torch(library, cell, partial(library.torch.compile, dynamic=False))


def jax(library: Any, cell: ChannelCell) -> dict[str, Form]:
    jax, jnp = library.jax, library.jax.numpy
    if cell.x.dtype == np.float64:
        jax.config.update("jax_enable_x64", True)

    def forward(x: Any, weight: Any, bias: Any) -> Any:
        d = x - jnp.mean(x, 0)
        return jax.nn.elu(d / jnp.sqrt(jnp.mean(d * d, 0) + EPS) * weight + bias)

    def step(dy: Any, *args: Any) -> tuple[Any, ...]:
        y, gradients = jax.vjp(forward, *args)
        return y, *gradients(dy)

    given = tuple(map(jax.device_put, (cell.x, *cell.columns)))
    if cell.kind == "forward":
        return dict(library.jitted("jit", forward, given, cell.results))
    return dict(library.jitted("jit", step, (jax.device_put(cell.dy), *given), cell.results))


def tensorflow(library: Any, cell: ChannelCell) -> dict[str, Form]:
    tf = library.tf

    def forward(x: Any, weight: Any, bias: Any) -> Any:
        # as Keras does it
        mean, variance = tf.nn.moments(x, 0)
        return tf.nn.elu(tf.nn.batch_normalization(x, mean, variance, bias, weight, EPS))

    def step(dy: Any, *args: Any) -> tuple[Any, ...]:
        with tf.GradientTape() as tape:
            tape.watch(args)
            y = forward(*args)
        return y, *tape.gradient(y, args, dy)

    if cell.kind == "forward":
        return dict(library.ways(forward, (cell.x, *cell.columns)))
    return dict(library.ways(step, (cell.dy, cell.x, *cell.columns)))


# ONNX Runtime takes the statistics of a batch in its training build only
FORMS: Mapping[str, Callable[[Any, ChannelCell], dict[str, Form]]] = {
    "fastact": fastact,
    "numpy": numpy,
    "torch": torch,
    "torch.compile": torch_compile,
    "jax": jax,
    "tensorflow": tensorflow,
}


def forms_of(library: Peer, cell: Cell) -> dict[str, Form]:
    """A library's ways to compute a cell, whatever it is of."""
    if not isinstance(cell, ChannelCell):
        return losses.forms_of(library, cell)
    if library.name == "stream":
        return library.forms(cell)
    return FORMS.get(library.name, lambda *_: {})(library, cell)
