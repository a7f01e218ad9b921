"""The learning-rate range test: a rate "chosen by monitoring the first few iterations"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from thalweg.arguments import number, require_whole
from thalweg.errors import UserError
from thalweg.random_numbers import drawing
from thalweg.recipe import Recipe
from thalweg.recipes import AnyRecipe, recipe_of
from thalweg.stack.member import Member
from thalweg.stack.single import Single
from thalweg.stack.way import populate
from thalweg.tasks.check import check
from thalweg.tasks.find import find
from thalweg.tasks.groups import with_groups
from thalweg.tasks.task import Task
from thalweg.tasks.user_code import failure_in_training

FACTORS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""The rates that are tried, as multiples of the rate that the ramp suggests."""

HIGHER = (3.0, 10.0, 30.0, 100.0)
"""The further rates that are tried if the highest rate was the best, as multiples of that rate."""

SMOOTHING = 0.9
"""The weight of the past in the exponential average of the ramp's loss."""


@dataclass(frozen=True)
class LRRange:
    """The result of a range test.

    suggestion: the rate to begin with. lrs, losses: the ramp, which is the rate of each step and
    the smoothed training loss there, until training diverged or failed. tried: the final loss of
    each tried rate; infinite if training diverged or failed.
    """

    suggestion: float
    lrs: tuple[float, ...] = field(repr=False)
    losses: tuple[float, ...] = field(repr=False)
    tried: dict[float, float]


def lr_range(
    task: Task | str,
    recipe: AnyRecipe,
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    seeds: int = 2,
) -> LRRange:
    """Searches for the learning rate with which a recipe should begin a task.

    task: a task, or the name of one. recipe: a recipe, the name of an optimizer, or the path of a
    recipe file, `*.toml`. The result is the rate of its first chain, which `recipe.at_rate` sets;
    the rates of its routes keep their ratios to that rate.

    The rate grows from `low` to `high` over `steps` steps, by the same factor at each step. The
    rate with the lowest smoothed loss is about the largest rate that trains. The ramp does not show
    how far below it training should begin, so rates are tried: constant rates from 0.003 to 3 times
    this rate train for `steps` steps on `seeds` fresh seeds, in one stack. The rate with the lowest
    loss is suggested. If this is the highest tried rate, still higher rates are tried, up to
    `high`.

    Raises UserError unless 0 < low < high, for fewer than ten steps or more than a million, for
    more than 100 seeds, for a task that cannot be trained, if the first step diverges, and if no
    rate trains. Source of the ramp: Smith 2017 (cyclical learning rates).
    """
    low, high = number(low), number(high)
    if not 0 < low < high < math.inf:
        raise UserError("lr_range needs 0 < low < high, both finite.")
    steps = require_whole("steps", steps, 10, 1_000_000)
    seeds = require_whole("seeds", seeds, 1, 100)
    task, recipe = find(task), recipe_of(recipe)
    check(task)
    recipe = with_groups(task, recipe)
    with failure_in_training(task), drawing(0):
        lrs, losses = ramp(task, recipe, low=low, high=high, steps=steps)
        word = lrs[losses.index(min(losses))]
        tried = try_rates(
            task, recipe, [word * factor for factor in FACTORS], steps=steps, seeds=seeds
        )
        while (best := min(tried, key=tried.__getitem__)) == max(tried) and best < high:
            tried |= try_rates(
                task, recipe, [best * factor for factor in HIGHER], steps=steps, seeds=seeds
            )
    if math.isinf(tried[best]):
        raise UserError(
            f"no learning rate from {min(tried):.2g} to {max(tried):.2g} trains {task.name} with "
            f"{recipe.name}; try a lower low than {low:g}."
        )
    return LRRange(best, tuple(lrs), tuple(losses), tried)


def ramp(
    task: Task, recipe: Recipe, low: float, high: float, steps: int
) -> tuple[list[float], list[float]]:
    """Rates that grow from low to high, and the smoothed loss before the step at each rate."""
    alone = Single(task, [Member(recipe.at_rate(low), seed=0)])
    groups = [(group, group["lr"] / low) for group in alone.optimizers[0].param_groups]
    lrs: list[float] = []
    losses: list[float] = []
    smoothed = 0.0
    for i in range(steps):
        lr = low * (high / low) ** (i / (steps - 1))
        for group, factor in groups:
            group["lr"] = lr * factor
        try:
            (loss,) = alone.step()
        except Exception:
            if not losses:
                raise
            break
        (divergence,) = alone.diverged
        if divergence and not losses:
            raise UserError(
                f"the first step of {task.name} with {recipe.name} at lr = {low:g} diverged: "
                f"{divergence.reason}."
            )
        if divergence:
            break
        smoothed = SMOOTHING * smoothed + (1 - SMOOTHING) * loss
        lrs.append(lr)
        losses.append(smoothed / (1 - SMOOTHING ** (i + 1)))
    return lrs, losses


def try_rates(
    task: Task, recipe: Recipe, lrs: Sequence[float], steps: int, seeds: int
) -> dict[float, float]:
    """The final loss of each constant rate, in one stack; if that raises an error, one by one."""
    with suppress(Exception):
        return try_together(task, recipe, lrs, steps=steps, seeds=seeds)
    tried = dict.fromkeys(lrs, math.inf)
    errors = []
    for lr in lrs:
        try:
            tried |= try_together(task, recipe, [lr], steps=steps, seeds=seeds)
        except Exception as error:
            errors.append(error)
    if len(errors) == len(lrs):
        raise errors[0]
    return tried


def try_together(
    task: Task, recipe: Recipe, lrs: Sequence[float], steps: int, seeds: int
) -> dict[float, float]:
    """The mean loss over the last fifth of a short training at each constant rate."""
    members = [Member(recipe.at_rate(lr), 1 + seed) for lr in lrs for seed in range(seeds)]
    population = populate(task, members, width=len(members))
    losses = [population.step() for _ in range(steps)][-(steps // 5) :]
    ends = [
        math.inf if divergence else sum(column) / len(column)
        for column, divergence in zip(zip(*losses, strict=True), population.diverged, strict=True)
    ]
    return {lr: sum(ends[i * seeds : (i + 1) * seeds]) / seeds for i, lr in enumerate(lrs)}
