"""The loss along one step: what the quadratic at its start predicts, and what the step did."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.doctor.curvature.hessian import Hessian
from thalweg.doctor.objective.borrowed import Mode
from thalweg.doctor.objective.objective import Conditions, Objective
from thalweg.errors import UserError
from thalweg.statistics import Interval, wilson
from thalweg.tasks.forms import Batch
from thalweg.tasks.task import Score


@dataclass(frozen=True)
class Parabola:
    """The loss along a step d as L + slope t + bend t^2, where t is the share of the step.

    slope: d'g. bend: d'Hd / 2. Both are in units of the loss.
    """

    slope: float
    bend: float

    @property
    def predicted(self) -> float:
        """The predicted change by the whole step, d'g + d'Hd / 2."""
        return self.slope + self.bend

    @property
    def best(self) -> float:
        """The share of the step that lowers the loss most; infinite where the loss bends down.

        For d = -g this is the best learning rate, g'g / g'Hg.
        """
        return max(0.0, -self.slope / (2 * self.bend)) if self.bend > 0 else math.inf

    @property
    def largest(self) -> float:
        """The share of the step beyond which the loss is higher than at the start.

        For d = -g this is the largest learning rate, 2 g'g / g'Hg.
        """
        return 2 * self.best


@dataclass(frozen=True)
class Step(Parabola):
    """The prediction for a step, and its result.

    change: the loss after the step less the loss before it, on the same data. round_off: the
    round-off error of the change; a smaller change counts as none. curvature: d'Hd / d'd, in units
    of the loss over the square of the units of a parameter.
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
    """The change of the loss by a step d from the objective's point, predicted and actual.

    With g the gradient and H the Hessian at the start, the prediction is d'g + d'Hd / 2. For
    d = -lr g it is -lr g'g + lr^2 g'Hg / 2 (Goodfellow, Bengio and Courville 2016, 4.3.1).

    step: `[P]`. Cost: two forward passes, a gradient and a product with the Hessian.
    Raises UserError for a step that is zero or not finite.
    """
    d = step.to(objective.point)
    if not (d.isfinite().all() and d.any()):
        raise UserError("A step must be finite and not zero.")
    hessian = Hessian(objective)
    (bent,) = hessian.times(d.unsqueeze(0))
    before, after = objective.value(), objective.value(objective.point + d)
    twice = float(d @ bent)
    return Step(
        slope=float(d @ objective.gradient()),
        bend=twice / 2,
        change=after - before,
        round_off=2 * hessian.resolution() * max(abs(before), abs(after)),
        curvature=twice / float(d @ d),
        conditions=hessian.conditions,
    )


ROUND_OFF = 64
"""The round-off error of slope and bend, as a multiple of the resolution of a loss. It is 8 times
8: the weights of the three losses in the bend add up to 8, and a number that is eight times its
error is known to an eighth."""


@dataclass(frozen=True)
class SeenStep(Parabola):
    """A step d that the optimizer took, and the loss of its batch along the step.

    loss: the loss before the step. change: the loss after the step less the loss before it.
    round_off: the round-off error of the change; a smaller change counts as none.
    gradient, length: the norm of the gradient that the optimizer had, and the norm of d.
    gradient_cosine: the cosine between the gradient and the one before. velocity_cosine: the cosine
    between -g and the step before, the velocity; where it is negative, momentum moves uphill. Both
    are None at the first step, and 0 where the step or a gradient is zero.
    rates: by parameter, the effective rate |d| / |g|; None where the gradient is zero.
    """

    loss: float
    change: float
    round_off: float
    gradient: float
    length: float
    gradient_cosine: float | None
    velocity_cosine: float | None
    rates: Mapping[str, float | None]
    conditions: Conditions

    @property
    def overshoots(self) -> bool | None:
        """Whether a shorter step would have been better; None where round-off hides it."""
        margin = self.slope + 2 * self.bend
        return margin > 0 if abs(margin) > self.round_off else None


