"""How a race steps its members: its task's possible ways are timed, and the quickest is taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import get_args

from thalweg.errors import UserError, suggest
from thalweg.race.cost import block_seconds, duration
from thalweg.race.record import Plan, Settings
from thalweg.recipes import Recipe
from thalweg.stack.member import Member
from thalweg.stack.way import Way, way_of
from thalweg.tasks.task import Task

MEASURED = "measured"
WAYS: tuple[Way, ...] = get_args(Way)

WORTH_COMPILING = 300.0
"""A race of fewer seconds than this is soon over without, and a compiler may take a minute."""


def planned(
    task: Task, recipes: Sequence[Recipe], settings: Settings, blocks: Callable[[int], int]
) -> Plan:
    """The quickest way for the whole race, or the one that its settings ask for.

    blocks: how many a race has at the most, from the members in each. Compiling is tried where the
    race is long enough; a way that fails is left out. Raises UserError for a way that the task does
    not allow.
    """
    totals: dict[Way, float] = {}
    failures = []
    for way in possible(task, settings):
        if way == "compiled" and totals and min(totals.values()) < WORTH_COMPILING:
            continue
        try:
            totals[way] = race_seconds(task, recipes, settings, way, blocks)
        except Exception as error:
            if way == "single":
                raise
            failures.append(f" {way} failed ({type(error).__name__}).")
    if not totals:
        plan = planned(task, recipes, replace(settings, step=MEASURED), blocks)
        return replace(plan, why=plan.why + "".join(failures))
    best = min(totals, key=totals.__getitem__)
    told = ", ".join(f"{way} {duration(seconds)}" for way, seconds in totals.items())
    seconds = totals[best] / blocks(block_of(best, settings))
    return Plan(best, seconds, f"Members are stepped {best}: {told}.{''.join(failures)}")


def possible(task: Task, settings: Settings) -> list[Way]:
    """The ways that the task and the settings allow; UserError if there is none."""
    able, reason = way_of(task)
    allowed: list[Way] = ["single"] if able == "single" else list(WAYS)
    if settings.step != MEASURED and settings.step not in allowed:
        raise UserError(f"{settings.step} steps cannot be had: {reason}")
    return [way for way in allowed if settings.step in (MEASURED, way)]


def race_seconds(
    task: Task,
    recipes: Sequence[Recipe],
    settings: Settings,
    way: Way,
    blocks: Callable[[int], int],
) -> float:
    """What the race takes at the most if its members are stepped in this way."""
    block = block_of(way, settings)
    # Spread over the entrants, whose steps do not all cost the same.
    spread = recipes[:: math.ceil(len(recipes) / block)]
    members = [Member(recipe, settings.seed) for recipe in spread]
    return blocks(block) * block_seconds(task, members, settings.width, settings.steps, way)


def block_of(way: Way, settings: Settings) -> int:
    """How many members are trained together."""
    return 1 if way == "single" else settings.width


def require_way(step: str) -> None:
    """UserError for a way of stepping that there is not."""
    if step not in (MEASURED, *WAYS):
        raise UserError(f"no step is called {step}; {suggest(step, (MEASURED, *WAYS))}")
