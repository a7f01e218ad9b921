"""Arguments that several instruments take."""

from __future__ import annotations

from thalweg.arguments import number, short
from thalweg.errors import UserError


def require_tolerance(value: float, name: str = "tolerance") -> None:
    """UserError unless it is a share between 0 and 1."""
    if not 0 < number(value) < 1:
        raise UserError(f"{name} must lie between 0 and 1, ends left out, not {short(value)}.")
