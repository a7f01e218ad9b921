"""Batch normalization whose running statistics are not those of the data."""

from __future__ import annotations

from thalweg.doctor.criteria.suspicion import Fact, Suspicion, exactly
from thalweg.doctor.trials import remedies
from thalweg.doctor.watch.course import Case

SETTLED = 30
"""Steps after which running statistics should have caught up, at PyTorch's usual momentum."""

APART, WORSE = 0.5, 0.05
"""Deviations between the means, and the share of the way down that running statistics cost."""


def wrong_statistics(case: Case) -> Suspicion | None:
    """A layer that is held to statistics far from the data's, or an evaluation that is much worse
    for its statistics alone.
    """
    found = case.course.last("modes")
    if found is None:
        return None
    step, seen = found
    worst = max(seen.shift, key=lambda name: seen.shift[name])
    held = [name for name in seen.held if seen.shift[name] > APART]
    costs = seen.running - seen.batches
    lags = step >= SETTLED and costs > WORSE * case.way and seen.shift[worst] > APART
    if not held and not lags:
        return None
    held_back = f"; {', '.join(held)} stand in evaluation mode while it trains" if held else ""
    return Suspicion(
        "batch normalization by wrong statistics",
        f"The running mean of {worst} lies {seen.shift[worst]:.2g} deviations from that of its"
        f" inputs, and by running statistics the loss is {abs(costs):.3g}"
        f" {'higher' if costs > 0 else 'lower'} than by the batches' own{held_back}.",
        "model.train() before training; a larger momentum, or statistics that are estimated again",
        "One model on the same batches by either statistics: sound, where they had time to settle.",
        (
            Fact("deviations between the means", exactly(seen.shift[worst]), step),
            Fact("loss by running statistics", exactly(seen.running), step),
            Fact("loss by the batches'", exactly(seen.batches), step),
        ),
        remedies=(remedies.FRESH_BATCH_NORM,),
        explains=(
            "divergence",
            "learning rate too low",
            "learning rate too high",
            "noise",
            "dead units",
        ),
    )
