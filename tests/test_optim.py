"""The drop-in optimizers against those of `torch.optim`, with the same gradients."""

from __future__ import annotations

import copy
import io
import math
import pickle
import re
import weakref
from collections import UserList
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import lr_scheduler
from torch.overrides import TorchFunctionMode

from thalweg import optim, recipes, rules, schedules
from thalweg.errors import UserError
from thalweg.recipes import RECIPES, Recipe, chain

STEPS = 50
SHAPES = [(), (0,), (7,), (3, 4), (2, 3, 1, 2)]

INPUTS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"lr": 1e-2}),
    ("SGD", {"lr": torch.tensor(0.001, dtype=torch.float64)}),
    ("SGD", {"weight_decay": 0.5}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"weight_decay": 0.1, "maximize": True}),
    ("SGD", {"momentum": 0.9, "dampening": 0.5}),
    ("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("Adagrad", {}),
    ("Adagrad", {"weight_decay": 0.1, "maximize": True}),
    ("Adagrad", {"lr": 0.1}),
    ("Adagrad", {"initial_accumulator_value": 0.1, "weight_decay": 0.1}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.5, "weight_decay": 0.1}),
    ("Adagrad", {"lr": torch.tensor(0.001, dtype=torch.float64)}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 1e-3, "alpha": 0.9, "eps": 1e-4}),
    ("RMSprop", {"maximize": True, "weight_decay": 0.1}),
    ("RMSprop", {"momentum": 0.9}),
    ("RMSprop", {"weight_decay": 0.1, "centered": True}),
    ("RMSprop", {"weight_decay": 0.1, "centered": True, "momentum": 0.1, "maximize": True}),
    ("Adadelta", {}),
    ("Adadelta", {"lr": 0.01}),
    ("Adadelta", {"weight_decay": 0.1, "maximize": True}),
    ("Adadelta", {"rho": 0.95, "weight_decay": 0.9, "eps": 1e-4}),
    *[
        (name, settings)
        for name in ("Adam", "AdamW")
        for settings in (
            {},
            {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-4},
            {"weight_decay": 0.1},
            {"weight_decay": 0.1, "maximize": True},
            {"weight_decay": 0.1, "amsgrad": True},
            {"lr": torch.tensor(0.01, dtype=torch.float64)},
        )
    ],
    ("Adam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("NAdam", {}),
    ("NAdam", {"lr": 1e-3, "momentum_decay": 6e-3}),
    ("NAdam", {"weight_decay": 0.1, "momentum_decay": 6e-3}),
    ("NAdam", {"weight_decay": 0.1, "momentum_decay": 6e-3, "decoupled_weight_decay": True}),
    ("NAdam", {"weight_decay": 0.1, "maximize": True}),
]
"""The options that PyTorch tests its own optimizers with (`optim_inputs_func_*`)."""

SETTINGS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.05, "momentum": 0.9, "dampening": 0.5},
    "Adagrad": {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.1},
    "RMSprop": {"centered": True, "momentum": 0.5},
    "Adadelta": {},
    "Adam": {"lr": 0.02, "amsgrad": True},
    "AdamW": {"lr": 0.02, "weight_decay": 0.1},
}
OURS = [name for name, known in rules.NAMED.items() if not known.to]
"""Those with routes, which take other tensors too, are held in test_matrices.py."""

