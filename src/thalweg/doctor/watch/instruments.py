"""The instruments that a doctor reads by itself while a model trains, and what each costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from thalweg.doctor.curvature.condition_number import condition_number
from thalweg.doctor.curvature.hessian import Hessian
from thalweg.doctor.curvature.negative_curvature import escape
from thalweg.doctor.objective.objective import Objective
from thalweg.doctor.readings.inputs import inputs
from thalweg.doctor.readings.modes import modes
from thalweg.doctor.readings.noise import noise
from thalweg.doctor.readings.order import order
from thalweg.doctor.readings.signals import signals
from thalweg.doctor.readings.stability import stability
from thalweg.doctor.readings.surprise import surprises
from thalweg.doctor.readings.units import units
from thalweg.doctor.watch.history import RECENT


@dataclass(frozen=True)
class Instrument:
    """A measurement that can be made at any step of a training.

    measure: returns a reading, whose type no other instrument has. gradients: the expected cost, in
    gradient evaluations of one batch; it counts until a first reading was timed. batches: the most
    batches that a reading needs.
    """

    measure: Callable[[Objective, torch.optim.Optimizer], object]
    gradients: float
    batches: int = 1


INSTRUMENTS = {
    "inputs": Instrument(lambda objective, _: inputs(objective.batches), 1, batches=RECENT),
    "order": Instrument(lambda objective, _: order(objective.batches), 1, batches=RECENT),
    "surprise": Instrument(lambda o, optimizer: surprises(o.model, optimizer)[0], 0.5),
    "units": Instrument(lambda objective, _: units(objective), 4, batches=RECENT),
    "modes": Instrument(lambda objective, _: modes(objective), 8, batches=RECENT),
    "noise": Instrument(lambda objective, _: noise(objective), 8, batches=RECENT),
    "signals": Instrument(lambda objective, _: signals(objective), 2),
    "stability": Instrument(lambda o, optimizer: stability(o, optimizer, tolerance=0.05), 40),
    "condition": Instrument(
        lambda o, _: condition_number(Hessian(o), tolerance=0.05, probes=2, steps=16), 80
    ),
    "escape": Instrument(lambda objective, _: escape(objective), 60),
}
"""The cheapest first."""
