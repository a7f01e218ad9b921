"""All that criteria judge by: a training that was watched, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from thalweg.doctor.watch.course import Course
from thalweg.doctor.watch.stopwatch import Seconds
from thalweg.recipe import Recipe


@dataclass(frozen=True)
class Case:
    """course: what was seen. recipe: the one in use, where it is known. steps: of the whole budget,
    where it is known, or those that were watched. batch_size: samples a step. diverged: why, in
    words; empty for a training that did not. seconds: where its time went.
    """

    course: Course
    recipe: Recipe | None
    steps: int
    batch_size: int
    diverged: str
    seconds: tuple[Seconds, ...]

    @property
    def last_step(self) -> int:
        return self.course.length - 1

    @cached_property
    def way(self) -> float:
        """How far down the loss has come from the first batch looked at to the lowest one.

        Differences of losses are held against it, and not against a loss: a constant that is added
        to the loss, as in a likelihood, then changes no finding.
        """
        losses = [step.loss for step in self.course.steps.values()]
        return losses[0] - min(losses) if losses else 0.0

    @cached_property
    def norms(self) -> tuple[list[int], NDArray[np.float64]]:
        """The gradient's norm: at which steps it was noted, and how large it was."""
        return self.course.norm_series()
