"""The interface of a population: what the training loop needs of every way of stepping."""

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
from thalweg.tasks.forms import Batch
from thalweg.tasks.task import Task

ESTIMATION_BATCHES = 20
"""The number of training batches from which batch-norm statistics are estimated again."""


class Population(ABC):
    """Members that train together. Each has a place, counted from 0.

    task: the task that they train on. members: the members by place. diverged: by place, the
    divergence of a member, or None. steps: the number of steps so far; a step that computes
    gradients k times, as with L-BFGS, counts k times. accumulate: the number of
    batches in a step; the step uses the mean of their gradients.
    """

    task: Task
    members: list[Member]
    diverged: list[Divergence | None]
    steps: int
    accumulate: int = 1

    @abstractmethod
    def step(self) -> list[float]:
        """Steps every member that has not diverged; gives the losses by place, before the step.

        If the loss or the parameters of a member are not finite, or its gradient has a
        not-a-number, the member keeps the parameters from before the step, is marked in `diverged`,
        and takes no more steps. Its later losses have no meaning.
        """

    @abstractmethod
    def begin(self, checkpoint: Checkpoint) -> None:
        """Starts every member from a checkpoint of another training of this model.

        A member keeps its own batches. Its optimizer takes over the states by name, and what the
        schedules remember. If the rule that takes the step needs states that the checkpoint does
        not have, all states of the member begin fresh.
        """

    @abstractmethod
    def saved(self) -> dict[str, Any]:
        """All that the coming steps depend on: tensors and plain data, nested.

        The state of the global random numbers is not in it.
        """

    @abstractmethod
    def restore(self, saved: Mapping[str, Any]) -> None:
        """Continues from what `saved` returned in a population of the same members."""

    @abstractmethod
    def observe(self, training: Sequence[float], validation: Sequence[float]) -> None:
        """Gives each member's metrics to its plateau schedules. The metrics are by place."""

    @abstractmethod
    def evaluation(self) -> AbstractContextManager[None]:
        """Within the block, every member holds the parameters for evaluation.

        Where a recipe averages, the batch-norm statistics are estimated for the average from
        training data. After the block, parameters and buffers are the same as before.
        """

    @abstractmethod
    def outputs(self, dataset: Dataset[Any]) -> Iterator[tuple[Any, Any]]:
        """Each member's outputs over a whole data set in evaluation mode, with the targets."""

    def scores(self, dataset: Dataset[Any]) -> list[dict[str, float]]:
        """For each member, its metrics over a whole data set in evaluation mode, by name."""
        return [self.task.metrics(*made) for made in self.outputs(dataset)]

    @abstractmethod
    def state_dict(self, place: int) -> dict[str, Tensor]:
        """A member's parameters and buffers, by their names in the model."""

    @abstractmethod
    def load_state_dict(self, place: int, tensors: Mapping[str, Tensor]) -> None:
        """Sets some of a member's parameters and buffers, by their names in the model."""


def initial_model(task: Task, seed: int) -> nn.Module:
    """The task's model with weights drawn from a seed; other random generators do not change."""
    with drawing(seed):
        return task.fresh_model()


def trained_names(task: Task) -> set[str]:
    """The names of the parameters that have a gradient; a drop-in optimizer skips all others."""
    model = initial_model(task, seed=0)
    with drawing(0):
        *inputs, targets = next(in_order(task.splits.train, task.samples_per_step))
        torch.autograd.backward(task.loss(model(*inputs), targets))
    return {name for name, param in model.named_parameters() if param.grad is not None}


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The layers with running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def estimate_batch_norm(model: nn.Module, task: Task, forward: Callable[[Batch], object]) -> None:
    """Sets the running statistics to the mean over some training batches.

    The batches are the same for all members. forward: see `estimate_over`.
    """
    batches = islice(Batches(task, seeds=[0]), ESTIMATION_BATCHES)
    estimate_over((batch for (batch,) in batches), model, forward)


def estimate_over(
    batches: Iterable[Any], model: nn.Module, forward: Callable[[Any], object]
) -> None:
    """Sets the running statistics to the mean over these batches.

    Layers whose statistics do not change in training keep them. forward: runs the model on a batch;
    the model is in evaluation mode, except for the other batch-norm layers.
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
