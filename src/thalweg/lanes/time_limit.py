"""A limit to how long work in this process may be silent."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Self

from thalweg.arguments import number, short
from thalweg.errors import FailedError, UserError

SHORTEST, LONGEST = 0.1, 1e6
"""Seconds: no step is done sooner, and about so long an operating system lets a process wait."""


class SilentError(BaseException):
    """Work was silent for too long. No `except Exception` in the work takes it for its own."""


class TimeLimit:
    """Raises FailedError if the block goes on for `seconds` after `put_off` was last called.

    None means no limit. Only the main thread can have one.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds

    def __enter__(self) -> Self:
        if self.seconds is not None:
            self.before = signal.signal(signal.SIGALRM, self.ring)
            self.put_off()
        return self

    def __exit__(self, _: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self.before)
        if isinstance(error, SilentError):
            raise FailedError(str(error)).with_traceback(trace) from None

    def put_off(self) -> None:
        if self.seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, self.seconds, self.seconds)

    def ring(self, _: int, frame: FrameType | None) -> None:
        assert self.seconds is not None
        while frame and not must_end(frame):
            frame = frame.f_back
        if frame is None:
            raise SilentError(too_long(self.seconds))


def must_end(frame: FrameType) -> bool:
    """An import that is broken off stays half done; what is raised in `__del__` is lost."""
    importing = frame.f_globals.get("__name__") == "importlib._bootstrap"
    return importing or frame.f_code.co_name == "__del__"


def too_long(seconds: float) -> str:
    return f"it took no step for {seconds:g} s"


def require_timeout(seconds: float) -> float:
    """The limit as a float; UserError for one that is none, or that this process cannot keep."""
    if not SHORTEST <= number(seconds) <= LONGEST:
        raise UserError(
            f"timeout must be a number of seconds from {SHORTEST} to {LONGEST:.0f}, not"
            f" {short(seconds)}."
        )
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        raise UserError("timeout needs the main thread of Python, on Linux or macOS.")
    return float(seconds)
