"""The trace of a curvature, and how much of the matrix is on its diagonal."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from thalweg.arguments import require_whole
from thalweg.doctor.curvature.curvature import Curvature, require_tolerance
from thalweg.doctor.intervals import jackknife
from thalweg.doctor.objective.objective import Conditions


@dataclass(frozen=True)
class Estimate:
    """A mean over random vectors.

    error: the standard error of the mean. converged: whether the error is within the tolerance,
    relative to the value. products: the number of products with the matrix.
    """

    value: float
    error: float
    converged: bool
    products: int
    conditions: Conditions


def trace(
    curvature: Curvature, *, probes: int = 32, tolerance: float = 0.1, seed: int = 0
) -> Estimate:
    """An estimate of tr A, the sum of the eigenvalues: the mean of v'Av over random signs v.

    Its variance is 2 / probes times the sum of the squares off the diagonal, so that it is exact
    for a diagonal A. probes: the number of random vectors, at least 2; each costs a product. Raises
    UserError for fewer, and for a tolerance outside (0, 1). Source: Hutchinson 1990.
    """
    probes = require_whole("probes", probes, 2)
    require_tolerance(tolerance)
    products = curvature.probed(probes, seed)
    each = torch.cat([(vectors * made).sum(1) for vectors, made in products]).double()
    value, error = float(each.mean()), float(each.std()) / math.sqrt(probes)
    return Estimate(
        value=value,
        error=error,
        converged=error <= tolerance * abs(value),
        products=probes,
        conditions=curvature.conditions,
    )


def diagonal_share(
    curvature: Curvature, *, probes: int = 32, tolerance: float = 0.1, seed: int = 0
) -> Estimate:
    """The sum of A_ii^2 over the sum of all A_ij^2: the part to which adaptive rates can adapt.

    It is 1 for a diagonal A, and about 1 / P for a matrix with random eigenvectors. With
    d_k = v_k * A v_k for random signs v_k, the mean of d_k'd_l over k != l is the sum of A_ii^2,
    and the mean of |A v_k|^2 is the sum of A_ij^2, both without bias. The standard error of their
    ratio is from the jackknife.

    probes: the number of random vectors, at least 3; each costs a product. Raises UserError for
    fewer, and for a tolerance outside (0, 1). Source of the diagonal's estimate: Bekas, Kokiopoulou
    and Saad 2007.
    """
    probes = require_whole("probes", probes, 3)
    require_tolerance(tolerance)
    diagonals, sizes = [], []
    for vectors, made in curvature.probed(probes, seed):
        diagonals.append((vectors * made).double())
        sizes.append(made.double().square().sum(1))
    seen, total = torch.cat(diagonals), torch.cat(sizes)
    inner = seen @ seen.T
    pairs = (inner - inner.diag().diag()).numpy(force=True)
    value, error = ratio_of_means(pairs, total.numpy(force=True))
    return Estimate(
        value=value,
        error=error,
        converged=error <= tolerance * abs(value),
        products=probes,
        conditions=curvature.conditions,
    )


def ratio_of_means(pairs: np.ndarray, total: np.ndarray) -> tuple[float, float]:
    """The mean of `pairs` off its diagonal, over the mean of `total`; and its jackknife error."""
    k = len(total)
    value = pairs.sum() / (k * (k - 1)) / total.mean()
    left_pairs = (pairs.sum() - 2 * pairs.sum(1)) / ((k - 1) * (k - 2))
    left_total = (total.sum() - total) / (k - 1)
    return float(value), jackknife(left_pairs / left_total)
