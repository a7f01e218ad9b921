"""Blocks as one compiled graph, against the same blocks under vmap; and the choice of the way."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import vmap

import thalweg as tw
from made_record import MADE
from thalweg import recipes
from thalweg.errors import UserError
from thalweg.racing import plan, timings
from thalweg.racing.cost import Pace
from thalweg.racing.plan import planned
from thalweg.racing.record import Settings
from thalweg.stack import compiled as stack_compiled
from thalweg.stack.compiled import Compiled, TooLongError
from thalweg.stack.member import Member
from thalweg.stack.population import Population
from thalweg.stack.single import Single
from thalweg.stack.stacked import Stacked
from thalweg.stack.way import WAYS
from thalweg.tasks import Data, Task, bundled, find

FEW = ["digits-conv"]
EVERY = [
    pytest.param(task.name, marks=() if task.name in FEW else pytest.mark.exhaustive)
    for task in bundled()
    if task.name != "waveform"
]


def dropout() -> Task:
    def data() -> Data:
        x, y = torch.randn(40, 4), torch.randn(40, 2)
        return Data((x, y), (x, y), (x, y))

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 32), nn.Dropout(0.5), nn.Linear(32, 2))

    return Task("dropout", model, data, nn.functional.mse_loss, epochs=2, batch_size=8)


def after(population: Population, steps: int) -> tuple[list[list[float]], list[dict[str, Any]]]:
    torch.manual_seed(0)
    losses = [population.step() for _ in range(steps)]
    return losses, [population.state_dict(i) for i in range(len(population.members))]


def both(task: Task, members: list[Member], steps: int) -> list[Any]:
    return [after(kind(task, members, width=2), steps) for kind in (Stacked, Compiled)]


@pytest.mark.parametrize("name", EVERY)
def test_a_compiled_stack_takes_the_steps_of_a_stack(name: str) -> None:
    task = find(name)
    summing = recipes.chain(recipes.clip_norm(0.2), recipes.lamb())
    members = [Member(recipes.momentum(lr=1e-3), 0), Member(recipes.adam(), 1), Member(summing, 2)]
    (losses, states), (others, compiled) = both(task, members, steps=3)
    for one, other in zip(losses, others, strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    for one, other in zip(states, compiled, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [EVERY[0], *(pytest.param(*one.values, marks=pytest.mark.exhaustive) for one in EVERY[1:])],
)
def test_twenty_compiled_steps_in_float64_are_those_of_a_stack(name: str) -> None:
    task = find(name)
    double = replace(
        task,
        model=lambda: task.model().double(),
        data=lambda: Data(*(in_double(split) for split in splits(task))),
        batch_size=min(task.batch_size, 16),
    )
    members = [Member(recipes.adam(), 0), Member(recipes.nesterov(lr=1e-3), 1)]
    (_, states), (_, compiled) = both(double, members, steps=20)
    for one, other in zip(states, compiled, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-11)


def splits(task: Task) -> Any:
    return (task.splits.train, task.splits.validation, task.splits.test)


def in_double(split: Any) -> tuple[torch.Tensor, ...]:
    return tuple(x.double() if x.is_floating_point() else x for x in split.tensors)


def test_dropout_draws_the_same_numbers() -> None:
    members = [Member(recipes.sgd(), seed) for seed in (0, 0, 1)]
    (losses, _), (others, _) = both(dropout(), members, steps=4)
    for one, other in zip(losses, others, strict=True):
        assert other == pytest.approx(one, rel=1e-5)
    assert losses[0][0] != losses[0][1]


@pytest.mark.parametrize("kind", [Single, partial(Stacked, width=2), partial(Compiled, width=2)])
def test_a_diverged_member_changes_no_other_members_bits(kind: Any) -> None:
    task = find("digits")
    calm, wild = Member(recipes.adam(), 0), Member(recipes.sgd(lr=1e30), 1)
    found = []
    for other in (calm, wild):
        population = kind(task, [calm, other])
        _, states = after(population, 4)
        found.append(states[0])
        assert (population.diverged[1] is not None) == (other is wild)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_evaluation_is_that_of_a_stack_also_on_data_sets_of_odd_lengths() -> None:
    task = find("digits")
    members = [Member(recipes.adam(), seed) for seed in range(3)]
    stack, compiled = (kind(task, members, width=2) for kind in (Stacked, Compiled))
    for data in splits(task)[1:]:
        assert len(data) % 16
        for one, other in zip(stack.scores(data), compiled.scores(data), strict=True):
            assert other == pytest.approx(one, rel=1e-5)


def test_a_graph_that_would_take_minutes_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_compiled, "MOST_OPERATIONS", 20)
    members = [Member(recipes.sgd(), seed) for seed in (0, 1)]
    with pytest.raises(TooLongError):
        Compiled(dropout(), members, width=2).step()


# --- the choice ---


def settings(task: Task, step: str = "measured", lanes: int | None = 1) -> Settings:
    short = {"steps": 12, "trials": 2, "tuning_seeds": 1, "seeds": 4, "width": 2}
    return replace(MADE, task=task.name, step=step, lanes=lanes, **short)


RECIPES = [recipes.sgd(lr=1e-3), recipes.adam()]


def test_a_short_race_is_not_compiled() -> None:
    task = find("saddle")
    found = planned(task, RECIPES, settings(task), [12])
    tried, untried = found.why.split(" Not tried, as measuring would take too long: ")
    assert "single" in tried
    assert "compiled" not in tried
    assert untried.endswith("compiled.")


@pytest.mark.usefixtures("two_threads")
def test_of_a_long_race_every_way_is_measured_in_lanes_and_alone() -> None:
    task = find("digits")
    found = planned(task, RECIPES, settings(task, lanes=None), [10**9])
    for way in WAYS:
        assert re.search(rf"{way} in 2 lanes \d", found.why)
        assert re.search(rf"{way} \d", found.why)


def paced(*told: Any) -> Pace:
    """A step of a block takes 4 s one by one, 2 stacked, 1 compiled, and in lanes half as much."""
    *_, way, lanes, _ = told
    return Pace(0, {"single": 4 / 2, "stacked": 2, "compiled": 1}[way] / lanes, 0)


@pytest.mark.usefixtures("two_threads")
def test_the_quickest_plan_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    task = find("digits")
    monkeypatch.setattr(plan, "side_by_side", paced)
    found = planned(task, RECIPES, settings(task, lanes=None), [10**5])
    assert (found.way, found.lanes, found.width) == ("compiled", 2, 2)
    assert found.seconds == pytest.approx(12 * 10**5 / 2 / 4)


def test_measuring_stops_where_it_would_cost_more_than_it_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = find("digits")
    monkeypatch.setattr(plan, "side_by_side", paced)
    found = planned(task, RECIPES, settings(task), [10])
    assert found.why == (
        "Members are stepped single: single 4 min. Not tried, as measuring would take too long:"
        " stacked, compiled."
    )


def out_of_memory(*told: Any) -> Pace:
    if "stacked" in told:
        raise MemoryError
    return paced(*told)


def test_a_way_that_fails_while_it_is_measured_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    task = find("digits")
    monkeypatch.setattr(plan, "side_by_side", out_of_memory)
    found = planned(task, RECIPES, settings(task), [10**5])
    assert found.way == "compiled"
    assert re.search(r"stacked failed \(MemoryError \(test_compiled.py, line \d+\)\)\.$", found.why)


def not_under_vmap(*told: Any) -> Pace:
    if "stacked" in told:
        vmap(lambda x: x if x.sum() > 0 else -x)(torch.ones(2, 3))
    return paced(*told)


def test_why_a_way_failed_is_said_in_our_words(monkeypatch: pytest.MonkeyPatch) -> None:
    task = find("digits")
    monkeypatch.setattr(plan, "side_by_side", not_under_vmap)
    found = planned(task, RECIPES, settings(task), [10**5])
    assert "stacked failed (a decision depends on the values of a tensor (" in found.why


@pytest.mark.usefixtures("two_threads")
def test_what_a_race_measured_a_later_one_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    task = find("digits")
    asked: list[Any] = []

    def counted(*told: Any) -> Pace:
        asked.append(told[-3:-1])
        return paced(*told)

    monkeypatch.setattr(plan, "side_by_side", counted)
    first = planned(task, RECIPES, settings(task, lanes=None), [10**5])
    assert len(asked) == 6
    asked.clear()
    later = planned(task, RECIPES, settings(task, lanes=None), [40])
    # It is short, and would not have tried to compile.
    assert (later.way, later.lanes) == (first.way, first.lanes) == ("compiled", 2)
    assert asked == [("compiled", 2)]
    assert "Measured earlier: single in 2 lanes, single, stacked in 2 lanes, stacked." in later.why
    asked.clear()
    shortest = planned(task, RECIPES, replace(settings(task, lanes=None), steps=1), [4])
    assert (shortest.way, asked) == ("stacked", [])
    other = replace(settings(task, lanes=None), fingerprint={"another model": "another"})
    assert "Measured earlier" not in planned(task, RECIPES, other, [40]).why


def test_timings_that_are_damaged_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    task = find("digits")
    monkeypatch.setattr(plan, "side_by_side", paced)
    for damage in ("", "[]", '{"single": 1}', '{"single": [1]}'):
        timings.place(settings(task)).write_text(damage)
        assert "Measured earlier" not in planned(task, RECIPES, settings(task), [40]).why


def test_a_way_that_a_task_does_not_have_is_refused() -> None:
    lstm = replace(dropout(), model=lambda: Last(nn.LSTM(4, 2)))
    with pytest.raises(UserError, match="compiled steps cannot be had: members run one by one"):
        planned(lstm, RECIPES, settings(lstm, "compiled"), [12])
    with pytest.raises(UserError, match="no step is called compild; did you mean compiled"):
        tw.race("saddle", step="compild")


class Last(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)[0]
        return out


def test_a_race_that_goes_on_keeps_its_way(tmp_path: Path) -> None:
    task = replace(find("saddle"), steps=6)
    given: dict[str, Any] = {"entrants": "sgd,adam", "trials": 2, "seeds": 3, "width": 2}
    tw.race(task, **given, step="single", runs=tmp_path)
    with pytest.raises(UserError, match="another race"):
        tw.race(task, **given, step="stacked", runs=tmp_path)
    with sqlite3.connect(tmp_path / "saddle/ledger.sqlite") as connection:
        ((found,),) = connection.execute("SELECT value FROM facts WHERE name = 'plan'")
    assert json.loads(found)["way"] == "single"


def test_without_a_compiler_the_race_goes_on(tmp_path: Path) -> None:
    environment = os.environ | {"CXX": "/no/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    words = "race saddle --entrants sgd,adam --trials 2 --seeds 2 --step compiled"
    done = subprocess.run(
        [sys.executable, "-m", "thalweg", *words.split(), "--runs", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "compiled failed" in done.stdout + done.stderr
