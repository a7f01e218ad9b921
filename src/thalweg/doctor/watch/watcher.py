"""Watching a training loop: when each instrument is read, and whether the budget allows it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from statistics import median
from time import perf_counter
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.utils.hooks import RemovableHandle

from thalweg.arguments import require_function, require_kind, require_whole, short
from thalweg.doctor.objective.objective import Objective, samples_in
from thalweg.doctor.readings.step import StepWatch
from thalweg.doctor.watch.budget import Budget
from thalweg.doctor.watch.history import RECENT, Case, History, mark_after
from thalweg.doctor.watch.instruments import INSTRUMENTS
from thalweg.doctor.watch.stopwatch import Part, Stopwatch, wait
from thalweg.errors import UserError
from thalweg.recipe import Recipe
from thalweg.tasks.forms import Batch, copied
from thalweg.tasks.task import Score

NORMS = 1 / 3
"""The part of the budget that the norms of gradients may take."""


class Watcher:
    """Watches a training; `Doctor` says how it is used.

    mark: the next step at which all instruments are read. owed: the instruments that were due, but
    did not fit into the budget yet. looking: whether the doctor itself runs the model. opened: the
    seconds that the measurement along a step took before the step.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Score,
        optimizer: torch.optim.Optimizer,
        *,
        every: int = 10,
        budget: float | None = 0.15,
    ) -> None:
        require_kind("the model", model, nn.Module, "a torch.nn.Module")
        require_function("the loss", loss, "a function of (outputs, targets)")
        require_kind("the optimizer", optimizer, torch.optim.Optimizer, "a torch.optim.Optimizer")
        every = require_whole("every", every, 1)
        self.model, self.loss, self.optimizer, self.every = model, loss, optimizer, every
        self.budget = Budget(budget)
        self.history = History()
        self.watch = StepWatch(model, loss)
        self.along = ExitStack()
        self.stopwatch = Stopwatch()
        self.clock = perf_counter()
        self.mark = 0
        self.owed: list[str] = []
        self.looking = False
        self.opened = 0.0
        self.around_forward: list[RemovableHandle] = []
        self.around_step = [
            optimizer.register_step_pre_hook(lambda *_: self.before_step()),
            optimizer.register_step_post_hook(lambda *_: self.after_step()),
        ]
        self.hook_forward()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes the hooks from the model and the optimizer, and keeps the history."""
        self.budget.end()
        for hook in (*self.around_forward, *self.around_step):
            hook.remove()

    def loading(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Hands out the loader's batches, and keeps the last ones for the instruments."""
        try:
            batches = iter(loader)
        except TypeError:
            raise UserError(
                f"a loader must give batches one by one, and {short(loader)} does not."
            ) from None
        while True:
            self.begin()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.end("data")
            self.history.batches.append(copied(batch))
            yield batch

    def case(self, recipe: Recipe | None, steps: int, diverged: str) -> Case:
        """What criteria judge by."""
        size = samples_in(self.batches(1)[0])
        timed = any(self.stopwatch.taken.values())
        seconds = tuple(self.stopwatch.seconds()) if timed else ()
        return Case(
            history=self.history,
            recipe=recipe,
            steps=steps,
            batch_size=size,
            diverged=diverged,
            seconds=seconds,
        )

    @property
    def step(self) -> int:
        return self.history.length

    @property
    def timed(self) -> bool:
        """Whether the coming step is timed.

        Only some steps are. In the others, training does not wait for a GPU, and the model has no
        hooks. Hooks cost a small model a thirtieth of its time.
        """
        return not self.looking and self.step % self.every == 1 % self.every

    def hook_forward(self) -> None:
        """Adds hooks to the model for a step that is timed, and removes them for other steps."""
        if self.timed and not self.around_forward:
            self.around_forward = [
                self.model.register_forward_pre_hook(lambda *_: self.begin()),
                self.model.register_forward_hook(lambda *_: self.end("forward")),
            ]
        elif not self.timed:
            while self.around_forward:
                self.around_forward.pop().remove()

    def begin(self) -> None:
        if self.timed:
            wait()
            self.clock = perf_counter()

    def end(self, part: Part) -> None:
        if self.timed:
            wait()
            now = perf_counter()
            self.stopwatch.taken[part].append(now - self.clock)
            self.clock = now

    def gradient_seconds(self) -> float:
        """The median seconds of a gradient evaluation; infinite until one was timed."""
        parts = [self.stopwatch.taken[part][-RECENT:] for part in ("forward", "backward")]
        return sum(map(median, parts)) if all(parts) else math.inf

    def before_step(self) -> None:
        self.end("backward")
        self.looking = True
        start = perf_counter()
        if self.budget.allows("gradient norm", 0.0, NORMS):
            self.history.norms[self.step] = self.gradient_norm()
            self.budget.spend("gradient norm", perf_counter() - start)
        marked, due = self.step == self.mark, self.step % self.every == 0
        if marked:
            self.owed, self.mark = list(INSTRUMENTS), mark_after(self.step)
        if marked or due:
            self.measure_owed()
        if due:
            self.look_along()
        self.looking = False
        self.begin()

    def measure_owed(self) -> None:
        """Reads those of the owed instruments that the budget allows."""
        gradient = self.gradient_seconds()
        for name in list(self.owed):
            if self.budget.allows(name, INSTRUMENTS[name].gradients * gradient):
                self.owed.remove(name)
                with self.budget.spending(name):
                    self.measure(name)

    def look_along(self) -> None:
        """Begins to measure the loss along the coming step."""
        if self.budget.allows("step", 2 * self.gradient_seconds()):
            start = perf_counter()
            self.along.enter_context(self.watch.looking(self.batches(1)[0]))
            self.opened = perf_counter() - start

    def after_step(self) -> None:
        self.end("optimizer")
        start = perf_counter()
        if self.opened:
            self.looking = True
            self.along.close()
            self.looking = False
            self.history.steps[self.step] = self.watch.seen[-1]
            self.budget.spend("step", self.opened + perf_counter() - start)
            self.opened = 0.0
        self.history.length += 1
        self.hook_forward()

    @np.errstate(all="ignore")
    def measure(self, name: str) -> None:
        """Reads an instrument, or keeps the reason why it cannot be read."""
        instrument = INSTRUMENTS[name]
        try:
            objective = Objective(self.model, self.loss, self.batches(instrument.batches))
            reading = instrument.measure(objective, self.optimizer)
        except Exception as error:  # an error of an instrument must not stop the training
            self.history.refusals[name] = described(error)
        else:
            self.history.keep(reading)
            self.history.refusals.pop(name, None)

    def batches(self, most: int) -> list[Batch]:
        """The last batches of the loop, at most this number."""
        if not self.history.batches:
            raise UserError(
                "The doctor has seen no batch: write `for batch in doctor.loading(loader)`."
            )
        return list(self.history.batches)[-most:]

    def gradient_norm(self) -> Tensor:
        groups = self.optimizer.param_groups
        held = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        return get_total_norm([grad.to_dense() for grad in held])


def described(error: Exception) -> str:
    """An error in one line, which begins with the error's type unless it is a UserError."""
    line = str(error).split("\n")[0]
    return line if isinstance(error, UserError) else f"{type(error).__name__}: {line}"
