"""Elementary functions in the grammar of formulas: ``float32`` and ``float64`` define the same names.

Arguments and results are of the module's dtype. NaN gives NaN. Where nothing is said, a function takes every value,
infinities and signed zeros included, and its error is at most 1.5 ULP while the result is a normal number.

=============================  ====================================================================================
``exp(x)``                     e^x
``expm1(x)``                   e^x - 1; expm1(-0) = -0
``log(x)``                     -inf at 0, NaN below
``log1p(x)``                   log(1 + x); -inf at -1, NaN below; log1p(-0) = -0
``tanh(x)``                    tanh(-0) = -0
``erf(x)``, ``erfc(x)``        the error function and 1 - erf(x), with relative accuracy in the tail
``finite(x)``                  x, with the largest finite number of its sign for an infinity
``exp_nonpositive(x)``         e^x for x <= 0, -inf included; any value or NaN for x > 0
``expm1_nonpositive(x)``       e^x - 1 for x <= 0, -inf included; any value or NaN for x > 0; may lose the sign of 0
``exp_parts(x)``               (p, n) with e^x = p·2^n, n integral, p in [0.7, 1.42] to 1 ULP; |x| <= 3000
``exp_parts_sum(x, dx)``       the same for e^(x + dx); |x| <= 3000, \\|dx\\| at most an ULP of x
``expm1_parts(x)``             (u, n) with e^x = (1 + u)·2^n, u in [-0.3, 0.42] to 1 ULP; |x| <= 3000
``expm1_parts_minus(x)``       (u, n) with e^-x = (1 + u)·2^-n, for the logistic family, which wants 2^n
``expm1_parts_sum(x, dx)``     the same for e^(x + dx)
``quick_gelu_parts(x)``        (u, n) with e^(-1.702 x) = (1 + u)·2^-n; |x| <= 1000
``gelu_tanh_parts(x)``         (u, n) with e^-v = (1 + u)·2^-n, v = 2 sqrt(2/pi) (x + 0.044715 x^3); |x| <= 100
``log1p_unit(e)``              log(1 + e) for 0 <= e <= 1, e subnormal included
``log1p_sum(u, n)``            (y, dy) with log(1 + (1 + u)·2^n) = y + dy for n <= 0, (1 + u)·2^n <= 1
``tanh_sum(t)``                (y, dy) with tanh(t) = y + dy for t >= 0
``x_minus_tanh(x)``            x - tanh(x) without cancellation; 0 at 0, ±inf at ±inf
``gelu_tail(x)``               t·Q(t), t = abs(x), Q(t) = erfc(t/sqrt(2))/2 the normal tail; 0 at -inf
``gelu_tail_grad(x)``          Q(t) - t·phi(t), t = abs(x), phi the normal density; 0 at -inf
``gelu_tanh_tail(x)``          t/(1 + e^v), t = abs(x), v as above at t; 0 at -inf
``gelu_tanh_tail_grad(x)``     s - t·v'·s(1 - s), s = 1/(1 + e^v), t = abs(x), v as above at t; 0 at -inf
``logistic_tail(t)``           1/(1 + e^t) for t >= 0, inf included
``softplus_tail(t)``           log(1 + e^-t) for t >= 0, inf included
``silu_tail(t)``               t/(1 + e^t) for t >= 0, inf included (0 there)
``silu_tail_grad(t)``          s - t·s(1 - s), s = 1/(1 + e^t), for t >= 0, inf included (0 there)
``mish_value(x)``              x·tanh(log(1 + e^x))
``mish_slope(x)``              the derivative of ``mish_value``
=============================  ====================================================================================

Of positive x those that take x need no more of what is called tail than counts in x - tail or 1 - tail: beyond 8 it
may be any number below that at 8.

``exp_parts`` and its kin keep the power of two apart, so that a formula can scale its result last: x·sigmoid(x) is a
normal number at x = -90, where sigmoid(x) is not.
"""
