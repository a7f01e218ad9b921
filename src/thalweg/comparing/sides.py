"""The sides of a comparison. A side runs with a seed and gives a score."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from inspect import isfunction, signature
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from thalweg.arguments import short, word
from thalweg.checksum import checksum
from thalweg.command import Command
from thalweg.errors import UserError
from thalweg.lanes.lanes import Work
from thalweg.random_numbers import drawing
from thalweg.recipes import Recipe
from thalweg.stack.member import Member
from thalweg.stack.way import way_of
from thalweg.statistics import Direction
from thalweg.tasks.check import check, check_recipe
from thalweg.tasks.code_of import code_of
from thalweg.tasks.find import find
from thalweg.tasks.groups import with_groups
from thalweg.tasks.task import Task
from thalweg.tasks.user_code import is_number
from thalweg.training.fingerprint import fingerprint, of_own_rules
from thalweg.training.learn import AfterStep
from thalweg.training.run import Run
from thalweg.training.train import train_members
from thalweg.user_file import load

STACKED = 32
"""Runs of a task that are trained at once."""


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    score: not finite for a run that diverged or failed. curve: the metric by step, if the run
    reports it. reason: the last words of a run that failed.
    """

    score: float
    curve: tuple[tuple[int, float], ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class About:
    """What is known about a side before it runs.

    metric, direction: the metric of its scores. width: the number of runs that are best made at
    once. traits: plain data that changes if the side changes; the keys are words for the change.
    """

    metric: str
    direction: Direction
    width: int = 1
    traits: Mapping[str, Any] = field(default_factory=dict)


class Side(Protocol):
    """One side of a comparison. It is loaded and runs in a process of its own."""

    @property
    def name(self) -> str: ...

    def about(self) -> About:
        """What is known about the side. Raises UserError if it cannot run."""

    def outcomes(self, seeds: Sequence[int], watch: AfterStep) -> list[Outcome]:
        """The results of runs with these seeds."""


def work_of(side: Side) -> Work:
    """The work of a lane for a side. It runs the side, or without seeds, describes it."""

    def work(seeds: Sequence[int] | None, watch: AfterStep) -> About | list[Outcome]:
        return side.about() if seeds is None else side.outcomes(seeds, watch)

    return work


@dataclass(frozen=True)
class Scored:
    """A function that takes a seed and returns a score. All random numbers follow from the seed."""

    name: str
    score: Callable[[int], Any]
    metric: str
    direction: Direction

    def about(self) -> About:
        return About(
            self.metric, self.direction, traits={f"other code of {self.name}": code_of(self.score)}
        )

    def outcomes(self, seeds: Sequence[int], _: AfterStep) -> list[Outcome]:
        return [self.outcome(seed) for seed in seeds]

    def outcome(self, seed: int) -> Outcome:
        with drawing(seed):
            found = self.score(seed)
        if not is_number(found):
            raise UserError(f"{self.name} must return one number, not {short(found)}")
        return Outcome(float(found))


@dataclass(frozen=True)
class Program:
    """A program that prints its score. timeout: seconds after which it is ended."""

    name: str
    command: Command
    timeout: float | None = None

    @property
    def names(self) -> list[str]:
        """What may be the name of a file in the command, also behind an option's `=`."""
        words = shlex.split(self.command.template)
        return [*words, *(option.partition("=")[2] for option in words)]

    def about(self) -> About:
        folder = self.command.folder or Path.cwd()
        files = {one: content(folder / one) for one in self.names if (folder / one).is_file()}
        changed = f"another command or other files of {self.name}"
        traits = {changed: [self.command.template, self.command.metric, files]}
        return About(self.command.metric_name, self.command.direction, traits=traits)

    def outcomes(self, seeds: Sequence[int], _: AfterStep) -> list[Outcome]:
        return [Outcome(self.command.run({"seed": seed}, self.timeout)) for seed in seeds]


@dataclass(frozen=True)
class Training:
    """A task that is trained with a recipe."""

    name: str
    task: Task | str
    recipe: Recipe

    @cached_property
    def found(self) -> Task:
        return find(self.task)

    @cached_property
    def used(self) -> Recipe:
        return with_groups(self.found, self.recipe)

    def about(self) -> About:
        task = self.found
        check(task)
        check_recipe(task, self.used)
        traits = {
            **fingerprint([task]),
            **of_own_rules([self.used]),
            "another recipe": self.used.to_toml(),
        }
        return About(
            task.metric_name,
            task.better,
            STACKED if way_of(task)[0] == "stacked" else 1,
            {f"{words} of {self.name}": value for words, value in traits.items()},
        )

    def outcomes(self, seeds: Sequence[int], watch: AfterStep) -> list[Outcome]:
        members = [Member(self.used, seed) for seed in seeds]
        runs = train_members(self.found, members, width=STACKED, watch=watch)
        return list(map(outcome_of, runs))


def outcome_of(run: Run) -> Outcome:
    return Outcome(run.score, tuple((point.step, point.metric) for point in run.curve))


@runtime_checkable
class Trains(Protocol):
    """A training loop: it trains once with a recipe and a seed, and returns the run."""

    metric: str
    direction: Direction

    def run(self, recipe: Recipe, seed: int) -> Run: ...


@dataclass(frozen=True)
class Looped:
    """A training loop with a recipe."""

    name: str
    loop: Trains
    recipe: Recipe

    def about(self) -> About:
        traits = {
            f"other code of {self.name}": code_of(self.loop),
            f"another recipe of {self.name}": self.recipe.to_toml(),
            **of_own_rules([self.recipe]),
        }
        return About(self.loop.metric, self.loop.direction, traits=traits)

    def outcomes(self, seeds: Sequence[int], _: AfterStep) -> list[Outcome]:
        return [outcome_of(self.loop.run(self.recipe, seed)) for seed in seeds]


@dataclass(frozen=True)
class InFile:
    """A loop, a task or a function of a seed in a Python file.

    attribute: its name in the file. recipe: the recipe for a loop or a task. metric, direction: the
    metric of a function's score. by_recipe: whether the two sides differ in their recipe.
    """

    name: str
    path: Path
    attribute: str
    recipe: Recipe
    metric: str
    direction: Direction
    by_recipe: bool = False

    @property
    def names(self) -> list[str]:
        return [str(self.path)]

    @cached_property
    def found(self) -> Side:
        module = load("file", self.path)
        if not hasattr(module, self.attribute):
            raise UserError(f"There is no '{word(self.attribute)}' in {self.path}.")
        value = getattr(module, self.attribute)
        if is_maker(value):
            value = value()
        side = side_of(self.name, value, self.recipe, self.metric, self.direction)
        if self.by_recipe and isinstance(side, Scored):
            raise UserError(
                f"'{self.attribute}' in {self.path} must be a task or a loop, which recipes train,"
                f" not {short(value)}."
            )
        return side

    def about(self) -> About:
        about = self.found.about()
        folder = self.path.resolve().parent
        held = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        files = sorted(Path(file) for file in held if file and Path(file).is_relative_to(folder))
        code = {str(file.relative_to(folder)): content(file) for file in files}
        return replace(about, traits={**about.traits, f"other code of {self.name}": code})

    def outcomes(self, seeds: Sequence[int], watch: AfterStep) -> list[Outcome]:
        return self.found.outcomes(seeds, watch)


def is_maker(value: Any) -> bool:
    """Whether a value is a function without arguments, which returns a task."""
    return isfunction(value) and not signature(value).parameters


def side_of(
    name: str, value: Any, recipe: Recipe, metric: str = "score", direction: Direction = "min"
) -> Side:
    """The side that an object stands for: a task or a loop, which the recipe trains, a command, or
    a function of a seed. Anything else with a `score(seed)` counts as such a function, with a
    `metric` and a `direction` of its own where it has them.
    """
    if isinstance(value, Task):
        return Training(name, value, recipe)
    if isinstance(value, Command):
        return Program(name, value)
    if isinstance(value, Trains):
        return Looped(name, value, recipe)
    function = getattr(value, "score", value)
    if not callable(function):
        raise UserError(
            f"{name} must be a loop, a task, a command or a function of a seed that returns its"
            f" score, not {short(value)}."
        )
    return Scored(
        name, function, getattr(value, "metric", metric), getattr(value, "direction", direction)
    )


@dataclass(frozen=True)
class At:
    """A side as it is in a commit. top: the folder with the files of the commit.

    The side runs in the folder `within` of `top`. Its imports search that folder first, before a
    package that is installed from the working copy. commit: the full name of the commit.
    """

    side: Side
    top: Path
    within: Path
    commit: str

    @property
    def name(self) -> str:
        return self.side.name

    def about(self) -> About:
        with self.there():
            about = self.side.about()
        return replace(about, traits={f"another commit as {self.name}": self.commit})

    def outcomes(self, seeds: Sequence[int], watch: AfterStep) -> list[Outcome]:
        with self.there():
            return self.side.outcomes(seeds, watch)

    @contextmanager
    def there(self) -> Iterator[None]:
        first = [str(self.top / folder) for folder in (self.within, "", "src")]
        path, variable = list(sys.path), os.environ.get("PYTHONPATH")
        sys.path[:0] = first
        os.environ["PYTHONPATH"] = os.pathsep.join([*first, *([variable] if variable else [])])
        try:
            with chdir(self.top / self.within):
                yield
        finally:
            sys.path[:] = path
            os.environ.pop("PYTHONPATH")
            if variable is not None:
                os.environ["PYTHONPATH"] = variable


def content(path: Path) -> str:
    """A checksum of a file."""
    return checksum([path.read_bytes()])
