"""What each trick of the trade changes on the bundled tasks, and where it does not help.

    python benchmarks/tricks.py [--trials N] [--seeds N]

Both sides of a comparison are tuned in one race: the same number of configurations, each in its own
search space, first at the same quasi-random points. The best of each is trained over fresh seeds,
the same for all, and their metrics on test data are compared seed by seed. Nobody leaves such a
race early, so that every comparison has all seeds. The table goes into the README.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import thalweg as tw
from machine import save
from thalweg import recipes, schedules
from thalweg.racing.entrants import Entrant, twin
from thalweg.racing.wording import signed
from thalweg.recipes import PRETRAINING, Recipe
from thalweg.rules.space import Space, log
from thalweg.rules.tuning import documented
from thalweg.stack.batches import length_of
from thalweg.statistics import Comparison, compare, median_interval
from thalweg.tasks import Task, find

README = Path(__file__).parents[1] / "README.md"
MARKS = "<!-- tricks -->\n", "<!-- end of tricks -->\n"

NOBODY_LEAVES = 1e-12
"""A risk so small that no lead sends anybody off the shortlist."""

NEGLIGIBLE = 0.05
"""Of the metric without the trick, or of the task's target where that is more: what surely changes
it by less is little."""

EVERYDAY = ("digits", "digits-deep", "diabetes")
VALLEYS = ("ravine", "ravine-rotated", "rosenbrock")
ADAPTIVE = ("delta-bar-delta", "adagrad", "rmsprop", "adam")

TRICKS = (
    ("cooling", "sgd, constant lr", "sgd", ("digits", "diabetes", "adding")),
    ("cooling", "adam, constant lr", "adam", ("digits", "diabetes")),
    ("momentum", "sgd", "momentum", (*EVERYDAY, "adding", *VALLEYS)),
    ("momentum warming", "momentum 0.99", "momentum 0.5 to 0.99", ("digits", "diabetes", *VALLEYS)),
    ("Nesterov", "momentum", "nesterov", (*EVERYDAY, "adding", *VALLEYS)),
    *((name, "sgd", name, (*EVERYDAY, *VALLEYS)) for name in ADAPTIVE),
    ("clipping", "sgd", "sgd, clipped", ("cliff", "adding", "digits")),
    ("averaging", "sgd, constant lr", "sgd, constant lr, averaged", ("digits", "diabetes")),
    ("averaging", "sgd", "sgd, averaged", ("digits", "diabetes")),
    ("batch normalization", "sgd", "sgd (normalized)", ("digits-deep", "digits")),
    ("batch normalization", "adam", "adam (normalized)", ("digits-deep", "digits")),
    ("pre-training by task", "adam", "adam (by task)", ("waveform", "adding", "digits")),
    ("pre-training by network", "sgd", "sgd (by network)", ("digits-deep",)),
    ("pre-training by network", "adam", "adam (by network)", ("digits-deep",)),
)
"""Each trick: who goes without it, who has it, and where."""

NORMALIZED = " (normalized)"

Scores = dict[int, float]
"""A metric on test data by seed; nan where the run diverged."""


@dataclass(frozen=True)
class Answer:
    """What a trick changes on a task, whose metric is to be low.

    medians: of the metric without the trick and with it; nan where most runs diverged. gain: of
    having it, positive where it is better, over paired seeds. target: the task's.
    """

    trick: str
    task: str
    metric: str
    sides: tuple[str, str]
    medians: tuple[float, float]
    gain: Comparison
    target: float

    @property
    def verdict(self) -> str:
        small = NEGLIGIBLE * max(self.medians[0], self.target)
        if -small < self.gain.low and self.gain.high < small:
            return "changes little"
        if self.gain.better:
            return "helps"
        return "hurts" if self.gain.worse else "cannot tell"

    @property
    def change(self) -> tuple[float, float, float]:
        """With the trick minus without, and its interval, in units of the metric."""
        return 0 - self.gain.estimate, 0 - self.gain.high, 0 - self.gain.low


def entrant(name: str, steps: int) -> Entrant:
    """Who races under a name, in a training of so many steps."""
    for kind in PRETRAINING:
        if name.endswith(f" ({kind})"):
            return twin(entrant(name.removesuffix(f" ({kind})"), steps), kind)
    sgd, rate = recipes.sgd(), {"lr": documented(recipes.momentum().tunables)["lr"]}
    average = recipes.tail_average(last=steps // 4, steps=steps)
    warming = schedules.warming(0.5, 0.99, steps=steps)
    special = {
        "sgd, constant lr": tuned(sgd, cooled=False),
        "adam, constant lr": tuned(recipes.adam(), cooled=False),
        "sgd, averaged": tuned(recipes.chain(sgd, average)),
        "sgd, constant lr, averaged": tuned(recipes.chain(sgd, average), cooled=False),
        "sgd, clipped": tuned(recipes.chain(recipes.clip_value(1), sgd), clip_value=log(1e-2, 1e2)),
        "momentum 0.99": Entrant(name, recipes.momentum(momentum=0.99), rate),
        "momentum 0.5 to 0.99": Entrant(name, recipes.momentum(momentum=warming), rate),
    }
    return replace(special.get(name) or tuned(recipes.named(name)), name=name)


def tuned(recipe: Recipe, cooled: bool = True, **further: Space) -> Entrant:
    return Entrant(recipe.name, recipe, documented(recipe.tunables) | further, cooled)


def normalized(task: Task) -> Task:
    """The task with batch normalization in its model, which can then not be grown."""
    model = task.model
    return replace(task, model=lambda: tw.nn.with_batch_norm(model()), blocks=None, head=None)


def test_scores(task: Task, names: list[str], given: argparse.Namespace) -> dict[str, Scores]:
    """The metric of each on test data, over the fresh seeds of a race."""
    steps = task.total_steps(length_of(task))
    field = [entrant(name, steps) for name in names]
    with TemporaryDirectory() as runs:
        asked = {"trials": given.trials, "seeds": given.seeds, "alpha": NOBODY_LEAVES}
        record = tw.race(task, field, **asked, step="stacked", runs=runs).record
    final = [run for run in record.runs if run.round == "final"]
    # One that diverged with every configuration is not in the final.
    scores = {name: dict.fromkeys((run.seed for run in final), math.nan) for name in names}
    for run in final:
        scores[run.entrant][run.seed] = run.test.get(task.metric_name, math.nan)
    return scores


def scores_on(task: Task, given: argparse.Namespace) -> dict[str, Scores]:
    """Those of all that any trick asks for on a task."""
    sides = [side for _, *both, tasks in TRICKS if task.name in tasks for side in both]
    names = list(dict.fromkeys(sides))
    plain = [name for name in names if not name.endswith(NORMALIZED)]
    scores = test_scores(task, plain, given)
    if others := [name.removesuffix(NORMALIZED) for name in names if name not in plain]:
        found = test_scores(normalized(task), others, given)
        scores |= {name + NORMALIZED: found[name] for name in others}
    return scores


def answers(task: Task, scores: Mapping[str, Scores]) -> Iterator[Answer]:
    for trick, without, with_it, tasks in TRICKS:
        if task.name in tasks:
            seeds = sorted(scores[without])
            assert task.better == "min"
            pair = [[scores[side][seed] for seed in seeds] for side in (without, with_it)]
            yield Answer(
                trick=trick,
                task=task.name,
                metric=task.metric_name,
                sides=(without, with_it),
                medians=tuple(median_interval(one, "min").estimate for one in pair),
                gain=compare(pair[1], pair[0], "min"),
                target=task.target or 0.0,
            )


# What is told


def table(found: list[Answer], given: argparse.Namespace) -> str:
    """The answers as Markdown, trick by trick."""
    lines = [
        f"{given.trials} configurations a side, {given.seeds} seeds:",
        "",
        "| trick | task | without → with | metric | change (95 %) | better | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(line(one) for one in found),
    ]
    return "\n".join(lines) + "\n"


def line(one: Answer) -> str:
    estimate, low, high = (signed(value, 2) for value in one.change)
    before, after = (number(median) for median in one.medians)
    cells = (
        one.trick,
        f"`{one.task}`",
        " → ".join(one.sides),
        f"{before} → {after}",
        f"{estimate} ({low} to {high})",
        f"{one.gain.wins:.0%}",
        one.verdict if one.verdict != "helps" else "**helps**",
    )
    return f"| {' | '.join(cells)} |"


def number(value: float) -> str:
    return "diverged" if math.isnan(value) else f"{value:.3g}"


def put_into_readme(text: str) -> None:
    """Between the two marks."""
    begin, end = MARKS
    before, _, rest = README.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    README.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def as_data(one: Answer) -> dict[str, Any]:
    change = dict(zip(("estimate", "low", "high"), map(plain, one.change), strict=True))
    return {
        "trick": one.trick,
        "task": one.task,
        "metric": one.metric,
        "target": one.target,
        "without": one.sides[0],
        "with": one.sides[1],
        "medians": [*map(plain, one.medians)],
        "change": change,
        "better": one.gain.wins,
        "ties": one.gain.ties,
        "verdict": one.verdict,
    }


def plain(value: float) -> float | str:
    """JSON has no infinity and no not-a-number."""
    return value if math.isfinite(value) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=20)
    given = parser.parse_args()
    found: list[Answer] = []
    began = perf_counter()
    for name in dict.fromkeys(name for *_, tasks in TRICKS for name in tasks):
        task = find(name)
        found += answers(task, scores_on(task, given))
        print(f"{name}: {perf_counter() - began:.0f} s", flush=True)
    tricks = list(dict.fromkeys(trick for trick, *_ in TRICKS))
    found.sort(key=lambda one: tricks.index(one.trick))
    put_into_readme(table(found, given))
    results = {**vars(given), "seconds": perf_counter() - began, "rows": [*map(as_data, found)]}
    print(f"written to {save('tricks', results)} and {README}")


if __name__ == "__main__":
    main()
