"""Compiled kernels for a GPU on disk: a driver is not needed for that."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from subprocesses import copied, python

from fastact.backends.cuda import no_compiler

pytestmark = pytest.mark.skipif(no_compiler() is not None, reason=str(no_compiler()))

# a driver that keeps what it is given
CODE = """
import sys
from fastact.backends.cuda import _launch
from fastact.spec.kernel import kernel_of
from fastact.spec.table import OPS

images = []


class Launch:
    device = staticmethod(lambda i: type("Device", (), {"capability": CAPABILITY, "shared_bytes": 232448}))
    load = staticmethod(lambda image, name: images.append((image, name)) or len(images))


from fastact.backends.cuda import cache, elementwise

cache._launch = Launch
spec = kernel_of(OPS["relu"], "forward", "float32")
handle = cache.handle((spec, "vector"), lambda: elementwise.vector(spec), 0)
again = cache.handle((spec, "vector"), lambda: elementwise.vector(spec), 0)
((image, name),) = images
assert handle == again == 1 and image[:4] == b"\\x7fELF" and name.encode() in image
print(cache.statistics["compiled"], cache.statistics["loaded"], "numba.cuda" in sys.modules, len(image))
"""


def outcome(folder, capability=(9, 0), **keywords):
    """(kernels compiled, loaded from disk, whether numba-cuda was imported) of a process of its own."""
    code = f"CAPABILITY = {capability}\n" + CODE
    environment = {"FASTACT_CACHE_DIR": str(folder), "NUMBA_ENABLE_CUDASIM": "0"}
    compiled, loaded, imported, _ = python(code, **environment, **keywords).split()
    return int(compiled), int(loaded), imported == "True"


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cubins")
    assert outcome(folder) == (1, 0, True)
    return folder


def test_a_second_process_does_not_import_numba_cuda(filled):
    assert outcome(filled) == (0, 1, False)


def test_capabilities_have_files_of_their_own(filled, tmp_path):
    folder = shutil.copytree(filled, tmp_path / "copy")
    assert outcome(folder, (8, 0)) == (1, 0, True)
    assert len(list(folder.glob("*.cubin"))) == 2
    assert outcome(folder) == (0, 1, False)


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_file_is_compiled_anew(filled, tmp_path, damage):
    folder = shutil.copytree(filled, tmp_path / "copy")
    (file,) = folder.glob("*.cubin")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if damage is None else damage)
    assert outcome(folder)[:2] == (1, 0)
    assert outcome(folder) == (0, 1, False)


@pytest.mark.parametrize(
    "source, old, new",
    [
        ("backends/cuda/elementwise.py", "BLOCK = 512", "BLOCK = 256"),
        ("spec/kinds.py", "lambda x, *p: (f.value(x, *p),)", "lambda x, *p: (f.value(x, *p) * 1.0,)"),
    ],
)
def test_an_edited_source_is_compiled_anew(filled, tmp_path, source, old, new):
    folder = shutil.copytree(filled, tmp_path / "cubins")
    package = copied(tmp_path)
    file = Path(package, source)
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert outcome(folder, path=package.parent)[:2] == (1, 0)


def test_ptxas_says_what_it_refuses():
    from fastact.backends.cuda import compile

    with pytest.raises(compile.CompilationError, match=r"ptxas refused a kernel for sm_90: .*"):
        compile.assemble(".version 8.0\n.target sm_90\nnonsense", (9, 0))