every_input = pytest.mark.parametrize(("name", "settings"), INPUTS, ids=str)
every_name = pytest.mark.parametrize(
    ("name", "settings"),
    [(name, SETTINGS.get(name, {"lr": 0.02})) for name in OURS if hasattr(torch.optim, name)],
    ids=lambda part: part if isinstance(part, str) else "",
)


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """PyTorch keeps NAdam's product in the default precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def parameters(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in SHAPES
    ]


def give_gradients(params: list[Tensor], i: int) -> None:
    """The gradients of step i: of a bowl with flat sides, with noise that only i decides."""
    generator = torch.Generator().manual_seed(i)
    for param in params:
        noise = torch.randn(param.shape, generator=generator, dtype=param.dtype)
        param.grad = (param.detach() - 1).tanh() + 0.3 * noise


def train(optimizer: torch.optim.Optimizer, steps: range) -> None:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for i in steps:
        give_gradients(params, i)
        optimizer.step()


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p.detach() for group in optimizer.param_groups for p in group["params"]]


def agree(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-12)


def same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for mine, its in zip(ours, theirs, strict=True):
        assert torch.equal(mine, its)


def both(name: str, *args: Any, **settings: Any) -> list[Any]:
    """Our optimizer and PyTorch's of that name, each on parameters of its own."""
    return [
        getattr(module, name)(*copy.deepcopy(args), **settings) for module in (optim, torch.optim)
    ]


# The same steps.


@every_input
def test_steps_are_pytorchs(name: str, settings: dict[str, Any]) -> None:
    ours, theirs = both(name, parameters(), **settings)
    for i in range(STEPS):
        train(ours, range(i, i + 1))
        train(theirs, range(i, i + 1))
        agree(parameters_of(ours), parameters_of(theirs))


@every_name
def test_defaults_and_group_keys_are_pytorchs(name: str, settings: dict[str, Any]) -> None:
    del settings
    ours, theirs = both(name, parameters())
    group = ours.param_groups[0]
    for key, value in theirs.param_groups[0].items():
        if key != "params":
            assert group[key] == value, key
            assert ours.defaults[key] == value, key


@every_name
def test_groups_may_differ_in_every_setting(name: str, settings: dict[str, Any]) -> None:
    """But in Adagrad's start, which PyTorch takes from the constructor for all groups."""
    settings = {k: v for k, v in settings.items() if k != "initial_accumulator_value"}
    first, *others = parameters()
    numbers = {key: 0.5 * value for key, value in settings.items() if isinstance(value, float)}
    groups = [
        {"params": [first]},
        {"params": others[:2], **settings},
        {"params": others[2:], **numbers, "weight_decay": 0.3, "maximize": True},
    ]
    ours, theirs = both(name, groups, lr=0.01)
    train(ours, range(STEPS))
    train(theirs, range(STEPS))
    agree(parameters_of(ours), parameters_of(theirs))


@every_name
def test_frozen_parameters_and_missing_gradients(name: str, settings: dict[str, Any]) -> None:
    """A parameter whose first gradient comes late is younger; one without is left alone."""
    ours, theirs = both(name, parameters(), **settings)
    for optimizer in (ours, theirs):
        frozen, late, gaps, *_ = params = optimizer.param_groups[0]["params"]
        frozen.requires_grad_(False)
        for i in range(STEPS):
            give_gradients(params, i)
            frozen.grad = None
            late.grad = late.grad if i >= 20 else None
            gaps.grad = gaps.grad if i % 3 else None
            optimizer.step()
    agree(parameters_of(ours), parameters_of(theirs))
    assert torch.equal(parameters_of(ours)[0], parameters()[0].detach())
    assert frozen not in ours.state


def test_plain_numbers_in_groups_may_be_changed_between_steps() -> None:
    ours, theirs = both("Adam", parameters(), lr=0.1)
    for optimizer in (ours, theirs):
        train(optimizer, range(10))
        optimizer.param_groups[0].update(lr=0.01, betas=(0.5, 0.9), weight_decay=0.2)
        train(optimizer, range(10, 20))
    agree(parameters_of(ours), parameters_of(theirs))


# Schedules: PyTorch's drive ours, and ours do the same.


def test_our_schedules_are_pytorchs_schedulers() -> None:
    cooled = optim.Adam(parameters(), lr=schedules.exponential(0.1, 0.9))
    theirs = torch.optim.Adam(parameters(), lr=0.1)
    scheduler = lr_scheduler.ExponentialLR(theirs, 0.9)
    train(cooled, range(STEPS))
    for i in range(STEPS):
        train(theirs, range(i, i + 1))
        scheduler.step()
    agree(parameters_of(cooled), parameters_of(theirs))
    assert cooled.param_groups[0]["lr"] == 0.1


