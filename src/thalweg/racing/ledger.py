"""The record of all that happens in a race: one SQLite file, one writer, one transaction a block.

Numbers are REAL columns; SQLite has no not-a-number and keeps NULL in its place. Test scores lie in
a table that `read` does not open until the race has made its choice. Rows are only ever added, and
the sum of their checksums is kept beside them: one that is damaged, lost or doubled shows when the
ledger is opened.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Self, TypeAlias

from thalweg.arguments import word
from thalweg.checksum import checksum
from thalweg.errors import FailedError, UserError
from thalweg.racing.record import (
    Configuration,
    Cost,
    Departure,
    Edge,
    Look,
    Plan,
    Record,
    Round,
    RunRecord,
    Settings,
)
from thalweg.training.fingerprint import difference
from thalweg.training.run import Point

FILE = "ledger.sqlite"
APPLICATION = 0x7468616C
"""What SQLite keeps in a file to tell whose it is: "thal" in ASCII."""
VERSION = 5

Key: TypeAlias = tuple[str, int, int]
"""A member within a round: entrant, configuration, seed."""

TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE configurations (
    entrant TEXT, number INTEGER, vals TEXT NOT NULL, recipe TEXT NOT NULL,
    PRIMARY KEY (entrant, number)
);
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, round TEXT NOT NULL, entrant TEXT NOT NULL,
    configuration INTEGER NOT NULL, seed INTEGER NOT NULL, score REAL, diverged_step INTEGER,
    reason TEXT, UNIQUE (round, entrant, configuration, seed)
);
CREATE TABLE points (
    run INTEGER REFERENCES runs, step INTEGER, train_loss REAL, metric REAL,
    PRIMARY KEY (run, step)
);
CREATE TABLE further (
    run INTEGER REFERENCES runs, step INTEGER, name TEXT, value REAL,
    PRIMARY KEY (run, step, name)
);
CREATE TABLE sealed (
    run INTEGER REFERENCES runs, name TEXT, value REAL, PRIMARY KEY (run, name)
);
CREATE TABLE chosen (entrant TEXT PRIMARY KEY, configuration INTEGER NOT NULL);
CREATE TABLE edges (
    entrant TEXT, hyper TEXT, value REAL, low REAL, high REAL, PRIMARY KEY (entrant, hyper)
);
CREATE TABLE looks (seeds INTEGER PRIMARY KEY, level REAL NOT NULL, entrants TEXT NOT NULL);
CREATE TABLE departures (
    seeds INTEGER REFERENCES looks, entrant TEXT, beaten_by TEXT NOT NULL, p REAL NOT NULL,
    PRIMARY KEY (seeds, entrant)
);
CREATE TABLE costs (
    entrant TEXT PRIMARY KEY, step_seconds REAL, step_seconds_low REAL, step_seconds_high REAL,
    optimizer_seconds REAL, state_per_parameter REAL
);
CREATE TABLE notes (line TEXT PRIMARY KEY);
CREATE TABLE checksum (sum TEXT NOT NULL);
"""
SUMMED = ["sqlite_master", *re.findall(r"TABLE (\w+)", TABLES)[:-1]]
"""The tables whose rows are summed: all but the last, which holds the sum."""


