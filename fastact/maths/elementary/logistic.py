"""What is shared by the logistic family: with exp(-z) = (1 + u)·2^n and s = 2^-n, sigmoid(z) = s/d and
1 - sigmoid(z) = (1 + u)/d, d = s + 1 + u; s + 1 is exact wherever it counts.
"""

from fastact.maths.primitives import fma, scalb, where


def logistic_sum(s, u):
    """s + 1 + u, rounded once; s a power of two, abs(u) < 1/2."""
    a = s + 1.0
    # where s + 1 is rounded to 1, s is still worth an ULP of 1 + u
    return a + where(a == 1.0, u + s, u)


def logistic_sum_squared(s, u):
    """(s + 1 + u)² as (s + 1)² + u·(2(s + 1) + u), with fewer roundings than the square of the rounded sum."""
    a = s + 1.0
    v = where(a == 1.0, u + s, u)
    return fma(v, fma(2.0, a, v), a * a)


def logistic_product_slope(h, u, n):
    """s + (h - 1)·s(1 - s), s = 1/(1 + (1 + u)·2^-n), for n <= 63"""
    s = scalb(1.0, n)
    return scalb(fma(h, u, s + h) / logistic_sum_squared(s, u), n)
