"""Whole training steps on the CPU: plain NumPy, NumPy with fastact, PyTorch.

    python -m benchmarks.training_steps [--json benchmarks/results/NAME.json] [--rounds 15] [mlp] [block]

``mlp`` is 784-1024-1024-10 with GELU, Adam and a batch of 256; ``block`` the pre-norm SwiGLU transformer block of
``docs/examples/transformer_block.py`` (width 256, 4 heads, 8 × 128 tokens) with the mean squared error and Adam. A step
is forward, backward and the optimiser's update.

The forms with NumPy share every line but the functions that fastact has; ``products`` leaves those out, so that the
products of matrices, copies and additions that both need are known by themselves. PyTorch runs eager and compiled, both
with its fused Adam. All begin with the same weights, and their losses over the first steps are compared. They take
turns in one process as ``fastact bench`` has them (see its module): before a turn the threads of the others sleep.
"""

from __future__ import annotations

import argparse
import json
import os

# After a product OpenBLAS's threads look for work for 2^26 cycles, and take a core from whatever follows it: of 2^18
# elements gelu.biased took 171 µs on two threads and on one, with 2^16 cycles 103; Adam of 1.7 million 1240 and 605.
# The products themselves take 2 % longer to wake them.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "16")

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastact as fa
from fastact.tools import demo
from fastact.tools.bench import Timed, compete, confined, machine, quiet_imports, scheduler

Array = Any

