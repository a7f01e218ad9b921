"""The ledger: what was written is there, nothing else is, and other races are left alone."""

from __future__ import annotations

import math
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from made_record import MADE
from thalweg.errors import UserError
from thalweg.racing.ledger import FILE, Ledger
from thalweg.racing.record import (
    Certainty,
    Configuration,
    Cost,
    Departure,
    Edge,
    Look,
    Plan,
    RunRecord,
    Settings,
    Stop,
)
from thalweg.rules.space import log
from thalweg.training.run import Evaluation

SETTINGS = replace(
    MADE,
    task="digits",
    trials=1,
    spaces={"sgd": {"lr": log(1e-3, 1.0)}, "adam": {"lr": log(1e-4, 0.1)}},
    recipes={"sgd": "sgd's recipe", "adam": "adam's recipe"},
    cooled=("sgd", "adam"),
    fingerprint={"another loss": "abc"},
)
CONFIGURATIONS = [
    Configuration("sgd", 0, {"lr": 0.1}, "sgd's recipe"),
    Configuration("adam", 0, {"lr": 0.01, "betas[0]": 0.9}, "adam's recipe"),
]
MACHINE = {"python": "3"}
COMMAND = "thalweg race digits"
PLAN = Plan("stacked", 2, 32, 0.125, "Members are stepped stacked in 2 lanes.")


def run(entrant: str = "sgd", seed: int = 1, score: float = 0.1 + 0.2) -> RunRecord:
    curve = (Evaluation(5, 1 / 3, 0.5, {"accuracy": 0.25}), Evaluation(10, 0.2, score))
    return RunRecord("final", entrant, 0, seed, score, None, None, curve, {"loss": 0.75})


def diverged(entrant: str = "adam", seed: int = 1) -> RunRecord:
    return RunRecord("tuning", entrant, 0, seed, math.nan, 3, "the loss was inf", ())


def opened(folder: Path, settings: Settings = SETTINGS) -> Ledger:
    return Ledger.open(folder, settings, CONFIGURATIONS, MACHINE, COMMAND)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = opened(tmp_path / "race")
    yield ledger
    ledger.close()


def test_what_is_written_is_read_by_the_next_process(tmp_path: Path) -> None:
    look = Look(2, 0.0125, ("sgd", "adam"), (Departure("adam", "sgd", 0.001),))
    edge = Edge("sgd", "lr", 1.0, 1e-3, 1.0)
    costs = [
        Cost("sgd", 0.001, 0.0009, 0.0012, 0.0002, 0.0),
        Cost("adam", 0.002, 0.0019, 0.0021, 0.0003, 2.0),
    ]
    refined = Configuration("sgd", 1, {"lr": 0.2}, "sgd's recipe", refined=True)
    stop, certainty = Stop("adam", 1, 0.0125), Certainty("sgd", 0.75, 0.125)
    first = opened(tmp_path / "race")
    first.add_asked(0, [], [("sgd", 0, 3), ("adam", 0, 3)], [])
    first.add_asked(1, [refined], [("sgd", 1, 2)], [stop])
    first.add_runs([run()])
    first.add_costs(costs, PLAN)
    first.add_choice({"sgd": 0, "adam": 0}, [edge])
    first.add_notes(["a note", "a note"])
    first.add_look(look)
    first.add_certainties([certainty])
    first.open_seal()
    first.close()
    second = opened(tmp_path / "race")
    record = second.read()
    assert record.settings == SETTINGS
    assert record.configurations == (*CONFIGURATIONS, refined)
    assert (record.stops, record.certainties) == ((stop,), (certainty,))
    assert [second.asked(stage) for stage in range(3)] == [
        [("sgd", 0, 3), ("adam", 0, 3)],
        [("sgd", 1, 2)],
        [],
    ]
    assert record.runs == (run(),)
    assert record.costs == {cost.entrant: cost for cost in costs}
    assert record.chosen == {"sgd": 0, "adam": 0}
    assert (record.looks, record.edges, record.notes) == ((look,), (edge,), ("a note",))
    assert record.command == COMMAND
    assert (record.finished, record.machine, second.plan) == (True, MACHINE, PLAN)
    second.close()


