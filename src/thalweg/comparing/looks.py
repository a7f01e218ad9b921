"""When a comparison is looked at, and the error that each look may spend."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

from thalweg.statistics import error_spent, level_at, looks

MOST_SEEDS = 1_000
"""With more pairs the exact test takes seconds."""

SHARE = 0.8
"""The share of the risk that the pairs asked for at first may spend, and each addition of what is
left. All shares together are one.
"""


@dataclass(frozen=True)
class Looks:
    """The plan of a comparison of at most `totals[-1]` pairs.

    alpha: the risk that two that are equally good are called better or worse, or that two which
        differ by the margin or more are called no different. totals: the pairs asked for at first,
        and then with each addition, in rising order.

    Up to a look at n pairs each one-sided test has spent (alpha' / 2) (n / total)^1.5, as in a race
    (the power family of Kim and DeMets 1987), where alpha' is `SHARE` of alpha; each look has what
    that adds. A union bound over looks and over both signs keeps the whole below alpha, since
    better and worse spend alpha / 2 each. The test of the margin (`statistics.within_margin`) takes
    the level of the look too. Where it can be wrong the difference is the margin or more, so only
    the wrong sign can be called beside it, and both again spend alpha / 2 each.

    The risk that is kept back makes additions honest: pairs that are added because nothing was
    decided spend the rest, never the same risk again. A look out of turn, where time is up, has
    what was not spent since the look before (Lan and DeMets 1983).
    """

    alpha: float
    totals: tuple[int, ...]

    def spent(self, pairs: int) -> float:
        """The error that each one-sided test may have spent after so many pairs."""
        spent, left, start = 0.0, self.alpha, 0
        for end in self.totals:
            risk, reached = SHARE * left, min(pairs, end)
            if reached > start:
                spent += error_spent(reached - start, end - start, risk)
            left, start = left - risk, end
        return spent

    def level(self, pairs: int, before: int) -> float:
        """The one-sided level of a look after so many pairs, `before` at the look before."""
        return self.spent(pairs) - self.spent(before)

    def can_decide(self, pairs: int, before: int) -> bool:
        """Whether even as many wins as pairs reach the level."""
        return math.pow(2, -pairs) <= self.level(pairs, before)

    def after(self, before: int) -> int | None:
        """The next planned look that can decide anything; the others would spend for nothing."""
        return next((n for n in self.planned() if n > before and self.can_decide(n, before)), None)

    def planned(self) -> Iterator[int]:
        start = 0
        for end in self.totals:
            yield from (start + look for look in looks(end - start))
            start = end

    @property
    def last_level(self) -> float:
        """The level of the last look of an addition that follows these pairs."""
        left = self.alpha * math.pow(1 - SHARE, len(self.totals))
        return level_at(1000, 1000, SHARE * left)


@lru_cache
def fewest(alpha: float) -> int:
    """The fewest pairs that can decide anything at this risk."""
    return next(pairs for pairs in count(1) if Looks(alpha, (pairs,)).after(0) is not None)
