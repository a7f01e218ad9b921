"""What the doctor shows while it works: what it is at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from thalweg.terminal.race import Lines


@contextmanager
def telling(console: Console) -> Iterator[Callable[[str], None]]:
    """Something to tell what is being done: one line that changes on a terminal, a line for each
    elsewhere.
    """
    if not console.is_terminal:
        yield Lines(console).say
        return
    with console.status("getting ready") as status:
        yield lambda words: status.update(escape(words))
