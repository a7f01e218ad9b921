"""Quasi-random points, and what values they stand for in a search space.

Each hyperparameter's name has one dimension of the points, whatever entrants race, so that two
entrants with an `lr` try the same quantiles of their two search spaces.
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
"""The names in the order of their dimensions; the first dimensions are the most even ones."""


ROUND_OFF = 1e-9
"""By how much, in quantiles, a value at the end of its space may seem to lie beyond it."""


def quantiles(count: int, seed: int, names: Iterable[str] = ()) -> list[dict[str, float]]:
    """`count` points of a scrambled Sobol sequence: a number in [0, 1) by hyperparameter name.

    names: those beyond `NAMES` that need a dimension too; they come last, in alphabetical order.
    """
    every = (*NAMES, *sorted(set(names) - set(NAMES)))
    power = max(count - 1, 0).bit_length()  # the points are even where they are a power of two
    points = qmc.Sobol(len(every), rng=seed).random_base2(power)[:count]
    return [dict(zip(every, point.tolist(), strict=True)) for point in points]


def value_at(space: Space, quantile: float) -> float:
    """The value below which a share `quantile` of the space lies, on its own scale.

    Below 0 and above 1 the scale goes on beyond the ends of the space.
    """
    if space.scale == "log":
        return space.low * math.pow(space.high / space.low, quantile)
    if space.scale == "log_one_minus":
        return 1 - (1 - space.low) * math.pow((1 - space.high) / (1 - space.low), quantile)
    return space.low + (space.high - space.low) * quantile


def quantile_of(space: Space, value: float) -> float:
    """The share of the space below `value`: the inverse of `value_at`."""
    if space.scale == "log":
        return math.log(value / space.low) / math.log(space.high / space.low)
    if space.scale == "log_one_minus":
        return math.log((1 - value) / (1 - space.low)) / math.log(
            (1 - space.high) / (1 - space.low)
        )
    return (value - space.low) / (space.high - space.low)
