"""The verbs from Python, each what its command does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from thalweg.arguments import require_path
from thalweg.doctor.judge import diagnosis, doctor
from thalweg.doctor.judge.loop import diagnose as run_diagnosis
from thalweg.racing.race import Result
from thalweg.racing.race import race as run_race
from thalweg.stack.reading import Batch
from thalweg.whole_file import write_text


@dataclass(frozen=True)
class Race(Result):
    """A finished race, which can write its files."""

    @property
    def winner(self) -> Path | None:
        """The file that holds the winning recipe; none where every entrant diverged."""
        return self.folder / "winner.toml" if self.best else None

    def write_files(self) -> None:
        """Writes the verdict as `verdict.json`, and the winning recipe, where there is one.

        UserError where they cannot be written.
        """
        write_text(self.folder / "verdict.json", self.verdict.to_json())
        if self.best is not None and self.winner is not None:
            write_text(self.winner, self.best.to_toml())

    def report(self, path: str | Path | None = None) -> Path:
        """Writes the report, one HTML file that opens without a network, and says where.

        path: its place; `report.html` beside the ledger if not given.
        """
        # Plotly takes a while to import, and training needs none of it.
        from thalweg.report.report import write_report

        place = self.folder / "report.html" if path is None else require_path("path", path)
        write_report(self.record, place, self.named)
        return place


@wraps(run_race)
def race(*args: Any, **kwargs: Any) -> Race:
    raced = Race(**vars(run_race(*args, **kwargs)))
    raced.write_files()
    return raced


@dataclass(frozen=True)
class Diagnosis(diagnosis.Diagnosis):
    """A diagnosis, which can write its report."""

    def report(self, path: str | Path) -> Path:
        """Writes the report, one HTML file that opens without a network, and says where."""
        from thalweg.report.diagnosis import write_diagnosis

        return write_diagnosis(self, require_path("path", path))


@wraps(run_diagnosis)
def diagnose(*args: Any, **kwargs: Any) -> Diagnosis:
    return Diagnosis(**vars(run_diagnosis(*args, **kwargs)))


class Doctor(doctor.Doctor):
    __doc__ = doctor.Doctor.__doc__

    def diagnosis(self, coming: Iterable[Batch] | None = None) -> Diagnosis:
        return Diagnosis(**vars(super().diagnosis(coming)))

    diagnosis.__doc__ = doctor.Doctor.diagnosis.__doc__
