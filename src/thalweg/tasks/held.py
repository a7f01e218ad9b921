"""Data sets read into memory once, so that batches are gathered and not made sample by sample."""

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

SHARE = 0.25
"""Of the memory that is free, what one data set may take."""

UNTOLD = 4 * 2**30
"""Bytes that count as free where the system does not say."""

TRIED = 32
"""Samples that are read twice before all are."""

ENDLESS = 100
"""Times a training's samples, behind which most samples would be read for nothing."""

PATIENCE = 5.0
"""Seconds for reading samples again."""


class Held(Dataset[Any]):
    """Samples as tensors `[N, ...]`, nested as `default_collate` does it."""

    def __init__(self, tensors: tuple[Any, ...]) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(tree_leaves(self.tensors)[0])

    def __getitem__(self, i: int) -> Any:
        return tree_map(lambda tensor: tensor[i], self.tensors)


def is_held(dataset: Dataset[Any]) -> TypeGuard[TensorDataset | Held]:
    """Whether the samples are those in `dataset.tensors`; a subclass may make others of them."""
    return type(dataset) in (TensorDataset, Held)


def held(dataset: Dataset[Any], used: float = math.inf) -> Dataset[Any]:
    """The data set read into memory, where that changes no batch; else the data set itself.

    used: how many samples a training takes; a data set `ENDLESS` times as long is not read.
    That is so where the whole takes no more than `SHARE` of the memory that is free, reading draws
    no random numbers (from torch, NumPy or Python), samples are the same when they are read again,
    and all are tensors or numbers of one shape and type, in the CPU's memory.
    """
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
        # Whatever is wrong with a sample, who asks for it is told.
        return dataset
    return dataset


def read(dataset: Dataset[Any], count: int) -> tuple[Any, ...]:
    """The first samples as tensors; ValueError where they cannot be held."""
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
    """Whether samples are as they were read first, as many as there is time for, in any order."""
    until = perf_counter() + PATIENCE
    for i in torch.randperm(len(whole)).tolist():
        if not same(sample(dataset, i), sample(whole, i)):
            return False
        if perf_counter() > until:
            break
    return True


def sample(dataset: Dataset[Any], i: int) -> tuple[Any, ...]:
    """A batch of this sample alone; ValueError for what is no tuple (inputs..., target)."""
    found = dataset[i]
    if not isinstance(found, tuple | list) or len(found) < 2:
        raise ValueError("a sample is no tuple (inputs..., target)")
    return tuple(default_collate([found]))


def put(i: int, tensor: Tensor, alone: Tensor) -> None:
    """Takes a sample's tensor `[1, ...]` for row i."""
    alike = (alone.shape[1:], alone.dtype) == (tensor.shape[1:], tensor.dtype)
    if not alike or alone.requires_grad or alone.device.type != "cpu":
        raise ValueError("a sample is not like the first, or not where it can be held")
    tensor[i] = alone[0]


def same(some: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    """Whether all numbers are equal; one that is none equals another that is none."""
    return all(
        torch.equal(one, other) or bool(((one == other) | (one != one) & (other != other)).all())
        for one, other in zip(tree_leaves(some), tree_leaves(others), strict=True)
    )


def size(tensors: tuple[Any, ...]) -> int:
    """Bytes."""
    return sum(tensor.nbytes for tensor in tree_leaves(tensors))


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that may be taken without swapping, as Linux says and a container's limit allows.

    root: where the system's files are.
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
