"""Student's t, for the 95 % intervals of instruments."""

from __future__ import annotations

from functools import cache

from scipy import special

CONFIDENCE = 0.95


@cache
def student(freedom: int) -> float:
    """How many standard errors a 95 % interval reaches to each side, with so many degrees."""
    return float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2))
