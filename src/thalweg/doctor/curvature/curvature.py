"""A matrix of second derivatives, of which only products with vectors are computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.arguments import number, short
from thalweg.doctor.objective.objective import Conditions
from thalweg.errors import UserError

BLOCK = 8
"""The number of vectors that are multiplied at once. On small batches they cost little more than
one vector."""


class Curvature(ABC):
    """A symmetric matrix A `[P, P]`.

    size: P. dtype, device: those of the vectors. conditions: the conditions of its measurement.
    """

    size: int
    dtype: torch.dtype
    device: torch.device

    @property
    @abstractmethod
    def conditions(self) -> Conditions:
        """The conditions under which the matrix and its products are computed."""

    @abstractmethod
    def times(self, vectors: Float[Tensor, "K P"]) -> Float[Tensor, "K P"]:
        """A v for each row v of `vectors`; each costs one product."""

    def resolution(self) -> float:
        """The machine epsilon of the arithmetic."""
        return torch.finfo(self.dtype).eps

    def gaussian(self, count: int, seed: int) -> Float[Tensor, "K P"]:
        """Gaussian random vectors, which for a seed are the same on any device."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(count, self.size, generator=generator, dtype=torch.float64)
        return drawn.to(self.device, self.dtype)

    def signs(self, count: int, seed: int) -> Float[Tensor, "K P"]:
        """Random vectors of +1 and -1, which for a seed are the same on any device."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(2, (count, self.size), generator=generator)
        return (2 * drawn - 1).to(self.device, self.dtype)

    def probed(self, count: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Random vectors of signs and their products, `[k, P]` each, at most `BLOCK` at once."""
        for start in range(0, count, BLOCK):
            vectors = self.signs(min(BLOCK, count - start), seed + start)
            yield vectors, self.times(vectors)


class Preconditioned(Curvature):
    """A curvature A in an optimizer's metric: S^(1/2) A S^(1/2), where S is diagonal.

    Its eigenvalues are those of S A. scale: the diagonal of S, `[P]`, at least 0. Where it is 0,
    the parameter's row and column are 0.
    """

    def __init__(self, curvature: Curvature, scale: Float[Tensor, " P"]) -> None:
        self.inner = curvature
        self.root = scale.to(curvature.dtype).sqrt()
        self.size, self.dtype, self.device = curvature.size, curvature.dtype, curvature.device

    @property
    def conditions(self) -> Conditions:
        return self.inner.conditions

    def times(self, vectors: Float[Tensor, "K P"]) -> Float[Tensor, "K P"]:
        return self.root * self.inner.times(self.root * vectors)


def require_tolerance(value: float, name: str = "tolerance") -> None:
    """UserError unless it is a share between 0 and 1."""
    if not 0 < number(value) < 1:
        raise UserError(f"{name} must be above 0 and below 1, not {short(value)}.")
