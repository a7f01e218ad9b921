"""Decides whether a member diverged: a number of its loss or its step is not finite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Divergence:
    """The first step with a number that is not finite, counted from 1, and which number it was."""

    step: int
    reason: str


def in_plain(diverged: Sequence[Divergence | None]) -> list[Any]:
    """Divergences as plain data."""
    return [one and [one.step, one.reason] for one in diverged]


def from_plain(data: Sequence[Any]) -> list[Divergence | None]:
    """The divergences that `in_plain` was given."""
    return [one and Divergence(*one) for one in data]


def may_stand(loss: float, gradients: Sequence[Tensor], stepped: Sequence[Tensor]) -> bool:
    """Whether a step is valid: the loss and the parameters are finite, no gradient has a nan.

    stepped: the parameters after the step.
    """
    return bool(
        isfinite(loss)
        and not any(gradient.isnan().any() for gradient in gradients)
        and all(param.isfinite().all() for param in stepped)
    )


def divergence_of(step: int, loss: float, gradients: Iterable[Tensor]) -> Divergence:
    """The divergence of a step, counted from 1: the first of its numbers that was not finite."""
    if not isfinite(loss):
        return Divergence(step, f"the loss was {loss}")
    if not all(gradient.isfinite().all() for gradient in gradients):
        return Divergence(step, "the gradient was not finite")
    return Divergence(step, "the step was not finite")
