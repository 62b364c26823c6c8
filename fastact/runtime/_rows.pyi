from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES: tuple[str, ...]

class RowSlots:
    ufunc: np.ufunc
    masked: np.ufunc
    name: str
    resolver: Callable[[str], tuple[int | None, Callable[..., Any] | None, int, int, int]]
    def __init__(
        self,
        name: str,
        doc: str,
        nin: int,
        reduces: bool,
        fill_in: float,
        fill: float,
        resolver: Callable[[str], tuple[int | None, Callable[..., Any] | None, int, int, int]],
        lock: AbstractContextManager[Any],
    ) -> None: ...
    def reset(self) -> None: ...
    def direct(self, arrays: tuple[Any, ...], out: Any) -> Any: ...
    def call(self, arrays: tuple[Any, ...], axis: int, where: Any, out: Any, kwargs: dict[str, Any]) -> Any: ...

def pairwise(x: NDArray[Any]) -> float: ...
def cross_entropy(
    slots: RowSlots,
    x: NDArray[Any],
    labels: NDArray[np.int64],
    weights: NDArray[Any] | None,
    loss: NDArray[Any],
    dx: NDArray[Any] | None,
    factor: float,
) -> None: ...
def cross_entropy_of_shares(
    slots: RowSlots, x: NDArray[Any], targets: NDArray[Any], loss: NDArray[Any], dx: NDArray[Any] | None, factor: float
) -> None: ...
def sigmoid_cross_entropy(
    slots: RowSlots,
    x: NDArray[Any],
    targets: NDArray[Any],
    weights: NDArray[Any] | None,
    positive: NDArray[Any] | None,
    sums: NDArray[Any],
    dx: NDArray[Any] | None,
    losses: NDArray[Any] | None,
    n: int,
    factor: float,
) -> None: ...
def fast_cross_entropy(
    slots: RowSlots, logits: Any, labels: Any, out: NDArray[Any] | None, grad: bool
) -> tuple[Any, Any] | None: ...
