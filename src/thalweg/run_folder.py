"""What the folder of a run is called."""

from __future__ import annotations

import re

from thalweg.arguments import require_path, require_text, short
from thalweg.checksum import checksum
from thalweg.errors import UserError

LONGEST = 80
"""Bytes of a name."""


def usual_folder(name: str) -> str:
    """A name with all but letters, digits, ., _ and - replaced.

    A long name ends with its checksum, because two may have the same beginning.
    """
    plain = re.sub(r"[^\w.-]+", "-", name).strip(".-") or "run"
    if len(plain.encode()) <= LONGEST:
        return plain
    ending = f"-{checksum([name])}"
    return plain.encode()[: LONGEST - len(ending)].decode(errors="ignore") + ending


def require_folder_name(name: object) -> str:
    """The name of one folder; UserError for what cannot be one."""
    if not isinstance(name, str) or name in ("", ".", "..") or re.search(r"[/\\\0]", name):
        raise UserError(f"name must be the name of one folder, without / or \\, not {short(name)}.")
    require_text("name", name)
    return require_path("name", name).name
