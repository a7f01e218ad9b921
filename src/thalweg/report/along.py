"""The pictures of a training's history."""

from __future__ import annotations

import math

from thalweg.doctor.watch.history import History
from thalweg.report.evidence import Line, lines
from thalweg.report.figure import Picture

MOST = 12
"""The most parameters in one picture. Of more, this number is taken evenly through the network."""


def along(history: History) -> list[Picture]:
    """All pictures for which there are data."""
    found = (loss(history), norm(history), change(history), best(history), cosines(history))
    return [picture for picture in (*found, rates(history)) if picture]


def loss(history: History) -> Picture | None:
    return lines(
        "loss",
        "Loss",
        across="step",
        up="loss",
        shown={"loss": over(history, "loss")},
        summary="The loss of the batch of each measured step, before the step.",
    )


def norm(history: History) -> Picture | None:
    steps, norms = history.norm_series()
    return lines(
        "norm",
        "Norm of the gradient",
        across="step",
        up="norm",
        shown={"norm": (steps, norms.tolist())},
        log=True,
        summary="The norm of the gradient at the steps where it was measured, before any clipping.",
    )


def change(history: History) -> Picture | None:
    return lines(
        "change",
        "What a step promised, and what it did",
        across="step",
        up="change of the loss",
        shown={
            "as the slope promised": over(history, "slope"),
            "what the step did": over(history, "change"),
        },
        summary="The change of the loss of a step's own batch, as the slope at the start of the"
        " step promised it, and as it was. The difference is the effect of the curvature. Above 0"
        " the step did harm.",
    )


def best(history: History) -> Picture | None:
    steps, shares = over(history, "best")
    endless = sum(math.isinf(share) for share in shares)
    uphill = sum(share == 0 for share in shares)
    summary = (
        "The best length of a step over its actual length, by the parabola through the loss along"
        " it. Below 1 the step went too far for its own batch, above 1 it could have been longer."
    )
    if endless:
        summary += f" {endless} of {len(shares)} steps have no best length: the loss bends down."
    if uphill:
        summary += f" {uphill} of {len(shares)} steps lead uphill from their start."
    both = {
        "best over taken": (steps, shares),
        "1: the actual length": (steps, [1.0] * len(steps)),
    }
    if not any(0 < share < math.inf for share in shares):
        return None
    return lines(
        "best",
        "Best step over the step taken",
        across="step",
        up="ratio",
        shown=both,
        log=True,
        summary=summary,
    )


def cosines(history: History) -> Picture | None:
    picture = lines(
        "cosines",
        "Directions",
        across="step",
        up="cosine",
        shown={
            "gradient with the one before": over(history, "gradient_cosine"),
            "downhill with the step before": over(history, "velocity_cosine"),
        },
        summary="Cosines at the measured steps. Below 0 the gradient points against the gradient"
        " before, or downhill is against the last step.",
    )
    if picture:
        picture.figure["layout"]["yaxis"]["range"] = [-1.05, 1.05]
    return picture


def rates(history: History) -> Picture | None:
    names = list(next(iter(history.steps.values())).rates) if history.steps else []
    apart = max(1, math.ceil(len(names) / MOST))
    some = names[::apart]
    shown = {
        name: (
            list(history.steps),
            [step.rates[name] or math.nan for step in history.steps.values()],
        )
        for name in some
    }
    summary = "The effective rate by parameter: the length of a step over the gradient's norm."
    if len(some) < len(names):
        summary += f" The picture has {len(some)} of {len(names)} parameters, evenly chosen."
    return lines(
        "rates", "Effective rates", across="step", up="rate", shown=shown, log=True, summary=summary
    )


def over(history: History, name: str) -> Line:
    """One attribute of the measured steps."""
    steps, values = history.series(name)
    return steps, values.tolist()
