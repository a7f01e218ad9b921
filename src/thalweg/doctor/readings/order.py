"""The order of the data: batches of samples that are not shuffled differ more than by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import UserError
from thalweg.stack.reading import Batch


@dataclass(frozen=True)
class Order:
    """How the targets differ from batch to batch.

    p: the chance that batches of shuffled samples differ as much or more. share: of the variance of
    the targets, the part that lies between batches; by chance it is about 1 / (samples a batch).
    batches: the number of batches that were looked at.
    """

    p: float
    share: float
    batches: int


def order(batches: Sequence[Batch]) -> Order:
    """Whether the targets of a batch are alike, by a one-way analysis of variance.

    Real targets `[N, ...]` are compared by their mean over a sample. Whole numbers `[N]` are
    classes, and compared by the chi-square test of the table of batches and classes. Cost: no
    gradient. Raises UserError for fewer than three batches, for batches of one sample, and for
    targets that are neither.
    """
    targets = [batch[-1] for batch in batches]
    usable = (isinstance(y, Tensor) and y.ndim > 0 and len(y) > 1 for y in targets)
    if len(targets) < 3 or not all(usable):
        raise UserError("The order is judged from three batches of two samples or more.")
    if targets[0].is_floating_point():
        return of_numbers([y.detach().double().reshape(len(y), -1).mean(1) for y in targets])
    if targets[0].ndim > 1:
        raise UserError("The order is judged from targets that are real numbers or classes [N].")
    return of_classes(targets)


def of_numbers(targets: Sequence[Tensor]) -> Order:
    from scipy import stats  # takes a while to import, and few need it

    each = [y.numpy(force=True) for y in targets]
    together = np.concatenate(each)
    between = sum(len(y) * (y.mean() - together.mean()) ** 2 for y in each)
    within = sum(((y - y.mean()) ** 2).sum() for y in each)
    if between + within == 0:
        raise UserError("All targets are the same, so they have no order.")
    share = between / (between + within)
    # The F-test: of samples in no order, the share has this distribution.
    k, n = len(each), len(together)
    p = stats.beta.sf(share, (k - 1) / 2, (n - k) / 2)
    return Order(float(p), float(share), k)


def of_classes(targets: Sequence[Tensor]) -> Order:
    """Cramer's V squared is the share."""
    from scipy import stats  # takes a while to import, and few need it

    _, places = torch.unique(torch.cat(list(targets)), return_inverse=True)
    classes = int(places.max()) + 1
    if classes < 2:
        raise UserError("All targets are the same, so they have no order.")
    sizes = [len(y) for y in targets]
    table = np.stack(
        [np.bincount(own.numpy(force=True), minlength=classes) for own in places.split(sizes)]
    )
    tested = stats.chi2_contingency(table)
    smaller = min(table.shape) - 1
    return Order(float(tested.pvalue), float(tested.statistic / table.sum() / smaller), len(table))
