"""The search of the tuning round: the model of an entrant's scores, and what is asked of it."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_t
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from made_record import MADE
from test_race import NET, SGD, SLOW, Watched, outcome, short
from thalweg import recipes, rules
from thalweg.racing import gaussian_process
from thalweg.racing.draws import quantile_of, value_at
from thalweg.racing.entrants import Entrant, cooling_of, entrant
from thalweg.racing.gaussian_process import JITTER, KEPT, SHAPE, GaussianProcess, Prior, prior
from thalweg.racing.landscape import LEARNED, Landscape, Scale
from thalweg.racing.ledger import FILE
from thalweg.racing.record import Key, Record, RunRecord, Settings
from thalweg.racing.search import TOGETHER, Asked, Search, kinds
from thalweg.rules.space import log
from thalweg.schedules import linear

# The Gaussian process


def problem(
    size: int = 12, dimensions: int = 2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points, noisy scores, the seeds of these, and other points to predict at."""
    rng = np.random.default_rng(seed)
    points, at = rng.random((size, dimensions)), rng.random((5, dimensions))
    scores = 3 + np.sin(4 * points).sum(1) + 0.1 * rng.normal(size=size)
    return points, scores, rng.integers(4, size=size), at


def known(monkeypatch: pytest.MonkeyPatch, *settings: tuple[float, float, float]) -> None:
    """A prior of these settings alone: length, variance of seeds and noise, share of the seeds."""
    lengths, noise, seeds = map(np.array, zip(*settings, strict=True))
    monkeypatch.setattr(
        gaussian_process,
        "prior",
        lambda dimensions: Prior(np.repeat(lengths[:, None], dimensions, 1), noise, seeds),
    )


def covariance(points: np.ndarray, other: np.ndarray, length: Any) -> np.ndarray:
    return np.asarray(Matern(length, nu=2.5)(points, other))


def standardized(scores: np.ndarray) -> np.ndarray:
    return (scores - scores.mean()) / scores.std()


def test_predictions_under_one_setting_are_those_of_scikit_learn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points, scores, _, at = problem()
    known(monkeypatch, (0.5, 0.1, 0.3))
    mean, deviation = GaussianProcess(points, scores, np.arange(12)).mean_and_deviation(at)
    kernel = Matern(0.5, nu=2.5)
    expected = GaussianProcessRegressor(kernel, alpha=0.1 + JITTER, optimizer=None)
    expected.fit(points, standardized(scores))
    found, found_deviation = expected.predict(at, return_std=True)
    assert mean == pytest.approx(scores.mean() + scores.std() * found, abs=1e-9)
    # The variance of f is the mean of its posterior, an inverse gamma distribution.
    misfit = standardized(scores) @ expected.alpha_ / 2
    variance = (SHAPE + misfit) / (SHAPE + 12 / 2 - 1)
    assert deviation == pytest.approx(scores.std() * np.sqrt(variance) * found_deviation, rel=1e-4)


def test_settings_are_weighed_by_the_likelihood_of_the_scores() -> None:
    points, scores, seeds, _ = problem()
    same_seed = seeds[:, None] == seeds
    drawn = prior(2)
    logs = []
    for lengths, noise, share in zip(drawn.lengths, drawn.noise, drawn.seeds, strict=True):
        errors = noise * (share * same_seed + (1 - share) * np.eye(12))
        shape = covariance(points, points, lengths) + errors + JITTER * np.eye(12)
        # With the variance of f integrated out, scores have Student's distribution.
        logs.append(multivariate_t.logpdf(standardized(scores), shape=shape, df=2 * SHAPE))
    expected = np.exp(sorted(logs, reverse=True)[:KEPT])
    found = GaussianProcess(points, scores, seeds).weights
    assert found == pytest.approx(expected / expected.sum(), rel=1e-6)


def test_what_all_runs_of_a_seed_share_is_told_from_what_points_do() -> None:
    points = np.random.default_rng(0).random((24, 1))
    seeds, at = np.arange(24) % 4, np.linspace(0.1, 0.9, 9)[:, None]
    effects = np.array([0, 3, -3, 1])

    def errors(seeds_told: np.ndarray) -> float:
        """Of differences between points: no scores can tell what all seeds share."""
        scores = np.sin(4 * points[:, 0]) + effects[seeds]
        mean, _ = GaussianProcess(points, scores, seeds_told).mean_and_deviation(at)
        found = mean - np.sin(4 * at[:, 0])
        return float(np.abs(found - found.mean()).max())

    assert errors(seeds) < 0.1
    assert errors(np.arange(24)) > 0.5


