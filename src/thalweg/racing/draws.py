"""Quasi-random points, and the values in a search space that they stand for.

Each hyperparameter's name always has the same dimension of the points. So two entrants with an `lr`
try the same quantiles of their search spaces.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from scipy.stats import qmc

from thalweg.rules.space import Space

NAMES = (
    "lr",
    "cooling",
    "momentum",
    "betas[0]",
    "betas[1]",
    "weight_decay",
    "alpha",
    "rho",
    "eps",
    "increase",
    "decrease",
    "smoothing",
)
"""The names in the order of their dimensions. The first dimensions are filled most evenly."""


ROUND_OFF = 1e-9
"""By round-off, a value at the end of its space may lie this far beyond it, in quantiles."""


def quantiles(count: int, seed: int, names: Iterable[str] = ()) -> list[dict[str, float]]:
    """`count` points of a scrambled Sobol sequence, each a number in [0, 1) by hyperparameter name.

    names: further names that need a dimension; they come after `NAMES`, in alphabetical order.
    """
    every = (*NAMES, *sorted(set(names) - set(NAMES)))
    power = max(count - 1, 0).bit_length()  # a power of two fills the space evenly
    points = qmc.Sobol(len(every), rng=seed).random_base2(power)[:count]
    return [dict(zip(every, point.tolist(), strict=True)) for point in points]


def value_at(space: Space, quantile: float) -> float:
    """The value below which the share `quantile` of the space lies, on the scale of the space.

    A quantile below 0 or above 1 gives a value beyond the ends of the space.
    """
    if space.scale == "log":
        return space.low * math.pow(space.high / space.low, quantile)
    if space.scale == "log_one_minus":
        return 1 - (1 - space.low) * math.pow((1 - space.high) / (1 - space.low), quantile)
    return space.low + (space.high - space.low) * quantile


def quantile_of(space: Space, value: float) -> float:
    """The share of the space below `value`. It is the inverse of `value_at`."""
    if space.scale == "log":
        return math.log(value / space.low) / math.log(space.high / space.low)
    if space.scale == "log_one_minus":
        return math.log((1 - value) / (1 - space.low)) / math.log(
            (1 - space.high) / (1 - space.low)
        )
    return (value - space.low) / (space.high - space.low)
