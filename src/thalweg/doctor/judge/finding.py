"""What the doctor says: findings, each with what it rests on, and what became of the advice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from thalweg.doctor.criteria.criterion import Suspicion
from thalweg.doctor.trials.trial import Trial

Severity = Literal["ill", "suspected", "note"]
"""ill: a sound criterion says so, or a remedy helped when it was tried. suspected: there are signs,
and no remedy was tried. note: there are signs, and no remedy that was tried helped, or it is no
fault in itself."""


@dataclass(frozen=True)
class Finding:
    """A suspicion, and the outcome of the trials.

    trials: one for each remedy that was tried. untried: why none was tried. symptoms: other
    findings that it explains.
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
