"""Arguments that several instruments take."""

from __future__ import annotations

from thalweg.errors import UserError


def require_tolerance(value: float, name: str = "tolerance") -> None:
    """UserError unless it is a share between 0 and 1."""
    if not 0 < value < 1:
        raise UserError(f"{name} must lie between 0 and 1, ends left out, not {value!r}.")
