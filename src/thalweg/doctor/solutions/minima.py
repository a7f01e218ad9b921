"""The solutions of different seeds: how similar they are, and which one generalises best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

from thalweg.arguments import require_whole
from thalweg.doctor.solutions.between import Between, between
from thalweg.doctor.solutions.matching import Weights, matched
from thalweg.errors import UserError
from thalweg.random_numbers import drawing
from thalweg.recipes import AnyRecipe, recipe_of
from thalweg.stack.member import Member
from thalweg.stack.population import Population, initial_model
from thalweg.stack.way import populate
from thalweg.statistics import Interval, median_interval
from thalweg.tasks.check import check
from thalweg.tasks.find import find
from thalweg.tasks.task import Task
from thalweg.tasks.user_code import failure_in_training
from thalweg.training.learn import learn, scores

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Solution:
    """The solution of one seed: its score on each split, and the state that evaluation uses."""

    seed: int
    scores: Mapping[Split, float]
    state: Weights = field(repr=False, compare=False)


@dataclass(frozen=True)
class Pair:
    """Two solutions, compared as they are and after their hidden units were matched.

    matched: the second solution's units stand in the order of the first's; None where it is not
    known which units can change places.
    """

    seeds: tuple[int, int]
    plain: Between
    matched: Between | None


@dataclass(frozen=True)
class Minima:
    """The solutions of a task by one recipe.

    direction: whether a small or a large metric is better. diverged: the seeds that have no
    solution because they diverged.
    """

    solutions: tuple[Solution, ...]
    pairs: tuple[Pair, ...]
    direction: Literal["min", "max"]
    diverged: tuple[int, ...]

    def best(self, split: Split) -> int:
        """The seed with the best score on a split."""
        sign = 1 if self.direction == "min" else -1
        return min(self.solutions, key=lambda solution: sign * solution.scores[split]).seed

    @property
    def best_trained_is_best_tested(self) -> bool:
        """Whether the best solution on training data is also the best on test data."""
        return self.best("train") == self.best("test")

    def spread(self, split: Split) -> Interval:
        """The median score and its 95 % interval, which is infinite for fewer than 6 seeds."""
        return median_interval([s.scores[split] for s in self.solutions], self.direction)


def minima(task: Task | str, recipe: AnyRecipe, *, seeds: int = 4, points: int = 11) -> Minima:
    """Trains a task from several seeds and compares their solutions.

    Different weights can stand for the same function, because hidden units can change places. So
    distance, angle and barrier are given before matching and, where it is defined, after it
    (`matched`). The scores on test data describe the solutions; do not choose by them.

    task, recipe: as for `train`. seeds: the number of seeds 0, 1, ..., at least 2. points: the
    number of points on each line, as for `between`. Cost: a training for each seed, and twice
    `points` passes over the training data for each pair. Raises UserError as `train` does, and
    where fewer than two seeds train to the end.
    """
    task, recipe = find(task), recipe_of(recipe)
    seeds = require_whole("seeds", seeds, 2)
    points = require_whole("points", points, 3)
    check(task)
    members = [Member(recipe, seed) for seed in range(seeds)]
    with failure_in_training(task), drawing(0):
        population = populate(task, members, width=seeds)
        learn(task, population)
        solutions = solutions_of(task, population)
    if len(solutions) < 2:
        raise UserError(
            f"only {len(solutions)} of {seeds} seeds trained to the end; two are needed."
        )
    pairs = tuple(pair(task, one, other, points) for one, other in combinations(solutions, 2))
    ended = {solution.seed for solution in solutions}
    diverged = tuple(seed for seed in range(seeds) if seed not in ended)
    return Minima(solutions, pairs, task.better, diverged)


def solutions_of(task: Task, population: Population) -> tuple[Solution, ...]:
    """The solutions of the members that have not diverged."""
    told = {split: scores(population, getattr(task.splits, split)) for split in SPLITS}
    with population.evaluation():
        return tuple(
            Solution(
                member.seed,
                {split: told[split][place][task.metric_name] for split in SPLITS},
                population.state_dict(place),
            )
            for place, member in enumerate(population.members)
            if population.diverged[place] is None
        )


def pair(task: Task, one: Solution, other: Solution, points: int) -> Pair:
    plain = between(task, one.state, other.state, points=points)
    try:
        ordered = matched(initial_model(task, 0), other.state, one.state)
    except UserError:
        return Pair((one.seed, other.seed), plain, None)
    return Pair((one.seed, other.seed), plain, between(task, one.state, ordered, points=points))
