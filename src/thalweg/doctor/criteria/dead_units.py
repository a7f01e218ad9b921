"""Units that are always 0."""

from __future__ import annotations

from thalweg.doctor.criteria import names
from thalweg.doctor.criteria.criterion import Fact, Suspicion, criterion
from thalweg.doctor.readings.units import Activity
from thalweg.doctor.trials import remedies
from thalweg.doctor.watch.history import Case
from thalweg.statistics import wilson

MANY = 0.5
"""Alarm above this share of the units of an activation."""


@criterion(40)
def dead_from_start(case: Case) -> Suspicion | None:
    """More than half of the units of an activation are always 0 at the start of the training."""
    found = case.history.first(Activity)
    return silent(*found, (names.RATE_TOO_HIGH,)) if found else None


@criterion(90)
def dead_later(case: Case) -> Suspicion | None:
    """More than half of the units of an activation have become 0 for all inputs during training."""
    if dead_from_start.judge(case):
        return None
    later = case.history.all(Activity)[1:]
    return next((found for step, seen in later if (found := silent(step, seen))), None)


def silent(step: int, seen: Activity, explained: tuple[str, ...] = ()) -> Suspicion | None:
    """The suspicion that more than half of the units of an activation are dead.

    Where all of its units were 0, no gradient passes, and no trial is needed to prove the finding.
    """
    worst = max(seen.activations, key=lambda units: units.dead / units.units, default=None)
    if worst is None or worst.dead <= MANY * worst.units or worst.values == 1:
        return None
    return Suspicion(
        names.DEAD_UNITS,
        sentence=f"{worst.dead} of the {worst.units} units of {worst.place} were 0 for all"
        f" {worst.values} values that were measured at step {step}.",
        prescription="batch normalization, or a lower learning rate from the start",
        standing="A unit that is always 0 passes no gradient. It is not known how many such units"
        " harm training, so the trial decides where less than a whole layer is dead.",
        facts=(Fact("share of dead units", wilson(worst.dead, worst.units), step),),
        remedies=(remedies.NORMALIZED,),
        since=step,
        proven=worst.dead == worst.units,
        explains=(names.VANISHING, names.RATE_TOO_LOW, names.NOISE, names.SADDLE, *explained),
    )
