"""Training loops of a person's own: what a run is given, what is checked, and how loops race."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.errors import UserError
from thalweg.loops.run import Given
from thalweg.racing.progress import Silent

TARGET = torch.tensor([1.0, -2.0])


def descend(optimizer: Any, param: Tensor) -> None:
    """One step on a paraboloid, from gradients that are noisy."""
    optimizer.zero_grad()
    ((param - TARGET) ** 2 * (1 + 0.1 * torch.randn(2))).sum().backward()
    optimizer.step()


def distance(param: Tensor) -> float:
    return float((param.detach() - TARGET).norm())


def plain(run: tw.loops.Run) -> float:
    param = nn.Parameter(torch.randn(2))
    optimizer = run.optimizer([param])
    for _ in run.steps():
        descend(optimizer, param)
    return distance(param)


def loop_of(function: Callable[[Any], Any], **given: Any) -> tw.Loop:
    arguments: dict[str, Any] = {"metric": "distance", "direction": "min", "steps": 20}
    return tw.loop(**{**arguments, **given})(function)


def race(loop: tw.Loop, folder: Path, **given: Any) -> tw.Race:
    small: dict[str, Any] = {"trials": 2, "tuning_seeds": 2, "seeds": 3, "runs": folder / "runs"}
    return tw.race(loop, **{"entrants": ["sgd", "adam"], **small, **given})


def notes(found: tw.Race) -> str:
    return " ".join(found.record.notes)


class Stopping(Silent):
    """Stops a race after so many members."""

    def __init__(self, members: int) -> None:
        self.left = members

    def block_ended(self, done: int, best: dict[str, float]) -> None:  # noqa: ARG002
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


# A run


def test_a_run_takes_the_steps_of_its_budget_and_ends_with_what_is_returned() -> None:
    taken: list[int] = []

    def train(run: tw.loops.Run) -> float:
        optimizer = run.optimizer([nn.Parameter(torch.zeros(1))])
        for step in run.steps():
            taken.append(step)
            optimizer.step()
            if step == 2:
                run.report(torch.tensor(7.0))
        return 5

    found = loop_of(train, steps=4).run("sgd")
    assert taken == [1, 2, 3, 4]
    assert [(point.step, point.metric) for point in found.curve] == [(2, 7.0), (4, 5.0)]
    assert found.score == 5


def test_a_seed_gives_the_same_random_numbers_of_every_kind() -> None:
    drawn: list[tuple[float, ...]] = []

    def train(run: tw.loops.Run) -> float:
        drawn.append((float(torch.rand(())), float(np.random.rand()), random.random()))
        return plain(run)

    loop = loop_of(train)
    scores = [loop.score(seed) for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1]
    assert not set(drawn[0]) & set(drawn[2])
    assert scores[0] == scores[1] != scores[2]


def test_every_call_of_a_closure_counts_as_a_step() -> None:
    calls = 0

    def train(run: tw.loops.Run) -> float:
        param = nn.Parameter(torch.randn(2))
        first = run.optimizer([param])
        then = torch.optim.LBFGS([param], max_iter=5)

        def closure() -> Tensor:
            nonlocal calls
            calls += 1
            then.zero_grad()
            loss = ((param - TARGET) ** 4).sum()
            loss.backward()
            return loss

        for step in run.steps():
            if step <= 10:
                closure()
                first.step()
            else:
                then.step(closure)
        return distance(param)

    found = loop_of(train, steps=30).run("adam")
    assert 30 <= calls < 35
    assert found.curve[-1].step == calls


def test_a_trainer_that_goes_by_itself_is_counted_by_its_optimizer() -> None:
    def train(run: tw.loops.Run) -> float:
        param = nn.Parameter(torch.randn(2))
        optimizer = run.optimizer([param])
        for _ in range(run.budget):
            descend(optimizer, param)
        return distance(param)

    assert loop_of(train).run().curve[-1].step == 20


def test_a_schedule_of_the_recipe_goes_on_with_every_step() -> None:
    rates: list[float] = []

    def train(run: tw.loops.Run) -> float:
        param = nn.Parameter(torch.randn(2))
        optimizer = run.optimizer([param])
        for _ in run.steps():
            descend(optimizer, param)
            rates.append(optimizer.last_lr)
        return 1.0

    loop_of(train, steps=5).run(tw.sgd(lr=tw.schedules.linear(1.0, 0.0, steps=5)))
    assert rates == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_a_plateau_sees_what_is_reported() -> None:
    rates: list[float] = []

    def train(run: tw.loops.Run) -> None:
        optimizer = run.optimizer([nn.Parameter(torch.ones(1))])
        for _ in run.steps():
            optimizer.step()
            rates.append(optimizer.last_lr)
            run.report(1.0)

    falling = tw.schedules.plateau(1.0, gamma=0.5, patience=1, metric="validation")
    loop_of(train, steps=6).run(tw.sgd(lr=falling))
    assert rates[0] == 1.0
    assert rates[-1] <= 0.5


def test_a_run_whose_metric_is_not_finite_stops_there() -> None:
    taken: list[int] = []

    def train(run: tw.loops.Run) -> float:
        for step in run.steps():
            taken.append(step)
            run.report(math.nan if step == 3 else 1.0)
        return 1.0

    found = loop_of(train).run()
    assert taken == [1, 2, 3]
    assert math.isnan(found.score)
    assert found.diverged and found.diverged.step == 3


def test_a_run_that_was_interrupted_ends_as_if_it_was_not(tmp_path: Path) -> None:
    begun: list[int] = []

    def train(run: tw.loops.Run) -> float:
        param = nn.Parameter(torch.randn(2))
        optimizer = run.optimizer([param])
        if (state := run.load()) is not None:
            param.data = state["param"]
            optimizer.load_state_dict(state["optimizer"])
        for step in run.steps():
            begun.append(step)
            descend(optimizer, param)
            if step == 8:
                run.report(distance(param))
                run.save({"param": param.detach(), "optimizer": optimizer.state_dict()})
            if step == 11 and stops:
                raise ConnectionError
        return distance(param)

    loop, recipe = loop_of(train), tw.adam(lr=tw.schedules.linear(0.5, 0.01, steps=20))
    stops = False
    whole = loop.trained(Given(recipe, 3, 20, tmp_path / "whole"))
    stops = True
    given = Given(recipe, 3, 20, tmp_path / "stopped")
    with pytest.raises(ConnectionError):
        loop.trained(given)
    stops, begun = False, []
    again = loop.trained(given)
    assert begun == list(range(9, 21))
    assert [(p.step, p.metric) for p in again.curve] == [(p.step, p.metric) for p in whole.curve]


def test_a_trainer_that_goes_by_itself_counts_on_from_what_was_saved(tmp_path: Path) -> None:
    def train(run: tw.loops.Run) -> float:
        optimizer = run.optimizer([nn.Parameter(torch.zeros(1))])
        begun = 0 if run.load() is None else 4
        for step in range(begun, 10):
            if step == 4 and not begun:
                run.save({})
                raise ConnectionError
            optimizer.step()
        return 1.0

    given = Given(tw.sgd(), 0, 10, tmp_path / "state")
    with pytest.raises(ConnectionError):
        loop_of(train).trained(given)
    assert loop_of(train).trained(given).curve[-1].step == 10


def test_a_state_that_could_not_be_read_again_is_told(tmp_path: Path) -> None:
    def train(run: tw.loops.Run) -> None:
        run.save(nn.Linear(1, 1))

    with pytest.raises(UserError, match=r"give state_dict\(\)s"):
        loop_of(train).trained(Given(tw.sgd(), 0, 1, tmp_path / "state"))


def test_a_param_has_its_default_the_middle_of_its_space_or_what_the_recipe_says() -> None:
    found: list[Any] = []

    def train(run: tw.loops.Run) -> float:
        found.append(run.param("dropout", (0.0, 0.5)))
        found.append(run.param("batch", (16, 256)))
        found.append(run.param("decay", (1e-4, 1e-2), default=0.005))
        return 1.0

    loop_of(train).run()
    loop_of(train).run(replace(tw.sgd(), params={"dropout": 0.1, "batch": 33.4}))
    assert found == [0.25, 64, 0.005, 0.1, 33, 0.005]
    assert all(type(found[place]) is int for place in (1, 4))


@pytest.mark.parametrize(
    ("name", "space", "default", "told"),
    [
        ("drop out", (0, 1), None, "a param has a name of letters"),
        ("dropout", (1, 0), None, "param dropout: a space must go from a low to a higher value"),
        ("dropout", 3, None, "param dropout: it needs a low and a high end"),
        ("dropout", (0, 1), "much", "the default of param dropout must be a number"),
    ],
)
def test_a_param_that_cannot_be_is_told(name: str, space: Any, default: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        loop_of(lambda run: run.param(name, space, default)).run()


def test_roles_share_the_recipe_or_have_one_each() -> None:
    rates: dict[str, float] = {}

    def train(run: tw.loops.Run) -> float:
        for role in ("one", "other"):
            optimizer = run.optimizer([nn.Parameter(torch.zeros(1))], role=role)
            rates[role] = optimizer.param_groups[0]["lr"]
        return 1.0

    loop_of(train).run(tw.sgd(lr=0.5))
    assert rates == {"one": 0.5, "other": 0.5}
    each = tw.route(("one.*", tw.sgd(lr=0.1)), ("other.*", tw.adam(lr=0.2)))
    named = replace(each, routes=[replace(r, name=r.name[:-2]) for r in each.routes])
    loop_of(train, roles=("one", "other")).run(named)
    assert rates == {"one": 0.1, "other": 0.2}
    with pytest.raises(UserError, match="no role of this loop is called other"):
        loop_of(train, roles=("one",)).run()


# What is checked


MODEL = nn.Parameter(torch.zeros(2))


def shares(run: tw.loops.Run) -> float:
    descend(run.optimizer([MODEL]), MODEL)
    return 1.0


def without(run: tw.loops.Run) -> float:  # noqa: ARG001
    return 1.0


def diverges(run: tw.loops.Run) -> float:
    plain(run)
    return math.inf


def words(run: tw.loops.Run) -> str:
    plain(run)
    return "good"


def fails(run: tw.loops.Run) -> float:
    return 1 / (run.seed - run.seed)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (shares, "trains the same model in every run"),
        (without, "never calls run.optimizer"),
        (diverges, "diverges at once: the distance is inf after 3 steps with sgd"),
        (words, "must return its distance as one number, not 'good'"),
        (fails, "ZeroDivisionError: division by zero"),
        (lambda run: plain(run) and None, "returned nothing and reported nothing"),
    ],
)
def test_a_loop_that_cannot_race_is_told_at_once(
    function: Callable[[Any], Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told) as error:
        race(loop_of(function), tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("recipe", "given", "told"),
    [
        (tw.sgd(lr=tw.schedules.plateau(0.1)), {}, "loop 'plain' reports none while it trains"),
        (tw.muon(), {"roles": ["a"]}, "recipe muon has routes, so it cannot be one for each role"),
        (tw.sgd(), {"roles": ["a"]}, "no role of this loop is called"),
    ],
)
def test_a_recipe_that_the_loop_cannot_serve_is_told_at_once(
    recipe: tw.Recipe, given: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        race(loop_of(plain, **given), tmp_path, entrants=[recipe, "adam"])


def test_a_function_that_is_no_loop_yet_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def train(run):\n    return 1.0\n")
    with pytest.raises(UserError, match=r"is a loop when @thalweg\.loop"):
        tw.race(f"{tmp_path}/mine.py:train")


# A race


def test_a_loop_races_with_settings_of_its_own_and_no_run_is_repeated(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def train(run: tw.loops.Run) -> float:
        shift = run.param("shift", (0.0, 1.0))
        if run.budget > 3:
            with log.open("a") as lines:
                lines.write(f"{run.given.recipe.name} {run.seed} {shift} {os.getpid()}\n")
        return plain(run) + shift

    loop = loop_of(train)
    with pytest.raises(KeyboardInterrupt):
        race(loop, tmp_path, progress=Stopping(5))
    found = race(loop, tmp_path)
    lines = [line.split() for line in log.read_text().splitlines()]
    assert not {process for *_, process in lines} & {str(os.getpid())}
    repeated = Counter(tuple(line[:3]) for line in lines)
    # Those that were in work when the race was stopped begin again.
    assert sum(repeated.values()) - len(found.record.runs) <= torch.get_num_threads()
    assert {one.seed for one in found.record.runs} == {int(seed) for _, seed, *_ in lines}
    final = [one for one in found.record.runs if one.round == "final"]
    assert Counter(one.entrant for one in final) == {"sgd": 3, "adam": 3}
    best = found.verdict.summaries[0]
    assert found.best is not None
    assert found.best.params == {"shift": best.values["shift"]}
    before = len(lines)
    assert str(race(loop, tmp_path).verdict) == str(found.verdict)
    assert len(log.read_text().splitlines()) == before
    assert "shift (0 to 1) is a setting of loop 'train', tuned with each entrant." in notes(found)


def test_a_loop_that_changes_is_another_race(tmp_path: Path) -> None:
    race(loop_of(plain), tmp_path, trials=1, seeds=2)
    other = tw.Loop(lambda run: plain(run) + 1, "plain", "distance", "min", 20)
    with pytest.raises(UserError, match="another loop under the same name"):
        race(other, tmp_path, trials=1, seeds=2)


def test_a_run_that_dies_goes_on_from_what_it_saved(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def train(run: tw.loops.Run) -> float:
        param = nn.Parameter(torch.zeros(2))
        optimizer = run.optimizer([param])
        state = run.load()
        for step in run.steps():
            optimizer.step()
            if step == 10:
                run.save({"at": step})
            if step == 15 and state is None:
                os._exit(3)
        if run.budget > 3:
            with log.open("a") as lines:
                lines.write(f"{state}\n")
        return 1.0 + run.seed % 7

    found = race(loop_of(train), tmp_path, trials=1, seeds=2)
    assert set(log.read_text().splitlines()) == {"{'at': 10}"}
    assert all(math.isfinite(one.score) for one in found.record.runs)
    assert not (found.folder / "unfinished").exists()


def test_a_loop_that_fails_or_hangs_with_one_entrant_loses_only_its_runs(tmp_path: Path) -> None:
    def train(run: tw.loops.Run) -> float:
        if run.given.recipe.name == "adam" and run.budget > 3:
            if run.given.recipe.settings["lr"] < 0.002:
                raise RuntimeError("adam is not wanted here")
            time.sleep(60)
        return plain(run)

    low, high = (tw.Entrant(n, tw.adam(lr=lr)) for n, lr in (("low", 1e-3), ("high", 1e-2)))
    found = race(
        loop_of(train), tmp_path, entrants=["sgd", low, high], trials=1, seeds=2, timeout=2.5
    )
    reasons = {one.entrant: one.reason for one in found.record.runs}
    assert reasons["sgd"] is None
    assert "RuntimeError: adam is not wanted here" in str(reasons["low"])
    assert str(reasons["high"]).startswith("it took no step for 2.5 s")


def test_runs_that_do_not_agree_are_said_not_to_be_paired(tmp_path: Path) -> None:
    def train(run: tw.loops.Run) -> float:
        return plain(run) + int.from_bytes(os.urandom(4)) / 2**32

    found = race(loop_of(train), tmp_path, trials=1, seeds=2)
    assert "with one seed do not come to the same, so pairs are not paired" in notes(found)


def test_evaluation_at_the_wrong_point_is_told(tmp_path: Path) -> None:
    def train(run: tw.loops.Run) -> float:
        param = nn.Parameter(torch.randn(2))
        optimizer = run.optimizer([param])
        for _ in run.steps():
            descend(optimizer, param)
        with optimizer.evaluation():
            return distance(param)

    few = {"entrants": ["sgd", "nesterov"], "trials": 1, "seeds": 2}
    told = "nesterov evaluates at another point than gradients are taken at"
    assert told in notes(race(loop_of(plain), tmp_path, **few))
    assert told not in notes(race(loop_of(train), tmp_path, **few))


def test_each_role_is_tuned_for_itself(tmp_path: Path) -> None:
    def train(run: tw.loops.Run) -> float:
        first, second = nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(2))
        one, other = run.optimizer([first], role="one"), run.optimizer([second], role="other")
        for _ in run.steps():
            descend(one, first)
            descend(other, second)
        return distance(first) + distance(second)

    found = race(loop_of(train, roles=("one", "other")), tmp_path, trials=4, seeds=2)
    tried = [one.values for one in found.record.configurations if one.entrant == "sgd"]
    assert all(values.keys() == {"one.lr", "other.lr"} for values in tried)
    assert any(values["one.lr"] != values["other.lr"] for values in tried)


def test_a_space_narrows_every_entrant_that_is_tuned(tmp_path: Path) -> None:
    found = race(loop_of(plain), tmp_path, seeds=2, space={"lr": (0.05, 0.1)}, trials=4)
    rates = [one.values["lr"] for one in found.record.configurations]
    assert all(0.05 <= lr <= 0.1 for lr in rates)
    assert "space={'lr': (0.05, 0.1)}" in found.record.command
    with pytest.raises(UserError, match="no entrant that is tuned has momentun; did you mean"):
        race(loop_of(plain), tmp_path, entrants="momentum,sgd", space={"momentun": (0.5, 0.9)})


# The doctor


def test_the_doctor_watches_a_loop() -> None:
    def train(run: tw.loops.Run) -> float:
        model, loss = nn.Linear(3, 1), nn.functional.mse_loss
        optimizer = run.optimizer(model)
        inputs = torch.randn(64, 8, 3)
        batches = [(x, x.sum(1, keepdim=True)) for x in inputs]
        for _, (x, y) in zip(run.steps(), run.watch(batches, model, loss, optimizer), strict=False):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
        return 1.0

    found = tw.diagnose(loop_of(train, steps=40, name="mine"), "sgd", try_remedies=False)
    assert found.task == "mine"
    assert "learning rate too low" in str(found)
    with pytest.raises(UserError, match="does not say what the doctor is to watch"):
        tw.diagnose(loop_of(plain), "sgd")


KILLED = """
import os, signal
from pathlib import Path
import torch
import thalweg as tw

