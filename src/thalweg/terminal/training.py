"""Showing a training while it runs: a live bar on a terminal, and plain lines elsewhere."""

from __future__ import annotations

import time
from fractions import Fraction
from math import ceil

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from thalweg.training.progress import Silent
from thalweg.training.run import Evaluation


class Points(Silent):
    """Prints a line for each evaluation, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def began(self, metric: str, steps: int, epochs: Fraction, step: int) -> None:
        self.metric, self.steps, self.epochs = metric, steps, epochs
        self.last = step, time.monotonic()

    def evaluated(self, point: Evaluation) -> None:
        (step, then), now = self.last, time.monotonic()
        left = (now - then) / (point.step - step) * (self.steps - point.step)
        self.last = point.step, now
        self.console.print(
            f"{where(point.step, self.steps, self.epochs)}: training loss {point.train_loss:.4g}, "
            f"validation {self.metric} {point.metric:.4g}, about {left:.0f} s left",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


class Bar(Silent):
    """A live bar: epoch, training loss since the last evaluation, its metric, time left."""

    def __init__(self, console: Console) -> None:
        self.live = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            transient=True,
        )
        self.losses: list[float] = []
        self.validation = ""

    def __enter__(self) -> Bar:
        self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.live.stop()

    def began(self, metric: str, steps: int, epochs: Fraction, step: int) -> None:
        self.metric, self.steps, self.epochs = metric, steps, epochs
        self.bar = self.live.add_task("", total=steps, completed=step)

    def stepped(self, step: int, loss: float, lr: float) -> None:  # noqa: ARG002
        self.losses.append(loss)
        training = sum(self.losses) / len(self.losses)
        told = f"{where(step, self.steps, self.epochs)}: training loss {training:.4g}"
        self.live.update(self.bar, completed=step, description=told + self.validation)

    def evaluated(self, point: Evaluation) -> None:
        self.losses = []
        self.validation = f", validation {self.metric} {point.metric:.4g}"


def where(step: int, steps: int, epochs: Fraction) -> str:
    """The place of a step in the training, in words."""
    return f"epoch {ceil(step * epochs / steps)} of {ceil(epochs)}, step {step} of {steps}"
