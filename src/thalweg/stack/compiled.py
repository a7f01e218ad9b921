"""Members stepped together, their forward and backward pass as one compiled graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from thalweg.stack.stacked import Stacked
from thalweg.tasks.task import Task

Graph = Callable[..., Any]

MOST_OPERATIONS = 2000
"""A graph of more takes minutes to compile: a tenth of a second for each, on two cores."""


class TooLongError(Exception):
    """A graph of too many operations to compile."""


class Compiled(Stacked):
    """A stack whose blocks are differentiated and evaluated by graphs, compiled once for all
    recipes.
    """

    def differentiated(self, *inputs: Any) -> Any:
        return self.graph(super().differentiated, inputs)(*inputs)

    def predicted(self, *inputs: Any) -> Any:
        return self.graph(super().predicted, inputs)(*inputs)

    def graph(self, function: Graph, inputs: tuple[Any, ...]) -> Graph:
        """The function for inputs of this kind, compiled at the first."""
        known = graphs(self.task)
        kind = function.__name__, kind_of(inputs)
        if kind not in known:
            known[kind] = compiled(function, inputs)
        return known[kind]


# Of the last task only: a longer memory would keep the data of all tasks before.
@lru_cache(maxsize=1)
def graphs(task: Task) -> dict[Any, Graph]:  # noqa: ARG001 (it is what the cache goes by)
    """The graphs of a task that there are in this process, by the kind of their inputs."""
    return {}


def kind_of(inputs: Any) -> Any:
    """What a graph is compiled for: the shapes, and the threads that its loops are cut for."""
    kinds = ((x.shape, x.stride(), x.dtype, x.device) for x in tree_leaves(inputs))
    return torch.get_num_threads(), *kinds


def compiled(function: Graph, inputs: tuple[Any, ...]) -> Graph:
    """The function as a graph of tensor operations, compiled for inputs of this kind.

    Traced through vmap and autograd first: `torch.compile` follows neither through every model.
    Raises TooLongError for a graph of more than `MOST_OPERATIONS`.
    """
    leaves, given = tree_flatten(inputs)
    made: Any = None

    def flat(*leaves: Tensor) -> list[Tensor]:
        nonlocal made
        results, made = tree_flatten(function(*tree_unflatten(leaves, given)))
        return results

    graph = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*leaves)
    if len(graph.graph.nodes) > MOST_OPERATIONS:
        raise TooLongError
    # Random numbers are then the ones that vmap draws.
    options = {"config_patches": {"fallback_random": True}}
    run = torch._inductor.standalone_compile(
        graph, leaves, dynamic_shapes="from_example_inputs", options=options
    )

    @torch.no_grad()
    def step(*inputs: Any) -> Any:
        return tree_unflatten(run(*tree_leaves(inputs)), made)

    return step
