"""The report of a race: one HTML file that opens without a network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from thalweg.optim.description import Described, Description, state_bytes
from thalweg.racing.measures import Measures
from thalweg.racing.record import Record, RunRecord
from thalweg.racing.repeat import doctor_call
from thalweg.racing.verdict import Verdict, verdict
from thalweg.recipe import Recipe
from thalweg.report.page import write_page
from thalweg.report.pictures import pictures
from thalweg.report.search import searches
from thalweg.report.strokes import strokes
from thalweg.routes import Parameter
from thalweg.rules.tuning import first_rate


@dataclass(frozen=True)
class Diverged:
    """The members of one entrant and round that diverged for one reason.

    count: their number. first_step: the earliest step at which one diverged; None if all failed.
    lrs: the range of their lr, as text; a dash if it was not tuned.
    """

    entrant: str
    round: str
    reason: str
    count: int
    first_step: int | None
    lrs: str


@np.errstate(all="ignore")
def write_report(record: Record, path: str | Path, folder: Path | None = None) -> Path:
    """Writes the report of a record to one HTML file and returns its path.

    All of it comes from the record, except the path of the winner for the doctor. folder: the
    folder of the race, with the winner; the report's own folder if not given. Raises as
    `write_page` does.
    """
    judged, measures = verdict(record), Measures(record)
    folder = folder or Path(path).parent
    return write_page(
        path,
        "report.html",
        record=record,
        settings=record.settings,
        verdict=judged,
        strokes=strokes(record.settings.entrants),
        pictures=pictures(measures, judged),
        searches=searches(measures, [one.entrant for one in judged.summaries]),
        levels=levels(judged),
        diverged=list(diverged(record)),
        routed=routed(judged.recipe, record.settings.parameters),
        seen_by_doctor=(Path(path).parent / "doctor.html").is_file(),
        doctor=doctor_call(record, folder),
    )


def routed(recipe: str | None, parameters: Sequence[Parameter]) -> Description:
    """The parameters with their routes in the winner; empty for a recipe without routes."""
    found, best = Description(), Recipe.from_toml(recipe) if recipe else None
    if best and best.routes:
        for known, track in zip(parameters, best.tracks(parameters), strict=True):
            param = torch.empty(known.shape, device="meta", requires_grad=True)
            kept = state_bytes(tuple(map(type, track.rules)), param, track.settings())
            found.append(Described(*known, track.name, kept))
    return found


def levels(judged: Verdict) -> str:
    """The confidence levels of the differences' intervals in the table, in words."""
    found = [one.difference for one in judged.summaries if one.difference]
    if any(not difference.one_comparison for difference in found):
        return (
            "Differences are Hodges-Lehmann estimates over the seeds that both entrants have. Their"
            " intervals belong to the shortlist: none excludes zero for an entrant that is on it."
        )
    return "Differences are Hodges-Lehmann estimates over the seeds that both entrants have."


def diverged(record: Record) -> Iterator[Diverged]:
    """The members that diverged, grouped by entrant, round and reason."""
    kinds: dict[tuple[str, str, str], list[RunRecord]] = {}
    for run in record.runs:
        if not math.isfinite(run.score):
            reason = run.reason or "its metric is not a number"
            kinds.setdefault((run.entrant, run.round, reason), []).append(run)
    rates = {one.key: one.values.get(first_rate(one.values)) for one in record.configurations}
    order = record.settings.entrants.index
    for entrant, round_, reason in sorted(kinds, key=lambda kind: (order(kind[0]), kind[1])):
        runs = kinds[entrant, round_, reason]
        tried = [rates.get((run.entrant, run.configuration)) for run in runs]
        steps = [run.diverged_step for run in runs if run.diverged_step is not None]
        yield Diverged(
            entrant=entrant,
            round=round_,
            reason=reason,
            count=len(runs),
            first_step=min(steps, default=None),
            lrs=reaching([rate for rate in tried if rate is not None]),
        )


def reaching(values: list[float]) -> str:
    if not values:
        return "—"
    low, high = min(values), max(values)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
