"""An SQLite file that detects damage. Rows are only added, and the file keeps the sum of their
checksums.

A row that is damaged, lost or doubled is detected when the file is opened. Each error becomes one
sentence for the person who works with the file.
"""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from thalweg.arguments import word
from thalweg.checksum import checksum
from thalweg.errors import FailedError, UserError

APPLICATION = 0x7468616C
"""The number by which SQLite marks a file as ours: "thal" in ASCII."""


class CheckedFile:
    """A file with these tables, which are given in SQL, and this version; made if it is missing.

    One process holds it from its first transaction until it is closed.
    """

    def __init__(self, path: Path, tables: str, version: int) -> None:
        self.path, self.folder = path, path.parent
        self.tables, self.version = tables, version
        self.sum = 0
        with failures(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(path, timeout=0, isolation_level=None)
            # The lock is kept until the connection is closed, so that there is one writer.
            self.connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            self.opened = path.stat()

    def close(self) -> None:
        self.connection.close()

    @property
    def empty(self) -> bool:
        """Whether the file has no tables and no mark yet."""
        tables, owner = "SELECT count(*) FROM sqlite_master", "PRAGMA application_id"
        return bool(self.one(tables) == self.one(owner) == 0)

    def create(self) -> None:
        """Makes the tables. It must be called within a transaction."""
        self.connection.execute(f"PRAGMA application_id = {APPLICATION}")
        self.connection.execute(f"PRAGMA user_version = {self.version}")
        for table in self.tables.split(";"):
            self.connection.execute(table)
        self.connection.execute("CREATE TABLE checksum (sum TEXT NOT NULL)")
        self.connection.execute("INSERT INTO checksum VALUES ('')")
        self.sum = self.sum_of_rows("sqlite_master")

    # Checks

    def require_undamaged(self) -> None:
        """Raises UserError unless it is a ledger whose pages and rows are as they were written."""
        self.require_this_kind()
        tables = re.findall(r"TABLE (\w+)", self.tables)
        try:
            problems = self.connection.execute("PRAGMA integrity_check(1)").fetchall()
            self.sum = sum(map(self.sum_of_rows, ["sqlite_master", *tables]))
            kept = self.connection.execute("SELECT sum FROM checksum").fetchall()
        except (sqlite3.Error, ValueError, OverflowError, MemoryError) as error:
            raise self.damaged(word(str(error))) from error
        if problems != [("ok",)] or kept != [(hexadecimal(self.sum),)]:
            raise self.damaged("a checksum is wrong")

    def require_this_kind(self) -> None:
        if self.one("PRAGMA application_id") != APPLICATION:
            raise UserError(f"{self.path} is not a ledger of thalweg; choose another name.")
        version = self.one("PRAGMA user_version")
        if version != self.version:
            raise UserError(
                f"{self.path} was written by another version of thalweg (its format is {version},"
                f" this one's {self.version}); begin {under_another_name(self.folder)}."
            )

    def damaged(self, why: str) -> UserError:
        return UserError(
            f"{self.path} is damaged ({why}); begin {under_another_name(self.folder)}."
        )

    def require_in_place(self) -> None:
        """Raises UserError if the file was deleted: what is written to it would be lost."""
        with suppress(OSError):
            if os.path.samestat(self.path.stat(), self.opened):
                return
        raise FailedError(
            f"{self.path} was deleted or replaced while it was in use, and the finished work is"
            " lost; give the same command again."
        )

    # Rows

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Keeps all that the block writes, or nothing of it."""
        self.require_in_place()
        before = self.sum
        with failures(self.path):
            self.connection.execute("BEGIN EXCLUSIVE")
            try:
                yield
                if self.sum != before:
                    self.connection.execute("UPDATE checksum SET sum = ?", (hexadecimal(self.sum),))
                self.connection.execute("COMMIT")
            except BaseException:
                self.sum = before
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    def insert(self, table: str, rows: Iterable[Sequence[object]]) -> None:
        for row in rows:
            marks = ", ".join("?" * len(row))
            self.connection.execute(f"INSERT INTO {table} VALUES ({marks})", row)
            # The checksum is taken from the row as it is read, because SQLite converts types.
            self.sum += self.sum_of_rows(table, "WHERE rowid = last_insert_rowid()")

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with failures(self.path):
            return self.connection.execute(query, values).fetchall()

    def one(self, query: str) -> Any:
        return self.rows(query)[0][0]

    def in_order(self, table: str) -> list[tuple[Any, ...]]:
        return self.rows(f"SELECT * FROM {table} ORDER BY rowid")

    def fact(self, name: str) -> str:
        """What the table `facts` holds under a name; nothing where it is not there."""
        found = self.rows("SELECT value FROM facts WHERE name = ?", name)
        return str(found[0][0]) if found else ""

    def sum_of_rows(self, table: str, which: str = "NOT INDEXED") -> int:
        rows = self.connection.execute(f"SELECT * FROM {table} {which}")
        return sum(int(checksum([table, row]), 16) for row in rows)


@contextmanager
def failures(path: Path) -> Iterator[None]:
    """Turns errors of SQLite and of the file system into one sentence that names the folder."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise UserError(sentence(path, error)) from error
    except OSError as error:
        raise UserError(f"The folder {path.parent} cannot be made: {error.strerror}.") from error


def sentence(path: Path, error: sqlite3.DatabaseError) -> str:
    folder = path.parent
    name = error.sqlite_errorname if hasattr(error, "sqlite_errorname") else ""
    if name.startswith("SQLITE_BUSY"):
        return (
            f"Another process works in {folder}; wait for its end, or begin"
            f" {under_another_name(folder)}."
        )
    if name in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
        return (
            f"{path} is not a ledger of thalweg, or is damaged ({word(str(error))}); begin"
            f" {under_another_name(folder)}."
        )
    return (
        f"The ledger in {folder} cannot be written ({error}). Make room on the disk or make the"
        " folder writable, then give the same command again; finished work is kept."
    )


def under_another_name(folder: Path) -> str:
    """The words that propose the folder's name with the first free number, quoted for a shell."""
    names = (f"{folder.name}-{number}" for number in count(2))
    free = next(name for name in names if not folder.with_name(name).exists())
    return f"under another name: --name {shlex.quote(free)}"


def hexadecimal(number: int) -> str:
    return f"{number % 2**64:x}"
