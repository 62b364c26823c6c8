"""The elementary functions: the bound in each docstring, asserted and measured; NumPy's own accuracy tables."""

import csv
import inspect
import re
from pathlib import Path

import numpy as np
import oracle
import pytest
from ulp import assert_within, errors, from_ordered, measure, ordered, sample

import fastact as fa
from fastact import bind

BOUND = re.compile(r"Max error: ([\d.]+) ULP on ([\[(])(\S+), (\S+)([\])])")


def number(text):
    return float(text.replace("−", "-").replace("inf", "1e999"))


def stated(dtype):
    """(name, bound, low, high) of each function whose docstring states a bound."""
    module = bind.elementary(np.dtype(dtype).name)
    found = []
    for name, function in vars(module).items():
        if inspect.isfunction(function) and function.__module__ == module.__name__:
            for match in BOUND.finditer(function.__doc__ or ""):
                low, high = (from_ordered([ordered(number(match[k]), dtype)], dtype)[0] for k in (3, 4))
                found.append((name, float(match[1]), low, high))
    return found


ROWS = [pytest.param(t, *row, id=f"{row[0]}-{np.dtype(t).name}") for t in (np.float32, np.float64) for row in stated(t)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_basic_ones_state_a_bound(dtype):
    assert {"exp", "expm1", "log1p", "tanh"} <= {row[0] for row in stated(dtype)}


@pytest.mark.parametrize(("dtype", "name", "bound", "low", "high"), ROWS)
def test_stated_bound(dtype, name, bound, low, high):
    assert name in oracle.ELEMENTARY, f"{name} states a bound but has no oracle"
    dtype = np.dtype(dtype)
    largest = np.finfo(dtype).max
    low, high = max(low, -largest), min(high, largest)
    count = 1_000_000 if dtype == np.float32 else 2500
    parts = [sample(dtype, low, high, count)]
    middle = (max(low, -800), min(high, 800))
    if middle[0] < middle[1]:
        parts.append(np.linspace(*middle, count // 4).astype(dtype))
    x = np.concatenate(parts)
    function = oracle.ELEMENTARY[name]
    with np.errstate(all="ignore"):
        got = bind.bind_numpy(dtype)[name](x)
    reference = oracle.fast(function, x, {}) if dtype == np.float32 else oracle.exact(function, x, {})
    slack = oracle.FAST_ERROR * 2.0**24 if dtype == np.float32 else 0.0
    what = {"op": name, "kind": "elementary", "dtype": dtype.name, "backend": "", "domain": f"[{low:g}, {high:g}]"}
    assert_within(measure(got, reference, x), bound, what, slack)


TABLES = Path(np.__file__).parent / "_core" / "tests" / "data"
# NumPy's file -> what of ours it is a table of
FILES = {"exp": "exp", "expm1": "expm1", "log": "log", "log1p": "log1p", "tanh": "tanh"}
NUMPY_ROWS = [pytest.param(f, t, id=f"{f}-{np.dtype(t).name}") for f in FILES for t in (np.float32, np.float64)]


def numpy_table(name, dtype):
    with open(TABLES / f"umath-validation-set-{name}.csv", encoding="utf-8") as file:
        rows = [r for r in csv.reader(file) if r and r[0].strip() == f"np.{np.dtype(dtype).name}"]
    width = np.dtype(f"u{np.dtype(dtype).itemsize}")
    x, y = (np.array([int(r[k], 16) for r in rows], width).view(dtype) for k in (1, 2))
    return x, y, np.array([int(r[3]) for r in rows])


@pytest.mark.parametrize(("name", "dtype"), NUMPY_ROWS)
def test_numpys_accuracy_table_elementary(name, dtype):
    """Inputs that were hard for other libraries, with results rounded from higher precision and NumPy's tolerance."""
    bound_functions = bind.bind_numpy(dtype)
    if FILES[name] not in bound_functions:
        pytest.skip(f"the formulas need no {name}")
    x, want, tolerance = numpy_table(name, dtype)
    assert x.size > 100
    with np.errstate(all="ignore"):
        got = bound_functions[FILES[name]](x)
    compare(x, got, want, tolerance)


@pytest.mark.parametrize(("name", "dtype"), [p for p in NUMPY_ROWS if p.values[0] in ("exp", "tanh", "expm1")])
def test_numpys_accuracy_table_activations(name, dtype, backend):
    """The same through the kernels: exponential, tanh, and elu below zero."""
    x, want, tolerance = numpy_table(name, dtype)
    if name == "expm1":
        x, want, tolerance = x[x <= 0], want[x <= 0], tolerance[x <= 0]
    function = {"exp": fa.exponential, "tanh": fa.tanh, "expm1": fa.elu}[name]
    compare(x, function(x), want, tolerance)


def compare(x, got, want, tolerance):
    """The table's results are rounded, so half an ULP may be theirs; the bound is 2 at most all the same."""
    ulp, below, _ = errors(got, want.astype(np.float64))
    allowed = np.minimum(tolerance, oracle.FORWARD_ULP)
    bad = np.flatnonzero((ulp > allowed) | (below > 1.0))
    assert not bad.size, [(x[i], got[i], want[i], ulp[i]) for i in bad[:5]]
