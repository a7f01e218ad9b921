"""Trials: does the advice help, from the very state where the trouble is?"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from thalweg.stack.states import optimizer_states
from thalweg.stack.way import Way, populate
from thalweg.statistics import Comparison, compare
from thalweg.tasks.check import failure_as_sentence, failure_in_training
from thalweg.tasks.task import Task
from thalweg.training.learn import learn, own_random_state, scores

SEEDS = 8
FIRST_SEED = 10_000
"""Of the data's order behind a state: one that no run has that is looked at."""

ALL_SEEDS = range(FIRST_SEED, FIRST_SEED + SEEDS)
FEW = 3
"""Seeds after which a remedy that was not better on each is given up: it cannot win any more."""

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
    where training diverged. A remedy that is not better on each of the first seeds is given up
    there. gain: by how much the remedy is better. ways: how far down the medians of both came from
    the score before any training, in the metric. whole: the longest way that any trial has come, or
    that to the task's target where it is longer. since: the step at which the trial began; steps:
    how many it went on.
    """

    words: str
    without: tuple[float, ...]
    with_it: tuple[float, ...]
    gain: Comparison
    ways: tuple[float, float]
    whole: float
    since: int
    steps: int

    @property
    def share(self) -> float:
        """Of the whole way, how much is missed without the remedy; from 0 to 1."""
        without, with_it = self.ways
        if not (with_it > 0 and self.whole > 0):
            return 0.0
        return min(1.0, max(0.0, (with_it - without) / self.whole))

    @property
    def helps(self) -> bool:
        """Whether it is better on every seed, and by a twentieth of the way down or more."""
        return self.gain.better and self.share >= MATERIAL


@dataclass(frozen=True, eq=False)
class Branch:
    """A way for a training to go on: from a state, or anew.

    ordered: the samples keep the order that they have in the data.
    """

    task: Task
    recipe: Recipe
    state: State | None = None
    ordered: bool = False


def state_of(alone: Single) -> State:
    """Where a lone training stands."""
    (model,), (optimizer,) = alone.models, alone.optimizers
    memory = dict(optimizer.param_groups[0]["memory"])
    return State(alone.steps, alone.state_dict(0), optimizer_states(model, optimizer), memory)


def trials(
    task: Task,
    recipe: Recipe,
    remedies: Sequence[Remedy],
    state: State,
    start: float,
    most: int | None = None,
) -> list[Trial]:
    """Tries remedies over the rest of the task's budget, or over so many steps at `most`.

    From the state, members with and without a remedy go on, on the same next batches, over 8 seeds
    of their order, in one stack; the score is the task's metric on validation data at the end. A
    remedy that makes another model starts anew, and so do those that it is held against.

    start: the score before any training.
    """
    begun = ending_at(task, 0, most)
    standing_here = partial(standing, task.model, state.weights)
    here = replace(ending_at(task, state.steps, most), model=standing_here)
    going_on, anew = Branch(here, recipe, state), Branch(begun, recipe)
    pairs = {}
    for remedy in remedies:
        if remedy.shuffled:
            pairs[remedy] = Branch(here, recipe, state, ordered=True), going_on
        elif remedy.model:
            changed = replace(begun, model=partial(remade, task.model, remedy.model))
            pairs[remedy] = anew, Branch(changed, recipe)
        else:
            pairs[remedy] = going_on, Branch(here, remedy.recipe(recipe), state)
    ends: defaultdict[Branch, list[float]] = defaultdict(list)
    left = list(pairs.values())
    for seeds in (ALL_SEEDS[:FEW], ALL_SEEDS[FEW:]):
        for branch, own in endings({one: None for pair in left for one in pair}, seeds):
            ends[branch] += own
        left = [pair for pair in left if better_so_far(task, *(ends[one] for one in pair))]
    return [
        trial_of(
            without.task,
            remedy,
            ends[without][: len(ends[with_it])],
            ends[with_it],
            start,
            0 if remedy.model else state.steps,
        )
        for remedy, (without, with_it) in pairs.items()
    ]


def ending_at(task: Task, since: int, most: int | None) -> Task:
    """The task with a budget that ends so many steps behind a step, if not before."""
    whole = task.total_steps(length_of(task))
    return task if most is None else replace(task, epochs=None, steps=min(whole, since + most))


def standing(model: Callable[[], nn.Module], weights: Tensors) -> nn.Module:
    made = model()
    made.load_state_dict(weights)
    return made


def remade(model: Callable[[], nn.Module], change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    with failure_as_sentence("The model cannot be changed as prescribed"):
        return change(model())


def endings(
    branches: Iterable[Branch], seeds: Sequence[int]
) -> Iterator[tuple[Branch, list[float]]]:
    """The score at the end of the budget of each branch, by seed."""
    stacks: defaultdict[Any, list[Branch]] = defaultdict(list)
    for branch in branches:
        stacks[branch.task, branch.ordered].append(branch)
    for stack in stacks.values():
        ends = ending(stack, seeds)
        for place, branch in enumerate(stack):
            yield branch, ends[place * len(seeds) : (place + 1) * len(seeds)]


def ending(stack: Sequence[Branch], seeds: Sequence[int]) -> list[float]:
    """Those of branches that differ in their recipes alone, which are trained at once."""
    task, state, ordered = stack[0].task, stack[0].state, stack[0].ordered
    members = [Member(branch.recipe, seed) for branch in stack for seed in seeds]
    with failure_in_training(task), own_random_state(seeds[0]):
        way: Way | None = "single" if ordered else None
        population = populate(task, members, len(members), way)
        if state:
            population.begin(state.steps, state.states, state.memory)
        if ordered:
            keep_order(cast("Single", population))
        learn(task, population)
        scored = scores(population, task.splits.validation)
    return [own.get(task.metric_name, math.nan) for own in scored]


def better_so_far(task: Task, without: Sequence[float], with_it: Sequence[float]) -> bool:
    """Whether a remedy is better on every seed; without that it cannot be better beyond chance."""
    pairs = zip(without, with_it, strict=True)
    return all(down(task, 0.0, new) > down(task, 0.0, old) for old, new in pairs)


def keep_order(alone: Single) -> None:
    """Gives every member the samples in the order of the data, each beginning elsewhere."""
    batches = list(in_order(alone.task.splits.train, alone.task.batch_size))
    count = len(alone.members)
    begins = [place * len(batches) // count for place in range(count)]
    each = [cycle(batches[begin:] + batches[:begin]) for begin in begins]
    alone.batches.each = lambda: [next(own) for own in each]  # type: ignore[method-assign]


def trial_of(
    task: Task,
    remedy: Remedy,
    without: Sequence[float],
    with_it: Sequence[float],
    start: float,
    since: int,
) -> Trial:
    gained = compare(with_it, without, task.direction, LEVEL)
    way, other = (median(down(task, start, end) for end in ends) for ends in (without, with_it))
    steps = task.total_steps(length_of(task)) - since
    whole = max(way, other, 0 if task.target is None else down(task, start, task.target))
    ends = tuple(without), tuple(with_it)
    return Trial(remedy.words, *ends, gained, (way, other), whole, since, steps)


def down(task: Task, start: float, end: float) -> float:
    """The way down from a score to another; of those that diverge none at all, endlessly so."""
    if math.isnan(end):
        return -math.inf
    return start - end if task.direction == "min" else end - start


def on_one_scale(done: Sequence[Sequence[Trial]]) -> list[list[Trial]]:
    """Trials of one training, all held against the longest way that any of them has come.

    What helps a little where nothing else helps is then little.
    """
    whole = max((trial.whole for own in done for trial in own), default=0.0)
    return [[replace(trial, whole=whole) for trial in own] for own in done]
