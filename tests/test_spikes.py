"""Cliffs: spikes where they were planted, clips in closed form, and Adam's early warning."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from patients import objective_of
from thalweg import optim
from thalweg.doctor.readings.spikes import clips, spikes
from thalweg.doctor.readings.surprise import surprises
from thalweg.errors import UserError
from thalweg.tasks import find


def healthy(seed: int, n: int = 1000) -> np.ndarray:
    """A loss that falls, with noise that falls with it."""
    generator = np.random.default_rng(seed)
    return (0.2 + np.exp(-np.arange(n) / 300)) * np.exp(0.1 * generator.normal(size=n))


def test_spikes_are_found_where_they_were_planted_and_nowhere_else() -> None:
    for seed in range(5):
        values = healthy(seed)
        values[[150, 400, 777]] *= 4
        values[900] = math.nan
        assert [spike.step for spike in spikes(values)] == [150, 400, 777, 900]


def test_a_healthy_run_is_seldom_said_to_spike() -> None:
    ill = [bool(spikes(healthy(seed, n=300))) for seed in range(40)]
    assert np.mean(ill) <= 0.05


def test_a_spike_tells_its_deviations_in_units_of_the_noise() -> None:
    generator = np.random.default_rng(0)
    values = np.append(generator.normal(size=2000), 10.0)
    (found,) = spikes(values, window=2000)
    assert found.deviations == pytest.approx(10, rel=0.1)
    assert found.value == 10


def test_a_step_over_the_cliff_is_a_spike_of_the_gradient() -> None:
    task, objective = find("cliff"), objective_of("cliff")
    model = task.model()
    # Fifteen steps of 0.8 down the flat slope, and one onto the wall.
    model.point.data = torch.tensor([-12.2, 0.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=8.0)
    (batch,) = objective.batches
    norms = []
    for _ in range(17):
        optimizer.zero_grad()
        task.loss(model(batch[0]), batch[1]).backward()
        norms.append(float(model.point.grad.norm()))
        optimizer.step()
    wall = int(np.argmax(norms))
    assert wall == 16
    assert [spike.step for spike in spikes(norms, fewest=10)] == [16]


def test_a_clip_at_a_percentile_shortens_what_is_beyond_it() -> None:
    norms = [*range(1, 101), math.inf]
    half, most = clips(norms, [50, 100])
    assert half.norm == pytest.approx(50.5)
    assert half.clipped == pytest.approx(51 / 101)
    assert half.kept == pytest.approx((sum(range(1, 51)) + 50 * 50.5) / 5050)
    assert (most.norm, most.clipped, most.kept) == (100, pytest.approx(1 / 101), 1)
    assert half.shortest == most.shortest == 0


@pytest.mark.parametrize("make", [torch.optim.Adam, optim.Adam])
def test_a_gradient_that_grows_at_once_is_a_surprise_by_as_much(make: Any) -> None:
    model = nn.ModuleDict({"calm": nn.Linear(3, 3, False), "spiky": nn.Linear(3, 3, False)})
    optimizer = make(model.parameters(), betas=(0.9, 0.999), eps=0.0)
    generator = torch.Generator().manual_seed(0)

    def differentiate(factor: float) -> None:
        for name, layer in model.items():
            signs = torch.randn(3, 3, generator=generator).sign()
            layer.weight.grad = signs * (factor if name == "spiky" else 1.0)

    for _ in range(5):
        differentiate(1.0)
        optimizer.step()
    differentiate(8.0)
    model["spiky"].weight.grad[1:] = 0.0
    first, second = surprises(model, optimizer)
    assert (first.parameter, second.parameter) == ("spiky.weight", "calm.weight")
    assert first.ratio == pytest.approx(8 / math.sqrt(3), rel=1e-5)
    assert second.ratio == pytest.approx(1, rel=1e-5)


def test_what_cannot_be_told_is_refused() -> None:
    model = nn.Linear(2, 2)
    adam = torch.optim.Adam(model.parameters())
    refused: list[tuple[Any, str]] = [
        (lambda: spikes([1.0] * 50, window=5), "window must be a whole number from 20"),
        (lambda: spikes([1.0] * 50, threshold=0), "threshold must be above 0"),
        (lambda: clips([math.nan]), "at least one of them must be finite"),
        (lambda: clips([1.0], [101]), "percentiles must lie between 0 and 100"),
        (lambda: surprises(model, adam), "No tensor has a gradient and a second moment yet"),
        (lambda: surprises(model, torch.optim.SGD(model.parameters())), "SGD has no second mom"),
    ]
    for call, sentence in refused:
        with pytest.raises(UserError, match=sentence):
            call()
