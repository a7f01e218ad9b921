"""Shares the tiles of a step among threads that sleep in between.

Python's own pools refuse work while the interpreter ends, and keep work that no thread could be
started for: a step would fail, or be done in part when it returns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import cache
from queue import SimpleQueue
from threading import Thread

import torch

Job = tuple["Future[None]", Callable[[], None]]


def share(work: Callable[[int, int], None], pieces: Sequence[tuple[int, int]]) -> None:
    """Calls `work` with each piece, on as many threads as PyTorch uses, and ends when all are done.

    A thread takes the next piece when it has done one, so that a busy core delays only its own.
    """
    left = iter(pieces)

    def take() -> None:
        for piece in left:
            work(*piece)

    threads = min(torch.get_num_threads(), len(pieces))
    helpers: list[Future[None]] = [Future() for _ in range(threads - 1)]
    try:
        for helper in helpers:
            jobs().put((helper, take))
        take()
    finally:
        wait_for(helpers)
    for helper in helpers:
        if not helper.cancelled():
            helper.result()


def wait_for(helpers: Sequence[Future[None]]) -> None:
    """Waits until no helper works, since they write to memory.

    So it does through a Ctrl-C, and through whatever else the handler of a signal raises.
    """
    try:
        for helper in helpers:
            if not helper.cancel():  # one that has not begun has nothing left to do
                helper.exception()
    except BaseException:
        wait_for(helpers)
        raise


@cache
def jobs() -> SimpleQueue[Job]:
    """Where threads wait for work: one for each core, or fewer where the system has no more."""
    waiting: SimpleQueue[Job] = SimpleQueue()
    with suppress(RuntimeError):
        for _ in range(os.cpu_count() or 1):
            Thread(target=serve, args=[waiting], name="thalweg", daemon=True).start()
    return waiting


def serve(waiting: SimpleQueue[Job]) -> None:
    """Does the work that comes, for as long as the process lives."""
    while True:
        future, work = waiting.get()
        if future.set_running_or_notify_cancel():
            try:
                work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)
        del future, work  # what they hold is not to live until the next comes


if hasattr(os, "register_at_fork"):
    # A forked process has the queue but not the threads.
    os.register_at_fork(after_in_child=jobs.cache_clear)