class Ledger:
    """The ledger of one race, held by one process until it is closed. Made by `Ledger.open`."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self.connection = connection
        self.file = (folder / FILE).stat()
        self.sum = 0

    @classmethod
    def open(
        cls,
        folder: Path,
        settings: Settings,
        configurations: Sequence[Configuration],
        machine: Mapping[str, str],
        command: str,
    ) -> Self:
        """The ledger in a folder: a new one, or that of the same race to go on with.

        Raises UserError, with the folder as it was, for the ledger of another race, for one that
        another process holds, for a file that is damaged or no ledger of this version, and for a
        folder that cannot be written to.
        """
        with failures(folder):
            folder.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(folder / FILE, timeout=0, isolation_level=None)
            ledger = cls(folder, connection)
        try:
            with failures(folder):
                # A lock that is kept until the connection is closed: one writer.
                connection.execute("PRAGMA locking_mode = EXCLUSIVE")
                ledger.take(settings, configurations, machine, command)
        except BaseException:
            connection.close()
            raise
        return ledger

    def take(
        self,
        settings: Settings,
        configurations: Sequence[Configuration],
        machine: Mapping[str, str],
        command: str,
    ) -> None:
        """Writes what defines the race into an empty file; compares it with what is in another."""
        with self.transaction(exclusive=True):
            tables, owner = "SELECT count(*) FROM sqlite_master", "PRAGMA application_id"
            if self.one(tables) == self.one(owner) == 0:
                self.create(settings, configurations, machine, command)
                return
        self.require_this_kind()
        self.require_undamaged()
        self.require_same(settings, configurations)
        if not self.finished and json.loads(self.fact("machine")) != dict(machine):
            self.add_notes(["The runs were made on more than one machine or version."])

    def create(
        self,
        settings: Settings,
        configurations: Sequence[Configuration],
        machine: Mapping[str, str],
        command: str,
    ) -> None:
        self.connection.execute(f"PRAGMA application_id = {APPLICATION}")
        self.connection.execute(f"PRAGMA user_version = {VERSION}")
        for table in TABLES.split(";"):
            self.connection.execute(table)
        self.connection.execute("INSERT INTO checksum VALUES ('')")
        self.sum = self.sum_of_rows(["sqlite_master"])
        facts = {"settings": json.dumps(asdict(settings)), "machine": json.dumps(dict(machine))}
        facts["command"] = command
        self.insert("facts", facts.items())
        self.insert("configurations", [written(one) for one in configurations])

    def require_this_kind(self) -> None:
        if self.one("PRAGMA application_id") != APPLICATION:
            raise UserError(f"{self.folder / FILE} is no ledger of thalweg; choose another name.")
        version = self.one("PRAGMA user_version")
        if version != VERSION:
            raise UserError(
                f"{self.folder / FILE} was written by another version of thalweg (its format is"
                f" {version}, this one's {VERSION}); race under another name:"
                f" --name {fresh_name(self.folder)}."
            )

    def require_undamaged(self) -> None:
        """UserError unless every page of the file is sound and every row as it was written."""
        try:
            problems = self.connection.execute("PRAGMA integrity_check(1)").fetchall()
            self.sum = self.sum_of_rows(SUMMED)
            kept = self.connection.execute("SELECT sum FROM checksum").fetchall()
        except (sqlite3.Error, ValueError, OverflowError, MemoryError) as error:
            raise self.damaged(word(str(error))) from error
        if problems != [("ok",)] or kept != [(hexadecimal(self.sum),)]:
            raise self.damaged("a checksum is wrong")

    def damaged(self, why: str) -> UserError:
        return UserError(
            f"{self.folder / FILE} is damaged ({why}); race under another name:"
            f" --name {fresh_name(self.folder)}."
        )

    def require_same(self, settings: Settings, configurations: Sequence[Configuration]) -> None:
        before, now = json.loads(self.fact("settings")), asdict(settings)
        for name, value in now.items():
            kept = tuple(before[name]) if isinstance(value, tuple) else before[name]
            if name != "fingerprint" and kept != value:
                raise self.another_race(f"{name} {shown(kept)} and not {shown(value)}")
        if changed := difference(before["fingerprint"], settings.fingerprint):
            raise self.another_race(f"{changed} under the task's name")
        kept_configurations = self.configurations()
        for one in configurations:
            if one not in kept_configurations:
                raise self.another_race(f"another recipe or search space for {one.entrant}")

    def another_race(self, difference: str) -> UserError:
        return UserError(
            f"{self.folder} holds another race, with {difference}; it is left as it is."
            f" Race under another name: --name {fresh_name(self.folder)}."
        )

    def close(self) -> None:
        self.connection.close()

    def withdraw(self) -> None:
        """Closes a ledger, and deletes one that holds no run, so that it holds up no other race."""
        with closing(self), suppress(UserError, OSError):
            self.require_in_place()
            if self.one("SELECT count(*) FROM runs") == 0:
                (self.folder / FILE).unlink()

    # What is written

    def add_runs(self, runs: Iterable[RunRecord], first: int | None = None) -> None:
        """Adds the members of a finished block, all or none.

        first: the place of the first of them in the record, whose order is then the same whichever
        block is finished before another; behind all others if not given.
        """
        with self.transaction():
            for i, run in enumerate(runs):
                self.add_run(run, None if first is None else first + i)

    def add_run(self, run: RunRecord, place: int | None) -> None:
        row = (place, run.round, run.entrant, run.configuration, run.seed)
        ending = (run.score, run.diverged_step, run.reason)
        self.insert("runs", [(*row, *ending)])
        ((key,),) = self.rows("SELECT last_insert_rowid()")
        self.insert("points", [(key, p.step, p.train_loss, p.metric) for p in run.curve])
        further = [(p.step, name, value) for p in run.curve for name, value in p.also.items()]
        self.insert("further", [(key, step, name, value) for step, name, value in further])
        self.insert("sealed", [(key, name, value) for name, value in run.test.items()])

    def add_costs(self, costs: Iterable[Cost], plan: Plan) -> None:
        """Adds what was measured before the race: each entrant's cost, and the way of stepping."""
        with self.transaction():
            self.insert("costs", [tuple(asdict(cost).values()) for cost in costs])
            self.insert("facts", [("plan", json.dumps(asdict(plan)))])

    def add_choice(self, chosen: Mapping[str, int], edges: Iterable[Edge]) -> None:
        """Adds each entrant's best configuration, the end of the tuning round."""
        with self.transaction():
            self.insert("chosen", chosen.items())
            self.insert("edges", [tuple(asdict(edge).values()) for edge in edges])

    def add_look(self, look: Look) -> None:
        """Adds a look and those who left at it."""
        with self.transaction():
            self.insert("looks", [(look.seeds, look.level, json.dumps(look.on))])
            left = [(look.seeds, one.entrant, one.by, one.p) for one in look.left]
            self.insert("departures", left)

    def add_notes(self, lines: Iterable[str]) -> None:
        """Adds lines that a reader of the verdict should know, each once."""
        with self.transaction():
            known = self.notes()
            self.insert("notes", [(line,) for line in dict.fromkeys(lines) if line not in known])

    def open_seal(self) -> None:
        """Ends the race: from now on `read` gives the test scores."""
        with self.transaction():
            self.insert("facts", [("finished", "yes")])

    # What is read

    @property
    def finished(self) -> bool:
        """Whether the race has ended and the seal was opened."""
        return self.fact("finished") == "yes"

    @property
    def plan(self) -> Plan | None:
        """The way of stepping that was chosen; none before."""
        found = self.fact("plan")
        return Plan(**json.loads(found)) if found else None

    def scores(self, round: Round) -> dict[Key, float]:
        """The members of a round that were trained, with their scores; nan for the diverged."""
        query = "SELECT entrant, configuration, seed, score FROM runs WHERE round = ? ORDER BY id"
        return {
            (one, index, seed): number(score) for one, index, seed, score in self.rows(query, round)
        }

    def read(self) -> Record:
        """All of it, the test scores only once the seal was opened."""
        settings = json.loads(self.fact("settings"))
        return Record(
            settings=Settings(**settings | {"entrants": tuple(settings["entrants"])}),
            configurations=self.configurations(),
            runs=self.runs(),
            chosen=self.chosen(),
            looks=self.looks(),
            costs={row[0]: Cost(*row) for row in self.rows("SELECT * FROM costs ORDER BY rowid")},
            edges=tuple(Edge(*row) for row in self.rows("SELECT * FROM edges ORDER BY rowid")),
            notes=self.notes(),
            finished=self.finished,
            machine=json.loads(self.fact("machine")),
            command=self.fact("command"),
        )

    def configurations(self) -> tuple[Configuration, ...]:
        return tuple(
            Configuration(entrant, number, json.loads(values), recipe)
            for entrant, number, values, recipe in self.rows(
                "SELECT * FROM configurations ORDER BY rowid"
            )
        )

    def notes(self) -> tuple[str, ...]:
        return tuple(line for (line,) in self.rows("SELECT line FROM notes ORDER BY rowid"))

    def chosen(self) -> dict[str, int]:
        """Each entrant's best configuration; empty until the tuning round has ended."""
        return dict(self.rows("SELECT * FROM chosen ORDER BY rowid"))

    def runs(self) -> tuple[RunRecord, ...]:
        curves = self.curves()
        tests = self.tests() if self.finished else {}
        return tuple(
            RunRecord(
                round=round,
                entrant=entrant,
                configuration=configuration,
                seed=seed,
                score=number(score),
                diverged_step=step,
                reason=reason,
                curve=tuple(curves.get(run, ())),
                test=tests.get(run, {}),
            )
            for run, round, entrant, configuration, seed, score, step, reason in self.rows(
                "SELECT * FROM runs ORDER BY id"
            )
        )

    def curves(self) -> dict[int, list[Point]]:
        further: dict[tuple[int, int], dict[str, float]] = {}
        for run, step, name, value in self.rows("SELECT * FROM further ORDER BY rowid"):
            further.setdefault((run, step), {})[name] = number(value)
        curves: dict[int, list[Point]] = {}
        for run, step, loss, metric in self.rows("SELECT * FROM points ORDER BY run, step"):
            point = Point(step, number(loss), number(metric), further.get((run, step), {}))
            curves.setdefault(run, []).append(point)
        return curves

    def tests(self) -> dict[int, dict[str, float]]:
        tests: dict[int, dict[str, float]] = {}
        for run, name, value in self.rows("SELECT * FROM sealed ORDER BY rowid"):
            tests.setdefault(run, {})[name] = number(value)
        return tests

    def looks(self) -> tuple[Look, ...]:
        """The looks of the final round so far, in order."""
        left: dict[int, list[Departure]] = {}
        for seeds, *departure in self.rows("SELECT * FROM departures ORDER BY rowid"):
            left.setdefault(seeds, []).append(Departure(*departure))
        return tuple(
            Look(seeds, level, tuple(json.loads(on)), tuple(left.get(seeds, ())))
            for seeds, level, on in self.rows("SELECT * FROM looks ORDER BY seeds")
        )

    # How it is done

    @contextmanager
    def transaction(self, exclusive: bool = False) -> Iterator[None]:
        """All that the block writes, or nothing."""
        self.require_in_place()
        before = self.sum
        with failures(self.folder):
            self.connection.execute("BEGIN EXCLUSIVE" if exclusive else "BEGIN IMMEDIATE")
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

    def require_in_place(self) -> None:
        """A file that is open can be written to after it was deleted, and nobody will find it."""
        path = self.folder / FILE
        try:
            if os.path.samestat(path.stat(), self.file):
                return
        except OSError:
            pass
        raise FailedError(
            f"{path} was deleted or replaced while the race went on; what was finished is lost:"
            " give the same command again."
        )

    def insert(self, table: str, rows: Iterable[Sequence[object]]) -> None:
        for row in rows:
            marks = ", ".join("?" * len(row))
            self.connection.execute(f"INSERT INTO {table} VALUES ({marks})", row)
            # As it will be read: SQLite has types of its own.
            kept = self.rows(f"SELECT * FROM {table} WHERE rowid = last_insert_rowid()")
            self.sum += sum_of(table, kept)

    def sum_of_rows(self, tables: Iterable[str]) -> int:
        return sum(
            sum_of(table, self.connection.execute(f"SELECT * FROM {table} NOT INDEXED"))
            for table in tables
        )

    def rows(self, query: str, *values: object) -> list[tuple]:  # type: ignore[type-arg]
        with failures(self.folder):
            return self.connection.execute(query, values).fetchall()

    def one(self, query: str) -> object:
        return self.rows(query)[0][0]

    def fact(self, name: str) -> str:
        found = self.rows("SELECT value FROM facts WHERE name = ?", name)
        return str(found[0][0]) if found else ""


