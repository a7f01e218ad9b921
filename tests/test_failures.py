"""Trainings that raise, exit, hang or lose their process: the race goes on, and says who failed."""

from __future__ import annotations

import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thalweg as tw
from thalweg import recipes
from thalweg.errors import FailedError, UserError
from thalweg.racing.entrants import Entrant
from thalweg.racing.progress import Silent
from thalweg.racing.record import Round
from thalweg.rules.space import log
from thalweg.stack.population import initial_model
from thalweg.tasks import Data, Task

CALM = Entrant("calm", recipes.sgd(), {"lr": log(1e-3, 1e-2)})
CALMER = Entrant("calmer", recipes.sgd(), {"lr": log(1e-4, 1e-3)})
WILD = Entrant("wild", recipes.sgd(), {"lr": log(1e10, 1e11)})


def samples() -> Data:
    inputs = torch.linspace(-1, 1, 48).view(24, 2)
    targets = inputs.sum(1, keepdim=True)
    return Data(*((inputs[i : i + 8], targets[i : i + 8]) for i in (0, 8, 16)))


def task(fail: Callable[[], Any], when: Callable[[Tensor], bool] | None = None) -> Task:
    """Fails where outputs are large, or when it is said."""
    when = when or (lambda outputs: bool(outputs.detach().abs().max() > 1e6))

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if when(outputs):
            fail()
        return F.mse_loss(outputs, targets)

    return Task("net", lambda: nn.Linear(2, 1), samples, loss, batch_size=8, steps=4)


racing: list[bool] = []
"""Not empty once a round has begun."""


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []
        racing.clear()

    def round_began(self, *_: Any) -> None:
        racing.append(True)

    def say(self, line: str) -> None:
        self.lines.append(line)


def short(task: Task, runs: Path, entrants: Any = (CALM, WILD), **more: Any) -> tw.Race:
    given: dict[str, Any] = {"trials": 2, "seeds": 3, "step": "single", "lanes": 1, "runs": runs}
    return tw.race(task, entrants, **given | more)


def raises() -> None:
    raise ValueError("the outputs are too large")


def killed() -> None:
    if racing:
        os.kill(os.getpid(), signal.SIGKILL)


FAILURES: dict[str, tuple[Callable[[], Any], str]] = {
    "raises": (raises, r"ValueError: the outputs are too large \(test_failures.py, line \d+\)"),
    "exits": (lambda: sys.exit(0), r"SystemExit: 0 \(test_failures.py, line \d+\)"),
    "hangs": (lambda: time.sleep(600), r"it took no step for 1 s.*"),
    "is killed": (killed, ".* killed by SIGKILL.*"),
}


@pytest.mark.parametrize(
    ("how", "lanes"),
    [(how, lanes) for how in FAILURES for lanes in (1, 2) if (how, lanes) != ("is killed", 1)],
)
@pytest.mark.usefixtures("two_threads")
def test_a_training_that_fails_counts_as_diverged_and_the_race_goes_on(
    how: str, lanes: int, tmp_path: Path
) -> None:
    fail, last_words = FAILURES[how]
    told = Told()
    trials, timeout = (1, 1) if how == "hangs" else (2, None)
    given: dict[str, Any] = {"trials": trials, "lanes": lanes, "timeout": timeout}
    found = short(task(fail), tmp_path, progress=told, **given)
    assert found.verdict.best == "calm"
    wild = [run for run in found.record.runs if run.entrant == "wild"]
    assert [run.configuration for run in wild] == list(range(trials))
    for run in wild:
        assert run.failed
        assert math.isnan(run.score)
        assert run.diverged_step is None
        assert re.fullmatch(last_words, run.reason or "")
    (limit,) = [line for line in found.verdict.limits if "as diverged, the first with lr" in line]
    assert limit.startswith(f"{trials} of {trials} run")
    assert wild[0].reason in limit
    assert sum(line.startswith("wild with lr") for line in told.lines) == trials
    assert not any(run.failed for run in found.record.runs if run.entrant != "wild")
    assert not any("lanes failed" in line for line in told.lines)


