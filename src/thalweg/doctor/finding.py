"""What the doctor says: findings, each with its evidence, its prescription, and how that did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from thalweg.doctor.trial import Remedy, Trial
from thalweg.statistics import Interval

Severity = Literal["ill", "suspected", "note"]
"""ill: a sound criterion says so, or its remedy helped where it was tried. suspected: there are
signs, and no remedy was tried. note: there are signs, and nothing that was tried helped, or it is
no fault in itself."""


@dataclass(frozen=True)
class Fact:
    """A number that was measured, what it is, and the step at which it was."""

    what: str
    value: Interval
    step: int


def exactly(value: float) -> Interval:
    """A number without an error of its own."""
    return Interval(value, value, value)


def around(value: float, error: float) -> Interval:
    return Interval(value, value - error, value + error)


@dataclass(frozen=True)
class Picture:
    """A line by name over one axis; `log` for a logarithmic axis of the values."""

    title: str
    across: str
    up: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    log: bool = False


@dataclass(frozen=True)
class Suspicion:
    """What a criterion has found, before any remedy was tried.

    name: of the finding. sentence: in plain words. prescription: in the toolbox's terms.
    remedies: what of it can be tried. since: the step of the close look before the first sign.
    proven: whether the criterion alone is enough. standing: how far it can be trusted, and its
    source. explains: names of findings that may be its symptoms.
    """

    name: str
    sentence: str
    prescription: str
    standing: str
    facts: tuple[Fact, ...] = ()
    picture: Picture | None = None
    remedies: tuple[Remedy, ...] = ()
    since: int = 0
    proven: bool = False
    explains: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A suspicion, and what became of it.

    trials: its remedies against going on as it was; empty where none was tried, and then
    `untried` says why. symptoms: other findings that it explains.
    """

    suspicion: Suspicion
    severity: Severity
    trials: tuple[Trial, ...] = ()
    untried: str = ""
    symptoms: tuple[Finding, ...] = field(default=())

    @property
    def name(self) -> str:
        return self.suspicion.name

    @property
    def best(self) -> Trial | None:
        """The trial that helped most; none where none helped."""
        helping = [trial for trial in self.trials if trial.helps]
        return max(helping, key=lambda trial: trial.gain.estimate, default=None)
