"""Mini-batches: which samples a seed sees at which step, and how they are fetched."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset, default_collate

from thalweg.stack.random_stream import RandomStream
from thalweg.tasks.held import is_held
from thalweg.tasks.task import Task

EVALUATED = 8
"""Training batches that may be evaluated at once."""

Batch = tuple[Any, ...]
"""The model's arguments, and the target last; each `[B, ...]`, or nested of such."""


def epochs(length: int, batch_size: int, seed: int) -> Iterator[Int64[Tensor, "steps B"]]:
    """The sample numbers of each epoch's batches, without end: a fresh shuffle, its last part
    dropped.

    A data set smaller than a batch is one batch. The same seed gives the same batches to every
    recipe.
    """
    # Another stream than the initial weights', which the same seed draws.
    generator = torch.Generator().manual_seed(seed + 2**32)
    size = min(batch_size, length)
    while True:
        shuffled = torch.randperm(length, generator=generator)
        yield shuffled[: length // size * size].view(-1, size)


def order(length: int, batch_size: int, seed: int) -> Iterator[Int64[Tensor, " B"]]:
    """The batches of a seed's epochs, one after the other."""
    return chain.from_iterable(epochs(length, batch_size, seed))


def training_order(task: Task, seed: int) -> Iterator[Int64[Tensor, " B"]]:
    """The batches of a task's training data that a seed sees, step by step."""
    return order(length_of(task), task.batch_size, seed)


def length_of(task: Task) -> int:
    """Training samples."""
    return len(task.splits.train)  # type: ignore[arg-type]  # Data has made sure of one


def fetch(dataset: Dataset[Any], indices: Int64[Tensor, "*many B"]) -> Batch:
    """The samples of these numbers; `indices` may be `[B]`, or any shape for a held data set."""
    if is_held(dataset):
        batch: Batch = tree_map(lambda tensor: gathered(tensor, indices), dataset.tensors)
        return batch
    return tuple(default_collate([dataset[int(i)] for i in indices]))


def gathered(tensor: Tensor, indices: Int64[Tensor, "*many B"]) -> Tensor:
    # `tensor[indices]` takes seven times as long.
    chosen = tensor.index_select(0, indices.flatten().to(tensor.device))
    return chosen.view(*indices.shape, *tensor.shape[1:])


class SeedBatches:
    """The training batches that a seed sees, step by step, in numbers and in samples.

    What samples draw at random (augmentation) is the seed's own, so that it is the same for every
    recipe.
    """

    def __init__(self, task: Task, seed: int) -> None:
        self.data = task.splits.train
        self.order = training_order(task, seed)
        self.stream = RandomStream(seed + 2**34)

    def __next__(self) -> Batch:
        return self.fetch(next(self.order))

    def fetch(self, indices: Int64[Tensor, " B"]) -> Batch:
        with self.stream.used():
            return fetch(self.data, indices)


class Batches:
    """The training batches of a stack's members, step by step, each `[len(seeds), B, ...]`.

    Members of one seed see the same samples, fetched once.
    """

    def __init__(self, task: Task, seeds: Sequence[int]) -> None:
        self.task, self.data = task, task.splits.train
        self.each = {seed: SeedBatches(task, seed) for seed in seeds}
        self.places = torch.tensor([list(self.each).index(seed) for seed in seeds])
        self.numbers = self.order()

    def order(self) -> Iterator[Int64[Tensor, "seeds B"]]:
        """The sample numbers of every seed, drawn and put together an epoch at a time."""
        each = [epochs(length_of(self.task), self.task.batch_size, seed) for seed in self.each]
        while True:
            yield from torch.stack([next(own) for own in each], dim=1)

    def __next__(self) -> Batch:
        numbers = next(self.numbers)
        if is_held(self.data):
            return fetch(self.data, numbers[self.places])
        fetched = [
            batches.fetch(own) for batches, own in zip(self.each.values(), numbers, strict=True)
        ]
        own = (fetched[place] for place in self.places)
        batch: Batch = tree_map(lambda *each: torch.stack(each), *own)
        return batch


def in_order(dataset: Dataset[Any], size: int) -> Iterator[Batch]:
    """Every sample once, in batches of at most `size`."""
    length = len(dataset)  # type: ignore[arg-type]  # Data has made sure of one
    for indices in torch.split(torch.arange(length), size):
        yield fetch(dataset, indices)


def evaluation_batches(task: Task, dataset: Dataset[Any]) -> Iterator[Batch]:
    """Every sample once, in few parts that may be larger than in training: no graph is kept."""
    length = len(dataset)  # type: ignore[arg-type]  # Data has made sure of one
    parts = math.ceil(length / (EVALUATED * task.batch_size))
    return in_order(dataset, math.ceil(length / parts))


def joined(parts: Sequence[Any], dim: int = 0) -> Any:
    """What was made of consecutive batches as that of one; it may be nested."""
    return tree_map(lambda *tensors: torch.cat(tensors, dim), *parts)
