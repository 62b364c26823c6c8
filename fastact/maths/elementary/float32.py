"""Elementary functions for float32, in the grammar of formulas; the contracts are in ``fastact.maths.elementary``.

Coefficients: ``tools/float32.sollya``, whose relative errors are quoted as 2^-k. Maximum errors are measured over every
float32 of the domain, in ULP, while the result is a normal number.
"""

from fastact.maths.elementary.float32_tables import (
    gelu_tail_grad_near,
    gelu_tail_near,
    gelu_tanh_tail_grad_near,
    gelu_tanh_tail_near,
    logistic_tail_near,
    mish_near,
    mish_slope_near,
    silu_tail_grad_near,
    silu_tail_near,
    softplus_tail_near,
    tanh_near,
)
from fastact.maths.primitives import copysign, fabs, fma, logb, maximum, minimum, rarely, scalb, sqrt, where


def finite(x):
    """x with the largest float32 of its sign for an infinity. Exact."""
    return minimum(3.4028234663852886e38, maximum(-3.4028234663852886e38, x))


def nearest(a, b):
    """The integer nearest to a·b, less than 2^22. Two operations; a product and rint are three on Intel's CPUs"""
    return fma(a, b, 12582912.0) - 12582912.0


def exp_polynomial(r):
    """exp(r) for abs(r) <= log(2)/2. 2^-28.2"""
    q = fma(
        r, fma(r, 1.378250424750149250030517578125e-3, 8.3686746656894683837890625e-3), 4.16689626872539520263671875e-2
    )
    q = fma(r, fma(r, q, 0.16666521131992340087890625), 0.4999999105930328369140625)
    return fma(r, fma(r, q, 1.0), 1.0)


def expm1_polynomial(r):
    """exp(r) - 1 for abs(r) <= log(2)/2. 2^-26.1"""
    s = r * r
    q = fma(r, 8.366539143025875091552734375e-3, 4.16675023734569549560546875e-2)
    q = fma(
        s,
        fma(s, 1.386455609463155269622802734375e-3, q),
        fma(r, 0.16666543483734130859375, 0.4999999701976776123046875),
    )
    return fma(s, q, r)


def exp2m1_polynomial(f):
    """2^f - 1 for abs(f) <= 1/2; its error is 2^-28.5 of 2^f"""
    s = f * f
    q = fma(f, 1.54571913299150764942169189453125e-4, 1.34024792350828647613525390625e-3)
    q = fma(s, q, fma(f, 9.61807556450366973876953125e-3, 5.55032007396221160888671875e-2))
    # log(2) - 1 leaves the sum half the rounding of log(2)
    q = fma(s, q, fma(f, 0.2402265071868896484375, -0.3068527877330780029296875))
    return fma(f, q, f)


def exp_parts(x):
    """(p, n) with exp(x) = p·2^n. Max error of p: 1 ULP on [-3000, 3000]"""
    n = nearest(1.44269502162933349609375, x)
    # log(2) = 0.693147182464599609375 - 1.9046542999577678e-9
    r = fma(n, 1.9046542999577678e-9, fma(n, -0.693147182464599609375, x))
    return exp_polynomial(r), n


def exp_parts_sum(x, dx):
    """(p, n) with exp(x + dx) = p·2^n. Max error of p: 1 ULP on [-3000, 3000]"""
    n = nearest(1.44269502162933349609375, x)
    r = fma(n, 1.9046542999577678e-9, fma(n, -0.693147182464599609375, x)) + dx
    return exp_polynomial(r), n


def expm1_parts(x):
    """(u, n) with exp(x) = (1 + u)·2^n. Max error of u: 1 ULP of 1 + u on [-3000, 3000]"""
    n = nearest(1.44269502162933349609375, x)
    r = fma(n, 1.9046542999577678e-9, fma(n, -0.693147182464599609375, x))
    return expm1_polynomial(r), n


def expm1_parts_minus(x):
    """(u, n) with exp(-x) = (1 + u)·2^-n. Max error of u: 1 ULP of 1 + u on [-3000, 3000]"""
    n = nearest(1.44269502162933349609375, x)
    r = fma(n, -1.9046542999577678e-9, fma(n, 0.693147182464599609375, -x))
    return expm1_polynomial(r), n


def expm1_parts_sum(x, dx):
    """(u, n) with exp(x + dx) = (1 + u)·2^n. Max error of u: 1 ULP of 1 + u on [-3000, 3000]"""
    n = nearest(1.44269502162933349609375, x)
    r = fma(n, 1.9046542999577678e-9, fma(n, -0.693147182464599609375, x)) + dx
    return expm1_polynomial(r), n


