"""The powers of a recurrent matrix, which grow or decay with the time steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.arguments import require_whole
from thalweg.errors import UserError


@dataclass(frozen=True)
class Recurrence:
    """The growth of the powers of a matrix W.

    eigenvalues: complex `[n]`, by falling absolute value. radius: the largest absolute value. Since
    W^N x = V L^N V^-1 x, parts with an absolute eigenvalue above 1 explode, and parts below 1
    vanish. norm: the largest singular value. growth: for N = 1, 2, ... the root mean square of
    |W^N x| / |x| over all directions x, which is |W^N|_F / sqrt(n).
    """

    eigenvalues: Tensor = field(repr=False, compare=False)
    radius: float
    norm: float
    growth: tuple[float, ...] = field(repr=False)

    @property
    def peak(self) -> float:
        """The largest growth, at least 1.

        If the eigenvectors are far from orthogonal, the powers can grow before they decay, even
        with a radius below 1.
        """
        return max(1.0, *self.growth)


def recurrence(weight: Float[Tensor, "n n"], steps: int = 50) -> Recurrence:
    """The spectrum of a recurrent matrix, and the growth of its powers over some time steps.

    The nonlinearity is left out. A tanh shrinks its inputs, so that a network with a radius just
    above 1 need not explode. The arithmetic is float64. Cost: `steps` products of matrices.
    Raises UserError for a matrix that is not square or not finite, and for fewer than 2 steps.
    Source: Pascanu, Mikolov and Bengio 2013.
    """
    steps = require_whole("steps", steps, 2)
    if weight.ndim != 2 or weight.shape[0] != weight.shape[1]:
        raise UserError(f"A recurrent matrix must be square; this one is {list(weight.shape)}.")
    matrix = weight.detach().double().cpu()
    if not matrix.isfinite().all():
        raise UserError("The recurrent matrix is not finite.")
    eigenvalues = torch.linalg.eigvals(matrix)
    eigenvalues = eigenvalues[eigenvalues.abs().argsort(descending=True)]
    power, growth = torch.eye(len(matrix), dtype=matrix.dtype), []
    for _ in range(steps):
        power = matrix @ power
        growth.append(float(power.norm()) / len(matrix) ** 0.5)
    radius, norm = float(eigenvalues[0].abs()), float(torch.linalg.matrix_norm(matrix, 2))
    return Recurrence(eigenvalues, radius, norm, tuple(growth))
