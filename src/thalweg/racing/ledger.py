"""The ledger: the record of a race in one checked file, with one writer and a transaction a block.

Numbers are REAL columns. SQLite has no not-a-number, and NULL stands for it. Test scores lie in a
table that `read` does not open before the race has chosen. If tuning is added to a race, all rows
that follow from it hold the number of that tuning, and only the rows of the last tuning are read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, astuple, fields, replace
from pathlib import Path
from typing import Any, Self

from thalweg.checked_file import CheckedFile, under_another_name
from thalweg.errors import UserError
from thalweg.racing.record import (
    Certainty,
    Configuration,
    Cost,
    Departure,
    Edge,
    Key,
    Look,
    Plan,
    Record,
    Round,
    RunRecord,
    Settings,
    Stop,
)
from thalweg.racing.repeat import whole_call
from thalweg.routes import Parameter
from thalweg.rules.space import Space
from thalweg.training.fingerprint import difference
from thalweg.training.run import Evaluation

FILE = "ledger.sqlite"
VERSION = 7

TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE configurations (
    entrant TEXT, number INTEGER, vals TEXT NOT NULL, recipe TEXT NOT NULL,
    refined INTEGER NOT NULL, PRIMARY KEY (entrant, number)
);
CREATE TABLE tunings (
    number INTEGER PRIMARY KEY, trials INTEGER NOT NULL, kept INTEGER NOT NULL
);
CREATE TABLE asked (
    tuning INTEGER, stage INTEGER, place INTEGER, entrant TEXT NOT NULL,
    configuration INTEGER NOT NULL, seed INTEGER NOT NULL, PRIMARY KEY (tuning, stage, place)
);
CREATE TABLE stops (
    tuning INTEGER, entrant TEXT, trials INTEGER NOT NULL, chance REAL NOT NULL,
    PRIMARY KEY (tuning, entrant)
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
CREATE TABLE chosen (
    tuning INTEGER, entrant TEXT, configuration INTEGER NOT NULL, PRIMARY KEY (tuning, entrant)
);
CREATE TABLE edges (
    tuning INTEGER, entrant TEXT, hyper TEXT, value REAL, low REAL, high REAL,
    PRIMARY KEY (tuning, entrant, hyper)
);
CREATE TABLE looks (
    tuning INTEGER, seeds INTEGER, level REAL NOT NULL, entrants TEXT NOT NULL,
    PRIMARY KEY (tuning, seeds)
);
CREATE TABLE departures (
    tuning INTEGER, seeds INTEGER, entrant TEXT, beaten_by TEXT NOT NULL, p REAL NOT NULL,
    PRIMARY KEY (tuning, seeds, entrant), FOREIGN KEY (tuning, seeds) REFERENCES looks
);
CREATE TABLE opened (tuning INTEGER PRIMARY KEY);
CREATE TABLE costs (
    entrant TEXT PRIMARY KEY, step_seconds REAL, step_seconds_low REAL, step_seconds_high REAL,
    optimizer_seconds REAL, state_per_parameter REAL
);
CREATE TABLE certainties (
    tuning INTEGER, entrant TEXT, named REAL NOT NULL, ahead REAL NOT NULL,
    PRIMARY KEY (tuning, entrant)
);
CREATE TABLE notes (line TEXT PRIMARY KEY);
"""

COMPARED_APART = (
    "trials",
    "earlier",
    "spaces",
    "recipes",
    "cooled",
    "parameters",
    "fingerprint",
)
"""The settings that `require_same` compares in their own way."""

KEPT = "id <= (SELECT coalesce(max(kept), 0) FROM tunings)"
"""The runs that were on record when tuning was added for the last time."""

COUNTS = f"""round = 'tuning' OR NOT {KEPT} OR (entrant, configuration) IN (
    SELECT entrant, configuration FROM chosen WHERE tuning = (SELECT count(*) FROM tunings)
)"""
"""The runs that count. Earlier final runs count only if their configuration was chosen again."""


