"""Every activation, its derivative and its derivative from the output, once, for every dtype and backend.

The grammar is that of docs/design.md: straight-line arithmetic on one element. ``name(x, *params)`` is the value,
``name_grad(x, *params)`` the derivative by x, ``name_grad_from_output(y, *params)`` the derivative as a function of
y = name(x). NaN gives NaN everywhere; infinities give the limits. The bounds of magnitude (3000, 1e9) are beyond every
overflow, underflow and rounding of float32 and float64 alike.
"""

from fastact.maths.elementary.float32 import (
    exp,
    exp_nonpositive,
    expm1_nonpositive,
    expm1_parts_minus,
    expm1_parts_sum,
    finite,
    gelu_tail,
    gelu_tail_grad,
    gelu_tanh_tail,
    gelu_tanh_tail_grad,
    log1p_sum,
    logistic_tail,
    mish_slope,
    mish_value,
    quick_gelu_parts,
    silu_tail,
    silu_tail_grad,
    softplus_tail,
    tanh,  # noqa: F401 - a row's formula itself
    tanh_sum,
    x_minus_tanh,
)
from fastact.maths.elementary.logistic import logistic_product_slope, logistic_sum
from fastact.maths.primitives import copysign, fabs, fma, maximum, minimum, rarely, scalb, sqrt, where


def clip(x, low, high):
    """min(max(x, low), high), NaN where x is."""
    return minimum(high, maximum(low, x))


def inside(y, low, high):
    """1 where low < y < high, 0 where y is at or beyond either; NaN where y is."""
    return where(y > low, where(y < high, 1.0, 0.0), where(y <= low, 0.0, y))


def outside(x, radius):
    """1 where abs(x) > radius, else 0; NaN where x is."""
    return where(fabs(x) > radius, 1.0, x - x)


def linear(slope, x, offset):
    """slope·x + offset, rounded once; offset where the slope is 0, at an infinite x too."""
    radius = where(slope == 0.0, 1.0, 1e999)
    return fma(slope, clip(x, -radius, radius), offset)


def product_error(a, b, ab):
    """a·b - ab for the rounded product ab; 0 where that is beyond 3000."""
    return where(fabs(ab) < 3000.0, fma(a, b, -ab), 0.0)


# piecewise linear


def identity(x):
    """x"""
    return x


def identity_grad(x):
    """1"""
    return where(x == x, 1.0, x)


def identity_grad_from_output(y):
    """1"""
    return where(y == y, 1.0, y)


def relu(x):
    """max(x, 0)

    Fukushima, Cognitron, 1975; Nair and Hinton, ICML 2010.
    """
    return maximum(0.0, x)


def relu_grad(x):
    """1 if x > 0 else 0; 0 at 0"""
    return where(x > 0.0, 1.0, maximum(0.0, x))


def relu_grad_from_output(y):
    """1 if y > 0 else 0"""
    return where(y > 0.0, 1.0, y)


def relu6(x):
    """min(max(x, 0), 6)

    Krizhevsky, Convolutional Deep Belief Networks on CIFAR-10, 2010.
    """
    return clip(x, 0.0, 6.0)


def relu6_grad(x):
    """1 if 0 < x < 6 else 0; 0 at 0 and 6"""
    return inside(x, 0.0, 6.0)


def relu6_grad_from_output(y):
    """1 if 0 < y < 6 else 0"""
    return inside(y, 0.0, 6.0)


def leaky_relu(x, negative_slope):
    """x if x > 0 else negative_slope·x

    Maas, Hannun and Ng, ICML 2013.
    """
    # 0·(-inf) would be NaN
    low = where(negative_slope == 0.0, -1.0, -1e999)
    return where(x > 0.0, x, negative_slope * maximum(low, x))


def leaky_relu_grad(x, negative_slope):
    """1 if x > 0 else negative_slope; negative_slope at 0"""
    return where(x > 0.0, 1.0, where(x <= 0.0, negative_slope, x))


def leaky_relu_grad_from_output(y, negative_slope):
    """1 if y > 0 else negative_slope"""
    return where(y > 0.0, 1.0, where(y <= 0.0, negative_slope, y))


def threshold(x, threshold, value):
    """x if x > threshold else value"""
    return where(x <= threshold, value, x)


