"""Signals through layers, units and recurrences, where each is known from how it was made."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patients import batch_of, small_network
from thalweg.doctor.objective.objective import Objective
from thalweg.doctor.readings.recurrence import recurrence
from thalweg.doctor.readings.signals import signals
from thalweg.doctor.readings.units import units
from thalweg.errors import UserError


def orthogonal_chain(gain: float, depth: int = 8) -> nn.Sequential:
    """Linear layers that turn and stretch: each multiplies what passes by the gain, both ways."""
    torch.manual_seed(0)
    layers = [nn.Linear(6, 6, bias=False) for _ in range(depth)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, gain)
    return nn.Sequential(*layers)


def look(model: nn.Module, inputs: Tensor, targets: Tensor) -> Objective:
    return Objective(model.double(), F.mse_loss, [(inputs, targets)], dtype=torch.float64)


# Signals


@pytest.mark.parametrize("gain", [0.5, 1.0, 1.7])
def test_the_factor_from_layer_to_layer_is_the_gain(gain: float) -> None:
    found = signals(look(orthogonal_chain(gain), torch.randn(32, 6), torch.randn(32, 6)))
    assert found.backward.estimate == pytest.approx(gain)
    assert found.forward.estimate == pytest.approx(gain)
    assert found.backward.low <= found.backward.high
    assert found.backward.high == pytest.approx(gain, rel=1e-6)


def test_a_signal_is_the_slope_of_a_samples_own_loss() -> None:
    model = small_network().double()
    inputs, targets = (x.double() for x in batch_of(8))
    found = signals(look(model, inputs, targets))
    hidden = model[0](inputs).detach().requires_grad_()
    outputs = model[2](hidden.tanh())
    losses = (outputs - targets).square().mean(1)
    (slopes,) = torch.autograd.grad(losses.sum(), hidden)
    first = found.layers[0]
    assert first.layer == "0"
    assert first.signal == pytest.approx(float(slopes.square().sum(1).mean().sqrt()))
    assert first.activation == pytest.approx(float(hidden.square().mean().sqrt()))


def test_what_is_seen_of_several_batches_is_that_of_all_samples() -> None:
    inputs, targets = batch_of(12)
    model = small_network()
    parts = [(inputs[:8], targets[:8]), (inputs[8:], targets[8:])]
    whole, halves = (
        signals(Objective(model, F.mse_loss, batches, dtype=torch.float64))
        for batches in ([(inputs, targets)], parts)
    )
    for one, other in zip(whole.layers, halves.layers, strict=True):
        assert one.signal == pytest.approx(other.signal)
        assert one.activation == pytest.approx(other.activation)
    assert whole.gradients == pytest.approx(halves.gradients)


def test_an_activation_in_place_does_not_hide_the_layers_output() -> None:
    torch.manual_seed(0)
    batch = batch_of(8)
    found = [
        signals(Objective(small_network(nn.ReLU(inplace=inplace)), F.mse_loss, [batch]))
        for inplace in (False, True)
    ]
    assert found[0].layers == found[1].layers


def test_layers_that_nothing_comes_back_to_are_named() -> None:
    model = small_network(nn.Linear(6, 6), nn.ReLU())
    nn.init.constant_(model[1].bias, -1e3)
    found = signals(Objective(model, F.mse_loss, [batch_of(16)]))
    assert found.unreached == ("0", "1")
    assert found.gradients["0.weight"] == 0 < found.gradients["3.bias"]


class Recurrent(nn.Module):
    """h <- W h + x for 30 steps, W a rotation times its spectral radius."""

    def __init__(self, radius: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.recurrent = nn.Linear(4, 4, bias=False)
        self.out = nn.Linear(4, 2)
        nn.init.orthogonal_(self.recurrent.weight, radius)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs
        for _ in range(30):
            hidden = self.recurrent(hidden) + inputs
        outputs: Tensor = self.out(hidden)
        return outputs


@pytest.mark.parametrize("radius", [0.97, 1.03])
def test_signals_of_a_recurrent_layer_follow_its_spectral_radius_step_by_step(
    radius: float,
) -> None:
    model = Recurrent(radius)
    found = signals(Objective(model, F.mse_loss, [batch_of(8)], dtype=torch.float64))
    steps = found.of("recurrent")
    assert [signal.call for signal in steps.layers] == list(range(30))
    assert steps.backward.estimate == pytest.approx(radius, rel=1e-6)
    assert recurrence(model.recurrent.weight).radius == pytest.approx(radius, rel=1e-6)


def test_a_model_without_matrices_is_refused() -> None:
    model = nn.BatchNorm1d(4)
    objective = Objective(model, lambda outputs, _: outputs.mean(), [batch_of(8)])
    with pytest.raises(UserError, match="no layer with a matrix of weights"):
        signals(objective)


# Units


def planted() -> nn.Module:
    """Of 6 units, 2 are dead, 1 is dormant; of 6 others, 3 are saturated."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))
    with torch.no_grad():
        model[0].bias[:2] = -1e3
        model[0].weight[2] *= 1e-4
        model[0].bias[2] = 1e-5
        model[2].bias[3:] = 50.0
    return model


