"""fastact verify of float64, of functions over rows and of losses: its references, and that it sees what is wrong."""

from __future__ import annotations

import json

import numpy as np
import oracle
import pytest

import fastact as fa
from fastact.api.functions import FUNCTIONS
from fastact.api.losses import Loss
from fastact.api.over_axis import RowMethod
from fastact.spec.table import OPS
from fastact.tools import cli, verify_rows
from fastact.tools.verify import KINDS, verify

mpmath = pytest.importorskip("mpmath")
exact = pytest.importorskip("fastact.tools.exact")


def parameters(name):
    return {p.name: 0.5 if p.default is None else p.default for p in OPS[name].params}


@pytest.mark.parametrize("name", OPS)
def test_formulas_are_the_textbooks(name):
    """The formula that users read, to many digits, against the definition of the tests in float64."""
    truth, params = oracle.TRUTH[name], parameters(name)
    x = np.array([-40.0, -7.25, -2.0, -0.75, -1e-3, 1e-3, 0.3, 1.75, 5.0, 60.0])
    want, slopes = truth.value(oracle.FAST, x, **params), truth.derivative(oracle.FAST, x, **params)
    with mpmath.workdps(exact.DIGITS):
        for i, one in enumerate(x):
            value = float(exact.value(name, mpmath.mpf(one), params))
            slope = exact.derivative(name, mpmath.mpf(one), params)
            assert value == pytest.approx(np.broadcast_to(want, x.shape)[i], rel=1e-9, abs=1e-12), one
            assert float(slope) == pytest.approx(np.broadcast_to(slopes, x.shape)[i], rel=1e-9, abs=1e-12), one


def test_a_kink_has_no_derivative():
    with mpmath.workdps(exact.DIGITS):
        assert exact.derivative("relu", mpmath.mpf(0), {}) is None
        assert exact.derivative("hard_tanh", mpmath.mpf(1), {"min_val": -1.0, "max_val": 1.0}) is None
        assert exact.derivative("elu", mpmath.mpf(0), {"alpha": 1.0}) == pytest.approx(1)
        assert exact.derivative("threshold", mpmath.mpf(0.5), {"threshold": 0.5, "value": 3.0}) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPS)
def test_a_sample_of_float64(name, kind):
    required = {p.name: 0.5 for p in OPS[name].params if p.default is None}
    found, bounds = verify(name, kind, "float64", required, samples=100, seed=3)
    assert found.count > 100
    assert all(b.holds for b in bounds), [b for b in bounds if not b.holds]


def test_parameters_of_float64():
    _, bounds = verify("elu", "backward", "float64", {"alpha": 0.7}, samples=50)
    assert all(b.holds for b in bounds)


def test_a_wrong_result_of_float64_is_seen(monkeypatch):
    # off by some ULP, as with a constant of too few digits
    monkeypatch.setattr("fastact.tools.verify.Check.compute", lambda self, x: fa.gelu(x) * (1 + 2.0**-50))
    _, bounds = verify("gelu", "forward", "float64", samples=50)
    assert [b.bound for b in bounds if not b.holds] == ["error, ULP"]
    monkeypatch.setattr("fastact.tools.verify.Check.compute", lambda self, x: np.nan_to_num(fa.gelu(x)))
    _, bounds = verify("gelu", "forward", "float64", samples=50)
    assert "NaN or infinity out of place" in [b.bound for b in bounds if not b.holds]


def test_every_function_over_rows_and_loss_has_a_case():
    assert set(verify_rows.CASES) == {n for n, f in FUNCTIONS.items() if isinstance(f, (Loss, RowMethod))}


@pytest.mark.parametrize("dtype", verify_rows.WIDE)
@pytest.mark.parametrize("name", verify_rows.CASES)
def test_rows(name, dtype):
    if not verify_rows.is_wider(dtype):
        pytest.skip(f"no type is wider than {dtype} here")
    for kind in verify_rows.kinds_of(name):
        found, (bound,) = verify_rows.verify(name, kind, dtype, elements=2000, seed=1)
        assert found.count > 0
        assert bound.holds, bound


@pytest.mark.parametrize(
    ("name", "method"), [("softmax", None), ("softmax", "backward"), ("mse_loss", "value_and_grad")]
)
def test_wrong_rows_are_seen(monkeypatch, name, method):
    class Wrong:
        def __call__(self, *given, **keywords):
            result = FUNCTIONS[name](*given, **keywords)
            return result * np.float32(1 + 1e-6) if method is None else result

        def __getattr__(self, other):
            def call(*given, **keywords):
                result = getattr(FUNCTIONS[name], other)(*given, **keywords)
                wrong = 1 + 1e-6 * (other == method)
                parts = result if isinstance(result, tuple) else (result,)
                parts = tuple(np.asarray(part) * np.float32(wrong) for part in parts)
                return parts if isinstance(result, tuple) else parts[0]

            return call

    monkeypatch.setattr(fa, name, Wrong())
    kind = "forward" if method is None else "backward"
    _, (bound,) = verify_rows.verify(name, kind, "float32", elements=1000)
    assert not bound.holds and "rows of" in bound.input


def test_the_command_says_that_it_samples(capsys):
    assert cli.main(["verify", "elu", "--dtype", "float64", "--samples", "40", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sampled"] and report["kinds"]["forward"]["count"] == 49
    assert cli.main(["verify", "softmax", "--samples", "500"]) == 0
    assert "a sample of" in capsys.readouterr().out
