"""Shares the tiles of a step among threads that sleep between the steps.

Python's own thread pools refuse work while the interpreter shuts down, so that a step would fail.
They also keep work for which they could not start a thread, so that a step would return too early.
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
    """Calls `work` with each piece, on as many threads as PyTorch uses; returns when all are done.

    A thread takes the next piece when it has finished one, so that a busy core does fewer pieces.
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
    """Waits until no helper works: a helper writes to memory that may be freed afterwards.

    It also waits after a Ctrl-C, or any other error that a signal handler raises, and raises it
    then.
    """
    try:
        for helper in helpers:
            if not helper.cancel():  # a helper that has not begun is cancelled
                helper.exception()
    except BaseException:
        wait_for(helpers)
        raise


@cache
def jobs() -> SimpleQueue[Job]:
    """The queue at which threads wait for work.

    There is a thread for each core, or fewer where the system cannot start more.
    """
    waiting: SimpleQueue[Job] = SimpleQueue()
    with suppress(RuntimeError):
        for _ in range(os.cpu_count() or 1):
            Thread(target=serve, args=[waiting], name="thalweg", daemon=True).start()
    return waiting


def serve(waiting: SimpleQueue[Job]) -> None:
    """Takes work from the queue and does it, until the process ends."""
    while True:
        future, work = waiting.get()
        if future.set_running_or_notify_cancel():
            try:
                work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)
        del future, work  # frees what they hold before the thread waits again


if hasattr(os, "register_at_fork"):
    # A forked process has the queue but not the threads.
    os.register_at_fork(after_in_child=jobs.cache_clear)
