"""Norms for ``fastact bench``: how each library computes them and their gradients, in its best form.

Kind "step" is forward and backward: the value, then the gradients of x, weight and, of layer norm, bias.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

import fastact as fa
from fastact.tools import optimisers
from fastact.tools.peers import BLOCK, Cell, Form, Peer, normal

OPS = ("layer_norm", "rms_norm")
EPS = 1e-5


@dataclass
class NormCell(Cell):
    """A norm over the last axis of x."""

    weight: np.ndarray
    bias: np.ndarray
    dx: np.ndarray
    dweight: np.ndarray
    dbias: np.ndarray
    expected: tuple[np.ndarray, ...] = ()  # the first rows of the results in float64

    @property
    def centred(self) -> bool:
        return self.op == "layer_norm"

    @property
    def columns(self) -> tuple[np.ndarray, ...]:
        return (self.weight, self.bias) if self.centred else (self.weight,)

    @property
    def results(self) -> tuple[np.ndarray, ...]:
        if self.kind == "forward":
            return (self.out,)
        return (self.out, self.dx, self.dweight, self.dbias)[: 4 if self.centred else 3]

    @property
    def streams(self) -> int:
        """How many arrays of the size of x must be read or written."""
        return 2 if self.kind == "forward" else 4


def norm_cell(op: str, kind: str, arrays: list[np.ndarray], rng: np.random.Generator) -> NormCell:
    """Of x, dy, y, out, scratch, dx."""
    n, dtype = arrays[0].shape[1], arrays[0].dtype
    weight, bias = (normal(rng, n, dtype) for _ in range(2))
    x, dy, y, out, scratch, dx, *_ = arrays
    cell = NormCell(op, kind, x, dy, y, out, scratch, weight, bias, dx, np.empty(n, dtype), np.empty(n, dtype))
    return replace(cell, expected=textbook(cell))


def textbook(cell: NormCell) -> tuple[np.ndarray, ...]:
    """In float64: the first rows, and all of what is a sum over rows."""
    weight, bias = cell.weight.astype(np.float64), cell.bias.astype(np.float64)
    rows, total = max(1, BLOCK // cell.x.shape[1]), [0.0, 0.0]
    for start in range(0, len(cell.x), rows):
        x, dy = (a[start : start + rows].astype(np.float64) for a in (cell.x, cell.dy))
        d = x - x.mean(-1, keepdims=True) if cell.centred else x
        s = np.sqrt((d * d).mean(-1, keepdims=True) + EPS)
        h = d / s
        if start == 0:
            g = dy * weight
            inner = (g * h).mean(-1, keepdims=True)
            first = h * weight + bias * cell.centred, (g - g.mean(-1, keepdims=True) * cell.centred - h * inner) / s
            if cell.kind == "forward":
                return first[:1]
        total[0] = total[0] + (dy * h).sum(0)
        total[1] = total[1] + dy.sum(0)
    return (*first, *total)[: 4 if cell.centred else 3]  # type: ignore[return-value]


def fastact(library: Peer, cell: NormCell) -> dict[str, Form]:
    f = getattr(fa, cell.op)
    if cell.kind == "forward":
        return {"out=": partial(f, cell.x, *cell.columns, eps=EPS, out=cell.out)}

    def step() -> tuple[Any, ...]:
        y, stats = f.forward(cell.x, *cell.columns, eps=EPS, out=cell.out)
        return (y, *f.backward(cell.dy, cell.x, stats, *cell.columns, out=cell.dx))[: len(cell.results)]

    return {"out=": step}


def numpy(library: Peer, cell: NormCell) -> dict[str, Form]:
    # every step with out=; in blocks they stay in the L2 cache
    def forward(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if cell.centred:
            np.subtract(x, x.mean(-1, keepdims=True), out=y)
        d = y if cell.centred else x
        s = np.einsum("ij,ij->i", d, d)[:, None] / x.dtype.type(x.shape[1])
        s += EPS
        np.sqrt(s, out=s)
        np.divide(d, s, out=y)
        h = y.copy() if cell.kind == "step" else y
        y *= cell.weight
        if cell.centred:
            y += cell.bias
        return h, s

    def step(x: np.ndarray, y: np.ndarray, dy: np.ndarray, dx: np.ndarray, sums: list[np.ndarray]) -> None:
        h, s = forward(x, y)
        sums[0] += np.einsum("ij,ij->j", dy, h)
        np.multiply(dy, cell.weight, out=dx)
        h *= np.einsum("ij,ij->i", dx, h)[:, None] / x.dtype.type(x.shape[1])
        if cell.centred:
            sums[1] += dy.sum(0)
            h += dx.mean(-1, keepdims=True)
        dx -= h
        dx /= s

    sums = list(cell.results[2:])

    def over(rows: int) -> Form:
        def call() -> Any:
            for total in sums:
                total[:] = 0
            for i in range(0, len(cell.x), rows):
                x, y, dy, dx = (a[i : i + rows] for a in (cell.x, cell.out, cell.dy, cell.dx))
                if cell.kind == "forward":
                    forward(x, y)
                else:
                    step(x, y, dy, dx, sums)
            return cell.results

        return call

    found = {"ufuncs": over(len(cell.x))}
    rows = max(1, BLOCK // cell.x.shape[1])
    return found | ({"ufuncs, in blocks": over(rows)} if rows < len(cell.x) else {})


def torch(library: Any, cell: NormCell) -> dict[str, Form]:
    t = library.torch
    x, dy, out = map(t.from_numpy, (cell.x, cell.dy, cell.out))
    shape = [cell.x.shape[1]]
    columns = [t.from_numpy(a) for a in cell.columns]
    f = t.nn.functional.layer_norm if cell.centred else t.nn.functional.rms_norm
    if cell.kind == "forward":
        found: dict[str, Form] = {"functional": lambda: f(x, shape, *columns, eps=EPS)}
        if cell.centred:
            stats = t.empty(len(x), 1), t.empty(len(x), 1)
            into = t.ops.aten.native_layer_norm.out
            found["native_layer_norm.out"] = lambda: into(
                x, shape, *columns, EPS, out0=out, out1=stats[0], out2=stats[1]
            )[0]
        return found
    leaves = [a.clone().requires_grad_() for a in (x, *columns)]

    def autograd() -> tuple[Any, ...]:
        y = f(leaves[0], shape, *leaves[1:], eps=EPS)
        return y, *t.autograd.grad(y, leaves, dy)

    found = {"autograd": autograd}
    if cell.centred:

        def native() -> tuple[Any, ...]:
            y, mean, rstd = t.ops.aten.native_layer_norm(x, shape, *columns, EPS)
            return y, *t.ops.aten.native_layer_norm_backward(dy, x, shape, mean, rstd, *columns, [True] * 3)

        found["native_layer_norm_backward"] = native
    return found


def torch_compile(library: Any, cell: NormCell) -> dict[str, Form]:
    t = library.torch
    tensors = [t.from_numpy(a) for a in (cell.out, cell.dy, cell.x, *cell.columns)]
    shape = [cell.x.shape[1]]
    f = t.nn.functional.layer_norm if cell.centred else t.nn.functional.rms_norm

    def into(out: Any, dy: Any, *leaves: Any) -> Any:
        return out.copy_(f(leaves[0], shape, *leaves[1:], eps=EPS))

    if cell.kind == "forward":
        return {"functional": partial(t.compile(into, dynamic=False), *tensors)}
    leaves = [a.clone().requires_grad_() for a in tensors[2:]]
    compiled = t.compile(lambda *leaves: f(leaves[0], shape, *leaves[1:], eps=EPS), dynamic=False)

    def step() -> tuple[Any, ...]:
        y = compiled(*leaves)
        return y, *t.autograd.grad(y, leaves, tensors[1])

    return {"autograd": step}


def jax(library: Any, cell: NormCell) -> dict[str, Form]:
    jnp = library.jax.numpy
    if cell.x.dtype == np.float64:
        library.jax.config.update("jax_enable_x64", True)

    def forward(x: Any, weight: Any, bias: Any = None) -> Any:
        if bias is None:
            return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + EPS) * weight
        d = x - jnp.mean(x, -1, keepdims=True)
        return d / jnp.sqrt(jnp.mean(d * d, -1, keepdims=True) + EPS) * weight + bias

    def step(dy: Any, *args: Any) -> tuple[Any, ...]:
        y, gradients = library.jax.vjp(forward, *args)
        return y, *gradients(dy)

    given = tuple(map(library.jax.device_put, (cell.x, *cell.columns)))
    if cell.kind == "forward":
        return dict(library.jitted("jit", forward, given, cell.results))
    return dict(library.jitted("jit", step, (library.jax.device_put(cell.dy), *given), cell.results))


def tensorflow(library: Any, cell: NormCell) -> dict[str, Form]:
    tf = library.tf

    def forward(x: Any, weight: Any, bias: Any = None) -> Any:
        # as Keras does it
        if bias is None:
            return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), -1, keepdims=True) + EPS) * weight
        mean, variance = tf.nn.moments(x, -1, keepdims=True)
        return tf.nn.batch_normalization(x, mean, variance, bias, weight, EPS)

    def step(dy: Any, *args: Any) -> tuple[Any, ...]:
        with tf.GradientTape() as tape:
            tape.watch(args)
            y = forward(*args)
        return y, *tape.gradient(y, args, dy)

    if cell.kind == "forward":
        return dict(library.ways(forward, (cell.x, *cell.columns)))
    return dict(library.ways(step, (cell.dy, cell.x, *cell.columns)))


def onnxruntime(library: Any, cell: NormCell) -> dict[str, Form]:
    if cell.kind != "forward":
        return {}
    op, inputs = "SimplifiedLayerNormalization", {"x": cell.x, "weight": cell.weight}
    if cell.centred:
        op, inputs["bias"] = "LayerNormalization", cell.bias
    return dict(library.models([(op, [(op, " ".join(inputs), "y", {"epsilon": EPS})])], cell, inputs))


def numba(library: Any, cell: NormCell) -> dict[str, Form]:
    import numba as nb

    prange, njit = nb.prange, nb.njit(parallel=True, fastmath=True, error_model="numpy")
    threads, f = library.threads, cell.x.dtype.type
    count, eps = f(cell.x.shape[1]), f(EPS)
    # one accumulator for each part of the rows
    sums = np.zeros((2, threads, cell.x.shape[1]), cell.x.dtype)

    if cell.centred:

        def forward(x, weight, bias, y, means, scales):  # type: ignore[no-untyped-def]
            for i in prange(x.shape[0]):
                s = f(0)
                for j in range(x.shape[1]):
                    s += x[i, j]
                m = s / count
                v = f(0)
                for j in range(x.shape[1]):
                    v += (x[i, j] - m) * (x[i, j] - m)
                r = f(1) / np.sqrt(v / count + eps)
                means[i], scales[i] = m, r
                for j in range(x.shape[1]):
                    y[i, j] = (x[i, j] - m) * r * weight[j] + bias[j]

    else:

        def forward(x, weight, bias, y, means, scales):  # type: ignore[no-untyped-def]
            for i in prange(x.shape[0]):
                v = f(0)
                for j in range(x.shape[1]):
                    v += x[i, j] * x[i, j]
                r = f(1) / np.sqrt(v / count + eps)
                scales[i] = r
                for j in range(x.shape[1]):
                    y[i, j] = x[i, j] * r * weight[j]

    centred = f(cell.centred)

    def backward(dy, x, weight, means, scales, dx, sums):  # type: ignore[no-untyped-def]
        for k in prange(threads):
            dweight, dbias = sums[0, k], sums[1, k]
            dweight[:] = 0
            dbias[:] = 0
            for i in range(x.shape[0] * k // threads, x.shape[0] * (k + 1) // threads):
                m, r = means[i], scales[i]
                a, b = f(0), f(0)
                for j in range(x.shape[1]):
                    g = dy[i, j] * weight[j]
                    a += g
                    b += g * (x[i, j] - m) * r
                a *= centred / count
                b /= count
                for j in range(x.shape[1]):
                    h = (x[i, j] - m) * r
                    dweight[j] += dy[i, j] * h
                    dbias[j] += dy[i, j]
                    dx[i, j] = (dy[i, j] * weight[j] - a - h * b) * r

    means, scales = np.zeros((2, len(cell.x)), cell.x.dtype)
    forward, backward = njit(forward), njit(backward)

    def call() -> Any:
        forward(cell.x, cell.weight, cell.bias, cell.out, means, scales)
        if cell.kind == "step":
            backward(cell.dy, cell.x, cell.weight, means, scales, cell.dx, sums)
            for to, part in zip(cell.results[2:], sums):
                np.sum(part, 0, out=to)
        return cell.results

    return {"prange, fastmath": call}


FORMS: Mapping[str, Callable[[Any, NormCell], dict[str, Form]]] = {
    "fastact": fastact,
    "numpy": numpy,
    "torch": torch,
    "torch.compile": torch_compile,
    "jax": jax,
    "tensorflow": tensorflow,
    "onnxruntime": onnxruntime,
    "numba": numba,
}


def forms_of(library: Peer, cell: Cell) -> dict[str, Form]:
    """A library's ways to compute a cell, whatever it is of."""
    if not isinstance(cell, NormCell):
        return optimisers.forms_of(library, cell)
    if library.name == "stream":
        return library.forms(cell)
    return FORMS.get(library.name, lambda *_: {})(library, cell)
