"""The data of a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from thalweg.arguments import require_function, short
from thalweg.errors import UserError
from thalweg.tasks.failure import describe
from thalweg.tasks.forms import Collate, Collated
from thalweg.tasks.loaders import loaded

MOST_SAMPLES = 10**8
"""The most samples. Their numbers take less than a gigabyte."""

Split = Dataset[Any] | tuple[Tensor, ...]


@dataclass(frozen=True, init=False)
class Data:
    """Three disjoint sets of samples.

    Each is a tuple of tensors `[N, ...]` of equal length, a `torch.utils.data.Dataset`, or a
    `DataLoader`. Of a loader its data set, `batch_size`, `collate_fn` and weights are used; each
    seed shuffles by itself. A data set that can only be iterated over is read into memory; the
    training set may be endless if the task has `steps`. Optimizers are chosen on `validation`;
    `test` is used once, after the choice. collate_fn: makes a batch of a list of samples;
    `torch.utils.data.default_collate` if not given.

    In a sample, or in the batch that `collate_fn` makes:

    - of a tuple `(inputs..., target)` the last item is the target, the others are the model's
      arguments: `model(*inputs)`. If there is one input that is a tuple or a list, its parts are
      the arguments if the model's `forward` takes several.
    - of a dictionary the entries that `forward` takes by name are its arguments: `model(**inputs)`.
      If it takes none of them, the dictionary is its argument. An input that is a dictionary is
      taken likewise. The target is the entry `labels`, `label`, `targets`, `target` or `y`; without
      such an entry it is the dictionary.
    - anything else is the only argument, and the target too, as for an autoencoder.

    A sample may draw random numbers (augmentation) from torch, NumPy or Python. For a seed of
    training they are the same for all entrants; for validation and test data they are always the
    same. Samples that are always the same are read once, and kept in memory if they fit into a
    quarter of the free memory. Other samples may be read in processes that are forked from this
    one. A split that holds something open that processes cannot share (a file, a socket, a
    database) is unpickled in each process, and should then open it anew. If this does not work, it
    is read in one process.

    Raises `UserError` for a split that has no length or no sample.
    """

    train: Dataset[Any]
    validation: Dataset[Any]
    test: Dataset[Any]

    def __init__(
        self, train: Split, validation: Split, test: Split, *, collate_fn: Collate | None = None
    ) -> None:
        for name, split in (("train", train), ("validation", validation), ("test", test)):
            found = map_style(name, split)
            if collate_fn is not None:
                require_function("collate_fn", collate_fn, "a function of a list of samples")
                found = Collated(found, collate_fn)
            object.__setattr__(self, name, found)


SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
"""The names of the splits, and how they may be called in a dictionary."""


def data_of(made: Any, task: str) -> Data:
    """The result of a task's data function as `Data`.

    It may be a tuple of the three splits, or a dictionary of them. UserError for anything else.
    """
    if isinstance(made, Data):
        return made
    if isinstance(made, tuple | list) and len(made) == 3:
        return Data(*made)
    if isinstance(made, Mapping):
        found = [next((made[n] for n in names if n in made), None) for names in SPLITS.values()]
        if all(split is not None for split in found):
            return Data(*cast("list[Any]", found))
    raise UserError(
        f"The data function of task '{task}' must return a thalweg.tasks.Data(train, validation,"
        f" test), a tuple of these three, or a dictionary with these names, not {described(made)}."
    )


def described(made: Any) -> str:
    """What a data function has returned, in words."""
    if isinstance(made, Mapping):
        return f"a dictionary with {', '.join(map(short, made)) or 'no entries'}"
    if isinstance(made, tuple | list):
        return f"{a_or_an(type(made).__name__)} of {len(made)}"
    return a_or_an(type(made).__name__)


def map_style(name: str, split: object) -> Dataset[Any]:
    """`split` as a data set with a length and numbered samples; `UserError` if that cannot be."""
    if isinstance(split, tuple):
        split = tensor_split(name, split)
    if isinstance(split, DataLoader):
        split = loaded(name, split)
    inner = split.dataset if isinstance(split, Collated) else split
    if isinstance(inner, IterableDataset):
        return cast("Dataset[Any]", split)  # read when the task says how much of it is needed
    if type(inner) is TensorDataset and len(inner.tensors) == 1:
        return TensorDataset(*inner.tensors, *inner.tensors)
    if not (hasattr(split, "__len__") and hasattr(split, "__getitem__")):
        raise UserError(
            f"The {name} split must be a map-style data set with __len__ and __getitem__,"
            f" or a tuple of tensors, not {a_or_an(type(split).__name__)}."
        )
    try:
        length = len(split)
    except Exception as error:
        raise UserError(f"The {name} split has no length: {error}") from error
    if length == 0:
        raise UserError(f"The {name} split is empty; give it at least one sample.")
    if length > MOST_SAMPLES:
        raise UserError(
            f"The {name} split has {length} samples, and no more than {MOST_SAMPLES} can be"
            " shuffled: let its __len__ return the number of samples of an epoch."
        )
    return cast("Dataset[Any]", split)


def tensor_split(name: str, tensors: tuple[Any, ...]) -> TensorDataset:
    for item in tensors:
        if not isinstance(item, Tensor) or item.ndim == 0:
            raise UserError(
                f"The {name} split is a tuple, so its items must be tensors [N, ...], and one is"
                f" {describe(item)}."
            )
    lengths = [len(item) for item in tensors]
    if len(set(lengths)) > 1:
        raise UserError(
            f"The tensors of the {name} split have unequal lengths"
            f" ({', '.join(map(str, lengths))}); give each the same number of samples."
        )
    if not tensors:
        raise UserError(f"The {name} split is an empty tuple; give it tensors [N, ...].")
    return TensorDataset(*tensors)


def a_or_an(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiouAEIOU' else 'a'} {noun}"
