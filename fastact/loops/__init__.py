"""Kernels over rows: the loops, once, for every backend (docs/design.md, 'Kernels over rows').

Numba compiles these functions as they stand, with the names below bound for a dtype; the annotations are the types that
a renderer to a typed language needs. A `Vec` is 64 bytes wide on every machine and a `Quad` four of them, so that a sum
has the same order of additions everywhere; a row value (a maximum, a sum) is a `Vec` with the value in all lanes.

A kernel has up to three forms (`fastact.spec.rows`):

- ``NAME`` takes whole rows, contiguous, of any length;
- ``NAME_side`` takes rows side by side: LANES of them in lanes, so that what a `Vec` holds of a row (a maximum, a sum)
  differs from lane to lane. It brings their elements together first, in memory that is the argument after the last one.
  Lane l of a vector of one row's elements elsewhere is chain l here: the order of additions is the same;
- ``NAME_part`` takes segments of one row, in phases: the greatest element of each segment, then its sums, then the
  results. What a phase finds out goes to a record of each segment, the argument after the last one.

``LANES`` elements of ``SIZE`` bytes make a vector, ``QUAD`` elements four, ``GROUP`` elements two quads. ``SIGN`` is -1
for softmin, else 1. A function called ``total__NAME`` is `total` with the formula NAME for ``each``; ``block__each`` in
it is `block` with the same formula.
Formulas of ``fastact.maths.rows`` take `Vec` and `Quad` alike; beside them there are

==========================================  ============================================================================
``load(p)``, ``load4(p, apart)``            a `Vec`; a `Quad` of vectors so many bytes apart
``load_some(p, count, fill)``               the first `count` lanes, `fill` in the others; no byte more is read
``signed(p)``, ``signed4(p, apart)``        the same times SIGN
``signed_some(p, count)``                   the first `count` lanes times SIGN, -inf in the others
``store``, ``store4``, ``store_some``       ``(p, v)``, ``(p, v, apart)``, ``(p, v, count)``
``store_value(p, v)``                       the first lane alone
``stream(p, v)``, ``fence()``               past the cache to an aligned p; after the last one
``prefetch(p)``                             into the L2 cache, if p can be read
``stack()``                                 STACK bytes of the kernel's own memory, aligned to a vector
``splat(s)``, ``splat4(s)``                 a number in all lanes
``load_int(p)``, ``load_value(p)``          an int64; an element, in all lanes
``load_param(p)``, ``number(i)``            a double rounded to the dtype, an integer, in all lanes
``gather4(v)``                              the sum of a quad's vectors: (0 + 1) + (2 + 3)
``greatest4(v)``                            the maximum of a quad's vectors
``max_lanes(v)``, ``sum_lanes(v)``          over the lanes: i with i ^ LANES/2, then i ^ LANES/4, …; in all lanes
``sum_lanes_pair(high, low)``               likewise to twice the precision, in two parts: float64 by ``pair_add``;
                                            float32 in float64, high + low, then lanes i, i + 8, then i ^ 4, 2, 1
``across_max(p)``, ``across_sum(p)``        in lane i ``max_lanes``, ``sum_lanes`` of vector i of the LANES at p
``across_sum_pair(p)``                      likewise ``sum_lanes_pair`` of vector i and 0
``down_sum(p)``, ``down_sum_pair(p, q)``    of lane i of the LANES vectors at p, added as ``across_sum`` adds lanes
``without(v, i)``, ``without4(v, i)``       0 in lane i, where there is such a lane
``first_lanes(v, count)``                   0 in the lanes from count on
``less(a, b)``                              whether a < b in lane 0
``meets(a, b)``                             whether a = b in some lane
==========================================  ============================================================================
"""

from __future__ import annotations

import inspect
from functools import cache
from importlib import import_module
from types import FunctionType
from typing import Any

MODULES = ("sums", "softmax", "side", "parts", "losses", "norms")

# bytes of a vector
VECTOR = 64


@cache
def functions() -> dict[str, FunctionType]:
    """The functions of all modules."""
    return {n: f for module in _modules() for n, f in vars(module).items() if inspect.isfunction(f)}


@cache
def constants() -> dict[str, int | float]:
    """The constants of all modules, those of the calling convention that they use, and VECTOR."""
    return {"VECTOR": VECTOR} | {n: v for module in _modules() for n, v in vars(module).items() if n.isupper()}


def _modules() -> list[Any]:
    return [import_module(f"{__name__}.{name}") for name in MODULES]
