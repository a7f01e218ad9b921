"""Tuning that is added to a race keeps what the race has, and trains nothing twice."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from counting import Counting, calls_of_check
from test_pretrain_race import waves
from test_race import NET, StopAtLook, Watched, outcome, short
from thalweg import recipes
from thalweg.api import Race, race
from thalweg.errors import UserError
from thalweg.racing.ledger import FILE
from thalweg.racing.record import Record, RunRecord
from thalweg.racing.search import seeds_from
from thalweg.recipes import Recipe
from thalweg.tasks import Task


def begun(runs: Path, task: Task = NET, **more: Any) -> Race:
    """With these seeds one entrant chooses another configuration after more tuning."""
    given = {"trials": 9, "tuning_seeds": 2, "seeds": 12, "seed": 6} | more
    return short(runs, task, **given)


def resumed(runs: Path, trials: int | None = 13, task: Task = NET, **more: Any) -> Race:
    return race(task, resume="net", trials=trials, runs=runs, **more)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Race:
    return begun(tmp_path_factory.mktemp("first"))


@pytest.fixture
def copied(first: Race, tmp_path: Path) -> Path:
    """Runs with a copy of a race that is finished."""
    shutil.copytree(first.folder, tmp_path / "runs" / "net")
    return tmp_path / "runs"


def rows(runs: Path, table: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(runs / "net" / FILE)
    found = connection.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall()
    connection.close()
    return found


def runs_of(record: Record, round_: str) -> list[RunRecord]:
    return [run for run in record.runs if run.round == round_]


def test_what_is_on_record_stays_and_the_search_goes_on_from_it(first: Race, copied: Path) -> None:
    tables = ("runs", "points", "configurations", "asked", "chosen", "looks", "departures")
    before = {table: rows(copied, table) for table in tables}
    record = resumed(copied).record
    assert record.settings == replace(first.record.settings, trials=13, earlier=(9,))
    for table, kept in before.items():
        assert rows(copied, table)[: len(kept)] == kept
    tuning = runs_of(first.record, "tuning")
    assert repr(runs_of(record, "tuning")[: len(tuning)]) == repr(tuning)
    assert Counter(one.entrant for one in record.configurations) == {"sgd": 13, "adam": 13}
    assert all(one.refined for one in record.configurations[len(first.record.configurations) :])


def test_the_best_by_now_run_the_same_final_seeds_and_are_looked_at_anew(
    first: Race, copied: Path
) -> None:
    count = len(rows(copied, "runs"))
    record = resumed(copied).record
    assert record.chosen["sgd"] != first.record.chosen["sgd"]
    assert record.chosen["adam"] == first.record.chosen["adam"]
    final = runs_of(record, "final")
    assert {(run.entrant, run.configuration) for run in final} == set(record.chosen.items())
    seeds = seeds_from(record.settings).final
    for name in ("sgd", "adam"):
        own = [run.seed for run in final if run.entrant == name]
        assert sorted(own) == sorted(seeds[: len(own)])
        assert len(own) >= record.looks[-1].seeds
    assert all(run.test for run in final)
    assert record.looks[0].on == ("sgd", "adam")
    kept = {run.seed for run in runs_of(first.record, "final") if run.entrant == "adam"}
    anew = [row for row in rows(copied, "runs")[count:] if row[1] == "final"]
    assert {row[2] for row in anew} >= {"sgd"}
    assert not any(row[2] == "adam" and row[4] in kept for row in anew)


def test_an_entrant_that_had_stopped_is_looked_at_again(tmp_path: Path) -> None:
    (stop,) = begun(tmp_path, seed=12, trials=12).record.stops
    record = resumed(tmp_path, trials=16).record
    assert (record.stops, stop.entrant) == ((), "adam")
    assert sum(one.entrant == "adam" for one in record.configurations) > stop.trials
    assert len(record.configurations) == 2 * 16
    assert len(rows(tmp_path, "stops")) == 1


def test_nothing_is_trained_twice(tmp_path: Path) -> None:
    counting = Counting()
    task = replace(NET, loss=counting, metric=counting, direction="min", also={})
    begun(tmp_path, task, step="single")
    before = len(rows(tmp_path, "runs"))
    counting.begin(None)
    resumed(tmp_path, task=task)
    members = [row[1:5] for row in rows(tmp_path, "runs")]
    assert len(set(members)) == len(members)
    looks = counting.calls - NET.steps * (len(members) - before)
    counting.begin(None)
    resumed(tmp_path, task=task)
    assert counting.calls == looks >= calls_of_check(task)


@pytest.mark.parametrize("stop_at_step", [1, 8, 20, 33, 40])
def test_tuning_that_was_stopped_ends_as_if_it_was_not(
    first: Race, copied: Path, tmp_path: Path, stop_at_step: int
) -> None:
    shutil.copytree(first.folder, tmp_path / "whole" / "net")
    whole, stopped, again = Watched(), Watched(stop_at_step), Watched()
    uninterrupted = resumed(tmp_path / "whole", progress=whole).record
    with pytest.raises(KeyboardInterrupt):
        resumed(copied, progress=stopped)
    record = resumed(copied, progress=again).record
    assert outcome(record) == outcome(uninterrupted)
    assert stopped.done + again.done == whole.done
    assert rows(copied, "runs") == rows(tmp_path / "whole", "runs")


def test_tuning_that_was_stopped_keeps_the_test_data_sealed(copied: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        resumed(copied, progress=StopAtLook(1))
    assert rows(copied, "opened") == [(0,)]
    resumed(copied, None)
    assert rows(copied, "opened") == [(0,), (1,)]


def test_a_race_that_was_stopped_ends_before_tuning_is_added(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        begun(tmp_path / "stopped", progress=Watched(stop_at_step=20))
    record = resumed(tmp_path / "stopped").record
    assert outcome(record) == outcome(resumed(copied).record)


def test_a_race_that_was_stopped_is_resumed_without_its_arguments(
    first: Race, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        begun(tmp_path, progress=Watched(stop_at_step=20))
    assert outcome(resumed(tmp_path, None).record) == outcome(first.record)


def test_the_same_arguments_with_more_trials_add_tuning_too(copied: Path, tmp_path: Path) -> None:
    shutil.copytree(copied, tmp_path / "other")
    record = resumed(copied).record
    told = Watched()
    assert outcome(begun(tmp_path / "other", trials=13).record) == outcome(record)
    assert outcome(begun(tmp_path / "other", trials=13, progress=told).record) == outcome(record)
    assert (told.rounds, told.done) == ([], [])


def test_tuning_is_added_more_than_once_and_the_verdict_says_so(first: Race, copied: Path) -> None:
    assert not any("were opened" in line for line in first.verdict.limits)
    second, third = resumed(copied), resumed(copied, 14)
    assert third.record.settings.earlier == (9, 13)
    assert Counter(one.entrant for one in third.record.configurations) == {"sgd": 14, "adam": 14}
    for raced, words in (
        (second, "opened 2 times, the last time after tuning was added to a race of 9 trials"),
        (third, "opened 3 times, the last time after tuning was added to a race of 13 trials"),
    ):
        assert sum(words in line for line in raced.verdict.limits) == 1
    assert third.record.command.endswith(
        "; thalweg.race(<Task net>, resume='net', trials=13);"
        " thalweg.race(<Task net>, resume='net', trials=14)"
    )


def test_all_that_was_given_is_on_record(tmp_path: Path) -> None:
    """Recipes of files that are gone, what is tuned of them, the baseline and the twins."""
    mine, used = tmp_path / "mine.toml", tmp_path / "used.toml"
    space = '[space]\nlr = [1e-3, 0.1]\n"betas[0]" = [0.5, 0.9]\n'
    mine.write_text(f"{Recipe(recipes.adam(lr=0.02).rules, 'mine').to_toml()}\n{space}")
    used.write_text(Recipe(recipes.sgd(lr=0.03).rules, "used").to_toml())
    given = {"entrants": ["sgd", str(mine)], "baseline": str(used), "tune": [str(mine)]}
    settings = {"pretrain": True, "cooling": "tune", "trials": 2, "seeds": 2}
    before = short(tmp_path, waves(), **given, **settings).record
    mine.unlink()
    used.unlink()
    record = race(waves(), resume="waves", trials=4, runs=tmp_path).record
    assert record.finished
    assert record.settings == replace(before.settings, trials=4, earlier=(2,))
    assert record.notes == before.notes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"trials": 8}, r"trials 9, not 8; trials can only be added.*--name net-2"),
        ({"trials": 0}, "trials must be a whole number from 1 to 1000, not 0"),
        ({"seeds": 20}, "resume takes seeds from the race's record: leave seeds out"),
        ({"entrants": ["sgd", "lion"]}, "resume takes entrants from the race's record"),
        ({"name": "other"}, "resume takes name from the race's record"),
        ({"resume": "ten"}, r"there is no race in .*ten that could be resumed"),
        ({"resume": "../net"}, "name must be the name of one folder"),
        ({"task": replace(NET, batch_size=8)}, "another batch size under the same name"),
        ({"task": replace(NET, name="ten")}, "task net, not ten"),
    ],
)
def test_what_cannot_be_resumed_gets_a_sentence_and_is_left_as_it_is(
    copied: Path, arguments: dict[str, Any], words: str
) -> None:
    before = (copied / "net" / FILE).read_bytes()
    with pytest.raises(UserError, match=words) as caught:
        race(**{"task": NET, "resume": "net", "runs": copied} | arguments)
    assert "\n" not in str(caught.value)
    assert (copied / "net" / FILE).read_bytes() == before
    assert [path.name for path in copied.iterdir()] == ["net"]


def test_a_race_in_which_none_is_tuned_takes_no_trials(tmp_path: Path) -> None:
    entrants = [recipes.sgd(lr=0.01), recipes.adam(lr=0.01)]
    begun(tmp_path, entrants=entrants, seeds=2)
    with pytest.raises(UserError, match=r"trials 9, not 13.* only to entrants that are tuned"):
        resumed(tmp_path)
