"""A race from beginning to end: the one call behind `thalweg race`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any

from thalweg.arguments import (
    require_flag,
    require_kind,
    require_known,
    require_path,
    require_risk,
    require_seconds,
    require_whole,
)
from thalweg.command import Command
from thalweg.errors import UserError
from thalweg.lanes.time_limit import require_timeout
from thalweg.loops.find import find
from thalweg.loops.loop import Loop
from thalweg.loops.program import program
from thalweg.racing import plan_file
from thalweg.racing.course import Course
from thalweg.racing.entrants import COOLINGS, DEFAULT_ENTRANTS, Entrant, Entry
from thalweg.racing.field import baseline_tuned, entered, entries, on_record
from thalweg.racing.ledger import Ledger
from thalweg.racing.loop_subject import LoopSubject
from thalweg.racing.plan import MEASURED, require_lanes, require_way
from thalweg.racing.progress import Progress, Silent
from thalweg.racing.record import Record, Settings
from thalweg.racing.repeat import call
from thalweg.racing.search import MOST_TRIALS
from thalweg.racing.spaces import Spaces, narrowed, of_optimizers, spaces_of
from thalweg.racing.subject import Subject
from thalweg.racing.task_subject import TaskSubject
from thalweg.racing.verdict import Verdict, verdict
from thalweg.recipe import Recipe
from thalweg.run_folder import require_folder_name, usual_folder
from thalweg.tasks.task import Task
from thalweg.training.resume import CHECKPOINT_EVERY

WIDTH = 32
"""Members in a block, if nobody asks for another number."""

TRIALS = 24
"""Configurations of an entrant, likewise."""

WITH_RESUME = (
    "task",
    "trials",
    "space",
    "timeout",
    "checkpoint_every",
    "resume",
    "runs",
    "progress",
)
"""The arguments of a race that is resumed; all others are on its record."""

WHOLE = {"tuning_seeds": (1, 100), "seeds": (2, 1_000), "seed": (0,), "width": (1,)}
"""The least of each whole number and, where it has one, the most. With 1,000 seeds the exact test
of two entrants takes seconds.
"""


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
    task: Task | Loop | Command | str,
    entrants: Sequence[Entry] | None = None,
    trials: int | None = None,
    seeds: int = 40,
    *,
    tuning_seeds: int = 8,
    tune: Sequence[Entry] = (),
    baseline: str | Recipe | None = None,
    pretrain: bool = False,
    no_decay: bool = False,
    space: Spaces | str | Path | None = None,
    cooling: str = "linear",
    alpha: float = 0.05,
    seed: int = 0,
    width: int | None = None,
    step: str = MEASURED,
    lanes: int | None = None,
    plan: str | Path | None = None,
    timeout: float | None = None,
    checkpoint_every: float | str = CHECKPOINT_EVERY,
    name: str | None = None,
    resume: str | None = None,
    runs: str | Path = "runs",
    progress: Progress | None = None,
) -> Result:
    """Races optimizers on a task: tunes them equally, compares the best of each over fresh seeds.

    task: a task, the name of a bundled one, `path/to/file.py:task`, a training loop (see
        `thalweg.loop`), or a `Command`, which runs a program without importing it.
    entrants: names, paths of recipe files, recipes or `Entrant`s; `DEFAULT_ENTRANTS` if not given.
        Names and paths may stand in one text, with commas. A name is tuned in the space that
        `thalweg entrants` lists. A recipe or a file races as it stands, its schedules too; a file
        with a `[space]` table, as an `Entrant` with a space, is tuned in that space.
    trials: configurations tried of each that is tuned, up to 1,000, and 24 if not given: at first
        some that are spread over its space, then those that a model of its scores asks for. One
        that is unlikely to be the best gets fewer, and the others more. seeds: final seeds of each
        at most, from 2 to 1,000.
    tuning_seeds: over which the trials are spread, up to 100; the best three of each entrant are
        tried again on half as many further ones.
    tune: those of the entrants that are to be tuned in the space that their rules document, beside
        a space of their own. The schedule of an `lr` then gives way to the common cooling, and any
        other setting that follows a schedule is kept.
    baseline: what is used now, a name, the path of a recipe file or a recipe. It races as it
        stands. Beside it races the same recipe, tuned in its documented space; one of the entrants
        serves, where it is that. The verdict then says which part of a gain is by tuning alone.
    pretrain: whether each entrant also races pre-trained, in every way that the task offers. The
        stages share its steps equally, and each is a training of its own, cooling included.
    no_decay: whether the entrants decay no biases and nothing of normalization layers; see
        `thalweg.no_decay`. The baseline stays as it is.
    space: where settings are tuned in place of their documented space, by name, for every entrant
        that is tuned and has them; or a TOML file that says so. Of a command, names that are no
        settings of optimizers are those of the program's own, which are tuned too.
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
    checkpoint_every: seconds, or a text such as "5m", between two checkpoints of a block in work.
        A race that is stopped continues from them. Of a loop, its own `run.save` decides.
    name: the name of the folder that keeps the ledger and `winner.toml`; the task's if not given.
    runs: the folder in which the folders of races are.
    resume: the name of a race that has begun. The task, `trials`, `timeout`, `checkpoint_every`,
        `runs` and `progress` may be given with it; all else is taken from its record.
    progress: is told what happens; first of all what is tuned of each entrant, what it keeps, and
        whether its lr is cooled.

    A training that raises, exits, is given up or loses its process is tried once more. Where it
    fails again and others do not, it counts as diverged, the verdict names it, and the race goes
    on.
    Called again with the same arguments it goes on from the last checkpoint, and trains nothing if
    the race has ended. With more trials it ends first, and then tuning is added to it: the search
    goes on from all that is on record, and the final round is run anew, but for what it has trained
    already. The test data are then opened once more, and the verdict says so.

    Raises `FailedError`, one sentence, where all trainings fail. Raises `UserError`, likewise, for
    an argument out of range, an unknown name, a task that cannot be trained, and a folder that
    holds another race or cannot be written to.
    """
    if resume is not None:
        require_on_record(locals())
    progress = Silent() if progress is None else progress
    require_kind("progress", progress, Progress, "an object with the methods of a Progress")
    require_flag("pretrain", pretrain)
    require_flag("no_decay", no_decay)
    runs = require_path("runs", runs)
    timeout = None if timeout is None else require_timeout(timeout)
    every = require_seconds("checkpoint_every", checkpoint_every)
    trials = None if trials is None else require_whole("trials", trials, 1, MOST_TRIALS)
    way = stepping(plan, step, lanes, width)
    chosen = in_range(
        tuning_seeds=tuning_seeds, seeds=seeds, cooling=cooling, alpha=alpha, seed=seed, **way
    )
    here = Path.cwd()  # a task may go to another folder
    spaces = {} if space is None else spaces_of(space)
    found = subject_of(task, spaces, timeout, every)
    named = runs / folder_name(found.name, name if resume is None else resume)
    folder = here / named
    if resume is None:
        given = entries("entrants", DEFAULT_ENTRANTS if entrants is None else entrants)
        tuning = entries("tune", tune)
        ways = found.pretrainings() if pretrain else ()
        with chdir(here):
            field = entered(given, tuning, baseline, ways, no_decay)
        field = narrowed(field, found.of_entrants(spaces))
        field = found.entrants(field)
        settings = Settings(
            **found.settings(field),
            **of_field(field, baseline),
            **chosen,
            trials=TRIALS if trials is None else trials,
        )
        command = call(task, given, tuning, baseline, pretrain, no_decay, space, settings)
    else:
        kept, command = Ledger.begun(folder)
        field = on_record(kept)
        trials = kept.trials if trials is None else trials
        settings = replace(kept, **found.settings(field), trials=trials)
    course = Course(found, field, settings, command, named, progress, timeout)
    record = course.run(folder)
    judged = verdict(record)
    best = Recipe.from_toml(judged.recipe) if judged.recipe else None
    return Result(record, judged, best, folder, named)


def subject_of(
    given: Task | Loop | Command | str, spaces: Spaces, timeout: float | None, every: float
) -> Subject:
    """What is to race, as a race sees it."""
    if isinstance(given, Command):
        own = {name: space for name, space in spaces.items() if not of_optimizers(name)}
        given = program(given, own)
    found = find(given)
    return LoopSubject(found, timeout) if isinstance(found, Loop) else TaskSubject(found, every)


def require_on_record(given: Mapping[str, object]) -> None:
    """UserError for an argument that a race which is resumed has on record."""
    for name, known in signature(race).parameters.items():
        if name not in WITH_RESUME and given[name] != known.default:
            raise UserError(f"resume takes {name} from the race's record: leave {name} out.")


def stepping(
    plan: str | Path | None, step: str, lanes: int | None, width: int | None
) -> dict[str, Any]:
    """How members are stepped, as settings by name: from a plan, or as given."""
    if plan is not None:
        if (step, lanes, width) != (MEASURED, None, None):
            raise UserError("a plan gives step, lanes and width: give either it or these.")
        step, lanes, width = plan_file.read(plan)
    return {"step": step, "lanes": lanes, "width": WIDTH if width is None else width}


def in_range(**given: Any) -> dict[str, Any]:
    """These settings by name; UserError for one that no race can have."""
    require_known("cooling", given["cooling"], (*COOLINGS, "tune"))
    require_way(given["step"])
    found = {name: require_whole(name, given[name], *ends) for name, ends in WHOLE.items()}
    lanes = given["lanes"] if given["lanes"] is None else require_lanes(given["lanes"])
    return given | found | {"alpha": require_risk(given["alpha"]), "lanes": lanes}


def folder_name(task: str, name: str | None) -> str:
    """The name that was given, or the task's."""
    return usual_folder(task) if name is None else require_folder_name(name)


def of_field(field: Sequence[Entrant], baseline: str | Recipe | None) -> dict[str, Any]:
    """The settings that follow from who races, by name; the baseline is the last of them."""
    return {
        "entrants": tuple(one.name for one in field),
        "baseline": None if baseline is None else field[-1].name,
        "baseline_tuned": None if baseline is None else baseline_tuned(field, field[-1]),
        "spaces": {one.name: one.space for one in field if one.space},
        "recipes": {one.name: one.recipe.to_toml() for one in field},
        "cooled": tuple(one.name for one in field if one.comes_under_cooling),
    }
