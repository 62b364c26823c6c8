"""From the JSON of ``fastact bench`` to docs/performance.md and what the README says of speed.

    python -m benchmarks.report benchmarks/results/NAME.json [--other benchmarks/results/OTHER.json]
        [--fused benchmarks/results/FUSED.json] [--steps benchmarks/results/STEPS.json] [--out docs/performance.md]
        [--readme README.md]

'Two machines' sets the same run on another machine beside the first. The section 'Fused' comes from a run of its own,
of fused functions alone; 'Whole training steps' from one of ``python -m benchmarks.training_steps``.
Every statement, a missed target included, is computed from the numbers. The README's picture, drawn by
``python -m benchmarks.chart``, and the words below it go between the lines ``<!-- speed -->`` and ``<!-- /speed -->``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fastact.tools.bench import (
    SMALL,
    STREAM_SIZE,
    cell_name,
    geometric_mean,
    markdown_table,
    size_text,
    time_text,
)

# targets
GEOMETRIC_MEAN, WORST, STREAM_SHARE, SMALL_SECONDS = 2.0, 1.0, 0.9, 0.6e-6
CACHED_SIZE = 2**16  # elements that stay in the second-level caches: what they take is arithmetic
BEGIN, END = "<!-- speed -->", "<!-- /speed -->"


def machine_lines(result: dict[str, Any]) -> list[str]:
    m = result["machine"]
    caches = ", ".join(f"{level} {size}" for level, size in m["caches"].items())
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if name != "stream")
    lines = [
        f"- CPU: {m['cpu']}, {m['cores']} cores seen by the process, {', '.join(m.get('isa', []))}",
        f"- Caches (of one core, as the system reports them): {caches}",
        f"- {m['system']}, Python {m['python']}; {versions}",
        f"- {m['date']}; load of the machine before and after: {result['load_before']:.1f}, {result['load_after']:.1f}",
        f"- {result['settings']['dtype']}, {result['settings']['threads']} threads for every library, "
        f"{result['settings']['rounds']} rounds, scheduled as {result['settings']['scheduler']}",
    ]
    return lines + [f"- not measured: {name} ({reason})" for name, reason in result["missing"].items()]


def misses(result: dict[str, Any]) -> list[str]:
    """A sentence for each target that the numbers miss, with by how much."""
    found = []
    rows = [r for r in result["cells"] if r["ratio"] is not None]
    mean = result["summary"]["geometric_mean"]
    if mean < GEOMETRIC_MEAN:
        found.append(f"Geometric mean {mean:.2f}, target {GEOMETRIC_MEAN:g}: {1 - mean / GEOMETRIC_MEAN:.0%} short.")
    found += slower(rows)
    cached = {(r["op"], r["kind"]): r for r in rows if r["size"] == CACHED_SIZE}
    for r in sorted((r for r in rows if r["stream"]), key=lambda r: r["stream_share"]):
        if r["stream_share"] < STREAM_SHARE:
            same = cached.get((r["op"], r["kind"]))
            scaled = same and time_text(same["fastact"] * r["size"] / CACHED_SIZE)
            found.append(
                f"{cell_name(r)}: {r['stream_share']:.0%} of the {'copy' if r['kind'] == 'forward' else 'triad'}'s "
                f"speed, target {STREAM_SHARE:.0%} ({time_text(r['fastact'])} µs against "
                f"{time_text(r['stream']['seconds'])} µs)"
                + (f"; at the speed of {size_text(CACHED_SIZE)}, from the cache: {scaled} µs." if same else ".")
            )
    call = result["small_calls"]["relu"]["fastact"]
    if call > SMALL_SECONDS:
        found.append(f"relu on {SMALL} elements: {time_text(call)} µs, target {SMALL_SECONDS * 1e6:g} µs.")
    return found


def slower(rows: list[dict[str, Any]]) -> list[str]:
    """A sentence for each function, kind and size for which another library is faster."""
    return [
        f"{cell_name(r)}: {r['ratio']:.2f} of the speed of the fastest other library ({r['best_peer']}, "
        f"{time_text(r['libraries'][r['best_peer']]['seconds'])} µs against {time_text(r['fastact'])} µs)."
        for r in sorted(rows, key=lambda r: r["ratio"])
        if r["ratio"] < WORST
    ]


def targets(result: dict[str, Any]) -> str:
    rows = [r for r in result["cells"] if r["ratio"] is not None]
    streamed = [r for r in rows if r["stream"]]
    summary = result["summary"]
    worst = summary["worst"]
    call = result["small_calls"]["relu"]["fastact"]
    met = {True: "met", False: "missed"}
    mean = summary["geometric_mean"]
    lines = [
        ["geometric mean of the ratios", f">= {GEOMETRIC_MEAN:g}", f"{mean:.2f}", met[mean >= GEOMETRIC_MEAN]],
        [
            "slowest against the fastest other library",
            f">= {WORST:g}",
            f"{worst['ratio']:.2f} ({cell_name(worst)}, {worst['best_peer']})",
            met[worst["ratio"] >= WORST],
        ],
    ]
    if streamed:
        low = min(streamed, key=lambda r: r["stream_share"])
        enough = sum(r["stream_share"] >= STREAM_SHARE for r in streamed)
        text = f"{low['stream_share']:.0%} ({cell_name(low)}); {enough} of {len(streamed)} reach it"
        lines.append(
            ["share of a streaming copy or triad", f">= {STREAM_SHARE:.0%}", text, met[enough == len(streamed)]]
        )
    asked = f"<= {SMALL_SECONDS * 1e6:g} µs"
    lines.append([f"`fa.relu(x, out=y)`, {SMALL} elements", asked, f"{time_text(call)} µs", met[call <= SMALL_SECONDS]])
    return markdown_table(["target", "asked", "measured", ""], lines)


def cell_rows(result: dict[str, Any], size: int, peers: list[str]) -> list[list[str]]:
    rows = []
    for r in result["cells"]:
        if r["size"] != size:
            continue
        share = [f"{r['stream_share']:.0%}"] if size >= STREAM_SIZE and r["stream"] else []
        rows.append([r["op"], r["kind"], *speed_texts(r, ["fastact", *peers]), *share])
    return rows


def speed_texts(row: dict[str, Any], libraries: list[str]) -> list[str]:
    """The time of each library, the fastest in bold, and the ratio."""
    times = [row["libraries"].get(name, {}).get("seconds") for name in libraries]
    fastest = min(t for t in times if t is not None)
    texts = [f"**{time_text(t)}**" if t == fastest else time_text(t) for t in times]
    return [*texts, "-" if row["ratio"] is None else f"{row['ratio']:.2f}"]


def fused(result: dict[str, Any], source: str) -> str:
    """The section about fused functions."""
    columns = [*result["versions"], "composed"]
    rows = [
        [
            r["op"],
            r["kind"],
            size_text(r["size"]),
            *speed_texts(r, columns),
            *([time_text(r["stream"]["floor"]), f"{r['stream_share']:.0%}"] if r["stream"] else ["", ""]),
        ]
        for r in sorted(result["cells"], key=lambda r: (r["op"], r["kind"], r["size"]))
    ]
    compared = [r for r in result["cells"] if r["ratio"] is not None]
    lines = [f"- {line}" for line in slower(compared)]
    return "\n\n".join(
        [
            "## Fused functions, microseconds",
            f"From `{source}`; {result['settings']['row']} columns.",
            "\n".join(machine_lines(result)),
            "'step' is the value and then every gradient. Every library runs in its fastest form: its own fused "
            "function, compiled, or its kernels one after the other into existing memory; gradients by its autograd or "
            "its kernels. 'composed' is fastact without fused functions, with NumPy for the arithmetic; it counts for "
            "no ratio. "
            "'floor' is the time of a streaming copy, measured in the same rounds, for each two arrays that must be "
            "read or written, and 'of floor' our speed over that.",
            markdown_table(["", "", "elements", *columns, "ratio", "floor", "of floor"], rows, left=(0, 1)),
            *(
                [f"Geometric mean of the ratios: {geometric_mean(r['ratio'] for r in compared):.2f}."]
                if compared
                else []
            ),
            *(["\n".join(lines)] if lines else []),
        ]
    )


# of a whole step: how many times faster fastact should be than plain NumPy, and than PyTorch eager
STEP_TARGETS = {"mlp": (2.3, 1.0), "block": (1.4, 1.0)}
STEP_MODELS = {
    "mlp": "784-1024-1024-10, GELU, batch 256",
    "block": "transformer block of width 256, 4 heads, SwiGLU, 8 × 128 tokens",
}
STEP_FORMS = {
    "numpy step": "plain NumPy",
    "fastact step": "fastact",
    "torch eager": "PyTorch eager",
    "torch.compile compiled": "compiled",
    "products numpy": "products alone, NumPy",
    "products torch": "PyTorch",
}


def steps(result: dict[str, Any], source: str) -> str:
    """The section about whole training steps."""
    rows, lines = [], []
    for name, model in result["models"].items():
        seconds = {form: row["median"] for form, row in model["steps"].items()}
        rows.append([STEP_MODELS[name], *(f"{1e3 * seconds[f]:.1f}" if f in seconds else "-" for f in STEP_FORMS)])
        for form, target in zip(("numpy step", "torch eager"), STEP_TARGETS[name], strict=True):
            if form in seconds:
                ratio = seconds[form] / seconds["fastact step"]
                lines.append(
                    [STEP_MODELS[name], STEP_FORMS[form], f">= {target:g}", f"{ratio:.2f}",
                     "met" if ratio >= target else "missed"]
                )  # fmt: skip
    return "\n\n".join(
        [
            "## Whole training steps, milliseconds",
            f"From `{source}`, by `python -m benchmarks.training_steps`, whose module says how.",
            "\n".join(machine_lines(result)),
            "Forward, backward and a step of Adam (PyTorch's is its fused one). Plain NumPy and fastact share all code "
            "but the functions that fastact has; 'products alone' is that shared code. GELU of plain NumPy is SciPy's "
            f"ndtr. OPENBLAS_THREAD_TIMEOUT is {result['settings']['openblas_thread_timeout']} for both.",
            markdown_table(["", *STEP_FORMS.values()], rows),
            markdown_table(["", "fastact against", "asked", "measured", ""], lines, left=(0, 1)),
        ]
    )


def two_machines(result: dict[str, Any], other: dict[str, Any], source: str) -> str:
    """The section that sets the same run on another machine beside the first."""
    runs = (result, other)
    names = [run["machine"]["cpu"] for run in runs]
    cells = [{(r["op"], r["kind"], r["size"]): r for r in run["cells"] if r["ratio"] is not None} for run in runs]
    both = {key: None for key in cells[0] if key in cells[1]}  # in their order
    sizes = sorted({size for _, _, size in both})
    rows = []
    for op, kind in dict.fromkeys((op, kind) for op, kind, _ in both):
        row = [op, kind]
        for size in sizes:
            row += [f"{of[op, kind, size]['ratio']:.2f}" if (op, kind, size) in both else "-" for of in cells]
        streamed = [of.get((op, kind, sizes[-1])) for of in cells]
        rows.append(row + [f"{r['stream_share']:.0%}" if r and r["stream"] else "-" for r in streamed])
    means = [geometric_mean(of[key]["ratio"] for key in both) for of in cells]
    columns = [text for size in sizes for text in (size_text(size), "")]
    missed = misses(other)
    return "\n\n".join(
        [
            "## Two machines",
            f"From `{source}`:",
            "\n".join(machine_lines(other)),
            f"For each size the ratio on the first machine ({names[0]}) and on the second ({names[1]}); then, at "
            f"{size_text(sizes[-1])}, the share of a streaming copy or triad on both. Geometric mean over what both "
            f"measured: {means[0]:.2f} and {means[1]:.2f}.",
            markdown_table(["", "", *columns, "of stream", ""], rows, left=(0, 1)),
            "Of the targets, the second misses:" if missed else "The second misses no target.",
            *(["\n".join(f"- {line}" for line in missed)] if missed else []),
        ]
    )


def page(result: dict[str, Any], source: str, *more: Any) -> str:
    """docs/performance.md from a run and its source; then from others and theirs.

    The others are the same run on another machine, runs of fused functions, or of whole steps.
    """
    sections = []
    for run, path in zip(more[::2], more[1::2], strict=True):
        if run.get("small_calls"):
            sections.append(two_machines(result, run, path))
        else:
            sections.append((fused if "cells" in run else steps)(run, path))
    return "\n".join([performance(result, source), *(section + "\n" for section in sections)])


def performance(result: dict[str, Any], source: str) -> str:
    peers = [name for name in result["versions"] if name not in ("fastact", "stream")]
    missed = misses(result)
    small = [
        [op, *(time_text(times.get(name)) for name in ("fastact", *peers))]
        for op, times in result["small_calls"].items()
    ]
    parts = [
        "# Performance",
        f"Generated by `python -m benchmarks.report` from `{source}`; measured by `fastact bench`, whose module says "
        "how and why. Do not edit.",
        "\n".join(machine_lines(result)),
        "Ratio: time of the fastest other library over ours, so above 1 we are faster. Every library runs in its "
        "fastest form (results into existing memory, compiled where it compiles, backward from x or from y); all forms "
        "and their times are in the JSON.",
        "## Targets",
        targets(result),
        "\n".join(f"- {line}" for line in missed) if missed else "No target is missed.",
        "Where the speed of a copy is missed, two cores mostly have more to compute, within the bounds of accuracy, "
        "than memory has to move: compare the time of the same work on cached data. What bounds it is in "
        "[design.md](design.md), 'Several vectors side by side'.",
        "## By kind and size",
        markdown_table(
            ["kind", "elements", "geometric mean of the ratios"],
            [
                [key.split()[0], size_text(int(key.split()[1])), f"{value:.2f}"]
                for key, value in result["summary"]["by_kind_and_size"].items()
            ],
        ),
        f"## A call on {SMALL} elements, microseconds",
        markdown_table(["", "fastact", *peers], small),
    ]
    for size in sorted({r["size"] for r in result["cells"]}):
        header = ["", "", "fastact", *peers, "ratio"]
        parts.append(f"## {size_text(size)} elements, microseconds")
        if size >= STREAM_SIZE:
            header.append("of stream")
            parts.append(stream_text(result, size))
        parts.append(markdown_table(header, cell_rows(result, size, peers), left=(0, 1)))
    return "\n\n".join(parts) + "\n"


def stream_text(result: dict[str, Any], size: int) -> str:
    """How fast memory was, and by which implementation."""
    texts = []
    width = {"float32": 4, "float64": 8}[result["settings"]["dtype"]]
    for kind, name, moved in (("forward", "copy", 2), ("backward", "triad", 3)):
        rows = [r for r in result["cells"] if r["kind"] == kind and r["size"] == size and r["stream"]]
        if rows:
            rates = [moved * size * width / r["stream"]["seconds"] / 1e9 for r in rows]
            forms = sorted({r["stream"]["form"] for r in rows})
            texts.append(f"{name} {min(rates):.0f} to {max(rates):.0f} GB/s (fastest: {', '.join(forms)})")
    return (
        "'of stream': our speed over that of a streaming copy (forward) or triad (backward, two reads and one write), "
        "the fastest of several implementations, measured in the same rounds: " + "; ".join(texts) + "."
    )


def readme(result: dict[str, Any]) -> str:
    """The picture, and what was measured."""
    rows = [r for r in result["cells"] if r["ratio"] is not None]
    others = ", ".join(f"{n} {v}" for n, v in result["versions"].items() if n not in ("fastact", "stream"))
    sizes = sorted({r["size"] for r in rows})
    low = min(rows, key=lambda r: r["ratio"])
    return (
        "<picture>\n"
        '  <source media="(prefers-color-scheme: dark)" srcset="docs/images/speed-dark.svg">\n'
        '  <img alt="How many times faster than the fastest other library each function is" '
        'src="docs/images/speed-light.svg">\n'
        "</picture>\n\n"
        f"{len(rows)} measurements on arrays of {size_text(sizes[0])} to {size_text(sizes[-1])} elements; their "
        f"geometric mean is {geometric_mean(r['ratio'] for r in rows):.1f}×, the least {low['ratio']:.2f}× "
        f"({cell_name(low)}). The other libraries are {others}. {result['machine']['cpu']}, "
        f"{result['settings']['threads']} threads, {result['settings']['dtype']}, {result['machine']['date']}. "
        "Every number and how it was measured: [docs/performance.md](docs/performance.md)."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path)
    parser.add_argument("--other", type=Path, metavar="JSON", help="the same run on another machine, set beside it")
    parser.add_argument("--fused", type=Path, metavar="JSON", help="a run of fused functions, for a section of its own")
    parser.add_argument("--steps", type=Path, metavar="JSON", help="a run of whole training steps, likewise")
    parser.add_argument("--out", type=Path, default=Path("docs/performance.md"))
    parser.add_argument("--readme", type=Path, help="replace what this file says of speed")
    args = parser.parse_args()
    result = json.loads(args.json.read_text())
    runs = [(json.loads(path.read_text()), path.as_posix()) for path in (args.other, args.fused, args.steps) if path]
    args.out.write_text(page(result, args.json.as_posix(), *(part for run in runs for part in run)))
    if args.readme:
        before, begin, rest = args.readme.read_text().partition(BEGIN)
        _, end, after = rest.partition(END)
        if not (begin and end):
            parser.error(f"{args.readme} has no lines {BEGIN} and {END}")
        args.readme.write_text(f"{before}{BEGIN}\n{readme(result)}\n{END}{after}")


if __name__ == "__main__":
    main()
