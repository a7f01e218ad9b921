"""Curvatures that are means over the batches of an objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.doctor.curvature.curvature import Curvature
from thalweg.doctor.objective.derivatives import cut_off
from thalweg.doctor.objective.objective import Conditions, Objective
from thalweg.stack.reading import Batch


class Graph(ABC):
    """What was recorded of one batch, to be gone through once more for each product.

    recorded: the first derivatives.
    """

    recorded: Sequence[Tensor]
    at_once = True

    @cached_property
    def complete(self) -> bool:
        """Whether what was recorded can be differentiated once more, as far as its graph tells."""
        return not any(map(cut_off, self.recorded))

    @abstractmethod
    def product(self, vectors: Tensor, *, batched: bool) -> Tensor:
        """A v of a vector `[P]`, or of each of a block `[K, P]` under vmap."""

    def times(self, vectors: Float[Tensor, "K P"]) -> Float[Tensor, "K P"]:
        if not self.complete:
            raise RuntimeError("its backward pass is marked with @once_differentiable")
        if self.at_once and len(vectors) > 1:
            try:
                return self.product(vectors, batched=True)
            except RuntimeError:  # whatever a model does that vmap cannot take
                self.at_once = False
        return torch.stack([self.product(vector, batched=False) for vector in vectors])


class Batchwise(Curvature):
    """A mean over batches, at the objective's theta or at a given point.

    On one batch its graph is recorded once, and kept as long as the curvature. On several they are
    recorded anew, one after the other, for each block of products: memory stays that of one batch.
    """

    def __init__(self, objective: Objective, point: Float[Tensor, " P"] | None = None) -> None:
        self.objective = objective
        self.point = (objective.point if point is None else point).detach().clone()
        self.size, self.dtype, self.device = len(objective), objective.dtype, objective.device
        self.kept = self.graph(objective.batches[0]) if self.keeps_graph() else None

    def keeps_graph(self) -> bool:
        return len(self.objective.batches) == 1

    @abstractmethod
    def graph(self, batch: Batch) -> Graph:
        """Records a batch."""

    @property
    def conditions(self) -> Conditions:
        return replace(self.objective.conditions, products="double backward")

    def times(self, vectors: Float[Tensor, "K P"]) -> Float[Tensor, "K P"]:
        if self.kept:
            return self.kept.times(vectors)
        batches = self.objective.batches
        return self.objective.mean(self.graph(batch).times(vectors) for batch in batches)
