"""How each other library computes an activation, in its best form: the one list behind ``fastact bench``.

``PEERS`` maps a library to a class that knows its threads, its buffers and its ways of calling; ``HOW`` maps an
activation to what each library calls it. A library may have several forms of one cell (``out=`` or not, eager or
compiled): all are tried, the fastest is the one that counts. A fused function, such as ``gelu.biased``, is computed
from the library's activation as ``FUSIONS`` says; where a library has it as one function, that is in ``HOW`` too.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import operator
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from fastact.tools.fused import FUSIONS, Fusion

Form = Callable[[], Any]


@dataclass
class Cell:
    """The arrays of one cell; every library works on the same memory where it can."""

    op: str
    kind: str
    x: np.ndarray
    dy: np.ndarray
    y: np.ndarray
    out: np.ndarray
    scratch: np.ndarray = field(repr=False)

    @property
    def activation(self) -> str:
        return self.op.partition(".")[0]

    @property
    def results(self) -> tuple[np.ndarray, ...]:
        """The memory that forms write to, where they can."""
        return (self.out,)


@dataclass
class FusedCell(Cell):
    """A cell of a fused function: x and a second argument; y is memory for a value in between.

    Kind "step" is forward and backward: the value, then the gradients of both arguments.
    """

    second: np.ndarray
    dx: np.ndarray
    dsecond: np.ndarray
    # what x and second, dx and dsecond are halves of
    packed: np.ndarray | None = None
    dpacked: np.ndarray | None = None
    expected: tuple[np.ndarray, ...] = ()  # the first rows of the results in float64

    @property
    def fusion(self) -> Fusion:
        return FUSIONS[self.op.partition(".")[2]]

    @property
    def results(self) -> tuple[np.ndarray, ...]:
        return (self.out,) if self.kind == "forward" else (self.out, self.dx, self.dsecond)

    @property
    def given(self) -> tuple[np.ndarray, ...]:
        return (self.x, self.second) if self.kind == "forward" else (self.x, self.second, self.dy)

    @property
    def streams(self) -> int:
        """How many arrays of the size of x must be read or written."""
        return sum(a.size == self.x.size for a in (*self.given, *self.results))

    def each(self, convert: Callable[[np.ndarray], Any]) -> FusedCell:
        """The same cell, all its arrays converted."""
        arrays = {k: convert(a) for k, a in vars(self).items() if isinstance(a, np.ndarray)}
        return replace(self, **arrays)

    def in_place(self) -> FusedCell:
        """The same cell with less memory in use, for libraries whose functions may write over their arguments."""
        return replace(self, y=self.results[:2][-1])

    def blocks(self, size: int) -> tuple[list[FusedCell], list[Form]]:
        """The cell in blocks of rows, of about so many elements; and the calls that finish what each did for itself."""
        rows = max(1, size * len(self.x) // self.x.size)
        shape = self.x.shape

        def cut(start: int, a: np.ndarray) -> np.ndarray:
            return a[start : start + rows] if a.shape == shape else a

        found = [self.each(partial(cut, start)) for start in range(0, len(self.x), rows)]
        if self.dsecond.shape == shape:
            return found, []
        sums = np.empty((len(found), *self.dsecond.shape), self.dsecond.dtype)
        return (
            [replace(cell, dsecond=own) for cell, own in zip(found, sums, strict=True)],
            [partial(np.sum, sums, 0, out=self.dsecond)] if self.kind == "step" else [],
        )


def normal(rng: np.random.Generator, shape: Any, dtype: np.dtype) -> np.ndarray:
    """Normally distributed numbers of a type, of which NumPy makes float32 and float64 alone."""
    made = np.float32 if dtype.itemsize == 2 else dtype
    return rng.standard_normal(shape, dtype=made).astype(dtype, copy=False)


def in_turn(calls: list[Form], results: tuple[Any, ...]) -> Form:
    def call():
        for each in calls:
            each()
        return results

    return call


class Peer:
    """One library. ``forms(cell)`` gives its ways to compute a cell, by name; each returns the result when called."""

    name: str
    needs: tuple[str, ...]
    takes_strides = False  # arrays as they lie; others would be timed on a copy that is made before

    @classmethod
    def missing(cls) -> str | None:
        """Why this library cannot be measured here, or None."""
        absent = [m for m in cls.needs if importlib.util.find_spec(m) is None]
        return f"{', '.join(absent)} not installed" if absent else None

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.refused: dict[str, str] = {}  # forms of the last cell that the library cannot run, and why

    def version(self) -> str:
        return importlib.metadata.version(self.name)

    def forms(self, cell: Cell) -> dict[str, Form]:
        raise NotImplementedError

    def mode(self, form: str = "") -> contextlib.AbstractContextManager:
        """What the library's calls must run under."""
        return contextlib.nullcontext()

    def finish(self) -> None:
        """Let go of what belongs to the last cell."""
        self.refused.clear()


# NumPy and SciPy: steps over whole arrays, every step with out=. t is scratch memory. They run on one thread.
# In blocks of BLOCK elements the steps stay in the L2 cache, which a careful user would do by hand.

BLOCK = 1 << 15
ZERO = {np.dtype(t).itemsize: np.zeros((), t) for t in (np.float16, np.float32, np.float64)}


def np_relu(x, out, t):
    # a 0-d array saves NumPy the conversion: 0.5 us a call, with a number 1.0
    np.maximum(x, ZERO[x.itemsize], out=out)


def np_relu_grad(dy, x, y, out, t):
    np.multiply(dy, np.greater(x, 0, out=t.view(bool)[..., : x.shape[-1]]), out=out)


def np_leaky_relu(x, out, t):
    np.multiply(x, 0.01, out=out)
    np.maximum(x, out, out=out)


def np_leaky_relu_grad(dy, x, y, out, t):
    np.multiply(dy, 0.01, out=out)
    np.copyto(out, dy, where=np.greater(x, 0, out=t.view(bool)[..., : x.shape[-1]]))


def np_elu(x, out, t):
    # the negative part through expm1, the positive part added: no masked store
    np.minimum(x, 0.0, out=out)
    np.expm1(out, out=out)
    np.maximum(x, out, out=out)


