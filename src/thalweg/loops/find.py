"""Find what is trained by its name: a task, or a loop in a user's file."""

from __future__ import annotations

from pathlib import Path

from thalweg.loops.loop import Loop
from thalweg.tasks.find import as_task, in_file
from thalweg.tasks.find import find as find_task
from thalweg.tasks.task import Task


def find(given: Task | Loop | str) -> Task | Loop:
    """The task or the loop itself, or the one of that name: `path/to/file.py:train` is a loop.

    Raises `UserError` as `thalweg.tasks.find`.
    """
    if isinstance(given, Loop):
        return given
    path, _, attribute = given.rpartition(":") if isinstance(given, str) else ("", "", "")
    if not (attribute and path.endswith(".py")):
        return find_task(given)
    found = in_file(Path(path), attribute)
    return found if isinstance(found, Loop) else as_task(found, Path(path), attribute)
