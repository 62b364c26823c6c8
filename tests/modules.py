"""Modules by their path: tools/ and benchmarks/ are on none, or the package that is not built would be found there."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def load(path):
    """The module of a file; a skipped test where this checkout has no such file."""
    if not path.exists():
        pytest.skip(f"{path} is not in this checkout")
    spec = spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look for it
    spec.loader.exec_module(module)
    return module
