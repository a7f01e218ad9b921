"""Batch normalization whose running statistics are not those of the data."""

from __future__ import annotations

from thalweg.doctor.criteria import names
from thalweg.doctor.criteria.criterion import Fact, Suspicion, criterion, exactly
from thalweg.doctor.readings.modes import Modes
from thalweg.doctor.trials import remedies
from thalweg.doctor.watch.course import Case

SETTLED = 30
"""The step from which on running statistics should be right, at PyTorch's usual momentum."""

APART, WORSE = 0.5, 0.05
"""Alarm above this many deviations between the means, and above this share of the loss's fall by
which running statistics make the loss higher."""


@criterion(30)
def wrong_statistics(case: Case) -> Suspicion | None:
    """A layer uses statistics far from the data's, or they make the loss much higher."""
    found = case.course.last(Modes)
    if found is None:
        return None
    step, seen = found
    worst = max(seen.shift, key=lambda name: seen.shift[name])
    held = [name for name in seen.held if seen.shift[name] > APART]
    costs = seen.running - seen.batches
    lags = step >= SETTLED and costs > WORSE * case.fall and seen.shift[worst] > APART
    if not held and not lags:
        return None
    held_back = f"; {', '.join(held)} are in evaluation mode while the model trains" if held else ""
    return Suspicion(
        "batch normalization by wrong statistics",
        sentence=f"The running mean of {worst} lies {seen.shift[worst]:.2g} deviations from the"
        f" mean of its inputs. The loss by running statistics is {abs(costs):.3g}"
        f" {'higher' if costs > 0 else 'lower'} than by those of the batches{held_back}.",
        prescription="model.train() before training; a larger momentum, or statistics that are"
        " estimated again",
        standing="One model on the same batches by either statistics is a sound comparison, where"
        " the running ones had time to settle.",
        facts=(
            Fact("deviations between the means", exactly(seen.shift[worst]), step),
            Fact("loss by running statistics", exactly(seen.running), step),
            Fact("loss by the batches'", exactly(seen.batches), step),
        ),
        remedies=(remedies.FRESH_BATCH_NORM,),
        explains=(names.DEAD_UNITS, *names.UNSTEADY),
    )
