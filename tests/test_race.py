"""A race from beginning to end, stopped and resumed, and what it refuses."""

from __future__ import annotations

import copy
import math
import re
import resource
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import sleep
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg import recipes, rules, schedules, statistics
from thalweg.api import Race, diagnose, race
from thalweg.errors import UserError
from thalweg.optim import Optimizer
from thalweg.racing.entrants import Entrant
from thalweg.racing.ledger import FILE
from thalweg.racing.progress import Silent
from thalweg.racing.record import Look, Record, Round, RunRecord
from thalweg.recipes import Recipe
from thalweg.rules.space import linear, log
from thalweg.stack.batches import order
from thalweg.stack.member import Member
from thalweg.stack.way import populate
from thalweg.tasks import Data, Task, find
from thalweg.training.lr_range import lr_range
from thalweg.training.train import train

SADDLE = replace(find("saddle"), steps=8)


def samples() -> Data:
    source = torch.Generator().manual_seed(0)
    inputs = torch.randn(96, 4, generator=source)
    targets = (inputs**2).sum(1, keepdim=True)
    return Data(*((inputs[i : i + 32], targets[i : i + 32]) for i in (0, 32, 64)))


NET = Task(
    name="net",
    model=lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)),
    data=samples,
    loss=F.mse_loss,
    also={"absolute": F.l1_loss},
    batch_size=16,
    steps=6,
)

RATES = {"lr": log(1e-2, 1e-1)}
SGD = Entrant("sgd", recipes.sgd(), RATES)
SLOW = Entrant("slow", recipes.sgd(), {"lr": log(1e-6, 1e-5)})
WILD = Entrant("wild", recipes.sgd(), {"lr": log(1e30, 1e32)})


def short(
    runs: Path, task: Task | str = SADDLE, entrants: Any = ("sgd", "adam"), **more: Any
) -> Race:
    # One way of stepping, so that two races of a test give the same bits however busy the machine.
    given = {
        "trials": 4,
        "tuning_seeds": 1,
        "seeds": 8,
        "width": 4,
        "step": "stacked",
        "lanes": 1,
        "runs": runs,
    }
    return race(task, entrants, **given | more)


class Watched(Silent):
    """Counts what it is told, and stops the race where it is asked to."""

    def __init__(self, stop_at_step: int = 0) -> None:
        self.lines: list[str] = []
        self.rounds: list[tuple[Round, int, int, int]] = []
        self.steps = 0
        self.done: list[int] = []
        self.best: dict[str, float] = {}
        self.looks: list[Look] = []
        self.stop_at_step = stop_at_step

    def say(self, line: str) -> None:
        self.lines.append(line)

    def round_began(self, round: Round, *told: Any) -> None:
        entrants, done, members, _ = told
        self.rounds.append((round, len(entrants), done, members))

    def stepped(self, taken: int, alive: int, members: int) -> None:
        assert taken > 0
        assert 0 <= alive <= members
        self.steps += 1
        if self.steps == self.stop_at_step:
            raise KeyboardInterrupt

    def block_ended(self, done: int, best: dict[str, float]) -> None:
        self.done.append(done)
        self.best = best

    def looked(self, look: Look) -> None:
        self.looks.append(look)


def outcome(record: Record) -> tuple[Any, ...]:
    """All of a record that two races alike have in common, nan included, to the bit."""
    tuned = (record.configurations, record.stops, record.chosen, record.edges)
    return repr((record.settings, tuned, record.looks, record.runs, record.certainties)), (
        record.finished
    )


def test_a_race_ends_with_a_verdict_and_the_winner(tmp_path: Path) -> None:
    result = short(tmp_path, NET, entrants=[SGD, SLOW], trials=4, seeds=12)
    record = result.record
    assert record.finished
    assert result.verdict.sentence.startswith("sgd is the best")
    assert str(result.verdict).startswith("sgd is the best")
    assert [row["entrant"] for row in result.table()] == ["sgd", "slow"]
    assert result.folder == tmp_path / "net"
    assert Recipe.from_toml((result.folder / "winner.toml").read_text()) == result.best
    best = record.configurations[record.chosen["sgd"]]
    assert result.best == recipes.sgd(lr=schedules.linear(best.values["lr"], steps=6))
    assert len(repr(result)) < 400


def test_every_entrant_is_tuned_equally_and_its_best_goes_on(tmp_path: Path) -> None:
    names = ["sgd", "adam", "rmsprop"]
    record = short(tmp_path, NET, names, trials=5, tuning_seeds=3).record
    tuning = [run for run in record.runs if run.round == "tuning"]
    seeds: dict[str, list[int]] = {name: [] for name in names}
    for name in names:
        own = [run for run in tuning if run.entrant == name]
        first, again = own[:5], own[5:]
        assert [run.configuration for run in first] == [0, 1, 2, 3, 4]
        seeds[name] = [run.seed for run in own]
        scores: dict[int, list[float]] = {}
        for run in again:
            scores.setdefault(run.configuration, []).append(run.score)
        assert [len(some) for some in scores.values()] == [2, 2, 2]
        assert record.chosen[name] == min(scores, key=lambda index: median(scores[index]))
    assert seeds["sgd"] == seeds["adam"] == seeds["rmsprop"]
    assert len(set(seeds["sgd"][:5])) == 3
    assert not set(seeds["sgd"][:5]) & set(seeds["sgd"][5:])


