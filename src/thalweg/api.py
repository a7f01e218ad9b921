"""The verbs from Python, each what its command does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from thalweg.race.race import WINNER, Result
from thalweg.race.race import race as run_race


@dataclass(frozen=True)
class Race(Result):
    """A finished race, which can draw its report."""

    @property
    def winner(self) -> Path | None:
        """The file that holds the winning recipe; none where every entrant diverged."""
        return self.folder / WINNER if self.best else None

    def report(self, path: str | Path | None = None) -> Path:
        """Writes the report, one HTML file that opens without a network, and says where.

        path: its place; `report.html` beside the ledger if not given.
        """
        # Plotly takes a while to import, and training needs none of it.
        from thalweg.report.report import write_report

        place = self.folder / "report.html" if path is None else Path(path)
        write_report(self.record, place)
        return place


@wraps(run_race)
def race(*args: Any, **kwargs: Any) -> Race:
    result = run_race(*args, **kwargs)
    return Race(result.record, result.verdict, result.best, result.folder)
