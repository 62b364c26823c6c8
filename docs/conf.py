"""Sphinx: `python -m sphinx -W --keep-going docs docs/build/site` builds the site."""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tools"))

import site_pages  # noqa: E402

import fastact  # noqa: E402

SCRIPTS = HERE / "build" / "gallery"
site_pages.write(HERE / "generated", SCRIPTS)

project = "fastact"
author = "The fastact maintainers"
copyright = f"2026, {author}"
version = release = fastact.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["build", "examples", "tutorial"]

autodoc_typehints = "none"
autodoc_docstring_signature = False
numpydoc_show_class_members = False
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

sphinx_gallery_conf = {
    "examples_dirs": ["tutorial", str(SCRIPTS)],
    "gallery_dirs": ["generated/tutorial", "generated/gallery"],
    "filename_pattern": r"\.py",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "nested_sections": False,
}

html_theme = "pydata_sphinx_theme"
html_title = "fastact"
html_static_path = ["images"]
html_theme_options = {
    "github_url": site_pages.REPOSITORY,
    "logo": {"text": "fastact"},
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
}


# what numpydoc takes for a signature: escaped, it is a formula
LIKE_A_CALL = re.compile(r"([\w., ]+=)?\s*[\w.]+\(.*\)")


def for_sphinx(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings without their signature, which Sphinx has; in formulas `*` and `|` mean themselves."""
    _, summary, rest = site_pages.headed("\n".join(lines))
    if LIKE_A_CALL.fullmatch(summary):
        summary = f"``{summary}``"
    else:
        summary = summary.replace("*", r"\*")
    text = [f"``{part}``" if LIKE_A_CALL.fullmatch(part.strip()) else part for part in rest]
    lines[:] = "\n\n".join([summary, *text]).split("\n")
    for i, line in enumerate(lines):
        if "``" not in line and not line.lstrip().startswith((">>>", "...")):
            lines[i] = line.replace("|", r"\|")


def signature(
    app: Any, what: str, name: str, thing: Any, options: Any, of_python: str | None, returns: Any
) -> tuple[str | None, str]:
    """That of the docstring where this consists of a line of its own, else that of Python."""
    text = inspect.getdoc(thing) or ""
    head, summary, _ = site_pages.headed(text)
    alone = head and summary not in " ".join(text.split("\n\n")[0].split())
    return (head if alone else of_python), ""


def setup(app: Any) -> None:
    # before numpydoc, whose priority is 500
    app.connect("autodoc-process-docstring", for_sphinx, priority=400)
    app.connect("autodoc-process-signature", signature, priority=400)
