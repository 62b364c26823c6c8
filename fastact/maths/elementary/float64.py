"""Elementary functions for float64: argument reduction and one polynomial each, no table and no branch.

The coefficients come from Sollya's fpminimax (tools/float64.sollya, which also prints their errors). A pair
of names (p, dp) is an unevaluated sum whose second part is below the rounding of the first. ln 2 is split into 42
leading bits, whose product with an exponent is exact, and the rest.
"""

from fastact.maths.elementary.logistic import logistic_product_slope, logistic_sum
from fastact.maths.primitives import copysign, fabs, fma, logb, maximum, minimum, rint, scalb, where


def reduced_exp(x, dx):
    """(n, r, t) with e^(x + dx) = 2^n (1 + r + t), r exact and abs(r) <= 0.347.

    r = x - n ln 2 after Cody and Waite; t takes what r leaves out and the series from r²/2 on.
    """
    n = rint(x * 1.4426950408889634)
    r = fma(n, -0.6931471805598903, x)
    d = fma(n, -5.497923018708371e-14, dx)
    s = r + d
    q = fma(2.0883199701923685e-09, s, 2.5109143762590664e-08)
    q = fma(q, s, 2.755737362050542e-07)
    q = fma(q, s, 2.7557243871639362e-06)
    q = fma(q, s, 2.4801587213074456e-05)
    q = fma(q, s, 0.00019841269886503965)
    q = fma(q, s, 0.0013888888888935913)
    q = fma(q, s, 0.008333333333321457)
    q = fma(q, s, 0.04166666666666659)
    q = fma(q, s, 0.16666666666666677)
    return n, r, fma(0.5 * s, s, fma(s * s, s * q, d))


def exp(x):
    """e^x.

    Max error: 0.7 ULP everywhere.
    """
    n, r, t = reduced_exp(minimum(1500.0, maximum(-1500.0, x)), 0.0)
    p = 1.0 + r
    return scalb(p + (r - (p - 1.0) + t), n)


def exp_nonpositive(x):
    """e^x for x <= 0.

    Max error: 0.7 ULP on [-inf, 0].
    """
    n, r, t = reduced_exp(maximum(-1500.0, x), 0.0)
    p = 1.0 + r
    return scalb(p + (r - (p - 1.0) + t), n)


def exp_parts(x):
    """(p, n) with e^x = p·2^n for abs(x) <= 3000.

    Max error: 0.7 ULP on [-3000, 3000].
    """
    n, r, t = reduced_exp(x, 0.0)
    p = 1.0 + r
    return p + (r - (p - 1.0) + t), n


def exp_parts_sum(x, dx):
    """(p, n) with e^(x + dx) = p·2^n for abs(x) <= 3000.

    Max error: 0.7 ULP on [-3000, 3000].
    """
    n, r, t = reduced_exp(x, dx)
    p = 1.0 + r
    return p + (r - (p - 1.0) + t), n


def expm1_parts(x):
    """(u, n) with e^x = (1 + u)·2^n for abs(x) <= 3000.

    Max error: 0.95 ULP on [-3000, 3000].
    """
    n, r, t = reduced_exp(x, 0.0)
    return r + t, n


def expm1_parts_minus(x):
    """(u, n) with e^-x = (1 + u)·2^-n for abs(x) <= 3000.

    Max error: 0.95 ULP on [-3000, 3000].
    """
    u, n = expm1_parts(-x)
    return u, -n


def expm1_parts_sum(x, dx):
    """(u, n) with e^(x + dx) = (1 + u)·2^n for abs(x) <= 3000.

    Max error: 0.95 ULP on [-3000, 3000].
    """
    n, r, t = reduced_exp(x, dx)
    return r + t, n


def expm1(x):
    """e^x - 1.

    Scaled by 2^-n, so that nothing overflows before the result does: (1 - 2^-n) + r + t.

    Max error: 0.95 ULP everywhere.
    """
    y = minimum(1500.0, maximum(-40.0, x))
    n, r, t = reduced_exp(y, 0.0)
    c = scalb(1.0, -n)
    a = 1.0 - c
    p = a + r
    # 1 - a - c is what a loses from n = 54 on
    dp = r - (p - a) + (1.0 - a - c + t)
    return copysign(scalb(p + dp, n), x)


def expm1_nonpositive(x):
    """e^x - 1 for x <= 0.

    Max error: 0.8 ULP on [-inf, 0].
    """
    n, r, t = reduced_exp(maximum(-40.0, x), 0.0)
    s = scalb(1.0, n)
    a = s - 1.0
    p = fma(s, r, a)
    return copysign(p + fma(s, t, fma(s, r, a - p)), x)


