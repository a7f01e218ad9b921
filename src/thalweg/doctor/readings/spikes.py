"""Spikes of a loss or of a gradient's norm, and the effect that clipping would have had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thalweg.arguments import require_whole
from thalweg.errors import UserError

Floats = NDArray[np.float64]

NORMAL = 1.4826
"""The standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True)
class Spike:
    """A value far above the values before it.

    step: its index in the series, from 0. deviations: its height above the running median, in
    robust standard deviations; infinite for a value that is not finite.
    """

    step: int
    value: float
    deviations: float


def spikes(
    values: Sequence[float], *, window: int = 128, threshold: float = 6.0, fewest: int = 20
) -> list[Spike]:
    """The spikes in a series of losses or of gradient norms.

    A value is a spike if it lies more than `threshold` robust standard deviations (1.4826 median
    absolute deviations) above the median of the last `window` values. Values that are not finite
    are spikes, and the median leaves them out. The first `fewest` values are never spikes. The fall
    of a falling series counts as deviation, so a spike must be larger than the fall. OLMo's trainer
    uses 6 to 7 deviations over the last 128 to 1000 steps.

    Raises UserError for a window below `fewest`, and for a threshold that is not above 0.
    """
    fewest = require_whole("fewest", fewest, 2)
    window = require_whole("window", window, fewest)
    if not threshold > 0:
        raise UserError(f"threshold must be above 0, not {threshold!r}.")
    series = np.asarray(values, dtype=np.float64)
    found = []
    for step in range(fewest, len(series)):
        before = series[max(0, step - window) : step]
        deviations = above(series[step], before[np.isfinite(before)])
        if deviations > threshold:
            found.append(Spike(step, float(series[step]), deviations))
    return found


def above(value: float, before: Floats) -> float:
    """The number of robust standard deviations by which a value exceeds those before it."""
    if not np.isfinite(value):
        return float("inf")
    if len(before) == 0:
        return 0.0
    median = np.median(before)
    deviation = NORMAL * np.median(abs(before - median))
    if value <= median:
        return 0.0
    return float((value - median) / deviation) if deviation > 0 else float("inf")


@dataclass(frozen=True)
class Clip:
    """The effect that clipping by norm, at a percentile of the measured norms, would have had.

    norm: the threshold. clipped: the share of the steps that clipping would have shortened.
    shortest: the factor for the largest gradient; 0 for an infinite gradient. kept: the sum of the
    finite norms after clipping over their sum before it.
    """

    percentile: float
    norm: float
    clipped: float
    shortest: float
    kept: float


def clips(
    norms: Sequence[float], percentiles: Sequence[float] = (50, 75, 90, 95, 99, 99.9)
) -> list[Clip]:
    """The effect of g <- g min(1, t / |g|) with t at each percentile of the norms.

    norms: before any clipping, and without the loss scale of mixed precision. The result does not
    say how training would have gone on, because later gradients would have been different.

    Raises UserError without a finite norm, for one below 0, and for percentiles outside 0 to 100.
    """
    sizes = np.asarray(norms, dtype=np.float64)
    finite = sizes[np.isfinite(sizes)]
    if len(finite) == 0 or (finite < 0).any():
        raise UserError("The norms must be at least 0, and at least one of them must be finite.")
    if not all(0 <= percentile <= 100 for percentile in percentiles):
        raise UserError(f"percentiles must lie between 0 and 100, not be {list(percentiles)}.")
    return [clip(sizes, finite, percentile) for percentile in percentiles]


def clip(sizes: Floats, finite: Floats, percentile: float) -> Clip:
    norm = float(np.percentile(finite, percentile))
    largest, total = float(np.nanmax(sizes)), float(finite.sum())
    return Clip(
        percentile=percentile,
        norm=norm,
        clipped=float(np.mean(~(sizes <= norm))),
        shortest=min(1.0, norm / largest) if largest > 0 else 1.0,
        kept=float(np.minimum(finite, norm).sum() / total) if total > 0 else 1.0,
    )
