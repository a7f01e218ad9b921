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
"""The rates that are tried, relative to what the ramp suggests."""

HIGHER = (3.0, 10.0, 30.0, 100.0)
"""Those that are tried where the highest was the best, relative to it."""

SMOOTHING = 0.9
"""The ramp's loss is averaged with this memory."""


@dataclass(frozen=True)
class LRRange:
    """What a range test found.

    suggestion: the rate to begin with. lrs, losses: the ramp, a rate a step and the smoothed
    training loss there, until it diverged or failed. tried: the loss that each tried rate came to,
    infinite where it diverged or failed.
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
    """Looks for the learning rate with which a recipe should begin a task.

    task: a task, or the name of one. recipe: a recipe, the name of an optimizer, or the path of a
    recipe file, `*.toml`; the rates of its routes keep their ratio to that of its first chain,
    which is the one that is told, and which `recipe.at_rate` sets.

    The rate climbs evenly in log lr from `low` to `high` over `steps` steps; where the smoothed
    loss is lowest, the ramp has seen the largest rate that trains. A ramp is too hasty to say how
    far below it to begin, so that is tried: constant rates from 0.003 to 3 times this one train for
    `steps` steps on `seeds` fresh seeds, in one stack, and the one that brings the loss lowest is
    suggested. Where that is the highest, the ramp was misled by batches that happen to differ, and
    higher ones are tried, up to `high`.

    Raises UserError for 0 < low < high violated, fewer than ten steps or more than a million, more
    than 100 seeds, a task that cannot be trained, a first step that diverges, or when no rate
    trains.
    Smith 2017 (cyclical learning rates) for the ramp.
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
        lrs, losses = ramp(task, recipe, low, high, steps)
        word = lrs[losses.index(min(losses))]
        tried = try_rates(task, recipe, [word * factor for factor in FACTORS], steps, seeds)
        while (best := min(tried, key=tried.__getitem__)) == max(tried) and best < high:
            tried |= try_rates(task, recipe, [best * factor for factor in HIGHER], steps, seeds)
    if math.isinf(tried[best]):
        raise UserError(
            f"no learning rate from {min(tried):.2g} to {max(tried):.2g} trains {task.name} with "
            f"{recipe.name}; try a lower low than {low:g}."
        )
    return LRRange(best, tuple(lrs), tuple(losses), tried)


def ramp(
    task: Task, recipe: Recipe, low: float, high: float, steps: int
) -> tuple[list[float], list[float]]:
    """Rates that climb from low to high, and the smoothed loss before the step at each."""
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
    """What each constant rate comes to, in one stack, or, where that raises, each alone."""
    with suppress(Exception):
        return try_together(task, recipe, lrs, steps, seeds)
    tried = dict.fromkeys(lrs, math.inf)
    errors = []
    for lr in lrs:
        try:
            tried |= try_together(task, recipe, [lr], steps, seeds)
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
