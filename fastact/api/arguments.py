"""Checks of arguments that functions over an axis and losses have in common."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastact import dispatch
from fastact.runtime import _driver
from fastact.spec.call import SEGMENT
from fastact.spec.kernel import compute_dtype, itemsize, row_kernel_of
from fastact.spec.kinds import Argument
from fastact.spec.messages import shown, unsupported
from fastact.spec.rows import ROWS


def integer(what: str, value: Any, kinds: str = "an integer") -> int:
    """A value as an index; `TypeError` for anything else."""
    # NumPy's axes take no booleans either
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"{what} must be {kinds}, not {type(value).__name__}")


def number(what: str, value: Any) -> float:
    """A real number as a float; `TypeError` for anything else."""
    if type(value) is float:
        return value
    array = np.asarray(value)
    if array.ndim or (array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16"):
        raise TypeError(f"{what} must be a number, not {shown(value)}")
    return float(array)


# what PyTorch calls them
_SAME = {"dim": "axis", "dims": "axis", "keepdim": "keepdims", "input": "x", "other": "y"}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name that was probably meant.

    Examples
    --------
    >>> nearest("alhpa", ["alpha", "out"]), nearest("dim", ["axis"]), nearest("LeakyReLU", ["leaky_relu", "relu"])
    ('alpha', 'axis', 'leaky_relu')
    """
    import difflib

    plain: dict[str, str] = {}
    for other in known:
        plain.setdefault(other.replace("_", "").lower(), other)
    if _SAME.get(name) in plain.values():
        return _SAME[name]
    found = difflib.get_close_matches(name.replace("_", "").lower(), plain, n=1, cutoff=0.6)
    return plain[found[0]] if found else None


def no_attribute(owner: str, name: str, known: Iterable[str]) -> str:
    """The message of an `AttributeError`, with the nearest name."""
    near = None if name.startswith("_") else nearest(name, known)
    return f"{owner} has no attribute {name!r}" + (f"; did you mean {near!r}?" if near else "")


def unexpected(function: str, name: str, known: Iterable[str]) -> str:
    """The message of a `TypeError` for a keyword that a function does not take, with the nearest one."""
    known = list(known)
    near = nearest(name, known)
    hint = f"did you mean {near!r}?" if near else f"it takes {', '.join(known)}"
    return f"{function}() got an unexpected keyword argument {name!r}; {hint}"


def refuse_masked(name: str, arrays: Iterable[Any], instead: str, lazy: bool = False) -> None:
    """`TypeError` where one is a masked array, whose mask would be lost, or of Dask: see `refuse_lazy`."""
    for a in arrays:
        if type(a) is np.ndarray or a is None:
            continue
        # only a subclass asks for numpy.ma, which is not always imported
        if isinstance(a, np.ndarray) and isinstance(a, np.ma.MaskedArray):
            raise TypeError(f"{name}: masked arrays are not taken; pass {instead}")
        if not lazy:
            refuse_lazy(name, a)


def refuse_lazy(name: str, array: Any) -> None:
    """`TypeError` for an array of Dask, which would be computed at once, as a whole and without a word."""
    graph = getattr(type(array), "__dask_graph__", None)
    if graph is not None and graph(array) is not None:
        raise TypeError(
            f"{name}: arrays of Dask are not taken; pass x.compute(), or map it over blocks by dask.array.map_blocks"
        )


def is_labelled(array: Any) -> bool:
    """Whether it is a DataArray of xarray."""
    return type(array).__module__.partition(".")[0] == "xarray" and hasattr(array, "dims")


def bare(array: Any) -> Any:
    """What a DataArray of xarray holds; anything else as it is."""
    return array.data if is_labelled(array) else array


# for functions without a mask of their own
FILLED = "x.filled(value)"


def broadcast(what: str, array: NDArray[Any], shape: tuple[int, ...], to: str) -> NDArray[Any]:
    """`ValueError` that names the array where it does not broadcast."""
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(f"{what} of shape {array.shape} does not broadcast to {to} of {shape}") from None


