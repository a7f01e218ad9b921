"""Models and matrices for the doctor's tests to look at, with what is known of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn import functional as F

from thalweg.doctor.curvature.curvature import Curvature
from thalweg.doctor.objective.objective import Conditions, Objective
from thalweg.stack.batches import in_order
from thalweg.stack.population import initial_model
from thalweg.stack.reading import Batch
from thalweg.tasks import Task, find

NOWHERE = Conditions(1, 1, "training", "float64", "exact")


class Matrix(Curvature):
    """A matrix that is given."""

    conditions = NOWHERE

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.size, self.dtype, self.device = len(matrix), matrix.dtype, matrix.device

    def times(self, vectors: Tensor) -> Tensor:
        return vectors @ self.matrix.T


class Bowl(nn.Module):
    """(1/2) sum of lambda_i x_i^2: its Hessian has these eigenvalues, along the axes."""

    def __init__(self, eigenvalues: Tensor) -> None:
        super().__init__()
        self.eigenvalues = eigenvalues
        self.x = nn.Parameter(torch.ones_like(eigenvalues))

    def forward(self, inputs: Tensor) -> Tensor:
        height = (self.eigenvalues * self.x.square()).sum() / 2
        return height.expand(len(inputs))


def height(outputs: Tensor, _targets: Tensor) -> Tensor:
    return outputs.mean()


NOTHING = (torch.zeros(1, 1), torch.zeros(1))


def bowl(eigenvalues: Tensor) -> Objective:
    return Objective(Bowl(eigenvalues), height, [NOTHING])


def small_network(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), *(layers or (nn.Tanh(),)), nn.Linear(6, 2))


def batch_of(n: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=generator), torch.randn(n, 2, generator=generator)


def small_objective(n: int = 16, **fields: Any) -> Objective:
    fields = {"dtype": torch.float64, **fields}
    return Objective(small_network(), F.mse_loss, [batch_of(n)], **fields)


def objective_of(name: str, samples: int = 32, seed: int = 0, **fields: Any) -> Objective:
    """A bundled task at its initial weights, on its first samples."""
    task = find(name)
    return Objective(initial_model(task, seed), task.loss, [first(task, samples)], **fields)


def first(task: Task, samples: int) -> Batch:
    return next(in_order(task.splits.train, samples))


def exact(objective: Objective) -> Tensor:
    """The Hessian by forward over reverse mode, not by double backward."""
    (batch,) = objective.batches
    return hessian(plain_loss(objective, batch))(objective.point)


def plain_loss(objective: Objective, batch: Batch) -> Callable[[Tensor], Tensor]:
    """The loss as a function of the point; the model must be in the objective's mode."""

    def loss(point: Tensor) -> Tensor:
        *inputs, targets = batch
        state = {**objective.views(point), **objective.constants, **objective.buffers}
        return objective.loss(functional_call(objective.model, state, tuple(inputs)), targets)

    return loss


def random_symmetric(size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return (matrix + matrix.T) / 2
