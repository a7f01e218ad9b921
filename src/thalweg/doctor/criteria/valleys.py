"""The shape of the valley: narrow, or flat at a saddle."""

from __future__ import annotations

from thalweg import rules
from thalweg.doctor.criteria import names
from thalweg.doctor.criteria.criterion import Fact, Suspicion, around, criterion
from thalweg.doctor.curvature.condition_number import ConditionNumber
from thalweg.doctor.curvature.negative_curvature import Escape
from thalweg.doctor.trials import remedies
from thalweg.doctor.watch.course import Case, look_before
from thalweg.statistics import Interval

NARROW = 10.0
"""The condition number from which on momentum needs a third of the steps of plain descent."""

FURTHER, SLOW = 0.2, 0.1
"""Alarm where the direction of most negative curvature leads further down than this share of the
loss's fall so far, and where the last ten steps have come less than this share of that drop."""


@criterion(110)
def narrow_valley(case: Case) -> Suspicion | None:
    """The curvature differs tenfold between directions, and the recipe is plain descent."""
    looks = case.course.all(ConditionNumber)
    found = max(looks, key=lambda look: look[1].low, default=None)
    if found is None or not found[1].low > NARROW:
        return None
    if case.recipe is not None and not remedies.steps_by(case.recipe, rules.SGD):
        return None
    step, seen = found
    return Suspicion(
        names.NARROW_VALLEY,
        sentence=f"The condition number is {seen.value:.2g}: a rate for the steepest direction is"
        " too small for most others.",
        prescription="momentum, or an adaptive method",
        standing="Plain descent needs steps in proportion to the condition number, and with"
        " momentum in proportion to its root (Polyak 1964). Most networks have such spectra, so"
        " the trial decides.",
        facts=(Fact("condition number", Interval(seen.value, seen.low, seen.high), step),),
        remedies=remedies.accelerating(case.recipe) if case.recipe else (),
        explains=(names.RATE_TOO_LOW, names.SADDLE),
    )


@criterion(120)
def saddle(case: Case) -> Suspicion | None:
    """Plain descent hardly moves, and the direction of most negative curvature leads far down."""
    if case.recipe is not None and not remedies.steps_by(case.recipe, rules.SGD):
        return None
    losses = {step: seen.loss for step, seen in case.course.steps.items()}
    for step, seen in case.course.all(Escape):
        before = [loss for at, loss in losses.items() if step - 10 <= at < step]
        lowest = around(seen.lowest.value, seen.lowest.error)
        if not before or lowest.high >= 0:
            continue
        drop, moved = seen.descent.drop, before[0] - seen.loss
        far = drop > FURTHER * (next(iter(losses.values())) - seen.loss)
        if far and moved < SLOW * drop:
            return Suspicion(
                names.SADDLE,
                sentence=f"At step {step} the loss has hardly moved over ten steps, but falls by"
                f" {drop:.2g} along the direction of most negative curvature.",
                prescription="momentum, or an adaptive method",
                standing="Negative curvature where progress is slow (Dauphin et al. 2014) has no"
                " known limit, so the trial decides.",
                facts=(Fact("lowest curvature", lowest, step),),
                remedies=remedies.accelerating(case.recipe) if case.recipe else (),
                since=look_before(max(0, step - 10)),
                explains=(names.RATE_TOO_LOW,),
            )
    return None
