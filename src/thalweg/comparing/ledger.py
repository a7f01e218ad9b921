"""The record of a comparison: all finished runs, and all looks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from thalweg.checked_file import CheckedFile, under_another_name
from thalweg.comparing.sides import Outcome
from thalweg.errors import UserError
from thalweg.training.fingerprint import difference

FILE = "comparison.sqlite"
VERSION = 1002

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

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        traits: tuple[Mapping[str, Any], Mapping[str, Any]],
        seeds: int,
    ) -> None:
        """Opens the ledger in a folder, which is new or of the same comparison.

        settings: what must be the same to go on, by name. traits: likewise of old and of new, under
        the words for a change. What a side was before its first run is not on record, so that one
        that fails can be mended. seeds: pairs at most; more than before are an addition.
        Raises `UserError`, with the folder as it was, for the ledger of another comparison, one
        that another process holds, and a file that is damaged.
        """
        super().__init__(folder / FILE, TABLES, VERSION)
        self.settings, self.traits, self.seeds = settings, traits, seeds
        try:
            if self.empty:
                with self.transaction():
                    self.create()
            else:
                self.require_undamaged()
                self.require_same()
        except BaseException:
            self.close()
            raise

    def require_same(self) -> None:
        before = json.loads(self.fact("settings") or "{}")
        for name, value in json.loads(json.dumps(self.settings)).items():
            if before.get(name, value) != value:
                raise self.another(f"{name} {shown(before[name])} and not {shown(value)}")
        for side, traits in enumerate(self.traits):
            now = json.dumps(traits)
            known = self.fact(f"traits {side}") or now
            if changed := difference(json.loads(known), json.loads(now)):
                raise self.another(changed)
        most = max(self.recorded, default=0)
        if self.seeds < most:
            raise UserError(
                f"{self.folder} holds a comparison of {most} pairs at most; pairs can be added, and"
                f" not taken away: give --seeds {most} or more."
            )

    def another(self, difference: str) -> UserError:
        return UserError(
            f"{self.folder} holds another comparison, with {difference}; it is left as it is."
            f" Compare {under_another_name(self.folder)}."
        )

    def add_runs(self, side: int, outcomes: Iterable[tuple[int, Outcome]]) -> None:
        """Adds finished runs of a side, each with its seed."""
        facts = {"settings": self.settings, f"traits {side}": self.traits[side]}
        with self.transaction():
            new = [(name, json.dumps(one)) for name, one in facts.items() if not self.fact(name)]
            self.insert("facts", new)
            self.insert("totals", [(pairs,) for pairs in self.totals[len(self.recorded) :]])
            for seed, one in outcomes:
                score = one.score if math.isfinite(one.score) else None
                self.insert("runs", [(side, seed, score, one.reason)])
                self.insert("points", [(side, seed, *point) for point in one.curve])

    def add_twice(self, side: int, scores: Sequence[float]) -> None:
        """Adds the scores of two runs of a side with one seed, or one score if they are alike."""
        with self.transaction():
            self.insert("facts", [(f"twice {side}", json.dumps(scores))])

    def twice(self, side: int) -> list[float]:
        """What `add_twice` added; nothing before it."""
        found: list[float] = json.loads(self.fact(f"twice {side}") or "[]")
        return found

    def add_look(self, pairs: int, level: float) -> None:
        with self.transaction():
            self.insert("looks", [(pairs, level)])

    @property
    def recorded(self) -> tuple[int, ...]:
        return tuple(pairs for (pairs,) in self.rows("SELECT pairs FROM totals ORDER BY pairs"))

    @property
    def totals(self) -> tuple[int, ...]:
        """The most pairs that were asked for: at first, and with each addition."""
        return tuple(sorted({*self.recorded, self.seeds}))

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