def test_one_of_two_betas_may_follow_a_schedule() -> None:
    warming = schedules.warming(0.5, 0.9, steps=30)
    ours = optim.Adam(parameters(), lr=0.1, betas=(warming, 0.99))
    theirs = torch.optim.Adam(parameters(), lr=0.1)
    for i in range(STEPS):
        theirs.param_groups[0]["betas"] = (warming(i), 0.99)
        train(theirs, range(i, i + 1))
    train(ours, range(STEPS))
    agree(parameters_of(ours), parameters_of(theirs))
    assert ours.param_groups[0]["betas"] == (0.5, 0.99)
    assert ours.defaults["betas"] == (warming, 0.99)


def test_each_group_counts_its_schedule_from_its_own_first_step() -> None:
    lr = schedules.step(0.5, gamma=0.1, every=3)
    optimizer = optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    train(optimizer, range(2))
    late = torch.zeros(1, requires_grad=True)
    optimizer.add_param_group({"params": [late]})
    rates = []
    for _ in range(5):
        before = late.item()
        optimizer.param_groups[0]["params"][0].grad = torch.ones(1)
        late.grad = torch.ones(1)
        optimizer.step()
        rates.append(before - late.item())
    assert rates == pytest.approx([0.5, 0.5, 0.5, 0.05, 0.05])


def test_a_plateau_is_told_by_observe_and_remembered() -> None:
    def made() -> optim.SGD:
        plateau = schedules.plateau(1.0, gamma=0.5, patience=1)
        return optim.SGD([torch.zeros(1, requires_grad=True)], lr=plateau)

    def rate(optimizer: optim.SGD) -> float:
        (param,) = optimizer.param_groups[0]["params"]
        before, param.grad = param.item(), torch.ones(1)
        optimizer.step()
        return float(before - param.item())

    optimizer = made()
    rates = []
    for metric in (3.0, 3.0, 3.0):
        rates.append(rate(optimizer))
        optimizer.observe(validation=metric)
    assert [*rates, rate(optimizer)] == [1, 1, 1, 0.5]
    optimizer.observe(validation=3.0)

    resumed = made()
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    assert rate(resumed) == 0.5
    resumed.observe(validation=3.0)
    assert rate(resumed) == 0.25
    assert rate(optimizer) == 0.5

    fresh = made()
    fresh.load_state_dict(torch.optim.SGD([torch.zeros(1)], lr=2.0).state_dict())
    fresh.observe(validation=3.0)
    assert rate(fresh) == 2.0


