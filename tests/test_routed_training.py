"""Routes in a stack, in trainings and in races: each as the drop-in optimizer alone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import thalweg as tw
from test_stack import batches_of, plain_model, relative, tiny
from thalweg import rules, schedules
from thalweg.doctor.trials.in_use import recipe_in_use
from thalweg.errors import UserError
from thalweg.racing.cost import costs
from thalweg.racing.entrants import Entrant, cooling_of, entrant, with_cooling
from thalweg.recipe import Recipe
from thalweg.stack.member import Member
from thalweg.stack.single import Single
from thalweg.stack.stacked import Stacked
from thalweg.tasks.groups import with_groups


def normalized() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 2))


TASK = tiny(normalized)


class Windowed(rules.WindowAverage):
    """No kernel can be made of it."""


def routed(lr: float, max_norm: float = 0.05) -> Recipe:
    head = tw.route(("head", tw.sgd(lr=lr)), default=tw.adamw(lr=0.01, weight_decay=0.3))
    return tw.no_decay(tw.chain(tw.clip_norm(max_norm), head, tw.ema(0.5)))


def decayed(weight_decay: float) -> Recipe:
    return tw.no_decay(tw.chain(tw.clip_norm(0.1), tw.adamw(weight_decay=weight_decay)))


def own_norms(lr: float) -> Recipe:
    """Each route clips by the norm over its own parameters."""
    return tw.route(
        ("matrix", tw.chain(tw.clip_norm(0.02), tw.sgd(lr=lr))),
        default=tw.chain(tw.clip_norm(0.01), tw.sgd(lr=1.0)),
    )


def one_by_one(lr: float) -> Recipe:
    head = tw.route(("head", tw.sgd(lr=lr)), default=tw.chain(tw.adam(), Windowed(last=3)))
    return tw.chain(tw.clip_norm(0.05), head)


@pytest.mark.filterwarnings("ignore:.*stepped eagerly", "ignore:no kernel can be made")
@pytest.mark.parametrize("make", [routed, decayed, own_norms, one_by_one])
def test_members_of_a_stack_are_stepped_by_their_routes_as_alone(make: Any) -> None:
    members = [Member(make(value), seed) for seed, value in enumerate((0.1, 0.5, 0.9))]
    members.append(Member(tw.adam(), 7))
    stacked, alone = Stacked(TASK, members, width=2), Single(TASK, members)
    for _ in range(6):
        for population in (stacked, alone):
            population.step()
    for inside in (False, True):
        for place in range(4):
            if inside:
                with stacked.evaluation(), alone.evaluation():
                    found, right = stacked.state_dict(place), alone.state_dict(place)
            else:
                found, right = stacked.state_dict(place), alone.state_dict(place)
            for name, x in right.items():
                assert relative(found[name], x) < 1e-5, (place, name, inside)


def test_what_a_route_keeps_is_counted_parameter_by_parameter() -> None:
    recipe = tw.route(("matrix", tw.sgd()), default=tw.adam())
    (cost,) = costs(TASK, {"mine": recipe}, timeout=None)
    assert cost.state_per_parameter == pytest.approx(2 * (16 + 16 + 16 + 2) / (146))


def test_the_rates_of_all_routes_come_under_a_cooling() -> None:
    recipe = tw.route(("head", tw.sgd(lr=0.5)), default=tw.adam(lr=schedules.constant(0.1)))
    cooled = with_cooling(recipe, "linear", 9)
    assert cooled.rates == {
        "head.lr": schedules.linear(0.5, steps=9),
        "rest.lr": schedules.linear(0.1, steps=9),
    }
    assert cooling_of(cooled.to_toml()) == "linear"
    assert with_cooling(cooled, "none", 9).rates == {"head.lr": 0.5, "rest.lr": 0.1}
    assert cooled.at_rate(1.0).rates == {"head.lr": 1.0, "rest.lr": 0.2}


def test_settings_of_a_route_are_tuned_where_that_is_asked_for() -> None:
    recipe = tw.no_decay(tw.route(("head", tw.adam(lr=0.5)), default=tw.adamw()))
    space = {"head.lr": (0.01, 1.0), "rest.betas[1]": (0.9, 0.99), "no decay.weight_decay": (0, 1)}
    one = Entrant("mine", recipe, space)
    assert one.comes_under_cooling
    made = one.configured({"head.lr": 0.2, "rest.betas[1]": 0.95, "no decay.weight_decay": 0.5})
    assert made.settings == recipe.settings | {
        "head.lr": 0.2,
        "rest.betas": (0.9, 0.95),
        "no decay.weight_decay": 0.5,
    }
    assert entrant(recipe).space == {}
    with pytest.raises(UserError, match=r"did you mean head.lr"):
        Entrant("mine", recipe, {"hed.lr": (0.01, 1.0)})


def test_a_range_test_keeps_the_ratio_of_the_rates_of_routes() -> None:
    recipe = tw.route(("head", tw.sgd(lr=0.5)), default=tw.sgd(lr=0.1))
    found = tw.lr_range(TASK, recipe, low=1e-3, high=10.0, steps=20)
    alike = tw.route(("head", tw.sgd(lr=5.0)), default=tw.sgd(lr=1.0))
    assert tw.lr_range(TASK, alike, low=1e-3, high=10.0, steps=20) == found
    assert torch.isfinite(torch.tensor(found.suggestion))


def lone(groups: Any, steps: int = 10, seed: int = 0) -> nn.Module:
    """The model after PyTorch's AdamW with these groups, on the batches of that seed."""
    model = plain_model(TASK, seed)
    optimizer = torch.optim.AdamW(groups(model), lr=0.05, weight_decay=0.3)
    for _, (x, y) in zip(range(steps), batches(seed), strict=False):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    return model


