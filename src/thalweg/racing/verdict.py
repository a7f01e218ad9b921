"""The verdict of a race: what a person should do, how sure that is, and its limits."""

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
from thalweg.racing.measures import Measures, Summary, ToTarget
from thalweg.racing.record import Record
from thalweg.racing.sentences import advice, limits, sentence
from thalweg.racing.torch_code import in_torch
from thalweg.racing.wording import listed
from thalweg.recipe import Recipe
from thalweg.statistics import Interval

WIDTH = 100
"""The most characters on a line of the printed verdict."""


NAME_WIDTH = 17
"""The width of an entrant's name in the printed table; longer names are broken."""

METRIC_WIDTH = 10
"""The width of the metric's name above its scores."""

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
"""The columns of the printed table after the entrant and its validation metric."""

WITH_SPACES = ("interval", "to target\n(missed)")
"""The columns whose lines may break. In the others a broken number would look like another one."""


@dataclass(frozen=True)
class Verdict:
    """What a race says about *these recipes, on this task, over seeds*.

    sentence: which entrant is the best, or which ones cannot be distinguished. advice: what a
    person should do. limits: the limits of the evidence. shortlist: the entrants that may be the
    best. best: the entrant to use, which is the one on the shortlist with the best median, then the
    safest, then the lightest; None if all diverged or the race is not finished. summaries: the
    numbers of each entrant, the best first. tunability: for each entrant the pairs (b, the median
    best of b configurations), which are optimistic tuning scores. recipe: the best recipe as TOML.
    torch: the lines of PyTorch that do the same; or, if `in_torch` is false, the reason why there
    are none. metric, direction: the metric of the numbers, and whether low or high is better.
    """

    sentence: str
    advice: tuple[str, ...]
    limits: tuple[str, ...]
    shortlist: tuple[str, ...]
    best: str | None
    summaries: tuple[Summary, ...]
    tunability: Mapping[str, tuple[tuple[int, float], ...]]
    recipe: str | None
    torch: str | None
    in_torch: bool
    metric: str
    direction: str

    def __str__(self) -> str:
        """The verdict as plain text of at most 100 columns, for a terminal."""
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
        """A flat dict for each entrant, the best first, as `pandas.DataFrame` takes them."""
        return [flat(one) for one in self.summaries]

    def to_json(self) -> str:
        """The whole verdict as JSON. Numbers that are not finite become null."""
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
        longest = max(len("entrant"), *(len(one.entrant) for one in self.summaries))
        table.add_column("entrant", overflow="fold", width=min(longest, NAME_WIDTH))
        better = wording.better(self.direction).replace(" better", "\nbetter")
        metric = f"{textwrap.fill(self.metric, METRIC_WIDTH)}\n{better}"
        for heading in (metric, *TERMINAL_COLUMNS):
            whole = heading not in WITH_SPACES
            table.add_column(Text(heading), justify="right", overflow="fold", no_wrap=whole)
        for one in self.summaries:
            table.add_row(*(Text(cell) for cell in terminal_cells(one)))
        return table

    def _levels(self) -> str:
        """The confidence levels of the differences' intervals, in words."""
        shared = "Differences and their intervals are over the seeds that both entrants have"
        alone = [
            one.entrant
            for one in self.summaries
            if one.difference and one.difference.one_comparison
        ]
        level = (
            f"; each is one comparison at 95 % for {listed(alone)}"
            if alone
            else ", at the level of the shortlist"
        )
        return f"{shared}{level}."


def verdict(record: Record) -> Verdict:
    """The verdict of a record. The verdict of an unfinished race says that it is not finished."""
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
        summaries=measures.summaries(),
        tunability=measures.tunability(),
        recipe=chosen.recipe if chosen else None,
        torch=lines or why_not,
        in_torch=lines is not None,
        metric=record.settings.metric,
        direction=record.settings.direction,
    )


def terminal_cells(one: Summary) -> tuple[str, ...]:
    minus_best, between = "—", "—"
    if one.difference is not None:
        minus_best = wording.difference_alone(one.difference)
        between = wording.difference_ends(one.difference, digits=2)
    return (
        one.entrant,
        wording.number(one.validation.estimate) if one.validation else "—",
        wording.test_score(one),
        minus_best,
        between,
        f"{one.tuning}" if one.tuning else "—",
        wording.chance(one.ahead) if one.difference else "—",
        f"{one.diverged.count}/{one.diverged.n}" if one.diverged else "—",
        reached(one.to_target),
        wording.milliseconds_between(one.step_seconds, unit="", to="-") or "—",
    )


def reached(found: ToTarget | None) -> str:
    """The median number of steps to the target, and in brackets how many runs missed it."""
    if found is None:
        return "—"
    median = "never" if math.isnan(found.median) else f"{found.median:,.0f}"
    return f"{median} ({found.missed})"


def bullet(text: str) -> Table:
    """One item of a list, whose further lines are indented like its text."""
    grid = Table.grid(padding=(0, 1))
    grid.add_row("·", Text(text))
    return grid


def flat(one: Summary) -> dict[str, Any]:
    found, target = one.difference, one.to_target
    between = Interval(found.estimate, found.low, found.high) if found else None
    return {
        "entrant": one.entrant,
        "shortlisted": one.shortlisted,
        "beaten_by": one.beaten_by,
        "out_at_seeds": one.out_at,
        "seeds": one.seeds,
        **ends("validation", one.validation),
        **ends("test", one.test),
        **{f"validation_{name}": value for name, value in one.also.items()},
        **{f"test_{name}": value for name, value in one.test_also.items()},
        **ends("difference", between),
        "difference_confidence": found.confidence if found else None,
        "difference_seeds": found.seeds if found else None,
        "difference_one_comparison": found.one_comparison if found else None,
        "wins": one.wins.count if one.wins else None,
        "wins_of_seeds": one.wins.n if one.wins else None,
        **ends("diverged", one.diverged.interval if one.diverged else None),
        "steps_to_target": target.median if target else None,
        "missed_target": target.missed if target else None,
        **ends("step_seconds", one.step_seconds),
        "state_per_parameter": one.state_per_parameter,
        "tuning_runs": one.tuning,
        "named_with_other_draws": one.named,
        "ahead_with_twice_the_tuning": one.ahead,
        **one.values,
    }


def held(value: Any) -> Any:
    """The value, or None for a number that is not finite, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def ends(name: str, found: Interval | None) -> dict[str, float | None]:
    return {
        name: found.estimate if found else None,
        f"{name}_low": found.low if found else None,
        f"{name}_high": found.high if found else None,
    }
