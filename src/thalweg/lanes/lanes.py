"""Lanes: processes that train blocks of members side by side, each with one thread by default.

They are forked, so that each begins with the task, its data and all that was compiled, and live as
long as the race. Where Python does not fork safely there is one lane: this process.
"""

from __future__ import annotations

import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import current_process, get_context
from multiprocessing.connection import Connection, wait
from typing import Any, Self, TypeVar

import torch

from thalweg import forked
from thalweg.forked import forking
from thalweg.lanes.failure import last_words
from thalweg.lanes.time_limit import TimeLimit, too_long
from thalweg.training.learn import AfterStep

T = TypeVar("T")
Work = Callable[[Any, AfterStep], Any]
"""`work(piece, watch)`: what a lane does with a piece, telling how far it is."""

GRACE = 1.0
"""Seconds in which a process that has closed its pipe, or whose time is up, ends."""

TOLD_EVERY = 0.25
"""Seconds between a lane's words on how far it is."""


def most_lanes() -> int:
    """How many lanes this process can have: as many as PyTorch has threads, or one."""
    return torch.get_num_threads() if forks() else 1


def forks() -> bool:
    """Whether this process can be forked safely."""
    return sys.platform == "linux" and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch as it is in a lane."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def with_one_thread(_: int) -> None:
    """What a lane begins with, by its number from 0."""
    torch.set_num_threads(1)


