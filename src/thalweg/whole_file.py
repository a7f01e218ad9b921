"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EEXIST
from pathlib import Path
from tempfile import TemporaryFile

from thalweg.errors import UserError

LARGEST = 1_000_000
"""The most bytes of a file that a person writes. Such a file usually has some hundred."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives an empty file next to `path`, which replaces `path` when the block ends without error.

    So a file at `path` is replaced only by a complete one. Missing folders are made. Raises OSError
    if this is not possible.
    """
    require_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    # A link of that name would lead to another file.
    unfinished.unlink(missing_ok=True)
    unfinished.touch(exist_ok=False)
    try:
        mode = unfinished.stat().st_mode
        yield unfinished
        unfinished.chmod(mode)  # some writers make a new file that only its owner can read
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())  # the power may go off after the file has its name
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text as a whole file. Raises UserError if it cannot be written."""
    try:
        with whole_file(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from error


def read_text(what: str, path: Path) -> str:
    """The text of a file that a person writes. Raises UserError if it cannot be read, or is no
    text.

    what: the name of the file in messages, such as "the plan".
    """
    try:
        require_replaceable(path)  # a device may have no end
        if path.stat().st_size > LARGEST:
            raise UserError(f"{what} {path} is too large: it may have {LARGEST} bytes at most.")
        return path.read_text(encoding="utf-8-sig")  # some editors add a mark before the text
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{what} {path} is not a text in UTF-8.") from None


def require_writable(path: Path) -> None:
    """Raises UserError if a file cannot be written there. Leaves nothing behind."""
    try:
        require_replaceable(path)
        # Missing folders are made only when the file is written.
        with TemporaryFile(dir=next(folder for folder in path.parents if folder.exists())):
            pass
    except OSError as error:
        raise unwritable(path, error) from None


def require_replaceable(path: Path) -> None:
    """Raises OSError for the path of a folder, a device or anything else that is no file."""
    if path.exists() and not path.is_file():
        raise FileExistsError(EEXIST, "it is not a regular file")


def unwritable(path: Path, error: Exception) -> UserError:
    why = getattr(error, "strerror", None) or error
    return UserError(f"{path} cannot be written: {why}.")
