"""The pictures of a race's report.

The `meta` of every trace is the place of its entrant in the settings. The legend of the page
switches all traces of an entrant at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from plotly import graph_objects as go

from thalweg.racing import wording
from thalweg.racing.measures import Measures, as_loss, steps_to_target
from thalweg.racing.record import RunRecord
from thalweg.racing.verdict import Verdict
from thalweg.report.figure import Picture, around, as_text, jsonable, lay_out, on_lines, style
from thalweg.report.strokes import strokes
from thalweg.statistics import Interval

SETTLED = 0.1
"""The axis of learning curves shows the values that they have after this share of their budget."""


def pictures(measures: Measures, verdict: Verdict) -> list[Picture]:
    """All pictures for which a record has data, in the order of the page."""
    drawn = Drawing(measures, verdict)
    found: list[Picture] = []
    if measures.raced:
        found += [drawn.ends(), drawn.curves()]
        if measures.settings.target is not None:
            found.append(drawn.target())
    if any(math.isfinite(run.score) for run in measures.record.runs if run.round == "tuning"):
        found.append(drawn.tunability())
    return found


class Drawing:
    """Draws from the measures of one record."""

    def __init__(self, measures: Measures, verdict: Verdict) -> None:
        self.measures, self.verdict, self.settings = measures, verdict, measures.settings
        self.strokes = strokes(self.settings.entrants)
        self.metric = as_text(self.settings.metric)

    def ends(self) -> Picture:
        """The final metric of each entrant as median and interval, the best on top."""
        figure = go.Figure()
        ended = {one.entrant: one.validation for one in self.verdict.summaries if one.validation}
        lost = [name for name, found in ended.items() if not math.isfinite(found.estimate)]
        shown = {name: found for name, found in ended.items() if name not in lost}
        for name, found in reversed(shown.items()):
            low, high = bounded(found)
            figure.add_scatter(
                x=[found.estimate],
                y=[on_lines(name)],
                error_x={
                    "array": [high - found.estimate],
                    "arrayminus": [found.estimate - low],
                    "thickness": 2,
                    "width": 5,
                },
                marker_size=11,
                **self.trace(name, "markers"),
                hovertemplate="%{x:.4g}",
            )
        spread = [value for found in shown.values() for value in bounded(found)]
        lay_out(figure, f"validation {self.metric}", "", spread, of_x=True)
        lines = sum(1 + on_lines(name).count("<br>") for name in shown)
        figure.update_layout(height=110 + 34 * lines, yaxis={"showgrid": False})
        summary = (
            f"The final validation {self.settings.metric} over seeds: median and 95 % interval"
        )
        if self.measures.best in shown:
            end = wording.interval(shown[self.measures.best])
            summary += f". {self.measures.best}, the best, ends at {end}"
        if lost:
            summary += f". At least half of the runs of {wording.listed(lost)} diverged"
        summary += f"; {wording.better(self.settings.direction)}."
        return Picture("ends", "How they ended", summary, jsonable(figure))

    def curves(self) -> Picture:
        """The validation metric against the step: median and quartiles over seeds."""
        figure = go.Figure()
        shown: list[float] = []
        foremost = {*self.measures.shortlist, self.settings.baseline, self.settings.baseline_tuned}
        bands = {
            name: self.band(self.measures.final[name].values()) for name in self.measures.raced
        }
        for name, band in bands.items():
            whole = [point for point in band if all(map(math.isfinite, point))]
            steps, low, _, high = zip(*whole, strict=True) if whole else ((), (), (), ())
            figure.add_scatter(
                x=[*steps, *reversed(steps)],
                y=[*high, *reversed(low)],
                fill="toself",
                fillcolor=self.strokes[name].faint(0.16 if name in foremost else 0.05),
                line={"width": 0},
                mode="lines",
                hoverinfo="skip",
                meta=self.place(name),
            )
        for name, band in bands.items():
            medians = [median for _, _, median, _ in band]
            later = [point for point in band if point[0] >= SETTLED * self.settings.steps]
            shown += [value for point in later for value in point[1:]]
            figure.add_scatter(
                x=[step for step, *_ in band],
                y=[value if math.isfinite(value) else None for value in medians],
                **self.trace(name, "lines"),
                hovertemplate="%{y:.4g} after %{x} steps",
            )
        lay_out(figure, "step", f"validation {self.metric}", shown)
        if finite := [value for value in shown if math.isfinite(value)]:
            figure.update_yaxes(range=around(finite, figure.layout.yaxis.type == "log"))
        summary = (
            f"The validation {self.settings.metric} in training: the line is the median over "
            "seeds, the band holds the middle half of them. A run that diverged counts as worse "
            "than all others."
        )
        return Picture("curves", "Learning curves", summary, jsonable(figure))

    def band(self, runs: Iterable[RunRecord]) -> list[tuple[int, float, float, float]]:
        """(step, quartile, median, quartile) at each evaluation; infinite if runs diverged."""
        found = [{point.step: point.metric for point in run.curve} for run in runs]
        steps = sorted({step for curve in found for step in curve})
        band = []
        for step in steps:
            losses = [as_loss(curve.get(step, math.nan), self.settings) for curve in found]
            quartiles = np.quantile(losses, (0.25, 0.5, 0.75), method="averaged_inverted_cdf")
            low, median, high = (self.as_score(float(loss)) for loss in quartiles)
            band.append((step, low, median, high))
        return band

    def target(self) -> Picture:
        """The share of seeds that have reached the target, against the step."""
        figure = go.Figure()
        told = []
        for name in self.measures.raced:
            runs = self.measures.final[name].values()
            reached = sorted(steps_to_target(run, self.settings) for run in runs)
            steps = [step for step in reached if math.isfinite(step)]
            shares = [100 * (i + 1) / len(reached) for i in range(len(steps))]
            figure.add_scatter(
                x=[0, *steps, self.settings.steps],
                y=[0, *shares, shares[-1] if shares else 0],
                **self.trace(name, "lines", shape="hv"),
                hovertemplate="%{y:.0f} % after %{x} steps",
            )
            if len(steps) < len(reached):
                told.append(f"{name} {len(reached) - len(steps)} of {len(reached)}")
        lay_out(figure, "step", "seeds at the target, %", [])
        figure.update_yaxes(range=[-2, 103])
        figure.update_xaxes(range=[0, 1.02 * self.settings.steps])
        summary = (
            f"The share of seeds whose validation {self.settings.metric} has reached the target, "
            f"{self.settings.target:g}. A line that ends below 100 % has runs that did not reach "
            f"it within {self.settings.steps:,} steps"
        )
        summary += f": {', '.join(told)}." if told else ". Here all runs did."
        return Picture("target", "Steps to the target", summary, jsonable(figure))

    def tunability(self) -> Picture:
        """The median best score of b exploring configurations, over b."""
        figure = go.Figure()
        shown: list[float] = []
        for name, curve in self.verdict.tunability.items():
            shown += [score for _, score in curve]
            figure.add_scatter(
                x=[budget for budget, _ in curve],
                y=[score if math.isfinite(score) else None for _, score in curve],
                **self.trace(name, "lines+markers"),
                hovertemplate="%{y:.4g}, the best of %{x}",
            )
        lay_out(figure, "trainings", f"tuning {self.metric} (optimistic)", shown)
        budgets = sorted({b for curve in self.verdict.tunability.values() for b, _ in curve})
        figure.update_xaxes(type="log", tickvals=budgets)
        summary = (
            "The score of the best of this number of trainings, each with another configuration "
            "that explored; the median over all choices of them. These scores are optimistic, "
            "because a best score is partly chance: the verdict uses the fresh seeds of the final "
            "round."
        )
        return Picture("tunability", "What tuning buys", summary, jsonable(figure))

    def trace(
        self, name: str, mode: str, shape: str = "linear", symbol: str = ""
    ) -> dict[str, Any]:
        """What all traces of an entrant have in common: its name, its place, its stroke."""
        return {
            "name": as_text(name),
            "meta": self.place(name),
            **style(self.strokes[name], mode, shape, symbol),
        }

    def place(self, name: str) -> int:
        return self.settings.entrants.index(name)

    def as_score(self, loss: float) -> float:
        return loss if self.settings.direction == "min" else -loss


def bounded(found: Interval) -> tuple[float, float]:
    """The ends of the interval; an infinite end is drawn at the estimate."""
    ends = (found.low, found.high)
    low, high = (end if math.isfinite(end) else found.estimate for end in ends)
    return low, high
