"""One step of each optimiser on one element, once, for every dtype and backend.

The grammar is that of docs/design.md. ``name(p, g, *state, factor, *numbers)`` takes a parameter, its gradient, what
the optimiser keeps of it, the factor of the gradient (un-scaling and clipping) and numbers for the whole step, which
``fastact/spec/optimisers.py`` derives from learning rate, betas and the number of the step. It returns the new
parameter, then the new state. `rest` is 1 - beta, rounded by itself.
"""

from fastact.maths.primitives import fabs, fma, sqrt, where


def decayed(g, p, factor, weight_decay):
    """factor·g + weight_decay·p; factor·g where weight_decay is 0, at an infinite p too"""
    g = factor * g
    return where(weight_decay == 0.0, g, fma(weight_decay, p, g))


def shrunk(p, decay):
    """p - decay·p; p where decay is 0, an infinite p too"""
    return where(decay == 0.0, p, fma(-decay, p, p))


def average(m, g, beta, rest):
    """beta·m + rest·g, reckoned from the one with the larger share"""
    d = g - m
    return where(rest < 0.5, fma(rest, d, m), fma(-beta, d, g))


def average_of_squares(v, g, beta, rest):
    """beta·v + rest·g² with what the rounding of rest·g lost; an infinite v stays"""
    h = rest * g
    return fma(beta, v, fma(h, g, fma(rest, g, -h) * g))


def sign(x):
    """1 for x > 0, -1 for x < 0, else x"""
    return where(x > 0.0, 1.0, where(x < 0.0, -1.0, x))


def grown(u, g, beta, inner):
    """max(beta·u, abs(g) + inner), NaN where either is"""
    before = beta * u
    now = fabs(g) + inner
    return where(now < before, before, where(before == before, now, before))


def scaled(p, factor):
    """factor·p"""
    return factor * p


def sgd(p, g, factor, weight_decay, lr):
    """p - lr·g"""
    return fma(-lr, decayed(g, p, factor, weight_decay), p)


def sgd_momentum(p, g, b, factor, weight_decay, lr, momentum, nesterov):
    """b = momentum·b + g; p - lr·b, with Nesterov's momentum p - lr·(g + momentum·b)"""
    g = decayed(g, p, factor, weight_decay)
    b = fma(momentum, b, g)
    ahead = where(nesterov == 0.0, b, fma(momentum, b, g))
    return fma(-lr, ahead, p), b


def adam(p, g, m, v, factor, weight_decay, beta1, rest1, beta2, rest2, rate, eps):
    """m = beta1·m + rest1·g, v = beta2·v + rest2·g²; p - rate·m/(sqrt(v) + eps)"""
    g = decayed(g, p, factor, weight_decay)
    m = average(m, g, beta1, rest1)
    v = average_of_squares(v, g, beta2, rest2)
    return fma(-rate, m / (sqrt(v) + eps), p), m, v


def adamw(p, g, m, v, factor, decay, beta1, rest1, beta2, rest2, rate, eps):
    """As adam, from p - decay·p"""
    g = factor * g
    m = average(m, g, beta1, rest1)
    v = average_of_squares(v, g, beta2, rest2)
    return fma(-rate, m / (sqrt(v) + eps), shrunk(p, decay)), m, v


def nadam(p, g, m, v, factor, weight_decay, beta1, rest1, beta2, rest2, rate_g, rate_m, eps):
    """m and v as adam; p - (rate_m·m + rate_g·g)/(sqrt(v) + eps)"""
    g = decayed(g, p, factor, weight_decay)
    m = average(m, g, beta1, rest1)
    v = average_of_squares(v, g, beta2, rest2)
    return p - fma(rate_m, m, rate_g * g) / (sqrt(v) + eps), m, v


def adamax(p, g, m, u, factor, weight_decay, beta1, rest1, beta2, rate, inner, eps):
    """m as adam, u = max(beta2·u, abs(g) + inner); p - rate·m/(u + eps)"""
    g = decayed(g, p, factor, weight_decay)
    m = average(m, g, beta1, rest1)
    u = grown(u, g, beta2, inner)
    return fma(-rate, m / (u + eps), p), m, u


def rmsprop(p, g, v, factor, weight_decay, alpha, rest, lr, inner, eps):
    """v = alpha·v + rest·g²; p - lr·g/(sqrt(v + inner) + eps)"""
    g = decayed(g, p, factor, weight_decay)
    v = average_of_squares(v, g, alpha, rest)
    return fma(-lr, g / (sqrt(v + inner) + eps), p), v


def rmsprop_momentum(p, g, v, b, factor, weight_decay, alpha, rest, lr, inner, eps, momentum):
    """v as rmsprop, b = momentum·b + g/(sqrt(v + inner) + eps); p - lr·b"""
    g = decayed(g, p, factor, weight_decay)
    v = average_of_squares(v, g, alpha, rest)
    b = fma(momentum, b, g / (sqrt(v + inner) + eps))
    return fma(-lr, b, p), v, b


def adagrad(p, g, s, factor, weight_decay, lr, inner, eps):
    """s = s + g²; p - lr·g/(sqrt(s + inner) + eps)"""
    g = decayed(g, p, factor, weight_decay)
    s = fma(g, g, s)
    return fma(-lr, g / (sqrt(s + inner) + eps), p), s


def lion(p, g, m, factor, decay, beta1, rest1, beta2, rest2, lr):
    """c = beta1·m + rest1·g, m = beta2·m + rest2·g; p - decay·p - lr·sign(c)"""
    g = factor * g
    c = average(m, g, beta1, rest1)
    return fma(-lr, sign(c), shrunk(p, decay)), average(m, g, beta2, rest2)
