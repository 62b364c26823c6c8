"""The cache of compiled kernels on disk: found again, never stale, never trusted when damaged."""

import os
import platform
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from subprocesses import copied, python

import fastact as fa
from fastact import dispatch
from fastact.backends import folder

WHY_NOT = dispatch.reasons()["numba"]
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=f"only Numba kernels are cached: {WHY_NOT}")

# five kernels of different kinds, dtypes and formulas, some of which differ in constants alone
REPORT = """
import sys
import numpy as np, fastact as fa
fa.use_backend("numba")
x = np.float32([-2.0, -1.0, 0.5, 9.0])
results = [fa.elu(x), fa.relu6(x), fa.hard_tanh(x), fa.hard_tanh.backward(x, x), fa.hard_tanh(x.astype("f8"))]
print([[v.hex() for v in r.tolist()] for r in results])
info = fa.dispatch.info()
print(info["kernels compiled"], info["kernels from disk"], "numba" in sys.modules, info["cache problems"])
"""
KERNELS = 5


def report(folder, **options):
    """(values, compiled, loaded from disk, whether Numba was imported, problems) of a process that uses the folder."""
    values, counts = python(REPORT, FASTACT_CACHE_DIR=str(folder), **options).splitlines()
    compiled, loaded, numba, problems = counts.split(" ", 3)
    return values, int(compiled), int(loaded), numba == "True", problems


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """(folder filled by one process, what that process reported)."""
    folder = tmp_path_factory.mktemp("cache")
    return folder, report(folder)


@pytest.fixture
def filled(first, tmp_path):
    """A copy of the filled folder."""
    return shutil.copytree(first[0], tmp_path / "filled")


def test_a_second_process_compiles_nothing(first, filled):
    values, compiled, loaded, _, problems = first[1]
    assert (compiled, loaded, problems) == (KERNELS, 0, "{}")
    # nor does it import Numba, which takes half a second
    assert report(filled) == (values, 0, KERNELS, False, "{}")


def test_kernels_that_differ_in_constants_stay_apart(first):
    values = eval(first[1][0])
    assert [[float.fromhex(v) for v in r] for r in values[1:]] == [
        [0.0, 0.0, 0.5, 6.0],
        [-1.0, -1.0, 0.5, 1.0],
        [0.0, 0.0, 0.5, 0.0],
        [-1.0, -1.0, 0.5, 1.0],
    ]


def edited(folder, file, old, new=""):
    """The folder with a copy of the package, in a file of which `old` is now `new`, or to which it was appended."""
    source = copied(folder) / file
    text = source.read_text()
    if new:
        assert old in text
        text = text.replace(old, new)
    else:
        text += old
    source.write_text(text)
    return folder


BACKWARD = 'Kind("backward", "dy x -> dx", lambda f: lambda dy, x, *p: (dy * '
TWICE = '\n\ndef elu(x, alpha):\n    """2x"""\n    return 2.0 * x\n'
ITSELF = '\n\ndef expm1_nonpositive(x):\n    """x"""\n    return x\n'
# file, edit, which of the kernels it changes and to what values
EDITS = {
    "a formula": ("maths/activations.py", (TWICE,), 0, [-4.0, -2.0, 1.0, 18.0]),
    "an elementary function": ("maths/elementary/float32.py", (ITSELF,), 0, [-2.0, -1.0, 0.5, 9.0]),
    "what a kind computes": ("spec/kinds.py", (BACKWARD, BACKWARD + "2.0 * "), 3, [0.0, 0.0, 1.0, 0.0]),
    "what bodies of kinds are written in": (
        "spec/kinds.py",
        ("self.grad = env[op.grad.__name__]", "self.grad = lambda *a: 2.0 * env[op.grad.__name__](*a)"),
        3,
        [0.0, 0.0, 1.0, 0.0],
    ),
    "the formula of a gradient": (
        "spec/table.py",
        ("f.hard_tanh, f.hard_tanh_grad,", "f.hard_tanh, f.hard_tanh,"),
        3,
        [2.0, 1.0, 0.25, 9.0],
    ),
}


@pytest.mark.parametrize("what", EDITS)
def test_what_an_edit_changes_is_compiled_anew_and_nothing_else(first, filled, tmp_path, what):
    file, edit, changed, expected = EDITS[what]
    values, compiled, loaded, *_ = report(filled, path=edited(tmp_path / "edited", file, *edit))
    values, before = eval(values), eval(first[1][0])
    assert [float.fromhex(v) for v in values[changed]] == expected
    assert values[:changed] + values[changed + 1 :] == before[:changed] + before[changed + 1 :]
    assert (compiled, loaded) == (1, KERNELS - 1)
    # and the original still gets its own
    assert report(filled)[:3] == (first[1][0], 0, KERNELS)


def test_value_and_gradient_interchanged_are_compiled_anew(tmp_path):
    """The same formulas, each in the place of the other."""
    code = """
import numpy as np, fastact as fa
fa.use_backend("numba")
print([float(v) for v in fa.hard_tanh.value_and_grad(np.float32(0.5))])
"""
    swapped = edited(tmp_path, "spec/table.py", "f.hard_tanh, f.hard_tanh_grad,", "f.hard_tanh_grad, f.hard_tanh,")
    cache = str(tmp_path / "cache")
    assert eval(python(code, FASTACT_CACHE_DIR=cache)) == [0.5, 1.0]
    assert eval(python(code, FASTACT_CACHE_DIR=cache, path=swapped)) == [1.0, 0.5]