def exp(x):
    """e^x. Max error: 1 ULP on [-inf, inf]"""
    p, n = exp_parts(minimum(200.0, maximum(-200.0, x)))
    return scalb(p, n)


def exp_nonpositive(x):
    """e^x for x <= 0. Max error: 1 ULP on [-inf, 0]"""
    p, n = exp_parts(maximum(-200.0, x))
    return scalb(p, n)


def expm1(x):
    """e^x - 1. Max error: 1.5 ULP on [-inf, inf]"""
    u, n = expm1_parts(minimum(200.0, maximum(-200.0, x)))
    s = scalb(1.0, n)
    y = where(n > 60.0, scalb(1.0 + u, n), fma(s, u, -(1.0 - s)))
    return where(x == 0.0, x, y)


def expm1_parts_near(x):
    """(u, n) with exp(x) = (1 + u)·2^n; u is at most 1 ULP of 1 + u off, n·1.4e-9 apart"""
    n = nearest(1.44269502162933349609375, x)
    return expm1_polynomial(fma(n, -0.693147182464599609375, x)), n


def expm1_nonpositive(x):
    """e^x - 1 for x <= 0. Max error: 1.5 ULP on [-inf, 0]"""
    u, n = expm1_parts_near(maximum(-30.0, x))
    s = scalb(1.0, n)
    return copysign(fma(s, u, s - 1.0), x)


def log_mantissa(m):
    """log(1 + m) for sqrt(1/2) - 1 <= m <= sqrt(2) - 1. 2^-27.8"""
    s = m * m
    q = fma(m, fma(m, -7.6239742338657379150390625e-2, 0.12909089028835296630859375), -0.13244561851024627685546875)
    q = fma(m, fma(m, q, 0.1418113410472869873046875), -0.1660876572132110595703125)
    q = fma(m, fma(m, q, 0.20002003014087677001953125), -0.2500160038471221923828125)
    q = fma(m, fma(m, q, 0.3333332538604736328125), -0.49999988079071044921875)
    return fma(s, q, m)


def log(x):
    """log(x). Max error: 1 ULP on [0, inf]"""
    e = logb(x)
    m = scalb(x, -e)
    high = m > 1.41421353816986083984375
    m = where(high, 0.5 * m, m)
    e = where(high, e + 1.0, e)
    y = fma(e, 0.693147182464599609375, log_mantissa(m - 1.0))
    special = where(x == 0.0, -1e999, sqrt(x))
    return where(x > 0.0, where(x < 1e999, y, x), special)


def log1p(x):
    """log(1 + x). Max error: 1.5 ULP on [-1, inf]"""
    u = 1.0 + x
    # what rounding 1 + x lost
    c = where(fabs(x) < 1.0, x - (u - 1.0), 1.0 - (u - x))
    e = logb(u)
    m = scalb(u, -e)
    high = m > 1.41421353816986083984375
    m = where(high, 0.5 * m, m)
    e = where(high, e + 1.0, e)
    y = fma(e, 0.693147182464599609375, log_mantissa((m - 1.0) + scalb(c, -e)))
    special = where(u == 0.0, -1e999, sqrt(u))
    return where(x == 0.0, x, where(u > 0.0, where(x < 1e999, y, x), special))


def log1p_polynomial(e):
    """(log(1 + e) - e)/e² for 0 <= e <= 1; its error is 2^-27.5 of log(1 + e)"""
    w = e * e
    q = fma(
        w, -3.31243476830422878265380859375e-3, fma(e, 2.017644606530666351318359375e-2, -5.760939419269561767578125e-2)
    )
    q = fma(w, q, fma(e, 0.1067469418048858642578125, -0.15351717174053192138671875))
    q = fma(w, q, fma(e, 0.196940243244171142578125, -0.24958293139934539794921875))
    return fma(w, q, fma(e, 0.3333047926425933837890625, -0.4999993145465850830078125))


def log1p_unit(e):
    """log(1 + e) for 0 <= e <= 1. Max error: 1.5 ULP on [0, 1]"""
    return fma(e * e, log1p_polynomial(e), e)


def log1p_sum(u, n):
    """(y, dy) with log(1 + (1 + u)·2^n) = y + dy for n <= 0; the sum is at most 1.5 ULP off"""
    s = scalb(1.0, n)
    e = fma(s, u, s)
    # what rounding e lost moves log(1 + e) by 1/(1 + e) of it; half an ULP of e at most, so 0.6 will do
    g = fma(e * e, log1p_polynomial(e), 0.6 * fma(s, u, s - e))
    y = e + g
    return y, g - (y - e)


