"""Members stepped together, their forward and backward pass as one compiled graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from thalweg.stack.batches import Batch
from thalweg.stack.stacked import Stacked, Tensors
from thalweg.tasks.task import Task

Graph = Callable[..., Any]

MOST_OPERATIONS = 2000
"""A graph of more takes minutes to compile: a tenth of a second for each, on two cores."""


class TooLongError(Exception):
    """A graph of too many operations to compile."""


class Compiled(Stacked):
    """A stack whose blocks are differentiated by one graph, compiled once for all recipes."""

    def differentiated(
        self, rows: Tensor, constants: Tensors, buffers: Tensors, batch: Batch
    ) -> tuple[Tensor, Tensor, Tensors]:
        inputs = (rows, constants, buffers, batch)
        known = graphs(self.task)
        kind = kind_of(inputs)
        if kind not in known:
            known[kind] = compiled(super().differentiated, inputs)
        losses, gradients, after = known[kind](*inputs)
        return losses, gradients, after


# Of the last task only: a longer memory would keep the data of all tasks before.
@lru_cache(maxsize=1)
def graphs(task: Task) -> dict[Any, Graph]:  # noqa: ARG001 (it is what the cache goes by)
    """The graphs of a task that there are in this process, by the kind of their inputs."""
    return {}


def kind_of(inputs: Any) -> Any:
    """What a graph is compiled for."""
    return tuple((x.shape, x.stride(), x.dtype) for x in tree_leaves(inputs))


def compiled(function: Graph, inputs: tuple[Any, ...]) -> Graph:
    """The function as a graph of tensor operations, compiled for inputs of this kind.

    Traced through vmap and autograd first: `torch.compile` follows neither through every model.
    Raises TooLongError for a graph of more than `MOST_OPERATIONS`.
    """
    traced = make_fx(
        lambda *given: function(*given), tracing_mode="fake", _allow_non_fake_inputs=True
    )
    graph = traced(*inputs)
    if len(graph.graph.nodes) > MOST_OPERATIONS:
        raise TooLongError
    # Random numbers are then the ones that vmap draws.
    options: dict[str, Any] = {"fallback_random": True}
    made: Graph = torch.compile(graph, fullgraph=True, dynamic=False, options=options)
    return torch.no_grad()(made)