def log_sum(f, n):
    """(y, dy) with log(1 + f) - n ln 2 = y + dy for -0.25 <= f <= 0.5.

    With s = f/(2 + f), log(1 + f) = f - f²/2 + s·(f²/2 + z·q(z)), z = s² (Tang, ACM TOMS 16, 1990, as in fdlibm);
    f - f²/2 is held as an unevaluated sum.
    """
    s = f / (2.0 + f)
    z = s * s
    q = fma(0.13614452787313008, z, 0.13208818071475834)
    q = fma(q, z, 0.1538892560228944)
    q = fma(q, z, 0.18181735734999727)
    q = fma(q, z, 0.22222223081161765)
    q = fma(q, z, 0.2857142856698684)
    q = fma(q, z, 0.4000000000000905)
    q = fma(q, z, 0.6666666666666666)
    a = 0.5 * f
    h = fma(-a, f, f)
    dh = fma(-a, f, f - h)
    p = fma(n, -0.6931471805598903, h)
    dp = fma(n, -0.6931471805598903, -p) + h
    return p, dp + (dh + fma(n, -5.497923018708371e-14, s * fma(q, z, a * f)))


def log(x):
    """The natural logarithm.

    Max error: 0.75 ULP everywhere.
    """
    # x·2^n in [1, 2), then in [3/4, 3/2); one step from x·2/3 would round where x is subnormal
    n = -logb(x)
    m = scalb(x, n)
    high = m >= 1.5
    y, dy = log_sum(where(high, 0.5 * m, m) - 1.0, where(high, n - 1.0, n))
    # inf at inf, NaN below 0 and at NaN
    beyond = fma(x, 1e999, 1e999)
    return where(x == 0.0, -1e999, where(x > 0.0, where(x < 1e999, y + dy, beyond), beyond))


def log1p(x):
    """log(1 + x).

    Max error: 0.75 ULP everywhere.
    """
    # (1 + x)·2^n in [3/4, 3/2), where the reduced argument below is exact but for n < -53, when x alone counts;
    # the factor, 2/3 less an ULP or two, leaves a 1 + x that was rounded up to 1.5 with n = 0
    n = -1.0 - logb((1.0 + x) * 0.6666666666666664)
    c = scalb(1.0, n)
    y, dy = log_sum(fma(c, x, c - 1.0), n)
    beyond = fma(1.0 + x, 1e999, 1e999)
    y = where(x == -1.0, -1e999, where(x > -1.0, where(x < 1e999, y + dy, beyond), beyond))
    return where(x == 0.0, x, y)


def log1p_unit(e):
    """log(1 + e) for 0 <= e <= 1.

    Max error: 0.75 ULP on [0, 1].
    """
    high = e >= 0.5
    y, dy = log_sum(where(high, fma(0.5, e, -0.5), e), where(high, -1.0, 0.0))
    return y + dy


def log1p_sum(u, n):
    """(y, dy) with log(1 + (1 + u)·2^n) = y + dy for -0.3 <= u <= 0.42, -1000 <= n <= 0, (1 + u)·2^n <= 1.

    The sum is at most 0.75 ULP off.
    """
    s = scalb(1.0, n)
    e = fma(s, u, s)
    de = fma(s, u, s - e)
    high = e >= 0.5
    y, dy = log_sum(where(high, fma(0.5, e, -0.5), e), where(high, -1.0, 0.0))
    # de/(1 + e), to a tenth
    return y, dy + fma(-0.5 * e, de, de)


def tanh_sum(t):
    """(p, dp) with tanh(t) = p + dp for t >= 0.

    (E - 1)/(E + 1), E = e^(2t), scaled by 2^-n.
    """
    x = minimum(50.0, t + t)
    n = rint(x * 1.4426950408889634)
    r = fma(n, -0.6931471805598903, x)
    d = n * -5.497923018708371e-14
    s = r + d
    q = fma(2.0883199701923685e-09, s, 2.5109143762590664e-08)
    q = fma(q, s, 2.755737362050542e-07)
    q = fma(q, s, 2.7557243871639362e-06)
    q = fma(q, s, 2.4801587213074456e-05)
    q = fma(q, s, 0.00019841269886503965)
    q = fma(q, s, 0.0013888888888935913)
    q = fma(q, s, 0.008333333333321457)
    q = fma(q, s, 0.04166666666666659)
    q = fma(q, s, 0.16666666666666677)
    g = fma(0.5 * s, s, fma(s * s, s * q, d))
    u = r + g
    c = scalb(1.0, -n)
    a = 1.0 - c
    b = 1.0 + c
    num = a + u
    den = b + u
    inv = 1.0 / den
    p = num * inv
    dnum = u - (num - a) + (r - u + g)
    dden = u - (den - b)
    dp = fma(-p, dden, fma(-p, den, num) + dnum) * inv
    # beyond, 1 - 2^-n and 1 + 2^-n are rounded
    far = n > 50.0
    return where(far, 1.0, p), where(far, -2.0 * c * inv, dp)


