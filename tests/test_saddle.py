"""Saddle points, plateaus and critical points, where they are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from patients import NOTHING, bowl, exact, height, objective_of, small_objective
from thalweg.doctor.curvature.critical_points import critical_points
from thalweg.doctor.curvature.negative_curvature import descent, index
from thalweg.doctor.objective.objective import Objective
from thalweg.doctor.readings.trend import trend
from thalweg.errors import UserError


class Well(nn.Module):
    """Sum of (x_i^2 - 1)^2: of 3^n critical points, 2^n are minima and one is a maximum."""

    def __init__(self, n: int, start: float = 0.0) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.full((n,), start, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return (self.x.square() - 1).square().sum().expand(len(inputs))


def well(n: int) -> Objective:
    return Objective(Well(n), height, [NOTHING])


# Saddles


def test_the_index_of_a_planted_saddle_is_the_share_that_was_planted() -> None:
    eigenvalues = torch.cat([-torch.linspace(1, 2, 30), torch.zeros(50), torch.linspace(1, 3, 20)])
    objective = bowl(eigenvalues.double())
    found = index(objective)
    # A diagonal Hessian gives each probe of signs the same weight on each eigenvalue.
    assert found.negative.estimate == pytest.approx(0.3)
    assert found.flat.estimate == pytest.approx(0.5)
    assert found.positive.estimate == pytest.approx(0.2)
    assert found.lowest.value == pytest.approx(-2, rel=0.01)
    assert found.cut == pytest.approx(3e-3, rel=0.01)
    assert found.gradient == pytest.approx(float(eigenvalues.norm()))


def test_the_index_of_a_network_holds_the_exact_share() -> None:
    objective = small_objective()
    eigenvalues = torch.linalg.eigvalsh(exact(objective))
    found = index(objective, probes=20)
    share = float((eigenvalues < -found.cut).double().mean())
    assert found.negative.low <= share <= found.negative.high
    assert found.descent.drop > 0


def test_the_way_down_from_a_saddle_leads_to_the_minimum_beside_it() -> None:
    objective = objective_of("saddle", dtype=torch.float64)
    objective.point = torch.zeros(2, dtype=torch.float64)
    found = index(objective, steps=2)
    assert found.gradient == 0
    assert found.lowest.value == pytest.approx(-1)
    assert found.lowest.vector[1].abs() == pytest.approx(1)
    # The minima lie at a distance of 1, lower by 1/4; the search doubles its steps.
    assert 0.5 < found.descent.distance < 1.5
    assert 0.15 < found.descent.drop <= 0.25
    assert found.descent.bounded


def test_a_way_that_leads_down_for_ever_is_unbounded_and_one_up_is_none() -> None:
    objective = bowl(torch.tensor([-1.0, 1.0], dtype=torch.float64))
    objective.point = torch.zeros(2, dtype=torch.float64)
    down = descent(objective, torch.tensor([3.0, 0.0], dtype=torch.float64))
    assert not down.bounded
    assert descent(objective, torch.tensor([0.0, 1.0], dtype=torch.float64)).drop == 0


# Plateaus


def noisy(slope: float, seed: int, memory: float = 0.8, n: int = 1000) -> np.ndarray:
    """A line with noise that remembers."""
    generator = np.random.default_rng(seed)
    noise = np.zeros(n)
    for i in range(1, n):
        noise[i] = memory * noise[i - 1] + generator.normal()
    return slope * np.arange(n) + noise


def test_a_flat_series_is_seldom_said_to_move_although_its_noise_remembers() -> None:
    flat = [trend(noisy(0.0, seed)).flat for seed in range(100)]
    assert np.mean(flat) >= 0.9


def test_a_falling_series_is_seen_to_fall_by_what_it_fell() -> None:
    found = [trend(noisy(-0.003, seed)) for seed in range(50)]
    assert all(one.falls for one in found[:20])
    held = [one.change.low <= -3.0 <= one.change.high for one in found]
    assert np.mean(held) >= 0.9


@pytest.mark.parametrize("values", [[1.0] * 19, [1.0] * 30 + [math.nan]])
def test_a_series_that_tells_nothing_is_refused(values: Any) -> None:
    with pytest.raises(UserError, match="A trend needs a list of 20 finite values or more"):
        trend(values)


# Critical points


def test_all_critical_points_of_a_known_landscape_are_found_and_named() -> None:
    objective = objective_of("saddle", dtype=torch.float64)
    grid = [torch.tensor([x, y]) for x in (-0.5, 0.5) for y in (-1.2, -0.1, 0.1, 1.2)]
    found = critical_points(objective, grid)
    assert [point.kind for point in found] == ["minimum", "minimum", "saddle"]
    assert [point.negative for point in found] == [0, 0, 1]
    assert found[2].point.tolist() == pytest.approx([0, 0], abs=1e-8)
    assert found[0].value == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_ratio_of_saddles_to_minima_grows_with_the_dimension(n: int) -> None:
    near = torch.tensor([-1.1, 0.05, 1.1])
    starts = torch.cartesian_prod(*[near] * n).reshape(-1, n)
    kinds = [point.kind for point in critical_points(well(n), list(starts))]
    counts = {kind: kinds.count(kind) for kind in ("minimum", "maximum", "saddle")}
    assert counts == {"minimum": 2**n, "maximum": 1, "saddle": 3**n - 2**n - 1}


def test_a_search_that_ends_where_the_gradient_does_not_vanish_finds_nothing() -> None:
    class Slide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, inputs: Tensor) -> Tensor:
            # The slope is at least 1, and least at the origin.
            return (self.x + self.x**3 / 3).expand(len(inputs))

    slide = Objective(Slide(), height, [NOTHING])
    assert critical_points(slide, [torch.tensor([0.5])]) == []


def test_a_flat_direction_makes_a_point_degenerate() -> None:
    (found,) = critical_points(bowl(torch.tensor([1.0, 0.0]).double()), [torch.tensor([0.3, 0.2])])
    assert found.kind == "degenerate"


def test_problems_too_large_or_too_coarse_are_refused() -> None:
    with pytest.raises(UserError, match="up to 200 parameters in float64, not with 2 in float32"):
        critical_points(objective_of("saddle"), [torch.zeros(2)])
