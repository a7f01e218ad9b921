"""Where the seconds of training go: is it slow in steps, or slow in seconds?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Literal, TypeVar, get_args

import torch

from thalweg.errors import UserError
from thalweg.statistics import Interval, median_interval

T = TypeVar("T")
Part = Literal["data", "forward", "backward", "optimizer"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class Seconds:
    """The seconds of one step's part: their median over the steps, with its 95 % interval.

    total: of all steps. share: of the time of all parts, in [0, 1].
    """

    part: Part
    a_step: Interval
    total: float
    share: float


class Stopwatch:
    """Takes the time of the parts of a training loop.

        watch = Stopwatch()
        for inputs, targets in watch.loading(loader):
            with watch.part("forward"):
                loss = criterion(model(inputs), targets)
            with watch.part("backward"):
                loss.backward()
            with watch.part("optimizer"):
                optimizer.step()
                optimizer.zero_grad()
        print(watch.seconds())

    What runs outside these parts is not counted. Around each part a GPU is waited for, so that its
    work is counted where it was ordered; that costs the overlap of parts, so that a loop can be
    slower while it is watched. Watch some tens of steps.
    """

    def __init__(self) -> None:
        self.taken: dict[Part, list[float]] = {part: [] for part in PARTS}

    @contextmanager
    def part(self, part: Part) -> Iterator[None]:
        """Counts the block as one step's; UserError for a part that is none."""
        if part not in PARTS:
            raise UserError(f"A step has the parts {', '.join(PARTS)}, and none called {part!r}.")
        wait()
        start = perf_counter()
        yield
        wait()
        self.taken[part].append(perf_counter() - start)

    def loading(self, loader: Iterable[T]) -> Iterator[T]:
        """The loader's batches, the wait for each counted as "data"."""
        batches = iter(loader)
        while True:
            try:
                with self.part("data"):
                    batch = next(batches)
            except StopIteration:
                return
            yield batch

    def seconds(self) -> list[Seconds]:
        """What each part took, the longest first; UserError where nothing was watched."""
        totals = {part: sum(taken) for part, taken in self.taken.items() if taken}
        if not totals:
            raise UserError("Nothing was timed yet: put the parts of a step into watch.part(...).")
        told = [
            Seconds(
                part,
                median_interval(self.taken[part], "min"),
                total,
                total / sum(totals.values()),
            )
            for part, total in totals.items()
        ]
        return sorted(told, key=lambda seconds: -seconds.total)


def wait() -> None:
    """Until a GPU that is in use has done all that it was given."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
