"""Where CUDA can be used and why not, `use_backend("cuda")`, `explain` and `info`, in the simulator of kernels."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from cuda_calls import assert_same, error_of, on_device, placed, simulated  # noqa: F401
from cuda_stand_in import run as run_with_stand_in
from cuda_stand_in import skip_reason
from subprocesses import python
from ulp import BFLOAT16

import fastact as fa
from fastact import backends
from fastact.api import device_explain
from fastact.backends import cuda as backend
from fastact.backends.cuda import cache, compile, launch, tables
from fastact.backends.cuda.launch import planned
from fastact.spec.kernel import kernel_of
from fastact.spec.table import OPS
from fastact.tools.cli import main

SIMULATOR = "Numba's simulator"


def some(shape, dtype=np.float32, seed=0):
    return placed(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


@pytest.fixture
def on_a_machine(monkeypatch):
    """No simulator; what this machine has is told by the test."""
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM")

    def having(driver=None, compiler="0.30.4", numpy="2.4.6", ptxas="/ptxas", disk=False):
        from fastact.backends.cuda import _launch

        monkeypatch.setattr(_launch, "why_not", lambda: driver)
        monkeypatch.setattr(backend, "compiler_version", lambda: compiler)
        monkeypatch.setattr(np, "__version__", numpy)
        monkeypatch.setattr(compile, "ptxas", lambda: ptxas)
        monkeypatch.setattr(backend, "_any_on_disk", lambda: disk)

    return having


# ---- available, and why not

NO_COMPILER = "numba-cuda is not installed (pip install fastact[cuda])"
OLD = "numba-cuda 0.30.4 does not import with NumPy 2.5.0: it asks for numpy.row_stack"


@pytest.mark.parametrize(
    ("has", "reason"),
    [
        ({}, None),
        ({"driver": "no NVIDIA driver"}, "no NVIDIA driver"),
        ({"compiler": None}, f"{NO_COMPILER}, and no kernel is on disk"),
        ({"compiler": None, "disk": True}, None),
        ({"numpy": "2.5.0"}, f"{OLD}, and no kernel is on disk"),
        ({"numpy": "2.5.0.dev0+git", "disk": True}, None),
        ({"numpy": "2.5.0", "compiler": "0.30.5"}, None),
        ({"numpy": "3.0.0rc1", "compiler": "1.0"}, None),
    ],
    ids=str,
)
def test_why_cuda_cannot_be_used(on_a_machine, has, reason):
    on_a_machine(**has)
    assert backend.available() == reason
    assert fa.dispatch.reasons()["cuda"] == reason
    assert fa.info()["backends"]["cuda"] == reason
    if reason is not None:
        assert error_of(fa.use_backend, "cuda") == (RuntimeError, f"backend 'cuda' is not available: {reason}")


def test_a_missing_ptxas_is_named(on_a_machine):
    on_a_machine(ptxas=None)
    assert "no ptxas" in backend.available()


def test_a_module_that_is_not_built_is_named():
    code = """
import sys
import fastact as fa
sys.modules["fastact.backends.cuda._launch"] = None
del sys.modules["fastact.backends.cuda"]._launch
print(fa.dispatch.reasons()["cuda"])
print(sorted(fa.info()["cuda"])[0])
"""
    lines = python(code, NUMBA_ENABLE_CUDASIM="0").splitlines()
    assert lines[0].startswith("not built: ")


def test_where_nothing_can_compile_a_kernel_the_call_says_why(on_a_machine):
    on_a_machine(compiler=None)
    spec = kernel_of(OPS["relu"], "forward", "float32")
    assert error_of(cache._loaded, (spec, "of this test"), lambda: None, (9, 0)) == (
        compile.CompilationError,
        NO_COMPILER,
    )


def test_without_a_driver_nothing_else_changes():
    code = """
