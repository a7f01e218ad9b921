"""How many samples a model is evaluated on at once, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.data import Dataset

from thalweg.random_numbers import drawing
from thalweg.stack.batches import fetch, in_equal_parts
from thalweg.tasks.forms import Batch
from thalweg.tasks.task import Task

EVALUATED = 8
"""The most training batches that are evaluated as one batch: no gradients take memory."""

MOST_BYTES = 2**28
"""The bytes that the activations of an evaluation may take, for all members that run together."""

TRIED = 8
"""The samples with which the activations of a model are measured."""


def evaluation_batches(task: Task, dataset: Dataset[Any], members: int = 1) -> Iterator[Batch]:
    """Every sample once, in batches that as many members can run together."""
    return in_equal_parts(dataset, samples_at_once(task, members))


def samples_at_once(task: Task, members: int) -> int:
    """The samples of a batch in evaluation, for so many members that run together.

    They are a few training batches, but no more than `MOST_BYTES` can hold of the activations.
    """
    room = MOST_BYTES // (members * max(1, activation_bytes(task)))
    return max(1, min(EVALUATED * task.samples_per_step, room))


# Only for the last task: a larger cache would keep the data of earlier tasks in memory.
@lru_cache(maxsize=1)
def activation_bytes(task: Task) -> int:
    """The bytes of the activations of one sample, all layers together; 0 if they are not known."""
    found: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        found[x.untyped_storage().data_ptr()] = x.nbytes
        return x

    data = task.splits.validation
    numbers = torch.arange(min(TRIED, len(data)))  # type: ignore[arg-type]
    try:
        with drawing(0), torch.enable_grad():
            model = task.fresh_model().eval()
            own = {x.untyped_storage().data_ptr() for x in model.parameters()}
            with saved_tensors_hooks(keep, lambda x: x):
                model(*fetch(data, numbers)[:-1])
    except Exception:  # what fails is told where it is used
        return 0
    return sum(size for place, size in found.items() if place not in own) // len(numbers)
