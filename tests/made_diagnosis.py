"""A diagnosis made by hand, with one of everything that a report has to show."""

from __future__ import annotations

import math

import torch

from thalweg.doctor.criteria.criterion import Fact, Picture, Suspicion, around, exactly
from thalweg.doctor.judge.diagnosis import Diagnosis
from thalweg.doctor.judge.finding import Finding, Severity
from thalweg.doctor.objective.objective import Conditions
from thalweg.doctor.readings.step import SeenStep
from thalweg.doctor.trials.trial import LEVEL, MATERIAL, Trial
from thalweg.doctor.watch.budget import TimeSpent
from thalweg.doctor.watch.history import Case, History
from thalweg.doctor.watch.stopwatch import Seconds
from thalweg.recipes import named
from thalweg.statistics import Interval, compare

WITHOUT = (2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6, 2.7)


def made_diagnosis(markup: str = "", parameters: int = 2) -> Diagnosis:
    """An ill finding with a symptom, a suspected one and a note; `markup` stands in every text."""
    symptom = finding(
        f"noise {markup}", "ill", [trial("cooling to 0", shifted(0.3))], picture=lines(markup)
    )
    cause = finding(
        f"rate {markup}",
        "ill",
        [
            trial(f"lr = 0.1 {markup}", shifted(1.0)),
            trial("lr = 0.01", shifted(0.01), share=MATERIAL / 2),
            trial("lr = 10", (math.nan,) * 8),
        ],
        picture=lines(markup),
        symptoms=(symptom,),
    )
    suspected = finding("saddle", "suspected", [], untried=f"trials were switched off {markup}")
    note = finding("unscaled inputs", "note", [trial("standardized inputs", shifted(-0.5))])
    return Diagnosis(
        task=f"digits {markup}",
        recipe="adam",
        metric=f"log-loss {markup}",
        findings=(cause, suspected, note),
        case=case(parameters, markup),
        unread={"modes": f"The model has no batch normalization {markup}."},
        time_spent={"gradient norm": TimeSpent(30, 0.3), "stability": TimeSpent(3, 1.2)},
        share=0.75,
    )


def nothing_seen() -> Diagnosis:
    """Of a training that was not looked at."""
    seen = Case(History(), None, 10, 4, "", ())
    return Diagnosis("digits", "adam", "log-loss", (), seen, {}, {}, 0.0)


def shifted(gain: float) -> tuple[float, ...]:
    return tuple(score - gain for score in WITHOUT)


def trial(words: str, with_it: tuple[float, ...], share: float = 0.5) -> Trial:
    gain = compare(with_it, WITHOUT, "min", LEVEL)
    return Trial(words, WITHOUT, with_it, gain, (1 - share, 1.0), 1.0, since=30, steps=162)


def finding(
    name: str,
    severity: Severity,
    trials: list[Trial],
    *,
    picture: Picture | None = None,
    untried: str = "",
    symptoms: tuple[Finding, ...] = (),
) -> Finding:
    facts = (
        Fact(f"share of {name}", around(0.25, 0.125), 90),
        Fact("count", exactly(17), 30),
        Fact("ratio without an end", Interval(math.nan, -math.inf, math.inf), 10),
    )
    suspicion = Suspicion(
        name,
        f"The sentence of {name}.",
        f"the prescription of {name}",
        f"The standing of {name} (Author 2014).",
        facts,
        picture,
    )
    return Finding(suspicion, severity, tuple(trials), untried, symptoms)


def lines(markup: str) -> Picture:
    return Picture(
        f"Signals {markup}",
        "call",
        f"size {markup}",
        {f"backward {markup}": ([0, 1, 2], [1e-4, 1e-2, 1.0]), "forward": ([0, 1], [0.0, 2.0])},
        log=True,
    )


def case(parameters: int, markup: str) -> Case:
    names = [f"layer {i} {markup}" for i in range(parameters)]
    steps = {step: seen(step, names) for step in range(0, 30, 3)}
    history = History(30, {step: torch.tensor(1.0 + step) for step in range(30)}, steps)
    seconds = (Seconds("backward", Interval(2e-3, 1e-3, 3e-3), 0.6, 0.75),)
    return Case(history, named("adam"), 192, 64, "", seconds)


def seen(step: int, names: list[str]) -> SeenStep:
    """With the best at 2.5, 0.5 and nowhere in turn, and a rate of a tenth by parameter."""
    slope, bend = -1.0, (0.2, 1.0, -1.0)[step // 3 % 3]
    return SeenStep(
        slope=slope,
        bend=bend,
        loss=3.0 - step / 30,
        change=slope + bend,
        round_off=1e-6,
        gradient=1.0,
        length=0.1,
        gradient_cosine=0.5 if step else None,
        velocity_cosine=-0.5 if step else None,
        rates=dict.fromkeys(names, 0.1),
        conditions=Conditions(64, 1, "training", "float32"),
    )
