"""Batch normalization whose running statistics are not those of the data."""

from __future__ import annotations

from thalweg.doctor.criteria import names
from thalweg.doctor.criteria.criterion import Fact, Suspicion, criterion, exactly
from thalweg.doctor.readings.modes import Modes
from thalweg.doctor.trials import remedies
from thalweg.doctor.watch.history import Case

SETTLED = 30
"""The step from which on running statistics should be right, at PyTorch's usual momentum."""

APART, WORSE = 0.5, 0.05
"""Alarm where the means lie more than this number of standard deviations apart, and where running
statistics raise the loss by more than this share of its fall so far."""


@criterion(30)
def wrong_statistics(case: Case) -> Suspicion | None:
    """The running statistics of batch normalization are far from the statistics of the data."""
    found = case.history.last(Modes)
    if found is None:
        return None
    step, seen = found
    worst = max(seen.shift, key=lambda name: seen.shift[name])
    held = [name for name in seen.held if seen.shift[name] > APART]
    costs = seen.running - seen.batches
    lags = step >= SETTLED and costs > WORSE * case.fall and seen.shift[worst] > APART
    if not held and not lags:
        return None
    held_back = f" In evaluation mode while the model trains: {', '.join(held)}." if held else ""
    return Suspicion(
        "batch normalization by wrong statistics",
        sentence=f"The running mean of {worst} lies {seen.shift[worst]:.2g} standard deviations"
        f" from the mean of its inputs. With the running statistics, the loss is {abs(costs):.3g}"
        f" {'higher' if costs > 0 else 'lower'} than with the statistics of the batches."
        f"{held_back}",
        prescription="model.train() before training; a larger momentum of the running statistics,"
        " or a new estimate of them",
        standing="The same model on the same batches with both statistics is a sound comparison,"
        " once the running statistics have had time to settle.",
        facts=(
            Fact("deviations between the means", exactly(seen.shift[worst]), step),
            Fact("loss with running statistics", exactly(seen.running), step),
            Fact("loss with the batches' statistics", exactly(seen.batches), step),
        ),
        remedies=(remedies.FRESH_BATCH_NORM,),
        explains=(names.DEAD_UNITS, *names.UNSTEADY),
    )
