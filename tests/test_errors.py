"""Bad input: the exception that NumPy or the specification names, and `out` as it was."""

import numpy as np
import oracle
import pytest
from cases import NAMES, each_name, kinds, parameters
from oracle import TRUTH
from ulp import poisoned

import fastact as fa

X = np.linspace(-2, 2, 21, dtype=np.float32)


@pytest.fixture(autouse=True)
def on_every_backend(backend):
    """Errors are the same whatever computes."""


def call_with(name, kind, *arrays, **keywords):
    activation = fa.activations[name]
    method = {
        "forward": activation,
        "backward": activation.backward,
        "value_and_grad": activation.value_and_grad,
        "backward_from_output": getattr(activation, "backward_from_output", None),
    }[kind]
    return method(*arrays, **keywords)


def arrays_for(kind, x):
    return (x, x) if kind.startswith("backward") else (x,)


def outs(kind, shape=X.shape):
    a, b = poisoned(shape, np.float32), poisoned(shape, np.float32)
    return ((a, b), (a, b)) if kind == "value_and_grad" else (a, (a,))


@each_name
@pytest.mark.parametrize(
    "bad", [X.astype(complex), X.astype(object), X.astype(str), X.astype("M8[s]")], ids=lambda a: a.dtype.kind
)
def test_wrong_dtype_is_a_type_error(name, bad):
    case = TRUTH[name].cases[0]
    for kind in kinds(name, case):
        if name == "prelu" and kind == "backward":
            continue
        out, buffers = outs(kind)
        with pytest.raises(TypeError):
            call_with(name, kind, *arrays_for(kind, bad), **parameters(name, case), out=out)
        assert all(np.isnan(b).all() for b in buffers)


@pytest.mark.parametrize("name", [n for n in NAMES if TRUTH[n].outside])
def test_parameter_outside_its_domain_is_named(name):
    truth = TRUTH[name]
    for case in truth.outside:
        for kind in kinds(name, truth.cases[0]):
            out, buffers = outs(kind)
            with pytest.raises(ValueError, match="|".join(case)):
                call_with(name, kind, *arrays_for(kind, X), **case, out=out)
            # one bad element of an array is enough
            good = truth.cases[0]
            arrays = {k: np.full(21, good[k], np.float32) for k in case}
            for k, v in case.items():
                arrays[k][17] = v
            with pytest.raises(ValueError, match="|".join(case)):
                call_with(name, kind, *arrays_for(kind, X), **arrays, out=out)
            assert all(np.isnan(b).all() for b in buffers)


@pytest.mark.parametrize("name", [n for n in NAMES if TRUTH[n].outside])
def test_nan_is_in_no_domain(name):
    case = dict.fromkeys(TRUTH[name].outside[0], np.nan)
    out, buffers = outs("forward")
    with pytest.raises(ValueError, match="|".join(case)):
        call_with(name, "forward", X, **case, out=out)
    assert np.isnan(buffers[0]).all()


@pytest.mark.parametrize("name", [n for n in NAMES if TRUTH[n].cases[0]])
def test_parameter_that_is_no_number(name):
    for bad in ("much", None, 1j):
        case = {**TRUTH[name].cases[0], next(iter(TRUTH[name].cases[0])): bad}
        out, buffers = outs("forward")
        with pytest.raises(TypeError):
            call_with(name, "forward", X, **case, out=out)
        assert np.isnan(buffers[0]).all()


@pytest.mark.parametrize("name", [n for n in NAMES if TRUTH[n].required])
def test_missing_parameter_is_named(name):
    missing = next(iter(TRUTH[name].cases[0]))
    with pytest.raises(TypeError, match=missing):
        fa.activations[name](X)
    with pytest.raises(TypeError, match=missing):
        fa.activations[name].backward(X, X)


@each_name
def test_shapes(name):
    case = TRUTH[name].cases[0]
    given = parameters(name, case)
    out, (buffer,) = outs("forward", (7,))
    with pytest.raises(ValueError):
        fa.activations[name](X, **given, out=out)
    with pytest.raises(ValueError):
        fa.activations[name].backward(np.ones(4, np.float32), X, **given)
    if TRUTH[name].from_output:
        with pytest.raises(ValueError):
            fa.activations[name].backward_from_output(np.ones(4, np.float32), X, **given)
    if case:
        with pytest.raises(ValueError):
            fa.activations[name](X, **{k: np.full(4, v, np.float32) for k, v in case.items()})
    assert np.isnan(buffer).all()


@each_name
def test_unknown_and_missing_arguments(name):
    given = parameters(name, TRUTH[name].cases[0])
    with pytest.raises(TypeError):
        fa.activations[name](X, **given, temperature=2.0)
    with pytest.raises(TypeError):
        fa.activations[name]()
    with pytest.raises(TypeError):
        fa.activations[name].backward(X, **given)
    with pytest.raises(TypeError):
        fa.activations[name].value_and_grad(X, X, X, X, X, X, X, **given)


@each_name
def test_out_that_cannot_hold_the_result(name):
    given = parameters(name, TRUTH[name].cases[0])
    for dtype in (np.int64, bool, "M8[s]"):
        out = np.zeros(21, dtype)
        before = out.copy()
        with pytest.raises(TypeError):
            fa.activations[name](X, **given, out=out)
        assert (out == before).all()
    with pytest.raises(TypeError):
        fa.activations[name](X, **given, out=[0.0] * 21)


def test_unknown_name_tells_the_nearest():
    with pytest.raises(ValueError, match="sigmoid"):
        fa.get("sigmod")
    with pytest.raises(ValueError, match="gelu"):
        fa.get("gleu")
    with pytest.raises(ValueError):
        fa.get("")


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
    out, (buffer,) = outs("forward")
    with pytest.raises(ValueError, match="approximate"):
        fa.gelu(X, approximate="erf", out=out)
    with pytest.raises((TypeError, ValueError), match="approximate"):
        fa.gelu(X, approximate=True, out=out)
    assert np.isnan(buffer).all()


def test_an_error_in_a_large_parallel_call_leaves_nothing_behind(threads):
    """And the next call is right."""
    threads(2)
    x = np.resize(X, 1 << 20)
    with pytest.raises(ValueError, match="beta"):
        fa.softplus(x, beta=-1.0)
    assert np.isfinite(fa.softplus(x)).all()
