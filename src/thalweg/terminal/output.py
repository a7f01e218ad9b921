"""Standard output that cannot be written to is one sentence."""

from __future__ import annotations

import os
from typing import Any, TextIO

from thalweg.errors import FailedError


class Output:
    """A stream of text; FailedError where its disk is full. A reader that has gone is no matter."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError as error:
            raise self.failure(error) from None

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            raise self.failure(error) from None

    def failure(self, error: OSError) -> Exception:
        if isinstance(error, BrokenPipeError):
            return error
        # Python tries once more to write what is left, in its own end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        return FailedError(f"standard output cannot be written: {error.strerror}.")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
