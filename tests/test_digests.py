"""tools/bits.py: digests of what every activation gives over all float32."""

from __future__ import annotations

import json

import numpy as np
import pytest
from modules import ROOT, load


@pytest.fixture(scope="module")
def bits():
    return load(ROOT / "tools" / "bits.py")


@pytest.fixture(scope="module")
def committed(bits):
    return json.loads(bits.RESULT.read_text(encoding="utf-8"))


def test_every_activation_with_defaults_has_digests(bits, committed):
    assert committed["blocks"] == bits.BLOCKS
    assert committed["dy"] == bits.DY
    assert committed["digests"].keys() == {f"{n} {k}" for n in bits.NAMES for k in bits.KINDS}, bits.__doc__
    assert all(len(found) == bits.BLOCKS for found in committed["digests"].values())
    assert not any(run["different"] for run in committed["compared"])


def test_a_digest_is_a_sum_of_words(bits):
    x = np.float32([1.0, -0.0, 2.5, -3.0])
    x = np.concatenate([x, np.uint32([0x7F800001, 0xFFC12345]).view(np.float32)])
    words = [0x80000000_3F800000, 0xC0400000_40200000, 0x7FC00000_7FC00000]
    want = sum(word * (10 + 2 * i + 1) for i, word in enumerate(words)) % (1 << 64)
    assert int(bits.folded(x.view(np.uint32), 10)) == want


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_digests(bits, committed):
    """Of the blocks with the numbers from 2^-31 to 2 and their negatives."""
    for name in bits.NAMES:
        for kind in bits.KINDS:
            for block in (3, 11):
                assert bits.digest(name, kind, block) == committed["digests"][f"{name} {kind}"][block], (name, kind)