def np_elu_exp(x, out, t):
    # exp has SIMD in NumPy, expm1 has not; loses all digits near 0
    np.minimum(x, 0.0, out=out)
    np.exp(out, out=out)
    out -= 1
    np.maximum(x, out, out=out)


def np_elu_grad(dy, x, y, out, t):
    np.minimum(y, 0.0, out=out)
    out += 1
    out *= dy


def np_sigmoid(x, out, t):
    np.negative(x, out=out)
    np.exp(out, out=out)
    out += 1
    np.divide(1.0, out, out=out)


def np_sigmoid_tanh(x, out, t):
    np.multiply(x, 0.5, out=out)
    np.tanh(out, out=out)
    out *= 0.5
    out += 0.5


def np_sigmoid_grad(dy, x, y, out, t):
    np.subtract(1.0, y, out=out)
    out *= y
    out *= dy


def np_tanh(x, out, t):
    np.tanh(x, out=out)


def np_tanh_grad(dy, x, y, out, t):
    np.multiply(y, y, out=out)
    np.subtract(1.0, out, out=out)
    out *= dy


def np_gelu_tanh(x, out, t):
    np.multiply(x, x, out=out)
    out *= 0.044715 * 0.7978845608028654
    out += 0.7978845608028654
    out *= x
    np.tanh(out, out=out)
    out += 1
    out *= x
    out *= 0.5


def np_gelu_tanh_grad(dy, x, y, out, t):
    # f' = (1 + th)/2 + x/2 (1 - th^2) (a + 3 b x^2)
    np.multiply(x, x, out=t)
    np.multiply(t, (0.044715 * 0.7978845608028654), out=out)
    out += 0.7978845608028654
    out *= x
    np.tanh(out, out=out)
    t *= 3 * 0.044715 * 0.7978845608028654
    t += 0.7978845608028654
    t *= x
    t *= dy
    t *= 0.5
    u = np.multiply(out, out)
    np.subtract(1.0, u, out=u)
    t *= u
    out += 1
    out *= 0.5
    out *= dy
    out += t


def np_silu(x, out, t):
    np_sigmoid(x, out, t)
    out *= x


def np_silu_tanh(x, out, t):
    np_sigmoid_tanh(x, out, t)
    out *= x


def np_silu_grad(dy, x, y, out, t):
    # f' = s (1 + x (1 - s))
    np_sigmoid_tanh(x, out, t)
    np.subtract(1.0, out, out=t)
    t *= x
    t += 1
    out *= t
    out *= dy


def np_softplus(x, out, t):
    # max(x, 0) + log1p(exp(-|x|))
    np.abs(x, out=out)
    np.negative(out, out=out)
    np.exp(out, out=out)
    np.log1p(out, out=out)
    out += np.maximum(x, 0.0, out=t)


def np_softplus_log(x, out, t):
    # log has SIMD in NumPy, log1p has not; loses digits for x << 0
    np.abs(x, out=out)
    np.negative(out, out=out)
    np.exp(out, out=out)
    out += 1
    np.log(out, out=out)
    out += np.maximum(x, 0.0, out=t)


def np_softplus_grad(dy, x, y, out, t):
    np_sigmoid_tanh(x, out, t)
    out *= dy


def np_mish(x, out, t):
    # tanh(softplus(x)) = n/(n + 2), n = e^x (e^x + 2); beyond x = 20 the quotient is 1
    np.minimum(x, 20.0, out=t)
    np.exp(t, out=t)
    np.add(t, 2.0, out=out)
    out *= t
    np.add(out, 2.0, out=t)
    out /= t
    out *= x


def np_mish_grad(dy, x, y, out, t):
    # f' = w + x sigmoid(x) (1 - w^2), w = tanh(softplus(x))
    np.minimum(x, 20.0, out=t)
    np.exp(t, out=t)
    np.add(t, 2.0, out=out)
    out *= t
    u = np.add(out, 2.0)
    out /= u
    np.add(t, 1.0, out=u)
    t /= u
    t *= x
    np.multiply(out, out, out=u)
    np.subtract(1.0, u, out=u)
    t *= u
    out += t
    out *= dy


def np_softmax(x, out, t):
    np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
    np.exp(out, out=out)
    out /= out.sum(axis=-1, keepdims=True)


def np_softmax_grad(dy, x, y, out, t):
    np.multiply(dy, y, out=out)
    np.subtract(dy, out.sum(axis=-1, keepdims=True), out=out)
    out *= y


def np_relu6(x, out, t):
    np.clip(x, 0.0, 6.0, out=out)


def np_hard_tanh(x, out, t):
    np.clip(x, -1.0, 1.0, out=out)


def np_hard_sigmoid(x, out, t):
    np.multiply(x, (1 / 6), out=out)
    out += 0.5
    np.clip(out, 0.0, 1.0, out=out)


def np_hard_silu(x, out, t):
    np_hard_sigmoid(x, out, t)
    out *= x


def np_tanh_shrink(x, out, t):
    np.tanh(x, out=out)
    np.subtract(x, out, out=out)


def np_softsign(x, out, t):
    np.abs(x, out=out)
    out += 1
    np.divide(x, out, out=out)


def np_softsign_grad(dy, x, y, out, t):
    np.abs(x, out=out)
    out += 1
    out *= out
    np.divide(dy, out, out=out)


def np_relu_squared(x, out, t):
    np.maximum(x, 0.0, out=out)
    out *= out


def np_exponential(x, out, t):
    np.exp(x, out=out)


def np_exponential_grad(dy, x, y, out, t):
    np.multiply(dy, y, out=out)


def np_dish(x, out, t):
    np.multiply(x, x, out=out)
    out += 1
    np.sqrt(out, out=out)
    np.divide(x, out, out=out)
    out += 1
    out *= x
    out *= 0.5


def np_squareplus(x, out, t):
    np.multiply(x, x, out=out)
    out += 4
    np.sqrt(out, out=out)
    out += x
    out *= 0.5


def sp_gelu(sp, x, out, t):
    sp.ndtr(x, out=out)
    out *= x


