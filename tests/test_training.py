"""The training loop: when it evaluates, what it records, and what `train` leaves on disk."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from thalweg import recipes, schedules
from thalweg.errors import UserError
from thalweg.nn import BatchNorm
from thalweg.optim import Optimizer
from thalweg.recipes import Recipe, chain, ema, tail_average
from thalweg.stack.batches import fetch, order
from thalweg.stack.divergence import Divergence
from thalweg.stack.member import Member
from thalweg.tasks import Data, Task, find
from thalweg.training.progress import Silent
from thalweg.training.run import Evaluation
from thalweg.training.train import train, train_members


def mean_absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().mean()


def small(*, steps: int = 40, samples: int = 40, batch_size: int = 8, **fields: Any) -> Task:
    """A small network on noisy sines."""
    generator = torch.Generator().manual_seed(0)

    def split(n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, 4, generator=generator)
        return x, x[:, :1].sin() + 0.1 * torch.randn(n, 1, generator=generator)

    data = Data(split(samples), split(16), split(16))
    return Task(
        name="small",
        model=lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)),
        data=lambda: data,
        loss=F.mse_loss,
        metric_name="mean squared error",
        also={"mean absolute error": mean_absolute_error},
        batch_size=batch_size,
        steps=steps,
        **fields,
    )


def literal_losses(
    task: Task, member: Member, steps: int, bfloat16: bool = False
) -> tuple[list[float], nn.Module]:
    """The training losses of a plain PyTorch loop, and its model."""
    torch.manual_seed(member.seed)
    model = task.model()
    optimizer = Optimizer(model.parameters(), member.recipe)
    train_set: Any = task.splits.train
    batches = order(len(train_set), task.batch_size, member.seed)
    losses = []
    for _ in range(steps):
        x, y = fetch(train_set, next(batches))
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = task.loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model


@pytest.mark.parametrize("steps", [1, 7, 15, 40])
def test_evaluations_are_spread_evenly_and_the_last_is_at_the_end(steps: int) -> None:
    (run,) = train_members(small(steps=steps), [Member(recipes.adam(), 0)], width=1)
    at = [point.step for point in run.curve]
    assert len(at) == min(steps, 15)
    assert at[-1] == steps
    gaps = [b - a for a, b in zip([0, *at[:-1]], at, strict=True)]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("seeds", [(3,), (3, 4)])
def test_a_point_holds_the_mean_training_loss_since_the_last_and_the_metrics(
    seeds: tuple[int, ...],
) -> None:
    task = small(steps=40)
    members = [Member(recipes.adam(lr=0.01), seed) for seed in seeds]
    runs = train_members(task, members, width=2, test=True)
    for run, member in zip(runs, members, strict=True):
        losses, model = literal_losses(task, member, 40)
        before = 0
        for point in run.curve:
            window = losses[before : point.step]
            assert point.train_loss == pytest.approx(sum(window) / len(window), rel=1e-4)
            before = point.step
        for metrics, split in ((run.curve[-1], "validation"), (run.test, "test")):
            x, y = fetch(getattr(task.splits, split), torch.arange(16))
            error, absolute = F.mse_loss(model(x), y), mean_absolute_error(model(x), y)
            if split == "validation":
                assert run.score == run.curve[-1].metric == pytest.approx(error.item(), rel=1e-4)
                assert run.curve[-1].also["mean absolute error"] == pytest.approx(
                    absolute.item(), rel=1e-4
                )
            else:
                assert metrics == {
                    "mean squared error": pytest.approx(error.item(), rel=1e-4),
                    "mean absolute error": pytest.approx(absolute.item(), rel=1e-4),
                }


def test_test_data_is_left_alone_unless_asked_for() -> None:
    class Sealed(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, i: int) -> Any:
            raise AssertionError("test data was read")

    task = small(steps=3)
    splits = task.splits
    sealed = Data(splits.train, splits.validation, Sealed())
    members = [Member(recipes.sgd(), 0), Member(recipes.sgd(), 1)]
    runs = train_members(replace(task, data=lambda: sealed), members, width=2)
    assert all(run.test == {} for run in runs)


def test_a_budget_in_epochs_and_a_training_set_smaller_than_a_batch() -> None:
    task = replace(small(samples=5, batch_size=64), steps=None, epochs=3)
    (run,) = train_members(task, [Member(recipes.sgd(), 0)], width=1)
    assert [point.step for point in run.curve] == [1, 2, 3]


def test_the_same_call_gives_the_same_bits_and_leaves_the_random_state() -> None:
    dropout = replace(
        small(), model=lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 1))
    )
    for members in ([Member(recipes.adam(), 1)], [Member(recipes.adam(), s) for s in (1, 1, 2)]):
        torch.manual_seed(99)
        before = torch.get_rng_state()
        first = train_members(dropout, members, width=2, test=True)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(7)
        assert train_members(dropout, members, width=2, test=True) == first


def test_a_run_that_diverges_ends_there_and_the_others_go_on() -> None:
    wild, calm = Member(recipes.sgd(lr=1e30), 0), Member(recipes.sgd(), 0)
    task = small(steps=40)
    diverged, whole = train_members(task, [wild, calm], width=2, test=True)
    assert diverged.diverged == Divergence(2, "the loss was inf")
    assert diverged.curve == ()
    assert diverged.test == {}
    assert math.isnan(diverged.score)
    assert whole.diverged is None
    assert whole.curve[-1].step == 40
    padded, alone = train_members(task, [calm, calm], width=2, test=True)
    assert padded == alone == whole


def test_the_loop_ends_when_all_have_diverged() -> None:
    told: list[tuple[int, int]] = []
    runs = train_members(
        small(steps=40),
        [Member(recipes.sgd(lr=lr), 0) for lr in (1e30, 1e31)],
        width=2,
        watch=lambda step, alive: told.append((step, alive)),
    )
    assert told == [(1, 2), (2, 0)]
    assert all(run.curve == () for run in runs)


def test_metrics_are_not_asked_of_a_diverged_members_outputs() -> None:
    def strict(outputs: Tensor, targets: Tensor) -> Tensor:
        assert outputs.isfinite().all()
        return F.mse_loss(outputs, targets)

    members = [Member(recipes.sgd(lr=1e30), 0), Member(recipes.sgd(), 0)]
    diverged, whole = train_members(
        replace(small(), metric=strict, direction="min"), members, width=2
    )
    assert diverged.diverged
    assert len(whole.curve) == 15


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_a_plateau_is_told_the_metric(seeds: tuple[int, ...]) -> None:
    # The metric never falls, so that the rate does after every evaluation but the first.
    task = replace(
        small(steps=15), metric=lambda outputs, _: outputs.sum() * 0 + 1, direction="min"
    )
    plateau = schedules.plateau(0.1, gamma=1e-9, patience=0)
    stopped = train_members(task, [Member(recipes.sgd(lr=plateau), s) for s in seeds], width=2)
    going = train_members(task, [Member(recipes.sgd(lr=0.1), s) for s in seeds], width=2)
    for stop, go in zip(stopped, going, strict=True):
        assert stop.curve[0] == go.curve[0]
        assert stop.curve[-1].also != go.curve[-1].also
        assert stop.curve[-1].also == stop.curve[2].also


# --- the verb ---


def metric_of_checkpoint(task: Task, path: Path) -> float:
    """The validation metric of a plain model that has loaded a checkpoint."""
    model = task.model()
    model.load_state_dict(load_file(path))
    validation: Any = task.splits.validation
    *inputs, targets = fetch(validation, torch.arange(len(validation)))
    with torch.no_grad():
        return task.score(model.eval()(*inputs), targets).item()


RECIPES = [
    recipes.adam(lr=0.01),
    recipes.nesterov(lr=0.05, momentum=0.9),
    chain(recipes.adam(lr=0.01), tail_average(50)),
    chain(recipes.nesterov(lr=0.05), ema(0.9)),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_the_checkpoint_is_the_model_that_was_scored(recipe: Recipe, tmp_path: Path) -> None:
    task = replace(find("digits-conv"), epochs=None, steps=60)
    trained = train(task, recipe, seed=3, out=tmp_path / "folder" / "model.safetensors")
    assert trained.checkpoint == tmp_path / "folder" / "model.safetensors"
    assert [path.name for path in trained.checkpoint.parent.iterdir()] == ["model.safetensors"]
    found = metric_of_checkpoint(task, trained.checkpoint)
    assert found == pytest.approx(trained.run.score, rel=1e-5)
    assert set(trained.run.test) == {"log-loss", "accuracy"}
    with safe_open(trained.checkpoint, "pt") as file:
        metadata = file.metadata()
    assert (metadata["task"], metadata["seed"]) == ("digits-conv", "3")
    assert Recipe.from_toml(metadata["recipe"]) == recipe


def test_nesterovs_checkpoint_holds_theta(tmp_path: Path) -> None:
    task = small(steps=10)
    recipe = recipes.nesterov(lr=0.05, momentum=0.9)
    trained = train(task, recipe, seed=1, out=tmp_path / "model.safetensors")
    torch.manual_seed(1)
    model = task.model()
    theta = {name: param.detach().clone() for name, param in model.named_parameters()}
    velocity = {name: torch.zeros_like(x) for name, x in theta.items()}
    train_set: Any = task.splits.train
    batches = order(len(train_set), task.batch_size, 1)
    for _ in range(10):
        ahead = {name: theta[name] + 0.9 * velocity[name] for name in theta}
        model.load_state_dict(ahead)
        model.zero_grad()
        x, y = fetch(train_set, next(batches))
        task.loss(model(x), y).backward()
        for name, param in model.named_parameters():
            assert param.grad is not None
            velocity[name] = 0.9 * velocity[name] - 0.05 * param.grad
            theta[name] = theta[name] + velocity[name]
    torch.testing.assert_close(load_file(trained.checkpoint), theta, rtol=1e-5, atol=1e-6)


def test_a_run_that_diverges_leaves_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"small with sgd diverged at step 2: the loss was inf; "):
        train(small(), recipes.sgd(lr=1e30), out=tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_cannot_be_written_is_told_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    class Never(Silent):
        def began(self, *_: Any) -> None:
            raise AssertionError("training has begun")

    os.mkfifo(tmp_path / "pipe")
    bad = [tmp_path / "file" / "model.safetensors", tmp_path, tmp_path / "pipe"]
    for out in (*bad, Path("/proc/model.safetensors")):
        with pytest.raises(UserError, match="cannot be written: ") as told:
            train(small(), recipes.sgd(), out=out, progress=Never())
        assert str(out) in str(told.value)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("seed", [-1, 2**32, 10**20, 1.5])
def test_a_seed_out_of_range_is_refused(tmp_path: Path, seed: Any) -> None:
    with pytest.raises(UserError, match="seed must be a whole number from 0 to 4294967295"):
        train(small(), recipes.sgd(), seed=seed, out=tmp_path / "model.safetensors")


def test_a_recipe_is_given_as_itself_by_its_name_or_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(recipes.adam().to_toml())
    trained = [
        train(small(steps=2), recipe, out=tmp_path / "model.safetensors").run
        for recipe in (recipes.adam(), "adam", tmp_path / "mine.toml")
    ]
    assert trained[0] == trained[1] == trained[2]
    with pytest.raises(UserError, match="a recipe is a Recipe, a rule, a name, or"):
        train(small(), 5)  # type: ignore[arg-type]


def test_a_checkpoint_that_stands_there_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    out.write_text("an older one")
    before = os.umask(0o027)
    train(small(steps=2), recipes.sgd(), out=out)
    os.umask(before)
    assert out.stat().st_mode & 0o777 == 0o640
    assert set(load_file(out)) == {"0.weight", "0.bias", "2.weight", "2.bias"}


# --- which parameters are kept, and when training ends early ---


class Pulled(nn.Module):
    """One number that starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.w.expand(len(x))


