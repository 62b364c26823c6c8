"""tools/ports.py: the loop it takes from assembly, what it makes of the answer of llvm-mca, and its page."""

from __future__ import annotations

import json
import platform
import sys

import pytest
from modules import ROOT, load

from fastact.spec.table import OPS

FILE = ROOT / "tools" / "ports.py"


@pytest.fixture(scope="module")
def ports():
    return load(FILE)


def test_page_is_up_to_date(ports):
    result = json.loads((ROOT / ports.RESULT).read_text(encoding="utf-8"))
    text = (ROOT / ports.PAGE).read_text(encoding="utf-8")
    assert ports.page(result, ports.RESULT.as_posix()) == text, f"run {ports.COMMAND} --page"


def test_kernels_of_the_page_are_in_the_table(ports):
    """The other way round is not asked for: who adds an activation may have no llvm-mca."""
    result = json.loads((ROOT / ports.RESULT).read_text(encoding="utf-8"))
    assert {(name, kind) for name, kind in result["kernels"]} <= {(name, kind) for name in OPS for kind in ports.KINDS}


def test_page_without_measurements(ports):
    result = json.loads((ROOT / ports.RESULT).read_text(encoding="utf-8"))
    text = ports.page(result | {"measured": None}, "run.json")
    assert "Nothing was measured" in text and "| measured" not in text


# from sigmoid, shortened: past the cache, two vectors, three that read a parameter each, one vector
ASSEMBLY = """\
.LBB0_3:                                # %B144
                                        # =>This Inner Loop Header: Depth=1
\tvmaxps\t(%rcx), %zmm0, %zmm12
\tvmovntps\t%zmm12, (%r8)
\tja\t.LBB0_3
.LBB0_16:                               # %B316
\tvmaxps\t(%rcx), %zmm0, %zmm12
\tvmovaps\t%zmm6, 64(%rsp)                # 64-byte Spill
\tvmaxps\t64(%rcx), %zmm0, %zmm13
\tprefetcht0\t512(%rcx)
\tvmulps\t128(%rsp), %zmm12, %zmm12       # 64-byte Folded Reload
\tvmovups\t%zmm12, (%r8)
\taddq\t$128, %rcx                      # imm = 0x80
\t.p2align\t4
\tvmovups\t%zmm13, 64(%r8)
\tja\t.LBB0_16
.LBB0_20:
\tvmovups\t(%rcx), %zmm12
\tvmulps\t(%rdx), %zmm12, %zmm12
\tvmovups\t%zmm12, (%r8)
\tvmovups\t64(%rcx), %zmm12
\tvmulps\t64(%rdx), %zmm12, %zmm12
\tvmovups\t%zmm12, 64(%r8)
\tvmovups\t128(%rcx), %zmm12
\tvmulps\t128(%rdx), %zmm12, %zmm12
\tvmovups\t%zmm12, 128(%r8)
\tjb\t.LBB0_20
\tje\t.LBB0_30
.LBB0_25:
\tvmaxps\t(%rcx), %zmm0, %zmm12
\tvmovups\t%zmm12, (%r8)
\tjb\t.LBB0_25
.LBB0_30:
\tretq
"""


def test_loop_over_groups_of_vectors(ports):
    loop = ports.wide_loop(ASSEMBLY, inputs=1, outputs=1, group=2)
    assert (loop.vectors, loop.reloads, loop.spills) == (2, 1, 1)
    lines = loop.text.splitlines()
    assert lines[0] == "\tvmaxps\t(%rcx), %zmm0, %zmm12" and lines[-1] == "\tja\t.LBB0_16"
    assert len(lines) == 9 and not any("#" in line or ".p2align" in line for line in lines)


@pytest.mark.parametrize(("inputs", "group", "vectors"), [(1, 1, 2), (2, 1, 3), (2, 3, 3)])
def test_loop_of_other_arrays_and_groups(ports, inputs, group, vectors):
    assert ports.wide_loop(ASSEMBLY, inputs=inputs, outputs=1, group=group).vectors == vectors


