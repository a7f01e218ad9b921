"""What is kept of an error in the user's code: what it says, and where it came from."""

from __future__ import annotations

import traceback
from pathlib import Path
from sysconfig import get_paths

from thalweg.errors import UserError

LIBRARIES = (str(Path(__file__).parents[1]), get_paths()["purelib"], get_paths()["stdlib"], "<")
"""Where code lies that is not the user's; the last are files that are none."""


def last_words(error: BaseException) -> str:
    """One line: what was raised first, and the user's line that it came from, if there is one."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = (str(error).splitlines() or [""])[0]
    text = line if isinstance(error, UserError) else f"{type(error).__name__}: {line}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(LIBRARIES)]
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{text.rstrip('.: ')}{place}"
