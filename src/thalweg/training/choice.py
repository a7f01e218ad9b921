"""Choosing on validation data which parameters of a run its checkpoint keeps."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from thalweg.stack.single import Single, outputs_over
from thalweg.tasks.task import Task
from thalweg.training.run import Evaluation

KEEP = ("end", "best")


@dataclass(frozen=True)
class Candidate:
    """Parameters and buffers that a checkpoint may keep.

    when: the step at which the run had them, in words. validation: their metrics on validation
    data, by name.
    """

    when: str
    weights: dict[str, Tensor]
    validation: Mapping[str, float]


class Candidates:
    """The best evaluation of a run so far.

    waited: the number of evaluations since the best one.
    """

    def __init__(self, task: Task, alone: Single) -> None:
        self.task, self.alone = task, alone
        self.best: Candidate | None = None
        self.waited = 0

    def saved(self) -> dict[str, Any]:
        """The best evaluation so far, as tensors and plain data."""
        return {"best": self.best and dict(vars(self.best)), "waited": self.waited}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Continues from what `saved` returned."""
        self.best, self.waited = saved["best"] and Candidate(**saved["best"]), saved["waited"]

    def add(self, point: Evaluation) -> None:
        """Adds the evaluation that was just made."""
        self.waited += 1
        found = self.goodness(self.validation(point))
        if self.best is None or found > self.goodness(self.best.validation):
            self.best, self.waited = self.evaluated(point), 0

    def evaluated(self, point: Evaluation) -> Candidate:
        """The parameters and buffers of the evaluation that was just made."""
        with self.alone.evaluation():
            weights = self.alone.state_dict(0)
        return Candidate(f"step {point.step}", weights, self.validation(point))

    def validation(self, point: Evaluation) -> dict[str, float]:
        return {self.task.metric_name: point.metric, **point.also}

    def chosen(self, last: Candidate) -> Candidate:
        """The best of all evaluations and, if the recipe averages, of the last iterate.

        Of equally good candidates the last one is chosen.
        """
        candidates = [last, self.best or last]
        if self.alone.optimizers[0].averages:
            weights = self.alone.state_dict(0)
            validation = self.metrics(weights, self.task.splits.validation)
            candidates.append(Candidate(f"{last.when}, not averaged", weights, validation))
        return max(candidates, key=lambda candidate: self.goodness(candidate.validation))

    def metrics(self, weights: dict[str, Tensor], dataset: Dataset[Any]) -> dict[str, float]:
        """The metrics of a model with these parameters and buffers over a data set."""
        model = copy.deepcopy(self.alone.models[0])
        model.load_state_dict(weights, strict=False)
        with self.task.evaluating():
            return self.task.metrics(*outputs_over(self.task, model.eval(), dataset))

    def goodness(self, metrics: Mapping[str, float]) -> float:
        """The metric so that larger is better; a value that is not a number is the worst."""
        metric = metrics[self.task.metric_name]
        signed = metric if self.task.better == "max" else -metric
        return -math.inf if math.isnan(signed) else signed