def pulled(towards: float, **changes: Any) -> Task:
    """Training pulls the number to 10; validation and test want it at another place.

    Plain descent with lr = 0.05 takes it to 10 (1 - 0.9^t) in t steps.
    """
    there = (torch.zeros(4, 1), torch.full((4,), towards))
    data = Data((torch.zeros(4, 1), torch.full((4,), 10.0)), there, there)
    task = Task("pulled", Pulled, lambda: data, F.mse_loss, steps=15, batch_size=4)
    return replace(task, **changes)


PULL = recipes.sgd(lr=0.05)


def after_steps(t: int) -> float:
    return 10 * (1 - 0.9**t)


def kept_number(
    task: Task, folder: Path, recipe: Recipe = PULL, **settings: Any
) -> tuple[Any, ...]:
    """What was kept, the number in the checkpoint, and how long training went."""
    trained = train(task, recipe, out=folder / "model.safetensors", **settings)
    w = load_file(trained.checkpoint)["w"]
    assert metric_of_checkpoint(task, trained.checkpoint) == pytest.approx(
        trained.validation[task.metric_name], rel=1e-5, nan_ok=True
    )
    assert trained.run.test == pytest.approx(trained.validation, rel=1e-5, nan_ok=True)
    return trained.kept, w.item(), trained.run.curve[-1].step


