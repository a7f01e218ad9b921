"""The history of a training: its steps, and what instruments have read at them."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from thalweg.doctor.readings.step import SeenStep
from thalweg.doctor.watch.stopwatch import Seconds
from thalweg.recipe import Recipe
from thalweg.tasks.forms import Batch

R = TypeVar("R")

RECENT = 8
"""The number of last batches that are kept for the instruments."""


@dataclass
class History:
    """What was measured at the steps of a training, which are counted from 0.

    length: the number of steps so far. norms: the gradient's norm by step, before the recipe clips
    it. steps: the steps along which the loss was measured. readings: by their type, and then by
    step. refusals: by instrument, why it could not be read the last time. batches: the last ones.
    """

    length: int = 0
    norms: dict[int, Tensor] = field(default_factory=dict)
    steps: dict[int, SeenStep] = field(default_factory=dict)
    readings: defaultdict[type, dict[int, object]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    refusals: dict[str, str] = field(default_factory=dict)
    batches: deque[Batch] = field(default_factory=lambda: deque(maxlen=RECENT))

    def keep(self, reading: object) -> None:
        """Keeps a reading that was taken just before the coming step."""
        self.readings[type(reading)][self.length] = reading

    def all(self, kind: type[R]) -> list[tuple[int, R]]:
        """The readings of one type, as pairs of step and reading."""
        return list(cast("dict[int, R]", self.readings[kind]).items())

    def first(self, kind: type[R]) -> tuple[int, R] | None:
        """The first reading of one type and its step, or None."""
        return next(iter(self.all(kind)), None)

    def last(self, kind: type[R]) -> tuple[int, R] | None:
        """The last reading of one type and its step, or None."""
        return next(reversed(self.all(kind)), None)

    def norm_series(self) -> tuple[list[int], NDArray[np.float64]]:
        """The steps at which the gradient's norm was measured, and the norms."""
        return list(self.norms), np.array([float(norm) for norm in self.norms.values()])

    def series(self, name: str) -> tuple[list[int], NDArray[np.float64]]:
        """The steps along which the loss was measured, and the attribute `name` of each."""
        values = [getattr(step, name) for step in self.steps.values()]
        return list(self.steps), np.array(values, dtype=np.float64)


@dataclass(frozen=True)
class Case:
    """All that criteria judge by.

    history: what was measured. recipe: the recipe in use, where it is known. steps: the number of
    steps of the whole budget, where it is known; otherwise the number of steps so far. batch_size:
    the samples of a step. diverged: why the training diverged, in words; empty if it did not.
    seconds: the time that the parts of a step take.
    """

    history: History
    recipe: Recipe | None
    steps: int
    batch_size: int
    diverged: str
    seconds: tuple[Seconds, ...]

    @property
    def last_step(self) -> int:
        return self.history.length - 1

    @cached_property
    def fall(self) -> float:
        """The first measured loss less the lowest one.

        Criteria compare differences of losses with this fall, and not with a loss: a constant that
        is added to the loss, as in a likelihood, then changes no finding.
        """
        losses = [step.loss for step in self.history.steps.values()]
        return losses[0] - min(losses) if losses else 0.0

    @cached_property
    def norms(self) -> tuple[list[int], NDArray[np.float64]]:
        """The steps at which the gradient's norm was measured, and the norms."""
        return self.history.norm_series()


def mark_before(step: int) -> int:
    """The last mark up to a step. All instruments are read at the marks 0, 10, 30, 90, ..."""
    mark = 0
    while mark_after(mark) <= step:
        mark = mark_after(mark)
    return mark


def mark_after(mark: int) -> int:
    """The next marked step: each mark is at three times the step of the one before."""
    return max(10, 3 * mark)
