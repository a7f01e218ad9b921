"""Mini-batches: which samples a seed sees at which step, and how they are fetched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset, TensorDataset, default_collate

from thalweg.stack.random_stream import RandomStream
from thalweg.tasks.task import Task

Batch = tuple[Any, ...]
"""The model's arguments, and the target last; each `[B, ...]`, or nested of such."""


def order(length: int, batch_size: int, seed: int) -> Iterator[Int64[Tensor, " B"]]:
    """Batches of sample numbers without end: a fresh shuffle each epoch, the last part dropped.

    A data set smaller than a batch is one batch. The same seed gives the same batches to every
    recipe.
    """
    # Another stream than the initial weights', which the same seed draws.
    generator = torch.Generator().manual_seed(seed + 2**32)
    size = min(batch_size, length)
    while True:
        shuffled = torch.randperm(length, generator=generator)
        yield from torch.split(shuffled[: length // size * size], size)


def training_order(task: Task, seed: int) -> Iterator[Int64[Tensor, " B"]]:
    """The batches of a task's training data that a seed sees, step by step."""
    length = len(task.splits.train)  # type: ignore[arg-type]  # Data has made sure of one
    return order(length, task.batch_size, seed)


def fetch(dataset: Dataset[Any], indices: Int64[Tensor, "*many B"]) -> Batch:
    """The samples of these numbers; `indices` may be `[B]`, or any shape for a `TensorDataset`."""
    if isinstance(dataset, TensorDataset):
        return tuple(tensor[indices] for tensor in dataset.tensors)
    return tuple(default_collate([dataset[int(i)] for i in indices]))


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
    """The training batches of several seeds, as blocks of members need them."""

    def __init__(self, task: Task, seeds: Iterable[int]) -> None:
        self.data = task.splits.train
        self.each = {seed: SeedBatches(task, seed) for seed in seeds}
        self.indices: dict[int, Tensor] = {}
        self.fetched: dict[int, Batch] = {}

    def advance(self) -> None:
        """Goes on to the next step's batches."""
        self.indices = {seed: next(batches.order) for seed, batches in self.each.items()}
        self.fetched = {}

    def of(self, seeds: Sequence[int]) -> Batch:
        """The batches of these seeds, each `[len(seeds), B, ...]`; one seed's may share memory."""
        if len(set(seeds)) == 1:
            shared: Batch = tree_map(lambda x: x.expand(len(seeds), *x.shape), self.one(seeds[0]))
            return shared
        if isinstance(self.data, TensorDataset):
            return fetch(self.data, torch.stack([self.indices[seed] for seed in seeds]))
        own: Batch = tree_map(lambda *each: torch.stack(each), *(self.one(seed) for seed in seeds))
        return own

    def one(self, seed: int) -> Batch:
        """One seed's batch, fetched once a step."""
        if seed not in self.fetched:
            self.fetched[seed] = self.each[seed].fetch(self.indices[seed])
        return self.fetched[seed]


def in_order(dataset: Dataset[Any], size: int) -> Iterator[Batch]:
    """Every sample once, in batches of at most `size`."""
    length = len(dataset)  # type: ignore[arg-type]  # Data has made sure of one
    for indices in torch.split(torch.arange(length), size):
        yield fetch(dataset, indices)


def evaluation_batches(task: Task, dataset: Dataset[Any]) -> Iterator[Batch]:
    """Every sample once, in batches that may be larger than in training: no graph is kept."""
    return in_order(dataset, 4 * task.batch_size)


def joined(parts: Sequence[Any], dim: int = 0) -> Any:
    """What was made of consecutive batches as that of one; it may be nested."""
    return tree_map(lambda *tensors: torch.cat(tensors, dim), *parts)
