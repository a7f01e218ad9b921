"""Two solutions of one task: how far apart they are, and what lies on the line between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thalweg.arguments import require_whole
from thalweg.doctor.solutions.matching import State, flattened
from thalweg.stack.population import batch_norms, estimate_batch_norm, initial_model
from thalweg.stack.single import outputs_over
from thalweg.tasks.task import Task


@dataclass(frozen=True)
class Between:
    """Two solutions and the straight line between them.

    distance: of their trainable parameters. angle: between these, seen from the origin, in degrees.
    shares, losses: points on the line from the first (0) to the second (1), and the loss of the
    training data there, in evaluation mode.
    """

    distance: float
    angle: float
    shares: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def barrier(self) -> float:
        """The highest loss on the line less the mean of the ends.

        About 0 where both lie in one valley. Small and large are conventions: Frankle et al. 2020
        called two per cent of error none.
        """
        return max(self.losses) - (self.losses[0] + self.losses[-1]) / 2


def between(task: Task, one: State, other: State, *, points: int = 11) -> Between:
    """What lies between two solutions, given as states of the task's model.

    Batch normalization takes its statistics anew at each point, from training data: those of the
    ends mean nothing between them (Jordan et al. 2023). Integers, such as counts, are those of the
    first.

    points: on the line, ends included, at least 3. Cost: a pass over the training data for each.
    Raises UserError for fewer points.
    """
    points = require_whole("points", points, 3)
    model = initial_model(task, seed=0)
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    a, b = flattened(one, names), flattened(other, names)
    shares = tuple(i / (points - 1) for i in range(points))
    losses = tuple(loss_at(task, model, mixed(one, other, share)) for share in shares)
    return Between(float((a - b).norm()), angle(a, b), shares, losses)


def angle(a: Tensor, b: Tensor) -> float:
    """In degrees; accurate also where it is small."""
    u, v = a / a.norm(), b / b.norm()
    return math.degrees(2 * math.atan2(float((u - v).norm()), float((u + v).norm())))


def mixed(one: State, other: State, share: float) -> dict[str, Tensor]:
    return {
        name: torch.lerp(x, other[name], share) if x.is_floating_point() else x
        for name, x in one.items()
    }


@torch.no_grad()
def loss_at(task: Task, model: nn.Module, state: State) -> float:
    """The loss of the whole training data, batch-norm statistics estimated anew."""
    model.load_state_dict(dict(state))
    if batch_norms(model):
        estimate_batch_norm(model, task, lambda batch: model(*batch[:-1]))
    return float(task.loss(*outputs_over(task, model.eval(), task.splits.train)))