def batches(seed: int) -> Any:
    while True:
        yield from batches_of(TASK, seed)


def no_decay_groups(model: nn.Module) -> list[dict[str, Any]]:
    plain = [param for param in model.parameters() if param.ndim < 2]
    others = [param for param in model.parameters() if param.ndim >= 2]
    return [{"params": others}, {"params": plain, "weight_decay": 0.0}]


def slow_body(model: nn.Module) -> list[dict[str, Any]]:
    assert isinstance(model, nn.Sequential)
    return [
        {"params": model[:-1].parameters(), "lr_factor": 0.1},
        {"params": model[-1].parameters(), "lr": 0.02, "weight_decay": 0.0},
    ]


def in_pytorch(model: nn.Module) -> list[dict[str, Any]]:
    assert isinstance(model, nn.Sequential)
    return [
        {"params": list(model[:-1].parameters()), "lr": 0.005},
        {"params": list(model[-1].parameters()), "lr": 0.02, "weight_decay": 0.0},
    ]


RECIPE = tw.adamw(lr=0.05, weight_decay=0.3)


@pytest.mark.parametrize("by", ["no_decay", "groups"])
def test_a_training_has_the_groups_of_pytorch(by: str, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    if by == "no_decay":
        tw.train(TASK, RECIPE, seed=3, out=out, no_decay=True)
        expected = lone(no_decay_groups, seed=3)
    else:
        tw.train(replace(TASK, groups=slow_body), RECIPE, seed=3, out=out)
        expected = lone(in_pytorch, seed=3)
    for name, x in load_file(out).items():
        assert relative(x, expected.state_dict()[name]) < 1e-4, name


def test_the_rate_of_a_group_comes_under_the_schedule_of_the_recipe() -> None:
    cooling = schedules.linear(0.1, 0.01, steps=9)
    recipe = with_groups(replace(TASK, groups=slow_body), tw.adamw(lr=cooling))
    assert recipe.rates == {"lr": cooling, "group 1.lr": schedules.linear(0.02, 0.002, steps=9)}
    assert with_groups(replace(TASK, groups=slow_body), recipe) == recipe


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        (lambda model: [{"params": model[0].parameters()}], r"no group of task tiny has 1.bias"),
        (lambda _: [{"lr": 0.1}], "group 0 of task tiny must be a dictionary such as"),
        (
            lambda _: [{"params": [nn.Parameter(torch.ones(2))]}],
            "something that is no parameter of",
        ),
        (lambda model: [{"params": model.parameters(), "momentum": 0.1}], "no chain has momentum"),
        (lambda model: model.parameters(), "group 0 of task tiny must be a dictionary such as"),
        (lambda _: 1 / 0, "Task 'tiny' failed in training"),
        ("all", "needs a function that takes the model and gives parameter groups"),
    ],
)
def test_groups_that_are_none_are_refused(groups: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        tw.train(replace(TASK, groups=groups), RECIPE, out=tmp_path / "x.safetensors")


def test_a_race_has_the_routes_of_its_entrants_of_the_task_and_of_no_decay(tmp_path: Path) -> None:
    head = tw.route(("head", tw.sgd()), default=tw.adamw(), name="two")
    result = tw.race(
        replace(TASK, groups=slow_body),
        entrants=["adamw", Entrant("two", head, {"head.lr": (1e-3, 0.1), "rest.lr": (1e-3, 0.1)})],
        trials=2,
        tuning_seeds=2,
        seeds=2,
        no_decay=True,
        lanes=1,
        step="stacked",
        runs=tmp_path,
    )
    assert "no_decay=True" in result.record.command
    for name, text in result.record.settings.recipes.items():
        routes = {"two": ["head", "rest"]}.get(name, [])
        raced = Recipe.from_toml(text)
        assert [one.name for one in raced.routes] == [*routes, "no decay", "group 0", "group 1"]
    two = next(one for one in result.record.configurations if one.entrant == "two")
    assert two.values.keys() == {"head.lr", "rest.lr"}
    rates = Recipe.from_toml(two.recipe).rates
    assert rates["head.lr"] == schedules.linear(two.values["head.lr"], steps=10)
    assert rates["rest.lr"] == schedules.linear(two.values["rest.lr"], steps=10)
    assert result.best is not None
    made = tw.optim.Optimizer(normalized(), result.best)
    (bias,) = (one for one in made.describe() if one.parameter == "1.bias")
    assert bias.route.endswith("no decay + group 0")
    page = result.report().read_text()
    assert re.search(r"3.weight</th>\s*<td[^>]*><span>2 x 16.*", page)
    assert "no decay + group 0" in page


@pytest.mark.parametrize("ours", [True, False])
def test_the_recipe_in_use_has_the_groups_of_the_optimizer(ours: bool) -> None:
    model = normalized()
    kind: Any = tw.optim.AdamW if ours else torch.optim.AdamW
    optimizer = kind(in_pytorch(model), lr=0.05, weight_decay=0.3)
    used = recipe_in_use(optimizer, model)
    again = tw.optim.Optimizer(model, used)
    found = {one.parameter: again.param_groups for one in again.describe()}
    assert len(found) == 6
    known = {
        name: (group["lr"], group["weight_decay"])
        for group in again.param_groups
        for name in group["param_names"]
    }
    assert known == {
        name: (0.02, 0.0) if name.startswith("3.") else (0.005, 0.3)
        for name, _ in model.named_parameters()
    }


def test_the_recipe_in_use_has_the_routes_of_the_optimizer() -> None:
    model, recipe = normalized(), routed(0.3)
    used = recipe_in_use(tw.optim.Optimizer(model, recipe), model)
    by_recipe = Single(TASK, [Member(recipe, 1)])
    by_use = Single(TASK, [Member(used, 1)])
    for _ in range(3):
        by_recipe.step(), by_use.step()
    for name, x in by_recipe.state_dict(0).items():
        assert torch.equal(x, by_use.state_dict(0)[name])
