"""Lanes: what they make is what one process makes, and one that dies costs nothing but time."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
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
from thalweg.lanes.lanes import Lanes, most_lanes, one_thread
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
            made = {place: made.value for place, made in lanes.run(range(9))}
            assert {place: made[place][0] for place in made} == {i: i**2 for i in range(9)}
            processes = {process for _, process, _ in made.values()}
            assert len(processes) == 2
            assert os.getpid() not in processes
        assert {threads for _, _, threads in made.values()} == {1}
    assert torch.get_num_threads() == 2
    assert not any(Path(f"/proc/{process}").exists() for process in processes)


def test_one_lane_is_this_process() -> None:
    with Lanes(squared, 1) as lanes:
        assert [made.value[1:] for _, made in lanes.run([3])] == [(os.getpid(), 2)]


def fails(piece: str, watch: Any) -> str:
    """Works on a piece as its name says."""
    if piece == "raises":
        raise UserError("the model failed.")
    if piece == "exits":
        sys.exit(0)
    if piece == "is gone":
        os._exit(3)
    if piece == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if piece == "hangs":
        watch(1, 1)
        time.sleep(600)
    while piece == "hangs and tries again":
        with suppress(Exception):
            time.sleep(600)
    if piece == "raises in a circle":
        error = ValueError("the model failed.")
        raise error from error
    if piece == "raises in colours":
        raise ValueError("\n\x1b[31mthe\tmodel\x1b[0m failed.\nFor long.")
    return piece


HERE = r"\(test_lanes.py, line \d+\)"

FAILURES = {
    "raises": rf"the model failed {HERE}",
    "raises in a circle": rf"ValueError: the model failed {HERE}",
    "raises in colours": rf"ValueError: the model failed {HERE}",
    "exits": rf"SystemExit: 0 {HERE}",
    "is gone": "its process ended with status 3",
    "is killed": "its process was killed by SIGKILL, most likely for want of memory",
    "hangs": rf"it took no step for 0.5 s {HERE}",
    "hangs and tries again": rf"it took no step for 0.5 s {HERE}",
}


@pytest.mark.parametrize("lanes", [1, 2])
def test_work_that_fails_has_last_words_and_the_rest_is_done(lanes: int) -> None:
    alone = {"is gone", "is killed"} if lanes == 1 else set()
    pieces = ["works", *(FAILURES.keys() - alone), "works too"]
    with Lanes(fails, lanes, timeout=0.5) as all_lanes:
        for _ in range(2):
            made = {pieces[place]: made for place, made in all_lanes.run(pieces)}
            assert {one.value for one in made.values() if not one.failure} == {"works", "works too"}
            told = {piece: one.failure for piece, one in made.items() if one.failure}
            assert told.keys() == FAILURES.keys() - alone
            assert all(re.fullmatch(FAILURES[piece], told[piece]) for piece in told)


def test_an_idle_lane_that_dies_is_replaced() -> None:
    with Lanes(fails, 2) as lanes:
        list(lanes.run(["a", "b"]))
        lanes.lanes[0].process.kill()
        lanes.lanes[0].process.join()
        assert sorted(bool(made.failure) for _, made in lanes.run(["a", "b"])) == [False, True]
        assert not any(made.failure for _, made in lanes.run(["a", "b"]))


def talks(piece: int, watch: Any) -> int:
    for step in range(1, 4):
        time.sleep(0.3)
        watch(step, piece)
    return piece


def test_lanes_tell_how_far_they_are() -> None:
    told: list[tuple[int, int, int]] = []
    with Lanes(talks, 2) as lanes:
        made = lanes.run([7, 8], lambda *words: told.append(words))
        assert sorted((place, one.value) for place, one in made) == [(0, 7), (1, 8)]
    assert {(place, piece) for place, _, piece in told} == {(0, 7), (1, 8)}
    assert [step for place, step, _ in told if place == 0] == [1, 2, 3]


ABANDONED = """
import os, time
import torch
from thalweg.lanes.lanes import Lanes

torch.set_num_threads(2)

def work(piece, _):
    os.write(1, f"{os.getpid()}\\n".encode())  # whole, however Python buffers
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
        ('way = "stacke"\nlanes = 1\nwidth = 2', "is called stacke; did you mean stacked"),
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
