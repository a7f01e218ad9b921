"""Data sets with open files or the like, which forked processes cannot share.

Each process opens them anew; if that does not work, only one process reads them.
"""

from __future__ import annotations

import os
import pickle
import stat
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch.utils.data import Dataset

from thalweg.forked import begin, forking
from thalweg.random_numbers import drawing
from thalweg.tasks.forms import Collated, collate_of
from thalweg.tasks.held import is_held, same, sample
from thalweg.tasks.reachable import reachable

PATIENCE = 5.0
"""The seconds in which a forked process must read a sample, plus ten times the time here."""

OPEN_FILES = ("h5py", "lmdb", "netCDF4", "tables")
"""The packages whose objects are open files, although the objects do not show it."""

Positions = dict[tuple[str, str], str]
"""The reading position of each file, by its number and path."""


class Reopened(Collated):
    """A data set of which each process unpickles its own copy. line: a sentence about this."""

    def __init__(self, dataset: Dataset[Any], pickled: bytes, line: str) -> None:
        super().__init__(dataset, collate_of(dataset))
        self.pickled, self.line = pickled, line
        self.process = os.getpid()

    def __getitem__(self, i: int) -> Any:
        if self.process != os.getpid():
            self.dataset, self.process = pickle.loads(self.pickled), os.getpid()
        return self.dataset[i]


class InOneProcess(Collated):
    """A data set that only the process that opened it may read. line: a sentence about this."""

    def __init__(self, dataset: Dataset[Any], line: str) -> None:
        super().__init__(dataset, collate_of(dataset))
        self.line = line


def shareable(dataset: Dataset[Any], called: str, anew: Callable[[], Dataset[Any]]) -> Dataset[Any]:
    """The data set in a form that processes that are forked from this one can read.

    called: its name in a sentence. anew: makes it once more, because a data set that opens a file
    at its first sample can be pickled only before.
    """
    if sys.platform != "linux" or is_held(dataset) or isinstance(dataset, Reopened | InOneProcess):
        return dataset
    try:
        found = held_open(dataset)
    except Exception:
        # An error of a sample is reported where the sample is used.
        return dataset
    if not found:
        return dataset
    told = f"{called} hold {found} that forked processes cannot share, so"
    makers: list[Callable[[], Dataset[Any]]] = [lambda: dataset, anew]
    for make in makers:
        with suppress(Exception):  # the data set cannot be pickled, or its copy cannot be read
            pickled = pickle.dumps(make())
            if opens_its_own(pickled, dataset):
                return Reopened(dataset, pickled, f"{told} each process opens them anew.")
    return InOneProcess(dataset, f"{told} they are read in one process, and races have one lane.")


def held_open(dataset: Dataset[Any]) -> str:
    """What the data set holds open, in words; empty if it holds nothing open."""
    for _, value in reachable(dataset, "data"):
        if found := open_thing(value):
            return found
    with drawing(0):
        if moved(dataset):
            return "an open file"
        return "" if read_in_fork(dataset) else "a running thread or a lock"


def read_in_fork(dataset: Dataset[Any]) -> bool:
    """Whether a process that is forked from this one can read a sample to its end.

    A process that waits for a thread cannot, because no thread goes on in a fork.
    """

    def read() -> None:
        begin()
        torch.set_num_threads(1)
        with suppress(Exception):  # an error is reported where the sample is used
            dataset[last // 3]

    last = len(dataset) - 1  # type: ignore[arg-type]
    began = perf_counter()
    dataset[last]
    patience = PATIENCE + 10 * (perf_counter() - began)
    process = get_context("fork").Process(target=read, daemon=True)
    with forking():
        process.start()
    process.join(patience)
    read_to_end = not process.is_alive()
    process.kill()
    process.join()
    return read_to_end


def open_thing(value: Any) -> str:
    """The kind of an object that is open, in words; empty for another object."""
    if isinstance(value, type):
        return ""
    if all(hasattr(value, name) for name in ("cursor", "commit", "rollback")):
        return "an open database"
    if type(value).__module__.split(".")[0] in OPEN_FILES:
        return "an open file"
    try:
        number = value.fileno()
        kind, (for_reading, _) = os.fstat(number).st_mode, state_of(number)
    except Exception:  # the object is no file, or is closed
        return ""
    if stat.S_ISCHR(kind) or not for_reading:
        return ""
    return "an open socket" if stat.S_ISSOCK(kind) else "an open file"


def opens_its_own(pickled: bytes, dataset: Dataset[Any]) -> bool:
    """Whether the copy gives the same samples, and does not move the position of an open file."""
    before = positions()
    copy = pickle.loads(pickled)
    ends = 0, len(dataset) - 1  # type: ignore[arg-type]
    with drawing(0):
        wanted = [sample(dataset, i) for i in ends]
    with drawing(0):
        own = [sample(copy, i) for i in ends]
        return all(map(same, own, wanted)) and not moved(copy, before)


def moved(dataset: Dataset[Any], files: Collection[tuple[str, str]] | None = None) -> bool:
    """Whether reading some samples moves the position in one of these files, or in any file."""
    last = len(dataset) - 1  # type: ignore[arg-type]
    seen = []
    for i in (0, last, last // 2, 0):
        dataset[i]
        seen.append(positions())
    return any(
        file in after and after[file] != position and (files is None or file in files)
        for before, after in pairwise(seen)
        for file, position in before.items()
    )


def positions() -> Positions:
    """The positions of all files that this process has open for reading."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the file is closed by now
            for_reading, position = state_of(link.name)
            if for_reading:
                found[link.name, str(link.readlink())] = position
    return found


def state_of(number: int | str) -> tuple[bool, str]:
    """Whether a file is open for reading, and its position, from Linux's /proc."""
    lines = Path(f"/proc/self/fdinfo/{number}").read_text().splitlines()[:2]
    told = dict(line.split(":") for line in lines)
    return int(told["flags"], 8) & os.O_ACCMODE != os.O_WRONLY, told["pos"]
