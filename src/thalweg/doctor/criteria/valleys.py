"""The shape of the loss: a narrow valley, or the flat region around a saddle point."""

from __future__ import annotations

from thalweg import rules
from thalweg.doctor.criteria import names
from thalweg.doctor.criteria.criterion import Fact, Suspicion, around, criterion
from thalweg.doctor.curvature.condition_number import ConditionNumber
from thalweg.doctor.curvature.negative_curvature import Escape
from thalweg.doctor.trials import remedies
from thalweg.doctor.watch.history import Case, mark_before
from thalweg.statistics import Interval

NARROW = 10.0
"""From this condition number on, momentum needs only a third of the steps of plain descent."""

FURTHER, SLOW = 0.2, 0.1
"""Alarm where the loss drops along the direction of most negative curvature by more than the share
FURTHER of its fall so far, and the last ten steps made less than the share SLOW of that drop."""


@criterion(110)
def narrow_valley(case: Case) -> Suspicion | None:
    """The curvature differs tenfold between directions; the recipe is plain gradient descent."""
    readings = case.history.all(ConditionNumber)
    found = max(readings, key=lambda reading: reading[1].low, default=None)
    if found is None or not found[1].low > NARROW:
        return None
    if case.recipe is not None and not remedies.steps_by(case.recipe, rules.SGD):
        return None
    step, seen = found
    return Suspicion(
        names.NARROW_VALLEY,
        sentence=f"The condition number is {seen.value:.2g}: a learning rate that is right for the"
        " direction of highest curvature is too small for most other directions.",
        prescription="momentum, or an adaptive method",
        standing="The number of steps of plain gradient descent is proportional to the condition"
        " number; with momentum it is proportional to the root of that number (Polyak 1964). Most"
        " networks have such spectra, so the trial decides.",
        facts=(Fact("condition number", Interval(seen.value, seen.low, seen.high), step),),
        remedies=remedies.accelerating(case.recipe) if case.recipe else (),
        explains=(names.RATE_TOO_LOW, names.SADDLE),
    )


@criterion(120)
def saddle(case: Case) -> Suspicion | None:
    """Plain gradient descent is slow, although a direction of negative curvature leads far down."""
    if case.recipe is not None and not remedies.steps_by(case.recipe, rules.SGD):
        return None
    losses = {step: seen.loss for step, seen in case.history.steps.items()}
    for step, seen in case.history.all(Escape):
        before = [loss for at, loss in losses.items() if step - 10 <= at < step]
        lowest = around(seen.lowest.value, seen.lowest.error)
        if not before or lowest.high >= 0:
            continue
        drop, moved = seen.descent.drop, before[0] - seen.loss
        far = drop > FURTHER * (next(iter(losses.values())) - seen.loss)
        if far and moved < SLOW * drop:
            return Suspicion(
                names.SADDLE,
                sentence=f"At step {step} the loss has hardly changed over ten steps, but it falls"
                f" by {drop:.2g} along the direction of most negative curvature.",
                prescription="momentum, or an adaptive method",
                standing="Slow progress at negative curvature is a sign of a saddle point (Dauphin"
                " et al. 2014). No limit is known that proves one, so the trial decides.",
                facts=(Fact("lowest curvature", lowest, step),),
                remedies=remedies.accelerating(case.recipe) if case.recipe else (),
                since=mark_before(max(0, step - 10)),
                explains=(names.RATE_TOO_LOW,),
            )
    return None
