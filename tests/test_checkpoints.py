"""A block of members that is stopped between two evaluations continues as if it had not been."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import thalweg as tw
from test_pretrain_race import waves
from test_race import NET, outcome
from test_stack import MIX
from thalweg import recipes, schedules
from thalweg.racing.piece import UNFINISHED
from thalweg.recipe import Recipe
from thalweg.rules import Muon
from thalweg.stack.member import Member
from thalweg.stack.way import Way
from thalweg.tasks import Data, Task
from thalweg.training.learn import AfterStep
from thalweg.training.resume import Checkpoints, read_unfinished
from thalweg.training.train import train_members


class Noisy(nn.Module):
    """Batch normalization, dropout, and a buffer that is not in the model's `state_dict`."""

    calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 1)
        )
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls = self.calls + 1
        return self.layers(x) * (1 + self.calls / 100)


def samples() -> Data:
    torch.manual_seed(1)
    x = torch.randn(96, 4)
    y = x.sum(1, keepdim=True)
    return Data((x[:64], y[:64]), (x[64:80], y[64:80]), (x[80:], y[80:]))


NOISY = Task("noisy", Noisy, samples, F.mse_loss, batch_size=16, steps=40)
CHAINS = MIX[-9:]  # with schedules, clips, averages and sums
SGD, DIVERGING = recipes.sgd(lr=0.01), recipes.sgd(lr=1e30)


class StoppedError(BaseException):
    pass


def stopped_after(steps: int) -> AfterStep:
    def watch(step: int, _: int) -> None:
        if step > steps:
            raise StoppedError

    return watch


@pytest.mark.parametrize("way", ["single", "stacked"])
def test_a_block_continues_from_its_file_to_the_same_bits(way: Way, tmp_path: Path) -> None:
    members = [Member(recipe, 3 + i % 2) for i, recipe in enumerate([*CHAINS, DIVERGING])]
    checkpoints = Checkpoints(tmp_path / "block", [{"block": "this"}], every=0)
    given: dict[str, Any] = {"width": 4, "way": way, "test": True}
    expected = train_members(NOISY, members, **given)
    with pytest.raises(StoppedError):
        train_members(NOISY, members, **given, watch=stopped_after(16), checkpoints=checkpoints)
    checkpoints.every, told = 100, []
    again = train_members(
        NOISY, members, **given, watch=lambda *at: told.append(at[0]), checkpoints=checkpoints
    )
    assert repr(again) == repr(expected)
    assert told == list(range(17, 41))


def test_matrices_and_routes_continue_too(tmp_path: Path) -> None:
    routed = recipes.no_decay(recipes.adamw(lr=schedules.linear(0.01, steps=6), weight_decay=0.1))
    matrices = tw.route(("hidden matrix", Muon(lr=0.02)), default=recipes.adamw(lr=0.01))
    members = [Member(one, 0) for one in (routed, routed, matrices)]
    checkpoints = Checkpoints(tmp_path / "block", [{}], every=0)
    given: dict[str, Any] = {"width": 3, "way": "stacked"}
    with pytest.raises(StoppedError):
        train_members(NET, members, **given, watch=stopped_after(3), checkpoints=checkpoints)
    again = train_members(NET, members, **given, checkpoints=checkpoints)
    assert repr(again) == repr(train_members(NET, members, **given))


def test_a_stage_of_a_pretraining_continues_in_its_middle(tmp_path: Path) -> None:
    members = [Member(Recipe(one.rules, pretrain="by task"), 5) for one in (SGD, DIVERGING)]
    expected = train_members(waves(), members, width=2)
    checkpoints = Checkpoints(tmp_path / "block", [{}], every=0)
    with pytest.raises(StoppedError):
        train_members(waves(), members, width=2, watch=stopped_after(10), checkpoints=checkpoints)
    assert read_unfinished(checkpoints.path, [{}]).more["stage"] == 2
    assert repr(train_members(waves(), members, width=2, checkpoints=checkpoints)) == repr(expected)


@pytest.mark.parametrize("damage", ["cut off", "altered", "another block"])
def test_a_file_that_cannot_be_used_costs_only_time(damage: str, tmp_path: Path) -> None:
    members = [Member(SGD, 0), Member(SGD, 1)]
    checkpoints = Checkpoints(tmp_path / "block", [{"block": "this"}], every=0)
    with pytest.raises(StoppedError):
        train_members(NET, members, width=2, watch=stopped_after(3), checkpoints=checkpoints)
    written = checkpoints.path.read_bytes()
    if damage == "cut off":
        checkpoints.path.write_bytes(written[:-9])
    if damage == "altered":
        checkpoints.path.write_bytes(written[:-9] + b"x" + written[-8:])
    if damage == "another block":
        checkpoints.plan = [{"block": "another"}]
    again = train_members(NET, members, width=2, checkpoints=checkpoints)
    assert repr(again) == repr(train_members(NET, members, width=2))


def test_a_disk_that_is_full_ends_no_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    checkpoints = Checkpoints(tmp_path / "file" / "block", [{}], every=0)
    members = [Member(SGD, 0), Member(SGD, 1)]
    again = train_members(NET, members, width=2, checkpoints=checkpoints)
    assert repr(again) == repr(train_members(NET, members, width=2))


def raced(runs: Path) -> Any:
    given = {"trials": 1, "tuning_seeds": 1, "seeds": 3, "width": 2, "step": "stacked", "lanes": 2}
    return tw.race(NET, "sgd,adam", **given, runs=runs, checkpoint_every=0)


KILLED = f"""
import os, signal, sys, time
from pathlib import Path
import torch
from test_checkpoints import raced

def begun(runs):
    process = os.fork()
    if process == 0:
        os.setsid()
        torch.set_num_threads(2)
        raced(runs)
        os._exit(0)
    return process

runs = Path(sys.argv[1])
for killed in range(3):
    race = begun(runs / "killed")
    while not (runs / "killed" / "net" / "{UNFINISHED}").exists():
        assert os.waitpid(race, os.WNOHANG) == (0, 0), "the race has ended by itself"
        time.sleep(0.01)
    time.sleep(0.1 * killed)
    os.killpg(race, signal.SIGKILL)
    assert os.waitpid(race, 0)[1] == signal.SIGKILL
for folder in ("killed", "whole"):
    assert os.waitpid(begun(runs / folder), 0)[1] == 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="one lane elsewhere")
@pytest.mark.usefixtures("two_threads")
def test_a_race_that_is_killed_at_any_moment_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Each time a little later after a checkpoint is there, with lanes at work."""
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=Path(__file__).parent, check=True)
    assert not (tmp_path / "killed" / "net" / UNFINISHED).exists()
    killed, whole = (raced(tmp_path / folder).record for folder in ("killed", "whole"))
    assert outcome(killed) == outcome(whole)
