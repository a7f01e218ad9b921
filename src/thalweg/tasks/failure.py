"""Turning errors of a user's own code into one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor

from thalweg.errors import UserError
from thalweg.user_file import first_words


@contextmanager
def failure_as_sentence(what_failed: str) -> Iterator[None]:
    """Turns an exception in the block into a `UserError` with the first words of its message."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        message = first_words(error)
        told = f": {message}" if message else ""
        raise UserError(f"{what_failed}: {type(error).__name__}{told}") from error


def describe(value: Any) -> str:
    """A tensor's shape (with the type of a single number), an array's type and shape, or a type."""
    if isinstance(value, Tensor):
        lone = "" if value.ndim else f" and type {value.dtype}"
        return f"of shape {list(value.shape)}{lone}"
    if isinstance(value, np.ndarray):
        return f"of type ndarray and shape {list(value.shape)}"
    return f"of type {type(value).__name__}"
