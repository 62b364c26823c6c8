"""Where object code is kept. Without llvmlite, whose import takes 20 ms: a look here says whether it is needed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

NOWHERE = Path(os.devnull, "fastact")  # for a user without a home: can be neither read nor written
problems: dict[str, str] = {}  # folder -> why nothing can be kept there


def folder() -> Path:
    """`FASTACT_CACHE_DIR`, or the user's cache folder of the platform."""
    chosen = os.environ.get("FASTACT_CACHE_DIR")
    if chosen:
        return Path(chosen)
    # platformdirs knows these, too, and takes 6 ms to import
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "")
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    found = Path(os.path.expanduser(base), "fastact")
    return found if found.is_absolute() else NOWHERE


def has_any(name: str) -> bool:
    """Whether there are entries of a kernel, for whatever CPU and sources."""
    try:
        return any(file.startswith(f"{name}-") for file in os.listdir(folder()))
    except OSError:
        return False


def check() -> None:
    """Notes in `problems` why nothing can be kept, if that is so."""
    import tempfile

    problems.pop(str(folder()), None)
    try:
        folder().mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder()).close()
    except OSError as error:
        note(folder(), error)


def note(where: Path, error: OSError) -> None:
    """Puts an error into `problems`."""
    reason = "no home folder" if where == NOWHERE else f"not writable: {error.strerror or error}"
    problems[str(where)] = f"{reason}; FASTACT_CACHE_DIR can name another folder"
