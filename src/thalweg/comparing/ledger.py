"""The record of a comparison: all finished runs, and all looks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from thalweg.checked_file import CheckedFile, under_another_name
from thalweg.comparing.sides import Outcome
from thalweg.errors import UserError
from thalweg.training.fingerprint import difference

FILE = "comparison.sqlite"
VERSION = 1001

TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE totals (pairs INTEGER PRIMARY KEY);
CREATE TABLE runs (
    side INTEGER, seed INTEGER, score REAL, reason TEXT NOT NULL, PRIMARY KEY (side, seed)
);
CREATE TABLE points (
    side INTEGER, seed INTEGER, step INTEGER, metric REAL, PRIMARY KEY (side, seed, step)
);
CREATE TABLE looks (pairs INTEGER PRIMARY KEY, level REAL NOT NULL)
"""


class Ledger(CheckedFile):
    """The ledger of one comparison. One process holds it until it closes it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / FILE, TABLES, VERSION)

    @classmethod
    def open(
        cls, folder: Path, settings: Mapping[str, Any], traits: Mapping[str, Any], seeds: int
    ) -> Self:
        """Opens the ledger in a folder, which is new or of the same comparison.

        settings: what must be the same to go on, by name. traits: likewise of both sides, under the
        words for a change. seeds: pairs at most; more than before are an addition.
        Raises `UserError`, with the folder as it was, for the ledger of another comparison, one
        that another process holds, and a file that is damaged.
        """
        ledger = cls(folder)
        try:
            if ledger.empty:
                with ledger.transaction():
                    ledger.create()
                    facts = {"settings": json.dumps(settings), "traits": json.dumps(traits)}
                    ledger.insert("facts", facts.items())
            else:
                ledger.require_undamaged()
                ledger.require_same(settings, traits)
            ledger.add_total(seeds)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def require_same(self, settings: Mapping[str, Any], traits: Mapping[str, Any]) -> None:
        before = json.loads(self.fact("settings"))
        for name, value in json.loads(json.dumps(settings)).items():
            if before.get(name) != value:
                raise self.another(f"{name} {shown(before.get(name))} and not {shown(value)}")
        if changed := difference(json.loads(self.fact("traits")), json.loads(json.dumps(traits))):
            raise self.another(changed)

    def add_total(self, seeds: int) -> None:
        """Records the most pairs that are asked for."""
        most = max(self.totals, default=0)
        if seeds < most:
            raise UserError(
                f"{self.folder} holds a comparison of {most} pairs at most; pairs can be added, and"
                f" not taken away: give --seeds {most} or more."
            )
        if seeds > most:
            with self.transaction():
                self.insert("totals", [(seeds,)])

    def another(self, difference: str) -> UserError:
        return UserError(
            f"{self.folder} holds another comparison, with {difference}; it is left as it is."
            f" Compare {under_another_name(self.folder)}."
        )

    def add_runs(self, side: int, outcomes: Iterable[tuple[int, Outcome]]) -> None:
        """Adds finished runs of a side, each with its seed."""
        with self.transaction():
            for seed, one in outcomes:
                score = one.score if math.isfinite(one.score) else None
                self.insert("runs", [(side, seed, score, one.reason)])
                self.insert("points", [(side, seed, *point) for point in one.curve])

    def add_look(self, pairs: int, level: float) -> None:
        with self.transaction():
            self.insert("looks", [(pairs, level)])

    @property
    def totals(self) -> tuple[int, ...]:
        """The most pairs that were asked for: at first, and with each addition."""
        return tuple(pairs for (pairs,) in self.rows("SELECT pairs FROM totals ORDER BY pairs"))

    @property
    def last_look(self) -> tuple[int, float]:
        """The number of pairs at the last look, and its level; both are 0 before the first look."""
        found = self.rows("SELECT pairs, level FROM looks ORDER BY pairs DESC LIMIT 1")
        return (found[0][0], found[0][1]) if found else (0, 0.0)

    def outcomes(self, side: int) -> dict[int, Outcome]:
        """The finished runs of a side, by seed."""
        curves: dict[int, list[tuple[int, float]]] = {}
        query = "SELECT seed, step, metric FROM points WHERE side = ? ORDER BY seed, step"
        for seed, step, metric in self.rows(query, side):
            curves.setdefault(seed, []).append((step, number(metric)))
        rows = self.rows("SELECT seed, score, reason FROM runs WHERE side = ?", side)
        return {
            seed: Outcome(number(score), tuple(curves.get(seed, ())), reason)
            for seed, score, reason in rows
        }


def number(column: float | None) -> float:
    return math.nan if column is None else column


def shown(value: object) -> str:
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)