@tw.loop(metric="distance", direction="min", steps=20)
def train(run):
    param = torch.nn.Parameter(torch.randn(2))
    optimizer = run.optimizer([param])
    for _ in run.steps():
        optimizer.zero_grad()
        (param - 1).norm().backward()
        optimizer.step()
    counted = Path(__file__).with_name("counted")
    counted.write_text(counted.read_text() + "." if counted.exists() else ".")
    if KILL and len(counted.read_text()) == 9:
        os.killpg(0, signal.SIGKILL)
    return float((param.detach() - 1).norm())
"""


def test_a_race_of_a_loop_that_is_killed_goes_on_to_the_same_winner(tmp_path: Path) -> None:
    def winner(folder: str, kill: bool, calls: int) -> str:
        place = tmp_path / folder
        place.mkdir()
        (place / "mine.py").write_text(KILLED.replace("KILL ", f"{kill} "))
        words = "race mine.py:train --entrants sgd,adam --trials 2 --tuning-seeds 2 --seeds 3"
        command = [sys.executable, "-m", "thalweg", *words.split()]
        ends = [
            subprocess.run(
                command, cwd=place, capture_output=True, check=False, start_new_session=True
            ).returncode
            for _ in range(calls)
        ]
        assert ends == [-signal.SIGKILL] * kill + [0]
        return (place / "runs" / "train" / "winner.toml").read_text()

    assert winner("killed", kill=True, calls=2) == winner("whole", kill=False, calls=1)


def test_a_name_that_a_file_does_not_have_gets_those_that_it_has(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import thalweg as tw\n\n"
        "@tw.loop(metric='loss', direction='min', steps=5)\ndef train(run):\n    return 1.0\n"
    )
    with pytest.raises(UserError, match=r"There is no 'trian' in .*mine.py; it has train\."):
        tw.race(f"{path}:trian", "sgd,adam", runs=tmp_path)
