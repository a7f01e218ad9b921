"""The training loop, for a population of one member or of many."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch.utils.data import Dataset

from thalweg.errors import UserError
from thalweg.stack.batches import length_of
from thalweg.stack.population import Population
from thalweg.tasks.task import Task
from thalweg.training.run import Evaluation

EVALUATIONS = 15
"""The number of evaluations in a run. They are spread evenly, and the last is at the end."""

AfterStep = Callable[[int, int], None]
"""`watch(step, alive)` is called after every step; alive: the members that have not diverged."""


def learn(
    task: Task,
    population: Population,
    stepped: Callable[[int, Sequence[float]], None] = lambda *_: None,
    enough: Callable[[list[list[Evaluation]]], bool] | None = None,
    begun: list[list[Evaluation]] | None = None,
    before: int = 0,
) -> list[list[Evaluation]]:
    """Trains a population through the budget. Returns each member's learning curve, by place.

    stepped: is called after every step with its number and the losses by place. enough: is called
    with the curves after every evaluation, and ends the training early if it returns true. begun:
    the curves so far of a population that goes on. before: the number of steps of earlier stages;
    step numbers are counted from there on.
    """
    steps = steps_of(population)
    marks = evaluation_steps(steps)
    curves = begun or [[] for _ in population.members]
    losses: list[list[float]] = []
    for step in range(population.steps + 1, steps + 1):
        losses.append(population.step())
        stepped(before + step, losses[-1])
        if all(population.diverged):
            break
        if step in marks:
            evaluate(task, population, step=before + step, losses=losses, curves=curves)
            losses = []
            if enough is not None and enough(curves):
                break
    return curves


def steps_of(population: Population) -> int:
    """The number of steps for which the task's budget of gradient evaluations is enough."""
    task = population.task
    return task.total_steps(length_of(task)) // population.accumulate


def epochs_of(population: Population) -> Fraction:
    """How often the steps of the budget go through the training data."""
    task, batches = population.task, steps_of(population) * population.accumulate
    return Fraction(batches, task.steps_per_epoch(length_of(task)))


def evaluation_steps(steps: int) -> set[int]:
    """The steps after which a run is evaluated. A short run is evaluated after every step."""
    count = min(steps, EVALUATIONS)
    return {math.ceil(steps * (i + 1) / count) for i in range(count)}


def evaluate(
    task: Task,
    population: Population,
    step: int,
    losses: list[list[float]],
    curves: list[list[Evaluation]],
) -> None:
    """Adds a point to the curve of every member that has not diverged."""
    training = [sum(column) / len(column) for column in zip(*losses, strict=True)]
    validation = scores(population, task.splits.validation)
    metrics = [scored.get(task.metric_name, math.nan) for scored in validation]
    population.observe(training, metrics)
    for place, scored in enumerate(validation):
        if scored:
            also = {name: scored[name] for name in task.also}
            curves[place].append(Evaluation(step, training[place], metrics[place], also))


def scores(population: Population, dataset: Dataset[Any]) -> list[Mapping[str, float]]:
    """Each member's metrics over a data set, by place, with the parameters that evaluation uses.

    A member that has diverged has none.
    """
    with torch.no_grad(), population.evaluation():
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
