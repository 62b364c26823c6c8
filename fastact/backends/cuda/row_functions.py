"""Functions of rows, by their names in `fastact.loops`: what each asks of a row and what it writes."""

from __future__ import annotations

import math
from functools import partial
from inspect import isfunction
from typing import Any

from fastact.backends.cuda.rows import Element, Rows
from fastact.backends.cuda.trace import Value

# numbers of a loss that only some calls have, which need more sums (the trait ``general``)
GENERAL = ("label_smoothing", "z_loss")
LOG2_E = 1.4426950408889634


class Shares:
    """e^x over a factor that all elements of a row have in common, for rows whose greatest element is m.

    Of float32 and float64 by the formulas of the CPU. 16-bit results have 8 or 11 bits, so that the GPU's own
    exponential (2 ULP of float32) of x - m serves: of bfloat16 rows of 50,257, that took 0.72 ms for 8192 of them on an
    H100, the formula 0.94.
    """

    def __init__(self, r: Rows, m: Value) -> None:
        self.r, self.m = r, m
        self.exact = r.spec.dtype == r.spec.compute
        if self.exact:
            self.c, self.k = r.f["row_shift"](m)

    def __call__(self, x: Value) -> Value:
        if self.exact:
            return self.r.f["exp_scaled"](x, self.c, self.k)  # type: ignore[no-any-return]
        return self.r.trace.emit(f"exp2({((x - self.m) * LOG2_E).name})")  # type: ignore[no-any-return]

    @property
    def top(self) -> Value:
        """The share of m."""
        return self(self.m)

    # ---- over a greatest element that changes

    def kept(self) -> Shares:
        """The same, in variables of its own, for `move`."""
        for name in self._numbers:
            setattr(self, name, self.r.trace.fresh(getattr(self, name).name))
        return self

    def move(self, other: Shares) -> None:
        """From now on these are other shares."""
        for name in self._numbers:
            self.r.trace.assign(getattr(self, name), getattr(other, name))

    def times(self, other: Shares) -> Value:
        """How many times as large as others these are."""
        if self.exact:
            return self.r.f["exp_scaled"](other.c, self.c, self.k - other.k)  # type: ignore[no-any-return]
        return self(other.m)

    @property
    def _numbers(self) -> tuple[str, ...]:
        return ("m", "c", "k") if self.exact else ("m",)


def softmax(r: Rows) -> None:
    _softmax(r, lambda e: e.x if r.spec.sign > 0 else -e.x)


def scaled_softmax(r: Rows) -> None:
    _softmax(r, lambda e: r.f["logit_scaled"](e.x, None, r.scalar("scale")))


def biased_softmax(r: Rows) -> None:
    # a row of which nothing counts is 0
    _softmax(r, lambda e: r.f["logit_biased"](e.x, e.bias, r.scalar("scale")), hollow=True)


def _softmax(r: Rows, logit: Any, hollow: bool = False) -> None:
    if hollow:
        m = r.greatest(logit)
        live = r.greatest(lambda e: e.bias)
        share = Shares(r, r.trace.where(live == -math.inf, 0.0, m))
        ((high, low),) = r.totals(lambda e: share(logit(e)), keep="share")
    else:
        _, _, high, low = r.shares(logit, partial(Shares, r))
    inverse, rest = r.f["reciprocal"](high, low)
    if hollow:
        inverse, rest = (r.trace.where(live == -math.inf, high * 0.0, v) for v in (inverse, rest))
    r.write("y", lambda e: r.f["scaled"](r.again("share", e), None, inverse, rest, None, None))


def _log_sum(r: Rows, m: Value, value: Any) -> tuple[Shares, Value, Value, Value, Value]:
    """Shares; the log of their sum over the greatest one; the sum of the others; how many are greatest; their share."""
    share = Shares(r, m)
    rest, ties = r.totals(
        lambda e: r.f["unless_equal"](share(value(e)), value(e), m), lambda e: r.f["equal"](value(e), m)
    )
    others, count, top = r.whole(*rest), r.whole(*ties), share.top
    return share, r.f["log_sum_over"](others, count, top), others, count, top


