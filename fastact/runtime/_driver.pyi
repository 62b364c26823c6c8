from collections.abc import Callable as _Callable
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import numpy as np

DTYPES: tuple[str, ...]
fma: np.ufunc

class UfuncSlots:
    ufunc: np.ufunc
    name: str
    def __init__(
        self,
        name: str,
        doc: str,
        nin: int,
        nparam: int,
        nout: int,
        resolver: _Callable[[str], tuple[int | None, _Callable[..., Any] | None, int, int]],
        lock: AbstractContextManager[Any],
    ) -> None: ...
    def reset(self) -> None: ...
    def address(self, dtype: str) -> int: ...

class Callable:
    slots: UfuncSlots
    names: tuple[str, ...]
    defaults: tuple[float | None, ...]
    variants: tuple[str, Mapping[str, Any]] | None
    at_default: Callable | None
    called: str
    def __init__(
        self,
        called: str,
        make: _Callable[[], UfuncSlots],
        narrays: int,
        names: tuple[str, ...],
        defaults: tuple[float | None, ...],
        check: _Callable[[Mapping[str, Any]], None],
        variants: tuple[str, Mapping[str, Any]] | None = None,
        at_default: Callable | None = None,
    ) -> None: ...
    def __call__(self, *arrays: Any, **kwargs: Any) -> Any: ...

_Class = TypeVar("_Class", bound=type)

def enable_vectorcall(cls: _Class) -> _Class: ...
def computing_dtype(dtypes: Sequence[np.dtype[Any]]) -> str | None: ...
def configure(
    *,
    threads: int | None = None,
    stream_min: int | None = None,
    asleep_factor: int | None = None,
    spin_ns: int | None = None,
) -> None: ...
def status() -> dict[str, Any]: ...
