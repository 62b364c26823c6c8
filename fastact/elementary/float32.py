"""Elementary functions for float32, in the grammar of formulas; the contracts are in ``fastact.elementary``.

Coefficients: ``tools/float32.sollya``, whose relative errors are quoted as 2^-k. Maximum errors are measured over every
float32 of the domain, in ULP, while the result is a normal number.
"""

from fastact.primitives import copysign, fabs, fma, logb, maximum, minimum, rint, scalb, sqrt, where


def finite(x):
    """x with the largest float32 of its sign for an infinity. Exact."""
    return minimum(3.4028234663852886e38, maximum(-3.4028234663852886e38, x))


def exp_polynomial(r):
    """exp(r) for abs(r) <= log(2)/2. 2^-28.2"""
    q = fma(r, fma(r, 1.378250424750149250030517578125e-3, 8.3686746656894683837890625e-3), 4.16689626872539520263671875e-2)
    q = fma(r, fma(r, q, 0.16666521131992340087890625), 0.4999999105930328369140625)
    return fma(r, fma(r, q, 1.0), 1.0)


def expm1_polynomial(r):
    """exp(r) - 1 for abs(r) <= log(2)/2. 2^-26.1"""
    s = r * r
    q = fma(r, fma(r, 1.386455609463155269622802734375e-3, 8.366539143025875091552734375e-3), 4.16675023734569549560546875e-2)
    q = fma(r, fma(r, q, 0.16666543483734130859375), 0.4999999701976776123046875)
    return fma(s, q, r)


def exp2_polynomial(f):
    """2^f for abs(f) <= 1/2. 2^-28.0"""
    q = fma(f, fma(f, 1.5243396046571433544158935546875e-4, 1.3391473330557346343994140625e-3), 9.618829004466533660888671875e-3)
    q = fma(f, fma(f, q, 5.5503584444522857666015625e-2), 0.240226447582244873046875)
    return fma(f, fma(f, q, 0.693147182464599609375), 1.0)


def exp_parts(x):
    """(p, n) with exp(x) = p·2^n. Max error of p: 1 ULP on [-3000, 3000]"""
    n = rint(1.44269502162933349609375 * x)
    # log(2) = 0.693147182464599609375 - 1.9046542999577678e-9
    r = fma(n, 1.9046542999577678e-9, fma(n, -0.693147182464599609375, x))
    return exp_polynomial(r), n


def exp_parts_sum(x, dx):
    """(p, n) with exp(x + dx) = p·2^n. Max error of p: 1 ULP on [-3000, 3000]"""
    n = rint(1.44269502162933349609375 * x)
    r = fma(n, 1.9046542999577678e-9, fma(n, -0.693147182464599609375, x)) + dx
    return exp_polynomial(r), n


def expm1_parts(x):
    """(u, n) with exp(x) = (1 + u)·2^n. Max error of u: 1 ULP of 1 + u on [-3000, 3000]"""
    n = rint(1.44269502162933349609375 * x)
    r = fma(n, 1.9046542999577678e-9, fma(n, -0.693147182464599609375, x))
    return expm1_polynomial(r), n


def expm1_parts_sum(x, dx):
    """(u, n) with exp(x + dx) = (1 + u)·2^n. Max error of u: 1 ULP of 1 + u on [-3000, 3000]"""
    n = rint(1.44269502162933349609375 * x)
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


def expm1_nonpositive(x):
    """e^x - 1 for x <= 0. Max error: 1.5 ULP on [-inf, 0]"""
    c = maximum(-30.0, x)
    n = rint(1.44269502162933349609375 * c)
    # n >= -43: the rounding of log(2) moves the result by less than 1e-9
    u = expm1_polynomial(fma(n, -0.693147182464599609375, c))
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


