"""Batches of data sets that are read sample by sample: here, or by workers ahead of time."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from itertools import tee
from multiprocessing import parent_process
from multiprocessing.reduction import ForkingPickler
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from thalweg.forked import begin, forking
from thalweg.random_numbers import drawing
from thalweg.tasks.sharing import InOneProcess, Reopened

Batch = tuple[Any, ...]
"""The model's arguments, and the target last; each `[B, ...]`, or nested of such."""

PATIENCE = 1.0
"""Seconds that are spent on reading here before there are workers."""

SLOW = 0.005
"""Seconds for a batch, below which handing it over (1 to 2 ms) would save little or nothing."""


class Wanted(NamedTuple):
    """A batch: the numbers of its samples, and the seed of what they draw at random."""

    samples: list[int]
    seed: int


class Reader(Dataset[Batch]):
    """The batches of a data set, the same to the bit in whichever process they are read."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, wanted: Wanted) -> Batch:
        with drawing(wanted.seed):
            return tuple(default_collate([self.dataset[i] for i in wanted.samples]))


def read(dataset: Dataset[Any], wanted: Iterable[Wanted]) -> Iterator[Batch]:
    """The batches that are wanted, one after the other.

    They are read when they are asked for. Where that takes long, workers read ahead from then on,
    one for each of PyTorch's threads; if they fail, whatever it is, the rest is read here, as is
    all of a data set that only one process may read.
    """
    reader, coming = Reader(dataset), iter(wanted)
    spent = 0.0
    for count, one in enumerate(coming, 1):
        began = perf_counter()
        batch = reader[one]
        spent += perf_counter() - began
        yield batch
        if spent > max(PATIENCE, count * SLOW) and sys.platform == "linux":
            break
    else:
        return
    if isinstance(dataset, Reopened | InOneProcess) and parent_process() is None:
        warnings.warn(dataset.line, stacklevel=2)
    if isinstance(dataset, InOneProcess):
        yield from map(reader.__getitem__, coming)
    coming, given = tee(coming)
    yield from read_ahead(reader, coming, given)
    yield from map(reader.__getitem__, coming)


def read_ahead(
    reader: Reader, coming: Iterator[Wanted], given: Iterator[Wanted]
) -> Iterator[Batch]:
    """The coming batches, which are `given` to workers, as long as these bring them."""
    ahead = workers(reader, given)
    for one in coming:
        try:
            batch = next(ahead)
        except Exception:
            yield reader[one]
            return
        yield batch


def workers(reader: Reader, given: Iterator[Wanted]) -> Iterator[Batch]:
    loader = DataLoader(
        reader,
        batch_size=None,  # an item of the reader is a batch already
        sampler=given,
        num_workers=torch.get_num_threads(),
        collate_fn=packed,
        worker_init_fn=lambda _: begin(),
        multiprocessing_context="fork",
        generator=torch.Generator(),  # it would draw from the global one
    )
    with forking():
        packages = iter(loader)
    yield from map(ForkingPickler.loads, packages)


def packed(batch: Any) -> bytes:
    """A batch on its way to another process. What cannot be pickled fails here, where it is told,
    and not in the queue's thread, which would leave the other waiting.
    """
    return bytes(ForkingPickler.dumps(batch))
