"""The ufuncs by their names, which is where pickle finds them: Dask sends them to its workers.

>>> from fastact import ufuncs
>>> ufuncs.elu_backward
<ufunc 'elu_backward'>
"""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def _methods() -> dict[str, Any]:
    from fastact.api.activation import Method, activations
    from fastact.api.functions import FUNCTIONS
    from fastact.api.over_axis import RowFunction, RowMethod
    from fastact.spec.kinds import kinds_of

    found: dict[str, Any] = {}
    for activation in activations.values():
        for kind in kinds_of(activation.op):
            method = activation if kind == "forward" else getattr(activation, kind)
            for each in (method, method.at_default) if isinstance(method, Method) else ():
                if each is not None:
                    found[each.function.name] = each
    for function in FUNCTIONS.values():
        if isinstance(function, RowMethod):
            found[function.name] = function
            if isinstance(function, RowFunction):
                found[f"{function.name}_backward"] = function.backward
    return found


def __getattr__(name: str) -> Any:
    method = None if name.startswith("_") else _methods().get(name)
    if method is None:
        raise AttributeError(f"fastact has no ufunc {name!r}")
    return method.ufunc
