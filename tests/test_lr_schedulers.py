"""PyTorch's learning rate schedulers on our optimizers, against the same on PyTorch's."""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch.optim.swa_utils import SWALR

from thalweg import optim

STEPS = 12

SCHEDULERS: dict[str, Callable[..., Any]] = {
    "LambdaLR": partial(LambdaLR, lr_lambda=lambda step: 0.9**step),
    "MultiplicativeLR": partial(MultiplicativeLR, lr_lambda=lambda _: 0.9),
    "StepLR": partial(StepLR, step_size=3, gamma=0.5),
    "MultiStepLR": partial(MultiStepLR, milestones=[2, 5, 9]),
    "ConstantLR": partial(ConstantLR, total_iters=4),
    "LinearLR": partial(LinearLR, start_factor=0.2, total_iters=6),
    "ExponentialLR": partial(ExponentialLR, gamma=0.9),
    "PolynomialLR": partial(PolynomialLR, total_iters=9, power=0.9),
    "CosineAnnealingLR": partial(CosineAnnealingLR, T_max=5, eta_min=1e-4),
    "CosineAnnealingWarmRestarts": partial(CosineAnnealingWarmRestarts, T_0=3, T_mult=2),
    "CyclicLR": partial(CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=2, step_size_down=3),
    "OneCycleLR": partial(OneCycleLR, max_lr=0.1, total_steps=STEPS + 1),
    "SWALR": partial(SWALR, swa_lr=0.01, anneal_epochs=5),
    "ReduceLROnPlateau": partial(ReduceLROnPlateau, patience=2),
    "ChainedScheduler": lambda optimizer: ChainedScheduler(
        [ConstantLR(optimizer, total_iters=3), ExponentialLR(optimizer, gamma=0.9)]
    ),
    "SequentialLR": lambda optimizer: SequentialLR(
        optimizer, [LinearLR(optimizer), StepLR(optimizer, 2)], milestones=[6]
    ),
}
ALONE = [name for name in SCHEDULERS if name not in ("ChainedScheduler", "SequentialLR")]
RESUMED = [name for name in ALONE if name != "ReduceLROnPlateau"]

OPTIMIZERS: dict[str, dict[str, Any]] = {"SGD": {"momentum": 0.9}, "Adam": {}}


def made(module: Any, name: str, rate: float | Tensor = 0.05) -> Any:
    """An optimizer of two groups, of which the second has a rate of its own."""
    first, second = [torch.full((3,), x, requires_grad=True) for x in (1.0, 2.0)]
    groups = [{"params": [first]}, {"params": [second], "lr": 0.5 * rate}]
    return getattr(module, name)(groups, lr=rate, **OPTIMIZERS[name])


def step(optimizer: Any, scheduler: Any) -> None:
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad = param.detach().sin()
    optimizer.step()
    scheduler.step(*[1.0] if isinstance(scheduler, ReduceLROnPlateau) else [])


def numbers(optimizer: Any) -> list[float]:
    """What schedulers change, and what it does to the parameters."""
    found = []
    for group in optimizer.param_groups:
        found += [group["lr"], group["momentum"] if "momentum" in group else group["betas"][0]]
        found += group["params"][0].tolist()
    return [float(number) for number in found]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("rate", [0.05, torch.tensor(0.05)], ids=["number", "tensor"])
def test_every_scheduler_drives_ours_as_pytorchs(
    name: str, scheduler: str, rate: float | Tensor
) -> None:
    optimizers = [made(module, name, copy.deepcopy(rate)) for module in (optim, torch.optim)]
    schedulers = [SCHEDULERS[scheduler](optimizer) for optimizer in optimizers]
    for _ in range(STEPS):
        for optimizer, each in zip(optimizers, schedulers, strict=True):
            step(optimizer, each)
        assert numbers(optimizers[0]) == pytest.approx(numbers(optimizers[1]), rel=1e-5)
        ours, theirs = [list(map(float, each.get_last_lr())) for each in schedulers]
        assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("scheduler", ALONE)
