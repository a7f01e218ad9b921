"""Counts the gradient evaluations of a run, whatever optimizers it steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

if TYPE_CHECKING:
    from thalweg.loops.run import Run

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@contextmanager
def counting(run: Run) -> Iterator[None]:
    """Within, the run is told of each step of every optimizer, and of each call of its closure.

    L-BFGS calls its closure several times in a step: each is a gradient evaluation.
    """

    def before(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        run.stepping(optimizer)
        first, *rest = args  # the optimizer itself
        if rest and callable(rest[0]):
            rest[0] = counted(run, optimizer, rest[0])
        if callable(kwargs.get("closure")):
            kwargs = {**kwargs, "closure": counted(run, optimizer, kwargs["closure"])}
        return (first, *rest), kwargs

    handle = register_optimizer_step_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def counted(run: Run, optimizer: Optimizer, closure: Callable[[], Any]) -> Callable[[], Any]:
    """The closure, of which every call but a step's first is told to the run."""
    calls = 0

    def called() -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            run.evaluating(optimizer)
        return closure()

    return called
