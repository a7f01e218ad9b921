"""Cliffs: steps at which the gradient is many times as large as at the steps before."""

from __future__ import annotations

import numpy as np

from thalweg.doctor.criteria import names
from thalweg.doctor.criteria.criterion import Fact, Picture, Suspicion, criterion
from thalweg.doctor.readings.spikes import spikes
from thalweg.doctor.trials import remedies
from thalweg.doctor.watch.history import Case, mark_before
from thalweg.statistics import wilson

DEVIATIONS, TIMES, FEWEST = 7.0, 5.0, 10
"""A norm belongs to a cliff if it lies more than DEVIATIONS robust deviations above the norms
before it, of which there are at least FEWEST, and is more than TIMES as large as their median."""


@criterion(70)
def cliffs(case: Case) -> Suspicion | None:
    """Some gradients are many times as large as the gradients of the steps before them."""
    steps, norms = case.norms
    found = [
        spike
        for spike in spikes(list(norms), threshold=DEVIATIONS, fewest=FEWEST)
        if not spike.value < TIMES * np.median(norms[: spike.step])
    ]
    if not found:
        return None
    usual = norms[np.isfinite(norms)]
    limits = sorted({float(np.percentile(usual, share)) for share in (90, 50)}, reverse=True)
    first, began = found[0], steps[found[0].step]
    return Suspicion(
        names.CLIFFS,
        sentence=f"The norm of the gradient is {first.value:.2g} at step {began}, and its median"
        f" is {np.median(usual):.2g}. {len(found)} of {len(norms)} steps have such a large"
        " gradient, and may move the weights far away.",
        prescription="clipping by norm or by value",
        standing="A norm counts if it is more than 7 robust deviations above the norms of the last"
        " 128 steps, and more than 5 times their median. This is a convention (OLMo), so the trial"
        " decides.",
        facts=(Fact("share of steps with a spike", wilson(len(found), len(norms)), began),),
        picture=Picture(
            "Norm of the gradient",
            "step",
            "norm",
            {"norm": (steps, list(norms))},
            log=True,
        ),
        remedies=remedies.clipping([limit for limit in limits if limit > 0]),
        since=mark_before(began),
        explains=(names.DIVERGENCE, names.RATE_TOO_HIGH),
    )
