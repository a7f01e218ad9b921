"""The outputs of batches as the outputs for a whole split, over which metrics are computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import register_dataclass, tree_leaves, tree_map

from thalweg.tasks.trained_loss import WithLoss


class Part(NamedTuple):
    """The outputs and the targets of a batch, and the number of its samples."""

    outputs: Any
    targets: Any
    samples: int


class Parts(list[Any]):
    """Outputs or targets of batches that cannot be joined. sizes: the samples of each batch."""

    def __init__(self, parts: Sequence[Any], sizes: Sequence[int]) -> None:
        super().__init__(parts)
        self.sizes = sizes


class UnjoinableError(Exception):
    """The outputs of batches have shapes that cannot be joined."""


def apart(parts: Sequence[Part]) -> tuple[Parts, Parts]:
    """The outputs and the targets of batches, batch by batch."""
    sizes = [part.samples for part in parts]
    outputs, targets = [part.outputs for part in parts], [part.targets for part in parts]
    return Parts(outputs, sizes), Parts(targets, sizes)


def joined(parts: Sequence[Part], dim: int = 0) -> tuple[Any, Any]:
    """The outputs and the targets of a whole split, joined along the dimension of samples.

    Numbers of a batch, such as its loss, become their mean, weighted by samples. Where tensors
    differ in shape from batch to batch, or have no dimension of samples, both are `Parts`.
    dim: the dimension of samples in the outputs; a stack has its members in front.
    """
    sizes, targets = [part.samples for part in parts], [part.targets for part in parts]
    outputs = [of_tensors(part.outputs) for part in parts]
    try:
        return whole(outputs, sizes, dim), whole(targets, sizes, 0)
    except UnjoinableError:
        return apart(parts)


def whole(parts: Sequence[Any], sizes: Sequence[int], dim: int) -> Any:
    """The nested tensors of batches as those of a split. Raises UnjoinableError."""

    def leaf(*each: Any) -> Any:
        first = each[0]
        if not isinstance(first, Tensor):
            if all(x is None for x in each) or len(each) == 1:
                return first
            raise UnjoinableError
        if first.ndim <= dim:
            total = sum(sizes)
            return sum(x * (size / total) for x, size in zip(each, sizes, strict=True))
        if any(x.shape[dim] != size for x, size in zip(each, sizes, strict=True)):
            raise UnjoinableError
        if len({(*x.shape[:dim], *x.shape[dim + 1 :]) for x in each}) > 1:
            raise UnjoinableError
        return torch.cat(each, dim)

    if isinstance(parts[0], WithLoss):
        return WithLoss(whole([part.outputs for part in parts], sizes, dim), parts[0].tensors)
    try:
        return tree_map(leaf, *parts)
    except ValueError as error:  # the batches are nested in different ways
        raise UnjoinableError from error


def of_tensors(outputs: Any) -> Any:
    """The outputs without named entries that hold something else, as the caches of a model."""
    if isinstance(outputs, WithLoss):
        return replace(outputs, outputs=of_tensors(outputs.outputs))
    if not isinstance(outputs, Mapping):
        return outputs
    kept = {
        name: x
        for name, x in outputs.items()
        if all(isinstance(leaf, Tensor) for leaf in tree_leaves(x))
    }
    return outputs if len(kept) == len(outputs) else type(outputs)(**kept)


def known_to_pytree(outputs: Any) -> Any:
    """The outputs; PyTorch learns the fields of those that are dataclasses, once for a class."""
    for x in tree_leaves(outputs):
        if is_dataclass(x) and not isinstance(x, type):
            register_dataclass(type(x))
    return outputs


def over_parts(score: Callable[[Any, Any], float], outputs: Any, targets: Any) -> float:
    """The score of outputs over a split; of `Parts` the mean over batches, weighted by samples."""
    if not isinstance(outputs, Parts):
        return score(outputs, targets)
    each = zip(outputs, targets, outputs.sizes, strict=True)
    return sum(score(*pair) * size for *pair, size in each) / sum(outputs.sizes)


def as_float(value: Any) -> float:
    """A score as a number, also one that still has a graph of derivatives."""
    return float(value.detach() if isinstance(value, Tensor) else value)


def member(outputs: Any, i: int) -> Any:
    """The outputs of a member of a stack, from those of all members."""
    if isinstance(outputs, Parts):
        return Parts([member(part, i) for part in outputs], outputs.sizes)
    return tree_map(lambda x: x[i] if isinstance(x, Tensor) else x, outputs)


def size_of(batch: Sequence[Any]) -> int:
    """The number of samples in a batch: the length of its last tensor."""
    lengths = [len(x) for x in tree_leaves(batch)[::-1] if isinstance(x, Tensor) and x.ndim]
    return lengths[0] if lengths else 1
