"""A setting of a loop, which is tuned together with the settings of the optimizer."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from thalweg.arguments import number, short
from thalweg.errors import UserError
from thalweg.rules.space import Space
from thalweg.rules.tuning import read

NAME = re.compile(r"[A-Za-z]\w*")


@dataclass(frozen=True)
class Param:
    """A setting of a loop: its space, its value if it is not tuned, and whether it is whole."""

    space: Space
    default: float
    whole: bool

    def value(self, held: float) -> float:
        """The value that the loop gets for a value of the search."""
        return round(held) if self.whole else held


def param_of(name: Any, space: Any, default: Any) -> Param:
    """A checked param. Raises UserError for a wrong name, space or default."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(f"a param has a name of letters, digits and _, not {short(name)}.")
    try:
        found = read(space, None)
    except UserError as error:
        raise UserError(f"param {name}: {error}") from None
    whole = isinstance(space, tuple | list) and all(type(end) is int for end in space)
    held = found.middle if default is None else number(default)
    if not math.isfinite(held):
        raise UserError(f"the default of param {name} must be a number, not {short(default)}.")
    return Param(found, held, whole)