def tanh_sum(t):
    """(y, dy) with tanh(t) = y + dy for t >= 0; the sum is at most 1 ULP off

    -m/(2 + m), m = exp(-2t) - 1, with what rounding m and 2 + m lost. A quotient of polynomials in t² costs less and
    misses by 5 ULP near 1.
    """
    t = minimum(10.0, t)
    u, n = expm1_parts_near(-(t + t))
    s = scalb(1.0, n)
    m = fma(-s, u, 1.0 - s)
    dm = fma(-s, u, 1.0 - s - m)
    d = 2.0 - m
    r = 1.0 / d
    y = m * r
    return y, r * (fma(-y, d, m) + fma(y, m - (2.0 - d), dm))


def tanh(x):
    """tanh(x). Max error: 2 ULP on [-inf, inf]"""
    return copysign(tanh_near(minimum(9.25, fabs(x))), x)


def x_minus_tanh(x):
    """x - tanh(x). Max error: 2 ULP on [-inf, inf]

    x³/(3 + x²·(6/5 - ...)), 2^-24.9 for abs(x) <= 2.2, from Lambert's continued fraction, with the roundings of x³ and
    of the denominator kept.
    """
    w = x * x
    q = fma(
        w,
        fma(w, 3.1229382102537783794105052947998046875e-7, -1.08777812783955596387386322021484375e-5),
        2.509714104235172271728515625e-4,
    )
    q = fma(w, fma(w, q, -5.7112374342978000640869140625e-3), 1.19999897480010986328125)
    d = fma(w, q, 3.0)
    a = x * w
    y = a / d
    da = fma(x, w, -a) + x * fma(x, x, -w)
    near = y + (fma(-y, d, a) + (da - y * fma(w, q, 3.0 - d))) / d
    return where(fabs(x) > 2.2, x - tanh(x), where(fabs(x) < 1e-10, y, near))


def erfc_tail(t):
    """erfc(t) for t >= 0. Max error: 4.5 ULP on [0, inf]

    exp(-t²)/(sqrt(pi)·t + N(t)/P(t)), 2^-25.6 on [0, 9.4]; so arranged, the errors of P and N fade as t grows.
    """
    t = minimum(11.0, t)
    w = t * t
    u, n = expm1_parts_sum(-w, -fma(t, t, -w))
    p = fma(t, fma(t, 3.80787514150142669677734375e-2, 0.2540453374385833740234375), 0.783273637294769287109375)
    p = fma(t, fma(t, p, 1.28724586963653564453125), 1.0)
    q = fma(t, fma(t, 5.5351038099615830765338473022e-6, 3.35746668279170989990234375e-2), 0.22741223871707916259765625)
    q = fma(t, fma(t, q, 0.64317226409912109375), 1.0)
    return scalb(fma(p, u, p) / fma(1.77245390415191650390625 * t, p, q), n)


def erf_near(x):
    """erf(x) for abs(x) <= 1. 2^-29.3"""
    w = x * x
    q = fma(
        w,
        fma(w, 7.9241304774768650531768798828125e-5, -8.031835895963013172149658203125e-4),
        5.190844647586345672607421875e-3,
    )
    q = fma(w, fma(w, q, -2.68551744520664215087890625e-2), 0.112836189568042755126953125)
    q = fma(w, fma(w, q, -0.37612628936767578125), 0.128379166126251220703125)
    return fma(x, q, x)


def erf(x):
    """erf(x). Max error: 1 ULP on [-inf, inf]"""
    t = fabs(x)
    return where(t < 1.0, erf_near(x), copysign(1.0 - erfc_tail(t), x))


def erfc(x):
    """1 - erf(x). Max error: 3 ULP on [-inf, inf]"""
    y = erfc_tail(fabs(x))
    return where(fabs(x) < 0.5, 1.0 - erf_near(x), where(x < 0.0, 2.0 - y, y))


def gelu_exp_parts(t):
    """(u, n) with exp(-t²/2) = (1 + u)·2^n; the polynomial's error is 2^-28.2 of 1 + u"""
    n = nearest(-0.721347510814666748046875, t * t)
    # s = t² + 2 n log(2); n times the first part of 2 log(2) is exact
    s = fma(n, -1.2401575421938e-5, fma(t, t, 1.3863067626953125 * n))
    q = fma(
        s,
        fma(s, 2.1535162886721082031726837158203125e-5, -2.61521083302795886993408203125e-4),
        2.60431016795337200164794921875e-3,
    )
    q = fma(s, fma(s, q, -2.083315141499042510986328125e-2), 0.124999977648258209228515625)
    return fma(s * s, q, -0.5 * s), n


