"""The time that a doctor's looks may take, and the time that they have taken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

from thalweg.arguments import number, short
from thalweg.errors import UserError


@dataclass
class Looks:
    """The looks of one name: their number, their seconds, and the seconds of the last one."""

    count: int = 0
    seconds: float = 0.0
    last: float = 0.0


def require_share(budget: object) -> None:
    """UserError for a budget that is neither None nor a share."""
    if budget is not None and not 0 < number(budget) < 1:
        raise UserError(
            f"budget is a share of the training's time, as 0.03 is, not {short(budget)}."
        )


class Budget:
    """The time that looks take, held against the training's own time since the budget was made.

    share: of the training's own time, the part that all looks together may take, in (0, 1); None
    for no bound. A look is allowed if the time of the last look of its name fits into what is left.
    Raises UserError for another share.
    """

    def __init__(self, share: float | None = None) -> None:
        require_share(share)
        self.share = share
        self.began = perf_counter()
        self.ended: float | None = None
        self.looks: defaultdict[str, Looks] = defaultdict(Looks)
        self.spent = 0.0

    @property
    def trained(self) -> float:
        """Seconds that were the training's own."""
        return (self.ended or perf_counter()) - self.began - self.spent

    @property
    def used(self) -> float:
        """What looks have taken, as a share of the training's own time."""
        return self.spent / self.trained

    def end(self) -> None:
        """The training is over; its clock stands still from now on."""
        self.ended = perf_counter()

    def allows(self, name: str, expected: float, part: float = 1.0) -> bool:
        """Whether a look fits into what is left.

        expected: its seconds, which count until the first look of its name was timed. part: of the
        budget, the part that all looks of this name may take.
        """
        if self.share is None:
            return True
        looks, earned = self.looks[name], self.share * self.trained
        seconds = looks.last if looks.count else expected
        return self.spent + seconds <= earned and looks.seconds + seconds <= part * earned

    @contextmanager
    def spending(self, name: str) -> Iterator[None]:
        """Counts the block as a look of this name."""
        start = perf_counter()
        yield
        self.spend(name, perf_counter() - start)

    def spend(self, name: str, seconds: float) -> None:
        """Counts a look and its seconds."""
        looks = self.looks[name]
        looks.count, looks.seconds, looks.last = looks.count + 1, looks.seconds + seconds, seconds
        self.spent += seconds
