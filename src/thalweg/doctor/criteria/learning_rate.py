"""The learning rate: too high, too low, at its limit, or decayed too early."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thalweg import rules
from thalweg.doctor.criteria import names
from thalweg.doctor.criteria.criterion import Fact, Picture, Suspicion, around, criterion, exactly
from thalweg.doctor.readings.stability import Stability
from thalweg.doctor.readings.step import SeenStep
from thalweg.doctor.trials import remedies
from thalweg.doctor.trials.trial import Remedy
from thalweg.doctor.watch.course import Case
from thalweg.statistics import median_interval, wilson

FACTORS = (3.0, 10.0, 30.0)
"""Rates that are tried, as multiples or parts of the rate in use."""

SHORT = 3.0
"""A step is short where its best length, on its own batch, is this many times as long."""

FIRST, EARLY = 10, 1 / 3
"""Alarm where more than this share of this number of first steps overshoots."""

AT_LIMIT, FADED = 0.8, 2.0
"""Notes from this share of the largest stable curvature on, and alarm where early effective rates
are more than this many times the late ones."""


@criterion(80)
def rate_too_high(case: Case) -> Suspicion | None:
    """Most steps overshoot, or a third of the first ones, or one lost a fifth of the loss's fall.

    It is normal at the edge of stability and in mini-batches that steps go further than is best.
    The trial tells whether it costs anything.
    """
    told = [step.overshoots for step in case.course.steps.values() if step.overshoots is not None]
    if not told:
        return None
    share, early = (wilson(sum(some), len(some)) for some in (told, told[:FIRST]))
    if not (case.diverged or share.estimate > 0.5 or early.estimate > EARLY or jumped(case)):
        return None
    return Suspicion(
        names.RATE_TOO_HIGH,
        sentence=f"The steps are long: {share.estimate:.0%} of them, and {early.estimate:.0%} of"
        f" the first {FIRST} that were looked at, go further than is best for their own batch.",
        prescription="a lower learning rate, or cooling",
        standing="The loss along each step, by three values (Goodfellow et al. 2016, 4.3.1)."
        " Without a trial it is no alarm, since steps at the edge of stability overshoot too.",
        facts=(
            Fact("share of steps that overshoot", share, case.last_step),
            Fact("share of the first that do", early, case.last_step),
        ),
        picture=along_training(case),
        remedies=other_rates(case, [1 / factor for factor in FACTORS]),
        explains=(
            *(names.CLIFFS, names.DEAD_UNITS, names.NARROW_VALLEY, names.SADDLE),
            *(names.DIVERGENCE, names.NOISE, names.RATE_TOO_LOW),
        ),
    )


@criterion(150)
def divergence(case: Case) -> Suspicion | None:
    """Training diverged; the other findings may say why."""
    if not case.diverged:
        return None
    return Suspicion(
        names.DIVERGENCE,
        f"Training diverged: {case.diverged}.",
        "a lower learning rate, clipping, or inputs of one scale",
        "Seen as it happened.",
        proven=True,
    )


def jumped(case: Case) -> bool:
    """Whether a step that was looked at raised the loss of its batch by a fifth of its fall."""
    steps = case.course.steps.values()
    return any(step.change > max(case.fall / 5, step.round_off) for step in steps)


@criterion(140)
def rate_too_low(case: Case) -> Suspicion | None:
    """In the first half of the training most steps are much shorter than is best."""
    early = [x for step, x in case.course.steps.items() if step <= case.steps / 2]
    best = [step.best for step in early if abs(step.slope) > step.round_off]
    if len(best) < 3:
        return None
    short = wilson(sum(x >= SHORT for x in best), len(best))
    if short.estimate < 0.5:
        return None
    return Suspicion(
        names.RATE_TOO_LOW,
        sentence=f"The steps are short: {short.estimate:.0%} of the early ones could be {SHORT:g}"
        " times as long before the loss of their batch rises again.",
        prescription="a higher learning rate",
        standing="The best length of a step on its own batch is longer than the best for training,"
        " so that without a trial it is no alarm.",
        facts=(
            Fact(f"share of steps that are {SHORT:g} times too short", short, case.last_step),
            Fact("best length over that taken", median_interval(best, "min"), case.last_step),
        ),
        picture=along_training(case),
        remedies=other_rates(case, FACTORS),
        explains=(names.NARROW_VALLEY, names.UNSCALED, names.SADDLE),
    )


@criterion(170)
def rate_at_limit(case: Case) -> Suspicion | None:
    """The curvature is at the largest that is stable with the recipe, which is no fault."""
    found = case.course.last(Stability)
    if found is None or found[1].ratio.value < AT_LIMIT:
        return None
    step, seen = found
    ratio = around(seen.ratio.value, seen.ratio.error)
    return Suspicion(
        "the rate is at its limit",
        sentence=f"The curvature is {ratio.estimate:.2f} of the largest that is stable with"
        f" {seen.groups[0].rule} at its learning rate: a longer step would oscillate.",
        prescription="nothing by itself; cooling if the loss stands still",
        standing="Training goes to this edge by itself and stays there (Cohen et al. 2021 and"
        " 2022), so that it is no fault.",
        facts=(Fact("sharpness over its limit", ratio, step),),
    )


@criterion(100)
def rates_decayed(case: Case) -> Suspicion | None:
    """AdaGrad's sum of squares has made the rates small before the training was done."""
    recipe = case.recipe
    if not (recipe and remedies.steps_by(recipe, rules.Adagrad)) or len(case.course.steps) < 10:
        return None
    seen = list(case.course.steps.values())
    fifth = len(seen) // 5
    early = np.median([rate_of(step) for step in seen[:fifth]])
    late = np.median([rate_of(step) for step in seen[-fifth:]])
    best = np.median([step.best for step in seen[-fifth:]])
    if not (early > FADED * late and best >= SHORT):
        return None
    fall = float(early / late)
    return Suspicion(
        "rates decayed too early",
        sentence=f"AdaGrad's effective rates have fallen to 1/{fall:.0f} of what they were, while"
        f" its steps could still be {best:.1f} times as long.",
        prescription="a method that forgets: RMSProp or Adam, or a higher learning rate",
        standing="AdaGrad divides by the root of a sum that only grows (Goodfellow et al. 2016,"
        " 8.5.1).",
        facts=(Fact("early over late effective rate", exactly(fall), case.last_step),),
        remedies=(*remedies.forgetting(), *remedies.rates(recipe, (10.0,))),
        explains=(names.RATE_TOO_LOW,),
    )


def rate_of(step: SeenStep) -> float:
    """The effective rate of a step, by the median of its parameters."""
    return float(np.median([rate for rate in step.rates.values() if rate] or [0.0]))


def other_rates(case: Case, factors: Sequence[float]) -> tuple[Remedy, ...]:
    return remedies.rates(case.recipe, factors) if case.recipe else ()


def along_training(case: Case) -> Picture:
    steps, losses = case.course.series("loss")
    return Picture("Loss of the batches looked at", "step", "loss", {"loss": (steps, list(losses))})
