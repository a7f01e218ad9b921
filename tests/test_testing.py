"""The conformance kit over our optimizers and PyTorch's, and over optimizers with one fault."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from thalweg import optim, rules
from thalweg.errors import UserError
from thalweg.rules import Hyper, Rule, State
from thalweg.rules.value import Value
from thalweg.testing import (
    ConformanceError,
    check_optimizer,
    check_rule,
    optimizer_checks,
    rule_checks,
)
from thalweg.testing.checks import CHECKS

MATRICES = {"shapes": [(3, 4), (5, 2)]}
NAMES = ["SGD", "Adam"]


@pytest.mark.parametrize("module", [optim, torch.optim], ids=["ours", "PyTorch's"])
@pytest.mark.parametrize("name", NAMES)
def test_optimizers_of_ours_and_of_pytorch_keep_the_promises(module: object, name: str) -> None:
    check_optimizer(getattr(module, name))


@pytest.mark.parametrize("module", [optim, torch.optim], ids=["ours", "PyTorch's"])
def test_an_optimizer_of_matrices_is_checked_on_matrices(module: object) -> None:
    check_optimizer(module.Muon, **MATRICES)


THEIRS = ["Adadelta", "Adagrad", "Adafactor", "Adamax", "AdamW", "ASGD", "NAdam", "RAdam"]
THEIRS += ["RMSprop", "Rprop"]
ALL = [getattr(optim, name) for name in rules.NAMED if name not in ("Muon", *NAMES)]
ALL += [getattr(torch.optim, name) for name in THEIRS]


@pytest.mark.exhaustive
@pytest.mark.parametrize("cls", ALL, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_all_optimizers_keep_the_promises(cls: type[torch.optim.Optimizer]) -> None:
    check_optimizer(cls)


LIMITS = {
    "copies_deeply": "its list of parameters is not copied",
    "pickles": "its list of parameters is not pickled",
    "leaves_parameters_without_gradients": "it has one direction for all parameters",
    "thaws_frozen_parameters": "it has one history for all parameters",
    "has_groups": "PyTorch documents that there is one group",
    "adds_groups": "PyTorch documents that there is one group",
    "takes_transposed_parameters": "it views gradients as vectors",
}


@optimizer_checks(torch.optim.LBFGS, known=LIMITS, max_iter=2)
def test_lbfgs_keeps_the_promises_that_it_can(check: Callable[[], None]) -> None:
    check()


def momentum(theta: Tensor, gradients: list[Tensor]) -> Tensor:
    velocity = torch.zeros_like(theta)
    for g in gradients:
        velocity = 0.9 * velocity + g
        theta = theta - 0.1 * velocity
    return theta


def test_pytorchs_momentum_follows_its_formula_and_another_momentum_does_not() -> None:
    check_optimizer(torch.optim.SGD, lr=0.1, momentum=0.9, formula=momentum)
    with pytest.raises(ConformanceError) as raised:
        check_optimizer(torch.optim.SGD, lr=0.1, momentum=0.8, formula=momentum)
    assert list(raised.value.failures) == ["follows_the_formula"]


class OneByOne(torch.optim.SGD):
    """Steps whose length falls with the age of a parameter. Each subclass adds one fault."""

    def rate(self, group: dict[str, object], param: Tensor) -> float:
        state = self.state[param]
        state["step"] = state.get("step", 0) + 1
        return float(group["lr"]) / state["step"]

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    param.sub_(self.rate(group, param) * param.grad)
        return loss


class CountsForAll(OneByOne):
    def rate(self, group: dict[str, object], param: Tensor) -> float:
        group["step"] = group.get("step", 0) + (param is group["params"][0])
        return float(group["lr"]) / (1 + group["step"])


class ForgetsTheCount(OneByOne):
    def rate(self, group: dict[str, object], param: Tensor) -> float:
        self.count = getattr(self, "count", 0) + 1
        return super().rate(group, param) / (1 + (self.count > 12))


class KeepsTheRate(OneByOne):
    def rate(self, group: dict[str, object], param: Tensor) -> float:
        return super().rate({**group, "lr": self.defaults["lr"]}, param)


class LosesTheLoss(OneByOne):
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        super().step(closure)


class MovesWithoutGradients(OneByOne):
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for param in group["params"]:
                    param.mul_(0.999)
        return loss


class Flattens(OneByOne):
    def rate(self, group: dict[str, object], param: Tensor) -> float:
        param.view(-1)
        return super().rate(group, param)


def failures(cls: type[torch.optim.Optimizer]) -> list[str]:
    with pytest.raises(ConformanceError) as raised:
        check_optimizer(cls, lr=0.1)
    return list(raised.value.failures)


@pytest.mark.parametrize(
    ("cls", "fault"),
    [
        (CountsForAll, "thaws_frozen_parameters"),
        (ForgetsTheCount, "resumes"),
        (KeepsTheRate, "follows_schedulers"),
        (KeepsTheRate, "has_groups"),
        (LosesTheLoss, "takes_closures"),
        (MovesWithoutGradients, "leaves_parameters_without_gradients"),
        (Flattens, "takes_transposed_parameters"),
    ],
)
def test_a_fault_is_found_and_named(cls: type[torch.optim.Optimizer], fault: str) -> None:
    assert fault in failures(cls)


def test_an_optimizer_without_a_fault_passes() -> None:
    check_optimizer(OneByOne, lr=0.1)


class Mine(Rule):
    lr = Hyper(0.1)
    beta = Hyper(0.9)
    m = State()

    def update(self, g: Value) -> Value:
        self.m = self.beta * self.m + g
        return -self.lr * self.m


@rule_checks(Mine, formula=momentum)
def test_a_rule_of_a_users_own_keeps_the_promises(check: Callable[[], None]) -> None:
    check()


def test_a_rule_that_takes_no_step_is_checked_with_one_that_does() -> None:
    check_rule(rules.ClipValue, clip_value=0.5)


def test_a_rule_that_does_not_follow_its_formula_is_found() -> None:
    with pytest.raises(ConformanceError, match="the formula gives"):
        check_rule(Mine, beta=0.5, formula=momentum)


def test_what_is_no_optimizer_is_refused() -> None:
    with pytest.raises(UserError, match=r"subclass of torch\.optim\.Optimizer"):
        check_optimizer(torch.nn.Linear)
    with pytest.raises(UserError, match=r"subclass of thalweg\.rules\.Rule"):
        check_rule(torch.optim.SGD)
    with pytest.raises(UserError, match="did you mean pickles"):
        optimizer_checks(torch.optim.SGD, known={"pickle": "why"})


PROMISES = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "promises.py"))
SCRIPTS = [name for name in CHECKS if name not in ("takes_steps", "follows_the_formula")]


@pytest.mark.parametrize("name", SCRIPTS)
def test_pytorchs_adam_keeps_the_promise_that_a_script_tests(name: str) -> None:
    PROMISES[name](torch.optim.Adam)


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (CountsForAll, "thaws_frozen_parameters"),
        (KeepsTheRate, "follows_schedulers"),
        (LosesTheLoss, "takes_closures"),
        (MovesWithoutGradients, "leaves_parameters_without_gradients"),
        (Flattens, "takes_transposed_parameters"),
    ],
)
def test_a_script_shows_the_fault_that_the_kit_finds(
    cls: type[torch.optim.Optimizer], name: str
) -> None:
    with pytest.raises((AssertionError, TypeError, RuntimeError)):
        PROMISES[name](cls)
