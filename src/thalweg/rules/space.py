"""Search spaces as plain data: the values among which a hyperparameter is tuned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from thalweg.arguments import number, short
from thalweg.errors import UserError

Scale: TypeAlias = Literal["linear", "log", "log_one_minus"]


@dataclass(frozen=True)
class Space:
    """An interval [low, high] and the scale on which values are spread evenly.

    "linear" is even in x, "log" in log x. "log_one_minus" is even in log(1 - x), for momentum and
    betas, where 0.9, 0.99 and 0.999 have equal distances.

        Space(1e-4, 1e-1)    Space(0, 0.1, "linear")    Space(0.5, 0.99, "log_one_minus")

    Raises UserError unless the ends are finite numbers with low < high, and lie on the scale: "log"
    needs values above 0, "log_one_minus" values below 1.
    """

    low: float
    high: float
    scale: Scale = "log"

    def __post_init__(self) -> None:
        for end in ("low", "high"):
            object.__setattr__(self, end, as_float(getattr(self, end)))
        if not isinstance(self.scale, str) or self.scale not in get_args(Scale):
            raise UserError(
                f"the scale of a space is linear, log or log_one_minus, not {short(self.scale)}."
            )
        if not self.low < self.high:
            raise UserError(f"a space must go from a low to a higher value, not {self.ends}.")
        if self.scale == "log" and self.low <= 0:
            raise UserError(
                f"a space on the log scale begins above 0, not at {self.low:g}; on the scale linear"
                " it may begin there."
            )
        if self.scale == "log_one_minus" and self.high >= 1:
            raise UserError(
                f"a space on the scale log_one_minus ends below 1, not at {self.high:g}."
            )
        if not self.has_a_width():
            raise UserError(
                f"a space {self.ends} cannot be searched on the scale {self.scale}: its ends are"
                " too far apart, or too close."
            )

    @property
    def ends(self) -> str:
        return f"from {self.low:g} to {self.high:g}"

    def has_a_width(self) -> bool:
        """Whether the distance of the ends on the scale is above 0 and finite in float64."""
        if self.scale == "log":
            return 1 < self.high / self.low < math.inf
        if self.scale == "log_one_minus":
            return 0 < (1 - self.high) / (1 - self.low) < 1
        return self.high - self.low < math.inf

    @property
    def middle(self) -> float:
        """Half way between the ends on the scale."""
        if self.scale == "log":
            return math.sqrt(self.low) * math.sqrt(self.high)
        if self.scale == "log_one_minus":
            return 1 - math.sqrt((1 - self.low) * (1 - self.high))
        return self.low + (self.high - self.low) / 2

    def __str__(self) -> str:
        even = {"linear": "x", "log": "log x", "log_one_minus": "log(1 - x)"}[self.scale]
        return f"{self.ends}, even in {even}"


def as_float(end: object) -> float:
    """An end of a space as a float. Raises UserError unless it is a finite number."""
    held = number(end)
    if not math.isfinite(held):
        raise UserError(
            f"the ends of a space are finite numbers, such as 1e-4 and 0.1, not {short(end)}."
        )
    return held


def log(low: float, high: float) -> Space:
    """A space that is even in log x, for 0 < low < high."""
    return Space(low, high, "log")


def log_one_minus(low: float, high: float) -> Space:
    """A space that is even in log(1 - x), for low < high < 1."""
    return Space(low, high, "log_one_minus")


def linear(low: float, high: float) -> Space:
    """A space that is even in x."""
    return Space(low, high, "linear")
