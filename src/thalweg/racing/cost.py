"""What a race will cost and what it will be able to see, told before it starts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn

from thalweg import statistics
from thalweg.doctor.watch.stopwatch import wait
from thalweg.errors import UserError
from thalweg.lanes.time_limit import TimeLimit
from thalweg.optim.foreign import stepper_of
from thalweg.optim.stepper import Stepper
from thalweg.racing.record import Cost, Settings
from thalweg.random_numbers import drawing
from thalweg.recipe import Recipe
from thalweg.stack.batches import fetch, training_order
from thalweg.stack.member import Member
from thalweg.stack.population import initial_model
from thalweg.stack.way import Way, first, populate
from thalweg.statistics import median_interval
from thalweg.tasks.task import Task
from thalweg.tasks.user_code import failure_in_training
from thalweg.training.learn import AfterStep, scores

WARM_UP, TIMED = 3, 15
"""Lone steps of each entrant before the clock starts, and those that it times."""

ENOUGH_SECONDS, FEWEST = 2.0, 6
"""After so long for each entrant so many timed steps have to do: fewer have no interval."""

BLOCK_STEPS = 3
"""Steps of a block that are timed."""


@dataclass(frozen=True)
class Pace:
    """Seconds that a block takes: until its first step, for a step, and for an evaluation."""

    start: float
    step: float
    evaluation: float

    def block(self, task: Task, steps: int) -> float:
        """Through a budget of so many steps of the task."""
        return self.start + steps * self.step + min(steps, task.evaluations) * self.evaluation

    @property
    def measuring(self) -> float:
        """What it takes to find this out; evaluations that do not count are of few samples."""
        return self.start + (1 + BLOCK_STEPS) * self.step + self.evaluation


def pace(task: Task, members: Sequence[Member], width: int, way: Way, watch: AfterStep) -> Pace:
    """How fast a block of these members is trained; `watch` is told of each step.

    A few steps are timed and an evaluation, each after a first one, so that what only the first
    block of a race has to wait for is not counted for all.
    """
    with failure_in_training(task), drawing(members[0].seed):
        began = perf_counter()
        population = populate(task, members, width, way)
        start = perf_counter() - began

        def evaluate() -> None:
            scores(population, task.splits.validation)
            watch(population.steps, len(members))

        def step() -> None:
            population.step()
            watch(population.steps, len(members))

        step()
        if way == "compiled":
            # For both lengths; the scores of the test data are thrown away.
            evaluate()
            scores(population, task.splits.test)
        else:
            list(population.outputs(first(task.splits.validation)))
        a_step = median_seconds(step, BLOCK_STEPS)
        return Pace(start, a_step, median_seconds(evaluate))


def median_seconds(function: Callable[[], object], times: int = 1) -> float:
    seconds = []
    for _ in range(times):
        began = perf_counter()
        function()
        seconds.append(perf_counter() - began)
    return median(seconds)


def costs(task: Task, recipes: Mapping[str, Recipe], timeout: float | None) -> list[Cost]:
    """What entrants cost with these recipes, alone, in their drop-in form. See `Cost`.

    One whose step fails, or takes longer than `timeout` seconds, is left out.
    """
    return [
        cost(name, optimizer.cost.numbers, own)
        for name, (optimizer, own) in lone_steps(task, recipes, timeout).items()
    ]


def cost(entrant: str, memory: float, taken: Sequence[tuple[float, float]]) -> Cost:
    found = median_interval([whole for whole, _ in taken], "min")
    own = median(within for _, within in taken)
    return Cost(entrant, found.estimate, found.low, found.high, own, memory)


def lone_steps(
    task: Task, recipes: Mapping[str, Recipe], timeout: float | None
) -> dict[str, tuple[Stepper, list[tuple[float, float]]]]:
    """By entrant, its optimizer, and the seconds of training steps and of those within its `step`.

    All take turns, in another order each round, so that a busy moment of the machine meets them
    alike. They step one model from the same weights.
    """
    with drawing(0):
        with failure_in_training(task), TimeLimit(timeout):
            model = initial_model(task, seed=0).train()
        # What is expanded cannot be written to, by training neither.
        tensors = [*model.parameters(), *(x for x in model.buffers() if x.is_contiguous())]
        start = [tensor.detach().clone() for tensor in tensors]
        optimizers: dict[str, Stepper] = {}
        for name, one in recipes.items():
            with suppress(UserError):  # its trainings tell why it cannot be
                optimizers[name] = stepper_of(model, one)
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in optimizers}
        turns = random.Random(0)
        began = perf_counter()
        for rounds, indices in enumerate(training_order(task, seed=0)):
            late = perf_counter() - began > ENOUGH_SECONDS * len(taken)
            if rounds == WARM_UP + TIMED or (late and rounds >= WARM_UP + FEWEST):
                break
            for name in turns.sample(list(taken), len(taken)):
                set_to(start, tensors)
                try:
                    with failure_in_training(task), TimeLimit(timeout):
                        taken[name].append(lone_step(task, model, optimizers[name], indices))
                except Exception:  # of one that fails, nothing is known
                    del taken[name]
        return {name: (optimizers[name], own[WARM_UP:]) for name, own in taken.items()}


@torch.no_grad()
def set_to(values: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    for value, tensor in zip(values, tensors, strict=True):
        tensor.copy_(value)


def lone_step(
    task: Task, model: nn.Module, optimizer: Stepper, indices: Tensor
) -> tuple[float, float]:
    """The seconds of one training step, and of that within `optimizer.step`."""
    wait()
    start = perf_counter()
    *inputs, targets = fetch(task.splits.train, indices)

    def closure() -> float:
        model.zero_grad()
        loss = task.loss(model(*inputs), targets)
        torch.autograd.backward(loss)
        return loss.item()

    if not optimizer.needs_closure:
        closure()
    wait()
    before_step = perf_counter()
    if optimizer.needs_closure:
        optimizer.step(closure)
    else:
        optimizer.step()
    wait()
    end = perf_counter()
    return end - start, end - before_step


def announcement(seconds: float) -> str:
    """The line that says how long the race will take."""
    return (
        f"The race takes about {duration(seconds)} at most; less where entrants leave the shortlist"
        " early."
    )


def outlook(settings: Settings) -> str:
    """The line that says which margin the race can see, or the question that it could answer."""
    rivals, seeds, alpha = len(settings.entrants), settings.seeds, settings.alpha
    margin = statistics.visible_margin(seeds, rivals, alpha)
    if math.isfinite(margin):
        return (
            f"With {seeds} seeds it can tell {rivals} entrants apart by"
            f" {margin:.2g} standard deviations of the difference between two on one seed."
        )
    needed = next(
        n
        for n in range(seeds, 10_000)
        if math.isfinite(statistics.visible_margin(n, rivals, alpha))
    )
    return (
        f"With {seeds} seeds no lead among {rivals} entrants can be told from chance, however large"
        f" it is: give {needed} seeds or more{smaller_question(settings)}."
    )


def smaller_question(settings: Settings) -> str:
    """Fewer entrants that these seeds can tell apart, where there are any."""
    for fewer in range(min(3, len(settings.entrants) - 1), 1, -1):
        margin = statistics.visible_margin(settings.seeds, fewer, settings.alpha)
        if math.isfinite(margin):
            others = "the baseline against" if settings.baseline else "one against"
            return f", or a smaller question, {others} {('one', 'two')[fewer - 2]}"
    return ""


def duration(seconds: float) -> str:
    """Seconds in words: 40 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
