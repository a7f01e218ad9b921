"""What a race will cost and what it will be able to see, told before it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from time import perf_counter

import numpy as np
import torch

from thalweg import statistics
from thalweg.optim import Optimizer
from thalweg.race.entrants import Entrant
from thalweg.race.record import Cost, Settings
from thalweg.recipes import Recipe
from thalweg.stack.batches import fetch, order
from thalweg.stack.member import Member
from thalweg.stack.population import initial_model
from thalweg.stack.way import Way
from thalweg.tasks.check import failure_in_training
from thalweg.tasks.task import Task
from thalweg.training.train import EVALUATIONS, train_members

WARM_UP, TIMED = 3, 15
"""Lone steps before the clock starts, and those that it times."""

ENOUGH_SECONDS = 2.0
"""After this long, three timed steps have to do."""


class EnoughError(Exception):
    """Ends the training of a block that is only there to be timed."""


def block_seconds(task: Task, members: Sequence[Member], width: int, steps: int, way: Way) -> float:
    """Seconds for a block of these members through a budget of `steps`, evaluations included.

    Its beginning is run, as far as it takes to see one evaluation between two steps; before that,
    its first step alone, so that what only the first block of a race has to wait for is not counted
    for all.
    """
    until = min(steps, math.ceil(steps / EVALUATIONS) + 1)
    seconds_until(task, members, width, 1, way)
    after = seconds_until(task, members, width, until, way)
    first, last = after[0], after[-1]
    a_step = (last - first) / max(1, len(after) - 1)
    return first + (steps - 1) * a_step


def seconds_until(
    task: Task, members: Sequence[Member], width: int, until: int, way: Way
) -> list[float]:
    """The seconds from the start of a block to the end of each step, up to the step `until`."""
    began = perf_counter()
    after: list[float] = []

    def watch(step: int, alive: int) -> None:
        after.append(perf_counter() - began)
        if step >= until or alive == 0:
            raise EnoughError

    with suppress(EnoughError):
        train_members(task, members, width=width, way=way, watch=watch)
    return after


def cost(task: Task, entrant: Entrant, recipe: Recipe) -> Cost:
    """What the entrant costs with this recipe, alone, in its drop-in form. See `Cost`."""
    with failure_in_training(task):
        whole, own = lone_step_seconds(task, recipe)
    return Cost(entrant.name, whole, own, state_per_parameter(recipe))


def lone_step_seconds(task: Task, recipe: Recipe) -> tuple[float, float]:
    """The medians of a training step's seconds, and of those within `optimizer.step`."""
    with torch.random.fork_rng(devices=[]):
        model = initial_model(task, seed=0).train()
        optimizer = Optimizer(model.parameters(), recipe)
        batches = order(len(task.splits.train), task.batch_size, seed=0)  # type: ignore[arg-type]
        whole: list[float] = []
        own: list[float] = []
        began = perf_counter()
        for indices in batches:
            start = perf_counter()
            *inputs, targets = fetch(task.splits.train, indices)
            optimizer.zero_grad()
            torch.autograd.backward(task.loss(model(*inputs), targets))
            before_step = perf_counter()
            optimizer.step()
            end = perf_counter()
            whole.append(end - start)
            own.append(end - before_step)
            late = end - began > ENOUGH_SECONDS and len(whole) >= WARM_UP + 3
            if late or len(whole) == WARM_UP + TIMED:
                return float(np.median(whole[WARM_UP:])), float(np.median(own[WARM_UP:]))
    raise AssertionError("batches have no end")


def state_per_parameter(recipe: Recipe) -> float:
    """The numbers that the recipe's rules keep for each number of the model."""
    settings = recipe.settings
    states = [state for rule in recipe.rules for state in rule.states.values()]
    return float(sum(settings[state.copies] if state.copies else 1 for state in states))


def most_blocks(entrants: Sequence[Entrant], settings: Settings, block: int) -> int:
    """The blocks of the whole race, if no entrant leaves before the seeds are spent."""
    tuned = sum(1 for one in entrants if one.space)
    planned = statistics.looks(settings.seeds)
    fresh = [now - before for before, now in zip((0, *planned), planned, strict=False)]
    members = [tuned * settings.trials, *(len(entrants) * count for count in fresh)]
    return sum(math.ceil(count / block) for count in members)


def announcement(blocks: int, seconds: float) -> str:
    """The line that says how long the race will take."""
    return (
        f"At most {blocks} blocks of members, about {duration(blocks * seconds)};"
        " less where entrants leave the shortlist early."
    )


def outlook(settings: Settings) -> str:
    """The line that says which margin the race can see, or the question that it could answer."""
    rivals, seeds, alpha = len(settings.entrants), settings.seeds, settings.alpha
    margin = statistics.visible_margin(seeds, rivals, alpha)
    if math.isfinite(margin):
        return (
            f"With {seeds} seeds it can tell {rivals} entrants apart by"
            f" {margin:.2g} standard deviations of the difference between two on one seed."
        )
    needed = next(
        n
        for n in range(seeds, 10_000)
        if math.isfinite(statistics.visible_margin(n, rivals, alpha))
    )
    return (
        f"With {seeds} seeds no lead among {rivals} entrants can be told from chance, however large"
        f" it is: give {needed} seeds or more{smaller_question(settings)}."
    )


def smaller_question(settings: Settings) -> str:
    """Fewer entrants that these seeds can tell apart, where there are any."""
    for fewer in range(min(3, len(settings.entrants) - 1), 1, -1):
        margin = statistics.visible_margin(settings.seeds, fewer, settings.alpha)
        if math.isfinite(margin):
            others = "the baseline against" if settings.baseline else "one against"
            return f", or a smaller question, {others} {('one', 'two')[fewer - 2]}"
    return ""


def duration(seconds: float) -> str:
    """Seconds in words: 40 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
