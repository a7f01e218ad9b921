"""Whether a task is still the one that a ledger was begun with."""

from __future__ import annotations

import hashlib

import torch

from thalweg.stack.batches import fetch
from thalweg.tasks.task import Task


def fingerprint(task: Task) -> str:
    """Twelve hexadecimal digits that change with the model, the data or the batch size.

    They are a hash of the parameters' shapes, the lengths of the splits, the batch size, and the
    loss of one fixed model on the first batch to three digits, which round-off does not reach.
    """
    splits = task.splits
    lengths = [len(split) for split in (splits.train, splits.validation, splits.test)]  # type: ignore[arg-type]
    first = torch.arange(min(task.batch_size, lengths[0]))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = task.model()
        *inputs, targets = fetch(splits.train, first)
        loss = float(task.loss(model(*inputs), targets))
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    text = f"{shapes} {lengths} {task.batch_size} {loss:.3g}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]
