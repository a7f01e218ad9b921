"""How a race is called, as text: for the command line, or for Python where objects race; and how
the doctor looks at its winner.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from thalweg.command import Command
from thalweg.loops.loop import Loop
from thalweg.racing.entrants import Entry
from thalweg.racing.record import Record, Settings
from thalweg.racing.spaces import Spaces
from thalweg.recipe import Recipe
from thalweg.run_folder import usual_folder
from thalweg.tasks.task import Task

REPEATED = (
    "trials",
    "tuning_seeds",
    "seeds",
    "cooling",
    "alpha",
    "seed",
    "width",
    "step",
    "lanes",
)
"""The settings that a command repeats."""


def call(
    task: Task | Loop | Command | str,
    entrants: Sequence[Entry],
    tune: Sequence[Entry],
    baseline: str | Recipe | None,
    pretrain: bool,
    no_decay: bool,
    space: Spaces | str | Path | None,
    settings: Settings,
) -> str:
    """The command that repeats the race.

    Entrants, those to be tuned and the baseline stand as they were given: a file by its path. What
    was given as an object has no words at the command line; then the call from Python is told,
    `<Task net>` being the task of that name.
    """
    further = {
        name: getattr(settings, name) for name in REPEATED if getattr(settings, name) is not None
    }
    subject = words_of(task, space)
    given = [*subject, *([] if baseline is None else [baseline]), *entrants, *tune]
    with_commas = any("," in str(one) for one in (*entrants, *tune))
    if all(isinstance(one, str) for one in given) and not with_commas:
        words = ["thalweg", "race", *map(str, subject), "--entrants", ",".join(map(str, entrants))]
        words += ["--tune", ",".join(map(str, tune))] if tune else []
        words += [] if baseline is None else ["--baseline", str(baseline)]
        words += ["--pretrain"] if pretrain else []
        words += ["--no-decay"] if no_decay else []
        words += [word for name, value in further.items() for word in (option(name), str(value))]
        return shlex.join(words)
    arguments = [quoted(task), f"entrants=[{', '.join(map(quoted, entrants))}]"]
    arguments += [f"tune=[{', '.join(map(quoted, tune))}]"] if tune else []
    arguments += [] if baseline is None else [f"baseline={quoted(baseline)}"]
    arguments += ["pretrain=True"] if pretrain else []
    arguments += ["no_decay=True"] if no_decay else []
    arguments += [] if space is None else [f"space={space!r}"]
    arguments += [f"{name}={value!r}" for name, value in further.items()]
    return f"thalweg.race({', '.join(arguments)})"


def words_of(task: Task | Loop | Command | str, space: object) -> list[object]:
    """What is trained and where it is tuned, as the command line has it; an object for what it
    cannot have.
    """
    words: list[object] = [task]
    if isinstance(task, Command) and task.folder is None:
        metric = ["--metric", task.metric, "--direction", task.direction]
        words = ["--command", task.template, *metric]
    if space is not None:
        words += ["--space", str(space) if isinstance(space, Path) else space]
    return words


def whole_call(command: str, settings: Settings) -> str:
    """The command that begins a race, and those that add tuning to it."""
    folder = Path("runs") / usual_folder(settings.task)
    added = [*settings.earlier, settings.trials][1:]
    between = " && " if at_command_line(command) else "; "
    return between.join([command, *(resume_call(command, folder, trials) for trials in added)])


def resume_call(command: str, folder: Path, trials: int) -> str:
    """The command that adds tuning to the race in `folder`, which another command began."""
    runs = str(folder.parent)
    if at_command_line(command):
        words = [
            "thalweg",
            "race",
            *subject_of(command),
            "--resume",
            folder.name,
            "--trials",
            str(trials),
        ]
        words += [] if runs == "runs" else ["--runs", runs]
        return shlex.join(words)
    elsewhere = "" if runs == "runs" else f", runs={runs!r}"
    return f"thalweg.race({task_of(command)}, resume={folder.name!r}, trials={trials}{elsewhere})"


def doctor_call(record: Record, folder: Path) -> str:
    """The command that has the doctor look at the winner of a race in `folder`, for its page there;
    the call from Python where the race was called so; nothing for a program, which nobody watches.
    """
    if at_command_line(record.command) and task_of(record.command) == "--command":
        return ""
    winner, task = folder / "winner.toml", task_of(record.command)
    if at_command_line(record.command):
        words = ["thalweg", "doctor", task, "--recipe", str(winner)]
        words += [] if folder.name == record.settings.task else ["--name", folder.name]
        words += [] if folder.parent == Path("runs") else ["--runs", str(folder.parent)]
        return shlex.join(words)
    page = str(folder / "doctor.html")
    return f"thalweg.diagnose({task}, {str(winner)!r}).report({page!r})"


def at_command_line(command: str) -> bool:
    return command.startswith("thalweg race ")


def subject_of(command: str) -> list[str]:
    """What is trained and where it is tuned, as a command that begins a race has it."""
    words = shlex.split(command)
    return words[2 : words.index("--entrants") if "--entrants" in words else None]


def task_of(command: str) -> str:
    """The task, as a command that begins a race has it."""
    if at_command_line(command):
        return subject_of(command)[0]
    return command.removeprefix("thalweg.race(").partition(", entrants=")[0]


def quoted(given: Task | Loop | Command | Entry) -> str:
    return f"<{type(given).__name__} {given.name}>" if hasattr(given, "name") else repr(given)


def option(name: str) -> str:
    """An argument as the command line calls it."""
    return f"--{name.replace('_', '-')}"
