"""Rules on whole matrices, against literal formulas in float64 and against PyTorch's classes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from test_sums import (
    CPU,
    STEPS,
    Doubles,
    assert_near,
    clipped,
    drawn,
    gradients,
    in_a_stack,
    stepped,
)
from thalweg import optim, recipes, rules
from thalweg.api import race
from thalweg.errors import UserError
from thalweg.optim import Optimizer
from thalweg.racing.entrants import Entrant
from thalweg.recipes import Recipe, chain
from thalweg.rules.arithmetic import log, norm
from thalweg.rules.rule import Hyper, Option, RowState, Rule, State
from thalweg.stack.member import Member
from thalweg.stack.way import Way, populate
from thalweg.tasks import Data, Task

SHAPES = [(3, 5), (5, 3), (3, 5), (4, 2, 3, 2), (1, 1), (0, 3)]


class Shampoo(Rule):
    """A user's own rule: it keeps `[m, m]` and `[n, n]`, and decides on a number."""

    matrices = True
    lr = Hyper(0.1)
    damping = Hyper(0.1)
    left, right = State(shape="mm"), State(shape="nn")

    def update(self, g: Any) -> Any:
        self.left = self.left + g @ g.mT
        self.right = self.right + g.mT @ g
        if self.damping == 0:
            return -self.lr * g
        return -self.lr * self.power(self.left) @ g @ self.power(self.right)

    def power(self, x: Any) -> Any:
        return torch.linalg.inv(x + self.damping * torch.eye(len(x)).to(x))


class Centered(Rule):
    """It takes no step of its own: what stands behind it does."""

    matrices = True

    def update(self, g: Any) -> Any:
        return (g - g.mean()) / norm(g, over="tensor")


Step = Callable[[Tensor, Tensor, int, dict[str, Any]], Tensor]
"""A parameter after a step, from it, its gradient, the step's number from 1 and what is kept."""


