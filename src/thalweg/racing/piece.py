"""A piece of a round's work for a lane: members that are trained together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thalweg.checksum import checksum
from thalweg.racing.record import Key, Round, RunRecord
from thalweg.recipe import Recipe
from thalweg.stack.member import Member
from thalweg.training.run import Run

UNFINISHED = "unfinished"
"""The folder, in that of a race, with the files of the blocks in work."""

Block = Sequence[Key]
"""Members that are trained together."""


@dataclass(frozen=True)
class Piece:
    """A block of one round, and the recipe of each of its members as TOML."""

    round: Round
    block: Block
    recipes: Sequence[str]

    @property
    def members(self) -> list[Member]:
        pairs = zip(self.recipes, self.block, strict=True)
        return [Member(Recipe.from_toml(recipe), seed) for recipe, (*_, seed) in pairs]

    def records(self, runs: Sequence[Run]) -> list[RunRecord]:
        """The results of its members, in their order."""
        return [record_of(self.round, *pair) for pair in zip(self.block, runs, strict=True)]


def unfinished(folder: Path, round: Round, block: Block) -> Path:
    """The file of a block whose training was stopped, in the folder of a race."""
    return folder / UNFINISHED / checksum([round, *block])


def record_of(round: Round, key: Key, run: Run) -> RunRecord:
    ended = run.diverged
    step, reason = (ended.step, ended.reason) if ended else (None, None)
    return RunRecord(round, *key, run.score, step, reason, run.curve, dict(run.test))
