"""A race from beginning to end: the one call behind `thalweg race`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, suppress
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from thalweg import tasks
from thalweg.arguments import (
    number,
    require_flag,
    require_kind,
    require_known,
    require_path,
    require_text,
    require_whole,
    short,
)
from thalweg.errors import UserError
from thalweg.racing import cost, plan_file
from thalweg.racing.alarm import require_timeout
from thalweg.racing.entrants import (
    COOLINGS,
    DEFAULT_ENTRANTS,
    Entrant,
    Entry,
)
from thalweg.racing.field import (
    alike,
    baseline_tuned,
    beside_baseline,
    by_name,
    entered,
    entries,
    on_record,
    told,
)
from thalweg.racing.ledger import Ledger
from thalweg.racing.machine import machine
from thalweg.racing.plan import MEASURED, most_final_members, planned, require_lanes, require_way
from thalweg.racing.progress import Progress, Silent
from thalweg.racing.record import Cost, Record, Settings
from thalweg.racing.repeat import call, usual_folder
from thalweg.racing.rounds import Rounds
from thalweg.racing.search import MOST_TRIALS, Search, as_it_stands
from thalweg.racing.verdict import Verdict, verdict
from thalweg.recipes import Recipe
from thalweg.stack.batches import length_of
from thalweg.stack.population import initial_model
from thalweg.stack.way import way_of
from thalweg.tasks.check import check_recipe
from thalweg.tasks.task import Task
from thalweg.training.fingerprint import fingerprint
from thalweg.training.pretrain import offered, stages_for
from thalweg.training.stages import Stage

WIDTH = 32
"""Members in a block, if nobody asks for another number."""

TRIALS = 24
"""Configurations of an entrant, likewise."""

WITH_RESUME = ("task", "trials", "timeout", "resume", "runs", "progress")
"""The arguments of a race that is resumed; all others are on its record."""

MOST_TUNING_SEEDS = 100

MOST_SEEDS = 1_000
"""Seeds over which the exact test of two entrants takes seconds."""

LEAST_ALPHA = 1e-12
"""A risk that some dozens of seeds can have."""


@dataclass(frozen=True)
class Result:
    """A finished race.

    record: all that happened. verdict: what may be said about it; `str(verdict)` is the text.
    best: the winning recipe, cooling included; none where every entrant diverged. folder: where
    the ledger and `winner.toml` are; `named`: the same as the caller named it, to show.
    """

    record: Record = field(repr=False)
    verdict: Verdict = field(repr=False)
    best: Recipe | None
    folder: Path
    named: Path

    def table(self) -> list[dict[str, Any]]:
        """One row for each entrant, ready for `pandas.DataFrame`."""
        return self.verdict.table()


def race(
    task: Task | str,
    entrants: Sequence[Entry] | None = None,
    trials: int | None = None,
    seeds: int = 40,
    *,
    tuning_seeds: int = 4,
    tune: Sequence[Entry] = (),
    baseline: str | Recipe | None = None,
    pretrain: bool = False,
    cooling: str = "linear",
    alpha: float = 0.05,
    seed: int = 0,
    width: int | None = None,
    step: str = MEASURED,
    lanes: int | None = None,
    plan: str | Path | None = None,
    timeout: float | None = None,
    name: str | None = None,
    resume: str | None = None,
    runs: str | Path = "runs",
    progress: Progress | None = None,
) -> Result:
    """Races optimizers on a task: tunes them equally, compares the best of each over fresh seeds.

    task: a task, the name of a bundled one, or `path/to/file.py:task`.
    entrants: names, paths of recipe files, recipes or `Entrant`s; `DEFAULT_ENTRANTS` if not given.
        Names and paths may stand in one text, with commas. A name is tuned in the space that
        `thalweg entrants` lists. A recipe or a file races as it stands, its schedules too; a file
        with a `[space]` table, as an `Entrant` with a space, is tuned in that space.
    trials: configurations tried of each that is tuned, up to 1,000, and 24 if not given: at first
        some that are spread over its space, then those that a model of its scores asks for. One
        that is unlikely to be the best gets fewer, and the others more. seeds: final seeds of each
        at most, from 2 to 1,000.
    tuning_seeds: over which the trials are spread, up to 100; the best three of each entrant are
        tried again on as many further ones.
    tune: those of the entrants that are to be tuned in the space that their rules document, beside
        a space of their own. The schedule of an `lr` then gives way to the common cooling, and any
        other setting that follows a schedule is kept.
    baseline: what is used now, a name, the path of a recipe file or a recipe. It races as it
        stands. Beside it races the same recipe, tuned in its documented space; one of the entrants
        serves, where it is that. The verdict then says which part of a gain is by tuning alone.
    pretrain: whether each entrant also races pre-trained, in every way that the task offers. The
        stages share its steps equally, and each is a training of its own, cooling included.
    cooling: of every lr that is tuned: "linear" (to a hundredth), "cosine", "none", or "tune",
        which tries all three.
    alpha: from 1e-12 to below 0.5, the risk that the best entrant is missing from the shortlist.
    seed: the same seed repeats the race. width: members in a block, which is trained at
        once; 32 if not given.
    step: how they are stepped, "single", "stacked" or "compiled". lanes: processes of one thread
        each that train blocks side by side, or 1 with all threads. The quickest of both, if not
        given; `plan.toml` in the folder says what was chosen.
        Lanes are forked: a data set that holds a file open, or is read by a thread, is unpickled in
        each, or, where that opens none anew, keeps the race in one lane.
    plan: such a file, to be followed in step, lanes and width.
    timeout: seconds without a step after which a training is given up; never, if not given.
    name: of the folder in `runs` that keeps the ledger and `winner.toml`; the task's if not given.
    resume: the name of a race that has begun. The task, `trials`, `timeout`, `runs` and `progress`
        may be given with it; all else is taken from its record.
    progress: is told what happens; first of all what is tuned of each entrant, what it keeps, and
        whether its lr is cooled.

    A training that raises, exits, is given up or loses its process is tried once more. Where it
    fails again and others do not, it counts as diverged, the verdict names it, and the race goes
    on.
    Called again with the same arguments it goes on from the last finished block, and trains
    nothing if the race has ended. With more trials it ends first, and then tuning is added to it:
    the search goes on from all that is on record, and the final round is run anew, but for what it
    has trained already. The test data are then opened once more, and the verdict says so.

    Raises `FailedError`, one sentence, where all trainings fail. Raises `UserError`, likewise, for
    an argument out of range, an unknown name, a task that cannot be trained, and a folder that
    holds another race or cannot be written to.
    """
    if resume is not None:
        require_on_record(locals())
    progress = Silent() if progress is None else progress
    require_kind("progress", progress, Progress, "an object with the methods of a Progress")
    require_flag("pretrain", pretrain)
    runs = require_path("runs", runs)
    timeout = None if timeout is None else require_timeout(timeout)
    here = Path.cwd()  # a task may go to another folder
    found = tasks.find(task)
    given = entries("entrants", DEFAULT_ENTRANTS if entrants is None else entrants)
    tuning = entries("tune", tune)
    named = runs / folder_name(found, name if resume is None else resume)
    folder = here / named
    if resume is None:
        with chdir(here):
            field = entered(given, tuning, baseline, offered(found) if pretrain else ())
    else:
        kept, command = Ledger.begun(folder)
        field, trials = on_record(kept), kept.trials if trials is None else trials
    if plan is not None:
        if (step, lanes, width) != (MEASURED, None, None):
            raise UserError("a plan gives step, lanes and width: give either it or these.")
        step, lanes, width = plan_file.read(here / require_path("plan", plan))
    width = WIDTH if width is None else width
    trials = require_whole("trials", TRIALS if trials is None else trials, 1, MOST_TRIALS)
    tuning_seeds = require_whole("tuning_seeds", tuning_seeds, 1, MOST_TUNING_SEEDS)
    seeds = require_whole("seeds", seeds, 2, MOST_SEEDS)
    seed = require_whole("seed", seed, 0)
    width = require_whole("width", width, 1)
    alpha = require_risk(alpha)
    require_known("cooling", cooling, (*COOLINGS, "tune"))
    require_way(step)
    lanes = None if lanes is None else require_lanes(lanes)
    tasks.check(found)
    stages = {one.recipe.pretrain: stages_for(found, one.recipe.pretrain) for one in field}
    others = [stage.task for some in stages.values() for stage in some if stage.task is not found]
    for other in others:
        tasks.check(other)
    of_task: dict[str, Any] = {
        "task": found.name,
        "metric": found.metric_name,
        "direction": found.better,
        "target": found.target,
        "steps": found.total_steps(length_of(found)),
        "fingerprint": fingerprint([found, *others]),
    }
    if resume is None:
        settings = Settings(
            **of_task,
            entrants=tuple(one.name for one in field),
            trials=trials,
            tuning_seeds=tuning_seeds,
            seeds=seeds,
            cooling=cooling,
            baseline=None if baseline is None else field[-1].name,
            baseline_tuned=None if baseline is None else baseline_tuned(field, field[-1]),
            alpha=alpha,
            seed=seed,
            width=width,
            step=step,
            lanes=lanes,
            spaces={one.name: one.space for one in field if one.space},
            recipes={one.name: one.recipe.to_toml() for one in field},
            cooled=tuple(one.name for one in field if one.comes_under_cooling),
        )
        command = call(task, given, tuning, baseline, pretrain, settings)
    else:
        settings = replace(kept, **of_task, trials=trials)
    cooled = {kind: some[-1].steps for kind, some in stages.items()}
    untuned = [as_it_stands(one) for one in field if not one.space]
    first = [*Search(field, settings, cooled).first_points, *untuned]
    for one in first:
        check_recipe(found, Recipe.from_toml(one.recipe))
    ledger = Ledger.open(folder, settings, first, machine(), command)
    try:
        added = trials > ledger.settings.trials
        if not ledger.finished:
            ledger.add_notes(pretraining_notes(stages, settings.steps))
            run(found, field, cooled, ledger, named, progress, timeout)
        elif not added:
            progress.say(f"The race in {named} was finished already; it is only drawn again.")
        if added:
            ledger.add_tuning(trials, machine())
            run(found, field, cooled, ledger, named, progress, timeout)
        record = replace(ledger.read(), folder=named)
    except BaseException:
        ledger.withdraw()
        raise
    ledger.close()
    judged = verdict(record)
    best = Recipe.from_toml(judged.recipe) if judged.recipe else None
    return Result(record, judged, best, folder, named)


def require_on_record(given: Mapping[str, object]) -> None:
    """UserError for an argument that a race which is resumed has on record."""
    for name, known in signature(race).parameters.items():
        if name not in WITH_RESUME and given[name] != known.default:
            raise UserError(f"resume takes {name} from the race's record: leave {name} out.")


def run(
    task: Task,
    field: Sequence[Entrant],
    cooled: Mapping[str | None, int],
    ledger: Ledger,
    named: Path,
    progress: Progress,
    timeout: float | None,
) -> None:
    """Measures what the race will cost, says so, and runs what is left of it.

    cooled: the steps that a cooling takes, by the pre-training.
    """
    settings = ledger.settings
    search = Search(field, settings, cooled)
    _, reason = way_of(task)
    notes = [reason[0].upper() + reason[1:]] if reason else []
    notes += [*task.sharing, *alike(field), *one_start(task)]
    about = {one.name: told(one, settings.cooling) for one in field}
    # What a name stands for is listed elsewhere, and what is not tuned is in the verdict.
    own = [about[one.name] for one in field if one.space and not by_name(one)]
    ledger.add_notes([*notes, *own])
    for line in (*notes, *about.values(), *beside_baseline(settings)):
        progress.say(line)
    plan = ledger.plan
    if plan is None:
        recipes = {one.key: Recipe.from_toml(one.recipe) for one in ledger.configurations()}
        members = [*search.sizes, *most_final_members(len(field), settings.seeds)]
        # A block with fewer members is filled up to its width, which takes memory.
        filled = replace(settings, width=min(settings.width, max(members)))
        plan = planned(task, list(recipes.values()), filled, members, timeout)
        costs: list[Cost] = []
        with suppress(Exception):  # of a model that cannot be made now, nothing is known
            costs = cost.costs(task, {one.name: recipes[one.name, 0] for one in field}, timeout)
        ledger.add_costs(costs, plan)
        progress.say(plan.why)
        progress.say(cost.announcement(plan.seconds))
        progress.say(cost.outlook(settings))
    else:
        progress.say(f"Going on in {named}, where {ledger.trained} members are done.")
    plan_file.write(plan, ledger.folder / "plan.toml")
    Rounds(task, settings, field, search, ledger, progress, plan, timeout).run()


def require_risk(alpha: float) -> float:
    """The risk as a float; UserError for one that is none, or less than some seeds can have."""
    if not LEAST_ALPHA <= number(alpha) < 0.5:
        raise UserError(
            f"alpha must be a number from {LEAST_ALPHA:g} to below 0.5, not {short(alpha)}."
        )
    return float(alpha)


def folder_name(task: Task, name: str | None) -> str:
    """The name that was given, or the task's with all but letters, digits, ., _ and - replaced."""
    if name is None:
        return usual_folder(task.name)
    if not isinstance(name, str) or name in ("", ".", "..") or re.search(r"[/\\\0]", name):
        raise UserError(f"name must be the name of one folder, without / or \\, not {short(name)}.")
    require_text("name", name)
    return require_path("name", name).name


def one_start(task: Task) -> Iterator[str]:
    """A line where seeds do not change the weights that a training begins with."""
    first, second = (initial_model(task, seed).parameters() for seed in (0, 1))
    if all(map(torch.equal, first, second)):
        yield (
            "Every seed begins with the same weights, so the verdict speaks of this start alone;"
            " seeds change the order of the data, and what training draws at random."
        )


def pretraining_notes(stages: Mapping[str | None, Sequence[Stage]], steps: int) -> Iterator[str]:
    """A line for each pre-training: what it does with the budget."""
    for kind, some in stages.items():
        if kind:
            yield (
                f"Pre-trained ({kind}): {steps} steps in {len(some)} equal stages, of which the"
                " last trains the task itself; each is a training of its own, cooling included."
            )
