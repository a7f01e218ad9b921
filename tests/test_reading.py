"""Samples that are read ahead: the same to the bit by workers as here, and nothing stays behind."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import thalweg as tw
from processes import end_soon
from thalweg import recipes
from thalweg.errors import UserError
from thalweg.stack import reading
from thalweg.stack.batches import Batches, order
from thalweg.stack.member import Member
from thalweg.stack.single import Single
from thalweg.stack.way import populate
from thalweg.tasks import Data, Task
from thalweg.training.progress import Silent

linux = pytest.mark.skipif(sys.platform != "linux", reason="everything is read here elsewhere")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers read from the second batch on, however quick reading is."""
    monkeypatch.setattr(reading, "PATIENCE", 0.0)
    monkeypatch.setattr(reading, "SLOW", 0.0)


class Drawing(Dataset[Any]):
    """Samples that draw from everything there is, with the process that reads them."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> Any:
        drawn = torch.rand(()).item() + np.random.rand() + random.random()
        return torch.tensor([i, drawn]), torch.tensor([os.getpid()])


def drawing(data: Dataset[Any] | None = None, **changes: Any) -> Task:
    data = data or Drawing()
    x = torch.ones(4, 2)
    settings: dict[str, Any] = {"batch_size": 4, "steps": 10, **changes}
    given = Data(data, settings.pop("validation", (x, x[:, :1])), (x, x[:, :1]))
    return Task("mine", lambda: nn.Linear(2, 1), lambda: given, distance, **settings)


def distance(outputs: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(outputs, torch.ones_like(outputs))


def batches_of(task: Task, seeds: list[int], steps: int) -> tuple[torch.Tensor, list[int]]:
    """The inputs of some steps `[steps, seeds, B, 2]`, and the processes that read them."""
    batches = Batches(task, seeds)
    inputs, processes = zip(*(batches.together() for _ in range(steps)), strict=True)
    return torch.stack(inputs), torch.stack(processes).unique().tolist()


@linux
@pytest.mark.usefixtures("two_threads")
def test_batches_are_the_same_to_the_bit_in_whichever_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, alone = batches_of(drawing(), [3, 5, 3], 6)
    assert alone == [os.getpid()]
    monkeypatch.setattr(reading, "PATIENCE", 0.0)
    monkeypatch.setattr(reading, "SLOW", 0.0)
    ahead, processes = batches_of(drawing(), [3, 5, 3], 6)
    assert len(processes) == 3
    assert torch.equal(here, ahead)
    only, _ = batches_of(drawing(), [5], 6)
    assert torch.equal(only[:, 0], here[:, 1])


def test_a_model_that_writes_into_its_inputs_changes_those_of_no_other_member() -> None:
    class Centring(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x[:, 1:] -= 0.5
            return super().forward(x[:, 1:])

    task = replace(drawing(), model=lambda: Centring(1, 1))
    alike = Single(task, [Member(recipes.sgd(), 0), Member(recipes.sgd(), 0)])
    for _ in range(3):
        one, other = alike.step()
        assert one == other


def test_every_step_and_seed_draws_other_numbers_and_leaves_the_rest_alone() -> None:
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = torch.rand(()).item(), np.random.rand(), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    inputs, _ = batches_of(drawing(), [0, 1], 6)
    drawn = inputs[..., 1].flatten().tolist()
    assert len(set(drawn)) == len(drawn)
    assert (torch.rand(()).item(), np.random.rand(), random.random()) == expected


def test_the_order_of_the_samples_is_another_draw_than_the_initial_weights() -> None:
    torch.manual_seed(7)
    assert next(order(50, 50, seed=7)).tolist() != torch.randperm(50).tolist()


@linux
@pytest.mark.usefixtures("at_once")
def test_samples_that_are_quick_to_read_are_read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SLOW", 10.0)
    assert batches_of(drawing(), [0], 6)[1] == [os.getpid()]


@linux
@pytest.mark.usefixtures("at_once")
def test_validation_samples_are_the_same_at_every_evaluation() -> None:
    task = drawing(validation=Drawing(), batch_size=1)
    population = populate(task, [Member(recipes.sgd(), seed) for seed in (0, 1)], width=2)
    seen = [[targets for _, targets in population.outputs(Drawing())] for _ in range(2)]
    assert {process for each in seen for one in each for process in one.unique().tolist()} > {
        os.getpid()
    }
    first, again = (population.scores(task.splits.validation) for _ in range(2))
    assert first == again


class Elsewhere(Drawing):
    """Does something to samples that another process reads."""

    def __init__(self, change: Callable[[Any], Any]) -> None:
        self.here, self.change = os.getpid(), change

    def __getitem__(self, i: int) -> Any:
        inputs, target = super().__getitem__(i)
        return (self.change(inputs) if os.getpid() != self.here else inputs), target


FAILURES: dict[str, Callable[[Any], Any]] = {
    "fails": lambda x: x / x.nothing,
    "cannot be sent": lambda x: x * torch.ones((), requires_grad=True),
}


@linux
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("change", FAILURES.values(), ids=FAILURES)
def test_what_workers_cannot_read_is_read_here(change: Callable[[Any], Any]) -> None:
    found, processes = batches_of(drawing(Elsewhere(change)), [0], 6)
    assert processes == [os.getpid()]
    assert torch.equal(found, batches_of(drawing(), [0], 6)[0])


class Failing(Drawing, Silent):
    """Samples of which one is damaged when training begins."""

    damaged = False

    def began(self, *_: Any) -> None:
        self.damaged = True

    def __getitem__(self, i: int) -> Any:
        if i == 11 and self.damaged:
            raise ValueError("sample 11\nis damaged")
        return super().__getitem__(i)


@pytest.mark.usefixtures("at_once")
def test_a_sample_that_fails_is_told_in_a_sentence(tmp_path: Path) -> None:
    data = Failing()
    told = "^Task 'mine' failed in training: ValueError: sample 11$"
    with pytest.raises(UserError, match=told):
        tw.train(drawing(data), "sgd", out=tmp_path / "model.safetensors", progress=data)


@linux
@pytest.mark.usefixtures("at_once")
def test_a_training_that_goes_on_reads_on(tmp_path: Path) -> None:
    class Stopping(Silent):
        def stepped(self, step: int, loss: float, lr: float) -> None:  # noqa: ARG002
            if step == 6:
                raise KeyboardInterrupt

    whole = tw.train(drawing(), "adam", out=tmp_path / "whole.safetensors")
    given: dict[str, Any] = {"recipe": "adam", "out": tmp_path / "model.safetensors"}
    with pytest.raises(KeyboardInterrupt):
        tw.train(drawing(), **given, progress=Stopping())
    assert tw.train(drawing(), **given).run == whole.run


@linux
@pytest.mark.usefixtures("two_threads", "at_once")
def test_a_race_in_lanes_reads_what_one_alone_reads(tmp_path: Path) -> None:
    given: dict[str, Any] = {"entrants": "sgd,adam", "trials": 2, "seeds": 2, "width": 2}
    runs = [
        tw.race(drawing(), **given, step="single", lanes=lanes, name=str(lanes), runs=tmp_path)
        for lanes in (1, 2)
    ]
    one, two = (race.record.runs for race in runs)
    assert sorted(one, key=str) == sorted(two, key=str)


def children() -> list[str]:
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return [child for task in tasks for child in task.read_text().split()]


@linux
@pytest.mark.usefixtures("two_threads", "at_once")
def test_workers_end_with_the_population_that_they_read_for() -> None:
    gc.disable()
    before = len(children())
    population = populate(drawing(), [Member(recipes.sgd(), seed) for seed in (0, 1)], width=2)
    for _ in range(3):
        population.step()
    assert len(children()) == before + 2
    del population
    assert len(children()) == before
    gc.enable()


ABANDONED = """
import os, time
import torch
from torch.utils.data import Dataset
from thalweg.lanes.lanes import Lanes
from thalweg.stack import reading

torch.set_num_threads(2)
reading.PATIENCE = reading.SLOW = 0.0

class Slow(Dataset):
    def __getitem__(self, i):
        os.write(1, b"%d\\n" % os.getpid())  # whole, whoever else writes
        time.sleep(600 if os.getpid() != i else 0)
        return (0,)

def work(*_):
    for _ in reading.read(Slow(), [reading.Wanted([os.getpid()], 0)] * 9):
        pass

with Lanes(work, {lanes}) as lanes:
    list(lanes.run([0, 0]))
"""


@linux
@pytest.mark.parametrize(("lanes", "processes"), [(1, 3), (2, 4)])
def test_workers_end_with_the_process_that_they_read_for(lanes: int, processes: int) -> None:
    words = [sys.executable, "-c", ABANDONED.format(lanes=lanes)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found: set[str] = set()
    while len(found) < processes and (told := process.stdout.readline()):
        found.add(told.strip())
    assert len(found) == processes
    process.kill()
    process.wait()
    assert end_soon(found)