def log_softmax(r: Rows) -> None:
    m = r.greatest(lambda e: e.x)
    _, s, *_ = _log_sum(r, m, lambda e: e.x)
    r.write("y", lambda e: r.f["log_share"](e.x, None, m, s, None, None), -math.inf)


def logsumexp(r: Rows) -> None:
    m = r.greatest(lambda e: e.x)
    _, s, *_ = _log_sum(r, m, lambda e: e.x)
    infinite = m + r.total(lambda e: r.f["poison"](e.x, None, None, None))
    r.store_row("y", r.trace.where(m - m == 0.0, m + s, infinite))


def sparsemax(r: Rows) -> None:
    m = r.greatest(lambda e: e.x)
    t = r.trace.fresh(r.number(-1.0).name)
    count = r.trace.fresh(r.total(lambda e: r.f["above_count"](e.x, None, m, t)).name)
    again = r.trace.name()
    r.trace.line(f"{again} = True")
    with r.trace.block(f"while {again}:"):
        r.trace.assign(t, r.f["threshold_of"](r.total(lambda e: r.f["above"](e.x, None, m, t)), count))
        fewer = r.total(lambda e: r.f["above_count"](e.x, None, m, t))
        r.trace.line(f"{again} = {(fewer < count).name}")
        r.trace.assign(count, fewer)
        r.barrier()
    r.write("y", lambda e: r.f["positive_part"](e.x, None, m, t, None, None))


def softmax_backward(r: Rows) -> None:
    _softmax_backward(r, r.number(float(r.spec.sign)))


def scaled_softmax_backward(r: Rows) -> None:
    _softmax_backward(r, r.scalar("scale"))


def _softmax_backward(r: Rows, factor: Value) -> None:
    s = r.total(lambda e: e.dy * e.y)
    r.write("dx", lambda e: r.f["softmax_grad"](e.dy, e.y, s, factor, None, None))


def log_softmax_backward(r: Rows) -> None:
    s = r.total(lambda e: e.dy)
    r.write("dx", lambda e: r.f["log_softmax_grad"](e.dy, e.y, s, None, None, None))


def sparsemax_backward(r: Rows) -> None:
    supported, support = r.totals(
        lambda e: r.f["supported"](e.dy, e.y, None, None), lambda e: r.f["support"](e.dy, e.y, None, None)
    )
    mean = r.f["quotient"](r.whole(*supported), r.whole(*support))
    r.write("dx", lambda e: r.f["sparsemax_grad"](e.dy, e.y, mean, None, None, None))


