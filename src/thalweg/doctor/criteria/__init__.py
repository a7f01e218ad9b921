"""The criteria, causes before what they may cause."""

from __future__ import annotations

from collections.abc import Callable

from thalweg.doctor.case import Case
from thalweg.doctor.criteria.batch_norm import wrong_statistics
from thalweg.doctor.criteria.cliffs import cliffs
from thalweg.doctor.criteria.data import unscaled, unshuffled
from thalweg.doctor.criteria.dead import dead_from_start, died
from thalweg.doctor.criteria.depth import exploding, vanishing
from thalweg.doctor.criteria.noise import noise
from thalweg.doctor.criteria.rate import at_limit, decayed, divergence, too_high, too_low
from thalweg.doctor.criteria.seconds import starved
from thalweg.doctor.criteria.valley import narrow, saddle
from thalweg.doctor.finding import Suspicion

CRITERIA: tuple[Callable[[Case], Suspicion | None], ...] = (
    unshuffled,
    unscaled,
    wrong_statistics,
    dead_from_start,
    vanishing,
    exploding,
    cliffs,
    too_high,
    died,
    decayed,
    narrow,
    saddle,
    noise,
    too_low,
    divergence,
    starved,
    at_limit,
)
"""Of causes that account for as much, the earlier one is named."""
