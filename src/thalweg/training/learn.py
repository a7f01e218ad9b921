"""The training loop, for a population of one member or of many."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from torch.utils.data import Dataset

from thalweg.errors import UserError
from thalweg.stack.batches import length_of
from thalweg.stack.population import Population
from thalweg.tasks.task import Task
from thalweg.training.run import Evaluation

AfterStep = Callable[[int, int], None]
"""`watch(step, alive)` is called after every step; alive: the members that have not diverged."""


@dataclass
class Learned:
    """The progress of a population.

    curves: each member's learning curve, by place. losses: the losses by place of each step since
    the last evaluation.
    """

    curves: list[list[Evaluation]]
    losses: list[list[float]] = field(default_factory=list)


def learn(
    task: Task,
    population: Population,
    stepped: Callable[[int, Sequence[float]], None] = lambda *_: None,
    enough: Callable[[list[list[Evaluation]]], bool] | None = None,
    begun: Learned | None = None,
    before: int = 0,
    save: Callable[[Learned], None] | None = None,
) -> list[list[Evaluation]]:
    """Trains a population through the budget. Returns each member's learning curve, by place.

    stepped: is called after every step with its number and the losses by place. enough: is called
    with the curves after every evaluation, and ends the training early if it returns true. begun:
    the progress of a population that goes on. before: the number of steps of earlier stages; step
    numbers are counted from there on. save: is called with the progress between steps.
    """
    steps = steps_of(population)
    marks = evaluation_steps(steps, task.evaluations)
    learned = begun or Learned([[] for _ in population.members])
    while population.steps < steps:
        last = population.steps
        learned.losses.append(population.step())
        step = min(population.steps, steps)
        stepped(before + step, learned.losses[-1])
        if all(population.diverged):
            break
        if any(last < mark <= step for mark in marks):
            evaluate(task, population, before + step, learned)
            if enough is not None and enough(learned.curves):
                break
        if save is not None:
            save(learned)
    return learned.curves


def steps_of(population: Population) -> int:
    """The number of steps for which the task's budget of gradient evaluations is enough."""
    task = population.task
    return task.total_steps(length_of(task)) // population.accumulate


def epochs_of(population: Population) -> Fraction:
    """How often the steps of the budget go through the training data."""
    task, batches = population.task, steps_of(population) * population.accumulate
    return Fraction(batches, task.steps_per_epoch(length_of(task)))


def evaluation_steps(steps: int, evaluations: int) -> set[int]:
    """The steps after which a run is evaluated: evenly spread, the last at the end.

    A short run is evaluated after every step.
    """
    count = min(steps, evaluations)
    return {math.ceil(steps * (i + 1) / count) for i in range(count)}


def evaluate(task: Task, population: Population, step: int, learned: Learned) -> None:
    """Adds a point to the curve of every member that has not diverged."""
    training = [sum(column) / len(column) for column in zip(*learned.losses, strict=True)]
    learned.losses = []
    validation = scores(population, task.splits.validation)
    metrics = [scored.get(task.metric_name, math.nan) for scored in validation]
    population.observe(training, metrics)
    for place, scored in enumerate(validation):
        if scored:
            also = {name: scored[name] for name in task.also}
            learned.curves[place].append(Evaluation(step, training[place], metrics[place], also))


def scores(population: Population, dataset: Dataset[Any]) -> list[Mapping[str, float]]:
    """Each member's metrics over a data set, by place, with the parameters that evaluation uses.

    A member that has diverged has none.
    """
    with population.task.evaluating(), population.evaluation():
        found = population.scores(dataset)
    return [{} if d else scored for scored, d in zip(found, population.diverged, strict=True)]


def require_finite(task: Task, alone: Population) -> None:
    """Raises UserError if a population of one member has diverged."""
    (member,), (divergence,) = alone.members, alone.diverged
    if divergence:
        raise UserError(
            f"training of {task.name} with {member.recipe.name} diverged at step "
            f"{divergence.step}: {divergence.reason}; a smaller lr or clipping may help."
        )
