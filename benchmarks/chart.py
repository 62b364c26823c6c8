"""The README's picture from the JSON of ``fastact bench``, once for light and once for dark pages.

    python -m benchmarks.chart benchmarks/results/NAME.json [--out docs/images/speed]

For each function a bar for its values and one for its gradient: how many times faster fastact is than the fastest other
library, as the geometric mean over the sizes measured. The line through a bar goes from the worst of these to the best.
SVG written as text, so that the same numbers give the same file whatever is installed.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from fastact.tools.bench import geometric_mean

THEMES = {
    "light": {"text": "#1f2328", "faint": "#d0d7de", "forward": "#0969da", "backward": "#bc4c00"},
    "dark": {"text": "#e6edf3", "faint": "#3d444d", "forward": "#4493f8", "backward": "#f0883e"},
}
NAMES = {"forward": "values", "backward": "gradients"}
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 760, 110, 60, 52, 44
BAR, GAP = 10, 10  # the height of a bar, and the space between two functions


def bars(result: dict[str, Any]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """For each function and kind the mean of the ratios, the least and the greatest."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in result["cells"]:
        if row["ratio"] is not None and row["kind"] in NAMES:
            found.setdefault(row["op"], {}).setdefault(row["kind"], []).append(row["ratio"])
    return {
        op: {kind: (geometric_mean(ratios), min(ratios), max(ratios)) for kind, ratios in kinds.items()}
        for op, kinds in found.items()
    }


def chart(result: dict[str, Any], theme: str) -> str:
    """The picture, as SVG."""
    colours = THEMES[theme]
    found = bars(result)
    group = len(NAMES) * BAR + GAP
    height = TOP + len(found) * group + BOTTOM
    most = math.ceil(max(top for kinds in found.values() for _, _, top in kinds.values()))
    unit = (WIDTH - LEFT - RIGHT) / most
    base = height - BOTTOM

    def text(x: float, y: float, words: str, anchor: str = "start", size: int = 12) -> str:
        return (
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colours["text"]}">'
            f"{escape(words)}</text>"
        )

    def line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
        return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'

    def bar(x: float, y: float, width: float, height: float, kind: str) -> str:
        return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{colours[kind]}"/>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="system-ui, sans-serif" role="img">',
        "<title>How many times faster than the fastest other library</title>",
        text(0, 18, "How many times faster than the fastest other library", size=15),
    ]
    at = LEFT
    for kind, name in NAMES.items():
        parts.append(bar(at, 30, BAR, BAR, kind))
        parts.append(text(at + BAR + 5, 39, name))
        at += 90
    parts.append(text(at, 39, "line: from the worst to the best array size"))
    parts.append(text(WIDTH - 4, 39, "mean", "end", size=10))
    for tick in range(most + 1):
        x = LEFT + tick * unit
        parts.append(line(x, TOP, x, base, colours["faint"]))
        parts.append(text(x, base + 16, f"{tick}×", "middle"))
    parts.append(text(LEFT + unit, base + 34, "as fast as the fastest other library", size=11))
    for i, (op, kinds) in enumerate(found.items()):
        top = TOP + i * group + GAP / 2
        parts.append(text(LEFT - 8, top + BAR + 4, op, "end"))
        for j, kind in enumerate(NAMES):
            if kind in kinds:
                mean, low, high = kinds[kind]
                y = top + j * BAR
                parts.append(bar(LEFT, y, mean * unit, BAR - 1, kind))
                parts.append(line(LEFT + low * unit, y + BAR / 2, LEFT + high * unit, y + BAR / 2, colours["text"]))
                parts.append(text(WIDTH - 4, y + BAR - 1, f"{mean:.1f}×", "end", size=10))
    parts.append(line(LEFT + unit, TOP, LEFT + unit, base, colours["text"]))
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path)
    parser.add_argument("--out", default="docs/images/speed", help="followed by -light.svg and -dark.svg")
    args = parser.parse_args()
    result = json.loads(args.json.read_text())
    for theme in THEMES:
        Path(f"{args.out}-{theme}.svg").write_text(chart(result, theme), encoding="utf-8")


if __name__ == "__main__":
    main()
