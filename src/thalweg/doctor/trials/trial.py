"""A trial: members train with and without a remedy, from the state before the first sign."""

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
from thalweg.stack.batches import in_order, length_of
from thalweg.stack.checkpoint import Checkpoint
from thalweg.stack.member import Member
from thalweg.stack.single import Single
from thalweg.stack.way import Way, populate
from thalweg.statistics import Comparison, compare
from thalweg.tasks.failure import failure_as_sentence
from thalweg.tasks.forms import Batch, copied
from thalweg.tasks.task import Task
from thalweg.tasks.user_code import failure_in_training
from thalweg.training.learn import learn, scores

SEEDS = 8
FIRST_SEED = 10_000
"""The first seed of the order of the data in trials. A training that is watched has another one."""

ALL_SEEDS = range(FIRST_SEED, FIRST_SEED + SEEDS)
FEW = 3
"""After this number of seeds, a remedy is given up if it was not better on each of them."""

LEVEL = 0.005
"""The one-sided level of a comparison. At this level a remedy must be better on all 8 seeds."""

MATERIAL = 0.05
"""A remedy helps if it is better beyond chance, and by this share of the whole descent. The share
is a convention."""


@dataclass(frozen=True)
class Remedy:
    """A change to try: another recipe, another model, or samples in random order.

    words: the name of the remedy. recipe: changes the recipe in use. model: changes a fresh model;
    training then starts anew. shuffled: whether the remedy is a random order of the samples; the
    members without the remedy then take the samples in the order of the data.
    """

    words: str
    recipe: Callable[[Recipe], Recipe] = lambda recipe: recipe
    model: Callable[[nn.Module], nn.Module] | None = None
    shuffled: bool = False


@dataclass(frozen=True)
class Trial:
    """Training with a remedy, compared with training without it, over paired seeds.

    words: the name of the remedy. without, with_it: the final scores by seed, in the task's metric;
    nan where training diverged. There are fewer of them if the remedy was not better on each of the
    first seeds. gain: by how much the remedy is better. descents: without and with the remedy, how
    far the score falls from the one before any training to the final median. whole: the largest
    descent of any trial, or the descent to the task's target if that is larger. since: the step at
    which the trial began. steps: the number of its steps.
    """

    words: str
    without: tuple[float, ...]
    with_it: tuple[float, ...]
    gain: Comparison
    descents: tuple[float, float]
    whole: float
    since: int
    steps: int

    @property
    def share(self) -> float:
        """The part of the whole descent that training misses without the remedy, from 0 to 1."""
        without, with_it = self.descents
        if not (with_it > 0 and self.whole > 0):
            return 0.0
        return min(1.0, max(0.0, (with_it - without) / self.whole))

    @property
    def helps(self) -> bool:
        """Whether the remedy is better beyond chance, and by a twentieth of the whole descent."""
        return self.gain.better and self.share >= MATERIAL


@dataclass(frozen=True, eq=False)
class Branch:
    """One training of a trial, which goes on from a state or starts anew.

    ordered: whether the samples come in the order that they have in the data.
    """

    task: Task
    recipe: Recipe
    state: Checkpoint | None = None
    ordered: bool = False


class Trials:
    """Trials of remedies for one training.

    Members with and without a remedy go on from one state, in one stack. They take the same
    batches, whose order differs between 8 seeds. The score is the task's metric on validation data
    at the end. If a remedy changes the model, both sides start anew. The side without a remedy is
    trained once for each state, and serves all remedies.

    start: the score before any training. most: the most steps of a trial; if None, trials end with
    the task's budget.
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
        """Trains branches until each has scores for this number of seeds, in few stacks."""
        stacks: defaultdict[Any, list[Branch]] = defaultdict(list)
        for branch in branches:
            stacks[branch.task, branch.state, branch.ordered, len(self.ends[branch])].append(branch)
        for (*_, done), stack in stacks.items():
            wanted = ALL_SEEDS[done:seeds]
            scored = iter(ending(stack, wanted) if wanted else ())
            for branch in stack:
                self.ends[branch] += islice(scored, len(wanted))

    def better_so_far(self, without: Branch, with_it: Branch) -> bool:
        """Whether a remedy was better on every seed so far. If not, it cannot win beyond chance."""
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
        return Trial(
            remedy.words,
            without=old,
            with_it=new,
            gain=gained,
            descents=(one, other),
            whole=whole,
            since=since,
            steps=steps,
        )


def ending_at(task: Task, since: int, most: int | None) -> Task:
    """The task with a budget that ends no later than `most` steps after the step `since`."""
    whole = task.total_steps(length_of(task))
    return task if most is None else replace(task, epochs=None, steps=min(whole, since + most))


def remade(model: Callable[[], nn.Module], change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    with failure_as_sentence("The model cannot be changed as prescribed"):
        return change(model())


def ending(stack: Sequence[Branch], seeds: Sequence[int]) -> list[float]:
    """Trains branches that differ only in their recipes, all at once. Returns the final scores."""
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
    """The batches of all members in the order of the data. Each member begins at another place."""
    batches = list(in_order(task.splits.train, task.samples_per_step))
    begins = [place * len(batches) // members for place in range(members)]
    for step in count():
        yield [copied(batches[(begin + step) % len(batches)]) for begin in begins]


def down(task: Task, start: float, end: float) -> float:
    """The descent from one score to another; minus infinity where training diverged."""
    if math.isnan(end):
        return -math.inf
    return start - end if task.better == "min" else end - start


def on_one_scale(done: Sequence[Sequence[Trial]]) -> list[list[Trial]]:
    """The trials of one training with a common `whole`, the largest descent of any of them.

    A remedy that helps much less than another one then counts as a small help.
    """
    whole = max((trial.whole for own in done for trial in own), default=0.0)
    return [[replace(trial, whole=whole) for trial in own] for own in done]
