"""Trials: does the advice help, from the very state where the trouble is?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle
from statistics import median
from typing import Any, cast

from torch import nn

from thalweg.recipes import Recipe
from thalweg.stack.batches import in_order, length_of
from thalweg.stack.member import Member
from thalweg.stack.rows import Tensors
from thalweg.stack.single import Single
from thalweg.stack.way import Way, populate
from thalweg.statistics import Comparison, compare
from thalweg.tasks.check import failure_as_sentence, failure_in_training
from thalweg.tasks.task import Task
from thalweg.training.files import optimizer_states
from thalweg.training.train import learn, own_random_state, scores

SEEDS = 8
FIRST_SEED = 10_000
"""Of the data's order behind a state: one that no run has that is looked at."""

LEVEL = 0.005
"""One-sided: of 8 seeds all must agree."""

MATERIAL = 0.05
"""A remedy helps where it is better beyond chance, and by so much of the way down: a convention."""


@dataclass(frozen=True)
class Remedy:
    """Something to try, in `words`: another recipe, another model, or a shuffle.

    recipe: makes it from the one in use. model: makes it from a fresh one, and then training starts
    anew. shuffled: the samples in a random order, where those without it keep the order they have.
    """

    words: str
    recipe: Callable[[Recipe], Recipe] = lambda recipe: recipe
    model: Callable[[nn.Module], nn.Module] | None = None
    shuffled: bool = False


@dataclass(frozen=True)
class State:
    """What a training's next steps depend on: weights and buffers, optimizer, schedules."""

    steps: int
    weights: Tensors
    states: Tensors = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """A remedy against going on as it was, over paired seeds.

    words: the remedy. without, with_it: the scores at the end by seed, in the task's metric; nan
    where training diverged. gain: by how much the remedy is better. share: of the way down from
    `start`, the score before any training, how much is missed without it, by the medians. since:
    the step at which the trial began; steps: how many it went on.
    """

    words: str
    without: tuple[float, ...]
    with_it: tuple[float, ...]
    gain: Comparison
    share: float
    since: int
    steps: int

    @property
    def helps(self) -> bool:
        """Whether it is better on every seed, and by a twentieth of the way down or more."""
        return self.gain.better and self.share >= MATERIAL


def state_of(alone: Single) -> State:
    """Where a lone training stands."""
    memory = dict(alone.optimizers[0].param_groups[0]["memory"])
    return State(alone.steps, alone.state_dict(0), optimizer_states(alone), memory)


def trials(
    task: Task, recipe: Recipe, remedies: Sequence[Remedy], state: State, start: float
) -> list[Trial]:
    """Tries remedies over the rest of the task's budget.

    From the state, members with and without a remedy go on, on the same next batches, over 8 seeds
    of their order, in one stack; the score is the task's metric on validation data at the end. A
    remedy that makes another model starts anew, and so do those that it is held against.

    start: the score before any training.
    """
    ends: dict[Remedy, tuple[list[float], list[float]]] = {}
    here = replace(task, model=partial(standing, task.model, state.weights))
    going_on = [remedy for remedy in remedies if not (remedy.model or remedy.shuffled)]
    if going_on:
        recipes = [recipe, *(remedy.recipe(recipe) for remedy in going_on)]
        without, *others = endings(here, recipes, state)
        ends |= {one: (without, own) for one, own in zip(going_on, others, strict=True)}
    anew = {remedy: remedy.model for remedy in remedies if remedy.model}
    if anew:
        (without,) = endings(task, [recipe], None)
        for remedy, change in anew.items():
            changed = replace(task, model=partial(remade, task.model, change))
            (with_it,) = endings(changed, [recipe], None)
            ends[remedy] = without, with_it
    for remedy in remedies:
        if remedy.shuffled:
            (without,) = endings(here, [recipe], state, ordered=True)
            (with_it,) = endings(here, [recipe], state)
            ends[remedy] = without, with_it
    return [
        judged(task, remedy, *ends[remedy], start, 0 if remedy.model else state.steps)
        for remedy in remedies
    ]


def standing(model: Callable[[], nn.Module], weights: Tensors) -> nn.Module:
    made = model()
    made.load_state_dict(weights)
    return made


def remade(model: Callable[[], nn.Module], change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    with failure_as_sentence("The model cannot be changed as prescribed"):
        return change(model())


def endings(
    task: Task, recipes: Sequence[Recipe], state: State | None, *, ordered: bool = False
) -> list[list[float]]:
    """The score at the end of the budget of each recipe, by seed, from a state or from the start.

    ordered: the samples keep the order that they have in the data.
    """
    seeds = range(FIRST_SEED, FIRST_SEED + SEEDS)
    members = [Member(recipe, seed) for recipe in recipes for seed in seeds]
    with failure_in_training(task), own_random_state(FIRST_SEED):
        way: Way | None = "single" if ordered else None
        population = populate(task, members, len(members), way)
        if state:
            population.begin(state.steps, state.states, state.memory)
        if ordered:
            keep_order(cast("Single", population))
        learn(task, population)
        scored = scores(population, task.splits.validation)
    ends = [own.get(task.metric_name, math.nan) for own in scored]
    return [ends[i : i + SEEDS] for i in range(0, len(ends), SEEDS)]


def keep_order(alone: Single) -> None:
    """Gives every member the samples in the order of the data, each beginning elsewhere."""
    batches = list(in_order(alone.task.splits.train, alone.task.batch_size))
    for place in range(len(alone.members)):
        begin = place * len(batches) // len(alone.members)
        alone.batches[place] = cycle(batches[begin:] + batches[:begin])  # type: ignore[call-overload]


def judged(
    task: Task,
    remedy: Remedy,
    without: Sequence[float],
    with_it: Sequence[float],
    start: float,
    since: int,
) -> Trial:
    return Trial(
        remedy.words,
        tuple(without),
        tuple(with_it),
        compare(with_it, without, task.direction, LEVEL),
        missed(task, start, without, with_it),
        since,
        task.total_steps(length_of(task)) - since,
    )


def missed(task: Task, start: float, without: Sequence[float], with_it: Sequence[float]) -> float:
    """The share of the way down with a remedy that is missed without it, by the medians; from 0.

    1 where it leads nowhere without, or mostly diverges.
    """
    way, whole = (
        median(-math.inf if math.isnan(end) else sign(task) * (start - end) for end in ends)
        for ends in (without, with_it)
    )
    return min(1.0, max(0.0, 1 - way / whole)) if whole > 0 else 0.0


def sign(task: Task) -> int:
    return 1 if task.direction == "min" else -1
