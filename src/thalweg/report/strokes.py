"""The colour, dash and marker with which each entrant is drawn, the same in every picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

COLOURS = (
    "#0072b2",
    "#e08a00",
    "#009e73",
    "#cc79a7",
    "#56a8e0",
    "#d55e00",
    "#8268b8",
    "#9a7420",
)
"""Colours after Okabe and Ito (2008), who chose them for every kind of colour vision, in
lightnesses that are visible on white and on black. Violet and brown replace yellow and black, which
are not."""

DASHES = ("solid", "dash", "dot")

SYMBOLS = {
    "circle": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    "square": "M-4-4H4V4H-4Z",
    "diamond": "M0-5L5 0L0 5L-5 0Z",
    "triangle-up": "M0-5L5 4H-5Z",
    "cross": "M-2-5H2V-2H5V2H2V5H-2V2H-5V-2H-2Z",
    "triangle-down": "M0 5L-5-4H5Z",
    "star": "M0-5L1.2-1.6H4.8L1.9 .6L3 4L0 1.9L-3 4L-1.9 .6L-4.8-1.6H-1.2Z",
    "hexagon": "M0-5L4.3-2.5V2.5L0 5L-4.3 2.5V-2.5Z",
    "pentagon": "M0-5L4.8-1.5L2.9 4H-2.9L-4.8-1.5Z",
    "bowtie": "M-5-4L5 4V-4L-5 4Z",
    "hourglass": "M-4-5H4L-4 5H4Z",
}
"""Plotly's names of the markers, and their shapes as paths of SVG. Their number and the number of
colours have no common divisor, so that the pairs distinguish 88 entrants."""

SWATCHES = {"solid": "", "dash": "7 4", "dot": "2 3"}
"""The dashes as SVG writes them."""


@dataclass(frozen=True)
class Stroke:
    """How one entrant is drawn. colour: "#rrggbb". dash, symbol: Plotly's names."""

    colour: str
    dash: str
    symbol: str

    @property
    def swatch(self) -> str:
        """The dash as SVG's stroke-dasharray, for the legend."""
        return SWATCHES[self.dash]

    @property
    def marker(self) -> str:
        """The symbol as a path of SVG around the origin, for the legend."""
        return SYMBOLS[self.symbol]

    def faint(self, opacity: float) -> str:
        """The colour for an area through which others stay visible."""
        red, green, blue = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},{opacity})"


def strokes(entrants: Sequence[str]) -> dict[str, Stroke]:
    """A stroke for each entrant. After eight entrants the colours repeat with another dash."""
    return {
        name: Stroke(
            COLOURS[i % len(COLOURS)],
            DASHES[i // len(COLOURS) % len(DASHES)],
            list(SYMBOLS)[i % len(SYMBOLS)],
        )
        for i, name in enumerate(entrants)
    }
