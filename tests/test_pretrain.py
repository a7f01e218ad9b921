"""Pre-training in stages: by hand the same, resumed the same, and out of a local minimum."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from counting import Counting, calls_of_check
from thalweg import pretrain, recipes
from thalweg.errors import UserError
from thalweg.optim import Optimizer
from thalweg.recipes import Recipe, chain, ema
from thalweg.stack.batches import fetch, order
from thalweg.tasks import Data, Task, find
from thalweg.training.pretrain import PartlyFrozen
from thalweg.training.stages import Pretrained

STEPS = 20
NAME = operator.attrgetter("name")


def sines(frequency: float) -> Data:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    split = (x, (frequency * x[:, :2]).sin())
    return Data(split, split, split)


def network() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh()), nn.Linear(6, 2)
    ).double()


def waves(frequency: float = 3.0, **changes: Any) -> Task:
    task = Task(
        name="waves",
        model=network,
        data=lambda: sines(frequency),
        loss=F.mse_loss,
        batch_size=8,
        steps=3 * STEPS + 1,
        difficulty=waves,
        curriculum=(1.0, 2.0),
    )
    return replace(task, **changes)


# --- by hand ---


def batches(task: Task, seed: int) -> Iterator[Any]:
    data: Any = task.splits.train
    return (fetch(data, chosen) for chosen in order(len(data), task.batch_size, seed))


def stepped(task: Task, model: nn.Module, optimizer: Optimizer, steps: int, seed: int) -> None:
    taken = batches(task, seed)
    for _ in range(steps):
        x, y = next(taken)
        optimizer.zero_grad()
        task.loss(model.train()(x), y).backward()
        optimizer.step()


def evaluated(model: nn.Module, optimizer: Optimizer) -> nn.Module:
    with optimizer.evaluation():
        return copy.deepcopy(model)


@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize("optimizer_state", [False, True])
@pytest.mark.parametrize("recipe", [recipes.adam(lr=0.05), recipes.nesterov(lr=0.05)], ids=NAME)
def test_tasks_one_after_the_other_are_plain_loops(
    recipe: Recipe, optimizer_state: bool, statistics: bool, tmp_path: Path
) -> None:
    done = pretrain.by_task(
        waves(), recipe, tmp_path, optimizer_state=optimizer_state, statistics=statistics, seed=5
    )
    torch.manual_seed(5)
    model = network()
    optimizer = Optimizer(model.parameters(), recipe)
    for frequency, steps in ((1.0, STEPS), (2.0, STEPS), (3.0, STEPS + 1)):
        if not optimizer_state:
            model = evaluated(model, optimizer)
            optimizer = Optimizer(model.parameters(), recipe)
        if not statistics:
            model[1].reset_running_stats()  # type: ignore[index,operator]
        stepped(waves(frequency), model, optimizer, steps, seed=5)
    assert done.gradient_evaluations == waves().steps
    assert done.checkpoint == tmp_path / "model.safetensors"
    expected = evaluated(model, optimizer).state_dict()
    torch.testing.assert_close(load_file(done.checkpoint), dict(expected), rtol=1e-9, atol=1e-12)


def blocks() -> list[nn.Module]:
    """The second has the names and the shapes of the first one's head."""
    return [
        nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh()).double(),
        nn.Linear(6, 2).double(),
        nn.Sequential(nn.Tanh(), nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh()).double(),
    ]


def head(depth: int) -> nn.Module:
    return nn.Linear((6, 2, 4)[depth - 1], 2).double()


@pytest.mark.parametrize("optimizer_state", [False, True])
@pytest.mark.parametrize("recipe", [recipes.adam(), recipes.nesterov()], ids=NAME)
def test_networks_one_after_the_other_are_plain_loops(
    recipe: Recipe, optimizer_state: bool, tmp_path: Path
) -> None:
    task = waves(steps=4 * STEPS)
    each = [recipe.replace(lr=lr) for lr in (0.05, 0.03, 0.02, 0.01)]
    done = pretrain.by_network(
        task, each, tmp_path, blocks=blocks, head=head, optimizer_state=optimizer_state, seed=7
    )
    torch.manual_seed(7)
    parts = blocks()
    after_blocks = torch.get_rng_state()
    kept: dict[Tensor, Any] = {}
    for depth, recipe_now in enumerate(each, 1):
        if depth <= 3:
            torch.set_rng_state(after_blocks)
            out = head(depth)
            trained = nn.Sequential(parts[depth - 1], out)
            still = nn.Sequential(*parts[: depth - 1]).eval()
        else:
            trained, still = nn.Sequential(*parts, out), nn.Sequential()
        optimizer = Optimizer(trained.parameters(), recipe_now)
        for param in trained.parameters():
            if optimizer_state and param in kept:
                optimizer.state[param] = kept[param]
        taken = batches(task, seed=7)
        for _ in range(STEPS):
            x, y = next(taken)
            optimizer.zero_grad()
            with torch.no_grad():
                x = still(x)
            F.mse_loss(trained.train()(x), y).backward()
            optimizer.step()
        kept |= optimizer.state
        x, y = fetch(task.splits.validation, torch.arange(40))
        with torch.no_grad():
            error = F.mse_loss(evaluated(trained, optimizer).eval()(still(x)), y)
        assert done.runs[depth - 1].score == pytest.approx(error.item(), rel=1e-9)
        if not optimizer_state or depth == 4:
            trained.load_state_dict(evaluated(trained, optimizer).state_dict())
    expected = nn.Sequential(*parts, out).state_dict()
    assert done.gradient_evaluations == task.steps
    torch.testing.assert_close(load_file(done.checkpoint), dict(expected), rtol=1e-9, atol=1e-12)
    nn.Sequential(*blocks(), head(3)).load_state_dict(load_file(done.checkpoint))
    third = ("2.1.weight", "2.1.bias", "2.2.weight", "2.2.bias", "3.weight", "3.bias")
    assert done.fresh[1:] == (("1.weight", "1.bias", "2.weight", "2.bias"), third, ())


