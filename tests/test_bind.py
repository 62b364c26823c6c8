"""Formulas bound to other primitives: NumPy scalars in the CUDA simulator, whole arrays, plain Python floats."""

import json

import numpy as np
import oracle
import pytest
from cases import NAMES
from oracle import DERIVATIVE_ULP, FORWARD_ULP, TRUTH
from subprocesses import python
from ulp import errors

from fastact.maths import grammar as bind
from fastact.maths import primitives
from fastact.spec.table import OPS

X = (-90.25, -7.5, -3.0, -1.0, -0.75, -0.03, -0.0, 0.02, 0.5, 1.0, 2.9, 6.0, 17.25, 91.5)

SIMULATOR = """
import json, sys
import numpy as np
from numba import cuda
from fastact.maths import grammar as bind
from fastact.spec.table import kernel_rows

OPS = {op.name: op for op in kernel_rows()}
cases, x = json.loads(sys.stdin.read())

def run(formula, x, params):
    @cuda.jit
    def kernel(x, out):
        i = cuda.grid(1)
        if i < x.size:
            out[i] = formula(x[i], *params)
    out = np.full_like(x, np.nan)
    kernel[1, 32](x, out)
    return out

found = {}
for dtype in ("float32", "float64"):
    bound = bind.bind_numpy(dtype)
    cast = np.dtype(dtype).type
    for name, case in cases.items():
        params = [cast(v) for v in case]
        for formula in (OPS[name].forward, OPS[name].grad):
            with np.errstate(all="ignore"):
                out = run(bound[formula.__name__], np.array(x, dtype), params)
            found[f"{name} {formula is OPS[name].grad} {dtype}"] = [v.hex() for v in out.tolist()]
print(json.dumps(found))
"""


def test_every_formula_runs_in_the_cuda_simulator():
    """One element a thread, as a GPU kernel would: what comes out is right, and is what whole arrays give."""
    pytest.importorskip("numba")
    cases = {name: TRUTH[name].cases[0] for name in NAMES}
    for name in NAMES:
        # formulas for the defaults take no parameters, the others must not be given them: theirs are rounded
        default = OPS[name].at_default
        if default is not None:
            cases[default.name], cases[name] = {}, TRUTH[name].cases[1]
    given = {name: list(case.values()) for name, case in cases.items()}
    found = json.loads(python(SIMULATOR, stdin=json.dumps([given, X]), NUMBA_ENABLE_CUDASIM="1"))
    assert len(found) == 4 * len(cases)
    for key, values in found.items():
        row, derivative, dtype = key.split()
        case, name = cases[row], row.removesuffix("_default")
        what = "derivative" if derivative == "True" else "value"
        got = np.array([float.fromhex(v) for v in values]).astype(dtype)
        x = np.array(X, dtype)
        whole = bind.bind_numpy(dtype)[f"{row}_grad" if what == "derivative" else row]
        with np.errstate(all="ignore"):
            together = whole(x, *(np.dtype(dtype).type(v) for v in case.values()))
        np.testing.assert_array_equal(got, together, err_msg=key)
        at = case or TRUTH[name].cases[0]
        reference = oracle.exact(getattr(TRUTH[name], what), x, oracle.parameters_as(dtype, at))
        ulp, below, absolute = errors(got, reference)
        near_zero = TRUTH[name].near_zero(x, **at) & (absolute <= np.finfo(dtype).eps) & (what == "derivative")
        assert np.where(near_zero, 0, ulp).max() <= (FORWARD_ULP if what == "value" else DERIVATIVE_ULP), key
        assert below.max() <= 1, key


@pytest.mark.parametrize("name", NAMES)
def test_formulas_run_in_plain_python(name):
    """Primitives on Python floats define the primitives; float64 formulas over them give the same bits."""
    bound = bind.bind({p: getattr(primitives, p) for p in bind.PRIMITIVES}, "float64")
    case = TRUTH[name].cases[0].values()
    inputs = [x for x in X if x != 0.0]  # Python raises where floats are divided by 0
    for formula in (name, f"{name}_grad"):
        with np.errstate(all="ignore"):
            want = bind.bind_numpy(np.float64)[formula](np.array(inputs), *(np.float64(v) for v in case))
        assert [bound[formula](x, *case) for x in inputs] == want.tolist()


def test_bound_functions_keep_their_names():
    for name, function in bind.bind_numpy(np.float32).items():
        if name in NAMES:
            assert function.__name__ == name
