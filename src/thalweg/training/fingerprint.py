"""Whether a task is still the one that a race or a training was begun with."""

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
"""Samples that stand for a data set that is read as it goes."""

EFFECT = "another model or loss"

Fingerprint = Mapping[str, Any]
"""Plain data, under the words for its change."""


def fingerprint(tasks: Sequence[Task]) -> Fingerprint:
    """What can be told of the tasks' data, models, losses and metrics.

    Of data that are held it is a checksum of all, of others their length and one of some samples.
    Of a model it is the structure, and what it does to a batch, with its gradients, so that a race
    goes on when a model that failed late is mended; of losses and metrics the code and the
    constants. What is drawn at random leaves it as it is, and what they change from call to call.
    """
    each = []
    for task in tasks:
        with failure_in_training(task):
            each.append(traits(task))
    return {words: [one[words] for one in each] for words in each[0]}


def of_own_rules(recipes: Iterable[Recipe]) -> Fingerprint:
    """What can be told of the rules in recipes that are none of the package's."""
    chains = [chain for recipe in recipes for chain in recipe.chains]
    kinds = {type(rule) for chain in chains for rule in chain}
    own = kinds.difference(RULES.values())
    return {f"another rule {kind.__qualname__}": code_of(kind) for kind in own}


def difference(before: Fingerprint, now: Fingerprint) -> str:
    """What has changed first, in words; none if nothing has."""
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
        "another batch size": task.batch_size,
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
    """Checksums of the samples that are held, and of some, spread evenly, but for what is drawn.

    Data that were held may not be when the memory is taken, so that some count then.
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
    """Checksums of a sample's parts. own: its generators, which draw from a seed too."""
    with drawing(i), drawing_too(own, i):
        return [checksum([part]) for part in tree_leaves(sample(dataset, i))]


def seen(task: Task) -> tuple[dict[str, Any], nn.Module]:
    """What a model does to the first batch, and the model."""
    train = task.splits.train
    first = torch.arange(min(task.batch_size, len(train)))  # type: ignore[arg-type]
    with drawing(0):
        model = task.fresh_model()
        *inputs, targets = fetch(train, first)
        outputs = model.train()(*inputs)
        loss = task.loss(outputs, targets)
        gradients = torch.autograd.grad(loss, trainable(model), allow_unused=True)
        with torch.no_grad():
            evaluated = model.eval()(*inputs)
            ask(task, evaluated, targets)
    return {
        "loss": [loss.item()],
        "gradients": [norm(gradient) for gradient in gradients if gradient is not None],
        "outputs": [norm(x) for x in tree_leaves((outputs, evaluated)) if isinstance(x, Tensor)],
    }, model


def structure(one: nn.Module, other: nn.Module) -> str:
    """A checksum of what models made alike have in common; both are there, so that no identity of
    an object in the one is given again in the other.
    """
    tensors = {**dict(one.named_parameters()), **dict(one.named_buffers())}
    kinds = [(n, x.dtype, tuple(x.shape), x.requires_grad) for n, x in tensors.items()]
    # Functions and objects are shown with their addresses.
    lines, others = (re.sub("0x[0-9a-fA-F]+", "", repr(x)).splitlines() for x in (one, other))
    same = [line for line, there in zip(lines, others, strict=False) if line == there]
    return checksum([repr(kinds), *same])


def ask(task: Task, outputs: Any, targets: Any) -> None:
    """Calls the loss and the metrics on this many samples, and on half: what that changes of them,
    such as what they keep for each number of samples, is no constant of theirs.
    """
    half = tree_map(lambda x: x[: (len(x) + 1) // 2], (outputs, targets))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for samples in ((outputs, targets), half):
            for score in (task.loss, *task.scores.values()):
                with suppress(Exception):  # whatever they say
                    score(*samples)


def norm(x: Tensor) -> float:
    dense = x.detach().to_dense()
    numbers = dense if dense.is_floating_point() or dense.is_complex() else dense.double()
    return float(torch.linalg.vector_norm(numbers))


def unchanged(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, Any]:
    """What a call leaves as it is, under the version of Python that compiled it."""
    return {"{}.{}".format(*sys.version_info): dict(before.items() & after.items())}


def alike(before: Any, now: Any) -> bool:
    """Whether two traits are the same; of numbers three digits count, which round-off does not
    reach, and of what has names those that both have.
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
