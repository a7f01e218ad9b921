"""The function behind `thalweg compare`."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from thalweg.arguments import (
    MOST,
    number,
    require_function,
    require_known,
    require_path,
    require_risk,
    require_whole,
    short,
)
from thalweg.comparing.answer import Compared, of_pairs, of_scores
from thalweg.comparing.columns import read_columns
from thalweg.comparing.given import (
    NAMES,
    Given,
    Reading,
    long_name,
    program_of,
    scores_of,
    sides_of,
)
from thalweg.comparing.ledger import Ledger
from thalweg.comparing.looks import MOST_SEEDS, Looks, fewest
from thalweg.comparing.pairs import Pairs, about
from thalweg.comparing.scores import Scores
from thalweg.comparing.sides import About, Side, work_of
from thalweg.errors import UserError
from thalweg.lanes.lanes import Lanes, most_lanes, with_one_thread
from thalweg.lanes.time_limit import require_timeout
from thalweg.recipes import AnyRecipe
from thalweg.run_folder import require_folder_name, usual_folder
from thalweg.statistics import Direction
from thalweg.tasks.task import Task

OF_RUNS = ("task", "recipe", "metric", "at", "seeds", "minutes", "seed", "lanes", "timeout", "name")
"""The arguments that have a meaning only for sides that are run."""

OF_SCORES = ("columns", "paired")
"""The arguments that have a meaning only for scores that are there already."""

MOST_LANES = 1_000


def compare(
    old: Given,
    new: Given | None = None,
    *,
    task: Task | str | None = None,
    recipe: AnyRecipe = "adam",
    metric: str | None = None,
    direction: Direction | None = None,
    at: Sequence[str] = (),
    columns: str | None = None,
    paired: bool = True,
    seeds: int = 40,
    alpha: float = 0.05,
    minutes: float | None = None,
    margin: float | None = None,
    seed: int = 0,
    lanes: int | None = None,
    timeout: float | None = None,
    name: str | None = None,
    runs: str | Path = "runs",
    say: Callable[[str], None] = lambda _: None,
) -> Compared:
    """Whether `new` is better than `old`, or only its seed was luckier.

    Both sides run with the same seeds, pair after pair. The exact signed-rank test looks at the
    pairs at a few times, until the comparison is decided (`Looks` has the levels).

    old, new: the two sides. Each is a loop, a task, or a function that takes a seed and returns a
        score, as an object or as `path/to/file.py:NAME`; a `Command`; or, with `metric`, a command
        as text, such as `python old.py --seed {seed}`. With `task`, they are two recipes: names,
        files or objects. They may also be finished results: two lists with a score for each seed,
        or the path of a CSV file as `old` alone.
    task: the task that both recipes train. recipe: the recipe for tasks and loops as old and new.
    metric: for commands, a regular expression with one group, or a key in a line of JSON.
        direction: whether "min" or "max" is better, for commands, functions and lists, "min" if
        not given; loops and tasks have their own direction.
    at: two commits. Then only `old` is given, and it runs as it is in each commit, in a clean
        folder.
    columns: two names of a CSV file's first row, with a comma. paired: whether scores in the same
        place of two lists had the same seed.
    seeds: the most pairs, up to 1,000. A later call with more seeds adds pairs.
    alpha: the risk that two equally good sides are called better or worse, over all looks and
        additions. minutes: the time after which no further pair begins.
    margin: the smallest difference that is worth having, in units of the metric; then "no
        difference worth the margin" is an answer too.
    seed: the seed of the first pair; each further pair has the next seed. lanes: the number of
        processes; if not given, one for commands, and as many as PyTorch has threads for others.
    timeout: seconds after which a command, or a run without a step, is given up.
    name: the name of the folder in `runs` that keeps the comparison. say: is called with each line
        that is shown.

    A run that fails is tried once more. If it fails again it counts as diverged, which is worse
    than every run that did not. Each side runs its first seed twice, and the answer says where the
    two differ. The same call goes on where it was stopped.

    Raises `UserError`, one sentence, for an argument out of range, a side that cannot be run or
    always fails, two sides that are not of one metric, and a folder with another comparison.
    """
    arguments = locals()
    asked, direction = direction, direction or "min"
    require_known("direction", direction, ("min", "max"))
    require_function("say", say, "a function of a line")
    alpha, seed = require_risk(alpha), require_whole("seed", seed, 0, MOST - MOST_SEEDS)
    require_positive(minutes=minutes, margin=margin, timeout=timeout)
    given = of_numbers(old, new, columns, paired, direction)
    if given is not None:
        require_unused(arguments, OF_RUNS, "scores that are there already")
        return of_scores(given, alpha, margin)
    require_unused(arguments, OF_SCORES, "sides that are run")
    if task is not None:
        require_unused(arguments, ("metric", "recipe"), "a task, which has its own metric")
    seeds = require_pairs(seeds, alpha)
    runs = require_path("runs", runs)
    reading = Reading(task, recipe, metric, direction, timeout)
    with sides_of(reading, old, new, at) as sides:
        named = [task if isinstance(task, str) else "", *map(long_name, sides)]
        usual = usual_folder(" ".join(dict.fromkeys(named)))
        folder = runs / (usual if name is None else require_folder_name(name))
        programs = [program_of(side) for side in sides]
        if lanes is None:
            lanes = 1 if all(programs) else most_lanes()
        count = require_whole("lanes", lanes, 1, MOST_LANES)
        # A program says nothing until its end, and keeps its time itself.
        silence = None if timeout is None or all(programs) else require_timeout(timeout)
        deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        with (
            Lanes(work_of(sides[0]), count, silence, aside, apart=True) as first,
            Lanes(work_of(sides[1]), count, silence, aside, apart=True) as second,
        ):
            both = about(sides[0], first), about(sides[1], second)
            known = require_alike(sides, both)
            if asked not in (None, known.direction):
                raise UserError(
                    f"direction {asked} cannot be had: {sides[0].name} has direction"
                    f" {known.direction} for its {known.metric}."
                )
            settings = {
                "names": [side.name for side in sides],
                "metric": known.metric,
                "direction": known.direction,
                "alpha": alpha,
                "seed": seed,
            }
            traits = both[0].traits, both[1].traits
            with closing(Ledger(folder.absolute(), settings, traits, seeds)) as ledger:
                plan = Looks(alpha, ledger.totals)
                pairs = Pairs(
                    sides, known, ledger, (first, second), plan, seed, margin, deadline, say
                )
                pairs.run()
                return answered(pairs, folder)


def require_unused(given: Mapping[str, Any], names: Sequence[str], beside: str) -> None:
    """UserError for one of these arguments of `compare` that is not at its default.

    beside: why it has no meaning, in words.
    """
    for name in names:
        if given[name] != signature(compare).parameters[name].default:
            raise UserError(f"{name} has no meaning with {beside}: leave it out.")


def aside(lane: int) -> None:
    """What a lane begins with. What runs print goes to the error output, away from the answer."""
    with_one_thread(lane)
    os.dup2(2, 1)


def answered(pairs: Pairs, folder: Path) -> Compared:
    """What the pairs of the last look say; those behind it have not been looked at."""
    looked, level = pairs.ledger.last_look
    done = pairs.done()
    known = done[:looked] or done
    old, new = [one for one, _ in known], [one for _, one in known]
    found = of_pairs(pairs.scores(known), (old, new), level, pairs.plan, pairs.margin, folder)
    return replace(found, limits=(*found.limits, *pairs.not_paired(0), *pairs.not_paired(1)))


def of_numbers(
    old: Given, new: Given | None, columns: str | None, paired: bool, direction: Direction
) -> Scores | None:
    """Scores that are there already; none where something is to be run."""
    if isinstance(old, str | Path) and str(old).endswith(".csv") and new is None:
        table = read_columns(Path(old), columns)
        paired = paired and table.paired
        return Scores(table.names, "score", direction, *few(*table.scores), paired)
    first, second = scores_of(old), scores_of(new)
    if not first or not second:
        return None
    if paired and len(first) != len(second):
        raise UserError(
            f"Pairs need as many scores of both, and here are {len(first)} and {len(second)}: give"
            " paired=False if their runs share no seeds."
        )
    return Scores(NAMES, "score", direction, *few(first, second), paired)


def few(old: list[float], new: list[float]) -> tuple[list[float], list[float]]:
    """The scores; UserError for more than can be tested."""
    if (most := max(len(old), len(new))) > MOST_SEEDS:
        raise UserError(f"There can be {MOST_SEEDS:,} scores of each at most, not {most:,}.")
    return old, new


def require_pairs(seeds: int, alpha: float) -> int:
    """The number of pairs; UserError for one that is none, or that can show nothing."""
    seeds = require_whole("seeds", seeds, 1, MOST_SEEDS)
    if seeds < fewest(alpha):
        raise UserError(
            f"seeds must be {fewest(alpha)} or more: with alpha {alpha:g} fewer pairs show nothing."
        )
    return seeds


def require_alike(sides: tuple[Side, Side], both: tuple[About, About]) -> About:
    """What both sides are; UserError where their numbers are not of one kind."""
    old, new = both
    for what in ("metric", "direction"):
        if getattr(old, what) != getattr(new, what):
            raise UserError(
                f"{sides[0].name} has {what} {getattr(old, what)} and {sides[1].name} has"
                f" {getattr(new, what)}: two that are compared must have the same."
            )
    return replace(old, width=min(old.width, new.width))


def require_positive(**given: float | None) -> None:
    """UserError for a number that is given and not above zero."""
    for name, value in given.items():
        if value is not None and not 0 < number(value) < math.inf:
            raise UserError(f"{name} must be a number above 0, not {short(value)}.")
