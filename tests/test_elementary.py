"""The elementary functions: the bound in each docstring, asserted and measured; NumPy's own accuracy tables."""

import csv
import re
from pathlib import Path

import numpy as np
import oracle
import pytest
from mpmath import mp
from ulp import assert_within, errors, measure, sample, ulp_of

import fastact as fa
from fastact.maths import grammar

BOUND = re.compile(
    r"Max error(?: of (?P<part>[pu]))?: (?P<bound>[\d.]+) ULP(?P<scale> of 1 \+ u)?"
    r"(?: everywhere| on \[(?P<low>\S+), (?P<high>[^\s\]]+)\]| where abs\(n\) < (?P<exponent>\d+))"
)
# at and below these there is no finite value
LOWEST = {"log": 0.0, "log1p": -1.0}


def elementary(dtype):
    """The elementary functions of a dtype by name."""
    found = grammar.formulas(np.dtype(dtype).name).items()
    return {name: f for name, f in found if f.__module__.startswith("fastact.maths.elementary.")}


def stated(dtype):
    """(name, bound, low, high, match) of each function whose docstring states a bound."""
    largest = float(np.finfo(dtype).max)
    found = []
    for name, function in elementary(dtype).items():
        match = BOUND.search(function.__doc__ or "")
        if match:
            ends = (-np.inf, np.inf) if match["low"] is None else (float(match["low"]), float(match["high"]))
            low, high = max(ends[0], -largest), min(ends[1], largest)
            if name in LOWEST:
                low = float(np.nextafter(np.dtype(dtype).type(LOWEST[name]), np.dtype(dtype).type(1)))
            found.append((name, float(match["bound"]), low, high, match))
    return found


