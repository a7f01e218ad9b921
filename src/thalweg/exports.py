"""A race for other programs: pandas, CSV files, and a study of Optuna."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.errors import UserError
from thalweg.racing.record import Record
from thalweg.rules.space import Space
from thalweg.whole_file import unwritable, whole_file

if TYPE_CHECKING:
    from optuna.distributions import FloatDistribution

Rows = Sequence[Mapping[str, Any]]


def runs(record: Record) -> list[dict[str, Any]]:
    """A row for each run: its round, entrant, seed and score, and the values that were tuned.

    A run that diverged has no score, and the step at which it did.
    """
    values = {one.key: one.values for one in record.configurations}
    return [
        {
            "round": run.round,
            "entrant": run.entrant,
            "configuration": run.configuration,
            "seed": run.seed,
            record.settings.metric: run.score,
            "diverged_step": run.diverged_step,
            "reason": run.reason,
            **values[run.member[:2]],
        }
        for run in record.runs
    ]


def curves(record: Record) -> list[dict[str, Any]]:
    """A row for each evaluation of each run: the training loss and the validation metrics."""
    return [
        {
            "round": run.round,
            "entrant": run.entrant,
            "configuration": run.configuration,
            "seed": run.seed,
            "step": point.step,
            "training_loss": point.train_loss,
            record.settings.metric: point.metric,
            **point.also,
        }
        for run in record.runs
        for point in run.curve
    ]


def write_csv(folder: Path, tables: Mapping[str, Rows]) -> list[Path]:
    """Writes each table as a file of that name; the paths. UserError if one cannot be written."""
    written = []
    for name, rows in tables.items():
        columns = dict.fromkeys(column for row in rows for column in row)
        path = folder / f"{name}.csv"
        try:
            with whole_file(path) as unfinished, unfinished.open("w", newline="") as file:
                table = csv.DictWriter(file, list(columns))
                table.writeheader()
                table.writerows(rows)
        except OSError as error:
            raise unwritable(path, error) from error
        written.append(path)
    return written


def write_study(record: Record, storage: str, name: str) -> None:
    """Adds the race to a storage of Optuna, such as `sqlite:///study.db`, as a study of that name.

    Each run is a trial: the entrant and the tuned values are its parameters, the evaluations its
    intermediate values. A run that diverged is a trial that failed.

    Raises UserError without Optuna, and for a storage that has such a study or cannot be opened.
    """
    try:
        import optuna
    except ImportError:
        raise UserError("Optuna is not installed: pip install optuna.") from None
    minimize = record.settings.direction == "min"
    try:
        study = optuna.create_study(
            storage=storage, study_name=name, direction="minimize" if minimize else "maximize"
        )
    except optuna.exceptions.DuplicatedStudyError:
        raise UserError(f"{storage} has a study {name} already: give another --name.") from None
    except Exception as error:
        raise UserError(f"{storage} cannot be opened: {error}") from error
    values = {one.key: one.values for one in record.configurations}
    entrants = optuna.distributions.CategoricalDistribution(record.settings.entrants)
    for run in record.runs:
        tuned = values[run.member[:2]]
        known = {
            f"{run.entrant} {setting}": floats(record.settings.spaces[run.entrant][setting], value)
            for setting, value in tuned.items()
        }
        ended = math.isfinite(run.score)
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE if ended else optuna.trial.TrialState.FAIL,
                value=run.score if ended else None,
                params={"entrant": run.entrant}
                | {f"{run.entrant} {setting}": value for setting, value in tuned.items()},
                distributions={"entrant": entrants, **known},
                intermediate_values=dict(intermediate(run.curve)),
                user_attrs={"round": run.round, "seed": run.seed, "reason": run.reason},
            )
        )


def intermediate(curve: Sequence[Any]) -> Iterator[tuple[int, float]]:
    return ((point.step, point.metric) for point in curve if math.isfinite(point.metric))


def floats(space: Space, value: float) -> FloatDistribution:
    """The distribution of a tuned setting, as wide as its values: a race may widen its space."""
    from optuna.distributions import FloatDistribution

    low, high = min(space.low, value), max(space.high, value)
    return FloatDistribution(low, high, log=space.scale == "log")
