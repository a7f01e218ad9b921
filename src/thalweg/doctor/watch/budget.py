"""The time that a doctor's measurements may take, and the time that they have taken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

from thalweg.arguments import number, short
from thalweg.errors import UserError


@dataclass
class TimeSpent:
    """The measurements of one name: their number, their seconds, and the seconds of the last."""

    count: int = 0
    seconds: float = 0.0
    last: float = 0.0


def require_share(budget: object) -> None:
    """UserError for a budget that is neither None nor a share."""
    if budget is not None and not 0 < number(budget) < 1:
        raise UserError(
            f"budget must be a share of the training's time, such as 0.03, not {short(budget)}."
        )


class Budget:
    """Limits the time of all measurements to a share of the training's own time.

    share: the measurements together may take this share of the time that the training itself has
    taken since the budget was made, in (0, 1); None for no limit. A measurement is allowed if the
    last one of its name would fit into the time that is left. Raises UserError for another share.
    """

    def __init__(self, share: float | None = None) -> None:
        require_share(share)
        self.share = share
        self.began = perf_counter()
        self.ended: float | None = None
        self.by_name: defaultdict[str, TimeSpent] = defaultdict(TimeSpent)
        self.spent = 0.0

    @property
    def trained(self) -> float:
        """The seconds that the training itself has taken, without the measurements."""
        return (self.ended or perf_counter()) - self.began - self.spent

    @property
    def used(self) -> float:
        """The time of all measurements over the training's own time."""
        return self.spent / self.trained

    def end(self) -> None:
        """Stops the clock, because the training is over."""
        self.ended = perf_counter()

    def allows(self, name: str, expected: float, part: float = 1.0) -> bool:
        """Whether a measurement fits into the time that is left.

        expected: its expected seconds, which count until a first one of its name was timed. part:
        the part of the budget that all measurements of this name may take.
        """
        if self.share is None:
            return True
        spent, earned = self.by_name[name], self.share * self.trained
        seconds = spent.last if spent.count else expected
        return self.spent + seconds <= earned and spent.seconds + seconds <= part * earned

    @contextmanager
    def spending(self, name: str) -> Iterator[None]:
        """Times the block as a measurement of this name."""
        start = perf_counter()
        yield
        self.spend(name, perf_counter() - start)

    def spend(self, name: str, seconds: float) -> None:
        """Adds a measurement and its seconds."""
        spent = self.by_name[name]
        spent.count, spent.seconds, spent.last = spent.count + 1, spent.seconds + seconds, seconds
        self.spent += seconds
