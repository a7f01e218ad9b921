"""The entrants of a race: recipes, each with the search space of its settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import torch

from thalweg import schedules
from thalweg.arguments import require_flag, require_kind, require_text
from thalweg.errors import UserError
from thalweg.recipe import Recipe, Setting
from thalweg.recipes import file_with_space, recipe_of
from thalweg.rule_names import in_file, is_in_file
from thalweg.rules.rule import Rule
from thalweg.rules.space import Space
from thalweg.rules.tuning import documented, is_rate, space_of
from thalweg.schedules import Schedule

DEFAULT_ENTRANTS = (
    "sgd",
    "momentum",
    "nesterov",
    "delta-bar-delta",
    "adagrad",
    "rmsprop",
    "adam",
    "adamw",
    "nadam",
    "lion",
)

COOLINGS = ("none", "linear", "cosine")

Entry: TypeAlias = "str | Recipe | Rule | type[Rule] | type[torch.optim.Optimizer] | Entrant"
"""The forms in which a person may give an entrant: a name, the path of a recipe file,
`rules.py:Mine`, `torch.optim:RAdam`, a recipe, a rule, the class of an optimizer, or an `Entrant`.
"""


@dataclass(frozen=True)
class Entrant:
    """An entrant of a race: a recipe, and the search space of its settings.

        Entrant("mine", thalweg.momentum(lr=0.01), {"lr": (1e-4, 1), "momentum": (0.5, 0.99)})

    name: its name in tables.
    recipe: its recipe. Settings that are not tuned keep their values and schedules.
    space: the tuned settings by name; the parts of a pair are `betas[0]` and `betas[1]`. Each is a
        `Space`, or a pair of ends. A pair is on the scale that `thalweg entrants` lists for the
        setting; on the log scale if none is listed and both ends are above 0. An entrant without a
        space races as it is.
    cooled: whether a tuned `lr` follows the common cooling of the race, and not a schedule of the
        recipe. If one `lr` is tuned, those of other routes follow the cooling too.

    Raises UserError for a space in which the recipe cannot be tuned, and for wrong arguments.
    """

    name: str
    recipe: Recipe
    space: Mapping[str, Space] = field(default_factory=dict)
    cooled: bool = True

    def __post_init__(self) -> None:
        require_text("the name of an entrant", self.name)
        of = f"entrant {self.name}:"
        require_kind(f"{of} recipe", self.recipe, Recipe, "a Recipe, such as thalweg.adam(lr=0.01)")
        require_kind(f"{of} space", self.space, Mapping, "a dict, such as {'lr': (1e-4, 0.1)}")
        require_flag(f"{of} cooled", self.cooled)
        # The ledger keeps recipes as text, so a recipe that cannot be written is refused now.
        Recipe.from_toml(self.recipe.to_toml())
        try:
            known = self.recipe.tunables
            space = {name: space_of(known, name, given) for name, given in self.space.items()}
        except UserError as error:
            raise UserError(f"{of} {error}") from None
        object.__setattr__(self, "space", space)

    @property
    def comes_under_cooling(self) -> bool:
        """Whether the rates of the entrant follow the cooling of the race."""
        return self.cooled and any(map(is_rate, self.space))

    def configured(self, values: Mapping[str, float]) -> Recipe:
        """The recipe with these values of the tuned settings. A schedule of `lr` is scaled."""
        settings = self.recipe.settings
        for name, value in values.items():
            settings[whole(name)] = with_part(settings[whole(name)], name, value)
        return self.recipe.replace(**{name: settings[name] for name in map(whole, values)})


def whole(name: str) -> str:
    """The setting to which a tuned name belongs, such as `betas` for `betas[0]`."""
    return re.sub(r"\[\d\]$", "", name)


def with_part(setting: Any, name: str, value: float) -> object:
    """The setting with `value` as the part that `name` denotes."""
    place = re.search(r"\[(\d)\]$", name)
    if place is None:
        return setting.scaled(value) if isinstance(setting, Schedule) else value
    parts = list(setting)
    parts[int(place[1])] = value
    return tuple(parts)


def entrant(given: Entry, space: Mapping[str, Any] | None = None, **settings: Any) -> Entrant:
    """The entrant that a name, a file, a recipe, a rule or the class of an optimizer stands for.

        entrant(torch.optim.RAdam, space={"lr": (1e-4, 1e-1)}, weight_decay=0.01)

    A name and a class of rules are tuned in the search space that the rules document; the class of
    another optimizer in one that its signature suggests: `lr` over two decades to each side of its
    default, `weight_decay`, `momentum` and `betas` as in our own rules. A recipe, a rule or a file
    is tuned in its own space, if it has one. space: the tuned settings in place of these, as an
    `Entrant` takes them. settings: settings of the recipe with other values.

    Raises UserError for an unknown name, for a file that holds no recipe, and for a space or a
    setting that does not fit.
    """
    one = as_entrant(given)
    recipe = one.recipe.replace(**settings)
    return replace(one, recipe=recipe, space=one.space if space is None else space)


def as_entrant(given: Entry) -> Entrant:
    """The entrant that something stands for as it is."""
    if isinstance(given, Entrant):
        return given
    if is_in_file(given):
        return as_entrant(in_file(given))
    if is_file(given):
        recipe, space = file_with_space(Path(given))
        return Entrant(titled(recipe.name, recipe), recipe, space)
    recipe = recipe_of(given)
    one = Entrant(titled(recipe.name, recipe), recipe)
    return one if isinstance(given, Recipe | Rule) else tuned(one)


def is_file(given: object) -> TypeGuard[str]:
    return is_in_file(given) or (isinstance(given, str) and given.endswith(".toml"))


def tuned(one: Entrant) -> Entrant:
    """The same entrant, tuned in its documented space and, where it has one, in its own."""
    space = {**documented(one.recipe.tunables), **one.space}
    if not space:
        raise UserError(
            f"{one.name} cannot be tuned, because its rules document no search space: give an"
            " Entrant with a space of its own."
        )
    return replace(one, space=space)


def twin(one: Entrant, pretrain: str) -> Entrant:
    """The same entrant with a pre-training. It tries the same configurations."""
    recipe = replace(one.recipe, pretrain=pretrain)
    return replace(one, name=titled(one.name, recipe), recipe=recipe)


def titled(name: str, recipe: Recipe) -> str:
    return f"{name} ({recipe.pretrain})" if recipe.pretrain else name


def baseline_entrant(given: str | Recipe) -> Entrant:
    """The baseline as an entrant: one configuration, with its `lr` and schedules as they are."""
    recipe = recipe_of(given)
    return Entrant(f"{titled(recipe.name, recipe)} (baseline)", recipe)


def baseline_with_space(baseline: Entrant) -> Entrant:
    """The baseline, tuned in its documented space."""
    recipe = baseline.recipe
    return tuned(Entrant(f"{titled(recipe.name, recipe)} (tuned)", recipe))


def with_cooling(recipe: Recipe, cooling: str, steps: int) -> Recipe:
    """The recipe with the `lr` of every chain under one of `COOLINGS` over `steps` steps.

    "linear" falls to a hundredth, "cosine" falls to zero, "none" keeps the number. A schedule in
    the recipe is replaced.
    """

    def cooled(lr: Setting) -> Setting:
        start = lr.base if isinstance(lr, Schedule) else lr
        if cooling == "none":
            return start
        falling = schedules.linear if cooling == "linear" else schedules.cosine
        return falling(start, steps=steps)

    return recipe.with_rates(cooled)


def cooling_of(recipe: str) -> str:
    """The name in `COOLINGS` of the cooling of a recipe, which is given as TOML."""
    lr = next(iter(Recipe.from_toml(recipe).rates.values()))
    return lr.kind if isinstance(lr, Schedule) else "none"
