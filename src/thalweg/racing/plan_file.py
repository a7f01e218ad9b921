"""The plan of a race as TOML, for another race to follow.

way = "compiled"
lanes = 2
width = 32
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import tomli_w

from thalweg.arguments import require_known, require_path, require_whole
from thalweg.errors import UserError
from thalweg.racing.record import Plan
from thalweg.stack.way import WAYS
from thalweg.whole_file import read_text, write_text

KEYS = ("way", "lanes", "width")


def write(plan: Plan, path: Path) -> None:
    """Writes a plan, with what was measured as a remark. UserError where it cannot be written."""
    values = tomli_w.dumps({key: getattr(plan, key) for key in KEYS})
    write_text(path, f"# {plan.why}\n{values}")


def read(path: str | Path) -> tuple[str, int, int]:
    """The way, the lanes and the width of a plan; UserError for a file that is none."""
    path = require_path("plan", path)
    text = read_text("the plan", path)
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the plan {path} is no TOML: {error}.") from None
    if set(data) != set(KEYS):
        found = ", ".join(data) or "nothing"
        raise UserError(f"the plan {path} must give way, lanes and width, and gives {found}.")
    require_known(f"way in the plan {path}", data["way"], WAYS)
    for key in ("lanes", "width"):
        require_whole(f"{key} in the plan {path}", data[key], 1)
    return data["way"], data["lanes"], data["width"]