def test_numbers_that_are_not_finite_come_back_as_they_were(ledger: Ledger) -> None:
    odd = (Evaluation(1, math.inf, -math.inf, {"accuracy": math.nan}), Evaluation(2, math.nan, 0.0))
    ledger.add_runs([replace(run(), score=math.nan, curve=odd)])
    (back,) = ledger.read().runs
    assert math.isnan(back.score)
    assert (back.curve[0].train_loss, back.curve[0].metric) == (math.inf, -math.inf)
    assert math.isnan(back.curve[0].also["accuracy"])
    assert math.isnan(back.curve[1].train_loss)


def test_a_divergence_keeps_its_step_and_reason(ledger: Ledger) -> None:
    ledger.add_runs([diverged()])
    (back,) = ledger.read().runs
    assert (back.diverged_step, back.reason, back.curve) == (3, "the loss was inf", ())
    assert math.isnan(ledger.scores("tuning")["adam", 0, 1])


def test_test_scores_stay_sealed_until_the_seal_is_opened(ledger: Ledger) -> None:
    ledger.add_runs([run()])
    assert not ledger.finished
    assert ledger.read().runs[0].test == {}
    ledger.open_seal()
    assert ledger.finished
    assert ledger.read().runs[0].test == {"loss": 0.75}


def test_what_a_stage_asks_for_is_written_whole_or_not_at_all(ledger: Ledger) -> None:
    refined = Configuration("sgd", 1, {"lr": 0.2}, "sgd's recipe", refined=True)
    with pytest.raises(UserError):
        ledger.add_asked(1, [refined, CONFIGURATIONS[0]], [("sgd", 1, 2)], [])
    assert ledger.configurations() == tuple(CONFIGURATIONS)
    assert ledger.asked(1) == []


def test_a_block_is_written_whole_or_not_at_all(ledger: Ledger) -> None:
    ledger.add_runs([run(seed=1)])
    with pytest.raises(UserError):
        ledger.add_runs([run(seed=2), run(seed=3), run(seed=1)])
    assert [one.seed for one in ledger.read().runs] == [1]
    ledger.add_runs([run(seed=2)])
    assert [one.seed for one in ledger.read().runs] == [1, 2]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seeds": 3}, "seeds 2, not 3"),
        ({"entrants": ("sgd", "lion")}, "entrants sgd, adam, not sgd, lion"),
        ({"target": 0.5}, "target None, not 0.5"),
        ({"fingerprint": {"another loss": "xyz"}}, "with another loss under"),
    ],
)
def test_the_ledger_of_another_race_is_left_as_it_is(
    tmp_path: Path, changed: dict, words: str
) -> None:
    opened(tmp_path / "race").close()
    before = (tmp_path / "race" / FILE).read_bytes()
    with pytest.raises(UserError, match=f"{words}.*--name race-2"):
        opened(tmp_path / "race", replace(SETTINGS, **changed))
    assert (tmp_path / "race" / FILE).read_bytes() == before
    assert [path.name for path in tmp_path.rglob("*")] == ["race", FILE]


def test_another_recipe_under_an_old_name_is_another_race(tmp_path: Path) -> None:
    opened(tmp_path / "race").close()
    changed = replace(SETTINGS, recipes={**SETTINGS.recipes, "sgd": "another"})
    with pytest.raises(UserError, match="another recipe or search space for sgd"):
        opened(tmp_path / "race", changed)


def test_another_search_space_under_an_old_name_is_another_race(tmp_path: Path) -> None:
    opened(tmp_path / "race").close()
    wider = replace(SETTINGS, spaces={**SETTINGS.spaces, "adam": {"lr": log(1e-4, 1.0)}})
    with pytest.raises(UserError, match="another recipe or search space for adam"):
        opened(tmp_path / "race", wider)