import json, numpy as np, fastact as fa
x = np.float32([-1.0, 2.0])
found = [fa.relu(x).tolist(), fa.dispatch.backend(), fa.dispatch.reasons()["cuda"], fa.info()["cuda"]]
fa.explain(fa.relu, x)
print(json.dumps(found))
"""
    found = json.loads(python(code, NUMBA_ENABLE_CUDASIM="0", FASTACT_LIBCUDA="/nowhere/libcuda.so"))
    assert found[:2] == [[0.0, 2.0], fa.dispatch.backend()]
    assert "/nowhere/libcuda.so" in found[2]
    assert "driver" not in found[3]
    assert "devices" not in found[3]


@pytest.mark.skipif(skip_reason() is not None, reason=str(skip_reason()))
def test_info_with_a_driver(monkeypatch):
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM")
    found = json.loads(
        run_with_stand_in(
            """
            import json, fastact as fa
            print(json.dumps([fa.info()["cuda"], fa.dispatch.backends.get("cuda").isa()]))
            """
        ).splitlines()[-1]
    )
    assert re.fullmatch(r"CUDA \d+\.\d+", found[0]["driver"])
    assert all("compute capability" in name for name in found[0]["devices"].values())
    assert re.fullmatch(r"sm_\d+(, sm_\d+)*", found[1])


def test_in_the_simulator():
    assert backend.available() is None
    assert SIMULATOR in fa.info()["isa"]["cuda"]
    assert fa.info()["cuda"]["devices"] == {"0": SIMULATOR}


def test_nobody_gets_cuda_without_asking():
    assert "cuda" not in backends.ORDER
    assert fa.dispatch.backend() != "cuda"
    assert all(fa.dispatch.serving(kernel_of(op, "forward", "float32"))[0] != "cuda" for op in OPS.values())


def test_names_of_the_package_are_none_of_its_modules():
    """``from fastact.backends.cuda import cache`` would give the name and not the module."""
    from pathlib import Path

    modules = {file.stem for file in Path(backend.__file__).parent.glob("*.py")} - {"__init__"}
    code = """
