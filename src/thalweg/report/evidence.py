"""The pictures of a finding: its measurements, and its trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from plotly import graph_objects as go

from thalweg.doctor.criteria import criterion
from thalweg.doctor.trials.trial import Trial
from thalweg.report.figure import TITLE_WIDTH, Picture, as_text, jsonable, lay_out, on_lines, style
from thalweg.report.strokes import Stroke, strokes

POINTS = 40
"""A line with fewer points than this, or with gaps, shows a mark at each point."""

LINE, AXIS = 13, 80
"""The heights of one seed and of the axis below, in pixels."""

GAP = 2
"""The empty lines between two trials."""

Line = tuple[Sequence[float], Sequence[float]]


def measured(name: str, picture: criterion.Picture | None) -> Picture | None:
    """A finding's own picture; None if it has nothing that can be drawn."""
    if picture is None:
        return None
    return lines(
        name,
        picture.title,
        across=picture.across,
        up=picture.up,
        shown=picture.lines,
        log=picture.log,
    )


def lines(
    name: str,
    title: str,
    across: str,
    up: str,
    shown: Mapping[str, Line],
    *,
    log: bool = False,
    summary: str = "",
) -> Picture | None:
    """Lines over one axis, with gaps where a value is missing; None if all values are missing.

    log: whether the axis may be logarithmic; values of 0 and below are then gaps too. summary: the
    picture in words; if not given, the range of each line.
    """
    held = {
        line: (across, [y if drawable(y, log) else None for y in values])
        for line, (across, values) in shown.items()
    }
    held = {line: both for line, both in held.items() if any(y is not None for y in both[1])}
    if not held:
        return None
    figure = go.Figure()
    drawn = apart(strokes(list(held)))
    for line, (x, y) in held.items():
        mode = "lines+markers" if len(x) < POINTS or None in y[1:] else "lines"
        figure.add_scatter(
            x=list(x),
            y=y,
            name=as_text(line),
            **style(drawn[line], mode),
            marker_size=6,
            hovertemplate=f"%{{y:.4g}} at {as_text(across)} %{{x}}",
        )
    every = [value for _, values in held.values() for value in values if value is not None]
    lay_out(figure, on_lines(across, TITLE_WIDTH), on_lines(up, TITLE_WIDTH), every)
    return Picture(
        name, title, summary=summary or f"{reach(held)}.", figure=jsonable(figure), strokes=drawn
    )


def apart(drawn: dict[str, Stroke]) -> dict[str, Stroke]:
    """Strokes with which two lines stay visible where one lies on the other."""
    if len(drawn) != 2:
        return drawn
    first, second = drawn
    return {first: drawn[first], second: replace(drawn[second], dash="dash")}


def drawable(value: float | None, log: bool) -> bool:
    return value is not None and math.isfinite(value) and (value > 0 or not log)


def reach(held: Mapping[str, tuple[Sequence[float], list[float | None]]]) -> str:
    """The range of each line, in words."""
    found = {line: [y for y in values if y is not None] for line, (_, values) in held.items()}
    return "; ".join(f"{line}: {min(ys):.3g} to {max(ys):.3g}" for line, ys in found.items())


@dataclass(frozen=True)
class Pair:
    """One seed of a trial: its scores without and with the remedy, and the height of its line."""

    scores: tuple[float, float]
    at: int


def tried(name: str, trials: Sequence[Trial], metric: str) -> Picture | None:
    """The scores of all seeds of all trials, without and with the remedy; None if all diverged."""
    groups = placed(trials)
    pairs = [pair for group in groups for pair in group]
    scores = [score for pair in pairs for score in pair.scores if math.isfinite(score)]
    if not scores:
        return None
    figure = go.Figure()
    figure.add_scatter(
        x=[x for pair in pairs for x in (*pair.scores, None)],
        y=[y for pair in pairs for y in (pair.at, pair.at, None)],
        mode="lines",
        line={"color": "rgba(128,128,128,0.5)", "width": 1},
        hoverinfo="skip",
    )
    drawn = strokes(["as it was", "with the remedy"])
    for side, (kind, stroke) in enumerate(drawn.items()):
        figure.add_scatter(
            x=[pair.scores[side] for pair in pairs],
            y=[pair.at for pair in pairs],
            name=kind,
            **style(stroke, "markers"),
            marker_size=8,
            hovertemplate="%{x:.4g}",
        )
    lay_out(figure, on_lines(metric, TITLE_WIDTH), "", scores, of_x=True)
    figure.update_layout(height=AXIS + LINE * (len(pairs) + GAP * len(groups)))
    figure.update_yaxes(
        tickvals=[(group[0].at + group[-1].at) / 2 for group in groups],
        ticktext=[on_lines(trial.words) for trial in trials],
        showgrid=False,
    )
    return Picture(
        name,
        "What was tried",
        summary="Every seed has a line of its own, with the final score as it was and with the"
        " remedy. A run that diverged has no mark.",
        figure=jsonable(figure),
        strokes=drawn,
    )


def placed(trials: Sequence[Trial]) -> list[list[Pair]]:
    """The seeds of each trial from top to bottom, with a gap between trials."""
    groups, at = [], 0
    for trial in trials:
        both = zip(trial.without, trial.with_it, strict=True)
        groups.append([Pair(scores, at - i) for i, scores in enumerate(both)])
        at -= len(trial.without) + GAP
    return groups
