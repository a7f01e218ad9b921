"""The field of a race: who was given to race, which of them are tuned, and how that is told."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from thalweg.arguments import short
from thalweg.errors import UserError
from thalweg.foreign import is_optimizer
from thalweg.racing import wording
from thalweg.racing.entrants import (
    Entrant,
    Entry,
    baseline_entrant,
    baseline_with_space,
    entrant,
    is_file,
    tuned,
    twin,
)
from thalweg.racing.record import Settings
from thalweg.racing.repeat import quoted
from thalweg.recipe import Recipe
from thalweg.recipes import RECIPES
from thalweg.recipes import no_decay as without_decay
from thalweg.rule_names import is_rule
from thalweg.rules.rule import Rule
from thalweg.rules.tuning import documented, is_rate
from thalweg.schedules import Schedule


def entries(argument: str, given: Sequence[Entry | Path] | str) -> list[Entry]:
    """The entrants that an argument gives, the names in one text with commas told apart."""
    if isinstance(given, str):
        return [one.strip() for one in given.split(",") if one.strip()]
    if not isinstance(given, Sequence):
        raise UserError(
            f"{argument} must be a list of entrants, or names with commas, not {short(given)}."
        )
    for one in given:
        known = isinstance(one, str | Path | Recipe | Rule | Entrant)
        if not known and not is_rule(one) and not is_optimizer(one):
            raise UserError(
                f"{argument}: an entrant is a name, the path of a recipe file, a recipe, a rule, an"
                f" Entrant or the class of an optimizer, not {short(one)}."
            )
    return [str(one) if isinstance(one, Path) else one for one in given]


def entered(
    given: Sequence[Entry],
    tune: Sequence[Entry],
    baseline: str | Recipe | None,
    pretrainings: Sequence[str],
    no_decay: bool = False,
) -> list[Entrant]:
    """All that race, with a twin for each of these pre-trainings, the baseline last.

    no_decay: whether they are without decay on biases and norms; the baseline stays as it is.

    Before it comes the same tuned, where nobody else is that and its rules document a space.
    UserError for one to be tuned that does not race, and as `require_different`.
    """
    field = [entrant(one) for one in given]
    for asked in tune:
        for i in places(asked, given):
            field[i] = tuned(field[i])
    field = apart(field, given)
    if no_decay:
        field = [replace(one, recipe=without_decay(one.recipe)) for one in field]
    plain = [one for one in field if not one.recipe.pretrain]
    field += [twin(one, kind) for kind in pretrainings for one in plain]
    if baseline is not None:
        now = baseline_entrant(baseline)
        if documented(now.recipe.tunables) and baseline_tuned(field, now) is None:
            field.append(baseline_with_space(now))
        field.append(now)
    require_different(field)
    return field


def on_record(settings: Settings) -> list[Entrant]:
    """All that race, from the settings of a race that has begun."""
    return [
        Entrant(
            name,
            Recipe.from_toml(settings.recipes[name]),
            settings.spaces.get(name, {}),
            cooled=name in settings.cooled,
        )
        for name in settings.entrants
    ]


def places(asked: Entry, given: Sequence[Entry]) -> list[int]:
    """Where an entrant stands that is to be tuned; UserError for one that does not race."""
    found = [i for i, one in enumerate(given) if asked_for(one, asked)]
    if not found:
        names = ", ".join(map(quoted, given))
        raise UserError(f"tune names {quoted(asked)}, which does not race; entrants are {names}.")
    return found


def asked_for(given: Entry, asked: Entry) -> bool:
    """Whether `asked` means this entrant: the same file, name or object, or an object's name."""
    if isinstance(given, str) and isinstance(asked, str):
        return Path(given) == Path(asked)
    return given == asked or getattr(given, "name", None) == asked


def apart(field: Sequence[Entrant], given: Sequence[Entry]) -> list[Entrant]:
    """The entrants, those from files with their path where another has the name of their recipe.

    So the winner of an earlier race may meet the optimizer that it is called after.
    """
    names = [one.name for one in field]
    return [
        replace(one, name=f"{one.name} ({origin})")
        if is_file(origin) and names.count(one.name) > 1
        else one
        for one, origin in zip(field, given, strict=True)
    ]


