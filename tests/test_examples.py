"""The examples race: loops that are more than a model, data and a loss, and a program."""

from __future__ import annotations

import math
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import thalweg as tw
from thalweg.errors import UserError
from thalweg.loops.find import find

EXAMPLES = Path(__file__).parents[1] / "examples"
PROGRAM = f"{shlex.quote(sys.executable)} {EXAMPLES / 'plain_train.py'}"


def example(name: str, **changed: object) -> tw.Loop:
    loop = find(f"{EXAMPLES / name}.py:train")
    assert isinstance(loop, tw.Loop)
    return replace(loop, **changed)


def command(template: str = "--optimizer {optimizer} --lr {lr} --seed {seed}") -> tw.Command:
    return tw.Command(f"{PROGRAM} {template}", r"val_loss: (.*)", "min")


@pytest.mark.parametrize(("name", "steps"), [("gan", 12), ("actor_critic", 4), ("pinn", 24)])
def test_an_example_races_and_ends_with_a_recipe(name: str, steps: int, tmp_path: Path) -> None:
    few = {"trials": 1, "tuning_seeds": 1, "seeds": 2}
    found = tw.race(example(name, steps=steps), ["sgd", "adam"], **few, runs=tmp_path)
    assert all(math.isfinite(one.score) for one in found.record.runs)
    assert {len(one.curve) > 0 for one in found.record.runs} == {True}
    assert found.report().is_file()


def test_lbfgs_finishes_what_the_racing_optimizer_began() -> None:
    assert example("pinn").score(0, tw.adam(lr=0.01)) < 0.01


def test_the_actor_learns_to_walk_to_the_right() -> None:
    loop = example("actor_critic")
    assert loop.score(0, tw.adam(lr=0.1)) > loop.score(0, tw.adam(lr=1e-6))


def test_a_lightning_module_trains_in_a_loop() -> None:
    found = example("lightning_loop").run(tw.adam(lr=0.01))
    assert [point.step for point in found.curve] == [10, 20, 30, 40]
    assert found.curve[-1].metric < found.curve[0].metric


def test_a_program_that_knows_nothing_of_it_races(tmp_path: Path) -> None:
    template = "--optimizer {optimizer} --lr {lr} --decay {decay} --seed {seed}"
    few = {"trials": 2, "tuning_seeds": 1, "seeds": 2, "runs": tmp_path}
    space = EXAMPLES / "plain_train.toml"
    found = tw.race(command(template), "sgd,adam", space=space, **few)
    assert all(1e-4 <= one.values["decay"] <= 1 for one in found.record.configurations)
    assert found.best is not None
    for run in found.record.runs:
        (settings,) = (
            one.values
            for one in found.record.configurations
            if one.key == (run.entrant, run.configuration)
        )
        values = {"optimizer": run.entrant, "seed": run.seed, **settings}
        assert run.score == command(template).run(values)
    begins = f"thalweg race --command '{PROGRAM} {template}' --metric 'val_loss: (.*)'"
    assert found.record.command.startswith(f"{begins} --direction min --space {space} --entrants")
    assert "val_loss (lower is better)" in str(found.verdict)
    assert "cooling" not in found.verdict.sentence


def test_a_program_is_told_its_settings_in_its_environment_too(tmp_path: Path) -> None:
    words = 'test $THALWEG_OPTIMIZER = sgd && echo "result: $THALWEG_LR" || echo "result: 2"'
    program = tw.Command(words, "result: (.*)", "min")
    low = tw.Entrant("low", tw.sgd(lr=0.25))
    found = tw.race(program, [low, "adam"], trials=1, tuning_seeds=1, seeds=2, runs=tmp_path)
    assert {one.score for one in found.record.runs if one.entrant == "low"} == {0.25}
    assert {one.score for one in found.record.runs if one.entrant == "adam"} == {2.0}
    assert "unless the program reads THALWEG_OPTIMIZER" in " ".join(found.record.notes)


def test_a_program_that_fails_is_told_before_the_race(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unrecognized arguments: --rate"):
        tw.race(command("--rate {lr}"), "sgd,adam", runs=tmp_path)
    assert not list(tmp_path.rglob("*.sqlite"))


def test_the_loop_of_the_readme_races(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, found, rest = (EXAMPLES.parent / "README.md").read_text().partition("# train.py\n")
    Path("train.py").write_text(found + rest.partition("```")[0])
    raced = tw.race("train.py:train", "sgd,adam", trials=1, tuning_seeds=1, seeds=2)
    assert raced.winner and raced.best and 0 <= raced.best.params["dropout"] <= 0.5
    loop = find("train.py:train")
    assert isinstance(loop, tw.Loop)
    assert loop.run(raced.winner, seed=0).curve[-1].step == 200
