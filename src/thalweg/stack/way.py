"""How members are stepped: one by one, stacked, or stacked and compiled."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset, Subset

from thalweg import recipes
from thalweg.stack.compiled import Compiled
from thalweg.stack.member import Member
from thalweg.stack.population import Population, initial_model
from thalweg.stack.single import Single
from thalweg.stack.stacked import Stacked
from thalweg.tasks.task import Task

Way = Literal["single", "stacked", "compiled"]
WAYS: tuple[Way, ...] = get_args(Way)

TRIED = 8
"""Samples on which a stack's outputs are compared with those alone."""


# Of the last task only: a longer memory would keep the data of all tasks before.
@lru_cache(maxsize=1)
def way_of(task: Task) -> tuple[Way, str]:
    """Whether this task's members can be stacked or have to go one by one, and then why.

    Tried for one step, on two members that share their batches and two that do not; torch's random
    state stays as it is.
    """
    for module in initial_model(task, seed=0).modules():
        if isinstance(module, nn.RNNBase):
            kind = f"nn.{type(module).__name__}"
            return "single", f"members run one by one: {kind} has no batching rule under vmap."
    try:
        with torch.random.fork_rng(devices=[]):
            members = [Member(recipes.sgd(), seed) for seed in (0, 0, 0, 1)]
            trial = Stacked(task, members, width=2)
            require_equal(trial, Single(task, members), first(task.splits.validation))
            trial.step()
    except Exception as error:  # whatever a model does that vmap cannot take
        why = str(error).split("\n")[0].split(". ")[0] or type(error).__name__
        return "single", f"members run one by one: the model does not stack ({why.rstrip('.')})."
    return "stacked", ""


def first(data: Dataset[Any]) -> Dataset[Any]:
    """A few samples, which tell outputs apart as well as all do."""
    return Subset(data, range(min(TRIED, len(data))))  # type: ignore[arg-type]


def require_equal(stacked: Stacked, single: Single, data: Dataset[Any]) -> None:
    """ValueError where members of a stack give other outputs than alone: a model may keep tensors
    that are no parameters or buffers.
    """
    for (made, _), (alone, _) in zip(stacked.outputs(data), single.outputs(data), strict=True):
        for one, other in zip(tree_leaves(made), tree_leaves(alone), strict=True):
            if (one - other).double().norm() > 1e-2 * other.double().norm():
                raise ValueError("its outputs differ from those alone")


def populate(
    task: Task, members: Sequence[Member], width: int, way: Way | None = None
) -> Population:
    """The members, ready to be trained from their initial weights; a lone one as a plain model.

    way: stacked where that is possible, if not given.
    """
    chosen = "single" if len(members) == 1 else way or way_of(task)[0]
    if chosen == "single":
        return Single(task, members)
    return (Compiled if chosen == "compiled" else Stacked)(task, members, width)
