"""Lanes: what they make is what one process makes, and one that dies costs nothing but time."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.live import Live
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import thalweg as tw
from processes import end_soon
from thalweg import recipes
from thalweg.errors import UserError
from thalweg.racing.lanes import Lanes, most_lanes, one_thread
from thalweg.stack.compiled import Compiled
from thalweg.stack.member import Member
from thalweg.tasks import Data, Task, find

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="one lane elsewhere"),
    pytest.mark.usefixtures("two_threads"),
]


def squared(piece: int, _: Any) -> tuple[int, int, int]:
    time.sleep(0.01)
    return piece**2, os.getpid(), torch.get_num_threads()


def test_every_piece_is_done_once_in_processes_of_one_thread() -> None:
    with Lanes(squared, 2) as lanes:
        for _ in range(2):
            made = dict(lanes.run(range(9)))
            assert {place: made[place][0] for place in made} == {i: i**2 for i in range(9)}
            processes = {process for _, process, _ in made.values()}
            assert len(processes) == 2
            assert os.getpid() not in processes
        assert {threads for _, _, threads in made.values()} == {1}
    assert torch.get_num_threads() == 2
    assert not any(Path(f"/proc/{process}").exists() for process in processes)


def test_one_lane_is_this_process() -> None:
    with Lanes(squared, 1) as lanes:
        assert [made[1:] for _, made in lanes.run([3])] == [(os.getpid(), 2)]


class DiesOnce:
    """Kills its own process at one piece, once, or always."""

    def __init__(self, folder: Path, always: bool = False) -> None:
        self.folder, self.always = folder, always

    def __call__(self, piece: int, _: Any) -> int:
        mark = self.folder / "died"
        if piece == 1 and (self.always or not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return piece


def test_a_lane_that_dies_is_replaced_and_its_piece_repeated(tmp_path: Path) -> None:
    with Lanes(DiesOnce(tmp_path), 2) as lanes:
        assert sorted(lanes.run(range(5))) == [(i, i) for i in range(5)]
        # An idle one, too.
        lanes.lanes[0].process.kill()
        lanes.lanes[0].process.join()
        assert sorted(lanes.run(range(3))) == [(i, i) for i in range(3)]


def test_a_piece_that_kills_every_lane_ends_in_a_sentence(tmp_path: Path) -> None:
    with (
        Lanes(DiesOnce(tmp_path, always=True), 2) as lanes,
        pytest.raises(UserError, match=r"3 processes died .* --width"),
    ):
        list(lanes.run(range(3)))


def fails(piece: int, _: Any) -> int:
    if piece == 1:
        raise UserError("the model of task 'mine' failed.")
    return 1 // piece


@pytest.mark.parametrize(
    ("piece", "error", "told"),
    [(1, UserError, "^the model of task 'mine' failed.$"), (0, RuntimeError, "ZeroDivisionError")],
)
def test_what_a_lane_raises_is_raised_here(piece: int, error: type[Exception], told: str) -> None:
    with Lanes(fails, 2) as lanes, pytest.raises(error, match=told):
        list(lanes.run([2, piece]))


def talks(piece: int, watch: Any) -> int:
    for step in range(1, 4):
        time.sleep(0.3)
        watch(step, piece)
    return piece


def test_lanes_tell_how_far_they_are() -> None:
    told: list[tuple[int, int, int]] = []
    with Lanes(talks, 2) as lanes:
        assert sorted(lanes.run([7, 8], lambda *words: told.append(words))) == [(0, 7), (1, 8)]
    assert {(place, piece) for place, _, piece in told} == {(0, 7), (1, 8)}
    assert [step for place, step, _ in told if place == 0] == [1, 2, 3]


ABANDONED = """
import sys, time
import torch
from thalweg.racing.lanes import Lanes

torch.set_num_threads(2)

def work(piece, _):
    print(__import__("os").getpid(), flush=True)
    time.sleep(0.5 if piece == "short" else 600)

with Lanes(work, 2) as lanes:
    list(lanes.run(["short", "short"]))
    print("ready", flush=True)
    list(lanes.run(["long", "long"]))
"""


def test_lanes_end_with_the_process_that_they_work_for() -> None:
    process = subprocess.Popen([sys.executable, "-c", ABANDONED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    *lanes, _, _, _ = [process.stdout.readline().strip() for _ in range(5)]
    process.kill()
    process.wait()
    assert end_soon(lanes)


def prints_and_compiles(_: object, __: object) -> list[dict[str, float]]:
    print("a lane says", file=sys.stderr)
    return block().scores(find("saddle").splits.test)


def block() -> Compiled:
    return Compiled(find("saddle"), [Member(recipes.sgd(), seed) for seed in (0, 1)], width=2)


def test_a_lane_compiles_and_prints_whatever_was_held_when_it_was_forked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with one_thread():
        block().step()  # the compiler has a pool of threads from now on
    console = Console(file=io.StringIO(), force_terminal=True)
    with Live(console=console, redirect_stderr=True), Lanes(prints_and_compiles, 2) as lanes:
        with console._lock:
            working = Thread(target=lambda: made.extend(lanes.run([0, 1])))
            made: list[Any] = []
            working.start()
            while len(lanes.lanes) < 2:
                time.sleep(0.01)
        working.join(timeout=120)
        assert not working.is_alive()
    assert len(made) == 2


def test_a_race_in_lanes_comes_to_the_same_bits_again(tmp_path: Path) -> None:
    assert most_lanes() == 2
    given: dict[str, Any] = {"entrants": "sgd,adam", "trials": 5, "seeds": 4, "width": 2}
    first = tw.race("saddle", **given, step="stacked", lanes=2, runs=tmp_path / "first")
    plan = first.folder / "plan.toml"
    assert 'way = "stacked"\nlanes = 2\nwidth = 2\n' in plan.read_text()
    given.pop("width")
    second = tw.race("saddle", **given, plan=plan, runs=tmp_path / "second")
    assert first.record.runs == second.record.runs
    assert first.record.settings == second.record.settings


class Logged(Dataset[Any]):
    """Samples that write down which process reads them."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> Any:
        with self.log.open("a") as log:
            print(os.getpid(), file=log)
        return torch.full((3,), i / 8), torch.ones(1)


def test_lanes_share_the_data_that_were_read_before(tmp_path: Path) -> None:
    x = torch.ones(8, 3)
    read = Logged(tmp_path / "read")
    data = Data(read, read, (x, x[:, :1]))
    task = Task("mine", lambda: nn.Linear(3, 1), lambda: data, F.mse_loss, steps=3)
    given: dict[str, Any] = {"entrants": "sgd,adam", "trials": 1, "seeds": 2, "lanes": 2}
    tw.race(task, **given, step="single", runs=tmp_path)
    assert set(read.log.read_text().split()) == {str(os.getpid())}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("way = 1", "must give way, lanes and width, and gives way"),
        ('way = "stacke"\nlanes = 1\nwidth = 2', "no way is stacke; did you mean stacked"),
        ('way = "single"\nlanes = 0\nwidth = 2', "lanes in the plan .* must be a whole number"),
        ('way = "single"\nlanes = 99\nwidth = 2', "99 lanes cannot be had: this process has 2"),
        ("way", "is no TOML"),
    ],
)
def test_a_plan_that_is_none_gets_a_sentence(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=told):
        tw.race("saddle", plan=path, runs=tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        tw.race("saddle", plan=tmp_path / "none.toml", runs=tmp_path)


def test_a_plan_is_given_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give either it or these"):
        tw.race("saddle", plan=tmp_path / "plan.toml", width=2, runs=tmp_path)