def tanh(x):
    """The hyperbolic tangent.

    Max error: 0.95 ULP everywhere.
    """
    p, dp = tanh_sum(fabs(x))
    return copysign(p + dp, x)


def x_minus_tanh(x):
    """x - tanh(x): x³·(1/3 - x²·q(x²)) below 0.65, else from `tanh_sum`.

    Max error: 1.6 ULP everywhere.
    """
    t = fabs(x)
    z = minimum(1.0, x * x)
    q = fma(-6.032677138557522e-06, z, 3.0228108723259053e-05)
    q = fma(q, z, -9.166792410114247e-05)
    q = fma(q, z, 0.00023711683330669944)
    q = fma(q, z, -0.0005895062623347043)
    q = fma(q, z, 0.0014557430554778114)
    q = fma(q, z, -0.003592117384861319)
    q = fma(q, z, 0.008863234733883915)
    q = fma(q, z, -0.021869488500565235)
    q = fma(q, z, 0.053968253967411645)
    q = fma(q, z, -0.13333333333332503)
    v = q * z
    c = 0.3333333333333333 + v
    dc = v - (c - 0.3333333333333333) + 1.850371707708594e-17
    cube = z * t
    dcube = fma(z, t, -cube) + fma(t, t, -z) * t
    near = fma(cube, c, fma(cube, dc, dcube * c))
    p, dp = tanh_sum(t)
    far = t - p
    dfar = t - far - p
    y = where(t < 0.65, near, far + (dfar - dp))
    return where(t > 1e17, x, copysign(y, x))


def mills_sum(t):
    """(p, dp, y, dy) with e^(t²/2)·Q(t) = (p + dp)·(y + dy), Q the normal tail, for 0 <= t <= 39.

    y = 1/(t + 1.25), and p a polynomial in w = (t - 6.375)/(t + 6.375); the idea is Shepherd and Laframboise's,
    Mathematics of Computation 36, 1981. 1.25 makes p nearly flat at t = 0, so that the rounding of w does not matter.
    """
    a = t + 6.375
    b = t + 1.25
    d = 1.0 / (a * b)
    w = fma(2.0, t * b * d, -1.0)
    w2 = w * w
    odd = fma(1.2568565188334093e-08, w2, -5.218547176037606e-08)
    odd = fma(odd, w2, -6.527348322706483e-07)
    odd = fma(odd, w2, 1.4055523115804892e-05)
    odd = fma(odd, w2, -7.266725765272947e-05)
    odd = fma(odd, w2, -0.0016382682436817681)
    odd = fma(odd, w2, -0.0077508499090380755)
    odd = fma(odd, w2, -0.014459259334138748)
    odd = fma(odd, w2, 0.002405648827104412)
    odd = fma(odd, w2, 0.06727281832470286)
    q = fma(6.326166315948924e-09, w2, -6.21510594834145e-08)
    q = fma(q, w2, 5.473288982153516e-07)
    q = fma(q, w2, -3.009927700673245e-06)
    q = fma(q, w2, -1.7168739916412658e-05)
    q = fma(q, w2, 0.00048595103385529073)
    q = fma(q, w2, 0.004010469445803836)
    q = fma(q, w2, 0.012030185007804452)
    q = fma(q, w2, 0.011109704011427881)
    q = fma(q, w2, -0.028871374604396826)
    q = fma(q, w2, -0.11177410744273265)
    q = fma(odd, w, q)
    v = fma(q, w, 5.683770749236998e-18)
    p = 0.466200354709477 + v
    y = a * d
    # the larger product first, so that the remainder is rounded at half its size
    dy = y * fma(-y, minimum(t, 1.25), fma(-y, maximum(t, 1.25), 1.0))
    return p, v - (p - 0.466200354709477), y, dy


