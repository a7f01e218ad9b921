"""What `load_state_dict` takes, and what it refuses without a trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from thalweg import optim, recipes, rules, schedules
from thalweg.errors import UserError
from thalweg.optim import Optimizer
from thalweg.optim.base import RuleOptimizer

State = dict[str, Any]


def parameters(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.ones(shape).requires_grad_() for shape in shapes or ((3,), (2, 2))]


def trained(
    optimizer: torch.optim.Optimizer, steps: int = 3, without: tuple[int, ...] = ()
) -> torch.optim.Optimizer:
    for _ in range(steps):
        params = [param for group in optimizer.param_groups for param in group["params"]]
        for i, param in enumerate(params):
            param.grad = None if i in without else torch.full_like(param, 0.5)
        optimizer.step()
    return optimizer


def adam() -> RuleOptimizer:
    return optim.Adam(parameters())


def nadam() -> RuleOptimizer:
    return optim.NAdam(parameters())


def momentum() -> RuleOptimizer:
    return optim.SGD(parameters(), momentum=0.9)


def cooled() -> RuleOptimizer:
    return optim.Adam(parameters(), lr=schedules.plateau(0.1))


def averaged() -> RuleOptimizer:
    return Optimizer(parameters(), recipes.chain(recipes.adam(), recipes.ema(0.9)))


def state_of(make: Callable[[], torch.optim.Optimizer]) -> State:
    return copy.deepcopy(trained(make()).state_dict())


def without(*path: Any) -> Callable[[State], None]:
    """Takes a key away."""

    def change(state: State) -> None:
        for key in path[:-1]:
            state = state[key]
        del state[path[-1]]

    return change


def put(*path: Any, value: Any) -> Callable[[State], None]:
    def change(state: State) -> None:
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = value

    return change


DAMAGED: list[tuple[Callable[[], RuleOptimizer], Callable[[State], None], str]] = [
    (adam, without("state"), "the state of an optimizer is a dictionary with the keys state and"),
    (adam, without("param_groups", 0, "betas"), "group 0 of the state has no betas: it was saved"),
    (adam, without("param_groups", 0, "params"), "group 0 of the state has to be a dictionary"),
    (adam, put("param_groups", 0, "lr", value=-1.0), "lr must be finite and at least 0, not -1"),
    (adam, put("param_groups", 0, "betas", value=0.9), "betas must be 2 numbers, not 0.9."),
    (
        cooled,
        put("param_groups", 0, "memory", value=[1]),
        "memory of group 0 of the state has to be",
    ),
    (
        cooled,
        put("param_groups", 0, "memory", "lr", "best", value=[]),
        "memory of group 0 of the state has to be",
    ),
    (
        momentum,
        put("param_groups", 0, "dampening", value=torch.zeros(2)),
        "the state of an optimizer is a dictionary with the keys state and param_groups; this one",
    ),
    (
        adam,
        put("param_groups", 0, "params", 0, value=torch.zeros(2)),
        "the state of an optimizer is a dictionary with the keys state and param_groups; this one",
    ),
    (adam, put("state", 0, value=[1, 2]), "the state of parameter 0 has to be a dictionary"),
    (
        adam,
        put("state", 0, value=None),
        "the state of parameter 0 has to be a dictionary, not None",
    ),
    (adam, without("state", 1, "exp_avg_sq"), "the state of parameter 1 has no exp_avg_sq"),
    (adam, without("state", 1, "step"), "the state of parameter 1 has no step; it has exp_avg"),
    (adam, put("state", 0, "step", value="two"), "step of parameter 0 has to be a finite number"),
    (
        adam,
        put("state", 0, "step", value=-1),
        "step of parameter 0 has to be a finite number of",
    ),
    (adam, put("state", 0, "step", value=torch.tensor(torch.nan)), "step of parameter 0 has to be"),
    (adam, put("state", 0, "step", value=10**400), "step of parameter 0 has to be a finite number"),
    (momentum, put("state", 0, "step", value=torch.nan), "step of parameter 0 has to be a finite"),
    (
        adam,
        put("state", 0, "exp_avg", value=3.0),
        "exp_avg of parameter 0 has to be a dense tensor",
    ),
    (
        adam,
        put("state", 0, "exp_avg", value=torch.zeros(9)),
        "exp_avg of parameter 0 has the shape (9,) in the state, but (3,) here",
    ),
    (
        adam,
        put("state", 0, "exp_avg", value=torch.zeros(3, dtype=torch.complex64)),
        "exp_avg of parameter 0 has to be a dense tensor of torch.float32, not a tensor of torch.c",
    ),
    (nadam, without("state", 0, "mu_product"), "the state of parameter 0 has no mu_product"),
    (averaged, without("state", 0, "average"), "the state of parameter 0 has no average"),
    (averaged, without("param_groups", 0, "decay"), "group 0 of the state has no decay: it was"),
]


def assert_refused(optimizer: RuleOptimizer, state: Any, sentence: str) -> None:
    """With the optimizer as it was, and with the same further steps."""
    twin = copy.deepcopy(optimizer)
    before = str(optimizer.state_dict())
    with pytest.raises(UserError) as raised:
        optimizer.load_state_dict(state)
    assert str(raised.value).startswith(sentence)
    assert str(optimizer.state_dict()) == before
    trained(optimizer)
    trained(twin)
    assert str(optimizer.state_dict()["state"]) == str(twin.state_dict()["state"])
    assert str(parameters_of(optimizer)) == str(parameters_of(twin))


@pytest.mark.parametrize(("make", "damage", "sentence"), DAMAGED)
def test_a_damaged_state_is_refused_and_changes_nothing(
    make: Callable[[], RuleOptimizer], damage: Callable[[State], None], sentence: str
) -> None:
    state = state_of(make)
    damage(state)
    for optimizer in (make(), trained(make())):
        assert isinstance(optimizer, RuleOptimizer)
        assert_refused(optimizer, state, sentence)


@pytest.mark.parametrize("state", [None, [], {}, "state.pt", {"state": {}}])
def test_what_is_no_state_is_refused(state: Any) -> None:
    assert_refused(adam(), state, "the state of an optimizer is a dictionary with the keys state")


KINDS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "Adam": torch.optim.Adam,
    "SGD": lambda p: torch.optim.SGD(p, momentum=0.9),
    "Adagrad": torch.optim.Adagrad,
    "RMSprop": torch.optim.RMSprop,
    "NAdam": torch.optim.NAdam,
    "our Momentum": optim.Momentum,
    "our Lion": optim.Lion,
    "a chain": lambda p: Optimizer(p, recipes.chain(recipes.adam(), recipes.ema(0.9))),
}


@pytest.mark.parametrize("saved", KINDS)
@pytest.mark.parametrize("name", ["Adam", "SGD", "Adagrad", "RMSprop", "NAdam", "Nesterov"])
def test_the_state_of_another_optimizer_is_refused(name: str, saved: str) -> None:
    if name == saved:
        return
    state = state_of(lambda: KINDS[saved](parameters()))
    with pytest.raises(UserError, match=r"it was saved by another optimizer|has no .*; it has"):
        getattr(optim, name)(parameters()).load_state_dict(state)


def test_another_optimizer_with_the_same_settings_is_told_by_what_it_keeps() -> None:
    state = state_of(lambda: optim.Momentum(parameters()))
    with pytest.raises(UserError, match="the state of parameter 0 has no ahead; it has step, velo"):
        optim.Nesterov(parameters()).load_state_dict(state)
    kept = state_of(adam)
    kept["param_groups"] = momentum().state_dict()["param_groups"]
    with pytest.raises(UserError, match="the state of parameter 0 has no momentum_buffer; it has"):
        momentum().load_state_dict(kept)


def test_a_loaded_state_is_a_copy() -> None:
    first, second = trained(adam()), adam()
    second.load_state_dict(first.state_dict())
    trained(first, steps=4)
    trained(second, steps=2)
    counts = [
        [float(optimizer.state[param]["step"]) for param in optimizer.param_groups[0]["params"]]
        for optimizer in (first, second)
    ]
    assert counts == [[7, 7], [5, 5]]


def test_parameters_that_were_never_stepped_have_no_state() -> None:
    first = trained(adam(), without=(1,))
    second = adam()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for optimizer in (first, second):
        trained(optimizer)
    counts = [float(second.state[param]["step"]) for param in second.param_groups[0]["params"]]
    assert counts == [6, 3]
    assert str(first.state_dict()) == str(second.state_dict())


def test_a_plain_sgd_of_older_pytorch_has_no_buffer_yet() -> None:
    state = trained(torch.optim.SGD(parameters(), lr=0.1)).state_dict()
    state["state"] = {i: {"momentum_buffer": None} for i in range(2)}
    ours, theirs = optim.SGD(parameters()), torch.optim.SGD(parameters())
    for optimizer in (ours, theirs):
        optimizer.load_state_dict(copy.deepcopy(state))
        trained(optimizer)
        optimizer.param_groups[0]["momentum"] = 0.9
        optimizer.param_groups[0]["dampening"] = 0.5
        trained(optimizer)
    for mine, its in zip(
        ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True
    ):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("backend", ["numba", "eager"])
def test_what_a_wrapper_keeps_beside_the_states_stays(backend: str) -> None:
    def made() -> Optimizer:
        return Optimizer(parameters(), recipes.adam(), backend=backend)

    optimizer = trained(made())
    for param in parameters_of(optimizer):
        optimizer.state[param] |= {"slow": torch.ones(7), "calls": 3, "note": None, "past": [1, 2]}
    trained(optimizer)
    resumed = made()
    resumed.load_state_dict(optimizer.state_dict())
    for each in (optimizer, resumed):
        trained(each)
        for param in parameters_of(each):
            kept = each.state[param]
            assert torch.equal(kept["slow"], torch.ones(7))
            assert [kept["calls"], kept["note"], kept["past"]] == [3, None, [1, 2]]
            assert float(kept["step"]) == 9


def test_what_a_wrapper_adds_to_the_defaults_may_be_missing() -> None:
    """As timm's Lookahead does; the state may be from before it was wrapped."""
    state = state_of(adam)
    wrapped = adam()
    wrapped.defaults["lookahead_alpha"] = 0.5
    wrapped.load_state_dict(state)
    trained(wrapped)
    assert wrapped.param_groups[0]["lookahead_alpha"] == 0.5