def threshold_grad(x, threshold, value):
    """1 if x > threshold else 0; 0 at threshold"""
    return where(x > threshold, 1.0, where(x <= threshold, 0.0, x))


def thresholded_relu(x, threshold):
    """x if x > threshold else 0

    Konda, Memisevic and Krueger, ICLR 2015; ONNX operator ThresholdedRelu.
    """
    return where(x <= threshold, 0.0, x)


def thresholded_relu_grad(x, threshold):
    """1 if x > threshold else 0; 0 at threshold"""
    return threshold_grad(x, threshold, 0.0)


def hard_sigmoid(x, alpha, beta):
    """min(max(alpha·x + beta, 0), 1)

    Courbariaux, Bengio and David, NeurIPS 2015.
    """
    return clip(linear(alpha, x, beta), 0.0, 1.0)


def hard_sigmoid_grad(x, alpha, beta):
    """alpha if 0 < alpha·x + beta < 1 else 0; 0 where that is 0 or 1, as rounded"""
    return alpha * inside(linear(alpha, x, beta), 0.0, 1.0)


def hard_sigmoid_grad_from_output(y, alpha, beta):
    """alpha if 0 < y < 1 else 0"""
    return alpha * inside(y, 0.0, 1.0)


def hard_sigmoid_default(x):
    """min(max((x + 3)/6, 0), 1), rounded once"""
    w = clip(x, -3.0, 3.0)
    s = w + 3.0
    # what is left of w + 3 after a quotient of a product with 1/6, all of it exact but for its last addition
    q = 0.16666666666666666 * s
    r = fma(-6.0, q, s) + (w - (s - 3.0))
    return q + 0.16666666666666666 * r


def hard_sigmoid_default_grad(x):
    """1/6 if -3 < x < 3 else 0; 0 at both"""
    return 0.16666666666666666 * inside(x, -3.0, 3.0)


def hard_sigmoid_default_grad_from_output(y):
    """1/6 if 0 < y < 1 else 0"""
    return 0.16666666666666666 * inside(y, 0.0, 1.0)


def hard_tanh(x, min_val, max_val):
    """min(max(x, min_val), max_val)

    Collobert, Large Scale Machine Learning, 2004.
    """
    return clip(x, min_val, max_val)


def hard_tanh_grad(x, min_val, max_val):
    """1 if min_val < x < max_val else 0; 0 at both"""
    return inside(x, min_val, max_val)


def hard_tanh_grad_from_output(y, min_val, max_val):
    """1 if min_val < y < max_val else 0"""
    return inside(y, min_val, max_val)


def soft_shrink(x, lambd):
    """x - lambd if x > lambd, x + lambd if x < -lambd, else 0

    Donoho and Johnstone, Biometrika 81, 1994.
    """
    return x - clip(x, -lambd, lambd)


def soft_shrink_grad(x, lambd):
    """1 if abs(x) > lambd else 0; 0 at both"""
    return outside(x, lambd)


def hard_shrink(x, lambd):
    """x if abs(x) > lambd else 0

    Donoho and Johnstone, Biometrika 81, 1994.
    """
    return where(fabs(x) > lambd, x, x - x)


def hard_shrink_grad(x, lambd):
    """1 if abs(x) > lambd else 0; 0 at both"""
    return outside(x, lambd)


def hard_shrink_grad_from_output(y, lambd):
    """0 if y = 0 else 1"""
    return where(y == 0.0, 0.0, where(y == y, 1.0, y))


def shrink(x, lambd, bias):
    """x - bias if x > lambd, x + bias if x < -lambd, else 0

    ONNX operator Shrink.
    """
    return where(fabs(x) > lambd, x - copysign(1.0, x) * bias, x - x)


def shrink_grad(x, lambd, bias):
    """1 if abs(x) > lambd else 0; 0 at both"""
    return outside(x, lambd)


def relu_k(x, k):
    """min(max(x, 0), k)"""
    return clip(x, 0.0, k)


def relu_k_grad(x, k):
    """1 if 0 < x < k else 0; 0 at both"""
    return inside(x, 0.0, k)


def relu_k_grad_from_output(y, k):
    """1 if 0 < y < k else 0"""
    return inside(y, 0.0, k)


