"""The pictures of the search: each entrant's configurations, and its model's prediction over lr."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
from plotly import graph_objects as go

from thalweg.racing import wording
from thalweg.racing.draws import ROUND_OFF, value_at
from thalweg.racing.gaussian_process import Array
from thalweg.racing.landscape import Landscape, Scale
from thalweg.racing.measures import Measures, as_loss
from thalweg.racing.record import Configuration
from thalweg.report.figure import Picture, around, as_text, jsonable, lay_out, spans_much
from thalweg.report.strokes import strokes
from thalweg.rules.tuning import first_rate

HEIGHT = 220

LIKELY = 1.645
"""Within this number of standard deviations of the mean lie 90 % of a normal distribution."""

GRID = 65
"""The number of values of lr at which a model is drawn."""

WALLS = 0.9
"""The axis of scores ends at e times the loss, measured from the models' floor, below which this
share of all runs lies. A longer axis would leave too little room for the good scores.
"""


def searches(measures: Measures, entrants: Iterable[str]) -> list[Picture]:
    """A picture for each of these entrants whose lr was tuned; none if nothing was trained."""
    scores = [run.score for run in measures.record.runs if run.round == "tuning"]
    if not any(map(math.isfinite, scores)):
        return []
    drawn = Searches(measures)
    return [
        drawn.of(name) for name in entrants if first_rate(measures.settings.spaces.get(name, ()))
    ]


class Searches:
    """Draws the search of each entrant of a record, all on one axis of scores."""

    def __init__(self, measures: Measures) -> None:
        self.measures, self.settings = measures, measures.settings
        self.scale = Scale.of(measures.record)
        self.strokes = strokes(self.settings.entrants)
        tuning = [run for run in measures.record.runs if run.round == "tuning"]
        self.trainings = Counter((run.entrant, run.configuration) for run in tuning)
        losses = np.array([as_loss(run.score, self.settings) for run in tuning])
        losses = losses[np.isfinite(losses)]
        walls = np.quantile(losses, WALLS)
        highest = min(losses.max(), self.scale.floor + math.e * (walls - self.scale.floor))
        self.ends = np.sort(self.as_scores(np.array([losses.min(), highest])))
        # If higher scores are better, they are often shares, and the best are close to 1.
        self.spread = self.ends.tolist() if self.settings.direction == "min" else []
        logarithmic = spans_much(self.spread)
        self.range = around(self.ends.tolist(), logarithmic)
        self.limits = np.power(10, self.range) if logarithmic else np.array(self.range)

    def of(self, name: str) -> Picture:
        """One entrant's scores over lr, and its model with the other settings as chosen."""
        figure = go.Figure()
        known = Landscape(name, self.measures.record, self.scale)
        rate = first_rate(known.names)
        space, place = known.spaces[rate], known.names.index(rate)
        reached = [point[place] for point in known.points.values()]
        low, high = min(0.0, *reached), max(1.0, *reached)
        if len(known.expected) > 1:
            self.draw_model(figure, known, np.linspace(low, high, GRID))
        self.draw_tried(figure, name)
        for end, beyond in ((space.low, -low), (space.high, high - 1)):
            if beyond > ROUND_OFF:
                figure.add_vline(end, line={"color": "#888888", "width": 1, "dash": "dot"})
        lay_out(figure, rate, "", self.spread)
        figure.update_layout(height=HEIGHT, font_size=12, margin_l=0)
        figure.update_yaxes(range=self.range)
        logarithmic = space.scale == "log"
        figure.update_xaxes(
            type="log" if logarithmic else "linear",
            range=around([value_at(space, low), value_at(space, high)], logarithmic),
            nticks=4,
            tickfont_size=10,
            title_standoff=8,
        )
        number = self.settings.entrants.index(name)
        return Picture(f"search-{number}", name, self.summary(name), jsonable(figure))

    def draw_model(self, figure: go.Figure, known: Landscape, quantiles: Array) -> None:
        """Draws the mean and the band of the model, with the other settings as chosen."""
        chosen = self.measures.record.chosen.get(known.entrant)
        held = known.best if chosen is None else known.points[chosen]
        at = np.tile(held, (len(quantiles), 1))
        rate = first_rate(known.names)
        at[:, known.names.index(rate)] = quantiles
        # The search uses only the ranks of bad scores; a reader wants to see their values.
        mean, deviation = known.fitted(known.scaled).mean_and_deviation(at)
        rates = [value_at(known.spaces[rate], quantile) for quantile in quantiles.tolist()]
        low, middle, high = (
            self.drawn(self.scale.loss(mean + away * deviation), self.limits)
            for away in (-LIKELY, 0, LIKELY)
        )
        stroke = self.strokes[known.entrant]
        figure.add_scatter(
            x=[*rates, *reversed(rates)],
            y=[*high, *reversed(low)],
            fill="toself",
            fillcolor=stroke.faint(0.18),
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=rates,
            y=middle,
            mode="lines",
            line={"color": stroke.colour, "width": 2},
            name="the model",
            hovertemplate="%{y:.4g} at lr %{x:.3g}",
        )

    def draw_tried(self, figure: go.Figure, name: str) -> None:
        """Draws a mark for each configuration."""
        scores, chosen = self.measures.tuning_scores(name), self.measures.record.chosen.get(name)
        colour = self.strokes[name].colour
        tried = [
            one
            for one in self.measures.record.configurations
            if one.entrant == name and one.index in scores
        ]
        ended = [one for one in tried if math.isfinite(scores[one.index])]
        kinds = {
            "refined": ([one for one in ended if one.refined], "circle", 6),
            "explored": ([one for one in ended if not one.refined], "circle-open", 7),
            "tried again": ([one for one in ended if self.again(one)], "circle-open", 16),
            "chosen": ([one for one in ended if one.index == chosen], "star", 14),
            "diverged": ([one for one in tried if one not in ended], "x-thin-open", 8),
        }
        for kind, (some, symbol, size) in kinds.items():
            if not some:
                continue
            losses = np.array([as_loss(scores[one.index], self.settings) for one in some])
            figure.add_scatter(
                x=[one.values[first_rate(one.values)] for one in some],
                y=self.drawn(losses, self.ends),
                mode="markers",
                marker={
                    "color": colour,
                    "symbol": symbol,
                    "size": size,
                    "opacity": 0.5 if kind == "refined" else 1,
                    "line": {"color": "white" if kind == "chosen" else colour, "width": 1.5},
                },
                name=kind,
                text=[
                    f"{wording.number(scores[one.index])}<br>"
                    + as_text(wording.values(one.values)).replace(", ", "<br>")
                    for one in some
                ],
                hovertemplate="%{text}",
            )

    def summary(self, name: str) -> str:
        """The number of configurations, the chosen one, and why the search stopped, in words."""
        tried = [one for one in self.measures.record.configurations if one.entrant == name]
        refined = sum(one.refined for one in tried)
        again = sum(map(self.again, tried))
        counts = {"explored": len(tried) - refined, "refined": refined, "tried again": again}
        told = wording.listed([f"{count} {kind}" for kind, count in counts.items() if count]) + "."
        chosen = self.measures.chosen(name)
        if chosen:
            score = wording.number(self.measures.tuning_scores(name)[chosen.index])
            rate = first_rate(chosen.values)
            told += f" Chosen: {rate} {chosen.values[rate]:.3g}, with the score {score}."
        for stop in self.measures.record.stops:
            if stop.entrant == name:
                told += (
                    f" Stopped after {stop.trials}: the probability to come close to the best"
                    f" result of all was {wording.chance(stop.chance)}."
                )
        return told

    def again(self, one: Configuration) -> bool:
        return self.trainings[one.key] > 1

    def drawn(self, losses: Array, ends: Array) -> list[float]:
        """Losses as scores; losses beyond an end of the scale are drawn at the end."""
        scores: list[float] = np.clip(self.as_scores(losses), *ends).tolist()
        return scores

    def as_scores(self, losses: Array) -> Array:
        return losses if self.settings.direction == "min" else -losses