BATCH, LAYERS = 256, (784, 1024, 1024, 10)
ROWS, TOKENS, WIDTH, HEADS, HIDDEN = 8, 128, 256, 4, 683
SCALE = np.float32((WIDTH // HEADS) ** -0.5)
LR, EPS = 1e-3, 1e-6
COMPARED = 5  # steps whose losses are compared
TOLERANCE = 2e-5  # of losses, relative


class Functions(NamedTuple):
    """What the forms with NumPy do not share. Arrays named `y`, `dx` and `dw` are written; so is what is in place."""

    # (z, bias, y): y = gelu(z + bias); z may be overwritten, and stays so for the gradient
    biased: Callable[..., Any]
    # (dy, z, bias, y, dbias): the gradients, dy in place; z and y may be overwritten
    biased_backward: Callable[..., Any]
    # (logits, labels): the mean cross-entropy, in place its gradient
    cross_entropy: Callable[..., Any]
    # (x, weight, y): statistics for the gradient
    norm: Callable[..., Any]
    # (x, residual, weight, y): the same of x + residual, which takes the place of x
    norm_of_sum: Callable[..., Any]
    # (dy, x, statistics, weight, dx, dw)
    norm_backward: Callable[..., Any]
    # (q): in place, times SCALE where softmax does not do it; so for the gradient
    scaled: Callable[..., Any]
    # (scores): in place, over the keys up to each query
    softmax: Callable[..., Any]
    # (dp, p): in place
    softmax_backward: Callable[..., Any]
    # (x, y): silu of the first half times the second
    swiglu: Callable[..., Any]
    # (dy, x, dx)
    swiglu_backward: Callable[..., Any]
    # (y, target): the mean squared error, in place its gradient
    squared_error: Callable[..., Any]
    # (parameters): a step, of their gradients
    adam: Callable[..., Any]


# ---- plain NumPy


def np_biased(z: Array, bias: Array, y: Array) -> None:
    z += bias
    demo.gelu(z, y)


def np_biased_backward(dy: Array, z: Array, bias: Array, y: Array, dbias: Array) -> None:
    demo.gelu_backward(dy, z, y)
    np.add.reduce(dy, 0, out=dbias)


def np_norm(x: Array, weight: Array, y: Array) -> Array:
    scale = np.einsum("ij,ij->i", x, x)
    scale /= x.shape[1]
    scale += EPS
    np.sqrt(scale, out=scale)
    np.divide(1, scale, out=scale)
    np.multiply(x, scale[:, None], out=y)
    y *= weight
    return scale


def np_norm_of_sum(x: Array, residual: Array, weight: Array, y: Array) -> Array:
    x += residual
    return np_norm(x, weight, y)


def np_norm_backward(dy: Array, x: Array, scale: Array, weight: Array, dx: Array, dw: Array) -> None:
    normed = x * scale[:, None]
    np.einsum("ij,ij->j", dy, normed, out=dw)
    np.multiply(dy, weight, out=dx)
    mean = np.einsum("ij,ij->i", dx, normed)
    mean /= x.shape[1]
    normed *= mean[:, None]
    dx -= normed
    dx *= scale[:, None]


FUTURE = np.triu(np.full((TOKENS, TOKENS), -np.inf, np.float32), 1)


def np_softmax(scores: Array) -> None:
    scores += FUTURE
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(-1, keepdims=True)


def np_softmax_backward(dp: Array, p: Array) -> None:
    dp -= np.einsum("...i,...i->...", dp, p)[..., None]
    dp *= p


def np_swiglu(x: Array, y: Array) -> None:
    gate, up = np.split(x, 2, 1)
    demo.sigmoid(gate, y)
    y *= gate
    y *= up


def np_swiglu_backward(dy: Array, x: Array, dx: Array) -> None:
    (gate, up), (dgate, dup) = np.split(x, 2, 1), np.split(dx, 2, 1)
    s = np.empty_like(dy)
    demo.sigmoid(gate, s)
    np.multiply(gate, s, out=dup)
    # silu' = s + silu·(1 - s)
    np.subtract(1, s, out=dgate)
    dgate *= dup
    dgate += s
    dgate *= up
    dgate *= dy
    dup *= dy


def np_squared_error(y: Array, target: Array) -> float:
    y -= target
    loss = float(np.vdot(y, y)) / y.size
    y *= 2 / y.size
    return loss


class NumPyAdam:
    """Kingma and Ba's constants, epsilon where PyTorch has it; every step in place."""

    def __init__(self, parameters: Sequence[Array]) -> None:
        self.parameters = parameters
        self.m, self.v = ([np.zeros_like(p) for p in parameters] for _ in range(2))
        self.scratch = np.empty((2, max(p.size for p in parameters)), np.float32)
        self.count = 0

    def __call__(self, gradients: Sequence[Array]) -> None:
        self.count += 1
        first, second = 1 - 0.9**self.count, np.sqrt(1 - 0.999**self.count)
        for p, g, m, v in zip(self.parameters, gradients, self.m, self.v, strict=True):
            t, d = (s[: p.size].reshape(p.shape) for s in self.scratch)
            m *= 0.9
            np.multiply(g, 0.1, out=t)
            m += t
            v *= 0.999
            np.multiply(g, g, out=t)
            t *= 0.001
            v += t
            np.sqrt(v, out=d)
            d /= second
            d += 1e-8
            np.divide(m, d, out=t)
            t *= LR / first
            p -= t


NUMPY = Functions(
    np_biased,
    np_biased_backward,
    demo.softmax_cross_entropy,
    np_norm,
    np_norm_of_sum,
    np_norm_backward,
    lambda q: np.multiply(q, SCALE, out=q),
    np_softmax,
    np_softmax_backward,
    np_swiglu,
    np_swiglu_backward,
    np_squared_error,
    NumPyAdam,
)


# ---- fastact


def fa_norm_of_sum(x: Array, residual: Array, weight: Array, y: Array) -> Array:
    return fa.rms_norm.forward(x, weight, eps=EPS, residual=residual, out=(y, x))[1]


def fa_norm_backward(dy: Array, x: Array, stats: Array, weight: Array, dx: Array, dw: Array) -> None:
    dw[...] = fa.rms_norm.backward(dy, x, stats, weight, out=dx)[1]


FASTACT = Functions(
    lambda z, bias, y: fa.gelu.biased(z, bias, out=y),
    lambda dy, z, bias, y, dbias: fa.gelu.biased_backward(dy, z, bias, out=(dy, dbias)),
    lambda logits, labels: float(fa.softmax_cross_entropy.value_and_grad(logits, labels, out=logits)[0]),
    lambda x, weight, y: fa.rms_norm.forward(x, weight, eps=EPS, out=y)[1],
    fa_norm_of_sum,
    fa_norm_backward,
    lambda q: None,
    lambda scores: fa.softmax(scores, scale=SCALE, causal=True, out=scores),
    lambda dp, p: fa.softmax.backward(dp, p, scale=SCALE, causal=True, out=dp),
    lambda x, y: fa.swiglu(x, out=y),
    lambda dy, x, dx: fa.swiglu.backward(dy, x, out=dx),
    lambda y, target: float(fa.mse_loss.value_and_grad(y, target, out=y)[0]),
    lambda parameters: fa.optim.Adam(parameters, lr=LR).step,
)

PRODUCTS = Functions(*([lambda *_: 0.0] * (len(Functions._fields) - 1)), lambda _: lambda _: None)  # type: ignore[arg-type]


# ---- the two models with NumPy


class MLP:
    """Layers of a product, a bias and GELU; the last one without."""

    def __init__(self, functions: Functions) -> None:
        self.f = functions
        parameters = mlp_parameters()
        self.weights, self.biases = parameters[::2], parameters[1::2]
        self.gradients = [np.empty_like(p) for p in parameters]
        self.z, self.y, self.dy = ([np.zeros((BATCH, n), np.float32) for n in LAYERS[1:]] for _ in range(3))
        self.x, self.labels = mlp_data()
        self.adam = functions.adam(parameters)

    def step(self) -> float:
        f, z, y, dy = self.f, self.z, self.y, self.dy
        inputs = [self.x, *y]
        last = len(z) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            np.matmul(inputs[i], weight, out=z[i])
            if i < last:
                f.biased(z[i], bias, y[i])
            else:
                z[i] += bias
        loss = f.cross_entropy(z[last], self.labels)
        gradient = z[last]
        np.add.reduce(gradient, 0, out=self.gradients[-1])
        for i in range(last, -1, -1):
            np.matmul(inputs[i].T, gradient, out=self.gradients[2 * i])
            if i:
                np.matmul(gradient, self.weights[i].T, out=dy[i - 1])
                gradient = dy[i - 1]
                f.biased_backward(gradient, z[i - 1], self.biases[i - 1], y[i - 1], self.gradients[2 * i - 1])
        self.adam(self.gradients)
        return loss


class Block:
    """docs/examples/transformer_block.py with all memory of a step kept, and products written where they belong."""

    def __init__(self, functions: Functions) -> None:
        self.f = functions
        self.parameters = block_parameters()
        self.gradients = [np.empty_like(p) for p in self.parameters]
        self.x, self.target = block_data()
        count = len(self.x)

        def memory(columns: int) -> Array:
            return np.zeros((count, columns), np.float32)

        self.h1, self.mixed, self.x2, self.h2, self.y = (memory(WIDTH) for _ in range(5))
        self.dh, self.dx2, self.dmixed, self.dx = (memory(WIDTH) for _ in range(4))
        self.all, self.dall = memory(3 * WIDTH), memory(3 * WIDTH)
        self.up, self.dup = memory(2 * HIDDEN), memory(2 * HIDDEN)
        self.gated, self.dgated = memory(HIDDEN), memory(HIDDEN)
        self.p, self.dp = np.zeros((2, ROWS, HEADS, TOKENS, TOKENS), np.float32)
        self.adam = functions.adam(self.parameters)

    @staticmethod
    def heads(a: Array) -> Array:
        """Columns of tokens as (rows, heads, tokens, width of a head), where they are."""
        return a.reshape(ROWS, TOKENS, HEADS, WIDTH // HEADS).swapaxes(1, 2)

    def parts(self, a: Array) -> list[Array]:
        """Of queries, keys and values side by side."""
        a = a.reshape(ROWS, TOKENS, 3, HEADS, WIDTH // HEADS)
        return [a[:, :, i].swapaxes(1, 2) for i in range(3)]

    def step(self) -> float:
        f, x = self.f, self.x
        norm1, qkv, proj, norm2, up, down = self.parameters
        dnorm1, dqkv, dproj, dnorm2, dup, ddown = self.gradients
        p, dp = self.p, self.dp

        stats1 = f.norm(x, norm1, self.h1)
        np.matmul(self.h1, qkv, out=self.all)
        q, k, v = self.parts(self.all)
        f.scaled(q)
        np.matmul(q, k.swapaxes(-1, -2), out=p)
        f.softmax(p)
        np.matmul(p, v, out=self.heads(self.mixed))
        np.matmul(self.mixed, proj, out=self.x2)
        stats2 = f.norm_of_sum(self.x2, x, norm2, self.h2)
        np.matmul(self.h2, up, out=self.up)
        f.swiglu(self.up, self.gated)
        np.matmul(self.gated, down, out=self.y)
        self.y += self.x2
        loss = f.squared_error(self.y, self.target)

        dy = self.y
        np.matmul(self.gated.T, dy, out=ddown)
        np.matmul(dy, down.T, out=self.dgated)
        f.swiglu_backward(self.dgated, self.up, self.dup)
        np.matmul(self.h2.T, self.dup, out=dup)
        np.matmul(self.dup, up.T, out=self.dh)
        f.norm_backward(self.dh, self.x2, stats2, norm2, self.dx2, dnorm2)
        self.dx2 += dy
        np.matmul(self.mixed.T, self.dx2, out=dproj)
        np.matmul(self.dx2, proj.T, out=self.dmixed)
        dmixed = self.heads(self.dmixed)
        dq, dk, dv = self.parts(self.dall)
        np.matmul(p.swapaxes(-1, -2), dmixed, out=dv)
        np.matmul(dmixed, v.swapaxes(-1, -2), out=dp)
        f.softmax_backward(dp, p)
        np.matmul(dp, k, out=dq)
        f.scaled(dq)
        np.matmul(dp.swapaxes(-1, -2), q, out=dk)
        np.matmul(self.h1.T, self.dall, out=dqkv)
        np.matmul(self.dall, qkv.T, out=self.dh)
        f.norm_backward(self.dh, x, stats1, norm1, self.dx, dnorm1)
        self.dx += self.dx2
        self.adam(self.gradients)
        return loss


def normal(rng: np.random.Generator, rows: int, columns: int) -> Array:
    return rng.standard_normal((rows, columns), np.float32) / np.sqrt(np.float32(rows))


def mlp_parameters() -> list[Array]:
    rng = np.random.default_rng(0)
    shapes = pairwise(LAYERS)
    return [a for n, m in shapes for a in (normal(rng, n, m), np.zeros(m, np.float32))]


def mlp_data() -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    return rng.standard_normal((BATCH, LAYERS[0]), np.float32), rng.integers(0, LAYERS[-1], BATCH)


def block_parameters() -> list[Array]:
    """norm1, qkv, proj, norm2, up (the gate's columns first), down."""
    rng = np.random.default_rng(0)
    one = np.ones(WIDTH, np.float32)
    return [
        one,
        normal(rng, WIDTH, 3 * WIDTH),
        normal(rng, WIDTH, WIDTH),
        one.copy(),
        normal(rng, WIDTH, 2 * HIDDEN),
        normal(rng, HIDDEN, WIDTH),
    ]


def block_data() -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    x, target = rng.standard_normal((2, ROWS * TOKENS, WIDTH), np.float32)
    return x, target


# ---- PyTorch


def torch_model(name: str) -> tuple[Any, Callable[[], Any]]:
    """A module with the same weights, and what computes the loss from it."""
    import torch
    from torch import nn

    class TorchBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = (nn.RMSNorm(WIDTH, eps=EPS) for _ in range(2))
            self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
            self.proj = nn.Linear(WIDTH, WIDTH, bias=False)
            self.up = nn.Linear(WIDTH, 2 * HIDDEN, bias=False)
            self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

        def forward(self, x: Any) -> Any:
            parts = self.qkv(self.norm1(x)).view(ROWS, TOKENS, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
            mixed = nn.functional.scaled_dot_product_attention(*parts.unbind(), is_causal=True)
            x = x + self.proj(mixed.transpose(1, 2).reshape(ROWS, TOKENS, WIDTH))
            gate, up = self.up(self.norm2(x)).chunk(2, -1)
            return x + self.down(nn.functional.silu(gate) * up)

    if name == "mlp":
        layers: list[Any] = []
        for n, m in pairwise(LAYERS):
            layers += [nn.Linear(n, m), nn.GELU()]
        model: Any = nn.Sequential(*layers[:-1])
        ours = mlp_parameters()
        theirs = list(model.parameters())
        x, labels = map(torch.from_numpy, mlp_data())
        compute = lambda model: nn.functional.cross_entropy(model(x), labels)  # noqa: E731
    else:
        model, ours = TorchBlock(), block_parameters()
        parts = model.norm1, model.qkv, model.proj, model.norm2, model.up, model.down
        theirs = [part.weight for part in parts]
        # its gradient is part of the step, as of a block among others
        x = torch.from_numpy(block_data()[0]).view(ROWS, TOKENS, WIDTH).requires_grad_()
        target = torch.from_numpy(block_data()[1]).view(ROWS, TOKENS, WIDTH)

        def compute(model: Any) -> Any:
            x.grad = None
            return nn.functional.mse_loss(model(x), target)

    with torch.no_grad():
        for own, other in zip(ours, theirs, strict=True):
            other.copy_(torch.from_numpy(np.ascontiguousarray(own.T)))
    return model, compute


def torch_step(name: str, compiled: bool) -> Callable[[], float]:
    import torch

    model, compute = torch_model(name)
    adam = torch.optim.Adam(model.parameters(), lr=LR, fused=True)
    forward = torch.compile(model, dynamic=False) if compiled else model

    def step() -> float:
        adam.zero_grad(set_to_none=True)
        loss = compute(forward)
        loss.backward()
        adam.step()
        return float(loss.detach())

    return step


def torch_products(name: str) -> Callable[[], Any]:
    """PyTorch's products of the matrices of the MLP, alone."""
    import torch

    rng = np.random.default_rng(0)
    calls = []
    for i, (n, m) in enumerate(pairwise(LAYERS)):
        x, w, dy = (torch.from_numpy(normal(rng, *shape)) for shape in ((BATCH, n), (m, n), (BATCH, m)))
        calls.append((x, w.T, torch.empty(BATCH, m)))
        calls.append((dy.T, x, torch.empty(m, n)))
        if i:
            calls.append((dy, w, torch.empty(BATCH, n)))

    def products() -> None:
        for a, b, out in calls:
            torch.mm(a, b, out=out)

    return products


# ---- the run

MODELS: dict[str, Any] = {"mlp": MLP, "block": Block}


def steps_of(name: str, threads: int) -> tuple[dict[tuple[str, str], Callable[[], Any]], dict[str, str]]:
    """The forms of a step by (library, form), and why some are missing."""
    model = MODELS[name]
    found = {
        ("numpy", "step"): model(NUMPY).step,
        ("fastact", "step"): model(FASTACT).step,
        ("products", "numpy"): model(PRODUCTS).step,
    }
    missing = {}
    try:
        with quiet_imports():
            import torch
    except ImportError as error:
        return found, {"torch": str(error)}
    torch.set_num_threads(threads)
    found["torch", "eager"] = torch_step(name, compiled=False)
    if name == "mlp":
        found["products", "torch"] = torch_products(name)
    compiled = torch_step(name, compiled=True)
    try:
        with quiet_imports():
            compiled()
        torch.compiler.reset()
        found["torch.compile", "compiled"] = torch_step(name, compiled=True)
    except Exception as error:
        missing["torch.compile"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return found, missing


def measure(names: Sequence[str], threads: int, rounds: int) -> dict[str, Any]:
    """Times of a step, and the losses of the first ones."""
    result: dict[str, Any] = {
        "machine": machine(),
        "settings": {
            "threads": threads,
            "rounds": rounds,
            "dtype": "float32",
            "scheduler": scheduler(),
            "openblas_thread_timeout": os.environ["OPENBLAS_THREAD_TIMEOUT"],
        },
        "load_before": os.getloadavg()[0],
        "missing": {},
        "models": {},
    }
    fa.set_num_threads(threads)
    with confined(threads):
        for name in names:
            steps, missing = steps_of(name, threads)
            losses = {key: [step() for _ in range(COMPARED)] for key, step in steps.items() if key[0] != "products"}
            for (library, _), found in losses.items():
                error = float(np.max(np.abs(np.subtract(found, losses["numpy", "step"])) / losses["numpy", "step"]))
                print(f"{name}, {library}: losses {', '.join(f'{loss:.6f}' for loss in found)}; off by {error:.1e}")
                if not error <= TOLERANCE:
                    raise RuntimeError(f"{name}: {library} computes another loss: {found}")
            timed = {key: Timed(step) for key, step in steps.items()}
            compete(timed, rounds)
            result["missing"] |= missing
            result["models"][name] = {
                "losses": {library: found for (library, _), found in losses.items()},
                "steps": {" ".join(key): t.summary() for key, t in timed.items()},
            }
            for key, t in result["models"][name]["steps"].items():
                print(f"{name}, {key}: {1e3 * t['median']:.2f} ms (fastest {1e3 * t['min']:.2f})")
    result["versions"] = versions()
    result["load_after"] = os.getloadavg()[0]
    return result


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"fastact": fa.__version__}
    for name in ("numpy", "scipy", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[index,call-overload]
    return found | {"numpy's BLAS": f"{blas['name']} {blas['version']}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)} (default: all)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if unknown := set(args.models) - set(MODELS):
        parser.error(f"no such model: {', '.join(sorted(unknown))}")
    result = measure(args.models or list(MODELS), args.threads, args.rounds)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
