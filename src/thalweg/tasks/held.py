"""Reading data sets into memory once, so that batches need not be made sample by sample."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import Dataset, TensorDataset, default_collate

from thalweg.random_numbers import drawn_from, random_numbers_kept, states
from thalweg.tasks.forms import Batch, Collated, batch_of

SHARE = 0.25
"""The share of the free memory that one data set may take."""

UNTOLD = 4 * 2**30
"""The bytes that count as free if the system does not say how many are."""

TRIED = 32
"""The samples that are read twice before all samples are read."""

ENDLESS = 100
"""A data set with more than this multiple of a training's samples is not read into memory."""

PATIENCE = 5.0
"""The most seconds for reading samples again."""


class Held(Dataset[Any]):
    """Samples as tensors `[N, ...]`, nested as by `default_collate`."""

    def __init__(self, tensors: tuple[Any, ...]) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(tree_leaves(self.tensors)[0])

    def __getitem__(self, i: int) -> Any:
        return tree_map(lambda tensor: tensor[i], self.tensors)


def is_held(dataset: Dataset[Any]) -> TypeGuard[TensorDataset | Held]:
    """Whether the samples are the rows of `dataset.tensors`; those of a subclass may differ."""
    return type(dataset) in (TensorDataset, Held)


def held(dataset: Dataset[Any], used: float = math.inf) -> Dataset[Any]:
    """The data set in memory, if that changes no batch; otherwise the data set itself.

    It is read into memory if all samples fit into `SHARE` of the free memory, if reading draws no
    random numbers (from torch, NumPy or Python), if samples are the same when they are read again,
    if all are tensors or numbers of one shape and type in the CPU's memory, and if batches are made
    of them in PyTorch's usual way.

    used: the number of samples that a training takes. A data set that is `ENDLESS` times as long is
    not read.
    """
    if isinstance(dataset, Collated):
        if dataset.collate is not default_collate:
            return dataset
        dataset = dataset.dataset
    if is_held(dataset):
        return dataset
    length = len(dataset)  # type: ignore[arg-type]  # Data has made sure of one
    if length > ENDLESS * used:
        return dataset
    few = min(TRIED, length)
    try:
        with random_numbers_kept():
            once, again = read(dataset, few), read(dataset, few)
            if same(once, again) and size(once) / few * length <= SHARE * free_memory():
                whole = Held(read(dataset, length))
                if reads_alike(dataset, whole):
                    return whole
    except Exception:
        # An error of a sample is reported where the sample is used.
        return dataset
    return dataset


def read(dataset: Dataset[Any], count: int) -> tuple[Any, ...]:
    """The first samples as tensors. Raises ValueError if they cannot be held."""
    before = states()
    tensors: tuple[Any, ...] = tree_map(
        lambda x: x.new_empty(count, *x.shape[1:]), sample(dataset, 0)
    )
    for i in range(count):
        tree_map(partial(put, i), tensors, sample(dataset, i))
    if drawn_from(before, states()):
        raise ValueError("the samples draw random numbers")
    return tensors


def reads_alike(dataset: Dataset[Any], whole: Held) -> bool:
    """Whether samples are the same when they are read again, as far as the time allows."""
    until = perf_counter() + PATIENCE
    for i in torch.randperm(len(whole)).tolist():
        if not same(sample(dataset, i), sample(whole, i)):
            return False
        if perf_counter() > until:
            break
    return True


def sample(dataset: Dataset[Any], i: int) -> Batch:
    """A batch of this sample alone."""
    return batch_of(dataset, [dataset[i]])


def put(i: int, tensor: Tensor, alone: Tensor) -> None:
    """Copies a sample's tensor `[1, ...]` into row i."""
    alike = (alone.shape[1:], alone.dtype) == (tensor.shape[1:], tensor.dtype)
    if not alike or alone.requires_grad or alone.device.type != "cpu":
        raise ValueError("a sample is not like the first, or not where it can be held")
    tensor[i] = alone[0]


def same(some: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    """Whether all numbers are equal; nan counts as equal to nan."""
    return all(
        torch.equal(one, other) or bool(((one == other) | (one != one) & (other != other)).all())
        for one, other in zip(tree_leaves(some), tree_leaves(others), strict=True)
        if isinstance(one, Tensor)
    )


def size(tensors: tuple[Any, ...]) -> int:
    """The size of tensors in bytes."""
    return sum(tensor.nbytes for tensor in tree_leaves(tensors))


def free_memory(root: Path = Path("/")) -> int:
    """The bytes that can be used without swapping, by Linux's figures and a container's limit.

    root: the root of the system's files.
    """
    told, group = root / "proc/meminfo", root / "sys/fs/cgroup"
    if not told.exists():
        return UNTOLD
    amounts = dict(line.split(":") for line in told.read_text().splitlines())
    free = 1024 * int(amounts["MemAvailable"].split()[0])
    limit = group / "memory.max"
    if limit.exists() and (most := limit.read_text().strip()) != "max":
        free = min(free, int(most) - int((group / "memory.current").read_text()))
    return free
