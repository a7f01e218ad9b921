"""Chooses the way in which members are stepped: one by one, stacked, or stacked and compiled."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, get_args

from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset, Subset

from thalweg import recipes
from thalweg.random_numbers import drawing
from thalweg.stack.compiled import Compiled
from thalweg.stack.hidden_state import differ, hidden_state
from thalweg.stack.member import Member
from thalweg.stack.population import Population, initial_model
from thalweg.stack.reasons import UnstackableError, reason
from thalweg.stack.single import Single
from thalweg.stack.stacked import Stacked
from thalweg.tasks.forms import Collated, collate_of
from thalweg.tasks.task import Task

Way = Literal["single", "stacked", "compiled"]
WAYS: tuple[Way, ...] = get_args(Way)

TRIED = 8
"""The number of samples on which the outputs of a stack and of single members are compared."""


# Only for the last task: a larger cache would keep the data of earlier tasks in memory.
@lru_cache(maxsize=1)
def way_of(task: Task) -> tuple[Way, str]:
    """The way for a task's members, "stacked" where that is possible, else "single" with a reason.

    It is found by a trial: a stack of four members, of which three have the same seed, takes one
    step. The states of random generators do not change.
    """
    try:
        require_stackable(task)
    except Exception as error:  # a model may do anything that vmap cannot
        why = reason(error)
    else:
        return "stacked", ""
    return "single", f"members run one by one: {why}."


def require_stackable(task: Task) -> None:
    for module in initial_model(task, seed=0).modules():
        if isinstance(module, nn.RNNBase):
            raise UnstackableError(f"nn.{type(module).__name__} takes one member at a time")
    if found := hidden_state(task):
        raise UnstackableError(found)
    with drawing(0):
        members = [Member(recipes.sgd(), seed) for seed in (0, 0, 0, 1)]
        trial = Stacked(task, members, width=2)
        require_equal(trial, Single(task, members), first(task.splits.validation))
        trial.step()


def first(data: Dataset[Any]) -> Dataset[Any]:
    """The first samples of a data set; a few are enough to compare outputs."""
    some = Subset(data, range(min(TRIED, len(data))))  # type: ignore[arg-type]
    return Collated(some, collate_of(data))


def require_equal(stacked: Stacked, single: Single, data: Dataset[Any]) -> None:
    """UnstackableError where members give other outputs in a stack than one by one.

    Nothing is compared where the outputs of the stack draw different random numbers.
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
    """The members as a population with initial weights. A single member is a plain model.

    way: the way to step them; None: stacked where that is possible.
    """
    alone = len(members) == 1 or any(member.recipe.foreign for member in members)
    chosen = "single" if alone else way or way_of(task)[0]
    if chosen == "single":
        return Single(task, members)
    return (Compiled if chosen == "compiled" else Stacked)(task, members, width)
