"""Tasks of what people hold already: arrays, a Lightning module, a trainer of Hugging Face."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset

from thalweg.arguments import require_whole, short
from thalweg.errors import UserError
from thalweg.tasks.data import Data
from thalweg.tasks.task import Task

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule
    from transformers import Trainer

WIDTH = 64
"""The units of each hidden layer of the network for arrays."""

FEWEST = 10
"""The fewest rows of arrays that can be split."""


def from_sklearn(
    X: Any,  # noqa: N803 (the name that estimators have)
    y: Any,
    *,
    model: Callable[[], nn.Module] | None = None,
    name: str = "arrays",
    epochs: int = 20,
    batch_size: int = 64,
    seed: int = 0,
) -> Task:
    """A task of arrays as estimators of scikit-learn take them.

    X: features `[N, D]`, which are standardized by the training part. y: targets `[N]`. Floating
    numbers are regressed (mean squared error); all other values are classes (cross-entropy, and the
    accuracy ranks). model: makes a network from D inputs to one output, or to one for each class; a
    network with two hidden layers of 64 units if not given. The rows are shuffled by `seed`; 60 %
    train, 20 % validate, 20 % test.

    Raises UserError for arrays of unequal or of small lengths.
    """
    features, targets = np.asarray(X, dtype=np.float32), np.asarray(y)
    if features.ndim != 2 or targets.shape != features.shape[:1] or len(targets) < FEWEST:
        raise UserError(
            f"X must be [N, D] and y [N], with {FEWEST} rows or more, not {list(features.shape)}"
            f" and {list(targets.shape)}."
        )
    order = np.random.default_rng(require_whole("seed", seed, 0)).permutation(len(targets))
    parts = np.split(order, [len(order) * 3 // 5, len(order) * 4 // 5])
    mean, deviation = features[parts[0]].mean(0), features[parts[0]].std(0)
    inputs = torch.from_numpy((features - mean) / np.where(deviation > 0, deviation, 1))
    is_regression = targets.dtype.kind == "f"
    if is_regression:
        wanted, outputs = torch.from_numpy(targets.astype(np.float32))[:, None], 1
    else:
        classes, codes = np.unique(targets, return_inverse=True)
        wanted, outputs = torch.from_numpy(codes), len(classes)
    data = Data(*((inputs[part], wanted[part]) for part in map(torch.from_numpy, parts)))

    def network() -> nn.Module:
        hidden = (nn.Linear(inputs.shape[1], WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())
        return nn.Sequential(*hidden, nn.Linear(WIDTH, outputs))

    return Task(
        name,
        model or network,
        lambda: data,
        F.mse_loss if is_regression else F.cross_entropy,
        metric=None if is_regression else accuracy,
        metric_name="loss" if is_regression else "accuracy",
        direction="min" if is_regression else "max",
        batch_size=batch_size,
        epochs=epochs,
    )


def accuracy(outputs: Tensor, classes: Tensor) -> Tensor:
    return (outputs.argmax(1) == classes).float().mean()


def from_lightning(
    module: LightningModule,
    datamodule: LightningDataModule,
    *,
    name: str | None = None,
    epochs: int | None = None,
    steps: int | None = None,
) -> Task:
    """A task of a Lightning module and its data.

    The loss is what `training_step` returns, in training and in evaluation. Its optimizer and its
    callbacks are not used. Each training begins with the weights that the module has now. The data
    come from the loaders of the data module; without a test loader, half of the validation data
    are test data. epochs, steps: the budget; exactly one of the two.
    """
    datamodule.prepare_data()
    datamodule.setup("fit")
    datamodule.setup("test")
    train, validation = datamodule.train_dataloader(), datamodule.val_dataloader()
    for what, one in (("training", train), ("validation", validation)):
        if not isinstance(one, DataLoader):
            raise UserError(f"The {what} data must be one DataLoader, not {short(one)}.")
    try:
        test = datamodule.test_dataloader()
    except Exception:  # Lightning raises its own error where there is none
        test = None
    if isinstance(test, DataLoader):
        splits: Any = (train.dataset, validation.dataset, test.dataset)
    else:
        splits = (train.dataset, *halves(validation.dataset))
    return Task(
        type(module).__name__ if name is None else name,
        lambda: Steps(copy.deepcopy(module)),
        lambda: Data(*splits, collate_fn=lambda samples: (train.collate_fn(samples),)),
        batch_size=train.batch_size,
        epochs=epochs,
        steps=steps,
    )


class Steps(nn.Module):
    """A Lightning module whose output for a batch is what its `training_step` returns."""

    def __init__(self, module: LightningModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Any) -> Any:
        return self.module.training_step(batch, 0)


def from_trainer(trainer: Trainer, *, name: str | None = None) -> Task:
    """A task of a trainer of Hugging Face: its model, data, collator, batch size and budget.

    The loss is the model's own. Its optimizer and its callbacks are not used. Each training begins
    with the weights that the model has now. Half of the evaluation data are test data.
    """
    for what in ("train_dataset", "eval_dataset"):
        if getattr(trainer, what) is None:
            raise UserError(f"The trainer needs {what}: give it to the Trainer.")
    given = trainer.args
    splits = (trainer.train_dataset, *halves(trainer.eval_dataset))
    by_steps = given.max_steps > 0
    return Task(
        type(trainer.model).__name__ if name is None else name,
        lambda: copy.deepcopy(trainer.model).cpu(),
        lambda: Data(*splits, collate_fn=trainer.data_collator),
        batch_size=given.per_device_train_batch_size * given.gradient_accumulation_steps,
        steps=given.max_steps if by_steps else None,
        epochs=None if by_steps else max(1, round(given.num_train_epochs)),
    )


def halves(dataset: Dataset[Any]) -> tuple[Subset[Any], Subset[Any]]:
    """Every second sample of a data set, and the others."""
    length = len(dataset)  # type: ignore[arg-type]  # it is one with numbered samples
    return Subset(dataset, range(0, length, 2)), Subset(dataset, range(1, length, 2))
