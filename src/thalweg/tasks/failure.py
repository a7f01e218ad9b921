"""What a user's own code raises, in one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor

from thalweg.errors import UserError

LONGEST = 500
"""Characters of an error's text that are told."""

STYLE = re.compile(r"\x1b\[[0-9;]*m")
"""What gives a terminal's text a colour."""


@contextmanager
def failure_as_sentence(what_failed: str) -> Iterator[None]:
    """Turns an exception of the user's code into a `UserError` with its message's first words."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        message = first_words(error)
        told = f": {message}" if message else ""
        raise UserError(f"{what_failed}: {type(error).__name__}{told}") from error


def first_words(error: BaseException) -> str:
    """The first line of an error's text that is not empty, in characters that can be shown."""
    try:
        lines = STYLE.sub("", str(error)).splitlines()
    except Exception:  # its class says it wrongly
        return ""
    shown = ("".join(c if c.isprintable() else " " for c in line).strip() for line in lines)
    line = next(filter(None, shown), "")
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def describe(value: Any) -> str:
    """A tensor by its shape, one of a lone number and an array by the type too, else the type."""
    if isinstance(value, Tensor):
        lone = "" if value.ndim else f" and type {value.dtype}"
        return f"of shape {list(value.shape)}{lone}"
    if isinstance(value, np.ndarray):
        return f"of type ndarray and shape {list(value.shape)}"
    return f"of type {type(value).__name__}"
