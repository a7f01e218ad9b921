"""The criteria, causes before what they may cause."""

from __future__ import annotations

from collections.abc import Callable

from thalweg.doctor.criteria.cliffs import cliffs
from thalweg.doctor.criteria.dead_units import dead_from_start, died
from thalweg.doctor.criteria.learning_rate import at_limit, decayed, divergence, too_high, too_low
from thalweg.doctor.criteria.noisy_gradients import noise
from thalweg.doctor.criteria.signals_by_depth import exploding, vanishing
from thalweg.doctor.criteria.suspicion import Suspicion
from thalweg.doctor.criteria.unfit_data import unscaled, unshuffled
from thalweg.doctor.criteria.valleys import narrow, saddle
from thalweg.doctor.criteria.waiting import starved
from thalweg.doctor.criteria.wrong_statistics import wrong_statistics
from thalweg.doctor.watch.course import Case

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
