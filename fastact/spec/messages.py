"""What errors say, in the same words wherever they are raised."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np


def kinds(classes: Iterable[type]) -> str:
    """DType classes by the names that users know.

    Examples
    --------
    >>> kinds([type(np.dtype("complex64")), type(np.dtype("U8"))])
    'complex64, str'
    """
    names = (cls.__name__.replace("DType", "").lower().removeprefix("_py") for cls in classes)
    # of a dtype that is not NumPy's: dtype[bfloat16]
    return ", ".join(name.removeprefix("dtype[").removesuffix("]") for name in names)


def unsupported(function: str, classes: Iterable[type]) -> str:
    """The message of a `TypeError` for inputs of these DType classes.

    Examples
    --------
    >>> print(unsupported("softmax", [type(np.dtype("complex64"))]))
    softmax is not supported for the input types (complex64): it takes real floating-point arrays (float16, bfloat16, \
float32, float64), and integers and booleans as float64
    """
    return unsupported_names(function, [kinds(classes)])


def unsupported_names(function: str, names: Iterable[str]) -> str:
    """The same by the names of dtypes."""
    return (
        f"{function} is not supported for the input types ({', '.join(names)}): it takes real floating-point arrays "
        "(float16, bfloat16, float32, float64), and integers and booleans as float64"
    )


def no_loop(function: str, classes: Iterable[type]) -> str:
    """The message of a `TypeError` for a ``dtype`` or ``signature`` of these DType classes."""
    return no_loop_names(function, [kinds(dict.fromkeys(classes))])


def no_loop_names(function: str, names: Iterable[str]) -> str:
    """The same by the names of dtypes."""
    return (
        f"{function} does not compute in {', '.join(names)}: only in float16, bfloat16, float32 or "
        "float64, the same for all its arrays"
    )


def shown(value: Any) -> str:
    """A number as it is, an array or a list by its dtype and shape.

    Examples
    --------
    >>> shown("much"), shown([1j, 2])
    ("'much'", 'an array of complex128 of shape (2,)')
    """
    array = np.asarray(value)
    return f"an array of {array.dtype} of shape {array.shape}" if array.ndim else repr(array.item())


def at(index: tuple[int, ...]) -> str:
    """Where in an array, as the end of a sentence; nothing for a number.

    Examples
    --------
    >>> at((2,)), at((0, 3)), at(())
    (' at position 2', ' at position (0, 3)', '')
    """
    return f" at position {index[0] if len(index) == 1 else index}" if index else ""


def first(bad: Any) -> tuple[int, ...]:
    """The index of the first True.

    Examples
    --------
    >>> first(np.array([[False, False], [True, True]]))
    (1, 0)
    """
    bad = np.asarray(bad)
    return tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
