"""How far the recipe that a race hands back is from the best that anybody finds.

    python benchmarks/regret.py races [TASK ...]
    python benchmarks/regret.py oracle [TASK ...]
    python benchmarks/regret.py rivals [TASK ...] [--only RIVAL ...]
    python benchmarks/regret.py summary [TASK ...]

`races` runs ten races at the defaults. `oracle` looks for the best recipe of each family: hundreds
of quasi-random configurations, of which the best are tried again and again. `rivals` has Optuna
search the joint space of all families, with as many trainings as a race's tuning round, and for as
long, in two processes. `summary` adds to the oracle what races and rivals handed back, judges all,
and writes the figures. The oracle chooses on other seeds than all are judged on, and no race has
either: the best of many is partly luck on the seeds on which it was chosen.

What is done is kept under `--folder`, and each part goes on where it was stopped; a race begins
again, so that its seconds are whole. To measure another search, delete the `races` there: the
scores of recipes stay.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, cast

import numpy as np
import optuna
import torch
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

import thalweg as tw
from machine import save
from picture import take
from regret_figures import Floats, drawn, figures, in_words, lines, listed, reliability
from regret_tasks import TASKS
from thalweg.lanes.lanes import Lanes, one_thread
from thalweg.racing.draws import quantiles, value_at
from thalweg.racing.entrants import DEFAULT_ENTRANTS, entrant, with_cooling
from thalweg.racing.progress import Silent
from thalweg.recipes import Recipe
from thalweg.stack.batches import length_of
from thalweg.stack.member import Member
from thalweg.stack.way import Way
from thalweg.tasks import Task
from thalweg.training.learn import AfterStep
from thalweg.training.train import train_members

FOLDER = Path.home() / ".cache" / "thalweg" / "regret"

FIELD = {name: entrant(name) for name in DEFAULT_ENTRANTS}
SETTINGS = sorted({name for one in FIELD.values() for name in one.space})

RIVALS: dict[str, Callable[..., BaseSampler]] = {"tpe": TPESampler, "gp": GPSampler}
IN_EQUAL_SECONDS = tuple(f"{name}-seconds" for name in RIVALS)
PROCESSES, WIDTH = 2, 32

SCREENING, CHOOSING, JUDGING = 2**31, 3 * 10**9, 4 * 10**9
"""The first of the seeds on which configurations are tried, the oracle chooses, all are judged: all
behind those of races.
"""

UNSEEN = 7_000
"""The seed of the first race: the search was not built with races of such seeds in view."""

Pair = tuple[str, int]
"""A recipe as TOML, and a seed."""


@dataclass(frozen=True)
class Size:
    """How much is measured of a task.

    studies: of each rival, beside the first races. chosen: seeds on which the oracle chooses.
    judged: those on which all are judged. configurations: of a family, on two seeds each; `again`
    of them on eight, and `last` of these on all on which it chooses.
    """

    races: int = 10
    studies: int = 5
    chosen: int = 48
    judged: int = 192
    configurations: int = 256
    again: int = 24
    last: int = 6


QUICK = Size(races=2, chosen=8, judged=8, configurations=16, again=4, last=2)


@dataclass(frozen=True)
class Bench:
    """A task, how much is measured of it, and the folder that keeps what is done."""

    task: Task
    size: Size
    folder: Path

    @cached_property
    def scores(self) -> sqlite3.Connection:
        """The loss by recipe and seed; infinite for a run that diverged."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = sqlite3.connect(self.folder / "scores.sqlite", timeout=600, isolation_level=None)
        columns = "recipe TEXT, seed INTEGER, loss REAL, PRIMARY KEY (recipe, seed)"
        file.execute(f"CREATE TABLE IF NOT EXISTS scores ({columns})")
        return file

    @property
    def known(self) -> dict[Pair, float]:
        return {row[:2]: row[2] for row in self.scores.execute("SELECT * FROM scores")}

    def race(self, seed: int) -> Path:
        return self.folder / "races" / str(seed)

    def journal(self, rival: str, seed: int) -> Path:
        return self.folder / "rivals" / f"{rival}-{seed}.journal"

    @property
    def found(self) -> list[dict[str, Any]]:
        """What the finished races found."""
        paths = [self.race(seed) / "found.json" for seed in range(self.size.races)]
        return [json.loads(path.read_text()) for path in paths if path.exists()]

    @property
    def matched(self) -> list[dict[str, Any]]:
        """What those races found that rivals are matched with."""
        return self.found[: self.size.studies]

    def recipe(self, family: str, point: Mapping[str, float]) -> str:
        """The recipe of a family at a point of its space, cooled as in a race."""
        one, steps = FIELD[family], self.task.total_steps(length_of(self.task))
        values = {name: value_at(space, point[name]) for name, space in one.space.items()}
        return with_cooling(one.configured(values), "linear", steps).to_toml()

    def trained(
        self, pairs: Sequence[Pair], watch: AfterStep | None = None, way: Way = "compiled"
    ) -> list[float]:
        """The losses of these trainings, in one block."""
        members = [Member(Recipe.from_toml(recipe), seed) for recipe, seed in pairs]
        runs = train_members(self.task, members, width=WIDTH, way=way, watch=watch)
        return [run.score if math.isfinite(run.score) else math.inf for run in runs]

    def losses(self, recipes: Sequence[str], first: int, count: int) -> Floats:
        """The losses `[recipes, seeds]` over `count` seeds from `first` on."""
        seeds, known = range(first, first + count), self.known
        wanted = [(recipe, seed) for recipe in dict.fromkeys(recipes) for seed in seeds]
        if missing := [pair for pair in wanted if pair not in known]:
            self.train(missing)
            known = self.known
        return np.array([[known[recipe, seed] for seed in seeds] for recipe in recipes])

    def train(self, pairs: Sequence[Pair]) -> None:
        first, *others = [pairs[start : start + WIDTH] for start in range(0, len(pairs), WIDTH)]
        with one_thread():  # compiled here, before lanes are forked
            self.add(first, self.trained(first))
        with Lanes(self.trained, PROCESSES) as lanes:
            for place, made in lanes.run(others):
                assert not made.failure, made.failure
                self.add(others[place], made.value)

    def add(self, pairs: Sequence[Pair], losses: Sequence[float]) -> None:
        rows = [(*pair, loss) for pair, loss in zip(pairs, losses, strict=True)]
        self.scores.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", rows)


