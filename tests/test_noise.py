"""The noise of gradients, on a task where it is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thalweg.doctor.objective.objective import Objective
from thalweg.doctor.readings.noise import Noise, noise
from thalweg.errors import UserError

WIDTH = 20


class Slope(nn.Module):
    """x'w: the gradient of a sample's output is the sample."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


def seen(mean: float, deviation: float, seed: int, batches: int = 12, size: int = 8) -> Noise:
    """Samples from a normal distribution: |G|^2 = 20 mean^2 and tr Sigma = 20 deviation^2."""
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn(batches, size, WIDTH, generator=generator) * deviation + mean
    pairs = [(x, torch.zeros(size)) for x in samples]
    return noise(Objective(Slope(), lambda outputs, _: outputs.mean(), pairs))


def test_the_intervals_hold_the_known_noise_and_signal() -> None:
    found = [seen(0.5, 2.0, seed) for seed in range(80)]
    for name, truth in (("squared_gradient", 5.0), ("variance", 80.0), ("signal", 1 / 16)):
        intervals = [getattr(one, name) for one in found]
        assert np.mean([i.estimate for i in intervals]) == pytest.approx(truth, rel=0.1)
        assert np.mean([i.low <= truth <= i.high for i in intervals]) >= 0.88
    scales = [one.scale for one in found if one.scale]
    assert np.mean([scale.low <= 16 <= scale.high for scale in scales]) >= 0.88


def test_without_a_signal_the_scale_cannot_be_told() -> None:
    told = [seen(0.0, 1.0, seed).scale is not None for seed in range(100)]
    assert np.mean(told) <= 0.06


def test_the_signal_grows_with_the_batch() -> None:
    found = seen(0.5, 2.0, 0)
    assert found.signal_at(32).estimate == pytest.approx(32 * found.signal.estimate)
    assert found.signal_at(32).low == pytest.approx(32 * found.signal.low)


def test_the_estimate_does_not_depend_on_how_samples_are_cut_into_batches() -> None:
    coarse = np.mean([seen(0.5, 2.0, s, batches=6, size=16).variance.estimate for s in range(20)])
    fine = np.mean([seen(0.5, 2.0, s, batches=24, size=4).variance.estimate for s in range(20)])
    assert coarse == pytest.approx(fine, rel=0.05)


def test_what_cannot_tell_of_noise_is_refused() -> None:
    batch, longer = (torch.ones(4, WIDTH), torch.ones(4)), (torch.ones(5, WIDTH), torch.ones(5))

    def of(*batches: tuple[Tensor, Tensor]) -> None:
        noise(Objective(Slope(), lambda outputs, _: outputs.mean(), batches))

    with pytest.raises(
        UserError, match="from 3 or more batches of one size, not from 2 batches of 4"
    ):
        of(batch, batch)
    with pytest.raises(UserError, match="not from 3 batches of 4, 5 samples"):
        of(batch, batch, longer)
    with pytest.raises(UserError, match="the same: there is no noise"):
        of(batch, batch, batch)
    with pytest.raises(UserError, match="gradient of a batch is not finite"):
        of(batch, batch, (torch.full((4, WIDTH), torch.nan), torch.ones(4)))
