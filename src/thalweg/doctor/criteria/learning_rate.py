"""A learning rate that is too high, too low, at its limit, or that decays too early."""

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
from thalweg.doctor.watch.history import Case
from thalweg.statistics import median_interval, wilson

FACTORS = (3.0, 10.0, 30.0)
"""The rate in use is multiplied or divided by these factors, and the new rates are tried."""

SHORT = 3.0
"""A step is short where the best step in its direction, on its own batch, is this much longer."""

FIRST, EARLY = 10, 1 / 3
"""Alarm where more than the share EARLY of the FIRST measured steps overshoots."""

AT_LIMIT, FADED = 0.8, 2.0
"""Note where the curvature reaches the share AT_LIMIT of the largest stable one. Alarm where early
effective rates are more than FADED times the late ones."""


@criterion(80)
def rate_too_high(case: Case) -> Suspicion | None:
    """Many steps overshoot: they go further than is best for their own batch.

    The alarm is raised where most steps overshoot, or a third of the first ones, or where one step
    raised the loss by a fifth of its fall so far. It is normal at the edge of stability and with
    mini-batches that steps overshoot. The trial tells whether this does harm.
    """
    told = [step.overshoots for step in case.history.steps.values() if step.overshoots is not None]
    if not told:
        return None
    share, early = (wilson(sum(some), len(some)) for some in (told, told[:FIRST]))
    if not (case.diverged or share.estimate > 0.5 or early.estimate > EARLY or jumped(case)):
        return None
    return Suspicion(
        names.RATE_TOO_HIGH,
        sentence=f"The steps are long: {share.estimate:.0%} of them, and {early.estimate:.0%} of"
        f" the first {FIRST} that were measured, go further than is best for their own batch.",
        prescription="a lower learning rate, or cooling",
        standing="The loss is measured at three points of each step (Goodfellow et al. 2016,"
        " 4.3.1). Without a trial it is no alarm, because steps at the edge of stability overshoot"
        " too.",
        facts=(
            Fact("share of steps that overshoot", share, case.last_step),
            Fact("share of the first steps that do", early, case.last_step),
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
    """The loss, the gradient or the weights became infinite, or not a number."""
    if not case.diverged:
        return None
    return Suspicion(
        names.DIVERGENCE,
        f"Training diverged: {case.diverged}.",
        "a lower learning rate, clipping, or inputs of one scale",
        "The divergence itself was observed.",
        proven=True,
    )


def jumped(case: Case) -> bool:
    """Whether a measured step raised the loss of its batch by a fifth of the loss's fall."""
    steps = case.history.steps.values()
    return any(step.change > max(case.fall / 5, step.round_off) for step in steps)


@criterion(140)
def rate_too_low(case: Case) -> Suspicion | None:
    """In the first half of the training, most steps are much shorter than is best."""
    early = [x for step, x in case.history.steps.items() if step <= case.steps / 2]
    best = [step.best for step in early if abs(step.slope) > step.round_off]
    if len(best) < 3:
        return None
    short = wilson(sum(x >= SHORT for x in best), len(best))
    if short.estimate < 0.5:
        return None
    return Suspicion(
        names.RATE_TOO_LOW,
        sentence=f"The steps are short: {short.estimate:.0%} of the early steps could be {SHORT:g}"
        " times as long before the loss of their batch rises again.",
        prescription="a higher learning rate",
        standing="The best length of a step for its own batch is longer than the best length for"
        " the whole training, so without a trial it is no alarm.",
        facts=(
            Fact(f"share of steps that are {SHORT:g} times too short", short, case.last_step),
            Fact("best length over actual length", median_interval(best, "min"), case.last_step),
        ),
        picture=along_training(case),
        remedies=other_rates(case, FACTORS),
        explains=(names.NARROW_VALLEY, names.UNSCALED, names.SADDLE),
    )


@criterion(170)
def rate_at_limit(case: Case) -> Suspicion | None:
    """The curvature is near the largest that is stable with the recipe, which is no fault."""
    found = case.history.last(Stability)
    if found is None or found[1].ratio.value < AT_LIMIT:
        return None
    step, seen = found
    ratio = around(seen.ratio.value, seen.ratio.error)
    return Suspicion(
        "the rate is at its limit",
        sentence=f"The curvature is {ratio.estimate:.2f} of the largest that is stable with"
        f" {seen.groups[0].rule} at its learning rate: longer steps would oscillate.",
        prescription="no change is needed; cooling may help if the loss no longer falls",
        standing="Training goes to this edge by itself and stays there (Cohen et al. 2021 and"
        " 2022), so it is no fault.",
        facts=(Fact("sharpness over its limit", ratio, step),),
    )


@criterion(100)
def rates_decayed(case: Case) -> Suspicion | None:
    """AdaGrad's sum of squared gradients has made the rates small long before the training ends."""
    recipe = case.recipe
    if not (recipe and remedies.steps_by(recipe, rules.Adagrad)) or len(case.history.steps) < 10:
        return None
    seen = list(case.history.steps.values())
    fifth = len(seen) // 5
    early = np.median([rate_of(step) for step in seen[:fifth]])
    late = np.median([rate_of(step) for step in seen[-fifth:]])
    best = np.median([step.best for step in seen[-fifth:]])
    if not (early > FADED * late and best >= SHORT):
        return None
    fall = float(early / late)
    return Suspicion(
        "rates decayed too early",
        sentence=f"AdaGrad's effective rates have fallen to 1/{fall:.0f} of their early values,"
        f" while its steps could still be {best:.1f} times as long.",
        prescription="RMSProp or Adam, which forget old gradients, or a higher learning rate",
        standing="AdaGrad divides by the root of a sum that only grows (Goodfellow et al. 2016,"
        " 8.5.1).",
        facts=(Fact("early over late effective rate", exactly(fall), case.last_step),),
        remedies=(*remedies.forgetting(), *remedies.rates(recipe, (10.0,))),
        explains=(names.RATE_TOO_LOW,),
    )


def rate_of(step: SeenStep) -> float:
    """The median of a step's effective rates over its parameters."""
    return float(np.median([rate for rate in step.rates.values() if rate] or [0.0]))


def other_rates(case: Case, factors: Sequence[float]) -> tuple[Remedy, ...]:
    return remedies.rates(case.recipe, factors) if case.recipe else ()


def along_training(case: Case) -> Picture:
    steps, losses = case.history.series("loss")
    return Picture("Loss of the measured batches", "step", "loss", {"loss": (steps, list(losses))})
