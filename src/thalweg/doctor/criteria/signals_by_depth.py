"""Signals that vanish or explode on their way back through layers or time steps."""

from __future__ import annotations

import math

import numpy as np

from thalweg.doctor.criteria.suspicion import Fact, Picture, Suspicion
from thalweg.doctor.readings.signals import Signals
from thalweg.doctor.trials import remedies
from thalweg.doctor.watch.course import Case

FEWEST = 4
"""Calls of layers that a slope with depth needs."""

WEAK, HOPELESS = 1e-3, 1e-6
"""Of the signal at the first layer over that at the last, or of its inverse."""


def vanishing(case: Case) -> Suspicion | None:
    """At the start, the signal that reaches the first layers is a tiny part of that at the last."""
    found = deep(case)
    if found is None:
        return None
    step, seen = found
    ratio = first_over_last(seen)
    if not (seen.backward.high < 1 and ratio < WEAK):
        return None
    return Suspicion(
        "vanishing signals",
        f"What comes back to the first layer is {ratio:.1g} of the signal at the last: each layer"
        f" passes on {seen.backward.estimate:.2g} of it.",
        "batch normalization, weights that begin larger, or a pre-training",
        "The slope of log signal with depth (Schoenholz et al. 2017): sound for plain networks at"
        " their start, less so with residual paths.",
        (Fact("factor from a layer to the one before", seen.backward, step),),
        by_depth(seen),
        (remedies.NORMALIZED,),
        step,
        proven=ratio < HOPELESS,
        explains=("learning rate too low", "narrow valley", "learning rate too high"),
    )


def exploding(case: Case) -> Suspicion | None:
    """At the start, the signal grows a thousandfold on its way back."""
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
        "exploding signals",
        f"The signal grows {ratio:.1g} times on its way back: {seen.backward.estimate:.2g} times a"
        " layer or time step.",
        "clipping by norm, or weights that begin smaller",
        "The slope of log signal with depth (Schoenholz et al. 2017; Pascanu et al. 2013).",
        (Fact("factor from a layer to the one before", seen.backward, step),),
        by_depth(seen),
        (*remedies.clipping(limits), remedies.TAMED),
        0,
        proven=ratio > 1 / HOPELESS,
        explains=(
            "divergence",
            "cliffs",
            "learning rate too high",
            "noise",
            "learning rate too low",
        ),
    )


def deep(case: Case) -> tuple[int, Signals] | None:
    """The first reading, where there are calls enough that a signal reaches."""
    found = case.course.first("signals")
    if found is None or sum(layer.signal > 0 for layer in found[1].layers) < FEWEST:
        return None
    return found


def first_over_last(seen: Signals) -> float:
    reached = [layer.signal for layer in seen.layers if layer.signal > 0]
    return reached[0] / reached[-1] if math.isfinite(reached[0]) else math.inf


def by_depth(seen: Signals) -> Picture:
    calls = list(range(len(seen.layers)))
    lines = {
        "signal on its way back": (calls, [layer.signal for layer in seen.layers]),
        "activation": (calls, [layer.activation for layer in seen.layers]),
    }
    return Picture("Signals by call of a layer", "call, from the input", "size", lines, log=True)
