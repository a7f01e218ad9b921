"""The learning-rate range test: its suggestion trains, and lies where theory says it must."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from test_diagnosis import LINE
from thalweg import recipes
from thalweg.errors import UserError
from thalweg.stack.member import Member
from thalweg.stack.stacked import Stacked
from thalweg.tasks import Data, Task, find
from thalweg.training.lr_range import lr_range


def test_on_a_quadratic_the_suggestion_is_below_two_over_the_largest_eigenvalue() -> None:
    task = find("ravine")
    model = task.model()
    start = model.point.detach()
    curvature = torch.func.hessian(lambda point: model.height(point))(start)
    bound = 2 / torch.linalg.eigvalsh(curvature)[-1].item()

    found = lr_range(task, recipes.sgd())

    assert bound / 30 < found.suggestion < bound


@pytest.mark.parametrize("recipe", [recipes.sgd(), recipes.adam()], ids=lambda r: r.name)
def test_the_suggestion_trains_better_than_rates_a_hundred_times_off(
    recipe: recipes.Recipe,
) -> None:
    task = find("diabetes")
    found = lr_range(task, recipe, steps=60)

    def loss_after(lr: float) -> float:
        members = [Member(recipe.replace(lr=lr), seed) for seed in range(9, 17)]
        together = Stacked(task, members, width=8)
        losses = [sum(together.step()) for _ in range(60)]
        return math.inf if any(together.diverged) else sum(losses[-10:])

    at_suggestion = loss_after(found.suggestion)
    assert at_suggestion < loss_after(found.suggestion / 100)
    assert at_suggestion < loss_after(found.suggestion * 100)


def test_the_suggestion_is_the_best_of_those_tried() -> None:
    found = lr_range("saddle", recipes.momentum(), steps=40)
    assert found.tried[found.suggestion] == min(found.tried.values())


def test_a_ramp_that_is_misled_by_an_early_batch_does_not_keep_the_suggestion_low() -> None:
    """Of inputs that are not centred: the first batch has the lowest loss of the ramp."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(96, 4, generator=generator)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]]) + 0.3 * torch.randn(
        96, 1, generator=generator
    )
    split = (x - 3, y)
    task = Task(
        "off-centre",
        lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)),
        lambda: Data(split, split, split),
        F.mse_loss,
        batch_size=16,
        steps=100,
    )
    found = lr_range(task, recipes.sgd())
    assert found.lrs[found.losses.index(min(found.losses))] < 1e-4
    assert 1e-3 < found.suggestion < max(found.tried)


def test_a_diverging_rate_is_tried_and_counts_as_infinite() -> None:
    found = lr_range("ravine", recipes.sgd())
    assert math.isinf(max(found.tried.values()))


def test_the_same_call_gives_the_same_suggestion_and_leaves_the_random_state() -> None:
    before = torch.get_rng_state()
    first = lr_range("saddle", recipes.adam(), steps=20)
    assert lr_range("saddle", recipes.adam(), steps=20) == first
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"low": 0.0}, "0 < low < high"),
        ({"low": 1.0, "high": 0.1}, "0 < low < high"),
        ({"high": math.inf}, "0 < low < high"),
        ({"steps": 3}, "steps must be a whole number from 10 to 1000000"),
        ({"seeds": 10**20}, "seeds must be a whole number from 1 to 100"),
        ({"recipe": "adma"}, "no optimizer is called adma"),
    ],
)
def test_a_range_that_cannot_be_walked_is_refused(bad: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        lr_range(**{"task": "saddle", "recipe": "sgd"} | bad)


def test_a_loss_that_is_not_a_number_from_the_first_step_is_said() -> None:
    task = replace(find("saddle"), loss=lambda heights, _: heights.mean() * math.nan)
    with pytest.raises(UserError, match="loss of task 'saddle' is nan at the initial weights"):
        lr_range(task, recipes.sgd())


def changed(task: Task, change: Callable[[Tensor], Tensor]) -> Task:
    """The task under a loss that goes through a function."""
    return replace(task, loss=lambda *pair: change(task.loss(*pair)))


@example(constant=-5.0)
@example(constant=1e3)
@example(constant=1e-3)
@example(constant=0.0)
@given(constant=st.floats(-1e3, 1e3))
@settings(max_examples=3)
def test_a_constant_added_to_the_loss_changes_no_suggestion(constant: float) -> None:
    plain = lr_range(LINE, recipes.adam(), steps=20)
    # At 0 the first loss itself is what is added, with a minus: training begins at a loss of 0.
    added = constant or -plain.losses[0]
    moved = lr_range(changed(LINE, lambda loss: loss + added), recipes.adam(), steps=20)
    assert moved.lrs == plain.lrs
    assert list(moved.tried) == list(plain.tried)
    assert moved.suggestion == plain.suggestion


@pytest.mark.parametrize("factor", [1e-2, 1e3])
def test_adams_suggestion_does_not_depend_on_the_unit_of_the_loss(factor: float) -> None:
    recipe = recipes.adam(eps=1e-30)
    moved = lr_range(changed(LINE, lambda loss: loss * factor), recipe, steps=20)
    assert moved.suggestion == lr_range(LINE, recipe, steps=20).suggestion


def test_no_rate_that_trains_is_said() -> None:
    with pytest.raises(UserError, match=r"no learning rate .* trains ravine"):
        lr_range("ravine", recipes.sgd(), low=1e3, high=1e6)


class Strict(nn.Linear):
    """It raises where its outputs are large."""

    def forward(self, x: Tensor) -> Tensor:
        outputs = super().forward(x)
        if outputs.abs().max() > 100:
            raise ValueError("the outputs are too large")
        return outputs


def test_rates_at_which_a_model_raises_are_rates_that_do_not_train() -> None:
    inputs = torch.linspace(-1, 1, 64).view(32, 2)
    data = Data(*[(inputs, inputs.sum(1, keepdim=True))] * 3)
    task = Task("strict", lambda: Strict(2, 1), lambda: data, F.mse_loss, batch_size=8, steps=50)
    found = lr_range(task, "sgd", steps=40)
    assert 0.05 < found.suggestion < 1.5
    assert math.isinf(max(found.tried.items())[1])
