"""Reads data sets sample by sample into batches, in this process or ahead of time by workers."""

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
from torch.utils.data import DataLoader, Dataset

from thalweg.forked import begin, forking
from thalweg.random_numbers import drawing
from thalweg.tasks.forms import Batch, batch_of
from thalweg.tasks.sharing import InOneProcess, Reopened

PATIENCE = 1.0
"""The seconds of reading in this process before workers are started."""

SLOW = 0.005
"""The seconds for a batch below which workers save little: handing over takes 1 to 2 ms."""


class Wanted(NamedTuple):
    """A batch to read: the numbers of its samples, and the seed of their random draws."""

    samples: list[int]
    seed: int


class Reader(Dataset[Batch]):
    """The batches of a data set; they are the same to the bit in every process."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, wanted: Wanted) -> Batch:
        with drawing(wanted.seed):
            return batch_of(self.dataset, [self.dataset[i] for i in wanted.samples])


def read(dataset: Dataset[Any], wanted: Iterable[Wanted]) -> Iterator[Batch]:
    """Reads the wanted batches, in order.

    At first each batch is read in this process when it is needed. If that is slow, workers read
    ahead from then on, one for each of PyTorch's threads. If the workers fail for any reason, or if
    only one process may read the data set, this process reads the rest.
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
    """The next batches, read by workers; it ends after the first batch that the workers fail at.

    coming, given: the same wanted batches twice; the workers read `given`.
    """
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
        batch_size=None,  # the reader's items are batches already
        sampler=given,
        num_workers=torch.get_num_threads(),
        collate_fn=packed,
        worker_init_fn=lambda _: begin(),
        multiprocessing_context="fork",
        generator=torch.Generator(),  # without it, the loader draws from the global generator
    )
    with forking():
        packages = iter(loader)
    yield from map(ForkingPickler.loads, packages)


def packed(batch: Any) -> bytes:
    """A pickled batch, to be sent to another process.

    A batch that cannot be pickled raises here, where the error is reported. In the queue's thread
    it would be lost, and the other process would wait forever.
    """
    return bytes(ForkingPickler.dumps(batch))
