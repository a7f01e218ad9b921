"""Arguments that several verbs take."""

from __future__ import annotations

from thalweg.errors import UserError

MOST = 2**32 - 1


def require_whole(name: str, value: object, low: int) -> None:
    """UserError unless the value is a whole number from `low` to 2^32 - 1."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= MOST:
        raise UserError(f"{name} must be a whole number from {low} to {MOST}, not {value!r}.")
