"""float16 and bfloat16: all 65536 patterns, correctly rounded but for one in a thousand, never more than 1 ULP off."""

import numpy as np
import oracle
import pytest
from cases import call, each_case, kinds
from oracle import HALF_MISROUNDED, HALF_ULP, TRUTH, fast
from test_forward import case_text
from ulp import BFLOAT16, assert_within, errors, measure, outputs_like, poisoned

PATTERNS = np.arange(65536, dtype=np.uint16)


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=lambda d: d.name)
@each_case()
def test_every_pattern(name, case, dtype, backend):
    truth = TRUTH[name]
    rounded = oracle.parameters_as(dtype, case)
    x = PATTERNS.view(dtype)
    finite = np.isfinite(x)
    for kind in kinds(name, case):
        out = outputs_like(x, 2) if kind == "value_and_grad" else poisoned(x.shape, dtype)
        got = call(name, kind, x, case, out=out)
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
