"""What the tuning round knows about an entrant's search space, computed from the record."""

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
"""The share of the exploring points that counts as good."""

DEEPER = 0.3
"""How far the floor lies below the best loss, as a multiple of the distance between the best loss
and the worst good one."""

CLOSE = 0.5
"""A score is close to the best if it lies within this number of standard deviations of a run.
Tuning can hardly distinguish such scores."""

EVERYWHERE, NEARBY, NEAR = 128, 64, 0.1
"""The numbers of points at which curves are drawn: over the whole space, and around the best point
with the standard deviation NEAR, in units of the space.
"""

LEARNED = 256
"""The most runs from which a model learns; it takes the best ones. More would take too long."""


@dataclass(frozen=True)
class Scale:
    """The scale of losses for the models of all entrants: log(loss - floor).

    The floor lies a little below the best loss, so that small differences near the best loss count
    as much as large differences far above it. A run that diverged gets a value above all others,
    which is higher the earlier it diverged. worst: the highest finite loss.
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
        """Losses on this scale. lasted: the share of its budget that each run completed."""
        finite = np.isfinite(losses)
        highest = losses[finite].max() if finite.any() else self.worst
        scaled = np.log(np.where(finite, losses, highest) - self.floor)
        return np.where(finite, scaled, scaled + 1 - lasted / 2)

    def loss(self, scaled: Array) -> Array:
        return self.floor + np.exp(scaled)


def without_walls(scores: Array) -> Array:
    """The scores, where those of the worse half are replaced according to their ranks.

    They become the upper half of a normal distribution around the median, as wide as the better
    half (Song et al. 2024). A smooth process cannot follow a sudden rise of the loss; it would
    explain the rise by noise, or by short lengths.
    """
    middle = np.median(scores) if len(scores) else 0.0
    worse = scores > middle
    spread = np.sqrt(np.mean((scores[~worse] - middle) ** 2))
    shares = rankdata(scores[worse]) / (np.count_nonzero(worse) + 1)
    found: Array = scores.copy()
    found[worse] = middle + spread * norm.ppf((1 + shares) / 2)
    return found


class Landscape:
    """The search space of one entrant as a unit cube, and the model of its scores.

    names: the tuned settings, one for each dimension. points: the points of the configurations, by
    index. scaled, scores: the scores of the runs on the scale of all entrants, and the scores from
    which the model learns.
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
        """The point of a configuration, which has a quantile for each setting."""
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
        """A model that is fitted to these scores of the runs."""
        best = np.argsort(self.scores, kind="stable")[:LEARNED]
        points = np.array([self.points[run.configuration] for run in self.runs])
        seeds = np.array([run.seed for run in self.runs])
        return GaussianProcess(points[best], scores[best], seeds[best])

    @cached_property
    def expected(self) -> dict[int, float]:
        """The expected score of each tried configuration by its index, the best first.

        A configuration that diverged in each of its runs is left out.
        """
        tried = sorted({run.configuration for run in self.runs if math.isfinite(run.score)})
        if not tried:
            return {}
        means, _ = self.model.mean_and_deviation(np.array([self.points[index] for index in tried]))
        return dict(sorted(zip(tried, means.tolist(), strict=True), key=lambda found: found[1]))

    @property
    def close(self) -> float:
        """The worst score that counts as close to the best.

        It lies `CLOSE` standard deviations of a run above the expected score of the best tried
        configuration.
        """
        return next(iter(self.expected.values()), math.inf) + CLOSE * self.model.noise

    @property
    def best(self) -> Array:
        """The tried point with the best expected score; the first point if all diverged."""
        return self.points[next(iter(self.expected), 0)]

    def candidates(
        self, generator: np.random.Generator, low: Array | float = 0.0, high: Array | float = 1.0
    ) -> Array:
        """Points in the unit cube or in a box, over all of it and around the best point."""
        dimensions = len(self.names)
        spread = qmc.Sobol(dimensions, rng=generator).random(EVERYWHERE)
        near = self.best + NEAR * generator.standard_normal((NEARBY, dimensions))
        # Points beyond an end are mirrored there, so that no two points are the same.
        within = 1 - np.abs(1 - np.abs((near - low) / (high - low)))
        return low + (high - low) * np.vstack([spread, within])
