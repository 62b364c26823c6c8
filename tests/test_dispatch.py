"""Choosing backends and threads, and saying why."""

from importlib.util import find_spec

import numpy as np
import pytest
from subprocesses import PACKAGE, python

import fastact as fa
from fastact.api.functions import FUNCTIONS
from fastact.api.gated_units import GATED_UNITS
from fastact.backends import READY
from fastact.spec import optimisers
from fastact.spec.kernel import row_kernels_of
from fastact.spec.kinds import kernels_of
from fastact.spec.rows import ROWS
from fastact.spec.table import kernel_rows

X = np.linspace(-3, 3, 1 << 20, dtype=np.float32)


def present():
    return [name for name, reason in fa.dispatch.reasons().items() if reason is None]


def test_use_backend_as_function_and_context_manager():
    before = fa.dispatch.selected()
    try:
        fa.use_backend("reference")
        assert fa.dispatch.backend() == "reference"
        with fa.use_backend("auto"):
            assert fa.dispatch.selected() == "auto"
            with fa.use_backend("reference"):
                assert fa.dispatch.backend() == "reference"
            assert fa.dispatch.selected() == "auto"
        assert fa.dispatch.selected() == "reference"
    finally:
        fa.use_backend(before)
    assert fa.dispatch.selected() == before


def test_context_manager_puts_back_after_an_error():
    before = fa.dispatch.selected()
    with pytest.raises(KeyError), fa.use_backend("reference"):
        raise KeyError
    assert fa.dispatch.selected() == before


def test_auto_takes_the_first_available():
    with fa.use_backend("auto"):
        assert fa.dispatch.backend() == next(b for b in ("numba", "cython", "reference") if b in present())


def test_the_backend_in_use_computes():
    """Not the one resolved at an earlier call."""
    x = X[:1000]
    for name in present():
        with fa.use_backend(name):
            fa.gelu(x)
            assert f"backend: {name} (asked for)" in fa.explain(fa.gelu, x)
            address = fa.gelu.function.address("float32")
            assert (address == 0) == (name == "reference")


def test_explain_tells_size_dtype_kind_and_threads(threads):
    threads(2)
    name = next(b for b in ("numba", "cython", "reference") if b in present())
    with fa.use_backend(name):
        small = fa.explain(fa.elu, X[:2])
        assert "elu forward" in small
        assert "2 elements of float32" in small
        assert "threads: 1 " in small
        large = fa.explain(fa.elu.backward, X, X)
        assert "elu backward" in large
        assert f"{X.size} elements of float32" in large
        assert "threads: 1 " in large or name != "reference"
        assert "up to 2" in large or name == "reference"
        assert "float64" in fa.explain(fa.tanh, np.arange(5))
        assert f"{12 * 5} elements" in fa.explain(fa.tanh.backward, np.zeros((12, 1)), np.zeros(5))