import json, sys, fastact.backends.cuda as b
print(json.dumps([n for n in vars(b) if f"fastact.backends.cuda.{n}" not in sys.modules]))
"""
    assert modules.isdisjoint(json.loads(python(code)))


# ---- where the data lies decides


@pytest.mark.parametrize("name", ["reference", "cuda", "numba"])
def test_arrays_on_a_device_stay_there(name):
    if fa.dispatch.reasons()[name] is not None:
        pytest.skip(fa.dispatch.reasons()[name])
    x = some((5, 7))
    want = fa.gelu(x)
    with fa.use_backend(name):
        d = on_device(x)
        found = fa.gelu(d)
        assert type(found) is type(d)
        assert_same(found, want)


# ---- arrays of NumPy, there and back

X = some((17, 41))
LABELS = np.arange(17) * 2
WEIGHT, BIAS = some((41,), seed=1), some((41,), seed=2)


def norm_backward(norm):
    def run(x):
        return norm.backward(x, x, norm.forward(x, WEIGHT)[1], WEIGHT)

    return run


# with the bits of the CPU; the others add in another order
SAME = {
    "forward": lambda x: fa.mish(x),
    "parameter": lambda x: fa.elu(x, alpha=0.3),
    "array of parameters": lambda x: fa.elu(x, alpha=np.abs(BIAS)),
    "backward": lambda x: fa.gelu.backward(x, x),
    "both": lambda x: fa.tanh.value_and_grad(x),
    "strided": lambda x: fa.gelu(x[::2, ::3].T),
    "out": lambda x: fa.gelu(x, out=x.copy()),
    "where": lambda x: fa.gelu(x, where=x > 0, out=x.copy()),
    "one": lambda x: fa.gelu(x[0, 0]),
    "none": lambda x: fa.gelu(x[:0]),
    "integers": lambda x: fa.gelu(np.arange(5)),
    "ufunc": lambda x: fa.gelu.ufunc(x),
    "biased": lambda x: fa.gelu.biased(x, BIAS),
    "biased backward": lambda x: fa.gelu.biased_backward(x, x, BIAS),
    "first axis": lambda x: fa.gelu.biased_backward(x, x, x[:, 0], axis=0),
    "gated": lambda x: fa.silu.gated_backward(x, x, x),
    "fused": lambda x: fa.gelu.fused(x, BIAS, residual=x, dropout=0.3, seed=3),
    "fused backward": lambda x: fa.gelu.fused_backward(x, x, BIAS, dropout=0.3, seed=3),
    "dropout": lambda x: fa.dropout(x, 0.3, seed=1),
    "empty sum": lambda x: fa.logsumexp(x[:, :0]),
}
CLOSE = {
    "softmax": lambda x: fa.softmax(x),
    "axis": lambda x: fa.log_softmax(x, axis=0),
    "causal": lambda x: fa.softmax(x, scale=0.5, causal=True),
    "bias": lambda x: fa.softmax(x, bias=x[:1]),
    "causal backward": lambda x: fa.softmax.backward(x, x, scale=0.5, causal=True),
    "sum": lambda x: fa.logsumexp(x, where=x > 0),
    "labels": lambda x: fa.softmax_cross_entropy.value_and_grad(x, LABELS),
    "all of a loss": lambda x: fa.softmax_cross_entropy.value_and_grad(
        x, np.where(LABELS == 4, -1, LABELS), weight=np.abs(BIAS), label_smoothing=0.1, z_loss=0.1, ignore_index=-1
    ),
    "probabilities": lambda x: fa.softmax_cross_entropy.value_and_grad(x, fa.softmax(x)),
    "mean": lambda x: fa.mse_loss.value_and_grad(x, x + 1),
    "layer_norm": lambda x: fa.layer_norm(x, WEIGHT, BIAS),
    "layer_norm backward": norm_backward(fa.layer_norm),
    "rms_norm backward": norm_backward(fa.rms_norm),
    "group_norm": lambda x: fa.group_norm(x.reshape(1, 17, 41)[:, :16], 4),
}


def several(found):
    return [a for a in (found if isinstance(found, tuple) else (found,)) if a is not None]


@pytest.mark.parametrize("case", SAME)
@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BFLOAT16], ids=lambda d: d.name)
def test_use_backend_has_the_bits_of_the_host(case, dtype):
    x = X.astype(dtype)
    want = SAME[case](x)
    with fa.use_backend("cuda"):
        assert_same(SAME[case](x), want)


@pytest.mark.parametrize("case", CLOSE)
def test_use_backend_is_close_to_the_host(case):
    want = several(CLOSE[case](X))
    with fa.use_backend("cuda"):
        found = several(CLOSE[case](X))
    assert len(found) == len(want)
    for a, b in zip(found, want):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_allclose(a, b, rtol=3e-6, atol=3e-6)


def test_kernels_run_where_they_were_asked_for(monkeypatch):
    names = []
    run = launch.run
    monkeypatch.setattr(launch, "run", lambda key, make, *rest: (names.append(key), run(key, make, *rest)))
    with fa.use_backend("cuda"):
        fa.gelu(X)
        assert names
        names.clear()
        fa.softmax(X)
        assert names
    names.clear()
    fa.gelu(X)
    fa.softmax(X)
    assert not names


def test_optimisers_of_arrays_of_the_host():
    def run():
        p, q = [X.copy(), BIAS.copy()], [X.astype(np.float16), BIAS.astype(np.float16)]
        norms = []
        for params, master in ((p, False), (q, True)):
            optimiser = fa.optim.AdamW(params, 0.1, master=master)
            norms += [optimiser.step([np.ones_like(a) for a in params], max_norm=0.5) for _ in range(2)]
        return (*p, *q), norms

    want = run()
    with fa.use_backend("cuda"):
        found = run()
    assert_same(found[0], want[0])
    assert found[1] == want[1]


def test_explain_says_that_arrays_are_copied():
    with fa.use_backend("cuda"):
        text = fa.explain(fa.gelu, X)
    assert text.splitlines()[1:] == [
        "backend: cuda (asked for)",
        f"isa: {backend.isa()}",
        "copies: arrays of NumPy to device 0 and results back, in each call, which waits for them",
    ]


def test_warmup_has_nothing_to_compile_ahead(capsys):
    with fa.use_backend("cuda"):
        with pytest.raises(RuntimeError, match="depend on how arrays lie"):
            fa.warmup("relu", "forward")
        with pytest.raises(SystemExit, match="2"):
            main(["warmup", "relu"])
    assert "depend on how" in capsys.readouterr().err


# ---- explain


def kernel_lines(function, *arrays, **keywords):
    lines = fa.explain(function, *arrays, **keywords).splitlines()
    assert lines[1:4] == [
        "backend: cuda (the data is there: an array of Numba's simulator)",
        f"isa: {backend.isa()}",
        f"device: 0, {SIMULATOR}",
    ]
    assert all(line.startswith("kernel: ") for line in lines[4:])
    return lines[0], lines[4:]


@pytest.mark.parametrize(
    ("form", "call"),
    [
        ("vector", lambda: (fa.gelu, on_device(some(1030)))),
        ("strided", lambda: (fa.gelu, on_device(some((9, 8)).T))),
        ("columns", lambda: (fa.gelu.biased, on_device(some((9, 8))), on_device(some(8)))),
        ("registers", lambda: (fa.softmax, on_device(some((9, 80))))),
        ("shared", lambda: (fa.softmax, on_device(np.zeros((65, 40008), BFLOAT16)))),
        ("again", lambda: (fa.softmax, on_device(np.zeros((65, 70001), np.float32)))),
        ("parts", lambda: (fa.softmax, on_device(np.zeros((1, 70000), np.float32)))),
        ("table", lambda: (fa.gelu, on_device(np.zeros(1 << 22, np.float16)))),
    ],
)
def test_explain_names_the_form(form, call):
    head, lines = kernel_lines(*call())
    assert head.startswith(call()[0].__name__)
    assert f"form {form} ({device_explain.FORMS[form]})" in lines[0]
    assert re.search(r", grid \d+, block \d+", lines[0])


def test_explain_tells_of_every_form():
    """Names of forms stand in the keys of kernels."""
    with planned() as log:
        for call in (
            lambda d: fa.gelu.biased_backward(d, d, d[0]),
            lambda d: fa.rms_norm(d),
            lambda d: fa.dropout(d, 0.5, seed=1),
        ):
            call(on_device(some((9, 8))))
    assert log
    assert [one.key for one in log if not device_explain._form(one.key)] == []


def test_explain_computes_nothing():
    x, out = some((9, 8)), some((9, 8), seed=1)
    d, there = on_device(x), on_device(out)
    fa.explain(fa.gelu, d, out=there)
    fa.explain("softmax", d, out=there)
    assert_same(there, out)
    p = on_device(x)
    head, lines = kernel_lines(fa.optim.sgd_, p, lr=0.1, momentum=0.5)
    assert head == "SGD step, 72 elements of float32"
    assert [line.split(",")[0] for line in lines] == ["kernel: sgd_momentum_list_float32_float32"]
    assert kernel_lines("Adam", on_device(x[:0]))[1] == [device_explain.NOTHING]
    assert_same(p, x)


def test_explain_leaves_no_table_that_was_never_filled(monkeypatch):
    monkeypatch.setattr(tables, "_tables", {})
    d = on_device(np.zeros(1 << 22, np.float16))
    fa.explain(fa.mish, d)
    assert not tables._tables


@pytest.mark.skipif(skip_reason() is not None, reason=str(skip_reason()))
def test_explain_launches_nothing_of_plain_calls(monkeypatch):
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM")
    run_with_stand_in(
        """
