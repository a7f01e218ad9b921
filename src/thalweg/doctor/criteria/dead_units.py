"""Units that say nothing any more."""

from __future__ import annotations

from thalweg.doctor.criteria.suspicion import Fact, Suspicion
from thalweg.doctor.readings.units import Activity
from thalweg.doctor.trials import remedies
from thalweg.doctor.watch.course import Case
from thalweg.statistics import wilson

MANY = 0.5


def dead_from_start(case: Case) -> Suspicion | None:
    """Dead units at the first look, before training could have silenced them."""
    found = case.course.first("units")
    return silent(*found, ("learning rate too high",)) if found else None


def died(case: Case) -> Suspicion | None:
    """Units that fell silent on the way."""
    if dead_from_start(case):
        return None
    looks = list(case.course.readings["units"].items())[1:]
    return next((found for step, seen in looks if (found := silent(step, seen))), None)


def silent(step: int, seen: Activity, explained: tuple[str, ...] = ()) -> Suspicion | None:
    """An activation of which more than half of the units were 0 over all samples looked at.

    Where it is all of them, no gradient passes, and no trial is needed to say so.
    """
    worst = max(seen.activations, key=lambda units: units.dead / units.units, default=None)
    if worst is None or worst.dead <= MANY * worst.units or worst.values == 1:
        return None
    return Suspicion(
        "dead units",
        f"{worst.dead} of {worst.units} units of {worst.place} were 0 for all {worst.values} values"
        f" that were seen of each at step {step}.",
        "batch normalization, or a lower learning rate from the start",
        "A unit that is always 0 passes no gradient; which share of them harms is not known, so"
        " that less than a whole layer is left to the trial.",
        (Fact("share of dead units", wilson(worst.dead, worst.units), step),),
        remedies=(remedies.NORMALIZED,),
        since=step,
        proven=worst.dead == worst.units,
        explains=("vanishing signals", "learning rate too low", "noise", "saddle", *explained),
    )