def test_states_that_require_gradients_do_so_no_more() -> None:
    """Those of a differentiable optimizer of PyTorch's do."""
    state = state_of(adam)
    state["state"][0]["exp_avg"].requires_grad_()
    optimizer = adam()
    optimizer.load_state_dict(state)
    trained(copy.deepcopy(optimizer))


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return list(optimizer.param_groups[0]["params"])


def test_counts_of_older_pytorch_are_numbers_of_python() -> None:
    state = trained(torch.optim.Adam(parameters())).state_dict()
    for kept in state["state"].values():
        kept["step"] = int(kept["step"])
    optimizer = adam()
    optimizer.load_state_dict(state)
    trained(optimizer)
    assert {float(optimizer.state[param]["step"]) for param in parameters_of(optimizer)} == {6}


def test_a_recipe_goes_on_from_pytorchs_optimizer_and_the_named_one_from_the_recipe() -> None:
    state = state_of(lambda: torch.optim.Adam(parameters()))
    by_recipe, by_name = Optimizer(parameters(), recipes.adam()), adam()
    by_recipe.load_state_dict(state)
    by_name.load_state_dict(by_recipe.state_dict())
    for optimizer in (by_recipe, by_name):
        trained(optimizer)
    assert str(parameters_of(by_recipe)) == str(parameters_of(by_name))
    assert by_name.param_groups[0]["weight_decay"] == 0
    decayed = state_of(lambda: torch.optim.Adam(parameters(), weight_decay=0.1))
    without = Optimizer(parameters(), recipes.chain(rules.Adam()))
    assert_refused(without, decayed, "group 0 of the state has weight_decay: it was saved by")
    by_recipe.load_state_dict(decayed)
    assert by_recipe.param_groups[0]["weight_decay"] == 0.1


