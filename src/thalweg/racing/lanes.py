"""Lanes: processes of one thread each that train blocks of members side by side.

They are forked, so that each begins with the task, its data and all that was compiled, and live as
long as the race. Where Python does not fork safely there is one lane: this process.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import current_process, get_context
from multiprocessing.connection import Connection, wait
from typing import Any, Self

import torch

from thalweg.errors import UserError
from thalweg.forked import begin, forking
from thalweg.training.learn import Watch

Work = Callable[[Any, Watch], Any]
"""`work(piece, watch)`: what a lane does with a piece, telling how far it is."""

ATTEMPTS = 3
"""So many lanes may die over one piece."""

TOLD_EVERY = 0.25
"""Seconds between a lane's words on how far it is."""


def most_lanes() -> int:
    """How many lanes this process can have: as many as PyTorch has threads, or one."""
    forks = sys.platform == "linux" and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.get_num_threads() if forks else 1


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch as it is in a lane."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Lanes:
    """`count` lanes that do one kind of work; one alone is this process, with all its threads."""

    def __init__(self, work: Work, count: int) -> None:
        self.work, self.count = work, count
        self.lanes: list[Lane] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for lane in self.lanes:
            lane.end()
        self.lanes = []

    def run(
        self, pieces: Sequence[Any], watch: Callable[[int, int, int], None] = lambda *_: None
    ) -> Iterator[tuple[int, Any]]:
        """The place of each piece and what was made of it, in the order in which they are done.

        Pieces and what is made of them are pickled on their way. watch: told the place of a piece
        in work, and what the work tells of it. What a lane raises is raised here. A lane that dies
        is replaced, and its piece repeated; UserError when one piece costs `ATTEMPTS` lanes.
        """
        if self.count == 1:
            for place, piece in enumerate(pieces):
                yield place, self.work(piece, lambda *told, place=place: watch(place, *told))
            return
        while len(self.lanes) < self.count:
            self.add()
        waiting = deque(range(len(pieces)))
        busy: dict[Lane, int] = {}
        deaths: Counter[int] = Counter()
        while waiting or busy:
            for lane in [lane for lane in self.lanes if lane not in busy][: len(waiting)]:
                busy[lane] = waiting.popleft()
                # A lane that has died since its last piece is heard of below.
                with suppress(ConnectionError):
                    lane.connection.send(pieces[busy[lane]])
            heard = wait([lane.connection for lane in busy])
            for lane in [lane for lane in busy if lane.connection in heard]:
                try:
                    told = lane.connection.recv()
                except (EOFError, OSError):  # it may have died within a word
                    place = busy.pop(lane)
                    deaths[place] += 1
                    require_hope(deaths[place])
                    waiting.appendleft(place)
                    self.replace(lane)
                    continue
                if isinstance(told, Made):
                    yield busy.pop(lane), told.result()
                else:
                    watch(busy[lane], *told)

    def replace(self, dead: Lane) -> None:
        dead.end()
        self.lanes.remove(dead)
        self.add()

    def add(self) -> None:
        self.lanes.append(Lane(self.work, [lane.connection for lane in self.lanes]))


class Lane:
    """A process that does one piece after the other."""

    def __init__(self, work: Work, others: Sequence[Connection]) -> None:
        context = get_context("fork")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=serve, args=(work, theirs, [self.connection, *others]), daemon=True
        )
        with forking():
            self.process.start()
        theirs.close()

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class Made:
    """What became of a piece."""

    def __init__(self, value: Any, error: Exception | None = None) -> None:
        self.value, self.error = value, error

    def result(self) -> Any:
        if self.error:
            raise self.error
        return self.value


def serve(work: Work, connection: Connection, inherited: Sequence[Connection]) -> None:
    """The life of a lane; it ends with the process that it was forked from."""
    begin()
    # Its own processes read ahead, which a daemon may not have.
    current_process().daemon = False
    # The other ends of the pipes would keep this process from seeing that one go.
    for end in inherited:
        end.close()
    torch.set_num_threads(1)
    with suppress(EOFError, ConnectionError):
        while True:
            connection.send(made(work, connection.recv(), connection))


def made(work: Work, piece: Any, connection: Connection) -> Made:
    told = time.monotonic()

    def watch(*words: int) -> None:
        nonlocal told
        if time.monotonic() - told > TOLD_EVERY:
            connection.send(words)
            told = time.monotonic()

    try:
        return Made(work(piece, watch))
    except (UserError, ConnectionError) as error:
        return Made(None, error)
    except Exception:
        return Made(None, RuntimeError(f"a lane failed:\n{traceback.format_exc()}"))


def require_hope(deaths: int) -> None:
    if deaths == ATTEMPTS:
        raise UserError(
            f"{deaths} processes died one after the other over the same block, most likely for want"
            " of memory: give a smaller --width, or --step single."
        )