# The races


class TuningClock(Silent):
    """Tells the seconds until the final round begins."""

    def __init__(self) -> None:
        self.began, self.seconds = perf_counter(), math.nan

    def round_began(self, round: str, *_: object) -> None:
        if round == "final":
            self.seconds = perf_counter() - self.began


def races(bench: Bench, given: argparse.Namespace) -> None:
    for seed in range(bench.size.races):
        path = bench.race(seed) / "found.json"
        if not path.exists():
            shutil.rmtree(path.parent, ignore_errors=True)
            found = raced(bench, seed, given.step)
            path.write_text(json.dumps(found, indent=2))
            told = f"{listed(found['shortlist'])} in {found['seconds']:.0f} s"
            print(f"{bench.task.name}, race {seed}: {told}", flush=True)


def raced(bench: Bench, seed: int, step: str) -> dict[str, Any]:
    """What a race of this seed finds. Its tuning round ends where the final one begins."""
    clock, folder = TuningClock(), bench.race(seed)
    place = {"name": folder.name, "runs": folder.parent}
    found = tw.race(bench.task, seed=UNSEEN + seed, step=step, **place, progress=clock)
    command = ["git", "describe", "--always", "--dirty"]
    assert found.best
    return {
        "named": found.verdict.best,
        "recipe": found.best.to_toml(),
        "shortlist": found.verdict.shortlist,
        "step": step,
        "claimed": {one.entrant: one.named for one in found.verdict.summaries},
        "trainings": sum(run.round == "tuning" for run in found.record.runs),
        "tuning seconds": clock.seconds,
        "seconds": perf_counter() - clock.began,
        "processes that wait": os.getloadavg()[0],
        "commit": subprocess.check_output(command, text=True).strip(),
    }


