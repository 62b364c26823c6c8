"""The cache of compiled kernels on disk: found again, never stale, never trusted when damaged."""

import platform
import shutil
import threading

import pytest
from subprocesses import PACKAGE, python

fa_dispatch = pytest.importorskip("fastact.dispatch")
pytestmark = pytest.mark.skipif(fa_dispatch.reasons()["numba"] is not None, reason="only Numba kernels are cached")

REPORT = """
import numpy as np, fastact as fa
fa.use_backend("numba")
x = np.float32([-2.0, -1.0, 0.5])
print([float(v).hex() for v in fa.elu(x)], [float(v).hex() for v in fa.gelu.backward(x, x)])
info = fa.dispatch.info()
print(info["kernels compiled"], info["kernels from disk"])
"""


def report(folder, **options):
    values, counts = python(REPORT, FASTACT_CACHE_DIR=str(folder), **options).splitlines()
    compiled, loaded = map(int, counts.split())
    return values, compiled, loaded


def test_a_second_process_compiles_nothing(tmp_path):
    first = report(tmp_path)
    assert first[1:] == (2, 0)
    assert report(tmp_path) == (first[0], 0, 2)


def test_a_second_process_needs_no_numba(tmp_path):
    """Loading from disk is meant to be quick: half a second of importing Numba is not spent."""
    python(REPORT, FASTACT_CACHE_DIR=str(tmp_path))
    code = REPORT + "\nimport sys\nprint('numba' in sys.modules)"
    assert python(code, FASTACT_CACHE_DIR=str(tmp_path)).splitlines()[-1] == "False"


def copied_with(tmp_path, file, appended):
    """A copy of the package with a few lines more at the end of a file."""
    shutil.copytree(PACKAGE, tmp_path / "fastact", ignore=shutil.ignore_patterns("__pycache__"))
    source = tmp_path / "fastact" / file
    source.write_text(source.read_text() + appended)
    return tmp_path


def test_an_edited_formula_is_compiled_anew(tmp_path):
    folder = tmp_path / "cache"
    fresh = report(folder)[0]
    edited = copied_with(
        tmp_path / "edited", "formulas.py", '\n\ndef elu(x, alpha):\n    """2x"""\n    return 2.0 * x\n'
    )
    values, compiled, _ = report(folder, path=edited)
    assert compiled == 2
    assert "['-0x1.0000000000000p+2', '-0x1.0000000000000p+1', '0x1.0000000000000p+0']" in values
    # and the original still gets its own
    assert report(folder) == (fresh, 0, 2)


def test_an_edited_elementary_function_is_compiled_anew(tmp_path):
    folder = tmp_path / "cache"
    fresh = report(folder)[0]
    file = "elementary/float32.py"
    edited = copied_with(tmp_path / "edited", file, '\n\ndef expm1_nonpositive(x):\n    """x"""\n    return x\n')
    values, compiled, _ = report(folder, path=edited)
    assert compiled == 2
    assert values != fresh


def test_an_edited_backend_is_compiled_anew(tmp_path):
    folder = tmp_path / "cache"
    report(folder)
    edited = copied_with(tmp_path / "edited", "backends/numba_cpu/kernels.py", "\n# edited\n")
    assert report(folder, path=edited)[1:] == (2, 0)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names an x86 CPU")
def test_another_cpu_gets_its_own_code(tmp_path):
    first = report(tmp_path)
    narrower = report(tmp_path, NUMBA_CPU_NAME="x86-64-v3", NUMBA_CPU_FEATURES="+avx2,+fma,+f16c")
    assert narrower == (first[0], 2, 0)


def test_folder_that_cannot_be_written(tmp_path):
    obstacle = tmp_path / "file"
    obstacle.write_text("not a folder")
    values = report(tmp_path / "good")[0]
    assert report(obstacle / "cache") == (values, 2, 0)
    code = REPORT + "\nprint(fa.dispatch.info()['cache problems'])"
    assert "not writable" in python(code, FASTACT_CACHE_DIR=str(obstacle / "cache")).splitlines()[-1]


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "garbage", "foreign"])
def test_damaged_entries_are_ignored_and_replaced(tmp_path, damage):
    first = report(tmp_path)
    entries = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert entries
    contents = [e.read_bytes() for e in entries]
    for entry, content in zip(entries, contents, strict=True):
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 0x10
        entry.write_bytes(
            {
                "empty": b"",
                "cut": content[: len(content) // 2],
                "flipped": bytes(flipped),
                "garbage": b"\x7fELF" + b"\xff" * 5000,
                # the beginning of a good entry, the rest of something else
                "foreign": content[:40] + content[:40] * 20,
            }[damage]
        )
    assert report(tmp_path) == (first[0], 2, 0)
    assert report(tmp_path) == (first[0], 0, 2)
    assert [e.read_bytes() for e in entries] == contents


def test_an_entry_that_is_a_folder(tmp_path):
    first = report(tmp_path)
    for entry in [p for p in tmp_path.rglob("*") if p.is_file()]:
        entry.unlink()
        entry.mkdir()
    assert report(tmp_path) == (first[0], 2, 0)


def test_several_processes_fill_one_folder(tmp_path):
    results = []
    workers = [threading.Thread(target=lambda: results.append(report(tmp_path))) for _ in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert len({r[0] for r in results}) == 1
    assert len(results) == 4
    assert report(tmp_path) == (results[0][0], 0, 2)
    assert not [p for p in tmp_path.rglob("*") if p.suffix == ".tmp"], "temporary files left behind"


def test_equal_formulas_under_different_names_do_not_collide(tmp_path):
    """relu6, hard_tanh and relu_k differ in constants only; from disk each must still be itself."""
    code = """
import numpy as np, fastact as fa
fa.use_backend("numba")
x = np.float32([-3, 0.5, 2, 9])
print([fa.activations[n](x).tolist() for n in ("relu", "relu6", "hard_tanh", "relu_k", "hard_shrink", "soft_shrink")])
print([fa.activations[n].backward(x, x).tolist() for n in ("relu", "relu6", "hard_tanh", "relu_k", "sigmoid", "tanh")])
print([fa.activations[n](x.astype(t)).tolist() for n in ("sigmoid", "tanh") for t in ("f2", "f4", "f8")])
"""
    first = python(code, FASTACT_CACHE_DIR=str(tmp_path))
    assert first.startswith("[[0.0, 0.5, 2.0, 9.0], [0.0, 0.5, 2.0, 6.0], [-1.0, 0.5, 1.0, 1.0]")
    assert python(code, FASTACT_CACHE_DIR=str(tmp_path)) == first
