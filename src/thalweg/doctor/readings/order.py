"""The order of the data. Batches of samples that are not shuffled differ by more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import UserError
from thalweg.tasks.forms import Batch


@dataclass(frozen=True)
class Order:
    """How the targets differ between batches.

    p: the probability that batches of shuffled samples differ as much or more. share: the part of
    the variance of the targets that lies between batches; for shuffled samples it is about
    1 / (samples in a batch). batches: the number of measured batches.
    """

    p: float
    share: float
    batches: int


def order(batches: Sequence[Batch]) -> Order:
    """Tests whether the targets differ between batches more than shuffled samples would.

    Real targets `[N, ...]` are averaged over each sample, and tested by a one-way analysis of
    variance. Whole numbers `[N]` are classes, and tested by the chi-square test of the table of
    batches and classes. Needs no gradient. Raises UserError for fewer than three batches, for
    batches of one sample, and for other targets.
    """
    targets = [batch[-1] for batch in batches]
    usable = (isinstance(y, Tensor) and y.ndim > 0 and len(y) > 1 for y in targets)
    if len(targets) < 3 or not all(usable):
        raise UserError(
            "The order can be judged from three or more batches of two samples or more."
        )
    if targets[0].is_floating_point():
        return of_numbers([y.detach().double().reshape(len(y), -1).mean(1) for y in targets])
    if targets[0].ndim > 1:
        raise UserError(
            "The order can be judged from targets that are real numbers or classes [N]."
        )
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
    # The F-test: for shuffled samples, the share has this distribution.
    k, n = len(each), len(together)
    p = stats.beta.sf(share, (k - 1) / 2, (n - k) / 2)
    return Order(float(p), float(share), k)


def of_classes(targets: Sequence[Tensor]) -> Order:
    """The order of targets that are classes; the share is the square of Cramer's V."""
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
