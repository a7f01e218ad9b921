"""Landscapes of two parameters. The height is the loss, and pictures can show every step.

Each has its lowest height, 0, at a known point. There are no data: the only sample is a
placeholder, and the training, validation and test losses are all the height at the point.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thalweg.tasks.data import Data
from thalweg.tasks.task import Task

Height = Callable[[Tensor], Tensor]


def ravine(point: Float[Tensor, "*points 2"]) -> Float[Tensor, "*points"]:
    """(x^2 + 100 y^2) / 2: minimum at the origin, condition number 100, axes along x and y."""
    x, y = point.unbind(-1)
    return (x**2 + 100 * y**2) / 2


def rotated_ravine(point: Float[Tensor, "*points 2"]) -> Float[Tensor, "*points"]:
    """The ravine, turned by 45 degrees, which changes nothing for plain descent."""
    x, y = point.unbind(-1)
    return ravine(torch.stack([x + y, y - x], dim=-1) / math.sqrt(2))


def rosenbrock(point: Float[Tensor, "*points 2"]) -> Float[Tensor, "*points"]:
    """(1 - x)^2 + 100 (y - x^2)^2: a bent valley with its minimum at (1, 1) (Rosenbrock 1960)."""
    x, y = point.unbind(-1)
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def saddle(point: Float[Tensor, "*points 2"]) -> Float[Tensor, "*points"]:
    """x^2 / 2 - y^2 / 2 + y^4 / 4 + 1/4: a saddle at the origin, minima at (0, -1) and (0, 1)."""
    x, y = point.unbind(-1)
    return x**2 / 2 - y**2 / 2 + y**4 / 4 + 1 / 4


def cliff(point: Float[Tensor, "*points 2"]) -> Float[Tensor, "*points"]:
    """(exp(10 x) - 1) / 100 - x / 10 + y^2 / 20: a flat slope that ends at a wall.

    Far to the left the slope in x is -1/10. To the right of the minimum at the origin it grows as
    exp(10 x) / 10, so a step onto the wall throws the point far back. The gradient is huge there,
    but the height is not.
    """
    x, y = point.unbind(-1)
    return torch.expm1(10 * x) / 100 - x / 10 + y**2 / 20


class Landscape(nn.Module):
    """A point `[2]` that is trained. The output is its height, once for each placeholder sample."""

    def __init__(self, height: Height, start: tuple[float, float], jitter: float) -> None:
        super().__init__()
        self.height = height
        self.point = nn.Parameter(torch.tensor(start) + jitter * torch.randn(2))

    def forward(self, inputs: Float[Tensor, "N 1"]) -> Float[Tensor, " N"]:
        return self.height(self.point).expand(len(inputs))


def placeholder() -> Data:
    sample = (torch.zeros(1, 1), torch.zeros(1))
    return Data(sample, sample, sample)


def mean_height(heights: Float[Tensor, " N"], _targets: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    return heights.mean()


def landscape_task(
    name: str,
    height: Height,
    *,
    start: tuple[float, float],
    jitter: float,
    steps: int,
    target: float,
    shows: str,
) -> Task:
    """The task of descending `height`. jitter: how far the seed moves the start at most."""
    return Task(
        name=name,
        model=partial(Landscape, height, start, jitter),
        data=placeholder,
        loss=mean_height,
        metric_name="height",
        batch_size=1,
        steps=steps,
        target=target,
        shows=shows,
    )


landscapes = (
    landscape_task(
        "ravine",
        ravine,
        start=(10.0, 1.0),
        jitter=0.1,
        steps=100,
        target=1e-2,
        shows="A narrow valley along the axes: a rate for each parameter makes it round.",
    ),
    landscape_task(
        "ravine-rotated",
        rotated_ravine,
        start=(6.364, 7.778),
        jitter=0.1,
        steps=100,
        target=1e-2,
        shows="The same valley across the axes: rates by parameter lose their advantage.",
    ),
    landscape_task(
        "rosenbrock",
        rosenbrock,
        start=(-1.2, 1.0),
        jitter=0.1,
        steps=200,
        target=1e-2,
        shows="A bent valley: the direction that was fast becomes the wrong one.",
    ),
    landscape_task(
        "saddle",
        saddle,
        start=(1.0, 0.0),
        jitter=0.01,
        steps=40,
        target=1e-2,
        shows="A saddle between two minima: how long an optimizer stays where gradients are small.",
    ),
    landscape_task(
        "cliff",
        cliff,
        start=(-5.0, 1.0),
        jitter=0.1,
        steps=100,
        target=1e-3,
        shows="A flat slope that ends at a wall: the wall throws a high rate far back.",
    ),
)
