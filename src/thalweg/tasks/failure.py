"""What a user's own code raises, in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from thalweg.errors import UserError


@contextmanager
def failure_as_sentence(what_failed: str) -> Iterator[None]:
    """Turns an exception of the user's code into a `UserError` with its message's first line."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        lines = str(error).splitlines()
        message = f": {lines[0]}" if lines else ""
        raise UserError(f"{what_failed}: {type(error).__name__}{message}") from error


def describe(value: Any) -> str:
    """A tensor by its shape, anything else by its type."""
    if isinstance(value, Tensor):
        return f"of shape {list(value.shape)}"
    return f"of type {type(value).__name__}"
