"""How a race is called, as text: for the command line, or for Python where objects race; and how
the doctor looks at its winner.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from thalweg.racing.entrants import Entry
from thalweg.racing.record import Record, Settings
from thalweg.recipes import Recipe
from thalweg.tasks.task import Task


def call(
    task: Task | str,
    entrants: Sequence[Entry],
    tune: Sequence[Entry],
    baseline: str | Recipe | None,
    pretrain: bool,
    settings: Settings,
) -> str:
    """The command that repeats the race.

    Entrants, those to be tuned and the baseline stand as they were given: a file by its path. What
    was given as an object has no words at the command line; then the call from Python is told,
    `<Task net>` being the task of that name.
    """
    further = {
        name: getattr(settings, name)
        for name in ("trials", "seeds", "cooling", "alpha", "seed", "width", "step", "lanes")
        if getattr(settings, name) is not None
    }
    given = [task, *([] if baseline is None else [baseline]), *entrants, *tune]
    with_commas = any("," in str(one) for one in (*entrants, *tune))
    if all(isinstance(one, str) for one in given) and not with_commas:
        words = ["thalweg", "race", str(task), "--entrants", ",".join(map(str, entrants))]
        words += ["--tune", ",".join(map(str, tune))] if tune else []
        words += [] if baseline is None else ["--baseline", str(baseline)]
        words += ["--pretrain"] if pretrain else []
        words += [word for name, value in further.items() for word in (f"--{name}", str(value))]
        return shlex.join(words)
    arguments = [quoted(task), f"entrants=[{', '.join(map(quoted, entrants))}]"]
    arguments += [f"tune=[{', '.join(map(quoted, tune))}]"] if tune else []
    arguments += [] if baseline is None else [f"baseline={quoted(baseline)}"]
    arguments += ["pretrain=True"] if pretrain else []
    arguments += [f"{name}={value!r}" for name, value in further.items()]
    return f"thalweg.race({', '.join(arguments)})"


def doctor_call(record: Record, folder: Path) -> str:
    """The command that has the doctor look at the winner of a race in `folder`, for its page there;
    the call from Python where the race was called so.
    """
    winner = folder / "winner.toml"
    if record.command.startswith("thalweg race "):
        task = shlex.split(record.command)[2]
        words = ["thalweg", "doctor", task, "--recipe", str(winner)]
        words += [] if folder.name == record.settings.task else ["--name", folder.name]
        words += [] if folder.parent == Path("runs") else ["--runs", str(folder.parent)]
        return shlex.join(words)
    task = record.command.removeprefix("thalweg.race(").partition(", entrants=")[0]
    page = str(folder / "doctor.html")
    return f"thalweg.diagnose({task}, {str(winner)!r}).report({page!r})"


def quoted(given: Task | Entry) -> str:
    return f"<{type(given).__name__} {given.name}>" if hasattr(given, "name") else repr(given)