def baseline_tuned(field: Sequence[Entrant], baseline: Entrant) -> str | None:
    """The first that is tuned and like the baseline in all else."""
    its = baseline.recipe
    for one in field:
        if one.space and kept(one.recipe, one.space) == kept(its, one.space):
            return one.name
    return None


def kept(recipe: Recipe, tuned: Container[str]) -> tuple[object, ...]:
    """All of a recipe but its tuned settings."""
    fixed = {name: value for name, value in settings_of(recipe).items() if name not in tuned}
    kinds = [type(rule) for rules in recipe.chains for rule in rules]
    return kinds, [route.to for route in recipe.routes], fixed, recipe.pretrain


def beside_baseline(settings: Settings) -> Iterator[str]:
    """A line that says who is the baseline tuned."""
    if settings.baseline_tuned is not None:
        yield (
            f"{settings.baseline_tuned} races beside {settings.baseline}: it is the same but tuned,"
            " and shows what tuning alone gains."
        )


def require_different(field: Sequence[Entrant]) -> None:
    """UserError for fewer than two entrants, and for two of one name."""
    names = [one.name for one in field]
    if len(names) < 2:
        raise UserError(f"a race needs two entrants or more, not {', '.join(names) or 'none'}.")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two entrants are called {name}; give one of them another name.")


def alike(field: Sequence[Entrant]) -> Iterator[str]:
    """A line for any two that are the same under two names, which no race can tell apart."""
    for one, other in combinations(field, 2):
        if runs_of(one) == runs_of(other):
            yield (
                f"{one.name} and {other.name} are one recipe with the same settings and space: no"
                " number of seeds tells them apart."
            )


def runs_of(one: Entrant) -> tuple[object, ...]:
    """All that its runs depend on."""
    recipe = one.recipe
    own = dict(recipe.params)
    return recipe.rules, recipe.routes, recipe.pretrain, own, one.space, one.comes_under_cooling


def by_name(one: Entrant) -> bool:
    """Whether it is what a name alone stands for, as `thalweg entrants` lists it."""
    recipe = one.recipe
    known = [make() for make in RECIPES.values()]
    listed = any((recipe.rules, recipe.routes) == (other.rules, other.routes) for other in known)
    own = {name: space for name, space in one.space.items() if name not in recipe.params}
    return listed and own == documented(recipe.tunables) and one.cooled


def told(one: Entrant, cooling: str) -> str:
    """What is tuned of an entrant, what it keeps and whether its lr is cooled, in a sentence.

    A weight decay of 0 does nothing, and is not told.
    """
    values = settings_of(one.recipe)
    if values.get("weight_decay") == 0:
        del values["weight_decay"]
    fixed = [f"{name} {shown(value)}" for name, value in values.items() if name not in one.space]
    if not one.space:
        as_it_stands = "races as it stands, untuned and without the common cooling"
        return f"{one.name} {as_it_stands}: {', '.join(fixed)}."
    spaces = [f"{name} ({space.low:g} to {space.high:g})" for name, space in one.space.items()]
    verbs = [f"keeps {wording.listed(fixed)}"] if fixed else []
    scheduled = any(isinstance(lr, Schedule) for lr in one.recipe.rates.values())
    if one.comes_under_cooling:
        instead = " in place of its own schedule" if scheduled else ""
        verbs.append(f"races {wording.COOLINGS[cooling]}{instead}")
    elif any(map(is_rate, one.space)):
        own = "with the shape of its own schedule" if scheduled else "without the common cooling"
        verbs.append(f"races {own}")
    return f"{one.name} is tuned in {wording.listed(spaces)}; it {', and '.join(verbs)}."


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Every setting of a recipe by name, the parts of a pair as `betas[0]` and `betas[1]`."""
    values = {name: each.value for name, each in recipe.tunables.items()}
    return values | {n: value for n, value in recipe.settings.items() if type(value) is int}


def shown(value: Any) -> str:
    if isinstance(value, Schedule):
        return f"{value.kind} from {value(0):.4g}"
    return f"{value:.4g}" if type(value) in (int, float) else str(value)
