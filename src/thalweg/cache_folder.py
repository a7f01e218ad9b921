"""The cache folder, in which the package keeps compiled kernels and measured speeds."""

from __future__ import annotations

import os
import stat
from pathlib import Path

OPEN = stat.S_IWGRP | stat.S_IWOTH if hasattr(os, "geteuid") else 0
"""The bits of a mode that let other users write. Windows has none."""


def cache_folder(name: str) -> Path:
    """A folder in the user's cache to which only this user and root can write.

    Raises OSError if there is none.
    """
    folder = made(user_cache().absolute() / "thalweg" / name)
    if not is_own(folder.stat()):
        raise PermissionError(f"Other users can write to {folder}.")
    return folder


def user_cache() -> Path:
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen)
    try:
        return Path.home().resolve(strict=True) / ".cache"
    except RuntimeError as error:
        raise FileNotFoundError("This user has no home.") from error


def made(folder: Path) -> Path:
    """The folder, which is made if it is missing.

    Raises OSError if another user could put another folder in its place. A sticky folder, such as
    `/tmp`, protects the folders of each user.
    """
    if folder != folder.parent:
        made(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    known = folder.lstat()
    is_link = stat.S_ISLNK(known.st_mode)
    is_closed = is_link or known.st_mode & stat.S_ISVTX or not known.st_mode & OPEN
    if not (is_owned(known) and is_closed):
        raise PermissionError(f"Other users can change {folder}.")
    if is_link:
        made(folder.parent / folder.readlink())
    return folder


def is_own(known: os.stat_result) -> bool:
    """Whether only this user and root can write to a file or folder."""
    return is_owned(known) and not known.st_mode & OPEN


def is_owned(known: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or known.st_uid in (0, os.geteuid())
