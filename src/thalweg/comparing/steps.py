"""The number of steps that a change saves, if both sides report curves."""

from __future__ import annotations

import math
from collections.abc import Sequence

from thalweg import statistics
from thalweg.comparing.sides import Outcome
from thalweg.statistics import Comparison, Direction


def steps_saved(
    old: Sequence[Outcome], new: Sequence[Outcome], direction: Direction, level: float
) -> Comparison | None:
    """How many steps earlier new reaches the final metric of the worse run of each pair.

    None unless all runs report curves, except diverged runs, which never reach it.
    """
    pairs = list(zip(old, new, strict=True))
    if any(math.isfinite(one.score) and not one.curve for pair in pairs for one in pair):
        return None
    ends = [worse_end(pair, direction) for pair in pairs]
    if not any(map(math.isfinite, ends)):
        return None
    steps = [
        [steps_to(pair[side], end, direction) for pair, end in zip(pairs, ends, strict=True)]
        for side in (0, 1)
    ]
    return statistics.compare(steps[1], steps[0], "min", level)


def worse_end(pair: tuple[Outcome, Outcome], direction: Direction) -> float:
    """The worse of the finite scores of a pair."""
    scores = [one.score for one in pair if math.isfinite(one.score)]
    return (max if direction == "min" else min)(scores, default=math.nan)


def steps_to(run: Outcome, end: float, direction: Direction) -> float:
    """The first step at which a run is as good as `end`; nan for a diverged run."""
    if not math.isfinite(run.score):
        return math.nan
    sign = 1 if direction == "min" else -1
    return next((step for step, metric in run.curve if sign * metric <= sign * end), math.nan)
