"""fastact bench, fastact verify, the float64 truth behind them, and the report."""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import oracle
import pytest
import ulp
from modules import load
from subprocesses import PACKAGE

import fastact as fa
from fastact.spec.table import OPS
from fastact.tools import bench, channels, losses, norms, optimisers, verify
from fastact.tools import peers as _peers
from fastact.tools import truth as _truth
from fastact.tools.fused import FUSIONS

# float32 ULP that the reference of `fastact verify` may be off
VALUE_SLACK, DERIVATIVE_SLACK = 2.0**-16, 2.0**-9
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CASES = [(name, case) for name, truth in oracle.TRUTH.items() for case in truth.cases]


def run(module, *argv: str) -> int:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return module.run(parser.parse_args(argv))


def of_checkout(name: str):
    return load(BENCHMARKS / f"{name}.py")


# the truth


def test_truth_covers_the_table():
    assert set(_truth.TRUTH) == set(OPS)


def off(got, want) -> float:
    """Largest difference in ULP of float32, where both are finite."""
    with np.errstate(all="ignore"):
        error = np.abs(got - want) / ulp.ulp_of(want, np.float32)
    assert np.array_equal(np.isnan(got), np.isnan(want))
    return float(np.max(error[np.isfinite(want) & np.isfinite(got)], initial=0.0))


@pytest.mark.parametrize(("name", "case"), CASES, ids=str)
def test_truth_against_the_oracle(name, case):
    case = oracle.parameters_as(np.float32, case)
    x = np.concatenate([ulp.sample(np.float32, -1e38, 1e38, 4096), ulp.sample(np.float32, -20.0, 20.0, 4096)])
    with np.errstate(all="ignore"):
        mine, theirs = _truth.TRUTH[name], oracle.TRUTH[name]
        x64 = x.astype(np.float64)
        assert off(mine.value(x64, **case), oracle.fast(theirs.value, x, case)) <= VALUE_SLACK
        assert off(mine.derivative(x64, **case), oracle.fast(theirs.derivative, x, case)) <= DERIVATIVE_SLACK


@pytest.mark.parametrize(
    "name", ["gelu", "gelu_tanh", "mish", "silu", "softplus", "tanh_shrink", "dish", "squareplus", "elu"]
)
def test_truth_against_mpmath(name):
    # a grid, and the tails
    x = np.concatenate([np.linspace(-13, 13, 53), [-1e-6, 1e-6, -0.59, 0.61, -14.1, -80.0, -1e4, 1e4]]).astype(
        np.float32
    )
    case = oracle.parameters_as(np.float32, oracle.TRUTH[name].cases[0])
    with np.errstate(all="ignore"):
        for function, truth, slack in (
            (_truth.TRUTH[name].value, oracle.TRUTH[name].value, VALUE_SLACK),
            (_truth.TRUTH[name].derivative, oracle.TRUTH[name].derivative, DERIVATIVE_SLACK),
        ):
            hi, _ = oracle.exact(truth, x, case)
            assert off(function(x.astype(np.float64), **case), hi) <= slack


# verify


def test_verify_counts_every_pattern_once():
    found, bounds = verify.verify("relu", dtype="float16")
    assert found.count == 2**16
    assert all(b.holds for b in bounds)


@pytest.mark.parametrize("kind", verify.KINDS)
@pytest.mark.parametrize(
    "name", sorted(name for name, op in OPS.items() if all(p.default is not None for p in op.params))
)
def test_verify_holds_on_a_sample(name, kind):
    _, bounds = verify.verify(name, kind, stride=2**16 + 1)
    assert all(b.holds for b in bounds), [b for b in bounds if not b.holds]


def test_verify_sees_a_wrong_result(monkeypatch, capsys):
    truth = _truth.TRUTH["sigmoid"]
    broken = _truth.Truth(lambda x: np.where(x == 1.5, 0.25, truth.value(x)), truth.derivative)
    monkeypatch.setitem(_truth.TRUTH, "sigmoid", broken)
    pattern = int(np.float32(1.5).view(np.uint32))
    stride = next(s for s in range(2**15, 0, -1) if pattern % s == 0)
    assert run(verify, "sigmoid", "--kind", "forward", "--stride", str(stride), "--json") == 1
    result = json.loads(capsys.readouterr().out)
    worst = result["kinds"]["forward"]["bounds"][0]
    assert not result["holds"] and not worst["holds"]
    assert worst["input"] == "0x3fc00000 (1.5)"
    assert worst["true"] == 0.25


