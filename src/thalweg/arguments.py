"""Arguments that several calls take: what they may be, and how one that they may not be is told."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from thalweg.errors import UserError, suggest

MOST = 2**32 - 1

FAR = 10**12
"""A step behind the end of every schedule."""

LONGEST = 100
"""Characters of a value that are told."""

SECONDS = {"s": 1, "m": 60, "h": 3600}

LEAST_ALPHA = 1e-12
"""A risk that some dozens of seeds can have."""


def short(value: object) -> str:
    """A value in one line, whatever it is; a long one is cut off."""
    try:
        line = " ".join(repr(value).split())
    except Exception:  # such as a number of more digits than Python writes
        return f"this {type(value).__name__}"
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def word(value: object) -> str:
    """A text as it is, where it can be seen in a line; anything else as `short` tells it."""
    seen = isinstance(value, str) and value.strip() and value.isprintable()
    return str(value) if seen and len(str(value)) <= LONGEST else short(value)


def number(value: object) -> float:
    """The value as a float; nan for what is no number or is larger than a float can be."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def plain(value: Any) -> Any:
    """A number of NumPy's as one of Python's own, as files and texts hold it; all else as it is."""
    return value.item() if isinstance(value, np.number) else value


def require_seconds(name: str, value: object) -> float:
    """A time in seconds, from a number or a text such as "30s", "5m" or "1.5h".

    Raises UserError for anything else, and for a time below 0.
    """
    found = number(value)
    if isinstance(value, str) and (parts := re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", value.strip())):
        found = float(parts[1]) * SECONDS[parts[2]]
    if not 0 <= found < math.inf:
        raise UserError(f"{name} must be a time, such as 30s, 5m or 1h, not {short(value)}.")
    return found


def require_whole(name: str, value: Any, low: int, high: int = MOST) -> int:
    """The value as an int; UserError unless it is a whole number from `low` to `high`."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not low <= int(value) <= high:
        raise UserError(f"{name} must be a whole number from {low} to {high}, not {short(value)}.")
    return int(value)


def require_between(name: str, value: object, low: float, high: float) -> None:
    """UserError unless the value is a number above `low` and below `high`."""
    if not low < number(value) < high:
        raise UserError(
            f"{name} must be a number above {low:g} and below {high:g}, not {short(value)}."
        )


def require_risk(alpha: float) -> float:
    """The risk as a float; UserError for one that is none, or less than some seeds can have."""
    if not LEAST_ALPHA <= number(alpha) < 0.5:
        raise UserError(
            f"alpha must be a number from {LEAST_ALPHA:g} to below 0.5, not {short(alpha)}."
        )
    return float(alpha)


def require_kind(name: str, value: object, kind: type | tuple[type, ...], words: str) -> None:
    """UserError unless the value is of the kind, which is told in words."""
    if not isinstance(value, kind):
        raise UserError(f"{name} must be {words}, not {short(value)}.")


def require_list(name: str, value: Any, words: str) -> list[Any]:
    """The value as a list; UserError where it is none, which words tell."""
    try:
        if not isinstance(value, str | bytes):
            return list(value)
    except TypeError:
        pass
    raise UserError(f"{name} must be {words}, not {short(value)}.")


def require_flag(name: str, value: object) -> None:
    """UserError unless the value is a truth value."""
    require_kind(name, value, (bool, np.bool_), "True or False")


def require_function(name: str, value: object, words: str) -> None:
    """UserError unless the value can be called; the words say how."""
    if not callable(value):
        raise UserError(f"{name} must be {words}, not {short(value)}.")


def require_known(kind: str, value: object, known: Collection[str]) -> None:
    """UserError unless the value is one of the words that are known; it suggests one."""
    if not isinstance(value, str) or value not in known:
        raise UserError(f"no {kind} is called {word(value)}; {suggest(word(value), known)}")


def require_text(name: str, value: object) -> None:
    """UserError unless the value is a text that can be shown: not empty, and in one line."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise UserError(f"{name} must be printable text, not {short(value)}.")


def require_path(name: str, value: object) -> Path:
    """The value as a path; UserError where it is none, or where no file can have it."""
    if not isinstance(value, str | Path):
        raise UserError(f"{name} must be a path, not {short(value)}.")
    try:
        if any(sign < " " for sign in str(value)):
            raise ValueError
        str(value).encode()
        Path(value).stat()
    except ValueError:
        raise UserError(f"{name} must be a path of plain characters, not {short(value)}.") from None
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # who reads or writes there says so
    except OSError as error:
        raise UserError(f"{name} {short(str(value))} cannot be used: {error.strerror}.") from None
    return Path(value)
