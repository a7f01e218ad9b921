"""A way out of a flat region: down along the most negative curvature."""

from __future__ import annotations

from dataclasses import dataclass

from thalweg.doctor.curvature.eigenvalues import Eigenvalue, extremes
from thalweg.doctor.curvature.hessian import Hessian
from thalweg.doctor.curvature.negative_curvature import Descent, descent
from thalweg.doctor.objective.conditions import Conditions
from thalweg.doctor.objective.objective import Objective


@dataclass(frozen=True)
class Escape:
    """lowest: the most negative curvature. descent: how far down it goes along its direction.

    loss: where it was looked from.
    """

    lowest: Eigenvalue
    descent: Descent
    loss: float
    conditions: Conditions


def escape(objective: Objective) -> Escape:
    """Looks along the most negative curvature. Cost: that of `extremes`, and of `descent`."""
    found = extremes(Hessian(objective), ends=["lowest"], tolerance=0.05)
    way = descent(objective, found.lowest.vector)
    return Escape(found.lowest, way, objective.value(), found.conditions)
