"""What is kept of an error in the user's code: what it says, and where it came from."""

from __future__ import annotations

from thalweg.errors import UserError
from thalweg.stack.reasons import line_of, reason
from thalweg.user_file import first_words


def last_words(error: BaseException) -> str:
    """One line: what was raised first, and the user's line that it came from, if there is one."""
    seen = []
    while error.__cause__ is not None and error not in seen:  # `raise error from error` is a circle
        seen.append(error)
        error = error.__cause__
    if "vmap" in str(error) or "functorch" in str(error):
        return reason(error)
    line = first_words(error)
    text = line if isinstance(error, UserError) else f"{type(error).__name__}: {line}"
    return text.rstrip(".: ") + line_of(error)
