"""The condition number of a curvature, which says how narrow the valleys of the loss are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from thalweg.doctor.curvature.curvature import Curvature
from thalweg.doctor.curvature.eigenvalues import Extremes, extremes
from thalweg.doctor.curvature.spectrum import Spectrum, spectrum
from thalweg.doctor.objective.objective import Conditions

Kind = Literal["highest over lowest", "largest over quantile"]


@dataclass(frozen=True)
class ConditionNumber:
    """The ratio of the curvatures in different directions.

    value: at least 1. low, high: its interval; the upper end is infinite if the divisor may be 0.
    kind: which ratio this is. share: the share that defines the quantile, if there is one.
    converged: whether the eigenvalues converged.
    """

    value: float
    low: float
    high: float
    kind: Kind
    share: float | None
    converged: bool
    conditions: Conditions


def condition_number(
    curvature: Curvature,
    *,
    share: float = 0.5,
    tolerance: float = 0.01,
    probes: int = 10,
    steps: int = 64,
    seed: int = 0,
) -> ConditionNumber:
    """The highest eigenvalue over the lowest, if all are clearly above 0, as near a minimum.

    Otherwise that ratio has no meaning. The condition number is then the largest absolute
    eigenvalue over a quantile of the absolute eigenvalues: a `share` of them is at most as large as
    the quantile. Most eigenvalues of a network lie near 0. If the quantile may be 0, the condition
    number is only known to be at least `low`.

    tolerance, seed: as for `extremes`. probes, steps: as for `spectrum`, which is computed if the
    quantile is needed. Cost: that of both. Raises UserError as they do, and for a share outside
    (0, 1).
    """
    ends = extremes(curvature, tolerance=tolerance, seed=seed)
    if ends.lowest.value - ends.lowest.error > 0:
        return plain_ratio(ends)
    seen = spectrum(curvature, probes=probes, steps=steps, seed=seed)
    return over_quantile(ends, seen, share)


def plain_ratio(ends: Extremes) -> ConditionNumber:
    high, low = ends.highest, ends.lowest
    return ConditionNumber(
        value=high.value / low.value,
        low=max(1.0, (high.value - high.error) / (low.value + low.error)),
        high=(high.value + high.error) / (low.value - low.error),
        kind="highest over lowest",
        share=None,
        converged=high.converged and low.converged,
        conditions=ends.conditions,
    )


def over_quantile(ends: Extremes, seen: Spectrum, share: float) -> ConditionNumber:
    largest = max(ends.highest, ends.lowest, key=lambda end: abs(end.value))
    size, quantile = abs(largest.value), seen.size_at(share)
    return ConditionNumber(
        value=over(size, quantile.estimate),
        low=max(1.0, over(size - largest.error, quantile.high)),
        high=over(size + largest.error, quantile.low),
        kind="largest over quantile",
        share=share,
        converged=largest.converged,
        conditions=seen.conditions,
    )


def over(size: float, quantile: float) -> float:
    return size / quantile if quantile > 0 else math.inf