import cuda_arrays as A
import fastact as fa
from fastact.backends.cuda import cache

cache.handle = lambda key, make, device, shared=0: kernel("nothing", len(make().slots))
A.torch.empty_like = lambda x: A.Tensor(tuple(x.shape), x.dtype.name, x.get_device())
A.Tensor.is_contiguous = lambda self: True
A.Tensor.numel = lambda self: __import__("math").prod(self.shape)
x = A.Tensor((16,), "float32")
for _ in range(2):
    fa.gelu(x)
    fa.mish.value_and_grad(x)
assert len(launches()) == 4
text = fa.explain(fa.gelu, x) + fa.explain("mish.value_and_grad", x)
assert "gelu_forward_float32_vector" in text and "mish_value_and_grad_float32_vector" in text, text
assert "a PyTorch tensor on cuda:0" in text and "compute capability" in text, text
assert not launches()
""",
        devices=1,
    )


def test_explain_of_a_loss():
    d = on_device(some((4, 5)))
    head, lines = kernel_lines(fa.mse_loss.value_and_grad, d, d)
    assert head == "mse_loss.value_and_grad, 20 elements of float32"
    assert len(lines) > 1


def test_explain_of_an_optimiser():
    head, lines = kernel_lines(fa.optim.AdamW([on_device(some(5000)), on_device(some(3))]))
    assert head == "AdamW step, 5003 elements of float32 in 2 arrays"
    assert len(lines) == 1
    assert lines[0].endswith("grid 3, block 256")
    assert "adamw_list_float32_float32" in lines[0]


def test_explain_refuses_what_the_call_would():
    d = on_device(some((3, 4)))
    for function, arrays in (
        (fa.gelu, (d, d, d)),
        (fa.softmax.backward, (d, X)),
        (fa.relu.backward, (d, on_device(X))),
    ):
        assert error_of(fa.explain, function, *arrays) == error_of(function, *arrays)
    with pytest.raises(TypeError):
        fa.explain(len, d)
    assert launch.planning() is False
