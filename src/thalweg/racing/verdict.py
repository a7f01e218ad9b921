"""The verdict of a race: what a person should do, how sure that is, and where it stops."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from thalweg.racing import wording
from thalweg.racing.measures import Measures, Row, ToTarget
from thalweg.racing.record import Record
from thalweg.racing.sentences import advice, limits, sentence
from thalweg.racing.torch_code import in_torch
from thalweg.racing.wording import listed
from thalweg.recipe import Recipe
from thalweg.statistics import Interval

WIDTH = 100
"""Columns of the printed verdict."""


NAME_WIDTH = 17
"""Columns of the printed table in which an entrant's name is not broken."""

METRIC_WIDTH = 10
"""Columns in which the metric's name is written above its scores."""

TERMINAL_COLUMNS = (
    "test",
    "minus\nbest",
    "interval",
    "tuning\nruns",
    "ahead,\ntuned\ntwice",
    "diverged",
    "to target\n(missed)",
    "a step\n(ms)",
)
"""The columns of the printed table behind the entrant and its validation metric."""

WITH_SPACES = ("interval", "to target\n(missed)")
"""Those in which lines can break; a number that is broken reads as another one."""


@dataclass(frozen=True)
class Verdict:
    """What a race says of *these recipes, on this task, over seeds*.

    sentence: who is the best, or who cannot be told apart. advice: what a person should do.
    limits: where the evidence stops. shortlist: the entrants that are left. best: the one to use:
    of those left the one with the best median, then the safest, then the lightest; none where all
    diverged or the race is not finished. rows: the numbers of each entrant, best first.
    tunability: for each entrant (b, the median best of b configurations), optimistic tuning scores.
    recipe: the best one as TOML. torch: the lines of PyTorch that do the same, or, where `in_torch`
    is false, the sentence why there are none. metric, direction: what `rows` are in.
    """

    sentence: str
    advice: tuple[str, ...]
    limits: tuple[str, ...]
    shortlist: tuple[str, ...]
    best: str | None
    rows: tuple[Row, ...]
    tunability: Mapping[str, tuple[tuple[int, float], ...]]
    recipe: str | None
    torch: str | None
    in_torch: bool
    metric: str
    direction: str

    def __str__(self) -> str:
        """For a terminal: plain text of at most 100 columns."""
        console = Console(width=WIDTH, color_system=None, highlight=False, markup=False)
        with console.capture() as capture:
            console.print(self.sentence)
            console.print(" ".join(self.advice))
            console.print(self._terminal_table())
            console.print(self._levels())
            for limit in self.limits:
                console.print(bullet(limit))
            if self.torch:
                console.print(f"\nIn PyTorch alone:\n{self.torch}")
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

    def table(self) -> list[dict[str, Any]]:
        """A flat row for each entrant, best first: `pandas.DataFrame(verdict.table())`."""
        return [flat(row) for row in self.rows]

    def to_json(self) -> str:
        """All that is said and measured, as JSON; a number that is not finite is null."""
        told = {
            "sentence": self.sentence,
            "advice": self.advice,
            "limits": self.limits,
            "best": self.best,
            "shortlist": self.shortlist,
            "metric": self.metric,
            "direction": self.direction,
            "recipe": self.recipe,
            "entrants": [
                {name: held(value) for name, value in row.items()} for row in self.table()
            ],
        }
        return json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def _terminal_table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
        longest = max(len("entrant"), *(len(row.entrant) for row in self.rows))
        table.add_column("entrant", overflow="fold", width=min(longest, NAME_WIDTH))
        better = wording.better(self.direction).replace(" better", "\nbetter")
        metric = f"{textwrap.fill(self.metric, METRIC_WIDTH)}\n{better}"
        for heading in (metric, *TERMINAL_COLUMNS):
            whole = heading not in WITH_SPACES
            table.add_column(Text(heading), justify="right", overflow="fold", no_wrap=whole)
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in terminal_cells(row)))
        return table

    def _levels(self) -> str:
        """What the intervals of the differences claim."""
        shared = "Differences and their intervals are on the seeds that both have"
        alone = [
            row.entrant for row in self.rows if row.difference and row.difference.one_comparison
        ]
        level = (
            f"; each is one comparison at 95 % for {listed(alone)}"
            if alone
            else ", at the level of the shortlist"
        )
        return f"{shared}{level}."


