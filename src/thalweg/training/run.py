"""A run: the training of a member, with its learning curve and its end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from thalweg.stack.divergence import Divergence
from thalweg.stack.member import Member


@dataclass(frozen=True)
class Evaluation:
    """A point of a learning curve: one evaluation, after `step` steps.

    train_loss: the mean training loss since the evaluation before. metric: the task's metric on
    validation data. also: the task's further metrics on validation data.
    """

    step: int
    train_loss: float
    metric: float
    also: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A member that was trained to the end of its budget, or until it diverged.

    test: metrics on test data by name, which include the task's metric under `metric_name`; empty
    if they were not asked for, and for a member that diverged.
    """

    member: Member
    curve: tuple[Evaluation, ...]
    diverged: Divergence | None = None
    test: Mapping[str, float] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """The task's metric at the end of the budget; nan for a member that diverged."""
        return math.nan if self.diverged or not self.curve else self.curve[-1].metric
