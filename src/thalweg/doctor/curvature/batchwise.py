"""Curvatures that are means over the batches of an objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.doctor.curvature.curvature import Curvature
from thalweg.doctor.objective.derivatives import cut_off
from thalweg.doctor.objective.objective import Conditions, Objective
from thalweg.tasks.forms import Batch


class Graph(ABC):
    """The recorded first derivatives of one batch. Each product is one more pass through their
    graph.

    recorded: the first derivatives. Fused attention is computed in its mathematical form, because
    its fused form has no second derivative.
    """

    recorded: Sequence[Tensor]
    at_once = True

    def __init__(self, objective: Objective, point: Float[Tensor, " P"], batch: Batch) -> None:
        self.objective = objective
        self.point = point.clone().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):
            objective.within(self.point, partial(self.record, batch=batch))

    @abstractmethod
    def record(self, model: nn.Module, batch: Batch) -> None:
        """Records the first derivatives of a model at the point."""

    @abstractmethod
    def product(self, vectors: Tensor, *, batched: bool) -> Tensor:
        """A v for a vector `[P]`, or for each vector of a block `[K, P]` under vmap."""

    @cached_property
    def complete(self) -> bool:
        """Whether no cut is known that prevents differentiating the first derivatives once more."""
        return not any(map(cut_off, self.recorded))

    def times(self, vectors: Float[Tensor, "K P"]) -> Float[Tensor, "K P"]:
        if not self.complete:
            raise RuntimeError("its backward pass is marked with @once_differentiable")
        if self.at_once and len(vectors) > 1:
            try:
                return self.passed(vectors, batched=True)
            except RuntimeError:  # some operations of a model cannot run under vmap
                self.at_once = False
        return torch.stack([self.passed(vector, batched=False) for vector in vectors])

    def passed(self, vectors: Tensor, *, batched: bool) -> Tensor:
        return self.objective.within(self.point, lambda _: self.product(vectors, batched=batched))


class Batchwise(Curvature):
    """A curvature that is a mean over batches, at the objective's theta or at a given point.

    The graph of a single batch is recorded once and kept. With several batches, the graphs are
    recorded one after the other, again for each block of products, so that only one is in memory.
    """

    graph: ClassVar[type[Graph]]
    keeps_graph = True

    def __init__(self, objective: Objective, point: Float[Tensor, " P"] | None = None) -> None:
        self.objective = objective
        self.point = (objective.point if point is None else point).detach().clone()
        self.size, self.dtype, self.device = len(objective), objective.dtype, objective.device
        batches = objective.batches
        self.kept = self.recorded(batches[0]) if len(batches) == 1 and self.keeps_graph else None

    def recorded(self, batch: Batch) -> Graph:
        return self.graph(self.objective, self.point, batch)

    @property
    def conditions(self) -> Conditions:
        return replace(self.objective.conditions, products="double backward")

    def times(self, vectors: Float[Tensor, "K P"]) -> Float[Tensor, "K P"]:
        if self.kept:
            return self.kept.times(vectors)
        batches = self.objective.batches
        return self.objective.mean(self.recorded(batch).times(vectors) for batch in batches)
