"""A training on disk: once stopped, it continues from there, to the bit on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten, treespec_dumps, treespec_loads

from thalweg.errors import UserError
from thalweg.random_numbers import as_data, from_data, put, states
from thalweg.stack.population import Population
from thalweg.training.files import Identity, read_state, write_state
from thalweg.training.learn import Learned
from thalweg.training.run import Evaluation

CHECKPOINT_EVERY = 300.0
"""The seconds between two checkpoints of a block, if not given."""


@dataclass(frozen=True)
class Unfinished:
    """The state of a training that was stopped. more: what else its file holds, by name."""

    population: Mapping[str, Any]
    random: Mapping[str, Any]
    learned: Learned
    more: Mapping[str, Any]

    def put(self, population: Population) -> Learned:
        """Takes a fresh population to where the training was stopped. Gives its progress."""
        population.restore(self.population)
        put(from_data(self.random))
        return self.learned


def write_unfinished(
    path: Path, plan: Identity, population: Population, learned: Learned, **more: Any
) -> None:
    """Writes all that the coming steps depend on, and the progress so far.

    more: what else to keep, by name: tensors and plain data, nested.
    """
    tensors, others = apart(
        {
            "population": population.saved(),
            "random": as_data(states()),
            "curves": [[asdict(point) for point in curve] for curve in learned.curves],
            "losses": learned.losses,
            "more": more,
        }
    )
    write_state(path, {"kept": tensors}, {"plan": plan, "kept": others})


def read_unfinished(path: Path, plan: Identity) -> Unfinished:
    """The training in a file. UserError for a file that is damaged or whose plan is another."""
    groups, record = read_state(path, plan)
    kept = together(groups["kept"], record["kept"])
    curves = [[Evaluation(**point) for point in curve] for curve in kept["curves"]]
    learned = Learned(curves, kept["losses"])
    return Unfinished(kept["population"], kept["random"], learned, kept["more"])


@dataclass
class Checkpoints:
    """The file from which a block of members continues if its training is stopped.

    path: the file. plan: what decides the result of the block. every: the seconds between two
    checkpoints.
    """

    path: Path
    plan: Identity
    every: float

    def __post_init__(self) -> None:
        self.last = time.monotonic()

    def read(self) -> Unfinished | None:
        """The state that the file holds. None if there is none, or if it cannot be used."""
        if self.path.exists():
            with suppress(UserError):  # the block then begins again, and comes to the same
                return read_unfinished(self.path, self.plan)
        return None

    def saver(self, population: Population, **more: Any) -> Callable[[Learned], None]:
        """A function that writes the file if that is due."""

        def save(learned: Learned) -> None:
            if time.monotonic() - self.last < self.every:
                return
            # A disk that is full must not end a training that may still fit into the ledger.
            with suppress(UserError):
                write_unfinished(self.path, self.plan, population, learned, **more)
            self.last = time.monotonic()

        return save


def apart(nested: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of something nested, by number, and all else of it as plain data."""
    leaves, form = tree_flatten(nested)
    tensors = {str(i): x for i, x in enumerate(leaves) if isinstance(x, Tensor)}
    others = {str(i): x for i, x in enumerate(leaves) if not isinstance(x, Tensor)}
    return tensors, {"form": treespec_dumps(form), "others": others}


def together(tensors: dict[str, Tensor], record: dict[str, Any]) -> Any:
    """What was taken apart."""
    leaves = tensors | record["others"]
    form = treespec_loads(record["form"])
    return tree_unflatten([leaves[str(i)] for i in range(len(leaves))], form)
