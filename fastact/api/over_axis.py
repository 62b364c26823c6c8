"""Functions over an axis: the softmax family."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastact import dispatch
from fastact.api.arguments import (
    bare,
    broadcast,
    check_out,
    dtypes_of,
    integer,
    is_labelled,
    memory_dtype,
    refuse_lazy,
    refuse_masked,
    row_plan,
    single_out,
    unexpected,
)
from fastact.api.replay import replayed
from fastact.api.shown import shown_names
from fastact.runtime import _driver
from fastact.spec.kernel import KernelSpec, compute_dtype, row_kernels_of
from fastact.spec.rows import ROWS

Axis = int | tuple[int, ...] | None

# dtypes that results have as they are
COMPUTED = {np.dtype(np.float32), np.dtype(np.float64)}
# CPython has one object for it; any other -1 takes the general way
LAST = -1

# keywords of a ufunc that all take
GENERAL = ("dtype", "casting", "order", "subok", "signature", "sig")

# what a masked array is in terms of these functions
WHERE = "x.data with where=~x.mask"


class RowMethod:
    """A function of arrays along an axis: a NumPy gufunc, and what its signature cannot say."""

    def __init__(self, name: str, nin: int, *, reduces: bool = False, fill_in: float = 0.0, fill: float = 0.0) -> None:
        self.__name__ = self.__qualname__ = self.name = name
        self._kernel = name.replace(".", "_")
        self._nin, self._reduces, self._fill_in, self._fill = nin, reduces, fill_in, fill
        self._function: _driver.Function | None = None
        self._kernels = {"forward": self._kernel}

    def kernels(self, kind: str, dtype: str) -> list[KernelSpec]:
        """The kernels behind a kind."""
        return row_kernels_of(self._kernels[kind], compute_dtype(dtype)) if kind in self._kernels else []

    @property
    def function(self) -> _driver.Function:
        """The gufuncs and their kernels, made when first needed."""
        if self._function is None:
            doc = f"{self.name} along the last axis; keyword axis chooses another."
            self._function = dispatch.make_rows(
                self._kernel, doc, self._nin, reduces=self._reduces, fill_in=self._fill_in, fill=self._fill
            )
        return self._function

    @property
    def ufunc(self) -> np.ufunc:
        """The `numpy.ufunc` itself, with a signature over the axis."""
        return self.function.ufunc

    def _along(self, arrays: tuple[Any, ...], axis: Axis, where: Any, out: Any, kwargs: dict[str, Any]) -> Any:
        function = self._function or self.function
        if where is True and axis is LAST and not kwargs:
            result = function.direct(arrays, out)
            if result is not None:
                return result
        if _driver.elsewhere((*arrays, out)):
            return self._on_device(arrays, axis, where, out, kwargs)
        if any(map(is_labelled, arrays)):
            return self._labelled(arrays, axis, where, out, kwargs)
        refuse_masked(self.name, (*arrays, where, *(out if isinstance(out, tuple) else (out,))), WHERE, lazy=True)
        axis = self._axis(axis)
        where = None if where is True or where is None else self._mask(arrays, where)
        self._known(kwargs)
        if isinstance(axis, int):
            if out is None:
                if not kwargs and not self._reduces:
                    out = self._like(arrays)
            else:
                self._fits(out, arrays, axis, kwargs)
            return function.call(arrays, axis, where, out, kwargs)
        return self._along_many(arrays, axis, where, out, kwargs)

    @replayed
    def _on_device(
        self, arrays: tuple[Any, ...], axis: Axis, where: Any, out: Any, kwargs: dict[str, Any], **more: Any
    ) -> Any:
        """The call for arrays on a GPU."""
        from fastact.api import device_rows

        axis = self._axis(axis)
        self._known(kwargs)
        keepdims = bool(kwargs.pop("keepdims", False))
        for keyword in kwargs:
            raise TypeError(f"{self.name}: {keyword} is not taken with arrays on a GPU")
        kernel = more.pop("kernel", self._kernel)
        names = [a.name for a in ROWS[kernel].inputs]
        return device_rows.call(
            self.name, kernel, dict(zip(names, arrays)), axis, where, single_out(self.name, out),
            fill_in=self._fill_in, reduces=self._reduces, keepdims=keepdims, **more,
        )  # fmt: skip

    def _known(self, kwargs: dict[str, Any]) -> None:
        """`TypeError` for a keyword that the function does not take."""
        for keyword in kwargs:
            if keyword not in GENERAL and not (keyword == "keepdims" and self._reduces):
                function: Any = self
                parameters = inspect.signature(function).parameters.values()
                own = (p.name for p in parameters if p.kind not in (p.POSITIONAL_ONLY, p.VAR_KEYWORD))
                raise TypeError(unexpected(self.name, keyword, [*own, *GENERAL]))

    def _fits(self, out: Any, arrays: tuple[Any, ...], axis: int, kwargs: dict[str, Any]) -> None:
        # NumPy's message is about the machinery of reductions; other mistakes it names well
        out = out[0] if isinstance(out, tuple) and len(out) == 1 else out
        try:
            shape = np.broadcast_shapes(*map(np.shape, arrays))
        except ValueError:
            return
        ndim = len(shape)
        if not isinstance(out, np.ndarray) or not -ndim <= axis < ndim:
            return
        if _driver.computing_dtype([np.asarray(a).dtype for a in arrays]) is None:
            return
        if self._reduces:
            i = axis % ndim
            shape = shape[:i] + ((1,) if kwargs.get("keepdims") else ()) + shape[i + 1 :]
        # as of any ufunc, the result may be repeated along new axes; a positive axis counts from the first of them
        repeats = out.ndim > len(shape) and (axis < 0 or self._reduces)
        if (out.shape[out.ndim - len(shape) :] if repeats else out.shape) != shape:
            raise ValueError(f"{self.name}: out has shape {out.shape}, the result {shape}")

    def _like(self, arrays: tuple[Any, ...]) -> Any:
        # a result laid out as the first array: NumPy's would have the axis contiguous, so that elements change places;
        # None where types or shapes are NumPy's to bring together
        first = arrays[0]
        if not all(type(a) is np.ndarray and a.ndim and a.shape == first.shape for a in arrays):
            return None
        dtypes = [a.dtype for a in arrays]
        if set(dtypes) == {first.dtype} <= COMPUTED:
            return np.empty_like(first)
        if _driver.computing_dtype(dtypes) is None:
            return None
        return np.empty_like(first, memory_dtype(self.name, dtypes)[1])

    def _axis(self, axis: Any) -> Axis:
        what, kinds = f"{self.name}: axis", "an integer, a tuple of integers or None"
        if isinstance(axis, tuple):
            return tuple(integer(what, i, kinds) for i in axis)
        return None if axis is None else integer(what, axis, kinds)

    def _mask(self, arrays: tuple[Any, ...], where: Any) -> Any:
        if not hasattr(where, "dtype") or isinstance(where, np.generic):
            where = np.asarray(where)
        if where.dtype != np.bool_:
            raise TypeError(f"{self.name}: where must be a mask of booleans, not {where.dtype}")
        shape = np.shape(arrays[0]) if len(arrays) == 1 else np.broadcast_shapes(*map(np.shape, arrays))
        if not isinstance(where, np.ndarray) or where.shape == shape:
            return where
        return broadcast(f"{self.name}: where", where, shape, "arrays")

    def _labelled(self, arrays: tuple[Any, ...], axis: Axis, where: Any, out: Any, kwargs: dict[str, Any]) -> Any:
        """Of DataArrays: the function of what they hold, under their names."""
        given = [a for a in (*arrays, where) if is_labelled(a)]
        like = given[0]
        if any(a.dims != like.dims for a in given):
            shown = " and ".join(str(a.dims) for a in given)
            raise ValueError(f"{self.name}: DataArrays must have the same dimensions in the same order, not {shown}")
        function: Any = self
        result = function(*map(bare, arrays), axis=axis, where=bare(where), out=out, **kwargs)
        dims = like.dims
        if self._reduces and not kwargs.get("keepdims"):
            along = np.lib.array_utils.normalize_axis_tuple(range(like.ndim) if axis is None else axis, like.ndim)
            dims = tuple(d for i, d in enumerate(dims) if i not in along)
        sizes = dict(zip(dims, np.shape(result)))
        coords = {name: c for name, c in like.coords.items() if all(sizes.get(d) == n for d, n in zip(c.dims, c.shape))}
        return result if out is not None else type(like)(result, coords, dims, like.name, like.attrs)

    def _along_many(self, arrays: tuple[Any, ...], axis: Axis, where: Any, out: Any, kwargs: dict[str, Any]) -> Any:
        # the axes go last, as one
        for a in arrays:
            refuse_lazy(f"{self.name} along several axes", a)
        out = single_out(self.name, out)
        keepdims = kwargs.pop("keepdims", False) if self._reduces else False
        arrays = tuple(np.asanyarray(a) for a in arrays)
        dtypes_of(self.name, *arrays)
        if where is not None:
            arrays += (where,)
        arrays = tuple(np.broadcast_arrays(*arrays, subok=True)) if len(arrays) > 1 else arrays
        ndim = arrays[0].ndim
        axes = tuple(range(ndim)) if axis is None else np.lib.array_utils.normalize_axis_tuple(axis, ndim)
        rest = tuple(i for i in range(ndim) if i not in axes)
        order = (*rest, *axes)
        shape = arrays[0].shape
        lead = tuple(shape[i] for i in rest)
        length = math.prod(shape[i] for i in axes)
        flat = [a.transpose(order).reshape(*lead, length) for a in arrays]
        mask = flat.pop() if where is not None else None
        result = self.function.call(tuple(flat), -1, mask, None, kwargs)
        if self._reduces:
            if keepdims:
                result = np.reshape(result, tuple(1 if i in axes else n for i, n in enumerate(shape)))
        else:
            result = np.reshape(result, (*lead, *(shape[i] for i in axes))).transpose(np.argsort(order))
        if out is None:
            return result if ndim else result[()]
        casting = kwargs.get("casting", "same_kind")
        check_out(self.name, out, np.shape(result), result.dtype, casting)
        np.copyto(out, result, casting=casting)
        return out

    def _plan(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dispatch.Plan:
        function: Any = self
        given = inspect.signature(function).bind_partial(*args, **kwargs).arguments
        refuse_masked(self.name, args[: self._nin], WHERE)
        arrays = [np.asarray(a) for a in args[: self._nin]]
        dtype = dtypes_of(self.name, *arrays)[0] if arrays else "float32"
        shape = np.broadcast_shapes(*(a.shape for a in arrays)) if arrays else (0, 0)
        axis = given.get("axis", -1)
        axes = np.lib.array_utils.normalize_axis_tuple(range(len(shape)) if axis is None else axis, len(shape))
        rows = math.prod(n for i, n in enumerate(shape) if i not in axes)
        name, _, method = self.name.partition(".")
        call = f"{name} {method or 'forward'}"
        return row_plan(call, self._kernel, dtype, math.prod(shape), rows, bool(self._nin))

    __dir__ = shown_names

    def __repr__(self) -> str:
        return f"<fastact.{self.name}>"

    def __reduce__(self) -> Any:
        return _unpickle, (self.name,)


# lines of docstrings
DTYPES = "Of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64."
KEYWORDS = "``dtype``, ``casting``, ``order`` and ``subok``, as of a `numpy.ufunc`."
ERRORS = """TypeError
            If an array is masked, complex or of objects, strings or dates, or `where` is not of booleans.
        AxisError, ValueError
            If an axis is out of range or named twice, shapes do not fit, or `out` cannot be written; nothing is.\
