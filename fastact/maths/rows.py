"""What row kernels compute from vectors, in the grammar of formulas: lanes of a row, and row values in all lanes.

No maximum is subtracted before the exponential: e^x is kept as p·2^n (``exp_parts``) and n is shifted, by an integer.
x - max(x) would be rounded: with x = 0.1 and a maximum of 50 the share would be off by as much as 32 ULP.
"""

from fastact.maths.elementary.float32 import exp_nonpositive, exp_parts, log, log1p, log1p_unit
from fastact.maths.primitives import fabs, fma, maximum, rint, scalb, sqrt, where


def plus(a, b):
    """a + b"""
    return a + b


def minus(a, b):
    """a - b"""
    return a - b


def scale(a, b):
    """a·b"""
    return a * b


def negative_product(a, b):
    """-a·b"""
    return -(a * b)


def quotient(a, b):
    """a/b"""
    return a / b


def reciprocal(high, low):
    """(r, e) with r + e = 1/(high + low) to twice the precision"""
    s, e = two_sum(high, low)
    r = 1.0 / s
    return r, r * (fma(-r, s, 1.0) - r * e)


def greater(a, b):
    """a if a > b, else b"""
    return maximum(a, b)


def is_finite(a):
    """1 where a is, else 0"""
    return where(a - a == 0.0, 1.0, 0.0)


def equal(a, b):
    """1 where a = b, else 0"""
    return where(a == b, 1.0, 0.0)


def two_sum(a, b):
    """(s, e) with s = a + b rounded and s + e = a + b exactly (Knuth, TAOCP 2, 4.2.2)"""
    s = a + b
    z = s - a
    return s, (a - (s - z)) + (b - z)


def pair_add(a, da, b, db):
    """(s, ds) with s + ds = a + da + b + db to about twice the precision, s = a + b rounded"""
    s, e = two_sum(a, b)
    return s, (da + db) + e


# shares: e^x over a common factor


def origin(m):
    """c of a row whose greatest element is m: 0 where abs(m) <= 2048, else m.

    x - m is then exact for every x whose share is not 0: both are multiples of 2^-13 (float64: 2^-42), and their
    difference has at most 24 (53) bits.
    """
    return where(fabs(m) > 2048.0, m, 0.0)


def is_far(m):
    """1 where `origin` is not 0"""
    return where(fabs(m) > 2048.0, 1.0, 0.0)


def row_shift(m):
    """(c, k): the share of x is e^(x - c)·2^-k. NaN for an infinite m."""
    c = origin(m)
    return c, rint((m - c) * 1.4426950408889634)


def exp_scaled(x, c, k):
    """e^(x - c)·2^-k for x - c <= 2048; 0 at -inf"""
    p, n = exp_parts(maximum(-3000.0, x - c))
    return scalb(p, n - k)


# of (p, q, a, m, k): elements p and q of a row, a scale, the greatest logit and k of that


def share(p, q, a, m, k):
    """the share of p"""
    return exp_scaled(p, origin(m), k)


def near(p, q, a, m, k):
    """the share of p where c is 0"""
    e, n = exp_parts(maximum(-3000.0, p))
    return scalb(e, n - k)


def share_scaled(p, q, a, m, k):
    """the share of a·p"""
    return share(a * p, q, a, m, k)


def share_biased(p, q, a, m, k):
    """the share of a·p + q"""
    return share(fma(a, p, q), q, a, m, k)


# of (p, q, a): what a row's greatest element is taken of


def logit(p, q, a):
    """p"""
    return p


def logit_scaled(p, q, a):
    """a·p"""
    return a * p


def logit_biased(p, q, a):
    """a·p + q"""
    return fma(a, p, q)


def only(t, a, b):
    """a where t is not 0, else b"""
    return where(t == 0.0, b, a)


def unless_equal(e, x, m):
    """e, 0 where x = m"""
    return where(x == m, 0.0, e)


def add_share(s, r, v):
    """(t, r + e) with t = s + v rounded and t + e = s + v exactly, for s >= v (Dekker, Numer. Math. 18, 1971).

    Kernels start it at a bias above any v.
    """
    t = s + v
    return t, r + (v - (t - s))


def unbiased(s):
    """s - 16, exactly for s >= 16"""
    return s - 16.0


