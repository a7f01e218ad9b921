"""Showing what the doctor does while it works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from thalweg.terminal.race import Lines


@contextmanager
def telling(console: Console) -> Iterator[Callable[[str], None]]:
    """Gives a function that shows what is being done.

    On a terminal it changes one line; elsewhere it prints a line for each call.
    """
    if not console.is_terminal:
        yield Lines(console).say
        return
    with console.status("getting ready") as status:
        yield lambda words: status.update(escape(words))