def test_a_metric_that_is_to_be_high_chooses_the_highest(tmp_path: Path) -> None:
    task = replace(NET, metric=lambda out, y: -F.mse_loss(out, y), direction="max")
    record = short(tmp_path, task, entrants=[SGD, SLOW]).record
    for name, chosen in record.chosen.items():
        own = [run for run in record.runs if (run.round, run.entrant) == ("tuning", name)]
        again = [run for run in own if run.seed != own[0].seed]
        assert len(again) == 3
        assert max(again, key=lambda run: run.score).configuration == chosen
    assert not any(departure.entrant == "sgd" for look in record.looks for departure in look.left)


def test_the_verdict_and_the_report_say_which_way_the_metric_is_better(tmp_path: Path) -> None:
    def negative(outputs: Tensor, targets: Tensor) -> Tensor:
        return -F.mse_loss(outputs, targets)

    with pytest.raises(UserError, match="'net' has a metric, so it must say which direction"):
        replace(NET, metric=negative)
    task = replace(NET, metric=negative, direction="max")
    raced = short(tmp_path, task, step="single", seeds=2, trials=1)
    assert "on net by metric (higher is better), over 2 seeds" in raced.verdict.sentence
    head = str(raced.verdict).split("\n\n")[1].splitlines()[:3]
    for words, line in zip(("metric", "higher is", "better"), head, strict=True):
        assert words in line
    assert "of the metric\n      (higher is better)." in raced.report().read_text()
    raced = short(tmp_path, NET, step="single", seeds=2, trials=1, name="loss")
    assert "on net by loss (lower is better)" in raced.verdict.sentence


def in_classes() -> Data:
    """Two classes, of which the second is rare: not in every batch, and last in each split."""
    source = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 4, generator=source)
    targets = torch.arange(64) >= 60
    inputs[targets] += 1
    return Data(*[(inputs, targets.int())] * 3)


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    found: float = sklearn.metrics.accuracy_score(targets.numpy(), outputs.numpy() > 0)
    return found


def test_metrics_of_other_libraries_are_taken_and_asked_of_each_member(tmp_path: Path) -> None:
    """AUCs, which no mean over batches has, and objects that keep what they have seen."""
    torchmetrics = pytest.importorskip("torchmetrics.classification")
    keeping = torchmetrics.BinaryAUROC()
    task = Task(
        name="classes",
        model=lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)),
        data=in_classes,
        loss=lambda out, y: F.binary_cross_entropy_with_logits(out, y.float()),
        metric=lambda out, y: sklearn.metrics.roc_auc_score(y.numpy(), out.numpy()),
        metric_name="AUC",
        direction="max",
        also={
            "the same": keeping,
            "as float": accuracy,
            "as NumPy's": lambda out, y: np.float32(accuracy(out, y)),
            "as tensor": lambda out, y: ((out > 0) == y).float().mean(),
            "as scikit-learn's": sklearn.metrics.accuracy_score,
            "scikit-learn's AUC": sklearn.metrics.roc_auc_score,
        },
        batch_size=16,
        steps=6,
    )
    tables = {}
    for step in ("single", "stacked"):
        raced = short(tmp_path, task, seeds=2, trials=1, step=step, name=step)
        assert not raced.record.notes
        tables[step] = raced.table()
        for row in raced.table():
            assert row["validation_the same"] == pytest.approx(row["validation"], rel=1e-6)
            assert row["validation_scikit-learn's AUC"] == row["validation"]
            kinds = ("float", "tensor", "NumPy's", "scikit-learn's")
            found = {row[f"validation_as {kind}"] for kind in kinds}
            assert len({round(x, 5) for x in found}) == 1
    for one, other in zip(*tables.values(), strict=True):
        assert one["validation"] == pytest.approx(other["validation"], rel=1e-6)
    assert not keeping.update_called