# Checkpoints.


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def copied(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [param.clone().requires_grad_() for param in parameters_of(optimizer)]


@pytest.mark.parametrize("name", [rules.NAMED[name].recipe for name in OURS])
def test_a_run_goes_on_from_its_file_bit_for_bit(name: str) -> None:
    lr = schedules.linear(0.1, 0.01, steps=30)
    recipe = chain(recipes.clip_norm(1.0), recipes.named(name).replace(lr=lr), recipes.ema(0.9))
    whole = optim.Optimizer(parameters(), recipe)
    train(whole, range(20))
    resumed = optim.Optimizer(copied(whole), recipe)
    resumed.load_state_dict(through_a_file(whole.state_dict()))
    train(whole, range(20, 40))
    train(resumed, range(20, 40))
    same(parameters_of(resumed), parameters_of(whole))
    with whole.evaluation(), resumed.evaluation():
        same(parameters_of(resumed), parameters_of(whole))


@pytest.mark.parametrize(
    "average", [recipes.tail_average(9), recipes.tail_average(9, 40), recipes.block_average(9)]
)
def test_averages_go_on_from_their_file_bit_for_bit(average: Any) -> None:
    recipe = chain(recipes.nesterov(momentum=schedules.warming(steps=30)), average)
    whole = optim.Optimizer(parameters(), recipe)
    train(whole, range(35))
    resumed = optim.Optimizer(copied(whole), recipe)
    resumed.load_state_dict(through_a_file(whole.state_dict()))
    train(whole, range(35, 40))
    train(resumed, range(35, 40))
    with whole.evaluation(), resumed.evaluation():
        same(parameters_of(resumed), parameters_of(whole))


@every_input
def test_a_checkpoint_of_pytorchs_loads_here_and_ours_there(
    name: str, settings: dict[str, Any]
) -> None:
    for first, second in both_ways(name):
        begun = first(parameters(), **settings)
        train(begun, range(20))
        resumed = second(copied(begun), **settings)
        resumed.load_state_dict(through_a_file(begun.state_dict()))
        train(begun, range(20, 40))
        train(resumed, range(20, 40))
        agree(parameters_of(resumed), parameters_of(begun))


def both_ways(name: str) -> list[tuple[Any, Any]]:
    ours, theirs = getattr(optim, name), getattr(torch.optim, name)
    return [(theirs, ours), (ours, theirs)]


@pytest.mark.parametrize("double", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_steps_as_the_original_does(double: Callable[[Any], Any]) -> None:
    lr = schedules.plateau(0.1, gamma=0.5, patience=0)
    recipe = chain(recipes.nesterov(lr=lr), recipes.tail_average(4))
    for optimizer in (
        optim.Optimizer(parameters(), recipe),
        optim.Adam(parameters(), lr=lr, amsgrad=True),
    ):
        train(optimizer, range(10))
        optimizer.observe(validation=1.0)
        twin = double(optimizer)
        for each in (optimizer, twin):
            each.observe(validation=1.0)
            train(each, range(10, 20))
        same(parameters_of(twin), parameters_of(optimizer))
        assert twin.param_groups[0]["memory"] == optimizer.param_groups[0]["memory"]
        with optimizer.evaluation(), twin.evaluation():
            same(parameters_of(twin), parameters_of(optimizer))


def test_a_state_dict_of_another_shape_of_groups_is_refused_and_changes_nothing() -> None:
    optimizer = optim.Adam(parameters())
    train(optimizer, range(3))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="parameter group"):
        optimizer.load_state_dict(optim.Adam([torch.zeros(2)]).state_dict())
    assert str(optimizer.state_dict()) == str(before)


# The rest of the contract.


@pytest.mark.parametrize("name", OURS)
def test_half_precision_weights_keep_float32_states(name: str) -> None:
    params = parameters(torch.bfloat16)
    optimizer = getattr(optim, name)(params)
    train(optimizer, range(3))
    resumed = getattr(optim, name)(params)
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    for each in (optimizer, resumed):
        train(each, range(3, 5))
        for param in params:
            states = each.state[param]
            elements = {k: v for k, v in states.items() if k not in ("step", "mu_product", "ahead")}
            assert all(state.dtype == torch.float32 for state in elements.values())
            assert all(state.shape == param.shape for state in elements.values())
        assert all(param.dtype == torch.bfloat16 for param in params)


def test_half_precision_is_rounded_once_a_step() -> None:
    """The arithmetic is that of float32, so a step is the float32 step, rounded."""
    generator = torch.Generator().manual_seed(3)
    half = torch.randn(100, generator=generator).bfloat16().requires_grad_()
    full = half.detach().float().requires_grad_()
    half.grad = torch.randn(100, generator=generator).bfloat16()
    full.grad = half.grad.float()
    optimizers = [optim.Momentum([param], lr=0.01, weight_decay=0.1) for param in (half, full)]
    velocities = []
    for optimizer, param in zip(optimizers, (half, full), strict=True):
        optimizer.step()
        velocities.append(optimizer.state[param]["velocity"])
    assert torch.equal(*velocities)
    assert torch.equal(half, full.bfloat16())


def test_a_half_precision_checkpoint_of_pytorchs_becomes_float32() -> None:
    param = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    theirs = torch.optim.Adam([param])
    train(theirs, range(2))
    ours = optim.Adam([param])
    ours.load_state_dict(theirs.state_dict())
    assert ours.state[param]["exp_avg"].dtype == torch.float32


def test_a_scaler_skips_steps_that_age_nothing() -> None:
    runs = []
    for module in (optim, torch.optim):
        param = torch.ones(4, requires_grad=True)
        optimizer = module.Adam([param], lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for i in range(8):
            optimizer.zero_grad()
            spike = math.inf if i == 3 else 1.0
            scaler.scale((param * param * spike).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        runs.append(param.detach())
        assert optimizer.state[param]["step"] == 7
        assert scaler.get_scale() == 512.0
    agree(runs[:1], runs[1:])


def test_a_skipped_step_does_not_move_a_schedule() -> None:
    param = torch.ones(1, requires_grad=True)
    optimizer = optim.SGD([param], lr=schedules.exponential(0.1, 0.5))
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(param * math.inf).backward()
    scaler.step(optimizer)
    assert optimizer.param_groups[0]["step_count"] == 0


def test_groups_may_come_later() -> None:
    first, *others = parameters()
    ours, theirs = both("AdamW", [first], lr=0.1)
    for optimizer in (ours, theirs):
        train(optimizer, range(5))
        optimizer.add_param_group(
            {"params": copy.deepcopy(others), "lr": 0.02, "betas": [0.5, 0.9]}
        )
        train(optimizer, range(5, 20))
    agree(parameters_of(ours), parameters_of(theirs))


@pytest.mark.parametrize("settings", [{"weight_decay": 0.5}, {"lr": 0.3, "betas": (0.5, 0.7)}])
def test_a_group_of_a_recipe_has_settings_of_its_own(settings: dict[str, Any]) -> None:
    def groups() -> list[dict[str, Any]]:
        first, *others = parameters()
        return [{"params": [first], **settings, "name": "first"}, {"params": others}]

    ours, theirs = optim.Optimizer(groups(), recipes.adam(lr=0.1)), torch.optim.Adam(groups(), 0.1)
    for optimizer in (ours, theirs):
        train(optimizer, range(20))
    agree(parameters_of(ours), parameters_of(theirs))


@pytest.mark.parametrize(
    ("setting", "recipe", "hint"),
    [
        ({"momentum": 0.9}, recipes.sgd(), "known are maximize, weight_decay, lr."),
        ({"amsgrad": True}, recipes.adam(), "known are"),
        ({"weight_decey": 0.1}, recipes.adam(), "did you mean weight_decay?"),
        ({"weight_decay": 0.1}, chain(rules.Adam()), "known are"),
    ],
)
def test_a_setting_that_a_recipe_does_not_have_is_refused_in_a_group(
    setting: dict[str, Any], recipe: Recipe, hint: str
) -> None:
    (name,) = setting
    with pytest.raises(UserError, match=f"no setting {name} for a group; .*{re.escape(hint)}"):
        optim.Optimizer([{"params": parameters(), **setting}], recipe)


def test_what_does_nothing_or_is_nobodys_setting_may_stand_in_a_group() -> None:
    group = {"params": parameters(), "initial_lr": 0.1, "role": "head", "momentum": 0.0}
    optimizer = optim.Optimizer([{**group, "amsgrad": False, "fused": None}], recipes.sgd())
    assert optimizer.param_groups[0]["role"] == "head"


def test_zero_grad_and_hooks_are_pytorchs() -> None:
    optimizer = optim.Momentum(parameters())
    heard: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: heard.append("before"))
    optimizer.register_step_post_hook(lambda *_: heard.append("after"))
    train(optimizer, range(2))
    assert heard == ["before", "after"] * 2
    optimizer.zero_grad()
    assert all(param.grad is None for param in optimizer.param_groups[0]["params"])


def test_a_profiler_sees_the_steps() -> None:
    optimizer = optim.Adam(parameters())
    train(optimizer, range(1))
    with torch.profiler.profile() as profile:
        train(optimizer, range(1, 4))
    found = {event.key: event.count for event in profile.key_averages()}
    assert found["Optimizer.step#Adam.step"] == 3


@pytest.mark.parametrize("name", OURS)
def test_a_named_optimizer_steps_as_its_recipe(name: str) -> None:
    key = rules.NAMED[name].recipe
    alone = getattr(optim, name)(parameters())
    by_recipe = optim.Optimizer(parameters(), RECIPES[key]())
    by_name = optim.Optimizer(parameters(), key)
    for each in (alone, by_recipe, by_name):
        train(each, range(20))
    agree(parameters_of(alone), parameters_of(by_recipe))
    agree(parameters_of(by_name), parameters_of(by_recipe))


def test_an_optimizer_is_made_of_a_recipe_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(RECIPES["adam"](lr=0.3).to_toml())
    assert optim.Optimizer(parameters(), tmp_path / "mine.toml").param_groups[0]["lr"] == 0.3


def test_maximize_climbs() -> None:
    for name in OURS:
        param = torch.zeros(1, requires_grad=True)
        optimizer = getattr(optim, name)([param], maximize=True)
        param.grad = torch.ones(1)
        optimizer.step()
        assert param.item() > 0, name


def test_a_diverged_gradient_is_not_hidden() -> None:
    param = torch.zeros(2, requires_grad=True)
    optimizer = optim.Optimizer([param], chain(recipes.clip_value(1.0), recipes.adam()))
    param.grad = torch.tensor([math.nan, 1.0])
    optimizer.step()
    assert param.isnan().tolist() == [True, False]


# Bad input.


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: optim.Adam(p, lr=-1), "lr must be finite and at least 0, not -1."),
        (lambda p: optim.Adam(p, betas=(1.0, 0.9)), "betas[0] must be at least 0 and below 1"),
        (lambda p: optim.Adam(p, eps=-1e-8), "eps must be finite and at least 0, not -1e-08."),
        (lambda p: optim.AdamW(p, weight_decay=-1), "weight_decay must be finite and at least 0"),
        (lambda p: optim.SGD(p, momentum=-0.5), "momentum must be at least 0 and below 1"),
        (lambda p: optim.SGD(p, nesterov=True), "nesterov needs momentum too."),
        (
            lambda p: optim.SGD(p, momentum=0.9, dampening=0.1, nesterov=True),
            "dampening must be 0, not 0.1.",
        ),
        (lambda p: optim.RMSprop(p, alpha=1.5), "alpha must be at least 0 and below 1, not 1.5."),
        (lambda p: optim.Adadelta(p, rho=1.1), "rho must be at least 0 and below 1, not 1.1."),
        (lambda p: optim.Adagrad(p, lr_decay=-0.5), "lr_decay must be finite and at least 0"),
        (lambda p: optim.NAdam(p, momentum_decay=-0.2), "momentum_decay must be finite and"),
        (lambda p: optim.Adam(p, capturable=True), "capturable=True is not built; leave it out."),
        (lambda p: optim.Adam(p, lr="fast"), "lr must be a number or a schedule, not 'fast'."),
        (lambda p: optim.Adam([{"params": p, "lr": -1}]), "lr must be finite and at least 0"),
        (lambda p: optim.Adam([{"params": p, "betas": 0.9}]), "betas must be 2 numbers, not 0.9."),
        (
            lambda p: optim.Adam(p, lr=torch.ones(2)),
            "lr must be a number or a schedule, not (1.0, 1.0).",
        ),
        (lambda p: optim.Adam(p[:0]), "optimizer got an empty parameter list"),
    ],
)
def test_bad_input_gets_one_sentence(make: Callable[[Any], Any], sentence: str) -> None:
    with pytest.raises(ValueError) as raised:
        make(parameters())
    assert str(raised.value).startswith(sentence)


