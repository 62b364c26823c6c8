"""Written by tools/stubs.py from the tables; not to be edited."""
# ruff: noqa
# fmt: off
# mypy: disable-error-code="override"
# pyright: reportIncompatibleMethodOverride=false

from collections.abc import Iterator, Mapping, Sequence, ValuesView
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

_A = TypeVar("_A", bound=NDArray[Any])
_Number = float | np.floating[Any] | np.integer[Any]
_Index = int | np.integer[Any]
_Arrays = Sequence[NDArray[Any]] | ValuesView[NDArray[Any]] | Iterator[NDArray[Any]]

class Optimiser:
    params: list[NDArray[Any]]
    state: dict[str, list[NDArray[Any]]]
    lr: float
    @property
    def steps(self) -> int: ...
    @overload
    def step(
        self, grads: _Arrays, *, lr: _Number | None = None, max_norm: None = None, scale: _Number = 1.0
    ) -> None: ...
    @overload
    def step(
        self, grads: _Arrays, *, lr: _Number | None = None, max_norm: _Number, scale: _Number = 1.0
    ) -> float: ...
    def state_dict(self) -> dict[str, NDArray[Any]]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

def clip_grad_norm_(grads: _Arrays | NDArray[Any], max_norm: _Number) -> float: ...

class SGD(Optimiser):
    def __init__(self, params: _Arrays, lr: _Number = 0.001, momentum: _Number = 0.0, nesterov: bool = False, weight_decay: _Number = 0.0, *, master: bool = False) -> None: ...
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float

def sgd_(p: _A, g: NDArray[Any], b: NDArray[Any] | None = None, *, lr: _Number, momentum: _Number = 0.0, nesterov: bool = False, weight_decay: _Number = 0.0) -> _A: ...

class Adam(Optimiser):
    def __init__(self, params: _Arrays, lr: _Number = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: _Number = 1e-08, weight_decay: _Number = 0.0, *, keras: bool = False, master: bool = False) -> None: ...
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    keras: bool

def adam_(p: _A, g: NDArray[Any], m: NDArray[Any], v: NDArray[Any], *, step: _Index, lr: _Number, betas: tuple[float, float] = (0.9, 0.999), eps: _Number = 1e-08, weight_decay: _Number = 0.0, keras: bool = False) -> _A: ...

class AdamW(Optimiser):
    def __init__(self, params: _Arrays, lr: _Number = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: _Number = 1e-08, weight_decay: _Number = 0.01, *, keras: bool = False, master: bool = False) -> None: ...
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    keras: bool

def adamw_(p: _A, g: NDArray[Any], m: NDArray[Any], v: NDArray[Any], *, step: _Index, lr: _Number, betas: tuple[float, float] = (0.9, 0.999), eps: _Number = 1e-08, weight_decay: _Number = 0.01, keras: bool = False) -> _A: ...

class RMSprop(Optimiser):
    def __init__(self, params: _Arrays, lr: _Number = 0.01, alpha: _Number = 0.99, eps: _Number = 1e-08, weight_decay: _Number = 0.0, momentum: _Number = 0.0, *, keras: bool = False, master: bool = False) -> None: ...
    lr: float
    alpha: float
    eps: float
    weight_decay: float
    momentum: float
    keras: bool

def rmsprop_(p: _A, g: NDArray[Any], v: NDArray[Any], b: NDArray[Any] | None = None, *, lr: _Number, alpha: _Number = 0.99, eps: _Number = 1e-08, weight_decay: _Number = 0.0, momentum: _Number = 0.0, keras: bool = False) -> _A: ...

class Adagrad(Optimiser):
    def __init__(self, params: _Arrays, lr: _Number = 0.01, lr_decay: _Number = 0.0, weight_decay: _Number = 0.0, initial_accumulator_value: _Number = 0.0, eps: _Number = 1e-10, *, keras: bool = False, master: bool = False) -> None: ...
    lr: float
    lr_decay: float
    weight_decay: float
    initial_accumulator_value: float
    eps: float
    keras: bool

def adagrad_(p: _A, g: NDArray[Any], s: NDArray[Any], *, step: _Index, lr: _Number, lr_decay: _Number = 0.0, weight_decay: _Number = 0.0, eps: _Number = 1e-10, keras: bool = False) -> _A: ...

class Lion(Optimiser):
    def __init__(self, params: _Arrays, lr: _Number = 0.0001, betas: tuple[float, float] = (0.9, 0.99), weight_decay: _Number = 0.0, *, master: bool = False) -> None: ...
    lr: float
    betas: tuple[float, float]
    weight_decay: float

def lion_(p: _A, g: NDArray[Any], m: NDArray[Any], *, lr: _Number, betas: tuple[float, float] = (0.9, 0.99), weight_decay: _Number = 0.0) -> _A: ...

class Adamax(Optimiser):
    def __init__(self, params: _Arrays, lr: _Number = 0.002, betas: tuple[float, float] = (0.9, 0.999), eps: _Number = 1e-08, weight_decay: _Number = 0.0, *, keras: bool = False, master: bool = False) -> None: ...
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    keras: bool

def adamax_(p: _A, g: NDArray[Any], m: NDArray[Any], u: NDArray[Any], *, step: _Index, lr: _Number, betas: tuple[float, float] = (0.9, 0.999), eps: _Number = 1e-08, weight_decay: _Number = 0.0, keras: bool = False) -> _A: ...

class NAdam(Optimiser):
    def __init__(self, params: _Arrays, lr: _Number = 0.002, betas: tuple[float, float] = (0.9, 0.999), eps: _Number = 1e-08, weight_decay: _Number = 0.0, momentum_decay: _Number = 0.004, *, master: bool = False) -> None: ...
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    momentum_decay: float

def nadam_(p: _A, g: NDArray[Any], m: NDArray[Any], v: NDArray[Any], *, step: _Index, lr: _Number, betas: tuple[float, float] = (0.9, 0.999), eps: _Number = 1e-08, weight_decay: _Number = 0.0, momentum_decay: _Number = 0.004) -> _A: ...
