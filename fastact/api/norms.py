"""Layer norm and RMS norm, with the statistics that their gradients need."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastact import dispatch
from fastact.api.arguments import (
    FILLED,
    check_out,
    contiguous,
    delivered,
    dtypes_of,
    integer,
    memory_dtype,
    refuse_masked,
    result_buffer,
    row_plan,
)
from fastact.runtime import _driver
from fastact.spec.kernel import KernelSpec, compute_dtype, row_kernels_of
from fastact.spec.messages import shown

Array = NDArray[Any]

# rows whose sums of gradients are taken by one thread
BLOCK = 64


class Norm:
    """What norms over an axis have in common."""

    name: str
    columns: tuple[str, ...]  # arrays with a value for each position along the axis
    nstat: int  # values of each row that the gradient needs

    def __init__(self) -> None:
        self.__name__ = self.__qualname__ = self.name
        self._made: dict[str, _driver.Function] = {}
        self._kernels = {"forward": self.name, "backward": f"{self.name}_backward"}

    def _function(self, kind: str) -> _driver.Function:
        if kind not in self._made:
            self._made[kind] = dispatch.make_rows(self._kernels[kind])
        return self._made[kind]

    def kernels(self, kind: str, dtype: str) -> list[KernelSpec]:
        """The kernels behind a kind."""
        return row_kernels_of(self._kernels[kind], compute_dtype(dtype)) if kind in self._kernels else []

    def _run(self, x: Any, columns: tuple[Any, ...], axis: Any, eps: Any, offset: Any, out: Any, keep: bool) -> Any:
        if axis == -1 and type(eps) is float and offset is None and 1e-30 < eps < 1e30:
            done = _driver.plain_norm(self._function("forward"), x, columns, out, self.nstat, keep, eps)
            if done is not None:
                return done
        call = _Call(self, {"x": x}, columns, axis, offset, out)
        eps = self._eps(eps, call)
        y, stats = call.forward(eps, keep)
        return (y, stats) if keep else y

    def _eps(self, eps: Any, call: _Call) -> float:
        if eps is None:
            return _finfo_eps(call.dtype)
        if isinstance(eps, (bool, np.bool_)) or not isinstance(eps, numbers.Real):
            raise TypeError(f"{self.name}: eps must be a number, not {shown(eps)}")
        eps = float(eps)
        with np.errstate(all="ignore"):
            rounded = call.compute.type(eps)
        if not (0.0 < rounded < np.inf):
            raise ValueError(f"{self.name}: eps must be positive and finite in {call.compute}, not {eps}")
        return eps

    def _gradients(
        self, dy: Any, x: Any, stats: Any, columns: tuple[Any, ...], axis: Any, offset: Any, out: Any
    ) -> tuple[Any, Any, Any]:
        if axis == -1 and offset is None:
            done = _driver.plain_norm_backward(self._function("backward"), dy, x, stats, columns, out, self.nstat)
            if done is not None:
                return done
        return _Call(self, {"dy": dy, "x": x}, columns, axis, offset, out).backward(stats)

    def _plan(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], kind: str = "forward") -> dispatch.Plan:
        method: Any = getattr(self, kind) if kind == "backward" else self
        given = inspect.signature(method).bind_partial(*args, **kwargs).arguments
        dtype, elements, rows = "float32", 0, 0
        if "x" in given:
            arrays: dict[str, Any] = {name: given[name] for name in ("dy", "x") if name in given}
            columns = tuple(given.get(name) for name in self.columns)
            call = _Call(self, arrays, columns, given.get("axis", -1), None, None)
            dtype, elements, rows = call.dtype.name, call.x.size, call.count
        plan = row_plan(f"{self.name} {kind}", self._kernels[kind], dtype, elements, rows, "x" in given)
        if kind == "backward" and rows <= BLOCK:
            plan = replace(plan, alone=f"up to {BLOCK} rows are one block of the sums")
        return plan

    def __repr__(self) -> str:
        return f"<fastact.{self.name}>"

    def __reduce__(self) -> Any:
        return _unpickle, (self.name,)


class _Call:
    """One call that is not plain: everything is checked here, before anything is written."""

    def __init__(
        self, norm: Norm, arrays: dict[str, Any], columns: tuple[Any, ...], axis: Any, offset: Any, out: Any
    ) -> None:
        name = self.name = norm.name if "dy" not in arrays else f"{norm.name}.backward"
        self.norm, self.out = norm, out
        refuse_masked(name, (*arrays.values(), *columns, out), FILLED)
        given = {what: np.asarray(a) for what, a in arrays.items()}
        given |= {what: np.asarray(a) for what, a in zip(norm.columns, columns) if a is not None}
        for what, a in given.items():
            dtypes_of(f"{name}: {what}", a)
            if what != "x" and a.dtype.kind in "iub":
                raise TypeError(f"{name}: {what} must be of floats, not {a.dtype}")
        dtype, self.dtype = memory_dtype(name, [a.dtype for a in given.values()])
        self.compute = np.dtype(compute_dtype(dtype))
        x = self.x = given["x"]
        self.axis = axis = np.lib.array_utils.normalize_axis_index(integer(f"{name}: axis", axis), x.ndim)
        self.length = x.shape[axis]
        self.rows_shape = x.shape[:axis] + x.shape[axis + 1 :]
        self.count = math.prod(self.rows_shape)
        self.columns: list[Array | None] = []
        for what in norm.columns:
            column = given.get(what)
            if column is not None:
                if column.shape != (self.length,):
                    raise ValueError(
                        f"{name}: {what} has shape {column.shape}, axis {axis} of {x.shape} needs {(self.length,)}"
                    )
                column = contiguous(column, self.compute)
            self.columns.append(column)
        if offset is not None:
            self._add(offset)
        self.dy = given.get("dy", x)
        if self.dy.shape != x.shape:
            raise ValueError(f"{name}: dy has shape {self.dy.shape}, x {x.shape}")
        if out is not None:
            check_out(name, out, x.shape, self.dtype)

    def _add(self, offset: Any) -> None:
        if isinstance(offset, (bool, np.bool_)) or not isinstance(offset, numbers.Real):
            raise TypeError(f"{self.name}: offset must be a number, not {shown(offset)}")
        if not math.isfinite(offset):
            raise ValueError(f"{self.name}: offset must be finite, not {offset}")
        if offset:
            if self.columns[0] is None:
                raise ValueError(f"{self.name}: offset {offset} is added to weight, and there is none")
            with np.errstate(all="ignore"):
                self.columns[0] = self.columns[0] + self.compute.type(offset)

    def _stats(self, stats: Any) -> Array:
        nstat = self.norm.nstat
        refuse_masked(self.name, (stats,), FILLED)
        stats = np.asarray(stats)
        dtypes_of(f"{self.name}: stats", stats)
        shape = (nstat, *self.rows_shape) if nstat > 1 else self.rows_shape
        if stats.dtype.kind in "iub":
            raise TypeError(f"{self.name}: stats must be of floats, not {stats.dtype}")
        if stats.shape != shape:
            raise ValueError(f"{self.name}: stats have shape {stats.shape}, x of {self.x.shape} needs {shape}")
        return contiguous(stats, self.compute)

    def _rows(self, a: Array) -> Array:
        return contiguous(np.moveaxis(a, self.axis, -1), self.compute)

    def _result(self, *inputs: Array) -> Array:
        # rows that are copies have none of the memory of out
        out = self.out if self.axis == self.x.ndim - 1 else None
        return result_buffer(out, (*self.rows_shape, self.length), self.compute, (*inputs, *self.columns))

    def _delivered(self, result: Array) -> Array:
        if result is self.out:
            return result
        result = np.moveaxis(result, -1, self.axis)
        if self.out is None:
            with np.errstate(all="ignore"):
                return result.astype(self.dtype, order="C", copy=False)
        return delivered(self.out, result)  # type: ignore[no-any-return]

    def _filled(self) -> list[Array]:
        """The columns; what changes nothing in the place of absent ones."""
        neutral = (1.0, -0.0)
        return [np.full(self.length, v, self.compute) if c is None else c for c, v in zip(self.columns, neutral)]

    def forward(self, eps: float, keep: bool) -> tuple[Array, Array | None]:
        nstat = self.norm.nstat
        rows = self._rows(self.x)
        shape = (nstat, *self.rows_shape) if nstat > 1 else self.rows_shape
        stats = np.full(shape, np.nan, self.compute) if keep else None
        y = self._result(rows)
        if rows.size:
            function = self.norm._function("forward")
            _driver.norm_forward(function, rows, tuple(self._filled()), y, stats, nstat, eps)
        return self._delivered(y), stats

    def backward(self, stats: Any) -> tuple[Array, Array | None, Array | None]:
        stats = self._stats(stats)
        rows, dy = self._rows(self.x), self._rows(self.dy)
        dx = self._result(rows, dy, stats)
        sums = tuple(np.zeros(self.length, self.compute) for _ in self.columns)
        if rows.size:
            function = self.norm._function("backward")
            weight = self._filled()[0]
            _driver.norm_backward(function, dy, rows, weight, stats, self.norm.nstat, dx, sums)
        result = self._delivered(dx)
        with np.errstate(all="ignore"):
            given = [None if c is None else s.astype(self.dtype, copy=False) for c, s in zip(self.columns, sums)]
        return result, given[0], given[1] if len(given) > 1 else None


def _finfo_eps(dtype: np.dtype[Any]) -> float:
    # bfloat16 has 8 bits
    return 2.0**-7 if dtype.name == "bfloat16" else float(np.finfo(dtype).eps)


class LayerNorm(Norm):
    """layer_norm(x, weight=None, bias=None, *, axis=-1, eps=1e-5) = (x - mean(x))/sqrt(var(x) + eps)*weight + bias

    Parameters
    ----------
    x : array_like
        Of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64.
    weight, bias : array_like of floats, optional
        One value for each position along the axis.
    axis : int
        The axis that a row lies along; mean and variance (of the whole row, not of a sample) are those of a row.
    eps : float
        Positive and finite.
    out : ndarray, optional
        Of x's shape, also x itself.

    Returns
    -------
    ndarray
        Of x's shape. A row of one value is `bias`. A row with NaN or an infinity, or whose variance is beyond the range
        of the dtype it is computed in, is NaN. ``layer_norm.forward(...)`` gives ``(y, stats)``, and
        ``layer_norm.backward(dy, x, stats, weight, bias)`` the gradients ``(dx, dweight, dbias)``.

    Raises
    ------
    TypeError
        If an array is masked, complex or of objects, strings or dates, `weight` or `bias` is of integers, or a number
        is none; nothing is written.
    AxisError, ValueError
        If the axis is out of range, `weight` or `bias` is not as long as it, `eps` is not positive and finite, or `out`
        cannot be written; nothing is.

    Notes
    -----
    Ba, Kiros and Hinton, Layer Normalization, arXiv:1607.06450. Two passes over each row: the mean, kept in two parts,
    then the squares of differences from it; so data of mean 10,000 and variance 1 lose no digits. float16 and bfloat16
    are computed in float32.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> x = np.array([[1.0, 3.0], [10001.0, 10003.0]])
    >>> print(fa.layer_norm(x, eps=1e-12).round(6))
    [[-1.  1.]
     [-1.  1.]]
    >>> print(fa.layer_norm(x[0], weight=np.array([1.0, 2.0]), bias=np.array([0.0, 0.5]), eps=1e-12).round(6))
    [-1.   2.5]
    """

    name = "layer_norm"
    columns = ("weight", "bias")
    nstat = 3

    def __call__(
        self, x: Any, weight: Any = None, bias: Any = None, *, axis: int = -1, eps: float = 1e-5, out: Any = None
    ) -> Any:
        return self._run(x, (weight, bias), axis, eps, None, out, False)

    def forward(
        self, x: Any, weight: Any = None, bias: Any = None, *, axis: int = -1, eps: float = 1e-5, out: Any = None
    ) -> tuple[Array, Array]:
        """The norm and what its gradient needs.

        Parameters
        ----------
        x, weight, bias, **keywords
            As for the norm itself.

        Returns
        -------
        y : ndarray
            As the norm itself gives it.
        stats : ndarray
            Of shape ``(3, rows)``, where `rows` is the shape of x without the axis: the mean of each row, what it
            lost by rounding, and 1/sqrt(var + eps). In the dtype that is computed in, float32 or float64.

        Raises
        ------
        TypeError, ValueError
            As the norm itself; nothing is written.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> y, stats = fa.layer_norm.forward(np.array([[1.0, 3.0], [4.0, 8.0]]), eps=1e-12)
        >>> print(stats.round(6))
        [[2.  6. ]
         [0.  0. ]
         [1.  0.5]]
        """
        return self._run(x, (weight, bias), axis, eps, None, out, True)  # type: ignore[no-any-return]

    def backward(
        self, dy: Any, x: Any, stats: Any, weight: Any = None, bias: Any = None, *, axis: int = -1, out: Any = None
    ) -> tuple[Array, Array | None, Array | None]:
        """The gradients by x, weight and bias, in one pass over dy and x.

        Parameters
        ----------
        dy : array_like of floats
            The gradient by y, of x's shape.
        x, weight, bias : array_like
            As given to `forward`. The values of `bias` do not matter.
        stats : array_like
            What `forward` returned.
        axis : int
            As given to `forward`.
        out : ndarray, optional
            For dx, of x's shape; also `dy` or `x`.

        Returns
        -------
        dx : ndarray
            Of x's shape, and of the dtype that `dy`, `x`, `weight` and `bias` have in common.
        dweight, dbias : ndarray or None
            Sums over all rows, in an order that depends on the shape alone; None where there is no `weight` or `bias`.

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
        >>> x, weight = np.array([[1.0, 3.0, 2.0]]), np.ones(3)
        >>> y, stats = fa.layer_norm.forward(x, weight)
        >>> dx, dweight, dbias = fa.layer_norm.backward(np.array([[1.0, 0.0, 0.0]]), x, stats, weight)
        >>> print(dx.round(3), dweight.round(3), dbias)
        [[ 0.204  0.204 -0.408]] [-1.225  0.     0.   ] None
        """
        return self._gradients(dy, x, stats, (weight, bias), axis, None, out)


class RMSNorm(Norm):
    """rms_norm(x, weight=None, *, axis=-1, eps=None, offset=0.0) = x/sqrt(mean(x²) + eps)*(offset + weight)

    Parameters
    ----------
    x : array_like
        Of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64.
    weight : array_like of floats, optional
        One value for each position along the axis.
    axis : int
        The axis that a row lies along; the mean is that of a row.
    eps : float, optional
        Positive and finite; by default ``finfo(dtype).eps`` of the result's dtype, as in PyTorch.
    offset : float
        Added to `weight`; 1 for weights that are stored as differences from 1.
    out : ndarray, optional
        Of x's shape, also x itself.

    Returns
    -------
    ndarray
        Of x's shape. A row with NaN or an infinity, or whose mean square is beyond the range of the dtype it is
        computed in, is NaN. ``rms_norm.forward(...)`` gives ``(y, stats)``, and
        ``rms_norm.backward(dy, x, stats, weight)`` the gradients ``(dx, dweight, None)``.

    Raises
    ------
    TypeError
        If an array is masked, complex or of objects, strings or dates, `weight` is of integers, or a number is none;
        nothing is written.
    AxisError, ValueError
        If the axis is out of range, `weight` is not as long as it, `eps` is not positive and finite, there is an
        `offset` and no `weight`, or `out` cannot be written; nothing is.

    Notes
    -----
    Zhang and Sennrich, Root Mean Square Layer Normalization, NeurIPS 2019. float16 and bfloat16 are computed in
    float32.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> print(fa.rms_norm([[3.0, 4.0, 5.0, 0.0]], eps=1e-12).round(4))
    [[0.8485 1.1314 1.4142 0.    ]]
    >>> print(fa.rms_norm([1.0, -1.0], np.array([0.5, 0.0]), offset=1.0, eps=1e-12).round(6))
    [ 1.5 -1. ]
    """

    name = "rms_norm"
    columns = ("weight",)
    nstat = 1

    def __call__(
        self, x: Any, weight: Any = None, *, axis: int = -1, eps: float | None = None, offset: float = 0.0,
        out: Any = None,
    ) -> Any:  # fmt: skip
        return self._run(x, (weight,), axis, _default_eps(x, weight, eps), _given(offset), out, False)

    def forward(
        self, x: Any, weight: Any = None, *, axis: int = -1, eps: float | None = None, offset: float = 0.0,
        out: Any = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        """The norm and what its gradient needs.

        Parameters
        ----------
        x, weight, **keywords
            As for the norm itself.

        Returns
        -------
        y : ndarray
            As the norm itself gives it.
        stats : ndarray
            1/sqrt(mean(x²) + eps) of each row, of x's shape without the axis, in the dtype that is computed in, float32
            or float64.

        Raises
        ------
        TypeError, ValueError
            As the norm itself; nothing is written.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> y, stats = fa.rms_norm.forward(np.array([[2.0, -2.0], [3.0, 4.0]]), eps=1e-12)
        >>> print(y.round(4), stats.round(4))
        [[ 1.     -1.    ]
         [ 0.8485  1.1314]] [0.5    0.2828]
        """
        eps = _default_eps(x, weight, eps)
        return self._run(x, (weight,), axis, eps, _given(offset), out, True)  # type: ignore[no-any-return]

    def backward(
        self, dy: Any, x: Any, stats: Any, weight: Any = None, *, axis: int = -1, offset: float = 0.0, out: Any = None
    ) -> tuple[Array, Array | None, None]:
        """The gradients by x and weight, in one pass over dy and x.

        Parameters
        ----------
        dy : array_like of floats
            The gradient by y, of x's shape.
        x, weight : array_like
            As given to `forward`.
        stats : array_like
            What `forward` returned.
        axis, offset
            As given to `forward`.
        out : ndarray, optional
            For dx, of x's shape; also `dy` or `x`.

        Returns
        -------
        dx : ndarray
            Of x's shape, and of the dtype that `dy`, `x` and `weight` have in common.
        dweight : ndarray or None
            A sum over all rows, in an order that depends on the shape alone; None where there is no `weight`.
        dbias : None
            There is no bias.

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
        >>> x, weight = np.array([[1.0, -1.0]]), np.array([1.0, 2.0])
        >>> y, stats = fa.rms_norm.forward(x, weight)
        >>> dx, dweight, _ = fa.rms_norm.backward(np.array([[1.0, 0.0]]), x, stats, weight)
        >>> print(dx.round(6), dweight.round(6))
        [[0.5 0.5]] [1. 0.]
        """
        dx, dweight, _ = self._gradients(dy, x, stats, (weight,), axis, _given(offset), out)
        return dx, dweight, None


def _given(offset: Any) -> Any:
    # None where there is nothing to add
    return None if type(offset) is float and offset == 0.0 else offset


# of arrays that take the quick way, by the dtype of x
_EPS = {np.dtype(name): float(np.finfo(name).eps) for name in ("float32", "float64")}


def _default_eps(x: Any, weight: Any, eps: float | None) -> float | None:
    if eps is None and type(x) is np.ndarray and (weight is None or getattr(weight, "dtype", None) == x.dtype):
        return _EPS.get(x.dtype)
    return eps


layer_norm = LayerNorm()
rms_norm = RMSNorm()


def _unpickle(name: str) -> Any:
    from fastact.api.functions import FUNCTIONS

    return FUNCTIONS[name]