def test_planted_dead_dormant_and_saturated_units_are_counted() -> None:
    batches = [batch_of(64, seed) for seed in range(4)]
    rectified, bounded = units(Objective(planted(), F.mse_loss, batches)).activations
    assert (rectified.place, bounded.place) == ("1 relu", "3 tanh")
    assert (rectified.units, rectified.dead, rectified.dormant) == (6, 2, 3)
    assert (bounded.units, bounded.dead, bounded.saturated) == (6, 0, 3)
    assert rectified.values == 4 * 64


def test_a_healthy_layer_has_no_dead_unit_although_half_its_outputs_are_zero() -> None:
    model, batch = small_network(nn.ReLU()), batch_of(500)
    (found,) = units(Objective(model, F.mse_loss, [batch])).activations
    assert (model[0](batch[0]) <= 0).float().mean() == pytest.approx(0.5, abs=0.15)
    assert (found.units, found.dead) == (6, 0)


class Functional(nn.Module):
    """Activations as functions, in place, as methods, on channels and on sequences."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(1, 5, 3)
        self.out = nn.Linear(3, 2)
        nn.init.constant_(self.convolution.bias, -1e3)

    def forward(self, inputs: Tensor) -> Tensor:
        pictures = F.relu(self.convolution(inputs.reshape(-1, 1, 2, 2).repeat(1, 1, 2, 2)))
        sequence = pictures.flatten(2)[..., :3].sigmoid()
        outputs: Tensor = self.out(torch.relu_(sequence)).mean(1)
        return outputs


def test_activations_need_not_be_modules() -> None:
    objective = Objective(Functional(), F.mse_loss, [batch_of(8)])
    found = {layer.place: layer for layer in units(objective).activations}
    assert list(found) == ["relu", "sigmoid", "relu (2)"]
    assert (found["relu"].units, found["relu"].dead) == (5, 5)
    assert (found["sigmoid"].units, found["sigmoid"].saturated) == (3, 0)
    assert found["relu (2)"].dead == 0


# Recurrence


@pytest.mark.parametrize("radius", [0.98, 1.02])
def test_a_known_spectral_radius_decides_between_growth_and_decay(radius: float) -> None:
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))
    eigenvalues = radius * torch.linspace(-1, 0.3, 8, dtype=torch.float64)
    found = recurrence(basis @ eigenvalues.diag() @ basis.T, steps=200)
    assert found.radius == pytest.approx(radius)
    assert found.eigenvalues[0].real == pytest.approx(-radius)
    assert (found.growth[-1] > found.growth[50]) == (radius > 1)
    for n in (1, 5, 100):
        expected = (eigenvalues ** (2 * n)).mean().sqrt()
        assert found.growth[n - 1] == pytest.approx(float(expected))


def test_a_matrix_far_from_normal_grows_before_it_decays() -> None:
    matrix = torch.tensor([[0.9, 10.0], [0.0, 0.9]])
    found = recurrence(matrix, steps=300)
    assert found.radius == pytest.approx(0.9)
    assert found.peak > 20
    assert found.growth[-1] < 1e-3


@pytest.mark.parametrize(
    ("weight", "sentence"),
    [
        (torch.ones(2, 3), r"must be square; this one is \[2, 3\]"),
        (torch.full((2, 2), math.nan), "not finite"),
    ],
)
def test_what_is_no_recurrent_matrix_is_refused(weight: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        recurrence(weight)
