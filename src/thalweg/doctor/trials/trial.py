"""Trials: does a remedy help, from the state where the trouble begins?"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from statistics import median
from typing import Any, cast

from torch import nn

from thalweg.random_numbers import drawing
from thalweg.recipe import Recipe
from thalweg.stack.batches import copied, in_order, length_of
from thalweg.stack.checkpoint import Checkpoint
from thalweg.stack.member import Member
from thalweg.stack.reading import Batch
from thalweg.stack.single import Single
from thalweg.stack.way import Way, populate
from thalweg.statistics import Comparison, compare
from thalweg.tasks.failure import failure_as_sentence
from thalweg.tasks.task import Task
from thalweg.tasks.user_code import failure_in_training
from thalweg.training.learn import learn, scores

SEEDS = 8
FIRST_SEED = 10_000
"""The first seed of the data's order after a state: no run that is watched has it."""

ALL_SEEDS = range(FIRST_SEED, FIRST_SEED + SEEDS)
FEW = 3
"""The number of seeds after which a remedy that was not better on each cannot win any more."""

LEVEL = 0.005
"""The one-sided level of a comparison, at which all of 8 seeds must agree."""

MATERIAL = 0.05
"""A remedy helps where it is better beyond chance and by this share of the whole descent, which is
a convention."""


@dataclass(frozen=True)
class Remedy:
    """Something to try: another recipe, another model, or a shuffle.

    words: its name. recipe: makes the recipe from the one in use. model: makes the model from a
    fresh one; training then starts anew. shuffled: whether the samples come in a random order,
    while they keep their order without the remedy.
    """

    words: str
    recipe: Callable[[Recipe], Recipe] = lambda recipe: recipe
    model: Callable[[nn.Module], nn.Module] | None = None
    shuffled: bool = False


