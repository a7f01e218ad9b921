"""How a race trains its members: the ways that a task has are timed, and the quickest is taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from thalweg import statistics
from thalweg.arguments import require_whole
from thalweg.errors import UserError, suggest
from thalweg.race.cost import Pace, duration, pace
from thalweg.race.entrants import Entrant
from thalweg.race.lanes import Lanes, most_lanes, one_thread
from thalweg.race.record import Plan, Settings
from thalweg.recipes import Recipe
from thalweg.stack.member import Member
from thalweg.stack.way import WAYS, Way, way_of
from thalweg.tasks.task import Task

MEASURED = "measured"

SHARE = 0.02
"""Of the shortest race in sight, what measuring may take."""

COMPILING = 20.0
"""Seconds that a compiler may take: two graphs, on two cores, of a small network."""

ONE_BY_ONE = 4
"""Members that are measured one by one."""


def planned(
    task: Task, recipes: Sequence[Recipe], settings: Settings, turns: Callable[[int, int], int]
) -> Plan:
    """The quickest plan for the whole race, among those that its settings allow.

    turns: how often a race has all lanes take a block, from the members in one and the lanes.
    One plan is measured, and another for as long as measuring takes no more than `SHARE` of the
    race; a way that fails is left out. Raises UserError for a way that the task does not allow.
    """
    plans: list[Plan] = []
    failures = []
    spent = a_member = 0.0  # seconds of measuring, so far and for a member
    for way, lanes in possible(task, settings):
        block = block_of(way, settings.width)
        # In lanes it is tried here first.
        asked = spent + 2 * a_member * block + (COMPILING if way == "compiled" else 0.0)
        if plans and asked > SHARE * quickest(plans).seconds:
            continue
        spent = asked
        try:
            measured = side_by_side(task, spread(recipes, way, settings), settings, way, lanes)
        except Exception as error:
            if way == "single" and lanes == 1:
                raise
            failures.append(f" {called(way, lanes)} failed ({type(error).__name__}).")
            continue
        a_member = measured.measuring / block
        seconds = measured.block(settings.steps) * turns(block, lanes)
        plans.append(Plan(way, lanes, settings.width, seconds, ""))
    if not plans:
        plan = planned(task, recipes, replace(settings, step=MEASURED, lanes=None), turns)
        return replace(plan, why=plan.why + "".join(failures))
    best = quickest(plans)
    told = ", ".join(f"{called(one.way, one.lanes)} {duration(one.seconds)}" for one in plans)
    why = f"Members are stepped {called(best.way, best.lanes)}: {told}.{''.join(failures)}"
    return replace(best, why=why)


def possible(task: Task, settings: Settings) -> Iterator[tuple[Way, int]]:
    """The ways that the task and the settings allow, and in how many lanes; UserError if none."""
    able, reason = way_of(task)
    allowed: list[Way] = ["single"] if able == "single" else list(WAYS)
    if settings.step != MEASURED and settings.step not in allowed:
        raise UserError(f"{settings.step} steps cannot be had: {reason}")
    for way in allowed:
        if settings.step in (MEASURED, way):
            measured = (most_lanes(), 1) if settings.lanes is None else (settings.lanes,)
            yield from ((way, lanes) for lanes in dict.fromkeys(measured))


def quickest(plans: Sequence[Plan]) -> Plan:
    return min(plans, key=lambda plan: plan.seconds)


def called(way: Way, lanes: int) -> str:
    return way if lanes == 1 else f"{way} in {lanes} lanes"


def spread(recipes: Sequence[Recipe], way: Way, settings: Settings) -> list[Member]:
    """Members of a block, over the entrants, whose steps do not all cost the same, and over seeds,
    whose batches are not the same.
    """
    count = ONE_BY_ONE if way == "single" else settings.width
    some = recipes[:: math.ceil(len(recipes) / count)]
    return [Member(recipe, seed) for seed, recipe in enumerate(some)]


def side_by_side(
    task: Task, members: Sequence[Member], settings: Settings, way: Way, lanes: int
) -> Pace:
    """How fast a block is trained while all lanes are busy; one by one, a block is a member."""

    def measured(*_: object) -> Pace:
        whole = pace(task, members, settings.width, way)
        share = len(members) if way == "single" else 1
        return Pace(whole.start / share, whole.step / share, whole.evaluation / share)

    if lanes == 1:
        return measured()
    with one_thread():
        measured()  # what is compiled here, lanes are born with
    with Lanes(measured, lanes) as all_lanes:
        paces = [made for _, made in all_lanes.run([None] * lanes)]
    slowest: Pace = max(paces, key=lambda one: one.block(settings.steps))
    return slowest


def most_turns(entrants: Sequence[Entrant], settings: Settings, block: int, lanes: int) -> int:
    """How often all lanes take a block of the race, if no entrant leaves before its seeds end."""
    tuned = sum(1 for one in entrants if one.space)
    looks = statistics.looks(settings.seeds)
    fresh = [now - before for before, now in zip((0, *looks), looks, strict=False)]
    members = [tuned * settings.trials, *(len(entrants) * count for count in fresh)]
    return sum(math.ceil(count / (block * lanes)) for count in members)


def block_of(way: Way, width: int) -> int:
    """How many members are trained together."""
    return 1 if way == "single" else width


def require_lanes(lanes: int | None) -> None:
    """UserError for a number of lanes that this process cannot have."""
    if lanes is not None:
        require_whole("lanes", lanes, 1)
        if lanes > most_lanes():
            raise UserError(
                f"{lanes} lanes cannot be had: this process has {most_lanes()}, one for each thread"
                " of PyTorch's, and one alone on a GPU and where Python does not fork safely."
            )


def require_way(step: str) -> None:
    """UserError for a way of stepping that there is not."""
    if step not in (MEASURED, *WAYS):
        raise UserError(f"no step is called {step}; {suggest(step, (MEASURED, *WAYS))}")
