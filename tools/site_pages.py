"""Pages of the documentation site that follow from tables. docs/conf.py calls `write` before Sphinx reads them.

API reference: a page for each activation and function, grouped by what they are. Gallery: a script for each activation,
which sphinx-gallery runs. Pages of the repository outside docs/, with their links led to the site. Examples: one page
with the source of each file in docs/examples.
"""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fastact as fa
from fastact.api.functions import FUNCTIONS
from fastact.api.fused import Fused
from fastact.spec.table import OPS, Op

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
REPOSITORY = re.findall(r'^Source = "(.*)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[0]

# pages of the repository, and the site's own name for each
COPIED = {
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "SECURITY.md": "security",
    "benchmarks/README.md": "benchmarks",
}
# groups of functions by the module that defines them: heading and a sentence
GROUPS = {
    "activation": ("Activations", "Elementwise functions. Each is a ufunc and has its gradients and fused forms."),
    "over_axis": ("Softmax and relatives", "Functions over one or several axes."),
    "gated_units": ("Gated units", "f(gate)·up, of two arrays or of one that holds both halves."),
    "losses": ("Losses", "Each gives its gradient in the same pass."),
    "norms": ("Norms", "Values normalised by their mean and variance, with gradients for training."),
    "dropout": ("Random functions", "Their random numbers follow from a seed and the index of an element."),
    "optimisers": ("Optimisers", "For lists of arrays, with PyTorch's conventions; and one step for one array."),
    "package": ("The package", "Names, backends, threads."),
}
# modules whose functions stand with those of another one
WITH = {"softmax": "over_axis", "pointwise": "losses", "batch_norm": "norms"}
# for parameters without a default
SAMPLE = (0.5, -0.5)


def underlined(title: str, mark: str = "=") -> str:
    title = re.sub(r"_$", r"\_", title)  # else "adam_" is a link
    return f"{title}\n{mark * len(title)}\n"


# a call, and after it what it gives: "softmax(x, axis=-1) = exp(x)/sum(exp(x))", "swiglu(gate, up=None)"
_CALL = re.compile(r"[\w.]+(\((?:[^()]|\([^()]*\))*\))(?:(?: = |: )(.*))?", re.DOTALL)


def headed(text: str) -> tuple[str, str, list[str]]:
    """A docstring's signature where it begins with one, its summary, and the paragraphs after that."""
    first, *rest = text.strip().split("\n\n")
    found = _CALL.fullmatch(" ".join(first.split()))
    if found is None:
        return "", " ".join(first.split()), rest
    if found[2]:
        return found[1], found[2], rest
    return found[1], " ".join(rest[0].split()), rest[1:]


def methods_of(thing: Any) -> list[str]:
    """Names of what users call on it."""
    if isinstance(thing, fa.Activation):
        return [name for name in dir(thing) if name != "ufunc" and callable(getattr(thing, name))]
    return [name for name in ("forward", "backward", "value_and_grad") if hasattr(thing, name)]


# API reference


def group_of(thing: Any) -> str:
    module = type(thing).__module__.rpartition(".")[2]
    return WITH.get(module, module)


def reference() -> dict[str, dict[str, str]]:
    """For each group, names and the text of their pages."""
    pages: dict[str, dict[str, str]] = {group: {} for group in GROUPS}
    for name in OPS:
        pages["activation"][name] = page_of_activation(OPS[name])
    for name, function in FUNCTIONS.items():
        pages[group_of(function)][name] = page_of_function(name, function)
    for name in fa.optim.__all__:
        pages["optimisers"][f"optim.{name}"] = page(f"optim.{name}", getattr(fa.optim, name))
    for name in fa.__all__:
        thing = getattr(fa, name)
        if inspect.isroutine(thing) or inspect.isclass(thing):
            pages["package"][name] = page(name, thing)
    return pages


def documented(pages: dict[str, dict[str, str]]) -> set[str]:
    """Every name of the package that the reference has, other names of activations included."""
    names = {name for group in pages.values() for name in group}
    return names | {alias for name in OPS for alias in OPS[name].aliases}


def page(name: str, thing: Any) -> str:
    directive = "autoclass" if inspect.isclass(thing) else "autofunction"
    members = "   :members:\n" if thing is fa.optim.Optimiser else ""
    return f"{underlined(f'fastact.{name}')}\n.. {directive}:: fastact.{name}\n{members}"


def page_of_function(name: str, function: Any) -> str:
    text = [underlined(f"fastact.{name}")]
    text += [f".. autofunction:: fastact.{n}\n" for n in (name, *(f"{name}.{m}" for m in methods_of(function)))]
    return "\n".join(text)


def page_of_activation(op: Op) -> str:
    f = fa.activations[op.name]
    others = [alias for alias in op.aliases if hasattr(fa, alias)]
    text = [underlined(f"fastact.{op.name}")]
    if others:
        text.append(f"Also ``{'``, ``'.join(f'fastact.{alias}' for alias in others)}``.\n")
    text.append(
        f".. figure:: /generated/gallery/images/sphx_glr_{op.name}_001.png\n   :alt: {op.name} and its derivative\n"
        f"   :target: ../gallery/{op.name}.html\n   :width: 60%\n"
    )
    names = methods_of(f)
    fused = [n for n in names if isinstance(getattr(f, n), Fused) or n.startswith("fused")]
    sections = (
        ("Values", [""]),
        ("Gradients", [n for n in names if n not in fused and n != "address"]),
        ("With a bias, a gate, a residual, dropout", fused),
        ("For C", [n for n in names if n == "address"]),
    )
    for title, found in sections:
        text.append(underlined(title, "-"))
        for n in found:
            text.append(f".. autofunction:: fastact.{op.name}{n and '.' + n}\n")
    return "\n".join(text)


def index_of_reference(pages: dict[str, dict[str, str]]) -> str:
    text = [underlined("API reference"), "Everything that ``import fastact as fa`` gives.\n"]
    for group, (title, sentence) in GROUPS.items():
        text += [underlined(title, "-"), sentence + "\n", ".. list-table::\n   :widths: 25 75\n"]
        for name in sorted(pages[group], key=str.lower):
            thing = fa
            for part in name.split("."):
                thing = getattr(thing, part)
            what = thing.formula if isinstance(thing, fa.Activation) else headed(inspect.getdoc(thing))[1]
            text.append(f"   * - :doc:`fastact.{name}`\n     - {escaped(what)}")
        text += ["", ".. toctree::\n   :hidden:\n", *(f"   fastact.{name}" for name in sorted(pages[group])), ""]
    return "\n".join(text)


def escaped(text: str) -> str:
    """Plain text for reStructuredText, of which a backquoted word is code."""
    parts = re.split(r"(``?[^`]+``?)", text)
    code = [f"``{p.strip('`')}``" if i % 2 else re.sub(r"([\\*_|`])", r"\\\1", p) for i, p in enumerate(parts)]
    return "".join(code)


# gallery


def gallery_script(op: Op) -> str:
    """A program that draws an activation and its derivative; sphinx-gallery runs it."""
    f = fa.activations[op.name]
    required = [p.name for p in op.params if p.default is None]
    given = dict(zip(required, SAMPLE, strict=False))
    keywords = "".join(f", {name}={value:g}" for name, value in given.items())
    choose = ", ".join(f'"{name}": {value:g}' for name, value in given.items())
    formula = f.formula.replace("\\", "\\\\")
    return f'''"""
{underlined(op.name)}
``{formula}``

{" ".join(op.source.split())}

:doc:`/generated/api/fastact.{op.name}` has its parameters, gradients and fused forms.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastact as fa
from fastact.spec.table import OPS
from fastact.tools.curves import figure_of

figure = figure_of([(OPS["{op.name}"], {{{choose}}})], -5, 5, plt.figure(figsize=(7, 5), layout="constrained"))

# %%
# Values and derivatives at some points:

x = np.linspace(-3, 3, 7, dtype=np.float32)
y, slope = fa.{op.name}.value_and_grad(x{keywords})
print("x  ", x)
print("f  ", y)
print("f' ", slope)
'''


# pages of the repository


def copied(path: str) -> str:
    """A page of the repository with its links led to pages of the site, else to the repository."""
    folder = (ROOT / path).parent

    def led(match: re.Match[str]) -> str:
        target, _, anchor = match[2].partition("#")
        if not target or "://" in target:
            return match[0]
        file = (folder / target).resolve().relative_to(ROOT).as_posix()
        anchor = anchor and f"#{anchor}"
        if file in COPIED:
            return f"{match[1]}({COPIED[file]}.md{anchor})"
        if file.startswith("docs/") and file.endswith(".md"):
            return f"{match[1]}(../{file.removeprefix('docs/')}{anchor})"
        kind = "tree" if (ROOT / file).is_dir() else "blob"
        return f"{match[1]}({REPOSITORY}/{kind}/main/{file}{anchor})"

    return re.sub(r"(\[[^\]]*\])\(([^)\s]+)\)", led, (ROOT / path).read_text(encoding="utf-8"))


def examples() -> str:
    text = ["# Examples\n", "Programs to start from. Each runs by `python NAME.py`.\n"]
    for path in sorted((DOCS / "examples").glob("*.py")):
        first = inspect.cleandoc(path.read_text(encoding="utf-8").split('"""')[1])
        text += [f"## {path.stem.replace('_', ' ')}\n", first + "\n"]
        text += [f"```{{literalinclude}} ../examples/{path.name}\n:language: python\n```\n"]
    return "\n".join(text)


def write_if_changed(path: Path, text: str) -> None:
    """So that Sphinx reads again only what is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def write(folder: Path, scripts: Path) -> None:
    """All pages into `folder`, the gallery's programs into `scripts`."""
    pages = reference()
    missing = {n for n in fa.__all__ if not inspect.ismodule(getattr(fa, n)) and n != "activations"} - documented(pages)
    missing -= {"__version__"}
    if missing:
        raise RuntimeError(f"the reference lacks {', '.join(sorted(missing))}")
    wanted = {folder / "api" / "index.rst": index_of_reference(pages)}
    wanted |= {folder / "api" / f"fastact.{n}.rst": text for group in pages.values() for n, text in group.items()}
    wanted |= {folder / f"{name}.md": copied(path) for path, name in COPIED.items()}
    wanted |= {folder / "examples.md": examples()}
    wanted |= {scripts / f"{name}.py": gallery_script(OPS[name]) for name in OPS}
    wanted |= {
        scripts
        / "GALLERY_HEADER.rst": f"{underlined('Gallery')}\nEvery activation, and its derivative as a dashed line.\n"
    }
    clean(folder / "api", wanted)
    clean(scripts, wanted)
    for path, text in wanted.items():
        write_if_changed(path, text)


def clean(folder: Path, wanted: Iterable[Path]) -> None:
    """Remove what an earlier build wrote and this one does not."""
    for path in folder.glob("*"):
        if path.is_file() and path not in wanted:
            path.unlink()
    for path in folder.glob("__pycache__"):
        shutil.rmtree(path)
