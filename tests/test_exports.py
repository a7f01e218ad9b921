"""A race for other programs: loaded again, as a table, as CSV files, as a study of Optuna."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler, make_server

import optuna
import pytest
from playwright.sync_api import Browser

import thalweg as tw
from test_cli import Outcome, thalweg  # noqa: F401 (a fixture)
from test_race import NET, SGD, WILD, outcome, short
from thalweg.api import Race
from thalweg.errors import UserError
from thalweg.exports import write_study


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> Race:
    return short(tmp_path_factory.mktemp("runs"), NET, [SGD, WILD, "adam"], trials=3, seeds=3)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_race_is_loaded_as_it_ended(raced: Race) -> None:
    again = tw.load(raced.folder)
    assert outcome(again.record) == outcome(raced.record)
    assert str(again.verdict).splitlines()[0] == str(raced.verdict).splitlines()[0]
    assert again.best == raced.best
    with pytest.raises(UserError, match="there is no race in nowhere"):
        tw.load("nowhere")


def test_a_table_has_a_row_for_each_run(raced: Race, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    table = raced.to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert len(table) == len(raced.record.runs)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pandas is not installed"):
        raced.to_pandas()


def test_csv_files_have_all_runs_and_curves(raced: Race, thalweg, tmp_path: Path) -> None:  # noqa: F811
    done: Outcome = thalweg("export", str(raced.folder), "--csv", str(tmp_path / "tables"))
    assert done.status == 0
    found = rows(tmp_path / "tables" / "runs.csv")
    assert len(found) == len(raced.record.runs)
    for row, run in zip(found, raced.record.runs, strict=True):
        assert (row["entrant"], int(row["seed"])) == (run.entrant, run.seed)
        assert row["loss"] == str(run.score)
    curves = rows(tmp_path / "tables" / "curves.csv")
    assert len(curves) == sum(len(run.curve) for run in raced.record.runs)
    assert float(curves[0]["absolute"]) == raced.record.runs[0].curve[0].also["absolute"]
    assert len(rows(tmp_path / "tables" / "entrants.csv")) == 3


def test_a_race_is_a_study_of_optuna(raced: Race, thalweg, tmp_path: Path) -> None:  # noqa: F811
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    done: Outcome = thalweg("export", str(raced.folder), "--optuna", storage)
    assert (done.status, done.out) == (0, f"study net in {storage}\n")
    study = optuna.load_study(study_name="net", storage=storage)
    runs = raced.record.runs
    assert [trial.value for trial in study.trials] == [
        None if run.entrant == "wild" else run.score for run in runs
    ]
    assert study.best_value == min(run.score for run in runs if run.entrant != "wild")
    tuned = next(trial for trial in study.trials if trial.params["entrant"] == "sgd")
    first = next(run for run in runs if run.entrant == "sgd")
    assert tuned.intermediate_values == {point.step: point.metric for point in first.curve}
    assert "sgd lr" in tuned.params
    again: Outcome = thalweg("export", str(raced.folder), "--optuna", storage)
    assert (again.status, again.out) == (2, "")
    assert "has a study net already: give another --name" in again.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere", "--csv", "tables"], "there is no race in nowhere"),
        ([], "export needs --csv DIR or --optuna URL"),
        (["--optuna", "nothing://x"], "nothing://x cannot be opened"),
        (["--csv", "file/tables"], "cannot be written"),
    ],
)
def test_what_cannot_be_exported_gets_a_sentence(
    raced: Race,
    thalweg,  # noqa: F811
    arguments: list[str],
    told: str,
) -> None:
    Path("file").touch()
    given = arguments if "nowhere" in arguments else [str(raced.folder), *arguments]
    done: Outcome = thalweg("export", *given)
    assert (done.status, done.out) == (2, "")
    assert told in done.err


def test_the_dashboard_of_optuna_opens_the_study(
    raced: Race,
    browser: Browser,
    tmp_path: Path,
) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    write_study(raced.record, storage, "the race")
    server = make_server("127.0.0.1", 0, dashboard.wsgi(storage), handler_class=Quiet)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/dashboard/")
        page.get_by_text("the race").first.click()
        page.get_by_text("Hyperparameter Importance").first.wait_for()
        assert page.get_by_text("History").count() > 0
    finally:
        server.shutdown()
        server.server_close()


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
