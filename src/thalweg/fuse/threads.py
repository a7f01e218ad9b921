"""Shares the tiles of a step among threads that sleep in between."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch


def share(work: Callable[[int, int], None], pieces: Sequence[tuple[int, int]]) -> None:
    """Calls `work` with each piece, on as many threads as PyTorch uses, and ends when all are done.

    A thread takes the next piece when it has done one, so that a busy core delays only its own.
    """
    left = iter(pieces)

    def take() -> None:
        for piece in left:
            work(*piece)

    threads = min(torch.get_num_threads(), len(pieces))
    helpers = [pool().submit(take) for _ in range(threads - 1)]
    try:
        take()
    finally:
        for helper in helpers:
            # One that has not begun has nothing left to do.
            if not helper.cancel():
                helper.result()


@cache
def pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), "thalweg")


if hasattr(os, "register_at_fork"):
    # A forked process has the pool but not its threads.
    os.register_at_fork(after_in_child=pool.cache_clear)