def test_a_hook_behind_loading_has_the_last_word() -> None:
    optimizer, state = adam(), state_of(adam)
    for kept in state["state"].values():
        kept["note"] = 1
    optimizer.register_load_state_dict_post_hook(lambda loaded: loaded.state.popitem())
    optimizer.load_state_dict(state)
    assert len(optimizer.state) == 1


def test_an_adam_that_becomes_an_adamw_decays_beside_the_step() -> None:
    state = state_of(lambda: torch.optim.Adam(parameters(), weight_decay=0.1))
    found = []
    for kind in (optim.AdamW, torch.optim.AdamW):
        optimizer = kind(parameters())
        optimizer.load_state_dict(copy.deepcopy(state))
        trained(optimizer)
        found.append(parameters_of(optimizer))
    torch.testing.assert_close(*found)


def test_what_a_group_has_of_its_own_is_no_sign_of_another_optimizer() -> None:
    def made() -> RuleOptimizer:
        return optim.Adam([{"params": parameters(), "momentum": 0.9}])

    optimizer = made()
    optimizer.load_state_dict(state_of(made))
    trained(optimizer)


def test_a_wrapper_may_keep_an_average_of_a_frozen_parameter() -> None:
    optimizer = trained(adam(), without=(1,))
    frozen = parameters_of(optimizer)[1]
    optimizer.state[frozen]["ema"] = frozen.detach().clone()
    resumed = adam()
    resumed.load_state_dict(optimizer.state_dict())
    assert list(resumed.state[parameters_of(resumed)[1]]) == ["ema"]