def in_blocks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in order, in blocks of `size`; the last block may be smaller."""
    for start in range(0, len(items), max(1, size)):
        yield items[start : start + size]


@dataclass(frozen=True)
class Made:
    """The result of a piece: a value, or the last words of the work that failed."""

    value: Any = None
    failure: str = ""


class Lanes:
    """`count` lanes that do one kind of work; one alone is this process, with all its threads.

    timeout: seconds without a word after which work fails; never, if not given. A lane whose work
        goes on all the same is ended `GRACE` seconds later.
    begin: what each process does first, given the number of its lane.
    apart: whether one lane alone is a process too, where Python forks safely.
    """

    def __init__(
        self,
        work: Work,
        count: int,
        timeout: float | None = None,
        begin: Callable[[int], None] = with_one_thread,
        apart: bool = False,
    ) -> None:
        self.work, self.count, self.timeout, self.begin = work, count, timeout, begin
        self.here = count == 1 and not (apart and forks())
        self.lanes: list[Lane] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for lane in self.lanes:
            lane.end()
        self.lanes = []

    def run(
        self, pieces: Sequence[Any], watch: Callable[[int, int, int], None] = lambda *_: None
    ) -> Iterator[tuple[int, Made]]:
        """The place of each piece and what was made of it, in the order in which they are done.

        Pieces and what is made of them are pickled on their way. watch: told the place of a piece
        in work, and what the work tells of it. Work fails where it raises, exits or is silent for
        too long, and where its lane dies.
        """
        return self.done_here(pieces, watch) if self.here else self.shared(pieces, watch)

    def done_here(
        self, pieces: Sequence[Any], watch: Callable[[int, int, int], None]
    ) -> Iterator[tuple[int, Made]]:
        for place, piece in enumerate(pieces):
            yield place, made(self.work, piece, partial(watch, place), self.timeout)

    def shared(
        self, pieces: Sequence[Any], watch: Callable[[int, int, int], None]
    ) -> Iterator[tuple[int, Made]]:
        while len(self.lanes) < self.count:
            self.add()
        waiting = deque(range(len(pieces)))
        busy: dict[Lane, int] = {}
        while waiting or busy:
            for lane in [lane for lane in self.lanes if lane not in busy][: len(waiting)]:
                busy[lane] = waiting.popleft()
                lane.give(pieces[busy[lane]])
            heard = wait([lane.connection for lane in busy], self.patience(busy))
            for lane in list(busy):
                if lane.connection in heard:
                    told = lane.hear()
                elif self.timeout is not None and lane.silence > self.timeout + GRACE:
                    told = lane.give_up(self.timeout)
                else:
                    continue
                if not isinstance(told, Made):
                    watch(busy[lane], *told)
                    continue
                if lane.ended:
                    self.replace(lane)
                yield busy.pop(lane), told

    def patience(self, busy: Iterable[Lane]) -> float | None:
        """Seconds until one of them will have been silent for too long."""
        if self.timeout is None:
            return None
        return max(0.0, self.timeout + GRACE - max(lane.silence for lane in busy))

    def replace(self, ended: Lane) -> None:
        self.lanes.remove(ended)
        self.add()

    def add(self) -> None:
        inherited = [lane.connection for lane in self.lanes]
        taken = {lane.number for lane in self.lanes}
        number = next(number for number in range(self.count) if number not in taken)
        begin = partial(self.begin, number)
        self.lanes.append(Lane(number, self.work, inherited, self.timeout, begin))


class Lane:
    """A process that does one piece after the other."""

    def __init__(
        self,
        number: int,
        work: Work,
        others: Sequence[Connection],
        timeout: float | None,
        begin: Callable[[], None],
    ) -> None:
        self.number = number
        context = get_context("fork")
        self.connection, theirs = context.Pipe()
        given = (work, theirs, [self.connection, *others], timeout, begin)
        self.process = context.Process(target=serve, args=given, daemon=True)
        with forking():
            self.process.start()
        theirs.close()
        self.ended = False
        self.heard = time.monotonic()

    @property
    def silence(self) -> float:
        """Seconds since its last word."""
        return time.monotonic() - self.heard

    def give(self, piece: Any) -> None:
        self.heard = time.monotonic()
        # One that has died since its last piece is heard of next.
        with suppress(ConnectionError):
            self.connection.send(piece)

    def hear(self) -> Made | tuple[int, int]:
        """Its next word, or what became of its piece."""
        self.heard = time.monotonic()
        try:
            told: Made | tuple[int, int] = self.connection.recv()
        except (EOFError, OSError):  # it may have died within a word
            self.process.join(GRACE)
            self.end()
            return Made(failure=death(self.process.exitcode))
        return told

    def give_up(self, timeout: float) -> Made:
        self.end()
        return Made(failure=too_long(timeout))

    def end(self) -> None:
        self.ended = True
        self.process.kill()
        self.process.join()
        self.connection.close()


def death(status: int | None) -> str:
    """How the process of a lane ended, in words."""
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        why = ", most likely for want of memory" if name == "SIGKILL" else ""
        return f"its process was killed by {name}{why}"
    return f"its process ended with status {status}"


def serve(
    work: Work,
    connection: Connection,
    inherited: Sequence[Connection],
    timeout: float | None,
    begin: Callable[[], None],
) -> None:
    """The life of a lane; it ends with the process that it was forked from."""
    forked.begin()
    # Its own processes read ahead, which a daemon may not have.
    current_process().daemon = False
    # The other ends of the pipes would keep this process from seeing that one go.
    for end in inherited:
        end.close()
    begin()
    with suppress(EOFError, ConnectionError):
        while True:
            connection.send(made(work, connection.recv(), seldom(connection.send), timeout))


def seldom(tell: Callable[[tuple[int, ...]], None]) -> AfterStep:
    """Tells what it is told, but no more often than `TOLD_EVERY`."""
    told = time.monotonic()

    def watch(*words: int) -> None:
        nonlocal told
        if time.monotonic() - told > TOLD_EVERY:
            tell(words)
            told = time.monotonic()

    return watch


def made(work: Work, piece: Any, watch: Callable[..., None], timeout: float | None) -> Made:
    """What becomes of a piece in this process; its work fails where it is silent for too long."""

    def told(*words: int) -> None:
        limit.put_off()
        watch(*words)

    try:
        with TimeLimit(timeout) as limit:
            return Made(work(piece, told))
    except (Exception, SystemExit) as error:
        return Made(failure=last_words(error))
