"""Python as if Numba were not installed: ``PYTHONPATH=tests/without_numba pytest``, child processes included."""

from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec


def find_other_spec(cls, name, path=None, target=None):
    return None if name.split(".")[0] in ("numba", "llvmlite") else find_spec(name, path, target)


PathFinder.find_spec = classmethod(find_other_spec)
