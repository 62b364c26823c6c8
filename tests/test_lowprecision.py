"""float16 and bfloat16: all 65536 patterns, correctly rounded but for one in a thousand, never more than 1 ULP off."""

import numpy as np
import oracle
import pytest
from cases import agreed, call, each_case, kinds, outputs
from oracle import HALF_MISROUNDED, HALF_ULP, TRUTH, fast
from subprocesses import python
from test_forward import case_text
from ulp import BFLOAT16, assert_within, errors, measure

import fastact as fa

PATTERNS = np.arange(65536, dtype=np.uint16)


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=lambda d: d.name)
@each_case()
def test_every_pattern(name, case, dtype):
    truth = TRUTH[name]
    rounded = oracle.parameters_as(dtype, case)
    x = PATTERNS.view(dtype)
    finite = np.isfinite(x)
    for kind in kinds(name, case):
        got = agreed(lambda kind=kind: call(name, kind, x, case, out=outputs(kind, x.shape, dtype)))
        functions = {
            "forward": (truth.value,),
            "backward": (truth.derivative,),
            "value_and_grad": (truth.value, truth.derivative),
            "backward_from_output": (truth.from_output,),
        }[kind]
        for function, result in zip(functions, got, strict=True):
            assert result.dtype == dtype
            assert np.isnan(result[np.isnan(x)]).all()
            at, result = x[finite], result[finite]
            if kind == "backward_from_output":
                # outputs in the image of the function
                low, high = np.sort(np.asarray(truth.limits(**rounded), np.float64))
                image = (at.astype(np.float64) >= low) & (at.astype(np.float64) <= high)
                at, result = at[image], result[image]
            elif function is truth.derivative:
                sure = ~truth.unsure(at, 2.0**-23, **rounded)
                at, result = at[sure], result[sure]
            reference = fast(function, at, rounded)
            what = {"op": name, "kind": kind, "dtype": dtype.name, "backend": "", "domain": case_text(name, case)}
            assert_within(measure(result, reference, at), HALF_ULP, what, 2.0**-10)
            ulp, below, _ = errors(result, reference)
            # correctly rounded: within half an ULP; float16's subnormals are normal in float32, so they count as well
            misrounded = ulp > 0.5 + 2.0**-20
            if dtype == np.float16:
                misrounded |= below > 2.0**-11 * (1 + 2.0**-20)
            assert misrounded.mean() <= HALF_MISROUNDED, (kind, misrounded.sum(), at[misrounded][:5])


# each with a function of its own, whose first bfloat16 this is
FIRST_CALLS = {
    "array": "fa.relu(xb)",
    "out": "fa.relu6(xb, out=np.empty_like(xb))",
    "dtype": "fa.selu(x, dtype=bfloat16)",
    "array and dtype": "fa.tanh(xb, dtype=bfloat16)",
    "ufunc": "fa.sigmoid.ufunc(xb)",
    "ufunc and signature": "fa.softsign.ufunc(xb, signature=(bfloat16, bfloat16), out=np.empty_like(xb))",
    "parameter": "fa.elu(xb, alpha=xb)",
    "two outputs": "fa.gelu.value_and_grad(xb, dtype=bfloat16)[1]",
    "rows": "fa.softmax(xb)",
    "rows and dtype": "fa.log_softmax(xb, dtype=bfloat16)",
    "rows, mask and dtype": "fa.softmin(xb, where=x > 1, dtype=bfloat16, out=np.empty_like(xb))",
    "rows, gufunc": "fa.logsumexp.ufunc(xb)",
    "rows, two arrays": "fa.softmax.backward(xb, xb)",
    "rows, axes": "fa.sparsemax(xb, axis=None)",
    "loss": "fa.softmax_cross_entropy.value_and_grad(xb, 0)[1]",
    "explain": "(fa.explain(fa.mish, xb), xb)[1]",
}


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=lambda d: d.name)
def test_conversions_of_the_driver(dtype, driver_isa):
    """Every pattern widened; products narrowed: overflow, subnormals, ties, NaN; every length at the end of a tile."""
    rng = np.random.default_rng(0)
    x = np.concatenate([PATTERNS, PATTERNS]).view(dtype)
    up = np.concatenate(
        [np.full(65536, 0x3C00 if dtype == np.float16 else 0x3F80, np.uint16), rng.permutation(PATTERNS)]
    )
    up = up.view(dtype)
    with np.errstate(all="ignore"):
        want = (x.astype(np.float32) * up.astype(np.float32)).astype(dtype)
    got = fa.identity.gated(x, up)
    nan = np.isnan(want)
    assert (np.isnan(got) == nan).all()
    assert (got.view(np.uint16)[~nan] == want.view(np.uint16)[~nan]).all()
    if dtype == np.float16:
        assert (got.view(np.uint16)[nan] & 0x7FFF == 0x7E00).all()
    for n in (*range(68), 511, 512, 513, 1100):
        memory = np.zeros(n + 2, dtype)
        fa.identity.gated(x[-n - 70 : -70], up[-n - 70 : -70], out=memory[1:-1])
        same = memory[1:-1].view(np.uint16) == got[-n - 70 : -70].view(np.uint16)
        assert (same | nan[-n - 70 : -70]).all()
        assert memory[0] == memory[-1] == 0


def test_bfloat16_that_comes_along_later():
    """ml_dtypes imported after the ufuncs were made."""
    code = f"""
import numpy as np, fastact as fa
x = np.float32([1, 2, 3])
calls = {FIRST_CALLS!r}
made = [(f, f.function) for f in (*fa.activations.values(), fa.softmax, fa.log_softmax, fa.softmin, fa.logsumexp)]
from ml_dtypes import bfloat16
xb = x.astype(bfloat16)
for name, call in calls.items():
    for _ in range(2):
        got = eval(call)
        assert got.dtype == bfloat16, (name, got.dtype)
assert fa.relu(xb, dtype=np.float32).dtype == fa.relu.backward(xb, x).dtype == np.float32
"""
    python(code)
