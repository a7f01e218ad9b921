"""How much of a mini-batch's gradient is signal, and how much noise."""

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
    """The gradient G and the covariance Sigma of one sample's gradient, by their sizes.

    squared_gradient: |G|^2. variance: tr Sigma. signal: |G|^2 / tr Sigma, the signal-to-noise ratio
    of one sample. Each is an estimate with its 95 % interval, in float64; |G|^2 may come out below
    0, as an unbiased estimate must.
    """

    squared_gradient: Interval
    variance: Interval
    signal: Interval
    conditions: Conditions

    @property
    def scale(self) -> Interval | None:
        """The gradient noise scale tr Sigma / |G|^2, in samples; none where it cannot be told.

        It cannot be told where |G|^2 is not clearly above 0. A batch of this size has as much
        signal as noise. As advice on the batch size it is an order of magnitude.
        """
        if self.signal.low <= 0:
            return None
        return Interval(1 / self.signal.estimate, 1 / self.signal.high, 1 / self.signal.low)

    def signal_at(self, batch_size: int) -> Interval:
        """|G|^2 over the variance of a mini-batch's gradient, B |G|^2 / tr Sigma."""
        ratio = self.signal
        return Interval(*(batch_size * x for x in (ratio.estimate, ratio.low, ratio.high)))


def noise(objective: Objective) -> Noise:
    """Signal and noise of the gradient, from those of the objective's batches.

    With g_i the gradients of K batches of n samples each, drawn at random,

        |G|^2 = mean over i != j of g_i'g_j        tr Sigma = n sum |g_i - mean g|^2 / (K - 1),

    both without bias. Ratios are of these averages, never averages of ratios; intervals are the
    jackknife's over batches, with Student's t. Batch normalization in training mode makes samples
    of a batch depend on each other, and then Sigma is n times a batch's covariance, no sample's.

    Cost: one gradient evaluation, and the memory of K gradients. Raises UserError for fewer than 3
    batches, for batches of unequal sizes, for gradients that are not finite, and where those of all
    batches, or of all but one, are the same.
    Source: McCandlish et al. 2018.
    """
    k, sizes = len(objective.batches), set(objective.sizes)
    if k < FEWEST or len(sizes) > 1:
        raise UserError(
            f"Noise is estimated from {FEWEST} batches or more of one size; here are {k} of"
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
    """An estimate from all batches, with its interval from those that leave out one batch each."""
    margin = student(len(left_out) - 1) * jackknife(left_out)
    return Interval(estimate, estimate - margin, estimate + margin)
