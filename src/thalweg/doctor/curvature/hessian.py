"""The Hessian of an objective."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.doctor.curvature.batchwise import Batchwise, Graph
from thalweg.doctor.objective.derivatives import derivative, is_underivable, pulled
from thalweg.doctor.objective.objective import Conditions, Objective
from thalweg.errors import UserError
from thalweg.stack.reading import Batch


class Hessian(Batchwise):
    """H = d2L / dtheta2.

    A product is one more pass through the graph of the gradient, about 1.3 gradient evaluations,
    and on several batches two more to record it. Fused attention is computed in its mathematical
    form. Where an operation has no second derivative, products are central differences of
    gradients, two evaluations each, with a relative error of about eps^(2/3) where the gradient is
    smooth; a warning and the conditions say so.

    differences: take these from the start, for models in which an operation has a wrong second
    derivative, as PyTorch's weight normalization has. (`extremes` and `spectrum` notice most such,
    because the matrix is not symmetric then.)

    Raises UserError where the gradient is not finite. Source: Pearlmutter 1994.
    """

    def __init__(
        self,
        objective: Objective,
        point: Float[Tensor, " P"] | None = None,
        *,
        differences: bool = False,
    ) -> None:
        self.by_differences = differences
        super().__init__(objective, point)

    def keeps_graph(self) -> bool:
        return super().keeps_graph() and not self.by_differences

    def graph(self, batch: Batch) -> Graph:
        return GradientGraph(self.objective, self.point, batch)

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
        """(grad L(theta + h v) - grad L(theta - h v)) / 2h, h where its two errors balance."""
        norm = float(vector.norm())
        if norm == 0:
            return torch.zeros_like(vector)
        h = math.cbrt(self.resolution()) * (1 + float(self.point.norm())) / norm
        ahead, behind = (self.objective.gradient(self.point + s * h * vector) for s in (1, -1))
        return (ahead - behind) / (2 * h)


class GradientGraph(Graph):
    """The gradient of one batch, with its own graph."""

    def __init__(self, objective: Objective, point: Float[Tensor, " P"], batch: Batch) -> None:
        self.objective = objective
        self.point = point.clone().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):
            self.gradient = objective.within(self.point, partial(self.record, batch=batch))
        self.recorded = [self.gradient]
        if not self.gradient.isfinite().all():
            raise UserError("The gradient is not finite here, so there is no curvature to look at.")

    def record(self, model: nn.Module, batch: Batch) -> Tensor:
        return derivative(self.objective.batch_loss(model, batch), self.point, further=True)

    def product(self, vectors: Tensor, *, batched: bool) -> Tensor:
        def through(_: nn.Module) -> Tensor:
            (made,) = pulled([self.gradient], [self.point], [vectors], batched=batched)
            return made

        return self.objective.within(self.point, through)


def warn_of_differences(error: Exception) -> None:
    warnings.warn(
        "An operation of the model has no second derivative, so that products with the Hessian are"
        f" differences of gradients: {str(error).splitlines()[0]}",
        stacklevel=3,
    )