def muon(p: Tensor, g: Tensor, _: int, kept: dict[str, Any], lr: float = 0.02) -> Tensor:
    m, n = p.shape
    kept["v"] = 0.95 * kept.get("v", torch.zeros_like(p)) + 0.05 * g
    u = 0.05 * g + 0.95 * kept["v"]
    x = (u.T if m > n else u) / max(float(u.norm()), 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return p - lr * math.sqrt(max(1, m / max(n, 1))) * (x.T if m > n else x)


def muon_of_adamw(p: Tensor, g: Tensor, _: int, kept: dict[str, Any]) -> Tensor:
    m, n = p.shape
    kept["v"] = 0.8 * kept.get("v", torch.zeros_like(p)) + 0.2 * g
    x = (kept["v"].T if m > n else kept["v"]) / max(float(kept["v"].norm()), 1e-7)
    for _ in range(2):
        a = x @ x.T
        x = 3 * x + (-4 * a + 2 * a @ a) @ x
    return p - 0.02 * (0.2 * math.sqrt(max(m, n)) * (x.T if m > n else x) + 0.1 * p)


def adafactor(p: Tensor, g: Tensor, t: int, kept: dict[str, Any], eps: float = 1e-4) -> Tensor:
    if not p.numel():
        return p
    beta = 1 - t**-0.8
    r, c = kept.get("r", 0.0), kept.get("c", 0.0)
    kept["r"] = r = beta * r + (1 - beta) * (g * g).mean(1, keepdim=True)
    kept["c"] = c = beta * c + (1 - beta) * (g * g).mean(0, keepdim=True)
    u = g / (r * c / r.mean().clamp(min=eps)).clamp(min=eps**2).sqrt()
    rate = max(1e-3, float(p.square().mean().sqrt())) * min(0.05, 1 / math.sqrt(t))
    return p - rate * u / max(1.0, float(u.square().mean().sqrt()) / 1.5)


def shampoo(p: Tensor, g: Tensor, _: int, kept: dict[str, Any]) -> Tensor:
    kept["l"] = kept.get("l", 0.0) + g @ g.T
    kept["r"] = kept.get("r", 0.0) + g.T @ g
    left, right = (torch.linalg.inv(x + 0.1 * torch.eye(len(x)).to(x)) for x in kept.values())
    return p - 0.1 * left @ g @ right


def centered(p: Tensor, g: Tensor, _: int, kept: dict[str, Any]) -> Tensor:
    return sgd_momentum(p, (g - g.mean()) / g.norm() if g.numel() else g, kept)


def centered_muon(p: Tensor, g: Tensor, t: int, kept: dict[str, Any]) -> Tensor:
    return muon(p, (g - g.mean()).clamp(-0.5, 0.5) if g.numel() else g, t, kept)


def sgd_momentum(p: Tensor, g: Tensor, kept: dict[str, Any]) -> Tensor:
    kept["b"] = 0.9 * kept["b"] + g if kept else g
    return p - 0.1 * kept["b"]


class Leveled(Centered):
    def update(self, g: Any) -> Any:
        return g - g.mean()


def formula(step: Step, limit: float | None = None, decay: float = 0.0) -> Any:
    """All steps of all parameters, clipped in front and with decay behind."""

    def walk(params: Doubles, steps: Sequence[Doubles]) -> Doubles:
        params, kept = list(params), [dict[str, Any]() for _ in params]
        for t, grads in enumerate(steps, 1):
            for i, g in enumerate(clipped(grads, limit) if limit else grads):
                p = params[i].flatten(1)
                made = step(p, g.flatten(1), t, kept[i]) - decay * p
                params[i] = made.view(params[i].shape)
        return params

    return walk


DECAY = rules.DecoupledDecay(weight_decay=0.1)
CASES: dict[str, tuple[Recipe, Any]] = {
    "muon": (chain(rules.Muon(lr=0.02)), formula(muon)),
    "clip, muon, decay": (
        chain(recipes.clip_norm(0.5), rules.Muon(lr=0.02), DECAY),
        formula(muon, limit=0.5, decay=0.002),
    ),
    "muon with all that it may be set to": (
        chain(
            rules.Muon(
                lr=0.02,
                momentum=0.8,
                nesterov=False,
                ns_coefficients=(3.0, -4.0, 2.0),
                ns_steps=2,
                adjust_lr_fn="match_rms_adamw",
            ),
            DECAY,
        ),
        formula(muon_of_adamw),
    ),
    "adafactor": (
        chain(rules.Adafactor(lr=0.05, d=1.5, eps=(1e-4, 1e-3)), DECAY),
        formula(adafactor, decay=0.005),
    ),
    "shampoo": (chain(Shampoo()), formula(shampoo)),
    "in front of another rule": (
        chain(Centered(), rules.SGDMomentum(lr=0.1)),
        formula(centered),
    ),
    "two of them": (
        chain(Leveled(), recipes.clip_value(0.5), rules.Muon(lr=0.02)),
        formula(centered_muon),
    ),
}
KINDS = [(torch.float64,), (torch.float32,), (torch.float32, torch.bfloat16)]


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("dtypes", KINDS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_rule_on_matrices_is_its_formula_in_any_chain(
    name: str,
    dtypes: tuple[torch.dtype, ...],
    backend: str,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    device: torch.device = CPU,
) -> None:
    recipe, literal = CASES[name]
    params, optimizer = stepped(recipe, dtypes, backend, shapes, device)
    right = literal(drawn(shapes, 0), gradients(shapes))
    for found, expected in zip(params, right, strict=True):
        assert_near(found, expected, f"{name}, {found.dtype}, {tuple(found.shape)}")
    if backend != "eager":
        assert not optimizer.fusing.left
        assert len(optimizer.fusing.parts) == len(dtypes)


MATRICES_ONLY = Task(
    name="matrices",
    model=lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)),
        nn.Conv2d(1, 6, 2, bias=False),
        nn.Flatten(),
        nn.Tanh(),
        nn.Linear(6, 6, bias=False),
        nn.Tanh(),
        nn.Linear(6, 2, bias=False),
    ).double(),
    data=lambda: Data(*[regression(seed) for seed in range(3)]),
    loss=nn.functional.mse_loss,
    batch_size=8,
    steps=6,
)


