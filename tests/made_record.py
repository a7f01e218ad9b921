"""Records of races that nobody ran: drawn at random, judged by the looks of a real race."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from thalweg.racing.record import (
    Certainty,
    Configuration,
    Cost,
    Departure,
    Edge,
    Look,
    Record,
    RunRecord,
    Settings,
    Stop,
)
from thalweg.racing.search import Search
from thalweg.recipes import RECIPES, Recipe
from thalweg.rules.space import log
from thalweg.schedules import linear
from thalweg.statistics import level_at, looks, shortlist
from thalweg.training.run import Evaluation

STEPS = 400
FAILS = "loss is not finite"

MADE = Settings(
    task="made",
    metric="loss",
    direction="min",
    target=None,
    steps=100,
    entrants=("sgd", "adam"),
    trials=24,
    tuning_seeds=8,
    seeds=2,
    cooling="none",
    baseline=None,
    alpha=0.05,
    seed=0,
    width=4,
)
"""The settings of a race in which nobody is tuned, for tests to change."""


def made_record(
    losses: Mapping[str, float],
    *,
    seeds: int = 40,
    trials: int = 24,
    tuning_seeds: int = 8,
    noise: float = 1e-2,
    failing: Mapping[str, float] | None = None,
    direction: Literal["min", "max"] = "min",
    baseline: str | None = None,
    target: float | None = None,
    task: str = "digits",
    finished: bool = True,
    edges: Sequence[Edge] = (),
    stops: Sequence[Stop] = (),
    certainties: Sequence[Certainty] = (),
) -> Record:
    """A race in which each entrant's final loss is `losses[entrant]` with noise of its own.

    failing: by entrant, the share of final runs that diverge; 1 keeps it out of the final. stops:
    who got no further points. Points that are refined lie close to the best lr, which is 0.01 for
    all. A metric to raise is 1 minus the loss.
    """
    drawn, rng = np.random.default_rng(0), np.random.default_rng(7)
    failing = failing or {}
    sign = 1 if direction == "min" else -1

    def run(
        round_: Literal["tuning", "final"],
        entrant: str,
        index: int,
        seed: int,
        loss: float,
        fails: bool,
    ) -> RunRecord:
        steps = np.linspace(0, STEPS, 21)[1:].astype(int)
        path = loss + (0.7 - loss) * np.exp(-steps / 60)
        scores = path if direction == "min" else 1 - path
        curve = tuple(
            Evaluation(int(s), float(p) * 0.9, float(v), {"accuracy": 1 - float(v)})
            for s, p, v in zip(steps, path, scores, strict=True)
        )
        if fails:
            return RunRecord(round_, entrant, index, seed, math.nan, 137, FAILS, curve[:6])
        ended = float(scores[-1]) + 0.01 * sign
        opened = round_ == "final" and finished
        test = {"loss": ended, "accuracy": 1 - ended} if opened else {}
        return RunRecord(round_, entrant, index, seed, curve[-1].metric, None, None, curve, test)

    settings = replace(
        MADE,
        task=task,
        direction=direction,
        target=target,
        steps=STEPS,
        entrants=tuple(losses),
        trials=trials,
        tuning_seeds=tuning_seeds,
        seeds=seeds,
        cooling="linear",
        baseline=baseline,
        width=64,
        spaces={name: {"lr": log(1e-4, 1)} for name in losses},
        cooled=tuple(losses),
    )
    search = Search([], settings, {})
    shared = {
        seed: 2 * noise * drawn.normal() for seed in (*search.seeds.tuning, *search.seeds.further)
    }
    stopped = {stop.entrant: stop.trials for stop in stops}
    configurations, runs, chosen = [], [], {}
    for entrant, loss in losses.items():
        never = failing.get(entrant) == 1
        ended: dict[int, float] = {}
        fails: set[int] = set()
        for index in range(stopped.get(entrant, trials)):
            refined = index >= search.explored
            away = drawn.uniform(-0.5, 0.5) if refined else drawn.uniform(-2, 2)
            lr = float(10 ** (away - 2))
            toml = recipe(entrant, lr).to_toml()
            configurations.append(Configuration(entrant, index, {"lr": lr}, toml, refined))
            ended[index] = loss + 0.1 * away**2
            if never or lr > 0.5:
                fails.add(index)
        asked = [(index, search.seed_of(index)) for index in ended]
        best = sorted(ended.keys() - fails, key=ended.__getitem__)
        asked += [(index, seed) for index in best[: search.again] for seed in search.seeds.further]
        for index, seed in asked:
            noisy = ended[index] + shared[seed] + noise * drawn.normal()
            runs.append(run("tuning", entrant, index, seed, noisy, index in fails))
        if best:
            chosen[entrant] = best[0]

    alive, scores, looked = tuple(chosen), {name: [] for name in chosen}, []
    done = 0
    for n in looks(seeds) if alive else ():
        for seed in range(done, n):
            of_seed = 2 * noise * rng.normal()
            for entrant in alive:
                loss = losses[entrant] + of_seed + noise * rng.normal()
                lost = rng.uniform() < failing.get(entrant, 0)
                one = run("final", entrant, chosen[entrant], seed, loss, lost)
                runs.append(one)
                scores[entrant].append(one.score)
        done = n
        if len(alive) < 2:
            continue
        found = shortlist(scores, alive, level_at(n, seeds, 0.05), direction)
        left = tuple(Departure(d.name, d.beaten_by, d.p) for d in found.departures)
        looked.append(Look(n, found.level, alive, left))
        alive = found.remaining
        if len(alive) == 1:
            break

    costs = {
        name: Cost(name, step, 0.99 * step, 1.01 * step, 3e-4, float(i % 3))
        for i, name in enumerate(losses)
        for step in [1e-3 * (1 + i / 4)]
    }
    machine = {"processor": "two cores", "python": "3.11.7", "torch": "2.13.0"}
    return Record(
        settings,
        tuple(configurations),
        tuple(runs),
        tuple(stops),
        chosen,
        tuple(looked),
        costs,
        tuple(edges),
        tuple(certainties),
        (),
        finished,
        machine,
        f"thalweg race {shlex.quote(task)}",
        Path("runs") / task,
    )


def recipe(entrant: str, lr: float) -> Recipe:
    """The named recipe of that name, plain descent under that name where there is none."""
    made = RECIPES.get(entrant, RECIPES["sgd"])(lr=linear(lr, steps=STEPS))
    return Recipe(made.rules, entrant)