@dataclass(frozen=True)
class Trial:
    """A remedy against going on as it was, over paired seeds.

    words: the remedy's name. without, with_it: the scores at the end by seed, in the task's metric;
    nan where training diverged. They are fewer where the remedy was not better on each of the first
    seeds. gain: by how much the remedy is better. ways: without and with it, the descent from the
    score before any training to the median score at the end, in the metric. whole: the largest
    descent of any trial, or that to the task's target if it is larger. since: the step at which the
    trial began. steps: the number of its steps.
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
        """The part of the whole descent that is missed without the remedy, from 0 to 1."""
        without, with_it = self.ways
        if not (with_it > 0 and self.whole > 0):
            return 0.0
        return min(1.0, max(0.0, (with_it - without) / self.whole))

    @property
    def helps(self) -> bool:
        """Whether it is better on every seed, and by a twentieth of the whole descent or more."""
        return self.gain.better and self.share >= MATERIAL


@dataclass(frozen=True, eq=False)
class Branch:
    """One training of a trial, which goes on from a state or starts anew.

    ordered: whether the samples keep the order that they have in the data.
    """

    task: Task
    recipe: Recipe
    state: Checkpoint | None = None
    ordered: bool = False


class Trials:
    """Trials of remedies for one training.

    Members with and without a remedy go on from a state in one stack, on the same next batches,
    over 8 seeds of their order. The score is the task's metric on validation data at the end. With
    a remedy that makes another model, both sides start anew. The side without a remedy is trained
    once for each state, for all remedies together.

    start: the score before any training. most: the most steps of a trial; to the end of the task's
    budget if not given.
    """

    def __init__(self, task: Task, recipe: Recipe, start: float, most: int | None = None) -> None:
        self.task, self.recipe, self.start, self.most = task, recipe, start, most
        self.begun = ending_at(task, 0, most)
        self.anew = Branch(self.begun, recipe)
        self.from_states: dict[Checkpoint, Branch] = {}
        self.ends: defaultdict[Branch, list[float]] = defaultdict(list)

    def of(self, remedies: Sequence[Remedy], state: Checkpoint) -> list[Trial]:
        """Tries remedies from a state."""
        going_on = self.going_on(state)
        pairs = {remedy: self.pair(remedy, going_on) for remedy in remedies}
        left = list(pairs.values())
        for seeds in (FEW, SEEDS):
            self.train({branch: None for pair in left for branch in pair}, seeds)
            left = [pair for pair in left if self.better_so_far(*pair)]
        return [self.trial(remedy, *pair) for remedy, pair in pairs.items()]

    def going_on(self, state: Checkpoint) -> Branch:
        """The branch without a remedy, from a state."""
        if state not in self.from_states:
            here = ending_at(self.task, state.steps, self.most)
            self.from_states[state] = Branch(here, self.recipe, state)
        return self.from_states[state]

    def pair(self, remedy: Remedy, going_on: Branch) -> tuple[Branch, Branch]:
        """The branches without the remedy and with it."""
        if remedy.shuffled:
            return replace(going_on, ordered=True), going_on
        if remedy.model:
            model = partial(remade, self.task.fresh_model, remedy.model)
            return self.anew, Branch(replace(self.begun, model=model), self.recipe)
        return going_on, replace(going_on, recipe=remedy.recipe(self.recipe))

    def train(self, branches: Iterable[Branch], seeds: int) -> None:
        """Trains branches until each has its scores for this number of seeds, in few stacks."""
        stacks: defaultdict[Any, list[Branch]] = defaultdict(list)
        for branch in branches:
            stacks[branch.task, branch.state, branch.ordered, len(self.ends[branch])].append(branch)
        for (*_, done), stack in stacks.items():
            wanted = ALL_SEEDS[done:seeds]
            scored = iter(ending(stack, wanted) if wanted else ())
            for branch in stack:
                self.ends[branch] += islice(scored, len(wanted))

    def better_so_far(self, without: Branch, with_it: Branch) -> bool:
        """Whether a remedy is better on every seed; if not, it cannot be better beyond chance."""
        pairs = zip(self.ends[without], self.ends[with_it], strict=False)
        return all(down(self.task, 0.0, new) > down(self.task, 0.0, old) for old, new in pairs)

    def trial(self, remedy: Remedy, without: Branch, with_it: Branch) -> Trial:
        task, new = with_it.task, tuple(self.ends[with_it])
        old = tuple(self.ends[without][: len(new)])
        gained = compare(new, old, task.better, LEVEL)
        one, other = (median(down(task, self.start, end) for end in ends) for ends in (old, new))
        since = with_it.state.steps if with_it.state else 0
        steps = task.total_steps(length_of(task)) - since
        target = 0.0 if task.target is None else down(task, self.start, task.target)
        whole = max(one, other, target)
        return Trial(remedy.words, old, new, gained, (one, other), whole, since=since, steps=steps)


def ending_at(task: Task, since: int, most: int | None) -> Task:
    """The task with a budget that ends at `most` steps after a step, if not before."""
    whole = task.total_steps(length_of(task))
    return task if most is None else replace(task, epochs=None, steps=min(whole, since + most))


def remade(model: Callable[[], nn.Module], change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    with failure_as_sentence("The model cannot be changed as prescribed"):
        return change(model())


def ending(stack: Sequence[Branch], seeds: Sequence[int]) -> list[float]:
    """The scores of branches at their end; they differ in their recipes only, and train at once."""
    task, state, ordered = stack[0].task, stack[0].state, stack[0].ordered
    members = [Member(branch.recipe, seed) for branch in stack for seed in seeds]
    with failure_in_training(task), drawing(seeds[0]):
        way: Way | None = "single" if ordered else None
        population = populate(task, members, len(members), way)
        if state:
            population.begin(state)
        if ordered:
            cast("Single", population).batches = in_their_order(task, len(members))
        learn(task, population)
        scored = scores(population, task.splits.validation)
    return [own.get(task.metric_name, math.nan) for own in scored]


def in_their_order(task: Task, members: int) -> Iterator[list[Batch]]:
    """The batches in the order of the data, over and over; each member begins at another place."""
    batches = list(in_order(task.splits.train, task.batch_size))
    begins = [place * len(batches) // members for place in range(members)]
    for step in count():
        yield [copied(batches[(begin + step) % len(batches)]) for begin in begins]


def down(task: Task, start: float, end: float) -> float:
    """The descent from a score to another; minus infinity where training diverged."""
    if math.isnan(end):
        return -math.inf
    return start - end if task.better == "min" else end - start


def on_one_scale(done: Sequence[Sequence[Trial]]) -> list[list[Trial]]:
    """Trials of one training, all held against the largest descent of any of them.

    A remedy that helps little beside another one then counts as little.
    """
    whole = max((trial.whole for own in done for trial in own), default=0.0)
    return [[replace(trial, whole=whole) for trial in own] for own in done]
