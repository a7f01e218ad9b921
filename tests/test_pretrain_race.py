"""Pre-training beside training without it: in a race, and at the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import thalweg as tw
from counting import Counting, calls_of_check
from thalweg import cli, pretrain, recipes
from thalweg.api import Race
from thalweg.errors import UserError
from thalweg.racing.entrants import Entrant
from thalweg.racing.progress import Silent
from thalweg.racing.record import Record, RunRecord
from thalweg.recipes import Recipe
from thalweg.rules.space import log
from thalweg.tasks import Data, Task
from thalweg.training.pretrain import stages_for

STEPS = 13


def sines(frequency: float) -> Data:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    split = (x, (frequency * x[:, :2]).sin())
    return Data(split, split, split)


def blocks() -> list[nn.Module]:
    return [
        nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh()).double(),
        nn.Sequential(nn.Linear(6, 5), nn.Tanh()).double(),
    ]


def head(depth: int) -> nn.Module:
    return nn.Linear((6, 5)[depth - 1], 2).double()


def waves(frequency: float = 3.0, **changes: Any) -> Task:
    task = Task(
        name="waves",
        model=lambda: nn.Sequential(*blocks(), head(2)),
        data=lambda: sines(frequency),
        loss=F.mse_loss,
        batch_size=8,
        steps=STEPS,
        difficulty=waves,
        curriculum=(1.0, 2.0),
        blocks=blocks,
        head=head,
    )
    return replace(task, **changes)


def raced(runs: Path, task: Task | None = None, entrants: Any = ("adam",), **more: Any) -> Race:
    given = {"trials": 2, "seeds": 2, "width": 4, "step": "stacked", "lanes": 1, "runs": runs}
    return tw.race(task or waves(), entrants, pretrain=True, **given | more)


def final(record: Record, entrant: str) -> list[RunRecord]:
    return [run for run in record.runs if (run.round, run.entrant) == ("final", entrant)]


def recipe_of(record: Record, run: RunRecord) -> Recipe:
    key = run.entrant, run.configuration
    (toml,) = (one.recipe for one in record.configurations if (one.entrant, one.index) == key)
    return Recipe.from_toml(toml)


# --- the race ---


@pytest.mark.parametrize("step", ["single", "stacked"])
def test_a_members_numbers_are_those_of_the_pretraining_alone(step: str, tmp_path: Path) -> None:
    task = waves()
    record = raced(tmp_path, task, step=step).record
    for entrant in record.settings.entrants:
        run = final(record, entrant)[1]  # not the first of its block
        recipe = recipe_of(record, run)
        alone: Callable[..., Any] = {
            None: lambda *_, **__: None,
            "by task": pretrain.by_task,
            "by network": pretrain.by_network,
        }[recipe.pretrain]
        more = {"optimizer_state": False} if recipe.pretrain == "by network" else {}
        done = alone(task, recipe, tmp_path / entrant, seed=run.seed, **more)
        if done is not None:
            before = STEPS - done.runs[-1].curve[-1].step
            points = [(point.step - before, point.metric) for point in run.curve]
            expected = [(point.step, point.metric) for point in done.runs[-1].curve]
            assert points == [(step, pytest.approx(metric, rel=1e-9)) for step, metric in expected]
            assert done.gradient_evaluations == STEPS
    assert len(record.settings.entrants) == 3


def test_twins_try_the_same_values_on_the_same_seeds_and_cool_in_each_stage(tmp_path: Path) -> None:
    record = raced(tmp_path, entrants=["sgd"]).record
    assert record.settings.entrants == ("sgd", "sgd (by task)", "sgd (by network)")
    values = {
        name: [one.values for one in record.configurations if one.entrant == name]
        for name in record.settings.entrants
    }
    assert values["sgd"] == values["sgd (by task)"] == values["sgd (by network)"]
    seeds = [[run.seed for run in final(record, name)] for name in record.settings.entrants]
    assert seeds[0] == seeds[1] == seeds[2]
    steps = [Recipe.from_toml(one.recipe).settings["lr"].steps for one in record.configurations]
    assert steps == [STEPS] * 2 + [5] * 4


@pytest.mark.parametrize("kind", [None, *recipes.PRETRAINING])
def test_gradient_evaluations_are_as_many_with_and_without(
    kind: str | None, tmp_path: Path
) -> None:
    counting = Counting()
    task = replace(waves(), loss=counting)
    task = replace(task, difficulty=lambda value: replace(waves(value), loss=counting))
    stages = stages_for(task, kind)
    recipe = replace(recipes.adam(), pretrain=kind)
    tw.train(task, recipe, out=tmp_path / "m.safetensors")
    looks = (calls_of_check(waves()) + 2) * len(stages)  # and each one's fingerprint is taken
    assert counting.calls - looks == STEPS
    assert sum(stage.steps for stage in stages) == STEPS


def test_every_run_of_a_race_ends_at_the_last_step_of_the_budget(tmp_path: Path) -> None:
    record = raced(tmp_path).record
    assert {run.curve[-1].step for run in record.runs} == {STEPS}
    firsts = {run.entrant: run.curve[0].step for run in record.runs}
    assert firsts == {"adam": 1, "adam (by task)": 9, "adam (by network)": 9}


class StopsAt(Silent):
    def __init__(self, told: int) -> None:
        self.left = told

    def stepped(self, *_: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("told", [20, 45])
def test_a_race_that_was_stopped_ends_as_if_it_was_not(told: int, tmp_path: Path) -> None:
    whole = raced(tmp_path / "whole").record
    with pytest.raises(KeyboardInterrupt):
        raced(tmp_path / "stopped", progress=StopsAt(told))
    record = raced(tmp_path / "stopped").record
    assert repr((record.runs, record.looks)) == repr((whole.runs, whole.looks))


def test_who_diverges_in_a_stage_goes_no_further_and_costs_nobody_a_bit(tmp_path: Path) -> None:
    tame = Entrant("tame", recipes.sgd(), {"lr": log(1e-2, 1e-1)})
    wild = Entrant("wild", recipes.sgd(), {"lr": log(1e150, 1e160)})
    task = waves(blocks=None, head=None)
    record = raced(tmp_path / "both", task, entrants=[tame, wild]).record
    alone = raced(tmp_path / "tame", task, entrants=[tame]).record
    gone = [run for run in record.runs if run.entrant == "wild (by task)"]
    assert len(gone) == 2
    assert all(run.diverged_step <= 4 and not run.curve for run in gone)  # in the first stage
    of_tame = [
        {(r.entrant, r.configuration): r.curve for r in one.runs if r.entrant.startswith("tame")}
        for one in (record, alone)
    ]
    assert of_tame[0] == of_tame[1]


def test_the_winner_and_the_verdict_say_that_it_was_pretrained(tmp_path: Path) -> None:
    task = waves(curriculum=())
    # Without pre-training it stays where it is.
    still = Entrant("still", recipes.adam(), {"lr": log(1e-12, 1e-11)})
    mine = replace(recipes.adam(), pretrain="by network")
    result = raced(tmp_path, task, [still, mine], seeds=12)
    assert result.verdict.best == "adam (by network)"
    assert 'pretrain = "by network"\n' in (tmp_path / "waves" / "winner.toml").read_text()
    assert result.best.pretrain == "by network"
    told = str(result.verdict)
    assert "Pre-trained (by network): 13 steps in 3 equal stages" in told
    assert "begins with a pre-training (by network)" in told
    assert "pretrain=True" in result.record.command


def test_other_simpler_tasks_under_an_old_name_are_refused(tmp_path: Path) -> None:
    raced(tmp_path)
    with pytest.raises(UserError, match="with other training data under"):
        raced(tmp_path, waves(curriculum=(1.0, 2.5)))


# --- one training ---


@pytest.mark.parametrize("kind", recipes.PRETRAINING)
def test_training_with_a_pretraining_is_that_pretraining(kind: str, tmp_path: Path) -> None:
    recipe = recipes.adam(lr=0.03)
    if kind == "by task":
        expected = pretrain.by_task(waves(), recipe, tmp_path / "p", seed=2)
    else:
        expected = pretrain.by_network(
            waves(), recipe, tmp_path / "p", optimizer_state=False, seed=2
        )
    out = tmp_path / "out" / "m.safetensors"
    trained = tw.train(waves(), replace(recipe, pretrain=kind), seed=2, out=out)
    assert list(out.parent.iterdir()) == [out]
    found, same = load_file(out), load_file(expected.checkpoint)
    assert all(torch.equal(x, found[name]) for name, x in same.items())
    assert trained.run.score == expected.runs[-1].score
    assert trained.kept == "step 13"
    waves().model().load_state_dict(found)


@pytest.mark.parametrize("stop", [3, 6, 11])
def test_a_training_stopped_in_any_stage_ends_as_if_it_was_not(stop: int, tmp_path: Path) -> None:
    recipe = recipes.adam(lr=0.03)

    def task(stop: int | None = None) -> Task:
        counting = Counting(stop)
        return waves(
            blocks=None,
            head=None,
            loss=counting,
            difficulty=lambda value: replace(waves(value), loss=counting),
        )

    whole = tw.train(task(), recipe, pretrain=True, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        tw.train(
            task((calls_of_check(waves()) + 2) * 3 + stop),
            recipe,
            pretrain=True,
            out=tmp_path / "stopped",
        )
    assert not (tmp_path / "stopped").exists()
    resumed = tw.train(task(), recipe, pretrain=True, out=tmp_path / "stopped")
    assert resumed.run == whole.run
    found, expected = load_file(tmp_path / "stopped"), load_file(tmp_path / "whole")
    assert all(torch.equal(x, expected[name]) for name, x in found.items())


# --- the command line ---

OWN_TASK = """
import torch
from torch import nn
from thalweg import Data, Task

