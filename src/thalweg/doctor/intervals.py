"""The 95 % intervals of instruments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from thalweg.statistics import Interval

Floats = NDArray[np.float64]
CONFIDENCE = 0.95


@cache
def student(freedom: int) -> float:
    """Half the width of a 95 % interval in standard errors, by Student's t.

    freedom: the degrees of freedom.
    """
    return float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2))


def line_slope(places: Sequence[float] | NDArray[Any], values: Floats) -> Interval:
    """The slope of the line of least squares, with its 95 % interval by Student's t."""
    from scipy import stats  # takes a while to import, and few need it

    line = stats.linregress(places, values)
    margin = student(len(places) - 2) * line.stderr
    return Interval(line.slope, line.slope - margin, line.slope + margin)


def jackknife(left_out: Floats) -> float:
    """The standard error of an estimate, from the estimates that leave out one sample each."""
    k = len(left_out)
    return math.sqrt((k - 1) / k * float(((left_out - left_out.mean()) ** 2).sum()))
