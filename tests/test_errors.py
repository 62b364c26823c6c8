"""Bad input: the exception that NumPy or the specification names, the same on every backend, and `out` as it was."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import oracle
import pytest
from cases import NAMES, kinds, parameters
from oracle import TRUTH
from ulp import poisoned

import fastact as fa
from fastact.api.functions import FUNCTIONS
from fastact.api.losses import Loss
from fastact.api.over_axis import RowMethod
from fastact.api.pointwise import POINTWISE

F32 = np.float32
SHAPE = (3, 7)
X = np.linspace(-2, 2, 21, dtype=F32).reshape(SHAPE)
LABELS = np.array([0, 6, 3])
NOT_BROADCAST = np.ones((2, 3), F32)

# what no function takes, and the word by which the message names it
WRONG_DTYPES = [
    *((X.astype(code), word) for code, word in {"F": "complex64", "O": "object", "U8": "str", "S8": "bytes"}.items()),
    *((X.astype(f"{code}[s]"), word) for code, word in {"M8": "datetime64", "m8": "timedelta64"}.items()),
    *([(X.astype(np.longdouble), "longdouble")] if np.finfo(np.longdouble).nmant > 52 else []),
    (np.zeros(SHAPE, [("a", F32)]), "void"),
    (None, "object"),
    ({}, "object"),
    ("abc", "str"),
    (1j, "complex"),
    ([["1", "2"]], "str"),
]
RAGGED = [[1.0, 2.0], [3.0]]


@dataclass(frozen=True)
class Bad:
    """A call that must be refused; `out` makes what it is given to write to."""

    function: Any
    what: str
    error: type[Exception]
    match: str | None
    args: tuple
    keywords: dict
    out: Callable[[], Any] | None = None

    def refused(self):
        """The exception; nothing may be written."""
        keywords = dict(self.keywords)
        if self.out is not None:
            keywords["out"] = self.out()
        given = keywords.get("out")
        buffers = [a for a in (given if isinstance(given, tuple) else (given,)) if isinstance(a, np.ndarray)]
        before = [a.tobytes() for a in buffers]
        with pytest.raises(self.error, match=self.match) as caught:
            self.function(*self.args, **keywords)
        assert [a.tobytes() for a in buffers] == before, f"{caught.value}, but written"
        return caught.value


def replaced(arrays, i, value):
    return (*arrays[:i], value, *arrays[i + 1 :])


def unwritable(shape):
    out = poisoned(shape, F32)
    out.flags.writeable = False
    return out


def bad_arrays(function, arrays, out, **given):
    """Inputs that are no arrays of real numbers."""
    for i in range(len(arrays)):
        for wrong, word in WRONG_DTYPES:
            yield Bad(function, "dtype", TypeError, word, replaced(arrays, i, wrong), given, out)
        yield Bad(function, "dtype", ValueError, "inhomogeneous", replaced(arrays, i, RAGGED), given, out)


def bad_outs(function, arrays, shape, nout=1, is_ufunc=True, **given):
    """An `out` that cannot take the result; of two outputs either one."""

    def mistake(error, match, make, what="out"):
        for i in range(nout):
            others = [(lambda: poisoned(shape, F32))] * (nout - 1)
            makers = [*others[:i], make, *others[i:]]
            out = make if nout == 1 else lambda makers=makers: tuple(m() for m in makers)
            yield Bad(function, what, error, match, arrays, given, out)

    yield from mistake(ValueError, "read-only", lambda: unwritable(shape))
    for wrong in ((*shape[:-1], shape[-1] + 1), shape[1:]) if shape else ((2,),):
        yield from mistake(ValueError, "shape|mismatch|reduction", lambda wrong=wrong: poisoned(wrong, F32))
    for dtype in (np.int64, bool, "M8[s]"):
        yield from mistake(TypeError, "[Cc]an ?not (cast|write)", lambda dtype=dtype: np.ones(shape, dtype))
    yield from mistake(TypeError, "[Aa]rray", lambda: [0.0])
    yield from mistake(TypeError, "[Aa]rray", lambda: "out")
    if is_ufunc:
        many = nout + 1
        yield Bad(
            function, "out", ValueError, "out", arrays, given, lambda: tuple(poisoned(shape, F32) for _ in range(many))
        )


def bad_ufunc_keywords(function, arrays, out, **given):
    """dtype=, casting=, where= and unknown ones."""

    def mistake(error, match, **keywords):
        return Bad(function, "keyword", error, match, arrays, {**given, **keywords}, out)

    yield mistake(TypeError, "int64", dtype=np.int64)
    yield mistake(TypeError, "complex", dtype=complex)
    yield mistake(TypeError, "f9", dtype="f9")
    yield mistake(ValueError, "casting", casting="never")
    yield mistake(TypeError, "[Cc]annot cast|cannot write", casting="no", dtype=np.float64)
    yield mistake(ValueError, "order", order="Z")
    yield mistake(TypeError, "subok", subok=3)
    yield mistake(TypeError, "temperature", temperature=2.0)
    yield mistake(TypeError, "bool", where=np.ones(SHAPE))
    yield mistake(ValueError, "broadcast", where=NOT_BROADCAST > 0)


def of_elementwise():
    for name in NAMES:
        truth = TRUTH[name]
        first = truth.cases[0]
        given = parameters(name, first)
        activation = fa.activations[name]
        for kind in kinds(name, first):
            method = activation if kind == "forward" else getattr(activation, kind)
            arrays = (X, X) if kind.startswith("backward") else (X,)
            nout = 2 if kind == "value_and_grad" else 1

            def out(nout=nout):
                return poisoned(SHAPE, F32) if nout == 1 else (poisoned(SHAPE, F32), poisoned(SHAPE, F32))

            yield from bad_arrays(method, arrays, out, **given)
            yield from bad_outs(method, arrays, SHAPE, nout, **given)
            if name != "prelu" or kind != "backward":  # which takes `out` alone
                yield from bad_ufunc_keywords(method, arrays, out, **given)
            for keyword in ("temperature", *(() if method is fa.prelu.backward else ("axis",)), "keepdims"):
                yield Bad(method, "keyword", TypeError, keyword, arrays, {**given, keyword: 1}, out)
            for i in range(len(arrays) if len(arrays) > 1 else 0):
                yield Bad(method, "shape", ValueError, "broadcast", replaced(arrays, i, NOT_BROADCAST), given, out)
            yield Bad(method, "arguments", TypeError, None, (), given, out)
            yield Bad(method, "arguments", TypeError, None, (X,) * 9, given, out)
            if len(arrays) > 1:
                yield Bad(method, "arguments", TypeError, None, (X,), given, out)
            for case in truth.outside:
                yield Bad(method, "parameter", ValueError, "|".join(case), arrays, case, out)
                # one bad element of an array is enough
                full = {k: np.full(SHAPE, first[k], F32) for k in case}
                for k, v in case.items():
                    full[k][2, 3] = v
                yield Bad(method, "parameter", ValueError, "|".join(case), arrays, full, out)
            for k in first:
                for wrong in ("much", None, 1j, ["a"], X.astype(complex), {}):
                    yield Bad(method, "parameter", TypeError, k, arrays, {**first, k: wrong}, out)
                wrong = np.full(NOT_BROADCAST.shape, first[k], F32)
                yield Bad(method, "parameter", ValueError, "broadcast", arrays, {**first, k: wrong}, out)
                if truth.outside:
                    yield Bad(method, "parameter", ValueError, k, arrays, {**first, k: np.nan}, out)
                if truth.required:
                    without = {n: v for n, v in first.items() if n != k}
                    yield Bad(method, "parameter", TypeError, k, arrays, without, out)
            if kind == "backward_from_output":
                for case in truth.not_from_output:
                    yield Bad(method, "parameter", ValueError, "use backward", arrays, case, out)
        yield from of_variants(name, activation)


def of_variants(name, activation):
    if name == "gelu":
        for wrong in ("erf", True, None, 1.0):
            for method, arrays in ((activation, (X,)), (activation.backward, (X, X))):
                keywords = {"approximate": wrong}
                yield Bad(
                    method, "parameter", ValueError, "approximate", arrays, keywords, lambda: poisoned(SHAPE, F32)
                )


def of_rows():
    for name in ("softmax", "log_softmax", "softmin", "sparsemax", "logsumexp"):
        value = getattr(fa, name)
        for function in (value, *([value.backward] if hasattr(value, "backward") else [])):
            arrays = (X,) if function is value else (X, X)
            for axis, shape in ((-1, (3,)), (0, (7,)), (None, ()), ((0, 1), ()), ((1,), (3,))):
                shape = shape if name == "logsumexp" else SHAPE

                def out(shape=shape):
                    return poisoned(shape, F32)

                yield from bad_arrays(function, arrays, out, axis=axis)
                yield from bad_outs(function, arrays, shape, axis=axis)
                yield from bad_ufunc_keywords(function, arrays, out, axis=axis)
                if name != "logsumexp":
                    yield Bad(function, "keyword", TypeError, "keepdims", arrays, {"axis": axis, "keepdims": True}, out)
                for i in range(len(arrays) if len(arrays) > 1 else 0):
                    wrong = replaced(arrays, i, NOT_BROADCAST)
                    yield Bad(function, "shape", ValueError, "mismatch|broadcast", wrong, {"axis": axis}, out)
            for axis in (1.0, "rows", [0], (0.5,), True, X):
                yield Bad(function, "axis", TypeError, "axis must be an integer", arrays, {"axis": axis}, None)
            for axis in (2, -3, (0, 2), (-3,)):
                yield Bad(function, "axis", np.exceptions.AxisError, "out of bounds", arrays, {"axis": axis}, None)
            for axis in ((0, 0), (0, -2)):
                yield Bad(function, "axis", ValueError, "repeated axis", arrays, {"axis": axis}, None)
            numbers = tuple(F32(1) for _ in arrays)
            yield Bad(function, "axis", ValueError, "dimension", numbers, {}, lambda: poisoned((), F32))
            yield Bad(function, "arguments", TypeError, "missing", (), {}, None)
            yield Bad(function, "arguments", TypeError, "positional", (X,) * 9, {}, None)


def of_losses():
    cross_entropy, binary = fa.softmax_cross_entropy, fa.sigmoid_cross_entropy

    def out():
        return poisoned(SHAPE, F32)

    others = [(loss, X) for loss in (binary, *POINTWISE.values())]
    for loss, targets in (
        (cross_entropy, LABELS),
        (fa.nll_loss, LABELS),
        (cross_entropy, np.full(SHAPE, 0.5, F32)),
        *others,
    ):
        function = loss.value_and_grad

        def mistake(what, error, match, x=X, y=targets, function=function, **keywords):
            return Bad(function, what, error, match, (x, y), keywords, out)

        yield from bad_arrays(function, (X, targets), out)
        yield from bad_outs(function, (X, targets), SHAPE, is_ufunc=False)
        for wrong, word in WRONG_DTYPES:
            if wrong is not None:
                yield mistake("weight", TypeError, word, weight=wrong)
        yield mistake("weight", ValueError, "weight", weight=np.ones(6))
        for wrong in (None, "average", ["mean"], True):
            yield mistake("reduction", ValueError, "reduction", reduction=wrong)
        yield mistake("keyword", TypeError, "temperature", temperature=2.0)
        yield mistake("keyword", TypeError, "dtype", dtype=F32)
        yield Bad(loss, "keyword", TypeError, "out", (X, targets), {}, out)  # of the value alone
        yield Bad(function, "arguments", TypeError, "missing", (X,), {}, out)
        yield Bad(function, "arguments", TypeError, "positional", (X, targets, X), {}, out)

    for function in (cross_entropy.value_and_grad, fa.nll_loss.value_and_grad):
        for wrong in (2, -3):
            yield mistake("axis", np.exceptions.AxisError, "axis", function=function, y=LABELS, axis=wrong)
        for wrong in (1.0, "rows", None, (0,), True):
            yield mistake("axis", TypeError, "axis must be", function=function, y=LABELS, axis=wrong)

    def labels(what, error, match, y=LABELS, **keywords):
        return Bad(cross_entropy.value_and_grad, what, error, match, (X, y), keywords, out)

    for kind in (np.int64, np.int32, np.uint8, np.int8):
        yield labels(
            "labels", IndexError, "label 7 at position 1 is out of range for 7 classes", np.array([0, 7, 9], kind)
        )
    yield labels("labels", IndexError, "label -1 at position 2", np.array([0, 1, -1]))
    yield labels("labels", IndexError, "label -1 at position 0", [-1, 1, 1], ignore_index=-100)
    yield labels("labels", IndexError, "label 7", [0, 7, 1], label_smoothing=0.1)
    yield labels("labels", IndexError, "label 7", [0, 7, 1], weight=np.ones(7))
    yield labels("labels", IndexError, r"label 7 at position 6", [0, 1, 2, 0, 1, 2, 7], axis=0)
    for wrong in (LABELS[:2], LABELS[None], 0, [0, 1, 2, 3]):
        yield labels("labels", ValueError, "class indices and need the shape", wrong)
    yield labels("labels", ValueError, "probabilities are floats", np.eye(7, dtype=int)[LABELS])
    yield labels("labels", ValueError, "class indices are integers", LABELS.astype(float))
    yield labels("labels", ValueError, "class indices are integers", [True, False, True])
    yield labels("labels", ValueError, "probabilities and need the shape", np.ones((7, 3)))
    yield labels("labels", TypeError, "object", [0, 2**70, 1])
    for wrong in (-0.1, 1.1, np.nan, np.inf):
        yield labels("label_smoothing", ValueError, "label_smoothing", label_smoothing=wrong)
    for wrong in ("a", None, [0.1], 1j):
        yield labels("label_smoothing", TypeError, "label_smoothing", label_smoothing=wrong)
    for wrong in (-0.1, np.nan, np.inf):
        yield labels("z_loss", ValueError, "z_loss", z_loss=wrong)
    for wrong in ("a", None, [0.1], 1j):
        yield labels("z_loss", TypeError, "z_loss", z_loss=wrong)
    for wrong in (1.5, "a", [1], True):
        yield labels("ignore_index", TypeError, "ignore_index", ignore_index=wrong)
    yield labels("ignore_index", ValueError, "ignore_index", np.full(SHAPE, 0.5), ignore_index=1)
    for wrong in (1.0, np.ones((7, 1)), np.ones(SHAPE)):
        yield labels("weight", ValueError, "weight", weight=wrong)
    for what in ("weight", "pos_weight"):
        yield Bad(binary.value_and_grad, what, ValueError, what, (X, X), {what: NOT_BROADCAST}, out)
        yield Bad(binary.value_and_grad, what, TypeError, what, (X, X), {what: "abc"}, out)
    for wrong in (X[:2], X[0], 1.0):
        yield Bad(binary.value_and_grad, "targets", ValueError, "targets", (X, wrong), {}, out)


def mistakes():
    """One parameter for each function and kind of mistake."""

    def key(bad):
        function = bad.function
        owner = getattr(function, "__self__", None)
        return f"{owner.name}.{function.__name__}" if owner is not None else repr(function)[9:-1], bad.what

    found = sorted((*of_elementwise(), *of_rows(), *of_losses()), key=key)
    return [pytest.param(list(group), id="-".join(k)) for k, group in groupby(found, key)]


@pytest.mark.parametrize("mistakes", mistakes())
def test_bad_input(mistakes, backend):
    errors = [bad.refused() for bad in mistakes]
    with fa.use_backend("reference"):
        expected = [bad.refused() for bad in mistakes]
    for error, other in zip(errors, expected, strict=True):
        assert type(error) is type(other)
        assert str(error) == str(other)


def test_every_function_is_among_them():
    tried = {id.rsplit("-", 1)[0] for id in (param.id for param in mistakes())}
    for name, activation in fa.activations.items():
        for kind in fa.spec.kinds.kinds_of(activation.op):
            assert (name if kind == "forward" else f"{name}.{kind}") in tried
    for function in FUNCTIONS.values():
        if isinstance(function, Loss):
            assert f"{function.name}.value_and_grad" in tried
        elif isinstance(function, RowMethod):
            assert function.name in tried


def test_parameters_are_named_with_their_position():
    beta = np.ones(SHAPE, F32)
    beta[1, 2] = -3
    with pytest.raises(ValueError, match=r"beta must be positive and finite, not -3.0 at position \(1, 2\)"):
        fa.softplus(X, beta=beta)
    with pytest.raises(ValueError, match=r"not nan at position 1$"):
        fa.softplus(X[0, :2], beta=[1.0, np.nan])
    with pytest.raises(ValueError, match=r"not -1$"):
        fa.softplus(X, beta=-1)


def test_unknown_keywords_tell_the_known_ones():
    for call, match in (
        (lambda: fa.leaky_relu(X, slope=0.1), r"leaky_relu\(\) .* 'slope'; it takes negative_slope and the keywords"),
        (lambda: fa.threshold(X, treshold=0.1, value=0.0), "'treshold'; it takes threshold, value and"),
        (lambda: fa.gelu.backward(X, X, approx="tanh"), "'approx'; it takes approximate and"),
        (lambda: fa.leaky_relu(X, 0.1), "1 array by position and negative_slope by name, not 2 arguments"),
        (lambda: fa.gelu(X, "tanh"), "approximate by name"),
        (lambda: fa.prelu(X), "weight must be given"),
    ):
        with pytest.raises(TypeError, match=match):
            call()


def test_no_gradient_from_the_output():
    for name in NAMES:
        if TRUTH[name].from_output is None:
            with pytest.raises(AttributeError, match=f"{name}.backward"):
                fa.activations[name].backward_from_output  # noqa: B018


def test_unknown_name_tells_the_nearest():
    with pytest.raises(ValueError, match="sigmoid"):
        fa.get("sigmod")
    with pytest.raises(ValueError, match="gelu"):
        fa.get("gleu")
    with pytest.raises(ValueError, match="there are"):
        fa.get("")
    with pytest.raises(ValueError, match="over an axis"):
        fa.get("softmax")
    with pytest.raises(ValueError, match="softmax"):
        fa.get("sofmax")
    with pytest.raises(TypeError, match="NoneType"):
        fa.get(None)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "hard_swish"])
def test_a_name_of_a_function_in_place(name):
    with pytest.raises(ValueError, match=rf"unknown activation '{name}_'; in place it is fastact.{name}\(x, out=x\)"):
        fa.get(f"{name}_")


@pytest.mark.parametrize("name", ["_relu", "__gelu", "softmax_", " relu", "relu²"])
def test_a_name_that_no_library_has_is_unknown(name):
    with pytest.raises(ValueError, match=f"unknown activation '{name}'; the nearest are .*{name.strip('_ ²')[:4]}"):
        fa.get(name)


@pytest.mark.parametrize(("alias", "name"), oracle.ALIASES.items())
def test_aliases(alias, name):
    assert fa.get(alias) is fa.activations[name]
    assert fa.get(name) is fa.activations[name]


def test_unknown_backend():
    with pytest.raises(ValueError, match="numba"):
        fa.use_backend("nunba")


def test_missing_backend_says_why():
    for name, reason in fa.dispatch.reasons().items():
        if reason is not None:
            before = fa.dispatch.backend()
            with pytest.raises(RuntimeError, match=name):
                fa.use_backend(name)
            assert fa.dispatch.backend() == before


@pytest.mark.parametrize(("bad", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError)])
def test_number_of_threads(bad, error):
    before = fa.get_num_threads()
    with pytest.raises(error):
        fa.set_num_threads(bad)
    assert fa.get_num_threads() == before


def test_gelu_approximate():
    assert (fa.gelu(X, approximate="tanh") == fa.gelu_tanh(X)).all()
    assert (fa.gelu(X, approximate="none") == fa.gelu(X)).all()
    assert (fa.gelu.backward(X, X, approximate="tanh") == fa.gelu_tanh.backward(X, X)).all()


def test_an_error_in_a_large_parallel_call_leaves_nothing_behind(threads):
    """And the next call is right."""
    threads(2)
    x = np.resize(X, 1 << 20)
    with pytest.raises(ValueError, match="beta"):
        fa.softplus(x, beta=-1.0)
    assert np.isfinite(fa.softplus(x)).all()


MASKED = np.ma.array(X, mask=X > 1)
MASKED_CALLS = {
    **{name: ("where=~x.mask", lambda f=f: f(MASKED)) for name, f in FUNCTIONS.items() if isinstance(f, RowMethod)},
    **{
        f"{name}.backward, {i}": ("where=~x.mask", lambda f=f, i=i: f.backward(*replaced((X, X), i, MASKED), axis=0))
        for name, f in FUNCTIONS.items()
        if name in ("softmax", "log_softmax", "softmin", "sparsemax")
        for i in (0, 1)
    },
    "all axes": ("where=~x.mask", lambda: fa.logsumexp(MASKED, None)),
    "nothing masked": ("where=~x.mask", lambda: fa.softmax(np.ma.array(X))),
    "where": ("where=~x.mask", lambda: fa.softmax(X, where=MASKED > 0)),
    "out": ("where=~x.mask", lambda: fa.softmax(X, out=MASKED.copy())),
    "explain": ("where=~x.mask", lambda: fa.explain(fa.softmax, MASKED)),
    "logits": ("filled", lambda: fa.softmax_cross_entropy(MASKED, LABELS)),
    "labels": ("filled", lambda: fa.softmax_cross_entropy(X, np.ma.array(LABELS))),
    "weight": ("filled", lambda: fa.softmax_cross_entropy.value_and_grad(X, LABELS, weight=np.ma.ones(7))),
    "targets": ("filled", lambda: fa.sigmoid_cross_entropy(X, MASKED)),
    "pos_weight": ("filled", lambda: fa.sigmoid_cross_entropy.value_and_grad(X, X, pos_weight=MASKED)),
    "gradient": ("filled", lambda: fa.sigmoid_cross_entropy.value_and_grad(X, X, out=MASKED.copy())),
    "explain loss": ("filled", lambda: fa.explain(fa.sigmoid_cross_entropy, X, MASKED)),
    "biased": ("filled", lambda: fa.gelu.biased(MASKED, X[0])),
    "bias": ("filled", lambda: fa.gelu.biased_backward(X, X, MASKED[0])),
    "gated": ("filled", lambda: fa.silu.gated(X, up=MASKED)),
    "gated, out": ("filled", lambda: fa.silu.gated(X, X, out=MASKED.copy())),
    "prelu": ("filled", lambda: fa.prelu.backward(X, MASKED, 0.5)),
    "parameter": ("alpha: .*filled", lambda: fa.elu(X, alpha=MASKED)),
    "parameter that is masked": ("alpha: .*filled", lambda: fa.elu(X, alpha=np.ma.masked)),
    "parameter of a fused function": ("weight: .*filled", lambda: fa.prelu.backward(X, X, MASKED[0])),
}


@pytest.mark.parametrize("call", MASKED_CALLS)
def test_masked_arrays_are_refused_where_their_mask_would_be_lost(call):
    match, function = MASKED_CALLS[call]
    with pytest.raises(TypeError, match=match) as caught:
        function()
    assert "masked arrays are not taken" in str(caught.value)


def test_inputs_of_fused_functions_by_name():
    """The same as by position; shrink's parameter keeps its name."""
    bias = X[0]
    for call, want in (
        (fa.gelu.biased(X, bias=bias), fa.gelu.biased(X, bias)),
        (fa.gelu.biased(bias=bias, x=X, approximate="tanh"), fa.gelu_tanh.biased(X, bias)),
        (fa.silu.gated(gate=X, up=X + 1), fa.silu.gated(X, X + 1)),
        (fa.elu.gated(X, up=X + 1, alpha=0.5), fa.elu.gated(X, X + 1, alpha=0.5)),
        (fa.prelu.biased(X, bias=bias, weight=0.5), fa.prelu.biased(X, bias, 0.5)),
        (fa.shrink.biased(X, bias, bias=0.25), fa.shrink.biased(X, bias, lambd=0.5, bias=0.25)),
        (fa.elu.biased_backward(X, x=X, bias=bias)[1], fa.elu.biased_backward(X, X, bias)[1]),
        (fa.prelu.backward(dy=X, x=X, weight=0.5)[1], fa.prelu.backward(X, X, 0.5)[1]),
        (fa.gelu.biased(X.T, bias=bias, axis=0), fa.gelu.biased(X.T, bias, axis=0)),
    ):
        assert (call == want).all()
    out = np.empty_like(X)
    assert fa.gelu.biased(X, bias=bias, out=out) is out
    assert "21 elements" in fa.explain(fa.gelu.biased, X, bias=bias)
    for call, match in (
        (lambda: fa.gelu.biased(X, bias, bias=bias), r"gelu.biased\(\) got multiple values for argument 'bias'"),
        (lambda: fa.silu.gated(X, gate=X), r"silu.gated\(\) got multiple values for argument 'gate'"),
        (lambda: fa.silu.gated(up=X), "silu.gated: gate must be given"),
        (lambda: fa.shrink.biased(x=X, bias=bias), "shrink.biased: bias must be given by position"),
        (lambda: fa.gelu.biased(X, gate=X), r"takes x, bias by position|unexpected keyword argument 'gate'"),
        (lambda: fa.prelu.gated(gate=X, up=X), "weight must be given"),
    ):
        with pytest.raises(TypeError, match=match):
            call()


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda: fa.softmax(X, dim=1), "axis"),
        (lambda: fa.softmax(X, scale=2.0, dim=1), "axis"),
        (lambda: fa.softmax.backward(X, X, dim=1), "axis"),
        (lambda: fa.log_softmax(X, axsi=1), "axis"),
        (lambda: fa.logsumexp(X, keepdim=True), "keepdims"),
        (lambda: fa.elu.biased(X, X[0], alhpa=1.0), "alpha"),
        (lambda: fa.gelu.biased(X, X[0], axsi=1), "axis"),
        (lambda: fa.gelu.fused(X, bais=X[0]), "bias"),
        (lambda: fa.gelu.fused_backward(X, X, sead=1), "seed"),
        (lambda: fa.optim.AdamW([X], wieght_decay=0.1), "weight_decay"),
    ],
)
def test_a_misspelt_keyword_is_met_by_the_nearest(call, meant):
    with pytest.raises(TypeError, match=rf"unexpected keyword argument .*; did you mean '{meant}'\?"):
        call()