"""


class Backward(RowMethod):
    """The gradient of a row function, from its output: ``backward(dy, y, axis=-1)``."""

    def __init__(self, name: str, formula: str, example: str, doc: str | None = None) -> None:
        super().__init__(f"{name}.backward", 2)
        self.formula = formula
        self.__doc__ = (
            doc
            or f"""{name}.backward(dy, y, axis=-1) = {formula}

        The gradient by x, from the gradient `dy` by y and the output y = {name}(x) itself.

        Parameters
        ----------
        dy, y : array_like
            Of one shape, or broadcasting to one.
        axis : int, tuple of int or None
            As for {name}.
        where : array_like of bool
            As for {name}; the gradient is 0 where it does not hold.
        out : ndarray, optional
            Also `dy` or `y`.
        **kwargs
            {KEYWORDS}

        Returns
        -------
        ndarray
            Of the shape and dtype that `dy` and `y` broadcast to.

        Raises
        ------
        {ERRORS}

        Examples
        --------
        >>> import numpy as np, fastact as fa
        {example}
        """
        )

    def __call__(
        self, dy: Any, y: Any, /, axis: Axis = -1, *, where: Any = True, out: Any = None, **kwargs: Any
    ) -> Any:
        return self._along((dy, y), axis, where, out, kwargs)


class RowFunction(RowMethod):
    """A function along an axis whose result has the shape of its input.

    Attributes
    ----------
    name : str
    formula : str
        The definition as text.
    ufunc : numpy.ufunc
        The gufunc, signature ``(n)->(n)``.
    backward : Backward
        ``backward(dy, y, axis=-1)``: the gradient from the output.
    """

    def __init__(
        self,
        name: str,
        formula: str,
        gradient: str,
        source: str,
        examples: tuple[str, str],
        *,
        fill: float = 0.0,
        doc: str | None = None,
        backward: Backward | None = None,
    ) -> None:
        super().__init__(name, 1, fill_in=-math.inf if name != "softmin" else math.inf, fill=fill)
        self.formula = formula
        self.backward = backward or Backward(name, gradient, examples[1])
        self._kernels["backward"] = self.backward._kernel
        masked = "-inf" if fill else "0"
        self.__doc__ = (
            doc
            or f"""{name}(x, axis=-1) = {formula}

        Parameters
        ----------
        x : array_like
            {DTYPES}
        axis : int, tuple of int or None
            The axis or axes that a row lies along; None: all.
        where : array_like of bool
            Broadcasts to x: only the elements where it holds count; the others are {masked}.
        out : ndarray, optional
            Also x itself.
        **kwargs
            {KEYWORDS}

        Returns
        -------
        ndarray
            Of x's shape. A row that the mask leaves empty is {masked}; a row of -inf alone, or with +inf or NaN where
            it counts, is NaN; an empty axis gives an empty result.

        Raises
        ------
        {ERRORS}

        Notes
        -----
        {source}

        Examples
        --------
        >>> import numpy as np, fastact as fa
        {examples[0]}
        """
        )

    def __call__(self, x: Any, /, axis: Axis = -1, *, where: Any = True, out: Any = None, **kwargs: Any) -> Any:
        return self._along((x,), axis, where, out, kwargs)


class LogSumExp(RowMethod):
    """logsumexp(x, axis=-1, keepdims=False) = log(sum(exp(x)))

    Parameters
    ----------
    x : array_like
        Of float16, bfloat16 (ml_dtypes), float32 or float64; integers and booleans become float64.
    axis : int, tuple of int or None
        The axis or axes that a row lies along; None: all.
    keepdims : bool
        Keep the axis, with length 1.
    where : array_like of bool
        Broadcasts to x: only the elements where it holds count.
    out : ndarray, optional
        Of the result's shape.
    **kwargs
        ``dtype``, ``casting``, ``order`` and ``subok``, as of a `numpy.ufunc`.

    Returns
    -------
    ndarray or scalar
        Of x's shape without the axis. -inf for a row of which nothing counts, or -inf alone; inf for one with +inf; NaN
        for one with NaN.

    Raises
    ------
    TypeError
        If x is masked, complex or of objects, strings or dates, or `where` is not of booleans.
    AxisError, ValueError
        If an axis is out of range or named twice, shapes do not fit, or `out` cannot be written; nothing is.

    Notes
    -----
    No function of its output, the gradient is ``dy*fa.softmax(x, axis)``, dy with the axis kept.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> fa.logsumexp(np.array([[1000.0, 1000.0], [0.0, -np.inf]]))
    array([1000.69314718,    0.        ])
    """

    def __init__(self) -> None:
        super().__init__("logsumexp", 1, reduces=True, fill_in=-math.inf, fill=-math.inf)
        self.formula = "log(sum(exp(x)))"

    @property
    def backward(self) -> Backward:
        """`AttributeError`: the gradient is no function of the output."""
        raise AttributeError(
            "logsumexp has no backward: its gradient is not a function of its output; it is dy*softmax(x, axis), "
            "dy with the axis kept"
        )

    def __call__(
        self, x: Any, /, axis: Axis = -1, keepdims: bool = False, *, where: Any = True, out: Any = None, **kwargs: Any
    ) -> Any:
        if keepdims:
            kwargs["keepdims"] = True
        return self._along((x,), axis, where, out, kwargs)


log_softmax = RowFunction(
    "log_softmax",
    "x - log(sum(exp(x)))",
    "dy - exp(y)·sum(dy)",
    "Keeps its relative accuracy where x is the maximum and the result next to 0.",
    (
        """>>> print(fa.log_softmax([0.0, 100.0]))
        [-1.00000000e+02 -3.72007598e-44]""",
        """>>> print(fa.log_softmax.backward([1.0, 0.0], np.log([0.25, 0.75])))
        [ 0.75 -0.75]""",
    ),
    fill=-math.inf,
)
softmin = RowFunction(
    "softmin",
    "exp(-x)/sum(exp(-x))",
    "-y·(dy - sum(dy·y))",
    "softmax(-x).",
    (
        """>>> print(fa.softmin([0.0, -np.log(3.0)]))
        [0.25 0.75]""",
        """>>> print(fa.softmin.backward([1.0, 0.0], [0.25, 0.75]))
        [-0.1875  0.1875]""",
    ),
)
sparsemax = RowFunction(
    "sparsemax",
    "max(x - t, 0) with t such that its sum is 1",
    "dy - mean(dy where y > 0) where y > 0, else 0",
    "Martins and Astudillo, From Softmax to Sparsemax, ICML 2016.",
    (
        """>>> print(fa.sparsemax([1.0, 0.5, -1.0]))
        [0.75 0.25 0.  ]""",
        """>>> print(fa.sparsemax.backward([1.0, 0.0, 5.0], [0.75, 0.25, 0.0]))
        [ 0.5 -0.5  0. ]""",
    ),
)
logsumexp = LogSumExp()


def _unpickle(name: str) -> Any:
    from fastact.api.functions import FUNCTIONS

    function, _, method = name.partition(".")
    return getattr(FUNCTIONS[function], method) if method else FUNCTIONS[function]