def test_the_kind_of_a_rate_stays(scheduler: str) -> None:
    """A number or a tensor; the tensor is the person's own."""
    for rate in (0.05, torch.tensor(0.05)):
        optimizer = made(optim, "SGD", rate)
        each = SCHEDULERS[scheduler](optimizer)
        for _ in range(STEPS):
            step(optimizer, each)
        first, second = [group["lr"] for group in optimizer.param_groups]
        assert type(first) is type(second) is type(rate)
        assert first is rate or isinstance(rate, float)


@pytest.mark.parametrize("scheduler", RESUMED)
def test_what_a_scheduler_started_from_stays(scheduler: str) -> None:
    """Also where the rate is a tensor, into which schedulers write."""
    rate = torch.tensor(0.05)
    optimizer = made(optim, "SGD", rate)
    each = SCHEDULERS[scheduler](optimizer)
    started = [float(start) for start in each.base_lrs]
    for _ in range(3):
        step(optimizer, each)
        rate.mul_(0.5)
    assert [float(start) for start in each.base_lrs] == started
    initial = [float(group["initial_lr"]) for group in optimizer.param_groups]
    assert initial == pytest.approx(started)


def test_a_cycle_between_tensors_keeps_its_ends() -> None:
    rate, low, high = torch.tensor(0.1), torch.tensor(0.1), torch.tensor(0.2)
    optimizer = made(optim, "SGD", rate)
    scheduler = CyclicLR(optimizer, base_lr=low, max_lr=high, step_size_up=4)
    for _ in range(3):
        step(optimizer, scheduler)
        low.mul_(0.5)
        high.mul_(0.5)
    assert scheduler.base_lrs == pytest.approx([0.1, 0.1])
    assert scheduler.max_lrs == pytest.approx([0.2, 0.2])


@pytest.mark.parametrize("scheduler", RESUMED)
def test_a_scheduler_goes_on_from_the_states_of_both(scheduler: str) -> None:
    whole = made(optim, "Adam")
    each = SCHEDULERS[scheduler](whole)
    for _ in range(4):
        step(whole, each)
    resumed = copy.deepcopy(whole)
    again = SCHEDULERS[scheduler](resumed)
    again.load_state_dict(each.state_dict())
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for _ in range(4):
        step(whole, each)
        step(resumed, again)
    assert numbers(resumed) == numbers(whole)


@pytest.mark.parametrize("scheduler", RESUMED)
def test_a_scheduler_begins_behind_a_saved_step(scheduler: str) -> None:
    """From the group's `initial_lr`, which the optimizer's state has to keep."""
    optimizer = made(optim, "Adam")
    each = SCHEDULERS[scheduler](optimizer)
    step(optimizer, each)
    resumed = made(optim, "Adam")
    resumed.load_state_dict(optimizer.state_dict())
    theirs = made(torch.optim, "Adam")
    theirs.load_state_dict(optimizer.state_dict())
    behind = [SCHEDULERS[scheduler](other, last_epoch=0) for other in (resumed, theirs)]
    assert behind[0].get_last_lr() == behind[1].get_last_lr()


def test_only_a_scheduler_that_steps_first_warns() -> None:
    optimizer = made(optim, "SGD")
    scheduler = StepLR(optimizer, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            step(optimizer, scheduler)
    hasty = StepLR(made(optim, "SGD"), 3)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        hasty.step()


def test_a_group_that_comes_later_is_slowed_too() -> None:
    optimizer = made(optim, "SGD")
    scheduler = ReduceLROnPlateau(optimizer, patience=1, factor=0.5)
    step(optimizer, scheduler)
    optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)], "lr": 0.2})
    for _ in range(2):
        step(optimizer, scheduler)
    assert [group["lr"] for group in optimizer.param_groups] == [0.025, 0.0125, 0.1]


def test_a_scheduler_is_freed_as_soon_as_it_is_dropped() -> None:
    optimizer = made(optim, "SGD")
    scheduler = StepLR(optimizer, 3)
    step(optimizer, scheduler)
    dropped = weakref.ref(scheduler)
    del scheduler
    assert dropped() is None
