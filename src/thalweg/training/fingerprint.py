"""The fingerprint of a task, which shows whether the task has changed since a race began."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import Dataset, TensorDataset

from thalweg.checksum import checksum
from thalweg.foreign import ForeignRule
from thalweg.random_numbers import OWN, drawing, drawing_too
from thalweg.recipe import Recipe
from thalweg.rules import RULES
from thalweg.stack.batches import fetch
from thalweg.tasks.code_of import code_of
from thalweg.tasks.failure import failure_as_sentence
from thalweg.tasks.held import is_held, sample
from thalweg.tasks.reachable import reachable
from thalweg.tasks.task import Score, Task
from thalweg.tasks.user_code import failure_in_training, trainable

SPREAD = 32
"""The number of samples that represent a data set that is not held in memory."""

EFFECT = "another model or loss"

Fingerprint = Mapping[str, Any]
"""Plain data. Each key is the words that describe a change of its value."""


def fingerprint(tasks: Sequence[Task]) -> Fingerprint:
    """The fingerprint of the data, models, losses and metrics of some tasks.

    It holds a checksum of data that are held in memory; of other data their length, and checksums
    of some samples. It holds the structure of a model, its outputs for a batch and their gradients,
    but not its code: so a race can go on after an error in a model was corrected. It holds the code
    and the constants of losses and metrics. Random numbers, and what changes from call to call, do
    not change it.
    """
    each = []
    for task in tasks:
        with failure_in_training(task):
            each.append(traits(task))
    return {words: [one[words] for one in each] for words in each[0]}


def of_own_rules(recipes: Iterable[Recipe]) -> Fingerprint:
    """The fingerprint of those rules in the recipes that do not belong to this package."""
    chains = [chain for recipe in recipes for chain in recipe.chains]
    kinds = {type(rule) for chain in chains for rule in chain}
    own = kinds.difference(RULES.values())
    return {
        f"another rule {kind.__qualname__}": code_of(
            kind.optimizer if issubclass(kind, ForeignRule) else kind
        )
        for kind in own
    }


def difference(before: Fingerprint, now: Fingerprint) -> str:
    """The first change, in words; empty if nothing has changed."""
    changed = (words for words in now if not alike(before.get(words), now[words]))
    return next(changed, "")


def traits(task: Task) -> dict[str, Any]:
    splits = task.splits
    scores = {task.metric_name: task.score, **task.also}
    loss, metrics = code_of(task.loss), codes_of(scores)
    (once, one), (again, other) = seen(task), seen(task)
    return {
        "other training data": contents(task, "training", splits.train),
        "other validation data": contents(task, "validation", splits.validation),
        "other test data": contents(task, "test", splits.test),
        "another batch size": task.samples_per_step,
        "another number of evaluations": task.evaluations,
        "another direction": task.better,
        "other metrics": sorted(scores),
        "another loss": unchanged(loss, code_of(task.loss)),
        "another metric": unchanged(metrics, codes_of(scores)),
        "another model": structure(one, other),
        EFFECT: {name: values for name, values in once.items() if alike(values, again[name])},
    }


def codes_of(scores: Mapping[str, Score]) -> dict[str, str]:
    return {
        f"{name} {place}": told
        for name, score in scores.items()
        for place, told in code_of(score).items()
    }


def contents(task: Task, name: str, dataset: Dataset[Any]) -> dict[str, Any]:
    """Checksums of all held samples, and of some samples, without parts that are drawn at random.

    Data may not be held later, when less memory is free. The checksums of some samples count then.
    """
    if type(dataset) is TensorDataset:
        return {"all": checksum(tree_leaves(dataset.tensors))}
    length = len(dataset)  # type: ignore[arg-type]  # Data has made sure of one
    readings = []
    own = [x for _, x in reachable(dataset, "") if type(x) in OWN]
    for i in sorted({i * (length - 1) // (SPREAD - 1) for i in range(SPREAD)}):
        with failure_as_sentence(f"Sample {i} of the {name} data of task '{task.name}' failed"):
            readings.append([read(dataset, i, own) for _ in range(2)])
    columns: dict[str, list[str]] = {}
    drawn = set()
    for once, again in readings:
        for part, (kept, now) in enumerate(zip(once, again, strict=True)):
            columns.setdefault(f"part {part}", []).append(kept)
            if kept != now:
                drawn.add(f"part {part}")
    told = {part: checksum(column) for part, column in columns.items() if part not in drawn}
    held = {"all": checksum(tree_leaves(dataset.tensors))} if is_held(dataset) else {}
    return {"length": length, **told, **held}


def read(dataset: Dataset[Any], i: int, own: Sequence[Any]) -> list[str]:
    """Checksums of a sample's parts. own: the data set's own random generators."""
    with drawing(i), drawing_too(own, i):
        return [checksum([part]) for part in tree_leaves(sample(dataset, i))]


def seen(task: Task) -> tuple[dict[str, Any], nn.Module]:
    """The outputs of a fresh model for the first batch with their gradients, and the model."""
    train = task.splits.train
    first = torch.arange(min(task.samples_per_step, len(train)))  # type: ignore[arg-type]
    with drawing(0):
        model = task.fresh_model()
        *inputs, targets = fetch(train, first)
        outputs = model.train()(*inputs)
        loss = task.loss(outputs, targets)
        gradients = torch.autograd.grad(loss, trainable(model), allow_unused=True)
        with task.evaluating():
            evaluated = model.eval()(*inputs)
            ask(task, evaluated, targets)
    return {
        "loss": [loss.item()],
        "gradients": [norm(gradient) for gradient in gradients if gradient is not None],
        "outputs": [norm(x) for x in tree_leaves((outputs, evaluated)) if isinstance(x, Tensor)],
    }, model


def structure(one: nn.Module, other: nn.Module) -> str:
    """A checksum of the structure that two models of one function have in common.

    Both models exist at once, so that no id of an object in one model appears again in the other.
    """
    tensors = {**dict(one.named_parameters()), **dict(one.named_buffers())}
    kinds = [(n, x.dtype, tuple(x.shape), x.requires_grad) for n, x in tensors.items()]
    # The texts of functions and objects contain their addresses.
    lines, others = (re.sub("0x[0-9a-fA-F]+", "", repr(x)).splitlines() for x in (one, other))
    same = [line for line, there in zip(lines, others, strict=False) if line == there]
    return checksum([repr(kinds), *same])


def ask(task: Task, outputs: Any, targets: Any) -> None:
    """Calls the loss and the metrics on all these samples, and on half of them.

    Attributes that such calls change, as a cache for each number of samples does, are no constants.
    """
    half = tree_map(first_half, (outputs, targets))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for samples in ((outputs, targets), half):
            for score in (task.loss, *task.scores.values()):
                with suppress(Exception):  # an error of theirs does not matter here
                    score(*samples)


def first_half(x: Any) -> Any:
    return x[: (len(x) + 1) // 2] if isinstance(x, Tensor) and x.ndim else x


def norm(x: Tensor) -> float:
    dense = x.detach().to_dense()
    numbers = dense if dense.is_floating_point() or dense.is_complex() else dense.double()
    return float(torch.linalg.vector_norm(numbers))


def unchanged(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, Any]:
    """The traits that a call does not change, with the version of Python that compiled the code."""
    return {"{}.{}".format(*sys.version_info): dict(before.items() & after.items())}


def alike(before: Any, now: Any) -> bool:
    """Whether two traits are the same.

    Of numbers only three digits count, so that round-off does not matter. Of named values only the
    names that both have count.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        return all(alike(before[name], now[name]) for name in before.keys() & now.keys())
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        if all(isinstance(x, float) for x in now):
            return bool(close(np.array(before), np.array(now)))
        return all(map(alike, before, now))
    return bool(before == now)


def close(before: Any, now: Any) -> Any:
    both = np.abs([*before, *now])
    scale = both[np.isfinite(both)].max(initial=0)
    return np.allclose(before, now, rtol=0, atol=1e-6 + 1e-3 * scale, equal_nan=True)
