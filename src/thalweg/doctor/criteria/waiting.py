"""Training that is slow because it waits for its data."""

from __future__ import annotations

from thalweg.doctor.criteria.criterion import Fact, Suspicion, criterion
from thalweg.doctor.watch.history import Case

WAITS, NOTICEABLE = 0.5, 1e-3
"""Alarm where waiting takes at least this share of the time, and at least these seconds a step."""


@criterion(160)
def waits_for_data(case: Case) -> Suspicion | None:
    """Training waits for its data for more than half of the time."""
    data = next((part for part in case.seconds if part.part == "data"), None)
    if data is None or data.share < WAITS or data.a_step.low < NOTICEABLE:
        return None
    return Suspicion(
        "waits for data",
        sentence=f"Training waits for the next batch for {data.share:.0%} of the time, which is"
        f" {data.a_step.estimate:.3g} seconds a step.",
        prescription="more workers in the loader, or data that are held in memory",
        standing="The time was measured.",
        facts=(Fact("seconds of waiting a step", data.a_step, case.last_step),),
        proven=True,
    )
