"""What decides that a member diverged: a number that is not finite, which ends its training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

from torch import Tensor


@dataclass(frozen=True)
class Divergence:
    """The step, counted from 1, that left the finite numbers, and what was not finite first."""

    step: int
    reason: str


def sound(loss: float, gradients: Sequence[Tensor], stepped: Sequence[Tensor]) -> bool:
    """Whether a step may stand: a finite loss, no not-a-number on the way, finite parameters."""
    return bool(
        isfinite(loss)
        and not any(gradient.isnan().any() for gradient in gradients)
        and all(param.isfinite().all() for param in stepped)
    )


def divergence(step: int, loss: float, gradients: Iterable[Tensor]) -> Divergence:
    """The step, counted from 1, and what was not finite first."""
    if not isfinite(loss):
        return Divergence(step, f"the loss was {loss}")
    if not all(gradient.isfinite().all() for gradient in gradients):
        return Divergence(step, "the gradient was not finite")
    return Divergence(step, "the step was not finite")