def test_numbers_of_numpy_and_tensors_of_one_are_numbers() -> None:
    settings = [
        {"lr": 0.5, "betas": (0.75, 0.875)},
        {"lr": np.float32(0.5), "betas": (np.float64(0.75), np.float32(0.875))},
        {"lr": torch.tensor([0.5]), "betas": (torch.tensor(0.75), torch.tensor(0.875))},
    ]
    first, *others = [optim.Adam(parameters(), **each) for each in settings]
    train(first, range(3))
    for other in others:
        train(other, range(3))
        same(parameters_of(other), parameters_of(first))
        assert other.param_groups[0]["lr"] == 0.5
    lasting = chain(recipes.sgd(), recipes.tail_average(np.int64(3)))
    assert Recipe.from_toml(lasting.to_toml()) == lasting


@pytest.mark.parametrize("betas", [[0.75, 0.875], UserList([0.75, 0.875]), np.array([0.75, 0.875])])
def test_betas_may_be_any_sequence(betas: Any) -> None:
    """In the constructor, in a group, and put in a group later."""
    plain, *others = [optim.Adam(parameters(), betas=(0.75, 0.875)) for _ in range(2)]
    others.append(optim.Adam(parameters(), betas=betas))
    others.append(optim.Adam([{"params": parameters(), "betas": betas}]))
    others[0].param_groups[0]["betas"] = betas
    train(plain, range(5))
    for other in others:
        train(other, range(5))
        same(parameters_of(other), parameters_of(plain))


