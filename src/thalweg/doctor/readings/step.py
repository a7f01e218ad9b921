"""One step looked at closely: what the quadratic at its start foretells, and what happened."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.doctor.curvature.hessian import Hessian
from thalweg.doctor.objective.borrowed import Mode
from thalweg.doctor.objective.objective import Conditions, Objective
from thalweg.errors import UserError
from thalweg.stack.reading import Batch
from thalweg.statistics import Interval, wilson
from thalweg.tasks.task import Score


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


ROUND_OFF = 64
"""Of three losses, in units of one's resolution: the weights in the bend add up to 4 and double,
and what is eight times as large is known to an eighth."""


@dataclass(frozen=True)
class SeenStep(Parabola):
    """A step d as it was taken, and the loss of its batch along it.

    loss: at the start. change: what the step made of it. round_off: of both; smaller ones are none.
    gradient, length: norms of the gradient that the optimizer had, and of d.
    gradient_cosine: of the gradient with the one before. velocity_cosine: of the way downhill, -g,
    with the step before, which is the velocity: where it is negative, momentum carries uphill. Both
    are none at the first step, and 0 for a step or a gradient that is zero.
    rates: |d| / |g| by parameter, the rate that it really had; none where its gradient is zero.
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
        """Whether a shorter step would have been better; none where round-off decides."""
        margin = self.slope + 2 * self.bend
        return margin > 0 if abs(margin) > self.round_off else None


class StepWatch:
    """Looks at steps while a model trains.

        watch = StepWatch(model, loss)
        loss(model(*inputs), targets).backward()
        with watch.looking((*inputs, targets)):
            optimizer.step()
        print(watch.seen[-1])

    With L0, L1/2 and L1 the losses of the batch before the step, half-way and behind it,

        slope = -3 L0 + 4 L1/2 - L1        bend = 2 (L0 - 2 L1/2 + L1),

    exact where the loss is quadratic along the step. The optimizer's gradient does not enter:
    clipped, scaled or of other random draws (dropout), it changes nothing but the norms, cosines
    and rates that are told. Where round-off hides such differences, as it does beside a large
    constant in the loss, the slopes at both ends of the step tell the parabola.

    Each look costs three forward passes, about one gradient evaluation, two more for the slopes,
    and the memory of the parameters five times. The training that is watched goes on as if it were
    not.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Score,
        *,
        mode: Mode | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model, self.loss, self.mode, self.dtype = model, loss, mode, dtype
        self.seen: list[SeenStep] = []
        self.last: tuple[Tensor, Tensor] | None = None

    @contextmanager
    def looking(self, batch: Batch) -> Iterator[None]:
        """Looks at the step that is taken within the block, on the batch of its gradient."""
        start = Objective(self.model, self.loss, [batch], mode=self.mode, dtype=self.dtype)
        gradient = start.flat([gradient_of(param) for param in start.parameters])
        yield
        step = start.flat(start.parameters) - start.point
        self.seen.append(seen(start, gradient, step, self.last))
        self.last = gradient, step

    def overshooting(self) -> Interval:
        """The share of the steps that went too far, of those that can tell; with its interval.

        Raises UserError where none can.
        """
        told = [step.overshoots for step in self.seen if step.overshoots is not None]
        if not told:
            raise UserError("No step was seen beyond round-off; watch with dtype=torch.float64.")
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
        first,
        change,
        round_off,
        float(gradient.norm()),
        float(step.norm()),
        cosine(gradient, last[0]) if last else None,
        cosine(-gradient, last[1]) if last else None,
        rates(start.views(gradient), start.views(step)),
        start.conditions,
    )


def by_slopes(start: Objective, step: Float[Tensor, " P"]) -> tuple[float, float, float]:
    """Slope and bend from the gradients at both ends of a step; the size of what they are made of.

    A constant in the loss is in no gradient.
    """
    ends = [start.gradient(start.point + share * step) for share in (0, 1)]
    slope, slope_behind = (float(gradient @ step) for gradient in ends)
    size = max(float(gradient.norm()) for gradient in ends) * float(step.norm())
    return slope, (slope_behind - slope) / 2, size


def rates(gradients: Mapping[str, Tensor], steps: Mapping[str, Tensor]) -> dict[str, float | None]:
    norms = {name: float(gradient.norm()) for name, gradient in gradients.items()}
    return {n: float(steps[n].norm()) / norm if norm > 0 else None for n, norm in norms.items()}


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a, b, dim=0))


def gradient_of(param: nn.Parameter) -> Tensor:
    """The gradient that a parameter holds, 0 where it has none."""
    return torch.zeros_like(param) if param.grad is None else param.grad.to_dense()
