"""The command line as a user meets it: what it prints, and how it refuses."""

import importlib.util
import json
import subprocess
import sys

import pytest
from subprocesses import python

import fastact as fa
from fastact import __version__
from fastact.spec.table import OPS
from fastact.tools import bench, cli, curves
from fastact.tools.peers import PEERS


def run(*argv):
    """Exit code of a command."""
    try:
        return cli.main([str(a) for a in argv])
    except SystemExit as exit:
        return exit.code


def refused(capsys, *argv):
    """The error of a command that must be refused: wrapped on stderr, code 2, nothing on stdout."""
    assert run(*argv) == 2
    out, err = capsys.readouterr()
    first, *others = err.splitlines()
    assert out == "" and err.endswith("\n") and first.startswith("fastact")
    assert all(line.startswith("  ") for line in others), "no usage, no traceback"
    assert all(len(line) <= 80 or " " not in line.strip() for line in (first, *others))
    return " ".join(err.split())


# refusals


@pytest.mark.parametrize("command", ["plot", "warmup", "verify", "bench"])
def test_unknown_name(capsys, command):
    assert "sigmoid" in refused(capsys, command, "sigmod")


def test_unknown_name_in_demo(capsys):
    assert "sigmoid" in refused(capsys, "demo", "--activation", "sigmod")


def test_no_or_unknown_command(capsys):
    refused(capsys)
    refused(capsys, "train")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--hidden", "64,"),
        ("--hidden", "64,0"),
        ("--hidden", "a"),
        ("--epochs", "0"),
        ("--epochs", "1.5"),
        ("--batch-size", "-1"),
        ("--seed", "-1"),
        ("--activation", "threshold"),
    ],
)
def test_demo_refuses(capsys, option, value):
    assert option in refused(capsys, "demo", option, value)


@pytest.mark.parametrize("command", [("demo", "--plot"), ("plot", "elu", "--out")])
def test_files_that_cannot_be_written(capsys, tmp_path, command):
    pytest.importorskip("matplotlib")
    assert "no folder" in refused(capsys, *command, tmp_path / "missing" / "a.png")
    assert ".png" in refused(capsys, *command, tmp_path / "a.xyz")
    (tmp_path / "folder.png").mkdir()
    assert "cannot be written" in refused(capsys, *command, tmp_path / "folder.png")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["relu", "--param", "alpha=1"], "no parameter 'alpha'"),
        (["elu", "--param", "alpha"], "NAME=NUMBER"),
        (["elu", "--param", "alpha=nan1"], "NAME=NUMBER"),
        (["softplus", "--param", "beta=-1"], "beta must be"),
        (["threshold"], "--param threshold=NUMBER"),
        (["elu", "--range", "3", "-3"], "range"),
    ],
)
def test_plot_refuses(capsys, tmp_path, argv, message):
    pytest.importorskip("matplotlib")
    assert message in refused(capsys, "plot", *argv, "--out", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_warmup_refuses(capsys):
    assert "float32" in refused(capsys, "warmup", "relu", "--dtypes", "float31")
    assert "forward" in refused(capsys, "warmup", "relu", "--kinds", "forwards")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["elu", "--rounds", "0"], "'0' is not a positive integer"),
        (["elu", "--rounds", "a"], "'a' is not a positive integer"),
        (["prelu"], "prelu has no default for weight"),
        (["prelu.biased"], "prelu has no default for weight"),
        (["threshold"], "threshold has no default for threshold, value"),
        (["elu", "--sizes", "2^40"], "2^40 elements are too many"),
        (["elu", "--sizes", "9^999999999"], "more than the elements of any array"),
        (["elu", "--sizes", "2^"], "power such as 2^20"),
        (["elu", "--sizes", "0"], "power such as 2^20"),
        (["elu", "--kinds", "step"], "nothing to measure"),
        (["elu", "--json", "/"], "cannot be written"),
        (["elu", "--threads", "100000"], "CPUs"),
    ],
)
def test_bench_refuses(capsys, argv, message):
    assert message in refused(capsys, "bench", *argv)


def test_bench_refuses_libraries_that_are_missing_before_it_measures(capsys, monkeypatch):
    monkeypatch.setattr(bench, "measure", lambda *args: pytest.fail("measured"))
    monkeypatch.setattr(PEERS["torch"], "needs", ("no_such_module",))
    error = refused(capsys, "bench", "elu", "--against", "torch")
    assert "nothing to compare with: torch: no_such_module not installed" in error


def test_bench_says_at_once_what_it_leaves_out(capsys, monkeypatch):
    monkeypatch.setattr(PEERS["jax"], "needs", ("no_such_module",))
    assert run("bench", "relu", "--against", "jax,numpy", "--sizes", "16", "--rounds", "1", "--kinds", "forward") == 0
    assert "left out: jax: no_such_module not installed\n" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [("bench", "elu", "--plot"), ("demo", "--plot"), ("plot", "elu", "--out")])
def test_plots_without_matplotlib(capsys, monkeypatch, tmp_path, argv):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "plots need matplotlib, which is not installed" in refused(capsys, *argv, tmp_path / "a.png")


def test_too_little_memory(capsys):
    argv = ("demo", "--epochs", "1", "--hidden", "4", "--batch-size", str(10**12))
    assert run(*argv) == 2
    assert capsys.readouterr().err.splitlines()[-2].startswith("fastact demo: error: not enough memory")


def test_names_far_from_all_are_listed_in_lines(capsys):
    names = refused(capsys, "plot", "zzz").partition("there are ")[2].split(", ")
    assert {*OPS} <= {*names}


# commands


