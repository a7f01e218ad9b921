"""Progression of diabetes in 442 patients from ten measurements (Efron et al. 2004)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.tasks.data import Data
from thalweg.tasks.split import shuffled_split
from thalweg.tasks.task import Task


def patients() -> Data:
    """Measurements and progression, both standardised with the training set's statistics."""
    from sklearn.datasets import load_diabetes

    measurements, progression = load_diabetes(return_X_y=True, scaled=False)
    inputs = torch.tensor(measurements, dtype=torch.float32)
    targets = torch.tensor(progression, dtype=torch.float32).unsqueeze(1)
    splits = shuffled_split(inputs, targets)
    statistics = [(column.mean(0), column.std(0)) for column in splits[0]]
    return Data(
        *(
            tuple(
                (column - mean) / std for column, (mean, std) in zip(split, statistics, strict=True)
            )
            for split in splits
        )
    )


def multilayer_perceptron() -> nn.Module:
    """Ten measurements, two hidden layers of 32 units, one prediction."""
    return nn.Sequential(
        nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)
    )


def mean_absolute_error(
    predictions: Float[Tensor, "N 1"], targets: Float[Tensor, "N 1"]
) -> Float[Tensor, ""]:
    """The mean absolute error, in standard deviations of the progression."""
    return (predictions - targets).abs().mean()


diabetes = Task(
    name="diabetes",
    model=multilayer_perceptron,
    data=patients,
    loss=F.mse_loss,
    metric_name="mean squared error",
    also={"mean absolute error": mean_absolute_error},
    batch_size=32,
    epochs=4,
    target=0.5,
    shows="Regression on few noisy samples: a fast fall of the training loss does not help.",
)
