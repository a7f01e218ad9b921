"""Solutions: units that changed places are put back, and lines between known minima."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg import recipes
from thalweg.doctor.solutions.between import angle, between
from thalweg.doctor.solutions.matching import matched
from thalweg.doctor.solutions.minima import minima
from thalweg.errors import UserError
from thalweg.stack.batches import fetch
from thalweg.stack.population import initial_model
from thalweg.tasks import Data, Task, find


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(4, 7),
        nn.BatchNorm1d(7),
        nn.ReLU(),
        nn.Linear(7, 5, bias=False),
        nn.Tanh(),
        nn.Dropout(0.1),
        nn.Linear(5, 2),
    )
    model(torch.randn(32, 4))
    with torch.no_grad():
        for tensor in (*model[2].parameters(), model[2].running_mean):
            tensor.add_(torch.randn(7))
    return model.eval()


def shuffled(model: nn.Sequential, seed: int) -> nn.Sequential:
    """The same function with its hidden units in another order, moved by hand."""
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randperm(n, generator=generator) for n in (7, 5))
    other = network(0)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        norm = model[2]
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(other[2], name).copy_(getattr(norm, name)[first])
        other[1].weight.copy_(model[1].weight[first])
        other[1].bias.copy_(model[1].bias[first])
        other[4].weight.copy_(model[4].weight[second][:, first])
        other[7].weight.copy_(model[7].weight[:, second])
    return other


@settings(max_examples=40)
@given(seed=st.integers(0, 1000))
def test_units_that_changed_places_are_put_back(seed: int) -> None:
    model = network(seed)
    other = shuffled(model, seed)
    inputs = torch.randn(8, 4)
    torch.testing.assert_close(other(inputs), model(inputs))
    back = matched(model, other.state_dict(), model.state_dict())
    torch.testing.assert_close(back, dict(model.state_dict()), rtol=0, atol=0)


@settings(max_examples=25)
@given(seed=st.integers(0, 1000))
def test_matching_brings_nearer_and_keeps_the_function(seed: int) -> None:
    one, other = network(seed), network(seed + 5000)
    ordered = matched(other, other.state_dict(), one.state_dict())
    inputs = torch.randn(8, 4)
    before = other(inputs)

    def distance(state: Any) -> Tensor:
        params = [name for name, _ in one.named_parameters()]
        return sum((state[n] - one.state_dict()[n]).square().sum() for n in params)

    assert distance(ordered) <= distance(other.state_dict()) + 1e-5
    # No two units of the second hidden layer are better in each other's place.
    for i, j in combinations(range(5), 2):
        order = torch.arange(5)
        order[[i, j]] = order[[j, i]]
        swapped = {**ordered, "4.weight": ordered["4.weight"][order]}
        swapped["7.weight"] = ordered["7.weight"][:, order]
        assert distance(ordered) <= distance(swapped) + 1e-5
    other.load_state_dict(ordered)
    torch.testing.assert_close(other(inputs), before)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (nn.Linear(2, 2), "Linear"),
        (nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2)), "LayerNorm"),
        (nn.Sequential(nn.Conv2d(1, 1, 1)), "Conv2d"),
    ],
)
def test_models_whose_units_cannot_be_matched_are_named(model: nn.Module, named: str) -> None:
    with pytest.raises(UserError, match=f"not in a model with {named}"):
        matched(model, model.state_dict(), model.state_dict())


# Lines


def test_between_two_known_minima_lies_the_known_barrier() -> None:
    task = find("saddle")
    one, other = ({"point": torch.tensor([0.0, y])} for y in (-1.0, 1.0))
    found = between(task, one, other)
    assert found.barrier == pytest.approx(0.25)
    assert found.losses[5] == pytest.approx(0.25)
    assert (found.distance, found.angle) == (pytest.approx(2), pytest.approx(180))
    assert between(task, one, one).barrier == pytest.approx(0, abs=1e-7)


def test_small_angles_are_not_lost_to_round_off() -> None:
    a = torch.tensor([1.0, 0.0], dtype=torch.float64)
    b = torch.tensor([1.0, 1e-7], dtype=torch.float64)
    assert angle(a, b) == pytest.approx(1e-7 * 57.29578, rel=1e-6)


def normalized_task() -> Task:
    """A network whose first layer may be stretched: batch normalization takes it back."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 4, generator=generator)
    split = (inputs, inputs[:, :1].sin())
    return Task(
        name="normalized",
        model=lambda: nn.Sequential(
            nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1)
        ),
        data=lambda: Data(split, split, split),
        loss=F.mse_loss,
        batch_size=64,
        steps=30,
    )


def test_batch_norm_statistics_on_the_line_are_those_of_its_points() -> None:
    task = normalized_task()
    state = initial_model(task, 0).state_dict()
    stretched = {**state, "0.weight": 10 * state["0.weight"]}
    found = between(task, state, stretched, points=5)
    assert found.losses == pytest.approx([found.losses[0]] * 5, rel=1e-3)


# Several seeds


def test_seeds_that_end_in_different_minima_are_told_apart() -> None:
    task = replace(find("saddle"), steps=150)
    found = minima(task, recipes.momentum(lr=0.1), seeds=4)
    ends = {solution.seed: float(solution.state["point"][1].sign()) for solution in found.solutions}
    assert set(ends.values()) == {-1.0, 1.0}
    for pair in found.pairs:
        one, other = pair.seeds
        expected = 0.0 if ends[one] == ends[other] else 0.25
        assert pair.plain.barrier == pytest.approx(expected, abs=1e-3)
        assert pair.matched is None


def test_solutions_are_scored_on_all_splits_and_matched_where_it_is_defined() -> None:
    task = normalized_task()
    before = torch.get_rng_state()
    found = minima(task, recipes.adam(lr=0.03), seeds=3, points=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert [pair.seeds for pair in found.pairs] == [(0, 1), (0, 2), (1, 2)]
    for pair in found.pairs:
        assert pair.matched is not None
        assert pair.matched.distance < pair.plain.distance
    for solution in found.solutions:
        model = initial_model(task, 0)
        model.load_state_dict(dict(solution.state))
        inputs, targets = fetch(task.splits.test, torch.arange(64))
        expected = F.mse_loss(model.eval()(inputs), targets).item()
        assert solution.scores["test"] == pytest.approx(expected, rel=1e-4)
    # All splits are the same here.
    assert found.best_trained_is_best_tested
    best = min(found.solutions, key=lambda solution: solution.scores["train"])
    assert found.best("validation") == best.seed
    assert found.spread("test").estimate == sorted(s.scores["test"] for s in found.solutions)[1]


def test_seeds_that_all_diverge_leave_nothing_to_compare() -> None:
    with pytest.raises(UserError, match="0 of 2 seeds trained to the end; two are needed"):
        minima(normalized_task(), recipes.sgd(lr=1e30), seeds=2)
