"""Slow in seconds: training that waits for its data."""

from __future__ import annotations

from thalweg.doctor.criteria.criterion import Fact, Suspicion, criterion
from thalweg.doctor.watch.course import Case

WAITS, NOTICEABLE = 0.5, 1e-3
"""Alarm from this share of the time on, and from this number of seconds a step on."""


@criterion(160)
def waits_for_data(case: Case) -> Suspicion | None:
    """More than half of a step's time is a wait for its data."""
    data = next((part for part in case.seconds if part.part == "data"), None)
    if data is None or data.share < WAITS or data.a_step.low < NOTICEABLE:
        return None
    return Suspicion(
        "waits for data",
        sentence=f"Training waits for the next batch {data.share:.0%} of the time,"
        f" {data.a_step.estimate:.3g} seconds a step: it is slow in seconds, whatever it is in"
        " steps.",
        prescription="more workers in the loader, or data that is held in memory",
        standing="The time was measured.",
        facts=(Fact("seconds of waiting a step", data.a_step, case.last_step),),
        proven=True,
    )
