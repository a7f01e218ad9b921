"""The standard output, which may be full or closed before the work is done."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from io import StringIO, TextIOWrapper
from typing import Any, TextIO


class Output:
    """A stream that keeps the first error of a write, so that the work goes on.

    failure: why something could not be written; empty if all could.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.failure = "" if stream else "the output is closed"
        self.stream = stream or StringIO()
        if isinstance(stream, TextIOWrapper):
            # A path may have characters that the encoding does not have.
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self.attempt(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        self.attempt(self.stream.flush)

    def attempt(self, work: Callable[[], object]) -> None:
        try:
            work()
        except (OSError, ValueError) as error:  # a closed stream raises ValueError
            why = getattr(error, "strerror", None) or str(error)
            self.failure = self.failure or why.rstrip(".")
            # Otherwise the buffered text would fail again when Python ends.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
