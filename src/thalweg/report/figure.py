"""The common parts of the pictures of all reports, as Plotly figures.

The colours of text, lines and paper come from the page's style, which depends on light, dark and
print.
"""

from __future__ import annotations

import html
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from plotly import graph_objects as go

from thalweg.report.strokes import Stroke

HEIGHT = 420
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"

LABEL_WIDTH, TITLE_WIDTH = 18, 24
"""The most letters on a line of a name beside a picture, and of the title of an axis."""

WIDE = 4.0
"""Values whose ratio is larger than this are drawn on a logarithmic axis."""

ROOM = 0.06
"""The free room at each end of an axis, as a share of the range."""

MANY_DECADES = 4
"""A logarithmic axis over more powers of ten than this labels only the powers."""


@dataclass(frozen=True)
class Picture:
    """A picture in a report.

    name: its id in the page. title, summary: what it shows, in words. figure: the data for Plotly.
    strokes: the strokes of its lines, if it has a legend of its own.
    """

    name: str
    title: str
    summary: str
    figure: dict[str, Any]
    strokes: Mapping[str, Stroke] = field(default_factory=dict)


def style(stroke: Stroke, mode: str, shape: str = "linear", symbol: str = "") -> dict[str, Any]:
    """The style of a trace with a stroke, as lines, markers or both."""
    found: dict[str, Any] = {"mode": mode}
    if "lines" in mode:
        found["line"] = {
            "color": stroke.colour,
            "dash": stroke.dash,
            "width": 2,
            "shape": shape,
        }
    if "markers" in mode:
        found |= {
            "marker_color": stroke.colour,
            "marker_symbol": symbol or stroke.symbol,
            "marker_line": {"color": stroke.colour, "width": 2 if symbol else 0},
        }
    return found


def lay_out(
    figure: go.Figure,
    x: str,
    y: str,
    shown: Sequence[float],
    *,
    of_x: bool = False,
) -> None:
    """Sets axes, margins and paper. The axis of the values is logarithmic if `shown` spans much."""
    figure.update_layout(
        height=HEIGHT,
        font={"family": FONT, "size": 13},
        margin={"l": 12, "r": 12, "t": 12, "b": 12},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        showlegend=False,
        hovermode="closest",
        hoverlabel_namelength=-1,
        dragmode=False,
        xaxis_exponentformat="power",
        yaxis_exponentformat="power",
    )
    figure.update_xaxes(title=x, automargin=True, zeroline=False, fixedrange=True)
    figure.update_yaxes(title=y, automargin=True, zeroline=False, fixedrange=True)
    if spans_much(shown):
        ticks = {"type": "log", "tickvals": round_numbers(shown), "tickformat": "~g"}
        figure.update_layout({"xaxis" if of_x else "yaxis": ticks})


def spans_much(values: Sequence[float]) -> bool:
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > WIDE * min(finite)


def round_numbers(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times the powers of ten among these values; over many decades only the powers."""
    finite = [value for value in values if math.isfinite(value)]
    first, last = math.floor(math.log10(min(finite))), math.ceil(math.log10(max(finite)))
    steps = (1, 2, 5) if last - first <= MANY_DECADES else (1,)
    return [float(f"{step}e{power}") for power in range(first, last + 1) for step in steps]


def around(finite: Sequence[float], logarithmic: bool) -> list[float]:
    """The range of an axis that shows these values with a little room, in the axis's units."""
    ends = np.log10(finite) if logarithmic else np.array(finite)
    room = ROOM * np.ptp(ends)
    return [float(ends.min() - room), float(ends.max() + room)]


def as_text(name: str) -> str:
    """A name that Plotly shows unchanged, although it reads some HTML and its own templates."""
    return html.escape(name).replace("%{", "%\u2060{").replace("$", "&#36;")


def on_lines(name: str, width: int = LABEL_WIDTH) -> str:
    """A name as a label of an axis, broken into lines that fit on a phone."""
    parts = textwrap.wrap(name, width, drop_whitespace=False)
    return "<br>".join(as_text(part) for part in parts)


def jsonable(figure: go.Figure) -> dict[str, Any]:
    """The figure as plain data, where numbers that are not finite are null."""
    plain: dict[str, Any] = json.loads(figure.to_json())
    return plain
