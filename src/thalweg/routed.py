"""Recipes that treat some parameters of a model differently from the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from thalweg.arguments import require_between, require_kind, short
from thalweg.errors import UserError
from thalweg.recipe import Recipe
from thalweg.routes import EVERYTHING, FACTOR, Route, To, both, in_words
from thalweg.rules.rule import Rule, settings_of

NO_DECAY = Route(("bias", "norm"), settings={"weight_decay": 0.0}, name="no decay")

Given = Recipe | Rule | Mapping[str, Any]


def route(
    *routes: tuple[To, Given], default: Recipe | Rule | None = None, name: str = ""
) -> Recipe:
    """A recipe that sends some parameters to chains of their own, or changes settings for them.

        route(("hidden matrix", muon(lr=0.02)), default=adamw(lr=3e-4))
        route((("bias", "norm"), {"weight_decay": 0.0}), ("body.*", {"lr_factor": 0.1}),
              default=adamw())

    routes: pairs of words that choose parameters (see `thalweg.routes`), and of a recipe or of
        changed settings. `lr_factor` multiplies the `lr`. A parameter goes to the first recipe
        whose words fit it. All changed settings whose words fit apply to it, one after the other.
    default: the recipe of all other parameters.

    Raises UserError for a recipe that cannot train, and for malformed pairs.
    """
    branches: list[Route] = []
    changes: list[Route] = []
    names: list[str] = []
    led: set[str] = set()
    for one in (*routes, *([] if default is None else [(EVERYTHING, default)])):
        if not isinstance(one, tuple) or len(one) != 2:
            raise UserError(
                'a route is words and where they lead, such as ("embedding", adamw()), not'
                f" {short(one)}."
            )
        to, given = one
        words = in_words(to)
        if isinstance(given, Mapping):
            changes.append(Route(words, settings=given))
            continue
        if not isinstance(given, Recipe | Rule):
            raise UserError(f"a route leads to a recipe, or changes settings, not {short(given)}.")
        own = given if isinstance(given, Recipe) else Recipe((given,), type(given).__name__)
        if led.issuperset(words):
            raise UserError(f"no parameter is left for {own.name}: routes before take all of {to}.")
        led.update(words)
        names.append(own.name)
        if own.rules and own.branches:
            raise UserError(
                f"{own.name} has rules in front of its routes, which would be shared by some of"
                " the parameters: put them in front of all, as in chain(clip_norm(1), route(...))."
            )
        branches += within(words, own.branches or [Route((EVERYTHING,), own.rules)])
        changes += within(words, [one for one in own.routes if not one.rules])
    named = name or " and ".join(dict.fromkeys(names)) or "recipe"
    branches = without_repeats(branches)
    if len(branches) == 1 and branches[0].to == (EVERYTHING,):
        return Recipe(branches[0].rules, named, routes=tuple(changes))
    return Recipe((), named, routes=(*branches, *changes))


def within(words: tuple[str, ...], routes: Sequence[Route]) -> list[Route]:
    """The routes, limited to the parameters that these words fit too."""
    if words == (EVERYTHING,):
        return list(routes)
    return [
        replace(one, to=tuple(both(w, own) for w in words for own in one.to), name="")
        for one in routes
    ]


def without_repeats(routes: Sequence[Route]) -> list[Route]:
    """The routes without words whose parameters an earlier route takes all."""
    taken: set[str] = set()
    found = []
    for one in routes:
        left = tuple(word for word in dict.fromkeys(one.to) if word not in taken)
        taken.update(left)
        if left:
            found.append(one if left == one.to else replace(one, to=left, name=""))
    return found


def no_decay(recipe: Recipe) -> Recipe:
    """The recipe without weight decay on biases and on the parameters of normalization layers.

    A recipe without weight decay does not change.
    """
    require_kind("recipe", recipe, Recipe, "a Recipe, such as thalweg.adamw()")
    decays = any("weight_decay" in settings_of(rules) for rules in recipe.chains)
    if not decays or NO_DECAY in recipe.routes:
        return recipe
    return replace(recipe, routes=(*recipe.routes, NO_DECAY))


def layerwise(recipe: Recipe, layers: Sequence[To], factor: float) -> Recipe:
    """The recipe with lower rates for earlier layers, as for fine-tuning a trained model.

        layerwise(adamw(), ["embed.*", *[f"blocks.{i}.*" for i in range(12)], "head.*"], 0.8)

    layers: the words of each layer, from the first to the last. The last layer, and all parameters
    in no layer, have the rate of the recipe. Each other layer has the rate of the next layer times
    `factor`, which is above 0 and below 1.
    """
    require_kind("recipe", recipe, Recipe, "a Recipe, such as thalweg.adamw()")
    require_kind("layers", layers, (list, tuple), 'a list of words, such as ["body.*", "head.*"]')
    require_between("factor", factor, 0, 1)
    changes = [
        Route(words, settings={FACTOR: factor**below})
        for below, words in enumerate(reversed(layers))
    ]
    return replace(recipe, routes=(*recipe.routes, *reversed(changes)))
