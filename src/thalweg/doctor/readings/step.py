"""One step looked at closely: what the quadratic at its start foretells, and what happened."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from thalweg.doctor.curvature.hessian import Hessian
from thalweg.doctor.objective.conditions import Conditions
from thalweg.doctor.objective.objective import Objective
from thalweg.errors import UserError


@dataclass(frozen=True)
class Parabola:
    """The loss along a step d, as L + slope t + bend t^2 in the share t of the step.

    slope: d'g. bend: d'Hd / 2. Both in units of the loss.
    """

    slope: float
    bend: float

    @property
    def predicted(self) -> float:
        """The change that the whole step makes: d'g + d'Hd / 2."""
        return self.slope + self.bend

    @property
    def best(self) -> float:
        """The share of the step that lowers the loss most; infinite where it bends down.

        Along d = -g it is the best learning rate, g'g / g'Hg.
        """
        return max(0.0, -self.slope / (2 * self.bend)) if self.bend > 0 else math.inf

    @property
    def largest(self) -> float:
        """The share of the step beyond which the loss is higher than at the start.

        Along d = -g it is the largest learning rate, 2 g'g / g'Hg.
        """
        return 2 * self.best


@dataclass(frozen=True)
class Step(Parabola):
    """A step looked at closely.

    change: what it made of the loss, on the same data. round_off: of the change; a smaller one is
    none. curvature: d'Hd / d'd, in units of the loss over those of a parameter squared.
    """

    change: float
    round_off: float
    curvature: float
    conditions: Conditions

    @property
    def overshoots(self) -> bool:
        """Whether a shorter step would have been better."""
        return self.best < 1


def look_at_step(objective: Objective, step: Float[Tensor, " P"]) -> Step:
    """What a step d from the objective's point was to make of the loss, and what it made.

    With g the gradient and H the Hessian at the start, the contribution is d'g + d'Hd / 2; for
    d = -lr g that is -lr g'g + lr^2 g'Hg / 2 (Goodfellow, Bengio and Courville 2016, 4.3.1).

    step: `[P]`. Cost: two forward passes, a gradient and a product with the Hessian.
    Raises UserError for a step that is zero or not finite.
    """
    d = step.to(objective.point)
    if not (d.isfinite().all() and d.any()):
        raise UserError("A step must be finite and not zero, or there is nothing to look at.")
    hessian = Hessian(objective)
    (bent,) = hessian.times(d.unsqueeze(0))
    before, after = objective.value(), objective.value(objective.point + d)
    twice = float(d @ bent)
    return Step(
        float(d @ objective.gradient()),
        twice / 2,
        after - before,
        2 * hessian.resolution() * max(abs(before), abs(after)),
        twice / float(d @ d),
        hessian.conditions,
    )