AVERAGED = chain(recipes.sgd(lr=0.1), recipes.ema(0.5))


def test_evaluation_is_entered_once_and_no_step_is_taken_there() -> None:
    optimizer = optim.Optimizer(parameters(), chain(recipes.nesterov(lr=0.1), recipes.ema(0.9)))
    train(optimizer, range(3))
    before = [param.clone() for param in parameters_of(optimizer)]
    with optimizer.evaluation():
        once = [param.clone() for param in parameters_of(optimizer)]
        with optimizer.evaluation():
            same(parameters_of(optimizer), once)
        same(parameters_of(optimizer), once)
        with pytest.raises(UserError, match="step was called within evaluation"):
            optimizer.step()
        with pytest.raises(UserError, match="cannot be copied within evaluation"):
            copy.deepcopy(optimizer)
    same(parameters_of(optimizer), before)


def test_parameters_that_share_memory_come_back_from_evaluation() -> None:
    first = torch.ones(5, requires_grad=True)
    second = first.detach().requires_grad_()
    optimizer = optim.Optimizer([first, second], AVERAGED)
    train(optimizer, range(3))
    before = first.detach().clone()
    with optimizer.evaluation():
        assert not torch.equal(first, before)
    assert torch.equal(first, before)


class InterruptedCopying(TorchFunctionMode):
    """Ctrl-C while a tensor is copied for the first time."""

    interrupted = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.copy_ and not self.interrupted:
            self.interrupted = True
            raise KeyboardInterrupt
        return func(*args, **(kwargs or {}))