def test_a_memory_of_another_schedule_is_left_out() -> None:
    plateau = schedules.plateau(0.1, patience=0)
    first = optim.Adam(parameters(), betas=(plateau, 0.99))
    second = optim.Adam(parameters(), betas=(0.9, plateau))
    trained(first)
    second.load_state_dict(first.state_dict())
    second.observe(validation=1.0)
    trained(second)


OF_STATE: list[tuple[State, str]] = [
    ({"state": None, "param_groups": []}, "state has to be a dictionary, and param_groups a list"),
    ({"state": {}, "param_groups": 5}, "state has to be a dictionary, and param_groups a list"),
    ({"state": {}, "param_groups": []}, "the state has 0 parameter groups, the optimizer 1."),
]


@pytest.mark.parametrize(("state", "sentence"), OF_STATE)
def test_states_of_another_form_are_refused(state: State, sentence: str) -> None:
    assert_refused(adam(), state, sentence)


def test_the_keys_of_a_state_are_those_of_its_parameters() -> None:
    """A file of JSON makes words of them."""
    state = state_of(adam)
    state["state"] = {str(key): kept for key, kept in state["state"].items()}
    assert_refused(adam(), state, "the keys of state are not those of the parameters")


@pytest.mark.parametrize("name", ["Adam", "AdamW", "NAdam", "RMSprop", "Adagrad"])
def test_a_distributed_checkpoint_of_pytorchs_is_read_whole(tmp_path: Path, name: str) -> None:
    models = [torch.nn.Linear(3, 2, dtype=torch.float64) for _ in range(2)]
    theirs, ours = (
        getattr(kind, name)(model.parameters())
        for kind, model in zip((torch.optim, optim), models, strict=True)
    )
    trained(theirs)
    dcp.save(get_optimizer_state_dict(models[0], theirs), checkpoint_id=tmp_path, no_dist=True)
    models[1].load_state_dict(models[0].state_dict())
    state = get_optimizer_state_dict(models[1], ours)
    dcp.load(state, checkpoint_id=tmp_path, no_dist=True)
    set_optimizer_state_dict(models[1], ours, state)
    for optimizer in (theirs, ours):
        trained(optimizer)
    torch.testing.assert_close(models[1].weight, models[0].weight, rtol=1e-10, atol=0)
