"""The report of a diagnosis: one HTML file that opens without a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from thalweg.doctor.judge import diagnosis as wording
from thalweg.doctor.judge.diagnosis import Diagnosis
from thalweg.doctor.judge.finding import Finding
from thalweg.racing.wording import number
from thalweg.report.along import along
from thalweg.report.evidence import measured, tried
from thalweg.report.figure import Picture
from thalweg.report.page import write_page
from thalweg.statistics import Interval


@dataclass(frozen=True)
class Section:
    """A finding in the page.

    name: its id. measured, tried: its pictures, or None. symptoms: the findings that it explains.
    """

    name: str
    finding: Finding
    measured: Picture | None
    tried: Picture | None
    symptoms: tuple[Section, ...]


@np.errstate(all="ignore")
def write_diagnosis(diagnosis: Diagnosis, path: str | Path) -> Path:
    """Writes the report of a diagnosis to one HTML file and returns its path.

    Everything in it comes from the diagnosis. Raises as `write_page` does.
    """
    return write_page(
        path,
        "diagnosis.html",
        diagnosis=diagnosis,
        case=diagnosis.case,
        said=wording,
        alarms=sections("finding", diagnosis.of("ill", "suspected"), diagnosis.metric),
        notes=sections("note", diagnosis.of("note"), diagnosis.metric),
        along=along(diagnosis.case.history),
        value=value,
        middle=middle,
        diverged=diverged,
    )


def sections(name: str, findings: Sequence[Finding], metric: str) -> list[Section]:
    return [section(f"{name}-{i}", one, metric) for i, one in enumerate(findings, 1)]


def section(name: str, finding: Finding, metric: str) -> Section:
    return Section(
        name,
        finding,
        measured=measured(f"{name}-measured", finding.suspicion.picture),
        tried=tried(f"{name}-tried", finding.trials, metric),
        symptoms=tuple(sections(f"{name}-symptom", finding.symptoms, metric)),
    )


def value(found: Interval) -> str:
    """The estimate of a fact, as text."""
    return "not finite" if math.isnan(found.estimate) else number(found.estimate)


def middle(scores: Sequence[float]) -> str:
    """The median of the scores of runs that did not diverge, as text."""
    finite = [score for score in scores if math.isfinite(score)]
    return number(median(finite)) if finite else "—"


def diverged(scores: Sequence[float]) -> int:
    return sum(not math.isfinite(score) for score in scores)
