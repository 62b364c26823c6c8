"""Piecewise polynomials for ``fastact/maths/elementary/float32_tables.py``: fits them and writes that file.

    python tools/lookup_tables.py

Each function is fitted on [0, limit) in 8 or 16 intervals, or on (-limit, limit) in 15. They are of equal width, or
become narrower as t grows. The polynomial's variable is the distance from the centre of the interval, in that around 0
from 0, so that what is 0 at 0 keeps its relative accuracy. The coefficients of an interval are rounded to float32 one
after the other, lowest first: each time the others are fitted again, by weighted least squares at Chebyshev nodes, to
what the rounded ones leave. Needs mpmath.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import mpmath as mp
import numpy as np

FILE = Path(__file__).parent.parent / "fastact" / "maths" / "elementary" / "float32_tables.py"
Real = Callable[[mp.mpf], mp.mpf]
# 1.5·2^23, to which a float32 adds an integer by rounding
MAGIC = 12582912.0
# the interval whose number no x has where there are as many below 0
UNUSED = -8


@dataclass(frozen=True)
class Table:
    """A function to fit.

    Attributes
    ----------
    name : str
        Of the formula.
    text : str
        What it computes.
    function : callable
    width : float
        Of the intervals, of the first where they become narrower. Its bits are few: multiples of it are exact.
    degree : int
    count : int
        How many intervals: 8 or 16.
    end : float, optional
        The end of the range, where intervals become narrower: then they are equal in t/width + curve·t².
    both : bool
        Whether x may be negative: half of the intervals are below 0 then.
    apart : float
        A part of the slope at 0 that is exact and added last: so the rounding of the other part and of what it is
        added to counts less.
    least : float
        Errors count relative to the function's magnitude, or to this where that is less.
    """

    name: str
    text: str
    function: Real
    width: float
    degree: int
    count: int = 8
    end: float = 0.0
    both: bool = False
    apart: float = 0.0
    least: float = 0.0

    @property
    def intervals(self) -> list[int]:
        """Their numbers, in the order of the lowest bits of 1.5·2^23 plus each; one is `UNUSED`."""
        return [*range(8), *range(UNUSED, 0)] if self.both else [*range(self.count)]

    @property
    def limit(self) -> float:
        """The end of the range."""
        return self.end or (max(self.intervals) + 0.5) * self.width

    @property
    def curve(self) -> np.float32:
        """By how much of t² the number of t's interval is more than t/width."""
        return np.float32((self.count - 0.5 - self.end / self.width) / self.end**2 if self.end else 0.0)

    def place(self, u: mp.mpf) -> mp.mpf:
        """Where t/width + curve·t² is u."""
        a, b = 1 / mp.mpf(self.width), mp.mpf(float(self.curve))
        return (mp.sqrt(a * a + 4 * b * u) - a) / (2 * b) if b else u / a

    @cached_property
    def spans(self) -> dict[int, tuple[mp.mpf, mp.mpf, mp.mpf]]:
        """By the number of an interval its centre, and where it begins and ends, from there."""
        half, found = mp.mpf(1) / 2, {}
        for k in self.intervals:
            if k == UNUSED:
                continue
            low, high = self.place(k - half) if k or self.both else mp.mpf(0), self.place(k + half)
            centre = self.tame((low + high) / 2) if self.end and k else k * mp.mpf(self.width)
            found[k] = centre, low - centre, high - centre
        return found

    def tame(self, middle: mp.mpf) -> mp.mpf:
        """A float32 near the middle at which the function is nearly a float32 itself (Gal, 1986): no rounding there."""
        found, best = middle, mp.inf
        near = np.float32(float(middle))
        for j in range(4000):
            at = mp.mpf(float(near + np.spacing(near) * np.float32((j + 1) // 2 * (-1) ** j)))
            value = self.function(at)
            error = abs(value - rounded(value)) / mp.mpf(float(np.spacing(np.float32(float(abs(value))))))
            if error < best:
                found, best = at, error
            if best < mp.mpf("2e-3"):
                break
        return found


def upper(t: mp.mpf) -> mp.mpf:
    """The normal distribution's upper tail."""
    return mp.erfc(t / mp.sqrt(2)) / 2


def logistic(x: mp.mpf) -> mp.mpf:
    return 1 / (1 + mp.exp(-x))


def logistic_slope(x: mp.mpf) -> mp.mpf:
    """The derivative of x·logistic(x)."""
    return logistic(x) * (1 + x * logistic(-x))


def gelu_tanh_argument(x: mp.mpf) -> mp.mpf:
    return 2 * mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)


def gelu_tanh_slope(x: mp.mpf) -> mp.mpf:
    s = logistic(gelu_tanh_argument(x))
    return s + x * 2 * mp.sqrt(2 / mp.pi) * (1 + 3 * mp.mpf("0.044715") * x**2) * s * (1 - s)


def mish(x: mp.mpf) -> mp.mpf:
    e = mp.exp(x)
    return x * e * (e + 2) / (e * e + 2 * e + 2)


def mish_slope(x: mp.mpf) -> mp.mpf:
    e = mp.exp(x)
    d = e * e + 2 * e + 2
    return e / d * (e + 2 + 4 * x * (e + 1) / d)


def log1p_exp(x: mp.mpf) -> mp.mpf:
    return mp.log1p(mp.exp(x))


TABLES = [
    Table("gelu_tail_near", "t·Q(t), Q the normal tail", lambda t: t * upper(t), 0.875, 7, 16, 6.25),
    Table(
        "gelu_tail_grad_near", "Q(t) - t·phi(t)", lambda t: upper(t) - t * mp.npdf(t), 0.875, 7, 16, 6.25, least=0.02
    ),
    Table("gelu_tanh_tail_near", "t/(1 + exp(v))", lambda t: t * logistic(-gelu_tanh_argument(t)), 0.875, 7, 16, 5.5),
    Table("gelu_tanh_tail_grad_near", "its derivative", lambda t: gelu_tanh_slope(-t), 0.875, 7, 16, 5.5, least=0.02),
    Table("logistic_tail_near", "1/(1 + exp(t))", lambda t: logistic(-t), 1.5, 8),
    Table("silu_tail_near", "t/(1 + exp(t))", lambda t: t * logistic(-t), 1.5, 8),
    Table("silu_tail_grad_near", "its derivative", lambda t: logistic_slope(-t), 1.5, 8, least=0.02),
    Table("softplus_tail_near", "log(1 + exp(-t))", lambda t: log1p_exp(-t), 1.5, 7),
    Table("tanh_near", "tanh(t)", mp.tanh, 1.25, 9),
    Table("mish_near", "x·tanh(log(1 + exp(x)))", mish, 1.25, 9, 16, both=True, apart=0.5),
    Table("mish_slope_near", "its derivative", mish_slope, 1.5, 9, 16, both=True, least=0.02),
]


def rounded(x: mp.mpf) -> mp.mpf:
    """The nearest float32."""
    return mp.mpf(float(np.float32(float(x))))


def fit(table: Table) -> tuple[list[list[mp.mpf]], float]:
    """The coefficients of each interval, lowest first, and the logarithm to base 2 of the largest error."""
    degree = table.degree
    coefficients, worst = [], mp.mpf(0)
    for k in table.intervals:
        if k == UNUSED:
            coefficients.append([mp.mpf(0)] * (degree + 1))
            continue
        centre, low, high = table.spans[k]
        nodes = 3 * degree + 6
        xs = [(low + high) / 2 + (high - low) / 2 * mp.cos(mp.pi * (2 * j + 1) / (2 * nodes)) for j in range(nodes)]
        values = [table.function(centre + x) for x in xs]
        weights = [1 / max(abs(v), mp.mpf(table.least)) for v in values]
        found = [rounded(table.function(centre))]
        rest = [v - found[0] - (0 if k else table.apart * x) for v, x in zip(values, xs, strict=True)]
        for d in range(1, degree + 1):
            a = mp.matrix(nodes, degree - d + 1)
            b = mp.matrix(nodes, 1)
            for i, (x, w) in enumerate(zip(xs, weights, strict=True)):
                # of the magnitude of 1, so that the equations are well conditioned
                for j in range(degree - d + 1):
                    a[i, j] = (x / high) ** (d + j) * w
                b[i] = rest[i] * w
            found.append(rounded(mp.lu_solve(a, b)[0] / high**d))
            rest = [r - found[d] * x**d for r, x in zip(rest, xs, strict=True)]
        worst = max(worst, *(abs(r) * w for r, w in zip(rest, weights, strict=True)))
        coefficients.append(found)
    return coefficients, float(mp.log(worst, 2))


def literal(x: mp.mpf) -> str:
    """A float32 in the grammar of formulas, where 1e-07 would be no float."""
    text = str(np.float32(float(x)))
    return text if "." in text else text.replace("e", ".0e")


def look_up(entries: list[str]) -> str:
    """The call that takes each lane's entry."""
    rows = (", ".join(entries[k : k + 4]) for k in range(0, len(entries), 4))
    return "lookup(m,\n        " + ",\n        ".join(rows) + ")"


def source(table: Table) -> str:
    """The formula."""
    coefficients, worst = fit(table)
    of = "the value" if not table.least else f"the value, or of {table.least:g}"
    x, span = ("x", f"abs(x) < {table.limit:g}") if table.both else ("t", f"0 <= t < {table.limit:g}")
    lines = [
        f"def {table.name}({x}):",
        f'    """{table.text} for {span}; its error is 2^{worst:.1f} of {of}"""',
    ]
    scale = repr(float(np.float32(1 / table.width)))
    if table.end:
        lines.append(f"    m = fma(t, fma(t, {float(table.curve)!r}, {scale}), {MAGIC})")
        lines.append(f"    f = t - {look_up([literal(table.spans[k][0]) for k in table.intervals])}")
    else:
        lines += [f"    m = fma({x}, {scale}, {MAGIC})", f"    f = fma(m - {MAGIC}, -{table.width}, {x})"]
    for d in reversed(range(table.degree + 1)):
        entries = [literal(found[d]) for found in coefficients]
        if d == 0 and entries[0] == "0.0":
            entries[0] = "-0.0"  # what is 0 at 0 is -0 at -0
        taken = look_up(entries)
        lines.append(f"    y = {taken}" if d == table.degree else f"    y = fma(f, y, {taken})")
    if table.apart:
        slopes = look_up([str(0.0 if k else table.apart) for k in table.intervals])
        lines.append(f"    y = fma({x}, {slopes}, y)")
    return "\n".join([*lines, "    return y"])


HEAD = '''"""Piecewise polynomials, their coefficients in registers, in the grammar of formulas. Generated; do not edit.

By ``tools/lookup_tables.py``, which says how they are fitted. `lookup` takes a coefficient of each lane's interval in
one instruction on AVX-512; on AVX2 in one of 8 intervals, in four of 16.
"""

from fastact.maths.primitives import fma, lookup

# fmt: off
'''


def module() -> str:
    """The text of the file."""
    with mp.workdps(34):
        return "\n\n".join([HEAD, *(f"{source(table)}\n" for table in TABLES)])


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    FILE.write_text(module(), encoding="utf-8")