def clipped_linear(x, slope, offset, min_val, max_val):
    """min(max(slope·x + offset, min_val), max_val)"""
    return clip(linear(slope, x, offset), min_val, max_val)


def clipped_linear_grad(x, slope, offset, min_val, max_val):
    """slope if min_val < slope·x + offset < max_val else 0; 0 where that is at either, as rounded"""
    return slope * inside(linear(slope, x, offset), min_val, max_val)


def clipped_linear_grad_from_output(y, slope, offset, min_val, max_val):
    """slope if min_val < y < max_val else 0"""
    return slope * inside(y, min_val, max_val)


def sparse_sigmoid(x):
    """min(max((x + 1)/2, 0), 1)

    Martins and Astudillo, From Softmax to Sparsemax, ICML 2016.
    """
    return fma(0.5, clip(x, -1.0, 1.0), 0.5)


def sparse_sigmoid_grad(x):
    """1/2 if -1 < x < 1 else 0; 0 at both"""
    return 0.5 * inside(x, -1.0, 1.0)


def prelu(x, weight):
    """x if x > 0 else weight·x

    He, Zhang, Ren and Sun, Delving Deep into Rectifiers, ICCV 2015.
    """
    return leaky_relu(x, weight)


def prelu_grad(x, weight):
    """1 if x > 0 else weight; weight at 0"""
    return leaky_relu_grad(x, weight)


def prelu_weight_grad(x, weight):
    """min(x, 0), the derivative by the weight"""
    return minimum(0.0, x)


# piecewise polynomial and algebraic


def relu_squared(x):
    """max(x, 0)²

    So et al., Primer, NeurIPS 2021.
    """
    return maximum(0.0, x) * maximum(0.0, x)


def relu_squared_grad(x):
    """2·max(x, 0)"""
    return 2.0 * maximum(0.0, x)


def relu_squared_grad_from_output(y):
    """2·sqrt(y)"""
    return 2.0 * sqrt(y)


def sparse_plus(x):
    """0 if x <= -1, x if x >= 1, else (x + 1)²/4

    The integral of sparse_sigmoid (Martins and Astudillo, ICML 2016).
    """
    h = maximum(0.0, x + 1.0)
    return where(x < 1.0, 0.25 * h * h, x)


def sparse_plus_grad(x):
    """min(max((x + 1)/2, 0), 1)"""
    return sparse_sigmoid(x)


def hard_silu(x):
    """x·min(max(x/6 + 1/2, 0), 1)

    Howard et al., Searching for MobileNetV3, ICCV 2019.
    """
    h = maximum(-3.0, x)
    return h * (minimum(6.0, h + 3.0) / 6.0)


def hard_silu_grad(x):
    """0 if x <= -3, 1 if x >= 3, else x/3 + 1/2; 0 at -3 and 1 at 3, as PyTorch"""
    h = (x + 1.5) / 3.0
    return where(x <= -3.0, 0.0, where(x >= 3.0, 1.0, h))


def softsign(x):
    """x/(1 + abs(x))

    Turian, Bergstra and Bengio, NAACL 2009.
    """
    w = finite(x)
    return w / (1.0 + fabs(w))


def softsign_grad(x):
    """1/(1 + abs(x))²"""
    d = 1.0 / (1.0 + fabs(x))
    return d * d


def softsign_grad_from_output(y):
    """(1 - abs(y))²"""
    d = 1.0 - fabs(y)
    return d * d


def squareplus(x, b):
    """(x + sqrt(x² + b))/2

    Barron, Squareplus, arXiv:2112.11687.
    """
    # for x < 0 as y = (b/2)/(sqrt(x² + b) - x), with one Newton step of y² - x·y = b/4 for the last bit
    t = fabs(x)
    # where x² overflows or underflows, so that b counts for nothing or x for nothing
    q = where(b == 0.0, t, maximum(where(t < 1e18, sqrt(fma(x, x, b)), t), t))
    y = 0.5 * b / (q + t)
    step = fma(y, t, fma(y, y, -0.25 * b)) / q
    return where(x < 0.0, where(fabs(step) <= y, y - step, y), 0.5 * x + 0.5 * q)


