"""Try a task on one batch before anything long is started, and say plainly what is wrong."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset, default_collate

from thalweg.errors import UserError
from thalweg.random_numbers import drawing
from thalweg.tasks.task import Score, Task


def check(task: Task) -> None:
    """Make the model and run one batch forward and backward; leaves all random numbers alone.

    One batch of the training split (up to `batch_size` samples) goes through the model in training
    mode, the loss, and back to the parameters; one each of the validation and the test split
    through the model in evaluation mode and every metric. Of the test split only the shapes count:
    its scores are thrown away.

    Raises `UserError`, one sentence, for data that cannot be made or has another shape than
    (inputs..., target), a model that fails, is not made anew or has nothing to train, a loss that is no finite
    scalar or does not reach the parameters, a gradient that is not finite, outputs without a
    dimension of samples, a metric that is no scalar, and a ranked one that is not a number.
    """
    with drawing(0):
        with failure_as_sentence(f"The data of task '{task.name}' failed"):
            splits = task.given
        model = make_model(task)
        check_loss(task, model, first_batch(task, "train", splits.train))
        if try_metrics(task, model, "validation", splits.validation).isnan():
            raise UserError(
                f"The metric of task '{task.name}' is nan on validation data at the initial"
                " weights: look for such values in the data, and for log(0) or 0/0 in the metric."
            )
        try_metrics(task, model, "test", splits.test)


def first_batch(task: Task, split: str, dataset: Dataset[Any]) -> list[Any]:
    """The first samples of a split as one batch: a list of the model's arguments and the target."""
    length = len(dataset)  # type: ignore[arg-type]  # Data has made sure that there is one
    with failure_as_sentence(f"The {split} split of task '{task.name}' failed"):
        samples = [dataset[index] for index in range(min(task.batch_size, length))]
    if not isinstance(samples[0], tuple | list) or len(samples[0]) < 2:
        raise UserError(
            f"A sample of the {split} split of task '{task.name}' must be a tuple"
            f" (inputs..., target), not {describe(samples[0])}."
        )
    with failure_as_sentence(f"The samples of task '{task.name}' do not stack into a batch"):
        return list(default_collate([tuple(sample) for sample in samples]))


def make_model(task: Task) -> nn.Module:
    """A fresh model; another one is made beside it, with which it must share nothing."""
    model, other = made_model(task), made_model(task)
    held = set(memories(model).values())
    shared = next((name for name, memory in memories(other).items() if memory in held), None)
    if shared is not None:
        raise UserError(
            f"The model function of task '{task.name}' gives the same '{shared}' at every call, so"
            " every training would change it for the next; make it anew, or give a copy, such as"
            " model=lambda: copy.deepcopy(pretrained)."
        )
    return model


def memories(model: nn.Module) -> dict[str, int]:
    """Where the parameters and buffers lie in memory, by name."""
    return {name: memory(x) for name, x in chain(model.named_parameters(), model.named_buffers())}


def memory(x: Tensor) -> int:
    try:
        return x.untyped_storage().data_ptr() or id(x)
    except (ValueError, NotImplementedError):  # of a lazy layer, or sparse
        return id(x)


def made_model(task: Task) -> nn.Module:
    with failure_as_sentence(f"The model of task '{task.name}' cannot be made"):
        model = task.model()
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
    return model


def check_loss(task: Task, model: nn.Module, batch: list[Any]) -> None:
    *_, targets = batch
    outputs = run_model(task, model.train(), "train", batch)
    loss = run_score(task, "loss", task.loss, outputs, targets)
    if not loss.isfinite():
        raise UserError(
            f"The loss of task '{task.name}' is {loss.item()} at the initial weights, before any"
            " step: look for such values in the data, for log(0) or 0/0 in the loss, and for"
            " initial weights that are too large."
        )
    if not loss.requires_grad:
        raise UserError(unconnected(task))
    with failure_as_sentence(f"The backward pass of task '{task.name}' failed"):
        gradients = torch.autograd.grad(loss, trainable(model), allow_unused=True)
    reached = [gradient.to_dense() for gradient in gradients if gradient is not None]
    if not reached:
        raise UserError(unconnected(task))
    if not all(gradient.isfinite().all() for gradient in reached):
        raise UserError(
            f"The loss of task '{task.name}' is finite at the initial weights, but its gradient is"
            " not: look for sqrt(0), log(0) or 0/0 on the way to the loss."
        )


def try_metrics(task: Task, model: nn.Module, split: str, dataset: Dataset[Any]) -> Tensor:
    """What entrants are ranked by, on the first samples of this split."""
    batch = first_batch(task, split, dataset)
    *_, targets = batch
    with torch.no_grad():
        outputs = run_model(task, model.eval(), split, batch)
        check_outputs(task, outputs, min(task.batch_size, len(dataset)))  # type: ignore[arg-type]
        ranked = run_score(task, f"{split} metric", task.score, outputs, targets)
        for name, score in task.also.items():
            run_score(task, f"further {split} metric '{name}'", score, outputs, targets)
    return ranked


def check_outputs(task: Task, outputs: Any, samples: int) -> None:
    """A metric is over a whole split: the outputs of its batches must join to one."""
    for output in tree_leaves(outputs):
        if not isinstance(output, Tensor) or output.shape[:1] != (samples,):
            raise UserError(
                f"The outputs of task '{task.name}' must have one entry for each of the {samples}"
                f" samples in their first dimension; one is {describe(output)}."
            )


def run_model(task: Task, model: nn.Module, split: str, batch: list[Any]) -> Any:
    *inputs, _ = batch
    shapes = ", ".join(map(describe, inputs))
    with failure_as_sentence(f"The model of task '{task.name}' failed on {split} inputs {shapes}"):
        return model(*inputs)


def run_score(task: Task, what: str, score: Score, outputs: Any, targets: Any) -> Tensor:
    with (
        failure_as_sentence(
            f"The {what} of task '{task.name}' failed on outputs {describe(outputs)}"
            f" and targets {describe(targets)}"
        ),
        warnings.catch_warnings(),
    ):
        # PyTorch's losses only warn of outputs [N, 1] against targets [N], which broadcast.
        warnings.filterwarnings("error", message="Using a target size")
        value = score(outputs, targets)
    if not isinstance(value, Tensor) or value.ndim > 0:
        raise UserError(
            f"The {what} of task '{task.name}' must be a scalar tensor, one number for all samples,"
            f" not {describe(value)}."
        )
    return value


@contextmanager
def failure_as_sentence(what_failed: str) -> Iterator[None]:
    """Turns an exception of the user's code into a `UserError` with its message's first line."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        lines = str(error).splitlines()
        message = f": {lines[0]}" if lines else ""
        raise UserError(f"{what_failed}: {type(error).__name__}{message}") from error


@contextmanager
def failure_in_training(task: Task) -> Iterator[None]:
    """The same for a whole training, of which `check` has seen one batch.

    What was raised within this package is a bug of ours, and passes with its traceback.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").startswith("thalweg."):
            raise
        with failure_as_sentence(f"Task '{task.name}' failed in training"):
            raise


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def unconnected(task: Task) -> str:
    return (
        f"The loss of task '{task.name}' does not depend on the model's trainable parameters;"
        " compute it from the outputs without detach(), item() or no_grad()."
    )


def describe(value: Any) -> str:
    """A tensor by its shape, anything else by its type."""
    if isinstance(value, Tensor):
        return f"of shape {list(value.shape)}"
    return f"of type {type(value).__name__}"