def task(frequency=3.0):
    def data():
        x = torch.linspace(-1, 1, 40).view(-1, 1)
        split = (x, (frequency * x).sin())
        return Data(split, split, split)

    return Task(name="mine", model=lambda: nn.Linear(1, 1), data=data,
                loss=nn.functional.mse_loss, batch_size=8, steps=12,
                difficulty=task, curriculum=(1.0, 2.0))
"""


@pytest.fixture
def thalweg(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path):
    """Runs a command in a fresh folder; its exit status, and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["thalweg", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
            raise SystemExit(0)
        captured = capfd.readouterr()
        return int(stop.value.code or 0), captured.out + captured.err

    return run


def test_at_the_command_line_it_is_a_word(thalweg) -> None:
    Path("mine.py").write_text(OWN_TASK)
    quick = ["--trials", "2", "--seeds", "3", "--step", "stacked", "--lanes", "1"]
    status, told = thalweg("race", "mine.py:task", "--entrants", "adam", "--pretrain", *quick)
    assert status == 0, told
    assert "adam (by task)" in told
    report = Path("runs/mine/report.html").read_text()
    assert "thalweg race mine.py:task --entrants adam --pretrain --trials 2" in report

    status, told = thalweg("train", "mine.py:task", "--recipe", "adam", "--pretrain", "--out", "a")
    assert status == 0, told
    Path("by_task.toml").write_text(replace(recipes.adam(), pretrain="by task").to_toml())
    status, told = thalweg("train", "mine.py:task", "--recipe", "by_task.toml", "--out", "b")
    assert status == 0, told
    found, same = load_file("a"), load_file("b")
    assert all(torch.equal(x, found[name]) for name, x in same.items())


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("race", "saddle", "--pretrain"), "Task 'saddle' offers no pre-training: it has neither"),
        (("train", "saddle", "--recipe", "sgd", "--pretrain"), "offers no pre-training"),
        (("train", "saddle", "--recipe", "by_task.toml"), "Task 'saddle' has no simpler tasks;"),
        (("race", "waveform", "--entrants", "sgd,by_network.toml"), "has no blocks from which"),
        (("train", "saddle", "--recipe", "typo.toml"), "did you mean by task?"),
    ],
)
def test_a_pretraining_that_cannot_be_had_is_one_sentence(thalweg, command, sentence) -> None:
    for kind in recipes.PRETRAINING:
        made = replace(recipes.adam(), pretrain=kind)
        Path(f"{kind.replace(' ', '_')}.toml").write_text(made.to_toml())
    Path("typo.toml").write_text('pretrain = "by taks"\n[[rules]]\nrule = "SGD"\n')
    status, told = thalweg(*command)
    assert (status, told.count("\n")) == (2, 1)
    assert sentence in told
    assert not Path("runs").exists()


def test_what_a_task_offers_must_be_whole_and_to_the_point(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs functions for both blocks and head, or for neither"):
        waves(head=None)
    with pytest.raises(UserError, match="offers two pre-trainings: choose one in the recipe"):
        tw.train(waves(), "adam", pretrain=True, out=tmp_path / "m")
    other = waves(curriculum=(), model=lambda: nn.Sequential(nn.Linear(4, 2)).double())
    with pytest.raises(
        UserError, match="blocks and the head of task 'waves' do not make its model"
    ):
        raced(tmp_path, other)
    with pytest.raises(UserError, match="each stage's steps must be a whole number from 1"):
        raced(tmp_path, waves(steps=2))
    assert list(tmp_path.iterdir()) == []
