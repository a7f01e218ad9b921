"""What a race tells while it runs, to whoever shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from thalweg.race.record import Look, Round


class Progress(Protocol):
    """Told in this order: lines at any time; for each round that it began, then for each of its
    blocks the steps and the scores; in the final round a look now and then. Any of these may raise
    to stop the race: what was finished stays in the ledger.
    """

    def say(self, line: str) -> None:
        """One line for the reader: the estimated cost, why members run one by one, what is done."""

    def round_began(self, round: Round, entrants: Sequence[str], done: int, members: int) -> None:
        """A round of `members` members at most, of which `done` were found in the ledger."""

    def stepped(self, step: int, steps: int, alive: int, members: int) -> None:
        """A block of `members` members took its step `step` of `steps`; `alive` are still going."""

    def block_ended(self, done: int, best: dict[str, float]) -> None:
        """A block is in the ledger: `done` members of the round so far, and each entrant's `best`:
        in the tuning round its best validation metric, in the final round its median.
        """

    def looked(self, look: Look) -> None:
        """The final round looked at its seeds, and some entrants may have left."""


class Silent:
    """Shows nothing."""

    def say(self, line: str) -> None: ...

    def round_began(
        self, round: Round, entrants: Sequence[str], done: int, members: int
    ) -> None: ...

    def stepped(self, step: int, steps: int, alive: int, members: int) -> None: ...

    def block_ended(self, done: int, best: dict[str, float]) -> None: ...

    def looked(self, look: Look) -> None: ...
