"""Recipes of a loop with several optimizers: one for all, or one for each role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from thalweg.errors import UserError
from thalweg.recipe import Recipe
from thalweg.routes import Route


def for_roles(recipe: Recipe, roles: Sequence[str]) -> Recipe:
    """The recipe with a route for each role. Each role then has its own settings: `generator.lr`.

    A recipe with a route for each role is not changed. UserError for one with other routes.
    """
    if not roles or {route.name for route in recipe.routes} >= set(roles):
        return recipe
    if recipe.routes:
        raise UserError(
            f"recipe {recipe.name} has routes, so it cannot be one for each role: leave the roles"
            " out of the loop, and they share it."
        )
    routes = tuple(Route((f"{role}.*",), recipe.rules, name=role) for role in roles)
    return replace(recipe, rules=(), routes=routes)


def of_role(recipe: Recipe, role: str) -> Recipe:
    """The recipe of one role; the whole recipe if no route has the name of the role."""
    for route in recipe.routes:
        if role and route.name == role and route.rules:
            return Recipe((*recipe.rules, *route.rules), recipe.name, params=recipe.params)
    return recipe
