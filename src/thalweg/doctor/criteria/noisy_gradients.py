"""Gradients that are mostly noise."""

from __future__ import annotations

from thalweg.doctor.criteria import names
from thalweg.doctor.criteria.criterion import Fact, Suspicion, criterion
from thalweg.doctor.readings.noise import Noise
from thalweg.doctor.trials import remedies
from thalweg.doctor.watch.history import Case, mark_before

LITTLE = 0.5
"""Alarm below this ratio of signal to noise in a mini-batch."""


@criterion(130)
def noise(case: Case) -> Suspicion | None:
    """The gradient of a batch is mostly noise, and the recipe has neither cooling nor averaging."""
    found = case.history.last(Noise)
    if found is None:
        return None
    step, seen = found
    ratio = seen.signal_at(case.batch_size)
    if ratio.estimate > LITTLE:
        return None
    since = mark_before(case.steps // 3)
    calming = remedies.calming(case.recipe, since, case.steps) if case.recipe else ()
    if case.recipe and not calming:
        return None
    told = (
        f"is {ratio.estimate:.2g} times the noise"
        if ratio.low > 0
        else f"cannot be told from 0 (it is at most {max(ratio.high, 0):.2g} times the noise)"
    )
    return Suspicion(
        names.NOISE,
        sentence=f"The signal in the gradient of {case.batch_size} samples {told}, so that the"
        " steps vary at random around the descent.",
        prescription="cooling, averaging, or a larger batch",
        standing="The definition of the gradient noise scale is sound (McCandlish et al. 2018). As"
        " advice on the batch size it gives only the order of magnitude. Late in training the noise"
        " is larger than the signal in every network, so the trial decides.",
        facts=(Fact("signal over noise in a batch", ratio, step),),
        remedies=calming,
        since=since,
    )
