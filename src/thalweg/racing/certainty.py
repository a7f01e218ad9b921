"""How sure tuning is: whether other points, or twice as many, would name another entrant.

The search is repeated on curves that are drawn from each entrant's model, as possible true losses.
A repetition tries random points, then the minima of curves that are drawn from what it knows by
then; it tries the best few points again and chooses one. Two repetitions on one curve differ only
by chance, and so does another race from this one. So the predicted loss of an entrant in another
race is its loss in this final round, plus the difference of two repetitions, plus the error of the
seeds. Real races differ by more, because a model does not know a valley in which no point lies.
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
"""The number of repetitions of the tuning round."""

UNKNOWN_LUCK = 0.5
"""The standard deviation of what chance adds to a race beyond a repetition, in deviations of a run.
It was chosen on 83 races on three tasks, so that predictions were right as often as they said.
"""

MOST = 200
"""The most trials of an entrant that are repeated. More would change little and take long."""


def certainties(record: Record) -> Iterator[Certainty]:
    """The certainties of all entrants of the final round, if tuning decided anything."""
    measures = Measures(record)
    if measures.best is None or not record.settings.spaces:
        return
    scale = Scale.of(record)
    known = {name: Landscape(name, record, scale) for name in record.settings.spaces}
    generator = np.random.default_rng(record.settings.seed)
    same, twice = (
        repeated(measures, scale, known, more=more, generator=generator) for more in (1, 2)
    )
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
    """By entrant, the losses `[REPEATED]` of repetitions with `more` times the trials.

    They are on the scale of the models. known: the landscapes of the entrants that were tuned.
    """
    every = sorted({seed for runs in measures.final.values() for seed in runs})
    # This final round and that of another race both have errors. Half the seeds, drawn once, have
    # the same error as both together.
    seeds = generator.choice(every, (REPEATED, max(1, len(every) // 2)))
    found = {}
    for name in measures.raced:
        losses = final_losses(measures, name, seeds)
        found[name] = np.log(losses - scale.floor)
        if name in known:
            found[name] = found[name] + changes(known[name], more, generator)
    return found


def final_losses(measures: Measures, entrant: str, seeds: Array) -> Array:
    """The entrant's median over each row of seeds, or over all seeds if it has none of the row."""
    runs = measures.final[entrant]
    losses = {seed: as_loss(run.score, measures.settings) for seed, run in runs.items()}
    whole = median(losses.values())
    own = [[losses[seed] for seed in row if seed in losses] for row in seeds.tolist()]
    return np.array([median(row) if row else whole for row in own])


def changes(known: Landscape, more: int, generator: np.random.Generator) -> Array:
    """The changes `[REPEATED]` of the entrant's loss in a race with `more` times the trials.

    A change is the difference of two repetitions on the same curve, one with the additional trials
    and one without, plus the chance in both races that the model does not know.
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
    """A repetition of the tuning on curves that are drawn under one setting of a model.

    at: the points `[m, dimensions]` of the curves. The first `EVERYWHERE` points are spread over
    the whole space.
    """

    def __init__(self, setting: Setting, at: Array, generator: np.random.Generator) -> None:
        self.covariance, self.generator = setting.covariance(at), generator
        # The effect of a seed is left out, because the search knows it and subtracts it.
        self.noise = setting.noise + JITTER

    def chosen(self, curves: Array, trials: int, again: int) -> Array:
        """The values `[count]` of curves `[count, m]` at the points that the search chooses."""
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
        """For each curve, the minima of `size` curves that are drawn from what is known of it."""
        count, shape = len(tried), (len(tried), size, tried.shape[1])
        prior = normal(self.covariance, count * size, self.generator).reshape(count, size, -1)
        at_tried = np.take_along_axis(prior, np.broadcast_to(tried[:, None], shape), 2)
        unexplained = scores[:, None] - at_tried - self.noisy(shape)
        weights = self.solved(tried, unexplained.transpose(0, 2, 1))
        drawn = prior + weights.transpose(0, 2, 1) @ self.covariance[tried]
        found: Array = drawn.argmin(2)
        return found

    def solved(self, tried: Array, values: Array) -> Array:
        """The inverse of the covariance of the scores at the tried points, times the values."""
        among = self.covariance[tried[:, :, None], tried[:, None, :]]
        return np.linalg.solve(among + self.noise * np.eye(tried.shape[1]), values)

    def noisy(self, shape: tuple[int, ...]) -> Array:
        return math.sqrt(self.noise) * self.generator.standard_normal(shape)
