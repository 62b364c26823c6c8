"""One table: everything that lists activations lists the same ones."""

import copy
import inspect
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from cases import NAMES, each_name
from oracle import ALIASES, TRUTH

import fastact as fa
from fastact.maths import activations as formulas
from fastact.maths import grammar as bind
from fastact.spec.table import OPS, kernel_rows
from fastact.spec.units import UNITS

ROOT = Path(__file__).parent.parent

# what else is public, and is not elementwise
OTHERS = {
    *(
        "Activation",
        "__version__",
        "activations",
        "dispatch",
        "explain",
        "get",
        "get_include",
        "get_num_threads",
        "info",
        "optim",
        "set_num_threads",
    ),
    *("use_backend", "warmup"),
    *("softmax", "log_softmax", "softmin", "sparsemax", "logsumexp", "softmax_cross_entropy", "sigmoid_cross_entropy"),
    *("layer_norm", "rms_norm", "group_norm", "batch_norm"),
    *("glu", "swiglu", "geglu", "geglu_tanh", "reglu", "dropout", "rrelu"),
    *("nll_loss", "mse_loss", "l1_loss", "huber_loss", "kl_div"),
}


def test_table_and_oracle_have_the_same_rows():
    assert sorted(OPS) == sorted(TRUTH)
    assert sorted(fa.activations) == sorted(TRUTH)


def test_public_names_are_the_table_and_its_aliases():
    aliases = {a for op in OPS.values() for a in op.aliases if a.isidentifier()}
    assert sorted(set(fa.__all__) - OTHERS - aliases) == sorted(OPS)
    assert [n for n in fa.__all__ if not hasattr(fa, n)] == []
    for name in OPS:
        assert getattr(fa, name) is fa.activations[name]
    for alias in set(fa.__all__) & aliases:
        assert getattr(fa, alias) is fa.get(alias)


def test_aliases_of_the_specification():
    for alias, name in ALIASES.items():
        assert fa.get(alias).name == name


def test_no_alias_means_two_things():
    spellings = [s for op in OPS.values() for s in (op.name, *op.aliases)]
    assert len(spellings) == len(set(spellings))


@each_name
def test_parameters_and_defaults(name):
    op, truth = OPS[name], TRUTH[name]
    assert [p.name for p in op.params] == list(truth.cases[0])
    for p in op.params:
        if truth.required:
            assert p.default is None
        else:
            assert p.default == pytest.approx(truth.cases[0][p.name], rel=1e-16)
    assert list(fa.activations[name].params) == list(truth.cases[0])


@each_name
def test_signatures_of_formulas_match(name):
    op = OPS[name]
    names = [p.name for p in op.params]
    assert list(inspect.signature(op.forward).parameters) == ["x", *names]
    assert list(inspect.signature(op.grad).parameters) == ["x", *names]
    assert (op.grad_from_output is not None) == (TRUTH[name].from_output is not None)
    if op.grad_from_output is not None:
        assert list(inspect.signature(op.grad_from_output).parameters) == ["y", *names]


@each_name
def test_formulas_are_named_after_the_activation(name):
    op = OPS[name]
    assert op.forward.__name__ == name
    assert op.grad.__name__ == f"{name}_grad"
    if op.grad_from_output is not None:
        assert op.grad_from_output.__name__ == f"{name}_grad_from_output"


@each_name
def test_piecewise_linear(name):
    assert OPS[name].piecewise_linear == TRUTH[name].linear


@each_name
def test_domains_hold_the_samples_and_no_others(name):
    op, truth = OPS[name], TRUTH[name]
    for case in truth.cases:
        for p in op.params:
            assert np.all(p.domain.holds(np.asarray(case[p.name]))), (p.name, case)
    for p in op.params:
        assert p.domain.text, "a domain that an error message can name"


@each_name
def test_an_activation_tells_about_itself(name):
    activation = fa.activations[name]
    assert activation.name == name
    assert activation.formula
    assert activation.formula == OPS[name].formula
    assert name in repr(activation)
    assert activation.__doc__


def test_every_formula_serves_a_row():
    """A formula that no row uses, directly or through others, is left over."""
    used, waiting = (
        set(),
        [f for op in kernel_rows() for f in (op.forward, op.grad, op.grad_from_output, op.param_grad) if f],
    )
    defined = {n: f for n, f in vars(formulas).items() if inspect.isfunction(f) and f.__module__ == formulas.__name__}
    while waiting:
        function = waiting.pop()
        if function.__name__ not in used:
            used.add(function.__name__)
            waiting += [defined[n] for n in function.__code__.co_names if n in defined]
    assert sorted(set(defined) - used - {"prelu_weight_grad"}) == []


def test_every_formula_binds():
    for dtype in (np.float32, np.float64):
        bound = bind.bind_numpy(dtype)
        for op in OPS.values():
            for f in (op.forward, op.grad, op.grad_from_output):
                assert f is None or callable(bound[f.__name__])


def test_docs_list_every_activation():
    """The generated table of accuracy has a row for each."""
    text = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
    values = text.split("## Values")[1].split("##")[0]
    assert re.findall(r"^\| ([a-z0-9_]+) ", values, re.MULTILINE) == sorted(NAMES)


def test_docs_tell_of_every_gated_unit_and_random_function():
    text = (ROOT / "docs" / "activations.md").read_text(encoding="utf-8")
    for name in (*UNITS, "dropout", "rrelu"):
        assert f"fa.{name}(" in text, name


@each_name
def test_kinks_and_limits_of_the_table(name):
    op, truth = OPS[name], TRUTH[name]
    case = truth.cases[0]
    assert set(op.kinks) <= {float(k) for k in truth.kinks(**case)} | unsure_kinks(name, case)
    if op.limits is not None:
        for stated, limit in zip(op.limits, truth.limits(**case), strict=True):
            assert stated == pytest.approx(float(limit), rel=1e-15)
            assert np.signbit(stated) == np.signbit(float(limit)) or stated != 0


def unsure_kinks(name, case):
    """Where a clip's edge falls on no representable number."""
    return {k for k in OPS[name].kinks if TRUTH[name].unsure(k, 2.0**-50, **case)}


@each_name
def test_pickle_and_copy_give_the_object_itself(name):
    activation = fa.activations[name]
    for method in (activation, activation.backward, activation.value_and_grad):
        assert pickle.loads(pickle.dumps(method)) is method
        at_default = getattr(method, "at_default", None)
        assert pickle.loads(pickle.dumps(at_default)) is at_default
    assert copy.deepcopy(activation) is activation


def test_benchmarks_cover_every_activation():
    """The cases of benchmarks/ come from the table; their list is asked for, not run."""
    files = list((ROOT / "benchmarks").glob("*.py"))
    if not files:
        pytest.skip("benchmarks/ is not in this checkout")
    source = "".join(f.read_text(encoding="utf-8") for f in files)
    assert "fastact.spec.table" in source
    assert "OPS" in source