def log_sum_over(rest, ties, top):
    """log of the sum of all shares over the greatest one, `top`, which occurs `ties` times; `rest` are the others"""
    return log1p(rest / top + (ties - 1.0))


def log_total(x, m, rest, share, top):
    """log of the sum of all shares over that of the greatest element m, `top`

    `share` is that of x, `rest` the sum of all others.
    """
    others = where(x == m, rest, (rest - top) + share)
    return log1p(others / top)


def with_square(a, z, x):
    """a + z·x^2; a where z is 0"""
    return where(z == 0.0, a, a + z * (x * x))


def with_slope(a, z, x):
    """a + 2·z·x; a where z is 0"""
    return where(z == 0.0, a, a + (2.0 * z) * x)


def smoothed_loss(loss, s, far, whole, own, each):
    """own·loss + each·sum(w·(m + s - x)), with far = sum(w·(m - x)) and whole = sum(w)

    A term with the factor 0 is 0.
    """
    return where(own == 0.0, 0.0, own * loss) + where(each == 0.0, 0.0, each * (far + whole * s))


def smoothed_label(own, a, rest, share, each, factor):
    """factor·((share·a - rest·own)/(rest + share) - each)"""
    return factor * ((share * a - rest * own) / (rest + share) - each)


def target_loss(far, weight, s):
    """the sum of target·(m + s - x), far the sum of target·(m - x)"""
    return far + where(weight == 0.0, 0.0, weight * s)


def target_factor(weight, rest, ties, top):
    """what turns a share into the weight times the probability"""
    return weight / fma(ties, top, rest)


def threshold_of(sum, count):
    """(sum - 1)/count"""
    return (sum - 1.0) / count


# terms of sums over a row


def product(p, q, a, b):
    """p·q"""
    return p * q


def first(p, q, a, b):
    """p"""
    return p


def supported(p, q, a, b):
    """p where q > 0, else 0; NaN where q is"""
    return where(q <= 0.0, 0.0, p + (q - q))


def support(p, q, a, b):
    """1 where q > 0, else 0"""
    return where(q <= 0.0, 0.0, 1.0)


def distance(p, q, a, b):
    """q·(a - p), 0 where q is"""
    return where(q == 0.0, 0.0, q * (a - p))


def gap(p, q, a, b):
    """a - p"""
    return a - p


def above(p, q, a, b):
    """p - a where that is above b, else 0; NaN where p is"""
    z = p - a
    return where(z <= b, 0.0, z)


def above_count(p, q, a, b):
    """1 where p - a is above b, else 0"""
    return where(p - a > b, 1.0, 0.0)


def counted(p, q, a, b):
    """0 where p is a, else 1"""
    return where(p == a, 0.0, 1.0)


def poison(p, q, a, b):
    """NaN where p is, else 0"""
    return where(p == p, 0.0, p)


def deviation(p, q, a, b):
    """p - a"""
    return p - a


# last passes


def filled(p, q, a, b, c, d):
    """a"""
    return a


def below(p, q, a, b, c, d):
    """p - a"""
    return p - a


def scaled(p, q, a, b, c, d):
    """p·(a + b)"""
    return fma(p, a, p * b)


def less_each(p, q, a, b, c, d):
    """p·a - b"""
    return fma(p, a, -b)


def less_weights(p, q, a, b, c, d):
    """p·a - b·q"""
    return fma(p, a, -(b * q))


def again(p, q, a, b, c, d):
    """e^(p - c)·2^-d·(a + b)"""
    e = exp_scaled(p, c, d)
    return fma(e, a, e * b)


def again_negative(p, q, a, b, c, d):
    """e^(-p - c)·2^-d·(a + b)"""
    return again(-p, q, a, b, c, d)


def log_share(p, q, a, b, c, d):
    """p - a - b"""
    return (p - a) - b


def positive_part(p, q, a, b, c, d):
    """max(p - a - b, 0), NaN where p is"""
    return maximum(0.0, (p - a) - b)


def softmax_grad(p, q, a, b, c, d):
    """b·q·(p - a)"""
    return (b * q) * (p - a)


def log_softmax_grad(p, q, a, b, c, d):
    """p - exp(q)·a"""
    return fma(-exp_nonpositive(q), a, p)