def rooted(outputs: Tensor, _: Tensor) -> Tensor:
    """A number up to 3.2, none beyond."""
    return (3.2 - outputs).sqrt().mean()


@pytest.mark.parametrize(
    ("changes", "best"),
    [
        ({}, 3),
        ({"metric": lambda w, y: -F.mse_loss(w, y), "direction": "max"}, 3),
        ({"metric": rooted, "direction": "min"}, 3),
        ({"metric": rooted, "direction": "max"}, 1),
        ({"metric": lambda w, _: 0 * w.sum(), "direction": "min"}, 15),
    ],
)
def test_the_best_evaluation_on_validation_data_is_kept(
    changes: dict[str, Any], best: int, tmp_path: Path
) -> None:
    kept, w, steps = kept_number(pulled(3.0, **changes), tmp_path, keep="best")
    assert (kept, steps) == (f"step {best}", 15)
    assert w == pytest.approx(after_steps(best), rel=1e-5)


def test_without_a_word_the_end_is_kept(tmp_path: Path) -> None:
    kept, w, steps = kept_number(pulled(3.0), tmp_path)
    assert (kept, steps) == ("step 15", 15)
    assert w == pytest.approx(after_steps(15), rel=1e-5)


@pytest.mark.parametrize(("keep", "step"), [("best", 3), ("end", 5)])
def test_training_ends_when_patience_does(keep: str, step: int, tmp_path: Path) -> None:
    kept, w, steps = kept_number(pulled(3.0), tmp_path, keep=keep, patience=2)
    assert (kept, steps) == (f"step {step}", 5)
    assert w == pytest.approx(after_steps(step), rel=1e-5)
    assert kept_number(pulled(20.0), tmp_path, patience=1)[2] == 15


