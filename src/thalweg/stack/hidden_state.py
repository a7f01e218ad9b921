"""Finds values that a model keeps in Python from call to call.

In a stack all members would share such values, or they would never change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import IOBase
from itertools import zip_longest
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from thalweg.random_numbers import OWN, drawing, drawn_from, plain, states
from thalweg.stack.batches import Batches
from thalweg.stack.population import initial_model
from thalweg.stack.single import kept_buffers
from thalweg.tasks.evaluation import known_to_pytree, of_tensors
from thalweg.tasks.forms import Batch
from thalweg.tasks.reachable import CONTAINERS, PLAIN, Named, reachable
from thalweg.tasks.task import Task

LARGE = 2**20
"""The number of elements above which a tensor is compared by its version, not by its sum."""

TOLERANCE = 1e-5
"""The tolerance for round-off, relative to the norm."""

Made = Sequence[Any]
"""The results of a batch: the outputs in training, the loss, and the outputs in evaluation."""


def hidden_state(task: Task) -> str:
    """A sentence about what a model keeps in Python from call to call; "" for nothing.

    A new model and its loss are run on one batch twice, and then on another batch. A second new
    model is run on the other batch only. The model keeps something where NumPy or Python draw
    random numbers, where it can reach an iterator, where an attribute or a variable changes from
    the first run to the second, and where outputs differ that must be equal.
    """
    batches = Batches(task, seeds=[0])
    (one,), (other,) = next(batches), next(batches)
    model, fresh = initial_model(task, seed=0), initial_model(task, seed=0)
    once, drawn = run(task, model, one)
    if drawn:
        return f"the model or its loss draws random numbers from {' and '.join(drawn)}"
    if iterator := next((name for name, x in reached(task, model) if is_iterator(x)), ""):
        return f"the model or its loss may read from {iterator}, which is an iterator"
    before, elsewhere = variables(task, model), variables(task, fresh)
    again, _ = run(task, model, one)
    if shared := changed(elsewhere, variables(task, fresh)):
        return (
            f"the model or its loss changes {shared} at every call, and all members share it, so a"
            " member may depend on the members before it; keep it in the model"
        )
    if own := changed(before, variables(task, model)):
        return f"the model or its loss changes {own} at every call"
    if not alike(once, again):
        return "the model or its loss gives another result when it is called again"
    if not alike(run(task, model, other)[0], run(task, fresh, other)[0]):
        return "the model keeps something of the first batch that it was called with"
    return ""


def run(task: Task, model: nn.Module, batch: Batch) -> tuple[Made, list[str]]:
    """The results of a batch, and the generators beside PyTorch's that random numbers came from."""
    *inputs, targets = batch
    with drawing(0), kept_buffers(model):
        before = states(("NumPy", "Python"))
        outputs = known_to_pytree(model.eval().train()(*inputs))
        loss = task.loss(outputs, targets)
        with task.evaluating():
            evaluated = model.eval()(*inputs)
        made = of_tensors(outputs), loss, of_tensors(evaluated)
        return made, drawn_from(before, states(before))


def reached(task: Task, model: nn.Module) -> list[Named]:
    """The objects that the model and the loss can reach, without parameters and buffers."""
    return [*reachable(model, "the model"), *reachable(task.loss, "the loss")]


def is_iterator(value: Any) -> bool:
    """Whether a value is an iterator; an open file is not counted, because it is seldom read."""
    return isinstance(value, Iterator) and not isinstance(value, IOBase)


def variables(task: Task, model: nn.Module) -> list[Named]:
    """The objects that the model and the loss can reach, with their present values."""
    return [(name, value_of(value)) for name, value in reached(task, model)]


def changed(before: Sequence[Named], after: Sequence[Named]) -> str:
    """The name of the first variable that has changed; "" for none."""
    for old, new in zip_longest(before, after, fillvalue=("", "")):
        if old != new:
            return (new[0] or old[0]).split("[")[0]
    return ""


def value_of(value: Any) -> Any:
    """A key that stays equal while the value does not change."""
    for kind, (state, *_) in OWN.items():
        if isinstance(value, kind):
            return plain(state(value))
    match value:
        case Tensor() | np.ndarray():
            return contents(value)
        case nn.Module() | FunctionType() | type():
            return id(value)
        case _ if isinstance(value, (np.generic, *PLAIN)):
            return repr(value)
    return type(value), len(value) if isinstance(value, (Mapping, *CONTAINERS)) else 0


def contents(value: Tensor | np.ndarray[Any, Any]) -> Any:
    """The shape and the sum of a tensor or an array; for a large one, its version."""
    try:
        tensor = torch.as_tensor(value).detach()
    except TypeError:  # an array of texts or other objects
        return id(value)
    if tensor.numel() > LARGE:
        return id(value), tensor._version
    return tensor.shape, repr(tensor.to(torch.complex128).sum().item())


def alike(some: Made, others: Made) -> bool:
    """Whether all tensors are equal up to round-off."""
    pairs = zip(tree_leaves(some), tree_leaves(others), strict=True)
    return all(torch.equal(x, y) or not differ(x, y, TOLERANCE) for x, y in pairs)


def differ(x: Tensor, y: Tensor, tolerance: float) -> bool:
    """Whether two tensors differ by more than a tolerance, relative to the norm of y.

    Only finite elements are compared; the same elements must be finite in both.
    """
    finite = x.isfinite()
    if not torch.equal(finite, y.isfinite()):
        return True
    x, y = x[finite].double(), y[finite].double()
    return bool((x - y).norm() > tolerance * y.norm())
