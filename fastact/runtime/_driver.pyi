from collections.abc import Callable as _Callable
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

DTYPES: tuple[str, ...]
ARITHMETIC: dict[tuple[str, str], int]
RANDOM_ISA: tuple[str, ...]
NARROW_BYTES: int
fma: np.ufunc

class Function:
    ufunc: np.ufunc
    masked: np.ufunc
    name: str
    def __init__(
        self,
        name: str,
        doc: str,
        nin: int,
        nparam: int,
        nout: int,
        resolver: _Callable[[str, int], tuple[Any, Any, int, int]],
        lock: AbstractContextManager[Any],
        loop: str = "map",
        *,
        reduces: bool = False,
        fill_in: float = 0.0,
        fill: float = 0.0,
        filled: int = 0,
        roles: str = "",
        like: tuple[int, ...] = (),
        random: int = 0,
        phases: int = 0,
        side: bool = False,
    ) -> None: ...
    def reset(self) -> None: ...
    def address(self, dtype: str) -> int: ...
    def python(self, dtype: str) -> Any: ...
    def direct(self, arrays: tuple[Any, ...], out: Any, where: Any = None) -> Any: ...
    def call(self, arrays: tuple[Any, ...], axis: int, where: Any, out: Any, kwargs: dict[str, Any]) -> Any: ...
    def run_rows(
        self, arrays: tuple[Any, ...], rows: int, n: int, scalars: tuple[float, ...], flags: int, scratch: int = -1
    ) -> int: ...
    def run_led(self, arrays: tuple[Any, ...], mask: Any, scalars: tuple[float, ...], causal: bool) -> None: ...
    def plain_led(
        self, arrays: tuple[Any, ...], axis: Any, bias: Any, where: Any, out: Any, scale: Any, causal: Any
    ) -> NDArray[Any] | None: ...
    def plain_fused(
        self,
        arrays: tuple[Any, ...],
        params: tuple[float, ...],
        roles: str,
        axis: int | None,
        out: Any,
        random: tuple[float, float, int, int] | None = None,
    ) -> Any: ...
    def run_fused(
        self,
        dtype: str,
        arrays: tuple[Any, ...],
        roles: str,
        outer: int,
        channel: int,
        inner: int,
        random: tuple[float, float, int, int] | None = None,
    ) -> list[NDArray[Any]]: ...
    def plain_packed(
        self, dy: Any, packed: Any, gate_first: bool, axis: Any, params: tuple[float, ...], out: Any
    ) -> NDArray[Any] | None: ...
    def run_apart(self, dtype: str, arrays: tuple[Any, ...], roles: str, rows: int, n: int) -> None: ...

class Lists:
    params: tuple[NDArray[Any], ...]
    columns: tuple[tuple[NDArray[Any], ...], ...]
    copies: tuple[NDArray[Any], ...] | None
    def __init__(
        self,
        function: Function,
        dtype: str,
        params: tuple[NDArray[Any], ...],
        columns: tuple[tuple[NDArray[Any], ...], ...],
        copies: tuple[NDArray[Any], ...] | None,
    ) -> None: ...
    def plain(self, grads: Any) -> bool: ...
    def norm(self, grads: Sequence[NDArray[Any]]) -> float: ...
    def run(self, grads: Sequence[NDArray[Any]] | None, numbers: tuple[float, ...]) -> None: ...

def norm_of(arrays: Sequence[NDArray[Any]]) -> float: ...

class Callable:
    function: Function
    names: tuple[str, ...]
    defaults: tuple[float | None, ...]
    variants: tuple[str, Mapping[str, Any]] | None
    at_default: Callable | None
    called: str
    def __init__(
        self,
        called: str,
        make: _Callable[[], Function],
        narrays: int,
        names: tuple[str, ...],
        defaults: tuple[float | None, ...],
        domains: tuple[tuple[float, float, bool, bool, bool], ...],
        check: _Callable[[Mapping[str, Any]], dict[str, Any]],
        variants: tuple[str, Mapping[str, Any]] | None = None,
        at_default: Callable | None = None,
        ordered: tuple[int, ...] | None = None,
    ) -> None: ...
    def __call__(self, *arrays: Any, **kwargs: Any) -> Any: ...

class FusedCallable:
    def __call__(self, *arrays: Any, **kwargs: Any) -> Any: ...
    def plain(
        self, function: Function, numbers: tuple[float, ...], roles: str, narrays: int, along: int | None
    ) -> None: ...

_Class = TypeVar("_Class", bound=type)

def enable_vectorcall(cls: _Class) -> _Class: ...
def register_device_type(type_: type, call: _Callable[..., Any]) -> None: ...
def elsewhere(given: tuple[Any, ...]) -> bool: ...
def cpu_kind() -> tuple[str, int, int] | None: ...
def computing_dtype(dtypes: Sequence[np.dtype[Any]]) -> str | None: ...
def are_probabilities(x: NDArray[Any], tolerance: float, parallel_min: int) -> bool: ...
def check_labels(labels: NDArray[np.int64], classes: int, ignores: bool, ignored: int) -> int: ...
def at_labels(
    x: NDArray[Any],
    axis: int,
    labels: NDArray[np.int64],
    values: NDArray[Any],
    put: bool,
    parallel_min: int,
    chunk: int,
) -> None: ...
def pairwise(x: NDArray[Any]) -> float: ...
def side_by_side(columns: int) -> int: ...
def mean_by_label(
    function: Function, logits: Any, labels: Any, out: Any, grad: bool, smoothing: float, z: float
) -> tuple[Any, Any] | None: ...
def plain_norm(
    function: Function,
    x: Any,
    columns: tuple[Any, ...],
    out: Any,
    nstat: int,
    keep: bool,
    eps: float,
    then: tuple[Any, ...] | None = ...,
    residual: Any = ...,
) -> Any: ...
def plain_norm_backward(
    function: Function,
    dy: Any,
    x: Any,
    stats: Any,
    columns: tuple[Any, ...],
    out: Any,
    nstat: int,
    again: Function | None = ...,
    then: tuple[Any, ...] | None = ...,
) -> tuple[Any, Any, Any] | None: ...
def plain_batch_norm(
    moments: Function,
    values: Function,
    params: tuple[float, ...],
    x: Any,
    weight: Any,
    bias: Any,
    eps: float,
    sample: int,
    out: Any,
    running: tuple[Any, Any],
    momentum: float,
    unbiased: bool,
) -> tuple[Any, Any] | None: ...
def plain_batch_norm_backward(
    sums_of: Function,
    gradient: Function,
    params: tuple[float, ...],
    activated: bool,
    dy: Any,
    x: Any,
    stats: Any,
    weight: Any,
    bias: Any,
    out: Any,
) -> tuple[Any, Any, Any] | None: ...
def run_norm(
    function: Function,
    again: Function | None,
    then: tuple[Any, ...] | None,
    dtype: str,
    inputs: tuple[NDArray[Any], ...],
    columns: tuple[NDArray[Any], ...],
    stats: NDArray[Any] | None,
    nstat: int,
    outputs: tuple[NDArray[Any], ...],
    eps: float,
    sums: list[NDArray[Any]] | None = ...,
) -> None: ...
def configure(
    *,
    threads: int | None = None,
    stream_min: int | None = None,
    asleep_factor: int | None = None,
    asleep_chunks: int | None = None,
    spin_ns: int | None = None,
    driver_isa: str | None = None,
) -> None: ...
def status() -> dict[str, Any]: ...
