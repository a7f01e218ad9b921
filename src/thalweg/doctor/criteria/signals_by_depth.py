"""Gradients that vanish or explode as they pass back through layers or time steps."""

from __future__ import annotations

import math

import numpy as np

from thalweg.doctor.criteria import names
from thalweg.doctor.criteria.criterion import Fact, Picture, Suspicion, criterion
from thalweg.doctor.readings.signals import Signals
from thalweg.doctor.trials import remedies
from thalweg.doctor.watch.history import Case

FEWEST = 4
"""The fewest calls of layers from which the change with depth can be estimated."""

WEAK, HOPELESS = 1e-3, 1e-6
"""Alarm below the first, and proof below the second ratio of the signal at the first layer to the
signal at the last layer; for exploding signals the inverse ratio counts."""


@criterion(50)
def vanishing(case: Case) -> Suspicion | None:
    """At the start, the gradient at the first layer is a tiny part of that at the last layer."""
    found = deep(case)
    if found is None:
        return None
    step, seen = found
    ratio = first_over_last(seen)
    if not (seen.backward.high < 1 and ratio < WEAK):
        return None
    return Suspicion(
        names.VANISHING,
        sentence=f"The signal in the backward pass at the first layer is {ratio:.1g} of the signal"
        f" at the last layer: each layer passes on {seen.backward.estimate:.2g} of it.",
        prescription="batch normalization, larger initial weights, or a pre-training",
        standing="The slope of the signal's logarithm over depth (Schoenholz et al. 2017) is sound"
        " for plain networks at their start, and less reliable with residual connections.",
        facts=(Fact("factor from a layer to the one before", seen.backward, step),),
        picture=by_depth(seen),
        remedies=(remedies.NORMALIZED,),
        since=step,
        proven=ratio < HOPELESS,
        explains=(names.RATE_TOO_LOW, names.NARROW_VALLEY, names.RATE_TOO_HIGH),
    )


@criterion(60)
def exploding(case: Case) -> Suspicion | None:
    """At the start, the gradient grows more than a thousandfold in the backward pass."""
    found = deep(case)
    if found is None:
        return None
    step, seen = found
    ratio = first_over_last(seen)
    if not (seen.backward.low > 1 and ratio > 1 / WEAK):
        return None
    norms = case.norms[1][np.isfinite(case.norms[1])]
    limits = [float(np.percentile(norms, share)) for share in (50, 10)] if len(norms) else []
    return Suspicion(
        names.EXPLODING,
        sentence=f"The signal grows {ratio:.1g} times in the backward pass, and"
        f" {seen.backward.estimate:.2g} times in each layer or time step.",
        prescription="clipping by norm, or smaller initial weights",
        standing="The criterion is the slope of the signal's logarithm over depth (Schoenholz et"
        " al. 2017; Pascanu et al. 2013).",
        facts=(Fact("factor from a layer to the one before", seen.backward, step),),
        picture=by_depth(seen),
        remedies=(*remedies.clipping(limits), remedies.TAMED),
        since=0,
        proven=ratio > 1 / HOPELESS,
        explains=(names.CLIFFS, *names.UNSTEADY),
    )


def deep(case: Case) -> tuple[int, Signals] | None:
    """The first reading and its step, where the signal reaches enough calls; otherwise None."""
    found = case.history.first(Signals)
    if found is None or sum(layer.signal > 0 for layer in found[1].layers) < FEWEST:
        return None
    return found


def first_over_last(seen: Signals) -> float:
    reached = [layer.signal for layer in seen.layers if layer.signal > 0]
    return reached[0] / reached[-1] if math.isfinite(reached[0]) else math.inf


def by_depth(seen: Signals) -> Picture:
    calls = list(range(len(seen.layers)))
    lines = {
        "signal in the backward pass": (calls, [layer.signal for layer in seen.layers]),
        "activation": (calls, [layer.activation for layer in seen.layers]),
    }
    return Picture("Signals by call of a layer", "call, from the input", "size", lines, log=True)