def sp_gelu_erf(sp, x, out, t):
    np.multiply(x, 0.7071067811865476, out=out)
    sp.erf(out, out=out)
    out += 1
    out *= x
    out *= 0.5


def sp_gelu_grad(sp, dy, x, y, out, t):
    # f' = Phi(x) + x phi(x)
    np.multiply(x, x, out=t)
    t *= -0.5
    np.exp(t, out=t)
    t *= 0.3989422804014327
    t *= x
    np.multiply(x, 0.7071067811865476, out=out)
    sp.erf(out, out=out)
    out += 1
    out *= 0.5
    out += t
    out *= dy


def sp_sigmoid(sp, x, out, t):
    sp.expit(x, out=out)


def sp_silu(sp, x, out, t):
    sp.expit(x, out=out)
    out *= x


def sp_silu_grad(sp, dy, x, y, out, t):
    sp.expit(x, out=out)
    np.subtract(1.0, out, out=t)
    t *= x
    t += 1
    out *= t
    out *= dy


def sp_softplus_grad(sp, dy, x, y, out, t):
    sp.expit(x, out=out)
    out *= dy


def sp_log_sigmoid(sp, x, out, t):
    sp.log_expit(x, out=out)


def np_dropout(x, out, t):
    GENERATOR.random(out=t, dtype=t.dtype)
    np.greater_equal(t, DROPPED, out=t)
    t *= 1 / (1 - DROPPED)
    np.multiply(x, t, out=out)


def np_dropout_grad(dy, x, y, out, t):
    np.not_equal(y, 0, out=t)
    t *= 1 / (1 - DROPPED)
    np.multiply(dy, t, out=out)


def jax_dropout(nn, jnp):
    import jax

    def dropout(x):
        kept = jax.random.bernoulli(jax.random.key(0), 1 - DROPPED, x.shape)
        return jnp.where(kept, x / (1 - DROPPED), 0)

    return dropout


# dropout is no activation: a library's own numbers, and a mask that it keeps, where it has none but those
DROPPED = 0.5
GENERATOR = np.random.Generator(np.random.SFC64(0))