ROWS = [pytest.param(t, *row, id=f"{row[0]}-{np.dtype(t).name}") for t in (np.float32, np.float64) for row in stated(t)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_basic_ones_state_a_bound(dtype):
    names = {row[0] for row in stated(dtype)}
    assert {"exp", "expm1", "log", "log1p", "tanh", "erf", "erfc"} <= names
    claims = {n for n, f in elementary(dtype).items() if "Max error" in (f.__doc__ or "")}
    assert claims == names, "a bound in words that this test does not read"


@pytest.mark.parametrize(("dtype", "name", "bound", "low", "high", "match"), ROWS)
def test_stated_bound(dtype, name, bound, low, high, match):
    dtype = np.dtype(dtype)
    count = 1_000_000 if dtype == np.float32 else 2500
    parts = [sample(dtype, low, high, count)]
    middle = (max(low, -800.0), min(high, 800.0))
    if middle[0] < middle[1]:
        parts.append(np.linspace(*middle, count // 4).astype(dtype))
    x = np.concatenate(parts)
    what = {"op": name, "kind": "elementary", "dtype": dtype.name, "backend": "", "domain": f"[{low:g}, {high:g}]"}
    function = grammar.bind_numpy(dtype)[name]
    if name in oracle.EXPONENTS:
        exponents(name, function, x, bound, match, what)
        return
    with np.errstate(all="ignore"):
        got = function(x)
    truth = oracle.ELEMENTARY[name]
    reference = oracle.fast(truth, x, {}) if dtype == np.float32 else oracle.exact(truth, x, {})
    # the derivative of gelu has a zero there
    near_zero = np.abs(x + 0.7518) <= 1 if name == "gelu_tail_grad" else None
    assert_within(measure(got, reference, x, near_zero), bound, what, slack(dtype))


def slack(dtype):
    return oracle.FAST_ERROR * 2.0**24 if dtype == np.float32 else 0.0


def exponents(name, function, x, bound, match, what):
    """p of e^v = p 2^n in ULP of p, or u of e^v = (1 + u) 2^n in ULP of u, or of 1 + u where the docstring says so."""
    dtype = x.dtype
    exponent = oracle.EXPONENTS[name]
    arguments = [x]
    if name.endswith("_sum"):
        arguments.append(
            x * dtype.type(np.finfo(dtype).eps / 2) * np.random.default_rng(0).uniform(-1, 1, x.size).astype(dtype)
        )
    with np.errstate(all="ignore"):
        head, n = function(*arguments)
    if match["exponent"]:
        keep = np.abs(n) < float(match["exponent"])
        arguments, x, head, n = [a[keep] for a in arguments], x[keep], head[keep], n[keep]
    assert (n == np.rint(n)).all()
    documented = elementary(dtype)[name].__doc__ or ""
    if "2^-n" in documented:
        n = -n
    minus_one = "(u, n)" in documented
    assert (head >= (-0.31 if minus_one else 0.69)).all()
    assert (head <= (0.43 if minus_one else 1.43)).all()
    if dtype == np.float32:
        wide = [a.astype(np.longdouble) for a in arguments]
        with mp.workprec(100):
            log2 = np.longdouble(float(mp.ln2)) + np.longdouble(float(mp.ln2 - float(mp.ln2)))
        power = (exponent(oracle.FAST, *wide) - n.astype(np.longdouble) * log2).astype(np.float64)
        reference = np.expm1(power) if minus_one else np.exp(power)
    else:
        hi, lo = np.empty(x.size), np.empty(x.size)
        with mp.workprec(400):
            for i, (m, *given) in enumerate(zip(n.tolist(), *(a.tolist() for a in arguments), strict=True)):
                value = exponent(oracle.MP, *map(mp.mpf, given)) - mp.mpf(m) * mp.ln2
                value = mp.expm1(value) if minus_one else mp.exp(value)
                hi[i] = float(value)
                lo[i] = float(value - hi[i])
        reference = hi, lo
    if match["scale"]:
        # in ULP of 1 + u: absolute errors in the spacing of 1 + u's binade
        hi, lo = reference if isinstance(reference, tuple) else (reference, 0.0)
        error = np.abs(head.astype(np.float64) - hi - lo) / ulp_of(1 + hi, dtype)
        assert error.max() <= bound + slack(dtype), (x[error.argmax()], error.max())
        return
    assert_within(measure(head, reference, x), bound, what, slack(dtype) + 2.0**-12 * (dtype == np.float32))


TABLES = Path(np.__file__).parent / "_core" / "tests" / "data"
# the functions of ours that NumPy has a file for
FILES = ("exp", "expm1", "log", "log1p", "tanh")
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
    x, want, tolerance = numpy_table(name, dtype)
    assert x.size > 100
    with np.errstate(all="ignore"):
        got = grammar.bind_numpy(dtype)[name](x)
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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(dtype):
    """As the table in fastact.maths.elementary says."""
    functions = grammar.bind_numpy(dtype)
    inf, nan = np.inf, np.nan
    cases = {
        "exp": ([-inf, -1e4, 0.0, inf, nan], [0.0, 0.0, 1.0, inf, nan]),
        "expm1": ([-inf, -1e4, -0.0, 0.0, inf, nan], [-1.0, -1.0, -0.0, 0.0, inf, nan]),
        "log": ([0.0, -0.0, -1.0, -inf, 1.0, inf, nan], [-inf, -inf, nan, nan, 0.0, inf, nan]),
        "log1p": ([-1.0, -2.0, -inf, -0.0, 0.0, inf, nan], [-inf, nan, nan, -0.0, 0.0, inf, nan]),
        "tanh": ([-inf, -0.0, 0.0, inf, nan], [-1.0, -0.0, 0.0, 1.0, nan]),
        "erf": ([-inf, 0.0, inf, nan], [-1.0, 0.0, 1.0, nan]),
        "erfc": ([-inf, 0.0, inf, nan], [2.0, 1.0, 0.0, nan]),
        "finite": ([-inf, inf, nan, 2.0], [-np.finfo(dtype).max, np.finfo(dtype).max, nan, 2.0]),
        "exp_nonpositive": ([-inf, 0.0], [0.0, 1.0]),
        "expm1_nonpositive": ([-inf], [-1.0]),
        "x_minus_tanh": ([-inf, inf, nan], [-inf, inf, nan]),
        "gelu_tail": ([0.0, -inf, nan], [0.0, 0.0, nan]),
        "gelu_tail_grad": ([0.0, -inf, nan], [0.5, 0.0, nan]),
        "logistic_tail": ([0.0, inf, nan], [0.5, 0.0, nan]),
    }
    for name, (x, want) in cases.items():
        with np.errstate(all="ignore"):
            got = functions[name](np.array(x, dtype))
        want = np.array(want, dtype)
        np.testing.assert_array_equal(got, want, err_msg=name)
        if name in ("expm1", "log1p", "tanh"):
            assert (np.signbit(got) == np.signbit(want))[~np.isnan(want)].all(), name
