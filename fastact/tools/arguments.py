"""Types of arguments that several commands take, and the memory that there is."""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path

from fastact.spec.table import Op


def positive(text: str) -> int:
    """An integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def natural(text: str) -> int:
    """An integer of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a non-negative integer")
    return int(text)


def parameter(text: str) -> tuple[str, float]:
    """NAME=NUMBER."""
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=NUMBER") from None


def without_required(op: Op) -> Op:
    """An activation that needs no parameter from the user."""
    required = [p.name for p in op.params if p.default is None]
    if required:
        raise argparse.ArgumentTypeError(f"{op.name} has no default for {', '.join(required)}; choose another one")
    return op


def file(text: str) -> Path:
    """A path that can be written to."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: there is no folder {str(path.parent)!r}")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
    return path


def picture(text: str) -> str:
    """A path that a plot can be written to."""
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("plots need matplotlib, which is not installed: pip install 'fastact[plot]'")
    formats = (".png", ".svg", ".pdf")
    if Path(text).suffix.lower() not in formats:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {', '.join(formats)}")
    file(text)
    return text


def memory_of_machine() -> int | None:
    """Bytes of memory of this machine, where the system says so."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