def test_a_training_that_fails_once_changes_nothing(tmp_path: Path) -> None:
    left = [40]

    def seldom(_: Tensor) -> bool:
        left[0] -= 1
        return left[0] == 0

    entrants = [CALM, CALMER]
    failing = short(task(raises, seldom), tmp_path / "failing", entrants)
    assert left[0] < 0
    whole = short(task(raises, lambda _: False), tmp_path / "whole", entrants)
    assert failing.record.runs == whole.record.runs


def test_the_members_of_a_block_that_fails_are_told_apart(tmp_path: Path) -> None:
    unlucky: list[float] = []

    def model() -> nn.Module:
        net = nn.Linear(2, 1)
        if net.bias.item() in unlucky:
            raises()
        return net

    net = replace(task(raises, lambda _: False), model=model)
    given: dict[str, Any] = {"entrants": (CALM, CALMER), "step": "stacked", "width": 4, "seeds": 5}
    whole = short(net, tmp_path / "whole", **given).record
    seed = whole.runs[-1].seed
    unlucky.append(initial_model(net, seed).bias.item())  # type: ignore[union-attr, operator]
    found = short(net, tmp_path / "unlucky", **given).record
    assert {(run.entrant, run.seed) for run in found.runs if run.failed} == {
        ("calm", seed),
        ("calmer", seed),
    }
    assert len(found.runs) == len(whole.runs)
    for run, other in zip(found.runs, whole.runs, strict=True):
        if not run.failed:
            assert run.score == pytest.approx(other.score)


class Breaks(Silent):
    """Makes a file as soon as so many members of a round are done."""

    def __init__(self, file: Path, round: Round, members: int) -> None:
        self.file, self.at, self.round = file, (round, members), ""

    def round_began(self, round: Round, *_: Any) -> None:
        self.round = round

    def block_ended(self, done: int, best: dict[str, float]) -> None:  # noqa: ARG002
        if (self.round, done) == self.at:
            self.file.touch()


@pytest.mark.parametrize("at", [("tuning", 3), ("final", 2)])
def test_where_all_trainings_fail_no_failure_is_on_record_and_a_sentence_says_why(
    at: tuple[Round, int], tmp_path: Path
) -> None:
    entrants, broken = [CALM, CALMER], tmp_path / "broken"
    whole = short(task(raises, lambda _: False), tmp_path / "whole", entrants)
    net = task(raises, lambda _: broken.exists())
    with pytest.raises(FailedError, match=r"A training that ended well before .* too large"):
        short(net, tmp_path, entrants, progress=Breaks(broken, *at))
    broken.unlink()
    mended = short(net, tmp_path, entrants)
    assert mended.record.runs == whole.record.runs


def test_where_trainings_fail_from_the_first_on_a_sentence_says_why(tmp_path: Path) -> None:
    calls = [0]

    def after_the_check(_: Tensor) -> bool:
        calls[0] += 1
        return calls[0] > 10

    with pytest.raises(UserError, match="too large"):
        short(task(raises, after_the_check), tmp_path)


def test_where_trainings_hang_from_the_first_on_a_sentence_says_why(tmp_path: Path) -> None:
    def where_there_is_a_limit(_: Tensor) -> bool:
        return signal.getitimer(signal.ITIMER_REAL)[0] > 0

    hangs = task(lambda: time.sleep(600), where_there_is_a_limit)
    told = (
        r"^Task 'net' failed in training: it took no step for 1 s \(test_failures.py, line \d+\)\.$"
    )
    with pytest.raises(FailedError, match=told):
        short(hangs, tmp_path, timeout=1)


class Fragile(nn.Linear):
    """It raises once its weights have changed."""

    def __init__(self) -> None:
        super().__init__(2, 1)
        self.first = self.weight.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        if not self.weight.equal(self.first):
            raises()
        return super().forward(x)


def test_a_task_that_is_mended_before_a_run_is_on_record_is_no_other_race(tmp_path: Path) -> None:
    net = task(raises)
    with pytest.raises(UserError, match="too large"):
        short(replace(net, model=Fragile), tmp_path, [CALM, CALMER])
    assert short(net, tmp_path, [CALM, CALMER]).record.finished