def gelu_tail(x):
    """t·Q(t), t = abs(x), Q(t) = erfc(t/sqrt(2))/2.

    Max error: 1.7 ULP on [-inf, 0].
    """
    t = minimum(39.0, fabs(x))
    p, dp, y, dy = mills_sum(t)
    u = t * y
    du = fma(t, y, -u) + t * dy
    m = p * u
    dm = fma(p, u, -m) + fma(p, du, dp * u)
    h = -0.5 * t
    x = h * t
    n, r, g = reduced_exp(x, fma(h, t, -x))
    e = 1.0 + r
    de = r - (e - 1.0) + g
    return scalb(fma(e, m, fma(de, m, e * dm)), n)


def gelu_tail_grad(x):
    """Q(t) - t·phi(t), t = abs(x), phi(t) = exp(-t²/2)/sqrt(2 pi).

    Max error: 3 ULP on [-inf, 0], or 2^-52 absolute within 1 of the zero at 0.75.
    """
    t = minimum(39.0, fabs(x))
    p, dp, y, dy = mills_sum(t)
    m = p * y
    k = fma(-0.3989422804014327, t, m)
    dk = fma(2.49232720227773e-17, t, fma(p, dy, dp * y))
    h = -0.5 * t
    x = h * t
    n, r, g = reduced_exp(x, fma(h, t, -x))
    e = 1.0 + r
    de = r - (e - 1.0) + g
    return scalb((k + dk) * (e + de), n)


def quick_gelu_parts(x):
    """(u, n) with e^(-1.702 x) = (1 + u)·2^-n for abs(x) <= 1000.

    Max error of u: 1 ULP on [-1000, 1000].
    """
    v = -1.702 * x
    n, r, t = reduced_exp(v, fma(-4.263256414560601e-17, x, fma(-1.702, x, -v)))
    return r + t, -n


def gelu_tanh_parts(x):
    """(u, n) with e^-v = (1 + u)·2^-n, v = 2 sqrt(2/pi)·(x + 0.044715 x³), for abs(x) <= 100.

    v is held as an unevaluated sum: its rounding alone would be 500 ULP of e^v in the tail.

    Max error of u: 0.95 ULP on [-100, 100].
    """
    z = x * x
    dz = fma(x, x, -z)
    k = 0.07135481627260025 * z
    dk = fma(0.07135481627260025, z, -k) + fma(0.07135481627260025, dz, -6.175149918155315e-19 * z)
    big = maximum(k, 1.5957691216057308)
    small = minimum(k, 1.5957691216057308)
    m = big + small
    dm = small - (m - big) + (dk + -9.96930880911092e-17)
    v = -x * m
    n, r, t = reduced_exp(v, fma(-x, m, -v) - x * dm)
    return r + t, -n


def erfc_sum(x):
    """erfc(x) for x >= 0 without rounding it: (a, b, n), erfc = 2^n (a + b)."""
    t = minimum(27.3, x)
    u = 1.4142135623730951 * t
    du = fma(-9.667293313452913e-17, t, fma(1.4142135623730951, t, -u))
    p, dp, y, dy = mills_sum(u)
    dy = fma(-y * y, du, dy)
    m = p * y
    dm = fma(p, y, -m) + fma(p, dy, dp * y)
    z = -t * t
    n, r, g = reduced_exp(z, fma(-t, t, -z))
    e = 1.0 + r
    de = r - (e - 1.0) + g
    a = e * m
    return a, fma(e, m, -a) + fma(de, m, e * dm), n + 1.0


def erf(x):
    """The error function: x·(2/sqrt(pi) + x²·q(x²)) below 0.75, else 1 - erfc.

    Max error: 0.95 ULP everywhere.
    """
    t = fabs(x)
    z = minimum(1.0, t * t)
    q = fma(1.1463758625179272e-08, z, -1.5937600294161266e-07)
    q = fma(q, z, 1.6430388259693876e-06)
    q = fma(q, z, -1.4924176641391165e-05)
    q = fma(q, z, 0.00012055288777480229)
    q = fma(q, z, -0.0008548326169101489)
    q = fma(q, z, 0.005223977615122543)
    q = fma(q, z, -0.026866170644402516)
    q = fma(q, z, 0.11283791670952481)
    q = fma(q, z, -0.37612638903183715)
    q = fma(q, z, 1.445352744417023e-17)
    near = fma(t, 1.1283791670955126, t * q)
    a, b, n = erfc_sum(t)
    e = scalb(a, n)
    far = 1.0 - e
    dfar = 1.0 - far - e
    return copysign(where(t < 0.75, near, far + (dfar - scalb(b, n))), x)


