"""Handwritten digits: 1797 pictures of 8 by 8 pixels, ten classes (Alpaydin and Kaynak 1998)."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.errors import UserError
from thalweg.tasks.data import Data
from thalweg.tasks.split import shuffled_split
from thalweg.tasks.task import Task


def pictures(*shape: int, classes: int = 10) -> Data:
    """The pictures of the first `classes` digits, each in the given shape, pixels from 0 to 1."""
    from sklearn.datasets import load_digits

    pixels, digits = map(torch.tensor, load_digits(return_X_y=True))
    chosen = digits < classes
    inputs = pixels[chosen].float().reshape(-1, *shape) / 16
    return Data(*shuffled_split(inputs, digits[chosen]))


def multilayer_perceptron(classes: int) -> nn.Module:
    """64 pixels, two hidden layers of 64 and 32 units, a score for each class."""
    return nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes)
    )


def convolutional_network() -> nn.Module:
    """Two convolutions with batch normalization and pooling, then 10 class scores."""
    return nn.Sequential(
        # There is no bias, because batch normalization would subtract it again.
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


def sigmoid_layers() -> list[nn.Module]:
    """Three hidden layers of 32 sigmoid units: gradients shrink on their way to the first."""
    widths = (64, 32, 32, 32)
    return [nn.Sequential(nn.Linear(*each), nn.Sigmoid()) for each in pairwise(widths)]


def scores_of_classes(_depth: int) -> nn.Module:
    return nn.Linear(32, 10)


def deep_perceptron() -> nn.Module:
    layers = sigmoid_layers()
    return nn.Sequential(*layers, scores_of_classes(len(layers)))


def accuracy(scores: Float[Tensor, "N classes"], classes: Int[Tensor, " N"]) -> Float[Tensor, ""]:
    """The share of pictures whose highest score is the right class."""
    return (scores.argmax(-1) == classes).float().mean()


def first_digits(classes: int = 10) -> Task:
    """The pictures of the first `classes` digits, 2 to 10. More classes are harder."""
    if classes not in range(2, 11):
        raise UserError(f"The digits task can have from 2 to 10 classes, not {classes!r}.")
    return Task(
        name="digits",
        model=partial(multilayer_perceptron, classes),
        data=partial(pictures, 64, classes=classes),
        loss=F.cross_entropy,
        metric_name="log-loss",
        also={"accuracy": accuracy},
        batch_size=64,
        epochs=12,
        target=0.15,
        difficulty=first_digits,
        curriculum=tuple(fewer for fewer in (2, 5) if fewer < classes),
        shows="A multilayer perceptron on small pictures: a small example of the usual case.",
    )


digits = first_digits()

digits_conv = Task(
    name="digits-conv",
    model=convolutional_network,
    data=partial(pictures, 1, 8, 8),
    loss=F.cross_entropy,
    metric_name="log-loss",
    also={"accuracy": accuracy},
    batch_size=64,
    epochs=6,
    target=0.12,
    shows="Convolutions with batch normalization: it widens the range of good rates.",
)

digits_deep = Task(
    name="digits-deep",
    model=deep_perceptron,
    data=partial(pictures, 64),
    loss=F.cross_entropy,
    metric_name="log-loss",
    also={"accuracy": accuracy},
    batch_size=64,
    epochs=24,
    target=0.3,
    blocks=sigmoid_layers,
    head=scores_of_classes,
    shows="Sigmoid layers, which shrink gradients: batch normalization or growth by blocks helps.",
)
