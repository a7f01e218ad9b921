"""The critical points of small problems, where the gradient is 0, and their kinds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thalweg.doctor.curvature.hessian import Hessian
from thalweg.doctor.objective.objective import Objective
from thalweg.errors import UserError

Kind = Literal["minimum", "maximum", "saddle", "degenerate"]
Floats = NDArray[np.float64]

LARGEST = 200
"""The most parameters, because each Newton step computes the whole Hessian."""
VANISHES = 1e-8
"""A gradient counts as 0 up to this norm, relative to 1 + the largest absolute eigenvalue."""
APART = 1e-4
"""Two points count as one if their distance, relative to their size, is below this."""
ZERO = 1e-6
"""Eigenvalues up to this size, relative to the largest, count as 0."""


@dataclass(frozen=True)
class CriticalPoint:
    """A point `[P]` where the gradient is 0.

    value: the loss. gradient: the norm of the remaining gradient. negative: the number of
    eigenvalues below 0. size: the number of all eigenvalues. kind: "degenerate" if an eigenvalue is
    0, because the Hessian then does not determine the kind.
    """

    point: Tensor = field(repr=False, compare=False)
    value: float
    gradient: float
    negative: int
    size: int
    kind: Kind


def critical_points(objective: Objective, starts: Sequence[Tensor]) -> list[CriticalPoint]:
    """The different critical points that are found from some starts, in rising order of the loss.

    From each start, MINPACK's hybrid of Newton's method solves grad L = 0 with the exact Hessian. A
    search can also end where the gradient has a smallest norm above 0; such points are left out.
    The search finds points near its starts, and does not know how many others exist.

    objective: in float64. starts: each `[P]`. Cost: about ten gradients and Hessians for each
    start, and P products for each Hessian. Raises UserError for more than 200 parameters, and for
    an objective that is not in float64.
    """
    if len(objective) > LARGEST or objective.dtype != torch.float64:
        raise UserError(
            f"Critical points are searched with up to {LARGEST} parameters in float64, not with"
            f" {len(objective)} in {objective.conditions.precision}."
        )
    found: list[CriticalPoint] = []
    for start in starts:
        point = classified(objective, solved(objective, start))
        if point and not any(same(point, other) for other in found):
            found.append(point)
    return sorted(found, key=lambda point: point.value)


def solved(objective: Objective, start: Tensor) -> Tensor:
    from scipy.optimize import root  # takes a while to import, and few need it

    def gradient(x: Floats) -> Floats:
        return objective.gradient(torch.from_numpy(x)).numpy(force=True)

    def hessian(x: Floats) -> Floats:
        return whole(objective, torch.from_numpy(x)).numpy(force=True)

    solution = root(gradient, start.double().numpy(force=True), jac=hessian, tol=1e-14)
    return torch.from_numpy(solution.x)


def classified(objective: Objective, point: Tensor) -> CriticalPoint | None:
    """The point with its kind; None if the gradient there is not 0."""
    eigenvalues = torch.linalg.eigvalsh(whole(objective, point))
    largest = float(eigenvalues.abs().max())
    gradient = float(objective.gradient(point).norm())
    if not gradient <= VANISHES * (1 + largest):
        return None
    negative = int((eigenvalues < -ZERO * largest).sum())
    kind: Kind = "saddle"
    if (eigenvalues.abs() <= ZERO * largest).any():
        kind = "degenerate"
    elif negative in (0, len(eigenvalues)):
        kind = "maximum" if negative else "minimum"
    value = objective.value(point)
    return CriticalPoint(
        point=point,
        value=value,
        gradient=gradient,
        negative=negative,
        size=len(eigenvalues),
        kind=kind,
    )


def whole(objective: Objective, point: Tensor) -> Tensor:
    unit = torch.eye(len(objective), dtype=objective.dtype, device=objective.device)
    return Hessian(objective, point.to(objective.point)).times(unit)


def same(one: CriticalPoint, other: CriticalPoint) -> bool:
    apart = (one.point - other.point).norm()
    return bool(apart <= APART * (1 + one.point.norm()))
