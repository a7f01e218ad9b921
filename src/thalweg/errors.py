"""The errors of this package: an input that cannot be used, said in one sentence, and others."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Bad input from a person, in one sentence that names it and says what would be right.

    status: the exit status of the command that it ends.
    """

    status = 2


class FailedError(UserError):
    """Work that failed whatever was tried, in one sentence that says how."""

    status = 1


class NoCounterpartError(Exception):
    """PyTorch cannot do what a recipe does; the message is one sentence that says what."""


class Stopped(BaseException):
    """Ctrl-C on the command line.

    It is no KeyboardInterrupt: typer ends at one without a word, and where one was ever seen
    leaving an `exec` of text, as imports run many, CPython ends by the signal after all.
    """


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the known one nearest to it, or all of them."""
    known = list(known)
    close = get_close_matches(word, known, 1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}."