@pytest.mark.parametrize("file", ["maths/activations.py", "maths/elementary/float32.py", "spec/kinds.py"])
def test_a_comment_compiles_nothing(first, filled, tmp_path, file):
    commented = edited(tmp_path / "edited", file, "\n\ndef ", "\n\n# a comment\n\n\ndef ")
    assert report(filled, path=commented)[:3] == (first[1][0], 0, KERNELS)


@pytest.mark.parametrize("file", ["backends/numba_cpu/kernels.py", "spec/call.py"])
def test_an_edited_backend_or_calling_convention_compiles_all(first, filled, tmp_path, file):
    copy = edited(tmp_path / "edited", file, "\n# edited\n")
    assert report(filled, path=copy)[:3] == (first[1][0], KERNELS, 0)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names an x86 CPU")
def test_another_cpu_gets_its_own_code_and_the_same_bits(first, filled):
    narrower = {"NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": "+avx2,+fma,+f16c"}
    assert report(filled, **narrower)[:3] == (first[1][0], KERNELS, 0)
    assert report(filled, **narrower)[:3] == (first[1][0], 0, KERNELS)


def unwritable(how, folder):
    """A cache folder that cannot be."""
    if how == "no permission":
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            # root may write anywhere but there
            return Path("/proc/fastact") if sys.platform == "linux" else pytest.skip("root may write anywhere")
        folder.chmod(0o500)
        return folder / "cache"
    file = folder / "file"
    file.write_text("not a folder")
    return file if how == "is a file" else file / "cache"


each_way = pytest.mark.parametrize("how", ["is a file", "below a file", "no permission"])


@each_way
def test_folder_that_cannot_be_written(first, tmp_path, how):
    values, compiled, loaded, _, problems = report(unwritable(how, tmp_path))
    assert (values, compiled, loaded) == (first[1][0], KERNELS, 0)
    assert "not writable" in problems and "FASTACT_CACHE_DIR" in problems


@each_way
def test_folder_that_cannot_be_written_in_the_automatic_choice(first, tmp_path, how):
    code = REPORT.replace('fa.use_backend("numba")', "")
    folder = unwritable(how, tmp_path)
    values, counts = python(code, FASTACT_CACHE_DIR=str(folder)).splitlines()
    assert values == first[1][0]
    # known before anything was to be written
    assert "not writable" in counts


@each_way
def test_warmup_says_that_nothing_is_kept(tmp_path, how):
    code = "from fastact.tools.cli import main; raise SystemExit(main(['warmup', 'relu', '--kinds', 'forward']))"
    done = python(code, FASTACT_CACHE_DIR=str(unwritable(how, tmp_path)), check=False)
    assert done.returncode == 1 and "1 kernels ready" in done.stdout
    assert "nothing is kept" in done.stderr and "not writable" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the folders of Linux")
def test_folder_of_the_user(monkeypatch):
    monkeypatch.delenv("FASTACT_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/scratch")
    assert folder.folder() == Path("/var/scratch/fastact")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/ada")
    assert folder.folder() == Path("/home/ada/.cache/fastact")


def test_user_without_a_home(monkeypatch):
    monkeypatch.delenv("FASTACT_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as it does then
    info = dispatch.info()
    assert info["cache problems"].pop(info["cache folder"]).startswith("no home folder")
    with fa.use_backend("numba"):
        fa.warmup(["elu"], ["forward"])
        assert fa.elu(np.float32(1.0)) == 1.0


def test_damaged_entries_are_ignored_and_replaced(first, filled):
    entries = sorted(p for p in filled.rglob("*") if p.is_file())
    assert len(entries) == KERNELS
    contents = [e.read_bytes() for e in entries]
    flipped = bytearray(contents[2])
    flipped[len(flipped) // 2] ^= 0x10
    damage = (
        b"",
        contents[1][: len(contents[1]) // 2],
        bytes(flipped),
        b"\x7fELF" + b"\xff" * 5000,
        # a good beginning, and the rest of another entry
        contents[4][:40] + contents[0][40:],
    )
    for entry, content in zip(entries, damage, strict=True):
        entry.write_bytes(content)
    assert report(filled)[:3] == (first[1][0], KERNELS, 0)
    assert [e.read_bytes() for e in entries] == contents
    assert report(filled)[:3] == (first[1][0], 0, KERNELS)


def test_an_entry_swapped_for_another_is_not_that_kernel(first, filled):
    """Whole, but of another kernel: as when files are renamed by hand."""
    entries = sorted(p for p in filled.rglob("*") if p.is_file())
    contents = [e.read_bytes() for e in entries]
    for entry, content in zip(entries, contents[1:] + contents[:1], strict=True):
        entry.write_bytes(content)
    assert report(filled)[0] == first[1][0]


def test_an_entry_that_is_a_folder(first, filled):
    for entry in [p for p in filled.rglob("*") if p.is_file()]:
        entry.unlink()
        entry.mkdir()
    assert report(filled)[:3] == (first[1][0], KERNELS, 0)


def test_several_processes_fill_one_folder(first, tmp_path):
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(report, [tmp_path] * 3))
    assert {r[0] for r in results} == {first[1][0]}
    assert report(tmp_path)[:3] == (first[1][0], 0, KERNELS)
    assert not [p for p in tmp_path.rglob("*") if p.suffix == ".tmp"], "temporary files left behind"
