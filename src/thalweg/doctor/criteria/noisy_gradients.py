"""Gradients that are mostly noise."""

from __future__ import annotations

from thalweg.doctor.criteria import names
from thalweg.doctor.criteria.criterion import Fact, Suspicion, criterion
from thalweg.doctor.readings.noise import Noise
from thalweg.doctor.trials import remedies
from thalweg.doctor.watch.course import Case, look_before

LITTLE = 0.5
"""Alarm below this ratio of signal to noise in a mini-batch."""


@criterion(130)
def noise(case: Case) -> Suspicion | None:
    """A batch's gradient has less signal than noise, and nothing calms the end of training."""
    found = case.course.last(Noise)
    if found is None:
        return None
    step, seen = found
    ratio = seen.signal_at(case.batch_size)
    if ratio.estimate > LITTLE:
        return None
    since = look_before(case.steps // 3)
    calming = remedies.calming(case.recipe, since, case.steps) if case.recipe else ()
    if case.recipe and not calming:
        return None
    told = (
        f"is {ratio.estimate:.2g} of the noise's"
        if ratio.low > 0
        else f"cannot be told from the noise's (at most {max(ratio.high, 0):.2g} of it)"
    )
    return Suspicion(
        names.NOISE,
        sentence=f"The signal's share in the gradient of {case.batch_size} samples {told}, so that"
        " the steps jitter about the way down.",
        prescription="cooling, averaging, or a larger batch",
        standing="The gradient noise scale (McCandlish et al. 2018): its definition is sound, as"
        " advice on the batch size it is an order of magnitude. Late in training noise prevails"
        " everywhere, so the trial decides.",
        facts=(Fact("signal over noise in a batch", ratio, step),),
        remedies=calming,
        since=since,
    )
