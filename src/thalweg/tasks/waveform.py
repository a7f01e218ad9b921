"""Full-waveform inversion in one dimension: find the layers of the ground from seismograms.

Units: km, s, Hz. The ground is 1 km deep and has cells of 20 m, whose velocities are the
parameters. Shots near the surface send a pulse down. A receiver at the surface records what the
layers reflect, and one at the bottom of a borehole records what they let through. The data are the
seismograms of the true ground.

If a seismogram is early or late by more than half a period, it fits the wrong period of the wave
(cycle skipping). Such local minima are closer together at higher frequencies of the source. Virieux
and Operto, Geophysics 74 (2009), give an overview.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thalweg.errors import UserError
from thalweg.tasks.data import Data
from thalweg.tasks.task import Task

CELL = 0.02
CELLS = 50
TIME_STEP = 0.004
TIME_STEPS = 200
# Velocities above CELL / TIME_STEP = 5 km/s are unstable (Courant, Friedrichs and Lewy 1928).

RECEIVER_CELLS = (1, 47)
TRAIN_SHOTS, VALIDATION_SHOTS, TEST_SHOTS = (2, 6, 10), (4, 8), (3, 7)

LAYER_BOTTOMS_AND_VELOCITIES = ((10, 1.6), (19, 2.1), (26, 1.8), (38, 2.5), (CELLS, 3.0))
"""The true ground: the cell where each layer ends, and its velocity."""


def ricker(frequency: float) -> Float[Tensor, " time"]:
    """The source: (1 - 2 a) exp(-a), a = (pi f (t - t0))^2, t0 = 1.2 / f (Ricker 1953)."""
    time = torch.arange(TIME_STEPS) * TIME_STEP
    a = (math.pi * frequency * (time - 1.2 / frequency)) ** 2
    return (1 - 2 * a) * torch.exp(-a)


def wavefield(
    velocity: Float[Tensor, " cells"],
    shots: Float[Tensor, "N cells"],
    source: Float[Tensor, " time"],
) -> Float[Tensor, "time N cells"]:
    """The wave u(t, x) of each shot, from rest, by second-order central differences (leapfrog).

        u_tt = c(x)^2 u_xx + f(x) w(t)

    with velocities c, shots f and source w. At the two ends waves only go out, by u_t = c u_x and
    u_t = -c u_x (Mur 1981), so nothing is reflected there.
    """
    courant = velocity * TIME_STEP / CELL
    identity = torch.eye(CELLS, dtype=velocity.dtype, device=velocity.device)
    ends = torch.zeros_like(identity)
    ends[0, 0] = ends[-1, -1] = 1
    inner_neighbours = torch.zeros_like(identity)
    inner_neighbours[1, 0] = inner_neighbours[-2, -1] = 1
    second_difference = identity.roll(1, 0) - 2 * identity + identity.roll(-1, 0)

    # A step is linear, so two matrices compute it: u_next = now A - before B + driven w, with a row
    # of u for each shot. Inner cells follow the wave equation. With k = (courant - 1) / (courant +
    # 1), an end cell gets its inner neighbour's u plus k (that neighbour's u_next - its own u).
    k = (courant - 1) / (courant + 1)
    finish = identity - ends + inner_neighbours * k
    leapfrog = 2 * identity + second_difference * courant**2
    now_to_next = leapfrog @ finish + inner_neighbours - ends * k
    driven = shots * TIME_STEP**2 @ finish

    before, now = torch.zeros_like(driven), torch.zeros_like(driven)
    waves = []
    for strength in source.to(velocity):
        before, now = now, now @ now_to_next - before @ finish + driven * strength
        waves.append(now)
    return torch.stack(waves)


def seismograms(
    velocity: Float[Tensor, " cells"], shots: Float[Tensor, "N cells"], frequency: float
) -> Float[Tensor, "N receivers time"]:
    """What the receivers record of each shot."""
    recorded = wavefield(velocity, shots, ricker(frequency))[..., RECEIVER_CELLS]
    return recorded.permute(1, 2, 0)


class Ground(nn.Module):
    """A model with the velocities of the cells as parameters; it turns shots into seismograms.

    The initial velocities are too low: they grow linearly with depth at 92 % of the true trend, and
    the seed changes them by up to 5 %. So at high frequency only some starts lie in the right
    basin.
    """

    def __init__(self, frequency: float) -> None:
        super().__init__()
        self.frequency = frequency
        slow = 0.92 + 0.05 * torch.randn(())
        self.velocity = nn.Parameter(slow * torch.linspace(1.7, 2.8, CELLS))

    def forward(self, shots: Float[Tensor, "N cells"]) -> Float[Tensor, "N receivers time"]:
        return seismograms(self.velocity, shots, self.frequency)


def true_velocity() -> Float[Tensor, " cells"]:
    velocity = torch.empty(CELLS)
    top = 0
    for bottom, layer in LAYER_BOTTOMS_AND_VELOCITIES:
        velocity[top:bottom] = layer
        top = bottom
    return velocity


def shots_at(cells: tuple[int, ...]) -> Float[Tensor, "N cells"]:
    return nn.functional.one_hot(torch.tensor(cells), CELLS).float()


def survey(frequency: float) -> Data:
    """The true ground's seismograms; validation and test shots stand at other depths."""
    return Data(
        *(
            (shots, seismograms(true_velocity(), shots, frequency))
            for shots in map(shots_at, (TRAIN_SHOTS, VALIDATION_SHOTS, TEST_SHOTS))
        )
    )


def relative_misfit(
    seismogram: Float[Tensor, "N receivers time"], recorded: Float[Tensor, "N receivers time"]
) -> Float[Tensor, ""]:
    """The squared difference over the recorded signal's square: 0 is a fit, 1 is silence."""
    return (seismogram - recorded).square().mean() / recorded.square().mean()


def waveform(frequency: float = 12.0) -> Task:
    """The inversion with a source of the given peak frequency in Hz, between 1 and 12.

    At 3 Hz every start finds the only basin of the misfit; at 12 Hz cycle skipping traps many of
    them. Waves above 12 Hz are too short for the cells. Seismologists avoid the traps by going from
    low to high frequency (Bunks et al. 1995), which is the curriculum here.

    Validation and test misfits are those of shots at depths that were not trained on. A misfit
    is all that a survey can measure: the true velocities are not used.
    """
    if not 1 <= frequency <= 12:
        raise UserError(f"The waveform task needs a frequency from 1 to 12 Hz, not {frequency!r}.")
    return Task(
        name="waveform",
        model=partial(Ground, frequency),
        data=partial(survey, frequency),
        loss=relative_misfit,
        metric_name="relative misfit",
        batch_size=len(TRAIN_SHOTS),
        steps=100,
        target=0.005,
        difficulty=waveform,
        curriculum=tuple(lower for lower in (3.0, 6.0) if lower < frequency),
        shows="Seismic inversion with local minima (cycle skipping): the start or noise decides.",
    )