def check_out(name: str, out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], casting: Any = "same_kind") -> None:
    """An error where `out` cannot take a result."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name}: out must be an array, not {type(out).__name__}")
    if out.shape != shape:
        raise ValueError(f"{name}: out has shape {out.shape}, the result {shape}")
    if not np.can_cast(dtype, out.dtype, casting):
        raise TypeError(f"{name}: cannot write a result of {dtype} to out of {out.dtype} with casting {casting!r}")
    if not out.flags.writeable:
        raise ValueError(f"{name}: out is read-only")


def single_out(name: str, out: Any) -> Any:
    """`out` of a function of one result: an array, None, or a tuple of one."""
    if not isinstance(out, tuple):
        return out
    if len(out) != 1:
        raise ValueError(f"{name}: out must be one array, not {len(out)}")
    return out[0]


def outs_of(name: str, out: Any, outputs: Sequence[Argument]) -> list[tuple[str, Any]]:
    """What to call each output, and the array that is given for it, or None."""
    if len(outputs) == 1:
        return [("out", single_out(name, out))]
    if out is None:
        out = (None,) * len(outputs)
    if not isinstance(out, tuple):
        raise TypeError(f"{name}: out must be a tuple of {len(outputs)} arrays, not {type(out).__name__}")
    if len(out) != len(outputs):
        raise ValueError(f"{name}: out must be {len(outputs)} arrays, not {len(out)}")
    return [(f"out for {a.name}", given) for a, given in zip(outputs, out)]


def memory_dtype(name: str, dtypes: Sequence[np.dtype[Any]]) -> tuple[str, np.dtype[Any]]:
    """The dtype in which arrays of these lie before a kernel, by name and in the order of bytes that it takes."""
    found = _driver.computing_dtype(dtypes)
    if found is None:
        raise TypeError(unsupported(name, map(type, dtypes)))
    memory = next((d for d in dtypes if d.name == found), None) or np.dtype(found)
    return found, memory if memory.isnative else memory.newbyteorder("=")


def contiguous(array: Any, dtype: Any) -> NDArray[Any]:
    """An array as kernels take it: contiguous, aligned, of a dtype."""
    if type(array) is np.ndarray and array.dtype == dtype:
        flags = array.flags
        if flags.c_contiguous and flags.aligned:
            return array
    with np.errstate(all="ignore"):
        array = np.asarray(array, dtype, order="C")
    return array if array.flags.aligned else array.copy()


def result_buffer(
    out: Any, shape: tuple[int, ...], dtype: Any, same: Iterable[Any] = (), others: Iterable[Any] = ()
) -> NDArray[Any]:
    """Where a kernel writes: to `out`, if that is laid out for it and nothing there is still to be read.

    Of `same` an element is read before the one in its place is written, `others` are read at any time; None is none.
    """

    def apart(a: Any) -> bool:
        return a is None or not np.may_share_memory(out, a)

    if (
        out is not None
        and out.shape == shape
        and out.dtype == dtype
        and out.flags.carray
        and all(apart(a) or (a.ctypes.data == out.ctypes.data and a.shape == shape) for a in same)
        and all(apart(a) for a in others)
    ):
        return out  # type: ignore[no-any-return]
    return np.empty(shape, dtype)


def delivered(out: Any, result: Any) -> Any:
    """The result, in `out` if there is one."""
    if out is None or result is out:
        return result
    with np.errstate(all="ignore"):
        np.copyto(out, result, casting="same_kind")
    return out


def row_plan(
    call: str, kernel: str, dtype: str, elements: int, rows: int | None, streams: bool = False
) -> dispatch.Plan:
    """What `explain` tells of a kernel over rows."""
    spec = row_kernel_of(kernel, compute_dtype(dtype))
    in_parts = ROWS[kernel].phases
    divided, up_to = in_parts and elements > SEGMENT, f" up to {SEGMENT} elements" if in_parts else ""
    return dispatch.Plan(
        call=call,
        size=f"{elements} elements of {dtype}" + (f" in {rows} row{'s' * (rows != 1)}" if rows is not None else ""),
        elements=elements,
        specs=(spec,),
        parallel_min=dispatch.limits(spec)[0],
        written=itemsize(dtype) * elements if streams else None,
        alone="a row is not divided" + up_to if rows == 1 and not divided else "",
    )


def dtypes_of(name: str, *arrays: Any) -> tuple[str, str]:
    """The dtype of a loss and its gradient, and the one it is computed in."""
    dtype = _driver.computing_dtype([a.dtype for a in arrays])
    if dtype is None:
        raise TypeError(unsupported(name, [type(a.dtype) for a in arrays]))
    return dtype, compute_dtype(dtype)
