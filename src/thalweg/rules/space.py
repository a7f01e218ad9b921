"""Search spaces as plain data: where a hyperparameter is looked for when it is tuned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Space:
    """An interval [low, high] and the scale on which it is even.

    "linear": in x itself. "log": in log x. "log_one_minus": in log(1 - x), for momentum and betas,
    where 0.9, 0.99 and 0.999 are equal steps apart.
    """

    low: float
    high: float
    scale: Literal["linear", "log", "log_one_minus"]

    def __str__(self) -> str:
        even = {"linear": "x", "log": "log x", "log_one_minus": "log(1 - x)"}[self.scale]
        return f"from {self.low:g} to {self.high:g}, even in {even}"


def log(low: float, high: float) -> Space:
    """Even in log x, for 0 < low < high."""
    return Space(low, high, "log")


def log_one_minus(low: float, high: float) -> Space:
    """Even in log(1 - x), for low < high < 1."""
    return Space(low, high, "log_one_minus")


def linear(low: float, high: float) -> Space:
    """Even in x."""
    return Space(low, high, "linear")
