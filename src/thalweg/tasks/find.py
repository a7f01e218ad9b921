"""Find a task: one that comes with the package, by name, or a user's own in a Python file."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from thalweg.arguments import require_path, short, word
from thalweg.errors import UserError, suggest
from thalweg.tasks.adding import adding
from thalweg.tasks.diabetes import diabetes
from thalweg.tasks.digits import digits, digits_conv, digits_deep
from thalweg.tasks.failure import first_words
from thalweg.tasks.landscapes import landscapes
from thalweg.tasks.task import Task
from thalweg.tasks.topics import topics
from thalweg.tasks.waveform import waveform

BUNDLED = (digits, digits_conv, digits_deep, diabetes, topics, adding, waveform(), *landscapes)


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
    module = load(path)
    if not hasattr(module, attribute):
        names = [name for name, value in vars(module).items() if isinstance(value, Task)]
        there = f"; its tasks are {', '.join(names)}" if names else ", and no task at all"
        raise UserError(f"There is no '{attribute}' in {path}{there}.")
    found: Any = getattr(module, attribute)
    if callable(found):
        with failure_as_sentence(path):
            found = found()
    if not isinstance(found, Task):
        raise UserError(
            f"'{attribute}' in {path} must be a thalweg.tasks.Task, or a function without"
            f" arguments that returns one, not {type(found).__name__}."
        )
    return found


def load(path: Path) -> ModuleType:
    """Runs the Python file at `path` as a module of its own."""
    if not require_path("the path of a task file", path).is_file():
        raise UserError(f"There is no task file {path}; looked in {Path.cwd()}.")
    # A name of its own, so that a file called random.py does not stand in for the library's.
    loader = SourceFileLoader(f"thalweg_task_file_{path.stem}", str(path.resolve()))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None  # there is one for every loader of files
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look classes up there
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        with failure_as_sentence(path):
            loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    if folder not in sys.path:
        sys.path.append(folder)
    return module


@contextmanager
def failure_as_sentence(path: Path) -> Iterator[None]:
    """Turns an exception inside a user's file into a `UserError` with the line it came from."""
    try:
        yield
    except (Exception, SystemExit) as error:
        place = str(path)
        if isinstance(error, SyntaxError):
            place += f", line {error.lineno}"
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path.resolve())]
        if lines:
            place += f", line {lines[-1]}"
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        # The text of a SyntaxError has the line too.
        what = error.msg if isinstance(error, SyntaxError) else first_words(error)
        raise UserError(f"The task file {place} failed: {kind}{what}") from error
