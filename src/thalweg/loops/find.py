"""Finds a task or a loop by its name."""

from __future__ import annotations

from pathlib import Path

from thalweg.loops.loop import Loop
from thalweg.tasks.find import as_task, in_file
from thalweg.tasks.find import find as find_task
from thalweg.tasks.task import Task


def find(given: Task | Loop | str) -> Task | Loop:
    """The given task or loop, or the one with the given name, such as `path/to/file.py:train`.

    Raises `UserError` as `thalweg.tasks.find`.
    """
    if isinstance(given, Loop):
        return given
    path, _, attribute = given.rpartition(":") if isinstance(given, str) else ("", "", "")
    if not (attribute and path.endswith(".py")):
        return find_task(given)
    found = in_file(Path(path), attribute)
    return found if isinstance(found, Loop) else as_task(found, Path(path), attribute)