# The oracle


def oracle(bench: Bench, _given: argparse.Namespace) -> None:
    """Tries many configurations of each family, and the best ones again."""
    points = quantiles(bench.size.configurations, SCREENING, SETTINGS)
    for family in FIELD:
        recipes = [bench.recipe(family, point) for point in points]
        for seeds, count in ((2, bench.size.again), (8, bench.size.last)):
            medians = np.median(bench.losses(recipes, SCREENING, seeds), axis=1)
            recipes = [recipes[place] for place in medians.argsort(kind="stable")[:count]]
        least = np.median(bench.losses(recipes, CHOOSING, bench.size.chosen), axis=1).min()
        print(f"{bench.task.name}, {family}: {least:.4g}", flush=True)


def best_recipes(bench: Bench) -> dict[str, str]:
    """Of each family, of all recipes that have all seeds on which the oracle chooses; the best
    family first.
    """
    seeds = range(CHOOSING, CHOOSING + bench.size.chosen)
    losses: dict[str, list[float]] = {}
    for (recipe, seed), loss in bench.known.items():
        if seed in seeds:
            losses.setdefault(recipe, []).append(loss)
    best: dict[str, str] = {}
    for _, recipe in sorted((median(x), recipe) for recipe, x in losses.items()):
        if len(losses[recipe]) == len(seeds):
            best.setdefault(Recipe.from_toml(recipe).name, recipe)
    return best


# The rivals


def rivals(bench: Bench, given: argparse.Namespace) -> None:
    """Has rivals search, with as many trainings as the race of the same seed, or for as long.

    Each process has as many seconds of the processor as the quickest race tuned by the clock: what
    else runs on the machine makes races slower, and no rival.
    """
    seconds = min(one["tuning seconds"] for one in bench.found)
    as_often = [one for one in RIVALS if one in given.only]
    as_long = [one for one in IN_EQUAL_SECONDS if one in given.only]
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        list(pool.map(partial(search_as_often, bench), as_often))
        for rival, seed in product(as_long, range(len(bench.matched))):
            study = study_of(bench, rival, seed)
            if "ended" not in study.user_attrs:
                search = partial(search_as_long, bench, rival, seed, seconds)
                list(pool.map(search, range(PROCESSES)))
                study.set_user_attr("ended", True)


def search_as_often(bench: Bench, rival: str) -> None:
    """Each study asks for one training after another; those of all studies share a block."""
    torch.set_num_threads(1)
    goals = [one["trainings"] for one in bench.matched]
    studies = [study_of(bench, rival, seed) for seed in range(len(goals))]
    pairs = list(zip(studies, goals, strict=True))
    while going_on := [study for study, goal in pairs if len(done(study)) < goal]:
        trials = [study.ask() for study in going_on]
        wanted = [suggested(bench, rival, trial) for trial in trials]
        losses = bench.trained(wanted)
        for study, trial, loss in zip(going_on, trials, losses, strict=True):
            study.tell(trial, loss)


def search_as_long(bench: Bench, rival: str, seed: int, seconds: float, process: int) -> None:
    """Trains one after another, as the plain loop does, beside others that share the study."""
    torch.set_num_threads(1)
    study = study_of(bench, rival, seed, process)
    began = process_time()
    while process_time() - began < seconds:
        trial = study.ask()
        study.tell(trial, bench.trained([suggested(bench, rival, trial)], way="single")[0])


