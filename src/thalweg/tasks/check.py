"""Checks a task before anything long is started, and says in one sentence what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from thalweg.arguments import require_kind
from thalweg.errors import UserError
from thalweg.random_numbers import drawing
from thalweg.recipe import Recipe
from thalweg.routes import check_all_taken, parameters_of
from thalweg.schedules import Plateau
from thalweg.tasks.evaluation import Part, apart, as_float, joined, over_parts
from thalweg.tasks.failure import describe, failure_as_sentence
from thalweg.tasks.forms import copied
from thalweg.tasks.held import is_held, same
from thalweg.tasks.samples import Samples, first_not_finite, rows_not_finite
from thalweg.tasks.task import Score, Task
from thalweg.tasks.user_code import made_model, make_model, run_model, run_score, trainable

TRIED = 8
"""The most samples with values that are not finite that are tried with the model and the loss."""

BATCHES, ENOUGH_SECONDS = 16, 0.5
"""The most training batches on which the loss is tried, and the seconds after which this ends."""

TOGETHER = 8
"""The batches that are evaluated at once if the data are in memory."""

PATIENCE = 3.0
"""The most seconds for the check of a split. Later samples are not checked."""


class NotFiniteError(UserError):
    """Raised for a loss, a gradient or an output that is not finite at the initial weights."""


def check(task: Task) -> None:
    """Makes the model, runs some batches forward and backward, and reads all the data once.

    Some batches of the training split (up to `batch_size` samples each) go through the model in
    training mode and the loss, forward and backward. The validation and test splits go through the
    model in evaluation mode and all metrics; the scores of the test split are not kept. The check
    of a split that is not in memory ends after some seconds. The random states of torch, NumPy and
    Python do not change.

    Raises `UserError`, with one sentence, for these faults:

    - data that cannot be made, or are not of the form (inputs..., target); a sample that cannot be
      read, has another shape, or has values that are not finite and give results that are not;
    - a model that fails, that is not made anew at each call, or has nothing to train;
    - a loss that is no finite scalar, that does not depend on the parameters, or that depends on
      other trainable tensors; a gradient that is not finite;
    - a metric that is not one number, that keeps or changes what it is given, or whose value for
      the ranking is not a number.
    """
    require_kind("task", task, Task, "a thalweg.Task")
    if not torch.is_grad_enabled():
        raise UserError(
            f"Gradients are switched off, so task '{task.name}' cannot be trained: call"
            " torch.set_grad_enabled(True), or move the call out of the torch.no_grad() block."
        )
    with drawing(0):
        with failure_as_sentence(f"The data of task '{task.name}' failed"):
            given = task.given
        model = make_model(task)
        samples = Samples(task, "train", given.train)
        try_loss(task, model, samples, next(samples.drawn()))
        check_training(task, model, Samples(task, "train", task.splits.train))
        for split, dataset in (("validation", task.splits.validation), ("test", given.test)):
            require_alike(samples, Samples(task, split, getattr(given, split)))
            check_metrics(task, model, Samples(task, split, dataset), PATIENCE)


def require_alike(samples: Samples, others: Samples) -> None:
    """UserError unless the samples of two splits have the same parts."""
    if parts_of(samples.sample(0)) != parts_of(others.sample(0)):
        raise UserError(
            f"A sample of {others.of} has other parts than a sample of the train split: give each"
            " the same inputs and the target."
        )


def parts_of(sample: Any) -> object:
    """The names of a dictionary's entries, the number of a tuple's items, or neither."""
    if isinstance(sample, Mapping):
        return set(sample)
    return len(sample) if isinstance(sample, tuple) else None


def check_recipe(task: Task, recipe: Recipe) -> None:
    """Checks whether a recipe fits a task.

    Raises UserError for a plateau schedule that watches the validation metric in the wrong
    direction, and for routes that miss a parameter of the model, or name one that it does not have.
    """
    if recipe.routes:
        with drawing(0):
            parameters = parameters_of(make_model(task))
        recipe.tracks(parameters)
        check_all_taken(recipe.routes, parameters)
    require_direction(recipe, task.better, task.metric_name, f"task '{task.name}'")


def require_direction(recipe: Recipe, better: str, metric: str, where: str) -> None:
    """UserError for a plateau on validation data that takes the worse for the better."""
    for name, setting in recipe.settings.items():
        if not isinstance(setting, Plateau) or setting.metric != "validation":
            continue
        if setting.direction != better:
            raise UserError(
                f"The plateau schedule of {name} in recipe {recipe.name} has direction"
                f" '{setting.direction}', but it watches the {metric} of {where}, which has"
                f" direction '{better}': give direction='{better}'."
            )


def check_training(task: Task, model: nn.Module, samples: Samples) -> None:
    """Checks the loss of some batches, and whether all samples can be read and are finite."""
    began = perf_counter()
    for count, numbers in enumerate(islice(samples.drawn(), 1, None)):
        spent = perf_counter() - began
        if count < BATCHES and spent < ENOUGH_SECONDS and len(numbers) == samples.size:
            try_loss(task, model, samples, numbers)
        elif is_held(samples.dataset) or spent > PATIENCE:
            break
        else:
            samples.batch(numbers)
    require_taken(task, samples)


def try_loss(task: Task, model: nn.Module, samples: Samples, numbers: Sequence[int]) -> None:
    """Checks the loss of these samples. A value in them that is not finite is reported first."""
    batch = samples.batch(numbers)
    try:
        check_loss(task, model, batch)
    except NotFiniteError:
        require_taken(task, samples)
        raise


def check_loss(task: Task, model: nn.Module, batch: list[Any]) -> None:
    *_, targets = batch
    known = [x for x in (*model.parameters(), *tree_leaves(batch)) if isinstance(x, Tensor)]
    outputs = run_model(task, model.train(), "train", batch)
    loss = run_score(task, "loss", task.loss, outputs=outputs, targets=targets)
    if not isinstance(loss, Tensor):
        raise UserError(
            f"The loss of task '{task.name}' must be a scalar tensor, not {describe(loss)}."
        )
    if not loss.isfinite():
        raise NotFiniteError(
            f"The loss of task '{task.name}' is {loss.item()} at the initial weights, before any"
            " step: look for such values in the data, for log(0) or 0/0 in the loss, and for"
            " initial weights that are too large."
        )
    if not loss.requires_grad:
        raise UserError(unconnected(task))
    require_none_beside(task, known, loss, lambda: task.loss(model(*batch[:-1]), targets))
    check_gradients(task, model, loss)


def check_gradients(task: Task, model: nn.Module, loss: Tensor) -> None:
    with failure_as_sentence(f"The backward pass of task '{task.name}' failed"):
        gradients = torch.autograd.grad(loss, trainable(model), allow_unused=True)
    reached = [gradient.to_dense() for gradient in gradients if gradient is not None]
    if not reached:
        raise UserError(unconnected(task))
    if not all(gradient.isfinite().all() for gradient in reached):
        raise NotFiniteError(
            f"The loss of task '{task.name}' is finite at the initial weights, but its gradient is"
            " not: look for sqrt(0), log(0) or 0/0 in the model and the loss."
        )


def require_none_beside(
    task: Task, known: Sequence[Tensor], loss: Tensor, again: Callable[[], Tensor]
) -> None:
    """Raises UserError if the loss depends on a trainable tensor that no optimizer gets.

    known: the model's parameters and its inputs. again: makes the loss once more, so that tensors
    that a call itself makes are recognised: they differ from call to call.
    """
    own = {id(x) for x in chain(known, *map(leaves, known))}
    beside = {id(x): x for x in leaves(loss) if id(x) not in own}
    for x in leaves(again()) if beside else ():
        if id(x) in beside:
            raise UserError(
                f"The loss of task '{task.name}' depends on a trainable tensor {describe(x)} that"
                " is no parameter of a fresh model, so it would never be trained: make it a part of"
                " the model, which may pass it to the loss among its outputs (use an nn.ModuleList"
                " for a list of layers), or freeze it with requires_grad_(False)."
            )


def leaves(x: Tensor) -> Iterator[Tensor]:
    """The tensors at which a backward pass from this tensor ends."""
    waiting, seen = [x.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::AccumulateGrad":
            yield node.variable  # type: ignore[attr-defined]
        waiting += [before for before, _ in node.next_functions]


def require_taken(task: Task, samples: Samples) -> None:
    """Raises UserError for a sample whose values are not finite if its results are not either."""
    odd = sorted(samples.odd)
    # If the data are sorted, a batch of the first samples may have only such values.
    whole_first = sorted(range(len(samples)), key=samples.odd.__contains__) if odd else []
    for number in odd[:: math.ceil(len(odd) / TRIED) or 1]:
        others = (other for other in whole_first if other != number)
        batch = samples.batch([number, *islice(others, samples.size - 1)])
        try:
            if samples.split == "train":
                check_loss(task, made_model(task), batch)
            else:
                check_prediction(task, made_model(task), samples, batch)
        except NotFiniteError as error:
            raise not_taken(samples, number) from error


def check_prediction(task: Task, model: nn.Module, samples: Samples, batch: list[Any]) -> None:
    """Raises NotFiniteError if an output is not finite."""
    with task.evaluating():
        outputs = run_model(task, model.eval(), samples.split, batch)
    if any(map(rows_not_finite, tree_leaves(outputs))):
        raise NotFiniteError


def not_taken(samples: Samples, number: int) -> UserError:
    what = first_not_finite(samples.batch([number]))
    count = len(samples.odd)
    more = f" ({count - 1} more samples have such values)" if count > 1 else ""
    return UserError(
        f"Sample {number} (counted from 0) of {samples.of} has {what}{more}, and its result is not"
        " finite: replace such values, leave such samples out, or mask them in the model and the"
        " loss."
    )


def check_metrics(task: Task, model: nn.Module, samples: Samples, patience: float) -> None:
    """Checks all metrics on a split.

    The metric that ranks must be a number on validation data. patience: the seconds after which
    only the part of the split that was read so far is used. If a metric fails on a part, as it may
    if a class is missing, the whole split is read.
    """
    with without_gradients(task):
        outputs, targets, whole = predictions(task, model.eval(), samples, patience)
        require_taken(task, samples)
        for name, score in task.scores.items():
            try:
                value = check_metric(
                    task, called(task, name, samples), score, outputs=outputs, targets=targets
                )
            except UserError as error:
                if samples.odd and ("NaN" in str(error) or "infinity" in str(error)):
                    raise not_taken(samples, min(samples.odd)) from error
                if whole or not isinstance(error.__cause__, ValueError):
                    raise
                check_metrics(task, model, samples, math.inf)
                return
            if name == task.metric_name:
                require_ranking(task, value, samples, whole)


def called(task: Task, metric: str, samples: Samples) -> str:
    """The name of a metric on a split, for messages."""
    if metric != task.metric_name:
        return f"further {samples.split} metric '{metric}'"
    return f"{samples.split} {'loss' if task.metric is None else 'metric'}"


def require_ranking(task: Task, value: float, samples: Samples, whole: bool) -> None:
    """Raises UserError for a value that cannot rank. whole: whether it is over all samples."""
    if samples.odd and not math.isfinite(value):
        raise not_taken(samples, min(samples.odd))
    if whole and math.isnan(value) and samples.split == "validation":
        raise UserError(
            f"The metric of task '{task.name}' is nan on validation data at the initial weights:"
            " look for such values in the data, and for log(0) or 0/0 in the metric."
        )


def predictions(
    task: Task, model: nn.Module, samples: Samples, patience: float
) -> tuple[Any, Any, bool]:
    """A model's outputs, the targets, and whether these belong to the whole split."""
    parts, seen = [], 0
    until = perf_counter() + patience
    for numbers in samples.drawn(TOGETHER if is_held(samples.dataset) else 1):
        batch = samples.batch(numbers)
        outputs = run_model(task, model, samples.split, batch)
        parts.append(Part(outputs, batch[-1], len(numbers)))
        seen += len(numbers)
        if perf_counter() > until:
            break
    outputs, targets = (apart if task.differentiates else joined)(parts)
    return outputs, targets, seen == len(samples)


