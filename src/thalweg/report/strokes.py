"""How an entrant is drawn: one colour, dash and marker each, the same in every picture."""

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
"""After Okabe and Ito (2008), who chose them for every kind of colour vision, in lightnesses that
stand out from white and from black; their yellow and black do not, and a violet and a brown do."""

DASHES = ("solid", "dash", "dot")

SYMBOLS = (
    *("circle", "square", "diamond", "triangle-up", "cross"),
    *("triangle-down", "star", "hexagon", "pentagon", "bowtie", "hourglass"),
)
"""As many as share no divisor with the colours: the pair tells 88 entrants apart."""

SWATCHES = {"solid": "", "dash": "7 4", "dot": "2 3"}
"""The dashes in the words of SVG."""


@dataclass(frozen=True)
class Stroke:
    """colour: "#rrggbb". dash, symbol: Plotly's names."""

    colour: str
    dash: str
    symbol: str

    @property
    def swatch(self) -> str:
        """The dash as SVG's stroke-dasharray, for the legend."""
        return SWATCHES[self.dash]

    def faint(self, opacity: float) -> str:
        """The colour for an area that others must be seen through."""
        red, green, blue = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},{opacity})"


def strokes(entrants: Sequence[str]) -> dict[str, Stroke]:
    """A stroke for each entrant; colours come round after eight, with another dash."""
    return {
        name: Stroke(
            COLOURS[i % len(COLOURS)],
            DASHES[i // len(COLOURS) % len(DASHES)],
            SYMBOLS[i % len(SYMBOLS)],
        )
        for i, name in enumerate(entrants)
    }