def squareplus_grad(x, b):
    """(1 + x/sqrt(x² + b))/2; 0 at 0 for b = 0"""
    t = fabs(x)
    far = t > 1e9
    w = fma(t, t, b)
    d = where(far, t, fma(sqrt(w), t, w))
    h = where(far, 0.25 * b / t, 0.5 * b) / d
    low = where(b == 0.0, where(x == x, 0.0, x), h)
    return where(x > 0.0, 1.0 - low, low)


def dish(x):
    """x/2·(1 + x/sqrt(1 + x²))"""
    # the tail -t·(1 - t/sqrt(1 + t²))/2 is taken as -t/(2 q (q + t)), q = sqrt(1 + t²)
    t = fabs(x)
    far = t > 1e9
    h = fma(t, t, 1.0)
    dh = fma(t, t, 1.0 - h)
    s = where(far, 1.0, t / sqrt(h))
    d = where(far, t, fma(h, s, h))
    dd = fma(h, s, h - d) + fma(dh, s, dh)
    a = where(far, 0.25, 0.5 * t)
    r = 1.0 / d
    v = a * r
    dv = r * (fma(-v, d, a) - v * dd)
    half = 0.5 * x
    return where(x < 0.0, -where(far, v, v + dv), fma(half, s, half))


def dish_grad(x):
    """1/2·(1 + x(x² + 2)/sqrt(1 + x²)³)

    For x < 0, with t = -x and q = sqrt(1 + t²), this is (1 - q t)/(2 (q + t) q³); f'(x) + f'(-x) = 1.
    """
    t = fabs(x)
    far = t > 1e9
    h = fma(t, t, 1.0)
    dh = fma(t, t, 1.0 - h)
    q = sqrt(h)
    k = fma(t, q, h)
    dk = fma(t, q, h - k) + dh
    d = where(far, t * t, h * k)
    dd = fma(h, k, -d) + fma(h, dk, dh * k)
    a = where(far, -0.25, 0.5 * fma(-q, t, 1.0))
    r = 1.0 / d
    v = a * r
    dv = r * (fma(-v, d, a) - v * dd)
    tail = where(far, v, v + dv)
    return where(x < 0.0, tail, 1.0 - tail)


# exponential


def exponential(x):
    """exp(x)"""
    return exp(x)


def exponential_grad(x):
    """exp(x)"""
    return exp(x)


def exponential_grad_from_output(y):
    """y"""
    return y


def elu(x, alpha):
    """x if x > 0 else alpha·(exp(x) - 1)

    Clevert, Unterthiner and Hochreiter, ICLR 2016.
    """
    return where(x > 0.0, x, alpha * expm1_nonpositive(x))


def elu_grad(x, alpha):
    """1 if x > 0 else alpha·exp(x); alpha at 0"""
    return where(x > 0.0, 1.0, alpha * exp_nonpositive(x))


def elu_grad_from_output(y, alpha):
    """1 if y > 0 else y + alpha"""
    return where(y > 0.0, 1.0, y + alpha)


def selu(x):
    """1.0507009873554805·(x if x > 0 else 1.6732632423543772·(exp(x) - 1))

    Klambauer, Unterthiner, Mayr and Hochreiter, NeurIPS 2017.
    """
    return where(x > 0.0, 1.0507009873554805 * x, 1.7580993408473768 * expm1_nonpositive(x))


def selu_grad(x):
    """1.0507009873554805·(1 if x > 0 else 1.6732632423543772·exp(x)); 1.7580993408473768 at 0"""
    return where(x > 0.0, 1.0507009873554805, 1.7580993408473768 * exp_nonpositive(x))


def selu_grad_from_output(y):
    """1.0507009873554805 if y > 0 else y + 1.7580993408473768"""
    return where(y > 0.0, 1.0507009873554805, y + 1.7580993408473768)


