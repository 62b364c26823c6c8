"""Docstrings: every public function has one with its parts, and its examples run."""

import doctest
import importlib
import inspect
import itertools
import pkgutil

import pytest
from cases import NAMES

import fastact as fa
from fastact.api.functions import FUNCTIONS
from fastact.api.fused import Fused
from fastact.spec.kinds import kinds_of

METHODS = [
    (
        name if kind == "forward" else f"{name}.{kind}",
        fa.activations[name] if kind == "forward" else getattr(fa.activations[name], kind),
    )
    for name in NAMES
    for kind in kinds_of(fa.activations[name].op)
]
FUSED = [(f.__name__, f) for name in NAMES for f in vars(fa.activations[name]).values() if isinstance(f, Fused)]
STEPS = [(f.__name__, f) for name in NAMES for f in (fa.activations[name].fused, fa.activations[name].fused_backward)]
ROWS = [(name, f) for name, f in FUNCTIONS.items()]
ROWS += [(f"{name}.backward", f.backward) for name, f in ROWS if hasattr(f, "backward")]
ROWS += [(f"{name}.value_and_grad", f.value_and_grad) for name, f in ROWS if hasattr(f, "value_and_grad")]
OPTIM = [(name, getattr(fa.optim, name)) for name in fa.optim.__all__ if name != "Optimiser"]
OPTIM += [(name, getattr(fa.optim.Optimiser, name)) for name in ("step", "state_dict", "load_state_dict")]
PUBLIC = [
    (name, getattr(fa, name))
    for name in fa.__all__
    if inspect.isroutine(getattr(fa, name)) or inspect.isclass(getattr(fa, name))
]
# modules that are programs, or that only run where Numba is
MODULES = [
    m.name
    for m in pkgutil.walk_packages(fa.__path__, "fastact.")
    if not any(part in m.name for part in ("__main__", "numba", "_aot", "_embed", "build_aot"))
]


def sections(text):
    lines = inspect.cleandoc(text).split("\n")
    return {
        title for title, line in itertools.pairwise(lines) if line and set(line) == {"-"} and len(line) == len(title)
    }


def run(name, text):
    examples = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert examples.examples, f"{name} has no example"
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(examples)
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize(("name", "method"), METHODS, ids=[n for n, _ in METHODS])
def test_activations(name, method, backend):
    text = method.__doc__
    assert text.startswith(f"{name}(")
    assert sections(text) >= {"Parameters", "Returns", "Raises", "Examples"}
    assert max(map(len, text.split("\n"))) <= 130
    for p in method.op.params:
        assert f"{p.name} : float or array_like" in text
    run(name, text)


@pytest.mark.parametrize(("name", "function"), FUSED, ids=[n for n, _ in FUSED])
def test_fused(name, function):
    text = function.__doc__
    assert text.startswith(f"{name}(")
    assert sections(text) >= {"Parameters", "Returns", "Raises", "Examples"}
    assert max(map(len, text.split("\n"))) <= 130
    for p in function.op.params:
        assert f"{p.name} : float or array_like" in text
    assert any(f"\naxis : int{optional}\n" in text for optional in ("", ", optional")) == function.takes_axis
    run(name, text)


@pytest.mark.parametrize(("name", "step"), STEPS, ids=[n for n, _ in STEPS])
def test_fused_steps(name, step):
    text = step.__doc__
    assert text.startswith(f"{name}(")
    assert sections(text) >= {"Parameters", "Returns", "Raises", "Notes", "Examples"}
    assert max(map(len, text.split("\n"))) <= 130
    for p in step.op.params:
        assert f"{p.name} : float or array_like" in text
    run(name, text)


@pytest.mark.parametrize(("name", "function"), ROWS, ids=[n for n, _ in ROWS])
def test_functions_over_an_axis(name, function, backend):
    text = function.__doc__
    assert sections(text) >= {"Parameters", "Returns", "Raises", "Examples"}
    run(name, text)


@pytest.mark.parametrize(("name", "function"), OPTIM, ids=[n for n, _ in OPTIM])
def test_optimisers(name, function, backend):
    text = inspect.getdoc(function)
    assert sections(text) >= {"Examples"}
    assert max(map(len, text.split("\n"))) <= 130
    signature = inspect.signature(function)
    if any(p != "self" for p in signature.parameters):
        assert sections(text) >= {"Parameters", "Raises"}
    if name[0].isupper() or name.endswith("_"):
        for p in signature.parameters:
            assert f"\n{p} : " in text
    run(name, text)


@pytest.mark.parametrize(("name", "function"), PUBLIC, ids=[n for n, _ in PUBLIC])
def test_public_functions(name, function):
    assert function.__doc__
    if name == "Activation":
        return
    parameters = [p for p in inspect.signature(function).parameters if p != "self"]
    assert "Examples" in sections(function.__doc__)
    if parameters:
        assert "Parameters" in sections(function.__doc__)
    run(name, function.__doc__)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name):
    if name.endswith(".curves"):
        pytest.importorskip("matplotlib")
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip()
    failed, _ = doctest.testmod(module, verbose=False)
    assert failed == 0


def test_notes_are_for_users():
    """Formula, range and source; how it is computed is told beside the code."""
    for name in NAMES:
        text = fa.activations[name].__doc__
        notes = text.partition("Notes\n-----\n")[2].partition("Examples\n")[0]
        assert not any(word in notes for word in ("so this is", "is taken as -", "Newton", "operations", "As max"))
    assert "f' jumps at 0, but not with the default parameters." in fa.elu.__doc__
    assert "f' jumps at 0 with the default parameters; there it is taken as 0.01." in fa.leaky_relu.__doc__
    assert "f' jumps at 0; there it is taken as 0.5 where weight = 0.5." in fa.prelu.__doc__
    assert "default parameters" not in fa.prelu.__doc__
    assert "f is -1 at -inf and 1 at inf.\n" in fa.tanh.__doc__
    assert "Its least value is -0.308843, at -1.19243" in " ".join(fa.mish.__doc__.split())
    assert "least value" not in fa.elu.__doc__


def test_the_class_has_its_own():
    assert "Attributes" in sections(fa.Activation.__doc__)
    assert inspect.getdoc(fa.elu).startswith("elu(x, /, *, alpha=1, **kwargs)")
