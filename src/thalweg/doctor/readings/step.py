"""One step looked at closely: what the quadratic at its start predicts, and what it did."""

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

    change: the loss after the step less the loss before it, on the same data. round_off: of the
    change; a smaller change counts as none. curvature: d'Hd / d'd, in units of the loss over those
    of a parameter squared.
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
    """The change of the loss by a step d from the objective's point, as predicted and as it was.

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
"""The round-off of slope and bend, in units of a loss's resolution. The weights of the three losses
in the bend add up to 8, and a number that is eight times its round-off is known to an eighth."""


@dataclass(frozen=True)
class SeenStep(Parabola):
    """A step d as it was taken, and the loss of its batch along it.

    loss: at the start. change: the loss after the step less the loss before it. round_off: of
    changes of the loss; smaller changes count as none. gradient, length: the norms of the gradient
    that the optimizer had, and of d.
    gradient_cosine: of the gradient with the one before. velocity_cosine: of -g with the step
    before, which is the velocity: where it is negative, momentum carries uphill. Both are none at
    the first step, and 0 where the step or a gradient is zero.
    rates: |d| / |g| by parameter, its effective rate; none where its gradient is zero.
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


@dataclass
class StepWatch:
    """Looks along steps while a model trains.

        watch = StepWatch(model, loss)
        loss(model(*inputs), targets).backward()
        with watch.looking((*inputs, targets)):
            optimizer.step()
        print(watch.seen[-1])

    With L0, L1/2 and L1 the losses of the batch before the step, half-way and after it,

        slope = -3 L0 + 4 L1/2 - L1        bend = 2 (L0 - 2 L1/2 + L1),

    exact where the loss is quadratic along the step. The optimizer's gradient does not enter. It
    may be clipped, scaled or of other random draws (dropout), and changes only the norms, cosines
    and rates. Where round-off hides the differences of losses, as beside a large constant in the
    loss, the slopes at both ends of the step give the parabola.

    Each look costs three forward passes, about one gradient evaluation, two more for the slopes,
    and the memory of the parameters five times. The training goes on as if nobody looked.
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
        """Looks along the step that is taken within the block, on the batch of its gradient."""
        start = Objective(self.model, self.loss, [batch], mode=self.mode, dtype=self.dtype)
        gradient = start.flat([gradient_of(param) for param in start.parameters])
        yield
        step = start.flat(start.parameters) - start.point
        self.seen.append(seen(start, gradient, step, self.last))
        self.last = gradient, step

    def overshooting(self) -> Interval:
        """The share of steps that overshoot; steps within round-off do not count.

        Raises UserError where all are within round-off.
        """
        told = [step.overshoots for step in self.seen if step.overshoots is not None]
        if not told:
            raise UserError("All steps lie within round-off; watch with dtype=torch.float64.")
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

    A constant in the loss has no gradient, and so no round-off here.
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
    """The gradient that a parameter holds, 0 where it has none."""
    return torch.zeros_like(param) if param.grad is None else param.grad.to_dense()
