"""Whether a task is still the one that a ledger was begun with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from thalweg.stack.batches import fetch
from thalweg.tasks.task import Score, Task


def fingerprint(tasks: Iterable[Task]) -> str:
    """Twelve hexadecimal digits that change with a model, data, loss, metric or batch size.

    They are a hash of the parameters' shapes, the lengths of the splits, the batch size, and the
    loss and the metric of one fixed model on the first batch of each their data, to three digits,
    which round-off does not reach.
    """
    text = " ".join(map(traits, tasks))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def traits(task: Task) -> str:
    splits = task.splits
    lengths = [len(split) for split in (splits.train, splits.validation, splits.test)]  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = task.model()
        loss = on_first_batch(task, model, task.loss, splits.train)
        metric = on_first_batch(task, model.eval(), task.score, splits.validation)
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    return f"{shapes} {lengths} {task.batch_size} {loss:.3g} {metric:.3g}"


def on_first_batch(task: Task, model: nn.Module, score: Score, split: Dataset[Any]) -> float:
    first = torch.arange(min(task.batch_size, len(split)))  # type: ignore[arg-type]
    *inputs, targets = fetch(split, first)
    return float(score(model(*inputs), targets))
