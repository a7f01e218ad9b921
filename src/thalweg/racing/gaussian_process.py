"""A Gaussian process, which predicts scores in a search space from noisy scores at a few points.

score = m + s (f(point) + seed effect + noise), with f a Gaussian process of the Matern 5/2
covariance (1 + r + r^2/3) exp(-r), r^2 = 5 sum over i of (difference_i / length_i)^2. All runs of
one seed share its effect. m and s are computed from the scores. A few scores do not determine the
lengths and the noise, and one best guess would be too sure. So predictions are averaged over
settings that are drawn from a prior. Each setting is weighted by how well it explains the scores,
with the variance of f integrated out (Rasmussen and Williams 2006, chapter 5; Snoek et al. 2012).
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
"""The number of settings that are drawn from the prior, and the number of likeliest ones kept."""

LENGTH, LENGTH_SPREAD = 0.6, 0.8
"""The prior of a length: its median in units of the search space, and the deviation of its log."""

NOISE, NOISE_SPREAD = 0.05, 1.5
"""The prior of the variance of seeds and noise together, in units of the variance of f: its median,
and the deviation of its log."""

SHAPE = 2.0
"""The shape and the scale of the inverse gamma prior of the variance of f, in units of the scores'
variance."""

JITTER = 1e-6
"""A number that is added to variances, so that they stay positive despite round-off."""


def one_blas_thread() -> threadpool_limits:
    """Uses one thread for linear algebra, which is quick and gives the same bits on any machine."""
    return threadpool_limits(1, "blas")


@dataclass(frozen=True)
class Prior:
    """Settings that are drawn from the prior.

    lengths: `[settings, dimensions]`. noise: `[settings]`, the variance of seeds and noise. seeds:
    `[settings]`, the share of the seeds in that variance.
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
    """The process under one setting, for scores with mean 0 and standard deviation 1.

    points: `[n, dimensions]`, the points of the scores. lengths: `[dimensions]`. variance: that of
    f. noise: the variance of a single run. root: `[n, n]`, the Cholesky factor of the scores'
    covariance in units of the variance of f. whitened: `[n]`, the solution of root x = scores.
    """

    points: Array
    lengths: Array
    variance: float
    noise: float
    root: Array
    whitened: Array

    def covariance(self, at: Array) -> Array:
        """The prior covariance `[m, m]` of f at points `[m, dimensions]`."""
        return self.variance * matern(at, at, self.lengths)

    def mean(self, at: Array) -> tuple[Array, Array]:
        """The mean `[m]` of f, and the root `[n, m]` by which the scores reduce its covariance."""
        taken = solve_triangular(self.root, matern(self.points, at, self.lengths), lower=True)
        return self.whitened @ taken, math.sqrt(self.variance) * taken

    def curves(self, at: Array, count: int, generator: np.random.Generator) -> Array:
        """Random curves `[count, m]` from the distribution of f."""
        mean, taken = self.mean(at)
        return mean + normal(self.covariance(at) - taken.T @ taken, count, generator)


class GaussianProcess:
    """A Gaussian process that is fitted to scores.

    points: `[n, dimensions]`, in the unit cube. scores: `[n]`, finite; lower is better. seeds:
    `[n]`, the seed of each run.

    settings: the likeliest settings. weights: their weights, whose sum is 1. The scores are
    `centre` plus `scale` times the scores of the settings.
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
                lengths=drawn.lengths[i],
                variance=variances[i],
                noise=noises[i] * (1 - drawn.seeds[i]),
                root=roots[i],
                whitened=whitened[i],
            )
            for i in kept
        ]

    def mean_and_deviation(self, at: Array) -> tuple[Array, Array]:
        """The mean and the standard deviation of f, each `[m]`, at points `[m, dimensions]`."""
        mean, squares = np.zeros(len(at)), np.zeros(len(at))
        for weight, setting in zip(self.weights, self.settings, strict=True):
            own, taken = setting.mean(at)
            left = np.maximum(setting.variance - (taken**2).sum(0), JITTER * setting.variance)
            mean += weight * own
            squares += weight * (left + own**2)
        deviation = np.sqrt(np.maximum(squares - mean**2, 0))
        return self.centre + self.scale * mean, self.scale * deviation

    def draws(self, at: Array, count: int, generator: np.random.Generator) -> Array:
        """Random curves `[count, m]` from the distribution of f at points `[m, dimensions]`."""
        counts = generator.multinomial(count, self.weights)
        curves = [
            setting.curves(at, own, generator)
            for setting, own in zip(self.settings, counts, strict=True)
            if own
        ]
        mixed: Array = generator.permutation(np.vstack(curves))
        return self.centre + self.scale * mixed


def matern(a: Array, b: Array, lengths: Array) -> Array:
    """The covariance `[n, m]` of f, in units of its variance, of points `[n, d]` and `[m, d]`."""
    r = math.sqrt(5) * cdist(a / lengths, b / lengths)
    covariance: Array = (1 + r + r**2 / 3) * np.exp(-r)
    return covariance


def normal(covariance: Array, count: int, generator: np.random.Generator) -> Array:
    """Draws `[count, m]` from a normal distribution with mean 0 and a covariance `[m, m]`."""
    size = len(covariance)
    # The points lie close together, so round-off is larger here.
    root = np.linalg.cholesky(covariance + 10 * JITTER * np.eye(size))
    draws: Array = generator.standard_normal((count, size)) @ root.T
    return draws
