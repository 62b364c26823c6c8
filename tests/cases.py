"""What the tests run over: activations with sample parameters, points, and calls of every kind."""

from __future__ import annotations

import os
from functools import cache

import numpy as np
import oracle
import pytest
from ulp import BFLOAT16, neighbours, poisoned, sample

import fastact as fa
from fastact.spec.table import OPS

BACKENDS = ("reference", "numba", "cython")
DTYPES = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BFLOAT16)
# a row without an oracle fails in test_table.py; here it must not stop the collection
NAMES = [name for name in OPS if name in oracle.TRUTH]
FROM_OUTPUT = [name for name in NAMES if oracle.TRUTH[name].from_output]


def each_case(names=None, from_output=False):
    """Parametrisation over (name, parameters): the first of a name are its defaults."""
    found = []
    for name in NAMES if names is None else names:
        truth = oracle.TRUTH[name]
        for i, case in enumerate(truth.cases):
            if from_output and (truth.from_output is None or case in truth.not_from_output):
                continue
            label = ",".join(f"{v:.3g}" for v in case.values()) if i else ""
            found.append(pytest.param(name, case, id=name + (f"({label})" if label else "")))
    return pytest.mark.parametrize(("name", "case"), found)


def unavailable(backend):
    """Why a backend is not available; a failure where FASTACT_TEST_BACKENDS asks for it."""
    reason = fa.dispatch.reasons()[backend]
    required = os.environ.get("FASTACT_TEST_BACKENDS", "").replace(",", " ").split()
    assert reason is None or backend not in required, f"FASTACT_TEST_BACKENDS asks for {backend}: {reason}"
    return reason


def agreed(function):
    """What `function` returns, arrays in a tuple, with the first backend; each of the others must give the same bits.

    So an oracle is asked once, however many backends there are.
    """
    results = {}
    for backend in reversed(BACKENDS):
        if unavailable(backend) is None:
            with fa.use_backend(backend):
                results[backend] = function()
    first, *others = results
    for backend in others:
        for i, (got, want) in enumerate(zip(results[backend], results[first], strict=True)):
            assert same(got, want), f"result {i} of {backend} is not that of {first}{difference(got, want)}"
    return results[first]


each_name = pytest.mark.parametrize("name", NAMES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)


def parameters(name, case):
    """Keywords for a call: the defaults are left out, so that the table's own are what is tested."""
    truth = oracle.TRUTH[name]
    numbers = all(isinstance(v, float) for v in case.values())
    return {} if numbers and case == truth.cases[0] and not truth.required else case


def backward(name, dy, x, **keywords):
    """dx; prelu's backward returns dweight, too."""
    if name != "prelu":
        return fa.activations[name].backward(dy, x, **keywords)
    with np.errstate(over="ignore", invalid="ignore"):  # the sum for dweight may overflow as any sum
        return fa.prelu.backward(dy, x, **keywords)[0]


def call(name, kind, x, case, **keywords):
    """The outputs of a kind as a tuple. For the backwards dy is one, so that they give the derivative."""
    activation = fa.activations[name]
    given = parameters(name, case)
    if kind == "forward":
        return (activation(x, **given, **keywords),)
    if kind == "value_and_grad":
        return tuple(activation.value_and_grad(x, **given, **keywords))
    one = np.ones_like(x)
    if kind == "backward":
        return (backward(name, one, x, **given, **keywords),)
    return (activation.backward_from_output(one, x, **given, **keywords),)


def kinds(name, case):
    truth = oracle.TRUTH[name]
    from_output = truth.from_output is not None and case not in truth.not_from_output
    return ("forward", "value_and_grad", "backward", *(("backward_from_output",) if from_output else ()))


