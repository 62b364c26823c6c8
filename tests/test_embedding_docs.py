"""docs/embedding.md: its tables are those of the tests and of the code, and its tests exist."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from fastact.spec.optimisers import rules
from fastact.spec.rows import ROWS

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docs" / "embedding.md"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="the documentation is not here")
TEXT = FILE.read_text(encoding="utf-8") if FILE.exists() else ""


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_table_is_up_to_date():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import embedding_report
    finally:
        sys.path.pop(0)
    assert embedding_report.updated(TEXT) == TEXT, "run python tools/embedding_report.py"


def test_named_tests_exist():
    sources = "".join(p.read_text(encoding="utf-8") for p in Path(__file__).parent.glob("test_*.py"))
    named = set(re.findall(r"\b(test_\w+)(?:\[|`)", TEXT))
    assert named
    missing = [n for n in named if f"def {n}(" not in sources and not (Path(__file__).parent / f"{n}.py").exists()]
    assert not missing


def test_every_step_and_gradient_of_a_norm_has_its_row():
    for rule in rules():
        arrays, numbers = ", ".join(a.name for a in rule.inputs), ", ".join(rule.params)
        assert f"| `{rule.name}` | `{arrays}` | `{numbers}` |" in TEXT
    for name, row in ROWS.items():
        if any(a.role == "pair" for a in row.outputs):
            arrays = ", ".join([*(a.name for a in (*row.inputs, *row.outputs)), "work"])
            assert f"| `{name}` | `{arrays}` | `{', '.join(['rows', 'n', *row.scalars])}` |" in TEXT