@contextmanager
def failures(folder: Path) -> Iterator[None]:
    """Turns what SQLite and the file system refuse into one sentence that names the folder."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise UserError(sentence(folder, error)) from error
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be made: {error.strerror}.") from error


def sentence(folder: Path, error: sqlite3.DatabaseError) -> str:
    name = error.sqlite_errorname if hasattr(error, "sqlite_errorname") else ""
    if name.startswith("SQLITE_BUSY"):
        return (
            f"Another process is racing in {folder}; wait for its end, or race under another name:"
            f" --name {fresh_name(folder)}."
        )
    if name in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
        return (
            f"{folder / FILE} is no ledger of thalweg, or is damaged ({word(str(error))}); race"
            f" under another name: --name {fresh_name(folder)}."
        )
    return (
        f"The ledger in {folder} cannot be written ({error}): make room on the disk or let the"
        " folder be written to, then give the same command again; what was finished is kept."
    )


def fresh_name(folder: Path) -> str:
    """The folder's name with the first number behind it that is free, as a shell takes it."""
    number = 2
    while folder.with_name(f"{folder.name}-{number}").exists():
        number += 1
    return shlex.quote(f"{folder.name}-{number}")


def sum_of(table: str, rows: Iterable[object]) -> int:
    return sum(int(checksum([table, row]), 16) for row in rows)


def hexadecimal(number: int) -> str:
    return f"{number % 2**64:x}"


def written(one: Configuration) -> tuple[str, int, str, str]:
    return one.entrant, one.index, json.dumps(one.values), one.recipe


def shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def number(column: float | None) -> float:
    return math.nan if column is None else column
