"""Dropout, and rrelu: what depends on random numbers, made from a seed and an element's index, never stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastact import dispatch
from fastact.api.arguments import (
    FILLED,
    check_out,
    contiguous,
    delivered,
    integer,
    memory_dtype,
    number,
    refuse_masked,
    result_buffer,
    single_out,
)
from fastact.api.replay import replayed
from fastact.api.shown import shown_names
from fastact.runtime import _driver
from fastact.spec.kernel import KernelSpec, compute_dtype, itemsize, kernel_of
from fastact.spec.messages import shown
from fastact.spec.table import OPS

Array = NDArray[Any]
Random = tuple[float, float, int, int]


def stream(name: str, seed: Any, offset: Any, offset_name: str = "offset") -> tuple[int, int]:
    """Seed and offset as integers of 64 bits."""
    if seed is None:
        raise TypeError(f"{name}: seed must be given")
    found = integer(f"{name}: seed", seed), integer(f"{name}: {offset_name}", offset)
    for what, value in zip(("seed", offset_name), found):
        if not 0 <= value < 1 << 64:
            raise ValueError(f"{name}: {what} must be in [0, 2**64), not {value}")
    return found


def factors(name: str, p: Any, seed: Any, offset: Any, what: str = "p", offset_name: str = "offset") -> Random:
    """What the kernel of a dropout takes: p·2^24 rounded up, 1/(1 - p), seed and offset."""
    p = number(f"{name}: {what}", p)
    if not 0 <= p < 1:
        raise ValueError(f"{name}: {what} must be in [0, 1), not {p}")
    return (float(math.ceil(math.ldexp(p, 24))), 1 / (1 - p), *stream(name, seed, offset, offset_name))


class RandomFunction:
    """A function of arrays of one shape and of random numbers, one for each element."""

    def __init__(self, name: str) -> None:
        self.__name__ = self.__qualname__ = self.name = name

    @cached_property
    def function(self) -> _driver.Function:
        """What runs it."""
        raise NotImplementedError

    def _arrays(self, given: Mapping[str, Any]) -> tuple[list[Array], str, np.dtype[Any]]:
        """Arrays by name, which must be of one shape: contiguous in one dtype; its name, and itself."""
        name = self.name
        refuse_masked(name, given.values(), FILLED)
        arrays = [np.asarray(a) for a in given.values()]
        found, memory = memory_dtype(name, [a.dtype for a in arrays])
        for what, a in zip(given, arrays):
            if a.shape != arrays[-1].shape:
                raise ValueError(f"{name}: {what} has shape {a.shape}, x {arrays[-1].shape}")
        return [contiguous(a, memory) for a in arrays], found, memory

    def _run(self, given: Mapping[str, Any], random: Random, out: Any) -> Any:
        one_slope = self.function_takes_numbers and random[1] == 0
        if one_slope:
            inputs: tuple[Any, ...] = ()  # see `_Leaky._compute`
        else:
            inputs = (*given.values(), None) if self.function_takes_numbers else tuple(given.values())
        if inputs:
            done = self.function.plain_fused(inputs, (), self.roles, None, out, random)
            if done is not None:
                return done
        if _driver.elsewhere((*given.values(), out)):
            if one_slope:
                return self._on_device(given, out, random[0])
            return self._on_device(given, out, random=random)
        arrays, dtype, memory = self._arrays(given)
        out = single_out(self.name, out)
        shape = arrays[-1].shape
        if out is not None:
            refuse_masked(self.name, (out,), FILLED)
            check_out(self.name, out, shape, memory)
        result = result_buffer(out, shape, memory, arrays)
        if result.size:
            self._compute(dtype, arrays, result, random)
        return result[()] if out is None else delivered(out, result)

    @replayed
    def _on_device(self, given: Mapping[str, Any], out: Any, slope: float = 0.0, random: Random | None = None) -> Any:
        from fastact.api.device_fused import random_function

        return random_function(self, given, (slope, 0.0, 0, 0) if random is None else random, out)

    def _compute(self, dtype: str, arrays: list[Array], result: Array, random: Random) -> None:
        inputs = (*arrays, *((None,) if self.function_takes_numbers else ()))
        python = self.function.python(dtype)
        if python is None:
            self.function.run_fused(dtype, (*inputs, result), self.roles, 1, 1, result.size, random)
        else:
            python(arrays, result, random)

    def on_one_slope(self, slope: float) -> tuple[Any, dict[str, float]]:
        """What computes the same where all numbers are one."""
        raise NotImplementedError

    # whether a kernel of an activation takes the numbers
    function_takes_numbers = False
    # of inputs, numbers and the result
    roles = "aa"

    def kernels(self, kind: str, dtype: str) -> list[KernelSpec]:
        """The kernels of other modules behind a kind: the driver has those of random numbers itself."""
        return []

    def device_kernel(self, dtype: str) -> KernelSpec:
        """The kernel that serves it on a GPU."""
        return kernel_of(OPS["identity"], "dropped", dtype)

    def _plan(self, arrays: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dispatch.Plan:
        found, dtype, _ = self._arrays({"x": arrays[0]}) if arrays else ([np.empty(0)], "float32", None)
        n = found[-1].size
        specs = tuple(self._specs(dtype))
        name, _, method = self.name.partition(".")
        return dispatch.Plan(
            call=f"{name} {method or 'forward'}",
            size=f"{n} elements of {dtype}",
            elements=n,
            specs=specs,
            parallel_min=_limits(dtype)[0],
            written=itemsize(dtype) * n if itemsize(dtype) > 2 else None,
            stages=("numbers", *(spec.kind for spec in specs)) if specs else (),
        )

    def _specs(self, dtype: str) -> list[KernelSpec]:
        return []

    __dir__ = shown_names

    def __repr__(self) -> str:
        return f"<fastact.{self.name}>"

    def __reduce__(self) -> Any:
        return _unpickle, (self.name,)


def _limits(dtype: str) -> tuple[int, int]:
    # a random number takes about twice as long as a costly function
    parallel_min, chunk = dispatch.limits(kernel_of(OPS["gelu"], "forward", dtype))
    return parallel_min // 2, chunk


class _Dropped(RandomFunction):
    @cached_property
    def function(self) -> _driver.Function:
        """What runs it: the kernel of the driver, whichever backend serves others."""

        def resolver(dtype: str, form: int) -> tuple[Any, Any, int, int]:
            compute = compute_dtype(dtype)
            dispatch.backend()  # an error if the one asked for is not available
            if dispatch.selected() == "reference":
                return None, _reference_dropout(compute), *_limits(dtype)
            return [(_driver.ARITHMETIC["dropout", compute], (0, 1))], None, *_limits(dtype)

        return dispatch.register(_driver.Function(self.name, "", 1, 0, 1, resolver, dispatch._lock, "fused"))


def _reference_dropout(compute: str) -> Any:
    from fastact.backends.reference.philox import keep

    def run(arrays: list[Array], result: Array, random: Random) -> None:
        (x,) = arrays
        with np.errstate(all="ignore"):
            y = x.astype(compute, copy=False) * keep(random, x.size, compute).reshape(x.shape)
            result[...] = y.astype(result.dtype, copy=False)

    return run


class DropoutBackward(_Dropped):
    def __call__(self, dy: Any, p: Any, *, seed: Any, offset: Any = 0, out: Any = None) -> Any:
        """The gradient of dropout: dy where the element was kept, scaled by 1/(1 - p), else 0·dy.

        Parameters
        ----------
        dy : array_like
            The gradient by the output.
        p : float
            The probability of an element to be dropped, in [0, 1).
        seed, offset : int
            Those of the value.
        out : ndarray, optional
            For the result; also `dy` itself.

        Returns
        -------
        dx : ndarray
            Of the shape and dtype of `dy`.

        Raises
        ------
        TypeError
            If `dy` is masked, complex or of objects, strings or dates, `p` is no number, `seed` or `offset` no integer,
            or ``out`` cannot hold the result.
        ValueError
            If `p` is outside [0, 1), `seed` or `offset` outside [0, 2**64), or ``out`` cannot be written; nothing is.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> fa.dropout.backward(np.ones(8), 0.5, seed=3)
        array([2., 0., 2., 2., 0., 2., 0., 2.])
        """
        return self._run({"dy": dy}, factors(self.name, p, seed, offset), out)

    __doc__ = __call__.__doc__


class Dropout(_Dropped):
    def __init__(self) -> None:
        super().__init__("dropout")
        self.backward = DropoutBackward("dropout.backward")

    def __call__(self, x: Any, p: Any, *, seed: Any, offset: Any = 0, out: Any = None) -> Any:
        """Each element with probability 1 - p, scaled by 1/(1 - p), else 0.

        Parameters
        ----------
        x : array_like
            Of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64.
        p : float
            The probability of an element to be dropped, in [0, 1).
        seed : int
            Which stream of random numbers, in [0, 2**64).
        offset : int
            Where in it, in [0, 2**64), in blocks of four numbers. The next call without an overlap has
            ``offset + (x.size + 3) // 4``.
        out : ndarray, optional
            For the result; also `x` itself.

        Returns
        -------
        y : ndarray
            Of the shape and dtype of `x`.

        Raises
        ------
        TypeError
            If `x` is masked, complex or of objects, strings or dates, `p` is no number, `seed` or `offset` no integer,
            or ``out`` cannot hold the result.
        ValueError
            If `p` is outside [0, 1), `seed` or `offset` outside [0, 2**64), or ``out`` cannot be written; nothing is.

        Notes
        -----
        Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting, JMLR 15 (2014).
        Element i, in C order, is kept where its number is at least p. It is word i mod 4 of the block of counter
        ``offset + i // 4`` of Philox 4x32-10 (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011)
        under the key `seed`, its upper 24 bits times 2^-24. So it is the same on every backend and for any number of
        threads and any layout, and the gradient needs no mask. What is dropped is multiplied with 0, as in PyTorch: a
        NaN or an infinity gives NaN.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> fa.dropout(np.arange(8.0), 0.5, seed=3)
        array([ 0.,  0.,  4.,  6.,  0., 10.,  0., 14.])
        """
        return self._run({"x": x}, factors(self.name, p, seed, offset), out)

    __doc__ = __call__.__doc__


class _Leaky(RandomFunction):
    """A kind of prelu whose weights are random numbers."""

    kind: str
    function_takes_numbers = True

    @cached_property
    def function(self) -> _driver.Function:
        """What runs it: the kernel of prelu, on weights that the driver makes."""

        def resolver(dtype: str, form: int) -> tuple[Any, Any, int, int]:
            compute = compute_dtype(dtype)
            (spec,) = self._specs(dtype)
            name, kernel = dispatch.kernel(spec)
            if name == "reference":
                return None, _reference_leaky(kernel, compute), *_limits(dtype)
            stages = [(_driver.ARITHMETIC["numbers", compute], (spec.narg - 2,)), (kernel, tuple(range(spec.narg)))]
            return stages, None, *_limits(dtype)

        spec = kernel_of(OPS["prelu"], self.kind, "float32")
        nin = len(spec.inputs)
        return dispatch.register(
            _driver.Function(self.name, "", nin, 1, 1, resolver, dispatch._lock, "fused", random=nin + 1)
        )

    def _specs(self, dtype: str) -> list[KernelSpec]:
        return [kernel_of(OPS["prelu"], self.kind, compute_dtype(dtype))]

    def device_kernel(self, dtype: str) -> KernelSpec:
        """The kernel that serves it on a GPU: that of prelu, which makes the weights itself."""
        from fastact.backends.cuda.random import kernel_of_numbers

        return kernel_of_numbers(kernel_of(OPS["prelu"], self.kind, dtype))

    def on_one_slope(self, slope: float) -> tuple[Any, dict[str, float]]:
        """What computes the same where all slopes are one."""
        from fastact.api.activation import activations

        leaky_relu: Any = activations["leaky_relu"]
        return (leaky_relu if self.kind == "forward" else leaky_relu.backward), {"negative_slope": slope}

    def _slope(self, lower: Any, upper: Any) -> tuple[float, float]:
        name = self.name
        lower, upper = number(f"{name}: lower", lower), number(f"{name}: upper", upper)
        for what, value in (("lower", lower), ("upper", upper)):
            if not math.isfinite(value):
                raise ValueError(f"{name}: {what} must be finite, not {value}")
        if lower > upper:
            raise ValueError(f"{name}: lower must not exceed upper, and {lower} does {upper}")
        return lower, upper

    def _leaky(
        self, given: Mapping[str, Any], lower: Any, upper: Any, training: Any, seed: Any, offset: Any, out: Any
    ) -> Any:
        lower, upper = self._slope(lower, upper)
        if not isinstance(training, (bool, np.bool_)):
            raise TypeError(f"{self.name}: training must be True or False, not {shown(training)}")
        if training:
            return self._run(given, (lower, upper - lower, *stream(self.name, seed, offset)), out)
        return self._run(given, ((lower + upper) / 2, 0.0, 0, 0), out)

    def _compute(self, dtype: str, arrays: list[Array], result: Array, random: Random) -> None:
        low, width, *_ = random
        if width == 0:
            # no random number
            function, slope = self.on_one_slope(low)
            function(*arrays, **slope, out=result)
        else:
            super()._compute(dtype, arrays, result, random)

    def kernels(self, kind: str, dtype: str) -> list[KernelSpec]:
        """The kernels behind a kind."""
        return self._specs(dtype) if kind == self.kind else []


def _reference_leaky(kernel: Any, compute: str) -> Any:
    from fastact.backends.reference.philox import numbers

    def run(arrays: list[Array], result: Array, random: Random) -> None:
        weights = numbers(random, result.size, compute).reshape(result.shape)
        (y,) = kernel(*(a.astype(compute, copy=False) for a in arrays), weights)
        with np.errstate(all="ignore"):
            result[...] = y.astype(result.dtype, copy=False)

    return run


class RReLUBackward(_Leaky):
    kind = "backward"
    roles = "aara"

    def __call__(
        self, dy: Any, x: Any, lower: Any = 1 / 8, upper: Any = 1 / 3, *, training: Any, seed: Any = None,
        offset: Any = 0, out: Any = None,
    ) -> Any:  # fmt: skip
        """The gradient of rrelu: dy where x > 0, else dy times the slope of that element.

        Parameters
        ----------
        dy : array_like
            The gradient by the output.
        x : array_like
            The input of the value.
        lower, upper : float
            The slopes' range.
        training : bool
            Whether slopes are random.
        seed, offset : int
            Those of the value.
        out : ndarray, optional
            For the result; also in the place of an input.

        Returns
        -------
        dx : ndarray
            Of the shape of `x`.

        Raises
        ------
        TypeError
            If an array is masked, complex or of objects, strings or dates, `training` is no boolean, `lower` or `upper`
            no number, `seed` is missing in training, `seed` or `offset` no integer, or ``out`` cannot hold the result.
        ValueError
            If shapes differ, `lower` exceeds `upper`, `seed` or `offset` is outside [0, 2**64), or ``out`` cannot be
            written; nothing is.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> fa.rrelu.backward(np.ones(3), [-1.0, 0.0, 2.0], 0.25, 0.5, training=False)
        array([0.375, 0.375, 1.   ])
        """
        return self._leaky({"dy": dy, "x": x}, lower, upper, training, seed, offset, out)

    __doc__ = __call__.__doc__


class RReLU(_Leaky):
    kind = "forward"
    roles = "ara"

    def __init__(self) -> None:
        super().__init__("rrelu")
        self.backward = RReLUBackward("rrelu.backward")

    def kernels(self, kind: str, dtype: str) -> list[KernelSpec]:
        """The kernels behind a kind."""
        return super().kernels(kind, dtype) or self.backward.kernels(kind, dtype)

    def __call__(
        self, x: Any, lower: Any = 1 / 8, upper: Any = 1 / 3, *, training: Any, seed: Any = None, offset: Any = 0,
        out: Any = None,
    ) -> Any:  # fmt: skip
        """x if x > 0 else a·x: a random slope a for each element in training, the mean slope else.

        Parameters
        ----------
        x : array_like
            Of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64.
        lower, upper : float
            The slopes' range: in training each is lower + (upper - lower)·u of a random number u in [0, 1), else all
            are (lower + upper)/2.
        training : bool
            Whether slopes are random.
        seed : int
            Which stream of random numbers, in [0, 2**64); it must be given in training.
        offset : int
            Where in it, in [0, 2**64), in blocks of four numbers.
        out : ndarray, optional
            For the result; also `x` itself.

        Returns
        -------
        y : ndarray
            Of the shape and dtype of `x`.

        Raises
        ------
        TypeError
            If `x` is masked, complex or of objects, strings or dates, `training` is no boolean, `lower` or `upper` no
            number, `seed` is missing in training, `seed` or `offset` no integer, or ``out`` cannot hold the result.
        ValueError
            If `lower` exceeds `upper`, `seed` or `offset` is outside [0, 2**64), or ``out`` cannot be written; nothing
            is.

        Notes
        -----
        Xu et al., Empirical Evaluation of Rectified Activations in Convolutional Network, arXiv:1505.00853; defaults
        and the mean slope as in PyTorch. The random number of an element is that of `dropout`.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> fa.rrelu([-1.0, 0.0, 2.0], 0.25, 0.5, training=False)
        array([-0.375,  0.   ,  2.   ])
        >>> y = fa.rrelu(np.full(1000, -1.0), training=True, seed=1)
        >>> bool((y > -1 / 3).all() and (y <= -1 / 8).all())
        True
        """
        return self._leaky({"x": x}, lower, upper, training, seed, offset, out)

    __doc__ = __call__.__doc__


dropout = Dropout()
rrelu = RReLU()


def _unpickle(name: str) -> Any:
    function, _, method = name.partition(".")
    found = {"dropout": dropout, "rrelu": rrelu}[function]
    return getattr(found, method) if method else found
