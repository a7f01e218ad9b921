"""The search spaces that a user gives for all entrants of a race."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from thalweg.arguments import require_kind, word
from thalweg.errors import UserError, suggest
from thalweg.racing.entrants import Entrant
from thalweg.recipe_file import tables_of
from thalweg.recipes import RECIPES
from thalweg.whole_file import read_text

Spaces: TypeAlias = Mapping[str, Any]
"""A space for each name, as `Entrant` takes it."""


def spaces_of(given: Spaces | str | Path) -> Spaces:
    """The given spaces, or those in a TOML file, with lines such as `lr = [1e-4, 0.1]`.

    The lines may stand under `[space]`, as in a recipe file. UserError for a wrong space.
    """
    if isinstance(given, Mapping):
        return given
    require_kind("space", given, (str, Path), "a dict, such as {'lr': (1e-4, 0.1)}, or a file")
    try:
        held = tables_of(read_text("the space file", Path(given)))
    except UserError as error:
        raise UserError(f"{given}: {error}") from None
    found: Spaces = held.get("space", held)
    require_kind(f"{given}: space", found, Mapping, "a table, such as lr = [1e-4, 0.1]")
    return found


def of_optimizers(name: str) -> bool:
    """Whether a setting of that name belongs to optimizers, and not to a program."""
    return any(name in make().tunables for make in RECIPES.values())


def narrowed(field: Sequence[Entrant], spaces: Spaces) -> list[Entrant]:
    """The entrants, tuned in these spaces if they have such settings.

    UserError for a name that no entrant has.
    """
    tuned = [one for one in field if one.space]
    known = dict.fromkeys(name for one in tuned for name in one.recipe.tunables)
    for name in spaces:
        if name not in known:
            raise UserError(
                f"space: no entrant that is tuned has {word(name)}; {suggest(word(name), known)}"
            )
    return [replace(one, space={**one.space, **own(one, spaces)}) for one in field]


def own(one: Entrant, spaces: Spaces) -> Spaces:
    """The spaces of a tuned entrant."""
    known = one.recipe.tunables if one.space else {}
    return {name: space for name, space in spaces.items() if name in known}
