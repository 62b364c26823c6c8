"""What the grammar of formulas has, once each, for the renderer's golden file and the tests of its primitives."""

from fastact.maths.primitives import (
    copysign,
    fabs,
    fma,
    logb,
    lookup,
    maximum,
    minimum,
    rarely,
    rint,
    scalb,
    sqrt,
    where,
)


def two_sum(a, b):
    """a + b = s + e, exactly

    Knuth, The Art of Computer Programming, volume 2.
    """
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def pair_sum(a, b):
    """two_sum under another name"""
    s, e = two_sum(a, b)
    return s, e


def two_sum_error(a, b):
    """The e of two_sum, through names assigned twice."""
    e = b
    s, e = two_sum(a, e)
    return s - s - e


def soft_step(x, width):
    """x/width within -1 and 1, by a comparison with a name; literals signed and infinite"""
    above = x > width
    below = x <= -width
    z = where(above, 1.0, where(below, -1.0, x / width))
    return where(x == 1e999, 1.0, where(x != x, -1e999, z))


def soft_step_grad(x, width):
    """1/width within, 0 outside"""
    return where(fabs(x) >= width, 0.0, 1.0 / width)


def tabled(x):
    """The difference of entries of two tables, or for large x a sum, which is left out where no lane needs it"""
    m = fabs(x) + 12582912.0
    y = lookup(m, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -7.0)
    y = rarely(x > 1e9, add, y, x, y)
    z = lookup(m, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0)
    return rarely(fabs(x) >= 100.0, add, z - y, x, m)


def add(x, y):
    """x + y"""
    return x + y


def where_of(x, y):
    """x if x < y else 0.5"""
    return where(x < y, x, 0.5)


def minimum_of(x, y):
    """minimum"""
    return minimum(x, y)


def maximum_of(x, y):
    """maximum"""
    return maximum(x, y)


def fabs_of(x, y):
    """fabs of the quotient"""
    return fabs(x / y)


def copysign_of(x, y):
    """copysign"""
    return copysign(x, y)


def sqrt_of(x, y):
    """sqrt of the product"""
    return sqrt(x * y)


def fma_of(x, y, z):
    """fma"""
    return fma(x, y, z)


def rint_of(x, y):
    """rint of the difference"""
    return rint(x - y)


def scalb_of(x, n):
    """scalb by the integer next to n"""
    return scalb(x, rint(n))


def logb_of(x, y):
    """logb where it is specified, else y"""
    return where(x > 0.0, where(x < 1e999, logb(x), y), y)
