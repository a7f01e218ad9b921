"""Rules that cannot be traced: in a stack each member is as alone, and shards are refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

from test_sums import neighbours
from thalweg import recipes, rules
from thalweg.errors import UserError
from thalweg.optim import Optimizer
from thalweg.recipes import Recipe, chain
from thalweg.rules.arithmetic import where
from thalweg.rules.rule import Hyper, Rule, State
from thalweg.stack import rows


class OwnNorm(Rule):
    lr = Hyper(0.1)

    def update(self, g: Any) -> Any:
        return -self.lr * g / g.norm()


class Centred(Rule):
    lr = Hyper(0.1)

    def update(self, g: Any) -> Any:
        return -self.lr * (g - g.mean())


class OfAMatrix(Rule):
    lr = Hyper(0.1)
    m = State()

    def update(self, g: Any) -> Any:
        self.m = 0.9 * self.m + g
        return -self.lr * (self.m @ self.m.mT @ self.m)


class Compared(Rule):
    lr = Hyper(0.1)
    momentum = Hyper(0.0)

    def update(self, g: Any) -> Any:
        return -self.lr * where(self.momentum == 0, 0.0, 1.0) * torch.tanh(g)


class Bounded(Rule):
    lr = Hyper(0.1)
    momentum = Hyper(0.0)

    def update(self, g: Any) -> Any:
        return -self.lr * where(self.momentum < 0.5, 2.0, 1.0) * torch.tanh(g)


class Decided(Rule):
    lr = Hyper(0.1)
    momentum = Hyper(0.0)

    def update(self, g: Any) -> Any:
        return -self.lr * g if self.momentum == 0 else -9 * self.lr * g


class InPlace(Rule):
    lr = Hyper(0.1)
    m = State()

    def update(self, g: Any) -> Any:
        self.m.mul_(0.9).add_(g)
        return -self.lr * self.m


UNTRACED = [OwnNorm, Centred, OfAMatrix, Compared, Bounded, Decided, InPlace]
STEPS, SHAPES = 3, {"matrix": (3, 4), "another": (4, 3)}


def recipes_of(rule: type[Rule]) -> list[Recipe]:
    """Three members' with settings of their own."""
    settings = {"lr": (0.1, 0.2, 0.3), "momentum": (0.0, 0.7, 0.0)}
    own = [{name: settings[name][k] for name in rule.hypers} for k in range(3)]
    return [chain(rule(**each), rules.ExponentialAverage(decay=0.5)) for each in own]


def drawn(seed: int) -> dict[str, Tensor]:
    """Of each of three members, some a thousand times as large as others."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([1.0, 30.0, 0.03], dtype=torch.float64).view(3, 1, 1)
    return {
        name: scale * torch.randn(3, *shape, generator=generator, dtype=torch.float64)
        for name, shape in SHAPES.items()
    }


def alone(recipe: Recipe, member: int) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters after some steps, and those to evaluate at."""
    params = [x[member].clone().requires_grad_() for x in drawn(0).values()]
    optimizer = Optimizer(params, recipe)
    for step in range(STEPS):
        for param, grad in zip(params, drawn(1 + step).values(), strict=True):
            param.grad = grad[member].clone()
        optimizer.step()
    with optimizer.evaluation():
        seen = [param.detach().clone() for param in params]
    return [param.detach() for param in params], seen


@pytest.mark.filterwarnings("ignore:.*stepped eagerly", "ignore:no kernel can be made")
@pytest.mark.parametrize("rule", UNTRACED, ids=lambda rule: rule.__name__)
def test_a_member_of_a_stack_is_the_member_alone(rule: type[Rule]) -> None:
    members = recipes_of(rule)
    params = drawn(0)
    group = neighbours(members, params)
    for step in range(STEPS):
        group.step(params, drawn(1 + step))
    seen = group.evaluated(params)
    for k, recipe in enumerate(members):
        for stacked, expected in zip((params, seen), alone(recipe, k), strict=True):
            for found, right in zip(stacked.values(), expected, strict=True):
                torch.testing.assert_close(found[k], right, rtol=1e-13, atol=0)


def test_that_members_go_one_by_one_is_said_once() -> None:
    rows.warn_of_single_steps.cache_clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            params = {"w": torch.ones(2, 3)}
            neighbours([chain(Decided())] * 2, params).step(params, params)
    (sentence,) = [str(each.message) for each in told]
    assert sentence.startswith("no kernel can be made of Decided here, so the members of a stack")


@pytest.fixture
def lone_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'at'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("lone_process")
@pytest.mark.filterwarnings("ignore:.*stepped eagerly")
@pytest.mark.parametrize("rule", UNTRACED, ids=lambda rule: rule.__name__)
def test_shards_of_parameters_that_a_rule_may_need_whole_are_refused(rule: type[Rule]) -> None:
    mesh = init_device_mesh("cpu", (1,))
    param = distribute_tensor(torch.ones(4, 4), mesh, [Shard(0)]).requires_grad_()
    param.grad = distribute_tensor(torch.ones(4, 4), mesh, [Shard(0)])
    optimizer = Optimizer([param], chain(rule()))
    with pytest.raises(
        UserError, match=f"{rule.__name__} cannot be traced, so it may need whole parameters"
    ):
        optimizer.step()
    averaged = Optimizer([param], chain(recipes.sgd(), recipes.tail_average(last=3)))
    averaged.step()  # an average of copies goes element by element
