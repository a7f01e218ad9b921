"""The trend of a loss: whether it still falls, or is flat within its noise."""

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
    """How a series of values has changed.

    change: the change from the first value to the last along a straight line, with its 95 %
    interval.
    """

    change: Interval
    steps: int

    @property
    def falls(self) -> bool:
        """Whether the series falls by more than noise explains."""
        return self.change.high < 0

    @property
    def flat(self) -> bool:
        """Whether noise may explain the change. This does not prove that there is no change."""
        return self.change.low <= 0 <= self.change.high


def trend(values: Sequence[float]) -> Trend:
    """The trend of a series of losses, or of any other values.

    Successive losses depend on each other. So the steps are divided into 10 blocks, a line is
    fitted through the means of the blocks, and the interval is Student's t of its slope. The
    interval is correct if a block is much longer than the correlation of the noise, and if the
    series is nearly straight. Of a curved series, give a shorter part.

    Raises UserError for fewer than 20 values and for values that are not finite.
    """
    series = np.asarray(values, dtype=np.float64)
    if series.ndim != 1 or len(series) < 2 * BLOCKS or not np.isfinite(series).all():
        raise UserError(f"A trend needs a list of {2 * BLOCKS} finite values or more.")
    length = len(series) // BLOCKS
    recent = series[-length * BLOCKS :]
    means = recent.reshape(BLOCKS, length).mean(1)
    line = line_slope(np.arange(BLOCKS) * length, means)
    ends = (float(x) * len(recent) for x in (line.estimate, line.low, line.high))
    return Trend(Interval(*ends), len(recent))
