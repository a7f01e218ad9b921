"""How sure tuning is: would another draw of its points, or twice as many, name another entrant?

The search is repeated on curves that the true losses may be, drawn from each entrant's model: at
random points, then where what is drawn from all that is known by then is the least; the best few
are tried again, and one of these is chosen. Two repetitions on one curve differ by luck alone. The
next race differs from this one by such luck too: what an entrant comes to there is its loss in the
final round of this race, plus the difference of two repetitions, plus the error of the seeds. Races
differ by more than that, since a model does not know of a valley where no point lies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import median

import numpy as np

from thalweg.racing.gaussian_process import JITTER, Array, Setting, normal
from thalweg.racing.landscape import EVERYWHERE, Landscape, Scale
from thalweg.racing.measures import Measures, as_loss
from thalweg.racing.record import Certainty, Record
from thalweg.racing.search import AGAIN, REFINEMENTS, exploring, parts

REPEATED = 200
"""Repetitions of the tuning round."""

UNKNOWN_LUCK = 0.5
"""The deviation of a race's luck beside that of a repetition, in deviations of a run. Claims held
as often as they said with it, in the 83 races on three tasks for which it was chosen.
"""

MOST = 200
"""Trials of an entrant that are repeated: more change little, and take long."""


def certainties(record: Record) -> Iterator[Certainty]:
    """Of all that ran the final round, where tuning decided something."""
    measures = Measures(record)
    if measures.best is None or not record.settings.spaces:
        return
    scale = Scale.of(record)
    known = {name: Landscape(name, record, scale) for name in record.settings.spaces}
    generator = np.random.default_rng(record.settings.seed)
    same, twice = (repeated(measures, scale, known, more, generator) for more in (1, 2))
    named = np.argmin(list(same.values()), axis=0)
    for place, name in enumerate(same):
        ahead = (twice[name] < twice[measures.best]).mean()
        yield Certainty(name, float((named == place).mean()), float(ahead))


def repeated(
    measures: Measures,
    scale: Scale,
    known: Mapping[str, Landscape],
    more: int,
    generator: np.random.Generator,
) -> dict[str, Array]:
    """By entrant, what it comes to in repetitions with `more` times the trials, on the scale of the
    models: [REPEATED]. known: of those that were tuned.
    """
    every = sorted({seed for runs in measures.final.values() for seed in runs})
    # The final round of this race and that of the next one both err: half the seeds err as much.
    seeds = generator.choice(every, (REPEATED, max(1, len(every) // 2)))
    found = {}
    for name in measures.raced:
        losses = final_losses(measures, name, seeds)
        found[name] = np.log(losses - scale.floor)
        if name in known:
            found[name] = found[name] + changes(known[name], more, generator)
    return found


def final_losses(measures: Measures, entrant: str, seeds: Array) -> Array:
    """The entrant's median over each row of seeds, or over all where it has none of these."""
    runs = measures.final[entrant]
    losses = {seed: as_loss(run.score, measures.settings) for seed, run in runs.items()}
    whole = median(losses.values())
    own = [[losses[seed] for seed in row if seed in losses] for row in seeds.tolist()]
    return np.array([median(row) if row else whole for row in own])


def changes(known: Landscape, more: int, generator: np.random.Generator) -> Array:
    """By how much the entrant's loss changes in a race with `more` times the trials: [REPEATED].

    It is the difference of two repetitions on the same curve, one with those trials and one with
    the trials that the entrant had, and the luck of both races that no model knows.
    """
    model, trials = known.model, len(known.points)
    again = known.settings.further_seeds
    best = [known.points[index] for index in list(known.expected)[:MOST]]
    at = np.vstack([known.candidates(generator), *best])
    found = []
    counts = generator.multinomial(REPEATED, model.weights)
    for setting, count in zip(model.settings, counts, strict=True):
        if count:
            repetition = Repetition(setting, at, generator)
            curves = setting.curves(at, count, generator)
            other = repetition.chosen(curves, min(more * trials, MOST), again)
            found.append(other - repetition.chosen(curves, min(trials, MOST), again))
    differences = generator.permutation(model.scale * np.concatenate(found))
    unknown = UNKNOWN_LUCK * model.noise * generator.standard_normal((2, REPEATED))
    changed: Array = differences + unknown[0] - unknown[1]
    return changed


class Repetition:
    """Tuning of curves that are drawn under one setting of a model, by that setting, at the points
    `at` [m, dimensions]. The first `EVERYWHERE` of them are spread over the whole space.
    """

    def __init__(self, setting: Setting, at: Array, generator: np.random.Generator) -> None:
        self.covariance, self.generator = setting.covariance(at), generator
        # What all runs of a seed share misleads no search that knows of it.
        self.noise = setting.noise + JITTER

    def chosen(self, curves: Array, trials: int, again: int) -> Array:
        """What curves [count, m] come to where the search finds them the least: [count]."""
        count = len(curves)
        rows = np.arange(count)[:, None]
        explored = exploring(trials)
        tried = self.generator.integers(EVERYWHERE, size=(count, explored))
        scores = curves[rows, tried] + self.noisy(tried.shape)
        for size in filter(None, parts(trials - explored, REFINEMENTS)):
            new = self.least(tried, scores, size)
            tried = np.hstack([tried, new])
            scores = np.hstack([scores, curves[rows, new] + self.noisy(new.shape)])
        weights = self.solved(tried, scores[..., None])
        expected = (weights.transpose(0, 2, 1) @ self.covariance[tried])[:, 0]
        best = np.take_along_axis(tried, np.take_along_axis(expected, tried, 1).argsort(1), 1)
        best = best[:, :AGAIN]
        told = curves[rows, best] + self.noisy(best.shape) / math.sqrt(again)
        found: Array = curves[rows[:, 0], best[rows[:, 0], told.argmin(1)]]
        return found

    def least(self, tried: Array, scores: Array, size: int) -> Array:
        """Where `size` draws for each curve, of what it may be by now, are the least."""
        count, shape = len(tried), (len(tried), size, tried.shape[1])
        prior = normal(self.covariance, count * size, self.generator).reshape(count, size, -1)
        at_tried = np.take_along_axis(prior, np.broadcast_to(tried[:, None], shape), 2)
        unexplained = scores[:, None] - at_tried - self.noisy(shape)
        weights = self.solved(tried, unexplained.transpose(0, 2, 1))
        drawn = prior + weights.transpose(0, 2, 1) @ self.covariance[tried]
        found: Array = drawn.argmin(2)
        return found

    def solved(self, tried: Array, values: Array) -> Array:
        """The inverse of the covariance of scores where they were tried, times the values."""
        among = self.covariance[tried[:, :, None], tried[:, None, :]]
        return np.linalg.solve(among + self.noise * np.eye(tried.shape[1]), values)

    def noisy(self, shape: tuple[int, ...]) -> Array:
        return math.sqrt(self.noise) * self.generator.standard_normal(shape)