def cross_entropy(r: Rows) -> None:
    """Labels are integers; one that is no class makes its row NaN, unless it is ignored."""
    trace, f = r.trace, r.f
    label = r.label()
    factor, smoothing, z = _factor(r), r.scalar("label_smoothing"), r.scalar("z_loss")
    general = r.has("general")
    weighted = r.has("weights")
    weight = r.number(1.0)
    valid = r.is_class(label)
    chosen = r.at_class("x", label)
    # the sum of the other shares has all its digits where the label's is nearly the whole
    r.take_out("x", label)
    if weighted:
        weight = r.at_class("weights", label)
    if not general:
        m, share, *both = r.shares(lambda e: e.x, partial(Shares, r), chosen)
        rest = r.whole(*both)
    else:
        m = trace.call("fmax", r.greatest(lambda e: e.x), chosen)
        share = Shares(r, m)

        def gap(e: Element) -> Value:
            x = r.at_label(e, label, chosen, e.x)
            return f["distance"](x, e.weights, m, None) if weighted else f["gap"](x, None, m, None)  # type: ignore[no-any-return]

        sums = [lambda e: share(e.x), gap, *([lambda e: e.weights] if weighted else [])]
        rest, *found = (r.whole(*pair) for pair in r.totals(*sums))
    own_share = share(chosen)
    s = f["log_total"](chosen, m, rest, own_share, share.top)
    lost = (m - chosen) + s
    every = r.number(0.0)
    if general:
        far, whole = found[0], found[1] if weighted else r.length
        # without smoothing an infinite gap has no say
        far = trace.where(smoothing == 0.0, 0.0, far)
        each = smoothing / r.length
        own = weight * (1.0 - smoothing)
        lost = f["with_square"](f["smoothed_loss"](lost, s, far, whole, own, each), z, m + s)
        extra = f["with_slope"](each * whole, z, m + s)
        here = f["smoothed_label"](own, extra, rest, own_share, weight * each, factor)
        inverse = (own + extra) * factor / (rest + own_share)
        every = each * factor
    else:
        lost = weight * lost
        inverse = weight * factor / (rest + own_share)
        here = f["negative_product"](rest, inverse)
    nothing = r.number(0.0)
    bad = r.number(math.nan)
    outside = r.without_class(label, nothing, bad)
    r.store_row("loss", r.chosen(valid, lost, outside))

    def slope(e: Element) -> Value:
        p = share(e.x)
        if not general:
            return p * inverse
        if weighted:
            return f["less_weights"](p, e.weights, inverse, every, None, None)  # type: ignore[no-any-return]
        return f["less_each"](p, None, inverse, every, None, None)  # type: ignore[no-any-return]

    if r.has("dx"):
        with trace.block(f"if {valid}:"):
            r.write("dx", slope)
            r.put("dx", label, here)
        with trace.block("else:"):
            r.write("dx", lambda e: outside)


def cross_entropy_of_shares(r: Rows) -> None:
    f = r.f
    factor, z = _factor(r), r.scalar("z_loss")
    m = r.greatest(lambda e: e.x)
    share, s, rest, ties, top = _log_sum(r, m, lambda e: e.x)
    target = _target(r)
    mass, gaps = r.totals(target, lambda e: f["distance"](e.x, target(e), m, None))
    weight, far = r.whole(*mass), r.whole(*gaps)
    r.store_row("loss", f["with_square"](f["target_loss"](far, weight, s), z, m + s))
    a = f["target_factor"](f["with_slope"](weight, z, m + s), rest, ties, top)
    r.write("dx", lambda e: r.trace.call("fma", share(e.x), a, -target(e)) * factor)


def _target(r: Rows) -> Any:
    # a share of it spread over all classes, and weights of classes
    def target(e: Element) -> Value:
        t = e.targets
        if r.has("general"):
            smoothing = r.scalar("label_smoothing")
            t = r.trace.where(smoothing == 0.0, t, t * (1.0 - smoothing) + smoothing / r.length)
        return t * e.weights if r.has("weights") else t

    return target


def label_counts(r: Rows) -> None:
    """1 or the weight of its class where a row counts, else 0."""
    label = r.label()
    r.store_row("counts", r.chosen(r.is_class(label), r.at_class("weights", label), r.number(0.0)))


def nll_loss(r: Rows) -> None:
    label, zero, bad = r.label(), r.number(0.0), r.number(math.nan)
    weight, valid, outside = r.at_class("weights", label), r.is_class(label), r.without_class(label, zero, bad)
    # 0 - x: no loss is -0
    r.store_row("loss", r.chosen(valid, 0.0 - weight * r.at_class("x", label), outside))
    slope = r.chosen(valid, -weight * _factor(r), outside)
    rest = r.chosen(valid, zero, outside)
    r.write("dx", lambda e: r.at_label(e, label, slope, rest))


def sigmoid_cross_entropy(r: Rows) -> None:
    _of_elements(r, "sigmoid_loss", lambda e: e.pos_weights if r.has("pos_weights") else r.number(1.0))


def mse_loss(r: Rows) -> None:
    _of_elements(r, "squared_error")


def l1_loss(r: Rows) -> None:
    _of_elements(r, "absolute_error")


def huber_loss(r: Rows) -> None:
    _of_elements(r, "huber_error", lambda e: r.scalar("delta"))


def kl_div(r: Rows) -> None:
    _of_elements(r, "divergence")


