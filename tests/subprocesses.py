"""Running Python in a process of its own, with the package under test on its path."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import fastact

PACKAGE = Path(fastact.__file__).parent


def python(
    code: str,
    *,
    path: Path | None = None,
    stdin: str = "",
    timeout: float = 120,
    check: bool = True,
    **environment: str,
):
    """Run `code`; stdout as text. `path`: the folder whose fastact is imported, by default that of this one."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("FASTACT_") or k == "FASTACT_CACHE_DIR"}
    variables.update(environment)
    variables["PYTHONPATH"] = os.pathsep.join(
        [str(path or PACKAGE.parent), *filter(None, [variables.get("PYTHONPATH")])]
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=variables,
        cwd=tempfile.gettempdir(),  # the working folder comes first on the path of `python -c`
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if check:
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout
    return done


def copied(folder: Path) -> Path:
    """A copy of the package in `folder`, times included."""
    shutil.copytree(PACKAGE, folder / "fastact", ignore=shutil.ignore_patterns("__pycache__"))
    libraries = PACKAGE.with_name("fastact.libs")  # of a wheel repaired by auditwheel
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    return folder / "fastact"
