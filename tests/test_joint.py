"""Layers that move at once, against their exact second-order part, and where seconds go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from patients import batch_of, bowl, exact, objective_of, small_network, small_objective
from thalweg.doctor.objective.objective import Objective
from thalweg.doctor.readings.joint import joint
from thalweg.doctor.watch.stopwatch import Stopwatch
from thalweg.errors import UserError


def test_the_interaction_is_that_of_the_blocks_beside_the_diagonal() -> None:
    objective = small_objective()
    step = 1e-5 * torch.randn(
        len(objective), dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    found = joint(objective, step)
    assert list(found.alone) == ["0", "2"]
    cut = 4 * 6 + 6
    crossing = step[:cut] @ exact(objective)[:cut, cut:] @ step[cut:]
    assert found.interaction == pytest.approx(float(crossing), rel=1e-2)
    assert found.together == objective.value(objective.point + step) - objective.value()


def test_a_loss_without_crossing_terms_has_no_interaction() -> None:
    objective = bowl(torch.tensor([1.0, 2.0], dtype=torch.float64))
    found = joint(objective, torch.tensor([0.5, -0.3], dtype=torch.float64))
    assert found.interaction == pytest.approx(0, abs=1e-14)


def test_the_drift_of_a_layer_is_the_shift_and_stretch_that_were_made() -> None:
    objective = Objective(small_network(), F.mse_loss, [batch_of(64)], dtype=torch.float64)
    weight, bias = torch.zeros(6, 4), torch.full((6,), 0.5)
    last = (torch.zeros(2, 6), torch.zeros(2))
    shifted = joint(objective, objective.flat([weight, bias, *last])).drifts[0]
    outputs = objective.model[0](batch_of(64)[0])
    expected = (0.5 / outputs.std(0, unbiased=False)).square().mean().sqrt()
    assert shifted.shift == pytest.approx(float(expected), rel=1e-5)
    assert shifted.stretch == pytest.approx(0, abs=1e-6)
    doubled = objective.flat([*(p.detach() for p in objective.model[0].parameters()), *last])
    assert joint(objective, doubled).drifts[0].stretch == pytest.approx(0.6931, rel=1e-3)


def test_batch_normalization_keeps_later_layers_from_drifting() -> None:
    plain, normalized = (
        Objective(small_network(*layers), F.mse_loss, [batch_of(64)], mode="training")
        for layers in (
            (nn.Linear(6, 6), nn.Linear(6, 6)),
            (nn.BatchNorm1d(6), nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6)),
        )
    )

    def last_drift(objective: Objective) -> float:
        # The first layer alone is stretched by half and shifted.
        first = sum(p.numel() for p in objective.parameters[:2])
        step = torch.zeros(len(objective))
        step[:first] = 0.5 * objective.point[:first] + 0.5
        return joint(objective, step).drifts[-1].shift

    assert last_drift(normalized) < 0.5 * last_drift(plain)


def test_a_reused_layer_drifts_call_by_call() -> None:
    objective = objective_of("adding", samples=4)
    found = joint(objective, 1e-3 * torch.ones(len(objective)))
    calls = [drift.call for drift in found.drifts if drift.layer == "recurrent"]
    assert calls == list(range(49))


# Seconds

PAUSE = 0.005


def sleepy(count: int) -> Iterator[int]:
    """A loader that sleeps before each batch."""
    for i in range(count):
        time.sleep(PAUSE)
        yield i


def test_a_loader_that_sleeps_is_counted_as_data() -> None:
    watch = Stopwatch()
    batches = []
    for batch in watch.loading(sleepy(12)):
        batches.append(batch)
        with watch.part("forward"):
            time.sleep(PAUSE / 5)
    assert batches == list(range(12))
    told = {seconds.part: seconds for seconds in watch.seconds()}
    assert list(told) == ["data", "forward"]
    # A sleep is never shorter than asked for.
    assert told["data"].total >= 12 * PAUSE
    assert told["data"].a_step.low >= PAUSE
    assert sum(seconds.share for seconds in told.values()) == pytest.approx(1)


def test_a_part_that_failed_is_not_counted() -> None:
    watch = Stopwatch()
    with watch.part("backward"):
        pass
    with pytest.raises(ZeroDivisionError), watch.part("backward"):
        _ = 1 / 0
    assert len(watch.taken["backward"]) == 1


@pytest.mark.parametrize(
    ("use", "sentence"),
    [
        (lambda watch: watch.part("lunch").__enter__(), "none called 'lunch'"),
        (lambda watch: watch.seconds(), "Nothing was timed yet"),
    ],
)
def test_what_cannot_be_timed_is_refused(use: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        use(Stopwatch())
