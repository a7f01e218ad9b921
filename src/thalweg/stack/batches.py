"""Mini-batches: chooses the samples of each step for a seed, and fetches them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset

from thalweg.random_numbers import EVALUATION, ORDER, SAMPLES, stream_seed
from thalweg.stack.reading import Wanted, read
from thalweg.tasks.forms import Batch, batch_of, copied
from thalweg.tasks.held import is_held
from thalweg.tasks.loaders import weights_of
from thalweg.tasks.task import Task


def epochs(
    length: int, batch_size: int, seed: int, weights: Tensor | None = None
) -> Iterator[Int64[Tensor, "steps B"]]:
    """The sample numbers of the batches of each epoch, for endless epochs.

    Each epoch shuffles all samples and drops the last incomplete batch. With weights it draws as
    many samples, each as often as its weight says. A data set smaller than a batch is one batch.
    The same seed gives the same batches to every recipe.
    """
    generator = torch.Generator().manual_seed(stream_seed(seed, ORDER))
    size = min(batch_size, length)
    while True:
        if weights is None:
            shuffled = torch.randperm(length, generator=generator)
        else:
            shuffled = torch.multinomial(weights, length, replacement=True, generator=generator)
        yield shuffled[: length // size * size].view(-1, size)


def order(length: int, batch_size: int, seed: int) -> Iterator[Int64[Tensor, " B"]]:
    """The sample numbers of each batch of a seed, over all epochs."""
    return chain.from_iterable(epochs(length, batch_size, seed))


def training_epochs(task: Task, seed: int) -> Iterator[Int64[Tensor, "steps B"]]:
    """The sample numbers of the training batches of each epoch of a task, for a seed."""
    return epochs(length_of(task), task.samples_per_step, seed, weights_of(task.given.train))


def training_order(task: Task, seed: int) -> Iterator[Int64[Tensor, " B"]]:
    """The sample numbers of each training batch of a task, for a seed."""
    return chain.from_iterable(training_epochs(task, seed))


def length_of(task: Task) -> int:
    """The number of training samples."""
    return len(task.splits.train)  # type: ignore[arg-type]  # Data has made sure of one


def fetch(dataset: Dataset[Any], indices: Int64[Tensor, "*many B"]) -> Batch:
    """The samples with these numbers; `indices` is `[B]`, or any shape for a held data set."""
    if is_held(dataset):
        batch: Batch = tree_map(lambda tensor: gathered(tensor, indices), dataset.tensors)
        return batch
    return batch_of(dataset, [dataset[int(i)] for i in indices])


def gathered(tensor: Tensor, indices: Int64[Tensor, "*many B"]) -> Tensor:
    # `tensor[indices]` takes seven times as long.
    chosen = tensor.index_select(0, indices.flatten().to(tensor.device))
    return chosen.view(*indices.shape, *tensor.shape[1:])


class Batches(Iterator[list[Batch]]):
    """The training batches of members, step by step. Members of the same seed see the same samples.

    Each member gets a copy of the batch, because a model may write into its input. Random draws of
    samples (augmentation) depend on the seed and the step only, so they are the same for every
    recipe. seeds: the seed of each member. skipped: the number of steps to skip at the start.
    """

    def __init__(self, task: Task, seeds: Sequence[int], skipped: int = 0) -> None:
        self.data = task.splits.train
        self.seeds = list(dict.fromkeys(seeds))
        self.places = torch.tensor([self.seeds.index(seed) for seed in seeds])
        self.numbers = islice(enumerate(numbers_of(task, self.seeds)), skipped, None)
        self.read = read(self.data, wanted_of(self.seeds, self.numbers))

    def __next__(self) -> list[Batch]:
        if is_held(self.data):
            _, numbers = next(self.numbers)
            return [fetch(self.data, own) for own in numbers[self.places]]
        by_seed = [next(self.read) for _ in self.seeds]
        return [copied(by_seed[place]) for place in self.places]

    def together(self) -> Batch:
        """The next batches of all members as one batch, whose tensors are `[members, B, ...]`."""
        if is_held(self.data):
            _, numbers = next(self.numbers)
            return fetch(self.data, numbers[self.places])
        batch: Batch = tree_map(lambda *each: torch.stack(each), *next(self))
        return batch


def numbers_of(task: Task, seeds: Sequence[int]) -> Iterator[Int64[Tensor, "seeds B"]]:
    """The sample numbers of each step for all seeds."""
    each = [training_epochs(task, seed) for seed in seeds]
    while True:
        yield from torch.stack([next(own) for own in each], dim=1)


def wanted_of(
    seeds: Sequence[int], numbers: Iterable[tuple[int, Int64[Tensor, "seeds B"]]]
) -> Iterator[Wanted]:
    """The batch of every seed at every step, from the steps and the sample numbers."""
    for step, each in numbers:
        for seed, own in zip(seeds, each.tolist(), strict=True):
            yield Wanted(own, stream_seed(seed, SAMPLES, step))


def in_order(dataset: Dataset[Any], size: int) -> Iterator[Batch]:
    """Every sample once, in batches of at most `size`. Random draws are the same at every call."""
    length = len(dataset)  # type: ignore[arg-type]  # Data has made sure of one
    parts = torch.split(torch.arange(length), size)
    if is_held(dataset):
        return (fetch(dataset, part) for part in parts)
    wanted = (Wanted(part.tolist(), stream_seed(i, EVALUATION)) for i, part in enumerate(parts))
    return read(dataset, wanted)


def in_equal_parts(dataset: Dataset[Any], most: int) -> Iterator[Batch]:
    """Every sample once, in batches that are alike in size, of at most `most`."""
    length = len(dataset)  # type: ignore[arg-type]  # Data has made sure of one
    parts = math.ceil(length / most)
    return in_order(dataset, math.ceil(length / parts))
