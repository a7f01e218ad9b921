"""How a race trains its members: the ways that a task has are timed, and the quickest is taken."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields, replace
from statistics import mean

from thalweg import statistics
from thalweg.arguments import require_known, require_whole
from thalweg.errors import FailedError, UserError
from thalweg.lanes.failure import last_words
from thalweg.lanes.lanes import Lanes, most_lanes, one_thread
from thalweg.lanes.time_limit import SilentError, TimeLimit
from thalweg.racing import timings
from thalweg.racing.cost import Pace, duration, pace
from thalweg.racing.record import Plan, Settings
from thalweg.recipe import Recipe
from thalweg.stack.member import Member
from thalweg.stack.way import WAYS, Way, way_of
from thalweg.tasks.task import Task
from thalweg.training.learn import AfterStep

MEASURED = "measured"

SHARE = 0.05
"""Of the shortest race in sight, what measuring may take."""

COMPILING = 20.0
"""Seconds that a compiler may take: two graphs, on two cores, of a small network."""

COMPILED = 6.0
"""Seconds that it takes where its cache has them already."""

ONE_BY_ONE = 4
"""Members that are measured one by one."""


def planned(
    task: Task,
    recipes: Sequence[Recipe],
    settings: Settings,
    rounds: Sequence[int],
    timeout: float | None = None,
) -> Plan:
    """The quickest plan for the whole race, among those that its settings allow.

    rounds: the members between which the race waits for all to be trained. timeout: seconds without
    a step after which a way has failed.
    One plan is measured, and another for as long as measuring takes no more than `SHARE` of the
    race; those that it would take longer for are named, and a way that fails is left out. What an
    earlier race measured is not measured again, where it is `comparable`, but for the compiled way
    where it would be the quickest: it is compiled here before lanes are forked.
    Raises UserError for a way that the task does not allow.
    """
    ways = list(possible(task, settings))
    stored, measured = timings.read(settings), timings.Timings()
    known = comparable(stored, ways)
    plans: list[Plan] = []
    remarks: list[str] = []
    untried: list[str] = []
    spent = a_member = 0.0  # seconds of measuring, so far and for a member
    for way, lanes in ways:
        name, block = called(way, lanes), block_of(way, settings.width)
        turns = sum(math.ceil(members / (block * lanes)) for members in rounds)
        least = min((plan.seconds for plan in plans), default=math.inf)
        found = known.get(name)
        if found is None:
            # In lanes it is tried here first.
            tries = 1 if lanes == 1 else 2
            asked = spent + tries * a_member * block + (COMPILING if way == "compiled" else 0.0)
            if asked > SHARE * least:
                untried.append(name)
                continue
            spent = asked
        elif way == "compiled" and COMPILED + turns * found.block(task, settings.steps) > least:
            continue
        if found is None or way == "compiled":
            try:
                some = spread(recipes, way, settings)
                found = side_by_side(task, some, settings, way, lanes, timeout)
            except Exception as error:
                if way == "single" and lanes == 1:
                    raise
                remarks.append(f" {name} failed ({last_words(error)}).")
                continue
            measured[name] = found
        a_member = found.measuring / block
        seconds = turns * found.block(task, settings.steps)
        plans.append(Plan(way, lanes, settings.width, seconds, ""))
    if not plans:
        open_settings = replace(settings, step=MEASURED, lanes=None)
        plan = planned(task, recipes, open_settings, rounds, timeout)
        return replace(plan, why=plan.why + "".join(remarks))
    timings.write(settings, stored | measured)
    best = min(plans, key=lambda plan: plan.seconds)
    if untried:
        remarks.append(f" Not tried, as measuring would take too long: {', '.join(untried)}.")
    return replace(best, why=reason(best, plans, measured) + "".join(remarks))


def comparable(stored: timings.Timings, ways: Sequence[tuple[Way, int]]) -> timings.Timings:
    """The timings that may stand beside each other: of all ways, or of the compiled one alone.

    The machine was busier or idler when others were taken. Compiling is only tried where it is
    measured again.
    """
    whole = all(called(*way) in stored for way in ways if way[0] != "compiled")
    compiled = [called(*way) for way in ways if way[0] == "compiled"]
    return {name: found for name, found in stored.items() if whole or name in compiled}


def reason(best: Plan, plans: Sequence[Plan], measured: Collection[str]) -> str:
    """Why a plan was chosen, in a line. measured: what was measured for this race."""
    names = [called(plan.way, plan.lanes) for plan in plans]
    told = [f"{name} {duration(plan.seconds)}" for name, plan in zip(names, plans, strict=True)]
    line = f"Members are stepped {called(best.way, best.lanes)}: {', '.join(told)}."
    earlier = [name for name in names if name not in measured]
    return f"{line} Measured earlier: {', '.join(earlier)}." if earlier else line


def possible(task: Task, settings: Settings) -> Iterator[tuple[Way, int]]:
    """The ways that the task and the settings allow, and in how many lanes; UserError if none."""
    able, reason = way_of(task)
    allowed: list[Way] = ["single"] if able == "single" else list(WAYS)
    if settings.step != MEASURED and settings.step not in allowed:
        raise UserError(f"{settings.step} steps cannot be had: {reason}")
    for way in allowed:
        if settings.step in (MEASURED, way):
            measured = (most_lanes(), 1) if settings.lanes is None else (settings.lanes,)
            measured = (1,) if task.in_one_process else measured
            yield from ((way, lanes) for lanes in dict.fromkeys(measured))


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
    task: Task,
    members: Sequence[Member],
    settings: Settings,
    way: Way,
    lanes: int,
    timeout: float | None,
) -> Pace:
    """How fast a block is trained while all lanes are busy; one by one, a block is a member."""

    def measured(_: object, watch: AfterStep) -> Pace:
        if way == "single":
            return pace_alone(task, members, watch)
        return pace(task, members, settings.width, way, watch)

    def measured_here() -> Pace:
        try:
            with TimeLimit(timeout) as limit:
                return measured(None, lambda *_: limit.put_off())
        except FailedError as error:
            failed = f"Task '{task.name}' failed in training"
            raise FailedError(f"{failed}: {last_words(error)}.") from error

    if lanes == 1:
        return measured_here()
    with one_thread():
        measured_here()  # what is compiled here, lanes are born with
    with Lanes(measured, lanes, timeout) as all_lanes:
        made = [made for _, made in all_lanes.run([None] * lanes)]
    for one in made:
        if one.failure:
            raise FailedError(one.failure)
    slowest: Pace = max(
        (one.value for one in made), key=lambda one: one.block(task, settings.steps)
    )
    return slowest


def pace_alone(task: Task, members: Sequence[Member], watch: AfterStep) -> Pace:
    """The mean pace of those that can be trained, one by one; where none can, the first's error."""
    paces: list[Pace] = []
    errors: list[BaseException] = []
    for member in members:
        try:
            paces.append(pace(task, [member], 1, "single", watch))
        except (Exception, SilentError) as error:
            errors.append(error)
    if not paces:
        raise errors[0]
    return Pace(*(mean(getattr(one, part.name) for one in paces) for part in fields(Pace)))


def most_final_members(entrants: int, seeds: int) -> list[int]:
    """The members of each part of the final round, if no entrant leaves before its seeds end."""
    looks = statistics.looks(seeds)
    return [entrants * (now - before) for before, now in zip((0, *looks), looks, strict=False)]


def block_of(way: Way, width: int) -> int:
    """How many members are trained together."""
    return 1 if way == "single" else width


def require_lanes(lanes: int) -> int:
    """The number as an int; UserError for one of lanes that this process cannot have."""
    lanes = require_whole("lanes", lanes, 1)
    if lanes > most_lanes():
        raise UserError(
            f"{lanes} lanes cannot be had: this process has {most_lanes()}, one for each thread of"
            " PyTorch's, and one alone on a GPU and where Python does not fork safely."
        )
    return lanes


def require_way(step: str) -> None:
    """UserError for a way of stepping that there is not."""
    require_known("step", step, (MEASURED, *WAYS))
