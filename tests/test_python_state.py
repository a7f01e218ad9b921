"""Models, losses and metrics that keep Python state or draw from Python and NumPy: nothing frozen,
and the same bits again.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thalweg as tw
from thalweg import recipes
from thalweg.errors import UserError
from thalweg.stack.member import Member
from thalweg.stack.single import Single
from thalweg.stack.stacked import Stacked
from thalweg.stack.way import way_of
from thalweg.tasks import Data, Task
from thalweg.training.progress import Silent


def data() -> Data:
    x = torch.randn(48, 4, generator=torch.Generator().manual_seed(0))
    split = (x, x[:, :1].sin())
    return Data(split, split, split)


def task_of(model: Callable[[], nn.Module] = lambda: nn.Linear(4, 1), **changes: Any) -> Task:
    settings = {"data": data, "loss": F.mse_loss, "batch_size": 16, "steps": 20, **changes}
    return Task("stateful", model, **settings)


def raced(task: Task, folder: Path, **changes: Any) -> Any:
    given = {"entrants": "sgd,adam", "trials": 1, "seeds": 2, "lanes": 1, "step": "single"}
    return tw.race(task, **{**given, **changes}, runs=folder).record


class Slot:
    __slots__ = ("passes",)

    def __init__(self) -> None:
        self.passes = 0

    def count(self) -> None:
        self.passes += 1


class Stateful(nn.Linear):
    """Does something with its own state before it answers."""

    total = 0

    def __init__(self, change: Callable[[Any, Tensor], object] = lambda *_: None) -> None:
        super().__init__(4, 1)
        self.change = change
        self.passes = 0
        self.seen: list[int] = []
        self.own = random.Random(0)
        self.mean = torch.zeros(())
        self.scale: Tensor | None = None
        self.kept: Any = None
        self.slot = Slot()

    def forward(self, x: Tensor) -> Tensor:
        self.change(self, x)
        return super().forward(x)


class Generated(Stateful):
    def __init__(self) -> None:
        super().__init__(lambda *_: next(self.numbers))
        self.numbers = (i for i in range(10**9))


class InTrain(Stateful):
    def train(self, mode: bool = True) -> InTrain:
        super().train(mode)
        self.passes += mode
        return self


class ByTheFirst(Stateful):
    def forward(self, x: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = x.detach().abs().mean()
        return super().forward(x / self.scale)


calls = 0


def count_call() -> None:
    global calls
    calls += 1


def count_in_a_module() -> Callable[..., None]:
    module = ModuleType("own_counts")
    module.__file__ = str(Path(__file__).with_name("own_counts.py"))
    sys.modules[module.__name__] = module
    module.calls = 0  # type: ignore[attr-defined]

    def count(*_: object) -> None:
        module.calls += 1

    return count


def counting_loss() -> Callable[[Tensor, Tensor], Tensor]:
    passes = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal passes
        passes += 1
        return F.mse_loss(outputs, targets) * min(1.0, passes / 10)

    return loss


def counted(model: Stateful, _: Tensor) -> None:
    model.passes += 1


def counted_by_class(*_: object) -> None:
    Stateful.total += 1


def averaged(model: Stateful, x: Tensor) -> None:
    model.mean = 0.9 * model.mean + 0.1 * x.detach().mean()


CARRIED: dict[str, tuple[Task, str]] = {
    "an attribute": (task_of(lambda: Stateful(counted)), "changes Stateful.passes at every call"),
    "a list": (task_of(lambda: Stateful(lambda m, x: m.seen.append(len(x)))), "Stateful.seen"),
    "a tensor": (task_of(lambda: Stateful(averaged)), "Stateful.mean"),
    "a class": (task_of(lambda: Stateful(counted_by_class)), "Stateful.total"),
    "a variable of the file": (task_of(lambda: Stateful(lambda *_: count_call())), "changes calls"),
    "a variable of a module": (
        task_of(lambda: Stateful(count_in_a_module())),
        "changes module.calls at every call",
    ),
    "its own generator": (task_of(lambda: Stateful(lambda m, _: m.own.random())), "Stateful.own"),
    "a slot": (task_of(lambda: Stateful(lambda m, _: m.slot.count())), "changes Slot.passes at"),
    "an iterator": (task_of(Generated), "read from Generated.numbers"),
    "a function within": (
        task_of(lambda: Stateful(lambda *_: (lambda: count_call())())),
        "changes calls at every call, and all members share it",
    ),
    "in train()": (task_of(InTrain), "changes InTrain.passes"),
    "the first batch": (task_of(ByTheFirst), "keeps something of the first batch"),
    "a loss": (
        task_of(loss=counting_loss(), metric=F.mse_loss, direction="min"),
        "changes passes at every call",
    ),
    "Python": (task_of(lambda: Stateful(lambda *_: random.random())), "numbers from Python"),
    "NumPy": (task_of(lambda: Stateful(lambda *_: np.random.rand())), "numbers from NumPy"),
}


@pytest.mark.parametrize(("task", "why"), CARRIED.values(), ids=CARRIED)
def test_what_a_model_carries_in_python_keeps_it_from_a_stack(
    task: Task, why: str, tmp_path: Path
) -> None:
    for step in ("stacked", "compiled"):
        with pytest.raises(UserError, match=f"{step} steps cannot be had: members run one by one"):
            raced(task, tmp_path / step, step=step)
    assert why in way_of(task)[1]


def test_a_race_says_why_it_trains_one_by_one(tmp_path: Path) -> None:
    record = raced(task_of(lambda: Stateful(counted)), tmp_path, step="measured")
    assert record.notes[0] == (
        "Members run one by one: the model or its loss changes Stateful.passes at every call."
    )


def cached(model: Stateful, x: Tensor) -> None:
    model.kept = x.detach(), len(x)


def cached_once(model: Stateful, x: Tensor) -> None:
    if model.kept is None:
        model.kept = torch.ones(x.shape[1])


@pytest.mark.parametrize("change", [cached, cached_once])
def test_what_every_call_writes_anew_does_not(change: Callable[..., None]) -> None:
    assert way_of(task_of(lambda: Stateful(change))) == ("stacked", "")


class Noisy(nn.Linear):
    """Draws in training from NumPy and Python."""

    def forward(self, x: Tensor) -> Tensor:
        drawn = np.random.randn() + random.gauss(0, 1) if self.training else 0.0
        return super().forward(x + drawn)


def by_numpy() -> nn.Module:
    model = nn.Linear(4, 1)
    model.weight.data = torch.from_numpy(np.random.randn(1, 4)).float() * random.random()
    return model


def drawn_data() -> Data:
    x = torch.from_numpy(np.random.randn(48, 4)).float()
    split = (x, x[:, :1] * random.random())
    return Data(split, split, split)


def drawing_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs, targets) * (random.random() + np.random.rand())


def drawing_metric(outputs: Tensor, targets: Tensor) -> Tensor:
    chosen = np.random.permutation(len(outputs))[: random.randint(5, 9)]
    return F.mse_loss(outputs[chosen], targets[chosen])


METRIC: dict[str, Any] = {"metric": drawing_metric, "metric_name": "some", "direction": "min"}
DRAWN: dict[str, Callable[[], Task]] = {
    "forward": lambda: task_of(lambda: Noisy(4, 1)),
    "initial weights": lambda: task_of(by_numpy),
    "data": lambda: task_of(data=drawn_data),
    "loss": lambda: task_of(loss=drawing_loss),
    "metric": lambda: task_of(**METRIC),
}


@pytest.mark.parametrize("made", DRAWN.values(), ids=DRAWN)
def test_a_race_repeats_to_the_bit_whatever_draws(made: Callable[[], Task], tmp_path: Path) -> None:
    found = []
    for name in ("first", "second"):
        random.seed(name)
        np.random.seed(len(name))
        before = random.getstate(), np.random.get_state()[2]
        found.append(raced(made(), tmp_path / name).runs)
        assert (random.getstate(), np.random.get_state()[2]) == before
    assert found[0] == found[1]
    assert len(set(map(str, found[0]))) == len(found[0])


@pytest.mark.parametrize("name", ["forward", "loss"])
def test_a_members_draws_do_not_depend_on_the_others(name: str) -> None:
    task = DRAWN[name]()
    one, other = Member(recipes.sgd(), 5), Member(recipes.sgd(), 6)
    alone, among = Single(task, [one]), Single(task, [other, one])
    losses = [(alone.step()[0], among.step()[1]) for _ in range(4)]
    assert all(a == b for a, b in losses)
    assert len(set(losses)) == 4


def test_all_members_are_scored_on_what_a_metric_draws_once() -> None:
    task = DRAWN["metric"]()
    members = [Member(recipes.sgd(), seed) for seed in (3, 4, 3)]
    stack, single = Stacked(task, members, width=2), Single(task, members)
    found = [each.scores(task.splits.validation) for each in (stack, single, single)]
    assert found[1] == found[2]
    assert found[1][0] == found[1][2] != found[1][1]
    for one, other in zip(found[0], found[1], strict=True):
        assert one == pytest.approx(other)


class Stopping(Silent):
    def stepped(self, step: int, loss: float, lr: float) -> None:  # noqa: ARG002
        if step == 9:
            raise KeyboardInterrupt


class NoisyLater(Noisy):
    """Draws nothing in its first steps."""

    def __init__(self) -> None:
        super().__init__(4, 1)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        return super().forward(x) if self.steps > 2 else F.linear(x, self.weight, self.bias)


@pytest.mark.parametrize("model", [lambda: Noisy(4, 1), NoisyLater])
def test_a_training_that_goes_on_draws_on(model: Callable[[], nn.Module], tmp_path: Path) -> None:
    task = task_of(model)
    whole = tw.train(task, "adam", out=tmp_path / "whole.safetensors")
    given: dict[str, Any] = {"recipe": "adam", "out": tmp_path / "model.safetensors"}
    with pytest.raises(KeyboardInterrupt):
        tw.train(task, **given, progress=Stopping())
    random.seed(5), np.random.seed(5)
    assert tw.train(task, **given).run == whole.run
