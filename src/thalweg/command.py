"""A program that is run without being imported, and the number that it prints.

`python train.py --lr {lr} --seed {seed}` is a template of a command: each value stands for its name
in braces. The program may also read the values in environment variables, `THALWEG_LR` and
`THALWEG_SEED` here, or in a TOML file, whose path stands for `{recipe}`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, TypeAlias

import tomli_w

from thalweg.arguments import require_known, require_text
from thalweg.errors import FailedError, UserError
from thalweg.statistics import Direction
from thalweg.user_file import LONGEST, STYLE

Value: TypeAlias = str | int | float

RECIPE = "recipe"
"""The name that stands for the path of a TOML file."""

PLACEHOLDER = re.compile(r"(?<!\$)\{(\w+(?:\[\d+\])?)\}")
"""A name in braces; `${HOME}` is the shell's."""

QUOTED = re.compile(r"\\.|'[^']*'")
"""What a shell takes as it stands."""

FOR_A_SHELL = re.compile(r"[|&;<>()$`*?~]|^\s*\w+=")
"""Pipes, lists, redirections, variables, globs, and variables that are set before the program."""

THOUSANDS = r"[1-9]\d{0,2}(?:,\d{3})+(?!,?\d)(?:\.\d+)?"

NUMBER = re.compile(
    rf"[+-]?(?:{THOUSANDS}|\d+\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?|nan|inf)", re.IGNORECASE
)

NO_DIGITS = re.compile(r"(?<![\w.])(?:[+-]?(?:nan|inf(?:inity)?)(?!\w)|-(?=\.?\d))", re.IGNORECASE)
"""What a number may be or begin with, and a pattern of digits would pass over."""

BEHIND = " \t.,;:"
"""What may stand around a number in a group."""

LAST_LINES = 3
"""Lines that are told of what a program said before it failed."""


@dataclass(frozen=True)
class Command:
    """A program and how its result is read.

    template: the command as it is typed in a terminal, with names in braces where values go. It is
        split into words as a shell does, and run without a shell, unless it has something outside
        of single quotes that only a shell understands, such as `cd old && python train.py` or
        `OMP_NUM_THREADS=1 python train.py`; then `sh` runs it.
    metric: a regular expression with one group, which is the number; its last match counts. A text
        without a group is a key in a line of JSON, and the last such line counts.
    direction: whether "min" or "max" is better. folder: where it is run; here, if not given.

    Raises `UserError` for a template, a metric or a direction that cannot be used.
    """

    template: str
    metric: str
    direction: Direction
    folder: Path | None = None

    def __post_init__(self) -> None:
        require_text("the command", self.template)
        require_text("metric", self.metric)
        require_known("direction", self.direction, ("min", "max"))
        try:
            shlex.split(self.template)
        except ValueError as error:
            raise UserError(f"The command {self.template} has an open end: {error}.") from None
        try:
            groups = re.compile(self.metric).groups
        except re.error as error:
            raise UserError(f"metric {self.metric} is no regular expression: {error}.") from None
        if groups > 1:
            raise UserError(
                f"metric {self.metric} has {groups} groups and must have one, which is the number;"
                " write (?:...) for the others."
            )

    @property
    def names(self) -> frozenset[str]:
        """The names in braces."""
        return frozenset(PLACEHOLDER.findall(self.template))

    @property
    def metric_name(self) -> str:
        """What the number is called: the key, or the words before the group."""
        words = re.findall(r"[A-Za-z][\w/-]*", self.metric.partition("(")[0])
        return (" ".join(words) or "score") if re.compile(self.metric).groups else self.metric

    def run(
        self, values: Mapping[str, Value], timeout: float | None = None, recipe: str | None = None
    ) -> float:
        """Runs the program with these values, and returns the number that it prints.

        A value whose name is not in braces is given all the same, as an environment variable:
        `betas[0]` is `THALWEG_BETAS_0`. The number is looked for in the standard output, and in
        the standard error where it is not there; it is not finite for a run that diverged.

        timeout: seconds after which the program is ended, with all processes that it began.
        recipe: the text of the TOML file at `{recipe}`; the values, if not given.

        Raises `UserError` for a name in braces that has no value and a program that cannot be
        begun. Raises `FailedError`, one line with the last words of the program, where it fails,
        takes longer than `timeout`, or prints no such number.
        """
        with TemporaryDirectory(prefix="thalweg-") as folder:
            file = Path(folder) / "recipe.toml"
            file.write_text(tomli_w.dumps(values) if recipe is None else recipe, encoding="utf-8")
            given = {name: str(value) for name, value in values.items()} | {RECIPE: str(file)}
            words = self.words(given)
            environment = os.environ | {variable(name): text for name, text in given.items()}
            with TemporaryFile() as output, TemporaryFile() as errors:
                ending = run_program(words, self.folder, environment, output, errors, timeout)
                printed, said = text_of(output), text_of(errors)
        told = shlex.join(words) if len(words) > 1 else words[0]
        if ending:
            raise FailedError(f"The command {told} {ending}{last_lines(said or printed)}")
        for text in (printed, said):
            if (found := self.result(text)) is not None:
                return found
        raise FailedError(
            f"The command {told} printed no {self.searched}{last_lines(printed or said)}"
        )

    def words(self, given: Mapping[str, str]) -> list[str]:
        """The program and its arguments, with each value in place of its name."""
        if missing := sorted(self.names - given.keys()):
            raise UserError(
                f"The command {self.template} asks for {{{missing[0]}}}, which has no value; there"
                f" are {', '.join(f'{{{name}}}' for name in given)}."
            )
        if FOR_A_SHELL.search(QUOTED.sub("", self.template)):
            quoted = {name: shlex.quote(text) for name, text in given.items()}
            return ["/bin/sh", "-c", filled(self.template, quoted)]
        return [filled(word, given) for word in shlex.split(self.template)]

    @property
    def searched(self) -> str:
        """What is looked for in the output, in words."""
        if re.compile(self.metric).groups:
            return f"match of {self.metric}"
        return (
            f"line of JSON with a number under {self.metric!r} (a regular expression needs a group,"
            r" such as 'loss: ([\d.]+)')"
        )

    def result(self, text: str) -> float | None:
        """The last number of the metric in a text; None where there is none."""
        pattern = re.compile(self.metric)
        found = matches(pattern, text) if pattern.groups else in_json(self.metric, text)
        return max(found, default=(0, None))[1]


