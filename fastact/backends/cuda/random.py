"""Random numbers by their index, as kernels compute them: Philox 4x32-10, the stream of the CPU.

Number i of a stream is word i % 4 of the block of counter offset + i // 4 under the key `seed` (Salmon, Moraes, Dror
and Shaw, Parallel Random Numbers: as Easy as 1, 2, 3, SC 2011).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from fastact.backends.cuda.trace import Trace, Value
from fastact.spec.kernel import KernelSpec
from fastact.spec.kinds import Argument

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
STEPS = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
WORD = 0xFFFFFFFF


@cache
def kernel_of_numbers(spec: KernelSpec) -> KernelSpec:
    """The kernel with a random number of each element's index in the place of its parameters (role ``numbers``)."""
    weights = tuple(Argument(name, "numbers") for name in spec.params)
    return replace(spec, name=f"{spec.name}_random", inputs=spec.inputs + weights, params=())


def words(trace: Trace, counter: str) -> list[str]:
    """The names of the four words of a block, as integers below 2^32; `counter` and `seed` are integers of 64 bits."""
    names = [trace.name() for _ in range(4)]
    c0, c1, c2, c3 = names
    trace.line(f"{c0} = int64({counter} & {WORD})")
    trace.line(f"{c1} = int64(({counter} >> 32) & {WORD})")
    # a counter that is smaller than its offset has gone once around
    trace.line(f"{c2} = int64(1) if uint64({counter}) < uint64(offset) else int64(0)")
    trace.line(f"{c3} = int64(0)")
    k0, k1, a0, b0 = (trace.name() for _ in range(4))
    trace.line(f"{k0} = int64(seed & {WORD})")
    trace.line(f"{k1} = int64((seed >> 32) & {WORD})")
    for _ in range(ROUNDS):
        trace.line(f"{a0} = uint64({c0}) * uint64({MULTIPLIERS[0]})")
        trace.line(f"{b0} = uint64({c2}) * uint64({MULTIPLIERS[1]})")
        trace.line(f"{c0} = int64({b0} >> uint64(32)) ^ {c1} ^ {k0}")
        trace.line(f"{c1} = int64({b0} & uint64({WORD}))")
        trace.line(f"{c2} = int64({a0} >> uint64(32)) ^ {c3} ^ {k1}")
        trace.line(f"{c3} = int64({a0} & uint64({WORD}))")
        trace.line(f"{k0} = ({k0} + {STEPS[0]}) & {WORD}")
        trace.line(f"{k1} = ({k1} + {STEPS[1]}) & {WORD}")
    return names


def factors(trace: Trace, count: int, index: str) -> list[Value]:
    """The factors of a dropout for `count` elements from `index` on: 0 where a number is below p, else `factor`."""
    kept = trace.fresh(f"{trace.dtype}(factor)")
    zero = trace.value(0.0)
    found = _words(trace, count, index)
    return [trace.fresh(f"cuda.selp(({word} >> 8) >= threshold, {kept.name}, {zero.name})") for word in found]


def numbers(trace: Trace, count: int, index: str) -> list[Value]:
    """Numbers in a range for `count` elements from `index` on: ``low + range_·u``, u in [0, 1)."""
    low, width = trace.fresh(f"{trace.dtype}(low)"), trace.fresh(f"{trace.dtype}(range_)")
    found = [trace.fresh(f"{trace.dtype}({word} >> 8)") for word in _words(trace, count, index)]
    return [low + width * (u * 2.0**-24) for u in found]


def _words(trace: Trace, count: int, index: str) -> list[str]:
    """The words of `count` elements from `index` on; of more than one element it is a multiple of 4."""
    if count > 1:
        found = []
        for block in range(count // 4):
            at = trace.name()
            trace.line(f"{at} = offset + ({index} >> 2) + {block}")
            found += words(trace, at)
        return found
    at, word, chosen = trace.name(), trace.name(), trace.name()
    trace.line(f"{at} = offset + ({index} >> 2)")
    names = words(trace, at)
    trace.line(f"{word} = {index} & 3")
    low = f"({names[0]} if {word} == 0 else {names[1]})"
    high = f"({names[2]} if {word} == 2 else {names[3]})"
    trace.line(f"{chosen} = {low} if {word} < 2 else {high}")
    return [chosen]