def celu(x, alpha):
    """max(x, 0) + min(alpha·(exp(x/alpha) - 1), 0)

    Barron, Continuously Differentiable Exponential Linear Units, arXiv:1704.07483. For either sign of alpha this is x
    for x > 0 and alpha·(exp(x/alpha) - 1) below.
    """
    z = x / alpha
    dz = where(fabs(z) < 3000.0, fma(-z, alpha, x) / alpha, 0.0)
    u, n = expm1_parts_sum(clip(z, -3000.0, 3000.0), dz)
    s = scalb(1.0, n)
    # from n = 5 on the rounding of u·alpha - alpha·2^-n is small against alpha
    far = scalb(alpha + fma(alpha, u, -alpha * scalb(1.0, -n)), n)
    m = fma(s, u, s - 1.0)
    near = alpha * m
    # what rounding x/alpha, m and the product lost
    dm = fma(s, u, s - 1.0 - m) + where(n == 0.0, z - (z + dz) + dz, 0.0)
    near = near + fma(alpha, dm, fma(alpha, m, -near))
    y = where(n > 4.0, far, near)
    return where(x > 0.0, x, copysign(y, x))


def celu_grad(x, alpha):
    """1 if x > 0 else exp(x/alpha); 1 at 0"""
    z = x / alpha
    dz = where(fabs(z) < 3000.0, fma(-z, alpha, x) / alpha, 0.0)
    u, n = expm1_parts_sum(clip(z, -3000.0, 3000.0), dz)
    return where(x > 0.0, 1.0, scalb(1.0 + u, n))


def celu_grad_from_output(y, alpha):
    """1 if y > 0 else (y + alpha)/alpha"""
    return where(y > 0.0, 1.0, (y + alpha) / alpha)


# logistic


def sigmoid(x):
    """1/(1 + exp(-x))

    Verhulst, 1845.
    """
    # 3.9 ns for 16 elements with AVX-512, by a table 4.3 (Intel, family 6 model 167)
    u, n = expm1_parts_minus(clip(x, -1000.0, 60.0))
    s = scalb(1.0, n)
    return s / logistic_sum(s, u)


def sigmoid_grad(x):
    """s(1 - s), s = 1/(1 + exp(-x))"""
    q = logistic_tail(fabs(x))
    return fma(-q, q, q)


def sigmoid_grad_from_output(y):
    """y(1 - y)"""
    return y * (1.0 - y)


def tanh_grad(x):
    """1 - tanh(x)²

    As 4s(1 - s), s = 1/(1 + exp(2·abs(x))), which keeps its relative accuracy in the tails.
    """
    t = fabs(x)
    q = logistic_tail(t + t)
    return 4.0 * fma(-q, q, q)


def tanh_grad_from_output(y):
    """1 - y²"""
    return fma(-y, y, 1.0)


def tanh_shrink(x):
    """x - tanh(x)"""
    return x_minus_tanh(x)


def tanh_shrink_grad(x):
    """tanh(x)²"""
    y, dy = tanh_sum(fabs(x))
    return fma(y, y, 2.0 * y * dy)


def log_sigmoid(x):
    """-log(1 + exp(-x))"""
    return minimum(0.0, x) - softplus_tail(fabs(x))


def log_sigmoid_grad(x):
    """1/(1 + exp(x))"""
    return sigmoid(-x)


def log_sigmoid_grad_from_output(y):
    """1 - exp(y)"""
    return -expm1_nonpositive(y)


def softplus(x, beta):
    """log(1 + exp(beta·x))/beta

    Dugas, Bengio, Bélisle, Nadeau and Garcia, NeurIPS 2000.
    """
    # as max(x, 0) + log1p(exp(-abs(beta·x)))/beta
    t = fabs(x)
    z = beta * t
    u, n = expm1_parts_sum(-minimum(3000.0, z), -product_error(beta, t, z))
    # far out the logarithm is exp itself, which may be subnormal where exp/beta is not
    far = n < -60.0
    y, dy = log1p_sum(u, n)
    p = 1.0 + u
    y = where(far, p, y)
    dy = where(far, u - (p - 1.0), dy)
    r = 1.0 / beta
    h = y * r
    dh = (fma(-h, beta, y) + dy) * r
    n = where(far, n, 0.0)
    y = maximum(0.0, x) + scalb(dh, n) + scalb(h, n)
    # the same bits as with the default
    return rarely(beta == 1.0, softplus_default, y, x)


def softplus_grad(x, beta):
    """1/(1 + exp(-beta·x))"""
    z = beta * x
    u, n = expm1_parts_sum(-clip(z, -1000.0, 60.0), -product_error(beta, x, z))
    s = scalb(1.0, -n)
    y = s / logistic_sum(s, u)
    # the same bits as with the default
    return rarely(beta == 1.0, softplus_default_grad, y, x)


