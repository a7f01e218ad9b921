"""Units that are always 0."""

from __future__ import annotations

from thalweg.doctor.criteria import names
from thalweg.doctor.criteria.criterion import Fact, Suspicion, criterion
from thalweg.doctor.readings.units import Activity
from thalweg.doctor.trials import remedies
from thalweg.doctor.watch.course import Case
from thalweg.statistics import wilson

MANY = 0.5
"""Alarm above this share of the units of an activation."""


@criterion(40)
def dead_from_start(case: Case) -> Suspicion | None:
    """Units are dead at the first look, before training could have made them so."""
    found = case.course.first(Activity)
    return silent(*found, (names.RATE_TOO_HIGH,)) if found else None


@criterion(90)
def dead_later(case: Case) -> Suspicion | None:
    """Units have died on the way."""
    if dead_from_start.judge(case):
        return None
    looks = list(case.course.all(Activity))[1:]
    return next((found for step, seen in looks if (found := silent(step, seen))), None)


def silent(step: int, seen: Activity, explained: tuple[str, ...] = ()) -> Suspicion | None:
    """An activation of which more than half of the units were 0 over all samples looked at.

    Where all of its units were 0, no gradient passes, and no trial is needed to prove it.
    """
    worst = max(seen.activations, key=lambda units: units.dead / units.units, default=None)
    if worst is None or worst.dead <= MANY * worst.units or worst.values == 1:
        return None
    return Suspicion(
        names.DEAD_UNITS,
        sentence=f"{worst.dead} of {worst.units} units of {worst.place} were 0 in all"
        f" {worst.values} values that were seen of each at step {step}.",
        prescription="batch normalization, or a lower learning rate from the start",
        standing="A unit that is always 0 passes no gradient. It is not known which share of such"
        " units harms, so that the trial decides where less than a whole layer is dead.",
        facts=(Fact("share of dead units", wilson(worst.dead, worst.units), step),),
        remedies=(remedies.NORMALIZED,),
        since=step,
        proven=worst.dead == worst.units,
        explains=(names.VANISHING, names.RATE_TOO_LOW, names.NOISE, names.SADDLE, *explained),
    )
