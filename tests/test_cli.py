"""The commands, as a person would type them."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import thalweg as tw
from thalweg import cli
from thalweg.doctor.criteria import CRITERIA
from thalweg.recipes import RECIPES, Recipe
from thalweg.tasks import bundled, find

QUICK = ["--entrants", "sgd,adam", "--trials", "2", "--seeds", "6", "--width", "4"]
QUICK += ["--step", "stacked", "--lanes", "1"]

OWN_TASK = """
import torch
from torch import nn
from thalweg import Data, Task

def model():
    return nn.Linear(3, {outputs})

def data():
    torch.manual_seed(0)
    inputs = torch.randn(40, 3)
    targets = inputs.sum(1, keepdim=True)
    return Data(train=(inputs[:20], targets[:20]),
                validation=(inputs[20:30], targets[20:30]),
                test=(inputs[30:], targets[30:]))

def loss(outputs, targets):
    return {loss}

task = Task(name={name!r}, model=model, data=data, loss=loss, batch_size=10, steps=10)
"""

EVALUATED = (
    r"epoch \d+ of 5, step \d+ of 10: training loss [\d.e-]+, validation loss [\d.e-]+, "
    r"about \d+ s left"
)
SQUARES = "((outputs - targets) ** 2).mean()"


class Outcome:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def thalweg(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path):
    """Runs a command in a fresh folder, and gives its exit status and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["thalweg", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
            raise SystemExit(0)
        captured = capfd.readouterr()
        return Outcome(int(stop.value.code or 0), captured.out, captured.err)

    return run


def own_task(name: str = "mine", outputs: int = 1, loss: str = SQUARES) -> str:
    Path("mine.py").write_text(OWN_TASK.format(name=name, outputs=outputs, loss=loss))
    return "mine.py:task"


def test_tasks_lists_every_bundled_task(thalweg) -> None:
    outcome = thalweg("tasks")
    assert outcome.status == 0
    assert all(task.name in outcome.out for task in bundled())


def test_a_race_ends_with_a_verdict_a_winner_and_a_report_and_is_then_only_redrawn(
    thalweg,
) -> None:
    first = thalweg("race", "saddle", *QUICK)
    assert first.status == 0, first.err
    assert "report: runs/saddle/report.html" in first.out
    assert Path("runs/saddle/report.html").read_text().startswith("<!doctype html>")
    winner = Recipe.from_toml(Path("runs/saddle/winner.toml").read_text())
    assert winner.name in ("sgd", "adam")
    told = json.loads(Path("runs/saddle/verdict.json").read_text())
    assert told["sentence"] in " ".join(first.out.split())
    assert Recipe.from_toml(told["recipe"]) == winner

    Path("runs/saddle/report.html").unlink()
    again = thalweg("race", "saddle", *QUICK)
    assert again.status == 0
    assert "round:" in first.out
    assert "round:" not in again.out
    assert Path("runs/saddle/report.html").exists()
    assert again.out.splitlines()[-3:] == first.out.splitlines()[-3:]


def test_recipe_files_race_as_they_stand_unless_they_are_to_be_tuned(thalweg) -> None:
    mine = Recipe(tw.adam(lr=0.003).rules, "mine")
    Path("mine.toml").write_text(mine.to_toml())
    Path("other.toml").write_text(tw.sgd(lr=0.1).to_toml())
    quick = [*QUICK, "--entrants", "mine.toml,other.toml"]
    asis = thalweg("race", "saddle", *quick)
    assert asis.status == 0, asis.err
    assert "mine races as it stands, untuned and without the common cooling: lr 0.003" in asis.out
    winner = Recipe.from_toml(Path("runs/saddle/winner.toml").read_text())
    assert winner in (mine, tw.sgd(lr=0.1))

    refused = thalweg("race", "saddle", *quick, "--tune", "mine.toml")
    assert refused.status == 2
    assert "another recipe or search space for mine" in refused.err
    tuned = thalweg("race", "saddle", *quick, "--tune", "mine.toml", "--name", "tuned")
    assert tuned.status == 0, tuned.err
    assert "mine is tuned in lr (1e-05 to 1), betas[0] (0.5 to 0.99)" in tuned.out
    assert "other races as it stands" not in tuned.out
    assert "sgd races as it stands" in tuned.out


def test_tuning_is_added_to_a_race_by_its_name_and_the_command_on_record_repeats_all(
    thalweg,
) -> None:
    task = own_task()
    assert thalweg("race", task, *QUICK).status == 0
    added = thalweg("race", task, "--resume", "mine", "--trials", "3")
    assert added.status == 0, added.err
    assert "Each entrant was tried with 3 configurations" in added.out
    assert "Going on in runs/mine" in added.out
    page = html.unescape(Path("runs/mine/report.html").read_text())
    (command,) = re.findall(r"<pre><code>(thalweg race .*)</code></pre>", page)
    winner = Path("runs/mine/winner.toml").read_text()
    Path("runs").rename("before")
    for one in command.split(" && "):
        assert thalweg(*shlex.split(one)[1:]).status == 0
    assert Path("runs/mine/winner.toml").read_text() == winner
    repeated = html.unescape(Path("runs/mine/report.html").read_text())
    assert command in repeated
    fewer = thalweg("race", task, "--resume", "mine", "--trials", "2")
    assert (fewer.status, fewer.out) == (2, "")
    assert "trials 3, not 2" in fewer.err


def test_a_file_that_cannot_be_written_does_not_cost_the_verdict(thalweg) -> None:
    Path("runs/saddle/winner.toml").mkdir(parents=True)
    stopped = thalweg("race", "saddle", *QUICK)
    assert stopped.status == 2
    assert "tuned recipes on saddle" in stopped.out
    assert stopped.err == (
        f"thalweg: {Path.cwd()}/runs/saddle/winner.toml cannot be written: it is not a regular"
        " file.\n"
    )


def test_a_race_on_a_task_of_ones_own_and_training_with_its_winner(thalweg) -> None:
    task = own_task()
    assert thalweg("race", task, *QUICK).status == 0
    trained = thalweg(
        "train", task, "--recipe", "runs/mine/winner.toml", "--out", "a/m.safetensors"
    )
    assert trained.status == 0, trained.err
    assert len(re.findall(EVALUATED, trained.out)) == 10
    assert "validation: loss" in trained.out
    assert "test: loss" in trained.out
    assert set(load_file("a/m.safetensors")) == {"weight", "bias"}


def test_biases_do_not_decay_where_that_is_asked_for(thalweg) -> None:
    task = own_task()
    raced = thalweg("race", task, *QUICK, "--no-decay")
    assert raced.status == 0, raced.err
    winner = Recipe.from_toml(Path("runs/mine/winner.toml").read_text())
    assert [one.name for one in winner.routes] == ["no decay"]
    assert "--no-decay" in Path("runs/mine/report.html").read_text()
    assert thalweg("train", task, "--recipe", "adamw", "--no-decay").status == 0
    with safe_open("model.safetensors", "pt") as kept:
        assert "no decay" in kept.metadata()["recipe"]


@pytest.mark.usefixtures("thalweg")
def test_markup_in_a_name_is_text_in_the_report_and_stays_in_its_folder() -> None:
    task = find(own_task(name="<script>alert(1)</script>/../.."))
    result = tw.race(task, ["sgd", "adam"], trials=2, seeds=2)
    written = result.report().read_text()
    assert "<script>alert(1)" not in written
    assert "&lt;script&gt;alert(1)" in written
    assert result.folder.parent == Path("runs").absolute()


ALL_AT_ONCE = """
[[rules]]
rule = "ClipNorm"
max_norm = 0.5

[[rules]]
rule = "Momentum"
lr = {schedule = "plateau", start = 0.1, gamma = 0.5, patience = 0, threshold = 0.5}
momentum = {schedule = "warming", start = 0.5, end = 0.9, steps = 20}

[[rules]]
rule = "ExponentialAverage"
decay = 0.9
"""

STOPS = """
from pathlib import Path
from thalweg.errors import Stopped

steps = []

def stopping(outputs, targets):
    steps.append(1)
    if Path("stop").exists() and len(steps) > 25:
        raise Stopped
    return loss(outputs, targets)

task = Task(name="mine", model=model, data=data, loss=stopping, batch_size=5, epochs=10)
"""


@pytest.mark.parametrize("metric", ["training", "validation"])
def test_a_recipe_that_warms_cools_clips_and_averages_goes_on_to_the_same_bits(
    thalweg, metric: str
) -> None:
    task = own_task()
    Path("mine.py").write_text(Path("mine.py").read_text() + STOPS)
    Path("all.toml").write_text(ALL_AT_ONCE.replace("0.5}", f'0.5, metric = "{metric}"}}'))
    command = ["train", task, "--recipe", "all.toml", "--accumulate", "2", "--keep", "best"]
    command += ["--precision", "bfloat16", "--patience", "9"]
    assert thalweg(*command, "--out", "whole.safetensors").status == 0

    Path("stop").touch()
    stopped = thalweg(*command)
    assert stopped.status == 130
    assert "stopped; the same command goes on from the last evaluation." in stopped.err
    assert Path("model.safetensors.unfinished").exists()

    Path("stop").unlink()
    went_on = thalweg(*command)
    assert went_on.status == 0, went_on.err
    assert "epoch 1 of 10" not in went_on.out
    found, expected = load_file("model.safetensors"), load_file("whole.safetensors")
    assert all(torch.equal(found[name], x) for name, x in expected.items())


def test_the_doctors_help_lists_every_criterion(thalweg) -> None:
    shown = " ".join(thalweg("doctor", "--help").out.split())
    assert all(f"- {one}" in shown for one in CRITERIA)


def test_the_recipe_in_the_help_can_be_trained_with(thalweg) -> None:
    shown = thalweg("train", "--help").out
    rules = shown[shown.index("[[rules]]") : shown.index("Arguments:")]
    Path("help.toml").write_text(dedent(rules))
    assert thalweg("train", own_task(), "--recipe", "help.toml").status == 0


RACE = ["race", "saddle", *QUICK]

BAD_INPUT = {
    "unknown task": (["race", "digit"], "digits"),
    "missing file": (["race", "no/such.py:task"], "no/such.py"),
    "missing attribute": (["race", "mine.py:tsk"], "tsk"),
    "unknown entrant": (["race", "saddle", "--entrants", "sgd,adm"], "adm"),
    "one entrant": (["race", "saddle", "--entrants", "sgd"], "two"),
    "unknown cooling": ([*RACE, "--cooling", "warm"], "warm"),
    "no trials": ([*RACE, "--trials", "0"], "trials"),
    "no seeds": ([*RACE, "--seeds", "0"], "seeds"),
    "alpha of one": ([*RACE, "--alpha", "1"], "alpha"),
    "missing baseline": ([*RACE, "--baseline", "none.toml"], "none.toml"),
    "negative lr": (
        [*RACE, "--baseline", "negative.toml"],
        "line 3: lr must be finite and at least 0",
    ),
    "typo in a recipe": (["train", "saddle", "--recipe", "typo.toml"], "line 3"),
    "no such recipe": (["train", "saddle", "--recipe", "none.toml"], "none.toml"),
    "a recipe of bytes": (["train", "saddle", "--recipe", "bytes.toml"], "bytes.toml"),
    "no such precision": (
        ["train", "saddle", "--recipe", "sgd", "--precision", "fp16"],
        "no precision is called fp16; known are full, bfloat16.",
    ),
    "a folder under a file": ([*RACE, "--runs", "mine.py"], "mine.py"),
    "an unknown patient": (["doctor", "digit"], "digits"),
    "a budget in words": (["doctor", "saddle", "--budget", "little"], "--budget"),
    "a budget of no share": (["doctor", "saddle", "--budget", "300%"], "budget"),
    "a run in two folders": (["doctor", "saddle", "--name", "a/b"], "a/b"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_sentence_and_status_2(thalweg, case: str) -> None:
    own_task()
    Path("negative.toml").write_text('[[rules]]\nrule = "SGD"\nlr = -1.0\n')
    Path("typo.toml").write_text('[[rules]]\nrule = "SGD"\nlrr = 0.1\n')
    Path("bytes.toml").write_bytes(b"\xff\xfe\x00")
    arguments, named = BAD_INPUT[case]
    outcome = thalweg(*arguments)
    assert outcome.status == 2
    assert len(outcome.err.strip().splitlines()) == 1
    assert named in outcome.err
    assert not Path("runs").exists()


def test_an_unknown_option_is_named(thalweg) -> None:
    outcome = thalweg("race", "saddle", "--trails", "3")
    assert outcome.status == 2
    assert "No such option: --trails" in outcome.err


@pytest.mark.parametrize(
    ("task", "named"),
    [
        ({"outputs": 2, "loss": "nn.functional.nll_loss(outputs, targets)"}, "loss of task 'mine'"),
        ({"loss": "outputs - targets"}, "one number"),
        ({"loss": f"{SQUARES} * float('nan')"}, "nan at the initial weights"),
    ],
    ids=["wrong shape", "loss not a scalar", "nan from the first step"],
)
def test_a_task_that_cannot_be_trained_is_said_before_anything_is_written(
    thalweg, task: dict[str, object], named: str
) -> None:
    path = own_task(**task)  # type: ignore[arg-type]
    Path("adam.toml").write_text(RECIPES["adam"]().to_toml())
    for command in (
        ["race", path, *QUICK],
        ["train", path, "--recipe", "adam.toml", "--out", "a/b"],
    ):
        outcome = thalweg(*command)
        assert outcome.status == 2
        assert len(outcome.err.strip().splitlines()) == 1
        assert named in outcome.err
    assert not Path("runs").exists()
    assert not Path("a").exists()


def test_a_task_that_fails_late_is_one_sentence_and_the_race_goes_on_when_it_is_mended(
    thalweg,
) -> None:
    task = own_task()
    mended = Path("mine.py").read_text()
    Path("mine.py").write_text(
        mended.replace("def model():\n    return nn.Linear(3, 1)", FAILS_LATE)
    )
    # What counts its calls is not stacked.
    one_by_one = ["race", task, *QUICK, "--step", "single"]
    stopped = thalweg(*one_by_one)
    assert (stopped.status, stopped.err.count("\n")) == (1, 1)
    assert "fails: ValueError: out of luck (mine.py, line" in stopped.err

    Path("mine.py").write_text(mended)
    went_on = thalweg(*one_by_one)
    assert went_on.status == 0, went_on.err
    assert re.search(r"Going on in runs/mine, where \d+ members are done", went_on.out)


def test_a_race_in_which_no_run_ended_well_is_status_1(thalweg) -> None:
    found = thalweg(
        "race", own_task(loss=f"1e30 * {SQUARES}"), *QUICK, "--entrants", "sgd,momentum"
    )
    assert found.status == 1
    assert "every configuration of every entrant diverged" in found.out
    assert "report: runs/mine/report.html" in found.out


@pytest.mark.parametrize("verb", ["race", "train", "doctor"])
def test_a_task_that_exits_is_a_sentence(thalweg, verb: str) -> None:
    task = own_task(loss="sys.exit(0)")
    Path("mine.py").write_text("import sys\n" + Path("mine.py").read_text())
    found = thalweg(verb, task, *(["--recipe", "sgd"] if verb == "train" else []))
    assert found.status == 2
    assert "The loss of task 'mine' failed" in found.err
    assert "SystemExit: 0" in found.err


FAILS_LATE = """
calls = []

def late(*_):
    calls.append(1)
    if len(calls) > 120:
        raise ValueError("out of luck")

def model():
    made = nn.Linear(3, 1)
    made.register_forward_hook(late)
    return made"""


def test_a_ledger_with_other_settings_is_left_alone(thalweg) -> None:
    assert thalweg(*RACE).status == 0
    before = Path("runs/saddle/ledger.sqlite").read_bytes()
    other = thalweg(*RACE, "--cooling", "cosine")
    assert other.status == 2
    assert "cosine" in other.err
    assert "--name" in other.err
    assert Path("runs/saddle/ledger.sqlite").read_bytes() == before


def test_a_program_races_from_the_command_line(thalweg) -> None:
    Path("mine.py").write_text(
        "import sys\n"
        "optimizer, lr, seed = sys.argv[1:]\n"
        "print('loss', abs(float(lr) - 0.01) + int(seed) % 7)\n"
    )
    program = f"{sys.executable} mine.py {{optimizer}} {{lr}} {{seed}}"
    race = ["race", "--command", program, "--metric", "loss (.*)", "--direction", "min"]
    few = ["--entrants", "sgd,adam", "--trials", "2", "--tuning-seeds", "1", "--seeds", "2"]
    outcome = thalweg(*race, *few, "--name", "mine")
    assert outcome.status == 0, outcome.err
    assert "by loss (lower is better)" in " ".join(outcome.out.split())
    more = thalweg(*race, "--resume", "mine", "--trials", "3")
    assert more.status == 0, more.err
    assert "tuning round" in more.out


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "race takes a TASK, or else --command with --metric and --direction"),
        (["digits", "--command", "true"], "race takes a TASK, or else --command"),
        (["digits", "--metric", "loss"], "race takes a TASK, or else --command"),
        (["--command", "true"], "--command needs --metric"),
        (["--command", "true", "--metric", "x", "--direction", "up"], "no direction is called up"),
    ],
)
def test_what_neither_is_a_task_nor_a_program_is_told(thalweg, given, told) -> None:
    outcome = thalweg("race", *given)
    assert (outcome.status, outcome.out) == (2, "")
    assert told in outcome.err


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "thalweg", "race", "rosenbrock", "--entrants", "sgd,adam"]
    command += ["--step", "single", "--lanes", "1"]
    command += ["--trials", "4", "--seeds", "4"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if "members done" in line:
            break
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on from the last checkpoint" in error
    assert finished_runs(tmp_path) >= 1

    went_on = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "already in the ledger" in went_on.stdout
    assert "report: runs/rosenbrock/report.html" in went_on.stdout


@pytest.mark.parametrize("seconds", [0.1, 0.4, 1.0])
def test_ctrl_c_at_the_very_start_is_one_line(seconds: float, tmp_path: Path) -> None:
    start = "from thalweg_command import main; main()"
    command = [sys.executable, "-c", start, "race", "saddle"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.startswith("\nstopped")
    assert error.count("\n") == 2


def test_what_imports_made_is_seldom_searched_for_garbage_and_not_at_the_end() -> None:
    script = (
        "import atexit, gc\n"
        "from thalweg_command import main\n"
        "usual = gc.get_threshold()\n"
        "atexit.register(lambda: print(usual, gc.get_threshold(), gc.get_freeze_count()))\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script, "tasks"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *usual, young, middle, oldest, frozen = map(
        int, re.findall(r"\d+", done.stdout.split("\n")[-2])
    )
    assert [young, middle] == usual[:2]
    assert oldest > usual[2]
    assert frozen > 100_000


def finished_runs(folder: Path) -> int:
    with sqlite3.connect(folder / "runs/rosenbrock/ledger.sqlite") as ledger:
        (count,) = ledger.execute("select count(*) from runs").fetchone()
    return int(count)


def test_entrants_lists_every_optimizer_with_its_search_space(thalweg) -> None:
    outcome = thalweg("entrants")
    assert outcome.status == 0
    assert all(name in outcome.out for name in RECIPES)
    assert "momentum from 0.5 to 0.99, even in log(1 - x)" in outcome.out


SLOW_SADDLE = '[[rules]]\nrule = "SGD"\nlr = 0.01\n'


def test_the_doctor_names_a_low_rate_and_writes_the_winner_s_page_where_the_race_looks_for_it(
    thalweg,
) -> None:
    assert thalweg("race", "saddle", *QUICK, "--name", "first").status == 0
    assert "thalweg doctor saddle --recipe runs/first/winner.toml --name first" in page_of("first")
    Path("slow.toml").write_text(SLOW_SADDLE)
    seen = thalweg("doctor", "saddle", "--recipe", "slow.toml", "--name", "first")
    assert seen.status == 0, seen.err
    told = seen.out.splitlines()
    assert told[0] == "watching saddle train for 40 steps"
    assert "saddle with slow: learning rate too low." in told
    assert told[-1] == "report: runs/first/doctor-slow.html"
    assert "learning rate too low" in Path("runs/first/doctor-slow.html").read_text()

    seen = thalweg("doctor", "saddle", "--no-trials", "--name", "first")
    assert seen.out.splitlines()[-1] == "report: runs/first/doctor.html"
    assert thalweg("race", "saddle", *QUICK, "--name", "first").status == 0
    assert '<a href="doctor.html">' in page_of("first")


def page_of(name: str) -> str:
    return Path(f"runs/{name}/report.html").read_text()