@pytest.mark.parametrize(("towards", "kept"), [(20.0, "step 15, not averaged"), (0.0, "step 1")])
def test_an_average_is_chosen_against_the_last_iterate(
    towards: float, kept: str, tmp_path: Path
) -> None:
    averaged = chain(PULL, ema(0.9))
    found, w, _ = kept_number(pulled(towards), tmp_path, averaged, keep="best")
    assert found == kept
    assert w == pytest.approx(after_steps(15 if towards else 1), rel=1e-5)
    assert kept_number(pulled(towards), tmp_path, averaged)[0] == "step 15"


@pytest.mark.parametrize("keep", ["end", "best"])
def test_an_average_is_kept_with_batch_norm_statistics_of_its_own(
    keep: str, tmp_path: Path
) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), BatchNorm(8), nn.Tanh(), nn.Linear(8, 1))

    task, recipe = replace(small(), model=model), chain(recipes.sgd(lr=0.1), ema(0.9))
    out = tmp_path / "model.safetensors"
    assert "not averaged" not in train(task, recipe, keep=keep, out=out).kept
    kept = load_file(out)
    numbers = list(islice(order(40, 8, 0), 20))
    x, _ = fetch(task.splits.train, torch.cat(numbers))
    through = F.linear(x, kept["0.weight"], kept["0.bias"]).view(20, 8, 8)
    torch.testing.assert_close(kept["1.running_mean"], through.mean((0, 1)))
    torch.testing.assert_close(kept["1.running_var"], through.var(1).mean(0))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"keep": "last"}, "no choice of parameters to keep is called last; known are end"),
        ({"patience": 0}, "patience must be a whole number from 1"),
        ({"accumulate": 0}, "accumulate must be a whole number from 1"),
        ({"accumulate": 16}, "accumulate must be at most 15, the batches of pulled's whole budget"),
        ({"precision": "half"}, "no precision is called half; known are full, bfloat16"),
    ],
)
def test_a_setting_that_is_none_is_said(
    settings: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        train(pulled(3.0), PULL, out=tmp_path / "model.safetensors", **settings)


# --- how a step's gradient is made ---


def in_float64(task: Task) -> Task:
    """A small task with its model and data in float64."""
    splits: Any = task.splits
    data = Data(*(tuple(x.double() for x in split.tensors) for split in vars(splits).values()))
    return replace(task, model=lambda: task.model().double(), data=lambda: data)


def test_batches_whose_gradients_accumulate_are_one_batch_of_their_size(tmp_path: Path) -> None:
    # 48 samples: three batches of 8 are one of 24. Of 32 gradient evaluations, 30 make ten steps.
    task = in_float64(small(samples=48, steps=32))
    recipe = recipes.adam(lr=schedules.linear(0.05, 0.01, steps=10))
    in_parts, at_once = (
        train(replace(task, batch_size=size, steps=steps), recipe, out=tmp_path / name, **how)
        for size, steps, name, how in (
            (8, 32, "parts", {"accumulate": 3}),
            (24, 10, "whole", {}),
        )
    )
    parts, whole = (load_file(trained.checkpoint) for trained in (in_parts, at_once))
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    for part, point in zip(in_parts.run.curve, at_once.run.curve, strict=True):
        assert part.step == point.step
        assert part.train_loss == pytest.approx(point.train_loss, rel=1e-12)


def test_in_bfloat16_gradients_are_those_of_a_plain_loop_under_autocast(tmp_path: Path) -> None:
    task, recipe = small(steps=20), recipes.adam(lr=0.01)
    told = Told()
    out = tmp_path / "model.safetensors"
    train(task, recipe, seed=3, precision="bfloat16", out=out, progress=told)
    losses, model = literal_losses(task, Member(recipe, 3), 20, bfloat16=True)
    assert [loss for _, loss, _ in told.steps] == losses
    found = load_file(out)
    assert all(torch.equal(found[name], x) for name, x in model.state_dict().items())
    assert losses != literal_losses(task, Member(recipe, 3), 20)[0]


def test_a_task_says_how_often_it_is_evaluated(tmp_path: Path) -> None:
    trained = train(small(steps=20, evaluations=4), "sgd", out=tmp_path / "model.safetensors")
    assert [point.step for point in trained.run.curve] == [5, 10, 15, 20]


def test_in_bfloat16_parameters_states_and_evaluation_stay_as_they_are(tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    settings: dict[str, Any] = {"precision": "bfloat16", "out": out}
    with pytest.raises(KeyboardInterrupt):
        train(small(), recipes.adam(), **settings, progress=Told(20))
    held = load_file(f"{out}.unfinished")
    size = sum(x.numel() for x in small().fresh_model().parameters())
    assert {x.dtype for x in held.values()} == {torch.float32, torch.uint8}  # and random numbers
    assert sum(x.numel() for x in held.values() if x.is_floating_point()) > 2 * size
    trained = train(small(), recipes.adam(), **settings)
    assert metric_of_checkpoint(small(), out) == pytest.approx(trained.run.score, rel=1e-6)


def test_a_training_tells_its_length_its_steps_and_its_evaluations(tmp_path: Path) -> None:
    # Five batches an epoch, two a step: twenty steps are eight epochs.
    cooling = schedules.linear(0.1, 0.01, steps=20)
    told = Told()
    trained = train(
        small(), recipes.sgd(lr=cooling), accumulate=2, out=tmp_path / "m", progress=told
    )
    assert told.beginnings == [("mean squared error", 20, 8, 0)]
    assert [step for step, _, _ in told.steps] == list(range(1, 21))
    assert [lr for _, _, lr in told.steps] == pytest.approx([cooling(i) for i in range(20)])
    assert tuple(told.points) == trained.run.curve
    first, second = (point.step for point in told.points[:2])
    losses = [loss for _, loss, _ in told.steps[first:second]]
    assert told.points[1].train_loss == pytest.approx(sum(losses) / len(losses))


# --- stopped and gone on ---


class Drawing(Dataset[Any]):
    """Samples that draw random numbers."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, i: int) -> Any:
        x = torch.full((4,), i / 20) + 0.1 * torch.randn(4)
        return x, x[:1].sin()


def restless(**changes: Any) -> Task:
    """Everything that a run may remember: batches, statistics, and random numbers of each kind."""

    def model() -> nn.Module:
        first = nn.Sequential(nn.Linear(4, 8, bias=False), BatchNorm(8, momentum=None))
        return nn.Sequential(first, nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets + 0.01 * torch.randn(()))

    x = torch.linspace(-1, 1, 24).view(6, 4)
    data = Data(Drawing(), (x, x[:, :1].sin()), (x, x[:, :1].sin()))
    settings = {"loss": loss, "batch_size": 8, "steps": 40}
    return Task("restless", model, lambda: data, **{**settings, **changes})


class Told(Silent):
    """Remembers what a training tells, and stops it after a step."""

    def __init__(self, last: int | None = None) -> None:
        self.last = last
        self.beginnings: list[Any] = []
        self.steps: list[Any] = []
        self.points: list[Any] = []

    def began(self, *told: Any) -> None:
        self.beginnings.append(told)

    def stepped(self, *told: Any) -> None:
        self.steps.append(told)
        if told[0] == self.last:
            raise KeyboardInterrupt

    def evaluated(self, point: Evaluation) -> None:
        self.points.append(point)


PLATEAU = schedules.plateau(0.05, gamma=0.5, patience=0)
COOLING = schedules.linear(0.05, 0.01, steps=40)
REMEMBERING = {
    "adam": recipes.adam(lr=0.01),
    "a plateau": recipes.nadam(lr=PLATEAU),
    "nesterov, averaged": chain(
        recipes.nesterov(lr=schedules.linear(0.05, 0.01, steps=40)), ema(0.9)
    ),
    "the last averaged": chain(recipes.adamw(lr=0.01), tail_average(10, 40)),
}


HOW = [{"keep": "end"}, {"keep": "best"}, {"accumulate": 3, "precision": "bfloat16"}]


@pytest.mark.parametrize("recipe", REMEMBERING.values(), ids=REMEMBERING)
@pytest.mark.parametrize("how", HOW, ids=str)
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    how: dict[str, Any], recipe: Recipe, tmp_path: Path
) -> None:
    task = restless(steps=40 * how.get("accumulate", 1))
    settings: dict[str, Any] = {"task": task, "recipe": recipe, "seed": 2, **how}
    whole = train(**settings, out=tmp_path / "whole.safetensors")
    out = tmp_path / "model.safetensors"
    for last in (7, 20, 40):
        with pytest.raises(KeyboardInterrupt):
            train(**settings, out=out, progress=Told(last))
        torch.rand(3)
    told = Told()
    went_on = train(**settings, out=out, progress=told)
    assert [step for step, _, _ in told.steps] == [39, 40]
    assert (went_on.run, went_on.kept, went_on.validation) == (
        whole.run,
        whole.kept,
        whole.validation,
    )
    expected = load_file(whole.checkpoint)
    assert all(torch.equal(x, expected[name]) for name, x in load_file(out).items())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "whole.safetensors"]


@pytest.mark.parametrize("patience", [None, 2])
def test_a_run_stopped_after_its_last_evaluation_is_not_trained_again(
    patience: int | None, tmp_path: Path
) -> None:
    last = 5 if patience else 15

    class Stopping(Silent):
        def evaluated(self, point: Evaluation) -> None:
            if point.step == last:
                raise KeyboardInterrupt

    settings: dict[str, Any] = {"keep": "best", "patience": patience, "out": tmp_path / "model"}
    with pytest.raises(KeyboardInterrupt):
        train(pulled(3.0), PULL, **settings, progress=Stopping())
    trained = train(pulled(3.0), PULL, **settings, progress=Told(1))
    assert (trained.kept, trained.run.curve[-1].step) == ("step 3", last)


def scalars_in(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads there: steps and values by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_tensorboard_reads_each_step_once_of_a_run_that_went_on(tmp_path: Path) -> None:
    cooling = schedules.linear(0.1, 0.01, steps=40)
    board = tmp_path / "runs" / "board"
    settings: dict[str, Any] = {"out": tmp_path / "m", "tensorboard": board}
    told = Told()
    with pytest.raises(KeyboardInterrupt):
        train(small(), recipes.sgd(lr=cooling), **settings, progress=Told(22))
    trained = train(small(), recipes.sgd(lr=cooling), **settings, progress=told)
    read = scalars_in(board)
    assert [step for step, _ in read["training/loss"]] == list(range(1, 41))
    went_on = [(step, pytest.approx(loss)) for step, loss, _ in told.steps]
    assert read["training/loss"][19:] == went_on
    assert read["training/lr"] == [(i + 1, pytest.approx(cooling(i))) for i in range(40)]
    curve = trained.run.curve
    found = read["validation/mean squared error"]
    assert found == [(point.step, pytest.approx(point.metric)) for point in curve]
    assert len(read["validation/mean absolute error"]) == len(curve)


def test_without_tensorboard_what_to_install_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"not installed: pip install 'thalweg\[tensorboard\]'"):
        train(small(), "sgd", out=tmp_path / "m", tensorboard=tmp_path / "board")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the folder .*file/board cannot be made: Not a directory"):
        train(small(), "sgd", out=tmp_path / "m", tensorboard=tmp_path / "file" / "board")


def test_a_run_of_another_kind_does_not_go_on(tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    given: dict[str, Any] = {"task": pulled(3.0), "recipe": PULL, "out": out}
    with pytest.raises(KeyboardInterrupt):
        train(**given, progress=Told(5))
    others = {"recipe": "adam", "seed": 1, "keep": "best", "patience": 3, "accumulate": 2}
    for other in others.items():
        with pytest.raises(UserError, match=r"safetensors\.unfinished belongs to another training"):
            train(**(given | dict([other])))
    (tmp_path / "model.safetensors.unfinished").write_text("damaged")
    with pytest.raises(UserError, match=r"unfinished cannot be read .*; delete it to begin again"):
        train(**given)


def test_a_run_that_diverges_leaves_nothing_to_go_on_from(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="diverged at step 5"):
        train(pulled(3.0), recipes.sgd(lr=1e5), out=tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []
