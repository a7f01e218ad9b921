"""The seconds that the parts of a training step take."""

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

    total: the seconds of this part over all steps. share: the total over the time of all parts, in
    [0, 1].
    """

    part: Part
    a_step: Interval
    total: float
    share: float


class Stopwatch:
    """Measures the time of the parts of a training loop.

        stopwatch = Stopwatch()
        for inputs, targets in stopwatch.loading(loader):
            with stopwatch.part("forward"):
                loss = criterion(model(inputs), targets)
            with stopwatch.part("backward"):
                loss.backward()
            with stopwatch.part("optimizer"):
                optimizer.step()
                optimizer.zero_grad()
        print(stopwatch.seconds())

    Time outside these parts is not counted. The stopwatch waits for a GPU before and after each
    part, so that the work of the GPU is counted in the part that started it. Parts cannot overlap
    then, and the loop can be slower: time only some tens of steps.
    """

    def __init__(self) -> None:
        self.taken: dict[Part, list[float]] = {part: [] for part in PARTS}

    @contextmanager
    def part(self, part: Part) -> Iterator[None]:
        """Times the block as this part of one step. Raises UserError for an unknown part."""
        if part not in PARTS:
            raise UserError(f"A step has the parts {', '.join(PARTS)}, and none called {part!r}.")
        wait()
        start = perf_counter()
        yield
        wait()
        self.taken[part].append(perf_counter() - start)

    def loading(self, loader: Iterable[T]) -> Iterator[T]:
        """Hands out the loader's batches, and counts the wait for each as "data"."""
        batches = iter(loader)
        while True:
            try:
                with self.part("data"):
                    batch = next(batches)
            except StopIteration:
                return
            yield batch

    def seconds(self) -> list[Seconds]:
        """The seconds of each part, the longest first. Raises UserError where nothing was timed."""
        totals = {part: sum(taken) for part, taken in self.taken.items() if taken}
        if not totals:
            raise UserError(
                "Nothing was timed yet: put each part of a step into `with stopwatch.part(...)`."
            )
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
    """Waits until a GPU that is in use has finished its work."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
