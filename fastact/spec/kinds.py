"""What a kernel of an activation computes, by kind, in terms of the activation's formulas: the same on every backend.

A kind says what each argument is, by its role:

=============  ===================================================================================================
``map``        x[i, j], an element for each element of the result
``col``        b[j], one value for each position along the axis
``sum_rows``   an output g[j]: what is computed for [i, j], summed over all i (docs/design.md, 'Sums')
``random``     an input nobody gives: a factor for each element, 0 or 1/(1 - p), by a random number of its index
=============  ===================================================================================================

Parameters follow the inputs. `KERNELS` are compiled for every dtype, ahead of time too. `FUSED` kinds compute in
float32 or float64: Numba compiles a kernel when one is first needed, ahead of time they run as stages
(spec/stages.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastact.spec.table import Op

ROLES = ("map", "col", "sum_rows", "random")


@dataclass(frozen=True)
class Argument:
    """An array of a kernel: its name and role."""

    name: str
    role: str = "map"


class Formulas:
    """An activation's formulas over one backend's primitives: what bodies of kinds are written in."""

    def __init__(self, env: Mapping[str, Callable[..., Any]], op: Op) -> None:
        self.value = env[op.forward.__name__]
        self.grad = env[op.grad.__name__]
        if op.grad_from_output is not None:
            self.grad_from_output = env[op.grad_from_output.__name__]
        self.param_grad = None if op.param_grad is None else env[op.param_grad.__name__]

    def params(self, dy: Any, x: Any, *p: Any) -> tuple[Any, ...]:
        """The gradient by the parameter that has one, before it is summed; nothing where none has."""
        return () if self.param_grad is None else (dy * self.param_grad(x, *p),)

    def normed(self, x: Any, mean: Any, scale: Any, offset: Any) -> Any:
        """A channel's values after a norm; x - mean is exact next to the mean."""
        return (x - mean) * scale + offset

    def normed_grad(self, dz: Any, x: Any, mean: Any, scale: Any, slope: Any, shift: Any) -> Any:
        """The gradient by x, which through the statistics is linear in it."""
        return dz * scale - ((x - mean) * slope + shift)


@dataclass(frozen=True)
class Kind:
    """One way of using an activation.

    Parameters
    ----------
    name : str
    signature : str
        Inputs ``->`` outputs, each ``name`` or ``name:role``.
    body : callable
        `Formulas` to a function of inputs and parameters that returns the outputs.
    needs : str, optional
        The attribute of an activation without which it has no such kind.
    """

    name: str
    signature: str
    body: Callable[[Any], Callable[..., tuple[Any, ...]]]
    needs: str = "grad"

    def _side(self, index: int) -> tuple[Argument, ...]:
        return tuple(Argument(*text.split(":")) for text in self.signature.split("->")[index].split())

    @cached_property
    def inputs(self) -> tuple[Argument, ...]:
        """The arrays in, without parameters."""
        return self._side(0)

    @cached_property
    def outputs(self) -> tuple[Argument, ...]:
        """The arrays out."""
        return self._side(1)


def _biased_backward(f: Formulas) -> Callable[..., tuple[Any, ...]]:
    def outputs(dy: Any, x: Any, bias: Any, *p: Any) -> tuple[Any, ...]:
        x = x + bias
        dx = dy * f.grad(x, *p)
        return (dx, dx, *f.params(dy, x, *p))

    return outputs


def _gated_backward(f: Formulas) -> Callable[..., tuple[Any, ...]]:
    def outputs(dy: Any, gate: Any, up: Any, *p: Any) -> tuple[Any, ...]:
        return (dy * up * f.grad(gate, *p), dy * f.value(gate, *p), *f.params(dy * up, gate, *p))

    return outputs


def _dropped_backward(f: Formulas) -> Callable[..., tuple[Any, ...]]:
    def outputs(dy: Any, x: Any, keep: Any, *p: Any) -> tuple[Any, ...]:
        dy = dy * keep
        return (dy * f.grad(x, *p), *f.params(dy, x, *p))

    return outputs


def _biased_dropped_backward(f: Formulas) -> Callable[..., tuple[Any, ...]]:
    def outputs(dy: Any, x: Any, bias: Any, keep: Any, *p: Any) -> tuple[Any, ...]:
        return _biased_backward(f)(dy * keep, x, bias, *p)

    return outputs


def _normed_sums(f: Formulas) -> Callable[..., tuple[Any, ...]]:
    def outputs(dy: Any, x: Any, mean: Any, scale: Any, offset: Any, *p: Any) -> tuple[Any, ...]:
        dz = dy * f.grad(f.normed(x, mean, scale, offset), *p)
        return dz * (x - mean), dz

    return outputs


def _normed_gradient(f: Formulas) -> Callable[..., tuple[Any, ...]]:
    def outputs(
        dy: Any, x: Any, mean: Any, scale: Any, offset: Any, slope: Any, shift: Any, *p: Any
    ) -> tuple[Any, ...]:
        dz = dy * f.grad(f.normed(x, mean, scale, offset), *p)
        return (f.normed_grad(dz, x, mean, scale, slope, shift),)

    return outputs


