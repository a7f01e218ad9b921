"""A finding: a suspicion of the doctor, with the trials of its remedies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from thalweg.doctor.criteria.criterion import Suspicion
from thalweg.doctor.trials.trial import Trial

Severity = Literal["ill", "suspected", "note"]
"""ill: the criterion proves the fault, or a remedy helped when it was tried. suspected: there are
signs, but no remedy was tried. note: there are signs, but no remedy helped, or what was found is no
fault."""


@dataclass(frozen=True)
class Finding:
    """A suspicion, and the outcomes of the trials of its remedies.

    trials: one for each remedy that was tried. untried: why no remedy was tried; empty if one was.
    symptoms: other findings that this one explains.
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
        """The trial that helped most; none if no trial helped."""
        helping = [trial for trial in self.trials if trial.helps]
        return max(helping, key=lambda trial: trial.gain.estimate, default=None)
