"""The scores of both sides, and the answer that they give at a level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from thalweg import statistics
from thalweg.statistics import Comparison, Direction

Answer = Literal["better", "worse", "no difference worth the margin", "cannot tell"]

ALIKE = 3
"""Runs of a side with one score, from which it is clear that the seed changes nothing."""


@dataclass(frozen=True)
class Scores:
    """The scores of both sides, in the order of their pairs where they are paired.

    names: the names of old and new. metric, direction: the metric of the scores.
    """

    names: tuple[str, str]
    metric: str
    direction: Direction
    old: Sequence[float]
    new: Sequence[float]
    paired: bool = True

    def compared(self, level: float) -> Comparison:
        """The comparison of new with old. A gain is positive if new is better."""
        test = statistics.compare if self.paired else statistics.compare_unpaired
        return test(self.new, self.old, self.direction, level)

    @property
    def alike(self) -> str:
        """The name of a side whose scores are all equal: its seed has no effect. "" if none."""
        for name, scores in zip(self.names, (self.old, self.new), strict=True):
            if len(scores) >= ALIKE and len(set(scores)) == 1 and math.isfinite(scores[0]):
                return name
        return ""

    @property
    def all_diverged(self) -> bool:
        """Whether no run of both sides ended well, of as many as `alike` takes."""
        scores = [*self.old, *self.new]
        return len(scores) >= 2 * ALIKE and not any(map(math.isfinite, scores))

    @property
    def futile(self) -> bool:
        """Whether more runs like these would show nothing."""
        return bool(self.alike) or self.all_diverged

    def answer(self, level: float, margin: float | None) -> Answer:
        """The answer that these scores give at a one-sided level.

        With a margin, a difference that is surely smaller is not worth having, even if its sign is
        clear.
        """
        if self.futile:
            return "cannot tell"
        found = self.compared(level)
        if margin is not None and self.within(margin, level, found):
            return "no difference worth the margin"
        if found.low > 0:
            return "better"
        return "worse" if found.high < 0 else "cannot tell"

    def within(self, margin: float, level: float, found: Comparison) -> bool:
        if not self.paired:
            return -margin < found.low and found.high < margin
        return statistics.within_margin(self.new, self.old, self.direction, margin, level)

    def more_needed(self, margin: float | None, level: float) -> int | None:
        """About how many more pairs would decide, if these scores are typical. None if unknown."""
        needed = [statistics.more_seeds_needed(self.new, self.old, self.direction, level)]
        if margin is not None:
            either = [
                statistics.more_seeds_needed(
                    [score + shift for score in self.new], self.old, self.direction, level
                )
                for shift in (-margin, margin)
            ]
            counts = [count for count in either if count is not None]
            needed += [max(counts)] if len(counts) == 2 else []
        return min((max(1, count) for count in needed if count is not None), default=None)
