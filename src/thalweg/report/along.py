"""The pictures of a training on its way."""

from __future__ import annotations

import math

from thalweg.doctor.watch.history import History
from thalweg.report.evidence import Line, lines
from thalweg.report.figure import Picture

MOST = 12
"""Parameters in one picture; of more, so many evenly through the network."""


def along(history: History) -> list[Picture]:
    """All pictures that there is something for."""
    found = (loss(history), norm(history), change(history), best(history), cosines(history))
    return [picture for picture in (*found, rates(history)) if picture]


def loss(history: History) -> Picture | None:
    return lines(
        "loss",
        "Loss",
        "step",
        "loss",
        {"loss": over(history, "loss")},
        summary="The loss of the batch of each step that was looked at, before the step.",
    )


def norm(history: History) -> Picture | None:
    steps, norms = history.norm_series()
    return lines(
        "norm",
        "Norm of the gradient",
        "step",
        "norm",
        {"norm": (steps, norms.tolist())},
        log=True,
        summary="The norm of the gradient where it was noted, before any clipping.",
    )


def change(history: History) -> Picture | None:
    return lines(
        "change",
        "What a step promised, and what it did",
        "step",
        "change of the loss",
        {
            "as the slope promised": over(history, "slope"),
            "what the step did": over(history, "change"),
        },
        summary="The change of the loss of a step's own batch: as the slope at its start promises"
        " it for the whole step, and as it was. Between them lies what curvature takes away; above"
        " 0 the step did harm.",
    )


def best(history: History) -> Picture | None:
    steps, shares = over(history, "best")
    endless = sum(math.isinf(share) for share in shares)
    uphill = sum(share == 0 for share in shares)
    summary = (
        "The best length of a step over that taken, by the parabola through the loss along it:"
        " below 1 the step went too far for its own batch, above 1 it could have been longer."
    )
    if endless:
        summary += f" {endless} of {len(shares)} steps have no best: the loss bends down."
    if uphill:
        summary += f" {uphill} of {len(shares)} lead uphill from their start."
    both = {
        "best over taken": (steps, shares),
        "1: as taken": (steps, [1.0] * len(steps)),
    }
    if not any(0 < share < math.inf for share in shares):
        return None
    return lines(
        "best", "Best step over the step taken", "step", "ratio", both, log=True, summary=summary
    )


def cosines(history: History) -> Picture | None:
    picture = lines(
        "cosines",
        "Directions",
        "step",
        "cosine",
        {
            "gradient with the one before": over(history, "gradient_cosine"),
            "downhill with the step before": over(history, "velocity_cosine"),
        },
        summary="Cosines between steps that were looked at. Below 0 the gradient has turned round,"
        " or the way downhill leads against the last step.",
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
    summary = "The length of a step over the norm of the gradient, by parameter: the rate it had."
    if len(some) < len(names):
        summary += f" {len(some)} of {len(names)} parameters, evenly through the network."
    return lines("rates", "Effective rates", "step", "rate", shown, log=True, summary=summary)


def over(history: History, name: str) -> Line:
    """One number of the steps that were looked at."""
    steps, values = history.series(name)
    return steps, values.tolist()
