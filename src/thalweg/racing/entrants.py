"""Who races: recipe families with the search space of each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from thalweg import schedules
from thalweg.errors import UserError
from thalweg.racing.draws import quantiles, value_at
from thalweg.racing.record import Configuration
from thalweg.recipes import Recipe, recipe_of
from thalweg.rules.space import Space
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

Entry: TypeAlias = "str | Recipe | Entrant"
"""What an entrant may be given as: a name, the path of a recipe file, a recipe, an entrant."""


@dataclass(frozen=True)
class Entrant:
    """A recipe family: a recipe, and where its settings are looked for.

    name: what it is called in tables. recipe: at its defaults. space: the tuned settings by name,
    the parts of a pair as `betas[0]` and `betas[1]`; empty for one that races as it stands.
    cooled: whether its `lr` comes under the common cooling of the race.

    Raises UserError for a space that the recipe cannot be tuned in.
    """

    name: str
    recipe: Recipe
    space: Mapping[str, Space]
    cooled: bool = True

    def __post_init__(self) -> None:
        # The record of a race keeps recipes as text, so one that text cannot tell is told now.
        Recipe.from_toml(self.recipe.to_toml())
        for name, space in self.space.items():
            if whole(name) not in self.recipe.settings:
                known = ", ".join(self.recipe.settings)
                raise UserError(
                    f"entrant {self.name} has no setting {name} to tune; it has {known}."
                )
            if not space.low < space.high or (space.scale == "log" and space.low <= 0):
                raise UserError(
                    f"entrant {self.name} needs a space for {name} from a low to a higher value,"
                    f" above 0 on the log scale, not [{space.low:g}, {space.high:g}]."
                )
            if space.scale == "log_one_minus" and space.high >= 1:
                raise UserError(f"entrant {self.name} needs a space for {name} that ends below 1.")
            for end in (space.low, space.high):
                self.configured({name: end})

    def comes_under(self, cooling: str) -> bool:
        """Whether its `lr` follows the cooling of the race; to tune that needs a space."""
        return self.cooled and (cooling != "tune" or bool(self.space))

    def configured(self, values: Mapping[str, float]) -> Recipe:
        """The recipe with these values of its tuned settings."""
        settings = self.recipe.settings
        for name, value in values.items():
            settings[whole(name)] = with_part(settings[whole(name)], name, value)
        return self.recipe.replace(**{name: settings[name] for name in map(whole, values)})


def whole(name: str) -> str:
    """The setting that a tuned name belongs to: `betas` for `betas[0]`."""
    return name.partition("[")[0]


def with_part(setting: object, name: str, value: float) -> object:
    """The setting with `value` in the place that `name` names."""
    place = re.search(r"\[(\d)\]$", name)
    if place is None or not isinstance(setting, tuple):
        return value
    parts = list(setting)
    parts[int(place[1])] = value
    return tuple(parts)


def documented_space(recipe: Recipe) -> dict[str, Space]:
    """The search space that the recipe's rules document, by the name of the tuned setting."""
    spaces: dict[str, Space] = {}
    for rule in recipe.rules:
        for name, hyper in rule.hypers.items():
            if isinstance(hyper.space, Space):
                spaces[name] = hyper.space
            elif hyper.space is not None:
                parts = enumerate(hyper.space)
                spaces |= {f"{name}[{i}]": space for i, space in parts if space is not None}
    return spaces


def entrant(given: Entry) -> Entrant:
    """The entrant that a name, the path of a recipe file or a recipe stands for.

    It is tuned in the search space that its rules document. Raises UserError for an unknown name
    or a file that holds no recipe.
    """
    if isinstance(given, Entrant):
        return given
    recipe = recipe_of(given)
    return Entrant(titled(recipe.name, recipe), recipe, documented_space(recipe))


def twin(one: Entrant, pretrain: str) -> Entrant:
    """The same entrant, pre-trained, which is drawn at the same configurations."""
    recipe = replace(one.recipe, pretrain=pretrain)
    return replace(one, name=titled(one.name, recipe), recipe=recipe)


def titled(name: str, recipe: Recipe) -> str:
    return f"{name} ({recipe.pretrain})" if recipe.pretrain else name


def baseline_entrant(given: str | Recipe) -> Entrant:
    """What a person uses now: one configuration, its `lr` and its schedules exactly as they are."""
    recipe = recipe_of(given)
    return Entrant(f"{titled(recipe.name, recipe)} (baseline)", recipe, {}, cooled=False)


def with_cooling(recipe: Recipe, cooling: str, steps: int) -> Recipe:
    """The recipe with its `lr` under one of `COOLINGS` over `steps` steps.

    "linear" falls to a hundredth, "cosine" to zero, "none" leaves the number; a schedule that the
    recipe brings is replaced.
    """
    lr = recipe.settings["lr"]
    start = lr.base if isinstance(lr, Schedule) else lr
    cooled = {
        "none": start,
        "linear": schedules.linear(start, steps=steps),
        "cosine": schedules.cosine(start, steps=steps),
    }
    return recipe.replace(lr=cooled[cooling])


def configurations(
    entrants: Sequence[Entrant],
    trials: int,
    cooling: str,
    steps: Mapping[str | None, int],
    seed: int,
) -> dict[tuple[str, int], tuple[Configuration, Recipe]]:
    """What each entrant tries, by its name and the trial's index from 0.

    steps: that a cooling takes, by the pre-training: those of its last stage. All draw from the
    same points. Where the cooling is "tune", it is drawn too, as a third of the unit interval each
    for `COOLINGS`. An entrant without a space has the one configuration 0, in which nothing is
    drawn, its cooling neither.
    """
    points = quantiles(trials, seed, (name for one in entrants for name in one.space))
    drawn = {}
    for one in entrants:
        for index, point in enumerate(points if one.space else points[:1]):
            values = {name: value_at(space, point[name]) for name, space in one.space.items()}
            recipe = one.configured(values)
            if one.comes_under(cooling):
                choice = COOLINGS[int(3 * point["cooling"])] if cooling == "tune" else cooling
                recipe = with_cooling(recipe, choice, steps[recipe.pretrain])
            configuration = Configuration(one.name, index, values, recipe.to_toml())
            drawn[one.name, index] = configuration, recipe
    return drawn
