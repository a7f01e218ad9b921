"""Processes that are forked from this one and begin with all of its memory."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.connection import wait
from threading import Thread


@contextmanager
def forking() -> Iterator[None]:
    """The block in which processes are forked.

    Ctrl-C waits for the end of the block, because a fork must not be interrupted while it handles
    locks. The forked processes ignore Ctrl-C.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with warnings.catch_warnings():
            # Python warns of forks in processes with threads; `begin` drops what threads may hold.
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin() -> None:
    """Must be called first in a forked process, which then ends when its parent process ends."""
    Thread(target=leave_with_parent, daemon=True).start()
    # What another thread may have held when this process was forked: the lock of a live display
    # that stands before the standard streams, and the compiler's pool, whose threads are not here.
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    if compiler := sys.modules.get("torch._inductor.async_compile"):
        compiler.AsyncCompile.pool.cache_clear()


def leave_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