def test_verify_sees_a_missing_nan(monkeypatch):
    monkeypatch.setattr(verify.Check, "compute", lambda self, x: np.nan_to_num(fa.relu(x)))
    _, bounds = verify.verify("relu", stride=2**12 + 1)
    assert [b.bound for b in bounds if not b.holds] == ["NaN or infinity out of place"]


def test_verify_prints_a_table(capsys):
    assert run(verify, "leaky_relu", "--stride", "1048577", "--param", "negative_slope=0.3") == 0
    text = capsys.readouterr().out
    assert "holds" in text and "missed" not in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nonsense"], "nonsense"),
        (["relu", "--param", "alpha=1"], "no parameter alpha"),
        (["elu", "--param", "alpha"], "NAME=NUMBER"),
        (["prelu"], "weight"),
        (["softplus", "--param", "beta=-1"], "beta"),
        (["relu", "--stride", "0"], "positive"),
        (["relu", "--dtype", "int8"], "int8"),
        (["relu", "--samples", "9"], "float64"),
        (["relu", "--samples", "9", "--dtype", "float64", "--stride", "3"], "--stride"),
        (["softmax", "--dtype", "float16"], "float32 and float64"),
        (["softmax", "--stride", "3"], "--samples"),
        (["huber_loss", "--param", "delta=2"], "--param"),
        (["logsumexp", "--kind", "backward"], "no backward"),
    ],
)
def test_verify_refuses(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        run(verify, *argv)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", verify.KINDS)
@pytest.mark.parametrize("name", ["mish"])
def test_verify_every_float32(name, kind):
    found, bounds = verify.verify(name, kind)
    assert found.count == 2**32
    assert all(b.holds for b in bounds), [b for b in bounds if not b.holds]


# bench


@pytest.fixture(scope="module")
def result():
    return bench.measure(["relu", "sigmoid", "softmax"], against=["numpy"], sizes=[64, 2048], threads=1, rounds=2)


def test_every_cell_is_measured(result):
    cells = {(r["op"], r["kind"], r["size"]) for r in result["cells"]}
    assert cells == {(op, kind, n) for op in ("relu", "sigmoid", "softmax") for kind in bench.KINDS for n in (64, 2048)}
    for row in result["cells"]:
        assert row["fastact"] > 0
        assert row["best_peer"] == "numpy"
        assert row["ratio"] == row["libraries"]["numpy"]["seconds"] / row["fastact"]
        assert not row["rejected"]
    assert set(result["small_calls"]["relu"]) == {"fastact", "numpy"}
    json.dumps(result)


def test_threads_are_as_before(result):
    assert (
        run(
            bench,
            "relu",
            "--kinds",
            "forward",
            "--against",
            "numpy",
            "--sizes",
            "64",
            "--rounds",
            "1",
            "--threads",
            "1",
        )
        == 0
    )


def test_summary(result):
    ratios = [r["ratio"] for r in result["cells"]]
    assert result["summary"]["geometric_mean"] == pytest.approx(np.exp(np.mean(np.log(ratios))))
    assert result["summary"]["worst"]["ratio"] == min(ratios)
    assert len(result["summary"]["slower"]) == sum(r < 1 for r in ratios)


def test_table_and_files(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    json_file, png = tmp_path / "run.json", tmp_path / "run.png"
    argv = ["relu", "--against", "numpy,scipy", "--sizes", "2^10", "--rounds", "1", "--json", json_file, "--plot", png]
    assert run(bench, *map(str, argv)) == 0
    assert "geometric mean" in capsys.readouterr().out
    assert {r["size"] for r in json.loads(json_file.read_text())["cells"]} == {1024}
    assert png.stat().st_size > 0


def test_the_picture_has_every_cell_and_can_be_read(result):
    pytest.importorskip("matplotlib")
    changed = copy.deepcopy(result)
    for row, ratio in zip(changed["cells"], [None, 8.0, 1 / 8, 1.0]):
        row["ratio"] = ratio
    figure = bench.picture_of(changed)
    figure.draw_without_rendering()
    texts = [text for axis in figure.axes for text in axis.texts]
    assert len(texts) == len(changed["cells"])
    assert "no other" in [text.get_text() for text in texts]
    colours = {text.get_text(): text.get_color() for text in texts}
    assert (colours["8.00"], colours["0.12"], colours["1.00"]) == ("white", "white", "black")
    for row in changed["cells"]:
        row["ratio"] = None
    bench.picture_of(changed).draw_without_rendering()


def test_missing_libraries_are_named(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))
    assert run(bench, "relu", "--kinds", "forward", "--against", "torch,numpy", "--sizes", "16", "--rounds", "1") == 0
    assert "torch: torch not installed" in capsys.readouterr().out


def test_a_wrong_peer_does_not_count(monkeypatch):
    def np_wrong(x, out, t):
        out[...] = 0.5

    monkeypatch.setitem(_peers.HOW["tanh"], "numpy forward", [np_wrong, _peers.np_tanh])
    row = bench.measure(["tanh"], ["forward"], ["numpy"], [64], rounds=1, threads=1)["cells"][0]
    assert list(row["libraries"]["numpy"]["forms"]) == ["np_tanh"]
    assert list(row["rejected"]) == ["numpy np_wrong"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nonsense"], "nonsense"),
        (["nonsense.biased"], "nonsense"),
        (["gelu.sideways"], "biased and gated"),
        (["gelu.biased", "--kinds", "backward"], "nothing to measure"),
        (["--against", "numpy,cupy"], "cupy"),
        (["--kinds", "sideways"], "sideways"),
        (["--sizes", "0"], "positive"),
        (["--sizes", "2^x"], "2^x"),
        (["--threads", "100000"], "CPUs"),
        (["--json", "/no/such/folder/x.json"], "no folder"),
        (["--dtype", "int8"], "int8"),
        (["mse_loss", "--layout", "strided"], "activations and softmax"),
    ],
)
def test_bench_refuses(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        run(bench, *argv)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_numpy_steps_are_right():
    """Every NumPy and SciPy step of the list computes its activation, in blocks and fused too."""
    libraries, _ = bench.load_peers(["numpy", "scipy"], 1)
    libraries.append(bench.Composed(1))
    ops = [op for op in _peers.HOW if op in OPS or op in bench.ROWS]
    ops += [f"{op}.{fusion}" for op in ops if op in OPS for fusion in FUSIONS]
    with np.errstate(all="ignore"):
        for cell in bench.cells(ops, bench.ALL_KINDS, [64, 2**16 + 2**10], np.dtype("float32")):
            for library in libraries:
                for form, call in library.forms(cell).items():
                    for memory in cell.results:
                        memory[...] = np.nan
                    assert bench.wrong(call(), cell) is None, (cell.op, cell.kind, form)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dropout_cells(dtype):
    """Whatever a library drops, it must be as much as it should, and the rest scaled."""
    libraries, _ = bench.load_peers(["numpy"], 1)
    libraries.append(bench.FastAct(1))
    for cell in bench.cells([bench.DROPOUT], bench.KINDS, [2**16 + 2**10], np.dtype(dtype)):
        for library in libraries:
            forms = library.forms(cell)
            assert forms
            for form, call in forms.items():
                cell.out[...] = np.nan
                assert bench.wrong(call(), cell) is None, (cell.kind, library.name, form)
        given = cell.x if cell.kind == "forward" else cell.dy
        assert bench.wrong(given * 2, cell) == "1.000 of all kept"
        assert bench.wrong(np.where(np.arange(given.size) % 2, given, 0), cell) == "other values"


@pytest.mark.parametrize("kind", bench.FUSED_KINDS)
def test_packed_cells(kind):
    cells = bench.cells(["silu.packed", "sigmoid.packed", "gelu.packed"], [kind], [64, 2**16], np.dtype("float32"))
    for cell in cells:
        (call,) = bench.FastAct(1).forms(cell).values()
        for memory in cell.results:
            memory[...] = np.nan
        assert bench.wrong(call(), cell) is None, cell.op
    with pytest.raises(RuntimeError, match="no gated unit of mish"):
        bench.FastAct(1).forms(next(bench.cells(["mish.packed"], [kind], [64], np.dtype("float32"))))


# fused functions


def biased(f, x, bias, *, axis=-1, out=None):
    return f(x + bias, out=out)


def biased_backward(f, dy, x, bias, *, axis=-1, out=None):
    dx, dbias = out
    return f.backward(dy, x + bias, out=dx), np.sum(dx, 0, out=dbias)


def gated(f, gate, up, *, out=None):
    return np.multiply(f(gate), up, out=out)


def gated_backward(f, dy, gate, up, *, out=None):
    dgate, dup = out
    return f.backward(dy * up, gate, out=dgate), np.multiply(dy, f(gate), out=dup)


@pytest.fixture(scope="module")
def plain_methods():
    """Fused functions in plain steps: what is tested here is the measuring."""
    with pytest.MonkeyPatch.context() as patch:
        for method in (biased, biased_backward, gated, gated_backward):
            patch.setattr(type(fa.gelu), method.__name__, method, raising=False)
        yield


@pytest.fixture(scope="module")
def fused_result(plain_methods):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "STREAM_SIZE", 4096)
        return bench.measure(["elu.biased", "silu.gated"], against=["numpy"], sizes=[512, 4096], threads=1, rounds=2)


