"""Routes: which parameters go to which chain, held against PyTorch's optimizers by hand."""

from __future__ import annotations

import copy
import math
import pickle
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg import rules, schedules
from thalweg.errors import UserError
from thalweg.optim.drop_in import NamedOptimizer, class_of
from thalweg.recipe import Recipe, function_of
from thalweg.routes import Parameter, Route, parameters_by_name, parameters_of
from thalweg.rules import Hyper, Named, Rule, norm


class Net(nn.Module):
    """A small transformer's layers: tied is whether its head is its embedding."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.wte = nn.Embedding(7, 4)
        self.pos_embed = nn.Parameter(0.1 * torch.randn(3, 4))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.GELU()) for _ in range(2)
        )
        self.scale = nn.Parameter(torch.ones(4))
        self.head = nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.pos_embed
        for block in self.blocks:
            x = x + block(x)
        logits: Tensor = self.head(x * self.scale)
        return logits


def net(tied: bool = False) -> Net:
    torch.manual_seed(1)
    return Net(tied)


def roles(parameters: list[Parameter]) -> dict[str, str]:
    return {one.name: one.role for one in parameters}


ROLES = {
    "pos_embed": "embedding",
    "scale": "other",
    "wte.weight": "embedding",
    "blocks.0.0.weight": "norm",
    "blocks.0.0.bias": "norm",
    "blocks.0.1.weight": "hidden matrix",
    "blocks.0.1.bias": "bias",
    "blocks.1.0.weight": "norm",
    "blocks.1.0.bias": "norm",
    "blocks.1.1.weight": "hidden matrix",
    "blocks.1.1.bias": "bias",
    "head.weight": "head",
}


def test_layers_tell_the_roles_of_their_parameters() -> None:
    assert roles(parameters_of(net())) == ROLES
    tied = roles(parameters_of(net(tied=True)))
    assert tied == {name: role for name, role in ROLES.items() if name != "head.weight"}
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LSTM(4, 4), nn.Linear(4, 2))
    assert {name: role for name, role in roles(parameters_of(layers)).items() if "2." in name} == {
        "2.weight_ih_l0": "hidden matrix",
        "2.weight_hh_l0": "hidden matrix",
        "2.bias_ih_l0": "bias",
        "2.bias_hh_l0": "bias",
    }
    assert roles(parameters_of(layers))["0.weight"] == "hidden matrix"


def test_names_alone_let_the_roles_be_guessed() -> None:
    guessed = roles(parameters_by_name(net().named_parameters()))
    different = {name for name, role in ROLES.items() if guessed[name] != role}
    # Nothing in the name of the bias of a norm in a list tells it from another bias.
    assert different == {"blocks.0.0.bias", "blocks.1.0.bias"}
    named = [("_orig_mod.layers.0.input_layernorm.bias", torch.zeros(4))]
    assert parameters_by_name(named) == [Parameter("layers.0.input_layernorm.bias", (4,), "norm")]


def test_the_last_matrix_by_name_is_no_head_where_a_norm_follows() -> None:
    named = [("wte.weight", torch.zeros(7, 4)), ("blocks.0.down.weight", torch.zeros(4, 4))]
    named += [("ln_f.weight", torch.zeros(4)), ("ln_f.bias", torch.zeros(4))]
    assert roles(parameters_by_name(named))["blocks.0.down.weight"] == "hidden matrix"
    assert roles(parameters_by_name(named[:2]))["blocks.0.down.weight"] == "head"


def gradients(model: nn.Module, seed: int, size: float = 1.0) -> None:
    """Gives every parameter a gradient."""
    numbers = torch.Generator().manual_seed(seed)
    for param in model.parameters():
        param.grad = size * torch.randn(param.shape, generator=numbers, dtype=param.dtype)


def names_with(model: nn.Module, *chosen: str) -> list[Tensor]:
    known = roles(parameters_of(model))
    return [param for name, param in model.named_parameters() if known[name] in chosen]


def names_without(model: nn.Module, *chosen: str) -> list[Tensor]:
    known = roles(parameters_of(model))
    return [param for name, param in model.named_parameters() if known[name] not in chosen]


def agree(ours: nn.Module, theirs: nn.Module, within: float = 1e-6) -> None:
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, other, rtol=within, atol=within), name


BACKENDS = ("auto", "eager")


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_decay_is_two_groups_of_pytorchs(backend: str) -> None:
    ours, theirs = net(), net()
    mine = tw.optim.Optimizer(
        ours, tw.no_decay(tw.adamw(lr=0.1, weight_decay=0.3)), backend=backend
    )
    plain = names_with(theirs, "bias", "norm")
    decaying = names_without(theirs, "bias", "norm")
    other = torch.optim.AdamW(
        [{"params": decaying}, {"params": plain, "weight_decay": 0.0}], lr=0.1, weight_decay=0.3
    )
    for step in range(5):
        gradients(ours, step), gradients(theirs, step)
        mine.step(), other.step()
    agree(ours, theirs)


def test_no_decay_leaves_a_recipe_without_decay_as_it_is() -> None:
    recipe = tw.chain(rules.SGD(lr=0.1))
    assert tw.no_decay(recipe) is recipe
    assert tw.no_decay(tw.no_decay(tw.adam())) == tw.no_decay(tw.adam())


ROUTED = tw.route(("embedding", tw.sgd(lr=0.5)), default=tw.adamw(lr=0.1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_route_has_its_optimizer(backend: str) -> None:
    ours, theirs = net(), net()
    mine = tw.optim.Optimizer(ours, ROUTED, backend=backend)
    others = [
        torch.optim.SGD(names_with(theirs, "embedding"), lr=0.5),
        torch.optim.AdamW(names_without(theirs, "embedding"), lr=0.1),
    ]
    for step in range(5):
        gradients(ours, step), gradients(theirs, step)
        mine.step()
        [other.step() for other in others]
    agree(ours, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("inside", [None, 3.0])
def test_a_norm_in_front_of_routes_is_over_all_parameters(
    backend: str, inside: float | None
) -> None:
    """And one in a route over that route's alone, also where all chains have the same rules."""
    ours, theirs = net(), net()
    first, second = ([tw.clip_norm(inside)], [tw.clip_norm(1.0)]) if inside else ([], [])
    recipe = tw.route(
        ("embedding", tw.chain(*first, tw.sgd(lr=0.5))), default=tw.chain(*second, tw.sgd(lr=0.1))
    )
    front = [] if inside else [tw.clip_norm(2.0)]
    mine = tw.optim.Optimizer(ours, tw.chain(*front, recipe), backend=backend)
    embedding, rest = names_with(theirs, "embedding"), names_without(theirs, "embedding")
    others = [torch.optim.SGD(embedding, lr=0.5), torch.optim.SGD(rest, lr=0.1)]
    for step in range(3):
        gradients(ours, step), gradients(theirs, step)
        if inside:
            nn.utils.clip_grad_norm_(embedding, inside)
            nn.utils.clip_grad_norm_(rest, 1.0)
        else:
            nn.utils.clip_grad_norm_(theirs.parameters(), 2.0)
        mine.step()
        [other.step() for other in others]
    agree(ours, theirs, 1e-5)


