"""Plateaus in time: does the loss still fall, or is it flat within its noise?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thalweg.doctor.intervals import student
from thalweg.errors import UserError
from thalweg.statistics import Interval

BLOCKS = 10


@dataclass(frozen=True)
class Trend:
    """What became of a series over so many steps.

    change: from its begin to its end along a straight line, with a 95 % interval.
    """

    change: Interval
    steps: int

    @property
    def falls(self) -> bool:
        """Whether it falls beyond noise."""
        return self.change.high < 0

    @property
    def flat(self) -> bool:
        """Whether the change is within noise: no proof that there is none."""
        return self.change.low <= 0 <= self.change.high


def trend(values: Sequence[float]) -> Trend:
    """The trend of losses (or of any series), step by step.

    Successive losses depend on each other, so the steps are put into 10 blocks, and a line is laid
    through the blocks' means; the interval is Student's t of its slope. It is right where a block
    is much longer than the memory of the noise, and the series does not bend: give a part of it.

    Raises UserError for fewer than 20 values and for values that are not finite.
    """
    from scipy import stats  # takes a while to import, and few need it

    series = np.asarray(values, dtype=np.float64)
    if series.ndim != 1 or len(series) < 2 * BLOCKS or not np.isfinite(series).all():
        raise UserError(f"A trend needs {2 * BLOCKS} finite values or more, in a row.")
    length = len(series) // BLOCKS
    recent = series[-length * BLOCKS :]
    means = recent.reshape(BLOCKS, length).mean(1)
    line = stats.linregress(np.arange(BLOCKS) * length, means)
    margin = student(BLOCKS - 2) * line.stderr
    slopes = (line.slope, line.slope - margin, line.slope + margin)
    return Trend(Interval(*(float(slope) * len(recent) for slope in slopes)), len(recent))
