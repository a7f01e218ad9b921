"""Whether processes have ended, for the tests that leave some behind."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path


def end_soon(processes: Collection[str]) -> bool:
    """Whether all of them end within half a minute."""
    deadline = time.monotonic() + 30
    while any(map(running, processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not any(map(running, processes))


def running(process: str) -> bool:
    """Whether a process is there, and no zombie that nobody has buried."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
