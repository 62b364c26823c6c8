"""The tables of docs/embedding.md from the tests: `python tools/embedding_report.py` rewrites them.

A row is a situation of tests/embedding_programs.py on one layer, in the words of its docstring; tests/test_threads.py
checks what it says. tests/test_embedding_docs.py checks that the file is up to date.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docs" / "embedding.md"
BEGIN, END = "<!-- made by tools/embedding_report.py -->\n", "<!-- end -->\n"
NAMES = {
    "omp": "Numba, OpenMP layer",
    "tbb": "Numba, TBB layer",
    "workqueue": "Numba, workqueue layer",
    "cython": "ahead of time (Cython)",
}


def table() -> str:
    """Layer × situation × what happens × test."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import embedding_programs
    import test_threads

    lines = ["| layer | situation | what happens | test |", "|---|---|---|---|"]
    for situation in embedding_programs.SITUATIONS:
        title, _, rest = inspect.getdoc(situation).partition("\n\n")
        for layer in test_threads.LAYERS:
            if situation.__name__ in test_threads.situations(layer):
                test = f"`test_situation[{layer}-{situation.__name__}]`"
                lines.append(f"| {NAMES[layer]} | {title} | {rest} | {test} |")
    return "\n".join(lines) + "\n"


def updated(text: str) -> str:
    """The text with its table made anew."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    FILE.write_text(updated(FILE.read_text(encoding="utf-8")), encoding="utf-8")
