"""Numbers and names as a person reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence

PERCENT = "\u00a0%"
"""With the space that no line breaks at."""


def number(value: float) -> str:
    """Four significant digits; a metric that is not a number is one that diverged."""
    return "diverged" if math.isnan(value) else f"{value:.4g}".replace("inf", "∞")


def signed(value: float, digits: int = 3) -> str:
    return f"{value:+.{digits}g}".replace("inf", "∞")


def better(direction: str) -> str:
    """Which way a metric is better."""
    return "lower is better" if direction == "min" else "higher is better"


def listed(names: Sequence[str], conjunction: str = "and") -> str:
    """A; A and B; A, B and C."""
    *front, last = names
    return f"{', '.join(front)} {conjunction} {last}" if front else last


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def percent(share: float) -> str:
    """A share in percent, with two digits of what is left to 0 % or 100 %, whichever is nearer."""
    left = min(share, 1 - share)
    digits = max(0, -math.floor(math.log10(left)) - 1) if left > 0 else 0
    return f"{round(100 * share, digits):.12g}{PERCENT}"
