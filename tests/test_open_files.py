"""Data sets that hold files open: what lanes and workers read is what one process reads."""

from __future__ import annotations

import os
import socket
import sqlite3
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import thalweg as tw
from thalweg.racing import plan_file
from thalweg.stack import reading
from thalweg.tasks import Data, Task, sharing
from thalweg.tasks.sharing import InOneProcess, Reopened, shareable

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere"),
    pytest.mark.usefixtures("two_threads"),
]

LENGTH, WIDTH = 1000, 20
"""Samples, more than a buffer holds, and the bytes of each."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    x = torch.randn(LENGTH, 4, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "samples"
    path.write_bytes(torch.cat([x, x[:, :1].sin()], 1).numpy().tobytes())
    return path


class Samples(Dataset[Any]):
    """Five numbers a sample, the last of which is the target."""

    length = LENGTH

    def __init__(self, path: Path) -> None:
        self.path = path
        self.open()

    def open(self) -> None: ...

    def bytes_of(self, i: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(i * WIDTH)
            return file.read(WIDTH)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> Any:
        # Samples that draw are not held in memory.
        numbers = torch.frombuffer(bytearray(self.bytes_of(i)), dtype=torch.float32)
        return numbers[:4] + 0 * torch.rand(()), numbers[4:]


class OpenFile(Samples):
    def open(self) -> None:
        self.file = self.path.open("rb")

    def bytes_of(self, i: int) -> bytes:
        self.file.seek(i * WIDTH)
        return self.file.read(WIDTH)


class OpenedAtTheFirst(OpenFile):
    def open(self) -> None: ...

    def bytes_of(self, i: int) -> bytes:
        if not hasattr(self, "file"):
            super().open()
        return super().bytes_of(i)


class Within(Samples):
    def open(self) -> None:
        self.inner = {"parts": [OpenFile(self.path)]}

    def bytes_of(self, i: int) -> bytes:
        return self.inner["parts"][0].bytes_of(i)


class Numbered(Samples):
    def open(self) -> None:
        self.number = os.open(self.path, os.O_RDONLY)

    def bytes_of(self, i: int) -> bytes:
        os.lseek(self.number, i * WIDTH, os.SEEK_SET)
        return os.read(self.number, WIDTH)


class Database(Samples):
    def open(self) -> None:
        self.connection = sqlite3.connect(":memory:")


class Socket(Samples):
    def open(self) -> None:
        self.ends = socket.socketpair()


class ByThread(Samples):
    def open(self) -> None:
        self.reader = ThreadPoolExecutor(1)

    def bytes_of(self, i: int) -> bytes:
        return self.reader.submit(super().bytes_of, i).result()


class OpenedAnew(OpenFile):
    """As data sets are written that workers are to read which are not forked."""

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class Mapped(Samples):
    def open(self) -> None:
        self.numbers = np.memmap(self.path, mode="r")

    def bytes_of(self, i: int) -> bytes:
        return bytes(self.numbers[i * WIDTH : (i + 1) * WIDTH])


ONE_PROCESS = {
    OpenFile: "an open file",
    Within: "an open file",
    Numbered: "an open file",
    Database: "an open database",
    Socket: "an open socket",
    ByThread: "a running thread or a lock",
}


@pytest.mark.parametrize("kind", ONE_PROCESS)
def test_what_cannot_be_opened_anew_is_read_in_one_process(
    kind: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "PATIENCE", 1.0)
    found = shareable(kind(path), "The data", lambda: kind(path))
    assert isinstance(found, InOneProcess)
    assert found.line == (
        f"The data hold {ONE_PROCESS[kind]} that forked processes cannot share, so they are read in"
        " one process, and races have one lane."
    )


@pytest.mark.parametrize("kind", [OpenedAnew, OpenedAtTheFirst])
def test_what_can_be_opened_anew_is(kind: Any, path: Path) -> None:
    found = shareable(kind(path), "The data", lambda: kind(path))
    assert isinstance(found, Reopened)
    assert found.line.endswith("cannot share, so each process opens them anew.")


@pytest.mark.parametrize("kind", [Samples, Mapped])
def test_what_can_be_shared_stays(kind: Any, path: Path) -> None:
    dataset = kind(path)
    assert shareable(dataset, "The data", lambda: kind(path)) is dataset


def task_of(kind: Callable[[Path], Samples], path: Path) -> Task:
    x = torch.ones(8, 4)
    return Task(
        "mine",
        lambda: nn.Linear(4, 1),
        lambda: Data(kind(path), (x, x[:, :1]), kind(path)),
        F.mse_loss,
        batch_size=16,
        steps=8,
    )


@pytest.mark.parametrize("kind", [OpenFile, OpenedAnew, OpenedAtTheFirst])
def test_a_race_in_lanes_reads_what_one_process_reads(
    kind: Callable[[Path], Samples], path: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"entrants": "sgd,adam", "trials": 2, "seeds": 3, "step": "single"}
    runs = []
    for name, one, lanes in (("one", Samples, 1), ("two", kind, 2)):
        task = task_of(one, path)
        runs.append(tw.race(task, **given, lanes=lanes, name=name, runs=tmp_path).record)
    plain, shared = (sorted(record.runs, key=str) for record in runs)
    assert plain == shared
    assert runs[0].notes == ()
    lines = [note.split(" hold ")[0] for note in runs[1].notes]
    assert lines == ["The training data of task 'mine'", "The test data of task 'mine'"]
    followed = plan_file.read(tmp_path / "two/plan.toml")
    assert followed[1] == (1 if kind is OpenFile else 2)


@pytest.mark.parametrize("kind", [OpenFile, OpenedAnew])
def test_a_training_with_workers_reads_what_one_process_reads(
    kind: Callable[[Path], Samples],
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = tw.train(task_of(Samples, path), "adam", out=tmp_path / "plain")
    monkeypatch.setattr(reading, "PATIENCE", 0.0)
    monkeypatch.setattr(reading, "SLOW", 0.0)
    with pytest.warns(UserWarning, match="The training data of task 'mine' hold an open file"):
        found = tw.train(task_of(kind, path), "adam", out=tmp_path / "found")
    assert found.run == plain.run