@given(st.integers(1, 4), st.integers(2, 20), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
@settings(max_examples=25)
def test_predictions_move_and_scale_with_the_scores(
    dimensions: int, size: int, constant: float, factor: float
) -> None:
    points, scores, seeds, at = problem(size, dimensions)
    mean, deviation = GaussianProcess(points, scores, seeds).mean_and_deviation(at)
    changed = GaussianProcess(points, constant + factor * scores, seeds)
    found, found_deviation = changed.mean_and_deviation(at)
    assert found == pytest.approx(constant + factor * mean, rel=1e-6, abs=1e-4 * factor)
    assert found_deviation == pytest.approx(factor * deviation, rel=1e-3)
    assert changed.noise == pytest.approx(
        factor * GaussianProcess(points, scores, seeds).noise, rel=1e-3
    )


@pytest.mark.parametrize("score", [0.1, 1e-9, 1e9, 0.7])
def test_scores_that_are_all_the_same_leave_a_model_as_unsure_as_any_others(score: float) -> None:
    """Round-off in their mean is no spread."""
    points, _, seeds, at = problem(7)
    mean, deviation = GaussianProcess(points, np.full(7, score), seeds).mean_and_deviation(at)
    assert mean == pytest.approx(np.full(5, score))
    assert deviation.min() > 1e-2


def test_draws_have_the_mean_and_the_covariance_of_the_posterior(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points, scores, seeds, at = problem()
    known(monkeypatch, (0.4, 0.2, 0.5))
    model = GaussianProcess(points, scores, seeds)
    draws = model.draws(at, 20_000, np.random.default_rng(0))
    errors = 0.2 * (0.5 * (seeds[:, None] == seeds) + 0.5 * np.eye(12)) + JITTER * np.eye(12)
    among, across = covariance(points, points, 0.4) + errors, covariance(points, at, 0.4)
    y, inverse = standardized(scores), np.linalg.inv(among)
    variance = (SHAPE + y @ inverse @ y / 2) / (SHAPE + 12 / 2 - 1)
    expected = variance * (covariance(at, at, 0.4) - across.T @ inverse @ across)
    assert draws.shape == (20_000, 5)
    scale = scores.std()
    assert draws.mean(0) == pytest.approx(
        scores.mean() + scale * across.T @ inverse @ y, abs=0.03 * scale
    )
    assert np.cov(draws.T) == pytest.approx(scale**2 * expected, abs=0.02 * scale**2)


def test_draws_of_all_settings_have_the_mean_and_the_deviation_that_are_predicted() -> None:
    points, scores, seeds, at = problem(6)
    model = GaussianProcess(points, scores, seeds)
    mean, deviation = model.mean_and_deviation(at)
    draws = model.draws(at, 20_000, np.random.default_rng(0))
    assert draws.mean(0) == pytest.approx(mean, abs=0.03 * deviation.max())
    assert draws.std(0) == pytest.approx(deviation, rel=0.03)


def test_the_first_of_the_draws_come_from_all_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few of the draws choose the next points."""
    at = np.linspace(0, 1, 20)[:, None]
    known(monkeypatch, (0.05, 0.01, 0), (5.0, 0.01, 0))
    model = GaussianProcess(np.array([[0.0]]), np.array([1.0]), np.array([0]))
    assert model.weights == pytest.approx([0.5, 0.5])
    draws = model.draws(at, 64, np.random.default_rng(0))
    rough = np.abs(np.diff(draws)).mean(1) > 0.3
    assert 5 <= rough[:20].sum() <= 15


# Races that are simulated

SPACE = {"lr": log(2e-4, 0.5)}
"""No documented one, which may be widened."""

Losses = Callable[[str, Mapping[str, float], int], float]


def settings_for(field: Sequence[Entrant], **more: Any) -> Settings:
    given: dict[str, Any] = {
        "entrants": tuple(one.name for one in field),
        "spaces": {one.name: one.space for one in field if one.space},
        "cooled": tuple(one.name for one in field if one.comes_under_cooling),
    }
    return replace(MADE, **given | more)


def named(*names: str) -> list[Entrant]:
    """Entrants whose lr is tuned in `SPACE`, and is 0.01 when they come."""
    return [Entrant(name, recipes.sgd(lr=0.01), SPACE) for name in names]


def bowl(entrant: str, values: Mapping[str, float], seed: int) -> float:
    """The least at lr 0.01, with an effect of each seed, and noise."""
    rng = np.random.default_rng(crc32(f"{entrant} {values} {seed}".encode()))
    effect = 0.03 * math.sin(seed)
    return 0.1 + 0.1 * math.log10(values["lr"] / 0.01) ** 2 + effect + 0.01 * rng.normal()


class Simulated:
    """The tuning round of entrants whose losses are a function; those that diverge have nan."""

    def __init__(self, field: Sequence[Entrant], losses: Losses = bowl, **more: Any) -> None:
        self.settings = settings_for(field, **more)
        self.search = Search(field, self.settings, {None: 100})
        self.losses = losses
        self.asked: list[Asked] = []
        first = tuple(self.search.first_points)
        self.record = Record(
            self.settings, first, (), (), {}, (), {}, (), (), (), False, {}, "made", Path()
        )
        if self.settings.earlier:
            self.train(Asked(members=self.search.explore()))
        for stage in range(len(self.search.sizes)):
            self.train(self.search.asked(stage, self.record))

    def train(self, asked: Asked) -> None:
        self.asked.append(asked)
        self.record = replace(
            self.record,
            configurations=(*self.record.configurations, *asked.configurations),
            stops=(*self.record.stops, *asked.stops),
        )
        runs = [self.run(key) for key in asked.members]
        self.record = replace(self.record, runs=(*self.record.runs, *runs))

    def run(self, key: Key) -> RunRecord:
        entrant, index, seed = key
        loss = self.losses(entrant, self.values(entrant)[index], seed)
        step = None if math.isfinite(loss) else 10
        return RunRecord("tuning", entrant, index, seed, loss, step, None, ())

    def values(self, entrant: str) -> list[dict[str, float]]:
        """Of each configuration, in order."""
        return [one.values for one in self.record.configurations if one.entrant == entrant]

    @property
    def points(self) -> list[tuple[Any, ...]]:
        """All that was asked."""
        return [(one.entrant, one.index, one.values) for one in self.record.configurations]

    def seeds(self, entrant: str, stage: int) -> list[int]:
        return [seed for name, _, seed in self.asked[stage].members if name == entrant]


def test_all_explore_as_many_points_on_the_same_seeds_in_turn_their_own_settings_first() -> None:
    done = Simulated([*named("a", "b"), Entrant("c", recipes.adam(lr=0.5), SPACE)])
    tuning = list(done.search.seeds.tuning)
    for name, own in (("a", 0.01), ("b", 0.01), ("c", 0.5)):
        assert done.seeds(name, 0) == tuning
        first, *others = [values["lr"] for values in done.values(name)[:8]]
        assert first == pytest.approx(own)
        assert sorted(int(8 * quantile_of(SPACE["lr"], lr)) for lr in others)[::6] == [0, 7]
    explored = [
        [values for one, _, values in done.points if one == name][1:8] for name in ("a", "b", "c")
    ]
    assert explored[0] == explored[1] == explored[2]
    assert not any(one.refined for one in done.record.configurations if one.index < 8)
    assert all(one.refined for one in done.record.configurations if one.index >= 8)


@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 5), st.integers(0, 9))
@settings(max_examples=20)
def test_who_goes_on_gets_as_many_points_as_others_and_all_together_what_was_planned(
    entrants: int, trials: int, tuning_seeds: int, seed: int
) -> None:
    field = named(*"abcd"[:entrants])
    done = Simulated(field, trials=trials, tuning_seeds=tuning_seeds, seed=seed)
    counts = {one.name: len(done.values(one.name)) for one in field}
    stopped = {stop.entrant: stop.trials for stop in done.record.stops}
    assert all(counts[name] == trials for name, trials in stopped.items())
    going_on = [counts[one.name] for one in field if one.name not in stopped]
    assert not going_on or max(going_on) - min(going_on) <= 1
    spent = sum(counts.values())
    assert spent == entrants * trials if going_on else spent <= entrants * trials
    members = [len(asked.members) for asked in done.asked]
    assert all(found <= planned for found, planned in zip(members, done.search.sizes, strict=True))


@pytest.mark.parametrize("space", [SPACE, {**SPACE, "momentum": (0.0, 0.9)}])
def test_refined_points_are_all_different_and_inside_the_space(space: dict[str, Any]) -> None:
    def at_an_end(entrant: str, values: Mapping[str, float], seed: int) -> float:
        return bowl(entrant, {"lr": values["lr"] / 100}, seed)

    field = [Entrant("a", recipes.momentum(), space), Entrant("b", recipes.momentum(), space)]
    done = Simulated(field, at_an_end, trials=40)
    for one in field:
        tried = done.values(one.name)
        assert len({tuple(values.values()) for values in tried[1:]}) == len(tried) - 1
        for name, within in one.space.items():
            slack = 1e-12 * within.high
            assert all(within.low - slack <= x[name] <= within.high + slack for x in tried)


def test_a_documented_space_is_widened_where_the_best_lies_at_its_edge_and_no_other_is() -> None:
    def rising(entrant: str, values: Mapping[str, float], seed: int) -> float:  # noqa: ARG001
        return 3 - math.log10(values["lr"])

    own = Entrant("own", recipes.sgd(), {"lr": log(1e-3, 0.5)})
    done = Simulated([entrant("sgd"), own], rising)
    space = entrant("sgd").space["lr"]
    highest = max(values["lr"] for values in done.values("sgd"))
    assert value_at(space, 1.25) < highest <= value_at(space, 1.5)
    assert max(values["lr"] for values in done.values("own")) <= 0.5
    chosen = done.search.chosen(done.record)
    edges = done.search.edges(done.record, chosen)
    assert [(edge.entrant, edge.high) for edge in edges if edge.entrant == "own"] == [("own", 0.5)]
    found = [edge.high for edge in edges if edge.entrant == "sgd"]
    assert found in ([], [value_at(space, 1.5)])


def test_a_widened_space_holds_only_what_its_settings_may_be() -> None:
    def far(entrant: str, values: Mapping[str, float], seed: int) -> float:  # noqa: ARG001
        return -sum(values.values())

    for name in ("momentum", "adamw"):
        tried = Simulated([entrant(name)], far).values(name)
        assert all(0 <= x < 1 for values in tried for key, x in values.items() if "[" in key)
        assert all(0 <= values.get("momentum", 0) < 1 for values in tried)


def test_points_gather_where_the_losses_are_the_least() -> None:
    done = Simulated(named("a", "b"))
    for name in ("a", "b"):
        refined = [math.log10(values["lr"]) for values in done.values(name)[8:]]
        assert sum(abs(lr + 2) < 0.5 for lr in refined) > len(refined) / 2
        best = done.search.chosen(done.record)[name]
        assert math.log10(done.values(name)[best]["lr"]) == pytest.approx(-2, abs=0.4)


def test_who_is_far_worse_everywhere_stops_and_the_others_get_its_share() -> None:
    def losses(entrant: str, values: Mapping[str, float], seed: int) -> float:
        return bowl(entrant, values, seed) + (5 if entrant == "bad" else 0)

    done = Simulated(named("good", "bad", "fine"), losses)
    stop = done.record.stops[0]
    assert (stop.entrant, stop.trials) == ("bad", len(done.values("bad")))
    assert stop.trials < 24
    assert stop.chance < 0.05
    others = len(done.values("good")) + len(done.values("fine"))
    assert 2 * 24 < others <= 3 * 24 - stop.trials
    # It is tuned, though: its best three are tried again.
    assert len(done.seeds("bad", -1)) == 3 * 4


@pytest.mark.parametrize(("trials", "earlier"), [(9, ()), (12, (1,)), (12, (2, 4))])
def test_nobody_stops_before_it_has_tried_ten_points(trials: int, earlier: tuple[int, ...]) -> None:
    def losses(entrant: str, values: Mapping[str, float], seed: int) -> float:
        return bowl(entrant, values, seed) + (5 if entrant == "bad" else 0)

    done = Simulated(named("good", "bad", "fine"), losses, trials=trials, earlier=earlier)
    assert all(stop.trials >= 10 for stop in done.record.stops)
    assert len(done.values("bad")) > (earlier or (8,))[0]


def test_nobody_stops_for_what_it_did_on_one_seed() -> None:
    def losses(entrant: str, values: Mapping[str, float], seed: int) -> float:
        return bowl(entrant, values, seed) + (5 if entrant == "bad" else 0)

    done = Simulated(named("good", "bad"), losses, tuning_seeds=1)
    assert not done.record.stops
    assert len(done.values("bad")) == 24


def test_where_trainings_diverge_no_more_points_are_asked_for() -> None:
    def losses(entrant: str, values: Mapping[str, float], seed: int) -> float:
        return math.nan if values["lr"] > 0.03 else bowl(entrant, values, seed)

    done = Simulated(named("a", "b"), losses)
    for name in ("a", "b"):
        explored, refined = done.values(name)[:8], done.values(name)[8:]
        assert sum(values["lr"] > 0.03 for values in explored) >= 3
        assert sum(values["lr"] > 0.03 for values in refined) <= len(refined) / 5


def test_the_best_three_are_tried_again_on_further_seeds_that_are_the_same_for_all() -> None:
    def losses(entrant: str, values: Mapping[str, float], seed: int) -> float:  # noqa: ARG001
        return (math.log10(values["lr"]) + 1.7) ** 2

    done = Simulated(named("a", "b"), losses, trials=8, tuning_seeds=5)
    seeds = done.search.seeds
    assert len({*seeds.tuning, *seeds.further, *seeds.final}) == 5 + 3 + 2
    for name in ("a", "b"):
        ranked = sorted(
            range(len(done.values(name))), key=lambda i: losses(name, done.values(name)[i], 0)
        )
        again = [(index, seed) for one, index, seed in done.asked[-1].members if one == name]
        assert {index for index, _ in again} == set(ranked[:3])
        assert done.seeds(name, -1) == 3 * list(seeds.further)


def test_the_median_over_the_further_seeds_chooses() -> None:
    done = Simulated(named("a"))
    tried = list(dict.fromkeys(index for _, index, _ in done.asked[-1].members))
    scores = {tried[0]: [0, 0, 9, 9], tried[1]: [math.nan, math.nan, math.nan, 0]}
    scores[tried[2]] = [8, 1, 1, 1]
    seeds = done.search.seeds.further
    of_each = {index: dict(zip(seeds, some, strict=True)) for index, some in scores.items()}
    runs = [
        replace(run, score=of_each[run.configuration][run.seed]) if run.seed in seeds else run
        for run in done.record.runs
    ]
    record = replace(done.record, runs=tuple(runs))
    assert done.search.chosen(record) == {"a": tried[2]}


def test_a_constant_or_a_factor_in_the_losses_changes_nothing_of_what_is_asked() -> None:
    done = Simulated(named("a", "b"))
    for constant, factor in ((4, 1), (-1, 1), (0, 1e6), (0, 1e-6)):
        changed = Simulated(named("a", "b"), lambda *of, c=constant, f=factor: c + f * bowl(*of))
        assert changed.asked == [
            replace(asked, stops=other.stops)
            for asked, other in zip(done.asked, changed.asked, strict=True)
        ]


def test_a_metric_to_raise_asks_what_its_negative_asks_when_it_is_to_be_lowered() -> None:
    lowered = Simulated(named("a", "b"))
    raised = Simulated(named("a", "b"), lambda *of: -bowl(*of), direction="max")
    assert raised.points == lowered.points
    assert raised.search.chosen(raised.record) == lowered.search.chosen(lowered.record)


def test_a_run_that_diverged_lies_above_all_others_and_the_higher_the_sooner() -> None:
    done = Simulated(named("a"))
    scale = Scale.of(done.record)
    losses, lasted = np.array([0.1, 40.0, math.inf, math.inf]), np.array([0.0, 0.0, 0.1, 0.9])
    best, worst, sooner, later = scale.of_losses(losses, lasted)
    assert best < worst < later < sooner


def test_an_order_of_losses_is_their_order_on_the_scale_and_back_again() -> None:
    scale = Scale.of(Simulated(named("a")).record)
    losses = np.array([0.1, 0.10001, 0.2, 1.0, 1e6])
    scaled = scale.of_losses(losses, np.zeros(5))
    assert (np.diff(scaled) > 0).all()
    assert scale.loss(scaled) == pytest.approx(losses)


@pytest.mark.parametrize("loss", [0.0, 0.1, -2.5, 1e20, 1e-20, math.nan])
def test_losses_that_are_all_the_same_are_searched_too(loss: float) -> None:
    done = Simulated(named("a", "b"), lambda *_: loss)
    assert sum(len(asked.members) for asked in done.asked[:-1]) <= 48
    assert set(done.search.chosen(done.record)) == (set() if math.isnan(loss) else {"a", "b"})


ULP = math.ulp(0.1)


def test_losses_that_differ_by_round_off_alone_are_searched_too() -> None:
    done = Simulated(named("a", "b"), lambda _, values, __: 0.1 + (values["lr"] > 0.01) * ULP)
    assert set(done.search.chosen(done.record)) == {"a", "b"}


@pytest.mark.parametrize("factor", [1e-6, 1, 1e6])
def test_who_always_diverges_stops_whatever_the_size_of_the_losses(factor: float) -> None:
    def losses(entrant: str, values: Mapping[str, float], seed: int) -> float:
        return math.nan if entrant == "wild" else factor * bowl(entrant, values, seed)

    done = Simulated(named("a", "wild", "b"), losses)
    (stop,) = [stop for stop in done.record.stops if stop.entrant == "wild"]
    assert stop.trials <= 16
    assert done.search.chosen(done.record).keys() == {"a", "b"}


def test_a_tuned_cooling_is_searched_with_the_other_settings() -> None:
    field = named("a", "b")

    class Cooled(Simulated):
        def run(self, key: Key) -> RunRecord:
            entrant, index, _ = key
            own = [one for one in self.record.configurations if one.entrant == entrant]
            found = super().run(key)
            worse = 0.3 if cooling_of(own[index].recipe) != "cosine" else 0
            return replace(found, score=found.score + worse)

    done = Cooled(field, cooling="tune")
    assert Landscape("a", done.record, Scale.of(done.record)).names == ["lr", "cooling"]
    tried = [one for one in done.record.configurations if one.entrant == "a"]
    refined = [cooling_of(one.recipe) for one in tried if one.refined]
    assert refined.count("cosine") > len(refined) / 2
    assert cooling_of(tried[done.search.chosen(done.record)["a"]].recipe) == "cosine"


@pytest.mark.parametrize(
    "uncooled",
    [
        Entrant("a", recipes.momentum(lr=0.1), {"momentum": (0.5, 0.9)}),
        Entrant("a", recipes.sgd(lr=linear(0.1, 0.01, steps=100)), SPACE, cooled=False),
    ],
    ids=["without a tuned lr", "with a schedule of its own"],
)
def test_who_does_not_come_under_the_cooling_is_searched_where_it_is_tuned(
    uncooled: Entrant,
) -> None:
    def losses(entrant: str, values: Mapping[str, float], seed: int) -> float:
        return bowl(entrant, {"lr": 0.01, **values}, seed)

    done = Simulated([uncooled, *named("b")], losses, cooling="tune")
    assert len(done.values("a")) + len(done.values("b")) == 2 * 24
    kinds = {cooling_of(one.recipe) for one in done.record.configurations if one.entrant == "a"}
    assert kinds == {cooling_of(uncooled.recipe.to_toml())}


def test_one_configuration_is_tried_once_and_of_two_both_are_tried_again() -> None:
    one, two = Simulated(named("a", "b"), trials=1), Simulated(named("a", "b"), trials=2)
    assert [len(asked.members) for asked in one.asked] == [2, 0]
    assert one.search.chosen(one.record) == {"a": 0, "b": 0}
    assert [len(asked.members) for asked in two.asked] == [4, 2 * 2 * 4]


def test_entrants_without_a_space_are_asked_for_nothing() -> None:
    mine = Entrant("mine", recipes.sgd(lr=0.1))
    assert Simulated([mine, *named("a")]).values("mine") == []
    assert sum(Simulated([mine]).search.sizes) == 0


def test_the_same_seed_asks_the_same_and_another_seed_asks_other_points() -> None:
    first, second, other = (Simulated(named("a", "b"), seed=seed) for seed in (0, 0, 1))
    assert first.asked == second.asked
    assert not {str(point) for point in first.points[1:8]} & {str(x) for x in other.points[1:8]}
    assert first.points[0] == other.points[0]


def test_of_very_many_configurations_so_many_are_asked_for_at_a_time_as_a_model_can_tell() -> None:
    done = Simulated(named("a"), trials=320)
    assert len(done.record.runs) > LEARNED
    refined = [len(asked.members) for asked in done.asked[1:-1]]
    assert max(refined) <= TOGETHER
    assert len(done.values("a")) in (320, *(stop.trials for stop in done.record.stops))


# Through the door


class StopsAtEachBlock(Watched):
    def block_ended(self, done: int, best: dict[str, float]) -> None:
        super().block_ended(done, best)
        raise KeyboardInterrupt


SEARCHED: dict[str, Any] = {"trials": 12, "tuning_seeds": 2, "seeds": 3, "width": 6}
FIELD = [SGD, SLOW, replace(SGD, name="twin")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return short(tmp_path_factory.mktemp("whole"), NET, FIELD, **SEARCHED).record


def test_a_race_that_is_stopped_after_each_block_ends_as_if_it_was_not(
    tmp_path: Path, whole: Record
) -> None:
    assert [stop.entrant for stop in whole.stops] == ["slow"]
    assert any(one.refined for one in whole.configurations)
    found, stops = in_parts(tmp_path)
    assert stops > 12
    assert outcome(found) == outcome(whole)


def in_parts(runs: Path) -> tuple[Record, int]:
    """The record of a race that is stopped after each block, and the number of its stops."""
    for stops in count():
        try:
            return short(runs, NET, FIELD, progress=StopsAtEachBlock(), **SEARCHED).record, stops
        except KeyboardInterrupt:
            continue
    raise AssertionError


def test_points_are_on_record_before_they_are_trained(tmp_path: Path, whole: Record) -> None:
    class StopsInRefinement(Watched):
        def stepped(self, taken: int, alive: int, members: int) -> None:
            super().stepped(taken, alive, members)
            if self.done and self.done[-1] == 24:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        short(tmp_path, NET, FIELD, progress=StopsInRefinement(), **SEARCHED)
    ledger = sqlite3.connect(tmp_path / "net" / FILE)
    (trained,) = ledger.execute("SELECT count(*) FROM runs").fetchone()
    asked = ledger.execute(
        "SELECT count(*) FROM asked JOIN configurations"
        " ON asked.entrant = configurations.entrant AND configuration = number WHERE refined"
    ).fetchone()
    ledger.close()
    assert trained == 24
    assert asked == (3,)
    assert outcome(short(tmp_path, NET, FIELD, **SEARCHED).record) == outcome(whole)


def test_one_with_weight_decay_tries_the_best_of_what_it_is_without() -> None:
    """So that it is not worse by bad luck in the search."""

    def losses(entrant: str, values: Mapping[str, float], seed: int) -> float:
        hidden = 0.5 if values.get("weight_decay", 0) > 2e-4 else 0.0
        return bowl(entrant, values, seed) + hidden

    done = Simulated([entrant("adam"), entrant("adamw"), entrant("nadam")], losses)
    tried = [values for values in done.values("adamw") if values["weight_decay"] == 1e-4]
    again = [index for name, index, _ in done.asked[-1].members if name == "adam"]
    assert [one["lr"] for one in tried] == [done.values("adam")[again[0]]["lr"]]
    chosen = done.search.chosen(done.record)["adamw"]
    assert done.values("adamw")[chosen] == tried[0]
    assert len(done.seeds("adamw", -1)) == 3 * 4


def test_a_rule_that_takes_the_step_counts_whatever_its_decay() -> None:
    lamb = Entrant("lamb", recipes.lamb(weight_decay=0.0), {"lr": log(1e-5, 1.0)})
    assert kinds(lamb) == {rules.Lamb}
    assert kinds(entrant("adam")) == {rules.Adam}


def test_a_space_of_ones_own_is_kept_whatever_is_found_without_weight_decay() -> None:
    space = {**entrant("adamw").space, "lr": log(1e-5, 1e-4)}
    done = Simulated([entrant("adam"), Entrant("own", recipes.adamw(), space)])
    rates = [values["lr"] for values in done.values("own")]
    assert max(rates) == pytest.approx(1e-4, rel=1e-9) or max(rates) < 1e-4


@pytest.mark.exhaustive
def test_the_one_that_is_truly_best_stops_in_hardly_any_race() -> None:
    """It is ahead by half a standard deviation of a run, and each has a valley of its own."""
    valleys = {name: 10 ** (-3 + 0.6 * i) for i, name in enumerate("abcd")}

    def losses(entrant: str, values: Mapping[str, float], seed: int) -> float:
        lead = 0.0 if entrant == "c" else 0.005
        return lead + bowl(entrant, {"lr": values["lr"] * 0.01 / valleys[entrant]}, seed)

    races = [Simulated(named(*valleys), losses, seed=seed) for seed in range(200)]
    stopped = sum("c" in [stop.entrant for stop in done.record.stops] for done in races)
    assert stopped <= 0.02 * len(races)
