"""A way out of a flat region: down along the most negative curvature."""

from __future__ import annotations

from dataclasses import dataclass

from thalweg.doctor.conditions import Conditions
from thalweg.doctor.eigenvalues import Eigenvalue, extremes
from thalweg.doctor.hessian import Hessian
from thalweg.doctor.objective import Objective
from thalweg.doctor.saddle import Descent, descent


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
