"""Which settings are tried: quasi-random points, the same for all who share a hyperparameter.

Each hyperparameter's name has one dimension of the points, whatever entrants race, so that two
entrants with an `lr` try the same quantiles of their two search spaces.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import optuna

from thalweg.racing.record import Edge
from thalweg.rules.space import Space

NAMES = (
    "lr",
    "cooling",
    "momentum",
    "betas[0]",
    "betas[1]",
    "weight_decay",
    "alpha",
    "rho",
    "eps",
    "increase",
    "decrease",
    "smoothing",
)
"""The names in the order of their dimensions; the first dimensions are the most even ones."""

EDGE = 0.05
"""The share of a search space, in quantiles, that counts as its edge, at either end."""


def quantiles(count: int, seed: int, names: Iterable[str] = ()) -> list[dict[str, float]]:
    """`count` points of a scrambled Sobol sequence: a number in [0, 1) by hyperparameter name.

    names: those beyond `NAMES` that need a dimension too; they come last, in alphabetical order.
    """
    further = sorted(set(names) - set(NAMES))
    unit: optuna.distributions.BaseDistribution = optuna.distributions.FloatDistribution(0, 1)
    space = dict.fromkeys((*NAMES, *further), unit)
    with quiet_optuna():
        sampler = optuna.samplers.QMCSampler(qmc_type="sobol", scramble=True, seed=seed)
        study = optuna.create_study(sampler=sampler)
        # The sampler learns its space from the first trial, so one is told before it is asked.
        first = optuna.trial.create_trial(
            params=dict.fromkeys(space, 0), distributions=space, value=0
        )
        study.add_trial(first)
        return [study.ask(space).params for _ in range(count)]


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna without its line a study, and without its remark that the sampler is young."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def value_at(space: Space, quantile: float) -> float:
    """The value below which a share `quantile` in [0, 1] of the space lies, on its own scale."""
    if space.scale == "log":
        return space.low * math.pow(space.high / space.low, quantile)
    if space.scale == "log_one_minus":
        return 1 - (1 - space.low) * math.pow((1 - space.high) / (1 - space.low), quantile)
    return space.low + (space.high - space.low) * quantile


def quantile_of(space: Space, value: float) -> float:
    """The share of the space below `value`: the inverse of `value_at`."""
    if space.scale == "log":
        return math.log(value / space.low) / math.log(space.high / space.low)
    if space.scale == "log_one_minus":
        return math.log((1 - value) / (1 - space.low)) / math.log(
            (1 - space.high) / (1 - space.low)
        )
    return (value - space.low) / (space.high - space.low)


def edges(entrant: str, spaces: Mapping[str, Space], values: Mapping[str, float]) -> list[Edge]:
    """The values that lie in the outermost twentieth of their search space, at either end."""
    return [
        Edge(entrant, name, values[name], space.low, space.high)
        for name, space in spaces.items()
        if not EDGE < quantile_of(space, values[name]) < 1 - EDGE
    ]
