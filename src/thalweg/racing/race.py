"""A race from beginning to end: the one call behind `thalweg race`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, suppress
from dataclasses import dataclass, field, replace
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
    configurations,
)
from thalweg.racing.field import alike, by_name, entered, entries, told
from thalweg.racing.ledger import Ledger
from thalweg.racing.machine import machine
from thalweg.racing.plan import MEASURED, most_members, planned, require_lanes, require_way
from thalweg.racing.progress import Progress, Silent
from thalweg.racing.record import Configuration, Cost, Record, Settings
from thalweg.racing.repeat import call
from thalweg.racing.rounds import Rounds
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


MOST_TRIALS = 10_000
"""Configurations that are drawn in seconds."""

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
    trials: int = 16,
    seeds: int = 40,
    *,
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
    runs: str | Path = "runs",
    progress: Progress | None = None,
) -> Result:
    """Races optimizers on a task: tunes them equally, compares the best of each over fresh seeds.

    task: a task, the name of a bundled one, or `path/to/file.py:task`.
    entrants: names, paths of recipe files, recipes or `Entrant`s; `DEFAULT_ENTRANTS` if not given.
        Names and paths may stand in one text, with commas. A name is tuned in the space that
        `thalweg entrants` lists. A recipe or a file races as it stands, its schedules too; a file
        with a `[space]` table, as an `Entrant` with a space, is tuned in that space.
    trials: configurations tried of each that is tuned, up to 10,000. seeds: final seeds of each at
        most, from 2 to 1,000.
    tune: those of the entrants that are to be tuned in the space that their rules document, beside
        a space of their own. The schedule of an `lr` then gives way to the common cooling, and any
        other setting that follows a schedule is kept.
    baseline: what is used now, a name or the path of a recipe file; it is not tuned.
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
    progress: is told what happens; first of all what is tuned of each entrant, what it keeps, and
        whether its lr is cooled.

    A training that raises, exits, is given up or loses its process is tried once more. Where it
    fails again and others do not, it counts as diverged, the verdict names it, and the race goes
    on.
    Called again with the same arguments it goes on from the last finished block, and trains
    nothing if the race has ended.

    Raises `FailedError`, one sentence, where all trainings fail. Raises `UserError`, likewise, for
    an argument out of range, an unknown name, a task that cannot be trained, and a folder that
    holds another race or cannot be written to.
    """
    progress = Silent() if progress is None else progress
    require_kind("progress", progress, Progress, "an object with the methods of a Progress")
    require_flag("pretrain", pretrain)
    runs = require_path("runs", runs)
    timeout = None if timeout is None else require_timeout(timeout)
    here = Path.cwd()  # a task may go to another folder
    found = tasks.find(task)
    given = entries("entrants", DEFAULT_ENTRANTS if entrants is None else entrants)
    tuning = entries("tune", tune)
    with chdir(here):
        field = entered(given, tuning, baseline, offered(found) if pretrain else ())
    if plan is not None:
        if (step, lanes, width) != (MEASURED, None, None):
            raise UserError("a plan gives step, lanes and width: give either it or these.")
        step, lanes, width = plan_file.read(here / require_path("plan", plan))
    width = WIDTH if width is None else width
    trials = require_whole("trials", trials, 1, MOST_TRIALS)
    seeds = require_whole("seeds", seeds, 2, MOST_SEEDS)
    seed = require_whole("seed", seed, 0)
    width = require_whole("width", width, 1)
    alpha = require_risk(alpha)
    require_known("cooling", cooling, (*COOLINGS, "tune"))
    require_way(step)
    lanes = None if lanes is None else require_lanes(lanes)
    named = runs / folder_name(found, name)
    folder = here / named
    tasks.check(found)
    stages = {one.recipe.pretrain: stages_for(found, one.recipe.pretrain) for one in field}
    others = [stage.task for some in stages.values() for stage in some if stage.task is not found]
    for other in others:
        tasks.check(other)
    steps = found.total_steps(length_of(found))
    settings = Settings(
        task=found.name,
        metric=found.metric_name,
        direction=found.better,
        target=found.target,
        steps=steps,
        entrants=tuple(one.name for one in field),
        trials=trials,
        seeds=seeds,
        cooling=cooling,
        baseline=None if baseline is None else field[-1].name,
        alpha=alpha,
        seed=seed,
        width=width,
        step=step,
        lanes=lanes,
        fingerprint=fingerprint([found, *others]),
    )
    cooled = {kind: some[-1].steps for kind, some in stages.items()}
    drawn = configurations(field, trials, cooling, cooled, seed)
    for _, recipe in drawn.values():
        check_recipe(found, recipe)
    command = call(task, given, tuning, baseline, pretrain, settings)
    ledger = Ledger.open(folder, settings, [one for one, _ in drawn.values()], machine(), command)
    try:
        if ledger.finished:
            progress.say(f"The race in {named} was finished already; it is only drawn again.")
        else:
            ledger.add_notes(pretraining_notes(stages, steps))
            run(found, settings, field, drawn, ledger, named, progress, timeout)
        record = ledger.read()
    except BaseException:
        ledger.withdraw()
        raise
    ledger.close()
    judged = verdict(record)
    best = drawn[judged.best, record.chosen[judged.best]][1] if judged.best else None
    return Result(record, judged, best, folder, named)


Drawn = Mapping[tuple[str, int], tuple[Configuration, Recipe]]


def run(
    task: Task,
    settings: Settings,
    field: Sequence[Entrant],
    drawn: Drawn,
    ledger: Ledger,
    named: Path,
    progress: Progress,
    timeout: float | None,
) -> None:
    """Measures what the race will cost, says so, and runs what is left of it."""
    _, reason = way_of(task)
    notes = [reason[0].upper() + reason[1:]] if reason else []
    notes += [*task.sharing, *alike(field), *one_start(task)]
    about = {one.name: told(one, settings.cooling) for one in field}
    # What a name stands for is listed elsewhere, and what is not tuned is in the verdict.
    own = [about[one.name] for one in field if one.space and not by_name(one)]
    ledger.add_notes([*notes, *own])
    for line in (*notes, *about.values()):
        progress.say(line)
    plan = ledger.plan
    if plan is None:
        recipes = [recipe for _, recipe in drawn.values()]
        members = most_members(field, settings.trials, settings.seeds)
        # A block with fewer members is filled up to its width, which takes memory.
        filled = replace(settings, width=min(settings.width, max(members)))
        plan = planned(task, recipes, filled, members, timeout)
        costs: list[Cost] = []
        with suppress(Exception):  # of a model that cannot be made now, nothing is known
            costs = cost.costs(task, {one.name: drawn[one.name, 0][1] for one in field}, timeout)
        ledger.add_costs(costs, plan)
        progress.say(plan.why)
        progress.say(cost.announcement(plan.seconds))
        progress.say(cost.outlook(settings))
    else:
        done = len(ledger.scores("tuning")) + len(ledger.scores("final"))
        progress.say(f"Going on in {named}, where {done} members are done.")
    plan_file.write(plan, ledger.folder / "plan.toml")
    Rounds(task, settings, field, drawn, ledger, progress, plan, timeout).run()


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
        plain = re.sub(r"[^\w.-]+", "-", task.name).strip(".-")
        return plain.encode()[:80].decode(errors="ignore") or "race"
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