def _of_elements(r: Rows, formula: str, parameter: Any = None) -> None:
    def given(e: Element) -> tuple[Value, ...]:
        weight = e.weights if r.has("weights") else r.number(1.0)
        return e.x, e.targets, weight, r.number(1.0) if parameter is None else parameter(e)

    factor = r.scalar("factor")
    r.store_row("sums", r.total(lambda e: r.f[formula](*given(e))))
    r.write_all({
        "losses": lambda e: r.f[formula](*given(e)),
        "dx": lambda e: r.f[f"{formula}_grad"](*given(e)) * factor,
    })  # fmt: skip


def _factor(r: Rows) -> Value:
    # what the gradient is multiplied with: a number, over another one that lies on the device
    factor = r.scalar("factor")
    if not r.has("divisor"):
        return factor
    return factor / r.trace.emit(f"load_{r.spec.compute}(divisor)")  # type: ignore[no-any-return]


def _summed(r: Rows) -> Any:
    """x or, with a residual, the sum of both, as it is after rounding."""
    if not r.has("residual"):
        return lambda e: e.x
    return lambda e: r.rounded(e.x + e.residual)


def layer_norm(r: Rows) -> None:
    f, x = r.f, _summed(r)
    first = x(r.first_element())
    (sum_,) = r.totals(lambda e: x(e) - first)
    guess = f["mean_from"](first, r.whole(*sum_), r.length)
    rest, squares = (
        r.whole(*pair) for pair in r.totals(lambda e: x(e) - guess, lambda e: (x(e) - guess) * (x(e) - guess))
    )
    rstd = f["spread_scale"](squares, rest, r.length, r.scalar("eps"))
    mean, low = f["two_sum"](guess, f["quotient"](rest, r.length))
    for name, value in (("mean", mean), ("low", low), ("rstd", rstd)):
        r.store_row(name, value)
    shift = f["negative_product"](low, rstd)
    _write_norm(r, x, lambda e: _affine(r, e, f["normalised"](x(e), mean, rstd, shift)))


def rms_norm(r: Rows) -> None:
    x = _summed(r)
    rstd = r.f["square_scale"](r.total(lambda e: x(e) * x(e)), r.length, r.scalar("eps"))
    r.store_row("rstd", rstd)
    _write_norm(r, x, lambda e: _scaled(r, e, x(e) * rstd))


def _write_norm(r: Rows, x: Any, y: Any) -> None:
    then = r.then
    r.write_all({"y": y if then is None else lambda e: then.value(y(e), *r.then_params), "total": x})


def _affine(r: Rows, e: Element, h: Value) -> Value:
    weight = e.weight if r.has("weight") else r.number(1.0)
    return r.f["affine"](h, weight, e.bias if r.has("bias") else r.number(-0.0))  # type: ignore[no-any-return]


def _scaled(r: Rows, e: Element, h: Value) -> Value:
    return h * e.weight if r.has("weight") else h  # type: ignore[no-any-return]


def layer_norm_apply(r: Rows) -> None:
    """The norm again, from the statistics that it left."""
    rstd, mean = _statistic(r, "rstd"), _statistic(r, "mean")
    shift = r.f["negative_product"](_statistic(r, "low"), rstd)
    r.write("y", lambda e: _affine(r, e, r.f["normalised"](e.x, mean, rstd, shift)))


def rms_norm_apply(r: Rows) -> None:
    rstd = _statistic(r, "rstd")
    r.write("y", lambda e: _scaled(r, e, e.x * rstd))


def layer_norm_backward(r: Rows) -> None:
    rstd, mean = _statistic(r, "rstd"), _statistic(r, "mean")
    shift = r.f["negative_product"](_statistic(r, "low"), rstd)
    _norm_backward(r, lambda e: r.f["normalised"](e.x, mean, rstd, shift), rstd, True)


def rms_norm_backward(r: Rows) -> None:
    rstd = _statistic(r, "rstd")
    _norm_backward(r, lambda e: e.x * rstd, rstd, False)