def study_of(bench: Bench, rival: str, seed: int, process: int = 0) -> optuna.Study:
    """The study of a race's seed, which goes on from what is done."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = bench.journal(rival, seed)
    path.parent.mkdir(exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(path)))
    study = optuna.create_study(storage=storage, study_name=rival, load_if_exists=True)
    sampler = RIVALS[rival.removesuffix("-seconds")]
    study.sampler = sampler(seed=10_000 * seed + 1_000 * process + len(done(study)))
    return study


def suggested(bench: Bench, rival: str, trial: optuna.Trial) -> Pair:
    """The training that a rival asks for, on a seed of its own.

    TPE is asked for the settings of the family alone. The Gaussian process draws at random what
    depends on another choice, so that it is asked for all settings, which families share by name.
    """
    family = trial.suggest_categorical("family", DEFAULT_ENTRANTS)
    own = {name: f"{family} {name}" for name in FIELD[family].space}
    asked = own if rival.startswith("tpe") else {name: name for name in SETTINGS}
    point = {name: trial.suggest_float(known_as, 0, 1) for name, known_as in asked.items()}
    recipe = bench.recipe(family, point)
    trial.set_user_attr("recipe", recipe)
    return recipe, trial.number


def done(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])


def handed_back(bench: Bench, rival: str) -> list[tuple[str, int]]:
    """The recipe with the best score of each study that has ended, and the trainings."""
    found = []
    for seed, race in enumerate(bench.matched):
        if bench.journal(rival, seed).exists():
            study = study_of(bench, rival, seed)
            trials = done(study)
            as_often = rival in RIVALS and len(trials) >= race["trainings"]
            if as_often or "ended" in study.user_attrs:
                best = min(trials, key=lambda trial: cast("float", trial.value))
                found.append((best.user_attrs["recipe"], len(trials)))
    return found


# The figures


def figures_of(bench: Bench) -> dict[str, Any]:
    """All figures of a task, from what is done at least twice; trains what is missing for them."""
    back = {"race": [(one["recipe"], one["trainings"]) for one in bench.found]}
    back |= {rival: handed_back(bench, rival) for rival in (*RIVALS, *IN_EQUAL_SECONDS)}
    searches = {
        who: list(zip(*found, strict=True)) for who, found in back.items() if len(found) > 1
    }
    handed = [recipe for recipes, _ in searches.values() for recipe in recipes]
    bench.losses(handed, CHOOSING, bench.size.chosen)
    best, judge = best_recipes(bench), partial(bench.losses, first=JUDGING, count=bench.size.judged)
    losses = dict(zip(best, judge(list(best.values())), strict=True))
    judged = {who: judge(recipes) for who, (recipes, _) in searches.items()}
    trainings = {who: median(counts) for who, (_, counts) in searches.items()}
    found = figures(bench.found, losses, judged)
    return found | {"trainings": trainings, "best recipes": best, "each race": bench.found}


def summary(benches: Sequence[Bench]) -> None:
    measured = {bench.task.name: figures_of(bench) for bench in benches if len(bench.found) > 1}
    for name, found in measured.items():
        print("\n  ".join([name, *lines(found)]))
    claims = [claim for found in measured.values() for claim in found["claimed and held"]]
    held = reliability(claims)
    for one in held:
        print(f"{one['claims']} claims of {one['claimed']:.2f} on average: {in_words(one)}")
    take(drawn(held), "certainty")
    print(f"written to {save('regret', {'tasks': measured, 'reliability': held})}")


PARTS = {"races": races, "oracle": oracle, "rivals": rivals}


def main() -> None:
    every_rival = [*RIVALS, *IN_EQUAL_SECONDS]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=[*PARTS, "summary"])
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"all of {listed(TASKS)}")
    parser.add_argument("--only", nargs="+", choices=every_rival, default=every_rival)
    parser.add_argument("--step", default="measured", help="the way of stepping in races")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="that keeps what is done")
    parser.add_argument("--quick", action="store_true", help="little, to see that all runs")
    given = parser.parse_args()
    size, folder = (QUICK, given.folder / "quick") if given.quick else (Size(), given.folder)
    benches = [Bench(TASKS[name], size, folder / name) for name in given.tasks or TASKS]
    if given.part == "summary":
        summary(benches)
    else:
        for bench in benches:
            PARTS[given.part](bench, given)


if __name__ == "__main__":
    main()
