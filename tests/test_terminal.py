"""What races and trainings show on a real terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console

from thalweg.terminal.race import Lines

CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def on_a_terminal(command: list[str], folder: Path) -> str:
    """What a command writes to a terminal of its own, without the control sequences."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "120", "LINES": "40", "TERM": "xterm"}
    process = subprocess.Popen(
        command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:  # the other end is closed when the command ends
        pass
    os.close(ours)
    assert process.wait() == 0, written.decode()
    return CONTROL.sub("", written.decode())


def test_a_live_table_shows_round_members_best_speed_and_time_left(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "thalweg", "race", "digits", "--entrants", "sgd,adam"]
    shown = on_a_terminal(
        [
            *command,
            "--trials",
            "3",
            "--tuning-seeds",
            "1",
            "--seeds",
            "6",
            "--width",
            "3",
            "--step",
            "stacked",
            "--lanes",
            "1",
        ],
        tmp_path,
    )
    assert re.search(
        r"tuning round: 3 of 12 members done, 3 of 3 in work are alive, "
        r"[\d,]+ member-steps/s, about \d+ s left at most",
        shown,
    )
    assert re.search(r"sgd +\d\.\d+", shown)
    assert "final round: " in shown
    assert "median so far" in shown
    assert re.search(r"look at 6 seeds: (none out|out: \w+); [12] on the shortlist", shown)


def test_a_live_bar_shows_epoch_loss_metric_and_time_left(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "thalweg", "train", "digits", "--recipe", "adam"]
    shown = on_a_terminal([*command, "--accumulate", "2"], tmp_path)
    assert re.search(
        r"epoch \d+ of 12, step \d+ of 96: training loss \d\.\d+, "
        r"validation log-loss \d\.\d+ .* 0:00:\d\d left",
        shown,
    )
    assert re.search(r"test: log-loss \d\.\d+, accuracy \d\.\d+\s+checkpoint: ", shown)


def test_one_entrant_is_told_as_one() -> None:
    told = StringIO()
    lines = Lines(Console(file=told))
    for entrants in (["sgd"], ["sgd", "adam"]):
        lines.round_began("final", entrants, done=0, members=8, steps=10)
    assert told.getvalue().splitlines() == [
        "final round: 1 entrant, 8 members at most",
        "final round: 2 entrants, 8 members at most",
    ]
