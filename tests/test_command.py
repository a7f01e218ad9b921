"""A program that is run without being imported: what it is given, and which number counts."""

from __future__ import annotations

import math
import os
import sys
import tomllib
from pathlib import Path

import pytest

from processes import end_soon
from thalweg.command import Command
from thalweg.errors import FailedError, UserError

LOSS = r"loss: ([\d.]+)"


def printing(text: str, metric: str = LOSS) -> float:
    """What is read from a program that prints this text."""
    return Command(f"printf '{text}'", metric, "min").run({})


def test_values_stand_in_place_of_their_names_and_stay_one_word() -> None:
    command = Command("printf 'loss: %s\\n' {lr} {betas[0]} {name}3", LOSS, "min")
    assert command.names == {"lr", "betas[0]", "name"}
    assert command.run({"lr": 1e-5, "betas[0]": 0.9, "name": "2; no-such-program"}) == 2


def test_values_are_environment_variables_too() -> None:
    command = Command("echo loss: $THALWEG_SEED$THALWEG_BETAS_0", LOSS, "min")
    assert command.run({"seed": 3, "betas[0]": 0.5}) == 30.5


@pytest.mark.parametrize("recipe", [None, 'rules = ["Adam"]\n'])
def test_a_file_of_toml_holds_the_values_or_the_recipe(tmp_path: Path, recipe: str | None) -> None:
    values = {"lr": 0.1, "name": "adam", "betas[0]": 0.9, "seed": 3}
    command = Command(f"cp {{recipe}} {tmp_path}/kept.toml && echo loss: 1", LOSS, "min")
    command.run(values, recipe=recipe)
    kept = (tmp_path / "kept.toml").read_text()
    assert tomllib.loads(kept) == values if recipe is None else kept == recipe


def test_a_shell_is_there_where_one_is_needed_and_only_there(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    shell = "cd old && LR={lr} sh -c 'echo loss: $LR' | tr 3 4"
    assert Command(shell, LOSS, "min", tmp_path).run({"lr": "3; exit"}) == 4
    assert Command("echo 'loss: 1 | $(false); echo loss: 2'", LOSS, "min").run({}) == 2
    parent = Command(
        f"{sys.executable} -SEc 'import os; print(\"loss:\", os.getppid())'", LOSS, "min"
    )
    assert parent.run({}) == os.getpid()


@pytest.mark.parametrize(
    ("printed", "result"),
    [
        ("loss: 3\\nloss: 2.5.\\n", 2.5),
        ("loss: 1.2e-05\\n", 1.2e-5),
        ("loss: 2\\nloss: nan\\n", math.nan),
        ("loss: 2\\nloss: -inf\\n", -math.inf),
        ("loss: 2\\nloss: -0.5\\n", -0.5),
        ("loss: 2\\nloss: -.5\\n", -0.5),
        ("loss: 1,628.5, accuracy: 0.9\\n", 1628.5),
        ("loss: 0,628\\n", 0),
        ("loss: 3.25,4\\n", 3.25),
        ("\\033[1mloss: \\033[32m7\\033[0m\\n", 7),
    ],
)
def test_the_last_match_is_read_whole(printed: str, result: float) -> None:
    assert printing(printed) == pytest.approx(result, nan_ok=True)


def test_a_line_of_json_has_the_number_under_its_key() -> None:
    lines = '{"step": 1, "val/loss": 3}\\n{"val/loss": 2e-3}\\nnot {"val/loss": 9}\\n{"step": 3}\\n'
    assert printing(lines, "val/loss") == 2e-3


def test_the_standard_error_is_read_where_the_output_has_no_number() -> None:
    assert Command("echo loss: 4 >&2", LOSS, "min").run({}) == 4
    assert Command("echo loss: 4 >&2; echo loss: 5", LOSS, "min").run({}) == 5


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("echo loss: 3; echo one; echo 'two ' >&2; exit 7", "ended with status 7: two"),
        ("kill -TERM $$", "was killed by SIGTERM, and said nothing."),
        ("echo accuracy 3", "printed no match of loss: ([\\d.]+): accuracy 3"),
        ("echo 'loss: .'", "printed no match"),
    ],
)
def test_a_program_that_fails_is_told_with_its_last_words(template: str, told: str) -> None:
    with pytest.raises(FailedError) as caught:
        Command(template, LOSS, "min").run({})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_program_that_hangs_is_ended_with_all_that_it_began(tmp_path: Path) -> None:
    command = Command("sleep 100 & echo $! > child; sleep 100", LOSS, "min", tmp_path)
    with pytest.raises(FailedError, match=r"took longer than 0\.2 s"):
        command.run({}, timeout=0.2)
    assert end_soon([(tmp_path / "child").read_text().strip()])


@pytest.mark.parametrize(
    ("template", "metric", "told"),
    [
        ("train {lrr}", LOSS, "asks for {lrr}, which has no value; there are {lr}, {recipe}."),
        ("no-such-program", LOSS, "no-such-program cannot be run: No such file or directory."),
        ("echo 'open", LOSS, "has an open end"),
        ("echo", "loss: ([", "is no regular expression"),
        ("echo", "(loss): (.*)", "has 2 groups and must have one"),
        ("", LOSS, "the command must be printable text"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(template: str, metric: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        Command(template, metric, "min").run({"lr": 1})
    assert told in str(caught.value)