def test_an_unknown_keyword_is_met_by_those_that_there_are():
    with pytest.raises(TypeError, match=r"'zzz'; it takes axis, where, out, .*dtype"):
        fa.log_softmax(X, zzz=1)
    with pytest.raises(TypeError, match="'slope'; it takes alpha and the keywords of a ufunc"):
        fa.elu(X, slope=1)


@pytest.mark.parametrize(
    ("owner", "name", "meant"),
    [
        (fa, "LeakyReLU", "leaky_relu"),
        (fa, "layernorm", "layer_norm"),
        (fa, "set_num_thread", "set_num_threads"),
        (fa.optim, "Adamw", "AdamW"),
        (fa.elu, "bakward", "backward"),
        (fa.elu, "value_and_gradient", "value_and_grad"),
    ],
)
def test_a_misspelt_attribute_is_met_by_the_nearest(owner, name, meant):
    with pytest.raises(AttributeError, match=rf"has no attribute '{name}'; did you mean '{meant}'\?"):
        getattr(owner, name)


def test_attributes_that_are_missing():
    with pytest.raises(AttributeError, match=r"has no attribute '__zzz__'$"):
        fa.__zzz__  # noqa: B018
    with pytest.raises(AttributeError, match=r"call it: elu\(x\)"):
        fa.elu.forward  # noqa: B018
    with pytest.raises(AttributeError, match=r"use gelu.backward\(dy, x\)"):
        fa.gelu.backward_from_output  # noqa: B018