def test_info(capsys):
    assert run("info") == 0
    text = capsys.readouterr().out
    assert __version__ in text and "reference" in text
    assert run("info", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["version"] == __version__ and found["backends"]["reference"] is None and found["threads"] >= 1
    # which backend serves, for how many activations, and why
    assert found["serves by default"] and set(found["serves by default"]) <= set(found["backends"])
    with fa.use_backend("reference"):
        assert cli.served() == {"reference": f"{len(OPS)} of {len(OPS)} activations (asked for)"}


def test_demo(capsys):
    assert run("demo", "--epochs", "2", "--hidden", "16,8", "--batch-norm") == 0
    text = capsys.readouterr().out
    for part in ("BatchNormalization", "activations and loss", "whole loop", "test accuracy", "2/2"):
        assert part in text


def test_demo_says_that_it_diverged(capsys):
    assert run("demo", "--activation", "exponential", "--hidden", "64,64,64", "--epochs", "2", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["runs"]["fastact"]["loss"][-1] is None and "diverged" in err


def test_demo_json_leaves_stdout_to_json(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    plot = tmp_path / "demo.svg"
    assert run("demo", "--epochs", "2", "--hidden", "16", "--json", "--plot", plot, "--activation", "gelu") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["activation"] == "gelu" and found["settings"]["hidden"] == [16]
    for part in ("activations_and_loss", "optimiser", "everything_else", "whole_loop"):
        assert found["ratio"][part] == pytest.approx(
            found["runs"]["numpy"]["fastest_epoch_seconds"][part]
            / found["runs"]["fastact"]["fastest_epoch_seconds"][part]
        )
    assert "<svg" in plot.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", OPS)
def test_plot(capsys, tmp_path, name):
    pytest.importorskip("matplotlib")
    path = tmp_path / "f.png"
    required = [f"--param={p.name}=0.5" for p in OPS[name].params if p.default is None]
    assert run("plot", name, "--out", path, *required) == 0
    assert path.read_bytes().startswith(b"\x89PNG") and capsys.readouterr().out == f"{path}\n"


def test_what_a_plot_says():
    pytest.importorskip("matplotlib")
    for name in ("gelu", "elu", "hard_tanh"):
        figure = curves.figure_of([(OPS[name], {})], -6.0, 6.0)
        figure.draw_without_rendering()
        (axis,), (legend,) = figure.axes, figure.legends
        texts = [text.get_text() for text in legend.get_texts()]
        assert not any(text.endswith(": -0") for text in texts)
        assert name != "gelu" or "limit at -∞: 0" in texts
        assert legend.get_window_extent().y1 <= axis.get_window_extent().y0, "the legend hides curves"


def test_plot_by_alias_into_the_current_folder(capsys, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    assert run("plot", "swish", "--param", "beta=2") == 0
    assert (tmp_path / "silu.png").exists()


def test_plot_of_several(capsys, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    assert run("plot", "elu", "celu", "gelu", "--param", "alpha=0.5") == 0
    assert capsys.readouterr().out == "elu-celu-gelu.png\n"
    assert (tmp_path / "elu-celu-gelu.png").read_bytes().startswith(b"\x89PNG")
    figure = curves.figure_of([(OPS[name], {}) for name in ("elu", "gelu", "relu")], -3.0, 3.0)
    figure.draw_without_rendering()
    values, derivatives = figure.axes
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["elu  (alpha = 1)", "gelu", "relu"]
    colours = [[line.get_color() for line in axis.lines[2:]] for axis in (values, derivatives)]
    assert colours[0] == colours[1] and len(set(colours[0])) == 3
    assert legend.get_window_extent().y1 <= values.get_window_extent().y0
    assert "no parameter 'beta' in elu, relu; there is alpha" in refused(
        capsys, "plot", "elu", "relu", "--param", "beta=1"
    )


def test_warmup(capsys):
    assert run("warmup", "relu", "elu", "--kinds", "forward,backward") == 0
    assert "4 kernels ready" in capsys.readouterr().out
    assert run("warmup", "relu", "--kinds", "forward", "--json") == 0
    assert json.loads(capsys.readouterr().out)["kernels"] == 1
    assert run("warmup", "softmax", "LogSumExp", "--dtypes", "float16") == 0
    assert "8 kernels ready" in capsys.readouterr().out


def test_what_is_not_elementwise(capsys):
    assert "over an axis" in refused(capsys, "plot", "softmax")


@pytest.mark.parametrize("command", ["info", "demo", "bench", "verify", "plot", "warmup"])
def test_help(capsys, command):
    assert run(command, "--help") == 0
    assert f"fastact {command}" in capsys.readouterr().out


def test_module_runs():
    done = subprocess.run([sys.executable, "-m", "fastact", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f"fastact {__version__}\n"


def test_the_parser_loads_nothing_heavy():
    code = (
        "import sys; from fastact.tools import cli; cli.build_parser(); "
        "print({'numba', 'matplotlib', 'rich', 'torch', 'scipy', 'jax'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_gpu_is_asked_for_where_there_is_none(capsys, monkeypatch):
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)
    if fa.dispatch.reason("cuda") is None:
        pytest.skip("there is a GPU")
    for command in ("verify", "bench"):
        assert "no GPU to" in refused(capsys, command, "gelu", "--device", "cuda")
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    assert "the simulator has no speed" in refused(capsys, "bench", "gelu", "--device", "cuda")


def test_verify_on_the_simulator_of_a_gpu():
    pytest.importorskip("numba_cuda")
    text = python(
        "from fastact.tools.cli import main\n"
        "main(['verify', 'gelu', '--device', 'cuda', '--stride', '8388617', '--json'])",
        NUMBA_ENABLE_CUDASIM="1",
    )
    found = json.loads(text)
    assert found["holds"] and set(found["kinds"]) == {"forward", "backward"}
    assert all(kind["count"] == 512 for kind in found["kinds"].values())
