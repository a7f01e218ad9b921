"""How often a comparison is right where the truth is known.

    python benchmarks/calibration.py compare [--comparisons 1000]

Old and new are drawn, not trained. A pair shares what its seed does to both (standard deviation 1),
and each run has noise of its own (standard deviation 1). The truth is by how much new is better, in
standard deviations of that noise. Beside `thalweg compare` stand Optuna's `WilcoxonPruner`, which
stops new where it seems worse and takes the better mean of what was not stopped, and the habit: one
run each, of which the better is kept.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
import optuna
from optuna.pruners import WilcoxonPruner

from machine import save
from thalweg.comparing.looks import Looks
from thalweg.comparing.scores import Scores
from thalweg.statistics import wilson

PAIRS, ALPHA = 40, 0.05

TRUTHS = (0.0, 0.5, 1.0, 2.0)

Floats = np.ndarray[Any, np.dtype[np.float64]]

Draw = Callable[[np.random.Generator], Floats]

NOISES: dict[str, Draw] = {
    "normal": lambda random: random.standard_normal(PAIRS),
    # Student's t with 3 degrees of freedom has standard deviation sqrt(3).
    "heavy tails": lambda random: random.standard_t(3, PAIRS) / math.sqrt(3),
    "one run in ten fails": lambda random: np.where(
        random.random(PAIRS) < 0.1, np.nan, random.standard_normal(PAIRS)
    ),
}


@dataclass(frozen=True)
class Situation:
    """What is true. margin: what a comparison is told is worth having."""

    noise: str
    truth: float
    margin: float | None = None

    def drawn(self, number: int) -> tuple[Floats, Floats]:
        """The scores of old and new in one comparison; less is better."""
        random = np.random.default_rng([number, *self.noise.encode(), int(10 * self.truth)])
        shared, draw = random.standard_normal(PAIRS), NOISES[self.noise]
        return shared + draw(random), shared + draw(random) - self.truth


def by_compare(old: Floats, new: Floats, margin: float | None) -> tuple[str, int]:
    """The answer and the pairs that it took."""
    plan, before = Looks(ALPHA, (PAIRS,)), 0
    while pairs := plan.after(before):
        scores = Scores(("old", "new"), "loss", "min", list(old[:pairs]), list(new[:pairs]))
        answer = scores.answer(plan.level(pairs, before), margin)
        if answer != "cannot tell":
            return answer, pairs
        before = pairs
    return "cannot tell", PAIRS


def by_pruner(old: Floats, new: Floats, _: float | None) -> tuple[str, int]:
    """Optuna's: old is a trial that is complete, new one that reports seed by seed."""
    study = optuna.create_study(pruner=WilcoxonPruner())
    for scores in (old, new):
        trial, told = study.ask(), []
        for seed, score in enumerate(scores):
            if not math.isfinite(score):
                continue
            trial.report(score, seed)
            told.append(score)
            if trial.should_prune():
                return "worse", seed + 1
        study.tell(trial, mean(told))
    return ("better" if study.best_trial.number == 1 else "worse"), PAIRS


def by_habit(old: Floats, new: Floats, _: float | None) -> tuple[str, int]:
    """One run each."""
    if np.isnan(new[0]) or old[0] <= new[0]:
        return "worse", 1
    return "better", 1


METHODS = {"compare": by_compare, "WilcoxonPruner": by_pruner, "best of one run each": by_habit}


def situations() -> Iterator[Situation]:
    for noise in NOISES:
        for truth in TRUTHS:
            yield Situation(noise, truth)
    yield Situation("normal", 0.0, margin=1.0)
    yield Situation("normal", 1.0, margin=1.0)


def measured(situation: Situation, method: str, comparisons: int) -> dict[str, Any]:
    found = [METHODS[method](*situation.drawn(i), situation.margin) for i in range(comparisons)]
    answers = Counter(answer for answer, _ in found)
    return {
        "noise": situation.noise,
        "truth": situation.truth,
        "margin": situation.margin,
        "method": method,
        "comparisons": comparisons,
        "answers": {answer: share(count, comparisons) for answer, count in answers.items()},
        "called": share(answers["better"] + answers["worse"], comparisons),
        "pairs": mean(pairs for _, pairs in found),
    }


def share(count: int, of: int) -> dict[str, float]:
    found = wilson(count, of)
    return {"share": found.estimate, "low": found.low, "high": found.high}


def told(row: dict[str, Any]) -> str:
    answers = ", ".join(
        f"{answer} {100 * found['share']:.1f} %" for answer, found in sorted(row["answers"].items())
    )
    margin = f", margin {row['margin']:g}" if row["margin"] else ""
    return (
        f"{row['method']:>20}, {row['noise']}, truth {row['truth']:g}{margin}: {answers};"
        f" {row['pairs']:.1f} pairs"
    )


def compare(comparisons: int) -> None:
    rows = []
    for situation in situations():
        for method in METHODS if situation.margin is None else ("compare",):
            rows.append(measured(situation, method, comparisons))
            print(told(rows[-1]), flush=True)
    print(save("calibration_compare", {"pairs": PAIRS, "alpha": ALPHA, "rows": rows}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["compare"])
    parser.add_argument("--comparisons", type=int, default=1000)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", module="optuna")  # it tells of runs that failed
    compare(given.comparisons)


if __name__ == "__main__":
    main()