def check_metric(task: Task, what: str, score: Score, outputs: Any, targets: Any) -> float:
    """A metric's value, which must be the same at a second call."""
    given = outputs, targets
    kept = copied(given)

    def scored() -> float:
        return over_parts(lambda *part: as_float(run_score(task, what, score, *part)), *given)

    with failure_as_sentence(f"The {what} of task '{task.name}' does not give a usable number"):
        once = scored()
        if not same(kept, given):
            raise UserError(
                f"The {what} of task '{task.name}' changes the outputs or targets that it is given;"
                " make it work on a copy, such as outputs.clone()."
            )
        again = scored()
    if not (math.isclose(once, again, rel_tol=1e-4) or (math.isnan(once) and math.isnan(again))):
        raise UserError(
            f"The {what} of task '{task.name}' is {once:.6g} and then {again:.6g} for the same"
            " outputs, so it keeps something from one call to the next: give a metric that does"
            " not. If the loss does this, give a separate metric."
        )
    return once


@contextmanager
def without_gradients(task: Task) -> Iterator[None]:
    """Calls metrics without gradients. If one needs gradients, the error says what to do."""
    try:
        with task.evaluating():
            yield
    except UserError as error:
        if "require grad" not in str(error):
            raise
        raise UserError(
            f"{error}. Metrics are computed without gradients: give a metric that needs none. A"
            " model that needs gradients for its outputs must use torch.enable_grad()."
        ) from error


def unconnected(task: Task) -> str:
    return (
        f"The loss of task '{task.name}' does not depend on the model's trainable parameters;"
        " compute it from the outputs without detach(), item() or no_grad()."
    )
