"""Tries a loop for a few steps before a race, and says what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from types import CodeType, FunctionType

import torch
from torch.optim import Optimizer

from thalweg.checksum import checksum
from thalweg.errors import UserError
from thalweg.loops.loop import Loop
from thalweg.loops.param import Param
from thalweg.loops.run import Given, LeftError, Run
from thalweg.recipe import Recipe
from thalweg.routes import Parameter
from thalweg.schedules import Plateau
from thalweg.tasks.check import require_direction
from thalweg.tasks.reachable import is_own, reachable
from thalweg.tasks.user_code import memory

STEPS = 3
"""The number of steps of a trial."""


@dataclass(frozen=True)
class Trial:
    """What a trial has shown about a loop.

    params: the settings of the loop. parameters: the parameters of its optimizers. start: the
    seconds of a run without its steps. step: the seconds of one step. agrees: whether two runs with
    one seed give the same result. on_gpu: whether the loop uses a GPU.
    """

    params: dict[str, Param]
    parameters: tuple[Parameter, ...] = ()
    start: float = math.nan
    step: float = math.nan
    agrees: bool = True
    on_gpu: bool = False


class Tried(Run):
    """A run that ends after a few steps, and measures their times."""

    def __init__(self, loop: Loop, recipe: Recipe, steps: int, told: Callable[..., None]) -> None:
        super().__init__(loop, Given(recipe, 0, steps, watch=told))
        self.began = perf_counter()
        self.times: dict[int, float] = {}

    def stepping(self, optimizer: Optimizer) -> None:
        """Also ends a loop that does not use `steps()`."""
        if self.step >= self.budget and not self.rounds:
            raise LeftError
        super().stepping(optimizer)
        self.times.setdefault(self.step, perf_counter())

    def seconds(self) -> tuple[float, float]:
        """The seconds without the steps, and the seconds of one step."""
        whole, marks = perf_counter() - self.began, sorted(self.times.items())
        if len(marks) < 2:
            return whole, 0.0
        (first, then), *_, (last, now) = marks
        step = (now - then) / (last - first)
        return max(0.0, whole - step * last), step


def tried(loop: Loop, recipe: Recipe, told: Callable[..., None]) -> Trial:
    """Runs a loop twice with one seed, for a few steps.

    told: is called at each step.
    Raises UserError for a loop that makes no optimizer by the recipe, shares parameters between
    runs, diverges at once, or gives no metric. Errors of the loop itself are not caught.
    """
    steps = min(STEPS, loop.steps)
    first = Tried(loop, recipe, steps, told)
    score = loop.finished(first).score
    require_optimizer(first)
    require_finite(first)
    second = Tried(loop, recipe, steps, told)
    again = loop.finished(second).score
    start, step = second.seconds()
    require_own_model(first, second)
    return Trial(
        params=first.params,
        parameters=tuple(first.parameters()),
        start=start,
        step=step,
        agrees=seen(first, score) == seen(second, again),
        on_gpu=torch.cuda.is_initialized(),  # type: ignore[no-untyped-call]
    )


def require_optimizer(run: Run) -> None:
    """UserError for a loop in which all entrants would train alike."""
    if not run.optimizers:
        raise UserError(
            f"loop '{run.loop.name}' never calls run.optimizer, so every entrant would train alike:"
            " write optimizer = run.optimizer(model) where it makes its own."
        )
    missing = set(run.loop.roles) - run.optimizers.keys()
    if missing:
        raise UserError(
            f"loop '{run.loop.name}' has the role {sorted(missing)[0]}, of which it makes no"
            " optimizer: write run.optimizer(params, role=...), or leave the role out."
        )


def require_finite(run: Run) -> None:
    if run.diverged:
        raise UserError(
            f"loop '{run.loop.name}' diverges at once: {run.diverged.reason} after"
            f" {run.diverged.step} steps with {run.given.recipe.name}."
        )


def require_own_model(first: Run, second: Run) -> None:
    """UserError if two runs train the same parameter."""
    held = {memory(param) for one in first.all_optimizers for param in one.parameters()}
    if any(memory(param) in held for one in second.all_optimizers for param in one.parameters()):
        raise UserError(
            f"loop '{first.loop.name}' trains the same model in every run, so that each would begin"
            " where another one ended: make the model within the function."
        )


def seen(run: Run, score: float) -> str:
    """A checksum of the result of a run."""
    params = [param for one in run.all_optimizers for param in one.parameters()]
    return checksum([*params, *(repr(point.metric) for point in run.curve), repr(score)])


def check_recipe(loop: Loop, recipe: Recipe) -> None:
    """UserError for a recipe whose schedule watches a metric that the loop does not report."""
    require_direction(recipe, loop.direction, loop.metric, f"loop '{loop.name}'")
    watching = [n for n, one in recipe.settings.items() if isinstance(one, Plateau)]
    if watching and not reports(loop):
        raise UserError(
            f"{watching[0]} of recipe {recipe.name} follows a plateau of a metric, and loop"
            f" '{loop.name}' reports none while it trains: call run.report(metric) now and then, or"
            " give another schedule."
        )


def reports(loop: Loop) -> bool:
    """Whether the code of the loop calls `report`."""
    return "report" in names_in(loop)


def evaluates_aside(loop: Loop) -> bool:
    """Whether the code of the loop uses `evaluation`, as averages and look-ahead rules need."""
    return "evaluation" in names_in(loop)


def names_in(loop: Loop) -> set[str]:
    """The names in the code of a loop, and in the user's functions that it calls."""
    functions = [x for _, x in reachable(loop.function, "") if isinstance(x, FunctionType)]
    return set().union(*(names(one.__code__) for one in functions if is_own(one)))


def names(code: CodeType) -> set[str]:
    """The names in a piece of code, and in the functions that it defines."""
    inner: Sequence[CodeType] = [x for x in code.co_consts if isinstance(x, CodeType)]
    return set(code.co_names).union(*map(names, inner))
