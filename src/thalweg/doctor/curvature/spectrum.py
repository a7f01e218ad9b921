"""The spectral density of a curvature, and the shares and quantiles of its eigenvalues."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike

from thalweg.arguments import require_whole
from thalweg.doctor.curvature.curvature import Curvature
from thalweg.doctor.curvature.lanczos import Lanczos
from thalweg.doctor.intervals import Floats, student
from thalweg.doctor.objective.objective import Conditions
from thalweg.errors import UserError
from thalweg.statistics import Interval

ROOM = 2**26
"""The most numbers in the bases of the runs that are computed at once."""


@dataclass(frozen=True)
class Spectrum:
    """The distribution of the P eigenvalues, estimated with K random vectors and m points for each.

    nodes, weights: `[K, m]`, a row for each random vector v. They are the quadrature of the measure
    with the mass (v'u_i)^2 at each eigenvalue lambda_i, where u_i is the unit eigenvector. The mean
    of each mass over v is 1/P. Every number that is computed from them has two errors: one from the
    K vectors, and one from the m points.
    """

    nodes: Floats = field(repr=False, compare=False)
    weights: Floats = field(repr=False, compare=False)
    size: int
    products: int
    conditions: Conditions

    def density(self, at: ArrayLike, width: float) -> tuple[Floats, Floats]:
        """The density of the eigenvalues at some values, and its standard error.

        at: `[n]`, the values. width: each eigenvalue is replaced by a Gaussian with this standard
        deviation, in the units of an eigenvalue. The integral of the density is 1. The error is
        that of the K random vectors; if `width` is below the distance of neighbouring nodes, the
        error of the m points adds to it.
        """
        if not width > 0:
            raise UserError(f"width must be above 0, not {width!r}.")
        distances = (np.asarray(at, dtype=np.float64)[:, None, None] - self.nodes) / width
        bells = np.exp(-(distances**2) / 2) / (math.sqrt(2 * math.pi) * width)
        each = (self.weights * bells).sum(-1)
        return each.mean(-1), each.std(-1, ddof=1) / math.sqrt(each.shape[-1])

    def share_below(self, value: float) -> Interval:
        """The share of the eigenvalues below a value, in [0, 1], with a 95 % interval.

        For one random vector, the true mass below node i lies between the sum of the weights up to
        i - 1 and the sum up to i (Chebyshev, Markov and Stieltjes; Szego 1939, theorem 3.41.1). The
        interval consists of these bounds, averaged over the vectors, and of Student's t of the
        mean.
        """
        return self.interval(*self.brackets(value))

    def share_within(self, size: float) -> Interval:
        """The share of the eigenvalues with an absolute value of at most `size`."""
        low, middle, high = self.brackets(size)
        least, likely, most = self.brackets(-size)
        return self.interval(low - most, middle - likely, high - least)

    def brackets(self, value: float) -> tuple[Floats, Floats, Floats]:
        """For each random vector, the least, the middle and the largest mass below a value."""
        below = (self.nodes < value).sum(1)
        sums = np.pad(self.weights.cumsum(1), ((0, 0), (2, 1)), mode="edge")
        sums[:, :2] = 0.0
        rows = np.arange(len(sums))
        return sums[rows, below], sums[rows, below + 1], sums[rows, below + 2]

    def interval(self, low: Floats, middle: Floats, high: Floats) -> Interval:
        estimate = float(middle.mean())
        return Interval(
            min(max(estimate, 0.0), 1.0),
            max(float(low.mean()) - margin(low), 0.0),
            min(float(high.mean()) + margin(high), 1.0),
        )

    def size_at(self, share: float) -> Interval:
        """The quantile of the absolute eigenvalues: this share of them is at most as large.

        share: in (0, 1). The interval is the inverse of that of `share_within`. Its upper end is
        infinite if even the largest node is too small.
        """
        if not 0 < share < 1:
            raise UserError(f"share must be above 0 and below 1, not {share!r}.")
        sizes = np.unique(np.append(abs(self.nodes[self.weights > 0]), 0.0))
        # The next larger number is taken, so that the node itself counts.
        reached = [self.share_within(float(np.nextafter(size, np.inf))) for size in sizes]

        def first(shares: list[float]) -> float:
            return next(
                (float(z) for z, s in zip(sizes, shares, strict=True) if s >= share), math.inf
            )

        return Interval(
            first([interval.estimate for interval in reached]),
            first([interval.high for interval in reached]),
            first([interval.low for interval in reached]),
        )


def spectrum(curvature: Curvature, *, probes: int = 10, steps: int = 64, seed: int = 0) -> Spectrum:
    """The spectral density by stochastic Lanczos quadrature.

    Lanczos from a random vector v of signs, of length 1, gives a tridiagonal T. The eigenvalues of
    T are the nodes of the Gauss quadrature of v's measure, and the squares of the first entries of
    T's eigenvectors are its weights. probes: K, at least 2. steps: m; at most P are taken.

    Cost: K m products, and memory for the bases of as many runs as fit at once.
    Raises UserError for fewer probes or steps than 2. Sources: Golub and Welsch 1969; Lin, Saad and
    Yang 2016; Ghorbani, Krishnan and Xiao 2019.
    """
    probes = require_whole("probes", probes, 2)
    steps = require_whole("steps", steps, 2)
    steps = min(steps, curvature.size)
    starts = curvature.signs(probes, seed)
    rows = []
    for block in torch.split(starts, max(1, ROOM // (steps * curvature.size))):
        run = Lanczos(curvature, block)
        for _ in range(steps):
            run.step()
        rows += [run.ritz(k) for k in range(len(block))]
    return Spectrum(
        nodes=np.stack([row.values for row in rows]),
        weights=np.stack([row.vectors[0] ** 2 for row in rows]),
        size=curvature.size,
        products=probes * steps,
        conditions=curvature.conditions,
    )


def margin(each: Floats) -> float:
    """Half the width of the 95 % interval of the mean of `each`, by Student's t."""
    return student(each.size - 1) * float(each.std(ddof=1)) / math.sqrt(each.size)
