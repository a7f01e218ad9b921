"""Shuffled samples are told from sorted ones by their targets."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from thalweg.doctor.readings.order import order
from thalweg.errors import UserError


def batches(targets: Tensor, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    """With placeholder inputs."""
    return [(torch.zeros(len(y)), y) for y in targets.split(size)]


NUMBERS = torch.randn(64, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
CLASSES = torch.randint(4, (64,), generator=torch.Generator().manual_seed(0))


def test_numbers_are_judged_as_scipy_s_analysis_of_variance_does() -> None:
    drifting = NUMBERS + torch.linspace(0, 1, 64).view(-1, 1, 1)
    seen = order(batches(drifting))
    each = [y.mean((1, 2)).numpy() for y in drifting.split(8)]
    assert seen.p == pytest.approx(stats.f_oneway(*each).pvalue, rel=1e-9)
    assert seen.batches == 8


@pytest.mark.parametrize("targets", [NUMBERS, CLASSES], ids=["numbers", "classes"])
def test_sorted_targets_are_told_from_shuffled_ones(targets: Tensor) -> None:
    flat = targets.reshape(len(targets), -1).double().mean(1)
    assert order(batches(targets)).p > 0.01
    assert order(batches(targets[flat.argsort()])).p < 1e-6


@pytest.mark.parametrize("seed", range(20))
def test_the_same_samples_in_every_batch_differ_by_round_off_alone(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(3, 50, generator=generator)
    shuffled = [sample[torch.randperm(3, generator=generator)] for _ in range(8)]
    seen = order([(torch.zeros(3), y) for y in shuffled])
    assert seen.p == pytest.approx(1.0)
    assert seen.share < 1e-9


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        (torch.zeros(16), "three or more batches"),
        (torch.zeros(24), "All targets are the same"),
        (torch.zeros(24, dtype=torch.long), "All targets are the same"),
        (torch.zeros(24, 2, dtype=torch.long), "real numbers or classes"),
    ],
)
def test_what_has_no_order_is_told(targets: Tensor, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        order(batches(targets))