def clipped(x, most):
    """abs(x), at most `most`, and 8 of positive x: tails that do not count in x - tail would be slow where subnormal"""
    return minimum(most, maximum(-x, minimum(8.0, x)))


def gelu_tail_far(x):
    """`gelu_tail` for abs(x) >= 6.25: exp(-t²/2)·R(t), 2^-26.0"""
    t = clipped(x, 15.0)
    u, n = gelu_exp_parts(t)
    v = t - 8.0
    r = fma(
        v,
        -3.46664255461426318305484528536908328533172607421875e-12,
        1.0567770269775795827122055925428867340087890625e-10,
    )
    r = fma(
        v,
        fma(v, r, -1.47195622357543243197142146527767181396484375e-9),
        1.350540568267888374975882470607757568359375e-8,
    )
    r = fma(v, fma(v, r, -1.0388539095629312214441597461700439453125e-7), 7.7341286441878764890134334564208984375e-7)
    r = fma(v, fma(v, r, -5.65179152545169927179813385009765625e-6), 3.930832826881669461727142333984375e-5)
    r = fma(v, fma(v, r, -2.528742770664393901824951171875e-4), 1.427265815436840057373046875e-3)
    r = fma(v, r, 0.3929803669452667236328125)
    return scalb(fma(r, u, r), n)


def gelu_tail(x):
    """t·Q(t), t = abs(x), Q(t) = erfc(t/sqrt(2))/2; for x > 8 as for 8. Max error: 2 ULP on [-inf, 0]"""
    t = fabs(x)
    return rarely(t >= 6.25, gelu_tail_far, gelu_tail_near(t), x)


def gelu_tail_grad_far(x):
    """`gelu_tail_grad` for abs(x) >= 6.25: exp(-t²/2)·H(t), 2^-24.6"""
    t = clipped(x, 15.0)
    u, n = gelu_exp_parts(t)
    v = t - 8.0
    h = fma(v, 4.45034176177472318158834241330623626708984375e-10, -1.126292925590632876264862716197967529296875e-8)
    h = fma(v, fma(v, h, 1.342490776323757017962634563446044921875e-7), -1.173369810203439556062221527099609375e-6)
    h = fma(v, fma(v, h, 9.8416903711040504276752471923828125e-6), -8.41489018057473003864288330078125e-5)
    h = fma(v, fma(v, h, 7.1360357105731964111328125e-4), -0.4049043357372283935546875)
    h = fma(v, h, -3.1424157619476318359375)
    return scalb(fma(h, u, h), n)


def gelu_tail_grad(x):
    """Q(t) - t·exp(-t²/2)/sqrt(2 pi), t and Q as above; for x > 8 as for 8.

    Max error: 4 ULP on [-inf, 0], or 2^-23
    """
    t = fabs(x)
    return rarely(t >= 6.25, gelu_tail_grad_far, gelu_tail_grad_near(t), x)


def quick_gelu_parts(x):
    """(u, n) with exp(-1.702·x) = (1 + u)·2^-n. Max error of u: 1 ULP of 1 + u on [-1000, 1000]"""
    # 1.702/log(2)
    n = nearest(2.4554669857025146, x)
    f = fma(x, 2.6109498563187117e-08, fma(x, -2.4554669857025146, n))
    return exp2m1_polynomial(f), n


def gelu_tanh_parts(x):
    """(u, n) with exp(-2 sqrt(2/pi) (x + 0.044715 x³)) = (1 + u)·2^-n.

    Max error of u: 1 ULP of 1 + u where abs(n) < 200.
    """
    # the exponent over log(2) is x·(a + b x²); a is split on a grid that makes a - g exact, and g + d is a + b x²
    w = x * x
    g = fma(w, 0.10294324159622192, 2.3022079467773438)
    d = fma(fma(x, x, -w), 0.10294324159622192, fma(w, 0.10294324159622192, 2.3022079467773438 - g)) + fma(
        w, -2.016198541454628e-09, 2.513669699055754e-07
    )
    n = nearest(x, g)
    return exp2m1_polynomial(fma(-x, d, fma(-x, g, n))), n


def minus_square(p, n, u):
    """u - p²·2^n for n < 0; with subnormal powers of two, which cost 150 cycles each, left out: they do not count"""
    return fma(-p, scalb(p, maximum(-60.0, n)), u)


def gelu_tanh_tail_far(x):
    """`gelu_tanh_tail` for abs(x) >= 5.5"""
    # with e = exp(-v), 1/(1 + exp(v)) = e(1 - e) but for e³
    w = clipped(x, 12.0)
    u, n = gelu_tanh_parts(w)
    h = minus_square(1.0 + u, -n, u)
    return scalb(fma(w, h, w), -n)


