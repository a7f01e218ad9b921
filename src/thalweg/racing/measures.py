"""What a race measured about each entrant: the numbers of a verdict, computed from the record."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from thalweg.racing.entrants import cooling_of
from thalweg.racing.record import Configuration, Cost, Record, RunRecord, Settings
from thalweg.rules.tuning import is_rate
from thalweg.statistics import Interval, compare, median_interval, tunability, wilson

BUDGETS = (1, 2, 4, 8, 16)
"""The numbers of configurations for which the tunability curve is drawn."""

ONE_COMPARISON = 0.025
"""The one-sided level of an interval that belongs to no look, which gives 95 % confidence."""


@dataclass(frozen=True)
class Difference:
    """The difference of an entrant's validation metric to another's, in most cases to the best's.

    estimate, low, high: the entrant's metric minus the other's (Hodges-Lehmann, and the interval
        that inverts the signed-rank test); infinite if divergence decides or seeds are too few.
    confidence: the level of the interval, in (0, 1). seeds: the number of seeds that both have.
    one_comparison: whether the interval is a single comparison, outside the shortlist's risk.
    """

    estimate: float
    low: float
    high: float
    confidence: float
    seeds: int
    one_comparison: bool


@dataclass(frozen=True)
class Share:
    """A count out of n, with the 95 % Wilson interval of the share."""

    count: int
    n: int
    interval: Interval


@dataclass(frozen=True)
class ToTarget:
    """The median number of steps to the target; nan if at least half of the runs did not reach it.

    missed: the number of runs that did not reach it within their budget, diverged runs included. n:
    the number of all runs.
    """

    median: float
    missed: int
    n: int


@dataclass(frozen=True)
class Summary:
    """The numbers of one entrant over its final seeds.

    shortlisted: whether it is on the shortlist. beaten_by, out_at: the entrant that beat it, and
    after how many seeds; None if it is on the shortlist. seeds: the number of its seeds; 0 if it
    did not enter the final round, and then it has no other numbers. validation, test: median and
    interval. difference: its difference to the best entrant; None for the best one. also,
    test_also: the task's further metrics on validation and test data, as medians of the runs that
    did not diverge. wins: of the seeds that all entrants have, those on which no other was better;
    None without such seeds. to_target: None if the task has no target. step_seconds: the median and
    interval of a step alone. state_per_parameter: the numbers that the optimizer keeps for each
    parameter. values: the tuned settings. tuning: the number of runs in the tuning round; 0 if it
    was not tuned. named, ahead: as in `Certainty`; None if tuning decided nothing.
    """

    entrant: str
    shortlisted: bool
    beaten_by: str | None
    out_at: int | None
    seeds: int
    validation: Interval | None
    test: Interval | None
    also: Mapping[str, float]
    test_also: Mapping[str, float]
    difference: Difference | None
    wins: Share | None
    diverged: Share | None
    to_target: ToTarget | None
    step_seconds: Interval | None
    state_per_parameter: float | None
    values: Mapping[str, float | str]
    tuning: int
    named: float | None
    ahead: float | None


class Measures:
    """Computes from a record the shortlist, the best entrant, and the summary of each entrant."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.settings: Settings = record.settings
        self.final: dict[str, dict[int, RunRecord]] = {}
        for run in record.runs:
            if run.round == "final":
                self.final.setdefault(run.entrant, {})[run.seed] = run
        self.raced = tuple(name for name in self.settings.entrants if name in self.final)
        self.shortlist = tuple(name for name in self.raced if self.beaten_by(name) is None)
        self.tuned = {one.entrant for one in record.configurations if one.values}
        self.certainties = {one.entrant: one for one in record.certainties}
        self.best = self._best()

    def scores(self, entrant: str, seeds: Sequence[int] | None = None) -> list[float]:
        """The entrant's final scores on these seeds; on all of its own if none are given."""
        runs = self.final[entrant]
        return [runs[seed].score for seed in (sorted(runs) if seeds is None else seeds)]

    def shared_seeds(self, *entrants: str) -> list[int]:
        """The seeds that all these entrants have."""
        return sorted(set.intersection(*(set(self.final[name]) for name in entrants)))

    def level(self, first: str, second: str) -> float | None:
        """The one-sided level of the last look at both entrants; None if there was none."""
        levels = [k.level for k in self.record.looks if first in k.on and second in k.on]
        return levels[-1] if levels else None

    def paired(self, first: str, second: str) -> tuple[list[float], list[float]]:
        """The scores of both entrants on the seeds that both have."""
        seeds = self.shared_seeds(first, second)
        return self.scores(first, seeds), self.scores(second, seeds)

    def beaten_by(self, entrant: str) -> str | None:
        """The entrant that beat this one; None if it is on the shortlist."""
        return self.departure(entrant)[0]

    def departure(self, entrant: str) -> tuple[str, int] | tuple[None, None]:
        """The entrant that beat this one, and after how many seeds; None for the shortlist."""
        left = ((one, look.seeds) for look in self.record.looks for one in look.left)
        found = ((one.by, seeds) for one, seeds in left if one.entrant == entrant)
        return next(found, (None, None))

    def summaries(self) -> tuple[Summary, ...]:
        """The summaries of all entrants: the shortlist first, then by median, without runs last."""
        found = [self.summary(name) for name in self.settings.entrants]
        return tuple(sorted(found, key=self._place))

    def summary(self, entrant: str) -> Summary:
        cost = self.record.costs.get(entrant)
        raced = entrant in self.final
        beaten_by, out_at = self.departure(entrant)
        sure = self.certainties.get(entrant)
        return Summary(
            entrant=entrant,
            shortlisted=entrant in self.shortlist,
            beaten_by=beaten_by,
            out_at=out_at,
            seeds=len(self.final.get(entrant, ())),
            validation=self.median(self.scores(entrant)) if raced else None,
            test=self.test(entrant) if raced else None,
            also=self.also(entrant),
            test_also=self.test_also(entrant),
            difference=self.difference(entrant, self.best) if raced else None,
            wins=self.wins(entrant) if raced else None,
            diverged=self.diverged(entrant) if raced else None,
            to_target=self.to_target(entrant) if raced else None,
            step_seconds=step_seconds(cost) if cost else None,
            state_per_parameter=cost.state_per_parameter if cost else None,
            values=self.values(entrant),
            tuning=len(self.tuning_runs(entrant)),
            named=sure.named if sure else None,
            ahead=sure.ahead if sure else None,
        )

    def median(self, scores: Sequence[float]) -> Interval:
        return median_interval(scores, self.settings.direction)

    def test(self, entrant: str) -> Interval | None:
        """The test metric; None until the test scores are opened."""
        runs = [run for _, run in sorted(self.final[entrant].items())]
        if not any(run.test for run in runs):
            return None
        return self.median([run.test.get(self.settings.metric, math.nan) for run in runs])

    def also(self, entrant: str) -> dict[str, float]:
        """The task's further metrics on validation data, at the end of the budget."""
        return medians(run.curve[-1].also for run in self._trained(entrant))

    def test_also(self, entrant: str) -> dict[str, float]:
        """The task's further metrics on test data; empty until the test scores are opened."""
        found = medians(run.test for run in self._trained(entrant))
        return {name: value for name, value in found.items() if name != self.settings.metric}

    def difference(self, entrant: str, other: str | None) -> Difference | None:
        """The entrant minus the other; None if both are the same, or without a common seed."""
        if other is None or entrant == other or not self.shared_seeds(entrant, other):
            return None
        # `compare` gives first minus second if high is better, and second minus first if low is
        # better. This order of the arguments gives entrant minus other in both cases.
        raised = self.settings.direction == "max"
        pair = (entrant, other) if raised else (other, entrant)
        level = self.level(*pair)
        found = compare(*self.paired(*pair), self.settings.direction, level or ONE_COMPARISON)
        return Difference(
            estimate=found.estimate,
            low=found.low,
            high=found.high,
            confidence=found.confidence,
            seeds=found.n,
            one_comparison=level is None,
        )

    def wins(self, entrant: str) -> Share | None:
        seeds = self.shared_seeds(*self.raced)
        if not seeds:
            return None
        won = [seed for seed in seeds if self._loss(entrant, seed) == self._least_loss(seed)]
        return share(len(won), len(seeds))

    def diverged(self, entrant: str) -> Share:
        runs = self.final[entrant].values()
        count = sum(not math.isfinite(run.score) for run in runs)
        return share(count, len(runs))

    def to_target(self, entrant: str) -> ToTarget | None:
        if self.settings.target is None:
            return None
        steps = [steps_to_target(run, self.settings) for run in self.final[entrant].values()]
        missed = sum(math.isinf(step) for step in steps)
        return ToTarget(median_interval(steps, "min").estimate, missed, len(steps))

    def chosen(self, entrant: str) -> Configuration | None:
        """The entrant's best configuration; None before the choice, or if all diverged."""
        index = self.record.chosen.get(entrant)
        return None if index is None else self.configuration(entrant, index)

    def configuration(self, entrant: str, index: int) -> Configuration:
        """The configuration of the entrant with this index."""
        tried = self.record.configurations
        return next(one for one in tried if one.key == (entrant, index))

    def values(self, entrant: str) -> Mapping[str, float | str]:
        """The tuned settings of the chosen configuration, with the cooling if it was tuned."""
        chosen = self.chosen(entrant)
        if chosen is None:
            return {}
        if not any(map(is_rate, chosen.values)) or self.settings.cooling != "tune":
            return chosen.values
        return {**chosen.values, "cooling": cooling_of(chosen.recipe)}

    def tunability(self) -> dict[str, tuple[tuple[int, float], ...]]:
        """For each entrant, pairs of b and the median best score of b exploring configurations.

        Each was trained once, so the scores are optimistic.
        """
        curves = {}
        for entrant in self.settings.entrants:
            scores = self.explored_scores(entrant)
            budgets = [budget for budget in BUDGETS if budget <= len(scores)]
            if budgets:
                curve = tunability(scores, budgets, self.settings.direction)
                curves[entrant] = tuple(curve.items())
        return curves

    def explored_scores(self, entrant: str) -> list[float]:
        """The first score of each configuration that was not refined; nan if it diverged."""
        tried = self.record.configurations
        explored = {one.index for one in tried if one.entrant == entrant and not one.refined}
        firsts: dict[int, float] = {}
        for run in self.record.runs:
            if (run.round, run.entrant) == ("tuning", entrant) and run.configuration in explored:
                firsts.setdefault(run.configuration, run.score)
        return list(firsts.values())

    def tuning_scores(self, entrant: str) -> dict[int, float]:
        """The tuning score of each configuration by its index; nan if it diverged.

        A configuration that was tried again has the median over the further seeds.
        """
        scores: dict[int, list[float]] = {}
        for run in self.tuning_runs(entrant):
            scores.setdefault(run.configuration, []).append(run.score)
        # The first score of a configuration that was tried again is biased: it was selected by it.
        again = {index: found[1:] or found for index, found in sorted(scores.items())}
        return {index: self.median(found).estimate for index, found in again.items()}

    def tuning_runs(self, entrant: str) -> list[RunRecord]:
        runs = self.record.runs
        return [run for run in runs if run.round == "tuning" and run.entrant == entrant]

    def _trained(self, entrant: str) -> list[RunRecord]:
        """The final runs that did not diverge."""
        runs = self.final.get(entrant, {}).values()
        return [run for run in runs if math.isfinite(run.score)]

    def _best(self) -> str | None:
        """The entrant on the shortlist with the best median, then the safest, then the lightest."""
        able = [name for name in self.shortlist if math.isfinite(self._median_loss(name))]
        return min(able, key=self._rank, default=None)

    def _rank(self, entrant: str) -> tuple[float, float, float]:
        cost = self.record.costs.get(entrant)
        memory = cost.state_per_parameter if cost else math.inf
        return self._median_loss(entrant), self.diverged(entrant).interval.estimate, memory

    def _place(self, one: Summary) -> tuple[bool, bool, bool, float]:
        median = self._median_loss(one.entrant) if one.seeds else math.inf
        return one.seeds == 0, not one.shortlisted, one.entrant != self.best, median

    def _median_loss(self, entrant: str) -> float:
        """The median final score as a loss; infinite if it diverged."""
        return as_loss(self.median(self.scores(entrant)).estimate, self.settings)

    def _loss(self, entrant: str, seed: int) -> float:
        return as_loss(self.final[entrant][seed].score, self.settings)

    def _least_loss(self, seed: int) -> float:
        least = min(self._loss(name, seed) for name in self.raced)
        # If all diverged, none won: nothing is equal to nan.
        return least if math.isfinite(least) else math.nan


def share(count: int, n: int) -> Share:
    return Share(count, n, wilson(count, n))


def step_seconds(cost: Cost) -> Interval:
    return Interval(cost.step_seconds, cost.step_seconds_low, cost.step_seconds_high)


def medians(found: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The median of each metric over the runs that have it."""
    by_name: dict[str, list[float]] = {}
    for metrics in found:
        for name, value in metrics.items():
            by_name.setdefault(name, []).append(value)
    return {name: median(values) for name, values in by_name.items()}


def as_loss(score: float, settings: Settings) -> float:
    """The score as a loss, of which less is better; infinite for a run that diverged."""
    if not math.isfinite(score):
        return math.inf
    return score if settings.direction == "min" else -score


def steps_to_target(run: RunRecord, settings: Settings) -> float:
    """The step of the first evaluation that reached the target; infinite if none did.

    A run that diverged counts as not having reached the target.
    """
    assert settings.target is not None
    goal = as_loss(settings.target, settings)
    reached = (point.step for point in run.curve if as_loss(point.metric, settings) <= goal)
    return next(reached, math.inf) if math.isfinite(run.score) else math.inf
