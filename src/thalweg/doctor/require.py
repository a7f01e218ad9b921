"""Arguments that several instruments take."""

from __future__ import annotations

from thalweg.errors import UserError


def require_tolerance(tolerance: float) -> None:
    """UserError unless it is a share between 0 and 1."""
    if not 0 < tolerance < 1:
        raise UserError(f"tolerance must lie between 0 and 1, ends left out, not {tolerance!r}.")
