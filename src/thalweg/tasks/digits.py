"""Handwritten digits: 1797 pictures of 8 by 8 pixels, ten classes (Alpaydin and Kaynak 1998)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.tasks.split import shuffled_split
from thalweg.tasks.task import Data, Task


def pictures(*shape: int) -> Callable[[], Data]:
    """Makes the data with each picture in the given shape, its pixels between 0 and 1."""

    def data() -> Data:
        from sklearn.datasets import load_digits

        pixels, classes = load_digits(return_X_y=True)
        inputs = torch.tensor(pixels, dtype=torch.float32).reshape(-1, *shape) / 16
        return Data(*shuffled_split(inputs, torch.tensor(classes)))

    return data


def multilayer_perceptron() -> nn.Module:
    """64 pixels, two hidden layers of 64 and 32 units, 10 class scores."""
    return nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
    )


def convolutional_network() -> nn.Module:
    """Two convolutions with batch normalization, each halved by pooling, then 10 class scores."""
    return nn.Sequential(
        # no bias: batch normalization subtracts it again
        nn.Conv2d(1, 8, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def accuracy(scores: Float[Tensor, "N 10"], classes: Int[Tensor, " N"]) -> Float[Tensor, ""]:
    """The share of pictures whose highest score is the right class."""
    return (scores.argmax(-1) == classes).float().mean()


digits = Task(
    name="digits",
    model=multilayer_perceptron,
    data=pictures(64),
    loss=F.cross_entropy,
    metric_name="log-loss",
    also={"accuracy": accuracy},
    batch_size=64,
    epochs=12,
    target=0.15,
    shows="A multilayer perceptron on small pictures: the everyday case, made small.",
)

digits_conv = Task(
    name="digits-conv",
    model=convolutional_network,
    data=pictures(1, 8, 8),
    loss=F.cross_entropy,
    metric_name="log-loss",
    also={"accuracy": accuracy},
    batch_size=64,
    epochs=6,
    target=0.12,
    shows="Convolutions with batch normalization: how much it widens the range of good rates.",
)
