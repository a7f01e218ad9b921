"""Progress: an object that is told what happens in a training while it runs."""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol, runtime_checkable

from thalweg.training.run import Evaluation


@runtime_checkable
class Progress(Protocol):
    """An object that is told when a training begins, and of its steps and evaluations.

    A KeyboardInterrupt in one of its methods stops the training, which can go on from its last
    evaluation.
    """

    def began(self, metric: str, steps: int, epochs: Fraction, step: int) -> None:
        """A training begins, or goes on.

        metric: the name of the task's metric. steps: the steps of the whole training. epochs: how
        often they go through the training data. step: the last finished step, 0 at the beginning.
        """

    def stepped(self, step: int, loss: float, lr: float) -> None:
        """A step was taken. loss: the training loss before it. lr: its learning rate."""

    def evaluated(self, point: Evaluation) -> None:
        """An evaluation was made after the last step."""


class Together:
    """Passes everything on to several such objects."""

    def __init__(self, *told: Progress) -> None:
        self.told = told

    def began(self, metric: str, steps: int, epochs: Fraction, step: int) -> None:
        for one in self.told:
            one.began(metric, steps, epochs, step)

    def stepped(self, step: int, loss: float, lr: float) -> None:
        for one in self.told:
            one.stepped(step, loss, lr)

    def evaluated(self, point: Evaluation) -> None:
        for one in self.told:
            one.evaluated(point)


class Silent:
    """Ignores everything."""

    def began(self, metric: str, steps: int, epochs: Fraction, step: int) -> None: ...

    def stepped(self, step: int, loss: float, lr: float) -> None: ...

    def evaluated(self, point: Evaluation) -> None: ...
