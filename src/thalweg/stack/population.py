"""What every way of stepping members offers to the training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from thalweg.random_numbers import drawing
from thalweg.stack.batches import Batches, in_order
from thalweg.stack.checkpoint import Checkpoint
from thalweg.stack.divergence import Divergence
from thalweg.stack.member import Member
from thalweg.stack.reading import Batch
from thalweg.tasks.task import Task

ESTIMATION_BATCHES = 20
"""Training batches from which batch-norm statistics are estimated again."""


class Population(ABC):
    """Members in training together, each in a place from 0.

    task: what they train on. members: by place. diverged: by place, none for those that are finite.
    steps: that were taken. accumulate: batches a step, which is taken from their mean gradient.
    """

    task: Task
    members: list[Member]
    diverged: list[Divergence | None]
    steps: int
    accumulate: int = 1

    @abstractmethod
    def step(self) -> list[float]:
        """One step of every member that has not diverged; the losses by place, before the step.

        A member whose loss or parameters are not finite, or whose gradient holds a not-a-number,
        keeps the parameters that it had before, is marked in `diverged`, and steps no more. Its
        losses from then on mean nothing.
        """

    @abstractmethod
    def begin(self, checkpoint: Checkpoint) -> None:
        """Takes every member to where another training of this model stood, on batches of its own.

        Its optimizer takes over the states by name, and what its schedules remember. A recipe whose
        rule of stepping has states that are not among them begins with fresh ones.
        """

    @abstractmethod
    def observe(self, training: Sequence[float], validation: Sequence[float]) -> None:
        """Tells each member's plateau schedules its metrics."""

    @abstractmethod
    def evaluation(self) -> AbstractContextManager[None]:
        """Every member at the parameters that evaluation uses, training undisturbed.

        Where a recipe averages, the batch-norm statistics within are those of the average,
        estimated from training data. Whatever the model does to its buffers within is undone.
        """

    @abstractmethod
    def outputs(self, dataset: Dataset[Any]) -> Iterator[tuple[Any, Any]]:
        """Each member's outputs over a whole data set, in evaluation mode, and the targets."""

    def scores(self, dataset: Dataset[Any]) -> list[dict[str, float]]:
        """Each member's metrics over a whole data set, by name, in evaluation mode."""
        return [self.task.metrics(*made) for made in self.outputs(dataset)]

    @abstractmethod
    def state_dict(self, place: int) -> dict[str, Tensor]:
        """A member's parameters and buffers, by the model's names."""

    @abstractmethod
    def load_state_dict(self, place: int, tensors: Mapping[str, Tensor]) -> None:
        """Puts some of a member's parameters and buffers in their places, by the model's names."""


def initial_model(task: Task, seed: int) -> nn.Module:
    """The task's model with the weights that a seed draws; what others draw stays as it is."""
    with drawing(seed):
        return task.fresh_model()


def trained_names(task: Task) -> set[str]:
    """The parameters that a loss gives a gradient to; a lone optimizer skips all others."""
    model = initial_model(task, seed=0)
    with drawing(0):
        *inputs, targets = next(in_order(task.splits.train, task.batch_size))
        torch.autograd.backward(task.loss(model(*inputs), targets))
    return {name for name, param in model.named_parameters() if param.grad is not None}


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The layers with running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def estimate_batch_norm(model: nn.Module, task: Task, forward: Callable[[Batch], object]) -> None:
    """Sets the running statistics to the mean over some training batches, the same for all members.

    forward: as `estimate_over` says.
    """
    batches = islice(Batches(task, seeds=[0]), ESTIMATION_BATCHES)
    estimate_over((batch for (batch,) in batches), model, forward)


def estimate_over(
    batches: Iterable[Any], model: nn.Module, forward: Callable[[Any], object]
) -> None:
    """Sets the running statistics to the mean over these batches.

    Statistics that training leaves as they are stay so. forward: runs a batch through the model,
    which is in evaluation mode but for these layers.
    """
    model.train()
    layers = [layer for layer in batch_norms(model) if layer.training]
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.train()
    for i, batch in enumerate(batches):
        for layer in layers:
            layer.momentum = 1 / (i + 1)
        forward(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