def log1p_unit(e):
    """log(1 + e) for 0 <= e <= 1. Max error: 1.5 ULP on [0, 1]"""
    s = e * e
    q = fma(e, fma(e, 5.3654224611818790435791015625e-3, -3.0068300664424896240234375e-2), 7.9208828508853912353515625e-2)
    q = fma(e, fma(e, q, -0.13754187524318695068359375), 0.1915384829044342041015625)
    q = fma(e, fma(e, q, -0.248572170734405517578125), 0.3332132995128631591796875)
    return fma(s, fma(e, q, -0.499996483325958251953125), e)


def tanh(x):
    """tanh(x). Max error: 2 ULP on [-inf, inf]

    x·P(x²)/Q(x²), 2^-24.5 on [0, 9.2].
    """
    t = minimum(9.2, maximum(-9.2, x))
    w = t * t
    p = fma(w, fma(w, 1.300271978976752507151104509830474853515625e-8, 2.0353441868792288005352020263671875e-5),
            3.48000717349350452423095703125e-3)  # fmt: skip
    p = fma(w, fma(w, p, 0.1336788833141326904296875), 1.0)
    q = fma(w, fma(w, 7.6319514619171968661248683929443359375e-7, 3.2601857674308121204376220703125e-4),
            2.58176513016223907470703125e-2)  # fmt: skip
    q = fma(w, fma(w, q, 0.4670120179653167724609375), 1.0)
    return t * p / q


def x_minus_tanh(x):
    """x - tanh(x). Max error: 2 ULP on [-inf, inf]

    x³·P(x²)/Q(x²), 2^-24.6 on [0, 9.2]; beyond, tanh(x) is ±1.
    """
    t = minimum(9.2, maximum(-9.2, x))
    w = t * t
    p = fma(w, fma(w, 8.0753790143717196770012378692626953125e-7, 3.1535301241092383861541748046875e-4),
            2.25261040031909942626953125e-2)  # fmt: skip
    p = fma(w, p, 0.3333333432674407958984375)
    q = fma(w, fma(w, 8.2193383941847632476128637790679931640625e-7, 3.3676801831461489200592041015625e-4),
            2.6072673499584197998046875e-2)  # fmt: skip
    q = fma(w, fma(w, q, 0.4675782620906829833984375), 1.0)
    return where(fabs(x) > 9.2, x - copysign(1.0, x), t * (w * p) / q)


def erf(x):
    """erf(x). Max error: 2 ULP on [-inf, inf]

    x·P(x²)/Q(x²), 2^-24.2 on [0, 3.93].
    """
    t = minimum(3.93, maximum(-3.93, x))
    w = t * t
    p = fma(w, fma(w, 2.0419620341272093355655670166015625e-6, 2.8480659238994121551513671875e-4),
            3.7796669639647006988525390625e-3)  # fmt: skip
    p = fma(w, fma(w, p, 5.2790381014347076416015625e-2), 0.1907853186130523681640625)
    p = fma(w, p, 1.1283791065216064453125)
    q = fma(w, fma(w, 3.800363992922939360141754150390625e-5, 1.16521981544792652130126953125e-3),
            1.499753631651401519775390625e-2)  # fmt: skip
    q = fma(w, fma(w, q, 0.11425806581974029541015625), 0.50241172313690185546875)
    return t * p / fma(w, q, 1.0)


def erfc(x):
    """1 - erf(x). Max error: 2.5 ULP on [-inf, inf]

    exp(-t²)·P(t)/Q(t) for t = abs(x), 2^-26.2 on [0, 9.4].
    """
    t = minimum(11.0, fabs(x))
    s = t * t
    ds = fma(t, t, -s)
    u, n = expm1_parts_sum(-s, -ds)
    p = fma(t, fma(t, 3.215752542018890380859375e-2, 0.2261653244495391845703125), 0.725185930728912353515625)
    p = fma(t, fma(t, p, 1.2322676181793212890625), 1.0)
    q = fma(t, fma(t, 5.69969229400157928466796875e-2, 0.400897085666656494140625), 1.3133895397186279296875)
    q = fma(t, fma(t, q, 2.3888828754425048828125), 2.3606472015380859375)
    y = scalb(fma(p, u, p) / fma(t, q, 1.0), n)
    return where(x < 0.0, 2.0 - y, y)


