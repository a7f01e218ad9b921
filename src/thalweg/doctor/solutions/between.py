"""The distance between two solutions of a task, and the loss on the line between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thalweg.arguments import require_whole
from thalweg.doctor.solutions.matching import Weights, flattened
from thalweg.stack.population import batch_norms, estimate_batch_norm, initial_model
from thalweg.stack.single import outputs_over
from thalweg.tasks.task import Task


@dataclass(frozen=True)
class Between:
    """Two solutions and the straight line between them.

    distance: the Euclidean distance of their trainable parameters. angle: the angle between their
    parameter vectors, in degrees. shares, losses: points on the line from the first solution (0) to
    the second (1), and the loss of the training data at each, in evaluation mode.
    """

    distance: float
    angle: float
    shares: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def barrier(self) -> float:
        """The highest loss on the line less the mean of the ends.

        It is about 0 where both solutions lie in one valley. Which barrier counts as small is a
        convention: Frankle et al. 2020 counted two per cent of error as none.
        """
        return max(self.losses) - (self.losses[0] + self.losses[-1]) / 2


def between(task: Task, one: Weights, other: Weights, *, points: int = 11) -> Between:
    """The distance and the losses between two solutions, given by the model's `state_dict`.

    Batch normalization estimates its statistics again at each point, from training data: the
    statistics of the ends are wrong between them (Jordan et al. 2023). Integers, such as counts,
    are taken from the first solution.

    points: the number of points on the line, ends included, at least 3. Cost: a pass over the
    training data for each point. Raises UserError for fewer points.
    """
    points = require_whole("points", points, 3)
    model = initial_model(task, seed=0)
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    a, b = flattened(one, names), flattened(other, names)
    shares = tuple(i / (points - 1) for i in range(points))
    losses = tuple(loss_at(task, model, mixed(one, other, share)) for share in shares)
    return Between(float((a - b).norm()), angle(a, b), shares, losses)


def angle(a: Tensor, b: Tensor) -> float:
    """The angle between two vectors in degrees; the formula is accurate for small angles too."""
    u, v = a / a.norm(), b / b.norm()
    return math.degrees(2 * math.atan2(float((u - v).norm()), float((u + v).norm())))


def mixed(one: Weights, other: Weights, share: float) -> dict[str, Tensor]:
    return {
        name: torch.lerp(x, other[name], share) if x.is_floating_point() else x
        for name, x in one.items()
    }


@torch.no_grad()
def loss_at(task: Task, model: nn.Module, state: Weights) -> float:
    """The loss of the whole training data, with new estimates of batch-norm statistics."""
    model.load_state_dict(dict(state))
    if batch_norms(model):
        estimate_batch_norm(model, task, lambda batch: model(*batch[:-1]))
    return float(task.loss(*outputs_over(task, model.eval(), task.splits.train)))