def matches(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, float]]:
    """The place and the number of each match.

    A number is read whole from where the group begins: `([\\d.]+)` alone would make 1.2 of 1.2e-05
    and 1 of 1,234. Where a number may stand, nan and a number below zero may stand too, and so an
    earlier match never hides that a run diverged, or went below zero.
    """
    as_digits = NO_DIGITS.sub(lambda found: "0" * len(found[0]), text)
    for match in chain(pattern.finditer(text), pattern.finditer(as_digits)):
        group = match[1] or ""
        start = match.start(1) + len(group) - len(group.lstrip())
        whole = NUMBER.match(text, start)
        if whole and whole.end() >= start + len(group.strip(BEHIND)):
            yield start, float(whole[0].replace(",", ""))


def in_json(key: str, text: str) -> Iterator[tuple[int, float]]:
    """The number of each line of JSON that has one under the key, and the number of the line."""
    for place, line in enumerate(text.splitlines()):
        with suppress(ValueError, RecursionError):
            table = json.loads(line) if line.lstrip().startswith("{") else {}
            value = table.get(key)
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield place, float(value)


def run_program(
    words: list[str],
    folder: Path | None,
    environment: Mapping[str, str],
    output: IO[bytes],
    errors: IO[bytes],
    timeout: float | None,
) -> str:
    """Runs a program to its end; how it failed, in words, or nothing."""
    try:
        # A session of its own, so that all that it begins ends with it.
        program = subprocess.Popen(
            words,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"The command {shlex.join(words)} cannot be run: {why}.") from None
    try:
        status = program.wait(timeout)
    except subprocess.TimeoutExpired:
        return f"took longer than {timeout:g} s"
    finally:
        with suppress(ProcessLookupError, PermissionError):  # nothing of it is left
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}" if status else ""


def filled(text: str, given: Mapping[str, str]) -> str:
    return PLACEHOLDER.sub(lambda found: given[found[1]], text)


def variable(name: str) -> str:
    """The environment variable that holds a value."""
    return "THALWEG_" + re.sub(r"\W+", "_", name).strip("_").upper()


def text_of(file: IO[bytes]) -> str:
    file.seek(0)
    return STYLE.sub("", file.read().decode(errors="replace"))


def last_lines(text: str) -> str:
    """The end of a sentence: the last lines of a text that are not empty, in one line."""
    lines = ("".join(c if c.isprintable() else " " for c in line) for line in text.splitlines())
    said = " / ".join([" ".join(line.split()) for line in lines if line.strip()][-LAST_LINES:])
    if not said:
        return ", and said nothing."
    return f": {said}" if len(said) <= LONGEST // 2 else f": ...{said[-LONGEST // 2 :]}"
