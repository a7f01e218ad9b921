"""The scale of a model's inputs. Features of unequal size make the loss a narrow valley."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_leaves

from thalweg.errors import UserError
from thalweg.tasks.forms import Batch

SMALLEST, LARGEST = 5, 95
"""The percentiles of the features' sizes that serve as the smallest and the largest size."""


@dataclass(frozen=True)
class Inputs:
    """The sizes of the input's features, over samples and positions.

    The size of a feature is its root mean square. features: the number of features that vary. size:
    the median size. unequal: the largest size over the smallest (95th and 5th percentile). offset:
    the largest |mean| / standard deviation. samples: the number of values of each feature.

    With a linear first layer, the curvature along the weights of a feature is proportional to the
    square of its size. So the condition number is at least the square of `unequal`, and means far
    from 0 give one direction a very high curvature (LeCun et al. 1998, 5.1).
    """

    features: int
    size: float
    unequal: float
    offset: float
    samples: int


def inputs(batches: Sequence[Batch]) -> Inputs:
    """The scale of those inputs that are real numbers; the last tensor of a batch is the target.

    A feature is an index of the last dimension in `[N, F]` and `[N, T, F]`, and a channel,
    dimension 1, in `[N, C, H, W]`. Needs no gradient. Raises UserError where no input consists of
    real numbers, as in text, and where no feature varies.
    """
    each = [[x for x in tree_leaves(batch[:-1]) if is_real(x)] for batch in batches]
    if not each or not each[0]:
        raise UserError("The inputs are not real numbers [N, ...], so they have no scale.")
    columns = [torch.cat([features(x) for x in column]) for column in zip(*each, strict=True)]
    deviation = torch.cat([column.std(0, correction=0) for column in columns])
    mean = torch.cat([column.mean(0) for column in columns])
    varying = deviation > 1e-6 * mean.abs()
    if not varying.any():
        raise UserError("No input varies from sample to sample.")
    mean, deviation = mean[varying], deviation[varying]
    size = (mean.square() + deviation.square()).sqrt()
    low, middle, high = torch.quantile(size, torch.tensor([SMALLEST, 50, LARGEST]).to(size) / 100)
    return Inputs(
        features=len(size),
        size=float(middle),
        unequal=float(high / low) if low > 0 else math.inf,
        offset=float((mean.abs() / deviation).max()),
        samples=len(columns[0]),
    )


def is_real(x: object) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and x.ndim > 1


def features(x: Float[Tensor, "N ..."]) -> Float[Tensor, "values F"]:
    """All values of each feature, in double precision."""
    return x.detach().double().movedim(-1 if x.ndim <= 3 else 1, -1).flatten(0, -2)
