"""The samples of a split, which are checked before anything long is started."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import Dataset

from thalweg.errors import UserError
from thalweg.tasks.failure import describe, failure_as_sentence
from thalweg.tasks.forms import batch_of
from thalweg.tasks.held import is_held
from thalweg.tasks.task import Task

TOGETHER = 2**22
"""The numbers that are checked at once, so that a check needs little memory."""


class Samples:
    """The samples of a split by their numbers.

    of: the name of the split in messages. size: the samples of a batch. odd: the numbers of the
    samples with a value that is not finite, out of all held samples, or all that were read so far.
    """

    def __init__(self, task: Task, split: str, dataset: Dataset[Any]) -> None:
        self.split, self.dataset = split, dataset
        self.of = f"the {split} split of task '{task.name}'"
        self.size = min(task.samples_per_step, len(self))
        self.odd: set[int] = set()
        if is_held(dataset):
            self.require_dense(dataset.tensors)
            self.odd.update(*map(rows_not_finite, tree_leaves(dataset.tensors)))

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # Data has made sure that there is one

    def drawn(self, times: int = 1) -> Iterator[list[int]]:
        """The sample numbers of each batch, in a random order that is always the same.

        times: the number of batches that are joined to one. The last one may be smaller.
        """
        size = self.size * times
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(self), generator=generator)
        return (order[i : i + size].tolist() for i in range(0, len(order), size))

    def batch(self, numbers: Sequence[int]) -> list[Any]:
        """These samples as one batch: a list of the model's arguments and the target.

        Raises UserError for a sample that cannot be read, or has another shape than the others.
        """
        if is_held(self.dataset):
            return list(tree_map(lambda x: x[numbers], self.dataset.tensors))
        samples = [self.sample(number) for number in numbers]
        try:
            batch = list(batch_of(self.dataset, samples))
        except Exception as error:
            raise UserError(self.unlike(numbers, samples)) from error
        self.require_dense(batch)
        for x in tree_leaves(batch):
            if isinstance(x, Tensor) and x.shape[:1] == (len(numbers),):
                self.odd.update(numbers[row] for row in rows_not_finite(x))
        return batch

    def require_dense(self, batch: Sequence[Any]) -> None:
        """Raises UserError for a tensor whose numbers do not all lie in memory."""
        for x in tree_leaves(batch):
            if isinstance(x, Tensor) and (x.layout != torch.strided or x.is_meta):
                found = "on the device meta, which has no data" if x.is_meta else f"{x.layout}"
                raise UserError(
                    f"The samples of {self.of} must be dense tensors of numbers, not {found}."
                )

    def sample(self, number: int) -> Any:
        with failure_as_sentence(f"Sample {number} of {self.of} failed"):
            sample = self.dataset[number]
        if sample is None or (isinstance(sample, tuple | list | Mapping) and not sample):
            raise UserError(
                f"Sample {number} of {self.of} must be a tuple (inputs..., target), a dictionary or"
                f" a tensor, not {describe(sample)}."
            )
        return sample

    def unlike(self, numbers: Sequence[int], samples: Sequence[Any]) -> str:
        """The reason why samples cannot be stacked into a batch."""
        with failure_as_sentence(f"The samples of {self.of} cannot be stacked into a batch"):
            alone = [tree_leaves(batch_of(self.dataset, [sample])) for sample in samples]
        shapes = [", ".join(map(describe, leaves)) for leaves in alone]
        if len(set(shapes)) == 1:
            return f"The samples of {self.of} cannot be stacked into a batch; each is {shapes[0]}."
        ((usual, _),) = Counter(shapes).most_common(1)
        other = next(i for i, own in enumerate(shapes) if own != usual)
        return (
            f"The samples of {self.of} cannot be stacked into a batch: sample {numbers[other]} as a"
            f" batch of one is {shapes[other]}, and sample {numbers[shapes.index(usual)]} is"
            f" {usual}. Give the data a collate_fn that makes a batch of such samples."
        )


def rows_not_finite(x: Any) -> list[int]:
    """The rows of a tensor `[N, ...]` that have a number that is not finite."""
    if not isinstance(x, Tensor) or not (x.is_floating_point() or x.is_complex()) or not x.numel():
        return []
    parts = torch.split(x, max(1, TOGETHER * len(x) // x.numel()))
    finite = torch.cat([part.isfinite().reshape(len(part), -1).all(1) for part in parts])
    rows: list[int] = (~finite).nonzero().flatten().tolist()
    return rows


def first_not_finite(batch: Sequence[Any]) -> str:
    """The first value of a batch that is not finite, and its place."""
    for place, part in enumerate(batch):
        for x in tree_leaves(part):
            if rows_not_finite(x):
                value = x[~x.isfinite()][0].item()
                return f"{value} in its {'target' if place == len(batch) - 1 else 'inputs'}"
    raise AssertionError("the batch has none")