def test_the_suggested_name_is_free(tmp_path: Path) -> None:
    opened(tmp_path / "race").close()
    (tmp_path / "race-2").mkdir()
    with pytest.raises(UserError, match="--name race-3"):
        opened(tmp_path / "race", replace(SETTINGS, seed=1))


def test_another_machine_is_noted_and_no_obstacle(tmp_path: Path) -> None:
    opened(tmp_path / "race").close()
    ledger = Ledger.open(tmp_path / "race", SETTINGS, CONFIGURATIONS, {"python": "4"}, COMMAND)
    assert "more than one machine" in ledger.read().notes[0]
    ledger.close()


def test_another_machine_that_only_redraws_is_not_noted(tmp_path: Path) -> None:
    first = opened(tmp_path / "race")
    first.open_seal()
    first.close()
    ledger = Ledger.open(tmp_path / "race", SETTINGS, CONFIGURATIONS, {"python": "4"}, COMMAND)
    assert ledger.read().notes == ()
    ledger.close()


def test_a_second_process_gets_one_sentence(tmp_path: Path) -> None:
    holder = opened(tmp_path / "race")
    with pytest.raises(UserError, match=r"Another process works in .*--name race-2"):
        opened(tmp_path / "race")
    holder.close()
    opened(tmp_path / "race").close()


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        opened(tmp_path / "race").add_runs([run()])
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    ledger = opened(tmp_path / "race")
    assert ledger.read().runs == (replace(run(), test={}),)
    ledger.close()


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "race").mkdir()
    (tmp_path / "race" / FILE).write_text("my notes\n" * 200)
    with pytest.raises(UserError, match="not a ledger of thalweg"):
        opened(tmp_path / "race")
    assert (tmp_path / "race" / FILE).read_text() == "my notes\n" * 200


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "race").mkdir()
    other = sqlite3.connect(tmp_path / "race" / FILE)
    other.execute("CREATE TABLE facts (name TEXT, value TEXT)")
    other.close()
    with pytest.raises(UserError, match="not a ledger of thalweg"):
        opened(tmp_path / "race")


def test_a_ledger_of_another_version_is_left_alone(tmp_path: Path) -> None:
    opened(tmp_path / "race").close()
    other = sqlite3.connect(tmp_path / "race" / FILE)
    other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(UserError, match=r"another version of thalweg .* 99"):
        opened(tmp_path / "race")


def test_an_empty_file_becomes_a_ledger(tmp_path: Path) -> None:
    (tmp_path / "race").mkdir()
    (tmp_path / "race" / FILE).touch()
    opened(tmp_path / "race").close()


def test_a_folder_below_a_file_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UserError, match=r"folder .*runs/race cannot be made"):
        opened(tmp_path / "runs" / "race")


def test_a_disk_that_fills_up_keeps_what_was_finished(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "race")
    written = []
    room = 8192 + (tmp_path / "race" / FILE).stat().st_size
    with room_for(room), pytest.raises(UserError, match=r"The ledger in .*race cannot be written"):
        for seed in range(1000):
            ledger.add_runs([run(seed=seed)])
            written.append(seed)
    assert written
    assert [one.seed for one in ledger.read().runs] == written
    ledger.close()
    ledger = opened(tmp_path / "race")
    ledger.add_runs([run(seed=5000)])
    assert [one.seed for one in ledger.read().runs] == [*written, 5000]
    ledger.close()


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes: what is written past it fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_folder_that_may_not_be_written_to_gets_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "race"
    folder.mkdir()
    folder.chmod(0o555)
    program = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_ledger import opened
opened(Path({str(folder)!r}))
"""
    command = [sys.executable, "-c", program]
    if os.geteuid() == 0:
        # A file's mode does not bind root while it has these capabilities.
        powers = "-dac_override,-dac_read_search"
        command = ["setpriv", "--bounding-set", powers, "--inh-caps", powers, *command]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"UserError: The ledger in {folder} cannot be written" in finished.stderr
    assert list(folder.iterdir()) == []