_KERNELS = (
    Kind("forward", "x -> y", lambda f: lambda x, *p: (f.value(x, *p),)),
    Kind("backward", "dy x -> dx", lambda f: lambda dy, x, *p: (dy * f.grad(x, *p),)),
    Kind("backward_from_output", "dy y -> dx", lambda f: lambda dy, y, *p: (dy * f.grad_from_output(y, *p),),
         needs="grad_from_output"),
    Kind("value_and_grad", "x -> y d", lambda f: lambda x, *p: (f.value(x, *p), f.grad(x, *p))),
    Kind("param_backward", "dy x -> dparam", lambda f: lambda dy, x, *p: (dy * f.param_grad(x, *p),),
         needs="param_grad"),
)  # fmt: skip
# of an activation with a parameter that has a gradient, these have one more output, its sum: `outputs_of`
_FUSED = (
    Kind("backward_with_param", "dy x -> dx", lambda f: lambda dy, x, *p: (dy * f.grad(x, *p), *f.params(dy, x, *p)),
         needs="param_grad"),
    Kind("biased", "x bias:col -> y", lambda f: lambda x, bias, *p: (f.value(x + bias, *p),)),
    Kind("biased_backward", "dy x bias:col -> dx dbias:sum_rows", _biased_backward),
    Kind("gated", "gate up -> y", lambda f: lambda gate, up, *p: (f.value(gate, *p) * up,)),
    Kind("gated_backward", "dy gate up -> dgate dup", _gated_backward),
    # what `fused` is made of, beside `biased`
    Kind("residual", "x residual -> y", lambda f: lambda x, residual, *p: (f.value(x, *p) + residual,)),
    Kind("dropped", "x keep:random -> y", lambda f: lambda x, keep, *p: (f.value(x, *p) * keep,)),
    Kind("dropped_residual", "x residual keep:random -> y",
         lambda f: lambda x, residual, keep, *p: (f.value(x, *p) * keep + residual,)),
    Kind("biased_residual", "x bias:col residual -> y",
         lambda f: lambda x, bias, residual, *p: (f.value(x + bias, *p) + residual,)),
    Kind("biased_dropped", "x bias:col keep:random -> y",
         lambda f: lambda x, bias, keep, *p: (f.value(x + bias, *p) * keep,)),
    Kind("biased_dropped_residual", "x bias:col residual keep:random -> y",
         lambda f: lambda x, bias, residual, keep, *p: (f.value(x + bias, *p) * keep + residual,)),
    Kind("dropped_backward", "dy x keep:random -> dx", _dropped_backward),
    Kind("biased_dropped_backward", "dy x bias:col keep:random -> dx dbias:sum_rows", _biased_dropped_backward),
)  # fmt: skip

# what a norm of channels is made of, with an activation of its result or, the first four, of the identity alone
_CHANNELS = (
    Kind("moments", "x guess:col -> d:sum_rows squares:sum_rows",
         lambda f: lambda x, guess: (x - guess, (x - guess) * (x - guess))),
    Kind("scaled", "x mean:col scale:col offset:col -> y",
         lambda f: lambda x, mean, scale, offset: (f.normed(x, mean, scale, offset),)),
    Kind("scaled_sums", "dy x mean:col -> products:sum_rows sums:sum_rows",
         lambda f: lambda dy, x, mean: (dy * (x - mean), dy)),
    Kind("scaled_gradient", "dy x mean:col scale:col slope:col shift:col -> dx",
         lambda f: lambda *given: (f.normed_grad(*given),)),
    Kind("normed", "x mean:col scale:col offset:col -> y",
         lambda f: lambda x, mean, scale, offset, *p: (f.value(f.normed(x, mean, scale, offset), *p),)),
    Kind("normed_sums", "dy x mean:col scale:col offset:col -> products:sum_rows sums:sum_rows", _normed_sums),
    Kind("normed_gradient", "dy x mean:col scale:col offset:col slope:col shift:col -> dx", _normed_gradient),
)  # fmt: skip

FUSED: dict[str, Kind] = {kind.name: kind for kind in _FUSED}
ALL: dict[str, Kind] = {kind.name: kind for kind in (*_KERNELS, *_FUSED, *_CHANNELS)}
# with a kernel of their own
KERNELS: tuple[str, ...] = tuple(kind.name for kind in _KERNELS)
# ufuncs that users hold
KINDS: tuple[str, ...] = KERNELS[:4]


def has(op: Op, kind: str) -> bool:
    """Whether an activation can be used so."""
    return getattr(op, ALL[kind].needs) is not None


def kinds_of(op: Op) -> tuple[str, ...]:
    """The kinds of `KINDS` that an activation has."""
    return tuple(kind for kind in KINDS if has(op, kind))


def kernels_of(op: Op) -> tuple[str, ...]:
    """The kinds of `KERNELS` that an activation has."""
    return tuple(kind for kind in KERNELS if has(op, kind))


def outputs_of(op: Op, kind: str) -> tuple[Argument, ...]:
    """The outputs of a kind: a fused gradient has one more for a parameter that has a gradient."""
    outputs = ALL[kind].outputs
    if kind in FUSED and kind.endswith(("backward", "with_param")) and op.param_grad is not None:
        (name,) = (p.name for p in op.params)
        outputs += (Argument(f"d{name}", "sum_rows"),)
    return outputs


def body(env: Mapping[str, Callable[..., Any]], op: Op, kind: str) -> Callable[..., tuple[Any, ...]]:
    """Inputs and parameters to a tuple of outputs, over the bound formulas `env`."""
    if not has(op, kind):
        raise ValueError(f"{op.name} has no kind {kind!r}")
    return ALL[kind].body(Formulas(env, op))
