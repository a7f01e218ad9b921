"""The trend of a loss: does it still fall, or is it flat within its noise?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thalweg.doctor.intervals import line_slope
from thalweg.errors import UserError
from thalweg.statistics import Interval

BLOCKS = 10


@dataclass(frozen=True)
class Trend:
    """How a series has changed over a number of steps.

    change: from its first value to its last along a straight line, with a 95 % interval.
    """

    change: Interval
    steps: int

    @property
    def falls(self) -> bool:
        """Whether it falls beyond noise."""
        return self.change.high < 0

    @property
    def flat(self) -> bool:
        """Whether the change is within noise, which does not prove that there is none."""
        return self.change.low <= 0 <= self.change.high


def trend(values: Sequence[float]) -> Trend:
    """The trend of losses (or of any series), step by step.

    Successive losses depend on each other. So the steps are put into 10 blocks, a line is laid
    through the blocks' means, and the interval is Student's t of its slope. The interval is right
    where a block is much longer than the memory of the noise, and where the series does not bend;
    give a part of a series that bends.

    Raises UserError for fewer than 20 values and for values that are not finite.
    """
    series = np.asarray(values, dtype=np.float64)
    if series.ndim != 1 or len(series) < 2 * BLOCKS or not np.isfinite(series).all():
        raise UserError(f"A trend needs {2 * BLOCKS} finite values or more, as one list.")
    length = len(series) // BLOCKS
    recent = series[-length * BLOCKS :]
    means = recent.reshape(BLOCKS, length).mean(1)
    line = line_slope(np.arange(BLOCKS) * length, means)
    ends = (float(x) * len(recent) for x in (line.estimate, line.low, line.high))
    return Trend(Interval(*ends), len(recent))
