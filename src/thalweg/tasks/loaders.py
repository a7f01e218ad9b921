"""What a task keeps of a `DataLoader`, and of a data set that can only be iterated over."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from thalweg.errors import UserError
from thalweg.tasks.forms import Collate, Collated

BATCH_SIZE = 64
"""The samples of a training batch, if nothing says it."""

MOST_STREAMED = 10**6
"""The most samples that are read of a data set that can only be iterated over."""

IN_ANY_ORDER = (SequentialSampler, RandomSampler)
"""The samplers that draw each sample once in an epoch. A training shuffles by its own seed."""


class Loaded(Collated):
    """The samples of a `DataLoader`.

    batch_size: the samples of a batch. weights: for each sample, how often it is drawn, relative to
    the others; all equally often if None.
    """

    def __init__(
        self, dataset: Dataset[Any], collate: Collate, batch_size: int, weights: Tensor | None
    ) -> None:
        super().__init__(dataset, collate)
        self.batch_size, self.weights = batch_size, weights


class Listed(Dataset[Any]):
    """Samples that were read one after the other."""

    def __init__(self, samples: Sequence[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> Any:
        return self.samples[i]


def size_of(dataset: Dataset[Any]) -> int:
    """The samples of a training batch, if the task does not say it."""
    return dataset.batch_size if isinstance(dataset, Loaded) else BATCH_SIZE


def weights_of(dataset: Dataset[Any]) -> Tensor | None:
    """How often each training sample is drawn, relative to the others; None: all equally often."""
    return dataset.weights if isinstance(dataset, Loaded) else None


def read(what: str, dataset: Dataset[Any], most: int | None) -> Dataset[Any]:
    """The data set, or its samples in memory if it can only be iterated over; see `listed`."""
    if isinstance(dataset, Collated):
        dataset.dataset = read(what, dataset.dataset, most)
        return dataset
    return listed(what, dataset, most) if isinstance(dataset, IterableDataset) else dataset


def loaded(name: str, loader: DataLoader[Any]) -> Loaded:
    """The samples of a loader. name: the name of the split.

    The order of samples, workers and `drop_last` are not kept, because a race decides on them.
    Raises UserError for a loader that draws samples, or puts them together, in a way of its own.
    """
    dataset, sampler = loader.dataset, loader.sampler
    if loader.batch_size is None or type(loader.batch_sampler) not in (BatchSampler, type(None)):
        raise UserError(
            f"The loader of the {name} split makes batches in a way of its own: give its data set,"
            " or a loader with batch_size."
        )
    weights = None
    if isinstance(sampler, SubsetRandomSampler):
        dataset = Subset(dataset, list(sampler.indices))
    elif isinstance(sampler, WeightedRandomSampler) and sampler.replacement:
        weights = sampler.weights
    elif not isinstance(dataset, IterableDataset) and type(sampler) not in IN_ANY_ORDER:
        raise UserError(
            f"The loader of the {name} split has a {type(sampler).__name__}, which a race cannot"
            " follow, because it draws the samples of each seed itself: give the data set, or a"
            " loader with shuffle=True or a WeightedRandomSampler."
        )
    return Loaded(dataset, loader.collate_fn, loader.batch_size, weights)


def listed(what: str, dataset: Dataset[Any], most: int | None) -> Dataset[Any]:
    """The samples of a data set that can only be iterated over, in memory.

    most: the number of samples that are enough; None where all are wanted. Raises UserError for a
    data set without a sample, and for one that does not end where all are wanted.
    """
    wanted = MOST_STREAMED if most is None else min(most, MOST_STREAMED)
    samples = list(islice(iter(dataset), wanted))
    if not samples:
        raise UserError(f"{what} are an iterable without a sample; give at least one.")
    if most is None and len(samples) == MOST_STREAMED:
        raise UserError(
            f"{what} are an iterable of {MOST_STREAMED} samples or more: let it end, or give a data"
            " set with __len__ and __getitem__; training data may be endless if the task has steps."
        )
    return Listed(samples)
