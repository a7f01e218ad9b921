"""Directions of negative curvature: how many there are, and how far down the strongest leads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.doctor.curvature.curvature import require_tolerance
from thalweg.doctor.curvature.eigenvalues import Eigenvalue, extremes
from thalweg.doctor.curvature.hessian import Hessian
from thalweg.doctor.curvature.spectrum import spectrum
from thalweg.doctor.objective.objective import Conditions, Objective
from thalweg.statistics import Interval

FIRST = 1e-3
"""The first distance of a search, relative to the size of the weights."""
MOST = 40
"""The most times that a search doubles its distance."""


@dataclass(frozen=True)
class Descent:
    """The descent along a direction or its opposite, whichever leads lower.

    distance: the distance of the lowest measured point, in units of the parameters. drop: how much
    lower the loss is there. Both are 0 if neither direction leads down. bounded: whether the loss
    rises again further on.
    """

    distance: float
    drop: float
    bounded: bool


@dataclass(frozen=True)
class Index:
    """The shares of the eigenvalues that are negative, near 0, and positive.

    negative, flat, positive: the shares of eigenvalues below -cut, from -cut to cut, and above cut.
    cut: in units of an eigenvalue. Most eigenvalues of a network lie near 0, so the shares depend
    on the cut. lowest: the most negative curvature. descent: the descent along its direction.
    gradient: the norm of the gradient; if it is far from 0, the point is no critical point.
    """

    negative: Interval
    flat: Interval
    positive: Interval
    cut: float
    lowest: Eigenvalue
    descent: Descent
    gradient: float
    conditions: Conditions


def index(
    objective: Objective,
    *,
    cut: float = 1e-3,
    tolerance: float = 0.01,
    probes: int = 10,
    steps: int = 64,
    seed: int = 0,
) -> Index:
    """The index of the Hessian: the share of its eigenvalues that are negative.

    At a saddle point the gradient is 0 and there are eigenvalues of both signs (Dauphin et al.
    2014). Which eigenvalues count as 0 is a convention (Sagun et al. 2017).

    cut: relative to the largest absolute eigenvalue. tolerance and seed: as for `extremes`; probes
    and steps: as for `spectrum`. Cost: that of both, a gradient and up to 80 forward passes.
    Raises UserError as they do, and for a cut outside (0, 1).
    """
    require_tolerance(cut, "cut")
    hessian = Hessian(objective)
    ends = extremes(hessian, tolerance=tolerance, seed=seed)
    seen = spectrum(hessian, probes=probes, steps=steps, seed=seed)
    limit = cut * max(abs(ends.lowest.value), abs(ends.highest.value))
    below = seen.share_below(limit)
    return Index(
        negative=seen.share_below(-limit),
        flat=seen.share_within(limit),
        positive=Interval(1 - below.estimate, 1 - below.high, 1 - below.low),
        cut=limit,
        lowest=ends.lowest,
        descent=descent(objective, ends.lowest.vector),
        gradient=float(objective.gradient().norm()),
        conditions=hessian.conditions,
    )


def descent(objective: Objective, direction: Float[Tensor, " P"]) -> Descent:
    """How far the loss falls along a line through the objective's point.

    The distance begins at a thousandth of the weights' size, and doubles as long as the loss falls.
    Cost: up to 80 forward passes.
    """
    unit = direction / direction.norm()
    both = [descent_along(objective, sign * unit) for sign in (1, -1)]
    return max(both, key=lambda one: one.drop)


def descent_along(objective: Objective, unit: Float[Tensor, " P"]) -> Descent:
    start = objective.value()
    lowest, reached = start, 0.0
    # The first distance can change the loss by less than round-off.
    round_off = 2 * torch.finfo(objective.dtype).eps * abs(start)
    distance = FIRST * (1 + float(objective.point.norm()))
    for _ in range(MOST):
        value = objective.value(objective.point + distance * unit)
        if not value <= lowest + round_off:
            return Descent(reached, start - lowest, True)
        if value < lowest:
            lowest, reached = value, distance
        distance *= 2
    return Descent(reached, start - lowest, False)


@dataclass(frozen=True)
class Escape:
    """The descent along the direction of the most negative curvature.

    lowest: the most negative curvature. descent: how far down its direction leads. loss: the loss
    at the start.
    """

    lowest: Eigenvalue
    descent: Descent
    loss: float
    conditions: Conditions


def escape(objective: Objective) -> Escape:
    """Measures the most negative curvature, and the descent along its direction.

    Cost: that of `extremes` and that of `descent`.
    """
    found = extremes(Hessian(objective), ends=["lowest"], tolerance=0.05)
    down = descent(objective, found.lowest.vector)
    return Escape(found.lowest, down, objective.value(), found.conditions)
