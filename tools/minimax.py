"""Best rational approximations P(t)/Q(t), by Remez exchange in 45 digits.

Prints the coefficients that ``float32.sollya`` starts from: it takes one of P and Q rounded to float32 and fits the
other again with float32 coefficients. Needs mpmath.

    python tools/minimax.py
"""

from collections.abc import Callable

import mpmath as mp

mp.mp.dps = 45

Real = Callable[[mp.mpf], mp.mpf]


def remez(f: Real, weight: Real, low: float, high: float, m: int, n: int) -> tuple[mp.mpf, list, list]:
    """Degree m over degree n, Q(0) = 1, on [low, high]: (largest error times weight, P, Q)."""
    count, grid = m + n + 2, 2000
    middle, half = mp.mpf(low + high) / 2, mp.mpf(high - low) / 2
    ts = [middle - half * mp.cos(mp.pi * i / grid) for i in range(grid + 1)]
    fs, ws, vs = [f(t) for t in ts], [weight(t) for t in ts], ts
    scale = max(abs(v) for v in vs)
    vs = [v / scale for v in vs]
    reference = [round(grid * i / (count - 1)) for i in range(count)]
    p: list = [mp.mpf(1)]
    q: list = [mp.mpf(1)]
    level = mp.mpf(0)
    best = (mp.inf, p, q)
    for _ in range(40):
        for _ in range(12):
            # P - (f ± level/weight) Q = 0 on the reference, linearised around the last level and Q
            a, b = mp.matrix(count, count), mp.matrix(count, 1)
            for i, k in enumerate(reference):
                signed = (-1) ** i / ws[k]
                last = mp.polyval(q[::-1], vs[k])
                for j in range(m + 1):
                    a[i, j] = vs[k] ** j
                for j in range(1, n + 1):
                    a[i, m + j] = -(fs[k] + signed * level) * vs[k] ** j
                a[i, count - 1] = -signed * last
                b[i] = fs[k] + signed * level * (1 - last)
            x = list(mp.lu_solve(a, b))
            p, q, change = x[: m + 1], [mp.mpf(1), *x[m + 1 : count - 1]], abs(x[-1] - level)
            level = x[-1]
            if change <= abs(level) * mp.mpf("1e-12"):
                break
        error = [(mp.polyval(p[::-1], v) / mp.polyval(q[::-1], v) - y) * w for v, y, w in zip(vs, fs, ws, strict=True)]
        largest = max(abs(e) for e in error)
        if largest < best[0]:
            powers = [scale**j for j in range(max(m, n) + 1)]
            best = (
                largest,
                [c / s for c, s in zip(p, powers, strict=False)],
                [c / s for c, s in zip(q, powers, strict=False)],
            )
        if largest <= abs(level) * mp.mpf("1.003"):
            break
        extrema: list[int] = []
        start = 0
        for i in range(1, grid + 2):
            if i == grid + 1 or (error[i] > 0) != (error[start] > 0):
                extrema.append(max(range(start, i), key=lambda k: abs(error[k])))
                start = i
        while len(extrema) > count:
            extrema.pop(0 if abs(error[extrema[0]]) < abs(error[extrema[-1]]) else -1)
        if len(extrema) < count:
            break
        reference = extrema
    return best


def show(name: str, found: tuple[mp.mpf, list, list]) -> None:
    error, p, q = found
    print(f"{name}: relative error 2^{float(mp.log(error, 2)):.2f}")
    for letter, coefficients in (("P", p), ("Q", q)):
        print(f"  {letter} = [{', '.join(mp.nstr(c, 12) for c in coefficients)}]")


def scaled_tail(t: mp.mpf) -> mp.mpf:
    """The normal tail without its exponential."""
    return mp.erfc(t / mp.sqrt(2)) / 2 * mp.exp(t * t / 2)


def excess(t: mp.mpf) -> mp.mpf:
    """What 1/scaled_tail is more than its asymptote; an error of it counts by scaled_tail."""
    return 1 / scaled_tail(t) - mp.sqrt(2 * mp.pi) * t


if __name__ == "__main__":
    show("erfc_tail: excess on [0, 13.2]", remez(excess, scaled_tail, 0, 13.2, 4, 4))