def erfc(x):
    """1 - erf(x), with relative accuracy in the tail.

    Max error: 1.6 ULP everywhere.
    """
    a, b, n = erfc_sum(fabs(x))
    y = scalb(a + b, n)
    return where(x < 0.0, 2.0 - y, y)


def finite(x):
    """x, with the largest finite number of its sign for an infinity."""
    return minimum(1.7976931348623157e308, maximum(-1.7976931348623157e308, x))


def gelu_tanh_tail(x):
    """t/(1 + exp(v)), v = 2 sqrt(2/pi) (t + 0.044715 t³), t = abs(x)."""
    w = minimum(100.0, fabs(x))
    u, n = gelu_tanh_parts(-w)
    return scalb(w / logistic_sum(scalb(1.0, n), u), n)


def gelu_tanh_tail_grad(x):
    """s - t·v'·s(1 - s), s = 1/(1 + exp(v)), v as above, t = abs(x); as s·(1 - t·v' + t·v'·s)."""
    t = minimum(100.0, fabs(x))
    u, n = gelu_tanh_parts(-t)
    s = scalb(1.0, n)
    # 1 - t·v' with the roundings of t², of v' and of its constants kept
    z = t * t
    v = fma(0.21406444907188416, z, 1.5957691669464111)
    dv = fma(0.21406444907188416, fma(t, t, -z), fma(-2.540834209696641e-10, z, -4.534068032135963e-08))
    dv = dv + fma(0.21406444907188416, z, 1.5957691669464111 - v)
    h = fma(-t, v, fma(-t, dv, 1.0))
    d = logistic_sum(s, u)
    return scalb(fma(s, (1.0 - h) / d, h) / d, n)


def logistic_tail(t):
    """1/(1 + exp(t)) for t >= 0.

    Max error: 2 ULP on [0, inf].
    """
    u, n = expm1_parts_minus(-minimum(1000.0, t))
    s = scalb(1.0, n)
    return s / logistic_sum(s, u)


def silu_tail(t):
    """t/(1 + exp(t)) for t >= 0."""
    w = minimum(1000.0, t)
    u, n = expm1_parts_minus(-w)
    return scalb(w / logistic_sum(scalb(1.0, n), u), n)


def silu_tail_grad(t):
    """s - t·s(1 - s), s = 1/(1 + exp(t)), for t >= 0."""
    c = -minimum(1000.0, t)
    u, n = expm1_parts_minus(c)
    return logistic_product_slope(c + 1.0, u, n)


def softplus_tail(t):
    """log(1 + exp(-t)) for t >= 0."""
    u, n = expm1_parts(-minimum(1000.0, t))
    y, dy = log1p_sum(u, n)
    return dy + y


def mish_value(x):
    """x·tanh(log(1 + exp(x)))."""
    # with exp(x) = s(1 + u), s = 2^n, this is x·s·a/d with a = s + 2 + u·(2s + 2 + s·u) and d = s·a + 2
    w = minimum(20.0, maximum(-1000.0, x))
    u, n = expm1_parts(w)
    s = scalb(1.0, n)
    g = s + 2.0
    a = fma(u, fma(s, u, fma(2.0, s, 2.0)), g)
    d = fma(s, a, 2.0)
    r = 1.0 / d
    q = a * r
    # what rounding s + 2, d and the quotient lost
    lost = fma(-q, fma(s, a, 2.0 - d), fma(-q, d, a) + (s - (g - 2.0)))
    return where(x > 20.0, x, copysign(scalb(fma(w, q, lost * r * w), n), x))


def mish_slope(x):
    """The derivative of `mish_value`: e/d·(e + 2 + 4x(e + 1)/d), e = exp(x), d = e² + 2e + 2."""
    w = minimum(20.0, maximum(-1000.0, x))
    u, n = expm1_parts(w)
    p = 1.0 + u
    e = scalb(p, n)
    g = e + 2.0
    d = fma(e, g, 2.0)
    dd = fma(e, g, 2.0 - d) + e * (e - (g - 2.0))
    a = fma(fma(e + 4.0, e, fma(4.0, w, 6.0)), e, fma(4.0, w, 4.0))
    r = 1.0 / d
    q = a * r
    h = r * p
    v = q * h
    # what the roundings of d, twice, of r and of q lost
    lost = fma(v, 2.0 * (fma(-r, d, 1.0) - r * dd), fma(a, r, -q) * h)
    return where(x > 20.0, 1.0, scalb(v + lost, n))
