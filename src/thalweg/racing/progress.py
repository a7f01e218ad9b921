"""What a race tells while it runs, to whoever shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from thalweg.racing.record import Look, Round


@runtime_checkable
class Progress(Protocol):
    """Told in this order: lines at any time; for each round that it began, then for each of its
    blocks the steps and the scores; in the final round a look now and then. Any of these may raise
    to stop the race: what was finished stays in the ledger.
    """

    def say(self, line: str) -> None:
        """One line for the reader: the estimated cost, why members run one by one, what is done."""

    def round_began(
        self, round: Round, entrants: Sequence[str], done: int, members: int, steps: int
    ) -> None:
        """A round of `members` members at most, of which `done` were found in the ledger; each is
        to take `steps` steps.
        """

    def stepped(self, taken: int, alive: int, members: int) -> None:
        """The blocks in work have `members` members, of which `alive` are still going; all their
        steps so far are `taken`.
        """

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
        self, round: Round, entrants: Sequence[str], done: int, members: int, steps: int
    ) -> None: ...

    def stepped(self, taken: int, alive: int, members: int) -> None: ...

    def block_ended(self, done: int, best: dict[str, float]) -> None: ...

    def looked(self, look: Look) -> None: ...


class InWork:
    """Adds up what blocks tell that are trained side by side.

    members: in each block, by its place.
    """

    def __init__(self, progress: Progress, members: Sequence[int]) -> None:
        self.progress, self.members = progress, members
        self.told: dict[int, tuple[int, int]] = {}

    def stepped(self, place: int, step: int, alive: int) -> None:
        self.told[place] = step, alive
        self.progress.stepped(
            sum(self.members[one] * step for one, (step, _) in self.told.items()),
            sum(alive for _, alive in self.told.values()),
            sum(self.members[one] for one in self.told),
        )

    def ended(self, place: int) -> None:
        self.told.pop(place, None)