def verdict(record: Record) -> Verdict:
    """Reads the verdict from a record alone; an unfinished one gives a sentence that says so."""
    measures = Measures(record)
    best = measures.best if record.finished else None
    chosen = measures.chosen(best) if best else None
    lines, why_not = in_torch(Recipe.from_toml(chosen.recipe)) if chosen else (None, None)
    return Verdict(
        sentence=sentence(measures),
        advice=tuple(advice(measures)),
        limits=tuple(limits(measures)),
        shortlist=measures.shortlist,
        best=best,
        rows=measures.rows(),
        tunability=measures.tunability(),
        recipe=chosen.recipe if chosen else None,
        torch=lines or why_not,
        in_torch=lines is not None,
        metric=record.settings.metric,
        direction=record.settings.direction,
    )


def terminal_cells(row: Row) -> tuple[str, ...]:
    minus_best, between = "—", "—"
    if row.difference is not None:
        minus_best = wording.difference_alone(row.difference)
        between = wording.difference_ends(row.difference, digits=2)
    return (
        row.entrant,
        wording.number(row.validation.estimate) if row.validation else "—",
        wording.test_score(row),
        minus_best,
        between,
        f"{row.tuning}" if row.tuning else "—",
        wording.chance(row.ahead) if row.difference else "—",
        f"{row.diverged.count}/{row.diverged.n}" if row.diverged else "—",
        reached(row.to_target),
        wording.milliseconds_between(row.step_seconds, unit="", to="-") or "—",
    )


def reached(found: ToTarget | None) -> str:
    """The median steps to the target, and in brackets how many runs missed it."""
    if found is None:
        return "—"
    median = "never" if math.isnan(found.median) else f"{found.median:,.0f}"
    return f"{median} ({found.missed})"


def bullet(text: str) -> Table:
    """One line of a list whose wrapped lines stand under its text."""
    grid = Table.grid(padding=(0, 1))
    grid.add_row("·", Text(text))
    return grid


def flat(row: Row) -> dict[str, Any]:
    found, target = row.difference, row.to_target
    between = Interval(found.estimate, found.low, found.high) if found else None
    return {
        "entrant": row.entrant,
        "shortlisted": row.shortlisted,
        "beaten_by": row.beaten_by,
        "out_at_seeds": row.out_at,
        "seeds": row.seeds,
        **ends("validation", row.validation),
        **ends("test", row.test),
        **{f"validation_{name}": value for name, value in row.also.items()},
        **{f"test_{name}": value for name, value in row.test_also.items()},
        **ends("difference", between),
        "difference_confidence": found.confidence if found else None,
        "difference_seeds": found.seeds if found else None,
        "difference_one_comparison": found.one_comparison if found else None,
        "wins": row.wins.count if row.wins else None,
        "wins_of_seeds": row.wins.n if row.wins else None,
        **ends("diverged", row.diverged.interval if row.diverged else None),
        "steps_to_target": target.median if target else None,
        "missed_target": target.missed if target else None,
        **ends("step_seconds", row.step_seconds),
        "state_per_parameter": row.state_per_parameter,
        "tuning_runs": row.tuning,
        "named_with_other_draws": row.named,
        "ahead_with_twice_the_tuning": row.ahead,
        **row.values,
    }


def held(value: Any) -> Any:
    """A value that JSON has."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def ends(name: str, found: Interval | None) -> dict[str, float | None]:
    return {
        name: found.estimate if found else None,
        f"{name}_low": found.low if found else None,
        f"{name}_high": found.high if found else None,
    }