def test_an_interrupt_at_the_end_of_evaluation_loses_no_training_point() -> None:
    optimizer = optim.Optimizer(parameters(), AVERAGED)
    train(optimizer, range(3))
    before = [param.clone() for param in parameters_of(optimizer)]
    with ExitStack() as interrupted, pytest.raises(KeyboardInterrupt), optimizer.evaluation():
        interrupted.enter_context(InterruptedCopying())
    same(parameters_of(optimizer), before)
    train(optimizer, range(1))


def test_a_group_is_the_dictionary_that_was_given() -> None:
    given = {"params": [torch.ones(3, requires_grad=True)], "lr": 0.1}
    optimizer = optim.SGD([given])
    later = {"params": [torch.ones(3, requires_grad=True)]}
    optimizer.add_param_group(later)
    assert optimizer.param_groups[0] is given
    assert optimizer.param_groups[1] is later


def test_groups_may_be_changed_by_hand() -> None:
    ours, theirs = both("Adam", parameters(), lr=0.1)
    for optimizer in (ours, theirs):
        train(optimizer, range(2))
        late = torch.linspace(-1, 1, 4).requires_grad_()
        optimizer.param_groups.append({**optimizer.param_groups[0], "params": [late], "lr": 0.5})
        train(optimizer, range(2, 4))
        del optimizer.param_groups[0]
        train(optimizer, range(4, 6))
    agree(parameters_of(ours), parameters_of(theirs))
    scheduled = optim.SGD(parameters(), lr=schedules.exponential(0.1, 0.5))
    scheduled.param_groups.append({**scheduled.param_groups[0], "params": [late]})
    with pytest.raises(UserError, match="param_groups was changed by hand"):
        train(scheduled, range(1))