def test_an_average_is_handed_on_and_saved(tmp_path: Path) -> None:
    recipe = chain(recipes.sgd(lr=0.1), ema(0.9))
    task = waves(steps=2 * STEPS, model=lambda: nn.Linear(4, 2).double())
    task = replace(task, difficulty=lambda _: task)
    done = pretrain.by_task(task, recipe, tmp_path, curriculum=[1])
    torch.manual_seed(0)
    model = task.model()
    for _ in range(2):
        optimizer = Optimizer(model.parameters(), recipe)
        stepped(task, model, optimizer, STEPS, seed=0)
        model = evaluated(model, optimizer)
    expected = dict(model.state_dict())
    torch.testing.assert_close(load_file(done.checkpoint), expected, rtol=1e-9, atol=1e-12)


# --- what is frozen ---


class NoWayBack(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_: Any, *__: Tensor) -> Tensor:
        raise AssertionError("a frozen layer was differentiated")


class Differentiated(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return NoWayBack.apply(super().forward(input))  # type: ignore[no-any-return,no-untyped-call]


def test_frozen_layers_cost_no_gradients_and_stay_as_they_are() -> None:
    torch.manual_seed(0)
    layers = Differentiated(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)
    model = PartlyFrozen(*layers, frozen=3).train()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    x = torch.randn(8, 4)
    assert torch.equal(model(x), model(x))  # the dropout rests
    model(x).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == [
        "3.weight",
        "3.bias",
    ]
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


# --- budgets, files and going on ---


Call = Callable[[Task, Path], Pretrained]


def tasks_first(task: Task, folder: Path) -> Pretrained:
    made = replace(task, difficulty=lambda value: replace(task, data=lambda: sines(value)))
    return pretrain.by_task(made, recipes.adam(lr=0.05), folder, steps=(5, 7, 9), statistics=True)


def networks_first(task: Task, folder: Path) -> Pretrained:
    return pretrain.by_network(task, "adam", folder, blocks=blocks, head=head, steps=(5, 7, 4, 5))


@pytest.mark.parametrize(("call", "stages"), [(tasks_first, 3), (networks_first, 4)])
def test_a_stage_that_is_done_is_not_trained_again(call: Call, stages: int, tmp_path: Path) -> None:
    in_check = calls_of_check(waves())
    looks = (in_check + 2) * stages  # and its fingerprint is taken before a stage is trained
    counting = Counting()
    whole = call(replace(waves(), loss=counting), tmp_path / "whole")
    assert whole.gradient_evaluations == counting.calls - looks == 21

    stopping = Counting(stop=in_check * stages + 2 * 3 + 5 + 7 + 2)
    with pytest.raises(KeyboardInterrupt):
        call(replace(waves(), loss=stopping), tmp_path / "stopped")
    assert sorted(path.name for path in (tmp_path / "stopped").iterdir()) == [
        "stage-1.safetensors",
        "stage-2.safetensors",
    ]
    counting = Counting()
    resumed = call(replace(waves(), loss=counting), tmp_path / "stopped")
    assert counting.calls - looks == 21 - 5 - 7
    assert (resumed.runs, resumed.fresh) == (whole.runs, whole.fresh)
    files = [sorted((tmp_path / name).iterdir()) for name in ("whole", "stopped")]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    for one, other in zip(*files, strict=True):
        found, expected = load_file(one), load_file(other)
        assert found.keys() == expected.keys()
        assert all(torch.equal(x, expected[name]) for name, x in found.items())


def test_the_random_state_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    tasks_first(waves(), tmp_path / "tasks")
    networks_first(waves(), tmp_path / "networks")
    assert torch.equal(torch.get_rng_state(), before)


def test_budgets_are_equal_shares_and_recipes_may_differ(tmp_path: Path) -> None:
    done = pretrain.by_task(waves(steps=11), ["sgd", "adam", "adam"], tmp_path)
    assert [run.curve[-1].step for run in done.runs] == [3, 3, 5]
    assert done.gradient_evaluations == 11


def test_shapes_that_do_not_fit_are_named(tmp_path: Path) -> None:
    done = pretrain.by_task("digits", "adam", tmp_path, steps=(2, 2, 2))
    scores = ("4.weight", "4.bias")
    assert done.fresh[1:] == (scores, scores)
    assert len(done.fresh[0]) == 6


# --- what cannot be used ---


def first_only(value: float) -> Task:
    return waves(value, model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double())


@pytest.mark.parametrize(
    ("changes", "arguments", "sentence"),
    [
        ({"difficulty": None, "curriculum": ()}, {}, "Task 'waves' has no simpler tasks; give"),
        ({}, {"curriculum": []}, "has no simpler tasks"),
        ({"difficulty": lambda _: 3}, {}, "must be a function that makes a thalweg.Task, not"),
        ({"difficulty": lambda v: 1 / (v - 1)}, {}, "cannot be made at difficulty 1.0: Zero"),
        ({"difficulty": first_only}, {}, "no parameter of waves has the name and shape"),
        ({}, {"steps": (3, 3)}, "there are 3 stages, but 2 steps; give 3."),
        ({}, {"steps": (3, 0, 3)}, "each stage's steps must be a whole number from 1"),
        ({"steps": 2}, {}, "each stage's steps must be a whole number from 1"),
        ({}, {"recipe": ["adam", "adam"]}, "there are 3 stages, but 2 recipes; give 3."),
        ({}, {"recipe": 5}, "a recipe is a Recipe, a rule, a name, or the path of a file"),
        (
            {},
            {"recipe": ["sgd", "adam", "adam"], "optimizer_state": True},
            "cannot be handed from recipe sgd to recipe adam, because their rules differ;",
        ),
        (
            {},
            {"recipe": recipes.sgd(lr=1e200)},
            "training of waves at 1.0 with sgd diverged at step",
        ),
        ({}, {"seed": -1}, "seed must be a whole number from 0"),
    ],
)
def test_what_cannot_be_pretrained_is_said_in_a_sentence(
    changes: dict[str, Any], arguments: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    settings = {"recipe": "adam", "folder": tmp_path, "steps": None, **arguments}
    with pytest.raises(UserError, match=sentence) as told:
        pretrain.by_task(waves(**changes), **settings)
    assert "\n" not in str(told.value)


def test_a_network_that_cannot_grow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs two blocks or more, not 1"):
        pretrain.by_network(waves(), "adam", tmp_path, blocks=lambda: blocks()[:1], head=head)
    with pytest.raises(UserError, match="The blocks cannot be made: ZeroDivisionError"):
        pretrain.by_network(waves(), "adam", tmp_path, blocks=lambda: 1 / 0, head=head)  # type: ignore[arg-type,return-value]
    with pytest.raises(
        UserError, match="model of task 'waves by 2 blocks, 1 of them frozen' failed on"
    ):
        pretrain.by_network(
            waves(), "adam", tmp_path, blocks=blocks, head=lambda _: nn.Linear(6, 2).double()
        )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_pretraining_is_refused(tmp_path: Path) -> None:
    pretrain.by_task(waves(steps=6), "adam", tmp_path)
    for arguments in ({"recipe": "sgd"}, {"seed": 1}, {"curriculum": (1.5, 2.0)}):
        with pytest.raises(UserError, match=r"stage-1\.safetensors belongs to another training"):
            pretrain.by_task(waves(steps=6), **{"recipe": "adam", "folder": tmp_path, **arguments})
    with pytest.raises(UserError, match=r"stage-1\.safetensors belongs to another training"):
        pretrain.by_task(waves(steps=60), "adam", tmp_path)
    (tmp_path / "stage-2.safetensors").write_text("damaged")
    with pytest.raises(
        UserError, match=r"stage-2\.safetensors cannot be read .*; delete it to begin"
    ):
        pretrain.by_task(waves(steps=6), "adam", tmp_path)


# --- what it is good for ---


def test_low_frequencies_first_lead_out_of_a_local_minimum(tmp_path: Path) -> None:
    """From this start, 12 Hz alone ends at a misfit of 1.2, cycles skipped."""
    task = find("waveform")
    assert task.target is not None
    done = pretrain.by_task(task, recipes.adam(lr=0.03), tmp_path, seed=4)
    assert done.runs[-1].score < task.target