def regression(seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(24, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, x[:, :2].sin()


@pytest.mark.parametrize("name", CASES)
def test_members_of_a_stack_step_as_alone_each_by_its_own_numbers(name: str) -> None:
    recipe = CASES[name][0]
    each = [recipe.replace(lr=lr) for lr in (0.02, 0.1, 0.03)]
    found = in_a_stack(each, SHAPES)
    for k, own in enumerate(each):
        params = [((1.0 + k) * x).requires_grad_() for x in drawn(SHAPES, 0)]
        optimizer = Optimizer(params, own)
        for grads in gradients(SHAPES):
            for param, grad in zip(params, grads, strict=True):
                param.grad = (1.0 + k) * grad
            optimizer.step()
        for rows, alone in zip(found, params, strict=True):
            assert_near(rows[k], alone.detach(), f"{name}, member {k}")


def test_numbers_on_which_a_rule_decides_may_differ_in_a_stack() -> None:
    each = [chain(Shampoo(damping=damping)) for damping in (0.0, 0.1)]
    found = in_a_stack(each, SHAPES)
    for rows, start, *grads in zip(found, drawn(SHAPES, 0), *gradients(SHAPES), strict=True):
        assert_near(rows[0], start - 0.1 * sum(grads), "no damping")


class ByTheClip(Rule):
    """Its step is the limit of the clip in front of it."""

    lr = Hyper(1.0)
    matrices = True

    def update(self, g: Any) -> Any:
        return -self.lr * self.clip_value * torch.ones_like(g)  # type: ignore[attr-defined]


def test_a_rule_reads_a_neighbours_setting_of_its_own_group() -> None:
    params = [torch.zeros(2, 3, requires_grad=True) for _ in range(2)]
    groups = [
        {"params": [param], "clip_value": limit}
        for param, limit in zip(params, (1.0, 3.0), strict=True)
    ]
    optimizer = Optimizer(groups, chain(recipes.clip_value(1.0), ByTheClip()))
    for param in params:
        param.grad = torch.ones(2, 3)
    optimizer.step()
    assert [param[0, 0].item() for param in params] == [-1, -3]


def test_a_members_matrices_have_the_same_bits_whatever_is_beside_them() -> None:
    for name in CASES:
        few, many = (in_a_stack([CASES[name][0]] * members, SHAPES) for members in (1, 9))
        for one, other in zip(few, many, strict=True):
            assert torch.equal(one[0], other[0]), name


@pytest.fixture
def unrounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's Muon keeps its precision."""
    monkeypatch.setattr(Tensor, "bfloat16", lambda x: x.clone())


def pairs(shapes: Sequence[tuple[int, ...]]) -> tuple[list[Tensor], list[Tensor]]:
    params = [x.requires_grad_() for x in drawn(shapes, 0)]
    return params, copy.deepcopy(params)


def step_both(
    ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer, shapes: Sequence[tuple[int, ...]]
) -> None:
    for grads in gradients(shapes):
        for optimizer in (ours, theirs):
            params = optimizer.param_groups[0]["params"]
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad.clone()
            optimizer.step()


TWINS: dict[str, tuple[Recipe, dict[str, Any]]] = {
    "Muon": (
        chain(rules.Muon(lr=0.02), DECAY),
        {"lr": 0.02, "weight_decay": 0.1},
    ),
    "Muon of AdamW's rate": (
        chain(rules.Muon(lr=0.02, adjust_lr_fn="match_rms_adamw", nesterov=False), DECAY),
        {
            "lr": 0.02,
            "weight_decay": 0.1,
            "adjust_lr_fn": "match_rms_adamw",
            "nesterov": False,
        },
    ),
    "Adafactor": (
        chain(rules.Adafactor(lr=0.02), DECAY),
        {"lr": 0.02, "weight_decay": 0.1},
    ),
}
FLAT = [(3, 5), (5, 3), (3, 5)]


@pytest.mark.usefixtures("unrounded")
@pytest.mark.parametrize("by_name", [True, False], ids=["by name", "by recipe"])
@pytest.mark.parametrize("name", TWINS)
def test_steps_and_checkpoints_are_those_of_pytorchs_class(name: str, by_name: bool) -> None:
    recipe, settings = TWINS[name]
    kind, our_kind = (getattr(module, name.split()[0]) for module in (torch.optim, optim))

    def made(params: list[Tensor]) -> Optimizer:
        return our_kind(params, **settings) if by_name else Optimizer(params, recipe)

    mine, others = pairs(FLAT)
    ours, theirs = made(mine), kind(others, **settings)
    step_both(ours, theirs, FLAT)
    assert_alike(mine, others)

    loaded, again = made(others), kind(mine, **settings)
    saved = ours.state_dict()
    loaded.load_state_dict(theirs.state_dict())
    again.load_state_dict(saved)
    step_both(loaded, again, FLAT)
    assert_alike(mine, others)


def assert_alike(some: list[Tensor], others: list[Tensor]) -> None:
    for one, other in zip(some, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_goes_on_bit_for_bit(name: str) -> None:
    recipe = CASES[name][0]
    mine, others = pairs(SHAPES)
    one = Optimizer(mine, recipe)
    step_both(one, torch.optim.SGD(others), SHAPES)
    with torch.no_grad():
        for other, param in zip(others, mine, strict=True):
            other.copy_(param)
    two = Optimizer(others, recipe)
    two.load_state_dict(one.state_dict())
    step_both(one, two, SHAPES)
    for param, other in zip(mine, others, strict=True):
        assert torch.equal(param, other)


def test_states_have_the_shapes_that_the_rule_says_and_are_counted() -> None:
    model = nn.Conv2d(2, 4, (3, 2), bias=False)
    param = model.weight
    for rule, shapes in (
        (rules.Muon(), {"momentum_buffer": (4, 2, 3, 2)}),
        (rules.Adafactor(), {"row_var": (4, 1), "col_var": (1, 12)}),
        (Shampoo(), {"left": (4, 4), "right": (12, 12)}),
    ):
        optimizer = Optimizer([param], rule)
        param.grad = torch.ones_like(param)
        optimizer.step()
        kept = optimizer.state_dict()["state"][0]
        assert {name: tuple(x.shape) for name, x in kept.items() if name != "step"} == shapes
        numbers = sum(math.prod(shape) for shape in shapes.values())
        assert optimizer.cost.numbers == numbers / 48


def test_a_parameter_that_is_young_or_rests_keeps_its_own_age() -> None:
    recipe, literal = CASES["adafactor"]
    params = [x.requires_grad_() for x in drawn(FLAT, 0)]
    optimizer = Optimizer(params, recipe)
    for step, grads in enumerate(gradients(FLAT)):
        for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
            param.grad = grad if step >= i else None
        optimizer.step()
    for i, param in enumerate(params):
        (right,) = literal([drawn(FLAT, 0)[i]], [[g[i]] for g in gradients(FLAT)[i:]])
        assert_near(param, right, f"parameter {i}")
    assert [int(optimizer.state[param]["step"]) for param in params] == [
        STEPS,
        STEPS - 1,
        STEPS - 2,
    ]


def test_gradients_stay_as_they_are() -> None:
    for backend in ("auto", "eager"):
        for recipe, _ in CASES.values():
            params = [x.requires_grad_() for x in drawn(SHAPES, 0)]
            optimizer = Optimizer(params, recipe, backend=backend)
            for param, grad in zip(params, drawn(SHAPES, 1), strict=True):
                param.grad = grad.clone()
            optimizer.step()
            for param, grad in zip(params, drawn(SHAPES, 1), strict=True):
                assert param.grad is not None
                assert torch.equal(param.grad, grad)


def of(update: Callable[[Any, Any], Any], **declared: Any) -> type[Rule]:
    return type("Mine", (Rule,), {"lr": Hyper(0.1), "matrices": True, "update": update, **declared})


def nothing(self: Any, g: Any) -> None: ...


def turned(self: Any, g: Any) -> Any:
    return self.lr * g.mT


def over_the_model(self: Any, g: Any) -> Any:
    return self.lr * g / norm(g, over="model")


def itself(self: Any, g: Any) -> Any:
    return self.lr * g


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize(
    ("update", "sentence"),
    [
        (nothing, r"what update of Mine returns must have the shape \(3, 5\), not None"),
        (turned, r"returns must have the shape \(3, 5\), not the shape \(5, 3\)"),
        (over_the_model, 'a rule on matrices has no sum over="model"'),
    ],
)
def test_an_update_that_cannot_be_gets_a_sentence(update: Any, sentence: str, backend: str) -> None:
    param = torch.ones(3, 5, requires_grad=True)
    param.grad = torch.ones(3, 5)
    with pytest.raises(UserError, match=sentence):
        Optimizer([param], of(update)(), backend=backend).step()


def test_a_state_of_another_shape_than_it_says_gets_a_sentence() -> None:
    def update(self: Any, g: Any) -> Any:
        self.rows = g.mean(1)
        return g

    param = torch.ones(3, 5, requires_grad=True)
    param.grad = torch.ones(3, 5)
    with pytest.raises(UserError, match=r"rows of Mine must have the shape \(3, 1\)"):
        Optimizer([param], of(update, rows=State(shape="m1"))()).step()


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        ({"x": State(shape="mk")}, "the shape of x is one of the letters m, n and 1"),
        ({"x": State(shape="m1", copies="last"), "last": Option(2)}, "the shape of x is one of"),
        ({"x": RowState()}, "Mine works on matrices and cannot keep a RowState"),
        (
            {"x": State(shape="m1"), "matrices": False},
            "x has a shape of its own",
        ),
    ],
)
def test_a_state_that_cannot_be_kept_is_told_when_the_class_is_made(
    declared: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        of(itself, **declared)


def test_what_is_no_matrix_is_told_where_the_optimizer_is_made() -> None:
    matrix, vector = torch.ones(3, 5, requires_grad=True), torch.ones(3, requires_grad=True)
    told = r"Muon works on matrices of real numbers, not on a parameter of the shape \(3,\)"
    with pytest.raises(UserError, match=told):
        Optimizer([matrix, vector], rules.Muon())
    optimizer = Optimizer([matrix], rules.Muon())
    with pytest.raises(UserError, match="send it to another rule by a route"):
        optimizer.add_param_group({"params": [vector]})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(UserError, match="not on a parameter of complex numbers"):
        Optimizer([torch.ones(3, 5, dtype=torch.complex64, requires_grad=True)], rules.Muon())


def test_a_rule_that_moves_the_model_elsewhere_has_no_place_in_the_chain() -> None:
    told = "Nesterov keeps the model at another point than theta, and cannot stand in one chain"
    with pytest.raises(UserError, match=told):
        Optimizer([torch.ones(3, 5, requires_grad=True)], chain(Centered(), rules.Nesterov()))


@pytest.mark.parametrize("step", ["single", "stacked"])
def test_what_is_no_matrix_is_told_in_a_race_and_keeps_nothing_from_others(
    tmp_path: Path, step: str
) -> None:
    task = replace(MATRICES_ONLY, model=lambda: nn.Linear(4, 2).double())
    raced = race(task, [rules.Muon, "sgd"], trials=4, lanes=1, seeds=4, step=step, runs=tmp_path)
    told = " ".join(str(raced.verdict).split())
    assert "Muon works on matrices of real numbers, not on a parameter of the shape (2,)" in told
    assert raced.verdict.best == "sgd"
    assert list(raced.record.costs) == ["sgd"]


def test_an_update_that_returns_nothing_gets_a_sentence_on_elements_too() -> None:
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3)
    with pytest.raises(UserError, match="update of Mine returns nothing"):
        Optimizer([param], of(nothing, matrices=False)()).step()


@pytest.mark.parametrize("way", ["stacked", pytest.param("compiled", marks=pytest.mark.exhaustive)])
def test_members_are_the_same_in_every_way_of_stepping(way: Way) -> None:
    rates = ["muon", "adafactor", "clip, muon, decay"]
    found = [CASES[name][0].replace(lr=lr) for name in rates for lr in (0.01, 0.03)]
    members = [Member(recipe, seed) for recipe in found for seed in (0, 1)]
    alone, other = (populate(MATRICES_ONLY, members, 4, each) for each in ("single", way))
    for _ in range(4):
        alone.step()
        other.step()
    for place in range(len(members)):
        there = other.state_dict(place)
        for name, x in alone.state_dict(place).items():
            torch.testing.assert_close(there[name], x, rtol=1e-9, atol=1e-9)


def test_two_entrants_race_to_a_verdict_that_knows_their_memory(tmp_path: Path) -> None:
    field = [
        Entrant("muon", chain(rules.Muon(), DECAY), {"lr": log(1e-3, 1e-1)}),
        Entrant("adafactor", chain(rules.Adafactor()), {"lr": log(1e-3, 1e-1)}),
    ]
    few = {"trials": 4, "tuning_seeds": 1, "seeds": 4, "lanes": 1, "step": "stacked", "width": 4}
    raced = race(MATRICES_ONLY, field, runs=tmp_path, **few)  # type: ignore[arg-type]
    memory = {name: cost.state_per_parameter for name, cost in raced.record.costs.items()}
    sides = (6 + 4) + (6 + 6) + (2 + 6)
    assert memory == {"muon": 1.0, "adafactor": sides / (24 + 36 + 12)}
    best = Recipe.from_toml((raced.folder / "winner.toml").read_text())
    assert best.rules[0].matrices
