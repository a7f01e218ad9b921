"""The lines of PyTorch that a verdict prints train as the recipe does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn

from thalweg import recipes, rules, schedules
from thalweg.errors import UserError
from thalweg.optim import Optimizer
from thalweg.racing.torch_code import EVERY_EVALUATION, EVERY_STEP, in_torch
from thalweg.recipes import RECIPES, Recipe, chain

STEPS = 60
COOLED = schedules.linear(0.05, steps=STEPS)


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def trajectory(make_step: Callable[[nn.Module], Callable[[Tensor], None]]) -> list[Tensor]:
    """The parameters after every one of 60 steps of a small network; `make_step` sets it up."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    inputs, targets = torch.randn(STEPS, 8, 3), 5 * torch.randn(STEPS, 8, 2)
    step, path = make_step(model), []
    for x, y in zip(inputs, targets, strict=True):
        model.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        step(loss.detach())
        path.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
    return path


def by_recipe(recipe: Recipe) -> list[Tensor]:
    def make(model: nn.Module) -> Callable[[Tensor], None]:
        optimizer = Optimizer(model.parameters(), recipe)

        def step(loss: Tensor) -> None:
            optimizer.step()
            optimizer.observe(validation=loss.item())

        return step

    return trajectory(make)


def by_lines(lines: str) -> list[Tensor]:
    def make(model: nn.Module) -> Callable[[Tensor], None]:
        once, every_step = lines.split(EVERY_STEP)
        every_step, _, every_evaluation = every_step.partition(EVERY_EVALUATION)
        names = {"torch": torch, "model": model}
        exec(once, names)

        def step(loss: Tensor) -> None:
            exec(every_step, names)
            names["validation_metric"] = loss
            exec(every_evaluation, names)

        return step

    return trajectory(make)


def largest_gap(recipe: Recipe) -> float:
    lines, why_not = in_torch(recipe)
    assert lines is not None, why_not
    pairs = zip(by_recipe(recipe), by_lines(lines), strict=True)
    return max((ours - theirs).abs().max().item() for ours, theirs in pairs)


EQUAL = {
    "momentum, constant lr": recipes.momentum(lr=0.02),
    "momentum, cooled": recipes.momentum(lr=COOLED, momentum=0.8, weight_decay=0.01),
    "momentum, cooled to zero": recipes.momentum(lr=schedules.cosine(0.05, steps=STEPS)),
    "momentum as in PyTorch": chain(rules.SGDMomentum(lr=COOLED, dampening=0.1)),
    "Nesterov as in PyTorch": chain(rules.SGDNesterov(lr=COOLED)),
    "centered rmsprop": chain(rules.CenteredRMSprop(lr=COOLED)),
    "centered rmsprop with momentum": chain(rules.CenteredRMSpropMomentum(lr=COOLED)),
    "adadelta": recipes.adadelta(lr=schedules.linear(1.0, steps=STEPS)),
    "adam": recipes.adam(lr=COOLED, betas=(0.8, 0.99), weight_decay=0.01),
    "adam at a constant schedule": recipes.adam(lr=schedules.constant(0.05)),
    "adamw": recipes.adamw(lr=COOLED, weight_decay=0.1),
    "amsgrad, decoupled": chain(rules.AMSGrad(lr=COOLED), rules.DecoupledDecay(weight_decay=0.1)),
    "clipped by value": chain(recipes.clip_value(0.1), recipes.sgd(lr=COOLED, weight_decay=0.1)),
    "linear, shorter than the run": recipes.sgd(lr=schedules.linear(0.05, 0.0, steps=40)),
    "exponential": recipes.sgd(lr=schedules.exponential(0.05, 0.97)),
    "inverse time": recipes.sgd(lr=schedules.inverse_time(0.05, 10.0)),
    "cosine": recipes.adam(lr=schedules.cosine(0.05, 0.001, steps=STEPS)),
    "step": recipes.sgd(lr=schedules.step(0.05, 0.3, 20)),
    "one cycle": recipes.adam(lr=schedules.one_cycle(0.05, STEPS)),
    "plateau": recipes.sgd(lr=schedules.plateau(0.05, gamma=0.5, patience=2, minimum=0.01)),
}


def of_pytorch() -> Iterator[tuple[str, Recipe]]:
    """Every optimizer that PyTorch has too, with all that it can do."""
    for name, known in rules.NAMED.items():
        if known.stepping.torch and not known.to:
            make = RECIPES[known.recipe]
            yield name, make(lr=COOLED, weight_decay=0.01)
            for flag in (flag for flag in known.flags if flag in known.signature.parameters):
                on = 0.5 if flag in known.hypers else True
                with suppress(UserError):  # some flags are nothing without another
                    yield f"{name}, {flag}", make(lr=COOLED, **{flag: on})


EQUAL |= dict(of_pytorch())


@pytest.mark.parametrize("name", EQUAL)
def test_lines_take_the_same_steps(name: str) -> None:
    assert largest_gap(EQUAL[name]) < 1e-10


def test_clipping_by_norm_differs_by_what_its_comment_says() -> None:
    recipe = chain(recipes.clip_norm(0.1), recipes.sgd(lr=COOLED))
    assert "divides by norm + 1e-6" in str(in_torch(recipe)[0])
    assert largest_gap(recipe) < 1e-5


NO_COUNTERPART = {
    "nesterov": (recipes.nesterov(lr=COOLED), "look-ahead"),
    "delta-bar-delta": (recipes.delta_bar_delta(), "no DeltaBarDelta"),
    "lion": (recipes.lion(), "no Lion"),
    "lamb": (recipes.lamb(weight_decay=0.0), "no Lamb"),
    "muon": (recipes.muon(), "The recipe has routes"),
    "decoupled decay of sgd": (
        chain(rules.SGD(), rules.DecoupledDecay()),
        "no SGD with decoupled decay",
    ),
    "averaging": (chain(recipes.sgd(), recipes.ema()), "ExponentialAverage"),
    "clipping after decay": (
        chain(rules.L2Decay(weight_decay=0.1), rules.ClipValue(), rules.SGD()),
        "ClipValue",
    ),
    "scheduled momentum": (
        recipes.momentum(momentum=schedules.warming(steps=9)),
        "momentum follows a schedule",
    ),
    "momentum on a plateau": (recipes.momentum(lr=schedules.plateau(0.1)), "plateau"),
    "warm-up": (recipes.sgd(lr=schedules.warmup(COOLED, 5)), "warmup"),
    "rising lr": (recipes.sgd(lr=schedules.linear(0.01, 0.1, steps=9)), "LinearLR"),
}


@pytest.mark.parametrize("name", NO_COUNTERPART)
def test_what_pytorch_cannot_do_is_said(name: str) -> None:
    recipe, reason = NO_COUNTERPART[name]
    lines, why_not = in_torch(recipe)
    assert lines is None
    assert reason in str(why_not)


@pytest.mark.parametrize("name", EQUAL)
def test_lines_fit_a_terminal(name: str) -> None:
    assert max(map(len, str(in_torch(EQUAL[name])[0]).splitlines())) <= 100
