"""The tables of docs/embedding.md from the tests: `python tools/embedding_report.py` rewrites them.

A row is a situation of tests/embedding_programs.py, in the words of its docstring; tests/test_threads.py checks what it
says, on each layer named. tests/test_embedding_docs.py checks that the file is up to date.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docs" / "embedding.md"
BEGIN, END = "<!-- made by tools/embedding_report.py -->\n", "<!-- end -->\n"
NAMES = {"omp": "OpenMP", "tbb": "TBB", "workqueue": "workqueue", "cython": "ahead of time"}


def table() -> str:
    """Situation × what happens × where it is tested."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import embedding_programs
    import test_threads

    lines = ["| situation | what happens | tested with |", "|---|---|---|"]
    for situation in embedding_programs.SITUATIONS:
        title, _, rest = inspect.getdoc(situation).partition("\n\n")
        layers = [layer for layer in test_threads.LAYERS if situation.__name__ in test_threads.situations(layer)]
        where = "all four" if len(layers) == len(NAMES) else ", ".join(NAMES[layer] for layer in layers)
        lines.append(f"| {title} | {rest} | {where} |")
    return "\n".join(lines) + "\n"


def updated(text: str) -> str:
    """The text with its table made anew."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    FILE.write_text(updated(FILE.read_text(encoding="utf-8")), encoding="utf-8")