def test_every_fused_cell_is_measured(fused_result):
    cells = {(r["op"], r["kind"], r["size"]) for r in fused_result["cells"]}
    ops = ("elu.biased", "silu.gated")
    assert cells == {(op, kind, n) for op in ops for kind in ("forward", "step") for n in (512, 4096)}
    assert fused_result["small_calls"] == {}
    for row in fused_result["cells"]:
        assert row["best_peer"] == "numpy"
        assert set(row["libraries"]) == {"fastact", "numpy", "composed"}
        assert not row["rejected"]
    json.dumps(fused_result)


def test_the_floor_counts_arrays(fused_result):
    copies = {("elu.biased", "forward"): 1, ("elu.biased", "step"): 2}
    copies |= {("silu.gated", "forward"): 1.5, ("silu.gated", "step"): 3}
    for row in fused_result["cells"]:
        if row["size"] < 4096:
            assert row["stream"] is None
            continue
        assert row["stream"]["floor"] == row["stream"]["seconds"] * copies[row["op"], row["kind"]]
        assert row["stream_share"] == row["stream"]["floor"] / row["fastact"]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_fused_truth_is_the_gradient(fusion):
    """The gradients of a cell are differences of its value, and a sum is over all rows, not the first."""
    cell = next(bench.cells([f"mish.{fusion}"], ["step"], [2**17], np.dtype("float32")))
    dy, x, second = (a.astype(np.float64) for a in (cell.dy, cell.x, cell.second))

    def loss(x, second):
        # by columns: each element of x, and of a gate's second argument, has an own one in the first row
        return (dy * FUSIONS[fusion].forward(_truth.TRUTH["mish"].value, x, second)).sum(0)

    h = np.zeros_like(x)
    h[0] = 1e-4
    whole = h[0] if second.ndim == 1 else h
    _, dx, dsecond = cell.expected
    np.testing.assert_allclose((loss(x + h, second) - loss(x - h, second)) / 2e-4, dx[0], rtol=1e-5, atol=1e-5)
    difference = (loss(x, second + whole) - loss(x, second - whole)) / 2e-4
    np.testing.assert_allclose(difference, np.atleast_2d(dsecond)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("index", range(3))
def test_a_wrong_gradient_does_not_count(index):
    cell = next(bench.cells(["silu.biased"], ["step"], [4096], np.dtype("float32")))
    results = list(bench.Composed(1).forms(cell)["out="]())
    assert bench.wrong(results, cell) is None
    assert bench.wrong(results[:2], cell) == "2 results"
    results[index] = results[index] * 1.1
    assert "relative error" in bench.wrong(results, cell)


def test_a_missing_method_is_named(monkeypatch):
    monkeypatch.setitem(fa.activations, "gelu", object())
    cell = next(bench.cells(["gelu.gated"], ["forward"], [64], np.dtype("float32")))
    with pytest.raises(RuntimeError, match=r"no gelu\.gated"):
        bench.FastAct(1).forms(cell)


def test_fused_on_the_command_line(plain_methods, tmp_path, capsys):
    file = tmp_path / "run.json"
    argv = ["silu.gated", "relu", "--kinds", "step,backward", "--against", "numpy", "--sizes", "2048", "--rounds", "1"]
    assert run(bench, *argv, "--json", str(file)) == 0
    assert "silu.gated" in capsys.readouterr().out
    cells = [(r["op"], r["kind"]) for r in json.loads(file.read_text())["cells"]]
    assert cells == [("silu.gated", "step"), ("relu", "backward")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch", "jax", "onnxruntime", "tensorflow"])
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("kind", bench.FUSED_KINDS)
def test_fused_peers_are_right(name, fusion, kind):
    loaded, missing = bench.load_peers([name], 1)
    if missing:
        pytest.skip(missing[name])
    for cell in bench.cells([f"silu.{fusion}"], [kind], [4096, 2**16 + 2**10], np.dtype("float32")):
        for form, call in loaded[0].forms(cell).items():
            for memory in cell.results:
                memory[...] = np.nan
            with loaded[0].mode(form):
                assert bench.wrong(call(), cell) is None, form
        assert not loaded[0].refused
        loaded[0].finish()


@pytest.mark.parametrize(
    "name",
    [
        "numpy",
        "numba",
        pytest.param("torch", marks=pytest.mark.torch),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("torch.compile", "jax", "tensorflow", "onnxruntime")),
    ],
)
@pytest.mark.parametrize("op", [*bench.STEPPED, bench.DROPOUT])
def test_peers_of_what_surrounds_activations_are_right(name, op):
    loaded, missing = bench.load_peers([name], 1)
    if missing:
        pytest.skip(missing[name])
    for cell in bench.cells([op], bench.ALL_KINDS, [4096, 2**16 + 2**10], np.dtype("float32")):
        forms = bench.forms_of(loaded[0], cell)
        # ONNX Runtime has no gradients and no statistics of a batch, and Numba's loops are of norms of rows
        of_elements = op in losses.ELEMENTWISE
        without = {
            "onnxruntime": cell.kind != "forward" or op in channels.OPS or of_elements,
            "tensorflow": of_elements,
            "numba": op not in norms.OPS,
        }
        assert forms or without.get(name)
        for form, call in forms.items():
            for memory in cell.results:
                memory[...] = np.nan
            with loaded[0].mode(form):
                assert bench.wrong(call(), cell) is None, form
        assert not loaded[0].refused
        loaded[0].finish()


def test_a_wrong_loss_does_not_count(monkeypatch):
    monkeypatch.setattr(losses, "FORMS", {**losses.FORMS, "numpy": lambda library, cell: {"none": lambda: 0.0}})
    (row,) = bench.measure(["cross_entropy"], ["forward"], ["numpy"], [4096], rounds=1, threads=1)["cells"]
    assert "relative error" in row["rejected"]["numpy none"]
    assert row["libraries"]["fastact"]["seconds"] > 0


# the report


def test_report_names_every_miss(result):
    report = of_checkout("report")
    slow = copy.deepcopy(result)
    row = slow["cells"][0]
    row["ratio"] = 0.5
    slow["summary"] = bench.summarise(slow)
    slow["small_calls"]["relu"]["fastact"] = 1e-6
    missed = report.misses(slow)
    assert any(line.startswith(bench.cell_name(row)) for line in missed)
    assert any("1.00 µs, target 0.6 µs" in line for line in missed)
    page = report.performance(slow, "run.json")
    assert all(line in page for line in missed)
    assert "| relu | forward |" in page


def test_report_of_a_run_that_meets_all(result):
    report = of_checkout("report")
    fast = copy.deepcopy(result)
    for row in fast["cells"]:
        row["ratio"] = 3.0
    fast["summary"] = bench.summarise(fast)
    fast["small_calls"]["relu"]["fastact"] = 0.4e-6
    assert report.misses(fast) == []
    assert "No target is missed." in report.performance(fast, "run.json")
    assert "3.0×" in report.readme(fast)


def test_report_of_fused_functions(result, fused_result):
    report = of_checkout("report")
    slow = copy.deepcopy(fused_result)
    row = slow["cells"][0]
    row["ratio"] = 0.5
    page = report.page(result, "run.json", slow, "fused.json")
    assert page.startswith(report.performance(result, "run.json"))
    section = page.partition("## Fused")[2]
    assert "`fused.json`" in section
    assert f"{bench.cell_name(row)}: 0.50 of the speed of the fastest other library" in section
    assert "| silu.gated | step | 2^12 |" in section


def test_performance_page_is_up_to_date(request):
    report = of_checkout("report")
    page = request.config.rootpath / "docs" / "performance.md"
    text = page.read_text()
    sources = [part for part in text.split("`") if part.endswith(".json")]
    runs = [(json.loads((request.config.rootpath / source).read_text()), source) for source in sources]
    assert report.page(*(part for run in runs for part in run)) == text


def test_picture_and_words_of_the_readme_are_up_to_date(request):
    report, chart = of_checkout("report"), of_checkout("chart")
    root = request.config.rootpath
    source = (root / "docs" / "performance.md").read_text().split("`")[3]
    run = json.loads((root / source).read_text())
    assert report.readme(run) in (root / "README.md").read_text(), "run python -m benchmarks.report with --readme"
    for theme in chart.THEMES:
        drawn = (root / "docs" / "images" / f"speed-{theme}.svg").read_text()
        assert chart.chart(run, theme) == drawn, "run python -m benchmarks.chart"


def test_steps_of_an_optimiser():
    result = bench.measure(["adam", "adam_mlp"], against=["numpy"], sizes=[64, 70_000], threads=1, rounds=1)
    found = [(row["op"], row["kind"], row["size"]) for row in result["cells"]]
    sizes = optimisers.MLP_SIZE
    assert sorted(found) == [("adam", "update", 64), ("adam", "update", 70_000), ("adam_mlp", "update", sizes)]
    assert len(optimisers.SHAPES) == 20
    for row in result["cells"]:
        assert {*row["libraries"]} == {"fastact", "numpy"}
        assert not row["rejected"]


@pytest.mark.parametrize("name", [pytest.param("torch", marks=pytest.mark.torch), "numba"])
def test_peers_take_the_same_steps(name):
    libraries, missing = bench.load_peers([name], 1)
    if missing:
        pytest.skip(str(missing))
    for cell in bench.cells(["adam", "adam_mlp"], ["update"], [1000], np.dtype(np.float32)):
        forms = optimisers.forms_of(libraries[0], cell)
        assert forms
        for form, call in forms.items():
            cell.reset()
            with libraries[0].mode(form):
                call()
            assert bench.wrong(None, cell) is None, form


def test_a_wrong_step_does_not_count(monkeypatch):
    def lazy(library, cell):
        return {"no step": lambda: None}

    monkeypatch.setattr(optimisers, "FORMS", {**optimisers.FORMS, "numpy": lazy})
    (row,) = bench.measure(["adam"], ["update"], ["numpy"], [64], rounds=1, threads=1)["cells"]
    assert "p: relative error" in row["rejected"]["numpy no step"]


# whole training steps


@pytest.mark.parametrize("name", ["mlp", "block"])
def test_whole_steps_compute_the_same(name):
    training_steps = of_checkout("training_steps")
    model = training_steps.MODELS[name]
    ours, theirs = (model(functions) for functions in (training_steps.FASTACT, training_steps.NUMPY))
    for _ in range(training_steps.COMPARED):
        loss = theirs.step()
        assert ours.step() == pytest.approx(loss, rel=training_steps.TOLERANCE)
        for got, want in zip(ours.gradients, theirs.gradients, strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_report_of_whole_steps(result):
    report = of_checkout("report")
    run = {key: result[key] for key in ("machine", "versions", "load_before", "load_after")}
    run |= {"missing": {}, "settings": {**result["settings"], "openblas_thread_timeout": "16"}, "models": {}}
    times = {"numpy step": 0.05, "fastact step": 0.02, "torch eager": 0.018, "products numpy": 0.01}
    run["models"]["mlp"] = {"steps": {form: {"median": seconds} for form, seconds in times.items()}}
    section = report.page(result, "run.json", run, "steps.json").partition("## Whole training steps")[2]
    assert "| 50.0 | 20.0 | 18.0 | - | 10.0 | - |" in section
    assert "| plain NumPy | >= 2.3 | 2.50 | met |" in section
    assert "| PyTorch eager | >= 1 | 0.90 | missed |" in section


# the cases of pytest-benchmark


def test_cases_run_beside_the_source_and_are_measured(tmp_path):
    pytest.importorskip("pytest_benchmark")
    shutil.copytree(BENCHMARKS, tmp_path / "benchmarks", ignore=shutil.ignore_patterns("__pycache__", "results"))
    (tmp_path / "fastact").mkdir()  # the source, which is not built
    (tmp_path / "fastact" / "__init__.py").write_text("raise ImportError('not built')")
    shutil.copy(BENCHMARKS.with_name("pyproject.toml"), tmp_path)
    argv = ["benchmarks", "-q", "-k", "test_speed[relu-forward-1024-fastact]"]
    done = subprocess.run(
        [sys.executable, "-c", f"import pytest; raise SystemExit(pytest.main({argv}))"],
        cwd=tmp_path,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
            "PYTHONSAFEPATH": "1",
            "PYTHONPATH": str(PACKAGE.parent),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout and "relu forward 2^10" in done.stdout