def test_explain_says_why_a_better_backend_is_passed_over(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    with fa.use_backend("auto"):
        text = fa.explain(fa.elu, X[:2])
    assert f"numba: {'NUMBA_DISABLE_JIT is set' if find_spec('numba') else 'numba is not installed'}" in text


def test_explain_tells_of_the_kernel_that_the_call_runs(monkeypatch):
    """With its parameters, in the dtype that they give."""
    asked = []
    numba = fa.dispatch.backends.get("numba")
    monkeypatch.setattr(numba, "state", lambda spec: asked.append((spec.name, spec.dtype)) or READY)
    monkeypatch.setattr(numba, "available", lambda: None)
    monkeypatch.setattr(numba, "isa", lambda: "any")
    x = X[:6].reshape(2, 3)
    with fa.use_backend("auto"):
        for call, expected in (
            ((fa.silu, x), ("silu_default_forward", "float32")),
            ((fa.prelu, x, 0.5), ("prelu_forward", "float32")),
            ((fa.leaky_relu, x, np.float64([0.5])), ("leaky_relu_forward", "float64")),
            ((fa.softmax, x), ("softmax", "float32")),
            ((fa.softmax.backward, x.astype(np.float16), x.astype(np.float16)), ("softmax_backward", "float32")),
            ((fa.logsumexp, x.astype(int), None), ("logsumexp", "float64")),
            ((fa.softmax_cross_entropy, x, [0, 1]), ("cross_entropy", "float32")),
            ((fa.softmax_cross_entropy.value_and_grad, x, x), ("cross_entropy_of_shares", "float32")),
            ((fa.sigmoid_cross_entropy, x, x > 0), ("sigmoid_cross_entropy", "float32")),
        ):
            fa.explain(*call)
            assert asked.pop() == expected
        fa.explain(fa.silu, x, beta=1.0)
        assert asked.pop() == ("silu_forward", "float32")
        fa.explain(fa.gelu, x, approximate="tanh")
        assert asked.pop() == ("gelu_tanh_forward", "float32")
        fa.explain(fa.softmax_cross_entropy, x, [0, 1], label_smoothing=0.1)
        assert asked.pop() == ("cross_entropy", "float32")


@pytest.mark.parametrize("backend_name", present())
def test_explain_tells_of_what_has_no_kernel(backend_name, threads):
    threads(2)
    x, labels = X.reshape(1024, 1024), np.zeros(1024, int)
    with fa.use_backend(backend_name):
        text = fa.explain(fa.nll_loss.value_and_grad, x, labels)
        assert text.startswith("nll_loss value_and_grad, 1048576 elements of float32 in 1024 rows\nbackend: driver (it")
        assert "threads: up to 2" in text
        assert "nll_loss forward, 6 elements of float16 in 2 rows" in fa.explain(
            "nll_loss", np.ones((3, 2), np.float16), [0, 1], axis=0
        )
        assert fa.explain("nll_loss").startswith("nll_loss forward, 0 elements")
        assert fa.warmup("nll_loss") == 0


def test_explain_tells_of_rows(threads):
    threads(2)
    name = next(b for b in ("numba", "cython", "reference") if b in present())
    x = X.reshape(1024, 1024)
    with fa.use_backend(name):
        assert "softmax forward, 1048576 elements of float32 in 1024 rows" in fa.explain(fa.softmax, x)
        assert "in 1 row\n" in fa.explain(fa.softmax, x, axis=None)
        assert "in 512 rows" in fa.explain(fa.log_softmax, x[:2].reshape(2, 512, 2), (0, 2))
        assert "softmin backward, 8 elements of float64 in 4 rows" in fa.explain(
            fa.softmin.backward, np.ones((2, 4)), [0, 0, 0, 0], axis=0
        )
        assert "logsumexp forward, 6 elements of float16 in 3 rows" in fa.explain(
            fa.logsumexp, np.ones((3, 2), np.float16)
        )
        loss = fa.explain(fa.softmax_cross_entropy.value_and_grad, x, np.zeros(1024, int))
        assert "softmax_cross_entropy value_and_grad, 1048576 elements of float32 in 1024 rows" in loss
        if name != "reference":
            assert "up to 2" in fa.explain(fa.softmax, x)
            assert "threads: 1 (a row is not divided up to 65536 elements)" in fa.explain(fa.softmax, x[:60], axis=None)
            assert "up to 2" in fa.explain(fa.softmax, x, axis=None)
            assert "threads: 1 (a row is not divided)" in fa.explain(fa.sparsemax, x, axis=None)
            assert "threads: 1 (below" in fa.explain(fa.softmax, x[:1, :8])
            assert "through the cache (4194304 bytes" in fa.explain(fa.softmax, x)
            assert "never" in loss
            assert "bytes of output" in fa.explain(fa.softmax.backward, x, x)


def test_explain_takes_names():
    for name, function in {**fa.activations, **FUNCTIONS}.items():
        assert fa.explain(name) == fa.explain(function)
        for kind in ("backward", "backward_from_output", "value_and_grad"):
            if hasattr(function, kind):
                assert fa.explain(f"{name}.{kind}") == fa.explain(getattr(function, kind))
    assert fa.explain("LogSoftmax") == fa.explain(fa.log_softmax)
    with pytest.raises(ValueError, match="softmax"):
        fa.explain("sofmax")
    with pytest.raises(ValueError, match="no method 'backward_from_output'; it has backward, value_and_grad"):
        fa.explain("gelu.backward_from_output")
    with pytest.raises(ValueError, match="value_and_grad"):
        fa.explain("softmax_cross_entropy.backward")


@pytest.mark.parametrize("bad", [np.tanh, None, fa.elu.address, fa.softmax.ufunc])
def test_explain_refuses_what_is_no_function_of_fastact(bad):
    with pytest.raises(TypeError, match="explain takes"):
        fa.explain(bad, X[:2])


def test_explain_refuses_what_the_call_would():
    for function in (fa.elu, fa.softmax, fa.logsumexp):
        with pytest.raises(TypeError, match="complex"):
            fa.explain(function, X[:2].astype(complex))
    for function in (fa.elu, fa.softmax):
        with pytest.raises(ValueError):
            fa.explain(function.backward, X[:2], X[:3])
    with pytest.raises(np.exceptions.AxisError):
        fa.explain(fa.softmax, X[:2], axis=1)
    with pytest.raises(TypeError, match="temperature"):
        fa.explain(fa.softmax_cross_entropy, X[:2], 0, temperature=2)


def test_warmup_leaves_nothing_to_compile():
    if "numba" not in present():
        pytest.skip(f"only Numba compiles: {fa.dispatch.reasons()['numba']}")
    with fa.use_backend("numba"):
        assert fa.warmup(["mish", "hardtanh"], ["forward", "backward"], ["float32", "float64"]) == 8
        before = fa.info()["kernels compiled"], fa.info()["kernels from disk"]
        for dtype in (np.float32, np.float64):
            for activation in (fa.mish, fa.hard_tanh):
                activation(np.ones(3, dtype))
                activation.backward(np.ones(3, dtype), np.ones(3, dtype))
        assert (fa.info()["kernels compiled"], fa.info()["kernels from disk"]) == before


def test_warmup_of_functions_over_an_axis():
    if "numba" not in present():
        pytest.skip(f"only Numba compiles: {fa.dispatch.reasons()['numba']}")
    x, labels = np.ones((2, 3), np.float32), np.array([0, 1])
    with fa.use_backend("numba"):
        assert fa.warmup("LogSoftmax") == 6
        assert fa.warmup(["softmax", "logsumexp"], "forward", ["float32", "float16"]) == 5
        assert fa.warmup(["softmax_cross_entropy", "sigmoid_cross_entropy"], ["value_and_grad"]) == 5
        assert fa.warmup("softmax", "value_and_grad") == 0
        before = fa.info()["kernels compiled"], fa.info()["kernels from disk"]
        fa.log_softmax.backward(x, fa.log_softmax(x))
        fa.logsumexp(x.astype(np.float16))
        for smoothing in (0.0, 0.1):
            fa.softmax_cross_entropy.value_and_grad(x, labels, label_smoothing=smoothing)
        fa.sigmoid_cross_entropy(x, x)
        assert (fa.info()["kernels compiled"], fa.info()["kernels from disk"]) == before


# kinds of the identity that batch_norm is made of
OF_CHANNELS = ("moments", "scaled", "scaled_sums", "scaled_gradient")


def test_every_row_kernel_belongs_to_a_function():
    kinds = ("forward", "backward", "value_and_grad", *fa.dispatch.SCALED)
    specs = {spec for f in FUNCTIONS.values() for kind in kinds for spec in f.kernels(kind, "float32")}
    rows = {spec.name for name in ROWS for spec in row_kernels_of(name, "float32")}
    assert {spec.name for spec in specs if spec.loop != "map"} == rows
    gated = {f"{f.op.name}_{kind}" for f in GATED_UNITS.values() for kind in ("gated", "gated_backward")}
    of_channels = {f"identity_{kind}" for kind in OF_CHANNELS}
    assert {spec.name for spec in specs if spec.loop == "map"} == gated | of_channels | {
        "prelu_forward",
        "prelu_backward",
    }


@pytest.mark.parametrize("backend_name", ["cython", "reference"])
def test_warmup_where_nothing_is_compiled(backend_name):
    if backend_name not in present():
        pytest.skip(fa.dispatch.reasons()[backend_name])
    with fa.use_backend(backend_name):
        over_rows = sum(len(row.forms) for row in ROWS.values())
        scaled = fa.warmup("softmax", fa.dispatch.SCALED)
        of_units = 2 * len(GATED_UNITS)
        steps = sum(len(row.rules) for row in optimisers.ROWS.values())
        of_activations = sum(len(kernels_of(op)) for op in kernel_rows())
        assert fa.warmup() == over_rows - scaled + of_units + len(OF_CHANNELS) + of_activations + steps


@pytest.mark.parametrize("backend_name", fa.backends.ORDER)
def test_warmup_of_fused_kinds(backend_name):
    if backend_name not in present():
        pytest.skip(fa.dispatch.reasons()[backend_name])
    with fa.use_backend(backend_name):
        assert fa.warmup("silu", ["biased", "gated_backward"]) == 4  # of silu with beta and at its default
        assert fa.warmup("gelu", "biased", ["float16", "bfloat16", "float32"]) == 1  # they compute in float32


def test_a_backend_without_a_fused_kind_says_so(monkeypatch):
    if "cython" not in present():
        pytest.skip(fa.dispatch.reasons()["cython"])
    monkeypatch.setattr(fa.backends.cython_aot, "state", lambda spec: fa.backends.absent("left out"))
    x, b = np.ones((2, 3), np.float32), np.ones(3, np.float32)
    with fa.use_backend("cython"):
        with pytest.raises(RuntimeError, match="'cython' has no kernel gelu_biased_float32: left out"):
            fa.gelu.biased(x, b)
        with pytest.raises(RuntimeError, match="'cython' has no kernel gelu_biased_float32: left out"):
            fa.warmup("gelu", "biased")


@pytest.mark.parametrize("bad", [{"names": ["mush"]}, {"kinds": ["sideways"]}, {"dtypes": ["int8"]}])
def test_warmup_names_what_it_does_not_know(bad):
    with pytest.raises(ValueError, match=next(iter(bad.values()))[0]):
        fa.warmup(**bad)


def test_info_holds_what_a_bug_report_needs():
    info = fa.info()
    assert info["version"] == fa.__version__
    assert info["numpy"] == np.__version__
    assert info["threads"] == fa.get_num_threads()
    assert set(info["backends"]) >= {"numba", "cython", "reference", "cuda"}


def test_threads_are_used_and_put_back(threads):
    threads(3)
    assert fa.get_num_threads() == 3
    threads(1)
    assert fa.get_num_threads() == 1


def test_no_more_threads_than_the_pool_can_have(threads):
    source = (PACKAGE / "runtime" / "pool.h").read_text(encoding="utf-8")
    assert f"#define FASTACT_MAX_THREADS {fa.dispatch.MAX_THREADS}\n" in source
    for asked in (fa.dispatch.MAX_THREADS + 1, 10**9, 10**20):
        threads(asked)
        assert fa.get_num_threads() == fa.dispatch.MAX_THREADS
    code = "import fastact as fa; print(fa.get_num_threads())"
    assert python(code, FASTACT_NUM_THREADS=str(10**20)).strip() == str(fa.dispatch.MAX_THREADS)


def test_thresholds_are_those_of_the_kind_of_cpu():
    known = fa.dispatch._thresholds
    assert fa.dispatch.OTHER in known
    for limits in known.values():
        assert limits.keys() == {"parallel_min_bytes", "asleep_factor", "asleep_most_bytes", "stream_min_bytes"}
        assert limits["parallel_min_bytes"].keys() == {"cheap", "costly"}
    kinds = fa.dispatch.kinds_of_cpu()
    assert all(kind.startswith(kinds[1]) for kind in kinds)
    said = fa.info()["thresholds of"]
    if not set(kinds) & known.keys():
        assert said == f"{fa.dispatch.nearest_measured(kinds)}, this CPU was not measured"
    else:
        assert said in kinds


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("GenuineIntel 6 207", "GenuineIntel 6"), "GenuineIntel 6 207"),
        (("GenuineIntel 6 85", "GenuineIntel 6"), "GenuineIntel 6 207"),
        (("AuthenticAMD 26 2", "AuthenticAMD 26"), "AuthenticAMD 26"),
        (("AuthenticAMD 23 49", "AuthenticAMD 23"), fa.dispatch.OTHER),
        (("CentaurHauls 7 59", "CentaurHauls 7"), fa.dispatch.OTHER),
        ((), fa.dispatch.OTHER),
    ],
)
def test_a_cpu_that_nobody_has_measured_takes_its_vendors_thresholds(kinds, expected):
    assert fa.dispatch.nearest_measured(kinds) == expected
