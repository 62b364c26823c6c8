"""What `inspect.signature` and `dir` show: real names and defaults, and what users need."""

import inspect

import numpy as np
import pytest
from cases import NAMES, each_name

import fastact as fa
from fastact.api.functions import FUNCTIONS
from fastact.spec.kinds import ALL, FUSED
from fastact.spec.table import OPS

METHODS = ("backward", "forward", "value_and_grad", "backward_from_output", *FUSED, "fused", "fused_backward")
OBJECTS = {
    **{name: fa.activations[name] for name in NAMES},
    **FUNCTIONS,
    **{f"optim.{name}": getattr(fa.optim, name) for name in fa.optim.__all__},
    **{name: getattr(fa, name) for name in fa.__all__ if inspect.isroutine(getattr(fa, name))},
    **{name: getattr(fa, name) for name in fa.__all__ if inspect.isclass(getattr(fa, name))},
}
CALLABLES = {
    **OBJECTS,
    **{
        f"{name}.{m}": getattr(o, m)
        for name, o in OBJECTS.items()
        for m in METHODS
        if not inspect.isclass(o) and hasattr(o, m)
    },
    **{f"optim.Optimiser.{m}": getattr(fa.optim.Optimiser, m) for m in ("step", "state_dict", "load_state_dict")},
}
# what they call is chosen at run time
ANY_ARGUMENTS = {"explain", "optim.Optimiser"}
OF_UFUNC = {"out": None, "where": True, "casting": "same_kind", "order": "K", "dtype": None, "subok": True}


def defaults(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


@pytest.mark.parametrize("name", CALLABLES)
def test_every_callable_has_a_signature(name):
    parameters = inspect.signature(CALLABLES[name]).parameters.values()
    assert not any(p.kind is p.VAR_POSITIONAL for p in parameters) or name in ANY_ARGUMENTS
    assert str(inspect.signature(CALLABLES[name])).startswith("(")


@each_name
def test_parameters_of_an_activation(name):
    activation, op = fa.activations[name], OPS[name]
    optional = {p.name: p.default for p in op.params if p.default is not None}
    for kind in ALL:
        method = activation if kind == "forward" else getattr(activation, kind, None)
        if method is None:
            continue
        signature, given = inspect.signature(method), defaults(method)
        names = [p.name.rstrip("_") for p in signature.parameters.values()]
        assert names[: len(ALL[kind].inputs)] == [a.name for a in ALL[kind].inputs if a.role != "random"]
        for p in op.params:
            assert (p.name in given) == (p.default is not None)
        assert given.items() >= optional.items()
        if kind in FUSED or (op.param_grad is not None and kind == "backward"):
            assert "out" in given
        else:
            out = {"out": (None, None)} if kind == "value_and_grad" else {}
            assert given.items() >= {**OF_UFUNC, **out}.items()


@each_name
def test_a_call_takes_what_its_signature_shows(name):
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    arrays = {"x": x, "y": abs(x), "dy": x, "gate": x, "up": x, "bias": x[0], "bias_": x[0]}
    activation = fa.activations[name]
    for method in (activation, *(getattr(activation, m) for m in METHODS if hasattr(activation, m))):
        signature = inspect.signature(method)
        required = {p.name: arrays.get(p.name, 0.5) for p in signature.parameters.values() if p.default is p.empty}
        whole = {**defaults(method), **required}
        positional = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_ONLY]
        long = method(*[whole.pop(p) for p in positional], **whole)
        short = method(*[required.pop(p) for p in positional if p in required], **required)
        for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (long, short)), strict=True):
            # defaults have a formula of their own
            assert (a is b is None) or np.allclose(a, b, rtol=1e-6, atol=1e-6)


def test_a_parameter_with_the_name_of_an_array():
    """Then the array goes by position alone."""
    assert str(inspect.signature(fa.shrink.biased)) == "(x, bias_, /, *, lambd=0.5, bias=0.0, axis=-1, out=None)"
    assert str(inspect.signature(fa.elu.biased)) == "(x, bias, *, alpha=1.0, axis=-1, out=None)"


def test_the_signature_of_a_call():
    assert str(inspect.signature(fa.gelu)).startswith("(x, /, *, approximate='none', out=None, where=True, ")
    assert str(inspect.signature(fa.elu.fused)) == (
        "(x, bias=None, *, alpha=1.0, residual=None, dropout=0.0, seed=None, offset=0, axis=None, out=None)"
    )


def test_dir_of_the_package_is_its_names():
    assert dir(fa) == sorted(fa.__all__)
    assert dir(fa.optim) == sorted(fa.optim.__all__)


@each_name
def test_dir_of_an_activation(name):
    activation = fa.activations[name]
    always = {"address", "backward", "biased", "biased_backward", "formula", "fused", "fused_backward", "gated"}
    always |= {"gated_backward", "name", "params", "ufunc", "value_and_grad"}
    if OPS[name].grad_from_output is not None:
        always.add("backward_from_output")
    # and fused kinds that came later
    assert always <= set(dir(activation)) <= always | set(FUSED)
    assert dir(activation.value_and_grad) == ["ufunc"]
    assert dir(activation.biased) == dir(activation.fused) == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_dir_of_other_functions(name):
    found = dir(FUNCTIONS[name])
    assert "name" in found
    assert set(found) <= {"name", "formula", "ufunc", "backward", "forward", "value_and_grad"}
    assert all(hasattr(FUNCTIONS[name], attribute) for attribute in found)


def test_dir_of_an_optimiser():
    found = dir(fa.optim.Adam([np.ones(2)]))
    assert {"lr", "betas", "step", "steps", "params", "state", "state_dict", "load_state_dict"} <= set(found)
    assert not any(attribute.startswith("_") for attribute in found)