def gelu_exp(t):
    """(u, n) with exp(-t²/2) = (1 + u)·2^n. Max error: 0.5 ULP of 1 + u on [0, 30]"""
    w = t * t
    n = rint(-0.721347510814666748046875 * w)
    # s = t² + 2 n log(2), of which w is the rounded square
    s = fma(n, -3.8093085999155357e-9, fma(n, 1.38629436492919921875, w)) + fma(t, t, -w)
    q = fma(s, fma(s, 2.1535162886721082031726837158203125e-5, -2.61521083302795886993408203125e-4),
            2.60431016795337200164794921875e-3)  # fmt: skip
    q = fma(s, fma(s, q, -2.083315141499042510986328125e-2), 0.124999977648258209228515625)
    return s * fma(s, q, -0.5), n


def gelu_tail_numerator(t):
    """P of erfc(t/sqrt(2))/2·exp(t²/2) = P(t)/Q(t). 2^-26.4 on [0, 13.3]"""
    p = fma(t, fma(t, 4.0202061645686626434326171875e-3, 3.99842746555805206298828125e-2), 0.18130697309970855712890625)
    return fma(t, fma(t, p, 0.4356866776943206787109375), 0.5)


def gelu_tail_denominator(t):
    """Q of erfc(t/sqrt(2))/2·exp(t²/2) = P(t)/Q(t). 2^-26.4 on [0, 13.3]"""
    q = fma(t, fma(t, 1.007702015340328216552734375e-2, 0.1002330780029296875), 0.4643810093402862548828125)
    return fma(t, fma(t, fma(t, q, 1.194485187530517578125), 1.66925823688507080078125), 1.0)


def gelu_tail(t):
    """t·erfc(t/sqrt(2))/2 for t >= 0. Max error: 2 ULP on [0, inf]"""
    t = minimum(15.0, t)
    u, n = gelu_exp(t)
    p = t * gelu_tail_numerator(t)
    return scalb(fma(p, u, p) / gelu_tail_denominator(t), n)


def gelu_tail_grad(t):
    """erfc(t/sqrt(2))/2 - t·exp(-t²/2)/sqrt(2 pi) for t >= 0. Max error: 4 ULP on [0, inf], or 2^-23"""
    t = minimum(15.0, t)
    u, n = gelu_exp(t)
    h = fma(-0.3989422804014327, t, gelu_tail_numerator(t) / gelu_tail_denominator(t))
    return scalb(fma(h, u, h), n)


def quick_gelu_parts(x):
    """(p, n) with exp(1.702·x) = p·2^n. Max error of p: 1 ULP on [-2000, 2000]"""
    # 1.702/log(2)
    n = rint(2.4554669857025146 * x)
    f = fma(x, -2.6109498563187117e-08, fma(x, 2.4554669857025146, -n))
    return exp2_polynomial(f), n


def gelu_tanh_parts(x):
    """(p, n) with exp(2 sqrt(2/pi) (x + 0.044715 x³)) = p·2^n. Max error of p: 1.5 ULP where abs(n) < 200"""
    # the exponent over log(2) is x·(a + b x²); a is split on a grid that makes a - g exact, and g + d is a + b x²
    w = x * x
    g = fma(w, 0.10294324159622192, 2.3022079467773438)
    d = fma(fma(x, x, -w), 0.10294324159622192, fma(w, 0.10294324159622192, 2.3022079467773438 - g)) + fma(w, -2.016198541454628e-09, 2.513669699055754e-07)
    n = rint(x * g)
    return exp2_polynomial(fma(x, d, fma(x, g, -n))), n
