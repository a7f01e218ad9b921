"""How much of a mini-batch's gradient is signal, and how much is noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from thalweg.doctor.intervals import Floats, jackknife, student
from thalweg.doctor.objective.objective import Conditions, Objective
from thalweg.errors import UserError
from thalweg.statistics import Interval

FEWEST = 3


@dataclass(frozen=True)
class Noise:
    """The sizes of the mean gradient G, and of the covariance Sigma of one sample's gradient.

    squared_gradient: |G|^2. variance: tr Sigma. signal: |G|^2 / tr Sigma, the signal-to-noise ratio
    of one sample. Each is an estimate with its 95 % interval, in float64. The estimate of |G|^2 can
    be below 0, because it is unbiased.
    """

    squared_gradient: Interval
    variance: Interval
    signal: Interval
    conditions: Conditions

    @property
    def scale(self) -> Interval | None:
        """The gradient noise scale tr Sigma / |G|^2, in samples; None where |G|^2 may be 0.

        A batch of this size has as much signal as noise. As advice on the batch size this gives
        only the order of magnitude.
        """
        if self.signal.low <= 0:
            return None
        return Interval(1 / self.signal.estimate, 1 / self.signal.high, 1 / self.signal.low)

    def signal_at(self, batch_size: int) -> Interval:
        """|G|^2 over the variance of a mini-batch's gradient, B |G|^2 / tr Sigma."""
        ratio = self.signal
        return Interval(*(batch_size * x for x in (ratio.estimate, ratio.low, ratio.high)))


def noise(objective: Objective) -> Noise:
    """The signal and the noise of the gradient, from the gradients of the objective's batches.

    With g_i the gradients of K batches of n samples each, drawn at random,

        |G|^2 = mean over i != j of g_i'g_j        tr Sigma = n sum |g_i - mean g|^2 / (K - 1),

    both without bias. A ratio is the ratio of these averages, not an average of ratios. Intervals
    are from the jackknife over batches, with Student's t. Batch normalization in training mode
    makes the samples of a batch depend on each other; Sigma is then n times the covariance of a
    batch's gradient, and not the covariance of a sample's gradient.

    Cost: one gradient evaluation, and the memory of K gradients. Raises UserError for fewer than 3
    batches, for batches of unequal sizes, for gradients that are not finite, and where all batches,
    or all but one, have the same gradient.
    Source: McCandlish et al. 2018.
    """
    k, sizes = len(objective.batches), set(objective.sizes)
    if k < FEWEST or len(sizes) > 1:
        raise UserError(
            f"Noise is estimated from {FEWEST} or more batches of one size, not from {k} batches of"
            f" {', '.join(map(str, sorted(sizes)))} samples."
        )
    gradients = torch.stack(list(objective.batch_gradients())).double()
    inner = (gradients @ gradients.T).numpy(force=True)
    if not np.isfinite(inner).all():
        raise UserError("The gradient of a batch is not finite.")
    estimates = sizes_of(inner, sizes.pop())
    if estimates[1] <= 0:
        raise UserError("The gradients of all batches are the same: there is no noise.")
    left_out = np.array([sizes_of(without(inner, i), objective.sizes[0]) for i in range(k)])
    if not np.isfinite(left_out).all():
        raise UserError("The gradients of all batches but one are the same: noise has no interval.")
    squared, variance, signal = map(with_interval, estimates, left_out.T)
    return Noise(squared, variance, signal, objective.conditions)


def sizes_of(inner: Floats, samples: int) -> tuple[float, float, float]:
    """|G|^2, tr Sigma and their ratio, from the inner products of the batches' gradients."""
    k, total, own = len(inner), float(inner.sum()), float(np.trace(inner))
    squared = (total - own) / (k * (k - 1))
    variance = samples * (own - total / k) / (k - 1)
    return squared, variance, squared / variance if variance > 0 else math.inf


def without(inner: Floats, i: int) -> Any:
    return np.delete(np.delete(inner, i, 0), i, 1)


def with_interval(estimate: float, left_out: Floats) -> Interval:
    """An estimate from all batches, with its interval from the estimates that omit one batch."""
    margin = student(len(left_out) - 1) * jackknife(left_out)
    return Interval(estimate, estimate - margin, estimate + margin)
