"""Files that are written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EEXIST
from pathlib import Path
from tempfile import TemporaryFile

from thalweg.errors import UserError

LARGEST = 1_000_000
"""Bytes of a file that a person writes, who needs some hundred."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """An empty file beside `path` to write to, which takes its place when the block ends well.

    What stands at `path` is replaced only by a whole file. Folders on the way are made. Raises
    OSError where that cannot be.
    """
    require_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    # A link of that name would be followed to somebody's file.
    unfinished.unlink(missing_ok=True)
    unfinished.touch(exist_ok=False)
    try:
        mode = unfinished.stat().st_mode
        yield unfinished
        unfinished.chmod(mode)  # some writers make a new file, for its owner alone
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Puts a text in place, whole; UserError where it cannot be written."""
    try:
        with whole_file(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from error


def read_text(what: str, path: Path) -> str:
    """The text of a file that a person writes; UserError where it cannot be read, or is none.

    what: what the file is called in messages, such as "the plan".
    """
    try:
        require_replaceable(path)  # a device may have no end
        if path.stat().st_size > LARGEST:
            raise UserError(f"{what} {path} is too large: it may have {LARGEST} bytes.")
        return path.read_text(encoding="utf-8-sig")  # some editors put a mark before the text
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{what} {path} is no text in UTF-8.") from None


def require_writable(path: Path) -> None:
    """UserError where a file cannot be put there. Nothing is left behind."""
    try:
        require_replaceable(path)
        # The folders that are not there yet are made when the file is written.
        with TemporaryFile(dir=next(folder for folder in path.parents if folder.exists())):
            pass
    except OSError as error:
        raise unwritable(path, error) from None


def require_replaceable(path: Path) -> None:
    """OSError for a path at which a folder, a device or anything else but a file stands."""
    if path.exists() and not path.is_file():
        raise FileExistsError(EEXIST, "it is no regular file")


def unwritable(path: Path, error: Exception) -> UserError:
    why = getattr(error, "strerror", None) or error
    return UserError(f"{path} cannot be written: {why}.")