class BothNorms(Rule):
    """Divides by the norm over its route and by that of its tensor."""

    lr = Hyper(0.1)

    def update(self, g: Any) -> Any:
        return -self.lr * g / (norm(g, over="model") + norm(self.param, over="tensor"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_shared_sums_and_those_of_a_route_may_stand_in_one_chain(backend: str) -> None:
    ours, theirs = net().double(), net().double()
    routed = tw.route(("embedding", BothNorms(lr=0.5)), default=tw.chain(BothNorms(lr=0.1)))
    mine = tw.optim.Optimizer(ours, tw.chain(tw.clip_norm(2.0), routed), backend=backend)
    for step in range(3):
        gradients(ours, step), gradients(theirs, step)
        mine.step()
        every = list(theirs.parameters())
        whole = math.sqrt(sum(float((p.grad**2).sum()) for p in every if p.grad is not None))
        scale = min(1.0, 2.0 / whole)
        for params, lr in (
            (names_with(theirs, "embedding"), 0.5),
            (names_without(theirs, "embedding"), 0.1),
        ):
            clipped = [scale * p.grad for p in params if p.grad is not None]
            own = math.sqrt(sum(float((g**2).sum()) for g in clipped))
            for param, g in zip(params, clipped, strict=True):
                param.data -= lr * g / (own + param.data.norm())
    agree(ours, theirs, 1e-12)


def test_a_factor_scales_the_rate_of_its_route_and_of_its_schedule() -> None:
    model = net()
    cooling = schedules.linear(0.4, 0.1, steps=4)
    recipe = tw.route(("blocks.0.*", {"lr_factor": 0.5}), default=tw.sgd(lr=cooling))
    optimizer = tw.optim.Optimizer(model, recipe)
    rates = {group["route"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"rest": 0.4, "blocks.0.*": 0.2}
    before = copy.deepcopy(model)
    for _ in range(2):
        gradients(model, 0)
        optimizer.step()
    for name, param in model.named_parameters():
        factor = 0.5 if name.startswith("blocks.0.") else 1.0
        assert param.grad is not None
        moved = factor * (0.4 + 0.325) * param.grad
        assert torch.allclose(param, before.get_parameter(name) - moved, atol=1e-6), name


def test_factors_multiply_whatever_they_come_to() -> None:
    halved = ("blocks.*", {"lr_factor": 0.5})
    recipe = tw.route(("bias", {"lr_factor": 2.0}), halved, default=tw.sgd(lr=0.4))
    optimizer = tw.optim.Optimizer(net(), recipe)
    rates = {group["route"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"rest": 0.4, "blocks.*": 0.2, "bias + blocks.*": 0.4}


LAYERS = [("wte.*", "pos_embed"), "blocks.0.*", "blocks.1.*", "head.*"]


def test_rates_fall_layer_by_layer() -> None:
    model = net()
    optimizer = tw.optim.Optimizer(model, tw.layerwise(tw.no_decay(tw.adamw(lr=1.0)), LAYERS, 0.5))
    rates = {name: group["lr"] for group in optimizer.param_groups for name in group["param_names"]}
    assert {name: rate for name, rate in rates.items() if "bias" not in name} == {
        "pos_embed": 0.125,
        "scale": 1.0,
        "wte.weight": 0.125,
        "blocks.0.0.weight": 0.25,
        "blocks.0.1.weight": 0.25,
        "blocks.1.0.weight": 0.5,
        "blocks.1.1.weight": 0.5,
        "head.weight": 1.0,
    }
    decays = {
        name: group["weight_decay"]
        for group in optimizer.param_groups
        for name in group["param_names"]
    }
    assert (decays["blocks.0.1.bias"], decays["blocks.0.1.weight"]) == (0.0, 0.01)


RECIPES = [
    ROUTED,
    tw.no_decay(tw.adamw()),
    tw.no_decay(tw.chain(tw.clip_norm(1.0), ROUTED, tw.ema(0.9))),
    tw.layerwise(tw.lion(), LAYERS, 0.9),
    tw.route(("matrix", tw.sgd(lr=schedules.cosine(0.1, steps=9))), ("vector", rules.Adam())),
    tw.route(("matrix & wte.*", {"betas": (0.5, 0.9)}), default=tw.adam()),
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_with_routes_comes_back_from_its_file(recipe: Recipe) -> None:
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert hash(Recipe.from_toml(recipe.to_toml())) == hash(recipe)


WRITTEN = """name = "mine"

[[rules]]
rule = "ClipNorm"
max_norm = 1.0

[[routes]]
to = ["embedding", "head"]

[[routes.rules]]
rule = "SGD"
lr = 0.5

[[routes]]
to = "*"

[[routes.rules]]
rule = "L2Decay"

[[routes.rules]]
rule = "Adam"
betas = [0.8, 0.99]

[[routes]]
to = ["bias"]
name = "slow"
lr_factor = 0.1

[space]
"rest.lr" = [1e-4, 0.1]
"slow.lr_factor" = [0.01, 1.0]
"""


def test_a_person_writes_routes_and_where_they_are_tuned() -> None:
    recipe, space = Recipe.with_space(WRITTEN)
    front, sgd = tw.clip_norm(1.0), tw.chain(rules.SGD(lr=0.5))
    adam = tw.adam(betas=(0.8, 0.99))
    routed = tw.route((("embedding", "head"), sgd), default=adam)
    slow = Route(("bias",), settings={"lr_factor": 0.1}, name="slow")
    expected = tw.chain(front, routed)
    assert (recipe.rules, recipe.routes) == (expected.rules, (*expected.routes, slow))
    assert list(space) == ["rest.lr", "slow.lr_factor"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("betas = [0.8", "betas = [1.8"), "line 22: betas"),
        (("lr = 0.5", "lr = -0.5"), "line 12: lr must"),
        (('rule = "SGD"', 'rule = "SGE"'), "line 11: .*did you mean SGD"),
        (('to = ["bias"]\n', ""), "line 24: a route needs to"),
        (("lr_factor = 0.1", "lr_facto = 0.1"), "line 25: .* has lr_facto; did you mean lr_factor"),
        (('"rest.lr"', '"lr"'), "line 30: no setting 'lr' can be tuned"),
    ],
)
def test_a_wrong_line_of_a_route_is_told(change: tuple[str, str], sentence: str) -> None:
    assert change[0] in WRITTEN
    with pytest.raises(UserError, match=sentence):
        Recipe.from_toml(WRITTEN.replace(*change))


def test_settings_of_routes_are_changed_by_their_names() -> None:
    recipe = tw.no_decay(ROUTED)
    assert recipe.settings["rest.lr"] == 0.1
    changed = recipe.replace(**{"rest.lr": 0.2, "no decay.weight_decay": 0.1})
    assert changed.settings == recipe.settings | {"rest.lr": 0.2, "no decay.weight_decay": 0.1}
    assert recipe.with_rates(lambda lr: 2 * lr).rates == {"embedding.lr": 1.0, "rest.lr": 0.2}
    assert set(recipe.replace(lr=0.3).rates.values()) == {0.3}
    decays = tw.no_decay(tw.adamw()).replace(weight_decay=0.5).settings
    assert (decays["weight_decay"], decays["no decay.weight_decay"]) == (0.5, 0.0)
    with pytest.raises(UserError, match=r"no setting rate; known are embedding.weight_decay"):
        recipe.replace(rate=0.3)


def test_what_no_route_takes_is_told() -> None:
    recipe = tw.route(("matrix", tw.sgd()))
    left = "no route takes scale [4] (other); blocks.0.0.weight [4] (norm)"
    with pytest.raises(UserError, match=re.escape(left)):
        tw.optim.Optimizer(net(), recipe)
    optimizer = tw.optim.Optimizer([("a", nn.Parameter(torch.ones(2, 2)))], recipe)
    with pytest.raises(UserError, match=re.escape("no route takes b [3]")):
        optimizer.add_param_group({"params": [("b", nn.Parameter(torch.ones(3)))]})
    assert len(optimizer.param_groups) == 1


def test_a_route_that_takes_nothing_is_told() -> None:
    missing = tw.route(("block.*", tw.sgd()), default=tw.adam())
    with pytest.raises(UserError, match=r"route block.\* takes no parameter .* it has pos_embed, "):
        tw.optim.Optimizer(net(), missing)
    behind = tw.route(("*.weight", tw.sgd()), ("head.weight", tw.sgd()), default=tw.adam())
    with pytest.raises(UserError, match=r"route head.weight takes no parameter"):
        tw.optim.Optimizer(net(), behind)
    with pytest.warns(UserWarning, match="route embedding takes no parameter of this model"):
        tw.optim.Optimizer(nn.Linear(3, 3), ROUTED)


def test_tensors_without_names_go_by_shape_alone() -> None:
    with pytest.raises(
        UserError, match=r"the names of these tensors are not known: give the model"
    ):
        tw.optim.Optimizer(net().parameters(), ROUTED)
    by_shape = tw.route(("matrix", tw.sgd()), default=tw.adam())
    optimizer = tw.optim.Optimizer(net().parameters(), by_shape)
    assert [group["route"] for group in optimizer.param_groups] == ["matrix", "rest"]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: tw.route(("bias", {"lr_facto": 2.0}), default=tw.sgd()), "did you mean lr_factor"),
        (lambda: tw.route(("bias", {"weight_decay": -1.0}), default=tw.sgd()), "weight_decay must"),
        (lambda: tw.route(((), tw.sgd())), "a route needs words"),
        (lambda: tw.route(("bias", "adam")), "a route leads to a recipe"),  # type: ignore[arg-type]
        (lambda: tw.route("bias", default=tw.sgd()), "a route is words and where"),  # type: ignore[arg-type]
        (
            lambda: tw.route(
                ("bias", {"lr_factor": schedules.step(1.0, 0.5, 2)}), default=tw.sgd()
            ),
            "route bias: lr_factor must be a number",
        ),
        (lambda: tw.route(("bias", {}), default=tw.sgd()), "either a chain of rules, or settings"),
        (lambda: tw.route(("bias", {"weight_decay": 0.1})), "exactly one rule that takes the step"),
        (lambda: tw.route(("bias", rules.ClipNorm(max_norm=1.0))), "exactly one rule that takes"),
        (lambda: tw.chain(ROUTED, tw.adam()), "exactly one rule that takes the step"),
        (
            lambda: tw.route(("*", tw.chain(tw.clip_norm(1.0), ROUTED)), default=tw.sgd()),
            "put them in front of all",
        ),
        (
            lambda: Recipe(tw.adam().rules, routes=(Route(("a",), settings={"lr": 0.1}),) * 2),
            "two routes of one recipe are called a",
        ),
        (lambda: tw.layerwise(tw.sgd(), ["a.*"], 1.5), "factor must be"),
    ],
)
def test_a_recipe_with_routes_that_could_not_train_is_refused(make: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make()


def test_describe_tells_what_goes_where_and_the_bytes_of_state() -> None:
    with torch.device("meta"):
        meta = Net()
    recipe = tw.route(("embedding", tw.momentum()), default=tw.no_decay(tw.adamw()))
    described = tw.optim.Optimizer(meta, recipe).describe()
    assert {one.parameter: one.role for one in described} == ROLES
    routes = {one.parameter: one.route for one in described}
    assert routes["wte.weight"] == "embedding"
    assert routes["blocks.0.1.weight"] == "rest"
    assert routes["blocks.0.1.bias"] == "rest + no decay"
    assert "wte.weight         (7, 4)  embedding" in str(described)

    model = net()
    optimizer = tw.optim.Optimizer(model, recipe)
    gradients(model, 0)
    optimizer.step()
    kept = {
        name: sum(x.numel() * x.element_size() for x in optimizer.state[param].values())
        for name, param in model.named_parameters()
    }
    assert {one.parameter: one.state_bytes for one in described} == kept
    assert described.state_bytes == sum(kept.values())
    named = tw.optim.Adam(model.named_parameters()).describe()
    assert {one.parameter: one.role for one in named}["wte.weight"] == "embedding"
    assert [one.parameter for one in tw.optim.Adam(nn.Linear(2, 2).parameters()).describe()] == [
        "0[0]",
        "0[1]",
    ]


def users_groups(model: nn.Module) -> Iterator[dict[str, Any]]:
    yield {"params": iter(list(model.named_parameters())[:4]), "lr": 0.3}
    yield {"params": list(model.named_parameters())[4:], "maximize": True}


def test_groups_of_a_user_keep_their_settings_on_every_route() -> None:
    ours, theirs = net(), net()
    recipe = tw.no_decay(tw.adamw(lr=0.1, weight_decay=0.2))
    mine = tw.optim.Optimizer(users_groups(ours), recipe)
    assert [(g["route"], g["lr"], g["maximize"]) for g in mine.param_groups] == [
        ("rest", 0.3, False),
        ("no decay", 0.3, False),
        ("no decay", 0.1, True),
        ("rest", 0.1, True),
    ]
    named = list(theirs.named_parameters())
    guessed = roles(parameters_by_name(named))
    groups = [
        {
            "params": [param],
            "lr": 0.3 if place < 4 else 0.1,
            "maximize": place >= 4,
            "weight_decay": 0.0 if guessed[name] in ("bias", "norm") else 0.2,
        }
        for place, (name, param) in enumerate(named)
    ]
    other = torch.optim.AdamW(groups)
    for step in range(4):
        gradients(ours, step), gradients(theirs, step)
        mine.step(), other.step()
    agree(ours, theirs)


def test_groups_of_a_user_may_be_empty_and_serve_twice() -> None:
    model = net()
    groups = [{"params": list(model.named_parameters())}, {"params": []}]
    for _ in range(2):
        optimizer = tw.optim.Optimizer(groups, ROUTED)
        assert len(optimizer.parameters()) == len(list(model.parameters()))


def test_a_setting_that_no_route_has_is_refused_in_a_group() -> None:
    group = {"params": list(net().named_parameters()), "momentum": 0.5}
    with pytest.raises(UserError, match="no setting momentum for a group"):
        tw.optim.Optimizer([group], ROUTED)


def test_training_goes_on_from_the_state_of_routes() -> None:
    def begun() -> tuple[Net, Any]:
        model = net()
        return model, tw.optim.Optimizer(model, tw.no_decay(ROUTED))

    straight, first = begun()
    again, second = begun()
    for step in range(6):
        gradients(straight, step)
        first.step()
        if step == 2:
            again.load_state_dict(straight.state_dict())
            second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
            second = pickle.loads(pickle.dumps((again, second)))
            again, second = second
        if step > 2:
            gradients(again, step)
            second.step()
    agree(straight, again, 0.0)

    another = tw.route((("wte.*", "pos_embed"), tw.sgd()), default=tw.no_decay(tw.adamw()))
    other = tw.optim.Optimizer(net(), another)
    with pytest.raises(UserError, match="it was saved with other routes"):
        other.load_state_dict(first.state_dict())


def test_the_state_of_pytorchs_groups_is_that_of_routes() -> None:
    ours, theirs = net(), net()
    decaying = names_without(theirs, "bias", "norm")
    plain = names_with(theirs, "bias", "norm")
    other = torch.optim.AdamW([{"params": decaying}, {"params": plain, "weight_decay": 0.0}], 0.1)
    gradients(theirs, 0)
    other.step()
    ours.load_state_dict(theirs.state_dict())
    mine = tw.optim.Optimizer(ours, tw.no_decay(tw.adamw()))
    mine.load_state_dict(other.state_dict())
    assert [group["lr"] for group in mine.param_groups] == [0.1, 0.1]
    gradients(ours, 1), gradients(theirs, 1)
    mine.step(), other.step()
    agree(ours, theirs)
    assert len([one for one in mine.describe() if one.route == "no decay"]) == len(plain)


def test_a_changed_setting_of_any_route_counts_from_the_next_step_on() -> None:
    model = net()
    optimizer = tw.optim.Optimizer(model, ROUTED)
    for rate in (0.1, 0.0):
        optimizer.param_groups[1]["lr"] = rate
        before = copy.deepcopy(model.head.weight)
        gradients(model, 0)
        optimizer.step()
        assert torch.equal(before, model.head.weight) == (rate == 0.0)


class Halving(Rule):
    """A made-up rule for matrices, which comes with another for the rest."""

    lr = Hyper(0.5)
    share = Hyper(0.5)

    def update(self, g: Any) -> Any:
        return -self.lr * self.share * g


class Thirding(Rule):
    """It has the `share` of the other, and a rate of its own."""

    lr = Hyper(0.3)
    share = Halving.share

    def update(self, g: Any) -> Any:
        return -self.lr * self.share * g


HALVES = Named("Halves", Halving(), to="matrix", rest=[Thirding()])


def test_a_named_optimizer_may_come_with_other_rules_for_the_rest() -> None:
    halves = function_of(HALVES, __name__)
    recipe = halves(lr=0.2, share=0.25)
    assert recipe == tw.route(
        ("matrix", Halving(lr=0.2, share=0.25)), default=Thirding(share=0.25), name="halves"
    )
    Halves: Any = class_of(HALVES, NamedOptimizer, __name__)  # noqa: N806
    for model in (net(), nn.Linear(3, 3)):
        mine = tw.optim.Optimizer(model, recipe), Halves(model, lr=0.2, share=0.25)
        for optimizer in mine:
            assert [(g["route"], g["lr"], g["share"]) for g in optimizer.param_groups] == [
                ("matrix", 0.2, 0.25),
                ("rest", 0.3, 0.25),
            ]
            before = copy.deepcopy(model)
            gradients(model, 0)
            optimizer.step()
            for name, param in model.named_parameters():
                assert param.grad is not None
                moved = (0.05 if param.ndim >= 2 else 0.075) * param.grad
                assert torch.allclose(param, before.get_parameter(name) - moved, atol=1e-6), name
        again = Halves(model)
        again.load_state_dict(mine[1].state_dict())
        assert [(g["lr"], g["share"]) for g in again.param_groups] == [(0.2, 0.25), (0.3, 0.25)]
        assert copy.deepcopy(again).chains() == [(Halving,), (Thirding,)][: len(again.param_groups)]
    nested = tw.route(("head", tw.sgd()), default=halves())
    assert [(route.to, route.name) for route in nested.routes] == [
        (("head",), "head"),
        (("matrix",), "matrix"),
        (("*",), "rest"),
    ]
    inner = tw.route(("blocks.*", halves()), default=tw.adam())
    assert [route.to for route in inner.routes] == [("blocks.* & matrix",), ("blocks.*",), ("*",)]
    only = tw.route(("matrix", halves()), default=tw.adam())
    assert [route.to for route in only.routes] == [("matrix",), ("*",)]


def test_the_highest_rate_of_all_groups_is_told() -> None:
    model, cooling = net(), schedules.linear(0.5, 0.1, steps=2)
    routed = tw.route(("head", tw.sgd(lr=cooling)), default=tw.sgd(lr=0.2))
    optimizer = tw.optim.Optimizer(model, routed)
    told = []
    for _ in range(3):
        gradients(model, 0)
        optimizer.step()
        told.append(optimizer.last_lr)
    assert told == pytest.approx([0.5, 0.3, 0.2])


def test_a_recipe_without_routes_makes_the_groups_that_it_was_given() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = {"params": list(net().parameters())}
        optimizer = tw.optim.Optimizer([group], tw.adam())
    assert optimizer.param_groups[0] is group
    assert "route" not in group


def test_the_routes_of_the_readme_are_what_it_shows() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    code, shown = (
        text.partition(start)[2].partition("```")[0]
        for start in ("```python\nmuon", "```\nparameter")
    )
    layers = (nn.Embedding(1000, 64), nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 10))
    names = {"tw": tw, "model": nn.Sequential(*layers), "print": lambda it: told.append(str(it))}
    told: list[str] = []
    exec("muon" + code, names)
    assert told == ["parameter" + shown.rstrip()]
    table = text.partition("```toml\n[[routes]]")[2].partition("```")[0]
    recipe = Recipe.from_toml('name = "muon"\n[[routes]]' + table)
    assert recipe.rates == {"hidden matrix.lr": 0.02, "rest.lr": 3e-4}


def test_a_matrix_that_is_added_later_is_no_head() -> None:
    model = net()
    optimizer = tw.optim.Muon(model)
    later = nn.Parameter(torch.ones(4, 4))
    optimizer.add_param_group({"params": [("blocks.2.1.weight", later)]})
    assert optimizer.param_groups[-1]["route"] == "hidden matrix"


def test_a_way_that_is_taken_already_and_a_wrong_last_layer_are_told() -> None:
    with pytest.raises(
        UserError, match="no parameter is left for adamw: routes before take all of"
    ):
        tw.route(("bias", tw.sgd()), ("bias", tw.adamw()), default=tw.lion())
    layered = tw.layerwise(tw.adamw(), ["blocks.*", "haed.*"], 0.5)
    with pytest.raises(UserError, match=r"route haed\.\* takes no parameter"):
        tw.optim.Optimizer(net(), layered)
