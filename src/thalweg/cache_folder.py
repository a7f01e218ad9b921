"""Where the package keeps what it would have to find out again, such as printed kernels."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path


def cache_folder(name: str) -> Path:
    """A folder in the user's cache, or one of this process where others write to that."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "thalweg" / name
        for each in (folder.parent, folder):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not is_own(each):
                return temporary()
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError):  # no folder that can be written to; no home
        return temporary()
    return folder


def is_own(folder: Path) -> bool:
    """Whether nobody else can put code there that would be run."""
    known = folder.stat()
    return not hasattr(os, "getuid") or (known.st_uid == os.getuid() and not known.st_mode & 0o022)


@cache
def temporary() -> Path:
    """A folder that goes when the process ends."""
    made = tempfile.mkdtemp(prefix="thalweg-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)