@pytest.mark.parametrize("axis", [0, 1, -2])
@pytest.mark.parametrize(
    "function",
    [fa.softmax, fa.log_softmax, fa.sparsemax, fa.logsumexp, fa.softmax.backward],
    ids=lambda function: function.name,
)
def test_out_of_a_wrong_shape_is_told_by_both_shapes(function, axis):
    arrays = (X, X) if function is fa.softmax.backward else (X,)
    result = function(*arrays, axis=axis)
    for shape in ((4,), (3, 8), (2, 3, 8), ()):
        with pytest.raises(ValueError) as caught:
            function(*arrays, axis=axis, out=np.empty(shape, F32))
        assert str(caught.value) == f"{function.name}: out has shape {shape}, the result {result.shape}"
    if axis < 0:  # as of any ufunc, along new axes
        many = function(*arrays, axis=axis, out=np.empty((2, *result.shape), F32))
        assert np.array_equal(many, np.stack([result] * 2))


@pytest.mark.parametrize(
    "call, kind, words",
    [
        (lambda: fa.gelu.value_and_grad(X, out=X.copy()), TypeError,
         "gelu.value_and_grad: out must be a tuple of 2 arrays, not ndarray"),
        (lambda: fa.gelu(X, out=(X.copy(), X.copy())), ValueError, "gelu: out must be one array, not 2"),
        (lambda: fa.elu(np.ones(3), out=np.empty(4)), ValueError, "elu: out has shape (4,), the result (3,)"),
        (lambda: fa.elu(np.ones(3), alpha=0.5, out=np.empty((2, 2))), ValueError,
         "elu: out has shape (2, 2), the result (3,)"),
        (lambda: fa.mish.value_and_grad(np.ones(3), out=(None, np.empty(2))), ValueError,
         "mish.value_and_grad: out for d has shape (2,), the result (3,)"),
        (lambda: fa.gelu(X, out="here"), TypeError, "gelu: out must be an array, not str"),
    ],
)  # fmt: skip
def test_an_activation_says_what_is_wrong_with_out(call, kind, words):
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == words


def test_an_out_may_be_larger_along_new_axes():
    out = np.full((2, 3), np.nan)
    assert fa.elu(np.ones(3), out=out) is out
    assert (out == 1).all()


def test_two_results_of_a_dask_array_are_refused_in_words():
    dask = pytest.importorskip("dask.array")
    with pytest.raises(TypeError, match=r"gelu.value_and_grad: arrays of Dask are not taken; pass x.compute\(\)"):
        fa.gelu.value_and_grad(dask.ones(4))