def test_a_metric_that_refuses_outputs_which_are_not_finite_ends_no_race(tmp_path: Path) -> None:
    def strict(outputs: Tensor, targets: Tensor) -> Tensor:
        if not outputs.isfinite().all():
            raise ValueError("Input contains infinity")
        return F.mse_loss(outputs, targets)

    class Thousandfold(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return 1000 * super().forward(inputs)

    task = replace(NET, model=lambda: Thousandfold(4, 1), metric=strict, direction="min", also={})
    tiny = Entrant("tiny", recipes.sgd(), {"lr": log(1e-9, 1e-8)})
    huge = Entrant("huge", recipes.sgd(), {"lr": log(1e30, 1e31)})
    for step in ("single", "stacked"):
        raced = short(tmp_path, replace(task, steps=1), [tiny, huge], step=step, name=step)
        assert raced.verdict.best == "tiny"


class Differentiating(nn.Module):
    """Gives its inputs too, for a loss that takes derivatives by them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        inputs.requires_grad_()
        return self.net(inputs), inputs


def physical(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    found, inputs = outputs
    (slope,) = torch.autograd.grad(found.sum(), inputs, create_graph=True)
    return F.mse_loss(found, targets) + (slope - 2 * inputs).square().mean()


class Counting(nn.Linear):
    """Saves what is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        assert state == {"version": 3}


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Tanh(), nn.LazyLinear(1))


UNUSUAL: dict[str, Task] = {
    "lazy layers": replace(NET, model=lazy),
    "a state that is no tensor": replace(NET, model=lambda: Counting(4, 1)),
    "a loss that takes derivatives": replace(
        NET,
        model=Differentiating,
        loss=physical,
        metric=lambda outputs, targets: F.mse_loss(outputs[0], targets),
        direction="min",
        also={},
    ),
}