class Ledger(CheckedFile):
    """The ledger of one race. One process holds it until it is closed. Use `Ledger.open`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / FILE, TABLES, VERSION)

    @classmethod
    def open(
        cls,
        folder: Path,
        settings: Settings,
        configurations: Sequence[Configuration],
        machine: Mapping[str, str],
        command: str,
    ) -> Self:
        """Opens the ledger in a folder, or makes one.

        An existing ledger must be that of the same race, with as many trials or fewer.

        Raises UserError for the ledger of another race, for a ledger that another process holds,
        for a file that is damaged or no ledger of this version, and for a folder that cannot be
        written to. The folder then stays as it was.
        """
        ledger = cls(folder)
        try:
            with ledger.transaction():
                new = ledger.empty
                if new:
                    ledger.create()
                    facts = {"settings": json.dumps(asdict(settings)), "command": command}
                    facts["machine"] = json.dumps(dict(machine))
                    ledger.insert("facts", facts.items())
                    ledger.insert("configurations", map(written, configurations))
            if not new:
                ledger.require_undamaged()
                ledger.require_same(settings)
                if not ledger.finished:
                    ledger.note_another(machine)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def begun(cls, folder: Path) -> tuple[Settings, str]:
        """The settings of the race in a folder, and the command that began it.

        Raises UserError if there is no race, if another process holds it, and for a file that is
        damaged or no ledger of this version.
        """
        if not (folder / FILE).is_file():
            raise UserError(f"there is no race in {folder} that could be resumed.")
        with closing(cls(folder)) as ledger:
            ledger.require_undamaged()
            return ledger.settings, ledger.fact("command")

    @classmethod
    def record(cls, folder: Path) -> Record:
        """All that is on record of the race in a folder. UserError as `begun`."""
        if not (folder / FILE).is_file():
            raise UserError(f"there is no race in {folder}.")
        with closing(cls(folder)) as ledger:
            ledger.require_undamaged()
            return replace(ledger.read(), folder=folder)

    def require_same(self, settings: Settings) -> None:
        """Raises UserError unless the settings are those on record, or only ask for more trials."""
        before = self.settings
        for name in (one.name for one in fields(Settings) if one.name not in COMPARED_APART):
            kept, given = getattr(before, name), getattr(settings, name)
            if kept != given:
                raise self.another_race(f"{name} {shown(kept)}, not {shown(given)}")
        if changed := difference(before.fingerprint, settings.fingerprint):
            raise self.another_race(f"{changed} under the same name")
        for name in settings.entrants:
            if entered(before, name) != entered(settings, name):
                raise self.another_race(f"another recipe or search space for {name}")
        trials, given = before.trials, settings.trials
        if given < trials or (given > trials and not before.spaces):
            raise UserError(
                f"{self.folder} holds a race with trials {trials}, not {given}; trials can only be"
                " added, and only to entrants that are tuned. Race"
                f" {under_another_name(self.folder)}."
            )

    def another_race(self, difference: str) -> UserError:
        return UserError(
            f"{self.folder} holds another race, with {difference}; nothing was changed."
            f" Race {under_another_name(self.folder)}."
        )

    def withdraw(self) -> None:
        """Closes the ledger, and deletes it if it holds no run, so that its name is free again."""
        with closing(self), suppress(UserError, OSError):
            self.require_in_place()
            if not self.trained:
                self.path.unlink()

    # What is written

    def add_runs(self, runs: Iterable[RunRecord], first: int | None = None) -> None:
        """Adds all members of a finished block, or none of them.

        first: the place of the first member in the record, so that the order does not depend on
        which block is finished first; if not given, the members are added at the end.
        """
        with self.transaction():
            for i, run in enumerate(runs):
                self.add_run(run, None if first is None else first + i)

    def add_run(self, run: RunRecord, place: int | None) -> None:
        ending = (run.score, run.diverged_step, run.reason)
        self.insert("runs", [(place, run.round, *run.member, *ending)])
        key = self.one("SELECT last_insert_rowid()")
        self.insert("points", [(key, p.step, p.train_loss, p.metric) for p in run.curve])
        self.insert("further", [(key, p.step, *one) for p in run.curve for one in p.also.items()])
        self.insert("sealed", [(key, *one) for one in run.test.items()])

    def add_costs(self, costs: Iterable[Cost], plan: Plan) -> None:
        """Adds what was measured before the race: each entrant's cost, and the plan."""
        with self.transaction():
            self.insert("costs", map(astuple, costs))
            self.insert("facts", [("plan", json.dumps(asdict(plan)))])

    def add_asked(
        self,
        stage: int,
        configurations: Iterable[Configuration],
        members: Sequence[Key],
        stops: Iterable[Stop],
    ) -> None:
        """Adds the members that a stage of the tuning round asks for, before they are trained."""
        with self.transaction():
            self.insert("configurations", map(written, configurations))
            self.insert_now("asked", [(stage, place, *key) for place, key in enumerate(members)])
            self.insert_now("stops", map(astuple, stops))

    def add_choice(self, chosen: Mapping[str, int], edges: Iterable[Edge]) -> None:
        """Adds each entrant's best configuration, which ends the tuning round."""
        with self.transaction():
            self.insert_now("chosen", chosen.items())
            self.insert_now("edges", map(astuple, edges))

    def add_look(self, look: Look) -> None:
        """Adds a look, and the entrants that left at it."""
        with self.transaction():
            self.insert_now("looks", [(look.seeds, look.level, json.dumps(look.on))])
            left = [(look.seeds, one.entrant, one.by, one.p) for one in look.left]
            self.insert_now("departures", left)

    def add_certainties(self, found: Iterable[Certainty]) -> None:
        """Adds how sure the tuning of each entrant is."""
        with self.transaction():
            self.insert_now("certainties", map(astuple, found))

    def add_notes(self, lines: Iterable[str]) -> None:
        """Adds lines that a reader of the verdict should know. Each line is kept once."""
        with self.transaction():
            known = self.notes()
            self.insert("notes", [(line,) for line in dict.fromkeys(lines) if line not in known])

    def note_another(self, machine: Mapping[str, str]) -> None:
        """Adds a note if this machine is not the one on which the race began."""
        if json.loads(self.fact("machine")) != dict(machine):
            self.add_notes(["The runs were made on more than one machine or version."])

    def open_seal(self) -> None:
        """Ends the race. From now on `read` gives the test scores, until tuning is added."""
        with self.transaction():
            self.insert("opened", [(self.tuning,)])

    def add_tuning(self, trials: int, machine: Mapping[str, str]) -> None:
        """Opens a finished race for more tuning, up to this number of trials.

        All runs are kept; what follows from them is computed anew.
        """
        with self.transaction():
            self.insert("tunings", [(self.tuning + 1, trials, self.trained)])
        self.note_another(machine)

    # What is read

    @property
    def settings(self) -> Settings:
        """The settings with which the race began, with the trials that were added."""
        begun = settings_of(json.loads(self.fact("settings")))
        added = [trials for (trials,) in self.rows("SELECT trials FROM tunings ORDER BY number")]
        *earlier, trials = [begun.trials, *added]
        return replace(begun, trials=trials, earlier=tuple(earlier))

    @property
    def tuning(self) -> int:
        """The number of times that tuning was added."""
        return int(self.one("SELECT count(*) FROM tunings"))

    @property
    def trained(self) -> int:
        """The number of members on record."""
        return int(self.one("SELECT count(*) FROM runs"))

    @property
    def finished(self) -> bool:
        """Whether the race has ended and the seal was opened."""
        return bool(self.of_now("opened"))

    @property
    def plan(self) -> Plan | None:
        """The plan that was chosen; None before the choice."""
        found = self.fact("plan")
        return Plan(**json.loads(found)) if found else None

    def scores(self, round: Round) -> dict[Key, float]:
        """The scores of those members of a round that count; nan if a member diverged."""
        what = "SELECT entrant, configuration, seed, score FROM runs"
        rows = self.rows(f"{what} WHERE round = ? AND ({COUNTS}) ORDER BY id", round)
        return {(entrant, index, seed): number(score) for entrant, index, seed, score in rows}

    def kept(self) -> set[Key]:
        """The members that were on record when tuning was added for the last time."""
        return set(self.rows(f"SELECT entrant, configuration, seed FROM runs WHERE {KEPT}"))

    def read(self) -> Record:
        """The whole record; with test scores only if the seal was opened."""
        settings = self.settings
        return Record(
            settings=settings,
            configurations=self.configurations(),
            runs=self.runs(),
            stops=tuple(Stop(*row) for row in self.of_now("stops")),
            chosen=self.chosen(),
            looks=self.looks(),
            costs={row[0]: Cost(*row) for row in self.in_order("costs")},
            edges=tuple(Edge(*row) for row in self.of_now("edges")),
            certainties=tuple(Certainty(*row) for row in self.of_now("certainties")),
            notes=self.notes(),
            finished=self.finished,
            machine=json.loads(self.fact("machine")),
            command=whole_call(self.fact("command"), settings),
            folder=self.folder,
        )

    def configurations(self) -> tuple[Configuration, ...]:
        return tuple(
            Configuration(
                entrant, index, values=json.loads(values), recipe=recipe, refined=bool(refined)
            )
            for entrant, index, values, recipe, refined in self.in_order("configurations")
        )

    def asked(self, stage: int) -> list[Key]:
        """The members that a stage of the tuning round asked for; none if it did not ask yet."""
        asked = self.of_now("asked")
        return [(one, index, seed) for of, _, one, index, seed in asked if of == stage]

    def notes(self) -> tuple[str, ...]:
        return tuple(line for (line,) in self.in_order("notes"))

    def chosen(self) -> dict[str, int]:
        """Each entrant's best configuration; empty until the tuning round has ended."""
        return dict(self.of_now("chosen"))

    def runs(self) -> tuple[RunRecord, ...]:
        curves, tests = self.curves(), self.tests() if self.finished else {}
        rows = self.rows(f"SELECT * FROM runs WHERE {COUNTS} ORDER BY id")
        return tuple(
            RunRecord(
                round=round,
                entrant=entrant,
                configuration=index,
                seed=seed,
                score=number(score),
                diverged_step=step,
                reason=reason,
                curve=tuple(curves.get(run, ())),
                test=tests.get(run, {}),
            )
            for run, round, entrant, index, seed, score, step, reason in rows
        )

    def curves(self) -> dict[int, list[Evaluation]]:
        further: dict[tuple[int, int], dict[str, float]] = {}
        for run, step, name, value in self.in_order("further"):
            further.setdefault((run, step), {})[name] = number(value)
        curves: dict[int, list[Evaluation]] = {}
        for run, step, loss, metric in self.rows("SELECT * FROM points ORDER BY run, step"):
            point = Evaluation(step, number(loss), number(metric), further.get((run, step), {}))
            curves.setdefault(run, []).append(point)
        return curves

    def tests(self) -> dict[int, dict[str, float]]:
        tests: dict[int, dict[str, float]] = {}
        for run, name, value in self.in_order("sealed"):
            tests.setdefault(run, {})[name] = number(value)
        return tests

    def looks(self) -> tuple[Look, ...]:
        """The looks of the final round so far, in order."""
        left: dict[int, list[Departure]] = {}
        for seeds, *departure in self.of_now("departures"):
            left.setdefault(seeds, []).append(Departure(*departure))
        return tuple(
            Look(seeds, level, tuple(json.loads(on)), tuple(left.get(seeds, ())))
            for seeds, level, on in self.of_now("looks")
        )

    # How it is done

    def insert_now(self, table: str, rows: Iterable[Iterable[object]]) -> None:
        """Adds rows with the number of the last tuning."""
        number = self.tuning
        self.insert(table, [(number, *row) for row in rows])

    def of_now(self, table: str) -> list[list[Any]]:
        """The rows of the last tuning, without its number."""
        query = f"SELECT * FROM {table} WHERE tuning = ? ORDER BY rowid"
        return [row for _, *row in self.rows(query, self.tuning)]


def written(one: Configuration) -> tuple[str, int, str, str, bool]:
    return one.entrant, one.index, json.dumps(one.values), one.recipe, one.refined


def settings_of(kept: dict[str, Any]) -> Settings:
    spaces = {
        entrant: {name: Space(**space) for name, space in own.items()}
        for entrant, own in kept["spaces"].items()
    }
    tuples = {name: tuple(kept[name]) for name in ("entrants", "cooled", "earlier")}
    parameters = tuple(
        Parameter(name, tuple(shape), role) for name, shape, role in kept.get("parameters", ())
    )
    return Settings(**kept | tuples | {"spaces": spaces, "parameters": parameters})


def entered(settings: Settings, entrant: str) -> tuple[object, ...]:
    """All that determines the configurations of an entrant."""
    recipe, space = settings.recipes.get(entrant), settings.spaces.get(entrant)
    return recipe, space, entrant in settings.cooled


def shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def number(column: float | None) -> float:
    return math.nan if column is None else column
