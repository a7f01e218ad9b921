"""Finding a task: a bundled one by its name, or a user's own in a Python file."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from types import FunctionType
from typing import Any

from thalweg.arguments import short, word
from thalweg.errors import UserError, suggest
from thalweg.tasks.adding import adding
from thalweg.tasks.diabetes import diabetes
from thalweg.tasks.digits import digits, digits_conv, digits_deep
from thalweg.tasks.landscapes import landscapes
from thalweg.tasks.task import Task
from thalweg.tasks.topics import topics
from thalweg.tasks.waveform import waveform
from thalweg.user_file import failure_as_sentence, load

BUNDLED = (digits, digits_conv, digits_deep, diabetes, topics, adding, waveform(), *landscapes)

TASK = "task file"


def bundled() -> list[Task]:
    """The tasks that come with the package; none needs a download."""
    return list(BUNDLED)


def find(task: Task | str) -> Task:
    """The task itself, or the one of that name: a bundled one, or `path/to/file.py:task`.

    In a user's file the attribute is a `Task` or a function without arguments that returns one. The
    file's own folder can be imported from: before all others while the file is loaded, and behind
    them from then on, in `model` and `data` too.

    Raises `UserError` for an unknown name, a path or attribute that is not there, an attribute
    that is no task, and a file that fails.
    """
    if isinstance(task, Task):
        return task
    if not isinstance(task, str):
        raise UserError(f"task must be a thalweg.Task or the name of one, not {short(task)}.")
    return called(task)


def called(name: str) -> Task:
    path, _, attribute = name.rpartition(":")
    if attribute and path.endswith(".py"):
        return task_in_file(Path(path), attribute)
    if name.endswith((".py", ".py:")):
        raise UserError(
            f"'{name}' names a file but no task in it; write {name.rstrip(':')}:NAME,"
            " where NAME is the task's variable in the file."
        )
    tasks = {task.name: task for task in BUNDLED}
    if name not in tasks:
        raise UserError(
            f"There is no bundled task '{word(name)}'; {suggest(name, tasks)}"
            " Your own is path/to/file.py:task."
        )
    return tasks[name]


def task_in_file(path: Path, attribute: str) -> Task:
    return as_task(in_file(path, attribute), path, attribute)


def in_file(path: Path, attribute: str) -> Any:
    """What a user's file has under a name; UserError where there is nothing."""
    module = load(TASK, path)
    if not hasattr(module, attribute):
        names = [name for name, value in vars(module).items() if may_race(value)]
        there = f"; it has {', '.join(names)}" if names else ", and no task at all"
        raise UserError(f"There is no '{attribute}' in {path}{there}.")
    return getattr(module, attribute)


def may_race(value: Any) -> bool:
    """Whether it is a task, or a loop, of which this room knows only that it trains by seeds."""
    return isinstance(value, Task) or all(hasattr(value, name) for name in ("trained", "steps"))


def as_task(found: Any, path: Path, attribute: str) -> Task:
    """The task that is meant by what a user's file has under a name; UserError for none."""
    if takes_a_run(found):
        raise UserError(
            f"'{attribute}' in {path} takes an argument: a function that trains once is a loop"
            ' when @thalweg.loop(metric="loss", direction="min", steps=1000) stands above it.'
        )
    if callable(found):
        with failure_as_sentence(TASK, path):
            found = found()
    if not isinstance(found, Task):
        raise UserError(
            f"'{attribute}' in {path} must be a thalweg.tasks.Task, or a function without"
            f" arguments that returns one, not {type(found).__name__}."
        )
    return found


def takes_a_run(found: Any) -> bool:
    """Whether it is a function of one argument, as a training loop is."""
    if not isinstance(found, FunctionType):
        return False
    needed = [one for one in signature(found).parameters.values() if one.default is one.empty]
    return len(needed) == 1 and needed[0].kind is needed[0].POSITIONAL_OR_KEYWORD