def sparsemax_grad(p, q, a, b, c, d):
    """p - a where q > 0, else 0; NaN where q is"""
    return where(q <= 0.0, 0.0, (p - a) + (q - q))


def target_grad(p, q, a, b, c, d):
    """(e^(p - c)·2^-d·a - q)·b"""
    return fma(exp_scaled(p, c, d), a, -q) * b


# binary cross-entropy


def sigmoid_loss(x, t, weight, pos_weight):
    """weight·(pos_weight·t·log(1 + exp(-x)) + (1 - t)·log(1 + exp(x))); a term with the factor 0 is 0"""
    a = pos_weight * t
    b = 1.0 - t
    tail = log1p_unit(exp_nonpositive(-fabs(x)))
    left = where(a == 0.0, where(x == x, 0.0, x), a * (maximum(0.0, -x) + tail))
    right = where(b == 0.0, where(x == x, 0.0, x), b * (maximum(0.0, x) + tail))
    return weight * (left + right)


def sigmoid_loss_grad(x, t, weight, pos_weight):
    """weight·((1 - t)/(1 + exp(-x)) - pos_weight·t/(1 + exp(x)))"""
    e = exp_nonpositive(-fabs(x))
    far = e / (1.0 + e)
    near = 1.0 / (1.0 + e)
    up = where(x < 0.0, far, where(x == x, near, x))
    down = where(x < 0.0, near, where(x == x, far, x))
    return weight * ((1.0 - t) * up - pos_weight * t * down)


# losses of elements: of x, target, weight and a parameter


def squared_error(x, t, weight, p):
    """weight·(x - t)^2"""
    d = x - t
    return weight * (d * d)


def squared_error_grad(x, t, weight, p):
    """2·weight·(x - t)"""
    return weight * (2.0 * (x - t))


def absolute_error(x, t, weight, p):
    """weight·abs(x - t)"""
    return weight * fabs(x - t)


def absolute_error_grad(x, t, weight, p):
    """weight·sign(x - t)"""
    d = x - t
    return weight * where(d > 0.0, 1.0, where(d < 0.0, -1.0, d))


def huber_error(x, t, weight, delta):
    """weight·(d^2/2 if abs(d) <= delta, else delta·(abs(d) - delta/2)), d = x - t (Huber, Ann. Math. Stat. 35, 1964)"""
    d = fabs(x - t)
    return weight * where(d <= delta, 0.5 * (d * d), delta * (d - 0.5 * delta))


def huber_error_grad(x, t, weight, delta):
    """weight·min(max(x - t, -delta), delta)"""
    d = x - t
    return weight * where(d > delta, delta, where(d < -delta, -delta, d))


def divergence(x, t, weight, p):
    """weight·t·(log(t) - x); 0 where t is"""
    return weight * where(t == 0.0, 0.0, t * (log(t) - x))


def divergence_grad(x, t, weight, p):
    """-weight·t"""
    return -(weight * t)


# norms


def mean_from(first, rest, count):
    """first + rest/count, for the sum `rest` of differences from `first`"""
    return first + rest / count


def spread_scale(squares, rest, count, eps):
    """1/sqrt(variance + eps); NaN where the variance is not finite.

    `squares` and `rest` are the sums of squares and of differences from a number next to the mean, so that what is
    subtracted is at most half of the quotient.
    """
    c = rest / count
    v = maximum(0.0, fma(-c, c, squares / count))
    return 1.0 / sqrt(v + eps) + (v - v)


def square_scale(squares, count, eps):
    """1/sqrt(squares/count + eps); NaN where that is not finite"""
    v = squares / count
    return 1.0 / sqrt(v + eps) + (v - v)


def normalised(x, mean, rstd, shift):
    """(x - mean)·rstd + shift; x - mean is exact next to the mean, and `shift` is what the mean's low part makes"""
    return fma(x - mean, rstd, shift)


def affine(x, weight, bias):
    """x·weight + bias"""
    return fma(x, weight, bias)


def norm_grad(g, h, rstd, a, b):
    """rstd·g - (a + h·b)"""
    return fma(g, rstd, -fma(h, b, a))


def gathered(a, b, c, d):
    """(a + b) + (c + d)"""
    return (a + b) + (c + d)
