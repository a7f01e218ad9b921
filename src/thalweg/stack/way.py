"""How members are stepped: one by one, stacked, or stacked and compiled."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, get_args

from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset, Subset

from thalweg import recipes
from thalweg.random_numbers import drawing
from thalweg.stack.carried import carried, differ
from thalweg.stack.compiled import Compiled
from thalweg.stack.member import Member
from thalweg.stack.population import Population, initial_model
from thalweg.stack.reasons import UnstackableError, reason
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

    Tried for one step, on two members that share their batches and two that do not; all random
    numbers stay as they are.
    """
    try:
        require_stackable(task)
    except Exception as error:  # whatever a model does that vmap cannot take
        why = reason(error)
    else:
        return "stacked", ""
    return "single", f"members run one by one: {why}."


def require_stackable(task: Task) -> None:
    for module in initial_model(task, seed=0).modules():
        if isinstance(module, nn.RNNBase):
            raise UnstackableError(f"nn.{type(module).__name__} takes one member at a time")
    if found := carried(task):
        raise UnstackableError(found)
    with drawing(0):
        members = [Member(recipes.sgd(), seed) for seed in (0, 0, 0, 1)]
        trial = Stacked(task, members, width=2)
        require_equal(trial, Single(task, members), first(task.splits.validation))
        trial.step()


def first(data: Dataset[Any]) -> Dataset[Any]:
    """A few samples, which tell outputs apart as well as all do."""
    return Subset(data, range(min(TRIED, len(data))))  # type: ignore[arg-type]


def require_equal(stacked: Stacked, single: Single, data: Dataset[Any]) -> None:
    """UnstackableError where members of a stack give other outputs than alone.

    Where these are drawn at random, and others than alone, there is nothing to compare.
    """
    for (made, _), (alone, _) in zip(stacked.outputs(data), single.outputs(data), strict=True):
        for one, other in zip(tree_leaves(made), tree_leaves(alone), strict=True):
            if stacked.draws_as_alone and differ(one, other, 1e-2):
                raise UnstackableError(
                    "the model gives other outputs in a stack; it may keep tensors that are neither"
                    " parameters nor buffers"
                )


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
