"""The standard output, which may be full or closed before the work is done."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from io import StringIO, TextIOWrapper
from typing import Any, TextIO


class Output:
    """A stream that notes what failed, and that no further work fails with it.

    failure: why not all could be written; nothing, where it could.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.failure = "" if stream else "it is closed"
        self.stream = stream or StringIO()
        if isinstance(stream, TextIOWrapper):
            # A path may have characters that the encoding has not.
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
        except (OSError, ValueError) as error:  # a ValueError where it was closed
            why = getattr(error, "strerror", None) or str(error)
            self.failure = self.failure or why.rstrip(".")
            # Or what it still holds back would fail again when Python ends.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
