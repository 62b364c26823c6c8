"""Choosing backends and threads, and saying why."""

from importlib.util import find_spec

import numpy as np
import pytest

import fastact as fa

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
            address = fa.gelu.slots.address("float32")
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


@pytest.mark.parametrize("bad", [np.tanh, "elu", None])
def test_explain_refuses_what_is_no_activation(bad):
    with pytest.raises(TypeError):
        fa.explain(bad, X[:2])


def test_explain_refuses_what_the_call_would():
    with pytest.raises(TypeError):
        fa.explain(fa.elu, X[:2].astype(complex))
    with pytest.raises(ValueError):
        fa.explain(fa.elu.backward, X[:2], X[:3])


def test_warmup_leaves_nothing_to_compile():
    if "numba" not in present():
        pytest.skip("only Numba compiles")
    with fa.use_backend("numba"):
        assert fa.warmup(["mish", "hardtanh"], ["forward", "backward"], ["float32", "float64"]) == 8
        before = fa.dispatch.info()["kernels compiled"], fa.dispatch.info()["kernels from disk"]
        for dtype in (np.float32, np.float64):
            for activation in (fa.mish, fa.hard_tanh):
                activation(np.ones(3, dtype))
                activation.backward(np.ones(3, dtype), np.ones(3, dtype))
        assert (fa.dispatch.info()["kernels compiled"], fa.dispatch.info()["kernels from disk"]) == before


@pytest.mark.parametrize("bad", [{"names": ["mush"]}, {"kinds": ["sideways"]}, {"dtypes": ["int8"]}])
def test_warmup_names_what_it_does_not_know(bad):
    with pytest.raises(ValueError, match=next(iter(bad.values()))[0]):
        fa.warmup(**bad)


def test_info_holds_what_a_bug_report_needs():
    info = fa.dispatch.info()
    assert info["version"] == fa.__version__
    assert info["numpy"] == np.__version__
    assert info["threads"] == fa.get_num_threads()
    assert set(info["backends"]) >= {"numba", "cython", "reference", "cuda"}


def test_threads_are_used_and_put_back(threads):
    threads(3)
    assert fa.get_num_threads() == 3
    threads(1)
    assert fa.get_num_threads() == 1
