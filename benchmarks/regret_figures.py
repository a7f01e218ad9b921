"""The figures of the benchmark of regret, from what races and rivals found, and their words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from scipy.stats import bootstrap

from picture import blank
from thalweg.statistics import wilson

SURE = 0.8
"""A chance from which on a verdict is sure."""

NEAR, AHEAD = 0.25, 0.5
"""In standard deviations of a run: a family so near to the oracle's is as good as it is, and one
that is so far ahead of another is better.
"""

Floats = NDArray[np.float64]
Finds = Sequence[Mapping[str, Any]]
"""What each race found: the family that it named, its shortlist, what it claimed, its seconds."""


def figures(
    found: Finds, best: Mapping[str, Floats], searches: Mapping[str, Floats]
) -> dict[str, Any]:
    """The figures of a task.

    best: the losses of the best recipe of each family over seeds, the best family first. searches:
    `[searches, seeds]`, those of the recipes that races handed back, and each rival.
    """
    losses = {family: float(np.median(own)) for family, own in best.items()}
    deviation = median(float(own[np.isfinite(own)].std(ddof=1)) for own in best.values())
    oracle, *others = losses.values()
    return {
        "loss of each family": losses,
        "deviation of a run": deviation,
        "lead of the best family": (min(others) - oracle) / deviation,
        "regret": {
            who: regret((np.median(own, axis=1) - oracle) / deviation)
            for who, own in searches.items()
        },
        "races": of_races(found, losses, deviation),
        "claimed and held": list(claimed(found)),
    }


def regret(values: Floats) -> dict[str, Any]:
    """In standard deviations of a run: the median and the 90 % quantile."""
    ninety = interval(values, partial(np.quantile, q=0.9))
    return {"median": interval(values, np.median), "90 %": ninety, "each": values.tolist()}


def of_races(
    found: Finds, losses: Mapping[str, float], deviation: float
) -> dict[str, dict[str, float]]:
    """How often races name the right family, and how well they agree.

    losses: of the best recipe of each family, the best family first. deviation: of a run.
    """
    winner, *_ = losses
    behind = [(losses[one["named"]] - losses[winner]) / deviation for one in found]
    left = [winner not in one["shortlist"] for one in found]
    lost = [out and x >= AHEAD for out, x in zip(left, behind, strict=True)]

    def agreeing(chosen: Iterable[int]) -> float:
        pairs = [(a, b) for a, b in combinations(chosen, 2) if a != b]
        shortlists = [set(one["shortlist"]) for one in found]
        return float(np.mean([bool(shortlists[a] & shortlists[b]) for a, b in pairs] or [True]))

    claims = list(claimed(found))
    sure = [(chance, held) for chance, held in claims if chance >= SURE]
    return {
        "claims of 80 % and more that hold in another race": weighed(sure),
        "the family named is the oracle's or near it": share([x <= NEAR for x in behind]),
        "the best family, ahead of the one named, is called worse": share(lost),
        "two races have a family in common": interval(np.arange(len(found)), agreeing),
        "seconds": interval([one["seconds"] for one in found], np.median),
        "tuning seconds": interval([one["tuning seconds"] for one in found], np.median),
    }


def claimed(found: Finds) -> Iterator[tuple[float, float]]:
    """Each chance that a race claims for a family to be named, and how often others named it."""
    for place, one in enumerate(found):
        others = [other["named"] for i, other in enumerate(found) if i != place]
        for family, chance in one["claimed"].items():
            if chance is not None:
                yield chance, others.count(family) / len(others)


def reliability(claims: Sequence[tuple[float, float]]) -> list[dict[str, float]]:
    """What was claimed and how often it held, each a mean over the claims of one fifth."""
    fifths = [[one for one in claims if min(int(5 * one[0]), 4) == fifth] for fifth in range(5)]
    return [
        {"claims": len(some), "claimed": float(np.mean([one for one, _ in some])), **weighed(some)}
        for some in fifths
        if some
    ]


def drawn(points: Sequence[Mapping[str, float]]) -> go.Figure:
    """The reliability diagram."""
    figure = blank(480, 480)
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dash", "color": "gray"})
    held = [one["estimate"] for one in points]
    figure.add_scatter(
        x=[one["claimed"] for one in points],
        y=held,
        error_y={
            "array": [one["high"] - x for one, x in zip(points, held, strict=True)],
            "arrayminus": [x - one["low"] for one, x in zip(points, held, strict=True)],
        },
        text=[f"{one['claims']:g}" for one in points],
        mode="markers+lines+text",
        textposition="bottom right",
    )
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title="claimed chance that another race names the optimizer", range=[0, 1])
    figure.update_yaxes(title="share of other races that did", range=[0, 1])
    return figure


def weighed(claims: Sequence[tuple[float, float]]) -> dict[str, float]:
    """How often claims held; the interval is that of so many races, which pairs share."""
    if not claims:
        return {"estimate": np.nan, "low": 0.0, "high": 1.0}
    held = sum(held for _, held in claims)
    return {**asdict(wilson(round(held), len(claims))), "estimate": held / len(claims)}


def share(held: Sequence[bool]) -> dict[str, float]:
    """How often something held, with Wilson's 95 % interval."""
    return asdict(wilson(sum(held), len(held)))


def interval(values: Any, statistic: Callable[..., float]) -> dict[str, float]:
    """A statistic with its 95 % interval, by the percentiles of resamples."""
    found = bootstrap((values,), statistic, vectorized=False, method="percentile", rng=0)
    low, high = found.confidence_interval
    return {"estimate": float(statistic(values)), "low": float(low), "high": float(high)}


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    losses = [f"{family} {loss:.4g}" for family, loss in found["loss of each family"].items()]
    yield f"best: {listed(losses)}; a run's deviation {found['deviation of a run']:.2g}"
    for who, one in found["regret"].items():
        high = f"90 %: {in_words(one['90 %'])}, trainings {found['trainings'][who]:g}"
        yield f"{who}: regret {in_words(one['median'])}, {high}"
    for what, one in found["races"].items():
        yield f"{what}: {in_words(one)}"


def in_words(found: Mapping[str, float]) -> str:
    return f"{found['estimate']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def listed(names: Iterable[str]) -> str:
    return ", ".join(names)
