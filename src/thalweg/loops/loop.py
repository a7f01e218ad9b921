"""A training loop of a user: a function that trains a model once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from thalweg.arguments import (
    number,
    require_function,
    require_known,
    require_list,
    require_text,
    require_whole,
    short,
)
from thalweg.errors import UserError
from thalweg.loops.counting import counting
from thalweg.loops.param import Param
from thalweg.loops.run import Given, LeftError, Run
from thalweg.random_numbers import drawing
from thalweg.recipes import AnyRecipe, recipe_of
from thalweg.stack.member import Member
from thalweg.statistics import Direction
from thalweg.training import run as training


@dataclass(frozen=True, eq=False)
class Loop:
    """A training loop that can race. `thalweg.loop` makes one of a function.

    function: trains once and returns the metric; see `thalweg.loop`. name: the name of the loop in
    commands, files and reports. metric: the name of the metric that ranks runs. direction: whether
    "min" or "max" of the metric is better. steps: the budget of a run, in gradient evaluations.
    target: the value of the metric that counts as reached. roles: the roles of optimizers that have
    a recipe of their own in a race; all other optimizers share one recipe. declared: the loop's own
    settings, if they are known without a run, as for a program.
    """

    function: Callable[[Run], Any]
    name: str
    metric: str
    direction: Direction
    steps: int
    target: float | None = None
    roles: tuple[str, ...] = ()
    declared: Mapping[str, Param] | None = None

    def __post_init__(self) -> None:
        require_function("a loop", self.function, "a function of one argument, the run")
        require_text("the name of a loop", self.name)
        require_text("metric", self.metric)
        require_known("direction", self.direction, ("min", "max"))
        require_whole("steps", self.steps, 1)
        if self.target is not None and not math.isfinite(number(self.target)):
            raise UserError(f"target must be a finite number, not {short(self.target)}.")
        roles = require_list("roles", self.roles, 'names, such as ("generator", "critic")')
        for role in roles:
            require_text("a role", role)
        object.__setattr__(self, "roles", tuple(roles))

    def run(self, recipe: AnyRecipe = "adam", seed: int = 0) -> training.Run:
        """Trains once in this process. The result has the curve, the score and any divergence.

        recipe: the recipe of `run.optimizer`, which also holds the values of `run.param`.
        """
        return self.trained(Given(recipe_of(recipe), require_whole("seed", seed, 0), self.steps))

    def score(self, seed: int, recipe: AnyRecipe = "adam") -> float:
        """The metric of one run; nan if the run diverged."""
        return self.run(recipe, seed).score

    def trained(self, given: Given) -> training.Run:
        """The result of a run with these values."""
        return self.finished(Run(self, given))

    def finished(self, run: Run) -> training.Run:
        """Runs the function to its end. All random numbers begin at the seed of the run."""
        with drawing(run.seed), counting(run.stepping, run.evaluating):
            torch.manual_seed(run.seed)  # devices that are used later begin at it too
            with suppress(LeftError):
                run.end(self.function(run))
        member = Member(run.given.recipe, run.seed)
        return training.Run(member, tuple(run.curve), run.diverged)


def loop(
    *,
    metric: str,
    direction: Direction,
    steps: int,
    target: float | None = None,
    roles: Sequence[str] = (),
    name: str | None = None,
) -> Callable[[Callable[[Run], Any]], Loop]:
    """Makes a `Loop` of a function that trains once.

        @tw.loop(metric="validation accuracy", direction="max", steps=2_000)
        def train(run):
            model = build()
            optimizer = run.optimizer(model)
            for step, (inputs, targets) in zip(run.steps(), batches()):
                optimizer.zero_grad()
                loss(model(inputs), targets).backward()
                optimizer.step()
                if step % 100 == 0:
                    run.report(evaluate(model))
            return evaluate(model)

    The function takes a `thalweg.loops.Run` and returns the metric, a number. If it returns None,
    the last reported metric counts. Make the model within the function, so that each run begins
    anew. Random numbers of torch, NumPy and Python are seeded before each call.
    `thalweg race FILE:NAME` and `thalweg.race` race optimizers on the loop;
    `train.run("adam", seed=0)` trains once.

    metric: the name of the metric that ranks runs. direction: whether "min" or "max" of the metric
    is better. steps: the budget of a run in gradient evaluations; rates are cooled over it. target:
    the value of the metric that counts as reached. roles: the roles of optimizers that have a
    recipe of their own in a race; all other optimizers share one recipe. name: the name of the
    loop; the function's name if not given.

    Raises UserError for an argument that cannot be used.
    """

    def made(function: Callable[[Run], Any]) -> Loop:
        called = getattr(function, "__name__", "loop") if name is None else name
        return Loop(function, called, metric, direction, steps, target, tuple(roles))

    return made
