"""Best rational approximations P(v)/Q(v) in the relative sense, by Remez exchange in 45 digits.

Prints the coefficients that ``float32.sollya`` starts from: it takes Q rounded to float32 and fits P again with float32
coefficients. Needs mpmath.

    python tools/minimax.py
"""

from collections.abc import Callable

import mpmath as mp

mp.mp.dps = 45

Real = Callable[[mp.mpf], mp.mpf]


def remez(f: Real, low: float, high: float, m: int, n: int, variable: Real = lambda t: t) -> tuple[mp.mpf, list, list]:
    """Degree m over degree n, Q(0) = 1, in v = variable(t), t in [low, high]: (relative error, P, Q)."""
    count, grid = m + n + 2, 2000
    middle, half = mp.mpf(low + high) / 2, mp.mpf(high - low) / 2
    ts = [middle - half * mp.cos(mp.pi * i / grid) for i in range(grid + 1)]
    fs, vs = [f(t) for t in ts], [variable(t) for t in ts]
    scale = max(abs(v) for v in vs)
    vs = [v / scale for v in vs]
    reference = [round(grid * i / (count - 1)) for i in range(count)]
    p: list = [mp.mpf(1)]
    q: list = [mp.mpf(1)]
    level = mp.mpf(0)
    best = (mp.inf, p, q)
    for _ in range(40):
        for _ in range(12):
            # P - f Q (1 ± level) = 0 on the reference, linearised around the last level and Q
            a, b = mp.matrix(count, count), mp.matrix(count, 1)
            for i, k in enumerate(reference):
                signed = fs[k] * (-1) ** i
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
        error = [mp.polyval(p[::-1], v) / mp.polyval(q[::-1], v) / y - 1 for v, y in zip(vs, fs, strict=True)]
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
        extrema, start = [], 0
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


def square(t: mp.mpf) -> mp.mpf:
    return t * t


if __name__ == "__main__":
    show("tanh(t)/t on [0, 9.2], in t^2", remez(lambda t: mp.tanh(t) / t, 1e-4, 9.2, 4, 4, square))
    show("(t - tanh(t))/t^3 on [0, 9.2], in t^2", remez(lambda t: (t - mp.tanh(t)) / t**3, 1e-3, 9.2, 3, 4, square))
    show("erf(t)/t on [0, 3.93], in t^2", remez(lambda t: mp.erf(t) / t, 1e-4, 3.93, 5, 5, square))
    show("erfc(t) exp(t^2) on [0, 9.4]", remez(lambda t: mp.erfc(t) * mp.exp(t * t), 0, 9.4, 4, 5))
    show(
        "erfc(t/sqrt(2))/2 exp(t^2/2) on [0, 13.3]",
        remez(lambda t: mp.erfc(t / mp.sqrt(2)) / 2 * mp.exp(t * t / 2), 0, 13.3, 4, 5),
    )
