"""Activations of arrays on a GPU: what a ufunc does on the host."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from fastact.api import device_plain
from fastact.api.arguments import outs_of
from fastact.api.device import Operands, broadcast_shape, safe_to_write
from fastact.backends.cuda import families, maps
from fastact.backends.cuda.array import DeviceArray
from fastact.backends.cuda.dtypes import FLOATS, rounded
from fastact.spec.kernel import compute_dtype, kernel_of
from fastact.spec.kinds import ALL
from fastact.spec.messages import no_loop_names
from fastact.spec.table import Op

# of a ufunc; casting is as by default
KEYWORDS = ("out", "where", "dtype")


def call(
    name: str, op: Op, kind: str, arrays: tuple[Any, ...], params: Mapping[str, Any], keywords: Mapping[str, Any]
) -> Any:
    """A kind of an activation.

    Parameters
    ----------
    name : str
        Of the function, for messages.
    op : Op
    kind : str
    arrays : tuple
        By position.
    params : mapping
        A value of each parameter: a number or an array.
    keywords : mapping
        Those of a ufunc.
    """
    found, outputs = (
        Operands(name, {**dict(zip((a.name for a in ALL[kind].inputs), arrays)), **params}, True),
        ALL[kind].outputs,
    )
    for keyword in keywords:
        if keyword not in KEYWORDS:
            raise TypeError(f"{name}: {keyword} is not taken with arrays on a GPU")
    dtype = _dtype(found, arrays, keywords.get("dtype"))
    mask = found.mask(keywords.get("where", True))
    outs = outs_of(name, keywords.get("out"), outputs)
    given = {what: found.view(what, out) for what, out in outs if out is not None}
    # as NumPy's, functions fill arrays that are larger than what they compute
    shape = broadcast_shape(name, {**found.views, **({} if mask is None else {"where": mask})})
    with suppress(ValueError):  # an out that does not fit is named below
        shape = np.broadcast_shapes(shape, *(view.shape for view in given.values()))
    results = [found.result(what, out, shape, dtype) for what, out in outs]
    written = [view for _, view in results]
    read = {what: view.broadcast_to(shape) for what, view in found.views.items()}
    # as an array of the dtype holds them
    numbers = {k: rounded(float(v), dtype) for k, v in {**params, **found.numbers}.items() if k not in read}
    values: dict[str, float | DeviceArray] = {**numbers, **read}
    inputs = [values[a.name] for a in ALL[kind].inputs]
    mask = None if mask is None else mask.broadcast_to(shape)
    held = [*read.values(), *([] if mask is None else [mask])]
    # what is computed in 16 bits is rounded to them first, whatever `out` is
    narrow = dtype != compute_dtype(dtype)
    targets = [
        w
        if safe_to_write(w, [*held, *written[:i]]) and (w.dtype == dtype or not narrow)
        else found.scratch(shape, dtype)
        for i, w in enumerate(written)
    ]
    maps.run(kernel_of(op, kind, dtype), inputs, [values[p.name] for p in op.params], targets, found.stream, mask)
    for target, view in zip(targets, written):
        # what the mask leaves out stays
        maps.copy(target, view, found.stream, mask)
    own = families.family_of(type(arrays[0]))
    if own is not None and own.name == "PyTorch":
        device_plain.register(type(arrays[0]))
    return found.done(*(array for array, _ in results))


def _dtype(found: Operands, arrays: tuple[Any, ...], asked: Any) -> str:
    """The dtype that is computed in: that of the arrays, or the one asked for; NumPy's numbers have one, too."""
    own = found.dtype(given=arrays)
    if asked is None:
        return own
    name = getattr(asked, "name", None) or np.dtype(asked).name
    if name not in FLOATS:
        raise TypeError(no_loop_names(f"ufunc {found.name!r}", [name]))
    return name