@dataclass
class StepWatch:
    """Measures the loss along steps while a model trains.

        watch = StepWatch(model, loss)
        loss(model(*inputs), targets).backward()
        with watch.looking((*inputs, targets)):
            optimizer.step()
        print(watch.seen[-1])

    With L0, L1/2 and L1 the losses of the batch before the step, half-way and after it,

        slope = -3 L0 + 4 L1/2 - L1        bend = 2 (L0 - 2 L1/2 + L1),

    which is exact where the loss is quadratic along the step. Slope and bend do not depend on the
    optimizer's gradient, which may be clipped, scaled or taken with other dropout masks; only the
    norms, cosines and rates do. Where round-off hides the differences of the losses, as with a
    large constant in the loss, the parabola comes from the slopes at both ends of the step.

    Each measurement costs three forward passes, which is about one gradient evaluation; two more
    evaluations where the slopes are needed; and five times the memory of the parameters. The
    training itself does not change.
    """

    model: nn.Module
    loss: Score
    _: KW_ONLY
    mode: Mode | None = None
    dtype: torch.dtype | None = None
    seen: list[SeenStep] = field(default_factory=list, init=False)
    last: tuple[Tensor, Tensor] | None = field(default=None, init=False)

    @contextmanager
    def looking(self, batch: Batch) -> Iterator[None]:
        """Measures the step that is taken within the block; batch: the batch of its gradient."""
        start = Objective(self.model, self.loss, [batch], mode=self.mode, dtype=self.dtype)
        gradient = start.flat([gradient_of(param) for param in start.parameters])
        yield
        step = start.flat(start.parameters) - start.point
        self.seen.append(seen(start, gradient, step, self.last))
        self.last = gradient, step

    def overshooting(self) -> Interval:
        """The share of steps that overshoot, without the steps where round-off hides it.

        Raises UserError where round-off hides it in all steps.
        """
        told = [step.overshoots for step in self.seen if step.overshoots is not None]
        if not told:
            raise UserError(
                "Round-off hides the change of every step; use StepWatch(..., dtype=torch.float64)."
            )
        return wilson(sum(told), len(told))


def seen(
    start: Objective,
    gradient: Float[Tensor, " P"],
    step: Float[Tensor, " P"],
    last: tuple[Tensor, Tensor] | None,
) -> SeenStep:
    first, half, end = (start.value(start.point + share * step) for share in (0, 0.5, 1))
    slope, bend = -3 * first + 4 * half - end, 2 * (first - 2 * half + end)
    change = end - first
    resolution = ROUND_OFF * torch.finfo(start.dtype).eps
    round_off = resolution * max(abs(first), abs(half), abs(end))
    if abs(slope + 2 * bend) <= round_off:
        slope, bend, size = by_slopes(start, step)
        change, round_off = slope + bend, resolution * size
    return SeenStep(
        slope,
        bend,
        loss=first,
        change=change,
        round_off=round_off,
        gradient=float(gradient.norm()),
        length=float(step.norm()),
        gradient_cosine=cosine(gradient, last[0]) if last else None,
        velocity_cosine=cosine(-gradient, last[1]) if last else None,
        rates=rates(start.views(gradient), start.views(step)),
        conditions=start.conditions,
    )


def by_slopes(start: Objective, step: Float[Tensor, " P"]) -> tuple[float, float, float]:
    """Slope and bend from the gradients at both ends of a step, and the size of their terms.

    A constant in the loss has no gradient, so it causes no round-off error here.
    """
    ends = [start.gradient(start.point + share * step) for share in (0, 1)]
    slope, last_slope = (float(gradient @ step) for gradient in ends)
    size = max(float(gradient.norm()) for gradient in ends) * float(step.norm())
    return slope, (last_slope - slope) / 2, size


def rates(gradients: Mapping[str, Tensor], steps: Mapping[str, Tensor]) -> dict[str, float | None]:
    norms = {name: float(gradient.norm()) for name, gradient in gradients.items()}
    return {n: float(steps[n].norm()) / norm if norm > 0 else None for n, norm in norms.items()}


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a, b, dim=0))


def gradient_of(param: nn.Parameter) -> Tensor:
    """The gradient of a parameter; 0 where it has none."""
    return torch.zeros_like(param) if param.grad is None else param.grad.to_dense()
