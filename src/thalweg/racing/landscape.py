"""What the tuning round knows of an entrant's search space, from the record alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import norm, qmc, rankdata

from thalweg.racing.draws import quantile_of
from thalweg.racing.entrants import COOLINGS, cooling_of
from thalweg.racing.gaussian_process import Array, GaussianProcess
from thalweg.racing.measures import as_loss
from thalweg.racing.record import Configuration, Record, RunRecord

GOOD = 0.15
"""The share of the explored points that counts as good."""

DEEPER = 0.3
"""How far the floor lies below the best loss, in distances from there to the worst good one."""

CLOSE = 0.5
"""Deviations of a run within which a score is close to the best: tuning hardly tells them apart."""

EVERYWHERE, NEARBY, NEAR = 128, 64, 0.1
"""Points at which curves are drawn: over the whole space, and around the best one, with this
deviation in units of the space.
"""

LEARNED = 256
"""Runs that a model learns from, the best ones: more would take it long."""


@dataclass(frozen=True)
class Scale:
    """The scale on which models see losses, the same for all entrants: log(loss - floor).

    The floor lies a little below the best loss, so that steps are fine near it, and the walls of a
    valley do not hide its ground. A run that diverged lies above all others, the higher the sooner
    it did. worst: the highest finite loss.
    """

    floor: float
    worst: float

    @classmethod
    def of(cls, record: Record) -> Scale:
        """The scale for what is on record."""
        explored = {one.key for one in record.configurations if not one.refined}
        runs = [run for run in record.runs if math.isfinite(run.score)]
        losses = [as_loss(run.score, record.settings) for run in runs]
        first = [
            loss
            for run, loss in zip(runs, losses, strict=True)
            if run.round == "tuning" and run.member[:2] in explored
        ]
        best, worst = min(losses, default=0.0), max(losses, default=0.0)
        good = float(np.quantile(first, GOOD)) if first else best
        depth = DEEPER * (good - best or worst - best or abs(best) or 1.0)
        return cls(min(best - depth, math.nextafter(best, -math.inf)), worst)

    def of_losses(self, losses: Array, lasted: Array) -> Array:
        """lasted: the share of its budget that a run went on for."""
        finite = np.isfinite(losses)
        highest = losses[finite].max() if finite.any() else self.worst
        scaled = np.log(np.where(finite, losses, highest) - self.floor)
        return np.where(finite, scaled, scaled + 1 - lasted / 2)

    def loss(self, scaled: Array) -> Array:
        return self.floor + np.exp(scaled)


def without_walls(scores: Array) -> Array:
    """The scores, with those of the worse half replaced by what their ranks say.

    They become the upper half of a normal distribution around the median, as wide as the better
    half is (Song et al. 2024). A smooth process cannot follow a wall: it would take the wall for
    noise, or for short lengths.
    """
    middle = np.median(scores) if len(scores) else 0.0
    worse = scores > middle
    spread = np.sqrt(np.mean((scores[~worse] - middle) ** 2))
    shares = rankdata(scores[worse]) / (np.count_nonzero(worse) + 1)
    found: Array = scores.copy()
    found[worse] = middle + spread * norm.ppf((1 + shares) / 2)
    return found


class Landscape:
    """The search space of one entrant as a unit cube, and the model of what was found there.

    names: of the tuned settings, one for each dimension. points: of the configurations, by index.
    scaled, scores: of the runs, on the scale of all entrants, and as the model learns from them.
    """

    def __init__(self, entrant: str, record: Record, scale: Scale) -> None:
        self.entrant, self.settings = entrant, record.settings
        self.spaces = record.settings.spaces[entrant]
        own = [one for one in record.configurations if one.entrant == entrant]
        self.names = [*self.spaces, *(["cooling"] if self.tunes_cooling else [])]
        self.points = {one.index: self.point(one) for one in own}
        self.runs = [run for run in record.runs if run.round == "tuning" and run.entrant == entrant]
        losses = np.array([as_loss(run.score, self.settings) for run in self.runs])
        self.scaled = scale.of_losses(losses, np.array([self.lasted(run) for run in self.runs]))
        self.scores = without_walls(self.scaled)

    @property
    def tunes_cooling(self) -> bool:
        return self.settings.cooling == "tune" and self.entrant in self.settings.cooled

    def point(self, one: Configuration) -> Array:
        """Where a configuration lies: a quantile of its space for each setting."""
        found = [quantile_of(space, one.values[name]) for name, space in self.spaces.items()]
        if self.tunes_cooling:
            found.append((COOLINGS.index(cooling_of(one.recipe)) + 0.5) / len(COOLINGS))
        return np.array(found)

    def lasted(self, run: RunRecord) -> float:
        return (run.diverged_step or 0) / self.settings.steps

    @cached_property
    def model(self) -> GaussianProcess:
        return self.fitted(self.scores)

    def fitted(self, scores: Array) -> GaussianProcess:
        """A model of these scores of the runs."""
        best = np.argsort(self.scores, kind="stable")[:LEARNED]
        points = np.array([self.points[run.configuration] for run in self.runs])
        seeds = np.array([run.seed for run in self.runs])
        return GaussianProcess(points[best], scores[best], seeds[best])

    @cached_property
    def expected(self) -> dict[int, float]:
        """By index, what the model expects of a configuration that was tried, the best first.

        One that diverged whenever it was tried is not among them.
        """
        tried = sorted({run.configuration for run in self.runs if math.isfinite(run.score)})
        if not tried:
            return {}
        means, _ = self.model.mean_and_deviation(np.array([self.points[index] for index in tried]))
        return dict(sorted(zip(tried, means.tolist(), strict=True), key=lambda found: found[1]))

    @property
    def close(self) -> float:
        """The worst score that counts as close: what the model expects of the best configuration
        that was tried, and `CLOSE` deviations of a run.
        """
        return next(iter(self.expected.values()), math.inf) + CLOSE * self.model.noise

    @property
    def best(self) -> Array:
        """The point of which the model expects the most; the first one where all diverged."""
        return self.points[next(iter(self.expected), 0)]

    def candidates(
        self, generator: np.random.Generator, low: Array | float = 0.0, high: Array | float = 1.0
    ) -> Array:
        """Points of the unit cube, or of a box, spread over all of it and around the best one."""
        dimensions = len(self.names)
        spread = qmc.Sobol(dimensions, rng=generator).random(EVERYWHERE)
        near = self.best + NEAR * generator.standard_normal((NEARBY, dimensions))
        # What lies beyond an end is mirrored there, so that no two points are the same.
        within = 1 - np.abs(1 - np.abs((near - low) / (high - low)))
        return low + (high - low) * np.vstack([spread, within])
