"""Which row kernels there are, and their formulas over one backend's primitives."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

from fastact.loops import rows as row_kernels
from fastact.maths import rows as row_formulas
from fastact.maths.grammar import bind, source_hash

# kernel -> the function of row_kernels, and SIGN there
KERNELS: dict[str, tuple[str, int]] = {
    "softmax": ("softmax", 1),
    "softmin": ("softmax", -1),
    "log_softmax": ("log_softmax", 1),
    "sparsemax": ("sparsemax", 1),
    "logsumexp": ("logsumexp", 1),
    "softmax_backward": ("softmax_backward", 1),
    "softmin_backward": ("softmax_backward", -1),
    "log_softmax_backward": ("log_softmax_backward", 1),
    "sparsemax_backward": ("sparsemax_backward", 1),
    "cross_entropy": ("cross_entropy", 1),
    "cross_entropy_of_shares": ("cross_entropy_of_shares", 1),
    "sigmoid_cross_entropy": ("sigmoid_cross_entropy", 1),
}
# formulas that give more than one value
PAIRS = {"row_shift": 2, "two_sum": 2, "reciprocal": 2, "pair_add": 2, "add_share": 2}


def formulas() -> dict[str, FunctionType]:
    """The formulas of ``row_formulas``."""
    found = {n: f for n, f in vars(row_formulas).items() if inspect.isfunction(f)}
    return {n: f for n, f in found.items() if f.__module__ == row_formulas.__name__}


def bind_rows(primitives: Mapping[str, Callable[..., Any]], dtype: str) -> dict[str, Callable[..., Any]]:
    """`bind`, and every row formula. The others do not see the names of row formulas."""
    env: dict[str, Any] = bind(primitives, dtype)
    env = dict(env)
    for name, function in formulas().items():
        env[name] = FunctionType(function.__code__, env, name)
    return env


@cache
def row_source_hash(dtype: str) -> str:
    """A hash of every source file that decides what a row kernel of this dtype computes."""
    digest = hashlib.sha256(source_hash(dtype).encode())
    for file in (row_formulas.__file__, row_kernels.__file__, __file__):
        digest.update(Path(str(file)).read_bytes())
    return digest.hexdigest()