def test_assembly_without_such_a_loop(ports):
    with pytest.raises(ValueError, match="no loop over whole groups"):
        ports.wide_loop("\n".join(ASSEMBLY.splitlines()[:5]), inputs=1, outputs=1, group=1)


@pytest.mark.parametrize(
    ("cpu", "loads", "block", "bound"),
    [
        ("znver4", {"FP0": 11.0, "FP1": 13.0, "FP2": 8.0, "FP3": 8.0}, 9, (12.0, "FP0/1")),
        ("znver4", {"FP0": 2.0, "FP1": 6.0, "FP2": 1.0, "FP3": 1.0}, 6, (6, "FP1")),
        ("skylake-avx512", {"port 0": 2.0, "port 5": 1.0, "divider": 10.0}, 10, (10.0, "divider")),
        ("skylake-avx512", {"port 0": 2.0, "port 5": 1.0, "divider": 0.0}, 1, (4.0, "front end")),
        # LLVM's model: all on port 0, and no divider
        ("sapphirerapids", {"port 0": 28.0, "port 5": 4.0}, 28, (16.0, "ports 0/5")),
        ("sapphirerapids", {"port 0": 14.0, "port 5": 4.0}, 14, (10.0, "divider")),
    ],
)
def test_bounds(ports, cpu, loads, block, bound):
    assert ports.bound_of(ports.CPUS[cpu], loads, 4.0, block, "\tvdivps\t%zmm1, %zmm2, %zmm3\n") == bound


def test_names_of_units(ports):
    names = ["SPRPort05", "SKXPort5", "SKXFPDivider", "Zn4FP1", "Zn3FPSt", "Zn4Load.\x01"]
    assert list(map(ports.unit_name, names)) == ["port 5", "port 5", "divider", "FP1", "FP store", "Load"]


def test_nearest_cpu(ports):
    avx2 = dict.fromkeys(ports.AVX2, True)
    avx512 = dict.fromkeys(ports.AVX512, True)
    assert ports.nearest("znver3", {}) == "znver3"
    assert ports.nearest("haswell", avx2) == "znver3"
    assert ports.nearest("znver5", avx512 | {"sse4a": True}) == "znver4"
    assert ports.nearest("graniterapids", avx512 | {"avx512fp16": True}) == "sapphirerapids"
    assert ports.nearest("icelake-server", avx512) == "skylake-avx512"
    assert ports.nearest("nehalem", {"sse2": True}) is None


@pytest.mark.skipif(sys.platform == "win32", reason="a program that is a shell script")
def test_message_where_llvm_mca_is_too_old(ports, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="llvm-mca 19 or newer is needed, for its models of znver4"):
        ports.find_mca()
    for name, version in (("llvm-mca", "14.0.6"), ("llvm-mca-15", "15.0.7"), ("llvm-mca-old", "99.0.0")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho Debian LLVM version {version}\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(RuntimeError, match=r"the newest here is 15\.0\.7"):
        ports.find_mca()
    (tmp_path / "llvm-mca-15").write_text("#!/bin/sh\necho Debian LLVM version 21.1.0\n")
    assert ports.find_mca() == (str(tmp_path / "llvm-mca-15"), "21.1.0")


def test_a_kernel_for_two_cpus(ports):
    pytest.importorskip("numba")
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("LLVM compiles for x86-64 CPUs on x86-64 only")
    try:
        mca, _ = ports.find_mca()
    except RuntimeError as error:
        pytest.skip(str(error))
    for cpu, vectors, elements in (("znver4", 4, 64), ("znver3", 2, 16)):
        loops = ports.loops_for(cpu, [("sigmoid", "forward")])
        (row,) = ports.analyse(mca, cpu, loops).values()
        assert (row["vectors"], row["elements"]) == (vectors, elements)
        # at least a load, a division and a store of each vector, and not more than a formula can be
        assert 3 * vectors < row["instructions"] < 100 * vectors
        assert row["block_throughput"] <= row["bound"] <= 1.02 * row["simulated"]
        assert row["by"] in ("FP0/1", "FP1")
        assert loops["sigmoid forward"].text.count("vdivps") == vectors