@cache
def _points(dtype: np.dtype, count: int, special: tuple[float, ...]):
    largest = float(np.finfo(dtype).max) if dtype.kind == "f" else 3.3895e38
    tail = {2: 120.0, 4: 120.0, 8: 800.0}[dtype.itemsize]
    # where exponentials of either type overflow, underflow or saturate
    edges = [0.0, 0.5, 1.0, 2.0, 3.0, 6.0, 9.0, 17.0, 37.0, 38.5, 87.34, 88.72, 103.97, 708.4, 709.78, 745.13]
    where = [*special, *edges, *(-e for e in edges), -largest, largest, 2.0**-126, -(2.0**-126)]
    parts = [neighbours(where, dtype), sample(dtype, -largest, largest, count // 4, 1)]
    parts += [sample(dtype, a, b, count // 4, 2) for a, b in ((-tail, -1e-3), (1e-3, tail))]
    # straight in x as well: half of the bit patterns of an interval lie below its square root
    line = np.linspace(-tail, tail, count // 4)
    x = np.concatenate([*parts, line.astype(dtype)])
    x.setflags(write=False)
    return x[np.isfinite(x)]


def points(name, case, dtype, count):
    """About `count` finite inputs: all bit patterns alike, the middle densely, neighbours of kinks and thresholds."""
    kinks = oracle.TRUTH[name].kinks(**case)
    return _points(np.dtype(dtype), count, tuple(sorted(float(k) for k in kinks)))


def truth(name, what, case, dtype, count):
    """(inputs, reference) of a sweep; `what` as the fields of `oracle.Truth`."""
    x = points(name, case, dtype, count)
    case = oracle.parameters_as(dtype, case)
    if what == "from_output":
        # outputs are what the function gives, rounded to the type
        with np.errstate(over="ignore"):
            y = (
                oracle.exact(oracle.TRUTH[name].value, x, case)[0]
                if dtype.itemsize == 8
                else oracle.fast(oracle.TRUTH[name].value, x, case)
            )
            x = np.unique(y.astype(dtype))
        x = x[np.isfinite(x)]
    function = getattr(oracle.TRUTH[name], what)
    return x, oracle.exact(function, x, case) if dtype.itemsize == 8 else oracle.fast(function, x, case)


def slack(dtype):
    """How far the reference itself may be off, in ULP."""
    precision = {2: 11, 4: 24, 8: None}[np.dtype(dtype).itemsize]
    return 0.0 if precision is None else oracle.FAST_ERROR * 2.0**precision


def batch(dtype, size, seed=0):
    """Ordinary inputs with every special value among them."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(size) * 4).astype(dtype)
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-42, -1e-42, 1e30, -1e30, -100.0, 100.0], np.float64)
    with np.errstate(over="ignore", under="ignore"):
        special = special.astype(dtype)
    where = rng.integers(0, size, min(size // 3, 40))
    x[where] = np.resize(special, where.size)
    return x


def same(a, b):
    """Equal bit by bit; any NaN equals any NaN."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    pattern = np.dtype(f"u{a.dtype.itemsize}")
    equal = np.ascontiguousarray(a).view(pattern) == np.ascontiguousarray(b).view(pattern)
    return bool((equal | (np.isnan(a) & np.isnan(b))).all())


def flat(results):
    """One result, or several, as a tuple."""
    return tuple(results) if isinstance(results, (tuple, list)) else (results,)


def assert_same(got, want):
    """Results on the host, one or several, equal bit by bit; None beside None."""
    got, want = flat(got), flat(want)
    assert len(got) == len(want)
    for i, (a, b) in enumerate(zip(got, want)):
        if b is None:
            assert a is None
            continue
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert same(a, b), f"result {i}{difference(a, b)}"


def difference(a, b):
    """Where two arrays differ first, for a message."""
    a, b = np.ravel(a), np.ravel(b)
    if a.size != b.size or a.dtype != b.dtype:
        return f": {a.size} of {a.dtype}, {b.size} of {b.dtype}"
    i = next(i for i in range(a.size) if not same(a[i], b[i]))
    return f": {a[i]!r}, not {b[i]!r}, at {i}"


def outputs(kind, shape, dtype):
    """Poisoned buffers for the `out` of a kind."""
    made = tuple(poisoned(shape, dtype) for _ in range(2 if kind == "value_and_grad" else 1))
    return made if kind == "value_and_grad" else made[0]
