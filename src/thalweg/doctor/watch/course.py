"""What was seen of a training on its way, and what is known of it."""

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
from thalweg.stack.reading import Batch

R = TypeVar("R")

RECENT = 8
"""The number of batches that are kept for instruments to look at."""


@dataclass
class Course:
    """The steps of a training, counted from 0, and what instruments have read there.

    length: the number of steps so far. norms: the gradient's norm by step, before any clip of the
    recipe. steps: the steps that were looked at. readings: by their type, and then by step.
    refusals: why an instrument has last read nothing. batches: the last ones.
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
        """Notes what an instrument has read at the coming step."""
        self.readings[type(reading)][self.length] = reading

    def all(self, kind: type[R]) -> list[tuple[int, R]]:
        """The readings of one type, each after its step."""
        return list(cast("dict[int, R]", self.readings[kind]).items())

    def first(self, kind: type[R]) -> tuple[int, R] | None:
        """The first reading of one type, after its step."""
        return next(iter(self.all(kind)), None)

    def last(self, kind: type[R]) -> tuple[int, R] | None:
        """The last reading of one type, after its step."""
        return next(reversed(self.all(kind)), None)

    def norm_series(self) -> tuple[list[int], NDArray[np.float64]]:
        """The steps at which the gradient's norm was noted, and the norms."""
        return list(self.norms), np.array([float(norm) for norm in self.norms.values()])

    def series(self, name: str) -> tuple[list[int], NDArray[np.float64]]:
        """The steps that were looked at, and one number of each."""
        values = [getattr(step, name) for step in self.steps.values()]
        return list(self.steps), np.array(values, dtype=np.float64)


@dataclass(frozen=True)
class Case:
    """All that criteria judge by.

    course: what was seen. recipe: the one in use, where it is known. steps: the number of steps of
    the whole budget, where it is known, or else of those that were watched. batch_size: samples a
    step. diverged: why, in words; empty for a training that did not. seconds: where its time went.
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
    def fall(self) -> float:
        """How far down the loss has come from the first batch looked at to the lowest one.

        Differences of losses are held against it, and not against a loss: a constant that is added
        to the loss, as in a likelihood, then changes no finding.
        """
        losses = [step.loss for step in self.course.steps.values()]
        return losses[0] - min(losses) if losses else 0.0

    @cached_property
    def norms(self) -> tuple[list[int], NDArray[np.float64]]:
        """The steps at which the gradient's norm was noted, and the norms."""
        return self.course.norm_series()


def look_before(step: int) -> int:
    """The step of the last close look up to a step: 0, 10, 30, 90, and so on."""
    mark = 0
    while following(mark) <= step:
        mark = following(mark)
    return mark


def following(mark: int) -> int:
    """The step of the next close look: each is three times as late as the one before."""
    return max(10, 3 * mark)
