"""Whether the running statistics of batch normalization fit the data.

They do not fit if a layer stayed in evaluation mode while the model trained, or if they change too
slowly. Evaluation then gives wrong results.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.doctor.objective.objective import Conditions, Objective
from thalweg.errors import UserError
from thalweg.stack.population import batch_norms
from thalweg.tasks.forms import Batch


@dataclass(frozen=True)
class Modes:
    """A model with its running statistics, compared with the model with the batches' statistics.

    running, batches: the loss with each of the two, without dropout. held: the names of the layers
    that use running statistics in training too. shift: by layer, the running mean less the mean of
    the batches, in standard deviations of the batches, as the root mean square over channels.
    """

    running: float
    batches: float
    held: tuple[str, ...]
    shift: dict[str, float]
    conditions: Conditions


def modes(objective: Objective) -> Modes:
    """Compares the running statistics of batch normalization with the statistics of the data.

    Cost: two forward passes. Raises UserError for a model without running statistics.
    """
    held = tuple(name for name, layer in named_batch_norms(objective.model) if not layer.training)
    if not batch_norms(objective.model):
        raise UserError("The model has no batch normalization with running statistics.")
    shifts: list[dict[str, float]] = []
    running = objective.mean(objective.each(partial(by_running, objective, shifts)))
    batches = objective.mean(objective.each(partial(by_batch, objective)))
    shift = {name: sum(one[name] for one in shifts) / len(shifts) for name in shifts[0]}
    return Modes(
        running=float(running),
        batches=float(batches),
        held=held,
        shift=shift,
        conditions=objective.conditions,
    )


def named_batch_norms(model: nn.Module) -> list[tuple[str, nn.Module]]:
    layers = set(batch_norms(model))
    return [(name, module) for name, module in model.named_modules() if module in layers]


@torch.no_grad()
def by_running(
    objective: Objective, shifts: list[dict[str, float]], model: nn.Module, batch: Batch
) -> Tensor:
    model.eval()
    with shifts_of(model) as seen:
        loss = objective.batch_loss(model, batch)
    shifts.append(seen)
    return loss


@torch.no_grad()
def by_batch(objective: Objective, model: nn.Module, batch: Batch) -> Tensor:
    model.eval()
    for layer in batch_norms(model):
        layer.training = True
    return objective.batch_loss(model, batch)


@contextmanager
def shifts_of(model: nn.Module) -> Iterator[dict[str, float]]:
    """Measures for each layer how far its running mean lies from the mean of its inputs."""
    seen: dict[str, float] = {}

    def note(name: str, layer: Any, given: tuple[Tensor, ...]) -> None:
        by_channel = given[0].detach().movedim(1, 0).flatten(1)
        deviation = by_channel.std(1).clamp(min=layer.eps**0.5)
        seen[name] = float(
            ((layer.running_mean - by_channel.mean(1)) / deviation).square().mean().sqrt()
        )

    with ExitStack() as stack:
        for name, layer in named_batch_norms(model):
            stack.callback(layer.register_forward_pre_hook(partial(note, name)).remove)
        yield seen