@pytest.mark.parametrize("task", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_models_race_train_and_are_diagnosed(tmp_path: Path, task: Task) -> None:
    raced = short(tmp_path, task, seeds=2, trials=1, step="single")
    assert raced.record.finished
    averaged = recipes.chain(recipes.adam(), recipes.tail_average(3, steps=6))
    trained = train(task, averaged, keep="best", out=tmp_path / "model.safetensors")
    saved = load_file(trained.checkpoint)
    assert saved.keys() >= dict(task.fresh_model().named_parameters()).keys()
    assert diagnose(task, trial_steps=3).case.history.length == 6


def test_members_of_lazy_layers_begin_at_the_same_weights_alone_and_stacked() -> None:
    task, members = UNUSUAL["lazy layers"], [Member(recipes.sgd(), seed) for seed in (0, 1)]
    populations = [populate(task, members, 2, way) for way in ("single", "stacked")]
    for place in (0, 1):
        alone, stacked = (population.state_dict(place) for population in populations)
        assert alone.keys() == stacked.keys()
        assert all(torch.equal(x, stacked[name]) for name, x in alone.items())


LATE = """
from multiprocessing import parent_process
import torch, thalweg as tw

def model():
    if parent_process():
        import only_imported_in_a_lane
    return torch.nn.Linear(4, 1)

def data():
    return tw.Data(*[(torch.ones(8, 4), torch.ones(8, 1))] * 3)

task = tw.Task("late", model, data, torch.nn.functional.mse_loss, steps=2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="there are no lanes elsewhere")
@pytest.mark.usefixtures("two_threads")
def test_a_model_is_imported_from_the_tasks_folder_in_a_lane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "mine.py").write_text(LATE)
    (tmp_path / "only_imported_in_a_lane.py").touch()
    raced = short(tmp_path, f"{tmp_path}/mine.py:task", seeds=2, trials=1, step="single", lanes=2)
    assert raced.record.finished


def test_looks_and_departures_are_those_of_the_shortlist(tmp_path: Path) -> None:
    record = short(tmp_path, NET, entrants=[SGD, SLOW, "adam"], seeds=16).record
    final = [run for run in record.runs if run.round == "final"]
    seeds = list(dict.fromkeys(run.seed for run in final))
    on = ("sgd", "slow", "adam")
    assert record.looks
    for look in record.looks:
        scores = {
            name: [run.score for seed in seeds[: look.seeds] for run in of(final, name, seed)]
            for name in on
        }
        level = statistics.level_at(look.seeds, 16, 0.05)
        expected = statistics.shortlist(scores, on, level, "min")
        assert look.on == on
        assert [left.entrant for left in look.left] == [d.name for d in expected.departures]
        on = expected.remaining
    assert "slow" not in on


def of(runs: list[RunRecord], entrant: str, seed: int) -> list[RunRecord]:
    return [run for run in runs if (run.entrant, run.seed) == (entrant, seed)]


def test_who_left_gets_no_more_seeds(tmp_path: Path) -> None:
    twin = replace(SGD, name="twin")
    record = short(tmp_path, NET, entrants=[SGD, SLOW, twin], seeds=16).record
    counts = {
        name: sum(run.entrant == name and run.round == "final" for run in record.runs)
        for name in ("sgd", "slow", "twin")
    }
    left_at = next(look.seeds for look in record.looks if look.left)
    assert counts == {"sgd": 16, "twin": 16, "slow": left_at}
    assert left_at < 16


def test_final_seeds_are_fresh_and_shared(tmp_path: Path) -> None:
    record = short(tmp_path, seeds=6).record
    tuning = {run.seed for run in record.runs if run.round == "tuning"}
    final = {
        name: [run.seed for run in record.runs if (run.round, run.entrant) == ("final", name)]
        for name in ("sgd", "adam")
    }
    assert final["sgd"] == final["adam"]
    assert len(set(final["sgd"])) == 6
    assert not tuning & set(final["sgd"])


def test_one_seed_gives_all_the_same_start_and_batches(tmp_path: Path) -> None:
    """Rates so small that every run stays at its start: equal losses mean equal data."""
    still = {"lr": log(1e-12, 1e-11)}
    field = [Entrant("sgd", recipes.sgd(), still), Entrant("adam", recipes.adam(), still)]
    record = short(tmp_path, NET, entrants=field, seeds=4).record
    curves: dict[int, list[list[float]]] = {}
    for run in record.runs:
        if run.round == "final":
            curves.setdefault(run.seed, []).append([point.train_loss for point in run.curve])
    assert all(one == pytest.approx(other, rel=1e-5) for one, other in curves.values())
    losses = [one for one, _ in curves.values()]
    assert losses[0] != pytest.approx(losses[1], rel=1e-2)


def test_a_run_is_what_the_drop_in_optimizer_makes_of_its_recipe_and_seed(tmp_path: Path) -> None:
    record = short(tmp_path, NET, entrants=["adam", "momentum"], seeds=2).record
    run = next(run for run in record.runs if (run.round, run.entrant) == ("final", "adam"))
    tried = {(c.entrant, c.index): c.recipe for c in record.configurations}
    torch.manual_seed(run.seed)
    model = NET.model()
    optimizer = Optimizer(model.parameters(), Recipe.from_toml(tried["adam", run.configuration]))
    batches = order(32, 16, run.seed)
    inputs, targets = NET.splits.train.tensors
    for _ in range(6):
        indices = next(batches)
        optimizer.zero_grad()
        F.mse_loss(model(inputs[indices]), targets[indices]).backward()
        optimizer.step()
    for split, recorded in (
        (NET.splits.validation, run.score),
        (NET.splits.test, run.test["loss"]),
    ):
        inputs, targets = split.tensors
        assert F.mse_loss(model(inputs), targets).item() == pytest.approx(recorded, rel=1e-4)


def test_the_same_seed_repeats_the_race_and_another_does_not(tmp_path: Path) -> None:
    first, second, other = (
        short(tmp_path / name, NET, seeds=4, seed=seed).record
        for name, seed in (("first", 0), ("second", 0), ("other", 1))
    )
    assert outcome(first) == outcome(second)
    assert outcome(first) != outcome(other)


@pytest.mark.parametrize("stop_at_step", [1, 9, 20, 40])
def test_a_race_that_was_stopped_ends_as_if_it_was_not(tmp_path: Path, stop_at_step: int) -> None:
    whole, stopped, resumed = Watched(), Watched(stop_at_step), Watched()
    uninterrupted = short(tmp_path / "whole", NET, progress=whole).record
    with pytest.raises(KeyboardInterrupt):
        short(tmp_path / "stopped", NET, progress=stopped)
    record = short(tmp_path / "stopped", NET, progress=resumed).record
    assert outcome(record) == outcome(uninterrupted)
    assert resumed.steps < whole.steps or stop_at_step == 1
    assert stopped.done + resumed.done == whole.done


def test_a_finished_race_trains_nothing_again(tmp_path: Path) -> None:
    first = short(tmp_path)
    ledger = (tmp_path / "saddle" / FILE).read_bytes()
    (tmp_path / "saddle" / "winner.toml").unlink()
    again = Watched()
    second = short(tmp_path, progress=again)
    assert (again.steps, again.rounds) == (0, [])
    assert outcome(second.record) == outcome(first.record)
    assert (tmp_path / "saddle" / FILE).read_bytes() == ledger
    assert (tmp_path / "saddle" / "winner.toml").exists()


def test_other_settings_are_refused_and_another_name_helps(tmp_path: Path) -> None:
    short(tmp_path)
    with pytest.raises(UserError, match=r"trials 4, not 3.*--name saddle-2"):
        short(tmp_path, trials=3)
    assert short(tmp_path, trials=3, name="saddle-2").folder == tmp_path / "saddle-2"


MEASURED = replace(NET, metric=F.mse_loss, direction="min")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (replace(MEASURED, batch_size=8), "another batch size"),
        (replace(MEASURED, model=lambda: nn.Linear(4, 1)), "another model"),
        (replace(MEASURED, loss=lambda out, y: 2 * F.mse_loss(out, y)), "another loss"),
        (replace(MEASURED, metric=F.l1_loss), "another metric"),
    ],
)
def test_another_task_under_an_old_name_is_refused(
    tmp_path: Path, changed: Task, words: str
) -> None:
    short(tmp_path, MEASURED)
    with pytest.raises(UserError, match=f"with {words} under the same name"):
        short(tmp_path, changed)


PRETRAINED = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))


class Scaled(nn.Module):
    """A fresh parameter over a tensor that is always the same."""

    numbers = torch.ones(4)

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(4, 1), nn.Parameter(self.numbers)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.layer(self.scale * inputs)
        return out


def assigned() -> nn.Module:
    model = nn.Linear(4, 1)
    model.load_state_dict(PRETRAINED[1].state_dict(), assign=True)
    return model


@pytest.mark.parametrize(
    ("model", "shared"),
    [
        (lambda: PRETRAINED, "0.weight"),
        (lambda: nn.Sequential(nn.Linear(4, 4), PRETRAINED[1]), "1.weight"),
        (lambda: nn.Sequential(PRETRAINED[0].requires_grad_(False), nn.Linear(4, 1)), "0.weight"),
        (Scaled, "scale"),
        (assigned, "weight"),
    ],
    ids=["model", "layer", "frozen layer", "tensor", "assigned"],
)
@pytest.mark.parametrize(
    "verb",
    [
        short,
        lambda path, task: train(task, "adam", out=path / "model.safetensors"),
        lambda _, task: lr_range(task, "adam"),
        lambda _, task: diagnose(task, "adam"),
    ],
    ids=["race", "train", "lr_range", "diagnose"],
)
def test_a_model_that_is_not_made_anew_is_refused_and_left_as_it_is(
    tmp_path: Path, verb: Any, model: Any, shared: str
) -> None:
    before = {name: x.clone() for name, x in PRETRAINED.state_dict().items()}
    with pytest.raises(UserError, match=f"gives the same '{shared}' at every call.*deepcopy"):
        verb(tmp_path, replace(NET, model=model))
    after = PRETRAINED.state_dict()
    assert all(torch.equal(x, after[name]) for name, x in before.items())


@pytest.mark.parametrize(
    "verb",
    [
        lambda path, recipe, task: short(path, task, baseline=recipe, seeds=2, trials=1),
        lambda path, recipe, task: train(task, recipe, out=path / "model.safetensors"),
        lambda _, recipe, task: diagnose(task, recipe),
    ],
    ids=["race", "train", "diagnose"],
)
def test_a_plateau_must_take_the_metrics_direction(tmp_path: Path, verb: Any) -> None:
    task = replace(NET, metric=lambda out, y: -F.mse_loss(out, y), direction="max")
    with pytest.raises(UserError, match=r"has direction 'min', .* give direction='max'\.$"):
        verb(tmp_path, recipes.sgd(lr=schedules.plateau(0.1)), task)
    verb(tmp_path, recipes.sgd(lr=schedules.plateau(0.1, direction="max")), task)


def test_a_copy_of_a_pretrained_model_races(tmp_path: Path) -> None:
    task = replace(NET, model=lambda: copy.deepcopy(PRETRAINED.requires_grad_()))
    assert short(tmp_path, task, step="single", seeds=2, trials=1).record.finished


def test_another_search_space_under_an_old_name_is_refused(tmp_path: Path) -> None:
    short(tmp_path, entrants=[SGD, "adam"])
    wider = replace(SGD, space={"lr": log(1e-3, 1.0)})
    with pytest.raises(UserError, match="another recipe or search space for sgd"):
        short(tmp_path, entrants=[wider, "adam"])


def test_test_scores_are_recorded_in_the_final_and_sealed_until_its_end(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        short(tmp_path, NET, progress=StopAtLook(2))
    sealed = sqlite3.connect(tmp_path / "net" / FILE)
    counts = sealed.execute(
        "SELECT round, count(value) FROM runs LEFT JOIN sealed ON run = id GROUP BY round"
    ).fetchall()
    sealed.close()
    assert dict(counts)["tuning"] == 0
    assert dict(counts)["final"] > 0
    record = short(tmp_path, NET).record
    for run in record.runs:
        assert set(run.test) == ({"loss", "absolute"} if run.round == "final" else set())


class StopAtLook(Watched):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def looked(self, look: Look) -> None:
        super().looked(look)
        if len(self.looks) == self.count:
            raise KeyboardInterrupt


def test_progress_is_told_what_happens(tmp_path: Path) -> None:
    told = Watched()
    record = short(tmp_path, NET, seeds=12, entrants=[SGD, SLOW], progress=told).record
    assert told.rounds == [("tuning", 2, 0, 14), ("final", 2, 0, 24)]
    assert told.done[:2] == [4, 8]
    final = [run.score for run in record.runs if (run.round, run.entrant) == ("final", "sgd")]
    assert told.best["sgd"] == pytest.approx(sorted(final)[len(final) // 2], rel=0.5)
    assert tuple(told.looks) == record.looks
    assert told.lines[:2] == [
        "sgd is tuned in lr (0.01 to 0.1); it races under linear cooling to a hundredth.",
        "slow is tuned in lr (1e-06 to 1e-05); it races under linear cooling to a hundredth.",
    ]
    assert "Members are stepped stacked" in told.lines[2]
    assert "at most" in told.lines[3]
    assert "12 seeds" in told.lines[4]


def test_a_race_that_goes_on_says_so(tmp_path: Path) -> None:
    told = Watched()
    with pytest.raises(KeyboardInterrupt):
        short(tmp_path, progress=StopAtLook(1))
    short(tmp_path, progress=told)
    assert "Going on in" in told.lines[2]


def test_too_few_seeds_are_told_before_the_race_starts(tmp_path: Path) -> None:
    told = Watched(stop_at_step=1)
    with pytest.raises(KeyboardInterrupt):
        short(tmp_path, entrants=["sgd", "adam", "lion", "nadam"], seeds=7, progress=told)
    assert "no lead among 4 entrants can be told from chance" in told.lines[-1]
    assert "8 seeds or more" in told.lines[-1] or "9 seeds or more" in told.lines[-1]
    assert "smaller question" in told.lines[-1]


def test_costs_are_measured_for_every_entrant(tmp_path: Path) -> None:
    costs = short(tmp_path, entrants=["sgd", "adam"], baseline="momentum").record.costs
    assert {name: cost.state_per_parameter for name, cost in costs.items()} == {
        "sgd": 0,
        "adam": 2,
        "momentum (tuned)": 1,
        "momentum (baseline)": 1,
    }
    for cost in costs.values():
        assert 0 < cost.optimizer_seconds < cost.step_seconds
        assert 0 < cost.step_seconds_low <= cost.step_seconds <= cost.step_seconds_high < math.inf


def test_a_machine_that_is_busy_for_a_while_makes_no_entrant_better(
    tmp_path: Path,
) -> None:
    calls = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += torch.is_grad_enabled()
        # As many steps as one entrant is timed for, and then as many in which it is idle.
        if torch.is_grad_enabled() and calls // 18 % 2:
            sleep(0.005)
        return F.mse_loss(outputs, targets)

    field = [SGD, Entrant("twin", recipes.sgd(), RATES)]
    raced = short(tmp_path, replace(NET, loss=loss), field, step="single")
    own, its = raced.record.costs.values()
    assert own.step_seconds_low < its.step_seconds_high
    assert its.step_seconds_low < own.step_seconds_high
    assert "cheaper" not in str(raced.verdict)
    assert raced.verdict.best == "sgd"  # the first of two that are the same


def test_averages_count_in_the_memory_of_a_recipe() -> None:
    chain = recipes.chain(recipes.adam(), rules.WindowAverage(last=7))
    assert Optimizer(nn.Linear(2, 3), chain).cost.numbers == 9


def test_a_baseline_races_untuned_at_its_own_settings(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(recipes.adam(lr=schedules.cosine(0.05, steps=3)).to_toml())
    record = short(tmp_path, baseline=str(mine)).record
    name = "adam (baseline)"
    assert record.settings.baseline == name
    assert record.settings.entrants == ("sgd", "adam", name)
    assert not [run for run in record.runs if (run.round, run.entrant) == ("tuning", name)]
    (only,) = [c for c in record.configurations if c.entrant == name]
    assert Recipe.from_toml(only.recipe) == Recipe.from_toml(mine.read_text())
    assert any((run.round, run.entrant) == ("final", name) for run in record.runs)


def test_what_is_not_tuned_keeps_its_own_schedule_where_cooling_is_tuned(tmp_path: Path) -> None:
    """One configuration cannot choose among coolings, so none is drawn for it."""
    own = recipes.sgd(lr=schedules.exponential(0.05, gamma=0.9))
    record = short(tmp_path, entrants=["adam", Entrant("own", own, {})], cooling="tune").record
    kinds: dict[str, list[str]] = {"adam": [], "own": []}
    for one in record.configurations:
        lr = Recipe.from_toml(one.recipe).settings["lr"]
        kinds[one.entrant].append(lr.kind if isinstance(lr, schedules.Schedule) else "none")
    assert kinds["own"] == ["exponential"]
    assert set(kinds["adam"]) == {"none", "linear", "cosine"}


def test_the_command_that_repeats_a_race_names_files_as_they_were_given(tmp_path: Path) -> None:
    mine, other = tmp_path / "my recipe.toml", tmp_path / "other.toml"
    mine.write_text(Recipe(recipes.adam().rules, "adam").to_toml())
    other.write_text(Recipe(recipes.sgd().rules, "other").to_toml())
    given = {"entrants": ["lion", str(other)], "baseline": str(mine), "task": "saddle"}
    record = short(tmp_path, **given, trials=1, seeds=2).record
    assert record.command == (
        f"thalweg race saddle --entrants lion,{other} --baseline '{mine}' --trials 1"
        " --tuning-seeds 1 --seeds 2 --cooling linear --alpha 0.05 --seed 0 --width 4"
        " --step stacked --lanes 1"
    )


def test_a_race_of_objects_is_repeated_from_python(tmp_path: Path) -> None:
    record = short(tmp_path, NET, entrants=[SGD, "adam"], trials=1, seeds=2).record
    assert record.command == (
        "thalweg.race(<Task net>, entrants=[<Entrant sgd>, 'adam'], trials=1,"
        " tuning_seeds=1, seeds=2, cooling='linear', alpha=0.05, seed=0, width=4,"
        " step='stacked', lanes=1)"
    )


def test_an_entrant_of_which_all_diverged_is_left_out_of_the_final(tmp_path: Path) -> None:
    record = short(tmp_path, NET, entrants=[SGD, WILD, SLOW]).record
    wild = [run for run in record.runs if run.entrant == "wild"]
    assert [run.round for run in wild] == ["tuning"] * 4
    assert all(math.isnan(run.score) and run.diverged_step and run.reason for run in wild)
    assert set(record.chosen) == {"sgd", "slow"}


def test_one_entrant_that_trains_at_all_is_still_measured(tmp_path: Path) -> None:
    result = short(tmp_path, NET, entrants=[SGD, WILD], seeds=8)
    final = [run for run in result.record.runs if run.round == "final"]
    assert [run.entrant for run in final] == ["sgd"] * 3
    assert result.verdict.best == "sgd"


def test_a_race_in_which_all_diverged_ends_without_a_winner(tmp_path: Path) -> None:
    result = short(tmp_path, NET, entrants=[WILD, replace(WILD, name="wilder")])
    assert result.best is None
    assert result.record.finished
    assert "no clear winner" in str(result.verdict)
    assert not (result.folder / "winner.toml").exists()


def test_a_start_that_no_seed_changes_is_told(tmp_path: Path) -> None:
    def seeded() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(4, 1)

    found = short(tmp_path / "one", replace(NET, model=seeded), [SGD, SLOW])
    assert any("Every seed begins with the same weights" in line for line in found.verdict.limits)
    found = short(tmp_path / "many", NET, [SGD, SLOW])
    assert not any("same weights" in line for line in found.verdict.limits)


def test_a_winning_value_at_the_edge_is_named(tmp_path: Path) -> None:
    record = short(tmp_path, NET, entrants=[SLOW, replace(SLOW, name="slower")], seeds=2).record
    assert [edge.entrant for edge in record.edges] == ["slow", "slower"]
    for edge in record.edges:
        assert (edge.hyper, edge.low, edge.high) == ("lr", 1e-6, 1e-5)
        assert edge.value > 0.8e-5


def test_a_schedule_that_an_entrant_brings_gives_way_to_the_common_one(tmp_path: Path) -> None:
    brought = recipes.sgd(lr=schedules.exponential(0.1, gamma=0.9))
    record = short(tmp_path, entrants=[Entrant("own", brought, RATES), "adam"]).record
    assert record.notes == (
        "own is tuned in lr (0.01 to 0.1); it races under linear cooling to a hundredth in place of"
        " its own schedule.",
    )
    kinds = {Recipe.from_toml(c.recipe).settings["lr"].kind for c in record.configurations}
    assert kinds == {"linear"}


def test_a_model_that_gives_its_buffer_another_shape_in_evaluation_races(tmp_path: Path) -> None:
    class Fading(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 1)
            self.register_buffer("before", torch.zeros(1, 4))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            if self.before.shape != inputs.shape:
                self.before = torch.zeros_like(inputs)
            self.before = 0.5 * self.before + inputs.detach()
            return super().forward(self.before)

    task = replace(NET, model=Fading, batch_size=4)
    assert short(tmp_path, task, step="single", seeds=2, trials=1).record.finished


def test_a_model_that_does_not_stack_races_one_by_one_and_says_why(tmp_path: Path) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells, self.out = nn.GRU(1, 3, batch_first=True), nn.Linear(3, 1)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            states, _ = self.cells(inputs.unsqueeze(-1))
            return self.out(states[:, -1])

    told = Watched()
    task = replace(NET, name="recurrent", model=Recurrent, steps=2)
    record = short(tmp_path, task, step="measured", seeds=2, trials=2, progress=told).record
    assert any("one by one" in note and "GRU" in note for note in record.notes)
    assert any("one by one" in line for line in told.lines)
    assert told.done[:4] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"trials": 0}, "trials must be a whole number from 1 to 1000, not 0"),
        ({"trials": 1001}, "trials must be a whole number from 1 to 1000, not 1001"),
        ({"tuning_seeds": 0}, "tuning_seeds must be a whole number from 1 to 100, not 0"),
        ({"tuning_seeds": True}, "tuning_seeds must be a whole number from 1 to 100, not True"),
        ({"trials": 2.5}, "trials must be a whole number"),
        ({"seeds": 1}, "seeds must be a whole number from 2 to 1000, not 1"),
        ({"width": 0}, "width must be a whole number from 1 to 4294967295"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295"),
        ({"seed": 10**23}, "seed must be a whole number from 0 to 4294967295"),
        ({"seeds": 10**20}, "seeds must be a whole number from 2 to 1000"),
        ({"entrants": 5}, "entrants must be a list of entrants, or names with commas, not 5"),
        ({"entrants": ["adam", 5]}, "entrants: an entrant is a name, .* not 5"),
        ({"name": 3}, "name must be the name of one folder"),
        ({"runs": 3}, "runs must be a path, not 3"),
        ({"alpha": 0.5}, "alpha must be a number from 1e-12 to below 0.5"),
        ({"alpha": math.nan}, "alpha must be a number"),
        ({"cooling": "warm"}, "no cooling is called warm; known are none, linear"),
        ({"entrants": ["adam"]}, "two entrants or more, not adam"),
        ({"entrants": []}, "two entrants or more, not none"),
        ({"entrants": ["adam", "adam"]}, "two entrants are called adam"),
        ({"entrants": ["adam", "adma"]}, "no optimizer is called adma"),
        ({"baseline": "adma"}, "no optimizer is called adma"),
        ({"name": "../x"}, "name must be the name of one folder"),
        ({"name": ".."}, "name must be the name of one folder"),
        ({"task": "digit"}, "did you mean digits"),
        ({"task": 3}, "task must be"),
        ({"task": replace(SADDLE, loss=lambda out, _: out.mean() * math.nan)}, "loss .* is nan"),
    ],
)
def test_what_cannot_be_raced_gets_a_sentence_and_leaves_no_trace(
    tmp_path: Path, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        short(**{"runs": tmp_path / "runs"} | arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_width_above_the_members_takes_no_memory(tmp_path: Path) -> None:
    raced = short(tmp_path, replace(SADDLE, steps=2), trials=1, seeds=2, width=2**32 - 1)
    assert "width = 2\n" in (raced.folder / "plan.toml").read_text()


def test_a_task_may_tell_numpy_to_raise(tmp_path: Path) -> None:
    def strict() -> Data:
        np.seterr(all="raise")
        return SADDLE.data()

    expected = short(tmp_path / "lax", trials=12, seeds=4)
    with np.errstate():
        raced = short(tmp_path / "strict", replace(SADDLE, data=strict), trials=12, seeds=4)
        raced.report()
    assert raced.record.looks == expected.record.looks
    assert raced.best == expected.best


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("<script>", "script"),
        ("../x", "x"),
        ("a b/c", "a-b-c"),
        ("...", "run"),
        ("é_1", "é_1"),
        ("\U00020000" * 90, "\U00020000{2,20}-[0-9a-f]+"),
    ],
)
def test_a_tasks_name_never_leaves_the_folder(tmp_path: Path, name: str, folder: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        short(tmp_path / "runs", replace(SADDLE, name=name), progress=Watched(stop_at_step=1))
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    (path,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(folder, path.name)
    assert len(path.name.encode()) <= 80


def test_a_task_from_a_file_is_known_by_its_name_and_repeated_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import replace\n"
        "from thalweg.tasks import find\n"
        "mine = replace(find('saddle'), name='mine', steps=4)\n"
    )
    result = short(tmp_path, f"{path}:mine", seeds=2)
    assert "on mine by height (lower is better), " in result.verdict.sentence
    assert f"thalweg race {path}:mine" in result.record.command
    assert result.folder == tmp_path / "mine"
    told = Watched()
    assert short(tmp_path, "mine.py:mine", seeds=2, progress=told).record == result.record
    assert told.lines == [f"The race in {tmp_path / 'mine'} was finished already; {REDRAWN}"]


REDRAWN = "it is only drawn again."


def test_entrants_may_be_named_in_one_text(tmp_path: Path) -> None:
    record = short(tmp_path, entrants="sgd, adam,", seeds=2).record
    assert record.settings.entrants == ("sgd", "adam")


def test_a_folder_that_cannot_be_made_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UserError, match="cannot be made"):
        short(tmp_path / "runs")


def test_a_disk_that_fills_up_in_a_race_leaves_a_ledger_to_go_on_from(tmp_path: Path) -> None:
    class FillsUp(Watched):
        def block_ended(self, done: int, best: dict[str, float]) -> None:
            super().block_ended(done, best)
            if done == 4:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(UserError, match=r"The ledger in .* cannot be written"):
            short(tmp_path / "full", NET, progress=FillsUp())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    whole = short(tmp_path / "whole", NET).record
    assert outcome(short(tmp_path / "full", NET).record) == outcome(whole)


def test_a_space_on_a_linear_scale_is_raced_too(tmp_path: Path) -> None:
    field = [Entrant("own", recipes.momentum(), {"momentum": linear(0.1, 0.5)}), "adam"]
    record = short(tmp_path, entrants=field, seeds=2).record
    own, *values = [c.values["momentum"] for c in record.configurations if c.entrant == "own"]
    assert own == 0.5  # the nearest to that of the recipe
    assert len({int((value - 0.1) / 0.1) for value in values}) == 3
