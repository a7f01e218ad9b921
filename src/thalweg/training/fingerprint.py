"""Whether a task is still the one that a race or a training was begun with."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset

from thalweg.checksum import checksum
from thalweg.random_numbers import drawing
from thalweg.stack.batches import fetch
from thalweg.tasks.check import failure_in_training, trainable
from thalweg.tasks.code_of import code_of
from thalweg.tasks.failure import failure_as_sentence
from thalweg.tasks.held import is_held, sample
from thalweg.tasks.task import Score, Task

SPREAD = 32
"""Samples that stand for a data set that is read as it goes."""

EFFECT = "another model or loss"

Fingerprint = Mapping[str, Any]
"""Plain data, under the words for its change."""


def fingerprint(tasks: Sequence[Task]) -> Fingerprint:
    """What can be told of the tasks' data, models, losses and metrics.

    Of data that are held it is a checksum of all, of others their length and one of some samples.
    Of a model it is the structure, and what it does to a batch, with its gradients; of losses and
    metrics the code and the constants. What is drawn at random, by PyTorch, NumPy or Python, leaves
    it as it is.
    """
    each = []
    for task in tasks:
        with failure_in_training(task):
            each.append(traits(task))
    return {words: [one[words] for one in each] for words in each[0]}


def difference(before: Fingerprint, now: Fingerprint) -> str:
    """What has changed first, in words; none if nothing has."""
    changed = (words for words in now if not alike(before.get(words), now[words]))
    return next(changed, "")


def traits(task: Task) -> dict[str, Any]:
    splits = task.splits
    scores = {task.metric_name: task.score, **task.also}
    loss, metrics = code_of(task.loss), codes_of(scores)
    once, again = seen(task), seen(task)
    return {
        "other training data": contents(task, "training", splits.train),
        "other validation data": contents(task, "validation", splits.validation),
        "other test data": contents(task, "test", splits.test),
        "another batch size": task.batch_size,
        "another direction": task.better,
        "another loss": unchanged(loss, code_of(task.loss)),
        "another metric": unchanged(metrics, codes_of(scores)),
        "another model": once.pop("structure"),
        EFFECT: {name: values for name, values in once.items() if alike(values, again[name])},
    }


def codes_of(scores: Mapping[str, Score]) -> dict[str, str]:
    return {
        f"{name} {place}": told
        for name, score in scores.items()
        for place, told in code_of(score).items()
    }


def contents(task: Task, name: str, dataset: Dataset[Any]) -> str:
    """A checksum of the samples that are held, or of some, spread evenly."""
    if is_held(dataset):
        return checksum(tree_leaves(dataset.tensors))
    length = len(dataset)  # type: ignore[arg-type]  # Data has made sure of one
    numbers = sorted({i * (length - 1) // (SPREAD - 1) for i in range(SPREAD)})
    parts = [str(length)]
    for i in numbers:
        with failure_as_sentence(f"Sample {i} of the {name} data of task '{task.name}' failed"):
            parts += fixed(dataset, i)
    return checksum(parts)


def fixed(dataset: Dataset[Any], i: int) -> Iterator[str]:
    """Checksums of a sample's parts, without those that are drawn at random."""
    readings = []
    for _ in range(2):
        with drawing(i):
            readings.append(tree_leaves(sample(dataset, i)))
    for once, again in zip(*readings, strict=True):
        kept, now = checksum([once]), checksum([again])
        yield kept if kept == now else "drawn at random"


def seen(task: Task) -> dict[str, Any]:
    """The structure of a model, and what it does to the first batch."""
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
            # Whatever they say: what a call changes of a metric is no constant of it.
            with suppress(Exception):
                task.metrics(evaluated, targets)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    kinds = [(n, x.dtype, tuple(x.shape), x.requires_grad) for n, x in tensors.items()]
    return {
        # Functions and objects are shown with their addresses.
        "structure": checksum([repr(kinds), re.sub(r" at 0x[0-9a-f]+", "", repr(model))]),
        "loss": [loss.item()],
        "gradients": [norm(gradient) for gradient in gradients if gradient is not None],
        "outputs": [norm(x) for x in tree_leaves((outputs, evaluated)) if isinstance(x, Tensor)],
    }


def norm(x: Tensor) -> float:
    dense = x.detach().to_dense()
    numbers = dense if dense.is_floating_point() or dense.is_complex() else dense.double()
    return float(torch.linalg.vector_norm(numbers))


def unchanged(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """A checksum of what a call leaves as it is, under the version of Python that compiled it."""
    kept = sorted(item for item in before.items() if item in after.items())
    return {"{}.{}".format(*sys.version_info): checksum([repr(kept)])}


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