def gelu_tanh_tail(x):
    """t/(1 + exp(v)), v = 2 sqrt(2/pi) (t + 0.044715 t³), t = abs(x); for x > 8 as for 8"""
    t = fabs(x)
    return rarely(t >= 5.5, gelu_tanh_tail_far, gelu_tanh_tail_near(t), x)


def gelu_tanh_tail_grad_far(x):
    """`gelu_tanh_tail_grad` for abs(x) >= 5.5"""
    # e(1 - t·v' + e(2t·v' - 1)) but for e³
    w = clipped(x, 12.0)
    u, n = gelu_tanh_parts(w)
    z = w * fma(0.21406444907188416, w * w, 1.5957691669464111)
    h = fma(scalb(1.0 + u, maximum(-60.0, -n)), z + z - 1.0, 1.0 - z)
    return scalb(fma(h, u, h), -n)


def gelu_tanh_tail_grad(x):
    """s - t·v'·s(1 - s), s = 1/(1 + exp(v)), t and v as above; for x > 8 as for 8"""
    t = fabs(x)
    return rarely(t >= 5.5, gelu_tanh_tail_grad_far, gelu_tanh_tail_grad_near(t), x)


def logistic_tail_far(t):
    """`logistic_tail` for t >= 11.25: e - e² but for e³, e = exp(-t)"""
    u, n = expm1_parts(-minimum(200.0, t))
    return scalb(1.0 + minus_square(1.0 + u, n, u), n)


def logistic_tail(t):
    """1/(1 + exp(t)) for t >= 0. Max error: 2 ULP on [0, inf]"""
    return rarely(t >= 11.25, logistic_tail_far, logistic_tail_near(t), t)


def silu_tail_far(t):
    """`silu_tail` for t >= 11.25: t(e - e²) but for e³, e = exp(-t)"""
    w = minimum(200.0, t)
    u, n = expm1_parts(-w)
    h = minus_square(1.0 + u, n, u)
    return scalb(fma(w, h, w), n)


def silu_tail(t):
    """t/(1 + exp(t)) for t >= 0"""
    return rarely(t >= 11.25, silu_tail_far, silu_tail_near(t), t)


def silu_tail_grad_far(t):
    """`silu_tail_grad` for t >= 11.25: e(1 - t + e(2t - 1)) but for e³, e = exp(-t)"""
    w = minimum(200.0, t)
    u, n = expm1_parts(-w)
    h = fma(scalb(1.0 + u, maximum(-60.0, n)), w + w - 1.0, 1.0 - w)
    return scalb(fma(h, u, h), n)


def silu_tail_grad(t):
    """s - t·s(1 - s), s = 1/(1 + exp(t)), for t >= 0"""
    return rarely(t >= 11.25, silu_tail_grad_far, silu_tail_grad_near(t), t)


def softplus_tail_far(t):
    """`softplus_tail` for t >= 11.25: e - e²/2 but for e³, e = exp(-t)"""
    u, n = expm1_parts(-minimum(200.0, t))
    return scalb(1.0 + 0.5 * minus_square(1.0 + u, n, u + u), n)


def softplus_tail(t):
    """log(1 + exp(-t)) for t >= 0"""
    return rarely(t >= 11.25, softplus_tail_far, softplus_tail_near(t), t)


def mish_far(x):
    """`mish_value` for abs(x) >= 9.375: x, or x(e - e²/2) but for e³, e = exp(x)"""
    w = maximum(-200.0, x)
    u, n = expm1_parts(minimum(0.0, w))
    h = 0.5 * minus_square(1.0 + u, n, u + u)
    return where(x > 0.0, x, scalb(fma(w, h, w), n))


def mish_value(x):
    """x·tanh(log(1 + exp(x)))"""
    return rarely(fabs(x) >= 9.375, mish_far, mish_near(x), x)


def mish_slope_far(x):
    """`mish_slope` for abs(x) >= 11.25: 1, or e(1 + x - e(1/2 + x)) but for e³, e = exp(x)"""
    w = maximum(-200.0, x)
    u, n = expm1_parts(minimum(0.0, w))
    h = fma(-scalb(1.0 + u, maximum(-60.0, n)), 0.5 + w, 1.0 + w)
    return where(x > 0.0, 1.0, scalb(fma(h, u, h), n))


def mish_slope(x):
    """The derivative of `mish_value`"""
    return rarely(fabs(x) >= 11.25, mish_slope_far, mish_slope_near(x), x)
