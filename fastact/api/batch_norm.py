"""Batch norm: channels normalised by statistics of a batch, or by given ones."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fastact import dispatch
from fastact.api.arguments import contiguous, delivered, integer, number, result_buffer
from fastact.api.norms import (
    Array,
    Then,
    activation_of,
    arrays_of,
    columns_of,
    is_plain_eps,
    outs_of,
    positive_eps,
    stats_of,
)
from fastact.api.replay import replayed
from fastact.api.shown import shown_names
from fastact.runtime import _driver
from fastact.spec.kernel import KernelSpec, compute_dtype, itemsize, kernel_of
from fastact.spec.kinds import ALL
from fastact.spec.messages import shown
from fastact.spec.stages import program_of
from fastact.spec.table import OPS

if TYPE_CHECKING:
    from fastact.spec.table import Op

# what kernels of channels without an activation are made for
NOTHING = OPS["identity"]
# values of a channel from which a first guess of its mean is taken
SAMPLE = 16


class Channels:
    """Arrays seen as (outer, channel, inner), and what is computed for each channel of them."""

    def __init__(self, name: str, x: Array, channel_axis: Any, dtype: str, memory: np.dtype[Any]) -> None:
        self.axis = np.lib.array_utils.normalize_axis_index(integer(f"{name}: channel_axis", channel_axis), x.ndim)
        self.shape, self.dtype, self.memory = x.shape, dtype, memory
        self.compute = np.dtype(compute_dtype(dtype))
        self.outer, self.channel = math.prod(x.shape[: self.axis]), x.shape[self.axis]
        self.inner = math.prod(x.shape[self.axis + 1 :])
        # values of a channel
        self.count = self.outer * self.inner

    def run(
        self, kind: str, arrays: tuple[Array, ...], columns: tuple[Array, ...], then: Then | None,
        out: Array | None = None, shape: tuple[int, int, int] | None = None,
    ) -> list[Array]:  # fmt: skip
        """A kind of arrays and columns; its result goes to `out`, its sums are returned."""
        op, values = (NOTHING, ()) if then is None else (then.op, then.values)
        function, roles, results = _made(op, kind)
        params = tuple(np.array([v], self.compute) for v in values)
        given = (*arrays, *columns, *params, *((out,) if out is not None else (None,) * results))
        outer, channel, inner = shape or (self.outer, self.channel, self.inner)
        python = function.python(self.dtype)
        if python is None:
            return function.run_fused(self.dtype, given, roles, outer, channel, inner)  # type: ignore[no-any-return]
        return python(given, roles, outer, channel, inner)  # type: ignore[no-any-return]

    def statistics(self, x: Array, stats: Array) -> Array:
        """The variance of each channel; the mean goes to `stats`, in two parts."""
        whole = x.reshape(self.outer, self.channel, self.inner)
        positions = min(self.inner, SAMPLE)
        sample = np.ascontiguousarray(whole[: -(-SAMPLE // positions), :, :positions])
        guess = contiguous(whole[0, :, 0], self.compute)
        guess = guess + self._moments(sample, guess, sample.shape)[0]
        c, squares = self._moments(x, guess)
        square = c * c
        if (square > squares - square).any():
            # far from the mean in some channel: the difference would lose digits
            guess = guess + c
            c, squares = self._moments(x, guess)
            square = c * c
        mean = np.add(guess, c, out=stats[0])
        z = mean - guess
        # Knuth's two-sum: TAOCP 2, 4.2.2
        np.add(guess - (mean - z), c - z, out=stats[1])
        return np.maximum(squares - square, 0)

    def _moments(self, x: Array, guess: Array, shape: Any = None) -> tuple[Array, Array]:
        """Means of the differences from a guess and of their squares."""
        d, squares = self.run("moments", (x,), (guess,), None, None, shape)
        count = self.compute.type(x.size // self.channel)
        return d / count, squares / count


@cache
def _made(op: Op, kind: str) -> tuple[Any, str, int]:
    """The function of a kind, the roles of its arguments, and how many results it has."""
    roles = ["a" if a.role == "map" else "c" for a in ALL[kind].inputs]
    roles += ["v" for _ in op.params]
    roles += ["a" if a.role == "map" else "s" for a in ALL[kind].outputs]
    return dispatch.make_fused(op, kind), "".join(roles), len(ALL[kind].outputs)


class BatchNorm:
    """batch_norm(x, mean, var, weight=None, bias=None, *, channel_axis=-1, eps=1e-3): each channel by given statistics,
    (x - mean)/sqrt(var + eps)*weight + bias

    With an activation f, f of that, in the same pass. For training ``batch_norm.forward(x, weight, bias)`` takes the
    statistics of the batch.

    Parameters
    ----------
    x : array_like
        Of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64.
    mean, var : array_like of floats
        One value for each channel; the running statistics of training.
    weight, bias : array_like of floats, optional
        One value for each channel.
    channel_axis : int
        -1 as in Keras; PyTorch's is 1.
    eps : float
        Positive and finite; 1e-3 as in Keras, PyTorch's is 1e-5.
    activation : activation, str or tuple, optional
        Of the result: an activation, its name, or ``(activation, {parameters})``, numbers.
    out : ndarray, optional
        Of x's shape, also x itself.

    Returns
    -------
    ndarray
        Of x's shape, and of the dtype that `x`, `weight` and `bias` have in common.

    Raises
    ------
    TypeError
        If an array is masked, complex or of objects, strings or dates, any but `x` is of integers, a number is none, or
        `activation` is none; nothing is written.
    AxisError, ValueError
        If the axis is out of range, a column has not one value for each channel, `eps` is not positive and finite, or
        `out` cannot be written; nothing is.

    Notes
    -----
    Ioffe and Szegedy, Batch Normalization, ICML 2015. float16 and bfloat16 are computed in float32.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> mean, var = np.array([1.0, 10.0]), np.array([4.0, 1.0])
    >>> print(fa.batch_norm([[3.0, 10.0], [1.0, 9.0]], mean, var, eps=1e-12).round(6))
    [[ 1.  0.]
     [ 0. -1.]]
    """

    name = "batch_norm"

    def __init__(self) -> None:
        self.__name__ = self.__qualname__ = self.name

    def kernels(self, kind: str, dtype: str) -> list[KernelSpec]:
        """The kernels behind a kind."""
        kinds = {"forward": ("moments", "scaled"), "backward": ("scaled_sums", "scaled_gradient")}.get(kind, ())
        return [kernel_of(NOTHING, k, compute_dtype(dtype)) for k in kinds]

    def __call__(
        self, x: Any, mean: Any, var: Any, weight: Any = None, bias: Any = None, *, channel_axis: int = -1,
        eps: float = 1e-3, activation: Any = None, out: Any = None,
    ) -> Any:  # fmt: skip
        given = {"mean": mean, "var": var, "weight": weight, "bias": bias}
        if _driver.elsewhere((x, *given.values(), out)):
            return self._inference_on_device(x, given, channel_axis, eps, activation, out)
        call = _Call(self.name, {"x": x}, given, channel_axis, activation, out)
        for what in ("mean", "var"):
            if what not in call.columns:
                raise TypeError(f"{self.name}: {what} must be an array")
        eps = positive_eps(self.name, eps, call.channels.compute)
        with np.errstate(all="ignore"):
            rstd = _rstd(call.columns["var"], eps)
            return call.normed(call.columns["mean"], np.zeros_like(rstd), rstd)

    def forward(
        self, x: Any, weight: Any = None, bias: Any = None, *, running_mean: Any = None, running_var: Any = None,
        momentum: float = 0.99, unbiased: bool = False, channel_axis: int = -1, eps: float = 1e-3,
        activation: Any = None, residual: Any = None, out: Any = None,
    ) -> tuple[Array, ...]:  # fmt: skip
        """The norm by statistics of the batch, and what its gradient needs.

        Parameters
        ----------
        x, weight, bias, channel_axis, eps, activation, out
            As for the norm itself.
        running_mean, running_var : ndarray of floats, optional
            One value for each channel, changed in place: momentum·running + (1 - momentum)·batch. Both or none.
        momentum : float
            0 to 1, Keras' convention; PyTorch's momentum is 1 - this.
        unbiased : bool
            Whether the running variance takes the sum of squares over n - 1, as in PyTorch, not n.
        residual : array_like of floats, optional
            Of x's shape: the norm is that of x + residual, as it is after rounding. `out` is a tuple of two then.

        Returns
        -------
        y : ndarray
            Of x's shape. A channel of one value is `bias`; one with NaN or an infinity, or whose variance is beyond the
            range of the dtype it is computed in, is NaN.
        stats : ndarray
            Of shape ``(3, channels)``: mean, what it lost by rounding, 1/sqrt(var + eps). In the dtype that is computed
            in, float32 or float64.
        total : ndarray
            x + residual, where there is one; `backward` takes it for x, and the gradient by the residual is that by x.

        Raises
        ------
        TypeError, ValueError
            As the norm itself; also if one of `running_mean` and `running_var` is missing or cannot be written,
            `momentum` is not within 0 to 1, or `unbiased` and a channel has one value. Nothing is written.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> mean, var = np.zeros(2), np.ones(2)
        >>> x = np.array([[1.0, 2.0], [3.0, 6.0]])
        >>> y, stats = fa.batch_norm.forward(x, running_mean=mean, running_var=var, momentum=0.5, eps=1e-12)
        >>> print(y, mean, var)
        [[-1. -1.]
         [ 1.  1.]] [1. 2.] [1.  2.5]
        """
        name = self.name
        then, momentum = activation_of(name, activation), _momentum(name, momentum)
        running = running_mean, running_var
        if residual is None and channel_axis == -1 and is_plain_eps(eps):
            moments, values = _made(NOTHING, "moments")[0], _made(*_kind(then))[0]
            params = () if then is None else then.values
            done = _driver.plain_batch_norm(
                moments, values, params, x, weight, bias, eps, SAMPLE, out, running, momentum, unbiased
            )
            if done is not None:
                return done
        arrays, columns = {"x": x, "residual": residual}, {"weight": weight, "bias": bias}
        if _driver.elsewhere((x, residual, weight, bias, out, *running)):
            given = arrays, columns, running
            return self._forward_on_device(*given, momentum, unbiased, channel_axis, eps, then, out)  # type: ignore[no-any-return]
        call = _Call(name, arrays, columns, channel_axis, then, out)
        channels = call.channels
        eps = positive_eps(name, eps, channels.compute)
        others = (call.x, *call.columns.values(), *call.outs)
        move = _mover(name, running, channels.channel, channels.count, momentum, unbiased, others)
        with np.errstate(all="ignore"):
            x, *total = call.with_residual()
            stats = np.full((3, channels.channel), np.nan, channels.compute)
            if x.size == 0:
                y = np.empty(channels.shape, call.dtype) if call.outs[0] is None else call.outs[0]
                return (y, stats, *total)
            var = channels.statistics(x, stats)
            stats[2] = _rstd(var, eps)
            y = call.normed(stats[0], stats[1], stats[2], x)
            move(stats[0], var)
        return (y, stats, *total)

    def backward(
        self, dy: Any, x: Any, stats: Any, weight: Any = None, bias: Any = None, *, channel_axis: int = -1,
        activation: Any = None, out: Any = None,
    ) -> tuple[Array, Array | None, Array | None]:  # fmt: skip
        """The gradients by x, weight and bias, through the statistics of the batch.

        Parameters
        ----------
        dy : array_like of floats
            The gradient by y, of x's shape.
        x, weight, bias : array_like
            As given to `forward`; with a residual x is the sum. The values of `bias` matter to the activation alone.
        stats : array_like
            What `forward` returned.
        channel_axis, activation
            As given to `forward`.
        out : ndarray, optional
            For dx, of x's shape; also `dy` or `x`.

        Returns
        -------
        dx : ndarray
            Of x's shape, and of the dtype that `dy`, `x`, `weight` and `bias` have in common.
        dweight, dbias : ndarray or None
            Sums over all other axes, compensated, in an order that depends on the shape alone; None where there is no
            `weight` or `bias`.

        Raises
        ------
        TypeError
            If an array is masked, complex or of objects, strings or dates, or any but `x` is of integers; nothing is
            written.
        AxisError, ValueError
            If the axis is out of range, shapes do not fit, or `out` cannot be written; nothing is.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> x = np.array([[1.0, 2.0], [3.0, 6.0], [5.0, 1.0]])
        >>> y, stats = fa.batch_norm.forward(x, np.ones(2))
        >>> dy = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
        >>> dx, dweight, dbias = fa.batch_norm.backward(dy, x, stats, np.ones(2))
        >>> print(dweight.round(4), dbias)
        [-1.2245 -0.9257] None
        """
        name = f"{self.name}.backward"
        then = activation_of(name, activation)
        if channel_axis == -1:
            sums, gradient = (_made(*_kind(then, suffix))[0] for suffix in ("_sums", "_gradient"))
            params = () if then is None else then.values
            done = _driver.plain_batch_norm_backward(
                sums, gradient, params, then is not None, dy, x, stats, weight, bias, out
            )
            if done is not None:
                return done
        columns = {"weight": weight, "bias": bias}
        if _driver.elsewhere((dy, x, stats, weight, bias, out)):
            return self._backward_on_device(dy, x, stats, columns, channel_axis, then, out)  # type: ignore[no-any-return]
        call = _Call(name, {"dy": dy, "x": x}, columns, channel_axis, then, out)
        return call.gradients(stats)

    @replayed
    def _inference_on_device(
        self, x: Any, columns: dict[str, Any], channel_axis: Any, eps: Any, activation: Any, out: Any
    ) -> Any:
        for what in ("mean", "var"):
            if columns[what] is None:
                raise TypeError(f"{self.name}: {what} must be an array")
        call = self._on_device(self.name, {"x": x}, columns, channel_axis, activation)
        return call.inference(positive_eps(self.name, eps, call.compute), out)

    @replayed
    def _forward_on_device(
        self, arrays: dict[str, Any], columns: dict[str, Any], running: tuple[Any, Any], momentum: float,
        unbiased: bool, channel_axis: Any, eps: Any, then: Then | None, out: Any,
    ) -> Any:  # fmt: skip
        name, residual = self.name, arrays["residual"] is not None
        if not residual:
            del arrays["residual"]
        moved = dict(zip(("running_mean", "running_var"), running))
        if all(a is None for a in running):
            moved = {}
        for what, a in moved.items():
            if a is None:
                raise TypeError(f"{name}: {what} must be an array, not {type(a).__name__}")
        call = self._on_device(name, arrays, columns, channel_axis, then, running=moved)
        return call.forward(positive_eps(name, eps, call.compute), momentum, unbiased, residual, out)

    @replayed
    def _backward_on_device(
        self, dy: Any, x: Any, stats: Any, columns: dict[str, Any], channel_axis: Any, then: Then | None, out: Any
    ) -> Any:
        call = self._on_device(f"{self.name}.backward", {"dy": dy, "x": x}, columns, channel_axis, then, stats=stats)
        return call.backward(out)

    def _on_device(
        self, name: str, arrays: dict[str, Any], columns: dict[str, Any], channel_axis: Any, activation: Any,
        **more: Any,
    ) -> Any:  # fmt: skip
        """The call for arrays on a GPU."""
        from fastact.api.device_batch_norm import Call

        return Call(name, arrays, columns, channel_axis, activation_of(name, activation), **more)

    def _plan(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], kind: str = "") -> dispatch.Plan:
        method: Any = getattr(self, kind) if kind else self
        given = inspect.signature(method).bind_partial(*args, **kwargs).arguments
        then = activation_of(self.name, given.get("activation"))
        dtype, n = "float32", 0
        if "x" in given:
            arrays: dict[str, Any] = {name: given[name] for name in ("dy", "x") if name in given}
            columns = {name: given.get(name) for name in ("weight", "bias")}
            call = _Call(self.name, arrays, columns, given.get("channel_axis", -1), None, None)
            dtype, n = call.channels.dtype, math.prod(call.channels.shape)
        op, what = _kind(then, "_gradient" if kind == "backward" else "")
        spec = kernel_of(op, what, compute_dtype(dtype))
        return dispatch.Plan(
            call=f"{self.name} {kind or 'inference'}",
            size=f"{n} elements of {dtype}",
            elements=n,
            specs=(spec,),
            parallel_min=dispatch.limits(spec)[0],
            written=itemsize(dtype) * n if spec.dtype == dtype else None,
            stages=tuple(s.what for s in program_of(op, what).stages),
        )

    __dir__ = shown_names

    def __repr__(self) -> str:
        return f"<fastact.{self.name}>"

    def __reduce__(self) -> Any:
        from fastact.api.norms import _unpickle

        return _unpickle, (self.name,)


class _Call:
    """One call: everything is checked here, before anything is written."""

    def __init__(
        self, name: str, arrays: dict[str, Any], columns: dict[str, Any], channel_axis: Any, activation: Any, out: Any
    ) -> None:
        self.name = name
        found, given, dtype, self.dtype = arrays_of(name, arrays, columns, out)
        x = self.x = found["x"]
        self.channels = Channels(name, x, channel_axis, dtype, self.dtype)
        where = f"channel_axis {self.channels.axis} of {x.shape}"
        self.columns = columns_of(name, given, self.channels.channel, where, self.channels.compute)
        self.then = activation_of(name, activation)
        self.dy, self.residual = found.get("dy"), found.get("residual")
        self.outs = outs_of(name, out, self.residual is not None, x.shape, self.dtype)

    def _column(self, what: str, neutral: float) -> Array:
        return self.columns.get(what, np.full(self.channels.channel, neutral, self.channels.compute))

    def with_residual(self) -> tuple[Array, ...]:
        """x as kernels take it; with a residual, x + residual, and that sum as it is returned."""
        x = contiguous(self.x, self.dtype)
        if self.residual is None:
            return (x,)
        residual = contiguous(self.residual, self.dtype)
        to = self.outs[1]
        total = np.add(x, residual, out=result_buffer(to, x.shape, self.dtype, (x, residual), self.columns.values()))
        return total, delivered(to, total)

    def normed(self, mean: Array, low: Array, rstd: Array, x: Array | None = None) -> Array:
        """The norm by statistics of channels."""
        x = contiguous(self.x, self.dtype) if x is None else x
        scale = rstd * self._column("weight", 1.0)
        offset = self._column("bias", 0.0) - low * scale
        result = result_buffer(self.outs[0], x.shape, self.dtype, (x,))
        if x.size:
            self.channels.run(_kind(self.then)[1], (x,), (mean, scale, offset), self.then, result)
        return delivered(self.outs[0], result)  # type: ignore[no-any-return]

    def gradients(self, stats: Any) -> tuple[Array, Array | None, Array | None]:
        channels = self.channels
        mean, low, rstd = stats_of(self.name, stats, (3, channels.channel), self.x.shape, channels.compute)
        dy, x = contiguous(self.dy, self.dtype), contiguous(self.x, self.dtype)
        count = channels.compute.type(max(1, channels.count))
        result = result_buffer(self.outs[0], x.shape, self.dtype, (dy, x))
        with np.errstate(all="ignore"):
            scale = rstd * self._column("weight", 1.0)
            activated = () if self.then is None else (scale, self._column("bias", 0.0) - low * scale)
            products = sums = np.zeros(channels.channel, channels.compute)
            if x.size:
                products, sums = channels.run(_kind(self.then, "_sums")[1], (dy, x), (mean, *activated), self.then)
            dweight = rstd * (products - low * sums) if x.size else products
            slope = rstd * scale * (dweight / count)
            shift = scale * (sums / count) - low * slope
            if x.size:
                columns = (mean, *(activated or (scale,)), slope, shift)
                channels.run(_kind(self.then, "_gradient")[1], (dy, x), columns, self.then, result)
            given = [
                a.astype(self.dtype, copy=False) if what in self.columns else None
                for what, a in (("weight", dweight), ("bias", sums))
            ]
        return delivered(self.outs[0], result), given[0], given[1]


def _kind(then: Then | None, suffix: str = "") -> tuple[Op, str]:
    """The row of the table and the kind that a call runs."""
    return (NOTHING, f"scaled{suffix}") if then is None else (then.op, f"normed{suffix}")


def _rstd(var: Array, eps: float) -> Array:
    # NaN where the variance is not finite
    return 1 / np.sqrt(var + var.dtype.type(eps)) + (var - var)


def _momentum(name: str, value: Any) -> float:
    momentum = number(f"{name}: momentum", value)
    if not 0 <= momentum <= 1:
        raise ValueError(f"{name}: momentum must be within 0 to 1, not {value}")
    return momentum


def _mover(
    name: str, running: tuple[Any, Any], channel: int, count: int, momentum: float, unbiased: bool,
    others: tuple[Any, ...],
) -> Callable[[Array, Array], None]:  # fmt: skip
    """What moves the running statistics, which are checked here, to those of a batch of `count` values of a channel."""
    if running[0] is None and running[1] is None:
        return lambda mean, var: None
    for what, a in zip(("running_mean", "running_var"), running):
        if not isinstance(a, np.ndarray):
            raise TypeError(f"{name}: {what} must be an array, not {type(a).__name__}")
        if isinstance(a, np.ma.MaskedArray) or a.dtype.kind != "f":
            raise TypeError(f"{name}: {what} must be an array of floats, not {shown(a.dtype)}")
        if a.shape != (channel,):
            raise ValueError(f"{name}: {what} has shape {a.shape}, not {(channel,)}")
        if not a.flags.writeable:
            raise ValueError(f"{name}: {what} is read-only")
    given = [o for o in others if isinstance(o, np.ndarray)]
    if np.may_share_memory(*running) or any(np.may_share_memory(a, o) for a in running for o in given):
        raise ValueError(f"{name}: running_mean and running_var must have memory of their own")
    if unbiased and count == 1:
        raise ValueError(f"{name}: an unbiased variance needs more than 1 value of a channel")

    def move(mean: Array, var: Array) -> None:
        if unbiased:
            var = var * var.dtype.type(count / (count - 1))
        with np.errstate(all="ignore"):
            for to, value in zip(running, (mean, var)):
                to[...] = momentum * to + (1 - momentum) * value

    return move


batch_norm = BatchNorm()
