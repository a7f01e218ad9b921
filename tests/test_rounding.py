"""Stochastic rounding to bfloat16, against the numbers beside and their odds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from thalweg import recipes
from thalweg.optim import Optimizer
from thalweg.rules.rounding import rounded

COUNT = 2**16


def neighbours(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The bfloat16 numbers next to 0 from each float32 and next away from it."""
    low = torch.from_numpy((x.numpy().view(np.uint32) & 0xFFFF0000).view(np.float32))
    high = torch.from_numpy((low.numpy().view(np.uint32) + 0x10000).view(np.float32))
    return low, high


def test_each_number_goes_to_one_beside_it() -> None:
    x = torch.randn(COUNT, generator=torch.Generator().manual_seed(0)) * 10
    found = rounded(x, seed=1, t=1)
    low, high = neighbours(x)
    assert ((found == low) | (found == high)).all()
    assert (found == low).any()
    assert (found == high).any()
    assert torch.equal(found.bfloat16().float(), found)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.97])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_odds_are_the_distances(share: float, sign: float) -> None:
    low, high = 1.0, 1.0 + 2.0**-7
    x = torch.full((COUNT,), sign * (low + share * (high - low)))
    for seed, t in ((1, 1), (1, 2), (5, 1)):
        found = (rounded(x, seed, t) == sign * high).double().mean().item()
        assert abs(found - share) < 5 * math.sqrt(share * (1 - share) / COUNT)


def test_seeds_and_ages_draw_anew() -> None:
    x = torch.full((COUNT,), 1.0 + 2.0**-8)
    drawn = [rounded(x, seed, t) > 1 for seed, t in ((1, 1), (1, 1), (1, 2), (2, 1))]
    assert torch.equal(drawn[0], drawn[1])
    for other in drawn[2:]:
        same = (drawn[0] == other).double().mean().item()
        assert abs(same - 0.5) < 5 * 0.5 / math.sqrt(COUNT)


def test_what_needs_no_rounding_stays() -> None:
    x = torch.tensor([0.0, -0.0, 1.0, -3.5, math.inf, -math.inf, math.nan, 2.0**-130])
    torch.testing.assert_close(rounded(x, 1, 1), x, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("backend", ["numba", "eager"])
def test_steps_below_the_last_digit_add_up(backend: str) -> None:
    """Of 200 steps of 1/50 of a digit, rounding to the nearest loses each one."""
    ends = []
    for last in ([], [recipes.stochastic_rounding()]):
        param = torch.ones(4096, dtype=torch.bfloat16, requires_grad=True)
        optimizer = Optimizer([param], recipes.chain(recipes.sgd(lr=1.0), *last), backend=backend)
        for _ in range(200):
            param.grad = torch.full((4096,), -(2.0**-7) / 50, dtype=torch.bfloat16)
            optimizer.step()
        ends.append(float(param.detach().float().mean()))
    assert ends[0] == 1.0
    digits = 4 * math.sqrt(4 * 49 / 50) / math.sqrt(4096)
    assert ends[1] == pytest.approx(1 + 4 * 2.0**-7, abs=5 * digits * 2.0**-7)


def test_a_long_seed_draws_the_same_in_kernels() -> None:
    ends = []
    for backend in ("numba", "eager"):
        param = torch.ones(4096, dtype=torch.bfloat16, requires_grad=True)
        recipe = recipes.chain(recipes.sgd(), recipes.stochastic_rounding(2**24 + 1))
        optimizer = Optimizer([param], recipe, backend=backend)
        param.grad = torch.linspace(-1, 1, 4096).bfloat16()
        optimizer.step()
        ends.append(param.detach())
    assert torch.equal(*ends)


def test_other_precisions_are_left_alone() -> None:
    ends = []
    for last in ([], [recipes.stochastic_rounding()]):
        param = torch.ones(100, requires_grad=True)
        optimizer = Optimizer([param], recipes.chain(recipes.adam(), *last))
        param.grad = torch.linspace(-1, 1, 100)
        optimizer.step()
        ends.append(param.detach())
    assert torch.equal(*ends)
