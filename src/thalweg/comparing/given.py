"""Turns the arguments of `compare` into two sides, or into scores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from thalweg.arguments import short, word
from thalweg.command import Command
from thalweg.comparing.checkout import check_out, place_within
from thalweg.comparing.columns import is_numeral
from thalweg.comparing.sides import At, InFile, Program, Side, Training, side_of
from thalweg.errors import UserError
from thalweg.recipes import AnyRecipe, Recipe, recipe_of
from thalweg.rule_names import is_in_file
from thalweg.statistics import Direction
from thalweg.tasks.task import Task
from thalweg.tasks.user_code import is_number

Given: TypeAlias = str | AnyRecipe | Task | Command | Callable[[int], float] | Sequence[float]
"""What can be compared; see `compare`."""

NAMES = ("old", "new")


@dataclass(frozen=True)
class Reading:
    """The arguments of `compare` with these names, which say how the sides are read."""

    task: Task | str | None
    recipe: AnyRecipe
    metric: str | None
    direction: Direction
    timeout: float | None

    def side(self, given: Given | None, name: str) -> Side:
        """The side for a given object or text. name: the name of a side without its own name."""
        if given is None:
            raise UserError("compare takes two, old and new, or one and two commits with --at.")
        if self.task is not None:
            recipe = recipe_of(given)  # type: ignore[arg-type]
            return self.trained(given if isinstance(given, str) else recipe.name, recipe)
        if self.metric is not None and isinstance(given, str):
            if is_in_file(given) and Path(given.rpartition(":")[0]).is_file():
                raise UserError(
                    f"metric is for commands, and {word(given)} is a loop, a task or a function,"
                    " which has a metric of its own: leave it out."
                )
            given = Command(given, self.metric, self.direction)
        if isinstance(given, Command):
            return Program(name, given, self.timeout)
        if isinstance(given, str):
            return self.in_file(given)
        called = getattr(given, "__name__", "<lambda>")
        known = name if called == "<lambda>" else called
        return side_of(known, given, recipe_of(self.recipe), "score", self.direction)

    def trained(self, name: str, recipe: Recipe) -> Side:
        """A side that trains the task or the loop with this recipe."""
        if not isinstance(self.task, str):
            return side_of(name, self.task, recipe)
        path, _, attribute = self.task.rpartition(":")
        if not path.endswith(".py"):
            return Training(name, self.task, recipe)
        return InFile(name, Path(path), attribute, recipe, "score", self.direction, by_recipe=True)

    def in_file(self, given: str) -> InFile:
        path, _, attribute = given.rpartition(":")
        if not path.endswith(".py") or not attribute:
            raise UserError(
                f"{word(given)} must be path/to/file.py:NAME, a loop, a task or a function of a"
                " seed; commands need --metric, recipes need --task."
            )
        recipe = recipe_of(self.recipe)
        return InFile(given, Path(path), attribute, recipe, "score", self.direction)


@contextmanager
def sides_of(
    reading: Reading, old: Given, new: Given | None, at: Sequence[str]
) -> Iterator[tuple[Side, Side]]:
    """Both sides. The folders of commits exist until the block ends."""
    if not at:
        first, second = reading.side(old, NAMES[0]), reading.side(new, NAMES[1])
        if first.name == second.name:
            second = replace(second, name=f"{second.name} (new)")  # type: ignore[type-var]
        yield first, second
        return
    if len(at) != 2 or new is not None or reading.task is not None or not isinstance(old, str):
        raise UserError(
            "--at is given twice, with one command or one path/to/file.py:NAME, which is run as it"
            " is in each of the two commits."
        )
    with ExitStack() as folders:
        first, second = (
            at_commit(
                reading.side(old, commit),
                commit,
                Path(folders.enter_context(TemporaryDirectory(prefix="thalweg-"))),
            )
            for commit in at
        )
        yield first, second


def at_commit(side: Side, commit: str, folder: Path) -> At:
    """The side as it is in a commit. folder: takes the files of the commit."""
    full, within = check_out(commit, folder), place_within()
    if not (folder / within).is_dir():
        raise UserError(f"The commit {short(commit)} has no folder {within}.")
    if isinstance(side, InFile | Program):
        require_from_here(side.names, folder, within)
    name = commit if side.name == commit else f"{side.name} at {commit}"
    return At(replace(side, name=name), folder, within, full)  # type: ignore[type-var]


def require_from_here(names: Iterable[str], folder: Path, within: Path) -> None:
    """UserError for a full path of the working copy, which would be run in place of each commit.

    folder: has the files of a commit. within: the path of this folder in the repository.
    """
    top = Path.cwd().joinpath(*[".."] * len(within.parts)).resolve()
    for path in map(Path, names):
        full = path.resolve()
        if (
            path.is_absolute()
            and full.is_relative_to(top)
            and (folder / full.relative_to(top)).exists()
        ):
            raise UserError(
                f"{path} is in the working copy and not in the commits of --at: give its path from"
                f" here, {os.path.relpath(full)}."
            )


def program_of(side: Side) -> Program | None:
    """The program of a side, also of one in a commit; None if the side is not a program."""
    inner = side.side if isinstance(side, At) else side
    return inner if isinstance(inner, Program) else None


def long_name(side: Side) -> str:
    """A name of a side for the folder of a comparison."""
    program = program_of(side)
    return f"{side.name} {program.command.template}" if program else side.name


def scores_of(given: object) -> list[float]:
    """Scores that are given as numbers or as one number; None for anything else."""
    if isinstance(given, str):
        return [float(given)] if is_numeral(given) else []
    if is_number(given):
        return [float(given)]  # type: ignore[arg-type]
    if not isinstance(given, Iterable):
        return []
    scores = list(given)
    if not scores or not all(map(is_number, scores)):
        raise UserError(f"scores must be numbers, one a seed, not {short(given)}.")
    return list(map(float, scores))
