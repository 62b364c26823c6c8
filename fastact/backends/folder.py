"""Where compiled kernels are kept, and how.

Without llvmlite, whose import takes 20 ms: a look here says whether it is needed. A file is written under another name
and renamed, and carries a checksum: what does not check out is as good as absent.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

MAGIC = b"fastact1"
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


def _digest(path: Path, code: bytes) -> bytes:
    # of the name too: an entry renamed to another is not that kernel
    return hashlib.sha256(path.stem.encode() + code).digest()


def read(path: Path) -> bytes | None:
    """What was written to a file, None where there is nothing or something else."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    head, digest, code = content[:8], content[8:40], content[40:]
    if head != MAGIC or _digest(path, code) != digest:
        return None
    return code


def write(path: Path, code: bytes) -> None:
    """Keeps code in a file, or notes why it cannot be kept."""
    import tempfile

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(MAGIC + _digest(path, code) + code)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        note(path.parent, error)