def _statistic(r: Rows, name: str) -> Value:
    return r.row_value(name, r.spec.compute)


def _norm_backward(r: Rows, normalised: Any, rstd: Value, centred: bool) -> None:
    then = r.then

    def slope(e: Element) -> Value:
        if then is None:
            return e.dy
        y = (_affine if centred else _scaled)(r, e, normalised(e))
        return e.dy * then.grad(y, *r.then_params)  # type: ignore[no-any-return]

    def weighted(e: Element) -> Value:
        return slope(e) * e.weight if r.has("weight") else slope(e)

    if r.form.tiles > 1:
        # sums over rows alone
        r.sums_of_columns({"dweight": lambda e: slope(e) * normalised(e), "dbias": slope})
        return
    sums = [lambda e: weighted(e) * normalised(e)]
    if centred:
        sums.append(weighted)
    found = [r.f["quotient"](r.whole(*pair), r.length) * rstd for pair in r.totals(*sums)]
    a = found[1] if centred else r.number(0.0)
    r.write("dx", lambda e: r.f["norm_grad"](weighted(e), normalised(e), rstd, a, found[0]))
    r.sums_of_columns({"dweight": lambda e: slope(e) * normalised(e), "dbias": slope})


# what channels have one of each, as if they were rows


def channel_centre(r: Rows) -> None:
    guess, d = (_statistic(r, name) for name in ("guess", "d"))
    r.store_row("centre", r.f["mean_from"](guess, d, r.scalar("count")))


def channel_statistics(r: Rows) -> None:
    """From the sums of differences from a guess of the mean and of their squares."""
    guess, d, squares = (_statistic(r, name) for name in ("guess", "d", "squares"))
    c, mean_square = d / r.scalar("count"), squares / r.scalar("count")
    var = mean_square - c * c
    var = r.trace.where(var < 0.0, 0.0, var)
    mean, low = r.f["two_sum"](guess, c)
    rstd = 1.0 / r.trace.call("sqrt", var + r.scalar("eps")) + (var - var)
    for name, value in (("mean", mean), ("low", low), ("rstd", rstd), ("var", var)):
        r.store_row(name, value)


def channel_scale(r: Rows) -> None:
    """1/sqrt(var + eps), NaN where the variance is not finite"""
    var = _statistic(r, "var")
    r.store_row("rstd", 1.0 / r.trace.call("sqrt", var + r.scalar("eps")) + (var - var))


def channel_columns(r: Rows) -> None:
    """What a channel is multiplied with and what is added then."""
    scale = _statistic(r, "rstd") * _or(r, "weight", 1.0)
    r.store_row("scale", scale)
    r.store_row("offset", _or(r, "bias", 0.0) - _or(r, "low", 0.0) * scale)


def channel_slopes(r: Rows) -> None:
    """The gradient of the weight, and by what the gradient of x is linear in x."""
    rstd, low, products, sums = (_statistic(r, name) for name in ("rstd", "low", "products", "sums"))
    scale = rstd * _or(r, "weight", 1.0)
    dweight = rstd * (products - low * sums)
    slope = rstd * scale * (dweight / r.scalar("count"))
    shift = scale * (sums / r.scalar("count")) - low * slope
    for name, value in (("dweight", dweight), ("slope", slope), ("shift", shift)):
        r.store_row(name, value)


def channel_moved(r: Rows) -> None:
    """momentum·running + (1 - momentum)·value"""
    momentum, value = r.scalar("momentum"), _statistic(r, "value") * r.scalar("factor")
    r.store_row("moved", momentum * _statistic(r, "running") + r.scalar("rest") * value)


def _or(r: Rows, name: str, otherwise: float) -> Value:
    return _statistic(r, name) if r.has(name) else r.number(otherwise)


def total(r: Rows) -> None:
    """The sum of a row, times a number."""
    r.store_row("y", r.total(lambda e: e.x) * _factor(r))


FUNCTIONS = {name: f for name, f in list(globals().items()) if isfunction(f) and not name.startswith("_")}
