"""What a training tells while it runs, to whoever shows or records it."""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol, runtime_checkable

from thalweg.training.run import Point


@runtime_checkable
class Progress(Protocol):
    """Told that the training began, then its steps, and after some of these an evaluation. A
    KeyboardInterrupt out of any of these stops the training, which can go on from its last
    evaluation.
    """

    def began(self, metric: str, steps: int, epochs: Fraction, step: int) -> None:
        """A training of so many steps, which go through the training data `epochs` times, goes on
        after `step`, which is 0 for a new one. metric: the name of the ranked one.
        """

    def stepped(self, step: int, loss: float, lr: float) -> None:
        """A step was taken at this rate, from a point of this training loss."""

    def evaluated(self, point: Point) -> None:
        """After the step before this."""


class Together:
    """Tells several."""

    def __init__(self, *told: Progress) -> None:
        self.told = told

    def began(self, metric: str, steps: int, epochs: Fraction, step: int) -> None:
        for one in self.told:
            one.began(metric, steps, epochs, step)

    def stepped(self, step: int, loss: float, lr: float) -> None:
        for one in self.told:
            one.stepped(step, loss, lr)

    def evaluated(self, point: Point) -> None:
        for one in self.told:
            one.evaluated(point)


class Silent:
    """Shows nothing."""

    def began(self, metric: str, steps: int, epochs: Fraction, step: int) -> None: ...

    def stepped(self, step: int, loss: float, lr: float) -> None: ...

    def evaluated(self, point: Point) -> None: ...
