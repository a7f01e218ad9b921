"""Counts the gradient evaluations of a run, whatever optimizers it steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

Told = Callable[[Optimizer], None]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@contextmanager
def counting(stepping: Told, evaluating: Told) -> Iterator[None]:
    """Calls functions at the steps of every optimizer within the block, also of a user's own.

    stepping: is called before each step. evaluating: is called before each call of a closure after
    the first in a step. L-BFGS calls its closure several times; each is a gradient evaluation.
    """

    def before(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        stepping(optimizer)
        first, *rest = args  # the optimizer itself
        again = partial(evaluating, optimizer)
        if rest and callable(rest[0]):
            rest[0] = counted(rest[0], again)
        if callable(kwargs.get("closure")):
            kwargs = {**kwargs, "closure": counted(kwargs["closure"], again)}
        return (first, *rest), kwargs

    handle = register_optimizer_step_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def counted(closure: Callable[[], Any], again: Callable[[], None]) -> Callable[[], Any]:
    """A closure that calls `again` before each of its calls after the first."""
    calls = 0

    def called() -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            again()
        return closure()

    return called
