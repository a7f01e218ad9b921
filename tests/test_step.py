"""Steps: the quadratic that foretells them, in closed form, and a training watched as it goes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional as F

from patients import (
    NOTHING,
    Bowl,
    batch_of,
    bowl,
    exact,
    height,
    objective_of,
    small_network,
    small_objective,
)
from thalweg.doctor.objective.objective import Objective
from thalweg.doctor.readings.step import StepWatch, look_at_step
from thalweg.errors import UserError
from thalweg.tasks import find


@given(seed=st.integers(0, 1000), lr=st.floats(0.01, 2.0))
def test_on_a_quadratic_the_prediction_is_what_happens(seed: int, lr: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    objective = bowl(torch.rand(6, generator=generator, dtype=torch.float64) + 0.1)
    found = look_at_step(objective, -lr * objective.gradient())
    assert found.change == pytest.approx(found.predicted, rel=1e-9, abs=1e-12)
    # The rate beyond which the loss grows is where the change turns positive.
    assert (found.change > 0) == (found.largest < 1)


def test_the_best_and_the_largest_rate_are_those_of_a_line_search() -> None:
    objective = bowl(torch.tensor([1.0, 10.0, 3.0], dtype=torch.float64))
    gradient = objective.gradient()
    found = look_at_step(objective, -gradient)

    def along(rate: float) -> float:
        return objective.value(objective.point - rate * gradient)

    best = minimize_scalar(along, bounds=(0, 10), options={"xatol": 1e-12}, method="bounded").x
    assert found.best == pytest.approx(best, rel=1e-6)
    assert along(found.largest) == pytest.approx(along(0), rel=1e-12)
    assert along(1.0001 * found.largest) > along(0) > along(0.9999 * found.largest)


def test_a_step_in_any_direction_has_the_slope_and_the_bend_of_the_exact_hessian() -> None:
    objective = small_objective()
    step = torch.linspace(-0.2, 0.3, len(objective), dtype=torch.float64)
    found = look_at_step(objective, step)
    assert found.slope == pytest.approx(float(step @ objective.gradient()))
    assert found.bend == pytest.approx(float(step @ exact(objective) @ step) / 2)
    assert found.curvature == pytest.approx(2 * found.bend / float(step @ step))
    assert found.change == objective.value(objective.point + step) - objective.value()


def test_where_the_loss_bends_down_no_step_is_too_long() -> None:
    objective = objective_of("saddle")
    found = look_at_step(objective, torch.tensor([0.0, 0.1]))
    assert found.curvature < 0
    assert found.best == found.largest == math.inf
    assert not found.overshoots


@pytest.mark.parametrize("step", [torch.zeros(2), torch.tensor([1.0, math.nan])])
def test_a_step_that_is_none_is_refused(step: Tensor) -> None:
    with pytest.raises(UserError, match="A step must be finite and not zero"):
        look_at_step(objective_of("saddle"), step)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, batches: Any, **fields: Any
) -> StepWatch:
    watch = StepWatch(model, loss, **fields)
    for *inputs, targets in batches:
        optimizer.zero_grad()
        loss(model(*inputs), targets).backward()
        with watch.looking((*inputs, targets)):
            optimizer.step()
    return watch


@pytest.mark.parametrize(("factor", "overshoots"), [(0.9, False), (1.1, True)])
def test_steps_beyond_the_best_rate_overshoot(factor: float, overshoots: bool) -> None:
    model = Bowl(torch.tensor([2.0, 2.0], dtype=torch.float64))
    watch = train(model, torch.optim.SGD([model.x], lr=factor / 2), height, [NOTHING] * 10)
    assert [step.overshoots for step in watch.seen] == [overshoots] * 10
    assert watch.overshooting().estimate == float(overshoots)
    assert all(step.best == pytest.approx(1 / factor) for step in watch.seen)


def test_a_watched_step_agrees_with_a_close_look_at_it() -> None:
    model = small_network()
    batch = batch_of(16)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    start = Objective(model, F.mse_loss, [batch], dtype=torch.float64)
    watch = train(model, optimizer, F.mse_loss, [batch], dtype=torch.float64)
    end = Objective(model, F.mse_loss, [batch], dtype=torch.float64)
    close, (seen,) = look_at_step(start, end.point - start.point), watch.seen
    assert seen.slope == pytest.approx(close.slope, rel=1e-5)
    assert seen.bend == pytest.approx(close.bend, rel=1e-2)
    assert seen.change == pytest.approx(close.change)


@pytest.mark.parametrize("lr", [1e-3, 0.03])
def test_a_large_constant_in_the_loss_hides_no_step(lr: float) -> None:
    def watched(constant: float) -> StepWatch:
        model = small_network()
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        return train(
            model, optimizer, lambda *pair: F.mse_loss(*pair) + constant, [batch_of(16)] * 5
        )

    for plain, moved in zip(watched(0.0).seen, watched(1e4).seen, strict=True):
        assert moved.overshoots == plain.overshoots
        assert moved.slope == pytest.approx(plain.slope, rel=0.05)
        assert moved.change == pytest.approx(plain.change, rel=0.05)


def test_differences_below_round_off_tell_nothing() -> None:
    model = small_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    watch = train(model, optimizer, F.mse_loss, [batch_of(16)])
    assert watch.seen[0].overshoots is None
    with pytest.raises(UserError, match="Round-off hides the change of every step"):
        watch.overshooting()


def test_successive_gradients_of_a_rate_too_high_point_against_each_other() -> None:
    model = Bowl(torch.tensor([1.0], dtype=torch.float64))
    zigzag = train(model, torch.optim.SGD([model.x], lr=1.9), height, [NOTHING] * 4)
    model = Bowl(torch.tensor([1.0], dtype=torch.float64))
    calm = train(model, torch.optim.SGD([model.x], lr=0.1), height, [NOTHING] * 4)
    for watch, sign in ((zigzag, -1), (calm, 1)):
        first, *others = watch.seen
        assert first.gradient_cosine is first.velocity_cosine is None
        assert [step.gradient_cosine for step in others] == pytest.approx([sign] * 3)
        assert [step.velocity_cosine for step in others] == pytest.approx([sign] * 3)


def test_adagrads_rates_fall_as_one_over_the_root_of_the_steps() -> None:
    task = find("cliff")
    model = task.model()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=1e-3)
    # Far left of the cliff the slope in x is constant.
    model.point.data = torch.tensor([-8.0, 0.0])
    (batch,) = objective_of("cliff").batches
    watch = train(model, optimizer, task.loss, [batch] * 16)
    rates = [step.rates["point"] for step in watch.seen]
    assert rates[0] / rates[15] == pytest.approx(4, rel=1e-2)


def test_watched_training_is_the_same_to_the_bit_as_unwatched() -> None:
    def network() -> nn.Module:
        return small_network(nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Tanh())

    batches = [batch_of(16, seed) for seed in range(5)]
    watched, plain = network(), network()
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(watched.parameters())
    train(watched, optimizer, F.mse_loss, batches)
    drawn = torch.get_rng_state()
    torch.manual_seed(1)
    other = torch.optim.Adam(plain.parameters())
    for inputs, targets in batches:
        other.zero_grad()
        F.mse_loss(plain(inputs), targets).backward()
        other.step()
    assert torch.equal(torch.get_rng_state(), drawn)
    torch.testing.assert_close(watched.state_dict(), plain.state_dict(), rtol=0, atol=0)
    states = optimizer.state_dict()["state"], other.state_dict()["state"]
    torch.testing.assert_close(*states, rtol=0, atol=0)
