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
        "`f'(x)` of `value_and_grad`, bound 4 ULP; within 1 of a zero of f' what is more may be off by 2^-23 (float64: "
        "2^-52), and 'near zeros' is the largest such error, in these units.",
    ),
    ("from output", "Derivatives from the output", "`backward_from_output` with dy = 1, the same bounds."),
)
HALF = ("forward", "backward", "value_and_grad", "backward_from_output")


EPSILON = {"float32": 2.0**-23, "float64": 2.0**-52}


def table(rows: list[dict], dtypes: tuple[str, ...], zeros: bool = False) -> list[str]:
    """A line for each name: the largest ULP of each dtype over backends and parameters, bold beyond its bound."""
    titles = [*dtypes, *(["near zeros"] if zeros else []), "worst at", "bound"]
    lines = ["| | " + " | ".join(titles) + " |", "|---|" + "---:|" * len(titles)]
    rows = [r for r in rows if r["dtype"] in dtypes]
    for name in sorted({r["op"] for r in rows}):
        cells, bounds = [], []
        for dtype in dtypes:
            found = [r for r in rows if r["op"] == name and r["dtype"] == dtype]
            worst = max(found, key=lambda r: r["ulp"], default=None)
            if worst is None:
                cells.append("")
                continue
            text = f"{worst['ulp']:.3f}" if worst["ulp"] < 1e4 else f"{worst['ulp']:.1e}"
            every = any(r["count"] >= 1 << 32 for r in found)
            cells.append(
                (text if worst["ulp"] <= worst["bound"] + 1e-3 else f"**{text}**") + (" (all)" if every else "")
            )
            bounds.append(f"{worst['bound']:g}")
        if zeros:
            most = max(r["absolute"] / EPSILON[r["dtype"]] for r in rows if r["op"] == name)
            cells.append(f"{most:.3f}" if most else "")
        worst = max((r for r in rows if r["op"] == name), key=lambda r: r["ulp"] / r["bound"])
        parameters = f", {worst['domain']}" if "=" in worst["domain"] else ""
        at = f"{worst['at']:.9g} ({worst['dtype']}{parameters})" if worst["ulp"] else ""
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {at} | {', '.join(dict.fromkeys(bounds))} |")
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
        "A sweep that is not of all patterns is a sample: `fastact verify` may find more, within the bound.",
        "",
        f"float32: up to {points['float32']:,} points a sweep, '(all)' where all 2^32 patterns were computed;",
        f"float64: up to {points['float64']:,}; float16 and bfloat16: all 65536 patterns.",
    ]
    for kind, title, text in SECTIONS:
        chosen = [r for r in rows if r["kind"] == kind]
        if chosen:
            lines += ["", f"## {title}", "", text, "", *table(chosen, ("float32", "float64"), kind != "forward")]
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
