"""Running the code of a task: its model, loss and metrics. An error becomes one sentence."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor, nn

from thalweg.errors import UserError
from thalweg.tasks.evaluation import known_to_pytree
from thalweg.tasks.failure import describe, failure_as_sentence
from thalweg.tasks.reachable import is_own
from thalweg.tasks.task import Score, Task


def make_model(task: Task) -> nn.Module:
    """A fresh model. A second one is made too, and the two must share no memory."""
    model, other = made_model(task), made_model(task)
    held = set(memories(model).values())
    shared = next((name for name, memory in memories(other).items() if memory in held), None)
    if shared is not None:
        raise UserError(
            f"The model function of task '{task.name}' gives the same '{shared}' at every call, so"
            " one training would change the start of the next; make the model anew, or return a"
            " copy, as model=lambda: copy.deepcopy(pretrained) does."
        )
    return model


def memories(model: nn.Module) -> dict[str, int]:
    """The memory addresses of the parameters and buffers, by name."""
    return {name: memory(x) for name, x in chain(model.named_parameters(), model.named_buffers())}


def memory(x: Tensor) -> int:
    try:
        return x.untyped_storage().data_ptr() or id(x)
    except NotImplementedError:  # a sparse tensor has no address
        return id(x)


def made_model(task: Task) -> nn.Module:
    with failure_as_sentence(f"The model of task '{task.name}' cannot be made"):
        model = task.fresh_model()
    if not isinstance(model, nn.Module):
        raise UserError(
            f"The model function of task '{task.name}' must return a torch.nn.Module,"
            f" not {describe(model)}."
        )
    if not trainable(model):
        raise UserError(
            f"The model of task '{task.name}' has no trainable parameters;"
            " at least one needs requires_grad=True."
        )
    if any(parameter.is_inference() for parameter in trainable(model)):
        raise UserError(
            f"The model of task '{task.name}' was made in torch.inference_mode, so it cannot be"
            " trained: make it outside of that mode, or return copy.deepcopy(model)."
        )
    return model


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def run_model(task: Task, model: nn.Module, split: str, batch: list[Any]) -> Any:
    *inputs, _ = batch
    shapes = ", ".join(map(describe, inputs))
    with failure_as_sentence(f"The model of task '{task.name}' failed on {split} inputs {shapes}"):
        return known_to_pytree(model(*inputs))


def run_score(task: Task, what: str, score: Score, outputs: Any, targets: Any) -> Any:
    with (
        failure_as_sentence(
            f"The {what} of task '{task.name}' failed on outputs {describe(outputs)}"
            f" and targets {describe(targets)}"
        ),
        warnings.catch_warnings(),
    ):
        # PyTorch's losses only warn if outputs [N, 1] and targets [N] are broadcast.
        warnings.filterwarnings("error", message="Using a target size")
        value = score(outputs, targets)
    if not is_number(value):
        raise UserError(
            f"The {what} of task '{task.name}' must be one number for all samples,"
            f" not {describe(value)}."
        )
    return value


def is_number(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0 and not value.is_complex()
    if isinstance(value, np.ndarray | np.generic):
        return value.ndim == 0 and value.dtype.kind in "fiub"
    return isinstance(value, Real)


@contextmanager
def failure_in_training(task: Task) -> Iterator[None]:
    """Turns an exception of the user's code during training into a `UserError`.

    An exception of this package is a bug of ours, and keeps its traceback. If it comes from another
    library than torch, and not through code of the user, the sentence names the library.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        modules = [frame.f_globals.get("__name__", "") for frame in frames]
        package = modules[-1].partition(".")[0]
        if package == "thalweg":
            raise
        what_failed = f"Task '{task.name}' failed in training"
        if package != "torch" and not any(map(is_own, modules)):
            what_failed = f"Training task '{task.name}' failed in {package}"
        with failure_as_sentence(what_failed):
            raise
