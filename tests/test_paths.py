"""Files and folders on the way: they are where the caller was, and what happens to them is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from test_race import SADDLE, short
from thalweg import cli
from thalweg.errors import FailedError
from thalweg.racing.progress import Silent

SHORT = "--entrants sgd,adam --trials 1 --seeds 2 --width 4 --step single --lanes 1"

TASK = """
import os
from dataclasses import replace
from thalweg.tasks import find
os.chdir("/")
saddle = find("saddle")
task = replace(saddle, name="mine", steps=8, data=lambda: (os.chdir("/tmp"), saddle.data())[1])
"""


def run(*words: str) -> int:
    try:
        cli.app(words, standalone_mode=True)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_task_that_changes_the_folder_does_not_move_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(TASK)
    Path("mine.toml").write_text('name = "mine"\n[[rules]]\nrule = "SGD"\nlr = 0.1\n')
    task = f"{tmp_path}/mine.py:task"
    commands = [
        f"race {task} {SHORT} --baseline mine.toml",
        f"train {task} --recipe mine.toml --out a/m",
        f"doctor {task} --recipe mine.toml --no-trials",
    ]
    for command in commands:
        os.chdir(tmp_path)
        assert run(*command.split()) == 0
    os.chdir(tmp_path)
    written = sorted(str(path) for path in Path().rglob("*") if path.is_file())
    assert [one for one in written if "__pycache__" not in one] == [
        "a/m",
        "mine.py",
        "mine.toml",
        "runs/mine/doctor-mine.html",
        "runs/mine/ledger.sqlite",
        "runs/mine/plan.toml",
        "runs/mine/report.html",
        "runs/mine/verdict.json",
        "runs/mine/winner.toml",
    ]
    assert "report: runs/mine/report.html\n" in capfd.readouterr().out


class Deletes(Silent):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def stepped(self, *_: Any) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def test_a_folder_that_is_deleted_in_the_middle_is_told(tmp_path: Path) -> None:
    given: dict[str, Any] = {"trials": 1, "seeds": 2, "name": "mine"}
    with pytest.raises(FailedError, match=r"mine/ledger\.sqlite was deleted or replaced while"):
        short(tmp_path, SADDLE, progress=Deletes(tmp_path / "mine"), **given)
    assert list(tmp_path.iterdir()) == []
    assert short(tmp_path, SADDLE, **given).record.finished


DELETING = """
import shutil
from dataclasses import replace
from thalweg.tasks import find
saddle = find("saddle")
def loss(outputs, targets):
    shutil.rmtree("runs/saddle", ignore_errors=True)
    return saddle.loss(outputs, targets)
task = replace(saddle, steps=8, loss=loss)
"""


@pytest.mark.parametrize(
    ("command", "output", "words"),
    [
        (f"race mine.py:task {SHORT}", os.devnull, "was deleted or replaced"),
        ("tasks", "/dev/full", "not all output was written: No space left"),
    ],
)
def test_what_goes_wrong_on_the_way_has_exit_status_1(
    command: str, output: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(DELETING)
    with Path(output).open("w") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "thalweg", *command.split()],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            check=False,
        )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert words in done.stderr


def test_a_file_in_place_of_the_folder_is_told_before_the_diagnosis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "diagnose", lambda *_, **__: pytest.fail("it was begun"))
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "argv", ["thalweg", "doctor", "saddle", "--runs", f"{tmp_path}/file"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "file/saddle/doctor.html cannot be written: Not a directory." in capfd.readouterr().err


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "saddle").mkdir()
    for name in ("winner.toml.part", "plan.toml.part"):
        (tmp_path / "saddle" / name).symlink_to(mine)
    result = short(tmp_path, replace(SADDLE, steps=2), trials=1, seeds=2)
    assert mine.read_text() == "mine"
    assert sorted(path.name for path in result.folder.iterdir()) == [
        "ledger.sqlite",
        "plan.toml",
        "verdict.json",
        "winner.toml",
    ]
