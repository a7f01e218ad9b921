"""The forms in which people have their data, as the one form in which training takes them.

Training takes a batch as a tuple: the model's arguments, and then the target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from inspect import Parameter, signature
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset, default_collate

TARGETS = ("labels", "label", "targets", "target", "y")
"""The names of the target in a sample that is a dictionary, in this order."""

Batch = tuple[Any, ...]
"""The model's arguments, and then the target; each is `[B, ...]` or a nest of such tensors."""

Collate = Callable[[list[Any]], Any]
"""Makes a batch of a list of samples."""


class Collated(Dataset[Any]):
    """A data set, and the function that makes its batches."""

    def __init__(self, dataset: Dataset[Any], collate: Collate) -> None:
        self.dataset, self.collate = dataset, collate

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # Data has made sure of one

    def __getitem__(self, i: int) -> Any:
        return self.dataset[i]


def collate_of(dataset: Dataset[Any]) -> Collate:
    """The function that makes batches of a data set."""
    return dataset.collate if isinstance(dataset, Collated) else default_collate


def batch_of(dataset: Dataset[Any], samples: Sequence[Any]) -> Batch:
    """Samples of a data set as a batch."""
    return in_parts(collate_of(dataset)(list(samples)))


def in_parts(batch: Any) -> Batch:
    """The model's arguments and the target of a batch, as the docstring of `Data` tells them."""
    if isinstance(batch, Mapping):
        known = dict(batch)
        return known, next((known[name] for name in TARGETS if name in known), known)
    if isinstance(batch, tuple | list) and not isinstance(batch, PackedSequence):
        return tuple(batch) if len(batch) > 1 else (batch[0], batch[0])
    return batch, batch


def copied(batch: Batch) -> Batch:
    """A copy of the batch with new tensors."""
    copy: Batch = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, batch)
    return copy


def is_sequence(x: Any) -> bool:
    """Whether something is a plain tuple or list; a named tuple is a thing of its own."""
    return isinstance(x, tuple | list) and not hasattr(x, "_fields")


class Taken(NamedTuple):
    """What the `forward` of a model takes: the names of its arguments, whether it takes any name,
    and whether it takes several arguments by their places.
    """

    names: frozenset[str]
    any_name: bool
    several: bool


@lru_cache
def taken(forward: Callable[..., Any]) -> Taken:
    """What the `forward` of a class of models takes."""
    known = list(signature(forward).parameters.values())[1:]  # without self
    by_place = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return Taken(
        frozenset(one.name for one in known if one.kind is not Parameter.POSITIONAL_ONLY),
        any(one.kind is Parameter.VAR_KEYWORD for one in known),
        sum(one.kind in by_place for one in known) > 1
        or any(one.kind is Parameter.VAR_POSITIONAL for one in known),
    )


def spread(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A hook of a model: calls `forward(*x)` or `forward(**x)` instead of `forward(x)`.

    A tuple or a list is spread where `forward` takes several arguments, a dictionary where it takes
    arguments of some of its names. Other entries of the dictionary are left out.
    """
    if len(args) != 1:
        return None
    (given,) = args
    takes = taken(type(model).forward)
    if isinstance(given, Mapping) and (takes.any_name or takes.names & given.keys()):
        own = {name: x for name, x in given.items() if takes.any_name or name in takes.names}
        return (), own | kwargs
    if is_sequence(given) and takes.several:
        return tuple(given), kwargs
    return None


def is_spread(batch: Batch) -> bool:
    """Whether a model may have to take the parts of its only argument as its arguments."""
    return len(batch) == 2 and (isinstance(batch[0], Mapping) or is_sequence(batch[0]))
