"""The Hessian of an objective."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thalweg.doctor.curvature.batchwise import Batchwise, Graph
from thalweg.doctor.objective.derivatives import derivative, is_underivable, pulled
from thalweg.doctor.objective.objective import Conditions, Objective
from thalweg.errors import UserError
from thalweg.tasks.forms import Batch


class GradientGraph(Graph):
    """The graph of one batch: its gradient, which can be differentiated again."""

    def record(self, model: nn.Module, batch: Batch) -> None:
        loss = self.objective.batch_loss(model, batch)
        self.recorded = [derivative(loss, self.point, further=True)]
        if not self.recorded[0].isfinite().all():
            raise UserError("The gradient is not finite here, so there is no curvature.")

    def product(self, vectors: Tensor, *, batched: bool) -> Tensor:
        (made,) = pulled(self.recorded, [self.point], [vectors], batched=batched)
        return made


class Hessian(Batchwise):
    """H = d2L / dtheta2.

    A product is one more pass through the graph of the gradient. It costs about 1.3 gradient
    evaluations, and with several batches two more to record the graph. Fused attention is computed
    in its mathematical form. Where an operation has no second derivative, products are central
    differences of gradients. These cost two evaluations each, and have a relative error of about
    eps^(2/3) where the gradient is smooth. A warning and the conditions then say so.

    differences: whether all products are such differences. This is needed if an operation of the
    model has a wrong second derivative, as PyTorch's weight normalization has. (`extremes` and
    `spectrum` notice most such operations, because the matrix is then not symmetric.)

    Raises UserError where the gradient is not finite. Source: Pearlmutter 1994.
    """

    graph = GradientGraph

    def __init__(
        self,
        objective: Objective,
        point: Float[Tensor, " P"] | None = None,
        *,
        differences: bool = False,
    ) -> None:
        self.by_differences, self.keeps_graph = differences, not differences
        super().__init__(objective, point)

    @property
    def conditions(self) -> Conditions:
        told = super().conditions
        return replace(told, products="differences of gradients") if self.by_differences else told

    def times(self, vectors: Float[Tensor, "K P"]) -> Float[Tensor, "K P"]:
        if not self.by_differences:
            try:
                return super().times(vectors)
            except RuntimeError as error:
                if not is_underivable(error):
                    raise
                warn_of_differences(error)
                self.by_differences, self.kept = True, None
        return torch.stack([self.difference(vector) for vector in vectors])

    def difference(self, vector: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """(grad L(theta + h v) - grad L(theta - h v)) / 2h, where h balances the two errors."""
        norm = float(vector.norm())
        if norm == 0:
            return torch.zeros_like(vector)
        h = math.cbrt(self.resolution()) * (1 + float(self.point.norm())) / norm
        ahead, behind = (self.objective.gradient(self.point + s * h * vector) for s in (1, -1))
        return (ahead - behind) / (2 * h)


def warn_of_differences(error: Exception) -> None:
    warnings.warn(
        "An operation of the model has no second derivative, so products with the Hessian are"
        f" computed as differences of gradients: {str(error).splitlines()[0]}",
        stacklevel=3,
    )