@pytest.mark.parametrize("backend", ["numba", "eager"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", None),
        ("lr", "0.1"),
        ("lr", schedules.step(0.5, gamma=0.1, every=3)),
        ("betas", (0.9, None)),
    ],
)
def test_a_setting_that_becomes_no_number_stops_every_step(
    name: str, value: Any, backend: str
) -> None:
    """Numba's kernels would take None for a number that is none, and words for numbers."""
    optimizer = optim.Optimizer(parameters(), recipes.adam(), backend=backend)
    train(optimizer, range(2))
    before = [param.detach().clone() for param in parameters_of(optimizer)]
    known, optimizer.param_groups[0][name] = optimizer.param_groups[0][name], value
    for _ in range(2):
        with pytest.raises(UserError, match=f"{name} of a parameter group must be a number, not"):
            train(optimizer, range(1))
    same(parameters_of(optimizer), before)
    optimizer.param_groups[0][name] = known
    train(optimizer, range(1))


@pytest.mark.parametrize("backend", ["numba", "eager"])
def test_a_state_that_is_taken_away_is_freed(backend: str) -> None:
    """Those who move states to another place between steps want their memory."""
    param = torch.ones(8, requires_grad=True)
    optimizer = optim.Optimizer([param], recipes.adam(), backend=backend)
    train(optimizer, range(2))
    held = weakref.ref(optimizer.state[param]["exp_avg"])
    optimizer.state[param]["exp_avg"] = torch.zeros(8)
    assert held() is None
    held = weakref.ref(optimizer.state[param]["exp_avg_sq"])
    optimizer.state.clear()
    assert held() is None


def test_parameters_may_have_names() -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = optim.Adam(model.named_parameters())
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    resumed = optim.Adam(model.named_parameters())
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    assert resumed.param_groups[0]["param_names"] == ["weight", "bias"]
    same(list(resumed.state[model.weight].values()), list(optimizer.state[model.weight].values()))


def test_a_scheduler_of_pytorchs_multiplies_with_a_schedule_of_ours() -> None:
    ours = optim.SGD([torch.zeros(1, requires_grad=True)], lr=schedules.exponential(1.0, 0.5))
    scheduler = lr_scheduler.StepLR(ours, 2, 0.1)
    rates = []
    for _ in range(4):
        (param,) = ours.param_groups[0]["params"]
        before, param.grad = param.item(), torch.ones(1)
        ours.step()
        scheduler.step()
        rates.append(before - param.item())
    assert rates == pytest.approx([1.0, 0.5, 0.025, 0.0125])


def test_a_refused_group_leaves_the_optimizer_as_it_was() -> None:
    optimizer = optim.SGD(parameters(), lr=0.1)
    with pytest.raises(UserError):
        optimizer.add_param_group({"params": [torch.zeros(1)], "lr": -1})
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": optimizer.param_groups[0]["params"]})
    train(optimizer, range(2))
    assert len(optimizer.param_groups) == 1
