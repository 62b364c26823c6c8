"""The documentation site, as far as it goes without Sphinx: its pages from the tables, and the check of links."""

from __future__ import annotations

import inspect
import re
import sys

import pytest
from modules import ROOT, load

import fastact as fa
from fastact.api.functions import FUNCTIONS
from fastact.spec.table import OPS

DOCS = ROOT / "docs"


def test_pages_of_the_tables(tmp_path):
    site_pages = load(ROOT / "tools" / "site_pages.py")
    folder, scripts = tmp_path / "pages", tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "of_an_earlier_table.py").touch()
    site_pages.write(folder, scripts)
    reference = {path.stem.removeprefix("fastact.") for path in (folder / "api").glob("fastact.*.rst")}
    assert reference >= {*OPS, *FUNCTIONS, *(f"optim.{name}" for name in fa.optim.__all__)}
    text = "".join(path.read_text(encoding="utf-8") for path in (folder / "api").glob("*.rst"))
    for name in fa.__all__:
        if name not in ("activations", "__version__") and not inspect.ismodule(getattr(fa, name)):
            assert re.search(rf"fastact\.{name}\b", text), name
    for name, function in FUNCTIONS.items():
        for method in ("forward", "backward", "value_and_grad"):
            assert hasattr(function, method) == (f"autofunction:: fastact.{name}.{method}\n" in text)
    assert {path.stem for path in scripts.glob("*.py")} == set(OPS)
    for path in scripts.glob("*.py"):
        compile(path.read_text(encoding="utf-8"), path, "exec")


def test_links_of_pages_outside_docs():
    site_pages = load(ROOT / "tools" / "site_pages.py")
    text = site_pages.copied("CONTRIBUTING.md")
    assert "(../design.md)" in text and "(benchmarks.md)" in text
    for path in site_pages.COPIED:
        for link in re.findall(r"\]\(([^)#]+)", site_pages.copied(path)):
            target = DOCS / "generated" / link
            own = link.removesuffix(".md") in site_pages.COPIED.values()
            assert own or "://" in link or target.resolve().exists(), link


def test_links_of_the_repository():
    """Of every page: the README is no part of the site."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "benchmarks").glob("*.md"), *DOCS.glob("*.md")]
    found = 0
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r'\]\(([^)\s]+)\)|(?:src|srcset)="([^"]+)"', text):
            path = (link[0] or link[1]).partition("#")[0]
            if path and "://" not in path:
                found += 1
                assert (page.parent / path).exists(), f"{page.name}: {path}"
    assert found > 30


@pytest.mark.parametrize(
    ("first", "wanted"),
    [
        (
            "softmax(x, axis=(0, 1)) = exp(x)/sum(exp(x))\n\nMore.",
            ("(x, axis=(0, 1))", "exp(x)/sum(exp(x))", ["More."]),
        ),
        ("elu(x, /)\n\nf(x) = x\n\nMore.", ("(x, /)", "f(x) = x", ["More."])),
        ("Some words (of f(x)).\n\nMore.", ("", "Some words (of f(x)).", ["More."])),
    ],
)
def test_summaries(first, wanted):
    assert load(ROOT / "tools" / "site_pages.py").headed(first) == wanted


def test_dead_links_are_found(tmp_path, capsys, monkeypatch):
    check_links = load(ROOT / "tools" / "check_links.py")
    (tmp_path / "other.html").write_text('<h1 id="here">x</h1><a href="https://example.org">y</a>')
    good = '<a href="other.html#here">a</a><a href="#me" id="me">b</a><a href="other.html?x=1">c</a>'
    (tmp_path / "index.html").write_text(good)
    assert check_links.check(tmp_path) == (2, 3, 1, [])
    monkeypatch.setattr(sys, "argv", ["check_links", str(tmp_path)])
    assert check_links.main() == 0
    (tmp_path / "index.html").write_text(good + '<img src="gone.png"><a href="other.html#gone">d</a>')
    assert check_links.main() == 1
    out = capsys.readouterr().out
    assert "gone.png: there is no such file" in out and "other.html#gone: there is no such place" in out
    assert out.endswith("2 pages, 5 links inside the site, 2 of them dead; 1 to other hosts\n")