class NumPy(Peer):
    name = "numpy"
    needs = ("numpy",)
    takes_strides = True

    def steps(self, op: str, kind: str) -> list[Callable]:
        return HOW.get(op, {}).get(f"{self.name} {kind}", [])

    def forms(self, cell: Cell) -> dict[str, Form]:
        if isinstance(cell, FusedCell):
            return self.fused(cell)
        found: dict[str, Form] = {}
        arrays = (
            (cell.x, cell.out, cell.scratch)
            if cell.kind == "forward"
            else (cell.dy, cell.x, cell.y, cell.out, cell.scratch)
        )
        blocks = [
            tuple(a[i : i + max(1, BLOCK * len(a) // a.size)] for a in arrays)
            for i in range(0, len(cell.x), max(1, BLOCK * len(cell.x) // cell.x.size))
        ]
        for step in self.steps(cell.op, cell.kind):

            def whole(step=step):
                step(*arrays)
                return cell.out

            def blocked(step=step):
                for block in blocks:
                    step(*block)
                return cell.out

            found[step_name(step)] = whole
            if len(blocks) > 1:
                found[step_name(step) + ", in blocks"] = blocked
        return found

    def fused(self, cell: FusedCell) -> dict[str, Form]:
        found: dict[str, Form] = {}
        values = self.steps(cell.activation, "forward")
        gradients = self.steps(cell.activation, "backward") if cell.kind == "step" else [None]
        parts, rest = cell.blocks(BLOCK)
        for f, g in product(values, gradients):

            def calls(part: FusedCell, f=f, g=g) -> list[Form]:
                return part.fusion.calls(
                    np,
                    part,
                    lambda x, out: partial(f, x, out, part.scratch),
                    lambda dy, x, y, out: partial(g, dy, x, y, out, part.scratch),
                )

            name = ", ".join(step_name(step) for step in (f, g) if step)
            found[name] = in_turn(calls(cell), cell.results)
            if len(parts) > 1:
                blocked = [*(call for part in parts for call in calls(part)), *rest]
                found[name + ", in blocks"] = in_turn(blocked, cell.results)
        return found


def step_name(step: Callable) -> str:
    return (step.func if isinstance(step, partial) else step).__name__


class SciPy(NumPy):
    name = "scipy"
    needs = ("scipy",)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import scipy.special

        self.special = scipy.special

    def steps(self, op: str, kind: str) -> list[Callable]:
        return [partial(step, self.special) for step in super().steps(op, kind)]


class Torch(Peer):
    """Kernels called directly, forward and backward, into a preallocated tensor; no autograd graph is built.

    A fused step also runs with autograd, which is a form of its own.
    """

    name = "torch"
    needs = ("torch",)
    takes_strides = True

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import torch

        torch.set_num_threads(threads)
        self.torch = torch

    def calls(self, cell: Cell) -> dict[str, partial]:
        how = HOW.get(cell.op, {}).get(f"torch {cell.kind}")
        if how is None:
            return {}
        tensor = self.torch.from_numpy
        arrays = (cell.x, cell.out) if cell.kind == "forward" else (cell.dy, cell.x, cell.y, cell.out)
        calls = how(self.torch, *map(tensor, arrays))
        if not isinstance(calls, list):
            return {call_name(calls): calls}
        return {f"{call_name(call)} ({i + 1})": call for i, call in enumerate(calls)}

    def forms(self, cell: Cell) -> dict[str, Form]:
        return self.fused(cell) if isinstance(cell, FusedCell) else dict(self.calls(cell))

    def ways(self, op: str, kind: str, *arrays: np.ndarray) -> list[Callable[..., partial]]:
        """Functions that make the call for given tensors, as many as the library has forms."""
        how = HOW.get(op, {}).get(f"torch {kind}")
        if how is None:
            return []

        def make(*tensors: Any) -> list[partial]:
            calls = how(self.torch, *tensors)
            return calls if isinstance(calls, list) else [calls]

        count = len(make(*map(self.torch.from_numpy, arrays)))
        return [lambda *tensors, i=i: make(*tensors)[i] for i in range(count)]

    def values(self, cell: FusedCell) -> list[Callable[..., partial]]:
        return self.ways(cell.activation, "forward", cell.x, cell.out)

    def gradients(self, cell: FusedCell) -> list[Callable[..., partial]]:
        return self.ways(cell.activation, "backward", cell.dy, cell.x, cell.y, cell.out)

    def fused(self, cell: FusedCell) -> dict[str, Form]:
        found: dict[str, Form] = {}
        own = cell.in_place().each(self.torch.from_numpy)
        for f, g in product(self.values(cell), self.gradients(cell) if cell.kind == "step" else [None]):

            def gradient(*tensors: Any, g=g) -> Form:
                return into_memory(g(*tensors), tensors[-1])

            # block by block, as with NumPy, is slower: waking the threads costs more than the cache saves
            calls = cell.fusion.calls(self.torch, own, f, gradient)
            found[f"kernels{len(found) or ''}"] = in_turn(calls, cell.results)
        return found | self.autograd(cell)

    def autograd(self, cell: FusedCell, compiled: Callable[[Callable], Callable] = lambda f: f) -> dict[str, Form]:
        found: dict[str, Form] = {}
        tensors = [self.torch.from_numpy(a) for a in cell.given]
        for way in self.values(cell) if cell.kind == "step" else []:
            f = pure(way(tensors[0], tensors[0]), tensors[0])
            x, second = (t.clone().requires_grad_() for t in tensors[:2])
            forward = compiled(partial(cell.fusion.forward, f))

            def call(forward=forward, x=x, second=second):
                y = forward(x, second)
                return y, *self.torch.autograd.grad(y, (x, second), tensors[2])

            found[f"autograd{len(found) or ''}"] = call
        return found

    def mode(self, form: str = "") -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if form.startswith("autograd") else self.torch.inference_mode()


class TorchCompile(Torch):
    """The same kernels through torch.compile, which writes C++ for them; a second or more of compilation each."""

    name = "torch.compile"

    @classmethod
    def missing(cls) -> str | None:
        compilers = [os.environ.get("CXX", "g++"), "clang++"]
        if not any(map(shutil.which, compilers)):
            return f"needs a C++ compiler ({' or '.join(compilers)})"
        return super().missing()

    def version(self) -> str:
        return self.torch.__version__

    def forms(self, cell: Cell) -> dict[str, Form]:
        if isinstance(cell, FusedCell):
            return self.fused(cell)
        found: dict[str, Form] = {}
        out = self.torch.from_numpy(cell.out)
        for name, call in self.calls(cell).items():
            func = getattr(call.func, "overloadpacket", call.func)
            rest = {k: v for k, v in call.keywords.items() if k not in ("out", "grad_input", "out0", "out1")}

            def into(out, *args, func=func, rest=rest):
                got = func(*args, **rest)
                # a dropout gives its mask, too
                return out.copy_(got[0] if isinstance(got, tuple) else got)

            found[name.replace(" out=", "")] = partial(self.torch.compile(into, dynamic=False), out, *call.args)
        return found

    def fused(self, cell: FusedCell) -> dict[str, Form]:
        compiled = partial(self.torch.compile, dynamic=False)
        found: dict[str, Form] = {}
        own = cell.each(self.torch.from_numpy)
        for make_f, make_g in product(self.values(cell), self.gradients(cell) if cell.kind == "step" else [None]):
            f = pure(make_f(own.x, own.out), own.x)
            g = make_g and pure(make_g(own.dy, own.x, own.y, own.out), own.dy, own.x, own.y)

            def into(results, *given, f=f, g=g):
                got = cell.fusion.step(f, g, *given) if g else [cell.fusion.forward(f, *given)]
                return [result.copy_(a) for result, a in zip(results, got, strict=True)]

            found[f"kernels{len(found) or ''}"] = partial(compiled(into), own.results, *own.given)
        return found | self.autograd(cell, compiled)

    def finish(self) -> None:
        super().finish()
        # else it takes the next cell for another shape of this one, and soon gives up
        self.torch.compiler.reset()


def call_name(call: Any) -> str:
    return str(getattr(call.func, "__qualname__", call.func)) + (
        " out=" if {"out", "grad_input"} & call.keywords.keys() else ""
    )


def pure(call: partial, *arguments: Any) -> Callable:
    """What `call` computes, as a function of those of its arguments, without memory for the result."""
    function = getattr(call.func, "overloadpacket", call.func)
    keywords = {k: v for k, v in call.keywords.items() if k not in ("out", "grad_input")}
    places = [next((i for i, a in enumerate(arguments) if a is given), None) for given in call.args]
    constants = [None if i is not None else given for i, given in zip(places, call.args, strict=True)]

    def compute(*values: Any) -> Any:
        args = [c if i is None else values[i] for i, c in zip(places, constants, strict=True)]
        return function(*args, **keywords)

    return compute


def into_memory(call: partial, out: Any) -> Form:
    """The same, for kernels that cannot write to existing memory."""
    return call if {"out", "grad_input"} & call.keywords.keys() else lambda: out.copy_(call())


class JAX(Peer):
    """A jitted function, with and without a donated buffer for the result, waited for by block_until_ready."""

    name = "jax"
    needs = ("jax",)

    def __init__(self, threads: int) -> None:
        # XLA sizes its pool by the CPUs of the affinity mask, which bench sets; there is no other switch
        super().__init__(threads)
        import jax

        # every call is waited for, so handing it to another thread only costs
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        self.jax = jax

    def forms(self, cell: Cell) -> dict[str, Form]:
        how = HOW.get(cell.activation, {}).get("jax")
        if how is None:
            return {}
        jax = self.jax
        f = how(jax.nn, jax.numpy)
        if cell.x.dtype == np.float64:
            jax.config.update("jax_enable_x64", True)
        if isinstance(cell, FusedCell):
            given = tuple(map(jax.device_put, cell.given))
            forward = partial(cell.fusion.forward, f)

            def step(x, second, dy):
                y, gradients = jax.vjp(forward, x, second)
                return y, *gradients(dy)

            return self.jitted("jit", forward if cell.kind == "forward" else step, given, cell.results)
        x, dy, y = (jax.device_put(a) for a in (cell.x, cell.dy, cell.y))
        if cell.kind == "forward":
            return self.jitted("jit", f, (x,), cell.results)
        found = self.jitted("jit", lambda dy, x: jax.vjp(f, x)[1](dy)[0], (dy, x), cell.results)
        from_y = HOW[cell.op].get("jax from y")
        if from_y is not None:
            found |= self.jitted("jit from y", from_y(jax.nn, jax.numpy), (dy, y), cell.results)
        return found

    def jitted(
        self, name: str, fn: Callable, args: tuple[Any, ...], results: tuple[np.ndarray, ...]
    ) -> dict[str, Form]:
        jax = self.jax
        ready = operator.methodcaller("block_until_ready") if len(results) == 1 else jax.block_until_ready
        out = jax.tree.map(jax.numpy.asarray, results if len(results) > 1 else results[0])
        plain = jax.jit(fn).lower(*args).compile()
        donated = jax.jit(lambda out, *args: fn(*args), donate_argnums=0, keep_unused=True).lower(out, *args).compile()
        out = jax.tree.map(jax.numpy.copy, out)

        def reuse():
            nonlocal out
            out = donated(out, *args)
            return ready(out)

        return {name: lambda: ready(plain(*args)), f"{name}, donated out": reuse}


class ONNXRuntime(Peer):
    """A model of one node, bound to our arrays. Backward kernels exist in its training build only."""

    name = "onnxruntime"
    needs = ("onnxruntime", "onnx")

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import onnxruntime

        self.ort = onnxruntime
        self.states = onnxruntime.capi.onnxruntime_pybind11_state
        self.live: list[Any] = []

    def forms(self, cell: Cell) -> dict[str, Form]:
        models = HOW.get(cell.op, {}).get("onnxruntime", [])
        inputs = {"x": cell.x}
        if isinstance(cell, FusedCell):
            plain = HOW.get(cell.activation, {}).get("onnxruntime", [])
            models = [*models, *((name, cell.fusion.nodes(nodes)) for name, nodes in plain)]
            inputs["second"] = cell.second
        return self.models(models, cell, inputs) if cell.kind == "forward" else {}

    def models(
        self, models: list[tuple[str, list[tuple]]], cell: Cell, inputs: dict[str, np.ndarray]
    ) -> dict[str, Form]:
        """Forms of these names and nodes, from `inputs` to "y"."""
        found: dict[str, Form] = {}
        for name, nodes in models:
            try:
                found[name] = self.bound(nodes, cell, inputs)
            except (self.states.NotImplemented, self.states.InvalidGraph, self.states.Fail) as error:
                # many operators exist for float32 only
                self.refused[name] = str(error).partition(" : ")[2]
        return found

    def bound(self, nodes: list[tuple], cell: Cell, inputs: dict[str, np.ndarray]) -> Form:
        from onnx import helper

        # halves of an array are not bound as they are
        inputs = {n: np.ascontiguousarray(a) for n, a in inputs.items()}
        y = cell.results[0]
        info = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in (*inputs.items(), ("y", y))
        ]
        made = [helper.make_node(op, ins.split(), outs.split(), **attrs) for op, ins, outs, attrs in nodes]
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(
            helper.make_graph(made, cell.op, info[:-1], info[-1:]), opset_imports=opsets, ir_version=10
        )
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = self.ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        for n, a in inputs.items():
            binding.bind_input(n, "cpu", 0, a.dtype, a.shape, a.ctypes.data)
        binding.bind_output("y", "cpu", 0, y.dtype, y.shape, y.ctypes.data)
        # which keeps no reference to the arrays
        self.live.append((session, binding, inputs))

        def call():
            session.run_with_iobinding(binding)
            return y

        return call

    def finish(self) -> None:
        super().finish()
        # each session owns a thread pool
        self.live.clear()


OPSET = 22
ONNX_BOOL = 9  # TensorProto.BOOL


class TensorFlow(Peer):
    """Raw kernels, called eagerly and from a tf.function, and an XLA-compiled tf.function."""

    name = "tensorflow"
    needs = ("tensorflow",)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        self.tf = tf

    def version(self) -> str:
        return self.tf.__version__

    def forms(self, cell: Cell) -> dict[str, Form]:
        tf, how = self.tf, HOW.get(cell.activation, {})
        f = how.get("tensorflow forward")
        g = how.get("tensorflow backward")
        if f is None:
            return {}
        fn: Callable
        args: tuple[Any, ...]
        if isinstance(cell, FusedCell):
            fn, args = partial(cell.fusion.forward, partial(f, tf)), cell.given
            if cell.kind == "step":
                fn = self.step(fn)
        elif cell.kind == "forward":
            fn, args = partial(f, tf), (cell.x,)
        elif g is not None:
            fn, args = partial(g, tf), (cell.dy, cell.x, cell.y)
        else:

            def fn(dy, x):
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    value = f(tf, x)
                return tape.gradient(value, x, dy)

            args = (cell.dy, cell.x)
        return self.ways(fn, args, eager=cell.kind in ("forward", "step") or g is not None)

    def ways(self, fn: Callable, args: tuple[np.ndarray, ...], eager: bool = True) -> dict[str, Form]:
        """A function of these arrays as it is, in a graph, and compiled."""
        tf = self.tf
        args = tuple(map(tf.constant, args))
        found: dict[str, Form] = {}
        if eager:
            found["eager"] = partial(fn, *args)
        spec = [tf.TensorSpec(a.shape, a.dtype) for a in args]
        for jit in (False, True):
            compiled = tf.function(lambda *a: fn(*a), jit_compile=jit).get_concrete_function(*spec)
            found["tf.function, XLA" if jit else "tf.function"] = partial(compiled, *args)
        return found

    def step(self, forward: Callable) -> Callable:
        def step(x, second, dy):
            with self.tf.GradientTape() as tape:
                tape.watch((x, second))
                y = forward(x, second)
            return y, *tape.gradient(y, (x, second), dy)

        return step


class Numba(Peer):
    """Loops as a careful user of Numba writes them by hand; of optimisers and norms alone."""

    name = "numba"
    needs = ("numba",)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import numba

        numba.set_num_threads(threads)
        self.numba = numba

    def forms(self, cell: Cell) -> dict[str, Form]:
        return {}

    def adam_kernels(self) -> dict[str, Callable[..., None]]:
        prange = self.numba.prange

        def adam(p, g, m, v, beta1, rest1, beta2, rest2, rate, eps):
            for i in prange(p.size):
                m_i = beta1 * m[i] + rest1 * g[i]
                v_i = beta2 * v[i] + rest2 * g[i] * g[i]
                m[i] = m_i
                v[i] = v_i
                p[i] -= rate * m_i / (np.sqrt(v_i) + eps)

        return {
            f"prange{', fastmath' * fast}": self.numba.njit(parallel=True, fastmath=fast, error_model="numpy")(adam)
            for fast in (False, True)
        }


PEERS: dict[str, type[Peer]] = {
    p.name: p for p in (NumPy, Torch, JAX, ONNXRuntime, TensorFlow, SciPy, TorchCompile, Numba)
}


def node(op: str, **attrs: Any) -> tuple[str, list[tuple]]:
    return op, [(op, "x", "y", attrs)]


def aten(name: str, *args: Any) -> Callable:
    """torch: the backward kernel of this name on (dy, x), into the preallocated gradient."""

    def build(t, dy, x, y, out):
        packet = getattr(t.ops.aten, name)
        overload = packet.grad_input if "grad_input" in packet.overloads() else packet.out
        key = "grad_input" if "grad_input" in packet.overloads() else "out"
        return partial(overload, dy, x, *args, **{key: out})

    return build


HOW: dict[str, dict[str, Any]] = {
    "relu": {
        "numpy forward": [np_relu],
        "numpy backward": [np_relu_grad],
        "torch forward": lambda t, x, out: [
            partial(t.clamp_min, x, 0, out=out),
            partial(t.ops.aten.relu.out, x, out=out),
        ],
        "torch backward": aten("threshold_backward", 0.0),
        "jax": lambda nn, np: nn.relu,
        "onnxruntime": [node("Relu")],
        "tensorflow forward": lambda tf, x: tf.raw_ops.Relu(features=x),
        "tensorflow backward": lambda tf, dy, x, y: tf.raw_ops.ReluGrad(gradients=dy, features=x),
    },
    "leaky_relu": {
        "numpy forward": [np_leaky_relu],
        "numpy backward": [np_leaky_relu_grad],
        "torch forward": lambda t, x, out: partial(t._C._nn.leaky_relu, x, 0.01, out=out),
        "torch backward": aten("leaky_relu_backward", 0.01, False),
        "jax": lambda nn, np: nn.leaky_relu,
        "onnxruntime": [node("LeakyRelu", alpha=0.01)],
        "tensorflow forward": lambda tf, x: tf.raw_ops.LeakyRelu(features=x, alpha=0.01),
        "tensorflow backward": lambda tf, dy, x, y: tf.raw_ops.LeakyReluGrad(gradients=dy, features=x, alpha=0.01),
    },
    "elu": {
        "numpy forward": [np_elu, np_elu_exp],
        "numpy backward": [np_elu_grad],
        "torch forward": lambda t, x, out: partial(t._C._nn.elu, x, out=out),
        "torch backward": lambda t, dy, x, y, out: [
            partial(t.ops.aten.elu_backward.grad_input, dy, 1, 1, 1, result, a, grad_input=out)
            for result, a in ((False, x), (True, y))
        ],
        "jax": lambda nn, np: nn.elu,
        "onnxruntime": [node("Elu", alpha=1.0)],
        "tensorflow forward": lambda tf, x: tf.raw_ops.Elu(features=x),
        "tensorflow backward": lambda tf, dy, x, y: tf.raw_ops.EluGrad(gradients=dy, outputs=y),
    },
    "selu": {
        "torch forward": lambda t, x, out: partial(t._C._nn.elu, x, 1.6732632423543772, 1.0507009873554805, out=out),
        "torch backward": lambda t, dy, x, y, out: [
            partial(
                t.ops.aten.elu_backward.grad_input,
                dy,
                1.6732632423543772,
                1.0507009873554805,
                1,
                result,
                a,
                grad_input=out,
            )
            for result, a in ((False, x), (True, y))
        ],
        "jax": lambda nn, np: nn.selu,
        "onnxruntime": [node("Selu")],
        "tensorflow forward": lambda tf, x: tf.raw_ops.Selu(features=x),
        "tensorflow backward": lambda tf, dy, x, y: tf.raw_ops.SeluGrad(gradients=dy, outputs=y),
    },
    "celu": {
        "numpy forward": [np_elu, np_elu_exp],
        "numpy backward": [np_elu_grad],
        "torch forward": lambda t, x, out: partial(t._C._nn.elu, x, out=out),
        "torch backward": lambda t, dy, x, y, out: [
            partial(t.ops.aten.elu_backward.grad_input, dy, 1, 1, 1, result, a, grad_input=out)
            for result, a in ((False, x), (True, y))
        ],
        "jax": lambda nn, np: nn.celu,
        "onnxruntime": [node("Celu", alpha=1.0)],
    },
    "sigmoid": {
        "numpy forward": [np_sigmoid, np_sigmoid_tanh],
        "numpy backward": [np_sigmoid_grad],
        "scipy forward": [sp_sigmoid],
        "torch forward": lambda t, x, out: partial(t.sigmoid, x, out=out),
        "torch backward": lambda t, dy, x, y, out: partial(
            t.ops.aten.sigmoid_backward.grad_input, dy, y, grad_input=out
        ),
        "jax": lambda nn, np: nn.sigmoid,
        "jax from y": lambda nn, np: lambda dy, y: dy * y * (1 - y),
        "onnxruntime": [node("Sigmoid")],
        "tensorflow forward": lambda tf, x: tf.raw_ops.Sigmoid(x=x),
        "tensorflow backward": lambda tf, dy, x, y: tf.raw_ops.SigmoidGrad(y=y, dy=dy),
    },
    "tanh": {
        "numpy forward": [np_tanh],
        "numpy backward": [np_tanh_grad],
        "torch forward": lambda t, x, out: partial(t.tanh, x, out=out),
        "torch backward": lambda t, dy, x, y, out: partial(t.ops.aten.tanh_backward.grad_input, dy, y, grad_input=out),
        "jax": lambda nn, np: np.tanh,
        "jax from y": lambda nn, np: lambda dy, y: dy * (1 - y * y),
        "onnxruntime": [node("Tanh")],
        "tensorflow forward": lambda tf, x: tf.raw_ops.Tanh(x=x),
        "tensorflow backward": lambda tf, dy, x, y: tf.raw_ops.TanhGrad(y=y, dy=dy),
    },
    "gelu": {
        "scipy forward": [sp_gelu, sp_gelu_erf],
        "scipy backward": [sp_gelu_grad],
        "torch forward": lambda t, x, out: partial(t._C._nn.gelu, x, out=out),
        "torch backward": lambda t, dy, x, y, out: partial(
            t.ops.aten.gelu_backward.grad_input, dy, x, approximate="none", grad_input=out
        ),
        "jax": lambda nn, np: partial(nn.gelu, approximate=False),
        "onnxruntime": [node("Gelu"), ("com.microsoft.Gelu", [("Gelu", "x", "y", {"domain": "com.microsoft"})])],
        "tensorflow forward": lambda tf, x: tf.nn.gelu(x),
    },
    "gelu.biased": {
        "onnxruntime": [("com.microsoft.BiasGelu", [("BiasGelu", "x second", "y", {"domain": "com.microsoft"})])],
    },
    "gelu_tanh.biased": {
        "onnxruntime": [("com.microsoft.FastGelu", [("FastGelu", "x second", "y", {"domain": "com.microsoft"})])],
    },
    "gelu_tanh": {
        "numpy forward": [np_gelu_tanh],
        "numpy backward": [np_gelu_tanh_grad],
        "torch forward": lambda t, x, out: partial(t._C._nn.gelu, x, approximate="tanh", out=out),
        "torch backward": lambda t, dy, x, y, out: partial(
            t.ops.aten.gelu_backward.grad_input, dy, x, approximate="tanh", grad_input=out
        ),
        "jax": lambda nn, np: partial(nn.gelu, approximate=True),
        "onnxruntime": [
            node("Gelu", approximate="tanh"),
            ("com.microsoft.FastGelu", [("FastGelu", "x", "y", {"domain": "com.microsoft"})]),
        ],
        "tensorflow forward": lambda tf, x: tf.nn.gelu(x, approximate=True),
    },
    "quick_gelu": {
        "jax": lambda nn, np: lambda x: x * nn.sigmoid(1.702 * x),
        "onnxruntime": [
            ("com.microsoft.QuickGelu", [("QuickGelu", "x", "y", {"domain": "com.microsoft", "alpha": 1.702})])
        ],
    },
    "silu": {
        "numpy forward": [np_silu, np_silu_tanh],
        "numpy backward": [np_silu_grad],
        "scipy forward": [sp_silu],
        "scipy backward": [sp_silu_grad],
        "torch forward": lambda t, x, out: partial(t.ops.aten.silu.out, x, out=out),
        "torch backward": aten("silu_backward"),
        "jax": lambda nn, np: nn.silu,
        "onnxruntime": [
            ("x*Sigmoid", [("Sigmoid", "x", "s", {}), ("Mul", "x s", "y", {})]),
            ("com.microsoft.QuickGelu", [("QuickGelu", "x", "y", {"domain": "com.microsoft", "alpha": 1.0})]),
        ],
        "tensorflow forward": lambda tf, x: x * tf.raw_ops.Sigmoid(x=x),
    },
    "mish": {
        "numpy forward": [np_mish],
        "numpy backward": [np_mish_grad],
        "torch forward": lambda t, x, out: partial(t.ops.aten.mish.out, x, out=out),
        "torch backward": lambda t, dy, x, y, out: partial(t.ops.aten.mish_backward.default, dy, x),
        "jax": lambda nn, np: nn.mish,
        "onnxruntime": [node("Mish")],
        "tensorflow forward": lambda tf, x: x * tf.raw_ops.Tanh(x=tf.raw_ops.Softplus(features=x)),
    },
    "softplus": {
        "numpy forward": [np_softplus, np_softplus_log],
        "numpy backward": [np_softplus_grad],
        "scipy backward": [sp_softplus_grad],
        "torch forward": lambda t, x, out: partial(t._C._nn.softplus, x, out=out),
        "torch backward": aten("softplus_backward", 1, 20),
        "jax": lambda nn, np: nn.softplus,
        "onnxruntime": [node("Softplus")],
        "tensorflow forward": lambda tf, x: tf.raw_ops.Softplus(features=x),
        "tensorflow backward": lambda tf, dy, x, y: tf.raw_ops.SoftplusGrad(gradients=dy, features=x),
    },
    "softmax": {
        "numpy forward": [np_softmax],
        "numpy backward": [np_softmax_grad],
        "torch forward": lambda t, x, out: partial(t.softmax, x, -1, out=out),
        "torch backward": lambda t, dy, x, y, out: partial(
            t.ops.aten._softmax_backward_data.out, dy, y, -1, dy.dtype, grad_input=out
        ),
        "jax": lambda nn, np: nn.softmax,
        "jax from y": lambda nn, np: lambda dy, y: (dy - (dy * y).sum(-1, keepdims=True)) * y,
        "onnxruntime": [node("Softmax", axis=-1)],
        "tensorflow forward": lambda tf, x: tf.raw_ops.Softmax(logits=x),
        "tensorflow backward": lambda tf, dy, x, y: (dy - tf.reduce_sum(dy * y, -1, keepdims=True)) * y,
    },
    "log_softmax": {
        "torch forward": lambda t, x, out: partial(t.log_softmax, x, -1, out=out),
        "torch backward": lambda t, dy, x, y, out: partial(
            t.ops.aten._log_softmax_backward_data.out, dy, y, -1, dy.dtype, out=out
        ),
        "jax": lambda nn, np: nn.log_softmax,
        "onnxruntime": [node("LogSoftmax", axis=-1)],
        "tensorflow forward": lambda tf, x: tf.raw_ops.LogSoftmax(logits=x),
    },
    "relu6": {
        "numpy forward": [np_relu6],
        "torch forward": lambda t, x, out: partial(t.clamp, x, 0, 6, out=out),
        "torch backward": aten("hardtanh_backward", 0, 6),
        "jax": lambda nn, np: nn.relu6,
        "onnxruntime": [
            (
                "Clip",
                [
                    ("Constant", "", "lo", {"value_float": 0.0}),
                    ("Constant", "", "hi", {"value_float": 6.0}),
                    ("Clip", "x lo hi", "y", {}),
                ],
            )
        ],
        "tensorflow forward": lambda tf, x: tf.raw_ops.Relu6(features=x),
        "tensorflow backward": lambda tf, dy, x, y: tf.raw_ops.Relu6Grad(gradients=dy, features=x),
    },
    "hard_tanh": {
        "numpy forward": [np_hard_tanh],
        "torch forward": lambda t, x, out: partial(t.clamp, x, -1, 1, out=out),
        "torch backward": aten("hardtanh_backward", -1, 1),
        "jax": lambda nn, np: nn.hard_tanh,
        "tensorflow forward": lambda tf, x: tf.raw_ops.ClipByValue(t=x, clip_value_min=-1.0, clip_value_max=1.0),
    },
    "hard_sigmoid": {
        "numpy forward": [np_hard_sigmoid],
        "torch forward": lambda t, x, out: partial(t.ops.aten.hardsigmoid.out, x, out=out),
        "torch backward": aten("hardsigmoid_backward"),
        "jax": lambda nn, np: nn.hard_sigmoid,
        "onnxruntime": [node("HardSigmoid", alpha=1 / 6, beta=0.5)],
    },
    "hard_silu": {
        "numpy forward": [np_hard_silu],
        "torch forward": lambda t, x, out: partial(t.ops.aten.hardswish.out, x, out=out),
        "torch backward": aten("hardswish_backward"),
        "jax": lambda nn, np: nn.hard_silu,
        "onnxruntime": [node("HardSwish")],
    },
    "log_sigmoid": {
        "scipy forward": [sp_log_sigmoid],
        "torch forward": lambda t, x, out: partial(t._C._nn.log_sigmoid, x, out=out),
        "torch backward": lambda t, dy, x, y, out: partial(
            t.ops.aten.log_sigmoid_backward.grad_input, dy, x, t.ops.aten.log_sigmoid_forward(x)[1], grad_input=out
        ),
        "jax": lambda nn, np: nn.log_sigmoid,
        "tensorflow forward": lambda tf, x: -tf.raw_ops.Softplus(features=-x),
    },
    "tanh_shrink": {
        "numpy forward": [np_tanh_shrink],
        "jax": lambda nn, np: lambda x: x - np.tanh(x),
    },
    "softsign": {
        "numpy forward": [np_softsign],
        "numpy backward": [np_softsign_grad],
        "jax": lambda nn, np: nn.soft_sign,
        "onnxruntime": [node("Softsign")],
        "tensorflow forward": lambda tf, x: tf.raw_ops.Softsign(features=x),
        "tensorflow backward": lambda tf, dy, x, y: tf.raw_ops.SoftsignGrad(gradients=dy, features=x),
    },
    "soft_shrink": {
        "torch forward": lambda t, x, out: partial(t._C._nn.softshrink, x, out=out),
        "torch backward": aten("softshrink_backward", 0.5),
        "onnxruntime": [node("Shrink", lambd=0.5, bias=0.5)],
    },
    "hard_shrink": {
        "torch forward": lambda t, x, out: partial(t.ops.aten.hardshrink.out, x, out=out),
        "torch backward": aten("hardshrink_backward", 0.5),
        "onnxruntime": [node("Shrink", lambd=0.5, bias=0.0)],
    },
    "shrink": {"onnxruntime": [node("Shrink", lambd=0.5, bias=0.0)]},
    "dish": {"numpy forward": [np_dish], "jax": lambda nn, np: lambda x: 0.5 * x * (1 + x / np.sqrt(1 + x * x))},
    "squareplus": {"numpy forward": [np_squareplus], "jax": lambda nn, np: nn.squareplus},
    "sparse_plus": {"jax": lambda nn, np: nn.sparse_plus},
    "sparse_sigmoid": {"jax": lambda nn, np: nn.sparse_sigmoid},
    "relu_squared": {"numpy forward": [np_relu_squared], "jax": lambda nn, np: lambda x: np.square(nn.relu(x))},
    "relu_k": {"numpy forward": [np_relu6], "jax": lambda nn, np: nn.relu6},
    "exponential": {
        "numpy forward": [np_exponential],
        "numpy backward": [np_exponential_grad],
        "torch forward": lambda t, x, out: partial(t.exp, x, out=out),
        "jax": lambda nn, np: np.exp,
        "onnxruntime": [node("Exp")],
        "tensorflow forward": lambda tf, x: tf.raw_ops.Exp(x=x),
    },
    "dropout": {
        "numpy forward": [np_dropout],
        "numpy backward": [np_dropout_grad],
        "torch forward": lambda t, x, out: [
            partial(t.ops.aten.native_dropout, x, DROPPED, True),
            partial(t.ops.aten.native_dropout.out, x, DROPPED, True, out0=out, out1=t.empty_like(x, dtype=t.bool)),
        ],
        "torch backward": lambda t, dy, x, y, out: partial(
            t.ops.aten.native_dropout_backward.out, dy, y != 0, 1 / (1 - DROPPED), out=out
        ),
        "jax": jax_dropout,
        "onnxruntime": [
            (
                "Dropout",
                [
                    ("Constant", "", "ratio", {"value_float": DROPPED}),
                    ("Cast", "ratio", "training", {"to": ONNX_BOOL}),
                    ("Dropout", "x ratio training", "y", {}),
                ],
            )
        ],
        "tensorflow forward": lambda tf, x: tf.nn.dropout(x, DROPPED),
    },
}
