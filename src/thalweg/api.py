"""The verbs as Python calls. Each does what its command does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from thalweg.arguments import require_path
from thalweg.comparing.compare import compare as compare
from thalweg.doctor.judge import diagnosis, doctor
from thalweg.doctor.judge.loop import diagnose as run_diagnosis
from thalweg.errors import UserError
from thalweg.exports import runs
from thalweg.racing.ledger import Ledger
from thalweg.racing.race import Result
from thalweg.racing.race import race as run_race
from thalweg.racing.verdict import verdict
from thalweg.recipe import Recipe
from thalweg.tasks.forms import Batch
from thalweg.whole_file import write_text

Arguments = ParamSpec("Arguments")
Given = TypeVar("Given")
Made = TypeVar("Made")


def then(
    run: Callable[Arguments, Given], make: Callable[[Given], Made]
) -> Callable[Arguments, Made]:
    """A function with the arguments of `run`, which hands the result of `run` to `make`."""

    @wraps(run)
    def both(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Made:
        return make(run(*args, **kwargs))

    both.__signature__ = signature(run).replace(  # type: ignore[attr-defined]
        return_annotation=make.__annotations__["return"]
    )
    return both


@dataclass(frozen=True)
class Race(Result):
    """A finished race, which can write its files."""

    @property
    def winner(self) -> Path | None:
        """The file that holds the winning recipe; None if every entrant diverged."""
        return self.folder / "winner.toml" if self.best else None

    def write_files(self) -> None:
        """Writes the verdict as `verdict.json`, and the winning recipe if there is one.

        Raises UserError if they cannot be written.
        """
        write_text(self.folder / "verdict.json", self.verdict.to_json())
        if self.best is not None and self.winner is not None:
            write_text(self.winner, self.best.to_toml())

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row for each run; see `thalweg.exports.runs`.

        Raises UserError without pandas.
        """
        try:
            from pandas import DataFrame  # type: ignore[import-untyped]
        except ImportError:
            raise UserError("pandas is not installed: pip install pandas.") from None
        return DataFrame(runs(self.record))

    def report(self, path: str | Path | None = None) -> Path:
        """Writes the report, one HTML file that opens without a network, and returns its path.

        path: the file; if not given, `report.html` in the folder of the race.
        """
        # Plotly takes a while to import, and training does not need it.
        from thalweg.report.report import write_report

        place = self.folder / "report.html" if path is None else require_path("path", path)
        write_report(self.record, place, self.named)
        return place


def written(result: Result) -> Race:
    """The race of a result, with its files written."""
    raced = Race(**vars(result))
    raced.write_files()
    return raced


race = then(run_race, written)


def load(folder: str | Path) -> Race:
    """The race in a folder, such as `runs/mine`, as far as it has come.

    Raises UserError if there is no race, if another process works in the folder, and for a file
    that is damaged.
    """
    named = require_path("folder", folder)
    record = Ledger.record(named)
    judged = verdict(record)
    best = Recipe.from_toml(judged.recipe) if judged.recipe else None
    return Race(record, judged, best, named.absolute(), named)


@dataclass(frozen=True)
class Diagnosis(diagnosis.Diagnosis):
    """A diagnosis, which can write its report."""

    def report(self, path: str | Path) -> Path:
        """Writes the report, one HTML file that opens without a network, and returns its path."""
        from thalweg.report.diagnosis import write_diagnosis

        return write_diagnosis(self, require_path("path", path))


def with_report(made: diagnosis.Diagnosis) -> Diagnosis:
    """A diagnosis that can also write its report."""
    return Diagnosis(**vars(made))


diagnose = then(run_diagnosis, with_report)


class Doctor(doctor.Doctor):
    __doc__ = doctor.Doctor.__doc__

    def diagnosis(self, coming: Iterable[Batch] | None = None) -> Diagnosis:
        return with_report(super().diagnosis(coming))

    diagnosis.__doc__ = doctor.Doctor.diagnosis.__doc__
