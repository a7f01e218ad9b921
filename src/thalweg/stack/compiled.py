"""A stack whose forward and backward pass run as one compiled graph."""

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
"""The most operations of a graph: on two cores, each takes a tenth of a second to compile."""


class TooLongError(Exception):
    """A graph has more operations than `MOST_OPERATIONS`."""


class Compiled(Stacked):
    """A stack that computes gradients and outputs by compiled graphs, the same for all recipes."""

    def differentiated(self, *inputs: Any) -> Any:
        return self.graph(super().differentiated, inputs)(*inputs)

    def predicted(self, *inputs: Any) -> Any:
        return self.graph(super().predicted, inputs)(*inputs)

    def graph(self, function: Graph, inputs: tuple[Any, ...]) -> Graph:
        """The compiled function for inputs of this kind; the first call compiles it."""
        known = graphs(self.task)
        kind = function.__name__, kind_of(inputs)
        if kind not in known:
            known[kind] = compiled(function, inputs)
        return known[kind]


# Only for the last task: a larger cache would keep the data of earlier tasks in memory.
@lru_cache(maxsize=1)
def graphs(task: Task) -> dict[Any, Graph]:  # noqa: ARG001 (the cache's key)
    """The graphs of a task that this process has compiled, by the kind of their inputs."""
    return {}


def kind_of(inputs: Any) -> Any:
    """All that a graph is compiled for: the number of threads, and each input's shape and type."""
    kinds = ((x.shape, x.stride(), x.dtype, x.device) for x in tree_leaves(inputs))
    return torch.get_num_threads(), *kinds


def compiled(function: Graph, inputs: tuple[Any, ...]) -> Graph:
    """The function, compiled for inputs of this kind.

    It is first traced into a graph of tensor operations, through vmap and autograd, because
    `torch.compile` cannot trace these two for every model. Raises TooLongError for a graph of more
    than `MOST_OPERATIONS`.
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
    # With this option the graph draws the same random numbers as vmap.
    options = {"config_patches": {"fallback_random": True}}
    run = torch._inductor.standalone_compile(
        graph, leaves, dynamic_shapes="from_example_inputs", options=options
    )

    @torch.no_grad()
    def step(*inputs: Any) -> Any:
        return tree_unflatten(run(*tree_leaves(inputs)), made)

    return step
