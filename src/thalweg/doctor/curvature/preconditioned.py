"""A curvature in the metric in which an optimizer moves."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from thalweg.doctor.curvature.curvature import Curvature
from thalweg.doctor.objective.conditions import Conditions


class Preconditioned(Curvature):
    """S^(1/2) A S^(1/2) for a diagonal S >= 0: the eigenvalues are those of S A.

    scale: the diagonal of S, `[P]`. With 0 for some parameters their rows and columns vanish.
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