def softplus_grad_from_output(y, beta):
    """1 - exp(-beta·y)"""
    return -expm1_nonpositive(-beta * y)


def softplus_default(x):
    """log(1 + exp(x))"""
    return maximum(0.0, x) + softplus_tail(fabs(x))


def softplus_default_grad(x):
    """1/(1 + exp(-x))"""
    return sigmoid(x)


def silu(x, beta):
    """x/(1 + exp(-beta·x))

    Hendrycks and Gimpel, arXiv:1606.08415; Ramachandran, Zoph and Le, Swish, arXiv:1710.05941.
    """
    w = finite(x)
    z = beta * w
    u, n = expm1_parts_sum(-clip(z, -3000.0, 60.0), -product_error(beta, w, z))
    # beyond -3000 only the sign of x is left
    y = scalb(where(z < -3000.0, -beta, x) / logistic_sum(scalb(1.0, -n), u), -n)
    # the same bits as with the default
    return rarely(beta == 1.0, silu_default, y, x)


def silu_grad(x, beta):
    """s + beta·x·s(1 - s), s = 1/(1 + exp(-beta·x))"""
    w = finite(x)
    z = beta * w
    c = clip(z, -3000.0, 44.0)
    u, n = expm1_parts_sum(-c, -product_error(beta, w, z))
    y = logistic_product_slope(where(c == z, fma(beta, w, 1.0), c + 1.0), u, -n)
    # the same bits as with the default
    return rarely(beta == 1.0, silu_default_grad, y, x)


def silu_default(x):
    """x/(1 + exp(-x))"""
    return maximum(-0.0, x) - silu_tail(fabs(x))


def silu_default_grad(x):
    """s + x·s(1 - s), s = 1/(1 + exp(-x))

    f'(x) + f'(-x) = 1.
    """
    tail = silu_tail_grad(fabs(x))
    return where(x < 0.0, tail, 1.0 - tail)


def quick_gelu(x):
    """x/(1 + exp(-1.702·x))

    Hendrycks and Gimpel, arXiv:1606.08415.
    """
    w = maximum(-1000.0, x)
    u, n = quick_gelu_parts(minimum(30.0, w))
    return scalb(w / logistic_sum(scalb(1.0, n), u), n)


def quick_gelu_grad(x):
    """s + 1.702·x·s(1 - s), s = 1/(1 + exp(-1.702·x))"""
    c = clip(x, -1000.0, 25.0)
    u, n = quick_gelu_parts(c)
    return logistic_product_slope(fma(1.702, c, 1.0), u, n)


def gelu_tanh(x):
    """x/2·(1 + tanh(sqrt(2/pi)·(x + 0.044715·x³)))

    Hendrycks and Gimpel, arXiv:1606.08415.
    """
    return maximum(-0.0, x) - gelu_tanh_tail(x)


def gelu_tanh_grad(x):
    """s + x·v'·s(1 - s), s = 1/(1 + exp(-v)), v = 2·sqrt(2/pi)·(x + 0.044715·x³)

    f'(x) + f'(-x) = 1.
    """
    tail = gelu_tanh_tail_grad(x)
    return where(x < 0.0, tail, 1.0 - tail)


def gelu(x):
    """x·Phi(x), Phi(x) = (1 + erf(x/sqrt(2)))/2

    Hendrycks and Gimpel, arXiv:1606.08415.
    """
    # Phi(-t) = Q(t), so this is max(x, 0) - t·Q(t), t = abs(x)
    return maximum(-0.0, x) - gelu_tail(x)


def gelu_grad(x):
    """Phi(x) + x·phi(x)

    f'(x) + f'(-x) = 1.
    """
    tail = gelu_tail_grad(x)
    return where(x < 0.0, tail, 1.0 - tail)


def mish(x):
    """x·tanh(log(1 + exp(x)))

    Misra, BMVC 2020.
    """
    return mish_value(x)


def mish_grad(x):
    """e/d·(e + 2 + 4x(e + 1)/d), e = exp(x), d = e² + 2e + 2"""
    return mish_slope(x)
