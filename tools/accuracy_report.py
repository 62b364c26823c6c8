"""docs/accuracy.md from the measurements of a test run.

    FASTACT_ACCURACY_JSON=accuracy.json pytest tests
    python tools/accuracy_report.py accuracy.json docs/accuracy.md

The file collects the worst case of every sweep; later runs add to it, so an exhaustive run (tests/test_exhaustive.py)
may follow the default one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

SECTIONS = (
    ("forward", "Values", "`f(x)`, bound 2 ULP, 0.5 for piecewise linear functions (exactly rounded)."),
    (
        "derivative",
        "Derivatives",
        "`f'(x)` of `value_and_grad`, bound 4 ULP, or 2^-23 (float64: 2^-52) near its zeros.",
    ),
    ("from output", "Derivatives from the output", "`backward_from_output` with dy = 1, the same bounds."),
)
HALF = ("forward", "backward", "value_and_grad", "backward_from_output")


def table(rows: list[dict], keys: tuple[str, ...]) -> list[str]:
    """One line per row name, one column per key: the largest ULP over backends and sample parameters."""
    names = sorted({r["op"] for r in rows})
    lines = ["| | " + " | ".join(keys) + " | worst at | bound |", "|---|" + "---:|" * (len(keys) + 2)]
    for name in names:
        own = [r for r in rows if r["op"] == name]
        worst = max(own, key=lambda r: r["ulp"] / r["bound"])
        cells = []
        for key in keys:
            found = [r for r in own if r["dtype"] == key]
            every = any(r["count"] >= 1 << 32 for r in found)
            cells.append(f"{max(r['ulp'] for r in found):.3f}{' (all)' if every else ''}" if found else "")
        where = f"{worst['at']:.9g}" + (f", {worst['domain']}" if worst["domain"] else "")
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {where} | {worst['bound']:g} |")
    return lines


def report(rows: list[dict]) -> str:
    """The page."""
    points = {t: max((r["count"] for r in rows if r["dtype"] == t), default=0) for t in ("float32", "float64")}
    lines = [
        "# Accuracy",
        "",
        "Measured by the test suite and written by `tools/accuracy_report.py`; do not edit. Each number is the largest",
        "error in units in the last place over all backends and sample parameters, against a reference of more than",
        "twice the precision that is not rounded (mpmath for float64; float64, itself held against mpmath, for the",
        "narrower types). Below the smallest normal number an absolute error of the smallest normal is allowed.",
        "",
        f"float32: up to {points['float32']:,} points a sweep, '(all)' where all 2^32 patterns were computed;",
        f"float64: up to {points['float64']:,}; float16 and bfloat16: all 65536 patterns.",
    ]
    for kind, title, text in SECTIONS:
        chosen = [r for r in rows if r["kind"] == kind]
        if chosen:
            lines += ["", f"## {title}", "", text, "", *table(chosen, ("float32", "float64"))]
    half = [r for r in rows if r["dtype"] in ("float16", "bfloat16") and r["kind"] in HALF]
    if half:
        text = (
            "Values and derivatives together; bound 1 ULP, and at most one result in a thousand not correctly rounded."
        )
        lines += ["", "## float16 and bfloat16", "", text, "", *table(half, ("float16", "bfloat16"))]
    elementary = [r for r in rows if r["kind"] == "elementary"]
    if elementary:
        text = "Bound as stated in each function's docstring."
        lines += ["", "## Elementary functions", "", text, "", *table(elementary, ("float32", "float64"))]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("measurements", type=Path)
    parser.add_argument("page", type=Path)
    arguments = parser.parse_args()
    arguments.page.write_text(report(json.loads(arguments.measurements.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
