"""The errors of this package. Each message is one sentence about the input."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Bad input from a person. The message is one sentence: what is wrong, and what would be right.

    status: the exit status of a command that ends with this error.
    """

    status = 2


class FailedError(UserError):
    """Work that failed after all attempts. The message is one sentence that says how it failed."""

    status = 1


class NoCounterpartError(Exception):
    """PyTorch cannot do what a recipe does. The message is one sentence that says what."""


class Stopped(BaseException):
    """Raised by Ctrl-C on the command line, instead of KeyboardInterrupt.

    Typer ends without a message at a KeyboardInterrupt. And once one has left an `exec` of text, as
    imports have many, CPython ends with the signal's status.
    """


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the nearest known word, or all known words."""
    known = list(known)
    close = get_close_matches(word, known, 1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}."
