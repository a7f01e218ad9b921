"""What noisy scores at a few points say of a whole search space: a Gaussian process.

score = m + s (f(point) + seed effect + noise), with f a Gaussian process of the Matern 5/2
covariance (1 + r + r^2/3) exp(-r), r^2 = 5 sum over i of (difference_i / length_i)^2. All runs of
one seed share its effect. m and s come from the scores. Few scores cannot say how long the lengths
are or how large the noise is, and the best guess would be too sure of itself: predictions are
averaged over settings drawn from a prior, each weighed by how well it explains the scores, with
the variance of f integrated out (Rasmussen and Williams 2006, chapter 5; Snoek et al. 2012).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.linalg import solve_triangular
from scipy.spatial.distance import cdist
from threadpoolctl import threadpool_limits

Array: TypeAlias = NDArray[Any]

SETTINGS, KEPT = 128, 8
"""Settings that are drawn from the prior, and those that are kept, the likeliest."""

LENGTH, LENGTH_SPREAD = 0.6, 0.8
"""Of the prior of a length, in units of the search space: its median, and the spread of its log."""

NOISE, NOISE_SPREAD = 0.05, 1.5
"""The same of the variance that seeds and noise have together, in units of that of f."""

SHAPE = 2.0
"""Of the inverse gamma prior of the variance of f, shape and scale, in units of the scores'."""

JITTER = 1e-6
"""Added to variances, so that round-off leaves them positive."""


def one_blas_thread() -> threadpool_limits:
    """Linear algebra as it is quickest on small matrices, and with the same bits on any machine."""
    return threadpool_limits(1, "blas")


@dataclass(frozen=True)
class Prior:
    """Settings drawn from the prior: `lengths` [settings, dimensions], `noise` [settings], and the
    share of it that is the seeds', `seeds` [settings].
    """

    lengths: Array
    noise: Array
    seeds: Array


@lru_cache
def prior(dimensions: int) -> Prior:
    even = stats.qmc.Sobol(dimensions + 2, rng=0).random(SETTINGS)
    normal = stats.norm.ppf(np.clip(even, JITTER, 1 - JITTER))
    lengths = LENGTH * np.exp(LENGTH_SPREAD * normal[:, :dimensions])
    noise = NOISE * np.exp(NOISE_SPREAD * normal[:, dimensions])
    return Prior(lengths, noise, even[:, -1])


@dataclass(frozen=True)
class Setting:
    """The process under one of the settings; its scores have mean 0 and deviation 1.

    points: [n, dimensions], where scores are. lengths: [dimensions]. variance, noise: of f, and of
    what is a run's own. root, whitened: the Cholesky factor [n, n] of the scores' covariance in
    units of the variance of f, and the scores solved by it [n].
    """

    points: Array
    lengths: Array
    variance: float
    noise: float
    root: Array
    whitened: Array

    def covariance(self, at: Array) -> Array:
        """Of f at points [m, dimensions] before any score: [m, m]."""
        return self.variance * matern(at, at, self.lengths)

    def mean(self, at: Array) -> tuple[Array, Array]:
        """Of f [m], and what the scores take from its covariance, as a root [n, m]."""
        taken = solve_triangular(self.root, matern(self.points, at, self.lengths), lower=True)
        return self.whitened @ taken, math.sqrt(self.variance) * taken

    def curves(self, at: Array, count: int, generator: np.random.Generator) -> Array:
        """That f may be: [count, m]."""
        mean, taken = self.mean(at)
        return mean + normal(self.covariance(at) - taken.T @ taken, count, generator)


class GaussianProcess:
    """Fitted to `scores` [n], finite and the less the better, at `points` [n, dimensions] of the
    unit cube; `seeds` [n] says which runs share a seed.

    settings: the likeliest ones, by `weights`, which add up to 1. Scores are `centre` and `scale`
    times theirs.
    """

    def __init__(self, points: Array, scores: Array, seeds: Array) -> None:
        self.centre = float(scores.mean())
        self.scale = float(scores.std()) if np.ptp(scores) else 1.0
        drawn, count = prior(points.shape[1]), len(scores)
        shared = drawn.seeds[:, None, None] * (seeds[:, None] == seeds)
        own = (1 - drawn.seeds)[:, None, None] * np.eye(count)
        covariance = np.array([matern(points, points, lengths) for lengths in drawn.lengths])
        covariance += drawn.noise[:, None, None] * (shared + own) + JITTER * np.eye(count)
        roots = np.linalg.cholesky(covariance)
        standardized = ((scores - self.centre) / self.scale)[None, :, None]
        whitened = np.linalg.solve(roots, standardized)[..., 0]
        misfit = SHAPE + (whitened**2).sum(-1) / 2
        log_likelihood = -np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(-1)
        log_likelihood -= (SHAPE + count / 2) * np.log(misfit)
        kept = np.argsort(-log_likelihood, kind="stable")[:KEPT]
        weights = np.exp(log_likelihood[kept] - log_likelihood[kept[0]])
        self.weights = weights / weights.sum()
        variances = misfit / (SHAPE + count / 2 - 1)
        noises = drawn.noise * variances
        self.noise = float(self.scale * np.sqrt(self.weights @ noises[kept]))
        self.settings = [
            Setting(
                points,
                drawn.lengths[i],
                variances[i],
                noises[i] * (1 - drawn.seeds[i]),
                roots[i],
                whitened[i],
            )
            for i in kept
        ]

    def mean_and_deviation(self, at: Array) -> tuple[Array, Array]:
        """Of f at points [m, dimensions], over all that is not known of it; each [m]."""
        mean, squares = np.zeros(len(at)), np.zeros(len(at))
        for weight, setting in zip(self.weights, self.settings, strict=True):
            own, taken = setting.mean(at)
            left = np.maximum(setting.variance - (taken**2).sum(0), JITTER * setting.variance)
            mean += weight * own
            squares += weight * (left + own**2)
        deviation = np.sqrt(np.maximum(squares - mean**2, 0))
        return self.centre + self.scale * mean, self.scale * deviation

    def draws(self, at: Array, count: int, generator: np.random.Generator) -> Array:
        """Curves that f may be, at points [m, dimensions]: [count, m], in no order."""
        counts = generator.multinomial(count, self.weights)
        curves = [
            setting.curves(at, own, generator)
            for setting, own in zip(self.settings, counts, strict=True)
            if own
        ]
        mixed: Array = generator.permutation(np.vstack(curves))
        return self.centre + self.scale * mixed


def matern(a: Array, b: Array, lengths: Array) -> Array:
    """The covariance of f, in units of its variance, between points [n, d] and [m, d]: [n, m]."""
    r = math.sqrt(5) * cdist(a / lengths, b / lengths)
    covariance: Array = (1 + r + r**2 / 3) * np.exp(-r)
    return covariance


def normal(covariance: Array, count: int, generator: np.random.Generator) -> Array:
    """Draws from a normal distribution around 0: [count, m] for a covariance [m, m]."""
    size = len(covariance)
    # Points lie close together, so that round-off is larger here.
    root = np.linalg.cholesky(covariance + 10 * JITTER * np.eye(size))
    draws: Array = generator.standard_normal((count, size)) @ root.T
    return draws
