"""fastact bench on other dtypes and layouts, and beside a library that raises."""

from __future__ import annotations

import numpy as np
import pytest

from fastact.tools import bench, peers


@pytest.mark.parametrize("op", [*bench.STEPPED, "gelu", "softmax", "gelu.biased", "silu.packed", bench.DROPOUT])
def test_every_sort_of_cell_runs_in_float16(op):
    """Values of fastact are right; a library that is not, or has no kernel, is named and left out."""
    result = bench.measure([op], against=["numpy"], sizes=[2048], dtype="float16", rounds=1, threads=1)
    assert {row["op"] for row in result["cells"]} == {op}
    assert all(row["fastact"] > 0 for row in result["cells"])


@pytest.mark.parametrize("layout", ["strided", "broadcast"])
def test_layouts(layout):
    dtype = np.dtype(np.float32)
    for cell in bench.cells(["gelu", "softmax"], bench.KINDS, [2**12], dtype, layout):
        assert not cell.x.flags.c_contiguous and cell.scratch.flags.c_contiguous
        assert cell.out.flags.c_contiguous == (layout == "broadcast")
    result = bench.measure(
        ["elu", "softmax"], against=["numpy", "numba"], sizes=[4096], rounds=1, threads=1, layout=layout
    )
    assert result["settings"]["layout"] == layout and result["small_calls"] == {}
    assert len(result["cells"]) == 4 and not any(row["rejected"] for row in result["cells"])
    assert all("numpy" in row["libraries"] for row in result["cells"])


def test_a_library_that_raises_is_named(monkeypatch):
    def np_raises(x, out, t):
        raise TypeError("no kernel for this type\nmore")

    monkeypatch.setitem(peers.HOW["tanh"], "numpy forward", [np_raises, peers.np_tanh])
    row = bench.measure(["tanh"], ["forward"], ["numpy"], [64], rounds=1, threads=1)["cells"][0]
    assert row["rejected"] == {"numpy np_raises": "TypeError: no kernel for this type"}
    assert list(row["libraries"]["numpy"]["forms"]) == ["np_tanh"]
